"""The charts of a scenario that every system has."""

import numpy as np

from stresslev.report import captions, chart, facts, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Scenario
from stresslev.report.plots import Colours


def charts(scenario: Scenario, colours: Colours) -> list[Chart]:
    """Prices, liquidations, funds, bad debt, open interest and depth, in the order of the report."""
    made = [make(scenario, colours) for make in (_prices, _close_up, _liquidations, _funds, _bad_debt, _interest, _depth)]
    return [one for one in made if one is not None]


def _asset_sizes(scenario: Scenario) -> np.ndarray:
    ds = scenario.data
    return (ds.open_interest_usd + ds.supplied_usd + ds.borrowed_usd).isel(time=0).sum("pool").values


def _left_out(shown: list, every: list, what: str, why: str = "less open interest") -> str:
    missing = len(every) - len(shown)
    return f" Not drawn: {words.plural(missing, what)} with {why}." if missing else ""


_PRICE_KEY = [("solid", plots.FAINT, "with the cascade (coloured)"), ("dashed", plots.FAINT, "without it: the scenario alone")]


def _prices(scenario: Scenario, colours: Colours) -> Chart:
    names, shown = chart.names(scenario, "asset"), series.largest(_asset_sizes(scenario), plots.PANELS)
    return Chart(
        title="Prices with and without the cascade",
        unit=f"percent of the start, all panels on one scale; {chart.time_words(scenario)}",
        caption=captions.prices(scenario) + _left_out(shown, names, "asset"),
        figure=_price_panels(scenario, colours, shown, None),
        key=_PRICE_KEY,
    )


def _close_up(scenario: Scenario, colours: Colours) -> Chart | None:
    window = facts.cascade_window(scenario)
    if window is None:
        return None
    shown = series.largest(_asset_sizes(scenario), plots.PANELS)
    return Chart(
        title="Prices in the cascade, close up",
        unit=f"percent of the start, all panels on one scale; {chart.time_words(scenario)}",
        caption=captions.close_up(scenario, window),
        figure=_price_panels(scenario, colours, shown, window),
        key=_PRICE_KEY,
    )


def _price_panels(scenario: Scenario, colours: Colours, shown: list[int], window: tuple[float, float] | None) -> dict:
    names, times = chart.names(scenario, "asset"), scenario.minutes
    price, without = chart.values(scenario, "price_usd", "asset"), chart.values(scenario, "exogenous_price_usd", "asset")
    price, without = 100 * price / price[0], 100 * without / without[0]
    if window:
        inside = (times >= window[0]) & (times <= window[1])
        times, price, without = times[inside], price[inside], without[inside]
    grid, height = plots.panels(len(shown))
    low, high = min(price[:, shown].min(), without[:, shown].min()), max(price[:, shown].max(), without[:, shown].max())
    pad = max(0.05 * (high - low), 1)
    data, notes, axes = [], [], {}
    for panel, a in zip(grid, shown, strict=True):
        rows = series.thin(np.stack([price[:, a], without[:, a]], axis=1))
        place = {"xaxis": panel.axis("x"), "yaxis": panel.axis("y")}
        x, colour = times[rows], colours.assets[names[a]]
        dashed = plots.line(x, without[rows, a], f"{names[a]} without the cascade", plots.FAINT, "%", width=1.3, **place)
        dashed["line"]["dash"] = "4px,2px"
        data += [dashed, plots.line(x, price[rows, a], f"{names[a]} with the cascade", colour, "%", **place)]
        word, extreme = ("highest", np.max) if price[:, a].max() - 100 > 100 - price[:, a].min() else ("lowest", np.min)
        text = f"{word} {words.percent(extreme(price[:, a]) / 100)}, without {words.percent(extreme(without[:, a]) / 100)}"
        notes.append(panel.title(names[a], text, colour))
        axes[panel.key("x")] = plots.time_axis(
            scenario, panel.ticks, window, domain=panel.horizontal, anchor=panel.axis("y"), matches=panel.matched, showticklabels=panel.last
        )
        axes[panel.key("y")] = plots.value_axis(max(low - pad, 0), high + pad, "%", domain=panel.vertical, anchor=panel.axis("x"), nticks=5)
    return chart.figure(scenario, data, plots.panel_layout(height, 56, notes, axes))


