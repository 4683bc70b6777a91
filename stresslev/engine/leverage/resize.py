"""Accounts trade a share of every position they hold, in either direction, at one fill per pool and asset: nobody is liquidated in it."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.blocks import column, over_devices, pool_sum
from stresslev.engine.health import contract_gain, dot, of_coins, of_contracts, spread, unit_value
from stresslev.engine.types import Accounts, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Resized:
    """What resizing did, summed over accounts."""

    cash_change: Array  # (V,) USD of `equity_at_reference`, outside cash included
    taker_fee: Array  # (V,) USD
    quantity_change: Array  # (V, A) contracts
    coins_change: Array  # (V, A) coins, of contracts of fixed face


def _coins_left(accounts: Accounts, system: System, share: Array, venue: Array) -> tuple[Array, ...]:
    """Coins of each account after closing a share of its contracts of fixed face: `k - share face / P`; other coins stay posted."""
    if not accounts.collateral or system.inverse is None:
        return accounts.collateral
    place = {asset: i for i, asset in enumerate(accounts.contract_assets)}
    left = []
    for asset, k, inverse, p in zip(
        accounts.coin_assets, accounts.collateral, of_coins(accounts, system.inverse), of_coins(accounts, venue), strict=True
    ):
        face = accounts.quantity[place[asset]] if asset in place else jnp.zeros_like(k)
        left.append(k - jnp.where(inverse, share * face / p, 0))
    return tuple(left)


def resize(accounts: Accounts, system: System, share: Array, posted: Array, *, venue: Array, fill: Array, funding: Array) -> tuple[Accounts, Resized]:
    """Close `share` (nb, B) of every position (negative: add to it) and take in `posted` (nb, B) USD.

    Args: (V, A) `venue` prices at which coins for contracts of fixed face are counted, `fill` USD by which fills stand above the reference price,
    `funding` index. The pool's taker fee is paid on the notional traded, at the fill.
    """
    pools, assets = fill.shape
    price = system.reference_price[None, :] + fill
    gain = of_contracts(accounts, contract_gain(system, fill, funding))
    old = accounts.equity_at_reference
    kept = tuple((1 - share) * q for q in accounts.quantity)
    coins = _coins_left(accounts, system, share, venue)
    sold = tuple(k - z for k, z in zip(accounts.collateral, coins, strict=True))
    unit = of_contracts(accounts, unit_value(system, price))
    fee = column(system.taker_fee[accounts.block_pool]) * jnp.abs(share) * sum(jnp.abs(q) * u for q, u in zip(accounts.quantity, unit, strict=True))
    cash = dot(accounts.quantity, tuple(share * g for g in gain), old)
    if sold:
        cash = dot(sold, of_coins(accounts, fill), cash)
    cash = cash + posted - fee
    entry = accounts.entry
    if entry:
        grown = jnp.maximum(-share, 0)
        entry = tuple((e + grown * p) / (1 + grown) for e, p in zip(entry, of_contracts(accounts, price), strict=True))

    def by_pool(values):
        return pool_sum(jnp.sum(values, axis=1), accounts.block_pool, pools)

    zero = jnp.zeros_like(fill)
    moved = [by_pool(k - q) for k, q in zip(kept, accounts.quantity, strict=True)]
    done = Resized(
        cash_change=by_pool(cash - old),
        taker_fee=by_pool(fee),
        quantity_change=spread(moved, accounts.contract_assets, assets),
        coins_change=spread([by_pool(-s) for s in sold], accounts.coin_assets, assets) if sold else zero,
    )
    after = replace(accounts, equity_at_reference=cash, quantity=kept, collateral=coins, entry=entry)
    return after, over_devices(done, accounts.axis)
