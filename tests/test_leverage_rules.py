"""The rules of leverage: volatility, reactions and size do what their formulas say, hold the risk they target, and can be differentiated."""

import csv
import functools
import gzip
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine.leverage import reactions, volatility
from stresslev.engine.leverage.reactions import READS, Reaction
from stresslev.engine.leverage.reading import Reading, respond
from stresslev.engine.leverage.size import SmoothSize, SteppedSize, add_hinges, size_scale
from stresslev.engine.leverage.volatility import VolatilityScaling
from stresslev.engine.margin import tier_line, tier_margin
from stresslev.engine.types import cast

DAY = 365.0

#: Steps -> volatility over that at the start, after a jump from 2% to 6% under weight 0.97 (crosschecks, section 5).
RISES = {1: 1.1136, 5: 1.4595, 10: 1.7609, 20: 2.1563, 50: 2.6936}

#: Brackets of BTCUSDT at Binance on 2026-09-29: floor USD, maintenance rate, maintenance amount USD.
BRACKETS = (
    (0, 0.004, 0),
    (300_000, 0.005, 300),
    (800_000, 0.0065, 1_500),
    (3_000_000, 0.01, 12_000),
    (12_000_000, 0.02, 132_000),
    (70_000_000, 0.025, 482_000),
    (100_000_000, 0.05, 2_982_000),
    (230_000_000, 0.1, 14_482_000),
    (480_000_000, 0.125, 26_482_000),
    (600_000_000, 0.15, 41_482_000),
    (800_000_000, 0.25, 121_482_000),
    (1_200_000_000, 0.5, 421_482_000),
)


def reading(log_return=(0.0, 0.0), **changes):
    """Two pools, a venue and a lender, and two assets, on daily steps."""
    x = {
        "log_return": log_return,
        "log_price": (0.0, 0.0),
        "price": (100.0, 10.0),
        "depth": (2e6, 1e6),
        "open_interest": ((3e7, 1e7), (0.0, 0.0)),
        "insurance_fund": (1e6, 0.0),
        "supplied": ((0.0, 0.0), (4e6, 2e6)),
        "borrowed": ((0.0, 0.0), (3e6, 5e5)),
        "funding_rate": ((0.001, -0.002), (0.0, 0.0)),
        "gauge": ((0.5, 2.0), (0.0, 1.0)),
        "reference_variance": (0.02**2, 0.05**2),
        "steps_per_year": DAY,
    }
    return Reading(**{k: jnp.asarray(v, float) for k, v in (x | changes).items()})


def scaling(**changes):
    return VolatilityScaling(**({"target": 0.5, "gamma": 1.0, "floor": 0.01, "ceiling": 100.0} | changes))


def path_factors(rule, returns, variance):
    """Factors (T,) for one pool and one asset along a path of returns (T,), each known before the return of its step comes."""
    one = {"log_price": [0.0], "price": [1.0], "depth": [1.0], "insurance_fund": [1.0], "reference_variance": [variance]}
    one |= {name: [[1.0]] for name in ("open_interest", "supplied", "borrowed", "funding_rate", "gauge")}

    def step(memory, r):
        memory, factor = rule.react(memory, reading([0.0], **one) if r is None else replace(base, log_return=r[None]))
        return memory, factor[0, 0]

    base = reading([0.0], **one)
    returns = jnp.asarray(returns)
    # a return as large as expected leaves the start where it is
    before = jnp.concatenate([jnp.full(1, math.sqrt(variance)), returns[:-1]])
    return np.asarray(jax.jit(lambda b: jax.lax.scan(step, rule.start(base), b)[1])(before))


# Volatility


@pytest.mark.parametrize(("steps", "ratio"), RISES.items())
def test_ewma_rises_after_a_jump_by_the_published_ratios(steps, ratio):
    rule, memory, factor = scaling(target=0.02 * math.sqrt(DAY)), None, None
    for _ in range(steps):
        now = reading((0.06, 0.0))
        memory, factor = rule.react(rule.start(now) if memory is None else memory, now)
    assert math.sqrt(memory.variance[0]) / 0.02 == pytest.approx(ratio, abs=5e-5)
    # a cap at constant risk falls by what volatility rose by
    assert 1 / factor[0, 0] == pytest.approx(ratio, abs=5e-5)


