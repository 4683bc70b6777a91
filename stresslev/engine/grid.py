"""The grid that a liquidation profile keeps its distributions on, and looking them up."""

import jax.numpy as jnp
from jax import Array


def place(x: Array, scale: Array, cells: int) -> Array:
    """Place of a margin distance on a grid of `cells` cells from 0 to infinity, finest at zero: `cells x / (x + scale)`; below zero linear."""
    return cells * jnp.where(x > 0, x / (jnp.maximum(x, 0) + scale), x / scale)


def distance(at: Array, scale: Array, cells: int) -> Array:
    """Inverse of `place`."""
    u = at / cells
    return jnp.where(u > 0, scale * u / jnp.maximum(1 - jnp.maximum(u, 0), jnp.finfo(u.dtype).eps), scale * u)


def look_up(table: Array, scale: Array, x: Array) -> Array:
    """(..., K) what lies below the margin distances x (...).

    Args: `table` (..., C + 2, K) cumulative, from `deposit.cumulative`; `scale` of its grids, (...) or what spreads over it.
    """
    points, kinds = table.shape[-2:]
    at = place(x, scale, points - 2)
    # at infinity lies the middle of the last cell, and everything is below it
    at = jnp.where(at >= points - 2, points - 1, jnp.clip(at + 0.5, 0, points - 1))
    cell = jnp.minimum(jnp.floor(at), points - 2)
    rows = table.reshape(-1, kinds)
    row = cell.astype(jnp.int32) + points * jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape)
    low, high = (rows.at[r].get(mode="promise_in_bounds") for r in (row, row + 1))
    return low + (at - cell)[..., None] * (high - low)


def beside(table: Array, scale: Array, x: Array) -> Array:
    """(..., K) what lies within a cell to either side of the margin distances x (...): the grid cannot tell on which side of x it is."""
    cells = table.shape[-2] - 2
    below, above = (look_up(table, scale, distance(place(x, scale, cells) + d, scale, cells)) for d in (-1, 1))
    return above - below
