"""Dynamic leverage of the twin: caps and what sets them, the call level, and the orders of accounts (section 13 of `docs/model.md`)."""

import math
from types import SimpleNamespace

import numpy as np

from tests.oracle import lending, prices
from tests.oracle.margin import maintenance, margin_equity, notionals

#: The move that the gauge is measured over, log.
FURTHER = 0.01


def sides(system, state):
    """(V, A) held long and short by customers."""
    longs, shorts = np.zeros((system.V, system.A)), np.zeros((system.V, system.A))
    for account in state.perps:
        for a in range(system.A):
            longs[account.pool, a] += max(account.q[a], 0.0)
            shorts[account.pool, a] += max(-account.q[a], 0.0)
    return longs, shorts


def open_interest(system, state):
    """(V, A) USD at the common price."""
    longs, shorts = sides(system, state)
    return np.maximum(longs, shorts) * np.where(system.inverse, 1.0, prices.common_prices(system, state)[None, :])


# What sets the caps


def start(system, state) -> None:
    """At rest: caps and multipliers at the targets that the rules find before anything has happened."""
    shape = (system.V, system.A)
    state.cap, state.gauge = np.full(shape, np.inf), np.zeros(shape)
    state.maintenance = np.array(system.maintenance_multiplier, float)
    state.last_funding_rate = np.zeros(shape)
    state.hinges = [[[] for _ in range(system.A)] for _ in range(system.V)]
    state.steps_played = 0
    if system.policy is None or system.policy.get("caps") is None:
        return
    state.estimates = [np.array(system.reference_variance, float) for _ in system.policy["rules"]]
    state.first_targets = targets(system, state, read(system, state, np.zeros(system.A)))
    state.announced = []
    state.cap, state.maintenance = (x.copy() for x in state.first_targets)


def read(system, state, log_return):
    supplied, borrowed = lending.totals(system, state)
    price = prices.common_prices(system, state)
    return SimpleNamespace(
        log_return=log_return,
        depth=system.impact["depth"] * state.thinning,
        open_interest=open_interest(system, state),
        fund=state.fund,
        supplied=supplied * price,
        borrowed=borrowed * price,
        funding_rate=state.last_funding_rate,
        gauge=state.gauge,
    )


def targets(system, state, reading):
    """(cap, multiplier) that the rules want, (V, A) each; estimators take the reading in."""
    policy = system.policy
    caps = policy["caps"]
    cap = np.array(caps["base"], float)
    required = np.array(system.maintenance_multiplier, float)
    for number, rule in enumerate(policy["rules"]):
        if rule["reads"] == "volatility":
            observe(system, state, number, rule, reading)
        for v in range(system.V):
            for a in range(system.A):
                if rule["reads"] == "volatility":
                    factor = volatility_factor(policy, state.estimates[number][a], rule, v, a)
                else:
                    factor = reaction(level(system, rule["reads"], reading, v, a), rule["at"], rule["slope"], rule["floor"], rule["ceiling"])
                cap[v, a] *= factor ** rule["on_cap"][v]
                required[v, a] *= factor ** -rule["on_maintenance"][v]
    return (
        np.minimum(np.maximum(cap, caps["floor"]), caps["ceiling"]),
        np.minimum(np.maximum(required, caps["least_maintenance"]), caps["most_maintenance"]),
    )


def observe(system, state, number: int, rule, reading) -> None:
    for a in range(system.A):
        keep = rule["decay"]
        state.estimates[number][a] = keep * state.estimates[number][a] + (1.0 - keep) * reading.log_return[a] ** 2


def volatility_factor(policy, variance: float, rule, v: int, a: int) -> float:
    sigma = math.sqrt(variance * policy["steps_per_year"])
    mixed = math.sqrt((1.0 - rule["stress_weight"]) * sigma**2 + rule["stress_weight"] * rule["stress_volatility"] ** 2)
    least = max(mixed, rule["least"])
    sigma = max(least, min((1.0 + rule["buffer"]) * least, rule["release"]))
    return min(max((rule["target"][v, a] / sigma) ** rule["gamma"], rule["floor"]), rule["ceiling"])


