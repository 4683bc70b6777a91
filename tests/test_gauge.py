"""The systemic gauge against the linear cascade, whose feedback gain is known; the liquidation map against what a run then liquidates."""

import jax.numpy as jnp
import numpy as np
import pytest

from stresslev import observe
from stresslev.engine.leverage import gauge
from stresslev.engine.simulate import initial_state, simulate
from stresslev.engine.types import Path, Policy
from tests.test_cascade_theory import ACCOUNTS, _book, _linear_system

A, B, M = 0.05, 0.35, 0.02


def _after(s: float):
    """The book after a shock of s without any impact."""
    system = _linear_system(0.0, M)
    path = Path(log_price=jnp.full((1, 1), np.log1p(-s)), depth_factor=jnp.ones((1, 1)))
    state, record = simulate(system, Policy(maintenance_multiplier=jnp.ones((1, 1))), (_book(A, B),), path, max_rounds=5)
    return system, state, float(record.flows.closed_long.sum())


@pytest.mark.parametrize(("k", "s"), [(0.05, 0.10), (0.15, 0.12), (0.30, 0.20)])
def test_the_gauge_is_the_gain_of_the_linear_cascade(k, s):
    """At depth 0.01 P^2 / k, the flow for a percent of price, g = k (1 - m) / (b - a) but for the curvature of one percent."""
    system, state, _ = _after(s)
    price = 1 - s
    depth = jnp.full(1, 0.01 * price**2 / k)
    seen = observe.present(state, system)
    found = float(gauge.measure(state, system, jnp.ones((1, 1)), None, seen, depth)[0, 0])
    gain = k * (1 - M) / (B - A)
    one_percent = (1 - np.exp(-0.01)) * np.exp(-0.01) / 0.01
    cell = price / ACCOUNTS / float(depth[0])
    assert found == pytest.approx(gain * one_percent, abs=2 * cell)
    assert found == pytest.approx(gain, rel=0.02)


def test_nothing_ahead_of_the_price_means_no_gauge():
    system = _linear_system(0.1, M)
    state = initial_state(system, (_book(0.2, 0.35),))
    seen = observe.present(state, system)
    assert float(gauge.measure(state, system, jnp.ones((1, 1)), None, seen, jnp.ones(1))[0, 0]) == 0


def test_the_map_is_what_the_move_then_liquidates():
    """Every column against a run of its own with that fall, at the moved price and without impact; rises liquidate no longs."""
    system, multiplier = _linear_system(0.0, M), jnp.ones((1, 1))
    state = initial_state(system, (_book(A, B),))
    found = np.asarray(observe.liquidation_map(state, system, multiplier, None))[0, 0]
    for move, usd in zip(observe.MOVES, found, strict=True):
        expected = _after(-move)[2] * (1 + move) if move < 0 else 0.0
        assert usd == pytest.approx(expected, rel=1e-9, abs=1e-12), move
    assert found[0] > found[1] > 0
