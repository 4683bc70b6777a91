"""The shipped lending systems in the falls they are meant for, and liquidations, deficits and interest against sums made without the engine."""

from dataclasses import dataclass

import numpy as np
import pytest

from stresslev.book.files import read
from stresslev.config.load import load_plan, load_system
from stresslev.importers import crvusd, crvusd_system
from stresslev.importers.system_file import write
from stresslev.run import run_plan

STAKED_ETHER, DEPEG = "2022-06-13_staked_ether", "2023-03-11_usdc_depeg"
#: Steps long enough for a quick test; both give 288 of them, and all crvUSD books have as many loans, so that one compiled program a system serves.
STEP = {STAKED_ETHER: 30, DEPEG: 18.75}
LOANS = 782
ACCOUNTS = {"aave_v3_ethereum": 512, "crvusd": LOANS}
DAY_92 = 92
JUMP = 11
MINUTES_PER_YEAR = 365 * 24 * 60


def _run(scenario, system, *overrides, accounts=None):
    """Dataset and metrics of one scenario in float64."""
    plan = load_plan(scenario, system=system, overrides=["run.precision=64", *overrides], accounts=accounts)
    [spec] = plan.scenarios
    outcome = run_plan(plan)
    return outcome.datasets[spec.name], outcome.metrics[spec.name]


