"""The command line: thin over the Python API.

Exit codes: 0 within limits, 1 breached, 2 bad input, 3 numerical failure, 70 a defect of stresslev or a lost process, 130 stopped.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import stresslev
from stresslev.cli_calibrate import calibrate_command
from stresslev.cli_contrast import compare_command, gate_command
from stresslev.cli_data import data_app
from stresslev.cli_editing import new_command, schema_command, validate_command
from stresslev.cli_generate import generate_command
from stresslev.cli_import import import_app
from stresslev.cli_print import number
from stresslev.cli_reverse import reverse_command
from stresslev.cli_score import score_command
from stresslev.cli_store import list_runs, show_command
from stresslev.cli_tune import gradcheck_command, tune_command
from stresslev.errors import InputError, NumericalFailure
from stresslev.processes import WORD as WORKER
from stresslev.processes import leave_word

WITHIN, BREACHED, BAD_INPUT, FAILED, DEFECT, STOPPED = 0, 1, 2, 3, 70, 130

app = typer.Typer(
    help="Stress tests of leveraged markets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
book_app = typer.Typer(help="Check, sample and inspect account books.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(book_app, name="book")
app.add_typer(import_app, name="import")
app.add_typer(data_app, name="data")


def _console(**kwargs) -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    console = Console(**kwargs)
    return console if console.is_terminal else Console(width=160, **kwargs)


out_console = _console()
error_console = _console(stderr=True)

Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. system.assets.BTC.depth_usd=1e8. Repeatable.")]
System = Annotated[
    str | None, typer.Option("--system", help="System file or the name of a shipped one; default: that of --prices-of, else three_perp_venues.")
]


def _version(value: bool) -> None:
    if value:
        out_console.print(f"stresslev {stresslev.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


@contextmanager
def _progress() -> Iterator:
    """A progress bar on the error stream; yields a callback for `run_plan`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console, transient=not error_console.is_terminal) as bar:
        tasks: dict[str, int] = {}
        told: dict[str, float] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(escape(stage), total=total)
            bar.update(tasks[stage], completed=done, total=total)
            if not error_console.is_terminal and (done == total or time.monotonic() - told.get(stage, 0.0) > 10):
                told[stage] = time.monotonic()
                error_console.print(f"{stage}: {done}/{total}", highlight=False, markup=False)

        yield report


@contextmanager
def _stoppable() -> Iterator:
    """A progress callback, as `_progress` yields. Asked to end, it ends as on Ctrl-C: nothing half-written stays behind."""
    asked: list[int] = []

    def stop(number, frame):
        asked.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with _progress() as progress:

        def show(stage: str, done: int, total: int) -> None:
            # an interrupt that falls into the interpreter's own housekeeping is lost there
            if asked:
                raise KeyboardInterrupt
            progress(stage, done, total)

        yield show


@app.command("run")
def run_command(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="Suite or scenario file, or the name of a shipped one.")] = "default.toml",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results; default results/NAME.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Folder of runs to add this one to, instead of --out; finished scenarios survive whatever happens.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute anew what the store already has.")] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Earlier run that the report holds this one against; default with --store: the last."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System file to use instead of the suite's.")] = None,
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the sampled book.")] = None,
    precision: Annotated[int | None, typer.Option("--precision", help="32 or 64 bits.")] = None,
    stepping: Annotated[
        str | None,
        typer.Option("--stepping", metavar="all|active|auto", help="Which accounts each step looks at; the results are the same."),
    ] = None,
    population: Annotated[
        str | None,
        typer.Option("--population", metavar="accounts|profile|auto", help="Accounts one by one, or a liquidation profile: approximate."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="auto|off|N", help="Runs of one structure that go through one program together.")
    ] = None,
    attribution: Annotated[
        bool | None, typer.Option("--attribution/--no-attribution", help="Also say which way losses travelled; default: as the suite says.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="Devices that share the accounts; default: all GPUs of the machine, else one. Of each process."),
    ] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="Processes on this machine that share the accounts.")] = None,
    policy: Annotated[
        list[str],
        typer.Option("--policy", metavar="FILE", help="Policy file, or the name of a shipped one; repeat it to compare policies with the first."),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    set_: Sets = [],  # noqa: B006
) -> None:
    """Run a suite or a scenario and write result.nc, summary.json and report.html; with several policies, a folder for each and their comparison."""
    from stresslev import cli_run
    from stresslev.config.load import load_plan

    more = {"accounts": accounts, "seed": seed, "precision": precision, "stepping": stepping, "population": population, "attribution": attribution}
    more["batch"] = int(batch) if batch is not None and batch.isdecimal() else batch
    plans = [load_plan(what, system=system, policy=p, overrides=set_, **more) for p in policy or (None,)]
    cli_run.check_baseline(plans, baseline)
    if store is not None:
        cli_run.check_store(plans, out, processes)
        raise typer.Exit(cli_run.stored(plans[0], store, devices, fresh, baseline))
    place = out or Path("results") / plans[0].name
    raise typer.Exit(
        cli_run.execute(cli_run.one(plans[0], place, baseline) if len(plans) == 1 else cli_run.several(plans, place), context.obj, devices, processes)
    )