def garch_path(steps, rng, long_run=0.03, alpha=0.08, beta=0.9):
    """Returns and their true variances of a GARCH(1,1) started in its long run, per step, normal innovations."""
    omega, variance = (1 - alpha - beta) * long_run**2, long_run**2
    returns, variances = np.empty(steps), np.empty(steps)
    for t, z in enumerate(rng.standard_normal(steps)):
        variances[t], returns[t] = variance, math.sqrt(variance) * z
        variance = omega + alpha * returns[t] ** 2 + beta * variance
    return returns, variances


def test_garch_is_the_recursion_step_by_step():
    returns, variances = garch_path(400, np.random.default_rng(1))
    rule = scaling(estimator="garch", long_run=0.03 * math.sqrt(DAY), alpha=0.08, beta=0.9)
    memory = rule.start(reading(reference_variance=(0.03**2, 0.03**2)))
    for t in range(399):
        memory, _ = rule.react(memory, reading((returns[t], 0.0)))
        assert memory.variance[0] == pytest.approx(variances[t + 1], rel=1e-12)


def test_garch_of_returns_at_their_variance_settles_in_the_long_run():
    omega, v = 2e-6, jnp.asarray(1e-2)
    for _ in range(2000):
        v = volatility.garch(v, jnp.sqrt(v), omega, 0.08, 0.9)
    assert v == pytest.approx(omega / (1 - 0.08 - 0.9), rel=1e-9)


def test_squared_range_is_what_simulation_gives():
    rng = np.random.default_rng(2)
    for steps in (1, 2, 3, 5, 10, 20, 40):
        walk = np.cumsum(rng.standard_normal((150_000, steps)), axis=1)
        squared = (np.maximum(walk.max(axis=1), 0) - np.minimum(walk.min(axis=1), 0)) ** 2
        error = squared.std() / math.sqrt(len(squared))
        assert abs(volatility.squared_range(steps) - squared.mean()) < 3 * error + 0.005 * squared.mean()
    assert volatility.squared_range(1) == pytest.approx(1)
    # seen continuously, Parkinson's constant
    assert volatility.squared_range(10**8) / 10**8 == pytest.approx(4 * math.log(2), rel=2e-4)


@pytest.mark.parametrize("bar", [1, 4, 30])
def test_ranges_estimate_the_variance_of_a_brownian_path_without_bias(bar):
    sigma, bars = 0.01, 3000
    steps = jnp.asarray(sigma * np.random.default_rng(bar).standard_normal((bar * bars, 2)))
    # each bar alone: no weight stays with the past
    rule = scaling(estimator="range", bar=bar, decay=0.0)
    now = reading()

    def step(memory, r):
        memory, _ = rule.react(memory, replace(now, log_return=r))
        return memory, memory.variance

    per_bar = np.asarray(jax.lax.scan(step, rule.start(now), steps)[1])[bar - 1 :: bar].ravel()
    error = per_bar.std() / math.sqrt(per_bar.size)
    # Parkinson's estimate has 0.41 of the squared return's variance, so the error says that the range is what is measured
    assert abs(per_bar.mean() - sigma**2) < 2.5 * error
    if bar == 30:
        assert error < 0.8 * sigma**2 * math.sqrt(2 / per_bar.size)


def test_only_complete_bars_count_and_they_weigh_as_their_steps():
    rule = scaling(estimator="range", bar=3, decay=0.9)
    memory = rule.start(reading())
    for r in (0.01, -0.03):
        memory, _ = rule.react(memory, reading((r, 0.0)))
        assert memory.variance[0] == 0.02**2
    memory, _ = rule.react(memory, reading((0.01, 0.0)))
    # up to 0.01, down to -0.02, back to -0.01: a range of 0.03
    expected = 0.9**3 * 0.02**2 + (1 - 0.9**3) * 0.03**2 / volatility.squared_range(3)
    assert memory.variance[0] == pytest.approx(expected, rel=1e-12)
    assert memory.bar.steps.tolist() == [0, 0] and memory.bar.walk.tolist() == [0, 0]


