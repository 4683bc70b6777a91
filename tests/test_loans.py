"""Lending accounts: against a scalar oracle, worked examples of Aave's formulas, a spot margin loan, and banks that sell under a leverage limit."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine import loans as lending
from stresslev.engine.loans import CLOSE_FACTOR, FULL, RESTORE, LendingRules, Loans

SEEDS = st.integers(min_value=0, max_value=2**31)
#: Every seed is a book of 96 accounts.
books = settings(max_examples=40)
#: One shape for nearly all cases, so that little is compiled; worked examples use pool 0 and the first assets.
POOLS, ASSETS, BLOCK, BLOCKS = 6, 4, 8, 12
INF = float("inf")

demand = jax.jit(lending.demand)
settle = jax.jit(lending.settle)


# ---------------------------------------------------------------- building cases


def rules_for(**given):
    """Rules of all pools; scalars are spread over pools and assets."""
    defaults = {
        "liquidation_threshold": 0.8,
        "seizable": True,
        "bonus": 0.0,
        "protocol_fee": 0.0,
        "rule": FULL,
        "close_factor": 0.5,
        "full_below": 0.0,
        "target_health": 1.05,
        "market_execution": False,
        "auction": False,
        "auction_start": 0.0,
        "auction_growth": 0.0,
        "auction_max": 0.0,
        "required_profit": -INF,
    }
    kinds = {"seizable": bool, "market_execution": bool, "auction": bool, "rule": np.int32}
    wide = ("liquidation_threshold", "seizable", "bonus")
    filled = {}
    for name, default in defaults.items():
        value = np.asarray(given.pop(name, default), kinds.get(name, float))
        filled[name] = jnp.asarray(np.broadcast_to(value, (POOLS, ASSETS) if name in wide else (POOLS,)))
    assert not given
    return LendingRules(**filled)


def book_of(supply, debt, cash, pool, *, block=BLOCK, age=None, order=None):
    """Flat accounts (n, A), (n, A), (n,), (n,) in blocks of one pool each, and the flat slot of every account."""
    supply, debt, cash, pool = np.asarray(supply, float), np.asarray(debt, float), np.asarray(cash, float), np.asarray(pool)
    order = np.arange(len(cash)) if order is None else order
    age = np.zeros(len(cash), int) if age is None else np.asarray(age)
    slot, block_pool = np.zeros(len(cash), int), []
    for v in np.unique(pool):
        mine = [i for i in order if pool[i] == v]
        slot[mine] = len(block_pool) * block + np.arange(len(mine))
        block_pool += [v] * -(-len(mine) // block)
    block_pool += [0] * (BLOCKS - len(block_pool))

    def lay(x, kind):
        out = np.zeros(len(block_pool) * block, kind)
        out[slot] = x
        return jnp.asarray(out.reshape(-1, block))

    loans = Loans(
        supply=tuple(lay(supply[:, a], float) for a in range(ASSETS)),
        debt=tuple(lay(debt[:, a], float) for a in range(ASSETS)),
        cash=lay(cash, float),
        liquidated=lay(False, bool),
        age=lay(age, np.int32),
        block_pool=jnp.asarray(np.array(block_pool, np.int32)),
    )
    return loans, slot


def row(values, fill=0.0):
    """The first assets as given, the others filled up."""
    return np.array([*values, *[fill] * (ASSETS - len(values))], float)


def one_account(supply, debt, cash=0.0):
    """One account, first in the first block; all others are empty."""
    return book_of([row(supply)], [row(debt)], [cash], [0])[0]


def prices(*values):
    return jnp.asarray(np.tile(row(values, 1.0), (POOLS, 1)))


def example(mark, *, venue=None, fill=None, loans=None, **rules):
    """A case with the same rules and prices in all pools, indices of one, and everything granted."""
    rules, one, mark = rules_for(**rules), prices(), prices(*mark)
    case = {"rules": rules, "threshold": rules.liquidation_threshold, "supply_index": one, "borrow_index": one, "mark": mark, "loans": loans}
    return case | {
        "venue": mark if venue is None else prices(*venue),
        "fill": mark if fill is None else prices(*fill),
        "share": jnp.ones((POOLS,)),
    }


def health_of(loans, case):
    return np.asarray(lending.health(loans, *(case[k] for k in ("threshold", "supply_index", "borrow_index", "mark"))))


def random_rules(rng):
    v = (POOLS,)
    return rules_for(
        liquidation_threshold=rng.uniform(0.5, 0.98, (POOLS, ASSETS)),
        seizable=rng.random((POOLS, ASSETS)) < 0.85,
        bonus=rng.choice([0.0, 0.05, 0.15], (POOLS, ASSETS)),
        protocol_fee=rng.choice([0.0, 0.1, 1.0], v),
        rule=np.arange(POOLS) % 3,
        close_factor=rng.uniform(0.1, 1.0, v),
        full_below=rng.choice([0.0, 0.8, 0.95], v),
        target_health=rng.uniform(1.0, 1.3, v),
        market_execution=rng.random(v) < 0.5,
        auction=rng.random(v) < 0.4,
        auction_start=rng.uniform(-0.1, 0.05, v),
        auction_growth=rng.uniform(0.0, 0.05, v),
        auction_max=rng.uniform(0.05, 0.2, v),
        required_profit=rng.choice([-INF, -0.05, 0.0, 0.03], v),
    )


def random_accounts(rng):
    """Accounts around and far beyond their limit, with overlaps, cash of either sign, and accounts without debt, collateral or both."""
    n = POOLS * 2 * BLOCK
    pool = np.repeat(np.arange(POOLS), 2 * BLOCK)
    held = rng.pareto(1.5, (n, ASSETS)) * 1e4 * (rng.random((n, ASSETS)) < 0.6)
    owed = rng.random((n, ASSETS)) * (rng.random((n, ASSETS)) < 0.5)
    owed *= (held.sum(axis=1) * rng.uniform(0.5, 1.4, n) / np.maximum(owed.sum(axis=1), 1e-9))[:, None]
    cash = rng.normal(0, 0.3, n) * held.sum(axis=1) * (rng.random(n) < 0.4)
    held[rng.random(n) < 0.1] = 0
    owed[rng.random(n) < 0.1] = 0
    return held, owed, cash, pool, rng.integers(0, 8, n)


def random_case(seed):
    rng = np.random.default_rng(seed)
    value, owed, cash, pool, age = random_accounts(rng)
    shape = (POOLS, ASSETS)
    price = np.exp(rng.uniform(-3, 9, ASSETS))
    mark = price * np.exp(rng.normal(0, 0.02, shape))
    supply_index, borrow_index = rng.uniform(1, 1.3, shape), rng.uniform(1, 1.3, shape)
    rules = random_rules(rng)
    loans, slot = book_of(value / price / supply_index[pool], owed / price / borrow_index[pool], cash, pool, age=age)
    mark = mark * (rng.random(shape) > 0.05)  # some prices are zero
    return {
        "loans": loans,
        "slot": slot,
        "rules": rules,
        "threshold": jnp.asarray(np.asarray(rules.liquidation_threshold) * rng.uniform(0.95, 1.0, shape)),
        "supply_index": jnp.asarray(supply_index),
        "borrow_index": jnp.asarray(borrow_index),
        "mark": jnp.asarray(mark),
        "venue": jnp.asarray(mark * np.exp(rng.normal(0, 0.03, shape))),
        "share": jnp.asarray(rng.choice([0.0, 0.37, 1.0, 1.0], POOLS)),
        "fill": jnp.asarray(mark * np.exp(rng.normal(-0.02, 0.05, shape))),
    }


PRICES = ("threshold", "supply_index", "borrow_index", "mark", "venue")


def run_case(case, **changed):
    # through NumPy, so that no weak type starts another compilation
    case = jax.tree.map(np.asarray, {**case, **changed})
    terms = [case["rules"], *(case[k] for k in PRICES)]
    asked = demand(case["loans"], *terms)
    after, done = settle(case["loans"], *terms, asked, case["share"], case["fill"])
    return asked, after, jax.tree.map(np.asarray, done)


def coins_in(loans, case):
    """Gross coins by pool and asset, and gross cash by pool: what differences are measured against."""
    supply, debt, _ = lending.totals(loans, POOLS)
    gross = np.zeros(POOLS)
    np.add.at(gross, np.asarray(loans.block_pool), np.abs(np.asarray(loans.cash)).sum(axis=1))
    return np.asarray(supply * case["supply_index"]), np.asarray(debt * case["borrow_index"]), gross


def close(actual, expected, scale, tolerance=1e-12):
    assert np.all(np.abs(np.asarray(actual) - np.asarray(expected)) <= tolerance * (np.asarray(scale) + 1e-9))


# ---------------------------------------------------------------- the oracle: one account at a time, in plain numbers


def oracle_account(k, d, cash, age, r, mark, venue, fill, share):
    """Coins of supply and debt, cash -> what happens to them. `r` holds the rules of the pool as plain numbers. None when nothing is asked."""
    assets = range(len(k))
    good, owed_cash = max(cash, 0.0), max(-cash, 0.0)
    counted = sum(r["threshold"][a] * k[a] * mark[a] for a in assets) + good
    owed = sum(d[a] * mark[a] for a in assets) + owed_cash
    if counted >= owed:
        return None
    everything = r["rule"] == FULL or counted < r["full_below"] * owed
    # set-off
    both = [min(k[a], d[a]) for a in assets]
    both_usd = sum(both[a] * mark[a] for a in assets)
    both_counted = sum(r["threshold"][a] * both[a] * mark[a] for a in assets)
    theta = 1.0
    if not everything and both_usd > 0:
        if r["rule"] == CLOSE_FACTOR:
            theta = min(1.0, r["close_factor"] * owed / both_usd)
        elif r["target_health"] * both_usd > both_counted:
            theta = (r["target_health"] * owed - counted) / (r["target_health"] * both_usd - both_counted)
            theta = min(1.0, max(0.0, theta))
    set_off = [theta * b for b in both]
    k1, d1 = [k[a] - set_off[a] for a in assets], [d[a] - set_off[a] for a in assets]
    # what is left to repay
    owed1 = sum(d1[a] * mark[a] for a in assets) + owed_cash
    counted1 = sum(r["threshold"][a] * k1[a] * mark[a] for a in assets) + good
    bonus = [min(r["auction_max"], r["auction_start"] + r["auction_growth"] * age) if r["auction"] else r["bonus"][a] for a in assets]
    take = [a for a in assets if r["seizable"][a]]
    pot = sum(k1[a] * mark[a] for a in take) + good
    pot_counted = sum(r["threshold"][a] * k1[a] * mark[a] for a in take) + good
    b = sum(bonus[a] * k1[a] * mark[a] for a in take) / pot if pot > 0 else 0.0
    if theta < 1:
        rho = 0.0
    elif everything:
        rho = owed1
    elif r["rule"] == CLOSE_FACTOR:
        rho = min(owed1, max(0.0, r["close_factor"] * owed - both_usd))
    else:
        per_value = pot_counted / pot * (1 + b) if pot > 0 else 0.0
        rho = owed1
        if r["target_health"] > per_value:
            rho = min(owed1, max(0.0, (r["target_health"] * owed1 - counted1) / (r["target_health"] - per_value)))
    sigma = float(rho > 0)  # what is worth nothing is taken whole
    if pot > 0:
        sigma = min(1.0, rho * (1 + b) / pot)
    seized = [sigma * k1[a] if a in take else 0.0 for a in assets]
    fee = [r["protocol_fee"] * (seized[a] - seized[a] / (1 + bonus[a])) if bonus[a] > 0 else 0.0 for a in assets]

    def trade(price):
        """Coins repaid, cash debt repaid, cash left over."""
        if not r["market_execution"]:
            part = min(rho, sigma * pot / (1 + b)) / owed1 if owed1 > 0 else 0.0
            return [part * x for x in d1], part * owed_cash, 0.0
        proceeds = sum((seized[a] - fee[a]) * price[a] for a in assets) + sigma * good
        cost = sum(d1[a] * price[a] for a in assets) + owed_cash
        part = min(1.0, proceeds / cost) if cost > 0 else 0.0
        return [part * x for x in d1], part * owed_cash, max(0.0, proceeds - cost)

    estimate, estimate_cash, _ = trade(mark)
    worth = sum((seized[a] - fee[a]) * venue[a] for a in assets) + sigma * good
    price_paid = sum(estimate[a] * venue[a] for a in assets) + estimate_cash
    even = 1 + 64 * np.finfo(float).eps
    if not r["market_execution"] and r["required_profit"] > -INF and worth * even < (1 + r["required_profit"]) * price_paid:
        return {"waiting": True}
    repaid, repaid_cash, surplus = trade(fill)
    left_k = [k[a] - share * (set_off[a] + seized[a]) for a in assets]
    left_d = [d[a] - share * (set_off[a] + repaid[a]) for a in assets]
    left_cash = cash + share * (repaid_cash + surplus - sigma * good)
    bare = all(left_k[a] <= 1e-13 * k[a] for a in assets) and left_cash <= 1e-13 * abs(cash)
    written, written_cash = ([max(x, 0.0) for x in left_d], max(-left_cash, 0.0)) if bare else ([0.0] * len(k), 0.0)
    return {
        "waiting": False,
        "notional": sum((set_off[a] + seized[a]) * mark[a] for a in assets) + sigma * good,
        "sold": [seized[a] - fee[a] for a in assets],
        "bought": estimate,
        "seized": [share * x for x in seized],
        "repaid": [share * x for x in repaid],
        "set_off": [share * x for x in set_off],
        "protocol_fee": [share * x for x in fee],
        "written_off": written,
        "written_off_cash": written_cash,
        "deficit": sum(written[a] * mark[a] for a in assets) + written_cash,
        "supply": [0.0] * len(k) if bare else left_k,
        "debt": [0.0] * len(k) if bare else left_d,
        "cash": 0.0 if bare else left_cash,
    }


def flat(loans, slot):
    """Units of supply and debt (n, A), and cash (n,), in the order of the flat accounts."""
    supply = np.stack([np.asarray(x).ravel()[slot] for x in loans.supply], axis=1)
    debt = np.stack([np.asarray(x).ravel()[slot] for x in loans.debt], axis=1)
    return supply, debt, np.asarray(loans.cash).ravel()[slot]


@books
@given(SEEDS)
def test_agrees_with_an_oracle_written_account_by_account(seed):
    """All rules, modes, auctions and profit limits, mixed over pools: every account and every sum to 1e-10."""
    case = random_case(seed)
    asked, after, done = run_case(case)
    supply, debt, cash = flat(case["loans"], case["slot"])
    supply_after, debt_after, cash_after = flat(after, case["slot"])
    age = np.asarray(case["loans"].age).ravel()[case["slot"]]
    pool = np.repeat(np.asarray(case["loans"].block_pool), BLOCK)[case["slot"]]
    plain = {f.name: np.asarray(getattr(case["rules"], f.name)) for f in fields(LendingRules)}
    plain["threshold"] = np.asarray(case["threshold"])
    of = {k: np.asarray(case[k]) for k in ("supply_index", "borrow_index", "mark", "venue", "fill", "share")}
    sums = {k: np.zeros((POOLS, ASSETS)) for k in ("sold", "bought", "seized", "repaid", "set_off", "protocol_fee", "written_off")}
    sums |= {k: np.zeros(POOLS) for k in ("notional", "written_off_cash", "deficit", "triggered", "waiting")}
    for i, v in enumerate(pool):
        k, d = (supply[i] * of["supply_index"][v]).tolist(), (debt[i] * of["borrow_index"][v]).tolist()
        r = {name: x[v] for name, x in plain.items()}
        got = oracle_account(k, d, cash[i], age[i], r, of["mark"][v], of["venue"][v], of["fill"][v], of["share"][v])
        sums["triggered"][v] += got is not None
        if got is None or got["waiting"]:
            sums["waiting"][v] += got is not None
            assert (supply_after[i] == supply[i]).all() and (debt_after[i] == debt[i]).all() and cash_after[i] == cash[i]
            continue
        for name in sums.keys() - {"triggered", "waiting"}:
            sums[name][v] += got[name]
        usd = abs(cash[i]) + np.dot(k, of["fill"][v] + of["mark"][v]) + np.dot(d, of["fill"][v] + of["mark"][v])
        close(supply_after[i] * of["supply_index"][v], got["supply"], k, 1e-10)
        close(debt_after[i] * of["borrow_index"][v], got["debt"], d, 1e-10)
        close(cash_after[i], got["cash"], usd, 1e-10)
    held, owed, gross = coins_in(case["loans"], case)
    scale = gross + ((held + owed) * of["mark"]).sum(axis=1)
    for name, total in sums.items():
        result = getattr(asked if hasattr(asked, name) else done, name)
        close(result, total, scale if total.ndim == 1 else held + owed, 1e-10)


# ---------------------------------------------------------------- conservation


@books
@given(SEEDS)
def test_coins_of_collateral_and_debt_are_conserved(seed):
    case = random_case(seed)
    _, after, done = run_case(case)
    held, owed, _ = coins_in(case["loans"], case)
    held_after, owed_after, _ = coins_in(after, case)
    close(held - held_after, done.seized + done.set_off, held)
    close(owed - owed_after, done.repaid + done.set_off + done.written_off, owed)
    close(done.supply_change * np.asarray(case["supply_index"]), held_after - held, held)
    close(done.debt_change * np.asarray(case["borrow_index"]), owed_after - owed, owed)


@books
@given(SEEDS)
def test_cash_is_conserved(seed):
    case = random_case(seed)
    _, after, done = run_case(case)
    before, later = (np.asarray(lending.totals(x, POOLS)[2]) for x in (case["loans"], after))
    held, owed, gross = coins_in(case["loans"], case)
    fill, market = np.asarray(case["fill"]), np.asarray(case["rules"].market_execution)
    traded = ((done.seized - done.protocol_fee - done.repaid) * fill).sum(axis=1)
    expected = np.where(market, traded, done.repaid_cash - done.seized_cash) + done.written_off_cash
    scale = gross + ((held + owed) * fill).sum(axis=1)
    close(done.cash_change, expected, scale)
    close(later - before, expected, scale)
    assert (done.seized_cash[market] == 0).all() and (done.repaid_cash[market] == 0).all()


@books
@given(SEEDS)
def test_value_at_the_marks_is_lost_to_the_bonus_alone(seed):
    """Where a liquidator acts, equity falls by what he takes less what he pays, and rises by what is written off; set-off changes nothing."""
    case = random_case(seed)
    _, after, done = run_case(case)

    def worth(loans):
        each = lending.equity(loans, case["supply_index"], case["borrow_index"], case["mark"])
        total = np.zeros(POOLS)
        np.add.at(total, np.asarray(loans.block_pool), np.asarray(each).sum(axis=1))
        return total

    mark, liquidator = np.asarray(case["mark"]), ~np.asarray(case["rules"].market_execution)
    taken = (done.seized * mark).sum(axis=1) + done.seized_cash
    given_back = (done.repaid * mark).sum(axis=1) + done.repaid_cash
    held, owed, gross = coins_in(case["loans"], case)
    scale = gross + ((held + owed) * mark).sum(axis=1)
    change = worth(after) - worth(case["loans"])
    close(change[liquidator], (done.deficit - taken + given_back)[liquidator], scale[liquidator])


@books
@given(SEEDS, st.floats(-0.2, 0.3))
def test_a_liquidator_gets_one_plus_the_bonus_for_one(seed, bonus):
    case = random_case(seed)
    loans = replace(case["loans"], cash=-jnp.abs(case["loans"].cash))  # cash carries no bonus
    one = jnp.ones((POOLS,), bool)
    rules = replace(case["rules"], bonus=jnp.full((POOLS, ASSETS), bonus), auction=~one, market_execution=~one)
    _, _, done = run_case(case, loans=loans, rules=rules)
    taken = (done.seized * np.asarray(case["mark"])).sum(axis=1)
    paid = (done.repaid * np.asarray(case["mark"])).sum(axis=1) + done.repaid_cash
    np.testing.assert_allclose(taken, (1 + bonus) * paid, rtol=1e-12, atol=1e-9)


@books
@given(SEEDS)
def test_nothing_turns_negative_or_undefined(seed):
    case = random_case(seed)
    asked, after, done = run_case(case)
    for x in jax.tree.leaves((asked, after, done)):
        assert np.isfinite(np.asarray(x, float)).all()
    for x in (*after.supply, *after.debt):
        assert (np.asarray(x) >= 0).all()
    for name in ("seized", "repaid", "set_off", "protocol_fee", "written_off", "written_off_cash", "deficit", "seized_cash", "repaid_cash"):
        assert (getattr(done, name) >= 0).all(), name
    assert (done.protocol_fee <= done.seized).all()
    # nobody who had no cash debt is put into any
    assert (np.asarray(after.cash)[np.asarray(case["loans"].cash) >= 0] >= 0).all()


@books
@given(SEEDS)
def test_what_was_asked_is_what_is_done_where_all_is_granted(seed):
    """Exactly as sold and bought, when fills are at the marks; in the liquidator's mode at any fill."""
    case = random_case(seed)
    full = jnp.ones((POOLS,))
    asked, _, done = run_case(case, share=full, fill=case["mark"])
    held, owed, _ = coins_in(case["loans"], case)
    close(asked.sold, done.seized - done.protocol_fee, held)
    close(asked.bought, done.repaid, owed)
    asked, _, done = run_case(case, share=full)
    liquidator = ~np.asarray(case["rules"].market_execution)
    close(np.asarray(asked.sold), done.seized - done.protocol_fee, held)
    close(np.asarray(asked.bought)[liquidator], done.repaid[liquidator], owed[liquidator])


