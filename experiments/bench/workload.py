"""The benchmark's input: a book of accounts, three pools with twelve tiers, and two price paths."""

from dataclasses import dataclass

import numpy as np

from stresslev import assemble
from stresslev.book.book import Book
from stresslev.book.layout import sorts, to_blocks
from stresslev.config.load import load_system
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import SystemSpec
from stresslev.engine.impact import POWER, ImpactRules
from stresslev.engine.types import FULL, INSURANCE_FUND, RESTORE, Accounts, Path, Policy, System

#: Binance's brackets of BTC, used for every asset so that the number of tiers is the same everywhere.
TIERS = load_system("three_perp_venues").tiers["binance_BTC"]
FLOORS_USD, MAINTENANCE_RATES = np.array(TIERS.floors_usd), np.array(TIERS.maintenance_rates)
PRICES = np.array([100000.0, 4000.0, 200.0, 3.5])
POOLS = ("full", "full_with_capacity", "restore")
WORKLOADS = ("calm", "crash")
STEPS = 120
MAX_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """Everything but the accounts, float64 NumPy."""

    spec: SystemSpec
    system: System
    policy: Policy

    def accounts(self, book: Book, dtype) -> Accounts:
        """The book as the engine's one population."""
        [population] = to_blocks(book, sorts(self.spec), np.dtype(dtype)).populations
        return population


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


def _spec(accounts: Book) -> SystemSpec:
    """Three pools (full; full with capacity; restore) and markets whose depth is 2% of the gross notional."""
    by_asset = np.abs(accounts.value).sum(axis=1)
    by_pool = np.bincount(accounts.pool, weights=accounts.gross_notional, minlength=len(POOLS))
    # wanted of every venue whose book is sampled, which this is not
    interest = dict(zip(accounts.assets, by_asset / len(POOLS), strict=True))
    market = {
        "volatility": 0.6,
        "permanent_share": 0.05,
        "impact_half_life_minutes": 2,
        "volatility_half_life_minutes": 30,
        "depth_volatility_exponent": 0.35,
        "depth_floor": 0.05,
    }

    def pool(usd, fee_bps, taker_bps, rule="full", capacity=None):
        return {
            "kind": "perp",
            "insurance_fund_usd": 0.0002 * usd,
            "waterfall": ["insurance_fund"],
            "liquidation_fee_bps": fee_bps,
            "taker_fee_bps": taker_bps,
            "liquidation": {"rule": rule},
            "liquidation_capacity_usd_per_minute": capacity,
            "tiers": dict.fromkeys(accounts.assets, "binance_BTC"),
            "open_interest_usd": interest,
        }

    pools = (pool(by_pool[0], 50, 6), pool(by_pool[1], 50, 6, capacity=0.005 * by_pool[1]), pool(by_pool[2], 100, 5, rule="restore"))
    return SystemSpec.model_validate(
        {
            "kind": "system",
            "name": "bench",
            "assets": {name: market | {"depth_usd": 0.02 * usd} for name, usd in zip(accounts.assets, by_asset, strict=True)},
            "tiers": {"binance_BTC": TIERS},
            "pools": dict(zip(POOLS, pools, strict=True)),
        }
    )


def case(accounts: Book) -> Case:
    """The system that goes with a book, in steps of a minute, under the plain policy."""
    spec = _spec(accounts)
    grid = assemble.Grid(accounts.reference_price, 1.0)
    return Case(
        spec=spec,
        system=assemble.system_arrays(spec, accounts.reference_price, grid.step_minutes),
        policy=assemble.policy_arrays(PolicySpec(), spec, grid),
    )


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


def wide(accounts: int, assets: int, pools: int, dtype, seed: int = 0) -> tuple[System, Policy, Accounts]:
    """An engine system of any width: pools of equal size, all alike in their rules, an account holds one asset or two.

    Blocks of 256 accounts sorted by leverage within a pool, the last block of each padded with empty accounts. Depth is 2% of the gross notional.
    """
    rng, size = np.random.default_rng(seed), 256
    each = accounts // pools
    blocks = -(-each // size)
    shape, real = (pools, blocks * size), np.arange(blocks * size) < each
    notional = np.minimum((1 - rng.random(shape)) ** (-1 / 1.3), 1e5) * 20e3 * 0.3 / 1.3 * real
    leverage = -np.sort(-np.clip(5 * np.exp(0.8 * rng.standard_normal(shape)), 0.5, 30), axis=1)
    side = np.where(rng.random(shape) < 0.62, 1.0, -1.0)
    first, second = rng.integers(0, assets, shape, np.int8), rng.integers(0, assets, shape, np.int8)
    prices = 100.0 * 1.5 ** np.arange(assets)
    quantity, gross = [], np.zeros((pools, assets))
    for a in range(assets):
        held = notional * (0.6 * (first == a) + 0.4 * (second == a))
        gross[:, a] = held.sum(axis=1)
        quantity.append((side * held / prices[a]).astype(dtype).reshape(-1, size))
    cash = np.maximum(notional / leverage, 2.2 * _requirement(notional))
    population = Accounts(
        equity_at_reference=cash.astype(dtype).reshape(-1, size),
        quantity=tuple(quantity),
        liquidated=np.zeros((pools * blocks, size), bool),
        block_pool=np.repeat(np.arange(pools, dtype=np.int32), blocks),
    )
    ones, pool = np.ones(assets), np.ones(pools)
    impact = ImpactRules(
        form=np.full(assets, POWER, np.int32),
        depth=0.02 * np.maximum(gross.sum(axis=0), 1.0),
        exponent=0.7 * ones,
        scale=0 * ones,
        quantity=ones,
    )
    system = System(
        reference_price=prices,
        tier_floor=np.broadcast_to(FLOORS_USD, (pools, assets, len(FLOORS_USD))),
        tier_step=np.broadcast_to(np.diff(MAINTENANCE_RATES, prepend=0.0), (pools, assets, len(FLOORS_USD))),
        rule=np.where(np.arange(pools) % 3 == 2, RESTORE, FULL).astype(np.int32),
        target_health=1.2 * pool,
        close_factor=pool,
        full_below=0 * pool,
        liquidation_fee=0.005 * pool,
        taker_fee=0.0006 * pool,
        liquidator_fee=0 * pool,
        takeover=np.zeros(pools, bool),
        capacity=np.inf * pool,
        insurance_fund=0.0002 * gross.sum(axis=1),
        waterfall=np.full((pools, 1), INSURANCE_FUND, np.int32),
        impact=impact,
        permanent_share=0.05 * ones,
        transient_decay=0.7 * ones,
        volatility_decay=0.977 * ones,
        reference_variance=0.36 / 525600 * ones,
        depth_volatility_exponent=0.35 * ones,
        depth_floor=0.05 * ones,
        market=np.arange(assets, dtype=np.int32),
    )
    return system, Policy(maintenance_multiplier=np.ones((pools, assets))), population
