"""Thin venues leave the common price, arbitrage with finite capital brings them back, and every book closes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import venues
from stresslev.engine.venues import VenueRules

REFERENCE = jnp.array([50_000.0, 2_000.0])
DEPTH = jnp.array([4e6, 1e6])
EXPONENT = jnp.array([0.6, 1.0])
SHARE = jnp.array([[0.0, 0.0], [0.1, 0.05], [0.3, 0.2]])
AT_REST = jnp.zeros(2)


def _rules(capital=np.inf, rate=1.0, share=SHARE) -> VenueRules:
    return VenueRules(local_depth_share=share, arbitrage_rate=jnp.full(share.shape[1], rate), capital=jnp.array(capital))


def _flow(rules, state, flow, depth=DEPTH, exponent=EXPONENT):
    flow = jnp.array(flow)
    return venues.local_flow(rules, state, depth=depth, exponent=exponent, before=jnp.zeros_like(flow), after=flow)


def _arbitrage(rules, state, log_price=AT_REST, reference=REFERENCE, depth=DEPTH, exponent=EXPONENT, common_fill=None):
    """One arbitrage whose common leg is filled at the common price, or at another log price."""
    moved, trades = venues.arbitrage(rules, state, reference_price=reference, log_price=log_price, depth=depth, exponent=exponent)
    fill = reference * jnp.expm1(log_price if common_fill is None else common_fill)
    return venues.settle_common(moved, trades, displaced_fill=fill), trades


def _price(state, log_price=AT_REST, reference=REFERENCE):
    return reference[None, :] + venues.displacement(state, reference_price=reference, log_price=log_price)


def _profit(state, log_price=AT_REST, reference=REFERENCE):
    return venues.profit(state, reference_price=reference, log_price=log_price)


SOLD = [[-3e6, -1e6], [-2e5, -4e5], [1e5, 3e5]]


def test_only_venues_with_their_own_book_leave_the_common_price():
    rules = _rules()
    state = _flow(rules, venues.initial(rules), SOLD)
    np.testing.assert_array_equal(state.basis[0], 0)
    expected = [[-0.01 * (2e5 / 4e5) ** 0.6, -0.01 * 4e5 / 5e4], [0.01 * (1e5 / 1.2e6) ** 0.6, 0.01 * 3e5 / 2e5]]
    np.testing.assert_allclose(state.basis[1:], expected, rtol=1e-13)
    np.testing.assert_array_equal(venues.common_flow(rules, jnp.array(SOLD)), [-3e6, -1e6])


def test_a_local_flow_in_two_rounds_moves_the_basis_as_far_as_in_one():
    rules = _rules()
    total, part = jnp.array(SOLD), 0.3 * jnp.array(SOLD)
    first = _flow(rules, venues.initial(rules), part)
    second = venues.local_flow(rules, first, depth=DEPTH, exponent=EXPONENT, before=part, after=total)
    np.testing.assert_allclose(second.basis, _flow(rules, venues.initial(rules), total).basis, rtol=1e-13)


def test_unlimited_arbitrage_brings_all_prices_together():
    rules = _rules()
    log_price = jnp.array([-0.2, 0.1])
    apart = _flow(rules, venues.initial(rules), SOLD)
    assert np.ptp(_price(apart, log_price)[:, 1]) > 100
    closed, trades = _arbitrage(rules, apart, log_price)
    np.testing.assert_allclose(_price(closed, log_price), jnp.broadcast_to(REFERENCE * jnp.exp(log_price), (3, 2)), rtol=1e-12)
    # bought where it was cheap, sold where it was dear, the rest of it in the common market
    np.testing.assert_array_equal(jnp.sign(trades.coins), [[0, 0], [1, 1], [-1, -1]])
    np.testing.assert_array_equal(trades.common_coins, -jnp.sum(trades.coins, axis=0))
    # what moved the venue there moves it back: the same flow, at the venue's price
    np.testing.assert_allclose((trades.coins * _price(apart, log_price))[1:], -np.array(SOLD)[1:], rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.8])
def test_the_basis_shrinks_by_the_rate_each_step(rate):
    rules = _rules(rate=rate)
    state = start = _flow(rules, venues.initial(rules), SOLD)
    for step in range(1, 4):
        state, _ = _arbitrage(rules, state)
        np.testing.assert_allclose(state.basis, start.basis * (1 - rate) ** step, rtol=1e-12)


def test_without_capital_the_basis_stays():
    rules = _rules(capital=0.0)
    state = _flow(rules, venues.initial(rules), SOLD)
    after, trades = _arbitrage(rules, state)
    np.testing.assert_array_equal(after.basis, state.basis)
    np.testing.assert_array_equal(trades.coins, 0)


def test_capital_binds_exactly_and_all_trades_are_cut_by_one_factor():
    state = _flow(_rules(), venues.initial(_rules()), SOLD)
    _, free = _arbitrage(_rules(), state)
    _, bound = _arbitrage(_rules(capital=2e5), state)
    assert jnp.sum(jnp.abs(free.coins) * _price(state)).item() == pytest.approx(1e6, rel=1e-12)
    assert jnp.sum(jnp.abs(bound.coins) * _price(state)).item() == pytest.approx(2e5, rel=1e-12)
    np.testing.assert_allclose(bound.coins[1:] / free.coins[1:], 0.2, rtol=1e-12)


@pytest.mark.parametrize("earned", [-1.5e5, 3e5])
def test_profit_adds_to_capital_and_losses_take_from_it(earned):
    rules = _rules(capital=2e5)
    start = venues.initial(rules)
    state = _flow(rules, replace(start, arb_cash=start.arb_cash.at[1, 0].set(3e5), common_cash=jnp.array([0.0, earned - 3e5])), SOLD)
    after, _ = _arbitrage(rules, state)
    assert jnp.sum(jnp.abs(after.arb_quantity) * _price(state)).item() == pytest.approx(2e5 + earned, rel=1e-12)


def test_positions_can_be_reduced_however_much_is_lost():
    # long 2 at the venue, short 2 in the common market; then the venue turns dear, so both legs are to be unwound
    rules = _rules(capital=1_000.0)
    lost = replace(
        venues.initial(rules),
        arb_quantity=jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]),
        arb_cash=jnp.array([[0.0, 0.0], [-1e5, 0.0], [0.0, 0.0]]),
        common_quantity=jnp.array([-2.0, 0.0]),
    )
    dear = _flow(rules, lost, [[0.0, 0.0], [7e4, 0.0], [0.0, 5e4]])
    assert _profit(dear) < -9e4
    after, trades = _arbitrage(rules, dear)
    assert trades.coins[1, 0].item() == pytest.approx(-7e4 / _price(dear)[1, 0].item(), rel=1e-12)
    assert trades.coins[2, 1] == 0  # opens a position, for which there is no capital
    assert 0 < after.arb_quantity[1, 0] < 2
    # beyond the inventory a sale would open a short: it stops at zero
    flat, _ = _arbitrage(rules, _flow(rules, lost, [[0.0, 0.0], [9e5, 0.0], [0.0, 0.0]]))
    assert flat.arb_quantity[1, 0] == 0


class _Books:
    """The same rules with plain loops over wallets: real coins and real dollars, the venues' makers and the common market as counterparties."""

    def __init__(self, share, rate, capital, reference):
        self.share, self.rate, self.capital, self.reference = (np.asarray(x) for x in (share, rate, capital, reference))
        v, a = self.share.shape
        self.basis, self.coins, self.dollars = np.zeros((v, a)), np.zeros((v, a)), np.zeros((v, a))
        self.maker_coins, self.maker_dollars = np.zeros((v, a)), np.zeros((v, a))
        self.hedge_coins, self.hedge_dollars = np.zeros(a), np.zeros(a)

    def pairs(self):
        return [(v, a) for v, a in np.ndindex(*self.share.shape) if self.share[v, a] > 0]

    def price(self, v, a, x):
        return self.reference[a] * np.exp(x[a] + self.basis[v, a])

    def profit(self, x):
        total = sum(self.dollars[v, a] + self.coins[v, a] * self.price(v, a, x) for v, a in self.pairs())
        return total + float(np.sum(self.hedge_dollars + self.hedge_coins * self.reference * np.exp(x)))

    def local(self, flow, depth, exponent):
        for v, a in self.pairs():
            self.basis[v, a] += 0.01 * np.sign(flow[v, a]) * (abs(flow[v, a]) / (self.share[v, a] * depth[a])) ** exponent[a]

    def arbitrage(self, x, depth, exponent, hedge_price):
        budget, prices, less, more = self.capital + self.profit(x), {}, {}, {}
        for v, a in self.pairs():
            prices[v, a] = self.price(v, a, x)
            usd = self.share[v, a] * depth[a] * (self.rate[a] * abs(self.basis[v, a]) / 0.01) ** (1 / exponent[a])
            wish = -np.sign(self.basis[v, a]) * usd / prices[v, a]
            owned = self.coins[v, a]
            less[v, a] = np.clip(wish, min(-owned, 0), max(-owned, 0))
            more[v, a] = wish - less[v, a]
        held = sum(abs(self.coins[k] + less[k]) * prices[k] for k in prices)
        asked = sum(abs(more[k]) * prices[k] for k in prices)
        factor = 1.0 if asked <= budget - held else max(budget - held, 0) / asked
        for v, a in self.pairs():
            bought = less[v, a] + factor * more[v, a]
            self.basis[v, a] += 0.01 * np.sign(bought) * (abs(bought) * prices[v, a] / (self.share[v, a] * depth[a])) ** exponent[a]
            cost = bought * (prices[v, a] + self.price(v, a, x)) / 2
            self.coins[v, a] += bought
            self.dollars[v, a] -= cost
            self.maker_coins[v, a] -= bought
            self.maker_dollars[v, a] += cost
            self.hedge_coins[a] -= bought
            self.hedge_dollars[a] += bought * hedge_price[a]
        return factor


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_books_close_and_follow_the_plain_wallets_over_random_sequences(seed):
    rng = np.random.default_rng(seed)
    share = np.where(rng.random((4, 3)) < 0.3, 0.0, rng.uniform(0.02, 0.4, (4, 3)))
    reference, depth = np.array([50_000.0, 2_000.0, 3.0]), np.array([4e6, 2e6, 3e5])
    exponent, rate = np.array([0.5, 0.73, 1.0]), rng.uniform(0.2, 1.0, 3)
    books = _Books(share, rate, 4e6, reference)
    rules = VenueRules(local_depth_share=jnp.array(share), arbitrage_rate=jnp.array(rate), capital=jnp.array(4e6))
    state, maker_cash, factors = venues.initial(rules), np.zeros((4, 3)), []
    maker_coins, outside_cash, outside_coins = np.zeros((4, 3)), np.zeros(3), np.zeros(3)
    shared = {"depth": jnp.array(depth), "exponent": jnp.array(exponent)}
    local, arbitrage = jax.jit(venues.local_flow), jax.jit(venues.arbitrage)
    x = np.zeros(3)
    for _ in range(40):
        flow = rng.normal(0, 0.3, (4, 3)) * depth * (rng.random((4, 3)) < 0.5)
        books.local(flow, depth, exponent)
        state = local(rules, state, **shared, before=jnp.zeros((4, 3)), after=jnp.array(flow))
        x = x + rng.normal(0, 0.01, 3)
        filled_at = x + rng.normal(0, 0.001, 3)
        factors.append(books.arbitrage(x, depth, exponent, reference * np.exp(filled_at)))
        state, trades = arbitrage(rules, state, **shared, reference_price=jnp.array(reference), log_price=jnp.array(x))
        displaced = jnp.array(reference * np.expm1(filled_at))
        state = venues.settle_common(state, trades, displaced_fill=displaced)

        maker_cash += np.asarray(trades.coins * trades.displaced_fill)
        maker_coins -= np.asarray(trades.coins)
        outside_cash += np.asarray(trades.common_coins * displaced)
        outside_coins -= np.asarray(trades.common_coins)
        np.testing.assert_allclose(trades.common_usd, trades.common_coins * reference * np.exp(x), rtol=1e-13)

        # coins: bought at venues are sold in common; cash: what arbitrageurs pay the others receive
        scale = np.abs(books.coins).sum() + 1
        np.testing.assert_allclose(np.asarray(state.arb_quantity).sum(axis=0) + state.common_quantity, 0, atol=1e-12 * scale)
        np.testing.assert_allclose(state.arb_quantity + maker_coins, 0, atol=1e-12 * scale)
        np.testing.assert_allclose(state.common_quantity + outside_coins, 0, atol=1e-12 * scale)
        np.testing.assert_allclose(state.arb_cash + maker_cash, 0, atol=1e-12 * 4e6)
        np.testing.assert_allclose(state.common_cash + outside_cash, 0, atol=1e-12 * 4e6)

        # the plain wallets, in real dollars: equity at reference is dollars plus coins at the reference price
        np.testing.assert_allclose(state.basis, books.basis, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state.arb_quantity, books.coins, rtol=1e-11, atol=1e-12 * scale)
        np.testing.assert_allclose(state.arb_cash, books.dollars + books.coins * reference, rtol=1e-11, atol=1e-12 * 4e6)
        np.testing.assert_allclose(maker_cash, books.maker_dollars + books.maker_coins * reference, rtol=1e-11, atol=1e-12 * 4e6)
        np.testing.assert_allclose(state.common_cash, books.hedge_dollars + books.hedge_coins * reference, rtol=1e-11, atol=1e-12 * 4e6)
        now = venues.profit(state, reference_price=jnp.array(reference), log_price=jnp.array(x)).item()
        assert now == pytest.approx(books.profit(x), abs=1e-12 * 4e6)
    assert min(factors) < 1  # capital did bind, and did not always
    assert max(factors) == 1


