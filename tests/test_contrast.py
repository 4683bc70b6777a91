"""Two runs held against each other: what differs, what is noise, and what a gate lets pass."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from stresslev import run
from stresslev.cli import main
from stresslev.config.gate import GateSpec, ToleranceSpec
from stresslev.contrast import gate, words
from stresslev.contrast.differences import BETTER, NOISE, ROUNDING, SAME, WORSE, held
from stresslev.contrast.inputs import Result, drawn, read
from stresslev.contrast.junit import xml
from stresslev.errors import InputError
from stresslev.metrics import Finding
from tests.comparisons import outcome
from tests.test_report import dataset

DEBT, LEVERAGE = "bad_debt_over_open_interest", "mean_used_leverage"


def _result(metrics, *, name="run", findings=(), **attributes):
    known = {"seed": 1, "precision": "float64", "stresslev_version": "1"} | attributes
    return Result(Path(name), name, metrics, tuple(findings), known, {}, {}, {}, {})


def _one(value, metric=DEBT, **more):
    return _result({"crash": {metric: value}}, **more)


def _books(first, second, confidence=0.95, metric=DEBT):
    """The change of a metric of one scenario over books, of these values."""
    pairs = [(_one(x, metric), _one(y, metric)) for x, y in zip(first, second, strict=True)]
    [change] = held(*pairs[0], tuple(range(len(pairs))), pairs, confidence).changes
    return change


def test_intervals_over_books_are_those_of_a_paired_t_test():
    random = np.random.default_rng(5)
    common = random.normal(0.1, 0.03, 6)  # what both sides share, on the same books
    first, second = common, common + random.normal(0.002, 0.001, 6)
    for confidence in (0.9, 0.99):
        change = _books(first, second, confidence)
        interval = stats.ttest_rel(second, first).confidence_interval(confidence)
        assert (change.estimate.low, change.estimate.high) == pytest.approx((interval.low, interval.high))
        assert change.reading == (WORSE if interval.low > 0 else NOISE)
    assert stats.ttest_ind(second, first).pvalue > 0.5  # unpaired, nobody would see it


def test_chance_alone_is_rarely_called_a_difference():
    random = np.random.default_rng(6)
    readings = [_books(*random.normal(0.1, 0.02, (2, 5))).reading for _ in range(400)]
    assert set(readings) <= {NOISE, WORSE, BETTER, ROUNDING}
    assert 0.02 < np.mean([r in (WORSE, BETTER) for r in readings]) < 0.085


@pytest.mark.parametrize(
    ("metric", "a", "b", "reading"),
    [
        (DEBT, 0.1, 0.1, SAME),
        (DEBT, 0.1, 0.1 + 1e-12, ROUNDING),
        (DEBT, 0.1, 0.11, WORSE),
        (DEBT, 0.1, 0.09, BETTER),
        (LEVERAGE, 5.0, 4.0, WORSE),
        (LEVERAGE, 5.0, 6.0, BETTER),
        (DEBT, 0.0, float("inf"), WORSE),
        (DEBT, float("nan"), float("nan"), SAME),
        (DEBT, float("nan"), 0.1, "not comparable"),
    ],
)
def test_one_book_says_which_way_but_has_no_interval(metric, a, b, reading):
    found = held(_one(a, metric), _one(b, metric), (), [(_one(a, metric), _one(b, metric))], 0.95)
    assert found.changes[0].reading == reading and found.changes[0].estimate is None
    assert found.reproduced == (reading == SAME)
    assert "no telling" in " ".join(words.sentences(found))


def test_scenarios_of_one_book_are_paired():
    first = {f"s{i}": {DEBT: x} for i, x in enumerate((0.1, 0.2, 0.05, 0.3))}
    second = {s: {DEBT: v[DEBT] + 0.01 + 0.001 * i} for i, (s, v) in enumerate(first.items())}
    a, b = _result(first), _result(second)
    found = held(a, b, (), [(a, b)], 0.95)
    [mean] = found.means
    interval = stats.ttest_rel([v[DEBT] for v in second.values()], [v[DEBT] for v in first.values()]).confidence_interval(0.95)
    assert (mean.estimate.low, mean.estimate.high) == pytest.approx((interval.low, interval.high)) and mean.reading == WORSE
    assert "over the 4 scenarios" in " ".join(words.sentences(found))


BREACH = Finding(DEBT, "crash", 0.2, 0.1, "max", True, "why not")


def test_limits_and_provenance_that_differ_are_listed():
    a = _one(0.05, findings=[dataclasses.replace(BREACH, value=0.05, breached=False)])
    b = _one(0.2, findings=[BREACH], stresslev_version="2")
    found = held(a, b, (), [(a, b)], 0.95)
    assert words.limit_rows(found, False) == [["crash", "Bad debt over open interest", "max 0.1", "kept", "max 0.1", "breached"]]
    assert found.provenance == (("stresslev_version", "1", "2"),)
    assert "| crash | Bad debt over open interest | 5% | 20% | +15 pp |  | worse |" in words.markdown(found)
    assert json.loads(json.dumps(words.as_data(found)))["limits"][0]["b"] is True


@pytest.mark.parametrize(
    ("value", "base", "spec", "passed"),
    [
        (0.1, 0.1, {}, True),
        (0.05, 0.1, {}, True),
        (0.1009, 0.1, {}, True),
        (0.1011, 0.1, {}, False),
        (0.1011, 0.1, {"relative": 0.02}, True),
        (0.001, 0.0, {}, False),
        (0.001, 0.0, {"absolute": 0.002}, True),
        (0.2, 0.1, {"tolerances": {DEBT: {"relative": 2.0}}}, True),
        (0.1009, 0.1, {"tolerances": {DEBT: {"relative": 0.0}}}, False),
        (float("nan"), 0.1, {"relative": 9.0}, False),
        (float("inf"), 0.1, {"relative": 9.0}, False),
    ],
)
def test_a_gate_tolerates_what_it_says(monkeypatch, value, base, spec, passed):
    sides = {"run": _one(value), "baseline": _one(base)}
    monkeypatch.setattr(gate, "read", sides.get)
    verdict = gate.judge("run", "baseline", GateSpec(kind="gate", **spec))
    assert verdict.passed is passed
    assert ("FAILED: 1 of 1 check does not hold" if not passed else "passed") in gate.markdown(verdict)


def test_a_gate_breaks_on_limits_and_on_a_scenario_that_was_left_out(monkeypatch):
    sides = {"run": _one(0.2, findings=[BREACH], name="now <&\x00"), "baseline": _result({"crash": {DEBT: 0.2}, "dip": {DEBT: 0.1}})}
    monkeypatch.setattr(gate, "read", sides.get)
    verdict = gate.judge("run", "baseline", GateSpec(kind="gate"))
    assert [(c.scenario, c.passed) for c in verdict.checks] == [("crash", False), ("crash", True), ("dip", False)]
    root = ElementTree.fromstring(xml(verdict))
    assert root.tag == "testsuites" and (root.get("tests"), root.get("failures")) == ("3", "2")
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases) and int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    assert {f.get("message") for f in root.iter("failure")} == {"20% (why not)", "the baseline has it, the run does not"}
    assert root.find("testsuite/properties/property[@name='run']").get("value") == "now <&?"
    # one that only the run has is no breach
    sides["run"], sides["baseline"] = sides["baseline"], _one(0.2)
    assert gate.judge("run", "baseline", GateSpec(kind="gate")).passed


def test_a_gate_with_nothing_to_check_is_no_pass(monkeypatch):
    monkeypatch.setattr(gate, "read", {"run": _one(0.1), "baseline": _one(float("nan"))}.get)
    with pytest.raises(InputError, match="nothing to hold"):
        gate.judge("run", "baseline", GateSpec(kind="gate"))


def test_absent_tolerances_are_the_gates_own():
    spec = GateSpec(kind="gate", relative=0.1, absolute=0.5, tolerances={DEBT: ToleranceSpec(absolute=0.0)})
    assert gate.tolerance(spec, DEBT, 2.0) == pytest.approx(0.2) and gate.tolerance(spec, LEVERAGE, 2.0) == 0.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two policies, the second with more bad debt: the first on seeds 1, 2 and 3, the second on 2 and 3."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(7)
    noise = {seed: float(random.normal(0, 8)) for seed in (1, 2, 3)}

    def make(name, seed, extra, multiplier):
        made = outcome(name, {"crash": dataset(steps=4, closed=400.0, debt=80.0 + noise[seed] + extra, draw=100.0)}, {DEBT: 0.2})
        configured = json.loads(made.attributes["configuration"])
        configured["policy"]["maintenance_multiplier"] = multiplier
        configured["run"]["seed"] = seed
        attributes = made.attributes | {"seed": seed, "configuration": json.dumps(configured)}
        (folder / f"{name}-{seed}").mkdir()
        run.save(dataclasses.replace(made, attributes=attributes), folder / f"{name}-{seed}")

    for seed in (1, 2, 3):
        make("plain", seed, 0.0, 1.0)
    for seed in (2, 3):
        make("strict", seed, 20.0 + seed / 10, 1.5)
    (folder / "notes").mkdir()
    return folder


def _call(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


def test_books_beside_the_runs_tell_differences_from_noise(runs, capsys, tmp_path):
    assert sorted(drawn(read(runs / "plain-1"))) == [1, 2, 3]
    _call("compare", runs / "plain-2", runs / "strict-3", "--json", "--markdown", tmp_path / "c.md")
    data = json.loads(capsys.readouterr().out)
    assert data["seeds"] == [2, 3] and data["same_books"] is False
    debt = next(c for c in data["changes"] if c["metric"] == "bad_debt_usd")
    assert debt["interval"]["mean"] == pytest.approx(20.25) and debt["reading"] == "worse"
    assert {"key": "policy.maintenance_multiplier", "a": 1.0, "b": 1.5} in data["configuration"]
    assert "means over 2 books (seeds 2, 3)" in (tmp_path / "c.md").read_text()
    # other draws of one family are no second policy
    _call("compare", runs / "plain-1", runs / "plain-2")
    assert "of other seeds (1 and 2)" in " ".join(capsys.readouterr().out.split())


def test_gate_from_the_command_line(runs, tmp_path, capsys):
    base = ("--baseline", runs / "plain-2", "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "g.md")
    _call("gate", runs / "plain-2", *base, "--set-nothing", code=2)
    assert not list(tmp_path.iterdir())
    _call("gate", runs / "strict-2", *base, code=1)
    assert "FAILED" in capsys.readouterr().out
    assert int(ElementTree.parse(tmp_path / "j.xml").getroot().get("failures")) >= 1
    file = tmp_path / "gate.toml"
    file.write_text(f'kind = "gate"\nmetrics = ["{DEBT}"]\n[tolerances.{DEBT}]\nrelative = 0.5\n')
    _call("gate", runs / "strict-2", *base, "--tolerances", file)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "summary.json").write_text((runs / "plain-2" / "summary.json").read_text())
    _call("gate", tmp_path / "only" / "summary.json", "--baseline", tmp_path / "only", "--metric", DEBT)
    file.write_text('kind = "gate"\nmetrics = ["bad_dept"]\n')
    _call("gate", runs / "plain-2", *base, "--tolerances", file, code=2)
    assert "bad_dept" in capsys.readouterr().err
    _call("gate", runs / "nothing", *base, code=2)
    _call("compare", runs / "plain-2", runs / "notes", code=2)
