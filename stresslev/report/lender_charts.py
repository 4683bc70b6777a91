"""Charts and tables of lenders and of the receipt tokens for deposits."""

import numpy as np

from stresslev.report import chart, plots, series, words
from stresslev.report.chart import Chart
from stresslev.report.inputs import Scenario
from stresslev.report.markup import Html, join
from stresslev.report.plots import Colours
from stresslev.report.tables import table

#: Cover lost below this is rounding.
_NO_LOSS = 1e-6


def _per_asset(scenario: Scenario, variable: str) -> np.ndarray:
    return chart.values(scenario, variable, "pool", "asset")


def utilisation(scenario: Scenario) -> np.ndarray:
    """(T, V, A) loans over deposits."""
    supplied, borrowed = _per_asset(scenario, "supplied_usd"), _per_asset(scenario, "borrowed_usd")
    return np.where(supplied > 0, borrowed / np.where(supplied > 0, supplied, 1), 0.0)


def charts(scenario: Scenario, colours: Colours) -> list[Chart]:
    """Utilisation, borrow rates, and liquidations that wait; nothing for a system without lenders."""
    made = []
    if scenario.lenders:
        made += [_utilisation(scenario, colours), _rates(scenario, colours)]
    made.append(_waiting(scenario, colours))
    return [one for one in made if one is not None]


def _ends(levels: np.ndarray, shown: np.ndarray, text) -> list[str]:
    """The highest value of every pool, in words."""
    return [f"highest {text(float(levels[:, v][:, shown[v]].max()))}" if shown[v].any() else "" for v in range(levels.shape[1])]


def _utilisation(scenario: Scenario, colours: Colours) -> Chart | None:
    used = utilisation(scenario)
    shown = _per_asset(scenario, "borrowed_usd").max(axis=0) > 0
    if not shown.any():
        return None
    figure, key = chart.pool_panels(scenario, colours, 100 * used, shown, _ends(used, shown, words.percent), "%")
    peak = np.where(shown[None], used, 0.0)
    t, v, a = np.unravel_index(int(peak.argmax()), peak.shape)
    start = float(used[0, v, a])
    name = f"{chart.names(scenario, 'asset')[a]} at {chart.names(scenario, 'pool')[v]}"
    when = words.moment(scenario.start, scenario.minutes[t])
    caption = (
        f"Most used are the deposits of {name}: {words.percent(float(peak[t, v, a]))} of them are lent {when}, {words.percent(start)} at the start."
    )
    unit = f"percent of deposits that are lent, all panels on one scale; {chart.time_words(scenario)}"
    return Chart("Utilisation of lenders", unit, caption, figure, key)


def _rates(scenario: Scenario, colours: Colours) -> Chart | None:
    rate = _per_asset(scenario, "borrow_rate")
    shown = (_per_asset(scenario, "borrowed_usd").max(axis=0) > 0) & (rate.max(axis=0) > 0)
    if not shown.any():
        return None
    # rates are those of steps; the start has none
    rate[0] = rate[1]
    figure, key = chart.pool_panels(scenario, colours, 100 * rate, shown, _ends(rate, shown, words.percent), "%")
    peak = np.where(shown[None], rate, 0.0)
    t, v, a = np.unravel_index(int(peak.argmax()), peak.shape)
    name = f"{chart.names(scenario, 'asset')[a]} at {chart.names(scenario, 'pool')[v]}"
    caption = (
        f"The highest rate is that of {name}: {words.percent(float(peak[t, v, a]))} a year, {words.moment(scenario.start, scenario.minutes[t])}."
    )
    return Chart("Interest on loans", f"percent a year, all panels on one scale; {chart.time_words(scenario)}", caption, figure, key)


def _waiting(scenario: Scenario, colours: Colours) -> Chart | None:
    waiting = chart.values(scenario, "waiting", "pool")[1:]
    if waiting.sum() <= 0:
        return None
    names = chart.names(scenario, "pool")
    size = series.bucket_steps(len(waiting))
    # a mean over the bucket: how many wait at a time
    lengths = np.minimum(size, len(waiting) - np.arange(0, len(waiting), size))[:, None]
    mean = series.bucket_sums(waiting, size) / lengths
    hit = [v for v in range(len(names)) if waiting[:, v].sum() > 0]
    middle = (scenario.minutes[:-1][::size] + scenario.minutes[1:][np.minimum(np.arange(0, len(waiting), size) + size, len(waiting)) - 1]) / 2
    data, entries = [], []
    for v in hit:
        data.append(plots.line(middle, mean[:, v], names[v], colours.pools[names[v]], ""))
        entries.append((names[v], words.count(round(float(mean[-1, v]))), colours.pools[names[v]], mean[-1, v]))
    top = 1.06 * float(mean.max())
    notes, right = plots.end_labels(entries, 0, top, 156)
    layout = plots.layout(208, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=plots.value_axis(0, top, ""), annotations=notes)
    most = int(waiting.sum(axis=0).argmax())
    t = int(waiting[:, most].argmax())
    count = f"{words.count(float(waiting[t, most]))} in one step, {words.moment(scenario.start, scenario.minutes[t + 1])}"
    caption = f"Liquidations that nobody takes up at the price offered are asked for again in the next step. Most wait at {names[most]}: {count}."
    unit = f"demands per step, mean over {words.duration(size * float(scenario.minutes[1] - scenario.minutes[0]))}; {chart.time_words(scenario)}"
    return Chart("Liquidations that wait for a taker", unit, caption, chart.figure(scenario, data, layout))


