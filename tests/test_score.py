"""The account-level risk score: its features against loops over single accounts, what it may and may not do, and the statistics behind it."""

import math
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import scoring
from stresslev.engine.health import Prices
from stresslev.engine.leverage.score import (
    DISTANCE_BOUND,
    FEATURES,
    LEVERAGE_BOUNDS,
    SIGNS,
    RiskScore,
    account_factor,
    features,
    log_odds,
    net_exposure,
)
from stresslev.engine.types import cast
from tests.oracle import twin
from tests.oracle.margin import equity, maintenance, margin_equity, notionals
from tests.systems import engine_case, random_case

STEPS_PER_YEAR = 525_600.0
_features = jax.jit(features)
_factor = jax.jit(account_factor)
STRUCTURES = {"thin": (), "coins": ("coins", "size"), "portfolio": ("portfolio",)}


def _moved(system, seed: int):
    """Marks (V, A) away from the reference, and the engine's view of them."""
    rng = np.random.default_rng(seed)
    reference = system["reference_price"]
    mark = reference * np.exp(rng.normal(0, 0.05, (system["n_pools"], system["n_assets"])))
    return mark, Prices(mark=mark, mark_displaced=mark - reference, venue=mark, venue_displaced=mark - reference, funding=np.zeros_like(mark))


def _correlation(assets: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(assets, assets + 2))
    covariance = factor @ factor.T
    deviation = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviation, deviation)


def _deltas(rules, account, mark) -> np.ndarray:
    """(A,) USD that an account gains when a price rises by 1, relative."""
    v = account.pool
    return np.array([(0 if rules.inverse[v, a] else account.q[a] * mark[v, a]) + account.k[a] * mark[v, a] for a in range(rules.A)])


def _by_hand(system, book, mark, covariance) -> np.ndarray:
    """(N, 5) features, one account at a time, by the twin's margin and plain formulas; `covariance` (A, A) per year."""
    rules = twin.read_system(system)
    state = twin.opening_state(rules, book)
    state.multiplier = system["maintenance_multiplier"]
    crowd = np.zeros((rules.V, rules.A))
    for account in state.perps:
        crowd[account.pool] += _deltas(rules, account, mark)
    rows = []
    for account in state.perps:
        held = notionals(rules, account, mark)
        total = sum(held)
        if total == 0:
            rows.append([math.log(LEVERAGE_BOUNDS[0]), 0.0, math.asinh(DISTANCE_BOUND), 0.0, 0.0])
            continue
        own = equity(rules, state, account, mark)
        leverage = LEVERAGE_BOUNDS[1] if own <= 0 else min(max(total / own, LEVERAGE_BOUNDS[0]), LEVERAGE_BOUNDS[1])
        z, pool = _deltas(rules, account, mark), crowd[account.pool]
        deviation = math.sqrt(z @ covariance @ z)
        volatility = deviation / total
        buffer = (margin_equity(rules, state, account, mark) - maintenance(rules, state, account, mark)) / total
        distance = min(max(buffer / (volatility / math.sqrt(365)), -DISTANCE_BOUND), DISTANCE_BOUND)
        crowding = (z @ covariance @ pool) / (deviation * math.sqrt(pool @ covariance @ pool))
        rows.append([math.log(leverage), sum((n / total) ** 2 for n in held), math.asinh(distance), volatility, crowding])
    return np.array(rows)


