"""The tables of the report."""

from collections.abc import Iterator, Sequence

from stresslev.metrics import METRICS, Finding
from stresslev.report import words
from stresslev.report.inputs import Run, Scenario
from stresslev.report.markup import Html, join, tag

#: Most scenarios side by side; more go into a further table.
ABREAST = 5

_COMPARED = (
    "bad_debt_over_open_interest",
    "bad_debt_usd",
    "deficit_over_open_interest",
    "adl_over_open_interest",
    "deleveraged_notional_share",
    "socialised_over_open_interest",
    "insurance_fund_use",
    "insurance_fund_fall",
    "insolvent_pools",
    "credit_loss_usd",
    "redemption_shortfall",
    "margin_calls_usd",
    "liquidated_accounts_share",
    "liquidated_notional_share",
    "waiting_share",
    "amplification",
    "endogenous_move",
    "endogenous_fall",
    "largest_basis",
    "funding_paid_usd",
    "latent_deficit_over_open_interest",
    "peak_liquidation_rate",
    "unnecessary_liquidation_share",
    "forced_closing_over_open_interest",
    "margin_called_over_open_interest",
    "mean_allowed_leverage",
    "mean_used_leverage",
    "margin_peak_to_trough",
    "margin_largest_increase_1h",
    "margin_largest_increase_1d",
    "initial_margin_peak_to_trough",
    "initial_margin_largest_increase_1h",
    "initial_margin_largest_increase_1d",
)
#: Left out of the tables where every scenario has nothing of it: many systems lack what they measure.
_IF_ANY = {
    "deficit_over_open_interest",
    "adl_over_open_interest",
    "deleveraged_notional_share",
    "socialised_over_open_interest",
    "credit_loss_usd",
    "redemption_shortfall",
    "margin_calls_usd",
    "waiting_share",
    "largest_basis",
    "funding_paid_usd",
    "margin_called_over_open_interest",
    "mean_allowed_leverage",
    "mean_used_leverage",
    "margin_largest_increase_1h",
    "margin_largest_increase_1d",
    "initial_margin_largest_increase_1h",
    "initial_margin_largest_increase_1d",
}
#: Left out where every scenario has this value: nothing moved.
_NEUTRAL = {"margin_peak_to_trough": 1.0, "initial_margin_peak_to_trough": 1.0}
#: Below this a metric of `_IF_ANY` is rounding.
_ROUNDING = 1e-6
#: Metric of a pool -> a heading short enough for a narrow column.
_LOSSES = {
    "bad_debt_usd": "Bad debt",
    "bad_debt_over_open_interest": "Bad debt / size",
    "deficit_over_open_interest": "All losses / size",
    "adl_over_open_interest": "Deleveraged losses / size",
    "socialised_over_open_interest": "Socialised / size",
    "insurance_fund_use": "Fund use",
    "insurance_fund_fall": "Deepest fund fall",
    "credit_loss_usd": "Lost credit",
    "insolvent_pools": "Insolvent",
}
_FLOWS = {
    "liquidated_accounts_share": "Accounts liquidated",
    "liquidated_notional_share": "Notional liquidated",
    "deleveraged_notional_share": "Notional deleveraged",
    "peak_liquidation_rate": "Peak rate per step",
    "unnecessary_liquidation_share": "Would have survived",
    "waiting_share": "Without a taker",
    "latent_deficit_over_open_interest": "Unsettled / size",
    "largest_basis": "Largest gap to market",
    "margin_calls_usd": "Margin calls",
    "funding_paid_usd": "Funding paid",
}
_RESIDUALS = ("conservation_residual", "total_residual")