def tables(scenario: Scenario) -> Html | None:
    """Deposits, loans and rates by lender and asset, and what was liquidated; None without lenders."""
    if not scenario.lenders:
        return None
    return join(_reserves(scenario), _liquidated(scenario))


def _change(values: np.ndarray) -> str:
    return f"{words.usd(values[0])} → {words.usd(values[-1])}" if values.max() > 0 else "–"


def _reserves(scenario: Scenario) -> Html:
    supplied, borrowed, rate = (_per_asset(scenario, v) for v in ("supplied_usd", "borrowed_usd", "borrow_rate"))
    used, rows = utilisation(scenario), []
    pools, assets = chart.names(scenario, "pool"), chart.names(scenario, "asset")
    for v in (pools.index(p) for p in scenario.lenders):
        for a in np.flatnonzero((supplied + borrowed)[:, v].max(axis=0) > 0):
            lent = borrowed[:, v, a].max() > 0
            shares = (
                [f"{words.percent(used[0, v, a])} → {words.percent(used[-1, v, a])}", words.percent(float(rate[:, v, a].max()))]
                if lent
                else ["–", "–"]
            )
            rows.append([pools[v], assets[a], _change(supplied[:, v, a]), _change(borrowed[:, v, a]), *shares])
    head = ["Lender", "Asset", "Deposits, start → end", "Loans, start → end", "Lent share, start → end", "Highest rate a year"]
    return table(head, rows, text_columns=2, caption="USD at the prices of each moment.")


def _liquidated(scenario: Scenario) -> Html:
    ds, rows = scenario.data, []
    for pool in scenario.lenders:
        one = ds.sel(pool=pool)
        repaid, taken = (float(one[v].astype(float).sum()) for v in ("closed_short_usd", "closed_long_usd"))
        accounts, orders, waiting = (float(one[v].sum()) for v in ("newly_liquidated", "liquidation_orders", "waiting"))
        share = words.percent(scenario.pools[pool]["liquidated_notional_share"])
        rows.append([pool, words.count(accounts), words.usd(repaid), share, words.usd(taken), f"{words.count(waiting)} of {words.count(orders)}"])
    head = ["Lender", "Accounts liquidated", "Debt repaid", "Share of loans", "Collateral taken", "Demands without a taker"]
    return table(head, rows, caption="Liquidations of loans over the whole scenario.")


def receipts(scenario: Scenario, tokens: dict[str, dict], colours: Colours) -> Chart | None:
    """What receipt tokens are worth; None in a system without. Args: tokens: asset -> its receipt, as configured."""
    if not tokens:
        return None
    title = "Redemption value of receipt tokens"
    assets = chart.names(scenario, "asset")
    worth = {t: chart.values(scenario, "redemption", "asset")[:, assets.index(t)] for t in tokens}
    if min(w.min() for w in worth.values()) > 1 - _NO_LOSS:
        kept = words.listing([f"{t} (deposits with {tokens[t]['pool']})" for t in tokens])
        verb = "keeps its" if len(tokens) == 1 else "keep their"
        return Chart(title, "", f"{kept} {verb} full value: the issuing pool's assets cover all claims throughout.")
    values = 100 * np.stack(list(worth.values()), axis=1)
    rows = series.thin(values)
    data = [plots.line(scenario.minutes[rows], values[rows, i], t, colours.assets[t], "%") for i, t in enumerate(worth)]
    low = float(values.min())
    pad = 0.08 * (100 - low)
    entries = [(t, words.percent(values[-1, i] / 100), colours.assets[t], values[-1, i]) for i, t in enumerate(worth)]
    notes, right = plots.end_labels(entries, low - pad, 100 + pad, 156)
    vertical = plots.value_axis(low - pad, 100 + pad, "%")
    layout = plots.layout(208, right=right, xaxis=plots.time_axis(scenario, 8), yaxis=vertical, annotations=notes)
    t, i = np.unravel_index(int(values.argmin()), values.shape)
    name = list(worth)[i]
    when = words.moment(scenario.start, scenario.minutes[t])
    caption = f"{name}, a claim on {tokens[name]['pool']}, falls furthest: to {words.percent(values[t, i] / 100)} of its claim {when}."
    return Chart(title, f"percent of the claim, with values at the end; {chart.time_words(scenario)}", caption, chart.figure(scenario, data, layout))
