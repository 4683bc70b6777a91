"""One time step: shock, price, rounds of liquidation and impact, waterfall, record."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as population
from stresslev.engine import market as markets
from stresslev.engine import status, waterfall
from stresslev.engine.accounts import Fills
from stresslev.engine.margin import displacement
from stresslev.engine.types import Ledger, Policy, State, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Flows:
    """What happened within one step. Levels are read off the state; these are the sums over the rounds of the step."""

    triggered: Array  # (V,) int32 demands for closing (an account may ask in several rounds)
    newly_liquidated: Array  # (V,) int32 accounts touched for the first time
    closed_long: Array  # (V, A) coins
    closed_short: Array  # (V, A) coins
    closed_long_usd: Array  # (V, A) USD at the fill price
    closed_short_usd: Array  # (V, A) USD at the fill price
    deficit: Array  # (V,) USD
    fund_draw: Array  # (V,) USD
    fees: Array  # (V,) USD paid by liquidated accounts
    cash_residual: Array  # (V,) USD, zero but for rounding
    quantity_residual: Array  # (V, A) coins, zero but for rounding
    rounds: Array  # () int32 rounds in which somebody was under margin


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Record:
    """The statistics of one step: flows, and levels at its end."""

    flows: Flows
    price: Array  # (A,) USD
    exogenous_price: Array  # (A,) USD: without the cascade
    depth: Array  # (A,) USD per reference move
    variance: Array  # (A,) per step
    open_interest: Array  # (V, A) USD at the step's last price
    insurance_fund: Array  # (V,) USD
    treasury: Array  # (V,) USD
    bad_debt: Array  # (V,) USD, cumulative
    status: Array  # () int32 bits raised in this step


def _no_flows(system: System) -> Flows:
    pools, assets = system.tier_floor.shape[:2]
    dtype = system.reference_price.dtype
    v, va, count = jnp.zeros((pools,), dtype), jnp.zeros((pools, assets), dtype), jnp.zeros((pools,), jnp.int32)
    return Flows(
        triggered=count,
        newly_liquidated=count,
        closed_long=va,
        closed_short=va,
        closed_long_usd=va,
        closed_short_usd=va,
        deficit=v,
        fund_draw=v,
        fees=v,
        cash_residual=v,
        quantity_residual=va,
        rounds=jnp.int32(0),
    )


def _add(trees):
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def _pool_cash(after: Ledger, before: Ledger) -> Array:
    """(V,) change of all cash that is not the accounts': makers + fund + treasury - bad debt, read off the ledgers themselves."""
    return (
        (after.maker_cash - before.maker_cash)
        + (after.insurance_fund - before.insurance_fund)
        + (after.treasury - before.treasury)
        - (after.bad_debt - before.bad_debt)
    )


