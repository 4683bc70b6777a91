"""The calibrated sampler: a synthetic book whose open interest, sides, sizes and leverage are given."""

import numpy as np

from stresslev.book.book import Book
from stresslev.config.spec import PoolSpec, SystemSpec
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


def _sides(pool: PoolSpec, assets: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
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


def _pool_book(system: SystemSpec, name: str, index: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed notionals (A, n) and equities (n,), USD, of one pool."""
    spec, pool, assets = system.book, system.pools[name], tuple(system.assets)
    longs, shorts = _sides(pool, assets)
    interest = np.maximum(longs, shorts)
    tilt = np.array([pool.imbalance.get(a, 0.0) for a in assets])
    chunks = [(start, min(_CHUNK, n - start)) for start in range(0, n, _CHUNK)]
    size, notional, score = np.empty(n), np.empty((len(assets), n)), np.empty(n)
    for start, count in chunks:
        part = slice(start, start + count)
        size[part], notional[:, part], score[part] = _draw(system, interest, tilt, count, (seed, index, start))
    for _ in range(8):  # the cap lowers the total it is a share of
        size = np.minimum(size, max(spec.largest_account_share, 1.0 / n) * size.sum())
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
    initial = sum(system.tier_table(name, asset).initial(np.abs(notional[a])) for a, asset in enumerate(assets))
    return notional, np.maximum(gross / leverage, initial)


def sample(system: SystemSpec, seed: int) -> Book:
    """Draw the book of a system, with one coin worth one USD: quantities are USD notionals until `Book.at_prices` restates them.

    Per pool: Pareto sizes, capped; assets by open interest; sides by imbalance, scaled so that each side of each asset meets its open
    interest exactly; log-normal leverage that falls with size; equity never below the venue's initial margin.

    Args:
      system: with `open_interest_usd` for its pools.
      seed: with it the book is the same on every machine and for every memory size.
    """
    if system.book.file is not None or not all(p.open_interest_usd for p in system.pools.values()):
        fix = "give every pool open_interest_usd and leave book.file out"
        raise InputError(f"system {system.name}", Problem("book", "", "the system has a book from a file, not one to sample", fix))
    names = tuple(system.pools)
    sizes = _pool_sizes(system)
    parts = [_pool_book(system, name, v, int(n), seed) for v, (name, n) in enumerate(zip(names, sizes, strict=True)) if n > 0]
    if np.any(sizes == 0):
        raise InputError(
            f"system {system.name}", Problem("book.accounts", str(system.book.accounts), "leaves a pool without accounts", "sample more accounts")
        )
    return Book(
        pools=names,
        assets=tuple(system.assets),
        pool=np.repeat(np.arange(len(names), dtype=np.int32), sizes),
        equity=np.concatenate([p[1] for p in parts]),
        quantity=np.concatenate([p[0] for p in parts], axis=1),
        reference_price=np.ones(len(system.assets)),
    )
