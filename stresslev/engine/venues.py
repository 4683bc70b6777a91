"""A venue's own book, whose price may leave the common market, and arbitrage with finite capital that brings it back.

The price of asset a at pool v is `P_va = P0_a exp(x_a + basis_va)`, with `x_a` the log price of the common market over its reference. Arbitrageurs
are one trader with two legs: coins held at the venues, and the opposite position in the common market. Each leg is booked like every account
(docs/model.md): as its equity were all prices at their reference, so a purchase of q coins at price X changes it by `-q (X - P0)`, and its equity
at a price P is `W + q (P - P0)`.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import impact

#: Log of the largest flow, in depths, that arbitrageurs would send to close a basis: keeps small exponents from overflowing.
LOG_MOST_DEPTHS = 30.0

#: USD that capital does not ration: far below the rounding of any budget, and large enough to divide by in float32.
DUST = 1e-9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VenueRules:
    """Which pools have a book of their own, and what arbitrage can do. All traced."""

    local_depth_share: Array  # (V, A) of the asset's depth that is the venue's own book; 0: trades in the common market, no basis
    arbitrage_rate: Array  # (A,) in [0, 1], share of the basis that is closed per step when capital allows
    capital: Array  # () USD of venue inventory that arbitrageurs can carry before any profit; inf when not limited


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VenueState:
    """Where the venues' prices stand and what arbitrageurs hold. All traced."""

    basis: Array  # (V, A) log of the venue's price over the common price
    arb_quantity: Array  # (V, A) coins held at the venue, signed: long where bought cheap
    arb_cash: Array  # (V, A) USD: equity of the venue leg at reference prices
    common_quantity: Array  # (A,) coins of the opposite leg in the common market
    common_cash: Array  # (A,) USD: equity of the common leg at reference prices


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trades:
    """What arbitrageurs trade in one step. All traced."""

    coins: Array  # (V, A) bought from the venue's makers, negative when sold to them
    displaced_fill: Array  # (V, A) USD: price of those fills, less the reference price
    common_coins: Array  # (A,) bought in the common market: minus the sum over venues of `coins`
    common_usd: Array  # (A,) USD: the same at the common price before its own impact, the flow that moves the common market


def initial(rules: VenueRules) -> VenueState:
    """No basis and no position."""
    va, a = jnp.zeros_like(rules.local_depth_share), jnp.zeros_like(rules.arbitrage_rate)
    return VenueState(basis=va, arb_quantity=va, arb_cash=va, common_quantity=a, common_cash=a)


def displacement(state: VenueState, *, reference_price: Array, log_price: Array) -> Array:
    """(V, A) USD by which the venues' prices stand away from the reference; `reference_price` (A,) USD, `log_price` (A,) of the common market."""
    return reference_price[None, :] * jnp.expm1(log_price[None, :] + state.basis)


def common_flow(rules: VenueRules, flow: Array) -> Array:
    """(A,) what of the pools' flow (V, A), in USD or in coins, goes to the common market: that of pools without a book of their own."""
    return jnp.sum(jnp.where(rules.local_depth_share > 0, jnp.zeros_like(flow), flow), axis=0)


def _own_book(rules: VenueRules, depth: Array) -> tuple[Array, Array]:
    """(V, A) whether a pool has its own book, and that book's depth in USD (1 where it has none, for safe division)."""
    local = rules.local_depth_share > 0
    return local, jnp.where(local, rules.local_depth_share * depth[None, :], jnp.ones_like(rules.local_depth_share))


def _basis_move(rules: VenueRules, before: Array, after: Array, depth: Array, exponent: Array) -> Array:
    local, book = _own_book(rules, depth)
    return jnp.where(local, impact.power_move(before, after, book, exponent[None, :]), jnp.zeros_like(book))


def local_flow(rules: VenueRules, state: VenueState, *, depth: Array, exponent: Array, before: Array, after: Array) -> VenueState:
    """Move the basis by the flow that pools with a book of their own keep: power-law impact over `local_depth_share * depth`.

    Args:
      rules, state: as they stand.
      depth: (A,) USD of the whole asset per `impact.REFERENCE_MOVE`, as thinned in this step, > 0.
      exponent: (A,) of the asset's impact, whatever form the common market has.
      before, after: (V, A) USD, cumulative net flow of the step at each pool before and after the round; buys are positive.
    """
    return replace(state, basis=state.basis + _basis_move(rules, before, after, depth, exponent))


