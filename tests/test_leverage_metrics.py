"""Metrics of leverage, harm and procyclicality, against figures worked out by hand."""

import numpy as np
import pytest

from stresslev import metrics
from stresslev.metrics import MEASURES, METRICS
from tests.comparisons import leveraged
from tests.test_report import dataset

NEW = ("mean_allowed_leverage", "mean_used_leverage", "unnecessary_liquidation_share", "margin_called_over_open_interest", "margin_peak_to_trough")


def test_allowed_leverage_is_notional_over_the_margin_it_needs():
    """500 USD in each of four markets; caps of 10, at one pool 4 in the second half: margins 1000 / 10 each step, then 500 / 10 + 500 / 4 x 2."""
    ds = leveraged(dataset(steps=40), cap=10.0)
    ds["cap_leverage"][21:, 0] = 4.0
    half = 1000 / 10
    assert metrics.evaluate(ds)["mean_allowed_leverage"] == pytest.approx(40 * 2000 / (20 * 2 * half + 20 * (half + 1000 / 4)))
    pools = metrics.by_pool(ds)
    assert pools["alpha"]["mean_allowed_leverage"] == pytest.approx(2 / (1 / 10 + 1 / 4))
    assert pools["beta"]["mean_allowed_leverage"] == pytest.approx(10)


def test_allowed_leverage_is_of_the_portfolio_at_the_start_whatever_became_of_it():
    kept, closed = leveraged(dataset(), cap=8.0), leveraged(dataset(closed=400.0), cap=8.0)
    for ds in (kept, closed):
        ds["cap_leverage"][:, 1] = 2.0
    assert metrics.evaluate(kept)["mean_allowed_leverage"] == metrics.evaluate(closed)["mean_allowed_leverage"]


def test_markets_without_a_cap_count_for_nothing():
    ds = leveraged(dataset(), cap=8.0)
    ds["cap_leverage"][:, 1] = np.nan
    assert metrics.evaluate(ds)["mean_allowed_leverage"] == pytest.approx(8.0)


def test_used_leverage_is_notional_over_equity_by_pool_and_by_group():
    ds = leveraged(dataset(), equity=100.0)
    ds["group_equity_usd"][:, 1, 2] = 400.0
    assert metrics.evaluate(ds)["mean_used_leverage"] == pytest.approx(6 * 500 / (5 * 100 + 400))
    assert metrics.by_pool(ds)["beta"]["mean_used_leverage"] == pytest.approx(1500 / 600)
    groups = metrics.by_group(ds)
    assert groups["small"]["mean_used_leverage"] == pytest.approx(5)
    assert groups["large"]["mean_used_leverage"] == pytest.approx(1000 / 500)
    assert groups["small"]["liquidated_accounts_share"] == pytest.approx(3 / 20)


def test_a_group_is_allowed_what_its_pools_allow():
    """Large accounts hold three quarters at a pool with a cap of 2 and one quarter where it is 10."""
    ds = leveraged(dataset(), cap=10.0)
    ds["cap_leverage"][:, 0] = 2.0
    ds["group_notional_usd"][:, 0, 2] *= 3
    groups = metrics.by_group(ds)
    assert groups["large"]["mean_allowed_leverage"] == pytest.approx(1 / (0.75 / 2 + 0.25 / 10))
    assert groups["small"]["mean_allowed_leverage"] == pytest.approx(1 / (0.5 / 2 + 0.5 / 10))


def test_harm_counts_survivors_forced_closing_and_outside_cash():
    ds = leveraged(dataset(closed=100.0, draw=1.0), survivors=1, reduced=60.0, posted=30.0)
    ds["newly_liquidated"][20, 0] = 4
    values = metrics.evaluate(ds)
    assert values["unnecessary_liquidation_share"] == pytest.approx(1 / 4)
    assert values["forced_closing_over_open_interest"] == pytest.approx(160 / 2000)
    assert values["margin_called_over_open_interest"] == pytest.approx(30 / 2000)
    assert metrics.by_pool(ds)["alpha"]["forced_closing_over_open_interest"] == pytest.approx(160 / 1000)


def test_procyclicality_is_of_a_portfolio_that_does_not_move():
    """The requirement rises by a fifth in the first hour and by three quarters of the start within the day, then falls back."""
    level = np.repeat([1.0, 1.2, 1.5, 1.75, 1.0], 120)
    ds = leveraged(dataset(steps=599, closed=400.0), multiplier=level, cap=10 / level)
    values = metrics.evaluate(ds)
    for name in ("margin", "initial_margin"):
        assert values[f"{name}_peak_to_trough"] == pytest.approx(1.75)
        assert values[f"{name}_largest_increase_1h"] == pytest.approx(0.25)  # 1.2 to 1.5
        assert values[f"{name}_largest_increase_1d"] == pytest.approx(0.75)


def test_requirements_are_weighted_with_what_is_held_at_the_start():
    ds = leveraged(dataset(), multiplier=1.0)
    ds["maintenance_multiplier"][10:, 0, 0] = 3.0
    ds["open_interest_usd"][0] = [[100, 0], [300, 0]]
    assert metrics.evaluate(ds)["margin_peak_to_trough"] == pytest.approx((3 * 100 + 300) / 400)
    ds["open_interest_usd"][0] = 0.0
    assert metrics.evaluate(ds)["margin_peak_to_trough"] == 1.0  # nothing is held, so nothing moves
    ds["supplied_usd"][0] = [[100, 0], [100, 0]]
    assert metrics.evaluate(ds)["margin_peak_to_trough"] == pytest.approx(2.0)


def test_rounding_a_float32_path_makes_no_cycle():
    ds = leveraged(dataset(), multiplier=1.1, cap=7.3).astype(np.float32)
    values = metrics.evaluate(ds)
    assert values["margin_peak_to_trough"] == pytest.approx(1.0, abs=1e-6)
    assert values["initial_margin_largest_increase_1d"] == pytest.approx(0.0, abs=1e-6)


def test_results_of_earlier_versions_have_no_value_for_what_they_do_not_hold():
    values, pools = metrics.evaluate(dataset()), metrics.by_pool(dataset())
    assert not set(NEW) & (set(values) | set(pools["alpha"]))
    assert values["forced_closing_over_open_interest"] == 0
    assert metrics.by_group(dataset()) == {}
    assert set(metrics.evaluate(leveraged(dataset()))) == set(METRICS)


def test_every_measure_is_a_metric_and_says_which_way_is_better():
    names = [n for group in MEASURES.values() for n in group]
    assert len(names) == len(set(names))
    assert set(names) <= set(METRICS)
    assert {n for n, m in METRICS.items() if m.better == "higher"} == {"mean_allowed_leverage", "mean_used_leverage"}
    leverage, debt = METRICS["mean_allowed_leverage"], METRICS["bad_debt_usd"]
    assert leverage.worse(5, 10) and not leverage.worse(10, 5) and not debt.worse(5, 10)
    assert leverage.worst([5, 10]) == 5 and debt.worst([5, 10]) == 10
