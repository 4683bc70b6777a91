"""What a book looks like: per pool, and account by account."""

from collections.abc import Iterator

import numpy as np

from stresslev.book.book import Book
from stresslev.book.files import maintenance
from stresslev.config.spec import SystemSpec
from stresslev.config.tiers import stack
from stresslev.engine.margin import bankruptcy_price, liquidation_price
from stresslev.errors import InputError, Problem


def describe(book: Book) -> list[dict]:
    """One row per pool: accounts, equity, sides, leverage and concentration; USD where named so."""
    rows = []
    gross = book.gross_notional
    value = book.quantity * book.reference_price[:, None]
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
                "equity USD": equity,
                "long USD": longs,
                "short USD": shorts,
                "leverage": total / equity if equity > 0 else float("nan"),
                "top 1% share": float(own[:top].sum() / total) if total > 0 else 0.0,
            }
        )
    return rows


def positions_of(book: Book, system: SystemSpec, account: str) -> Iterator[tuple[dict, list[dict]]]:
    """For every pool an account is in: its totals, and its positions with liquidation and bankruptcy prices.

    Raises:
      InputError: no such account.
    """
    found = np.flatnonzero(book.account == account) if book.account is not None else np.array([], int)
    if not len(found):
        raise InputError("book", Problem("account", repr(account), "is not in the book", "give a name from the column account"))
    required = maintenance(book, system)
    for i in found:
        pool = book.pools[book.pool[i]]
        equity, margin = float(book.equity[i]), float(required[i])
        gross = float(book.gross_notional[i])
        summary = {
            "pool": pool,
            "equity": equity,
            "notional": gross,
            "maintenance margin": margin,
            "health": equity / margin if margin else float("inf"),
        }
        positions = []
        for a, asset in enumerate(book.assets):
            q, price = book.quantity[a, i], book.reference_price[a]
            if q == 0:
                continue
            table = system.tier_table(pool, asset)
            own = float(table.maintenance(abs(q) * price))
            floor, step = stack([[table]])
            positions.append(
                {
                    "asset": asset,
                    "quantity": float(q),
                    "mark USD": float(price),
                    "maintenance USD": own,
                    "liquidation price USD": float(liquidation_price(q, equity, price, margin - own, floor[0, 0], step[0, 0])),
                    "bankruptcy price USD": float(bankruptcy_price(q, equity, price)),
                }
            )
        yield summary, positions
