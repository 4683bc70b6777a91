"""Tuning: parameters of a policy file, constraints, the search and its checkpoint, on problems with known answers."""

import json
import sys
import tomllib
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from stresslev import cli
from stresslev.config.experiment import OptimizerSpec, PenaltySpec
from stresslev.config.load import load_plan, load_policy, load_system
from stresslev.config.policy import PolicySpec
from stresslev.errors import InputError
from stresslev.metrics import METRICS
from stresslev.objectives import OBJECTIVES
from stresslev.parameters import Parameter, toml_of, value_at, with_values
from stresslev.tuning.bandwidth import LEAST, MOST, band, effective
from stresslev.tuning.check import check_gradients
from stresslev.tuning.goal import Bound, Goal, measure_of
from stresslev.tuning.lagrangian import Lagrangian
from stresslev.tuning.measures import Measure
from stresslev.tuning.results import EXPERIMENT_FILES
from stresslev.tuning.rivals import RIVALS
from stresslev.tuning.search import Search
from tests.conftest import ROOT

POLICIES = ("all_rules", "fixed", "real_tiers", "volatility")
PARAMETERS = (Parameter("maintenance_multiplier", 0.5, 4.0, "log"), Parameter("caps.floor", 1.0, 9.0))
POLICY = PolicySpec.model_validate({"kind": "policy", "maintenance_multiplier": 1.0, "caps": {"floor": 3.0}})


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_parameter_stays_between_its_bounds_and_comes_back(scale):
    p = Parameter("x", 0.5, 8.0, scale)
    free = np.linspace(-30, 30, 101)
    values = p.value(free)
    assert (values >= 0.5).all() and (values <= 8).all() and (np.diff(values) >= 0).all()
    assert float(p.value(p.free(2.0))) == pytest.approx(2.0, rel=1e-12)
    at, by = np.array([-1.0, 0.3]), 1e-6
    np.testing.assert_allclose(p.slope(at), (p.value(at + by) - p.value(at - by)) / (2 * by), rtol=1e-8)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_written_and_read_is_the_same(name, tmp_path):
    system = load_system("systems/venues_and_lenders.toml")
    policy = load_policy(name, system)
    (tmp_path / "p.toml").write_text(toml_of(policy), encoding="utf-8")
    assert load_policy(tmp_path / "p.toml", system) == policy
    assert tomllib.loads(toml_of(policy))["kind"] == "policy"


def test_numbers_of_a_policy_are_found_by_their_path():
    policy = load_policy("all_rules", load_system("systems/venues_and_lenders.toml"))
    assert value_at(policy, "rules.volatility.gamma") == 0.7 == value_at(policy, "rules.0.gamma")
    assert value_at(with_values(policy, {"rules.gauge.slope": 0.25}), "rules.gauge.slope") == 0.25
    for path, part in (("rules.volatility.gama", "gamma"), ("rules.7.gamma", "rule"), ("caps.base", "not given"), ("name", "no number")):
        with pytest.raises(InputError, match=part):
            value_at(policy, path)
    with pytest.raises(InputError, match="bounds that the policy allows"):
        with_values(policy, {"caps.floor": -1.0})


@pytest.mark.parametrize(
    ("how", "level", "expected"), [("mean", 0, 2.5), ("worst", 0, 4), ("expected_shortfall", 0.5, 3.5), ("expected_shortfall", 0.625, 11 / 3)]
)
def test_measures_over_scenarios(how, level, expected):
    values = np.array([2.0, 4.0, 1.0, 3.0])
    measure = Measure(how, level)
    assert measure.of(values) == pytest.approx(expected)
    by = 1e-6
    slopes = [(measure.of(values + by * e) - measure.of(values - by * e)) / (2 * by) for e in np.eye(4)]
    np.testing.assert_allclose(measure.weights(values), slopes, atol=1e-9)
    assert Measure(how, level, high_is_bad=False).of(-values) == pytest.approx(-expected)
    assert np.isfinite(measure.of(np.array([1.0, np.nan])))


def test_the_band_narrows_with_the_accounts_that_count():
    assert effective(np.ones(100)) == 100 and effective(np.array([1.0, 0, 0])) == 1
    assert band(np.ones(10**5)) == pytest.approx(0.05)
    assert MOST == band(np.ones(10)) > band(np.ones(2 * 10**5)) > band(np.ones(10**6)) >= LEAST


class Convex:
    """A study of two scenarios with figures f = (a - 1)^2 + (b - 2)^2 + noise and g = a + b, known in full."""

    parameters = PARAMETERS
    width = 0.1

    def __init__(self, broken: str | None = None):
        self.broken, self.asked = broken, 0

    @staticmethod
    def _at(policy):
        return np.array([value_at(policy, p.path) for p in PARAMETERS])

    def hard(self, policies, scenarios=None, progress=None):
        rows = []
        for i, name in enumerate(scenarios):
            at = [self._at(p) for p in policies.values()]
            f = [np.nan if name == self.broken else (a - 1) ** 2 + (b - 2) ** 2 + 0.1 * i for a, b in at]
            rows.append((f, [a + b for a, b in at]))
        data = {n: (("scenario", "policy"), np.array([r[k] for r in rows])) for k, n in enumerate(("bad_debt_usd", "mean_allowed_leverage"))}
        return xr.Dataset(data, coords={"scenario": list(scenarios), "policy": list(policies)})

    def gradient(self, policy, scenario, weights):
        self.asked += 1
        a, b = self._at(policy)
        slopes = weights[0] * np.array([2 * (a - 1), 2 * (b - 2)]) + weights[1] * np.ones(2)
        return SimpleNamespace(slopes=slopes * (np.nan if scenario == self.broken else 1))


