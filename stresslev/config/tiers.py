"""Leverage tiers: validation, the venues' dumps (CSV, and JSON as ccxt gives it), and the arrays of the engine."""

import csv
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stresslev.errors import InputError, Problem, did_you_mean, shorten

#: A plain number: text and true/false are refused, not converted.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
#: Largest disagreement between a printed maintenance amount and the continuous one, as a share of the tier's floor.
CONTINUITY_TOLERANCE = 1e-9


class TierTable(BaseModel):
    """Maintenance tiers of one contract: figures as the venue publishes them.

    `floors_usd` start at 0 and rise; the maintenance rate never falls; `cum = cum' + floor (mmr - mmr')` (Binance's maintenance amount)
    follows, and is checked where it is given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str = Field(min_length=1, description="venue, contract and date")
    floors_usd: tuple[Number, ...] = Field(min_length=1, description="notional at which each tier begins; the first is 0")
    maintenance_rates: tuple[Number, ...] = Field(min_length=1, description="maintenance margin rate of each tier, a fraction")
    max_leverage: tuple[Number, ...] = Field(min_length=1, description="most leverage of each tier: initial margin is its inverse")
    maintenance_amounts_usd: tuple[Number, ...] | None = Field(None, description="the venue's deductions (cum), checked when given")

    @model_validator(mode="after")
    def _consistent(self):
        n = len(self.floors_usd)
        if len(self.maintenance_rates) != n or len(self.max_leverage) != n:
            raise ValueError(
                f"floors_usd, maintenance_rates and max_leverage need one entry per tier, have {n}, "
                f"{len(self.maintenance_rates)} and {len(self.max_leverage)}; give one of each for every tier"
            )
        if self.floors_usd[0] != 0:
            raise ValueError(f"the first tier must begin at 0, it begins at {self.floors_usd[0]:g}; give 0 as the first floor")
        for k, (low, high) in enumerate(pairwise(self.floors_usd), start=2):
            if high <= low:
                raise ValueError(f"tier {k} begins at {high:g}, not above tier {k - 1} ({low:g}); put the tiers in order of their floors")
        for k, (low, high) in enumerate(pairwise(self.maintenance_rates), start=2):
            if high < low:
                raise ValueError(f"the maintenance rate falls from {low:g} to {high:g} at tier {k}; a larger position may not need less per dollar")
        if not self.maintenance_rates[0] > 0 or self.maintenance_rates[-1] > 1:
            raise ValueError("maintenance rates must lie in (0, 1]: they are fractions of notional, not percent; write 0.005 for half a percent")
        if min(self.max_leverage) <= 0:
            raise ValueError("max_leverage must be above 0; give a positive number")
        for k, (rate, leverage) in enumerate(zip(self.maintenance_rates, self.max_leverage, strict=True), start=1):
            if rate * leverage > 1 + 1e-9:
                raise ValueError(
                    f"tier {k}: initial margin 1/{leverage:g} is below the maintenance rate {rate:g}; lower max_leverage to {1 / rate:g} or less"
                )
        if self.maintenance_amounts_usd is not None:
            if len(self.maintenance_amounts_usd) != n:
                raise ValueError(
                    f"maintenance_amounts_usd needs {n} entries, has {len(self.maintenance_amounts_usd)}; give one for each tier, or leave it out"
                )
            for k, (given, due, floor) in enumerate(zip(self.maintenance_amounts_usd, self.deductions(), self.floors_usd, strict=True), start=1):
                if abs(given - due) > CONTINUITY_TOLERANCE * max(floor, 1):
                    raise ValueError(
                        f"tier {k}: maintenance amount {given:g} leaves a step in the requirement at {floor:g}; give {due:g}, or leave it out"
                    )
        return self

    def steps(self) -> np.ndarray:
        """(K,) increase of the maintenance rate at each floor."""
        return np.diff(np.asarray(self.maintenance_rates), prepend=0.0)

    def deductions(self) -> np.ndarray:
        """(K,) the maintenance amounts `cum` in USD that make the requirement continuous."""
        return np.cumsum(self.steps() * np.asarray(self.floors_usd))

    def maintenance(self, notional) -> np.ndarray:
        """Maintenance margin in USD of notionals in USD, any shape."""
        n = np.asarray(notional, float)
        k = np.searchsorted(self.floors_usd, n, side="right") - 1
        return np.asarray(self.maintenance_rates)[k] * n - self.deductions()[k]

    def initial(self, notional) -> np.ndarray:
        """Initial margin in USD: notional over the maximum leverage of its tier, never less than for a smaller position."""
        n = np.asarray(notional, float)
        floors, leverage = np.asarray(self.floors_usd), np.asarray(self.max_leverage)
        ceiling_margin = np.maximum.accumulate(np.concatenate([[0.0], floors[1:] / leverage[:-1]]))
        k = np.searchsorted(floors, n, side="right") - 1
        return np.maximum(n / leverage[k], ceiling_margin[k])


_COLUMNS = ("symbol", "tier", "min_notional", "max_notional", "mmr", "max_leverage", "cum")


def read_tier_csv(path: str | Path, symbols: Iterable[str] | None = None) -> dict[str, TierTable]:
    """All contracts of a tier dump, or the named ones.

    Args:
      path: CSV, plain or gzipped, with columns symbol, tier, min_notional, max_notional (USD), mmr (fraction), max_leverage, cum (USD).
      symbols: contracts to keep.

    Raises:
      InputError: naming row and column of a missing column, a value that is no number, a gap or overlap between tiers, or a requirement that jumps.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="") as handle:
            reader = csv.DictReader(handle)
            header = reader.fieldnames or []
            rows = list(enumerate(reader, start=1))
    except (OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
        raise InputError(path, Problem("file", "", f"cannot be read ({error})", "give a readable CSV file of leverage tiers")) from None
    missing = [c for c in _COLUMNS if c not in header]
    if missing:
        raise InputError(path, [Problem(f"column {c}", "", "is missing", f"give the columns {', '.join(_COLUMNS)}") for c in missing])
    wanted = None if symbols is None else set(symbols)
    by_symbol: dict[str, list[tuple[int, dict[str, float]]]] = {}
    problems = []
    for number, row in rows:
        if wanted is not None and row["symbol"] not in wanted:
            continue
        values = {}
        for column in _COLUMNS[1:]:
            try:
                values[column] = float(row[column])
            except (TypeError, ValueError):
                problems.append(Problem(f"row {number}, column {column}", repr(row[column]), "is not a number", "give a plain number"))
        if len(values) == len(_COLUMNS) - 1 and values["min_notional"] != values["max_notional"]:  # dumps hold a few empty tiers
            by_symbol.setdefault(row["symbol"], []).append((number, values))
    if problems:
        raise InputError(path, problems)
    for symbol in sorted(wanted - set(by_symbol)) if wanted is not None else ():
        names = {row["symbol"] for _, row in rows}
        problems.append(Problem("symbol", repr(symbol), "is not in the file", did_you_mean(symbol, names)))
    tables = {}
    for symbol, entries in by_symbol.items():
        entries.sort(key=lambda e: e[1]["min_notional"])
        for (_, low), (number, high) in pairwise(entries):
            if high["min_notional"] != low["max_notional"]:
                what = f"{symbol}: the tier begins at {high['min_notional']:g} but the one before ends at {low['max_notional']:g}"
                problems.append(Problem(f"row {number}, column min_notional", f"{high['min_notional']:g}", what, "close the gap or overlap"))
        values = [v for _, v in entries]
        try:
            tables[symbol] = TierTable(
                source=path.name,
                floors_usd=tuple(v["min_notional"] for v in values),
                maintenance_rates=tuple(v["mmr"] for v in values),
                max_leverage=tuple(v["max_leverage"] for v in values),
                maintenance_amounts_usd=tuple(v["cum"] for v in values),
            )
        except ValueError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(Problem(f"symbol {symbol}, rows {entries[0][0]} to {entries[-1][0]}", "", reason, "correct the tiers of this contract"))
    if problems:
        raise InputError(path, problems)
    return tables


def read_tiers(path: str | Path, symbols: Iterable[str] | None = None, *, price_usd: Mapping[str, float] | None = None) -> dict[str, TierTable]:
    """All contracts of a tier dump, or the named ones; the name of the file says which format it is.

    Args:
      path: `.json` or `.json.gz` as ccxt's fetchLeverageTiers or fetchMarketLeverageTiers return it; anything else is read as CSV.
      symbols: contracts to keep.
      price_usd: currency -> USD, for contracts of a JSON file whose notionals are not in dollars (coin-margined ones: the coin).

    Raises:
      InputError: as `read_tier_csv` and `read_tier_json` do.
    """
    path = Path(path)
    if path.name.lower().endswith((".json", ".json.gz")):
        return read_tier_json(path, symbols, price_usd=price_usd)
    return read_tier_csv(path, symbols)


#: Currencies whose unit is taken for one dollar. A contract in any other needs a price.
DOLLARS = frozenset({"USD", "USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USDP", "DAI", "USDE", "USDD", "PYUSD", "RLUSD", "USD1", "U"})
#: Field of a ccxt leverage tier -> names under which venues give the same figure in `info`, used where the unified field is null.
_IN_INFO = {
    "minNotional": ("minNotional", "notionalFloor", "qtyFloor", "qtylFloor"),
    "maxNotional": ("maxNotional", "notionalCap", "qtyCap", "riskLimitValue"),
    "maintenanceMarginRate": ("maintenanceMarginRate", "maintMarginRatio", "maintenanceMargin", "mmr"),
    "maxLeverage": ("maxLeverage", "initialLeverage", "maxLever"),
}
#: Names of the deduction in `info`: Binance's maintenance amount `cum`, Bybit's `mmDeduction`, Gate's `deduction`. ccxt has no unified field for it.
_DEDUCTION = ("cum", "mmDeduction", "deduction")


def _open_json(path: Path):
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as handle:
            return json.load(handle)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(path, Problem("file", "", f"cannot be read ({error})", "give a readable JSON file of leverage tiers")) from None
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, and integers of thousands of digits
        raise InputError(path, Problem("file", "", f"is not valid JSON: {error}", "give the output of ccxt's fetchLeverageTiers")) from None


def _contracts(data, path: Path, wanted: list[str] | None) -> dict[str, list]:
    """Symbol -> its entries, from either form of ccxt. Raises InputError when it is neither."""
    expected = "give a table of contracts (fetchLeverageTiers) or a list of tiers (fetchMarketLeverageTiers)"
    if not isinstance(data, dict | list):
        raise InputError(path, Problem("file", shorten(data), "holds no leverage tiers", expected))
    if not data:
        raise InputError(path, Problem("file", "", "is empty", expected))
    if isinstance(data, dict):
        return data
    by_symbol: dict[str, list] = {}
    for number, entry in enumerate(data, start=1):
        symbol = entry.get("symbol") if isinstance(entry, dict) else None
        if symbol is None and isinstance(entry, dict) and wanted is not None and len(wanted) == 1:
            symbol = wanted[0]
        if not isinstance(symbol, str) or not symbol:
            what = "does not say its contract" if isinstance(entry, dict) else "is no tier"
            raise InputError(path, Problem(f"entry {number}, symbol", shorten(entry), what, "give symbol in every entry, or name one contract"))
        by_symbol.setdefault(symbol, []).append(entry)
    return by_symbol


class _Entry:
    """One tier of a JSON file: its figures, and the complaints about them."""

    def __init__(self, entry: dict, where: str, problems: list[Problem]):
        self._entry, self._where, self._problems = entry, where, problems
        info = entry.get("info")
        self._info = info if isinstance(info, dict) else {}

    def complain(self, field: str, value: str, what: str, fix: str) -> None:
        self._problems.append(Problem(f"{self._where} {field}", value, what, fix))

    def _finite(self, raw, field: str, text: bool) -> float | None:
        """The number, None after a complaint. Text is taken for a number only inside `info`, where venues put it."""
        kind = (int, float, str) if text else (int, float)
        if isinstance(raw, bool) or not isinstance(raw, kind):
            self.complain(field, shorten(raw), "is not a number", "give a plain number")
            return None
        try:
            value = float(raw)
        except (ValueError, OverflowError):
            self.complain(field, shorten(raw), "is not a number" if isinstance(raw, str) else "is too large", "give a plain number")
            return None
        if not math.isfinite(value):
            self.complain(field, shorten(raw), "is not finite", "give a finite number; null where a tier has no upper end")
            return None
        return value

    def _raw(self, names: tuple[str, ...]):
        return next(((n, self._info[n]) for n in names if self._info.get(n) not in (None, "")), (None, None))

    def number(self, field: str) -> tuple[float | None, bool]:
        """A figure of the tier, and whether there is one at all (a complaint leaves None, True)."""
        raw = self._entry.get(field)
        if raw is not None:
            if field == "maxNotional" and raw == math.inf:  # Infinity, as JavaScript and Python write an open end
                return None, False
            return self._finite(raw, field, text=False), True
        name, inside = self._raw(_IN_INFO[field])
        return (None, False) if name is None else (self._finite(inside, f"info.{name}", text=True), True)

    def needed(self, field: str) -> float | None:
        value, there = self.number(field)
        if not there:
            self.complain(field, "", "is missing", f"give it, or info.{_IN_INFO[field][1]} as the venue does")
        return value

    def deduction(self) -> float | None:
        name, raw = self._raw(_DEDUCTION)
        return None if name is None else self._finite(raw, f"info.{name}", text=True)


def _currency(symbol: str, entries: list) -> str | None:
    """What the notionals are in: the entries' currency, else from the name `BASE/QUOTE:SETTLE` (coin-margined: the coin, else the quote)."""
    for entry in entries:
        currency = entry.get("currency") if isinstance(entry, dict) else None
        if isinstance(currency, str) and currency:
            return currency
    pair, _, settle = symbol.partition(":")
    base, slash, quote = pair.partition("/")
    if not slash:
        return None
    return base if settle.split("-")[0] == base else quote


def _bounds(rows: list[dict], problems: list[Problem]) -> None:
    """Fill in the ends that are null where the neighbour says them, and refuse gaps and overlaps."""
    for k, row in enumerate(rows):
        if row["low"] is None:
            row["low"] = 0.0 if k == 0 else rows[k - 1]["high"]
        if row["high"] is None and k + 1 < len(rows):
            row["high"] = rows[k + 1]["low"]
        if row["low"] is None:
            row["entry"].complain("minNotional", "", "is missing, and the tier before has no upper end", "give one of the two")
        elif row["high"] is None and k + 1 < len(rows):
            row["entry"].complain("maxNotional", "", "is missing, and the tier after has no lower end", "give one of the two")
        elif row["high"] is not None and row["high"] < row["low"]:
            row["entry"].complain("maxNotional", f"{row['high']:g}", f"is below the tier's minNotional {row['low']:g}", "correct one of the two")
    if problems:
        return
    rows[:] = sorted((r for r in rows if r["low"] != r["high"]), key=lambda r: r["low"])  # dumps hold a few empty tiers
    for low, high in pairwise(rows):
        if high["low"] != low["high"]:
            what = f"the tier begins at {high['low']:g} but the one before ends at {low['high']:g}"
            high["entry"].complain("minNotional", f"{high['low']:g}", what, "close the gap or overlap")


def _unit(symbol: str, entries: list, price_usd: Mapping[str, float], problems: list[Problem]) -> float | None:
    """USD per unit of the contract's notionals, None after a complaint."""
    currency = _currency(symbol, entries)
    if currency is None:
        problems.append(
            Problem(f"{symbol} currency", "", "is missing, and the name of the contract does not say it", "give the currency of the notionals")
        )
        return None
    if currency in price_usd:
        price = price_usd[currency]
        if isinstance(price, bool) or not isinstance(price, int | float) or not math.isfinite(price) or price <= 0:
            problems.append(Problem(f"price_usd.{currency}", shorten(price), "is not a price above zero", "give USD per unit"))
            return None
        return float(price)
    if currency.upper() in DOLLARS:
        return 1.0
    what = f"the contract's notionals are in {currency}, and tiers are in USD"
    problems.append(Problem(f"{symbol} currency", repr(currency), what, f"give the price of one {currency}: price_usd = {{{currency!r}: ...}}"))
    return None


def _table_from_json(symbol: str, entries, path: Path, price_usd: Mapping[str, float], problems: list[Problem]) -> TierTable | None:
    """One contract, None after complaints."""
    if not isinstance(entries, list) or not entries:
        what = "has no tiers" if entries in ([], None) else "is not a list of tiers"
        problems.append(Problem(symbol, "" if entries in ([], None) else shorten(entries), what, "give a list with one entry per tier"))
        return None
    own: list[Problem] = []
    unit = _unit(symbol, entries, price_usd, own)
    rows = []
    for number, raw in enumerate(entries, start=1):
        where = f"{symbol} tier {number}"
        if not isinstance(raw, dict):
            own.append(Problem(where, shorten(raw), "is no table", "give tier, minNotional, maxNotional, maintenanceMarginRate and maxLeverage"))
            continue
        entry = _Entry(raw, where, own)
        row = {"entry": entry, "low": entry.number("minNotional")[0], "high": entry.number("maxNotional")[0]}
        row |= {"rate": entry.needed("maintenanceMarginRate"), "leverage": entry.needed("maxLeverage"), "deduction": entry.deduction()}
        rows.append(row)
    if not own:
        _bounds(rows, own)
    if own:
        problems += own
        return None
    if not rows:
        problems.append(Problem(symbol, "", "has only empty tiers", "correct the tiers of this contract"))
        return None
    deductions = [r["deduction"] for r in rows]
    if deductions[0] is None and any(d is not None for d in deductions):
        deductions[0] = 0.0  # Bybit leaves the first one empty
    if any(d is None for d in deductions) and any(d is not None for d in deductions):
        k = deductions.index(None)
        rows[k]["entry"].complain(f"info.{_DEDUCTION[0]}", "", "is missing although other tiers have it", "give it for every tier or for none")
        problems += own
        return None
    try:
        return TierTable(
            source=path.name if unit == 1 else f"{path.name}, at {unit:g} USD per {_currency(symbol, entries)}",
            floors_usd=tuple(r["low"] * unit for r in rows),
            maintenance_rates=tuple(r["rate"] for r in rows),
            max_leverage=tuple(r["leverage"] for r in rows),
            maintenance_amounts_usd=None if deductions[0] is None else tuple(d * unit for d in deductions),
        )
    except ValueError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        problems.append(Problem(f"{symbol}, {len(rows)} tiers", "", reason, "correct the tiers of this contract"))
        return None


def read_tier_json(path: str | Path, symbols: Iterable[str] | None = None, *, price_usd: Mapping[str, float] | None = None) -> dict[str, TierTable]:
    """All contracts of ccxt's unified leverage tiers, or the named ones.

    The two forms of the ccxt manual ("Leverage Tiers"): a table symbol -> list of {tier, symbol, currency, minNotional, maxNotional,
    maintenanceMarginRate, maxLeverage, info}, or the list alone. A null end is taken from the neighbouring tier (the first begins at 0, the last may
    be open); a null figure from `info`, where it may be text. A deduction in `info` must leave the requirement continuous.

    Args:
      path: JSON, plain or gzipped.
      symbols: contracts to keep; the others are not looked at.
      price_usd: currency -> USD, for contracts whose `currency` is no dollar: their notionals (and deductions) are multiplied by it.

    Raises:
      InputError: naming contract, tier and field of a missing or wrong figure, a gap or overlap, a falling rate, a requirement that jumps, or a
        currency without a price.
    """
    path = Path(path)
    wanted = None if symbols is None else list(dict.fromkeys(symbols))
    contracts = _contracts(_open_json(path), path, wanted)
    problems: list[Problem] = []
    tables = {}
    for symbol in contracts if wanted is None else wanted:
        if symbol not in contracts:
            problems.append(Problem("symbol", repr(symbol), "is not in the file", did_you_mean(symbol, contracts)))
            continue
        table = _table_from_json(symbol, contracts[symbol], path, price_usd or {}, problems)
        if table is not None:
            tables[symbol] = table
    if problems:
        raise InputError(path, problems)
    return tables


def stack(tables: list[list[TierTable]]) -> tuple[np.ndarray, np.ndarray]:
    """(V, A, K) floors and steps for the engine, padded with tiers that change nothing."""
    depth = max(len(t.floors_usd) for row in tables for t in row)
    shape = (len(tables), len(tables[0]), depth)
    floors, steps = np.zeros(shape), np.zeros(shape)
    for v, row in enumerate(tables):
        for a, table in enumerate(row):
            k = len(table.floors_usd)
            floors[v, a, :k], steps[v, a, :k] = table.floors_usd, table.steps()
            floors[v, a, k:] = table.floors_usd[-1]
    return floors, steps
