"""Policies compared: one suite under each of them, on one book, with what each buys and costs."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from stresslev import metrics, results, run
from stresslev.config.load import Plan
from stresslev.errors import InputError, Problem
from stresslev.metrics import MEASURES, METRICS
from stresslev.quantities import closed_each_step, initial_interest, reduced_each_step
from stresslev.results import RESULT_FILES
from stresslev.run import Outcome
from stresslev.sharding import ONE, Sharding
from stresslev.simulation import Progress, silent
from stresslev.write import folder_atomically

#: What a folder of a comparison holds besides a folder of results per policy.
COMPARISON_FILES = frozenset({"comparison.json", "report.html"})


@dataclasses.dataclass(frozen=True)
class Cause:
    """What the results say about why a scenario went worse, each under the policy and under the first one."""

    asset: str  # whose price the policy's cascade moved further than the first one's, by most
    minutes: float  # when that price was farthest from its start, under the policy
    move: float  # of that price then, relative to its start
    move_first: float  # its farthest under the first policy
    endogenous: float  # the cascade's own largest push on that price, relative to the price without it
    endogenous_first: float
    forced: float  # closed by force until then, over open interest and loans at the start
    forced_first: float  # until its own farthest
    reduced: float  # share of `forced` that a tightened cap asked for, not liquidation
    liquidated: float  # share of accounts liquidated
    liquidated_first: float


@dataclasses.dataclass(frozen=True)
class Worse:
    """A scenario that a policy makes worse than the first policy does."""

    policy: str
    scenario: str
    changes: dict[str, tuple[float, float]]  # safety metric -> value under the policy, and under the first
    cause: Cause


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Outcomes by policy; the first is what the others are held against."""

    outcomes: dict[str, Outcome]

    @property
    def first(self) -> str:
        """Name of the policy that the others are held against."""
        return next(iter(self.outcomes))

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the scenarios."""
        return tuple(self.outcomes[self.first].datasets)

    @property
    def breached(self) -> bool:
        """Whether any limit is breached under any policy."""
        return any(o.breached for o in self.outcomes.values())


def check(plans: Sequence[Plan]) -> None:
    """Refuse plans that cannot be compared. Raises InputError."""
    names = [p.policy.name for p in plans]
    seen: dict[str, str] = {}
    problems = []
    for plan, name in zip(plans, names, strict=True):
        file = plan.files.get("policy", plan.files["suite"])
        if not name:
            problems.append(Problem("name", "", f"is missing in {file}", "name every policy that is to be compared"))
        elif name.casefold() in seen:
            problems.append(Problem("name", name, f"is the name of the policies in {seen[name.casefold()]} and {file}", "give each its own name"))
        elif name in COMPARISON_FILES | RESULT_FILES:
            problems.append(Problem("name", name, f"is what the results of a comparison are called ({file})", "give the policy another name"))
        else:
            seen[name.casefold()] = file
    if problems:
        raise InputError("--policy", problems)
    shared = [dataclasses.replace(p, policy=plans[0].policy, files=p.files | {"policy": ""}) for p in plans]
    if any(p != shared[0] for p in shared[1:]):
        fix = "load every plan from the same suite, with the same overrides"
        raise InputError("--policy", Problem("plans", "", "differ in more than the policy", fix))


def compare(plans: Sequence[Plan], progress: Progress = silent, sharding: Sharding = ONE) -> Comparison:
    """Run the same suite under every policy: one draw of the book and the same paths, so that what differs comes from the policies.

    Args:
      plans: of one suite, from `load_plan` with a `policy` for each; the first is what the others are held against.
      progress: called with a stage, how much of it is done and how much there is; silent without it.
      sharding: over which devices the accounts are dealt out; one without it.

    Returns: an outcome for each policy, by name.

    Raises:
      InputError: plans that differ in more than the policy, policies without names of their own, and what `run_plan` refuses.
      NumericalFailure: results that must not be used.
    """
    check(plans)
    return Comparison(dict(zip((p.policy.name for p in plans), run.run_plans(plans, progress, sharding), strict=True)))


def measures(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Measure -> the worst value over scenarios, and the mean. What the results of a scenario do not allow is left out."""
    found = {}
    for name in (n for group in MEASURES.values() for n in group):
        values = [v[name] for v in outcome.metrics.values() if name in v]
        if values:
            found[name] = {"worst": METRICS[name].worst(values), "mean": float(np.mean(values))}
    return found


def _is_worse(name: str, value: float, first: float) -> bool:
    return METRICS[name].worse(value, first) and METRICS[name].matters(value, first)


