"""`stresslev calibrate`: a model of prices fitted to price files, as a generator that is ready to run."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from stresslev.errors import InputError, Problem, did_you_mean

#: What is cut off the end of a symbol to get an asset's name.
_QUOTE = r"[-/_]?(USDT|USDC|BUSD|USD)(:.*)?$"


def calibrate_command(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="jump_diffusion, hawkes, garch, regime_switching, filtered_historical or block_bootstrap.", metavar="MODEL")
    ],
    files: Annotated[list[Path], typer.Argument(help="Price files: CSV, Parquet or the JSON of ccxt's fetchOHLCV.")],
    out: Annotated[Path, typer.Option("--out", help="Generator file (TOML) to write.")],
    asset: Annotated[list[str], typer.Option("--asset", help="Name of each file's asset, in their order; default: from the file's name.")] = [],  # noqa: B006
    symbol: Annotated[
        list[str], typer.Option("--symbol", metavar="ASSET=SYMBOL", help="Rows of one file that hold several assets. Repeatable; default: all.")
    ] = [],  # noqa: B006
    time_column: Annotated[str, typer.Option("--time-column", help="Column of times.")] = "ts",
    price_column: Annotated[str, typer.Option("--price-column", help="Column of prices.")] = "close",
    symbol_column: Annotated[str, typer.Option("--symbol-column", help="Column that tells several assets apart.")] = "symbol",
    step_minutes: Annotated[float | None, typer.Option("--step-minutes", min=1e-3, help="Steps to fit on and draw; default: the file's.")] = None,
    duration_minutes: Annotated[int | None, typer.Option("--duration-minutes", min=1, help="Length of a path; default: a day, or 24 steps.")] = None,
    paths: Annotated[int, typer.Option("--paths", min=1, help="How many the generator draws.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the paths.")] = 1,
    regimes: Annotated[int, typer.Option("--regimes", min=2, max=5, help="States, for regime_switching.")] = 2,
    name: Annotated[str | None, typer.Option("--name", help="Of the generator; default: the name of the file to write.")] = None,
) -> None:
    """Fit a model of prices to price files and write it as a generator, with standard errors where they come cheap."""
    from stresslev import cli
    from stresslev.config.generator import GeneratorSpec
    from stresslev.config.validation import validate
    from stresslev.fits.calibrate import METHODS, calibrate, text
    from stresslev.write import atomically

    if model not in METHODS:
        raise InputError("command line", Problem("MODEL", repr(model), "is no model of prices", did_you_mean(model, METHODS)))
    columns = {"time_column": time_column, "price_column": price_column, "symbol_column": symbol_column}
    chosen = sources(files, asset, symbol, columns)
    called = name or re.sub(r"[^A-Za-z0-9_.-]", "_", out.stem)
    settings = {"step_minutes": step_minutes, "duration_minutes": duration_minutes, "paths": paths, "seed": seed, "states": regimes}
    with cli.error_console.status("fitting"):
        data = calibrate(model, chosen, out=out, name=called, **settings)
        written = text(data, shlex.join(["stresslev", *context.obj]))
        # what is written is held against the specification before it appears
        import tomllib

        validate(GeneratorSpec, tomllib.loads(written), out)
        with atomically(out) as temporary:
            temporary.write_text(written, encoding="utf-8")
    _tell(data, out)


def _named(stem: str) -> str:
    """An asset's name from a file's name or a symbol: BTC from btcusdt_1h, SOL from SOL/USDT:USDT."""
    return re.sub(_QUOTE, "", stem.upper()) or stem.upper()


def sources(files: list[Path], names: list[str], symbols: list[str], columns: dict) -> dict:
    """Asset -> where its prices are. Raises InputError."""
    from stresslev.fits.calibrate import Source

    for file in files:
        if not file.is_file():
            raise InputError(file, Problem("file", "", "is no file", "check the path"))
    if symbols or (len(files) == 1 and not names):
        if len(files) > 1:
            raise InputError("--symbol", Problem("files", str(len(files)), "are too many for --symbol", "give one file, or --asset for each"))
        pairs = dict(_pair(s) for s in symbols) or {_named(s): s for s in _symbols(files[0], columns["symbol_column"])}
        if pairs:
            return {asset: Source(files[0], symbol=symbol, **columns) for asset, symbol in pairs.items()}
    names = names or [_named(re.split(r"[^A-Za-z0-9]", f.name)[0]) for f in files]
    if len(names) != len(files) or len(set(names)) < len(names):
        raise InputError("--asset", Problem("asset", ", ".join(names), f"does not name {len(files)} files", "give a name of its own for each file"))
    return {asset: Source(file, **columns) for asset, file in zip(names, files, strict=True)}


def _pair(text: str) -> tuple[str, str]:
    asset, sign, symbol = text.partition("=")
    if not sign or not asset or not symbol:
        raise InputError("--symbol", Problem(text, "", "is not ASSET=SYMBOL", "write for example --symbol BTC=BTCUSDT"))
    return asset, symbol


def _symbols(file: Path, column: str) -> list[str]:
    """Symbols in a file, in the order in which they appear; none where it has no such column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from stresslev.shocks.price_file import read_any

    table = read_any(file)
    return [str(s) for s in pc.unique(table[column].cast(pa.string())).to_pylist()] if column in table.column_names else []


def _tell(data: dict, out: Path) -> None:
    """The parameters, each with its standard error."""
    from rich.markup import escape
    from rich.table import Table

    from stresslev import cli

    known = data["calibration"]
    step, first, last = known["step_minutes"], known["first"][:10], known["last"][:10]
    title = f"{data['title']}: {known['returns']:,} returns of {step:g} minutes, {first} to {last}"
    table = Table(title=escape(title), title_justify="left")
    for column, side in (("parameter", "left"), ("estimate", "right"), ("standard error", "right")):
        table.add_column(column, justify=side)
    tables = {"model": data["model"], **{f"assets.{a}": t for a, t in data["assets"].items()}}
    for where, values in tables.items():
        for key, value in values.items():
            rows = value if isinstance(value, list) else [value]
            if not all(isinstance(x, int | float) or (isinstance(x, list) and isinstance(x[0], float)) for x in rows):
                continue
            error = known["standard_errors"].get(f"{where}.{key}")
            shown = ", ".join(f"{x:.6g}" if not isinstance(x, list) else "[" + ", ".join(f"{y:.4g}" for y in x) + "]" for x in rows)
            table.add_row(escape(f"{where}.{key}"), escape(shown), "" if error is None else f"{error:.2g}")
    cli.out_console.print(table)
    cli.out_console.print(f"generator: {out}", highlight=False, markup=False, soft_wrap=True)
