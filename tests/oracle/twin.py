"""A slow, literal twin of the simulation described in `docs/model.md`.

It exists to disagree with the engine if either of them is wrong, so it is written from that page alone and shares no code with the engine. Everything
is float64, accounts are visited one at a time, and nothing is clever. Some things are done in the twin's own way:

- tier margin is `mmr_k n - cum_k`, with the tier `k` looked up and `cum` built tier by tier;
- the restore rule is solved by listing every point where the requirement can bend, finding the first stretch on which it becomes met, and
  interpolating on that stretch (by bisection where the requirement is smooth);
- queues are sorted, capped shares are filled by dropping out whoever is full, defaults between pools are iterated from above.

Capacity, volatility decay and transient decay are given per step, so the length of a step appears in interest only.

The parts: `prices` (the market, marks, funding), `margin` (perp accounts), `lending`, `adl`, `settle` (who pays). `run` documents the inputs.
N accounts, A assets, V pools, T steps.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np

from tests.oracle import adl, behaviour, lending, leverage, prices, settle
from tests.oracle.leverage import sides
from tests.oracle.margin import (
    auction_discount,
    close_fraction,
    coins_to_sell,
    equity,
    face,
    maintenance,
    margin_equity,
    nobody_bids,
    notionals,
    schedule,
)

BY_POOL_AND_ASSET = ("closed_long", "closed_short", "closed_long_usd", "closed_short_usd", "deleveraged")
BY_POOL_AND_ASSET += ("reduced_usd", "voluntary_usd", "releveraged_usd", "trader_usd", "withdrawn")
BY_POOL = ("deficit", "fund_draw", "adl_usd", "socialised", "fees", "funding_paid", "margin_calls", "shared_in", "margin_posted")
COUNTS = ("triggered", "waiting", "newly_liquidated", "called")
LEVELS = (
    "rounds",
    "price",
    "exogenous_price",
    "mark",
    "venue_price",
    "depth",
    "variance",
    "open_interest",
    "funding_rate",
    "funding_index",
    "cap",
    "maintenance",
    "gauge",
    "supplied",
    "borrowed",
    "borrow_rate",
    "insurance_fund",
    "treasury",
    "bad_debt",
    "net_worth",
    "credit_loss",
    "paid_share",
    "redemption",
    "cash_residual",
    "quantity_residual",
    "coins_residual",
)
PER_STEP = BY_POOL_AND_ASSET + BY_POOL + COUNTS + LEVELS


def run(system: dict, book: dict, path: dict, max_rounds: int) -> dict:
    """Play the path and return what happened: every name of `PER_STEP` stacked over the steps, and the closing `state`.

    system: n_pools, n_assets, tiers[v][a] = (floors, rates), maintenance_multiplier (V,A); rule[v] one of full, restore, stepwise, close_factor;
            waterfall[v] a list of insurance_fund, shared_funds, adl, socialise; impact with the form of each asset by name; arrays by pool and asset
            as the engine names them; optional mechanisms as dicts under the engine's names, left out or None when there is none.
    book:   pool (N,), equity_at_reference (N,), quantity (N,A), optional collateral (N,A), entry (N,A), portfolio (N,) bool; optional loans
            with pool, supply, debt, cash; optional links [(owner, "perps" or "loans", number)].
    path:   log_price (T,A), depth_factor (T,A), optional mark_offset (T,V,A), outage (T,V), stuck (T,V,A), premium (T,V,A).
    """
    rules = read_system(system)
    state = opening_state(rules, book)
    steps = len(path["log_price"])
    records = [play_step(rules, state, read_path(rules, path, t), max_rounds) for t in range(steps)]
    result = {name: np.array([record[name] for record in records]) for name in PER_STEP}
    result["state"] = state
    result["equity_at_reference"] = np.array([account.W for account in state.perps])
    result["quantity"] = np.array([account.q for account in state.perps]).reshape(-1, rules.A)
    return result


# Setting up


def read_system(system: dict):
    """The system with every optional part present: what is missing is None or without effect."""
    rules = SimpleNamespace(**{name: copy.deepcopy(value) for name, value in system.items()})
    V, A = rules.V, rules.A = int(system["n_pools"]), int(system["n_assets"])
    rules.tiers = [[schedule(*system["tiers"][v][a]) for a in range(A)] for v in range(V)]
    for name in (
        "size_scale",
        "interest_scale",
        "portfolio",
        "queue",
        "auctions",
        "venues",
        "makers",
        "marks",
        "funding",
        "lending",
        "credit",
        "owners",
        "policy",
        "traders",
        "runs",
    ):
        if not hasattr(rules, name):
            setattr(rules, name, None)
    rules.inverse = np.array(system["inverse"]) if system.get("inverse") is not None else np.zeros((V, A), bool)
    rules.haircut = np.array(system["haircut"]) if system.get("haircut") is not None else np.zeros((V, A))
    rules.fund_group = list(system["fund_group"]) if system.get("fund_group") is not None else [-1] * V
    rules.socialise_by = system.get("socialise_by") or ["gains"] * V
    rules.market = list(system["market"]) if system.get("market") is not None else list(range(A))
    receipts = system.get("receipts")
    rules.receipt_pool = list(receipts["pool"]) if receipts else [-1] * A
    rules.receipt_haircut = receipts["run_haircut"] if receipts else np.zeros(A)
    rules.lends = [bool(rules.lending is not None and rules.lending["pool"][v]) for v in range(V)]
    shut = system.get("shut", ())
    for channel in ("price", "owners", "receipts", "credit"):
        setattr(rules, "open_" + channel, channel not in shut)
    return rules


def opening_state(system, book: dict):
    """Everything that changes as the path is played; the caller's arrays are copied, never written to."""
    V, A = system.V, system.A
    state = SimpleNamespace(
        maker_quantity=np.zeros((V, A)),
        maker_cash=np.zeros((V, A)),
        maker_coins=np.zeros((V, A)),
        fund=np.array(system.insurance_fund, float),
        treasury=np.zeros(V),
        bad_debt=np.zeros(V),
        liquidators=np.zeros(V),
        written_off=np.zeros((V, A)),
        written_off_cash=np.zeros(V),
        reserves=np.zeros((V, A)),
        supply_index=np.ones((V, A)),
        borrow_index=np.ones((V, A)),
        deposits=np.array(system.lending["deposits"], float) if system.lending is not None else np.zeros((V, A)),
        f=np.zeros(A),
        g=np.zeros(A),
        h=np.zeros(A),
        y=np.zeros(A),
        s2=np.array(system.reference_variance, float),
        thinning=np.ones(A),
        basis=np.zeros((V, A)),
        arb_quantity=np.zeros((V, A)),
        arb_cash=np.zeros((V, A)),
        common_quantity=np.zeros(A),
        common_cash=np.zeros(A),
        mark_history=[],
        mark_average=np.zeros((V, A)),
        pushed=np.zeros((V, A)),
        mark_age=np.zeros((V, A), int),
        funding_index=np.zeros((V, A)),
        step=0,
        premiums=[[[] for _ in range(A)] for _ in range(V)],
        next_settlement=[[None] * A for _ in range(V)],
        redemption=np.ones(A),
        credit_loss=np.zeros(V),
        net_worth=np.zeros(V),
        paid_share=np.ones(V),
        perps=[],
        loans=[],
    )
    count = len(book["pool"])
    for i in range(count):
        state.perps.append(
            SimpleNamespace(
                pool=int(book["pool"][i]),
                W=float(book["equity_at_reference"][i]),
                q=[float(x) for x in book["quantity"][i]],
                k=[float(x) for x in book["collateral"][i]] if "collateral" in book else [0.0] * A,
                entry=[float(x) for x in (book["entry"][i] if "entry" in book else system.reference_price)],
                portfolio=bool(book["portfolio"][i]) if "portfolio" in book else False,
                allowed=float(book["allowed"][i]) if "allowed" in book else 1.0,
                appetite=1.0,
                call_age=0,
                age=0,
                touched=False,
            )
        )
    loans = book.get("loans") or {"pool": []}
    for i in range(len(loans["pool"])):
        state.loans.append(
            SimpleNamespace(
                pool=int(loans["pool"][i]),
                supply=[float(x) for x in loans["supply"][i]],
                debt=[float(x) for x in loans["debt"][i]],
                cash=float(loans["cash"][i]),
                age=0,
                touched=False,
            )
        )
    state.links = [(owner, getattr(state, kind)[number]) for owner, kind, number in book.get("links", ())]
    for v in range(V):
        for a in range(A):
            state.maker_quantity[v, a] = -math.fsum(account.q[a] for account in state.perps if account.pool == v)
    behaviour.start(system, state)
    leverage.start(system, state)
    state.maker_opening = state.maker_quantity.copy()
    return state