def _search(study, *, bound=None, steps=200, **more) -> Search:
    bounds = () if bound is None else (Bound("mean_allowed_leverage", measure_of("mean_allowed_leverage", "mean", 0), bound, 1.0),)
    goal = Goal(("bad_debt_usd", "mean_allowed_leverage"), measure_of("bad_debt_usd", "mean", 0), bounds)
    spec = OptimizerSpec(learning_rate=0.1, steps=steps, schedule="cosine_decay_schedule", patience=1000, **more)
    return Search(study, goal, POLICY, ("one", "two"), spec, PenaltySpec(tolerance=1e-3, growth=1.0, every=20), 7, "test")


def _run(search, state=None, steps=None):
    state = search.start() if state is None else state
    for _ in range(steps or search.spec.steps):
        state = search.step(state)
    return state


def test_without_constraints_the_minimum_is_found():
    state = _run(_search(Convex()))
    np.testing.assert_allclose(state.best[-1].values, [1.0, 2.0], atol=2e-2)


def test_the_constraint_holds_at_the_optimum_of_a_convex_problem():
    """Least (a - 1)^2 + (b - 2)^2 with a + b >= 5: at (2, 3), with a multiplier of 2."""
    state = _run(_search(Convex(), bound=5.0, steps=400))
    best = state.best[-1]
    assert best.score.feasible(1e-3) and best.score.objective == pytest.approx(2.05, rel=0.02)
    np.testing.assert_allclose(best.values, [2.0, 3.0], atol=0.06)
    # the violation is measured by the bound, so the multiplier is 2 times 5
    assert state.lagrangians[0].multipliers[0] == pytest.approx(10, rel=0.15)


def test_a_search_taken_up_again_goes_on_bit_for_bit():
    search = _search(Convex(), bound=5.0, steps=20, restarts=2, minibatch=1)
    whole = _run(search)
    half = search.from_bytes(search.to_bytes(_run(search, steps=9)))
    rest = _run(search, half, 11)
    assert (rest.free == whole.free).all() and rest.lagrangians[1].multipliers.tobytes() == whole.lagrangians[1].multipliers.tobytes()
    assert json.dumps(rest.history) == json.dumps(whole.history)
    assert [f.values.tobytes() for f in rest.best] == [f.values.tobytes() for f in whole.best]


def test_a_scenario_that_fails_does_not_spoil_the_others():
    state = _run(_search(Convex("two")))
    np.testing.assert_allclose(state.best[-1].values, [1.0, 2.0], atol=2e-2)
    assert all(h["lost"] == 1 and np.isfinite(h["objective"]) for h in state.history)


def test_nothing_finite_ends_the_search():
    search = _search(Convex("one"), steps=30)
    search.scenarios = ("one",)
    state = _run(search, steps=3)
    assert not state.best and all(h["gradient_norm"] == 0 for h in state.history)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_find_it_too_and_keep_the_constraint(name):
    search = _search(Convex(), bound=5.0)
    best = RIVALS[name](search, 400, 3, lambda done, found: None)[-1]
    assert best.score.feasible(1e-3) and best.score.objective < (2.1 if name == "cma" else 2.6)


