"""Trades in which nobody is liquidated: accounts reduce under a tightened cap or take back what they gave up, and traders follow their rules.

All orders of a step meet in one exchange, before liquidation, and get the same fill per pool and asset.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import traders, waterfall
from stresslev.engine.blocks import anywhere
from stresslev.engine.flow import Closing, Conditions, Flow, coins_to_market, common_fill, faces, fill_displaced, push, traded
from stresslev.engine.health import Prices, contract_gain
from stresslev.engine.leverage import transition
from stresslev.engine.leverage.resize import Resized, resize
from stresslev.engine.leverage.transition import Asked, Plan
from stresslev.engine.prices import common_log_price, prices
from stresslev.engine.round import Flows, add, no_flows, pool_cash, pool_coins
from stresslev.engine.smooth import followed
from stresslev.engine.span import wake
from stresslev.engine.types import Accounts, Channels, Ledger, Policy, State, System


@dataclass(frozen=True)
class _Orders:
    """What everybody wants in this exchange."""

    plans: tuple[Plan | None, ...]  # by population
    accounts: Asked  # sums of the plans
    coins: Array | None  # (K, V, A) bought by traders; None without traders
    default: Array | None  # (V, A) leverage funds that are closed out

    def bought(self) -> Array:
        """(V, A) coins that traders buy, net."""
        return jnp.zeros_like(self.accounts.longs) if self.coins is None else jnp.sum(self.coins, axis=0)


def _orders(state: State, system: System, policy: Policy, conditions: Conditions, seen: Prices, outage: Array) -> _Orders:
    plans, asked = [None] * len(state.populations), []
    none = jnp.zeros_like(seen.mark)
    nobody = Asked(none, none, none, none, none, none[:, 0], jnp.zeros((none.shape[0],), jnp.int32))
    if policy.transition is not None:
        for i, p in enumerate(state.populations):
            if isinstance(p, Accounts):
                plans[i], wants = transition.plan(p, system, policy.transition, policy.caps, state.leverage, conditions.multiplier, seen, outage)
                asked.append(wants)
    coins = default = None
    if system.traders is not None:
        now = {"price": seen.venue, "displaced": seen.venue_displaced, "funding_index": seen.funding}
        cap = jnp.full_like(none, jnp.inf) if state.leverage is None else state.leverage.cap
        default = traders.defaulting(system.traders, state.traders, **now) & ~outage[:, None]
        coins = traders.orders(system.traders, state.traders, **now, funding_rate=none if state.funding_rate is None else state.funding_rate, cap=cap)
        coins = jnp.where(outage[None, :, None], 0, coins)
    return _Orders(tuple(plans), add(nobody, *asked), coins, default)


def _in_common(flow: Flow, hedge: Array, price: Array) -> Flow:
    """The flow with the hedges (V, A) that traders buy in the common markets, at prices (A,)."""
    coins = jnp.sum(hedge, axis=0)
    return replace(flow, arbitrage_usd=flow.arbitrage_usd + coins * price, arbitrage_coins=flow.arbitrage_coins + coins)


def _no_sums(like: Array) -> Resized:
    none = jnp.zeros_like(like)
    return Resized(cash_change=none[:, 0], taker_fee=none[:, 0], quantity_change=none, coins_change=none)


def _resized(state: State, system: System, plans: tuple[Plan | None, ...], seen: Prices, fill: Array):
    """Populations after their plans, and what that did."""
    populations, sums = [], _no_sums(fill)
    for p, plan in zip(state.populations, plans, strict=True):
        if plan is not None:

            def trade(p=p, plan=plan):
                after, done = resize(p, system, plan.share, plan.posted, venue=seen.venue, fill=fill, funding=seen.funding)
                return transition.after(after, plan), done

            def wait(p=p, plan=plan):
                return replace(p, call_age=plan.age), _no_sums(fill)

            p, done = lax.cond(anywhere(jnp.any((plan.share != 0) | (plan.posted > 0)), p.axis), trade, wait)
            sums = add(sums, done)
        populations.append(p)
    return tuple(populations), sums


def _book(ledger: Ledger, system: System, closing: Closing, done: Resized, bought: Array, seen: Prices, fill: Array) -> Ledger:
    """Makers take the other side at the fill; fees go to the treasuries."""
    net = closing.net_contracts() - bought
    return replace(
        ledger,
        treasury=ledger.treasury + done.taker_fee,
        maker_cash=ledger.maker_cash - net * contract_gain(system, fill, seen.funding) + done.coins_change * fill,
        maker_quantity=ledger.maker_quantity + net,
        maker_coins=ledger.maker_coins - done.coins_change,
        long_quantity=ledger.long_quantity - closing.longs,
        short_quantity=ledger.short_quantity - closing.shorts,
    )


def _hedged(ledger: Ledger, hedge: Array, common_fill: Array) -> Ledger:
    """Makers sell the hedges (V, A) in the common markets, at `common_fill` (A,) USD above the reference prices."""
    return replace(ledger, maker_cash=ledger.maker_cash + hedge * common_fill[None, :], maker_coins=ledger.maker_coins - hedge)


def _traders_hold(state: State) -> tuple[Array, Array, Array]:
    """Traders' cash (V,), contracts (V, A) and coins (V, A)."""
    t = state.traders
    return jnp.sum(t.cash, axis=(0, 2)) + jnp.sum(t.hedge_cash, axis=1), jnp.sum(t.quantity, axis=0), t.hedge_quantity


