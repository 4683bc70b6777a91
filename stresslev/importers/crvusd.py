"""Real crvUSD loans as a book: the day of each state, and its loan-to-value. The pool is in `crvusd_system`.

A state says market, debt, collateral and number of bands N, not the day nor the price. States of one market are daily snapshots one after the other,
so the day can be told without any price: a snapshot holds each loan once, and most loans come back in the next one with the same collateral and
bands and a day's interest more debt. A new day begins where loans begin to come back.

Loan-to-value limits follow from the Controller contract of curve-stablecoin (`get_y_effective`, `max_borrowable`): collateral spread over N bands,
each 1/A lower than the one above, is worth `(1 - discount) sqrt(1 - 1/A) (A / N) (1 - (1 - 1/A)^N)` of its price at the top band.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.importers.system_file import figure
from stresslev.tables import is_parquet, read_table
from stresslev.write import atomically

#: Of the four markets alike: band density A, and the discounts at which a loan is made and liquidated (Curve governance, "Add WBTC market to crvUSD",
#: 2023, which says so for the staked-ETH markets too and puts the most that can be borrowed in four bands at 89%).
A, LOAN_DISCOUNT, LIQUIDATION_DISCOUNT = 100, 0.09, 0.06
#: First snapshot of the shipped prices below.
START = date(2023, 10, 1)
#: Market as the file spells it -> asset of the system; wrapped coins go by the name of the coin, which scenarios know.
COLLATERAL = {"weth": "ETH", "wsteth": "wstETH", "sfrxeth": "sfrxETH", "wbtc": "BTC"}
#: ETH per token on 2023-11-20, the middle of the window: medians of small 1inch quotes. Staking yield moves them by about 0.5% to either side.
ETH_PER = {"ETH": 1.0, "wstETH": 1.147, "sfrxETH": 1.0634}
DEBT = "crvUSD"
POOL = "crvusd"
_COLUMNS = ("market", "debt_crvusd", "collateral", "n_bands")
#: A loan of the next day has the same collateral and bands, and a debt that differs by no more than this (a year's 30% is 0.08% a day).
_SAME_DEBT = 1e-3

# Binance spot, ETHUSDT and BTCUSDT at 00:00 UTC of 2023-10-01 .. 2024-01-01 (opening prices of the hour; the last is the close before it).
_ETH_USD = """
1670.89 1733.8 1662.41 1656.88 1646.58 1611.79 1645.03 1633.56 1632.85 1580.13 1567.62 1566.86 1539.61 1552.16 1554.94 1557.78 1599.41 1565.01
1563.45 1566.57 1603.88 1628.94 1663.69 1765.47 1784.98 1787.15 1803.39 1779.41 1776.21 1795.14 1809.03 1814.67 1846.99 1800.79 1832.7 1855.54
1891.71 1900.95 1885.26 1888.11 2121.33 2077.72 2053.16 2044.69 2053.65 1979.4 2058.49 1961.77 1960.82 1962.59 2011.47 2021.41 1933.01 2063.22
2062.21 2080.84 2083.1 2062.34 2027.5 2048.14 2028.8 2051.95 2087.24 2164.75 2192.96 2243.36 2293.33 2232.7 2355.74 2358.71 2340.48 2352.39
2225.11 2203.47 2260.16 2315.32 2220.51 2228.96 2196.53 2219.44 2177.9 2202.17 2239.6 2324.54 2308.2 2264.04 2271.36 2230.88 2378.35 2344.15
2299.2 2291.68 2281.87
"""
_BTC_USD = """
26962.57 27992.58 27494.51 27426.45 27778.57 27410.39 27931.1 27956.67 27917.06 27590.12 27390.12 26875.52 26759.63 26862 26852.48 27154.14
28500.77 28395.91 28320 28713.71 29669.05 29909.8 29992.46 33069.99 33922.73 34496.05 34151.66 33892.01 34081.01 34525.88 34474.74 34639.78
35421.43 34941.58 34716.78 35062.06 35011.89 35046.09 35399.13 35624.72 36701.1 37301.63 37129.99 37064.13 36462.93 35551.2 37858.2 36163.51
36613.91 36568.11 37359.85 37448.79 35741.65 37408.35 37294.27 37713.57 37780.67 37447.42 37242.7 37818.88 37854.65 37723.97 38682.51 39450.35
39972.26 41991.1 44073.82 43762.69 43273.15 44171 43713.59 43789.5 41253.41 41492.38 42869.03 43022.26 41940.29 42278.02 41374.64 42657.8 42275.99
43668.92 43861.79 43969.04 43702.15 42991.5 43576.12 42508.93 43428.86 42563.76 42066.94 42140.29 42283.58
"""


@dataclass(frozen=True)
class States:
    """Loan states in the order of the file; n rows."""

    file: str
    market: np.ndarray  # (n,) name of the market
    debt: np.ndarray  # (n,) crvUSD
    collateral: np.ndarray  # (n,) coins
    n_bands: np.ndarray  # (n,) int

    def __len__(self) -> int:
        return len(self.debt)

    @property
    def markets(self) -> tuple[str, ...]:
        """Names in the order of the file."""
        return tuple(dict.fromkeys(self.market.tolist()))


def read(path: str | Path) -> States:
    """Read loan states.

    Args:
      path: CSV (plain or gzipped) or Parquet with columns market (weth, wsteth, sfrxeth, wbtc), debt_crvusd, collateral (coins), n_bands; rows of a
        market in time order.

    Raises:
      InputError: missing columns, an unknown market, or a value that is no number above zero, by row and column.
    """
    path = Path(path)
    table = read_table(path)
    missing = [c for c in _COLUMNS if c not in table.column_names]
    if missing:
        raise InputError(path, [Problem(f"column {c}", "", "is missing", f"give the columns {', '.join(_COLUMNS)}") for c in missing])
    if not table.num_rows:
        raise InputError(path, Problem("file", "", "holds no rows", "give at least one loan"))
    found: list[Problem] = []
    market = np.asarray(table["market"].cast(pa.string()).fill_null("").to_pylist(), dtype=object)
    for name in dict.fromkeys(market.tolist()):
        if name not in COLLATERAL:
            row = int(np.flatnonzero(market == name)[0]) + 1
            found.append(Problem(f"row {row}, column market", repr(name), "is no crvUSD market known here", did_you_mean(name, COLLATERAL)))
    numbers = {}
    for column in _COLUMNS[1:]:
        kind = table[column].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            found.append(Problem(f"column {column}", str(kind), "is not a column of numbers", "give plain numbers"))
            continue
        numbers[column] = np.asarray(table[column].cast(pa.float64()).fill_null(float("nan")))
        wrong = np.flatnonzero(~(np.isfinite(numbers[column]) & (numbers[column] > 0)))
        for row in wrong[:10]:
            value = f"{numbers[column][row]:g}"
            found.append(Problem(f"row {row + 1}, column {column}", value, "is not a number above zero", "correct it or leave the row out"))
        if len(wrong) > 10:
            found.append(Problem(f"column {column}", "", f"{len(wrong) - 10} more rows are not above zero", "correct them or leave them out"))
    if not found:
        bands = numbers["n_bands"]
        for row in np.flatnonzero((bands != np.round(bands)) | (bands > 50))[:10]:
            found.append(Problem(f"row {row + 1}, column n_bands", f"{bands[row]:g}", "is no whole number up to 50", "give the number of bands"))
    if found:
        raise InputError(path, found)
    return States(
        file=path.name,
        market=market,
        debt=numbers["debt_crvusd"],
        collateral=numbers["collateral"],
        n_bands=numbers["n_bands"].astype(np.int64),
    )


def _earlier(states: States, rows: np.ndarray) -> np.ndarray:
    """Position within `rows` of each row's last earlier state of the same loan, -1 where there is none."""
    seen: dict[tuple, list[int]] = defaultdict(list)
    out = np.full(len(rows), -1)
    debt = states.debt[rows]
    for k, key in enumerate(zip(states.collateral[rows].tolist(), states.n_bands[rows].tolist(), strict=True)):
        for other in reversed(seen[key][-50:]):
            if abs(debt[k] / debt[other] - 1) <= _SAME_DEBT:
                out[k] = other
                break
        seen[key].append(k)
    return out


