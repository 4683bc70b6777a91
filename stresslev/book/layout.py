"""From the book to the engine's populations: accounts sorted by pool, padded to blocks, pools of one sort together."""

from dataclasses import dataclass, replace

import numpy as np

from stresslev.book.book import Book
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import SystemSpec
from stresslev.engine.loans import Loans
from stresslev.engine.types import Accounts


@dataclass(frozen=True)
class Sort:
    """What a pool's accounts need to carry; assets are indices into the system's, () for all."""

    lends: bool = False
    assets: tuple[int, ...] = ()  # contracts of venues, reserves of lenders
    coins: tuple[int, ...] = ()  # accepted as margin
    portfolio_margin: bool = False
    posted: bool = False  # coins as margin, or inverse contracts
    aged: bool = False  # how long an account has been under margin


def sorts(system: SystemSpec) -> tuple[Sort, ...]:
    """By pool, what its accounts need to carry. Pools that differ only in their assets make one population, which holds the assets of any of them."""
    names = list(system.assets)
    found = []
    for pool in system.pools.values():
        if isinstance(pool, LendingSpec):
            found.append((Sort(lends=True), {*pool.reserves}, set()))
        else:
            rule = pool.liquidation
            kept = Sort(
                portfolio_margin=pool.portfolio_margin is not None,
                posted=bool(pool.collateral or pool.inverse),
                aged=rule.auction is not None or rule.queue == "first_in",
            )
            # under portfolio margin any asset can be a contract
            contracts = {*names} if pool.portfolio_margin is not None else {*pool.tiers}
            found.append((kept, contracts, {*pool.collateral, *pool.inverse}))

    def together(sort: Sort, which: int) -> tuple[int, ...]:
        held = set().union(*(f[which] for f in found if f[0] == sort))
        return tuple(i for i, name in enumerate(names) if name in held)

    return tuple(replace(sort, assets=together(sort, 1), coins=together(sort, 2)) for sort, _, _ in found)


@dataclass(frozen=True)
class Layout:
    """The engine's populations, and where each account of the book went."""

    populations: tuple[Accounts | Loans, ...]
    rows: tuple[np.ndarray, ...]  # per population, rows of the book
    slots: tuple[np.ndarray, ...]  # per population, flat slot of each of those rows


def block_size(accounts: int) -> int:
    """Accounts per block: large enough for dense sums, small enough that padding costs little."""
    return int(np.clip(2 ** np.floor(np.log2(max(accounts, 1) / 64)), 8, 1024))


def _distance(book: Book, rows: np.ndarray) -> np.ndarray:
    """Equity over gross notional with the sign of the net position: accounts that fall together lie together."""
    value = book.value[:, rows]
    gross = np.maximum(np.abs(value).sum(axis=0), 1e-300)
    return np.where(value.sum(axis=0) >= 0, 1.0, -1.0) * book.equity[rows] / gross


def _slots(book: Book, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat slot of each row, and the pool of each block."""
    pool = book.pool[rows]
    order = np.lexsort((_distance(book, rows), pool))
    counts = np.bincount(pool, minlength=len(book.pools))
    blocks = -(-counts // size)
    first_slot = np.concatenate([[0], np.cumsum(blocks)[:-1]]) * size
    first_row = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sorted_pool = pool[order]
    slot = np.empty(len(rows), np.int64)
    slot[order] = first_slot[sorted_pool] + np.arange(len(rows)) - first_row[sorted_pool]
    return slot, np.repeat(np.arange(len(book.pools), dtype=np.int32), blocks)


def _population(book: Book, sort: Sort, rows: np.ndarray, dtype) -> tuple[Accounts | Loans, np.ndarray]:
    size = block_size(len(rows))
    slot, block_pool = _slots(book, rows, size)
    shape = (len(block_pool), size)

    def place(values, fill=0):
        out = np.full(shape[0] * size, fill, dtype)
        out[slot] = values
        return out.reshape(shape)

    everything = tuple(range(len(book.assets)))
    assets = sort.assets or everything

    def several(matrix, which, fill=0):
        return tuple(place(matrix[a, rows], fill) for a in which)

    untouched, ages = np.zeros(shape, bool), np.zeros(shape, np.int32)
    if sort.lends:
        owned = book.quantity
        return Loans(
            supply=several(np.maximum(owned, 0), assets),
            debt=several(np.maximum(-owned, 0), assets),
            cash=place(book.cash(rows)),
            liquidated=untouched,
            age=ages,
            block_pool=block_pool,
            assets=assets,
        ), slot
    coins = sort.coins or everything if sort.posted else ()
    zeros = np.zeros((len(book.assets), len(book)))
    return Accounts(
        equity_at_reference=place(book.equity[rows]),
        quantity=several(book.quantity, assets),
        liquidated=untouched,
        block_pool=block_pool,
        collateral=several(zeros if book.collateral is None else book.collateral, coins),
        entry=() if book.entry is None else several(np.where(book.entry > 0, book.entry, book.reference_price[:, None]), assets, 1),
        age=ages if sort.aged else None,
        portfolio_margin=sort.portfolio_margin,
        contracts=assets,
        coins=coins,
    ), slot


def to_blocks(book: Book, sorts: tuple[Sort, ...] | None = None, dtype=np.float32) -> Layout:
    """Sort by pool, then by signed distance to bankruptcy, and pad every pool to whole blocks; pools of one sort make one population.

    Args: `sorts` by pool; plain perp venues when not given.
    """
    sorts = sorts or (Sort(),) * len(book.pools)
    populations, rows, slots = [], [], []
    for sort in dict.fromkeys(sorts):
        mine = np.flatnonzero(np.isin(book.pool, [v for v, s in enumerate(sorts) if s == sort]))
        if len(mine):
            population, slot = _population(book, sort, mine, dtype)
            populations.append(population)
            rows.append(mine)
            slots.append(slot)
    return Layout(tuple(populations), tuple(rows), tuple(slots))
