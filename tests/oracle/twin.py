"""A slow, literal twin of the simulation described in `docs/model.md`.

It exists to disagree with the engine if either of them is wrong, so it is written from that page alone and shares no code with the engine. Everything
is float64, accounts are visited one at a time, and nothing is clever. Two things are done in the twin's own way:

- tier margin is `mmr_k n - cum_k`, with the tier `k` looked up and `cum` built tier by tier;
- the restore rule is solved by listing every point where the requirement can bend, finding the first stretch on which it becomes met, and
  interpolating on that stretch. The requirement is linear between bends, so the answer is exact up to rounding.

Capacity, volatility decay and transient decay are given per step, so the length of a step does not appear here.

Shapes: N accounts, A assets, V pools, T steps. `run` documents the inputs; every result is stacked over steps, apart from the closing state of
accounts and makers.
"""

import math

import numpy as np

PER_STEP = (
    "price",
    "exogenous_price",
    "depth",
    "variance",
    "closed_long",
    "closed_short",
    "closed_long_usd",
    "closed_short_usd",
    "triggered",
    "newly_liquidated",
    "deficit",
    "fund_draw",
    "insurance_fund",
    "treasury",
    "bad_debt",
    "fees",
    "open_interest",
    "rounds",
    "cash_residual",
    "quantity_residual",
)


def run(system: dict, accounts: dict, path: dict, max_rounds: int) -> dict:
    """Play the path and return what happened.

    system:   n_pools, n_assets, tiers[v][a] = (floors, rates), maintenance_multiplier (V,A);
              per pool: restore, target_health, liquidation_fee, taker_fee, capacity, insurance_fund;
              per asset: reference_price, depth, impact_exponent, permanent_share, transient_decay, volatility_decay, reference_variance,
              depth_volatility_exponent, depth_floor.
    accounts: pool (N,), equity_at_reference (N,), quantity (N,A).
    path:     log_return (T,A), depth_factor (T,A).
    """
    rules = read_system(system)
    state = opening_state(rules, accounts)
    returns = np.asarray(path["log_return"], dtype=float)
    factors = np.asarray(path["depth_factor"], dtype=float)
    records = [play_step(rules, state, returns[t], factors[t], max_rounds) for t in range(len(returns))]
    result = {name: np.array([record[name] for record in records]) for name in PER_STEP}
    result["equity_at_reference"] = state["W"]
    result["quantity"] = state["q"]
    result["maker_quantity"] = state["maker_q"]
    result["maker_cash"] = state["maker_w"]
    return result


# Setting up


def read_system(system: dict) -> dict:
    """The system as float arrays, with the deductions of every tier schedule worked out once."""
    names = (
        "reference_price",
        "depth",
        "impact_exponent",
        "permanent_share",
        "transient_decay",
        "volatility_decay",
        "reference_variance",
        "depth_volatility_exponent",
        "depth_floor",
        "maintenance_multiplier",
        "target_health",
        "liquidation_fee",
        "taker_fee",
        "capacity",
        "insurance_fund",
    )
    rules = {name: np.array(system[name], dtype=float) for name in names}
    rules["V"] = int(system["n_pools"])
    rules["A"] = int(system["n_assets"])
    rules["restore"] = [bool(flag) for flag in system["restore"]]
    rules["fee"] = rules["liquidation_fee"] + rules["taker_fee"]
    rules["tiers"] = [[schedule(*system["tiers"][v][a]) for a in range(rules["A"])] for v in range(rules["V"])]
    return rules


def schedule(floors, rates) -> list:
    """Tiers as (floor, rate, deduction), each deduction following from the one before."""
    tiers = []
    previous_rate = 0.0
    deduction = 0.0
    for floor, rate in zip(floors, rates, strict=True):
        deduction = deduction + float(floor) * (float(rate) - previous_rate)
        previous_rate = float(rate)
        tiers.append((float(floor), float(rate), deduction))
    return tiers


