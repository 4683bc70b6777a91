"""Loops that reverse mode goes back through, against the same turns written out in Python and differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine.repeat import repeat

MOST = 7


def _body(carry, context, x):
    values, turns, _ = carry
    values = jnp.sin(values * context[0]) + x * context[1] * values
    return (values, turns + 1, jnp.sum(values) < 5.5), (jnp.sum(values), turns)


def _looped(values, context, each, count):
    carry = values, jnp.int32(0), jnp.array(True)
    (values, turns, _), (sums, seen) = repeat(_body, carry, context, each, count, most=MOST, more=lambda c: c[2])
    return jnp.sum(values**2) + jnp.sum(sums * jnp.arange(1.0, MOST + 1)), (turns, seen, sums)


def _written_out(values, context, each, count):
    carry, total, turns = (values, 0, True), 0.0, 0
    while turns < count and bool(carry[2]):
        carry, (sums, _) = _body(carry, context, each[turns])
        turns += 1
        total = total + turns * sums
    return jnp.sum(carry[0] ** 2) + total, turns


@pytest.fixture
def arguments():
    with jax.enable_x64(True):
        yield jnp.linspace(0.1, 2.0, 5), (jnp.array(1.1), jnp.array(0.3)), jnp.linspace(0.1, 1.4, MOST)


@pytest.mark.parametrize("count", [0, 1, 4, MOST])
def test_values_and_derivatives_are_those_of_the_turns_written_out(arguments, count):
    """With room for seven the loop ends by itself after six."""
    with jax.enable_x64(True):
        (value, (turns, *_)), found = jax.jit(jax.value_and_grad(_looped, argnums=(0, 1, 2), has_aux=True))(*arguments, count)
        (right, taken), wanted = jax.value_and_grad(_written_out, argnums=(0, 1, 2), has_aux=True)(*arguments, count)
    assert int(turns) == taken == min(count, 6) and float(value) == pytest.approx(float(right), rel=1e-14)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_turns_that_are_not_taken_leave_zeros(arguments):
    with jax.enable_x64(True):
        _, (_, seen, sums) = _looped(*arguments, 3)
    assert seen.tolist() == [0, 1, 2, 0, 0, 0, 0] and np.flatnonzero(sums).tolist() == [0, 1, 2]


def test_it_goes_under_vmap_and_within_itself(arguments):
    """Carries side by side, which end at turns of their own; and a loop of loops."""
    values, context, each = arguments

    def nested(values, context):
        def outer(carry, context, x):
            return _looped(carry, context, each * x, 3)[0] * jnp.ones_like(carry) / 50, ()

        return jnp.sum(repeat(outer, values, context, jnp.linspace(0.5, 1.0, 4), 4, most=4)[0])

    def plain(values, context):
        for x in jnp.linspace(0.5, 1.0, 4):
            values = _written_out(values, context, each * x, 3)[0] * jnp.ones_like(values) / 50
        return jnp.sum(values)

    with jax.enable_x64(True):
        both = jax.vmap(jax.grad(lambda v: _looped(v, context, each, MOST)[0]))(jnp.stack([values, 2 * values]))
        apart = [jax.grad(lambda v: _looped(v, context, each, MOST)[0])(v) for v in (values, 2 * values)]
        np.testing.assert_allclose(both, apart, rtol=1e-12)
        for mine, theirs in zip(
            jax.tree.leaves(jax.grad(nested, (0, 1))(values, context)), jax.tree.leaves(jax.grad(plain, (0, 1))(values, context)), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)
