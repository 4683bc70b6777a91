"""A lending pool from a table of Aave reserve parameters.

Parameters and prices are the protocol's own. Depth, volatility and totals are not in such a table: they are the caller's, or defaults that the file
lists among its assumptions.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.importers.system_file import (
    AT_PAR,
    FIGURES,
    FOLLOWS,
    IMMEDIATE,
    ROOTS,
    asset_names,
    asset_of,
    check_names,
    checked,
    exogenous,
    figure,
)
from stresslev.tables import read_table
from stresslev.toml import Inline, toml_text

_TEXT = ("market", "date", "symbol")
_FLAGS = ("borrowing", "collateral", "frozen")
_SHARES = ("ltv", "liq_threshold", "liq_bonus", "liq_protocol_fee", "reserve_factor")
_RATES = ("optimal_usage", "base_rate", "slope1", "slope2")
_NUMBERS = (*_SHARES, "oracle_price_usd", *_RATES)
_OPTIONAL = ("supply_cap", "borrow_cap", "emode")
_EMODE_COLUMNS = ("market", "id", "label", "ltv", "lt", "bonus")
#: Share of a debt that one liquidation may repay, and the health factor below which all of it may be (Aave V3, DEFAULT_LIQUIDATION_CLOSE_FACTOR and
#: CLOSE_FACTOR_HF_THRESHOLD of LiquidationLogic). V2 has the first only.
CLOSE_FACTOR, FULL_BELOW = 0.5, 0.95
#: V2 oracles quote in ETH to 18 places; read with the 8 places of a dollar oracle, one ETH becomes 1e10.
_ONE_ETH = 1e10


@dataclass(frozen=True)
class Reserve:
    """One row of the table: shares as fractions, bonus on top of one, price as the oracle gives it."""

    name: str  # the symbol; a second reserve of the same symbol gets _2
    ltv: float
    threshold: float
    bonus: float
    protocol_fee: float
    reserve_factor: float
    price: float
    optimal: float
    base: float
    slope1: float
    slope2: float
    borrowable: bool
    collateral: bool
    frozen: bool
    supply_cap: float | None  # coins
    borrow_cap: float | None  # coins
    emode: int | None


def _cell(row: Mapping, column: str, number: int, found: list[Problem], *, optional: bool = False) -> float | None:
    text = (row.get(column) or "").strip()
    if not text and optional:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        what = "is empty" if not text else "is not a number of at least zero"
        found.append(Problem(f"row {number}, column {column}", shorten(text) if text else "", what, "give a plain number"))
        return None
    return value


def _flag(row: Mapping, column: str, number: int, found: list[Problem]) -> bool:
    text = (row.get(column) or "").strip().lower()
    if text not in ("true", "false"):
        found.append(Problem(f"row {number}, column {column}", shorten(text), "is neither True nor False", "give one of the two"))
    return text == "true"


def _rows(path: Path, columns: Sequence[str]) -> list[dict]:
    """The table as text. Raises InputError for missing columns."""
    table = read_table(path, text=True)
    missing = [c for c in columns if c not in table.column_names]
    if missing:
        raise InputError(path, [Problem(f"column {c}", "", "is missing", f"give the columns {', '.join(columns)}") for c in missing])
    return [{k: None if v is None else str(v) for k, v in row.items()} for row in table.cast(_as_text(table.schema)).to_pylist()]


def _as_text(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(f.name, pa.string()) for f in schema])


def markets(path: str | Path) -> tuple[str, ...]:
    """Names of the markets of a table, in its order. Raises InputError."""
    return tuple(dict.fromkeys(row["market"] or "" for row in _rows(Path(path), _TEXT)))


def read(path: str | Path, market: str) -> tuple[str, tuple[Reserve, ...]]:
    """Date and reserves of one market.

    Raises:
      InputError: missing columns, an unknown market, or cells that are no numbers, by row and column.
    """
    path = Path(path)
    rows = _rows(path, (*_TEXT, *_FLAGS, *_NUMBERS))
    chosen = [(n, row) for n, row in enumerate(rows, start=1) if row["market"] == market]
    if not chosen:
        raise InputError(path, Problem("market", repr(market), "is not in the file", did_you_mean(market, {r["market"] or "" for r in rows})))
    found: list[Problem] = []
    reserves = []
    times: Counter = Counter()
    for number, row in chosen:
        symbol = (row["symbol"] or "").strip()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", symbol):
            found.append(Problem(f"row {number}, column symbol", shorten(symbol), "is no name", "use letters, digits, dot, dash and underscore"))
            continue
        times[symbol] += 1
        values = [_cell(row, c, number, found) for c in _NUMBERS]
        caps = [_cell(row, c, number, found, optional=True) for c in _OPTIONAL]
        flags = [_flag(row, c, number, found) for c in _FLAGS]
        if None in values:
            continue
        for column, value in zip(_SHARES, values, strict=False):
            if value > 1:
                what = "is above 1: shares are fractions, not percent or basis points"
                found.append(Problem(f"row {number}, column {column}", f"{value:g}", what, "give a fraction"))
        if values[5] == 0:
            found.append(Problem(f"row {number}, column oracle_price_usd", "0", "is not above zero", "give the price"))
        name = symbol if times[symbol] == 1 else f"{symbol}_{times[symbol]}"
        reserves.append(Reserve(name, *values, *flags, caps[0] or None, caps[1] or None, None if caps[2] is None else int(caps[2])))
    if found:
        raise InputError(path, found)
    return chosen[0][1]["date"] or "", tuple(reserves)


def _emode(path: Path, market: str, wanted: int | str) -> tuple[int, str, float, float, float]:
    """Id, label, ltv, threshold and bonus of one category. Raises InputError."""
    rows = [(n, r) for n, r in enumerate(_rows(path, _EMODE_COLUMNS), start=1) if r["market"] == market]
    labels = {str(r["id"]): r["label"] or "" for _, r in rows}
    found: list[Problem] = []
    for number, row in rows:
        if str(wanted) in (row["id"], row["label"]):
            code, ltv, threshold, bonus = (_cell(row, c, number, found) for c in ("id", "ltv", "lt", "bonus"))
            if found:
                raise InputError(path, found)
            return int(code), row["label"] or "", ltv, threshold, bonus
    known = [*labels, *labels.values()]
    what = f"is no efficiency mode of {market}"
    raise InputError(path, Problem("emode", repr(wanted), what, did_you_mean(str(wanted), known) if known else "leave it out: the market has none"))


def _in_usd(reserves: tuple[Reserve, ...], eth_price_usd: float | None, path: Path) -> tuple[tuple[Reserve, ...], str]:
    """Reserves of a market whose oracle quotes in ETH, in USD, and how."""
    usdc = next((r.price for r in reserves if r.name == "USDC"), None)
    if eth_price_usd is None and usdc is None:
        what = "is needed: the oracle of this market quotes in ETH, and it lists no USDC to tell the dollar by"
        raise InputError(path, Problem("eth_price_usd", "", what, "give the price of ETH"))
    eth = figure(eth_price_usd, "ETH", None if usdc is None else 1 / usdc, "eth_price_usd", path)
    how = f"ETH is at {eth:.2f} USD" + (" (one USDC taken for one dollar)" if eth_price_usd is None else " (given)")
    return tuple(replace(r, price=eth * (1.0 if r.price == _ONE_ETH else r.price)) for r in reserves), how


def _reserve_table(reserve: Reserve, totals: dict[str, float]) -> dict:
    usable = reserve.collateral and reserve.threshold > 0 and not reserve.frozen
    # a rate that does not depend on use has no kink; the table puts it at zero
    optimal = 0.8 if reserve.slope1 == reserve.slope2 == 0 else reserve.optimal
    return {
        "ltv": _round(reserve.ltv if usable else 0.0),
        "liquidation_threshold": _round(reserve.threshold if usable else 0.0),
        "bonus": _round(reserve.bonus if usable else 0.0),
        "collateral": usable,
        "borrowable": reserve.borrowable and not reserve.frozen,
        "reserve_factor": _round(reserve.reserve_factor),
        "rate": Inline(optimal=_round(optimal), base=_round(reserve.base), slope1=_round(reserve.slope1), slope2=_round(reserve.slope2)),
        **totals,
    }


def _round(value: float) -> float:
    """Drop the dust that the table's subtraction of one left (0.050000000000000044)."""
    return round(value, 10)


