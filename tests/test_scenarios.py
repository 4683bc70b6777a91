"""The shipped scenarios: valid, as severe as the events they replay, and faithful to the klines they were made from."""

import gzip
import importlib.util
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from stresslev.config.load import load_plan
from stresslev.config.spec import ScenarioSpec

ROOT = Path(__file__).resolve().parent.parent
BLACK_THURSDAY, ADL_CASCADE, GAP = "2020-03-12_black_thursday", "2025-10-10_adl_cascade", "gap_35_half_depth"
STAKED_ETHER, DEPEG = "2022-06-13_staked_ether", "2023-03-11_usdc_depeg"
MAY_CRASH, TERRA, FTX = "2021-05-19_may_crash", "2022-05-09_terra", "2022-11-07_ftx"

# Source of all facts: Binance public klines (data.binance.vision), spot 1-minute bars; for SOL USDT-M perpetual 1-hour bars. Peaks are
# highs, troughs lows, starts closes of the first minute. Worst hours and minutes are from close to close; in 2025 the worst hour ends at
# the low of the trough. June 2022 is from hour bars of spot, worst hours from open to open; USDC from Kraken's hour bars; UST,
# LUNA and FTT from bars of 15 and 30 minutes of spot.
FACTS = [
    (BLACK_THURSDAY, "BTC", {"start": 7883.72, "peak": 7980, "trough": 3782, "fall": 0.526, "worst hour": 0.241, "worst minute": 0.0724}),
    (BLACK_THURSDAY, "ETH", {"start": 200.59, "peak": 203.18, "trough": 86.00, "fall": 0.577, "worst hour": 0.263, "worst minute": 0.0588}),
    (ADL_CASCADE, "BTC", {"start": 123340, "peak": 123763, "trough": 102000, "fall": 0.1758, "worst hour": 0.1265, "worst minute": 0.0429}),
    (ADL_CASCADE, "ETH", {"start": 4526.99, "peak": 4532, "trough": 3435, "fall": 0.242, "worst hour": 0.1425, "worst minute": 0.0369}),
    (ADL_CASCADE, "SUI", {"start": 3.5405, "peak": 3.54, "trough": 0.56, "fall": 0.842, "worst hour": 0.828, "worst minute": 0.409}),
    (ADL_CASCADE, "SOL", {"start": 228.96, "peak": 229.61, "trough": 141.28, "fall": 0.385}),
    (STAKED_ETHER, "BTC", {"start": 26574.53, "peak": 26895.84, "trough": 17622, "fall": 0.345, "worst hour": 0.048}),
    (STAKED_ETHER, "ETH", {"start": 1434.84, "peak": 1455, "trough": 881.56, "fall": 0.394, "worst hour": 0.060}),
    (DEPEG, "BTC", {"start": 21477.91, "peak": 21492, "trough": 19549.09, "fall": 0.0904, "worst hour": 0.0354}),
    (DEPEG, "ETH", {"start": 1529.1, "peak": 1531, "trough": 1368.39, "fall": 0.1062, "worst hour": 0.0494}),
    (DEPEG, "SOL", {"start": 18.14, "peak": 18.18, "trough": 16, "fall": 0.12}),
    (DEPEG, "USDC", {"start": 1, "peak": 1, "trough": 0.874, "fall": 0.126}),
    (MAY_CRASH, "BTC", {"start": 43745, "peak": 45799, "trough": 30000, "fall": 0.345, "worst hour": 0.2244, "worst minute": 0.058}),
    (MAY_CRASH, "ETH", {"start": 3303.6, "peak": 3566, "trough": 1888, "fall": 0.4705, "worst hour": 0.3075, "worst minute": 0.0928}),
    (MAY_CRASH, "SOL", {"start": 46.75, "peak": 58.58, "trough": 25.23, "fall": 0.569}),
    (TERRA, "BTC", {"start": 34100, "peak": 34243, "trough": 26700, "fall": 0.220, "worst hour": 0.0762}),
    (TERRA, "ETH", {"start": 2524, "peak": 2531, "trough": 1800, "fall": 0.2888, "worst hour": 0.1139}),
    (TERRA, "UST", {"start": 0.9955, "trough": 0.225, "fall": 0.774}),
    (TERRA, "LUNA", {"start": 64.27, "trough": 0.00004}),
    (FTX, "BTC", {"start": 20910, "peak": 21070, "trough": 15588, "fall": 0.260, "worst hour": 0.0884}),
    (FTX, "ETH", {"start": 1569.3, "peak": 1608, "trough": 1074, "fall": 0.332, "worst hour": 0.1108}),
    (FTX, "FTT", {"start": 22.25, "peak": 23.90, "trough": 2.01, "fall": 0.916}),
]
# Minute (UTC) of the trough and hours from the peak to it; for SOL only the hour of the trough is on record.
TIMES = [
    (BLACK_THURSDAY, "BTC", datetime(2020, 3, 13, 2, 16, tzinfo=UTC), 27.6),
    (BLACK_THURSDAY, "ETH", datetime(2020, 3, 13, 2, 16, tzinfo=UTC), 49),
    (ADL_CASCADE, "BTC", datetime(2025, 10, 10, 21, 20, tzinfo=UTC), 33),
    (ADL_CASCADE, "ETH", datetime(2025, 10, 10, 21, 20, tzinfo=UTC), 45),
    (ADL_CASCADE, "SUI", datetime(2025, 10, 10, 21, 21, tzinfo=UTC), 45),
    (STAKED_ETHER, "BTC", datetime(2022, 6, 18, 20, 30, tzinfo=UTC), 140),
    (STAKED_ETHER, "ETH", datetime(2022, 6, 18, 20, 30, tzinfo=UTC), 140),
    (DEPEG, "BTC", datetime(2023, 3, 10, 10, 48, tzinfo=UTC), 16.8),
    (DEPEG, "ETH", datetime(2023, 3, 10, 10, 41, tzinfo=UTC), 16.3),
    (MAY_CRASH, "BTC", datetime(2021, 5, 19, 13, 10, tzinfo=UTC), 31),
    (MAY_CRASH, "ETH", datetime(2021, 5, 19, 13, 10, tzinfo=UTC), 25),
    (FTX, "BTC", datetime(2022, 11, 9, 23, 7, tzinfo=UTC), 69),
    (FTX, "ETH", datetime(2022, 11, 9, 23, 37, tzinfo=UTC), 52),
]
# Scenario, file of klines, and what the verifying script has to be told about them.
KLINES = [
    (BLACK_THURSDAY, "2020-03_black_thursday_1m.csv.gz", []),
    (ADL_CASCADE, "2025-10-10_adl_1m.csv.gz", []),
    (STAKED_ETHER, "btcusdt_1h_2017_2023.csv.gz", ["--symbol", "BTCUSDT"]),
    (STAKED_ETHER, "ethusdt_1h_2017_2023.csv.gz", ["--symbol", "ETHUSDT"]),
    (DEPEG, "2023-03_usdc_depeg_1m.csv.gz", []),
    (DEPEG, "2023-03_usdc_depeg_1h.csv.gz", ["--symbol", "SOLUSDT", "--market", "spot"]),
    (DEPEG, "kraken_usdcusd_1h.csv", ["--symbol", "USDCUSD", "--quote", "USD", "--hold-before"]),
    (MAY_CRASH, "2021-05-19_may_crash_1m.csv.gz", []),
    *(
        (MAY_CRASH, "2021-05-19_may_crash_1h.csv.gz", ["--symbol", f"{a}USDT", "--market", m])
        for a, m in (("SOL", "perp"), ("LUNA", "spot"), ("FTT", "spot"))
    ),
    (TERRA, "2022-05_luna_ust_1m.csv.gz", []),
    (TERRA, "2022-05_luna_ust_1h.csv.gz", ["--symbol", "SOLUSDT", "--market", "perp"]),
    *((TERRA, "depeg_windows.csv.gz", ["--symbol", f"{a}USDT", "--hold-after"]) for a in ("UST", "LUNA")),
    (FTX, "2022-11_ftx_1m.csv.gz", []),
    (FTX, "2022-11_ftx_1h.csv.gz", ["--symbol", "SOLUSDT", "--market", "perp"]),
    (FTX, "depeg_windows.csv.gz", ["--symbol", "FTTUSDT"]),
    (ADL_CASCADE, "2025-10-10_adl_1h.csv.gz", ["--symbol", "SOLUSDT", "--market", "perp", "--trough-at", "2025-10-10T21:20"]),
]


