"""The benchmark's input: a book of accounts, three pools with twelve tiers, and two price paths."""

from dataclasses import dataclass

import numpy as np

from stresslev.book.book import Book
from stresslev.engine.types import Path, Policy, System

#: Binance USD-M leverage brackets of BTC/USDT on 2025-09-29, used for every asset so that the number of tiers is the same everywhere.
FLOORS_USD = np.array([0, 300e3, 800e3, 3e6, 12e6, 70e6, 100e6, 230e6, 480e6, 600e6, 800e6, 1200e6])
MAINTENANCE_RATES = np.array([0.004, 0.005, 0.0065, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.15, 0.25, 0.5])
PRICES = np.array([100000.0, 4000.0, 200.0, 3.5])
POOLS = ("full", "full_with_capacity", "restore")
WORKLOADS = ("calm", "crash")
STEPS = 120
MAX_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """Everything but the accounts, float64 NumPy."""

    system: System
    policy: Policy


def _requirement(notional: np.ndarray) -> np.ndarray:
    """Maintenance margin in USD of notionals in USD, any shape."""
    steps = np.diff(MAINTENANCE_RATES, prepend=0.0)
    k = np.searchsorted(FLOORS_USD, notional, side="right") - 1
    return MAINTENANCE_RATES[k] * notional - np.cumsum(steps * FLOORS_USD)[k]


def book(accounts: int, assets: int, seed: int = 0) -> Book:
    """Pareto sizes (exponent 1.3, mean 20,000 USD before the cap), 62% net long, log-normal leverage (median 5).

    With four assets an account holds two of them on average. Equity is never below twice the maintenance margin, so a small move triggers nobody.
    """
    rng = np.random.default_rng(seed)
    size = np.minimum((1 - rng.random(accounts)) ** (-1 / 1.3), 1e5) * 20e3 * 0.3 / 1.3
    first = rng.integers(0, assets, accounts)
    long_first = rng.random(accounts) < 0.62
    split = np.zeros((assets, accounts))
    for a in range(assets):
        held = (first == a) | (rng.random(accounts) < 1 / 3)
        with_first = (first == a) | (rng.random(accounts) >= 0.3)
        side = np.where(long_first == with_first, 1.0, -1.0)
        split[a] = np.where(held, side * rng.exponential(size=accounts), 0.0)
    split *= size / np.abs(split).sum(axis=0)
    leverage = np.clip(5 * np.exp(0.8 * rng.standard_normal(accounts)), 0.5, 100)
    required = sum(_requirement(np.abs(row)) for row in split)
    return Book(
        pools=POOLS,
        assets=tuple(f"asset{a}" for a in range(assets)),
        pool=np.sort(np.arange(accounts, dtype=np.int32) % len(POOLS)),
        equity=np.maximum(size / leverage, 2 * required),
        quantity=split / PRICES[:assets, None],
        reference_price=PRICES[:assets],
    )


def case(accounts: Book) -> Case:
    """Three pools (full; full with capacity; restore) and markets whose depth is 2% of the gross notional."""
    assets, pools = len(accounts.assets), len(POOLS)
    by_asset = np.array([np.abs(q).sum() * p for q, p in zip(accounts.quantity, accounts.reference_price, strict=True)])
    by_pool = np.bincount(accounts.pool, weights=accounts.gross_notional, minlength=pools)

    def table(row):
        return np.broadcast_to(row, (pools, assets, len(row))).copy()

    def same(value):
        return np.full(assets, value)

    minutes_per_year = 365 * 24 * 60
    system = System(
        reference_price=accounts.reference_price,
        tier_floor=table(FLOORS_USD),
        tier_step=table(np.diff(MAINTENANCE_RATES, prepend=0.0)),
        restore=np.array([False, False, True]),
        target_health=np.array([1.25, 1.25, 1.25]),
        liquidation_fee=np.array([0.005, 0.005, 0.01]),
        taker_fee=np.array([0.0006, 0.0006, 0.0005]),
        capacity=np.array([np.inf, 0.005 * by_pool[1], np.inf]),
        insurance_fund=0.0002 * by_pool,
        depth=0.02 * by_asset,
        impact_exponent=same(1.0),
        permanent_share=same(0.05),
        transient_decay=same(2 ** (-1 / 2)),
        volatility_decay=same(2 ** (-1 / 30)),
        reference_variance=same(0.6**2 / minutes_per_year),
        depth_volatility_exponent=same(0.35),
        depth_floor=same(0.05),
    )
    return Case(system=system, policy=Policy(maintenance_multiplier=np.ones((pools, assets))))


def path(workload: str, assets: int, steps: int = STEPS) -> Path:
    """`calm`: a wave of 0.2%; `crash`: a fall of 30%, five of them in one step half-way, with a ripple; all assets together."""
    t = np.arange(steps + 1)
    if workload == "calm":
        level = 0.002 * np.sin(2 * np.pi * t / 40)
    else:
        gap = np.log(0.95)
        level = (np.log(0.7) - gap) * t / steps + gap * (t > steps // 2) + 0.002 * np.sin(2 * np.pi * t / 7)
    path = (level[1:] - level[0])[:, None] * np.linspace(1.0, 1.05, assets)[None, :]
    return Path(log_price=path, depth_factor=np.ones((steps, assets)))
