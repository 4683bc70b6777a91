"""The parts of a scenario's section: each with its charts and tables, and only where there is something to tell."""

from collections.abc import Iterator

from stresslev.report import (
    charts,
    contagion,
    lender_charts,
    leverage_charts,
    liquidation_map,
    loss_charts,
    loss_tables,
    network_picture,
    venue_charts,
)
from stresslev.report.chart import Chart
from stresslev.report.inputs import Run, Scenario
from stresslev.report.losses import attribution
from stresslev.report.markup import Html, data_script, join, tag
from stresslev.report.plots import Colours


def figure(chart: Chart, number: int, level: int = 4) -> Html:
    """A chart as an element, with its data beside it for the page's script. Args: `level` of its heading, one below that of what it is in."""
    title = tag(f"h{level}", chart.title, tag("span", chart.unit, class_="unit") if chart.unit else None)
    if chart.figure is None:
        return tag("div", title, tag("p", chart.caption, class_="empty"), class_="figure")
    key = [tag("li", tag("span", "", class_=f"swatch {kind}", style=f"border-color:{colour}"), text) for kind, colour, text in chart.key]
    identity = f"figure-{number}"
    plot = tag(
        "div",
        class_="plot",
        id=identity,
        role="img",
        aria_label=f"{chart.title}. {chart.caption}",
        style=f"height:{chart.figure['layout']['height']}px",
    )
    if "xaxis2" in chart.figure["layout"]:
        # panels side by side need room: on a narrow screen they are scrolled
        plot = tag("div", plot, class_="wide panels")
    legend = tag("ul", key, class_="key") if key else None
    data = data_script(f"{identity}-data", chart.figure)
    return tag("figure", title, legend, plot, tag("figcaption", chart.caption), data, class_="figure")


def _part(title: str, *content) -> Html | None:
    """A heading and what is under it; nothing when there is nothing under it."""
    inside = join(*content)
    return join(tag("h3", title), inside) if inside else None


def of_scenario(run: Run, scenario: Scenario, colours: Colours, numbers: Iterator[int]) -> Html:
    """Everything a scenario's section shows, in the order of the report."""

    def drawn(made: list[Chart | None]) -> list[Html]:
        return [figure(one, next(numbers)) for one in made if one is not None]

    return join(
        _losses(run, scenario, drawn),
        _contagion(run, scenario),
        _part("Prices and liquidations", drawn(charts.charts(scenario, colours))),
        _part("Leverage", drawn(leverage_charts.charts(scenario, colours))),
        _part("What would be liquidated", drawn(liquidation_map.charts(scenario)), liquidation_map.missing(scenario)),
        _part("Venues", drawn(venue_charts.charts(scenario, colours)), venue_charts.funding_table(scenario)),
        _part("Lenders", drawn(lender_charts.charts(scenario, colours)), lender_charts.tables(scenario)),
        _part("Receipt tokens", drawn([lender_charts.receipts(scenario, tokens(run), colours)])),
    )


def tokens(run: Run) -> dict[str, dict]:
    """Receipt tokens of the system: asset -> its receipt, as configured."""
    return {name: a["receipt"] for name, a in run.system["assets"].items() if a.get("receipt")}


def _losses(run: Run, scenario: Scenario, drawn) -> Html | None:
    parts = [drawn([loss_charts.borne(scenario)]), loss_tables.borne(scenario)]
    found = attribution(run, scenario)
    if found is not None:
        parts += [drawn([loss_charts.channels(run, scenario, found)]), loss_tables.channels(scenario, found)]
    return _part("Losses and who bore them", *parts)


def _contagion(run: Run, scenario: Scenario) -> Html | None:
    links = contagion.links(run, scenario)
    if not links:
        return None
    return _part("Contagion from pool to pool", network_picture.picture(contagion.nodes(scenario), links, contagion.summary(run, scenario)))