def shipped() -> list[str]:
    """Stems of all scenario files (the folder holds suites too)."""
    return sorted(f.stem for f in (ROOT / "scenarios").glob("*.toml") if tomllib.loads(f.read_text(encoding="utf-8"))["kind"] == "scenario")


def load(stem: str) -> ScenarioSpec:
    """A shipped scenario, validated."""
    return ScenarioSpec.model_validate(tomllib.loads((ROOT / "scenarios" / f"{stem}.toml").read_text(encoding="utf-8")))


def price(scenario: ScenarioSpec, asset: str) -> np.ndarray:
    """The price at every minute: linear in log price between points, or beta times the log return of another asset."""
    path = scenario.paths[asset]
    if path.proxy is not None:
        leader = price(scenario, path.proxy)
        return path.start_price_usd * (leader / leader[0]) ** path.beta
    return np.exp(np.interp(np.arange(scenario.duration_minutes + 1), path.minutes, np.log(path.prices)))


def measured(path: np.ndarray) -> dict[str, float]:
    """The figures that FACTS states."""
    trough = path.argmin()
    peak = path[: trough + 1].max()
    return {
        "start": path[0],
        "peak": peak,
        "trough": path[trough],
        "fall": 1 - path[trough] / peak,
        "worst hour": 1 - (path[60:] / path[:-60]).min(),
        "worst minute": 1 - (path[1:] / path[:-1]).min(),
    }