@books
@given(SEEDS)
def test_a_share_of_the_capacity_does_that_share_of_everything(seed):
    case = random_case(seed)
    _, _, whole = run_case(case, share=jnp.ones((POOLS,)))
    _, after, part = run_case(case, share=jnp.full((POOLS,), 0.25))
    held, owed, gross = coins_in(case["loans"], case)
    for name, scale in (("seized", held), ("set_off", held), ("protocol_fee", held), ("repaid", owed)):
        close(getattr(part, name), 0.25 * getattr(whole, name), scale)
    for name in ("seized_cash", "repaid_cash"):
        close(getattr(part, name), 0.25 * getattr(whole, name), gross)
    # none: only accounts that never had collateral are written off
    _, after, none = run_case(case, share=jnp.zeros((POOLS,)))
    assert (none.seized == 0).all() and (none.set_off == 0).all() and (none.repaid == 0).all()
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(after.supply, case["loans"].supply, strict=True))


@books
@given(SEEDS)
def test_results_do_not_depend_on_the_layout_of_blocks(seed):
    case = random_case(seed)
    asked, after, done = run_case(case)
    supply, debt, cash = flat(case["loans"], case["slot"])
    pool = np.repeat(np.asarray(case["loans"].block_pool), BLOCK)[case["slot"]]
    age = np.asarray(case["loans"].age).ravel()[case["slot"]]
    order = np.random.default_rng(seed).permutation(len(cash))
    other, slot = book_of(supply, debt, cash, pool, block=3, age=age, order=order)
    asked_other, after_other, done_other = run_case(case, loans=other)
    for x, y in zip(flat(after, case["slot"]), flat(after_other, slot), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(x).max())
    held, owed, gross = coins_in(case["loans"], case)
    scale = {1: gross + ((held + owed) * np.asarray(case["mark"] + case["fill"])).sum(axis=1), 2: held + owed}
    for f in fields(done):
        x = getattr(done, f.name)
        close(getattr(done_other, f.name), x, scale[x.ndim])
    for name in ("triggered", "waiting", "notional", "sold", "bought"):
        x = np.asarray(getattr(asked, name))
        close(getattr(asked_other, name), x, scale[x.ndim])