def read_path(system, path: dict, t: int):
    V, A = system.V, system.A

    def optional(name, default):
        return np.array(path[name][t]) if path.get(name) is not None else default

    return SimpleNamespace(
        log_price=np.array(path["log_price"][t], float),
        depth_factor=np.array(path["depth_factor"][t], float),
        mark_offset=optional("mark_offset", np.zeros((V, A))),
        outage=optional("outage", np.zeros(V, bool)),
        stuck=optional("stuck", np.zeros((V, A), bool)),
        premium=optional("premium", np.zeros((V, A))),
    )


def empty_tally(system):
    V, A = system.V, system.A
    tally = {name: np.zeros((V, A)) for name in BY_POOL_AND_ASSET}
    tally.update({name: np.zeros(V) for name in BY_POOL})
    tally.update({name: np.zeros(V, int) for name in COUNTS})
    return SimpleNamespace(**tally)


# One step


def play_step(system, state, now, max_rounds: int) -> dict:
    cash_before, contracts_before, coins_before = ledgers(system, state)
    tally = empty_tally(system)
    state.mark_offset, state.outage, state.stuck, state.premium = now.mark_offset, now.outage, now.stuck, now.premium
    state.tokens_sold = np.zeros(system.A)
    prices.open_market(system, state, now.log_price, now.depth_factor)
    prices.arbitrage(system, state)
    prices.open_marks(system, state)
    longs, shorts = sides(system, state)
    index_before = state.funding_index.copy()
    funding_rate = prices.accrue_funding(system, state, longs, shorts)
    for v in range(system.V):
        for a in range(system.A):
            if not system.inverse[v, a]:
                paid = state.funding_index[v, a] - index_before[v, a]
                makers = state.maker_quantity[v, a]
                arb = state.arb_quantity[v, a]
                sign = math.copysign(1.0, paid)
                held = longs[v, a] if paid > 0.0 else shorts[v, a]
                held += sum(max(sign * q, 0.0) for q in state.trader_quantity[:, v, a])
                payers = held + max(sign * makers, 0.0) + max(sign * arb, 0.0)
                tally.funding_paid[v] += abs(paid) * payers
    borrow_rate = lending.accrue_interest(system, state)
    prices.refresh_marks(system, state)  # tokens have grown by the interest
    behaviour.run(system, state, tally)
    behaviour.observe(system, state)
    set_policy(system, state)
    settle.margin_calls(system, state, prices.mark_prices(system, state), tally)
    exchange(system, state, tally)
    count_age(system, state)

    capacity = np.where(now.outage, 0.0, np.array(system.capacity, float))
    rounds = 0
    for _ in range(max_rounds):
        somebody, more = play_round(system, state, capacity, tally)
        rounds += somebody
        if not more:
            break
    price, venue, mark = prices.common_prices(system, state), prices.venue_prices(system, state), prices.mark_prices(system, state)
    settle.clear(system, state, state.tokens_sold)  # what is found here is felt in the next step

    cash_after, contracts_after, coins_after = ledgers(system, state)
    longs, shorts = sides(system, state)
    supplied, borrowed = lending.totals(system, state)
    return {
        **vars(tally),
        "rounds": rounds,
        "price": price,
        "exogenous_price": system.reference_price * np.exp(state.f),
        "mark": mark,
        "venue_price": venue,
        "depth": system.impact["depth"] * state.thinning,
        "variance": state.s2.copy(),
        "open_interest": np.maximum(longs, shorts) * np.where(system.inverse, 1.0, price[None, :]),
        "funding_rate": funding_rate,
        "funding_index": state.funding_index.copy(),
        "cap": state.cap.copy(),
        "maintenance": state.maintenance.copy(),
        "gauge": state.gauge.copy(),
        "supplied": supplied * venue,
        "borrowed": borrowed * venue,
        "borrow_rate": borrow_rate,
        "insurance_fund": state.fund.copy(),
        "treasury": state.treasury.copy(),
        "bad_debt": state.bad_debt.copy(),
        "net_worth": state.net_worth.copy(),
        "credit_loss": state.credit_loss.copy(),
        "paid_share": state.paid_share.copy(),
        "redemption": state.redemption.copy(),
        "cash_residual": cash_after - cash_before - tally.margin_calls - tally.shared_in - tally.margin_posted,
        "quantity_residual": contracts_after - contracts_before,
        "coins_residual": coins_after - coins_before + tally.withdrawn,
    }