def _liquidations(scenario: Scenario, colours: Colours) -> Chart:
    title = "Liquidations by pool"
    if not scenario.liquidated:
        return Chart(title, "", "Nothing is liquidated in this scenario, so there is nothing to draw.")
    names = chart.names(scenario, "pool")
    sides = [chart.values(scenario, v, "pool", "asset")[1:].sum(axis=2) for v in ("closed_long_usd", "closed_short_usd")]
    size = series.bucket_steps(len(sides[0]))
    step = float(scenario.minutes[1] - scenario.minutes[0])
    long, short = (series.bucket_sums(side, size) for side in sides)
    sizes = (long + short).sum(axis=0)
    caption = captions.liquidations(scenario, (long + short).sum(axis=1), size)
    (long, labels, other), (short, _, _) = (series.fold(side, names, sizes, plots.PARTS) for side in (long, short))
    top, bottom = long.sum(axis=1).max(), -short.sum(axis=1).max()
    unit = plots.money_unit(max(top, -bottom))
    starts = scenario.minutes[:-1][::size]
    width = size * step
    data, key = [], []
    for v, name in enumerate(labels):
        colour = plots.OTHERS if name == other else colours.pools[name]
        if sizes.max() <= 0 or (long[:, v] + short[:, v]).max() <= 0:
            continue
        key.append(("block", colour, name))
        for side, sign, word in ((long, 1, "longs"), (short, -1, "shorts")):
            bar = plots.line(starts + width / 2, sign * side[:, v] / unit.factor, f"{name}, {word}", colour, unit.suffix)
            del bar["mode"], bar["line"]
            bar |= {"type": "bar", "width": width * (60_000 if scenario.start else 1), "marker": {"color": colour, "line": {"width": 0}}}
            data.append(bar)
    marks = plots.ticks(1.05 * bottom / unit.factor, 1.05 * top / unit.factor)
    vertical = plots.value_axis(
        1.05 * bottom / unit.factor,
        1.05 * top / unit.factor,
        "",
        tickvals=marks,
        ticktext=[f"{words.decimal(abs(m))}{unit.suffix}" for m in marks],
    )
    layout = plots.layout(220, xaxis=plots.time_axis(scenario, 8, showline=False), yaxis=vertical, barmode="relative", bargap=0)
    return Chart(
        title=title,
        unit=f"USD closed per {words.duration(width)}: {_sides(scenario)}; {chart.time_words(scenario)}",
        caption=caption,
        figure=chart.figure(scenario, data, layout),
        key=key,
    )


def _sides(scenario: Scenario) -> str:
    if scenario.lenders:
        return "longs and collateral above zero (forced sales), shorts and debt repaid below (forced purchases)"
    return "longs above zero (forced sales), shorts below (forced purchases)"


def _funds(scenario: Scenario, colours: Colours) -> Chart:
    title = "Insurance funds"
    names, fund = chart.names(scenario, "pool"), chart.values(scenario, "insurance_fund_usd", "pool")
    if fund.max() <= 0:
        return Chart(title, "", "No pool has an insurance fund at any time, so there is nothing to draw.")
    held = [v for v in range(len(names)) if fund[:, v].max() > 0]
    shown = [held[i] for i in series.largest(fund[:, held].max(axis=0), plots.PANELS)]
    grid, height = plots.panels(len(shown))
    data, notes, axes = [], [], {}
    for panel, v in zip(grid, shown, strict=True):
        own = fund[:, v]
        unit = plots.money_unit(own.max())
        rows, colour = series.thin(own), colours.pools[names[v]]
        place = {"xaxis": panel.axis("x"), "yaxis": panel.axis("y"), "fill": "tozeroy", "fillcolor": colour + "22"}
        data.append(plots.line(scenario.minutes[rows], own[rows] / unit.factor, names[v], colour, unit.suffix, **place))
        notes.append(panel.title(names[v], f"start {chart.bare(own[0])}, lowest {chart.bare(own.min())}", colour))
        axes[panel.key("x")] = plots.time_axis(
            scenario, panel.ticks, domain=panel.horizontal, anchor=panel.axis("y"), matches=panel.matched, showticklabels=panel.last
        )
        top = 1.08 * own.max() / unit.factor or 1.0
        axes[panel.key("y")] = plots.value_axis(0, top, unit.suffix, domain=panel.vertical, anchor=panel.axis("x"), nticks=5)
    return Chart(
        title=title,
        unit=f"USD, every pool on its own scale from zero; {chart.time_words(scenario)}",
        caption=captions.funds(scenario) + _left_out(shown, held, "pool", "smaller funds"),
        figure=chart.figure(scenario, data, plots.panel_layout(height, 60, notes, axes)),
    )


