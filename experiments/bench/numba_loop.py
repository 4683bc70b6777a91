"""The competitor: the rule of docs/model.md as one fused Numba loop over accounts.

The same blocks as the engine's (sorted by pool and distance to bankruptcy), one array per quantity. Per round one parallel pass assesses every
account and leaves the tiers at the first floor that is not reached. In a block where somebody is under margin it writes down who, and how much of
it must go, and adds up demand, while the block is still in cache. A second pass visits only those written down. Assets and tiers are
compile-time constants; sums over accounts are kept per thread in float64, everything else in the precision of the accounts.
"""

from functools import lru_cache

import numba as nb
import numpy as np
from tables import tables

_MAX_PASSES = 64
_REFERENCE_MOVE = 0.01
_OPTIONS = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "nogil": True}
# an array handed to a function that is not inlined has its references counted, which costs more than all the arithmetic of an account
_INLINE = {**_OPTIONS, "inline": "always"}


def _restore(assets: int, tiers: int):
    """The share to close of one account; tangents from the right on the convex requirement, until the tiers no longer change."""

    @nb.njit(**_INLINE)
    def line(kept, i, quantity, price, floor, rate, deduct, saved, target):
        slope, deduction = -saved, kept - kept
        for a in range(assets):
            notional = abs(quantity[a, i]) * price[a]
            k = 0
            while k + 1 < tiers and kept * notional > floor[a, k + 1]:
                k += 1
            slope += target * rate[a, k] * notional
            deduction += target * deduct[a, k]
        return slope, deduction

    @nb.njit(**_INLINE)
    def solve(budget, slope, deduction):
        zero = budget - budget
        if not (budget >= 0 and slope > 0):
            return zero
        return min(max((budget + deduction) / slope, zero), type(budget)(1))

    @nb.njit(**_INLINE)
    def fraction(i, equity, gross, quantity, price, floor, rate, deduct, fee, target):
        budget = equity - fee * gross
        one = type(equity)(1)
        slope, deduction = line(one, i, quantity, price, floor, rate, deduct, fee * gross, target)
        kept = solve(budget, slope, deduction)
        for _ in range(_MAX_PASSES):
            slope, again = line(kept, i, quantity, price, floor, rate, deduct, fee * gross, target)
            kept = solve(budget, slope, again)
            if again == deduction:
                break
            deduction = again
        return one - kept

    return fraction


def _assess(assets: int, tiers: int):
    """The first pass of a round: who is under margin, what share of the positions must go, and the demand."""
    fraction = _restore(assets, tiers)

    @nb.njit(**_INLINE)
    def ask(i, equity, gross, quantity, price, floor, rate, deduct, restore, fee, target, sums):
        """The share of one account under margin, added to the demand: number, USD, coins of longs, coins of shorts."""
        share = type(equity)(1)
        if restore:
            share = fraction(i, equity, gross, quantity, price, floor, rate, deduct, fee, target)
        sums[0] += 1
        sums[1] += share * gross
        for a in range(assets):
            q = quantity[a, i]
            if q > 0:
                sums[2 + a] += share * q
            else:
                sums[2 + assets + a] -= share * q
        return share

    @nb.njit(**_INLINE)
    def health(i, w, coins, price, displaced, floor, rate, deduct):
        """Equity, maintenance margin and gross notional of one account of a block."""
        equity = w[i]
        gross = margin = equity - equity
        for a in range(assets):
            q = coins[a, i]
            equity += q * displaced[a]
            n = abs(q) * price[a]
            gross += n
            k = 0
            while k + 1 < tiers and n > floor[a, k + 1]:
                k += 1
            margin += rate[a, k] * n - deduct[a, k]
        return equity, margin, gross

    @nb.njit(**_INLINE)
    def collect(first, size, w, coins, price, displaced, floor, rate, deduct, restore, fee, target, who, phi, found, sums):
        """Write down those of a block who are under margin; returns how many are written down by now."""
        for j in range(size):
            e, margin, gross = health(j, w, coins, price, displaced, floor, rate, deduct)
            if not (e >= margin):
                who[found] = first + j
                phi[found] = ask(j, e, gross, coins, price, floor, rate, deduct, restore, fee, target, sums)
                found += 1
        return found

    @nb.njit(**_INLINE)
    def block(first, size, equity, quantity, price, displaced, floor, rate, deduct, restore, fee, target, who, phi, found, sums):
        """Assess the accounts of one block in a loop that only counts; a block with somebody under margin is still in cache for `collect`."""
        w, coins = equity[first : first + size], quantity[:, first : first + size]
        under = 0
        for j in range(size):
            e, margin, _ = health(j, w, coins, price, displaced, floor, rate, deduct)
            under += not (e >= margin)
        if under == 0:
            return found
        return collect(first, size, w, coins, price, displaced, floor, rate, deduct, restore, fee, target, who, phi, found, sums)

    @nb.njit(parallel=True, **_OPTIONS)
    def assess(equity, quantity, block_pool, size, price, displaced, tables, restore, fee, target, who, phi, count, asked):
        """All blocks, dealt out to the tasks in turn; `asked` is (task, pool, ...)."""
        floor, rate, deduct = tables
        tasks = count.shape[0]
        for task in nb.prange(tasks):
            found = 0
            for b in range(task, block_pool.shape[0], tasks):
                v = block_pool[b]
                found = block(
                    b * size,
                    size,
                    equity,
                    quantity,
                    price,
                    displaced,
                    floor[v],
                    rate[v],
                    deduct[v],
                    restore[v],
                    fee[v],
                    target[v],
                    who[task],
                    phi[task],
                    found,
                    asked[task, v],
                )
            count[task] = found

    return assess


