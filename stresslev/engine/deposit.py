"""From accounts to the tables of a liquidation profile: each is laid down on the two points of the grid beside it, in proportion to nearness.

These cloud-in-cell weights keep totals and means, and make the tables differentiable in the accounts' quantities and equities. The mass of a point
is looked up as spread evenly over the cell around it (Hockney and Eastwood 1981, section 5-2).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import grid


@partial(jax.jit, static_argnames=("rows", "cells"))
def masses(row: Array, distance: Array, scale: Array, content: Array, *, rows: int, cells: int) -> Array:
    """(rows, cells + 1, K) what lies on each point of the grid.

    Args:
      row: (N,) int32 distribution that each account belongs to: of a perp account pair, side and size, as one number.
      distance: (N,) margin distance; scale: (N,) of its grid.
      content: (N, K) what is laid down: of a perp account coins, USD of equity at the reference price, and 1.
      rows, cells: static.
    """
    place = jnp.clip(grid.place(distance, scale, cells), 0, cells)
    cell = jnp.minimum(jnp.floor(place), cells - 1)
    upper = (place - cell)[:, None]
    at = row * (cells + 1) + cell.astype(jnp.int32)
    laid = jnp.zeros((rows * (cells + 1), content.shape[1]), content.dtype)
    laid = laid.at[at].add((1 - upper) * content).at[at + 1].add(upper * content)
    return laid.reshape(rows, cells + 1, content.shape[1])


def cumulative(laid: Array) -> Array:
    """(rows, cells + 2, K) what lies below each border between the cells of the points."""
    return jnp.concatenate([jnp.zeros_like(laid[:, :1]), jnp.cumsum(laid, axis=1)], axis=1)
