"""Generated scenarios run: the same paths whatever the policy and the book, limits and intervals, when to stop, rare insolvency."""

import dataclasses
import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest

from stresslev import load_plan, monte_carlo, report, results, run
from stresslev.cli import main
from stresslev.errors import InputError
from stresslev.opening import shock_of
from stresslev.provenance import plan_of_result
from tests.conftest import ROOT
from tests.fake_exchange import bars, install

SYSTEM = ROOT / "experiments/bench/systems/isolated_one_market.toml"
#: An hour of jumps.
GENERATOR = """
kind = "generator"
name = "hour"
title = "An hour of jumps"
severity = "severe"
duration_minutes = 60
paths = 24
seed = 3

[model]
kind = "jump_diffusion"
jumps_per_day = 24

[assets.BTC]
start_price_usd = 100000
volatility = 1.0
jump_mean = -0.05
jump_volatility = 0.05

[statistics]
levels = [0.75]

[[statistics.events]]
metric = "insolvent_pools"
above = 0
"""
GIVEN = {"system": SYSTEM, "accounts": 2000, "precision": 64, "population": "profile"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "hour.toml"
    path.write_text(GENERATOR)
    return path


@pytest.fixture(scope="module")
def outcomes(file):
    """Two policies on 24 paths: what there is of the same paths by itself besides."""
    plan = load_plan(file, **GIVEN, overrides=["limits.bad_debt_over_open_interest.max=1e-4"])
    policies = {"lenient": 1.0, "strict": 1.5}
    plans = [dataclasses.replace(plan, policy=plan.policy.model_copy(update={"name": n, "maintenance_multiplier": m})) for n, m in policies.items()]
    return run.run_plans(plans)


def test_a_generator_is_as_many_scenarios(file):
    plan = load_plan(file, **GIVEN)
    assert len(plan.scenarios) == 24 and plan.scenarios[4].name == "hour-0005" and plan.given == ()
    proxies = [f"generator.proxies.{a}={{asset='BTC', start_price_usd=9.0}}" for a in ("ETH", "SOL", "SUI")]
    other = load_plan(file, system="systems/three_perp_venues.toml", overrides=proxies)
    one, same = (shock_of(p, p.scenarios[4]) for p in (plan, other))
    np.testing.assert_array_equal(one.log_price[:, 0], same.log_price[:, 0])  # whatever the system, its book and its assets
    with pytest.raises(InputError, match=r"assets\.ETH: is missing: system three_perp_venues holds ETH"):
        load_plan(file)


def test_policies_meet_the_same_paths_and_the_worst_is_shown(outcomes):
    samples = [o.samples["hour"] for o in outcomes]
    assert [s.runs.sizes["path"] for s in samples] == [24, 24] and samples[0].shown == samples[1].shown
    debts = monte_carlo.values(samples[0].runs, "bad_debt_over_open_interest")
    assert samples[0].shown == (int(debts.argmax()) + 1,) and (debts > 0).any() and (debts == 0).any()
    for outcome, sample in zip(outcomes, samples, strict=True):
        [(name, values)] = outcome.metrics.items()
        assert name == f"hour-{sample.shown[0]:04d}"
        mine = sample.runs.sel(path=sample.shown[0])
        assert values["bad_debt_usd"] == pytest.approx(float(mine.bad_debt_usd), rel=1e-9)
        assert outcome.findings == () and len(sample.findings) == 1  # a path that is shown is not judged once more
    name = "liquidated_notional_share"
    change, (first, second) = samples[1].differences[name], (monte_carlo.values(s.runs, name) for s in samples)
    assert change.value == pytest.approx((second - first).mean()) and 0 < change.low < change.value and samples[0].differences == {}
    alone = monte_carlo.statistic(second, name, "mean", 0.75, 0.95)
    assert change.half_width < 0.6 * alone.half_width  # what common random numbers are for


def test_results_say_what_they_rest_on_and_can_be_run_again(outcomes, tmp_path):
    outcome = outcomes[0]
    run.save(outcome, tmp_path)
    said = json.loads((tmp_path / "summary.json").read_text())
    assert said["verdict"] == "breached" and outcome.breached
    mine = said["generated"]["hour"]
    debts = monte_carlo.values(outcome.samples["hour"].runs, "bad_debt_over_open_interest")
    row = mine["metrics"]["bad_debt_over_open_interest"]
    assert row["mean"]["value"] == pytest.approx(debts.mean()) and row["mean"]["low"] < debts.mean() < row["mean"]["high"]
    assert row["quantile"]["0.75"]["value"] == np.sort(debts)[17] and mine["limits"][0]["value"] == np.sort(debts)[17]
    breach, insolvent = mine["probabilities"]
    assert breach["is_limit"] and breach["value"] == pytest.approx((debts > 1e-4).mean()) and breach["low"] < breach["value"] < breach["high"]
    assert insolvent["metric"] == "insolvent_pools" and insolvent["paths"] > 0
    spread = mine["histogram"]
    assert [b["value"] for b in spread["beyond"]] == pytest.approx([(debts > edge).mean() for edge in spread["edges"]])
    assert all(b["low"] <= b["value"] <= b["high"] for b in spread["beyond"]) and spread["beyond"][0]["low"] > spread["beyond"][-1]["value"] == 0
    stored, _ = results.read_netcdf(tmp_path / "paths.nc")
    np.testing.assert_array_equal(stored["hour"].bad_debt_over_open_interest, debts)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in (
        "Generated scenarios",
        "An hour of jumps: path",
        "Clopper and Pearson",
        "How likely it gets worse",
        "Limits breached: 1 of 1 check, in 1 of 1 scenario",
    ):
        assert words in page, words
    plan = plan_of_result(tmp_path)
    assert plan.generators == outcome.plan.generators and [s.name for s in plan.scenarios] == [s.name for s in outcome.plan.scenarios]


@pytest.fixture(scope="module")
def rare(file):
    """The same with a fund that hardly any path uses up, 48 paths at a time: as the model says, and drawn towards the falls."""
    given = ["system.pools.mid_venue.insurance_fund_usd=2e8", "generator.paths=48", "generator.model.jumps_per_day=12"]
    until = ["generator.until.metric=bad_debt_usd", "generator.until.half_width=1.0", "generator.until.most_paths=96"]
    tilt = ["generator.importance.jump_intensity_factor=3.0", "generator.importance.jump_shift=-0.5"]
    return [run.run_plan(load_plan(file, **GIVEN, overrides=[*given, *until, *more])).samples["hour"] for more in ([], tilt)]


def test_importance_sampling_agrees_with_brute_force_on_insolvency(rare):
    plain, tilted = (monte_carlo.describe(s, {})["probabilities"][0] for s in rare)
    assert 0 < plain["value"] < 0.2 and max(plain["low"], tilted["low"]) <= min(plain["high"], tilted["high"])
    assert tilted["paths"] > 2 * plain["paths"]
    assert tilted["high"] - tilted["low"] < 0.9 * (plain["high"] - plain["low"])
    said = monte_carlo.describe(rare[1], {})["importance"]
    assert said["largest_weight"] <= 10 and 15 < said["effective_paths"] < 96
    assert "at the most, 96 paths" in rare[0].stopped


def test_it_stops_when_the_interval_is_narrow_enough(file):
    wanted = ["generator.paths=48", "generator.until={metric='amplification', half_width=0.5, relative=true, most_paths=480}"]
    sample = run.run_plan(load_plan(file, **GIVEN, overrides=wanted)).samples["hour"]
    assert sample.runs.sizes["path"] == 48 and "after 48 paths the half width of the interval" in sample.stopped


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("generator.statistics.shown_by=bad_dept_usd", ["statistics.shown_by", "bad_debt_usd"]),
        ("generator.until={metric='survivors', half_width=1.0}", ["until.metric", "is no metric"]),
        ("generator.importance={jump_shift='a'}", ["importance.jump_shift"]),
        ("generator.paths=0", ["paths"]),
    ],
)
def test_wrong_questions_are_refused_before_anything_runs(file, override, parts):
    with pytest.raises(InputError) as caught:
        run.run_plan(load_plan(file, **GIVEN, overrides=[override]))
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_a_suite_may_name_generators_beside_scenarios(file, tmp_path):
    suite = f'kind = "suite"\nname = "both"\nsystem = "{SYSTEM}"\nscenarios = ["gap_35_half_depth.toml", "{file}"]\n'
    (tmp_path / "suite.toml").write_text(suite)
    plan = load_plan(tmp_path / "suite.toml")
    assert [s.name for s in plan.given] == ["gap_35_half_depth"] and len(plan.scenarios) == 25 and [g.name for g in plan.generators] == ["hour"]
    (tmp_path / "suite.toml").write_text(suite.replace(f'"{file}"', f'"{file}", "{file}"'))
    with pytest.raises(InputError, match=r"hour.*appears twice"):
        load_plan(tmp_path / "suite.toml")