def _settle(assets: int):
    """The second pass of a round: the fills of those who were under margin."""

    @nb.njit(**_INLINE)
    def close(i, share, equity, quantity, liquidated, displaced_fill, displaced_after, fill, fee, to_fund, sums):
        """One account; adds to fee for the fund, fee for the treasury, deficit, newly liquidated, change of cash, changes of coins."""
        before = equity[i]
        zero = before - before
        proceeds, traded, after = zero, zero, zero
        for a in range(assets):
            q = quantity[a, i]
            kept = (type(q)(1) - share) * q
            proceeds += q * displaced_fill[a]
            traded += abs(q) * fill[a]
            after += kept * displaced_after[a]
            sums[5 + a] += kept - q
            quantity[a, i] = kept
        traded *= share
        left = before + proceeds  # if all of it were closed at the fill
        if left < 0:
            deficit = -share * left
            cash = (type(before)(1) - share) * before  # = before + share * proceeds + deficit; an account closed in full ends at zero exactly
        else:
            deficit = zero
            cash = before + share * proceeds
        paid = min(fee * traded, max(cash + after, zero))
        cash -= paid
        sums[2] += deficit
        equity[i] = cash
        sums[0] += paid * to_fund
        sums[1] += paid - paid * to_fund
        sums[4] += cash - before
        if traded > 0 and not liquidated[i]:
            sums[3] += 1
            liquidated[i] = True

    @nb.njit(parallel=True, **_OPTIONS)
    def settle(equity, quantity, liquidated, block_pool, size, granted, displaced_fill, displaced_after, fill, fee, to_fund, who, phi, count, done):
        """Everybody written down by the first pass; `done` is (task, pool, ...)."""
        for task in nb.prange(count.shape[0]):
            for j in range(count[task]):
                i = who[task, j]
                v = block_pool[i // size]
                share = granted[v] * phi[task, j]
                close(i, share, equity, quantity, liquidated, displaced_fill, displaced_after, fill, fee[v], to_fund[v], done[task, v])

    return settle


@lru_cache
def program(assets: int, tiers: int):
    """The loop over a path, compiled at its first call; its arguments are those that `run` makes."""
    assess, settle = _assess(assets, tiers), _settle(assets)

    @nb.njit(**_OPTIONS)
    def play(equity, quantity, liquidated, block_pool, size, tables, pools, markets, levels, factors, max_rounds, who, phi, count, record):
        restore, target, fee, to_fund, capacity, funds = pools
        reference, depth0, exponent, permanent, decay, memory, variance0, kappa, least = markets
        prices, bad_debts, funds_out, treasuries, triggered, newly, rounds_out, assessed, worst, closed = record
        n_pools = restore.shape[0]
        f, g, h, y = np.zeros_like(reference), np.zeros_like(reference), np.zeros_like(reference), np.zeros_like(reference)
        variance = variance0.copy()
        fund, treasury, bad_debt = funds.copy(), np.zeros_like(funds), np.zeros_like(funds)
        price, displaced, after = np.empty_like(reference), np.empty_like(reference), np.empty_like(reference)
        between, fill, depth, granted = np.empty_like(reference), np.empty_like(reference), np.empty_like(reference), np.empty_like(capacity)
        tasks = count.shape[0]
        asked = np.zeros((tasks, n_pools, 2 + 2 * assets))
        done = np.zeros((tasks, n_pools, 5 + assets))
        for t in range(levels.shape[0]):
            for a in range(assets):
                f[a] = levels[t, a]
                h[a] *= decay[a]
                x = f[a] + g[a] + h[a]
                r = x - y[a]
                y[a] = x
                variance[a] = memory[a] * variance[a] + (1 - memory[a]) * r * r
                thin = (variance0[a] / variance[a]) ** (kappa[a] / 2)
                depth[a] = depth0[a] * factors[t, a] * min(max(thin, least[a]), 1)
            left = capacity.copy()
            flow = np.zeros_like(reference)
            played = 0
            for _ in range(max_rounds):
                for a in range(assets):
                    x = f[a] + g[a] + h[a]
                    price[a] = reference[a] * np.exp(x)
                    displaced[a] = reference[a] * np.expm1(x)
                asked[:] = 0
                assessed[t] += 1
                assess(equity, quantity, block_pool, size, price, displaced, tables, restore, fee, target, who, phi, count, asked)
                total = asked.sum(axis=0)
                if total[:, 0].sum() == 0:
                    break
                played += 1
                sold = np.zeros((n_pools, assets))
                for v in range(n_pools):
                    granted[v] = 1
                    if total[v, 1] > left[v]:
                        granted[v] = left[v] / total[v, 1]
                    left[v] = max(left[v] - total[v, 1], 0)
                    triggered[t, v] += total[v, 0]
                    for a in range(assets):
                        sold[v, a] = granted[v] * (total[v, 2 + a] - total[v, 2 + assets + a])
                        closed[t, v, a] += granted[v] * (total[v, 2 + a] + total[v, 2 + assets + a])
                for a in range(assets):
                    before = flow[a]
                    flow[a] -= sold[:, a].sum() * price[a]
                    move = _REFERENCE_MOVE * (
                        np.sign(flow[a]) * (abs(flow[a]) / depth[a]) ** exponent[a] - np.sign(before) * (abs(before) / depth[a]) ** exponent[a]
                    )
                    g[a] += permanent[a] * move
                    h[a] += (1 - permanent[a]) * move
                    after[a] = reference[a] * np.expm1(f[a] + g[a] + h[a])
                    between[a] = (displaced[a] + after[a]) / 2
                    fill[a] = reference[a] + between[a]
                done[:] = 0
                settle(equity, quantity, liquidated, block_pool, size, granted, between, after, fill, fee, to_fund, who, phi, count, done)
                for v in range(n_pools):
                    sums = done[:, v].sum(axis=0)
                    fund[v] += sums[0]
                    treasury[v] += sums[1]
                    draw = min(fund[v], sums[2])
                    fund[v] -= draw
                    bad_debt[v] += sums[2] - draw
                    newly[t, v] += sums[3]
                    residual = sums[4] + sums[0] + sums[1] - sums[2]
                    for a in range(assets):
                        residual -= sold[v, a] * between[a]
                        worst[0] = max(worst[0], abs(sums[5 + a] + sold[v, a]) * price[a])
                    worst[0] = max(worst[0], abs(residual))
                more = False
                for v in range(n_pools):
                    more = more or (total[v, 0] > 0 and left[v] > 0)
                if not more:
                    break
            for a in range(assets):
                prices[t, a] = reference[a] * np.exp(f[a] + g[a] + h[a])
            bad_debts[t], funds_out[t], treasuries[t], rounds_out[t] = bad_debt, fund, treasury, played

    return play


def prepare(system, policy, path, block_pool: np.ndarray, size: int, dtype, tasks: int | None = None) -> dict:
    """Tables and work space for `run`: all that is made once, outside the timed region."""
    tasks = tasks or nb.get_num_threads()
    most = -(-len(block_pool) // tasks) * size
    return {
        **tables(system, policy, path, block_pool, size, dtype),
        "who": np.empty((tasks, most), np.int32),
        "phi": np.empty((tasks, most), dtype),
        "count": np.zeros(tasks, np.int64),
    }


def run(equity: np.ndarray, quantity: np.ndarray, liquidated: np.ndarray, ready: dict, max_rounds: int) -> dict:
    """Play the path; the accounts are changed in place.

    Args: equity (n,), quantity (A, n), liquidated (n,) bool, blocks laid out flat; `ready` from `prepare`.

    Returns: price (T, A), bad_debt, fund, treasury, triggered, newly_liquidated (T, V), closed (T, V, A), rounds in
    which somebody was under margin (T,), assessments of all accounts (T,), worst residual in USD (1,).
    """
    levels, factors = ready["path"]
    steps, assets = levels.shape
    pools = len(ready["pools"][0])
    by_pool = [np.zeros((steps, pools)) for _ in range(5)]
    record = (
        np.zeros((steps, assets)),
        *by_pool,
        np.zeros(steps, np.int64),
        np.zeros(steps, np.int64),
        np.zeros(1),
        np.zeros((steps, pools, assets)),
    )
    play = program(assets, ready["tables"][0].shape[2])
    play(
        equity,
        quantity,
        liquidated,
        ready["block_pool"],
        ready["size"],
        ready["tables"],
        ready["pools"],
        ready["markets"],
        levels,
        factors,
        max_rounds,
        ready["who"],
        ready["phi"],
        ready["count"],
        record,
    )
    names = ("price", "bad_debt", "fund", "treasury", "triggered", "newly_liquidated", "rounds", "evaluations", "worst_residual", "closed")
    return dict(zip(names, record, strict=True))
