"""The page of a reverse stress test: the shock, how plausible it is, what broke first, and where the boundary lies."""

import math
from collections.abc import Iterator, Mapping
from itertools import count

from stresslev.report import plots, sections, tables
from stresslev.report.chart import Chart, still
from stresslev.report.frame import contents, created, facts, items, no_script, section
from stresslev.report.frame import page as frame_page
from stresslev.report.markup import Html, tag

_SECTIONS = {
    "verdict": "The shock",
    "plausibility": "How plausible it is",
    "broke": "What broke first",
    "boundary": "Where the boundary lies",
    "search": "The search",
    "factors": "The factors",
    "made": "How this was made",
}
_DISTANCES = 5


def _figure(x: float | None, digits: int = 4) -> str:
    return "–" if x is None else f"{x:.{digits}g}"


def _moved(s: Mapping) -> str:
    if "move" in s:
        return f"{s['move']:+.2%}"
    if "depth_factor" in s:
        return f"{s['depth_factor']:.3g} of usual depth"
    return f"average {s['average_correlation']:.3f} instead of {s['usual_correlation']:.3f} (stress {s['stress']:.2f})"


def _verdict(told: Mapping) -> Html:
    parts = [tag("p", told["headline"], class_="lead"), items(told["sentences"])]
    if told["found"]:
        rows = [[s["factor"], _moved(s), f"{s['standard_deviations']:+.2f}"] for s in told["shock"]]
        rows += [[n, f"{p['beta']:g} times the log return of {p['asset']}", ""] for n, p in told["factors"]["proxies"].items()]
        parts.append(tables.table(["Factor", "Moves to or by", "In its own standard deviations"], rows))
        parts.append(tag("p", "shock.toml holds it as a scenario; stresslev run suite.toml runs it and shows the limit broken.", class_="note"))
    return section("verdict", _SECTIONS["verdict"], parts)


def _plausibility(told: Mapping) -> Html:
    rows = []
    for name, p in told["plausibility"].items():
        words = "normal" if name == "normal" else f"Student's t, {p['degrees_of_freedom']:.3g} degrees of freedom"
        once = "–" if p["once_in_years"] is None else f"{p['once_in_years']:,.3g}"
        rows.append([words, f"{p['beyond']:.3g}", once, f"{p['outside']:.3g}"])
    head = ["Distribution", "Probability beyond, in its direction", "Once in so many years", "Probability as far, in any direction"]
    note = (
        f"Probabilities are per horizon of {told['factors']['horizon_minutes']:g} minutes. Beyond, in its direction: the first-order estimate of the "
        "probability of a break, exact where the boundary is a plane. In any direction: no more than this breaks the system, if nothing nearer does."
    )
    return section("plausibility", _SECTIONS["plausibility"], tables.table(head, rows), tag("p", note, class_="note"))


def _broke(told: Mapping) -> Html:
    rows = []
    for b in told["broken"]:
        pools = ", ".join(f"{p} {_figure(v)}" for p, v in b["pools"].items())
        rows.append([b["condition"], f"{b['minute']:g}", str(b["step"]), _figure(b["value_then"]), _figure(b["value_at_end"]), pools])
    head = ["Condition", "Minute", "Step", "Value then", "Value at the end", "By pool, then"]
    events = [[f"{e['minute']:g}", str(e["step"]), e["pool"], e["what"]] for e in told["timeline"]]
    return section(
        "broke",
        _SECTIONS["broke"],
        tables.table(head, rows),
        tag("h3", "What happened to each pool for the first time"),
        tables.table(["Minute", "Step", "Pool", "What"], events) if events else tag("p", "Nothing."),
    )


def _axis(title: str, **more) -> dict:
    axis = {"title": {"text": title}, "showgrid": False, "showline": True, "linecolor": plots.FAINT, "ticks": "outside", "zerolinecolor": plots.GRID}
    return axis | more


def _words(name: str) -> str:
    return "depth, share of usual" if name == "depth" else f"{name}, move"


def _factor_axis(name: str) -> dict:
    """Moves on a linear axis; depth, whose logarithm is the factor, on a logarithmic one."""
    return _axis(_words(name), tickformat=".0%", **({"type": "log", "dtick": "D2"} if name == "depth" else {}))


