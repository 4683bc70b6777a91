"""Intervals cover as often as they say, and weights of importance sampling bring back what brute force finds."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import poisson

from stresslev import intervals
from tests.generator_cases import JUMPS, drawn, generator, per_step

CONFIDENCE, REPEATS = 0.9, 600
#: Standard error of a coverage, three and a half times.
SLACK = 3.5 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / REPEATS)


def _coverage(make, truth: float, of, *arguments) -> float:
    found = [of(*make(np.random.default_rng((11, i))), *arguments) for i in range(REPEATS)]
    return np.mean([f.low <= truth <= f.high for f in found])


def _exponential(n):
    return lambda rng: (rng.exponential(size=n),)


def test_intervals_of_exponentials_cover():
    """Quantiles and shortfalls of the exponential are -log(1 - p) and one more."""
    assert abs(_coverage(_exponential(300), 1.0, intervals.mean, CONFIDENCE) - CONFIDENCE) < SLACK
    # between order statistics the coverage is at least as stated, and not by much at this size
    found = _coverage(_exponential(300), np.log(10), intervals.quantile, 0.9, CONFIDENCE)
    assert CONFIDENCE - SLACK < found < 0.97
    assert abs(_coverage(_exponential(2000), np.log(10) + 1, intervals.expected_shortfall, 0.9, CONFIDENCE) - CONFIDENCE) < SLACK + 0.02
    found = _coverage(lambda rng: (rng.random(200) < 0.03,), 0.03, intervals.probability, CONFIDENCE)
    assert found > CONFIDENCE - SLACK


def test_a_normal_tail_drawn_elsewhere_is_weighted_back():
    """X from N(2.5, 1) instead of N(0, 1): the weights give back mean, tail probability, quantile and shortfall, and cover."""

    def moved(rng):
        x = rng.normal(2.5, 1, 1000)
        return x, np.exp(-2.5 * x + 2.5**2 / 2)

    def weighted(of, *arguments):
        return lambda x, w, confidence: of(x, *arguments, confidence, w)

    p, density = 1 - ndtr(2.5), np.exp(-(2.5**2) / 2) / np.sqrt(2 * np.pi)
    cases = ((2.5, weighted(intervals.quantile, 1 - p)), (density / p, weighted(intervals.expected_shortfall, 1 - p)))
    for truth, of in cases:
        assert abs(_coverage(moved, truth, of, CONFIDENCE) - CONFIDENCE) < SLACK + 0.02
    found = _coverage(moved, p, lambda x, w, c: intervals.probability(x > 2.5, c, w), CONFIDENCE)
    assert abs(found - CONFIDENCE) < SLACK + 0.02


def test_too_few_values_have_open_ends():
    x = np.arange(20.0)
    assert intervals.quantile(x, 0.95, 0.95).high == np.inf and intervals.quantile(x, 0.95, 0.95).low > 0
    assert intervals.expected_shortfall(x, 0.95, 0.95).half_width == np.inf
    assert intervals.quantile(np.arange(1000.0), 0.95, 0.95).half_width < 20
    assert intervals.mean(np.array([3.0]), 0.95).half_width == np.inf
    none = intervals.probability(np.zeros(100, bool), 0.95)
    assert none.low == none.value == 0 and none.high == pytest.approx(1 - 0.025 ** (1 / 100))  # Clopper and Pearson's closed form at 0


def test_the_quantile_interval_is_the_binomials():
    """n = 10, median: from the 2nd to the 9th value covers with 1 - 2 (1 + 10) / 1024 = 0.9785."""
    found = intervals.quantile(np.arange(1.0, 11.0), 0.5, 0.97)
    assert (found.value, found.low, found.high) == (5, 2, 9)
    assert intervals.quantile(np.arange(1.0, 11.0), 0.5, 0.98).low == 1


def test_a_constant_has_no_error_under_any_weights():
    w = np.exp(np.random.default_rng(0).normal(size=50))
    found = intervals.mean(np.full(50, 7.0), 0.95, w)
    assert found.value == pytest.approx(7) and found.half_width < 1e-9
    assert intervals.effective(np.ones(9)) == pytest.approx(9)


def _merton_tail(spec, threshold: float) -> float:
    """P(total log return < threshold): a Poisson mixture of normals (Merton 1976)."""
    rate, steps = spec.model.jumps_per_day * spec.duration_minutes / 1440, spec.steps
    n = np.arange(200)
    mean = n * -0.01 - rate * -0.01
    variance = per_step(0.8, spec) * steps + n * 0.015**2
    return float(poisson.pmf(n, rate) @ ndtr((threshold - mean) / np.sqrt(variance)))


BOTH = {"shift": -1.5, "jump_intensity_factor": 2.0, "jump_shift": -0.5}


@pytest.mark.parametrize("tilt", [{"shift": -3.0}, {"jump_intensity_factor": 4.0}, {"jump_shift": -1.0}, BOTH])
def test_importance_sampling_finds_mertons_tail(tilt):
    """Against the closed form, and where it is not too rare against brute force; tilting what losses come from takes fewer paths than counting."""
    model = {"kind": "jump_diffusion", "jumps_per_day": 3.0}
    day = {"duration_minutes": 1440, "step_minutes": 60}
    spec = generator(model, JUMPS, **day)
    found = drawn(generator(model, JUMPS, importance=tilt, **day), 2000)
    total, weights = found.returns.sum(axis=(1, 2)), np.exp(found.log_weight)
    assert weights.max() <= 1 / 0.1 + 1e-9
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights))
    for threshold, least in ((-0.08, 1.5), (-0.16, 4)):
        truth = _merton_tail(spec, threshold)
        said = intervals.probability(total < threshold, 0.999, weights)
        assert said.low <= truth <= said.high, (threshold, truth, said)
        saved = truth * (1 - truth) / len(total) / ((said.high - said.low) / 2 / 3.29) ** 2  # variance of counting over that of weighting
        assert saved > least or tilt is not BOTH, saved
    counted = intervals.probability(drawn(spec, 2000).returns.sum(axis=(1, 2)) < -0.08, 0.999)
    said = intervals.probability(total < -0.08, 0.999, weights)
    assert max(counted.low, said.low) <= min(counted.high, said.high)


HAWKES = {"kind": "hawkes", "jumps_per_day": 3.0, "branching_ratio": 0.5, "half_life_minutes": 60.0}
GARCH = {"start_price_usd": 1.0, "volatility": 0.8, "alpha": 0.1, "beta": 0.8, "degrees_of_freedom": 5.0}
REGIMES = {"kind": "regime_switching", "regimes": [{"name": "a"}, {"name": "b"}], "transition": [[0.9, 0.1], [0.2, 0.8]]}


@pytest.mark.parametrize(
    ("model", "asset", "tilt"),
    [
        (HAWKES, JUMPS, {"jump_intensity_factor": 2.0, "jump_shift": -0.5}),
        ({"kind": "garch"}, GARCH, {"shift": -2.0}),
        (REGIMES, {"start_price_usd": 1.0, "volatility": [0.5, 1.0]}, {"shift": -2.0}),
    ],
)
def test_weights_of_every_model_bring_brute_force_back(model, asset, tilt):
    given = {"duration_minutes": 1440, "step_minutes": 60}
    plain = drawn(generator(model, asset, **given), 4000).returns.sum(axis=(1, 2))
    found = drawn(generator(model, asset, importance=tilt, **given), 2000)
    total, weights = found.returns.sum(axis=(1, 2)), np.exp(found.log_weight)
    threshold = float(np.quantile(plain, 0.02))
    a, b = intervals.probability(plain < threshold, 0.999), intervals.probability(total < threshold, 0.999, weights)
    assert max(a.low, b.low) <= min(a.high, b.high)
    assert (total < threshold).mean() > 0.06  # it does draw where the losses are
    assert b.half_width < 0.8 * a.half_width * np.sqrt(2)  # at equal numbers of paths
