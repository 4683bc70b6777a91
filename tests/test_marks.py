"""Marks against a literal loop over remembered prices, and what each feature is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine import marks
from stresslev.engine.marks import MarkRules

# compiled once for all tests; single operations one by one take far longer
OPEN, FOLLOW, INITIAL = jax.jit(marks.open_step), jax.jit(marks.follow), jax.jit(marks.initial, static_argnums=2)
NEVER = np.iinfo(np.int32).max


def _rules(pools=1, assets=1, dtype=float, **features) -> MarkRules:
    """Marks that are the pool's own price, but for the features named."""
    plain = {"index_share": 0.0, "delay": 0, "averaging": 1, "smoothing": 0.0, "deviation": 0.0, "heartbeat": 0} | features
    weight = plain.pop("index_weight", np.ones((pools, assets)))
    whole = {"delay", "averaging", "heartbeat"}
    columns = {name: jnp.asarray(np.broadcast_to(value, (pools,)), jnp.int32 if name in whole else dtype) for name, value in plain.items()}
    return MarkRules(index_weight=jnp.asarray(weight, dtype), **columns)


@jax.jit
def _scan(rules, state, venue, offset, still):
    def step(state, now):
        return marks.open_step(rules, state, *now)

    return jax.lax.scan(step, state, (venue, offset, still))


def _run(rules, venue, offset=None, still=None, history=8, start=None):
    """(T, V, A) marks along (T, V, A) prices, standing where `still`; before the first step the price was `start`, the first one when not given."""
    venue = jnp.asarray(venue)
    offset = jnp.zeros_like(venue) if offset is None else jnp.asarray(offset, venue.dtype)
    still = jnp.zeros(venue.shape, bool) if still is None else jnp.asarray(still)
    state = INITIAL(rules, venue[0] if start is None else jnp.asarray(start, venue.dtype), history)
    return np.asarray(_scan(rules, state, venue, offset, still)[1])


def _one(path):
    """(T,) path of one pool and asset as (T, 1, 1)."""
    return np.asarray(path)[:, None, None]


