"""Forms of price impact against plain formulas, published fire sales, the closed-form cascade and real quotes."""

import csv
import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.engine import impact
from stresslev.engine.impact import (
    CONSTANT_PRODUCT,
    EXPONENTIAL,
    POWER,
    PRICE_LINEAR,
    ImpactRules,
    average_price,
    cont_schaanning_depth,
    power_move,
)

FORMS = [POWER, EXPONENTIAL, PRICE_LINEAR, CONSTANT_PRODUCT]
NAMES = ["power", "exponential", "price_linear", "constant_product"]


def _rules(form, *, depth=1e6, exponent=0.5, scale=0.8, quantity=1e4, dtype=jnp.float64) -> ImpactRules:
    def one(x):
        return jnp.array([x], dtype)

    return ImpactRules(form=jnp.array([form], jnp.int32), depth=one(depth), exponent=one(exponent), scale=one(scale), quantity=one(quantity))


_compiled_move = jax.jit(impact.move)


def _move(rules, *, before=(0.0, 0.0), after=(0.0, 0.0), opening=0.0, thinning=1.0):
    """Move of one asset; `before` and `after` are (USD, coins)."""

    def one(x):
        return jnp.asarray(x, rules.depth.dtype)[None]

    return _compiled_move(
        rules,
        thinning=one(thinning),
        opening=one(opening),
        usd_before=one(before[0]),
        usd_after=one(after[0]),
        coins_before=one(before[1]),
        coins_after=one(after[1]),
    )[0]


def _plain(form, usd, coins, opening, thinning, *, depth=1e6, exponent=0.5, scale=0.8, quantity=1e4) -> float:
    """Move from the opening, written with pool reserves and price levels instead of logs of ratios."""
    if form == POWER:
        return math.copysign(0.01 * (abs(usd) / (thinning * depth)) ** exponent, usd)
    if form == EXPONENTIAL:
        return scale * coins / (thinning * quantity)
    price = 37.0 * math.exp(opening)
    if form == PRICE_LINEAR:
        return math.log((price + scale * 37.0 * coins / (thinning * quantity)) / price)
    coin_reserve = thinning * quantity * math.exp(-opening / 2)
    invariant = coin_reserve * (price * coin_reserve)
    left = coin_reserve - coins
    return math.log(invariant / left / left / price)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@given(usd=st.floats(-1e8, 1e8), coins=st.floats(-1000, 1000), opening=st.floats(-0.5, 0.5), thinning=st.floats(0.5, 1))
def test_every_form_is_its_plain_formula(form, usd, coins, opening, thinning):
    got = _move(_rules(form), after=(usd, coins), opening=opening, thinning=thinning).item()
    assert got == pytest.approx(_plain(form, usd, coins, opening, thinning), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.73, 1.0, 1.5, 2.0])
