"""Leverage that falls as something observable rises: a pool's utilisation, the crowding of a market, its funding, the risk of a cascade."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.leverage.reading import Reading, respond

#: A ratio counts as at most this: what stands against nothing at all is as bad as can be, and not fine.
LARGEST_RATIO = 1e6


def _against(part: Array, whole: Array) -> Array:
    """`part / whole` of figures >= 0, at most `LARGEST_RATIO`, and 0 where there is no part. Continuous but where both vanish."""
    whole = jnp.maximum(whole, part / LARGEST_RATIO)
    some = (part > 0) & (whole > 0)
    return jnp.where(some, part / jnp.where(some, whole, jnp.ones_like(whole)), jnp.zeros_like(part))


def pool_utilisation(reading: Reading) -> Array:
    """(V, A) how far the means of a pool are used.

    At a venue, its whole open interest over its insurance fund, the same for all assets since one fund stands behind them; at a lender, which is a
    pool with deposits, borrowed over supplied per asset. A fund that is gone is the highest utilisation.
    """
    of_fund = _against(jnp.sum(reading.open_interest, axis=1), reading.insurance_fund)[:, None]
    lender = jnp.sum(reading.supplied, axis=1)[:, None] > 0
    return jnp.where(lender, _against(reading.borrowed, reading.supplied), of_fund)


def concentration(reading: Reading) -> Array:
    """(V, A) open interest over the market's depth for the reference move, both USD: how many such moves the pool's positions are deep."""
    return _against(reading.open_interest, jnp.broadcast_to(reading.depth[None, :], reading.open_interest.shape))


def funding(reading: Reading) -> Array:
    """(V, A) size of the last funding rate per funding period, whichever side paid: what crowding costs those who join it."""
    return jnp.abs(reading.funding_rate)


def systemic_gauge(reading: Reading) -> Array:
    """(V, A) the gauge of systemic risk, as it was measured."""
    return reading.gauge


#: What a reaction can read: name -> level (V, A) >= 0.
READS: dict[str, Callable[[Reading], Array]] = {
    "pool_utilisation": pool_utilisation,
    "concentration": concentration,
    "funding": funding,
    "systemic_gauge": systemic_gauge,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reaction:
    """Factor `clip((level / at)^-slope, floor, ceiling)` of a level in `READS`; keeps nothing. Traced but `reads`, each () or (V, A)."""

    at: Array | float  # level at which the factor is 1, > 0
    slope: Array | float  # percent by which it falls for each percent above, >= 0
    floor: Array | float  # least factor, in (0, 1]
    ceiling: Array | float  # largest factor, >= 1; 1 for a rule that only tightens
    reads: str = field(default="pool_utilisation", metadata={"static": True})

    def start(self, reading: Reading) -> tuple[()]:
        """Nothing is kept."""
        return ()

    def react(self, memory: tuple[()], reading: Reading) -> tuple[tuple[()], Array]:
        """The factor (V, A) for the level as it stands."""
        level = READS[self.reads](reading)
        return memory, respond(level, jnp.asarray(self.at), jnp.asarray(self.slope), jnp.asarray(self.floor), jnp.asarray(self.ceiling))
