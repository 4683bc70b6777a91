"""Cash and positions balance: every step, in total, on any system."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine import status
from stresslev.engine.accounts import totals
from stresslev.engine.simulate import simulate
from tests.systems import engine_arguments, random_case

SEEDS = st.integers(min_value=0, max_value=2**31)


def _run(seed: int, rounds: int, dtype=np.float64):
    case = random_case(seed)
    system, policy, accounts, path, _ = engine_arguments(*case, dtype)
    state, record = simulate(system, policy, (accounts,), path, max_rounds=rounds)
    return case, system, accounts, state, record


def _interest(record) -> float:
    return float(np.asarray(record.open_interest)[0].sum()) + 1.0


@given(SEEDS, st.integers(1, 6))
def test_every_step_balances_per_pool(seed, rounds):
    """Cash: accounts + makers + fund + treasury - bad debt. Quantity: customers + makers. To 1e-9 of open interest."""
    _, _, _, state, record = _run(seed, rounds)
    interest = _interest(record)
    assert np.abs(record.flows.cash_residual).max() < 1e-9 * interest
    quantity_usd = np.abs(record.flows.quantity_residual) * np.asarray(record.price)[:, None, :]
    assert quantity_usd.max() < 1e-9 * interest
    assert not status.failed(state.status)


@given(SEEDS, st.integers(1, 6))
def test_the_whole_run_balances_when_every_ledger_is_summed_anew(seed, rounds):
    """Independent of the flows the engine keeps: sums over the first and the last state."""
    _, system, accounts, state, record = _run(seed, rounds)
    pools = system.insurance_fund.shape[0]
    before = totals(accounts, pools)
    after = totals(state.populations[0], pools)
    ledger = state.ledger
    cash = after[0] - before[0] + ledger.maker_cash + (ledger.insurance_fund - system.insurance_fund) + ledger.treasury - ledger.bad_debt
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
    system["depth"] = system["depth"] * 1e15
    arrays, policy, accounts, shock, _ = engine_arguments(system, book, path)
    _, record = simulate(arrays, policy, (accounts,), shock, max_rounds=rounds)
    closed = np.asarray(record.flows.closed_long) + np.asarray(record.flows.closed_short)
    usd = np.einsum("tva,ta->tv", closed, np.asarray(record.price))
    assert (usd <= system["capacity"] * (1 + 1e-6)).all()


@given(SEEDS, st.integers(1, 6))
def test_accounts_above_margin_are_never_touched(seed, rounds):
    """Who is under margin is worked out here, account by account, from the first step's opening price: all others keep cash and coins."""
    system, book, path = random_case(seed, steps=1)
    system["depth"] = system["depth"] * 1e15  # nobody moves the price, so the opening price is the only one
    arrays, policy, accounts, shock, slot = engine_arguments(system, book, path)
    state, _ = simulate(arrays, policy, (accounts,), shock, max_rounds=rounds)
    price = system["reference_price"] * np.exp(path["log_return"][0])
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
    for seed in range(12):
        _, _, _, state, record = _run(seed, 3, np.float32)
        assert np.abs(record.flows.cash_residual).max() < 1e-5 * _interest(record)
        assert not status.failed(state.status)


def test_a_leak_would_be_caught(monkeypatch):
    """The residual can fail: with a waterfall that destroys the insurance it draws, the status says so."""
    import dataclasses

    import jax

    from stresslev.engine import waterfall

    honest = waterfall.settle

    def leaky(ledger, deficit, fund_income, treasury_income):
        settled, draw = honest(ledger, deficit, fund_income, treasury_income)
        return dataclasses.replace(settled, insurance_fund=settled.insurance_fund - draw), 2 * draw

    monkeypatch.setattr(waterfall, "settle", leaky)
    jax.clear_caches()
    try:
        flagged = 0
        for seed in range(20):
            _, _, _, state, record = _run(seed, 3)
            drawn = float(np.asarray(record.flows.fund_draw).sum())
            if drawn > 1.0:
                assert int(state.status) & status.RESIDUAL
                flagged += 1
        assert flagged >= 3
    finally:
        jax.clear_caches()