def assert_facts(stem: str, asset: str, facts: dict[str, float]) -> None:
    """Every fact comes out of the shipped points within 1%."""
    found = measured(price(load(stem), asset))
    assert {name: found[name] for name in facts} == pytest.approx(facts, rel=0.01)


@pytest.fixture(scope="module")
def tables():
    """The script that makes and verifies the price tables."""
    spec = importlib.util.spec_from_file_location("make_price_tables", ROOT / "experiments" / "make_price_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_scenarios_are_shipped():
    assert {BLACK_THURSDAY, MAY_CRASH, TERRA, STAKED_ETHER, FTX, DEPEG, ADL_CASCADE, GAP} <= set(shipped())


@pytest.mark.parametrize("suite", ["historical", "hypothetical", "committee"])
def test_suites_hold_all_scenarios_of_their_kind(suite):
    plan, origins = load_plan(suite), {"historical", "hypothetical"} if suite == "committee" else {suite}
    other = {"fall_15_with_traders"} if suite == "hypothetical" else set()
    assert {s.name for s in plan.scenarios} == {name for name in shipped() if load(name).origin in origins} - other
    assert {s.origin for s in plan.scenarios} == origins and plan.limits


@pytest.mark.parametrize("stem", shipped())
def test_validates_and_tells_a_committee_what_it_is(stem):
    scenario = load(stem)
    assert scenario.name == stem
    assert scenario.title and scenario.description and scenario.sources
    assert {"BTC", "ETH", "SOL", "SUI"} <= set(scenario.paths)
    assert any("liquidations that really happened" in text and "shock_scale" in text for text in scenario.assumptions)
    assert scenario.step_minutes == 1 and scenario.duration_minutes % 60 == 0
    assert (scenario.start is not None) == (scenario.origin == "historical")
    for asset, path in scenario.paths.items():
        assert path.source
        if path.proxy is None:
            assert path.minutes[-1] == scenario.duration_minutes
        else:
            assert any(asset in text and f"beta of {path.beta:g}" in text for text in scenario.assumptions)


@pytest.mark.parametrize("stem, asset, facts", FACTS)
def test_figures_of_the_event_come_out(stem, asset, facts):
    assert_facts(stem, asset, facts)


@pytest.mark.parametrize("stem, asset, when, hours", TIMES)
def test_trough_comes_when_it_came(stem, asset, when, hours):
    scenario = load(stem)
    path = price(scenario, asset)
    trough = int(path.argmin())
    assert scenario.start + timedelta(minutes=trough) == when
    assert (trough - path[:trough].argmax()) / 60 == pytest.approx(hours, abs=0.5)


def test_worst_minute_of_sui_lies_between_two_neighbours_of_the_grid():
    path = load(ADL_CASCADE).paths["SUI"]
    end = path.minutes.index(1440 + 21 * 60 + 19)
    assert path.minutes[end] - path.minutes[end - 1] == 1
    assert 1 - path.prices[end] / path.prices[end - 1] == pytest.approx(0.409, rel=0.01)


def test_exogenous_depth_of_2025_stays_at_the_median_collapse():
    # the collapse by two orders of magnitude is the model's own to make, through volatility
    depth = load(ADL_CASCADE).depth["default"]
    at_the_crash = np.interp(1440 + 21 * 60 + 20, depth.minutes, depth.factors)
    assert at_the_crash == min(depth.factors) == pytest.approx(1 / 3.4, rel=0.05)
    assert depth.factors[0] == depth.factors[-1] == 1


def test_gap_takes_every_asset_down_by_35_percent_into_half_the_depth():
    scenario = load(GAP)
    assert scenario.depth_scale == 0.5
    for asset in scenario.paths:
        path = price(scenario, asset)
        assert path[:11] == pytest.approx(path[0])
        assert path[20:] == pytest.approx(0.65 * path[0])
        assert np.all(np.diff(path[10:21]) < 0)


def test_staked_ether_is_ether_less_the_stated_discount():
    scenario = load(STAKED_ETHER)
    ratio = price(scenario, "wstETH") / price(scenario, "ETH")
    assert ratio[[0, 720, 7200, 8430, 8640]] == pytest.approx([1, 0.95, 0.95, 0.94, 0.94], abs=1e-4)
    assert np.all(np.diff(ratio[::60]) < 1e-4)


def test_the_dollar_comes_back_and_coins_end_above_their_start():
    scenario = load(DEPEG)
    usdc = price(scenario, "USDC")
    assert usdc[:1441] == pytest.approx(1) and usdc[2250] == usdc.min() and usdc[-1] > 0.98
    for coin in ("BTC", "ETH", "SOL"):
        assert price(scenario, coin)[-1] > price(scenario, coin)[0]


@pytest.mark.parametrize("stem, klines, options", KLINES)
def test_points_agree_with_the_klines(stem, klines, options, tables, real_data):
    found = sorted(real_data.rglob(klines)) if real_data else []
    for file in found:
        assert tables.main([str(file), "--check", str(ROOT / "scenarios" / f"{stem}.toml"), *options]) == 0
    for name, asset, facts in FACTS:
        if name == stem:
            assert_facts(name, asset, facts)


def write_klines(file: Path, step: int, close: np.ndarray, low: np.ndarray) -> None:
    """Bars of `step` minutes of ABCUSDT from 2024-01-01, each opening at the close before it."""
    opening = np.append(close[0], close[:-1])
    start = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    high = np.maximum(opening, close)
    bars = enumerate(zip(opening, high, low, close, strict=True))
    rows = [f"{start + 60 * step * i:.0f},ABCUSDT,{','.join(map(str, bar))},1" for i, bar in bars]
    with gzip.open(file, "wt", encoding="utf-8") as text:
        text.write("\n".join(["ts,symbol,open,high,low,close,volume", *rows]))


def scenario_text(table: str, minutes: int) -> str:
    """The least scenario around a printed table."""
    head = 'kind = "scenario"\nname = "x"\ntitle = "x"\norigin = "historical"\nseverity = "severe"\nstart = 2024-01-01T00:00:00Z\n'
    return f"{head}duration_minutes = {minutes}\n{table}"


def test_a_made_table_passes_its_check_and_a_wrong_one_does_not(tables, tmp_path, capsys):
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(0.002 * rng.standard_normal(301)))
    close[200:] *= 0.7
    low = close - 0.01
    low[210] = 40.0  # a spike that no close shows
    klines, scenario = tmp_path / "klines.csv.gz", tmp_path / "x.toml"
    write_klines(klines, 1, close, low)
    assert tables.main([str(klines), "--symbol", "ABCUSDT", "--start", "2024-01-01", "--minutes", "300", "--points", "40"]) == 0
    text = scenario_text(capsys.readouterr().out, 300)
    spec = ScenarioSpec.model_validate(tomllib.loads(text))
    assert len(spec.paths["ABC"].minutes) == 40
    assert dict(zip(spec.paths["ABC"].minutes, spec.paths["ABC"].prices, strict=True))[210] == 40
    scenario.write_text(text)
    assert tables.main([str(klines), "--check", str(scenario)]) == 0
    scenario.write_text(text.replace(" 40,", " 40.5,"))
    assert tables.main([str(klines), "--check", str(scenario)]) == 1


