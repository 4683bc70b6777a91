"""Drive the step over a path: a scan, compiled once per shape."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import accounts as perps
from stresslev.engine import cover, funding, lenders, loan_profile, marks, profile, rates, smooth, traders, venues
from stresslev.engine import market as markets
from stresslev.engine.batch import Rules, run
from stresslev.engine.health import Prices
from stresslev.engine.leverage import adapt, caps
from stresslev.engine.leverage.caps import CapState
from stresslev.engine.leverage.in_force import fixed_terms
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.profile import Profile
from stresslev.engine.round import lending_terms
from stresslev.engine.step import Record, liquidation_thresholds, open_interest, requirement_multiplier
from stresslev.engine.types import Accounts, Channels, Ledger, LendingLedger, Path, Policy, State, System

Population = Accounts | Loans | Profile | LoanProfile

#: Least residual, as a share of open interest and loans, that counts as a numerical failure.
RESIDUAL_TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


def all_channels(dtype) -> Channels:
    """Losses travel every way they can."""
    one = jnp.ones((), dtype)
    return Channels(price=one, owners=one, receipts=one, credit=one)


def _prepared(population: Population, policy: Policy | None) -> Population:
    """A population that remembers what the policy needs it to."""
    if policy is None or not isinstance(population, Accounts):
        return population
    one = jnp.ones_like(population.equity_at_reference)
    if policy.transition is not None:
        population = replace(population, appetite=one, call_age=jnp.zeros(one.shape, jnp.int32))
    return population if policy.score is None else replace(population, allowed=one)


def initial_state(
    system: System,
    populations: tuple[Population, ...],
    *,
    policy: Policy | None = None,
    mark_history: int = 1,
    notice: int = 1,
    band: Array | None = None,
) -> State:
    """The state before the first step: makers hold the customers' net position, so every book closes.

    Args: `policy`, when it has caps. Static: `mark_history`, steps of prices that marks with a delay or an average look back on; `notice`, steps of
    announcements that caps look back on (the longest notice plus one). `band` () half width, in health, over which liquidation thresholds are
    smoothed (`smooth`), given a policy; None: the rules as they are.
    """
    if policy is not None:
        system = fixed_terms(system, policy)
    pools, assets = system.tier_floor.shape[:2]
    zero = jnp.zeros_like(system.insurance_fund)
    none = jnp.zeros((pools, assets), zero.dtype)
    longs = shorts = supplied = owed = none
    for p in populations:
        if isinstance(p, Loans | LoanProfile):
            supply, debt, _ = loan_profile.totals(p, system) if isinstance(p, LoanProfile) else lenders.totals(p, pools, assets)
            supplied, owed = supplied + supply, owed + debt
        else:
            _, more_longs, more_shorts = profile.totals(p, system) if isinstance(p, Profile) else perps.totals(p, pools, assets)
            longs, shorts = longs + more_longs, shorts + more_shorts
    held, outside = None, shorts - longs
    if system.traders is not None:
        held = traders.initial(system.traders, reference_price=system.reference_price, cap=jnp.full_like(none, jnp.inf))
        outside = outside - jnp.sum(held.quantity, axis=0)
    book = None
    if system.lending is not None:
        book = LendingLedger(
            rates=rates.initial(system.lending.rates),
            supply_units=supplied,
            debt_units=owed,
            deposit_units=system.lending.deposits,
            written_off=none,
            written_off_cash=zero,
        )
    ledger = Ledger(
        insurance_fund=system.insurance_fund,
        treasury=zero,
        bad_debt=zero,
        maker_cash=none,
        maker_quantity=outside,
        maker_coins=none,
        maker_opening=outside,
        liquidators=zero,
        long_quantity=longs,
        short_quantity=shorts,
        lending=book,
    )
    state = State(
        populations=tuple(_prepared(p, policy) for p in populations),
        market=markets.initial(system),
        ledger=ledger,
        status=jnp.int32(0),
        venues=None if system.venues is None else venues.initial(system.venues),
        marks=None if system.marks is None else marks.initial(system.marks, none, mark_history),
        funding=None if system.funding is None else funding.initial(system.funding),
        cover=cover.initial(system),
        funding_rate=None if system.funding is None else none,
        traders=held,
    )
    if policy is not None and policy.caps is not None:
        state = replace(state, leverage=_first_caps(state, system, policy, notice))
    return state if band is None else _smoothed(state, system, policy, band)


def _smoothed(state: State, system: System, policy: Policy, band: Array) -> State:
    """The state with thresholds smoothed from where every account stands at the reference prices. A liquidation profile is smooth by itself."""
    multiplier, threshold = requirement_multiplier(state, system, policy), liquidation_thresholds(state, system, policy)
    none = jnp.zeros_like(multiplier)
    at = jnp.broadcast_to(system.reference_price[None, :], none.shape)
    seen = Prices(mark=at, mark_displaced=none, venue=at, venue_displaced=none, funding=none)
    populations = []
    for p in state.populations:
        if isinstance(p, Loans):
            p = smooth.begun(p, lenders.above(p, lending_terms(state, threshold), at), band)
        elif isinstance(p, Accounts):
            p = smooth.begun(p, perps.above(p, system, multiplier, seen), band)
        populations.append(p)
    return replace(state, populations=tuple(populations))


def _first_caps(state: State, system: System, policy: Policy, notice: int) -> CapState:
    """Caps at rest under what the rules read before anything has happened."""
    interest, still = open_interest(state, system), jnp.zeros_like(system.reference_price)
    reading = adapt.read(state, system, last_opening=still, thinning=jnp.ones_like(still), interest=interest, steps_per_year=policy.steps_per_year)
    return caps.initial(policy.caps, policy.rules, policy.maintenance_multiplier, reading, notice)


@partial(jax.jit, donate_argnames="state")
def advance(
    state: State, system: System, policy: Policy, channels: Channels, path: Path, max_rounds: Array, tolerance: Array
) -> tuple[State, Record]:
    """Run all steps of `path`; the state is donated. Returns the state and the record, stacked over steps."""

    return run(state, Rules(system, policy, channels, path, max_rounds, tolerance))


def residual_tolerance(state: State, system: System) -> Array:
    """() USD above which the residual of a step is a failure."""
    size = jnp.sum(open_interest(state, system))
    if state.ledger.lending is not None:
        book = state.ledger.lending
        size = size + jnp.sum((book.supply_units + book.deposit_units) * system.reference_price[None, :])
    return RESIDUAL_TOLERANCE[str(size.dtype)] * size


def simulate(
    system: System,
    policy: Policy,
    populations: tuple[Population, ...],
    path: Path,
    *,
    max_rounds: int = 3,
    mark_history: int = 1,
    notice: int = 1,
    channels: Channels | None = None,
) -> tuple[State, Record]:
    """Simulate a scenario from its start, in one call: arrays in, arrays out, by the equations of docs/model.md.

    All arguments may be traced except the shapes, `mark_history` and `notice`. V pools, A assets, T steps, blocks of B accounts. Money in USD,
    quantities in coins; variances, rates and decays per step.

    Args:
      system: the pools' rules and the markets, (V, A) and (A,).
      policy: multiplier of the requirement (V, A), and caps and rules where there are any.
      populations: accounts and loans in blocks of one pool (nb, B), or liquidation profiles.
      path: log price of the assets (T, A), depth factors (T, A), and what is scripted besides.
      max_rounds: of liquidation within a step.
      mark_history: steps of prices that marks with a delay or an average look back on.
      notice: steps of announcements that caps look back on, the longest notice plus one.
      channels: ways in which losses travel, for attribution; all when not given.

    Returns: the final state, and the record of every step (leading axis T); `status` in both has the bits of what went wrong.

    Raises nothing: a run that fails says so in its status (`stresslev.engine.status`).
    """
    # the copy leaves the caller's accounts alive: `advance` takes over the buffers it is given
    state = jax.tree.map(jnp.copy, initial_state(system, populations, policy=policy, mark_history=mark_history, notice=notice))
    ways = all_channels(system.reference_price.dtype) if channels is None else channels
    return advance(state, system, policy, ways, path, jnp.int32(max_rounds), residual_tolerance(state, system))