# ---------------------------------------------------------------- what the rules promise


@books
@given(SEEDS)
def test_restore_comes_back_to_the_target_or_uses_all_it_may(seed):
    case = random_case(seed)
    rules = replace(
        case["rules"],
        rule=jnp.full((POOLS,), RESTORE, jnp.int32),
        market_execution=jnp.zeros((POOLS,), bool),
        full_below=jnp.zeros((POOLS,)),
        required_profit=jnp.full((POOLS,), -INF),
    )
    _, after, _ = run_case(case, rules=rules, share=jnp.ones((POOLS,)))
    args = [case[k] for k in ("threshold", "supply_index", "borrow_index", "mark")]
    was, is_now = (np.asarray(lending.health(x, *args)) for x in (case["loans"], after))
    hit = was < 1
    target = np.asarray(rules.target_health)[np.asarray(after.block_pool)][:, None]
    restored = np.abs(is_now - target) < 1e-9
    may = np.asarray(rules.seizable)[np.asarray(after.block_pool)]
    used = np.maximum(np.asarray(after.cash), 0) == 0
    for a, s in enumerate(after.supply):
        used &= (np.asarray(s) == 0) | ~may[:, a : a + 1]
    assert (restored | np.isinf(is_now) | used)[hit].all()


def test_restore_sets_off_before_it_seizes():
    """100 held and 60 owed in one coin, 30 owed in cash, target 1.25: 1.25 (90 - x) = 0.8 (100 - x) gives x = 72.2, so all 60, and then a sale."""
    rules = {"rule": RESTORE, "target_health": 1.25, "bonus": 0.1}
    _, _, done = run_case(example([1.0], loans=one_account([100.0], [60.0], -30.0), **rules))
    # left: 40 against 30 in cash; 1.25 (30 - rho) = 0.8 (40 - 1.1 rho)
    rho = (1.25 * 30 - 0.8 * 40) / (1.25 - 0.8 * 1.1)
    np.testing.assert_allclose([done.set_off[0, 0], done.seized[0, 0], done.repaid_cash[0]], [60.0, 1.1 * rho, rho], rtol=1e-13)
    # with 90 held, 75 owed and 5 in cash, set-off is enough: 1.25 (80 - x) = 0.8 (90 - x)
    case = example([1.0], loans=one_account([90.0], [75.0], -5.0), **rules)
    _, after, done = run_case(case)
    np.testing.assert_allclose(done.set_off[0, 0], (100 - 72) / 0.45, rtol=1e-13)
    assert done.seized[0, 0] == 0 and done.repaid_cash[0] == 0
    np.testing.assert_allclose(health_of(after, case)[0, 0], 1.25, rtol=1e-13)


