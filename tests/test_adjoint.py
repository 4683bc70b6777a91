"""Reverse mode through a run: the values of production, derivatives that differences agree with, and memory that grows with the root of the steps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from stresslev import gradient
from stresslev.engine import adjoint
from stresslev.engine.floats import split
from stresslev.engine.liquidation import restore_fraction
from stresslev.engine.simulate import simulate
from tests.systems import engine_case, random_case

_ACCOUNTS, _STEPS, _SEEDS = 1024, 16, (0, 4, 8, 12, 16, 20)


def _number(record, state):
    """Something of everything: prices, fees, deficits, sales, and what is left to accounts and funds."""
    usd = jnp.sum(record.flows.fees) + jnp.sum(record.flows.closed_long_usd) + jnp.sum(record.flows.deficit) + jnp.sum(state.ledger.insurance_fund)
    return jnp.sum(jnp.log(record.price)) + 1e-6 * (usd + jnp.sum(state.populations[0].equity_at_reference))


@pytest.fixture(scope="module")
def cases():
    """One pool, one asset: closing in full or restoring, tiers, fees, capacity, impact that decays, depth that thins. Half of them restore."""
    found = []
    for seed in _SEEDS:
        system, book, path = random_case(seed, accounts=_ACCOUNTS, steps=_STEPS)
        system["rule"] = [("full", "restore")[len(found) % 2]]
        found.append(engine_case(system, book, path))
    return found


def _gradient(case, stepping):
    return gradient.value_and_grad(_number, case.system, case.policy, case.populations, case.path, stepping=stepping, shares=(1.0,))


def _compiled(case, path):
    """The program that steps everybody there and back, over any path of one length, in segments as a large population's is."""
    more = {"rounds": 3, "history": 1, "notice": 1, "segment": None}
    ways = gradient.all_channels(jnp.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjoint, "WHOLE", 0)
        return gradient._everybody.lower(Partial(_number), None, case.system, case.policy, case.populations, path, ways, None, **more).compile()


@pytest.fixture(scope="module")
def program(cases):
    return _compiled(cases[0], cases[0].path)


