"""A number made of one per scenario, with its derivative: mean, worst, expected shortfall."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Measure:
    """What is made of a metric's values over scenarios."""

    how: Literal["mean", "worst", "expected_shortfall"]
    level: float = 0.0  # of the expected shortfall: share of scenarios that does not count
    high_is_bad: bool = True

    def weights(self, values: np.ndarray) -> np.ndarray:
        """(S,) derivative of `of` with respect to the values: weights that sum to one. Values that are not finite weigh nothing."""
        values = np.asarray(values, float)
        fine = np.isfinite(values)
        count = int(fine.sum())
        if count == 0:
            return np.zeros_like(values)
        if self.how == "mean":
            return fine / count
        # the mean of the worst: Rockafellar and Uryasev 2000, with the scenario on the border counted in part
        tail = 1.0 if self.how == "worst" else max((1 - self.level) * count, 1e-12)
        order = np.argsort(np.where(fine, -values if self.high_is_bad else values, np.inf), kind="stable")
        weights = np.zeros_like(values)
        weights[order] = np.clip(tail - np.arange(len(values)), 0, 1)
        weights = np.where(fine, weights, 0)
        return weights / weights.sum()

    def of(self, values: np.ndarray) -> float:
        """Its value; not a number where no scenario has one."""
        values = np.asarray(values, float)
        weights = self.weights(values)
        return float(np.sum(np.where(weights > 0, values, 0) * weights)) if weights.any() else float("nan")
