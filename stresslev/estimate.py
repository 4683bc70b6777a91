"""A mean and how far to trust it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean over books, or over whatever was drawn anew, with its confidence interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, confidence: float) -> "Estimate":
        """By Student's t over books; values that are not finite make it not a number."""
        n = len(values)
        mean = float(np.mean(values))
        half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(mean, mean - half, mean + half)
