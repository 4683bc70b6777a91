"""The engine against the plain-NumPy twin, which was written from docs/model.md apart from the engine."""

import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import places
from tests.oracle import twin
from tests.oracle.compare import CLOSE, differences
from tests.systems import GROUPS, engine_case, random_case

#: Seeds of each group, and the rounds that a seed is played with.
SEEDS = range(16)


#: Groups whose mechanisms are all in groups that always run: "adaptive", "closing" and "settling".
CONTAINED = {"trading", "portfolio", "network", "leverage", "behaviour", "everything"}


def _rounds(seed: int) -> int:
    return 1 + seed % 5


def _assert_agree(case, max_rounds: int) -> None:
    found, _, _ = differences(case, max_rounds)
    apart = {name: difference for name, difference in found if not difference < CLOSE}
    assert not apart, apart


@pytest.mark.parametrize("seed", range(60))
def test_engine_agrees_with_the_twin(seed):
    """Perp accounts with tiers, full liquidation or restoring, fees, capacity, insurance funds: every field of record and final state."""
    _assert_agree(random_case(seed), _rounds(seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", [pytest.param(x, marks=[pytest.mark.slow] * (x in CONTAINED)) for x in GROUPS])
def test_engine_agrees_with_the_twin_on_every_mechanism(group, seed):
    """The same with groups of mechanisms switched on, and in the last group all of them at once."""
    _assert_agree(random_case(seed, GROUPS[group]), _rounds(seed))


def test_the_random_systems_exercise_every_rule():
    """The agreement means something only if the cases reach bankruptcies, fund draws, capacity, restores and shorts."""
    seen = dict.fromkeys(("bad_debt", "fund_draw", "deficit", "closed_short", "closed_long", "fees"), 0)
    partial = rationed = 0
    for seed in range(60):
        system, book, path = random_case(seed)
        out = twin.run(system, book, path, _rounds(seed))
        for name in seen:
            seen[name] += int(np.asarray(out[name]).max() > 0)
        held = np.abs(book["quantity"]).sum(axis=1) > 0
        kept = np.abs(out["quantity"]).sum(axis=1) / np.maximum(np.abs(book["quantity"]).sum(axis=1), 1e-300)
        restoring = np.array([rule == "restore" for rule in system["rule"]])[book["pool"]]
        partial += int(np.any((kept < 1) & (kept > 0) & held & restoring & np.isinf(system["capacity"][book["pool"]])))
        closed = (out["closed_long_usd"] + out["closed_short_usd"]).sum(axis=2)
        rationed += int(np.any(closed > 0.5 * system["capacity"]))
    assert min(*seen.values(), partial, rationed) >= 5, (seen, partial, rationed)


#: group -> series that a mechanism leaves a trace in, and in how many of the seeds it must
TRACES = {
    "closing": {"waiting": 4, "deficit": 8},
    "settling": {"adl_usd": 4, "deleveraged": 4, "socialised": 4, "shared_in": 3, "fund_draw": 4, "bad_debt": 4},
    "trading": {"funding_paid": 12, "funding_rate": 12},
    "portfolio": {"adl_usd": 4, "funding_paid": 12, "deficit": 8},
    "lending": {"borrow_rate": 12, "waiting": 1, "socialised": 4, "deficit": 8, "shared_in": 3, "bad_debt": 4},
    "network": {"margin_calls": 12, "credit_loss": 6, "socialised": 6},
    "everything": {"waiting": 4, "adl_usd": 4, "socialised": 4, "shared_in": 3, "funding_paid": 12, "margin_calls": 12, "credit_loss": 6},
    "leverage": {"reduced_usd": 12, "voluntary_usd": 12, "releveraged_usd": 12, "margin_posted": 4, "called": 8, "gauge": 12},
    "behaviour": {"trader_usd": 16, "withdrawn": 8, "socialised": 4, "deficit": 8, "adl_usd": 4},
    "adaptive": {"reduced_usd": 10, "voluntary_usd": 12, "releveraged_usd": 12, "margin_posted": 2, "called": 6, "trader_usd": 16, "withdrawn": 6},
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_random_systems_exercise_every_mechanism(group):
    """By the twin: series that move, rules and forms that are drawn, and states that are left."""
    seen = dict.fromkeys(TRACES[group], 0)
    drawn = {}
    named = ("basis", "arbitrage", "rationed", "moved marks", "stuck marks", "reserves", "coins sold", "tokens below par", "funds closed")
    also = dict.fromkeys(named, 0)
    reduced_under, posted_under = set(), set()
    for seed in SEEDS:
        system, book, path = random_case(seed, GROUPS[group])
        out = twin.run(system, book, path, _rounds(seed))
        state = out["state"]
        for name in seen:
            seen[name] += int(np.abs(out[name]).max() > 0)
        for name in ("rule", "queue", "adl", "socialise_by"):
            drawn.setdefault(name, set()).update(system.get(name) or ())
        drawn.setdefault("form", set()).update(system["impact"]["form"])
        if "portfolio" in system:
            drawn.setdefault("portfolio", set()).add(system["portfolio"]["form"][1])
        if "lending" in system:
            drawn.setdefault("lending", set()).add((system["lending"]["rules"]["rule"][2], bool(system["lending"]["rules"]["market_execution"][2])))
        also["basis"] += int(np.abs(state.basis).max() > 1e-4)
        also["arbitrage"] += int(np.abs(state.arb_quantity).max() > 0)
        also["moved marks"] += int(np.abs(np.log(out["mark"] / out["venue_price"])).max() > 1e-3)
        still = (np.diff(out["mark"], axis=0) == 0) & (np.diff(out["venue_price"], axis=0) != 0)
        also["stuck marks"] += int("stuck" in path and (still & path["stuck"][1:]).any())
        also["reserves"] += int(state.reserves.max() > 0)
        also["coins sold"] += int(np.abs(state.maker_coins).max() > 0)
        also["funds closed"] += int(state.fund_closed.any())
        for v, form in enumerate(system["policy"]["transition"]["form"] if "policy" in system else ()):
            reduced_under.update([form] if out["reduced_usd"][:, v].max() > 0 else ())
            posted_under.update([form] if out["margin_posted"][:, v].max() > 0 else ())
        also["tokens below par"] += int(out["redemption"].min() < 1)
        also["rationed"] += int(np.any((out["closed_long_usd"] + out["closed_short_usd"]).sum(axis=2) > 0.5 * np.array(system["capacity"])))
    assert all(seen[name] >= least for name, least in TRACES[group].items()), seen
    mechanisms = GROUPS[group]
    assert "leverage" not in mechanisms or (reduced_under, posted_under) == ({"call", "pace"}, {"call"})
    assert "traders" not in mechanisms or also["funds closed"] >= 4
    wanted = {
        "basis": "venues",
        "arbitrage": "venues",
        "moved marks": "marks",
        "stuck marks": "marks",
        "reserves": "lending",
        "coins sold": "coins",
        "tokens below par": "receipts",
    }
    for name, mechanism in (wanted | {"rationed": "queue"}).items():
        assert mechanism not in mechanisms or also[name] >= 4, (name, also)
    sizes = {
        "rule": ("rules", 4),
        "queue": ("queue", 3),
        "adl": ("adl", 5),
        "socialise_by": ("socialise", 2),
        "form": ("impact", 4),
        "portfolio": ("portfolio", 5),
    }
    for name, (mechanism, count) in (sizes | {"lending": ("lending", 5)}).items():
        # all forms of portfolio margin are for the group of that name
        enough = 4 if name == "portfolio" and group == "leverage" else count
        assert mechanism not in mechanisms or len(drawn[name]) >= enough, (name, drawn[name])


def test_batches_of_accounts_do_not_change_the_result(monkeypatch):
    """More accounts under margin than fit one batch: the loop over batches must sum to the same."""
    monkeypatch.setattr(places, "BATCH_ACCOUNTS", 8)
    for seed in (3, 6, 7):  # a length of path that no other test has: the size of a batch is part of the compiled program
        _assert_agree(random_case(seed, steps=11), max_rounds=5)


def test_float32_follows_float64():
    """Single precision reproduces prices and bad debt to a few parts in 1e5 where no account sits on a threshold."""
    for seed in (1, 2, 6):
        case = random_case(seed)
        _, want = engine_case(*case).simulate(3)
        _, got = engine_case(*case, np.float32).simulate(3)
        assert got.price.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(got.price), np.asarray(want.price), rtol=1e-4)
        scale = np.asarray(want.open_interest).sum(axis=(1, 2)).max()
        np.testing.assert_allclose(np.asarray(got.bad_debt) / scale, np.asarray(want.bad_debt) / scale, atol=1e-5)
