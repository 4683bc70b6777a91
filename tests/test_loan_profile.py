"""The liquidation profile of loans does what the loans do that it stands for, within its error, and keeps the books."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev import load_plan, observe, opening, population, run
from stresslev.book.distribution import distribution, loan_distribution
from stresslev.engine import loan_profile, loans, profile
from stresslev.engine.health import Prices
from stresslev.engine.lenders import Terms
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import LendingRules, Loans
from stresslev.engine.simulate import simulate
from stresslev.engine.types import cast
from stresslev.errors import InputError
from tests.systems import engine_case, random_case

#: What a profile may be off by, as shares of the loans at the start.
LIQUIDATED, BAD_DEBT = population.LIQUIDATED_ERROR, population.BAD_DEBT_ERROR
POOLS, ASSETS, STEPS, LENT, BLOCK = 2, 3, 10, 12_000, 128
USD = ASSETS


@dataclasses.dataclass(frozen=True)
class _Lender:
    """All of a system that loans and their profile look at."""

    reference_price: jax.Array
    lending: object
    loan_profile: object = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Lending:
    rules: LendingRules


jax.tree_util.register_dataclass(_Lender, ["reference_price", "lending", "loan_profile"], [])


def _rules(rng) -> LendingRules:
    threshold = rng.uniform(0.6, 0.9, (POOLS, ASSETS))
    none = np.zeros(POOLS)
    return LendingRules(
        liquidation_threshold=threshold,
        seizable=np.ones((POOLS, ASSETS), bool),
        bonus=np.minimum(rng.choice([0.0, 0.05, 0.1], (POOLS, ASSETS)), 1 / threshold - 1),
        protocol_fee=rng.choice([0.0, 0.1, 1.0], POOLS),
        rule=np.full(POOLS, loans.FULL, np.int32),
        close_factor=none + 0.5,
        full_below=none,
        target_health=none + 1.25,
        market_execution=none > 0,
        auction=none > 0,
        auction_start=none,
        auction_growth=none,
        auction_max=none,
        required_profit=rng.choice([-np.inf, 0.0, 0.02], POOLS),
    )


def _lent(seed: int, n: int = LENT):
    """Loans of one collateral, coins or USD, against one debt; some are under margin or under water from the start."""
    rng = np.random.default_rng(seed)
    price, rules = np.exp(rng.uniform(-2, 8, ASSETS)), _rules(rng)
    pool, held = rng.integers(0, POOLS, n), rng.integers(0, ASSETS + 1, n)
    owes = (held + rng.integers(1, ASSETS + 1, n)) % (ASSETS + 1)
    usd = np.append(price, 1.0)
    weight = np.concatenate([rules.liquidation_threshold, np.ones((POOLS, 1))], axis=1)
    owed = (1 + rng.pareto(1.5, n)).clip(max=20) * 1e3 / usd[owes]
    supplied = owed * usd[owes] / (weight[pool, held] * usd[held]) * np.maximum(1 + 0.7 * np.exp(rng.normal(0, 0.7, n)) - 0.3, 0.1)
    return rng, price, rules, {"pool": pool, "collateral": held, "debt": owes, "supplied": supplied, "owed": owed}


def _population(book) -> Loans:
    """The same loans one by one, pool by pool in blocks."""
    blocks = 2 * -(-LENT // (POOLS * BLOCK))
    slots = np.zeros(len(book["pool"]), int)
    for v in range(POOLS):
        mine = book["pool"] == v
        slots[mine] = v * blocks * BLOCK + np.arange(mine.sum())

    def lay(values):
        out = np.zeros(POOLS * blocks * BLOCK)
        out[slots] = values
        return jnp.asarray(out.reshape(-1, BLOCK))

    supply = [lay(np.where(book["collateral"] == a, book["supplied"], 0)) for a in range(ASSETS + 1)]
    debt = [lay(np.where(book["debt"] == a, book["owed"], 0)) for a in range(ASSETS + 1)]
    nothing = jnp.zeros(supply[0].shape, jnp.int32)
    return Loans(
        supply=tuple(supply[:ASSETS]),
        debt=tuple(debt[:ASSETS]),
        cash=supply[USD] - debt[USD],
        liquidated=nothing > 0,
        age=nothing,
        block_pool=jnp.asarray(np.repeat(np.arange(POOLS, dtype=np.int32), blocks)),
    )


def _path(rng, price, trend: float):
    """Marks, venue prices, indices and shares over the steps; a pool may be out for a step."""
    shape = (STEPS, POOLS, ASSETS)
    move = np.cumsum(
        trend * rng.uniform(0.2, 1, (1, 1, ASSETS)) * rng.choice([-1, 1], (1, 1, ASSETS), p=[0.8, 0.2]) + rng.normal(0, 0.04, shape), axis=0
    )
    mark = price * np.exp(move)
    return {
        "mark": mark,
        "venue": mark * np.exp(rng.normal(-0.01, 0.03, shape)),
        "supply_index": np.cumprod(1 + rng.uniform(0, 0.002, shape), axis=0),
        "borrow_index": np.cumprod(1 + rng.uniform(0, 0.01, shape), axis=0),
        "share": np.where(rng.random((STEPS, POOLS)) < 0.15, 0.0, 1.0),
    }


def _seen(now):
    zero = jnp.zeros_like(now["mark"])
    return Prices(mark=now["mark"], mark_displaced=zero, venue=now["venue"], venue_displaced=zero, funding=zero)


@jax.jit
def _one_by_one(found: Loans, rules, path):
    def body(p, now):
        given = (p, rules, rules.liquidation_threshold, now["supply_index"], now["borrow_index"], now["mark"], now["venue"])
        asked = loans.demand(*given)
        p, done = loans.settle(*given, asked, now["share"], now["mark"])
        return p, (asked.triggered, asked.waiting, asked.notional, asked.sold, asked.bought, done)

    return jax.lax.scan(body, found, path)


@jax.jit
def _together(together: LoanProfile, system, path):
    def body(p, now):
        terms = Terms(system.lending.rules.liquidation_threshold, now["supply_index"], now["borrow_index"])
        asked = loan_profile.demand(p, system, terms, _seen(now))
        p, done = loan_profile.settle(p, system, terms, _seen(now), asked, now["share"])
        return p, (asked.triggered, asked.waiting, asked.notional, asked.sold, asked.bought, done)

    return jax.lax.scan(body, together, path)


def _profiled(price, rules, book, cells: int = 4096):
    system = _Lender(reference_price=jnp.asarray(price), lending=_Lending(jax.tree.map(jnp.asarray, rules)))
    found = cast(loan_distribution(system, rules.liquidation_threshold, **book, cells=cells), np.float64)
    return dataclasses.replace(system, loan_profile=found), loan_profile.initial(found)


def _both(seed: int, trend: float):
    rng, price, rules, book = _lent(seed)
    path = _path(rng, price, trend)
    system, start = _profiled(price, rules, book)
    return price, path, book, system, _one_by_one(_population(book), rules, path), start, _together(start, system, path)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([-0.06, 0.06, 0.15]))
def test_a_profile_liquidates_and_loses_what_its_loans_would_within_the_stated_error(seed, trend):
    """Collateral that falls, debts that rise, interest, fees, liquidators who wait, outages: everything that is asked and settled, step by step."""
    price, path, book, system, (_, exact), start, (after, mine) = _both(seed, trend)
    lent = float((book["owed"] * np.append(price, 1.0)[book["debt"]]).sum())
    *asked, done = mine
    *expected, settled = exact
    off = jax.tree.map(lambda x, y: np.asarray(x - y, float), (asked[2:], done), (expected[2:], settled))
    notional, sold, bought = off[0]
    assert np.abs(notional.sum(axis=0)).max() < LIQUIDATED * lent
    for coins in (sold, bought, off[1].seized, off[1].repaid, off[1].protocol_fee):
        assert np.abs((coins * path["mark"]).sum(axis=0)).max() < LIQUIDATED * lent
    for usd in (off[1].seized_cash, off[1].repaid_cash):
        assert np.abs(usd.sum(axis=0)).max() < LIQUIDATED * lent
    for usd in (off[1].deficit, off[1].written_off_cash, (off[1].written_off * path["mark"]).sum(axis=2)):
        assert np.abs(usd.sum(axis=0)).max() < BAD_DEBT * lent
    assert np.abs(off[1].newly_liquidated.sum(axis=0)).max() < max(LIQUIDATED * LENT, 4)
    # who waits in one step may be liquidated in the next
    assert np.abs(np.asarray(asked[1]) - np.asarray(expected[1])).max() < LIQUIDATED * LENT
    assert int(np.asarray(settled.newly_liquidated).sum()) > 50
    assert float(np.asarray(settled.deficit).sum()) > 0
    _assert_books_close(price, path, system, start, after, done)


def _assert_books_close(price, path, system, start, after, done):
    """Units of every pool and asset, and cash, to rounding; and the identities of `LoanSettlement`."""
    before, ends = (loan_profile.totals(p, system) for p in (start, after))
    for old, new, changed in zip(before, ends, (done.supply_change, done.debt_change, done.cash_change), strict=True):
        assert float(jnp.abs(new - old - changed.sum(axis=0)).max()) <= 1e-12 * float(jnp.abs(old).max())
    scale = 1e-12 * float(jnp.abs(before[1] * price[None, :]).max())
    for change, index, parts in (
        (done.supply_change, path["supply_index"], done.seized + done.set_off),
        (done.debt_change, path["borrow_index"], done.repaid + done.set_off + done.written_off),
    ):
        assert float(jnp.abs((change * index + parts) * path["mark"]).max()) <= scale
    assert float(jnp.abs(done.cash_change - (done.repaid_cash - done.seized_cash + done.written_off_cash)).max()) <= scale
    lost = (done.written_off * path["mark"]).sum(axis=2) + done.written_off_cash
    assert float(jnp.abs(done.deficit - lost).max()) <= scale
    assert (np.asarray(after.left) >= 0).all()
    assert float(sum(x.min() for x in ends[:2])) >= 0


def test_the_error_falls_as_cells_are_added():
    rng, price, rules, book = _lent(3)
    path = _path(rng, price, -0.06)
    _, (*_, exact) = _one_by_one(_population(book), rules, path)
    errors = []
    for cells in (64, 4096):
        _, (*_, done) = _together(*reversed(_profiled(price, rules, book, cells)), path)
        errors.append(float(jnp.abs((done.repaid - exact.repaid) * path["mark"]).sum() + jnp.abs(done.deficit - exact.deficit).sum()))
    assert errors[1] < errors[0] / 8


def test_reverse_mode_derivatives_are_those_of_differences():
    """Of what is repaid and lost by all thresholds, prices and what is owed at once. No bandwidth is chosen."""
    rng, price, rules, book = _lent(4)
    path = jax.tree.map(jnp.asarray, _path(rng, price, -0.06) | {"share": np.ones((STEPS, POOLS))})
    system, start = _profiled(price, dataclasses.replace(rules, required_profit=np.full(POOLS, -np.inf)), book)
    ways = {
        n: jnp.asarray(np.random.default_rng(i).uniform(0.5, 1, s))
        for i, (n, s) in enumerate({"threshold": (POOLS, ASSETS), "mark": (ASSETS,)}.items())
    }

    def lost(bump):
        moved = system.lending.rules.liquidation_threshold * (1 + bump["threshold"])
        other = dataclasses.replace(system, lending=_Lending(dataclasses.replace(system.lending.rules, liquidation_threshold=moved)))
        way = path | {"mark": path["mark"] * (1 + bump["mark"])[None, None, :]}
        _, (*_, done) = _together(start, other, way)
        return done.deficit.sum() + (done.repaid * way["mark"]).sum()

    nowhere = jax.tree.map(jnp.zeros_like, ways)
    slope = jax.grad(lost)(nowhere)
    for name, way in ways.items():
        up, down = (lost(nowhere | {name: d * way}) for d in (1e-6, -1e-6))
        assert np.isclose(float((slope[name] * way).sum()), float(up - down) / 2e-6, rtol=2e-3)
        assert (slope[name] != 0).sum() > 1


@cache
def _mixed():
    """A system of two venues and a lender: isolated positions, loans of one collateral and one debt, and loans that are not."""
    system, book, path = random_case(8, ("lending", "socialise"), accounts=6000)
    rng, one = np.random.default_rng(8), np.arange(3)
    price, lent, rules = system["reference_price"], book["loans"], system["lending"]["rules"]
    n = len(lent["pool"])
    single, held = rng.random(n) < 0.8, rng.integers(0, 3, n)
    owes = (held + rng.integers(1, 4, n)) % 4  # 3 is USD
    in_force = np.maximum(1 - system["maintenance_multiplier"][2] * (1 - rules["liquidation_threshold"][2]), 0)
    usd = (1 + rng.pareto(1.5, n)).clip(max=20) * 1e4
    debt = usd * in_force[held] / (1 + 0.5 * np.exp(rng.normal(-0.5, 0.7, n)))
    lent["supply"] = np.where(single[:, None], np.where(one == held[:, None], usd[:, None], 0) / price, lent["supply"])
    lent["debt"] = np.where(single[:, None], np.where(one == owes[:, None], debt[:, None], 0) / price, lent["debt"])
    lent["cash"] = np.where(single, np.where(owes == 3, -debt, 0), lent["cash"])
    system["lending"]["deposits"][2] = lent["debt"].sum(axis=0) * 1.2
    never = np.zeros(3, bool)
    rules |= {"rule": ["full"] * 3, "market_execution": never, "auction": never, "required_profit": np.full(3, -np.inf)}
    rules |= {"seizable": np.ones((3, 3), bool), "bonus": np.minimum(rules["bonus"], 1 / rules["liquidation_threshold"] - 1)}
    system["rule"], system["capacity"], system["insurance_fund"] = ["full"] * 3, np.full(3, np.inf), np.zeros(3)
    system["waterfall"] = [["insurance_fund"], ["insurance_fund"], ["insurance_fund", "socialise"]]
    own = rng.integers(0, 3, len(book["pool"]))
    size = (1 + rng.pareto(1.5, len(own))).clip(max=20) * 1e4 * rng.choice([-1, 1], len(own), p=[0.4, 0.6])
    book["quantity"] = np.where(one == own[:, None], size[:, None] / price, 0)
    book["equity_at_reference"] = np.abs(size) / np.exp(rng.normal(1.8, 0.8, len(own))).clip(0.5, 40)
    # a feedback gain well below one: near one, a coin more or less decides how far a cascade runs
    system["impact"] |= {"depth": np.full(3, np.abs(size).sum() + usd.sum()) * 2, "exponent": np.ones(3)}
    path["log_price"] = np.cumsum(rng.normal(-0.03, 0.04, path["log_price"].shape), axis=0)
    path["log_price"][6:, 1] -= 0.3  # more than any margin: losses for the deposits
    return engine_case(system, book, path), book, own, single, held, owes


def _emptied(p, pairs, chosen):
    """A population, all but the chosen accounts emptied."""
    keep = np.zeros(p.liquidated.size, bool)
    keep[[slot for (_, slot), mine in zip(pairs, chosen, strict=True) if mine]] = True
    keep = jnp.asarray(keep.reshape(p.liquidated.shape))
    return jax.tree.map(lambda x: jnp.where(keep, x, 0) if x.shape == keep.shape and x.dtype == jnp.float64 else x, p)


@cache
def _parted():
    """The mixed system: loans, a profile of positions and a profile of loans."""
    case, book, own, single, held, owes = _mixed()
    multiplier, lent = case.policy.maintenance_multiplier, book["loans"]
    quantity = book["quantity"][np.arange(len(own)), own]
    found = distribution(case.system, multiplier, pool=book["pool"], asset=own, quantity=quantity, equity=book["equity_at_reference"])
    threshold = np.maximum(1 - np.asarray(multiplier) * (1 - np.asarray(case.system.lending.rules.liquidation_threshold)), 0)
    rows = np.flatnonzero(single)
    owed = np.concatenate([lent["debt"], np.maximum(-lent["cash"], 0)[:, None]], axis=1)[rows, owes[rows]]
    given = {"collateral": held[rows], "debt": owes[rows], "supplied": lent["supply"][rows, held[rows]], "owed": owed}
    of_loans = loan_distribution(case.system, threshold, pool=lent["pool"][rows], **given)
    system = dataclasses.replace(case.system, profile=cast(found, np.float64), loan_profile=cast(of_loans, np.float64))
    rest = _emptied(case.populations[1], case.loans, ~single)
    return case, system, (rest, profile.initial(system.profile, 3), loan_profile.initial(system.loan_profile))


@cache
def _mixed_runs():
    """Final states and records: all loans one by one beside a profile that holds none, and most of them in it. One program."""
    case, system, (rest, positions, together) = _parted()
    nobody = dataclasses.replace(system.loan_profile, table=jnp.zeros_like(system.loan_profile.table))
    one_by_one = dataclasses.replace(system, loan_profile=nobody), (case.populations[1], positions, together)
    parted = system, (rest, positions, together)
    return tuple(simulate(s, case.policy, p, case.path, max_rounds=50) for s, p in (one_by_one, parted))


def test_loans_and_both_profiles_meet_in_one_system():
    """The same markets, deposits and waterfalls: what is liquidated and lost as loan by loan, and the books close."""
    (other, expected), (state, record) = _mixed_runs()
    money = float(expected.open_interest[0].sum() + expected.borrowed[0].sum())
    for side in ("closed_long_usd", "closed_short_usd"):
        assert np.abs((getattr(record.flows, side) - getattr(expected.flows, side)).sum(axis=(0, 2))).max() < LIQUIDATED * money
    assert np.abs(record.flows.deficit - expected.flows.deficit).sum(axis=0).max() < BAD_DEBT * money
    assert np.abs(state.ledger.bad_debt - other.ledger.bad_debt).max() < BAD_DEBT * money
    assert np.allclose(record.supplied[-1], expected.supplied[-1], rtol=2e-3)
    assert np.allclose(record.borrowed[-1], expected.borrowed[-1], rtol=2e-3)
    lender = np.asarray(expected.flows.socialised)[:, 2].sum(), np.asarray(expected.flows.newly_liquidated)[:, 2].sum()
    assert lender[0] > 0
    assert 100 < lender[1] < 1900
    flows, price = record.flows, record.price[:, None, :]
    for residual in (flows.cash_residual, flows.quantity_residual * price, flows.coins_residual * price):
        assert float(jnp.abs(residual).max()) < 1e-12 * money


def _maps(plan, ds):
    """USD of ether that lender_a would sell, less buy, at the start: as read off the profile, and loan by loan."""
    book, pool = opening.load_book(plan, opening.shock_of(plan, plan.scenarios[0])), plan.system.pools["lender_a"]
    found = ds.liquidation_map_usd.isel(map_time=0).sel(pool="lender_a", asset="ETH")
    ether, terms = list(book.assets).index("ETH"), [pool.reserves.get(a) for a in book.assets]
    threshold, bonus = (np.array([0 if r is None else getattr(r, name) for r in terms]) for name in ("liquidation_threshold", "bonus"))
    value = (book.quantity * book.reference_price[:, None])[:, book.pool == 0]
    moved = []
    for move in observe.MOVES:
        worth = value * np.where(np.arange(len(value)) == ether, 1 + move, 1)[:, None]
        held, owed, what = worth.max(axis=0), -worth.min(axis=0), worth.argmax(axis=0)
        factor, under = 1 + bonus[what], threshold[what] * held < owed
        seized = np.where(under & (what == ether), np.minimum(owed * factor, held), 0)
        bought = np.where(under & (worth.argmin(axis=0) == ether), np.minimum(owed, held / factor), 0)
        moved.append((seized * (1 - pool.protocol_fee * bonus[what] / factor) - bought).sum())
    assert max(moved) > 0 > min(moved)
    return found.values, np.array(moved)


LENDERS = "experiments/bench/systems/two_lenders.toml"


def test_a_lending_system_runs_as_a_profile_and_says_that_it_is_approximate():
    """By epochs, in which there is nobody who could sleep."""
    how = {"accounts": 2000, "population": "profile", "stepping": "active"}
    plan = load_plan("gap_35_half_depth", system=LENDERS, overrides=["scenario.duration_minutes=40", "run.liquidation_map=true"], **how)
    found = run.run_plan(plan)
    ds, metrics = found.datasets["gap_35_half_depth"], found.metrics["gap_35_half_depth"]
    assert ds.attrs["population"] == "profile"
    assert ds.attrs["profile_accounts"] == 2000
    assert ds.attrs["stepping_epochs"] > 0
    assert "positions and loans" in ds.attrs["status_text"]
    assert np.allclose(*_maps(plan, ds), rtol=0, atol=LIQUIDATED * float(ds.borrowed_usd.isel(time=0).sum()))
    assert float(ds.deficit_usd.sum()) > 0
    assert metrics["total_residual"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rule": "close_factor"}, "repaid in part"),
        ({"rule": "restore"}, "repaid in part"),
        ({"execution": "market"}, "sells collateral in the market"),
        ({"auction": {"start": 0.0, "growth_per_minute": 0.01, "most": 0.1}}, "auction"),
        ({"rule": "close_factor", "close_factor": 1.0}, None),
    ],
)
def test_what_stands_against_a_profile_of_loans_is_said(changes, reason):
    lender = load_plan("gap_35_half_depth", system=LENDERS).system.pools["lender_a"]
    assert population.why_not(lender) == []
    terms = lender.model_dump()
    other = type(lender).model_validate(terms | {"liquidation": terms["liquidation"] | changes})
    against = population.why_not(other)
    assert (against == []) == (reason is None)
    assert all(reason in text for text in against)
    capped = type(lender).model_validate(terms | {"liquidation_capacity_usd_per_minute": 1e6})
    assert any("capacity" in text for text in population.why_not(capped))


def test_loans_of_several_collaterals_or_debts_stay_accounts():
    plan = load_plan("gap_35_half_depth", system=LENDERS, accounts=2000)
    book = opening.load_book(plan, opening.shock_of(plan, plan.scenarios[0]))
    mine = np.flatnonzero(book.pool == 0)
    assets = list(book.assets)
    book.quantity[assets.index("ETH"), mine[:3]] += 1e6  # a second collateral, or less of the debt
    book.quantity[:, mine[3]] = 0  # neither: its equity is USD
    parted = population.split(plan, book, "auto")
    assert set(np.flatnonzero(~np.isin(np.arange(len(book)), parted.rows))) <= set(mine[:4])
    assert mine[3] not in parted.rows
    assert len(parted.rest) == len(book) - len(parted.rows) > 0
    assert any("one collateral" in reason for reason in parted.reasons)


def test_a_book_without_such_loans_is_refused():
    plan = load_plan("gap_35_half_depth", system=LENDERS, accounts=2000, overrides=["system.pools.lender_b.liquidation.rule='restore'"])
    book = opening.load_book(plan, opening.shock_of(plan, plan.scenarios[0]))
    everybody = population.take(book, book.pool == 1)
    with pytest.raises(InputError, match="repaid in part"):
        population.split(plan, everybody, "profile")
