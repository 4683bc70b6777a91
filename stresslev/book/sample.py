"""The calibrated sampler: a synthetic book whose open interest, sides, sizes and leverage are given."""

from dataclasses import replace

import numpy as np

from stresslev.book import borrowers
from stresslev.book.book import Book
from stresslev.book.requirement import standing
from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.config.spec import SystemSpec
from stresslev.errors import InputError, Problem

#: Accounts drawn from one random stream; fixes the draw whatever the memory.
_CHUNK = 1 << 18


def _pool_sizes(system: SystemSpec) -> np.ndarray:
    weights = np.array([p.book.account_weight for p in system.pools.values()])
    exact = system.book.accounts * weights / weights.sum()
    sizes = np.floor(exact).astype(int)
    for v in np.argsort(sizes - exact)[: system.book.accounts - sizes.sum()]:
        sizes[v] += 1
    return sizes


def _draw(system: SystemSpec, interest: np.ndarray, imbalance: np.ndarray, n: int, stream: tuple[int, ...]):
    """Raw sizes (n,), signed raw notionals (A, n) and standard normal leverage scores (n,) of one chunk."""
    spec = system.book
    rng = np.random.default_rng(np.random.SeedSequence(stream))
    assets = len(interest)
    size = (1 - rng.random(n)) ** (-1 / spec.pareto_exponent)
    held = 1 + rng.binomial(assets - 1, min(1.0, (spec.positions_mean - 1) / max(assets - 1, 1)), n)
    with np.errstate(divide="ignore"):
        weight = np.log(interest)[:, None] + rng.gumbel(size=(assets, n))
    rank = np.argsort(np.argsort(-weight, axis=0), axis=0)  # Gumbel top-k: assets by open interest, without replacement
    chosen = (rank < held) & (interest > 0)[:, None]
    split = rng.exponential(size=(assets, n)) * chosen
    split /= split.sum(axis=0)
    long_first = rng.random(n) < (1 + imbalance[np.argmin(rank, axis=0)]) / 2
    flipped = (rng.random((assets, n)) < spec.hedge_share) & (rank > 0)
    side = np.where(long_first[None, :] ^ flipped, 1.0, -1.0)
    return size, side * split, rng.standard_normal(n)