@pytest.fixture(scope="module")
def gradients(cases, program):
    """Value and derivatives of every case, everybody stepped; by the one program, whose memory is looked at further below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "_everybody", lambda *rules, **static: program(*rules))
        return [_gradient(case, "all") for case in cases]


def _made_of(x) -> tuple:
    return x.system, x.policy, x.path, x.populations


@jax.jit
def _production(system, policy, path, populations):
    state, record = simulate(system, policy, populations, path)
    return _number(record, state), (record, [p.liquidated for p in state.populations])


def _moved(tree, by: float, seed: int):
    """Every number of a tree changed by about the share `by`, some up, some down; and by how much, leaf by leaf."""
    floats, put = split(tree)
    rng = np.random.default_rng(seed)
    change = [np.asarray(x) * rng.uniform(-1, 1, np.shape(x)) for x in floats]
    change = [np.where(np.isfinite(c), c, 0) for c in change]
    return put([x + by * c for x, c in zip(floats, change, strict=True)]), change


def _along(derivatives, change) -> float:
    floats = [x for x in jax.tree.leaves(derivatives) if x.dtype != jax.dtypes.float0]
    return float(sum(np.sum(np.asarray(x) * c) for x, c in zip(floats, change, strict=True)))


def _same_events(a, b) -> bool:
    """The same accounts liquidated, in the same steps and rounds."""
    same = [(np.asarray(x) == np.asarray(y)).all() for x, y in zip(a[1], b[1], strict=True)]
    flows = ("triggered", "newly_liquidated", "rounds")
    return all(same) and all((np.asarray(getattr(a[0].flows, k)) == np.asarray(getattr(b[0].flows, k))).all() for k in flows)


def test_the_value_is_that_of_production(cases, gradients):
    for case, (value, _) in zip(cases, gradients, strict=True):
        assert float(value) == pytest.approx(float(_production(*_made_of(case))[0]), rel=1e-13)


def test_derivatives_agree_with_differences_where_the_same_accounts_are_liquidated(cases, gradients):
    """With respect to all numbers of system, policy, path and accounts together, along a direction drawn at random; by the production program."""
    by, compared = 1e-7, 0
    for seed, (case, (_, found)) in enumerate(zip(cases, gradients, strict=True)):
        (up, change), (down, _) = (_moved(_made_of(case), sign * by, seed) for sign in (1, -1))
        (high, more), (low, less) = _production(*up), _production(*down)
        if not _same_events(more, less):
            continue
        compared += 1
        assert int(np.asarray(more[0].flows.newly_liquidated).sum()) > 0
        difference = float(high - low) / (2 * by)
        assert _along(_made_of(found), change) == pytest.approx(difference, rel=1e-5, abs=1e-5)
    assert compared >= 4, "too few cases in which a small change liquidates nobody else"


def test_each_kind_of_parameter_by_itself(cases, gradients):
    """Fees, impact, requirement, target of a restoring pool and the path, one by one."""
    fields = ("liquidation_fee", "taker_fee", "target_health", "permanent_share", "transient_decay", "insurance_fund", "tier_step")
    by, compared, moving = 1e-7, 0, set()
    for case, (_, found) in zip(cases, gradients, strict=True):
        changes = {name: lambda c, s, name=name: dataclasses.replace(c, **{name: getattr(c, name) * s}) for name in fields}
        changes["depth"] = lambda c, s: dataclasses.replace(c, impact=dataclasses.replace(c.impact, depth=c.impact.depth * s))
        for name, change in changes.items():
            (high, more), (low, less) = (_production(change(case.system, 1 + sign * by), *_made_of(case)[1:]) for sign in (1, -1))
            if _same_events(more, less):
                of = found.system.impact.depth if name == "depth" else getattr(found.system, name)
                at = case.system.impact.depth if name == "depth" else getattr(case.system, name)
                difference = float(high - low) / (2 * by)
                assert float(np.sum(np.asarray(of) * np.asarray(at))) == pytest.approx(difference, rel=1e-5, abs=1e-5), name
                compared += 1
                moving |= {name} if abs(difference) > 1e-3 else set()
    assert compared > 24
    assert {"liquidation_fee", "target_health", "permanent_share", "depth", "tier_step"} <= moving


@pytest.mark.slow
def test_by_epochs_the_derivatives_are_those_of_stepping_everybody(cases, gradients, monkeypatch):
    """Also where stretches have to be taken again, since a tape has room for one of them only."""
    for n, (case, (value, expected)) in enumerate(zip(cases, gradients, strict=True)):
        if n == len(cases) // 2:
            tape = gradient._Tape.__init__
            monkeypatch.setattr(gradient._Tape, "__init__", lambda self, *x, tape=tape: (tape(self, *x), setattr(self, "room", 1))[0])
        again, found = _gradient(case, "active")
        assert float(again) == pytest.approx(float(value), rel=1e-12)
        assert found.apart < 1e-12
        for x, y in zip(jax.tree.leaves(_made_of(found)), jax.tree.leaves(_made_of(expected)), strict=True):
            if x.dtype != jax.dtypes.float0:
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * np.abs(np.asarray(y)).max(initial=0))


@pytest.mark.slow
def test_memory_of_the_way_back_grows_with_the_root_of_the_steps(cases, program):
    """Four times the steps, at most about twice the memory: what is kept is a state per segment and one per step of a segment, both as many as the
    root of the steps, and the record, which is small beside the accounts. Without segments it would be four times."""
    longer = jax.tree.map(lambda x: jnp.zeros((4 * _STEPS, *x.shape[1:]), x.dtype), cases[0].path)
    needed = [x.memory_analysis().temp_size_in_bytes for x in (program, _compiled(cases[0], longer))]
    assert needed[1] < 2.2 * needed[0]


def test_the_restoring_solve_has_the_derivative_of_its_solution():
    """Against differences of the solve itself, over tiers, without a loop on the way back."""
    rng = np.random.default_rng(3)
    n = 200
    notionals = tuple(jnp.asarray(rng.uniform(1e3, 1e6, n)) for _ in range(2))
    floor = jnp.broadcast_to(jnp.array([0.0, 5e4, 2e5, 6e5]), (n, 2, 4))
    rise = jnp.broadcast_to(jnp.array([0.01, 0.02, 0.03, 0.05]), (n, 2, 4))
    multiplier = tuple(jnp.ones(n) for _ in range(2))
    equity = 0.03 * (notionals[0] + notionals[1])
    solve = partial(lambda e, a, b, h: restore_fraction(e, (a, b), floor, rise, multiplier, 0.002 * jnp.ones(n), h).sum())
    at = (equity, *notionals, jnp.full(n, 1.25))
    assert 0 < float(jnp.mean(jnp.asarray(restore_fraction(equity, notionals, floor, rise, multiplier, 0.002 * jnp.ones(n), at[3])))) < 1
    found = jax.grad(solve, argnums=(0, 1, 2, 3))(*at)
    way = [np.asarray(x) * rng.uniform(-1, 1, n) for x in at]
    up, down = (float(solve(*(x + sign * 1e-7 * w for x, w in zip(at, way, strict=True)))) for sign in (1, -1))
    assert sum(float(np.sum(np.asarray(g) * w)) for g, w in zip(found, way, strict=True)) == pytest.approx((up - down) / 2e-7, rel=1e-5)
