"""A system as TOML text, and the market figures that protocols do not publish."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.write import atomically


@dataclass(frozen=True)
class MarketFigures:
    """What the market of an asset can absorb: USD that move the price 1%, and the curve's exponent; volatility per year."""

    depth_usd: float
    impact_exponent: float
    volatility: float
    measured: bool  # depth and exponent come from `quotes.fit` on the quotes of 2023-11-20; else they are assumed


#: Depth and exponent: `quotes.fit` on 1inch quotes of 2023-11-20 (sales for USDC and USDT). Volatility: hourly Binance prices of 2023-10-01 to
#: 2023-12-31 for ETH (0.467) and BTC (0.404). The rest is assumed, and every system file says so.
FIGURES = {
    "WETH": MarketFigures(8.3e6, 0.79, 0.47, True),
    "wstETH": MarketFigures(7.9e6, 0.85, 0.47, True),
    "sfrxETH": MarketFigures(1.3e6, 0.43, 0.47, True),
    "WBTC": MarketFigures(2.5e6, 0.82, 0.40, True),
    "cbETH": MarketFigures(2.0e6, 0.8, 0.47, False),
    "rETH": MarketFigures(2.0e6, 0.8, 0.47, False),
    "USDC": MarketFigures(50e6, 1.0, 0.02, False),
    "USDT": MarketFigures(50e6, 1.0, 0.02, False),
    "DAI": MarketFigures(25e6, 1.0, 0.02, False),
    "sDAI": MarketFigures(25e6, 1.0, 0.02, False),
    "GHO": MarketFigures(5e6, 1.0, 0.02, False),
    "crvUSD": MarketFigures(10e6, 1.0, 0.02, False),
}
#: The same asset under the name another chain gives it.
ALIASES = {"WETH.e": "WETH", "WBTC.e": "WBTC", "BTC.b": "WBTC", "DAI.e": "DAI", "USDt": "USDT"}


class Inline(dict):
    """A table to be written on one line."""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value) -> str:
    if isinstance(value, Inline):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[\n" + "".join(f"  {_value(v)},\n" for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(float(value)) if isinstance(value, float) else repr(value)


def toml_text(data: Mapping, path: tuple[str, ...] = ()) -> str:
    """Nested tables as TOML; what is no table comes first, as TOML wants it."""
    plain = {k: v for k, v in data.items() if isinstance(v, Inline) or not isinstance(v, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and plain else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, table in data.items():
        if key not in plain:
            text += ("\n" if text else "") + toml_text(table, (*path, key))
    return text


def write(text: str, path: str | Path) -> None:
    """Write a system file whole or not at all. Raises InputError when the place cannot be written."""
    with atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def figure(given: Mapping[str, float] | float | None, asset: str, default: float | None, key: str, file) -> float:
    """A market figure of one asset: the caller's (one number for all, or by asset), else the default.

    Raises:
      InputError: none at all, or no number above zero.
    """
    value = given.get(asset, default) if isinstance(given, Mapping) else default if given is None else given
    if value is None:
        fix = f"give {key} for {asset}; it depends on the market, not on the protocol"
        raise InputError(file, Problem(f"assets.{asset}.{key}", "", "is not in the data and has no default", fix))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(file, Problem(f"assets.{asset}.{key}", shorten(value), "is not a number above zero", "give a plain number"))
    return float(value)


def check_names(given: Mapping[str, float] | float | None, known, key: str, file) -> None:
    """Refuse figures for assets that the system does not have. Raises InputError."""
    unknown = sorted(set(given) - set(known)) if isinstance(given, Mapping) else []
    if unknown:
        raise InputError(file, [Problem(f"{key}.{name}", "", "is no asset of this market", did_you_mean(name, known)) for name in unknown])