def requirement_multipliers(system, state):
    """The policy's multiplier times what open interest adds to the requirement."""
    result = state.maintenance.copy()
    scale = system.interest_scale
    if scale is None:
        return result
    longs, shorts = sides(system, state)
    price = prices.common_prices(system, state)
    for v in range(system.V):
        for a in range(system.A):
            base, lower, upper = scale["base"][v, a], scale["lower"][v, a], scale["upper"][v, a]
            if math.isinf(upper):
                continue
            interest = max(longs[v, a], shorts[v, a]) * (1.0 if system.inverse[v, a] else price[a])
            part = min(max((interest - lower) / (upper - lower), 0.0), 1.0)
            result[v, a] *= (base + (1.0 - base) * part) / base
    return result


def thresholds(system, state):
    """Liquidation thresholds in force under the policy."""
    if system.lending is None:
        return None
    original = system.lending["rules"]["liquidation_threshold"]
    return np.maximum(0.0, 1.0 - state.maintenance * (1.0 - original))


def set_policy(system, state) -> None:
    """The gauge is measured at what was in force until now; then caps, multipliers and hinges are set."""
    state.multiplier, state.threshold = requirement_multipliers(system, state), thresholds(system, state)
    leverage.set_hinges(system, state)
    leverage.measure_gauge(system, state, lambda mark, venue: first_round(system, state, mark, venue))
    leverage.set_caps(system, state)
    state.multiplier, state.threshold = requirement_multipliers(system, state), thresholds(system, state)


