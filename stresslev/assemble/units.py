"""The time grid and the reference prices that turn a user's units into the engine's."""

from dataclasses import dataclass

import numpy as np

MINUTES_PER_YEAR = 365 * 24 * 60


@dataclass(frozen=True)
class Grid:
    """Reference prices (A,) USD, and the length of a step."""

    reference_price: np.ndarray
    step_minutes: float

    def decay(self, half_life_minutes: float) -> float:
        """Factor per step of something that halves in that time; 0 for no time at all."""
        return 2.0 ** (-self.step_minutes / half_life_minutes) if half_life_minutes > 0 else 0.0

    def steps(self, minutes: float) -> int:
        """Whole steps, the nearest number."""
        return round(minutes / self.step_minutes)


def by_pool(system, get, dtype=float) -> np.ndarray:
    """(V,) a figure of every pool."""
    return np.array([get(p) for p in system.pools.values()], dtype)


def by_asset(system, get, dtype=float) -> np.ndarray:
    """(A,) a figure of every asset."""
    return np.array([get(a) for a in system.assets.values()], dtype)


def table(system, get, dtype=float) -> np.ndarray:
    """(V, A) a figure of every pool and asset: `get(pool, asset name)`."""
    return np.array([[get(p, a) for a in system.assets] for p in system.pools.values()], dtype)
