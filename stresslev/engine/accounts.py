"""The population of perp accounts: at these marks, what must be closed, and what is lost when it is.

Every account is looked at in every round (one dense, fused pass that only reads). Those under margin are then gathered in batches of fixed size, so
the dearer work of closing and settling is done only for them, and with the same arithmetic.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import margin, requirement, select, smooth
from stresslev.engine.blocks import by_block, column, once, over_devices, pool_sum
from stresslev.engine.closing import Asked, close, coins_kept, granted_of, has_auctions, part_of
from stresslev.engine.health import (
    Prices,
    Rules,
    assess,
    contract_gain,
    dot,
    of_block,
    of_coins,
    of_contracts,
    rules_for,
    rules_of,
    spread,
    unit_value,
)
from stresslev.engine.places import Ranks, over_batches, ranks
from stresslev.engine.types import FIRST_IN, PRO_RATA, Accounts, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Demand:
    """What a population asks its pools to close: before capacity, or after it where single accounts were chosen."""

    under: Array  # (nb, B) bool accounts under margin: found once, so that all that follows is about the same accounts
    triggered: Array  # (V,) int32 how many they are
    waiting: Array  # (V,) int32 accounts under margin that nobody takes over at their auction's present discount
    notional: Array  # (V,) USD, gross, at the marks
    long_quantity: Array  # (V, A) contracts of longs to be sold, >= 0
    short_quantity: Array  # (V, A) contracts of shorts to be bought back, >= 0
    coins: Array  # (V, A) posted coins to be sold, net
    found: Ranks  # the same accounts, for going over them in batches
    asked: Asked  # by account, whatever was granted

    @property
    def amounts(self) -> dict[str, Array]:
        """What depends on how much is granted."""
        return {name: getattr(self, name) for name in ("notional", "long_quantity", "short_quantity", "coins")}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Assumed:
    """Positions of the bankrupt that winners take over, by auto-deleveraging."""

    displaced: Array  # (V, A) USD: fill that decides who is bankrupt, less the reference price
    long_share: Array  # (V, A) of the bankrupt's longs that go to winners
    short_share: Array  # (V, A)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bankrupt:
    """What the bankrupt would have closed, and what closing them at a given fill would cost."""

    deficit: Array  # (V,) USD
    long_quantity: Array  # (V, A) coins, >= 0
    short_quantity: Array  # (V, A)
    long_value: Array  # (V, A) USD: those coins at their bankruptcy prices, less reference price and funding
    short_value: Array  # (V, A) USD, of signed coins: negative of what buying them back at those prices costs
    long_saved: Array  # (V, A) USD that is lost on them at the fill and not at the bankruptcy prices
    short_saved: Array  # (V, A)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fills:
    """What the pools and the market granted."""

    share: Array  # (V,) of the demand that is filled
    grant: Array | None  # (nb, B) share of each account's demand, instead, where a pool chose single accounts
    displaced: Array  # (V, A) USD: the fill less the reference price
    displaced_after: Array  # (V, A) the venue's price after the round
    assumed: Assumed | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Settlement:
    """What the fills did, summed over accounts; (V,) USD unless said."""

    liquidation_fee: Array
    taker_fee: Array
    liquidator_fee: Array
    deficit: Array
    newly_liquidated: Array  # (V,) int32
    cash_change: Array  # sum of the changes of `equity_at_reference`
    quantity_change: Array  # (V, A) contracts
    coins_change: Array  # (V, A) coins


def _needed(accounts: Accounts) -> Accounts:
    """The accounts without what is of no concern to a liquidation."""
    return replace(accounts, entry=(), appetite=None, call_age=None, allowed=None)


def _share_of(share: Array, grant: Array | None, some: Accounts) -> Array:
    return column(share[some.block_pool]) if grant is None else grant


def find_under(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Array:
    """(nb, B) bool who is under margin; where thresholds are smoothed, of whom some part is."""

    def found():
        if accounts.smoothing is None:
            return assess(accounts, rules_for(accounts, system, multiplier, prices)).under
        return smooth.hit(accounts.smoothing, above(smooth.whole(accounts), system, multiplier, prices)) > 0

    return once(found, accounts.block_pool[0])


def above(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Array:
    """(nb, B) equity over maintenance margin, less one."""
    health = assess(accounts, rules_for(accounts, system, multiplier, prices))
    return smooth.above(health.margin_equity, health.required)


def begin_round(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Accounts:
    """Where thresholds are smoothed, `smooth.anew` of the accounts that have sunk at these prices; else nothing to do."""
    if accounts.smoothing is None:
        return accounts
    find = once(lambda: smooth.sunk(accounts.smoothing, above(smooth.whole(accounts), system, multiplier, prices)), accounts.block_pool[0])

    def local(batch, context):
        (some,) = batch
        return (smooth.anew(some, above(*lax.stop_gradient((smooth.remnant(some), *context)))),), ()

    found = ranks(find, accounts.block_pool, multiplier.shape[0])
    ((after,), _) = over_batches(found, (_needed(accounts),), local, (system, multiplier, prices), (), writes=True, reverse=accounts.reverse)
    return replace(accounts, smoothing=after.smoothing)


def demand(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Demand:
    """What the population asks to have closed at these prices. Args: `multiplier` (V, A) of the requirement."""
    pools = multiplier.shape[0]
    under = find_under(accounts, system, multiplier, prices)
    found = ranks(under, accounts.block_pool, pools)
    zero, auctions = jnp.zeros_like(accounts.equity_at_reference), has_auctions(accounts, system)
    start = Asked(share=zero, part=None if accounts.smoothing is None else zero, discount=zero if auctions else None)

    def local(batch, context):
        some, under, _ = batch
        whole = smooth.whole(some)
        read = rules_of(whole, *context)
        asked, waits = close(whole, read, under, auctions)
        return (some, under, asked), (_to_close(whole, read(), asked, 1), waits)

    these, like = (_needed(accounts), under, start), (_no_sums(accounts, pools), jnp.zeros((pools,), jnp.int32))
    (*_, asked), sums = over_batches(found, these, local, (system, multiplier, prices), like, writes=True, reverse=accounts.reverse)
    (to_close, waiting), triggered = over_devices((sums, found.by_pool), accounts.axis)
    return Demand(under=under, triggered=triggered, waiting=waiting, found=found, asked=asked, **_by_asset(accounts, to_close, multiplier))


def amounts(accounts: Accounts, system: System, multiplier: Array, prices: Prices, before: Demand, granted: Array) -> dict[str, Array]:
    """Fields of `Demand` that change when each account is allowed its own share of what it asks for, `granted` (nb, B)."""

    def local(batch, context):
        some, asked, granted = batch
        some = smooth.whole(some)
        return None, _to_close(some, rules_for(some, *context), asked, granted)

    these, like = (_needed(accounts), before.asked, granted), _no_sums(accounts, multiplier.shape[0])
    _, sums = over_batches(before.found, these, local, (system, multiplier, prices), like, reverse=accounts.reverse)
    return _by_asset(accounts, over_devices(sums, accounts.axis), multiplier)


def _no_sums(accounts: Accounts, pools: int):
    """The form of the sums of `_to_close`."""
    zero = jnp.zeros((pools,), accounts.equity_at_reference.dtype)
    many = tuple(zero for _ in accounts.quantity)
    return zero, many, many, tuple(zero for _ in accounts.collateral)


def _to_close(some: Accounts, rules: Rules, asked: Asked, granted: Array | int):
    """By account: USD of notional, longs and shorts to be closed and coins to be sold when so much of what is asked is granted."""
    share, part = granted_of(asked, granted)
    left, _ = coins_kept(some, rules, share)
    notionals = margin.notional(some.quantity, rules.unit)
    return (
        part * (share * sum(notionals[1:], notionals[0])),
        tuple(part * (share * jnp.maximum(q, 0)) for q in some.quantity),
        tuple(part * (share * jnp.maximum(-q, 0)) for q in some.quantity),
        tuple(part * (k - z) for k, z in zip(some.collateral, left, strict=True)),
    )


def _by_asset(accounts: Accounts, sums, multiplier: Array) -> dict[str, Array]:
    """The sums of `_to_close` as fields of `Demand`."""
    notional, longs, shorts, coins = sums
    assets = multiplier.shape[1]
    return {
        "notional": notional,
        "long_quantity": spread(longs, accounts.contract_assets, assets),
        "short_quantity": spread(shorts, accounts.contract_assets, assets),
        "coins": _spread_coins(accounts, coins, jnp.zeros_like(notional), assets),
    }


def _spread_coins(accounts: Accounts, values, zero: Array, assets: int) -> Array:
    """(V, A) from sums per posted coin; a population without any has none."""
    return spread(values, accounts.coin_assets, assets) if accounts.collateral else jnp.stack([zero] * assets, axis=1)


def ration(accounts: Accounts, system: System, multiplier: Array, prices: Prices, asked: Demand, share: Array, capacity: Array) -> Array:
    """(nb, B) share of its demand that each account gets where pools with too little capacity choose whom to serve.

    Worst health first, or whoever has been under margin longest first; ties in order of slot. Pools that ration pro rata give everybody `share` (V,).
    """
    some = smooth.whole(accounts)

    def standing():
        health = assess(some, rules_for(some, system, multiplier, prices))
        amount = part_of(asked.asked) * (asked.asked.share * sum(health.notionals[1:], health.notionals[0]))
        return amount, -health.margin_equity / jnp.where(health.required > 0, health.required, jnp.ones_like(health.required))

    # kept, so that what is served in full is the very number that was asked for, and its share exactly one
    amount, key = once(standing, accounts.block_pool[0])
    order = system.queue[accounts.block_pool]
    if accounts.age is not None:
        key = jnp.where(column(order == FIRST_IN), accounts.age.astype(key.dtype), key)
    chosen = (system.queue != PRO_RATA) & (share < 1)
    served = select.queue(key, amount, accounts.block_pool, jnp.where(chosen, capacity, jnp.inf), accounts.axis)
    # what takes no capacity, such as the last coins of an account without positions, need not queue
    one_by_one = jnp.where(amount > 0, served / jnp.where(amount > 0, amount, jnp.ones_like(amount)), 1)
    return jnp.where(column(chosen[accounts.block_pool]), one_by_one, column(share[accounts.block_pool]))


def _left_at(some: Accounts, displaced: tuple[Array, ...], gain: tuple[Array, ...]) -> Array:
    """What would be left of each account if all of it were closed at these prices, USD."""
    left = dot(some.quantity, gain, some.equity_at_reference)
    return dot(some.collateral, displaced, left) if some.collateral else left


def _bankruptcy_gain(some: Accounts, rules: Rules) -> tuple[Array, ...]:
    """Per asset, (blocks, B) USD: bankruptcy price less reference price and funding, positions bearing equity in proportion to their margin."""
    health = assess(some, rules)
    by_asset = health.notionals if health.by_asset is None else health.by_asset
    at_venue = _left_at(some, rules.coin_venue_displaced, rules.venue_gain)
    shares = requirement.requirement_shares(by_asset, health.notionals)
    gains = []
    for q, w, g in zip(some.quantity, shares, rules.venue_gain, strict=True):
        held = q != 0
        gains.append(g - jnp.where(held, at_venue * w / jnp.where(held, q, jnp.ones_like(q)), 0))
    return tuple(gains)


def bankrupt(
    accounts: Accounts, system: System, multiplier: Array, prices: Prices, asked: Demand, share: Array, grant: Array | None, displaced: Array
) -> Bankrupt:
    """The accounts that would leave a deficit if they were closed at a fill that stands `displaced` (V, A) USD away from the reference."""
    pools, assets = multiplier.shape
    zero = jnp.zeros((pools,), prices.mark.dtype)
    many = tuple(zero for _ in accounts.quantity)

    def local(batch, context):
        (some, asked, grant), (system, multiplier, prices, share, displaced) = batch, context
        some = smooth.whole(some)
        read = rules_of(some, system, multiplier, prices)
        rules = read()
        closed = part_of(asked) * (asked.share * _share_of(share, grant, some))
        gain, moved = by_block((contract_gain(system, displaced, prices.funding), displaced), some.block_pool)()
        fill_gain = of_block(gain, some.contract_assets)
        left = _left_at(some, of_block(moved, some.coin_assets), fill_gain)
        closed = jnp.where(left < 0, closed, 0)
        at_bankruptcy = once(lambda: _bankruptcy_gain(some, read()), some.block_pool[0])
        # winners do not take over contracts of fixed face
        linear = some.quantity
        if rules.inverse is not None:
            linear = tuple(jnp.where(i, 0, q) for q, i in zip(linear, rules.inverse, strict=True))
        longs = tuple(closed * jnp.maximum(q, 0) for q in linear)
        shorts = tuple(closed * jnp.maximum(-q, 0) for q in linear)

        def times(amounts, factors, sign=1):
            return tuple(sign * x * f for x, f in zip(amounts, factors, strict=True))

        saved = [b - f for b, f in zip(at_bankruptcy, fill_gain, strict=True)]
        new = (longs, shorts, times(longs, at_bankruptcy), times(shorts, at_bankruptcy, -1), times(longs, saved), times(shorts, saved, -1))
        return None, (closed * jnp.maximum(-left, 0), new)

    these, context = (_needed(accounts), asked.asked, grant), (system, multiplier, prices, share, displaced)
    _, sums = over_batches(asked.found, these, local, context, (zero, (many,) * 6), reverse=accounts.reverse)
    deficit, groups = over_devices(sums, accounts.axis)
    long_quantity, short_quantity, long_value, short_value, long_saved, short_saved = (spread(g, accounts.contract_assets, assets) for g in groups)
    return Bankrupt(
        deficit=deficit,
        long_quantity=long_quantity,
        short_quantity=short_quantity,
        long_value=long_value,
        short_value=short_value,
        long_saved=long_saved,
        short_saved=short_saved,
    )


def settle(accounts: Accounts, system: System, multiplier: Array, prices: Prices, asked: Demand, fills: Fills) -> tuple[Accounts, Settlement]:
    """Carry out the fills: positions, coins, cash, fees and deficits of the accounts that were under margin."""
    pools, assets = multiplier.shape
    dtype = prices.mark.dtype
    zero, nobody = jnp.zeros((pools,), dtype), jnp.zeros((pools,), jnp.int32)
    many, none = tuple(zero for _ in accounts.quantity), tuple(zero for _ in accounts.collateral)
    nothing = (zero, zero, zero, zero, nobody, zero, many, none)

    def local(batch, context):
        (gathered, asked, grant), (system, multiplier, prices, fills) = batch, context
        fill_gain = contract_gain(system, fills.displaced, prices.funding)
        after_gain = contract_gain(system, fills.displaced_after, prices.funding)
        fill_unit = unit_value(system, fills.displaced + prices.venue - prices.venue_displaced)
        some = smooth.whole(gathered)
        read = rules_of(some, system, multiplier, prices)
        rules = read()
        discount = 0 if asked.discount is None else asked.discount
        share, part_hit = granted_of(asked, _share_of(fills.share, grant, some))
        kept = tuple((1 - share) * q for q in some.quantity)
        coins, all_sold = coins_kept(some, rules, share)
        sold = tuple(k - z for k, z in zip(some.collateral, coins, strict=True))
        by_asset = by_block((fill_gain, fills.displaced, fill_unit, after_gain, fills.displaced_after), some.block_pool)()
        gain, unit, gain_after = (of_block(by_asset[i], some.contract_assets) for i in (0, 2, 3))
        displaced, displaced_after = (of_block(by_asset[i], some.coin_assets) for i in (1, 4))
        traded = share * sum(jnp.abs(q) * u for q, u in zip(some.quantity, unit, strict=True))
        if fills.assumed is not None:
            market = gain
            gain = once(lambda: _assumed_gain(some, read(), market, fills.assumed, prices.funding, system), some.block_pool[0])
        old = some.equity_at_reference
        left = _left_at(some, displaced, gain)  # if all of it were closed at the fill
        deficit = share * jnp.maximum(-left, 0)
        closed = old + share * dot(some.quantity, gain, jnp.zeros_like(old))
        # where all is sold, what is kept of W and what is left are added up so that an account closed in full at a loss ends at zero exactly
        whole = (1 - share) * old + share * jnp.maximum(left, 0)
        cash = jnp.where(all_sold >= 1, whole, dot(sold, displaced, closed) + deficit)
        equity_after = margin.equity(cash, kept, gain_after)
        if coins:
            equity_after = dot(coins, displaced_after, equity_after)
        taker = rules.pools["taker_fee"] * traded
        liquidator = (rules.pools["liquidator_fee"] + discount) * traded
        all_of_it = share * jnp.maximum(left, 0) - taker - liquidator
        to_fund = jnp.where(rules.pools["takeover"] & (asked.share >= 1), jnp.maximum(all_of_it, 0), rules.pools["liquidation_fee"] * traded)
        due = taker + to_fund + jnp.maximum(liquidator, 0)
        # who owes nothing pays nothing: an account with exactly nothing left must not pay by its derivative either
        paid = jnp.where(due == 0, 0, jnp.minimum(due, jnp.maximum(equity_after, 0)))
        part = jnp.where(due > 0, paid / jnp.where(due > 0, due, jnp.ones_like(due)), 0)
        cash = cash - paid
        hit = some.liquidated | (part_hit * traded > 0)
        done = (
            part_hit * (part * to_fund),
            part_hit * (part * taker),
            part_hit * (part * jnp.maximum(liquidator, 0)),
            part_hit * deficit,
            hit & ~some.liquidated,
            part_hit * (cash - old),
            tuple(part_hit * (k - q) for k, q in zip(kept, some.quantity, strict=True)),
            tuple(part_hit * -s for s in sold),
        )
        after = some.with_holdings((cash, *kept, *coins))
        if some.smoothing is not None:

            def above(p):
                health = assess(p, rules)
                return smooth.above(health.margin_equity, health.required)

            after = smooth.parted(gathered, some, after, part_hit, above)
        return (replace(after, liquidated=hit), asked, grant), done

    these, context = (_needed(accounts), asked.asked, fills.grant), (system, multiplier, prices, replace(fills, grant=None))
    (after, *_), sums = over_batches(asked.found, these, local, context, nothing, writes=True, reverse=accounts.reverse)
    settled = replace(accounts.with_holdings(after.holdings), liquidated=after.liquidated, smoothing=after.smoothing)
    fund_fee, taker_fee, liquidator_fee, lost, newly, cash_change, quantity_change, coins_change = over_devices(sums, accounts.axis)
    return settled, Settlement(
        liquidation_fee=fund_fee,
        taker_fee=taker_fee,
        liquidator_fee=liquidator_fee,
        deficit=lost,
        newly_liquidated=newly,
        cash_change=cash_change,
        quantity_change=spread(quantity_change, accounts.contract_assets, assets),
        coins_change=_spread_coins(accounts, coins_change, zero, assets),
    )


def _assumed_gain(some, rules, gain, assumed: Assumed, funding: Array, system: System) -> tuple[Array, ...]:
    """The fill of each position, the part that winners assume at its bankruptcy price and the rest in the market, less reference and funding."""
    tried = contract_gain(system, assumed.displaced, funding)
    tried, moved, long_share, short_share = by_block((tried, assumed.displaced, assumed.long_share, assumed.short_share), some.block_pool)()
    left = _left_at(some, of_block(moved, some.coin_assets), of_block(tried, some.contract_assets))
    at_bankruptcy = _bankruptcy_gain(some, rules)
    longs, shorts = of_block(long_share, some.contract_assets), of_block(short_share, some.contract_assets)
    mixed = []
    for a, (q, g, b, by_long, by_short) in enumerate(zip(some.quantity, gain, at_bankruptcy, longs, shorts, strict=True)):
        part = jnp.where(left < 0, jnp.where(q > 0, by_long, by_short), 0)
        if rules.inverse is not None:
            part = jnp.where(rules.inverse[a], 0, part)
        mixed.append(g + part * (b - g))
    return tuple(mixed)


def latent_deficit(accounts: Accounts, system: System, prices: Prices, pools: int) -> Array:
    """(V,) USD of negative equity in accounts that still hold positions: losses made and not settled."""
    gain = of_contracts(accounts, contract_gain(system, prices.venue_displaced, prices.funding))
    left = _left_at(accounts, of_coins(accounts, prices.venue_displaced), gain)
    return over_devices(pool_sum(jnp.sum(jnp.maximum(-left, 0), axis=1), accounts.block_pool, pools), accounts.axis)


def begin_step(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Accounts:
    """Count the steps that each account has been under margin; nothing to do for a population that does not keep count."""
    if accounts.age is None:
        return accounts
    under = find_under(accounts, system, multiplier, prices)
    return replace(accounts, age=jnp.where(under, accounts.age + 1, 0))


def totals(accounts: Accounts, pools: int, assets: int) -> tuple[Array, Array, Array]:
    """Sums by pool: `equity_at_reference` (V,), long and short quantity (V, A)."""

    def by_pool(values):
        return pool_sum(jnp.sum(values, axis=1), accounts.block_pool, pools)

    longs = spread([by_pool(jnp.maximum(q, 0)) for q in accounts.quantity], accounts.contract_assets, assets)
    shorts = spread([by_pool(jnp.maximum(-q, 0)) for q in accounts.quantity], accounts.contract_assets, assets)
    return over_devices((by_pool(accounts.equity_at_reference), longs, shorts), accounts.axis)
