"""Books on disk: one row per position, CSV or Parquet, and what can be wrong with them.

Columns:
  account            text or integer; one account's rows share one balance (cross margin)
  pool               name of a pool of the system
  wallet_balance_usd USD, deposits and realised profit, the same on every row of the account in that pool; at a lender USD held, or owed below zero
  asset              name of an asset of the system; empty for an account without positions
  quantity           coins, long > 0, short < 0 (USD face for inverse contracts); at a lender supplied > 0, borrowed < 0
  entry_price_usd    USD per coin, average entry; empty at a lender
  margin_mode        optional: "cross" (as is an empty cell) or "isolated": the row is an account of its own, with its own balance
  collateral         optional: coins of the asset posted as margin
  owner              optional: accounts of one owner move margin to each other, where the system says so
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from stresslev.book.book import Book
from stresslev.book.requirement import standing
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import SystemSpec
from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.tables import is_parquet, read_table
from stresslev.write import atomically

COLUMNS = ("account", "pool", "wallet_balance_usd", "asset", "quantity", "entry_price_usd")
OPTIONAL = ("margin_mode", "collateral", "owner")
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

    found.add(np.flatnonzero(wrong), column, shown, "is not a number", "give a plain number, with a point and without separators of thousands")
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
      system: names of pools and assets, requirements for the warnings.
      reference_price: (A,) USD per coin, the present marks at which equity is taken.

    Raises:
      InputError: only when the file cannot be read as a table with the needed columns.
    """
    path = Path(path)
    table = read_table(path, text=True)
    _check_columns(table, path)
    found = _Findings()
    rows = _rows(table, path, system, found)
    if not found.problems:
        _check_positions(rows, system, found)
    if found.problems:
        return Checked(book=None, errors=tuple(found.problems), warnings=(), rows=table.num_rows)
    book, first = _book(rows, system, np.asarray(reference_price, float))
    return Checked(book=book, errors=(), warnings=tuple(_warnings(book, system, first)), rows=table.num_rows)


def _check_columns(table: pa.Table, path: Path) -> None:
    missing = [c for c in COLUMNS if c not in table.column_names]
    if missing:
        extra = [c for c in table.column_names if c not in COLUMNS + OPTIONAL]
        if len(table.column_names) == 1 and any(sign in extra[0] for sign in ";\t|"):
            raise InputError(path, Problem("file", shorten(extra[0]), "is not separated by commas", "save it with commas between columns"))
        problems = []
        for c in missing:
            near = difflib.get_close_matches(c, extra, n=1, cutoff=0.5) or (extra if len(missing) == len(extra) == 1 else [])
            fix = f"rename column {near[0]!r} if it holds that" if near else f"add it; columns: {', '.join(COLUMNS)}"
            problems.append(Problem(f"column {c}", "", "is missing", fix))
        raise InputError(path, problems)
    if not table.num_rows:
        raise InputError(path, Problem("file", "", "holds no rows", "give a book with at least one account"))


@dataclass(frozen=True)
class _Rows:
    """The table's columns as arrays, one entry per row."""

    pool: np.ndarray
    asset: np.ndarray  # -1 where empty
    asset_text: pa.ChunkedArray
    who: np.ndarray  # index into `names`
    names: np.ndarray
    wallet: np.ndarray
    quantity: np.ndarray
    entry: np.ndarray
    posted: np.ndarray | None
    isolated: np.ndarray
    owner: np.ndarray | None  # -1 where empty

    @property
    def key(self) -> np.ndarray:
        """Which rows share one account: those of one name in one pool, unless isolated."""
        shared = self.who * (int(self.pool.max()) + 1) + self.pool
        return np.where(self.isolated, shared.max() + 1 + np.arange(len(shared)), shared)