def test_multipliers_grow_only_where_needed():
    lagrangian = Lagrangian.start(2, 10.0)
    assert lagrangian.weights(np.array([-1.0, 0.5])).tolist() == [0, 5]
    after = lagrangian.updated(np.array([-1.0, 0.5]), 2.0)
    assert after.multipliers.tolist() == [0, 5] and after.penalty == 10 and after.violation == 0.5
    assert after.updated(np.array([-1.0, 0.45]), 2.0).penalty == 20


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ('train = ["nowhere"]', ["train", "nowhere", "no scenario"]),
        ('parameters = { "caps.flor" = [1, 2] }', ["caps.flor", "floor"]),
        ('parameters = { "caps.floor" = [3, 4] }', ["caps.floor", "outside the bounds"]),
        ('optimizer = { name = "adamm" }', ["optimizer.name", "adamm"]),
        ('objective = { metric = "liquidated_accounts_share" }', ["liquidated_accounts_share", "no derivative"]),
    ],
)
def test_a_bad_experiment_is_refused_by_key(tmp_path, capsys, change, parts):
    lines = {
        "suite": 'suite = "gap_35_half_depth.toml"',
        "policy": 'policy = "policies/volatility.toml"',
        "train": 'train = ["gap_35_half_depth"]',
        "parameters": 'parameters = { "maintenance_multiplier" = [0.5, 2] }',
    }
    lines[change.split(" ")[0]] = change
    (tmp_path / "e.toml").write_text('kind = "experiment"\nname = "e"\naccounts = 500\n' + "\n".join(lines.values()), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", str(tmp_path / "e.toml"), "--out", str(tmp_path / "r")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and all(p in said for p in parts), said
    assert [p.name for p in tmp_path.iterdir()] == ["e.toml"]


SYSTEM = "experiments/bench/systems/isolated_one_market.toml"


@pytest.fixture(scope="module")
def own_loop():
    """The researcher's script, whose rule, metric and figures all of the following uses, so that one program is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        module = import_module("own_loop")
        yield module
    del METRICS["final_fall"], OBJECTIVES["final_fall"], sys.modules["own_loop"]


@pytest.fixture(scope="module")
def tuned(own_loop, tmp_path_factory):
    """Folder of a small experiment."""
    place = tmp_path_factory.mktemp("tuned")
    (place / "retreat.toml").write_text(toml_of(PolicySpec.model_validate(own_loop.POLICY)), encoding="utf-8")
    text = f"""
kind = "experiment"
name = "small"
suite = "{ROOT / "experiments/tuning/history_suite.toml"}"
policy = "retreat.toml"
accounts = 2000
precision = 64
stepping = "all"
objective = {{ metric = "final_fall" }}
constraints = [{{ metric = "bad_debt_over_open_interest", at_most = "reference" }}]
train = ["gap_35_half_depth"]
held_out = ["squeeze_54_half_depth"]
parameters = {{ "maintenance_multiplier" = {{ low = 0.7, high = 1.6 }}, "rules.own.parameters.strength" = {{ low = 0.1, high = 5, scale = "log" }} }}
optimizer = {{ steps = 3, learning_rate = 0.5 }}
judgement = {{ books = 2, references = [], rivals = ["random"] }}
"""
    (place / "small.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", str(place / "small.toml"), "--out", str(place / "r")])
    assert stop.value.code in (0, 1)
    return place


def test_an_experiment_writes_what_it_found(tuned):
    assert {p.name for p in tuned.iterdir()} == {"small.toml", "retreat.toml", "r"}
    assert {p.name for p in (tuned / "r").iterdir()} == EXPERIMENT_FILES
    data = json.loads((tuned / "r" / "experiment.json").read_text())
    history = [h["objective"] for h in data["history"]]
    assert len(history) == 3 and min(history[1:]) < history[0] and all(h["gradient_norm"] > 0 for h in data["history"])
    assert len(data["raced"]) == 1 and str(data["rivals"]["random"]["runs"]) in data["raced"][0]
    # a fall of more liquidates no less, whatever the policy
    assert data["map"]["scenario"] == "squeeze_54_half_depth" and list(data["map"]["usd"]) == ["untuned", "tuned"]
    for rows in data["map"]["usd"].values():
        falls = [usd for move, usd in zip(data["map"]["moves"], rows[0], strict=True) if move < 0]
        assert falls[0] > 0 and falls == sorted(falls, reverse=True)
    policy = load_policy(tuned / "r" / "policy.toml", load_system(ROOT / SYSTEM))
    assert policy.maintenance_multiplier == pytest.approx(data["parameters"][0]["tuned"])
    assert data["headline"] in (tuned / "r" / "report.html").read_text()
    groups = {(v["policy"], v["group"]) for v in data["verdicts"]}
    assert groups == {(p, g) for p in ("untuned", "tuned", "random") for g in ("train", "held_out")}


@pytest.mark.slow
def test_the_estimator_agrees_with_differences_of_the_hard_rules(tuned, own_loop):
    """With the program that the experiment has compiled; 2,000 accounts make differences rough, which is what the error bars say."""
    plan = load_plan("gap_35_half_depth", system=ROOT / SYSTEM, policy=tuned / "retreat.toml", accounts=2000, precision=64)
    _, found = check_gradients(plan, ["maintenance_multiplier"], list(own_loop.NAMES), step=0.1, books=4, stepping="all")
    assert found.differences[0] < 0 and found.estimates[0, 0] < 0
    assert abs(found.estimates[0, 0] - found.differences[0]) < max(3 * found.errors[0], 0.2 * abs(found.differences[0]))
    assert found.smoothed[0] == pytest.approx(found.value, rel=0.05)


@pytest.mark.slow
def test_the_researchers_loop_finds_less_of_what_it_looks_for(own_loop):
    path = own_loop.search(2000, 3, precision=64)
    loss = [own_loop.WEIGHTS @ found for _, found, _ in path]
    assert loss[2] < loss[0] and all(np.isfinite(slopes).all() and slopes.any() for _, _, slopes in path)


def test_there_must_be_a_checkpoint_to_resume_from(tuned, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", str(tuned / "small.toml"), "--out", str(tuned / "new"), "--resume"])
    assert stop.value.code == 2 and "no checkpoint" in capsys.readouterr().err
    assert not (tuned / "new").exists()
