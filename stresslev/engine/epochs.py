"""Active-set stepping: for some steps only the accounts that something could happen to are stepped; the others sleep, and are only ever read.

An epoch looks at every account once, says how far prices, funding, requirements and caps may go in the steps ahead (`predict`), gathers the
accounts that are not in good health everywhere within that (`span`), and steps those with the step itself. Every step looks whether it stayed within
the span; the first that did not ends the epoch before it. So what is kept is what stepping everybody would have given, but for the order of sums.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import market as markets
from stresslev.engine.blocks import once
from stresslev.engine.leverage import adapt
from stresslev.engine.leverage.in_force import fixed_terms, sized
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.owners import by_owner
from stresslev.engine.places import Places, Ranks, place_of, places, put, ranks
from stresslev.engine.places import gathered as arrays_at
from stresslev.engine.prices import common_log_price, venue_log_price
from stresslev.engine.profile import Profile
from stresslev.engine.span import Span, distance_kept, sleepers
from stresslev.engine.step import Record, liquidation_thresholds, open_interest, requirement_multiplier, step
from stresslev.engine.types import Accounts, Channels, Owners, Path, Policy, State, System

#: Most steps of an epoch: the length of the compiled scan.
LONGEST = 64

# Allowances for what cannot be known ahead, each times `widen`.
_LEAST_MOVE = 2e-3  # log, of a mark, besides its volatility
_DEVIATIONS = 0.5  # of the volatility over the epoch
_FUNDING = 1e-3  # of the price
_REQUIREMENT = 0.02  # rise of multipliers that move
_CAP = 0.05  # fall of caps
_DEPTH = 0.1  # fall of what sizes are measured by
_INDEX = 2e-4  # of lenders' indices


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Awake:
    """Which accounts an epoch steps."""

    places: tuple[Places | None, ...]  # per population; None: all accounts are stepped
    owners: Owners | None  # links of those accounts, by their places
    count: Array  # () int32 accounts awake
    filled: Array  # () share of the room that they take, of the population with the least; more than 1 when there was not enough


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Epoch:
    """What an epoch found."""

    state: State  # after the steps that were kept; populations are the awake accounts
    awake: Awake
    kept: Array  # () int32 steps that stayed within the span, from the first


def _window(values: Array, ahead: Array) -> tuple[Array, Array]:
    """Least and most of (T, ...) values over the steps that are `ahead` (T,) bool."""
    there = ahead.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.min(jnp.where(there, values, jnp.inf), axis=0), jnp.max(jnp.where(there, values, -jnp.inf), axis=0)


def _mark_bounds(state: State, system: System, path: Path, ahead: Array, widen: Array) -> tuple[Array, Array]:
    """(V, A) log prices between which marks should stay: the exogenous path is known, the recovery of impact too; the rest is allowed for."""
    now = state.market
    venue = venue_log_price(state, system)
    down, up = _window(path.log_price, ahead)
    recovery = -now.transient
    fall = jnp.minimum(down - now.fundamental, 0) + jnp.minimum(recovery, 0)
    rise = jnp.maximum(up - now.fundamental, 0) + jnp.maximum(recovery, 0)
    low, high = venue + fall[system.market][None, :], venue + rise[system.market][None, :]
    if path.mark_offset is not None:
        least, most = _window(path.mark_offset, ahead)
        low, high = low + jnp.minimum(least, 0), high + jnp.maximum(most, 0)
    # the own price of one venue and the index of all differ by the basis
    low, high = jnp.minimum(low, jnp.min(low, axis=0, keepdims=True)), jnp.maximum(high, jnp.max(high, axis=0, keepdims=True))
    if state.marks is not None:
        seen = state.marks
        low = jnp.minimum(jnp.minimum(low, seen.pushed), jnp.minimum(seen.average, jnp.min(seen.history, axis=0)))
        high = jnp.maximum(jnp.maximum(high, seen.pushed), jnp.maximum(seen.average, jnp.max(seen.history, axis=0)))
    steps = jnp.sum(ahead, dtype=jnp.int32).astype(low.dtype)
    move = widen * (_LEAST_MOVE + _DEVIATIONS * jnp.sqrt(now.variance * steps))
    return low - move[None, :], high + move[None, :]


def _tiers(state: State, system: System, policy: Policy, path: Path, ahead: Array, widen: Array) -> tuple[Array, Array]:
    """Tier schedules at their heaviest, with the policy's hinges of size."""
    if policy.size is None:
        return system.tier_floor, system.tier_step
    depth, _ = _window(path.depth_factor, ahead)
    thinning = markets.thinning(state, system, depth, common_log_price(state, system)) / (1 + widen * _DEPTH)
    interest = open_interest(state, system) / (1 + widen * _DEPTH)
    still = state.market.opening
    reading = adapt.read(state, system, last_opening=still, thinning=thinning, interest=interest, steps_per_year=policy.steps_per_year)
    heavy = sized(system, policy, reading)
    return heavy.tier_floor, heavy.tier_step


