"""Parts that all charts share, as plain Plotly data: colours, axes, panels and labels at the ends of lines."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from stresslev.report import series
from stresslev.report.inputs import Run, Scenario

INK, FAINT, GRID = "#222222", "#666666", "#e4e4e4"
#: Okabe and Ito's colours, told apart by the colour-blind, less yellow (too pale on white); grey is for what is summed up as "others".
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
OTHERS = "#999999"
#: Letters of a name that fit beside a line.
_NAME = 20
#: Most stacked parts or lines in one plot, and most panels in one chart.
PARTS, PANELS = 7, 12

_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif", "size": 12, "color": INK}
_PANEL, _TITLE, _BOTTOM = 116, 40, 40  # heights in pixels: a panel's plot, the title above it, the time axis below

#: Dates at ticks, by the time between them; the second line appears where it changes.
_DATES = [
    {"dtickrange": [None, 86_399_999], "value": "%H:%M\n%-d %b"},
    {"dtickrange": [86_400_000, "M1"], "value": "%-d %b\n%Y"},
    {"dtickrange": ["M1", None], "value": "%b\n%Y"},
]


@dataclass(frozen=True)
class Colours:
    """One colour per pool and per asset in all charts of a report; repeated only when there are more than the palette has."""

    pools: dict[str, str]
    assets: dict[str, str]


def colours(run: Run) -> Colours:
    """Pools take the first colours, assets the next."""
    n = len(run.pools)
    return Colours(
        pools={p: PALETTE[i % len(PALETTE)] for i, p in enumerate(run.pools)},
        assets={a: PALETTE[(n + i) % len(PALETTE)] for i, a in enumerate(run.assets)},
    )


def short(name: str, width: int = _NAME) -> str:
    """A name for use inside a plot: cut, and without markup Plotly would read."""
    return html.escape(name if len(name) <= width else name[: width - 1] + "…")


def folded(name: str, width: int = 26) -> str:
    """A name over two lines beside a plot, what is longer cut off."""
    first, *rest = textwrap.wrap(name, width, max_lines=2, placeholder="…") or [""]
    return "<br>".join(html.escape(part) for part in (first, *rest))


@dataclass(frozen=True)
class Unit:
    """A scale for money on an axis."""

    factor: float
    suffix: str


def money_unit(largest: float) -> Unit:
    """The unit in which the largest value is at least 1."""
    for factor, suffix in ((1e12, " tn"), (1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if largest >= factor:
            return Unit(factor, suffix)
    return Unit(1.0, "")


def minutes(values: np.ndarray) -> list[float | int]:
    """Times as plain numbers; the page's script turns them into dates where the scenario has a start."""
    return [int(m) if float(m).is_integer() else round(float(m), 4) for m in np.asarray(values, dtype=float)]


def origin(start: datetime | None) -> int | None:
    """Minute 0 in milliseconds, None without a date."""
    return None if start is None else round(start.timestamp() * 1000)


def time_axis(scenario: Scenario, ticks: int, window: tuple[float, float] | None = None, **more) -> dict:
    """The horizontal axis over the whole scenario or a window of minutes: dates in UTC, else minutes."""
    low, high = window or (float(scenario.minutes[0]), float(scenario.minutes[-1]))
    zero = origin(scenario.start)
    axis = {"nticks": ticks, "showgrid": False, "showline": True, "linecolor": FAINT, "ticks": "outside", "ticklen": 4, "tickangle": 0}
    if zero is None:
        return axis | {"type": "linear", "range": [low, high], "ticksuffix": " min", "showticksuffix": "last"} | more
    span = [zero + low * 60_000, zero + high * 60_000]
    return axis | {"type": "date", "range": span, "hoverformat": "%-d %b %Y %H:%M UTC", "tickformatstops": _DATES} | more


def value_axis(low: float, high: float, suffix: str, **more) -> dict:
    """A vertical axis with its unit at every tick."""
    axis = {"range": [low, high], "ticksuffix": suffix, "gridcolor": GRID, "zerolinecolor": FAINT, "zerolinewidth": 1, "nticks": 6}
    return axis | {"separatethousands": True, "ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"} | more


def line(x: np.ndarray, y: np.ndarray, name: str, colour: str, unit: str, *, width: float = 1.8, **more) -> dict:
    """A line with its name and unit under the pointer."""
    trace = {"type": "scatter", "mode": "lines", "x": minutes(x), "y": series.rounded(y), "name": html.escape(name)}
    hover = f"%{{x}}: %{{y:,.4~g}}{unit}<extra>{html.escape(name)}</extra>"
    return trace | {"line": {"color": colour, "width": width}, "hovertemplate": hover, "showlegend": False} | more


