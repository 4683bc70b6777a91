"""GARCH(1,1) with Student-t innovations, by maximum likelihood (Bollerslev 1986, 1987)."""

import numpy as np
from scipy.signal import lfilter
from scipy.special import gammaln

from stresslev.fits.likelihood import Fit, maximise


def variances(e: np.ndarray, variance: float, alpha: float, beta: float) -> np.ndarray:
    """(N,) conditional variances of returns less their mean e (N,); the first is the unconditional one."""
    drive = np.concatenate([[variance], (1 - alpha - beta) * variance + alpha * e[:-1] ** 2])
    return lfilter([1.0], [1.0, -beta], drive)


def log_likelihood(e: np.ndarray, h: np.ndarray, freedom: float) -> float:
    """Of returns less their mean e (N,) with conditional variances h (N,): Student's t of unit variance, scaled."""
    constant = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - 0.5 * np.log(np.pi * (freedom - 2))
    return float(np.sum(constant - 0.5 * np.log(h) - (freedom + 1) / 2 * np.log1p(e**2 / (h * (freedom - 2)))))


def fit(returns: np.ndarray) -> Fit:
    """Parameters alpha, beta and degrees_of_freedom of a step, with the error of `persistence`, alpha + beta, besides.

    Mean and unconditional variance are the sample's (variance targeting, Engle and Mezrich 1996): where volatility hardly forgets, as in hourly
    prices of coins, the likelihood says next to nothing about its long-run level.
    """
    e = returns - returns.mean()
    variance = float(e.var())

    def value(p: dict[str, float]) -> float:
        if p["alpha"] > p["persistence"]:
            return -np.inf
        h = variances(e, variance, p["alpha"], p["persistence"] - p["alpha"])
        return log_likelihood(e, h, p["degrees_of_freedom"]) if (h > 0).all() else -np.inf

    start = {"alpha": 0.08, "persistence": 0.95, "degrees_of_freedom": 5.0}
    bounds = {"alpha": (0.0, 1.0), "persistence": (0.0, 0.9999), "degrees_of_freedom": (2.05, 200.0)}
    found = maximise(value, start, bounds)
    values = dict(found.values)
    values["beta"] = values["persistence"] - values["alpha"]
    return Fit(values, found.errors, found.log_likelihood)
