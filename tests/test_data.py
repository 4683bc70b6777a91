"""Prices and tiers from outside: ccxt's forms, a recorded exchange, and clear words where ccxt is missing."""

import json
import sys
import tomllib

import numpy as np
import pytest

from stresslev.cli import main
from stresslev.config.spec import PathSpec
from stresslev.config.tiers import TierTable
from stresslev.errors import InputError
from stresslev.shocks.price_file import read_prices
from tests.fake_exchange import HOUR, bars, install

BARS = bars(50)


@pytest.fixture
def exchange(monkeypatch):
    """The class of an exchange in ccxt's place."""
    return install(monkeypatch)


def _call(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


FETCH = ("data", "fetch", "binance", "BTC/USDT", "--since", "2024-01-01T05:00", "--until", "2024-01-02T23:00")


@pytest.mark.parametrize("form", ["csv", "parquet", "json"])
def test_bars_are_fetched_page_by_page_and_read_back(exchange, tmp_path, capsys, form):
    out = tmp_path / "deep" / f"btc.{form}"
    _call(*FETCH, "--out", out)
    assert "42 bars of 1h, 2024-01-01T05:00+00:00 to 2024-01-02T22:00+00:00" in capsys.readouterr().out
    seconds, prices = read_prices(out, PathSpec(file=str(out), symbol=None if form == "json" else "BTC/USDT"), "paths.BTC")
    np.testing.assert_array_equal(seconds, [b[0] / 1000 for b in BARS[5:47]])
    np.testing.assert_array_equal(prices, [b[4] for b in BARS[5:47]])
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_a_repeated_bar_at_the_seam_is_taken_once(exchange, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "fetch_ohlcv", lambda self, s, t, since, limit: [b for b in BARS if b[0] >= since - HOUR][:20])
    _call(*FETCH, "--out", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == BARS[5:47]


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({}, ("data", "fetch", "binanc", "BTC/USDT", "--since", "2024-01-01"), "'binance'"),
        ({}, ("data", "fetch", "binance", "BTC/USD", "--since", "2024-01-01"), "BTC/USDT"),
        ({}, ("data", "fetch", "binance", "BTC/USDT", "--since", "yesterday"), "is not a date or time"),
        ({}, ("data", "fetch", "binance", "BTC/USDT", "--since", "2024-01-02", "--until", "2024-01-01"), "is not after"),
        ({}, ("data", "fetch", "binance", "BTC/USDT", "--since", "2030-01-01", "--until", "2031-01-01"), "has no bars in that time"),
        ({"down": True}, FETCH, "NetworkError"),
        ({"has": {"fetchOHLCV": False}}, FETCH, "is not offered"),
    ],
)
def test_what_cannot_be_fetched_is_said_and_nothing_written(exchange, tmp_path, capsys, monkeypatch, change, arguments, words):
    for key, value in change.items():
        monkeypatch.setattr(exchange, key, value)
    _call(*arguments, "--out", tmp_path / "x.csv", code=2)
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_ccxt_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ccxt", None)
    _call(*FETCH, "--out", tmp_path / "x.csv", code=2)
    assert "pip install 'stresslev[data]'" in capsys.readouterr().err and not list(tmp_path.iterdir())
    _call(*FETCH, "--out", tmp_path / "x.xls", code=2)
    assert ".parquet" in capsys.readouterr().err


def test_tiers_become_tables_of_a_system(exchange, tmp_path, capsys):
    _call("data", "fetch-tiers", "binance", "BTC/USDT:USDT", "--out", tmp_path / "tiers.json")
    _call("data", "tiers", tmp_path / "tiers.json", "--symbol", "venue_BTC=BTC/USDT:USDT", "--out", tmp_path / "tiers.toml")
    assert "venue_BTC" in capsys.readouterr().out
    table = TierTable.model_validate(tomllib.loads((tmp_path / "tiers.toml").read_text())["tiers"]["venue_BTC"])
    assert table.floors_usd == (0, 300000) and table.maintenance_amounts_usd == (0, 300) and table.source == "BTC/USDT:USDT: tiers.json"
    _call("data", "tiers", tmp_path / "tiers.json", "--symbol", "X=ETH/USDT:USDT", "--out", tmp_path / "t.toml", code=2)
    assert "is not in the file" in capsys.readouterr().err and not (tmp_path / "t.toml").exists()


@pytest.mark.parametrize("text", ["{}", "[[1, 2, 3]]", "[[1704067200000, 1, 1, 1, null, 1]]", "not json", "[]"])
def test_bars_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match=r"bar|JSON|list|no rows"):
        read_prices(tmp_path / "b.json", PathSpec(file="b.json"), "paths.BTC")
