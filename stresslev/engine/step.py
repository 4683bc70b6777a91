"""One time step: shock, arbitrage, marks, funding and interest, margin calls, rounds of liquidation, clearing, record."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as perps
from stresslev.engine import cover, funding, lenders, marks, owners, rates, requirement, runs, status, traders, venues
from stresslev.engine import market as markets
from stresslev.engine.adjust import adjust
from stresslev.engine.flow import Conditions, Flow, common_fill, push
from stresslev.engine.health import Prices
from stresslev.engine.leverage import adapt
from stresslev.engine.leverage.in_force import fixed_terms, sized
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.prices import Seen, common_log_price, mark_log_price, prices, venue_log_price
from stresslev.engine.profile import Profile
from stresslev.engine.repeat import repeat
from stresslev.engine.round import Flows, add, lending_terms, no_flows, round_of_liquidation
from stresslev.engine.smooth import followed
from stresslev.engine.span import note, wake
from stresslev.engine.types import Channels, Path, Policy, State, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Record:
    """The statistics of one step: flows, and levels at its end."""

    flows: Flows
    price: Array  # (A,) USD
    exogenous_price: Array  # (A,) USD: without the cascade
    mark: Array  # (V, A) USD
    venue_price: Array  # (V, A) USD
    depth: Array  # (A,) USD per reference move
    variance: Array  # (A,) per step
    open_interest: Array  # (V, A) USD at the step's last price
    funding_rate: Array  # (V, A) paid in the step, of notional
    funding_index: Array  # (V, A) USD per coin that a long has paid since the start
    supplied: Array  # (V, A) USD deposited with lending pools, collateral included
    borrowed: Array  # (V, A) USD
    borrow_rate: Array  # (V, A) per year
    insurance_fund: Array  # (V,) USD
    treasury: Array  # (V,) USD
    bad_debt: Array  # (V,) USD, cumulative
    net_worth: Array  # (V,) USD own funds after what other pools cannot pay
    credit_loss: Array  # (V,) USD of claims on other pools that are lost
    paid_share: Array  # (V,) of what a pool owes other pools, that it can pay
    redemption: Array  # (A,) cover of receipt tokens
    cap: Array  # (V, A) leverage allowed; inf without caps
    maintenance: Array  # (V, A) multiplier of the maintenance requirement
    gauge: Array  # (V, A) systemic gauge as last measured
    status: Array  # () int32 bits raised in this step


def _contracts_usd(system: System, price: Array) -> Array:
    """(V, A) USD of notional per contract at (A,) prices."""
    unit = jnp.broadcast_to(price[None, :], system.tier_floor.shape[:2])
    return unit if system.inverse is None else jnp.where(system.inverse, 1, unit)


def open_interest(state: State, system: System) -> Array:
    """(V, A) USD at the state's common prices: the larger of the customers' two sides."""
    price = system.reference_price * jnp.exp(common_log_price(state, system))
    return jnp.maximum(state.ledger.long_quantity, state.ledger.short_quantity) * _contracts_usd(system, price)


def _arbitrage(state: State, system: System, channels: Channels, thinning: Array, opening: Array) -> tuple[State, Flow]:
    """Arbitrageurs close a part of each basis; the flow they leave in the common market is where the step's flow begins."""
    va = jnp.zeros(system.tier_floor.shape[:2], thinning.dtype)
    a = jnp.zeros_like(thinning)
    idle = Flow(usd=va, coins=va, arbitrage_usd=a, arbitrage_coins=a, capacity=system.capacity)
    if system.venues is None:
        return state, idle
    depth = system.impact.depth * thinning
    reference = system.reference_price
    # the venue leg pays and receives funding like everybody at the venue; `venues` knows prices only, so it is taken out and put back
    paid = va if state.funding is None else state.funding.index
    unfunded = replace(state.venues, arb_cash=state.venues.arb_cash - state.venues.arb_quantity * paid)
    settled, trades = venues.arbitrage(
        system.venues, unfunded, reference_price=reference, log_price=opening, depth=depth, exponent=system.impact.exponent
    )
    settled = replace(settled, arb_cash=settled.arb_cash + settled.arb_quantity * paid)
    flow = replace(idle, arbitrage_usd=trades.common_usd, arbitrage_coins=trades.common_coins)
    state = replace(state, venues=settled)
    conditions = Conditions(seen=None, multiplier=None, threshold=None, thinning=thinning, opening=opening)
    moved = push(state, system, channels, conditions, idle, flow)
    closing = common_log_price(moved, system)
    fill = common_fill(system, opening, closing)
    arbitraged = venues.settle_common(moved.venues, trades, displaced_fill=fill)
    ledger = replace(
        state.ledger,
        maker_quantity=state.ledger.maker_quantity - trades.coins,
        maker_cash=state.ledger.maker_cash + trades.coins * (trades.displaced_fill - paid),
    )
    return replace(moved, venues=arbitraged, ledger=ledger), flow


