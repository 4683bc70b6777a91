"""How one measure is spread over generated paths: how likely it is to be worse than each value, with a band of confidence, and a histogram."""

from itertools import pairwise

from stresslev.metrics import LOWER, METRICS
from stresslev.report import plots, series, words
from stresslev.report.chart import Chart, still
from stresslev.report.inputs import Run

_COLOUR, _LIMIT = plots.PALETTE[0], plots.PALETTE[1]
_BAND = "rgba(0,114,178,0.22)"


def _scale(metric: str, largest: float) -> tuple[float, str]:
    """Factor and unit of an axis on which a measure lies."""
    if METRICS[metric].units == "USD":
        unit = plots.money_unit(largest)
        return 1 / unit.factor, unit.suffix
    share = METRICS[metric].units == "1" and words.metric_value(metric, 0.5).endswith("%")
    return (100.0, "%") if share else (1.0, "")


def charts(run: Run, name: str, said: dict) -> list[Chart]:
    """Of the measure by which the generator shows paths; none where all paths are alike."""
    found = said.get("histogram")
    if not found:
        return []
    bounds = [c.bound for c in run.sample_checks if c.scenario == name and c.metric == found["metric"]]
    return [*([_beyond(said, found, bounds)] if found.get("beyond") else []), _histogram(said, found)]


def _axis(metric: str, edges: list[float]) -> tuple[list[float], dict, float]:
    factor, suffix = _scale(metric, max(abs(e) for e in edges))
    title = {"text": METRICS[metric].title, "standoff": 6}
    return [factor * e for e in edges], {"showgrid": False, "ticksuffix": suffix, "title": title, "nticks": 6, "tickangle": 0}, factor


def _beyond(said: dict, found: dict, bounds: list[float]) -> Chart:
    metric, beyond = found["metric"], found["beyond"]
    x, across, factor = _axis(metric, found["edges"])
    value, low, high = ([max(b[k], 0.0) for b in beyond] for k in ("value", "low", "high"))
    suffix = across["ticksuffix"]
    edge = {"type": "scatter", "mode": "lines", "x": series.rounded(x), "showlegend": False}
    none = {"width": 0, "color": _COLOUR}
    shares = [series.rounded([100 * p for p in y]) for y in (low, high, value)]
    data = [
        edge | {"y": shares[0], "line": none, "hoverinfo": "skip"},
        edge | {"y": shares[1], "line": none, "fill": "tonexty", "fillcolor": _BAND, "hoverinfo": "skip"},
        edge | {"y": shares[2], "line": {"color": _COLOUR, "width": 2}, "hovertemplate": f"%{{y:.3~g}}% beyond %{{x:.4~g}}{suffix}<extra></extra>"},
    ]
    worse = "above" if METRICS[metric].better == LOWER else "below"
    key = [
        ("solid", _COLOUR, f"share of paths with a value {worse}"),
        ("band", _COLOUR, f"{words.percent(said['confidence'])} confidence, point by point"),
    ]
    for bound in bounds:
        line = {"x": [factor * bound] * 2, "y": [0, 100], "line": {"color": _LIMIT, "width": 1.6, "dash": "4px,3px"}, "hoverinfo": "skip"}
        data.append(edge | line)
        key.append(("dashed", _LIMIT, f"limit: {words.metric_value(metric, bound)}"))
    top = min(1.04 * 100 * max(high), 104)
    layout = plots.layout(300, top=16, xaxis=across, yaxis=plots.value_axis(0, top, "%"))
    layout["margin"]["b"] = 60
    places = [i for i, p in enumerate(value) if p > 0]
    last = places[-1] if worse == "above" else places[0]
    caption = f"Read: {words.percent(value[last])} of the paths ({words.percent(low[last])} to {words.percent(high[last])}) have a value {worse} "
    caption += f"{words.metric_value(metric, found['edges'][last])}. The band is for each value by itself, not for the whole line."
    title = f"How likely it gets worse: {_inside(metric)}"
    return Chart(title, f"share of paths with a value {worse} that on the horizontal axis{_weighted(said)}", caption, still(data, layout), key)


def _weighted(said: dict) -> str:
    return ", weighted back to the model" if "importance" in said else ""


def _histogram(said: dict, found: dict) -> Chart:
    metric, shares = found["metric"], found["shares"]
    edges, across, _ = _axis(metric, found["edges"])
    middle = [(a + b) / 2 for a, b in pairwise(edges)]
    bars = {
        "type": "bar",
        "x": series.rounded(middle),
        "y": series.rounded([100 * s for s in shares]),
        "width": [b - a for a, b in pairwise(edges)],
        "marker": {"color": _COLOUR},
        "hovertemplate": f"%{{x:.4~g}}{across['ticksuffix']}: %{{y:.3~g}}% of paths<extra></extra>",
        "showlegend": False,
    }
    layout = plots.layout(260, top=16, xaxis=across, yaxis=plots.value_axis(0, 108 * max(shares), "%"))
    layout["margin"]["b"] = 60
    most = max(range(len(shares)), key=lambda i: shares[i])
    ends = [words.metric_value(metric, found["edges"][i]) for i in (most, most + 1)]
    caption = (
        f"{words.percent(shares[most])} of {words.plural(said['paths'], 'path')} lie between {ends[0]} and {ends[1]}, more than in any other bar."
    )
    return Chart(
        f"Distribution of {_inside(metric)}", f"share of paths in each of {len(shares)} bars{_weighted(said)}", caption, still([bars], layout)
    )


def _inside(metric: str) -> str:
    """A title inside a sentence."""
    title = METRICS[metric].title
    return title[0].lower() + title[1:]
