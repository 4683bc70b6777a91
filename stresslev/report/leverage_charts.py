"""Charts of dynamic leverage: caps and requirements that moved, and what a tightened cap made accounts close."""

import numpy as np

from stresslev.report import chart, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Scenario
from stresslev.report.plots import Colours

#: Relative moves below this are rounding.
_STILL = 1e-4


def charts(scenario: Scenario, colours: Colours) -> list[Chart]:
    """Only what moved: nothing for results without dynamic leverage."""
    made = (
        _levels(scenario, colours, "cap_leverage", "Caps on leverage", "times equity", "cap", np.argmin),
        _levels(scenario, colours, "maintenance_multiplier", "Maintenance requirement", "times that without rules", "multiplier", np.argmax),
        _reduced(scenario),
    )
    return [one for one in made if one is not None]


def _levels(scenario: Scenario, colours: Colours, variable: str, title: str, unit: str, noun: str, tightest) -> Chart | None:
    """Panels of the pools in which a level moves, and where it is tightest relative to its start."""
    if variable not in scenario.data:
        return None
    levels = chart.values(scenario, variable, "pool", "asset")
    ds = scenario.data
    held = (ds.open_interest_usd + ds.supplied_usd).isel(time=0).transpose("pool", "asset").values > 0
    known = np.isfinite(levels).all(axis=0) & (levels > 0).all(axis=0) & held
    levels = np.where(known[None], levels, 1.0)
    shown = levels.max(axis=0) / levels.min(axis=0) > 1 + _STILL
    if not shown.any():
        return None
    change = levels / levels[:1]
    t, v, a = np.unravel_index(int(tightest(np.where(shown[None], change, 1.0))), change.shape)
    pools, assets = chart.names(scenario, "pool"), chart.names(scenario, "asset")
    move = f"from {words.times(float(levels[0, v, a]))} to {words.times(float(levels[t, v, a]))}"
    caption = f"Tightest against its start is the {noun} of {assets[a]} at {pools[v]}: {move}, {words.moment(scenario.start, scenario.minutes[t])}."
    notes = [_range(levels[:, i, shown[i]]) for i in range(len(pools))]
    figure, key = chart.pool_panels(scenario, colours, levels, shown, notes, "×")
    return Chart(title, f"{unit}, all panels on one scale; {chart.time_words(scenario)}", caption, figure, key)


def _range(levels: np.ndarray) -> str:
    return f"{words.times(float(levels.min()))} to {words.times(float(levels.max()))}" if levels.size else ""


def _reduced(scenario: Scenario) -> Chart | None:
    """What accounts closed and took back under the caps, over time."""
    ds = scenario.data
    kinds = {"reduced_usd": "closed by force", "voluntary_usd": "closed by users themselves", "releveraged_usd": "taken back (below zero)"}
    flows = {n: chart.values(scenario, n, "pool", "asset")[1:].sum(axis=(1, 2)) for n in kinds if n in ds}
    most = max((float(x.sum()) for x in flows.values()), default=0.0)
    flows = {n: x for n, x in flows.items() if x.sum() > _STILL * most}
    if not flows:
        return None
    size = series.bucket_steps(len(scenario.minutes) - 1)
    width = size * float(scenario.minutes[1] - scenario.minutes[0])
    starts = scenario.minutes[:-1][::size]
    sums = {n: series.bucket_sums(x, size) * (-1 if n == "releveraged_usd" else 1) for n, x in flows.items()}
    top = sum(np.maximum(x, 0) for x in sums.values()).max()
    bottom = sum(np.minimum(x, 0) for x in sums.values()).min()
    unit = plots.money_unit(max(top, -bottom))
    colours = dict(zip(kinds, (plots.PALETTE[1], plots.PALETTE[4], plots.PALETTE[2]), strict=True))
    data = []
    for name, x in sums.items():
        bar = plots.line(starts + width / 2, x / unit.factor, kinds[name], colours[name], unit.suffix)
        del bar["mode"], bar["line"]
        shape = {"color": colours[name], "line": {"width": 0}}
        data.append(bar | {"type": "bar", "width": width * (60_000 if scenario.start else 1), "marker": shape})
    axis = plots.value_axis(1.05 * bottom / unit.factor, 1.05 * top / unit.factor, unit.suffix)
    layout = plots.layout(210, xaxis=plots.time_axis(scenario, 8, showline=False), yaxis=axis, barmode="relative", bargap=0)
    totals = [f"{words.usd(float(x.sum()))} {kinds[n].removesuffix(' (below zero)')}" for n, x in flows.items()]
    posted = float(ds.margin_posted_usd.sum()) if "margin_posted_usd" in ds else 0.0
    cash = f" Calls bring in {words.usd(posted)} of outside cash." if posted > 0 else ""
    return Chart(
        title="What caps made accounts do",
        unit=f"USD per {words.duration(width)}, all pools; {chart.time_words(scenario)}",
        caption=f"Over the scenario {words.listing(totals)}.{cash}",
        figure=chart.figure(scenario, data, layout),
        key=[("block", colours[n], kinds[n]) for n in flows],
    )
