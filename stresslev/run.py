"""Run a plan: book, shocks, engine, metrics, verdict. The one place where all parts meet."""

import dataclasses
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import jax
import xarray as xr

from stresslev import limits, memory, metrics, monte_carlo, provenance, results
from stresslev.book.book import Book
from stresslev.config.load import Plan
from stresslev.config.spec import ScenarioSpec
from stresslev.errors import InputError, Problem
from stresslev.metrics import Finding
from stresslev.monte_carlo import Sample
from stresslev.opening import at_start, load_book, shock_of, smaller_book
from stresslev.sharding import ONE, Sharding
from stresslev.simulation import Case, Progress, attribute, silent, simulate_cases

#: Accounts of an attribution's runs, at most, for which it may go beside other runs.
_LIGHT = 50_000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run found. `datasets` and `metrics` are by scenario, of a generator only the paths shown; `attributes` are the provenance."""

    plan: Plan
    datasets: dict[str, xr.Dataset]
    metrics: dict[str, dict[str, float]]
    findings: tuple[Finding, ...]
    attributes: dict[str, str | int | float]
    samples: dict[str, Sample] = dataclasses.field(default_factory=dict)  # by generator

    @property
    def judged(self) -> tuple[Finding, ...]:
        """Limits held against scenarios and against samples."""
        return (*self.findings, *(f for s in self.samples.values() for f in s.findings))

    @property
    def described(self) -> dict[str, dict]:
        """What generated paths say, by generator."""
        return {name: monte_carlo.describe(s, self.plan.limits) for name, s in self.samples.items()}

    @property
    def breached(self) -> bool:
        """Whether any limit is breached."""
        return any(f.breached for f in self.judged)


class Kept(Protocol):
    """Finished scenarios of an earlier attempt at the same run, by name; those that finish now are kept too."""

    def get(self, name: str) -> xr.Dataset | None:
        """What is there of a scenario."""

    def put(self, name: str, dataset: xr.Dataset) -> None:
        """Keep a scenario that has just finished."""


def run_plan(plan: Plan, progress: Progress = silent, sharding: Sharding = ONE, kept: Kept | None = None) -> Outcome:
    """Run every scenario of a plan and hold the results against its limits.

    Args:
      plan: what to run, from `load_plan`.
      progress: called with a stage, how much of it is done and how much there is; silent without it. Losses are attributed beside the next scenario,
        in a thread of their own, from which it is called too.
      sharding: over which devices the accounts are dealt out, `Sharding.over(jax.devices())` for all there are; one without it.
      kept: where finished scenarios are looked for and kept; nowhere without it.

    Returns: by scenario a dataset (dimensions time, pool, asset; units on every variable) and its metrics, the limits, and the provenance.

    Raises:
      InputError: a book, price file or limit that cannot be used, or a run that does not fit into memory.
      NumericalFailure: results that must not be used: books that do not balance, or values that are not finite.
    """
    return run_plans([plan], progress, sharding, kept)[0]


def run_plans(plans: Sequence[Plan], progress: Progress = silent, sharding: Sharding = ONE, kept: Kept | None = None) -> list[Outcome]:
    """`run_plan` for plans that differ in their policy alone: on one draw of the book and the same paths, so that policies make the difference.

    Runs of one structure go through one program together where `run.batch` says so. Of generators many paths are run for their metrics, and the worst
    as a scenario.
    """
    asked, plan = plans, plans[0]
    limits.check_names(plan.limits, plan.files["suite"])
    monte_carlo.check(plan.generators, plan.files)
    memory.check(plan)
    if sharding.mesh is not None and plan.generators:
        problem = Problem("scenarios", plan.generators[0].name, f"is a generator, and there are {sharding.devices} devices", "use --devices 1")
        raise InputError(plan.files["suite"], problem)
    if sharding.mesh is not None and plan.run.stepping == "active":
        problem = Problem("run.stepping", "'active'", f"is for one device, and there are {sharding.devices}", "use 'all' or 'auto', or --devices 1")
        raise InputError(plan.files["suite"], problem)
    began = time.perf_counter()
    book, samples = None, {}
    if plan.generators:
        book = _book(plan, progress)
        samples = {g.name: monte_carlo.sample(plans, g, book, progress) for g in plan.generators}
        worst = [s for found in samples.values() for s in monte_carlo.shown(found[0])]
        plans = [dataclasses.replace(p, scenarios=(*p.given, *worst)) for p in plans]
        plan = plans[0]
    pairs = [(one, scenario) for one in plans for scenario in plan.scenarios]
    labels = [s.name if len(plans) == 1 else f"{p.policy.name}: {s.name}" for p, s in pairs]
    found = [None if kept is None else kept.get(label) for label in labels]
    missing = [i for i, dataset in enumerate(found) if dataset is None]
    if missing:
        chosen = [(*pairs[i], labels[i]) for i in missing]
        book = _book(plan, progress) if book is None else book

        def keep(number: int, dataset: xr.Dataset) -> None:
            found[missing[number]] = dataset
            if kept is not None:
                kept.put(labels[missing[number]], dataset)

        with jax.enable_x64(plan.run.precision == 64):
            _simulate(plan, book, chosen, keep, progress, sharding)
    names = [s.name for s in plan.scenarios]
    seconds = (time.perf_counter() - began) / len(plans)
    return [
        _outcome(one, dict(zip(names, found[i * len(names) :], strict=False)), {n: s[i] for n, s in samples.items()}, seconds)
        for i, one in enumerate(asked)
    ]


def _book(plan: Plan, progress: Progress) -> Book:
    progress("book", 0, 1)
    book = load_book(plan, shock_of(plan, plan.scenarios[0]))
    progress("book", 1, 1)
    return book


def _simulate(
    plan: Plan,
    book: Book,
    chosen: Sequence[tuple[Plan, ScenarioSpec, str]],
    keep: Callable[[int, xr.Dataset], None],
    progress: Progress,
    sharding: Sharding,
) -> None:
    """The chosen runs, each given to `keep` with its number as soon as it is done. Must be called where `simulate_cases` may be.

    Args: `plan`, whose book and scenarios all of them share; `chosen`, of each its plan, its scenario and what progress calls it.
    """
    shocks = {s.name: shock_of(plan, s) for s in plan.scenarios}
    smaller = smaller_book(plan, book)

    def cases() -> Iterator[Case]:
        for one, scenario, label in chosen:
            yield Case(one, scenario, shocks[scenario.name], at_start(one, book, shocks[scenario.name]), label)

    def finish(number: int, dataset: xr.Dataset, progress: Progress) -> None:
        if plan.run.attribution:
            one, scenario, label = chosen[number]
            shock = shocks[scenario.name]
            parts = attribute(one, scenario, shock, at_start(one, smaller, shock), progress, label, sharding)
            dataset = dataset.merge(parts, combine_attrs="override")
        keep(number, dataset)

    simulated = simulate_cases(plan, cases(), progress, sharding)
    # what devices exchange must come in one order, and memory is reckoned for one run at a time
    if plan.run.attribution and sharding.mesh is None and len(smaller) <= _LIGHT:
        _beside(simulated, finish, progress, plan.run.precision)
    else:
        for number, dataset in simulated:
            finish(number, dataset, progress)


def _beside(
    simulated: Iterable[tuple[int, xr.Dataset]], finish: Callable[[int, xr.Dataset, Progress], None], progress: Progress, precision: int
) -> None:
    """`finish(number, dataset, progress)` for every run, beside those that follow. An error in either ends both."""
    stopped = threading.Event()

    def told(stage: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise _Stopped
        progress(stage, done, total)

    def work(number: int, dataset: xr.Dataset) -> None:
        if stopped.is_set():
            raise _Stopped
        try:
            # a setting of the thread
            with jax.enable_x64(precision == 64):
                finish(number, dataset, told)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque()
        try:
            for number, dataset in simulated:
                waiting.append(pool.submit(work, number, dataset))
                # runs do not get far ahead, so that few results wait
                while waiting and (waiting[0].done() or len(waiting) > 2):
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):
    """Work beside a run that has ended is given up."""


def _outcome(plan: Plan, datasets: dict[str, xr.Dataset], samples: dict[str, Sample], seconds: float) -> Outcome:
    values = {name: metrics.evaluate(ds) for name, ds in datasets.items()}
    given = {s.name for s in plan.given}
    return Outcome(
        plan=plan,
        datasets=datasets,
        metrics=values,
        findings=tuple(limits.judge(plan.limits, {name: v for name, v in values.items() if name in given})),
        attributes=provenance.attributes(plan, seconds),
        samples=samples,
    )


def summary(outcome: Outcome) -> dict:
    """What `summary.json` holds: the verdict, the limits, the metrics, what generated paths say, the provenance."""
    return {
        "name": outcome.plan.name,
        "title": outcome.plan.title,
        "description": outcome.plan.description,
        "verdict": "breached" if outcome.breached else "within limits" if outcome.judged else "no limits set",
        "limits": [dataclasses.asdict(f) for f in outcome.findings],
        "scenarios": {
            name: {
                "title": ds.attrs["title"],
                "severity": ds.attrs["severity"],
                "metrics": outcome.metrics[name],
                "pools": metrics.by_pool(ds),
                "status": json.loads(ds.attrs["status_text"]),
            }
            for name, ds in outcome.datasets.items()
        },
        **({"generated": outcome.described} if outcome.samples else {}),
        "provenance": {k: v for k, v in outcome.attributes.items() if k != "configuration"},
    }


def save(outcome: Outcome, folder: Path) -> None:
    """Write `result.nc` and `summary.json` into a folder, and `paths.nc` where scenarios were generated.

    Args:
      outcome: of `run_plan`.
      folder: that exists; files of these names in it are replaced.

    Returns: nothing; `stresslev.report.write(folder)` makes the report from these files.

    Raises:
      OSError: the folder cannot be written, or is full.
    """
    results.write_netcdf(outcome.datasets, outcome.attributes, folder / "result.nc")
    if outcome.samples:
        results.write_netcdf({name: s.runs for name, s in outcome.samples.items()}, outcome.attributes, folder / "paths.nc")
    results.write_json(summary(outcome), folder / "summary.json")
