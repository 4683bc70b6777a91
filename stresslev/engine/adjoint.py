"""Reverse mode through many steps: what is kept of the way forwards, and how it is gone back.

The derivative is that of the paths as they are: who is liquidated when is held fixed (docs/model.md, section 18). Between checkpoints nothing but
states is kept; a step is taken again when it is gone through backwards, and so is each of its rounds.

Stepping everybody, one loop of loops is differentiable as it stands (`advance_checkpointed`; `repeat`). By epochs the host drives
(`stresslev.gradient`), and the epoch is the checkpoint: `before` is the little that was stepped, `back` takes derivatives from after a stretch of
steps to before it. Accounts that sleep are not touched by derivatives either.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.epochs import Epoch, gathered
from stresslev.engine.floats import split
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.places import Places, put, take
from stresslev.engine.profile import Profile
from stresslev.engine.repeat import repeat
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
from stresslev.engine.step import Record, step
from stresslev.engine.types import Accounts, Channels, Owners, Path, Policy, State, System

#: Bytes that the states of all steps may come to for all of them to be kept.
WHOLE = 2**30


def tree_bytes(tree) -> int:
    """Bytes of all arrays of a tree, whether they exist or are only described (`jax.ShapeDtypeStruct`)."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def reversible(state: State, on: bool = True) -> State:
    """The state with populations that reverse mode can go through (or, with `on` false, as they are stepped without); nothing else differs."""
    return replace(state, populations=tuple(p if isinstance(p, Profile | LoanProfile) else replace(p, reverse=on) for p in state.populations))


def _stretch(
    state: State, system: System, policy: Policy, channels: Channels, path: Path, steps: Array | int, rounds: int, tolerance: Array
) -> tuple[State, Record]:
    """The first `steps` of `path`; of the others the record is zeros. Reverse mode keeps a state a step."""

    def body(carry, context, now):
        system, policy, channels, tolerance = context
        return step(carry, system, policy, channels, now, rounds, tolerance)

    return repeat(body, state, (system, policy, channels, tolerance), path, steps, most=path.log_price.shape[0])


