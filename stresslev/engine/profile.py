"""The liquidation profile of perp accounts: those whose fate hangs on one price, kept as a distribution instead of one by one.

An isolated linear position of side sigma, q coins and equity W at the reference price P0 is under margin once its **margin distance**
`x = W / (q P0)` lies below the level `l = (mu MM(q P) / q - sigma G) / P0`, with G the gain of a contract at the mark P and mu the multiplier of the
requirement. A pool that closes in full closes those of which the level has passed x, whatever else the account was. So a profile keeps, per pool,
asset, side and size of position, the cumulative quantity, equity and number of accounts over x, and how far liquidation has come (`reach`, the
running maximum of the level at which the pool has closed). What is closed, lost and paid are differences of a few look-ups: nothing here depends on
how many accounts there are. It is an approximation: see `deposit` for how the distribution is kept, and docs/model.md for the error.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import grid
from stresslev.engine.accounts import Fills, Settlement
from stresslev.engine.health import Prices
from stresslev.engine.margin import tier_margin
from stresslev.engine.types import System

#: Columns of the cumulative tables.
QUANTITY, EQUITY, ACCOUNTS = range(3)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distribution:
    """The accounts of a profile at the start: n pairs of pool and asset, two sides (longs, shorts), S sizes, C points of a grid. It never changes."""

    pool: Array  # (n,) int32
    asset: Array  # (n,) int32
    slot: Array  # (V, A) int32 which pair a pool and asset is; n where there is none
    size: Array  # (n, 2, S) coins of a position, by which its requirement is found; > 0
    scale: Array  # (n, 2) margin distance in the middle of the grid
    table: Array  # (n, 2, S, C, 3) cumulative coins, USD of equity at the reference price, and accounts


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Profile:
    """How far the liquidation of a distribution (`System.profile`) has come: a population beside `Accounts` and `Loans`."""

    reach: Array  # (n, 2, S) margin distance below which all have been closed
    taken: Array  # (n, 2, S, 3) what lies below it
    cash: Array  # (V,) USD left to those that have been closed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProfileDemand:
    """What a profile asks its pools to close, as `accounts.Demand`."""

    reach: Array  # (n, 2, S) margin distance up to which accounts are to be closed
    found: Array  # (n, 2, S, 3) what lies below it
    triggered: Array  # (V,) int32
    waiting: Array  # (V,) int32, zero: nobody waits for a price
    notional: Array  # (V,) USD at the marks
    long_quantity: Array  # (V, A) coins, >= 0
    short_quantity: Array  # (V, A)
    coins: Array  # (V, A) zero: no coins are posted


def _look_up(book: Distribution, x: Array) -> Array:
    """(n, 2, S, 3) what lies below the margin distances x (n, 2, S)."""
    return grid.look_up(book.table, book.scale[:, :, None], x)


def _at(book: Distribution, values: Array) -> Array:
    """(V, A) to the pairs (n, 1, 1), or (V,) likewise."""
    picked = values[book.pool] if values.ndim == 1 else values[book.pool, book.asset]
    return picked[:, None, None]


def _everywhere(book: Distribution, values: Array) -> Array:
    """(n, ...) to (V, A, ...); zero where there is no such pair."""
    return jnp.concatenate([values, jnp.zeros_like(values[:1])])[book.slot]


def _sides(like: Array) -> Array:
    return jnp.array([1, -1], like.dtype)[None, :, None]


def level(book: Distribution, system: System, multiplier: Array, prices: Prices) -> Array:
    """(n, 2, S) margin distance below which accounts are under margin at these marks."""
    floor, step = (x[book.pool, book.asset][:, None, None, :] for x in (system.tier_floor, system.tier_step))
    required = tier_margin(book.size * _at(book, prices.mark), floor, step) / book.size
    gain = _sides(required) * _at(book, prices.mark_displaced - prices.funding)
    return (_at(book, multiplier) * required - gain) / system.reference_price[book.asset][:, None, None]


def initial(book: Distribution, pools: int) -> Profile:
    """Nobody has been closed."""
    taken = jnp.zeros((*book.size.shape, 3), book.size.dtype)
    return Profile(reach=jnp.full_like(book.size, -1), taken=taken, cash=jnp.zeros((pools,), book.size.dtype))


def demand(profile: Profile, system: System, multiplier: Array, prices: Prices) -> ProfileDemand:
    """What the profile asks to have closed at these prices. Args: `multiplier` (V, A) of the requirement."""
    book = system.profile
    reach = jnp.maximum(profile.reach, level(book, system, multiplier, prices))
    found = _look_up(book, reach)
    # rounding must not take anybody back
    found = jnp.where(jnp.array([[[[True, False, True]]]]), jnp.maximum(found, profile.taken), found)
    new = jnp.sum(found - profile.taken, axis=2)  # (n, 2, 3)
    quantity = _everywhere(book, new[..., QUANTITY])
    return ProfileDemand(
        reach=reach,
        found=found,
        triggered=_heads(book, found) - _heads(book, profile.taken),
        waiting=jnp.zeros((multiplier.shape[0],), jnp.int32),
        notional=jnp.sum(jnp.sum(quantity, axis=2) * prices.mark, axis=1),
        long_quantity=quantity[..., 0],
        short_quantity=quantity[..., 1],
        coins=jnp.zeros_like(multiplier),
    )


def _heads(book: Distribution, taken: Array) -> Array:
    """(V,) int32 accounts, to the nearest whole one."""
    count = jnp.sum(_everywhere(book, jnp.sum(taken[..., ACCOUNTS], axis=(1, 2))), axis=1)
    return jnp.round(count).astype(jnp.int32)


def settle(profile: Profile, system: System, prices: Prices, asked: ProfileDemand, fills: Fills) -> tuple[Profile, Settlement]:
    """Carry out the fills: all of what was asked, or in an outage nothing.

    At a fill with gain G a coin at margin distance x leaves `x P0 + sigma G`: a deficit below `x = -sigma G / P0`; above it what is left pays the
    fees due for a coin (d) as far as it goes, so in full above `x = (d - sigma G) / P0`.
    """
    book = system.profile
    side = _sides(profile.reach)
    price = fills.displaced + system.reference_price[None, :]
    gain = side * _at(book, fills.displaced - prices.funding)
    reference = system.reference_price[book.asset][:, None, None]
    fund_rate = jnp.where(system.takeover, 0, system.liquidation_fee)
    rate = fund_rate + system.taker_fee + system.liquidator_fee
    fee = _at(book, rate) * _at(book, price)

    lost_below = jnp.broadcast_to(-gain / reference, profile.reach.shape)
    short_below = jnp.broadcast_to((fee - gain) / reference, profile.reach.shape)
    at_loss, at_short = (_look_up(book, jnp.clip(x, profile.reach, asked.reach)) for x in (lost_below, short_below))

    def left(part: Array) -> Array:
        return part[..., EQUITY] + gain * part[..., QUANTITY]

    done = jnp.where(fills.share[book.pool] > 0, jnp.ones_like(reference[:, 0, 0]), 0)[:, None]  # (n, 1)

    def total(values: Array) -> Array:
        """(n, 2, S) to (V, A, 2), of what is carried out."""
        return _everywhere(book, done * jnp.sum(values, axis=2))

    def by_pool(values: Array) -> Array:
        return jnp.sum(total(values), axis=(1, 2))

    new = asked.found - profile.taken
    whole = asked.found - at_short
    deficit = by_pool(jnp.maximum(-left(at_loss - profile.taken), 0))
    in_full = fee * whole[..., QUANTITY]
    paid = by_pool(jnp.maximum(left(at_short - at_loss), 0) + in_full)
    to_fund = jnp.where(system.takeover, by_pool(jnp.maximum(left(whole) - in_full, 0)), 0)
    part = paid / jnp.where(rate > 0, rate, jnp.ones_like(rate))
    remaining = by_pool(left(new)) + deficit - paid - to_fund
    quantity = total(new[..., QUANTITY])
    carried_out = done[:, :, None] > 0
    after = Profile(
        reach=jnp.where(carried_out, asked.reach, profile.reach),
        taken=jnp.where(carried_out[..., None], asked.found, profile.taken),
        cash=profile.cash + remaining,
    )
    return after, Settlement(
        liquidation_fee=part * fund_rate + to_fund,
        taker_fee=part * system.taker_fee,
        liquidator_fee=part * system.liquidator_fee,
        deficit=deficit,
        newly_liquidated=_heads(book, after.taken) - _heads(book, profile.taken),
        cash_change=remaining - by_pool(new[..., EQUITY]),
        quantity_change=quantity[..., 1] - quantity[..., 0],
        coins_change=jnp.zeros_like(prices.mark),
    )


def totals(profile: Profile, system: System) -> tuple[Array, Array, Array]:
    """Sums by pool of what is still open: `equity_at_reference` (V,), with the cash of the closed; long and short coins (V, A)."""
    book = system.profile
    held = _everywhere(book, jnp.sum(book.table[..., -1, :] - profile.taken, axis=2))  # (V, A, 2, 3)
    cash = jnp.sum(held[..., EQUITY], axis=(1, 2)) + profile.cash
    return cash, held[..., 0, QUANTITY], held[..., 1, QUANTITY]


def latent_deficit(profile: Profile, system: System, prices: Prices) -> Array:
    """(V,) USD of negative equity in accounts that are still open."""
    book = system.profile
    gain = _sides(profile.reach) * _at(book, prices.venue_displaced - prices.funding)
    lost_below = jnp.broadcast_to(-gain / system.reference_price[book.asset][:, None, None], profile.reach.shape)
    under = _look_up(book, jnp.maximum(lost_below, profile.reach)) - profile.taken
    lost = jnp.maximum(-(under[..., EQUITY] + gain * under[..., QUANTITY]), 0)
    return jnp.sum(_everywhere(book, jnp.sum(lost, axis=(1, 2))), axis=1)


def uncertain(profile: Profile, system: System) -> Array:
    """(V, A) coins in the cells of the grid that liquidation has stopped in: what may have been closed, or left, wrongly for want of a finer grid."""
    book = system.profile
    near = grid.beside(book.table, book.scale[:, :, None], profile.reach)
    return _everywhere(book, jnp.sum(near[..., QUANTITY], axis=(1, 2)))
