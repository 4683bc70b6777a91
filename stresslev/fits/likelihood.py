"""Maximum likelihood over free parameters, with standard errors from the curvature at the maximum."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """Estimates by name, their standard errors (NaN where the curvature gives none), and the log likelihood there."""

    values: dict[str, float]
    errors: dict[str, float]
    log_likelihood: float


def maximise(log_likelihood: Callable[[dict[str, float]], float], start: dict[str, float], bounds: dict[str, tuple[float, float]]) -> Fit:
    """Maximise over parameters within bounds.

    Nelder-Mead over logits of the place between the bounds, restarted until it stands still; standard errors are roots of the diagonal of the inverse
    observed information, a matrix of second differences in the parameters themselves.

    Args: `log_likelihood` of parameters by name, which may be -inf; `start` within `bounds`.
    """
    from scipy.optimize import minimize

    names = list(start)
    low, high = (np.array([bounds[n][side] for n in names]) for side in (0, 1))

    def placed(u: np.ndarray) -> np.ndarray:
        return low + (high - low) / (1 + np.exp(-np.clip(u, -40, 40)))

    def loss(u: np.ndarray) -> float:
        value = log_likelihood(dict(zip(names, placed(u).tolist(), strict=True)))
        return -value if np.isfinite(value) else 1e300

    share = np.clip((np.array([start[n] for n in names]) - low) / (high - low), 1e-6, 1 - 1e-6)
    u, best = np.log(share / (1 - share)), np.inf
    for _ in range(6):
        close = 1e-7 * (1 + (abs(best) if np.isfinite(best) else 0.0))
        found = minimize(loss, u, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": close, "maxiter": 4000})
        u, before, best = found.x, best, float(found.fun)
        if before - best < 1e-4:
            break
    x = placed(u)
    return Fit(dict(zip(names, x.tolist(), strict=True)), dict(zip(names, _errors(log_likelihood, names, x, low, high), strict=True)), -best)


def _errors(log_likelihood, names: list[str], x: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[float]:
    """Standard errors; NaN where a parameter is at a bound, or the likelihood is not curved."""

    def at(y):
        return log_likelihood(dict(zip(names, y.tolist(), strict=True)))

    step = 1e-3 * np.maximum(np.abs(x), 1e-3 * (high - low))
    inside = (x - 2 * step > low) & (x + 2 * step < high)
    free = np.flatnonzero(inside)
    h, centre = np.zeros((len(free), len(free))), at(x)
    for a, i in enumerate(free):
        for b, j in enumerate(free[: a + 1]):
            ei, ej = np.eye(len(x))[i] * step[i], np.eye(len(x))[j] * step[j]
            if i == j:
                h[a, a] = (at(x + ei) - 2 * centre + at(x - ei)) / step[i] ** 2
            else:
                h[a, b] = h[b, a] = (at(x + ei + ej) - at(x + ei - ej) - at(x - ei + ej) + at(x - ei - ej)) / (4 * step[i] * step[j])
    out = np.full(len(x), np.nan)
    try:
        variance = np.diag(np.linalg.inv(-h))
    except np.linalg.LinAlgError:
        return out.tolist()
    out[free] = np.sqrt(np.where(variance > 0, variance, np.nan))
    return out.tolist()
