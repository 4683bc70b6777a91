"""The commands for those who write files: `stresslev schema`, `validate` and `new`."""

from pathlib import Path
from typing import Annotated

import typer


def schema_command(
    kind: Annotated[
        str | None, typer.Argument(help="system, scenario, generator, policy, suite, experiment or gate; default: one schema for all.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: print it.")] = None,
) -> None:
    """The JSON Schema of a kind of file, for editors."""
    from stresslev.editing.kinds import known
    from stresslev.editing.schema import schema
    from stresslev.results import json_text
    from stresslev.write import atomically

    text = json_text(schema(None if kind is None else known(kind, "command line", "KIND")))
    if out is None:
        print(text, end="")
        return
    with atomically(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def validate_command(
    files: Annotated[list[Path], typer.Argument(help="TOML files, or names of shipped ones.")],
    system: Annotated[str | None, typer.Option("--system", help="System that scenarios and policies are held against.")] = None,
) -> None:
    """Check files without running them: every problem with its line, key, value and fix. Exit code 2 when there is any."""
    from stresslev import cli
    from stresslev.editing.check import check_all

    right, wrong = check_all(files, system)
    for file, told in right:
        cli.out_console.print(f"ok: {file}: {told}", highlight=False, markup=False, soft_wrap=True)
    for error in wrong:
        cli._print_problems(error)
    raise typer.Exit(cli.BAD_INPUT if wrong else cli.WITHIN)


def new_command(
    kind: Annotated[str, typer.Argument(help="system, scenario, generator, policy, suite, experiment or gate.")],
    name: Annotated[str, typer.Argument(help="Its name; the file is called NAME.toml.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead.")] = None,
) -> None:
    """Write a file to begin with, which is valid as it is."""
    from stresslev import cli
    from stresslev.editing import template

    path = template.write(kind, name, out)
    cli.out_console.print(f"wrote {path}; check it with: stresslev validate {path}", highlight=False, markup=False, soft_wrap=True)
