"""Traders who follow a rule, as one flow per kind, pool and asset: momentum, mean reversion, leverage targeting, funding arbitrage.

Each is booked like every account (docs/model.md): `cash` is its equity were all prices at their reference, so a purchase of q coins at a price X
changes it by `-q (X - P0 - F)`, F being the funding index, and its equity at a price P is `cash + quantity (P - P0 - F)`. The makers of the pool take
the other side. Signals are those of the opening of a step; nothing that a step does to the price is seen before the next.

Traders hold linear contracts; where a pool's contract is inverse, or the pool lends, their capital must be 0.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

#: Kinds of traders, the rows of every (K, V, A) array.
MOMENTUM, REVERSION, LEVERAGE_TARGET, FUNDING_ARBITRAGE = KINDS = range(4)

#: Volatility below this share of its reference counts as this share: leverage targets stay finite in a market that stands still.
LEAST_VOLATILITY = 0.01


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TraderRules:
    """What traders want. K kinds, V pools, A assets. All traced; what a kind does not read may have any finite value above zero."""

    capital: Array  # (K, V, A) USD, >= 0: largest position; of leverage funds, the equity at the start. 0: there are none
    speed: Array  # (K, V, A) in [0, 1], share of the gap to the target that is traded per step
    scale: Array  # (K, V, A) > 0, signal at which tanh(1) of the capital is used: log return per step, log price, (none), funding rate
    trend_decay: Array  # (A,) in [0, 1), EWMA factor per step on log returns
    mean_decay: Array  # (A,) in [0, 1), EWMA factor per step on log prices
    variance_decay: Array  # (A,) in [0, 1), EWMA factor per step on squared log returns
    reference_variance: Array  # (A,) per step, > 0: variance at which leverage is `base_leverage`, and at the start
    quiet_variance: Array  # (A,) per step, >= 0: what leverage funds add to their estimate of the variance
    base_leverage: Array  # (V, A) >= 0, position over equity
    exponent: Array  # (V, A) gamma: percent by which leverage falls for each percent of volatility
    maintenance: Array  # (V, A) in [0, 1), equity over position at which a leverage fund is closed out


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TraderState:
    """What traders hold and have observed."""

    quantity: Array  # (K, V, A) coins held at the pool, signed
    cash: Array  # (K, V, A) USD: equity of that at reference prices
    hedge_quantity: Array  # (V, A) coins that funding arbitrageurs hold in the common market against their perps
    hedge_cash: Array  # (V, A) USD: equity of the hedge at reference prices, zero at the start
    trend: Array  # (A,) EWMA of log returns, per step
    mean_log_price: Array  # (A,) EWMA of the log price over the reference
    variance: Array  # (A,) EWMA of squared log returns, per step
    closed: Array  # (V, A) bool: the leverage fund has been closed out, and stays out


def target_leverage(rules: TraderRules, variance: Array, cap: Array) -> Array:
    """(V, A) `min(base (s_ref / sqrt(s^2 + s_quiet^2))^gamma, cap)`, the procyclical target of Aymanns and Farmer (2015) with gamma = -2 b.

    gamma = 1 is a value-at-risk limit, 0 a constant leverage, below 0 countercyclical. `variance` (A,) per step; `cap` (V, A), inf for none.
    """
    least = LEAST_VOLATILITY**2 * rules.reference_variance
    used = jnp.maximum(variance + rules.quiet_variance, least)
    log_ratio = 0.5 * (jnp.log(rules.reference_variance) - jnp.log(used))
    return jnp.minimum(rules.base_leverage * jnp.exp(rules.exponent * log_ratio[None, :]), cap)


def initial(rules: TraderRules, *, reference_price: Array, cap: Array) -> TraderState:
    """Leverage funds stand at their target, bought at the reference price; the others hold nothing.

    Makers hold the other side: minus the sum over kinds of `quantity` belongs in their opening position.

    Args: `reference_price` (A,) USD; `cap` (V, A) largest leverage at the start, inf where there is none.
    """
    leverage = target_leverage(rules, rules.reference_variance, cap)
    none, no_signal = jnp.zeros_like(rules.capital), jnp.zeros_like(reference_price)
    held = leverage * rules.capital[LEVERAGE_TARGET] / reference_price[None, :]
    return TraderState(
        quantity=none.at[LEVERAGE_TARGET].set(held),
        cash=rules.capital,
        hedge_quantity=jnp.zeros_like(held),
        hedge_cash=jnp.zeros_like(held),
        trend=no_signal,
        mean_log_price=no_signal,
        variance=rules.reference_variance,
        closed=jnp.zeros(held.shape, bool),
    )


def observe(rules: TraderRules, state: TraderState, log_return: Array, log_price: Array) -> TraderState:
    """Take in the opening of a step: `log_return` (A,) since the last opening, `log_price` (A,) over the reference, of the common market."""

    def ewma(decay, old, new):
        return decay * old + (1 - decay) * new

    return replace(
        state,
        trend=ewma(rules.trend_decay, state.trend, log_return),
        mean_log_price=ewma(rules.mean_decay, state.mean_log_price, log_price),
        variance=ewma(rules.variance_decay, state.variance, log_return * log_return),
    )


def equity(state: TraderState, *, displaced: Array, common_displaced: Array, funding_index: Array) -> Array:
    """(K, V, A) USD, the arbitrageurs' hedge included.

    `displaced` (V, A) USD venue price less reference, `common_displaced` (A,) the same of the common market, `funding_index` (V, A) USD per coin.
    """
    at_pool = state.cash + state.quantity * (displaced - funding_index)[None, :, :]
    hedge = state.hedge_cash + state.hedge_quantity * common_displaced[None, :]
    return at_pool.at[FUNDING_ARBITRAGE].add(hedge)


def _fund_equity(state: TraderState, displaced: Array, funding_index: Array) -> Array:
    return state.cash[LEVERAGE_TARGET] + state.quantity[LEVERAGE_TARGET] * (displaced - funding_index)


def defaulting(rules: TraderRules, state: TraderState, *, price: Array, displaced: Array, funding_index: Array) -> Array:
    """(V, A) bool: leverage funds with equity at or below `maintenance` times their position, which must be closed out; arguments as in `orders`."""
    held = state.quantity[LEVERAGE_TARGET]
    required = rules.maintenance * jnp.abs(held) * price
    # not a number counts as in default, as it does for accounts
    return (held != 0) & ~(_fund_equity(state, displaced, funding_index) > required)


def targets(
    rules: TraderRules, state: TraderState, *, price: Array, displaced: Array, funding_index: Array, funding_rate: Array, cap: Array
) -> Array:
    """(K, V, A) USD of position wanted; arguments as in `orders`.

    - momentum `capital tanh(trend / scale)`; mean reversion `-capital tanh((x - mean) / scale)`, x the venue's log price (chartists, whose demand
      saturates, and fundamentalists, as in Chiarella 1992; that both saturate, and by tanh, is our choice);
    - leverage targeting `target_leverage * max(equity, 0)` (Thurner, Farmer and Geanakoplos 2012), nothing once closed out;
    - funding arbitrage `-capital tanh(rate / scale)`: short where longs pay.
    """
    capital, scale = rules.capital, rules.scale
    log_price = jnp.log(price) - jnp.log(price - displaced)
    gap = log_price - state.mean_log_price[None, :]
    alive = jnp.where(state.closed, 0, jnp.maximum(_fund_equity(state, displaced, funding_index), 0))
    return jnp.stack(
        [
            capital[MOMENTUM] * jnp.tanh(state.trend[None, :] / scale[MOMENTUM]),
            -capital[REVERSION] * jnp.tanh(gap / scale[REVERSION]),
            target_leverage(rules, state.variance, cap) * alive,
            -capital[FUNDING_ARBITRAGE] * jnp.tanh(funding_rate / scale[FUNDING_ARBITRAGE]),
        ]
    )


def orders(rules: TraderRules, state: TraderState, *, price: Array, displaced: Array, funding_index: Array, funding_rate: Array, cap: Array) -> Array:
    """(K, V, A) coins to buy, negative to sell: the share `speed` of the gap to the target; funds in default sell all they hold.

    Args:
      rules, state: after `observe`.
      price: (V, A) USD, venue prices before these orders.
      displaced: (V, A) USD, the same less the reference price.
      funding_index: (V, A) USD per coin.
      funding_rate: (V, A) in the unit of `scale`, positive where longs pay.
      cap: (V, A) largest leverage that the policy allows, inf where there is none.
    """
    wanted = targets(rules, state, price=price, displaced=displaced, funding_index=funding_index, funding_rate=funding_rate, cap=cap)
    coins = rules.speed * (wanted / price[None, :, :] - state.quantity)
    default = defaulting(rules, state, price=price, displaced=displaced, funding_index=funding_index)
    fund = jnp.where(default, -state.quantity[LEVERAGE_TARGET], coins[LEVERAGE_TARGET])
    return coins.at[LEVERAGE_TARGET].set(fund)


def hedge_orders(coins: Array) -> Array:
    """(V, A) coins that funding arbitrageurs buy in the common market when all traders buy `coins` (K, V, A) at the pools."""
    return -coins[FUNDING_ARBITRAGE]


def settle(
    rules: TraderRules,
    state: TraderState,
    coins: Array,
    *,
    default: Array,
    fill_displaced: Array,
    common_fill_displaced: Array,
    funding_index: Array,
) -> tuple[TraderState, Array]:
    """Book the fills.

    A fund that was in default and has sold everything is closed for good; equity below zero becomes a deficit of the pool, and is then zero.
    Summed over kinds, `cash` changes by `-coins (fill - P0 - F)` plus the deficit, and the makers' by the opposite of the first.

    Args:
      rules, state: as given to `orders`.
      coins: (K, V, A) bought; orders may be filled in part.
      default: (V, A) bool, `defaulting` before the orders.
      fill_displaced: (V, A) USD, fill less reference price.
      common_fill_displaced: (A,) USD, the same of the hedge in the common market.
      funding_index: (V, A) USD per coin.

    Returns: state, and the deficit (V,) USD.
    """
    quantity = state.quantity + coins
    cash = state.cash - coins * (fill_displaced - funding_index)[None, :, :]
    hedge = hedge_orders(coins)
    gone = default & (quantity[LEVERAGE_TARGET] == 0)
    lost = jnp.where(gone, jnp.maximum(-cash[LEVERAGE_TARGET], 0), 0)
    after = replace(
        state,
        quantity=quantity,
        cash=cash.at[LEVERAGE_TARGET].add(lost),
        hedge_quantity=state.hedge_quantity + hedge,
        hedge_cash=state.hedge_cash - hedge * common_fill_displaced[None, :],
        closed=state.closed | gone,
    )
    return after, jnp.sum(lost, axis=1)
