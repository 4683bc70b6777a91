"""Constraints by an augmented Lagrangian: multipliers and a penalty that make a minimum without constraints one with them."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Lagrangian:
    """Of inequality constraints `g <= 0` (Powell, Hestenes, Rockafellar): `f + sum (max(0, mu + rho g)^2 - mu^2) / 2 rho`."""

    multipliers: np.ndarray  # (C,) mu >= 0
    penalty: float  # rho
    violation: float  # largest at the last update; infinite before

    @classmethod
    def start(cls, constraints: int, penalty: float) -> "Lagrangian":
        """Without multipliers."""
        return cls(np.zeros(constraints), penalty, np.inf)

    def value(self, objective: float, violations: np.ndarray) -> float:
        """Args: `violations` (C,) g, positive where violated."""
        mu, rho = self.multipliers, self.penalty
        return float(objective + np.sum(np.maximum(0, mu + rho * violations) ** 2 - mu**2) / (2 * rho))

    def weights(self, violations: np.ndarray) -> np.ndarray:
        """(C,) derivative of `value` with respect to the violations."""
        return np.maximum(0, self.multipliers + self.penalty * violations)

    def updated(self, violations: np.ndarray, growth: float, tolerance: float = 0.0, most: float = np.inf) -> "Lagrangian":
        """Multipliers after some steps; the penalty grows, to `most`, when the worst violation exceeds `tolerance` and has hardly fallen."""
        worst = float(np.max(violations, initial=0.0))
        # hardly: by less than a quarter
        slow = worst > max(0.75 * self.violation, tolerance)
        penalty = min(self.penalty * (growth if slow else 1.0), most)
        return replace(self, multipliers=self.weights(violations), penalty=penalty, violation=max(worst, tolerance))