def _rows(table: pa.Table, path: Path, system: SystemSpec, found: _Findings) -> _Rows:
    pools, assets = tuple(system.pools), tuple(system.assets)
    pool = _codes(_text(table, "pool", path), "pool", pools, False, found)
    asset = _codes(_text(table, "asset", path), "asset", assets, True, found)
    account_text = _text(table, "account", path)
    no_account = np.asarray(pc.fill_null(pc.equal(account_text, ""), True))
    found.add(np.flatnonzero(no_account), "account", lambda _: "", "is empty", "name the account")
    asset_text = pc.fill_null(_text(table, "asset", path), "")
    positioned = ~np.asarray(pc.equal(asset_text, ""))
    lends = np.array([isinstance(p, LendingSpec) for p in system.pools.values()])
    at_lender = (pool >= 0) & lends[np.maximum(pool, 0)]
    posted = None
    if "collateral" in table.column_names:
        posted = np.nan_to_num(_numbers(table, "collateral", np.zeros(table.num_rows, bool), found))
    only_posted = np.zeros(table.num_rows, bool) if posted is None else posted != 0
    wallet = _numbers(table, "wallet_balance_usd", np.ones(table.num_rows, bool), found)
    quantity = _numbers(table, "quantity", positioned & ~only_posted, found)
    held = positioned & (np.nan_to_num(quantity) != 0)
    entry = _numbers(table, "entry_price_usd", positioned & ~at_lender & (held | ~only_posted), found)
    stray = np.flatnonzero(~positioned & ((np.abs(np.nan_to_num(quantity)) > 0) | only_posted))
    found.add(stray, "asset", lambda _: "", "is empty although the row has a quantity", "name the asset, or leave the quantity empty")
    found.add(
        np.flatnonzero(held & ~at_lender & (entry <= 0)),
        "entry_price_usd",
        lambda r: f"{entry[r]:g}",
        "is not above zero",
        "give the average entry price",
    )
    isolated = np.zeros(table.num_rows, bool)
    if "margin_mode" in table.column_names:
        modes = pc.fill_null(_text(table, "margin_mode", path), "")
        isolated = np.asarray(pc.equal(modes, "isolated"))
        other = np.flatnonzero(~isolated & ~np.asarray(pc.is_in(modes, value_set=pa.array(["", "cross"]))))
        found.add(other, "margin_mode", lambda r: repr(modes[r].as_py()), "is no margin mode", 'write "cross" or "isolated"')
    owner = None
    if "owner" in table.column_names:
        text = pc.fill_null(_text(table, "owner", path), "")
        codes = text.combine_chunks().dictionary_encode()
        owner = np.where(np.asarray(pc.equal(text, "")), -1, np.asarray(codes.indices)).astype(np.int64)
    encoded = account_text.combine_chunks().dictionary_encode()
    return _Rows(
        pool=pool,
        asset=asset,
        asset_text=asset_text,
        who=np.asarray(encoded.indices.fill_null(0)).astype(np.int64),
        names=np.asarray(encoded.dictionary.to_pylist(), dtype=object),
        wallet=wallet,
        quantity=np.where(positioned, np.nan_to_num(quantity), 0.0),
        entry=entry,
        posted=posted,
        isolated=isolated,
        owner=owner,
    )


def _check_positions(rows: _Rows, system: SystemSpec, found: _Findings) -> None:
    """What single cells do not show: balances that differ, positions given twice, assets a pool does not have."""
    _, first, member = np.unique(rows.key, return_index=True, return_inverse=True)
    wallet, assets = rows.wallet, len(system.assets)
    differs = np.flatnonzero(np.abs(wallet - wallet[first][member]) > 1e-9 * np.maximum(1, np.abs(wallet)))
    found.add(
        differs,
        "wallet_balance_usd",
        lambda r: f"{wallet[r]:g}",
        "differs from the account's other rows in this pool",
        "repeat the account's one balance on every row",
    )
    position_key = np.where(rows.asset >= 0, rows.key * (assets + 1) + rows.asset, -1 - np.arange(len(rows.key)))
    _, seen_first, seen = np.unique(position_key, return_index=True, return_inverse=True)
    found.add(
        np.flatnonzero(seen_first[seen] != np.arange(len(rows.key))),
        "asset",
        lambda r: repr(rows.asset_text[r].as_py()),
        "the account already has a position in this asset and pool",
        "net the two into one row",
    )
    for v, (name, pool) in enumerate(system.pools.items()):
        here = (rows.pool == v) & (rows.asset >= 0)
        lender = isinstance(pool, LendingSpec)
        known = pool.reserves if lender else None if pool.portfolio_margin is not None else pool.tiers
        if known is not None:
            listed = np.array([a in known for a in system.assets])
            wrong = np.flatnonzero(here & (rows.quantity != 0) & ~listed[np.maximum(rows.asset, 0)])
            what = f"is no reserve of pool {name}" if lender else f"is no contract of pool {name}: it has no tiers"
            found.add(wrong, "asset", lambda r: repr(rows.asset_text[r].as_py()), what, did_you_mean("", known))
        if rows.posted is not None:
            accepted = set() if lender else {*pool.collateral, *pool.inverse}
            listed = np.array([a in accepted for a in system.assets])
            wrong = np.flatnonzero(here & (rows.posted != 0) & ~listed[np.maximum(rows.asset, 0)])
            fix = "at a lender, put it in quantity" if lender else "name it in the pool's collateral, with a haircut"
            found.add(wrong, "collateral", lambda r: f"{rows.posted[r]:g}", f"pool {name} takes no such coin as margin", fix)


