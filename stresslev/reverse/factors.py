"""Risk factors and their standard-normal coordinates: how far a shock is from the ordinary, and how often there is one as far.

The distance is that of structural reliability (Hasofer and Lind 1974; Rosenblatt 1952 for factors that are not independent): the shock is written
as a map of independent standard normals u, and its distance is |u|. For returns and depth alone that is the Mahalanobis distance.

Correlation is a factor too. Returns are normal given the correlation matrix, and that moves with one number: a stress s takes every correlation the
same share of the way to one, `R(s) = R + s (1 1' - R)`, and Fisher's z of the average correlation is normal around that of R. A higher correlation
makes falls of several assets at once cheaper, and is paid for by its own distance.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtr, stdtr

from stresslev.config.factors import FactorsSpec

DEPTH, CORRELATION = "depth", "correlation"
#: Share of the way to the least correlation that a matrix can have, at which stress downwards ends.
_LEAST = 0.95
#: Step of differences of the map, which is smooth and cheap.
_NUDGE = 1e-5


@dataclass(frozen=True)
class Factors:
    """A joint distribution of K factors: log returns of F assets over the horizon, then log of the factor on depth, then correlation, if they are.

    Coordinates u (K,) are independent standard normals; a shock x (K,) holds log returns, the log factor on depth, and the correlation stress s.
    """

    spec: FactorsSpec

    @cached_property
    def assets(self) -> tuple[str, ...]:
        """Whose returns are factors."""
        return tuple(self.spec.assets)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all factors, in order."""
        more = [DEPTH] if self.spec.depth is not None else []
        if self.spec.correlation.spread > 0 and len(self.assets) > 1:
            more.append(CORRELATION)
        return (*self.assets, *more)

    @property
    def has_depth(self) -> bool:
        """Whether depth is a factor."""
        return DEPTH in self.names

    @property
    def has_correlation(self) -> bool:
        """Whether correlation is a factor."""
        return CORRELATION in self.names

    @cached_property
    def deviations(self) -> np.ndarray:
        """(F,) standard deviations of log returns."""
        return np.array([a.standard_deviation for a in self.spec.assets.values()])

    @cached_property
    def average(self) -> float:
        """Average correlation of the returns."""
        n = len(self.assets)
        return float((self.spec.matrix.sum() - n) / (n * (n - 1))) if n > 1 else 1.0

    def stress(self, u: float) -> float:
        """Share of the way to one that correlations go; below 0 away from it. Args: `u`, standard normal."""
        rho = np.tanh(np.arctanh(self.average) + self.spec.correlation.spread * u)
        share = 1 / np.linalg.inv(self.spec.matrix).sum()  # R - t 1 1' is a matrix of correlations, but for scale, up to this t
        return max((rho - self.average) / (1 - self.average), -_LEAST * share / (1 - share) if share < 1 else -np.inf)

    def stressed(self, stress: float) -> np.ndarray:
        """(F, F) the correlation matrix under a stress."""
        matrix = self.spec.matrix
        return matrix + stress * (1 - matrix)

    def shock(self, u: np.ndarray) -> np.ndarray:
        """(K,) the factors at coordinates (K,)."""
        n = len(self.assets)
        s = self.stress(u[-1]) if self.has_correlation else 0.0
        matrix = self.stressed(s)
        y = np.linalg.cholesky(matrix) @ u[:n]
        x = [*(self.deviations * y)]
        if self.has_depth:
            depth = self.spec.depth
            common = y.sum() / np.sqrt(matrix.sum())
            x.append(depth.standard_deviation * (depth.correlation * common + np.sqrt(1 - depth.correlation**2) * u[n]))
        return np.array([*x, s] if self.has_correlation else x)

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """(K,) coordinates of a shock (K,): the inverse of `shock`. Not a number where there are none."""
        n = len(self.assets)
        s = float(x[-1]) if self.has_correlation else 0.0
        matrix = self.stressed(s)
        try:
            y = x[:n] / self.deviations
            u = [*np.linalg.solve(np.linalg.cholesky(matrix), y)]
        except np.linalg.LinAlgError:
            return np.full(len(self.names), np.nan)
        if self.has_depth:
            depth = self.spec.depth
            common = y.sum() / np.sqrt(matrix.sum())
            u.append((x[n] / depth.standard_deviation - depth.correlation * common) / np.sqrt(1 - depth.correlation**2))
        if self.has_correlation:
            rho = self.average + s * (1 - self.average)
            u.append((np.arctanh(rho) - np.arctanh(self.average)) / self.spec.correlation.spread if abs(rho) < 1 else np.nan)
        return np.array(u)

    def slopes(self, u: np.ndarray) -> np.ndarray:
        """(K, K) derivative of the shock (rows) with respect to coordinates (columns), by central differences."""
        columns = [(self.shock(u + _NUDGE * e) - self.shock(u - _NUDGE * e)) / (2 * _NUDGE) for e in np.eye(len(u))]
        return np.stack(columns, axis=1)

    def distance(self, x: np.ndarray) -> float:
        """Of a shock (K,) from no shock."""
        return float(np.linalg.norm(self.coordinates(x)))


@dataclass(frozen=True)
class Plausibility:
    """How likely a shock at a distance is, of K factors over one horizon."""

    distance: float
    factors: int
    degrees_of_freedom: float | None  # of Student's t with unit variances, one chi-square for all factors; None: normal

    @property
    def beyond(self) -> float:
        """Probability of a shock beyond the plane that touches the sphere of this distance: the first-order estimate of that of a break."""
        nu = self.degrees_of_freedom
        return float(ndtr(-self.distance)) if nu is None else float(stdtr(nu, -self.distance * np.sqrt(nu / (nu - 2))))

    @property
    def outside(self) -> float:
        """Probability of a shock at least this far, in any direction: no more than this breaks the system if nothing nearer does."""
        nu, n = self.degrees_of_freedom, self.factors
        square = self.distance**2
        return float(chdtrc(n, square)) if nu is None else float(fdtrc(n, nu, square * nu / ((nu - 2) * n)))


def plausibility(factors: Factors, distance: float) -> dict[str, Plausibility]:
    """Under the normal distribution and, where the factors have degrees of freedom, under Student's t."""
    n, nu = len(factors.names), factors.spec.degrees_of_freedom
    found = {"normal": Plausibility(distance, n, None)}
    return found if nu is None else found | {"student_t": Plausibility(distance, n, nu)}
