"""Traders and depositors of the twin (section 14 of `docs/model.md`, `docs/policies/behaviour.md`)."""

import math

import numpy as np

from tests.oracle import lending, prices

KINDS = ("momentum", "reversion", "leverage", "funding")
MOMENTUM, REVERSION, LEVERAGE, FUNDING = range(4)


def start(system, state) -> None:
    """Leverage funds hold their target, bought at the reference price; the others hold nothing."""
    shape = (len(KINDS), system.V, system.A)
    state.trader_quantity, state.trader_cash = np.zeros(shape), np.zeros(shape)
    state.hedge_quantity, state.hedge_cash = np.zeros(shape[1:]), np.zeros(shape[1:])
    state.fund_closed = np.zeros(shape[1:], bool)
    state.trend, state.mean_log_price = np.zeros(system.A), np.zeros(system.A)
    rules = system.traders
    if rules is None:
        return
    state.trader_cash = np.array(rules["capital"], float)
    state.trader_variance = np.array(rules["reference_variance"], float)
    for v in range(system.V):
        for a in range(system.A):
            usd = target_leverage(system, state, v, a, cap=math.inf) * rules["capital"][LEVERAGE, v, a]
            state.trader_quantity[LEVERAGE, v, a] = usd / system.reference_price[a]
            state.maker_quantity[v, a] -= usd / system.reference_price[a]


def observe(system, state) -> None:
    rules = system.traders
    if rules is None:
        return
    x = prices.log_prices(system, state)
    for a in range(system.A):
        r = state.log_return[a]
        state.trend[a] = rules["trend_decay"][a] * state.trend[a] + (1.0 - rules["trend_decay"][a]) * r
        state.mean_log_price[a] = rules["mean_decay"][a] * state.mean_log_price[a] + (1.0 - rules["mean_decay"][a]) * x[a]
        state.trader_variance[a] = rules["variance_decay"][a] * state.trader_variance[a] + (1.0 - rules["variance_decay"][a]) * r**2


def target_leverage(system, state, v: int, a: int, cap: float) -> float:
    rules = system.traders
    reference = math.sqrt(rules["reference_variance"][a])
    volatility = max(math.sqrt(state.trader_variance[a] + rules["quiet_variance"][a]), 0.01 * reference)
    return min(rules["base_leverage"][v, a] * (reference / volatility) ** rules["exponent"][v, a], cap)


def fund_equity(system, state, v: int, a: int, price: float) -> float:
    return state.trader_cash[LEVERAGE, v, a] + state.trader_quantity[LEVERAGE, v, a] * prices.gain(system, state, v, a, price)


def orders(system, state, venue):
    """(4, V, A) coins that traders buy, and (V, A) which funds default."""
    coins = np.zeros((len(KINDS), system.V, system.A))
    default = np.zeros((system.V, system.A), bool)
    if system.traders is None:
        return coins, default
    for v in range(system.V):
        if state.outage[v]:
            continue
        for a in range(system.A):
            wanted = targets(system, state, v, a, venue[v, a])
            for kind in range(len(KINDS)):
                gap = wanted[kind] / venue[v, a] - state.trader_quantity[kind, v, a]
                coins[kind, v, a] = system.traders["speed"][kind, v, a] * gap
            held = state.trader_quantity[LEVERAGE, v, a]
            required = system.traders["maintenance"][v, a] * abs(held) * venue[v, a]
            if held != 0.0 and not fund_equity(system, state, v, a, venue[v, a]) > required:
                default[v, a] = True
                coins[LEVERAGE, v, a] = -held
    return coins, default


def targets(system, state, v: int, a: int, price: float) -> list:
    """USD that each kind wants to hold."""
    rules = system.traders
    capital, scale = rules["capital"][:, v, a], rules["scale"][:, v, a]
    above = math.log(price / system.reference_price[a]) - state.mean_log_price[a]
    fund = 0.0
    if not state.fund_closed[v, a]:
        fund = target_leverage(system, state, v, a, state.cap[v, a]) * max(fund_equity(system, state, v, a, price), 0.0)
    return [
        capital[MOMENTUM] * math.tanh(state.trend[a] / scale[MOMENTUM]),
        -capital[REVERSION] * math.tanh(above / scale[REVERSION]),
        fund,
        -capital[FUNDING] * math.tanh(state.last_funding_rate[v, a] / scale[FUNDING]),
    ]


def fill_orders(system, state, coins, default, fill, common_fill, owed) -> None:
    """Book the fills; what a fund that is closed out lacks is owed by its pool."""
    for v in range(system.V):
        for a in range(system.A):
            for kind in range(len(KINDS)):
                paid = coins[kind, v, a] * prices.gain(system, state, v, a, fill[v, a])
                state.trader_cash[kind, v, a] -= paid
                state.trader_quantity[kind, v, a] += coins[kind, v, a]
                state.maker_cash[v, a] += paid
                state.maker_quantity[v, a] -= coins[kind, v, a]
            hedge = -coins[FUNDING, v, a]
            state.hedge_quantity[v, a] += hedge
            paid = hedge * (common_fill[a] - system.reference_price[a])
            state.hedge_cash[v, a] -= paid
            state.maker_cash[v, a] += paid
            state.maker_coins[v, a] -= hedge
            if default[v, a]:
                state.fund_closed[v, a] = True
                state.trader_quantity[LEVERAGE, v, a] = 0.0
                if state.trader_cash[LEVERAGE, v, a] < 0.0:
                    owed.usd[v] -= state.trader_cash[LEVERAGE, v, a]
                    state.trader_cash[LEVERAGE, v, a] = 0.0


def run(system, state, tally) -> None:
    """Depositors of lenders that look weak withdraw."""
    rules = system.runs
    if rules is None:
        return
    supplied, borrowed = lending.totals(system, state)
    for v in range(system.V):
        if not system.lends[v]:
            continue
        for a in range(system.A):
            available = max(lending.idle(state, supplied, borrowed, v, a), 0.0)
            used = borrowed[v, a] / (available + borrowed[v, a]) if borrowed[v, a] > 0.0 else 0.0
            cover = 1.0
            if supplied[v, a] > 0.0:
                cover = min(1.0, 1.0 - (state.written_off[v, a] - state.reserves[v, a]) / supplied[v, a])
            for r in range(system.A):
                if system.receipt_pool[r] == v and system.market[r] == a:
                    cover = min(cover, state.redemption[r])
            ua, ca = rules["utilisation_at"][v, a], rules["cover_at"][v, a]
            weakness = min(max(used - ua, 0.0) / (1.0 - ua), 1.0) + min(max(ca - cover, 0.0) / ca, 1.0)
            deposits = state.deposits[v, a] * state.supply_index[v, a]
            taken = min(min(rules["speed"][v, a] * weakness, rules["most"][v, a]) * deposits, available)
            state.deposits[v, a] -= taken / state.supply_index[v, a]
            tally.withdrawn[v, a] += taken
