"""Leverage tiers from ccxt's JSON are those of the CSV dump, and what is wrong with a file is said by contract, tier and field."""

import copy
import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.config.tiers import read_tier_csv, read_tier_json, read_tiers
from stresslev.errors import InputError

CSV = """symbol,tier,min_notional,max_notional,mmr,max_leverage,cum
BTC/USDT:USDT,1,0,50000,0.004,125,0
BTC/USDT:USDT,2,50000,250000,0.005,100,50
BTC/USDT:USDT,3,250000,1000000,0.01,50,1300
"""


def tier(number, low, high, rate, leverage, currency="USDT", symbol="BTC/USDT:USDT", **info):
    """One entry, in the layout of the ccxt manual."""
    return {
        "tier": number,
        "symbol": symbol,
        "currency": currency,
        "minNotional": low,
        "maxNotional": high,
        "maintenanceMarginRate": rate,
        "maxLeverage": leverage,
        "info": info,
    }


def btc():
    """The contract of CSV as Binance's bracket endpoint gives it through ccxt: the deduction is text, in `info.cum`."""
    return [
        tier(1, 0, 50000, 0.004, 125, cum="0"),
        tier(2, 50000, 250000, 0.005, 100, cum="50.0"),
        tier(3, 250000, 1000000, 0.01, 50, cum="1300.0"),
    ]


def figures(table):
    return table.model_dump(exclude={"source"})


@pytest.fixture
def write(tmp_path):
    def put(data, name="tiers.json"):
        path = tmp_path / name
        text = data if isinstance(data, str) else json.dumps(data)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
        return path

    return put


@pytest.fixture
def complaint(write):
    def read(data, symbols=None, **more):
        with pytest.raises(InputError) as error:
            read_tiers(write(data), symbols, **more)
        assert "tiers.json" in str(error.value)
        assert all(p.fix for p in error.value.problems)
        return str(error.value)

    return read


def test_the_name_of_the_file_says_its_format(write):
    expected = figures(read_tier_csv(write(CSV, "tiers.csv"))["BTC/USDT:USDT"])
    for name, data in (
        ("tiers.csv", CSV),
        ("tiers.csv.gz", CSV),
        ("tiers.json", {"BTC/USDT:USDT": btc()}),
        ("tiers.json.gz", {"BTC/USDT:USDT": btc()}),
        ("list.json", btc()),
    ):
        assert figures(read_tiers(write(data, name))["BTC/USDT:USDT"]) == expected


