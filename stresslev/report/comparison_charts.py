"""The charts of a comparison of policies."""

import html
import math

import numpy as np

from stresslev.report import chart, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.comparison_inputs import Compared
from stresslev.report.inputs import Scenario

#: Line of each policy, besides its colour: as Plotly draws it, and as the key does.
_DASHES = (("solid", "solid"), ("7px,3px", "dashed"), ("2px,2px", "dotted"))


def _colour(number: int) -> str:
    return plots.PALETTE[number % len(plots.PALETTE)]


def _key(compared: Compared) -> list[tuple[str, str, str]]:
    return [(_DASHES[i % len(_DASHES)][1], _colour(i), p.title) for i, p in enumerate(compared.policies)]


def heaviest(compared: Compared) -> Scenario:
    """The scenario that leaves most behind under any policy, as the first policy's run has it: what the charts over time are of."""

    def weight(s: Scenario) -> tuple[float, ...]:
        runs = [p.scenario(s.name).metrics for p in compared.policies]
        keys = ("bad_debt_over_open_interest", "deficit_over_open_interest", "insurance_fund_fall", "liquidated_notional_share")
        return tuple(max(m[k] for m in runs) for k in keys)

    return max(compared.scenarios, key=weight)


def charts(compared: Compared) -> list[Chart]:
    """Caps and prices over time, as far as the results have them."""
    scenario = heaviest(compared)
    made = (_caps(compared, scenario), _prices(compared, scenario))
    return [one for one in made if one is not None]


