"""Survivors: what a plain loop over accounts and times says of positions that nobody touches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine.simulate import simulate
from stresslev.engine.survival import survivors, worst_equity
from stresslev.engine.types import cast
from tests.systems import BLOCK, engine_case, random_case

CASES = {"plain": (), "coins": ("rules", "coins"), "portfolio": ("rules", "portfolio"), "size": ("rules", "size", "coins")}


def _case(name: str, seed: int = 3):
    system, book, path = random_case(seed, CASES[name])
    return system, book, path, engine_case(system, book, path)


def _marks(case, path, seed=0):
    """(T, V, A) marks that differ from pool to pool, and a funding index."""
    rng = np.random.default_rng(seed)
    reference = np.asarray(case.system.reference_price)
    pools = case.policy.maintenance_multiplier.shape[0]
    steps, assets = path["log_price"].shape
    apart = rng.normal(0, 0.01, (steps, pools, assets))
    mark = reference * np.exp(path["log_price"][:, None, :] + apart)
    return mark, np.cumsum(rng.normal(0, 0.002, mark.shape), axis=0) * reference


def _worst_by_loop(system, book, i, mark, funding):
    """Least margin equity of account i, contract by contract and time by time."""
    v, least = book["pool"][i], np.inf
    inverse = system.get("inverse")
    for t in range(len(mark)):
        equity = book["equity_at_reference"][i]
        for a, q in enumerate(book["quantity"][i]):
            moved = mark[t, v, a] - system["reference_price"][a]
            if inverse is None or not inverse[v, a]:
                equity += q * (moved - funding[t, v, a])
            if "collateral" in book:
                coins = book["collateral"][i, a]
                equity += coins * moved - system["haircut"][v, a] * max(coins, 0.0) * mark[t, v, a]
        least = min(least, equity)
    return least


@pytest.mark.parametrize("name", CASES)
def test_worst_equity_is_the_least_of_a_loop(name):
    system, book, path, case = _case(name)
    mark, funding = _marks(case, path)
    got = [np.asarray(jax.jit(worst_equity)(p, case.system, jnp.asarray(mark), jnp.asarray(funding))).ravel() for p in case.populations]
    expected = [_worst_by_loop(system, book, i, mark, funding) for i in range(len(book["pool"]))]
    scale = np.abs(book["equity_at_reference"]).max()
    np.testing.assert_allclose([got[p][slot] for p, slot in case.perps], expected, rtol=1e-12, atol=1e-12 * scale)
    without = np.asarray(worst_equity(case.populations[0], case.system, jnp.asarray(mark)))
    np.testing.assert_array_equal(without, worst_equity(case.populations[0], case.system, jnp.asarray(mark), jnp.zeros_like(mark)))


def test_an_inverse_long_is_worth_what_its_coins_are():
    """10,000 USD of face bought at 100 with 20 coins: 120 coins less the face over the price (BitMEX, inverse contracts), in USD at the mark."""
    system, book, path = random_case(2, CASES["coins"])
    system["inverse"][0, 0], system["haircut"][:] = True, 0.0
    for key in ("quantity", "collateral", "equity_at_reference"):
        book[key][0] = 0.0
    assert book["pool"][0] == 0
    face, posted, price = 10_000.0, 20.0, float(system["reference_price"][0])
    book["quantity"][0, 0], book["collateral"][0, 0] = face, posted + face / price
    book["equity_at_reference"][0] = posted * price
    case = engine_case(system, book, path)
    falls = np.array([1.0, 0.8, 0.6, 0.9])
    mark = np.broadcast_to(np.asarray(case.system.reference_price), (4, 3, 3)) * falls[:, None, None]
    population, slot = case.perps[0]
    got = np.asarray(worst_equity(case.populations[population], case.system, jnp.asarray(mark))).ravel()[slot]
    value = [(posted + face / price - face / (price * f)) * price * f for f in falls]
    assert got == pytest.approx(min(value), rel=1e-12)


@pytest.mark.parametrize("name", ["coins", "portfolio"])
def test_survivors_are_those_that_a_loop_finds(name):
    """The run's own liquidations; equity from the loop, and the requirement at the end from accounts assessed one at a time."""
    from stresslev.engine.health import Prices, assess, rules_for

    found = 0
    for seed in range(2):
        system, book, _, case = _case(name, seed)
        final, record = simulate(case.system, case.policy, case.populations, case.path, max_rounds=3, mark_history=case.history)
        mark, multiplier = np.asarray(record.mark), case.policy.maintenance_multiplier
        funding = np.zeros_like(mark)
        pools, reference = multiplier.shape[0], system["reference_price"]
        count, closed = np.zeros(pools, int), np.zeros(pools)
        last = jnp.asarray(mark[-1])
        moved = last - jnp.asarray(reference)[None, :]
        seen = Prices(mark=last, mark_displaced=moved, venue=last, venue_displaced=moved, funding=jnp.zeros_like(last))
        health = [assess(p, rules_for(p, case.system, multiplier, seen)) for p in case.populations]
        for i, (p, slot) in enumerate(case.perps):
            after, v = final.populations[p], book["pool"][i]
            if not np.asarray(after.liquidated).ravel()[slot] or _worst_by_loop(system, book, i, mark, funding) <= 0:
                continue
            if float(health[p].margin_equity.ravel()[slot]) < float(health[p].required.ravel()[slot]):
                continue
            count[v] += 1
            for a, q in enumerate(book["quantity"][i]):
                unit = 1.0 if "inverse" in system and system["inverse"][v, a] else reference[a]
                closed[v] += unit * max(abs(q) - abs(float(after.quantity[a].ravel()[slot])), 0.0)
        got = [jax.jit(survivors)(b, a, case.system, multiplier, jnp.asarray(mark)) for b, a in zip(case.populations, final.populations, strict=True)]
        np.testing.assert_array_equal(sum(np.asarray(g.accounts) for g in got), count)
        np.testing.assert_allclose(sum(np.asarray(g.closed) for g in got), closed, rtol=1e-10, atol=1e-6)
        found += count.sum()
    assert found > 0


