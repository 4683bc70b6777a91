"""The folder of an experiment: its configuration and environment, the history, the policy, the judgement, and a page to read."""

import csv
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import stresslev
from stresslev import doctor
from stresslev.metrics import METRICS
from stresslev.parameters import toml_of
from stresslev.report import experiment as page
from stresslev.tuning.experiment import TUNED, UNTUNED, Outcome, gradient_cost, moved, suite_runs
from stresslev.tuning.judgement import Estimate, Judgement
from stresslev.tuning.rivals import RIVAL_TITLES

#: What a folder of an experiment holds.
EXPERIMENT_FILES = frozenset({"experiment.json", "history.csv", "policy.toml", "judgement.csv", "report.html", "writeup.md"})


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _estimate(e: Estimate) -> dict:
    return {"mean": _number(e.mean), "low": _number(e.low), "high": _number(e.high)}


def _objective_words(outcome: Outcome) -> str:
    spec = outcome.experiment.spec.objective
    title = METRICS[spec.metric].title
    how = {"mean": "mean", "worst": "worst", "expected_shortfall": f"expected shortfall at {spec.level:.0%}"}[spec.measure]
    return f"{title}, {how} over scenarios"


def _judge_group(outcome: Outcome) -> str:
    """The group that the verdict is about: what nothing was chosen by, if there is such a group."""
    spec = outcome.experiment.spec
    return "held_out" if spec.held_out else "validation" if spec.validation else "train"


def _sentences(outcome: Outcome) -> tuple[str, list[str], bool | None]:
    """Headline, further sentences, and whether the tuned policy is better out of sample."""
    group, spec = _judge_group(outcome), outcome.experiment.spec
    verdict = outcome.judgement.of(TUNED, group)
    base = outcome.judgement.of(UNTUNED, group)
    where = {"held_out": "on scenarios it never saw", "validation": "on the scenarios it was chosen by", "train": "on the scenarios it was tuned on"}[
        group
    ]
    broken = [b.words() for b, v in zip(outcome.goal.bounds, verdict.violations, strict=True) if v.low > spec.penalty.tolerance]
    better = verdict.better
    if broken:
        headline, better = f"The tuned policy does not keep its constraints {where}: {'; '.join(broken)}.", False
    elif better:
        headline = f"The tuned policy is better than the untuned one {where}."
    elif better is None:
        headline = f"The tuned policy cannot be told from the untuned one {where}."
    else:
        headline = f"The tuned policy is worse than the untuned one {where}."
    change = verdict.change
    said = [
        f"{_objective_words(outcome)}: {base.objective.mean:.4g} untuned, {verdict.objective.mean:.4g} tuned; "
        f"change {change.mean:.3g}, {spec.judgement.confidence:.0%} interval from {change.low:.3g} to {change.high:.3g}."
    ]
    for bound, v in zip(outcome.goal.bounds, verdict.violations, strict=True):
        state = "kept" if v.high <= spec.penalty.tolerance else "broken" if v.low > spec.penalty.tolerance else "kept within the interval"
        said.append(f"Constraint, {bound.words()}: {state} (violation {v.mean:.2g} of the bound, {v.low:.2g} to {v.high:.2g}).")
    for name in (*outcome.experiment.others, *outcome.rivals):
        if name not in outcome.judgement.policies:
            continue
        other = outcome.judgement.of(name, group)
        said.append(
            f"{name}: {other.objective.mean:.4g}, change from untuned {other.change.mean:.3g} ({other.change.low:.3g} to {other.change.high:.3g})."
        )
    if spec.population != "accounts":
        said.append("Tuned on a liquidation profile, which is approximate; judged on accounts.")
    return headline, said, better


def _search_words(outcome: Outcome) -> str:
    state, runs = outcome.state, suite_runs(outcome.state, len(outcome.experiment.spec.train))
    ratio = gradient_cost(state)
    cost = f"{state.hard_runs} hard runs of a scenario took {state.hard_seconds:.0f} s, {state.gradients} gradients {state.gradient_seconds:.0f} s, "
    cost += f"compilation included; at their quickest a gradient cost {ratio:.1f} hard runs, and the search {runs} runs of the training suite. "
    band = f"Thresholds were smoothed over a band of half width {outcome.study.width:.3g} in health."
    return f"{state.step} steps, over because {outcome.why}. " + cost + band


def _raced(outcome: Outcome) -> list[str]:
    """Whether the search found what its rivals found, and at what cost."""
    state, tolerance = outcome.state, outcome.experiment.spec.penalty.tolerance
    per_step = suite_runs(state, len(outcome.experiment.spec.train)) / max(state.step, 1)
    fine = [h for h in state.history if h["objective"] is not None and max([0.0, *h["violations"]]) <= tolerance]
    said = []
    for name, (best, runs, _) in outcome.rivals.items():
        title = RIVAL_TITLES[name]
        if best is None or not best.score.feasible(tolerance):
            said.append(f"{title} found nothing within the constraints in {runs} runs of the training suite.")
            continue
        there = [(h["step"] + 1) * per_step for h in fine if h["objective"] <= best.score.objective]
        found = f"What {title} found in {runs} runs of the training suite, {best.score.objective:.4g},"
        if there:
            said.append(f"{found} the gradient had found at the cost of {there[0]:.0f} ({runs / there[0]:.1f} times fewer).")
        else:
            mine = min((h["objective"] for h in fine), default=float("nan"))
            said.append(f"{found} the gradient did not find: it came to {mine:.4g} at the cost of {per_step * state.step:.0f}.")
    return said


