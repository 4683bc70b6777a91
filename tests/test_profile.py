"""The liquidation profile does what the accounts do that it stands for, within its error, and keeps the books."""

import dataclasses
import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import load_plan, observe, opening, population, preparation, run
from stresslev.book.distribution import distribution
from stresslev.engine import accounts, profile
from stresslev.engine.leverage import gauge
from stresslev.engine.simulate import all_channels, initial_state, simulate
from stresslev.engine.step import step
from stresslev.engine.types import cast
from stresslev.errors import InputError
from stresslev.stepping import Active
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
    system["impact"] |= {"depth": np.abs(notional).sum() * rng.uniform(0.5, 1.5, assets), "exponent": np.ones(assets)}
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


@cache
def _case():
    return _isolated(5)


def test_the_error_falls_as_cells_are_added():
    """Without impact on prices, so that nothing but the grid makes a difference."""
    case, book, own = _case()
    deep = dataclasses.replace(case.system.impact, depth=case.system.impact.depth * 1e9)
    case = case._replace(system=dataclasses.replace(case.system, impact=deep))
    _, expected = case.simulate(50)
    errors = []
    for cells in (8, 256, 4096, 16384):
        system, together = _profiled(case, book, own, cells=cells)
        _, record = _run(case, system, (together,))
        errors.append(np.abs(_closed(record) - _closed(expected)).sum())
    assert all(many < few / 3 for few, many in itertools.pairwise(errors))


def test_the_liquidation_map_is_read_off_the_profile():
    """Over the whole map: at a single price one large account more or less may be closed."""
    case, book, own = _case()
    system, together = _profiled(case, book, own)
    moves = jnp.linspace(-0.3, 0.3, 31)
    maps = []
    for inner, populations in ((case.system, case.populations), (system, (together,))):
        state = initial_state(inner, populations, policy=case.policy)
        maps.append(np.asarray(gauge.closed_at(state, inner, case.policy.maintenance_multiplier, None, observe.present(state, inner), moves)))
    assert np.abs(maps[0] - maps[1]).sum() < LIQUIDATED * np.abs(maps[0]).sum()
    assert (np.abs(maps[0]).max(axis=(1, 2)) > 0).all()


@pytest.mark.slow
def test_a_profile_is_stepped_in_every_step_of_an_epoch():
    """Half accounts, half profile: epochs give what stepping everybody gives."""
    case, book, own = _case()
    half = np.arange(len(own)) % 2 == 0
    mine = {name: book[name][half] for name in ("pool", "quantity", "equity_at_reference")}
    system, together = _profiled(case, mine, own[half])
    populations = (_emptied(case, ~half), together)
    state = initial_state(system, populations, policy=case.policy)
    active = Active(system, case.policy, all_channels(np.float64), case.path, 50, jnp.asarray(1.0), (1.0,))
    after, records = active.advance(jax.tree.map(jnp.copy, state), 0, case.path.log_price.shape[0])
    expected, record = _run(case, system, populations)
    assert np.allclose(after.populations[1].taken, expected.populations[1].taken, rtol=1e-12)
    assert np.allclose(np.concatenate([r.price for r in records]), record.price, rtol=1e-12)
    assert active.tally.active_steps > 0


def test_one_system_holds_accounts_and_a_profile_side_by_side():
    """Half of the accounts go into a profile: they meet in the same markets and waterfalls, and the books still close."""
    case, book, own = _case()
    other, expected = case.simulate(50)
    half = np.arange(len(own)) % 2 == 0
    mine = {name: book[name][half] for name in ("pool", "quantity", "equity_at_reference")}
    system, together = _profiled(case, mine, own[half])
    rest = _emptied(case, ~half)
    state, record = _run(case, system, (rest, together))
    liquidated, debt = _off(state, record, other, expected)
    assert liquidated < LIQUIDATED
    assert debt < BAD_DEBT
    assert float(jnp.abs(record.flows.cash_residual).max()) < 1e-12 * float(expected.open_interest[0].sum())


def _emptied(case, chosen: np.ndarray) -> accounts.Accounts:
    """The accounts of a case, all but the chosen emptied."""
    keep = np.zeros(case.populations[0].liquidated.size, bool)
    keep[[slot for (_, slot), mine in zip(case.perps, chosen, strict=True) if mine]] = True
    keep = jnp.asarray(keep.reshape(case.populations[0].liquidated.shape))
    p = case.populations[0]
    return dataclasses.replace(
        p, equity_at_reference=jnp.where(keep, p.equity_at_reference, 0), quantity=tuple(jnp.where(keep, q, 0) for q in p.quantity)
    )


def test_nobody_is_closed_in_an_outage():
    case, book, own = _case()
    system, together = _profiled(case, book, own)
    steps = case.path.log_price.shape[0]
    dark = case._replace(path=dataclasses.replace(case.path, outage=jnp.ones((steps, 2), bool)))
    state, record = _run(dark, system, (together,))
    assert float(_closed(record).sum()) == 0
    assert int(record.flows.triggered.sum()) > 0
    assert float(jnp.abs(state.populations[0].taken).max()) == 0


