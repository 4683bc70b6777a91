"""Auto-deleveraging: whose positions are closed against those of the bankrupt, and how they are booked."""

import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.select import queue, waterfill

#: Codes of the rules, one int32 per pool. A pool with any other code closes nobody.
QUEUE_PNL_LEVERAGE = 0  # return times effective leverage (Binance, Bybit)
QUEUE_PNL = 1  # unrealised profit over equity (FLOX)
QUEUE_HYPERLIQUID = 2  # growth of the price in favour of the position, times its leverage
PRO_RATA_PNL = 3  # coins in proportion to unrealised profit
PRO_RATA_EQUITY = 4  # coins in proportion to account equity


def _one_of(policy: Array, *codes: int) -> Array:
    hit = policy == codes[0]
    for code in codes[1:]:
        hit = hit | (policy == code)
    return hit


def _is_queue(policy: Array) -> Array:
    return _one_of(policy, QUEUE_PNL_LEVERAGE, QUEUE_PNL, QUEUE_HYPERLIQUID)


def _held(side, quantity: Array) -> Array:
    """(nb, B) coins held on that side, >= 0."""
    return jnp.maximum(jnp.asarray(side).astype(quantity.dtype) * quantity, 0)


def scores(policy: Array, side, quantity: Array, entry: Array, mark: Array, equity: Array, gross_notional: Array) -> tuple[Array, Array]:
    """Ranks and weights of the positions of one asset and side under each block's rule.

    With return `g = side (mark - entry) / entry`, profit `u = |q| side (mark - entry)`, equity E and gross notional N:

    - `QUEUE_PNL_LEVERAGE`: `g N / E` in profit, `g / (N / E)` at a loss (the ADL ranking of the Binance and Bybit help pages, whose effective
      leverage, mark value over mark value less bankruptcy value, is N / E for an account with one position);
    - `QUEUE_PNL`: `u / E` (FLOX's `pnl_ratio` divides by posted margin, E - u; the order is the same wherever that is positive);
    - `QUEUE_HYPERLIQUID`: `(mark / entry) |q| mark / E` for longs (Hyperliquid documentation, "Auto-deleveraging"), `(entry / mark) |q| mark / E`
      for shorts, the mirror image, which the documentation leaves open; positions at a loss come after all in profit, by the same index;
    - `PRO_RATA_PNL`: weight `max(u, 0)`; `PRO_RATA_EQUITY`: weight E, whether the position is in profit or not.

    Only positions of the given side in accounts with positive equity are candidates.

    Args:
      policy: (nb, 1) int32 code.
      side: +1 when longs are candidates (the bankrupt are short), -1 when shorts are.
      quantity: (nb, B) coins, signed.
      entry: (nb, B) USD, > 0 where a position is held.
      mark: (nb, 1) USD.
      equity, gross_notional: (nb, B) USD of the account at the marks.

    Returns:
      Key (nb, B), highest first, -inf for no candidate or no queue; weight (nb, B), zero for no candidate or no pro rata rule.
    """
    held = _held(side, quantity)
    candidate = (held > 0) & (equity > 0)
    one = jnp.ones_like(held)
    entry = jnp.where(candidate, entry, one)
    equity = jnp.where(candidate, equity, one)
    leverage = jnp.where(candidate & (gross_notional > 0), gross_notional, one) / equity

    favour = jnp.asarray(side).astype(held.dtype) * (mark - entry)
    profit = held * favour
    gain = favour / entry
    by_leverage = jnp.where(favour > 0, gain * leverage, gain / leverage)
    index = jnp.where(candidate, jnp.where(jnp.asarray(side) > 0, mark / entry, entry / mark) * held * mark / equity, one)
    hyperliquid = jnp.where(favour > 0, index, -1 / index)  # negative and in the same order, so after all in profit

    key = jnp.where(policy == QUEUE_PNL_LEVERAGE, by_leverage, jnp.where(policy == QUEUE_PNL, profit / equity, hyperliquid))
    key = jnp.where(candidate & _is_queue(policy), key, -jnp.inf)
    weight = jnp.where(policy == PRO_RATA_PNL, jnp.maximum(profit, 0), equity)
    weight = jnp.where(candidate & _one_of(policy, PRO_RATA_PNL, PRO_RATA_EQUITY), weight, 0)
    return key, weight


def deleverage(
    policy: Array,
    side,
    quantity: Array,
    entry: Array,
    mark: Array,
    equity: Array,
    gross_notional: Array,
    block_pool: Array,
    target: Array,
    axis: str | None = None,
) -> Array:
    """Coins of one asset and side that each account gives up so that the bankrupt's positions can be closed against them.

    Args:
      policy: (V,) int32 code of each pool's rule.
      block_pool: (nb,) int32 pool of each block.
      target: (V,) coins to be absorbed, >= 0.
      axis: of the mesh, where the blocks are dealt out over devices.
      The rest as for `scores`.

    Returns:
      (nb, B) coins closed, >= 0 and at most what is held. Sums by pool to the target, or to what the candidates hold if that is less.
    """
    rule = policy[block_pool][:, None]
    key, weight = scores(rule, side, quantity, entry, mark, equity, gross_notional)
    held = _held(side, quantity)
    ranked = _is_queue(policy)

    # a pool uses one of the two; the other finds no candidates in it and grants nothing
    def by_rank():
        return queue(key, held, block_pool, target, axis)

    def by_weight():
        return waterfill(weight, held, block_pool, target, axis)

    def nobody():
        return jnp.zeros_like(held)

    busy = target > 0
    return lax.cond(jnp.any(busy & ranked), by_rank, nobody) + lax.cond(jnp.any(busy & ~ranked), by_weight, nobody)


def book(quantity: Array, equity_at_reference: Array, granted: Array, price_displaced: Array) -> tuple[Array, Array]:
    """Close the granted coins at a given price: closing signed coins c at price X adds `c (X - P0)` to W (docs/model.md, "Fills").

    Args:
      quantity: (nb, B) coins, signed.
      equity_at_reference: (nb, B) USD.
      granted: (nb, B) coins to close, within [0, |quantity|].
      price_displaced: (nb, 1) USD by which the price stands away from the reference.

    Returns:
      Quantity and equity at reference prices after the closing.
    """
    closed = jnp.sign(quantity) * granted
    return quantity - closed, equity_at_reference + closed * price_displaced