def predict(state: State, system: System, policy: Policy, path: Path, ahead: Array, widen: Array) -> Span:
    """The span of the steps `ahead` (T,) bool of `path`; `widen` () scales what is allowed for the unknown."""
    low, high = _mark_bounds(state, system, path, ahead, widen)
    reference = system.reference_price[None, :]
    kept = distance_kept(policy, low.dtype)
    low, high = reference * jnp.exp(low - 2 * kept), reference * jnp.exp(high + 2 * kept)
    index = jnp.zeros_like(low) if state.funding is None else state.funding.index
    accrues = jnp.zeros_like(low) if system.funding is None else widen * _FUNDING * high
    moves = policy.caps is not None
    multiplier = requirement_multiplier(state, system, policy)
    if moves or system.interest_scale is not None:
        multiplier = multiplier * (1 + widen * _REQUIREMENT)
    threshold = supply = borrow = None
    if system.lending is not None:
        rates = state.ledger.lending.rates
        threshold = liquidation_thresholds(state, system, policy, 1 + widen * _REQUIREMENT if moves else jnp.ones_like(widen))
        supply, borrow = (1 + rates.supply_growth) * (1 - jnp.minimum(widen * _INDEX, 0.5)), (1 + rates.borrow_growth) * (1 + widen * _INDEX)
    floor, rise = _tiers(state, system, policy, path, ahead, widen)
    return Span(
        low=low,
        high=high,
        funding_low=index - accrues,
        funding_high=index + accrues,
        multiplier=multiplier,
        tier_floor=floor,
        tier_step=rise,
        threshold=threshold,
        supply_index=supply,
        borrow_index=borrow,
        cap=None if state.leverage is None else state.leverage.cap / (1 + widen * _CAP),
        margin=kept,
        held=jnp.array(True),
    )


def _woken(masks: tuple[Array, ...], owners: Owners) -> tuple[Array, ...]:
    """Accounts of one owner wake together: one that is called is met from the others."""
    awake = tuple(mask.reshape(-1)[slot] for mask, slot in zip(masks, owners.slot, strict=True))
    called = by_owner(owners, awake)
    return tuple(
        mask.reshape(-1).at[slot].set(one | called[who], unique_indices=True).reshape(mask.shape)
        for mask, one, slot, who in zip(masks, awake, owners.slot, owners.owner, strict=True)
    )


