"""Cash, contracts and coins balance: every step, in total, on any system."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine import round as rounds_of
from stresslev.engine import status, waterfall
from stresslev.engine.accounts import totals
from stresslev.engine.impact import PRICE_LINEAR
from stresslev.engine.leverage import transition
from stresslev.engine.simulate import simulate
from stresslev.engine.types import Accounts
from tests.systems import GROUPS, engine_arguments, engine_case, random_case

SEEDS = st.integers(min_value=0, max_value=2**31)
#: Structures with everything that a ledger holds, whose programs the tests of the twin compile too; what is off in a pool is off by its numbers.
MANY = st.sampled_from(("settling", "lending", "adaptive"))


def _run(seed: int, rounds: int, dtype=np.float64):
    case = random_case(seed)
    system, policy, accounts, path, _ = engine_arguments(*case, dtype)
    state, record = simulate(system, policy, (accounts,), path, max_rounds=rounds)
    return case, system, accounts, state, record


def _interest(record) -> float:
    """USD, the most of the run: a squeeze can multiply prices, and the rounding of cash with them."""
    return float(np.asarray(record.open_interest).sum(axis=(1, 2)).max()) + 1.0


def _residuals(record, system) -> dict[str, float]:
    """Largest residual of each conserved quantity, in open interests; contracts of fixed face are in USD already."""
    price = np.asarray(record.price)[:, None, :]
    unit = price if system.inverse is None else np.where(np.asarray(system.inverse)[None], 1.0, price)
    flows = record.flows
    usd = {
        "cash": np.asarray(flows.cash_residual),
        "contracts": np.asarray(flows.quantity_residual) * unit,
        "coins": np.asarray(flows.coins_residual) * price,
    }
    return {name: float(np.abs(values).max()) / _interest(record) for name, values in usd.items()}


@given(SEEDS, st.integers(1, 6))
def test_every_step_balances_per_pool(seed, rounds):
    """Cash: accounts + makers + fund + treasury - bad debt. Quantity: customers + makers. To 1e-12 of open interest."""
    _, system, _, state, record = _run(seed, rounds)
    assert max(_residuals(record, system).values()) < 1e-12
    assert not status.failed(state.status)


@settings(max_examples=30)
@given(MANY, SEEDS, st.integers(1, 6))
def test_every_step_balances_whatever_mechanisms_are_on(group, seed, rounds):
    """With lending: USD balances, liquidators, coins of collateral, debt, deposits, reserves and write-offs. To 1e-12 of open interest."""
    case = engine_case(*random_case(seed, GROUPS[group]))
    state, record = case.simulate(rounds)
    residuals = _residuals(record, case.system)
    if not np.isfinite(record.price).all():
        # a price linear in what is sold fell to its floor, a millionth, and came back out of all bounds: such a run is refused
        assert state.status & status.NONFINITE and (np.asarray(case.system.impact.form) == PRICE_LINEAR).any()
        return
    assert max(residuals.values()) < 1e-12, residuals
    assert not status.failed(state.status)


@settings(max_examples=30)
@given(MANY, SEEDS, st.integers(1, 6))
@pytest.mark.slow
def test_every_deficit_is_borne_by_somebody(group, seed, rounds):
    """Auto-deleveraging + funds + socialised + bad debt = deficit, each of them >= 0, in every pool and step."""
    _, record = engine_case(*random_case(seed, GROUPS[group])).simulate(rounds)
    flows, scale = record.flows, _interest(record)
    bad = np.diff(np.asarray(record.bad_debt), axis=0, prepend=0)
    parts = [np.asarray(x) for x in (flows.adl_usd, flows.fund_draw, flows.socialised, bad)]
    assert all((part >= -1e-12 * scale).all() for part in parts)
    np.testing.assert_allclose(sum(parts), np.asarray(flows.deficit), atol=1e-11 * scale)
    np.testing.assert_allclose(np.asarray(flows.shared_in).sum(axis=1), 0, atol=1e-11 * scale)
    np.testing.assert_allclose(np.asarray(flows.margin_calls).sum(axis=1), 0, atol=1e-11 * scale)
    for level in (record.insurance_fund, record.depth, record.price, record.mark, record.open_interest, record.credit_loss):
        assert (np.asarray(level) >= -1e-12 * scale).all()
    for flow in (flows.closed_long, flows.closed_short, flows.deleveraged, flows.fees, flows.funding_paid):
        assert (np.asarray(flow) >= 0).all()


@settings(max_examples=30)
@given(MANY, SEEDS, st.integers(1, 6))
def test_contracts_add_up_to_nothing(group, seed, rounds):
    """Customers, makers and arbitrageurs together hold none: so funding paid is funding received, and what winners close the bankrupt lose."""
    case = engine_case(*random_case(seed, GROUPS[group]))
    state, record = case.simulate(rounds)
    net = np.asarray(state.ledger.maker_quantity)
    for population in state.populations:
        if isinstance(population, Accounts):
            _, longs, shorts = totals(population, *net.shape)
            net = net + np.asarray(longs - shorts)
    if state.venues is not None:
        net = net + np.asarray(state.venues.arb_quantity)
    if state.traders is not None:
        net = net + np.asarray(state.traders.quantity).sum(axis=0)
    price = np.broadcast_to(np.asarray(case.system.reference_price), net.shape)
    usd = net * (price if case.system.inverse is None else np.where(case.system.inverse, 1.0, price))
    assert np.abs(usd).max() < 1e-11 * _interest(record)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 6))
def test_under_a_policy_the_whole_run_balances_with_outside_cash_counted(seed, rounds):
    """Summed anew over the first and the last state: what pools hold in cash has grown by what accounts brought to meet calls alone."""
    case = engine_case(*random_case(seed, GROUPS["leverage"]))
    state, record = case.simulate(rounds)
    shape, ledger = case.system.tier_floor.shape[:2], state.ledger
    cash = sum(totals(after, *shape)[0] - totals(before, *shape)[0] for before, after in zip(case.populations, state.populations, strict=True))
    cash = cash + ledger.maker_cash.sum(axis=1) + ledger.treasury + ledger.liquidators - ledger.bad_debt
    cash = cash + ledger.insurance_fund - case.system.insurance_fund
    posted = np.asarray(record.flows.margin_posted).sum(axis=0)
    assert (posted >= 0).all()
    assert np.abs(np.asarray(cash) - posted).max() < 1e-9 * _interest(record)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 6))
def test_nobody_takes_back_more_than_was_given_up(seed, rounds):
    """Appetite stays in (0, 1]; only pools of the form `call` call, and pools that bar new risk alone force nobody."""
    case = engine_case(*random_case(seed, GROUPS["leverage"]))
    state, record = case.simulate(rounds)
    for population in state.populations:
        appetite = np.asarray(population.appetite)
        assert (appetite > 0).all() and (appetite <= 1 + 1e-12).all()
    form = np.asarray(case.policy.transition.form)
    assert not np.asarray(record.flows.called)[:, form != transition.CALL].any()
    assert not np.asarray(record.flows.margin_posted)[:, form != transition.CALL].any()
    assert not np.asarray(record.flows.reduced_usd)[:, form == transition.NEW_RISK].any()


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 6))
def test_caps_stay_within_their_bounds_and_their_pace(seed, rounds):
    case = engine_case(*random_case(seed, GROUPS["leverage"]))
    _, record = case.simulate(rounds)
    caps, cap, required = case.policy.caps, np.asarray(record.cap), np.asarray(record.maintenance)
    for level, least, most in ((cap, caps.floor, caps.ceiling), (required, caps.least_maintenance, caps.most_maintenance)):
        assert (level >= np.asarray(least) * (1 - 1e-12)).all() and (level <= np.asarray(most) * (1 + 1e-12)).all()
    tighten, loosen = np.asarray(caps.tighten) + 1e-12, np.asarray(caps.loosen) + 1e-12
    moves = np.diff(np.log(cap), axis=0)
    assert (moves >= -tighten).all() and (moves <= loosen).all()
    moves = np.diff(np.log(required), axis=0)
    assert (moves <= tighten).all() and (moves >= -loosen).all()


@given(SEEDS, st.integers(1, 6))
def test_the_whole_run_balances_when_every_ledger_is_summed_anew(seed, rounds):
    """Independent of the flows the engine keeps: sums over the first and the last state."""
    _, system, accounts, state, record = _run(seed, rounds)
    ledger_shape = system.tier_floor.shape[:2]
    before = totals(accounts, *ledger_shape)
    after = totals(state.populations[0], *ledger_shape)
    ledger = state.ledger
    cash = after[0] - before[0] + ledger.maker_cash.sum(axis=1)
    cash = cash + (ledger.insurance_fund - system.insurance_fund) + ledger.treasury + ledger.liquidators - ledger.bad_debt
    assert np.abs(cash).max() < 1e-9 * _interest(record)
    net = (after[1] - after[2]) + ledger.maker_quantity
    assert np.abs(net * np.asarray(system.reference_price)[None, :]).max() < 1e-9 * _interest(record)
    np.testing.assert_allclose(ledger.long_quantity, after[1], atol=1e-9 * _interest(record))
    np.testing.assert_allclose(ledger.short_quantity, after[2], atol=1e-9 * _interest(record))


@given(SEEDS, st.integers(1, 6))
def test_deficits_are_met_by_fund_and_bad_debt_exactly(seed, rounds):
    _, _, _, _, record = _run(seed, rounds)
    deficit, draw = np.asarray(record.flows.deficit), np.asarray(record.flows.fund_draw)
    bad = np.diff(np.asarray(record.bad_debt), axis=0, prepend=0)
    scale = _interest(record)
    assert (deficit >= 0).all() and (draw >= 0).all() and (bad >= -1e-12 * scale).all()
    np.testing.assert_allclose(draw + bad, deficit, atol=1e-11 * scale)
    assert (np.asarray(record.insurance_fund) >= 0).all()


@given(SEEDS, st.integers(1, 6))
def test_no_pool_closes_more_than_its_capacity(seed, rounds):
    """In a bottomless market the price stands still within a step, so what was closed is worth its quantity times the step's price."""
    system, book, path = random_case(seed)
    system["impact"]["depth"] = system["impact"]["depth"] * 1e15
    arrays, policy, accounts, shock, _ = engine_arguments(system, book, path)
    _, record = simulate(arrays, policy, (accounts,), shock, max_rounds=rounds)
    closed = np.asarray(record.flows.closed_long) + np.asarray(record.flows.closed_short)
    usd = np.einsum("tva,ta->tv", closed, np.asarray(record.price))
    assert (usd <= system["capacity"] * (1 + 1e-6)).all()