def _shown(name: str, values: list[float]) -> list[float]:
    """Log figures as a reader wants them."""
    return [math.exp(v) if name == "depth" else math.expm1(v) for v in values]


def _boundary(told: Mapping) -> Chart | None:
    """Where the system breaks in the plane of two factors, under lines of equal distance."""
    p = told["picture"]
    if p is None:
        return None
    x, y = (_shown(n, p[k]) for n, k in zip(p["factors"], ("across", "up"), strict=True))
    found = [_shown(n, [v])[0] for n, v in zip(p["factors"], p["found"], strict=True)]
    failed = [[any(v is None for v in of) for of in zip(*rows, strict=True)] for rows in zip(*p["metrics"].values(), strict=True)]
    hover = f"{_words(p['factors'][0])} %{{x:.3f}}<br>{_words(p['factors'][1])} %{{y:.3f}}<extra></extra>"
    fill = {
        "type": "heatmap",
        "x": x,
        "y": y,
        "z": [[1 if b else 0.5 if lost else 0 for b, lost in zip(*rows, strict=True)] for rows in zip(p["breaks"], failed, strict=True)],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#ffffff"], [0.5, plots.GRID], [1, "#f0b995"]],
        "showscale": False,
        "hovertemplate": hover,
    }
    lines = {
        "type": "contour",
        "x": x,
        "y": y,
        "z": p["distance"],
        "contours": {"coloring": "none", "showlabels": True, "start": 1, "end": max(2.0, 2 * told["distance"]), "size": _step(told["distance"])},
        "line": {"color": plots.PALETTE[0], "width": 1},
        "showscale": False,
        "hoverinfo": "skip",
    }
    here = {"color": plots.PALETTE[0], "width": 2.4}
    touching = lines | {
        "contours": {"coloring": "none", "showlabels": False, "start": told["distance"], "end": told["distance"], "size": 1},
        "line": here,
    }
    point = {"type": "scatter", "mode": "markers", "x": found[:1], "y": found[1:], "marker": {"size": 11, "color": plots.INK, "symbol": "diamond"}}
    point |= {"showlegend": False, "hovertemplate": "the shock: %{x:.3f}, %{y:.3f}<extra></extra>"}
    lost = sum(map(sum, failed))
    layout = plots.layout(460, top=16, **{k: _factor_axis(n) for k, n in zip(("xaxis", "yaxis"), p["factors"], strict=True)})
    layout["margin"]["b"] = 60
    caption = (
        f"Where the system breaks, by the hard rules on {len(x)} by {len(y)} shocks; all other factors as in the shock that was found. "
        f"Lines are of equal distance from the ordinary, the thick one that of the shock ({told['distance']:.2f}): it touches the breaking shocks "
        "at the nearest of them."
    )
    if lost:
        caption += f" Grey: {lost} runs failed."
    key = [("block", "#f0b995", "breaks"), ("solid", plots.PALETTE[0], "distance, in standard deviations"), ("block", plots.INK, "the shock found")]
    return Chart(f"{_words(p['factors'][0])} and {_words(p['factors'][1])}", "", caption, still([fill, lines, touching, point], layout), key)


def _step(distance: float) -> float:
    return max(1.0, math.ceil(distance / _DISTANCES))


def _rays(told: Mapping) -> list[Chart]:
    charts = []
    for c in told["conditions"]:
        x, y = told["ray"]["distance"], told["ray"][c["metric"]]
        fine = [v for v in y if v is not None]
        if not fine:
            continue
        low, high = min([*fine, c["bound"]]), max([*fine, c["bound"]])
        pad = 0.06 * (high - low) or 1.0
        line = {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "line": {"color": plots.PALETTE[0], "width": 1.8}, "showlegend": False}
        line |= {"hovertemplate": "%{x:.2f}: %{y:.4g}<extra></extra>"}
        bound = {"type": "scatter", "mode": "lines", "x": [x[0], x[-1]], "y": [c["bound"]] * 2, "showlegend": False, "hoverinfo": "skip"}
        bound |= {"line": {"color": plots.PALETTE[1], "width": 1.6, "dash": "dash"}}
        layout = plots.layout(300, top=16, xaxis=_axis("distance, in standard deviations"), yaxis=plots.value_axis(low - pad, high + pad, ""))
        layout["margin"]["b"] = 60
        caption = f"By the hard rules, in the direction of the shock; it lies at {told['distance']:.2f}."
        key = [("solid", plots.PALETTE[0], c["title"]), ("dashed", plots.PALETTE[1], f"bound, {c['bound']:g}")]
        charts.append(Chart(f"{c['title']} on the way to the shock", "", caption, still([line, bound], layout), key))
    return charts