def first_round(system, state, mark, venue):
    """(V, A) USD that every pool's rules would sell, less buy, at these prices, were there no limit to what can be done."""
    asked, planned, _, _ = find_demands(system, state, mark, venue)
    sold = {n: coins_to_sell(system, state, state.perps[n], venue) for n in asked}
    return -round_flow(system, state, asked, sold, {}, planned, [1.0] * system.V) * venue


def exchange(system, state, tally) -> None:
    """Orders of accounts above their caps or near their limits, and of traders: one flow, one fill."""
    mark, venue, common = prices.mark_prices(system, state), prices.venue_prices(system, state), prices.common_prices(system, state)
    shares = leverage.plan_orders(system, state, mark, tally)
    coins, default = behaviour.orders(system, state, venue)
    bought = leverage.orders_flow(system, state, shares, venue) + coins.sum(axis=0)
    count_tokens(system, state, bought, venue)
    prices.trade(system, state, bought)
    hedge = -coins[behaviour.FUNDING].sum(axis=0)
    if system.open_price:
        prices.push_common(system, state, hedge * common, hedge)
    fill = prices.fill_prices(system, venue, prices.venue_prices(system, state))
    common_fill = prices.fill_prices(system, common[None, :], prices.common_prices(system, state)[None, :])[0]
    owed = settle.no_deficits(system)
    leverage.fill_orders(system, state, shares, venue, fill)
    behaviour.fill_orders(system, state, coins, default, fill, common_fill, owed)
    tally.trader_usd += coins.sum(axis=0) * fill
    settle.waterfall(system, state, owed, mark, tally)
    prices.refresh_marks(system, state)