def profit(state: VenueState, *, reference_price: Array, log_price: Array) -> Array:
    """() USD, profit of both legs so far: each marked at its own market's price."""
    at_venues = jnp.sum(state.arb_cash + state.arb_quantity * displacement(state, reference_price=reference_price, log_price=log_price))
    in_common = jnp.sum(state.common_cash + state.common_quantity * (reference_price * jnp.expm1(log_price)))
    return at_venues + in_common


def _wanted_usd(rules: VenueRules, state: VenueState, depth: Array, exponent: Array) -> Array:
    """(V, A) USD, flow that moves the basis to `1 - arbitrage_rate` of itself: the inverse of the power law."""
    local, book = _own_book(rules, depth)
    moves = rules.arbitrage_rate[None, :] * jnp.abs(state.basis) / impact.REFERENCE_MOVE
    any_move = local & (moves > 0)
    depths = jnp.exp(jnp.minimum(jnp.log(jnp.where(any_move, moves, jnp.ones_like(moves))) / exponent[None, :], LOG_MOST_DEPTHS))
    return jnp.where(any_move, -jnp.sign(state.basis) * book * depths, jnp.zeros_like(book))


def _affordable(wanted: Array, quantity: Array, price: Array, budget: Array) -> Array:
    """(V, A) coins traded of those `wanted`: reductions of `quantity` in full, increases by one common factor within `budget` () USD."""
    reduction = jnp.where(wanted * quantity < 0, jnp.sign(wanted) * jnp.minimum(jnp.abs(wanted), jnp.abs(quantity)), jnp.zeros_like(wanted))
    increase = wanted - reduction
    available = jnp.maximum(budget - jnp.sum(jnp.abs(quantity + reduction) * price), 0)
    asked = jnp.sum(jnp.abs(increase) * price)
    bound = asked > jnp.maximum(available, DUST)
    one = jnp.ones_like(asked)
    # infinite capital must not reach the quotient, where it would spoil the derivative
    return reduction + increase * jnp.where(bound, jnp.where(bound, available, one) / jnp.where(bound, asked, one), one)


def arbitrage(
    rules: VenueRules, state: VenueState, *, reference_price: Array, log_price: Array, depth: Array, exponent: Array
) -> tuple[VenueState, Trades]:
    """Arbitrageurs buy where a venue is cheap, sell where it is dear, and take the opposite position in the common market, once per step.

    Without limits every basis shrinks by the share `arbitrage_rate`. After the trades the inventories at the venues are worth no more than `capital`
    plus the profit of both legs so far, at the venues' prices before the trades (limits of arbitrage, Shleifer and Vishny 1997; margin capital of
    Gromb and Vayanos 2002). Trades that reduce an inventory are always allowed, also beyond that budget; those that add to one are scaled
    by one common factor. Losses stop new trades and force no old one to be closed. A venue's fill is at the mean of its prices before and after.

    The common leg is not booked here, since its price is known only once the caller has applied its impact: `settle_common` must follow.

    Args:
      rules, state: as they stand.
      reference_price: (A,) USD.
      log_price: (A,) of the common market over the reference, before the arbitrageurs' own impact on it.
      depth, exponent: (A,) as in `local_flow`; the arbitrageurs' impact on a venue starts from zero flow.

    Returns: the state with bases and venue legs updated, and the trades. The other side is the venue's makers: they get `-coins` in quantity and
    `coins * displaced_fill` in equity at reference prices.
    """
    displaced = displacement(state, reference_price=reference_price, log_price=log_price)
    price = reference_price[None, :] * jnp.exp(log_price[None, :] + state.basis)
    budget = rules.capital + profit(state, reference_price=reference_price, log_price=log_price)
    coins = _affordable(_wanted_usd(rules, state, depth, exponent) / price, state.arb_quantity, price, budget)
    usd = coins * price
    moved = replace(state, basis=state.basis + _basis_move(rules, jnp.zeros_like(usd), usd, depth, exponent))
    fill = (displaced + displacement(moved, reference_price=reference_price, log_price=log_price)) / 2
    common_coins = -jnp.sum(coins, axis=0)
    trades = Trades(coins=coins, displaced_fill=fill, common_coins=common_coins, common_usd=common_coins * (reference_price * jnp.exp(log_price)))
    return replace(moved, arb_quantity=state.arb_quantity + coins, arb_cash=state.arb_cash - coins * fill), trades


def settle_common(state: VenueState, trades: Trades, *, displaced_fill: Array) -> VenueState:
    """Book the common leg of `trades` at its fill price, given as `displaced_fill` (A,) USD less the reference price."""
    return replace(
        state,
        common_quantity=state.common_quantity + trades.common_coins,
        common_cash=state.common_cash - trades.common_coins * displaced_fill,
    )
