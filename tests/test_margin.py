"""Margin, tiers, liquidation and bankruptcy prices against figures of venues and papers (sources beside them)."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.config.tiers import TierTable, read_tier_csv, stack
from stresslev.engine.liquidation import restore_fraction, step_fraction
from stresslev.engine.margin import bankruptcy_price, liquidation_price, maintenance_margin, tier_margin
from stresslev.errors import InputError

WALLET = 1_535_443.01
#: Binance FAQ "How to calculate liquidation price of USD-M futures contracts": q, entry, mark, mmr, cum, isolated and cross liquidation price.
ETH = (3683.979, 1456.84, 1335.18, 0.10, 135_365.0, 1114.78, 1153.256464239)
BTC = (109.488, 32481.98, 31967.27, 0.025, 16_300.0, 18778.73, 26316.893264519)


def _table_with(mmr: float, cum: float) -> TierTable:
    """A continuous two-tier schedule whose second tier has this rate and this maintenance amount."""
    floor = 2 * cum / mmr
    return TierTable(
        source="Binance FAQ, tier of the example",
        floors_usd=(0.0, floor),
        maintenance_rates=(mmr - cum / floor, mmr),
        max_leverage=(1.0, 1.0),
        maintenance_amounts_usd=(0.0, cum),
    )


def _arrays(table: TierTable):
    floor, step = stack([[table]])
    return floor[0, 0], step[0, 0]


@pytest.mark.parametrize("position", [ETH, BTC], ids=["ETH", "BTC"])
def test_binance_isolated_liquidation_price(position):
    q, entry, mark, mmr, cum, isolated, _ = position
    table = _table_with(mmr, cum)
    equity = WALLET + q * (mark - entry)
    price = float(liquidation_price(q, equity, mark, 0.0, *_arrays(table)))
    assert round(price, 2) == isolated


@pytest.mark.parametrize(("position", "other"), [(ETH, BTC), (BTC, ETH)], ids=["ETH", "BTC"])
def test_binance_cross_liquidation_price(position, other):
    """To all nine decimals given."""
    q, entry, mark, mmr, cum, _, cross = position
    q2, entry2, mark2, mmr2, cum2, *_ = other
    equity = WALLET + q * (mark - entry) + q2 * (mark2 - entry2)
    other_margin = float(tier_margin(jnp.asarray(q2 * mark2), *_arrays(_table_with(mmr2, cum2))))
    assert abs(other_margin - (mmr2 * q2 * mark2 - cum2)) < 1e-6
    price = float(liquidation_price(q, equity, mark, other_margin, *_arrays(_table_with(mmr, cum))))
    assert abs(price - cross) < 1e-9


def test_liquidation_price_moves_into_the_tier_it_falls_in():
    """A long of 100 coins at 100 in the second tier, whose liquidation price lies in the first: the naive formula uses the wrong tier."""
    table = TierTable(source="test", floors_usd=(0, 7000), maintenance_rates=(0.01, 0.2), max_leverage=(1, 1))
    price = float(liquidation_price(100.0, 4000.0, 100.0, 0.0, *_arrays(table)))
    assert price * 100 < 7000
    assert abs((4000 + 100 * (price - 100)) - table.maintenance(100 * price)) < 1e-9


@given(
    st.floats(0.01, 1e4),
    st.booleans(),
    st.floats(1, 1e5),
    st.floats(0.01, 2.0),
    st.lists(st.floats(0.002, 0.3), min_size=1, max_size=5),
    st.floats(0.5, 3),
)
def test_at_the_liquidation_price_equity_is_margin(size, long, mark, equity_share, rates, multiplier):
    q = size if long else -size
    rates = tuple(sorted(rates))
    floors = tuple(k * size * mark / 3 for k in range(len(rates)))
    table = TierTable(source="test", floors_usd=floors, maintenance_rates=rates, max_leverage=(1,) * len(rates))
    equity = equity_share * size * mark
    if equity <= multiplier * table.maintenance(size * mark):
        return
    price = float(liquidation_price(q, equity, mark, 0.0, *_arrays(table), multiplier))
    if np.isnan(price):
        assert long and equity >= size * mark
        return
    assert price < mark if long else price > mark
    assert abs(equity + q * (price - mark) - multiplier * table.maintenance(size * price)) < 1e-8 * size * max(mark, price)


def test_bankruptcy_prices_of_chitra_et_al():
    """Positions (q, collateral, side) at p0 = 1: A(1,2,long) B(1,2/3,long) C(4,8/3,short) D(1,2/19,long) E(1,10/99,short)."""
    q = np.array([1, 1, -4, 1, -1.0])
    collateral = np.array([2, 2 / 3, 8 / 3, 2 / 19, 10 / 99])
    got = np.asarray(bankruptcy_price(q, collateral, 1.0))
    np.testing.assert_allclose(np.maximum(got, 0), [0, 1 / 3, 5 / 3, 17 / 19, 109 / 99], rtol=1e-12)
    table = TierTable(source="Chitra et al., maintenance 0.1", floors_usd=(0,), maintenance_rates=(0.1,), max_leverage=(10,))
    floor, step = _arrays(table)
    marks = [float(liquidation_price(q[i], collateral[i], 1.0, 0.0, floor, step)) for i in range(1, 5)]
    np.testing.assert_allclose(marks, [0.370370, 1.515152, 0.994152, 1.000918], atol=5e-7)


def test_hyperliquid_tiers_are_continuous():
    """Breaks at 20k and 100k, 10x/5x/3x, maintenance half of initial: deductions 0, 1,000, 7,666.67; MM(100k) = 9,000; MM(150k) = 17,333.33."""
    table = TierTable(
        source="Hyperliquid documentation, Margin tiers",
        floors_usd=(0, 20e3, 100e3),
        maintenance_rates=(0.05, 0.1, 1 / 6),
        max_leverage=(10, 5, 3),
    )
    np.testing.assert_allclose(table.deductions(), [0, 1000, 7666.666667], rtol=1e-8)
    for notional, due in ((100e3, 9000.0), (100e3 - 1e-9, 9000.0), (150e3, 17333.333333)):
        np.testing.assert_allclose(table.maintenance(notional), due, rtol=1e-9)
        np.testing.assert_allclose(tier_margin(jnp.asarray(notional), *_arrays(table)), due, rtol=1e-9)


def test_shipped_tiers_are_continuous_and_as_published():
    """The maintenance amounts typed into the shipped system are checked on loading; a changed one is refused."""
    from stresslev.config.load import load_system

    system = load_system("three_perp_venues")
    assert sum(t.maintenance_amounts_usd is not None for t in system.tiers.values()) == 4
    table = system.tiers["binance_BTC"]
    changed = table.model_dump() | {"maintenance_amounts_usd": (*table.maintenance_amounts_usd[:-1], 1.0)}
    with pytest.raises(ValueError, match="leaves a step in the requirement"):
        TierTable.model_validate(changed)


def test_every_tier_of_a_full_dump_is_continuous(real_data):
    """All 7,276 tiers of 907 contracts through our loader (where the data is at hand)."""
    if real_data is None:
        return
    tables = read_tier_csv(real_data / "binance_leverage_tiers" / "tiers_full_2026-09-29.csv.gz")
    assert (len(tables), sum(len(t.floors_usd) for t in tables.values())) == (907, 7276)
    for table in tables.values():
        floors = np.asarray(table.floors_usd[1:])
        if len(floors):
            below = table.maintenance(np.nextafter(floors, 0))
            np.testing.assert_allclose(table.maintenance(floors), below, rtol=1e-9)
    shipped = read_tier_csv(real_data / "binance_leverage_tiers" / "tiers_full_2025-09-29.csv.gz", ["BTC/USDT:USDT"])
    from stresslev.config.load import load_system

    assert shipped["BTC/USDT:USDT"].maintenance_rates == load_system("three_perp_venues").tiers["binance_BTC"].maintenance_rates


DUMP = """symbol,tier,min_notional,max_notional,mmr,max_leverage,cum
X,1,0,1000,0.01,50,0
X,2,1000,5000,0.02,20,10
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("X,2,1000", "X,2,1100", "close the gap"),
        ("0.02,20,10", "0.02,20,11", "leaves a step"),
        ("0.02,20,10", "0.005,20,-5", "falls from"),
        ("0.02,20", "abc,20", "'abc'"),
        ("mmr,", "rate,", "column mmr"),
    ],
)
def test_a_broken_tier_file_is_refused_by_row_and_column(tmp_path, old, new, message):
    path = tmp_path / "tiers.csv.gz"
    path.write_bytes(gzip.compress(DUMP.encode()))
    assert read_tier_csv(path)["X"].deductions().tolist() == [0, 10]
    path.write_bytes(gzip.compress(DUMP.replace(old, new).encode()))
    with pytest.raises(InputError, match=message):
        read_tier_csv(path)


