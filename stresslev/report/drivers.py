"""What drives the result: the scenarios beside each other, by their losses, by how they came about, and by what the cascade added."""

import html
from collections.abc import Iterator

from stresslev.report import chart, loss_charts, plots, sections, sentences, tables, words
from stresslev.report.chart import Chart
from stresslev.report.facts import NEGLIGIBLE, swings
from stresslev.report.frame import items, section
from stresslev.report.inputs import Run
from stresslev.report.markup import Html, tag

TITLE = "What drives it"
_WITHOUT, _WITH = plots.PALETTE[0], plots.PALETTE[1]
_ROW = 34  # pixels


def part(run: Run, numbers: Iterator[int]) -> Html:
    """The section: sentences, charts over scenarios, and the tables that compare them."""
    made = (loss_charts.by_scenario(run), loss_charts.channels_by_scenario(run), _falls(run))
    drawn = [sections.figure(c, next(numbers)) for c in made if c is not None]
    infinite = tag("p", "∞: a share of something that is zero at the start.", class_="note") if tables.has_infinite(run) else None
    text = "Definitions are in the appendix. “Size” is a pool's open interest and loans at the start; “unsettled” is the negative "
    text += "equity of accounts still open at the end. Measures that are zero in every scenario are left out."
    charts = [tag("h3", "Across scenarios"), drawn] if drawn else None
    compared = [tag("h3", "Measures"), tables.comparison(run), tag("h3", "By pool"), tables.pools(run), infinite, tag("p", text, class_="note")]
    return section("drivers", TITLE, items(sentences.drivers(run), class_="narrative"), charts, compared)


def _falls(run: Run) -> Chart | None:
    """The deepest fall of the asset that the cascade hit most, with it and without it, by scenario; None for one scenario or without falls."""
    found = [(s, max(swings(s), key=lambda d: d.further)) for s in run.scenarios]
    found = [(s, d) for s, d in found if d.fall >= NEGLIGIBLE]
    if len(run.scenarios) < 2 or not found:
        return None
    names, labels = [s.name for s, _ in found], [plots.folded(f"{d.asset}: {s.title}", 28) for s, d in found]
    x = [(100 * d.fall_without, 100 * d.fall) for _, d in found]
    data = []
    for name, ends in zip(names, x, strict=True):
        bar = {"type": "scatter", "mode": "lines", "x": list(ends), "y": [name, name], "line": {"color": plots.FAINT, "width": 2}}
        data.append(bar | {"showlegend": False, "hoverinfo": "skip"})
    for i, (colour, symbol, word) in enumerate(((_WITHOUT, "circle-open", "without the cascade"), (_WITH, "square", "with it"))):
        marks = {"type": "scatter", "mode": "markers", "x": [ends[i] for ends in x], "y": names, "name": html.escape(word), "showlegend": False}
        look = {"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2.5, "color": colour}}
        data.append(marks | {"marker": look, "hovertemplate": f"%{{x:.3~g}}% {word}<extra></extra>"})
    top = 1.08 * max(max(ends) for ends in x)
    across = plots.value_axis(0, top, "%", tickangle=0)
    down = {"autorange": "reversed", "ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)", "fixedrange": True, "type": "category"}
    down |= {"tickvals": names, "ticktext": labels}
    left = round(15 + max(7.4 * len(line) for n in labels for line in n.split("<br>")))
    layout = plots.layout(_ROW * len(names) + 56, left=left, right=14, xaxis=across, yaxis=down)
    worst, most = max(found, key=lambda pair: pair[1].further)
    caption = (
        f"The cascade adds most in “{worst.title}”: {most.asset} falls by {words.percent(most.fall)} instead of {words.percent(most.fall_without)}."
    )
    key = [("circle", _WITHOUT, "without the cascade"), ("block", _WITH, "with it")]
    unit = "deepest fall from the start, of the asset whose fall the cascade deepens most in each scenario"
    return Chart("Falls with and without the cascade", unit, caption, chart.still(data, layout), key)