@pytest.mark.parametrize("what", ["multiplier", "depth"])
def test_derivatives_of_a_run_are_those_of_its_differences(what):
    """Forward mode through steps and rounds: bad debt and what is closed by the multiplier of requirements or by depth. No bandwidth is chosen."""
    case, book, own = _case()
    system, together = _profiled(case, book, own, cells=256)
    system = dataclasses.replace(system, insurance_fund=jnp.zeros_like(system.insurance_fund))
    state = initial_state(system, (together,), policy=case.policy)
    channels, rounds = all_channels(np.float64), jnp.int32(2)

    def lost(factor):
        inner, policy = system, case.policy
        if what == "depth":
            inner = dataclasses.replace(system, impact=dataclasses.replace(system.impact, depth=system.impact.depth * factor))
        else:
            policy = dataclasses.replace(policy, maintenance_multiplier=policy.maintenance_multiplier * factor)

        def body(carry, now):
            return step(carry, inner, policy, channels, now, rounds, jnp.asarray(1.0))

        after, record = jax.lax.scan(body, state, case.path)
        return jnp.stack([after.ledger.bad_debt.sum(), record.flows.closed_long.sum(axis=(0, 1))[0]])

    program = jax.jit(lambda x, t: jax.jvp(lost, (x,), (t,)))
    one, small = jnp.asarray(1.0), 1e-6
    _, slope = program(one, one)
    up, down = (program(one + d, one)[0] for d in (small, -small))
    assert np.allclose(slope, (up - down) / (2 * small), rtol=2e-3)
    assert (np.abs(slope) > 0).all()


SHIPPED = "systems/three_perp_venues.toml"


@pytest.mark.slow
def test_what_can_go_into_a_profile_goes_and_the_results_say_they_are_approximate():
    """Of the shipped venues one closes in full without a limit to its capacity."""
    chosen = {}
    for how in ("accounts", "profile"):
        plan = load_plan("gap_35_half_depth", system=SHIPPED, accounts=3000, precision=64, population=how, overrides=["run.measures=false"])
        chosen[how] = run.run_plan(plan).datasets["gap_35_half_depth"]
    exact, approximate = chosen["accounts"], chosen["profile"]
    assert approximate.attrs["approximate"] == 1
    assert 0 < approximate.attrs["profile_share"] < 0.2
    assert "Approximate" in approximate.attrs["status_text"]
    assert "large_venue" in approximate.attrs["population_reasons"]
    assert "approximate" not in exact.attrs
    interest = float(exact.open_interest_usd.isel(time=0).sum())
    for name, bound in (("closed_long_usd", LIQUIDATED), ("closed_short_usd", LIQUIDATED)):
        assert abs(float((exact[name] - approximate[name]).sum())) < bound * interest
    assert abs(float((exact.bad_debt_usd - approximate.bad_debt_usd).isel(time=-1).sum())) < BAD_DEBT * interest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"liquidation": {"rule": "restore"}}, "close accounts in full"),
        ({"liquidation_capacity_usd_per_minute": 1e6}, "capacity"),
        ({"liquidation": {"rule": "full", "auction": {"start": 0.0, "growth_per_minute": 0.01, "most": 0.1}}}, "auction"),
        ({"waterfall": ("insurance_fund", "adl")}, "deleverages"),
        ({"waterfall": ("socialise",)}, "spreads losses"),
        ({"inverse": ("BTC",)}, "fixed USD face"),
    ],
)
def test_what_stands_against_a_profile_is_said(changes, reason):
    plan = load_plan("gap_35_half_depth", system=SHIPPED)
    venue = plan.system.pools["onchain_venue"]
    assert population.why_not(venue) == []
    other = type(venue).model_validate(venue.model_dump() | changes)
    assert any(reason in text for text in population.why_not(other))


def test_a_profile_that_can_hold_nobody_is_refused_with_the_reasons_and_auto_does_without():
    plan = load_plan("gap_35_half_depth", system="systems/venues_and_lenders.toml", accounts=3000)
    book = opening.load_book(plan, opening.shock_of(plan, plan.scenarios[0]))
    with pytest.raises(InputError, match="accounts have owners"):
        population.split(plan, book, "profile")
    parted = population.split(plan, book, "auto")
    assert len(parted.rest) == len(book)
    assert parted.reasons


def test_attribution_is_found_account_by_account():
    plan = load_plan("gap_35_half_depth", system=SHIPPED, accounts=600, population="profile")
    shock = opening.shock_of(plan, plan.scenarios[0])
    book = opening.at_start(plan, opening.load_book(plan, shock), shock)
    assert preparation.prepare(plan, plan.scenarios[0], shock, book).system.profile is not None
    assert preparation.prepare(plan, plan.scenarios[0], shock, book, "accounts").system.profile is None
