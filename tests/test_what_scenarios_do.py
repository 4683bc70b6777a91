"""Every scenario that is named for a mechanism sets it off: with the mechanism taken out, on the same system, book and prices, it does not happen."""

import dataclasses

import numpy as np
import pytest

from stresslev.config.load import load_plan
from stresslev.config.spec import ScenarioSpec
from stresslev.errors import InputError
from stresslev.opening import shock_of
from stresslev.run import run_plan

SYSTEM = "systems/committee.toml"


def _plan(name, *overrides, accounts=3000):
    return load_plan(name, system=SYSTEM, accounts=accounts, precision=64, overrides=["run.measures=false", *overrides])


#: What does nothing: an outage after the end, depositors who stay, a trader of a millionth of a dollar, errors and premiums of zero.
LATER = {"pool": "lender_b", "start_minute": 1e8, "end_minute": 2e8}
NOTHING = {"minutes": (0.0,), "values": (0.0,)}
TRADERS = ({"kind": "momentum", "pool": "large_venue", "capital_usd": {"BTC": 1e-6}},)
RUNS = ({"pool": "lender_b", "utilisation_at": 0.999999, "cover_at": 1e-9, "most_per_hour": 0.0},)


def _with_everything(spec):
    """The scenario with every mechanism present, if only as one that does nothing: one program then serves all of them."""
    data = spec.model_dump()
    idle = {
        "outages": (LATER,),
        "stuck_marks": (LATER,),
        "dislocations": {"lender_b": {"BTC": NOTHING}},
        "premiums": {"large_venue": {"BTC": NOTHING}},
    }
    given = data["behaviour"] or {}
    behaviour = given | {"traders": given.get("traders") or TRADERS, "runs": given.get("runs") or RUNS}
    return ScenarioSpec.model_validate(data | {key: data[key] or nothing for key, nothing in idle.items()} | {"behaviour": behaviour})


def _run(name, *overrides):
    """Dataset and metrics of a scenario at steps of a minute, or as the overrides say; books must balance."""
    plan = _plan(name, *overrides)
    outcome = run_plan(dataclasses.replace(plan, scenarios=tuple(map(_with_everything, plan.scenarios))))
    [ds], [metrics] = outcome.datasets.values(), outcome.metrics.values()
    assert max(metrics["conservation_residual"], metrics["total_residual"]) < 1e-9
    assert np.isfinite(ds.price_usd).all() and (ds.price_usd > 0).all()
    return ds, metrics


def _total(variable, **where):
    return float(variable.sel(**where).sum())


def _endogenous_fall(ds, asset):
    return 1 - float((ds.price_usd / ds.exogenous_price_usd).sel(asset=asset).min())


def test_stuck_marks_hold_the_assets_named_for_the_time_named():
    plan = _plan("oracle_stuck")
    shock = shock_of(plan, plan.scenarios[0])
    pools, assets = list(plan.system.pools), list(plan.system.assets)
    expected = np.zeros(shock.stuck.shape, bool)
    for pool, held in (("lender_a", ("ETH", "BTC")), ("lender_b", ("aETH", "BTC"))):
        for asset in held:
            expected[30:330, pools.index(pool), assets.index(asset)] = True
    assert np.array_equal(shock.stuck, expected) and shock.outage is None and shock.disturbs_marks
    everything = _plan("oracle_stuck", 'scenario.stuck_marks=[{pool="mid_venue", start_minute=0, end_minute=2}]')
    stuck = shock_of(everything, everything.scenarios[0]).stuck
    assert stuck[:2, pools.index("mid_venue")].all() and stuck.sum() == 2 * len(assets)


@pytest.mark.parametrize(
    "given, said",
    [
        ('pool="lender_x", start_minute=0, end_minute=2', r"stuck_marks\.0\.pool = lender_x.*did you mean"),
        ('pool="lender_a", assets=["EHT"], start_minute=0, end_minute=2', r"stuck_marks\.0\.assets = EHT.*did you mean 'ETH'"),
        ('pool="lender_a", start_minute=2, end_minute=2', r"end_minute must be after start_minute"),
        ('pool="lender_a", assets=[], start_minute=0, end_minute=2', r"stuck_marks\.0\.assets"),
    ],
)
def test_stuck_marks_that_cannot_be_are_named(given, said):
    with pytest.raises(InputError, match=said):
        _plan("oracle_stuck", f"scenario.stuck_marks=[{{{given}}}]")


