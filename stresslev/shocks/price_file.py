"""Price files: CSV or Parquet with one row per time, or the JSON of ccxt's fetchOHLCV."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.tables import read_table

#: Unix seconds before which no price file lies (1973); tells the units of Unix times apart.
_EARLIEST = 1e8
#: Columns of ccxt's unified OHLCV (manual, "OHLCV Structure"); times are Unix milliseconds.
OHLCV = ("ts", "open", "high", "low", "close", "volume")


class Columns(Protocol):
    """Which rows and columns of a price file to read."""

    time_column: str
    price_column: str
    symbol_column: str
    symbol: str | None


def timestamp(moment: datetime) -> float:
    """Unix seconds; a moment without a zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def seconds_of(column: pa.ChunkedArray, file: Path, name: str) -> np.ndarray:
    """Unix seconds of a time column: numbers (seconds, or milli-, micro- or nanoseconds by their size), timestamps or ISO text."""
    if pa.types.is_timestamp(column.type):
        seconds = np.asarray(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64())) / 1e6
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = np.asarray(column.cast(pa.float64(), safe=False))
        largest = np.nanmax(np.abs(values), initial=0.0)
        seconds = values / next((unit for unit in (1e9, 1e6, 1e3) if largest / unit > _EARLIEST), 1.0)
    else:
        seconds = np.array([_parsed(text, row, file, name) for row, text in enumerate(column.to_pylist(), start=1)])
    bad = np.flatnonzero(~np.isfinite(seconds))
    if len(bad):
        raise InputError(file, Problem(f"row {bad[0] + 1}, column {name}", "", "has no time", "fill it in or remove the row"))
    return seconds


def _parsed(text, row: int, file: Path, name: str) -> float:
    try:
        return timestamp(datetime.fromisoformat(text))
    except (TypeError, ValueError, OverflowError):
        fix = "give Unix time in seconds, milli-, micro- or nanoseconds, or ISO 8601 text"
        raise InputError(file, Problem(f"row {row}, column {name}", shorten(text), "is not a time", fix)) from None


def read_ohlcv(file: str | Path) -> pa.Table:
    """Bars as ccxt gives them, a JSON list of [milliseconds, open, high, low, close, volume], as a table with the columns of `OHLCV`.

    Raises:
      InputError: unreadable, no such list, or a bar that is none, by its number.
    """
    file = Path(file)
    expected = "give a list of [milliseconds, open, high, low, close, volume], as ccxt's fetchOHLCV does"
    try:
        bars = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(file, Problem("file", "", f"is no readable JSON ({error})", expected)) from None
    if not isinstance(bars, list):
        raise InputError(file, Problem("file", shorten(bars), "is no list of bars", expected))
    for number, bar in enumerate(bars, start=1):
        numbers = isinstance(bar, list) and len(bar) == len(OHLCV) and all(isinstance(x, int | float) and math.isfinite(x) for x in bar[:5])
        if not numbers:
            raise InputError(file, Problem(f"bar {number}", shorten(bar), "is no bar", expected))
    columns = {name: [None if bar[i] is None else float(bar[i]) for bar in bars] for i, name in enumerate(OHLCV)}
    return pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})


def read_any(file: Path) -> pa.Table:
    """The whole file as a table, whatever its form. Raises InputError."""
    return read_ohlcv(file) if file.suffix.lower() == ".json" else read_table(file)


def _named(key: str | None, option: str) -> str:
    """What a user sets: a key of a file, or an option of the command line."""
    return f"--{option.replace('_', '-')}" if key is None else f"{key}.{option}"


def read_prices(file: Path, columns: Columns, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Times (N,) in Unix seconds, rising, and prices (N,) of one asset.

    Args:
      columns: what to read; key: its dotted name, for errors; None where options of the command line say it.

    Raises:
      InputError: a column or symbol that is not there, a time or price that is none, or rows out of order.
    """
    table = read_any(file)
    for option in ("time_column", "price_column"):
        column = getattr(columns, option)
        if column not in table.column_names:
            near = did_you_mean(column, table.column_names)
            fix = f"{near}{'' if near.endswith('?') else '.'} Set {_named(key, option)}"
            raise InputError(file, Problem(f"column {column}", "", "is missing", fix))
    if columns.symbol is not None:
        table = _rows_of(table, columns, file, key)
    if not table.num_rows:
        raise InputError(file, Problem("file", "", "holds no rows", "give a file with prices"))
    try:
        prices = np.asarray(table[columns.price_column].cast(pa.float64()))
    except pa.ArrowException as error:
        what = f"holds something that is no number ({error})"
        raise InputError(file, Problem(f"column {columns.price_column}", "", what, "give plain prices")) from None
    seconds = seconds_of(table[columns.time_column], file, columns.time_column)
    bad = np.flatnonzero(~(np.isfinite(prices) & (prices > 0)))
    if len(bad):
        value = shorten(float(prices[bad[0]]))
        where = f"row {bad[0] + 1}, column {columns.price_column}"
        raise InputError(file, Problem(where, value, "is not a positive price", "remove or correct the row"))
    falls = np.flatnonzero(np.diff(seconds) <= 0)
    if len(falls):
        fix = f"sort the rows, or set {_named(key, 'symbol')} if the file holds several assets"
        raise InputError(file, Problem(f"row {falls[0] + 2}, column {columns.time_column}", "", "does not come after the row before", fix))
    return seconds, prices


def _rows_of(table: pa.Table, columns: Columns, file: Path, key: str | None) -> pa.Table:
    """The rows of one symbol. Raises InputError."""
    if columns.symbol_column not in table.column_names:
        fix = did_you_mean(columns.symbol_column, table.column_names)
        raise InputError(file, Problem(f"column {columns.symbol_column}", "", "is missing", fix))
    symbols = table[columns.symbol_column].cast(pa.string())
    found = table.filter(pc.equal(symbols, columns.symbol))
    if not found.num_rows:
        known = map(str, pc.unique(symbols).to_pylist())
        raise InputError(file, Problem(_named(key, "symbol"), columns.symbol, "has no row", did_you_mean(columns.symbol, known)))
    return found
