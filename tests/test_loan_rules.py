"""Lending accounts: what the rules promise, auctions, worked examples of Aave's formulas, a spot margin loan, and banks under a leverage limit."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from stresslev.engine import loans as lending
from stresslev.engine.loans import CLOSE_FACTOR, FULL, RESTORE
from tests.lending_cases import (
    BLOCK,
    BLOCKS,
    INF,
    POOLS,
    SEEDS,
    book_of,
    books,
    close,
    coins_in,
    demand,
    example,
    health_of,
    one_account,
    prices,
    random_case,
    row,
    rules_for,
    run_case,
    settle,
)


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
