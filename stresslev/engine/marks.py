"""What a pool takes for the price of an asset: its mark (perpetual venue) or its oracle (lender).

All prices are logs over the reference price. At the opening of a step (`open_step`) the mark is made in this order:

1. source: the pool's own price, the index, or a mix;
2. scripted offset: a depeg or a bad print enters here, so that everything below protects against it as it would in practice;
3. delay: the source of some steps ago;
4. averaging: time-weighted over a window, then exponential;
5. push: the published value moves only when the new one is far enough from it or it has grown too old;
6. standstill: in an outage of the pool, or while the price of the asset is stuck there, nothing is published and the last mark stands. Sources go on
   being recorded, so that the mark catches up at once afterwards.

Between openings, prices move with the rounds of liquidation; a mark without delay, averaging or push follows them (`follow`), any other stands.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MarkRules:
    """How each pool makes its mark. V pools, A assets; H is the length of the history. All traced.

    `delay + averaging <= H`; what a window would need from before the history is left out of its average.
    """

    index_share: Array  # (V,) 0 the pool's own price, 1 the index
    index_weight: Array  # (V, A) weight of pool v's price in the index of asset a, in any unit; no weight at all: every pool uses its own price
    delay: Array  # (V,) int32 steps, 0 none
    averaging: Array  # (V,) int32 steps of the time-weighted average, 1 none
    smoothing: Array  # (V,) factor per step of the exponential average in [0, 1), 0 none
    deviation: Array  # (V,) relative move that triggers a push; 0: every step; inf: heartbeats only
    heartbeat: Array  # (V,) int32 steps after which a push is made anyway; 0: every step; a number beyond the horizon: deviations only


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MarkState:
    """What the marks remember. Log prices over the reference. Traced."""

    history: Array  # (H, V, A) sources of the last H steps, a ring
    position: Array  # () int32 slot of the newest
    average: Array  # (V, A) exponential average
    pushed: Array  # (V, A) mark shown last
    age: Array  # (V, A) int32 steps since the last push


def index(rules: MarkRules, venue: Array) -> Array:
    """(V, A) weighted mean log price of the venues, the geometric index; a pool's own price where no venue has weight.

    Taken about the highest of them, so that venues that agree have exactly their price for index.
    """
    counted = rules.index_weight > 0
    listed = jnp.any(counted, axis=0, keepdims=True)
    weight = jnp.where(counted, rules.index_weight, 0)
    total = jnp.where(listed, jnp.sum(weight, axis=0, keepdims=True), 1)
    highest = jnp.max(jnp.where(counted, lax.stop_gradient(venue), -jnp.inf), axis=0, keepdims=True)
    anchor = jnp.where(listed, highest, 0)
    mean = anchor + jnp.sum(weight * (venue - anchor), axis=0, keepdims=True) / total
    return jnp.where(listed, mean, venue)


def source(rules: MarkRules, venue: Array) -> Array:
    """(V, A) log price a pool looks at: `(1 - share) own + share index`."""
    share = rules.index_share[:, None]
    return (1 - share) * venue + share * index(rules, venue)


def initial(rules: MarkRules, venue_log_price: Array, depth_of_history: int) -> MarkState:
    """Marks that have stood at these (V, A) prices for as long as anybody remembers, just pushed.

    Raises ValueError when `depth_of_history`, the static H, is less than one.
    """
    if depth_of_history < 1:
        raise ValueError(f"depth_of_history is {depth_of_history}; the history holds at least the present step, so give 1 or more")
    start = source(rules, venue_log_price)
    return MarkState(
        history=jnp.broadcast_to(start[None], (depth_of_history, *start.shape)),
        position=jnp.int32(0),
        average=start,
        pushed=start,
        age=jnp.zeros(start.shape, jnp.int32),
    )


def _delayed_mean(rules: MarkRules, history: Array, position: Array) -> Array:
    """(V, A) mean of the sources `delay` to `delay + averaging - 1` steps ago (time-weighted, geometric: Uniswap v3 white paper 2021, section 5.2).

    Taken about the newest of them, so that a price at rest is its own mean, to the last bit.
    """
    depth = history.shape[0]
    delay = jnp.clip(rules.delay, 0, depth - 1)
    lag = (position - jnp.arange(depth, dtype=jnp.int32)) % depth
    newest = jnp.take_along_axis(history, ((position - delay) % depth)[None, :, None], axis=0)
    # the newest itself is always in, also under a window below one
    within = (lag[:, None] > delay[None]) & (lag[:, None] < (delay + rules.averaging)[None])
    count = 1 + jnp.sum(within, axis=0, dtype=jnp.int32).astype(history.dtype)
    distance = jnp.where(within[..., None], history - newest, 0)
    return newest[0] + jnp.sum(distance, axis=0) / count[:, None]


def open_step(rules: MarkRules, state: MarkState, venue: Array, offset: Array, still: Array) -> tuple[MarkState, Array]:
    """The marks at the opening of a step.

    `venue` (V, A) log prices at the pools, `offset` (V, A) scripted log dislocation of what the pool sees, `still` (V, A) bool:
    nothing is published.
    Returns the state and the (V, A) marks. A push is made when `|new / last - 1| >= deviation` or the last is `heartbeat` steps old
    (Chainlink data feeds: deviation threshold and heartbeat).
    """
    position = (state.position + 1) % state.history.shape[0]
    history = lax.dynamic_update_index_in_dim(state.history, source(rules, venue) + offset, position, 0)
    mean = _delayed_mean(rules, history, position)
    average = mean + rules.smoothing[:, None] * (state.average - mean)
    age = state.age + 1
    far = jnp.abs(jnp.expm1(lax.stop_gradient(average - state.pushed))) >= rules.deviation[:, None]
    push = (far | (age >= rules.heartbeat[:, None])) & ~still
    mark = jnp.where(push, average, state.pushed)
    return MarkState(history=history, position=position, average=average, pushed=mark, age=jnp.where(push, 0, age)), mark


def live(rules: MarkRules) -> Array:
    """(V,) bool: nothing stands between this pool's source and its mark, which therefore follows every round of a step."""
    every_move = (rules.deviation <= 0) | (rules.heartbeat <= 0)
    return (rules.delay <= 0) & (rules.averaging <= 1) & (rules.smoothing <= 0) & every_move


def follow(rules: MarkRules, opening_mark: Array, venue: Array, offset: Array, still: Array) -> Array:
    """(V, A) marks within a step, after prices at the pools have moved to `venue`: live pools follow but where their marks
    are `still` (V, A), the others keep the opening mark.

    At unmoved prices this is the opening mark itself.
    """
    moves = live(rules)[:, None] & ~still
    return jnp.where(moves, source(rules, venue) + offset, opening_mark)


def close_step(state: MarkState, mark: Array) -> MarkState:
    """Remember the (V, A) marks after the last round of the step: it is at these that a standstill in the next step freezes a live pool."""
    return replace(state, pushed=mark)