def _measured(system, book, path, prices, correlation, dtype=np.float64) -> np.ndarray:
    """(N, 5) by the engine."""
    case = engine_case(system, book, path, dtype)
    prices, correlation = cast(prices, dtype), jnp.asarray(correlation, dtype)
    years = jnp.asarray(STEPS_PER_YEAR, dtype)
    found = []
    for population in case.populations:
        arguments = (cast(population, dtype), case.system, case.policy.maintenance_multiplier, prices, case.system.reference_variance, years)
        found.append(np.stack([np.asarray(x).reshape(-1) for x in _features(*arguments, correlation)]))
    return np.array([found[k][:, slot] for k, slot in case.perps])


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("matrix", [False, True], ids=["one correlation", "matrix"])
def test_features_are_those_of_loops_over_accounts(structure, matrix):
    for seed in (2, 6):  # of one shape
        system, book, path = random_case(seed, STRUCTURES[structure])
        assets = system["n_assets"]
        mark, prices = _moved(system, seed)
        together = _correlation(assets, seed) if matrix else 0.6 + 0.4 * np.eye(assets)
        deviation = np.sqrt(system["reference_variance"] * STEPS_PER_YEAR)
        want = _by_hand(system, book, mark, together * np.outer(deviation, deviation))
        got = _measured(system, book, path, prices, together if matrix else 0.6)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
        in_single = _measured(system, book, path, prices, together if matrix else 0.6, np.float32)
        assert in_single.dtype == np.float32
        np.testing.assert_allclose(in_single, want, rtol=2e-3, atol=2e-3)


def _case(seed: int = 1):
    """A thin case with a block of accounts of every awkward sort; population, system, multiplier, prices."""
    system, book, path = random_case(seed)
    case = engine_case(system, book, path)
    _, prices = _moved(system, seed)
    return case.populations[0], case.system, case.policy.maintenance_multiplier, cast(prices, np.float64)


def _find(accounts, system, multiplier, prices, correlation=0.7, variance=None, dtype=np.float64):
    accounts, system, prices = (cast(x, dtype) for x in (accounts, system, prices))
    variance = system.reference_variance if variance is None else jnp.asarray(variance, dtype)
    years = jnp.asarray(STEPS_PER_YEAR, dtype)
    return _features(accounts, system, jnp.asarray(multiplier, dtype), prices, variance, years, jnp.asarray(correlation, dtype))


def _within_bounds(found) -> None:
    for x in found:
        assert np.isfinite(np.asarray(x)).all()
    leverage, concentration, distance, volatility, crowding = (np.asarray(x) for x in found)
    slack = 1e-6
    assert (np.log(LEVERAGE_BOUNDS[0]) - slack <= leverage).all() and (leverage <= np.log(LEVERAGE_BOUNDS[1]) + slack).all()
    assert (concentration >= 0).all() and (concentration <= 1 + slack).all()
    assert (np.abs(distance) <= np.arcsinh(DISTANCE_BOUND) + slack).all()
    assert (volatility >= 0).all() and (np.abs(crowding) <= 1).all()


def _alternating(accounts):
    """(nb, B) 1 and -1 in turn."""
    return jnp.where(jnp.arange(accounts.quantity[0].shape[1])[None, :] % 2 == 0, 1.0, -1.0) * jnp.ones_like(accounts.quantity[0])


