"""Accounts in blocks: sums by pool, and folding over the blocks in which something happens."""

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


def busy_blocks(mask: Array) -> tuple[Array, Array]:
    """Blocks in which `mask` (nb, B) holds for somebody: (nb,) int32, those first, then out-of-range fill; and () int32 how many."""
    some = jnp.any(mask, axis=1)
    blocks = jnp.nonzero(some, size=some.shape[0], fill_value=some.shape[0])[0].astype(jnp.int32)
    return blocks, jnp.sum(some, dtype=jnp.int32)


def take(x: Array, rows: Array, fill) -> Array:
    """Some blocks of `x`; rows past the end give `fill`."""
    return x.at[rows].get(mode="fill", fill_value=fill)


def put(x: Array, rows: Array, values: Array) -> Array:
    """`x` with some blocks replaced; rows past the end are dropped."""
    return x.at[rows].set(values, mode="drop", unique_indices=True, indices_are_sorted=True)


def over_batches(blocks: Array, count: Array, block_size: int, body, init, *, reverse: bool = False):
    """Fold `body(rows, carry)` over the first `count` entries of `blocks`, in batches of about `BATCH_ACCOUNTS` accounts.

    Args: `blocks` (nb,) int32, ascending and unique among the first `count`; entries after `count` are out of range. `block_size` is B. `reverse`
    static: a scan that goes past the batches without an entry, which reverse mode can go through, instead of a loop that ends before them; the
    values are the same.
    """
    size = min(blocks.shape[0], max(1, BATCH_ACCOUNTS // block_size))
    padded = jnp.concatenate([blocks, jnp.full((size,), blocks.shape[0], blocks.dtype)])
    if reverse:

        def one(carry, start):
            def some(inner):
                return body(lax.dynamic_slice_in_dim(padded, start, size), inner)

            return lax.cond(start < count, some, lambda inner: inner, carry), None

        return lax.scan(one, init, jnp.arange(0, blocks.shape[0], size, dtype=jnp.int32))[0]

    def step(carry):
        start, inner = carry
        rows = lax.dynamic_slice_in_dim(padded, start, size)
        return start + size, body(rows, inner)

    return lax.while_loop(lambda c: c[0] < count, step, (jnp.int32(0), init))[1]
