"""The report on losses: who bore them and which way they came; layers and channels sum to the whole."""

import json
import re

import numpy as np
import pytest

from stresslev import metrics, results
from stresslev.report import captions, loss_captions, loss_charts, plots
from stresslev.report.inputs import read
from stresslev.report.losses import attribution, deficits, layers
from tests.test_report import BAD, dataset, page, save, told
from tests.test_report_contagion import BY_CHANNEL, CHANNELS, configure, linked, tied

#: What results of earlier versions do not hold.
NEW = {
    *("mark_usd", "venue_price_usd", "funding_rate", "funding_paid_usd", "supplied_usd", "borrowed_usd", "borrow_rate", "deficit_usd", "adl_usd"),
    *("socialised_usd", "deleveraged", "margin_calls_usd", "shared_in_usd", "net_worth_usd", "credit_loss_usd", "redemption", "liquidation_orders"),
    *("waiting", "coins_residual", "total_coins_residual_usd", "debtrank", "paid_share"),
}


def test_layers_sum_to_the_deficits_pool_by_pool(tmp_path):
    scenario = tied(tmp_path).scenarios[0]
    parts = layers(scenario)
    assert np.allclose(sum(parts.values()), deficits(scenario))
    assert parts["other_funds"].tolist() == [0, 0, 0, 0, 30]
    assert parts["own_fund"].tolist() == [300, 200, 300, 100, 20]


def test_bars_of_who_bore_losses_stack_to_the_deficits(tmp_path):
    scenario = tied(tmp_path).scenarios[0]
    chart = loss_charts.borne(scenario)
    factor = {" k": 1e3, "": 1.0}[plots.money_unit(3060).suffix]
    names = chart.figure["data"][0]["y"]
    stacked = {n: sum(trace["x"][i] for trace in chart.figure["data"]) * factor for i, n in enumerate(names)}
    assert names[:3] == ["all pools", "mid", "chain"]
    assert stacked == pytest.approx({"all pools": 3060, "mid": 1500, "chain": 1000, "large": 300, "lend_b": 160, "lend_a": 100})


def test_caption_says_who_bore_what(tmp_path):
    text = loss_charts.borne(tied(tmp_path).scenarios[0]).caption
    assert text == (
        "Accounts that are closed leave losses of 3,060 USD beyond their margin: the pools' own insurance funds pay 920 USD (30.1%), other pools' "
        "funds pay 30 USD (0.980%), winners forgo 800 USD (26.1%) in auto-deleveraging, 70 USD (2.29%) are spread over winners or depositors and "
        "1,240 USD (40.5%) are left as bad debt. Most arises in mid: 1,500 USD."
    )


def test_channels_sum_to_the_deficits_of_the_run(tmp_path):
    run = tied(tmp_path)
    found = attribution(run, run.scenarios[0])
    assert found.channels == ("shock", *CHANNELS)
    assert np.allclose(found.added.sum(axis=0), BY_CHANNEL[-1])
    assert np.allclose(found.added.sum(axis=0), deficits(run.scenarios[0]))
    assert found.added.sum(axis=1).tolist() == [850, 1860, -150, 160, 340]


def test_attribution_bars_start_where_the_last_one_ended(tmp_path):
    run = tied(tmp_path)
    [bars] = loss_charts.channels(run, run.scenarios[0], attribution(run, run.scenarios[0])).figure["data"]
    lengths, bases = np.array(bars["x"]), np.array(bars["base"])
    ends = (bases + lengths)[:-1]
    assert bases[0] == 0
    assert np.allclose(bases[1:-1], ends[:-1])
    assert lengths[-1] == pytest.approx(ends[-1]) == pytest.approx(lengths[:-1].sum()) == pytest.approx(3.06)
    assert bases[-1] == 0


def test_attribution_is_told_in_words_and_numbers(tmp_path):
    run = tied(tmp_path)
    text = loss_captions.channels(attribution(run, run.scenarios[0]))
    assert text == (
        "The shock alone, with every channel of contagion shut, makes 850 USD of losses, 27.8% of the losses with everything open; then forced "
        "selling that moves prices adds 1,860 USD, owners who answer margin calls from their accounts in other pools spare 150 USD, "
        "receipt tokens add 160 USD and credit between pools adds 340 USD."
    )
    html = page(save(tmp_path / "page", {"tied": linked()}, configure=configure))
    row = re.search(r'<th scope="row">shared owners</th>(.*?)</tr>', html)[1]
    assert re.findall(r">([^<]+)</td>", row) == ["−150 USD", "2,170 USD", "−60 USD", "813 USD"]
    assert text in html


