"""`stresslev import` as a user meets it: files that run, exit codes, and nothing half-written; and tier files named by a system."""

import json
import tomllib

import numpy as np
import pyarrow.parquet as pq
import pytest

from stresslev.cli import main
from stresslev.config.load import load_plan, load_system, shipped_scenarios
from stresslev.importers import crvusd
from stresslev.opening import load_book, shock_of
from tests.test_importers import EMODES, TABLE, _states

STATES = "crvusd_user_state_snapshots_20231001_20240101.csv.gz"


def _call(*arguments, code=0):
    """Run in this process; returns nothing, asserts the exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


@pytest.fixture
def reserves(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reserves_test.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "data" / "emodes_test.csv").write_text(EMODES, encoding="utf-8")
    return tmp_path / "data" / "reserves_test.csv"


@pytest.fixture
def loans(tmp_path, monkeypatch):
    """A file of states of one market over nine days, and prices for nine days."""
    states, _ = _states()
    columns = (states.market, states.debt, states.collateral, states.n_bands)
    lines = [",".join(map(str, row)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "states.csv"
    path.write_text("\n".join(["market,debt_crvusd,collateral,n_bands", *lines]), encoding="utf-8")
    monkeypatch.setattr(crvusd, "day_prices", lambda: {"weth": np.full(9, 2000.0)})
    return path


def test_an_aave_market_is_imported_and_runs(reserves, tmp_path, capsys):
    out = tmp_path / "deep" / "system.toml"
    _call("import", "aave", reserves, "--market", "AaveV3Test", "--asset", "WETH", "--asset", "USDC", "--accounts", 50, "--out", out)
    said = capsys.readouterr().out
    assert "pool aave_v3_test, reserves ETH, USDC" in said and "note: " in said
    assert [p.name for p in out.parent.iterdir()] == ["system.toml"]
    spec = load_system(out)
    assert spec.book.accounts == 50 and spec.pools["aave_v3_test"].reserves["ETH"].liquidation_threshold == 0.83
    for scenario in ("2020-03-12_black_thursday", "2022-06-13_staked_ether", "2023-03-11_usdc_depeg", "2025-10-10_adl_cascade", "gap_35_half_depth"):
        plan = load_plan(scenario, system=out)
        assert len(load_book(plan, shock_of(plan, plan.scenarios[0]))) == 50


def test_options_of_the_aave_import_reach_the_file(reserves, tmp_path):
    out = tmp_path / "system.toml"
    command = ("import", "aave", reserves, "--market", "AaveV3Test", "--asset", "WETH", "--asset", "USDC", "--asset", "ODD.e", "--out", out)
    figures = ("--depth", "WETH=4e7", "--depth", "ODD.e=1e5", "--volatility", "WETH=0.6")
    _call(*command, *figures, "--cap-share", "0.1", "--supplied", "USDC=5e7", "--borrowed", "USDC=1e7")
    data = tomllib.loads(out.read_text(encoding="utf-8"))
    assert (data["assets"]["ETH"]["depth_usd"], data["assets"]["ETH"]["volatility"], data["assets"]["ODD.e"]["depth_usd"]) == (4e7, 0.6, 1e5)
    kept = data["pools"]["aave_v3_test"]["reserves"]
    assert any("Totals of USDC were given by hand" in line for line in data["assumptions"])
    assert kept["ETH"]["supplied_usd"] == 0.1 * 1e6 * 2000 and (kept["USDC"]["supplied_usd"], kept["USDC"]["borrowed_usd"]) == (5e7, 1e7)
    _call("import", "aave", reserves, "--market", "AaveV3Test", "--emode", "ETH correlated", "--out", out)
    named = tomllib.loads(out.read_text(encoding="utf-8"))["pools"]
    _call(*("import", "aave", reserves, "--market", "AaveV3Test", "--emode", "1", "--emodes", reserves.with_name("emodes_test.csv"), "--out", out))
    assert named == tomllib.loads(out.read_text(encoding="utf-8"))["pools"] and list(named) == ["aave_v3_test_emode_1"]
    _call("import", "aave", reserves, "--market", "AaveV2Test", "--eth-price", "1900", "--out", out)
    assert tomllib.loads(out.read_text(encoding="utf-8"))["assets"]["ETH"]["price_usd"] == 1900


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--market", "AaveV3Tset"), "did you mean 'AaveV3Test'"),
        (("--depth", "WETH"), "--depth: WETH: is not ASSET=NUMBER"),
        (("--depth", "WETH=deep"), "is not ASSET=NUMBER"),
        (("--depth", "WETH=1e6", "--depth", "WETH=2e6"), "WETH is given twice"),
        (("--volatility", "WETH=-1"), "is not a number above zero"),
        (("--cap-share", "30"), "is no share"),
        (("--accounts", "0"), "accounts"),
        (("--asset", "GHO"), "leaves no collateral or nothing to borrow"),
        (("--emode", "7"), "is no efficiency mode"),
    ],
)
def test_a_bad_aave_import_exits_2_and_writes_nothing(reserves, tmp_path, capsys, more, said):
    _call("import", "aave", reserves, "--market", "AaveV3Test", "--out", tmp_path / "new" / "system.toml", *more, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert said in capsys.readouterr().err


def test_an_older_file_is_replaced_only_by_a_whole_new_one(reserves, tmp_path, capsys):
    out = tmp_path / "system.toml"
    out.write_text("older", encoding="utf-8")
    _call("import", "aave", reserves, "--market", "nowhere", "--out", out, code=2)
    assert out.read_text(encoding="utf-8") == "older"
    _call("import", "aave", reserves, "--market", "AaveV3Test", "--out", out)
    assert load_system(out).name == "aave_v3_test"
    _call("import", "aave", reserves, "--market", "AaveV3Test", "--out", tmp_path / "data", code=2)
    assert "is a folder" in capsys.readouterr().err


def test_a_book_of_loans_is_imported_with_its_system(loans, tmp_path, capsys):
    book, system = tmp_path / "books" / "book.parquet", tmp_path / "systems" / "system.toml"
    _call("import", "crvusd", loans, "--out", book, "--system-out", system, "--day", 8, "--depth", "ETH=1e7")
    rows = pq.read_table(book).num_rows
    assert f"{rows // 2} loans" in capsys.readouterr().out
    assert load_system(system).book.file == "../books/book.parquet" and load_system(system).assets["ETH"].depth_usd == 1e7
    _call("book", "check", book, "--system", system)
    plan = load_plan("gap_35_half_depth", system=system)
    assert len(load_book(plan, shock_of(plan, plan.scenarios[0]))) == rows // 2
    _call("import", "crvusd", loans, "--out", tmp_path / "draw.csv", "--system-out", system, "--loans", 30, "--seed", 4)
    text = (tmp_path / "draw.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 61
    _call("import", "crvusd", loans, "--out", tmp_path / "draw.csv", "--system-out", system, "--loans", 30, "--seed", 5)
    assert (tmp_path / "draw.csv").read_text(encoding="utf-8") != text


def test_without_a_book_borrowers_are_sampled(loans, tmp_path):
    _call("import", "crvusd", loans, "--system-out", tmp_path / "system.toml", "--day", 8)
    plan = load_plan("gap_35_half_depth", system=tmp_path / "system.toml")
    book = load_book(plan, shock_of(plan, plan.scenarios[0]))
    states, ltv = crvusd.read(loans), crvusd.loan_to_value(crvusd.read(loans))
    owed = states.debt[crvusd.pick(states, ltv, None, 8, 0)]
    assert len(book) == len(owed) and -np.minimum(book.quantity, 0).sum() == pytest.approx(owed.sum(), abs=1)


@pytest.mark.parametrize("more", [("--day", "77"), ("--loans", "0"), ("--depth", "BTC=1e7"), ("--out", "system.toml")])
def test_a_bad_crvusd_import_exits_2_and_writes_nothing(loans, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    arguments = ("--out", "book.parquet", "--system-out", "system.toml", *more)
    _call("import", "crvusd", loans, *arguments, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_neither_file_is_written_when_one_place_cannot_be(loans, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for book, system in (("file/book.parquet", "system.toml"), ("book.parquet", "file/system.toml"), ("data", "system.toml")):
        _call("import", "crvusd", loans, "--out", tmp_path / book, "--system-out", tmp_path / system, code=2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


def test_the_shipped_systems_are_the_imports_of_the_real_data(real_data, tmp_path):
    if real_data is None:
        return
    table = real_data / "aave_v3_params" / "reserves_20231031.csv"
    options = [x for a in ("WETH", "wstETH", "WBTC", "USDC", "USDT", "DAI") for x in ("--asset", a)]
    options += [x for total in ("WETH=100e6", "wstETH=5e6", "WBTC=20e6") for x in ("--borrowed", total)]
    _call("import", "aave", table, "--market", "AaveV3Ethereum", *options, "--out", tmp_path / "aave_v3_ethereum.toml")
    _call("import", "crvusd", real_data / "crvusd_positions_quotes" / STATES, "--day", 92, "--system-out", tmp_path / "crvusd.toml")
    for name in ("aave_v3_ethereum.toml", "crvusd.toml"):
        shipped = (shipped_scenarios() / "systems" / name).read_text(encoding="utf-8")
        assert tomllib.loads(shipped) == tomllib.loads((tmp_path / name).read_text(encoding="utf-8")), name


SYSTEM = """kind = "system"
name = "one_venue"
[assets.BTC]
depth_usd = 1e8
volatility = 0.5
[tiers.linear]
file = "tiers.json"
symbol = "BTC/USDT:USDT"
[tiers.coin]
file = "tiers.json"
symbol = "BTC/USD:BTC"
price_usd = { BTC = 50000.0 }
[pools.linear]
insurance_fund_usd = 1e6
tiers = { BTC = "linear" }
open_interest_usd = { BTC = 1e8 }
[pools.coin]
insurance_fund_usd = 1e6
tiers = { BTC = "coin" }
inverse = ["BTC"]
open_interest_usd = { BTC = 1e8 }
[book]
accounts = 64
"""


def _tier(number, low, high, rate, leverage, currency):
    return {"tier": number, "currency": currency, "minNotional": low, "maxNotional": high, "maintenanceMarginRate": rate, "maxLeverage": leverage}


@pytest.fixture
def venue(tmp_path):
    tiers = {
        "BTC/USDT:USDT": [_tier(1, 0, 5e5, 0.01, 50, "USDT"), _tier(2, 5e5, 1e9, 0.02, 25, "USDT")],
        "BTC/USD:BTC": [_tier(1, 0, 10, 0.01, 50, "BTC"), _tier(2, 10, 1e5, 0.02, 25, "BTC")],
    }
    (tmp_path / "system.toml").write_text(SYSTEM, encoding="utf-8")

    def put(change=None):
        if change:
            change(tiers)
        (tmp_path / "tiers.json").write_text(json.dumps(tiers), encoding="utf-8")
        return tmp_path / "system.toml"

    return put


def test_a_system_takes_its_tiers_from_the_json_of_ccxt(venue, tmp_path):
    system = venue()
    spec = load_system(system)
    linear, coin = spec.tiers["linear"], spec.tiers["coin"]
    assert linear.floors_usd == (0, 5e5) and coin.floors_usd == (0, 10 * 50000.0)
    assert coin.maintenance_rates == linear.maintenance_rates == (0.01, 0.02)
    out = tmp_path / "book.csv"
    _call("book", "sample", "--system", system, "--prices-of", "gap_35_half_depth", "--out", out)
    _call("book", "check", out, "--system", system, "--prices-of", "gap_35_half_depth")
    _call("run", "gap_35_half_depth", "--system", system, "--precision", "64", "--out", tmp_path / "r")
    metrics = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))["scenarios"]["gap_35_half_depth"]["metrics"]
    assert metrics["liquidated_accounts_share"] > 0 and metrics["total_residual"] < 1e-9


@pytest.mark.parametrize(
    ("symbol", "said"),
    [("BTC/USDT:USDT", "BTC/USDT:USDT tier 2 minNotional = 600000"), ("BTC/USD:BTC", "BTC/USD:BTC tier 2 minNotional = 12")],
)
def test_a_gap_in_the_tiers_exits_2_and_is_named_by_file_symbol_and_tier(venue, tmp_path, capsys, symbol, said):
    def gap(tiers):
        tiers[symbol][1]["minNotional"] *= 1.2

    _call("run", "gap_35_half_depth", "--system", venue(gap), "--out", tmp_path / "r", code=2)
    error = capsys.readouterr().err
    assert "tiers.json" in error and said in error and not (tmp_path / "r").exists()


def test_tiers_in_coins_need_the_price_of_the_coin(venue, capsys, tmp_path):
    system = venue()
    system.write_text(SYSTEM.replace("price_usd = { BTC = 50000.0 }", ""), encoding="utf-8")
    _call("run", "gap_35_half_depth", "--system", system, "--out", tmp_path / "r", code=2)
    assert "BTC/USD:BTC currency" in capsys.readouterr().err
