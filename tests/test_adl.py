"""Auto-deleveraging and socialised loss: figures of venues, and what each rule does and does not leave unchanged."""

import csv
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine import adl
from stresslev.engine.margin import bankruptcy_price
from stresslev.engine.socialise import haircut

QUEUES = (adl.QUEUE_PNL_LEVERAGE, adl.QUEUE_PNL, adl.QUEUE_HYPERLIQUID)
PRO_RATA = (adl.PRO_RATA_PNL, adl.PRO_RATA_EQUITY)
DELEVERAGE, HAIRCUT = jax.jit(adl.deleverage), jax.jit(haircut)


@dataclass
class Book:
    """One asset. `posted` is the money behind a position without its profit; every account holds just this asset."""

    quantity: np.ndarray  # (nb, B)
    entry: np.ndarray
    posted: np.ndarray
    mark: np.ndarray  # (nb, 1)
    block_pool: np.ndarray

    @property
    def equity(self):
        return self.posted + self.quantity * (self.mark - self.entry)

    def close(self, policy, side, target):
        """(nb, B) coins closed; one rule for all pools or one for each."""
        target = np.atleast_1d(np.asarray(target, float))
        policy = np.broadcast_to(np.asarray(policy, np.int32), target.shape)
        gross = np.abs(self.quantity) * self.mark
        args = (self.quantity, self.entry, self.mark, self.equity, gross, self.block_pool)
        return np.asarray(DELEVERAGE(policy, side, *args, target))


def one_pool(mark, *accounts) -> Book:
    """Accounts (quantity, entry, posted) of one pool, in one block."""
    quantity, entry, posted = (np.array([column], float) for column in zip(*accounts, strict=True))
    return Book(quantity, entry, posted, np.array([[float(mark)]]), np.zeros(1, np.int32))


def random_book(seed: int) -> Book:
    """Five blocks of four accounts in two pools with different marks: longs and shorts, winners, losers and accounts under water."""
    rng = np.random.default_rng(seed)
    block_pool = rng.permutation(np.array([0, 1, 0, 1, 0], np.int32))
    mark = np.array([100.0, 7.0])[block_pool][:, None]
    entry = mark * rng.uniform(0.5, 2.0, (5, 4))
    quantity = rng.exponential(size=(5, 4)) * rng.choice([-1, 1], (5, 4))
    posted = np.abs(quantity) * entry * rng.uniform(0.02, 1.0, (5, 4))
    return Book(quantity, entry, posted, mark, block_pool)


def held(book: Book, side) -> np.ndarray:
    """(nb, B) coins of the candidates."""
    return np.where(book.equity > 0, np.maximum(side * book.quantity, 0), 0)


def by_pool(book: Book, values) -> np.ndarray:
    return np.array([values[book.block_pool == v].sum() for v in (0, 1)])


books = st.builds(random_book, st.integers(0, 2**32 - 1))
sides = st.sampled_from([1, -1])
policies = st.tuples(*[st.sampled_from(QUEUES + PRO_RATA)] * 2)
shares = st.floats(0.01, 0.95)


# What venues have published


@pytest.mark.parametrize("policy", QUEUES + PRO_RATA)
def test_dydx_deleverages_dave_against_carl_at_carls_bankruptcy_price(policy):
    """dYdX v4 chain tests: Carl, short 1 BTC with 54,999, meets Dave, long 1 BTC with 50,000: both flat, Carl 0, Dave 104,999."""
    quantity, quote, mark, reference = np.array([[-1.0, 1.0]]), np.array([[54_999.0, 50_000.0]]), 55_000.0, 50_000.0
    book = Book(quantity, np.full((1, 2), 50_000.0), quote + quantity * 50_000.0, np.array([[mark]]), np.zeros(1, np.int32))
    np.testing.assert_array_equal(book.equity, quote + quantity * mark)
    granted = book.close(policy, 1, 1.0)
    np.testing.assert_array_equal(granted, [[0, 1]])
    price = float(bankruptcy_price(-1.0, book.equity[0, 0], mark))
    assert price == 54_999
    flat, cash = adl.book(quantity, quote + quantity * reference, granted + np.array([[1.0, 0.0]]), np.array([[price - reference]]))
    np.testing.assert_array_equal(flat, [[0, 0]])
    np.testing.assert_array_equal(cash, [[0, 104_999]])


