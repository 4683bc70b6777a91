"""An exchange that answers from a recording, in ccxt's place."""

import sys
import types

import numpy as np

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01


def bars(count: int) -> list[list]:
    """Hourly bars with a step now and then, as prices have."""
    rng = np.random.default_rng(4)
    returns = rng.standard_t(4, count) * 0.005 - 0.03 * (rng.random(count) < 0.02)
    close = 100 * np.exp(np.cumsum(returns))
    return [[START + HOUR * i, float(c), float(c), float(c), float(c), 5.0] for i, c in enumerate(close)]


_TIERS = (
    {"tier": 1, "minNotional": 0, "maxNotional": 300000, "maintenanceMarginRate": 0.004, "maxLeverage": 150, "info": {"cum": "0"}},
    {"tier": 2, "minNotional": 300000, "maxNotional": None, "maintenanceMarginRate": 0.005, "maxLeverage": 100, "info": {"cum": "300"}},
)


class NetworkError(Exception):
    """As ccxt's."""


class Exchange:
    """Answers as an exchange does: at most so many bars at a time, from `since` on."""

    id, symbols, page, down = "binance", ["BTC/USDT", "ETH/USDT"], 20, False
    has, bars = {"fetchOHLCV": True, "fetchLeverageTiers": True}, bars(50)

    def __init__(self, options):
        assert options["enableRateLimit"]

    def load_markets(self):
        return {}

    def fetch_ohlcv(self, symbol, timeframe, since=None, limit=None):
        if self.down:
            raise NetworkError("recorded GET https://example.invalid timed out")
        assert timeframe == "1h"
        return [list(b) for b in self.bars if b[0] >= since][: min(limit, self.page)]

    def fetch_leverage_tiers(self, symbols):
        return {s: [{"currency": "USDT"} | t for t in _TIERS] for s in symbols}


def install(monkeypatch) -> type[Exchange]:
    """Put a module in ccxt's place; returns a class of its own for the exchange."""
    module, own = types.ModuleType("ccxt"), type("Exchange", (Exchange,), {})
    module.exchanges, module.binance = ["binance"], own
    monkeypatch.setitem(sys.modules, "ccxt", module)
    return own
