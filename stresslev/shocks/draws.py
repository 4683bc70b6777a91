"""Random numbers of paths: a stream for each path, and what importance sampling does to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stresslev.config.generator import GeneratorSpec, ImportanceSpec

MINUTES_PER_YEAR = 365 * 24 * 60
MINUTES_PER_DAY = 24 * 60


@dataclass(frozen=True)
class Drawn:
    """P paths of T steps and G assets.

    Attributes:
      returns: (P, T, G) log return of each step.
      depth: (P, T) factor on market depth, or None.
      log_weight: (P,) log of the likelihood ratio: probability as the model has it over that with which it was drawn; zeros without importance.
    """

    returns: np.ndarray
    depth: np.ndarray | None
    log_weight: np.ndarray


class Streams:
    """One stream of random numbers per path, by seed and number of the path alone; and the log likelihood ratio that builds up as they are used.

    Paths are drawn from a mixture: a share of them as the model says, the others tilted. With g the tilted density and f the model's, the weight is
    f / (a f + (1 - a) g), at most 1 / a (Hesterberg 1995, defensive importance sampling).
    """

    def __init__(self, spec: GeneratorSpec, numbers: Sequence[int]):
        self.rngs = [np.random.default_rng((spec.seed, n)) for n in numbers]
        self.tilt: ImportanceSpec | None = spec.importance
        share = 1.0 if self.tilt is None else self.tilt.defensive_share
        self.tilted = np.array([np.random.default_rng((spec.seed, n, 1)).random() >= share for n in numbers])
        self.log_ratio = np.zeros(len(self.rngs))  # log g / f

    def __len__(self) -> int:
        return len(self.rngs)

    def normals(self, steps: int, root: np.ndarray) -> np.ndarray:
        """(P, T, G) independent normals, of which `root` makes correlated ones; tilted so that those move by `shift` standard deviations in all.

        Girsanov: with z drawn around d instead of 0, log g / f = d z - d^2 / 2 for each.
        """
        z = np.stack([rng.standard_normal((steps, len(root))) for rng in self.rngs])
        if self.tilt is None or self.tilt.shift == 0:
            return z
        d = np.linalg.pinv(root) @ np.full(len(root), self.tilt.shift / np.sqrt(steps))
        z[self.tilted] += d
        self.log_ratio += z.sum(axis=1) @ d - steps * (d @ d) / 2
        return z

    def count(self, path: int, mean: float) -> int:
        """Poisson number with this mean, times `jump_intensity_factor` c where tilted: log g / f = n log c - (c - 1) mean."""
        if self.tilt is None:
            return int(self.rngs[path].poisson(mean))
        c = self.tilt.jump_intensity_factor
        n = int(self.rngs[path].poisson(mean * (c if self.tilted[path] else 1.0)))
        self.log_ratio[path] += n * np.log(c) - (c - 1) * mean
        return n

    def jumps(self, path: int, count: int, root: np.ndarray) -> np.ndarray:
        """(count, G) independent normals of jump sizes, tilted by `jump_shift`."""
        z = self.rngs[path].standard_normal((count, len(root)))
        if self.tilt is None or self.tilt.jump_shift == 0:
            return z
        d = np.linalg.pinv(root) @ np.full(len(root), self.tilt.jump_shift)
        if self.tilted[path]:
            z += d
        self.log_ratio[path] += z.sum(axis=0) @ d - count * (d @ d) / 2
        return z

    def log_weight(self) -> np.ndarray:
        """(P,) log of f / (a f + (1 - a) g)."""
        if self.tilt is None:
            return np.zeros(len(self))
        a = self.tilt.defensive_share
        if a == 1:
            return np.zeros(len(self))
        return -np.logaddexp(np.log(a), np.log1p(-a) + self.log_ratio)


def by_asset(spec: GeneratorSpec, key: str) -> np.ndarray:
    """(G,) a parameter of every asset, 0 where there is none."""
    return np.array([getattr(a, key) or 0.0 for a in spec.assets.values()], float)


def step_variance(yearly: np.ndarray, spec: GeneratorSpec) -> np.ndarray:
    """Variance of a step's log return from a volatility per year."""
    return np.square(yearly) * spec.step_minutes / MINUTES_PER_YEAR


def step_drift(yearly: np.ndarray, spec: GeneratorSpec) -> np.ndarray:
    """Mean log return of a step from that of a year."""
    return np.asarray(yearly) * spec.step_minutes / MINUTES_PER_YEAR
