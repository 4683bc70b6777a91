"""Makers quote less as inventory and losses grow, never less than their floor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine.makers import MakerRules, depth_factor

UNLIMITED = MakerRules(inventory_limit=jnp.array([jnp.inf]), capital=jnp.array([jnp.inf]), floor=jnp.array([0.1]))


def _one(limit, capital, floor, inventory, profit) -> float:
    rules = MakerRules(inventory_limit=jnp.array([limit]), capital=jnp.array([capital]), floor=jnp.array([floor]))
    return depth_factor(rules, inventory_usd=jnp.array([inventory]), profit_usd=jnp.array([profit]))[0].item()


@pytest.mark.parametrize(
    ("inventory", "profit", "expected"),
    [
        (0.0, 0.0, 1.0),
        (25.0, 0.0, 0.75),
        (-25.0, 0.0, 0.75),
        (0.0, -10.0, 0.8),
        (0.0, 10.0, 1.0),
        (25.0, -10.0, 0.6),
        (80.0, -40.0, 0.1),  # 0.2 * 0.2 would be below the floor
        (100.0, 0.0, 0.1),
        (-500.0, 0.0, 0.1),
        (0.0, -50.0, 0.1),
        (0.0, -500.0, 0.1),
    ],
)
def test_depth_falls_linearly_to_the_floor(inventory, profit, expected):
    assert _one(100.0, 50.0, 0.1, inventory, profit) == pytest.approx(expected, rel=1e-14)


def test_infinite_limits_have_no_effect_on_value_or_derivative():
    def factor(inventory, profit):
        return depth_factor(UNLIMITED, inventory_usd=inventory, profit_usd=profit)[0]

    at = (jnp.array([1e12]), jnp.array([-1e12]))
    assert factor(*at) == 1
    np.testing.assert_array_equal(np.array(jax.grad(factor, argnums=(0, 1))(*at)), 0)


def test_derivatives_are_finite_without_limits_and_at_rest():
    for limit in (jnp.inf, 100.0):
        rules = MakerRules(inventory_limit=jnp.array([limit]), capital=jnp.array([limit]), floor=jnp.array([0.1]))
        slopes = jax.grad(lambda r: depth_factor(r, inventory_usd=jnp.zeros(1), profit_usd=jnp.zeros(1))[0])(rules)
        assert all(bool(jnp.all(jnp.isfinite(s))) for s in jax.tree.leaves(slopes))


def test_each_asset_has_its_own_limits_under_jit_and_vmap_in_float32():
    rules = MakerRules(
        inventory_limit=jnp.array([100.0, jnp.inf], jnp.float32),
        capital=jnp.array([50.0, 50.0], jnp.float32),
        floor=jnp.array([0.1, 0.3], jnp.float32),
    )
    inventory = jnp.array([[50.0, 50.0], [0.0, 1e9]], jnp.float32)
    profit = jnp.array([[0.0, -25.0], [-5.0, -50.0]], jnp.float32)
    got = jax.jit(jax.vmap(lambda i, p: depth_factor(rules, inventory_usd=i, profit_usd=p)))(inventory, profit)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(got), [[0.5, 0.5], [0.9, 0.3]], rtol=1e-6)


usd = st.floats(-1e9, 1e9)
positive = st.floats(1.0, 1e9) | st.just(float("inf"))


@given(positive, positive, st.floats(1e-3, 1), usd, usd, st.floats(1, 10), st.floats(0, 1e9))
def test_depth_never_grows_with_inventory_or_loss_and_stays_between_floor_and_one(limit, capital, floor, inventory, profit, times, loss):
    here = _one(limit, capital, floor, inventory, profit)
    assert floor <= here <= 1
    assert _one(limit, capital, floor, -inventory, profit) == here
    assert _one(limit, capital, floor, inventory * times, profit) <= here
    assert _one(limit, capital, floor, inventory, profit - loss) <= here
