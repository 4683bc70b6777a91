"""Funding against Binance's recorded rates, Deribit's formula, and a ledger of payments."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine import funding
from stresslev.engine.funding import FundingRules

INTEREST, CLAMP = 0.0001, 0.0005  # Binance BTCUSDT, per eight hours
ACCRUE, INITIAL = jax.jit(funding.accrue), jax.jit(funding.initial)


def _rules(pools=1, assets=1, dtype=float, **other) -> FundingRules:
    """Binance's form, settled every `interval` steps, with what is named changed."""
    fields = {"interest": INTEREST, "clamp": CLAMP, "cap": np.inf, "floor": -np.inf, "skew_slope": 0.0, "interval": 8, "rising_weights": False}
    fields |= {"continuous": False} | other
    fields.setdefault("period", fields["interval"])
    kinds = {"interval": jnp.int32, "period": jnp.int32, "rising_weights": bool, "continuous": bool}
    by_pool = {"rising_weights", "continuous"}
    return FundingRules(
        **{
            name: jnp.asarray(np.broadcast_to(value, (pools,) if name in by_pool else (pools, assets)), kinds.get(name, dtype))
            for name, value in fields.items()
        }
    )


@jax.jit
def _scan(rules, state, now):
    def step(state, now):
        after, rate = funding.accrue(rules, state, *now)
        return after, (after, rate)

    return jax.lax.scan(step, state, now)


def _run(rules, premium, price=100.0, index=100.0, skew=0.0, outage=None, remaining=None):
    """(T, V, A) rates paid and indices along a (T, V, A) scripted premium."""
    premium = jnp.asarray(premium, rules.interest.dtype)
    full = [jnp.asarray(np.broadcast_to(x, premium.shape), premium.dtype) for x in (price, index)]
    outage = jnp.zeros(premium.shape[:2], bool) if outage is None else jnp.asarray(outage)
    now = (*full, premium, jnp.asarray(np.broadcast_to(skew, premium.shape), premium.dtype), outage)
    _, (states, rates) = _scan(rules, INITIAL(rules, remaining), now)
    return np.asarray(rates), np.asarray(states.index)


def _one(path):
    return np.asarray(path, float)[:, None, None]


def _recorded(folder):
    """Binance's BTCUSDT funding since 2022: unix seconds and rates, every eight hours."""
    with open(folder / "funding_btc" / "btcusdt_funding_8h_2022_2026.csv", encoding="utf-8") as file:
        rows = [(int(row["ts"]), float(row["fundingRate"])) for row in csv.DictReader(file)]
    return np.asarray([ts for ts, _ in rows]), np.asarray([rate for _, rate in rows])


def _premium_behind(rate):
    """A premium that Binance's formula turns into this rate."""
    return rate + np.where(rate > INTEREST, CLAMP, np.where(rate < INTEREST, -CLAMP, 0))


def test_without_a_premium_the_rate_is_the_baseline_that_is_most_common_on_binance(real_data):
    rates, _ = _run(_rules(interval=480), np.zeros((1440, 1, 1)))
    settled = rates[rates != 0]
    assert np.array_equal(settled, [0.0001] * 3)
    assert np.array_equal(np.flatnonzero(rates), [479, 959, 1439])
    if real_data is None:
        return
    values, counts = np.unique(_recorded(real_data)[1], return_counts=True)
    assert values[np.argmax(counts)] == settled[0]
    assert counts.max() > 0.3 * counts.sum()


def test_binances_recorded_rates_come_out_of_the_premiums_behind_them(real_data):
    """4,604 settlements with the crash of FTX (-0.119%) among them; the premium comes through the pool's price and swings within each interval."""
    recorded = np.asarray([0.0001, -0.00119172, 0.00088148, 0.0, 0.0003]) if real_data is None else _recorded(real_data)[1]
    swing = np.asarray([3e-4, -5e-4, 2e-4, 0.0])
    premium = (_premium_behind(recorded)[:, None] + swing).reshape(-1)
    price = 30_000 * (1 + premium)
    rates, index = _run(_rules(interval=4), np.zeros((premium.size, 1, 1)), price=_one(price), index=30_000.0)
    np.testing.assert_allclose(rates[3::4, 0, 0], recorded, rtol=0, atol=1e-15)
    assert not rates.reshape(-1, 4)[:, :3].any()
    np.testing.assert_allclose(index[-1, 0, 0], np.sum(recorded * price[3::4]), rtol=1e-10)


#: 8 to 10 November 2022, the fall of FTX: settlements at 0, 8 and 16 h from 1667865600, and the means of those days in the other collection.
FTX = np.asarray([6.515e-05, -7.88e-06, 9.446e-05, -0.00013884, 7.305e-05, -0.00032976, -0.00119172, -0.00111953, -0.00023833])
FTX_MEANS = {"2022-11-09": -0.00013185, "2022-11-10": -0.00084986}