def opening_state(rules: dict, accounts: dict) -> dict:
    """Everything that changes as the path is played; the caller's arrays are copied, never written to."""
    V, A = rules["V"], rules["A"]
    state = {
        "pool": [int(v) for v in accounts["pool"]],
        "W": np.array(accounts["equity_at_reference"], dtype=float).reshape(-1),
        "q": np.array(accounts["quantity"], dtype=float).reshape(-1, A),
        "maker_q": np.zeros((V, A)),
        "maker_w": np.zeros(V),
        "fund": rules["insurance_fund"].copy(),
        "treasury": np.zeros(V),
        "bad_debt": np.zeros(V),
        "f": np.zeros(A),
        "g": np.zeros(A),
        "h": np.zeros(A),
        "s2": rules["reference_variance"].copy(),
        "y": np.zeros(A),
    }
    state["ever_closed"] = [False] * len(state["pool"])
    for v in range(V):
        for a in range(A):
            state["maker_q"][v, a] = -math.fsum(state["q"][i, a] for i in members(state, v))
    return state


def members(state: dict, v: int) -> list:
    return [i for i, pool in enumerate(state["pool"]) if pool == v]


# Margin


def tier_margin(tiers: list, notional: float) -> float:
    """Maintenance margin of one notional: the last tier whose floor it reaches decides."""
    _, rate, deduction = tiers[0]
    for floor, tier_rate, tier_deduction in tiers:
        if notional >= floor:
            rate, deduction = tier_rate, tier_deduction
    return rate * notional - deduction


def maintenance(rules: dict, v: int, notionals) -> float:
    total = 0.0
    for a in range(rules["A"]):
        total += rules["maintenance_multiplier"][v, a] * tier_margin(rules["tiers"][v][a], float(notionals[a]))
    return total


def equity(rules: dict, state: dict, i: int, price) -> float:
    total = float(state["W"][i])
    for a in range(rules["A"]):
        total += state["q"][i, a] * (price[a] - rules["reference_price"][a])
    return total


def close_fraction(rules: dict, v: int, account_equity: float, notionals) -> float:
    """How much of itself an under-margined account asks to close."""
    if not rules["restore"][v]:
        return 1.0
    fee = rules["fee"][v]
    gross = sum(notionals)
    if account_equity < fee * gross:
        return 1.0

    def surplus(phi):
        rest = [(1.0 - phi) * n for n in notionals]
        return account_equity - fee * phi * gross - rules["target_health"][v] * maintenance(rules, v, rest)

    return first_nonnegative(surplus, bends(rules["tiers"][v], notionals))


def bends(asset_tiers: list, notionals) -> list:
    """Every fraction at which some position, shrinking, comes down to the floor of a tier; both ends included."""
    points = {0.0, 1.0}
    for tiers, notional in zip(asset_tiers, notionals, strict=True):
        for floor, _, _ in tiers:
            if 0.0 < floor < notional:
                points.add(1.0 - floor / notional)
    return sorted(points)


def first_nonnegative(function, points: list) -> float:
    """The smallest argument at which a function, linear between the points, is not negative; the last point if there is none."""
    left = points[0]
    low = function(left)
    if low >= 0.0:
        return left
    for right in points[1:]:
        high = function(right)
        if high >= 0.0:
            crossing = left + (right - left) * (-low / (high - low))
            return min(max(crossing, left), right)
        left, low = right, high
    return points[-1]


# The market


def log_price(state: dict):
    return state["f"] + state["g"] + state["h"]


def mark_price(rules: dict, state: dict):
    return rules["reference_price"] * np.exp(log_price(state))


def open_market(rules: dict, state: dict, log_return, depth_factor):
    """Shock, recovery, volatility; returns the depth of the step."""
    depth = np.zeros(rules["A"])
    for a in range(rules["A"]):
        state["f"][a] += log_return[a]
        state["h"][a] *= rules["transient_decay"][a]
        x = state["f"][a] + state["g"][a] + state["h"][a]
        move = x - state["y"][a]
        state["y"][a] = x
        lam = rules["volatility_decay"][a]
        state["s2"][a] = lam * state["s2"][a] + (1.0 - lam) * move**2
        depth[a] = rules["depth"][a] * depth_factor[a] * calm(rules, a, state["s2"][a])
    return depth


def calm(rules: dict, a: int, variance: float) -> float:
    """The share of its usual depth that a market keeps at this variance; a market that does not move keeps all of it."""
    kappa = rules["depth_volatility_exponent"][a]
    if variance <= 0.0:
        return 1.0
    ratio = math.sqrt(rules["reference_variance"][a]) / math.sqrt(variance)
    return min(max(ratio**kappa, rules["depth_floor"][a]), 1.0)


