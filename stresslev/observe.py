"""What is looked at between chunks of a run: leverage used by groups of users, the liquidation map, and who was liquidated without need."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine import lenders
from stresslev.engine.blocks import over_devices, pool_sum
from stresslev.engine.health import assess, rules_for
from stresslev.engine.lenders import Terms
from stresslev.engine.leverage import gauge
from stresslev.engine.loans import Loans
from stresslev.engine.prices import Seen, prices
from stresslev.engine.survival import survivors
from stresslev.engine.types import Accounts, Policy, State, System

#: Groups of users by the size of their positions within their pool, and the quantiles that part them.
GROUPS = ("small", "medium", "large")
QUANTILES = (0.5, 0.95)
#: Moves of the liquidation map, relative.
MOVES = (-0.3, -0.2, -0.15, -0.1, -0.07, -0.05, -0.03, -0.02, -0.01, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)


def present(state: State, system: System):
    """Marks as they stand, between steps."""
    still = jnp.zeros(system.tier_floor.shape[:2], system.reference_price.dtype)
    seen = Seen(mark=None, offset=still, still=jnp.zeros(still.shape, bool))
    return prices(state, dataclasses.replace(system, marks=None), seen)


def _terms(state: State, threshold) -> Terms | None:
    if state.ledger.lending is None:
        return None
    rates = state.ledger.lending.rates
    return Terms(threshold=threshold, supply_index=1 + rates.supply_growth, borrow_index=1 + rates.borrow_growth)


def _standing(p: Accounts | Loans, state: State, system: System):
    """(nb, B) USD of positions and of equity."""
    seen = present(state, system)
    if isinstance(p, Loans):
        terms = _terms(state, jnp.ones_like(seen.mark))
        held, owed = lenders.balance(p, terms, seen.venue)
        return held, held - owed
    health = assess(p, rules_for(p, system, jnp.ones_like(seen.mark), seen))
    return sum(health.notionals[1:], health.notionals[0]), health.equity


@jax.jit
def sizes(state: State, system: System) -> tuple[jax.Array, ...]:
    """Per population (nb, B) USD of positions."""
    return tuple(_standing(p, state, system)[0] for p in state.populations)


def group(size: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(nb, B) int32: group of each account by its size (nb, B) at the start, -1 for those without a position. `pool` (nb,) of each block."""
    found = np.full(size.shape, -1, np.int32)
    for v in np.unique(pool):
        rows = pool == v
        mine = size[rows].astype(float)
        held = mine[mine > 0]
        if held.size:
            found[rows] = np.where(mine > 0, np.searchsorted(np.quantile(held, QUANTILES), mine, side="right"), -1)
    return found


@jax.jit
def by_group(state: State, system: System, groups: tuple[jax.Array, ...]):
    """(V, G) USD of positions, (V, G) USD of equity above zero, (V, G) accounts touched by a liquidation, and (V, G) accounts."""
    pools = system.insurance_fund.shape[0]
    totals = [jnp.zeros((pools, len(GROUPS)), system.insurance_fund.dtype) for _ in range(4)]
    for p, group in zip(state.populations, groups, strict=True):
        size, equity = _standing(p, state, system)
        # an account that is gone, or under water, uses no leverage that could be compared
        open_now = (size > 0) & (equity > 0)
        for i, values in enumerate((jnp.where(open_now, size, 0), jnp.where(open_now, equity, 0), p.liquidated, jnp.ones_like(p.liquidated))):
            values = values.astype(totals[i].dtype)
            sums = [pool_sum(jnp.sum(jnp.where(group == g, values, 0), axis=1), p.block_pool, pools) for g in range(len(GROUPS))]
            totals[i] = totals[i] + over_devices(jnp.stack(sums, axis=1), p.axis)
    return tuple(totals)


@jax.jit
def liquidation_map(state: State, system: System, multiplier, threshold) -> jax.Array:
    """(V, A, G) USD that each pool would sell of an asset, less buy, were its price alone to move by each of `MOVES`, by the rules in force."""
    seen = present(state, system)
    moves = jnp.log1p(jnp.array(MOVES, seen.mark.dtype))
    closed = gauge.closed_at(state, system, multiplier, _terms(state, threshold), seen, moves)
    return jnp.moveaxis(closed, 2, 0)


def present_map(state: State, system: System, policy: Policy) -> jax.Array:
    """`liquidation_map` at the multipliers that the policy has set."""
    multiplier = policy.maintenance_multiplier if state.leverage is None else state.leverage.maintenance
    threshold = None if system.lending is None else jnp.maximum(1 - multiplier * (1 - system.lending.rules.liquidation_threshold), 0)
    return liquidation_map(state, system, multiplier, threshold)


def _touched(p: Accounts) -> np.ndarray | None:
    """Blocks with a liquidated account, filled up to a power of two with rows out of range so that few shapes are compiled; None if there is none."""
    found = np.flatnonzero(np.asarray(p.liquidated).any(axis=1))
    if not found.size:
        return None
    size = min(1 << (found.size - 1).bit_length(), p.liquidated.shape[0])
    return np.concatenate([found, np.full(max(size - found.size, 0), p.liquidated.shape[0])])


def _rows(p: Accounts, rows: np.ndarray) -> Accounts:
    """Some blocks; rows out of range are empty accounts of pool 0."""
    return jax.tree.map(lambda x: jnp.asarray(x).at[rows].get(mode="fill", fill_value=False if x.dtype == bool else 0), p)


def _bare(p: Accounts) -> Accounts:
    """Without what the policy has it remember."""
    return dataclasses.replace(p, age=None, appetite=None, call_age=None, allowed=None)


@jax.jit
def _survivors(before, after, system: System, multiplier, mark, funding):
    return survivors(before, after, system, multiplier, mark, funding)


def unnecessary(start: State, end: State, system: System, multiplier, mark: np.ndarray, funding: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(V,) perp accounts that were liquidated although they would have come through, and (V,) USD closed of theirs; `survival.survivors`.

    Args: `multiplier` (V, A) at the end; `mark` (T, V, A) of the run, `funding` (T, V, A) the index, None without funding.
    """
    pools = system.insurance_fund.shape[0]
    count, closed = np.zeros(pools, int), np.zeros(pools)
    dtype = system.reference_price.dtype
    path = jnp.asarray(mark, dtype), None if funding is None else jnp.asarray(funding, dtype)
    for before, after in zip(start.populations, end.populations, strict=True):
        if isinstance(before, Accounts):
            rows = _touched(after)
            if rows is None:
                continue
            found = _survivors(_rows(_bare(before), rows), _rows(_bare(after), rows), system, multiplier, *path)
            count, closed = count + np.asarray(found.accounts), closed + np.asarray(found.closed, float)
    return count, closed