def _totals(reserve: Reserve, cap_share: float, supplied: Mapping[str, float], borrowed: Mapping[str, float]) -> dict[str, float]:
    """USD supplied and borrowed: given, else a share of the caps, with use kept at 90% of the kink or less."""
    out = {}
    if reserve.name in supplied:
        out["supplied_usd"] = supplied[reserve.name]
    elif reserve.supply_cap and not reserve.frozen:
        out["supplied_usd"] = float(round(cap_share * reserve.supply_cap * reserve.price))
    if reserve.name in borrowed:
        out["borrowed_usd"] = borrowed[reserve.name]
    elif "supplied_usd" in out and reserve.borrowable and not reserve.frozen:
        most = 0.9 * reserve.optimal * out["supplied_usd"]
        cap = math.inf if reserve.borrow_cap is None else cap_share * reserve.borrow_cap * reserve.price  # a cap of zero is no cap
        out["borrowed_usd"] = float(round(min(most, cap)))
    return out


def _choose(path: Path, market: str, reserves: tuple[Reserve, ...], assets: Sequence[str] | None, depth_usd) -> tuple[tuple[Reserve, ...], list[str]]:
    """The reserves to keep and what to say about the rest. Raises InputError for unknown names."""
    by_name = {r.name: r for r in reserves}
    if assets is not None:
        unknown = [a for a in assets if a not in by_name]
        if unknown:
            raise InputError(path, [Problem("assets", repr(a), f"is no reserve of {market}", did_you_mean(a, by_name)) for a in unknown])
        return tuple(by_name[a] for a in dict.fromkeys(assets)), []
    given = set(depth_usd) if isinstance(depth_usd, Mapping) else set(by_name) if depth_usd is not None else set()
    kept = [r for r in reserves if not r.frozen and (r.name in given or _figures(r.name) is not None)]
    left = sorted(set(by_name) - {r.name for r in kept})
    return tuple(kept), [f"Left out (frozen, or of no known market depth): {', '.join(left)}."] if left else []


