"""Lending accounts of the twin: health, and what is due (sections 3 and 4.3 of `docs/model.md`), interest and write-offs."""

import math
from types import SimpleNamespace

import numpy as np


def coins(system, state, loan, a: int) -> tuple[float, float]:
    """Coins supplied and owed."""
    v = loan.pool
    return loan.supply[a] * state.supply_index[v, a], loan.debt[a] * state.borrow_index[v, a]


def health(system, state, loan, mark) -> tuple[float, float]:
    """Weighted collateral and debt in USD."""
    v = loan.pool
    weighted, debt = max(loan.cash, 0.0), max(-loan.cash, 0.0)
    for a in range(system.A):
        supplied, owed = coins(system, state, loan, a)
        weighted += state.threshold[v, a] * supplied * mark[v, a]
        debt += owed * mark[v, a]
    return weighted, debt


def plan(system, state, loan, mark, venue):
    """What the pool's rule asks of an account under margin, before capacity; coins, and shares of what is left after set-off."""
    v, A = loan.pool, system.A
    rules = system.lending["rules"]
    weighted, debt = health(system, state, loan, mark)
    rule = rules["rule"][v]
    all_due = rule == "full" or weighted < rules["full_below"][v] * debt
    phi, target = rules["close_factor"][v], rules["target_health"][v]

    supplied, owed = zip(*(coins(system, state, loan, a) for a in range(A)), strict=True)
    overlap = [min(supplied[a], owed[a]) for a in range(A)]
    overlap_usd = sum(overlap[a] * mark[v, a] for a in range(A))
    weighted_overlap = sum(state.threshold[v, a] * overlap[a] * mark[v, a] for a in range(A))
    if all_due or overlap_usd == 0.0:
        theta = 1.0
    elif rule == "close_factor":
        theta = min(max(phi * debt / overlap_usd, 0.0), 1.0)
    else:
        denominator = target * overlap_usd - weighted_overlap
        theta = min(max((target * debt - weighted) / denominator, 0.0), 1.0) if denominator > 0.0 else 1.0

    left = [supplied[a] - theta * overlap[a] if theta < 1.0 or owed[a] < supplied[a] else 0.0 for a in range(A)]
    due = [owed[a] - theta * overlap[a] if theta < 1.0 or supplied[a] < owed[a] else 0.0 for a in range(A)]
    bonus = [auction_bonus(rules, v, loan.age) if rules["auction"][v] else rules["bonus"][v, a] for a in range(A)]
    fee = [rules["protocol_fee"][v] * max(bonus[a], 0.0) / (1.0 + bonus[a]) for a in range(A)]
    seizable = [left[a] if rules["seizable"][v, a] else 0.0 for a in range(A)]
    cash, cash_debt = max(loan.cash, 0.0), max(-loan.cash, 0.0)

    seize_share = repay_share = 0.0
    if theta == 1.0:
        weighted_left = cash + sum(state.threshold[v, a] * left[a] * mark[v, a] for a in range(A))
        debt_left = cash_debt + sum(due[a] * mark[v, a] for a in range(A))
        K = cash + sum(seizable[a] * mark[v, a] for a in range(A))
        if K > 0.0:
            grown = 1.0 + sum(bonus[a] * seizable[a] * mark[v, a] for a in range(A)) / K
            lost = (cash + sum(state.threshold[v, a] * seizable[a] * mark[v, a] for a in range(A))) / K * grown
            if all_due:
                rho = debt_left
            elif rule == "close_factor":
                rho = min(max(phi * debt - overlap_usd, 0.0), debt_left)
            elif target <= lost:
                rho = debt_left
            else:
                rho = min(max((target * debt_left - weighted_left) / (target - lost), 0.0), debt_left)
            seize_share = min(rho * grown / K, 1.0)
            repay_share = min(rho, K / grown) / debt_left if debt_left > 0.0 else 0.0

    seized = [seize_share * seizable[a] for a in range(A)]
    taken = seize_share * cash
    received = taken + sum((1.0 - fee[a]) * seized[a] * venue[v, a] for a in range(A))
    market = rules["market_execution"][v]
    if market:
        at_marks = taken + sum((1.0 - fee[a]) * seized[a] * mark[v, a] for a in range(A))
        debt_left = cash_debt + sum(due[a] * mark[v, a] for a in range(A))
        repay_share = min(1.0, at_marks / debt_left) if debt_left > 0.0 else 0.0
    repaid_worth = repay_share * (cash_debt + sum(due[a] * venue[v, a] for a in range(A)))
    least = rules["required_profit"][v]
    even = 1.0 + 64 * np.finfo(float).eps
    acts = bool(rules["market_execution"][v]) or math.isinf(least) or received * even >= (1.0 + least) * repaid_worth
    return SimpleNamespace(
        acts=acts,
        market=market,
        set_off=[theta * overlap[a] for a in range(A)],
        left=left,
        due=due,
        seized=seized,
        seize_share=seize_share,
        fee=fee,
        taken=taken,
        repay_share=repay_share,
        repaid=[repay_share * due[a] for a in range(A)],
        repaid_cash=repay_share * cash_debt,
        demand=taken + sum((theta * overlap[a] + seized[a]) * mark[v, a] for a in range(A)),
    )


