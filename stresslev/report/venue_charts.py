"""Charts of venues: prices that leave the market, marks that leave the venue's price, funding."""

import numpy as np

from stresslev.report import chart, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Scenario
from stresslev.report.markup import Html
from stresslev.report.plots import Colours
from stresslev.report.tables import table

#: Relative gaps below this are rounding.
_NO_GAP = 1e-5


def charts(scenario: Scenario, colours: Colours) -> list[Chart]:
    """Only what happened: no chart for gaps that never open and funding that nobody pays."""
    made = (_basis(scenario, colours), _marks(scenario, colours), _funding(scenario, colours))
    return [one for one in made if one is not None]


def _used(scenario: Scenario) -> np.ndarray:
    """(V, A) bool: assets that a pool's accounts hold, lend or borrow."""
    ds = scenario.data
    held = (ds.open_interest_usd + ds.supplied_usd + ds.borrowed_usd).max("time")
    return held.transpose("pool", "asset").values > 0


def _away(gap: float) -> str:
    return f"{words.percent(abs(gap))} {'above' if gap > 0 else 'below'}"


def _widest(scenario: Scenario, gap: np.ndarray, subject: str, to: str) -> str:
    """Where the largest gap opens, and how much of it is left."""
    t, v, a = np.unravel_index(int(np.abs(gap).argmax()), gap.shape)
    asset, pool = chart.names(scenario, "asset")[a], chart.names(scenario, "pool")[v]
    when = words.moment(scenario.start, scenario.minutes[t])
    last = float(gap[-1, v, a])
    left = f"; at the end it is {_away(last)}" if abs(last) > _NO_GAP and t < len(gap) - 1 else ""
    return f"Furthest away is {subject} of {asset} at {pool}: {_away(float(gap[t, v, a]))} {to}, {when}{left}."


def _range(gap: np.ndarray) -> str:
    low, high = float(gap.min()), float(gap.max())
    return f"from {words.percent(min(low, 0.0))} to +{words.percent(max(high, 0.0))}"


def _gaps(scenario: Scenario, colours: Colours, gap: np.ndarray, what: tuple[str, str, str]) -> Chart | None:
    """Panels of the gaps (T, V, A) that open, or None. Args: what: title, subject, and what the gap is to."""
    gap = np.where(_used(scenario)[None], gap, 0.0)
    shown = np.abs(gap).max(axis=0) > _NO_GAP
    if not shown.any():
        return None
    notes = [_range(gap[:, v]) for v in range(gap.shape[1])]
    figure, key = chart.pool_panels(scenario, colours, 100 * gap, shown, notes, "%")
    title, subject, to = what
    caption = _widest(scenario, gap, subject, to)
    return Chart(title, f"percent of {to}, all panels on one scale; {chart.time_words(scenario)}", caption, figure, key)


def _basis(scenario: Scenario, colours: Colours) -> Chart | None:
    venue = chart.values(scenario, "venue_price_usd", "pool", "asset")
    common = chart.values(scenario, "price_usd", "asset")[:, None, :]
    what = ("Venues' own prices against the market", "the price", "the common price")
    return _gaps(scenario, colours, venue / common - 1, what)


def _marks(scenario: Scenario, colours: Colours) -> Chart | None:
    mark, venue = (chart.values(scenario, v, "pool", "asset") for v in ("mark_usd", "venue_price_usd"))
    what = ("Marks and oracles against the price that trades", "the mark", "the price at which the pool's flow trades")
    return _gaps(scenario, colours, mark / venue - 1, what)


def _funding(scenario: Scenario, colours: Colours) -> Chart | None:
    paid = np.cumsum(chart.values(scenario, "funding_paid_usd", "pool"), axis=0)
    total = paid.sum(axis=1)
    if total[-1] <= 0:
        return None
    names = chart.names(scenario, "pool")
    paying = [v for v in range(len(names)) if paid[-1, v] > 0]
    paid, names = paid[:, paying], [names[v] for v in paying]
    paid, names, other = series.fold(paid, names, paid[-1], plots.PARTS)
    unit = plots.money_unit(paid.max())
    rows = series.thin(paid)
    x = scenario.minutes[rows]
    lines = [(n, plots.OTHERS if n == other else colours.pools[n], paid[:, i]) for i, n in enumerate(names)]
    data = [plots.line(x, y[rows] / unit.factor, n, c, unit.suffix) for n, c, y in lines]
    for trace in data:
        trace["line"]["shape"] = "hv"
    top = 1.06 * float(paid.max())
    notes, right = plots.end_labels([(n, words.usd(y[-1]), c, y[-1]) for n, c, y in lines], 0, top, 156)
    vertical = plots.value_axis(0, top / unit.factor, unit.suffix)
    layout = plots.layout(208, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=vertical, annotations=notes)
    caption = f"{words.usd(float(total[-1]))} of funding are paid, by longs where the rate is positive and by shorts where it is negative."
    unit_text = f"USD, cumulative, with values at the end; {chart.time_words(scenario)}"
    return Chart("Funding paid", unit_text, caption, chart.figure(scenario, data, layout))


def _rate(rate: np.ndarray, assets: list[str], pick) -> str:
    t, a = np.unravel_index(int(pick(rate)), rate.shape)
    return f"{words.percent(float(rate[t, a]))} ({assets[a]})"


def funding_table(scenario: Scenario) -> Html | None:
    """What each pool's customers paid, how often, and the highest and lowest rates; None without funding."""
    rates = chart.values(scenario, "funding_rate", "pool", "asset")
    paid = chart.values(scenario, "funding_paid_usd", "pool").sum(axis=0)
    assets, rows = chart.names(scenario, "asset"), []
    for v, pool in enumerate(chart.names(scenario, "pool")):
        if paid[v] <= 0:
            continue
        times = np.flatnonzero(np.any(rates[:, v] != 0, axis=1))
        booked = rates[times, v]
        rows.append([pool, words.usd(float(paid[v])), words.count(len(times)), _rate(booked, assets, np.argmax), _rate(booked, assets, np.argmin)])
    if not rows:
        return None
    head = ["Pool", "Funding paid", "Payments", "Highest rate of a payment", "Lowest"]
    return table(head, rows, caption="Rates are of notional; positive: longs pay shorts.")