def _figures(name: str):
    return FIGURES.get(asset_of(name))


def system(
    path: str | Path,
    market: str,
    *,
    assets: Sequence[str] | None = None,
    emodes: str | Path | None = None,
    emode: int | str | None = None,
    depth_usd: Mapping[str, float] | float | None = None,
    volatility: Mapping[str, float] | float | None = None,
    impact_exponent: Mapping[str, float] | float | None = None,
    supplied_usd: Mapping[str, float] | None = None,
    borrowed_usd: Mapping[str, float] | None = None,
    cap_share: float = 0.3,
    eth_price_usd: float | None = None,
    accounts: int = 100_000,
) -> str:
    """A system file with one Aave market as a lending pool.

    Args:
      path: CSV with columns market, date, symbol, ltv, liq_threshold, liq_bonus, liq_protocol_fee, reserve_factor, borrowing, collateral, frozen,
        oracle_price_usd, optimal_usage, base_rate, slope1, slope2, and where known supply_cap, borrow_cap (coins), emode.
      market: as the column `market` spells it.
      assets: reserves to keep; None keeps those that are not frozen and whose depth is given or known.
      emodes: CSV of efficiency modes (market, id, label, ltv, lt, bonus); None: the table's neighbour of the same name with `emodes` for `reserves`.
      emode: id or label of a mode: the pool then is that of the accounts in it, with its reserves and its parameters only.
      depth_usd, volatility, impact_exponent: by asset, or one number for all; they override the defaults.
      supplied_usd, borrowed_usd: totals by asset, for the sampler; where not given, `cap_share` of the caps.
      cap_share: share of supply and borrow caps that is assumed to be in use.
      eth_price_usd: for V2 markets, whose oracle quotes in ETH; None takes one USDC for one dollar.
      accounts: to sample.

    Returns:
      TOML text.

    Raises:
      InputError: as `read` does; unknown asset or mode; an asset without a depth; figures that make no system.
    """
    path = Path(path)
    date, reserves = read(path, market)
    v2 = market.lower().startswith("aavev2")
    notes = []
    if v2:
        reserves, how = _in_usd(reserves, eth_price_usd, path)
        notes.append(f"The oracle of this market quotes in ETH; {how}.")
    label, listed = "", reserves
    if emode is not None:
        source = Path(emodes) if emodes is not None else path.with_name(path.name.replace("reserves", "emodes"))
        number, label, ltv, threshold, bonus = _emode(source, market, emode)
        reserves = tuple(replace(r, ltv=ltv, threshold=threshold, bonus=bonus) if r.collateral else r for r in reserves if r.emode == number)
        notes.append(
            f"Only accounts in efficiency mode {number} ({label}) are in this pool: they may borrow its reserves only, under its parameters."
        )
    chosen, left = _choose(path, market, reserves, assets, depth_usd)
    names = [r.name for r in chosen]
    for given, key in ((depth_usd, "depth_usd"), (volatility, "volatility"), (impact_exponent, "impact_exponent")):
        check_names(given, [r.name for r in reserves], key, path)
    for given, key in ((supplied_usd, "supplied_usd"), (borrowed_usd, "borrowed_usd")):
        check_names(given, names, key, path)
        for asset in given or {}:
            figure(given, asset, None, key, path)
    if isinstance(cap_share, bool) or not isinstance(cap_share, int | float) or not 0 <= cap_share <= 1:
        raise InputError(path, Problem("cap_share", shorten(cap_share), "is no share", "give a number from 0 to 1"))
    if not any(r.collateral and r.threshold > 0 and not r.frozen for r in chosen) or not any(r.borrowable and not r.frozen for r in chosen):
        what = "leaves no collateral or nothing to borrow"
        raise InputError(path, Problem("assets", ", ".join(names), what, "name at least one reserve that is collateral and one that can be borrowed"))
    fees = Counter(r.protocol_fee for r in chosen if r.collateral)
    fee = fees.most_common(1)[0][0]
    odd = sorted(f"{r.name} {r.protocol_fee:g}" for r in chosen if r.collateral and r.protocol_fee != fee)
    if odd:
        notes.append(f"The protocol's share of the bonus is one figure for the pool, {fee:g}; of these reserves it is another: {', '.join(odd)}.")
    twice = sorted(n for n in names if re.search(r"_\d+$", n))
    if twice:
        notes.append(f"A symbol that the market lists twice is numbered in the order of the table: {', '.join(twice)}.")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", market).lower() + (f"_emode_{number}" if emode is not None else "")
    figures = {r.name: _figures(r.name) for r in chosen}
    called, unheld = asset_names(names), _unheld_roots(names, listed)
    roots = {called[r.name]: r.price for r in chosen if called[r.name] in ROOTS} | {asset_of(r.name): r.price for r in unheld}
    paths = {r.name: exogenous(r.name, called[r.name], r.price, roots) for r in chosen}
    notes += _path_notes(called, paths, unheld)
    measured = [n for n in names if figures[n] and figures[n].measured and not _given(depth_usd, n)]
    assumed = [n for n in names if figures[n] and not figures[n].measured and not _given(depth_usd, n)]
    data = {
        "kind": "system",
        "name": name,
        "description": f"{market} on {date}{', ' + label if label else ''}: reserve parameters and oracle prices of the protocol ({path.name}).",
        "assumptions": [*notes, *left, *_assumptions(measured, assumed, chosen, cap_share, supplied_usd, borrowed_usd)],
        "assets": {
            called.get(r.name, asset_of(r.name)): {
                "price_usd": r.price,
                **paths.get(r.name, {}),
                **{
                    key: figure(given, r.name, getattr(_figures(r.name), key, default), key, path)
                    for key, given, default in (
                        ("depth_usd", depth_usd, None),
                        ("volatility", volatility, 0.9),
                        ("impact_exponent", impact_exponent, 0.8),
                    )
                },
            }
            for r in (*chosen, *unheld)
        },
        "pools": {
            name: {
                "kind": "lending",
                "description": f"{market}{', ' + label if label else ''}",
                "insurance_fund_usd": 0.0,
                "liquidation": Inline(rule="close_factor", close_factor=CLOSE_FACTOR, full_below=0.0 if v2 else FULL_BELOW),
                "protocol_fee": _round(fee),
                "reserves": {called[r.name]: _reserve_table(r, _totals(r, cap_share, supplied_usd or {}, borrowed_usd or {})) for r in chosen},
            }
        },
        "book": {"accounts": accounts},
    }
    return checked(toml_text(data), path)


