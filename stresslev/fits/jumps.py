"""Jump-diffusions: Merton's by maximum likelihood, one with self-exciting jumps in two steps: which returns are jumps, and when they come."""

import numpy as np
from scipy.special import gammaln, pdtrik

from stresslev.fits.likelihood import Fit, maximise

#: Most jumps of one step that the likelihood counts.
_MOST = 12


def merton(returns: np.ndarray) -> Fit:
    """Parameters of a step: variance (of the diffusion), jumps (mean number), jump_mean, jump_volatility (Merton 1976; Honore 1998).

    A step's return is a Poisson mixture of normals with the sample's mean. The likelihood has no bound where the diffusion vanishes, so its variance
    is kept above a hundredth of the robust one (interquartile range).
    """
    x = returns - returns.mean()
    quartiles = np.quantile(x, [0.25, 0.75])
    robust = ((quartiles[1] - quartiles[0]) / 1.349) ** 2 or x.var()
    jumps = x[np.abs(x) > 4 * np.sqrt(robust)]

    def value(p: dict[str, float]) -> float:
        rate, m = p["jumps"], p["jump_mean"]
        k = np.arange(min(_MOST, int(pdtrik(1 - 1e-10, rate)) + 1) + 1)[:, None]
        variance = p["variance"] + k * p["jump_volatility"] ** 2
        z = x - (k - rate) * m
        terms = k * np.log(rate) - rate - gammaln(k + 1) - 0.5 * np.log(2 * np.pi * variance) - z**2 / (2 * variance)
        top = terms.max(axis=0)
        return float(np.sum(top + np.log(np.exp(terms - top).sum(axis=0))))

    share = max(len(jumps) / len(x), 2 / len(x))
    spread = float(x.std())
    start = {
        "variance": float(robust),
        "jumps": min(share, 0.5),
        "jump_mean": float(jumps.mean()) if len(jumps) else 0.0,
        "jump_volatility": float(jumps.std()) if len(jumps) > 2 else 3 * spread,
    }
    bounds = {
        "variance": (robust / 100, robust * 10),
        "jumps": (1e-2 / len(x), 2.0),
        "jump_mean": (-20 * spread, 20 * spread),
        "jump_volatility": (spread / 50, 50 * spread),
    }
    return maximise(value, start, bounds)


def detected(returns: np.ndarray, *, window: int = 100, chance: float = 0.001) -> np.ndarray:
    """(N,) bool: returns that are jumps by Lee and Mykland's test (2008).

    A return over the local volatility, by bipower variation of the `window` returns before it, is a jump where it passes what the largest of N
    normal ones passes with this chance (Gumbel). Jumps that follow each other hide behind the volatility they seem to make, so the test is repeated
    with those found so far taken as ordinary returns.
    """
    x = np.abs(returns - np.median(returns))
    n = len(x)
    end = np.clip(np.arange(n) - 1, 1, n - 1)  # products of pairs that end before the return itself
    begin = np.maximum(end - window, 0)
    early = np.arange(n) < window  # the first returns are held against the first window
    begin, end = np.where(early, 0, begin), np.where(early, min(window, n - 1), end)
    c = np.sqrt(2 * np.log(n))
    location, scale = c - (np.log(np.pi) + np.log(np.log(n))) / (2 * c), 1 / c
    threshold = location - scale * np.log(-np.log1p(-chance))
    ordinary, hit = x, np.zeros(n, bool)
    for _ in range(4):
        total = np.concatenate([[0.0], np.cumsum(ordinary[1:] * ordinary[:-1])])
        local = np.sqrt(np.pi / 2 * np.maximum((total[end] - total[begin]) / (end - begin), 1e-300))
        hit = hit | (x / local > threshold)
        ordinary = np.where(hit, np.minimum(x, np.sqrt(2 / np.pi) * local), x)
    return hit


def hawkes(times: np.ndarray, end: float) -> Fit:
    """Parameters mu, branching_ratio and decay, per unit of time, of an exponential Hawkes process from its times in [0, end] (Ozaki 1979).

    Jumps of one bar have one time; those do not excite each other here.
    """
    gaps = np.diff(times)

    def value(p: dict[str, float]) -> float:
        mu, n, b = p["mu"], p["branching_ratio"], p["decay"]
        memory, past = 0.0, np.empty(len(times))
        past[0] = 0.0
        for i, f in enumerate(np.exp(-b * gaps).tolist(), start=1):
            memory = f * (memory + 1.0)
            past[i] = memory
        compensator = mu * end + n * np.sum(-np.expm1(-b * (end - times)))
        return float(np.sum(np.log(mu + n * b * past)) - compensator)

    rate = len(times) / end
    start = {"mu": 0.5 * rate, "branching_ratio": 0.5, "decay": 5 * rate}
    bounds = {"mu": (1e-4 * rate, 2 * rate), "branching_ratio": (1e-6, 0.99), "decay": (1e-3 * rate, min(1e4 * rate, 20 / max(gaps.min(), 1e-9)))}
    return maximise(value, start, bounds)
