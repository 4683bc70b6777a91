"""Queue and capped pro rata share against an oracle that sorts, and where they would be easy to get wrong."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine.select import queue, waterfill

POOLS = 4
QUEUE, WATERFILL = jax.jit(queue), jax.jit(waterfill)


def sorted_queue(key, amount, block_pool, target):
    """One account after the other, in descending order of key."""
    granted = np.zeros_like(amount)
    pool = np.repeat(block_pool, amount.shape[1])
    flat_key, flat_amount, out = key.ravel(), amount.ravel(), granted.ravel()
    for v, left in enumerate(target):
        there = [i for i in np.flatnonzero(pool == v) if flat_key[i] > -np.inf]
        for i in sorted(there, key=lambda i: (-flat_key[i], i)):
            out[i] = min(flat_amount[i], left)
            left -= out[i]
    return granted


def sorted_waterfill(weight, amount, block_pool, target):
    """Caps bind in the order of amount over weight: take them one by one until the rest can be shared."""
    granted = np.zeros_like(amount)
    pool = np.repeat(block_pool, amount.shape[1])
    w, a, out = weight.ravel(), amount.ravel(), granted.ravel()
    for v, left in enumerate(target):
        there = sorted((i for i in np.flatnonzero(pool == v) if w[i] > 0), key=lambda i: a[i] / w[i])
        for n, i in enumerate(there):
            rate = left / math.fsum(w[j] for j in there[n:])
            if a[i] > rate * w[i]:
                for j in there[n:]:
                    out[j] = rate * w[j]
                break
            out[i] = a[i]
            left -= a[i]
    return granted


@st.composite
def cases(draw):
    """Six blocks of five accounts in four pools, in any order, some pools without a block; keys with ties, zeros of both signs and infinities."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (6, 5)
    values = np.array([np.inf, 3.0, 1.0, 1.0, 1e-300, 0.0, -0.0, -1.0, -1e300, -np.inf, np.nan])
    key = rng.choice(values, shape) if draw(st.booleans()) else rng.normal(size=shape)
    amount = rng.exponential(size=shape) * 10.0 ** rng.integers(-3, 4, shape)
    amount[rng.random(shape) < 0.2] = 0
    weight = np.where(rng.random(shape) < 0.2, 0, rng.exponential(size=shape) * 10.0 ** rng.integers(-6, 7, shape))
    block_pool = rng.integers(0, draw(st.sampled_from([1, 2, POOLS])), shape[0]).astype(np.int32)
    total = np.array([amount[block_pool == v].sum() for v in range(POOLS)])
    target = total * rng.choice([0.0, 0.01, 0.3, 0.9, 1.0, 2.0], POOLS)
    return key, weight, amount, block_pool, target


@given(cases())
def test_queue_serves_as_a_sort_would(case):
    key, _, amount, block_pool, target = case
    granted = np.asarray(QUEUE(key, amount, block_pool, target))
    expected = sorted_queue(np.where(np.isnan(key), -np.inf, key), amount, block_pool, target)
    np.testing.assert_allclose(granted, expected, rtol=1e-12, atol=1e-12 * amount.sum())


@given(cases())
def test_waterfill_shares_as_a_sort_would(case):
    _, weight, amount, block_pool, target = case
    granted = np.asarray(WATERFILL(weight, amount, block_pool, target))
    expected = sorted_waterfill(weight, amount, block_pool, target)
    np.testing.assert_allclose(granted, expected, rtol=1e-12, atol=1e-12 * amount.sum())


@given(cases(), st.floats(0, 1))
def test_nobody_gets_more_than_the_amount_or_less_when_more_is_to_be_served(case, share):
    key, weight, amount, block_pool, target = case
    for serve, first in ((QUEUE, key), (WATERFILL, weight)):
        little, much = (np.asarray(serve(first, amount, block_pool, t)) for t in (share * target, target))
        assert (little >= 0).all() and (much <= amount).all()
        assert (little <= much + 1e-12 * amount.sum()).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("serve", [QUEUE, WATERFILL])