def _search(told: Mapping) -> Html:
    names = told["factors"]["names"]
    rows = []
    for s in told["search"]["starts"]:
        moves = ["–"] * len(names) if s["shock"] is None else [_raw(n, x) for n, x in zip(names, s["shock"], strict=True)]
        rows.append([s["name"], _figure(s["distance"]), str(s["turns"]), _figure(s["alignment"]), *moves])
    note = (
        f"Begun in several directions: each is turned towards the gradient of a smoothed run as long as the boundary comes nearer on "
        f"the hard rules. Alignment: cosine of the angle between direction and gradient, 1 at a nearest point. Starts that end elsewhere are other "
        f"ways to break. "
        f"{told['search']['hard_runs']:,} hard runs, {told['search']['gradients']} gradients, {told['search']['failed_runs']} failed runs."
    )
    return section(
        "search", _SECTIONS["search"], tables.table(["Start", "Distance", "Turns", "Alignment", *names], rows), tag("p", note, class_="note")
    )


def _raw(name: str, x: float) -> str:
    if name == "depth":
        return f"{math.exp(x):.3g}"
    return f"{x:.2f}" if name == "correlation" else f"{math.expm1(x):+.1%}"


def _factors(told: Mapping) -> Html:
    f = told["factors"]
    rows = [[n, f"{s:.4g}", *(f"{c:.3f}" for c in row)] for (n, s), row in zip(f["standard_deviations"].items(), f["correlation"], strict=True)]
    depth = f["depth"]
    about = [("Title", f["title"]), ("Horizon", f"{f['horizon_minutes']:g} minutes")]
    if depth is not None:
        words = f"log factor with a standard deviation of {depth['standard_deviation']:g}; correlation with prices {depth['correlation']:g}"
        about.append(("Depth", words))
    if f["correlation_spread"]:
        about.append(("Correlation moves", f"Fisher's z of the average, by a standard deviation of {f['correlation_spread']:g}"))
    return section(
        "factors",
        _SECTIONS["factors"],
        facts(about),
        tables.table(["Log return of", "Standard deviation", *f["standard_deviations"]], rows),
        tag("h3", "Sources"),
        items(f["sources"]),
        tag("h3", "Assumptions"),
        items([*told["path"], *f["assumptions"]]),
    )


def page(told: Mapping) -> str:
    """`reverse.html`: one self-contained page. Args: `told` as `reverse.json` holds it."""
    numbers: Iterator[int] = count(1)
    made = told["provenance"]
    parts = {"verdict": _verdict(told)}
    if told["found"]:
        charts = [c for c in (_boundary(told), *_rays(told)) if c is not None]
        drawn = [sections.figure(c, next(numbers)) for c in charts]
        parts |= {"plausibility": _plausibility(told), "broke": _broke(told), "boundary": section("boundary", _SECTIONS["boundary"], drawn)}
    parts |= {
        "search": _search(told),
        "factors": _factors(told),
        "made": section(
            "made",
            _SECTIONS["made"],
            tag("pre", made["command"], class_="command"),
            tag("p", f"Seed {made['seed']}, {made['precision']}, {told['search']['accounts']:,} accounts."),
        ),
    }
    title = f"{told['system']}: reverse stress test"
    header = tag(
        "header",
        tag("h1", tag("span", "Reverse stress test", class_="kicker"), f"What breaks {told['system']}"),
        tag("p", " or ".join(told["breaks"]), class_="lead"),
    )
    main = tag("main", no_script(), contents((k, _SECTIONS[k]) for k in parts), *parts.values())
    footer = f"stresslev {made['stresslev_version']}, {created(made['created'])}"
    return frame_page(title, header, main, footer, "verdict")
