"""Markov regime switching (Hamilton 1989): drift, volatility, correlation and market depth by the state of the market."""

import numpy as np

from stresslev.config.generator import GeneratorSpec
from stresslev.shocks.correlation import nearest_correlation, root
from stresslev.shocks.draws import Drawn, Streams, step_drift, step_variance


def stationary(transition: np.ndarray) -> np.ndarray:
    """(K,) long-run probabilities of the states of a chain with rows (K, K) of transition probabilities."""
    k = len(transition)
    system = np.vstack([transition.T - np.eye(k), np.ones(k)])
    found = np.linalg.lstsq(system, np.append(np.zeros(k), 1.0), rcond=None)[0]
    return np.maximum(found, 0) / np.maximum(found, 0).sum()


def switching(spec: GeneratorSpec, streams: Streams, matrix: np.ndarray) -> Drawn:
    """Paths: the state is drawn first, step by step; then normal returns with its drift and volatility. Args: `matrix` (G, G) of correlations."""
    model = spec.model
    chain = np.array(model.transition)
    drift, variance = (np.stack(x) for x in zip(*(_asset(spec, a) for a in spec.assets.values()), strict=True))  # (G, K)
    state = _states(spec, streams, chain / chain.sum(axis=1, keepdims=True))
    calm = root(matrix)
    z = streams.normals(spec.steps, calm)
    roots = np.stack([root(nearest_correlation(matrix + r.correlation_stress * (1 - matrix))) for r in model.regimes])
    correlated = np.stack([z @ r.T for r in roots])
    z = np.take_along_axis(correlated, state[None, :, :, None], axis=0)[0]
    returns = step_drift(drift.T, spec)[state] + np.sqrt(step_variance(variance.T, spec))[state] * z
    depth = np.array([r.depth_factor for r in model.regimes])[state]
    return Drawn(returns, depth, streams.log_weight())


def _asset(spec: GeneratorSpec, asset) -> tuple[np.ndarray, np.ndarray]:
    """(K,) drift and volatility of an asset by state."""
    count = len(spec.model.regimes)
    return np.broadcast_to(np.asarray(asset.drift or 0.0, float), (count,)), np.array(asset.volatility)


def _states(spec: GeneratorSpec, streams: Streams, chain: np.ndarray) -> np.ndarray:
    """(P, T) state of each step."""
    names = [r.name for r in spec.model.regimes]
    start = stationary(chain) if spec.model.start_regime is None else np.eye(len(names))[names.index(spec.model.start_regime)]
    u = np.stack([rng.random(spec.steps) for rng in streams.rngs])
    edges, first = np.cumsum(chain, axis=1)[:, :-1], np.cumsum(start)[:-1]
    state = np.empty(u.shape, int)
    state[:, 0] = np.searchsorted(first, u[:, 0], side="right")
    for t in range(1, spec.steps):
        state[:, t] = (u[:, t, None] >= edges[state[:, t - 1]]).sum(axis=1)
    return state