def worse(comparison: Comparison) -> list[Worse]:
    """Scenarios in which a policy does worse on some measure of safety than the first policy, by how much, and why as far as results tell."""
    found = []
    base = comparison.outcomes[comparison.first]
    for policy, outcome in list(comparison.outcomes.items())[1:]:
        for scenario in comparison.scenarios:
            now, then = outcome.metrics[scenario], base.metrics[scenario]
            both = [n for n in MEASURES["Safety"] if n in now and n in then]
            changes = {n: (now[n], then[n]) for n in both if _is_worse(n, now[n], then[n])}
            if changes:
                found.append(Worse(policy, scenario, changes, cause(outcome.datasets[scenario], base.datasets[scenario])))
    return found


def cause(ds: xr.Dataset, first: xr.Dataset) -> Cause:
    """What distinguishes a scenario's results from those under the first policy, up to the moment when prices were farthest from their start."""
    pushes, pushes_first = (abs(d.price_usd / d.exogenous_price_usd - 1).max("time") for d in (ds, first))
    asset = str((pushes - pushes_first).idxmax("asset").item())
    found = {"asset": asset, "endogenous": float(pushes.sel(asset=asset)), "endogenous_first": float(pushes_first.sel(asset=asset))}
    for data, end in ((ds, ""), (first, "_first")):
        price = data.price_usd.sel(asset=asset)
        move = price / price.isel(time=0) - 1
        turn = int(abs(move).argmax("time"))
        until = {"time": slice(0, turn + 1)}
        liquidations, reductions = (float(x.isel(until).sum()) for x in (closed_each_step(data), reduced_each_step(data)))
        size = float(initial_interest(data).sum()) or 1.0
        found["move" + end] = float(move.isel(time=turn))
        found["forced" + end] = (liquidations + reductions) / size
        found["liquidated" + end] = METRICS["liquidated_accounts_share"].value(data)
        if not end:
            found["minutes"] = float(data.time.isel(time=turn))
            found["reduced"] = reductions / (liquidations + reductions) if reductions > 0 else 0.0
    return Cause(**found)


def summary(comparison: Comparison) -> dict:
    """What `comparison.json` holds; infinities become null there, and are found again in the policies' own results."""
    base = comparison.outcomes[comparison.first]
    return {
        "name": base.plan.name,
        "title": base.plan.title,
        "description": base.plan.description,
        "first": comparison.first,
        "policies": [
            {
                "name": name,
                "title": o.plan.policy.title or name,
                "description": o.plan.policy.description,
                "verdict": run.summary(o)["verdict"],
                "created": o.attributes["created"],
                "breached": sum(f.breached for f in o.judged),
                "checks": len(o.judged),
                "measures": measures(o),
                "scenarios": {s: {n: o.metrics[s][n] for n in o.metrics[s]} for s in comparison.scenarios},
                "groups": {s: metrics.by_group(ds) for s, ds in o.datasets.items()},
            }
            for name, o in comparison.outcomes.items()
        ],
        "worse": [dataclasses.asdict(w) for w in worse(comparison)],
        "command": base.attributes["command"],
        "created": base.attributes["created"],
    }


def save(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.json`, and `result.nc` and `summary.json` of every policy in a folder of its name."""
    for name, outcome in comparison.outcomes.items():
        (folder / name).mkdir()
        run.save(outcome, folder / name)
    results.write_json(summary(comparison), folder / "comparison.json")


def _earlier(folder: Path) -> set[str]:
    """Policies of a comparison that is already there; nothing where there is none that can be read."""
    try:
        return {str(p["name"]) for p in json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["policies"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _check_policies(out: Path, names: set[str]) -> None:
    """Refuse a place where a folder of a policy's name holds anything but results. Raises InputError."""
    for name in names:
        inside = out / name
        if inside.exists() and (not inside.is_dir() or inside.is_symlink() or {p.name for p in inside.iterdir()} - RESULT_FILES):
            raise InputError(out, Problem("--out", "", f"is a folder with other things in it ({name})", "name a new or empty folder"))


@contextmanager
def folder_of(out: Path, policies: Sequence[str]) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, like `folder_atomically`; an earlier comparison there is replaced.

    Raises:
      InputError: the place cannot be written, or holds something else than results.
    """
    inside = set(policies) | _earlier(out)
    _check_policies(out, inside)
    with folder_atomically(out, frozenset(COMPARISON_FILES | inside)) as folder:
        yield folder
        _check_policies(out, inside)