def under_margin(system, state, account, mark) -> bool:
    if hasattr(account, "W"):
        return not margin_equity(system, state, account, mark) >= maintenance(system, state, account, mark)
    weighted, debt = lending.health(system, state, account, mark)
    return not weighted >= debt


def count_age(system, state) -> None:
    mark = prices.mark_prices(system, state)
    for account in state.perps + state.loans:
        account.age = account.age + 1 if under_margin(system, state, account, mark) else 0


# One round


def play_round(system, state, capacity, tally) -> tuple[bool, bool]:
    """One round of liquidations; tells whether anybody was under margin, and whether another round can do something."""
    mark, venue = prices.mark_prices(system, state), prices.venue_prices(system, state)
    asked, planned, triggered, waiting = find_demands(system, state, mark, venue)
    for v in range(system.V):
        tally.triggered[v] += triggered[v]
        tally.waiting[v] += waiting[v]
    if not asked and not planned:
        return sum(triggered) > 0, False
    granted, loan_share = ration(system, state, asked, planned, capacity, mark)
    sold = {n: coins_to_sell(system, state, state.perps[n], venue) for n in granted}
    taken_over = deleverage(system, state, granted, sold, planned, loan_share, mark, venue, tally)
    assumed = taken_over.assumed

    bought = round_flow(system, state, granted, sold, assumed, planned, loan_share)
    count_tokens(system, state, bought, venue)
    prices.trade(system, state, bought)
    after = prices.venue_prices(system, state)
    fill = prices.fill_prices(system, venue, after)
    count_closed(system, state, granted, sold, planned, loan_share, venue, fill, tally)

    owed = settle.no_deficits(system)
    for n, psi in granted.items():
        close_perp(system, state, n, psi, asked[n], sold[n], assumed.get(n), fill, after, mark, tally, owed)
    for n, todo in planned.items():
        lending.execute(system, state, state.loans[n], todo, loan_share[state.loans[n].pool], fill, mark, tally, owed)
    saved = np.array(taken_over.saved)
    tally.adl_usd += saved
    tally.deficit += saved
    settle.waterfall(system, state, owed, mark, tally)
    prices.refresh_marks(system, state)
    pools = [state.perps[n].pool for n in asked] + [state.loans[n].pool for n in planned]
    return True, any(capacity[v] > 0.0 for v in pools)


def find_demands(system, state, mark, venue):
    """Perp account number -> share asked for; loan number -> plan; both leave out who waits, and how many were under margin and wait."""
    triggered, waiting = [0] * system.V, [0] * system.V
    asked, planned = {}, {}
    for n, account in enumerate(state.perps):
        if under_margin(system, state, account, mark):
            triggered[account.pool] += 1
            if nobody_bids(system, account, mark, venue):
                waiting[account.pool] += 1
            else:
                asked[n] = close_fraction(system, state, account, mark)
    for n, loan in enumerate(state.loans):
        if under_margin(system, state, loan, mark):
            triggered[loan.pool] += 1
            todo = lending.plan(system, state, loan, mark, venue)
            if todo.acts:
                planned[n] = todo
            else:
                waiting[loan.pool] += 1
    return asked, planned, triggered, waiting


def ration(system, state, asked: dict, planned: dict, capacity, mark):
    """Share granted by perp account number, and the share every loan of a pool gets; takes what is used off the capacity left."""
    wanted = np.zeros(system.V)
    gross = {n: sum(notionals(system, state.perps[n], mark)) for n in asked}
    for n, phi in asked.items():
        wanted[state.perps[n].pool] += phi * gross[n]
    for n, todo in planned.items():
        wanted[state.loans[n].pool] += todo.demand
    share = [min(1.0, capacity[v] / wanted[v]) if wanted[v] > 0.0 else 1.0 for v in range(system.V)]
    granted = {}
    for v in range(system.V):
        mine = [n for n in asked if state.perps[n].pool == v]
        order = system.queue[v] if system.queue is not None else "pro_rata"
        if order == "pro_rata":
            granted.update({n: share[v] * asked[n] for n in mine})
        else:
            granted.update(serve(system, state, mine, order, asked, gross, capacity[v], mark))
        capacity[v] = max(0.0, capacity[v] - wanted[v])
    return {n: granted[n] for n in asked}, share


