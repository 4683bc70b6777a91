"""Whole runs on shipped scenarios: conservation, precision, reproduction, recompilation."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from stresslev import doctor, metrics, results
from stresslev.config.load import load_plan
from stresslev.engine import simulate
from stresslev.errors import NumericalFailure
from stresslev.provenance import plan_of_result
from stresslev.run import _beside, run_plan, save
from stresslev.simulation import chunk_length, silent

ACCOUNTS = 2000


@pytest.fixture(scope="module")
def gap64():
    return run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64))


def test_the_gap_breaks_something_and_balances(gap64):
    values = gap64.metrics["gap_35_half_depth"]
    assert values["liquidated_accounts_share"] > 0.1 and values["amplification"] > 1.02
    assert values["conservation_residual"] < 1e-9 and values["total_residual"] < 1e-9


def test_float32_reports_what_float64_reports(gap64):
    single = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=32)).metrics["gap_35_half_depth"]
    double = gap64.metrics["gap_35_half_depth"]
    for name in ("liquidated_accounts_share", "liquidated_notional_share", "amplification", "bad_debt_over_open_interest", "insurance_fund_use"):
        assert single[name] == pytest.approx(double[name], rel=2e-3, abs=1e-5), name


def test_the_suite_runs_in_both_precisions():
    for precision in (32, 64):
        # on the lighter system: the suite's own is run below, and the attribution with the plumbing
        outcome = run_plan(load_plan("default", system="systems/three_perp_venues.toml", accounts=ACCOUNTS, precision=precision, attribution=False))
        assert set(outcome.metrics) == {"2020-03-12_black_thursday", "2025-10-10_adl_cascade", "gap_35_half_depth"}
        for name, ds in outcome.datasets.items():
            assert ds.price_usd.dtype == (np.float32 if precision == 32 else np.float64)
            assert outcome.metrics[name]["conservation_residual"] < (1e-5 if precision == 32 else 1e-9)
            assert int(ds.attrs["status"]) & 3 == 0
        assert len(outcome.findings) == 21


@pytest.mark.slow
def test_the_suites_system_runs_in_single_precision():
    """In double precision every mechanism runs in test_plumbing."""
    plan = load_plan("gap_35_half_depth", system="systems/venues_and_lenders.toml", accounts=ACCOUNTS, precision=32)
    outcome = run_plan(plan)
    values = outcome.metrics["gap_35_half_depth"]
    assert load_plan("default").system == load_plan("gap_35_half_depth", system="systems/venues_and_lenders.toml").system
    assert max(values["conservation_residual"], values["total_residual"]) < 1e-6
    newly = outcome.datasets["gap_35_half_depth"].newly_liquidated.sum("time")
    assert (newly > 0).all() and values["deficit_over_open_interest"] > 0 and values["adl_over_open_interest"] > 0


def test_a_deeper_market_and_a_larger_fund_do_no_harm(gap64):
    """Directions a committee would check: ten times the depth cannot deepen the fall, ten times the fund cannot add bad debt."""
    base = gap64.metrics["gap_35_half_depth"]
    deep = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=["scenario.depth_scale=5"]))
    assert deep.metrics["gap_35_half_depth"]["endogenous_fall"] < base["endogenous_fall"]
    funds = [f"system.pools.{p}.insurance_fund_usd=1e11" for p in ("large_venue", "mid_venue", "onchain_venue")]
    rich = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=funds))
    assert rich.metrics["gap_35_half_depth"]["bad_debt_usd"] == 0
    assert rich.metrics["gap_35_half_depth"]["amplification"] == pytest.approx(base["amplification"], rel=1e-12)


def test_without_a_shock_nothing_happens():
    outcome = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=["scenario.shock_scale=0"]))
    values = outcome.metrics["gap_35_half_depth"]
    assert values["liquidated_accounts_share"] == 0 and values["bad_debt_usd"] == 0 and values["amplification"] == 1.0


def test_metrics_are_what_the_dataset_says(gap64):
    ds = gap64.datasets["gap_35_half_depth"]
    values = gap64.metrics["gap_35_half_depth"]
    interest = float(ds.open_interest_usd[0].sum())
    assert interest == pytest.approx(42.3e9, rel=1e-9)  # the sum of the shipped system's open interest
    assert values["bad_debt_usd"] == pytest.approx(float((ds.deficit_usd - ds.fund_draw_usd).sum()), rel=1e-9, abs=1e-3)
    low = float((ds.price_usd / ds.price_usd[0]).min())
    assert values["amplification"] >= (1 - low) / 0.35 - 1e-9
    pools = metrics.by_pool(ds)
    assert sum(p["bad_debt_usd"] for p in pools.values()) == pytest.approx(values["bad_debt_usd"])


def test_every_variable_has_units_and_a_name(gap64):
    for ds in gap64.datasets.values():
        for name, variable in ds.data_vars.items():
            assert variable.attrs.get("units") and variable.attrs.get("long_name"), name


def test_a_result_can_be_run_again_from_its_own_attributes(gap64, tmp_path):
    save(gap64, tmp_path)
    again = run_plan(plan_of_result(tmp_path))
    assert again.metrics == gap64.metrics
    datasets, attributes = results.read_netcdf(tmp_path / "result.nc")
    for key in ("stresslev_version", "configuration", "seed", "precision", "jax", "device", "created"):
        assert attributes[key] not in ("", None), key
    np.testing.assert_array_equal(datasets["gap_35_half_depth"].price_usd, gap64.datasets["gap_35_half_depth"].price_usd)


def test_changing_parameters_paths_and_rounds_does_not_recompile():
    """Static is what changes shapes; everything else is traced."""
    plan = load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64)
    run_plan(plan)
    before = simulate.advance._cache_size()
    for overrides in (
        ["system.assets.BTC.depth_usd=1e8", "system.pools.mid_venue.liquidation.rule=restore"],
        ["scenario.shock_scale=0.7", "run.max_rounds=5", "policy.maintenance_multiplier=1.3"],
        ["system.pools.mid_venue.liquidation_capacity_usd_per_minute=1e7", "system.assets.ETH.impact_exponent=0.5"],
    ):
        run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=overrides, seed=3))
    assert simulate.advance._cache_size() == before


def test_the_same_run_gives_the_same_bits(gap64):
    again = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64))
    for name in gap64.datasets["gap_35_half_depth"].data_vars:
        a, b = gap64.datasets["gap_35_half_depth"][name].values, again.datasets["gap_35_half_depth"][name].values
        assert (a == b).all(), name


def test_notices_say_when_rounds_or_capacity_bound():
    """With one round and a capacity of a dollar both notices are raised; with neither limit reached, none is."""
    from stresslev.engine import status

    venues = ("large_venue", "mid_venue", "onchain_venue")

    def bits(capacity, rounds):
        overrides = [f"system.pools.{v}.liquidation_capacity_usd_per_minute={capacity}" for v in venues] + [f"run.max_rounds={rounds}"]
        outcome = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=overrides))
        return int(outcome.datasets["gap_35_half_depth"].attrs["status"])

    assert bits(1e7, 3) & status.CAPACITY_BOUND
    assert bits(1e15, 1) & status.ROUNDS_CAP
    assert bits(1e15, 500) == 0


def test_a_stricter_multiplier_for_one_pool_is_felt_there(gap64):
    overrides = [f"policy.pools.mid_venue.{a}=3" for a in ("BTC", "ETH", "SOL", "SUI")]
    outcome = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=overrides))
    first, then = (o.datasets["gap_35_half_depth"].newly_liquidated.sum("time") for o in (gap64, outcome))
    assert int(then.sel(pool="mid_venue")) > 1.02 * int(first.sel(pool="mid_venue"))


def test_the_push_of_the_cascade_is_the_largest_distance_of_the_two_prices(gap64):
    ds = gap64.datasets["gap_35_half_depth"]
    push = float(abs(ds.price_usd / ds.exogenous_price_usd - 1).max())
    assert gap64.metrics["gap_35_half_depth"]["endogenous_move"] == push > 0.01


def test_a_cascade_out_of_nothing_counts_as_amplification():
    """Prices do not move by themselves, but under-margined accounts are there from the start: the fall is the cascade's, and shows."""
    overrides = ["scenario.shock_scale=0", "policy.maintenance_multiplier=8"]
    outcome = run_plan(load_plan("gap_35_half_depth", accounts=ACCOUNTS, precision=64, overrides=overrides))
    values = outcome.metrics["gap_35_half_depth"]
    assert values["endogenous_fall"] > 0.05
    assert values["amplification"] == pytest.approx(1 + values["endogenous_fall"] / 0.01)


