"""A system as TOML text, and the market figures that protocols do not publish."""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stresslev.config.spec import SystemSpec
from stresslev.config.validation import validate
from stresslev.errors import InputError, Problem, did_you_mean, shorten
from stresslev.toml import Inline
from stresslev.write import atomically


@dataclass(frozen=True)
class MarketFigures:
    """What the market of an asset can absorb: USD that move the price 1%, and the curve's exponent; volatility per year."""

    depth_usd: float
    impact_exponent: float
    volatility: float
    measured: bool  # depth and exponent come from `quotes.fit` on the quotes of 2023-11-20; else they are assumed


#: By the asset of the system file (see `ALIASES`). Depth and exponent: `quotes.fit` on 1inch quotes of 2023-11-20 (sales for USDC and USDT).
#: Volatility: hourly Binance prices of 2023-10-01 to 2023-12-31 for ETH (0.467) and BTC (0.404). The rest is assumed, and every system file says so.
FIGURES = {
    "ETH": MarketFigures(8.3e6, 0.79, 0.47, True),
    "wstETH": MarketFigures(7.9e6, 0.85, 0.47, True),
    "sfrxETH": MarketFigures(1.3e6, 0.43, 0.47, True),
    "BTC": MarketFigures(2.5e6, 0.82, 0.40, True),
    "cbETH": MarketFigures(2.0e6, 0.8, 0.47, False),
    "rETH": MarketFigures(2.0e6, 0.8, 0.47, False),
    "USDC": MarketFigures(50e6, 1.0, 0.02, False),
    "USDT": MarketFigures(50e6, 1.0, 0.02, False),
    "DAI": MarketFigures(25e6, 1.0, 0.02, False),
    "sDAI": MarketFigures(25e6, 1.0, 0.02, False),
    "GHO": MarketFigures(5e6, 1.0, 0.02, False),
    "crvUSD": MarketFigures(10e6, 1.0, 0.02, False),
}
#: Symbol of a reserve -> asset that scenarios know: wrapped coins, and the names that other chains give.
ALIASES = {
    "WETH": "ETH",
    "WETH.e": "ETH",
    "WBTC": "BTC",
    "WBTC.e": "BTC",
    "BTC.b": "BTC",
    "DAI.e": "DAI",
    "USDC.e": "USDC",
    "USDt": "USDT",
    "USDT.e": "USDT",
    "LUSD.e": "LUSD",
}
#: Assets that scenarios give a path.
ROOTS = ("ETH", "BTC")
#: Asset -> root whose returns it follows where a scenario has no path of its own for it.
FOLLOWS = {
    "wstETH": "ETH",
    "stETH": "ETH",
    "sfrxETH": "ETH",
    "cbETH": "ETH",
    "rETH": "ETH",
    "ETHx": "ETH",
    "weETH": "ETH",
    "tBTC": "BTC",
    "cbBTC": "BTC",
}
#: Assets that stay where they are in such scenarios.
DOLLARS = frozenset(
    {"USDC", "USDT", "DAI", "sDAI", "GHO", "crvUSD", "LUSD", "FRAX", "sUSD", "TUSD", "BUSD", "USDP", "GUSD", "MAI", "miMATIC", "PYUSD", "USDS"}
)


def asset_of(symbol: str) -> str:
    """The asset that a reserve's symbol stands for, numbered or not."""
    plain = re.sub(r"_\d+$", "", symbol)
    return ALIASES.get(plain, plain)


def asset_names(symbols: Iterable[str]) -> dict[str, str]:
    """Symbol -> name in the system file: ETH and BTC for the first reserve of each, which scenarios speak of; else the symbol."""
    names: dict[str, str] = {}
    for symbol in symbols:
        asset = asset_of(symbol)
        names[symbol] = asset if asset in ROOTS and asset not in names.values() else symbol
    return names


def exogenous(symbol: str, name: str, price: float, roots: Mapping[str, float]) -> dict:
    """The keys that give an asset a path in scenarios without one: a peg, a root to follow, or nothing.

    Args:
      symbol: of the reserve.
      name: in the system file.
      price: USD.
      roots: root -> USD, those that the system file holds.
    """
    asset = asset_of(symbol)
    if asset in DOLLARS:
        # depth that falls with volatility would run away from a reference volatility near zero, and who mints and redeems at par does not withdraw
        return {"peg_usd": round(price, 2), "depth_volatility_exponent": 0.0}
    root = asset if asset in ROOTS else FOLLOWS.get(asset)
    if root in roots and name != root:
        return {"follows": Inline(asset=root, ratio=round(price / roots[root], 6))}
    return {}


#: What every system file supposes about prices.
IMMEDIATE = (
    "Oracles show the market price at once; a fifth of the impact of a sale is permanent, and half of the rest is gone after ten minutes: assumed."
)


#: What it supposes about dollar tokens.
AT_PAR = "The depth of dollar tokens does not fall when their price moves, since they are minted and redeemed at par: assumed."


def checked(text: str, file: str | Path) -> str:
    """The text itself, if it is a system that `stresslev run` takes. Raises InputError with its keys, in the name of the data file."""
    validate(SystemSpec, tomllib.loads(text), file)
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
