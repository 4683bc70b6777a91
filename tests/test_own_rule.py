"""The page on rules of one's own works as it stands."""

import sys

import numpy as np
import pytest

from stresslev import cli
from stresslev.config.load import load_plan
from stresslev.errors import InputError
from stresslev.run import run_plan
from tests import pages


@pytest.fixture
def brake(tmp_path, monkeypatch):
    """The page's two files, and a way to load them."""
    for step in pages.steps("policies/own_rule.md"):
        pages.saved(step, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brake", raising=False)
    return tmp_path


@pytest.mark.slow
def test_the_rule_of_the_page_halves_caps_in_a_drawdown(brake):
    plan = load_plan("gap_35_half_depth", policy=brake / "brake.toml", accounts=300, precision=64, overrides=["run.measures=false"])
    found = run_plan(plan).datasets["gap_35_half_depth"]
    peak = np.maximum.accumulate(found.price_usd.values, axis=0)
    assert (found.price_usd.values / peak).min() < 0.9
    start = found.cap_leverage.isel(time=0)
    np.testing.assert_allclose(found.cap_leverage.min("time"), start / 2, rtol=1e-12)
    steps = np.log(found.cap_leverage).diff("time")
    assert float(steps.min()) == pytest.approx(-np.log(2) / 10, rel=1e-9)
    assert float(found.reduced_usd.sum()) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('rule = "brake:DrawdownBrake"', 'rule = "brake:Absent"'), "cannot be loaded"),
        (('rule = "brake:DrawdownBrake"', 'rule = "no_such_module_at_all:Rule"'), "cannot be loaded.*PYTHONPATH"),
        (('rule = "brake:DrawdownBrake"', 'rule = "brake:dataclass"'), "is no rule"),
        (("limit = 0.1", "limits = 0.1"), "limits"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(brake, change, words):
    text = (brake / "brake.toml").read_text(encoding="utf-8")
    assert change[0] in text
    (brake / "brake.toml").write_text(text.replace(*change), encoding="utf-8")
    plan = load_plan("gap_35_half_depth", policy=brake / "brake.toml", accounts=300)
    with pytest.raises(InputError, match=words):
        run_plan(plan)


def test_a_refused_rule_ends_with_exit_code_2_and_writes_nothing(brake, capsys):
    (brake / "brake.py").write_text("", encoding="utf-8")
    out = brake / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "gap_35_half_depth", "--policy", str(brake / "brake.toml"), "--accounts", "300", "--out", str(out)])
    assert stop.value.code == 2
    assert not out.exists() and "brake:DrawdownBrake" in capsys.readouterr().err
