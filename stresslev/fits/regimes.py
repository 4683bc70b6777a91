"""Markov regimes of normal returns by the expectation-maximisation of Baum and Welch (Hamilton 1990), all assets in one state at a time."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Regimes:
    """K states, the calmest first: transition (K, K) per step, mean and variance (K, G) of a step, share (K,) of the time, log likelihood."""

    transition: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray
    log_likelihood: float


def fit(returns: np.ndarray, count: int, *, most: int = 500, tolerance: float = 1e-8) -> Regimes:
    """Fit `count` states to returns (N, G); within a state assets count as independent for telling which state it is.

    Begins with states told by the size of recent moves; ends when the log likelihood gains less than `tolerance` of itself.
    """
    n = len(returns)
    scaled = ((returns - returns.mean(axis=0)) / returns.std(axis=0)) ** 2
    width = max(min(24, n // 10), 1)
    level = np.convolve(scaled.mean(axis=1), np.ones(width) / width, mode="same")
    edges = np.quantile(level, np.linspace(0, 1, count + 1)[1:-1] ** 0.5)
    state = np.searchsorted(edges, level)
    weight = np.eye(count)[state] * 0.9 + 0.1 / count
    chain = np.full((count, count), 0.1 / max(count - 1, 1))
    np.fill_diagonal(chain, 0.9)
    start, before = np.full(count, 1 / count), -np.inf
    for _ in range(most):
        total = weight.sum(axis=0)
        mean = weight.T @ returns / total[:, None]
        variance = np.stack([weight[:, k] @ (returns - mean[k]) ** 2 / total[k] for k in range(count)])
        weight, pairs, log_likelihood = _smoothed(returns, chain, start, mean, variance)
        chain, start = pairs / pairs.sum(axis=1, keepdims=True), weight[0]
        if log_likelihood - before < tolerance * abs(log_likelihood):
            break
        before = log_likelihood
    order = np.argsort(variance.sum(axis=1))
    return Regimes(chain[order][:, order], mean[order], variance[order], weight.mean(axis=0)[order], float(log_likelihood))


def _smoothed(returns, chain, start, mean, variance) -> tuple[np.ndarray, np.ndarray, float]:
    """(N, K) probability of each state given everything, (K, K) expected transitions, and the log likelihood."""
    logs = -0.5 * (np.log(2 * np.pi * variance)[None] + (returns[:, None, :] - mean) ** 2 / variance).sum(axis=2)
    top = logs.max(axis=1)
    b = np.exp(logs - top[:, None])
    forward, scale = _passed(b, chain, start)
    backward = np.ones_like(b)
    if len(chain) == 2:  # in plain numbers, which for two states is much faster
        (p00, p01), (p10, p11) = chain.tolist()
        x, y = 1.0, 1.0
        rows = []
        for (f, g), c in zip(b[:0:-1].tolist(), scale[:0:-1].tolist(), strict=True):
            f, g = f * x / c, g * y / c
            x, y = p00 * f + p01 * g, p10 * f + p11 * g
            rows.append((x, y))
        backward[:-1] = np.array(rows)[::-1]
    else:
        for t in range(len(b) - 1, 0, -1):
            backward[t - 1] = chain @ (b[t] * backward[t]) / scale[t]
    weight = forward * backward
    weight /= weight.sum(axis=1, keepdims=True)
    pairs = chain * (forward[:-1].T @ (b[1:] * backward[1:] / scale[1:, None]))
    return weight, pairs, float(np.sum(np.log(scale) + top))


def _passed(b: np.ndarray, chain: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Filtered probabilities (N, K) and what each step is scaled by (N,)."""
    rows, scale = [], []
    if len(chain) == 2:
        (p00, p01), (p10, p11) = chain.tolist()
        x, y = start.tolist()
        first = True
        for f, g in b.tolist():
            if not first:
                x, y = x * p00 + y * p10, x * p01 + y * p11
            first = False
            x, y = x * f, y * g
            c = x + y
            x, y = x / c, y / c
            rows.append((x, y))
            scale.append(c)
        return np.array(rows), np.array(scale)
    a = start
    for t, row in enumerate(b):
        a = (a if t == 0 else a @ chain) * row
        c = a.sum()
        a = a / c
        rows.append(a)
        scale.append(c)
    return np.array(rows), np.array(scale)
