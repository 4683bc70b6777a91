"""Caps and what they do to accounts: pace, notice, call level, the three transitions, against figures worked by hand."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine.health import Prices
from stresslev.engine.leverage import caps, transition
from stresslev.engine.leverage.caps import Applied, Caps, CapState, call_level, initial_margin, move
from stresslev.engine.leverage.reading import Reading
from stresslev.engine.leverage.resize import resize
from stresslev.engine.leverage.transition import CALL, NEW_RISK, PACE, Transition
from stresslev.engine.types import Accounts, cast
from tests.systems import engine_arguments, random_case

LEVELS = st.floats(0.1, 200)


def _reading(**given) -> Reading:
    va = jnp.zeros((1, 1))
    empty = Reading(
        log_return=jnp.zeros(1), log_price=jnp.zeros(1), price=jnp.ones(1), depth=jnp.ones(1), open_interest=va, insurance_fund=jnp.zeros(1),
        supplied=va, borrowed=va, funding_rate=va, gauge=va, reference_variance=jnp.full(1, 1e-6), steps_per_year=jnp.asarray(525600.0),
    )  # fmt: skip
    return replace(empty, **given)


class Gauged:
    """A rule that says what the gauge says."""

    def start(self, reading):
        return ()

    def react(self, memory, reading):
        return memory, 1 / (1 + reading.gauge)


def _caps(**given) -> Caps:
    one = np.ones((1, 1))
    base = {"base": 20 * one, "floor": one, "ceiling": 50 * one, "least_maintenance": 0.5 * one, "most_maintenance": 4 * one}
    pace = {"tighten": np.inf * one, "loosen": np.inf * one, "notice": np.zeros(1, np.int32)}
    return cast(Caps(**(base | pace | given)), np.float64)


def _path(rules: Caps, gauges, on_cap=1.0, on_maintenance=0.0, history=1):
    applied = (Applied(Gauged(), jnp.full(1, on_cap), jnp.full(1, on_maintenance)),)
    multiplier = jnp.ones((1, 1))
    state = caps.initial(rules, applied, multiplier, _reading(), history)
    seen = []
    for g in gauges:
        state = caps.react(rules, applied, multiplier, state, _reading(gauge=jnp.full((1, 1), g)))
        seen.append((float(state.cap[0, 0]), float(state.maintenance[0, 0])))
    return seen


@given(LEVELS, LEVELS, st.floats(0, 3), st.floats(0, 3))
def test_a_cap_never_moves_faster_than_its_pace_nor_past_its_target(now, target, down, up):
    after = float(move(jnp.asarray(now), jnp.asarray(target), jnp.asarray(down), jnp.asarray(up)))
    assert now * math.exp(-down) * (1 - 1e-12) <= after <= now * math.exp(up) * (1 + 1e-12)
    assert min(now, target) * (1 - 1e-12) <= after <= max(now, target) * (1 + 1e-12)


def test_caps_fall_fast_and_rise_slowly():
    """Halving in two steps at most, doubling in ten: the gauge of 3 asks for a quarter, and is then gone."""
    rules = _caps(tighten=np.full((1, 1), math.log(2) / 2), loosen=np.full((1, 1), math.log(2) / 10))
    seen = [cap for cap, _ in _path(rules, [3] * 4 + [0] * 20)]
    np.testing.assert_allclose(seen[:4], 20 * 2.0 ** (-np.arange(1, 5) / 2), rtol=1e-12)
    np.testing.assert_allclose(seen[4:], 5 * 2.0 ** (np.arange(1, 21) / 10), rtol=1e-12)


def test_a_change_begins_after_its_notice():
    seen = [cap for cap, _ in _path(_caps(notice=np.full(1, 3, np.int32)), [0, 1, 1, 1, 1, 0, 0, 0, 0], history=4)]
    np.testing.assert_allclose(seen, [20, 20, 20, 20, 10, 10, 10, 10, 20], rtol=1e-12)


def test_maintenance_rises_as_caps_fall_and_within_its_bounds():
    assert _path(_caps(), [1, 1e6], on_maintenance=0.5) == [pytest.approx((10, math.sqrt(2))), pytest.approx((1, 4))]
    assert _path(_caps(), [3], on_cap=0.0, on_maintenance=1.0) == [pytest.approx((20, 4))]


def test_initial_margin_is_the_cap_or_a_multiple_of_maintenance():
    n, cap = (jnp.asarray(1000.0), jnp.asarray(500.0)), (jnp.asarray(20.0), jnp.asarray(10.0))
    assert float(initial_margin(n, cap, jnp.asarray(30.0), jnp.asarray(2.0))) == 100
    assert float(initial_margin(n, cap, jnp.asarray(70.0), jnp.asarray(2.0))) == 140


def test_the_call_level_is_maintenance_margin_until_a_cap_is_tightened():
    n, base = (jnp.asarray(1000.0),), (jnp.asarray(20.0),)
    maintenance = jnp.asarray(10.0)
    for cap, allowed, expected in ((20.0, None, 10.0), (40.0, None, 10.0), (10.0, None, 60.0), (20.0, 0.5, 60.0), (10.0, 0.5, 160.0)):
        level = call_level(n, (jnp.asarray(cap),), base, None if allowed is None else jnp.asarray(allowed), maintenance)
        assert float(level) == pytest.approx(expected, rel=1e-12)


# One account of 1000 USD notional with a maintenance margin of 1%: at a cap of 10 instead of 20 its call level is 60 USD.


def _one(equity: float, **given) -> tuple[Accounts, object, Prices]:
    system, *_ = engine_arguments(*random_case(1))
    system = replace(
        system,
        reference_price=jnp.ones(1),
        tier_floor=jnp.zeros((1, 1, 1)),
        tier_step=jnp.full((1, 1, 1), 0.01),
        **{
            name: getattr(system, name)[:1]
            for name in ("rule", "target_health", "close_factor", "full_below", "liquidation_fee", "taker_fee", "liquidator_fee", "takeover")
        },
    )
    held = {"appetite": jnp.ones((1, 1)), "call_age": jnp.zeros((1, 1), jnp.int32)} | given
    account = Accounts(
        equity_at_reference=jnp.full((1, 1), equity),
        quantity=(jnp.full((1, 1), 1000.0),),
        liquidated=jnp.zeros((1, 1), bool),
        block_pool=jnp.zeros(1, jnp.int32),
        **held,
    )
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    return account, system, Prices(mark=one, mark_displaced=zero, venue=one, venue_displaced=zero, funding=zero)


def _transition(form: int, **given) -> Transition:
    figures = {
        "window": 2,
        "met": 0.5,
        "pace": 0.25,
        "aim": 0.8,
        "warn": np.inf,
        "response": 0.0,
        "safe": 0.0,
        "releverage": 0.0,
        "over_maintenance": 2.0,
    }
    arrays = {name: jnp.full(1, value) for name, value in (figures | given).items()}
    return replace(Transition(form=jnp.full(1, form, jnp.int32), **arrays), window=jnp.full(1, (figures | given)["window"], jnp.int32))


def _plan(equity: float, rules: Transition, cap: float = 10.0, outage: bool = False, **given):
    account, system, seen = _one(equity, **given)
    level = jnp.full((1, 1), cap)
    zero = jnp.zeros((1, 1, 1))
    state = CapState(level, jnp.ones((1, 1)), zero, zero, (), jnp.zeros((1, 1)), jnp.int32(0))
    return transition.plan(account, system, rules, _caps(), state, jnp.ones((1, 1)), seen, jnp.full(1, outage))


def test_barring_new_risk_forces_nobody():
    plan, asked = _plan(40.0, _transition(NEW_RISK))
    assert float(plan.share[0, 0]) == 0 and float(plan.posted[0, 0]) == 0 and int(asked.called[0]) == 0


def test_a_pace_closes_its_share_of_what_is_too_much():
    """Call level 60 against 40 of equity; a utilisation of 0.8 would leave 1 - 0.8 x 40 / 60 closed, a quarter of it per step."""
    plan, asked = _plan(40.0, _transition(PACE))
    assert float(plan.share[0, 0]) == pytest.approx(0.25 * (1 - 0.8 * 40 / 60), rel=1e-12)
    assert float(asked.reduced_usd[0, 0]) == pytest.approx(1000 * float(plan.share[0, 0]), rel=1e-12)
    assert float(_plan(61.0, _transition(PACE))[0].share[0, 0]) == 0


def test_a_call_waits_for_its_window_and_is_then_met_by_cash_and_by_closing():
    rules = _transition(CALL)
    first, asked = _plan(40.0, rules)
    assert float(first.share[0, 0]) == 0 and int(first.age[0, 0]) == 1 and int(asked.called[0]) == 1
    second, _ = _plan(40.0, rules, call_age=first.age)
    assert float(second.share[0, 0]) == 0 and int(second.age[0, 0]) == 2
    third, asked = _plan(40.0, rules, call_age=second.age)
    assert float(third.posted[0, 0]) == pytest.approx(0.5 * (60 - 40), rel=1e-12)
    assert float(third.share[0, 0]) == pytest.approx(1 - 0.8 * 50 / 60, rel=1e-12)
    assert int(third.age[0, 0]) == 0 and float(asked.posted[0]) == pytest.approx(10)


def test_a_call_met_in_full_closes_nothing():
    plan, _ = _plan(40.0, _transition(CALL, met=1.0, window=0))
    assert float(plan.posted[0, 0]) == pytest.approx(20) and float(plan.share[0, 0]) == 0


def test_a_call_is_forgotten_when_the_account_recovers_and_stands_still_in_an_outage():
    running = jnp.full((1, 1), 2, jnp.int32)
    assert int(_plan(61.0, _transition(CALL), call_age=running)[0].age[0, 0]) == 0
    assert int(_plan(40.0, _transition(CALL), outage=True, call_age=running)[0].age[0, 0]) == 2


def test_accounts_under_maintenance_margin_are_left_to_liquidation():
    plan, _ = _plan(9.0, _transition(PACE, warn=0.5, response=1.0))
    assert float(plan.share[0, 0]) == 0


def test_users_near_their_limit_reduce_by_themselves():
    plan, asked = _plan(75.0, _transition(NEW_RISK, warn=0.7, response=0.5))
    assert float(plan.share[0, 0]) == pytest.approx(0.5 * (1 - 0.7 * 75 / 60), rel=1e-12)
    assert float(asked.voluntary_usd[0, 0]) > 0 and float(asked.reduced_usd[0, 0]) == 0


@pytest.mark.parametrize(
    ("cap", "equity", "appetite", "expected"),
    [
        (20.0, 500.0, 0.5, 0.1),  # a tenth of the other half, over what is held
        (20.0, 500.0, 1.0, 0.0),  # nothing was given up
        (20.0, 51.0, 0.5, 0.02),  # as far as initial margin of 50 allows
        (20.0, 49.0, 0.5, 0.0),  # not at all
        (20.0, 500.0, 0.999, 0.1 * (1 / 0.999 - 1)),
        (2.0, 900.0, 0.5, 0.0),  # the cap is too low: 460 is more than half of 900
    ],
)
def test_what_was_given_up_is_taken_back_within_the_cap(cap, equity, appetite, expected):
    plan, _ = _plan(equity, _transition(NEW_RISK, safe=0.5, releverage=0.1), cap=cap, appetite=jnp.full((1, 1), appetite))
    assert -float(plan.share[0, 0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.floats(15, 2000), st.floats(1.5, 40), st.sampled_from([NEW_RISK, CALL, PACE]), st.floats(0.05, 1))
def test_no_order_leaves_an_account_worse_or_larger_than_it_wants_to_be(equity, cap, form, appetite):
    """Without price moves: utilisation after an order is at most the larger of before and safe, and nobody holds more than all it wanted."""
    rules = _transition(form, window=0, warn=0.9, response=0.3, safe=0.5, releverage=0.7)
    account, system, seen = _one(equity, appetite=jnp.full((1, 1), appetite))
    plan, _ = _plan(equity, rules, cap=cap, appetite=account.appetite)
    system = replace(system, taker_fee=jnp.zeros(1))
    after, done = resize(account, system, plan.share, plan.posted, venue=seen.venue, fill=seen.mark_displaced, funding=seen.funding)
    after = transition.after(after, plan)
    assert 0 < float(after.appetite[0, 0]) <= 1 + 1e-12

    def use(held, cash):
        n = abs(held) * (0.01 + max(1 / cap - 1 / 20, 0))
        return n / cash

    before = use(1000.0, equity)
    assert use(float(after.quantity[0][0, 0]), float(after.equity_at_reference[0, 0])) <= max(before, 0.5) + 1e-9
    assert float(done.cash_change[0]) == pytest.approx(float(plan.posted[0, 0]), abs=1e-9)