def test_ranges_of_single_steps_are_the_ewma():
    returns = np.random.default_rng(3).normal(0, 0.02, (50, 2))
    rules = [scaling(), scaling(estimator="range", bar=1)]
    memories = [r.start(reading()) for r in rules]
    for r in returns:
        memories = [rule.react(m, reading(r))[0] for rule, m in zip(rules, memories, strict=True)]
    assert memories[1].variance == pytest.approx(np.asarray(memories[0].variance), rel=1e-12)


def test_tools_against_procyclicality_worked_by_hand():
    # a quarter of the weight on 1.0: 0.75 x 0.04 + 0.25 x 1 = 0.28
    assert volatility.stressed(jnp.asarray(0.2), 0.25, 1.0) == pytest.approx(math.sqrt(0.28))
    # a quarter held on top in calm, eaten up between 0.8 and 1.0, nothing beyond
    at = jnp.array([0.4, 0.8, 0.9, 1.0, 1.3])
    assert volatility.buffered(at, 0.25, 1.0) == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.3])
    # all three at once: 0.2 is mixed to 0.52915, raised to 0.6, buffered to 0.75
    rule = scaling(stress_weight=0.25, stress_volatility=1.0, least=0.6, buffer=0.25, release=1.0)
    calm = reading(reference_variance=(0.2**2 / DAY, 0.2**2 / DAY))
    memory = rule.start(calm)
    assert rule.sigma(memory, calm) == pytest.approx([0.75, 0.75])
    assert rule.sigma(replace(memory, variance=memory.variance * 100), calm) == pytest.approx([math.sqrt(0.75 * 4 + 0.25)] * 2)


def test_tools_are_neutral_as_they_stand():
    memory = scaling().start(reading())
    assert scaling().sigma(memory, reading()) == pytest.approx([0.02 * math.sqrt(DAY), 0.05 * math.sqrt(DAY)], rel=1e-15)


def test_each_tool_makes_the_largest_increase_smaller():
    returns, _ = garch_path(3000, np.random.default_rng(4))
    crash = np.concatenate([returns, [-0.2, -0.15], returns[:100]])

    def rise(**tools):
        factor = path_factors(scaling(target=0.57, decay=0.94, **tools), crash, 0.03**2)
        return factor.max() / factor.min()

    plain = rise()
    assert rise(stress_weight=0.25, stress_volatility=1.5) < 0.9 * plain
    assert rise(least=0.57) < 0.9 * plain
    assert rise(buffer=0.25, release=1.0) < 0.9 * plain


@given(sigma=st.floats(0.01, 5), more=st.floats(0, 1), release=st.floats(0.05, 3), buffer=st.floats(0, 1))
def test_a_buffer_never_lowers_the_requirement_and_is_monotone_and_continuous(sigma, more, release, buffer):
    low, high = (float(volatility.buffered(jnp.asarray(s), buffer, release)) for s in (sigma, sigma + more))
    assert sigma <= low <= (1 + buffer) * sigma * (1 + 1e-12)
    assert 0 <= high - low <= (1 + buffer) * more + 1e-9


def test_volatility_targeting_holds_the_target_risk():
    returns, variances = garch_path(40_000, np.random.default_rng(5))
    target = 0.4
    true = scaling(target=target, estimator="garch", long_run=0.03 * math.sqrt(DAY), alpha=0.08, beta=0.9)
    leverage = path_factors(true, returns, 0.03**2)

    def realised(x):
        return np.sqrt((x.reshape(-1, 2000) ** 2).mean(axis=1) * DAY)

    whole = math.sqrt(((leverage * returns) ** 2).mean() * DAY)
    assert whole == pytest.approx(target, rel=0.05)
    # and in every stretch of the path; fixed leverage of the same mean risk does not
    assert realised(leverage * returns) == pytest.approx(np.full(20, target), rel=0.05)
    fixed = realised(returns * target / math.sqrt((returns**2).mean() * DAY))
    assert np.abs(fixed / target - 1).max() > 0.1
    # EWMA, which does not know the process, holds it too on the whole
    guessed = path_factors(scaling(target=target, decay=0.94), returns, 0.03**2)
    assert math.sqrt(((guessed * returns) ** 2).mean() * DAY) == pytest.approx(target, rel=0.05)
    assert leverage == pytest.approx(target / np.sqrt(variances * DAY), rel=1e-9)