def test_restore_repays_all_where_repaying_makes_health_worse():
    """At threshold 0.95 and bonus 15% every dollar repaid takes 1.0925 of weighted collateral, more than a target of 1.05."""
    loans = one_account([120.0, 0.0], [0.0, 115.0])
    _, after, done = run_case(example([1.0], loans=loans, rule=RESTORE, target_health=1.05, bonus=0.15, liquidation_threshold=0.95))
    np.testing.assert_allclose([done.seized[0, 0], done.repaid[0, 1]], [120.0, 120 / 1.15])
    np.testing.assert_allclose(done.deficit[0], 115 - 120 / 1.15)
    assert all((np.asarray(x) == 0.0).all() for x in (*after.supply, *after.debt, after.cash))


def test_health_and_equity_at_the_edges():
    """Nothing owed: infinite health; nothing held: zero; equity below zero counts as latent loss."""
    supply, debt = ([row([x]) for x in xs] for xs in ([2.0, 0.0, 1.0, 0.0], [0.0, 1.0, 2.0, 0.0]))
    loans, slot = book_of(supply, debt, [0.0, 0.0, -5.0, 3.0], [0, 0, 0, 0])
    case = example([10.0])
    np.testing.assert_allclose(health_of(loans, case).ravel()[slot], [INF, 0.0, 8 / 25, INF])
    at = [case[k] for k in ("supply_index", "borrow_index", "mark")]
    np.testing.assert_allclose(np.asarray(lending.equity(loans, *at)).ravel()[slot], [20.0, -10.0, -15.0, 3.0])
    np.testing.assert_allclose(lending.negative_equity(loans, *at), [25.0, 0, 0, 0, 0, 0])


