"""A comparison in words: rows of a table, sentences about noise, Markdown and JSON."""

import dataclasses
import json
import math

from stresslev.contrast.differences import NOISE, ROUNDING, SAME, Change, Comparison, LimitChange
from stresslev.metrics import METRICS
from stresslev.report import words
from stresslev.report.words import number, signed

#: Most lines about the configuration; JSON has all.
_MOST = 25


def _interval(change: Change) -> str:
    if change.estimate is None or math.isnan(change.estimate.low):
        return ""
    return f"{signed(change.metric, change.estimate.low)} to {signed(change.metric, change.estimate.high)}"


def heads(found: Comparison) -> list[str]:
    """Headings of the columns."""
    return ["scenario", "metric", f"A: {found.a.name}", f"B: {found.b.name}", "B - A", f"{found.confidence:.0%} interval", "B is"]


def rows(found: Comparison, everything: bool) -> list[list[str]]:
    """A row for each metric of each scenario that differs, or for each, and then the means over scenarios."""
    shown = [c for c in (*found.changes, *found.means) if everything or c.reading not in (SAME, ROUNDING)]
    over = f"mean of {len(found.scenarios)}"
    return [
        [
            c.scenario or over,
            METRICS[c.metric].title,
            number(c.metric, c.a),
            number(c.metric, c.b),
            signed(c.metric, c.difference),
            _interval(c),
            c.reading,
        ]
        for c in shown
    ]


def _books(found: Comparison) -> list[str]:
    seeds = [x.attributes.get("seed") for x in (found.a, found.b)]
    if found.seeds:
        listed = ", ".join(str(s) for s in found.seeds)
        return [
            f"Values are means over {len(found.seeds)} books (seeds {listed}) that both sides were run on. Differences are taken book by book; their "
            f"{found.confidence:.0%} intervals are Student's t over books. An interval that holds zero is {NOISE}; of all that do not, one row in "
            f"{1 / (1 - found.confidence):.0f} may be so by chance."
        ]
    if found.same_books is None:
        return ["Whether both ran on the same book is recorded of single scenarios in result.nc alone. There is no telling differences from noise."]
    if not found.same_books:
        what = f"of other seeds ({seeds[0]} and {seeds[1]})" if seeds[0] != seeds[1] else "that are not the same"
        return [
            f"The two ran on books or paths {what}: part of every difference is what another draw does by itself, and with one book each there is no "
            "telling how much."
        ]
    told = "Both ran on the same book and along the same paths (common random numbers), so no difference comes from the draw."
    if not found.a.samples:
        return [told + " The book is not drawn, so there is no noise of books."]
    return [
        told + " With one book there is no estimate of how differences vary from book to book: run both with further seeds into the same folder "
        "(--seed), and compare takes them up."
    ]


def sentences(found: Comparison) -> list[str]:
    """What must be known to read the table."""
    told = _books(found)
    if found.means and not found.seeds:
        n = len(found.scenarios)
        told.append(
            f"Means over scenarios have Student's t intervals over the {n} scenarios, paired. They take the scenarios for a sample of what may "
            "happen, which a list made by hand is not: read them as whether the scenarios agree."
        )
    same, rounding = (sum(c.reading == r for c in found.changes) for r in (SAME, ROUNDING))
    told.append(f"Of {len(found.changes)} metrics of scenarios {same} are the same, bit for bit, and {rounding} differ by rounding only.")
    for scenarios, who in ((found.only_a, "A"), (found.only_b, "B")):
        if scenarios:
            told.append(f"Only {who} has {words.listing(scenarios, 6)}.")
    return told


def limit_word(breached: bool | None) -> str:
    """What a limit says of one run."""
    return "not set" if breached is None else "breached" if breached else "kept"


def limit_rows(found: Comparison, everything: bool) -> list[list[str]]:
    """A row for each limit on which the runs differ or that both breach, or for each limit."""

    def bound(change: LimitChange, value: float | None) -> str:
        return "" if value is None else f"{change.side} {value:g}"

    shown = [c for c in found.limits if everything or c.a or c.b or c.a != c.b or c.bound_a != c.bound_b]
    return [[c.scenario, words.metric_title(c.metric), bound(c, c.bound_a), limit_word(c.a), bound(c, c.bound_b), limit_word(c.b)] for c in shown]


LIMIT_HEADS = ["scenario", "limit on", "bound of A", "A", "bound of B", "B"]


def unlike(pairs: tuple[tuple[str, object, object], ...], most: int | None = _MOST) -> list[list[str]]:
    """A row for each key that differs, the first ones."""

    def short(value) -> str:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        text = " ".join(text.split())
        return text if len(text) <= 60 else text[:57] + "..."

    found = [[key, *("" if v is None else short(v) for v in (a, b))] for key, a, b in pairs]
    return found if most is None or len(found) <= most else [*found[:most], [f"and {len(found) - most} more", "", ""]]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: list[str], body: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def markdown(found: Comparison, everything: bool = False) -> str:
    """The comparison as Markdown."""
    parts = [f"# {found.b.name} against {found.a.name}", *sentences(found)]
    body = rows(found, everything)
    parts += ["## Metrics", table(heads(found), body) if body else "No metric differs."]
    limits = limit_rows(found, everything)
    if found.limits:
        parts += ["## Limits", table(LIMIT_HEADS, limits) if limits else f"Both keep all {len(found.limits)} limits."]
    for title, pairs in (("Provenance", found.provenance), ("Configuration", found.configuration)):
        parts += [f"## {title}", table(["key", "A", "B"], unlike(pairs)) if pairs else "No difference."]
    return "\n\n".join(parts) + "\n"


def as_data(found: Comparison) -> dict:
    """The comparison as plain data, everything in it."""

    def change(c: Change) -> dict:
        interval = None if c.estimate is None else {"mean": c.estimate.mean, "low": c.estimate.low, "high": c.estimate.high}
        known = {"scenario": c.scenario or None, "metric": c.metric, "units": METRICS[c.metric].units, "better": METRICS[c.metric].better}
        return known | {"a": c.a, "b": c.b, "difference": c.difference, "reading": c.reading, "interval": interval}

    return {
        "a": str(found.a.place),
        "b": str(found.b.place),
        "name_of_a": found.a.name,
        "created_a": found.a.attributes.get("created", ""),
        "confidence": found.confidence,
        "seeds": list(found.seeds),
        "same_books": found.same_books,
        "reproduced": found.reproduced,
        "notes": sentences(found),
        "changes": [change(c) for c in found.changes],
        "means_over_scenarios": [change(c) for c in found.means],
        "limits": [dataclasses.asdict(c) for c in found.limits],
        "provenance": [{"key": k, "a": a, "b": b} for k, a, b in found.provenance],
        "configuration": [{"key": k, "a": a, "b": b} for k, a, b in found.configuration],
        "scenarios_only_in_a": list(found.only_a),
        "scenarios_only_in_b": list(found.only_b),
    }
