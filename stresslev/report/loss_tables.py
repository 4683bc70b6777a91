"""Tables of losses: by pool and by channel."""

import numpy as np

from stresslev.report import words
from stresslev.report.inputs import Scenario
from stresslev.report.loss_captions import signed
from stresslev.report.losses import CHANNELS, LAYERS, Attribution, deficits, layers
from stresslev.report.markup import Html, join
from stresslev.report.tables import table


def _cell(amount: float) -> str:
    return words.usd(amount) if amount else "–"


def borne(scenario: Scenario) -> Html | None:
    """Deficits by pool and who bore them; None without any."""
    total, parts = deficits(scenario), layers(scenario)
    if total.sum() <= 0:
        return None
    used = [layer for layer in LAYERS if parts[layer].sum() > 0]
    pools = [str(p) for p in scenario.data.pool.values]
    rows = [[p, _cell(total[v]), *(_cell(parts[layer][v]) for layer in used)] for v, p in enumerate(pools)]
    if len(pools) > 1:
        rows.append(["all pools", words.usd(float(total.sum())), *(words.usd(float(parts[layer].sum())) for layer in used)])
    head = ["Pool", "Losses beyond margin", *(LAYERS[layer][0].upper() + LAYERS[layer][1:] for layer in used)]
    return table(head, rows, of="pool", caption="Losses beyond margin are the sum of the columns to their right.")


def _difference(amount: float) -> str:
    return signed(amount) if amount else "0"


def _totals(scenario: Scenario, found: Attribution) -> Html:
    added, without, debt, debt_without = (x.sum(axis=1) for x in (found.added, found.without, found.debt_added, found.debt_without))
    rows = [[CHANNELS["shock"], words.usd(added[0]), "–", words.usd(debt[0]), "–"]]
    for i, channel in enumerate(found.channels[1:]):
        cells = [_difference(added[i + 1]), words.usd(without[i]), _difference(debt[i + 1]), words.usd(debt_without[i])]
        rows.append([CHANNELS.get(channel, channel), *cells])
    rows.append(["all together", words.usd(added.sum()), "–", words.usd(debt.sum()), "–"])
    head = ["Channel", "Losses it adds, opened in this order", "Losses without this channel alone"]
    return table([*head, "Bad debt it adds", "Bad debt without this channel alone"], rows, caption="All pools together.")


def channels(scenario: Scenario, found: Attribution) -> Html | None:
    """Channels, all pools together and pool by pool; None when there is nothing to attribute."""
    if not np.any(found.added) and not np.any(found.without):
        return None
    pools = [str(p) for p in scenario.data.pool.values]
    hit = [v for v in range(len(pools)) if np.any(found.added[:, v])]
    if len(pools) == 1 or not hit:
        return _totals(scenario, found)
    rows = []
    for v in hit:
        first, *rest = found.added[:, v]
        rows.append([pools[v], words.usd(first), *(_difference(a) for a in rest), words.usd(found.added[:, v].sum())])
    head = ["Pool", *(n[0].upper() + n[1:] for n in (CHANNELS.get(c, c) for c in found.channels)), "All together"]
    return join(_totals(scenario, found), table(head, rows, of="pool", caption="Losses pool by pool, channels opened in this order."))