def test_flox_closes_the_short_with_the_higher_pnl_ratio_and_it_forgoes_the_deficit():
    """FLOX without a fund: a long of 10 at 100 with 50 meets mark 40, deficit 550. Of the shorts of 5 and 10 at 100, each with 100, only the second
    is closed and ends with 150."""
    book = one_pool(40, (10, 100, 50), (-5, 100, 100), (-10, 100, 100))
    deficit = -book.equity[0, 0]
    assert deficit == 550
    granted = book.close(adl.QUEUE_PNL, -1, 10.0)
    np.testing.assert_array_equal(granted, [[0, 0, 10]])
    price = float(bankruptcy_price(10.0, -deficit, 40.0))
    quantity, cash = adl.book(book.quantity, book.posted, granted, np.array([[price - 100]]))
    np.testing.assert_array_equal(quantity, [[10, -5, 0]])
    np.testing.assert_array_equal(cash, [[50, 100, 150]])
    assert book.equity[0, 2] - cash[0, 2] == deficit


@pytest.mark.parametrize("policy", QUEUES)
def test_of_equal_scores_the_lower_account_is_closed_first(policy):
    book = one_pool(40, (10, 100, 50), (-10, 100, 100), (-10, 100, 100))
    np.testing.assert_array_equal(book.close(policy, -1, 12.0), [[0, 10, 2]])


def test_vega_socialises_a_shortfall_pro_rata_to_gains():
    """Short 100 at 100 with 5,000 at mark 180: shortfall 3,000; gains of 8,000 and 80 are cut by 2970.297 and 29.703."""
    shortfall = 100 * (180 - 100) - 5000
    gains = np.array([[0.0, 8000.0, 80.0]])
    charge, rest = HAIRCUT(gains, gains, np.zeros(1, np.int32), np.array([float(shortfall)]))
    np.testing.assert_array_equal(np.round(charge, 3), [[0, 2970.297, 29.703]])
    assert float(rest[0]) == 0


def test_uncovered_losses_of_1125_real_clusters(real_data):
    """Hyperliquid, 2025-10-10 (Chitra, Xu, Thogiti and Trujillo 2025, per-cluster queue metrics): a cluster's loss against what the queue took from
    winners leaves the published residual and overshoot. One pool per cluster; total uncovered 16,690,263.85 USD."""
    if real_data is None:
        return
    with open(real_data / "adl_20251010_mit" / "per_shock_metrics_queue.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    loss, taken, residual, overshoot = (
        np.array([float(r[name]) for r in rows]) for name in ("deficit_usd", "budget_queue_usd", "residual_queue_usd", "overshoot_queue_usd")
    )
    parts = taken[:, None] * np.array([[0.7, 0.3]])
    charge, rest = HAIRCUT(parts, parts, np.arange(len(rows), dtype=np.int32), loss)
    tolerance = 1e-12 * max(loss.max(), taken.max())
    np.testing.assert_allclose(rest, residual, atol=tolerance)
    np.testing.assert_allclose(taken - np.asarray(charge).sum(axis=1), overshoot, rtol=1e-12, atol=tolerance)
    assert round(float(rest.sum()), 2) == 16_690_263.85


# Ranks


def _key(policy, side, mark, *accounts):
    book = one_pool(mark, *accounts)
    rule = np.full((1, 1), policy, np.int32)
    key, _ = adl.scores(rule, side, book.quantity, book.entry, book.mark, book.equity, np.abs(book.quantity) * book.mark)
    return np.asarray(key)[0]


@pytest.mark.parametrize("side", [1, -1])
def test_return_times_leverage_in_profit_and_over_leverage_at_a_loss(side):
    """Binance JEX help page "ADL Sequence" (2019): mark over (mark less bankruptcy price) is the leverage."""
    mark, q = 110.0, side * 2.0
    for entry in (100.0, 120.0):
        posted = 60.0
        bankruptcy = entry - side * posted / 2.0
        leverage = mark / (side * (mark - bankruptcy))
        gain = side * (mark - entry) / entry
        expected = gain * leverage if gain > 0 else gain / leverage
        assert _key(adl.QUEUE_PNL_LEVERAGE, side, mark, (q, entry, posted)) == pytest.approx(expected, rel=1e-14)


def test_hyperliquid_index_of_a_long_and_its_mirror_for_a_short():
    """mark / entry x notional / account value (Hyperliquid documentation, "Auto-deleveraging")."""
    assert _key(adl.QUEUE_HYPERLIQUID, 1, 120, (3, 100, 40)) == pytest.approx(120 / 100 * 360 / (40 + 60))
    assert _key(adl.QUEUE_HYPERLIQUID, -1, 100, (-3, 120, 40)) == pytest.approx(120 / 100 * 300 / (40 + 60))


