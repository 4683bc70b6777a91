"""Margin that grows with open interest and size, and bankruptcy prices, against figures of dYdX and Drift (sources beside them)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import requirement as rq
from stresslev.engine.margin import bankruptcy_price, tier_line


def _one(*values):
    return tuple(jnp.asarray([v], float) for v in values)


def _single(maker, base, parameter):
    return maker(jnp.asarray([base], float), jnp.asarray([parameter], float))


# --- open interest


def test_dydx_open_interest_scales_the_initial_margin():
    """dYdX v4: base 0.2, caps 1e6 and 2e6, open interest 1.5e6 -> 0.6."""
    interest = jnp.asarray([0.0, 1e6, 1.5e6, 2e6, 9e9])
    got = rq.open_interest_scale(jnp.full(5, 0.2), interest, jnp.full(5, 1e6), jnp.full(5, 2e6))
    np.testing.assert_allclose(got, [0.2, 0.2, 0.6, 1, 1], rtol=1e-15)
    factor = rq.open_interest_factor(jnp.full(5, 0.2), interest, jnp.full(5, 1e6), jnp.full(5, 2e6))
    np.testing.assert_allclose(factor, [1, 1, 3, 5, 5], rtol=1e-15)


@pytest.mark.parametrize(("lower", "upper"), [(0, 0), (1e6, 1e6), (2e6, 1e6), (1e6, np.inf), (np.inf, np.inf), (np.inf, 1e6)])
def test_without_caps_open_interest_changes_nothing(lower, upper):
    def factor(interest, low, high):
        return jnp.sum(rq.open_interest_factor(jnp.asarray([0.0, 0.05]), interest, low, high))

    caps = jnp.full(2, lower, float), jnp.full(2, upper, float)
    assert rq.open_interest_scale(jnp.asarray([0.0, 0.05]), jnp.full(2, 5e6), *caps).tolist() == [0, 0.05]
    value, slopes = jax.value_and_grad(factor, argnums=(0, 1, 2))(jnp.full(2, 5e6), *caps)
    assert value == 2
    assert all(np.all(np.asarray(s) == 0) for s in slopes)


# --- size


@pytest.mark.parametrize(
    ("base", "imf_factor", "coins", "weight"),
    [(1.1, 0.0, 1000, 1.1), (1.1, 1e-5, 1000, 1.1), (1.1, 0.01, 1000, 1.1962), (1.1, 0.1, 1000, 4.0422), (0.0, 0.1, 1000, 3.1622)],
)
def test_drift_size_premium(base, imf_factor, coins, weight):
    """Drift protocol v2, margin tests (asset and liability weights): figures in whole basis points, cut off."""
    scale = _single(rq.drift_scale, base, imf_factor)
    (extra,) = rq.size_margin(_one(-coins), _one(2.0), scale)
    ratio = base + float(extra[0]) / (coins * 2.0)
    assert np.floor(ratio * 1e4 + 1e-9) == round(weight * 1e4)


@pytest.mark.parametrize(
    ("base", "share", "base_notional", "notional", "initial", "maintenance"),
    [
        (0.01, 0.5, 1e6, 38.885, 0.38885, 0.194425),
        (0.01, 0.5, 1.0, 38.885, 2.424784, 1.212392),
        (0.20, 0.5, 100.0, 441.0, 185.220000, 92.610000),
        (0.05, 0.6, 100.0, 9200.311488, 4412.388886, 2647.433332),
        (0.01, 0.5, 3.696e8, 3.696e8, 3.696e6, 1.848e6),
    ],
)
def test_dydx_margin_adjusted_for_size(base, share, base_notional, notional, initial, maintenance):
    """dYdX v4 chain, margin requirements of the perpetuals keeper; the chain cuts the factor off at 1e-6 and the margin at 1e-6 USD."""
    for rate, due in ((base, initial), (base * share, maintenance)):
        scale = _single(rq.dydx_scale, rate, base_notional)
        (extra,) = rq.size_margin(_one(-notional / 7), _one(7.0), scale)
        got = rate * notional + float(extra[0])
        assert -1e-9 * due <= got - due <= 1e-6 + 1e-6 * rate * notional


def _positions(rng, accounts, assets):
    """Coins of either sign over many orders of size, one in ten of them zero, and marks; A arrays of one value per account each."""
    coins = rng.choice([-1, 0, 1], (assets, accounts), p=[0.45, 0.1, 0.45]) * 10 ** rng.uniform(-4, 4, (assets, accounts))
    return tuple(map(jnp.asarray, coins)), tuple(map(jnp.asarray, 10 ** rng.uniform(-3, 5, (assets, accounts))))


def _mixed_scale(rng, shape):
    """Drift and dYdX forms side by side, some positions below and some above the size at which scaling starts."""
    base = rng.uniform(0.005, 0.2, shape)
    drift = rq.drift_scale(jnp.asarray(base), jnp.asarray(rng.uniform(0, 0.01, shape)))
    dydx = rq.dydx_scale(jnp.asarray(base), jnp.asarray(10 ** rng.uniform(2, 7, shape)))
    which = jnp.asarray(rng.random(shape) < 0.5)
    return jax.tree.map(partial(jnp.where, which), drift, dydx)


def test_size_lines_touch_the_margin_and_lie_below_it():
    rng = np.random.default_rng(1)
    accounts, assets = 2000, 3
    scale, (q, p) = _mixed_scale(rng, (accounts, assets)), _positions(rng, accounts, assets)
    kept = np.where(rng.random(accounts) < 0.1, rng.choice([0.0, 1.0], accounts), rng.random(accounts))
    gross = np.abs(np.array(q)) * np.array(p) + 1e-300

    def value(share):
        return np.array(rq.size_margin(tuple(share * x for x in q), p, scale)) / gross

    slopes, deductions = (np.array(x) / gross for x in rq.size_line(jnp.asarray(kept), q, p, scale))
    assert 0.1 < np.mean(slopes > 0) < 0.9
    np.testing.assert_allclose(slopes * kept - deductions, value(kept), rtol=1e-12, atol=1e-13)
    for other in np.linspace(0, 1, 23):
        assert np.all(slopes * other - deductions <= value(other) + 1e-12 * (1 + slopes))


def test_size_line_has_the_slope_of_the_margin():
    scale = _mixed_scale(np.random.default_rng(3), (3,))
    q, p = _one(50.0, -3000.0, 7.0), _one(3e4, 2.0, 9e3)

    def total(kept):
        return sum(jnp.sum(x) for x in rq.size_margin(tuple(kept * x for x in q), p, scale))

    for kept in (0.1, 0.5, 1.0):
        slopes, _ = rq.size_line(jnp.asarray([kept]), q, p, scale)
        assert float(jax.grad(total)(kept)) > 0
        np.testing.assert_allclose(sum(float(s[0]) for s in slopes), jax.grad(total)(kept), rtol=1e-12)


def test_following_the_lines_from_the_right_finds_the_share_to_keep():
    """Tiers and size together, 500 accounts; against bisection on a margin written apart."""
    rng = np.random.default_rng(2)
    accounts = 500
    floor, step = np.array([[0, 2e5, 1e6], [0, 5e4, 3e6]]), np.array([[0.01, 0.02, 0.05], [0.02, 0.01, 0.1]])
    coins, price = rng.uniform(1, 1e3, (2, accounts)) * [[1], [-1]], np.array([2e3, 500.0])
    imf, base_notional = rng.uniform(0, 0.01, accounts), 10 ** rng.uniform(4, 7, accounts)
    drift = rq.drift_scale(jnp.full((accounts, 1), 0.01), jnp.asarray(imf)[:, None])
    dydx = rq.dydx_scale(jnp.full((accounts, 1), 0.02), jnp.asarray(base_notional)[:, None])
    scale = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), drift, dydx)
    n = np.abs(coins) * price[:, None]

    def margin(kept):
        premium = np.maximum(0.01, 0.8 * 0.01 + imf * np.sqrt(kept * np.abs(coins[0])))
        scaled = 0.02 * np.maximum(1, np.sqrt(kept * n[1] / base_notional))
        tiers = [sum(step[a, k] * np.maximum(kept * n[a] - floor[a, k], 0) for k in range(3)) for a in range(2)]
        return tiers[0] + tiers[1] + kept * n[0] * (premium - 0.01) + kept * n[1] * (scaled - 0.02)

    q, p, one = tuple(map(jnp.asarray, coins)), tuple(map(jnp.asarray, price)), jnp.asarray(1.0)
    ours = rq.position_margins(q, p, jnp.asarray(floor), jnp.asarray(step), (one, one), scale)
    np.testing.assert_allclose(sum(ours), margin(1.0), rtol=1e-12)
    budget = rng.uniform(0.05, 0.9, accounts) * margin(1.0)
    low, high = np.zeros(accounts), np.ones(accounts)
    for _ in range(60):
        middle = (low + high) / 2
        enough = margin(middle) <= budget
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    kept = np.ones(accounts)
    for _ in range(12):
        slopes, deductions = rq.size_line(jnp.asarray(kept), q, p, scale)
        slope, deduction = np.sum(slopes, axis=0), np.sum(deductions, axis=0)
        for a in range(2):
            rate, less = tier_line(jnp.asarray(kept * n[a]), jnp.asarray(floor[a]), jnp.asarray(step[a]))
            slope, deduction = slope + rate * n[a], deduction + less
        new = np.asarray((budget + deduction) / slope)
        assert np.all((low - 1e-12 <= new) & (new <= kept + 1e-12))
        kept = new
    np.testing.assert_allclose(kept, low, rtol=1e-11)


def test_margin_of_no_position_has_finite_derivatives():
    scale = rq.drift_scale(jnp.asarray([0.0, 0.05]), jnp.asarray([0.01, 0.01]))

    def total(q, kept):
        slopes, deductions = rq.size_line(kept, q, _one(5.0, 5.0), scale)
        return sum(jnp.sum(x) for x in (*rq.size_margin(q, _one(5.0, 5.0), scale), *slopes, *deductions))

    slopes = jax.grad(total, argnums=(0, 1))(_one(0.0, 0.0), jnp.zeros(1))
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(slopes))


def test_blocks_take_the_scale_of_their_pool_in_both_precisions():
    base, factor = jnp.asarray([[0.05, 0.1], [0.02, 0.02]]), jnp.asarray([[0.01, 0.0], [0.0, 0.03]])
    coins = np.random.default_rng(0).normal(size=(2, 3, 4)) * 100
    for dtype, rtol in ((jnp.float64, 1e-12), (jnp.float32, 2e-5)):
        scale = rq.drift_scale(base.astype(dtype), factor.astype(dtype))
        blocks = jax.tree.map(lambda x: x[jnp.asarray([1, 0, 1])][:, None], scale)
        q, p = tuple(jnp.asarray(c, dtype) for c in coins), (jnp.asarray(3.0, dtype),) * 2
        got = jax.jit(rq.size_margin)(q, p, blocks)
        for a in range(2):
            pool = np.array([1, 0, 1])
            b, f = np.asarray(base)[pool, a][:, None], np.asarray(factor)[pool, a][:, None]
            want = 3 * np.abs(coins[a]) * np.maximum(0, 0.8 * b + f * np.sqrt(np.abs(coins[a])) - b)
            assert got[a].dtype == dtype
            # the excess over base is a difference of ratios: its error is that of the ratio
            np.testing.assert_allclose(got[a], want, rtol=rtol, atol=rtol * 0.01 * np.abs(want).max())


# --- bankruptcy prices

BTC, ETH = 50_000.0, 3_000.0


@pytest.mark.parametrize(
    ("btc", "eth", "quote", "closed", "price", "expected"),
    [
        (0.1, 0, -4501, 0.1, BTC, 4501),
        (-0.1, 0, 5499, -0.1, BTC, -5499),
        (0.1, 0, -5000, 0.05, BTC, 2500),
        (0.004, 0.1, -490, 0.1, ETH, 294),
        (-0.004, -0.1, 510, -0.1, ETH, -306),
    ],
)
def test_dydx_bankruptcy_quotes(btc, eth, quote, closed, price, expected):
    """dYdX v4, BTC at 50,000 and ETH at 3,000, maintenance 10%."""
    equity = quote + btc * BTC + eth * ETH
    required = 0.1 * (abs(btc) * BTC + abs(eth) * ETH)
    got = rq.bankruptcy_quote(*(jnp.asarray(x, float) for x in (-closed, price, equity, 0.1 * abs(closed) * price, required)))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_bankruptcy_prices_are_the_quotes_per_coin():
    """The two accounts above that hold both coins: the ETH is closed at 2,940 and 3,060."""
    for sign, quote, expected in ((1, -490, 2940.0), (-1, 510, 3060.0)):
        q, p = _one(sign * 0.004, sign * 0.1), _one(BTC, ETH)
        equity = jnp.asarray([quote + sign * 500.0])
        prices = rq.bankruptcy_prices(q, p, equity, tuple(0.1 * abs(x) * m for x, m in zip(q, p, strict=True)))
        np.testing.assert_allclose(prices[1], expected, rtol=1e-12)


@pytest.mark.parametrize(("fee_cap", "expected"), [(0.005, 28.05), (0.025, 140.25), (1.0, 510.0)])
def test_dydx_insurance_takes_what_is_left_up_to_its_fee(fee_cap, expected):
    """dYdX v4: long 0.1 BTC with quote -5,100, filled at 5,610."""
    equity, required = jnp.asarray(-100.0), jnp.asarray(500.0)
    bankruptcy = rq.bankruptcy_quote(jnp.asarray(-0.1), jnp.asarray(BTC), equity, required, required)
    np.testing.assert_allclose(rq.insurance_delta(jnp.asarray(5610.0), bankruptcy, jnp.asarray(fee_cap)), expected, rtol=1e-12)


def test_insurance_pays_for_a_fill_beyond_the_bankruptcy_quote():
    assert float(rq.insurance_delta(jnp.asarray(5000.0), jnp.asarray(5100.0), jnp.asarray(0.005))) == -100


def test_closing_everything_at_the_bankruptcy_prices_leaves_nothing():
    rng = np.random.default_rng(4)
    accounts = 2000
    q, p = _positions(rng, accounts, 4)
    notionals = np.abs(np.array(q)) * np.array(p)
    margins = notionals * rng.uniform(0, 0.1, notionals.shape) * (rng.random(accounts) < 0.7)  # the others have no margin at all
    gross = notionals.sum(axis=0)
    equity = rng.uniform(-1, 1, accounts) * gross
    prices = np.array(rq.bankruptcy_prices(q, p, jnp.asarray(equity), tuple(map(jnp.asarray, margins))))
    left = equity + np.sum(np.array(q) * (prices - np.array(p)), axis=0)
    assert np.all(np.abs(left) <= 1e-12 * gross)
    flat = np.array(q) == 0
    assert flat.any()
    assert np.all(prices[flat] == np.array(p)[flat])


def test_one_position_has_the_plain_bankruptcy_price():
    (price,) = rq.bankruptcy_prices(_one(-4.0), _one(1.0), jnp.asarray([8 / 3]), _one(0.4))
    np.testing.assert_allclose(price, bankruptcy_price(jnp.asarray([-4.0]), jnp.asarray([8 / 3]), jnp.asarray([1.0])), rtol=1e-15)


def test_accounts_without_positions_or_margin_stay_numbers():
    def total(q, equity, margins):
        prices = rq.bankruptcy_prices(q, _one(5.0, 7.0), equity, margins)
        quote = rq.bankruptcy_quote(q[0], jnp.asarray([5.0]), equity, margins[0], margins[1])
        return sum(jnp.sum(x) for x in (*prices, quote))

    for q in ((0.0, 0.0), (0.0, 2.0)):
        value, slopes = jax.value_and_grad(total, argnums=(0, 1, 2))(_one(*q), jnp.asarray([3.0]), _one(0.0, 0.0))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((value, slopes)))