@app.command()
def rerun(
    context: typer.Context,
    result: Annotated[Path, typer.Argument(help="Folder of an earlier run or the beginning of its name, or its result.nc.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the new results.")],
    exact: Annotated[bool, typer.Option("--exact", help="Exit code 1 also when any number is not the same, bit for bit.")] = False,
) -> None:
    """Run again exactly what an earlier result says it ran, and say whether the numbers are the same."""
    from stresslev import cli_run

    raise typer.Exit(cli_run.again(result, out, context.obj, exact))


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, or of a comparison of policies.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Earlier run to hold it against; default: the last of the same plan in its store.")
    ] = None,
) -> None:
    """Write report.html anew from result.nc and summary.json."""
    from stresslev import cli_run

    cli_run.write_report(folder, baseline)
    out_console.print(f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


@app.command("list")
def list_command(
    runs: Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="List the runs of a store instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --runs: their manifests as JSON.")] = False,
) -> None:
    """List the shipped suites, scenarios and systems, or the runs of a store."""
    from stresslev.config.load import read_toml, shipped_scenarios

    if runs is not None:
        raise typer.Exit(list_runs(runs, as_json))
    table = Table("file", "kind", "title", box=None)
    root = shipped_scenarios()
    for path in sorted(root.rglob("*.toml")):
        data = read_toml(path)
        title = data.get("title") or str(data.get("description", "")).strip().split(":")[0]
        table.add_row(str(path.relative_to(root)), data.get("kind", ""), escape(title[:90]))
    out_console.print(table)


def _book_context(system: str | None, scenario: str | None):
    """System and reference prices a book is valued at."""
    from stresslev import assemble
    from stresslev.config.load import DEFAULT_SYSTEM, load_plan, load_system
    from stresslev.errors import Problem
    from stresslev.opening import shock_of

    if scenario is not None:
        plan = load_plan(scenario, system=system)
        first = plan.scenarios[0]
        return plan.system, assemble.reference_prices(plan.system, shock_of(plan, first))
    system = system or DEFAULT_SYSTEM
    spec = load_system(system)
    marks = {n: a.price_usd or a.peg_usd for n, a in spec.assets.items()}
    marks |= {n: marks[n] or marks[a.receipt.underlying] for n, a in spec.assets.items() if a.receipt}
    missing = [n for n, price in marks.items() if price is None]
    if missing:
        fix = "set it in the system, or name a scenario with --prices-of whose starting prices serve as marks"
        raise InputError(system, [Problem(f"assets.{n}.price_usd", "", "is missing: a book is valued at present marks", fix) for n in missing])
    import numpy as np

    return spec, np.array(list(marks.values()))


PricesOf = Annotated[str | None, typer.Option("--prices-of", help="Scenario whose starting prices are the marks, when the system has none.")]


@book_app.command("check")
def book_check(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet of positions.")],
    system: System = None,
    prices_of: PricesOf = None,
) -> None:
    """Say what is wrong with a book, by row and column."""
    from stresslev.book.files import check

    spec, prices = _book_context(system, prices_of)
    with error_console.status("reading"):
        checked = check(file, spec, prices)
    for problem in checked.errors:
        error_console.print(f"error: {file}: {problem}", highlight=False, markup=False, soft_wrap=True)
    for problem in checked.warnings:
        error_console.print(f"warning: {file}: {problem}", highlight=False, markup=False, soft_wrap=True)
    if checked.book is None:
        raise typer.Exit(BAD_INPUT)
    _print_book(checked.book, f"{file}: {checked.rows} rows")


def _print_book(book, title: str) -> None:
    from stresslev.book.statistics import describe

    table = Table(title=title, title_justify="left")
    rows = describe(book)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "pool" else "right")
    for row in rows:
        units = ["USD" if c.endswith("USD") else "1" for c in row]
        table.add_row(
            *(
                number(v, u) if isinstance(v, float) else escape(f"{v:,}" if isinstance(v, int) else v)
                for v, u in zip(row.values(), units, strict=True)
            )
        )
    out_console.print(table)


@book_app.command("sample")
def book_sample(
    out: Annotated[Path, typer.Option("--out", help="CSV or Parquet to write.")],
    system: System = None,
    prices_of: PricesOf = None,
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample, instead of the system's.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 2025,
) -> None:
    """Draw a book from a system's sampler, whether or not the system has a book of its own, and write it as positions."""
    from stresslev.book import files
    from stresslev.book.sample import margined, sample
    from stresslev.config.pools import LendingSpec

    spec, prices = _book_context(system, prices_of)
    if accounts is not None:
        spec = spec.model_copy(update={"book": spec.book.model_copy(update={"accounts": accounts})})
    with error_console.status("sampling"):
        book = margined(sample(spec, seed).at_prices(prices), spec)
        files.write(book, out, tuple(isinstance(p, LendingSpec) for p in spec.pools.values()))
    _print_book(book, str(out))


