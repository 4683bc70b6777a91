"""Searches without derivatives, for comparison: random search and CMA-ES on the same parameters, by the same hard runs."""

import warnings
from collections.abc import Callable

import numpy as np

from stresslev.tuning.search import Found, Search

#: Runs of the suite that a rival asks for at a time.
_TOGETHER = 8
#: Of a violation, measured by its bound: what rivals pay for it, in units of the objective at the start.
_PRICE = 10.0


def _merit(search: Search, metrics: np.ndarray) -> np.ndarray:
    """(N,) what a rival makes small: the objective, and an exact penalty on violations (a rival knows no multipliers)."""
    scores = [search.goal.score(m) for m in metrics]
    at = [s.objective / search.goal.scale + _PRICE * float(np.sum(np.maximum(s.violations, 0))) for s in scores]
    return np.where(np.isfinite(at), at, 1e6)


def _record(best: list[Found], search: Search, values, metrics) -> None:
    for v, m in zip(values, metrics, strict=True):
        found = Found(v, search.goal.score(m))
        if np.isfinite(found.score.objective) and (not best or search.better(found.score, best[-1].score)):
            best.append(found)


#: Finds policies with so many runs of the suite; told(runs done, best so far).
Rival = Callable[[Search, int, int, Callable[[int, Found | None], None]], list[Found]]


def random_search(search: Search, runs: int, seed: int, told=lambda done, best: None) -> list[Found]:
    """Points drawn evenly between the bounds (of the logarithm, where the scale is one); those that improved on the ones before."""
    rng, best, done = np.random.default_rng((seed, 1)), [], 0
    while done < runs:
        share = rng.random((min(_TOGETHER, runs - done), len(search.parameters)))
        values = [search.values_at(np.log(u / (1 - u))) for u in np.clip(share, 1e-9, 1 - 1e-9)]
        _record(best, search, values, search.hard(values, search.scenarios))
        done += len(values)
        told(done, best[-1] if best else None)
    return best


def cma(search: Search, runs: int, seed: int, told=lambda done, best: None) -> list[Found]:
    """CMA-ES (Hansen 2016) on the logits, from where the gradient starts; steps of 0.5 at first, which is `optimizer.spread`'s default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma as library

    start = search.start().free[0]
    options = {"seed": seed % (2**31 - 1) + 1, "verbose": -9, "maxfevals": runs}
    if len(start) == 1:
        # the library wants two dimensions: the second does nothing
        start = np.append(start, 0.0)
    strategy, best, done = library.CMAEvolutionStrategy(start, 0.5, options), [], 0
    while done < runs:
        asked = strategy.ask()
        values = [search.values_at(np.asarray(x)[: len(search.parameters)]) for x in asked]
        metrics = search.hard(values, search.scenarios)
        strategy.tell(asked, list(_merit(search, metrics)))
        _record(best, search, values, metrics)
        done += len(values)
        told(done, best[-1] if best else None)
    return best


RIVALS: dict[str, Rival] = {"random": random_search, "cma": cma}

#: What they are called in words.
RIVAL_TITLES = {"random": "random search", "cma": "CMA-ES"}
