"""The policy at work at the opening of a step: it reads, sets caps and margin multipliers, and scores accounts."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.health import Prices
from stresslev.engine.lenders import Terms
from stresslev.engine.leverage import caps, gauge
from stresslev.engine.leverage.reading import Reading
from stresslev.engine.leverage.score import account_factor, features, net_exposure
from stresslev.engine.prices import common_log_price
from stresslev.engine.types import Accounts, Policy, State, System


def read(state: State, system: System, *, last_opening: Array, thinning: Array, interest: Array, steps_per_year: Array) -> Reading:
    """What rules see.

    Args: `last_opening` (A,) log price at the opening before; `thinning` (A,) factor on depth; `interest` (V, A) USD of open interest.
    """
    log_price = common_log_price(state, system)
    none = jnp.zeros_like(interest)
    supplied, borrowed = none, none
    price = system.reference_price * jnp.exp(log_price)
    if state.ledger.lending is not None:
        book = state.ledger.lending
        supplied = (book.supply_units + book.deposit_units) * book.rates.supply_index * price[None, :]
        borrowed = book.debt_units * book.rates.borrow_index * price[None, :]
    return Reading(
        log_return=state.market.opening - last_opening,
        log_price=log_price,
        price=price,
        depth=system.impact.depth * thinning,
        open_interest=interest,
        insurance_fund=state.ledger.insurance_fund,
        supplied=supplied,
        borrowed=borrowed,
        funding_rate=none if state.funding_rate is None else state.funding_rate,
        gauge=none if state.leverage is None else state.leverage.gauge,
        reference_variance=system.reference_variance,
        steps_per_year=steps_per_year,
    )


def _due(clock: Array, every: Array) -> Array:
    return clock % jnp.maximum(every, 1) == 0


def measure(state: State, system: System, policy: Policy, multiplier: Array, terms: Terms | None, seen: Prices, depth: Array) -> State:
    """Measure the systemic gauge where the policy asks for it and the time has come."""
    if policy.gauge is None:
        return state
    known = state.leverage
    now = lax.cond(
        _due(known.clock, policy.gauge.every),
        lambda: gauge.measure(state, system, multiplier, terms, seen, depth),
        lambda: known.gauge,
    )
    return replace(state, leverage=replace(known, gauge=now))


def scores_now(state: State, policy: Policy) -> Array:
    """() bool: whether the policy scores all accounts in this step."""
    return jnp.array(False) if policy.score is None else _due(state.leverage.clock, policy.score_every)


def score(state: State, system: System, policy: Policy, multiplier: Array, seen: Prices) -> State:
    """Give each perp account its share of the cap, where the policy scores accounts and the time has come."""
    if policy.score is None:
        return state

    variance, rule = state.market.variance, policy.score
    perps = [p for p in state.populations if isinstance(p, Accounts)]

    def fresh(p: Accounts):
        crowd = sum(net_exposure(q, system, multiplier, seen) for q in perps)
        found = features(p, system, multiplier, seen, variance, policy.steps_per_year, rule.correlation, crowd)
        return account_factor(rule, found)

    due = scores_now(state, policy)
    after = []
    for p in state.populations:
        if isinstance(p, Accounts):
            p = replace(p, allowed=lax.cond(due, lambda p=p: fresh(p), lambda p=p: p.allowed))
        after.append(p)
    return replace(state, populations=tuple(after))


def set_caps(state: State, policy: Policy, reading: Reading) -> State:
    """Caps and maintenance multipliers of the step."""
    return replace(state, leverage=caps.react(policy.caps, policy.rules, policy.maintenance_multiplier, state.leverage, reading))
