"""The liquidation profile does what the accounts do that it stands for, within its error, and keeps the books."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import load_plan, population, run, simulation
from stresslev.book.distribution import distribution
from stresslev.engine import accounts, profile
from stresslev.engine.simulate import all_channels, initial_state, simulate
from stresslev.engine.step import step
from stresslev.engine.types import cast
from stresslev.errors import InputError
from tests.systems import engine_case, random_case

#: What a profile may be off by, as shares of the open interest at the start.
LIQUIDATED, BAD_DEBT = population.LIQUIDATED_ERROR, population.BAD_DEBT_ERROR


def _isolated(seed: int, side: float = 0.6, n: int = 12_000):
    """A thin case of two pools and three assets in which every account holds one position and is closed in full; `side` is the share of longs."""
    system, book, path = random_case(4 * (seed // 4) + 1, accounts=n)
    rng = np.random.default_rng(seed)
    pools, assets = system["n_pools"], system["n_assets"]
    n = len(book["pool"])
    own = rng.integers(0, assets, n)
    notional = (1 + rng.pareto(1.5, n)).clip(max=20) * 2e3 * np.where(rng.random(n) < side, 1, -1)
    book["quantity"] = np.where(np.arange(assets) == own[:, None], notional[:, None], 0.0) / system["reference_price"]
    book["equity_at_reference"] = np.abs(notional) / np.exp(rng.normal(1.8, 0.8, n)).clip(0.5, 40)
    system["rule"], system["capacity"] = ["full"] * pools, np.full(pools, np.inf)
    system["liquidator_fee"], system["takeover"] = np.array([0.001, 0.0]), np.array([False, True])
    # a feedback gain well below one: near one, a coin more or less decides how far a cascade runs
    system["impact"] |= {"depth": np.abs(notional).sum() * rng.uniform(0.02, 0.1, assets), "exponent": np.ones(assets)}
    trend = -0.025 if side >= 0.5 else 0.025
    path["log_price"] = np.cumsum(rng.normal(trend, 0.03, path["log_price"].shape), axis=0)
    return engine_case(system, book, path), book, own


def _profiled(case, book, own, cells: int = 4096, sizes: int = 24):
    """The system and the population of the same accounts as a profile."""
    quantity = book["quantity"][np.arange(len(own)), own]
    given = {"pool": book["pool"], "asset": own, "quantity": quantity, "equity": book["equity_at_reference"]}
    found = distribution(case.system, case.policy.maintenance_multiplier, **given, cells=cells, sizes=sizes)
    system = dataclasses.replace(case.system, profile=cast(found, np.float64))
    return system, profile.initial(system.profile, len(case.system.insurance_fund))


def _run(case, system, populations):
    return simulate(system, case.policy, populations, case.path, max_rounds=50)


def _closed(record) -> np.ndarray:
    return np.asarray(record.flows.closed_long_usd + record.flows.closed_short_usd).sum(axis=0)


def _off(state, record, other, expected) -> tuple[float, float]:
    """Difference in what was liquidated, and in bad debt, over open interest."""
    interest = float(expected.open_interest[0].sum())
    debt = float(state.ledger.bad_debt.sum() - other.ledger.bad_debt.sum())
    return abs(float(_closed(record).sum() - _closed(expected).sum())) / interest, abs(debt) / interest


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.6, 1.0]))
def test_a_profile_liquidates_and_loses_what_its_accounts_would_within_the_stated_error(seed, side):
    """Longs alone, shorts alone, and both; conservation along the way."""
    case, book, own = _isolated(seed, side)
    other, expected = case.simulate(50)
    system, together = _profiled(case, book, own)
    state, record = _run(case, system, (together,))
    liquidated, debt = _off(state, record, other, expected)
    assert liquidated < LIQUIDATED
    assert debt < BAD_DEBT
    assert float(expected.flows.newly_liquidated.sum()) > 0
    money = float(expected.open_interest[0].sum())
    for residual in (record.flows.cash_residual, record.flows.quantity_residual * record.price[:, None, :]):
        assert float(jnp.abs(residual).max()) < 1e-12 * money
