"""How perp accounts stand: equity, requirement and health at the pools' marks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import margin, portfolio, requirement
from stresslev.engine.blocks import column
from stresslev.engine.types import Accounts, Auctions, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prices:
    """What pools see and what the market pays, (V, A), USD per coin."""

    mark: Array  # decides who is under margin
    mark_displaced: Array  # mark less the reference price
    venue: Array  # what a sale would fetch before its own impact
    venue_displaced: Array
    funding: Array  # funding a long has paid per coin since the start


@dataclass(frozen=True)
class Rules:
    """The parameters of the pools and their prices, expanded to blocks; per-asset values as tuples of (blocks, 1)."""

    unit: tuple[Array, ...]  # USD of notional per contract
    gain: tuple[Array, ...]  # USD by which a contract stands above its reference at the mark
    venue_gain: tuple[Array, ...]  # the same at the venue's price
    mark: tuple[Array, ...]
    mark_displaced: tuple[Array, ...]
    venue: tuple[Array, ...]
    venue_displaced: tuple[Array, ...]
    inverse: tuple[Array, ...] | None
    haircut: tuple[Array, ...] | None
    floor: Array  # (blocks, 1, A, K): the unit axis stands for the accounts of a block
    step: Array
    multiplier: tuple[Array, ...]
    pools: dict[str, Array]  # name -> (blocks, 1), one per field of System by pool
    size_scale: requirement.SizeScale | None
    portfolio: portfolio.PortfolioMargin | None
    auctions: Auctions | None


_BY_POOL = ("rule", "target_health", "close_factor", "full_below", "liquidation_fee", "taker_fee", "liquidator_fee", "takeover")


def columns(values: Array, block_pool: Array) -> tuple[Array, ...]:
    """(V, A) by pool to A columns (blocks, 1)."""
    rows = values[block_pool]
    return tuple(column(rows[:, a]) for a in range(values.shape[1]))


def contract_gain(system: System, displaced: Array, funding: Array) -> Array:
    """(V, A) USD by which a contract stands above its reference; nothing for a contract of fixed USD face, whose gains are in the coins."""
    gain = displaced - funding
    return gain if system.inverse is None else jnp.where(system.inverse, 0, gain)


def unit_value(system: System, price: Array) -> Array:
    """(V, A) USD of notional per contract."""
    return price if system.inverse is None else jnp.where(system.inverse, 1, price)


def _rules(block_pool: Array, system: System, multiplier: Array, prices: Prices, by_portfolio: bool, posted: bool) -> Rules:
    def expand(x):
        return None if x is None else columns(x, block_pool)

    return Rules(
        unit=columns(unit_value(system, prices.mark), block_pool),
        gain=columns(contract_gain(system, prices.mark_displaced, prices.funding), block_pool),
        venue_gain=columns(contract_gain(system, prices.venue_displaced, prices.funding), block_pool),
        mark=columns(prices.mark, block_pool),
        mark_displaced=columns(prices.mark_displaced, block_pool),
        venue=columns(prices.venue, block_pool),
        venue_displaced=columns(prices.venue_displaced, block_pool),
        inverse=expand(system.inverse) if posted else None,
        haircut=expand(system.haircut) if posted else None,
        floor=system.tier_floor[block_pool][:, None],
        step=system.tier_step[block_pool][:, None],
        multiplier=columns(multiplier, block_pool),
        pools={name: column(getattr(system, name)[block_pool]) for name in _BY_POOL},
        size_scale=None if system.size_scale is None else jax.tree.map(lambda x: x[block_pool][:, None], system.size_scale),
        portfolio=portfolio.by_block(system.portfolio, block_pool) if by_portfolio else None,
        auctions=None if system.auctions is None else jax.tree.map(lambda x: column(x[block_pool]), system.auctions),
    )


@dataclass(frozen=True)
class Health:
    """Accounts in blocks against their requirement, each (blocks, B) USD."""

    equity: Array
    margin_equity: Array  # after haircuts
    notionals: tuple[Array, ...]
    by_asset: tuple[Array, ...] | None  # requirement per asset; None under portfolio margin
    required: Array

    @property
    def under(self) -> Array:
        """Under margin; not a number counts as under, and shows in the sums."""
        return ~(self.margin_equity >= self.required)


def dot(left: tuple[Array, ...], right: tuple[Array, ...], start: Array) -> Array:
    total = start
    for x, y in zip(left, right, strict=True):
        total = total + x * y
    return total


def assess(some: Accounts, rules: Rules) -> Health:
    equity = margin.equity(some.equity_at_reference, some.quantity, rules.gain)
    margin_equity = equity
    if some.collateral:
        equity = margin_equity = dot(some.collateral, rules.mark_displaced, equity)
        for k, h, p in zip(some.collateral, rules.haircut, rules.mark, strict=True):
            margin_equity = margin_equity - h * jnp.maximum(k, 0) * p
    notionals = margin.notional(some.quantity, rules.unit)
    if rules.portfolio is not None:
        exposure = portfolio.dollar_exposure(some.quantity, rules.unit)
        level = sum(rules.multiplier[1:], rules.multiplier[0]) / len(rules.multiplier)
        required = level * portfolio.requirement(exposure, sum(notionals[1:], notionals[0]), rules.portfolio)
        return Health(equity, margin_equity, notionals, None, required)
    if rules.size_scale is not None:
        by_asset = requirement.position_margins(some.quantity, rules.unit, rules.floor, rules.step, rules.multiplier, rules.size_scale)
    else:
        by_asset = tuple(
            m * margin.tier_margin(n, rules.floor[..., a, :], rules.step[..., a, :])
            for a, (m, n) in enumerate(zip(rules.multiplier, notionals, strict=True))
        )
    return Health(equity, margin_equity, notionals, by_asset, sum(by_asset[1:], by_asset[0]))


def rules_for(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Rules:
    return _rules(accounts.block_pool, system, multiplier, prices, accounts.portfolio_margin, bool(accounts.collateral))
