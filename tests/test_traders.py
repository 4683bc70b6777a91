"""Traders who follow a rule, and depositors who run: bounds of what they want, nothing lost in the books, defaults that somebody bears."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine import runs, traders
from stresslev.engine.runs import RunRules
from stresslev.engine.traders import FUNDING_ARBITRAGE, KINDS, LEVERAGE_TARGET, MOMENTUM, REVERSION, TraderRules, TraderState
from stresslev.engine.types import cast

POOLS, ASSETS = 2, 3
REFERENCE = np.array([100.0, 2000.0, 0.5])
SIGMA = np.array([0.01, 0.02, 0.05])
NO_CAP = np.full((POOLS, ASSETS), np.inf)
ZERO = np.zeros((POOLS, ASSETS))


def _rules(dtype=np.float64, **changes) -> TraderRules:
    one, column = np.ones((POOLS, ASSETS)), np.ones((len(KINDS), POOLS, ASSETS))
    fields = {
        "capital": 1e6 * column,
        "speed": column,
        "scale": 0.01 * column,
        "trend_decay": np.full(ASSETS, 0.9),
        "mean_decay": np.full(ASSETS, 0.99),
        "variance_decay": np.full(ASSETS, 0.95),
        "reference_variance": SIGMA**2,
        "quiet_variance": np.zeros(ASSETS),
        "base_leverage": 4 * one,
        "exponent": one,
        "maintenance": 0.05 * one,
    }
    return cast(TraderRules(**(fields | changes)), dtype)


def _start(rules: TraderRules, cap=NO_CAP) -> TraderState:
    dtype = rules.capital.dtype
    return traders.initial(rules, reference_price=jnp.asarray(REFERENCE, dtype), cap=jnp.asarray(cap, dtype))


def _market(log_price, rate=ZERO, index=ZERO, cap=NO_CAP, dtype=np.float64) -> dict:
    """What traders see at (V, A) venue log prices."""
    log_price = np.broadcast_to(log_price, (POOLS, ASSETS))
    seen = {
        "price": REFERENCE * np.exp(log_price),
        "displaced": REFERENCE * np.expm1(log_price),
        "funding_index": index,
        "funding_rate": np.broadcast_to(rate, (POOLS, ASSETS)),
        "cap": np.broadcast_to(cap, (POOLS, ASSETS)),
    }
    return {name: jnp.asarray(x, dtype) for name, x in seen.items()}


def _default(rules, state, seen):
    return traders.defaulting(rules, state, **{name: seen[name] for name in ("price", "displaced", "funding_index")})


def _trade(rules, state, seen, fill=None):
    """Order, fill at `fill` (V, A) USD over the reference (the price itself when not given), settle."""
    coins = traders.orders(rules, state, **seen)
    fill = seen["displaced"] if fill is None else fill
    default = _default(rules, state, seen)
    books = {"fill_displaced": fill, "common_fill_displaced": fill[0], "funding_index": seen["funding_index"]}
    return coins, *traders.settle(rules, state, coins, default=default, **books)


def _fund_leverage(state, seen):
    quantity, cash = state.quantity[LEVERAGE_TARGET], state.cash[LEVERAGE_TARGET]
    return quantity * seen["price"] / (cash + quantity * (seen["displaced"] - seen["funding_index"]))


# what they want


def test_only_leverage_funds_hold_anything_at_the_start_and_at_their_target():
    rules = _rules()
    state = _start(rules)
    others = [MOMENTUM, REVERSION, FUNDING_ARBITRAGE]
    assert not np.any(state.quantity[jnp.array(others)])
    np.testing.assert_allclose(_fund_leverage(state, _market(0.0)), 4, rtol=1e-15)
    np.testing.assert_array_equal(traders.orders(rules, state, **_market(0.0)), 0)


def test_momentum_buys_what_rose_and_reversion_sells_it():
    rules = _rules()
    state = _start(rules)
    r = jnp.array([0.02, -0.02, 0.0])
    wanted = traders.targets(rules, traders.observe(rules, state, r, r), **_market(np.asarray(r)))
    # a trend of (1 - 0.9) r, a mean of (1 - 0.99) r, over scales of 0.01
    np.testing.assert_allclose(wanted[MOMENTUM], np.broadcast_to(1e6 * np.tanh(0.1 * r / 0.01), (POOLS, ASSETS)), rtol=1e-12)
    np.testing.assert_allclose(wanted[REVERSION], np.broadcast_to(-1e6 * np.tanh(0.99 * r / 0.01), (POOLS, ASSETS)), rtol=1e-12)


def test_funding_arbitrage_is_short_where_longs_pay_and_hedged():
    rules = _rules()
    rate = np.array([[0.01, -0.01, 0.0]])
    coins, state, _ = _trade(rules, _start(rules), _market(0.0, rate=rate))
    np.testing.assert_allclose(
        np.asarray(coins[FUNDING_ARBITRAGE]) * REFERENCE, np.broadcast_to(-1e6 * np.tanh(rate / 0.01), (POOLS, ASSETS)), rtol=1e-12
    )
    np.testing.assert_array_equal(state.hedge_quantity, -state.quantity[FUNDING_ARBITRAGE])


def test_a_hedged_arbitrageur_earns_the_funding_and_nothing_else():
    rules = _rules()
    _, state, _ = _trade(rules, _start(rules), _market(0.0, rate=0.01))
    later = {"displaced": jnp.asarray(ZERO + 0.3 * REFERENCE), "common_displaced": jnp.asarray(0.3 * REFERENCE)}
    index = jnp.asarray(ZERO + 0.002 * REFERENCE)
    gained = traders.equity(state, funding_index=index, **later)[FUNDING_ARBITRAGE] - 1e6
    np.testing.assert_allclose(gained, 1e6 * np.tanh(1) * 0.002, rtol=1e-9)


def test_a_volatility_of_twice_its_reference_halves_leverage_at_exponent_one():
    rules = _rules()
    at = traders.target_leverage(rules, jnp.asarray(4 * SIGMA**2), jnp.asarray(NO_CAP))
    np.testing.assert_allclose(at, 2, rtol=1e-14)
    quiet = replace(rules, quiet_variance=jnp.asarray(3 * SIGMA**2))
    np.testing.assert_allclose(traders.target_leverage(quiet, jnp.asarray(SIGMA**2), jnp.asarray(NO_CAP)), 2, rtol=1e-14)
    np.testing.assert_allclose(traders.target_leverage(rules, jnp.asarray(SIGMA**2), jnp.full((POOLS, ASSETS), 3.0)), 3, rtol=0)


def test_the_estimated_variance_after_a_step_in_volatility_is_the_closed_form():
    """EWMA after a step from 0.02 to 0.06 at decay 0.97: margin ratio (sigma_n / sigma_0) 1.1136 after one step, 2.1563 after 20, 2.6936 after 50."""
    one = np.ones(ASSETS)
    rules = _rules(variance_decay=0.97 * one, reference_variance=0.02**2 * one)
    state = _start(rules)
    ratios = {}
    for n in range(1, 51):
        r = jnp.asarray(0.06 * one) * (-1) ** n
        state = traders.observe(rules, state, r, jnp.zeros(ASSETS))
        ratios[n] = np.sqrt(state.variance[0]) / 0.02
    for n, expected in ((1, 1.1136), (5, 1.4595), (10, 1.7609), (20, 2.1563), (50, 2.6936)):
        assert ratios[n] == pytest.approx(expected, abs=5e-5)
    fund = traders.target_leverage(rules, state.variance, jnp.asarray(NO_CAP))
    np.testing.assert_allclose(fund, 4 / ratios[50], rtol=1e-12)


@pytest.mark.parametrize("move", [-0.15, -0.01, 0.0, 0.02, 0.5])
def test_a_fund_without_impact_holds_its_leverage_exactly(move):
    rules = _rules(exponent=ZERO)
    index = 0.001 * np.broadcast_to(REFERENCE, (POOLS, ASSETS))
    seen = _market(move, index=index)
    _, state, deficit = _trade(rules, _start(rules), seen)
    np.testing.assert_allclose(_fund_leverage(state, seen), 4, rtol=1e-13)
    np.testing.assert_array_equal(deficit, 0)


def test_speed_is_the_share_of_the_gap_that_is_traded():
    seen, fast = _market(-0.05), _rules()
    whole = traders.orders(fast, _start(fast), **seen)
    slow = replace(fast, speed=0.25 * fast.speed)
    np.testing.assert_allclose(traders.orders(slow, _start(slow), **seen), 0.25 * whole, rtol=1e-12)


signal = st.floats(-1, 1)


@given(signal, signal, signal, st.floats(0, 20), st.floats(0.1, 100))
def test_targets_stay_within_capital_and_leverage_within_its_cap(r, x, rate, base, cap):
    rules = _rules(base_leverage=base + ZERO)
    state = traders.observe(rules, _start(rules, cap + ZERO), jnp.full(ASSETS, r), jnp.full(ASSETS, x))
    seen = _market(x, rate=rate, cap=cap)
    wanted = traders.targets(rules, state, **seen)
    assert np.all(np.isfinite(wanted))
    bounded = np.delete(np.asarray(wanted), LEVERAGE_TARGET, axis=0)
    assert np.all(np.abs(bounded) <= 1e6)
    equity = state.cash + state.quantity * seen["displaced"][None]
    assert np.all(wanted[LEVERAGE_TARGET] >= 0)
    assert np.all(wanted[LEVERAGE_TARGET] <= cap * np.maximum(equity[LEVERAGE_TARGET], 0) * (1 + 1e-12))


def test_traders_without_capital_never_trade():
    rules = _rules(capital=np.zeros((len(KINDS), POOLS, ASSETS)))
    state = traders.observe(rules, _start(rules), jnp.full(ASSETS, -0.3), jnp.full(ASSETS, -0.3))
    coins, after, deficit = _trade(rules, state, _market(-0.3, rate=0.1))
    assert not np.any(coins) and not np.any(after.cash) and not np.any(deficit) and not np.any(after.closed)


# default


def test_a_fund_is_closed_out_at_its_maintenance_margin_and_not_before():
    """A fund of leverage 4 has equity over position (1/4 + y) / (1 + y) after a return y: 5% at y = -0.2 / 0.95."""
    rules = _rules(exponent=ZERO)
    critical = np.log(1 - 0.2 / 0.95)
    assert not np.any(_default(rules, _start(rules), _market(critical + 1e-9)))
    coins, state, deficit = _trade(rules, _start(rules), _market(critical - 1e-9))
    np.testing.assert_array_equal(coins[LEVERAGE_TARGET], -_start(rules).quantity[LEVERAGE_TARGET])
    assert np.all(state.closed) and not np.any(state.quantity[LEVERAGE_TARGET])
    np.testing.assert_array_equal(deficit, 0)
    np.testing.assert_allclose(state.cash[LEVERAGE_TARGET], 1e6 * (1 - 4 * 0.2 / 0.95), rtol=1e-6)


def test_what_a_closed_out_fund_cannot_pay_is_a_deficit_and_it_stays_out():
    """Leverage 4, price down by 40%: 4 * 40% = 160% of the equity lost, 60% of it are missing, in each of 3 assets."""
    rules = _rules(exponent=ZERO)
    _, state, deficit = _trade(rules, _start(rules), _market(np.log(0.6)))
    np.testing.assert_allclose(deficit, 3 * 0.6e6, rtol=1e-12)
    np.testing.assert_array_equal(state.cash[LEVERAGE_TARGET], 0)
    again = traders.orders(rules, traders.observe(rules, state, jnp.full(ASSETS, 0.7), jnp.full(ASSETS, 0.2)), **_market(0.2))
    np.testing.assert_array_equal(again[LEVERAGE_TARGET], 0)


def test_a_fund_that_is_filled_in_part_owes_nothing_yet_and_asks_again():
    rules = _rules(exponent=ZERO)
    seen, state = _market(np.log(0.6)), _start(rules)
    default = _default(rules, state, seen)
    half = 0.5 * traders.orders(rules, state, **seen)
    books = {"fill_displaced": seen["displaced"], "common_fill_displaced": jnp.zeros(ASSETS), "funding_index": seen["funding_index"]}
    state, deficit = traders.settle(rules, state, half, default=default, **books)
    assert not np.any(deficit) and not np.any(state.closed)
    _, state, deficit = _trade(rules, state, seen)
    np.testing.assert_allclose(deficit, 3 * 0.6e6, rtol=1e-12)


def test_slow_funds_are_closed_out_at_once_all_the_same():
    rules = replace(_rules(), speed=0.01 * _rules().speed)
    coins, state, _ = _trade(rules, _start(rules), _market(np.log(0.7)))
    assert np.all(state.closed)
    np.testing.assert_array_equal(coins[LEVERAGE_TARGET], -_start(rules).quantity[LEVERAGE_TARGET])


# books


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.3))
def test_cash_and_coins_are_conserved_whatever_is_ordered_and_however_filled(seed, size):
    rng = np.random.default_rng(seed)
    rules = _rules(speed=rng.uniform(size=(len(KINDS), POOLS, ASSETS)), exponent=rng.uniform(-1, 2, (POOLS, ASSETS)))
    state = _start(rules)
    makers, maker_cash, outside, outside_cash, lost = -jnp.sum(state.quantity, axis=0), jnp.asarray(ZERO), jnp.zeros(ASSETS), jnp.zeros(ASSETS), 0.0
    coins_at_start, money_at_start = jnp.sum(state.quantity, axis=0) + makers, jnp.sum(state.cash)
    x = np.zeros(ASSETS)
    for _ in range(12):
        r = size * rng.standard_normal(ASSETS)
        x = x + r
        state = traders.observe(rules, state, jnp.asarray(r), jnp.asarray(x))
        index = 0.01 * REFERENCE * rng.standard_normal((POOLS, ASSETS))
        seen = _market(x + 0.01 * rng.standard_normal((POOLS, ASSETS)), rate=0.01 * rng.standard_normal((POOLS, ASSETS)), index=index)
        coins = traders.orders(rules, state, **seen) * (rng.uniform() if rng.uniform() < 0.3 else 1.0)
        fill = seen["displaced"] * (1 + 0.01 * rng.standard_normal((POOLS, ASSETS)))
        common = jnp.asarray(REFERENCE * np.expm1(x))
        books = {"fill_displaced": fill, "common_fill_displaced": common, "funding_index": seen["funding_index"]}
        state, deficit = traders.settle(rules, state, coins, default=_default(rules, state, seen), **books)
        bought, hedge = jnp.sum(coins, axis=0), jnp.sum(traders.hedge_orders(coins), axis=0)
        makers, maker_cash = makers - bought, maker_cash + bought * (fill - seen["funding_index"])
        outside, outside_cash = outside - hedge, outside_cash + hedge * common
        lost = lost + jnp.sum(deficit)
        assert np.all(deficit >= 0)
    scale = 1e-12 * float(jnp.sum(jnp.abs(maker_cash)) + money_at_start)
    np.testing.assert_allclose(jnp.sum(state.quantity, axis=0) + makers, coins_at_start, atol=1e-9 * float(jnp.max(jnp.abs(makers))))
    np.testing.assert_allclose(jnp.sum(state.hedge_quantity, axis=0) + outside, 0, atol=1e-9 * (1 + float(jnp.max(jnp.abs(outside)))))
    money = jnp.sum(state.cash) + jnp.sum(state.hedge_cash) + jnp.sum(maker_cash) + jnp.sum(outside_cash) - lost
    assert float(money) == pytest.approx(float(money_at_start), abs=10 * scale)


# numerics


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_agree_with_single_runs_in_both_precisions(dtype):
    rules = _rules(dtype)

    def run(r):
        x = jnp.full(ASSETS, r)
        state = traders.observe(rules, _start(rules), x, x)
        price = jnp.asarray(REFERENCE, dtype) * jnp.exp(x)
        displaced = jnp.asarray(REFERENCE, dtype) * jnp.expm1(x)
        wide = {"price": price, "displaced": displaced, "funding_index": 0 * x, "funding_rate": 0.1 * x, "cap": jnp.inf + 0 * x}
        seen = {name: jnp.broadcast_to(v, (POOLS, ASSETS)) for name, v in wide.items()}
        return _trade(rules, state, seen)

    moves = jnp.array([-0.5, -0.02, 0.0, 0.03], dtype)
    batch = jax.jit(jax.vmap(run))(moves)
    for i, r in enumerate(moves):
        for one, many in zip(jax.tree.leaves(run(r)), jax.tree.leaves(batch), strict=True):
            assert many.dtype == one.dtype and (many.dtype == dtype or many.dtype == bool)
            np.testing.assert_allclose(many[i], one, rtol=50 * np.finfo(dtype).eps, atol=1e6 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_are_finite_also_at_rest_in_default_and_without_volatility(dtype):
    rules = _rules(dtype)

    @jax.jit
    def slopes(rules, seen):
        def outcome(rules, seen):
            state = _start(rules)
            still = replace(state, variance=0 * state.variance)
            coins, after, deficit = _trade(rules, still, seen)
            return jnp.sum(deficit) + jnp.sum(after.cash) + jnp.sum(coins)

        return jax.value_and_grad(outcome, argnums=(0, 1))(rules, seen)

    for move in (0.0, -0.05, -0.9, 3.0):
        for x in jax.tree.leaves(slopes(rules, _market(move, rate=move, dtype=dtype))):
            assert np.all(np.isfinite(x))


# depositors who run

RUN = RunRules(speed=np.full((1, 2), 0.5), utilisation_at=np.full((1, 2), 0.8), cover_at=np.full((1, 2), 0.9), most=np.full((1, 2), 0.3))


def _withdrawn(idle, borrowed, cover, deposits=100.0, rules=RUN):
    pair = [np.broadcast_to(x, (1, 2)) for x in (deposits, idle, borrowed, cover)]
    names = ("deposits", "idle", "borrowed", "cover")
    return runs.withdrawals(cast(rules, jnp.float64), **{n: jnp.asarray(x, jnp.float64) for n, x in zip(names, pair, strict=True)})


@pytest.mark.parametrize(
    ("idle", "borrowed", "cover", "expected"),
    [
        (40.0, 60.0, 1.0, 0.0),  # neither illiquid nor uncovered
        (20.0, 80.0, 0.9, 0.0),  # both at their levels
        (10.0, 90.0, 1.0, 10.0),  # utilisation half way up: a quarter wanted, a tenth there
        (50.0, 0.0, 0.81, 5.0),  # cover a tenth below: 5% of the deposits
        (50.0, 50.0, 0.0, 30.0),  # as fast as they can
        (0.0, 100.0, 0.5, 0.0),  # empty
        (-1.0, 100.0, 0.5, 0.0),
    ],
)
def test_depositors_withdraw_by_weakness_as_far_as_there_is_cash(idle, borrowed, cover, expected):
    np.testing.assert_allclose(_withdrawn(idle, borrowed, cover), expected, rtol=1e-12)


amount = st.floats(0, 1e9)


@given(amount, st.floats(-1e9, 1e9), amount, st.floats(0, 1), st.floats(0, 1), amount)
def test_nobody_withdraws_more_than_he_has_or_there_is_and_a_weaker_pool_loses_no_less(deposits, idle, borrowed, cover, worse, more):
    taken = _withdrawn(idle, borrowed, cover, deposits)
    assert np.all(taken >= 0) and np.all(taken <= 0.3 * deposits * (1 + 1e-15)) and np.all(taken <= max(idle, 0))
    assert np.all(_withdrawn(idle, borrowed, cover * worse, deposits) >= taken)
    assert np.all(_withdrawn(idle, borrowed + more, cover, deposits) >= taken * (1 - 1e-12))


def test_cover_counts_what_the_reserves_cannot_make_good():
    pair = jnp.array([[200.0, 0.0]])
    found = runs.cover(supplied=pair, reserves=jnp.array([[10.0, 0.0]]), written_off=jnp.array([[50.0, 1.0]]))
    np.testing.assert_allclose(found, [[0.8, 1.0]], rtol=1e-15)


def test_runs_have_finite_derivatives_in_float32_where_nothing_is_deposited_or_lent():
    zero = jnp.zeros((1, 2), jnp.float32)

    def taken(rules, x):
        return jnp.sum(runs.withdrawals(rules, deposits=x, idle=x, borrowed=x, cover=runs.cover(supplied=x, reserves=x, written_off=x)))

    value, slopes = jax.jit(jax.value_and_grad(taken, argnums=(0, 1)))(cast(RUN, jnp.float32), zero)
    assert value.dtype == jnp.float32 and value == 0
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(slopes))