def test_restore_is_the_drift_form_for_one_position():
    """Base closed = shortage / (P (MR - fee)) with MR the target margin ratio (Drift, calculate_base_asset_amount_to_cover_margin_shortage)."""
    notional, equity, rate, fee, target = 1000.0, 40.0, 0.05, 0.01, 1.25
    shortage = target * rate * notional - equity
    share = restore_fraction(
        jnp.array([equity]),
        (jnp.array([notional]),),
        jnp.zeros((1, 1, 1)),
        jnp.full((1, 1, 1), rate),
        (jnp.ones(1),),
        jnp.array([fee]),
        jnp.array([target]),
    )
    np.testing.assert_allclose(share, shortage / (notional * (target * rate - fee)), rtol=1e-12)


@given(st.integers(0, 10_000))
def test_restoring_lands_on_the_target_across_tiers(seed):
    rng = np.random.default_rng(seed)
    assets, tiers = 3, 5
    floor = np.concatenate([np.zeros((assets, 1)), np.sort(rng.uniform(1e3, 1e6, (assets, tiers - 1)), axis=1)], axis=1)[None]
    step = np.diff(np.sort(rng.uniform(0.002, 0.3, (1, assets, tiers)), axis=2), axis=2, prepend=0)
    notionals = tuple(jnp.asarray(rng.pareto(1.0, 1) * 1e5) for _ in range(assets))
    multiplier = tuple(jnp.asarray(rng.uniform(0.5, 2, 1)) for _ in range(assets))
    required = maintenance_margin(notionals, jnp.asarray(floor), jnp.asarray(step), multiplier)
    equity, fee, target = required * rng.uniform(0.2, 1), jnp.array([rng.uniform(0, 0.001)]), jnp.array([rng.uniform(1.01, 3)])
    share = jax.jit(restore_fraction)(equity, notionals, jnp.asarray(floor), jnp.asarray(step), multiplier, fee, target)
    gross = sum(notionals)
    left = equity - fee * share * gross
    after = maintenance_margin(tuple((1 - share) * n for n in notionals), jnp.asarray(floor), jnp.asarray(step), multiplier)
    assert 0 <= float(share[0]) <= 1
    if float((equity - fee * gross)[0]) < 0:
        assert float(share[0]) == 1
    else:
        np.testing.assert_allclose(left, target * after, atol=1e-9 * float(gross[0]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_position_brought_down_to_a_floor_lies_in_the_tier_below(dtype):
    """Rounding leaves some of them a hair above the floor: the next reduction must go to the next floor, not close that hair."""
    floor = jnp.array([0.0, 7.3, 101.7], dtype)[None, None, None, :]
    start = jnp.asarray(np.random.default_rng(0).uniform(102, 5e4, (1, 4000)), dtype)
    once = (1 - step_fraction((start,), floor)) * start
    assert (once > floor[..., 2][0]).any(), "no position is left above the floor: nothing was tried"
    twice = (1 - step_fraction((once,), floor)) * once
    np.testing.assert_allclose(np.asarray(twice), 7.3, rtol=1e-4 if dtype == jnp.float32 else 1e-12)
