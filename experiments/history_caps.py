"""What the volatility rule would have done with real prices, beside what Binance did in 2022 and CME in 2020.

    python experiments/history_caps.py [--data DIR] [--crude FILE] [--out DIR]

Prints the Markdown tables of docs/history.md, draws docs/policies/history_2022.svg and history_crude.svg, and writes the figures to
experiments/results/history_caps.json. DIR holds the real data (see docs/history.md for what is read and where it comes from). FILE is a series of
crude oil prices (CSV with the columns date and price, USD a barrel), which the data folder does not have.

Nothing is fitted to the outcome. The memory is RiskMetrics' (J.P. Morgan 1996: 0.94 a day), the exponent 1 (margin in proportion to volatility), and
the target is such that the cap equals the venue's own leverage at the median volatility of the six months before the window.
"""

import argparse
import csv
import gzip
import json
import math
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from stresslev.engine.leverage import caps
from stresslev.engine.leverage.reading import Reading
from stresslev.engine.leverage.volatility import VolatilityScaling, buffered, stressed
from stresslev.procyclicality import largest_increase, peak_to_trough

ROOT = Path(__file__).resolve().parent.parent
DECAY = 0.94  # a day; RiskMetrics Technical Document (1996), section 5.3
DECAYS = (0.94, 0.97, 0.5)  # what the sensitivity table varies; 0.5 halves the memory every day
TIGHTEN, LOOSEN = math.log(2), math.log(1.1)  # pace of caps per day: they halve at most, and grow by a tenth
NOTICE = 1.0  # days between announcement and change
STEP = 0.8  # a cap counts as cut below this share of its base, 25 -> 20 is the venue's smallest cut
BEFORE, KNOWN, LATER = date(2022, 9, 27), date(2022, 11, 25), date(2023, 1, 13)  # snapshots of Binance's tiers around the collapse of FTX
CALM = (date(2022, 3, 27), BEFORE)  # six months before the window
RAISED = (date(2023, 2, 17), date(2023, 3, 13), date(2023, 3, 28))  # snapshots with raises
TIED = ("FTT", "SRM", "SOL")  # closest to FTX and Alameda
RENAMED = ("LUNA",)  # the symbol of 2021 was another coin than that of November 2022
MARCH = "2023-03_usdc_depeg"  # the next week with prices of most contracts
CLOSE = 21 * 3600  # UTC, second of the day at which the daily price of bitcoin is taken, about when trading at CME pauses
CRUDE_FROM, CRUDE_TO = date(2020, 3, 10), date(2020, 12, 31)
CONTRACT = {"CL": 1000, "BTC": 5}  # barrels, coins
BUFFER, STRESSED_WEIGHT = 0.25, 0.25  # Article 28(1)(a) and (b) of Commission Delegated Regulation (EU) 153/2013


@dataclass(frozen=True)
class Series:
    """Closes of one instrument."""

    time: np.ndarray  # (T,) Unix seconds at which the bar closes
    price: np.ndarray  # (T,) USD

    def since(self, start: date, end: date) -> "Series":
        """From the start of one day until the start of another."""
        inside = (self.time >= seconds(start)) & (self.time <= seconds(end))
        return Series(self.time[inside], self.price[inside])

    @property
    def log_return(self) -> np.ndarray:
        """(T,), the first of them 0."""
        return np.diff(np.log(self.price), prepend=np.log(self.price[0]))


# --- real data


