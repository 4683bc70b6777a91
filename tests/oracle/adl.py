"""Auto-deleveraging of the twin (section 4.5 of `docs/model.md`): winners chosen one at a time, by sorting."""

import copy
from types import SimpleNamespace

from tests.oracle.margin import equity, maintenance, margin_equity, notionals, position_margin
from tests.oracle.prices import gain


def has_adl(system, v: int) -> bool:
    return "adl" in system.waterfall[v]


def fund_comes_first(system, v: int) -> bool:
    order = list(system.waterfall[v])
    return "insurance_fund" in order and order.index("insurance_fund") < order.index("adl")


def deleverage(system, state, granted: dict, sold: dict, mark, venue, tentative, tally):
    """Find who assumes what; closes the winners at once. Returns the share of each position that winners take, their price, and what is saved."""
    seen = copy.deepcopy(state)  # everything is judged at the marks, before anybody is closed
    assumed = {}  # account number -> per asset (share of the position taken over, bankruptcy price)
    saved = [0.0] * system.V
    for v in range(system.V):
        if not has_adl(system, v):
            continue
        bankrupt = {}
        deficit = 0.0
        for n, psi in granted.items():
            account = state.perps[n]
            if account.pool == v:
                left = equity(system, state, account, tentative)
                if left < 0.0:
                    bankrupt[n] = psi
                    deficit += -psi * left
        if deficit <= 0.0:
            continue
        share = 1.0 - min(1.0, state.fund[v] / deficit) if fund_comes_first(system, v) else 1.0
        if share <= 0.0:
            continue
        for n in bankrupt:
            assumed[n] = [(0.0, 0.0)] * system.A
        for a in range(system.A):
            if system.inverse[v, a]:
                continue
            for side in (1.0, -1.0):
                close_side(system, state, seen, v, a, side, bankrupt, share, assumed, saved, mark, venue, tentative, tally)
    for v in range(system.V):
        saved[v] = max(saved[v], 0.0)
    return SimpleNamespace(assumed=assumed, saved=saved)


def close_side(system, state, seen, v, a, side, bankrupt, share, assumed, saved, mark, venue, tentative, tally) -> None:
    """Hand the bankrupts' longs (side 1) or shorts (-1) in one asset to winners on the other side."""
    offered = {n: share * psi * abs(seen.perps[n].q[a]) for n, psi in bankrupt.items() if side * seen.perps[n].q[a] > 0.0}
    wanted = sum(offered.values())
    if wanted <= 0.0:
        return
    winners = [
        n
        for n, account in enumerate(seen.perps)
        if account.pool == v and side * account.q[a] < 0.0 and margin_equity(system, seen, account, mark) >= maintenance(system, seen, account, mark)
    ]
    closed = choose(system, seen, v, a, winners, wanted, mark)
    total = sum(closed.values())
    if total <= 0.0:
        return
    scale = min(1.0, total / wanted)
    worth = 0.0
    for n, coins in offered.items():
        account = seen.perps[n]
        price = bankruptcy_price(system, seen, account, a, mark, venue)
        part = scale * coins
        worth += part * price
        assumed[n] = list(assumed[n])
        assumed[n][a] = (share * scale, price)
        saved[v] += side * part * (price - tentative[v, a])
        tally.deleveraged[v, a] += part
    mean = worth / (scale * wanted)
    for n, coins in closed.items():
        account = state.perps[n]
        account.W += -side * coins * gain(system, state, v, a, mean)
        account.q[a] = 0.0 if coins == abs(account.q[a]) else account.q[a] + side * coins


def bankruptcy_price(system, state, account, a: int, mark, venue) -> float:
    v = account.pool
    held = notionals(system, account, mark)
    if account.portfolio:
        weight = held[a] / sum(held)
    else:
        weight = position_margin(system, state, account, a, held[a], mark) / maintenance(system, state, account, mark)
    return venue[v, a] - equity(system, state, account, venue) * weight / account.q[a]


def choose(system, state, v, a, winners, wanted, mark) -> dict:
    """Coins closed by account number, together `wanted` or all there is."""
    policy = system.adl[v]
    if policy.startswith("pro_rata"):
        weights = {}
        for n in winners:
            account = state.perps[n]
            profit = account.q[a] * (mark[v, a] - account.entry[a])
            weights[n] = max(0.0, profit if policy == "pro_rata_pnl" else equity(system, state, account, mark))
        return in_proportion({n: w for n, w in weights.items() if w > 0.0}, {n: abs(state.perps[n].q[a]) for n in winners}, wanted)
    ranked = sorted(winners, key=lambda n: rank(system, state, state.perps[n], a, policy, mark))
    closed = {}
    for n in ranked:
        coins = min(abs(state.perps[n].q[a]), wanted)
        if coins > 0.0:
            closed[n] = coins
            wanted -= coins
    return closed


def rank(system, state, account, a: int, policy: str, mark):
    """Sorted upwards: whoever comes first is closed first."""
    v = account.pool
    own = equity(system, state, account, mark)
    profit = account.q[a] * (mark[v, a] - account.entry[a])
    growth = mark[v, a] / account.entry[a] if account.q[a] > 0.0 else account.entry[a] / mark[v, a]
    if policy == "pnl":
        return -profit / own
    if policy == "hyperliquid":
        return (profit <= 0.0, -growth * abs(account.q[a]) * mark[v, a] / own)
    leverage = sum(notionals(system, account, mark)) / own
    earned = profit / (abs(account.q[a]) * account.entry[a])
    return -(earned * leverage if earned > 0.0 else earned / leverage)


def in_proportion(weights: dict, most: dict, wanted: float) -> dict:
    """Shares in proportion to the weights, nobody above his limit: whoever reaches it drops out and the others share the rest."""
    closed = {}
    open_to = dict(weights)
    while open_to and wanted > 0.0:
        total = sum(open_to.values())
        full = [n for n, w in open_to.items() if wanted * w / total >= most[n]]
        if not full:
            closed.update({n: wanted * w / total for n, w in open_to.items()})
            break
        for n in full:
            closed[n] = most[n]
            del open_to[n]
        wanted -= sum(most[n] for n in full)
    return closed
