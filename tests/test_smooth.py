"""Smoothed thresholds: their derivatives are those of theory, which plain differentiation misses, and hardly anything else changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from stresslev.engine import smooth
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance, simulate
from stresslev.engine.step import step
from stresslev.engine.types import CLOSE_FACTOR, FULL, RESTORE, Path, Policy
from stresslev.gradient import value_and_grad
from tests import test_cascade_theory as cascade
from tests.systems import GROUPS, engine_case, random_case

A, B, M, K, S = 0.05, 0.35, 0.02, 0.15, 0.10


#: Rounds of a step: enough for the linear cascade to end.
ROUNDS = 30


def _lost_and_fallen(record, state):
    return jnp.stack([state.ledger.bad_debt[0], 1 - record.price[-1, 0]])


def _path(*falls: float) -> Path:
    """Steps at so much below the first price."""
    return Path(log_price=jnp.log1p(-jnp.array(falls))[:, None], depth_factor=jnp.ones((len(falls), 1)))


@pytest.mark.parametrize("band", [pytest.param(None, marks=pytest.mark.slow), 0.05, 0.15])
def test_the_derivatives_of_the_linear_cascade_are_those_of_theory(band, monkeypatch):
    """Shared model, section 7: with feedback the fall answers a shock by 1 / (1 - r); the hard program's own derivatives are 1, and 0 by margin."""
    monkeypatch.setattr(cascade, "ACCOUNTS", 1 << 14)
    r = K * (1 - M) / (B - A)
    x = (S + K * (M - A) / (B - A)) / (1 - r)
    arguments = cascade._linear_system(K, M), Policy(maintenance_multiplier=jnp.ones((1, 1))), (cascade._book(A, B),), _path(S, S, S)
    (_, value), found = value_and_grad(
        Partial(_lost_and_fallen), *arguments, weights=jnp.array([0.0, 1.0]), max_rounds=ROUNDS, band=band, stepping="all"
    )
    mine = {
        "shock": -float(found.path.log_price.sum()) / (1 - S),
        "impact": float(found.system.impact.scale.sum()),
        "margin": float(found.policy.maintenance_multiplier.sum()) / M,
    }
    theory = {"shock": 1 / (1 - r), "impact": (M - A + x * (1 - M)) / ((B - A) * (1 - r)), "margin": K * (1 - x) / ((B - A) * (1 - r))}
    assert float(value) == pytest.approx(x, rel=1e-4)
    if band is None:
        assert mine["shock"] == 1 and mine["margin"] == 0
    else:
        assert mine == pytest.approx(theory, rel=1e-5)


def test_the_share_that_passes_is_a_distribution_function():
    x = jnp.linspace(-0.2, 0.2, 4001)
    width = jnp.full_like(x, 0.1)
    share = smooth.passed(x, width)
    density = jax.vmap(jax.grad(smooth.passed))(x, width)
    assert float(share[0]) == 0 and float(share[-1]) == 1 and float(smooth.passed(jnp.zeros(1), jnp.full(1, 0.1))[0]) == 0.5
    np.testing.assert_allclose(np.trapezoid(density, x), 1, rtol=1e-6)
    np.testing.assert_allclose(np.trapezoid(density * x, x), 0, atol=1e-12)
    assert (np.diff(share) >= 0).all() and (np.asarray(density)[np.abs(x) > 0.1] == 0).all()


def test_empty_places_have_no_derivative_that_is_no_number():
    """Batches are filled up with accounts that are all zeros."""

    def number(equity, width, untouched):
        found = smooth.hit(smooth.Smoothing(jnp.asarray(0.1, equity.dtype), width, untouched, ()), smooth.above(equity, 0 * equity))
        return jnp.sum(found)

    for dtype in (jnp.float32, jnp.float64):
        none = jnp.zeros((1, 1), dtype)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.grad(number, (0, 1, 2))(none, none, none))


@pytest.mark.parametrize(
    ("rule", "more", "band", "far"),
    [
        (FULL, {}, 0.02, 0.01),
        (RESTORE, {}, 0.02, 0.03),
        # hit up to five times within a step: in a narrow band there are too few accounts
        (CLOSE_FACTOR, {"close_factor": np.full(1, 0.4)}, 0.1, 0.1),
    ],
    ids=["full", "restored", "close factor"],
)
def test_derivatives_of_what_is_lost_agree_with_differences_of_the_hard_rules(rule, more, band, far, monkeypatch):
    """Accounts of which a part is left are hit again by the next fall: in the same round as those that the first has spared."""
    system = replace(cascade._linear_system(K, M), rule=np.array([rule], np.int32), **more)
    path, h = _path(0.10, 0.13, 0.17), 0.05

    def lost(multiplier: float) -> np.ndarray:
        policy = Policy(maintenance_multiplier=jnp.full((1, 1), multiplier))
        state, record = simulate(system, policy, (cascade._book(A, B),), path, max_rounds=ROUNDS)
        return np.asarray(_lost_and_fallen(record, state))

    difference = (lost(1 + h) - lost(1 - h)) / (2 * h)
    monkeypatch.setattr(cascade, "ACCOUNTS", 1 << 14)
    arguments = system, Policy(maintenance_multiplier=jnp.ones((1, 1))), (cascade._book(A, B),), path
    for k in range(2):
        _, found = value_and_grad(Partial(_lost_and_fallen), *arguments, weights=jnp.eye(2)[k], max_rounds=ROUNDS, band=band, stepping="all")
        assert float(found.policy.maintenance_multiplier.sum()) == pytest.approx(difference[k], rel=far)


@pytest.mark.parametrize("group", ["closing", *(pytest.param(x, marks=pytest.mark.slow) for x in ("settling", "lending"))])
def test_books_balance_with_smoothed_thresholds(group):
    """Parts of accounts are really closed, so nothing is lost; and with a narrow band the run is close to that of the rules as they are."""
    case = engine_case(*random_case(1, GROUPS[group]))

    @jax.jit
    def run(system, policy, populations, path, band):
        state = initial_state(system, populations, policy=policy, mark_history=case.history, notice=case.notice, band=band)
        tolerance = residual_tolerance(state, system)
        ways = all_channels(jnp.float64)
        return tolerance, *jax.lax.scan(lambda s, now: step(s, system, policy, ways, now, jnp.int32(3), tolerance), state, path)

    for seed in range(1, 9):
        case = engine_case(*random_case(seed, GROUPS[group]))
        tolerance, state, record = run(case.system, case.policy, case.populations, case.path, jnp.asarray(0.1))
        assert int(state.status) & 3 == 0
        assert float(jnp.abs(record.flows.cash_residual).max()) < float(tolerance)
        flows = record.flows
        borne = flows.fund_draw + flows.adl_usd + flows.socialised + jnp.diff(record.bad_debt, axis=0, prepend=0)
        np.testing.assert_allclose(np.asarray(borne), np.asarray(flows.deficit), atol=1e-9 * (1 + float(jnp.abs(flows.deficit).max())))
