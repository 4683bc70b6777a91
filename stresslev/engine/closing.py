"""Closing: what the pools' rules ask of perp accounts under margin, and what of it is about positions and what about posted coins."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import portfolio, smooth
from stresslev.engine.blocks import once
from stresslev.engine.health import Health, Rules, assess, coins_held, dot
from stresslev.engine.liquidation import auction_discount, restore_fraction, step_fraction
from stresslev.engine.types import CLOSE_FACTOR, RESTORE, STEPWISE, Accounts, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asked:
    """What the pools' rules ask of each account under margin, (nb, B); zero of the others. Worked out once a round, and read by all that follows."""

    share: Array  # of every position, to be closed; zero for those who wait
    part: Array | None  # of the account that this is about; None: all of it, where thresholds are not smoothed
    discount: Array | None  # of an auction; None without auctions


def _waiting(some: Accounts, rules: Rules, health: Health) -> tuple[Array, Array]:
    """Auctions: the discount of each account, and whether it is still too small for anybody to take the account over."""
    zero, auctions = jnp.zeros_like(health.equity), rules.auctions
    discount = jnp.where(auctions.active, auction_discount(auctions.start, auctions.growth, auctions.most, some.age), zero)
    gap = zero  # what takers lose between mark and market, USD
    for q, m, v in zip(coins_held(some, rules), rules.mark, rules.venue, strict=True):
        gap = gap + q * (m - v)
    gross = sum(health.notionals[1:], health.notionals[0])
    return discount, auctions.active & (discount * gross < gap + auctions.required_profit * gross)


def has_auctions(accounts: Accounts, system: System) -> bool:
    """Whether the age of accounts under margin sets a discount."""
    return system.auctions is not None and accounts.age is not None


def close(some: Accounts, rules: Callable[[], Rules], under: Array, auctions: bool) -> tuple[Asked, Array]:
    """What the pools' rules ask of accounts in blocks, and who of those under margin waits."""
    number = some.block_pool[0]
    return once(lambda: _closing(some, rules(), under, once(lambda: assess(some, rules()), number), auctions), number)


def _closing(some: Accounts, rules: Rules, under: Array, health: Health, auctions: bool) -> tuple[Asked, Array]:
    discount, waits = _waiting(some, rules, health) if auctions else (0, jnp.zeros(under.shape, bool))
    pools, one = rules.pools, jnp.ones_like(health.equity)
    fee = pools["liquidation_fee"] + pools["taker_fee"] + pools["liquidator_fee"] + discount
    target, rule = pools["target_health"], pools["rule"]
    gross = sum(health.notionals[1:], health.notionals[0])

    def restoring():
        if rules.portfolio is not None:
            return portfolio.restore_fraction_homogeneous(health.margin_equity, health.required, gross, fee, target)
        size = None if rules.size_scale is None else (coins_held(some, rules), rules.mark, rules.size_scale)
        return restore_fraction(health.margin_equity, health.notionals, rules.floor, rules.step, rules.multiplier, fee, target, size)

    share = one
    share = jnp.where(rule == RESTORE, lax.cond(jnp.any(rule == RESTORE), restoring, lambda: one), share)
    share = jnp.where(rule == STEPWISE, lax.cond(jnp.any(rule == STEPWISE), lambda: step_fraction(health.notionals, rules.floor), lambda: one), share)
    share = jnp.where(rule == CLOSE_FACTOR, pools["close_factor"] * one, share)
    least = pools["full_below"] * health.required
    if some.smoothing is None:
        share = jnp.where(health.margin_equity < least, one, share)
    else:
        beyond = smooth.above(health.margin_equity - least, health.required) + 1
        share = share + (1 - share) * (1 - smooth.passed(beyond, some.smoothing.band * one))
    part = None if some.smoothing is None else _hit(some, health, waits)
    return Asked(share=jnp.where(under & ~waits, share, 0), part=part, discount=discount if auctions else None), under & waits


def _hit(some: Accounts, health: Health, waits: Array) -> Array:
    """Share of each account that is under margin and taken up, where thresholds are smoothed."""
    return jnp.where(waits, 0, smooth.hit(some.smoothing, smooth.above(health.margin_equity, health.required)))


#: Roundings by which the coins to be sold may fall short of all of them and still be all.
_CRUMB = 1024


def coins_kept(some: Accounts, rules: Rules, share: Array) -> tuple[tuple[Array, ...], Array]:
    """Posted coins left when `share` of every position is closed, and the part sold of those free to be sold; decided at the venue's prices before.

    Closing everything, an inverse contract is a sale of face over price coins; coins that are then owed are bought back; and as much of the others
    is sold, in equal proportion, as it takes to cover what the account owes in USD. Exactly nothing is left where all is closed and sold.
    """
    if not some.collateral:
        return (), jnp.ones_like(share)
    place = {asset: i for i, asset in enumerate(some.contract_assets)}
    cash = dot(some.quantity, rules.venue_gain, some.equity_at_reference)
    after = []
    for asset, k, p, d in zip(some.coin_assets, some.collateral, rules.coin_venue, rules.coin_venue_displaced, strict=True):
        face = jnp.zeros_like(k)
        if rules.inverse is not None and asset in place:
            face = jnp.where(rules.inverse[place[asset]], some.quantity[place[asset]], 0)
        after.append(k - face / p)
        cash = cash + face - k * (p - d)
    for k, p in zip(after, rules.coin_venue, strict=True):
        cash = cash + jnp.minimum(k, 0) * p
    worth = sum(jnp.maximum(k, 0) * p for k, p in zip(after, rules.coin_venue, strict=True))
    some_free = worth > 0
    needed = -cash / jnp.where(some_free, worth, jnp.ones_like(worth))
    # an account that fees have brought down to nothing owes what its coins are worth, but for rounding, which must not leave a crumb of them
    everything = ~some_free | (needed > 1 - _CRUMB * jnp.finfo(worth.dtype).eps)
    sold = jnp.where(everything, 1, jnp.clip(needed, 0, 1))
    return tuple((1 - share) * k + share * ((1 - sold) * jnp.maximum(z, 0)) for k, z in zip(some.collateral, after, strict=True)), sold


def part_of(asked: Asked) -> Array | int:
    """Part of each account that is asked: all of it where thresholds are not smoothed."""
    return 1 if asked.part is None else asked.part


def granted_of(asked: Asked, granted: Array | int) -> tuple[Array, Array | int]:
    """Share closed and part of the account it is about, when so much of the demand is granted: of a part under margin as much is served whole."""
    return (asked.share * granted, 1) if asked.part is None else (asked.share, asked.part * granted)