def seconds(day: date) -> float:
    """Unix seconds at which a day begins, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, compressed or not."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@cache
def tier_one(folder: Path) -> dict[str, list[tuple[date, float]]]:
    """Largest leverage of the first tier of each contract, by the snapshot that first showed it."""
    history: dict[str, list[tuple[date, float]]] = {}
    for row in rows(folder / "binance_leverage_tiers" / "tier_history_core_symbols.csv.gz"):
        if row["tier"] == "1":
            history.setdefault(row["symbol"].split("/")[0], []).append((date.fromisoformat(row["effective_by"]), float(row["max_leverage"])))
    return {symbol: sorted(changes) for symbol, changes in history.items()}


def at(changes: list[tuple[date, float]], day: date) -> float:
    """The value in force on a day; NaN before there was one."""
    return [math.nan, *(value for since, value in changes if since <= day)][-1]


@cache
def hourly(folder: Path, symbol: str) -> Series:
    """Spot closes of BTC or ETH, 2017 to 2023; hours without a bar are left out."""
    bars = rows(folder / "binance_btc_eth_hourly" / f"{symbol.lower()}usdt_1h_2017_2023.csv.gz")
    time = [datetime.fromisoformat(row["time"]).replace(tzinfo=UTC).timestamp() + 3600 for row in bars]
    return Series(np.array(time), np.array([float(row["close"]) for row in bars]))


@cache
def panel(folder: Path, event: str) -> dict[str, Series]:
    """Hourly spot closes of every symbol in the window of one crisis."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows(folder / "binance_1h_panel" / f"{event}_1h.csv.gz"):
        if row["market"] == "spot":
            found.setdefault(row["symbol"].removesuffix("USDT"), []).append((float(row["ts"]) + 3600, float(row["close"])))
    return {symbol: Series(*np.array(sorted(bars)).T) for symbol, bars in found.items()}


def margins(folder: Path, contract: str) -> list[tuple[date, float]]:
    """CME maintenance margin, USD a contract, by the day it took effect."""
    table = rows(folder / "cme_margin_history" / "cme_margins.csv")
    return sorted((datetime.strptime(row["date"], "%Y%m%d").date(), float(row["maintenance"])) for row in table if row["contract"] == contract)


def crude_prices(file: Path) -> tuple[Series, list[str]]:
    """Prices and the days left out: a price of zero or less has no log return."""
    table = [(date.fromisoformat(row["date"]), float(row["price"])) for row in rows(file)]
    kept = sorted((day, price) for day, price in table if price > 0)
    return Series(np.array([seconds(day) for day, _ in kept]), np.array([price for _, price in kept])), [str(d) for d, p in table if p <= 0]


# --- the rule


def scaling(target: float, decay: float, *, bounded: bool = True, **tools: float) -> VolatilityScaling:
    """The rule at exponent 1, for one asset: `target` annual volatility, `decay` per step."""
    floor, ceiling = (0.01, 1.0) if bounded else (1e-9, 1e9)
    return VolatilityScaling(target=target, gamma=1.0, floor=floor, ceiling=ceiling, decay=decay, **tools)


def reading(log_return, variance, per_year: float) -> Reading:
    """What the rule sees of prices; it looks at nothing else, which is 0 here."""
    none, pool = jnp.zeros_like(log_return), jnp.zeros((1, *log_return.shape))
    return Reading(
        log_return=log_return,
        log_price=none,
        price=none + 1,
        depth=none + 1,
        open_interest=pool,
        insurance_fund=jnp.zeros(1),
        supplied=pool,
        borrowed=pool,
        funding_rate=pool,
        gauge=pool,
        reference_variance=variance,
        steps_per_year=jnp.asarray(per_year),
    )


def in_force(rule, base, log_return, start, per_day: float, *, limited: bool = True) -> np.ndarray:
    """(T, A) caps that the rule puts in force: announced, paced and never above the venue's own leverage; or at once and unbounded.

    Args: `base` (A,) leverage at the target, `log_return` (T, A) per step, `start` (A,) volatility per step at the start.
    """
    base, log_return = jnp.asarray(base, float)[None], jnp.asarray(log_return, float)
    variance, one = jnp.asarray(start, float) ** 2, jnp.ones_like(base)
    bounds = caps.Caps(
        base=base,
        floor=one if limited else one * 1e-9,
        ceiling=base if limited else one * 1e9,
        least_maintenance=one,
        most_maintenance=one,
        tighten=one * (TIGHTEN / per_day if limited else math.inf),
        loosen=one * (LOOSEN / per_day if limited else math.inf),
        notice=jnp.array([round(NOTICE * per_day) if limited else 0], jnp.int32),
    )
    rules = (caps.Applied(rule=rule, on_cap=jnp.ones(1), on_maintenance=jnp.zeros(1)),)

    def step(state, r):
        state = caps.react(bounds, rules, one, state, reading(r, variance, per_day * 365))
        return state, state.cap[0]

    first = caps.initial(bounds, rules, one, reading(jnp.zeros_like(log_return[0]), variance, per_day * 365), round(NOTICE * per_day) + 1)
    return np.asarray(jax.jit(lambda state, moves: jax.lax.scan(step, state, moves))(first, log_return)[1])


