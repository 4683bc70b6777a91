"""The commands that read stores: `stresslev list --runs` and `stresslev show`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table


def _seconds(value) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _status(manifest) -> str:
    from stresslev.store.manifest import FINISHED

    return manifest.status if manifest.status == FINISHED else f"{manifest.status}, {manifest.finished} of {len(manifest.scenarios)}"


def list_runs(store: Path, as_json: bool) -> int:
    """Print the runs of a store; the exit code, 2 when the manifest of one cannot be read."""
    from stresslev import cli
    from stresslev.store.runs import listed

    found, wrong = listed(store)
    if as_json:
        print(json.dumps([m.as_data() for m in found], indent=2))
    elif not found:
        cli.out_console.print(f"no runs in {store}", highlight=False, markup=False)
    else:
        table = Table("run", "status", "verdict", "policy", "seed", "precision", "wall", "created", "version", box=None)
        for m in found:
            known = m.provenance
            row = [m.run, _status(m), m.verdict, known.get("policy", ""), known.get("seed", ""), known.get("precision", "")]
            row += [_seconds(known.get("wall_seconds")), known.get("created", ""), known.get("stresslev_version", "")]
            table.add_row(*(escape(str(x)) for x in row), style="red" if m.error or m.verdict == "breached" else None)
        cli.out_console.print(table)
    for error in wrong:
        cli._print_problems(error)
    return cli.BAD_INPUT if wrong else cli.WITHIN


#: What `show` says of a run, in this order, as far as its provenance has it.
_FACTS = ("created", "command", "policy", "seed", "precision", "configuration_hash", "code_hash", "stresslev_version", "python", "jax", "numpy")
_FACTS += ("xarray", "platform", "device", "devices")


def _facts(manifest, folder: Path) -> Table:
    table = Table("", "", box=None, show_header=False)
    rows = [("run", manifest.run), ("folder", folder), ("status", _status(manifest)), ("verdict", manifest.verdict), ("error", manifest.error)]
    rows += [("resumed", ", ".join(manifest.resumed)), *((key, manifest.provenance.get(key, "")) for key in _FACTS)]
    files = manifest.provenance.get("input_files_sha256", "{}")
    rows += [("wall time", _seconds(manifest.provenance.get("wall_seconds"))), ("data files", "\n".join(json.loads(files)))]
    for key, value in rows:
        if value != "":
            table.add_row(key.replace("_", " "), escape(str(value)))
    return table


def show_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run; the beginning of its name does where that is one run only.")],
) -> None:
    """Show a run: what it was, what it found, and what its limits say. Exit code 1 when a limit is breached."""
    from stresslev import cli, cli_print
    from stresslev.report.inputs import read
    from stresslev.store import manifest, unfinished
    from stresslev.store.runs import find

    waiting = unfinished.place(run.parent, run.name)
    if waiting.is_dir() and not run.exists():
        cli.out_console.print(_facts(manifest.read(waiting), waiting))
        return
    folder = find(run)
    found = read(folder)
    cli.out_console.print(_facts(manifest.read(folder), folder))
    cli_print.print_results(found.title, {s.name: s.metrics for s in found.scenarios}, found.samples, found.judged, folder)
    for scenario in found.scenarios:
        for notice in scenario.notices:
            cli.out_console.print(f"{scenario.name}: {notice}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(cli.BREACHED if any(c.breached for c in found.judged) else cli.WITHIN)