@books
@given(SEEDS)
def test_written_off_accounts_end_with_nothing_and_are_counted(seed):
    case = random_case(seed)
    _, after, done = run_case(case)
    mark = np.asarray(case["mark"])
    _, owed, gross = coins_in(case["loans"], case)
    close(done.deficit, (done.written_off * mark).sum(axis=1) + done.written_off_cash, gross + (owed * mark).sum(axis=1))
    bare = np.asarray(sum(after.supply)) + np.maximum(np.asarray(after.cash), 0) == 0
    owing = np.asarray(sum(after.debt)) + np.maximum(-np.asarray(after.cash), 0) > 0
    newly = np.asarray(after.liquidated)
    assert not (bare & owing & newly).any()
    by_pool = np.zeros(POOLS, int)
    np.add.at(by_pool, np.asarray(after.block_pool), newly.sum(axis=1))
    np.testing.assert_array_equal(done.newly_liquidated, by_pool)


# ---------------------------------------------------------------- auctions and profit


AUCTION = {"rule": FULL, "auction": True, "auction_start": -0.045, "auction_growth": 0.01, "auction_max": 0.02}


def test_a_dutch_auction_clears_when_the_discount_has_grown_enough():
    """From 4.5% above the mark, a point a step: the first buyer comes in the fifth step, and gets half a percent."""
    case = example([100.0], required_profit=0.0, **AUCTION)
    loans = one_account([1.0, 0.0], [0.0, 90.0])
    args = [case[k] for k in ("threshold", "supply_index", "borrow_index", "mark")]
    for step in range(1, 6):
        loans = lending.begin_step(loans, *args)
        assert int(loans.age[0, 0]) == step
        asked, loans, done = run_case(case, loans=loans)
        assert int(asked.triggered[0]) == 1 and int(asked.waiting[0]) == (step < 5)
    np.testing.assert_allclose([done.repaid[0, 1], done.seized[0, 0]], [90.0, 0.9 * 1.005])
    assert int(lending.begin_step(loans, *args).age[0, 0]) == 0