def auction_bonus(rules, v: int, age: int) -> float:
    return min(rules["auction_max"][v], rules["auction_start"][v] + rules["auction_growth"][v] * age)


def execute(system, state, loan, todo, share: float, fill, mark, tally, owed) -> None:
    """Carry out the granted share of the plan at the fill prices, and write off what has no collateral left."""
    v, A = loan.pool, system.A
    seized = [share * todo.seized[a] for a in range(A)]
    kept_by_protocol = [todo.fee[a] * seized[a] for a in range(A)]
    taken, cash_debt = share * todo.taken, max(-loan.cash, 0.0)
    profit = 0.0
    if todo.market:
        proceeds = todo.taken + sum((1.0 - todo.fee[a]) * todo.seized[a] * fill[v, a] for a in range(A))
        due = cash_debt + sum(todo.due[a] * fill[v, a] for a in range(A))
        repay_share = min(1.0, proceeds / due) if due > 0.0 else 0.0
        loan.cash += share * (repay_share * cash_debt - todo.taken + proceeds - repay_share * due)
    else:
        repay_share = todo.repay_share
        loan.cash += share * (repay_share * cash_debt) - taken
        profit = taken - share * repay_share * cash_debt
    repaid = [share * repay_share * todo.due[a] for a in range(A)]
    supplied, borrowed = zip(*(coins(system, state, loan, a) for a in range(A)), strict=True)
    acted = taken != 0.0
    for a in range(A):
        off = share * todo.set_off[a]
        whole = share == 1.0
        remaining = supplied[a] - off - seized[a]
        if whole and (todo.left[a] == 0.0 or (todo.seize_share == 1.0 and todo.seized[a] == todo.left[a])):
            remaining = 0.0
        outstanding = borrowed[a] - off - repaid[a]
        if whole and (todo.due[a] == 0.0 or repay_share == 1.0):
            outstanding = 0.0
        loan.supply[a] = remaining / state.supply_index[v, a]
        loan.debt[a] = outstanding / state.borrow_index[v, a]
        state.reserves[v, a] += kept_by_protocol[a]
        sold = seized[a] - kept_by_protocol[a]
        state.maker_coins[v, a] += sold - repaid[a]
        state.maker_cash[v, a] -= (sold - repaid[a]) * (fill[v, a] - system.reference_price[a])
        if not todo.market:
            profit += (sold - repaid[a]) * fill[v, a]
        acted = acted or seized[a] + off + repaid[a] != 0.0
    state.liquidators[v] += profit
    if acted and not loan.touched:
        loan.touched = True
        tally.newly_liquidated[v] += 1
    if loan.cash <= 0.0 and not any(loan.supply):
        write_off(system, state, loan, mark, owed)


def write_off(system, state, loan, mark, owed) -> None:
    v = loan.pool
    for a in range(system.A):
        lost = loan.debt[a] * state.borrow_index[v, a]
        loan.debt[a] = 0.0
        owed.coins[v, a] += lost
        owed.usd[v] += lost * mark[v, a]
    owed.cash[v] += -loan.cash
    owed.usd[v] += -loan.cash
    loan.cash = 0.0


# Interest


def totals(system, state):
    """Coins supplied (borrowers' collateral and other deposits) and owed, by pool and asset."""
    supplied = state.deposits * state.supply_index
    borrowed = 0.0 * supplied
    for loan in state.loans:
        for a in range(system.A):
            plus, minus = coins(system, state, loan, a)
            supplied[loan.pool, a] += plus
            borrowed[loan.pool, a] += minus
    return supplied, borrowed


def idle(state, supplied, borrowed, v: int, a: int) -> float:
    """Coins that lie in a pool."""
    return supplied[v, a] + state.reserves[v, a] - borrowed[v, a] - state.written_off[v, a]


def accrue_interest(system, state):
    """Grow debts and deposits by one step; returns the borrowing rates per year."""
    result = np.zeros((system.V, system.A))
    if system.lending is None:
        return result
    rates = system.lending["rates"]
    supplied, borrowed = totals(system, state)
    for v in range(system.V):
        if not system.lends[v]:
            continue
        for a in range(system.A):
            available = max(idle(state, supplied, borrowed, v, a), 0.0)
            used = borrowed[v, a] / (available + borrowed[v, a]) if borrowed[v, a] > 0.0 else 0.0
            kink = rates["optimal"][v, a]
            rate = rates["base"][v, a]
            if used <= kink:
                rate += rates["slope1"][v, a] * used / kink
            else:
                rate += rates["slope1"][v, a] + rates["slope2"][v, a] * (used - kink) / (1.0 - kink)
            grown = math.expm1(rate * system.lending["years_per_step"])
            charged = borrowed[v, a] * grown
            kept = rates["reserve_factor"][v, a] * charged
            state.borrow_index[v, a] *= 1.0 + grown
            state.reserves[v, a] += kept
            if supplied[v, a] > 0.0:
                state.supply_index[v, a] *= 1.0 + (charged - kept) / supplied[v, a]
            result[v, a] = rate
    return result