def test_hour_bars_give_the_low_at_the_stated_minute(tables, tmp_path, capsys):
    close = np.array([100.0, 98.0, 95.0, 80.0, 85.0, 86.0])
    low = close - 1
    low[3] = 60.0
    klines = tmp_path / "klines.csv.gz"
    write_klines(klines, 60, close, low)
    command = [str(klines), "--symbol", "ABCUSDT", "--start", "2024-01-01", "--minutes", "300", "--trough-at"]
    assert tables.main([*command, "2024-01-01T03:20"]) == 0
    path = ScenarioSpec.model_validate(tomllib.loads(scenario_text(capsys.readouterr().out, 300))).paths["ABC"]
    assert path.minutes == (0, 30, 60, 120, 180, 200, 240, 300)
    assert path.prices == (100, 100, 100, 98, 95, 60, 80, 85)
    assert tables.main([*command, "2024-01-01T05:20"]) == 1, "outside the hour of the lowest low"


def test_klines_that_end_too_early_can_be_held(tables, tmp_path, capsys):
    klines = tmp_path / "klines.csv.gz"
    write_klines(klines, 30, np.array([100.0, 50.0, 20.0]), np.array([99.0, 50.0, 10.0]))
    command = [str(klines), "--symbol", "ABCUSDT", "--start", "2024-01-01", "--minutes", "120"]
    assert tables.main(command) == 1
    capsys.readouterr()
    assert tables.main([*command, "--hold-after"]) == 0
    path = ScenarioSpec.model_validate(tomllib.loads(scenario_text(capsys.readouterr().out, 120))).paths["ABC"]
    # opens of the three bars, the low in the middle of the last, and its close for as long as there is none
    assert dict(zip(path.minutes, path.prices, strict=True)) == {0: 100, 15: 100, 30: 100, 60: 50, 75: 10, 90: 20, 120: 20}