def test_the_bonus_of_an_auction_stops_at_its_maximum():
    old = replace(one_account([1.0, 0.0], [0.0, 90.0]), age=jnp.full((BLOCKS, BLOCK), 50, jnp.int32))
    _, _, done = run_case(example([100.0], loans=old, **AUCTION))
    np.testing.assert_allclose(done.seized[0, 0], 0.9 * 1.02)


@pytest.mark.parametrize(("venue", "protocol_fee", "waits"), [(97.0, 0.0, False), (95.0, 0.0, True), (97.0, 0.5, True)])
def test_liquidation_stalls_while_the_oracle_lags_the_market(venue, protocol_fee, waits):
    """Mark 100, bonus 5%: at 97 in the market 1.05 coins make 101.85 of 100 repaid; at 95 only 99.75.

    What the protocol keeps is not the liquidator's to earn: with half of the bonus gone, 1.025 coins at 97 make 99.4.
    """
    loans = one_account([1.0, 0.0], [0.0, 90.0])
    case = example([100.0], venue=[venue], loans=loans, rule=FULL, bonus=0.05, protocol_fee=protocol_fee, required_profit=0.0)
    asked, after, done = run_case(case)
    assert int(asked.triggered[0]) == 1 and int(asked.waiting[0]) == waits
    assert float(done.repaid[0, 1]) == (0.0 if waits else 90.0)
    assert bool(after.liquidated[0, 0]) == (not waits)


# ---------------------------------------------------------------- worked examples


@pytest.mark.parametrize(
    ("price", "health", "repaid", "deficit"),
    [
        (1000.0, 1.3333333333333333, 0.0, 0.0),  # the health factor of the documentation's example
        (740.0, 5920 / 6000, 3000.0, 0.0),  # between 0.95 and 1: half of the debt
        (700.0, 5600 / 6000, 6000.0, 0.0),  # below 0.95: all of it
        (580.0, 4640 / 6000, 5800 / 1.05, 6000 - 5800 / 1.05),  # all collateral pays for 5,523.81; the rest is burnt
    ],
)
def test_aave_example(price, health, repaid, deficit):
    """10,000 USD in ETH at a threshold of 80% against 6,000 GHO (aave.com/docs, "Liquidations": health factor 1.333).

    With their formulas: up to half the debt, all below 0.95; collateral taken = debt covered * debt price * (1 + bonus) / collateral price;
    the protocol keeps its percentage of `taken - taken / (1 + bonus)` (LiquidationLogic.sol, Aave v3); collateral gone, debt left: burnt as a
    deficit (v3.3). Bonus 5%, protocol's part 10%.
    """
    loans = one_account([10.0, 0.0], [0.0, 6000.0])
    case = example([price], loans=loans, rule=CLOSE_FACTOR, close_factor=0.5, full_below=0.95, bonus=0.05, protocol_fee=0.1)
    np.testing.assert_allclose(health_of(loans, case)[0, 0], health)
    _, after, done = run_case(case)
    taken = repaid * 1.05 / price
    np.testing.assert_allclose([done.repaid[0, 1], done.seized[0, 0]], [repaid, taken])
    np.testing.assert_allclose(done.protocol_fee[0, 0], 0.1 * (taken - taken / 1.05), rtol=1e-12)
    np.testing.assert_allclose([done.deficit[0], done.written_off[0, 1]], [deficit, deficit], atol=1e-11)
    np.testing.assert_allclose(after.supply[0][0, 0], 10.0 - taken, atol=1e-12)
    np.testing.assert_allclose(after.debt[1][0, 0], 6000 - repaid - deficit, atol=1e-12)
    if price == 740.0:  # 4,250 USD at 80% against 3,000
        np.testing.assert_allclose(health_of(after, case)[0, 0], 3400 / 3000)


