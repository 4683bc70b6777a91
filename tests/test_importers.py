"""Public data become system files and books that say what they are made of."""

import csv
import gzip
import tomllib
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from stresslev.book.files import COLUMNS
from stresslev.errors import InputError
from stresslev.importers import aave, crvusd, crvusd_system, quotes
from stresslev.importers.system_file import ALIASES, FIGURES, asset_names
from stresslev.toml import Inline, toml_text

HEADER = (
    "market,date,symbol,ltv,liq_threshold,liq_bonus,liq_protocol_fee,reserve_factor,supply_cap,borrow_cap,debt_ceiling,borrowing,collateral,frozen,"
    "emode,oracle_price_usd,optimal_usage,base_rate,slope1,slope2\n"
)
TABLE = (
    HEADER
    + "AaveV3Test,20231031,WETH,0.805,0.83,0.050000000000000044,0.1,0.15,1000000,500000,0,True,True,False,1.0,2000.0,0.8,0.0,0.038,0.8\n"
    + "AaveV3Test,20231031,USDC,0.77,0.8,0.045,0.2,0.1,1000000000,800000000,0,True,True,False,0.0,1.0,0.9,0.0,0.035,0.6\n"
    + "AaveV3Test,20231031,USDC,0.77,0.8,0.045,0.1,0.1,5000000,5000000,0,True,True,False,0.0,1.0,0.9,0.0,0.035,0.6\n"
    + "AaveV3Test,20231031,GHO,0.0,0.0,0.0,0.1,0.0,0,35000000,0,True,False,False,0.0,1.0,0.0,0.03,0.0,0.0\n"
    + "AaveV3Test,20231031,ODD.e,0.3,0.4,0.1,0.1,0.2,1000,100,0,True,True,True,0.0,5.0,0.45,0.0,0.07,3.0\n"
    + "AaveV2Test,20231103,WETH,0.8,0.825,0.05,0.0,0.7,,,0,True,True,False,,10000000000.0,0.4,0.0,0.04,1.67\n"
    + "AaveV2Test,20231103,USDC,0.8,0.85,0.05,0.0,0.48,,,0,True,True,False,,0.0005,0.77,0.0,0.04,1.34\n"
    + "AaveV2Test,20231103,WBTC,0.7,0.75,0.1,0.0,0.8,,,0,True,True,False,,18.8,0.37,0.0,0.04,5.36\n"
)
EMODES = "market,date,id,label,ltv,lt,bonus\nAaveV3Test,20231031,1,ETH correlated,0.9,0.93,0.01\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "reserves_test.csv"
    path.write_text(TABLE, encoding="utf-8")
    (tmp_path / "emodes_test.csv").write_text(EMODES, encoding="utf-8")
    return path


def test_text_of_a_system_reads_back_as_the_same_tables():
    data = {
        "a": 'say "x" \\ ü',
        "n": 1,
        "b.c": {"on": True, "rate": Inline(base=1e-9, top=2.5), "deep": {"list": ["one", "two"]}},
        "none": {"x": {"y": 0.1}},
    }
    assert tomllib.loads(toml_text(data)) == data


def test_an_aave_market_becomes_a_lending_pool(table):
    data = tomllib.loads(aave.system(table, "AaveV3Test", assets=["WETH", "USDC"], accounts=10))
    assert data["kind"] == "system" and data["name"] == "aave_v3_test" and data["book"] == {"accounts": 10}
    assert data["assets"]["ETH"]["price_usd"] == 2000
    [pool] = data["pools"].values()
    assert pool["kind"] == "lending" and pool["liquidation"] == {"rule": "close_factor", "close_factor": 0.5, "full_below": 0.95}
    assert pool["reserves"].keys() == data["assets"].keys() == {"ETH", "USDC"}
    assert pool["reserves"]["ETH"] == {
        "ltv": 0.805,
        "liquidation_threshold": 0.83,
        "bonus": 0.05,
        "collateral": True,
        "borrowable": True,
        "reserve_factor": 0.15,
        "rate": {"optimal": 0.8, "base": 0.0, "slope1": 0.038, "slope2": 0.8},
        "supplied_usd": 0.3 * 1e6 * 2000,
        "borrowed_usd": 0.3 * 5e5 * 2000,
    }


