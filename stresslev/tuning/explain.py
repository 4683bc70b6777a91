"""What in a tuned policy matters: scaled gradients, one parameter at a time, and pairs."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from stresslev.parameters import value_at
from stresslev.tuning.search import Found, Search

#: Parameters whose pairs are looked at: those that matter most by themselves.
_PAIRS_OF = 6


@dataclass(frozen=True)
class Explained:
    """Effects on the objective over the training scenarios, by the hard rules unless said."""

    paths: tuple[str, ...]
    slopes: np.ndarray  # (P,) estimated derivative at the tuned policy, times the way between the bounds
    from_untuned: np.ndarray  # (P,) change of the objective when only this one takes its tuned value, all others as they were
    back: np.ndarray  # (P,) change when only this one goes back from its tuned value
    pairs: dict[tuple[str, str], float]  # change when both take their tuned values, less the sum of what each does by itself
    untuned: float
    tuned: float


def explain(search: Search, tuned: Found) -> Explained:
    """Runs of the hard rules with parameters moved one at a time and in pairs, and a gradient."""
    parameters, goal = search.parameters, search.goal
    before = np.array([value_at(search.policy, p.path, search.file) for p in parameters])
    after = np.asarray(tuned.values)

    def only(which: tuple[int, ...], base: np.ndarray, other: np.ndarray) -> np.ndarray:
        x = base.copy()
        x[list(which)] = other[list(which)]
        return x

    count = len(parameters)
    points = [before, after]
    points += [only((i,), before, after) for i in range(count)] + [only((i,), after, before) for i in range(count)]
    metrics = search.hard(points, search.scenarios)
    objective = np.array([goal.score(m).objective for m in metrics])
    alone, back = objective[2 : 2 + count] - objective[0], objective[2 + count :] - objective[1]
    top = np.argsort(-np.maximum(np.abs(alone), np.abs(back)), kind="stable")[:_PAIRS_OF]
    pairs: dict[tuple[str, str], float] = {}
    both = list(combinations(sorted(int(i) for i in top), 2))
    if both:
        found = search.hard([only(pair, before, after) for pair in both], search.scenarios)
        for (i, j), m in zip(both, found, strict=True):
            together = goal.score(m).objective - objective[0]
            pairs[parameters[i].path, parameters[j].path] = float(together - alone[i] - alone[j])
    weights = np.zeros_like(metrics[1])
    weights[:, 0] = goal.objective.weights(metrics[1][:, 0])
    slopes = np.zeros(count)
    for name, mine in zip(search.scenarios, weights, strict=True):
        if np.any(mine):
            slopes += search.study.gradient(search.policy_at(after), name, mine).slopes
    return Explained(
        paths=tuple(p.path for p in parameters),
        slopes=slopes * np.array([p.high - p.low for p in parameters]),
        from_untuned=alone,
        back=back,
        pairs=pairs,
        untuned=float(objective[0]),
        tuned=float(objective[1]),
    )
