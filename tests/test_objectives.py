"""Metrics with a derivative are the metrics of their name."""

import jax
import numpy as np
import pytest

from stresslev import metrics, opening, preparation, run
from stresslev.config.load import load_plan
from stresslev.engine.simulate import advance, all_channels
from stresslev.objectives import OBJECTIVES, start_of


@pytest.fixture(scope="module")
def ran():
    """A run, by the engine and as a dataset."""
    plan = load_plan("gap_35_half_depth", policy="volatility", accounts=1500, precision=64, overrides=["run.measures=false"])
    shock = opening.shock_of(plan, plan.scenarios[0])
    book = opening.at_start(plan, opening.load_book(plan, shock), shock)
    ready = preparation.prepare(plan, plan.scenarios[0], shock, book)
    ledger = ready.state.ledger
    start = start_of(preparation.initial_levels(ready, shock), np.asarray(ledger.long_quantity), np.asarray(ledger.short_quantity))
    state = jax.tree.map(jax.numpy.copy, ready.state)
    _, record = advance(state, ready.system, ready.policy, all_channels(np.float64), ready.path, np.int32(plan.run.max_rounds), ready.tolerance)
    return run.run_plan(plan).metrics["gap_35_half_depth"], record, start


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_the_metric_of_its_name(name, ran):
    expected, record, start = ran
    assert name in metrics.METRICS
    assert float(OBJECTIVES[name](record, start)) == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