@given(SEEDS, st.integers(1, 6))
@pytest.mark.slow
def test_accounts_above_margin_are_never_touched(seed, rounds):
    """Who is under margin is worked out here, account by account, from the first step's opening price: all others keep cash and coins."""
    system, book, path = random_case(seed, steps=1)
    system["impact"]["depth"] = system["impact"]["depth"] * 1e15  # nobody moves the price, so the opening price is the only one
    arrays, policy, accounts, shock, slot = engine_arguments(system, book, path)
    state, _ = simulate(arrays, policy, (accounts,), shock, max_rounds=rounds)
    price = system["reference_price"] * np.exp(path["log_price"][0])
    equity = book["equity_at_reference"] + book["quantity"] @ (price - system["reference_price"])
    required = np.zeros(len(equity))
    for i, v in enumerate(book["pool"]):
        for a, n in enumerate(np.abs(book["quantity"][i]) * price):
            floors, rates = system["tiers"][v][a]
            margin = sum((r - (rates[k - 1] if k else 0)) * max(n - f, 0) for k, (f, r) in enumerate(zip(floors, rates, strict=True)))
            required[i] += system["maintenance_multiplier"][v, a] * margin
    above, under = equity > required * (1 + 1e-9), equity < required * (1 - 1e-9)
    final = state.populations[0]
    for before, after in zip((accounts.equity_at_reference, *accounts.quantity), (final.equity_at_reference, *final.quantity), strict=True):
        assert (np.asarray(before).ravel()[slot][above] == np.asarray(after).ravel()[slot][above]).all()
    held = np.abs(book["quantity"]).sum(axis=1) > 0
    assert np.asarray(final.liquidated).ravel()[slot][under & held].all()


