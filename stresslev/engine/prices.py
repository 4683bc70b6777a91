"""From the common market to what each pool sees: receipt tokens, venue prices, marks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import marks
from stresslev.engine.health import Prices
from stresslev.engine.margin import displacement
from stresslev.engine.types import State, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What stands for the length of a step, besides the prices themselves."""

    mark: Array | None  # (V, A) log marks at the opening; None where every mark is the venue's price
    offset: Array  # (V, A) scripted dislocation
    still: Array  # (V, A) bool: marks that stand still


def common_log_price(state: State, system: System) -> Array:
    """(A,) log price over reference in the common market; a receipt token's is its underlying's plus the log of what it redeems for."""
    x = state.market.log_price
    if system.receipts is None:
        return x
    return x[system.market] + jnp.log(jnp.maximum(claim_value(state, system), jnp.finfo(x.dtype).tiny))


def claim_value(state: State, system: System) -> Array:
    """(A,) units of the underlying that one receipt token redeems for, relative to the start; 1 for other assets."""
    receipts, lending = system.receipts, state.ledger.lending
    one = jnp.ones_like(system.reference_price)
    if receipts is None:
        return one
    value = state.cover.redemption
    if lending is not None:
        earned = 1 + lending.rates.supply_growth[jnp.maximum(receipts.pool, 0), system.market]
        value = value * earned
    return jnp.where(receipts.pool >= 0, value, one)


def venue_log_price(state: State, system: System) -> Array:
    """(V, A) log prices at which each pool's flow trades."""
    x = common_log_price(state, system)
    pools = system.insurance_fund.shape[0]
    common = jnp.broadcast_to(x[None, :], (pools, x.shape[0]))
    return common if state.venues is None else common + state.venues.basis


def mark_log_price(state: State, system: System, seen: Seen) -> Array:
    """(V, A) log prices by which pools judge accounts."""
    venue = venue_log_price(state, system)
    return venue if seen.mark is None else marks.follow(system.marks, seen.mark, venue, seen.offset, seen.still)


def prices(state: State, system: System, seen: Seen) -> Prices:
    """Marks and venue prices as they stand."""
    venue, mark = venue_log_price(state, system), mark_log_price(state, system, seen)
    reference = system.reference_price[None, :]
    return Prices(
        mark=reference * jnp.exp(mark),
        mark_displaced=displacement(mark, reference),
        venue=reference * jnp.exp(venue),
        venue_displaced=displacement(venue, reference),
        funding=jnp.zeros_like(venue) if state.funding is None else state.funding.index,
    )
