"""Derivatives of a whole run, backwards: what numbers made of its results owe to policy, system, path and accounts."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from stresslev.engine import adjoint
from stresslev.engine.adjoint import Adjoint, Leg, of_state, tree_bytes
from stresslev.engine.epochs import Epoch, advance_some, merge
from stresslev.engine.floats import split
from stresslev.engine.loans import Loans
from stresslev.engine.profile import Profile
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
from stresslev.engine.step import Record
from stresslev.engine.types import Accounts, Channels, Path, Policy, State, System
from stresslev.stepping import SHARES, Active

#: Numbers, of any shape, made of the record of every step (leading axis T) and the final state.
Loss = Callable[[Record, State], jax.Array]


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """Of one number, in the structure of what it is taken with respect to: JAX's `float0` zeros where a leaf is no floating number."""

    system: System
    policy: Policy
    path: Path
    populations: tuple[Accounts | Loans | Profile, ...]
    apart: float  # largest relative difference of prices between the way forwards and the steps as taken again; zero but for rounding


@dataclasses.dataclass
class _Stretch:
    """A stretch of steps on the tape."""

    start: int
    steps: int
    again: Callable[[State], tuple[Leg, State]]  # takes it again, from the state before it (taken over): what it began with, and the state after it
    leg: Leg | None  # what it began with, as long as that is kept


class _Tape:
    """What is kept of a run by epochs so that it can be gone through backwards.

    What stretches began with is kept until that comes to some whole states; then only the state that these stretches began with is, from which they
    are taken again when their turn comes. With some about the root of the steps, all that is ever kept grows like that root.
    """

    def __init__(self, state: State, steps: int):
        # an eighth of the root: an epoch holds a small part of the accounts, so that most runs need not be taken again
        self.room = max(1.0, math.sqrt(steps) / 8) * tree_bytes(state)
        self.used = 0
        self.groups: list[tuple[State, list[_Stretch]]] = []

    def add(self, state: State, stretch: _Stretch) -> None:
        """Put the next stretch on the tape; `state`, before it, is only read."""
        size = tree_bytes(stretch.leg)
        if not self.groups or self.used + size > self.room:
            for kept in self.groups[-1][1] if self.groups else ():
                kept.leg = None
            self.groups.append((jax.tree.map(jnp.copy, state), []))
            self.used = 0
        self.used += size
        self.groups[-1][1].append(stretch)

    def backwards(self):
        """The stretches from the last to the first, each with what it began with. The tape is used up."""
        while self.groups:
            state, stretches = self.groups.pop()
            if any(s.leg is None for s in stretches):
                for s in stretches:
                    s.leg, state = s.again(state)
            del state
            while stretches:
                s = stretches.pop()
                yield s, s.leg


class _Taped(Active):
    """Runs by epochs as `Active` does, and puts on a tape what the way back needs."""

    def __init__(self, *args, tape: _Tape, **more):
        super().__init__(*args, **more)
        self.tape, self.at, self.last = tape, 0, None

    def _epoch(self, state: State, *args):
        as_it_is = copy.copy(self)
        as_it_is.last = None
        self.last = partial(Active._epoch, as_it_is), args
        return super()._epoch(state, *args)

    def _home(self, state: State, found: Epoch, record: Record, steps: int):
        call, args = self.last

        def again(state: State) -> tuple[Leg, State]:
            found, *_ = call(state, *args)
            return adjoint.before(state, found), merge(state, found)

        self._note(state, steps, again, adjoint.before(state, found))
        return super()._home(state, found, record, steps)

    def _everybody(self, state: State, start: int, steps: int):
        def whole(state: State) -> Leg:
            return Leg(begin=jax.tree.map(jnp.copy, state), places=(None,) * len(state.populations), owners=None)

        def again(state: State) -> tuple[Leg, State]:
            leg = whole(state)
            return leg, advance_some(state, *self.rules, self._window(start), jnp.int32(steps), *self.limits)[0]

        self._note(state, steps, again, whole(state))
        return super()._everybody(state, start, steps)

    def _note(self, state: State, steps: int, again, leg: Leg) -> None:
        self.tape.add(state, _Stretch(start=self.at, steps=steps, again=again, leg=leg))
        self.at += steps

    def back(self, after: Adjoint, of_record, prices: np.ndarray, rounds: int):
        """Derivatives with respect to the first state, and those to the floating leaves of system, policy and path; largest difference of prices."""
        system, policy, path = (split(x)[0] for x in (*self.rules[:2], self.path))
        total = [[jnp.zeros_like(x) for x in f] for f in (system, policy)]
        of_path = [np.zeros_like(x) for x in path]
        apart = []
        for stretch, leg in self.tape.backwards():
            window, span = self._window(stretch.start), slice(stretch.start, stretch.start + stretch.steps)
            longest = window.log_price.shape[0]
            cut = tuple(_padded(x[span], longest) for x in of_record)
            after, (*rules, window), met = adjoint.back(after, leg, *self.rules, window, jnp.int32(stretch.steps), cut, self.limits[1], rounds=rounds)
            total = [[x + y for x, y in zip(t, r, strict=True)] for t, r in zip(total, rules, strict=True)]
            for x, y in zip(of_path, window, strict=True):
                x[span] += np.asarray(y)[: stretch.steps]
            apart.append(np.abs(np.asarray(met)[: stretch.steps] / prices[span] - 1).max(initial=0))
        steps = prices.shape[0]
        return after, (*total, [x[:steps] for x in of_path]), float(max(apart, default=0))


def _derivative(tree, floats):
    """A tree of derivatives, of the structure of `tree`: `floats` for its floating leaves; JAX's `float0` zeros for all others."""
    new = iter(floats)

    def leaf(x):
        return next(new) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else np.zeros(np.shape(x), jax.dtypes.float0)

    return jax.tree.map(leaf, tree)