def _unheld_roots(names: Sequence[str], listed: tuple[Reserve, ...]) -> tuple[Reserve, ...]:
    """Reserves that the pool does not hold and the system needs for their price: chosen reserves follow it."""
    held = {asset_of(n) for n in names}
    needed = {FOLLOWS[asset_of(n)] for n in names if asset_of(n) in FOLLOWS} - held
    first = {asset_of(r.name): r for r in reversed(listed)}
    return tuple(first[root] for root in ROOTS if root in needed and root in first)


def _path_notes(called: Mapping[str, str], paths: Mapping[str, dict], unheld: tuple[Reserve, ...]) -> list[str]:
    """What assets do in a scenario, one sentence each."""
    out = []
    renamed = [f"{symbol} is called {name}" for symbol, name in called.items() if symbol != name]
    if renamed:
        out.append(f"As in scenarios, {', '.join(renamed)}: the wrapped coin is taken for the coin.")
    if unheld:
        out.append(f"{', '.join(asset_of(r.name) for r in unheld)} is here for its price alone: it is no reserve of this pool.")
    following = [f"{called[n]} after {keys['follows']['asset']}" for n, keys in paths.items() if "follows" in keys]
    if following:
        pairs = ", ".join(following)
        out.append(
            f"In scenarios that give them no path, assets follow others at a constant ratio ({pairs}). Each has a market of its own all the same: "
            "selling the one does not move the other."
        )
    pegged = [called[n] for n, keys in paths.items() if "peg_usd" in keys]
    if pegged:
        out += [f"In scenarios that give no path, the price stays where it is: {', '.join(pegged)}.", AT_PAR]
    alone = [called[n] for n, keys in paths.items() if not keys and called[n] not in ROOTS]
    if alone:
        out.append(f"A scenario has to give a path for {', '.join(alone)}.")
    return out


