"""What a tuning experiment asks for: an objective and constraints over the metrics of scenarios, as values and as derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stresslev.config.experiment import ConstraintSpec, ExperimentSpec
from stresslev.metrics import HIGHER, METRICS
from stresslev.tuning.lagrangian import Lagrangian
from stresslev.tuning.measures import Measure


@dataclass(frozen=True)
class Bound:
    """A constraint `sign (bound - value) <= 0` on one metric."""

    metric: str
    measure: Measure
    bound: float
    sign: float  # 1: at least; -1: at most

    def violation(self, value: float) -> float:
        """As a share of the bound; positive where violated. Nothing known counts as violated."""
        scale = abs(self.bound) or 1.0
        return self.sign * (self.bound - value) / scale if np.isfinite(value) else 1.0

    def words(self) -> str:
        """For people."""
        return f"{METRICS[self.metric].title} {'at least' if self.sign > 0 else 'at most'} {self.bound:.4g}"


def measure_of(metric: str, how: str, level: float, high_is_bad: bool | None = None) -> Measure:
    """With the metric's own idea of what is bad, unless told."""
    return Measure(how, level, METRICS[metric].better != HIGHER if high_is_bad is None else high_is_bad)


@dataclass(frozen=True)
class Score:
    """One policy over some scenarios."""

    objective: float
    violations: np.ndarray  # (C,)

    def feasible(self, tolerance: float) -> bool:
        """Whether all constraints hold."""
        return bool(np.all(self.violations <= tolerance))


@dataclass(frozen=True)
class Goal:
    """An objective to be made small within bounds; K metrics, C bounds."""

    metrics: tuple[str, ...]  # all that is needed, the objective's first
    objective: Measure
    bounds: tuple[Bound, ...]
    scale: float = 1.0  # what the objective is measured in: its value at the start

    def score(self, values: np.ndarray) -> Score:
        """Args: `values` (S, K) of scenarios."""
        found = [b.measure.of(values[:, self.metrics.index(b.metric)]) for b in self.bounds]
        return Score(self.objective.of(values[:, 0]), np.array([b.violation(x) for b, x in zip(self.bounds, found, strict=True)]))

    def merit(self, score: Score, lagrangian: Lagrangian) -> float:
        """Of the augmented Lagrangian, the objective in units of `scale`."""
        return lagrangian.value(score.objective / self.scale, score.violations)

    def weights(self, values: np.ndarray, lagrangian: Lagrangian) -> np.ndarray:
        """(S, K) derivative of `merit` with respect to the values."""
        found = np.zeros_like(values)
        found[:, 0] += self.objective.weights(values[:, 0]) / self.scale
        for bound, force in zip(self.bounds, lagrangian.weights(self.score(values).violations), strict=True):
            k = self.metrics.index(bound.metric)
            found[:, k] -= bound.sign * force / (abs(bound.bound) or 1.0) * bound.measure.weights(values[:, k])
        return found


def metrics_of(spec: ExperimentSpec) -> tuple[str, ...]:
    """Metrics that an experiment needs, the objective's first."""
    return tuple(dict.fromkeys([spec.objective.metric, *(c.metric for c in spec.constraints)]))


def _bound(spec: ConstraintSpec, metrics: Sequence[str], reference: np.ndarray) -> Bound:
    least = spec.at_least is not None
    given = spec.at_least if least else spec.at_most
    measure = measure_of(spec.metric, spec.measure, spec.level, high_is_bad=not least)
    bound = measure.of(reference[:, metrics.index(spec.metric)]) if given == "reference" else float(given)
    return Bound(spec.metric, measure, bound * (1 - spec.slack if least else 1 + spec.slack), 1.0 if least else -1.0)


def goal_of(spec: ExperimentSpec, start: np.ndarray, reference: np.ndarray) -> Goal:
    """Args: `start`, `reference` (S, K), metrics of the training scenarios under the policy to begin with and the one that constraints refer to."""
    metrics = metrics_of(spec)
    objective = measure_of(spec.objective.metric, spec.objective.measure, spec.objective.level)
    bounds = tuple(_bound(c, metrics, reference) for c in spec.constraints)
    at = abs(objective.of(start[:, 0]))
    return Goal(metrics, objective, bounds, at if np.isfinite(at) and at > 0 else 1.0)
