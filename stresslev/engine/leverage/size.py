"""Margin that grows with the size of a position measured against its market: hinges that follow depth or open interest, beside the tiers.

The requirement stays piecewise linear, continuous and convex in the notional, so that everything that is exact for tier tables is exact for it.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.leverage.reading import Reading

DEPTH, OPEN_INTEREST, USD = "depth", "open_interest", "usd"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SteppedSize:
    """A table of brackets as venues publish them, in multiples of a scale that moves: beyond `at` scales each USD needs `rate_increase` more.

    Traced, each (H,) for all or (V, A, H); `relative_to` is static.
    """

    at: Array  # multiples of the scale, >= 0, in any order; USD where `relative_to` is "usd"
    rate_increase: Array  # fraction of notional, >= 0: what the marginal rate rises by there
    relative_to: Literal["depth", "open_interest", "usd"] = field(default=DEPTH, metadata={"static": True})

    def hinges(self) -> tuple[Array, Array]:
        """Multiples of the scale and rises of the rate, each (..., H)."""
        return self.at, self.rate_increase


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SmoothSize:
    """The marginal rate `min(amount (n / scale)^power, most)` of a position of notional n, on top of the tiers.

    The requirement is its integral, `amount scale / (power + 1) (n / scale)^(power + 1)` until the rate reaches `most` (at the multiple
    `(most / amount)^(1 / power)` of the scale) and straight from there. It is laid down as chords between `points` places: exact there and beyond
    the last, too high between them, by at most `most / (points - 1)^2 max(1 / (2 power), 1 / (power + 1))` of the notional. The places divide the
    square root of the rate evenly, which keeps that bound the same for small and large positions.

    Traced, each () or (V, A); `points` and `relative_to` are static.
    """

    amount: Array | float  # fraction of notional: the marginal rate of a position of one scale, >= 0; 0 for none
    power: Array | float  # elasticity of the rate to size, in [0.25, 4]; 1/2 for impact that grows with the root of size
    most: Array | float  # fraction of notional at which the rate stops, > 0 and at most a million times a positive amount
    points: int = field(default=8, metadata={"static": True})  # >= 2
    relative_to: Literal["depth", "open_interest", "usd"] = field(default=DEPTH, metadata={"static": True})

    def hinges(self) -> tuple[Array, Array]:
        """Multiples of the scale and rises of the rate, each (..., points)."""
        amount, power, most = (x[..., None] for x in jnp.broadcast_arrays(*(jnp.asarray(x) for x in (self.amount, self.power, self.most))))
        some = amount > 0
        last = jnp.exp(jnp.log(most / jnp.where(some, amount, most)) / power)
        # the rate is most t^2 at the multiple last t^(2 / power); the first t, 0, stands apart since its power has no finite derivative
        t = jnp.linspace(0, 1, self.points, dtype=amount.dtype)[1:].reshape((1,) * (amount.ndim - 1) + (-1,))
        inner = jnp.exp(2 / power * jnp.log(t))
        none = jnp.zeros_like(amount)
        place = jnp.concatenate([none, inner], axis=-1)
        margin = jnp.concatenate([none, t * t * inner / (power + 1)], axis=-1)  # over most last
        rate = jnp.concatenate([none, jnp.diff(margin, axis=-1) / jnp.diff(place, axis=-1), jnp.ones_like(none)], axis=-1)
        return last * place, jnp.where(some, most, none) * jnp.diff(rate, axis=-1)


SizeSchedule = SteppedSize | SmoothSize


def size_scale(schedule: SizeSchedule, reading: Reading) -> Array:
    """(V, A) USD that a schedule's multiples are of: the market's depth now, the pool's open interest now, or one."""
    shape = reading.open_interest.shape
    if schedule.relative_to == OPEN_INTEREST:
        return reading.open_interest
    return jnp.broadcast_to(reading.depth[None, :], shape) if schedule.relative_to == DEPTH else jnp.ones(shape, reading.open_interest.dtype)


def add_hinges(schedule: SizeSchedule, tier_floor: Array, tier_step: Array, scale: Array) -> tuple[Array, Array]:
    """Tier schedules with the hinges of size behind them: floors and rises of the rate, each (V, A, K + H).

    `margin.tier_margin` of the result is the margin of the tiers plus that of the size. The floors are no longer in order, which the sums over tiers
    (`tier_margin`, `tier_line`, the liquidation rules) do not mind; `margin.liquidation_price` does.

    Args: `tier_floor` USD and `tier_step` (V, A, K); `scale` (V, A) USD >= 0, from `size_scale`.
    """
    at, rise = schedule.hinges()
    shape = (*scale.shape, at.shape[-1])
    floor, step = (x if x.ndim == 3 else jnp.broadcast_to(x[None, None, :], shape) for x in (at, rise))
    return jnp.concatenate([tier_floor, scale[..., None] * floor], axis=-1), jnp.concatenate([tier_step, step], axis=-1)
