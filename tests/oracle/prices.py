"""Prices, impact, arbitrage, marks and funding of the twin: sections 1, 4.2, 5, 6 and 7 of `docs/model.md`."""

import math

import numpy as np


def log_prices(system, state):
    """(A,) log of the common price over the reference; a receipt token follows its underlying."""
    own = state.f + state.g + state.h
    result = own.copy()
    for r in range(system.A):
        w = system.receipt_pool[r]
        if w < 0:
            continue
        u = system.market[r]
        cover = state.redemption[r] if system.open_receipts else 1.0
        growth = state.supply_index[w, u] if system.lends[w] else 1.0
        result[r] = own[u] + math.log(cover * growth)
    return result


def common_prices(system, state):
    return system.reference_price * np.exp(log_prices(system, state))


def venue_logs(system, state):
    return log_prices(system, state)[None, :] + state.basis


def venue_prices(system, state):
    return system.reference_price[None, :] * np.exp(venue_logs(system, state))


# Impact


def power(flow: float, depth: float, exponent: float) -> float:
    if flow == 0.0:
        return 0.0
    return math.copysign(0.01 * (abs(flow) / depth) ** exponent, flow)


def common_level(system, state, a: int, usd: float, coins: float) -> float:
    """How far the flow of a step has moved the log price of the common market."""
    form = system.impact["form"][a]
    thinning = state.thinning[a]
    quantity = system.impact["quantity"][a]
    if form == "power":
        return power(usd, system.impact["depth"][a] * thinning, system.impact["exponent"][a])
    if form == "exponential":
        return system.impact["scale"][a] * coins / (quantity * thinning)
    if form == "price_linear":
        return math.log(math.exp(state.y[a]) + system.impact["scale"][a] * coins / (quantity * thinning))
    reserve = quantity * thinning * math.exp(-state.y[a] / 2.0)
    return -2.0 * math.log(1.0 - coins / reserve)


def has_own_book(system, v: int, a: int) -> bool:
    return system.venues is not None and system.venues["local_depth_share"][v, a] > 0.0


def trade(system, state, bought) -> None:
    """Move prices by a round's flow: (V, A) coins bought, worth what the venues ask before the round."""
    if not system.open_price:
        return
    value, common = venue_prices(system, state), common_prices(system, state)
    common_usd, common_coins = np.zeros(system.A), np.zeros(system.A)
    for v in range(system.V):
        for a in range(system.A):
            u = system.market[a]
            usd = bought[v, a] * value[v, a]
            if u == a and has_own_book(system, v, u):
                depth = system.venues["local_depth_share"][v, u] * system.impact["depth"][u] * state.thinning[u]
                exponent = system.impact["exponent"][u]
                before = power(state.venue_flow[v, u], depth, exponent)
                state.venue_flow[v, u] += usd
                state.basis[v, u] += power(state.venue_flow[v, u], depth, exponent) - before
            else:
                common_usd[u] += usd
                common_coins[u] += bought[v, a] * (common[a] / common[u])
    push_common(system, state, common_usd, common_coins)


def push_common(system, state, usd, coins) -> None:
    for a in range(system.A):
        if usd[a] == 0.0 and coins[a] == 0.0:
            continue
        before = common_level(system, state, a, state.flow_usd[a], state.flow_coins[a])
        state.flow_usd[a] += usd[a]
        state.flow_coins[a] += coins[a]
        move = common_level(system, state, a, state.flow_usd[a], state.flow_coins[a]) - before
        state.g[a] += system.permanent_share[a] * move
        state.h[a] += (1.0 - system.permanent_share[a]) * move


def fill_prices(system, before, after):
    """(V, A) what a round trades at, between the venue prices before and after it."""
    fill = (before + after) / 2.0
    for a in range(system.A):
        if system.impact["form"][system.market[a]] == "constant_product":
            fill[:, a] = np.sqrt(before[:, a] * after[:, a])
    return fill


# The opening of a step


def open_market(system, state, log_price, depth_factor) -> None:
    """Shock, recovery, volatility and depth."""
    for a in range(system.A):
        state.f[a] = log_price[a]
        state.h[a] *= system.transient_decay[a]
    x = state.f + state.g + state.h
    state.log_return = x - state.y
    for a in range(system.A):
        move = x[a] - state.y[a]
        state.y[a] = x[a]
        lam = system.volatility_decay[a]
        state.s2[a] = lam * state.s2[a] + (1.0 - lam) * move**2
        state.thinning[a] = depth_factor[a] * calm(system, a, state.s2[a]) * willing(system, state, a)
    state.flow_usd, state.flow_coins = np.zeros(system.A), np.zeros(system.A)
    state.venue_flow = np.zeros((system.V, system.A))


