"""Accounts in blocks: sums by pool, and what is worked out once for all of them."""

import jax
import jax.numpy as jnp
from jax import Array, lax


def column(x: Array) -> Array:
    """(n,) to (n, 1), to broadcast against the accounts of a block."""
    return x[:, None]


def pool_sum(block_values: Array, block_pool: Array, pools: int) -> Array:
    """Sum of per-block values (nb,) by pool: a small product with a one-hot matrix, in a fixed order, free of scatters."""
    member = (block_pool[None, :] == jnp.arange(pools, dtype=block_pool.dtype)[:, None]).astype(block_values.dtype)
    return jnp.sum(member * block_values[None, :], axis=1, dtype=block_values.dtype)


def add_by_pool(total: Array, values: Array, block_pool: Array) -> Array:
    """`total` (V,) plus per-account `values` (nb, B), by pool."""
    return total + pool_sum(jnp.sum(values, axis=1, dtype=total.dtype), block_pool, total.shape[0])


def once(work, block_pool: Array):
    """`work()`, an array over all accounts, worked out once and kept: left alone, XLA works it out anew for every sum that it goes into.

    A branch keeps it from that. Args: `block_pool` (nb,) int32, which is never negative; XLA does not know that.
    """
    return lax.cond(block_pool[0] >= 0, work, lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(work)))
