"""What differs between two runs: metrics with what is noise in them, limits, versions and configuration."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stresslev.contrast.inputs import Result, drawn, of_summary, read, same_books
from stresslev.errors import InputError, Problem
from stresslev.estimate import Estimate
from stresslev.metrics import METRICS

#: Readings of a change.
SAME, ROUNDING, NOISE, BETTER, WORSE, UNKNOWN = "the same", "rounding", "within noise", "better", "worse", "not comparable"

#: Provenance that is told where it differs.
_TOLD = ("stresslev_version", "code_hash", "python", "jax", "numpy", "xarray", "platform", "device", "seed", "precision", "configuration_hash")


@dataclass(frozen=True)
class Change:
    """A metric of one scenario in both runs; `scenario` empty: the mean over scenarios."""

    scenario: str
    metric: str
    a: float
    b: float
    reading: str
    estimate: Estimate | None  # of b - a, over books; of a mean over scenarios without further books, over scenarios

    @property
    def difference(self) -> float:
        """Of b from a; zero where both are infinite alike."""
        return 0.0 if self.a == self.b else self.b - self.a


@dataclass(frozen=True)
class LimitChange:
    """What a limit says of both runs; None where a run does not have it."""

    scenario: str
    metric: str
    side: str
    a: bool | None  # breached
    b: bool | None
    bound_a: float | None
    bound_b: float | None


@dataclass(frozen=True)
class Comparison:
    """Run b held against run a."""

    a: Result
    b: Result
    confidence: float
    seeds: tuple[int, ...]  # of the books that both sides were run on, when more than one
    same_books: bool | None
    changes: tuple[Change, ...]  # by scenario
    means: tuple[Change, ...]  # over scenarios
    limits: tuple[LimitChange, ...]
    provenance: tuple[tuple[str, object, object], ...]
    configuration: tuple[tuple[str, object, object], ...]
    only_a: tuple[str, ...]  # scenarios
    only_b: tuple[str, ...]

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Those that both have."""
        return tuple(s for s in self.a.metrics if s in self.b.metrics)

    @property
    def reproduced(self) -> bool:
        """Whether every metric is the same, bit for bit."""
        return not (self.only_a or self.only_b) and all(c.reading == SAME for c in self.changes)