def calm(system, a: int, variance: float) -> float:
    """The share of its usual depth that a market keeps at this variance; a market that does not move keeps all of it."""
    kappa = system.depth_volatility_exponent[a]
    if variance <= 0.0:
        return 1.0
    ratio = math.sqrt(system.reference_variance[a]) / math.sqrt(variance)
    return min(max(ratio**kappa, system.depth_floor[a]), 1.0)


def willing(system, state, a: int) -> float:
    """What makers leave of their depth, by their inventory and their losses."""
    if system.makers is None:
        return 1.0
    phi = system.makers["floor"][a]
    price = common_prices(system, state)[a]
    inventory = profit = 0.0
    for v in range(system.V):
        contracts = state.maker_quantity[v, a] - state.maker_opening[v, a]
        coins = state.maker_coins[v, a]
        profit += state.maker_cash[v, a] + coins * (price - system.reference_price[a])
        inventory += coins * price
        if not system.inverse[v, a]:
            inventory += contracts * price
            profit += contracts * gain(system, state, v, a, price)
    by_inventory = min(max(1.0 - abs(inventory) / system.makers["inventory_limit"][a], phi), 1.0)
    by_loss = min(max(1.0 - max(0.0, -profit) / system.makers["capital"][a], phi), 1.0)
    return max(phi, by_inventory * by_loss)


def gain(system, state, v: int, a: int, price: float) -> float:
    """USD that one linear contract is worth over its value at the reference price."""
    return price - system.reference_price[a] - state.funding_index[v, a]


def arbitrage(system, state) -> None:
    """Arbitrageurs close a part of each basis, against the common market, as far as their capital allows."""
    if system.venues is None:
        return
    x = log_prices(system, state)
    common = system.reference_price * np.exp(x)
    venue = venue_prices(system, state)
    wanted = np.zeros((system.V, system.A))
    for v in range(system.V):
        for a in range(system.A):
            share = system.venues["local_depth_share"][v, a]
            gap = system.venues["arbitrage_rate"][a] * state.basis[v, a]
            if share > 0.0 and gap != 0.0:
                depth = share * system.impact["depth"][a] * state.thinning[a]
                usd = depth * (abs(gap) / 0.01) ** (1.0 / system.impact["exponent"][a])
                wanted[v, a] = -math.copysign(usd, gap) / venue[v, a]
    reducing, adding = np.zeros_like(wanted), np.zeros_like(wanted)
    held = added = profit = 0.0
    for v in range(system.V):
        for a in range(system.A):
            inventory = state.arb_quantity[v, a]
            if inventory * wanted[v, a] < 0.0:
                reducing[v, a] = math.copysign(min(abs(inventory), abs(wanted[v, a])), wanted[v, a])
            adding[v, a] = wanted[v, a] - reducing[v, a]
            held += abs(inventory + reducing[v, a]) * venue[v, a]
            added += abs(adding[v, a]) * venue[v, a]
            profit += state.arb_cash[v, a] + inventory * gain(system, state, v, a, venue[v, a])
    for a in range(system.A):
        profit += state.common_cash[a] + state.common_quantity[a] * (common[a] - system.reference_price[a])
    room = max(0.0, system.venues["capital"] + profit - held)
    scale = 1.0 if added <= room else room / added
    usd, coins = np.zeros(system.A), np.zeros(system.A)
    for v in range(system.V):
        for a in range(system.A):
            bought = reducing[v, a] + scale * adding[v, a]
            if bought == 0.0:
                continue
            depth = system.venues["local_depth_share"][v, a] * system.impact["depth"][a] * state.thinning[a]
            state.basis[v, a] += power(bought * venue[v, a], depth, system.impact["exponent"][a])
            after = system.reference_price[a] * math.exp(x[a] + state.basis[v, a])
            paid = bought * gain(system, state, v, a, (venue[v, a] + after) / 2.0)
            state.arb_quantity[v, a] += bought
            state.arb_cash[v, a] -= paid
            state.maker_quantity[v, a] -= bought
            state.maker_cash[v, a] += paid
            coins[a] -= bought
            usd[a] -= bought * common[a]
    if system.open_price:
        push_common(system, state, usd, coins)
    after = common_prices(system, state)
    for a in range(system.A):
        state.common_quantity[a] += coins[a]
        state.common_cash[a] -= coins[a] * ((common[a] + after[a]) / 2.0 - system.reference_price[a])


# Marks