def test_channels_the_system_does_not_have_are_left_out(tmp_path):
    by = BY_CHANNEL.copy()
    by[2] = by[1]  # no owners
    by[4] = by[3]  # no credit

    def fewer(system):
        configure(system)
        system["credit"], system["owners"] = [], None

    ds = linked(deficit_by_channels_usd=(("opened", "pool"), by * 1.0), bad_debt_by_channels_usd=(("opened", "pool"), by * 0.4))
    run = read(save(tmp_path, {"tied": ds}, configure=fewer))
    found = attribution(run, run.scenarios[0])
    assert found.channels == ("shock", "price", "receipts")
    assert np.allclose(found.added.sum(axis=0), by[-1])
    assert found.without.shape == (2, 5)


def test_a_channel_without_effect_is_said_to_have_none(tmp_path):
    by = np.repeat(BY_CHANNEL[:1], 5, axis=0)
    by[1:] = BY_CHANNEL[1]
    run = tied(tmp_path, deficit_by_channels_usd=(("opened", "pool"), by * 1.0))
    text = loss_captions.channels(attribution(run, run.scenarios[0]))
    assert text.endswith("other pools, receipt tokens and credit between pools make no noticeable difference.")


def test_a_run_without_attribution_renders(tmp_path):
    drop = [f"{what}_{how}_usd" for what in ("deficit", "bad_debt") for how in ("by_channels", "without_channel")]
    folder = save(tmp_path, {"tied": linked().drop_vars([*drop, "opened", "channel"])}, configure=configure)
    text = page(folder)
    assert "Losses and who bore them" in text
    assert "Where the losses came from" not in text
    assert attribution(read(folder), read(folder).scenarios[0]) is None


def test_a_run_in_which_nothing_is_lost_says_so(tmp_path):
    none = np.zeros((5, 5))
    quiet = dict.fromkeys(("deficit_by_channels_usd", "bad_debt_by_channels_usd"), (("opened", "pool"), none))
    quiet |= dict.fromkeys(("deficit_without_channel_usd", "bad_debt_without_channel_usd"), (("channel", "pool"), none[:4]))
    zero = np.zeros((41, 5))
    quiet |= dict.fromkeys(("deficit_usd", "fund_draw_usd", "adl_usd", "socialised_usd", "shared_in_usd", "bad_debt_usd"), zero)
    text = page(save(tmp_path, {"tied": linked(**quiet)}, configure=configure))
    assert "there is nothing to bear" in text
    assert "there is nothing to attribute" in text


def test_verdict_tells_of_layers_and_channels(tmp_path):
    said = " ".join(told(tied(tmp_path)))
    assert "The scenario leaves 1,240 USD of bad debt, 5.06% of the open interest and loans at its start" in said
    assert "makes 3 pools insolvent (mid, chain and lend_b)" in said
    assert "Losses beyond margin come to 3,060 USD, 12.5% of the open interest and loans; the pools' own insurance funds pay 920 USD" in said
    assert "The shock alone, with every channel of contagion shut" in said


def test_without_bad_debt_everybody_who_pays_is_named(tmp_path):
    bearing = np.zeros((41, 2))
    bearing[20, 0] = 10
    ds = dataset(closed=30.0, draw=40.0, variables={"adl_usd": bearing, "socialised_usd": bearing})
    ds["deficit_usd"] = ds.deficit_usd + 2 * bearing
    text = " ".join(told(read(save(tmp_path, {"a": ds}))))
    assert "no bad debt: margin, the insurance funds, deleveraged winners and those over whom losses are spread pay every loss." in text


