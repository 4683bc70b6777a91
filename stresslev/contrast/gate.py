"""A gate for changes: a run passes when it keeps its limits and is nowhere worse than a baseline by more than is tolerated."""

import math
from dataclasses import dataclass
from pathlib import Path

from stresslev.config.gate import GateSpec
from stresslev.config.load import read_toml
from stresslev.config.validation import validate
from stresslev.contrast.inputs import Result, read, same_books
from stresslev.contrast.words import table
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.metrics import MEASURES, METRICS
from stresslev.report import words
from stresslev.report.words import number, signed


@dataclass(frozen=True)
class Check:
    """One thing that had to hold."""

    scenario: str
    name: str
    passed: bool
    told: str  # what was found, in a sentence


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a run."""

    run: Result
    baseline: Result
    spec: GateSpec
    same_books: bool | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(c.passed for c in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(c for c in self.checks if not c.passed)


def load_gate(path: Path) -> GateSpec:
    """A gate file. Raises InputError."""
    data = read_toml(path)
    spec: GateSpec = validate(GateSpec, data, path)
    check_names(spec, path)
    return spec


def check_names(spec: GateSpec, file) -> None:
    """Refuse metrics that do not exist. Raises InputError."""
    keys = [(f"metrics.{i}", n) for i, n in enumerate(spec.metrics)] + [(f"tolerances.{n}", n) for n in spec.tolerances]
    wrong = [Problem(key, repr(n), "is no metric", did_you_mean(n, METRICS)) for key, n in keys if n not in METRICS]
    if wrong:
        raise InputError(file, wrong)


def tolerance(spec: GateSpec, metric: str, base: float) -> float:
    """By how much a metric may be worse than the baseline's value, in its own unit."""
    own = spec.tolerances.get(metric)
    relative = spec.relative if own is None or own.relative is None else own.relative
    absolute = spec.absolute if own is None or own.absolute is None else own.absolute
    return max(relative * abs(base), absolute)


def _against(spec: GateSpec, scenario: str, name: str, value: float, base: float) -> Check | None:
    """A metric held against the baseline; None where the baseline has no value to hold it against."""
    metric, title = METRICS[name], f"{METRICS[name].title}: not worse than the baseline"
    if math.isnan(base):
        return None
    if math.isnan(value):
        return Check(scenario, title, False, f"has no value, the baseline has {number(name, base)}")
    allowed = tolerance(spec, name, base) if math.isfinite(base) else 0.0
    worse = metric.worse(value, base) and not abs(value - base) <= allowed
    told = f"{number(name, value)}, the baseline {number(name, base)}"
    if value != base:
        told += f": {signed(name, value - base)}, tolerated {signed(name, allowed)}"
    return Check(scenario, title, not worse, told)


def judge(run: str | Path, baseline: str | Path, spec: GateSpec) -> Verdict:
    """Hold a run against its own limits and against a baseline, scenario by scenario.

    A scenario that the baseline has and the run lacks breaks the gate; one that only the run has is held against its limits alone.

    Raises:
      InputError: a run that cannot be read, or nothing to check, which is no pass.
    """
    now, then = read(run), read(baseline)
    names = spec.metrics or tuple(dict.fromkeys([*(n for group in MEASURES.values() for n in group), *spec.tolerances]))
    checks = []
    for f in now.findings:
        name = f"{words.metric_title(f.metric)}: {'at most' if f.side == 'max' else 'at least'} {f.bound:g}"
        told = words.value_against(f.metric, f.value, f.bound) if math.isfinite(f.value) else number(f.metric, f.value)
        checks.append(Check(f.scenario, name, not f.breached, told + (f" ({f.reason})" if f.reason else "")))
    for scenario, values in then.metrics.items():
        if scenario not in now.metrics:
            checks.append(Check(scenario, "scenario was run", False, "the baseline has it, the run does not"))
            continue
        for name in names:
            found = _against(spec, scenario, name, now.metrics[scenario].get(name, math.nan), values.get(name, math.nan))
            checks += [found] if found is not None else []
    if not checks:
        fix = "set limits, or name metrics that both runs have"
        raise InputError(run, Problem("gate", "", "has nothing to hold the run against: no limit, and no metric that the baseline has", fix))
    order = {s: i for i, s in enumerate([*now.metrics, *then.metrics])}
    return Verdict(now, then, spec, same_books(now, then), tuple(sorted(checks, key=lambda c: order[c.scenario])))


def notes(verdict: Verdict) -> list[str]:
    """What must be known to judge the verdict."""
    told = []
    if verdict.same_books is False:
        told.append("The run and the baseline are not on the same books and paths: part of every difference is what another draw does by itself.")
    for key, what in (("stresslev_version", "version of stresslev"), ("precision", "precision"), ("device", "device")):
        x, y = (side.attributes.get(key) for side in (verdict.run, verdict.baseline))
        if x is not None and y is not None and x != y:
            told.append(f"Another {what}: {x}, the baseline {y}.")
    new = [s for s in verdict.run.metrics if s not in verdict.baseline.metrics]
    if new:
        told.append(f"The baseline does not have {words.listing(new, 6)}.")
    if not verdict.run.findings:
        told.append("The run has no limits.")
    return told


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    broken = len(verdict.broken)
    what = words.plural(len(verdict.checks), "check")
    return f"passed: all of {what}" if verdict.passed else f"FAILED: {broken} of {what} {'does' if broken == 1 else 'do'} not hold"


def markdown(verdict: Verdict) -> str:
    """A summary of the verdict, as CI shows it."""
    sign = "✅" if verdict.passed else "❌"
    parts = [f"## {sign} stresslev gate {headline(verdict)}", f"`{verdict.run.name}` against the baseline `{verdict.baseline.name}`."]
    parts += [verdict.spec.description] if verdict.spec.description else []
    if verdict.broken:
        parts.append(table(["scenario", "check", "found"], [[c.scenario, c.name, c.told] for c in verdict.broken]))
    parts += notes(verdict)
    held = [[c.scenario, c.name, c.told] for c in verdict.checks if c.passed]
    if held:
        summary = f"<summary>{words.plural(len(held), 'check')} that {'holds' if len(held) == 1 else 'hold'}</summary>"
        parts.append(f"<details>{summary}\n\n{table(['scenario', 'check', 'found'], held)}\n\n</details>")
    return "\n\n".join(parts) + "\n"
