"""What a book looks like: per pool, and account by account."""

import jax
import numpy as np

from stresslev.book.book import Book
from stresslev.book.requirement import standing
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import SystemSpec
from stresslev.config.tiers import stack
from stresslev.engine.margin import bankruptcy_price, liquidation_price
from stresslev.errors import InputError, Problem


def describe(book: Book) -> list[dict]:
    """One row per pool: accounts, equity, sides, leverage and concentration; USD where named so. At a lender, long is supplied and short borrowed."""
    rows = []
    gross, value = book.gross_notional, book.value
    for v, pool in enumerate(book.pools):
        mine = book.pool == v
        longs = float(np.maximum(value[:, mine], 0).sum())
        shorts = float(np.maximum(-value[:, mine], 0).sum())
        own = np.sort(gross[mine])[::-1]
        top = int(np.ceil(len(own) / 100))
        equity = float(book.equity[mine].sum())
        total = float(own.sum())
        rows.append(
            {
                "pool": pool,
                "accounts": int(mine.sum()),
                "equity, USD": equity,
                "long, USD": longs,
                "short, USD": shorts,
                "leverage": total / equity if equity > 0 else float("nan"),
                "top 1% share": float(own[:top].sum() / total) if total > 0 else 0.0,
            }
        )
    return rows


def positions_of(book: Book, system: SystemSpec, account: str) -> list[tuple[dict, list[dict]]]:
    """For every account of that name: its totals, and its positions, with liquidation and bankruptcy prices where tiers give them.

    Raises:
      InputError: no such account.
    """
    found = np.flatnonzero(book.account == account) if book.account is not None else np.array([], int)
    if not len(found):
        raise InputError("book", Problem("account", repr(account), "is not in the book", "give a name from the column account"))
    have, required = standing(book, system)
    with jax.enable_x64(True):
        return [_positions(book, system, int(i), float(have[i]), float(required[i])) for i in found]


def _price(value) -> float | None:
    """A price, or None where no price above zero does it."""
    return float(value) if float(value) > 0 else None


def _positions(book: Book, system: SystemSpec, i: int, have: float, required: float) -> tuple[dict, list[dict]]:
    """Totals and positions of one account."""
    pool, equity = book.pools[book.pool[i]], float(book.equity[i])
    lends = isinstance(system.pools[pool], LendingSpec)
    summary = {
        "pool": pool,
        "equity": equity,
        "notional": float(book.gross_notional[i]),
        "debt" if lends else "maintenance margin": required,
        "health": have / required if required else float("inf"),
    }
    positions = []
    for a in np.flatnonzero(book.quantity[:, i]):
        q, price = float(book.quantity[a, i]), float(book.reference_price[a])
        table = system.tier_table(pool, book.assets[a])
        row = {"asset": book.assets[a], "quantity": q, "mark, USD": price}
        if table is not None and not (book.inverse is not None and book.inverse[book.pool[i], a]):
            own = float(table.maintenance(abs(q) * price))
            floor, step = stack([[table]])
            row |= {
                "maintenance, USD": own,
                "liquidation price, USD": _price(liquidation_price(q, have, price, required - own, floor[0, 0], step[0, 0])),
                "bankruptcy price, USD": _price(bankruptcy_price(q, equity, price)),
            }
        positions.append(row)
    if book.collateral is not None:
        for a in np.flatnonzero(book.collateral[:, i]):
            coins, price = float(book.collateral[a, i]), float(book.reference_price[a])
            positions.append({"asset": f"{book.assets[a]} (margin)", "quantity": coins, "mark, USD": price})
    return summary, positions