def _given(value, name: str) -> bool:
    return value is not None and (not isinstance(value, Mapping) or name in value)


def _assumptions(measured: list[str], assumed: list[str], chosen: tuple[Reserve, ...], cap_share: float, supplied, borrowed) -> list[str]:
    """What the file does not know, one sentence each."""
    out = []
    if measured:
        out.append(
            f"Depth and impact exponent of {', '.join(measured)} are those of 1inch quotes of 2023-11-20 on Ethereum for sales into USDC and USDT: "
            "what decentralised exchanges absorb at once, without the refill from elsewhere."
        )
    if assumed:
        out.append(f"Depth and impact exponent of {', '.join(assumed)} are assumed.")
    out.append(
        "Volatility: ETH 0.47 and BTC 0.40 are those of hourly prices of 2023-10 to 2023-12; 0.02 for dollars and 0.9 for the rest is assumed."
    )
    if any(r.name not in (supplied or {}) and r.supply_cap for r in chosen):
        out.append(
            f"Totals that were not given are {cap_share:g} of the supply and borrow caps at the oracle's prices, and no more than 90% of the use at "
            "which the rate curve has its kink; a reserve without a cap has none."
        )
    by_hand = sorted({*(supplied or {}), *(borrowed or {})})
    if by_hand:
        out.append(f"Totals of {', '.join(by_hand)} were given by hand, supplied or borrowed or both; they are not in the table.")
    weak = sorted(r.name for r in chosen if not (r.collateral and r.threshold > 0 and not r.frozen))
    if weak:
        out.append(
            f"No collateral here: {', '.join(weak)}. With a liquidation threshold of zero a reserve counts for nothing, and a frozen one takes "
            "no new positions; what older accounts still hold in it is left out."
        )
    closed = sorted(r.name for r in chosen if r.frozen or not r.borrowable)
    if closed:
        out.append(f"Nothing new can be borrowed in {', '.join(closed)}.")
    if any(r.slope1 == r.slope2 == 0 for r in chosen):
        out.append("A rate that does not depend on use has no kink; it is written with one at 0.8, which changes nothing.")
    out.append(IMMEDIATE)
    out.append("Efficiency and isolation modes, debt ceilings and caps bind no account here, unless the pool is one of an efficiency mode.")
    return out
