"""What the page of a comparison is made from: `comparison.json` and the results of every policy, read and checked."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from stresslev import metrics
from stresslev.errors import InputError, Problem
from stresslev.metrics import MEASURES, METRICS
from stresslev.report.inputs import Run, Scenario, read

#: What tells that a folder holds a comparison.
FILE = "comparison.json"


@dataclass(frozen=True)
class Policy:
    """One policy and its run."""

    name: str
    title: str
    description: str
    run: Run

    @property
    def breached(self) -> int:
        """How many checks are breached."""
        return sum(c.breached for c in self.run.judged)

    @property
    def settings(self) -> dict:
        """The policy as configured."""
        return self.run.configuration["policy"]

    def scenario(self, name: str) -> Scenario:
        """Its results in one scenario."""
        return next(s for s in self.run.scenarios if s.name == name)

    def values(self, measure: str) -> list[float]:
        """A measure in every scenario that has it."""
        return [s.metrics[measure] for s in self.run.scenarios if measure in s.metrics]

    def worst(self, measure: str) -> float:
        """Its worst value over scenarios; not a number where no scenario has one."""
        values = self.values(measure)
        return METRICS[measure].worst(values) if values else math.nan

    def mean(self, measure: str) -> float:
        """Its mean over scenarios, likewise."""
        values = self.values(measure)
        return sum(values) / len(values) if values else math.nan

    def groups(self, scenario: str) -> dict[str, dict[str, float]]:
        """Group of accounts -> metric -> value in one scenario; nothing where the results know no groups."""
        return metrics.by_group(self.scenario(scenario).data)


@dataclass(frozen=True)
class Worse:
    """A scenario that a policy makes worse than the first one does: what got worse, and what the results say about why."""

    policy: Policy
    scenario: str
    changes: dict[str, tuple[float, float]]  # measure -> value, and that under the first policy
    cause: dict


@dataclass(frozen=True)
class Compared:
    """Everything the page says comes from here. The first policy is what the others are held against."""

    title: str
    description: str
    command: str
    created: str
    policies: tuple[Policy, ...]
    worse: tuple[Worse, ...]

    @property
    def first(self) -> Policy:
        """The policy that the others are held against."""
        return self.policies[0]

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """Of the first policy's run."""
        return self.first.run.scenarios

    @property
    def measures(self) -> dict[str, tuple[str, ...]]:
        """Group -> the measures that some policy has in every scenario; others may lack them, as one without caps does the leverage allowed."""
        every = [[s.metrics for s in p.run.scenarios] for p in self.policies]
        found = {group: tuple(n for n in names if any(all(n in m for m in runs) for runs in every)) for group, names in MEASURES.items()}
        return {group: names for group, names in found.items() if names}

    def has(self, measure: str) -> bool:
        """Whether a measure is among them."""
        return any(measure in names for names in self.measures.values())


def _policy(folder: Path, entry: dict) -> Policy:
    name = entry["name"]
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a policy")
    run = read(folder / name)
    if run.attributes["created"] != entry["created"]:
        raise ValueError(f"the results of {name} are of another run")
    return Policy(name=name, title=entry["title"] or name, description=entry["description"], run=run)


def _worse(entry: dict, policies: dict[str, Policy], first: Policy) -> Worse:
    policy, scenario = policies[entry["policy"]], entry["scenario"]
    now, then = policy.scenario(scenario).metrics, first.scenario(scenario).metrics
    return Worse(policy, scenario, {n: (now[n], then[n]) for n in entry["changes"]}, entry["cause"])


def read_comparison(folder: Path) -> Compared:
    """Read `comparison.json` of a folder, and `result.nc` and `summary.json` of every policy in it.

    Raises:
      InputError: a file is missing, unreadable or not of this comparison.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        policies = {e["name"]: _policy(folder, e) for e in stored["policies"]}
        every = tuple(policies.values())
        if not every:
            raise ValueError("it names no policy")
        if any([s.name for s in p.run.scenarios] != [s.name for s in every[0].run.scenarios] for p in every):
            raise ValueError("the policies were run on different scenarios")
        return Compared(
            title=stored["title"],
            description=stored["description"],
            command=stored["command"],
            created=stored["created"],
            policies=every,
            worse=tuple(_worse(e, policies, every[0]) for e in stored["worse"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise InputError(path, Problem("file", "", f"is no comparison as a run writes it ({error})", "run the policies again")) from None