def _both_collections(folder):
    """Seconds and rates of settlements, and daily means by date."""
    if folder is None:
        return 1667865600 + 28_800 * np.arange(len(FTX)), FTX, FTX_MEANS
    with open(folder / "funding_btc" / "btc_funding_daily_mean_2019_2026.csv", encoding="utf-8") as file:
        return *_recorded(folder), {row["date"]: float(row["funding_mean"]) for row in csv.DictReader(file)}


def test_rates_of_a_day_average_to_the_daily_means_of_another_collection(real_data):
    """Both are Binance's BTC funding, gathered by different people: the day on which a settlement counts is checked too."""
    ts, recorded, daily = _both_collections(real_data)
    rates, _ = _run(_rules(interval=1), _one(_premium_behind(recorded)))
    of_day = {}
    for second, rate in zip(ts, rates[:, 0, 0], strict=True):
        of_day.setdefault(np.datetime64(int(second), "s").astype("datetime64[D]").astype(str), []).append(rate)
    shared = [day for day in of_day if day in daily and len(of_day[day]) == 3]
    assert len(shared) > 1000 or (daily is FTX_MEANS and shared == list(daily))
    wrong = [day for day in shared if abs(np.mean(of_day[day]) - daily[day]) > 1e-15]
    assert not wrong


@pytest.mark.parametrize(
    ("premium", "rate"),
    [(0.0, 0.0001), (0.0006, 0.0001), (-0.0004, 0.0001), (0.0007, 0.0002), (-0.001, -0.0005), (0.05, 0.003), (-0.05, -0.003)],
)
def test_small_premiums_are_pulled_to_the_interest_large_ones_are_capped(premium, rate):
    """Binance: `P + clamp(0.01% - P, ±0.05%)`, here capped at 0.3% either way."""
    rates, _ = _run(_rules(cap=0.003, floor=-0.003), _one([premium] * 8))
    np.testing.assert_allclose(rates[-1, 0, 0], rate, rtol=0, atol=1e-17)


@given(premium=st.floats(-0.1, 0.1), clamp=st.floats(0, 0.01))
def test_without_interest_the_form_is_deribits(premium, clamp):
    """`max(clamp, P) + min(-clamp, P)` per eight hours."""
    rules = _rules(interest=0.0, clamp=clamp)
    rate = float(jax.jit(funding.quoted_rate)(rules, jnp.full((1, 1), premium))[0, 0])
    assert abs(rate - (max(clamp, premium) + min(-clamp, premium))) < 1e-16


def test_continuous_funding_accrues_in_every_step_at_the_premium_of_that_step():
    """Deribit: rate times the fraction of eight hours that has passed. 0.1% over the index, damper 0.05%: 0.05% over 480 minutes."""
    rules = _rules(interest=0.0, continuous=True, interval=480)
    premium = np.zeros(480)
    premium[:240] = 0.001
    rates, index = _run(rules, _one(premium))
    np.testing.assert_allclose(rates[:240], 0.0005 / 480, rtol=1e-12)
    assert not rates[240:].any()
    np.testing.assert_allclose(index[-1, 0, 0], 100 * 0.0005 / 2, rtol=1e-12)


def test_at_a_steady_premium_both_modes_pay_the_same_in_an_interval():
    rules = _rules(2, 1, continuous=[False, True], interval=48)
    _, index = _run(rules, np.full((96, 2, 1), -0.002))
    np.testing.assert_allclose(index[-1, 0], index[-1, 1], rtol=1e-12)
    np.testing.assert_allclose(index[-1], 2 * 100 * -0.0015, rtol=1e-12)


def test_an_eight_hour_rate_settled_hourly_pays_an_eighth():
    """Hyperliquid: the eight-hour rate, an eighth of it paid every hour; the cap is on the quoted rate."""
    rates, _ = _run(_rules(interval=60, period=480, cap=0.008), np.stack([np.full((60, 1), p) for p in (0.0025, 0.9)]).reshape(120, 1, 1))
    np.testing.assert_allclose(rates[[59, 119], 0, 0], [0.002 / 8, 0.001], rtol=1e-12)


def test_rising_weights_count_the_last_premium_of_the_interval_most():
    """Binance's weights 1, 2, ..., n; the plain time average beside it."""
    premium = np.broadcast_to(np.asarray([0.001, 0.002, 0.004, 0.003])[:, None, None], (4, 2, 1))
    rates, _ = _run(_rules(2, 1, interval=4, clamp=0.0, rising_weights=[True, False]), premium)
    np.testing.assert_allclose(rates[-1, :, 0], [(0.001 + 2 * 0.002 + 3 * 0.004 + 4 * 0.003) / 10, 0.0025], rtol=1e-14)