@book_app.command("show")
def book_show(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet of positions.")],
    account: Annotated[str, typer.Argument(help="Name of the account.")],
    system: System = None,
    prices_of: PricesOf = None,
) -> None:
    """Equity, margin, health, liquidation and bankruptcy prices of one account."""
    from stresslev.book.files import read
    from stresslev.book.statistics import positions_of

    spec, prices = _book_context(system, prices_of)
    with error_console.status("reading"):
        book = read(file, spec, prices)
    for summary, positions in positions_of(book, spec, account):
        out_console.print(
            "  ".join(f"{k} {v:,.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in summary.items()), highlight=False, markup=False
        )
        table = Table(*positions[0]) if positions else Table("no positions")
        for row in positions:
            table.add_row(*("none" if v is None else f"{v:,.10g}" if isinstance(v, float) else escape(str(v)) for v in row.values()))
        out_console.print(table)


app.command("show")(show_command)
app.command("compare")(compare_command)
app.command("gate")(gate_command)
app.command("schema")(schema_command)
app.command("validate")(validate_command)
app.command("new")(new_command)
app.command("score")(score_command)
app.command("generate")(generate_command)
app.command("calibrate")(calibrate_command)
app.command("reverse")(reverse_command)
app.command("gradcheck")(gradcheck_command)
app.command("tune")(tune_command)


@app.command("doctor")
def doctor_command(
    what: Annotated[str, typer.Argument(help="Suite or scenario whose memory need to estimate.")] = "default.toml",
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts of the estimate.")] = None,
    precision: Annotated[int | None, typer.Option("--precision", help="32 or 64 bits.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System file to use instead of the suite's.")] = None,
    set_: Sets = [],  # noqa: B006 (typer reads the default, nobody changes it)
) -> None:
    """Versions, devices, self-checks, and the memory a run would need. Exit code 3 when a self-check fails."""
    from stresslev import doctor, memory
    from stresslev.config.load import load_plan
    from stresslev.opening import accounts_of

    plan = load_plan(what, system=system, overrides=set_, accounts=accounts, precision=precision)
    table = Table("package", "version", box=None)
    for name, version in doctor.versions().items():
        table.add_row(name, version)
    out_console.print(table)
    for device in doctor.devices():
        out_console.print(f"device: {device}", highlight=False)
    with error_console.status("self-checks"):
        checks = [doctor.miscompilation(), *doctor.precision()]
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[bold red]WRONG[/]"
        out_console.print(f"{mark} {escape(check.name)}: {escape(check.found)}", highlight=False, soft_wrap=True)
    n = accounts_of(plan)
    steps = max(s.steps for s in plan.scenarios)
    need = memory.plan_bytes(n, len(plan.system.assets), len(plan.system.pools), steps, plan.run.precision)
    have = memory.available()
    shown = "unknown" if have is None else f"{have / 2**30:.1f} GiB"
    line = f"memory: {plan.name} with {n:,} accounts in float{plan.run.precision} needs about {need / 2**30:.1f} GiB; available {shown}"
    out_console.print(line, highlight=False, soft_wrap=True)
    if have is not None and need > have:
        out_console.print("[bold red]not enough memory[/]: lower --accounts")
    raise typer.Exit(WITHIN if all(c.ok for c in checks) else FAILED)


def _print_problems(error: InputError) -> None:
    """Everything that is wrong with an input, with the line of a TOML file where it can be found there."""
    from stresslev.editing.place import place

    for problem in error.problems:
        error_console.print(f"error: {place(error.file, problem)}: {problem}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: turns errors into one clear message and an exit code."""
    # XLA warns at length about tuning flags of programs in the cache that are no features of the processor; must be said before it is loaded
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    lost = ""
    try:
        code = app(args=arguments, standalone_mode=False, obj=sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        _print_problems(error)
        code = BAD_INPUT
    except NumericalFailure as error:
        error_console.print(f"numerical failure: {error}", highlight=False, markup=False, soft_wrap=True)
        code = FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        # click's usage errors carry their own message; anything else is a defect, which must never look like a verdict
        if hasattr(error, "format_message"):
            error_console.print(f"error: {error.format_message()}", highlight=False, markup=False, soft_wrap=True)
            code = BAD_INPUT
        elif type(error).__name__ == "JaxRuntimeError" and WORKER in os.environ:
            # most likely a message to a process that is gone; whoever watches this one says so
            code, lost = DEFECT, f"{error}".splitlines()[0][:300]
        else:
            traceback.print_exc()
            error_console.print("this is a defect of stresslev, not of your input; please report the lines above", highlight=False)
            code = DEFECT
    code = code if isinstance(code, int) else WITHIN
    if WORKER in os.environ:
        leave_word(code, lost)
    if code == STOPPED:  # typer turns some interrupts into an exit of its own
        error_console.print("stopped; no result was written", highlight=False)
    sys.exit(code)
