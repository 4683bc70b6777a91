"""The other side of a deficit: accounts in good health that take over the positions of the bankrupt, or give up gains."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import adl
from stresslev.engine.blocks import column, over_devices, pool_sum
from stresslev.engine.health import Prices, assess, contract_gain, of_coins, of_contracts, rules_for, spread
from stresslev.engine.socialise import haircut
from stresslev.engine.types import EQUITY, Accounts, System


def _standing(accounts: Accounts, system: System, multiplier: Array, prices: Prices, under: Array) -> tuple[Array, Array]:
    """(nb, B) USD equity of accounts in good health, zero for those `under` margin (which are being liquidated themselves), and gross notional."""
    health = assess(accounts, rules_for(accounts, system, multiplier, prices))
    return jnp.where(under, 0, health.equity), sum(health.notionals[1:], health.notionals[0])


def _entries(accounts: Accounts, prices: Prices) -> Array:
    """(contracts, nb, B) USD average entry prices; the reference prices for a book without entries."""
    if accounts.entry:
        return jnp.stack(accounts.entry)
    reference = jnp.stack(of_contracts(accounts, prices.mark - prices.mark_displaced))
    return jnp.broadcast_to(reference, (reference.shape[0], *accounts.equity_at_reference.shape))


def available(accounts: Accounts, system: System, multiplier: Array, prices: Prices, under: Array) -> tuple[Array, Array]:
    """(V, A) coins of longs and of shorts that could be deleveraged under each pool's policy."""
    pools, assets = multiplier.shape
    equity, gross = _standing(accounts, system, multiplier, prices, under)
    policy = column(system.adl[accounts.block_pool])

    def of_asset(_, now):
        q, entry, mark = now
        found = []
        for side in (1, -1):
            key, weight = adl.scores(policy, side, q, entry, mark, equity, gross)
            held = jnp.where((key > -jnp.inf) | (weight > 0), jnp.maximum(side * q, 0), 0)
            found.append(pool_sum(jnp.sum(held, axis=1), accounts.block_pool, pools))
        return None, tuple(found)

    # a loop, not unrolled: this runs only where somebody is bankrupt, and is long to compile
    marks = jnp.stack(of_contracts(accounts, prices.mark))
    _, held = lax.scan(of_asset, None, (jnp.stack(accounts.quantity), _entries(accounts, prices), marks))
    longs, shorts = over_devices(held, accounts.axis)
    return spread(longs, accounts.contract_assets, assets), spread(shorts, accounts.contract_assets, assets)


def assume(
    settled: Accounts,
    accounts: Accounts,
    system: System,
    multiplier: Array,
    prices: Prices,
    under: Array,
    longs: tuple[Array, Array],
    shorts: tuple[Array, Array],
) -> tuple[Accounts, Array, Array, Array]:
    """Close winners against the bankrupt, ranked at the marks before the round.

    Args: `settled`, the accounts after those under margin were settled, and `accounts` as they were before: whoever was under margin then is no
    winner (`under`), and winners have not been touched since. `longs`: coins (V, A) that winning longs close, and USD (V, A) at which they do, per
    coin, less reference price and funding; `shorts` alike.

    Returns: accounts; coins closed of longs and of shorts (V, A); change of the sum of `equity_at_reference` (V,).
    """
    pools, assets = multiplier.shape
    equity, gross = _standing(accounts, system, multiplier, prices, under)
    held = jnp.array(accounts.contract_assets, jnp.int32)

    def of_asset(cash, now):
        before, q, entry, mark, *sides = now
        closed = []
        for side, target, gain in zip((1, -1), sides[::2], sides[1::2], strict=True):
            granted = adl.deleverage(system.adl, side, before, entry, mark, equity, gross, accounts.block_pool, target, accounts.axis)
            q, cash = adl.book(q, cash, granted, column(gain[accounts.block_pool]))
            closed.append(pool_sum(jnp.sum(granted, axis=1), accounts.block_pool, pools))
        return cash, (q, *closed)

    marks = jnp.stack(of_contracts(accounts, prices.mark))
    by_asset = [x[:, held].T for x in (*longs, *shorts)]
    over = (jnp.stack(accounts.quantity), jnp.stack(settled.quantity), _entries(accounts, prices), marks, *by_asset)
    cash, (quantity, *closed) = lax.scan(of_asset, settled.equity_at_reference, over)
    change = pool_sum(jnp.sum(cash - settled.equity_at_reference, axis=1), accounts.block_pool, pools)
    (closed_longs, closed_shorts), change = over_devices((closed, change), accounts.axis)
    after = replace(settled, equity_at_reference=cash, quantity=tuple(quantity))
    names = accounts.contract_assets
    return after, spread(closed_longs, names, assets), spread(closed_shorts, names, assets), change


def socialise(accounts: Accounts, system: System, prices: Prices, loss: Array) -> tuple[Accounts, Array, Array]:
    """Spread a loss (V,) USD over accounts, in proportion to their open gains (Vega Protocol) or to their equity.

    Gains count from the entry prices (from the reference prices for a book without entries), less funding. Nobody bears more than his gain, nor
    more than his equity.

    Returns: accounts; charged (V,) USD; change of the sum of `equity_at_reference` (V,).
    """
    pools = loss.shape[0]
    gains = of_contracts(accounts, contract_gain(system, prices.venue_displaced, prices.funding))
    reference = of_contracts(accounts, prices.mark - prices.mark_displaced)
    faces = None if system.inverse is None else of_contracts(accounts, system.inverse)
    equity = accounts.equity_at_reference
    profit = jnp.zeros_like(equity)
    for a, (q, g) in enumerate(zip(accounts.quantity, gains, strict=True)):
        equity = equity + q * g
        if accounts.entry:
            g = g - (accounts.entry[a] - reference[a])
        # what a contract of fixed face gains is in the coins
        profit = profit + (q * g if faces is None else jnp.where(faces[a], 0, q * g))
    for k, d in zip(accounts.collateral, of_coins(accounts, prices.venue_displaced), strict=True):
        equity = equity + k * d
    equity = jnp.maximum(equity, 0)
    by_equity = column(system.socialise_by[accounts.block_pool] == EQUITY)
    weight = jnp.where(by_equity, equity, jnp.maximum(profit, 0))
    charge, _ = haircut(weight, jnp.minimum(weight, equity), accounts.block_pool, loss, accounts.axis)
    cash = accounts.equity_at_reference - charge
    charged = pool_sum(jnp.sum(charge, axis=1), accounts.block_pool, pools)
    change = pool_sum(jnp.sum(cash - accounts.equity_at_reference, axis=1), accounts.block_pool, pools)
    charged, change = over_devices((charged, change), accounts.axis)
    return replace(accounts, equity_at_reference=cash), charged, change