def flat(value, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key -> value of nested tables and lists."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(x, dict) for x in value):
        for number, inner in enumerate(value):
            own = inner.get("name", number) if isinstance(inner, dict) else number
            yield from flat(inner, f"{prefix}.{own}")
    else:
        yield prefix, value


def _unlike(a: dict, b: dict) -> tuple[tuple[str, object, object], ...]:
    first, second = dict(flat(a)), dict(flat(b))
    keys = dict.fromkeys([*first, *second])
    return tuple((k, first.get(k), second.get(k)) for k in keys if first.get(k) != second.get(k) or (k in first) != (k in second))


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _reading(name: str, a: float, b: float, estimate: Estimate | None) -> str:
    metric = METRICS[name]
    if _same(a, b) and (estimate is None or estimate.low == estimate.high == 0):
        return SAME
    if not (math.isfinite(a) and math.isfinite(b)):
        return WORSE if metric.worse(b, a) else BETTER if metric.worse(a, b) else UNKNOWN
    if estimate is None:
        return ROUNDING if not metric.matters(b, a) else WORSE if metric.worse(b, a) else BETTER
    if not metric.matters(a + estimate.mean, a):
        return ROUNDING
    if not estimate.low > 0 and not estimate.high < 0:
        return NOISE
    return WORSE if metric.worse(estimate.mean, 0.0) else BETTER


def _pairs(a: Result, b: Result) -> tuple[tuple[int, ...], list[tuple[Result, Result]]]:
    """Runs on the same books of both sides, beginning with the two themselves if they are on one."""
    first, second = drawn(a), drawn(b)
    if {p.resolve() for p in first.values()} & {p.resolve() for p in second.values()}:
        return (), [(a, b)]  # one family: what differs is the seed
    seeds = sorted(set(first) & set(second))
    if len(seeds) < 2:
        return (), [(a, b)]
    known = {a.place: a, b.place: b}

    def of(path: Path) -> Result:
        return known[path.resolve()] if path.resolve() in known else of_summary(path / "summary.json")

    return tuple(seeds), [(of(first[s]), of(second[s])) for s in seeds]


def _values(pairs: list[tuple[Result, Result]], scenario: str, metric: str) -> np.ndarray:
    """(pairs, 2) values of one metric; not a number where a run lacks it."""
    return np.array([[side.metrics.get(scenario, {}).get(metric, math.nan) for side in pair] for pair in pairs], float)


def _estimate(differences: np.ndarray, confidence: float) -> Estimate | None:
    return Estimate.of(differences, confidence) if len(differences) > 1 and np.isfinite(differences).all() else None


def _change(scenario: str, metric: str, values: np.ndarray, confidence: float, over_books: bool) -> Change:
    """Args: `values` (n, 2) over books, or over scenarios."""
    a, b = (float(x) for x in values.mean(axis=0))
    same = np.array_equal(values[:, 0], values[:, 1], equal_nan=True)
    with np.errstate(invalid="ignore"):
        estimate = None if same else _estimate(values[:, 1] - values[:, 0], confidence)
    if same:
        return Change(scenario, metric, a, b, SAME, None)
    return Change(scenario, metric, a, b, _reading(metric, a, b, estimate if over_books or scenario == "" else None), estimate)


def compare(run_a: str | Path, run_b: str | Path, confidence: float = 0.95) -> Comparison:
    """Hold run b against run a.

    Where the folders beside them have runs that differ from them in the seed alone, on the same seeds for both, values are means over these books,
    and the differences, book by book, say what is noise: Student's t over books. Otherwise there is one book, and no telling; then the mean over
    scenarios gets an interval over scenarios.

    Raises:
      InputError: a run that cannot be read, or no scenario in common.
    """
    if not 0 < confidence < 1:
        raise InputError("--confidence", Problem("value", str(confidence), "is no share", "give one between 0 and 1, such as 0.95"))
    a, b = read(run_a), read(run_b)
    if not set(a.metrics) & set(b.metrics):
        problem = Problem("scenarios", ", ".join(b.metrics), f"has none in common with {a.name}: {', '.join(a.metrics)}", "name runs of one suite")
        raise InputError(run_b, problem)
    return held(a, b, *_pairs(a, b), confidence)


def held(a: Result, b: Result, seeds: tuple[int, ...], pairs: list[tuple[Result, Result]], confidence: float) -> Comparison:
    """Result b against result a. Args: `seeds` of the `pairs`, which are these two themselves where there are no seeds."""
    both = [s for s in a.metrics if s in b.metrics]
    changes, means = [], []
    for metric in METRICS:
        rows = {s: _values(pairs, s, metric) for s in both if metric in a.metrics[s] or metric in b.metrics[s]}
        changes += [_change(s, metric, v, confidence, bool(seeds)) for s, v in rows.items()]
        if len(rows) > 1:
            # over books where there are several, each the mean of its scenarios; else over scenarios
            stacked = np.stack(list(rows.values()))
            means.append(_change("", metric, stacked.mean(axis=0) if seeds else stacked[:, 0], confidence, bool(seeds)))
    order = {s: i for i, s in enumerate(both)}
    return Comparison(
        a=a,
        b=b,
        confidence=confidence,
        seeds=seeds,
        same_books=same_books(a, b),
        changes=tuple(sorted(changes, key=lambda c: order[c.scenario])),
        means=tuple(means),
        limits=_limits(a, b),
        provenance=tuple((k, a.attributes.get(k), b.attributes.get(k)) for k in _TOLD if a.attributes.get(k) != b.attributes.get(k)),
        configuration=_unlike(*({k: v for k, v in x.configuration.items() if k != "files"} for x in (a, b))),
        only_a=tuple(s for s in a.metrics if s not in b.metrics),
        only_b=tuple(s for s in b.metrics if s not in a.metrics),
    )


def _limits(a: Result, b: Result) -> tuple[LimitChange, ...]:
    first, second = ({(f.scenario, f.metric, f.side): f for f in x.findings} for x in (a, b))
    found = []
    for key in dict.fromkeys([*first, *second]):
        x, y = first.get(key), second.get(key)
        states = (None if f is None else f.breached for f in (x, y))
        found.append(LimitChange(*key, *states, *(None if f is None else f.bound for f in (x, y))))
    return tuple(found)
