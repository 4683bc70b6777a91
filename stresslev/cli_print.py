"""What the command line prints of a run: tables of metrics, what generated paths say, the verdict."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

#: Metrics of a sample that the terminal shows, besides those with limits; all are in summary.json and the report.
_SHOWN = (
    *("bad_debt_over_open_interest", "deficit_over_open_interest", "adl_over_open_interest", "insurance_fund_fall", "insolvent_pools"),
    *("liquidated_accounts_share", "liquidated_notional_share", "amplification"),
)


def say(line: str) -> None:
    """One line on standard output, as it is."""
    from stresslev import cli  # whose commands print

    cli.out_console.print(line, highlight=False, markup=False, soft_wrap=True)


def number(value: float, units: str) -> str:
    """A metric's value in its units, short enough for a table."""
    if value is None or value != value:
        return "n/a"
    if units == "USD":
        for size, letter in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:,.2f} {letter} USD"
        return f"{value:,.0f} USD"
    if units == "1":
        return f"{value:.4g}"
    return f"{value:.0f}"


def print_results(title: str, metrics: dict[str, dict[str, float]], generated: dict[str, dict], findings, folder: Path) -> None:
    """Metrics by scenario and then by name, what generated paths say, what the limits say about all that, and where the report is."""
    from stresslev import cli
    from stresslev.metrics import METRICS

    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for name in metrics:
        table.add_column(escape(name), justify="right")
    bad = {(f.metric, f.scenario) for f in findings if f.breached}
    for key, metric in METRICS.items():
        cells = []
        for scenario, values in metrics.items():
            text = number(values.get(key), metric.units)
            cells.append(f"[bold red]{text} ![/]" if (key, scenario) in bad else text)
        table.add_row(metric.title, *cells)
    cli.out_console.print(table)
    print_samples(generated)
    for f in findings:
        if f.breached:
            metric = METRICS[f.metric]
            sign = "above" if f.side == "max" else "below"
            line = f"breached: {metric.title} in {f.scenario}: {number(f.value, metric.units)}, {sign} {f.bound:g}"
            say(line)
    if not findings:
        cli.out_console.print("no limits set")
    else:
        cli.out_console.print("LIMITS BREACHED" if bad else "within limits", style="bold red" if bad else "bold green")
    print_report(folder)


def print_report(folder: Path) -> None:
    """Where the report is, if there is one."""
    if (folder / "report.html").is_file():
        say(f"report: {folder / 'report.html'}")


def print_comparison(comparison, folder: Path) -> None:
    """The worst of all scenarios by measure and policy, and what is worse than under the first policy."""
    from stresslev import cli, policies
    from stresslev.metrics import MEASURES, METRICS

    found = {name: policies.measures(outcome) for name, outcome in comparison.outcomes.items()}
    table = Table(title=f"{comparison.outcomes[comparison.first].plan.title}: worst of {len(comparison.scenarios)}", title_justify="left")
    table.add_column("measure")
    for name in found:
        table.add_column(escape(name), justify="right")
    for key in (k for group in MEASURES.values() for k in group):
        values = {name: m[key]["worst"] for name, m in found.items() if key in m}
        if values:
            cells = [number(values.get(name), METRICS[key].units) for name in found]
            table.add_row(METRICS[key].title, *cells)
    checks = [f"{sum(f.breached for f in o.judged)} of {len(o.judged)}" if o.judged else "none set" for o in comparison.outcomes.values()]
    table.add_row("limits breached", *checks)
    cli.out_console.print(table)
    for one in policies.worse(comparison):
        for key, (value, first) in one.changes.items():
            metric = METRICS[key]
            line = f"worse under {one.policy}: {metric.title} in {one.scenario}: {number(value, metric.units)}, "
            line += f"under {comparison.first} {number(first, metric.units)}"
            say(line)
    for name, outcome in comparison.outcomes.items():
        print_samples(outcome.described, f"{name}: ")
    if comparison.breached:
        cli.out_console.print("LIMITS BREACHED", style="bold red")
    print_report(folder)


def print_samples(generated: dict[str, dict], policy: str = "") -> None:
    """What generated paths say, with intervals: a table for every generator.

    Args: `generated`, by generator what `monte_carlo.describe` gives; `policy`, what lines begin with where there are several.
    """
    from stresslev import cli
    from stresslev.metrics import METRICS

    for generator, said in generated.items():
        name = policy + generator
        level = said["levels"][0]
        share = f"{100 * said['confidence']:g}%"
        table = Table(title=f"{escape(policy + said['title'])}: {said['paths']:,} paths, {share} intervals", title_justify="left")
        table.add_column("metric")
        for column in ("mean", f"{100 * level:g}% quantile, bad side", "expected shortfall beyond"):
            table.add_column(column, justify="right")
        for metric in dict.fromkeys((*(entry["metric"] for entry in said["limits"]), *_SHOWN)):
            if metric in said["metrics"]:
                row = said["metrics"][metric]
                cells = (row["mean"], row["quantile"][str(level)], row["expected_shortfall"][str(level)])
                table.add_row(METRICS[metric].title, *(_cell(c, METRICS[metric].units) for c in cells))
        cli.out_console.print(table)
        for event in said["probabilities"]:
            title, units = METRICS[event["metric"]].title, METRICS[event["metric"]].units
            bound = number(event["bound"], units)
            chance = f"{event['value']:.3g} ({event['low']:.3g} to {event['high']:.3g})"
            say(f"{name}: probability of {title} {event['side']} {bound}: {chance}")
        for metric, change in said["differences_from_first_policy"].items():
            if metric in _SHOWN and change["value"] != 0:
                say(f"{name}: mean change of {METRICS[metric].title} from the first policy: {_cell(change, METRICS[metric].units)}")
        if "importance" in said:
            weight = said["importance"]
            say(f"{name}: importance sampling, {weight['effective_paths']:.4g} effective paths, largest weight {weight['largest_weight']:.3g}")
        if said["not_judged"]:
            say(f"{name}: not judged, since many paths do not keep single accounts: {', '.join(said['not_judged'])}")
        failed = f"; {said['failed']} failed and are left out" if said["failed"] else ""
        say(f"{name}: {said['stopped']}{failed}")


def _cell(interval: dict, units: str) -> str:
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    # in summary.json, an end that is not known is null
    ends = ("…" if x is None or abs(x) == float("inf") else number(x, units if units != "pools" else "1") for x in (low, high))
    return f"{number(value, units if units != 'pools' else '1')} ({' to '.join(ends)})"
