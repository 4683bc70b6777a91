"""The commands that hold one run against another: `stresslev compare` and `stresslev gate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table


def _write(path: Path, text: str) -> None:
    from stresslev.write import atomically

    with atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _tell(line: str, style: str | None = None) -> None:
    from stresslev import cli

    cli.out_console.print(line, highlight=False, markup=False, soft_wrap=True, style=style)


_STYLES = {"worse": "red", "better": "green"}


def compare_command(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run, or the beginning of its name; or a summary.json by itself.")],
    run_b: Annotated[Path, typer.Argument(help="The run that is held against it.")],
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
    everything: Annotated[bool, typer.Option("--all", help="Also what does not differ.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, instead of tables.")] = False,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write the comparison into this file.")] = None,
) -> None:
    """What differs between two runs: metrics, and what of it is noise; limits; versions and configuration."""
    from stresslev import cli
    from stresslev.contrast import words
    from stresslev.contrast.differences import compare
    from stresslev.results import json_text

    found = compare(run_a, run_b, confidence)
    if markdown is not None:
        _write(markdown, words.markdown(found, everything))
    if as_json:
        print(json_text(words.as_data(found)), end="")
        return
    table = Table(*words.heads(found), title=f"{found.b.name} against {found.a.name}", title_justify="left")
    for column in table.columns[2:6]:
        column.justify = "right"
    for row in words.rows(found, everything):
        table.add_row(*map(escape, row), style=_STYLES.get(row[-1]))
    cli.out_console.print(table if table.rows else "no metric differs")
    for line in words.sentences(found):
        _tell(line)
    for title, head, rows in (
        ("limits", words.LIMIT_HEADS, words.limit_rows(found, everything)),
        ("provenance", ["key", "A", "B"], words.unlike(found.provenance)),
        ("configuration", ["key", "A", "B"], words.unlike(found.configuration)),
    ):
        if rows:
            inner = Table(*head, title=title, title_justify="left", box=None)
            for row in rows:
                inner.add_row(*map(escape, row))
            cli.out_console.print(inner)


def gate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or the beginning of its name; or a summary.json by itself.")],
    baseline: Annotated[Path, typer.Option("--baseline", help="The run it must not be worse than, given likewise.")],
    tolerances: Annotated[Path | None, typer.Option("--tolerances", help='TOML file of kind "gate": metrics and tolerances.')] = None,
    relative: Annotated[
        float | None, typer.Option("--relative", min=0, help="Share of the baseline's value by which a metric may be worse; default 0.01.")
    ] = None,
    absolute: Annotated[float | None, typer.Option("--absolute", min=0, help="What it may be worse by in any case, in its own unit.")] = None,
    metric: Annotated[list[str], typer.Option("--metric", help="Metric to hold against the baseline. Repeatable.")] = [],  # noqa: B006
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the checks as JUnit XML into this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a summary into this file.")] = None,
) -> None:
    """For CI: exit code 0 when a run keeps its limits and is not worse than a baseline by more than is tolerated, 1 when not, 2 for bad input."""
    from stresslev import cli
    from stresslev.config.gate import GateSpec
    from stresslev.config.validation import validate
    from stresslev.contrast import gate
    from stresslev.contrast.junit import xml

    spec = GateSpec(kind="gate") if tolerances is None else gate.load_gate(tolerances)
    given = {"relative": relative, "absolute": absolute, "metrics": tuple(metric) or None}
    given = {key: value for key, value in given.items() if value is not None}
    spec = validate(GateSpec, spec.model_dump() | given, "command line")
    gate.check_names(spec, "command line")
    verdict = gate.judge(run, baseline, spec)
    if junit is not None:
        _write(junit, xml(verdict))
    if markdown is not None:
        _write(markdown, gate.markdown(verdict))
    for check in verdict.broken:
        _tell(f"{check.scenario}: {check.name}: {check.told}")
    for line in gate.notes(verdict):
        _tell(line)
    _tell(gate.headline(verdict), "bold green" if verdict.passed else "bold red")
    raise typer.Exit(cli.WITHIN if verdict.passed else cli.BREACHED)