def test_bounds_and_gamma_of_the_volatility_factor():
    now = reading()
    for gamma, expected in ((0.0, 1.0), (1.0, 0.5), (2.0, 0.25), (9.0, 0.1)):
        rule = scaling(target=jnp.array([[0.01], [0.02]]) * math.sqrt(DAY), gamma=gamma, floor=0.1, ceiling=1.0, decay=1.0 - 1e-12)
        _, factor = rule.react(rule.start(now), now)
        assert factor[0, 0] == pytest.approx(expected, rel=1e-9)
        assert factor[1, 0] == pytest.approx(1.0, rel=1e-9)
        assert factor.shape == (2, 2)


# Reactions


@given(
    level=st.floats(0, 1e4),
    more=st.floats(0, 10),
    at=st.floats(0.01, 100),
    slope=st.floats(0, 5),
    floor=st.floats(0.01, 1),
    ceiling=st.floats(1, 5),
)
def test_respond_is_monotone_bounded_and_one_at_its_level(level, more, at, slope, floor, ceiling):
    at, slope, floor, ceiling = (jnp.asarray(x) for x in (at, slope, floor, ceiling))
    low, high = (float(respond(jnp.asarray(x), at, slope, floor, ceiling)) for x in (level + more, level))
    assert floor <= low <= high <= ceiling
    assert respond(at, at, slope, floor, ceiling) == pytest.approx(1, rel=1e-12)


