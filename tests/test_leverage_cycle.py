"""The leverage cycle: the Jacobian says where the fund and its market are calm, and simulation agrees; tails fatten as target leverage rises."""

import importlib.util
import sys

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def cycle():
    """The experiment, as a module."""
    spec = importlib.util.spec_from_file_location("leverage_cycle", ROOT / "experiments" / "leverage_cycle.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["leverage_cycle"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["leverage_cycle"]


def test_the_fixed_point_is_one(cycle):
    for gamma in (0.0, 1.0):
        c = cycle.Cycle(exponent=gamma, quiet=0.5)
        there = cycle._pack(cycle.fixed_point(c))
        after, _ = cycle.jax.jit(lambda c: cycle.step(c, False, cycle.fixed_point(c), 0.0))(c)
        np.testing.assert_allclose(cycle._pack(after), there, rtol=1e-15, atol=1e-18)
        assert there[0] == pytest.approx(5 * 2**gamma, rel=1e-14)


def test_the_jacobian_is_that_of_finite_differences(cycle):
    c = cycle.Cycle()
    there = np.asarray(cycle._pack(cycle.fixed_point(c)))
    image = cycle.jax.jit(lambda v: cycle._pack(cycle.step(c, False, cycle._unpack(c, v), 0.0)[0]))
    nudges = np.diag([1e-6, 1e-6, 1e-6, 1e-6, 1e-9])  # the variance is of the order of 1e-4
    differences = np.stack([(image(there + h) - image(there - h)) / (2 * h.sum()) for h in nudges], axis=1)
    np.testing.assert_allclose(np.asarray(cycle.jacobian(c)), differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("impact", "speed", "recovery"), [(0.05, 0.5, 0.9), (0.01, 1.0, 0.8), (0.3, 0.2, 0.95)])
def test_without_payouts_the_boundary_is_the_closed_form(cycle, impact, speed, recovery):
    """Equity then is a neutral direction: eigenvalue 1. The others cross the unit circle as a pair where their determinant is 1."""
    c = cycle.Cycle(impact=impact, speed=speed, recovery=recovery, payout=0.0)
    edge = cycle.closed_form_boundary(c)
    for share in (0.97, 1.0, 1.03):
        eigen = np.linalg.eigvals(np.asarray(cycle.jacobian(cycle.replace(c, leverage=edge * share))))
        pair = eigen[np.abs(eigen.imag) > 1e-3]
        assert pair.size == 2 and np.min(np.abs(eigen - 1)) < 1e-9
        product = recovery * (1 - speed + speed * impact * edge * share * (edge * share - 1))
        assert np.abs(pair[0]) ** 2 == pytest.approx(product, rel=1e-9)
        assert (np.abs(pair[0]) < 1) == (share < 1) or share == 1


def test_calm_is_where_the_spectral_radius_is_below_one(cycle):
    """Away from the boundary, in every cell of three small planes; each has calm, oscillating and crashing cells."""
    leverage = np.linspace(1.5, 14, 14)[None, :]
    planes = {
        "impact": cycle.grid(leverage=leverage, impact=np.array([0.008, 0.02, 0.05, 0.2])[:, None]),
        "memory": cycle.grid(leverage=leverage, half_life=np.array([1.0, 10.0, 100.0])[:, None]),
        "exponent": cycle.grid(leverage=leverage, exponent=np.array([-1.0, 0.0, 0.5, 1.5])[:, None], quiet=0.5),
    }
    for name, many in planes.items():
        regime = cycle.classify(many)
        found = cycle.agreement(many, regime)
        assert found["agree"] == found["compared"] >= 0.9 * found["cells"], name
        assert set(regime.tolist()) == {0, 1, 2}, name


def test_regimes_follow_each_other_as_leverage_rises(cycle):
    regime = cycle.classify(cycle.grid(leverage=np.array([2.0, 5.0, 6.0, 6.8, 9.0, 14.0])))
    assert [cycle.REGIMES[i] for i in regime] == ["calm", "calm", "oscillation", "oscillation", "crash", "crash"]


def test_the_estimators_memory_does_not_move_the_boundary(cycle):
    """A squared return has no slope where returns are zero, so memory is an eigenvalue of its own."""
    edges = cycle.boundary(cycle.grid(leverage=np.ones(3), half_life=np.array([2.0, 20.0, 200.0])))
    np.testing.assert_allclose(edges, edges[0], rtol=1e-9)


def test_a_calm_market_is_less_stable_the_more_leverage_leans_on_volatility(cycle):
    """Volatility half of the reference: leverage there is 2^gamma times the target, and the boundary falls by the same factor."""
    gamma = np.array([-1.0, 0.0, 1.0, 2.0])
    edges = cycle.boundary(cycle.grid(leverage=np.ones(4), exponent=gamma, quiet=0.5))
    np.testing.assert_allclose(edges, edges[1] * 2.0**-gamma, rtol=1e-9)


def test_tails_grow_fat_as_target_leverage_rises(cycle):
    kurtosis = {v: cycle.tails(cycle.Cycle(leverage=v), paths=48, steps=1500)[0] for v in (1.0, 4.0, 5.0, 6.0)}
    # 72,000 returns: the standard error of a Gaussian sample's kurtosis is sqrt(24 / 72,000) = 0.02, some more for their serial correlation
    assert kurtosis[1.0] == pytest.approx(3, abs=0.1)
    assert kurtosis[1.0] + 0.2 < kurtosis[4.0] < kurtosis[5.0] - 0.2 < kurtosis[6.0] - 0.4


def test_the_recorded_boundary_is_what_the_code_computes(cycle):
    recorded = cycle.json.loads((ROOT / "experiments" / "results" / "leverage_cycle.json").read_text(encoding="utf-8"))
    for plane in recorded["planes"]:
        points, name = plane["boundary"][::8], plane["up"]
        many = cycle.grid(leverage=np.ones(len(points)), **{name: np.array([p[name] for p in points])}, **plane["fixed"])
        np.testing.assert_allclose(cycle.boundary(many), [p["leverage"] for p in points], rtol=3e-3)
        compared = plane["compared_with_spectral_radius"]
        assert compared["agree"] == compared["compared"]