def test_a_numerical_failure_is_named():
    plan = load_plan("gap_35_half_depth", accounts=2000, overrides=["system.assets.BTC.depth_usd=1e-30"])
    with pytest.raises(NumericalFailure, match=r"gap_35_half_depth: .*infinite or not a number"):
        run_plan(plan)


@pytest.mark.parametrize("steps", [1, 7, 60, 240, 1440, 3600, 4320, 4321, 97])
def test_chunks_cover_every_step(steps):
    size = chunk_length(steps)
    assert 1 <= size <= 96
    if steps in (240, 1440, 3600, 4320):
        assert steps % size == 0


def test_the_installation_computes_correctly():
    assert doctor.miscompilation().ok
    assert all(c.ok for c in doctor.precision())
    assert "jax" in doctor.versions()
    assert jax.__version__ != "0.10.2"


def _runs(count: int):
    for i in range(count):
        yield i, xr.Dataset({"own": i})


def test_what_is_finished_beside_other_runs_is_kept_in_order_with_its_own_number():
    kept, told = [], []

    def finish(number, dataset, progress):
        progress("attribution", number, 7)
        kept.append((number, int(dataset.own), jnp.ones(()).dtype.name))

    _beside(_runs(7), finish, lambda *given: told.append(given), 64)
    assert kept == [(i, i, "float64") for i in range(7)] and told == [("attribution", i, 7) for i in range(7)]


def test_an_error_in_finishing_a_run_ends_all():
    seen = []

    def failing(number, dataset, progress):
        if number == 2:
            raise NumericalFailure("does not balance")
        seen.append(number)

    with pytest.raises(NumericalFailure, match="does not balance"):
        _beside(_runs(9), failing, silent, 32)
    assert seen == [0, 1]


def test_what_is_finished_is_kept_although_the_next_run_fails():
    first = threading.Event()

    def runs():
        yield from _runs(1)
        assert first.wait(10)
        raise NumericalFailure("the second does not balance")

    kept = []
    with pytest.raises(NumericalFailure, match="second"):
        _beside(runs(), lambda number, dataset, progress: (kept.append(number), first.set()), silent, 32)
    assert kept == [0]


def test_what_goes_on_beside_a_run_that_is_interrupted_ends_with_it():
    """The work beside asks for progress as the engine does between chunks of steps."""
    begun, ended = threading.Event(), threading.Event()

    def endless(number, dataset, progress):
        try:
            while True:
                begun.set()
                progress("attribution", 0, 1)
                time.sleep(0.001)
        finally:
            ended.set()

    def runs():
        yield from _runs(1)
        assert begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _beside(runs(), endless, silent, 32)
    assert ended.is_set()
