"""Policy files: the shipped ones load and act, and whatever is out of bounds is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from stresslev import assemble, cli
from stresslev.config.load import load_plan
from stresslev.errors import InputError
from stresslev.run import run_plan

HEAD = 'kind = "policy"\nname = "p"\n'
CAPS = HEAD + "[caps]\n"
RULE = CAPS + '[[rules]]\nkind = "volatility"\n'
REACTION = CAPS + '[[rules]]\nkind = "concentration"\nat = 1\n'
SCORE = CAPS + "[transition]\n[score]\n"


def _policy(tmp_path, text: str) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (HEAD.replace("policy", "system", 1), "kind", "policy"),
        (CAPS + "floor = 0", "caps.floor", "greater than 0"),
        (CAPS + "floor = 10\nceiling = 5", "caps", "floor 10 is above ceiling 5"),
        (CAPS + "least_maintenance = 2\nmost_maintenance = 1", "caps", "least_maintenance 2 is above"),
        (CAPS + "halving_minutes = -1", "caps.halving_minutes", "greater than or equal to 0"),
        (CAPS + "base = inf", "caps.base", "finite"),
        (CAPS + "bse = 3", "caps.bse", "base"),
        (CAPS + "[caps.pools.large_venu]\nBTC = 5", "caps.pools.large_venu", "large_venue"),
        (CAPS + "[caps.pools.large_venue]\nBTCC = 5", "caps.pools.large_venue.BTCC", "is no asset"),
        (HEAD + '[[rules]]\nkind = "volatility"', "rules", "needs [caps]"),
        (HEAD + "[transition]", "transition", "needs [caps]"),
        (CAPS + '[[rules]]\nkind = "volatile"', "rules.0", "volatility"),
        (RULE + "gamma = -1", "gamma", "greater than or equal to 0"),
        (RULE + "target = 0", "target", "greater than 0"),
        (RULE + "floor = 1.5", "floor", "less than or equal to 1"),
        (RULE + "ceiling = 0.5", "ceiling", "greater than or equal to 1"),
        (RULE + 'estimator = "arch"', "estimator", "garch"),
        (RULE + "alpha = 0.5\nbeta = 0.5", "rules.0", "must be below 1"),
        (RULE + "stressed_weight = 0.25", "rules.0", "needs stressed_volatility"),
        (RULE + "buffer = -0.1", "buffer", "greater than or equal to 0"),
        (RULE + 'in_pools = ["nowhere"]', "in_pools.nowhere", "is no pool"),
        (REACTION + "slope = 11", "slope", "less than or equal to 10"),
        (REACTION.replace("at = 1", ""), "at", "missing"),
        (CAPS + '[transition]\nform = "slowly"', "transition.form", "pace"),
        (CAPS + "[transition]\nmet = 1.1", "transition.met", "less than or equal to 1"),
        (CAPS + "[transition]\nwarn = 0.5\nsafe = 0.6", "transition", "safe 0.6 is above warn 0.5"),
        (CAPS + "[transition]\naim = 0.5\nsafe = 0.6", "transition", "safe 0.6 is above aim 0.5"),
        (CAPS + "[transitions.nowhere]\nmet = 1", "transitions.nowhere", "is no pool"),
        (HEAD + "[size]\namount = 0.1\nat = [1]", "size", "give either"),
        (HEAD + "[size]\nat = [2, 1]\nrate_increase = [0.1, 0.1]", "size", "must rise"),
        (HEAD + "[size]\nat = [1, 2]\nrate_increase = [0.1]", "size", "same number"),
        (SCORE + "weights = { leverage = -1 }", "score", "weights.leverage = -1 must not be below 0"),
        (SCORE + "weights = { distance = 1 }", "score", "weights.distance = 1 must not be above 0"),
        (SCORE + "weights = { size = 1 }", "score.weights.size", ""),
        (CAPS + "[score]\nweights = { leverage = 1 }", "score", "needs [transition]"),
        (HEAD + "[margin]\noffset = 1.5", "margin.offset", "less than or equal to 1"),
        (HEAD + "[funding]\nclamp = -1", "funding.clamp", "greater than or equal to 0"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(tmp_path, text, key, words):
    with pytest.raises(InputError) as refused:
        load_plan("gap_35_half_depth", policy=_policy(tmp_path, text), accounts=10)
    message = str(refused.value)
    assert key in message and words in message, message


def test_the_command_line_says_so_and_writes_nothing(tmp_path, capsys):
    file, out = _policy(tmp_path, CAPS + "floor = 0"), tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "gap_35_half_depth", "--policy", str(file), "--out", str(out)])
    assert stop.value.code == 2 and not out.exists()
    assert "caps.floor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", ["pool = 'large_venue'\nkind = 'momentum'\ncapital_usd = { BTCC = 1 }", "pool = 'lender'\nkind = 'momentum'\ncapital_usd = { BTC = 1 }"]
)
def test_traders_need_a_venue_and_a_contract(tmp_path, change):
    text = (Path("scenarios") if Path("scenarios").is_dir() else Path(cli.__file__).parent / "scenarios") / "gap_35_half_depth.toml"
    file = tmp_path / "s.toml"
    file.write_text(text.read_text(encoding="utf-8") + "\n[[behaviour.traders]]\n" + change, encoding="utf-8")
    with pytest.raises(InputError, match=r"behaviour\.traders\.0"):
        load_plan(file, accounts=10)


@pytest.mark.parametrize("name", ["fixed", "real_tiers", "volatility", "all_rules"])
def test_shipped_policies_load_under_their_names(name):
    plan = load_plan("default", policy=name, accounts=100)
    assert plan.policy.name == name and plan.policy.title and plan.policy.description
    grid = assemble.Grid(np.ones(len(plan.system.assets)), 1.0)
    policy = assemble.policy_arrays(plan.policy, plan.system, grid)
    assert policy.caps is not None and (policy.transition is None) == (name in ("fixed", "real_tiers"))
    assert len(policy.rules) == {"volatility": 1, "all_rules": 5}.get(name, 0)


@pytest.fixture(scope="module")
def runs():
    """The gap under a policy that adjusts and, before that, under one that does not."""
    common = {"accounts": 2000, "precision": 64}
    found = {}
    for name in ("real_tiers", "all_rules"):
        often = ["policy.gauge_every_minutes=2"]
        found[name] = run_plan(load_plan("gap_35_half_depth", policy=name, overrides=often, **common)).datasets["gap_35_half_depth"]
    return found


def test_caps_that_never_move_change_nothing(runs):
    """Today's tiers with caps, against no policy at all: the same run to the last bit."""
    plain = run_plan(load_plan("gap_35_half_depth", accounts=2000, precision=64)).datasets["gap_35_half_depth"]
    for name in ("price_usd", "newly_liquidated", "bad_debt_usd", "insurance_fund_usd", "closed_long"):
        np.testing.assert_array_equal(plain[name].values, runs["real_tiers"][name].values)
    assert np.isinf(plain.cap_leverage).all() and float(np.ptp(runs["real_tiers"].cap_leverage.values, axis=0).max()) == 0


def test_a_policy_with_every_rule_acts_and_balances(runs):
    found = runs["all_rules"]
    interest = float(found.open_interest_usd.isel(time=0).sum())
    for name in ("cash_residual_usd", "total_cash_residual_usd", "total_quantity_residual_usd", "total_coins_residual_usd"):
        assert float(abs(found[name]).max()) < 1e-12 * interest, name
    assert float(found.cap_leverage.min()) < float(found.cap_leverage.isel(time=0).min())
    assert float(found.maintenance_multiplier.max()) > 1 and float(found.gauge.max()) > 0
    assert float(found.voluntary_usd.sum()) > 0 and int(found.called.max()) > 0


def test_users_are_seen_by_group(runs):
    found = runs["all_rules"]
    assert found.group_accounts.sel(group="large").sum() < found.group_accounts.sel(group="small").sum()
    assert int(found.group_accounts.sum()) <= 2000 and int(found.group_liquidated.sum()) == int(found.newly_liquidated.sum())
    assert int(found.survivors.sum()) <= int(found.newly_liquidated.sum())