def test_of_the_bar_that_opens_at_the_end_only_the_open_counts(tables, tmp_path, capsys):
    klines = tmp_path / "klines.csv.gz"
    write_klines(klines, 30, np.array([100.0, 90.0, 80.0, 70.0]), np.array([100.0, 90.0, 80.0, 1.0]))
    assert tables.main([str(klines), "--symbol", "ABCUSDT", "--start", "2024-01-01", "--minutes", "90"]) == 0
    path = ScenarioSpec.model_validate(tomllib.loads(scenario_text(capsys.readouterr().out, 90))).paths["ABC"]
    assert path.minutes[-1] == 90 and path.prices[-1] == 80 and min(path.prices) == 80


def test_klines_with_a_gap_are_refused(tables, tmp_path, capsys):
    klines = tmp_path / "klines.csv.gz"
    write_klines(klines, 1, np.full(50, 100.0), np.full(50, 99.0))
    assert tables.main([str(klines), "--symbol", "ABCUSDT", "--start", "2024-01-01", "--minutes", "60"]) == 1
    assert "without gaps" in capsys.readouterr().err


def test_bars_of_other_layouts_are_read_alike(tables, tmp_path, capsys):
    def rows(stamp):
        return [f"{stamp(h)},{100 - h},{101 - h},{50 if h == 1 else 98 - h},{99 - h}" for h in range(4)]

    layouts = {
        "iso.csv": ["hour_utc,open,high,low,close", *rows(lambda h: f"2024-01-01T0{h}:00:00Z")],
        "lean.csv": ["time,open,high,low,close", *rows(lambda h: f"20240101 0{h}:00")],
        "unix.csv": ["ts,open,high,low,close", *rows(lambda h: str(1704067200 + 3600 * h))],
    }
    said = []
    for name, lines in layouts.items():
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        command = [str(tmp_path / name), "--symbol", "ABCUSDT", "--minutes", "180", "--start"]
        assert tables.main([*command, "2024-01-01"]) == 0
        said.append(capsys.readouterr().out)
        assert tables.main([*command[:-3], "--minutes", "300", "--start", "2023-12-31T22:00"]) == 1, "begins before the klines"
        assert tables.main([*command[:-3], "--minutes", "300", "--start", "2023-12-31T22:00", "--hold-before"]) == 0
        held = ScenarioSpec.model_validate(tomllib.loads(scenario_text(capsys.readouterr().out, 300))).paths["ABC"]
        assert held.minutes[:5] == (0, 60, 120, 150, 180) and held.prices[:5] == (100, 100, 100, 101, 99)
    assert said[0] == said[1] == said[2]


def test_a_file_of_one_symbol_is_checked_for_the_named_one_only(tables, tmp_path, capsys):
    klines = tmp_path / "bars.csv"
    klines.write_text("time,open,high,low,close\n20240101 00:00,1,1,1,1\n20240101 01:00,0.9,0.9,0.9,0.9\n20240101 02:00,1,1,1,1\n", encoding="utf-8")
    scenario = tmp_path / "x.toml"
    scenario.write_text(scenario_text("[paths.ABC]\nminutes = [0, 30, 60, 90, 120]\nprices = [1, 1, 0.9, 0.9, 1]\n", 120), encoding="utf-8")
    assert tables.main([str(klines), "--check", str(scenario)]) == 1
    assert "say with --symbol" in capsys.readouterr().err
    assert tables.main([str(klines), "--check", str(scenario), "--symbol", "ABCUSDT"]) == 0
