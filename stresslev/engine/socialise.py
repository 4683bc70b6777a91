"""Socialised loss: what nobody else has covered, spread over accounts."""

import jax.numpy as jnp
from jax import Array

from stresslev.engine.blocks import over_devices, pool_sum
from stresslev.engine.select import waterfill


def haircut(weight: Array, cap: Array, block_pool: Array, loss: Array, axis: str | None = None) -> tuple[Array, Array]:
    """Spread each pool's loss over its accounts in proportion to weight, none above its cap.

    What accounts at their cap cannot bear goes to the others in proportion. With mark-to-market gains as weight and cap this is the loss
    socialisation of the Vega protocol (specification 0002-STTL, "Settlement").

    Args:
      weight: (nb, B) gains, equity or deposits; accounts whose weight is not above zero bear nothing.
      cap: (nb, B) USD, most an account can bear; below zero counts as zero.
      block_pool: (nb,) int32 pool of each block.
      loss: (V,) USD, >= 0.
      axis: of the mesh, where the blocks are dealt out over devices.

    Returns:
      Charge (nb, B) USD, >= 0, and the rest (V,) USD that nobody could bear. By pool, `sum charge + rest = loss` up to rounding; the rest is zero
      exactly when the caps suffice.
    """
    cap = jnp.where(weight > 0, jnp.maximum(cap, 0), 0)
    rest = jnp.maximum(loss - over_devices(pool_sum(jnp.sum(cap, axis=1), block_pool, loss.shape[0]), axis), 0)
    return waterfill(weight, cap, block_pool, loss, axis), rest