def adjust(
    state: State, system: System, policy: Policy, channels: Channels, conditions: Conditions, flow: Flow, outage: Array
) -> tuple[State, Flows, Flow]:
    """One exchange of orders before anything is liquidated. Returns state, what happened, and the step's flow after it."""
    seen = prices(state, system, conditions.seen)
    orders = _orders(state, system, policy, conditions, seen, outage)
    wants, bought = orders.accounts, orders.bought()
    contracts = wants.longs - wants.shorts
    # contracts of fixed face reach the market as coins
    of_face = faces(system, contracts) / seen.venue
    closing = Closing(longs=wants.longs, shorts=wants.shorts, coins_sold=of_face, coins_bought=jnp.zeros_like(contracts))
    reached = traded(flow, system, coins_to_market(system, closing) - bought, seen.venue)
    opening = common_log_price(state, system)
    if orders.coins is not None:
        reached = _in_common(reached, traders.hedge_orders(orders.coins), system.reference_price * jnp.exp(opening))
    moved = push(state, system, channels, conditions, flow, reached)
    after = prices(moved, system, conditions.seen)
    fill = fill_displaced(system, seen, after)
    populations, done = _resized(state, system, orders.plans, seen, fill)
    ledger = _book(state.ledger, system, closing, done, bought, seen, fill)
    cash = done.cash_change - wants.posted
    quantity, coins = done.quantity_change, done.coins_change
    state_after, borne = replace(moved, populations=populations), None
    if orders.coins is not None:
        hedged_at = common_fill(system, opening, common_log_price(moved, system))
        ledger = _hedged(ledger, traders.hedge_orders(orders.coins), hedged_at)
        held, deficit = traders.settle(
            system.traders,
            state.traders,
            orders.coins,
            default=orders.default,
            fill_displaced=fill,
            common_fill_displaced=hedged_at,
            funding_index=seen.funding,
        )
        ledger, populations, borne = waterfall.settle(ledger, populations, system, deficit, None, after)
        state_after = wake(state_after, waterfall.reaches_accounts(system, deficit))
        state_after = replace(state_after, populations=populations, traders=held)
        old, new = _traders_hold(state), _traders_hold(state_after)
        cash = cash + borne.cash_change - borne.shared_in + new[0] - old[0]
        quantity, coins = quantity + new[1] - old[1], coins + new[2] - old[2]
    flows = _flows(state.ledger, ledger, system, seen, wants, cash, quantity, coins)
    flows = replace(flows, trader_usd=bought * (system.reference_price[None, :] + fill))
    if borne is not None:
        flows = replace(flows, deficit=deficit, fund_draw=borne.fund_draw, socialised=borne.socialised, shared_in=borne.shared_in)
    state_after = replace(state_after, ledger=ledger, populations=followed(state.populations, state_after.populations))
    return state_after, flows, reached


def _flows(before: Ledger, after: Ledger, system: System, seen: Prices, wants: Asked, cash: Array, quantity: Array, coins: Array) -> Flows:
    """What happened, given what changed outside the ledger: `cash` (V,), `quantity` and `coins` (V, A)."""
    quantity = quantity + after.maker_quantity - before.maker_quantity
    index = None if after.lending is None else 1 + after.lending.rates.supply_growth
    return replace(
        no_flows(system),
        reduced_usd=wants.reduced_usd,
        voluntary_usd=wants.voluntary_usd,
        releveraged_usd=wants.releveraged_usd,
        margin_posted=wants.posted,
        called=wants.called,
        cash_residual=cash + pool_cash(after, system) - pool_cash(before, system),
        quantity_residual=quantity if system.inverse is None else jnp.where(system.inverse, quantity / seen.venue, quantity),
        coins_residual=coins + pool_coins(after, index) - pool_coins(before, index),
    )