def _accrue_funding(state: State, system: System, venue: Array, now: Path, outage: Array) -> tuple[State, Array, Array]:
    """Funding of the step: state, rate (V, A), and USD paid by those who pay (V,)."""
    none = jnp.zeros_like(venue)
    if system.funding is None:
        return state, none, none[:, 0]
    reference = system.reference_price[None, :]
    at_index = (
        marks.index(system.marks, venue) if system.marks is not None else jnp.broadcast_to(common_log_price(state, system)[None, :], venue.shape)
    )
    ledger = state.ledger
    skew = funding.skew(ledger.long_quantity, ledger.short_quantity, jnp.abs(ledger.maker_opening))
    premium = none if now.premium is None else now.premium
    after, rate = funding.accrue(system.funding, state.funding, reference * jnp.exp(venue), reference * jnp.exp(at_index), premium, skew, outage)
    step = after.index - state.funding.index
    longs, shorts = ledger.long_quantity + jnp.maximum(ledger.maker_quantity, 0), ledger.short_quantity + jnp.maximum(-ledger.maker_quantity, 0)
    if state.traders is not None:
        held = state.traders.quantity
        longs, shorts = longs + jnp.sum(jnp.maximum(held, 0), axis=0), shorts + jnp.sum(jnp.maximum(-held, 0), axis=0)
    if state.venues is not None:
        longs, shorts = longs + jnp.maximum(state.venues.arb_quantity, 0), shorts + jnp.maximum(-state.venues.arb_quantity, 0)
    paid, received = jnp.maximum(step, 0) * longs, jnp.maximum(-step, 0) * shorts
    if system.inverse is not None:
        paid, received = jnp.where(system.inverse, 0, paid), jnp.where(system.inverse, 0, received)
    known = jnp.where(funding.due(system.funding, state.funding, outage), funding.per_period(system.funding, rate), state.funding_rate)
    state = replace(state, funding=after, funding_rate=known)
    return state, rate, jnp.sum(paid + received, axis=1)


def _accrue_interest(state: State, system: System) -> tuple[State, Array]:
    """Interest of the step on all loans and deposits; the borrow rate (V, A) per year."""
    if system.lending is None:
        return state, jnp.zeros(system.tier_floor.shape[:2], system.reference_price.dtype)
    book = state.ledger.lending
    supplied = (book.supply_units + book.deposit_units) * book.rates.supply_index
    borrowed = book.debt_units * book.rates.borrow_index
    cash = supplied + book.rates.reserves - borrowed - book.written_off
    after, interest = rates.accrue(system.lending.rates, book.rates, cash, borrowed, supplied, system.lending.years_per_step)
    return replace(state, ledger=replace(state.ledger, lending=replace(book, rates=after))), interest.borrow_rate


def _redemption(state: State, system: System) -> Array:
    """(V, A) what the pool's receipt token for an asset redeems for; 1 where there is none."""
    one = jnp.ones(system.tier_floor.shape[:2], system.reference_price.dtype)
    if system.receipts is None or state.cover is None:
        return one
    pool = jnp.where(system.receipts.pool >= 0, system.receipts.pool, one.shape[0])
    return one.at[pool, system.market].min(state.cover.redemption, mode="drop")


def _withdraw(state: State, system: System) -> tuple[State, Array]:
    """Depositors leave lenders that look weak; coins withdrawn (V, A)."""
    if system.runs is None or system.lending is None:
        return state, jnp.zeros(system.tier_floor.shape[:2], system.reference_price.dtype)
    book = state.ledger.lending
    supplied = (book.supply_units + book.deposit_units) * book.rates.supply_index
    borrowed = book.debt_units * book.rates.borrow_index
    cover_now = runs.cover(supplied=supplied, reserves=book.rates.reserves, written_off=book.written_off)
    coins = runs.withdrawals(
        system.runs,
        deposits=book.deposit_units * book.rates.supply_index,
        idle=supplied + book.rates.reserves - borrowed - book.written_off,
        borrowed=borrowed,
        cover=jnp.minimum(cover_now, _redemption(state, system)),
    )
    left = replace(book, deposit_units=book.deposit_units - coins / book.rates.supply_index)
    return replace(state, ledger=replace(state.ledger, lending=left)), coins


def _maintenance(state: State, policy: Policy) -> Array:
    """(V, A) the policy's multiplier of maintenance requirements in this step."""
    return policy.maintenance_multiplier if state.leverage is None else state.leverage.maintenance


def requirement_multiplier(state: State, system: System, policy: Policy) -> Array:
    """(V, A) multiplier of perp requirements in this step: the policy's, and growth with open interest."""
    multiplier = _maintenance(state, policy)
    if system.interest_scale is None:
        return multiplier
    scale = system.interest_scale
    return multiplier * requirement.open_interest_factor(scale.base, open_interest(state, system), scale.lower, scale.upper)


