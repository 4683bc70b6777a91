"""The page of a tuning experiment: what was found, whether it holds out of sample, and what in it matters."""

import html
import json
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from stresslev.report import plots, sections, tables
from stresslev.report.chart import Chart, still
from stresslev.report.frame import contents, created, facts, items, no_script, page, section
from stresslev.report.markup import Html, tag

_SECTIONS = {
    "verdict": "Verdict",
    "judgement": "Judged by the hard rules",
    "search": "The search",
    "policy": "The policy",
    "matters": "What matters",
    "reproduce": "How to reproduce this",
}
_GROUPS = {"train": "tuned on", "validation": "chosen by", "held_out": "held out"}


def _figure(x: float | None, digits: int = 4) -> str:
    return "–" if x is None or not np.isfinite(x) else f"{x:.{digits}g}"


def _interval(e: dict) -> str:
    if e["low"] is None:
        return _figure(e["mean"])
    return f"{_figure(e['mean'])} [{_figure(e['low'], 3)}, {_figure(e['high'], 3)}]"


def _judged(data: dict) -> Html:
    parts = []
    for group, title in _GROUPS.items():
        rows = []
        for v in (v for v in data["verdicts"] if v["group"] == group):
            violations = "; ".join(_interval(e) for e in v["violations"])
            mark = {True: "✓ better", False: "✕ worse", None: "○ not told apart"}[v["better"]] if v["policy"] != data["first"] else ""
            rows.append([v["policy"], _interval(v["objective"]), _interval(v["change"]), mark, violations])
        if rows:
            names = ", ".join(data["groups"][group])
            head = ["Policy", data["objective"], f"Change from {data['first']}", "", "Violation of the constraints, of their bounds"]
            parts += [tag("h3", f"Scenarios {title}: {names}"), tables.table(head, rows)]
    note = (
        f"Means over {data['books']} books drawn anew, with {data['confidence']:.0%} intervals by Student's t; changes on the same books and paths. "
    )
    note += "A violation above zero breaks a constraint."
    return section("judgement", _SECTIONS["judgement"], parts, tag("p", note, class_="note"))


def _axes(title_x: str, x: Sequence[float], y: Sequence[float], log_x: bool = False) -> dict:
    low, high = float(np.min(y)), float(np.max(y))
    pad = 0.08 * (high - low) or max(abs(high), 1e-9) * 0.1
    axis = {"title": {"text": title_x}, "showgrid": False, "showline": True, "linecolor": plots.FAINT, "ticks": "outside"}
    return {"xaxis": axis | ({"type": "log"} if log_x else {}), "yaxis": plots.value_axis(low - pad, high + pad, "")}


def _line(x, y, name: str, colour: str, **more) -> dict:
    name = html.escape(name)
    style = {"type": "scatter", "mode": "lines", "x": [float(a) for a in x], "y": [None if b is None else float(b) for b in y]}
    return (
        style
        | {"name": name, "line": {"color": colour, "width": 1.8}, "showlegend": False, "hovertemplate": f"%{{x}}: %{{y:.4g}}<extra>{name}</extra>"}
        | more
    )


def _history(data: dict) -> list[Chart]:
    first = [h for h in data["history"] if h["restart"] == 0]
    if not first:
        return []
    x = [h["step"] + 1 for h in first]
    y = [h["objective"] for h in first]
    violation = [max([0.0, *h["violations"]]) for h in first]
    fine = [v for v in y if v is not None]
    if not fine:
        return []
    drawn = [_line(x, y, "objective", plots.PALETTE[0])]
    charts = [
        Chart(
            f"{data['objective']} by step",
            "",
            "By the hard rules, on the training scenarios of the step.",
            still(drawn, plots.layout(260, **_axes("step", x, fine))),
        )
    ]
    if data["constraints"] and max(violation) == 0:
        charts.append(Chart("Largest violation of a constraint", "", "Zero at every step, so there is nothing to draw."))
    elif data["constraints"]:
        drawn = [_line(x, violation, "violation", plots.PALETTE[1])]
        charts.append(
            Chart(
                "Largest violation of a constraint",
                "share of its bound",
                "Zero is none.",
                still(drawn, plots.layout(220, **_axes("step", x, violation))),
            )
        )
    return charts


