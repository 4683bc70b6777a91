"""Perp accounts of the twin: margin, and what an account under margin asks to have closed (sections 2 and 4.1 to 4.4 of `docs/model.md`)."""

import math
from statistics import NormalDist

from tests.oracle.prices import gain


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


def tier_margin(tiers: list, notional: float) -> float:
    """Maintenance margin of one notional: the last tier whose floor it reaches decides."""
    _, rate, deduction = tiers[0]
    for floor, tier_rate, tier_deduction in tiers:
        if notional >= floor:
            rate, deduction = tier_rate, tier_deduction
    return rate * notional - deduction


def equity(system, state, account, prices) -> float:
    """Prices (V, A); what the account is worth at them."""
    v = account.pool
    total = account.W
    for a in range(system.A):
        if not system.inverse[v, a]:
            total += account.q[a] * gain(system, state, v, a, prices[v, a])
        total += account.k[a] * (prices[v, a] - system.reference_price[a])
    return total


def margin_equity(system, state, account, mark) -> float:
    total = equity(system, state, account, mark)
    for a in range(system.A):
        total -= system.haircut[account.pool, a] * max(account.k[a], 0.0) * mark[account.pool, a]
    return total


def notionals(system, account, prices) -> list:
    v = account.pool
    return [abs(account.q[a]) * (1.0 if system.inverse[v, a] else prices[v, a]) for a in range(system.A)]


def position_margin(system, state, account, a: int, notional: float, mark) -> float:
    """Requirement of one position by tiers and size."""
    v = account.pool
    charge = tier_margin(system.tiers[v][a], notional)
    charge += sum(rise * max(0.0, notional - floor) for floor, rise in state.hinges[v][a])
    scale = system.size_scale
    if scale is not None and notional > 0.0:
        coins = notional / mark[v, a]
        size = notional if scale["in_notional"][v, a] else coins
        charge += notional * max(0.0, scale["offset"][v, a] + scale["slope"][v, a] * math.sqrt(size) - scale["base"][v, a])
    return state.multiplier[v, a] * charge


def maintenance(system, state, account, mark, kept: float = 1.0) -> float:
    """Maintenance margin when every position has shrunk to the share `kept`."""
    v = account.pool
    held = [kept * n for n in notionals(system, account, mark)]
    if account.portfolio:
        rules = system.portfolio
        z = [kept * account.q[a] * mark[v, a] for a in range(system.A)]
        multiplier = sum(state.multiplier[v, a] for a in range(system.A)) / system.A
        return multiplier * rules["multiplier"][v] * max(portfolio_form(rules, v, z), rules["floor_rate"][v] * sum(held))
    return sum(position_margin(system, state, account, a, held[a], mark) for a in range(system.A))


def portfolio_form(rules, v: int, z: list) -> float:
    form = rules["form"][v]
    assets = range(len(z))
    shocks, weights = rules["shocks"][v], rules["weights"][v]
    if form == "scan":
        worst = 0.0
        for s in range(len(shocks)):
            worst = max(worst, weights[s] * max(0.0, -sum(z[a] * shocks[s][a] for a in assets)))
        return worst
    if form in ("single", "net_correlation"):
        alone = [max(weights[s] * max(0.0, -z[a] * shocks[s][a]) for s in range(len(shocks))) for a in assets]
        if form == "single":
            return sum(alone)
        signed = [math.copysign(alone[a], z[a]) for a in assets]
        return math.sqrt(max(0.0, sum(signed[a] * rules["correlation"][v][a][b] * signed[b] for a in assets for b in assets)))
    deviation = math.sqrt(max(0.0, sum(z[a] * rules["covariance"][v][a][b] * z[b] for a in assets for b in assets)))
    if form == "covariance":
        return rules["deviations"][v] * deviation
    level = rules["level"][v]
    normal = NormalDist()
    return normal.pdf(normal.inv_cdf(level)) / (1.0 - level) * deviation


# Demand


def auction_discount(system, account) -> float:
    auctions = system.auctions
    if auctions is None or not auctions["active"][account.pool]:
        return 0.0
    v = account.pool
    return min(auctions["most"][v], auctions["start"][v] + auctions["growth"][v] * account.age)


