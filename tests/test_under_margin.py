"""Who is under margin is decided once in a round, by `demand`: whoever is taken out of its answer is left alone by all that follows."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import accounts as perps
from stresslev.engine import adl, winners
from stresslev.engine.accounts import Fills
from stresslev.engine.health import Prices
from tests import lending_cases as lending
from tests.systems import GROUPS, engine_case, random_case

DEMAND, SETTLE, BANKRUPT, AVAILABLE = (jax.jit(f) for f in (perps.demand, perps.settle, perps.bankrupt, winners.available))


def _fallen(seed):
    """A population of perp accounts with entry prices after a fall by a third, and the fills of all that it asks for, a little lower still."""
    case = engine_case(*random_case(seed, GROUPS["settling"]))
    multiplier = case.policy.maintenance_multiplier
    reference = jnp.broadcast_to(case.system.reference_price[None, :], multiplier.shape)
    price, zero = reference * (2 / 3), jnp.zeros_like(reference)
    seen = Prices(mark=price, mark_displaced=price - reference, venue=price, venue_displaced=price - reference, funding=zero)
    fills = Fills(
        share=jnp.ones(reference.shape[0]),
        grant=None,
        displaced=reference * (0.65 - 1),
        displaced_after=reference * (0.64 - 1),
        assumed=None,
    )
    return case.populations[0], (case.system, multiplier, seen), fills


def _without(asked, block, slot):
    fewer = replace(asked, under=asked.under.at[block, slot].set(False))
    if hasattr(asked, "asked"):
        # what is asked of each account is part of the answer
        fewer = replace(fewer, asked=replace(asked.asked, share=asked.asked.share.at[block, slot].set(0)))
    return fewer


def _by_pool(population, values, pools):
    """(nb, B) summed by pool."""
    total = np.zeros(pools)
    np.add.at(total, np.asarray(population.block_pool), np.asarray(values, float).sum(axis=1))
    return total


def _touched(before, after):
    """(nb, B) whether anything that an account holds has changed."""
    return sum(np.asarray(a != b).astype(int) for a, b in _per_account(before, after)) > 0


def _two_of(touched):
    """Two accounts of the block where most are touched: blocks are gathered whole, so that both have company that is settled."""
    block = touched.sum(axis=1).argmax()
    slots = np.flatnonzero(touched[block])
    assert len(slots) > 1
    return (block, slots[0]), (block, slots[-1])


def _per_account(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [(a, b) for a, b in pairs if np.ndim(a) == 2]


def _assert_one_is_left_alone(before, whole, after, block, slot):
    """The account is as it was, everybody else as if it had been settled."""
    alone = np.zeros(_per_account(before, before)[0][0].shape, bool)
    alone[block, slot] = True
    for (untouched, settled), (_, now) in zip(_per_account(before, whole), _per_account(before, after), strict=True):
        np.testing.assert_array_equal(now, np.where(alone, untouched, settled))


@pytest.mark.parametrize("seed", range(6))
def test_an_account_that_demand_did_not_find_is_not_settled(seed):
    accounts, terms, fills = _fallen(seed)
    asked = DEMAND(accounts, *terms)
    whole, everything = SETTLE(accounts, *terms, asked, fills)
    pools = len(everything.deficit)
    for block, slot in _two_of(_touched(accounts, whole)):
        after, done = SETTLE(accounts, *terms, _without(asked, block, slot), fills)
        _assert_one_is_left_alone(accounts, whole, after, block, slot)
        # the books are those of the accounts that were settled
        scale = np.abs(np.asarray(accounts.equity_at_reference)).sum()
        change = after.equity_at_reference - accounts.equity_at_reference
        np.testing.assert_allclose(done.cash_change, _by_pool(accounts, change, pools), atol=1e-12 * scale)
        for a, (q, k) in enumerate(zip(accounts.quantity, after.quantity, strict=True)):
            np.testing.assert_allclose(done.quantity_change[:, a], _by_pool(accounts, k - q, pools), atol=1e-12 * np.abs(q).sum())
        np.testing.assert_array_equal(done.newly_liquidated, _by_pool(accounts, after.liquidated, pools))
        assert np.sum(everything.newly_liquidated - done.newly_liquidated) == 1


def test_an_account_that_demand_did_not_find_is_not_among_the_bankrupt():
    """Deficits told before the fill are those of the settlement, whoever is in it."""
    seen = 0
    for seed in range(6):
        accounts, terms, fills = _fallen(seed)
        asked = DEMAND(accounts, *terms)
        whole, everything = SETTLE(accounts, *terms, asked, fills)
        for block, slot in np.argwhere(_touched(accounts, whole)):
            less = _without(asked, block, slot)
            _, done = SETTLE(accounts, *terms, less, fills)
            before = BANKRUPT(accounts, *terms, less, fills.share, None, fills.displaced)
            np.testing.assert_allclose(before.deficit, done.deficit, rtol=1e-12)
            seen += int(np.sum(everything.deficit - done.deficit) > 0)
    assert seen > 5


@pytest.mark.parametrize("seed", range(6))
def test_an_account_that_demand_found_is_no_winner(seed):
    """Pro rata to equity everybody in good health takes part, with all that he holds, until he is said to be under margin."""
    accounts, (system, multiplier, seen), _ = _fallen(seed)
    system = replace(system, adl=jnp.full_like(system.adl, adl.PRO_RATA_EQUITY))
    under = DEMAND(accounts, system, multiplier, seen).under
    held = sum(np.abs(q) for q in accounts.quantity) > 0
    block, slot = np.argwhere(~np.asarray(under) & held)[0]
    pool = int(accounts.block_pool[block])
    before = AVAILABLE(accounts, system, multiplier, seen, under)
    after = AVAILABLE(accounts, system, multiplier, seen, under.at[block, slot].set(True))
    for side, had, has in zip((1, -1), before, after, strict=True):
        fewer = np.zeros(had.shape)
        fewer[pool] = [max(side * float(q[block, slot]), 0) for q in accounts.quantity]
        np.testing.assert_allclose(had - has, fewer, atol=1e-12 * np.abs(had).max())


@pytest.mark.parametrize("seed", range(6))
def test_a_loan_that_demand_did_not_find_is_not_settled(seed):
    case = lending.random_case(seed)
    loans, share = case["loans"], jnp.ones_like(case["share"])
    terms = [case["rules"], *(case[k] for k in lending.PRICES)]
    asked = lending.demand(loans, *terms)
    whole, everything = lending.settle(loans, *terms, asked, share, case["fill"])
    for block, slot in _two_of(_touched(loans, whole)):
        after, done = lending.settle(loans, *terms, _without(asked, block, slot), share, case["fill"])
        _assert_one_is_left_alone(loans, whole, after, block, slot)
        # the books are those of the accounts that were settled
        for name, changes in (("supply", done.supply_change), ("debt", done.debt_change)):
            for a, (was, now) in enumerate(zip(getattr(loans, name), getattr(after, name), strict=True)):
                np.testing.assert_allclose(changes[:, a], _by_pool(loans, now - was, lending.POOLS), atol=1e-12 * np.abs(was).sum())
        scale = np.abs(loans.cash).sum() + sum(float(np.sum(getattr(done, f.name))) for f in fields(done) if "cash" in f.name)
        np.testing.assert_allclose(done.cash_change, _by_pool(loans, after.cash - loans.cash, lending.POOLS), atol=1e-12 * scale)
        assert np.sum(everything.newly_liquidated - done.newly_liquidated) == 1