def _rivals(data: dict) -> Chart | None:
    """Best so far against the work done, for the search and its rivals."""
    per_step = data["suite_runs"] / max(data["steps"], 1)
    traces, key, everything = [], [], []

    def add(name: str, points: list[tuple[float, float]], colour: str) -> None:
        if points:
            stairs = {"color": colour, "width": 1.8, "shape": "hv"}  # what is best stays so until something is better
            traces.append(_line([p[0] for p in points], [p[1] for p in points], name, colour, line=stairs))
            key.append(("solid", colour, name))
            everything.extend(p[1] for p in points)

    best, points = None, []
    tolerance = data["tolerance"]
    for h in data["history"]:
        if h["objective"] is not None and max([0.0, *h["violations"]]) <= tolerance and (best is None or h["objective"] < best):
            best = h["objective"]
            points.append(((h["step"] + 1) * per_step, best))
    add("gradient", points, plots.PALETTE[0])
    for i, rival in enumerate(data["rivals"].values()):
        found = [(n, o) for n, o, v in rival["history"] if o is not None and (v or 0) <= tolerance]
        add(rival["title"], found, plots.PALETTE[1 + i])
    if len(traces) < 2:
        return None
    caption = "Best policy within the constraints so far; a gradient counts as the hard runs that take as long."
    axes = _axes("runs of the training suite", [1], everything, log_x=True)
    return Chart("The search against searches without derivatives", data["objective"], caption, still(traces, plots.layout(300, **axes)), key)


def _frontier(data: dict) -> Chart | None:
    points = [p for p in data["frontier"] if p["objective"] is not None]
    if not points:
        return None
    traces, key, everything = [], [], []
    for i, (group, title) in enumerate(_GROUPS.items()):
        rows = [p for p in points if group in p["groups"]]
        if not rows:
            continue
        y = [p["groups"][group]["objective"]["mean"] for p in rows]
        up = [(p["groups"][group]["objective"]["high"] or m) - m for p, m in zip(rows, y, strict=True)]
        bars = {"type": "data", "array": up, "color": plots.PALETTE[i], "thickness": 1}
        x = [p["groups"][group]["efficiency"] for p in rows]
        traces.append(_line(x, y, title, plots.PALETTE[i], mode="lines+markers", error_y=bars))
        key.append(("solid", plots.PALETTE[i], f"scenarios {title}"))
        everything += [m + u for m, u in zip(y, up, strict=True)] + [m - u for m, u in zip(y, up, strict=True)]
    caption = "Each point is tuned with another bound on the first constraint, from the one before; bars are confidence intervals. What is tuned "
    caption += f"for, {data['objective'].lower()}, is up; what is kept for it, {data['efficiency'].lower()}, is across."
    return Chart(
        "Safety and efficiency", data["objective"], caption, still(traces, plots.layout(320, **_axes(data["efficiency"], [0], everything))), key
    )


def _map(data: dict) -> Chart:
    """What would be liquidated at moved prices, under both policies, at the start and at a later moment, which may be the start itself."""
    found = data["map"]
    moves = np.array(found["moves"])
    steps = [*100 * moves[moves < 0], 0.0, *100 * moves[moves > 0]]
    at = int((moves < 0).sum())  # no move liquidates nothing
    most = max(x for rows in found["usd"].values() for row in rows for x in row)
    unit = plots.money_unit(most)
    moments = dict(zip(found["minutes"], ("dot", "solid"), strict=True))
    traces, key = [], []
    for i, (name, rows) in enumerate(found["usd"].items()):
        for minute, row in dict(zip(found["minutes"], rows, strict=True)).items():
            usd = [x / unit.factor for x in (*row[:at], 0.0, *row[at:])]
            # the first one is wider, so that it is seen beneath another that is the same
            line = {"color": plots.PALETTE[i], "width": 1.6 if i else 3.2, "dash": moments[minute]}
            traces.append(_line(steps, usd, f"{name}, {_moment(minute)}", plots.PALETTE[i], line=line))
            key.append(("dotted" if moments[minute] == "dot" else "solid", plots.PALETTE[i], f"{name}, {_moment(minute)}"))
    caption = f"In {found['scenario']}, pools and assets summed; all that would be liquidated on the way from no move to each."
    if len(moments) > 1:
        caption += f" The later moment is when a fall of a tenth would liquidate most under the {data['first']} policy."
    else:
        caption += f" A fall of a tenth would never liquidate more than at the start under the {data['first']} policy, so one moment is drawn."
    axes = _axes("move of every price alone", [0], [0.0, most / unit.factor])
    axes["xaxis"] |= {"ticksuffix": "%", "zeroline": True, "zerolinecolor": plots.FAINT}
    axes["yaxis"] |= {"ticksuffix": unit.suffix}
    return Chart("What would be liquidated if prices moved", "USD", caption, still(traces, plots.layout(320, **axes)), key)