def nobody_bids(system, account, mark, venue) -> bool:
    """Whether the discount is too small yet for anybody to take the account over."""
    auctions, v = system.auctions, account.pool
    if auctions is None or not auctions["active"][v]:
        return False
    gross = sum(notionals(system, account, mark))
    coins = [account.q[a] / (mark[v, a] if system.inverse[v, a] else 1.0) for a in range(system.A)]
    gap = sum(coins[a] * (mark[v, a] - venue[v, a]) for a in range(system.A))
    return auction_discount(system, account) * gross < gap + auctions["required_profit"][v] * gross


def close_fraction(system, state, account, mark) -> float:
    """How much of itself an under-margined account asks to close."""
    v = account.pool
    rule = system.rule[v]
    own = margin_equity(system, state, account, mark)
    held = notionals(system, account, mark)
    required = maintenance(system, state, account, mark)
    if rule == "full" or own < system.full_below[v] * required:
        return 1.0
    if rule == "close_factor":
        return system.close_factor[v]
    if rule == "stepwise":
        return stepwise(floors_in_force(system, state, v), held)
    return restore(system, state, account, mark, own, held)


def floors_in_force(system, state, v: int) -> list:
    """Notionals at which the requirement of each asset bends: tiers, and the policy's hinges by size."""
    return [[floor for floor, *_ in [*system.tiers[v][a], *state.hinges[v][a]]] for a in range(system.A)]


def stepwise(asset_floors: list, held: list) -> float:
    steps = []
    for floors, notional in zip(asset_floors, held, strict=True):
        # on a floor but for rounding is on it
        below = [floor for floor in floors if 0.0 < floor * (1 + 1024 * 2.0**-52) < notional]
        if below:
            steps.append(1.0 - max(below) / notional)
    return min(steps) if steps else 1.0


def restore(system, state, account, mark, own: float, held: list) -> float:
    v = account.pool
    gross = sum(held)
    fee = system.liquidation_fee[v] + system.taker_fee[v] + system.liquidator_fee[v] + auction_discount(system, account)
    target = system.target_health[v]
    if own < fee * gross:
        return 1.0
    if account.portfolio:
        denominator = target * maintenance(system, state, account, mark) - fee * gross
        if denominator <= 0.0:
            return 1.0
        return 1.0 - min(max((own - fee * gross) / denominator, 0.0), 1.0)

    def surplus(phi):
        return own - fee * phi * gross - target * maintenance(system, state, account, mark, 1.0 - phi)

    points = bends(floors_in_force(system, state, v), held)
    if system.size_scale is None:
        return first_nonnegative(surplus, points)
    return bisect(surplus)


def bends(asset_floors: list, held: list) -> list:
    """Every fraction at which some position, shrinking, comes down to the floor of a tier; both ends included."""
    points = {0.0, 1.0}
    for floors, notional in zip(asset_floors, held, strict=True):
        for floor in floors:
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


def bisect(function) -> float:
    """The same for a smooth concave function that is not negative at 1: it crosses zero once."""
    low, high = 0.0, 1.0
    if function(low) >= 0.0:
        return low
    while high - low > 1e-15:
        middle = (low + high) / 2.0
        if not low < middle < high:
            break
        if function(middle) >= 0.0:
            high = middle
        else:
            low = middle
    return high


# Coins


def face(system, account, a: int) -> float:
    return account.q[a] if system.inverse[account.pool, a] else 0.0


def coins_to_sell(system, state, account, venue) -> list:
    """Posted coins sold when the whole account is closed at the venue prices."""
    v = account.pool
    price = venue[v]
    own = [account.k[a] - face(system, account, a) / price[a] for a in range(system.A)]
    cash = account.W
    for a in range(system.A):
        if not system.inverse[v, a]:
            cash += account.q[a] * gain(system, state, v, a, price[a])
        cash += face(system, account, a) - account.k[a] * system.reference_price[a] + min(own[a], 0.0) * price[a]
    worth = sum(max(own[a], 0.0) * price[a] for a in range(system.A))
    share = min(max(-cash / worth, 0.0), 1.0) if worth > 0.0 else 0.0
    if share > 1.0 - 1e-9:  # fees that have taken all equity leave coins worth exactly what is owed: rounding must not keep a crumb
        return list(account.k)  # all of it: k - z + max(z, 0) + min(z, 0)
    return [account.k[a] - own[a] + share * max(own[a], 0.0) + min(own[a], 0.0) for a in range(system.A)]
