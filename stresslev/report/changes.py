"""What changed against the last run: in short on the first page, and in full in the appendix."""

import math

from stresslev.metrics import MEASURES, METRICS
from stresslev.report import tables, words
from stresslev.report.frame import created, items, section
from stresslev.report.inputs import Run
from stresslev.report.markup import Html, join, tag

TITLE = "Appendix: all changes against the last run"
#: What of a comparison's readings counts as a change, and its mark; marks are told apart without colour.
_MARKS = {"worse": "✕ worse", "better": "✓ better", "not comparable": "? not comparable", "within noise": "○ within noise"}
_STATES = {None: "not set", True: "✕ breached", False: "✓ kept"}
#: Most rows of measures, and most configured keys, on the first page.
_ROWS, _KEYS = 6, 3
#: Measures shown on the first page besides those with limits.
_FIRST = ("bad_debt_over_open_interest", "deficit_over_open_interest", "insurance_fund_fall", "insolvent_pools", "liquidated_accounts_share")


def _limits(change: dict) -> list[dict]:
    """Limits whose state or bound is not what it was."""
    return [c for c in change["limits"] if c["a"] != c["b"] or c["bound_a"] != c["bound_b"]]


def _told(change: dict) -> list[dict]:
    """Metrics that changed by more than rounding and noise, the safety measures first, then by size."""
    order = list(dict.fromkeys([*(c["metric"] for c in change["limits"]), *_FIRST, *(n for group in MEASURES.values() for n in group)]))

    def rank(c: dict) -> tuple[float, float]:
        place = order.index(c["metric"]) if c["metric"] in order else len(order)
        gap = abs(c["difference"]) / max(abs(c["a"]), abs(c["b"]), 1e-300) if math.isfinite(c["difference"]) else math.inf
        return place, -gap

    return sorted((c for c in change["changes"] if c["reading"] in ("worse", "better", "not comparable")), key=rank)


def headline(change: dict) -> str:
    """Limits first, then how many measures are worse, better and within noise."""
    name, day = change["name_of_a"], created(change["created_a"])
    head = f"Against the last run, “{name}”" + (f" of {day}" if day else "") + ": "
    limits = [c for c in change["limits"] if c["a"] is not None and c["b"] is not None]
    broken, mended, still = (sum(c["a"] is a and c["b"] is b for c in limits) for a, b in ((False, True), (True, False), (True, True)))
    parts = [f"{words.plural(broken, 'limit')} newly breached" if broken else "no limit newly breached"] if limits else []
    parts += [f"{words.plural(mended, 'limit')} no longer breached"] if mended else []
    parts += [f"{words.plural(still, 'limit')} breached as before"] if still else []
    count = {r: sum(c["reading"] == r for c in change["changes"]) for r in _MARKS}
    of = words.plural(len(change["changes"]), "figure")
    if any(count.values()):
        parts.append(f"of {of} {count['worse']} are worse and {count['better']} better")
        parts += [f"{count['within noise']} differ within noise"] if count["within noise"] else []
    elif change["reproduced"]:
        parts.append(f"all of {of} are the same, bit for bit")
    else:
        parts.append(f"none of {of} differs by more than rounding")
    return head + "; ".join(parts) + "."


def _interval(c: dict) -> Html | None:
    found = c["interval"]
    if found is None or not (math.isfinite(found["low"]) and math.isfinite(found["high"])):
        return None
    ends = (words.signed(c["metric"], found[end]) for end in ("low", "high"))
    return tag("span", " to ".join(ends), class_="bound")


def _row(title: str, c: dict) -> Html:
    metric = c["metric"]
    state = "breached" if c["reading"] == "worse" else "within" if c["reading"] == "better" else None
    cells = [words.number(metric, c["a"]), words.number(metric, c["b"]), join(words.signed(metric, c["difference"]), _interval(c))]
    mark = tag("td", tag("span", _MARKS.get(c["reading"], c["reading"]), class_="mark"), class_=state)
    first = tag("th", METRICS[metric].title, tag("span", title, class_="reason"), scope="row")
    return tag("tr", first, [tag("td", x, class_="n") for x in cells], mark, data_scenario=c["scenario"] or None)