def impact(flow: float, depth: float, exponent: float) -> float:
    if flow == 0.0:
        return 0.0
    return math.copysign(0.01 * (abs(flow) / depth) ** exponent, flow)


def push_price(rules: dict, state: dict, depth, flow_so_far, flow) -> None:
    """Move the log price by what this flow adds to the flow already seen in the step."""
    for a in range(rules["A"]):
        before = impact(flow_so_far[a], depth[a], rules["impact_exponent"][a])
        flow_so_far[a] += flow[a]
        move = impact(flow_so_far[a], depth[a], rules["impact_exponent"][a]) - before
        state["g"][a] += rules["permanent_share"][a] * move
        state["h"][a] += (1.0 - rules["permanent_share"][a]) * move


# One round


def find_demands(rules: dict, state: dict, price) -> dict:
    """Account number -> (fraction asked for, gross notional), for the under-margined."""
    demands = {}
    for i, v in enumerate(state["pool"]):
        notionals = [abs(float(state["q"][i, a])) * float(price[a]) for a in range(rules["A"])]
        own = equity(rules, state, i, price)
        if not own >= maintenance(rules, v, notionals):
            demands[i] = (close_fraction(rules, v, own, notionals), sum(notionals))
    return demands


def ration(rules: dict, state: dict, demands: dict, capacity_left) -> dict:
    """Account number -> fraction granted; takes what is used off the capacity left."""
    wanted = np.zeros(rules["V"])
    for i, (phi, gross) in demands.items():
        wanted[state["pool"][i]] += phi * gross
    share = np.ones(rules["V"])
    for v in range(rules["V"]):
        if wanted[v] > 0.0:
            share[v] = min(1.0, capacity_left[v] / wanted[v])
            capacity_left[v] = max(0.0, capacity_left[v] - wanted[v])
    return {i: share[state["pool"][i]] * phi for i, (phi, _) in demands.items()}


def net_flow(rules: dict, state: dict, granted: dict, price):
    flow = np.zeros(rules["A"])
    for i, psi in granted.items():
        for a in range(rules["A"]):
            flow[a] -= psi * state["q"][i, a] * price[a]
    return flow


def fill(rules: dict, state: dict, i: int, psi: float, execution, tally: dict) -> float:
    """Close a fraction of one account against the makers of its pool; returns the USD traded."""
    v = state["pool"][i]
    traded = 0.0
    for a in range(rules["A"]):
        coins = psi * state["q"][i, a]
        gain = coins * (execution[a] - rules["reference_price"][a])
        state["W"][i] += gain
        state["q"][i, a] = (1.0 - psi) * state["q"][i, a]
        state["maker_q"][v, a] += coins
        state["maker_w"][v] -= gain
        side = "closed_long" if coins > 0.0 else "closed_short"
        tally[side][v, a] += abs(coins)
        tally[side + "_usd"][v, a] += abs(coins) * execution[a]
        traded += abs(coins) * execution[a]
        if coins != 0.0 and not state["ever_closed"][i]:
            state["ever_closed"][i] = True
            tally["newly_liquidated"][v] += 1
    return traded


def charge(rules: dict, state: dict, i: int, traded: float, new_price, tally: dict) -> None:
    """Take the fee that the account can still pay and hand it to the fund and the treasury."""
    v = state["pool"][i]
    rate = rules["fee"][v]
    if rate == 0.0:
        return
    paid = max(0.0, min(rate * traded, equity(rules, state, i, new_price)))
    state["W"][i] -= paid
    state["fund"][v] += paid * (rules["liquidation_fee"][v] / rate)
    state["treasury"][v] += paid * (rules["taker_fee"][v] / rate)
    tally["fees"][v] += paid


def shortfall(rules: dict, state: dict, i: int, psi: float, execution) -> float:
    """What the closed share of an account owes that would end below zero if it were closed altogether at the fill prices."""
    left = state["W"][i]
    for a in range(rules["A"]):
        left += state["q"][i, a] * (execution[a] - rules["reference_price"][a])
    return -psi * left if left < 0.0 else 0.0


