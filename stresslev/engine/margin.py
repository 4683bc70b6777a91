"""Equity, notional and maintenance margin; liquidation and bankruptcy prices."""

import jax.numpy as jnp
from jax import Array


def displacement(log_price: Array, reference_price: Array) -> Array:
    """USD by which prices stand away from their reference, exact for small moves. Shapes broadcast."""
    return reference_price * jnp.expm1(log_price)


def equity(equity_at_reference: Array, quantity: tuple[Array, ...], displaced: tuple[Array, ...]) -> Array:
    """Cross-margin equity `W + sum_a q_a d_a`, USD. Per-asset arrays broadcast against `equity_at_reference`."""
    total = equity_at_reference
    for q, d in zip(quantity, displaced, strict=True):
        total = total + q * d
    return total


def notional(quantity: tuple[Array, ...], price: tuple[Array, ...]) -> tuple[Array, ...]:
    """`|q_a| P_a` per asset, USD."""
    return tuple(jnp.abs(q) * p for q, p in zip(quantity, price, strict=True))


def tier_margin(n: Array, floor: Array, step: Array) -> Array:
    """Maintenance margin of notional `n` under one tier schedule, USD.

    The sum of hinges `sum_k (mmr_k - mmr_{k-1}) max(n - floor_k, 0)`: the venues' `mmr_k n - cum_k` (Binance "maintenance amount") without the
    cancellation. `floor` and `step` have a trailing tier axis; the rest broadcasts against `n`.
    """
    total = jnp.zeros_like(n)
    for k in range(floor.shape[-1]):
        total = total + step[..., k] * jnp.maximum(n - floor[..., k], 0)
    return total


def maintenance_margin(notionals: tuple[Array, ...], floor: Array, step: Array, multiplier: tuple[Array, ...]) -> Array:
    """Requirement over all assets, USD. `floor` and `step` are (..., A, K) and broadcast against the notionals."""
    total = jnp.zeros_like(notionals[0])
    for a, n in enumerate(notionals):
        total = total + multiplier[a] * tier_margin(n, floor[..., a, :], step[..., a, :])
    return total


def tier_line(n: Array, floor: Array, step: Array) -> tuple[Array, Array]:
    """Rate and deduction of the tier that `n` lies in, seen from below: margin near `n` is `rate * n - deduction`."""
    rate, deduction = jnp.zeros_like(n), jnp.zeros_like(n)
    for k in range(floor.shape[-1]):
        inside = jnp.where(n > floor[..., k], step[..., k], jnp.zeros_like(step[..., k]))
        rate = rate + inside
        deduction = deduction + inside * floor[..., k]
    return rate, deduction


def bankruptcy_price(quantity: Array, equity_now: Array, price: Array) -> Array:
    """Price of one position at which the account's equity is zero, everything else fixed, USD per coin.

    Args: signed coins, account equity at the present marks in USD, present mark. Negative when no price above zero exhausts the account.
    """
    return price - equity_now / quantity


def liquidation_price(
    quantity: Array,
    equity_now: Array,
    price: Array,
    other_margin: Array,
    floor: Array,
    step: Array,
    multiplier: Array | float = 1.0,
) -> Array:
    """Price of one position at which equity equals maintenance margin, everything else fixed, USD per coin.

    The venues' formula (Binance FAQ "How to calculate liquidation price") `(WB - TMM + UPNL + cum - q EP) / (|q| mmr - q)`, with the tier
    found at the liquidation price itself instead of at the present mark.

    Args:
      quantity: signed coins, not zero.
      equity_now: account equity at present marks, USD.
      price: present mark of the position's asset.
      other_margin: maintenance margin of the account's other positions, USD.
      floor, step: (..., K) tier schedule of the position.
      multiplier: maintenance multiplier of the policy.

    Returns:
      The price; not a number when no positive price triggers (a long that equity covers down to zero).
    """
    floor, step = jnp.asarray(floor), jnp.asarray(step)
    quantity, equity_now, price, other_margin, multiplier = (
        jnp.asarray(x, floor.dtype) for x in (quantity, equity_now, price, other_margin, multiplier)
    )
    size = jnp.abs(quantity)
    rate = multiplier[..., None] * jnp.cumsum(step, axis=-1)
    deduction = multiplier[..., None] * jnp.cumsum(step * floor, axis=-1)
    ceiling = jnp.concatenate([floor[..., 1:], jnp.full_like(floor[..., :1], jnp.inf)], axis=-1)
    # E(p) = equity_now + q (p - price) and MM(p) = other + rate |q| p - deduction, tier by tier
    constant = (equity_now - quantity * price - other_margin)[..., None] + deduction
    slope = size[..., None] * rate - quantity[..., None]
    candidate = constant / jnp.where(slope == 0, jnp.nan, slope)
    # a candidate counts only inside its own tier
    reached = size[..., None] * candidate
    # a whisker of slack keeps a root that falls exactly on a tier's floor
    slack = 8 * jnp.finfo(candidate.dtype).eps * jnp.maximum(reached, 1)
    valid = (candidate > 0) & (reached >= floor - slack) & (reached <= ceiling + slack)
    inf = jnp.array(jnp.inf, candidate.dtype)
    highest = jnp.max(jnp.where(valid, candidate, -inf), axis=-1)
    lowest = jnp.min(jnp.where(valid, candidate, inf), axis=-1)
    # a long is reached from above, a short from below
    found = jnp.where(quantity > 0, highest, lowest)
    return jnp.where(jnp.isfinite(found), found, jnp.nan)