def table(
    head: Sequence, rows: Sequence[Sequence], *, text_columns: int = 1, caption: str | None = None, of: str | None = None, columns: Sequence[str] = ()
) -> Html:
    """A table whose first column names its rows; columns after the first `text_columns` hold numbers.

    Args: `of`, "pool" where rows are pools, by whose names they are filtered; `columns`, names of the scenarios whose columns the last ones are.
    """
    keys = [None] * (len(head) - len(columns)) + list(columns)

    def cell(name: str, i: int, content, **more) -> Html:
        return tag(name, content, class_="n" if i >= text_columns else None, data_scenario=keys[i], **more)

    header = tag("tr", [cell("th", i, h, scope="col") for i, h in enumerate(head)])
    body = []
    for first, *rest in rows:
        known = {f"data_{of}": first} if of else {}
        body.append(tag("tr", tag("th", first, scope="row"), [cell("td", i, c) for i, c in enumerate(rest, 1)], **known))
    title = tag("caption", caption) if caption else None
    return tag("div", tag("table", title, tag("thead", header), tag("tbody", body)), class_="wide", data_scenarios="\n".join(columns) or None)


def link(scenario: Scenario) -> Html:
    """A scenario's title, leading to its section."""
    return tag("a", scenario.title, href=f"#scenario-{scenario.name}")


def _parts(run: Run) -> Iterator[tuple[Scenario, ...]]:
    for i in range(0, len(run.scenarios), ABREAST):
        yield run.scenarios[i : i + ABREAST]


def bound_text(metric: str, side: str, bound: float) -> str:
    """at most 0.5%."""
    return f"at {'most' if side == 'max' else 'least'} {words.metric_value(metric, bound, 12)}"


def _verdict_cell(check: Finding | None, **more) -> Html:
    if check is None:
        return tag("td", "–", class_="n", **more)
    value = tag("span", words.value_against(check.metric, check.value, check.bound), class_="value")
    mark = tag("span", "✕ breached" if check.breached else "✓ within", class_="mark")
    return tag("td", value, " ", mark, class_="n breached" if check.breached else "n within", **more)


def _limit_name(check: Finding) -> Html:
    bound = tag("span", bound_text(check.metric, check.side, check.bound), class_="bound")
    return join(words.metric_title(check.metric), " ", bound, [" ", tag("span", check.reason, class_="reason")] if check.reason else None)


def verdict(run: Run) -> Html:
    """Limits against scenarios, with marks that can be read without colour, the most often breached first.

    Few limits over many scenarios have a column each.
    """
    limits = {(c.metric, c.side, c.bound, c.reason): c for c in reversed(run.checks)}
    limits = dict(reversed(limits.items()))
    found = {(c.metric, c.side, c.bound, c.reason, c.scenario): c for c in run.checks}
    if len(run.scenarios) > ABREAST >= len(limits):
        return _scenarios_down(run, limits, found)
    tables = []
    for part in _parts(run):
        head = tag("tr", tag("th", "Limit", scope="col"), [tag("th", link(s), scope="col", class_="n", data_scenario=s.name) for s in part])
        body = []
        for limit, example in sorted(limits.items(), key=lambda pair: -sum(c.breached for key, c in found.items() if key[:4] == pair[0])):
            cells = {s.name: found.get((*limit, s.name)) for s in part}
            broken = any(c is not None and c.breached for c in cells.values())
            shown = [_verdict_cell(c, data_scenario=name) for name, c in cells.items()]
            body.append(tag("tr", tag("th", _limit_name(example), scope="row"), shown, data_limit="breached" if broken else "kept"))
        whole = tag("table", tag("thead", head), tag("tbody", body), class_="verdicts")
        tables.append(tag("div", whole, class_="wide", data_scenarios="\n".join(s.name for s in part)))
    return join(tables)


def _scenarios_down(run: Run, limits: dict, found: dict) -> Html:
    """A row for each scenario, those with breaches first."""
    head = tag("tr", tag("th", "Scenario", scope="col"), [tag("th", _limit_name(c), scope="col", class_="n") for c in limits.values()])
    rows = []
    for s in run.scenarios:
        cells = [found.get((*limit, s.name)) for limit in limits]
        broken = sum(c is not None and c.breached for c in cells)
        row = tag("tr", tag("th", link(s), scope="row"), [_verdict_cell(c) for c in cells], data_scenario=s.name)
        rows.append((-broken, row))
    body = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="verdicts many"), class_="wide")


