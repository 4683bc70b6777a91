"""Drive the step over a path: a scan, compiled once per shape."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as perps
from stresslev.engine import cover, funding, lenders, marks, rates, venues
from stresslev.engine import market as markets
from stresslev.engine.loans import Loans
from stresslev.engine.step import Record, open_interest, step
from stresslev.engine.types import Accounts, Channels, Ledger, LendingLedger, Path, Policy, State, System

#: Least residual, as a share of open interest and loans, that counts as a numerical failure.
RESIDUAL_TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


def all_channels(dtype) -> Channels:
    """Losses travel every way they can."""
    one = jnp.ones((), dtype)
    return Channels(price=one, owners=one, receipts=one, credit=one)


def initial_state(system: System, populations: tuple[Accounts | Loans, ...], *, mark_history: int = 1) -> State:
    """The state before the first step: makers hold the customers' net position, so every book closes.

    Args: `mark_history` static: steps of prices that marks with a delay or an average look back on.
    """
    pools, assets = system.tier_floor.shape[:2]
    zero = jnp.zeros_like(system.insurance_fund)
    none = jnp.zeros((pools, assets), zero.dtype)
    longs = shorts = supplied = owed = none
    for p in populations:
        if isinstance(p, Loans):
            supply, debt, _ = lenders.totals(p, pools, assets)
            supplied, owed = supplied + supply, owed + debt
        else:
            _, more_longs, more_shorts = perps.totals(p, pools, assets)
            longs, shorts = longs + more_longs, shorts + more_shorts
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
        maker_quantity=shorts - longs,
        maker_coins=none,
        maker_opening=shorts - longs,
        liquidators=zero,
        long_quantity=longs,
        short_quantity=shorts,
        lending=book,
    )
    return State(
        populations=tuple(populations),
        market=markets.initial(system),
        ledger=ledger,
        status=jnp.int32(0),
        venues=None if system.venues is None else venues.initial(system.venues),
        marks=None if system.marks is None else marks.initial(system.marks, none, mark_history),
        funding=None if system.funding is None else funding.initial(system.funding),
        cover=cover.initial(system),
    )


@partial(jax.jit, donate_argnames="state")
def advance(
    state: State, system: System, policy: Policy, channels: Channels, path: Path, max_rounds: Array, tolerance: Array
) -> tuple[State, Record]:
    """Run all steps of `path`; the state is donated. Returns the state and the record, stacked over steps."""

    def body(carry, now):
        return step(carry, system, policy, channels, now, max_rounds, tolerance)

    return lax.scan(body, state, path)


@partial(jax.jit, donate_argnames="states")
def advance_batch(
    states: State, system: System, policy: Policy, channels: Channels, path: Path, max_rounds: Array, tolerance: Array
) -> tuple[State, Record]:
    """`advance` for several runs of one scenario that differ in their channels: `states` and `channels` have a leading axis, results too.

    One program whatever the channels. The runs go through it one after the other, so that each still skips what it has no need of.
    """

    def one(args):
        state, ways = args
        return lax.scan(lambda carry, now: step(carry, system, policy, ways, now, max_rounds, tolerance), state, path)

    return lax.map(one, (states, channels))


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
    populations: tuple[Accounts | Loans, ...],
    path: Path,
    *,
    max_rounds: int = 3,
    mark_history: int = 1,
    channels: Channels | None = None,
) -> tuple[State, Record]:
    """Simulate a scenario from its start, in one call. All arguments may be traced except the shapes.

    Returns the final state and the record of every step (leading axis T).
    """
    # the copy leaves the caller's accounts alive: `advance` takes over the buffers it is given
    state = jax.tree.map(jnp.copy, initial_state(system, populations, mark_history=mark_history))
    ways = all_channels(system.reference_price.dtype) if channels is None else channels
    return advance(state, system, policy, ways, path, jnp.int32(max_rounds), residual_tolerance(state, system))
