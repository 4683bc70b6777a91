"""The section on generated scenarios: what many paths say, with intervals."""

from collections.abc import Iterator

from stresslev.metrics import MEASURES, METRICS
from stresslev.report import chart, plots, sections, tables, words
from stresslev.report.frame import facts, items, section
from stresslev.report.inputs import Run
from stresslev.report.markup import Html, join, tag

TITLE = "Generated scenarios"
_JUDGED = {
    "mean": "the mean",
    "quantile": "the {level} quantile towards the bad side",
    "expected_shortfall": "the expected shortfall beyond the {level} quantile",
    "worst": "the worst path",
}
#: Metrics of the table, as far as there are any; the others are in summary.json.
_METRICS = ("bad_debt_usd", "adl_over_open_interest", "socialised_over_open_interest", "liquidated_notional_share", "endogenous_move")


def part(run: Run, numbers: Iterator[int]) -> Html | None:
    """The section; nothing where nothing was generated."""
    if not run.samples:
        return None
    return section("generated", TITLE, [_sample(run, name, said, numbers) for name, said in run.samples.items()])


def _ends(interval: dict, form) -> str:
    low, high = (interval[k] for k in ("low", "high"))
    if low is None and high is None:
        return "too few paths for an interval"
    return f"{'…' if low is None else form(low)} to {'…' if high is None else form(high)}"


def _cell(metric: str, interval: dict) -> Html:
    def form(x):
        return words.metric_value(metric, x) if METRICS[metric].units != "pools" else words.decimal(x)

    return join(form(interval["value"]), tag("span", _ends(interval, form), class_="bound"))


def _sample(run: Run, name: str, said: dict, numbers: Iterator[int]) -> Html:
    level = str(said["levels"][0])
    percent = words.percent(float(level))
    held = _JUDGED[said["judged"]].format(level=percent)
    failed = f" {words.plural(said['failed'], 'path')} failed and left out." if said["failed"] else ""
    key = [("Model", said["model"].replace("_", " ")), ("Paths", words.count(said["paths"])), ("Seed", str(said["seed"]))]
    if "importance" in said:
        weight = said["importance"]
        key += [("Effective paths", words.decimal(weight["effective_paths"])), ("Largest weight", words.decimal(weight["largest_weight"]))]
    if said["correlation_repaired_by"]:
        key.append(("Correlations repaired by up to", words.decimal(said["correlation_repaired_by"])))
    limited = [c.metric for c in run.sample_checks if c.scenario == name]
    rows = []
    for metric in dict.fromkeys((*limited, *(n for group in MEASURES.values() for n in group), *_METRICS)):
        row = said["metrics"].get(metric)
        if row is None or (row["least"] == row["most"] and metric not in limited):
            continue
        rows.append(
            [
                METRICS[metric].title,
                _cell(metric, row["mean"]),
                *(_cell(metric, row["quantile"][str(x)]) for x in said["levels"]),
                *(_cell(metric, row["expected_shortfall"][str(x)]) for x in said["levels"]),
            ]
        )
    shares = [words.percent(x) for x in said["levels"]]
    head = ["Metric", "Mean", *(f"{s} quantile" for s in shares), *(f"Shortfall beyond {s}" for s in shares)]
    methods = "; ".join(f"{what.replace('_', ' ')}: {how}" for what, how in said["methods"].items())
    note = "Quantiles and shortfalls look to the bad side of a metric. Measures that are the same on every path are left out. "
    note += f"Intervals: {methods}."
    if said.get("not_judged"):
        note += f" Not judged, since many paths do not keep single accounts: {words.listing([words.metric_title(n) for n in said['not_judged']])}."
    parts = [
        tag("h3", said["title"]),
        [tag("p", p) for p in words.paragraphs(said["description"])],
        facts(key, class_="numbers"),
        tag("p", f"Stopped: {said['stopped']}.{failed} Limits are held against {held}."),
        _limits(run, name),
        _probabilities(said),
        sections.figure(_histogram(said), next(numbers)) if said.get("histogram") else None,
        tables.table(head, rows, caption=f"What {words.plural(said['paths'], 'path')} say, with {words.percent(said['confidence'])} intervals."),
        tag("p", note, class_="note"),
        differences(said),
        [tag("h4", "Assumptions"), items(said["assumptions"])] if said["assumptions"] else None,
        [tag("h4", "Sources"), items(said["sources"])] if said["sources"] else None,
    ]
    return tag("div", *parts)


def _limits(run: Run, name: str) -> Html | None:
    checks = [c for c in run.sample_checks if c.scenario == name]
    if not checks:
        return None
    rows = [
        [
            words.metric_title(c.metric),
            tables.bound_text(c),
            words.value_against(c.metric, c.value, c.bound),
            "✕ breached" if c.breached else "✓ within",
        ]
        for c in checks
    ]
    return tables.table(["Limit", "Bound", "Value", "Verdict"], rows, caption="Limits.")


def _probabilities(said: dict) -> Html | None:
    if not said["probabilities"]:
        return None
    rows = []
    for p in said["probabilities"]:
        event = f"{words.metric_title(p['metric'])} {p['side']} {words.metric_value(p['metric'], p['bound'])}"
        paths = f"{p['paths']:,} of {said['paths'] - said['failed']:,}"
        rows.append([event, words.percent(p["value"]), _ends(p, words.percent), paths])
    return tables.table(["Event", "Probability", "Interval", "Paths drawn"], rows, caption="How likely limits are breached, and other events.")


def differences(said: dict) -> Html | None:
    """Mean change of each measure from the first policy, path by path; nothing where nothing changed or there is no other policy."""
    changed = {n: d for n, d in said["differences_from_first_policy"].items() if d["value"] != 0 and n in METRICS}
    named = [n for group in MEASURES.values() for n in group if n in changed]
    if not named:
        return None
    rows = [[METRICS[n].title, _cell(n, changed[n])] for n in named]
    return tables.table(["Metric", "Mean change"], rows, caption=f"{said['title']}: against the first policy, on the same paths.")


def _histogram(said: dict) -> chart.Chart:
    """How one metric is spread over paths."""
    h = said["histogram"]
    metric = METRICS[h["metric"]]
    middle = [(a + b) / 2 for a, b in zip(h["edges"], h["edges"][1:], strict=False)]
    data = [
        {
            "type": "bar",
            "x": middle,
            "y": h["shares"],
            "width": [b - a for a, b in zip(h["edges"], h["edges"][1:], strict=False)],
            "marker": {"color": plots.PALETTE[0]},
            "hovertemplate": "%{x:.4~g}: %{y:.2%} of paths<extra></extra>",
            "showlegend": False,
        }
    ]
    axes = {"xaxis": {"showgrid": False, "title": {"text": metric.title}, "tickformat": ".3~g"}}
    axes["yaxis"] = plots.value_axis(0, 1.08 * max(h["shares"]), "", tickformat=".0%")
    layout = plots.layout(300, top=16, **axes)
    layout["margin"]["b"] = 60
    weighted = ", weighted back to the model" if "importance" in said else ""
    return chart.Chart(
        metric.title, "share of paths", f"Distribution over {words.plural(said['paths'], 'path')}{weighted}.", chart.still(data, layout)
    )
