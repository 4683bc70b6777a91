"""The commands that use derivatives: `stresslev gradcheck` and `stresslev tune`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stresslev.cli_score import Sets
from stresslev.errors import InputError, Problem
from stresslev.write import atomically


def gradcheck_command(
    system: Annotated[str, typer.Argument(help="System file or the name of a shipped one.")],
    suite: Annotated[str, typer.Argument(help="Suite or scenario file, or the name of a shipped one.")],
    policy: Annotated[str | None, typer.Option("--policy", help="Policy whose parameters are moved; default: the suite's.")] = None,
    parameter: Annotated[
        list[str],
        typer.Option("--parameter", metavar="PATH", help="A number of the policy: caps.base, rules.volatility.gamma. Repeatable."),
    ] = [],  # noqa: B006
    objective: Annotated[list[str], typer.Option("--objective", help="Metric with a derivative. Repeatable.")] = [],  # noqa: B006
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample.")] = None,
    books: Annotated[int, typer.Option("--books", min=1, help="Books drawn, for the differences' error bars.")] = 3,
    step: Annotated[float, typer.Option("--step", min=1e-6, max=0.5, help="Share of a parameter by which differences move it.")] = 0.02,
    width: Annotated[
        list[float], typer.Option("--width", min=1e-6, help="Half width of the band, in health; repeat it to see how much it matters.")
    ] = [],  # noqa: B006
    precision: Annotated[int, typer.Option("--precision", help="32 or 64 bits.")] = 64,
    stepping: Annotated[str, typer.Option("--stepping", metavar="all|active|auto", help="Which accounts each step looks at.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for all figures.")] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Hold the derivatives that tuning uses against differences of the hard rules, on common random numbers."""
    from stresslev import cache, cli
    from stresslev.config.load import load_plan
    from stresslev.tuning.check import as_data, check_gradients

    cache.enable()
    if stepping not in ("all", "active", "auto"):
        raise InputError("--stepping", Problem("stepping", repr(stepping), "is no way of stepping", "use all, active or auto"))
    plan = load_plan(suite, system=system, policy=policy, accounts=accounts, precision=precision, overrides=set_)
    paths = parameter or ["maintenance_multiplier"]
    names = objective or ["bad_debt_over_open_interest", "liquidated_notional_share", "endogenous_fall"]
    file = policy or "policy"
    with cli._stoppable() as progress:
        checked = check_gradients(
            plan, paths, names, step=step, books=books, widths=width or (None,), stepping=stepping, file=file, progress=progress
        )
    for c in checked:
        table = Table(title=f"{c.scenario}: {c.objective} = {c.value:.4g}", title_justify="left")
        table.add_column("parameter (derivative times its value)")
        table.add_column("difference", justify="right")
        for w in c.widths:
            table.add_column(f"band {w:.3g}", justify="right")
        for i, p in enumerate(c.parameters):
            bar = "" if c.errors[i] != c.errors[i] else f" ± {c.errors[i]:.1g}"
            table.add_row(escape(p), f"{c.differences[i]:.4g}{bar}", *(f"{g:.4g}" for g in c.estimates[:, i]))
        table.add_row("cosine", "", *(f"{x:.4f}" for x in c.cosines))
        table.add_row("relative error", "" if c.noise != c.noise else f"± {c.noise:.2g}", *(f"{x:.3f}" for x in c.relative))
        table.add_row("value of the smoothed run", "", *(f"{x:.4g}" for x in c.smoothed))
        cli.out_console.print(table)
    if out is not None:
        with atomically(out) as temporary:
            temporary.write_text(json.dumps(as_data(checked), indent=1) + "\n", encoding="utf-8")
        cli.out_console.print(f"figures: {out}", highlight=False, markup=False, soft_wrap=True)


def tune_command(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(help="Experiment file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results; default results/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up an earlier search from its checkpoint beside the results.")] = False,
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample, instead of the file's.")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file, e.g. optimizer.steps=5. Repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Tune a policy's parameters by gradients, judge what is found by the hard rules, and write it all up. Exit code 1: not better out of sample."""
    from stresslev import cache, cli
    from stresslev.tuning.experiment import load_experiment, run_experiment
    from stresslev.tuning.results import EXPERIMENT_FILES, write
    from stresslev.write import folder_atomically

    cache.enable()
    loaded = load_experiment(experiment, accounts=accounts, overrides=set_)
    place = out or Path("results") / loaded.spec.name
    checkpoint = place.with_name(f"{place.name}.checkpoint")

    def told(line: str) -> None:
        cli.error_console.print(line, highlight=False, markup=False)

    # the place is tried before the work begins
    with cli._stoppable() as progress, folder_atomically(place, EXPERIMENT_FILES) as folder:
        outcome = run_experiment(loaded, checkpoint=checkpoint, resume=resume, progress=progress, told=told)
        data = write(outcome, folder, context.obj)
    checkpoint.unlink(missing_ok=True)
    cli.out_console.print(data["headline"], style="bold green" if data["better"] else "bold yellow", highlight=False)
    for line in [*data["sentences"], data["search"]]:
        cli.out_console.print(line, highlight=False, markup=False, soft_wrap=True)
    cli.out_console.print(f"report: {place / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    cli.out_console.print(f"policy: {place / 'policy.toml'}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(cli.WITHIN if data["better"] else cli.BREACHED)
