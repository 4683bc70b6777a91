"""How far liquidation thresholds are smoothed: the half width of the band, from how many accounts there are to smooth over."""

import numpy as np

#: Half width, in health, at a hundred thousand accounts of equal size, and its bounds.
USUAL, LEAST, MOST = 0.05, 0.01, 0.15
_ACCOUNTS = 1e5


def effective(sizes: np.ndarray) -> float:
    """How many accounts of equal size are as many as accounts of these sizes: `(sum w)^2 / sum w^2` (Kish 1965)."""
    sizes = np.abs(np.asarray(sizes, np.float64))
    squares = float(np.sum(sizes**2))
    return float(np.sum(sizes)) ** 2 / squares if squares > 0 else 0.0


def band(sizes: np.ndarray) -> float:
    """Half width for accounts of these sizes: it falls with the fifth root of how many they count for, as the width of a kernel estimate should."""
    return float(np.clip(USUAL * (max(effective(sizes), 1.0) / _ACCOUNTS) ** -0.2, LEAST, MOST))
