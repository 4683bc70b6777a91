"""Active-set stepping gives what stepping everybody gives: the same liquidations in the same steps, the same metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import load_plan, opening, preparation
from stresslev.engine import epochs, span
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance, simulate
from stresslev.errors import InputError
from stresslev.stepping import Active, chosen, never_sleep
from tests.systems import GROUPS, engine_case, random_case


def _whole(records):
    return jax.tree.map(lambda *x: np.concatenate(x), *records)


def _apart(record, other) -> dict[str, float]:
    """Largest difference of every field but the residuals, relative to the largest value of the field."""
    found = {}
    for (where, x), y in zip(jax.tree_util.tree_leaves_with_path(record), jax.tree.leaves(other), strict=True):
        name, x, y = jax.tree_util.keystr(where), np.asarray(x, float), np.asarray(y, float)
        if "residual" in name:
            continue
        assert (np.isfinite(x) == np.isfinite(y)).all(), name
        finite = np.isfinite(y)
        found[name] = float(np.abs(x[finite] - y[finite]).max(initial=0) / max(np.abs(y[finite]).max(initial=0), 1e-9))
    return found


def _active(case, rounds: int = 3, shares=(1.0,)):
    """Final state, record and tally of a case by epochs; `shares` of 1 have room for everybody."""
    state = initial_state(case.system, case.populations, policy=case.policy, mark_history=case.history, notice=case.notice)
    tolerance = residual_tolerance(state, case.system)
    active = Active(case.system, case.policy, all_channels(case.system.reference_price.dtype), case.path, rounds, tolerance, shares)
    state, records = active.advance(jax.tree.map(jnp.copy, state), 0, case.path.log_price.shape[0])
    return state, _whole(records), active.tally


def _liquidated(state) -> list[np.ndarray]:
    return [np.asarray(p.liquidated) for p in state.populations]


def _same(case) -> None:
    active, record, tally = _active(case)
    everybody, expected = case.simulate(3)
    apart = _apart(record, expected)
    assert max(apart.values()) < 1e-12, {k: v for k, v in apart.items() if v >= 1e-12}
    for mine, theirs in zip(_liquidated(active), _liquidated(everybody), strict=True):
        assert (mine == theirs).all()
    assert tally.active_steps + tally.everybody_steps == case.path.log_price.shape[0]


@settings(max_examples=12)
@given(st.integers(0, 2**31))
def test_epochs_give_what_stepping_everybody_gives_on_random_systems(seed):
    """With auto-deleveraging, socialised loss and shared funds: what reaches sleepers has to be noticed."""
    _same(engine_case(*random_case(seed, GROUPS["settling"])))


@pytest.fixture(scope="module")
def gap():
    """The shipped gap scenario on the thin system, 4,000 accounts, with what stepping everybody gives."""
    plan = load_plan("gap_35_half_depth", system="systems/three_perp_venues.toml", accounts=4000, precision=64)
    scenario = plan.scenarios[0]
    shock = opening.shock_of(plan, scenario)
    ready = preparation.prepare(plan, scenario, shock, opening.at_start(plan, opening.load_book(plan, shock), shock))
    return ready, *simulate(ready.system, ready.policy, ready.state.populations, ready.path)


def _by_epochs(ready, *shares):
    active = Active(ready.system, ready.policy, all_channels(ready.dtype), ready.path, 3, ready.tolerance, shares)
    state, records = active.advance(jax.tree.map(jnp.copy, ready.state), 0, ready.path.log_price.shape[0])
    return state, _whole(records), active.tally


@pytest.mark.slow
def test_the_gap_is_the_same_and_almost_everybody_sleeps(gap):
    ready, state, expected = gap
    found, record, tally = _by_epochs(ready, 1 / 4)
    assert max(_apart(record, expected).values()) < 1e-12
    assert (np.asarray(record.flows.newly_liquidated) == np.asarray(expected.flows.newly_liquidated)).all()
    assert (_liquidated(found)[0] == _liquidated(state)[0]).all()
    assert tally.cut > 0, "nothing left its span: the look at it was not tried"
    assert tally.awake < 0.1 * 4000 * tally.active_steps


def test_too_little_room_is_noticed_and_changes_nothing(gap):
    ready, _, expected = gap
    _, record, tally = _by_epochs(ready, 1 / 400)
    assert tally.refused > 0
    assert tally.everybody_steps > 0
    assert max(_apart(record, expected).values()) < 1e-12


def test_an_epoch_that_leaves_its_span_keeps_no_step_of_it(gap):
    """With the fall hidden from the look ahead, the epoch ends before the step in which it comes."""
    ready, *_ = gap
    path = jax.tree.map(lambda x: np.array(x[: epochs.LONGEST]), ready.path)
    fall = int(np.argmin(np.diff(path.log_price[:, 0]))) + 1
    channels = all_channels(ready.dtype)

    def kept(look):
        one, widen = jnp.int32(epochs.LONGEST), jnp.ones((), ready.dtype)
        predict = epochs.predict
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(epochs, "predict", lambda s, y, p, path, ahead, w: predict(s, y, p, jax.tree.map(look, path), ahead, w))
            jax.clear_caches()
            found, _ = epochs.epoch(ready.state, ready.system, ready.policy, channels, path, one, widen, jnp.int32(3), ready.tolerance, share=1.0)
            return int(found.kept)

    assert kept(lambda x: jnp.broadcast_to(x[:1], x.shape)) <= fall
    jax.clear_caches()


@pytest.mark.slow
def test_nobody_under_margin_within_the_span_is_asleep(gap):
    """Against the health itself, at corners of the span drawn at random."""
    from stresslev.engine.health import Prices, assess, rules_for

    ready, *_ = gap
    path = jax.tree.map(lambda x: x[:20], ready.path)
    bounds = epochs.predict(ready.state, ready.system, ready.policy, path, jnp.ones(20, bool), jnp.array(8.0))
    accounts = ready.state.populations[0]
    asleep = np.asarray(span.sleepers(accounts, ready.system, ready.policy, bounds))
    assert 0.05 < asleep.mean() < 1
    rng = np.random.default_rng(4)
    for _ in range(40):
        mark = jnp.where(rng.random(bounds.low.shape) < 0.5, bounds.low, bounds.high)
        displaced = mark - ready.system.reference_price[None, :]
        seen = Prices(mark=mark, mark_displaced=displaced, venue=mark, venue_displaced=displaced, funding=jnp.zeros_like(mark))
        under = np.asarray(assess(accounts, rules_for(accounts, ready.system, bounds.multiplier, seen)).under)
        assert not (under & asleep).any()


def test_what_cannot_sleep_is_named_and_auto_does_not_choose_active():
    case = engine_case(*random_case(3, GROUPS["leverage"]))
    state = initial_state(case.system, case.populations, policy=case.policy, mark_history=case.history, notice=case.notice)
    assert never_sleep(state, case.policy) == ["accounts under portfolio margin"]
    assert chosen("auto", state, case.policy, 10**12) == "all"
    assert chosen("active", state, case.policy, 1) == "active"


def test_a_way_of_stepping_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="stepping"):
        load_plan("gap_35_half_depth", stepping="some")
