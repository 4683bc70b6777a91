"""How far a margin requirement rises when markets fall: measures of the requirement of a portfolio that stays the same.

Each takes the requirement, USD or a rate, all values positive, with time on the first axis; what other axes there are stay.
"""

import numpy as np


def _requirement(requirement: np.ndarray) -> np.ndarray:
    values = np.asarray(requirement, float)
    if values.ndim == 0 or values.shape[0] == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("requirement must have time on its first axis, at least one value, and only finite values above zero")
    return values


def peak_to_trough(requirement: np.ndarray) -> np.ndarray:
    """Largest requirement over the smallest, in whichever order they came; 1 for one that never moves.

    Murphy, Vasios and Vause (2014, Bank of England Financial Stability Paper 29): their measure of procyclicality over the cycle.

    Args: requirement (T, ...).

    Returns: (...) ratio >= 1.
    """
    values = _requirement(requirement)
    return values.max(axis=0) / values.min(axis=0)


def largest_increase(requirement: np.ndarray, steps: int) -> np.ndarray:
    """Largest rise of the requirement over any `steps` steps, as a fraction of where it began: `max_t M_{t+n} / M_t - 1`, 0 if it never rose.

    Murphy, Vasios and Vause (2014, Bank of England Financial Stability Paper 29): their measure over the horizon for which liquidity is planned, the
    n-day increase of a portfolio held constant. They look at 5 and 30 days.

    Args: requirement (T, ...); steps n >= 1. Over a record shorter than n + 1 the rises are those from its start to its end.

    Returns: (...) fraction >= 0.
    """
    values = _requirement(requirement)
    if steps < 1:
        raise ValueError("steps must be at least 1")
    apart = min(steps, values.shape[0] - 1)
    rises = values[apart:] / values[: values.shape[0] - apart] - 1
    return np.maximum(rises.max(axis=0), 0.0)


def large_calls(requirement: np.ndarray, threshold: float) -> np.ndarray:
    """Share of the steps in which the requirement rose by more than `threshold`, a fraction of what it was.

    How often the holder of an unchanged portfolio is called for a lot at once, beside how much the worst call is: the frequency that goes with the
    short-term measure of Murphy, Vasios and Vause (2014, Bank of England Financial Stability Paper 29), in our definition.

    Args: requirement (T, ...); threshold >= 0.

    Returns: (...) in [0, 1]; 0 for a single value.
    """
    values = _requirement(requirement)
    if values.shape[0] == 1:
        return np.zeros(values.shape[1:])
    return (values[1:] / values[:-1] - 1 > threshold).mean(axis=0)