def test_a_flow_of_one_depth_moves_one_percent_and_others_by_the_power(exponent):
    flow = np.array([-1e6, 1e6, -3e6, -1.0, 0.0, 2e5, 7e7])
    got = power_move(jnp.zeros(7), jnp.array(flow), jnp.full(7, 1e6), jnp.full(7, exponent))
    np.testing.assert_array_equal(got[:2], [-0.01, 0.01])
    np.testing.assert_allclose(got, 0.01 * np.sign(flow) * (np.abs(flow) / 1e6) ** exponent, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@given(a=st.floats(-0.6, 0.6), b=st.floats(-0.6, 0.6), opening=st.floats(-0.5, 0.5), thinning=st.floats(0.5, 1))
def test_two_rounds_move_the_price_as_far_as_one(form, a, b, opening, thinning):
    rules = _rules(form)
    first, total = (a * 1e7, a * 1e4), ((a + b) * 1e7, (a + b) * 1e4)
    more = {"opening": opening, "thinning": thinning}
    in_two = _move(rules, after=first, **more) + _move(rules, before=first, after=total, **more)
    assert in_two.item() == pytest.approx(_move(rules, after=total, **more).item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_no_flow_in_a_round_moves_nothing_at_all(form, dtype):
    rng = np.random.default_rng(3)
    rules = _rules(form, exponent=0.73, dtype=dtype)
    opening = rng.normal(0, 0.3, 200).astype(dtype)
    usd, coins = rng.normal(0, 1e7, 200).astype(dtype), rng.normal(0, 3e3, 200).astype(dtype)
    usd[0] = coins[0] = 0
    moves = jax.jit(jax.vmap(lambda u, c, o: _move(rules, before=(u, c), after=(u, c), opening=o)))(usd, coins, opening)
    assert moves.dtype == dtype
    np.testing.assert_array_equal(np.asarray(moves), 0)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_thinner_market_moves_further(form):
    sale = (-1e6, -500.0)
    falls = [-_move(_rules(form), after=sale, thinning=t).item() for t in (1.0, 0.5, 0.1)]
    assert 0 < falls[0] < falls[1] < falls[2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.73, 1.0, 1.5])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_derivatives_are_finite_at_zero_flow(form, exponent, dtype):
    rules = _rules(form, exponent=exponent, dtype=dtype)

    def moved(rules, usd, coins, thinning, opening):
        return _move(rules, after=(usd, coins), thinning=thinning, opening=opening)

    at = (jnp.array(0.0, dtype), jnp.array(0.0, dtype), jnp.array(0.7, dtype), jnp.array(0.1, dtype))
    slopes = jax.grad(moved, argnums=(0, 1, 2, 3, 4), allow_int=True)(rules, *at)
    floats = [s for s in jax.tree.leaves(slopes) if jnp.issubdtype(s.dtype, jnp.floating)]
    assert len(floats) == 8
    assert all(bool(jnp.all(jnp.isfinite(s))) for s in floats)
    expected = {
        POWER: (0.01 / (0.7 * 1e6), 0),
        EXPONENTIAL: (0, 0.8 / 0.7e4),
        PRICE_LINEAR: (0, 0.8 / 0.7e4 * math.exp(-0.1)),
        CONSTANT_PRODUCT: (0, 2 / 0.7e4 * math.exp(0.05)),
    }
    np.testing.assert_allclose(slopes[1:3], expected[form], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_derivatives_are_those_of_finite_differences(form):
    rules = _rules(form)

    def moved(flow):
        return _move(rules, before=(flow * 300, flow), after=(flow * 900, flow * 3), opening=flow * 1e-4)

    for flow in (-700.0, 900.0):
        numeric = (moved(flow + 1e-2) - moved(flow - 1e-2)) / 2e-2
        assert jax.grad(moved)(flow).item() == pytest.approx(numeric.item(), rel=1e-7)


def test_what_a_form_does_not_read_cannot_reach_it():
    sale = (-3e5, -40.0)
    for form in FORMS:
        reads = {"depth", "exponent"} if form == POWER else {"quantity"} if form == CONSTANT_PRODUCT else {"quantity", "scale"}
        spoiled = {name: 0.0 for name in ("depth", "exponent", "scale", "quantity") if name not in reads}
        rules = _rules(form, **spoiled)
        assert _move(rules, after=sale) == _move(_rules(form), after=sale)
        slopes = jax.grad(lambda r: _move(r, after=sale), allow_int=True)(rules)
        for name in ("depth", "exponent", "scale", "quantity"):
            slope = getattr(slopes, name).item()
            assert math.isfinite(slope)
            assert (slope != 0) == (name in reads)


def test_forms_may_differ_between_assets_in_one_program():
    columns = [_rules(form) for form in FORMS]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *columns)
    four = jnp.full(4, 1.0)
    none = 0 * four
    program = jax.jit(
        lambda r: impact.move(
            r, thinning=0.9 * four, opening=0.2 * four, usd_before=none, usd_after=-5e5 * four, coins_before=none, coins_after=-300 * four
        )
    )
    apart = [_move(r, after=(-5e5, -300.0), opening=0.2, thinning=0.9).item() for r in columns]
    np.testing.assert_allclose(program(together), apart, rtol=1e-14)
    turned = jax.tree.map(lambda x: x[::-1], together)
    np.testing.assert_allclose(program(turned), apart[::-1], rtol=1e-14)
    assert program._cache_size() == 1


@pytest.mark.parametrize(("pi", "corporate", "government"), [(0.05, 0.35848592, 0.28678874), (0.01, 0.81790694, 0.65432555)])
def test_selling_all_gives_the_prices_of_the_bank_of_england_fire_sale(pi, corporate, government):
    # Staff Working Paper 861: 5% of a bond sold lowers its price by pi, so beta = -ln(1 - pi) / 0.05; government bonds were shocked by 20% first.
    # Six banks sell all they have by the end, 76% of it in the first round when pi is 5%.
    rules = _rules(EXPONENTIAL, scale=-math.log(1 - pi) / 0.05, quantity=250_000.0)
    part = (0.0, -0.76394670 * 250_000)
    for start, end in ((1.0, corporate), (0.8, government)):
        first = _move(rules, after=part, opening=math.log(start))
        second = _move(rules, before=part, after=(0.0, -250_000.0), opening=math.log(start))
        assert start * math.exp(first + second) == pytest.approx(end, abs=5e-9)


@pytest.mark.parametrize("fall", [0.02, 0.05, 0.1])
def test_linear_price_impact_cascades_to_the_closed_form(fall):
    # longs of 1 coin in all at price 1, u = 1 / leverage uniform on [a, b], maintenance m: liquidated once the fall reaches (u - m) / (1 - m)
    a, b, m, k = 0.06, 0.4, 0.05, 0.2
    rules, opening = _rules(PRICE_LINEAR, scale=k, quantity=1.0), math.log(1 - fall)
    sold, x = 0.0, opening
    for _ in range(200):
        share = min(max((m + (1 - math.exp(x)) * (1 - m) - a) / (b - a), 0.0), 1.0)
        x += _move(rules, before=(0.0, -sold), after=(0.0, -share), opening=opening).item()
        sold = share
    r = k * (1 - m) / (b - a)
    assert 0 < sold < 1
    assert 1 - math.exp(x) == pytest.approx((fall + k * (m - a) / (b - a)) / (1 - r), rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_linear_price_keeps_its_least_share_and_comes_back(dtype):
    rules = _rules(PRICE_LINEAR, scale=2.0, dtype=dtype)
    far, near = (0.0, -9e3), (0.0, -1e3)
    down = _move(rules, after=far)
    assert down.item() == pytest.approx(math.log(impact.LEAST_SHARE), rel=1e-6)
    assert _move(rules, before=far, after=(0.0, -2e4)) == 0
    back = down + _move(rules, before=far, after=near)
    assert back.item() == pytest.approx(math.log(0.8), rel=1e-5 if dtype == jnp.float32 else 1e-12)
    assert bool(jnp.isfinite(jax.grad(lambda c: _move(rules, after=(0.0, c)))(jnp.array(-9e3, dtype))))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_more_than_the_reserve_can_be_bought_from_a_pool(dtype):
    rules = _rules(CONSTANT_PRODUCT, dtype=dtype)
    most = _move(rules, after=(0.0, 0.99e4)).item()
    assert most == pytest.approx(math.log(1e4), rel=1e-5)
    for coins in (0.995e4, 1e4, 5e4, 1e9):
        assert _move(rules, after=(0.0, coins)).item() == pytest.approx(most, rel=1e-5)
        assert bool(jnp.isfinite(jax.grad(lambda c: _move(rules, after=(0.0, c)))(jnp.array(coins, dtype))))


@given(st.lists(st.floats(-2e3, 2e3), min_size=1, max_size=4), st.floats(-0.7, 0.7))
def test_fills_against_a_pool_keep_its_invariant_over_rounds(trades, opening):
    # coins sold and dollars paid out, booked on the pool's two reserves: R_x R_y must not change and R_y / R_x must stay the price
    rules, reference = _rules(CONSTANT_PRODUCT), 37.0
    price = reference * math.exp(opening)
    coins = 1e4 * math.exp(-opening / 2)
    dollars = coins * price
    k, bought = coins * dollars, 0.0
    for trade in trades:
        step = _move(rules, before=(0.0, bought), after=(0.0, bought + trade), opening=opening)
        after = price * math.exp(step)
        fill = average_price(rules.form, jnp.array([price]), jnp.array([after])).item()
        coins, dollars, bought, price = coins - trade, dollars + trade * fill, bought + trade, after
        assert coins * dollars == pytest.approx(k, rel=1e-12)
        assert dollars / coins == pytest.approx(price, rel=1e-12)


def test_fills_of_the_other_forms_are_at_the_mean_price():
    before, after = jnp.array([100.0]), jnp.array([64.0])
    for form in (POWER, EXPONENTIAL, PRICE_LINEAR):
        assert average_price(jnp.array([form], jnp.int32), before, after).item() == 82
    assert average_price(jnp.array([CONSTANT_PRODUCT], jnp.int32), before, after).item() == 80


def test_the_mean_price_is_exact_for_linear_prices_and_nearly_so_for_exponential_ones():
    for form, error in ((PRICE_LINEAR, 0.0), (EXPONENTIAL, 0.1**2 / 12)):
        rules = _rules(form, scale=0.1)
        path = [math.exp(_move(rules, after=(0.0, -c))) for c in np.linspace(0, 1e4, 201)]
        integral = (sum(path) - (path[0] + path[-1]) / 2) / 200
        mean = average_price(rules.form, jnp.array([path[0]]), jnp.array([path[-1]])).item()
        assert mean / integral - 1 == pytest.approx(error, abs=2e-6)


def test_depth_from_volume_moves_the_price_by_one_percent():
    # 4 bn a day at 2% daily volatility, sold over 20 days, c = 0.25: D = 0.25 * 4e9 * sqrt(20) / 0.02
    full = 0.25 * 4e9 * 4.47213595499958 / 0.02
    depth = cont_schaanning_depth(adv=4e9, volatility_daily=0.02, horizon_days=20.0, c=0.25)
    assert depth == pytest.approx(full / 100, rel=1e-14)
    assert _move(_rules(POWER, depth=depth, exponent=1.0), after=(-0.03 * full, 0.0)).item() == pytest.approx(-0.03, rel=1e-14)


#: Slippage of selling WETH for USDC on DEX routes, 2023-11-20 (1inch quotes, kept by the authors of crvUSDrisk): ETH sold, average price below spot.
SLIPPAGE = ((100.0, 0.0004), (1_000.0, 0.0016), (10_000.0, 0.0092), (20_000.0, 0.018))
SLIPPAGE_EXPONENT = 0.73
ETH_USD = 2005.0


def _slippage(rules, eth: float) -> float:
    """Share by which the fill is below the price before the sale."""
    after = math.exp(_move(rules, after=(-eth * ETH_USD, 0.0)))
    return 1 - average_price(rules.form, jnp.array([1.0]), jnp.array([after])).item()


def _fitted(exponent: float) -> ImpactRules:
    """A power law whose only free figure, its depth, is fitted to `SLIPPAGE`: mean log error zero, the move being twice the slippage."""
    depth = [eth * ETH_USD * (0.01 / (2 * slip)) ** (1 / exponent) for eth, slip in SLIPPAGE]
    return _rules(POWER, exponent=exponent, depth=math.exp(float(np.mean(np.log(depth)))))


def test_a_power_law_reproduces_the_slippage_of_dex_routes_over_two_decades():
    def worst(exponent):
        return max(abs(_slippage(_fitted(exponent), eth) / slip - 1) for eth, slip in SLIPPAGE)

    assert worst(SLIPPAGE_EXPONENT) < 0.17  # the figures themselves are rounded to one or two digits
    assert worst(1.0) > 0.5
    assert worst(0.5) > 0.5


def test_real_quotes_give_the_slippage_figures_and_their_exponent(real_data):
    if real_data is None:
        return
    with gzip.open(real_data / "crvusd_positions_quotes" / "oneinch_quotes_20231120.csv.gz", "rt") as lines:
        quotes = [(float(q["in_units"]), float(q["price_impact"])) for q in csv.DictReader(lines) if (q["src"], q["dst"]) == ("WETH", "USDC")]
    eth, slip = np.array(quotes).T
    assert len(eth) == 340
    kept = (eth >= 50) & (eth < 25_000) & (slip > 0)
    # median of the slopes between all pairs (Theil 1950, Sen 1968): routing makes some quotes far better than their size would have them
    run, rise = (np.subtract.outer(z, z)[np.triu_indices(z.size, 1)] for z in (np.log(eth[kept]), np.log(slip[kept])))
    assert np.median(rise / run) == pytest.approx(SLIPPAGE_EXPONENT, abs=0.03)
    rules = _fitted(SLIPPAGE_EXPONENT)
    for size, figure in SLIPPAGE:
        near = (eth > size / 1.25) & (eth < size * 1.25)
        typical, median = np.median(eth[near]), np.median(slip[near])
        assert median * (size / typical) ** SLIPPAGE_EXPONENT == pytest.approx(figure, rel=0.06)
        assert _slippage(rules, typical) == pytest.approx(median, rel=0.25)
