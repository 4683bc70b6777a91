"""Prices and leverage tiers from exchanges through ccxt, an optional extra: nothing else in the package needs it."""

import csv
import importlib
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from stresslev.config.tiers import TierTable
from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.toml import toml_text
from stresslev.write import atomically

#: Endings of files that bars can be written to.
FORMS = (".csv", ".parquet", ".json")
_COLUMNS = ("ts", "symbol", "open", "high", "low", "close", "volume")
#: Most requests of one command.
_MOST_REQUESTS = 100_000


def opened(name: str):
    """An exchange of ccxt by its id, held to its rate limit.

    Raises:
      InputError: ccxt is not installed, or has no such exchange.
    """
    try:
        ccxt = importlib.import_module("ccxt")
    except ImportError:
        fix = "install it with: pip install 'stresslev[data]', or bring price files of your own"
        raise InputError("stresslev data fetch", Problem("ccxt", "", "is not installed; prices of exchanges come through it", fix)) from None
    if name not in ccxt.exchanges:
        raise InputError("command line", Problem("EXCHANGE", repr(name), "is no exchange of ccxt", did_you_mean(name, ccxt.exchanges)))
    return getattr(ccxt, name)({"enableRateLimit": True})


def _asked(exchange, what: str, method: str, *arguments, **more):
    """What a method of the exchange answers. Raises InputError with the exchange's own words."""
    if not getattr(exchange, "has", {}).get(what, True):
        raise InputError(exchange.id, Problem(what, "", "is not offered by this exchange", "take another exchange"))
    try:
        return getattr(exchange, method)(*arguments, **more)
    except Exception as error:
        # ccxt's errors, and those of the connection below it; a defect of ours would not come out of its methods
        kind = type(error).__name__
        fix = "check the name, the connection and what the exchange allows without a key"
        raise InputError(exchange.id, Problem(what, " ".join(map(str, arguments[:2])), f"{kind}: {shorten(str(error), 200)}", fix)) from None


def fetch_bars(
    exchange, symbol: str, timeframe: str, since: int, until: int, told: Callable[[int], None] = lambda stamp: None, limit: int = 1000
) -> list[list]:
    """Bars [milliseconds, open, high, low, close, volume] from `since` up to, not including, `until` (Unix milliseconds), in many requests.

    Args: `told` is called with the time reached.

    Raises:
      InputError: what the exchange says; no bars; bars out of order.
    """
    _asked(exchange, "markets", "load_markets")
    if symbol not in exchange.symbols:
        raise InputError(exchange.id, Problem("SYMBOL", repr(symbol), "is not traded there", did_you_mean(symbol, exchange.symbols)))
    found: list[list] = []
    start = since
    for _ in range(_MOST_REQUESTS):
        bars = _asked(exchange, "fetchOHLCV", "fetch_ohlcv", symbol, timeframe, since=start, limit=limit)
        # exchanges differ in whether the bar at `since` is given once more
        fresh = [b for b in bars if (not found or b[0] > found[-1][0]) and since <= b[0] < until]
        if any(b[0] <= a[0] for a, b in pairwise(fresh)):
            raise InputError(exchange.id, Problem("fetchOHLCV", symbol, "gives bars out of order", "take another exchange"))
        found += fresh
        if not bars or bars[-1][0] + 1 <= start or bars[-1][0] >= until - 1:
            break
        start = bars[-1][0] + 1
        told(start)
    if not found:
        raise InputError(exchange.id, Problem("fetchOHLCV", symbol, "has no bars in that time", "choose another time or timeframe"))
    return found


def write_bars(bars: list[list], symbol: str, out: Path) -> None:
    """Write bars: CSV or Parquet with Unix seconds and the symbol, as price files are read, or ccxt's own JSON. Raises InputError."""
    with atomically(out) as temporary:
        if out.suffix.lower() == ".json":
            temporary.write_text("[\n" + ",\n".join(json.dumps(b) for b in bars) + "\n]\n", encoding="utf-8")
            return
        rows = [[b[0] / 1000 if b[0] % 1000 else b[0] // 1000, symbol, *b[1:]] for b in bars]
        if out.suffix.lower() == ".parquet":
            pa_parquet.write_table(pa.table({c: [r[i] for r in rows] for i, c in enumerate(_COLUMNS)}), temporary)
            return
        with open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(_COLUMNS)
            writer.writerows(rows)


def fetch_tiers(exchange, symbols: list[str]) -> dict:
    """Leverage tiers by symbol, as ccxt's fetchLeverageTiers gives them. Raises InputError."""
    return _asked(exchange, "fetchLeverageTiers", "fetch_leverage_tiers", symbols or None)


def tiers_text(tables: dict[str, TierTable], names: dict[str, str]) -> str:
    """Tables [tiers.NAME] for a system file. Args: `tables` by symbol; `names` symbol -> NAME."""
    data = {}
    for symbol, table in tables.items():
        rows = {"source": f"{symbol}: {table.source}"}
        for key in ("floors_usd", "maintenance_rates", "max_leverage", "maintenance_amounts_usd"):
            value = getattr(table, key)
            if value is not None:
                rows[key] = [int(x) if math.isfinite(x) and x == int(x) else x for x in value]
        data[names[symbol]] = rows
    return toml_text({"tiers": data})
