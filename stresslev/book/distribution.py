"""From a book to the distributions of liquidation profiles: perp accounts by pool, asset and size, loans by pool, collateral and debt, and the tables
over margin distance."""

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.deposit import cumulative, masses
from stresslev.engine.loan_profile import LoanDistribution
from stresslev.engine.profile import Distribution
from stresslev.engine.types import System

#: Cells of the grid of margin distances, and sizes told apart, unless said otherwise.
CELLS, SIZES = 4096, 24
#: Health, of the worst loan or of one where nobody is worse, at which the grid of loans begins.
_FINEST = 0.99
#: Accounts laid down at a time.
_CHUNK = 1 << 20
#: Accounts that a median is found from.
_SAMPLE = 1 << 16


def _margin(size: np.ndarray, price: float, floor: np.ndarray, step: np.ndarray) -> np.ndarray:
    """USD of maintenance margin per coin of a position of `size` coins."""
    total = np.zeros_like(size)
    for f, s in zip(floor, step, strict=True):
        total += s * np.maximum(size * price - f, 0)
    return total / size


def _edges(notional: np.ndarray, floor: np.ndarray, step: np.ndarray, sizes: int) -> np.ndarray:
    """USD at which one size ends and the next begins: the floors of tiers, and equal ratios from half the first of them to the largest position."""
    top = notional.max()
    floors = np.unique(floor[(step != 0) & (floor > 0) & (floor < top)])
    if not floors.size:
        return floors
    more = sizes - 1 - floors.size
    between = np.geomspace(floors[0] / 2, top, more + 1)[:-1] if more > 0 else np.zeros(0)
    return np.union1d(floors, between)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    stride = -(-len(values) // _SAMPLE)
    values, weights = values[::stride], weights[::stride]
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _table(row: np.ndarray, distance: np.ndarray, scale: np.ndarray, content: np.ndarray, rows: int, cells: int) -> np.ndarray:
    """(rows, cells + 2, K) cumulative, of N accounts laid on the grids of their rows."""
    laid = np.zeros((rows, cells + 1, content.shape[1]))
    with jax.enable_x64(True):
        for start in range(0, len(row), _CHUNK):
            part = slice(start, start + _CHUNK)
            laid += np.asarray(masses(row[part].astype(np.int32), distance[part], scale[part], content[part], rows=rows, cells=cells))
        return np.asarray(cumulative(jnp.asarray(laid)))


def distribution(
    system: System,
    multiplier: np.ndarray,
    *,
    pool: np.ndarray,
    asset: np.ndarray,
    quantity: np.ndarray,
    equity: np.ndarray,
    cells: int = CELLS,
    sizes: int = SIZES,
) -> Distribution:
    """The distribution of N accounts with one position each, in float64.

    Within a tier the requirement of a coin differs between sizes by an amount that the price does not change, so an account of another size than its
    class's is put where it is closed when it should be, at the multiplier given; where it turns bankrupt is then off by that difference.

    Args:
      system: for its reference prices and tiers; arrays of any kind.
      multiplier: (V, A) of requirements, at the start.
      pool, asset: (N,) int.
      quantity: (N,) coins, signed, not zero; equity: (N,) USD at the reference prices.
      cells: of the grid of margin distances; sizes: classes of size per pool, asset and side, at least as many as there are tiers.
    """
    reference, floor, step = (np.asarray(x, float) for x in (system.reference_price, system.tier_floor, system.tier_step))
    multiplier, assets = np.asarray(multiplier, float), len(reference)
    names, pair = np.unique(pool.astype(np.int64) * assets + asset, return_inverse=True)
    at = names // assets, names % assets
    held, side = np.abs(quantity), (quantity < 0).astype(np.int64)
    distance = equity / (held * reference[asset])
    scale, classes, required = np.ones((len(names), 2)), np.zeros(len(pool), np.int64), np.zeros(len(pool))
    for k, (v, a) in enumerate(zip(*at, strict=True)):
        rows = np.flatnonzero(pair == k)
        classes[rows] = np.searchsorted(_edges(held[rows] * reference[a], floor[v, a], step[v, a], sizes), held[rows] * reference[a], side="right")
        required[rows] = _margin(held[rows], reference[a], floor[v, a], step[v, a])
        for s in (0, 1):
            mine = rows[side[rows] == s]
            if len(mine):
                scale[k, s] = max(_median(distance[mine], held[mine]), 1e-3)
    used = int(classes.max()) + 1
    row = (pair * 2 + side) * used + classes
    count = len(names) * 2 * used
    amount = np.bincount(row, held, count)
    mean = np.where(amount > 0, np.bincount(row, held * held, count) / np.where(amount > 0, amount, 1), 1.0)
    for k, (v, a) in enumerate(zip(*at, strict=True)):
        rows = np.flatnonzero(pair == k)
        own = _margin(mean[row[rows]], reference[a], floor[v, a], step[v, a])
        distance[rows] -= multiplier[v, a] * (required[rows] - own) / reference[a]
    table = _table(row, distance, scale[pair, side], np.stack([held, equity, np.ones_like(held)], axis=1), count, cells)
    slot = np.full((len(floor), assets), len(names), np.int32)
    slot[at] = np.arange(len(names))
    shape = (len(names), 2, used)
    return Distribution(
        pool=at[0].astype(np.int32),
        asset=at[1].astype(np.int32),
        slot=slot,
        size=mean.reshape(shape),
        scale=scale,
        table=table.reshape(*shape, cells + 2, 3),
    )


def loan_distribution(
    system: System,
    threshold: np.ndarray,
    *,
    pool: np.ndarray,
    collateral: np.ndarray,
    debt: np.ndarray,
    supplied: np.ndarray,
    owed: np.ndarray,
    cells: int = CELLS,
) -> LoanDistribution:
    """The distribution of N loans of one collateral against one debt each, in float64. Asset A is USD.

    Args:
      system: for its reference prices; arrays of any kind.
      threshold: (V, A) liquidation thresholds at the start, above zero where there is collateral.
      pool: (N,) int; collateral, debt: (N,) int assets, never the same.
      supplied, owed: (N,) coins, or USD, > 0.
      cells: of the grid of margin distances.
    """
    price = np.append(np.asarray(system.reference_price, float), 1.0)
    weight = np.concatenate([np.asarray(threshold, float), np.ones((len(threshold), 1))], axis=1)
    names, pair = np.unique(np.stack([pool, collateral, debt]).astype(np.int64), axis=1, return_inverse=True)
    pair = pair.reshape(-1)
    v, c, d = names
    level = price[d] / (weight[v, c] * price[c])
    ratio = supplied / owed
    unit, scale = np.ones(len(v)), np.ones(len(v))
    for k in range(len(v)):
        mine = pair == k
        # finest just below the health of the worst, or where health is one
        unit[k] = _FINEST * min(1.0, (ratio[mine] / level[k]).min()) * level[k]
        scale[k] = max(_median(ratio[mine] / unit[k] - 1, owed[mine]), 1e-3)
    content = np.stack([owed, supplied, np.ones_like(owed)], axis=1)
    table = _table(pair, ratio / unit[pair] - 1, scale[pair], content, len(v), cells)
    return LoanDistribution(pool=v.astype(np.int32), collateral=c.astype(np.int32), debt=d.astype(np.int32), unit=unit, scale=scale, table=table)