def _sides(pool: PerpSpec, assets: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(A,) USD that customers hold long and short; open interest is the larger side, makers hold the difference."""
    interest = np.array([pool.open_interest_usd.get(a, 0.0) for a in assets])
    tilt = np.array([pool.imbalance.get(a, 0.0) for a in assets])
    smaller = interest * (1 - np.abs(tilt)) / (1 + np.abs(tilt))
    return np.where(tilt >= 0, interest, smaller), np.where(tilt >= 0, smaller, interest)


def _enter(row: np.ndarray, size: np.ndarray, side: float, file: str, key: str) -> None:
    """Give one idle account a position on a side of an asset that a small sample left empty. Raises InputError when all are taken."""
    idle = np.flatnonzero(row == 0)
    if not len(idle):
        what = "the sample has too few accounts for somebody to hold each side"
        raise InputError(file, Problem(key, "", what, "sample more accounts, or give every pool a larger account_weight"))
    row[idle[0]] = side * size[idle[0]]


def _sizes(system: SystemSpec, name: str, index: int, n: int, seed: int, interest: np.ndarray, tilt: np.ndarray):
    """Capped raw sizes (n,), signed shares (A, n) and leverage scores (n,) of one pool."""
    spec = system.book
    size, notional, score = np.empty(n), np.empty((len(interest), n)), np.empty(n)
    for start in range(0, n, _CHUNK):
        part = slice(start, min(start + _CHUNK, n))
        size[part], notional[:, part], score[part] = _draw(system, interest, tilt, part.stop - start, (seed, index, start))
    for _ in range(8):  # the cap lowers the total it is a share of
        size = np.minimum(size, max(spec.largest_account_share, 1.0 / n) * size.sum())
    return size, notional, score


def _perp_book(system: SystemSpec, name: str, index: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed notionals (A, n) and equities (n,), USD, of one venue."""
    spec, pool, assets = system.book, system.pools[name], tuple(system.assets)
    longs, shorts = _sides(pool, assets)
    interest = np.maximum(longs, shorts)
    tilt = np.array([pool.imbalance.get(a, 0.0) for a in assets])
    size, notional, score = _sizes(system, name, index, n, seed, interest, tilt)
    notional *= size
    for a, asset in enumerate(assets):
        row = notional[a]
        for target, side in ((longs[a], 1.0), (shorts[a], -1.0)):
            if target > 0 and not np.any(row * side > 0):
                _enter(row, size, side, f"system {system.name}", f"pools.{name}.open_interest_usd.{asset}")
            mask = row * side > 0
            row[mask] *= target / np.abs(row[mask]).sum() if target > 0 else 0.0
    gross = np.abs(notional).sum(axis=0)
    median = pool.book.leverage_median or spec.leverage_median
    relative = np.log(size / np.median(size))
    leverage = median * np.exp(spec.leverage_sigma * score + spec.leverage_size_elasticity * relative)
    leverage = np.clip(leverage, spec.leverage_min, spec.leverage_max)
    tables = [(notional[a], system.tier_table(name, asset)) for a, asset in enumerate(assets)]
    initial = sum((table.initial(np.abs(held)) for held, table in tables if table is not None), np.zeros(n))
    return notional, np.maximum(gross / leverage, initial)


#: Least equity over maintenance that a sampled account starts with, where the requirement is not that of tiers alone.
_LEAST_HEALTH = 1.1


def _posted(system: SystemSpec, quantity: np.ndarray, equity: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Coins that accounts have posted, at one USD a coin (A, N), and which contracts are inverse (V, A); None where there is nothing of the sort."""
    perps = [(v, p) for v, p in enumerate(system.pools.values()) if isinstance(p, PerpSpec) and (p.collateral or p.inverse)]
    if not perps:
        return None, None
    assets = tuple(system.assets)
    coins, inverse = np.zeros_like(quantity), np.zeros((len(system.pools), len(assets)), bool)
    for v, spec in perps:
        rows = np.flatnonzero(pool == v)
        for asset, terms in spec.collateral.items():
            coins[assets.index(asset), rows] += terms.share * equity[rows]
        faces = [assets.index(a) for a in spec.inverse]
        inverse[v, faces] = True
        held = np.abs(quantity[np.ix_(faces, rows)])
        total = held.sum(axis=0)
        for a, own in zip(faces, held, strict=True):
            margin = np.where(total > 0, own / np.where(total > 0, total, 1), 0) * equity[rows]
            coins[a, rows] += margin + quantity[a, rows]
    return coins, inverse if inverse.any() else None


def _owners(system: SystemSpec, pool: np.ndarray, seed: int) -> np.ndarray | None:
    """(N,) owner of each account: a share of every pool's accounts is paired with accounts of the next pool."""
    if system.book.owners_share == 0:
        return None
    rng = np.random.default_rng(np.random.SeedSequence((seed, 1 << 20)))
    owner = np.full(len(pool), -1, np.int64)
    fresh = 0
    for v in range(len(system.pools) - 1):
        here, there = np.flatnonzero(pool == v), np.flatnonzero(pool == v + 1)
        pairs = int(system.book.owners_share * min(len(here), len(there)))
        left, right = rng.permutation(here)[:pairs], rng.permutation(there)[:pairs]
        new = owner[left] < 0
        owner[left[new]] = fresh + np.arange(new.sum())
        fresh += int(new.sum())
        owner[right] = owner[left]
    return owner


def sample(system: SystemSpec, seed: int) -> Book:
    """Draw the book of a system, with one coin worth one USD: quantities are USD notionals until `Book.at_prices` restates them.

    Venues: Pareto sizes, capped; assets by open interest; sides by imbalance, scaled so that each side of each asset meets its open
    interest exactly; log-normal leverage that falls with size; equity never below the venue's initial margin. Lenders: see `borrowers`.

    Args:
      system: with `open_interest_usd` for its venues and `borrowed_usd` for its lenders.
      seed: with it the book is the same on every machine and for every memory size.
    """
    for name, pool in system.pools.items():
        if not isinstance(pool, LendingSpec) and not pool.open_interest_usd:
            fix = "give every pool open_interest_usd, or name a book with book.file"
            raise InputError(f"system {system.name}", Problem(f"pools.{name}.open_interest_usd", "", "is missing: there is nothing to sample", fix))
    names = tuple(system.pools)
    sizes = _pool_sizes(system)
    parts = []
    for v, (name, n) in enumerate(zip(names, sizes, strict=True)):
        if n == 0:
            continue
        if isinstance(system.pools[name], LendingSpec):
            parts.append(borrowers.sample(system, name, int(n), (seed, v)))
        else:
            parts.append(_perp_book(system, name, v, int(n), seed))
    if np.any(sizes == 0):
        raise InputError(
            f"system {system.name}", Problem("book.accounts", str(system.book.accounts), "leaves a pool without accounts", "sample more accounts")
        )
    pool = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
    quantity, equity = np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts])
    collateral, inverse = _posted(system, quantity, equity, pool)
    return Book(
        pools=names,
        assets=tuple(system.assets),
        pool=pool,
        equity=equity,
        quantity=quantity,
        reference_price=np.ones(len(system.assets)),
        collateral=collateral,
        inverse=inverse,
        owner=_owners(system, pool, seed),
    )


def margined(book: Book, system: SystemSpec) -> Book:
    """The book with at least `_LEAST_HEALTH` for every account of venues whose requirement is not that of tiers alone, in USD.

    To be applied once quantities are in coins: requirements may depend on them.
    """

    def special(p):
        return isinstance(p, PerpSpec) and (p.portfolio_margin or p.size_scale or p.open_interest_scale or p.collateral or p.inverse)

    rows = np.isin(book.pool, [v for v, p in enumerate(system.pools.values()) if special(p)])
    if not rows.any():
        return book
    have, required = standing(book, system)
    missing = np.where(rows, np.maximum(_LEAST_HEALTH * required - have, 0), 0)
    return replace(book, equity=book.equity + missing)
