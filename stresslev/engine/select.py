"""Who is served first: a queue by rank and a capped pro rata share, for all pools at once and without a sort.

Both find one number per pool, the rank or the rate at which the pool's target is just met, by deciding its bits from the highest down. Each bit is
one dense pass over the accounts that only reads. Accounts are in blocks of one pool each; blocks of a pool need not lie together. Where blocks are
dealt out over devices (`blocks`), each pass exchanges one number per pool, and ties are in the order of all blocks, as on one device.
"""

import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.blocks import in_order, over_devices, own, pool_sum


def _pool_sum(values: Array, block_pool: Array, pools: int, axis: str | None) -> Array:
    """(V,) sum of per-account values (nb, B) by pool."""
    return over_devices(pool_sum(jnp.sum(values, axis=1), block_pool, pools), axis)


def _before(values: Array, block_pool: Array, pools: int, axis: str | None) -> Array:
    """(nb, B) sum of the values of the accounts of the same pool with a lower flat index."""
    inside = jnp.cumsum(values, axis=1)
    block_pool = in_order(block_pool, axis)
    member = (block_pool[None, :] == jnp.arange(pools, dtype=block_pool.dtype)[:, None]).astype(values.dtype)
    by_pool = jnp.cumsum(member * in_order(inside[:, -1], axis)[None, :], axis=1)
    earlier = jnp.concatenate([jnp.zeros_like(by_pool[:, :1]), by_pool[:, :-1]], axis=1)
    offset = own(jnp.take_along_axis(earlier, block_pool[None, :], axis=0)[0], axis)
    shifted = jnp.concatenate([jnp.zeros_like(inside[:, :1]), inside[:, :-1]], axis=1)
    return offset[:, None] + shifted


def _unsigned(dtype):
    return jnp.uint64 if jnp.finfo(dtype).bits == 64 else jnp.uint32


def _ordered(key: Array) -> Array:
    """Unsigned integers in the order of the floats; both zeros give the same integer."""
    kind = _unsigned(key.dtype)
    bits = lax.bitcast_convert_type(jnp.where(key == 0, jnp.zeros_like(key), key), kind)
    sign = jnp.array(1 << (jnp.finfo(key.dtype).bits - 1), kind)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _largest(holds, pools: int, width: int, kind) -> Array:
    """(V,) the largest unsigned integer of `width` bits for which `holds` is true; it must hold up to some integer and nowhere above."""

    def decide(i, found):
        bit = lax.shift_left(jnp.ones((), kind), lax.convert_element_type(width - 1 - i, kind))
        candidate = found | bit
        return jnp.where(holds(candidate), candidate, found)

    return lax.fori_loop(0, width, decide, jnp.zeros((pools,), kind))


def queue(key: Array, amount: Array, block_pool: Array, target: Array, axis: str | None = None) -> Array:
    """Serve accounts in descending order of key until each pool's target is met; the last one in part.

    Accounts of equal key are served in order of their flat index. The result is what a sort by (pool, -key, index) followed by a cumulative sum
    gives, for a pass over the accounts per bit of the key instead.

    Args:
      key: (nb, B) rank, any float; -inf and NaN are never served.
      amount: (nb, B) most that an account can take, >= 0 and finite.
      block_pool: (nb,) int32 pool of each block.
      target: (V,) to be served; at most what is there is. Units of `amount`.
      axis: of the mesh, where the blocks are dealt out over devices.

    Returns:
      (nb, B) granted, within [0, amount]; sums by pool to the smaller of the target and what is there, up to rounding.
    """
    pools = target.shape[0]
    amount = jnp.where(key > -jnp.inf, amount, jnp.zeros_like(amount))
    available = _pool_sum(amount, block_pool, pools, axis)
    enough = target < available
    wanted = jnp.clip(target, 0, available)
    rank, fixed, sought = _ordered(lax.stop_gradient(key)), lax.stop_gradient(amount), lax.stop_gradient(wanted)

    def met(threshold):
        served = jnp.where(rank >= threshold[block_pool][:, None], fixed, jnp.zeros_like(fixed))
        return _pool_sum(served, block_pool, pools, axis) >= sought

    threshold = _largest(met, pools, jnp.finfo(key.dtype).bits, rank.dtype)[block_pool][:, None]
    first = jnp.where(rank > threshold, amount, jnp.zeros_like(amount))
    tied = jnp.where(rank == threshold, amount, jnp.zeros_like(amount))
    left = wanted - _pool_sum(first, block_pool, pools, axis)
    granted = first + jnp.clip(left[block_pool][:, None] - _before(tied, block_pool, pools, axis), 0, tied)
    return jnp.where(enough[block_pool][:, None], granted, amount)


def waterfill(weight: Array, amount: Array, block_pool: Array, target: Array, axis: str | None = None) -> Array:
    """Serve all accounts in proportion to weight, each up to its amount: `min(amount, tau_v weight)` with `tau_v` such that the target is met.

    The bits of `tau_v` tell who is capped; given that, `tau_v` is the rest of the target over the weight of the others, which is exact and carries
    derivatives.

    Args:
      weight: (nb, B) finite; accounts whose weight is not above zero get nothing.
      amount: (nb, B) most that an account can take, >= 0 and finite.
      block_pool: (nb,) int32 pool of each block.
      target: (V,) to be served; at most what is there is. Units of `amount`.
      axis: of the mesh, where the blocks are dealt out over devices.

    Returns:
      (nb, B) granted, within [0, amount]; sums by pool to the smaller of the target and what is there, up to rounding.
    """
    pools, dtype = target.shape[0], amount.dtype
    kind = _unsigned(dtype)
    amount = jnp.where(weight > 0, amount, jnp.zeros_like(amount))
    weight = jnp.where(weight > 0, weight, jnp.ones_like(weight))
    available = _pool_sum(amount, block_pool, pools, axis)
    enough = target < available
    wanted = jnp.clip(target, 0, available)
    share, cap, sought = lax.stop_gradient(weight), lax.stop_gradient(amount), lax.stop_gradient(wanted)

    def rate(bits):
        # patterns above the largest float stand for it
        largest = lax.bitcast_convert_type(jnp.full((), jnp.finfo(dtype).max, dtype), kind)
        return lax.bitcast_convert_type(jnp.minimum(bits, largest), dtype)[block_pool][:, None]

    def within(bits):
        return _pool_sum(jnp.minimum(cap, rate(bits) * share), block_pool, pools, axis) <= sought

    # the sign bit of a rate is zero
    free = cap > rate(_largest(within, pools, jnp.finfo(dtype).bits - 1, kind)) * share
    capped = _pool_sum(jnp.where(free, jnp.zeros_like(amount), amount), block_pool, pools, axis)
    open_weight = _pool_sum(jnp.where(free, weight, jnp.zeros_like(weight)), block_pool, pools, axis)
    tau = jnp.maximum(wanted - capped, 0) / jnp.where(open_weight > 0, open_weight, jnp.ones_like(open_weight))
    granted = jnp.where(free, jnp.minimum(amount, tau[block_pool][:, None] * weight), amount)
    return jnp.where(enough[block_pool][:, None], granted, amount)
