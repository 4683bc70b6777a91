"""Cascades with a known answer: the linear cascade (fixed point, critical threshold, its derivatives' meaning) and vulnerable banks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.book.book import Book
from stresslev.config.load import Plan
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import RunSpec, ScenarioSpec, SystemSpec
from stresslev.engine import impact
from stresslev.engine.impact import ImpactRules
from stresslev.engine.simulate import simulate
from stresslev.engine.types import FULL, INSURANCE_FUND, Accounts, Path, Policy, System, cast
from stresslev.opening import shock_of
from stresslev.simulation import simulate_scenario

#: Accounts of the cascade: inverse leverages at the midpoints of as many equal cells of [a, b].
ACCOUNTS = 1 << 16
STEPS = 3


def _linear_system(k: float, m: float) -> System:
    """One asset at 1 USD, one pool, full liquidation, permanent impact that moves the price by k when all of the open interest (1) is sold."""
    one = np.ones(1)
    return cast(
        System(
            reference_price=one,
            tier_floor=np.zeros((1, 1, 1)),
            tier_step=np.full((1, 1, 1), m),
            rule=np.array([FULL], np.int32),
            target_health=one * 1.25,
            close_factor=one,
            full_below=0 * one,
            liquidation_fee=0 * one,
            taker_fee=0 * one,
            liquidator_fee=0 * one,
            takeover=np.zeros(1, bool),
            capacity=one * np.inf,
            insurance_fund=0 * one,
            waterfall=np.array([[INSURANCE_FUND]], np.int32),
            impact=ImpactRules(form=np.array([impact.PRICE_LINEAR], np.int32), depth=one, exponent=one, scale=one * k, quantity=one),
            permanent_share=one,
            transient_decay=0 * one,
            volatility_decay=one * 0.99,
            reference_variance=one * 1e-6,
            depth_volatility_exponent=0 * one,
            depth_floor=one,
            market=np.zeros(1, np.int32),
        ),
        np.float64,
    )


def _book(a: float, b: float) -> Accounts:
    """Longs of equal size, one coin in all at one USD, equity over notional uniform on [a, b]."""
    u = a + (b - a) * (np.arange(ACCOUNTS) + 0.5) / ACCOUNTS
    shape = (ACCOUNTS // 1024, 1024)
    size = np.full(ACCOUNTS, 1 / ACCOUNTS)
    return Accounts(
        equity_at_reference=jnp.asarray((u * size).reshape(shape)),
        quantity=(jnp.asarray(size.reshape(shape)),),
        liquidated=jnp.zeros(shape, bool),
        block_pool=jnp.zeros(shape[0], jnp.int32),
    )


def _fall(a: float, b: float, m: float, k: float, s: float, *, max_rounds: int = 500):
    """Total fall and liquidated share after a shock s and all rounds it sets off."""
    path = Path(log_price=jnp.full((STEPS, 1), np.log1p(-s)), depth_factor=jnp.ones((STEPS, 1)))
    policy = Policy(maintenance_multiplier=jnp.ones((1, 1)))
    state, record = simulate(_linear_system(k, m), policy, (_book(a, b),), path, max_rounds=max_rounds)
    closed = float(np.asarray(record.flows.closed_long).sum())
    return 1 - float(record.price[-1, 0]), closed, float(state.ledger.bad_debt[0])


def _theory(a, b, m, k, s):
    """Fixed point of `x = s + k clip((m + x (1 - m) - a) / (b - a), 0, 1)` reached from below (shared model, section 7)."""
    r = k * (1 - m) / (b - a)
    x = (s + k * (m - a) / (b - a)) / (1 - r)
    return x, (m + x * (1 - m) - a) / (b - a), r


@pytest.mark.parametrize(("k", "s"), [(0.05, 0.10), (0.10, 0.12), (0.20, 0.08), (0.25, 0.06)])
def test_the_linear_cascade_ends_at_its_fixed_point(k, s):
    """Fall and liquidated share for feedback r from 0.16 to 0.82, as close as a book of single accounts can come; the next test goes to 1e-6."""
    a, b, m = 0.05, 0.35, 0.02
    x, share, r = _theory(a, b, m, k, s)
    assert 0 < share < 1 and r < 1
    fall, closed, _ = _fall(a, b, m, k, s)
    # the book is made of cells: whole accounts are sold, so the share moves in steps of 1 / ACCOUNTS, which feedback amplifies
    cell = 1 / ACCOUNTS
    assert abs(closed - share) <= cell / (1 - r) + 1e-12
    assert abs(fall - x) <= k * cell / (1 - r) + 1e-12
    assert abs(fall - (s + k * closed)) < 1e-12


def test_the_fall_converges_to_theory_with_the_cells_of_the_book():
    """Where theory's threshold falls on the edge of a cell the engine meets the fixed point to 1e-6 and far better."""
    a, b, m, k = 0.05, 0.35, 0.02, 0.15
    r = k * (1 - m) / (b - a)
    for cells in (8192, 20000, 40000):
        share = cells / ACCOUNTS
        x = (a - m + share * (b - a)) / (1 - m)
        s = x - k * share
        fall, closed, _ = _fall(a, b, m, k, s + 1e-12)
        assert closed == pytest.approx(share, abs=1e-12)
        assert fall == pytest.approx(x, abs=1e-6) and abs(fall - x) < 1e-11
        assert x == pytest.approx(_theory(a, b, m, k, s)[0], abs=1e-12) and r < 1