def advance_checkpointed(
    state: State,
    system: System,
    policy: Policy,
    channels: Channels,
    path: Path,
    rounds: int,
    tolerance: Array,
    *,
    segment: int | None = None,
) -> tuple[State, Record]:
    """`simulate.advance` for reverse mode: everybody is stepped, and states are kept every `segment` steps, the steps between taken again.

    With segments of about the root of the steps (the default where the states of all steps come to more than `WHOLE` bytes; else all steps are one
    segment, and none is taken again but once) the states kept at any time are about twice that root (Chen and others 2016, "Training deep nets with
    sublinear memory cost"); the record is kept whole, as what is returned. Composes with `jax.vjp`, `jax.grad` and `jax.vmap`.

    Args: static `rounds`, most rounds of a step, and `segment`; the others as for `advance`, but `state` is not donated.
    """
    steps = path.log_price.shape[0]
    root = max(1, math.isqrt(max(steps - 1, 0)) + 1)
    length = segment or (steps if steps * tree_bytes(state) <= WHOLE else root)
    if length >= steps:
        after, record = _stretch(reversible(state), system, policy, channels, path, steps, rounds, tolerance)
        return reversible(after, False), record
    segments = -(-steps // length)
    padding = segments * length - steps

    def in_segments(x):
        x = jnp.concatenate([x, jnp.repeat(x[-1:], padding, axis=0)]) if padding else x
        return x.reshape(segments, length, *x.shape[1:])

    def of_segment(carry, context, now):
        due, path = now
        return _stretch(carry, *context[:3], path, due, rounds, context[3])

    due = jnp.minimum(steps - length * jnp.arange(segments, dtype=jnp.int32), length)
    each = due, jax.tree.map(in_segments, path)
    after, record = repeat(of_segment, reversible(state), (system, policy, channels, tolerance), each, segments, most=segments)
    record = jax.tree.map(lambda x: x.reshape(segments * length, *x.shape[2:])[:steps], record)
    return reversible(after, False), record


def simulate_checkpointed(
    system: System,
    policy: Policy,
    populations: tuple[Accounts | Loans | Profile, ...],
    path: Path,
    *,
    max_rounds: int = 3,
    mark_history: int = 1,
    notice: int = 1,
    channels: Channels | None = None,
    band: Array | None = None,
    segment: int | None = None,
) -> tuple[State, Record]:
    """`simulate.simulate` for reverse mode; see `advance_checkpointed`. Not compiled by itself."""
    state = initial_state(system, populations, policy=policy, mark_history=mark_history, notice=notice, band=band)
    ways = all_channels(system.reference_price.dtype) if channels is None else channels
    return advance_checkpointed(state, system, policy, ways, path, max_rounds, residual_tolerance(state, system), segment=segment)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Leg:
    """What a stretch of steps began with: the accounts that were stepped in it, and everything that is not an account."""

    begin: State
    places: tuple[Places | None, ...]  # per population, of those accounts; None: all
    owners: Owners | None  # links between them


@jax.jit
def before(state: State, found: Epoch) -> Leg:
    """What `found` began with, out of the whole `state` before it (before `merge` takes that over)."""
    some = tuple(p if at is None else gathered(p, at) for p, at in zip(state.populations, found.awake.places, strict=True))
    return Leg(begin=replace(state, populations=some, span=None), places=found.awake.places, owners=found.awake.owners)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adjoint:
    """Derivatives of a number with respect to a whole state: to its floating leaves, in order."""

    populations: tuple[tuple[Array, ...], ...]
    rest: tuple[Array, ...]


def of_state(state: State) -> tuple[Adjoint, object]:
    """The floating leaves of a state, populations apart, and a function that puts such leaves into its place."""
    parts = [split(p) for p in state.populations]
    rest, join = split(replace(state, populations=(), span=None))

    def whole(floats: Adjoint) -> State:
        populations = tuple(whole(new) for (_, whole), new in zip(parts, floats.populations, strict=True))
        return replace(join(floats.rest), populations=populations)

    return Adjoint(populations=tuple(floats for floats, _ in parts), rest=rest), whole


@partial(jax.jit, static_argnames="rounds", donate_argnames="after")
def back(
    after: Adjoint,
    leg: Leg,
    system: System,
    policy: Policy,
    channels: Channels,
    path: Path,
    steps: Array,
    of_record: tuple[Array, ...],
    tolerance: Array,
    *,
    rounds: int,
) -> tuple[Adjoint, tuple[tuple[Array, ...], ...], Array]:
    """Backwards through the first `steps` () int32 of `path`, which `leg` began.

    Args: `after`, derivatives with respect to the whole state after them, is donated; `of_record` with respect to the floating leaves of their
    record, of the length of `path`.

    Returns: derivatives with respect to the whole state before; to the floating leaves of system, policy and path; and the prices (T, A) USD met on
    the way, to be held against those of the way forwards.
    """
    linked = system if leg.owners is None else replace(system, owners=leg.owners)
    floats, whole = of_state(reversible(leg.begin))
    parts = [split(x) for x in (linked, policy, path)]

    def run(begin, *rules):
        system, policy, path = (join(new) for (_, join), new in zip(parts, rules, strict=True))
        end, record = _stretch(whole(begin), system, policy, channels, path, steps, rounds, tolerance)
        return (of_state(end)[0], split(record)[0]), record.price

    _, pull, price = jax.vjp(run, floats, *(f for f, _ in parts), has_aux=True)
    found = tuple(
        c if at is None else tuple(take(x, at, 0) if x.ndim == 2 else x for x in c) for c, at in zip(after.populations, leg.places, strict=True)
    )
    begin, *rules = pull((Adjoint(populations=found, rest=after.rest), of_record))
    both = zip(after.populations, begin.populations, leg.places, strict=True)
    home = tuple(new if at is None else tuple(put(x, at, n) if x.ndim == 2 else n for x, n in zip(c, new, strict=True)) for c, new, at in both)
    return Adjoint(populations=home, rest=begin.rest), tuple(rules), price