def liquidation_thresholds(state: State, system: System, policy: Policy, rise: Array | float = 1) -> Array | None:
    """(V, A) liquidation thresholds in force: the policy multiplies the distance to one, a lender's maintenance margin. So does `rise`."""
    if system.lending is None:
        return None
    return jnp.maximum(1 - _maintenance(state, policy) * rise * (1 - system.lending.rules.liquidation_threshold), 0)


def _lever(state: State, system: System, policy: Policy, seen: Seen, last_opening: Array, thinning: Array) -> tuple[State, System]:
    """The policy reads and sets what it sets: the state with new caps, and the system as the policy has it now."""
    if not policy.acts:
        return state, system
    interest = open_interest(state, system)
    opening = prices(state, system, seen)
    year = policy.steps_per_year
    reading = adapt.read(state, system, last_opening=last_opening, thinning=thinning, interest=interest, steps_per_year=year)
    system = sized(system, policy, reading)
    if policy.caps is None:
        return state, system
    terms = None
    if system.lending is not None:
        terms = lending_terms(state, liquidation_thresholds(state, system, policy))
    state = adapt.measure(state, system, policy, requirement_multiplier(state, system, policy), terms, opening, system.impact.depth * thinning)
    # scored at the requirements that stood until now
    state = wake(state, adapt.scores_now(state, policy))
    state = adapt.score(state, system, policy, requirement_multiplier(state, system, policy), opening)
    return adapt.set_caps(state, policy, replace(reading, gauge=state.leverage.gauge)), system


def _begin(state: State, system: System, conditions: Conditions) -> State:
    """Count the steps under margin."""
    seen = prices(state, system, conditions.seen)
    populations = []
    for p in state.populations:
        if isinstance(p, Loans):
            populations.append(lenders.begin_step(p, lending_terms(state, conditions.threshold), seen))
        elif isinstance(p, Profile | LoanProfile):
            populations.append(p)
        else:
            populations.append(perps.begin_step(p, system, conditions.multiplier, seen))
    return replace(state, populations=tuple(populations))


def step(
    state: State, system: System, policy: Policy, channels: Channels, now: Path, max_rounds: Array | int, tolerance: Array
) -> tuple[State, Record]:
    """Advance by one step. Pure; scan, checkpointing and batching compose around it.

    Args:
      state: what is carried.
      system, policy, channels: rules and parameters.
      now: the scenario at this step, a `Path` without its leading axis.
      max_rounds: () int32, most rounds of liquidation within the step. A plain number instead is static, and makes the rounds a loop that
        reverse mode can go through (`repeat`); the values are the same.
      tolerance: () USD; a residual above it raises the RESIDUAL bit.
    """
    pools, assets = system.tier_floor.shape[:2]
    outage = jnp.zeros((pools,), bool) if now.outage is None else now.outage
    still = jnp.broadcast_to(outage[:, None], (pools, assets)) if now.stuck is None else outage[:, None] | now.stuck
    offset = jnp.zeros((pools, assets), now.log_price.dtype) if now.mark_offset is None else now.mark_offset
    system = fixed_terms(system, policy)
    last_opening = state.market.opening
    state = replace(state, market=markets.open_step(state.market, system, now.log_price))
    opening = common_log_price(state, system)
    thinning = markets.thinning(state, system, now.depth_factor, opening)
    state, flow = _arbitrage(state, system, channels, thinning, opening)
    flow = replace(flow, capacity=jnp.where(outage, 0, flow.capacity))

    venue = venue_log_price(state, system)
    mark = None
    if system.marks is not None:
        seen_marks, mark = marks.open_step(system.marks, state.marks, venue, offset, still)
        state = replace(state, marks=seen_marks)
    state, funding_rate, funding_paid = _accrue_funding(state, system, venue, now, outage)
    state, borrow_rate = _accrue_interest(state, system)
    state, withdrawn = _withdraw(state, system)
    if system.traders is not None:
        # the return is that of the opening: what arbitrage has moved since belongs to the next
        move = state.market.opening - last_opening
        state = replace(state, traders=traders.observe(system.traders, state.traders, move, common_log_price(state, system)))
    seen = Seen(mark=mark, offset=offset, still=still)
    state, system = _lever(state, system, policy, seen, last_opening, thinning)
    conditions = Conditions(
        seen=seen,
        multiplier=requirement_multiplier(state, system, policy),
        threshold=liquidation_thresholds(state, system, policy),
        thinning=thinning,
        opening=opening,
    )
    terms = None if system.lending is None else lending_terms(state, conditions.threshold)
    state = note(state, system, prices(state, system, seen), conditions.multiplier, terms)
    margin_calls = jnp.zeros_like(system.insurance_fund)
    if system.owners is not None:
        called, margin_calls = owners.call_margin(
            state.populations, system, conditions.multiplier, prices(state, system, conditions.seen), terms, channels.owners
        )
        state = replace(state, populations=followed(state.populations, called))
    adjusted = no_flows(system)
    if policy.transition is not None or system.traders is not None:
        state, adjusted, flow = adjust(state, system, policy, channels, conditions, flow, outage)
    state = _begin(state, system, conditions)

    def unfinished(carry):
        return carry[-1]

    def round_(carry, context):
        inner, flows, flow, rationed, _ = carry
        inner, new, flow, short = round_of_liquidation(inner, *context, flow)
        # a pool without capacity left can do nothing more in this step, nor can one whose accounts nobody takes over
        more = jnp.any((new.triggered > new.waiting) & (flow.capacity > 0))
        return inner, add(flows, new), flow, rationed | short, more

    start, context = (state, adjusted, flow, jnp.array(False), jnp.array(True)), (system, channels, conditions)
    if isinstance(max_rounds, int):
        done, _ = repeat(lambda c, x, _: (round_(c, x), ()), start, context, (), max_rounds, most=max_rounds, more=unfinished)
    else:
        counted = (start, jnp.int32(0))
        done, _ = lax.while_loop(lambda c: unfinished(c[0]) & (c[1] < max_rounds), lambda c: (round_(c[0], context), c[1] + 1), counted)
    closed, flows, flow, rationed, more = done
    flows = replace(flows, funding_paid=funding_paid, margin_calls=margin_calls, withdrawn=withdrawn)
    ends = prices(closed, system, conditions.seen)
    if closed.marks is not None:
        closed = replace(closed, marks=marks.close_step(closed.marks, mark_log_price(closed, system, conditions.seen)))
    record = _record(closed, system, policy, flows, ends, thinning, funding_rate, borrow_rate)
    closed = cover.clear(closed, system, channels, flow.usd)
    if closed.cover is not None:
        found = closed.cover
        record = replace(record, net_worth=found.net_worth, credit_loss=found.credit_loss, paid_share=found.paid_share, redemption=found.redemption)
    bits = _bits(closed, flows, record, tolerance) | status.flag(more, status.ROUNDS_CAP) | status.flag(rationed, status.CAPACITY_BOUND)
    return replace(closed, status=closed.status | bits), replace(record, status=bits)