def _scenario(folder, paths):
    """A scenario of 72 minutes; asset -> (minutes, prices)."""
    lines = ['kind = "scenario"', 'name = "made"', 'title = "made"', 'origin = "hypothetical"', 'severity = "severe"', "duration_minutes = 72"]
    for asset, (minutes, prices) in paths.items():
        lines += [f"[paths.{asset}]", f"minutes = {minutes}", f"prices = {prices}"]
    (folder / "made.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder / "made.toml"


def _jump_to_60(folder):
    """Every collateral falls to 60% of its price from one minute to the next and stays there."""
    return _scenario(folder, {a: ([0, JUMP - 1, JUMP, 72], [1.0, 1.0, 0.6, 0.6]) for a in ("ETH", "BTC", "wstETH", "sfrxETH")})


def _without_impact(system):
    return [f"system.assets.{a}.depth_usd=1e30" for a in load_system(system).assets]


def _loans(folder, states, ltv, price, day=None):
    """System and book of these loans as files; the system's path."""
    crvusd.write_book(crvusd.book(states, ltv, price, day=day), folder / "book.parquet")
    write(crvusd_system.system(states, ltv, price, book_file="book.parquet"), folder / "system.toml")
    return folder / "system.toml"


def _handmade(folder):
    """Loans at loan-to-values from 0.20 to 0.83, none so near the edge of a liquidation at 60% that interest decides."""
    price = {"ETH": 2000.0, "wstETH": 2300.0, "BTC": 40000.0, "sfrxETH": 2100.0, "crvUSD": 1.0}
    number = np.arange(LOANS)
    market = np.array(list(crvusd.COLLATERAL), dtype=object)[number % 4]
    ltv = np.linspace(0.2, 0.83, LOANS)
    debt = 1e4 * (1.0 + number % 7)
    collateral = debt / ltv / np.array([price[crvusd.COLLATERAL[m]] for m in market])
    system = _loans(folder, crvusd.States("made by hand", market, debt, collateral, np.where(number % 3, 10, 4)), ltv, price)
    before, _, after = system.read_text(encoding="utf-8").rpartition("base = 0.0")  # of crvUSD: no loan comes back, which would tell the rate
    system.write_text(f"{before}base = 0.05{after}", encoding="utf-8")
    return system


@dataclass(frozen=True)
class Fall:
    """What a fall of all collateral to 60% does, from the loans alone: n loans, A assets."""

    ltv: np.ndarray  # (n,) at the start
    threshold: np.ndarray  # (n,)
    gone: np.ndarray  # (n,) liquidated by the end
    deficit: float  # USD
    owed: float  # USD at the end
    pledged: np.ndarray  # (A,) USD at the end


def _expected(system, folder, rate):
    """Debts grow at a constant rate; when one is above threshold times value, all of it is repaid for collateral worth (1 + bonus) times as much."""
    spec = load_system(system)
    reserves, names = spec.pools["crvusd"].reserves, list(spec.assets)
    price = np.array([a.price_usd for a in spec.assets.values()])
    quantity = read(folder / "book.parquet", spec, price).quantity
    debt, coins = -quantity[names.index("crvUSD")], np.maximum(quantity, 0)
    threshold, bonus = np.array([[getattr(reserves[n], key) for n in names] for key in ("liquidation_threshold", "bonus")])[:, coins.argmax(axis=0)]
    value = coins.T @ price
    wait = np.log(0.6 * threshold * value / debt) / rate * MINUTES_PER_YEAR  # until the debt has grown into the threshold
    when = np.maximum(JUMP, np.floor(wait) + 1)
    gone = when <= 72
    due = np.where(gone, debt * np.exp(rate * when / MINUTES_PER_YEAR) * (1 + bonus), 0)
    left = np.maximum(1 - due / (0.6 * value), 0)
    return Fall(
        ltv=debt / value,
        threshold=threshold,
        gone=gone,
        deficit=float((np.maximum(due - 0.6 * value, 0) / (1 + bonus)).sum()),
        owed=float(debt[~gone].sum() * np.exp(rate * 72 / MINUTES_PER_YEAR)),
        pledged=0.6 * price * (coins @ left),
    )


def _assert_fall(folder, system):
    expected = _expected(system, folder, load_system(system).pools["crvusd"].reserves["crvUSD"].rate.base)
    ds, metrics = _run(_jump_to_60(folder), system, *_without_impact(system))
    assert int(ds.newly_liquidated.sum()) == expected.gone.sum()
    assert 0 < expected.gone.sum() < int(ds.accounts.sum()) == LOANS
    assert float(ds.deficit_usd.sum()) == pytest.approx(expected.deficit, rel=1e-9)
    assert metrics["bad_debt_usd"] == pytest.approx(expected.deficit, rel=1e-9)
    assert float(ds.borrowed_usd.sel(asset="crvUSD").isel(time=-1).sum()) == pytest.approx(expected.owed, rel=1e-9)
    np.testing.assert_allclose(ds.supplied_usd.isel(time=-1).sum("pool").values, expected.pledged, rtol=1e-9)
    assert max(metrics["conservation_residual"], metrics["total_residual"]) < 1e-9
    return expected


@pytest.mark.parametrize("scenario", [STAKED_ETHER, DEPEG])
@pytest.mark.parametrize("system", ["aave_v3_ethereum", "crvusd"])
def test_the_books_balance_through_the_falls(system, scenario):
    ds, metrics = _run(scenario, system, f"scenario.step_minutes={STEP[scenario]}", accounts=ACCOUNTS[system])
    assert max(metrics["conservation_residual"], metrics["total_residual"]) < 1e-9
    assert np.isfinite(ds.price_usd).all() and (ds.price_usd > 0).all()
    if scenario == STAKED_ETHER:
        assert metrics["liquidated_accounts_share"] > 0.05


def test_real_loans_balance_through_the_falls(real_data, tmp_path):
    if real_data is None:
        return
    states = crvusd.read(next(real_data.rglob("crvusd_user_state_snapshots_*.csv.gz")))
    ltv = crvusd.loan_to_value(states)
    system = _loans(tmp_path, states, ltv, crvusd.asset_prices(), day=DAY_92)
    for scenario in (STAKED_ETHER, DEPEG):
        ds, metrics = _run(scenario, system, f"scenario.step_minutes={STEP[scenario]}")
        assert int(ds.accounts.sum()) == LOANS and metrics["liquidated_accounts_share"] > 0.05
        assert max(metrics["conservation_residual"], metrics["total_residual"]) < 1e-9
    _assert_fall(tmp_path, system)


def test_a_fall_to_60_percent_liquidates_whom_the_loan_to_value_says(tmp_path):
    expected = _assert_fall(tmp_path, _handmade(tmp_path))
    # by hand: at 60% of its price a collateral counts for 0.6 of the threshold
    assert np.array_equal(expected.gone, expected.ltv / 0.6 > expected.threshold)
    assert expected.deficit > 0 and abs(expected.ltv / 0.6 / expected.threshold - 1).min() > 0.05 * 72 / MINUTES_PER_YEAR


def _calm(folder, system):
    names = [a for a, spec in load_system(system).assets.items() if spec.peg_usd is None and spec.follows is None]
    return _scenario(folder, {a: ([0, 72], [1.0, 1.0]) for a in names})


@pytest.mark.parametrize("system", ["aave_v3_ethereum", "crvusd"])
def test_interest_accrues_as_the_curve_says(system, tmp_path):
    ds, _ = _run(_calm(tmp_path, system), system, accounts=ACCOUNTS[system])
    [pool] = load_system(system).pools.values()
    for asset, reserve in pool.reserves.items():
        lent, held = (ds[v].sel(asset=asset).sum("pool").values for v in ("borrowed_usd", "supplied_usd"))
        curve, idle = reserve.rate, held[0] - lent[0]
        owed, owned = [lent[0]], [held[0]]
        for _ in range(72):
            used = owed[-1] / (idle + owed[-1]) if owed[-1] else 0.0
            rate = curve.base + curve.slope1 * min(used / curve.optimal, 1) + curve.slope2 * max(used - curve.optimal, 0) / (1 - curve.optimal)
            interest = owed[-1] * np.expm1(rate / MINUTES_PER_YEAR)
            owed.append(owed[-1] + interest)
            owned.append(owned[-1] + (1 - reserve.reserve_factor) * interest)
        np.testing.assert_allclose(lent, owed, rtol=1e-12)
        np.testing.assert_allclose(held, owned, rtol=1e-12)
        if asset == "crvUSD":  # a rate that does not bend has a closed form
            assert lent[-1] == pytest.approx(lent[0] * np.exp(curve.base * 72 / MINUTES_PER_YEAR), rel=1e-12)
            assert lent[-1] > lent[0]
    assert float(ds.newly_liquidated.sum()) == 0
