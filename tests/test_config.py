"""Bad input: a clear error naming file, key, value and fix."""

import shutil

import pytest

from stresslev.config.load import load_plan, load_system, shipped_scenarios
from stresslev.errors import InputError

SYSTEM = """
kind = "system"
name = "small"
[assets.BTC]
depth_usd = 1e6
volatility = 0.5
[tiers.flat]
source = "test"
floors_usd = [0]
maintenance_rates = [0.01]
max_leverage = [50]
[pools.one]
insurance_fund_usd = 1e6
tiers = { BTC = "flat" }
open_interest_usd = { BTC = 1e8 }
[book]
accounts = 100
"""
SCENARIO = """
kind = "scenario"
name = "fall"
title = "A fall"
origin = "hypothetical"
severity = "adverse"
duration_minutes = 10
[paths.BTC]
minutes = [0, 5]
prices = [100, 80]
"""
SUITE = """
kind = "suite"
name = "small"
system = "system.toml"
scenarios = ["scenario.toml"]
[limits.bad_debt_usd]
max = 0
"""


@pytest.fixture
def files(tmp_path):
    for name, text in (("system", SYSTEM), ("scenario", SCENARIO), ("suite", SUITE)):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def _error(files, name=None, old="", new="", **kwargs) -> str:
    if name is not None:
        path = files / f"{name}.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_plan(files / "suite.toml", **kwargs)
    return str(caught.value)


def test_a_good_suite_loads(files):
    plan = load_plan(files / "suite.toml")
    assert (plan.name, plan.system.name, [s.name for s in plan.scenarios]) == ("small", "small", ["fall"])


@pytest.mark.parametrize(
    ("name", "old", "new", "parts"),
    [
        ("system", "fund_usd = 1e6", "fund_usd = -5", ["system.toml", "pools.one.insurance_fund_usd", "-5", "greater than or equal to 0"]),
        ("system", "insurance_fund_usd", "insurence_fund_usd", ["pools.one.insurence_fund_usd", "did you mean 'insurance_fund_usd'"]),
        ("system", "insurance_fund_usd = 1e6\n", "", ["pools.one.insurance_fund_usd", "is missing", "add it"]),
        ("system", "depth_usd = 1e6", "depth_usd = 0", ["assets.BTC.depth_usd", "0", "greater than 0"]),
        ("system", "depth_usd = 1e6", "depth_usd = nan", ["assets.BTC.depth_usd", "nan", "finite"]),
        ("system", 'BTC = "flat"', 'BTC = "steep"', ["pools.one.tiers.BTC", "'steep'", "not in [tiers]", "Fix: use one of flat"]),
        ("system", "floors_usd = [0]", "floors_usd = [10]", ["tiers.flat", "must begin at 0", "Fix: give 0 as the first floor"]),
        ("system", "maintenance_rates = [0.01]", "maintenance_rates = [2]", ["tiers.flat", "not percent"]),
        (
            "system",
            "maintenance_rates = [0.01]",
            "maintenance_rates = [0.5]",
            ["tiers.flat", "below the maintenance rate 0.5. Fix: lower max_leverage to 2 or less"],
        ),
        ("system", "depth_usd = 1e6", "depth_usd = ", ["system.toml", "not valid TOML", "line 5"]),
        ("system", 'kind = "system"', 'kind = "sytem"', ["kind", "'sytem'", '"system"']),
        ("scenario", "minutes = [0, 5]", "minutes = [0, 5, 5]", ["scenario.toml", "paths.BTC", "same number"]),
        ("scenario", "minutes = [0, 5]", "minutes = [1, 5]", ["paths.BTC", "minute 0"]),
        ("scenario", "prices = [100, 80]", "prices = [100, -80]", ["paths.BTC.prices.1", "-80"]),
        ("scenario", "[paths.BTC]", "[paths.ETH]", ["paths.BTC", "is missing", "holds BTC"]),
        ("scenario", 'severity = "adverse"', 'severity = "bad"', ["severity", "'bad'", "'adverse', 'severe' or 'very severe'"]),
        (
            "scenario",
            "duration_minutes = 10",
            "duration_minutes = 10\nstep_minutes = 3",
            ["whole number of steps", "Fix: give a multiple of step_minutes"],
        ),
        ("system", "fund_usd = 1e6", "fund_usd = true", ["pools.one.insurance_fund_usd", "True", "give a number"]),
        ("system", "fund_usd = 1e6", 'fund_usd = "1e6"', ["pools.one.insurance_fund_usd", "'1e6'", "give a number"]),
        ("system", "max_leverage = [50]", "", ["tiers.flat.max_leverage", "is missing"]),
        ("system", "floors_usd = [0]", "floors_usd = []", ["tiers.flat.floors_usd", "give at least one entry"]),
        ("system", "depth_usd = 1e6", "depth_usd = " + "1" * 5000, ["system.toml", "not valid TOML"]),
        ("system", "floors_usd = [0]", "floors_usd = " + "[" * 3000, ["system.toml", "not valid TOML"]),
        ("scenario", "duration_minutes = 10", "duration_minutes = 10\nstart = 5", ["start", "not a date"]),
        ("scenario", "duration_minutes = 10", "duration_minutes = 10\nstart = 9999-12-31T23:59:00Z", ["year 9999"]),
        ("scenario", "duration_minutes = 10", "duration_minutes = 10000000\nstep_minutes = 1e-9", ["steps are more than"]),
        ("suite", "max = 0", "max = 1\nmin = 2", ["min 2 is above max 1"]),
        ("suite", "scenario.toml", "s" * 400, ["does not exist"]),
        (
            "suite",
            "scenario.toml",
            "scenarioo.toml",
            ["suite.toml: scenarios.0 = 'scenarioo.toml'", "does not exist", "did you mean 'scenario.toml'?"],
        ),
        ("suite", "system.toml", "sistem.toml", ["suite.toml: system = 'sistem.toml'", "does not exist", "did you mean 'system.toml'?"]),
        ("suite", "scenario.toml", "gap_35.toml", ["suite.toml: scenarios.0", "did you mean 'gap_35_half_depth.toml'?"]),
        ("suite", "scenario.toml", "zzz.toml", ["suite.toml: scenarios.0", "stresslev list"]),
        ("suite", "max = 0", "maximum = 0", ["limits.bad_debt_usd.maximum = 0", "did you mean 'max'?"]),
        ("suite", "max = 0", "reason = 'none'", ["limits.bad_debt_usd", "give max or min"]),
    ],
)
def test_bad_input_names_file_key_value_and_fix(files, name, old, new, parts):
    message = _error(files, name, old, new)
    for part in parts:
        assert part in message, message
    assert "Fix: " in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("system.assets.BTC.depth_usd", ["--set", "dotted.key=value"]),
        ("sistem.assets.BTC.depth_usd=1", ["'sistem'", "did you mean 'system'"]),
        ("system.assets.BTC.dept_usd=1", ["assets.BTC.dept_usd", "did you mean 'depth_usd'"]),
        ("system.assets.BTC.depth_usd.x=1", ["is a value, not a table"]),
        ("scenarios.rise.shock_scale=2", ["scenarios.rise", "is no scenario"]),
        ("policy.pools.two.BTC=2", ["policy.pools.two", "is no pool"]),
        ("scenarios.fall=5", ["names a whole table"]),
        ("run.precision=16", ["run.precision", "16", "32 or 64"]),
        ("policy.rules=[{kind = 'volatilty'}]", ["policy.rules.0.kind = 'volatilty'", "did you mean 'volatility'?"]),
    ],
)
def test_bad_overrides_are_refused(files, override, parts):
    message = _error(files, overrides=[override])
    for part in parts:
        assert part in message, message