def test_float32_balances_to_its_own_tolerance():
    for seed in range(1, 49, 4):
        _, system, _, state, record = _run(seed, 3, np.float32)
        assert max(_residuals(record, system).values()) < 1e-5
        assert not status.failed(state.status)


# The residuals can fail. Cases here have lengths that no other test has, so that a broken program is never mistaken for an honest one.


def _flagged(group: str, steps: int) -> int:
    """How many of the seeds end with the failure bit."""
    # every fourth seed: thin cases of one shape, so that one program is compiled
    runs = [engine_case(*random_case(seed, GROUPS.get(group, ()), steps=steps)).simulate(3)[0] for seed in range(1, 49, 4)]
    return sum(bool(int(state.status) & status.RESIDUAL) for state in runs)


def test_a_leak_of_cash_would_be_caught(monkeypatch):
    """A waterfall that destroys the insurance it draws."""
    honest = waterfall.settle

    def leaky(ledger, populations, *rest):
        settled, populations, borne = honest(ledger, populations, *rest)
        return dataclasses.replace(settled, insurance_fund=settled.insurance_fund - borne.fund_draw), populations, borne

    monkeypatch.setattr(waterfall, "settle", leaky)
    assert _flagged("thin", 5) >= 3


BROKEN = {
    "contracts": ("thin", 6, "maker_quantity"),
    "cash of makers": ("thin", 7, "maker_cash"),
    "coins posted": ("closing", 5, "maker_coins"),
    "coins lent": ("lending", 5, "maker_coins"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_ledger_that_loses_a_part_would_be_caught(monkeypatch, what):
    """Makers who are booked nine tenths of what they traded."""
    group, steps, field = BROKEN[what]
    honest = rounds_of._book

    def leaky(ledger, *rest):
        booked, *others = honest(ledger, *rest)
        part = getattr(ledger, field) + 0.9 * (getattr(booked, field) - getattr(ledger, field))
        return dataclasses.replace(booked, **{field: part}), *others

    monkeypatch.setattr(rounds_of, "_book", leaky)
    assert _flagged(group, steps) >= 6


@pytest.mark.slow
def test_a_loss_that_nobody_bears_would_be_caught(monkeypatch):
    """Deficits forgiven by half: not booked as bad debt, nor paid by anybody."""
    honest = waterfall.settle

    def leaky(ledger, populations, system, deficit, *rest):
        return honest(ledger, populations, system, deficit / 2, *rest)

    monkeypatch.setattr(waterfall, "settle", leaky)
    assert _flagged("settling", 5) >= 6


@pytest.mark.slow
def test_winners_who_close_less_than_they_should_would_be_caught(monkeypatch):
    """Auto-deleveraging whose winners close nine tenths of what the bankrupt assume to be rid of."""
    from stresslev.engine import adl

    honest = adl.deleverage

    def leaky(*args):
        return 0.9 * honest(*args)

    monkeypatch.setattr(adl, "deleverage", leaky)
    assert _flagged("settling", 6) >= 3
