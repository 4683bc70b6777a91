"""`stresslev score` as a user meets it: a small calibration from end to end, exit codes, and nothing half-written."""

import json
import math
import tomllib

import jax
import numpy as np
import pytest

from stresslev import calibration, cli
from stresslev.config.load import load_plan
from stresslev.engine.leverage.score import FEATURES, SIGNS
from stresslev.errors import InputError
from stresslev.opening import at_start, load_book, shock_of
from stresslev.simulation import simulate_scenario

SUITE = """
kind = "suite"
name = "two_falls"
title = "A deep fall <and> a shallow one"
system = "systems/three_perp_venues.toml"
scenarios = ["deep.toml", "shallow.toml"]
"""
SCENARIO = """
kind = "scenario"
name = "{name}"
title = "{name}"
origin = "hypothetical"
severity = "severe"
description = "A fall within the hour."
duration_minutes = 60
"""
PATH = """
[paths.{asset}]
source = "assumption"
minutes = [0, 60]
prices = [100.0, {end}]
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "suite.toml").write_text(SUITE)
    for name, end in (("deep", 75.0), ("shallow", 90.0), ("nothing", 100.0)):
        paths = "".join(PATH.format(asset=a, end=end) for a in ("BTC", "ETH", "SOL", "SUI"))
        (folder / f"{name}.toml").write_text(SCENARIO.format(name=name) + paths)
    return folder / "suite.toml"


def _call(*arguments, code=0):
    """Run in this process; returns nothing, asserts the exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    assert stop.value.code == code


@pytest.fixture(scope="module")
def result(suite, tmp_path_factory):
    """Folder of a calibration on a suite of two falls, 1,500 accounts."""
    out = tmp_path_factory.mktemp("result") / "score"
    _call("score", suite, "--accounts", "1500", "--seed", "4", "--floor", "0.3", "--out", out)
    return out


def _plan(suite, **run):
    return load_plan(suite, **{"accounts": 1500, "seed": 4} | run)


def _observed(plan):
    seen = []
    shocks = {s.name: shock_of(plan, s) for s in plan.scenarios}
    book = load_book(plan, shocks[plan.scenarios[0].name])
    with jax.enable_x64(plan.run.precision == 64):
        for s in plan.scenarios:
            seen.append(calibration.observe(plan, s, shocks[s.name], at_start(plan, book, shocks[s.name])))
    return seen, book


def test_it_writes_three_files_and_nothing_else(result):
    assert sorted(p.name for p in result.iterdir()) == ["score.html", "score.json", "score.toml"]
    assert [p.name for p in result.parent.iterdir()] == ["score"]


def test_the_table_is_a_score_of_the_right_signs(result):
    score = tomllib.loads((result / "score.toml").read_text())["score"]
    assert set(score) == {"weights", "mean", "scale", "intercept", "steepness", "midpoint", "floor", "correlation"}
    assert score["floor"] == 0.3 and score["steepness"] == 1 and score["midpoint"] == 0
    for key in ("weights", "mean", "scale"):
        assert tuple(score[key]) == FEATURES
    assert all(sign * score["weights"][f] >= 0 for f, sign in zip(FEATURES, SIGNS, strict=True))
    assert score["weights"]["leverage"] > 0 and all(v > 0 for v in score["scale"].values())


def test_it_tells_accounts_apart_that_it_has_not_seen(result):
    figures = json.loads((result / "score.json").read_text())
    assert list(figures["scenarios"]) == ["deep", "shallow"]
    for s in figures["scenarios"].values():
        assert set(s["auc"]) == {"fitted", "held_out", "left_out"}
        for area in s["auc"].values():
            assert 0.8 < area["low"] <= area["value"] <= area["high"] <= 1
        alone = [a["value"] for a in s["auc_of_features_alone"].values()]
        assert s["auc"]["held_out"]["value"] > max(alone)
    assert figures["brier"]["held_out"]["score"] < 0.6 * figures["brier"]["held_out"]["reference"]
    # a fit on the deep fall alone expects too many liquidations in the shallow one, and the reverse: ranks carry over, levels do not
    assert figures["brier"]["left_out"]["score"] > 1.2 * figures["brier"]["held_out"]["score"]
    assert sum(b["count"] for b in figures["reliability"]["held_out"]) == sum(s["accounts"] for s in figures["scenarios"].values())
    assert figures["provenance"]["seed"] == 4


def test_the_page_needs_nothing_else_and_lets_no_text_become_markup(result):
    html = (result / "score.html").read_text()
    assert html.count('class="plot"') == 2 and "Plotly" in html
    assert "A deep fall &lt;and&gt; a shallow one" in html and "<and>" not in html
    head = html.split("<script", 1)[0]
    assert "default-src 'none'" in head.replace("&#x27;", "'") and "http://" not in head and "https://" not in head


