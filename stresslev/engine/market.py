"""One market per asset: exogenous move, recovery, volatility, depth, and the impact of forced flow."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from stresslev.engine.types import Market, System

#: Log-price move that a net flow of one `depth` makes.
REFERENCE_MOVE = 0.01


def initial(system: System) -> Market:
    """The market at the reference prices and the reference volatility."""
    zero = jnp.zeros_like(system.reference_price)
    return Market(fundamental=zero, permanent=zero, transient=zero, opening=zero, variance=system.reference_variance)


def open_step(market: Market, system: System, fundamental: Array) -> Market:
    """The exogenous price, the recovery of transient impact, and the EWMA variance of opening prices (RiskMetrics 1996).

    `fundamental` (A,) is the exogenous log price itself, not its change: thousands of small changes would not add up in float32.
    """
    moved = replace(market, fundamental=fundamental, transient=market.transient * system.transient_decay)
    r = moved.log_price - market.opening
    variance = system.volatility_decay * market.variance + (1 - system.volatility_decay) * r * r
    return replace(moved, opening=moved.log_price, variance=variance)


def depth(market: Market, system: System, depth_factor: Array) -> Array:
    """(A,) USD per reference move: `D0 * factor * (sigma0 / sigma)^kappa`, thinning only, never below its floor."""
    ratio = jnp.power(system.reference_variance / market.variance, 0.5 * system.depth_volatility_exponent)
    return system.depth * depth_factor * jnp.clip(ratio, system.depth_floor, 1)


def impact(flow: Array, depth: Array, exponent: Array) -> Array:
    """Log-price move of a signed net flow: `0.01 sgn(V) (|V| / D)^delta`; linear at 1, square root at 0.5."""
    return REFERENCE_MOVE * jnp.sign(flow) * jnp.power(jnp.abs(flow) / depth, exponent)


def absorb(market: Market, system: System, move: Array) -> Market:
    """Book a log-price move as permanent and transient impact."""
    return replace(
        market,
        permanent=market.permanent + system.permanent_share * move,
        transient=market.transient + (1 - system.permanent_share) * move,
    )
