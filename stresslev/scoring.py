"""Statistics of scores for binary outcomes, in NumPy: a logistic regression with signs, and measures of discrimination and calibration."""

from dataclasses import dataclass

import numpy as np

#: Half-width of a 95% interval in standard errors.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Fit:
    """A logistic regression on standardised features; J features.

    Attributes:
      weights: (J,) change of the log-odds per standard deviation of a feature.
      intercept: log-odds where every feature is at its mean.
      mean, scale: (J,) of the features in the sample; scale is 1 for a feature that does not vary.
      iterations: Newton steps taken.
      slack: the largest violation of the optimality conditions, per observation.
    """

    weights: np.ndarray
    intercept: float
    mean: np.ndarray
    scale: np.ndarray
    iterations: int
    slack: float

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """(N,) of features (N, J)."""
        return self.intercept + (features - self.mean) / self.scale @ self.weights

    def probability(self, features: np.ndarray) -> np.ndarray:
        """(N,) of features (N, J)."""
        return sigmoid(self.log_odds(features))


def sigmoid(s: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-s))` without overflow."""
    small = np.exp(-np.abs(s))
    return np.where(s >= 0, 1.0, small) / (1 + small)


def _loss(parameters: np.ndarray, u: np.ndarray, y: np.ndarray, ridge: np.ndarray) -> float:
    s = u @ parameters
    return float(np.sum(np.logaddexp(0, s) - y * s) + 0.5 * parameters @ (ridge * parameters))


def fit(features: np.ndarray, outcome: np.ndarray, signs: tuple[int, ...], penalty: float = 1.0, most: int = 200) -> Fit:
    """Maximum likelihood with a Gaussian prior, and weights of given signs.

    Minimises `sum_n [log(1 + exp(s_n)) - y_n s_n] + penalty / 2 |w|^2` over the intercept, which is not penalised, and weights with
    `signs_j w_j >= 0`. The problem is convex and, with features that carry any information, has one solution. Projected Newton steps
    (Bertsekas 1982, "Projected Newton methods for optimization problems with simple constraints"): weights at zero that the gradient
    pushes outwards stay there, the others take a Newton step, shortened until the loss falls enough.

    Args:
      features: (N, J) finite.
      outcome: (N,) bool; both values must occur.
      signs: (J,) 1 or -1; 0 leaves a feature out, its weight is 0.
      penalty: inverse variance of the prior of a weight, > 0.
      most: Newton steps.

    Raises:
      ValueError: everybody has the same outcome.
      ArithmeticError: not converged; not expected with finite features.
    """
    y = np.asarray(outcome, float)
    if not 0 < y.mean() < 1:
        raise ValueError("everybody has the same outcome: there is nothing to tell apart")
    x = np.asarray(features, float)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)
    oriented = np.asarray(signs, float)
    u = np.column_stack([np.ones(len(y)), (x - mean) / scale * oriented])
    ridge = np.r_[0.0, np.full(len(oriented), float(penalty))]
    lower = np.r_[-np.inf, np.zeros(len(oriented))]
    at = np.r_[np.log(y.mean() / (1 - y.mean())), np.zeros(len(oriented))]
    for iteration in range(most):
        p = sigmoid(u @ at)
        gradient = u.T @ (p - y) + ridge * at
        slack = float(np.abs(at - np.maximum(at - gradient / len(y), lower)).max())
        if slack <= 1e-9:
            return Fit(at[1:] * oriented, float(at[0]), mean, scale, iteration, slack)
        free = ~((at <= lower + min(slack, 1e-6)) & (gradient > 0))
        part = u[:, free]
        hessian = part.T @ (part * (p * (1 - p))[:, None]) + np.diag(ridge[free] + 1e-12 * len(y))
        step = np.zeros_like(at)
        step[free] = -np.linalg.solve(hessian, gradient[free])
        at = _shortened(at, step, gradient, lower, lambda new: _loss(new, u, y, ridge))
    raise ArithmeticError(f"the fit has not converged: violation {slack:.1e} after {most} steps")


def _shortened(at: np.ndarray, step: np.ndarray, gradient: np.ndarray, lower: np.ndarray, loss) -> np.ndarray:
    """The farthest of the points along the projected step, halving it, at which the loss has fallen enough (Armijo)."""
    before = loss(at)
    for halvings in range(60):
        new = np.maximum(at + 0.5**halvings * step, lower)
        # at the optimum the loss can no longer be told from its rounding
        if loss(new) <= before + 1e-4 * gradient @ (new - at) + 1e-14 * abs(before):
            break
    return new


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve, its standard error, and a 95% interval; not a number where one of the outcomes does not occur."""

    value: float
    error: float
    low: float
    high: float


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]


def auc(score: np.ndarray, outcome: np.ndarray) -> Area:
    """The chance that somebody with the outcome scores higher than somebody without, ties counting half (Mann and Whitney 1947).

    The standard error is that of DeLong, DeLong and Clarke-Pearson (1988), from midranks (Sun and Xu 2014); the interval is symmetric in the
    logit of the area, so that it stays within (0, 1), and shrinks to a point where the area is 0 or 1. It speaks of other accounts in the same
    event, not of other events.
    """
    y = np.asarray(outcome, bool)
    with_it, without = int(y.sum()), int((~y).sum())
    if not with_it or not without:
        return Area(np.nan, np.nan, np.nan, np.nan)
    score = np.asarray(score, float)
    ranks = _midranks(score)
    above = (ranks[y] - _midranks(score[y])) / without  # share of those without that each one with it beats
    below = 1 - (ranks[~y] - _midranks(score[~y])) / with_it
    value = float(above.mean())
    if min(with_it, without) < 2:
        return Area(value, np.nan, np.nan, np.nan)
    error = float(np.sqrt(above.var(ddof=1) / with_it + below.var(ddof=1) / without))
    if not 0 < value < 1:
        return Area(value, error, value, value)
    middle, half = np.log(value / (1 - value)), _Z * error / (value * (1 - value))
    return Area(value, error, *(float(sigmoid(np.array(middle + side * half))) for side in (-1, 1)))


def roc(score: np.ndarray, outcome: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct score, thinned to about `most`. Both outcomes must occur."""
    y = np.asarray(outcome, bool)
    order = np.argsort(-np.asarray(score, float), kind="stable")
    last = np.flatnonzero(np.r_[np.diff(np.asarray(score, float)[order]) != 0, True])
    hits = np.cumsum(y[order])[last]
    false, true = np.r_[0.0, (last + 1 - hits) / (~y).sum()], np.r_[0.0, hits / y.sum()]
    # even steps along the curve, wherever it is steep
    along = np.interp(np.linspace(0, 2, most), false + true, np.arange(len(false)))
    chosen = np.unique(np.r_[0, along.round().astype(int), len(false) - 1])
    return false[chosen], true[chosen]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    share, extra = hits / count, _Z**2 / count
    middle = share + extra / 2
    half = _Z * np.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, float((middle - half) / (1 + extra))), min(1.0, float((middle + half) / (1 + extra)))


@dataclass(frozen=True)
class Bin:
    """Observations of about the same predicted probability: how many, the mean prediction, the share observed and its 95% interval."""

    count: int
    predicted: float
    observed: float
    low: float
    high: float


def reliability(probability: np.ndarray, outcome: np.ndarray, bins: int = 10) -> list[Bin]:
    """Predicted against observed, in bins of equal count by ascending prediction (as many as there are observations, at most)."""
    order = np.argsort(probability, kind="stable")
    found = []
    for part in np.array_split(order, min(bins, len(order))):
        hits = int(np.sum(outcome[part]))
        found.append(Bin(len(part), float(np.mean(probability[part])), hits / len(part), *wilson(hits, len(part))))
    return found


@dataclass(frozen=True)
class Brier:
    """Mean squared error of probabilities (Brier 1950), that of always saying the base rate, and the share of the latter that is saved."""

    score: float
    reference: float
    skill: float


def brier(probability: np.ndarray, outcome: np.ndarray) -> Brier:
    """Brier score with the sample's own base rate as reference; without any variation there is no skill to speak of (not a number)."""
    y = np.asarray(outcome, float)
    score, reference = float(np.mean((probability - y) ** 2)), float(y.mean() * (1 - y.mean()))
    return Brier(score, reference, 1 - score / reference if reference > 0 else np.nan)