def level(system, reads: str, reading, v: int, a: int) -> float:
    if reads == "pool_utilisation":
        if system.lends[v]:
            return ratio(reading.borrowed[v, a], reading.supplied[v, a])
        return ratio(sum(reading.open_interest[v]), reading.fund[v])
    if reads == "concentration":
        return ratio(reading.open_interest[v, a], reading.depth[a])
    if reads == "funding":
        return abs(reading.funding_rate[v, a])
    return reading.gauge[v, a]


def ratio(part: float, whole: float) -> float:
    if part <= 0.0:
        return 0.0
    return part / whole if whole > 0.0 else math.inf


def reaction(y: float, at: float, slope: float, floor: float, ceiling: float) -> float:
    if slope == 0.0:
        return 1.0
    if y == 0.0:
        return ceiling
    return min(max((y / at) ** -slope, floor), ceiling)


def set_caps(system, state) -> None:
    """The rules read and announce; what is in force moves towards what was announced a notice ago."""
    if system.policy is None or system.policy.get("caps") is None:
        return
    caps = system.policy["caps"]
    state.announced.append(targets(system, state, read(system, state, state.log_return)))
    for v in range(system.V):
        when = len(state.announced) - 1 - int(caps["notice"][v])
        cap, required = state.announced[when] if when >= 0 else state.first_targets
        for a in range(system.A):
            down, up = caps["tighten"][v, a], caps["loosen"][v, a]
            state.cap[v, a] = towards(state.cap[v, a], cap[v, a], down, up)
            state.maintenance[v, a] = towards(state.maintenance[v, a], required[v, a], up, down)


def towards(now: float, target: float, down: float, up: float) -> float:
    return now * math.exp(min(max(math.log(target / now), -down), up))


def set_hinges(system, state) -> None:
    """Where the requirement bends by size, as (USD, rise of the rate)."""
    size = None if system.policy is None else system.policy.get("size")
    if size is None:
        return
    interest = open_interest(system, state)
    for v in range(system.V):
        for a in range(system.A):
            depth = system.impact["depth"][a] * state.thinning[a]
            scale = {"depth": depth, "open_interest": interest[v, a], "usd": 1.0}[size["relative_to"]]
            state.hinges[v][a] = [(scale * at, rise) for at, rise in zip(size["at"], size["rate_increase"], strict=True)]


def measure_gauge(system, state, sold_at) -> None:
    """`sold_at(mark, venue)`: USD that the first round would sell less buy, (V, A), at these prices."""
    every = None if system.policy is None else system.policy.get("gauge")
    due = every is not None and state.steps_played % every == 0
    state.steps_played += 1
    if not due:
        return
    mark, venue = prices.mark_prices(system, state), prices.venue_prices(system, state)
    for a in range(system.A):
        usd = {}
        for move in (-FURTHER, 0.0, FURTHER):
            factor = np.array([[math.exp(move) if system.market[b] == a else 1.0 for b in range(system.A)]])
            usd[move] = sold_at(mark * factor, venue * factor)[:, a]
        depth = system.impact["depth"][a] * state.thinning[a]
        for v in range(system.V):
            state.gauge[v, a] = max(usd[-FURTHER][v] - usd[0.0][v], usd[0.0][v] - usd[FURTHER][v], 0.0) / depth


# What accounts do about it


def call_level(system, state, account, mark) -> float:
    total = maintenance(system, state, account, mark)
    base = system.policy["caps"]["base"]
    v = account.pool
    for a, n in enumerate(notionals(system, account, mark)):
        total += n * max(1.0 / (state.cap[v, a] * account.allowed) - 1.0 / base[v, a], 0.0)
    return total


