"""The book: a struct of arrays over accounts, and its layout in blocks."""

from dataclasses import dataclass, replace

import numpy as np

from stresslev.engine.types import Accounts


@dataclass(frozen=True)
class Book:
    """N cross-margin accounts over V pools and A assets.

    Attributes:
      pools, assets: names.
      pool: (N,) int32 index into `pools`.
      equity: (N,) USD at the reference prices.
      quantity: (A, N) coins, signed.
      reference_price: (A,) USD per coin at which `equity` holds.
      account: (N,) names from the file, or None for a sampled book.
    """

    pools: tuple[str, ...]
    assets: tuple[str, ...]
    pool: np.ndarray
    equity: np.ndarray
    quantity: np.ndarray
    reference_price: np.ndarray
    account: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pool)

    def at_prices(self, reference_price: np.ndarray) -> "Book":
        """The same positions and equities in USD, restated in coins at other reference prices (A,)."""
        price = np.asarray(reference_price, float)
        return replace(self, quantity=self.quantity * (self.reference_price / price)[:, None], reference_price=price)

    @property
    def gross_notional(self) -> np.ndarray:
        """(N,) USD at the reference prices."""
        return np.einsum("an,a->n", np.abs(self.quantity), self.reference_price)


def block_size(accounts: int) -> int:
    """Accounts per block: large enough for dense sums, small enough that padding costs little."""
    return int(np.clip(2 ** np.floor(np.log2(max(accounts, 1) / 64)), 8, 1024))


def _distance(book: Book) -> np.ndarray:
    """(N,) equity over gross notional with the sign of the net position: accounts that fall together lie together."""
    gross = np.maximum(book.gross_notional, 1e-300)
    net = np.einsum("an,a->n", book.quantity, book.reference_price)
    return np.where(net >= 0, 1.0, -1.0) * book.equity / gross


def to_blocks(book: Book, dtype=np.float32) -> tuple[Accounts, np.ndarray]:
    """Sort by pool, then by signed distance to bankruptcy, and pad every pool to whole blocks.

    Returns:
      The accounts as NumPy arrays of `dtype`, and `slot` (N,): the flat place of each account of the book.
    """
    size = block_size(len(book))
    order = np.lexsort((_distance(book), book.pool))
    counts = np.bincount(book.pool, minlength=len(book.pools))
    blocks = -(-counts // size)
    first_slot = np.concatenate([[0], np.cumsum(blocks)[:-1]]) * size
    first_row = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sorted_pool = book.pool[order]
    slot = np.empty(len(book), np.int64)
    slot[order] = first_slot[sorted_pool] + np.arange(len(book)) - first_row[sorted_pool]
    total = int(blocks.sum())

    def place(values):
        out = np.zeros(total * size, dtype)
        out[slot] = values
        return out.reshape(total, size)

    accounts = Accounts(
        equity_at_reference=place(book.equity),
        quantity=tuple(place(q) for q in book.quantity),
        liquidated=np.zeros((total, size), bool),
        block_pool=np.repeat(np.arange(len(book.pools), dtype=np.int32), blocks),
    )
    return accounts, slot