def test_aave_example_after_interest():
    """The same loan held in units: the supply index has grown to 1.1, the borrow index to 1.25."""
    loans = one_account([10 / 1.1, 0.0], [0.0, 4800.0])
    case = example([740.0], loans=loans, rule=CLOSE_FACTOR, close_factor=0.5, full_below=0.95, bonus=0.05)
    asked, _, _ = run_case(case, supply_index=prices(1.1), borrow_index=prices(1.0, 1.25))
    np.testing.assert_allclose([asked.bought[0, 1], asked.sold[0, 0], asked.notional[0]], [3000.0, 3150 / 740, 3150.0])


def test_spot_margin_loan_is_sold_back_to_its_target():
    """1 BTC bought with 80 borrowed, threshold 0.9, target 1.05. At 85: 1.05 (80 - x) = 0.9 (85 - x) gives x = 50 of sales."""
    rules = {"liquidation_threshold": 0.9, "rule": RESTORE, "target_health": 1.05, "market_execution": True}

    def at(price, fill):
        case = example([price], fill=[fill], loans=one_account([1.0], [0.0], -80.0), **rules)
        asked, after, done = run_case(case)
        return asked, done, float(after.supply[0][0, 0]), float(after.cash[0, 0]), health_of(after, case)[0, 0]

    asked, _, coins, cash, _ = at(89.0, 89.0)  # 80.1 against 80
    assert int(asked.triggered[0]) == 0 and (coins, cash) == (1.0, -80.0)
    asked, _, coins, cash, health = at(85.0, 85.0)
    np.testing.assert_allclose([asked.sold[0, 0], coins, cash, health], [50 / 85, 35 / 85, -30.0, 1.05])
    _, done, coins, cash, _ = at(85.0, 84.0)  # the same coins fetch less
    np.testing.assert_allclose([coins, cash, done.deficit[0]], [35 / 85, -80 + 84 * 50 / 85, 0.0])
    _, done, coins, cash, _ = at(70.0, 69.0)  # under water: all is sold, 11 are lost
    np.testing.assert_allclose([done.written_off_cash[0], done.deficit[0], done.cash_change[0]], [11.0, 11.0, 80.0])
    assert (coins, cash) == (0.0, 0.0)
    _, done, coins, cash, _ = at(82.0, 100.0)  # 68 were to be sold, and fetch more than is owed: the rest is the account's
    np.testing.assert_allclose([coins, cash], [14 / 82, 68 / 82 * 100 - 80])


def test_margin_short_is_bought_back_in_the_market():
    """100 in cash against a coin borrowed. At 101 all cash goes into buying back, at 102: 2/102 of a coin is left owing and lost."""
    loans = one_account([0.0], [1.0], 100.0)
    case = example([101.0], fill=[102.0], loans=loans, rule=RESTORE, target_health=1.25, market_execution=True)
    asked, after, done = run_case(case)
    np.testing.assert_allclose(asked.bought[0, 0], 100 / 101)
    np.testing.assert_allclose([done.repaid[0, 0], done.deficit[0]], [100 / 102, 101 * 2 / 102])
    assert float(after.cash[0, 0]) == 0.0 and float(after.debt[0][0, 0]) == 0.0


# ---------------------------------------------------------------- banks under a leverage limit

#: CET1, leverage ratio in %, debt securities, government bonds (EUR m): six banks of the EBA's stress test of 2018.
BANKS = np.array(
    [
        (14712, 6.55, 34241, 27695),  # AT01
        (9266, 6.12, 19761, 15960),  # AT02
        (8141, 5.59, 14275, 8607),  # BE03
        (15134, 6.08, 46143, 40016),  # BE04
        (17830, 4.41, 43067, 9749),  # DK05
        (76135, 4.68, 131757, 105238),  # FR09
    ]
)


