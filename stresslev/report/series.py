"""Long series made small: thinning, bucketing, folding and rounding."""

import math
from itertools import pairwise

import numpy as np

#: Most points per trace.
POINTS = 1500
#: Most bars per chart.
BARS = 200
#: Steps per bucket that make round times with steps of a minute.
_ROUND = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 10080)


def thin(values: np.ndarray, limit: int = POINTS) -> np.ndarray:
    """Indices of at most `limit` rows that keep the ends, and least and greatest value of every column in every bucket.

    Args:
      values: (T,) or (T, n) series that share their times.
    """
    values = np.asarray(values)
    columns = values.reshape(len(values), -1)
    if len(columns) <= limit:
        return np.arange(len(columns))
    buckets = max(1, (limit - 2) // (2 * columns.shape[1]))
    edges = np.linspace(0, len(columns), buckets + 1).astype(int)
    kept = [np.array([0, len(columns) - 1])]
    for low, high in pairwise(edges):
        part = columns[low:high]
        kept += [low + part.argmin(axis=0), low + part.argmax(axis=0)]
    return np.unique(np.concatenate(kept))


def bucket_steps(steps: int, limit: int = BARS) -> int:
    """Steps per bucket so that at most `limit` buckets hold all steps."""
    least = math.ceil(steps / limit)
    return next((n for n in _ROUND if n >= least), least)


def bucket_sums(flows: np.ndarray, size: int) -> np.ndarray:
    """Sums of (T, ...) flows over buckets of `size` steps; the last bucket may be shorter."""
    return np.add.reduceat(np.asarray(flows, dtype=float), np.arange(0, len(flows), size), axis=0)


def largest(sizes: np.ndarray, most: int) -> list[int]:
    """Indices of the `most` largest entries, in their own order."""
    return sorted(np.argsort(-np.asarray(sizes), kind="stable")[:most].tolist())


def fold(values: np.ndarray, names: list[str], sizes: np.ndarray, most: int) -> tuple[np.ndarray, list[str], str | None]:
    """The columns of the `most` largest names; beyond, all others become one last column.

    Returns: values, names of the columns, and the name of the column that stands for the others (None when there is none).
    """
    if len(names) <= most:
        return values, names, None
    kept = largest(sizes, most - 1)
    rest = [i for i in range(len(names)) if i not in kept]
    other = f"{len(rest)} others"
    return np.concatenate([values[:, kept], values[:, rest].sum(axis=1, keepdims=True)], axis=1), [*(names[i] for i in kept), other], other


def rounded(values: np.ndarray) -> list[float | int | None]:
    """Plain numbers of six significant digits, None for what is not finite."""
    out = []
    for v in np.asarray(values, dtype=float).tolist():
        short = float(f"{v:.6g}") if math.isfinite(v) else None
        out.append(int(short) if short is not None and short.is_integer() else short)
    return out
