"""Lending rates against the integer arithmetic of the Aave and Compound contracts on their recorded parameters, and against closed forms."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine import rates
from stresslev.engine.rates import RateCurve, RateRules

RAY, WAD = 10**27, 10**18
MINUTE = 1 / 525_600  # years
ACCRUE, BORROW_RATE, UTILISATION = jax.jit(rates.accrue), jax.jit(rates.borrow_rate), jax.jit(rates.utilisation)
LEVELS = np.concatenate([np.linspace(0, 1, 101), [1e-6, 0.799999, 0.800001, 0.999999]])

#: Four of Aave's curves at 2023-10-31, for when the recorded parameters are not at hand: usual, flat, without a lower part, steep
AAVE = [(0.8, 0.01, 0.038, 0.8), (0.9, 0.0, 0.04, 0.6), (0.0, 0.03, 0.0, 0.0), (0.25, 0.0, 0.07, 4.02)]
#: Compound III, mainnet USDC at its start: kink, base, slopes per unit of utilisation
COMPOUND = [(0.8, 0.015, 0.035, 0.25)]


def _aave_rows(folder):
    if folder is None:
        return AAVE
    with open(folder / "aave_v3_params" / "reserves_20231031.csv", encoding="utf-8") as file:
        return [tuple(float(row[k]) for k in ("optimal_usage", "base_rate", "slope1", "slope2")) for row in csv.DictReader(file)]


def _compound_rows(folder):
    """Curves of borrowing and of supplying: both have the form."""
    if folder is None:
        return COMPOUND
    with open(folder / "compound_v3_params" / "base.csv", encoding="utf-8") as file:
        quoted = [json.loads(row["rates"]) for row in csv.DictReader(file)]
    names = ("Kink", "Base", "SlopeLow", "SlopeHigh")
    return [tuple(float(rate[side + name]) for name in names) for rate in quoted for side in ("borrow", "supply")]


def _curve(rows, dtype=float) -> RateCurve:
    """Curves as (rows, 1): every row a pool."""
    return RateCurve(*(jnp.asarray(column, dtype)[:, None] for column in np.asarray(rows).T))


def _at(level, curve):
    """(rows,) rates of all curves at one utilisation, or at one each."""
    return np.asarray(BORROW_RATE(jnp.asarray(np.broadcast_to(level, curve.base[:, 0].shape))[:, None], curve))[:, 0]


def _aave_contract(u, optimal, base, slope1, slope2):
    """Aave v3's strategy in its own 27-digit integers."""
    u, optimal, base, slope1, slope2 = (round(x * RAY) for x in (u, optimal, base, slope1, slope2))
    if u > optimal:
        return (base + slope1 + slope2 * ((u - optimal) * RAY // (RAY - optimal)) // RAY) / RAY
    return (base + (slope1 * u // optimal if optimal else 0)) / RAY


def _comet_contract(u, kink, base, low, high):
    """Compound III's rate per year in its own 18-digit integers."""
    u, kink, base, low, high = (round(x * WAD) for x in (u, kink, base, low, high))
    if u <= kink:
        return (base + low * u // WAD) / WAD
    return (base + low * kink // WAD + high * (u - kink) // WAD) / WAD


def _rules(shape=(1, 1), curve=(0.8, 0.0, 0.04, 0.75), reserve_factor=0.1, dtype=float) -> RateRules:
    columns = [jnp.asarray(np.broadcast_to(x, shape), dtype) for x in (*curve, reserve_factor)]
    return RateRules(curve=RateCurve(*columns[:4]), reserve_factor=columns[4])


def test_all_recorded_aave_curves_give_the_contracts_rates(real_data):
    rows = _aave_rows(real_data)
    curve = _curve(rows)
    for level in LEVELS:
        np.testing.assert_allclose(_at(level, curve), [_aave_contract(level, *row) for row in rows], rtol=1e-12, atol=1e-15)


def test_all_recorded_compound_kinks_give_the_contracts_rates(real_data):
    rows = _compound_rows(real_data)
    curve = rates.per_unit_curve(*(jnp.asarray(column)[:, None] for column in np.asarray(rows).T))
    for level in LEVELS:
        np.testing.assert_allclose(_at(level, curve), [_comet_contract(level, *row) for row in rows], rtol=1e-12, atol=1e-15)


def test_recorded_curves_are_continuous_at_the_kink_and_never_fall(real_data):
    rows = np.asarray(_aave_rows(real_data))
    curve = _curve(rows)
    optimal, base, slope1, slope2 = rows.T
    np.testing.assert_allclose(_at(0.0, curve), base, rtol=1e-15)
    np.testing.assert_allclose(_at(optimal, curve), base + np.where(optimal > 0, slope1, 0), rtol=1e-15)
    np.testing.assert_allclose(_at(np.nextafter(optimal, 2), curve), base + slope1, rtol=1e-13)
    np.testing.assert_allclose(_at(1.0, curve), base + slope1 + slope2, rtol=1e-15)
    levels = np.sort(np.concatenate([LEVELS, np.unique(optimal)]))
    assert (np.diff([_at(level, curve) for level in levels], axis=0) >= -1e-16).all()


def test_figures_of_compound_at_its_first_market():
    """cUSDCv3 at its start charged 4.3% at the kink of 80% and 9.3% with everything lent."""
    curve = rates.per_unit_curve(*(jnp.full((1, 1), x) for x in COMPOUND[0]))
    np.testing.assert_allclose([_at(u, curve)[0] for u in (0.0, 0.4, 0.8, 1.0)], [0.015, 0.029, 0.043, 0.093], rtol=1e-14)


@pytest.mark.parametrize("optimal", [0.0, 1.0])
def test_kinks_at_the_ends_give_finite_rates_and_slopes(optimal):
    curve = _curve([(optimal, 0.01, 0.04, 0.6)])
    gradient = jax.jit(jax.grad(lambda u, c: rates.borrow_rate(u, c).sum(), argnums=(0, 1)))
    for level in (0.0, 0.5, 1.0):
        expected = 0.01 + (0.04 * level if optimal == 1 else (0.04 + 0.6 * level) * (level > 0))
        np.testing.assert_allclose(_at(level, curve), expected, rtol=1e-15)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(jnp.full((1, 1), level), curve)))


def test_utilisation_of_empty_full_and_overdrawn_pools():
    cash, borrowed = jnp.asarray([[0.0, 10.0, 30.0, 0.0, -1e-9]]), jnp.asarray([[0.0, 0.0, 10.0, 5.0, 5.0]])
    assert np.array_equal(UTILISATION(cash, borrowed), [[0, 0, 0.25, 1, 1]])
    gradient = jax.jit(jax.grad(lambda b: rates.utilisation(cash, b).sum()))(borrowed)
    assert np.isfinite(gradient).all()


coins = st.one_of(st.just(0.0), st.floats(1e-3, 1e9))


@given(cash=coins, borrowed=coins, supplied=coins, reserve_factor=st.floats(0, 1), years=st.floats(1e-6, 1))
def test_debts_grow_by_exactly_what_depositors_and_reserves_gain(cash, borrowed, supplied, reserve_factor, years):
    rules = _rules(reserve_factor=reserve_factor)
    before = rates.initial(rules)
    after, interest = ACCRUE(rules, before, *(jnp.full((1, 1), x) for x in (cash, borrowed, supplied)), jnp.asarray(years))
    owed, gained = borrowed * float(after.borrow_growth[0, 0]), supplied * float(after.supply_growth[0, 0])
    kept = float(after.reserves[0, 0])
    assert math.isclose(owed, gained + kept, rel_tol=1e-14)
    assert kept >= 0
    assert gained >= 0
    assert math.isclose(float(interest.charged[0, 0]), float(interest.to_suppliers[0, 0]) + float(interest.to_reserves[0, 0]), rel_tol=4e-16)
    np.testing.assert_allclose([interest.charged[0, 0], interest.to_suppliers[0, 0]], [owed, gained], rtol=1e-14)
    if supplied == 0:
        assert kept == owed
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, interest)))


def test_the_books_of_a_lending_pool_close_over_a_year_of_borrowing_and_repaying():
    """cash + debts = deposits + reserves, kept by the pool's own three identities and the indices alone."""
    rng = np.random.default_rng(5)
    shape, steps = (3, 2), 365
    rules = _rules(shape, reserve_factor=rng.uniform(0, 0.5, shape))
    state = rates.initial(rules)
    scaled_debt, scaled_deposit = jnp.full(shape, 60.0), jnp.full(shape, 100.0)
    cash = jnp.full(shape, 40.0)
    for flow in rng.uniform(-0.5, 0.5, (steps, *shape)):
        drawn = jnp.asarray(flow)
        scaled_debt, cash = scaled_debt + drawn / state.borrow_index, cash - drawn
        borrowed, supplied = scaled_debt * state.borrow_index, scaled_deposit * state.supply_index
        state, _ = ACCRUE(rules, state, cash, borrowed, supplied, jnp.asarray(1 / 365))
    borrowed, supplied = scaled_debt * state.borrow_index, scaled_deposit * state.supply_index
    assert (np.asarray(state.reserves) > 0).all()
    np.testing.assert_allclose(cash + borrowed, supplied + state.reserves, rtol=1e-12)


def _year_at_constant_utilisation(rules, utilisation, years, steps):
    """All lent out but for a fixed share: debts and cash grow together, so the rate stands still."""

    def step(state, _):
        borrowed = jnp.full_like(state.reserves, 1000) * state.borrow_index
        supplied = jnp.full_like(state.reserves, 1000 / utilisation) * state.supply_index
        state, interest = rates.accrue(rules, state, borrowed * (1 / utilisation - 1), borrowed, supplied, jnp.asarray(years / steps, borrowed.dtype))
        return state, interest.borrow_rate

    return jax.jit(lambda: jax.lax.scan(step, rates.initial(rules), None, length=steps))()


@pytest.mark.parametrize("steps", [1, 12, 1000])
def test_debt_at_constant_utilisation_compounds_continuously_whatever_the_step(steps):
    """At 90% on an 80% kink: 0.04 + 0.75 / 2 = 41.5% a year. The reserves have their share of the same interest."""
    state, path = _year_at_constant_utilisation(_rules(reserve_factor=0.2), 0.9, 1.0, steps)
    np.testing.assert_allclose(path, 0.415, rtol=1e-12)
    np.testing.assert_allclose(state.borrow_index, math.exp(0.415), rtol=1e-12)
    np.testing.assert_allclose(state.reserves, 0.2 * 1000 * math.expm1(0.415), rtol=1e-12)
    np.testing.assert_allclose(state.supply_index, 1 + 0.8 * 0.9 * math.expm1(0.415), rtol=1e-12)


def test_supply_rate_is_aaves_share_of_the_borrowing_rate():
    """`borrow rate * utilisation * (1 - reserve factor)` when deposits are the cash and the debts."""
    rules = _rules()
    cash, borrowed = jnp.full((1, 1), 400.0), jnp.full((1, 1), 600.0)
    for years in (0.0, MINUTE):
        _, interest = ACCRUE(rules, rates.initial(rules), cash, borrowed, cash + borrowed, jnp.asarray(years))
        np.testing.assert_allclose(interest.borrow_rate, 0.6 / 0.8 * 0.04, rtol=1e-14)
        np.testing.assert_allclose(interest.supply_rate, 0.03 * 0.6 * 0.9, rtol=1e-14)


def test_single_precision_keeps_the_interest_of_minutes():
    """A month of minutes at 3%: each adds 5.7e-8 to the index, less than single precision can tell from nothing beside one."""
    assert np.float32(1) + np.float32(0.03 * MINUTE) == 1
    minutes = 43_200
    state, _ = _year_at_constant_utilisation(_rules(dtype=np.float32), 0.6, minutes * MINUTE, minutes)
    assert state.borrow_growth.dtype == np.float32
    np.testing.assert_allclose(state.borrow_growth, math.expm1(0.03 * minutes * MINUTE), rtol=1e-3)
    np.testing.assert_allclose(state.supply_growth, 0.9 * 0.6 * math.expm1(0.03 * minutes * MINUTE), rtol=1e-3)


def test_gradient_of_the_debt_is_that_of_the_closed_form():
    rules = _rules()
    cash, borrowed = jnp.full((1, 1), 100.0), jnp.full((1, 1), 900.0)

    def index(slope2):
        curve = RateCurve(rules.curve.optimal, rules.curve.base, rules.curve.slope1, slope2)
        after, _ = rates.accrue(RateRules(curve, rules.reserve_factor), rates.initial(rules), cash, borrowed, cash + borrowed, jnp.asarray(0.5))
        return after.borrow_growth[0, 0]

    slope = jax.jit(jax.grad(index))(rules.curve.slope2)
    np.testing.assert_allclose(slope, 0.5 * 0.5 * math.exp(0.415 * 0.5), rtol=1e-12)


def test_an_empty_pool_has_finite_gradients():
    rules, zero = _rules(), jnp.zeros((1, 1))

    def total(cash, borrowed, supplied):
        return sum(leaf.sum() for leaf in jax.tree.leaves(rates.accrue(rules, rates.initial(rules), cash, borrowed, supplied, jnp.asarray(MINUTE))))

    assert all(np.isfinite(g).all() for g in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(zero, zero, zero))