def test_flox_ratio_to_posted_margin_ranks_like_the_ratio_to_equity():
    rng = np.random.default_rng(1)
    accounts = [(-q, 100 * e, m) for q, e, m in zip(*rng.uniform(0.5, 3, (3, 30)), strict=True)]
    keep = [(q, e, m) for q, e, m in accounts if m - q * (e - 90) > 0]
    ratio = [q * (90 - e) / m for q, e, m in keep]
    np.testing.assert_array_equal(np.argsort(_key(adl.QUEUE_PNL, -1, 90, *keep)), np.argsort(ratio))


@given(books, sides, policies)
def test_queues_close_all_in_profit_before_any_at_a_loss_and_pro_rata_to_profit_closes_no_loser(book, side, policy):
    profit = side * (book.mark - book.entry) > 0
    winners = by_pool(book, np.where(profit, held(book, side), 0))
    losers = by_pool(book, np.where(profit, 0, held(book, side)))
    granted = book.close(policy, side, winners + 0.5 * losers)
    for v, rule in enumerate(policy):
        mine = book.block_pool == v
        if rule in QUEUES:
            np.testing.assert_allclose(granted[mine][profit[mine]], held(book, side)[mine][profit[mine]], rtol=1e-12)
        if rule == adl.PRO_RATA_PNL:
            assert (granted[mine][~profit[mine]] == 0).all()


def test_a_pool_with_another_code_closes_nobody():
    assert not one_pool(40, (-10, 100, 100)).close(-1, -1, 3.0).any()


# Invariance


@given(books, sides, policies, shares)
def test_what_is_closed_is_the_target_and_no_more_than_is_held(book, side, policy, share):
    """Pro rata to profit has enough in the winners' coins only."""
    can = held(book, side)
    winners = np.where(side * (book.mark - book.entry) > 0, can, 0)
    there = np.array([by_pool(book, winners if rule == adl.PRO_RATA_PNL else can)[v] for v, rule in enumerate(policy)])
    granted = book.close(policy, side, share * there)
    assert (granted >= 0).all() and (granted <= can).all()
    np.testing.assert_allclose(by_pool(book, granted), share * there, rtol=1e-14)
    np.testing.assert_array_equal(by_pool(book, book.close(policy, side, 3 * there + 1)), there)


@given(books, sides, policies, shares, shares)
def test_monotone_in_the_target(book, side, policy, share, more):
    target = share * by_pool(book, held(book, side))
    little, much = book.close(policy, side, more * target), book.close(policy, side, target)
    assert (little <= much + 1e-13 * target.max()).all()


@given(books, sides, policies, shares, st.floats(1e-3, 1e3))
def test_invariant_to_scale(book, side, policy, share, c):
    target = share * by_pool(book, held(book, side))
    scaled = replace(book, quantity=c * book.quantity, posted=c * book.posted)
    expected = c * book.close(policy, side, target)
    np.testing.assert_allclose(scaled.close(policy, side, c * target), expected, rtol=1e-11, atol=1e-12 * expected.max())


@given(books, sides, policies, shares, st.randoms(use_true_random=False))
def test_invariant_to_the_order_of_accounts(book, side, policy, share, random):
    """Accounts move within and between the blocks of their pool; no two scores are equal."""
    target = share * by_pool(book, held(book, side))
    order = np.arange(book.quantity.size)
    slot_pool = np.repeat(book.block_pool, 4)
    for v in (0, 1):
        mine = list(order[slot_pool == v])
        random.shuffle(mine)
        order[slot_pool == v] = mine
    moved = replace(book, **{name: getattr(book, name).ravel()[order].reshape(5, 4) for name in ("quantity", "entry", "posted")})
    expected = book.close(policy, side, target)
    np.testing.assert_allclose(moved.close(policy, side, target), expected.ravel()[order].reshape(5, 4), rtol=1e-11, atol=1e-12 * target.max())


@given(books, sides, st.sampled_from(PRO_RATA), shares, shares, st.integers(0, 18))
def test_pro_rata_rules_are_invariant_to_splitting_an_account(book, side, policy, share, part, who):
    """The last slot stands empty and takes in a part of another account of the pool; together they close as much as the one."""
    book = replace(book, block_pool=np.zeros(5, np.int32), mark=np.full((5, 1), 50.0))
    book.quantity[-1, -1] = book.posted[-1, -1] = 0
    split = replace(book, **{name: getattr(book, name).copy() for name in ("quantity", "entry", "posted")})
    for values in (split.quantity, split.posted):
        values.flat[19] = part * values.flat[who]
        values.flat[who] *= 1 - part
    split.entry.flat[19] = split.entry.flat[who]
    target = share * np.array([held(book, side).sum()])
    before, after = book.close(policy, side, target), split.close(policy, side, target)
    joined = after.copy()
    joined.flat[who] += after.flat[19]
    joined.flat[19] = 0
    np.testing.assert_allclose(joined, before, rtol=1e-11, atol=1e-12 * target[0])