def _verdicts(judgement: Judgement) -> list[dict]:
    return [
        {
            "policy": v.policy,
            "group": v.group,
            "objective": _estimate(v.objective),
            "change": _estimate(v.change),
            "better": v.better,
            "violations": [_estimate(e) for e in v.violations],
            "metrics": {k: _number(x) for k, x in v.metrics.items()},
        }
        for v in judgement.verdicts
    ]


def _frontier(outcome: Outcome) -> list[dict]:
    points = []
    for factor, found, bound in outcome.frontier:
        name, metric = f"{bound:.6g}", outcome.goal.bounds[0].metric
        mine = [v for v in outcome.frontier_judgement.verdicts if v.policy == name]
        groups = {v.group: {"objective": _estimate(v.objective), "efficiency": _number(v.metrics[metric])} for v in mine}
        row = {"factor": factor, "bound": bound, "objective": _number(found.score.objective), "groups": groups}
        points.append(row | {"values": [float(x) for x in found.values]})
    return points


def _map(outcome: Outcome) -> dict:
    maps = outcome.maps
    usd = {name: [[float(x) for x in row] for row in rows] for name, rows in maps.usd.items()}
    return {"scenario": maps.scenario, "moves": [float(x) for x in maps.moves], "minutes": [float(x) for x in maps.minutes], "usd": usd}


def as_data(outcome: Outcome, command: list[str]) -> dict:
    """Everything, for experiment.json and the page."""
    experiment, spec, explained = outcome.experiment, outcome.experiment.spec, outcome.explained
    headline, sentences, better = _sentences(outcome)
    values = moved(outcome)
    parameters = [
        {
            "path": p.path,
            "low": p.low,
            "high": p.high,
            "scale": p.scale,
            "untuned": values[p.path][0],
            "tuned": values[p.path][1],
            "slope": _number(explained.slopes[i]),
            "alone": _number(explained.from_untuned[i]),
            "back": _number(explained.back[i]),
        }
        for i, p in enumerate(experiment.parameters)
    ]
    rivals = {
        name: {
            "title": RIVAL_TITLES[name],
            "runs": runs,
            "objective": None if best is None else _number(best.score.objective),
            "history": history,
        }
        for name, (best, runs, history) in outcome.rivals.items()
    }
    pairs = sorted(explained.pairs.items(), key=lambda item: -abs(item[1]))
    return {
        "name": spec.name,
        "title": spec.title or spec.name,
        "description": spec.description,
        "version": stresslev.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["stresslev", *command]),
        "environment": {"versions": doctor.versions(), "devices": doctor.devices()},
        "configuration": spec.model_dump(mode="json"),
        "accounts": len(outcome.study.book),
        "seed": spec.seed,
        "headline": headline,
        "sentences": sentences,
        "better": better,
        "first": UNTUNED,
        "books": spec.judgement.books,
        "confidence": spec.judgement.confidence,
        "tolerance": spec.penalty.tolerance,
        "objective": _objective_words(outcome),
        "constraints": [b.words() for b in outcome.goal.bounds],
        "efficiency": METRICS[outcome.goal.bounds[0].metric].title if outcome.goal.bounds else "",
        "groups": {"train": spec.train, "validation": spec.validation, "held_out": spec.held_out},
        "verdicts": _verdicts(outcome.judgement),
        "search": _search_words(outcome),
        "raced": _raced(outcome),
        "steps": outcome.state.step,
        "suite_runs": suite_runs(outcome.state, len(spec.train)),
        "seconds": outcome.seconds,
        "history": outcome.state.history,
        "rivals": rivals,
        "frontier": _frontier(outcome),
        "parameters": parameters,
        "map": _map(outcome),
        "pairs": [{"one": a, "other": b, "effect": _number(x)} for (a, b), x in pairs],
    }


def _writeup(data: dict) -> str:
    lines = [f"# {data['title']}", "", f"**{data['headline']}**", "", *(f"- {s}" for s in data["sentences"]), "", data["search"], *data["raced"], ""]
    lines += ["| parameter | untuned | tuned |", "|---|---|---|"]
    lines += [f"| {p['path']} | {p['untuned']:.6g} | {p['tuned']:.6g} |" for p in data["parameters"]]
    seconds = ", ".join(f"{k} {v:.0f} s" for k, v in data["seconds"].items())
    lines += ["", f"`{data['command']}` with seed {data['seed']}, {data['accounts']:,} accounts: {seconds}.", ""]
    return "\n".join(lines)


def write(outcome: Outcome, folder: Path, command: list[str]) -> dict:
    """All files, into a folder that is there. Returns the data."""
    data = as_data(outcome, command)
    (folder / "experiment.json").write_text(json.dumps(data, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")
    (folder / "policy.toml").write_text(toml_of(outcome.policy), encoding="utf-8")
    with open(folder / "history.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        paths = [p["path"] for p in data["parameters"]]
        writer.writerow(["step", "restart", "objective", "violation", "merit", "gradient_norm", "lost", "penalty", *paths])
        for h in data["history"]:
            worst = max([0.0, *h["violations"]])
            row = [h["step"], h["restart"], h["objective"], worst, h["merit"], h["gradient_norm"], h["lost"], h["penalty"]]
            writer.writerow([*row, *(h["values"][p] for p in paths)])
    judgement = outcome.judgement
    with open(folder / "judgement.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["book", "scenario", "policy", *judgement.metrics])
        for b, s, p in np.ndindex(judgement.values.shape[:3]):
            writer.writerow([b, judgement.scenarios[s], judgement.policies[p], *(float(x) for x in judgement.values[b, s, p])])
    (folder / "writeup.md").write_text(_writeup(data), encoding="utf-8")
    (folder / "report.html").write_text(page.document(data), encoding="utf-8")
    return data