def volatility(decay: float, log_return: np.ndarray, start: float, per_day: float) -> np.ndarray:
    """(T,) annual volatility as the rule itself measures it: with a target of 1 and no bounds, its factor is one over it."""
    moves = log_return[:, None]
    return 1 / in_force(scaling(1.0, decay ** (1 / per_day), bounded=False), [1.0], moves, [start], per_day, limited=False)[:, 0]


def first(time: np.ndarray, condition: np.ndarray) -> str | None:
    """When a condition first holds, ISO to the minute, UTC."""
    return None if not condition.any() else clock(time[np.argmax(condition)])


def clock(time: float) -> str:
    """ISO time to the minute, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def course(time: np.ndarray, share: np.ndarray) -> dict:
    """Dates and sizes of a path of caps, as shares of their base."""
    low = int(np.argmin(share))
    after = np.arange(len(share)) > low
    return {
        "below_base": first(time, share < 0.99),
        "first_cut": first(time, share < STEP),
        "trough": clock(time[low]),
        "trough_share": round(float(share[low]), 4),
        "back_at_base": first(time, after & (share > 0.99)),
        "end_share": round(float(share[-1]), 4),
    }


# --- Binance, 2022


def binance(changes: list[tuple[date, float]]) -> dict:
    """What the venue did to the leverage of the first tier, between the snapshots that bound it."""
    base = at(changes, BEFORE)
    lowest = min(at(changes, day) for day in (KNOWN, LATER))
    raised = next((day for day in (LATER, *RAISED) if at(changes, day) > lowest and day > KNOWN), None)
    known = next((day for day in (KNOWN, LATER) if at(changes, day) < base), None)
    return {
        "before": base,
        "after": at(changes, KNOWN),
        "lowest": lowest,
        "cut_known_by": str(known) if known else None,
        "share": round(lowest / base, 4),
        "raised_known_by": str(raised) if raised and lowest < base else None,
        "raised_to": at(changes, raised) if raised and lowest < base else None,
    }


def full_window(folder: Path, decay: float) -> tuple[dict, dict]:
    """BTC and ETH have prices throughout: figures, and the paths to draw."""
    tiers, figures, paths = tier_one(folder), {}, {}
    for symbol in ("BTC", "ETH"):
        series = hourly(folder, symbol).since(date(2021, 9, 27), date(2023, 4, 1))
        moves = series.log_return
        start = float(np.std(moves[: 24 * 30]))
        measured = volatility(decay, moves, start, 24)
        calm = (series.time >= seconds(CALM[0])) & (series.time < seconds(CALM[1]))
        target = float(np.median(measured[calm]))
        base = at(tiers[symbol], BEFORE)
        cap = in_force(scaling(target, decay ** (1 / 24)), [base], moves[:, None], [start], 24)[:, 0]
        window = (series.time >= seconds(BEFORE)) & (series.time <= seconds(date(2023, 4, 1)))
        november = series.time[window] >= seconds(date(2022, 11, 5))
        paths[symbol] = (series.time[window], cap[window] / base)
        figures[symbol] = {
            "rule": course(series.time[window], cap[window] / base),
            "rule_from_november": course(series.time[window][november], cap[window][november] / base),
            "binance": binance(tiers[symbol]),
            "target_annual": round(target, 4),
            "volatility_2022_11_05": round(float(measured[np.searchsorted(series.time, seconds(date(2022, 11, 5)))]), 4),
            "largest_volatility": round(float(measured[window].max()), 4),
        }
    return figures, paths


def ratio_to_btc(earlier: list[dict[str, Series]], symbol: str) -> float:
    """Hourly volatility over that of BTC: geometric mean over the earlier windows that have both."""
    found = [np.std(window[symbol].log_return) / np.std(window["BTC"].log_return) for window in earlier if symbol in window]
    return float(np.exp(np.mean(np.log(found))))


def one_week(folder: Path, decay: float, bitcoin: dict) -> tuple[dict, dict]:
    """Contracts with prices only in the week of the collapse: figures, and the paths to draw.

    Their target, and their volatility before the week, are those of BTC times the ratio seen in the crises of 2021-05 and 2022-05.
    """
    tiers, earlier = tier_one(folder), [panel(folder, "2021-05-19_may_crash"), panel(folder, "2022-05_luna_ust")]
    week, march = panel(folder, "2022-11_ftx"), panel(folder, MARCH)
    figures, paths = {}, {}
    for symbol in sorted(set(tiers) & set(week) - {"BTC", "ETH", *RENAMED}):
        if tiers[symbol][0][0] > BEFORE or not any(symbol in window for window in earlier):
            continue
        series, ratio, base = week[symbol], ratio_to_btc(earlier, symbol), at(tiers[symbol], BEFORE)
        rule = scaling(ratio * bitcoin["target_annual"], decay ** (1 / 24))
        start = ratio * bitcoin["volatility_2022_11_05"] / math.sqrt(365 * 24)
        cap = in_force(rule, [base], series.log_return[:, None], [start], 24)[:, 0]
        paths[symbol] = (series.time, cap)
        figures[symbol] = {
            "rule": course(series.time, cap / base),
            "binance": binance(tiers[symbol]),
            "ratio_to_btc": round(ratio, 3),
            "march_share": at_rest(ratio * bitcoin["target_annual"], march[symbol]) if symbol in march else None,
            "fall": round(float(series.price.min() / series.price[0] - 1), 4),
        }
    return figures, paths


def at_rest(target: float, series: Series) -> float:
    """Cap over base where the rule would settle at the volatility of a window."""
    return round(min(1.0, target / (float(np.std(series.log_return)) * math.sqrt(365 * 24))), 4)


def agreement(week: dict) -> dict:
    """Rank correlation over contracts between the rule's lowest cap in the week and Binance's lowest by January, both over the base."""

    def rank(symbols):
        rule, venue = ([week[s][who][key] for s in symbols] for who, key in (("rule", "trough_share"), ("binance", "share")))
        return round(float(spearmanr(rule, venue).statistic), 3)

    others = [s for s in week if s not in TIED]
    return {"contracts": len(week), "all": rank(week), "without_those_tied_to_ftx": rank(others)}


# --- CME, 2020


def daily(changes: list[tuple[date, float]], start: date, end: date) -> tuple[list[date], np.ndarray]:
    """Working days and the margin in force on each."""
    days = [start + timedelta(n) for n in range((end - start).days + 1)]
    days = [day for day in days if day.weekday() < 5]
    return days, np.array([at(changes, day) for day in days])


def measures(days: list, margin: np.ndarray) -> dict:
    """Procyclicality of the margin of a fixed position (Murphy, Vasios and Vause 2014)."""
    top = int(np.argmax(margin))
    return {
        "lowest": round(float(margin.min()), 4),
        "highest": round(float(margin.max()), 4),
        "highest_on": str(days[top]),
        "peak_to_trough": round(float(peak_to_trough(margin)), 3),
        "largest_5_day_increase": round(float(largest_increase(margin, 5)), 4),
    }


def tools_on(margin: np.ndarray, past: np.ndarray) -> dict[str, np.ndarray]:
    """The venue's own margin under each of the tools, in the form that the rule gives them, with margin in the place of volatility.

    `past` is the margin of the ten years before: its median is the level of calm, its maximum the stressed one and its mean the floor.
    """
    release = float(np.median(past))
    return {
        "as set": margin,
        "buffer": np.asarray(buffered(jnp.asarray(margin), BUFFER, (1 + BUFFER) * release)),
        "stressed weight": np.asarray(stressed(jnp.asarray(margin), STRESSED_WEIGHT, past.max())),
        "floor": np.maximum(margin, past.mean()),
    }


def crude_margins(folder: Path) -> tuple[dict, dict]:
    """What CME did to crude oil, and what the tools would have made of its own schedule."""
    changes = margins(folder, "CL")
    days, margin = daily(changes, date(2020, 1, 2), CRUDE_TO)
    past = daily(changes, date(2010, 3, 10), date(2020, 3, 9))[1]
    variants = tools_on(margin, past)
    moves = [(day, value) for day, value in changes if CRUDE_FROM <= day <= CRUDE_TO]
    top = max(range(len(moves)), key=lambda i: moves[i][1])
    figures = {
        "before": at(changes, CRUDE_FROM - timedelta(1)),
        "raises": [[str(day), value] for day, value in moves[: top + 1]],
        "cuts": [[str(day), value] for day, value in moves[top + 1 :]],
        "ten_years_before": {"median": float(np.median(past)), "mean": round(float(past.mean()), 1), "highest": float(past.max())},
        "tools": {name: measures(days, path) for name, path in variants.items()},
    }
    return figures, {name: (days, path) for name, path in variants.items()}


def implied(series: Series, decay: float, contract: str, changes: list[tuple[date, float]], calm: tuple[date, date]) -> tuple[dict, dict]:
    """The margin that the rule implies with real prices, with and without the tools, beside CME's: figures, and paths in USD a contract.

    The ratio to the price at the target is the median of CME's own in the six months before the window, and the target the median volatility then.
    The tools look back over all the prices before the window.
    """
    moves = series.log_return
    start = float(np.std(moves[:60]))
    measured = volatility(decay, moves, start, 1)
    days = [datetime.fromtimestamp(t, UTC).date() for t in series.time]
    inside = np.array([calm[0] <= day < calm[1] for day in days])
    before = np.array([day < calm[1] for day in days])
    before[:60] = False  # the start of the memory
    window = np.array([calm[1] <= day <= CRUDE_TO for day in days])
    notional = CONTRACT[contract] * series.price
    if contract == "BTC":  # CME sets a share of the price, and the feed has it around the ends of months only
        shown = [(day, at(changes, day) / n) for day, n in zip(days, notional, strict=True) if day in dict(changes)]
        set_by_venue = notional * np.array([at(shown, day) for day in days])
    else:
        set_by_venue = np.array([at(changes, day) for day in days])
    ratio, target = float(np.median((set_by_venue / notional)[inside])), float(np.median(measured[inside]))
    variants = {
        "no tool": {},
        "buffer": {"buffer": BUFFER, "release": (1 + BUFFER) * target},
        "stressed weight": {"stress_weight": STRESSED_WEIGHT, "stress_volatility": float(measured[before].max())},
        "floor": {"least": float(measured[before].mean())},
    }
    kept = [day for day, yes in zip(days, window, strict=True) if yes]
    ratios = {"CME": set_by_venue / notional}
    for name, tools in variants.items():
        cap = in_force(scaling(target, decay, bounded=False, **tools), [1 / ratio], moves[:, None], [start], 1, limited=False)[:, 0]
        ratios[name] = 1 / cap
    year = np.array([day >= date(2020, 1, 2) for day in days])
    lines = {
        name: ([d for d, yes in zip(days, year, strict=True) if yes], (path if contract == "BTC" else path * notional)[year])
        for name, path in ratios.items()
    }
    calm_level = {name: float(np.median(path[inside])) for name, path in ratios.items()}
    ratios = {name: path[window] for name, path in ratios.items()}
    paths = {name: path * notional[window] for name, path in ratios.items()}
    figures = {
        "ratio_at_target": round(ratio, 4),
        "target_annual": round(target, 4),
        "in_usd": {name: measures(kept, path) for name, path in paths.items()},
        "over_price": {name: measures(kept, path) for name, path in ratios.items()},
        "first_raise": {
            name: next((str(d) for d, m in zip(kept, r, strict=True) if m > calm_level[name] / STEP), None) for name, r in ratios.items()
        },
    }
    return figures, lines


# --- pictures

COLOURS = ("#1f5fa8", "#c8541b", "#2b8a57", "#8a3fa0", "#8f6b00")
INK, FAINT = "#333333", "#d9d9d9"


@dataclass(frozen=True)
class Frame:
    """A panel of a picture: a rectangle in pixels, time across and a logarithmic axis up."""

    top: float
    height: float
    span: tuple[float, float]  # Unix seconds
    range: tuple[float, float]
    left: float = 80.0
    width: float = 720.0

    def x(self, time: float) -> float:
        return self.left + self.width * (time - self.span[0]) / (self.span[1] - self.span[0])

    def y(self, value: float) -> float:
        low, high = (math.log(v) for v in self.range)
        return self.top + self.height * (1 - (math.log(value) - low) / (high - low))

    def axes(self, title: str, ticks: dict[float, str], dates: dict[float, str]) -> list[str]:
        """Title, grid and labels."""
        out = [text(self.left, self.top - 14, title, weight="bold")]
        for value, label in ticks.items():
            y = self.y(value)
            out += [rule_line(self.left, y, self.left + self.width, y, FAINT), text(self.left - 8, y + 4, label, anchor="end")]
        for time, label in dates.items():
            x = self.x(time)
            out += [rule_line(x, self.top, x, self.top + self.height, FAINT), text(x, self.top + self.height + 18, label, anchor="middle")]
        return out

    def line(self, time, value, colour: str, *, steps: bool = False, dash: str = "") -> str:
        """A path; `steps` holds each value until the next."""
        points: list[str] = []
        for t, v in zip(time, value, strict=True):
            if steps and points:
                points.append(f"{self.x(t):.1f},{points[-1].split(',')[1]}")
            points.append(f"{self.x(t):.1f},{self.y(v):.1f}")
        style = f' stroke-dasharray="{dash}"' if dash else ""
        return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", colour: str = INK) -> str:
    safe = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{safe}</text>'


def rule_line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{style}/>'


def legend(x: float, y: float, entries: list[tuple[str, str, str]]) -> list[str]:
    """Rows of colour, dash and words."""
    out = []
    for row, (colour, dash, words) in enumerate(entries):
        out += [
            rule_line(x, y + 18 * row, x + 26, y + 18 * row, colour, dash).replace("/>", ' stroke-width="2"/>'),
            text(x + 32, y + 18 * row + 4, words),
        ]
    return out


def picture(name: str, parts: list[str], height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 {height}" role="img" aria-label="{name}" '
        f'font-family="sans-serif" font-size="13"><rect width="1060" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def months(start: date, end: date, form: str = "%b %Y") -> dict[float, str]:
    """Firsts of the months from one day to another."""
    found = [date(year, month, 1) for year in range(start.year, end.year + 1) for month in range(1, 13)]
    return {seconds(day): day.strftime(form) for day in found if start <= day <= end}


def draw_2022(paths: dict, week: dict, tiers: dict) -> str:
    """Above: seven months, caps over their base. Below: the week of the collapse, in leverage."""
    start, end = BEFORE, date(2023, 4, 1)
    above = Frame(top=50, height=250, span=(seconds(start), seconds(end)), range=(0.2, 1.1))
    parts = above.axes(
        "Cap over its base of 2022-09-27", {v: f"{v:g}" for v in (0.24, 0.32, 0.4, 0.5, 0.6, 0.8, 1.0)}, months(date(2022, 10, 1), end)
    )
    left, right = above.x(seconds(BEFORE)), above.x(seconds(KNOWN))
    parts.append(f'<rect x="{left:.1f}" y="{above.top}" width="{right - left:.1f}" height="{above.height}" fill="#c8541b" fill-opacity="0.07"/>')
    parts.append(text(left + 6, above.top + above.height - 8, "Binance's cuts lie somewhere in here"))
    entries = []
    for colour, symbol in zip(COLOURS, paths, strict=False):
        time, share = paths[symbol]
        parts.append(above.line(time[::6], share[::6], colour))
        entries.append((colour, "", f"rule, {symbol}"))
    entries.append((INK, "2 3", "Binance, BTC and ETH"))
    parts.append(above.line([seconds(start), seconds(end)], [1.0, 1.0], INK, dash="2 3"))
    for colour, symbol in zip(COLOURS[2:], ("SOL", "FTT"), strict=False):
        until = seconds(end)
        known = [(seconds(max(day, start)), value / at(tiers[symbol], BEFORE)) for day, value in tiers[symbol] if BEFORE < day < end]
        steps = [(seconds(start), 1.0), *known, (until, known[-1][1])]
        parts.append(above.line(*zip(*steps, strict=True), colour, steps=True, dash="7 4"))
        entries.append((colour, "7 4", f"Binance, {symbol}, by snapshot"))
    parts += legend(815, 70, entries)
    first_day, last_day = date(2022, 11, 5), date(2022, 11, 12)
    below = Frame(top=380, height=260, span=(seconds(first_day), seconds(last_day)), range=(3.5, 90))
    days = {seconds(first_day + timedelta(n)): (first_day + timedelta(n)).strftime("%d Nov") for n in range(8)}
    parts += below.axes("The week with prices: leverage of the first tier", {v: f"{v}x" for v in (5, 8, 12, 20, 25, 50, 75)}, days)
    entries = []
    for colour, symbol in zip(COLOURS[2:], ("SOL", "FTT", "BNB"), strict=False):
        time, cap = week[symbol]
        parts.append(below.line(time, cap, colour))
        x = below.x(seconds(last_day))
        parts.append(rule_line(x - 60, below.y(at(tiers[symbol], KNOWN)), x + 12, below.y(at(tiers[symbol], KNOWN)), colour, "7 4"))
        entries += [(colour, "", f"rule, {symbol}"), (colour, "7 4", f"Binance, {symbol}, by 25 Nov")]
    return picture("Caps of the volatility rule and of Binance, 2022 and 2023", parts + legend(815, 400, entries), 680)


def draw_crude(crude: dict, bitcoin: dict, priced: dict | None) -> str:
    """Above: crude oil, USD a contract. Below: bitcoin futures, margin over price."""
    span = (seconds(date(2020, 1, 2)), seconds(date(2020, 12, 31)))
    dates = months(date(2020, 1, 1), date(2020, 12, 31), "%b")
    dates = {max(time, span[0]): label for time, label in dates.items()}
    above = Frame(top=50, height=250, span=span, range=(2500, 22000))
    parts = above.axes(
        "Crude oil (CL), 2020: maintenance margin, USD a contract", {v: f"{v:,}" for v in (3000, 4000, 6000, 8000, 12000, 16000)}, dates
    )
    drawn = dict(crude) | ({"rule": priced["no tool"]} if priced else {})
    names = {"as set": "CME, as set", "rule": "rule, given prices"} | {name: f"CME's with {name}" for name in ("buffer", "stressed weight", "floor")}
    entries = []
    for colour, (name, (days, path)) in zip((INK, *COLOURS), drawn.items(), strict=False):
        dash = "" if name in ("as set", "rule") else "6 3"
        parts.append(above.line([seconds(day) for day in days], path, colour, steps=name != "rule", dash=dash))
        entries.append((colour, dash, names[name]))
    parts += legend(815, 70, entries)
    below = Frame(top=380, height=250, span=span, range=(0.18, 1.9))
    parts += below.axes(
        "Bitcoin futures (BTC), 2020: maintenance margin over price", {v: f"{v:.0%}" for v in (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)}, dates
    )
    entries = []
    for colour, (name, (days, path)) in zip((INK, *COLOURS), bitcoin.items(), strict=False):
        dash = "" if name in ("CME", "no tool") else "6 3"
        parts.append(below.line([seconds(day) for day in days], path, colour, dash=dash))
        entries.append((colour, dash, "CME" if name == "CME" else f"rule, {name}"))
    return picture("Margins of CME in 2020 and of the volatility rule", parts + legend(815, 400, entries), 670)


# --- what is printed and written


def table(head: list[str], body: list[list]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in body]) + "\n"


def tables(result: dict) -> str:
    """The Markdown tables of docs/history.md."""
    full = []
    for symbol, found in result["full_window"].items():
        rule, venue = found["rule_from_november"], found["binance"]
        cells = [rule[key] for key in ("below_base", "first_cut", "trough", "trough_share", "back_at_base")]
        full.append([symbol, f"{found['target_annual']:.0%}", f"{found['largest_volatility']:.0%}", *cells, f"{venue['before']:g}x throughout"])
    week = []
    for symbol, found in sorted(result["week"].items(), key=lambda item: item[1]["rule"]["trough_share"]):
        rule, venue = found["rule"], found["binance"]
        low = rule["trough_share"] * venue["before"]
        cut = f"{venue['before']:g}x -> {venue['lowest']:g}x"
        raised = f"{venue['raised_known_by']} ({venue['raised_to']:g}x)" if venue["raised_known_by"] else None
        week.append(
            [
                symbol,
                f"{found['fall']:.0%}",
                rule["first_cut"],
                f"{low:.1f}x",
                rule["trough_share"],
                cut,
                venue["share"],
                venue["cut_known_by"],
                raised,
                found["march_share"],
            ]
        )
    heads = [
        "contract",
        "fall",
        "rule: first cut",
        "lowest",
        "over base",
        "Binance",
        "over base",
        "cut known by",
        "raise known by",
        "rule, March 2023",
    ]
    varied = [[decay, *found.values()] for decay, found in result["sensitivity"].items()]
    parts = [
        table(["asset", "target", "largest", "below base", "first cut", "trough", "over base", "back at base", "Binance"], full),
        table(heads, week),
        table(["memory per day", *next(iter(result["sensitivity"].values()))], varied),
        table(
            ["crude oil, CME's schedule", *next(iter(result["crude"]["tools"].values()))],
            [[k, *v.values()] for k, v in result["crude"]["tools"].items()],
        ),
    ]
    for name in ("bitcoin", "crude_with_prices"):
        for unit in ("over_price", "in_usd") if name in result else ():
            found = result[name][unit]
            body = [[k, result[name]["first_raise"][k], *v.values()] for k, v in found.items()]
            parts.append(table([f"{name}, {unit}", "first raise", *next(iter(found.values()))], body))
    return "\n".join(parts)


def study(folder: Path, crude: Path | None) -> tuple[dict, dict[str, str]]:
    """All figures, and the pictures by file name."""
    full, paths = full_window(folder, DECAY)
    week, courses = one_week(folder, DECAY, full["BTC"])
    sensitivity = {}
    for decay in DECAYS:
        other = full_window(folder, decay)[0]
        others = one_week(folder, decay, other["BTC"])[0]
        lows = {f"{s} lowest": other[s]["rule_from_november"]["trough_share"] for s in other}
        lows |= {f"{s} lowest": others[s]["rule"]["trough_share"] for s in ("SOL", "FTT")}
        sensitivity[str(decay)] = lows | {"SOL first cut": others["SOL"]["rule"]["first_cut"], "rank correlation": agreement(others)["all"]}
    schedule, drawn = crude_margins(folder)
    spot = hourly(folder, "BTC")
    daily_close = spot.time % 86400 == CLOSE
    spot = Series(spot.time[daily_close], spot.price[daily_close]).since(date(2017, 8, 18), date(2021, 1, 1))
    bitcoin, lines = implied(spot, DECAY, "BTC", margins(folder, "BTC"), (date(2019, 9, 10), CRUDE_FROM))
    result = {"full_window": full, "week": week, "agreement": agreement(week), "sensitivity": sensitivity, "crude": schedule, "bitcoin": bitcoin}
    priced = None
    if crude:
        prices, left_out = crude_prices(crude)
        found, priced = implied(prices, DECAY, "CL", margins(folder, "CL"), (date(2019, 9, 10), CRUDE_FROM))
        result["crude_with_prices"] = found | {"days_left_out": left_out}
    return result, {"history_2022.svg": draw_2022(paths, courses, tier_one(folder)), "history_crude.svg": draw_crude(drawn, lines, priced)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real data (default: %(default)s)")
    parser.add_argument("--crude", type=Path, help="prices of crude oil: CSV with the columns date and price")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that docs/policies and experiments/results are written under")
    options = parser.parse_args()
    for part in ("binance_leverage_tiers", "binance_btc_eth_hourly", "binance_1h_panel", "cme_margin_history"):
        if not (options.data / part).is_dir():
            parser.error(f"{options.data} has no folder {part}: name the folder of real data with --data")
    if options.crude and not options.crude.is_file():
        parser.error(f"--crude: {options.crude} is not a file")
    jax.config.update("jax_enable_x64", True)
    result, pictures = study(options.data, options.crude)
    for folder in ("docs/policies", "experiments/results"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    for name, drawing in pictures.items():
        (options.out / "docs/policies" / name).write_text(drawing, encoding="utf-8")
    command = "python experiments/history_caps.py" + (f" --crude {shlex.quote(options.crude.name)}" if options.crude else "")
    (options.out / "experiments/results/history_caps.json").write_text(json.dumps({"command": command} | result, indent=1) + "\n", encoding="utf-8")
    print(tables(result))


if __name__ == "__main__":
    sys.exit(main())