def test_amplification_of_a_further_fall_is_one_over_one_minus_r():
    a, b, m, k = 0.05, 0.35, 0.02, 0.2
    r = k * (1 - m) / (b - a)

    def shock(cells):
        share = cells / ACCOUNTS
        return (a - m + share * (b - a)) / (1 - m) - k * share + 1e-12

    first, second = shock(10_000), shock(20_000)
    rise = _fall(a, b, m, k, second)[0] - _fall(a, b, m, k, first)[0]
    assert rise / (second - first) == pytest.approx(1 / (1 - r), rel=1e-6)


def test_beyond_the_critical_feedback_any_fall_that_reaches_one_account_takes_all():
    a, b, m = 0.05, 0.35, 0.02
    critical = (b - a) / (1 - m)
    reach = (a - m) / (1 - m)  # the fall at which the first account goes
    k = 1.02 * critical
    for s in (reach + 2e-5, reach + 0.01):
        fall, closed, _ = _fall(a, b, m, k, s, max_rounds=5000)
        assert closed == pytest.approx(1, abs=1e-12) and fall == pytest.approx(s + k, abs=1e-6)
    fall, closed, _ = _fall(a, b, m, k, reach - 1e-4)
    assert closed == 0 and fall == pytest.approx(reach - 1e-4, abs=1e-9)
    # below it the same small fall stays small
    x, _, _ = _theory(a, b, m, 0.9 * critical, reach + 0.001)
    fall, closed, _ = _fall(a, b, m, 0.9 * critical, reach + 0.001, max_rounds=5000)
    assert closed < 0.2 and fall == pytest.approx(x, abs=5e-4)


def test_bad_debt_without_impact_is_that_of_the_uniform_book():
    """All filled at fall x: `(x - a)^2 / (2 (b - a))` of open interest (shared model, section 7); nothing moves the price here."""
    a, b, m, x = 0.05, 0.35, 0.02, 0.2
    _, _, debt = _fall(a, b, m, 1e-12, x)
    assert debt == pytest.approx((x - a) ** 2 / (2 * (b - a)), abs=1e-6)


def test_vulnerable_banks_lose_what_linear_algebra_says():
    """First-round losses of banks that sell back to their leverage targets, `1' A M L M' B A M f` (Greenwood, Landier and Thesmar 2015, eq. 7)."""
    rng = np.random.default_rng(3)
    banks, names = 5, ("X", "Y", "Z")
    total = rng.uniform(50, 200, banks)  # A, assets in USD
    leverage = rng.uniform(4, 20, banks)  # B, debt over equity
    weights = rng.dirichlet(np.ones(len(names)), banks)  # M
    shock = np.array([1e-5, 0.0, 3e-5])  # f, falls
    depth = np.array([3e3, 5e3, 9e3])  # USD that move the price by 1%: L = 0.01 / depth
    limit = leverage / (1 + leverage)  # debt over assets at the target
    reserve = {"bonus": 0.0, "borrowable": False}
    system = SystemSpec.model_validate(
        {
            "kind": "system",
            "name": "banks",
            "assets": {
                n: {"depth_usd": d, "volatility": 1.0, "permanent_share": 1.0, "depth_volatility_exponent": 0.0, "price_usd": 1.0}
                for n, d in zip(names, depth, strict=True)
            }
            | {"USD": {"depth_usd": 1e15, "volatility": 1.0, "peg_usd": 1.0}},
            "pools": {
                f"bank{i}": {
                    "kind": "lending",
                    "insurance_fund_usd": 0,
                    "liquidation": {"rule": "restore", "target_health": 1 + 1e-12, "full_below": 0.0, "execution": "market"},
                    "reserves": {n: reserve | {"liquidation_threshold": limit[i] * (1 + 1e-11)} for n in names}
                    | {"USD": {"collateral": False, "rate": {"slope1": 0.0, "slope2": 0.0}}},
                }
                for i in range(banks)
            },
            "book": {"file": "none.csv"},
        }
    )
    quantity = np.vstack([(total[:, None] * weights).T, -total * limit])
    book = Book(
        pools=tuple(system.pools),
        assets=(*names, "USD"),
        pool=np.arange(banks, dtype=np.int32),
        equity=total * (1 - limit),
        quantity=quantity,
        reference_price=np.ones(4),
        account=np.arange(banks).astype(str),
    )
    paths = {n: {"minutes": [0, 1], "prices": [1.0, 1.0 - f]} for n, f in zip(names, shock, strict=True)}
    scenario = ScenarioSpec.model_validate(
        {"kind": "scenario", "name": "s", "title": "s", "origin": "hypothetical", "severity": "severe", "duration_minutes": 1, "paths": paths}
    )
    run = RunSpec(precision=64, max_rounds=1)
    plan = Plan("banks", "banks", "", system, (scenario,), PolicySpec(), run, {}, {"system": "x", "suite": "x", "scenario:s": "x"})
    with jax.enable_x64(True):
        ds = simulate_scenario(plan, scenario, shock_of(plan, scenario), book)
    moved = 1 - (ds.price_usd / ds.exogenous_price_usd).isel(time=-1).sel(asset=list(names)).values
    lost = (total[:, None] * weights * moved).sum()
    expected = total @ weights @ np.diag(0.01 / depth) @ weights.T @ np.diag(leverage) @ (total * (weights @ shock))
    assert expected > 0 and lost == pytest.approx(expected, rel=1e-3)