def _bad_debt(scenario: Scenario, colours: Colours) -> Chart:
    title = "Bad debt, cumulative"
    names, debt = chart.names(scenario, "pool"), chart.values(scenario, "bad_debt_usd", "pool")
    if debt.max() <= 0:
        return Chart(title, "", "No bad debt arises in this scenario, so there is nothing to draw.")
    owing = [i for i in range(len(names)) if debt[:, i].max() > 0]
    debt, names = debt[:, owing], [names[i] for i in owing]
    total = debt.sum(axis=1)
    debt, names, other = series.fold(debt, names, debt[-1], plots.PARTS)
    lines = [(n, plots.OTHERS if n == other else colours.pools[n], debt[:, i]) for i, n in enumerate(names)]
    if len(lines) > 1:
        lines.append(("all pools", plots.INK, total))
    unit = plots.money_unit(total.max())
    rows = series.thin(np.stack([y for *_, y in lines], axis=1))
    x = scenario.minutes[rows]
    data = [plots.line(x, y[rows] / unit.factor, n, c, unit.suffix, width=2.2) for n, c, y in lines]
    top = 1.06 * total.max()
    notes, right = plots.end_labels([(n, words.usd(y[-1]), c, y[-1]) for n, c, y in lines], 0, top, 156)
    vertical = plots.value_axis(0, top / unit.factor, unit.suffix)
    layout = plots.layout(208, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=vertical, annotations=notes)
    return Chart(title, f"USD; {chart.time_words(scenario)}", captions.bad_debt(scenario), chart.figure(scenario, data, layout))


def _interest(scenario: Scenario, colours: Colours) -> Chart | None:
    names = chart.names(scenario, "pool")
    values = chart.values(scenario, "open_interest_usd", "pool", "asset").sum(axis=2)
    traded = [v for v in range(len(names)) if values[:, v].max() > 0]
    if not traded and scenario.lenders:
        return None
    if traded:
        values, names = values[:, traded], [names[v] for v in traded]
    values, names, other = series.fold(values, names, values.max(axis=0), plots.PARTS)
    tops = np.cumsum(values, axis=1)
    unit = plots.money_unit(tops.max())
    rows = series.thin(tops)
    data, entries = [], []
    for v, name in enumerate(names):
        colour = plots.OTHERS if name == other else colours.pools[name]
        area = {"stackgroup": "all", "fillcolor": colour + "cc"}
        data.append(plots.line(scenario.minutes[rows], values[rows, v] / unit.factor, name, colour, unit.suffix, width=0.5, **area))
        entries.append((name, words.usd(values[-1, v]), colour, tops[-1, v] - values[-1, v] / 2))
    top = 1.05 * tops.max() or 1.0
    notes, right = plots.end_labels(entries, 0, top, 166)
    vertical = plots.value_axis(0, top / unit.factor, unit.suffix)
    layout = plots.layout(218, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=vertical, annotations=notes)
    unit_text = f"USD at the prices of each moment, stacked, with values at the end; {chart.time_words(scenario)}"
    return Chart("Open interest by pool", unit_text, captions.interest(scenario), chart.figure(scenario, data, layout))


def _depth(scenario: Scenario, colours: Colours) -> Chart:
    names, depth = chart.names(scenario, "asset"), chart.values(scenario, "depth_usd", "asset")
    share = 100 * depth / depth[0]
    shown = series.largest(_asset_sizes(scenario), plots.PARTS)
    rows = series.thin(share[:, shown])
    x = scenario.minutes[rows]
    data = [plots.line(x, share[rows, a], names[a], colours.assets[names[a]], "%", width=1.4) for a in shown]
    top = 1.05 * share[:, shown].max()
    entries = [(names[a], words.percent(share[-1, a] / 100, 2), colours.assets[names[a]], share[-1, a]) for a in shown]
    notes, right = plots.end_labels(entries, 0, top, 156)
    vertical = plots.value_axis(0, top, "%")
    layout = plots.layout(208, left=50, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=vertical, annotations=notes)
    return Chart(
        title="Market depth",
        unit=f"percent of the depth at the start, with values at the end; {chart.time_words(scenario)}",
        caption=captions.depth(scenario) + _left_out(shown, names, "asset"),
        figure=chart.figure(scenario, data, layout),
    )