def room(population: Accounts | Loans, share: float) -> tuple[int, int]:
    """Blocks and accounts per block that hold a share of a population, with a block to spare for each pool and an empty one at the end. Static."""
    blocks, size = population.liquidated.shape
    wanted = max(int(blocks * size * share), 1)
    small = max(8, min(size, 1 << max((wanted // 32).bit_length() - 1, 0)))
    return -(-wanted // small) + 9, small


def gathered(population: Accounts | Loans, at: Places) -> Accounts | Loans:
    """The accounts at some places as a population; empty ones where nobody stands."""
    some = arrays_at(population, at)
    if isinstance(some, Loans):
        return some
    there = (at.slot < population.liquidated.size).reshape(at.pool.shape[0], -1)
    whole = {name: jnp.where(there, x, 1) for name in ("appetite", "allowed") if (x := getattr(some, name)) is not None}
    return replace(some, entry=tuple(jnp.where(there, e, 1) for e in some.entry), **whole)


def _scattered(population: Accounts | Loans, after: Accounts | Loans, at: Places) -> Accounts | Loans:
    """The population with the accounts at these places as they are after."""
    return jax.tree.map(lambda x, new: put(x, at, new) if x.ndim == 2 else x, population, after)


def _owners(owners: Owners, awake: tuple[Ranks, ...], past: tuple[int, ...], share: float) -> tuple[Owners, Array]:
    """Links of the accounts that are awake, by their places among those, and how far they fill the room for them (twice `share` of all).

    Accounts of one owner wake together, so an owner has all links or none. Unused room points past the end, where an empty account is. Args: `past`,
    static, number of places by population.
    """
    moved, gone, linked, full, before = [], [], [], jnp.zeros((), jnp.float32), 0
    nowhere = jnp.iinfo(jnp.int32).max

    def used(there: Array, capacity: int) -> Array:
        return jnp.sum(there, dtype=jnp.float32) / max(capacity, 1)

    for slot, found, end in zip(owners.slot, awake, past, strict=True):
        links, place = slot.shape[0], place_of(found, slot)
        capacity = min(links, int(2 * share * links) + 64)
        row = jnp.nonzero(place >= 0, size=capacity, fill_value=links)[0]
        ahead = jnp.arange(capacity, dtype=jnp.int32)
        moved.append(jnp.where(row < links, place.at[row].get(mode="fill", fill_value=0), end + ahead))
        # where each link has gone, among those of all populations that are awake
        gone.append(jnp.full((links,), nowhere, jnp.int32).at[row].set(before + ahead, mode="drop"))
        linked.append((place >= 0, row))
        before += capacity
        full = jnp.maximum(full, used(place >= 0, capacity))
    everybody = owners.links.shape[0]
    called = by_owner(owners, tuple(there for there, _ in linked))
    capacity = min(everybody, int(2 * share * everybody) + 64)
    kept = jnp.nonzero(called, size=capacity, fill_value=everybody)[0]
    number = jnp.cumsum(called, dtype=jnp.int32) - 1
    table = owners.links.at[kept].get(mode="fill", fill_value=nowhere)
    table = jnp.concatenate(gone).at[table].get(mode="fill", fill_value=nowhere)
    who = tuple(number[owner.at[row].get(mode="fill", fill_value=0)] for owner, (_, row) in zip(owners.owner, linked, strict=True))
    return replace(owners, slot=tuple(moved), owner=who, links=table), jnp.maximum(full, used(called, capacity))


def _steps_left(path: Path, steps: Array) -> Array:
    return jnp.arange(path.log_price.shape[0], dtype=jnp.int32) < steps


def _run(state: State, system: System, policy: Policy, channels: Channels, path: Path, steps: Array, max_rounds: Array, tolerance: Array):
    """Step as long as steps are left and the span, if there is one, holds.

    Returns: the state after the steps that held, the record, and () int32 how many they were.
    """

    def advance(carry, now):
        before, kept = carry
        after, record = step(before, system, policy, channels, now, max_rounds, tolerance)
        if after.span is None:
            return (after, kept + 1), record
        held = after.span.held
        stays = replace(before, span=after.span)
        return (jax.tree.map(lambda new, old: jnp.where(held, new, old), after, stays), kept + held.astype(jnp.int32)), record

    blank = jax.eval_shape(lambda s, n: advance((s, jnp.int32(0)), n)[1], state, jax.tree.map(lambda x: x[0], path))

    def wait(carry, now):
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)

    def body(carry, due_now):
        due, now = due_now
        going = due if carry[0].span is None else due & carry[0].span.held
        return lax.cond(going, advance, wait, carry, now)

    (state, kept), record = lax.scan(body, (state, jnp.int32(0)), (_steps_left(path, steps), path))
    return state, record, kept


@partial(jax.jit, static_argnames="share")
def epoch(
    state: State,
    system: System,
    policy: Policy,
    channels: Channels,
    path: Path,
    steps: Array,
    widen: Array,
    max_rounds: Array,
    tolerance: Array,
    *,
    share: float,
) -> tuple[Epoch, Record]:
    """Step the accounts that are awake for up to `steps` () int32 of `path`; all arguments stay as they are.

    Args: `widen` () how much is allowed for; `share` static, room for accounts awake as a share of every population.

    Returns: what was found, to be brought home by `merge`, and the record, of use for the first `kept` steps.
    """
    pools = system.insurance_fund.shape[0]
    fixed = fixed_terms(system, policy)
    span = predict(state, fixed, policy, path, _steps_left(path, steps), widen)
    # a liquidation profile has no accounts that could sleep; there are none where accounts have owners
    masks = tuple(None if isinstance(p, Profile | LoanProfile) else ~sleepers(p, fixed, policy, span) for p in state.populations)
    if system.owners is not None:
        masks = _woken(masks, system.owners)
    small, stand, awake, filled = [], [], [], jnp.zeros_like(widen)
    for p, mask in zip(state.populations, masks, strict=True):
        if mask is None:
            small.append(p)
            stand.append(None)
            continue
        blocks, size = room(p, share)
        found = ranks(mask, p.block_pool, pools, size)
        at = once(partial(places, found, blocks), p.block_pool[0])
        small.append(gathered(p, at))
        stand.append(at)
        awake.append(found)
        # the last block stays empty: it stands for accounts that sleep
        filled = jnp.maximum(filled, found.ends[-1].astype(filled.dtype) / (blocks - 1))
    count = sum((r.count for r in awake), jnp.int32(0))
    if system.owners is not None:
        linked, full = _owners(system.owners, tuple(awake), tuple(at.slot.shape[0] for at in stand), share)
        system, filled = replace(system, owners=linked), jnp.maximum(filled, full.astype(filled.dtype))
    begin = replace(state, populations=tuple(small), span=replace(span, held=filled <= 1))
    after, record, kept = _run(begin, system, policy, channels, path, steps, max_rounds, tolerance)
    return Epoch(state=after, awake=Awake(places=tuple(stand), owners=system.owners, count=count, filled=filled), kept=kept), record


@partial(jax.jit, donate_argnames="state")
def merge(state: State, found: Epoch) -> State:
    """The state after an epoch: the accounts that were awake back in their places. The state before is donated."""
    both = zip(state.populations, found.state.populations, found.awake.places, strict=True)
    populations = tuple(q if at is None else _scattered(p, q, at) for p, q, at in both)
    return replace(found.state, populations=populations, span=None)


@partial(jax.jit, donate_argnames="state")
def advance_some(
    state: State, system: System, policy: Policy, channels: Channels, path: Path, steps: Array, max_rounds: Array, tolerance: Array
) -> tuple[State, Record]:
    """Step everybody for up to `steps` () int32 of `path`. The state is donated."""
    after, record, _ = _run(state, system, policy, channels, path, steps, max_rounds, tolerance)
    return after, record