def _record(
    state: State, system: System, policy: Policy, flows: Flows, ends: Prices, thinning: Array, funding_rate: Array, borrow_rate: Array
) -> Record:
    ledger, reference = state.ledger, system.reference_price
    v, va = jnp.zeros_like(ledger.bad_debt), jnp.zeros_like(ends.mark)
    supplied, borrowed = va, va
    if ledger.lending is not None:
        book = ledger.lending
        supplied = (book.supply_units + book.deposit_units) * book.rates.supply_index * ends.venue
        borrowed = book.debt_units * book.rates.borrow_index * ends.venue
    return Record(
        flows=flows,
        price=reference * jnp.exp(common_log_price(state, system)),
        exogenous_price=reference * jnp.exp(state.market.fundamental[system.market]),
        mark=ends.mark,
        venue_price=ends.venue,
        depth=system.impact.depth * thinning,
        variance=state.market.variance,
        open_interest=open_interest(state, system),
        funding_rate=funding_rate,
        funding_index=ends.funding,
        supplied=supplied,
        borrowed=borrowed,
        borrow_rate=borrow_rate,
        insurance_fund=ledger.insurance_fund,
        treasury=ledger.treasury,
        bad_debt=ledger.bad_debt,
        net_worth=v,
        credit_loss=v,
        paid_share=jnp.ones_like(v),
        redemption=jnp.ones_like(reference),
        cap=jnp.full_like(va, jnp.inf) if state.leverage is None else state.leverage.cap,
        maintenance=_maintenance(state, policy),
        gauge=va if state.leverage is None else state.leverage.gauge,
        status=jnp.int32(0),
    )


def _bits(state: State, flows: Flows, record: Record, tolerance: Array) -> Array:
    """Failures: numbers that are none, books that do not balance."""
    ledger = state.ledger
    numbers = (record.price, record.mark, record.depth, record.variance, ledger.insurance_fund, ledger.bad_debt, ledger.maker_cash, flows.deficit)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in numbers]))
    price = record.price[None, :]
    worst = jnp.max(jnp.abs(flows.cash_residual))
    for residual in (flows.quantity_residual, flows.coins_residual):
        worst = jnp.maximum(worst, jnp.max(jnp.abs(residual * price)))
    return status.flag(~finite, status.NONFINITE) | status.flag(worst > tolerance, status.RESIDUAL)