def test_every_real_contract_is_the_same_in_both_formats(real_data, write):
    if real_data is None:
        return
    source = real_data / "binance_leverage_tiers" / "tiers_full_2026-09-29.csv.gz"
    contracts = {}
    with gzip.open(source, "rt", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            quote = row["symbol"].split("/")[1].split(":")[0]
            low, high, rate, leverage = (float(row[c]) for c in ("min_notional", "max_notional", "mmr", "max_leverage"))
            entry = tier(int(row["tier"]), low, high, rate, leverage, quote, row["symbol"], cum=row["cum"])
            contracts.setdefault(row["symbol"], []).append(entry)
    # contracts quoted in BTC are read by the CSV reader as if in dollars, so at a price of one they must agree
    read = read_tiers(write(contracts, "tiers.json.gz"), price_usd={"BTC": 1.0})
    expected = read_tier_csv(source)
    assert len(expected) == 907 and read.keys() == expected.keys()
    for symbol, table in expected.items():
        assert figures(read[symbol]) == figures(table), symbol


def test_null_ends_are_those_of_the_neighbours(write):
    entries = btc()
    entries[0]["minNotional"] = entries[1]["maxNotional"] = entries[2]["maxNotional"] = None
    entries[1]["minNotional"] = None
    assert figures(read_tiers(write({"BTC/USDT:USDT": entries}))["BTC/USDT:USDT"]) == figures(read_tiers(write(btc(), "b.json"))["BTC/USDT:USDT"])


def test_an_infinite_upper_end_is_an_open_one(write):
    text = json.dumps(btc()).replace("1000000", "Infinity")
    assert read_tiers(write(text))["BTC/USDT:USDT"].floors_usd == (0, 50000, 250000)


def test_figures_that_only_info_has_are_taken_from_there(write):
    given = {"bracket": "1", "initialLeverage": "75", "notionalCap": "10000", "notionalFloor": "0", "maintMarginRatio": "0.0065", "cum": "0.0"}
    entry = tier(1, None, None, None, None) | {"info": given}
    table = read_tiers(write([entry]))["BTC/USDT:USDT"]
    assert (table.floors_usd, table.maintenance_rates, table.max_leverage, table.maintenance_amounts_usd) == ((0,), (0.0065,), (75,), (0,))


def test_a_venue_without_deductions_gets_the_continuous_ones(write):
    entries = [{**e, "info": {}} for e in btc()]
    table = read_tiers(write(entries))["BTC/USDT:USDT"]
    assert table.maintenance_amounts_usd is None
    assert table.deductions().tolist() == [0, 50, 1300]


@pytest.mark.parametrize("name", ["cum", "mmDeduction", "deduction"])
def test_a_deduction_that_leaves_a_step_is_refused_by_whatever_name(name, complaint, write):
    entries = [{**e, "info": {name: v}} for e, v in zip(btc(), ["", "50", "1300"], strict=True)]
    assert read_tiers(write(entries, "fine.json"))["BTC/USDT:USDT"].maintenance_amounts_usd == (0, 50, 1300)
    entries[2]["info"][name] = "1200"
    assert "maintenance amount 1200 leaves a step in the requirement at 250000; give 1300, or leave it out" in complaint(entries)


def test_a_contract_in_coins_needs_a_price_and_is_converted_with_it(complaint, write):
    symbol = "BTC/USD:BTC"
    entries = [tier(1, 0, 5, 0.004, 125, "BTC", symbol, cum="0"), tier(2, 5, 10, 0.005, 100, "BTC", symbol, cum="0.005")]
    said = complaint({symbol: entries})
    assert "BTC/USD:BTC currency = 'BTC'" in said and "price_usd = {'BTC': ...}" in said
    table = read_tiers(write({symbol: entries}), price_usd={"BTC": 60000})[symbol]
    assert table.floors_usd == (0, 300000) and table.maintenance_amounts_usd == (0, 300)
    assert "60000 USD per BTC" in table.source
    assert "price_usd.BTC" in complaint({symbol: entries}, price_usd={"BTC": 0})


def test_a_missing_currency_is_read_off_the_name_of_the_contract(complaint, write):
    linear = {"BTC/USDT:USDT-261225": [{**e, "currency": None} for e in btc()]}
    assert read_tiers(write(linear))["BTC/USDT:USDT-261225"].floors_usd == (0, 50000, 250000)
    assert "notionals are in BTC" in complaint({"BTC/USD:BTC-261225": [{**e, "currency": None} for e in btc()]})
    assert "XBTUSD currency: is missing" in complaint({"XBTUSD": [{**e, "currency": None} for e in btc()]})


def test_only_the_named_contracts_are_looked_at(complaint, write):
    data = {"BTC/USDT:USDT": btc(), "BAD": "nonsense"}
    assert list(read_tiers(write(data, "a.json"), ["BTC/USDT:USDT"])) == ["BTC/USDT:USDT"]
    assert "did you mean 'BTC/USDT:USDT'" in complaint(data, ["BTC/USDT"])


def test_a_list_without_symbols_needs_one_name(complaint, write):
    entries = [{k: v for k, v in e.items() if k != "symbol"} for e in btc()]
    assert list(read_tiers(write(entries, "a.json"), ["BTC/USDT:USDT"])) == ["BTC/USDT:USDT"]
    assert "entry 1, symbol" in complaint(entries)


def _changed(number, field, value):
    entries = copy.deepcopy(btc())
    entries[number - 1][field] = value
    return {"BTC/USDT:USDT": entries}


@pytest.mark.parametrize(
    ("number", "field", "value", "said"),
    [
        (3, "minNotional", 260000, "BTC/USDT:USDT tier 3 minNotional = 260000: the tier begins at 260000 but the one before ends at 250000"),
        (3, "minNotional", 240000, "BTC/USDT:USDT tier 3 minNotional = 240000: the tier begins at 240000 but the one before ends at 250000"),
        (2, "maintenanceMarginRate", None, "BTC/USDT:USDT tier 2 maintenanceMarginRate: is missing"),
        (2, "maintenanceMarginRate", 0.003, "the maintenance rate falls from 0.004 to 0.003 at tier 2"),
        (2, "maintenanceMarginRate", "0.005", "BTC/USDT:USDT tier 2 maintenanceMarginRate = '0.005': is not a number"),
        (2, "maintenanceMarginRate", True, "BTC/USDT:USDT tier 2 maintenanceMarginRate = True: is not a number"),
        (2, "maxLeverage", float("nan"), "BTC/USDT:USDT tier 2 maxLeverage = nan: is not finite"),
        (2, "minNotional", float("inf"), "BTC/USDT:USDT tier 2 minNotional = inf: is not finite"),
        (1, "minNotional", 10, "the first tier must begin at 0"),
        (2, "maxNotional", 10**400, "BTC/USDT:USDT tier 2 maxNotional"),
        (2, "maxNotional", [[[]]], "BTC/USDT:USDT tier 2 maxNotional = [[[]]]: is not a number"),
        (2, "maxNotional", 40000, "BTC/USDT:USDT tier 2 maxNotional = 40000: is below the tier's minNotional 50000"),
        (3, "maxLeverage", 200, "initial margin 1/200 is below the maintenance rate 0.01"),
        (2, "info", {"cum": "a lot"}, "BTC/USDT:USDT tier 2 info.cum = 'a lot': is not a number"),
        (2, "info", {}, "BTC/USDT:USDT tier 2 info.cum: is missing although other tiers have it"),
    ],
)
def test_a_wrong_figure_is_named_with_its_tier_and_field(number, field, value, said, complaint):
    assert said in complaint(_changed(number, field, value))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is not valid JSON"),
        ("{'a': 1}", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("1" * 5000, "is not valid JSON"),
        ("{}", "is empty"),
        ("[]", "is empty"),
        ("7", "holds no leverage tiers"),
        ('{"BTC/USDT:USDT": []}', "BTC/USDT:USDT: has no tiers"),
        ('{"BTC/USDT:USDT": {"tier": 1}}', "is not a list of tiers"),
        ('{"BTC/USDT:USDT": [1, null]}', "BTC/USDT:USDT tier 1 = 1: is no table"),
        ("[[1]]", "entry 1, symbol"),
    ],
)
def test_what_is_no_list_of_tiers_is_refused(data, said, complaint):
    assert said in complaint(data)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "plain.json.gz").write_bytes(b"{}")
    for name in ("absent.json", "binary.json", "plain.json.gz"):
        with pytest.raises(InputError, match="cannot be read"):
            read_tier_json(tmp_path / name)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["", "0", "1e999", "nan", 10**400, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["symbol", "tier", "info", "cum"]), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("tier", "symbol", "currency", "minNotional", "maxNotional", "maintenanceMarginRate", "maxLeverage", "info")


@given(number=st.integers(0, 2), changes=st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=3), listed=st.booleans())
def test_any_change_to_a_file_is_read_or_refused_and_never_a_crash(number, changes, listed, tmp_path_factory):
    entries = btc()
    entries[number] |= changes
    path = tmp_path_factory.mktemp("odd") / "tiers.json"
    path.write_text(json.dumps(entries if listed else {"BTC/USDT:USDT": entries}), encoding="utf-8")
    try:
        tables = read_tiers(path)
    except InputError as error:
        assert error.problems
    else:
        assert all(t.maintenance(1e6) >= 0 for t in tables.values())


@given(data=ODD)
def test_any_json_is_read_or_refused_and_never_a_crash(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "tiers.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError):
        read_tiers(path)
