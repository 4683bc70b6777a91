"""Who pays: the waterfall, margin calls between pools, and the clearing at the end of a step (sections 4.10, 8 and 9 of `docs/model.md`)."""

from types import SimpleNamespace

import numpy as np

from tests.oracle import lending
from tests.oracle.adl import in_proportion
from tests.oracle.margin import equity, maintenance, margin_equity, notionals
from tests.oracle.prices import common_prices, venue_prices


def no_deficits(system):
    return SimpleNamespace(usd=np.zeros(system.V), cash=np.zeros(system.V), coins=np.zeros((system.V, system.A)))


def waterfall(system, state, owed, mark, tally) -> None:
    """Meet what is owed stage by stage; `owed` is what auto-deleveraging has not saved. The written-off coins of lending pools shrink with it."""
    tally.deficit += owed.usd
    for stage in range(max(len(order) for order in system.waterfall)):
        now = [order[stage] if stage < len(order) else "nothing" for order in system.waterfall]
        for v in range(system.V):
            if now[v] == "insurance_fund":
                drawn = min(owed.usd[v], state.fund[v])
                state.fund[v] -= drawn
                tally.fund_draw[v] += drawn
                pay(system, state, owed, v, drawn, mark)
        share_funds(system, state, owed, [v for v in range(system.V) if now[v] == "shared_funds"], mark, tally)
        for v in range(system.V):
            if now[v] == "socialise":
                if system.lends[v]:
                    socialise_deposits(system, state, owed, v, mark, tally)
                else:
                    socialise_perps(system, state, owed, v, tally)
    for v in range(system.V):
        state.bad_debt[v] += owed.usd[v]
        state.written_off_cash[v] += owed.cash[v]
        state.written_off[v] += owed.coins[v]


def pay(system, state, owed, v: int, usd: float, mark) -> None:
    """Money for a deficit; in a lending pool it buys the coins that nobody will repay, from makers at the mark."""
    if usd <= 0.0:
        return
    part = min(1.0, usd / owed.usd[v])
    owed.usd[v] = 0.0 if part == 1.0 else owed.usd[v] - usd
    owed.cash[v] -= part * owed.cash[v]
    for a in range(system.A):
        bought = part * owed.coins[v, a]
        owed.coins[v, a] -= bought
        state.maker_coins[v, a] -= bought
        state.maker_cash[v, a] += bought * (mark[v, a] - system.reference_price[a])


def share_funds(system, state, owed, asking: list, mark, tally) -> None:
    needs = {v: owed.usd[v] for v in asking if owed.usd[v] > 0.0}
    for group in sorted({system.fund_group[v] for v in needs if system.fund_group[v] >= 0}):  # a pool of no group has nobody to share with
        members = [v for v in range(system.V) if system.fund_group[v] == group]
        from_funds(system, state, owed, members, {v: n for v, n in needs.items() if v in members}, mark, tally)


def from_funds(system, state, owed, funds: list, needs: dict, mark, tally) -> None:
    held = sum(state.fund[v] for v in funds)
    need = sum(needs.values())
    paid = min(held, need)
    if paid <= 0.0:
        return
    for v in funds:
        given = paid * state.fund[v] / held
        state.fund[v] = 0.0 if paid == held else state.fund[v] - given
        tally.shared_in[v] -= given
    for v, wanted in needs.items():
        got = paid * wanted / need
        tally.shared_in[v] += got
        tally.fund_draw[v] += got
        pay(system, state, owed, v, got, mark)


def socialise_perps(system, state, owed, v: int, tally) -> None:
    if owed.usd[v] <= 0.0:
        return
    prices = venue_prices(system, state)
    weight, most = {}, {}
    for n, account in enumerate(state.perps):
        if account.pool != v:
            continue
        most[n] = weight[n] = max(0.0, equity(system, state, account, prices))
        if system.socialise_by[v] == "gains":
            gains = 0.0
            for a in range(system.A):
                if not system.inverse[v, a]:
                    gains += account.q[a] * (prices[v, a] - account.entry[a] - state.funding_index[v, a])
            weight[n] = max(0.0, gains)
            most[n] = min(most[n], weight[n])
    charged = in_proportion({n: w for n, w in weight.items() if w > 0.0}, most, owed.usd[v])
    for n, usd in charged.items():
        state.perps[n].W -= usd
    taken = min(sum(charged.values()), owed.usd[v])
    owed.usd[v] -= taken
    tally.socialised[v] += taken


def socialise_deposits(system, state, owed, v: int, mark, tally) -> None:
    supplied, _ = lending.totals(system, state)
    for a in range(system.A):
        lost = min(owed.coins[v, a], supplied[v, a])
        if lost <= 0.0:
            continue
        state.supply_index[v, a] *= 1.0 - lost / supplied[v, a]
        owed.coins[v, a] -= lost
        usd = lost * mark[v, a]
        owed.usd[v] -= usd
        tally.socialised[v] += usd
    if not owed.coins[v].any():
        owed.usd[v] = owed.cash[v]


# Margin calls


