"""One market per asset: exogenous move, recovery, volatility, depth; what a flow does to it is in `impact`."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from stresslev.engine import makers
from stresslev.engine.types import Market, State, System


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


def _makers_left(state: State, system: System, log_price: Array) -> Array:
    """(A,) share of their depth that makers still quote, after what they have taken on and lost since the start."""
    ledger, reference = state.ledger, system.reference_price
    price, displaced = reference * jnp.exp(log_price), reference * jnp.expm1(log_price)
    contracts = ledger.maker_quantity - ledger.maker_opening
    gain = jnp.broadcast_to(displaced[None, :], contracts.shape)
    unit = jnp.broadcast_to(price[None, :], contracts.shape)
    if state.funding is not None:
        gain = gain - state.funding.index
    if system.inverse is not None:
        # the exposure of a contract of fixed face is in the coins
        gain, unit = jnp.where(system.inverse, 0, gain), jnp.where(system.inverse, 0, unit)
    inventory = jnp.sum(contracts * unit, axis=0) + jnp.sum(ledger.maker_coins, axis=0) * price
    profit = jnp.sum(ledger.maker_cash + contracts * gain, axis=0) + jnp.sum(ledger.maker_coins, axis=0) * displaced
    return makers.depth_factor(system.makers, inventory_usd=inventory, profit_usd=profit)


def thinning(state: State, system: System, depth_factor: Array, log_price: Array) -> Array:
    """(A,) factor on the depth: scenario, volatility (`(sigma0 / sigma)^kappa`, thinning only, never below its floor), makers."""
    ratio = jnp.power(system.reference_variance / state.market.variance, 0.5 * system.depth_volatility_exponent)
    factor = depth_factor * jnp.clip(ratio, system.depth_floor, 1)
    return factor if system.makers is None else factor * _makers_left(state, system, log_price)


def absorb(market: Market, system: System, move: Array) -> Market:
    """Book a log-price move as permanent and transient impact."""
    return replace(
        market,
        permanent=market.permanent + system.permanent_share * move,
        transient=market.transient + (1 - system.permanent_share) * move,
    )
