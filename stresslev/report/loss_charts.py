"""Charts of losses: who bore them, and by which channel they came."""

import numpy as np

from stresslev.report import chart, loss_captions, plots, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Run, Scenario
from stresslev.report.losses import CHANNELS, LAYERS, Attribution, attribution, deficits, layers

#: Layer -> colour: greens are funds, yellows customers, brown is what nobody bore.
_LAYER_COLOURS = {"own_fund": "#2f7f68", "other_funds": "#a3d3c3", "adl": "#e0a030", "socialised": "#f3dc8c", "bad_debt": "#a33b00"}
_MORE, _LESS, _WHOLE = "#0072B2", "#8fb9a8", plots.INK
_ROW, _EDGE = 34, 30  # pixels per bar, and between the name of the longest bar and the plot


def _bars(names: list[str], values, unit: plots.Unit, label: str, colour, texts: list[str], **more) -> dict:
    """Horizontal bars, one per name."""
    shown = [float(v) / unit.factor for v in values]
    hover = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    return {
        "type": "bar",
        "orientation": "h",
        "x": shown,
        "y": names,
        "name": label,
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    } | more


def _layout(names: list[str], low: float, high: float, unit: plots.Unit, labels: list[str] | None = None, **more) -> dict:
    """Args: `labels` beside the bars, where names do not serve; HTML, lines apart."""
    marks = plots.ticks(low / unit.factor, high / unit.factor, 4)
    left = round(_EDGE / 2 + max(7.4 * len(line) for n in labels or names for line in n.split("<br>")))
    across = plots.value_axis(
        low / unit.factor, high / unit.factor, "", tickvals=marks, ticktext=[f"{words.decimal(m)}{unit.suffix}" for m in marks], tickangle=0
    )
    down = {"autorange": "reversed", "ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)", "automargin": False, "fixedrange": True}
    if labels:
        down |= {"type": "category", "tickvals": names, "ticktext": labels}
    return plots.layout(_ROW * len(names) + 56, left=left, right=14, xaxis=across, yaxis=down, bargap=0.32, **more)


def borne(scenario: Scenario) -> Chart:
    """Deficits by pool, stacked by who bore them."""
    title = "Losses beyond margin by pool"
    total, parts = deficits(scenario), layers(scenario)
    if total.sum() <= 0:
        return Chart(title, "", "No account that is closed leaves a loss beyond its margin, so there is nothing to bear.")
    pools = chart.names(scenario, "pool")
    hit = [v for v in np.argsort(-total, kind="stable") if total[v] > 0]
    names = [plots.short(pools[v]) for v in hit]
    every = len(hit) > 1
    rows = (["all pools"] if every else []) + names
    top = float(total.sum() if every else total.max())
    unit = plots.money_unit(top)
    data, key = [], []
    for layer, word in LAYERS.items():
        amounts = ([parts[layer].sum()] if every else []) + [parts[layer][v] for v in hit]
        if sum(amounts) <= 0:
            continue
        colour = _LAYER_COLOURS[layer]
        data.append(_bars(rows, amounts, unit, word, colour, [f"{words.usd(a)}, {word}" for a in amounts]))
        key.append(("block", colour, word))
    layout = _layout(rows, 0, 1.04 * top, unit, barmode="stack")
    return Chart(title, "USD over the whole scenario, by who bore them", loss_captions.borne(scenario), chart.still(data, layout), key)


def by_scenario(run: Run) -> Chart | None:
    """Deficits of all pools by scenario, stacked by who bore them; None for one scenario, or without any."""
    found = [(s, layers(s)) for s in run.scenarios if deficits(s).sum() > 0]
    if len(run.scenarios) < 2 or not found:
        return None
    amounts = {layer: [float(parts[layer].sum()) for _, parts in found] for layer in LAYERS}
    totals = [sum(a) for a in zip(*amounts.values(), strict=True)]
    names, labels = [s.name for s, _ in found], [plots.folded(s.title) for s, _ in found]
    unit = plots.money_unit(max(totals))
    data, key = [], []
    for layer, word in LAYERS.items():
        if sum(amounts[layer]) > 0:
            texts = [f"{words.usd(a)}, {word}" for a in amounts[layer]]
            data.append(_bars(names, amounts[layer], unit, word, _LAYER_COLOURS[layer], texts, hovertext=texts))
            key.append(("block", _LAYER_COLOURS[layer], word))
    worst = found[int(np.argmax(totals))][0]
    caption = f"Largest in “{worst.title}”: {words.usd(max(totals))}; {loss_captions.bearers(worst)}."
    none = len(run.scenarios) - len(found)
    caption += f" No losses beyond margin in {words.plural(none, 'scenario')}." if none else ""
    figure = chart.still(data, _layout(names, 0, 1.04 * max(totals), unit, labels, barmode="stack"))
    return Chart("Losses beyond margin by scenario", "USD, all pools, by who bore them", caption, figure, key)


