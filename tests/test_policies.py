"""Policies compared: the same scenarios for each, the first as the yardstick, and an honest word on who makes what worse."""

import dataclasses
import json

import pytest

from stresslev import policies, run
from stresslev.config.load import load_plan
from stresslev.errors import InputError
from tests.comparisons import leveraged, outcome, worse_and_better
from tests.test_report import dataset


def _plan(name: str, **changes):
    plan = load_plan("gap_35_half_depth", accounts=60)
    return dataclasses.replace(plan, policy=plan.policy.model_copy(update={"name": name}), **changes)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "A"), ("a", ""), ("a", "report.html"), ("a", "comparison.json")])
def test_every_policy_needs_a_name_of_its_own(names):
    with pytest.raises(InputError, match="name"):
        policies.check([_plan(n) for n in names])
    policies.check([_plan("a"), _plan("b")])


def test_nothing_but_the_policy_may_differ():
    other = _plan("b")
    with pytest.raises(InputError, match="more than the policy"):
        policies.check([_plan("a"), dataclasses.replace(other, run=other.run.model_copy(update={"seed": 1}))])
    with pytest.raises(InputError, match="more than the policy"):
        policies.check([_plan("a"), _plan("b", files=other.files | {"system": "elsewhere.toml"})])
    policies.check([_plan("a"), _plan("b", files=other.files | {"policy": "b.toml"})])


def test_every_policy_is_run_and_progress_says_for_which(monkeypatch):
    seen = []

    def simulate(plan, cases, progress, sharding):
        for number, one in enumerate(cases):
            progress(one.name, 1, 1)
            yield number, dataset()

    monkeypatch.setattr(run, "simulate_cases", simulate)
    found = policies.compare([_plan("a"), _plan("b")], lambda *x: seen.append(x))
    assert list(found.outcomes) == ["a", "b"] and found.first == "a" and found.scenarios == ("gap_35_half_depth",)
    assert seen == [("book", 0, 1), ("book", 1, 1), ("a: gap_35_half_depth", 1, 1), ("b: gap_35_half_depth", 1, 1)]
    with pytest.raises(InputError):
        policies.compare([_plan("a"), _plan("a")])


def test_measures_are_the_worst_and_the_mean_of_scenarios():
    values = policies.measures(worse_and_better().outcomes["dynamic"])
    assert values["bad_debt_over_open_interest"] == pytest.approx({"worst": 40 / 2000, "mean": 49 / 4000})
    level = values["mean_allowed_leverage"]
    assert level["worst"] == pytest.approx(level["mean"]) == pytest.approx(40 / (14 / 10 + 26 / 4))
    mixed = outcome("x", {"a": leveraged(dataset(), cap=10.0), "b": leveraged(dataset(), cap=4.0)})
    assert policies.measures(mixed)["mean_allowed_leverage"] == pytest.approx({"worst": 4.0, "mean": 7.0})  # less leverage is worse


def test_a_scenario_that_gets_worse_is_named_with_how_much_and_why():
    [one] = policies.worse(worse_and_better())
    assert (one.policy, one.scenario) == ("dynamic", "dip")
    assert one.changes["bad_debt_over_open_interest"] == pytest.approx((9 / 2000, 5 / 2000))
    assert one.changes["insurance_fund_fall"] == pytest.approx((0.6, 0.4))
    assert "insolvent_pools" not in one.changes
    c = one.cause
    assert (c.asset, c.minutes) == ("BTC", 20.0)
    assert (c.move, c.move_first) == pytest.approx((-0.15, -0.12))
    assert (c.endogenous, c.endogenous_first) == pytest.approx((0.05 / 0.9, 0.02 / 0.9))
    assert (c.forced, c.forced_first) == pytest.approx(((200 + 120) / 2000, 100 / 2000))
    assert c.reduced == pytest.approx(200 / 320)


def test_closing_after_the_turn_is_no_cause():
    first, late = leveraged(dataset(closed=100.0)), leveraged(dataset(closed=100.0))
    late["reduced_usd"][30, 0] = 500.0
    assert policies.cause(late, first).forced == pytest.approx(100 / 2000)
    assert policies.cause(late, first).reduced == 0


def test_rounding_is_not_worse():
    first = {"s": leveraged(dataset(closed=100.0, debt=50.0))}
    almost = {"s": leveraged(dataset(closed=100.0, debt=50.0 * (1 + 5e-4)))}
    clearly = {"s": leveraged(dataset(closed=100.0, debt=50.0 * 1.01))}
    assert policies.worse(policies.Comparison({"a": outcome("a", first), "b": outcome("b", almost)})) == []
    assert len(policies.worse(policies.Comparison({"a": outcome("a", first), "b": outcome("b", clearly)}))) == 1


def test_results_without_leverage_are_compared_by_what_they_hold():
    bare = {"s": dataset(closed=100.0, debt=50.0)}
    found = policies.Comparison({"a": outcome("a", bare), "b": outcome("b", bare)})
    assert policies.worse(found) == []
    assert "mean_allowed_leverage" not in policies.measures(found.outcomes["a"])


def test_saving_makes_a_folder_per_policy_and_a_summary(tmp_path):
    out = tmp_path / "deep" / "out"
    found = worse_and_better({"bad_debt_over_open_interest": 0.03})
    with policies.folder_of(out, list(found.outcomes)) as folder:
        policies.save(found, folder)
        assert not out.exists()
    assert sorted(p.name for p in out.iterdir()) == ["comparison.json", "dynamic", "fixed"]
    assert sorted(p.name for p in (out / "fixed").iterdir()) == ["result.nc", "summary.json"]
    stored = json.loads((out / "comparison.json").read_text())
    assert [p["verdict"] for p in stored["policies"]] == ["breached", "within limits"]
    assert stored["worse"][0]["scenario"] == "dip" and stored["first"] == "fixed"
    assert found.breached
    # an earlier comparison may be replaced, also by one of other policies
    with policies.folder_of(out, ["other"]) as folder:
        (folder / "other").mkdir()
    assert [p.name for p in out.iterdir()] == ["other"]


def test_folders_that_hold_anything_else_are_left_alone(tmp_path):
    mine = tmp_path / "fixed"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="other things"), policies.folder_of(tmp_path, ["fixed"]):
        raise AssertionError("must not begin")
    assert (mine / "thesis.txt").read_text() == "precious"
    later = tmp_path / "later"
    with pytest.raises(InputError, match="other things"), policies.folder_of(later, ["fixed"]) as folder:
        (folder / "fixed").mkdir()
        (later / "fixed").mkdir(parents=True)
        (later / "fixed" / "thesis.txt").write_text("precious")
    assert (later / "fixed" / "thesis.txt").read_text() == "precious"
