"""Every mechanism from a file: they run together, act, and balance; and what is wrong in a file is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from stresslev import cli
from stresslev.config.load import load_plan, load_system
from stresslev.errors import InputError
from stresslev.run import run_plan

SYSTEM = Path(__file__).with_name("plumbing.toml")
SCENARIO = """
kind = "scenario"
name = "storm"
title = "Storm"
origin = "hypothetical"
severity = "very severe"
duration_minutes = 120
outages = [{ pool = "coin", start_minute = 12, end_minute = 16 }]

[paths]
BTC = { minutes = [0, 5, 40, 60, 90, 120], prices = [60000, 60000, 38000, 34000, 45000, 44000] }
ETH = { minutes = [0, 5, 40, 60, 90, 120], prices = [3000, 3000, 1700, 1500, 2100, 2000] }
SOL = { minutes = [0, 5, 40, 60, 90, 120], prices = [150, 150, 80, 70, 105, 100] }

[depth.default]
minutes = [0, 20, 120]
factors = [1.0, 0.4, 0.8]

[premiums.cross.BTC]
minutes = [0, 60]
values = [0.0, -0.004]

[dislocations.margin.SOL]
minutes = [0, 30, 33, 120]
values = [0.0, -0.3, 0.0, 0.0]
stepped = true
"""


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storm")
    (folder / "storm.toml").write_text(SCENARIO, encoding="utf-8")
    plan = load_plan(folder / "storm.toml", system=SYSTEM, precision=64, overrides=["run.attribution=true"])
    return run_plan(plan).datasets["storm"]


@pytest.mark.slow
def test_all_mechanisms_together_balance(storm):
    interest = float((storm.open_interest_usd + storm.supplied_usd).isel(time=0).sum())
    for name in ("cash_residual_usd", "total_cash_residual_usd", "total_quantity_residual_usd", "total_coins_residual_usd"):
        assert float(abs(storm[name]).max()) < 1e-12 * interest, name
    for name in ("quantity_residual", "coins_residual"):
        assert float((abs(storm[name]) * storm.price_usd).max()) < 1e-12 * interest, name


@pytest.mark.slow
def test_every_loss_is_borne_by_somebody(storm):
    new_debt = storm.bad_debt_usd.diff("time", label="upper").reindex(time=storm.time).fillna(0)
    borne = storm.adl_usd + storm.fund_draw_usd + storm.socialised_usd + new_debt
    scale = float(storm.deficit_usd.sum())
    np.testing.assert_allclose(borne.values, storm.deficit_usd.values, atol=1e-12 * scale)
    assert scale > 0 and float(storm.shared_in_usd.sum("pool").max()) < 1e-9 * scale


@pytest.mark.slow
def test_every_mechanism_acts(storm):
    """A mechanism that never acts in the storm would make the balance above an empty claim."""
    total = storm.sum("time")
    by_pool = {str(p): total.sel(pool=p) for p in storm.pool.values}
    assert all(float(by_pool[p].newly_liquidated) > 0 for p in by_pool)
    assert float(by_pool["cross"].adl_usd) > 0 or float(by_pool["pm"].adl_usd) > 0
    assert float(total.socialised_usd.sum()) > 0 and float(abs(total.shared_in_usd).max()) > 0
    assert float(by_pool["pm"].waiting) > 0 and float(by_pool["bank"].waiting) > 0
    assert float(abs(storm.margin_calls_usd).max()) > 0
    assert float(abs(by_pool["cross"].funding_paid_usd)) > 0 and float(by_pool["pm"].funding_paid_usd) > 0
    assert float(storm.funding_rate.min()) < 0
    assert float(abs(storm.venue_price_usd.sel(pool="coin", asset="BTC") / storm.price_usd.sel(asset="BTC") - 1).max()) > 0.001
    assert float(abs(storm.mark_usd.sel(pool="bank", asset="ETH") / storm.venue_price_usd.sel(pool="bank", asset="ETH") - 1).max()) > 0.001
    borrowed = storm.borrowed_usd.sel(pool="bank", asset="USDC")
    assert float(borrowed[4] / borrowed[0] - 1) > 1e-7  # interest before the fall begins
    assert float(total.credit_loss_usd.sum()) > 0 and float(storm.redemption.sel(asset="lpETH").min()) < 1
    assert float(storm.debtrank.max()) > 0


@pytest.mark.slow
def test_an_outage_stops_liquidations_and_freezes_marks(storm):
    down = storm.sel(pool="coin", time=slice(13, 16))
    assert float((down.closed_long_usd + down.closed_short_usd).sum()) == 0
    assert float(abs(down.mark_usd.diff("time")).max()) == 0 and float(abs(storm.mark_usd.sel(pool="coin").diff("time")).max()) > 0


@pytest.mark.slow
def test_attribution_starts_from_the_shock_and_ends_at_the_whole(storm):
    assert list(storm.opened.values) == ["shock", "price", "owners", "receipts", "credit"]
    opened = storm.deficit_by_channels_usd.sum("pool").values
    # the book of the attribution is the run's own here, so the last step is the run
    np.testing.assert_allclose(opened[-1], float(storm.deficit_usd.sum()), rtol=1e-12)
    assert opened[1] > opened[0] > 0  # forced selling adds to what the shock does alone
    without = storm.deficit_without_channel_usd.sum("pool")
    assert float(without.sel(channel="credit")) == pytest.approx(opened[-2], rel=1e-12)  # the last channel opened is the one shut alone


def _cli(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code


BAD = [
    # a receipt token of a receipt token of itself: nothing in the circle has a price
    (
        'receipt = { pool = "bank", underlying = "ETH", run_haircut = 0.1 }',
        'receipt = { pool = "bank", underlying = "loop" }\n[assets.loop]\nreceipt = { pool = "bank", underlying = "lpETH" }',
        ["receipt", "circle", "lpETH", "loop"],
    ),
    ("depth_usd = 4e6", "depth_usd = -4e6", ["assets.BTC.depth_usd", "-4000000.0", "above 0"]),
    ("floors_usd = [0, 50e3, 250e3, 1e6]", "floors_usd = [0, 50e3, 50e3, 1e6]", ["tiers.steep", "tier 3 begins at 50000"]),
    ("liquidation_threshold = 0.83, bonus = 0.05", "liquidation_threshold = 0.97, bonus = 0.05", ["reserves.ETH", "leaves bad debt"]),
    ("ltv = 0.8, liq", "ltv = 0.9, liq", ["reserves.ETH", "ltv 0.9 is above"]),
    ('waterfall = ["insurance_fund", "adl"]', 'waterfall = ["insurance_fund", "adl", "adl"]', ["pools.pm", "twice"]),
    ('adl = "pro_rata_pnl"', 'adl = "random"', ["pools.pm.adl", "'random'", "'pnl_leverage'"]),
    ('fund_group = "venues"\nadl', "adl", ["pools.cross", "fund_group"]),
    ('debtor = "coin"', 'debtor = "coyn"', ["credit", "'coyn'", "not in [pools]"]),
    ("weights = [1, 1, 1, 1, 0.24, 0.32]", "weights = [1]", ["portfolio_margin", "one entry per move"]),
    ('kind = "lending"\ndescription', 'kind = "bank"\ndescription', ["pools.margin", "'bank'", "lending"]),
    ("collateral.BTC = { haircut = 0.05", "collateral.BTX = { haircut = 0.05", ["pools.cross.collateral", "'BTX'"]),
    ("inverse = [", 'waterfall_order = "x"\ninverse = [', ["pools.coin.waterfall_order", "not a key"]),
    ("peg_usd = 1.0\n", "", ["paths.USDC", "missing"]),
]


@pytest.mark.parametrize(("old", "new", "parts"), BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, capfd, old, new, parts):
    text = SYSTEM.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "bad.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    (tmp_path / "storm.toml").write_text(SCENARIO, encoding="utf-8")
    out = tmp_path / "out"
    assert _cli("run", tmp_path / "storm.toml", "--system", tmp_path / "bad.toml", "--out", out) == 2
    said = capfd.readouterr().err
    assert all(p in said for p in parts), said
    assert not out.exists() and {p.name for p in tmp_path.iterdir()} == {"bad.toml", "storm.toml"}


def test_a_gap_in_a_tier_file_is_named(tmp_path, capfd):
    tiers = [
        {"tier": 1, "currency": "USDT", "minNotional": 0, "maxNotional": 5e4, "maintenanceMarginRate": 0.005, "maxLeverage": 100},
        {"tier": 2, "currency": "USDT", "minNotional": 6e4, "maxNotional": None, "maintenanceMarginRate": 0.01, "maxLeverage": 50},
    ]
    (tmp_path / "tiers.json").write_text(json.dumps({"X/USDT:USDT": tiers}), encoding="utf-8")
    text = SYSTEM.read_text(encoding="utf-8")
    start, end = text.index("[tiers.steep]"), text.index("[pools.cross]")
    (tmp_path / "bad.toml").write_text(text[:start] + '[tiers.steep]\nfile = "tiers.json"\nsymbol = "X/USDT:USDT"\n' + text[end:], encoding="utf-8")
    (tmp_path / "storm.toml").write_text(SCENARIO, encoding="utf-8")
    assert _cli("run", tmp_path / "storm.toml", "--system", tmp_path / "bad.toml", "--out", tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert "tiers.json" in said and "X/USDT:USDT tier 2" in said and "60000" in said and "50000" in said
    assert not (tmp_path / "out").exists()


BOOK = "account,pool,wallet_balance_usd,asset,quantity,entry_price_usd,margin_mode,collateral,owner\n"


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("a,cross,10,XYZ,1,1,,,", ["row 1, column asset", "'XYZ'"]),
        ("a,cross,10,BTC,nan,1,,,", ["row 1, column quantity", "not finite"]),
        ("a,cross,nan,BTC,1,1,,,", ["row 1, column wallet_balance_usd", "not finite"]),
        ("a,bank,0,SOL,1,,,,", ["row 1, column asset", "no reserve of pool bank"]),
        ("a,coin,0,SOL,1,9,,,", ["row 1, column asset", "no contract of pool coin"]),
        ("a,cross,0,SOL,,,,5,", ["row 1, column collateral", "takes no such coin"]),
        ("a,cross,10,BTC,1,1,sideways,,", ["row 1, column margin_mode", "'sideways'"]),
        ("a,cross,10,BTC,1,,,,", ["row 1, column entry_price_usd", "is empty"]),
    ],
)
def test_a_book_with_something_unknown_is_refused_by_row_and_column(tmp_path, capfd, row, parts):
    (tmp_path / "book.csv").write_text(BOOK + row + "\n", encoding="utf-8")
    (tmp_path / "storm.toml").write_text(SCENARIO, encoding="utf-8")
    assert _cli("book", "check", tmp_path / "book.csv", "--system", SYSTEM, "--prices-of", tmp_path / "storm.toml") == 2
    said = capfd.readouterr().err
    assert all(p in said for p in parts), said


def test_isolated_positions_coins_and_loans_are_read_as_they_stand(tmp_path):
    from stresslev.book.files import read
    from stresslev.book.requirement import standing

    rows = [
        "a,cross,1000,BTC,0.5,50000,isolated,,me",
        "a,cross,300,ETH,-2,3100,isolated,,me",
        "b,cross,500,BTC,0.1,60000,,0.02,",
        "c,coin,0,BTC,6000,50000,,0.05,me",
        "d,bank,0,ETH,10,,,,",
        "d,bank,0,USDC,-15000,,,,",
    ]
    (tmp_path / "book.csv").write_text(BOOK + "\n".join(rows) + "\n", encoding="utf-8")
    system = load_system(SYSTEM)
    price = np.array([60000.0, 3000, 150, 7.5, 300, 1, 3000])
    book = read(tmp_path / "book.csv", system, price)
    assert len(book) == 5 and sorted(book.account) == ["a", "a", "b", "c", "d"]
    at = {(str(n), round(float(e), 6)) for n, e in zip(book.account, book.equity, strict=True)}
    coin = 60000 * (0.05 + 6000 / 50000) - 6000  # coins posted and the coin PnL of 6,000 USD of face, in USD
    assert at == {("a", 6000.0), ("a", 500.0), ("b", 1700.0), ("c", round(coin, 6)), ("d", 15000.0)}
    assert coin == pytest.approx(60000 * (0.05 + 6000 * (1 / 50000 - 1 / 60000)))
    have, required = standing(book, system)
    loan = list(book.account).index("d")
    assert have[loan] == pytest.approx(0.83 * 30000) and required[loan] == pytest.approx(15000)
    posted = list(book.account).index("b")
    assert have[posted] == pytest.approx(1700 - 0.05 * 0.02 * 60000)
    assert len(set(book.owner[book.owner >= 0])) == 1 and (book.owner >= 0).sum() == 3


def test_unknown_pool_of_an_outage_is_named(tmp_path):
    (tmp_path / "s.toml").write_text(SCENARIO.replace('pool = "coin"', 'pool = "coins"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"outages\.0\.pool = coins.*did you mean 'coin'"):
        load_plan(tmp_path / "s.toml", system=SYSTEM)
