"""The engine against the plain-NumPy twin, which was written from docs/model.md apart from the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import blocks
from stresslev.engine.simulate import simulate
from tests.oracle import twin
from tests.systems import engine_arguments, random_case

#: name in the twin -> how to read it off the engine's record, and the scale an absolute error is held against
SERIES = {
    "price": lambda r: r.price,
    "exogenous_price": lambda r: r.exogenous_price,
    "depth": lambda r: r.depth,
    "variance": lambda r: r.variance,
    "closed_long": lambda r: r.flows.closed_long,
    "closed_short": lambda r: r.flows.closed_short,
    "closed_long_usd": lambda r: r.flows.closed_long_usd,
    "closed_short_usd": lambda r: r.flows.closed_short_usd,
    "triggered": lambda r: r.flows.triggered,
    "newly_liquidated": lambda r: r.flows.newly_liquidated,
    "deficit": lambda r: r.flows.deficit,
    "fund_draw": lambda r: r.flows.fund_draw,
    "insurance_fund": lambda r: r.insurance_fund,
    "treasury": lambda r: r.treasury,
    "bad_debt": lambda r: r.bad_debt,
    "fees": lambda r: r.flows.fees,
    "open_interest": lambda r: r.open_interest,
    "rounds": lambda r: r.flows.rounds,
}


def _assert_agree(seed: int, max_rounds: int):
    system, book, path = random_case(seed)
    expected = twin.run(system, book, path, max_rounds)
    arrays, policy, accounts, shock, slot = engine_arguments(system, book, path)
    state, record = simulate(arrays, policy, (accounts,), shock, max_rounds=max_rounds)
    for name, get in SERIES.items():
        want, got = np.asarray(expected[name], float), np.asarray(get(record), float)
        assert got.shape == want.shape, name
        scale = max(np.abs(want).max(), 1e-12)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * scale, err_msg=f"{name}, seed {seed}")
    final = state.populations[0]
    equity = np.asarray(final.equity_at_reference).ravel()[slot]
    quantity = np.stack([np.asarray(q).ravel()[slot] for q in final.quantity], axis=1)
    gross = np.abs(book["quantity"] * system["reference_price"]).sum(axis=1) + 1
    assert np.max(np.abs(equity - expected["equity_at_reference"]) / gross) < 1e-9
    assert np.max(np.abs(quantity - expected["quantity"]) * system["reference_price"] / gross[:, None]) < 1e-9
    return expected


@pytest.mark.parametrize("seed", range(60))
def test_engine_agrees_with_the_twin(seed):
    _assert_agree(seed, max_rounds=1 + seed % 5)


def test_the_random_systems_exercise_every_rule():
    """The agreement means something only if the cases reach bankruptcies, fund draws, capacity, restores and shorts."""
    seen = dict.fromkeys(("bad_debt", "fund_draw", "deficit", "closed_short", "closed_long", "fees"), 0)
    partial = rationed = 0
    for seed in range(60):
        system, book, path = random_case(seed)
        out = twin.run(system, book, path, 1 + seed % 5)
        for name in seen:
            seen[name] += int(np.asarray(out[name]).max() > 0)
        held = np.abs(book["quantity"]).sum(axis=1) > 0
        kept = np.abs(out["quantity"]).sum(axis=1) / np.maximum(np.abs(book["quantity"]).sum(axis=1), 1e-300)
        restoring = system["restore"][book["pool"]]
        partial += int(np.any((kept < 1) & (kept > 0) & held & restoring & np.isinf(system["capacity"][book["pool"]])))
        closed = (out["closed_long_usd"] + out["closed_short_usd"]).sum(axis=2)
        rationed += int(np.any(closed > 0.5 * system["capacity"]))
    assert min(*seen.values(), partial, rationed) >= 5, (seen, partial, rationed)


def test_batches_of_blocks_do_not_change_the_result(monkeypatch):
    """More triggered blocks than fit one batch: the loop over batches must sum to the same."""
    monkeypatch.setattr(blocks, "BATCH_ACCOUNTS", 8)
    jax.clear_caches()  # the size of a batch is part of the compiled program
    for seed in (3, 6, 7):
        _assert_agree(seed, max_rounds=5)
    jax.clear_caches()


def test_float32_follows_float64():
    """Single precision reproduces prices and bad debt to a few parts in 1e5 where no account sits on a threshold."""
    for seed in (1, 2, 6):
        system, book, path = random_case(seed)
        arrays, policy, accounts, shock, _ = engine_arguments(system, book, path)
        _, want = simulate(arrays, policy, (accounts,), shock, max_rounds=3)
        arrays, policy, accounts, shock, _ = engine_arguments(system, book, path, np.float32)
        _, got = simulate(arrays, policy, (accounts,), shock, max_rounds=3)
        assert got.price.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(got.price), np.asarray(want.price), rtol=1e-4)
        scale = np.asarray(want.open_interest).sum(axis=(1, 2)).max()
        np.testing.assert_allclose(np.asarray(got.bad_debt) / scale, np.asarray(want.bad_debt) / scale, atol=1e-5)
