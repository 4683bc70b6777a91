"""Length of blocks for the stationary bootstrap (Politis and White 2004, corrected by Patton, Politis and White 2009)."""

import numpy as np


def block_length(x: np.ndarray) -> float:
    """Mean length, in steps, that makes the variance of the mean of a series (N,) best; at least 1."""
    n = len(x)
    x = x - x.mean()
    run = max(5, int(np.ceil(np.sqrt(np.log10(n)))))
    most = int(np.ceil(np.sqrt(n))) + run
    covariance = np.array([x[: n - k] @ x[k:] / n for k in range(most + 1)])
    correlation = covariance / covariance[0]
    small = np.abs(correlation[1:]) < 2 * np.sqrt(np.log10(n) / n)
    # the first lag after which `run` in a row are small
    quiet = [k for k in range(most - run + 1) if small[k : k + run].all()]
    m = min(2 * max(quiet[0], 1) if quiet else most, most)
    lags = np.arange(-m, m + 1)
    window = np.clip(2 * (1 - np.abs(lags / m)), 0, 1)  # flat top
    both = window * covariance[np.abs(lags)]
    g, d = np.sum(both * np.abs(lags)), 2 * both.sum() ** 2
    longest = min(3 * np.sqrt(n), n / 3)
    return float(np.clip((2 * g**2 / d) ** (1 / 3) * n ** (1 / 3), 1, longest)) if d > 0 else 1.0
