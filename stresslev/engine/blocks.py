"""Accounts in blocks: sums by pool, and folding over the blocks in which something happens."""

import jax
import jax.numpy as jnp
from jax import Array, lax

#: Accounts that one batch of gathered blocks holds, about.
BATCH_ACCOUNTS = 16384


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


def count(mask: Array) -> Array:
    """(nb,) int32 for how many accounts of each block `mask` (nb, B) holds. Exact: a block has fewer than 2^24."""
    return (mask.astype(jnp.float32) @ jnp.ones(mask.shape[1:], jnp.float32)).astype(jnp.int32)


def busy_blocks(some: Array) -> tuple[Array, Array]:
    """Blocks for which `some` (nb,) holds: (nb,) int32, those first, then out-of-range fill; and () int32 how many."""
    blocks = jnp.nonzero(some, size=some.shape[0], fill_value=some.shape[0])[0].astype(jnp.int32)
    return blocks, jnp.sum(some, dtype=jnp.int32)


def take(x: Array, rows: Array, fill) -> Array:
    """Some blocks of `x`; rows past the end give `fill`."""
    return x.at[rows].get(mode="fill", fill_value=fill)


def put(x: Array, rows: Array, values: Array) -> Array:
    """`x` with some blocks replaced; rows past the end are dropped."""
    return x.at[rows].set(values, mode="drop", unique_indices=True, indices_are_sorted=True)


def over_batches(blocks: Array, count: Array, block_size: int, body, init):
    """Fold `body(rows, carry)` over the first `count` entries of `blocks`, in batches of about `BATCH_ACCOUNTS` accounts.

    Args: `blocks` (nb,) int32, ascending and unique among the first `count`; entries after `count` are out of range. `block_size` is B.
    """
    size = min(blocks.shape[0], max(1, BATCH_ACCOUNTS // block_size))
    padded = jnp.concatenate([blocks, jnp.full((size,), blocks.shape[0], blocks.dtype)])

    def step(carry):
        start, inner = carry
        rows = lax.dynamic_slice_in_dim(padded, start, size)
        return start + size, body(rows, inner)

    return lax.while_loop(lambda c: c[0] < count, step, (jnp.int32(0), init))[1]