def serve(system, state, mine: list, order: str, asked: dict, gross: dict, left: float, mark) -> dict:
    """One by one until nothing is left."""

    def key(n):
        account = state.perps[n]
        if order == "first_in":
            return -account.age
        required = maintenance(system, state, account, mark)
        own = margin_equity(system, state, account, mark)
        return own / required if required > 0.0 else -math.inf

    granted = {}
    for n in sorted(mine, key=key):
        demand = asked[n] * gross[n]
        part = 1.0 if demand <= left else left / demand
        granted[n] = part * asked[n]
        left = max(0.0, left - demand)
    return granted


def round_flow(system, state, granted, sold, assumed, planned, loan_share):
    """(V, A) coins bought in the market, negative when sold. The face of an inverse contract is among the coins sold."""
    bought = np.zeros((system.V, system.A))
    for n, psi in granted.items():
        account = state.perps[n]
        for a in range(system.A):
            if not system.inverse[account.pool, a]:
                part = assumed[n][a][0] if n in assumed else 0.0
                bought[account.pool, a] -= psi * (1.0 - part) * account.q[a]
            bought[account.pool, a] -= psi * sold[n][a]
    for n, todo in planned.items():
        v = state.loans[n].pool
        for a in range(system.A):
            bought[v, a] -= loan_share[v] * ((1.0 - todo.fee[a]) * todo.seized[a] - todo.repaid[a])
    return bought


def count_tokens(system, state, bought, venue) -> None:
    for a in range(system.A):
        if system.receipt_pool[a] >= 0:
            state.tokens_sold[a] += sum(-bought[v, a] * venue[v, a] for v in range(system.V))


def deleverage(system, state, granted, sold, planned, loan_share, mark, venue, tally):
    """A tentative fill with everything in the market shows who is bankrupt; their winners are closed."""
    nobody = SimpleNamespace(assumed={}, saved=[0.0] * system.V)
    if not any(adl.has_adl(system, v) for v in range(system.V)):
        return nobody
    trial = copy.deepcopy(state)
    prices.trade(system, trial, round_flow(system, state, granted, sold, {}, planned, loan_share))
    tentative = prices.fill_prices(system, venue, prices.venue_prices(system, trial))
    return adl.deleverage(system, state, granted, sold, mark, venue, tentative, tally)


