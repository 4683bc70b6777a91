"""Units: what the specifications say, in the engine's terms, worked out by hand."""

import numpy as np
import pytest

from stresslev import assemble
from stresslev.config.load import load_system
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import ScenarioSpec
from stresslev.engine.types import FULL, RESTORE
from stresslev.shocks.paths import build


@pytest.mark.parametrize("minutes", [0.5, 1.0, 5.0])
def test_per_minute_and_per_year_figures_become_per_step(minutes):
    spec = load_system("three_perp_venues")
    arrays = assemble.system_arrays(spec, np.array([100_000.0, 4_000, 200, 3.5]), minutes)
    # large, mid and on-chain venue
    np.testing.assert_allclose(arrays.liquidation_fee, [0.01, 0.005, 0.0])
    np.testing.assert_allclose(arrays.taker_fee, [0.0005, 0.0006, 0.00045])
    np.testing.assert_allclose(arrays.capacity, [500e6 * minutes, 250e6 * minutes, np.inf])
    np.testing.assert_allclose(arrays.insurance_fund, [1e9, 2e8, 4e8])
    assert arrays.rule.tolist() == [RESTORE, FULL, FULL] and arrays.target_health[0] == 1.25
    # BTC: 45% a year; a year has 525,600 minutes
    assert arrays.reference_variance[0] == pytest.approx(0.45**2 * minutes / 525_600)
    assert arrays.transient_decay[0] == pytest.approx(0.5 ** (minutes / 2))
    assert arrays.volatility_decay[0] == pytest.approx(0.5 ** (minutes / 60))
    assert (arrays.impact.depth[0], arrays.impact.exponent[0], arrays.permanent_share[0]) == (976e6, 1.0, 0.05)
    assert (arrays.depth_volatility_exponent[0], arrays.depth_floor[0]) == (0.35, 0.05)
    assert arrays.tier_floor[0, 0, :3].tolist() == [0, 300e3, 800e3]
    np.testing.assert_allclose(arrays.tier_step[0, 0, :3], [0.004, 0.001, 0.0015])
    np.testing.assert_allclose(arrays.tier_step.sum(axis=2), [[0.5] * 4, [0.5] * 4, [0.025, 1 / 30, 0.05, 0.1]])


def test_the_policy_reaches_its_pool_and_asset():
    spec = load_system("three_perp_venues")
    policy = assemble.policy_arrays(PolicySpec(maintenance_multiplier=1.5, pools={"mid_venue": {"ETH": 3.0}}), spec, assemble.Grid(np.ones(4), 1.0))
    assert policy.maintenance_multiplier.tolist() == [[1.5] * 4, [1.5, 3.0, 1.5, 1.5], [1.5] * 4]


def test_marks_of_the_system_go_before_the_scenarios(tmp_path):
    scenario = ScenarioSpec.model_validate(
        {"kind": "scenario", "name": "s", "title": "s", "origin": "hypothetical", "severity": "severe", "duration_minutes": 2}
        | {"paths": {a: {"minutes": [0, 2], "prices": [10, 5]} for a in ("BTC", "ETH", "SOL", "SUI")}}
    )
    shock = build(scenario, ("BTC", "ETH", "SOL", "SUI"), tmp_path)
    spec = load_system("three_perp_venues")
    assert assemble.reference_prices(spec, shock).tolist() == [10] * 4
    marked = spec.model_copy(update={"assets": spec.assets | {"BTC": spec.assets["BTC"].model_copy(update={"price_usd": 7.0})}})
    assert assemble.reference_prices(marked, shock).tolist() == [7, 10, 10, 10]
    np.testing.assert_allclose(assemble.path_arrays(shock).log_price[:, 0], np.log([0.5**0.5, 0.5]))