def _market_days(earlier: np.ndarray) -> np.ndarray:
    """Day of each row of one market. A day ends where `rows new since its start - rows come back` is largest: from there on loans repeat.

    What follows must be half a day at least: two like loans in one snapshot look as if one had come back.
    """
    day, start = np.zeros(len(earlier), np.int64), 0
    while True:
        back = earlier[start:] >= start
        length = int(np.argmax(np.concatenate([[0], np.cumsum(np.where(back, -1, 1))])))
        if len(earlier) - start - length < max(length / 2, 1):
            return day
        start += length
        day[start:] += 1


def days(states: States) -> np.ndarray:
    """(n,) day of each state, counted from 0 within its market."""
    out = np.zeros(len(states), np.int64)
    for name in states.markets:
        rows = np.flatnonzero(states.market == name)
        out[rows] = _market_days(_earlier(states, rows))
    return out


def borrowing_rate(states: States) -> dict[str, float]:
    """Market -> median yearly growth of log debt of loans that came back a day later with more debt (and the same collateral)."""
    out = {}
    for name in states.markets:
        rows = np.flatnonzero(states.market == name)
        earlier = _earlier(states, rows)
        back = np.flatnonzero(earlier >= 0)
        growth = np.log(states.debt[rows[back]] / states.debt[rows[earlier[back]]])
        growth = growth[growth > 0]
        out[name] = float(np.median(growth) * 365) if len(growth) else 0.0
    return out


