"""The volatility rule on real prices: the key figures of docs/history.md, and what the script says without the data."""

import importlib.util
import os
import subprocess
import sys
from datetime import date

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "experiments" / "history_caps.py"


@pytest.fixture(scope="module")
def history():
    spec = importlib.util.spec_from_file_location("history_caps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_refuses_without_the_data(tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 2
    assert "binance_leverage_tiers" in done.stderr
    assert "--data" in done.stderr
    assert not (tmp_path / "out").exists()


def test_binance_cut_and_raised_as_the_data_state(history, real_data):
    if real_data is None:
        return  # the end of the test run says so
    tiers = history.tier_one(real_data)
    sol, ftt, btc = (history.binance(tiers[symbol]) for symbol in ("SOL", "FTT", "BTC"))
    assert (sol["before"], sol["lowest"], sol["cut_known_by"]) == (50, 12, "2022-11-25")
    assert (sol["raised_to"], sol["raised_known_by"]) == (20, "2023-01-13")
    assert (ftt["before"], ftt["lowest"], ftt["raised_known_by"]) == (25, 8, None)
    assert (btc["before"], btc["lowest"], btc["cut_known_by"]) == (125, 125, None)


def test_rule_cuts_the_names_tied_to_ftx_most_and_lets_bitcoin_recover(history, real_data):
    if real_data is None:
        return  # the end of the test run says so
    full = history.full_window(real_data, history.DECAY)[0]
    week = history.one_week(real_data, history.DECAY, full["BTC"])[0]
    assert full["BTC"]["rule_from_november"]["first_cut"] is None
    assert full["BTC"]["rule_from_november"]["trough_share"] == pytest.approx(0.8254, abs=1e-4)
    assert full["BTC"]["rule_from_november"]["back_at_base"] == "2022-11-25 10:00"
    assert week["SOL"]["rule"]["first_cut"] == "2022-11-10 18:00"
    assert week["FTT"]["rule"]["first_cut"] == "2022-11-09 08:00"
    lowest_first = sorted(week, key=lambda symbol: week[symbol]["rule"]["trough_share"])
    assert set(lowest_first[:3]) == set(history.TIED)
    assert history.agreement(week)["all"] == pytest.approx(0.599, abs=1e-3)


def test_crude_margin_tripled_in_nine_weeks_and_the_tools_dampen_it(history, real_data):
    if real_data is None:
        return  # the end of the test run says so
    crude = history.crude_margins(real_data)[0]
    assert crude["raises"][0] == ["2020-03-10", 4100]
    assert crude["raises"][-1] == ["2020-05-13", 12000]
    assert (date(2020, 5, 13) - date(2020, 3, 10)).days == 64
    ratio = {name: found["peak_to_trough"] for name, found in crude["tools"].items()}
    assert ratio["as set"] == pytest.approx(12000 / 3500, abs=1e-3)
    assert ratio["stressed weight"] < ratio["buffer"] < ratio["floor"] < ratio["as set"]
