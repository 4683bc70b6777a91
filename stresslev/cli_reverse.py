"""`stresslev reverse`: the most plausible shock that breaks a system."""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from stresslev.cli_score import Sets
from stresslev.errors import InputError, Problem

#: Factors when neither a file nor prices are named.
_SHIPPED = "factors/crypto_day.toml"


def reverse_command(
    context: typer.Context,
    system: Annotated[str, typer.Argument(help="System file or the name of a shipped one.")],
    breaks: Annotated[
        list[str], typer.Option("--breaks", metavar="CONDITION", help="What counts as a break: 'bad_debt_usd > 1e6'. Repeat it for any of several.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results; default results/reverse.")] = None,
    factors: Annotated[str | None, typer.Option("--factors", metavar="FILE", help="Factors file; default: the shipped crypto_day.")] = None,
    prices: Annotated[
        list[Path], typer.Option("--prices", metavar="FILE", help="Price file to fit factors to, instead of --factors. Repeatable.")
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    asset: Annotated[list[str], typer.Option("--asset", help="Name of each price file's asset, in their order; default: from the file's name.")] = [],  # noqa: B006
    symbol: Annotated[list[str], typer.Option("--symbol", metavar="ASSET=SYMBOL", help="Rows of a price file of several assets. Repeatable.")] = [],  # noqa: B006
    time_column: Annotated[str, typer.Option("--time-column", help="Column of times.")] = "ts",
    price_column: Annotated[str, typer.Option("--price-column", help="Column of prices.")] = "close",
    symbol_column: Annotated[str, typer.Option("--symbol-column", help="Column that tells several assets apart.")] = "symbol",
    horizon_minutes: Annotated[float, typer.Option("--horizon-minutes", min=1e-3, help="Of returns fitted to --prices.")] = 1440,
    like: Annotated[
        str | None, typer.Option("--like", metavar="SCENARIO", help="Scenario whose paths are scaled; default: a ramp of --ramp-minutes.")
    ] = None,
    ramp_minutes: Annotated[int, typer.Option("--ramp-minutes", min=1, help="Time within which the whole move comes.")] = 60,
    after_minutes: Annotated[int, typer.Option("--after-minutes", min=0, help="Time simulated after the move.")] = 60,
    step_minutes: Annotated[float, typer.Option("--step-minutes", min=1e-3, help="Length of a step.")] = 1,
    radius: Annotated[float, typer.Option("--radius", min=0.1, max=100, help="Standard deviations beyond which nothing is looked for.")] = 12,
    random_starts: Annotated[
        int, typer.Option("--random-starts", min=0, max=1000, help="Directions at random to begin with, besides the usual.")
    ] = 2,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="NAME,NAME", help="Factors of the boundary picture; default: those that move most.")
    ] = None,
    picture_points: Annotated[int, typer.Option("--picture-points", min=0, max=200, help="On each side of the picture; 0: none.")] = 13,
    policy: Annotated[str | None, typer.Option("--policy", help="Policy file, or the name of a shipped one.")] = None,
    accounts: Annotated[int | None, typer.Option("--accounts", min=1, help="Accounts to sample; default 20,000.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the sampled book and of the random starts.")] = None,
    precision: Annotated[int | None, typer.Option("--precision", help="32 or 64 bits.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up runs of an earlier sitting from the checkpoint beside the results.")] = False,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Find the most plausible shock that breaks a system, by gradients confirmed on the hard rules. Exit code 1: nothing within the radius does."""
    from stresslev import cache, cli
    from stresslev.reverse.conditions import several
    from stresslev.reverse.results import REVERSE_FILES, write
    from stresslev.reverse.study import reverse_stress
    from stresslev.write import folder_atomically

    conditions = several(breaks)
    columns = {"time_column": time_column, "price_column": price_column, "symbol_column": symbol_column}
    spec, file = _factors(factors, prices, asset, symbol, columns, horizon_minutes)
    ramp = {"ramp_minutes": ramp_minutes, "after_minutes": after_minutes, "step_minutes": step_minutes}
    plan = _plan(system, spec, like, ramp, {"policy": policy, "accounts": accounts, "seed": seed, "precision": precision, "overrides": set_})
    place = out or Path("results") / "reverse"
    checkpoint = place.with_name(f"{place.name}.checkpoint")
    cache.enable()

    def told(line: str) -> None:
        cli.error_console.print(line, highlight=False, markup=False)

    how = {"radius": radius, "random_starts": random_starts, "picture_of": picture, "picture_points": picture_points}
    with cli._stoppable() as progress, folder_atomically(place, REVERSE_FILES) as folder:
        found = reverse_stress(plan, conditions, spec, **how, checkpoint=checkpoint, resume=resume, progress=progress, told=told, file=file)
        data = write(found, folder, shlex.join(["stresslev", *context.obj]))
    checkpoint.unlink(missing_ok=True)
    cli.out_console.print(data["headline"], style="bold" if found.found else "bold yellow", highlight=False)
    for line in data["sentences"]:
        cli.out_console.print(line, highlight=False, markup=False, soft_wrap=True)
    cli.out_console.print(f"report: {place / 'reverse.html'}", highlight=False, markup=False, soft_wrap=True)
    if found.found:
        cli.out_console.print(f"run it again: stresslev run {place / 'suite.toml'}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(cli.WITHIN if found.found else cli.BREACHED)


def _factors(file: str | None, prices: list[Path], assets: list[str], symbols: list[str], columns: dict, horizon: float):
    """The factors, and what errors about them name. Raises InputError."""
    from stresslev.cli_calibrate import sources
    from stresslev.config.factors import FactorsSpec
    from stresslev.config.load import load_factors
    from stresslev.config.validation import validate

    if not prices:
        if assets or symbols:
            raise InputError("command line", Problem("--prices", "", "is missing: --asset and --symbol are about price files", "name the files"))
        return load_factors(file or _SHIPPED), file or _SHIPPED
    from stresslev.fits import factors as fits

    if file is not None:
        raise InputError("command line", Problem("--prices", "", "does not go with --factors", "give one of the two"))
    fitted = fits.fit(sources(prices, assets, symbols, columns), horizon_minutes=horizon, name="fitted")
    shipped = load_factors(_SHIPPED)
    # prices do not tell how depth moves
    fitted |= {"depth": shipped.depth.model_dump()}
    fitted["sources"] += [f"Depth: as in {shipped.name}. {s}" for s in shipped.sources if s.startswith("Depth")]
    fitted["assumptions"] += [a for a in shipped.assumptions if "depth" in a or "independent" in a]
    return validate(FactorsSpec, fitted, prices[0]), str(prices[0])


def _plan(system: str, spec, like: str | None, ramp: dict, more: dict):
    """The system under a scenario that is to be scaled. Raises InputError."""
    from stresslev.config.load import load_plan, load_system, resolve
    from stresslev.reverse.paths import ramp as ramp_of
    from stresslev.toml import toml_text

    found = resolve(system)
    if more["accounts"] is None and load_system(found).book.file is None and not any(s.startswith("system.book.") for s in more["overrides"]):
        more = more | {"accounts": 20_000}
    if like is not None:
        plan = load_plan(like, system=found, **more)
        if len(plan.given) != 1 or plan.generators:
            raise InputError("--like", Problem("scenario", like, "is not one scenario", "name a scenario file"))
        return plan
    steps = (ramp["ramp_minutes"] + ramp["after_minutes"]) / ramp["step_minutes"]
    if abs(steps - round(steps)) > 1e-9:
        text = f"{ramp['step_minutes']:g}"
        raise InputError("command line", Problem("--step-minutes", text, "does not divide ramp and after", "give a whole number of steps"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shock.toml"
        file.write_text(toml_text(ramp_of(spec, **ramp)), encoding="utf-8")
        return load_plan(file, system=found, **more)
