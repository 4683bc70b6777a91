"""The span: bounds on all that decides who is under margin. Accounts in good health everywhere within it may sleep until something leaves it."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import smooth
from stresslev.engine.blocks import column, once
from stresslev.engine.health import Prices, assess, columns, contract_gain, of_coins, of_contracts, rules_for, scale
from stresslev.engine.lenders import Terms
from stresslev.engine.leverage.caps import call_level
from stresslev.engine.leverage.gauge import FURTHER
from stresslev.engine.loans import Loans
from stresslev.engine.types import Accounts, Policy, State, System

#: Roundings, of everything an account holds, by which it must be in good health to sleep.
_GUARD = 256


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Span:
    """Bounds, (V, A) unless said; and whether everything has stayed within them."""

    low: Array  # USD marks
    high: Array
    funding_low: Array  # USD per coin
    funding_high: Array
    multiplier: Array  # most, of perp requirements
    tier_floor: Array  # (V, A, K) least
    tier_step: Array  # (V, A, K) most
    threshold: Array | None  # least, of lenders
    supply_index: Array | None  # least
    borrow_index: Array | None  # most
    cap: Array | None  # least
    margin: Array  # () log distance from the bounds that marks must keep
    held: Array  # () bool: nothing has left the bounds, and nothing has been done to sleepers


def note(state: State, system: System, seen: Prices, multiplier: Array, terms: Terms | None) -> State:
    """Look whether everything is within the span when accounts are judged; nothing to do where nobody sleeps."""
    span = state.span
    if span is None:
        return state
    room = jnp.exp(span.margin)
    inside = jnp.all((seen.mark >= span.low * room) & (seen.mark * room <= span.high))
    inside &= jnp.all((seen.funding >= span.funding_low) & (seen.funding <= span.funding_high))
    inside &= jnp.all(multiplier <= span.multiplier)
    inside &= jnp.all(system.tier_floor >= span.tier_floor) & jnp.all(system.tier_step <= span.tier_step)
    if terms is not None:
        inside &= jnp.all((terms.threshold >= span.threshold) & (terms.supply_index >= span.supply_index) & (terms.borrow_index <= span.borrow_index))
    if state.leverage is not None:
        inside &= jnp.all(state.leverage.cap >= span.cap)
    return replace(state, span=replace(span, held=span.held & inside))


def wake(state: State, happened: Array) -> State:
    """Say that something is done to all accounts, sleepers included: `happened` () bool."""
    return state if state.span is None else replace(state, span=replace(state.span, held=state.span.held & ~happened))


def asleep(accounts: Accounts, system: System, policy: Policy, span: Span) -> Array:
    """(nb, B) bool: perp accounts that nothing within the span touches. None under portfolio margin.

    Equity at its worst, every position at the worse of its two bounds, against the requirement at its highest: both together may be worse than
    anything that can happen, never better.
    """
    if accounts.portfolio_margin:
        return jnp.zeros(accounts.equity_at_reference.shape, bool)
    system = replace(system, tier_floor=span.tier_floor, tier_step=span.tier_step)
    reference = system.reference_price[None, :]
    worst = Prices(
        mark=span.high, mark_displaced=span.high - reference, venue=span.high, venue_displaced=span.high - reference, funding=span.funding_low
    )
    rules = rules_for(accounts, system, span.multiplier, worst)
    low = of_contracts(accounts, span.low)
    gain = tuple(zip(rules.gain, of_contracts(accounts, contract_gain(system, span.low - reference, span.funding_high)), strict=True))
    of_coin = (rules.haircut, of_coins(accounts, span.low), of_coins(accounts, span.low - reference), rules.coin_displaced)

    def least_equity(accounts: Accounts) -> Array:
        equity = accounts.equity_at_reference
        for q, (high, below) in zip(accounts.quantity, gain, strict=True):
            equity = equity + jnp.where(q > 0, q * below, q * high)
        if accounts.collateral:
            for k, h, p, d, up in zip(accounts.collateral, *of_coin, strict=True):
                equity = equity + jnp.where(k > 0, k * d - h * k * p, k * up)
        return equity

    # thresholds that are smoothed are those of accounts that nothing has happened to
    begun = smooth.whole(accounts)
    equity, health = least_equity(begun), assess(_at_most(begun, rules, low), rules)
    guard = _GUARD * jnp.finfo(equity.dtype).eps * scale(begun, rules)
    required = health.required if accounts.smoothing is None else (1 + accounts.smoothing.band) * health.required
    safe = equity >= required + guard
    if accounts.age is not None:
        safe &= accounts.age == 0
    if policy.transition is not None:
        if accounts.smoothing is not None:
            equity, health = least_equity(accounts), assess(_at_most(accounts, rules, low), rules)
        cap, base = of_contracts(accounts, span.cap), of_contracts(accounts, policy.caps.base)
        level = call_level(health.notionals, cap, base, accounts.allowed, health.required)
        least = column(jnp.minimum(policy.transition.warn, 1)[accounts.block_pool])
        safe &= (level + guard <= least * equity) & (accounts.appetite == 1) & (accounts.call_age == 0)
    return safe


def _at_most(accounts: Accounts, rules, low: tuple[Array, ...]) -> Accounts:
    """The accounts with the coins that contracts of fixed face stand for at their most: requirements by size count coins."""
    if rules.inverse is None or rules.size_scale is None:
        return accounts
    quantity = tuple(jnp.where(i, q * h / p, q) for q, i, h, p in zip(accounts.quantity, rules.inverse, rules.mark, low, strict=True))
    return replace(accounts, quantity=quantity)


def asleep_loans(loans: Loans, span: Span) -> Array:
    """(nb, B) bool: lending accounts that nothing within the span touches."""
    held = tuple(range(len(loans.supply))) if loans.assets is None else loans.assets
    counted, owed = columns(span.threshold * span.supply_index, loans.block_pool, held), columns(span.borrow_index, loans.block_pool, held)
    low, high = columns(span.low, loans.block_pool, held), columns(span.high, loans.block_pool, held)
    if loans.smoothing is not None:
        # below a threshold raised by the band: the whole account in good health as long as equity is at least (1 + band) times the margin
        loans, band = smooth.whole(loans), loans.smoothing.band
        counted = tuple(c - band * (i - c) for c, i in zip(counted, columns(span.supply_index, loans.block_pool, held), strict=True))
    excess, scale = loans.cash, jnp.abs(loans.cash)
    for s, d, c, o, down, up in zip(loans.supply, loans.debt, counted, owed, low, high, strict=True):
        net = s * c - d * o
        excess = excess + jnp.where(net > 0, net * down, net * up)
        scale = scale + (s * c + d * o) * up
    return (excess >= _GUARD * jnp.finfo(excess.dtype).eps * scale) & (loans.age == 0)


def sleepers(population: Accounts | Loans, system: System, policy: Policy, span: Span) -> Array:
    """(nb, B) bool: who may sleep."""

    def found():
        return asleep_loans(population, span) if isinstance(population, Loans) else asleep(population, system, policy, span)

    return once(found, population.block_pool[0])


def distance_kept(policy: Policy, dtype) -> Array:
    """() log distance that marks keep from the bounds: the gauge looks a percent further."""
    return jnp.array(0 if policy.gauge is None else FURTHER, dtype)