def margin_calls(system, state, mark, tally) -> None:
    if system.owners is None or not system.open_owners:
        return
    top_up, keep = system.owners["top_up"], system.owners["keep"]
    by_owner = {}
    for owner, account in state.links:
        by_owner.setdefault(owner, []).append(account)
    for accounts in by_owner.values():
        called, spare = [], []
        for account in accounts:
            short, extra = call_and_spare(system, state, account, mark, top_up, keep)
            if short > 0.0:
                called.append((account, short))
            elif extra > 0.0:
                spare.append((account, extra))
        needed, there = sum(x for _, x in called), sum(x for _, x in spare)
        moved = min(needed, there)
        if moved <= 0.0:
            continue
        for account, short in called:
            move(account, moved * short / needed, tally)
        for account, extra in spare:
            move(account, -moved * extra / there, tally)


def move(account, usd: float, tally) -> None:
    if hasattr(account, "W"):
        account.W += usd
    else:
        account.cash += usd
    tally.margin_calls[account.pool] += usd


def call_and_spare(system, state, account, mark, top_up: float, keep: float) -> tuple[float, float]:
    """USD needed and to spare, each on the safe side by 64 roundings of all that the account holds (docs/model.md, section 8)."""
    short, extra, held = needed_and_to_spare(system, state, account, mark, top_up, keep)
    slack = 64 * np.finfo(float).eps * held
    return (short + slack, 0.0) if short > 0.0 else (0.0, max(0.0, extra - slack))


def needed_and_to_spare(system, state, account, mark, top_up: float, keep: float) -> tuple[float, float, float]:
    """The same without roundings, and USD of all that the account holds."""
    if hasattr(account, "W"):
        own, required = margin_equity(system, state, account, mark), maintenance(system, state, account, mark)
        coins = sum(abs(account.k[a]) * mark[account.pool, a] for a in range(system.A))
        held = abs(account.W) + sum(notionals(system, account, mark)) + coins
        if not own >= required:
            return top_up * required - own, 0.0, held
        return 0.0, max(0.0, own - keep * required), held
    weighted, debt = lending.health(system, state, account, mark)
    held = weighted + debt
    if not weighted >= debt:
        owed_usd = max(-account.cash, 0.0)
        repay = debt - weighted / top_up  # while there is USD debt, money reduces it
        if repay <= owed_usd:
            return repay, 0.0, held
        return owed_usd + top_up * (debt - owed_usd) - weighted, 0.0, held  # the rest is collateral
    have = max(account.cash, 0.0)
    give = weighted - keep * debt  # while there are USD, they leave
    if give <= have:
        return 0.0, max(0.0, give), held
    return 0.0, max(0.0, have + (weighted - have) / keep - debt), held


# Clearing


def clear(system, state, tokens_sold) -> None:
    """Credit between pools, then what receipt tokens are worth from the next step on."""
    V = system.V
    own = state.fund + state.treasury - state.bad_debt
    if system.credit is not None:
        own = own + system.credit["capital"]
        nominal = system.credit["nominal"]
        alpha, beta = system.credit["alpha"], system.credit["beta"]
        owes = nominal.sum(axis=1)
        funds, own = own, own + owes - nominal.sum(axis=0)  # capital counts credit at face value
        paid = owes.copy()
        if system.open_credit:
            for _ in range(100000):
                received = claims_received(nominal, owes, paid)
                new = np.array(
                    [
                        owes[v]
                        if own[v] + received[v] >= owes[v]
                        else max(0.0, min(own[v], 0.0) + alpha[v] * max(own[v], 0.0) + beta[v] * received[v])
                        for v in range(V)
                    ]
                )
                if np.max(np.abs(new - paid)) <= 1e-15 * max(1.0, owes.max()):
                    paid = new
                    break
                paid = new
        received = claims_received(nominal, owes, paid)
        state.credit_loss = nominal.sum(axis=0) - received
        state.paid_share = np.array([paid[v] / owes[v] if owes[v] > 0.0 else 1.0 for v in range(V)])
        state.net_worth = funds - state.credit_loss
    elif any(w >= 0 for w in system.receipt_pool):
        state.net_worth = own
    if any(w >= 0 for w in system.receipt_pool):
        redeem(system, state, tokens_sold)


def claims_received(nominal, owes, paid):
    received = np.zeros(len(owes))
    for w in range(len(owes)):
        if owes[w] > 0.0:
            for v in range(len(owes)):
                received[v] += nominal[w, v] / owes[w] * paid[w]
    return received


def redeem(system, state, tokens_sold) -> None:
    prices = common_prices(system, state)
    supplied, borrowed = lending.totals(system, state)
    redemption = state.redemption.copy()
    for r in range(system.A):
        w = system.receipt_pool[r]
        if w < 0:
            continue
        u = system.market[r]
        if system.lends[w]:
            claims = float((supplied[w] * prices).sum())
            idle = lending.idle(state, supplied, borrowed, w, u) * prices[u]
        else:
            claims, idle = system.credit["customers"][w], np.inf
        value = min(1.0, (claims + min(state.net_worth[w], 0.0)) / claims)
        sold = tokens_sold[r]
        if sold > 0.0:
            value *= 1.0 - system.receipt_haircut[r] * max(0.0, 1.0 - idle / sold)
        redemption[r] = value
    state.redemption = redemption