def test_skew_stands_in_for_a_premium_that_is_not_observed():
    long, short = jnp.asarray([[300.0, 100.0, 0.0, 5.0]]), jnp.asarray([[100.0, 300.0, 0.0, 0.0]])
    skew = funding.skew(long, short)
    assert np.array_equal(skew, [[0.5, -0.5, 0.0, 1.0]])
    rates, _ = _run(_rules(1, 4, interest=0.0, clamp=0.0, skew_slope=0.01, interval=1), np.zeros((1, 1, 4)), skew=np.asarray(skew))
    np.testing.assert_allclose(rates[0], [[0.005, -0.005, 0, 0.01]], rtol=1e-15)
    assert np.isfinite(jax.jit(jax.grad(lambda q: funding.skew(q, short).sum()))(long)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_positive_funding_is_paid_by_longs_and_negative_by_shorts(sign):
    rules = _rules(interval=1, interest=0.0, clamp=0.0)
    before = INITIAL(rules)
    one = jnp.ones((1, 1))
    after, rate = ACCRUE(rules, before, 50_000 * one, 50_000 * one, sign * 0.001 * one, 0 * one)
    assert float(rate[0, 0]) == sign * 0.001
    np.testing.assert_allclose(funding.payment(2 * one, before, after), sign * 100.0)
    np.testing.assert_allclose(funding.payment(-2 * one, before, after), -sign * 100.0)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_what_is_paid_is_received_when_makers_balance_the_accounts(seed):
    """Positions change between settlements; accounts that sleep settle up once, at the end, and pay what a step-by-step ledger would have taken."""
    rng = np.random.default_rng(seed)
    steps, pools, assets, accounts = 24, 3, 2, 10
    rules = _rules(pools, assets, interval=rng.choice([1, 5, 8], (pools, assets)), period=8, continuous=[False, True, False], cap=0.004, floor=-0.002)
    outage = rng.random((steps, pools)) < 0.2
    price = 100 * np.exp(rng.normal(0, 0.02, (steps, pools, assets)))
    rates, index = _run(rules, rng.normal(0, 0.003, price.shape), price=price, skew=rng.uniform(-1, 1, price.shape), outage=outage)
    held = rng.normal(0, 10, (steps, accounts, pools, assets))
    held[:, 0] = held[0, 0]
    held[:, -1] = -held[:, :-1].sum(axis=1)
    booked = held * np.diff(np.concatenate([np.zeros((1, pools, assets)), index]), axis=0)[:, None]
    np.testing.assert_allclose(booked.sum(axis=1), 0, atol=1e-11)
    np.testing.assert_allclose(booked.sum(axis=0)[0], held[0, 0] * index[-1], atol=1e-11)
    np.testing.assert_allclose(booked, held * (rates * price)[:, None], atol=1e-10)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_rates_equal_a_literal_loop_through_outages(seed):
    rng = np.random.default_rng(seed)
    steps, pools = 30, 4
    interval, first = rng.integers(1, 7, pools), rng.integers(1, 7, pools)
    rising, outage = rng.random(pools) < 0.5, rng.random((steps, pools)) < 0.3
    premium = rng.normal(0, 0.001, (steps, pools, 1))
    rules = _rules(pools, 1, interval=interval[:, None], period=5, rising_weights=rising, cap=0.001, floor=-0.0008)
    rates, _ = _run(rules, premium, outage=outage, remaining=jnp.asarray(first[:, None], jnp.int32))
    for v in range(pools):
        timetable = {first[v] - 1 + k * interval[v] for k in range(steps)}
        seen, owed = [], False
        for t in range(steps):
            owed = owed or t in timetable
            expected = 0.0
            if not outage[t, v]:
                seen.append(premium[t, v, 0])
                if owed:
                    mean = np.average(seen, weights=np.arange(1, len(seen) + 1) if rising[v] else None)
                    expected = np.clip(mean + np.clip(INTEREST - mean, -CLAMP, CLAMP), -0.0008, 0.001) * interval[v] / 5
                    seen, owed = [], False
            assert abs(rates[t, v, 0] - expected) < 1e-16


def test_float32_keeps_a_fortnight_of_funding():
    rules = _rules(2, 1, np.float32, interval=480, continuous=[False, True])
    _, index = _run(rules, np.full((20_160, 2, 1), 0.001), price=60_000.0, index=60_000.0)
    assert index.dtype == np.float32
    np.testing.assert_allclose(index[-1, :, 0], 42 * 0.0005 * 60_000, rtol=1e-4)


def test_gradient_of_the_payment_is_that_of_the_formula():
    """Outside the clamp the rate moves one for one with the premium; the average spreads it over the interval."""
    rules = _rules(interval=4)
    zero, price = jnp.zeros((4, 1, 1)), jnp.full((4, 1, 1), 100.0)

    def paid(premium):
        return _scan(rules, funding.initial(rules), (price, price, premium, zero, jnp.zeros((4, 1), bool)))[0].index[0, 0]

    gradient = jax.jit(jax.grad(paid))
    np.testing.assert_allclose(gradient(jnp.full((4, 1, 1), 0.002))[:, 0, 0], 25.0)
    np.testing.assert_allclose(gradient(zero)[:, 0, 0], 0.0)