def test_results_of_earlier_versions_render(tmp_path):
    folder = save(tmp_path, {"bad": dataset(**BAD)}, {"bad_debt_usd": 10})
    _, attributes = results.read_netcdf(folder / "result.nc")
    results.write_netcdf({"bad": dataset(**BAD).drop_vars(NEW)}, attributes, folder / "result.nc")
    summary = json.loads((folder / "summary.json").read_text())
    entry = summary["scenarios"]["bad"]
    for values in (entry["metrics"], *entry["pools"].values()):
        for name in [n for n in values if n in ("deficit_over_open_interest", "waiting_share", "largest_basis", "margin_calls_usd")]:
            del values[name]
    results.write_json(summary, folder / "summary.json")
    text = page(folder)
    scenario = read(folder).scenarios[0]
    # drawn from the fund, and the rest is bad debt
    assert deficits(scenario).tolist() == [150.0, 0.0]
    assert np.allclose(sum(layers(scenario).values()), deficits(scenario))
    assert "the pools&#x27; own insurance funds pay 100 USD (66.7%) and 50 USD (33.3%) are left as bad debt" in text
    assert "Contagion from pool to pool" not in text


def test_liquidations_of_lenders_are_told_apart(tmp_path):
    scenario = tied(tmp_path).scenarios[0]
    text = captions.liquidations(scenario, np.ones(4), 10)
    assert text.startswith("Longs and collateral worth 1,680 USD and shorts and debt worth 480 USD are closed")


# Metrics.


def test_metrics_of_the_plumbing():
    ds = linked()
    values, pools = metrics.evaluate(ds), metrics.by_pool(ds)
    size = 23_000 + 1_530
    assert values["deficit_over_open_interest"] == pytest.approx(3060 / size)
    assert values["adl_over_open_interest"] == pytest.approx(800 / size)
    assert values["socialised_over_open_interest"] == pytest.approx(70 / size)
    assert values["credit_loss_usd"] == 280
    assert values["margin_calls_usd"] == 70
    assert pools["large"]["margin_calls_usd"] == 50
    assert values["largest_basis"] == pytest.approx(0.1)
    assert pools["chain"]["largest_basis"] == pytest.approx(0.1)
    assert pools["large"]["largest_basis"] == 0
    assert values["redemption_shortfall"] == pytest.approx(0.18)
    assert values["funding_paid_usd"] == 10
    assert values["waiting_share"] == pytest.approx(25 / 80)
    assert values["insolvent_pools"] == 3


def test_deleveraged_share_is_of_positions():
    deleveraged = np.zeros((41, 5, 3))
    deleveraged[20, 0, 0] = 4.0
    deleveraged[25, 1, 1] = 2.0
    ds = linked(deleveraged=deleveraged)
    # 5 long and 4 short of each of three assets in each of five pools, at 100
    assert metrics.evaluate(ds)["deleveraged_notional_share"] == pytest.approx(600 / (5 * 3 * 900))
    assert metrics.by_pool(ds)["large"]["deleveraged_notional_share"] == pytest.approx(400 / 2700)


def test_of_a_lender_the_debt_repaid_counts_and_not_the_collateral_too():
    ds = linked()
    ds["customer_long"][:, 3:] = 0.0
    ds["customer_short"][:, 3:] = 0.0
    assert metrics.by_pool(ds)["lend_a"]["liquidated_notional_share"] == pytest.approx(200 / 1400)
    assert metrics.by_pool(ds)["lend_a"]["peak_liquidation_rate"] == pytest.approx(160 / 1400)
    assert metrics.by_pool(ds)["large"]["liquidated_notional_share"] == pytest.approx(700 / 2700)


def test_residuals_include_coins():
    coins = np.zeros((41, 5, 3))
    coins[3, 4, 1] = -2.0
    ds = linked(coins_residual=coins)
    assert metrics.evaluate(ds)["conservation_residual"] == pytest.approx(200 / 24_530)
    total = np.zeros((5, 3))
    total[4, 1] = -30.0
    assert metrics.evaluate(linked(total_coins_residual_usd=total))["total_residual"] == pytest.approx(30 / 24_530)


def test_an_attribution_on_a_smaller_book_says_so(tmp_path):
    ds = linked()
    same = attribution(*_with_accounts(ds, int(ds.accounts.sum()), tmp_path / "same"))
    assert same.accounts is None and "smaller draw" not in loss_captions.channels(same)
    fewer = attribution(*_with_accounts(ds, 7, tmp_path / "fewer"))
    text = loss_captions.channels(fewer)
    assert "Found on a smaller draw of the book, 7 accounts" in text


def _with_accounts(ds, accounts, folder):
    folder.mkdir()
    ds = ds.copy()
    ds["deficit_by_channels_usd"].attrs["accounts"] = accounts
    run = read(save(folder, {"tied": ds}, configure=configure))
    return run, run.scenarios[0]
