"""Books of lending accounts for tests: rules, random cases and small examples, and what one demand and its settlement do to them."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from stresslev.engine import loans as lending
from stresslev.engine.loans import FULL, LendingRules, Loans

SEEDS = st.integers(min_value=0, max_value=2**31)
#: Every seed is a book of 96 accounts.
books = settings(max_examples=40)
#: One shape for nearly all cases, so that little is compiled; worked examples use pool 0 and the first assets.
POOLS, ASSETS, BLOCK, BLOCKS = 6, 4, 8, 12
INF = float("inf")

demand = jax.jit(lending.demand)
settle = jax.jit(lending.settle)


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
    # blocks must be in order of pools
    block_pool += block_pool[-1:] * (BLOCKS - len(block_pool))

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


def flat(loans, slot):
    """Units of supply and debt (n, A), and cash (n,), in the order of the flat accounts."""
    supply = np.stack([np.asarray(x).ravel()[slot] for x in loans.supply], axis=1)
    debt = np.stack([np.asarray(x).ravel()[slot] for x in loans.debt], axis=1)
    return supply, debt, np.asarray(loans.cash).ravel()[slot]
