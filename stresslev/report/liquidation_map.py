"""The liquidation map: how much would be liquidated at each price ahead, over time, with the path that the price took."""

import html

import numpy as np

from stresslev.report import chart, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Scenario
from stresslev.report.markup import Html, tag

#: Most assets drawn, and rows of prices in one map.
_MAPS, _ROWS = 6, 120
#: From nothing to most, finer where there is little: a few price levels hold most of what would be liquidated.
_SCALE = [[0, "#ffffff"], [0.01, "#dcebf5"], [0.05, "#a9cfe6"], [0.2, "#56a0cc"], [0.5, "#1f6ca3"], [1, "#0a2f52"]]
_PATH = "#D55E00"


def charts(scenario: Scenario) -> list[Chart]:
    """One map per asset in which something could be liquidated, pools summed; none for results without a map."""
    ds = scenario.data
    if "liquidation_map_usd" not in ds:
        return []
    # sales at lower prices, purchases at higher ones: what would have happened by the time the price is there
    usd = np.abs(ds.liquidation_map_usd.sum("pool").transpose("map_time", "move", "asset").values.astype(float))
    total = usd.sum(axis=(0, 1))
    names = chart.names(scenario, "asset")
    held = [a for a in series.largest(total, min(_MAPS, len(names))) if total[a] > 0]
    return [_map(scenario, names[a], a, usd[:, :, a]) for a in held]


def missing(scenario: Scenario) -> Html | None:
    """How to get the maps, for results without them."""
    text = "Not measured in this run; --set run.liquidation_map=true has it drawn: how much would be liquidated at each price, over time."
    return None if "liquidation_map_usd" in scenario.data else tag("p", text, class_="note screen-only")


def _per_percent(usd: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each further percent of a move liquidates.

    Args: usd (T, M) by moves (M,), rising, of both signs: all that is liquidated on the way from no move.

    Returns: edges (M + 1,) with no move among them, and USD per percent between them (T, M).
    """
    edges = np.sort(np.append(moves, 0.0))
    by_edge = np.insert(usd, int(np.searchsorted(moves, 0.0)), 0.0, axis=1)
    return edges, np.abs(np.diff(by_edge, axis=1)) / (100 * np.diff(edges))


def _on_prices(density: np.ndarray, price: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A map over moves from the price of each time, as one over prices that stand still.

    Args: density (T, M), price (T,), edges (M + 1,) of the moves.

    Returns: prices (R,), and density (R, T); not a number where the map does not reach.
    """
    low, high = float((price * (1 + edges[0])).min()), float((price * (1 + edges[-1])).max())
    finest = float(price.min()) * float(np.diff(edges).min())
    rows = int(np.clip(round((high - low) / finest), 2, _ROWS))
    prices = low + (np.arange(rows) + 0.5) * (high - low) / rows
    away = prices[:, None] / price[None, :] - 1
    place = np.searchsorted(edges, away, side="right") - 1
    inside = (place >= 0) & (place < density.shape[1])
    return prices, np.where(inside, density[np.arange(len(price))[None, :], np.clip(place, 0, density.shape[1] - 1)], np.nan)


def _map(scenario: Scenario, name: str, a: int, usd: np.ndarray) -> Chart:
    ds = scenario.data
    times, moves = ds.map_time.values.astype(float), ds.move.values.astype(float)
    path = chart.values(scenario, "price_usd", "asset")[:, a]
    path = 100 * path / path[0]
    at = np.interp(times, scenario.minutes, path)
    edges, density = _per_percent(usd, moves)
    prices, cells = _on_prices(density, at, edges)
    unit = plots.money_unit(float(density.max()))
    bar = {"thickness": 12, "outlinewidth": 0, "ticksuffix": unit.suffix, "x": 1.01, "nticks": 5, "len": 1}
    hover = f"%{{x}}: %{{z:,.3~g}}{unit.suffix} USD at %{{y:.3~g}}%<extra>{html.escape(name)}</extra>"
    heat = {"type": "heatmap", "x": plots.minutes(times), "y": series.rounded(prices), "hoverongaps": False, "colorscale": _SCALE, "colorbar": bar}
    heat |= {"z": [series.rounded(row / unit.factor) for row in cells], "zmin": 0, "name": html.escape(name), "hovertemplate": hover}
    rows = series.thin(path)
    line = plots.line(scenario.minutes[rows], path[rows], f"price of {name}", _PATH, "%", width=2)
    axis = plots.value_axis(float(prices[0]), float(prices[-1]), "%", showgrid=False)
    layout = plots.layout(260, right=84, xaxis=plots.time_axis(scenario, 8), yaxis=axis)
    return Chart(
        title=f"Liquidation map of {name}",
        unit="USD that pools would liquidate per further percent if this price moved alone, by the rules of the moment, all pools; prices in percent "
        f"of the start; {chart.time_words(scenario)}",
        caption=_caption(scenario, usd, times, moves),
        figure=chart.figure(scenario, [heat, line], layout),
        key=[("block", _SCALE[3][1], "darker: more would be liquidated"), ("solid", _PATH, f"price of {name}")],
    )


def _caption(scenario: Scenario, usd: np.ndarray, times: np.ndarray, moves: np.ndarray) -> str:
    """What a tenth down or up would liquidate at the start, and when that was most."""
    down, up = (int(np.abs(moves - to).argmin()) for to in (-0.1, 0.1))
    fall, rise = words.percent(abs(float(moves[down]))), words.percent(abs(float(moves[up])))
    text = f"{_when(scenario, times[0])} a fall of {fall} would make pools sell {words.usd(float(usd[0, down]))}"
    text += f", and a rise of {rise} would make them buy {words.usd(float(usd[0, up]))}."
    for column, word in ((down, f"fall of {fall} would sell"), (up, f"rise of {rise} would buy")):
        most = int(usd[:, column].argmax())
        if usd[most, column] > 1.01 * usd[0, column]:
            text += f" A {word} most {words.moment(scenario.start, times[most])}: {words.usd(float(usd[most, column]))}."
    return text


def _when(scenario: Scenario, minutes: float) -> str:
    text = words.moment(scenario.start, minutes)
    return text[0].upper() + text[1:]