def _limit_row(title: str, c: dict) -> Html:
    def said(breached: bool | None, bound: float | None) -> Html:
        size = None if bound is None else tag("span", tables.bound_text(c["metric"], c["side"], bound), class_="bound")
        return join(_STATES[breached], size)

    reading = "✕ newly breached" if c["b"] and c["a"] is False else "✓ no longer breached" if c["a"] and c["b"] is False else "changed"
    state = "breached" if reading.startswith("✕") else "within" if reading.startswith("✓") else None
    first = tag("th", f"Limit: {words.metric_title(c['metric'])}", tag("span", title, class_="reason"), scope="row")
    cells = [tag("td", said(c[side], c[f"bound_{side}"]), class_="n") for side in ("a", "b")]
    mark = tag("td", tag("span", reading, class_="mark"), class_=state)
    return tag("tr", first, cells, tag("td", "", class_="n"), mark, data_scenario=c["scenario"])


def _table(run: Run, limits: list[dict], changes: list[dict]) -> Html | None:
    if not limits and not changes:
        return None
    titles = {s.name: s.title for s in run.scenarios} | {name: said["title"] for name, said in run.samples.items()} | {"": "mean over scenarios"}
    columns = (("What", None), ("Last run", "n"), ("This run", "n"), ("Change", "n"), ("Reading", None))
    head = tag("tr", [tag("th", text, scope="col", class_=kind) for text, kind in columns])
    rows = [_limit_row(titles.get(c["scenario"], c["scenario"]), c) for c in limits]
    rows += [_row(titles.get(c["scenario"] or "", c["scenario"]), c) for c in changes]
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="changes"), class_="wide")


def _value(x) -> str:
    text = " ".join(str("not set" if x is None else x).split())
    return text if len(text) <= 60 else text[:57] + "…"


def _why(change: dict) -> str:
    """What was configured differently, or that nothing was."""
    found = change["configuration"]
    if not found:
        code = [c["key"] for c in change["provenance"] if c["key"] in ("code_hash", "stresslev_version")]
        return "Nothing is configured differently" + ("; the program is another version or has other code." if code else ".")
    pairs = [f"{c['key']} from {_value(c['a'])} to {_value(c['b'])}" for c in found[:_KEYS]]
    rest = len(found) - len(pairs)
    more = f" and {words.plural(rest, 'more key')}" if rest else ""
    return f"Configured differently: {'; '.join(pairs)}{more}."


def summary(run: Run, change: dict) -> Html:
    """The part of the first page."""
    limits, told = _limits(change), _told(change)
    left = len(told) - _ROWS
    more = tag("p", tag("a", f"{words.plural(left, 'further change')} in the appendix", href="#changes"), ".", class_="note") if left > 0 else None
    notes = tag("p", " ".join([_why(change), change["notes"][0]]), class_="note")
    return join(tag("h3", "Change against the last run"), tag("p", headline(change)), _table(run, limits, told[:_ROWS]), more, notes)


def appendix(run: Run, change: dict) -> Html:
    """Everything that differs: figures with their intervals, limits, versions and configuration."""
    every = [c for c in change["changes"] if c["reading"] not in ("the same", "rounding")]
    means = [c for c in change["means_over_scenarios"] if c["reading"] not in ("the same", "rounding")]
    pairs = [[c["key"], _value(c["a"]), _value(c["b"])] for c in (*change["provenance"], *change["configuration"])]
    parts = [
        tag("p", headline(change)),
        items(change["notes"]),
        _table(run, _limits(change), every) or tag("p", "No figure differs by more than rounding."),
        [tag("h3", "Means over scenarios"), _table(run, [], means)] if means else None,
        tag("h3", "Versions and configuration"),
        tables.table(["Key", "Last run", "This run"], pairs, text_columns=3) if pairs else tag("p", "No difference."),
    ]
    return section("changes", TITLE, *parts)
