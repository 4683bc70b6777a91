"""Make the price tables of the historical scenarios from public klines, and verify them against the same klines.

A scenario holds some hundred points per asset instead of thousands of minutes; the engine interpolates them linearly in log price. This
script chooses the points and says what the choice costs.

    make_price_tables.py KLINES.csv.gz --symbol BTCUSDT --start 2020-03-11 --minutes 4320     prints a [paths.BTC] table
    make_price_tables.py KLINES.csv.gz --check scenarios/2020-03-12_black_thursday.toml       exit code 1 if a figure is off by more than 1%

KLINES has the columns open, high, low, close, the time at which the bar opens as ts (Unix seconds), hour_utc (ISO) or time (20220613 05:00), and,
if it holds several, symbol and market. A file without a column symbol is of the symbol that --symbol names.

Definitions
-----------
They are those under which the figures quoted for the events come out of the klines (BTC 2020: 7,980 -> 3,782 at 02:16 UTC, -52.6%, worst
hour -24.1%; SUI 2025: 3.54 -> 0.56, worst minute -40.9%). Times are those at which the minute opens.

- Reference path of minute bars: the close of every minute, at the minute the bar opens (as the engine reads a kline file), except that
  the minute of the trough carries its low and the minute of the peak its high: the quoted peaks and troughs are highs and lows, not
  closes.
- Trough: the lowest low of the window, the first if there are several. Peak: the highest high up to the trough.
- Worst hour and worst minute: the largest fall of the reference path over exactly 60 minutes and over one minute. Away from peak and
  trough this is from close to close; an hour or a minute that ends in the trough ends at its low.
- Klines that begin after the scenario (--hold-before): their first open holds until they begin, which is an assumption. Klines that end before
  it does (--hold-after), because trading was halted: their last close holds.
- Longer bars (15 minutes to an hour, for an asset without minute data): the open of every bar, the peak's high in the middle of its bar, the
  trough's low at --trough-at (else in the middle too), linear in log price between. Of the bar that opens as the window ends only the open
  counts. What happened within the other bars is not known.

Choice of points: both ends, peak, trough, both ends of the worst hour and of the worst minute, then again and again the minute at which
the interpolation is furthest off in log price.
"""

import argparse
import csv
import gzip
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from stresslev.config.spec import PathSpec, ScenarioSpec

TOLERANCE = 0.01  # largest relative difference of a figure that --check accepts
EXACT = 1e-12  # log error below which a further point gains nothing


def opens_at(row: dict[str, str]) -> float:
    """Unix seconds at which a bar opens, by whichever column tells it."""
    if "ts" in row:
        return float(row["ts"])
    return in_utc(datetime.fromisoformat(row["hour_utc"]) if "hour_utc" in row else datetime.strptime(row["time"], "%Y%m%d %H:%M")).timestamp()


def read_bars(file: Path, symbol: str, market: str | None) -> np.ndarray:
    """Bars of one symbol as rows of ts, open, high, low, close."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8", newline="") as text:
        rows = [
            [opens_at(row), *(float(row[column]) for column in ("open", "high", "low", "close"))]
            for row in csv.DictReader(text)
            if row.get("symbol", symbol) == symbol and market in (None, row.get("market"))
        ]
    return np.array(rows).reshape(-1, 5)


def names_symbols(file: Path) -> bool:
    """Whether the klines have a column symbol."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8", newline="") as text:
        return "symbol" in next(csv.reader(text), [])


def held_before(bars: np.ndarray, start: datetime) -> np.ndarray:
    """The bars, and before them bars of their first open back to `start`."""
    if len(bars) < 2:
        return bars
    missing = np.arange(start.timestamp(), bars[0, 0], bars[1, 0] - bars[0, 0])
    return np.concatenate([np.column_stack([missing, np.full((len(missing), 4), bars[0, 1])]), bars])


def held_after(bars: np.ndarray, end: datetime) -> np.ndarray:
    """The bars, and after them bars of their last close up to `end`."""
    if len(bars) < 2:
        return bars
    step = bars[1, 0] - bars[0, 0]
    missing = np.arange(bars[-1, 0] + step, end.timestamp() + 1, step)
    return np.concatenate([bars, np.column_stack([missing, np.full((len(missing), 4), bars[-1, 4])])])


def held(bars: np.ndarray, options: argparse.Namespace, start: datetime, minutes: int) -> np.ndarray:
    """The bars, filled up at both ends as the options say."""
    if options.hold_before:
        bars = held_before(bars, start)
    return held_after(bars, start + timedelta(minutes=minutes)) if options.hold_after else bars