def index_logs(system, state):
    """(V, A) log of the index every pool looks at: the venues' mean by weight, its own price where nothing has a weight."""
    own = venue_logs(system, state)
    index = own.copy()
    for a in range(system.A):
        weights = system.marks["index_weight"][:, a]
        if weights.sum() > 0.0:
            index[:, a] = float((weights * own[:, a]).sum() / weights.sum())
    return index


def mark_sources(system, state):
    own, index = venue_logs(system, state), index_logs(system, state)
    share = system.marks["index_share"][:, None]
    return (1.0 - share) * own + share * index + state.mark_offset


def follows_its_source(system, v: int) -> bool:
    marks = system.marks
    pushes = marks["deviation"][v] > 0.0 and marks["heartbeat"][v] > 0
    return marks["delay"][v] == 0 and marks["averaging"][v] <= 1 and marks["smoothing"][v] == 0.0 and not pushes


def open_marks(system, state) -> None:
    """The marks that a step opens with: delayed, averaged, smoothed, pushed."""
    if system.marks is None:
        return
    marks = system.marks
    state.mark_history.append(mark_sources(system, state))
    for v in range(system.V):
        for a in range(system.A):
            window = []
            for back in range(int(marks["averaging"][v])):
                when = len(state.mark_history) - 1 - int(marks["delay"][v]) - back
                window.append(state.mark_history[when][v, a] if when >= 0 else 0.0)
            mean = sum(window) / len(window)
            keep = marks["smoothing"][v]
            state.mark_average[v, a] = keep * state.mark_average[v, a] + (1.0 - keep) * mean
            if state.outage[v] or state.stuck[v, a]:
                state.mark_age[v, a] += 1
                continue
            move = abs(math.expm1(state.mark_average[v, a] - state.pushed[v, a]))
            state.mark_age[v, a] += 1
            if move >= marks["deviation"][v] or state.mark_age[v, a] >= marks["heartbeat"][v]:
                state.pushed[v, a] = state.mark_average[v, a]
                state.mark_age[v, a] = 0


def refresh_marks(system, state) -> None:
    """After a round: marks that follow their source do so at once."""
    if system.marks is None:
        return
    sources = mark_sources(system, state)
    for v in range(system.V):
        if follows_its_source(system, v) and not state.outage[v]:
            for a in range(system.A):
                if not state.stuck[v, a]:
                    state.pushed[v, a] = sources[v, a]


def mark_prices(system, state):
    """(V, A) what pools judge accounts by."""
    if system.marks is None:
        return venue_prices(system, state)
    return system.reference_price[None, :] * np.exp(state.pushed)


# Funding


def accrue_funding(system, state, customers_long, customers_short):
    """Move the funding index; returns (V, A) what one USD of notional pays in this step."""
    rates = np.zeros((system.V, system.A))
    if system.funding is None:
        return rates
    rules = system.funding
    venue = venue_prices(system, state)
    if system.marks is None:
        index = np.broadcast_to(common_prices(system, state), venue.shape)
    else:
        index = system.reference_price[None, :] * np.exp(index_logs(system, state))
    state.step += 1
    for v in range(system.V):
        if state.outage[v]:
            continue  # nothing is sampled and nothing paid; the timetable runs on
        for a in range(system.A):
            both = customers_long[v, a] + customers_short[v, a]
            skew = (customers_long[v, a] - customers_short[v, a]) / both if both > 0.0 else 0.0
            premium = venue[v, a] / index[v, a] - 1.0 + state.premium[v, a] + rules["skew_slope"][v, a] * skew
            period = float(rules["period"][v, a])
            if rules["continuous"][v]:
                state.last_funding_rate[v, a] = funding_rate(rules, v, a, premium)
                rates[v, a] = state.last_funding_rate[v, a] / period
            else:
                state.premiums[v][a].append(premium)
                interval = int(rules["interval"][v, a])
                due = state.next_settlement[v][a]
                if state.step >= (interval if due is None else due):
                    seen = state.premiums[v][a]
                    weights = [n + 1.0 if rules["rising_weights"][v] else 1.0 for n in range(len(seen))]
                    mean = sum(w * p for w, p in zip(weights, seen, strict=True)) / sum(weights)
                    state.last_funding_rate[v, a] = funding_rate(rules, v, a, mean)
                    rates[v, a] = state.last_funding_rate[v, a] * interval / period
                    state.premiums[v][a] = []
                    state.next_settlement[v][a] = (state.step // interval + 1) * interval
            state.funding_index[v, a] += rates[v, a] * venue[v, a]
    return rates


def funding_rate(rules, v: int, a: int, premium: float) -> float:
    clamp = rules["clamp"][v, a]
    pulled = premium + min(max(rules["interest"][v, a] - premium, -clamp), clamp)
    return min(max(pulled, rules["floor"][v, a]), rules["cap"][v, a])
