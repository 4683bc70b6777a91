"""Tier margin that grows with open interest and with the size of a position, and how an account's equity is spread over its positions.

Per-asset values are tuples of A arrays of any one shape (in the engine (blocks, B)); parameters broadcast against them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.margin import tier_margin


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SizeScale:
    """Margin ratio that grows with the square root of the size of a position. All traced.

    A position of notional `n` and size `s` needs the ratio `max(base, offset + slope sqrt(s))` of its notional. `base` is what the tiers charge
    already, so `size_margin` is the excess over it. Held per pool as (V, A); the functions below want the asset axis last and the other axes
    broadcastable against the positions: (A,) or, indexed by the blocks' pools, (blocks, 1, A).

    The excess is convex in the share of the position that is kept (for `slope >= 0`), which the tangents of `size_line` rely on. A ceiling on the
    ratio would break that and is left out: dYdX's (the whole notional) is met at a notional of `base_position_notional / base^2`.
    """

    base: Array  # (..., A) fraction of notional: the tiers' rate, below which the ratio never falls
    offset: Array  # (..., A) fraction of notional: the ratio's part that does not depend on size
    slope: Array  # (..., A) >= 0, per square root of a coin, or of a USD where `in_notional`; zero for no scaling
    in_notional: Array  # (..., A) bool: size is the notional in USD, else the number of coins


def open_interest_scale(base: Array, open_interest: Array, lower: Array, upper: Array) -> Array:
    """Initial margin fraction `base + (1 - base) clip((OI - lower) / (upper - lower), 0, 1)` (dYdX v4, open-interest margin fraction).

    Args: `base` fraction of notional; open interest and its caps in USD. Shapes broadcast.

    Returns: fraction of notional; `base` itself where there are no caps, that is where `upper` is infinite or not above `lower`.
    """
    capped = jnp.isfinite(upper) & (upper > lower)
    start = jnp.where(capped, lower, jnp.zeros_like(lower))
    span = jnp.where(capped, upper, jnp.ones_like(upper)) - start
    progress = jnp.clip((open_interest - start) / span, 0, 1)
    return base + jnp.where(capped, (1 - base) * progress, jnp.zeros_like(base))


def open_interest_factor(base: Array, open_interest: Array, lower: Array, upper: Array) -> Array:
    """What `open_interest_scale` multiplies a requirement of rate `base` by, >= 1 for a base of at most 1; 1 where there are no caps or no base.

    dYdX scales the initial margin only; a rule that multiplies maintenance by this is stricter than the venue.
    """
    scaled = open_interest_scale(base, open_interest, lower, upper)
    some = base > 0
    return jnp.where(some, scaled / jnp.where(some, base, jnp.ones_like(base)), jnp.ones_like(scaled))


def drift_scale(base: Array, imf_factor: Array) -> SizeScale:
    """Drift's size premium: the ratio is `max(base, 0.8 base + imf_factor sqrt(coins))` (drift protocol v2, margin: size premium liability weight).

    Args: `base` maintenance or initial margin ratio, `imf_factor` per square root of a coin, both (..., A).
    """
    return SizeScale(base=base, offset=0.8 * base, slope=imf_factor, in_notional=jnp.zeros(jnp.shape(base), bool))


def dydx_scale(base: Array, base_position_notional: Array) -> SizeScale:
    """dYdX's scaling: margin is multiplied by `max(1, sqrt(n / base_position_notional))` (dYdX v4 liquidity tiers, before software version 3).

    The venue's maintenance is a fixed share of the scaled initial margin, so `base` may be either rate.

    Args: `base` margin ratio, `base_position_notional` USD > 0 (infinite for no scaling), both (..., A).
    """
    slope = base / jnp.sqrt(base_position_notional)
    return SizeScale(base=base, offset=jnp.zeros_like(base), slope=slope, in_notional=jnp.ones(jnp.shape(base), bool))


def _root(x: Array) -> Array:
    """Square root whose derivative at zero is zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), jnp.zeros_like(x))


def _excess(quantity: Array, price: Array, scale: SizeScale, a: int) -> tuple[Array, Array, Array]:
    """Notional, and the two parts of the ratio's excess over base: the part free of size, and the part with the root of size."""
    coins = jnp.abs(quantity)
    n = coins * price
    size = jnp.where(scale.in_notional[..., a], n, coins)
    return n, scale.offset[..., a] - scale.base[..., a], scale.slope[..., a] * _root(size)


def size_margin(quantity: tuple[Array, ...], price: tuple[Array, ...], scale: SizeScale) -> tuple[Array, ...]:
    """Requirement on top of the tiers, per asset, USD: `n max(0, offset + slope sqrt(size) - base)`.

    Args: signed coins and USD marks per asset.
    """
    extra = []
    for a, (q, p) in enumerate(zip(quantity, price, strict=True)):
        n, fixed, grown = _excess(q, p, scale, a)
        extra.append(n * jnp.maximum(fixed + grown, 0))
    return tuple(extra)


