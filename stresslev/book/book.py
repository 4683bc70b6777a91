"""The book: a struct of arrays over accounts."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Book:
    """N accounts over V pools and A assets.

    Attributes:
      pools, assets: names.
      pool: (N,) int32 index into `pools`.
      equity: (N,) USD at the reference prices.
      quantity: (A, N) coins, signed; USD face where inverse; supplied less borrowed at a lender.
      reference_price: (A,) USD per coin at which `equity` holds.
      account: (N,) names from the file, or None for a sampled book.
      collateral: (A, N) coins posted with perp accounts; for an inverse contract with its face over the entry price added. None without.
      entry: (A, N) USD average entry prices, or None: profits then count from the reference prices.
      owner: (N,) int, -1 where nobody is named, or None.
      inverse: (V, A) bool contracts of fixed USD face, or None.
    """

    pools: tuple[str, ...]
    assets: tuple[str, ...]
    pool: np.ndarray
    equity: np.ndarray
    quantity: np.ndarray
    reference_price: np.ndarray
    account: np.ndarray | None = None
    collateral: np.ndarray | None = None
    entry: np.ndarray | None = None
    owner: np.ndarray | None = None
    inverse: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pool)

    def at_prices(self, reference_price: np.ndarray) -> "Book":
        """The same positions and equities in USD, restated in coins at other reference prices (A,)."""
        price = np.asarray(reference_price, float)
        ratio = (self.reference_price / price)[:, None]
        face = self._is_face()
        return replace(
            self,
            quantity=self.quantity * (ratio if face is None else np.where(face, 1.0, ratio)),
            collateral=None if self.collateral is None else self.collateral * ratio,
            entry=None if self.entry is None else self.entry / ratio,
            reference_price=price,
        )

    def _is_face(self) -> np.ndarray | None:
        """(A, N) bool: quantities in USD."""
        return None if self.inverse is None else self.inverse[self.pool].T

    @property
    def value(self) -> np.ndarray:
        """(A, N) USD: signed positions at the reference prices."""
        value = self.quantity * self.reference_price[:, None]
        face = self._is_face()
        return value if face is None else np.where(face, self.quantity, value)

    def cash(self, rows: np.ndarray) -> np.ndarray:
        """(n,) USD that borrowers hold, or owe, besides coins."""
        held = self.quantity[:, rows]
        cash = self.equity[rows] - (held * self.reference_price[:, None]).sum(axis=0)
        # what is left of a sum that cancels is rounding, not money
        scale = (np.abs(held) * self.reference_price[:, None]).sum(axis=0)
        return np.where(np.abs(cash) > 1e-12 * scale, cash, 0.0)

    @property
    def gross_notional(self) -> np.ndarray:
        """(N,) USD at the reference prices."""
        return np.abs(self.value).sum(axis=0)