@pytest.mark.slow
def test_a_drought_makes_the_same_fall_deeper():
    dry, _ = _run("liquidity_drought")
    wet, _ = _run("liquidity_drought", "scenario.depth.default.factors=[1, 1, 1, 1]")
    assert _endogenous_fall(dry, "ETH") > 3 * _endogenous_fall(wet, "ETH") > 0


@pytest.mark.slow
def test_with_a_stuck_oracle_lenders_act_late_and_lose_more():
    stuck, _ = _run("oracle_stuck")
    late = "scenario.stuck_marks=[{pool='lender_a', start_minute=478, end_minute=479}, {pool='lender_b', start_minute=478, end_minute=479}]"
    free, _ = _run("oracle_stuck", late)
    while_stuck = slice(31, 330)
    assert float(abs(stuck.mark_usd.sel(pool="lender_a", asset="ETH", time=while_stuck).diff("time")).max()) == 0
    assert float(stuck.price_usd.sel(asset="ETH", time=while_stuck).min() / stuck.price_usd.sel(asset="ETH")[0]) < 0.55
    lenders = ["lender_a", "lender_b"]
    before = [_total(ds.closed_short_usd, pool=lenders, time=while_stuck) for ds in (stuck, free)]
    after = [_total(ds.closed_short_usd, pool=lenders, time=slice(331, 480)) for ds in (stuck, free)]
    assert before[0] < 0.1 * before[1] and after[0] > after[1]
    assert _total(stuck.deficit_usd, pool=lenders) > _total(free.deficit_usd, pool=lenders)


@pytest.mark.slow
def test_a_false_price_makes_a_real_loss():
    false, _ = _run("oracle_manipulated")
    honest, _ = _run("oracle_manipulated", "scenario.dislocations.lender_b.UST.values=[0, 0, 0]")
    assert float(false.exogenous_price_usd.std("time").max()) == 0
    at = {"pool": "lender_b", "asset": "UST"}
    assert _total(false.closed_long_usd, **at, time=slice(31, 60)) > 1e6 > _total(honest.closed_long_usd, **at) == 0
    # liquidators pay half of what they take, so that collateral does not cover what it did
    assert _total(false.deficit_usd, pool="lender_b") > 1e5 > _total(honest.deficit_usd) == 0
    assert _endogenous_fall(false, "UST") > 0.01


@pytest.mark.slow
def test_a_depeg_liquidates_those_who_have_pledged_the_dollar():
    broken, _ = _run("stablecoin_depeg", "scenario.step_minutes=4")
    whole, _ = _run("stablecoin_depeg", "scenario.step_minutes=4", "scenario.paths.USDC.prices=[1, 1, 1, 1, 1, 1, 1]")
    sold = [_total(ds.closed_long_usd, asset=["USDC", "aUSDC"]) for ds in (broken, whole)]
    assert sold[0] > 2 * sold[1] and float(broken.price_usd.sel(asset="aUSDC").min()) < 0.71


@pytest.mark.slow
def test_funding_alone_closes_crowded_longs():
    paid, metrics = _run("funding_squeeze", "scenario.step_minutes=14")
    names = [f"scenario.premiums.{v}.{a}.values=[0, 0]" for v in ("large_venue", "mid_venue", "onchain_venue") for a in ("BTC", "ETH", "SOL", "SUI")]
    calm, quiet = _run("funding_squeeze", "scenario.step_minutes=14", *names)
    assert float(paid.exogenous_price_usd.std("time").max()) == 0
    assert _total(paid.funding_paid_usd) > 10 * _total(calm.funding_paid_usd) > 0
    assert metrics["liquidated_accounts_share"] > 0.02 + quiet["liquidated_accounts_share"]
    assert _total(paid.closed_long_usd) > 3 * _total(paid.closed_short_usd)


@pytest.mark.slow
def test_an_outage_leaves_accounts_to_sink():
    down, _ = _run("outage_in_a_fall")
    up, _ = _run("outage_in_a_fall", "scenario.outages=[{pool='large_venue', start_minute=478, end_minute=479}]")
    dark = {"pool": "large_venue", "time": slice(41, 130)}
    assert _total(down.closed_long_usd, **dark) == 0 < _total(up.closed_long_usd, **dark)
    assert float(abs(down.mark_usd.sel(**dark).diff("time")).max()) == 0
    assert _total(down.deficit_usd, pool="large_venue") > 2 * _total(up.deficit_usd, pool="large_venue")


