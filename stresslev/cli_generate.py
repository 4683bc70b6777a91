"""`stresslev generate`: paths of a generator to look at."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stresslev.cli_print import say
from stresslev.errors import InputError, Problem


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
        say(f"the correlation matrix asked for is none; the nearest one changes a correlation by up to {repair.distance:.3g}")
    if out is not None:
        say(f"paths: {out}")


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
