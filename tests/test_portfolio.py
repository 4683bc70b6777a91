"""Portfolio margin: the venues' figures, the properties that make offsets safe, and agreement with plain NumPy written apart."""

from dataclasses import replace
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import portfolio as pm
from stresslev.engine.liquidation import restore_fraction

ACCOUNTS, ASSETS = 400, 3

#: Paradex documentation, portfolio margin: relative price moves and the weight of each, in percent.
PARADEX = [(s * m, 100) for m in (4, 8, 12, 16) for s in (1, -1)] + [
    (-66, 24),
    (-33, 48),
    (50, 32),
    (100, 16),
    (200, 8),
    (300, 5.33),
    (400, 4),
    (500, 3.2),
]
MOVES, WEIGHTS = (jnp.asarray([row[i] / 100 for row in PARADEX]) for i in range(2))


def _book(seed=0, dtype=jnp.float64):
    """Exposures over many orders of size, one in ten of them zero."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1, 0, 1], (ASSETS, ACCOUNTS), p=[0.45, 0.1, 0.45]) * 10 ** rng.uniform(0, 7, (ASSETS, ACCOUNTS))
    return tuple(jnp.asarray(row, dtype) for row in x)


def _gross(exposure):
    return sum(jnp.abs(x) for x in exposure)


def _positive_definite(seed, scale=0.05):
    factor = np.random.default_rng(seed).normal(size=(ASSETS, ASSETS)) * scale
    return factor @ factor.T


def _correlation(seed):
    cov = _positive_definite(seed)
    deviation = np.sqrt(np.diag(cov))
    return cov / np.outer(deviation, deviation)


def _rules(pools=1, **changes):
    """Pools that share one set of rules; `changes` replace leaves."""
    shocks, weights = pm.grid(MOVES, WEIGHTS, ASSETS, "parallel")
    one = pm.PortfolioMargin(
        form=jnp.asarray(pm.SCAN, jnp.int32),
        shocks=shocks * jnp.asarray([[1.0, 1.3, 0.7]]),
        weights=weights,
        correlation=jnp.asarray(_correlation(5)),
        covariance=jnp.asarray(_positive_definite(6)),
        deviations=jnp.asarray(3.0),
        level=jnp.asarray(0.99),
        floor_rate=jnp.asarray(0.01),
        multiplier=jnp.asarray(0.5),
    )
    return replace(jax.tree.map(lambda x: jnp.stack([x] * pools), one), **changes)


_requirement = jax.jit(pm.requirement)


def _by_form():
    """One pool of each form, on blocks: what each form says of one book, (5, ACCOUNTS)."""
    rules = pm.by_block(_rules(5, form=jnp.arange(5, dtype=jnp.int32)), jnp.arange(5, dtype=jnp.int32))
    return lambda exposure: _requirement(tuple(jnp.stack([x] * 5) for x in exposure), jnp.stack([_gross(exposure)] * 5), rules)


# --- figures of venues and texts


@pytest.mark.parametrize("side", [1, -1])
def test_paradex_scans_a_delta_one_position_to_16_percent_and_keeps_half(side):
    x = (jnp.asarray(side * 22_532.0),)
    shocks, weights = pm.grid(MOVES, WEIGHTS, 1, "parallel")
    np.testing.assert_allclose(pm.scan(x, shocks, weights), 0.16 * 22_532, rtol=1e-12)
    rules = pm.PortfolioMargin(
        form=jnp.asarray(pm.SCAN, jnp.int32),
        shocks=shocks,
        weights=weights,
        correlation=jnp.eye(1),
        covariance=jnp.eye(1),
        deviations=jnp.asarray(3.0),
        level=jnp.asarray(0.99),
        floor_rate=jnp.asarray(0.0),
        multiplier=jnp.asarray(0.5),
    )
    np.testing.assert_allclose(pm.requirement(x, jnp.abs(x[0]), rules), 0.08 * 22_532, rtol=1e-12)


def test_ten_eth_futures_lose_3379_80_at_15_percent():
    for side in (1, -1):
        x = pm.dollar_exposure((jnp.asarray(10.0 * side),), (jnp.asarray(2253.2),))
        loss = pm.scan(x, jnp.asarray([[0.15], [-0.15]]), jnp.ones(2))
        np.testing.assert_allclose(loss, 3379.8, rtol=1e-12)


def test_shortfall_multipliers_of_the_basel_level_and_of_its_neighbours():
    """2.338 standard deviations at 97.5%, about the quantile of 99% (Basel Committee, 2013), 2.665 at 99%."""
    got = pm.shortfall_multiplier(jnp.asarray([0.975, 0.99]))
    np.testing.assert_allclose(got, [2.338, 2.665], atol=5e-4)
    exact = [NormalDist().pdf(NormalDist().inv_cdf(level)) / (1 - level) for level in (0.975, 0.99)]
    np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_shortfall_is_the_mean_loss_beyond_the_quantile():
    """Normal losses at a hundred thousand equal steps of probability."""
    points = [NormalDist(0, 2).inv_cdf((k + 0.5) / 100_000) for k in range(100_000)]
    got = pm.expected_shortfall((jnp.asarray(1.0),), jnp.asarray([[4.0]]), jnp.asarray(0.99))
    np.testing.assert_allclose(got, np.mean(points[-1000:]), rtol=5e-4)


# --- grids and scans


def test_a_single_grid_moves_one_asset_at_a_time():
    shocks, weights = pm.grid(jnp.asarray([0.1, -0.2]), jnp.asarray([1.0, 0.5]), 2, "single")
    assert shocks.tolist() == [[0.1, 0], [-0.2, 0], [0, 0.1], [0, -0.2]]
    assert weights.tolist() == [1, 0.5, 1, 0.5]
    with pytest.raises(ValueError, match="'both'"):
        pm.grid(MOVES, WEIGHTS, 2, "both")


def test_scans_agree_with_numpy():
    book = _book()
    rng = np.random.default_rng(1)
    shocks, weights = rng.normal(size=(7, ASSETS)), rng.random(7)
    losses = -np.array(book).T @ shocks.T * weights
    np.testing.assert_allclose(pm.scan(book, jnp.asarray(shocks), jnp.asarray(weights)), np.maximum(losses.max(axis=1), 0), rtol=1e-11)
    for a, got in enumerate(pm.asset_scans(book, jnp.asarray(shocks), jnp.asarray(weights))):
        alone = -np.array(book[a])[:, None] * shocks[:, a] * weights
        np.testing.assert_allclose(got, np.maximum(alone.max(axis=1), 0), rtol=1e-12)


def test_both_grids_have_the_same_single_asset_scans():
    book = _book()
    for parallel, single in zip(*(pm.asset_scans(book, *pm.grid(MOVES, WEIGHTS, ASSETS, mode)) for mode in ("parallel", "single")), strict=True):
        np.testing.assert_array_equal(parallel, single)


def test_the_worst_single_asset_scenario_is_the_largest_single_scan():
    book = _book()
    shocks, weights = pm.grid(MOVES, WEIGHTS, ASSETS, "single")
    np.testing.assert_array_equal(pm.scan(book, shocks, weights), np.max(pm.asset_scans(book, shocks, weights), axis=0))


# --- correlation and covariance


def test_offsets_never_exceed_the_gross_sum():
    book, slack = np.abs(np.array(_book())).sum(axis=0), 1 + 1e-12
    for seed in range(20):
        net = pm.net_correlation(_book(), jnp.asarray(_correlation(seed)))
        assert np.all(net <= book * slack)
        assert np.any(net < 0.9 * book)


def test_full_correlation_nets_and_none_adds_squares():
    book = _book()
    net, root = np.abs(np.sum(book, axis=0)), np.sqrt(np.sum(np.square(book), axis=0))
    np.testing.assert_allclose(pm.net_correlation(book, jnp.ones((ASSETS, ASSETS))), net, atol=2e-8 * float(root.max()), rtol=1e-9)
    np.testing.assert_allclose(pm.net_correlation(book, jnp.eye(ASSETS)), root, rtol=1e-13)


def test_a_hedged_pair_needs_nothing_under_full_correlation_but_the_floor():
    x = (jnp.asarray([1e6]), jnp.asarray([-1e6]))
    net = pm.net_correlation(x, jnp.ones((2, 2)))
    assert float(net[0]) == 0
    assert float(pm.floored(net, jnp.asarray([2e6]), jnp.asarray([0.01]))[0]) == 2e4


def test_covariance_agrees_with_numpy_and_is_subadditive():
    one, two = _book(1), _book(2)
    for seed in range(10):
        cov = _positive_definite(seed)
        z = jnp.asarray(3.0)
        a, b, both = (np.array(pm.covariance(x, jnp.asarray(cov), z)) for x in (one, two, tuple(x + y for x, y in zip(one, two, strict=True))))
        np.testing.assert_allclose(a, 3 * np.sqrt(np.einsum("an,ab,bn->n", np.array(one), cov, np.array(one))), rtol=1e-9)
        assert np.all(both <= (a + b) * (1 + 1e-9))


def test_the_gradient_of_a_root_is_the_marginal_risk():
    """d/dx z sqrt(x'Sx) = z S x / sqrt(x'Sx), and Euler: the marginal risks times the positions add up to the whole."""
    cov, x = _positive_definite(3), np.array([3e4, -1e5, 2e3])
    got = jax.grad(lambda *v: pm.covariance(v, jnp.asarray(cov), jnp.asarray(2.0)), argnums=(0, 1, 2))(*map(jnp.asarray, x))
    np.testing.assert_allclose(got, 2 * cov @ x / np.sqrt(x @ cov @ x), rtol=1e-12)
    np.testing.assert_allclose(np.dot(got, x), pm.covariance(tuple(map(jnp.asarray, x)), jnp.asarray(cov), jnp.asarray(2.0)), rtol=1e-12)


# --- historical tail


@pytest.mark.parametrize("tail", [1, 3, 20])
def test_the_historical_tail_agrees_with_sorting(tail):
    book, scenarios = _book(), np.random.default_rng(2).normal(size=(20, ASSETS))
    losses = np.sort(-scenarios @ np.array(book), axis=0)[-tail:]
    got = jax.jit(pm.historical_expected_shortfall, static_argnums=2)(book, jnp.asarray(scenarios), tail)
    np.testing.assert_allclose(got, np.maximum(losses.mean(axis=0), 0), rtol=1e-9, atol=1e-9)


def test_a_historical_tail_may_differ_by_block():
    book = tuple(x.reshape(4, -1) for x in _book())
    scenarios = jnp.asarray(np.random.default_rng(2).normal(size=(4, 1, 6, ASSETS)))
    got = pm.historical_expected_shortfall(book, scenarios, 2)
    for block in range(4):
        alone = pm.historical_expected_shortfall(tuple(x[block] for x in book), scenarios[block, 0], 2)
        np.testing.assert_allclose(got[block], alone, rtol=1e-14)
    with pytest.raises(ValueError, match="7 scenarios out of 6"):
        pm.historical_expected_shortfall(book, scenarios, 7)


# --- add-on


def test_concentration_is_a_hinge_on_size_over_depth():
    n, depth = (jnp.asarray([0.0, 5e6, 2e7]), jnp.asarray([0.0, 1e6, 1e6])), (jnp.asarray(1e6), jnp.asarray(2e5))
    got = pm.concentration(n, depth, jnp.asarray(10.0), jnp.asarray(0.02))
    np.testing.assert_allclose(got, [0, 0, 0.02 * 1e7], rtol=1e-14)


# --- one function for all forms


def test_every_form_says_what_its_own_function_says():
    book = _book()
    got, x, gross, rules = _by_form()(book), np.array(book), np.array(_gross(book)), _rules()
    shocks, weights = np.array(rules.shocks[0]), np.array(rules.weights[0])
    alone = np.maximum((-x[:, :, None] * shocks.T[:, None] * weights).max(axis=2), 0)
    signed = np.sign(x) * alone
    deviation = np.sqrt(np.einsum("an,ab,bn->n", x, np.array(rules.covariance[0]), x))
    want = [
        np.maximum((-x.T @ shocks.T * weights).max(axis=1), 0),
        alone.sum(axis=0),
        np.sqrt(np.einsum("an,ab,bn->n", signed, np.array(rules.correlation[0]), signed)),
        3 * deviation,
        deviation * NormalDist().pdf(NormalDist().inv_cdf(0.99)) / 0.01,
    ]
    for form in range(5):
        np.testing.assert_allclose(got[form], 0.5 * np.maximum(want[form], 0.01 * gross), rtol=1e-9, err_msg=str(form))
    assert np.any(want[0] < 0.01 * gross)
    assert np.all(want[0] <= want[1] * (1 + 1e-12))


def test_every_form_is_homogeneous():
    whole = np.array(_by_form()(_book()))
    for kept in (0.0, 0.125, 0.3, 7.0):
        part = _by_form()(tuple(kept * x for x in _book()))
        np.testing.assert_allclose(part, kept * whole, rtol=1e-9)


def test_a_pool_of_its_own_form_is_not_touched_by_the_others():
    """Mixed pools on blocks against each pool alone, under jit and under vmap."""
    book = tuple(x.reshape(5, -1) for x in _book())
    gross = _gross(book)
    rules = _rules(5, form=jnp.asarray([3, 0, 4, 1, 2], jnp.int32), deviations=jnp.arange(1.0, 6.0))
    pools = jnp.asarray([4, 0, 2, 1, 3], jnp.int32)
    mixed = _requirement(book, gross, pm.by_block(rules, pools))
    mapped = jax.jit(jax.vmap(lambda x, g, pool: pm.requirement(x, g, jax.tree.map(lambda r: r[pool], rules))))(book, gross, pools)
    for block, pool in enumerate(pools):
        alone = _requirement(tuple(x[block] for x in book), gross[block], jax.tree.map(lambda r, pool=pool: r[pool], rules))
        np.testing.assert_allclose(mixed[block], alone, rtol=1e-12)
        np.testing.assert_allclose(mapped[block], alone, rtol=1e-12)


def test_a_form_that_does_not_exist_shows():
    rules = pm.by_block(_rules(form=jnp.asarray([9], jnp.int32)), jnp.zeros(1, jnp.int32))
    assert np.all(np.isnan(_requirement(tuple(x[None] for x in _book()), _gross(_book())[None], rules)))


def test_gradients_are_finite_without_positions_and_with_perfect_offsets():
    rules = _rules(5, form=jnp.arange(5, dtype=jnp.int32), correlation=jnp.ones((5, ASSETS, ASSETS)))
    rules = pm.by_block(replace(rules, shocks=rules.shocks[:, 6:8], weights=rules.weights[:, 6:8]), jnp.arange(5))

    @jax.jit
    def slopes(x):
        return jax.grad(lambda x, rules: jnp.sum(pm.requirement(x, _gross(x), rules)), argnums=(0, 1), allow_int=True)(x, rules)

    for held in ((0.0, 0.0, 0.0), (1e6, -1e6 / 1.3, 0.0), (0.0, 2.0, 0.0)):
        floats = [s for s in jax.tree.leaves(slopes(tuple(jnp.full((5, 1), v) for v in held))) if s.dtype == jnp.float64]
        assert len(floats) == 11
        assert all(np.all(np.isfinite(s)) for s in floats)
    assert float(floats[1][0, 0]) == pytest.approx(0.5 * 0.16 * 1.3, rel=1e-12)


def test_float32_agrees_to_its_precision():
    """Scans to rounding of the gross; roots to the square root of the precision times the gross risk, where positions offset."""
    want = np.array(_by_form()(_book()))
    exposure = _book(dtype=jnp.float32)
    rules = _rules(5, form=jnp.arange(5, dtype=jnp.int32))
    rules = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, rules)
    got = _requirement(tuple(jnp.stack([x] * 5) for x in exposure), jnp.stack([_gross(exposure)] * 5), pm.by_block(rules, jnp.arange(5)))
    assert got.dtype == jnp.float32
    error, gross = np.abs(np.array(got, float) - want), np.abs(np.array(_book())).sum(axis=0)
    eps = np.finfo(np.float32).eps
    assert np.all(error[:2] <= 8 * eps * 0.16 * 1.3 * gross)
    # three deviations of the widest asset bound the gross risk of the roots
    widest = 0.5 * 3 * np.sqrt(np.diag(_positive_definite(6)).max())
    assert np.all(error[2:] <= np.sqrt(eps) * max(widest, 0.5 * 0.16 * 1.3) * gross)
    net = pm.net_correlation((jnp.asarray(1e9, jnp.float32), jnp.asarray(-1e9 / 3, jnp.float32)), jnp.asarray([[1, 3], [3, 9]], jnp.float32))
    assert 0 <= float(net) <= np.sqrt(eps) * 2e9


# --- how much to close


def test_the_closing_share_lands_on_the_target():
    rng = np.random.default_rng(3)
    book = _book()
    gross = np.array(_gross(book))
    whole = np.array(_by_form()(book))[pm.NET_CORRELATION]
    equity, fee, target = whole * rng.uniform(-0.1, 1, ACCOUNTS), 0.0006, 1.25
    share = np.array(
        pm.restore_fraction_homogeneous(jnp.asarray(equity), jnp.asarray(whole), jnp.asarray(gross), jnp.asarray(fee), jnp.asarray(target))
    )
    kept = np.array(_by_form()(tuple((1 - share) * x for x in book)))[pm.NET_CORRELATION]
    broke = equity < fee * gross
    assert broke.any()
    assert np.all(share[broke] == 1)
    assert np.all((share[~broke] >= 0) & (share[~broke] <= 1))
    np.testing.assert_allclose((equity - fee * share * gross)[~broke], target * kept[~broke], atol=1e-9 * gross.max())


def test_the_closing_share_is_that_of_one_tier():
    """A flat tier is homogeneous: both solutions agree, also where fees eat what is freed and where the account has enough."""
    rng = np.random.default_rng(4)
    n = jnp.asarray(10 ** rng.uniform(2, 7, 500))
    rate, multiplier, target = 0.02, 1.5, jnp.asarray(1.2)
    for fee in (0.0, 0.001, 0.05):
        equity = n * jnp.asarray(rng.uniform(-0.02, 0.08, 500))
        tiered = restore_fraction(equity, (n,), jnp.zeros((1, 1)), jnp.full((1, 1), rate), (jnp.asarray(multiplier),), jnp.asarray(fee), target)
        closed = pm.restore_fraction_homogeneous(equity, multiplier * rate * n, n, jnp.asarray(fee), target)
        np.testing.assert_allclose(closed, tiered, atol=1e-14)
        assert np.any(closed == 1)


def test_an_account_without_positions_closes_all_of_nothing():
    zero = jnp.zeros(1)
    assert float(pm.restore_fraction_homogeneous(zero, zero, zero, jnp.asarray([0.001]), jnp.asarray([1.2]))[0]) == 1
    slopes = jax.grad(lambda e, m: jnp.sum(pm.restore_fraction_homogeneous(e, m, m, zero, zero + 1.2)), argnums=(0, 1))(zero, zero)
    assert all(np.all(np.isfinite(s)) for s in slopes)