def _moment(minute: float) -> str:
    return "at the start" if minute == 0 else f"after {minute:.0f} minutes"


def _policy(data: dict, numbers: Iterator[int]) -> Html:
    rows = [[p["path"], _figure(p["untuned"]), _figure(p["tuned"]), f"{_figure(p['low'])} to {_figure(p['high'])}"] for p in data["parameters"]]
    text = tag("p", "The whole policy is in policy.toml beside this page, ready for stresslev run --policy.")
    drawn = sections.figure(_map(data), next(numbers), 3)
    return section("policy", _SECTIONS["policy"], tables.table(["Parameter", "Untuned", "Tuned", "Bounds"], rows), text, drawn)


def _matters(data: dict) -> Html:
    rows = [[p["path"], _figure(p["alone"], 3), _figure(p["back"], 3), _figure(p["slope"], 3)] for p in data["parameters"]]
    head = ["Parameter", "Alone at its tuned value", "Alone back at its untuned value", "Slope times the way between its bounds"]
    parts = [
        tag("p", f"Changes of {data['objective']} on the training scenarios, by the hard rules; the slope is estimated."),
        tables.table(head, rows),
    ]
    if data["pairs"]:
        pairs = [[p["one"], p["other"], _figure(p["effect"], 3)] for p in data["pairs"][:10]]
        parts += [
            tag("h3", "Pairs"),
            tag("p", "What two do together beyond what each does by itself."),
            tables.table(["One", "Other", "Effect"], pairs, text_columns=2),
        ]
    return section("matters", _SECTIONS["matters"], parts)


def document(data: dict) -> str:
    """The whole page. Args: `data`, what `tuning.results.as_data` makes."""
    numbers = count(1)
    state = {True: "within", False: "breached", None: "none"}[data["better"]]
    mark = {"within": "✓", "breached": "✕", "none": "○"}[state]
    statement = tag("p", tag("span", mark, class_="sign", aria_hidden="true"), data["headline"], class_="statement")
    verdict = section("verdict", _SECTIONS["verdict"], tag("div", statement, class_=f"banner {state}"), items(data["sentences"], class_="narrative"))
    drawn = [sections.figure(c, next(numbers), 3) for c in [*_history(data), _rivals(data), _frontier(data)] if c is not None]
    search = section("search", _SECTIONS["search"], tag("p", " ".join([data["search"], *data["raced"]])), drawn)
    configured = tag("details", tag("summary", "Experiment as configured (JSON)"), tag("pre", json.dumps(data["configuration"], indent=2)))
    reproduce = section("reproduce", _SECTIONS["reproduce"], tag("pre", data["command"], class_="command"), configured)
    main = tag("main", verdict, contents(_SECTIONS.items()), no_script(), _judged(data), search, _policy(data, numbers), _matters(data), reproduce)
    about = [
        ("Created", created(data["created"])),
        ("stresslev", data["version"]),
        ("Accounts", f"{data['accounts']:,}"),
        ("Seed", str(data["seed"])),
    ]
    lead = tag("p", " ".join(data["description"].split()), class_="lead") if data["description"] else None
    header = tag("header", tag("h1", tag("span", "Tuning experiment", class_="kicker"), data["title"]), lead, facts(about, class_="facts"))
    return page(f"{data['title']}: tuning experiment", header, main, f"stresslev {data['version']}, {created(data['created'])}", "verdict")