AWKWARD = {
    "no positions": lambda a: replace(a, quantity=tuple(0 * q for q in a.quantity)),
    "no equity": lambda a: replace(a, equity_at_reference=0 * a.equity_at_reference),
    "bankrupt": lambda a: replace(a, equity_at_reference=-1e9 * jnp.ones_like(a.equity_at_reference)),
    "nothing at all": lambda a: replace(a, quantity=tuple(0 * q for q in a.quantity), equity_at_reference=0 * a.equity_at_reference),
    "dust": lambda a: replace(a, quantity=tuple(1e-12 * q for q in a.quantity)),
    "whales": lambda a: replace(a, quantity=tuple(1e6 * q for q in a.quantity)),
    "one asset, half long and half short": lambda a: replace(a, quantity=(_alternating(a), *(0 * q for q in a.quantity[1:]))),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sort", AWKWARD)
def test_every_account_has_finite_features_within_bounds(sort, correlation, dtype):
    accounts, system, multiplier, prices = _case()
    accounts = AWKWARD[sort](accounts)
    for variance in (None, np.zeros(system.reference_price.shape)):
        found = _find(accounts, system, multiplier, prices, correlation, variance, dtype)
        assert all(x.dtype == dtype for x in found)
        _within_bounds(found)


def test_accounts_without_positions_are_the_safest():
    accounts, system, multiplier, prices = _case()
    found = _find(AWKWARD["no positions"](accounts), system, multiplier, prices)
    for x, value in zip(found, (math.log(LEVERAGE_BOUNDS[0]), 0.0, math.asinh(DISTANCE_BOUND), 0.0, 0.0), strict=True):
        np.testing.assert_allclose(np.asarray(x), value, rtol=1e-12)


def test_a_perfect_hedge_bears_no_risk():
    """Two assets that move as one, held against each other: no volatility, no crowd to be with, as far from liquidation as can be."""
    accounts, system, multiplier, prices = _case()
    mark = prices.mark[accounts.block_pool]
    one = jnp.ones_like(accounts.quantity[0])
    held = [one / mark[:, 0:1], -one / mark[:, 1:2]] + [0 * one for _ in accounts.quantity[2:]]
    hedged = replace(accounts, quantity=tuple(held), equity_at_reference=10 * one)
    variance = np.full(system.reference_price.shape, 1e-6)
    for dtype in (np.float32, np.float64):
        _, _, distance, volatility, crowding = _find(hedged, system, 0 * multiplier, prices, 1.0, variance, dtype)
        assert not volatility.any() and not crowding.any()
        np.testing.assert_allclose(np.asarray(distance), math.asinh(DISTANCE_BOUND), rtol=1e-6)


def test_the_crowd_goes_with_itself_and_against_its_opponents():
    accounts, system, multiplier, prices = _case()
    crowd = net_exposure(accounts, system, multiplier, prices)
    per_coin = crowd[accounts.block_pool] / prices.mark[accounts.block_pool]
    signs = _alternating(accounts)
    alike = replace(accounts, quantity=tuple(per_coin[:, a : a + 1] * signs for a in range(len(accounts.quantity))))
    years = jnp.asarray(STEPS_PER_YEAR)
    found = _features(alike, system, multiplier, prices, system.reference_variance, years, jnp.asarray(0.3), crowd)
    np.testing.assert_allclose(np.asarray(found[4]), np.asarray(signs), rtol=1e-12)


def test_a_single_contract_has_the_volatility_and_distance_of_its_asset():
    """One asset at 80% a year, equity a fifth of the position, nothing required: 0.2 / (0.8 / sqrt(365)) daily deviations."""
    accounts, system, multiplier, prices = _case()
    mark = prices.mark[accounts.block_pool][:, 0:1]
    one = jnp.ones_like(accounts.quantity[0])
    gain = prices.mark_displaced[accounts.block_pool][:, 0:1] / mark
    single = replace(accounts, quantity=(1000 * one / mark, *(0 * one for _ in accounts.quantity[1:])), equity_at_reference=200 - 1000 * gain * one)
    variance = np.full(system.reference_price.shape, 0.8**2 / STEPS_PER_YEAR)
    leverage, concentration, distance, volatility, _ = _find(single, system, 0 * multiplier, prices, 0.7, variance)
    for found, value in ((leverage, math.log(5)), (concentration, 1), (volatility, 0.8), (distance, math.asinh(0.2 / 0.8 * math.sqrt(365)))):
        np.testing.assert_allclose(np.asarray(found), value, rtol=1e-9)


SCORE = RiskScore(
    weights=jnp.array([1.5, 0.2, -2.0, 0.3, 0.7]),
    mean=jnp.array([1.0, 0.8, 3.0, 0.5, 0.1]),
    scale=jnp.array([0.7, 0.2, 0.8, 0.15, 0.9]),
    intercept=jnp.array(-1.0),
    steepness=jnp.array(1.3),
    midpoint=jnp.array(0.4),
    floor=jnp.array(0.2),
    correlation=jnp.array(0.7),
)


def test_the_factor_is_the_formula():
    x = [0.5, 0.9, 2.0, 0.7, -0.3]
    s = -1.0 + sum(w * (v - m) / d for w, v, m, d in zip(*(np.asarray(f).tolist() for f in (SCORE.weights, x, SCORE.mean, SCORE.scale)), strict=True))
    found = tuple(jnp.full((1, 2), v) for v in x)
    np.testing.assert_allclose(np.asarray(log_odds(SCORE, found)), s, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(account_factor(SCORE, found)), 0.2 + 0.8 / (1 + math.exp(1.3 * (s - 0.4))), rtol=1e-12)


def test_by_default_the_factor_is_one_minus_the_probability():
    plain = replace(SCORE, steepness=jnp.array(1.0), midpoint=jnp.array(0.0), floor=jnp.array(0.0))
    found = tuple(jnp.full((1, 1), v) for v in (0.5, 0.9, 2.0, 0.7, -0.3))
    probability = scoring.sigmoid(np.asarray(log_odds(plain, found)))
    np.testing.assert_allclose(np.asarray(account_factor(plain, found)), 1 - probability, rtol=1e-12)


@settings(max_examples=60)
@given(
    x=st.lists(st.floats(-7, 7), min_size=5, max_size=5),
    which=st.integers(0, 4),
    by=st.floats(0, 5),
    k=st.floats(0, 50),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_factor_never_rises_with_risk_and_stays_in_its_bounds(x, which, by, k, dtype):
    score = cast(replace(SCORE, steepness=jnp.array(k)), dtype)
    riskier = [v + SIGNS[j] * by * (j == which) for j, v in enumerate(x)]
    before, after = (float(_factor(score, tuple(jnp.full((1, 1), v, dtype) for v in values))[0, 0]) for values in (x, riskier))
    assert after <= before
    assert float(score.floor) <= after <= before <= 1


def _total(values, score, variance, correlation, accounts, system, multiplier, prices):
    """The sum of all factors, as a function of equities and quantities."""
    equities, quantities = values
    changed = replace(accounts, equity_at_reference=equities, quantity=quantities)
    return jnp.sum(account_factor(score, features(changed, system, multiplier, prices, variance, jnp.asarray(STEPS_PER_YEAR), correlation)))


_slopes = jax.jit(jax.grad(_total, argnums=(0, 1, 2, 3)))


@pytest.mark.parametrize("sort", ["as drawn", *AWKWARD])
def test_derivatives_are_finite_for_every_account(sort):
    accounts, system, multiplier, prices = _case()
    if sort != "as drawn":
        accounts = AWKWARD[sort](accounts)
    values = (accounts.equity_at_reference, accounts.quantity)
    for variance in (system.reference_variance, 0 * system.reference_variance):
        slopes = _slopes(values, SCORE, variance, jnp.asarray(0.7), accounts, system, multiplier, prices)
        for leaf in jax.tree.leaves(slopes):
            assert np.isfinite(np.asarray(leaf)).all()


def test_the_derivative_is_that_of_finite_differences():
    accounts, system, multiplier, prices = _case()
    own = accounts.equity_at_reference

    def total(equities):
        return float(jnp.sum(_factor(SCORE, _find(replace(accounts, equity_at_reference=equities), system, multiplier, prices))))

    step = 1e-6
    by_differences = (total(own * (1 + step)) - total(own * (1 - step))) / (2 * step)
    values = (own, accounts.quantity)
    slopes, *_ = _slopes(values, SCORE, system.reference_variance, jnp.asarray(0.7), accounts, system, multiplier, prices)
    assert float(jnp.sum(slopes[0] * own)) == pytest.approx(by_differences, rel=1e-6)


def test_the_score_can_be_mapped_over():
    accounts, system, multiplier, prices = _case()
    found = _find(accounts, system, multiplier, prices)
    many = replace(SCORE, midpoint=jnp.array([0.0, 1.0]))
    axes = jax.tree.map(lambda _: None, SCORE)
    mapped = jax.vmap(lambda s: account_factor(s, found), in_axes=(replace(axes, midpoint=0),))(many)
    np.testing.assert_allclose(np.asarray(mapped[1]), np.asarray(account_factor(replace(SCORE, midpoint=jnp.array(1.0)), found)), rtol=1e-12)


# The fit


def _sample(rng, n: int, weights, intercept=-0.5):
    x = rng.normal(size=(n, len(weights))) @ np.array([[1.0, 0.4, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]]) * [1.0, 3.0, 0.2] + [0.0, 10.0, -1.0]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, rng.random(n) < scoring.sigmoid(intercept + z @ weights)


def test_the_fit_recovers_the_coefficients_it_was_drawn_with():
    """Forty samples of 4,000: the mean of the estimates is within four of its standard errors of the truth, and they spread as they should."""
    rng, truth = np.random.default_rng(5), np.array([0.8, 0.3, -1.1])
    found, errors = [], []
    for _ in range(40):
        x, y = _sample(rng, 4000, truth)
        fitted = scoring.fit(x, y, (1, 1, -1), penalty=1e-3)
        found.append([fitted.intercept, *fitted.weights])
        u = np.column_stack([np.ones(len(y)), (x - fitted.mean) / fitted.scale])
        p = fitted.probability(x)
        errors.append(np.sqrt(np.diag(np.linalg.inv(u.T @ (u * (p * (1 - p))[:, None])))))
    found, error = np.array(found), np.mean(errors, axis=0)
    want = np.array([-0.5, *truth])
    assert (np.abs(found.mean(axis=0) - want) < 4 * error / np.sqrt(40)).all()
    spread = found.std(axis=0, ddof=1) / error
    assert ((spread > 0.6) & (spread < 1.5)).all()


@pytest.mark.parametrize("penalty", [0.1, 1.0, 100.0])
def test_the_fit_meets_the_conditions_of_an_optimum(penalty):
    """Where the data want a weight of the wrong sign it is zero, and the loss would fall only in the forbidden direction (Karush, Kuhn, Tucker)."""
    rng, signs = np.random.default_rng(3), np.array([1.0, 1.0, -1.0])
    x, y = _sample(rng, 3000, np.array([0.8, -0.6, -0.4]))
    fitted = scoring.fit(x, y, tuple(signs), penalty)
    u = (x - fitted.mean) / fitted.scale
    wrong = fitted.probability(x) - y
    slope = u.T @ wrong + penalty * fitted.weights
    assert fitted.weights[1] == 0 and slope[1] > 1
    assert abs(wrong.sum()) < 1e-5 and np.abs(slope[[0, 2]]).max() < 1e-5
    assert (signs * fitted.weights >= 0).all()


def test_the_fit_is_better_than_anything_near_it_and_than_a_coarse_search():
    rng = np.random.default_rng(8)
    x, y = _sample(rng, 500, np.array([0.5, 0.05, -0.7]))
    signs = np.array([1.0, 1.0, -1.0])
    fitted = scoring.fit(x, y, tuple(signs), 1.0)

    def loss(intercept, weights):
        s = intercept + (x - fitted.mean) / fitted.scale @ weights
        return np.sum(np.log1p(np.exp(s)) - y * s) + 0.5 * np.sum(np.square(weights))

    best = loss(fitted.intercept, fitted.weights)
    grid = np.linspace(0, 1.5, 7)
    coarse = [loss(b, signs * np.array([i, j, k])) for b in np.linspace(-1, 1, 9) for i in grid for j in grid for k in grid]
    assert best <= min(coarse)
    for _ in range(200):
        move = rng.normal(size=4) * rng.choice([1e-3, 1e-2, 1e-1])
        weights = signs * np.maximum(signs * (fitted.weights + move[1:]), 0)
        assert loss(fitted.intercept + move[0], weights) >= best


def test_the_fit_stands_separable_outcomes_idle_features_and_rare_ones():
    x = np.column_stack([np.linspace(-1, 1, 200), np.full(200, 7.0)])
    fitted = scoring.fit(x, x[:, 0] > 0.3, (1, 1))
    assert np.isfinite(fitted.weights).all() and fitted.weights[0] > 1 and fitted.weights[1] == 0 and fitted.scale[1] == 1
    rare = scoring.fit(x, np.arange(200) == 199, (1, 1))
    assert rare.probability(x).sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="same outcome"):
        scoring.fit(x, np.zeros(200, bool), (1, 1))


# Measures


def _pairs(score, y) -> float:
    a, b = score[y][:, None], score[~y][None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def test_the_area_is_a_count_of_pairs_with_ties_as_halves():
    rng = np.random.default_rng(1)
    for n, levels in ((40, 5), (300, 1000), (77, 2)):
        score, y = rng.integers(0, levels, n).astype(float), rng.random(n) < 0.3
        assert scoring.auc(score, y).value == pytest.approx(_pairs(score, y), rel=1e-12)
    assert scoring.auc(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])).value == 1
    assert np.isnan(scoring.auc(np.arange(4.0), np.zeros(4, bool)).value)


