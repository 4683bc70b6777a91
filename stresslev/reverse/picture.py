"""The boundary in a plane of two factors, the others as in the shock that was found."""

from dataclasses import dataclass

import numpy as np

from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.reverse.factors import CORRELATION, DEPTH, Factors
from stresslev.reverse.state import System

#: How far the picture goes, as a multiple of the found shock's factor, and at least in standard deviations.
_REACH, _LEAST = 1.6, 2.0
#: Share of the reach that is shown on the other side of no shock.
_OTHER = 0.3


@dataclass(frozen=True)
class Picture:
    """Metrics by the hard rules on a grid of two factors.

    Attributes:
      names: of the factors; horizontal, then vertical.
      across: (N,), up: (M,) the factors: log returns, log of the factor on depth.
      metrics: (M, N, C) of the conditions. breaks: (M, N) bool. distance: (M, N) from no shock.
      found: the shock's two factors.
    """

    names: tuple[str, str]
    across: np.ndarray
    up: np.ndarray
    metrics: np.ndarray
    breaks: np.ndarray
    distance: np.ndarray
    found: tuple[float, float]

    @property
    def nearest(self) -> float:
        """Least distance among the points of the grid that break; infinite where none does."""
        return float(np.min(np.where(self.breaks, self.distance, np.inf)))


def chosen(factors: Factors, x: np.ndarray, asked: str | None) -> tuple[str, str]:
    """Two factors to draw: those asked for, as NAME,NAME, or those that move most, in standard deviations. Raises InputError."""
    can = [n for n in factors.names if n != CORRELATION]
    if asked is not None:
        names = [n.strip() for n in asked.split(",")]
        for name in names:
            if name not in can:
                what = "does nothing by itself: given the returns, metrics do not depend on it" if name == CORRELATION else "is no factor"
                raise InputError("--picture", Problem("factor", name, what, did_you_mean(name, can)))
        if len(names) != 2 or names[0] == names[1]:
            raise InputError("--picture", Problem("factors", asked, "are not two factors", "write for example --picture BTC,depth"))
        return names[0], names[1]
    if len(can) < 2:
        raise InputError("--picture", Problem("factors", ", ".join(can), "are not two", "add a factor, or use --picture-points 0"))
    moved = sorted(range(len(can)), key=lambda i: -abs(x[i]) / deviation(factors, can[i]))
    first, second = sorted(moved[:2])
    return can[first], can[second]


def deviation(factors: Factors, name: str) -> float:
    """Standard deviation of a return, or of the log factor on depth."""
    return factors.spec.depth.standard_deviation if name == DEPTH else factors.spec.assets[name].standard_deviation


def draw(system: System, x: np.ndarray, names: tuple[str, str], points: int) -> Picture:
    """Run the system on a grid through a shock (K,). Args: `points` on each side."""
    factors = system.factors
    places = [factors.names.index(n) for n in names]

    def axis(i: int) -> np.ndarray:
        reach = max(_REACH * abs(x[i]), _LEAST * deviation(factors, factors.names[i]))
        sign = -1.0 if x[i] < 0 else 1.0
        return np.sort(sign * np.linspace(-_OTHER * reach, reach, points))

    across, up = (axis(i) for i in places)
    grid = []
    for b in up:
        for a in across:
            here = x.copy()
            here[places[0]], here[places[1]] = a, b
            grid.append(factors.coordinates(here))
    metrics = system.hard(grid)
    shape = len(up), len(across)
    return Picture(
        names=names,
        across=across,
        up=up,
        metrics=metrics.reshape(*shape, -1),
        breaks=(system.excess(metrics) > 0).any(axis=1).reshape(shape),
        distance=np.linalg.norm(grid, axis=1).reshape(shape),
        found=(float(x[places[0]]), float(x[places[1]])),
    )