def size_line(kept: Array, quantity: tuple[Array, ...], price: tuple[Array, ...], scale: SizeScale) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Tangents of `size_margin` in the share of the positions that is kept, seen from below like `margin.tier_line`.

    The excess of `kept' * quantity` is at least `slope * kept' - deduction` for every share, with equality at `kept`: a solve for the kept share
    that starts from the right and follows these lines never passes the root.

    Args: `kept` in [0, 1], broadcast against the positions; signed coins and USD marks of the whole positions.

    Returns: slopes and deductions, A arrays each, USD.
    """
    slopes, deductions = [], []
    for a, (q, p) in enumerate(zip(quantity, price, strict=True)):
        n, fixed, grown = _excess(q, p, scale, a)
        grown = grown * _root(kept)
        active = fixed + grown > 0
        # n kept (fixed + g sqrt(kept)): slope n (fixed + 3/2 g sqrt(kept)), and kept times slope less value is n kept g sqrt(kept) / 2
        slopes.append(jnp.where(active, n * (fixed + 1.5 * grown), jnp.zeros_like(n)))
        deductions.append(jnp.where(active, 0.5 * kept * n * grown, jnp.zeros_like(n)))
    return tuple(slopes), tuple(deductions)


def position_margins(
    quantity: tuple[Array, ...], price: tuple[Array, ...], floor: Array, step: Array, multiplier: tuple[Array, ...], scale: SizeScale
) -> tuple[Array, ...]:
    """Maintenance margin per asset, USD: `multiplier_a (M_a(n_a) + size_margin_a)`. An open-interest factor goes into the multiplier.

    Args: signed coins and USD marks; `floor` and `step` (..., A, K) tier schedules; multiplier: A arrays.
    """
    extra = size_margin(quantity, price, scale)
    return tuple(
        multiplier[a] * (tier_margin(jnp.abs(q) * p, floor[..., a, :], step[..., a, :]) + extra[a])
        for a, (q, p) in enumerate(zip(quantity, price, strict=True))
    )


def requirement_shares(margin_by_asset: tuple[Array, ...], notionals: tuple[Array, ...]) -> tuple[Array, ...]:
    """Weights by which an account's equity is spread over its positions: shares of its margin, or of its notional where it has no margin.

    They add up to one; all are zero for an account without positions.
    """
    required = sum(margin_by_asset[1:], margin_by_asset[0])
    gross = sum(notionals[1:], notionals[0])
    charged = required > 0
    whole = jnp.where(charged, required, gross)
    whole = jnp.where(whole > 0, whole, jnp.ones_like(whole))
    return tuple(jnp.where(charged, m, n) / whole for m, n in zip(margin_by_asset, notionals, strict=True))


def bankruptcy_prices(quantity: tuple[Array, ...], price: tuple[Array, ...], equity: Array, margin_by_asset: tuple[Array, ...]) -> tuple[Array, ...]:
    """Prices at which the positions of a cross account must be closed for its equity to be used up, each position bearing its share of margin.

    `P_a - E w_a / q_a` with `w_a = MM_a / MM` (the dYdX v4 bankruptcy price, see `bankruptcy_quote`): closing everything at these prices leaves
    exactly nothing, whatever the order. For one position it is `margin.bankruptcy_price`.

    Args: signed coins, USD marks, account equity at the marks in USD, maintenance margin per asset in USD.

    Returns: USD per coin per asset; the mark where there is no position. Below zero when no price above zero uses up a long's share.
    """
    notionals = tuple(jnp.abs(q) * p for q, p in zip(quantity, price, strict=True))
    prices = []
    for q, p, share in zip(quantity, price, requirement_shares(margin_by_asset, notionals), strict=True):
        held = q != 0
        prices.append(p - jnp.where(held, equity * share / jnp.where(held, q, jnp.ones_like(q)), jnp.zeros_like(q)))
    return tuple(prices)


def bankruptcy_quote(traded: Array, price: Array, equity: Array, released: Array, required: Array) -> Array:
    """Quote balance that closing a part of one position may bring or cost so that the account's equity falls in step with its margin, USD.

    `-(traded P) - E dMM / MM` (dYdX v4, bankruptcy price in quote quantums). After any such close the rest of the account has the same health.

    Args:
      traded: signed coins by which the position changes (negative when a long is closed).
      price: mark, USD per coin.
      equity: total net collateral of the account, USD.
      released: maintenance margin that the close sets free, USD, >= 0.
      required: maintenance margin of the account before, USD; where it is zero, no equity goes with the close.

    Returns: positive for what a sale must bring, negative for what a purchase may cost.
    """
    some = required > 0
    share = jnp.where(some, released / jnp.where(some, required, jnp.ones_like(required)), jnp.zeros_like(required))
    return -traded * price - equity * share


def insurance_delta(filled_quote: Array, bankruptcy: Array, fee_cap: Array) -> Array:
    """Change of the insurance fund when a part of an account is closed, USD (dYdX v4).

    What the fill brings beyond the bankruptcy quote is the equity that went with the part; the fund takes it as a fee of at most `fee_cap` of the
    quote traded, and pays where it is negative.

    Args: quote of the fill (positive for a sale), `bankruptcy_quote` of the same close, both USD; the cap as a fraction.
    """
    return jnp.minimum(filled_quote - bankruptcy, fee_cap * jnp.abs(filled_quote))