def day_prices() -> dict[str, np.ndarray]:
    """Market -> (93,) USD per coin of its collateral at 00:00 UTC of each day from START: Binance's ETH and BTC, times `ETH_PER`."""
    eth, btc = (np.array(text.split(), float) for text in (_ETH_USD, _BTC_USD))
    return {market: btc if asset == "BTC" else eth * ETH_PER[asset] for market, asset in COLLATERAL.items()}


def loan_to_value(states: States, prices: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """(n,) debt over the value of the collateral at the start of the state's day, one crvUSD taken for one dollar.

    Args:
      states: loans.
      prices: market -> (days,) USD per coin; None: `day_prices`.

    Raises:
      InputError: a market without prices, or with another number of days than prices: then the days cannot be told.
    """
    prices = day_prices() if prices is None else prices
    day, out = days(states), np.zeros(len(states))
    for name in states.markets:
        rows = np.flatnonzero(states.market == name)
        if name not in prices:
            raise InputError(states.file, Problem("prices", repr(name), "has no prices", did_you_mean(name, prices)))
        count, given = int(day[rows].max()) + 1, len(prices[name])
        if count != given:
            what = f"shows {count} daily snapshots where prices of {given} days are given"
            raise InputError(states.file, Problem(f"market {name}", "", what, "give one price per day, and rows of a market in time order"))
        out[rows] = states.debt[rows] / (states.collateral[rows] * np.asarray(prices[name], float)[day[rows]])
    return out


def band_value(n_bands, discount: float) -> np.ndarray:
    """Share of its price that collateral is worth when spread over N bands from the top band down, after a discount (see the module)."""
    n = np.asarray(n_bands, float)
    ratio = 1 - 1 / A
    return (1 - discount) * math.sqrt(ratio) * A / n * (1 - ratio**n)


def admissible(states: States, ltv: np.ndarray) -> np.ndarray:
    """(n,) whether the collateral can be all there is of the loan.

    The bands of a loan begin at the price at which its loan-to-value is `band_value(N, LOAN_DISCOUNT)`. Above that value part of the collateral has
    been sold into crvUSD by the AMM, the states do not record that crvUSD, and debt over what is left of the collateral says nothing.
    """
    return ltv <= band_value(states.n_bands, LOAN_DISCOUNT)


def summary(states: States, ltv: np.ndarray) -> dict[str, dict[str, float]]:
    """Market -> rows, rows kept, share of the debt kept, quantiles and debt-weighted mean of the loan-to-values kept, and the borrowing rate."""
    fine, rate = admissible(states, ltv), borrowing_rate(states)
    out = {}
    for name in states.markets:
        rows = states.market == name
        kept = rows & fine
        quantiles = np.quantile(ltv[kept], (0.05, 0.25, 0.5, 0.75, 0.95)) if kept.any() else np.full(5, np.nan)
        out[name] = {"rows": int(rows.sum()), "kept": int(kept.sum()), "debt_kept": float(states.debt[kept].sum() / states.debt[rows].sum())}
        out[name] |= {f"ltv_p{p}": float(q) for p, q in zip((5, 25, 50, 75, 95), quantiles, strict=True)}
        out[name]["ltv_debt_weighted"] = float(np.average(ltv[kept], weights=states.debt[kept])) if kept.any() else float("nan")
        out[name]["rate"] = rate[name]
    return out


def asset_prices(prices: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
    """Asset -> USD on the last day of the prices, and crvUSD at one dollar."""
    prices = day_prices() if prices is None else prices
    return {COLLATERAL[m]: round(float(p[-1]), 6) for m, p in prices.items() if m in COLLATERAL} | {DEBT: 1.0}


def pick(states: States, ltv: np.ndarray, loans: int | None, day: int | None, seed: int) -> np.ndarray:
    """Admissible rows: all, one day's, or a draw with replacement. Raises InputError when there are none."""
    fine = admissible(states, ltv)
    if day is not None:
        fine &= days(states) == day
    rows = np.flatnonzero(fine)
    if not len(rows):
        what = "leaves no loan whose collateral is all there is of it"
        raise InputError(states.file, Problem("day", "" if day is None else str(day), what, "choose another day"))
    if loans is None:
        return rows
    if isinstance(loans, bool) or not isinstance(loans, int) or loans < 1:
        raise InputError(states.file, Problem("loans", repr(loans), "is no whole number above zero", "give a number of loans, or leave it out"))
    return np.random.default_rng(seed).choice(rows, loans, replace=True)


def book(
    states: States, ltv: np.ndarray, price_usd: Mapping[str, float], *, loans: int | None = None, day: int | None = None, seed: int = 2025
) -> pa.Table:
    """The loans as a book of positions: two rows per account, collateral (quantity above zero) and crvUSD owed (below).

    Each loan keeps its debt in USD and its loan-to-value: the collateral is restated at the system's prices. States that are not `admissible` are
    left out. Without `day`, a loan is in the book once for every day it was seen, so the total is a sum over days, not the debt of any one of them.

    Args:
      states: loans.
      ltv: (n,) of `loan_to_value`.
      price_usd: asset -> USD of the system, crvUSD included.
      loans: number to draw with replacement; None: every state once.
      day: take this day's loans only (0 is the first): the book as it stood.
      seed: of the draw.

    Raises:
      InputError: an asset without a price, no loan left.
    """
    needed = [*(COLLATERAL[m] for m in states.markets), DEBT]
    for asset in needed:
        if asset not in price_usd:
            raise InputError(states.file, Problem(f"price_usd.{asset}", "", "is missing", "give the price of every asset of the book"))
    price = {asset: figure(price_usd, asset, None, "price_usd", states.file) for asset in needed}
    rows = pick(states, ltv, loans, day, seed)
    asset = np.array([COLLATERAL[m] for m in states.market[rows]], dtype=object)
    coins = states.debt[rows] / (ltv[rows] * np.array([price[a] for a in asset]))
    n = len(rows)
    names = np.array([f"{market}-{k}" for k, market in enumerate(states.market[rows])], dtype=object)
    quantity = np.column_stack([coins, -states.debt[rows] / price[DEBT]]).ravel()
    return pa.table(
        {
            "account": pa.array(np.repeat(names, 2), pa.string()),
            "pool": pa.array([POOL] * (2 * n), pa.string()),
            "wallet_balance_usd": np.zeros(2 * n),
            "asset": pa.array(np.column_stack([asset, np.full(n, DEBT, dtype=object)]).ravel(), pa.string()),
            "quantity": quantity,
            "entry_price_usd": pa.nulls(2 * n, pa.float64()),
        }
    )


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a book to a place that is known to be free, CSV or Parquet by the name."""
    if is_parquet(Path(path)):
        pa_parquet.write_table(table, path)
    else:
        pa_csv.write_csv(table, path)


def write_book(table: pa.Table, path: str | Path) -> None:
    """Write a book whole or not at all, CSV or Parquet by the name. Raises InputError when the place cannot be written."""
    with atomically(path) as temporary:
        write_table(table, temporary)