def round_of_liquidation(
    state: State, system: System, policy: Policy, depth: Array, flow: Array, capacity: Array
) -> tuple[State, Flows, Array, Array, Array]:
    """One round: populations ask, pools ration, the market moves, fills are settled, deficits go down the waterfall.

    Args: `flow` (A,) USD net flow of the step's earlier rounds; `capacity` (V,) USD left for this step.

    Returns: state, flows of the round, flow and capacity after it, and whether a pool had to ration.
    """
    market, ledger = state.market, state.ledger
    x = market.log_price
    asked = [population.demand(p, system, policy, x) for p in state.populations]
    notional = sum(d.notional for d in asked)
    share = jnp.where(notional > capacity, capacity / jnp.where(notional > 0, notional, jnp.ones_like(notional)), jnp.ones_like(notional))
    column = share[:, None]
    closed_long = column * sum(d.long_quantity for d in asked)
    closed_short = column * sum(d.short_quantity for d in asked)
    net_sold = closed_long - closed_short

    price = system.reference_price * jnp.exp(x)
    new_flow = flow - jnp.sum(net_sold, axis=0) * price
    exponent = system.impact_exponent
    moved = markets.absorb(market, system, markets.impact(new_flow, depth, exponent) - markets.impact(flow, depth, exponent))

    displaced = displacement(x, system.reference_price)
    after = displacement(moved.log_price, system.reference_price)
    fill = (displaced + after) / 2
    fills = Fills(share=share, log_price=x, displaced=displaced, displaced_fill=fill, displaced_after=after)
    settled = [population.settle(p, system, policy, d, fills) for p, d in zip(state.populations, asked, strict=True)]
    done = _add([s for _, s in settled])

    new_ledger, draw = waterfall.settle(ledger, done.deficit, done.liquidation_fee, done.taker_fee)
    new_ledger = replace(
        new_ledger,
        maker_cash=ledger.maker_cash - net_sold @ fill,
        maker_quantity=ledger.maker_quantity + net_sold,
        long_quantity=ledger.long_quantity - closed_long,
        short_quantity=ledger.short_quantity - closed_short,
    )
    triggered = sum(d.triggered for d in asked)
    fill_price = (system.reference_price + fill)[None, :]
    flows = Flows(
        triggered=triggered,
        newly_liquidated=done.newly_liquidated,
        closed_long=closed_long,
        closed_short=closed_short,
        closed_long_usd=closed_long * fill_price,
        closed_short_usd=closed_short * fill_price,
        deficit=done.deficit,
        fund_draw=draw,
        fees=done.liquidation_fee + done.taker_fee,
        cash_residual=done.cash_change + _pool_cash(new_ledger, ledger),
        quantity_residual=jnp.stack(done.quantity_change, axis=1) + (new_ledger.maker_quantity - ledger.maker_quantity),
        rounds=jnp.any(triggered > 0).astype(jnp.int32),
    )
    new_state = replace(state, populations=tuple(p for p, _ in settled), market=moved, ledger=new_ledger)
    left = jnp.maximum(capacity - notional, 0)
    return new_state, flows, new_flow, left, jnp.any(share < 1)


def step(
    state: State, system: System, policy: Policy, fundamental: Array, depth_factor: Array, max_rounds: Array, tolerance: Array
) -> tuple[State, Record]:
    """Advance by one step. Pure; scan, checkpointing and batching compose around it.

    Args:
      state: what is carried.
      system, policy: rules and parameters.
      fundamental, depth_factor: (A,) the scenario at this step: exogenous log price over the reference, factor on depth.
      max_rounds: () int32, most rounds of liquidation within the step.
      tolerance: () USD; a residual above it raises the RESIDUAL bit.
    """
    market = markets.open_step(state.market, system, fundamental)
    depth = markets.depth(market, system, depth_factor)
    opened = replace(state, market=market)

    def unfinished(carry):
        *_, more, n = carry
        return more & (n < max_rounds)

    def body(carry):
        inner, flows, flow, capacity, rationed, _, n = carry
        inner, new, flow, capacity, short = round_of_liquidation(inner, system, policy, depth, flow, capacity)
        # a pool without capacity left can do nothing more in this step
        more = jnp.any((new.triggered > 0) & (capacity > 0))
        return inner, _add([flows, new]), flow, capacity, rationed | short, more, n + 1

    start = (
        opened,
        _no_flows(system),
        jnp.zeros_like(system.reference_price),
        system.capacity,
        jnp.array(False),
        jnp.array(True),
        jnp.int32(0),
    )
    closed, flows, _, _, rationed, more, _ = lax.while_loop(unfinished, body, start)

    market, ledger = closed.market, closed.ledger
    price = system.reference_price * jnp.exp(market.log_price)
    numbers = (price, depth, market.variance, ledger.insurance_fund, ledger.bad_debt, ledger.maker_cash, flows.deficit)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in numbers]))
    worst = jnp.maximum(jnp.max(jnp.abs(flows.cash_residual)), jnp.max(jnp.abs(flows.quantity_residual * price[None, :])))
    bits = (
        status.flag(~finite, status.NONFINITE)
        | status.flag(worst > tolerance, status.RESIDUAL)
        | status.flag(more, status.ROUNDS_CAP)
        | status.flag(rationed, status.CAPACITY_BOUND)
    )
    record = Record(
        flows=flows,
        price=price,
        exogenous_price=system.reference_price * jnp.exp(market.fundamental),
        depth=depth,
        variance=market.variance,
        open_interest=jnp.maximum(ledger.long_quantity, ledger.short_quantity) * price[None, :],
        insurance_fund=ledger.insurance_fund,
        treasury=ledger.treasury,
        bad_debt=ledger.bad_debt,
        status=bits,
    )
    return replace(closed, status=closed.status | bits), record