def test_assumed_use_stays_below_the_kink(table):
    reserves = tomllib.loads(aave.system(table, "AaveV3Test", cap_share=1.0))["pools"]["aave_v3_test"]["reserves"]
    assert reserves["USDC_2"]["borrowed_usd"] == pytest.approx(0.9 * 0.9 * reserves["USDC_2"]["supplied_usd"])
    for reserve in reserves.values():
        assert reserve.get("borrowed_usd", 0) <= reserve["rate"]["optimal"] * reserve.get("supplied_usd", 0)


def test_what_is_left_out_and_what_is_no_collateral_is_said(table):
    data = tomllib.loads(aave.system(table, "AaveV3Test"))
    assert list(data["assets"]) == ["ETH", "USDC", "USDC_2", "GHO"]
    gho = data["pools"]["aave_v3_test"]["reserves"]["GHO"]
    assert not gho["collateral"] and gho["borrowable"] and "supplied_usd" not in gho
    said = " ".join(data["assumptions"])
    for words in (
        "Left out (frozen, or of no known market depth): ODD.e",
        "No collateral here: GHO",
        "numbered in the order of the table: USDC_2",
        "USDC 0.2",
    ):
        assert words in said
    odd = aave.system(table, "AaveV3Test", assets=["WETH", "ODD.e"], depth_usd={"ODD.e": 1e5})
    reserve = tomllib.loads(odd)["pools"]["aave_v3_test"]["reserves"]["ODD.e"]
    assert (reserve["collateral"], reserve["borrowable"], reserve["liquidation_threshold"]) == (False, False, 0)


def test_an_efficiency_mode_is_a_pool_of_its_own(table):
    data = tomllib.loads(aave.system(table, "AaveV3Test", emode="ETH correlated"))
    assert data == tomllib.loads(aave.system(table, "AaveV3Test", emode=1))
    [reserve] = data["pools"]["aave_v3_test_emode_1"]["reserves"].values()
    assert (reserve["ltv"], reserve["liquidation_threshold"], reserve["bonus"]) == (0.9, 0.93, 0.01)
    with pytest.raises(InputError, match="did you mean 'ETH correlated'"):
        aave.system(table, "AaveV3Test", emode="ETH corelated")


def test_the_first_wrapped_coin_goes_by_the_name_that_scenarios_know():
    names = asset_names(["WBTC.e", "BTC.b", "WETH.e", "WETH_2", "USDC"])
    assert names == {"WBTC.e": "BTC", "BTC.b": "BTC.b", "WETH.e": "ETH", "WETH_2": "WETH_2", "USDC": "USDC"}


def test_every_asset_has_a_path_or_is_said_to_need_one(table):
    wsteth = "AaveV3Test,20231031,wstETH,0.785,0.81,0.06,0.1,0.15,1000,100,0,True,True,False,1.0,2290.0,0.45,0.0025,0.045,0.8\n"
    table.write_text(TABLE + wsteth, encoding="utf-8")
    data = tomllib.loads(aave.system(table, "AaveV3Test", assets=["wstETH", "USDC", "ODD.e"], depth_usd={"ODD.e": 1e5}))
    assert data["assets"]["wstETH"]["follows"] == {"asset": "ETH", "ratio": 1.145} and data["assets"]["USDC"]["peg_usd"] == 1
    assert list(data["assets"]) == ["wstETH", "USDC", "ODD.e", "ETH"] and "ETH" not in data["pools"]["aave_v3_test"]["reserves"]
    said = " ".join(data["assumptions"])
    assert "ETH is here for its price alone" in said and "A scenario has to give a path for ODD.e." in said


def test_a_reserve_that_would_leave_bad_debt_by_itself_is_refused(table):
    table.write_text(TABLE.replace("0.83,0.050000000000000044", "0.98,0.05", 1), encoding="utf-8")
    with pytest.raises(InputError, match="a liquidation at the threshold leaves bad debt") as error:
        aave.system(table, "AaveV3Test")
    assert "reserves.ETH" in str(error.value)


def test_a_market_that_quotes_in_eth_is_put_into_dollars(table):
    assets = tomllib.loads(aave.system(table, "AaveV2Test"))["assets"]
    assert (assets["ETH"]["price_usd"], assets["USDC"]["price_usd"], assets["BTC"]["price_usd"]) == pytest.approx((2000, 1, 37600))
    given = tomllib.loads(aave.system(table, "AaveV2Test", eth_price_usd=1900.0))["assets"]
    assert given["USDC"]["price_usd"] == pytest.approx(0.95)


