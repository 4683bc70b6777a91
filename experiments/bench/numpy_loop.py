"""The rule of docs/model.md in plain NumPy, one thread: whole-array arithmetic over accounts, in pieces that stay in the processor's cache.

Only accounts above the first tier are looked up in the tiers, and only accounts under margin are worked on further. Needs NumPy alone (1.26 or
later), because `radcad_loop.py`, which puts the same functions into a radCAD model, runs in an environment of its own.
"""

import numpy as np

#: Accounts assessed at a time.
PIECE = 1 << 15
_MAX_PASSES = 64
_REFERENCE_MOVE = 0.01


def pool_slices(block_pool: np.ndarray, size: int) -> list[tuple[int, int, int]]:
    """(pool, first account, last account + 1) of each run of blocks of one pool."""
    ends = [*(np.flatnonzero(np.diff(block_pool)) + 1).tolist(), len(block_pool)]
    return [(int(block_pool[a]), a * size, b * size) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def tier_terms(notional: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Index of the tier of every notional."""
    return np.maximum(np.searchsorted(floor, notional, side="left") - 1, 0)


def health(cash, coins, price, displaced, floor, rate, deduct):
    """Equity, maintenance margin and gross notional of the accounts of a piece; `coins` is (A, n)."""
    equity, gross, margin = cash.copy(), np.zeros_like(cash), np.zeros_like(cash)
    for a, q in enumerate(coins):
        equity += q * displaced[a]
        notional = np.abs(q)
        notional *= price[a]
        gross += notional
        margin += rate[a, 0] * notional
        if len(floor[a]) > 1:
            large = np.flatnonzero(notional > floor[a, 1])
            if len(large):
                n = notional[large]
                k = tier_terms(n, floor[a])
                margin[large] += (rate[a, k] - rate[a, 0]) * n - deduct[a, k]
    return equity, margin, gross


def restore_share(equity, gross, coins, price, floor, rate, deduct, fee, target):
    """Share to close of accounts under margin, so that health is back at its target: tangents on the convex requirement."""
    notional = np.abs(coins) * price[:, None]
    budget = equity - fee * gross
    kept, before = np.ones_like(equity), np.full_like(equity, np.nan)
    for turn in range(_MAX_PASSES + 1):
        slope, deduction = -fee * gross, np.zeros_like(equity)
        for a, n in enumerate(notional):
            k = tier_terms(kept * n, floor[a])
            slope += target * rate[a, k] * n
            deduction += target * deduct[a, k]
        solvable = (budget >= 0) & (slope > 0)
        kept = np.where(solvable, np.clip((budget + deduction) / np.where(solvable, slope, 1), 0, 1), 0).astype(equity.dtype)
        if turn and np.array_equal(deduction, before):
            break
        before = deduction
    return 1 - kept


def assess(equity, quantity, slices, price, displaced, ready):
    """Who is under margin and what share must go, as (pool, accounts, share, gross) of every piece that has any."""
    floor, rate, deduct = ready["tables"]
    restore, target, fee = ready["pools"][:3]
    found = []
    for v, start, stop in slices:
        for first in range(start, stop, PIECE):
            piece = slice(first, min(first + PIECE, stop))
            worth, margin, gross = health(equity[piece], quantity[:, piece], price, displaced, floor[v], rate[v], deduct[v])
            who = np.flatnonzero(~(worth >= margin))
            if len(who):
                worth, gross, who = worth[who], gross[who], who + first
                if restore[v]:
                    share = restore_share(worth, gross, quantity[:, who], price, floor[v], rate[v], deduct[v], fee[v], target[v])
                else:
                    share = np.ones_like(worth)
                found.append((v, who, share, gross))
    return found


def opening(ready: dict) -> dict:
    """The markets before the first step, arrays of (A,)."""
    reference, variance = ready["markets"][0], ready["markets"][6]
    zero = np.zeros_like(reference)
    return {"f": zero, "g": zero, "h": zero, "level": zero, "variance": variance, "depth": zero, "flow": zero}


def exogenous(market: dict, t: int, ready: dict) -> dict:
    """The markets at the start of step `t`, before anybody is liquidated."""
    _, depth0, _, _, decay, memory, variance0, kappa, least = ready["markets"]
    levels, factors = ready["path"]
    f, h = levels[t], market["h"] * decay
    level = f + market["g"] + h
    variance = memory * market["variance"] + (1 - memory) * (level - market["level"]) ** 2
    thin = np.clip((variance0 / variance) ** (kappa / 2), least, 1)
    return {"f": f, "g": market["g"], "h": h, "level": level, "variance": variance, "depth": depth0 * factors[t] * thin, "flow": np.zeros_like(f)}


def prices(market: dict, ready: dict) -> np.ndarray:
    """(A,) USD."""
    return ready["markets"][0] * np.exp(market["f"] + market["g"] + market["h"])


def moved(market: dict, sold: np.ndarray, price: np.ndarray, ready: dict) -> dict:
    """The markets after coins (A,) were sold into them."""
    exponent, permanent = ready["markets"][2:4]
    before, depth = market["flow"], market["depth"]
    flow = (before - sold * price).astype(before.dtype)
    move = _REFERENCE_MOVE * (np.sign(flow) * (np.abs(flow) / depth) ** exponent - np.sign(before) * (np.abs(before) / depth) ** exponent)
    return {**market, "flow": flow, "g": market["g"] + permanent * move, "h": market["h"] + (1 - permanent) * move}


def settle(who, share, equity, quantity, liquidated, between, after, fill, fee, to_fund):
    """Fills of the accounts `who`: their new cash and coins, who is new among the liquidated, and the sums for the pool."""
    cash, coins = equity[who], quantity[:, who]
    kept = (1 - share) * coins
    proceeds = between @ coins
    traded = share * (fill @ np.abs(coins))
    left = cash + proceeds
    ruined = left < 0
    deficit = np.where(ruined, -share * left, 0)
    cash = np.where(ruined, (1 - share) * cash, cash + share * proceeds)
    paid = np.minimum(fee * traded, np.maximum(cash + after @ kept, 0))
    new = (traded > 0) & ~liquidated[who]
    fees = paid.sum(dtype=np.float64)
    return cash - paid, kept, new, (fees * to_fund, fees * (1 - to_fund), deficit.sum(dtype=np.float64), new.sum())


def play_round(equity, quantity, liquidated, market: dict, left: np.ndarray, slices, ready: dict) -> dict | None:
    """One round of liquidation; None when nobody is under margin. Nothing is changed: what changes is in the answer."""
    _, _, fees, to_fund = ready["pools"][:4]
    reference = ready["markets"][0]
    pools, assets = len(left), len(reference)
    level = market["f"] + market["g"] + market["h"]
    price, displaced = reference * np.exp(level), reference * np.expm1(level)
    found = assess(equity, quantity, slices, price, displaced, ready)
    if not found:
        return None
    number, usd, longs, shorts = np.zeros(pools), np.zeros(pools), np.zeros((pools, assets)), np.zeros((pools, assets))
    for v, who, share, gross in found:
        number[v] += len(who)
        usd[v] += (share * gross).sum(dtype=np.float64)
        asked = (share * quantity[:, who]).astype(np.float64)
        longs[v] += np.maximum(asked, 0).sum(axis=1)
        shorts[v] -= np.minimum(asked, 0).sum(axis=1)
    granted = np.where(usd > left, left / np.maximum(usd, 1e-300), 1.0)
    remaining = np.maximum(left - usd, 0)
    market = moved(market, (granted[:, None] * (longs - shorts)).sum(axis=0), price, ready)
    after = reference * np.expm1(market["f"] + market["g"] + market["h"])
    between = (displaced + after) / 2
    fill = reference + between
    sums, changes = np.zeros((pools, 4)), []
    for v, who, share, _ in found:
        share = granted[v].astype(share.dtype) * share
        cash, kept, new, done = settle(who, share, equity, quantity, liquidated, between, after, fill, fees[v], to_fund[v])
        changes.append((who, cash, kept, new))
        sums[v] += done
    return {
        "market": market,
        "left": remaining,
        "changes": changes,
        "sums": sums,
        "triggered": number,
        "closed": granted[:, None] * (longs + shorts),
        "more": bool(np.any((number > 0) & (remaining > 0))),
    }


def ledger_after(fund: np.ndarray, treasury: np.ndarray, bad_debt: np.ndarray, sums: np.ndarray):
    """Fund, treasury and bad debt of the pools after a round; deficits are drawn from the fund while it lasts."""
    fund = fund + sums[:, 0]
    draw = np.minimum(fund, sums[:, 2])
    return fund - draw, treasury + sums[:, 1], bad_debt + sums[:, 2] - draw


def run(equity: np.ndarray, quantity: np.ndarray, liquidated: np.ndarray, ready: dict, max_rounds: int) -> dict:
    """Play the path; the accounts are changed in place. Arguments and result as `numba_loop.run`, less its residuals."""
    steps, assets = ready["path"][0].shape
    capacity, funds = (np.asarray(x, np.float64) for x in ready["pools"][4:6])
    pools, slices = len(funds), pool_slices(ready["block_pool"], ready["size"])
    out = {n: np.zeros((steps, pools)) for n in ("bad_debt", "fund", "treasury", "triggered", "newly_liquidated")}
    out |= {"price": np.zeros((steps, assets)), "closed": np.zeros((steps, pools, assets))}
    out |= {n: np.zeros(steps, np.int64) for n in ("rounds", "evaluations")}
    market, ledger = opening(ready), (funds, np.zeros(pools), np.zeros(pools))
    for t in range(steps):
        market, left = exogenous(market, t, ready), capacity
        for _ in range(max_rounds):
            done = play_round(equity, quantity, liquidated, market, left, slices, ready)
            out["evaluations"][t] += 1
            if done is None:
                break
            market, left, ledger = done["market"], done["left"], ledger_after(*ledger, done["sums"])
            for who, cash, kept, new in done["changes"]:
                equity[who], quantity[:, who] = cash, kept
                liquidated[who[new]] = True
            out["rounds"][t] += 1
            out["triggered"][t] += done["triggered"]
            out["newly_liquidated"][t] += done["sums"][:, 3]
            out["closed"][t] += done["closed"]
            if not done["more"]:
                break
        out["price"][t] = prices(market, ready)
        out["fund"][t], out["treasury"][t], out["bad_debt"][t] = ledger
    return out
