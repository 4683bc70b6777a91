"""Accounts in blocks: sums by pool, what is worked out once for all of them, and sums over devices that hold some of the blocks each.

Blocks may be dealt out over devices like cards (`stresslev.sharding`): block i lies on device i mod D, so that every device has its share of every
pool and, as blocks are sorted by distance to bankruptcy, of the work. Populations then say over which `axis` of the mesh that is; None is one
device, and costs nothing. Functions of this module that take no axis see the blocks of one device only.
"""

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


def over_devices(tree, axis: str | None):
    """Every leaf summed over the devices, the same on all of them.

    What the devices hold is exchanged in one message for each type of number and added up in their order: unlike in an all-reduce, every device gets
    the same bits whatever the network does, so whatever is decided by these sums is decided alike everywhere. Not within a loop whose length
    differs by device, or behind such a condition.
    """
    if axis is None:
        return tree
    leaves, form = jax.tree.flatten(tree)
    total: list = [None] * len(leaves)
    for dtype in dict.fromkeys(x.dtype for x in leaves):
        which = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        together = lax.all_gather(jnp.concatenate([leaves[i].reshape(-1) for i in which]), axis)
        summed, start = jnp.sum(together, axis=0, dtype=dtype), 0
        for i in which:
            total[i] = summed[start : start + leaves[i].size].reshape(leaves[i].shape)
            start += leaves[i].size
    return jax.tree.unflatten(form, total)


def anywhere(condition: Array, axis: str | None) -> Array:
    """() bool: whether a condition () holds on any device; to be asked before whatever exchanges something."""
    return condition if axis is None else over_devices(condition.astype(jnp.int32), axis) > 0


def in_order(x: Array, axis: str | None) -> Array:
    """Values per block (nb,) of this device to those of all, in the order of the blocks."""
    return x if axis is None else lax.all_gather(x, axis).T.reshape(-1)


def own(x: Array, axis: str | None) -> Array:
    """Inverse of `in_order`."""
    return x if axis is None else x.reshape(-1, lax.axis_size(axis))[:, lax.axis_index(axis)]


def once(work, number: Array):
    """`work()`, a tree of arrays, worked out once and kept: left alone, XLA works it out anew for everything that it goes into.

    A branch keeps it from that. Args: `number` () int32, any that is never negative without XLA's knowing it.
    """
    return lax.cond(number >= 0, work, lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(work)))