@pytest.mark.slow
def test_depositors_leave_until_nothing_is_left_to_withdraw():
    run, _ = _run("run_on_a_lender", "scenario.step_minutes=4")
    stay, _ = _run("run_on_a_lender", "scenario.step_minutes=4", *(f"scenario.behaviour.runs={t}" for t in (_patient(),)))
    at = {"pool": "lender_a", "asset": "USDC"}
    assert _total(run.withdrawn, **at) > 0.9e8 > _total(stay.withdrawn, **at) == 0
    rate = [float(ds.borrow_rate.sel(**at).max()) for ds in (run, stay)]
    assert rate[0] > 0.5 > rate[1]  # the curve ends at 0.035 + 0.6


def _patient():
    """The same depositors, who never run."""
    run = '{pool="%s", utilisation_at=0.999999, cover_at=1e-9, leave_minutes=120, most_per_hour=0}'
    return "[" + ", ".join(run % p for p in ("lender_a", "lender_b", "venue_credit")) + "]"


@pytest.mark.slow
@pytest.mark.parametrize("name, pool", [("maker_default", "mid_venue"), ("whale", "onchain_venue")])
def test_the_large_position_is_closed_at_once_and_costs_others(name, pool):
    ds, _ = _run(name)
    sold = -ds.trader_net_usd.sel(pool=pool, asset="ETH")
    step = int(np.argmax(sold.values))
    assert float(sold[step]) > 0.99 * float(abs(sold).sum()) > 5e8
    # held by somebody with ten times the equity, who is not closed
    [trader] = _plan(name).scenarios[0].behaviour.traders
    capital = ", ".join(f"{asset} = {10 * usd}" for asset, usd in trader.capital_usd.items())
    solid = f"capital_usd={{{capital}}}, leverage={trader.leverage / 10}, exponent=0, response_minutes=1e9, maintenance={trader.maintenance}"
    other, _ = _run(name, f"scenario.behaviour.traders=[{{kind='leverage_target', pool='{pool}', {solid}}}]")
    assert float(abs(other.trader_net_usd).max()) < 1e6
    assert _total(ds.deficit_usd, pool=pool) > _total(other.deficit_usd, pool=pool)
    prices = [float(x.venue_price_usd.sel(pool=pool, asset="ETH")[step]) for x in (ds, other)]
    assert prices[0] < 0.99 * prices[1]


@pytest.mark.slow
def test_the_stablecoin_dies_inside_the_system():
    ds, _ = _run("2022-05-09_terra")
    assert _total(ds.deficit_usd, pool="lender_b") > 1e6 and _total(ds.deficit_usd, pool="large_venue") > 0
    # pledged coins are sold, and are worth nothing any more
    assert _total(ds.closed_long_usd, pool="lender_b", asset="UST") > 1e7 and _total(ds.closed_long_usd, pool="dollar_lender", asset="LUNA") > 1e7
    assert float(ds.price_usd.sel(asset="LUNA")[-1] / ds.price_usd.sel(asset="LUNA")[0]) < 1e-5
    # with a dollar that stays one the lender that takes it loses nothing
    prices = load_plan("2022-05-09_terra").scenarios[0].paths["UST"].prices
    kept, _ = _run("2022-05-09_terra", f"scenario.paths.UST.prices={[1.0] * len(prices)}")
    assert _total(kept.deficit_usd, pool="lender_b") < 0.05 * _total(ds.deficit_usd, pool="lender_b")


@pytest.mark.slow
def test_the_venues_own_token_takes_the_venue_with_it():
    ds, metrics = _run("2022-11-07_ftx")
    assert _total(ds.deficit_usd, pool="venue_credit") > 1e8
    assert float(ds.paid_share.sel(pool="venue_credit")[-1]) < 1
    assert float(ds.credit_loss_usd.sel(pool="mid_venue")[-1]) > 0 > float(ds.net_worth_usd.sel(pool="mid_venue")[-1])
    assert metrics["insolvent_pools"] >= 2
    # with a token that keeps its price nothing of this happens
    prices = load_plan("2022-11-07_ftx").scenarios[0].paths["FTT"].prices
    kept, _ = _run("2022-11-07_ftx", f"scenario.paths.FTT.prices={[prices[0]] * len(prices)}")
    assert float(kept.net_worth_usd.sel(pool="venue_credit")[-1]) > 0
    assert _total(kept.deficit_usd, pool="venue_credit") < 0.05 * _total(ds.deficit_usd, pool="venue_credit")
