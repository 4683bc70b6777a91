"""Drive the step over a path: a scan, compiled once per shape."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as population
from stresslev.engine import market as markets
from stresslev.engine.step import Record, step
from stresslev.engine.types import Accounts, Ledger, Path, Policy, State, System

#: Least residual, as a share of open interest, that counts as a numerical failure.
RESIDUAL_TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


def initial_state(system: System, populations: tuple[Accounts, ...]) -> State:
    """The state before the first step: makers hold the customers' net position, so every book closes."""
    pools = system.insurance_fund.shape[0]
    sums = [population.totals(p, pools) for p in populations]
    longs = sum(s[1] for s in sums)
    shorts = sum(s[2] for s in sums)
    zero = jnp.zeros_like(system.insurance_fund)
    ledger = Ledger(
        insurance_fund=system.insurance_fund,
        treasury=zero,
        bad_debt=zero,
        maker_cash=zero,
        maker_quantity=shorts - longs,
        long_quantity=longs,
        short_quantity=shorts,
    )
    return State(populations=tuple(populations), market=markets.initial(system), ledger=ledger, status=jnp.int32(0))


def open_interest(state: State, system: System) -> Array:
    """(V, A) USD at the state's prices."""
    price = system.reference_price * jnp.exp(state.market.log_price)
    return jnp.maximum(state.ledger.long_quantity, state.ledger.short_quantity) * price[None, :]


@partial(jax.jit, donate_argnames="state")
def advance(state: State, system: System, policy: Policy, path: Path, max_rounds: Array, tolerance: Array) -> tuple[State, Record]:
    """Run all steps of `path`; the state is donated. Returns the state and the record, stacked over steps."""

    def body(carry, now):
        return step(carry, system, policy, now.log_price, now.depth_factor, max_rounds, tolerance)

    return lax.scan(body, state, path)


def residual_tolerance(state: State, system: System) -> Array:
    """() USD above which the residual of a step is a failure."""
    oi = jnp.sum(open_interest(state, system))
    return RESIDUAL_TOLERANCE[str(oi.dtype)] * oi


def simulate(system: System, policy: Policy, populations: tuple[Accounts, ...], path: Path, *, max_rounds: int = 3) -> tuple[State, Record]:
    """Simulate a scenario from its start, in one call. All arguments may be traced except the shapes.

    Returns the final state and the record of every step (leading axis T).
    """
    # the copy leaves the caller's accounts alive: `advance` takes over the buffers it is given
    state = jax.tree.map(jnp.copy, initial_state(system, populations))
    return advance(state, system, policy, path, jnp.int32(max_rounds), residual_tolerance(state, system))
