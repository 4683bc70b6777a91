"""GARCH(1,1): volatility that clusters, with Student-t innovations or with those of history.

h' = omega + alpha e^2 + beta h (Bollerslev 1986), e = sqrt(h) z the return less its mean,
omega = (1 - alpha - beta) times the unconditional variance.
"""

from itertools import accumulate

import numpy as np
from scipy.special import gammaincinv

from stresslev.config.generator import GeneratorSpec
from stresslev.shocks.draws import Drawn, Streams, by_asset, step_drift, step_variance
from stresslev.shocks.history import History


def recursion(z: np.ndarray, *, variance: np.ndarray, alpha: np.ndarray, beta: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(P, T, G) returns less their mean from innovations z (P, T, G); unconditional variance, alpha, beta and variance of the first step (G,)."""
    e, h = np.empty_like(z), np.broadcast_to(start, z[:, 0].shape)
    omega = (1 - alpha - beta) * variance
    for t in range(z.shape[1]):
        e[:, t] = np.sqrt(h) * z[:, t]
        h = omega + alpha * e[:, t] ** 2 + beta * h
    return e


def student(normals: np.ndarray, uniforms: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Student's t of unit variance from normals (P, T, G): divided by the root of one chi-square over all assets, so that tails come together
    (multivariate t); assets of other degrees of freedom take the same quantile of theirs. `uniforms` (P, T); infinite freedom: the normal.
    """
    out = normals.copy()
    for g, nu in enumerate(freedom):
        if np.isfinite(nu):
            chi_square = 2 * gammaincinv(nu / 2, uniforms)
            out[..., g] *= np.sqrt((nu - 2) / chi_square)
    return out


def garch(spec: GeneratorSpec, streams: Streams, root: np.ndarray) -> Drawn:
    """Paths of GARCH(1,1) with Student-t innovations (Bollerslev 1987), constant conditional correlation (Bollerslev 1990)."""
    freedom = np.array([a.degrees_of_freedom or np.inf for a in spec.assets.values()])
    z = streams.normals(spec.steps, root) @ root.T
    uniforms = np.stack([rng.random(spec.steps) for rng in streams.rngs])
    return Drawn(_returns(spec, student(z, uniforms, freedom), None), None, streams.log_weight())


def filtered(spec: GeneratorSpec, streams: Streams, history: History) -> Drawn:
    """Filtered historical simulation (Barone-Adesi, Giannopoulos and Vosper 1999): the history's standardised residuals, all assets of one time
    together, drawn with replacement and sent through GARCH again, from the volatility at the end of the history.
    """
    z, last = residuals(spec, history)
    chosen = np.stack([rng.integers(0, len(z), spec.steps) for rng in streams.rngs])
    return Drawn(_returns(spec, z[chosen], last, history.mean), None, streams.log_weight())


def residuals(spec: GeneratorSpec, history: History) -> tuple[np.ndarray, np.ndarray]:
    """(N, G) standardised residuals of mean 0 and variance 1, and (G,) the variance of the step after the last."""
    variance, alpha, beta = step_variance(by_asset(spec, "volatility"), spec), by_asset(spec, "alpha"), by_asset(spec, "beta")
    e = history.returns - history.mean
    h = variances(e, (1 - alpha - beta) * variance, alpha, beta, variance)
    z = e / np.sqrt(h[:-1])
    return (z - z.mean(axis=0)) / z.std(axis=0), h[-1]


def variances(e: np.ndarray, omega: np.ndarray, alpha: np.ndarray, beta: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(N + 1, G) conditional variances of returns less their mean e (N, G), the one after the last included."""
    columns = []
    for g in range(e.shape[1]):
        b, drive = float(beta[g]), omega[g] + alpha[g] * e[:, g] ** 2
        columns.append(list(accumulate(drive.tolist(), lambda h, x, b=b: b * h + x, initial=float(start[g]))))
    return np.array(columns).T


def _returns(spec: GeneratorSpec, z: np.ndarray, last: np.ndarray | None, mean: np.ndarray | None = None) -> np.ndarray:
    variance = step_variance(by_asset(spec, "volatility"), spec)
    given = step_variance(by_asset(spec, "start_volatility"), spec)
    start = np.where(given > 0, given, variance if last is None else last)
    return _drift(spec, mean) + recursion(z, variance=variance, alpha=by_asset(spec, "alpha"), beta=by_asset(spec, "beta"), start=start)


def _drift(spec: GeneratorSpec, mean: np.ndarray | None) -> np.ndarray:
    """(G,) mean log return of a step: as given, else the history's, else none."""
    given = [a.drift for a in spec.assets.values()]
    other = np.zeros(len(given)) if mean is None else mean
    return np.array([m if d is None else step_drift(d, spec) for d, m in zip(given, other, strict=True)])