@pytest.mark.parametrize("policy", QUEUES)
def test_queues_are_not_invariant_to_splitting_an_account(policy):
    """Two like accounts, 10 coins to close: the first bears all. Half of it opened anew at the end of the line escapes."""
    one, half = (-10, 100, 100), (-5, 100, 50)
    np.testing.assert_array_equal(one_pool(40, one, one).close(policy, -1, 10.0), [[10, 0]])
    np.testing.assert_array_equal(one_pool(40, half, one, half).close(policy, -1, 10.0), [[5, 5, 0]])


@pytest.mark.parametrize("policy", QUEUES)
def test_queues_reward_parking_most_of_the_money_beside_half_of_the_position(policy):
    """The same coins and money in two accounts: the one with most of the money falls behind a third party. Pro rata to profit does not care."""
    whole, third = (-10, 100, 100), (-10, 100, 130)
    lean, fat = (-5, 100, 10), (-5, 100, 90)
    np.testing.assert_array_equal(one_pool(40, whole, third).close(policy, -1, 10.0), [[10, 0]])
    np.testing.assert_array_equal(one_pool(40, lean, fat, third).close(policy, -1, 10.0), [[5, 0, 5]])
    pro_rata = one_pool(40, lean, fat, third).close(adl.PRO_RATA_PNL, -1, 10.0)
    np.testing.assert_allclose(pro_rata, [[2.5, 2.5, 5]], rtol=1e-14)


def test_negative_equity_is_no_candidate():
    """Under water by its other positions, though this one is in profit."""
    for policy in QUEUES + PRO_RATA:
        granted = one_pool(40, (-10, 100, -700), (-10, 100, 100)).close(policy, -1, 15.0)
        np.testing.assert_array_equal(granted, [[0, 10]])


# Booking and socialising


@given(books, sides, policies, shares, st.floats(-20, 20))
def test_deleveraging_at_the_mark_leaves_equity_and_at_another_price_moves_it_by_the_coins(book, side, policy, share, away):
    target = share * by_pool(book, held(book, side))
    granted = book.close(policy, side, target)
    reference = 50.0
    before = book.posted + book.quantity * (reference - book.entry)
    quantity, cash = adl.book(book.quantity, before, granted, book.mark + away - reference)
    after = np.asarray(cash) + np.asarray(quantity) * (book.mark - reference)
    np.testing.assert_allclose(after - book.equity, side * granted * away, atol=1e-10)
    assert (np.asarray(quantity)[granted == np.abs(book.quantity)] == 0).all()


@given(st.integers(0, 2**32 - 1), st.just(0.0) | st.floats(1e-3, 3))
def test_charge_and_rest_are_the_loss_and_nobody_pays_above_the_cap(seed, share):
    rng = np.random.default_rng(seed)
    weight, cap = rng.exponential(size=(5, 4)), rng.normal(1, 1, (5, 4))
    weight[rng.random((5, 4)) < 0.3] = 0
    block_pool = np.array([1, 0, 0, 1, 0], np.int32)
    able = np.where(weight > 0, np.maximum(cap, 0), 0)
    able = np.array([able[block_pool == v].sum() for v in (0, 1, 2)])
    loss = share * able + np.array([0.0, 0.0, 1.0])  # the third pool has no accounts
    charge, rest = (np.asarray(x) for x in HAIRCUT(weight, cap, block_pool, loss))
    assert (charge >= 0).all() and (charge <= np.maximum(cap, 0)).all() and (rest >= 0).all()
    paid = np.array([charge[block_pool == v].sum() for v in (0, 1, 2)])
    np.testing.assert_allclose(paid + rest, loss, rtol=1e-14)
    if share < 0.999:
        assert (rest[:2] == 0).all()


def test_single_precision_stays_single_and_many_rules_can_be_tried_at_once():
    book = random_book(4)
    f = np.float32
    arrays = [x.astype(f) for x in (book.quantity, book.entry, book.mark, book.equity, np.abs(book.quantity) * book.mark)]
    target = (0.4 * by_pool(book, held(book, 1))).astype(f)
    rules = jnp.array([[p, p] for p in QUEUES + PRO_RATA], jnp.int32)
    many = jax.jit(jax.vmap(lambda rule: adl.deleverage(rule, 1, *arrays, book.block_pool, target)))(rules)
    assert many.dtype == f
    for rule, granted in zip(rules, many, strict=True):
        np.testing.assert_allclose(granted, book.close(np.asarray(rule), 1, target), rtol=1e-5, atol=1e-5)
