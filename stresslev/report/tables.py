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


def table(head: Sequence, rows: Sequence[Sequence], *, text_columns: int = 1, caption: str | None = None) -> Html:
    """A table whose first column names its rows; columns after the first `text_columns` hold numbers."""
    header = tag("tr", [tag("th", h, scope="col", class_="n" if i >= text_columns else None) for i, h in enumerate(head)])
    body = []
    for first, *rest in rows:
        cells = [tag("td", c, class_="n" if i >= text_columns else None) for i, c in enumerate(rest, 1)]
        body.append(tag("tr", tag("th", first, scope="row"), cells))
    title = tag("caption", caption) if caption else None
    return tag("div", tag("table", title, tag("thead", header), tag("tbody", body)), class_="wide")


def link(scenario: Scenario) -> Html:
    """A scenario's title, leading to its section."""
    return tag("a", scenario.title, href=f"#scenario-{scenario.name}")


def _parts(run: Run) -> Iterator[tuple[Scenario, ...]]:
    for i in range(0, len(run.scenarios), ABREAST):
        yield run.scenarios[i : i + ABREAST]


def bound_text(check: Finding) -> str:
    """at most 0.5%."""
    return f"at {'most' if check.side == 'max' else 'least'} {words.metric_value(check.metric, check.bound, 12)}"


def _verdict_cell(check: Finding | None) -> Html:
    if check is None:
        return tag("td", "–", class_="n")
    value = tag("span", words.value_against(check.metric, check.value, check.bound), class_="value")
    mark = tag("span", "✕ breached" if check.breached else "✓ within", class_="mark")
    return tag("td", value, mark, class_="n breached" if check.breached else "n within")


def verdict(run: Run) -> Html:
    """Limits against scenarios, with marks that can be read without colour."""
    limits = list(dict.fromkeys((c.metric, c.side, c.bound, c.reason) for c in run.checks))
    found = {(c.metric, c.side, c.bound, c.reason, c.scenario): c for c in run.checks}
    tables = []
    for part in _parts(run):
        head = tag("tr", tag("th", "Limit", scope="col"), [tag("th", link(s), scope="col", class_="n") for s in part])
        body = []
        for limit in limits:
            cells = [found.get((*limit, s.name)) for s in part]
            example = next(c for c in run.checks if (c.metric, c.side, c.bound, c.reason) == limit)
            name = [words.metric_title(example.metric), tag("span", bound_text(example), class_="bound")]
            reason = tag("span", example.reason, class_="reason") if example.reason else None
            body.append(tag("tr", tag("th", *name, reason, scope="row"), [_verdict_cell(c) for c in cells]))
        tables.append(tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="verdicts"), class_="wide"))
    return join(tables)


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
        tables.append(table(["Metric", *(link(s) for s in part)], rows))
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
            tag("tr", tag("th", pool, scope="row"), [tag("td", _pool_cell(name, values[name]), class_="n") for name in columns])
            for pool, values in s.pools.items()
        ]
        groups.append(tag("tbody", title, rows))
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