def test_the_standard_error_of_the_area_is_delongs_and_that_of_the_bootstrap():
    rng = np.random.default_rng(2)
    y = rng.random(400) < 0.25
    score = np.round(rng.normal(size=400) + y, 1)
    area = scoring.auc(score, y)
    a, b = score[y][:, None], score[~y][None, :]
    wins = (a > b) + 0.5 * (a == b)
    by_definition = math.sqrt(wins.mean(axis=1).var(ddof=1) / y.sum() + wins.mean(axis=0).var(ddof=1) / (~y).sum())
    assert area.error == pytest.approx(by_definition, rel=1e-10)
    hits, misses = np.flatnonzero(y), np.flatnonzero(~y)
    drawn = [np.r_[rng.choice(hits, len(hits)), rng.choice(misses, len(misses))] for _ in range(1500)]
    assert area.error == pytest.approx(np.std([scoring.auc(score[d], y[d]).value for d in drawn]), rel=0.1)
    assert area.low < area.value < area.high


def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says():
    """Two normals a deviation apart: the area is Phi(1 / sqrt(2)) = 0.7602."""
    rng, covered, trials = np.random.default_rng(4), 0, 600
    for _ in range(trials):
        y = np.arange(150) < 50
        area = scoring.auc(rng.normal(size=150) + y, y)
        covered += area.low <= 0.760249938906523 <= area.high
    # four standard errors of a share of 0.95
    assert abs(covered / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_the_curve_goes_from_corner_to_corner_and_encloses_the_area():
    rng = np.random.default_rng(6)
    y = rng.random(5000) < 0.2
    score = np.round(rng.normal(size=5000) + 1.5 * y, 2)
    false, true = scoring.roc(score, y, most=100_000)
    assert false[0] == true[0] == 0 and false[-1] == true[-1] == 1
    assert np.trapezoid(true, false) == pytest.approx(scoring.auc(score, y).value, rel=1e-12)
    thin_false, thin_true = scoring.roc(score, y)
    assert len(thin_false) <= 202
    assert np.trapezoid(thin_true, thin_false) == pytest.approx(scoring.auc(score, y).value, abs=2e-3)


def test_the_interval_of_a_share_is_wilsons():
    """Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (hits, count), (low, high) in published.items():
        assert scoring.wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


def test_the_reliability_table_counts_everybody_once():
    rng = np.random.default_rng(7)
    p = rng.random(1003)
    y = rng.random(1003) < p
    bins = scoring.reliability(p, y)
    assert sum(b.count for b in bins) == 1003 and max(b.count for b in bins) - min(b.count for b in bins) == 1
    assert sum(b.count * b.observed for b in bins) == pytest.approx(y.sum()) and sum(b.count * b.predicted for b in bins) == pytest.approx(p.sum())
    assert sum(b.low <= b.predicted <= b.high for b in bins) >= 8
    assert all(a.predicted < b.predicted for a, b in pairwise(bins))


def test_the_brier_score_of_the_base_rate_has_no_skill():
    y = np.array([True, False, False, False])
    assert scoring.brier(np.full(4, 0.25), y) == scoring.Brier(0.1875, 0.1875, 0.0)
    assert scoring.brier(y.astype(float), y) == scoring.Brier(0.0, 0.1875, 1.0)
    assert np.isnan(scoring.brier(np.zeros(4), np.zeros(4, bool)).skill)


def test_features_are_named_in_order():
    assert FEATURES == ("leverage", "concentration", "distance", "volatility", "crowding") and len(SIGNS) == len(FEATURES)
