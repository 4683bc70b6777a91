"""Leverage tiers: validation, the venues' CSV dumps, and the arrays of the engine."""

import csv
import gzip
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stresslev.errors import InputError, Problem, did_you_mean

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
                f"{len(self.maintenance_rates)} and {len(self.max_leverage)}"
            )
        if self.floors_usd[0] != 0:
            raise ValueError(f"the first tier must begin at 0, it begins at {self.floors_usd[0]:g}")
        for k, (low, high) in enumerate(pairwise(self.floors_usd), start=2):
            if high <= low:
                raise ValueError(f"tier {k} begins at {high:g}, not above tier {k - 1} ({low:g})")
        for k, (low, high) in enumerate(pairwise(self.maintenance_rates), start=2):
            if high < low:
                raise ValueError(f"the maintenance rate falls from {low:g} to {high:g} at tier {k}; a larger position may not need less per dollar")
        if not self.maintenance_rates[0] > 0 or self.maintenance_rates[-1] > 1:
            raise ValueError("maintenance rates must lie in (0, 1]: they are fractions of notional, not percent")
        if min(self.max_leverage) <= 0:
            raise ValueError("max_leverage must be above 0")
        for k, (rate, leverage) in enumerate(zip(self.maintenance_rates, self.max_leverage, strict=True), start=1):
            if rate * leverage > 1 + 1e-9:
                raise ValueError(f"tier {k}: initial margin 1/{leverage:g} is below the maintenance rate {rate:g}")
        if self.maintenance_amounts_usd is not None:
            if len(self.maintenance_amounts_usd) != n:
                raise ValueError(f"maintenance_amounts_usd needs {n} entries, has {len(self.maintenance_amounts_usd)}")
            for k, (given, due, floor) in enumerate(zip(self.maintenance_amounts_usd, self.deductions(), self.floors_usd, strict=True), start=1):
                if abs(given - due) > CONTINUITY_TOLERANCE * max(floor, 1):
                    raise ValueError(f"tier {k}: maintenance amount {given:g} leaves a step in the requirement at {floor:g}; continuous is {due:g}")
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
