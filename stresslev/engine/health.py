"""How perp accounts stand: equity, requirement and health at the pools' marks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import margin, portfolio, requirement
from stresslev.engine.blocks import by_block
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
    """The parameters of the pools and their prices, expanded to blocks; values per contract or posted coin as tuples of (blocks, 1)."""

    unit: tuple[Array, ...]  # USD of notional per contract
    gain: tuple[Array, ...]  # USD by which a contract stands above its reference at the mark
    venue_gain: tuple[Array, ...]  # the same at the venue's price
    mark: tuple[Array, ...]  # of the contracts' assets
    venue: tuple[Array, ...]
    inverse: tuple[Array, ...] | None  # per contract
    coin_mark: tuple[Array, ...]
    coin_displaced: tuple[Array, ...]  # mark less reference
    coin_venue: tuple[Array, ...]
    coin_venue_displaced: tuple[Array, ...]
    haircut: tuple[Array, ...] | None
    floor: Array  # (blocks, 1, contracts, K): the unit axis stands for the accounts of a block
    step: Array
    multiplier: tuple[Array, ...]
    pools: dict[str, Array]  # name -> (blocks, 1), one per field of System by pool
    size_scale: requirement.SizeScale | None
    portfolio: portfolio.PortfolioMargin | None
    auctions: Auctions | None


_BY_POOL = ("rule", "target_health", "close_factor", "full_below", "liquidation_fee", "taker_fee", "liquidator_fee", "takeover")


def columns(values: Array, block_pool: Array, assets: tuple[int, ...]) -> tuple[Array, ...]:
    """(V, A) by pool to one column (blocks, 1) per asset asked for."""
    return of_block(values[block_pool], assets)


def of_block(values: Array, assets: tuple[int, ...]) -> tuple[Array, ...]:
    """(blocks, A) to one column (blocks, 1) per asset asked for."""
    return tuple(values[:, a : a + 1] for a in assets)


def of_contracts(accounts: Accounts, values: Array) -> tuple[Array, ...]:
    """(V, A) to columns for the contracts of a population."""
    return columns(values, accounts.block_pool, accounts.contract_assets)


def of_coins(accounts: Accounts, values: Array) -> tuple[Array, ...]:
    """(V, A) to columns for the posted coins of a population."""
    return columns(values, accounts.block_pool, accounts.coin_assets)


def spread(values, assets: tuple[int, ...], total: int) -> Array:
    """(V, A) from (V,) sums for some of the assets; zero for the others."""
    by_asset = dict(zip(assets, values, strict=True))
    zero = jnp.zeros_like(next(iter(by_asset.values()))) if by_asset else None
    return jnp.stack([by_asset.get(a, zero) for a in range(total)], axis=1)


def contract_gain(system: System, displaced: Array, funding: Array) -> Array:
    """(V, A) USD by which a contract stands above its reference; nothing for a contract of fixed USD face, whose gains are in the coins."""
    gain = displaced - funding
    return gain if system.inverse is None else jnp.where(system.inverse, 0, gain)


def unit_value(system: System, price: Array) -> Array:
    """(V, A) USD of notional per contract."""
    return price if system.inverse is None else jnp.where(system.inverse, 1, price)


def _portfolio(accounts: Accounts, system: System) -> portfolio.PortfolioMargin | None:
    if not accounts.portfolio_margin:
        return None
    held = jnp.array(accounts.contract_assets, jnp.int32)
    rules = system.portfolio
    return portfolio.by_block(
        replace(
            rules,
            shocks=rules.shocks[..., held],
            correlation=rules.correlation[:, held][..., held],
            covariance=rules.covariance[:, held][..., held],
        ),
        accounts.block_pool,
    )


def rules_for(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Rules:
    """Rules and prices for a population, or for some of its blocks."""
    return rules_of(accounts, system, multiplier, prices)()


def rules_of(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Callable[[], Rules]:
    """`rules_for`, to be called where the rules are read: a branch then is handed few arrays, see `by_block`."""
    held = jnp.array(accounts.contract_assets, jnp.int32)
    posted = bool(accounts.collateral)
    of_asset = {
        "unit": unit_value(system, prices.mark),
        "gain": contract_gain(system, prices.mark_displaced, prices.funding),
        "venue_gain": contract_gain(system, prices.venue_displaced, prices.funding),
        "mark": prices.mark,
        "venue": prices.venue,
        "multiplier": multiplier,
        "mark_displaced": prices.mark_displaced,
        "venue_displaced": prices.venue_displaced,
        "haircut": system.haircut if posted else None,
        "inverse": system.inverse if posted else None,
    }
    scheduled = system.tier_floor[:, held], system.tier_step[:, held]
    scale = jax.tree.map(lambda x: x[:, held], system.size_scale)
    by_pool = {name: getattr(system, name)[:, None] for name in _BY_POOL}, jax.tree.map(lambda x: x[:, None], system.auctions)
    read = by_block((of_asset, scheduled, scale, by_pool), accounts.block_pool)
    shared = _portfolio(accounts, system)

    def rules() -> Rules:
        values, (floor, step), size, (pools, auctions) = read()

        def contracts(name):
            return of_block(values[name], accounts.contract_assets)

        def coins(name):
            return of_block(values[name], accounts.coin_assets)

        return Rules(
            unit=contracts("unit"),
            gain=contracts("gain"),
            venue_gain=contracts("venue_gain"),
            mark=contracts("mark"),
            venue=contracts("venue"),
            inverse=contracts("inverse") if values["inverse"] is not None else None,
            coin_mark=coins("mark"),
            coin_displaced=coins("mark_displaced"),
            coin_venue=coins("venue"),
            coin_venue_displaced=coins("venue_displaced"),
            haircut=coins("haircut") if posted else None,
            floor=floor[:, None],
            step=step[:, None],
            multiplier=contracts("multiplier"),
            pools=pools,
            size_scale=jax.tree.map(lambda x: x[:, None], size),
            portfolio=shared,
            auctions=auctions,
        )

    return rules


@jax.tree_util.register_dataclass
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
    """`start + sum_a left_a right_a`."""
    total = start
    for x, y in zip(left, right, strict=True):
        total = total + x * y
    return total


def coins_held(some: Accounts, rules: Rules) -> tuple[Array, ...]:
    """Positions in coins: quantities, faces over the mark where inverse."""
    if rules.inverse is None:
        return some.quantity
    return tuple(jnp.where(i, q / p, q) for q, i, p in zip(some.quantity, rules.inverse, rules.mark, strict=True))


def assess(some: Accounts, rules: Rules) -> Health:
    """Equity, notionals and requirement of accounts in blocks."""
    equity = margin.equity(some.equity_at_reference, some.quantity, rules.gain)
    margin_equity = equity
    if some.collateral:
        equity = margin_equity = dot(some.collateral, rules.coin_displaced, equity)
        for k, h, p in zip(some.collateral, rules.haircut, rules.coin_mark, strict=True):
            margin_equity = margin_equity - h * jnp.maximum(k, 0) * p
    notionals = margin.notional(some.quantity, rules.unit)
    if rules.portfolio is not None:
        exposure = portfolio.dollar_exposure(some.quantity, rules.unit)
        level = sum(rules.multiplier[1:], rules.multiplier[0]) / len(rules.multiplier)
        required = level * portfolio.requirement(exposure, sum(notionals[1:], notionals[0]), rules.portfolio)
        return Health(equity, margin_equity, notionals, None, required)
    if rules.size_scale is not None:
        by_asset = requirement.position_margins(coins_held(some, rules), rules.mark, rules.floor, rules.step, rules.multiplier, rules.size_scale)
    else:
        by_asset = tuple(
            m * margin.tier_margin(n, rules.floor[..., a, :], rules.step[..., a, :])
            for a, (m, n) in enumerate(zip(rules.multiplier, notionals, strict=True))
        )
    return Health(equity, margin_equity, notionals, by_asset, sum(by_asset[1:], by_asset[0]))


def scale(some: Accounts, rules: Rules) -> Array:
    """(blocks, B) USD of everything an account holds: what roundings are measured by."""
    total = jnp.abs(some.equity_at_reference)
    for q, u in zip((*some.quantity, *some.collateral), (*rules.unit, *rules.coin_mark), strict=True):
        total = total + jnp.abs(q) * u
    return total