def comparison(run: Run) -> Html:
    """Metrics against scenarios."""
    breached = {(c.metric, c.scenario) for c in run.checks if c.breached}
    tables = []
    for part in _parts(run):
        rows = []
        for name in (n for n in _COMPARED if _happened(run, n)):
            cells = []
            for s in part:
                text = words.metric_value(name, s.metrics[name])
                cells.append(tag("strong", tag("span", "✕ ", class_="mark"), text) if (name, s.name) in breached else text)
            rows.append([METRICS[name].title, *cells])
        tables.append(table(["Metric", *(link(s) for s in part)], rows, columns=[s.name for s in part]))
    note = tag("p", "✕ marks a value that breaches a limit.", class_="note") if breached else None
    return join(tables, note)


def _happened(run: Run, name: str) -> bool:
    """Whether a metric is worth a line: always, or where it is not zero in every scenario."""
    if not all(name in s.metrics for s in run.scenarios):
        return False
    still = 0.0 if name in _IF_ANY else _NEUTRAL.get(name)
    return still is None or any(abs(s.metrics[name] - still) > _ROUNDING for s in run.scenarios)


def _pool_cell(name: str, value: float) -> str:
    if name == "insolvent_pools":
        return "✕ yes" if value > 0 else "no"
    return words.metric_value(name, value)


def pools(run: Run) -> Html:
    """Every pool in every scenario: losses and who bore them, and what was closed and moved."""
    return join(_pools(run, _LOSSES, "Losses, and what they did to the pools."), _pools(run, _FLOWS, "What was liquidated, and what moved."))


def _pools(run: Run, chosen: dict[str, str], caption: str) -> Html:
    columns = {name: title for name, title in chosen.items() if _happened(run, name)}
    head = tag("tr", tag("th", "Pool", scope="col"), [tag("th", title, scope="col", class_="n") for title in columns.values()])
    groups = []
    for s in run.scenarios:
        title = tag("tr", tag("th", link(s), scope="rowgroup", colspan=len(columns) + 1, class_="group"))
        rows = [
            tag("tr", tag("th", pool, scope="row"), [tag("td", _pool_cell(name, values[name]), class_="n") for name in columns], data_pool=pool)
            for pool, values in s.pools.items()
        ]
        groups.append(tag("tbody", title, rows, data_scenario=s.name))
    return tag("div", tag("table", tag("caption", caption), tag("thead", head), groups, class_="dense"), class_="wide")


def has_infinite(run: Run) -> bool:
    """Whether a table shows a share of nothing."""
    values = [v for s in run.scenarios for group in (s.metrics, *s.pools.values()) for v in group.values()]
    return any(v == float("inf") for v in values)


def health(run: Run) -> Html:
    """Residuals against the tolerance of the precision."""
    tolerance = float(run.attributes["residual_tolerance"])
    rows = [
        [
            link(s),
            words.plural(s.data.sizes["time"] - 1, "step"),
            *(words.scientific(s.metrics[r]) for r in _RESIDUALS),
            words.scientific(tolerance),
            _status(s, tolerance),
        ]
        for s in run.scenarios
    ]
    return table(["Scenario", "Length", "Worst step", "Whole run", "Tolerance", "Status"], rows)


def _status(scenario: Scenario, tolerance: float) -> str:
    notices = words.plural(len(scenario.notices), "notice") if scenario.notices else "no notices"
    within = all(scenario.metrics[r] <= tolerance for r in _RESIDUALS)
    return f"{'✓ within' if within else '✕ above'} tolerance, {notices}"


def definitions() -> Html:
    """What each metric means."""
    return tag("dl", [[tag("dt", m.title), tag("dd", m.description + ".")] for m in METRICS.values()], class_="definitions")