def test_overrides_reach_every_file(files):
    overrides = [
        "system.assets.BTC.depth_usd=5e6",
        "scenario.shock_scale=1.5",
        "scenarios.fall.depth_scale=0.5",
        "policy.maintenance_multiplier=2",
        "run.max_rounds=7",
        "limits.bad_debt_usd.max=9",
        "system.pools.one.liquidation.rule=restore",
    ]
    plan = load_plan(files / "suite.toml", overrides=overrides, seed=5, precision=64, accounts=50)
    assert plan.system.assets["BTC"].depth_usd == 5e6
    assert (plan.scenarios[0].shock_scale, plan.scenarios[0].depth_scale) == (1.5, 0.5)
    assert (plan.policy.maintenance_multiplier, plan.run.max_rounds, plan.limits["bad_debt_usd"].max) == (2, 7, 9)
    assert plan.system.pools["one"].liquidation.rule == "restore"
    assert (plan.run.seed, plan.run.precision, plan.system.book.accounts) == (5, 64, 50)


def test_a_lone_scenario_runs_on_the_shipped_system():
    plan = load_plan("gap_35_half_depth")
    assert plan.system.name == "three_perp_venues" and len(plan.scenarios) == 1 and not plan.limits


@pytest.mark.parametrize("name", ["scenarios/gap_35_half_depth.toml", "gap_35_half_depth.toml", "gap_35_half_depth"])
def test_shipped_scenarios_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_plan(name).scenarios[0].name == "gap_35_half_depth"


def test_a_users_own_file_wins_over_a_shipped_one(files, monkeypatch):
    shutil.copy(files / "suite.toml", files / "default.toml")
    monkeypatch.chdir(files)
    assert load_plan("default.toml").name == "small"


def test_every_shipped_file_loads():
    root = shipped_scenarios()
    for path in root.glob("*.toml"):
        load_plan(path)
    for path in (root / "systems").glob("*.toml"):
        load_system(path)


def test_one_mistake_in_a_tier_table_is_one_message(files):
    assert _error(files, "system", "max_leverage = [50]", "").count("Fix: ") == 1


def test_a_name_inside_a_file_is_not_looked_up_in_the_working_directory(files, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "cwd" / "gap_35_half_depth.toml").write_text(SCENARIO)
    (files / "suite.toml").write_text(SUITE.replace('"system.toml"', '"three_perp_venues"').replace("scenario.toml", "gap_35_half_depth.toml"))
    assert load_plan(files / "suite.toml").scenarios[0].name == "gap_35_half_depth"


def test_names_with_dots_can_be_overridden(files):
    (files / "scenario.toml").write_text(SCENARIO.replace('name = "fall"', 'name = "fall.1"'))
    assert load_plan(files / "suite.toml", overrides=['scenarios."fall.1".shock_scale=2']).scenarios[0].shock_scale == 2


def test_tiers_can_come_from_a_venues_dump(files):
    (files / "dump.csv").write_text(
        "symbol,tier,min_notional,max_notional,mmr,max_leverage,cum\nBTC/USDT:USDT,1,0,1000,0.01,50,0\nBTC/USDT:USDT,2,1000,5000,0.02,20,10\n"
    )
    path = files / "system.toml"
    inline = 'source = "test"\nfloors_usd = [0]\nmaintenance_rates = [0.01]\nmax_leverage = [50]'
    path.write_text(SYSTEM.replace(inline, 'file = "dump.csv"\nsymbol = "BTC/USDT:USDT"'))
    assert load_plan(files / "suite.toml").system.tiers["flat"].maintenance_rates == (0.01, 0.02)
    path.write_text(SYSTEM.replace(inline, 'file = "dump.csv"\nsymbol = "BTC/USDT"'))
    assert "did you mean 'BTC/USDT:USDT'" in _error(files)