def test_the_users_figures_come_before_the_defaults(table):
    text = aave.system(table, "AaveV3Test", assets=["WETH", "USDC"], depth_usd={"WETH": 4e7}, volatility=0.6, supplied_usd={"WETH": 2e9})
    data = tomllib.loads(text)
    assert data["assets"]["ETH"] | {"depth_usd": 4e7, "volatility": 0.6} == data["assets"]["ETH"]
    assert data["assets"]["USDC"]["depth_usd"] == FIGURES["USDC"].depth_usd
    assert data["pools"]["aave_v3_test"]["reserves"]["ETH"]["supplied_usd"] == 2e9
    assert "exponent of WETH" not in " ".join(data["assumptions"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"market": "AaveV3Tset"}, "did you mean 'AaveV3Test'"),
        ({"assets": ["WETHH"]}, "did you mean 'WETH'"),
        ({"assets": ["WETH", "ODD.e"]}, "assets.ODD.e.depth_usd: is not in the data and has no default"),
        ({"assets": ["GHO"]}, "leaves no collateral or nothing to borrow"),
        ({"depth_usd": {"WETHH": 1.0}}, "did you mean 'WETH'"),
        ({"depth_usd": -1.0}, "is not a number above zero"),
        ({"volatility": float("nan")}, "is not a number above zero"),
        ({"supplied_usd": {"WETH": "much"}}, "assets.WETH.supplied_usd = 'much': is not a number above zero"),
        ({"cap_share": 30}, "cap_share = 30: is no share"),
    ],
)
def test_names_and_figures_of_the_user_are_checked(more, said, table):
    with pytest.raises(InputError, match=r"reserves_test\.csv") as error:
        aave.system(table, **({"market": "AaveV3Test"} | more))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.805", "80.5", "row 1, column ltv = 80.5: is above 1"),
        ("0.805", "nan", "row 1, column ltv = 'nan': is not a number"),
        ("0.805", "", "row 1, column ltv: is empty"),
        ("True,True,False,1.0,2000.0", "yes,True,False,1.0,2000.0", "row 1, column borrowing"),
        ("2000.0", "0", "row 1, column oracle_price_usd"),
        ("slope2", "slope3", "column slope2: is missing"),
    ],
)
def test_a_wrong_cell_is_named_by_row_and_column(old, new, said, table):
    table.write_text(TABLE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as error:
        aave.system(table, "AaveV3Test")
    assert said in str(error.value)


def test_every_real_market_becomes_a_system(real_data):
    if real_data is None:
        return
    path = real_data / "aave_v3_params" / "reserves_20231031.csv"
    names = aave.markets(path)
    assert len(names) == 6
    for name in names:
        data = tomllib.loads(aave.system(path, name))
        [pool] = data["pools"].values()
        for reserve in pool["reserves"].values():
            assert reserve["ltv"] <= reserve["liquidation_threshold"] and reserve["liquidation_threshold"] * (1 + reserve["bonus"]) <= 1
    everything = tomllib.loads(aave.system(path, "AaveV3Avalanche", depth_usd=1e6))
    assert everything["assets"]["WBTC.e"]["follows"]["asset"] == "BTC" and "MAI" not in everything["assets"]
    prices = tomllib.loads(aave.system(path, "AaveV2Polygon"))["assets"]
    assert prices["ETH"]["price_usd"] == pytest.approx(1898.19, abs=0.01)


def _quotes(tmp_path, exponent, average, price=2000.0):
    lines = ["timestamp,src,dst,in_units,out_units,price_impact"]
    for usd in np.geomspace(1e3, 1e8, 200):
        impact = 1 - np.exp(-0.01 * (usd / average) ** exponent)
        lines.append(f"1,WETH,USDC,{usd / price:.17g},{usd * (1 - impact):.17g},{impact:.17g}")
    path = tmp_path / "quotes.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_fit_recovers_a_power_law(tmp_path):
    found = quotes.fit(_quotes(tmp_path, 0.7, 2e7), "WETH")
    assert found.exponent == pytest.approx(0.7, abs=1e-6) and found.depth_average_usd == pytest.approx(2e7, rel=1e-5)


def test_depth_is_that_of_the_price_and_not_of_the_average(tmp_path):
    found = quotes.fit(_quotes(tmp_path, 0.7, 2e7), "WETH")
    size = np.linspace(0, found.depth_usd, 100_001)[1:]
    price_move = 0.01 * (size / found.depth_usd) ** found.exponent
    assert price_move.mean() == pytest.approx(0.01 * (found.depth_usd / found.depth_average_usd) ** found.exponent, rel=1e-4)


def test_quotes_that_show_no_curve_are_refused(tmp_path):
    path = _quotes(tmp_path, 0.7, 2e7)
    with pytest.raises(InputError, match="did you mean 'WETH'"):
        quotes.fit(path, "wETH")
    with pytest.raises(InputError, match="a curve needs 3"):
        quotes.fit(path, "WETH", into=("DAI",))
    path.write_text(path.read_text(encoding="utf-8").replace("price_impact", "impact"), encoding="utf-8")
    with pytest.raises(InputError, match="column price_impact"):
        quotes.fit(path, "WETH")


def test_the_measured_defaults_are_those_of_the_real_quotes(real_data):
    if real_data is None:
        return
    path = real_data / "crvusd_positions_quotes" / "oneinch_quotes_20231120.csv.gz"
    symbols = {asset: symbol for symbol, asset in reversed(ALIASES.items())}
    for asset, given in FIGURES.items():
        if given.measured:
            found = quotes.fit(path, symbols.get(asset, asset))
            assert (given.depth_usd, given.impact_exponent) == pytest.approx((found.depth_usd, found.exponent), rel=0.03), asset


def _states(n_days=9, per_day=40, seed=1):
    """Daily snapshots of one market: loans come and go, interest runs, some change their collateral, a few are twins."""
    rng = np.random.default_rng(seed)
    loans, rows, day = [], [], []
    for d in range(n_days):
        loans = [loan for loan in loans if rng.random() > 0.04]
        while len(loans) < per_day + 3 * d:
            value = rng.uniform(1, 100)
            loans.append([1000 * value * rng.uniform(0.3, 2.2), value, rng.choice([4, 10])])
            if rng.random() < 0.01:
                loans.append(list(loans[-1]))
        for loan in loans:
            loan[0] *= 1 + 0.08 / 365
            if rng.random() < 0.08:
                loan[1] *= rng.uniform(0.9, 1.1)
            rows.append(tuple(loan))
            day.append(d)
    debt, collateral, bands = map(np.array, zip(*rows, strict=True))
    market = np.array(["weth"] * len(rows), dtype=object)
    return crvusd.States("made up", market, debt, collateral, bands.astype(np.int64)), np.array(day)


def test_the_day_of_every_state_is_told_without_prices():
    for seed in range(5):
        states, day = _states(seed=seed)
        found = crvusd.days(states)
        assert found.max() == day.max()
        assert (found != day).sum() <= day.max()  # one row per edge on average, where loans changed overnight


def test_loan_to_value_uses_the_price_of_the_day():
    states, day = _states()
    prices = 2000.0 + 10 * np.arange(9)
    found = crvusd.loan_to_value(states, {"weth": prices})
    same = crvusd.days(states) == day
    np.testing.assert_allclose(found[same], (states.debt / states.collateral / prices[day])[same], rtol=1e-14)
    with pytest.raises(InputError, match="shows 9 daily snapshots where prices of 8 days are given"):
        crvusd.loan_to_value(states, {"weth": prices[:8]})


def test_the_most_that_can_be_borrowed_is_what_curve_says():
    assert crvusd.band_value(4, 0.09) == pytest.approx(0.89, abs=0.005)  # Curve governance, "Add WBTC market to crvUSD": 89%
    bands = np.arange(4, 51)
    by_band = [np.mean(0.99 ** (np.arange(n) + 0.5)) for n in bands]  # the geometric middle of each band, an equal part in each
    np.testing.assert_allclose(crvusd.band_value(bands, 0.0), by_band, rtol=1e-12)


def test_a_book_keeps_debts_and_loan_to_values_at_other_prices():
    states, _ = _states()
    ltv = crvusd.loan_to_value(states, {"weth": np.full(9, 2000.0)})
    price = {"ETH": 3000.0, "crvUSD": 0.99}
    rows = crvusd.book(states, ltv, price)
    assert tuple(rows.column_names) == COLUMNS
    fine = crvusd.admissible(states, ltv)
    assert 0 < fine.sum() < len(states)
    quantity = np.asarray(rows["quantity"]).reshape(-1, 2)
    assert rows["asset"].to_pylist()[:2] == ["ETH", "crvUSD"] and (quantity[:, 0] > 0).all() and (quantity[:, 1] < 0).all()
    np.testing.assert_allclose(-quantity[:, 1] * 0.99, states.debt[fine], rtol=1e-12)
    np.testing.assert_allclose(-quantity[:, 1] * 0.99 / (quantity[:, 0] * 3000), ltv[fine], rtol=1e-12)
    assert rows["entry_price_usd"].null_count == rows.num_rows and len(set(rows["account"].to_pylist())) == fine.sum()


def test_a_draw_depends_on_its_seed_only_and_a_day_is_that_day():
    states, _ = _states()
    ltv = crvusd.loan_to_value(states, {"weth": np.full(9, 2000.0)})
    price = {"ETH": 2000.0, "crvUSD": 1.0}
    one = crvusd.book(states, ltv, price, loans=500, seed=3)
    assert one.num_rows == 1000 and one.equals(crvusd.book(states, ltv, price, loans=500, seed=3))
    assert not one.equals(crvusd.book(states, ltv, price, loans=500, seed=4))
    last = crvusd.book(states, ltv, price, day=8)
    assert last.num_rows == 2 * (crvusd.admissible(states, ltv) & (crvusd.days(states) == 8)).sum()
    for wrong in ({"loans": 0}, {"loans": 1.5}, {"day": 77}):
        with pytest.raises(InputError):
            crvusd.book(states, ltv, price, **wrong)
    with pytest.raises(InputError, match=r"price_usd\.crvUSD"):
        crvusd.book(states, ltv, {"ETH": 2000.0})


def test_the_borrowing_rate_is_the_growth_of_debts():
    states, _ = _states()
    assert crvusd.borrowing_rate(states)["weth"] == pytest.approx(0.08, rel=1e-3)


def test_a_crvusd_system_names_its_book_and_its_assumptions(tmp_path):
    states, _ = _states()
    states = replace(states, n_bands=np.full(len(states), 10))
    ltv = crvusd.loan_to_value(states, {"weth": np.full(9, 2000.0)})
    price = {"ETH": 2000.0, "crvUSD": 1.0}
    data = tomllib.loads(crvusd_system.system(states, ltv, price, book_file="book.parquet", depth_usd={"ETH": 1e7}))
    assert data["book"] == {"file": "book.parquet"} and data["assets"]["ETH"]["depth_usd"] == 1e7
    reserves = data["pools"]["crvusd"]["reserves"]
    assert reserves["ETH"]["liquidation_threshold"] == pytest.approx(0.8943, abs=1e-4) and reserves["ETH"]["ltv"] == pytest.approx(0.8658, abs=1e-4)
    assert not reserves["crvUSD"]["collateral"] and reserves["crvUSD"]["rate"]["base"] == pytest.approx(0.08, rel=1e-2)
    assert any("not modelled" in sentence for sentence in data["assumptions"])
    crvusd.write_book(crvusd.book(states, ltv, price, loans=5), tmp_path / "book.parquet")
    assert pq.read_table(tmp_path / "book.parquet").num_rows == 10


def test_a_calibration_finds_the_figures_that_loans_were_drawn_with():
    rng = np.random.default_rng(8)
    n = 20_000
    health = 1 + 0.6 * np.exp(0.8 * rng.standard_normal(n))
    threshold = crvusd.band_value(10, crvusd.LIQUIDATION_DISCOUNT)
    debt = 1e4 * (1 - rng.random(n)) ** (-1 / 1.5)
    states = crvusd.States("made up", np.array(["weth"] * n, dtype=object), debt, debt * health / threshold / 2000, np.full(n, 10))
    ltv = threshold / health
    found = crvusd_system.calibrate(states, ltv)
    kept = crvusd.admissible(states, ltv)
    assert found.loans == kept.sum() and 0.95 < kept.mean() < 1
    assert found.borrowed_usd == pytest.approx(debt[kept].sum(), rel=1e-6)
    assert found.supplied_usd == {"ETH": pytest.approx((debt / ltv)[kept].sum(), rel=1e-6)}
    assert (found.health_median, found.health_sigma, found.pareto_exponent) == pytest.approx((1.6, 0.8, 1.5), abs=0.08)
    assert found.largest_account_share == pytest.approx(debt[kept].max() / debt[kept].sum(), abs=1e-4)
    with pytest.raises(InputError, match="a calibration needs 20"):
        crvusd_system.calibrate(crvusd.States("x", states.market[:5], debt[:5], states.collateral[:5], states.n_bands[:5]), ltv[:5])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("market,debt_crvusd,collateral\nweth,1,1\n", "column n_bands: is missing"),
        ("market,debt_crvusd,collateral,n_bands\nwethh,1,1,4\n", "did you mean 'weth'"),
        ("market,debt_crvusd,collateral,n_bands\nweth,1,1,4\nweth,-5,1,4\n", "row 2, column debt_crvusd = -5"),
        ("market,debt_crvusd,collateral,n_bands\nweth,much,1,4\n", "column debt_crvusd = string: is not a column of numbers"),
        ("market,debt_crvusd,collateral,n_bands\nweth,1,1,4.5\n", "row 1, column n_bands = 4.5"),
        ("market,debt_crvusd,collateral,n_bands\n", "holds no rows"),
    ],
)
def test_states_that_cannot_be_are_refused(text, said, tmp_path):
    (tmp_path / "states.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        crvusd.read(tmp_path / "states.csv")
    assert said in str(error.value)


@pytest.fixture(scope="module")
def real_states():
    return {}


def _real(real_data, cache):
    if "states" not in cache:
        cache["states"] = crvusd.read(real_data / "crvusd_positions_quotes" / "crvusd_user_state_snapshots_20231001_20240101.csv.gz")
        cache["days"] = crvusd.days(cache["states"])
        cache["ltv"] = crvusd.loan_to_value(cache["states"])
    return cache["states"], cache["days"], cache["ltv"]


def test_every_real_market_shows_the_93_days_of_the_quarter(real_data, real_states):
    if real_data is None:
        return
    states, day, _ = _real(real_data, real_states)
    assert len(states) == 78126
    assert {m: int(day[states.market == m].max()) + 1 for m in states.markets} == dict.fromkeys(("weth", "wsteth", "wbtc", "sfrxeth"), 93)


def test_prices_that_the_days_were_not_told_by_agree_with_them(real_data, real_states):
    """Fewest loans lie above what can be borrowed at the prices of the very day, and more the further the prices are shifted."""
    if real_data is None:
        return
    states, day, _ = _real(real_data, real_states)
    above = []
    for shift in (-3, -2, -1, 0, 1, 2):
        count = 0
        for market, prices in crvusd.day_prices().items():
            rows = (states.market == market) & (day >= 3) & (day < 91)
            at = states.debt[rows] / states.collateral[rows] / prices[day[rows] + shift]
            count += int((at > crvusd.band_value(states.n_bands[rows], crvusd.LOAN_DISCOUNT)).sum())
        above.append(count)
    assert np.argmin(above) == 3 and above[0] > above[1] > above[2] > above[3] < above[4] < above[5]


def test_the_real_loans_end_where_curve_stops_lending(real_data, real_states):
    if real_data is None:
        return
    states, _, ltv = _real(real_data, real_states)
    edge = ltv / crvusd.band_value(states.n_bands, crvusd.LOAN_DISCOUNT)
    below, above = ((edge > 0.97) & (edge <= 1.0)).sum(), ((edge > 1.0) & (edge <= 1.03)).sum()
    assert below > 2.5 * above
    assert crvusd.admissible(states, ltv).mean() == pytest.approx(0.954, abs=0.005)


def test_the_shipped_prices_are_binances(real_data):
    if real_data is None:
        return
    prices = crvusd.day_prices()
    for market, name in (("weth", "ethusdt"), ("wbtc", "btcusdt")):
        with gzip.open(real_data / "binance_btc_eth_hourly" / f"{name}_1h_2017_2023.csv.gz", "rt") as handle:
            rows = list(csv.DictReader(handle))
        opens = [float(r["open"]) for r in rows if r["time"] >= "20231001" and r["time"].endswith(" 00:00")]
        assert prices[market].tolist() == [*opens, float(rows[-1]["close"])]