def layout(height: float, left: int = 66, right: int = 38, top: int = 12, **more) -> dict:
    """What every chart has in common; the width is that of the page."""
    margin = {"l": left, "r": right, "t": top, "b": _BOTTOM, "pad": 0}
    plain = {"autosize": True, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "showlegend": False, "hovermode": "closest"}
    return {"height": round(height), "margin": margin, "font": _FONT, **plain, **more}


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1] moved apart to at least `gap`, as little as a pass in each direction allows, in their own order."""
    order = np.argsort(places, kind="stable")
    out = np.array(places, dtype=float)[order]
    gap = min(gap, 1 / max(len(out) - 1, 1))
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + gap)
    if len(out) and out[-1] > 1:
        out[-1] = 1.0
        for i in range(len(out) - 2, -1, -1):
            out[i] = min(out[i], out[i + 1] - gap)
    back = np.empty_like(out)
    back[order] = out
    return back.tolist()


def _width(text: str) -> float:
    """About how many pixels a text takes in a wide font."""
    return sum(9.0 if c.isupper() or c in "mwMW%…" else 7.2 for c in text)


def end_labels(entries: Sequence[tuple[str, str, str, float]], low: float, high: float, plot_height: float) -> tuple[list[dict], int]:
    """Labels to the right of the plot, one per line.

    Args:
      entries: (name, text, colour, value the label belongs to).
      low, high: range of the vertical axis.

    Returns: annotations, and the right margin they need in pixels.
    """
    places = spread([(value - low) / (high - low) for *_, value in entries], 18 / plot_height)
    notes = []
    for (name, text, colour, _), place in zip(entries, places, strict=True):
        label = f'<span style="color:{colour}">■</span> {short(name)} {text}'
        at = {"xref": "paper", "yref": "paper", "x": 1, "y": place, "xanchor": "left", "yanchor": "middle", "xshift": 6}
        notes.append(at | {"text": label, "showarrow": False, "align": "left"})
    return notes, round(34 + max(_width(f"{name[:_NAME]} {text}") for name, text, *_ in entries))


@dataclass(frozen=True)
class Panel:
    """Where one of several plots lies, and what its axes are called."""

    number: int
    horizontal: tuple[float, float]
    vertical: tuple[float, float]
    last: bool  # no panel below
    ticks: int  # on the time axis, at most

    @property
    def matched(self) -> str | None:
        """The axis whose range this panel's time axis shares; the first panel sets it."""
        return "x" if self.number else None

    def axis(self, letter: str) -> str:
        """Name of an axis in a trace: x, x2, ..."""
        return letter if self.number == 0 else f"{letter}{self.number + 1}"

    def key(self, letter: str) -> str:
        """Name of an axis in a layout: xaxis, xaxis2, ..."""
        return f"{letter}axis{self.axis(letter)[1:]}"

    def title(self, name: str, text: str, colour: str) -> dict:
        """A two-line title above the panel."""
        label = f'<span style="color:{colour}">■</span> <b>{short(name, 24)}</b><br>{text}'
        at = {"xref": f"{self.axis('x')} domain", "yref": f"{self.axis('y')} domain", "x": 0, "y": 1}
        at |= {"xanchor": "left", "yanchor": "bottom"}
        return at | {"text": label, "showarrow": False, "align": "left", "yshift": 3}


def panels(n: int) -> tuple[list[Panel], float]:
    """A grid of n plots with room for titles, and the height of the chart."""
    columns = n if n <= 3 else 2 if n == 4 else 3
    rows = -(-n // columns)
    gap = _TITLE + 30
    inner = rows * _PANEL + (rows - 1) * gap
    between = 0.09 if columns < 3 else 0.11
    width = (1 - between * (columns - 1)) / columns
    found = []
    for i in range(n):
        row, column = divmod(i, columns)
        top = 1 - row * (_PANEL + gap) / inner
        left = column * (width + between)
        found.append(Panel(i, (left, left + width), (max(top - _PANEL / inner, 0), top), i + columns >= n, 4 if columns < 3 else 3))
    return found, inner + _TITLE + 4 + _BOTTOM


def panel_layout(height: float, left: int, notes: list[dict], axes: dict) -> dict:
    """Layout of a grid of panels."""
    return layout(height, left=left, top=_TITLE + 4, annotations=notes, **axes)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two ends."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    base = 10.0 ** np.floor(np.log10(raw))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw * (1 - 1e-9))
    return [float(k * step) for k in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]
