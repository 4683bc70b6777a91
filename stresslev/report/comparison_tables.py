"""The tables of a comparison of policies."""

import math
from collections.abc import Iterator

from stresslev.metrics import METRICS
from stresslev.report import words
from stresslev.report.comparison_inputs import Compared, Policy
from stresslev.report.comparison_words import verdict
from stresslev.report.markup import Html, join, tag
from stresslev.report.tables import ABREAST, link

#: What a single scenario's table shows, with headings short enough for a narrow column.
_SHORT = {
    "bad_debt_over_open_interest": "Bad debt / size",
    "deficit_over_open_interest": "All losses / size",
    "insurance_fund_fall": "Deepest fund fall",
    "amplification": "Amplification",
    "mean_allowed_leverage": "Leverage allowed",
    "mean_used_leverage": "Leverage used",
    "liquidated_accounts_share": "Accounts liquidated",
    "unnecessary_liquidation_share": "Would have survived",
    "forced_closing_over_open_interest": "Forced closing / size",
    "margin_called_over_open_interest": "Outside margin / size",
}
_BY_GROUP = {"mean_allowed_leverage": "allowed", "mean_used_leverage": "used", "liquidated_accounts_share": "liquidated"}


def _text(name: str, value: float) -> str:
    return "n/a" if math.isnan(value) else words.metric_value(name, value)


def _best(name: str, values: list[float]) -> list[bool]:
    """Which values are the best; none where all look the same."""
    known = [v for v in values if not math.isnan(v)]
    if not known or len({_text(name, v) for v in values}) == 1:
        return [False] * len(values)
    metric = METRICS[name]
    best = next(v for v in known if not any(metric.worse(v, other) for other in known))
    return [_text(name, v) == _text(name, best) for v in values]


def _cell(text: str, best: bool, *more) -> Html:
    mark = tag("span", "★ ", class_="mark", title="best") if best else None
    return tag("td", tag("strong", mark, text) if best else text, *more, class_="n best" if best else "n")


def _parts(compared: Compared) -> Iterator[tuple[Policy, ...]]:
    """Policies side by side; the first stands in every table."""
    others = compared.policies[1:]
    for i in range(0, max(len(others), 1), ABREAST - 1):
        yield (compared.first, *others[i : i + ABREAST - 1])


def _name(policy: Policy) -> Html:
    return tag("a", policy.title, href=f"#policy-{policy.name}")


def measures(compared: Compared) -> Html:
    """Every measure against every policy: the worst over scenarios and the mean, the best policy marked."""
    many = len(compared.scenarios) > 1
    found = []
    for part in _parts(compared):
        head = tag("tr", tag("th", "Measure", scope="col"), [tag("th", _name(p), scope="col", class_="n") for p in part])
        limits = tag("tr", tag("th", "Limits", scope="row"), [tag("td", verdict(p), class_="n") for p in part])
        bodies = [tag("tbody", limits)]
        for group, names in compared.measures.items():
            title = tag("tr", tag("th", group, scope="rowgroup", colspan=len(part) + 1, class_="group"))
            bodies.append(tag("tbody", title, [_row(compared, n, part, many) for n in names]))
        table = tag("table", tag("thead", head), bodies, class_="policies")
        found.append(tag("div", table, class_="wide"))
    text = "★ marks the best of all policies. "
    text += "Large figures are of the worst scenario of each measure, small ones the mean over scenarios. " if many else ""
    text += "More leverage is the better for its users; every other measure is better the lower it is."
    return join(found, tag("p", text, class_="note"))


def _row(compared: Compared, name: str, part: tuple[Policy, ...], many: bool) -> Html:
    best = dict(zip((p.name for p in compared.policies), _best(name, [p.worst(name) for p in compared.policies]), strict=True))
    cells = []
    for p in part:
        mean = tag("span", f"mean {_text(name, p.mean(name))}", class_="mean") if many else None
        cells.append(_cell(_text(name, p.worst(name)), best[p.name], mean))
    return tag("tr", tag("th", METRICS[name].title, scope="row"), cells)


def scenarios(compared: Compared) -> Html:
    """Policies against measures, scenario by scenario."""
    names = [n for n in _SHORT if compared.has(n)]
    head = tag("tr", tag("th", "Policy", scope="col"), [tag("th", _SHORT[n], scope="col", class_="n") for n in names])
    bodies = []
    for s in compared.scenarios:
        title = tag("tr", tag("th", s.title, scope="rowgroup", colspan=len(names) + 1, class_="group", id=f"scenario-{s.name}"))
        values = {n: [p.scenario(s.name).metrics.get(n, math.nan) for p in compared.policies] for n in names}
        best = {n: _best(n, values[n]) for n in names}
        rows = []
        for i, p in enumerate(compared.policies):
            cells = [_cell(_text(n, values[n][i]), best[n][i]) for n in names]
            rows.append(tag("tr", tag("th", p.title, scope="row"), cells))
        bodies.append(tag("tbody", title, rows))
    return tag("div", tag("table", tag("thead", head), bodies, class_="dense"), class_="wide")


def groups(compared: Compared) -> Html | None:
    """Users by size of account: leverage and liquidations, per policy and scenario; nothing where results know no groups."""
    known = {s.name: compared.first.groups(s.name) for s in compared.scenarios}
    names = list(next(iter(known.values())))
    columns = [m for m in _BY_GROUP if any(m in g for p in compared.policies for s in known for g in p.groups(s).values())]
    if not names or not columns:
        return None
    top = [tag("th", f"{g} accounts", scope="colgroup", colspan=len(columns), class_="n") for g in names]
    under = [tag("th", _BY_GROUP[m], scope="col", class_="n") for _ in names for m in columns]
    head = tag("thead", tag("tr", tag("th", "Policy", scope="col", rowspan=2), top), tag("tr", under))
    bodies = []
    for s in compared.scenarios:
        title = tag("tr", tag("th", link(s), scope="rowgroup", colspan=len(under) + 1, class_="group"))
        rows = []
        for p in compared.policies:
            by = p.groups(s.name)
            rows.append(
                tag(
                    "tr",
                    tag("th", p.title, scope="row"),
                    [tag("td", _text(m, by.get(g, {}).get(m, math.nan)), class_="n") for g in names for m in columns],
                )
            )
        bodies.append(tag("tbody", title, rows))
    return tag("div", tag("table", head, bodies, class_="dense"), class_="wide")


def definitions(compared: Compared) -> Html:
    """What each measure means."""
    names = [n for group in compared.measures.values() for n in group]
    return tag("dl", [[tag("dt", METRICS[n].title), tag("dd", METRICS[n].description + ".")] for n in names], class_="definitions")
