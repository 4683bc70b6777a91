"""Accounts in blocks: sums by pool, what is worked out once for all of them, and sums over devices that hold some of the blocks each.

Blocks may be dealt out over devices like cards (`stresslev.sharding`): block i lies on device i mod D, so that every device has its share of every
pool and, as blocks are sorted by distance to bankruptcy, of the work. Populations then say over which `axis` of the mesh that is; None is one
device, and costs nothing. Functions of this module that take no axis see the blocks of one device only.
"""

from collections.abc import Callable

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


def _by_dtype(leaves) -> dict:
    """Which leaves are of each type of number; flags are counted."""
    kinds = [jnp.dtype(jnp.int32) if x.dtype == jnp.bool_ else x.dtype for x in leaves]
    return {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}


def sums_by_pool(tree, block_pool: Array, pools: int) -> tuple[Array, ...]:
    """Sums by pool of values per account (nb, B) or (A, nb, B), for `unstacked`: those of one type of number side by side, (V, K).

    There are many of them, and each sum by itself would be a program to compile.
    """
    leaves, sums = jax.tree.leaves(tree), []
    for dtype, which in _by_dtype(leaves).items():
        together = jnp.concatenate([leaves[i].astype(dtype).reshape(-1, *leaves[i].shape[-2:]) for i in which])
        by_block = jnp.sum(together, axis=2, dtype=dtype)
        sums.append(jax.vmap(pool_sum, in_axes=(0, None, None), out_axes=1)(by_block, block_pool, pools))
    return tuple(sums)


def nothing(like) -> tuple[Array, ...]:
    """What `sums_by_pool` is of no accounts. Args: `like`, a tree of the sums (V,) or (V, A)."""
    leaves = jax.tree.leaves(like)
    return tuple(jnp.zeros((leaves[which[0]].shape[0], sum(_width(leaves[i]) for i in which)), t) for t, which in _by_dtype(leaves).items())


def _width(x) -> int:
    return 1 if x.ndim == 1 else x.shape[1]


def unstacked(sums: tuple[Array, ...], like):
    """The tree of sums (V,) and (V, A) that is `like` that, from `sums_by_pool`."""
    leaves, form = jax.tree.flatten(like)
    for stack, which in zip(sums, _by_dtype(leaves).values(), strict=True):
        start = 0
        for i in which:
            wide = _width(leaves[i])
            leaves[i], start = stack[:, start] if leaves[i].ndim == 1 else stack[:, start : start + wide], start + wide
    return jax.tree.unflatten(form, leaves)


def by_block(tree, block_pool: Array) -> Callable:
    """Every leaf (V, ...) by block, (nb, ...), as a function without arguments that gives the tree.

    All leaves of one type of number are looked up together. To call the function within a branch hands the branch one array for each type, and not
    one for each leaf.
    """
    leaves, form = jax.tree.flatten(tree)
    kinds = _by_dtype(leaves)
    # flags go as int32 with the other numbers
    tables = once(lambda: [_side_by_side([leaves[i] for i in which], dtype)[block_pool] for dtype, which in kinds.items()], block_pool[0])

    def read():
        out: list = [None] * len(leaves)
        for table, which in zip(tables, kinds.values(), strict=True):
            start = 0
            for i in which:
                x, wide = leaves[i], leaves[i].size // leaves[i].shape[0]
                out[i], start = table[:, start : start + wide].reshape(-1, *x.shape[1:]).astype(x.dtype), start + wide
        return jax.tree.unflatten(form, out)

    return read


def _side_by_side(leaves, dtype) -> Array:
    """(V, F) from leaves (V, ...)."""
    return jnp.concatenate([x.reshape(x.shape[0], -1).astype(dtype) for x in leaves], axis=1)


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
    like = []

    def kept():
        found = work()
        like.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found))
        return found

    # the branches are traced in order, so that what is worked out is known by the second
    return lax.cond(number >= 0, kept, lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like[-1]))
