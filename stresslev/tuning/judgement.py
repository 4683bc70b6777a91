"""Policies held against each other by the hard rules, on books drawn anew: values with confidence intervals, differences on common random numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stresslev.batches import Progress, silent
from stresslev.config.load import Plan
from stresslev.config.policy import PolicySpec
from stresslev.estimate import Estimate
from stresslev.many import simulate_many
from stresslev.tuning.goal import Goal


@dataclass(frozen=True)
class Verdict:
    """One policy on one group of scenarios, against the one to begin with."""

    policy: str
    group: str  # "train", "validation" or "held_out"
    objective: Estimate
    change: Estimate  # of the objective from the untuned policy's, on the same books and paths
    violations: tuple[Estimate, ...]  # of the constraints
    metrics: dict[str, float]  # means over scenarios and books

    @property
    def better(self) -> bool | None:
        """Whether the change is for the better beyond doubt; None when that is not to be told."""
        if not np.isfinite(self.change.high) or (self.change.low <= 0 <= self.change.high):
            return None
        return self.change.high < 0


@dataclass(frozen=True)
class Judgement:
    """All policies on all groups."""

    verdicts: tuple[Verdict, ...]
    values: np.ndarray  # (B, S, policies, K)
    scenarios: tuple[str, ...]
    policies: tuple[str, ...]
    metrics: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]  # group -> its scenarios, of groups that have any

    def of(self, policy: str, group: str) -> Verdict:
        """One of the verdicts."""
        return next(v for v in self.verdicts if (v.policy, v.group) == (policy, group))


def judge(
    plan: Plan,
    policies: Mapping[str, PolicySpec],
    goal: Goal,
    groups: Mapping[str, Sequence[str]],
    *,
    first: str,
    books: int,
    confidence: float,
    more: Sequence[str] = (),
    progress: Progress = silent,
) -> Judgement:
    """Run every policy on every scenario and on `books` books of other seeds than the plan's own, on which policies were tuned.

    Args:
      groups: name -> scenarios. first: policy that changes are counted from. more: further metrics to report.
    """
    metrics = tuple(dict.fromkeys([*goal.metrics, *more]))
    names = tuple(s.name for s in plan.scenarios)
    values = []
    for number in range(books):
        seed = (plan.run.seed + 1_000_003 * (number + 1)) % 2**63
        own = dataclasses.replace(plan, run=plan.run.model_copy(update={"seed": seed, "population": "accounts"}))

        def told(stage, done, total, number=number):
            if stage == "runs":
                progress("judgement", number * total + done, books * total)

        found = simulate_many(own, policies=policies, measures=metrics, progress=told)
        values.append(np.stack([found[name].values for name in metrics], axis=-1))
    runs = np.stack(values)  # (B, S, policies, K)
    order = tuple(policies)
    verdicts = []
    for group, members in groups.items():
        rows = [names.index(m) for m in members]
        if not rows:
            continue
        scores = [[goal.score(runs[b][rows][:, p][:, : len(goal.metrics)]) for p in range(len(order))] for b in range(books)]
        objective = np.array([[s.objective for s in row] for row in scores])  # (B, policies)
        violations = np.array([[s.violations for s in row] for row in scores]).reshape(books, len(order), -1)
        base = objective[:, order.index(first)]
        for p, name in enumerate(order):
            verdicts.append(
                Verdict(
                    policy=name,
                    group=group,
                    objective=Estimate.of(objective[:, p], confidence),
                    change=Estimate.of(objective[:, p] - base, confidence),
                    violations=tuple(Estimate.of(v, confidence) for v in violations[:, p].T),
                    metrics={m: float(np.mean(runs[:, rows, p, k])) for k, m in enumerate(metrics)},
                )
            )
    there = {group: tuple(members) for group, members in groups.items() if members}
    return Judgement(tuple(verdicts), runs, names, order, metrics, there)
