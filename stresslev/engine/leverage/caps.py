"""Caps on leverage and maintenance multipliers: what the rules set together, announced, rate-limited and kept within bounds."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.leverage.reading import Reading


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Caps:
    """Bounds and pace of what the rules may set. V pools, A assets. All traced."""

    base: Array  # (V, A) leverage allowed when every rule is neutral, > 0
    floor: Array  # (V, A) least leverage that the rules may leave, > 0
    ceiling: Array  # (V, A) most leverage that they may allow
    least_maintenance: Array  # (V, A) bounds of the multiplier of the maintenance requirement
    most_maintenance: Array  # (V, A)
    tighten: Array  # (V, A) most by which a cap falls and a multiplier rises per step, log; inf for at once
    loosen: Array  # (V, A) most by which a cap rises and a multiplier falls per step, log
    notice: Array  # (V,) int32 steps between the announcement of a change and its beginning


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Applied:
    """A rule, and how strongly each pool lets it act: the cap is multiplied by `factor^on_cap`, maintenance by `factor^-on_maintenance`."""

    rule: Any  # see `start` and `react` of the modules beside this one
    on_cap: Array  # (V,) exponent; 0 leaves caps alone
    on_maintenance: Array  # (V,) exponent; 0 leaves maintenance alone


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CapState:
    """What is in force, what has been announced, and what the rules remember."""

    cap: Array  # (V, A) leverage allowed now
    maintenance: Array  # (V, A) multiplier of the maintenance requirement now
    announced_cap: Array  # (H, V, A) targets of the last H steps, the newest last
    announced_maintenance: Array  # (H, V, A)
    memories: tuple  # per rule
    gauge: Array  # (V, A) as last measured
    clock: Array  # () int32 steps since the start


def targets(caps: Caps, rules: tuple[Applied, ...], multiplier: Array, memories: tuple, reading: Reading) -> tuple[tuple, Array, Array]:
    """Where the rules want cap and maintenance multiplier to be, (V, A) each, and what they remember.

    `cap = clip(base prod f^on_cap, floor, ceiling)`; `multiplier prod f^-on_maintenance`, clipped alike. `multiplier` (V, A) is the policy's own.
    """
    cap, required = jnp.log(caps.base), jnp.log(multiplier)
    after = []
    for applied, memory in zip(rules, memories, strict=True):
        memory, factor = applied.rule.react(memory, reading)
        after.append(memory)
        bend = jnp.log(factor)
        cap = cap + applied.on_cap[:, None] * bend
        required = required - applied.on_maintenance[:, None] * bend
    return tuple(after), jnp.clip(jnp.exp(cap), caps.floor, caps.ceiling), jnp.clip(jnp.exp(required), caps.least_maintenance, caps.most_maintenance)


def move(now: Array, target: Array, down: Array, up: Array) -> Array:
    """`now` towards `target`, at most by the factors `exp(-down)` and `exp(up)`: all > 0, of one shape."""
    return now * jnp.exp(jnp.clip(jnp.log(target) - jnp.log(now), -down, up))


def _in_force(announced: Array, notice: Array) -> Array:
    """(V, A) the target announced `notice` (V,) steps ago."""
    latest = announced.shape[0] - 1
    row = jnp.clip(latest - notice, 0, latest)
    return announced[row, jnp.arange(notice.shape[0])]


def initial(caps: Caps, rules: tuple[Applied, ...], multiplier: Array, reading: Reading, history: int) -> CapState:
    """At rest under the first reading: nothing is under way. `history` static: the longest notice in steps, plus one."""
    memories = tuple(applied.rule.start(reading) for applied in rules)
    memories, cap, required = targets(caps, rules, multiplier, memories, reading)
    shape = (history, *cap.shape)
    return CapState(
        cap=cap,
        maintenance=required,
        announced_cap=jnp.broadcast_to(cap[None], shape),
        announced_maintenance=jnp.broadcast_to(required[None], shape),
        memories=memories,
        gauge=reading.gauge,
        clock=jnp.int32(0),
    )


def react(caps: Caps, rules: tuple[Applied, ...], multiplier: Array, state: CapState, reading: Reading) -> CapState:
    """One step: the rules read and announce, and what is in force moves towards what was announced a notice ago."""
    memories, cap, required = targets(caps, rules, multiplier, state.memories, reading)
    announced_cap = jnp.concatenate([state.announced_cap[1:], cap[None]])
    announced_maintenance = jnp.concatenate([state.announced_maintenance[1:], required[None]])
    return replace(
        state,
        cap=move(state.cap, _in_force(announced_cap, caps.notice), caps.tighten, caps.loosen),
        maintenance=move(state.maintenance, _in_force(announced_maintenance, caps.notice), caps.loosen, caps.tighten),
        announced_cap=announced_cap,
        announced_maintenance=announced_maintenance,
        memories=memories,
        clock=state.clock + 1,
    )


def initial_margin(notionals: tuple[Array, ...], cap: tuple[Array, ...], maintenance: Array, over_maintenance: Array) -> Array:
    """USD needed to open a portfolio: `max(sum |n_a| / L_a, ratio MM)`, the leverage cap and a multiple of maintenance margin."""
    by_cap = sum(n / c for n, c in zip(notionals[1:], cap[1:], strict=True)) + notionals[0] / cap[0]
    return jnp.maximum(by_cap, over_maintenance * maintenance)


def call_level(notionals: tuple[Array, ...], cap: tuple[Array, ...], base: tuple[Array, ...], allowed: Array | None, maintenance: Array) -> Array:
    """USD an account must hold to be left alone: `MM + sum_a |n_a| max(1 / (L_a f) - 1 / L_base_a, 0)`.

    Maintenance margin plus what the initial margin has grown by since caps stood at their base: with caps at their base it is maintenance margin
    itself, so that an account which merely drifts between initial and maintenance margin is not called, as on real venues.

    Args: `cap`, `base` per asset, broadcasting; `allowed` share f of the cap that each account has, all of it when None.
    """
    total = maintenance
    for n, c, b in zip(notionals, cap, base, strict=True):
        tightened = 1 / c - 1 / b if allowed is None else 1 / (c * allowed) - 1 / b
        total = total + n * jnp.maximum(tightened, 0)
    return total