def channels_by_scenario(run: Run) -> Chart | None:
    """What the shock and each channel of contagion added, by scenario; None for one scenario, or without attribution."""
    every = [(s, found) for s in run.scenarios if (found := attribution(run, s)) is not None and found.added.any()]
    if len(run.scenarios) < 2 or not every:
        return None
    names, labels = [s.name for s, _ in every], [plots.folded(s.title) for s, _ in every]
    added = {c: [float(f.added[f.channels.index(c)].sum()) if c in f.channels else 0.0 for _, f in every] for c in CHANNELS}
    rows = np.array(list(added.values()))
    low, high = float(np.minimum(rows, 0).sum(axis=0).min()), float(np.maximum(rows, 0).sum(axis=0).max())
    unit = plots.money_unit(max(high, -low))
    data, key = [], []
    for colour, (channel, amounts) in zip(plots.PALETTE, added.items(), strict=False):
        if any(amounts):
            word = CHANNELS[channel]
            texts = [f"{loss_captions.signed(a)}, {word}" for a in amounts]
            data.append(_bars(names, amounts, unit, word, colour, texts, hovertext=texts))
            key.append(("block", colour, word))
    totals = rows.sum(axis=0)
    worst = int(totals.argmax())
    caption = f"In “{every[worst][0].title}”: {loss_captions.channels(every[worst][1])}"
    figure = chart.still(data, _layout(names, 1.04 * low, 1.04 * high or 1.0, unit, labels, barmode="relative"))
    unit_text = "USD, all pools; channels opened one after the other, below zero: losses that a channel spares"
    return Chart("Where the losses came from, by scenario", unit_text, caption, figure, key)


def channels(run: Run, scenario: Scenario, found: Attribution) -> Chart:
    """The deficits built up from the shock and one channel after the other."""
    title = "Where the losses came from"
    added = found.added.sum(axis=1)
    total = float(added.sum())
    if not np.any(added):
        return Chart(title, "", "No losses beyond margin arise with any channel of contagion open or shut, so there is nothing to attribute.")
    ends = np.cumsum(added)
    starts = ends - added
    unit = plots.money_unit(float(np.abs(ends).max()))
    names = [CHANNELS.get(c, c) for c in found.channels]
    names = [names[0], *(f"+ {n}" for n in names[1:]), "all together"]
    amounts = [*added, total]
    texts = [words.usd(added[0]), *(loss_captions.signed(a) for a in added[1:]), words.usd(total)]
    colours = [_MORE, *(_MORE if a >= 0 else _LESS for a in added[1:]), _WHOLE]
    highest = float(max(ends.max(), 0))
    beyond = 1.36 * highest
    bars = _bars(names, amounts, unit, "losses", colours, texts, base=[float(s) / unit.factor for s in [*starts, 0]])
    notes = [
        {
            "x": float(max(s, s + a)) / unit.factor,
            "y": name,
            "text": text.removesuffix(" USD"),
            "xanchor": "left",
            "xshift": 5,
            "showarrow": False,
        }
        for name, s, a, text in zip(names, [*starts, 0], amounts, texts, strict=True)
    ]
    layout = _layout(names, min(float(ends.min()), 0), beyond or 1.0, unit, annotations=notes)
    key = [("block", _MORE, "adds losses")] + ([("block", _LESS, "spares losses")] if any(a < 0 for a in added) else [])
    unit_text = "USD over the whole scenario, all pools; channels opened one after the other, what one adds depends on those above it"
    return Chart(title, unit_text, loss_captions.channels(found), chart.still([bars], layout), key)
