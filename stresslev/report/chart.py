"""A chart, and what all charts read from a scenario."""

from dataclasses import dataclass, field

import numpy as np

from stresslev.report import plots, series, words
from stresslev.report.inputs import Scenario
from stresslev.report.plots import Colours


@dataclass(frozen=True)
class Chart:
    """A figure with its words. Without anything to draw there is no figure, and the caption says why."""

    title: str
    unit: str
    caption: str
    figure: dict | None = None
    key: list[tuple[str, str, str]] = field(default_factory=list)  # (kind, colour, text); kinds are "solid", "dashed" and "block"


def values(scenario: Scenario, variable: str, *dims: str) -> np.ndarray:
    """A variable in float64, time first."""
    return scenario.data[variable].transpose("time", *dims).values.astype(float)


def names(scenario: Scenario, dim: str) -> list[str]:
    """Pools or assets."""
    return [str(n) for n in scenario.data[dim].values]


def bare(amount: float) -> str:
    """Money where the unit is stated beside it."""
    return words.usd(amount).removesuffix(" USD")


def time_words(scenario: Scenario) -> str:
    """What the horizontal axis shows."""
    return "time in UTC" if scenario.start else "time in minutes since the start"


def figure(scenario: Scenario, data: list[dict], layout: dict) -> dict:
    """Plotly data with the time of minute 0, from which the page's script makes dates."""
    return {"data": data, "layout": layout, "origin": plots.origin(scenario.start)}


def still(data: list[dict], layout: dict) -> dict:
    """Plotly data without a time axis."""
    return {"data": data, "layout": layout, "origin": None}


def pool_panels(scenario: Scenario, colours: Colours, levels: np.ndarray, shown: np.ndarray, notes: list[str], suffix: str) -> tuple[dict, list]:
    """A panel per pool with one line per asset, all on one scale; and the key to the colours.

    Args:
      levels: (T, V, A) what is drawn.
      shown: (V, A) bool, lines that are drawn; pools without any have no panel.
      notes: (V,) text under each panel's name.
    """
    pools, assets = names(scenario, "pool"), names(scenario, "asset")
    chosen = series.largest(shown.any(axis=1).astype(float), min(plots.PANELS, int(shown.any(axis=1).sum())))
    grid, height = plots.panels(len(chosen))
    drawn = levels[:, shown]
    low, high = min(float(drawn.min()), 0.0), max(float(drawn.max()), 0.0)
    pad = 0.06 * (high - low) or 1.0
    data, titles, axes = [], [], {}
    for panel, v in zip(grid, chosen, strict=True):
        lines = np.flatnonzero(shown[v])
        rows = series.thin(levels[:, v, lines])
        place = {"xaxis": panel.axis("x"), "yaxis": panel.axis("y")}
        for a in lines:
            name = f"{pools[v]}, {assets[a]}"
            data.append(plots.line(scenario.minutes[rows], levels[rows, v, a], name, colours.assets[assets[a]], suffix, width=1.4, **place))
        titles.append(panel.title(pools[v], notes[v], colours.pools[pools[v]]))
        axes[panel.key("x")] = plots.time_axis(
            scenario, panel.ticks, domain=panel.horizontal, anchor=panel.axis("y"), matches=panel.matched, showticklabels=panel.last
        )
        bottom = low - pad if low < 0 else 0.0
        axes[panel.key("y")] = plots.value_axis(bottom, high + pad, suffix, domain=panel.vertical, anchor=panel.axis("x"), nticks=5)
    key = [("solid", colours.assets[assets[a]], assets[a]) for a in np.flatnonzero(shown[chosen].any(axis=0))]
    return figure(scenario, data, plots.panel_layout(height, 60, titles, axes)), key