def _one(price_path, *, equity, multiplier=1.0, liquidated=True):
    """One account long 1 coin of 100 USD, maintenance 10%, through a path of marks: whether it counts as a survivor."""
    system, book, path = random_case(0)
    system["reference_price"][:] = 100.0
    system["tiers"] = [[([0.0], [0.1])]]
    book = {"pool": np.zeros(1, int), "equity_at_reference": np.array([float(equity)]), "quantity": np.array([[1.0]])}
    case = engine_case(system, book, path)
    [before] = case.populations
    held = np.zeros((1, BLOCK), bool)
    held[0, 0] = liquidated
    after = replace(before, liquidated=jnp.asarray(held), quantity=(0.25 * before.quantity[0],))
    mark = jnp.asarray(np.array(price_path, float)[:, None, None])
    got = survivors(before, after, case.system, jnp.full((1, 1), multiplier), mark)
    assert float(got.closed[0]) == pytest.approx(75.0 * int(got.accounts[0]))
    return bool(got.accounts[0])


def test_only_who_keeps_equity_throughout_and_ends_above_maintenance_survives():
    assert _one([85, 95], equity=20)  # 5 left at the low, 15 against 9.5 at the end
    assert not _one([80, 95], equity=20)  # nothing left at the low
    assert not _one([85, 87], equity=20)  # 7 against 8.7 at the end
    assert not _one([85, 95], equity=20, multiplier=2.0)  # 15 against 19
    assert not _one([85, 95], equity=20, liquidated=False)


def test_single_precision_and_empty_slots_give_numbers():
    system, book, path = random_case(1, CASES["coins"])
    case = engine_case(system, book, path, np.float32)
    mark, funding = _marks(case, path)
    mark32, funding32 = cast((mark, funding), np.float32)
    for population in case.populations:
        got = worst_equity(population, case.system, mark32, funding32)
        assert got.dtype == np.float32
        assert bool(jnp.isfinite(got).all())
        wide = worst_equity(cast(population, np.float64), cast(case.system, np.float64), jnp.asarray(mark), jnp.asarray(funding))
        np.testing.assert_allclose(got, wide, rtol=1e-4, atol=1e-5 * float(jnp.abs(population.equity_at_reference).max()))
