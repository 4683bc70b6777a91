"""The section on generated scenarios: what many paths say, with intervals."""

from collections.abc import Iterator

from stresslev.metrics import MEASURES, METRICS
from stresslev.report import distribution, sections, tables, words
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


def _texts(metric: str, interval: dict) -> tuple[str, str]:
    """A value, and its interval."""

    def form(x):
        return words.metric_value(metric, x) if METRICS[metric].units != "pools" else words.decimal(x)

    return form(interval["value"]), _ends(interval, form)


def _cell(metric: str, interval: dict) -> Html:
    value, ends = _texts(metric, interval)
    return join(value, tag("span", ends, class_="bound"))


def _sample(run: Run, name: str, said: dict, numbers: Iterator[int]) -> Html:
    held = _judged(said)
    failed = f" {words.plural(said['failed'], 'path')} failed and left out." if said["failed"] else ""
    key = [("Model", said["model"].replace("_", " ")), ("Paths", words.count(said["paths"])), ("Seed", str(said["seed"]))]
    if "importance" in said:
        weight = said["importance"]
        key += [("Effective paths", words.decimal(weight["effective_paths"])), ("Largest weight", words.decimal(weight["largest_weight"]))]
    if said["correlation_repaired_by"]:
        key.append(("Correlations repaired by up to", words.decimal(said["correlation_repaired_by"])))
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
        _probabilities(said),
        [sections.figure(c, next(numbers)) for c in distribution.charts(run, name, said)],
        _figures(said, {c.metric for c in run.sample_checks if c.scenario == name}),
        tag("p", note, class_="note"),
        differences(said),
        [tag("h4", "Assumptions"), items(said["assumptions"])] if said["assumptions"] else None,
        [tag("h4", "Sources"), items(said["sources"])] if said["sources"] else None,
    ]
    return tag("div", *parts, data_scenario=name)


def _figures(said: dict, limited: set[str]) -> Html:
    """Every statistic of each measure with its interval, one below the other, which fits on any page."""
    bodies = []
    for metric in dict.fromkeys((*sorted(limited), *(n for group in MEASURES.values() for n in group), *_METRICS)):
        row = said["metrics"].get(metric)
        if row is None or (not METRICS[metric].matters(row["most"], row["least"]) and metric not in limited):
            continue
        told = [("mean", row["mean"])]
        told += [(f"{words.percent(x)} quantile", row["quantile"][str(x)]) for x in said["levels"]]
        told += [(f"shortfall beyond {words.percent(x)}", row["expected_shortfall"][str(x)]) for x in said["levels"]]
        title = tag("tr", tag("th", METRICS[metric].title, scope="rowgroup", colspan=3, class_="group"))
        lines = []
        for what, interval in told:
            value, ends = _texts(metric, interval)
            lines.append(tag("tr", tag("th", what, scope="row"), tag("td", value, class_="n"), tag("td", ends, class_="n")))
        bodies.append(tag("tbody", title, lines))
    head = tag("tr", tag("th", "Statistic", scope="col"), tag("th", "Value", scope="col", class_="n"), tag("th", "Interval", scope="col", class_="n"))
    caption = tag("caption", f"What {words.plural(said['paths'], 'path')} say, with {words.percent(said['confidence'])} intervals.")
    return tag("div", tag("table", caption, tag("thead", head), bodies, class_="dense"), class_="wide")


def limits(run: Run) -> Html | None:
    """Limits against what paths say, for the first page; nothing where none is held against paths."""
    if not run.sample_checks:
        return None
    rows = []
    for c in run.sample_checks:
        said = run.samples[c.scenario]
        mark = tag("span", "✕ breached" if c.breached else "✓ within", class_="mark")
        name = join(words.metric_title(c.metric), " ", tag("span", tables.bound_text(c.metric, c.side, c.bound), class_="bound"))
        about = join(said["title"], " ", tag("span", f"{_judged(said)} of {words.plural(said['paths'], 'path')}", class_="bound"))
        value = join(tag("span", words.value_against(c.metric, c.value, c.bound), class_="value"), " ", mark)
        cells = [tag("td", about), tag("td", value, class_=f"n {'breached' if c.breached else 'within'}")]
        rows.append(tag("tr", tag("th", name, scope="row"), cells, data_scenario=c.scenario, data_limit="breached" if c.breached else "kept"))
    head = tag("tr", tag("th", "Limit", scope="col"), tag("th", "Generated scenario", scope="col"), tag("th", "Value", scope="col", class_="n"))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="verdicts"), class_="wide")


def _judged(said: dict) -> str:
    """The statistic that limits are held against."""
    return _JUDGED[said["judged"]].format(level=words.percent(float(said["levels"][0])))


def sentences(run: Run) -> list[str]:
    """For the first page: how likely each limit is to be breached, by the paths of each generator."""
    told = []
    for said in run.samples.values():
        text = f"“{said['title']}” stands for {words.plural(said['paths'], 'path')} drawn from a model"
        events = [
            f"{_event(p)} with a probability of {words.percent(p['value'])} ({_ends(p, words.percent)})"
            for p in said["probabilities"]
            if p["is_limit"]
        ]
        told.append(f"{text}: {words.listing(events)}; limits are held against {_judged(said)}." if events else f"{text}.")
    return told


def _event(p: dict) -> str:
    """bad debt above 1 M USD."""
    title = words.metric_title(p["metric"])
    return f"{title[0].lower()}{title[1:]} {p['side']} {words.metric_value(p['metric'], p['bound'])}"


def _probabilities(said: dict) -> Html | None:
    if not said["probabilities"]:
        return None
    rows = []
    for p in said["probabilities"]:
        event = _event(p)
        event = event[0].upper() + event[1:]
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
