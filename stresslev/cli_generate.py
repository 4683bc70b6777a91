"""`stresslev generate`: paths of a generator to look at; and what `stresslev run` prints about many paths."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stresslev.errors import InputError, Problem

#: Metrics of a sample that the terminal shows, besides those with limits; all are in summary.json and the report.
_SHOWN = (
    *("bad_debt_over_open_interest", "deficit_over_open_interest", "adl_over_open_interest", "insurance_fund_fall", "insolvent_pools"),
    *("liquidated_accounts_share", "liquidated_notional_share", "amplification"),
)


def generate_command(
    file: Annotated[str, typer.Argument(help="Generator file, or the name of a shipped one.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write the paths: .nc, .csv, or .toml for one path as a scenario; default: nowhere."),
    ] = None,
    paths: Annotated[int | None, typer.Option("--paths", min=1, help="How many, instead of the file's.")] = None,
    path: Annotated[int | None, typer.Option("--path", min=1, help="Only this one, by its number.")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. generator.seed=7. Repeatable.")] = [],  # noqa: B006
) -> None:
    """Draw paths from a generator without running them: statistics on the terminal, and the paths in a file."""
    from stresslev import cli
    from stresslev.config.load import load_generator
    from stresslev.shocks import export, generate

    if paths is not None and path is not None:
        raise InputError("command line", Problem("--path", str(path), "does not go with --paths", "give one of the two"))
    if out is not None and out.suffix.lower() not in export.FORMS:
        raise InputError("--out", Problem("file", str(out), "has no known ending", f"end it in one of {', '.join(export.FORMS)}"))
    if out is not None and out.suffix.lower() == ".toml" and path is None:
        raise InputError("--out", Problem("file", str(out), "is for one path", "say which with --path, or write .nc or .csv"))
    spec, source = load_generator(file, overrides=set_)
    numbers = [path] if path is not None else range(1, (paths or spec.paths) + 1)
    with cli.error_console.status("drawing"):
        drawn = export.paths_of(spec, numbers, source.parent)
        if out is not None:
            export.write(drawn, spec, out)
    _print_paths(drawn, spec)
    repair = generate.correlation(spec)
    if repair.distance:
        _say(f"the correlation matrix asked for is none; the nearest one changes a correlation by up to {repair.distance:.3g}")
    if out is not None:
        _say(f"paths: {out}")


def _say(line: str) -> None:
    from stresslev import cli

    cli.out_console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_paths(drawn, spec) -> None:
    from stresslev import cli
    from stresslev.shocks.export import describe

    n, steps = drawn.sizes["path"], drawn.sizes["time"] - 1
    table = Table(title=f"{escape(spec.title)}: {n:,} path{'s' if n > 1 else ''} of {steps:,} steps ({spec.model.kind})", title_justify="left")
    table.add_column("asset")
    rows = describe(drawn)
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for asset, row in rows.items():
        table.add_row(escape(asset), *("n/a" if x != x else f"{x:.3g}" for x in row.values()))
    cli.out_console.print(table)


def print_samples(outcome, policy: str = "") -> None:
    """What generated paths say, with intervals: a table for every generator. Args: `policy`, what lines begin with where there are several."""
    from stresslev import cli
    from stresslev.metrics import METRICS
    from stresslev.monte_carlo import describe

    for generator, sample in outcome.samples.items():
        said, name = describe(sample, outcome.plan.limits), policy + generator
        level = said["levels"][0]
        share = f"{100 * said['confidence']:g}%"
        table = Table(title=f"{escape(policy + said['title'])}: {said['paths']:,} paths, {share} intervals", title_justify="left")
        table.add_column("metric")
        for column in ("mean", f"{100 * level:g}% quantile, bad side", "expected shortfall beyond"):
            table.add_column(column, justify="right")
        for metric in dict.fromkeys((*(f.metric for f in sample.findings), *_SHOWN)):
            if metric in said["metrics"]:
                row = said["metrics"][metric]
                cells = (row["mean"], row["quantile"][str(level)], row["expected_shortfall"][str(level)])
                table.add_row(METRICS[metric].title, *(_cell(c, METRICS[metric].units) for c in cells))
        cli.out_console.print(table)
        for event in said["probabilities"]:
            title, units = METRICS[event["metric"]].title, METRICS[event["metric"]].units
            bound = cli._number(event["bound"], units)
            chance = f"{event['value']:.3g} ({event['low']:.3g} to {event['high']:.3g})"
            _say(f"{name}: probability of {title} {event['side']} {bound}: {chance}")
        for metric, change in said["differences_from_first_policy"].items():
            if metric in _SHOWN and change["value"] != 0:
                _say(f"{name}: mean change of {METRICS[metric].title} from the first policy: {_cell(change, METRICS[metric].units)}")
        if "importance" in said:
            weight = said["importance"]
            _say(f"{name}: importance sampling, {weight['effective_paths']:.4g} effective paths, largest weight {weight['largest_weight']:.3g}")
        if said["not_judged"]:
            _say(f"{name}: not judged, since many paths do not keep single accounts: {', '.join(said['not_judged'])}")
        failed = f"; {said['failed']} failed and are left out" if said["failed"] else ""
        _say(f"{name}: {said['stopped']}{failed}")


def _cell(interval: dict, units: str) -> str:
    from stresslev import cli

    value, low, high = (interval[k] for k in ("value", "low", "high"))
    ends = ("…" if abs(x) == float("inf") else cli._number(x, units if units != "pools" else "1") for x in (low, high))
    return f"{cli._number(value, units if units != 'pools' else '1')} ({' to '.join(ends)})"