def test_the_sum_of_many_unequal_grants_is_the_target(serve, dtype):
    """100,000 heavy-tailed amounts in pools whose blocks lie scattered, against an exact sum: to four units in the last place."""
    rng = np.random.default_rng(3)
    shape = (200, 500)
    first, amount = rng.exponential(size=shape).astype(dtype), rng.pareto(1.2, shape).astype(dtype)
    block_pool = rng.integers(0, POOLS, shape[0]).astype(np.int32)
    total = np.array([amount[block_pool == v].sum(dtype=np.float64) for v in range(POOLS)])
    target = (total * np.array([1e-4, 0.1, 0.5, 0.99])).astype(dtype)
    granted = np.asarray(serve(first, amount, block_pool, target))
    assert granted.dtype == dtype
    for v in range(POOLS):
        assert abs(math.fsum(granted[block_pool == v].ravel().astype(float)) - float(target[v])) <= 4 * np.spacing(target[v])


def test_equal_keys_are_served_in_order_of_slot_across_blocks_of_one_pool():
    block_pool = np.array([1, 0, 1, 0], np.int32)
    granted = QUEUE(np.ones((4, 3)), np.full((4, 3), 2.0), block_pool, np.array([7.0, 9.0]))
    np.testing.assert_array_equal(granted, [[2, 2, 2], [2, 2, 2], [2, 1, 0], [1, 0, 0]])


def test_the_two_zeros_are_one_rank():
    granted = QUEUE(np.array([[-0.0, 0.0, -0.0]]), np.ones((1, 3)), np.zeros(1, np.int32), np.array([1.5]))
    np.testing.assert_array_equal(granted, [[1, 0.5, 0]])


def test_minus_infinity_and_not_a_number_are_never_served():
    key = np.array([[-np.inf, np.nan, -1e308, np.inf]])
    np.testing.assert_array_equal(QUEUE(key, np.ones((1, 4)), np.zeros(1, np.int32), np.array([5.0])), [[0, 0, 1, 1]])


def test_all_is_granted_exactly_when_the_target_is_what_is_there_or_more():
    """Amounts of very different size, where a sum forgets the small ones."""
    amount = np.array([[1e17, 1.0, 3e-9]])
    for target in (amount.sum(), np.inf):
        for serve in (QUEUE, WATERFILL):
            granted = serve(np.array([[3.0, 2.0, 1.0]]), amount, np.zeros(1, np.int32), np.array([target]))
            np.testing.assert_array_equal(granted, amount)


def test_weights_of_any_size_share_alike():
    for scale in (1e-290, 1.0, 1e290):
        granted = WATERFILL(np.array([[1.0, 3.0, 0.0]]) * scale, np.full((1, 3), 10.0), np.zeros(1, np.int32), np.array([8.0]))
        np.testing.assert_allclose(granted, [[2, 6, 0]], rtol=1e-15)


@pytest.mark.parametrize("serve", [queue, waterfill])
def test_many_targets_can_be_tried_at_once(serve):
    rng = np.random.default_rng(5)
    first, amount = jnp.asarray(rng.exponential(size=(4, 6))), jnp.asarray(rng.exponential(size=(4, 6)))
    block_pool = jnp.array([0, 1, 1, 0], jnp.int32)
    targets = jnp.asarray(rng.exponential(size=(3, 2)) * 4)
    compiled = jax.jit(serve)
    together = jax.jit(jax.vmap(lambda t: serve(first, amount, block_pool, t)))(targets)
    one_by_one = np.stack([compiled(first, amount, block_pool, t) for t in targets])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-14)


def test_one_more_to_serve_falls_on_the_marginal_account_or_on_all_that_are_not_capped():
    """Derivatives by the target, with a candidate that is never served, an empty one and one at its cap."""
    block_pool, target = jnp.zeros(1, jnp.int32), jnp.array([4.0])
    first, amount = jnp.array([[3.0, 2.0, 1.0, 0.0]]), jnp.array([[1.0, 5.0, 5.0, 0.0]])
    by_rank = jax.jit(jax.jacrev(lambda t: queue(first, amount, block_pool, t)))(target)[..., 0]
    np.testing.assert_allclose(by_rank, [[0, 1, 0, 0]], atol=1e-15)
    by_weight = jax.jit(jax.jacrev(lambda t: waterfill(first, amount, block_pool, t)))(target)[..., 0]
    np.testing.assert_allclose(by_weight, [[0, 2 / 3, 1 / 3, 0]], atol=1e-15)
    for serve in (queue, waterfill):
        slopes = jax.jit(jax.grad(lambda f, a, s=serve: jnp.sum(s(f, a, block_pool, target) ** 2), argnums=(0, 1)))(
            first.at[0, 3].set(-jnp.inf), amount
        )
        assert all(bool(jnp.isfinite(x).all()) for x in slopes)