def test_a_thin_venue_leaves_the_index_and_returns_as_capital_frees():
    # a book of 5% of the depth takes a sale of 30% of the depth: it falls 6% below the index
    share = jnp.array([[0.0], [0.05], [0.05]])
    reference, depth, exponent = jnp.array([1.0]), jnp.array([1e7]), jnp.array([1.0])
    rules = VenueRules(local_depth_share=share, arbitrage_rate=jnp.array([1.0]), capital=jnp.array(1.2e6))
    market = {"reference": reference, "depth": depth, "exponent": exponent, "log_price": jnp.zeros(1)}

    def flow(state, at_one, at_two):
        return _flow(rules, state, [[0.0], [at_one], [at_two]], depth=depth, exponent=exponent)

    # capital is tied up at the second venue before the first one is hit
    state, _ = _arbitrage(rules, flow(venues.initial(rules), 0.0, -1.2e6), **market)
    assert abs(state.basis[2, 0]) < 1e-12
    state, _ = _arbitrage(rules, flow(state, -3e6, 0.0), **market)
    assert -0.0601 < state.basis[1, 0] < -0.059  # nothing but the profit of the first trade could be put against it
    stuck, _ = _arbitrage(rules, state, **market)
    assert stuck.basis[1, 0] < -0.058
    # buyers return to the second venue: the inventory there is sold to them, and what it frees goes to the first
    state = stuck
    gaps = [state.basis[1, 0].item()]
    for _ in range(6):
        state, _ = _arbitrage(rules, flow(state, 0.0, 2e5), **market)
        gaps.append(state.basis[1, 0].item())
    assert np.all(np.diff(gaps) > 0.003)
    assert gaps[-1] - gaps[0] == pytest.approx(0.01 * 1.2e6 / 5e5, rel=0.05)  # the 1.2 M that were tied up, over the first venue's book
    # with new capital it closes in full
    state, _ = _arbitrage(replace(rules, capital=jnp.array(1e7)), state, **market)
    np.testing.assert_allclose(state.basis, 0, atol=1e-12)