def window(bars: np.ndarray, start: datetime, minutes: int) -> tuple[np.ndarray, int]:
    """The bars that open from `start` to `start + minutes`, both included, and the minutes from one to the next.

    Raises:
      ValueError: the bars have gaps, doubles or do not cover the window.
    """
    if len(bars) < 2:
        raise ValueError("the klines hold no bars of this symbol and market")
    since = (bars[:, 0] - start.timestamp()) / 60
    inside = bars[(since >= 0) & (since <= minutes)]
    step = round((bars[1, 0] - bars[0, 0]) / 60)
    expected = start.timestamp() + 60 * np.arange(0, minutes + 1, step)
    if not np.array_equal(inside[:, 0], expected):
        raise ValueError(f"the klines do not cover {minutes} minutes from {start:%Y-%m-%d %H:%M} UTC without gaps")
    return inside, step


def reference_path(bars: np.ndarray, start: datetime, minutes: int, trough_at: datetime | None) -> tuple[np.ndarray, np.ndarray]:
    """The price at every minute of the window (see the definitions above), and the minutes at which it is known, not interpolated."""
    inside, step = window(bars, start, minutes)
    _, opening, high, low, close = inside.T
    if step > 1:
        high[-1] = low[-1] = opening[-1]
    trough = low.argmin()
    peak = high[: trough + 1].argmax()
    at = np.arange(0, minutes + 1, step)
    if step == 1:
        path = close.copy()
        path[peak], path[trough] = high[peak], low[trough]
        return path, at
    points = dict(zip(at, opening, strict=True))
    points[at[peak] + step // 2] = high[peak]
    minute = at[trough] + step // 2 if trough_at is None else round((trough_at - start).total_seconds() / 60)
    if not at[trough] < minute < at[trough] + step:
        raise ValueError(f"--trough-at must lie within the bar with the lowest low, which opens {at[trough]} minutes after the start")
    points[minute] = low[trough]
    known = np.array(sorted(points))
    return interpolate(known, np.array([points[m] for m in known]), minutes), known


def interpolate(at: np.ndarray, prices: np.ndarray, minutes: int) -> np.ndarray:
    """The price at every minute, linear in log price between points, as the engine does it."""
    return np.exp(np.interp(np.arange(minutes + 1), at, np.log(prices)))


def worst_fall(path: np.ndarray, span: int) -> tuple[float, int]:
    """The largest fall over `span` minutes, as a positive share, and the minute it ends at."""
    falls = 1 - path[span:] / path[:-span]
    end = int(falls.argmax())
    return float(falls[end]), end + span


def figures(path: np.ndarray) -> dict[str, tuple[float, int]]:
    """The figures by which a path is judged, each with its minute."""
    trough = int(path.argmin())
    peak = int(path[: trough + 1].argmax())
    return {
        "start": (float(path[0]), 0),
        "peak": (float(path[peak]), peak),
        "trough": (float(path[trough]), trough),
        "fall": (float(1 - path[trough] / path[peak]), trough),
        "worst hour": worst_fall(path, 60),
        "worst minute": worst_fall(path, 1),
    }


def choose_points(path: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """The minutes to keep: those every figure rests on, then those at which the interpolation is furthest off; all if few are known."""
    if len(known) <= count:
        return known
    found = figures(path)
    hour, minute = found["worst hour"][1], found["worst minute"][1]
    kept = {0, len(path) - 1, found["peak"][1], found["trough"][1], hour - 60, hour, minute - 1, minute}
    while len(kept) < count:
        at = np.array(sorted(kept))
        error = np.abs(np.log(path / interpolate(at, path[at], len(path) - 1)))
        furthest = int(error.argmax())
        if error[furthest] < EXACT:
            break
        kept.add(furthest)
    return np.array(sorted(kept))


def array(key: str, values: np.ndarray) -> str:
    """A TOML array of numbers, twelve in a row."""
    texts = [f"{value:.10g}" for value in values]
    rows = "\n".join("  " + ", ".join(texts[i : i + 12]) + "," for i in range(0, len(texts), 12))
    return f"{key} = [\n{rows}\n]"


def table(asset: str, path: np.ndarray, at: np.ndarray, source: str) -> str:
    """The [paths.<asset>] table of a scenario."""
    return "\n".join([f"[paths.{asset}]", f'source = "{source}"', array("minutes", at), array("prices", path[at])])


def describe(found: dict[str, tuple[float, int]]) -> str:
    """The figures as comment lines."""
    return "\n".join(f"#   {name}: {value:.6g} at minute {minute}" for name, (value, minute) in found.items())


def compare(asset: str, path: np.ndarray, spec: PathSpec) -> bool:
    """Print real and interpolated figures side by side; whether all agree within the tolerance."""
    shipped = interpolate(np.array(spec.minutes), np.array(spec.prices), len(path) - 1)
    print(f"{asset}: {len(spec.minutes)} points, RMS log error {np.sqrt(np.mean(np.log(shipped / path) ** 2)):.4f}")
    agrees = True
    for (name, (real, real_at)), (value, value_at) in zip(figures(path).items(), figures(shipped).values(), strict=True):
        difference = value / real - 1
        within = abs(difference) <= TOLERANCE
        agrees &= within
        verdict = f"{difference:+8.3%}" + ("" if within else "  off")
        print(f"  {name:12s} real {real:12.6g} at minute {real_at:5d}  scenario {value:12.6g} at {value_at:5d}  {verdict}")
    return agrees


def in_utc(stamp: datetime) -> datetime:
    """The time itself; UTC unless it says otherwise."""
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def utc(text: str) -> datetime:
    """A time in ISO form."""
    return in_utc(datetime.fromisoformat(text))


def check(options: argparse.Namespace) -> int:
    """Compare every path of a scenario that the klines hold; 0 if all agree, 1 if one does not or none could be compared."""
    scenario = ScenarioSpec.model_validate(tomllib.loads(options.check.read_text(encoding="utf-8")))
    if scenario.start is None:
        raise ValueError(f"{options.check} has no start: only a historical scenario can be compared with klines")
    results = []
    if options.symbol is None and not names_symbols(options.klines):
        raise ValueError("has no column symbol: say with --symbol which one it is of")
    for asset, spec in scenario.paths.items():
        symbol = asset + options.quote
        if options.symbol not in (None, symbol):
            continue
        if spec.minutes is None:
            print(f"{asset}: not compared, it has no points of its own")
            continue
        bars = read_bars(options.klines, symbol, options.market)
        bars = held(bars, options, in_utc(scenario.start), scenario.duration_minutes)
        if not len(bars):
            print(f"{asset}: not compared, no {symbol} in {options.klines.name}")
            continue
        path, _ = reference_path(bars, in_utc(scenario.start), scenario.duration_minutes, options.trough_at)
        results.append(compare(asset, path, spec))
    return 0 if results and all(results) else 1


def make(options: argparse.Namespace) -> int:
    """Print the table of one asset."""
    bars = read_bars(options.klines, options.symbol, options.market)
    bars = held(bars, options, options.start, options.minutes)
    path, known = reference_path(bars, options.start, options.minutes, options.trough_at)
    at = choose_points(path, known, options.points)
    print(describe(figures(path)))
    print(table(options.symbol.removesuffix(options.quote), path, at, f"{options.source}, {options.symbol}"))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("klines", type=Path, help="CSV of klines, plain or .gz")
    parser.add_argument("--check", type=Path, metavar="SCENARIO", help="compare this scenario with the klines instead of making a table")
    parser.add_argument("--symbol", help="symbol to use, for example BTCUSDT; with --check: only this one")
    parser.add_argument("--market", help="only rows of this market (spot or perp)")
    parser.add_argument("--start", type=utc, help="minute 0, ISO time, UTC")
    parser.add_argument("--minutes", type=int, help="duration")
    parser.add_argument("--points", type=int, default=120, help="number of points (default %(default)s)")
    parser.add_argument("--trough-at", type=utc, help="longer bars only: when the lowest low was")
    parser.add_argument("--hold-before", action="store_true", help="the klines begin after the scenario: hold their first open until then")
    parser.add_argument("--hold-after", action="store_true", help="the klines end before the scenario: hold their last close from then on")
    parser.add_argument("--quote", default="USDT", help="symbol less asset (default %(default)s)")
    parser.add_argument("--source", default="Binance spot 1-minute klines (data.binance.vision)", help="text for the table's source")
    options = parser.parse_args(arguments)
    if options.check is None and None in (options.symbol, options.start, options.minutes):
        parser.error("a table needs --symbol, --start and --minutes")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code."""
    options = parse(arguments)
    try:
        return make(options) if options.check is None else check(options)
    except ValueError as error:
        print(f"{options.klines}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
