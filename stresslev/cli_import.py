"""`stresslev import`: public data of protocols as system files and books."""

import os
from pathlib import Path
from typing import Annotated

import typer

from stresslev.errors import InputError, Problem

import_app = typer.Typer(help="Make system files and books from public data of protocols.", no_args_is_help=True, rich_markup_mode=None)

Depth = Annotated[list[str], typer.Option("--depth", metavar="ASSET=USD", help="Flow that moves the price by 1%. Repeatable.")]
Volatility = Annotated[list[str], typer.Option("--volatility", metavar="ASSET=X", help="Reference volatility per year (0.5 is 50%). Repeatable.")]


def _by_asset(pairs: list[str], option: str) -> dict[str, float] | None:
    """ASSET=NUMBER pairs as a mapping; None when there are none. Raises InputError."""
    found: dict[str, float] = {}
    for text in pairs:
        asset, sign, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            sign = ""
        if not sign or not asset:
            raise InputError(option, Problem(text, "", "is not ASSET=NUMBER", f"write for example {option} WETH=1e7"))
        if asset in found:
            raise InputError(option, Problem(text, "", f"{asset} is given twice", "give it once"))
        found[asset] = value
    return found or None


def _check_targets(*targets: Path) -> None:
    """Refuse folders, and two outputs in one place, before anything is read or written. Raises InputError."""
    for target in targets:
        if target.is_dir():
            raise InputError(target, Problem("output", "", "is a folder", "name a file"))
    if len({t.resolve() for t in targets}) < len(targets):
        raise InputError(targets[0], Problem("output", "", "is named for two outputs", "name two files"))


def _tell(*lines: str) -> None:
    for line in lines:
        typer.echo(line)


def _told(path: Path, text: str) -> tuple[str, ...]:
    """What a system file holds, and what it supposes."""
    import tomllib

    data = tomllib.loads(text)
    [(name, pool)] = data["pools"].items()
    return f"{path}: pool {name}, reserves {', '.join(pool['reserves'])}", *(f"note: {line}" for line in data["assumptions"])


@import_app.command("aave")
def import_aave(
    file: Annotated[Path, typer.Argument(help="CSV of reserve parameters, one row per market and reserve.")],
    market: Annotated[str, typer.Option("--market", help="As the column market spells it, e.g. AaveV3Ethereum.")],
    out: Annotated[Path, typer.Option("--out", help="System file (TOML) to write.")],
    asset: Annotated[list[str] | None, typer.Option("--asset", help="Reserve to keep, by symbol. Repeatable; default: all of known depth.")] = None,
    emodes: Annotated[Path | None, typer.Option("--emodes", help="CSV of efficiency modes; default: the table's neighbour.")] = None,
    emode: Annotated[str | None, typer.Option("--emode", help="Id or label of an efficiency mode, which then is the pool.")] = None,
    depth: Depth = [],  # noqa: B006 (typer reads the default, nobody changes it)
    volatility: Volatility = [],  # noqa: B006
    supplied: Annotated[list[str], typer.Option("--supplied", metavar="ASSET=USD", help="Deposits in all. Repeatable.")] = [],  # noqa: B006
    borrowed: Annotated[list[str], typer.Option("--borrowed", metavar="ASSET=USD", help="Loans in all. Repeatable.")] = [],  # noqa: B006
    eth_price: Annotated[float | None, typer.Option("--eth-price", help="USD; V2 markets quote in ETH.")] = None,
    cap_share: Annotated[float, typer.Option("--cap-share", help="Share of supply and borrow caps in use where no totals are given.")] = 0.3,
    accounts: Annotated[int, typer.Option("--accounts", min=1, help="Borrowers to sample.")] = 100_000,
) -> None:
    """Make a system of one lending pool from a table of Aave reserve parameters."""
    from stresslev.importers import aave, system_file

    _check_targets(out)
    text = aave.system(
        file,
        market,
        assets=asset or None,
        emodes=emodes,
        emode=emode,
        depth_usd=_by_asset(depth, "--depth"),
        volatility=_by_asset(volatility, "--volatility"),
        supplied_usd=_by_asset(supplied, "--supplied"),
        borrowed_usd=_by_asset(borrowed, "--borrowed"),
        cap_share=cap_share,
        eth_price_usd=eth_price,
        accounts=accounts,
    )
    system_file.write(text, out)
    _tell(*_told(out, text))


@import_app.command("crvusd")
def import_crvusd(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet of loan states: market, debt_crvusd, collateral, n_bands.")],
    system_out: Annotated[Path, typer.Option("--system-out", help="System file (TOML) to write.")],
    out: Annotated[Path | None, typer.Option("--out", help="Book to write, CSV or Parquet; default: none, borrowers are sampled.")] = None,
    day: Annotated[int | None, typer.Option("--day", min=0, help="Loans of this day only, 0 to 92; default: of all days at once.")] = None,
    loans: Annotated[int | None, typer.Option("--loans", min=1, help="Draw so many loans with replacement; sampled: borrowers.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of that draw.")] = 2025,
    depth: Depth = [],  # noqa: B006
    volatility: Volatility = [],  # noqa: B006
) -> None:
    """Make a system of one lending pool, and a book, from states of crvUSD loans."""
    from stresslev.importers import crvusd, crvusd_system, system_file
    from stresslev.write import atomically

    _check_targets(system_out, *([] if out is None else [out]))
    states = crvusd.read(file)
    ltv, prices = crvusd.loan_to_value(states), crvusd.asset_prices()
    prices = {a: prices[a] for a in (*(crvusd.COLLATERAL[m] for m in states.markets), crvusd.DEBT)}
    figures = {"depth_usd": _by_asset(depth, "--depth"), "volatility": _by_asset(volatility, "--volatility")}
    if out is None:
        text = crvusd_system.system(states, ltv, prices, book_file=None, day=day, accounts=loans, **figures)
        system_file.write(text, system_out)
        _tell(*_told(system_out, text))
        return
    book = crvusd.book(states, ltv, prices, loans=loans, day=day, seed=seed)
    place = Path(os.path.relpath(out.resolve(), system_out.resolve().parent)).as_posix()
    text = crvusd_system.system(states, ltv, prices, book_file=place, **figures)
    with atomically(system_out) as system_file_new, atomically(out) as book_new:  # both or neither
        system_file_new.write_text(text, encoding="utf-8")
        crvusd.write_table(book, book_new)
    _tell(f"{out}: {book.num_rows // 2} loans", *_told(system_out, text))