def test_arbitrage_that_closes_a_gap_earns_half_of_it():
    rules = _rules(share=jnp.array([[0.1]]))
    one = {"depth": jnp.array([1e6]), "exponent": jnp.array([1.0])}
    state = _flow(rules, venues.initial(rules), [[-2e5]], **one)
    state, trades = _arbitrage(rules, state, log_price=jnp.zeros(1), reference=jnp.array([100.0]), **one)
    gap = 100 * (1 - np.exp(-0.02))
    assert _profit(state, jnp.zeros(1), jnp.array([100.0])).item() == pytest.approx(trades.coins[0, 0].item() * gap / 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_values_and_derivatives_are_finite_at_rest_and_apart(dtype):
    def outcome(rules, log_price, flow, exponent):
        reference, market = REFERENCE.astype(dtype), {"depth": DEPTH.astype(dtype), "exponent": exponent}
        state = venues.local_flow(rules, venues.initial(rules), **market, before=jnp.zeros_like(flow), after=flow)
        state, trades = _arbitrage(rules, state, log_price, reference, **market)
        return _profit(state, log_price, reference) + jnp.sum(state.basis) + jnp.sum(trades.common_usd)

    both = jax.jit(jax.value_and_grad(outcome, argnums=(0, 1, 2, 3)))
    for capital in (0.0, 1e5, np.inf):
        rules = jax.tree.map(lambda z: z.astype(dtype), _rules(capital=capital, rate=0.5))
        for size in (0.0, 1e-30, 1.0):
            for exponent in ([0.5, 1.0], [0.1, 2.0]):
                value, slopes = both(rules, jnp.zeros(2, dtype), size * jnp.array(SOLD, dtype), jnp.array(exponent, dtype))
                assert value.dtype == dtype
                assert bool(jnp.isfinite(value))
                assert all(bool(jnp.all(jnp.isfinite(s))) for s in jax.tree.leaves(slopes))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_gap_too_wide_for_a_small_exponent_is_cut_and_not_overflown(dtype):
    rules = jax.tree.map(lambda z: z.astype(dtype), _rules(capital=1e6))
    state = replace(venues.initial(rules), basis=jnp.where(rules.local_depth_share > 0, -2.0, 0.0).astype(dtype))
    steps = (DEPTH.astype(dtype), jnp.full(2, 0.05, dtype), REFERENCE.astype(dtype))
    after, trades = venues.arbitrage(rules, state, reference_price=steps[2], log_price=jnp.zeros(2, dtype), depth=steps[0], exponent=steps[1])
    assert all(bool(jnp.all(jnp.isfinite(z))) for z in jax.tree.leaves((after, trades)))
    spent = jnp.sum(jnp.abs(trades.coins) * steps[2][None, :] * jnp.exp(state.basis)).item()
    assert spent == pytest.approx(1e6, rel=1e-5)


def test_venues_work_under_vmap_and_scan():
    capitals = jnp.array([0.0, 1e5, jnp.inf])

    def run(capital):
        rules = replace(_rules(rate=0.5), capital=capital)

        def step(state, flow):
            state = venues.local_flow(rules, state, depth=DEPTH, exponent=EXPONENT, before=jnp.zeros((3, 2)), after=flow)
            state, _ = _arbitrage(rules, state)
            return state, state.basis

        return jax.lax.scan(step, venues.initial(rules), jnp.array([SOLD, np.zeros((3, 2)), np.zeros((3, 2))]))[1]

    basis = np.abs(jax.jit(jax.vmap(run))(capitals))
    assert basis.shape == (3, 3, 3, 2)
    # more capital, smaller gaps
    assert np.all(basis[0][:, 1:] > basis[1][:, 1:])
    assert np.all(basis[1][:, 1:] > basis[2][:, 1:])
