"""From points, files and proxies to the time grid."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stresslev.config.spec import ScenarioSpec
from stresslev.errors import InputError
from stresslev.shocks.paths import build

START = datetime(2025, 10, 10, tzinfo=UTC)


def _scenario(paths, **more):
    base = {
        "kind": "scenario",
        "name": "s",
        "title": "s",
        "origin": "hypothetical",
        "severity": "adverse",
        "start": START,
        "duration_minutes": 10,
        "paths": paths,
    }
    return ScenarioSpec.model_validate(base | more)


def test_points_are_interpolated_in_log_price_and_held_after_the_last(tmp_path):
    shock = build(_scenario({"X": {"minutes": [0, 4], "prices": [100, 50]}}), ("X",), tmp_path)
    price = shock.start_price[0] * np.exp(shock.log_price[:, 0])
    np.testing.assert_allclose(price[[0, 2, 4, 10]], [100, 100 * 0.5**0.5, 50, 50])
    assert shock.log_return.shape == (10, 1)


def test_proxies_scales_and_depth(tmp_path):
    paths = {"X": {"minutes": [0, 10], "prices": [100, 50]}, "Y": {"proxy": "X", "beta": 1.5, "start_price_usd": 7}}
    depth = {"default": {"minutes": [0, 10], "factors": [1, 0.5]}, "Y": {"factors": [0.8]}}
    shock = build(_scenario(paths, shock_scale=0.5, depth_scale=0.5, depth=depth), ("Y", "X"), tmp_path)
    np.testing.assert_allclose(shock.start_price, [7, 100])
    np.testing.assert_allclose(shock.log_price[-1], [1.5 * 0.5 * np.log(0.5), 0.5 * np.log(0.5)])
    np.testing.assert_allclose(shock.depth_factor[[0, -1]], [[0.4, 0.475], [0.4, 0.25]])


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "iso", "milliseconds", "microseconds", "nanoseconds"])
def test_a_full_price_file_is_accepted(tmp_path, form):
    seconds = START.timestamp() + 60 * np.arange(-5, 20)
    prices = 100 * np.exp(-0.01 * np.arange(-5, 20))
    table = pa.table({"ts": seconds.astype(int), "symbol": ["BTC"] * 25, "close": prices})
    name = "p.parquet" if form == "parquet" else "p.csv.gz" if form == "csv.gz" else "p.csv"
    if form == "parquet":
        pq.write_table(table.set_column(0, "ts", pa.array([datetime.fromtimestamp(s, UTC) for s in seconds])), tmp_path / name)
    else:
        times = seconds * {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}.get(form, 1)
        lines = [datetime.fromtimestamp(s, UTC).isoformat() if form == "iso" else str(int(t)) for s, t in zip(seconds, times, strict=True)]
        text = "ts,symbol,close\n" + "".join(f"{t},BTC,{p!r}\n" for t, p in zip(lines, prices.tolist(), strict=True))
        if form == "csv.gz":
            import gzip

            (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / name).write_text(text)
    shock = build(_scenario({"X": {"file": name, "symbol": "BTC"}}), ("X",), tmp_path)
    assert shock.start_price[0] == pytest.approx(100)
    np.testing.assert_allclose(shock.log_return[:, 0], -0.01, rtol=1e-9)


def test_steps_that_pass_over_the_trough_are_refused(tmp_path):
    """A wick of one minute in a path of five-minute steps would silently vanish."""
    paths = {"X": {"minutes": [0, 6, 7, 8, 10], "prices": [100, 100, 50, 100, 100]}}
    build(_scenario(paths), ("X",), tmp_path)
    with pytest.raises(InputError, match=r"step_minutes = 5.*lowest price, 50"):
        build(_scenario(paths, step_minutes=5), ("X",), tmp_path)


@pytest.mark.parametrize(
    ("rows", "path", "parts"),
    [
        ("0,1\n60,2\n", {}, ["covers", "not the whole scenario"]),
        ("0,1\n600,-2\n", {}, ["row 2, column close", "-2", "not a positive price"]),
        ("600,1\n0,2\n", {}, ["row 2, column ts", "does not come after"]),
        ("0,1\n600,2\n", {"price_column": "open"}, ["column open", "is missing", "price_column"]),
        ("0,1\n600,2\n", {"symbol": "BTC"}, ["column symbol", "is missing"]),
        ("0,x\n600,2\n", {}, ["column close", "no number"]),
        ("", {}, ["holds no rows"]),
        ("0,1\n600,2\n", {"file": "missing.csv"}, ["missing.csv", "is no file"]),
    ],
)
def test_a_bad_price_file_is_refused(tmp_path, rows, path, parts):
    base = int(START.timestamp())
    shifted = "".join(f"{base + int(t)},{p}\n" for t, p in (r.split(",") for r in rows.splitlines()))
    (tmp_path / "p.csv").write_text("ts,close\n" + shifted)
    with pytest.raises(InputError) as caught:
        build(_scenario({"X": {"file": "p.csv"} | path}), ("X",), tmp_path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_the_real_minutes_can_be_run_from_their_file(real_data, tmp_path):
    """The full minute file of 2025-10-10 gives the quoted peak and a trough of the closes (where the data is at hand)."""
    if real_data is None:
        return
    file = str(real_data / "binance_1m_events" / "2025-10-10_adl_1m.csv.gz")
    scenario = _scenario({"BTC": {"file": file, "symbol": "BTCUSDT"}}, start=datetime(2025, 10, 9, tzinfo=UTC), duration_minutes=5000)
    shock = build(scenario, ("BTC",), tmp_path)
    price = shock.start_price[0] * np.exp(shock.log_price[:, 0])
    assert price.max() == pytest.approx(123_763, rel=0.01)
    assert price.min() == pytest.approx(102_000, rel=0.03)
