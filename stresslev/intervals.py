"""Intervals for what is estimated from many paths: means, probabilities, quantiles and expected shortfalls, weighted or not.

Weights are likelihood ratios of importance sampling, whose mean is 1. Large values count as bad: turn the sign of values whose small ones are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv, ndtri, stdtrit

#: Least values beyond a quantile for an interval of the expected shortfall.
TAIL = 10
#: How each interval is made, for the reader.
METHODS = {
    "mean": "Student's t",
    "probability": "Clopper and Pearson (1934), exact",
    "quantile": "order statistics, exact by the binomial distribution",
    "expected_shortfall": "asymptotic normal (Manistre and Hancock 2005)",
}
#: The same with weights.
WEIGHTED_METHODS = {
    "mean": "Student's t, weighted by likelihood ratios with their mean as control variate",
    "probability": "Student's t, weighted by likelihood ratios with their mean as control variate",
    "quantile": "inverted normal interval of the weighted tail probability (Glynn 1996)",
    "expected_shortfall": "asymptotic normal, weighted by likelihood ratios",
}


@dataclass(frozen=True)
class Interval:
    """An estimate, and the interval that covers the truth with the stated confidence; ends may be infinite where there are too few paths."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Larger distance of an end from the estimate."""
        return max(self.high - self.value, self.value - self.low)

    def turned(self) -> "Interval":
        """Of the negative."""
        return Interval(-self.value, -self.high, -self.low)


def _centred(value: float, errors: np.ndarray, factor: float) -> Interval:
    """Around a value, from independent terms (n,) whose mean is the error of the estimate."""
    n = len(errors)
    reach = factor * errors.std(ddof=1) / np.sqrt(n) if n > 1 and np.isfinite(factor) else np.inf
    return Interval(float(value), float(value - reach), float(value + reach))


def mean(x: np.ndarray, confidence: float, weights: np.ndarray | None = None) -> Interval:
    """Mean of values (n,) with Student's t.

    With weights the estimate is that of w x with w as control variate: E w = 1 is known (Owen and Zhou 2000), so a constant has no error.
    """
    n = len(x)
    t = float(stdtrit(n - 1, (1 + confidence) / 2)) if n > 1 else np.inf
    if weights is None:
        return _centred(x.mean(), x, t)
    y, spread = weights * x, weights.var()
    slope = np.mean((y - y.mean()) * (weights - weights.mean())) / spread if spread > 0 else 0.0
    terms = y - slope * (weights - 1)
    return _centred(terms.mean(), terms, t)


def probability(happened: np.ndarray, confidence: float, weights: np.ndarray | None = None) -> Interval:
    """Probability of an event from (n,) bool: exact (Clopper and Pearson 1934), or with weights as `mean`, kept within 0 and 1."""
    if weights is not None:
        found = mean(happened.astype(float), confidence, weights)
        low, high = max(found.low, 0.0), min(found.high, 1.0)
        if not happened.any():  # nothing seen: at most what the exact interval says of so many paths with the largest weight
            high = max(high, min(1.0, weights.max() * probability(happened, confidence).high))
        return Interval(max(found.value, 0.0), low, high)
    n, k, alpha = len(happened), int(happened.sum()), 1 - confidence
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha / 2))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha / 2))
    return Interval(k / n, low, high)


def quantile(x: np.ndarray, level: float, confidence: float, weights: np.ndarray | None = None) -> Interval:
    """Quantile at a level: the smallest value that at least this share of the values does not exceed.

    Without weights the interval runs between two order statistics and covers with at least the confidence whatever the distribution (Conover 1999,
    section 3.2); an end for which there are too few values is infinite. With weights a value is within where the level is within the normal interval
    of the weighted tail probability above it.
    """
    order = np.argsort(x, kind="stable")
    x, n = x[order], len(x)
    if weights is None:
        below = bdtr(np.arange(n), n, level)  # P(no more than k of n values lie below the quantile)
        lows, highs = np.flatnonzero(below <= (1 - confidence) / 2), np.flatnonzero(1 - below <= (1 - confidence) / 2)
        # the binomial at k - 1 belongs to the k-th order statistic, which has the index k - 1
        low = x[lows[-1]] if len(lows) else -np.inf
        high = x[highs[0]] if len(highs) else np.inf
        return Interval(float(x[max(int(np.ceil(n * level - 1e-9)) - 1, 0)]), float(low), float(high))
    tail, reach = _tail(weights[order], confidence)
    return Interval(*(float(_first(x, tail + s * reach <= 1 - level, np.inf)) for s in (0, -1, 1)))


def _tail(w: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) weighted share of the values above each, and the half width of its normal interval; w in the order of the values."""
    n = len(w)
    above = np.append(np.cumsum(w[:0:-1])[::-1], 0.0) / n
    second = np.append(np.cumsum(w[:0:-1] ** 2)[::-1], 0.0) / n
    return above, ndtri((1 + confidence) / 2) * np.sqrt(np.maximum(second - above**2, 0) / n)


def _first(x: np.ndarray, true: np.ndarray, otherwise: float) -> float:
    found = np.flatnonzero(true)
    return x[found[0]] if len(found) else otherwise


def expected_shortfall(x: np.ndarray, level: float, confidence: float, weights: np.ndarray | None = None) -> Interval:
    """Mean of the worst share 1 - level of the values (Rockafellar and Uryasev 2002: q + E(x - q)+ / (1 - level)).

    The interval is normal with the asymptotic variance of Manistre and Hancock (2005), that of q + (x - q)+ / (1 - level): an error of q has no first
    order. Where fewer than `TAIL` values can be expected beyond q (of so many paths that count) its ends are infinite.
    """
    q = quantile(x, level, confidence, weights).value
    w = np.ones(len(x)) if weights is None else weights
    terms = q + w * np.maximum(x - q, 0) / (1 - level)
    beyond = (1 - level) * len(x) if weights is None else effective(w[x >= q])
    few = beyond < TAIL - 1e-9
    return _centred(terms.mean(), terms, np.inf if few else float(ndtri((1 + confidence) / 2)))


def effective(weights: np.ndarray) -> float:
    """Paths that carry the weight: (sum w)^2 / sum w^2 (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
