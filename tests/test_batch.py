"""Runs that go through one program together find what each would find by itself, and no more of them go together than memory allows."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import batches, load_plan, memory, metrics, opening, run, simulate_many
from stresslev.batches import Run
from stresslev.config.spec import RunSpec
from stresslev.engine import status
from stresslev.engine.batch import Rules, advance_batch, joined, part, run_batch
from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
from stresslev.engine.types import Channels
from stresslev.errors import InputError
from tests.systems import engine_case, random_case

ROOT = Path(__file__).parents[1]
ROUNDS = 3
POLICIES = {"lenient": 0.9, "strict": 1.3}
#: Most by which the model of memory may miss what XLA says, either way.
FACTOR = 1.6


def _runs(seed: int, count: int = 4, accounts: int = 8192) -> list[Run]:
    """Runs of one random thin system (a pool, an asset) that differ in everything in which they may."""
    rng, found = np.random.default_rng(seed), []
    case = engine_case(*random_case(4 * (seed // 4), accounts=accounts))
    for _ in range(count):
        system = dataclasses.replace(case.system, insurance_fund=case.system.insurance_fund * rng.uniform(0.2, 2))
        policy = dataclasses.replace(case.policy, maintenance_multiplier=case.policy.maintenance_multiplier * rng.uniform(0.7, 1.5))
        populations = tuple(dataclasses.replace(p, equity_at_reference=p.equity_at_reference * rng.uniform(0.8, 1.4)) for p in case.populations)
        state = initial_state(system, populations, policy=policy)
        path = dataclasses.replace(case.path, log_price=case.path.log_price * rng.uniform(0.3, 1.5))
        ways = jax.tree.map(lambda x: x * float(rng.integers(0, 2)), all_channels(np.float64))
        found.append(Run(state, Rules(system, policy, ways, path, jnp.int32(ROUNDS), residual_tolerance(state, system))))
    return found


def _alone(one: Run):
    r = one.rules
    return advance(jax.tree.map(jnp.copy, one.state), r.system, r.policy, r.channels, r.path, r.max_rounds, r.tolerance)


@pytest.fixture(scope="module")
def programs():
    """Of four runs: one after the other, and two by two."""
    arguments = batches.stack(_runs(0), 4)
    return {width: advance_batch.lower(*arguments, width=width).compile() for width in (1, 2)}


def _apart(mine, theirs) -> float:
    """Largest difference of any field but the residuals, of its largest value; whole numbers and bits must be equal."""
    worst = 0.0
    for (where, x), y in zip(jax.tree_util.tree_leaves_with_path(mine), jax.tree.leaves(theirs), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind != "f":
            assert (x == y).all(), where
        elif "residual" not in jax.tree_util.keystr(where):
            assert (np.isfinite(x) == np.isfinite(y)).all(), where
            fine = np.isfinite(y)
            worst = max(worst, float(np.abs(x[fine] - y[fine]).max(initial=0) / max(np.abs(y[fine]).max(initial=0), 1e-9)))
    return worst


@settings(max_examples=4)
@given(seed=st.integers(0, 2**31))
def test_runs_that_go_together_find_what_each_finds_by_itself(programs, seed):
    """Bit for bit one after the other, and to rounding side by side; every run has a state, rules, channels and a path of its own."""
    runs = _runs(seed)
    found = {width: program(*batches.stack(runs, 4)) for width, program in programs.items()}
    closed = set()
    for i, one in enumerate(runs):
        alone = _alone(one)
        assert _apart(batches.one_of(found[1], i), alone) == 0
        assert _apart(batches.one_of(found[2], i), alone) < 1e-12
        closed.add(float(alone[1].flows.closed_long_usd.sum()))
    assert len(closed) > 1  # they do differ


def test_a_run_that_breaks_spoils_no_other(programs):
    runs = _runs(8)
    whole = programs[2](*batches.stack(runs, 4))
    path = runs[2].rules.path
    broken = dataclasses.replace(path, log_price=path.log_price.at[3].set(jnp.nan))
    runs[2] = dataclasses.replace(runs[2], rules=dataclasses.replace(runs[2].rules, path=broken))
    after = programs[2](*batches.stack(runs, 4))
    assert [bool(int(x) & status.NONFINITE) for x in after[0].status] == [False, False, True, False]
    for i in (0, 1, 3):
        assert _apart(batches.one_of(after, i), batches.one_of(whole, i)) == 0


def test_rules_part_and_join_and_wrong_numbers_are_refused():
    one = _runs(4, 1)[0]
    own, shared = part(one.rules, batches.OWN)
    assert own.max_rounds is None and shared.policy.maintenance_multiplier is None
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, joined(own, shared), one.rules))
    with pytest.raises(ValueError, match="no multiple"):
        run_batch(*batches.stack([one], 3), width=2)
    open_ways = Channels(*(np.ones(5) for _ in range(4)))
    states, own, shared = batches.alike(one, open_ways)
    assert states.status.shape == (5,) and own.path.log_price is None and shared.channels.price is None


def test_runs_gather_by_structure_and_by_what_they_share_in_order():
    runs = [_runs(4, 1)[0], _runs(5, 1, accounts=4096)[0], _runs(8, 1)[0], _runs(12, 1)[0]]
    found = list(batches.gathered(enumerate(runs), run_of=lambda x: x[1], most=lambda x: 2, budget=2**30))
    assert [[number for number, _ in group] for group in found] == [[0, 2], [1], [3]]
    # what waits is let go when it takes up too much
    found = list(batches.gathered(enumerate(runs), run_of=lambda x: x[1], most=lambda x: 9, budget=1))
    assert [[number for number, _ in group] for group in found] == [[0], [1], [2], [3]]


def test_the_model_of_memory_is_near_what_the_compiler_says(programs):
    one = _runs(0, 1)[0]
    for width, program in programs.items():
        said = program.memory_analysis()
        # the states are donated, and all of their bytes are used again
        assert said.alias_size_in_bytes == batches.tree_bytes(one.state) * 4
        needed = said.argument_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes + said.temp_size_in_bytes
        model = memory.need(one).program(4, width)
        assert needed / FACTOR < model < needed * FACTOR, (width, needed, model)


def test_the_record_and_the_accounts_are_counted_to_the_byte():
    one = _runs(4, 1)[0]
    _, record = _alone(one)
    assert memory.record_bytes(one.rules.system) * one.steps == batches.tree_bytes(record)
    # equity and one coin in float64, an age, a bit in a byte, and of each block of eight its pool
    assert memory.account_bytes(one.state) == {"0 accounts": pytest.approx(8 * 2 + 4 + 1 + 4 / 8)}


def test_no_more_go_together_than_the_budget_holds_and_as_even_as_can_be():
    one = _runs(4, 1)[0]
    needed = memory.need(one)
    for runs in (1, 7, 70, 1000):
        for budget in (needed.total(1, 1), needed.total(9, 3), 2**40):
            choice = memory.choose(one, runs, memory.Limits(budget, budget, batch=500), width=64)
            assert choice.bytes <= budget and choice.batch % choice.width == 0
            assert 1 <= choice.width <= min(runs, 64) and choice.batch < runs + choice.width
    even = memory.choose(one, 70, memory.Limits(2**40, 2**40, batch=500), width=64)
    assert (even.batch, even.width) == (70, 35)
    with pytest.raises(InputError, match=r"one run needs about .* lower --accounts, use --population profile"):
        memory.choose(one, 1, memory.Limits(needed.total(1, 1) - 1, needed.total(1, 1) - 1))


def test_blocks_are_wide_where_it_pays():
    state = _runs(4, 1)[0].state
    assert memory.width_for(state, "cpu") == 1 and memory.width_for(state, "gpu") == memory.GPU_ACCOUNTS // 8192
    profile = dataclasses.replace(state, populations=())
    assert memory.width_for(profile, "cpu") == memory.PROFILE_WIDTH
    assert memory.limits(RunSpec(memory_gib=2)).budget == 2 * memory.GIB
    assert 0 < memory.limits(RunSpec()).budget < memory.limits(RunSpec()).most <= memory.free()


@pytest.fixture(scope="module")
def plans():
    """Two policies on two scenarios of one market that a profile can hold."""
    given = {"system": ROOT / "experiments/bench/systems/isolated_one_market.toml", "accounts": 2000, "precision": 64, "population": "profile"}
    plan = load_plan("gap_35_half_depth", **given, overrides=["scenario.duration_minutes=60"])
    milder = plan.scenarios[0].model_copy(update={"name": "milder", "shock_scale": 0.5})
    files = plan.files | {"scenario:milder": plan.files["scenario:gap_35_half_depth"]}
    plan = dataclasses.replace(plan, scenarios=(*plan.scenarios, milder), files=files)
    return [dataclasses.replace(plan, policy=plan.policy.model_copy(update={"name": n, "maintenance_multiplier": m})) for n, m in POLICIES.items()]


def _with(plan, **changes):
    return dataclasses.replace(plan, run=plan.run.model_copy(update=changes))


@pytest.fixture(scope="module")
def outcomes(plans):
    """By policy, one run after the other."""
    return run.run_plans([_with(p, batch="off") for p in plans])


def test_a_suite_gives_the_same_whether_its_runs_go_together_or_not(plans, outcomes):
    seen = []
    together = run.run_plans([_with(p, batch=4) for p in plans], lambda *x: seen.append(x))
    assert {stage for stage, *_ in seen} == {"book", "lenient: gap_35_half_depth and 1 more", "strict: gap_35_half_depth and 1 more"}
    for mine, alone in zip(together, outcomes, strict=True):
        assert list(mine.datasets) == list(alone.datasets) == ["gap_35_half_depth", "milder"]
        for name, ds in mine.datasets.items():
            assert ds.attrs["batch_runs"] == 2 and "batch_runs" not in alone.datasets[name].attrs
            for variable in ds.data_vars:
                x, y = ds[variable].values.astype(float), alone.datasets[name][variable].values.astype(float)
                if "residual" not in variable:
                    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(y[np.isfinite(y)]).max(initial=0), err_msg=variable)


def test_many_scenarios_and_policies_give_the_metrics_of_each_run_in_its_place(plans, outcomes):
    found = simulate_many(plans[0], policies={p.policy.name: p.policy for p in plans})
    assert found.sizes == {"scenario": 2, "policy": 2} and list(found.policy) == list(POLICIES) and (found.status & status.FAILURES == 0).all()
    names = set(found.data_vars) - {"status"}
    assert len(names) > 25 and found.bad_debt_usd.attrs["units"] == "USD"
    for outcome in outcomes:
        for scenario, values in outcome.metrics.items():
            one = found.sel(scenario=scenario, policy=outcome.plan.policy.name)
            for name in names & set(values) - {"conservation_residual"}:
                assert float(one[name]) == pytest.approx(values[name], rel=1e-9, abs=1e-9), (scenario, name)
            assert set(values) - names == {"total_residual", "latent_deficit_over_open_interest"}
    assert len({round(float(x), 6) for x in found.amplification.values.flat}) == 4  # they do differ


def test_one_program_serves_whatever_the_parameters(plans):
    simulate_many(plans[0], measures=["amplification"])
    compiled = advance_batch._cache_size()
    others = {str(m): plans[0].policy.model_copy(update={"maintenance_multiplier": m}) for m in (0.7, 1.1)}
    found = simulate_many(plans[0], policies=others, measures=["amplification"])
    assert advance_batch._cache_size() == compiled
    assert len({round(float(x), 6) for x in found.amplification.values.flat}) == 4


def test_steps_of_different_length_are_told_apart(plans, monkeypatch):
    """They share a program, and what happens within an hour is another number of steps."""
    seen, evaluate = [], metrics.evaluate_runs
    monkeypatch.setattr(metrics, "evaluate_runs", lambda ds, names: seen.append((float(ds.time[1]), ds.sizes["run"])) or evaluate(ds, names))
    shock = opening.shock_of(plans[0], plans[0].scenarios[0])
    shocks = {"minute": shock, "half": dataclasses.replace(shock, minutes=shock.minutes / 2)}
    found = simulate_many(plans[0], shocks=shocks, measures=["amplification"])
    assert sorted(seen) == [(0.5, 1), (1.0, 1)]
    assert len({round(x, 6) for x in found.amplification.values.flat}) == 2


def test_a_path_that_fails_has_a_status_and_the_others_their_values(plans):
    shock = opening.shock_of(plans[0], plans[0].scenarios[0])
    broken = shock.log_price.copy()
    broken[5] = np.nan
    shocks = {"good": shock, "broken": dataclasses.replace(shock, log_price=broken)}
    measures = ("bad_debt_usd", "margin_peak_to_trough")
    found = simulate_many(plans[0], shocks=shocks, measures=measures)
    assert set(found.data_vars) == {*measures, "status"} and list(found.scenario) == ["good", "broken"]
    assert status.failed(found.status.sel(scenario="broken").item()) and not status.failed(found.status.sel(scenario="good").item())
    assert np.isnan(found.bad_debt_usd.sel(scenario="broken")) and found.bad_debt_usd.sel(scenario="good") > 0
    typo = plans[0].policy.model_copy(update={"pools": {"mid_venu": {"BTC": 1.2}}})
    with pytest.raises(InputError, match=r"is no pool of the system.*mid_venue"):
        simulate_many(plans[0], policies={"typo": typo})
    for wrong in ("bad_debt", "unnecessary_liquidation_share"):
        with pytest.raises(InputError, match=r"is no metric|needs single accounts"):
            simulate_many(plans[0], measures=[wrong])


def test_what_cannot_fit_is_refused_before_a_book_is_sampled(plans, monkeypatch):
    monkeypatch.setattr(run, "load_book", lambda *x: pytest.fail("sampled"))
    larger = plans[0].system.model_copy(update={"book": plans[0].system.book.model_copy(update={"accounts": 10**9})})
    with pytest.raises(InputError, match=r"one run needs about .* GiB, and 1 GiB are allowed"):
        run.run_plan(_with(dataclasses.replace(plans[0], system=larger), memory_gib=1.0))


@pytest.mark.parametrize("wrong", ["some", 0, -1, 1.5])
def test_how_many_go_together_is_auto_off_or_a_number(wrong):
    with pytest.raises(InputError, match=r"run\.batch"):
        load_plan("gap_35_half_depth", batch=wrong)
    assert load_plan("gap_35_half_depth", batch=16).run.batch == 16