def _literal(rules, start, venue, offset, still):
    """The six stages one number at a time, with the whole past at hand instead of a ring of it."""
    rules = jax.tree.map(np.asarray, rules)
    steps, pools, assets = venue.shape

    def look(prices, v, a):
        weights = [max(w, 0.0) for w in rules.index_weight[:, a]]
        index = sum(w * p for w, p in zip(weights, prices[:, a], strict=True)) / sum(weights) if sum(weights) > 0 else prices[v, a]
        return (1 - rules.index_share[v]) * prices[v, a] + rules.index_share[v] * index

    shown = np.zeros(venue.shape)
    for v in range(pools):
        for a in range(assets):
            before = look(start, v, a)
            seen, average, mark, pushed_at = [], before, before, -1
            for t in range(steps):
                seen.append(look(venue[t], v, a) + offset[t, v, a])
                window = [t - rules.delay[v] - k for k in range(rules.averaging[v])]
                mean = sum(seen[s] if s >= 0 else before for s in window) / len(window)
                average = rules.smoothing[v] * average + (1 - rules.smoothing[v]) * mean
                moved = abs(np.exp(average) / np.exp(mark) - 1)
                if not still[t, v, a] and (moved >= rules.deviation[v] or t - pushed_at >= rules.heartbeat[v]):
                    mark, pushed_at = average, t
                shown[t, v, a] = mark
    return shown


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_all_features_together_equal_the_literal_loop(seed):
    rng = np.random.default_rng(seed)
    pools, assets, steps, history = 5, 2, 30, 7
    delay = rng.integers(0, history, pools)
    rules = _rules(
        pools,
        assets,
        index_share=rng.choice([0.0, 0.4, 1.0], pools),
        index_weight=rng.choice([0.0, 1.0, 2.5, -1.0], (pools, assets)),
        delay=delay,
        averaging=[rng.integers(1, history - d + 1) for d in delay],
        smoothing=rng.choice([0.0, 0.3, 0.9], pools),
        deviation=rng.choice([0.0, 0.003, 0.02, np.inf], pools),
        heartbeat=rng.choice([0, 1, 5, NEVER], pools),
    )
    start = rng.normal(0, 0.01, (pools, assets))
    venue = start + np.cumsum(rng.normal(0, 0.004, (steps, pools, assets)), axis=0)
    offset = rng.normal(0, 0.05, venue.shape) * (rng.random(venue.shape) < 0.1)
    # pools that are down, and single prices that are stuck
    still = (rng.random((steps, pools, 1)) < 0.1) | (rng.random(venue.shape) < 0.1)
    np.testing.assert_allclose(_run(rules, venue, offset, still, history, start), _literal(rules, start, venue, offset, still), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_marks_without_features_are_the_pools_prices_to_the_last_bit(dtype):
    venue = np.random.default_rng(1).normal(0, 0.1, (40, 3, 2)).astype(dtype)
    shown = _run(_rules(3, 2, dtype), venue, history=1)
    assert shown.dtype == dtype
    assert np.array_equal(shown, venue)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_price_at_rest_is_its_own_mark_to_the_last_bit_whatever_the_rules(dtype):
    """Otherwise premiums and deviations would be rounding."""
    rng = np.random.default_rng(2)
    venue = np.broadcast_to(rng.normal(0, 0.1, 4).astype(dtype), (20, 3, 4))
    rules = _rules(3, 4, dtype, index_share=1.0, index_weight=rng.random((3, 4)), delay=[0, 2, 4], averaging=[3, 1, 4], smoothing=[0.3, 0.7, 0.0])
    assert np.array_equal(_run(rules, venue), venue)


def test_index_is_the_weighted_mean_of_the_venues_that_count():
    prices = jnp.asarray([[0.01, 0.5], [0.04, -0.2], [9.0, 0.1]])
    rules = _rules(3, 2, index_share=1.0, index_weight=[[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    index = marks.source(rules, prices)
    np.testing.assert_allclose(index[:, 0], 0.02, atol=1e-15)
    assert np.array_equal(index[:, 1], prices[:, 1]), "no venue counts: every pool has its own price"
    jacobian = jax.jacobian(lambda p: marks.index(rules, p)[0, 0])(prices)
    np.testing.assert_allclose(jacobian, [[2 / 3, 0], [1 / 3, 0], [0, 0]], atol=1e-15)


@pytest.mark.parametrize("delay", [0, 1, 3, 7])
def test_delay_shifts_exactly(delay):
    path = np.random.default_rng(3).normal(0, 0.1, 50)
    shown = _run(_rules(delay=delay), _one(path))[:, 0, 0]
    assert np.array_equal(shown[delay:], path[: 50 - delay])
    assert np.all(shown[:delay] == path[0])


@pytest.mark.parametrize("window", [1, 2, 4, 8])
def test_a_time_weighted_average_blunts_a_one_step_bad_print_by_its_window(window):
    offset = np.zeros(20)
    offset[5] = -0.3
    shown = _run(_rules(averaging=window), _one(np.zeros(20)), _one(offset))[:, 0, 0]
    expected = np.zeros(20)
    expected[5 : 5 + window] = -0.3 / window
    np.testing.assert_allclose(shown, expected, rtol=1e-15, atol=0)


def test_an_exponential_average_lets_through_its_own_share_of_a_bad_print_and_forgets_it():
    offset = np.zeros(20)
    offset[5] = -0.3
    shown = _run(_rules(smoothing=0.8), _one(np.zeros(20)), _one(offset))[:, 0, 0]
    np.testing.assert_allclose(shown[5:], -0.3 * 0.2 * 0.8 ** np.arange(15), rtol=1e-12)


def test_a_pushed_oracle_holds_between_deviations():
    """Chainlink ETH/USD: 0.5%. Moves of -0.4% are not shown until they add up."""
    path = np.log([1.0, 0.996, 0.9949, 0.993, 0.991, 0.9895, 1.0])
    shown = _run(_rules(deviation=0.005, heartbeat=NEVER), _one(path))[:, 0, 0]
    np.testing.assert_allclose(np.exp(shown), [1.0, 1.0, 0.9949, 0.9949, 0.9949, 0.9895, 1.0], rtol=1e-14)


def test_a_heartbeat_pushes_however_small_the_move():
    path = np.arange(1, 11) * 1e-5
    shown = _run(_rules(deviation=np.inf, heartbeat=4), _one(path), start=[[0.0]])[:, 0, 0]
    assert np.array_equal(shown, np.repeat([0.0, path[3], path[7]], [3, 4, 3]))


def test_a_standstill_freezes_the_mark_and_ends_at_the_price_of_then():
    path = np.linspace(0, -0.2, 10)
    still = np.zeros((10, 1, 1), bool)
    still[3:7] = True
    shown = _run(_rules(), _one(path), still=still)[:, 0, 0]
    assert np.array_equal(shown, np.concatenate([path[:3], np.repeat(path[2], 4), path[7:]]))


def test_a_standstill_freezes_a_live_mark_where_the_last_round_left_it():
    rules = _rules(2, 1, delay=[0, 1])
    at = [jnp.full((2, 1), x) for x in (0.0, -0.01, -0.05, -0.04)]
    offset, up, down = jnp.zeros((2, 1)), jnp.zeros((2, 1), bool), jnp.ones((2, 1), bool)
    state, opening = OPEN(rules, INITIAL(rules, at[0], 4), at[1], offset, up)
    closing = FOLLOW(rules, opening, at[2], offset, up)
    _, frozen = OPEN(rules, marks.close_step(state, closing), at[3], offset, down)
    assert np.array_equal(closing, [[-0.05], [0.0]])
    assert np.array_equal(frozen, closing)


def test_a_heartbeat_that_falls_due_in_a_standstill_is_pushed_right_after_it():
    still = np.zeros((10, 1, 1), bool)
    still[2:6] = True
    path = np.arange(10) * 1e-3
    shown = _run(_rules(deviation=np.inf, heartbeat=4), _one(path), still=still)[:, 0, 0]
    assert np.array_equal(shown, np.repeat([0.0, path[6]], [6, 4]))


def test_only_marks_with_nothing_in_between_are_live():
    rules = _rules(
        8,
        delay=[0, 1, 0, 0, 0, 0, 0, 0],
        averaging=[1, 1, 2, 1, 1, 1, 1, 1],
        smoothing=[0, 0, 0, 0.5, 0, 0, 0, 0],
        deviation=[0, 0, 0, 0, 0.005, 0.005, 0, np.inf],
        heartbeat=[0, 0, 0, 0, 60, 0, 60, 1],
    )
    assert np.array_equal(marks.live(rules), [True, False, False, False, False, True, True, False])


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_following_live_marks_equals_opening_at_the_moved_price_and_others_stand(seed):
    rng = np.random.default_rng(seed)
    rules = _rules(6, 2, index_share=rng.random(6), delay=[0, 2, 0, 0, 0, 0], averaging=[1, 1, 3, 1, 1, 1], smoothing=[0, 0, 0, 0.5, 0, 0])
    still = jnp.zeros((6, 2), bool).at[5].set(True).at[4, 1].set(True)
    prices = jnp.asarray(rng.normal(0, 0.1, (3, 6, 2)))
    offset = jnp.asarray(rng.normal(0, 0.1, (6, 2)))
    start = INITIAL(rules, prices[0], 4)
    _, opening = OPEN(rules, start, prices[1], offset, still)
    _, moved = OPEN(rules, start, prices[2], offset, still)
    followed = FOLLOW(rules, opening, prices[2], offset, still)
    assert np.array_equal(followed[jnp.asarray([0, 4, 5])], moved[jnp.asarray([0, 4, 5])])
    assert np.array_equal(followed[1:4], opening[1:4]) and np.array_equal(followed[4:, 1], start.pushed[4:, 1])
    assert np.array_equal(FOLLOW(rules, opening, prices[1], offset, still), opening)


def test_a_history_without_room_is_refused():
    with pytest.raises(ValueError, match="give 1 or more"):
        marks.initial(_rules(), jnp.zeros((1, 1)), 0)


def test_a_window_beyond_the_history_averages_what_there_is():
    path = np.arange(12) * 0.01
    short = _run(_rules(delay=1, averaging=50), _one(path), history=4)
    assert np.array_equal(short, _run(_rules(delay=1, averaging=3), _one(path), history=4))


def test_rules_can_be_batched():
    rng = np.random.default_rng(4)
    venue = jnp.asarray(rng.normal(0, 0.1, (15, 2, 1)))
    each = [_rules(2, 1, delay=[0, d], averaging=[3, 1], smoothing=[0.1 * d, 0]) for d in range(4)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    state = INITIAL(each[0], venue[0], 6)
    shown = jax.vmap(lambda rules: _scan(rules, state, venue, jnp.zeros_like(venue), jnp.zeros(venue.shape, bool))[1])(together)
    assert np.array_equal(shown, np.stack([_run(rules, venue, history=6) for rules in each]))


def test_gradients_are_finite_and_follow_the_averages():
    """The last mark is a mean of the last three prices, then smoothed: weights 0.75/3 now, and less before."""
    rules = _rules(averaging=3, smoothing=0.25)

    def last(path):
        return _scan(rules, marks.initial(rules, path[0], 4), path, jnp.zeros_like(path), jnp.zeros(path.shape, bool))[1][-1, 0, 0]

    gradient = jax.jit(jax.grad(last))
    weights = np.asarray(gradient(jnp.asarray(_one(np.linspace(0, 0.1, 9)))))[:, 0, 0]
    newest_first = [0.75 / 3 * sum(0.25**k for k in range(max(0, lag - 2), lag + 1)) for lag in range(6)]
    np.testing.assert_allclose(weights[:2:-1], newest_first, rtol=1e-12)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)


def test_a_mark_that_was_not_pushed_does_not_depend_on_the_price():
    rules = _rules(deviation=np.inf, heartbeat=9)
    zero = jnp.zeros((1, 1))

    def mark(price):
        return marks.open_step(rules, marks.initial(rules, zero, 4), price, zero, jnp.zeros((1, 1), bool))[1][0, 0]

    assert float(jax.jit(jax.grad(mark))(jnp.ones((1, 1)))[0, 0]) == 0