def fire_sale(impact, shock, steps=6):
    """Every bank an account of its own pool: bonds it can sell, other assets it cannot, cash held in the currency that it owes.

    A threshold of 0.96 on everything makes health one at E/A = 4%; the target 0.96 / 0.95 is E/A = 5%, and 0.96 / 0.97 is E/A = 3%.
    Returns defaults, share of bonds sold and prices by step, and the equity of the banks at the end.
    """
    n = len(BANKS)
    own, ratio, securities, government = BANKS.T
    total = own / (ratio / 100)
    corporate = securities - government
    cash = 0.05 * total
    held = np.stack([government, corporate, total - cash - securities, cash], axis=1)
    owed = np.zeros_like(held)
    owed[:, 3] = total - own
    loans, slot = book_of(held, owed, np.zeros(n), np.arange(n))
    rules = rules_for(
        liquidation_threshold=0.96,
        seizable=[True, True, False, False],
        rule=RESTORE,
        target_health=0.96 / 0.95,
        full_below=0.96 / 0.97,
        market_execution=True,
    )
    threshold, one = rules.liquidation_threshold, prices()
    outstanding = np.array([government.sum(), corporate.sum()])
    beta = -np.log(1 - impact) / 0.05
    price = np.array([1 - shock, 1.0])

    defaulted, record = np.zeros(n, bool), {"defaults": [], "sold": [], "price": []}
    sold = np.zeros(2)
    for _ in range(steps):
        mark = prices(*price)
        below = np.asarray(lending.health(loans, threshold, one, one, mark)).ravel()[slot] < 0.96 / 0.97
        record["defaults"].append(int((below & ~defaulted).sum()))
        record["sold"].append(sold.sum() / outstanding.sum())
        record["price"].append(price)
        defaulted |= below
        asked = demand(loans, rules, threshold, one, one, mark, mark)
        now = np.asarray(asked.sold).sum(axis=0)[:2]
        after = price * np.exp(-beta * now / outstanding)
        loans, done = settle(loans, rules, threshold, one, one, mark, mark, asked, jnp.ones((n,)), prices(*(price + after) / 2))
        assert float(np.asarray(done.deficit).max()) == 0.0  # other assets are left, so nothing is written off
        sold, price = sold + now, after
    equity = np.asarray(lending.equity(loans, one, one, prices(*price))).ravel()[slot]
    return record, price, equity


def test_fire_sale_of_leverage_constrained_banks():
    """Bank of England Staff Working Paper 861 (Farmer et al., 2020): figures of its published code, price impact 5%, government bonds down 20%.

    They count steps from the shock, one before the first decision: defaults 0, 1, 5, 0; share sold 0 and, after the first sales, 0.7639.
    """
    record, price, equity = fire_sale(0.05, 0.2)
    assert [0, *record["defaults"]] == [0, 1, 5, 0, 0, 0, 0]
    np.testing.assert_allclose(record["sold"][:3], [0.0, 0.76394670, 1.0], rtol=0, atol=5e-9)
    np.testing.assert_allclose(price, [0.28678874, 0.35848592], rtol=0, atol=5e-9)
    expected = [-7807.0061, -3728.4553, -1043.9243, -3165.1782, 4429.455, 25086.2281]
    np.testing.assert_allclose(equity, expected, rtol=0, atol=5.1e-5)


def test_fire_sale_with_a_deeper_market():
    """The same with a price impact of 1%."""
    _, price, equity = fire_sale(0.01, 0.2)
    np.testing.assert_allclose(price, [0.65432555, 0.81790694], rtol=0, atol=5e-9)
    expected = [4524.849, 3390.6219, 4372.9068, 4439.297, 12848.131, 47232.0505]
    np.testing.assert_allclose(equity, expected, rtol=0, atol=5.1e-5)


# ---------------------------------------------------------------- precision and transformations


def test_float32_conserves_to_its_own_precision():
    for seed in range(12):
        case = random_case(seed)
        single = {
            k: jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, case[k])
            for k in (*PRICES, "loans", "rules", "share", "fill")
        }
        asked, after, done = run_case(single)
        for x in jax.tree.leaves((asked, after, done)):
            assert x.dtype in (np.float32, np.int32, bool) and np.isfinite(np.asarray(x, float)).all()
        held, owed, _ = coins_in(single["loans"], single)
        held_after, owed_after, _ = coins_in(after, single)
        close(held - held_after, done.seized + done.set_off, held, 2e-6)
        close(owed - owed_after, done.repaid + done.set_off + done.written_off, owed, 2e-6)


@jax.jit
def scenarios(case, marks):
    """What is asked and done, and its forward derivative along the marks, for a batch of marks at once."""

    def sums(mark):
        terms = [case[k] for k in ("rules", "threshold", "supply_index", "borrow_index")]
        asked = lending.demand(case["loans"], *terms, mark, case["venue"])
        after, done = lending.settle(case["loans"], *terms, mark, case["venue"], asked, case["share"], case["fill"])
        return asked.notional, asked.sold, asked.bought, after.supply, after.debt, after.cash, done.deficit, done.cash_change

    return jax.vmap(lambda mark: jax.jvp(sums, (mark,), (mark,)))(marks)


@books
@given(SEEDS)
def test_maps_over_scenarios_and_derives(seed):
    """One call over three sets of marks gives what three calls give; derivatives are finite, with empty accounts and prices of zero among them."""
    case = random_case(seed)
    case.pop("slot")
    marks = jnp.stack([case["mark"] * scale for scale in (1.0, 0.9, 0.6)])
    together, tangents = scenarios(case, marks)
    for x in jax.tree.leaves(tangents):
        assert np.isfinite(np.asarray(x)).all()
    for i in range(3):
        asked, after, done = run_case(case, mark=marks[i])
        alone = (asked.notional, asked.sold, asked.bought, after.supply, after.debt, after.cash, done.deficit, done.cash_change)
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-10, atol=1e-10 * np.abs(y).max() + 1e-9)


def test_the_derivative_of_what_is_asked_is_that_of_the_formula():
    """A spot margin loan: x = (1.05 * 80 - 0.9 P) / 0.15 USD are to be sold, so dx/dP = -6, times the tangent P = 85."""
    loans = one_account([1.0], [0.0], -80.0)
    case = example([85.0], loans=loans, liquidation_threshold=0.9, rule=RESTORE, market_execution=True)
    (notional, *_), (tangent, *_) = scenarios(case, jnp.stack([case["mark"]] * 3))
    np.testing.assert_allclose([notional[0, 0], tangent[0, 0]], [50.0, -6.0 * 85.0])
