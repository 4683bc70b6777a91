"""Jump-diffusions: Merton's, whose jumps come by chance, and one whose jumps set off others (Hawkes).

Log return of a step of asset a: drift + sigma z + sum of its jumps - their mean, with jumps of the market as a whole; each moves an asset with
probability `jump_share` by a normal log return of mean `jump_mean` and standard deviation `jump_volatility`. Sizes of one jump have the correlation
of the diffusion. Merton's (1976) rate of growth alpha is drift + sigma^2 / 2 + lambda (exp(m + s^2 / 2) - 1 - m).
"""

from collections.abc import Callable

import numpy as np

from stresslev.config.generator import GeneratorSpec
from stresslev.shocks.draws import MINUTES_PER_DAY, Drawn, Streams, by_asset, step_drift, step_variance


def merton(spec: GeneratorSpec, streams: Streams, root: np.ndarray) -> Drawn:
    """Paths of Merton's jump-diffusion (1976): jumps at the times of a Poisson process."""
    rate = spec.model.jumps_per_day / MINUTES_PER_DAY

    def times(path: int) -> np.ndarray:
        count = streams.count(path, rate * spec.duration_minutes)
        return streams.rngs[path].random(count) * spec.duration_minutes

    return _paths(spec, streams, root, times, np.full(spec.steps, rate * spec.step_minutes))


def hawkes(spec: GeneratorSpec, streams: Streams, root: np.ndarray) -> Drawn:
    """The same with self-exciting jumps (Hawkes 1971; for crashes Ait-Sahalia, Cacho-Diaz and Laeven 2015).

    Intensity: lambda(t) = mu + (lambda(0) - mu) exp(-b t) + sum over earlier jumps of n b exp(-b (t - s)), n the branching ratio, b = log 2 over
    the half-life. Drawn exactly, by families: each jump sets off a Poisson number of mean n, after exponential times of rate b (Hawkes, Oakes 1974).
    """
    model = spec.model
    mu, n, b = model.jumps_per_day / MINUTES_PER_DAY, model.branching_ratio, np.log(2) / model.half_life_minutes
    mean = mu / (1 - n)
    start = mean if model.start_jumps_per_day is None else model.start_jumps_per_day / MINUTES_PER_DAY
    end = spec.duration_minutes

    def times(path: int) -> np.ndarray:
        rng = streams.rngs[path]
        first = rng.random(streams.count(path, mu * end)) * end
        # what is left of the excitation before the start dies out: times with a density that falls with exp(-b t), cut off at the end
        gone = -np.expm1(-b * end)
        left = -np.log1p(-rng.random(streams.count(path, (start - mu) / b * gone)) * gone) / b
        generation = np.concatenate([first, left])
        found = [generation]
        while len(generation):
            children = rng.poisson(n, len(generation))
            generation = np.repeat(generation, children) + rng.exponential(1 / b, children.sum())
            generation = generation[generation < end]
            found.append(generation)
        return np.concatenate(found)

    # the mean intensity goes from its start to its long run at rate b (1 - n)
    decay = b * (1 - n)
    left = np.exp(-decay * np.arange(spec.steps + 1) * spec.step_minutes)
    expected = mean * spec.step_minutes + (start - mean) * -np.diff(left) / decay
    return _paths(spec, streams, root, times, expected)


def _paths(spec: GeneratorSpec, streams: Streams, root: np.ndarray, times: Callable[[int], np.ndarray], expected: np.ndarray) -> Drawn:
    """Args: `times` of a path's jumps, in minutes; `expected` (T,) jumps of each step."""
    share, mean, deviation = (by_asset(spec, k) for k in ("jump_share", "jump_mean", "jump_volatility"))
    returns = streams.normals(spec.steps, root) @ root.T * np.sqrt(step_variance(by_asset(spec, "volatility"), spec))
    returns += step_drift(by_asset(spec, "drift"), spec) - expected[:, None] * (share * mean)
    for path in range(len(streams)):
        steps = np.minimum((times(path) / spec.step_minutes).astype(int), spec.steps - 1)
        sizes = mean + streams.jumps(path, len(steps), root) @ root.T * deviation
        hit = streams.rngs[path].random((len(steps), 1)) < share  # one draw for all: who has fewer jumps has them with the others
        np.add.at(returns[path], steps, sizes * hit)
    return Drawn(returns, None, streams.log_weight())