#: What is added to the page's runs so that they take the programs of this module.
_SMALL = ("--precision", "64", "--population", "profile", "--accounts", "2000")
_SHAPE = ("--set", "generator.duration_minutes=60", "--set", "generator.step_minutes=1", "--set", "generator.paths=48")


def test_every_command_of_the_page_runs_in_its_order(tmp_path, monkeypatch):
    exchange = install(monkeypatch)
    monkeypatch.setattr(report, "write", lambda *_: None)  # of which there are tests enough
    monkeypatch.setattr(exchange, "bars", bars(3000))
    monkeypatch.setattr(exchange, "page", 1000)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "generated.md").read_text(encoding="utf-8")
    shutil.copy(SYSTEM, "my_system.toml")
    [example] = re.findall(r"```toml\n(.*?)```", text, flags=re.S)
    (tmp_path / "jumps.toml").write_text(example)
    lines = [line for block in re.findall(r"```console\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    assert len(lines) > 12
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "stresslev"
        if arguments[0] == "run":
            at = arguments.index("--accounts")
            arguments = [*arguments[:at], *arguments[at + 2 :], *_SMALL, *_SHAPE, "--out", "results"]
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in ((0, 1) if "limits." in line else (0,)), line
    assert {"prices.csv", "btc.toml", "paths.nc", "path_17.toml", "tiers.toml", "hawkes.toml", "blocks.toml", "filtered.toml"} <= set(os.listdir())
    assert load_plan("path_17.toml", system="my_system.toml").scenarios[0].name == "btc-0017"
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    exec(code)


def test_a_gate_and_a_comparison_hold_the_statistic_against_limits(outcomes, tmp_path, capsys):
    """The worst path alone is a scenario in the results, and its limits are those of the generator: a run that breaches them must not pass."""

    def code(*arguments) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return ended.value.code or 0

    lenient, strict = outcomes
    for name, outcome in (("a", lenient), ("b", strict)):
        (tmp_path / name).mkdir()
        run.save(outcome, tmp_path / name)
    said = lenient.described["hour"]
    value = said["metrics"]["bad_debt_over_open_interest"]["quantile"]["0.75"]["value"]
    assert lenient.breached == (value > 1e-4)
    assert code("gate", tmp_path / "a", "--baseline", tmp_path / "a") == int(lenient.breached)
    shutil.copy(tmp_path / "a" / "summary.json", tmp_path / "summary.json")
    assert code("gate", tmp_path / "summary.json", "--baseline", tmp_path / "a") == int(lenient.breached)
    capsys.readouterr()
    assert code("compare", tmp_path / "a", tmp_path / "b", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["scenario"] for c in found["changes"]} == {"hour"} and [c["a"] for c in found["limits"]] == [lenient.breached]
    assert code("show", tmp_path / "a") == int(lenient.breached)
    assert "An hour of jumps: 24 paths" in capsys.readouterr().out


def test_a_run_shown_from_a_store_ends_as_it_did(file, tmp_path, capsys):
    """What is not computed again has the exit code that its generated paths gave it."""
    limit = ["--set", "limits.bad_debt_over_open_interest.max=1e-4", "--set", "generator.paths=4"]
    given = ["--system", str(SYSTEM), "--accounts", "2000", "--precision", "64", "--population", "profile"]
    codes = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["run", str(file), *given, *limit, "--store", str(tmp_path / "runs")])
        codes.append(ended.value.code)
    assert codes == [1, 1]
    assert len([x for x in (tmp_path / "runs").iterdir() if not x.name.startswith(".")]) == 1
