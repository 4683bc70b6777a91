"""Books on disk: one row per position, CSV or Parquet, and what can be wrong with them.

Columns:
  account            text or integer; one account's rows share one balance (cross margin)
  pool               name of a pool of the system
  wallet_balance_usd USD, deposits and realised profit, the same on every row of the account in that pool
  asset              name of an asset of the system; empty for an account without positions
  quantity           coins, long > 0, short < 0
  entry_price_usd    USD per coin, average entry
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from stresslev.book.book import Book
from stresslev.config.spec import SystemSpec
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.tables import is_parquet, read_table
from stresslev.write import atomically

COLUMNS = ("account", "pool", "wallet_balance_usd", "asset", "quantity", "entry_price_usd")
_NUMBERS = ("wallet_balance_usd", "quantity", "entry_price_usd")
#: Problems of one sort that are listed one by one; the rest are counted.
LISTED = 10


@dataclass(frozen=True)
class Checked:
    """What a check of a book found."""

    book: Book | None  # None when there are errors
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    rows: int


class _Findings:
    """Collects problems by sort, lists the first few and counts the rest."""

    def __init__(self):
        self.problems: list[Problem] = []

    def add(self, rows: np.ndarray, column: str, value: Callable[[int], str], what: str, fix: str) -> None:
        for row in rows[:LISTED]:
            self.problems.append(Problem(f"row {row + 1}, column {column}", value(int(row)), what, fix))
        if len(rows) > LISTED:
            self.problems.append(Problem(f"column {column}", "", f"{len(rows) - LISTED} more rows: {what}", fix))


def _numbers(table: pa.Table, column: str, needed: np.ndarray, found: _Findings) -> np.ndarray:
    """A numeric column as float64; complains where `needed` and missing, not a number, or not finite."""
    raw = table[column]
    if pa.types.is_string(raw.type) or pa.types.is_large_string(raw.type):
        trimmed = pc.utf8_trim_whitespace(raw)
        fine = pc.fill_null(pc.match_substring_regex(trimmed, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(?i:[+-]?(nan|inf|infinity))$"), False)
        empty = np.asarray(pc.fill_null(pc.equal(trimmed, ""), True))
        wrong = ~np.asarray(fine) & ~empty
        values = np.asarray(pc.cast(pc.if_else(fine, trimmed, pa.scalar(None, pa.string())), pa.float64()).fill_null(float("nan")))
    elif pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type):
        empty = np.asarray(raw.is_null())
        wrong = np.zeros(len(raw), bool)
        values = np.asarray(pc.cast(raw, pa.float64()).fill_null(float("nan")))
    else:
        found.problems.append(Problem(f"column {column}", str(raw.type), "is not a column of numbers", "store it as float64"))
        return np.full(len(raw), np.nan)

    def shown(row):
        return repr(raw[row].as_py())

    found.add(np.flatnonzero(wrong), column, shown, "is not a number", "give a plain number")
    found.add(np.flatnonzero(empty & needed), column, lambda _: "", "is empty", "fill it in")
    found.add(np.flatnonzero(~np.isfinite(values) & ~wrong & ~empty & needed), column, shown, "is not finite", "give a finite number")
    return values


def _text(table: pa.Table, column: str, path: Path) -> pa.ChunkedArray:
    """A column as text without surrounding blanks. Raises InputError when it cannot be read as text."""
    try:
        return pc.utf8_trim_whitespace(pc.cast(table[column], pa.string()))
    except pa.ArrowException:
        kind = str(table[column].type)
        raise InputError(path, Problem(f"column {column}", kind, "is not a column of names", "store it as text")) from None


def _codes(text: pa.ChunkedArray, column: str, names: tuple[str, ...], allow_empty: bool, found: _Findings) -> np.ndarray:
    """Index of each entry among `names`; -1 where empty (allowed) or wrong (reported)."""
    codes = np.asarray(pc.fill_null(pc.index_in(text, value_set=pa.array(names, pa.string())), -1)).astype(np.int64)
    empty = np.asarray(pc.fill_null(pc.equal(text, ""), True))
    unknown = np.flatnonzero((codes < 0) & ~empty)
    for word in dict.fromkeys(text[int(r)].as_py() for r in unknown[:1000]):
        rows = np.array([r for r in unknown if text[int(r)].as_py() == word]) if len(unknown) <= 1000 else unknown
        found.add(rows, column, lambda r: repr(text[r].as_py()), f"is no {column} of the system", did_you_mean(word, names))
        if len(unknown) > 1000:
            break
    if not allow_empty:
        found.add(np.flatnonzero(empty), column, lambda _: "", "is empty", f"name a {column} of the system")
    return codes


def check(path: str | Path, system: SystemSpec, reference_price: np.ndarray) -> Checked:
    """Read a book of positions and say what is wrong with it, by row (the first data row is 1) and column.

    Args:
      path: CSV (plain or gzipped) or Parquet.
      system: names of pools and assets, tiers for the warnings.
      reference_price: (A,) USD per coin, the present marks at which equity is taken.

    Raises:
      InputError: only when the file cannot be read as a table with the needed columns.
    """
    path = Path(path)
    table = read_table(path, text=True)
    missing = [c for c in COLUMNS if c not in table.column_names]
    if missing:
        extra = [c for c in table.column_names if c not in COLUMNS]
        raise InputError(
            path,
            [
                Problem(f"column {c}", "", "is missing", did_you_mean(c, extra) if extra else f"add it; columns: {', '.join(COLUMNS)}")
                for c in missing
            ],
        )
    if not table.num_rows:
        raise InputError(path, Problem("file", "", "holds no rows", "give a book with at least one account"))
    found = _Findings()
    pools, assets = tuple(system.pools), tuple(system.assets)
    pool = _codes(_text(table, "pool", path), "pool", pools, False, found)
    asset = _codes(_text(table, "asset", path), "asset", assets, True, found)
    account_text = _text(table, "account", path)
    no_account = np.asarray(pc.fill_null(pc.equal(account_text, ""), True))
    found.add(np.flatnonzero(no_account), "account", lambda _: "", "is empty", "name the account")
    asset_text = pc.fill_null(_text(table, "asset", path), "")
    positioned = ~np.asarray(pc.equal(asset_text, ""))
    wallet = _numbers(table, "wallet_balance_usd", np.ones(table.num_rows, bool), found)
    quantity = _numbers(table, "quantity", positioned, found)
    entry = _numbers(table, "entry_price_usd", positioned, found)
    stray = np.flatnonzero(~positioned & (np.abs(np.nan_to_num(quantity)) > 0))
    found.add(stray, "asset", lambda _: "", "is empty although the row has a quantity", "name the asset, or leave the quantity empty")
    found.add(
        np.flatnonzero(positioned & (entry <= 0)),
        "entry_price_usd",
        lambda r: f"{entry[r]:g}",
        "is not above zero",
        "give the average entry price",
    )

    encoded = account_text.combine_chunks().dictionary_encode()
    names = np.asarray(encoded.dictionary.to_pylist(), dtype=object)
    who = np.asarray(encoded.indices.fill_null(0)).astype(np.int64)
    key = who * (len(pools) + 1) + pool
    _, first, member = np.unique(key, return_index=True, return_inverse=True)
    differs = np.flatnonzero(np.abs(wallet - wallet[first][member]) > 1e-9 * np.maximum(1, np.abs(wallet)))
    found.add(
        differs,
        "wallet_balance_usd",
        lambda r: f"{wallet[r]:g}",
        "differs from the account's other rows in this pool",
        "repeat the account's one balance on every row",
    )
    position_key = np.where(asset >= 0, key * (len(assets) + 1) + asset, -1 - np.arange(len(key)))
    _, seen_first, seen = np.unique(position_key, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(seen_first[seen] != np.arange(len(key)))
    found.add(
        repeated,
        "asset",
        lambda r: repr(asset_text[r].as_py()),
        "the account already has a position in this asset and pool",
        "net the two into one row",
    )
    if found.problems:
        return Checked(book=None, errors=tuple(found.problems), warnings=(), rows=table.num_rows)

    n = len(first)
    price = np.asarray(reference_price, float)
    matrix = np.zeros((len(assets), n))
    held = asset >= 0
    matrix[asset[held], member[held]] = quantity[held]
    profit = np.zeros(n)
    np.add.at(profit, member[held], quantity[held] * (price[asset[held]] - entry[held]))
    book = Book(
        pools=pools,
        assets=assets,
        pool=pool[first].astype(np.int32),
        equity=wallet[first] + profit,
        quantity=matrix,
        reference_price=price,
        account=names[who[first]],
    )
    return Checked(book=book, errors=(), warnings=tuple(_warnings(book, system, first)), rows=table.num_rows)


def count(path: str | Path) -> int:
    """Number of accounts in a file of positions, without checking it. Raises InputError when it is no such table."""
    table = read_table(path, text=True)
    if not {"account", "pool"} <= set(table.column_names):
        raise InputError(path, Problem("column account", "", "or column pool is missing", f"columns: {', '.join(COLUMNS)}"))
    return table.select(["account", "pool"]).group_by(["account", "pool"]).aggregate([]).num_rows


def maintenance(book: Book, system: SystemSpec) -> np.ndarray:
    """(N,) maintenance margin in USD at the reference prices, before any policy multiplier."""
    total = np.zeros(len(book))
    for v, pool in enumerate(book.pools):
        rows = book.pool == v
        for a, asset in enumerate(book.assets):
            notional = np.abs(book.quantity[a, rows]) * book.reference_price[a]
            total[rows] += system.tier_table(pool, asset).maintenance(notional)
    return total


def _warnings(book: Book, system: SystemSpec, row: np.ndarray) -> list[Problem]:
    """Accounts that are allowed and yet worth knowing: bankrupt or under margin before anything has happened."""
    found = _Findings()
    bankrupt = book.equity < 0
    under = ~bankrupt & (book.equity < maintenance(book, system))
    for mask, what in ((bankrupt, "equity is below zero at present marks"), (under, "equity is below maintenance margin at present marks")):
        accounts = np.flatnonzero(mask)
        equity = dict(zip(row[accounts].tolist(), book.equity[accounts].tolist(), strict=True))
        found.add(
            np.sort(row[accounts]),
            "wallet_balance_usd",
            lambda r, equity=equity: f"equity {equity[r]:.6g}",
            what,
            "the account is liquidated in the first step; check balance, entry and the system's price_usd",
        )
    return found.problems


def read(path: str | Path, system: SystemSpec, reference_price: np.ndarray) -> Book:
    """Read a book or raise InputError with everything that is wrong with it."""
    checked = check(path, system, reference_price)
    if checked.book is None:
        raise InputError(path, checked.errors)
    return checked.book


def write(book: Book, path: str | Path) -> None:
    """Write a book as positions, entry prices at the reference; CSV or Parquet by the name."""
    path = Path(path)
    asset, row = np.nonzero(book.quantity)
    idle = np.flatnonzero(~np.any(book.quantity != 0, axis=0))
    order = np.argsort(np.concatenate([row, idle]), kind="stable")
    row = np.concatenate([row, idle])[order]
    asset = np.concatenate([asset, np.full(len(idle), -1)])[order]
    held = asset >= 0
    names = np.arange(len(book)) if book.account is None else book.account
    table = pa.table(
        {
            "account": pa.array(names[row]),
            "pool": pa.DictionaryArray.from_arrays(pa.array(book.pool[row]), pa.array(book.pools)).cast(pa.string()),
            "wallet_balance_usd": book.equity[row],
            "asset": pa.array(np.asarray(book.assets, dtype=object)[asset], mask=~held),
            "quantity": pa.array(np.where(held, book.quantity[asset, row], 0.0), mask=~held),
            "entry_price_usd": pa.array(np.where(held, book.reference_price[asset], 0.0), mask=~held),
        }
    )
    with atomically(path) as temporary:
        if is_parquet(path):
            pa_parquet.write_table(table, temporary)
        else:
            pa_csv.write_csv(table, temporary)