def test_respond_is_continuous_and_is_its_formula_between_the_bounds():
    level = jnp.linspace(0, 5, 50_001)
    factor = respond(level, *(jnp.asarray(x) for x in (1.0, 2.0, 0.1, 2.0)))
    # steepest where the ceiling ends: 2 x 2^1.5 = 5.7 for steps of 1e-4
    assert jnp.abs(jnp.diff(factor)).max() < 5.8e-4
    inside = (factor > 0.1) & (factor < 2)
    assert np.asarray(factor[inside]) == pytest.approx(np.asarray(level[inside]) ** -2.0, rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_derivatives_of_respond_are_finite_at_zero(dtype):
    levels, slopes = (jnp.asarray(x, dtype) for x in np.meshgrid([0.0, 1e-30, 1.0, 1e30], [0.0, 0.5, 2.0, 8.0]))
    gradient = jax.jit(jax.grad(lambda *x: respond(*x).sum(), argnums=(0, 1, 2, 3, 4)))
    assert all(np.isfinite(g).all() for g in gradient(levels, jnp.asarray(0.5, dtype), slopes, jnp.asarray(0.2, dtype), jnp.asarray(1.5, dtype)))


def test_levels_are_read_as_they_are_named():
    now = reading()
    assert READS["pool_utilisation"](now) == pytest.approx(np.array([[40.0, 40.0], [0.75, 0.25]]))
    assert READS["concentration"](now) == pytest.approx(np.array([[15.0, 10.0], [0.0, 0.0]]))
    assert READS["funding"](now) == pytest.approx(np.array([[0.001, 0.002], [0.0, 0.0]]))
    assert READS["systemic_gauge"](now) == pytest.approx(np.array([[0.5, 2.0], [0.0, 1.0]]))


def test_a_fund_that_is_gone_is_the_highest_utilisation():
    levels = [float(READS["pool_utilisation"](reading(insurance_fund=(fund, 0.0)))[0, 0]) for fund in (1e6, 1e3, 1.0, 1e-6, 0.0)]
    assert levels == sorted(levels) and levels[-1] == reactions.LARGEST_RATIO
    # the same for a market that is gone; a pool with nothing at risk uses nothing
    assert READS["concentration"](reading(depth=(0.0, 0.0)))[0, 0] == reactions.LARGEST_RATIO
    idle = reading(open_interest=((0.0, 0.0), (0.0, 0.0)), insurance_fund=(0.0, 0.0))
    assert READS["pool_utilisation"](idle)[0].tolist() == [0, 0]


def test_a_reaction_with_parameters_of_every_pool_and_asset():
    rule = Reaction(at=jnp.array([[20.0, 40.0], [0.75, 0.125]]), slope=1.0, floor=0.6, ceiling=1.0)
    memory, factor = rule.react(rule.start(reading()), reading())
    assert memory == ()
    assert factor == pytest.approx(np.array([[0.6, 1.0], [1.0, 0.6]]))


# Size


@jax.jit
def _requirement(schedule, n, scale):
    empty = jnp.zeros((1, 1, 1))
    floor, step = add_hinges(schedule, empty, empty, scale.reshape(1, 1))
    return tier_margin(n, floor[0], step[0])


def requirement(schedule, n, scale):
    """Margin of notionals (N,) under the hinges of a schedule alone, one pool and asset."""
    return np.asarray(_requirement(cast(schedule, jnp.float64), jnp.asarray(n, float), jnp.asarray(scale, float)))


def stepped(brackets, unit):
    at, rates = np.array([b[0] for b in brackets]) / unit, np.array([b[1] for b in brackets])
    return SteppedSize(at=jnp.asarray(at), rate_increase=jnp.asarray(np.diff(rates, prepend=0.0)))


@pytest.mark.parametrize("unit", [1.0, 2.5e6])
def test_stepped_brackets_are_the_published_table(unit):
    schedule = stepped(BRACKETS, unit)
    for (low, rate, amount), (high, _, _) in zip(BRACKETS, (*BRACKETS[1:], (3e9, 0, 0)), strict=True):
        n = np.array([low, (low + high) / 2, high], float)
        assert requirement(schedule, n, unit) == pytest.approx(rate * n - amount, rel=1e-10, abs=1e-6)


def test_the_brackets_are_those_of_the_venue(real_data):
    if real_data is None:
        return
    with gzip.open(real_data / "binance_leverage_tiers" / "tiers_full_2026-09-29.csv.gz", "rt", newline="", encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["symbol"] == "BTC/USDT:USDT"]
    assert [(float(r["min_notional"]), float(r["mmr"]), float(r["cum"])) for r in rows] == [tuple(map(float, b)) for b in BRACKETS]


def test_brackets_follow_their_scale():
    schedule = stepped(BRACKETS, 1e6)
    n = np.geomspace(1e4, 1e9, 60)
    # half the depth: the same rate for half the size
    assert requirement(schedule, n / 2, 5e5) == pytest.approx(requirement(schedule, n, 1e6) / 2, rel=1e-12)
    assert (requirement(schedule, n, 5e5) >= requirement(schedule, n, 1e6)).all()
    # no market at all: every USD at the highest rate
    assert requirement(schedule, n, 0.0) == pytest.approx(0.5 * n)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("points", [2, 5, 8])
def test_smooth_size_is_the_integral_of_its_rate_at_the_knots_and_a_little_more_between(power, points):
    amount, most, scale = 0.01, 0.2, 3e6
    schedule = SmoothSize(amount=amount, power=power, most=most, points=points)
    last = scale * (most / amount) ** (1 / power)

    def integral(n):
        inside = np.minimum(n, last)
        return amount * scale / (power + 1) * (inside / scale) ** (power + 1) + most * (n - inside)

    knots = scale * np.asarray(schedule.hinges()[0])
    assert len(knots) == points and knots[-1] == pytest.approx(last)
    assert requirement(schedule, knots, scale) == pytest.approx(integral(knots), rel=1e-9)
    beyond = last * np.array([1.5, 10.0])
    assert requirement(schedule, beyond, scale) == pytest.approx(integral(beyond), rel=1e-9)
    between = np.concatenate([np.linspace(a, b, 50)[1:] for a, b in itertools.pairwise(knots)])
    excess = (requirement(schedule, between, scale) - integral(between)) / between
    assert excess.min() > -1e-12
    # met to the letter for a power of one
    assert excess.max() <= (1 + 1e-9) * most / (points - 1) ** 2 * max(1 / (2 * power), 1 / (power + 1))


@given(power=st.floats(0.25, 4), amount=st.floats(1e-4, 0.2), most=st.floats(0.05, 0.5), scale=st.floats(1e3, 1e9))
def test_smooth_size_rises_without_steps_and_ever_more_steeply(power, amount, most, scale):
    at, rise = SmoothSize(amount=amount, power=power, most=most).hinges()
    assert at[0] == 0 and (np.diff(at) > 0).all()
    # rises of the rate >= 0 is convexity, which the exact liquidation solve needs; all of them are the highest rate
    assert rise.min() >= -1e-12 * most and rise.sum() == pytest.approx(most)
    knots = scale * np.asarray(at)
    for side in (1 - 1e-9, 1 + 1e-9):
        schedule = SmoothSize(amount=amount, power=power, most=most)
        gap = requirement(schedule, knots * side, scale) - requirement(schedule, knots, scale)
        assert (np.abs(gap) <= 1.01e-9 * most * knots).all()


def test_hinges_add_to_the_tiers_and_the_line_of_a_tier_still_holds():
    schedule = stepped(BRACKETS, 1e6)
    tiers_floor, tiers_step = jnp.array([[[0.0, 5e6]] * 2] * 2), jnp.array([[[0.01, 0.02]] * 2] * 2)
    scale = jnp.array([[1e6, 2e6], [0.0, 5e5]])
    floor, step = add_hinges(schedule, tiers_floor, tiers_step, scale)
    assert floor.shape == step.shape == (2, 2, 2 + len(BRACKETS))
    for n in (1e3, 4e6, 2e8):
        n = jnp.full((2, 2), n)
        whole = tier_margin(n, floor, step)
        alone = [requirement(schedule, float(x), float(s)) for x, s in zip(n.ravel(), scale.ravel(), strict=True)]
        assert whole == pytest.approx(np.asarray(tier_margin(n, tiers_floor, tiers_step)) + np.reshape(alone, (2, 2)), rel=1e-12)
        rate, deduction = tier_line(n, floor, step)
        assert rate * n - deduction == pytest.approx(np.asarray(whole), rel=1e-9)


def test_no_amount_is_no_margin_and_schedules_can_differ_by_pool_and_asset():
    schedule = SmoothSize(amount=jnp.array([[0.0, 0.01], [0.02, 0.0]]), power=0.5, most=0.1)
    floor, step = add_hinges(schedule, jnp.zeros((2, 2, 1)), jnp.zeros((2, 2, 1)), jnp.full((2, 2), 1e6))
    n = jnp.full((2, 2), 1e6)
    assert (tier_margin(n, floor, step) > 0).tolist() == [[False, True], [True, False]]
    assert jnp.isfinite(floor).all() and jnp.isfinite(step).all()


@pytest.mark.parametrize(("relative_to", "expected"), [("depth", [[2e6, 1e6]] * 2), ("open_interest", [[3e7, 1e7], [0, 0]]), ("usd", [[1, 1]] * 2)])
def test_the_scale_of_size_is_what_it_is_named(relative_to, expected):
    assert size_scale(SmoothSize(0.01, 0.5, 0.1, relative_to=relative_to), reading()).tolist() == expected


# Every rule


RULES = {
    "ewma": scaling(decay=0.97),
    "garch": scaling(estimator="garch", long_run=0.5, alpha=0.08, beta=0.9),
    "range": scaling(estimator="range", bar=2, decay=0.95),
    "steep": scaling(gamma=20.0, floor=0.2, ceiling=2.0),
    "tools": scaling(stress_weight=0.25, stress_volatility=1.0, least=0.3, buffer=0.25, release=1.2),
    **{name: Reaction(at=0.7, slope=1.5, floor=0.2, ceiling=2.0, reads=name) for name in READS},
}
READINGS = {
    "usual": reading((0.03, -0.01)),
    "nothing": replace(jax.tree.map(jnp.zeros_like, reading()), steps_per_year=jnp.asarray(DAY)),
    "still": reading(reference_variance=(0.0, 0.0)),
    "violent": reading((3.0, -5.0), insurance_fund=(0.0, 0.0), depth=(0.0, 0.0), funding_rate=((-9.0, 9.0), (0.0, 0.0))),
}


def steps_of(rule, now, steps=2):
    """Factors (steps, V, A) of a rule that reads the same all along."""
    memory, factors = rule.start(now), []
    for _ in range(steps):
        memory, factor = rule.react(memory, now)
        factors.append(factor)
    return jnp.stack(factors)


@functools.cache
def factors_and_gradients(dtype):
    """For every rule, twice over, and every reading: the factors, and the gradient of their sum in rule and reading. Compiled as one."""
    readings = jax.tree.map(lambda *x: jnp.stack(x), *(cast(x, dtype) for x in READINGS.values()))
    rules = {name: jax.tree.map(lambda x: jnp.stack([x, x]), cast(rule, dtype)) for name, rule in RULES.items()}

    def one(rule, now):
        return steps_of(rule, now), jax.grad(lambda r, x: steps_of(r, x).sum(), argnums=(0, 1))(rule, now)

    every = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
    return jax.jit(lambda rules, readings: {name: every(rule, readings) for name, rule in rules.items()})(rules, readings)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", RULES)
def test_rules_work_under_jit_vmap_and_grad_in_both_precisions(name, dtype):
    factors, gradients = factors_and_gradients(dtype)[name]
    assert factors.dtype == dtype and factors.shape == (2, len(READINGS), 2, 2, 2)
    assert np.isfinite(factors).all() and (np.asarray(factors) > 0).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    # and as they stand, without a compiler
    rule, now = cast(RULES[name], dtype), cast(READINGS["usual"], dtype)
    with jax.disable_jit():
        first = rule.react(rule.start(now), now)[1]
    assert first.dtype == dtype and np.asarray(first) == pytest.approx(np.asarray(factors[0, 0, 0]), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "field"),
    [("ewma", "target"), ("ewma", "decay"), ("garch", "alpha"), ("range", "decay"), ("tools", "stress_weight"), ("concentration", "at")],
)
def test_the_derivative_of_the_factor_is_its_finite_difference(name, field):
    now, rule = reading((0.03, -0.01), depth=(4e7, 2e7)), cast(RULES[name], jnp.float64)

    @jax.jit
    def total(x):
        return steps_of(replace(rule, **{field: x}), now).sum()

    x = getattr(rule, field)
    h = 1e-6 * x
    assert float(jax.grad(total)(x)) == pytest.approx(float((total(x + h) - total(x - h)) / (2 * h)), rel=1e-5)
    assert jax.grad(total)(x) != 0


