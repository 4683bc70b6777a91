"""Batches of runs on the host: which runs may go through one program together, their arguments stacked, and the loop over chunks of steps."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.adjoint import tree_bytes
from stresslev.engine.batch import Rules, part, window
from stresslev.engine.step import Record
from stresslev.engine.types import State, System
from stresslev.sharding import ONE, Sharding

T = TypeVar("T")

#: Called as progress(stage, done, total); stages are "book" and the scenarios' names.
Progress = Callable[[str, int, int], None]

#: Called as look(state, step) between chunks.
Look = Callable[[State, int], None]

#: Rules in which runs of a batch may differ. What grows with the accounts they share: who owns which account, and the tables of a profile.
OWN = Rules(
    system=replace(System(**{f.name: True for f in fields(System)}), owners=False, profile=False, loan_profile=False),
    policy=True,
    channels=True,
    path=True,
    max_rounds=False,
    tolerance=True,
)
#: Of runs that differ in the channels alone, and begin in one state.
OWN_CHANNELS = Rules(system=False, policy=False, channels=True, path=False, max_rounds=False, tolerance=False)


def silent(stage: str, done: int, total: int) -> None:
    """No progress shown."""


def chunk_length(steps: int, target: int = 60) -> int:
    """Steps per compiled call: a divisor of `steps` near the target, so that one program serves, and mostly all scenarios; else the target."""
    near = [n for n in range(target // 2, target * 3 // 2 + 1) if steps % n == 0]
    return min(near, key=lambda n: abs(n - target)) if near else min(steps, target)


@dataclass(frozen=True)
class Run:
    """One run before its first step."""

    state: State
    rules: Rules
    common: bytes | None = None  # what `in_common` has found, for runs that share it

    @property
    def steps(self) -> int:
        """Steps of the path."""
        return self.rules.path.log_price.shape[0]

    def structure(self) -> Hashable:
        """What decides the compiled program: which mechanisms there are, shapes and types. Runs of one structure can be stacked."""
        leaves, tree = jax.tree.flatten((self.state, self.rules))
        return tree, tuple((x.shape, x.dtype) for x in leaves)

    def in_common(self) -> bytes:
        """What runs of a batch must have in common besides, a digest of `OWN`'s shared leaves."""
        if self.common is not None:
            return self.common
        digest = hashlib.blake2b()
        for leaf in jax.tree.leaves(part(self.rules, OWN)[1]):
            digest.update(np.ascontiguousarray(leaf))
        return digest.digest()


def gathered(items: Iterable[T], *, run_of: Callable[[T], Run], most: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Items that may go through one program together, as soon as there are enough of them, in the order in which they were given.

    Args: `most` says how many to gather for an item's structure; while items wait their states take up at most about half of `budget` bytes.
    """
    waiting: dict[Hashable, list[T]] = {}
    sizes: dict[Hashable, int] = {}
    held = 0
    for item in items:
        run = run_of(item)
        key = run.structure()
        if key not in sizes:
            sizes[key] = most(item)
        if sizes[key] == 1:
            yield [item]
            continue
        key = key, run.in_common()
        group = waiting.setdefault(key, [])
        group.append(item)
        held += tree_bytes(run.state)
        if len(group) == sizes[key[0]] or held > budget // 2:
            for full in [key] if len(group) == sizes[key[0]] else list(waiting):
                done = waiting.pop(full)
                held -= sum(tree_bytes(run_of(one).state) for one in done)
                yield done
    yield from waiting.values()


def stack(runs: Sequence[Run], length: int) -> tuple[State, Rules, Rules]:
    """States, own and shared rules of runs of one group, the last run repeated up to `length`: the arguments of `engine.batch.run_batch`."""
    filled = [*runs, *[runs[-1]] * (length - len(runs))]

    def together(*leaves):
        # most leaves are one array that many runs have, for which there is no need to bring every run's over
        if all(x is leaves[0] for x in leaves):
            return jnp.copy(jnp.broadcast_to(leaves[0][None], (length, *leaves[0].shape)))
        return jnp.asarray(np.stack([np.asarray(x) for x in leaves]))

    parted = [part(run.rules, OWN) for run in filled]
    states = jax.tree.map(together, *(run.state for run in filled))
    return states, jax.tree.map(together, *(own for own, _ in parted)), parted[0][1]


def alike(run: Run, channels, sharding: Sharding = ONE) -> tuple[State, Rules, Rules]:
    """The arguments of `engine.batch.run_batch` for runs that differ in their `channels` (leading axis) alone, placed by `sharding`."""
    states = sharding.repeated(run.state, jax.tree.leaves(channels)[0].shape[0])
    return states, *part(replace(run.rules, channels=channels), OWN_CHANNELS)


def one_of(tree, number: int):
    """One run's part of a tree with a leading axis of runs."""
    return jax.tree.map(lambda x: x[number], tree)


def drive(
    states: State,
    own: Rules,
    shared: Rules,
    *,
    width: int = 1,
    progress: Progress = silent,
    name: str = "",
    look: Callable[[State, int], None] | None = None,
    sharding: Sharding = ONE,
) -> tuple[State, list[Record]]:
    """All steps of a batch, in chunks so that progress shows; the states are taken over.

    Args: the first three from `stack` or `alike`; `look` is shown the states after every chunk; `sharding` over whose devices the runs are dealt out.

    Returns states, and the records of the chunks on the host; leading axis of runs.
    """
    steps = own.path.log_price.shape[1] if shared.path.log_price is None else shared.path.log_price.shape[0]
    records, size = [], chunk_length(steps)
    progress(name, 0, steps)
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        states, record = sharding.advance_batch(states, *window(own, shared, start, stop), width=width)
        records.append(jax.tree.map(sharding.gathered, record))
        if look is not None:
            look(states, stop)
        progress(name, stop, steps)
    return states, records