def initial_margin(system, state, account, mark) -> float:
    v = account.pool
    by_cap = sum(n / (state.cap[v, a] * account.allowed) for a, n in enumerate(notionals(system, account, mark)))
    return max(by_cap, system.policy["transition"]["over_maintenance"][v] * maintenance(system, state, account, mark))


def unit_clip(x: float) -> float:
    return min(max(x, 0.0), 1.0)


def plan_orders(system, state, mark, tally) -> dict:
    """Account number -> share of every position that it closes (negative: takes back); outside cash is taken in, and calls are counted, at once."""
    shares = {}
    rules = None if system.policy is None else system.policy.get("transition")
    if rules is None:
        return shares
    for n, account in enumerate(state.perps):
        v = account.pool
        if state.outage[v]:
            tally.called[v] += account.call_age > 0
            continue
        own, required = margin_equity(system, state, account, mark), maintenance(system, state, account, mark)
        due = call_level(system, state, account, mark)
        if not own >= required or due <= 0.0:
            account.call_age = 0
            continue
        forced = posted = 0.0
        over = due > own
        if over and rules["form"][v] == "pace":
            forced = rules["pace"][v] * unit_clip(1.0 - rules["aim"][v] * own / due)
        if over and rules["form"][v] == "call":
            account.call_age += 1
            if account.call_age > rules["window"][v]:
                account.call_age = 0
                posted = rules["met"][v] * (due - own)
                if rules["met"][v] < 1.0:
                    forced = unit_clip(1.0 - rules["aim"][v] * (own + posted) / due)
        else:
            account.call_age = 0
        warn = rules["warn"][v]
        chosen = rules["response"][v] * unit_clip(1.0 - warn * own / due) if due > warn * own else 0.0
        share = max(forced, chosen)
        if share == 0.0 and due < rules["safe"][v] * own:
            room = min(rules["safe"][v] * own / due, own / initial_margin(system, state, account, mark)) - 1.0
            share = -min(max(rules["releverage"][v] * (1.0 / account.appetite - 1.0), 0.0), max(room, 0.0))
        for a, usd in enumerate(notionals(system, account, mark)):
            tally.reduced_usd[v, a] += forced * usd
            tally.voluntary_usd[v, a] += max(share - forced, 0.0) * usd
            tally.releveraged_usd[v, a] += max(-share, 0.0) * usd
        account.W += posted
        tally.margin_posted[v] += posted
        tally.called[v] += account.call_age > 0
        if share != 0.0:
            shares[n] = share
    return shares


def orders_flow(system, state, shares: dict, venue):
    """(V, A) coins bought, negative when sold; contracts of fixed face through their coins."""
    bought = np.zeros((system.V, system.A))
    for n, share in shares.items():
        account = state.perps[n]
        v = account.pool
        for a in range(system.A):
            bought[v, a] -= share * account.q[a] / (venue[v, a] if system.inverse[v, a] else 1.0)
    return bought


def fill_orders(system, state, shares: dict, venue, fill) -> None:
    for n, share in shares.items():
        account = state.perps[n]
        v = account.pool
        fee = system.taker_fee[v] * abs(share) * sum(notionals(system, account, fill))
        for a in range(system.A):
            closed = share * account.q[a]
            if system.inverse[v, a]:
                sold = closed / venue[v, a]
                earned = sold * (fill[v, a] - system.reference_price[a])
                account.k[a] -= sold
                state.maker_coins[v, a] += sold
            else:
                earned = closed * prices.gain(system, state, v, a, fill[v, a])
            account.W += earned
            state.maker_cash[v, a] -= earned
            state.maker_quantity[v, a] += closed
            account.q[a] = (1.0 - share) * account.q[a]
            if share < 0.0:
                account.entry[a] = (account.entry[a] - share * fill[v, a]) / (1.0 - share)
        account.W -= fee
        state.treasury[v] += fee
        account.appetite *= 1.0 - share