def test_the_values_in_the_table_give_the_probabilities_that_were_judged(suite, result):
    """By hand from score.toml and the features: the in-sample probabilities have the observed mean, the base rate of the training half."""
    score = tomllib.loads((result / "score.toml").read_text())["score"]
    seen, book = _observed(_plan(suite))
    inside = calibration._half(len(book), 4)
    total = hits = count = 0.0
    for s in seen:
        for row in np.flatnonzero(inside[s.rows]):
            log_odds = score["intercept"]
            for j, f in enumerate(FEATURES):
                log_odds += score["weights"][f] * (s.features[row, j] - score["mean"][f]) / score["scale"][f]
            total += 1 / (1 + math.exp(-log_odds))
            hits += s.liquidated[row]
            count += 1
    assert total / count == pytest.approx(hits / count, abs=1e-6)
    fit = json.loads((result / "score.json").read_text())["fit"]
    assert fit["outcomes"] == count and fit["liquidated_share"] == pytest.approx(hits / count)


def test_the_labels_are_the_accounts_that_the_run_liquidates(suite):
    plan = _plan(suite)
    seen, book = _observed(plan)
    for s, scenario in zip(seen, plan.scenarios, strict=True):
        shock = shock_of(plan, scenario)
        with jax.enable_x64(plan.run.precision == 64):
            data = simulate_scenario(plan, scenario, shock, at_start(plan, book, shock))
        assert int(s.liquidated.sum()) == int(data.newly_liquidated.sum())
        assert len(np.unique(s.rows)) == len(s.rows) == len(s.features)
    assert seen[0].liquidated.sum() > seen[1].liquidated.sum() > 0


def test_half_of_the_accounts_are_fitted_on():
    inside = calibration._half(1001, 7)
    assert inside.sum() == 500 and (inside == calibration._half(1001, 7)).all() and (inside != calibration._half(1001, 8)).any()


def test_a_left_out_scenario_is_judged_by_a_fit_that_has_not_seen_it(suite):
    """Turning the labels of one scenario round changes what is said of the other's accounts, and not what is said of its own."""
    seen, book = _observed(_plan(suite))
    inside = calibration._half(len(book), 4)
    before = calibration.judge(seen, inside, calibration.Response(), "f").judged["left_out"]
    turned = [seen[0], calibration.dataclasses.replace(seen[1], liquidated=~seen[1].liquidated)]
    after = calibration.judge(turned, inside, calibration.Response(), "f").judged["left_out"]
    assert (before[1].probability == after[1].probability).all()
    assert np.abs(before[0].probability - after[0].probability).max() > 0.1


def test_a_feature_left_out_has_no_weight_and_the_others_make_up_for_it(suite):
    seen, book = _observed(_plan(suite))
    inside = calibration._half(len(book), 4)
    whole, blind = (calibration.judge(seen, inside, calibration.Response(), "f", w) for w in ((), ("crowding",)))
    weights = [calibration.table(c)["weights"] for c in (whole, blind)]
    assert weights[0]["crowding"] > 0 and weights[1]["crowding"] == 0 and weights[1]["leverage"] > 0
    scores = [calibration.figures(c)["brier"]["fitted"]["score"] for c in (whole, blind)]
    assert scores[0] < scores[1]


def test_a_scenario_alone_has_no_left_out_sample(suite, tmp_path):
    _call("score", suite.parent / "deep.toml", "--accounts", "1500", "--out", tmp_path / "r")
    figures = json.loads((tmp_path / "r" / "score.json").read_text())
    assert set(figures["brier"]) == {"fitted", "held_out"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--floor", "0"),
        ("--floor", "1.5"),
        ("--steepness", "-1"),
        ("--steepness", "nan"),
        ("--midpoint", "inf"),
        ("--correlation", "1.2"),
        ("--set", "system.assets.BTC.depth_usd=-1"),
        ("--without", "leverag"),
        ("--no-such-option",),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(suite, tmp_path, arguments):
    _call("score", suite, "--out", tmp_path / "r", *arguments, code=2)
    assert not list(tmp_path.iterdir())


def test_a_suite_that_liquidates_nobody_teaches_nothing(suite, tmp_path, capsys):
    _call("score", suite.parent / "nothing.toml", "--accounts", "1500", "--out", tmp_path / "r", code=2)
    assert not list(tmp_path.iterdir())
    assert "at least 10 must be" in capsys.readouterr().err
    _call("score", "no_such_suite", "--out", tmp_path / "r", code=2)


def test_a_folder_with_other_things_in_it_is_not_replaced(suite, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("precious")
    _call("score", suite, "--out", tmp_path / "r", code=2)
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.txt"]


def test_too_few_outcomes_are_told_with_the_scenarios():
    few = calibration.Observed("calm", "Calm", np.arange(40), np.zeros((40, 5)), np.arange(40) < 5)
    with pytest.raises(InputError, match="calm"):
        calibration.judge([few], np.ones(40, bool), calibration.Response(), "suite.toml")