def meet(rules: dict, state: dict, owed, tally: dict) -> None:
    """Pay the round's deficits: the fund first, then bad debt."""
    for v in range(rules["V"]):
        draw = max(0.0, min(owed[v], state["fund"][v]))
        state["fund"][v] -= draw
        state["bad_debt"][v] += owed[v] - draw
        tally["deficit"][v] += owed[v]
        tally["fund_draw"][v] += draw


def play_round(rules: dict, state: dict, depth, flow_so_far, capacity_left, tally: dict) -> tuple[int, bool]:
    """One round of liquidations; tells how many were under-margined, and whether a pool of theirs has capacity left."""
    price = mark_price(rules, state)
    demands = find_demands(rules, state, price)
    if not demands:
        return 0, False
    for i in demands:
        tally["triggered"][state["pool"][i]] += 1
    granted = ration(rules, state, demands, capacity_left)
    push_price(rules, state, depth, flow_so_far, net_flow(rules, state, granted, price))
    new_price = mark_price(rules, state)
    execution = (price + new_price) / 2.0
    owed = np.zeros(rules["V"])
    for i, psi in granted.items():
        short = shortfall(rules, state, i, psi, execution)
        traded = fill(rules, state, i, psi, execution, tally)
        state["W"][i] += short
        owed[state["pool"][i]] += short
        charge(rules, state, i, traded, new_price, tally)
    meet(rules, state, owed, tally)
    return len(demands), any(capacity_left[state["pool"][i]] > 0.0 for i in demands)


# One step


def empty_tally(rules: dict) -> dict:
    V, A = rules["V"], rules["A"]
    tally = {name: np.zeros((V, A)) for name in ("closed_long", "closed_short", "closed_long_usd", "closed_short_usd")}
    tally.update({name: np.zeros(V) for name in ("deficit", "fund_draw", "fees")})
    tally.update({name: np.zeros(V, dtype=int) for name in ("triggered", "newly_liquidated")})
    return tally


def play_step(rules: dict, state: dict, log_return, depth_factor, max_rounds: int) -> dict:
    cash_before, coins_before = ledgers(rules, state)
    tally = empty_tally(rules)
    depth = open_market(rules, state, log_return, depth_factor)
    flow_so_far = np.zeros(rules["A"])
    capacity_left = rules["capacity"].copy()
    rounds, more = 0, True
    for _ in range(max_rounds):
        if more:
            demands, more = play_round(rules, state, depth, flow_so_far, capacity_left, tally)
            rounds += demands > 0
    cash_after, coins_after = ledgers(rules, state)
    price = mark_price(rules, state)
    return {
        **tally,
        "rounds": rounds,
        "price": price,
        "exogenous_price": rules["reference_price"] * np.exp(state["f"]),
        "depth": depth,
        "variance": state["s2"].copy(),
        "insurance_fund": state["fund"].copy(),
        "treasury": state["treasury"].copy(),
        "bad_debt": state["bad_debt"].copy(),
        "open_interest": open_interest(rules, state, price),
        "cash_residual": cash_after - cash_before,
        "quantity_residual": coins_after - coins_before,
    }


def ledgers(rules: dict, state: dict):
    """All the cash of each pool and all the coins of each pool and asset, each added up afresh from every ledger; neither may change."""
    cash = np.zeros(rules["V"])
    coins = np.zeros((rules["V"], rules["A"]))
    for v in range(rules["V"]):
        own = members(state, v)
        others = [state["maker_w"][v], state["fund"][v], state["treasury"][v], -state["bad_debt"][v]]
        cash[v] = math.fsum([state["W"][i] for i in own] + others)
        for a in range(rules["A"]):
            coins[v, a] = math.fsum([state["q"][i, a] for i in own] + [state["maker_q"][v, a]])
    return cash, coins


def open_interest(rules: dict, state: dict, price):
    result = np.zeros((rules["V"], rules["A"]))
    for v in range(rules["V"]):
        for a in range(rules["A"]):
            held = [float(state["q"][i, a]) for i in members(state, v)]
            longs = math.fsum(max(coins, 0.0) for coins in held)
            shorts = math.fsum(max(-coins, 0.0) for coins in held)
            result[v, a] = max(longs, shorts) * price[a]
    return result
