"""Generated scenarios in numbers: paths run in batches until there are enough, and what they say with its uncertainty."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from stresslev import intervals, many
from stresslev.batches import Progress, silent
from stresslev.book.book import Book
from stresslev.config.generator import GeneratedScenarioSpec, GeneratorSpec, numbered, path_name, template
from stresslev.config.load import Plan
from stresslev.config.spec import LimitSpec
from stresslev.engine import status
from stresslev.errors import InputError, NumericalFailure, Problem, did_you_mean
from stresslev.intervals import Interval
from stresslev.metrics import LOWER, METRICS, Finding
from stresslev.shocks import generate

#: Paths of a batch that are drawn and held at once.
_AT_ONCE = 256
#: Share of paths that may fail before nothing is said about the others.
_FAILED = 0.01


@dataclass(frozen=True)
class Sample:
    """Many paths of one generator under one policy.

    Attributes:
      generator: what they were drawn from.
      runs: dimension path (numbers from 1); a variable for each metric, `status`, and `log_weight` of the likelihood ratio.
      stopped: why there are no more, in words.
      shown: paths that are run with everything a scenario has, the worst first.
      repaired: largest change of a correlation by the repair of the matrix asked for.
      findings: limits held against the statistic that the generator says.
      differences: metric -> mean difference from the first policy on the same paths; empty for the first.
    """

    generator: GeneratorSpec
    runs: xr.Dataset
    stopped: str
    shown: tuple[int, ...]
    repaired: float
    findings: tuple[Finding, ...] = ()
    differences: dict[str, Interval] = field(default_factory=dict)

    @property
    def sound(self) -> xr.Dataset:
        """The paths that did not fail."""
        return self.runs.isel(path=np.array([not status.failed(int(s)) for s in self.runs.status.values]))

    @property
    def weights(self) -> np.ndarray | None:
        """Of the sound paths; None where all count the same."""
        return np.exp(self.sound.log_weight.values) if self.generator.importance is not None else None

    @property
    def breached(self) -> bool:
        """Whether any limit is breached."""
        return any(f.breached for f in self.findings)


def values(runs: xr.Dataset, metric: str) -> np.ndarray:
    """(P,) a metric of the paths in float64."""
    return runs[metric].values.astype(float)


def statistic(x: np.ndarray, metric: str, what: str, level: float, confidence: float, weights: np.ndarray | None = None) -> Interval:
    """An estimate about a metric: "mean", or "quantile" or "expected_shortfall" at a level towards its bad side."""
    if what == "mean":
        return intervals.mean(x, confidence, weights)
    estimate = getattr(intervals, what)
    if METRICS[metric].better == LOWER:
        return estimate(x, level, confidence, weights)
    return estimate(-x, level, confidence, weights).turned()


def check(specs: Sequence[GeneratorSpec], files: dict[str, str]) -> None:
    """Refuse generators that ask about metrics that paths do not have. Args: `files` of the plan, by role. Raises InputError."""
    can = many.measurable()
    for spec in specs:
        named = {f"statistics.events.{i}.metric": e.metric for i, e in enumerate(spec.statistics.events)}
        named["statistics.shown_by"] = spec.statistics.shown_by
        if spec.until is not None:
            named["until.metric"] = spec.until.metric
        wrong = [Problem(key, repr(name), "is no metric that paths have", did_you_mean(name, can)) for key, name in named.items() if name not in can]
        if wrong:
            raise InputError(files[f"generator:{spec.name}"], wrong)


def sample(plans: Sequence[Plan], spec: GeneratorSpec, book: Book, progress: Progress = silent) -> list[Sample]:
    """Paths of a generator under the policy of each plan, on the same paths and the same book.

    Args: `plans` differ in their policy alone; `book` as `opening.load_book` gives it.

    Raises:
      InputError: a price file that cannot be used, or what `simulate_many` refuses.
      NumericalFailure: more than a hundredth of the paths failed under a policy.
    """
    plan, names = plans[0], [p.policy.name or str(i) for i, p in enumerate(plans)]
    base = template(spec)
    parts: list[xr.Dataset] = []
    most = spec.paths if spec.until is None else spec.until.most_paths
    stopped = f"all {spec.paths:,} paths asked for"
    done = 0
    while done < most:
        target = min(done + spec.paths, most)
        while done < target:
            numbers = range(done + 1, min(done + _AT_ONCE, target) + 1)
            parts.append(_batch(plan, dict(zip(names, (p.policy for p in plans), strict=True)), base, numbers, book, progress))
            done = numbers[-1]
        if spec.until is not None:
            width, goal = _width(spec, _joined(parts).isel(policy=0))
            stopped = f"after {done:,} paths the half width of the interval, {width:.3g}, is within the {goal:.3g} asked for"
            if width <= goal:
                break
            stopped = f"at the most, {most:,} paths, with a half width of {width:.3g}, where {goal:.3g} was asked for"
    runs = _joined(parts)
    found = []
    for i, (name, one) in enumerate(zip(names, plans, strict=True)):
        mine = Sample(spec, runs.isel(policy=i, drop=True), stopped, (), generate.correlation(spec).distance)
        _refuse_failures(mine, spec.name if len(plans) == 1 else f"{name}: {spec.name}")
        mine = replace(mine, shown=found[0].shown if found else _worst(mine), findings=tuple(_judge(mine, one.limits)))
        found.append(replace(mine, differences=_differences(mine, found[0])) if found else mine)
    return found


def _batch(plan: Plan, policies: dict, base: GeneratedScenarioSpec, numbers: range, book: Book, progress: Progress) -> xr.Dataset:
    """Metrics by path and policy."""
    spec, system = base.generator, plan.system
    paths, log_weight = generate.shocks(
        base, numbers, tuple(system.assets), plan.base_of(base), defaults=dict(system.assets), pools=tuple(system.pools)
    )
    named = dict(zip((path_name(spec, n) for n in numbers), paths, strict=True))

    def told(stage: str, done: int, total: int) -> None:
        if stage == "runs":
            before = (numbers[0] - 1) * len(policies)
            most = (spec.paths if spec.until is None else spec.until.most_paths) * len(policies)
            progress(f"{spec.name}: paths", before + done, most)

    runs = many.simulate_many(replace(plan, scenarios=(base,)), shocks=named, policies=policies, book=book, progress=told)
    runs = runs.rename(scenario="path").assign_coords(path=list(numbers))
    return runs.assign(log_weight=("path", log_weight, {"units": "1", "long_name": "log of the likelihood ratio"})).drop_attrs(deep=False)


def _joined(parts: list[xr.Dataset]) -> xr.Dataset:
    return xr.concat(parts, "path", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override")


def _width(spec: GeneratorSpec, runs: xr.Dataset) -> tuple[float, float]:
    """Half width of the interval that decides when to stop, and what it has to be."""
    until, mine = spec.until, Sample(spec, runs, "", (), 0.0)
    x = values(mine.sound, until.metric)
    if np.isnan(x).any() or len(x) < 2:
        return np.inf, until.half_width
    found = statistic(x, until.metric, until.statistic, spec.statistics.levels[0], spec.statistics.confidence, mine.weights)
    return found.half_width, until.half_width * (abs(found.value) if until.relative else 1.0)


def _refuse_failures(mine: Sample, name: str) -> None:
    failed = [int(s) for s in mine.runs.status.values if status.failed(int(s))]
    if len(failed) > _FAILED * mine.runs.sizes["path"]:
        words = " ".join(dict.fromkeys(t for s in failed for t in status.sentences(s & status.FAILURES)))
        raise NumericalFailure(f"{name}: {len(failed)} of {mine.runs.sizes['path']} paths: {words}")


def _worst(mine: Sample) -> tuple[int, ...]:
    """Numbers of the worst paths, by the metric asked for and then by what was liquidated."""
    by, runs = mine.generator.statistics.shown_by, mine.sound
    x = values(runs, by) * (1 if METRICS[by].better == LOWER else -1)
    order = np.lexsort((-values(runs, "liquidated_notional_share"), -np.nan_to_num(x, nan=-np.inf)))
    return tuple(int(n) for n in runs.path.values[order[: mine.generator.statistics.shown]])


def _judge(mine: Sample, limits: dict[str, LimitSpec]) -> list[Finding]:
    """Limits against the statistic that the generator names."""
    asked, found = mine.generator.statistics, []
    for name, limit in limits.items():
        value = np.nan
        if name in mine.runs:
            x = values(mine.sound, name)
            worst = METRICS[name].worst(x.tolist())
            value = worst if asked.judged == "worst" else statistic(x, name, asked.judged, asked.levels[0], asked.confidence, mine.weights).value
        elif name not in many.measurable():
            continue  # needs single accounts, which many runs do not keep
        for side, bound in (("max", limit.max), ("min", limit.min)):
            if bound is not None:
                within = value <= bound if side == "max" else value >= bound
                found.append(Finding(name, mine.generator.name, float(value), bound, side, not within, limit.reason))
    return found


def _differences(mine: Sample, first: Sample) -> dict[str, Interval]:
    """Mean of each metric less that under the first policy, path by path: common random numbers leave the interval narrow."""
    both = np.intersect1d(mine.sound.path, first.sound.path)
    now, then = mine.runs.sel(path=both), first.runs.sel(path=both)
    weights = None if mine.weights is None else np.exp(now.log_weight.values)
    pairs = {name: values(now, name) - values(then, name) for name in METRICS if name in now and name in then}
    return {n: intervals.mean(d, mine.generator.statistics.confidence, weights) for n, d in pairs.items() if np.isfinite(d).all()}


def shown(mine: Sample) -> list[GeneratedScenarioSpec]:
    """The worst paths as scenarios."""
    base, by = template(mine.generator), METRICS[mine.generator.statistics.shown_by].title.lower()
    found = []
    for place, number in enumerate(mine.shown, start=1):
        one = numbered(base, number)
        rank = "worst" if place == 1 else f"number {place} from the worst"
        title = f"{one.title}, the {rank} of {mine.runs.sizes['path']:,} by {by}"
        found.append(one.model_copy(update={"title": title}))
    return found


def describe(mine: Sample, limits: dict[str, LimitSpec]) -> dict:
    """What `summary.json` says about a sample, as plain data: every mean, quantile, expected shortfall and probability with its interval."""
    spec, runs, weights = mine.generator, mine.sound, mine.weights
    asked = spec.statistics
    found = {name: _metric(values(runs, name), name, asked, weights) for name in METRICS if name in runs and np.isfinite(values(runs, name)).all()}
    data = {
        "title": spec.title,
        "model": spec.model.kind,
        "severity": spec.severity,
        "description": spec.description,
        "sources": list(spec.sources),
        "assumptions": list(spec.assumptions),
        "paths": mine.runs.sizes["path"],
        "failed": mine.runs.sizes["path"] - runs.sizes["path"],
        "seed": spec.seed,
        "stopped": mine.stopped,
        "confidence": asked.confidence,
        "judged": asked.judged,
        "levels": list(asked.levels),
        "methods": intervals.METHODS if weights is None else intervals.WEIGHTED_METHODS,
        "correlation_repaired_by": mine.repaired,
        "shown": [path_name(spec, n) for n in mine.shown],
        "limits": [dataclasses.asdict(f) for f in mine.findings],
        "not_judged": [name for name in limits if name not in many.measurable()],
        "probabilities": _probabilities(mine, limits),
        "metrics": found,
        "histogram": _histogram(mine),
        "differences_from_first_policy": {n: dataclasses.asdict(d) for n, d in mine.differences.items()},
    }
    if weights is not None:
        counted = {"effective_paths": intervals.effective(weights), "largest_weight": float(weights.max())}
        data["importance"] = spec.importance.model_dump(mode="json") | counted
    return data


def _histogram(mine: Sample) -> dict | None:
    """Shares of paths, weighted, in 30 bins of equal width of the metric that says which paths are shown, and the probability of a worse value at
    each edge, with its interval; None where all are alike."""
    name = mine.generator.statistics.shown_by
    x = values(mine.sound, name)
    if not np.isfinite(x).all() or x.min() == x.max():
        return None
    shares, edges = np.histogram(x, bins=30, weights=mine.weights)
    worse = [x > edge if METRICS[name].better == LOWER else x < edge for edge in edges]
    beyond = [dataclasses.asdict(intervals.probability(w, mine.generator.statistics.confidence, mine.weights)) for w in worse]
    return {"metric": name, "edges": edges.tolist(), "shares": (shares / shares.sum()).tolist(), "beyond": beyond}


def _metric(x: np.ndarray, name: str, asked, weights: np.ndarray | None) -> dict:
    """Mean, spread, extremes, and the bad tail at each level."""

    def said(what: str, level: float) -> dict:
        return dataclasses.asdict(statistic(x, name, what, level, asked.confidence, weights))

    return {
        "mean": said("mean", asked.levels[0]),
        "standard_deviation": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "least": float(x.min()),
        "most": float(x.max()),
        "quantile": {str(level): said("quantile", level) for level in asked.levels},
        "expected_shortfall": {str(level): said("expected_shortfall", level) for level in asked.levels},
    }


def _probabilities(mine: Sample, limits: dict[str, LimitSpec]) -> list[dict]:
    """Of a breach of each limit, and of the events asked for."""
    asked = [(name, side, bound, True) for name, limit in limits.items() for side, bound in (("above", limit.max), ("below", limit.min))]
    asked += [(e.metric, side, bound, False) for e in mine.generator.statistics.events for side, bound in (("above", e.above), ("below", e.below))]
    found = []
    for name, side, bound, limit in asked:
        if bound is None or name not in mine.sound:
            continue
        x = values(mine.sound, name)
        happened = x > bound if side == "above" else x < bound
        said = intervals.probability(happened, mine.generator.statistics.confidence, mine.weights)
        found.append({"metric": name, "side": side, "bound": bound, "is_limit": limit, "paths": int(happened.sum()), **dataclasses.asdict(said)})
    return found
