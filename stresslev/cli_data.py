"""`stresslev data`: prices and leverage tiers from exchanges, and tier dumps as tables of a system file."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from stresslev.errors import InputError, Problem, shorten

data_app = typer.Typer(help="Bring in prices and leverage tiers.", no_args_is_help=True, rich_markup_mode=None)

Symbols = Annotated[list[str], typer.Option("--symbol", metavar="NAME=SYMBOL", help="Contract to keep, and its name here. Repeatable; default: all.")]


def _time(text: str, option: str) -> int:
    """Unix milliseconds of a date or time. Raises InputError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            option, Problem("time", shorten(text), "is not a date or time", "write for example 2025-10-10 or 2025-10-10T12:00")
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _checked(out: Path, forms: tuple[str, ...]) -> None:
    """Refuse an output of unknown form before anything is fetched. Raises InputError."""
    if out.suffix.lower() not in forms:
        raise InputError("--out", Problem("file", str(out), "has no known ending", f"end it in one of {', '.join(forms)}"))


@data_app.command("fetch")
def fetch_command(
    exchange: Annotated[str, typer.Argument(help="Exchange, by its id in ccxt, e.g. binance.")],
    symbol: Annotated[str, typer.Argument(help="Market, as ccxt spells it, e.g. BTC/USDT or BTC/USDT:USDT.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .parquet, or .json as ccxt gives it.")],
    since: Annotated[str, typer.Option("--since", help="First time, UTC, e.g. 2025-01-01.")],
    until: Annotated[str | None, typer.Option("--until", help="Time to stop before, UTC; default: now.")] = None,
    timeframe: Annotated[str, typer.Option("--timeframe", help="Length of a bar: 1m, 5m, 1h, 1d and so on.")] = "1h",
) -> None:
    """Fetch price bars of one market through ccxt (pip install 'stresslev[data]'), for scenarios and `stresslev calibrate`."""
    from stresslev import cli
    from stresslev.importers import exchange as source

    _checked(out, source.FORMS)
    start = _time(since, "--since")
    end = int(datetime.now(UTC).timestamp() * 1000) if until is None else _time(until, "--until")
    if end <= start:
        raise InputError("--until", Problem("time", str(until), f"is not after --since {since}", "give a later one"))
    opened = source.opened(exchange)
    with cli.error_console.status(f"{exchange} {symbol}"):
        bars = source.fetch_bars(opened, symbol, timeframe, start, end)
    source.write_bars(bars, symbol, out)
    first, last = (datetime.fromtimestamp(b[0] / 1000, UTC).isoformat(timespec="minutes") for b in (bars[0], bars[-1]))
    typer.echo(f"prices: {out}, {len(bars):,} bars of {timeframe}, {first} to {last}")


@data_app.command("fetch-tiers")
def fetch_tiers_command(
    exchange: Annotated[str, typer.Argument(help="Exchange, by its id in ccxt, e.g. bybit.")],
    symbols: Annotated[list[str], typer.Argument(help="Contracts, as ccxt spells them, e.g. BTC/USDT:USDT.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, which [tiers.NAME] file = ... reads.")],
) -> None:
    """Fetch leverage tiers through ccxt (pip install 'stresslev[data]'), as far as the exchange gives them without a key."""
    from stresslev import cli
    from stresslev.importers import exchange as source
    from stresslev.write import atomically

    _checked(out, (".json",))
    opened = source.opened(exchange)
    with cli.error_console.status(exchange):
        found = source.fetch_tiers(opened, symbols)
    with atomically(out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"tiers: {out}, {len(found)} contracts")


@data_app.command("tiers")
def tiers_command(
    file: Annotated[Path, typer.Argument(help="Tier dump: JSON of ccxt's fetchLeverageTiers, or CSV.")],
    out: Annotated[Path, typer.Option("--out", help="TOML file with a table [tiers.NAME] for each contract, to be put into a system file.")],
    symbol: Symbols = [],  # noqa: B006 (typer reads the default, nobody changes it)
    price: Annotated[list[str], typer.Option("--price", metavar="COIN=USD", help="For contracts whose notionals are in a coin. Repeatable.")] = [],  # noqa: B006
) -> None:
    """Turn a tier dump into cited tables of a system file."""
    from stresslev.cli_import import _by_asset
    from stresslev.config.tiers import read_tiers
    from stresslev.importers.exchange import tiers_text
    from stresslev.write import atomically

    _checked(out, (".toml",))
    if not file.is_file():
        raise InputError(file, Problem("file", "", "is no file", "check the path"))
    names = {}
    for text in symbol:
        name, sign, contract = text.partition("=")
        if not sign or not name or not contract:
            raise InputError("--symbol", Problem(text, "", "is not NAME=SYMBOL", "write for example --symbol BTC=BTC/USDT:USDT"))
        names[contract] = name
    tables = read_tiers(file, list(names) or None, price_usd=_by_asset(price, "--price"))
    names = {s: names.get(s) or re.sub(r"[^A-Za-z0-9_-]+", "_", s) for s in tables}
    if len(set(names.values())) < len(names):
        raise InputError("--symbol", Problem("NAME", ", ".join(names.values()), "is given twice", "give every contract its own name"))
    with atomically(out) as temporary:
        temporary.write_text(tiers_text(tables, names), encoding="utf-8")
    typer.echo(f"tiers: {out}, {', '.join(names.values()) if len(names) <= 12 else f'{len(names)} contracts'}")
