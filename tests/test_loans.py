"""Lending accounts: against a scalar oracle, what is conserved, and how the computation may be transformed."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine import loans as lending
from stresslev.engine.loans import CLOSE_FACTOR, FULL, RESTORE, LendingRules
from tests.lending_cases import (
    ASSETS,
    BLOCK,
    INF,
    POOLS,
    PRICES,
    SEEDS,
    book_of,
    books,
    close,
    coins_in,
    example,
    flat,
    one_account,
    random_case,
    run_case,
)

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
