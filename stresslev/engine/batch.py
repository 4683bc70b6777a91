"""Many runs in one program: each with a state of its own, and with rules and a path of its own or shared with the others.

Runs go through the step in blocks. A block of one run is the step itself: work that nobody needs is skipped. A block of several is the step under
`vmap`, where `cond` takes both sides and a loop goes on until the last run of the block is done; in return every operation works on the whole block.
So blocks pay where a run by itself leaves the device idle (a liquidation profile, or few accounts on a GPU), and do not where runs are large and skip
much (accounts on the CPU). `memory.choose` is the rule; docs/model.md says more.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.step import Record, step
from stresslev.engine.types import Channels, Path, Policy, State, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rules:
    """What a run goes by besides its state: the arguments of `step`, with the whole path. Of a batch: see `part`."""

    system: System
    policy: Policy
    channels: Channels
    path: Path
    max_rounds: Array  # () int32
    tolerance: Array  # () USD


def _missing(x) -> bool:
    return x is None


def part(rules: Rules, own: Rules) -> tuple[Rules, Rules]:
    """Rules of a batch in two: leaves with a leading axis of runs, and leaves that all runs share; None where the other part has the leaf.

    Args: `own`, True for the leaves that have the leading axis: of the structure of `rules`, or of a prefix of it.
    """
    flags = jax.tree.broadcast(own, rules)
    mine = jax.tree.map(lambda x, yes: x if yes else None, rules, flags)
    return mine, jax.tree.map(lambda x, yes: None if yes else x, rules, flags)


def joined(own: Rules, shared: Rules) -> Rules:
    """The inverse of `part`."""
    return jax.tree.map(lambda a, b: b if a is None else a, own, shared, is_leaf=_missing)


def window(own: Rules, shared: Rules, start: int, stop: int) -> tuple[Rules, Rules]:
    """Both parts for the steps from `start` to `stop` of the path alone."""
    mine = jax.tree.map(lambda x: x[:, start:stop], own.path)
    all_ = jax.tree.map(lambda x: x[start:stop], shared.path)
    return _with_path(own, mine), _with_path(shared, all_)


def _with_path(rules: Rules, path: Path) -> Rules:
    return Rules(rules.system, rules.policy, rules.channels, path, rules.max_rounds, rules.tolerance)


def run(state: State, rules: Rules) -> tuple[State, Record]:
    """All steps of one run: state and record, stacked over steps."""

    def body(carry, now):
        return step(carry, rules.system, rules.policy, rules.channels, now, rules.max_rounds, rules.tolerance)

    return lax.scan(body, state, rules.path)


def run_batch(states: State, own: Rules, shared: Rules, *, width: int = 1) -> tuple[State, Record]:
    """`run` for B runs, in blocks of `width`; a plain function over the leading axis, to be jitted, sharded or mapped further.

    The states live in one buffer that blocks are taken from and put back into, so nothing is held twice but the block at work.

    Args:
      states: leading axis B, a multiple of `width`.
      own, shared: the rules in two, see `part`.
      width: static; runs that go through the step together.

    Returns states and records, leading axis B (records: then steps).
    """
    runs = states.status.shape[0]
    if runs % width:
        raise ValueError(f"{runs} runs are no multiple of the width {width}; repeat the last run to fill up")

    def block(states: State, own: Rules) -> tuple[State, Record]:
        if width > 1:
            return jax.vmap(lambda state, mine: run(state, joined(mine, shared)))(states, own)
        single = jax.tree.map(lambda x: x[0], (states, own))
        return jax.tree.map(lambda x: x[None], run(single[0], joined(single[1], shared)))

    if runs == width:
        return block(states, own)

    def body(i, carry):
        states, records = carry
        start = i * width
        mine = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, width), (states, own))
        found = block(*mine)
        return jax.tree.map(lambda whole, x: lax.dynamic_update_slice_in_dim(whole, x, start, 0), (states, records), found)

    first = jax.eval_shape(block, *jax.tree.map(lambda x: jax.ShapeDtypeStruct((width, *x.shape[1:]), x.dtype), (states, own)))
    records = jax.tree.map(lambda x: jnp.zeros((runs, *x.shape[1:]), x.dtype), first[1])
    return lax.fori_loop(0, runs // width, body, (states, records))


#: `run_batch` compiled; the states are donated: their buffers become those of the states returned.
advance_batch = partial(jax.jit, donate_argnames="states", static_argnames="width")(run_batch)
