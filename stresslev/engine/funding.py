"""Perpetual funding, kept as an index in USD per coin so that accounts which sleep are not touched.

A long of q coins pays `q (F_t1 - F_t0)` from t0 to t1; a short's q is negative, so it receives. As all of a pool read one index, what is paid is
received whenever the quantities of the pool, its makers included, add up to zero.

Rates are fractions of notional per `period`, the time that the venue quotes them for (eight hours for most).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FundingRules:
    """How each pool sets and books funding. V pools, A assets. All traced."""

    interest: Array  # (V, A) rate per period towards which small premiums are pulled (Binance, Bybit: 0.0001 per 8 h)
    clamp: Array  # (V, A) per period, >= 0: how far the premium may be pulled (Binance: 0.0005)
    cap: Array  # (V, A) highest rate per period; inf for none
    floor: Array  # (V, A) lowest rate per period; -inf for none
    skew_slope: Array  # (V, A) premium per unit of skew, for pools whose premium is not observed; otherwise 0
    interval: Array  # (V, A) int32 steps between settlements, >= 1; not used by continuous pools
    period: Array  # (V, A) int32 steps that a rate is quoted for, >= 1; where it is not the interval, interval / period of the rate is paid
    rising_weights: Array  # (V,) bool: the n-th premium of an interval counts n times in its average (Binance) instead of once
    continuous: Array  # (V,) bool: accrues in every step at the rate of the present premium (Deribit) instead of settling


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FundingState:
    """The index and the running interval. Traced."""

    index: Array  # (V, A) USD per coin, cumulative: what a long of one coin has paid
    premium_sum: Array  # (V, A) weighted sum of the premiums of the running interval
    count: Array  # (V, A) int32 premiums in that sum
    remaining: Array  # (V, A) int32 steps until the next settlement; not positive when an outage has put it off


def initial(rules: FundingRules, remaining: Array | None = None) -> FundingState:
    """Nothing accrued. `remaining` (V, A) int32 steps until the first settlement; a whole interval when not given."""
    zero = jnp.zeros_like(rules.interest)
    first = rules.interval if remaining is None else remaining
    return FundingState(index=zero, premium_sum=zero, count=jnp.zeros(zero.shape, jnp.int32), remaining=first)


#: Roundings of what was once held that sums of positions may be left with when nobody holds any.
_DUST = 256


def skew(long: Array, short: Array, once: Array | float = 0.0) -> Array:
    """`(longs - shorts) / (longs + shorts)` in [-1, 1] of quantities >= 0; 0 where there are none but for the rounding of what was `once` held."""
    total = long + short
    return jnp.where(total > _DUST * jnp.finfo(total.dtype).eps * once, (long - short) / jnp.where(total > 0, total, 1), 0)


def quoted_rate(rules: FundingRules, premium: Array) -> Array:
    """(V, A) rate per period: `clip(P + clip(interest - P, -clamp, clamp), floor, cap)` (Binance, "Introduction to Binance Futures Funding Rates").

    With no interest this is Deribit's `max(clamp, P) + min(-clamp, P)`.
    """
    pull = jnp.clip(rules.interest - premium, -rules.clamp, rules.clamp)
    return jnp.clip(premium + pull, rules.floor, rules.cap)


def accrue(
    rules: FundingRules,
    state: FundingState,
    venue_price: Array,
    index_price: Array,
    scripted_premium: Array,
    skew: Array,
    outage: Array | None = None,
) -> tuple[FundingState, Array]:
    """One step of funding: take in the premium, and book the payment where one is due.

    `venue_price`, `index_price` (V, A) USD per coin, > 0; `scripted_premium` (V, A) fraction of the index price, added to the observed premium;
    `skew` (V, A) in [-1, 1]; `outage` (V,) bool. Returns the state and the (V, A) rate paid in this step: fraction of the notional at
    `venue_price`, positive when longs pay, zero between settlements. A settlement books the whole interval, on positions as they then are.
    In an outage nothing is sampled and nothing paid; the clock runs, and a settlement that was missed is made up, once, at the first step after it.
    """
    dtype = state.index.dtype
    up = jnp.ones(state.index.shape, bool) if outage is None else jnp.broadcast_to(~outage[:, None], state.index.shape)
    premium = (venue_price - index_price) / index_price + scripted_premium + rules.skew_slope * skew

    rising = rules.rising_weights[:, None]
    count = state.count + up.astype(jnp.int32)
    weight = jnp.where(rising, count.astype(dtype), 1)
    premium_sum = state.premium_sum + jnp.where(up, weight * premium, 0)
    number = jnp.maximum(count, 1).astype(dtype)
    average = premium_sum / jnp.where(rising, 0.5 * number * (number + 1), number)

    interval = jnp.maximum(rules.interval, 1)
    remaining = state.remaining - 1
    due = (remaining <= 0) & up
    # settlements keep to their timetable after one was late
    next_remaining = jnp.where(due, interval - (-remaining) % interval, remaining)

    period = rules.period.astype(dtype)
    settled = jnp.where(due, quoted_rate(rules, average) * (interval.astype(dtype) / period), 0)
    flowing = jnp.where(up, quoted_rate(rules, premium) / period, 0)
    rate = jnp.where(rules.continuous[:, None], flowing, settled)
    after = FundingState(
        index=state.index + rate * venue_price,
        premium_sum=jnp.where(due, 0, premium_sum),
        count=jnp.where(due, 0, count),
        remaining=next_remaining,
    )
    return after, rate


def due(rules: FundingRules, state: FundingState, outage: Array) -> Array:
    """(V, A) bool: whether the coming step pays, if only a rate of zero; arguments as in `accrue`."""
    up = jnp.broadcast_to(~outage[:, None], state.index.shape)
    return up & (rules.continuous[:, None] | (state.remaining <= 1))


def per_period(rules: FundingRules, rate: Array) -> Array:
    """(V, A) the rate that a payment amounts to per `period`: `rate` (V, A) as `accrue` returns it."""
    period = rules.period.astype(rate.dtype)
    interval = jnp.maximum(rules.interval, 1).astype(rate.dtype)
    return rate * jnp.where(rules.continuous[:, None], period, period / interval)


def payment(quantity: Array, before: FundingState, after: FundingState) -> Array:
    """(V, A) USD that (V, A) coins, long > 0, pay between two states; negative is received."""
    return quantity * (after.index - before.index)
