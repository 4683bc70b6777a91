"""Holding a run of the engine against the twin, field by field."""

import numpy as np

from tests.oracle import twin
from tests.systems import LENDER, engine_case

#: Series whose numbers mean nothing for some pools: compared for lending pools only.
LENDING_ONLY = ("supplied", "borrowed", "borrow_rate")
MONEY = (
    "deficit",
    "fund_draw",
    "adl_usd",
    "socialised",
    "fees",
    "bad_debt",
    "margin_calls",
    "shared_in",
    "insurance_fund",
    "treasury",
    "credit_loss",
    "liquidators",
    "maker_cash",
    "written off cash",
    "reduced_usd",
    "voluntary_usd",
    "releveraged_usd",
    "margin_posted",
    "trader_usd",
    "trader cash",
    "hedge cash",
)
COINS = (
    "maker_quantity",
    "maker_coins",
    "maker_opening",
    "reserves",
    "written off",
    "deposits",
    "trader quantity",
    "hedge quantity",
    "withdrawn",
)  # held against the size of the book too
CLOSE = 1e-9


def series(record) -> dict:
    """Everything a record holds, by the twin's names; residuals are for another test."""
    flows = {name: getattr(record.flows, name) for name in record.flows.__dataclass_fields__}
    levels = {name: getattr(record, name) for name in record.__dataclass_fields__ if name not in ("flows", "status")}
    return {name: np.asarray(value, float) for name, value in (flows | levels).items() if not name.endswith("_residual")}


def differences(case, max_rounds: int) -> list[tuple[str, float]]:
    """(name, difference relative to the largest value of the series or account), the worst first; every step and account."""
    system, book, path = case
    expected = twin.run(system, book, path, max_rounds)
    engine = engine_case(system, book, path)
    state, record = engine.simulate(max_rounds)
    money = 1e-6 * float(expected["open_interest"][0].sum())  # amounts that ought to be zero are held against the size of the book
    found = []
    for name, got in series(record).items():
        unit = system["reference_price"] if name in COINS else 1.0
        found.append((name, _apart(expected[name] * unit, got * unit, name, system, money if name in MONEY + COINS else 1e-12)))
    found += _accounts(expected["state"], engine, state, book, system)
    for name, want, got in _final(expected["state"], state):
        unit = system["reference_price"] if name in COINS else 1.0
        found.append((name, _apart(want * unit, np.asarray(got) * unit, floor=money if name in MONEY + COINS else 1e-12)))
    return sorted(found, key=lambda pair: -pair[1] if np.isfinite(pair[1]) else -np.inf), expected, record


def _apart(want, got, name="", system=None, floor=1e-12) -> float:
    want, got = np.asarray(want, float), np.asarray(got, float)
    assert want.shape == got.shape, (name, want.shape, got.shape)
    if name in LENDING_ONLY:
        want, got = want[:, LENDER:], got[:, LENDER:]
    if want.size == 0:
        return 0.0
    same = got == want  # so are two infinities: a cap where there is none
    if not np.isfinite(got[~same]).all():
        return np.nan
    apart = np.abs(np.where(same, 0.0, got) - np.where(same, 0.0, want))
    return float(np.max(apart) / max(np.max(np.abs(want), where=np.isfinite(want), initial=0.0), floor))


def _accounts(twin_state, engine, state, book, system) -> list:
    worst = {}

    def note(name, want, got, scale):
        apart = abs(want - float(got)) / scale
        worst[name] = max(worst.get(name, 0.0), apart if np.isfinite(apart) else np.inf)

    price = system["reference_price"]
    for i, account in enumerate(twin_state.perps):
        p, slot = engine.perps[i]
        population = state.populations[p]
        gross = float(np.abs(book["quantity"][i] * price).sum()) + 1.0
        note("equity_at_reference", account.W, np.asarray(population.equity_at_reference).ravel()[slot], gross)
        note("liquidated", float(account.touched), float(np.asarray(population.liquidated).ravel()[slot]), 1.0)
        if population.age is not None:
            note("age", float(account.age), float(np.asarray(population.age).ravel()[slot]), 1.0)
        if population.appetite is not None:
            note("appetite", account.appetite, np.asarray(population.appetite).ravel()[slot], 1.0)
            note("age of calls", float(account.call_age), float(np.asarray(population.call_age).ravel()[slot]), 1.0)
        for a in range(len(price)):
            note("quantity", account.q[a] * price[a], np.asarray(population.quantity[a]).ravel()[slot] * price[a], gross)
            if population.entry:
                note("entry", account.entry[a], np.asarray(population.entry[a]).ravel()[slot], float(price[a]))
            if population.collateral:
                note("collateral", account.k[a] * price[a], np.asarray(population.collateral[a]).ravel()[slot] * price[a], gross)
    for i, loan in enumerate(twin_state.loans):
        p, slot = engine.loans[i]
        population = state.populations[p]
        size = float((book["loans"]["supply"][i] * price).sum()) + 1.0
        note("cash of loans", loan.cash, np.asarray(population.cash).ravel()[slot], size)
        note("liquidated loans", float(loan.touched), float(np.asarray(population.liquidated).ravel()[slot]), 1.0)
        note("age of loans", float(loan.age), float(np.asarray(population.age).ravel()[slot]), 1.0)
        for a in range(len(price)):
            note("supply", loan.supply[a] * price[a], np.asarray(population.supply[a]).ravel()[slot] * price[a], size)
            note("debt", loan.debt[a] * price[a], np.asarray(population.debt[a]).ravel()[slot] * price[a], size)
    return list(worst.items())


def _final(twin_state, state) -> list:
    ledger = state.ledger
    pairs = [
        (name, getattr(twin_state, name), getattr(ledger, name))
        for name in ("maker_quantity", "maker_cash", "maker_coins", "maker_opening", "liquidators")
    ]
    pairs += [
        ("permanent", twin_state.g, state.market.permanent),
        ("transient", twin_state.h, state.market.transient),
    ]
    if ledger.lending is not None:
        lends = ledger.lending
        pairs += [
            ("supply index", twin_state.supply_index[LENDER], lends.rates.supply_index[LENDER]),
            ("borrow index", twin_state.borrow_index[LENDER], lends.rates.borrow_index[LENDER]),
            ("reserves", twin_state.reserves, lends.rates.reserves),
            ("written off", twin_state.written_off, lends.written_off),
            ("deposits", twin_state.deposits, lends.deposit_units),
            ("written off cash", twin_state.written_off_cash, lends.written_off_cash),
        ]
    if state.venues is not None:
        pairs += [
            (name, getattr(twin_state, name), getattr(state.venues, name))
            for name in ("basis", "arb_quantity", "arb_cash", "common_quantity", "common_cash")
        ]
    if state.marks is not None:
        pairs += [("pushed marks", twin_state.pushed, state.marks.pushed), ("average of marks", twin_state.mark_average, state.marks.average)]
    if state.funding is not None:
        pairs += [("funding index", twin_state.funding_index, state.funding.index)]
    if state.traders is not None:
        held = state.traders
        pairs += [
            ("trader quantity", twin_state.trader_quantity, held.quantity),
            ("trader cash", twin_state.trader_cash, held.cash),
            ("hedge quantity", twin_state.hedge_quantity, held.hedge_quantity),
            ("hedge cash", twin_state.hedge_cash, held.hedge_cash),
            ("trend", twin_state.trend, held.trend),
            ("mean log price", twin_state.mean_log_price, held.mean_log_price),
            ("variance of traders", twin_state.trader_variance, held.variance),
            ("closed funds", twin_state.fund_closed, held.closed),
        ]
    return pairs
