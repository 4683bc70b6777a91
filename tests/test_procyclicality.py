"""The measures of procyclicality give the figures that follow from the closed form of EWMA volatility after a jump, and those worked by hand."""

import numpy as np
import pytest

from stresslev.procyclicality import large_calls, largest_increase, peak_to_trough

#: Steps -> margin over margin at the start, after volatility jumps from 2% to 6% under EWMA with weight 0.97 (crosschecks, section 5).
RISES = {1: 1.1136, 5: 1.4595, 10: 1.7609, 20: 2.1563, 50: 2.6936}


def jump(steps, calm=5):
    """Margin in proportion to EWMA volatility: calm for a while, then `steps` steps after the jump."""
    n = np.arange(steps + 1)
    return np.concatenate([np.full(calm, 0.02), np.sqrt(0.97**n * 0.02**2 + (1 - 0.97**n) * 0.06**2)])


@pytest.mark.parametrize(("steps", "ratio"), RISES.items())
def test_a_jump_of_volatility_raises_margin_by_the_published_ratios(steps, ratio):
    assert largest_increase(jump(80), steps) == pytest.approx(ratio - 1, abs=5e-5)
    assert peak_to_trough(jump(steps)) == pytest.approx(ratio, abs=5e-5)


def test_peak_to_trough_does_not_ask_which_came_first_but_an_increase_does():
    falling = jump(50)[::-1]
    assert peak_to_trough(falling) == pytest.approx(2.6936, abs=5e-5)
    assert largest_increase(falling, 10) == 0


def test_measures_of_a_path_worked_by_hand():
    margin = np.array([100.0, 110.0, 99.0, 198.0, 150.0])
    assert peak_to_trough(margin) == 2
    assert largest_increase(margin, 1) == 1  # 99 to 198
    assert largest_increase(margin, 2) == pytest.approx(0.8)  # 110 to 198
    assert largest_increase(margin, 3) == pytest.approx(0.98)  # 100 to 198
    assert largest_increase(margin, 4) == pytest.approx(0.5)  # 100 to 150
    assert largest_increase(margin, 99) == pytest.approx(0.5)
    assert large_calls(margin, 0.05) == 0.5  # two of four
    assert large_calls(margin, 0.2) == 0.25
    assert large_calls(margin, 1.0) == 0  # as much is not more


def test_other_axes_stay_and_the_size_of_a_portfolio_does_not_matter():
    one = jump(30)
    both = np.stack([one, 7 * one], axis=-1)
    for measure in (peak_to_trough, lambda m: largest_increase(m, 3), lambda m: large_calls(m, 0.05)):
        assert measure(both) == pytest.approx(np.full(2, measure(one)))


def test_a_single_value_never_moved():
    one = np.array([3.0])
    assert (peak_to_trough(one), largest_increase(one, 5), large_calls(one, 0.0)) == (1, 0, 0)


@pytest.mark.parametrize("bad", [np.array([]), np.array(1.0), np.array([1.0, 0.0]), np.array([1.0, np.nan])])
def test_what_is_no_requirement_is_refused(bad):
    for measure in (peak_to_trough, lambda m: largest_increase(m, 1), lambda m: large_calls(m, 0.1)):
        with pytest.raises(ValueError, match="requirement"):
            measure(bad)


def test_a_horizon_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps"):
        largest_increase(np.array([1.0, 2.0]), 0)