def _book(rows: _Rows, system: SystemSpec, price: np.ndarray) -> tuple[Book, np.ndarray]:
    """The book, and the first row of each account."""
    _, first, member = np.unique(rows.key, return_index=True, return_inverse=True)
    n, assets, pools = len(first), len(system.assets), list(system.pools.values())
    lends = np.array([isinstance(p, LendingSpec) for p in pools])
    inverse = np.array([[not isinstance(p, LendingSpec) and a in p.inverse for a in system.assets] for p in pools])
    held = np.flatnonzero((rows.asset >= 0) & (rows.quantity != 0))
    a, i, q = rows.asset[held], member[held], rows.quantity[held]
    lent, face = lends[rows.pool[held]], inverse[rows.pool[held], a]
    entry = np.where(lent, price[a], rows.entry[held])
    quantity, entries = np.zeros((assets, n)), np.zeros((assets, n))
    quantity[a, i], entries[a, i] = q, entry
    equity = rows.wallet[first].copy()
    coins_per_face = np.where(face, 1 / entry, 0.0)
    # linear contracts: profit; inverse ones: coins bought with borrowed dollars; loans: what they are worth
    worth = np.where(lent, q * price[a], np.where(face, q * (coins_per_face * price[a] - 1), q * (price[a] - entry)))
    np.add.at(equity, i, worth)
    collateral = None
    if rows.posted is not None or inverse.any():
        collateral = np.zeros((assets, n))
        np.add.at(collateral, (a, i), q * coins_per_face)
        if rows.posted is not None:
            put = np.flatnonzero((rows.asset >= 0) & (rows.posted != 0))
            np.add.at(collateral, (rows.asset[put], member[put]), rows.posted[put])
            np.add.at(equity, member[put], rows.posted[put] * price[rows.asset[put]])
    return Book(
        pools=tuple(system.pools),
        assets=tuple(system.assets),
        pool=rows.pool[first].astype(np.int32),
        equity=equity,
        quantity=quantity,
        reference_price=price,
        account=rows.names[rows.who[first]],
        collateral=collateral,
        entry=entries,
        owner=None if rows.owner is None else rows.owner[first],
        inverse=inverse if inverse.any() else None,
    ), first


def count(path: str | Path) -> int:
    """Number of accounts in a file of positions, without checking it. Raises InputError when it is no such table."""
    table = read_table(path, text=True)
    if not {"account", "pool"} <= set(table.column_names):
        raise InputError(path, Problem("column account", "", "or column pool is missing", f"columns: {', '.join(COLUMNS)}"))
    shared = table
    isolated = 0
    if "margin_mode" in table.column_names:
        alone = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(pc.cast(table["margin_mode"], pa.string())), "isolated"), False)
        isolated, shared = pc.sum(alone).as_py() or 0, table.filter(pc.invert(alone))
    return isolated + shared.select(["account", "pool"]).group_by(["account", "pool"]).aggregate([]).num_rows


def _warnings(book: Book, system: SystemSpec, row: np.ndarray) -> list[Problem]:
    """Accounts that are allowed and yet worth knowing: bankrupt or under margin before anything has happened."""
    found = _Findings()
    have, required = standing(book, system)
    bankrupt = book.equity < 0
    under = ~bankrupt & (have < required)
    for mask, what in ((bankrupt, "equity is below zero at present marks"), (under, "equity is below its requirement at present marks")):
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


def write(book: Book, path: str | Path, lends: tuple[bool, ...] | None = None) -> None:
    """Write a book as positions, entry prices at the reference; CSV or Parquet by the name.

    Args: `lends` by pool, for books with lenders in them.
    """
    path = Path(path)
    price = book.reference_price[:, None]
    at_lender = np.zeros(len(book), bool) if lends is None else np.asarray(lends)[book.pool]
    face = np.zeros(book.quantity.shape, bool) if book.inverse is None else book.inverse[book.pool].T
    posted = np.zeros_like(book.quantity) if book.collateral is None else book.collateral - np.where(face, book.quantity / price, 0.0)
    wallet = book.equity - (posted * price).sum(axis=0) - np.where(at_lender, (book.quantity * price).sum(axis=0), 0.0)
    asset, row = np.nonzero((book.quantity != 0) | (posted != 0))
    idle = np.setdiff1d(np.arange(len(book)), row)
    order = np.argsort(np.concatenate([row, idle]), kind="stable")
    row = np.concatenate([row, idle])[order]
    asset = np.concatenate([asset, np.full(len(idle), -1)])[order]
    held = asset >= 0
    names = np.arange(len(book)) if book.account is None else book.account
    columns = {
        "account": pa.array(names[row]),
        "pool": pa.DictionaryArray.from_arrays(pa.array(book.pool[row]), pa.array(book.pools)).cast(pa.string()),
        "wallet_balance_usd": wallet[row],
        "asset": pa.array(np.asarray(book.assets, dtype=object)[asset], mask=~held),
        "quantity": pa.array(np.where(held, book.quantity[asset, row], 0.0), mask=~held),
        "entry_price_usd": pa.array(np.where(held, book.reference_price[asset], 0.0), mask=~held | at_lender[row]),
    }
    if book.account is not None:
        _, account, repeats = np.unique(names.astype(str), return_inverse=True, return_counts=True)
        several = repeats[account] > 1  # isolated positions of one account, or one name in several pools: balances of their own either way
        columns["margin_mode"] = np.where(several & ~at_lender, "isolated", "cross")[row]
    if book.collateral is not None:
        columns["collateral"] = np.where(held, posted[asset, row], 0.0)
    if book.owner is not None:
        columns["owner"] = pa.array(book.owner[row].astype(str), mask=book.owner[row] < 0)
    table = pa.table(columns)
    with atomically(path) as temporary:
        if is_parquet(path):
            pa_parquet.write_table(table, temporary)
        else:
            pa_csv.write_csv(table, temporary)