def close_perp(system, state, n: int, psi: float, phi: float, sold, assumed, fill, after, mark, tally, owed) -> None:
    """Close a share of one account, settle what it cannot pay, and charge it."""
    account = state.perps[n]
    v = account.pool
    gross = sum(notionals(system, account, fill))
    worth = account.W
    change = 0.0
    for a in range(system.A):
        part, price = assumed[a] if assumed else (0.0, 0.0)
        if not system.inverse[v, a]:
            at_market = prices.gain(system, state, v, a, fill[v, a])
            at_bankruptcy = prices.gain(system, state, v, a, price) if part > 0.0 else 0.0
            earned = account.q[a] * ((1.0 - part) * at_market + part * at_bankruptcy)
            worth += earned
            change += psi * earned
            state.maker_cash[v, a] -= psi * (1.0 - part) * account.q[a] * at_market
        worth += account.k[a] * (fill[v, a] - system.reference_price[a])
        change += psi * sold[a] * (fill[v, a] - system.reference_price[a])
        state.maker_cash[v, a] -= psi * sold[a] * (fill[v, a] - system.reference_price[a])
        state.maker_coins[v, a] += psi * sold[a]
        state.maker_quantity[v, a] += psi * (1.0 - part) * account.q[a]
    if psi * (gross + sum(abs(x) for x in sold)) > 0.0 and not account.touched:
        account.touched = True
        tally.newly_liquidated[v] += 1
    account.W += change
    for a in range(system.A):
        account.q[a] = (1.0 - psi) * account.q[a]
        account.k[a] = 0.0 if psi * sold[a] == account.k[a] else account.k[a] - psi * sold[a]
    if worth < 0.0:
        account.W += -psi * worth
        owed.usd[v] += -psi * worth
    if psi == 1.0 and not any(account.k):
        account.W = max(worth, 0.0)  # closed in full: the same, but for rounding, which must not leave less than nothing

    traded = psi * gross
    taker = system.taker_fee[v] * traded
    to_liquidator = (system.liquidator_fee[v] + auction_discount(system, account)) * traded
    to_fund = system.liquidation_fee[v] * traded
    if system.takeover[v] and phi == 1.0:
        to_fund = max(0.0, psi * max(worth, 0.0) - taker - to_liquidator)
    due = taker + to_liquidator + to_fund
    if due > 0.0:
        paid = min(max(equity(system, state, account, after), 0.0), due)
        account.W -= paid
        state.treasury[v] += paid * taker / due
        state.liquidators[v] += paid * to_liquidator / due
        state.fund[v] += paid * to_fund / due
        tally.fees[v] += paid


def count_closed(system, state, granted, sold, planned, loan_share, venue, fill, tally) -> None:
    """Coins that a round closes, by pool: contracts (faces at the venue price), posted coins (net), collateral seized less fee, debt repaid."""
    out, back, posted = (np.zeros((system.V, system.A)) for _ in range(3))
    for n, psi in granted.items():
        account = state.perps[n]
        v = account.pool
        for a in range(system.A):
            coins = account.q[a] / (venue[v, a] if system.inverse[v, a] else 1.0)
            out[v, a] += psi * max(coins, 0.0)
            back[v, a] += psi * max(-coins, 0.0)
            posted[v, a] += psi * (sold[n][a] - face(system, account, a) / venue[v, a])
    for n, todo in planned.items():
        v = state.loans[n].pool
        out[v] += loan_share[v] * (1.0 - np.array(todo.fee)) * np.array(todo.seized)
        back[v] += loan_share[v] * np.array(todo.repaid)
    out += np.maximum(posted, 0.0)
    back += np.maximum(-posted, 0.0)
    tally.closed_long += out
    tally.closed_short += back
    tally.closed_long_usd += out * fill
    tally.closed_short_usd += back * fill


# What must not change


def ledgers(system, state):
    """All the cash of each pool, and all contracts and coins of each pool and asset, added up afresh from every ledger."""
    V, A = system.V, system.A
    cash, contracts, coins = np.zeros(V), np.zeros((V, A)), np.zeros((V, A))
    for v in range(V):
        own = [account for account in state.perps if account.pool == v]
        parts = [account.W for account in own] + [loan.cash for loan in state.loans if loan.pool == v]
        parts += [state.fund[v], state.treasury[v], state.liquidators[v], *state.maker_cash[v], *state.arb_cash[v]]
        parts += state.trader_cash[:, v].ravel().tolist()
        if system.lends[v]:
            # lenders' coins are not in anybody's cash: makers have paid the whole price for theirs
            parts += [-state.written_off_cash[v], *(-state.maker_coins[v] * system.reference_price)]
        else:
            parts.append(-state.bad_debt[v])
        cash[v] = math.fsum(parts)
        for a in range(A):
            held = [account.q[a] for account in own] + [state.maker_quantity[v, a], state.arb_quantity[v, a]]
            contracts[v, a] = math.fsum(held + state.trader_quantity[:, v, a].tolist())
            coins[v, a] = math.fsum([account.k[a] for account in own] + [state.maker_coins[v, a]])
    if system.lending is not None:
        supplied, borrowed = lending.totals(system, state)
        for v in range(V):
            if system.lends[v]:
                coins[v] += supplied[v] - borrowed[v] + state.reserves[v] - state.written_off[v]
    return cash, contracts, coins
