"""Net flow into the markets: what leaves accounts, where it trades, what it does to prices and at which price it is filled."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import impact, venues
from stresslev.engine import market as markets
from stresslev.engine.health import Prices
from stresslev.engine.margin import displacement
from stresslev.engine.prices import Seen, common_log_price
from stresslev.engine.types import Channels, State, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditions:
    """What holds for all rounds of a step."""

    seen: Seen
    multiplier: Array  # (V, A) of perp requirements
    threshold: Array | None  # (V, A) liquidation thresholds of lenders in force
    thinning: Array  # (A,) factor on depth
    opening: Array  # (A,) log price at the opening of the step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Flow:
    """Net flow of the step so far, bought less sold, and what is left of the pools' capacity."""

    usd: Array  # (V, A)
    coins: Array  # (V, A)
    arbitrage_usd: Array  # (A,) of arbitrageurs in the common market
    arbitrage_coins: Array  # (A,)
    capacity: Array  # (V,) USD


@dataclass(frozen=True)
class Closing:
    """What leaves the accounts in this round, (V, A)."""

    longs: Array  # contracts sold
    shorts: Array  # contracts bought back
    coins_sold: Array  # posted coins and collateral sold, net; and collateral seized
    coins_bought: Array  # debt repaid

    def net_contracts(self) -> Array:
        return self.longs - self.shorts

    def net_coins(self) -> Array:
        return self.coins_sold - self.coins_bought


def faces(system: System, contracts: Array) -> Array:
    """(V, A) the part of some contracts that is of fixed USD face: it reaches the market through the coins of its accounts."""
    return jnp.zeros_like(contracts) if system.inverse is None else jnp.where(system.inverse, contracts, 0)


def coins_to_market(system: System, closing: Closing) -> Array:
    """(V, A) coins that reach the market, sold less bought."""
    contracts = closing.net_contracts()
    return contracts - faces(system, contracts) + closing.net_coins()


def _in_markets(system: System, values: Array) -> Array:
    """(A,) sums of (A,) values over the assets that trade in each market."""
    assets = values.shape[0]
    member = (system.market[None, :] == jnp.arange(assets, dtype=jnp.int32)[:, None]).astype(values.dtype)
    return jnp.sum(member * values[None, :], axis=1)


def _common(system: System, flow: Flow, price: Array) -> tuple[Array, Array]:
    """(A,) cumulative flow in the common markets, USD and coins; a receipt token's counts as its underlying's."""
    if system.venues is None:
        usd, coins = jnp.sum(flow.usd, axis=0), jnp.sum(flow.coins, axis=0)
    else:
        usd, coins = venues.common_flow(system.venues, flow.usd), venues.common_flow(system.venues, flow.coins)
    if system.receipts is not None:
        coins = _in_markets(system, coins * price / price[system.market])
        usd = _in_markets(system, usd)
    return usd + flow.arbitrage_usd, coins + flow.arbitrage_coins


def push(state: State, system: System, channels: Channels, conditions: Conditions, before: Flow, after: Flow) -> State:
    """Move common and venue prices by what the step's flow has grown by."""
    price = system.reference_price * jnp.exp(common_log_price(state, system))
    usd_before, coins_before = _common(system, before, price)
    usd_after, coins_after = _common(system, after, price)
    move = impact.move(
        system.impact,
        thinning=conditions.thinning,
        opening=conditions.opening,
        usd_before=usd_before,
        usd_after=usd_after,
        coins_before=coins_before,
        coins_after=coins_after,
    )
    state = replace(state, market=markets.absorb(state.market, system, channels.price * move))
    if system.venues is None:
        return state
    depth = system.impact.depth * conditions.thinning
    moved = venues.local_flow(system.venues, state.venues, depth=depth, exponent=system.impact.exponent, before=before.usd, after=after.usd)
    basis = state.venues.basis + channels.price * (moved.basis - state.venues.basis)
    return replace(state, venues=replace(moved, basis=basis))


def traded(flow: Flow, system: System, coins: Array, venue: Array) -> Flow:
    return replace(flow, usd=flow.usd - coins * venue, coins=flow.coins - coins)


def fill_displaced(system: System, before: Prices, after: Prices) -> Array:
    """(V, A) USD by which fills stand away from the reference."""
    mean = (before.venue_displaced + after.venue_displaced) / 2
    form = system.impact.form[system.market][None, :]
    geometric = impact.average_price(form, before.venue, after.venue) - system.reference_price[None, :]
    return jnp.where(form == impact.CONSTANT_PRODUCT, geometric, mean)


def common_fill(system: System, opening: Array, closing: Array) -> Array:
    """(A,) USD by which fills in the common markets stand above the reference, between two log prices (A,): the mean, or a pool's geometric one."""
    reference, form = system.reference_price, system.impact.form
    mean = (displacement(opening, reference) + displacement(closing, reference)) / 2
    geometric = impact.average_price(form, reference * jnp.exp(opening), reference * jnp.exp(closing)) - reference
    return jnp.where(form == impact.CONSTANT_PRODUCT, geometric, mean)