def _efficient(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Policies that no other one beats in leverage (more) and losses (less) at once, from the least leverage to the most.

    Of policies that are alike in both all are kept.
    """
    beaten = [any((x >= x[i]) & (y <= y[i]) & ((x > x[i]) | (y < y[i]))) for i in range(len(x))]
    return sorted((i for i in range(len(x)) if not beaten[i]), key=lambda i: (x[i], y[i]))


def frontier(compared: Compared) -> Chart | None:
    """Losses over leverage allowed, or leverage used where some policy sets no caps; None where the results have neither."""
    known = (n for n in ("mean_allowed_leverage", "mean_used_leverage") if all(math.isfinite(p.mean(n)) for p in compared.policies))
    across = next(known, None)
    if across is None:
        return None
    up = "bad_debt_over_open_interest"
    if all(p.worst(up) == 0 for p in compared.policies):
        up = "deficit_over_open_interest"
    x, y = np.array([p.mean(across) for p in compared.policies]), 100 * np.array([p.worst(up) for p in compared.policies])
    if not np.isfinite(y).all():
        return None
    word = "allowed" if across == "mean_allowed_leverage" else "used"
    data, notes, best = [], [], _efficient(x, y)
    if len(best) > 1:
        edge = plots.line(x[best], y[best], "frontier", plots.FAINT, "%", width=1.2, hoverinfo="skip", hovertemplate=None)
        edge |= {"x": series.rounded(x[best])}
        edge["line"]["dash"] = "4px,3px"
        data.append(edge)
    for i, p in enumerate(compared.policies):
        point = {"type": "scatter", "mode": "markers", "x": series.rounded(x[i : i + 1]), "y": series.rounded(y[i : i + 1])}
        hover = f"%{{x:.3~g}}× {word}, %{{y:.3~g}}%<extra>{html.escape(p.title)}</extra>"
        shape = {"color": _colour(i), "size": 12, "symbol": ("circle", "square", "diamond", "triangle-up", "cross")[i % 5]}
        data.append(point | {"name": html.escape(p.title), "marker": shape, "hovertemplate": hover, "showlegend": False})
    wide, high = max(float(np.ptp(x)), 0.02 * float(x.max()), 1e-9), max(float(y.max()), 1e-9)
    left, right = max(float(x.min()) - 0.2 * wide, 0.0), float(x.max()) + 0.2 * wide
    near = x > (left + right) / 2
    places = np.zeros(len(y))
    # a name stands on the side where there is room, and makes way for others there
    for side in (near, ~near):
        places[side] = plots.spread((y[side] / (1.15 * high)).tolist(), 18 / 200)
    for i, p in enumerate(compared.policies):
        at = {"xref": "x", "yref": "paper", "x": float(x[i]), "y": float(places[i]), "xanchor": "right" if near[i] else "left", "yanchor": "middle"}
        notes.append(at | {"text": plots.short(p.title, 30), "showarrow": False, "xshift": -11 if near[i] else 11})
    axis = plots.value_axis(0, 1.15 * high, "%")
    below = plots.value_axis(left, right, "×", title={"text": f"leverage {word}, mean over scenarios", "standoff": 6})
    layout = plots.layout(252, xaxis=below, yaxis=axis, annotations=notes)
    title = "Safety and efficiency of the policies"
    what = words.metric_title(up)
    safest, loosest = compared.policies[int(y.argmin())], compared.policies[int(x.argmax())]
    caption = f"Further right is more leverage {word}, further down is safer. "
    if safest is loosest:
        caption += f"{safest.title} is both: the least {what[0].lower()}{what[1:]} and the most leverage {word}."
    else:
        caption += f"{safest.title} is safest, with {words.metric_value(up, y.min() / 100)} and {words.times(x[int(y.argmin())])}; "
        caption += f"{loosest.title} is loosest, with {words.metric_value(up, y[int(x.argmax())] / 100)} and {words.times(x.max())}."
    beaten = [p.title for i, p in enumerate(compared.policies) if i not in best]
    if len(best) > 1:
        caption += " The dashed line joins policies that no other one here beats in both at once: the frontier."
    if beaten:
        caption += f" Beaten in both: {words.listing(beaten)}."
    key = [("dashed", plots.FAINT, "frontier")] if len(best) > 1 else []
    unit = f"{what[0].lower()}{what[1:]}, the worst scenario, against leverage {word}, the mean of all"
    return Chart(title, unit, caption, chart.still(data, layout), key)


def _cap(scenario: Scenario) -> np.ndarray:
    """(T, A) cap of every asset over pools, weighted with the open interest at the start: notional over initial margin. Zero where there is none."""
    held = chart.values(scenario, "open_interest_usd", "pool", "asset")[:1]
    cap = chart.values(scenario, "cap_leverage", "pool", "asset")
    known = (cap > 0) & np.isfinite(cap) & (held > 0)
    margin = np.where(known, held / np.where(known, cap, 1), 0).sum(axis=1)
    return np.where(known, held, 0).sum(axis=1) / np.where(margin > 0, margin, 1)


def _caps(compared: Compared, scenario: Scenario) -> Chart | None:
    runs = {i: p.scenario(scenario.name) for i, p in enumerate(compared.policies)}
    found = {i: _cap(s) for i, s in runs.items() if "cap_leverage" in s.data}
    found = {i: level for i, level in found.items() if level.max() > 0}
    held = [a for a in range(scenario.data.sizes["asset"]) if found and all(level[:, a].min() > 0 for level in found.values())]
    if not held:
        return None
    levels = list(found.values())
    sizes = chart.values(scenario, "open_interest_usd", "pool", "asset")[0].sum(axis=0)
    shown = [held[i] for i in series.largest(sizes[held], plots.PANELS)]
    lows = [level[:, shown].min(axis=0) for level in levels]
    notes = [f"lowest {words.times(min(low[i] for low in lows))}" for i in range(len(shown))]
    parts = []
    for i, p in enumerate(compared.policies):
        if i not in found:
            parts.append(f"{p.title} sets no caps.")
            continue
        level = found[i]
        every = level[:, shown]
        t, a = np.unravel_index(int((every / every[:1]).argmin()), every.shape)
        if np.ptp(every, axis=0).max() == 0:
            parts.append(f"{p.title} leaves caps as they are.")
            continue
        name = chart.names(scenario, "asset")[shown[a]]
        move = f"from {words.times(float(every[0, a]))} to {words.times(float(every[t, a]))}, {words.moment(scenario.start, scenario.minutes[t])}"
        parts.append(f"{p.title} lowers that of {name} furthest: {move}." if every[t, a] < every[0, a] else f"{p.title} lowers none below its start.")
    return Chart(
        title=f"Caps on leverage in “{scenario.title}”",
        unit=f"times equity, weighted by open interest over pools, all panels on one scale; {chart.time_words(scenario)}",
        caption=" ".join(parts),
        figure=_panels(compared, scenario, found, shown, notes, "×", zero=True),
        key=[_key(compared)[i] for i in found],
    )


def _prices(compared: Compared, scenario: Scenario) -> Chart:
    runs = [p.scenario(scenario.name) for p in compared.policies]
    every = [chart.values(s, "price_usd", "asset") for s in runs]
    levels = [100 * price / price[0] for price in every]
    outside = chart.values(scenario, "exogenous_price_usd", "asset")
    ds = scenario.data
    sizes = (ds.open_interest_usd + ds.supplied_usd + ds.borrowed_usd).isel(time=0).sum("pool").values
    shown = series.largest(sizes, plots.PANELS)
    notes = [f"lowest {words.percent(min(level[:, a].min() for level in levels) / 100)}" for a in shown]
    return Chart(
        title=f"Prices in “{scenario.title}”",
        unit=f"percent of the start, all panels on one scale; {chart.time_words(scenario)}",
        caption=_price_words(compared, scenario, levels),
        figure=_panels(compared, scenario, dict(enumerate(levels)), shown, notes, "%", thin=100 * outside / outside[0]),
        key=[*_key(compared), ("solid", plots.OTHERS, "without any cascade (thin)")],
    )


def _price_words(compared: Compared, scenario: Scenario, levels: list[np.ndarray]) -> str:
    falls = np.array([(100 - level.min(axis=0)) / 100 for level in levels])  # (policies, A)
    a = int(np.ptp(falls, axis=0).argmax())
    if float(np.ptp(falls[:, a])) < 5e-4:
        return "The lowest prices are the same under every policy."
    name = chart.names(scenario, "asset")[a]
    each = [f"{words.percent(float(f))} under {p.title}" for p, f in zip(compared.policies, falls[:, a], strict=True)]
    return f"Policies differ most in the fall of {name}: {words.listing(each, 6, 'policy')}."


def _panels(
    compared: Compared,
    scenario: Scenario,
    levels: dict[int, np.ndarray],
    shown: list[int],
    notes: list[str],
    suffix: str,
    *,
    thin: np.ndarray | None = None,
    zero: bool = False,
) -> dict:
    """A panel per asset with a line per policy.

    Args: levels (T, A) by number of the policy; notes per panel; thin (T, A) a line drawn behind all others.
    """
    assets = chart.names(scenario, "asset")
    grid, height = plots.panels(len(shown))
    behind = [] if thin is None else [thin]
    drawn = np.concatenate([x[:, shown] for x in (*levels.values(), *behind)])
    pad = 0.06 * float(np.ptp(drawn)) or 1.0
    low, high = (0.0 if zero else max(float(drawn.min()) - pad, 0.0)), float(drawn.max()) + pad
    data, titles, axes = [], [], {}
    for panel, a, note in zip(grid, shown, notes, strict=True):
        rows = series.thin(np.stack([x[:, a] for x in (*levels.values(), *behind)], axis=1))
        x = scenario.minutes[rows]
        place = {"xaxis": panel.axis("x"), "yaxis": panel.axis("y")}
        for outside in behind:
            data.append(plots.line(x, outside[rows, a], f"{assets[a]} without the cascade", plots.OTHERS, suffix, width=1.0, **place))
        for i, level in levels.items():
            line = plots.line(x, level[rows, a], f"{assets[a]}, {compared.policies[i].title}", _colour(i), suffix, **place)
            line["line"]["dash"] = _DASHES[i % len(_DASHES)][0]
            data.append(line)
        titles.append(panel.title(assets[a], note, plots.INK))
        axes[panel.key("x")] = plots.time_axis(
            scenario, panel.ticks, domain=panel.horizontal, anchor=panel.axis("y"), matches=panel.matched, showticklabels=panel.last
        )
        axes[panel.key("y")] = plots.value_axis(low, high, suffix, domain=panel.vertical, anchor=panel.axis("x"), nticks=5)
    return chart.figure(scenario, data, plots.panel_layout(height, 56, titles, axes))