SCHEDULES = {"smooth": SmoothSize(0.01, 0.5, 0.1), "none": SmoothSize(0.0, 0.25, 0.1), "stepped": stepped(BRACKETS, 1e6)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_size_works_under_jit_vmap_and_grad_in_both_precisions(dtype):
    n = jnp.asarray([0.0, 1e5, 1e12], dtype)
    tiers_floor, tiers_step = jnp.zeros((1, 1, 1), dtype), jnp.full((1, 1, 1), 0.01, dtype)

    def margin(schedule, scale):
        floor, step = add_hinges(schedule, tiers_floor, tiers_step, scale)
        total = tier_margin(n, floor[0], step[0])
        return total.sum(), total

    every = jax.vmap(jax.value_and_grad(margin, argnums=(0, 1), has_aux=True), in_axes=(None, 0))
    scales = jnp.asarray([[[0.0]], [[1e6]]], dtype)
    schedules = {name: cast(schedule, dtype) for name, schedule in SCHEDULES.items()}
    results = jax.jit(lambda x: {name: every(schedule, scales) for name, schedule in x.items()})(schedules)
    for (_, margins), gradients in results.values():
        assert margins.dtype == dtype and np.isfinite(margins).all()
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_the_derivative_of_a_smooth_requirement_is_its_finite_difference():
    @jax.jit
    def margin(amount, power, most, scale):
        floor, step = add_hinges(SmoothSize(amount, power, most), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), scale.reshape(1, 1))
        return tier_margin(jnp.asarray([2e5, 3e6, 5e7]), floor[0], step[0]).sum()

    at = [jnp.asarray(x) for x in (0.01, 0.5, 0.1, 1e6)]
    for i, gradient in enumerate(jax.grad(margin, argnums=(0, 1, 2, 3))(*at)):
        up, down = ([x * (1 + sign * 1e-6) if j == i else x for j, x in enumerate(at)] for sign in (1, -1))
        assert float(gradient) == pytest.approx(float((margin(*up) - margin(*down)) / (2e-6 * at[i])), rel=1e-5)


def test_smooth_size_in_single_precision_is_that_in_double():
    # small powers put the knots far apart
    for power in (0.25, 0.5, 2.0):
        floors = [np.asarray(SmoothSize(*(jnp.asarray(x, d) for x in (0.001, power, 0.3))).hinges()[0]) for d in (jnp.float32, jnp.float64)]
        assert floors[0] == pytest.approx(floors[1], rel=1e-4)
