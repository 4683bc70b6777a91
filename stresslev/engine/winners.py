"""The other side of a deficit: accounts in good health that take over the positions of the bankrupt, or give up gains."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from stresslev.engine import adl
from stresslev.engine.blocks import column, pool_sum
from stresslev.engine.health import Prices, assess, columns, contract_gain, rules_for
from stresslev.engine.socialise import haircut
from stresslev.engine.types import EQUITY, Accounts, System


def _entry(accounts: Accounts, prices: Prices, asset: int) -> Array:
    """(nb, B) USD average entry price; the reference price for a book without entries."""
    if accounts.entry:
        return accounts.entry[asset]
    reference = (prices.mark - prices.mark_displaced)[accounts.block_pool, asset]
    return column(reference) + jnp.zeros_like(accounts.equity_at_reference)


def _standing(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> tuple[Array, Array]:
    """(nb, B) USD equity of accounts in good health, zero for others (which are being liquidated themselves), and gross notional."""
    health = assess(accounts, rules_for(accounts, system, multiplier, prices))
    return jnp.where(health.under, 0, health.equity), sum(health.notionals[1:], health.notionals[0])


def available(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> tuple[Array, Array]:
    """(V, A) coins of longs and of shorts that could be deleveraged under each pool's policy."""
    pools = multiplier.shape[0]
    equity, gross = _standing(accounts, system, multiplier, prices)
    policy = column(system.adl[accounts.block_pool])
    marks = columns(prices.mark, accounts.block_pool)
    found: dict[int, list] = {1: [], -1: []}
    for side, by_asset in found.items():
        for a, q in enumerate(accounts.quantity):
            key, weight = adl.scores(policy, side, q, _entry(accounts, prices, a), marks[a], equity, gross)
            held = jnp.where((key > -jnp.inf) | (weight > 0), jnp.maximum(side * q, 0), 0)
            by_asset.append(pool_sum(jnp.sum(held, axis=1), accounts.block_pool, pools))
    return jnp.stack(found[1], axis=1), jnp.stack(found[-1], axis=1)


def assume(
    settled: Accounts,
    accounts: Accounts,
    system: System,
    multiplier: Array,
    prices: Prices,
    longs: tuple[Array, Array],
    shorts: tuple[Array, Array],
) -> tuple[Accounts, Array, Array, Array]:
    """Close winners against the bankrupt, ranked at the marks before the round.

    Args: `settled`, the accounts after those under margin were settled, and `accounts` as they were before: whoever was under margin then is no
    winner, and winners have not been touched since. `longs`: coins (V, A) that winning longs close, and USD (V, A) at which they do, per coin, less reference price and funding; `shorts` alike.

    Returns: accounts; coins closed of longs and of shorts (V, A); change of the sum of `equity_at_reference` (V,).
    """
    pools = multiplier.shape[0]
    equity, gross = _standing(accounts, system, multiplier, prices)
    marks = columns(prices.mark, accounts.block_pool)
    cash = settled.equity_at_reference
    quantity, closed = [], {1: [], -1: []}
    for a, q in enumerate(settled.quantity):
        for side, (target, gain) in ((1, longs), (-1, shorts)):
            entry = _entry(accounts, prices, a)
            granted = adl.deleverage(system.adl, side, accounts.quantity[a], entry, marks[a], equity, gross, accounts.block_pool, target[:, a])
            q, cash = adl.book(q, cash, granted, column(gain[accounts.block_pool, a]))
            closed[side].append(pool_sum(jnp.sum(granted, axis=1), accounts.block_pool, pools))
        quantity.append(q)
    change = pool_sum(jnp.sum(cash - settled.equity_at_reference, axis=1), accounts.block_pool, pools)
    after = replace(settled, equity_at_reference=cash, quantity=tuple(quantity))
    return after, jnp.stack(closed[1], axis=1), jnp.stack(closed[-1], axis=1), change


def socialise(accounts: Accounts, system: System, prices: Prices, loss: Array) -> tuple[Accounts, Array, Array]:
    """Spread a loss (V,) USD over accounts, in proportion to their open gains (Vega Protocol) or to their equity.

    Gains count from the entry prices (from the reference prices for a book without entries), less funding. Nobody bears more than his gain, nor
    more than his equity.

    Returns: accounts; charged (V,) USD; change of the sum of `equity_at_reference` (V,).
    """
    pools = loss.shape[0]
    gains = columns(contract_gain(system, prices.venue_displaced, prices.funding), accounts.block_pool)
    equity = accounts.equity_at_reference
    profit = jnp.zeros_like(equity)
    for a, (q, g) in enumerate(zip(accounts.quantity, gains, strict=True)):
        equity = equity + q * g
        since = g
        if accounts.entry:
            since = since - (accounts.entry[a] - column((prices.mark - prices.mark_displaced)[accounts.block_pool, a]))
        profit = profit + q * since
    for k, d in zip(accounts.collateral, columns(prices.venue_displaced, accounts.block_pool) if accounts.collateral else (), strict=True):
        equity = equity + k * d
    equity = jnp.maximum(equity, 0)
    by_equity = column(system.socialise_by[accounts.block_pool] == EQUITY)
    weight = jnp.where(by_equity, equity, jnp.maximum(profit, 0))
    charge, _ = haircut(weight, jnp.minimum(weight, equity), accounts.block_pool, loss)
    cash = accounts.equity_at_reference - charge
    charged = pool_sum(jnp.sum(charge, axis=1), accounts.block_pool, pools)
    change = pool_sum(jnp.sum(cash - accounts.equity_at_reference, axis=1), accounts.block_pool, pools)
    return replace(accounts, equity_at_reference=cash), charged, change