def _padded(x, length: int) -> np.ndarray:
    x = np.asarray(x)
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)])


@partial(jax.jit, static_argnames=("history", "notice"))
def _first(system: System, policy: Policy, populations, band, after: Adjoint, *, history: int, notice: int):
    """Backwards through the first state: to the floating leaves of system, policy and populations."""
    parts = [split(x) for x in (system, policy, populations)]

    def begin(*floats):
        system, policy, populations = (put(new) for (_, put), new in zip(parts, floats, strict=True))
        return of_state(initial_state(system, populations, policy=policy, mark_history=history, notice=notice, band=band))[0]

    return jax.vjp(begin, *(f for f, _ in parts))[1](after)


@partial(jax.jit, static_argnames=("rounds", "history", "notice", "segment"))
def _everybody(loss: Partial, weights, system, policy, populations, path, channels, band, *, rounds, history, notice, segment):
    parts = [split(x) for x in (system, policy, populations, path)]

    def run(*floats):
        rules = (put(new) for (_, put), new in zip(parts, floats, strict=True))
        state, record = adjoint.simulate_checkpointed(
            *rules, max_rounds=rounds, mark_history=history, notice=notice, channels=channels, band=band, segment=segment
        )
        return loss(record, state)

    value, pull = jax.vjp(run, *(f for f, _ in parts))
    return value, pull(_weighted(value, weights))


def _weighted(value: jax.Array, weights: jax.Array | None) -> jax.Array:
    return jnp.ones_like(value) if weights is None else jnp.broadcast_to(weights, value.shape).astype(value.dtype)


def value_and_grad(
    loss: Loss,
    system: System,
    policy: Policy,
    populations: tuple[Accounts | Loans | Profile, ...],
    path: Path,
    *,
    max_rounds: int = 3,
    mark_history: int = 1,
    notice: int = 1,
    channels: Channels | None = None,
    weights: jax.Array | None = None,
    band: float | None = None,
    stepping: str = "active",
    shares: Sequence[float] = SHARES,
    segment: int | None = None,
) -> tuple[jax.Array, Derivatives]:
    """Numbers made of a run, and the derivatives of their weighted sum with respect to all that the run was made of; by reverse mode, there and back.

    With a `band` the run is one of smoothed thresholds (`engine.smooth`), and its derivatives estimate those of the hard rules; its value is not that
    of the hard rules, and not to be reported. Without one, the value is that of the hard rules and the derivative holds fixed who is liquidated: what
    a parameter does by making others liquidated is missing (docs/model.md, section 18).

    Both ways of stepping give the same, but for rounding. By epochs (`active`) the way forwards is that of production, and the way back goes through
    the accounts that were awake only; all that is kept grows like the root of the steps, but for the record, and so it does with `all`, where
    everybody is stepped.

    Args:
      loss: takes the record of all steps (leading axis T) and the final state. With `all` it is compiled in, so give the same function each time;
        what differs between calls can be bound to it with `jax.tree_util.Partial`.
      system, policy, populations, path, max_rounds, mark_history, notice, channels: as for `simulate`.
      weights: of the numbers, in their shape; ones when not given.
      band: half width, in health, over which thresholds are smoothed.
      stepping: `active` or `all`. shares: rooms for accounts awake. segment: steps between states kept, with `all`; None: see
        `adjoint.advance_checkpointed`.

    Returns: the numbers and the `Derivatives`.
    """
    ways = all_channels(system.reference_price.dtype) if channels is None else channels
    band = None if band is None else jnp.asarray(band, system.reference_price.dtype)
    if stepping == "all":
        bound = loss if isinstance(loss, Partial) else Partial(loss)
        value, found = _everybody(
            bound, weights, system, policy, populations, path, ways, band, rounds=max_rounds, history=mark_history, notice=notice, segment=segment
        )
        return value, _derivatives(system, policy, path, populations, found, 0.0)
    if stepping != "active":
        raise ValueError(f"stepping is {stepping!r}; give 'active' or 'all'")
    state = initial_state(system, populations, policy=policy, mark_history=mark_history, notice=notice, band=band)
    tape = _Tape(state, path.log_price.shape[0])
    active = _Taped(system, policy, ways, path, max_rounds, residual_tolerance(state, system), shares, tape=tape)
    # the copy leaves the caller's accounts alive: epochs take over the buffers they are given
    end, records = active.advance(jax.tree.map(jnp.copy, state), 0, active.steps)
    del state
    record = jax.tree.map(lambda *x: np.concatenate(x), *records)
    of_record, put = split(record)
    of_end, whole = of_state(end)
    value, pull = jax.vjp(lambda r, s: loss(put(r), whole(s)), tuple(map(jnp.asarray, of_record)), of_end)
    of_record, after = pull(_weighted(value, weights))
    del end, of_end, pull
    first, (of_system, of_policy, of_path), apart = active.back(after, tuple(map(np.asarray, of_record)), record.price, max_rounds)
    more = _first(system, policy, populations, band, first, history=mark_history, notice=notice)
    of_system, of_policy = ([x + y for x, y in zip(a, b, strict=True)] for a, b in zip((of_system, of_policy), more[:2], strict=True))
    return value, _derivatives(system, policy, path, populations, (of_system, of_policy, more[2], of_path), apart)


def _derivatives(system, policy, path, populations, found, apart: float) -> Derivatives:
    of_system, of_policy, of_populations, of_path = found
    return Derivatives(
        system=_derivative(system, of_system),
        policy=_derivative(policy, of_policy),
        path=_derivative(path, of_path),
        populations=_derivative(populations, of_populations),
        apart=apart,
    )
