"""Clearing of credit between pools, DebtRank, and what a claim on a pool is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stresslev.engine.network import clearing, debtrank, redemption, run_discount

SPREAD = jax.jit(debtrank)
WORTH = jax.jit(redemption)
_CLEAR = jax.jit(clearing)


def clear(nominal, external_assets, external_liabilities=None, alpha=1.0, beta=1.0):
    """Clearing, compiled once per number of pools and precision."""
    ones = np.ones(nominal.shape[:1], nominal.dtype)
    outside = 0 * ones if external_liabilities is None else external_liabilities
    return _CLEAR(nominal, external_assets, outside, alpha=alpha * ones, beta=beta * ones)


CYCLE = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
ASSETS = np.array([20.0, 20.0, 10.0])
OUTSIDE = np.array([17.0, 18.0, 8.0])

#: claims of A on B, of B on C and of C on A, half a unit each
CLAIMS = np.array([[0.0, 0.0, 0.5], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])


def picard(nominal, external, outside, alpha, beta, slack=1e-12):
    """Payments from above, one round of defaults at a time: the definition, iterated."""
    owed = nominal.sum(1) + outside
    share = nominal / np.where(owed > 0, owed, 1)[:, None]
    payments = owed
    for _ in range(200_000):
        received = share.T @ payments
        estate = alpha * np.maximum(external, 0) + np.minimum(external, 0) + beta * received
        after = np.where(external + received >= owed - slack * (1 + owed), owed, np.clip(estate, 0, owed))
        if np.max(np.abs(after - payments)) < 1e-14:
            return after
        payments = after
    raise AssertionError("no convergence")


def climb(nominal, equity, shock):
    """Relative losses by the recursion in its increments, each pool's equity its own."""
    exposure = nominal.T / equity[:, None]
    before, now = np.zeros_like(shock), np.minimum(shock, 1)
    for _ in range(200_000):
        before, now = now, np.minimum(1, now + exposure @ (now - before))
        if np.max(np.abs(now - before)) < 1e-15:
            return now
    raise AssertionError("no convergence")


FRACTIONS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def networks(draw, least_outside=0, fraction=FRACTIONS):
    """Whole numbers, so that ties are exact, with pools that owe nothing, pass through, or hold less than nothing."""
    pools = 5

    def whole(low, high, n):
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), float)

    nominal = np.maximum(whole(-15, 15, pools * pools).reshape(pools, pools), 0)
    np.fill_diagonal(nominal, 0)
    # small networks have pools that owe and are owed nothing
    live = draw(st.integers(2, pools))
    nominal[live:], nominal[:, live:] = 0, 0
    alpha, beta = (np.array(draw(st.lists(fraction, min_size=pools, max_size=pools))) for _ in range(2))
    return nominal, whole(-15, 25, pools), whole(least_outside, 10, pools), alpha, beta


def owed_in(network):
    return network[0].sum(1) + network[2]


def solve(network, **other):
    names = ("nominal", "external_assets", "external_liabilities", "alpha", "beta")
    return clear(**dict(zip(names, network, strict=True)) | other)


# figures from the literature and public engines


@pytest.mark.parametrize(
    ("shock", "payments", "equity"),
    [
        (0.1, (20, 21, 10), (-1, 0.80952381, 2)),
        (0.2, (18, 19.42857143, 10), (-3, -1.57142857, 0.77551020)),
    ],
)
def test_eisenberg_noe_with_external_liabilities_pari_passu_pays_the_published_amounts(shock, payments, equity):
    result = clear(CYCLE, ASSETS * (1 - shock), OUTSIDE)
    np.testing.assert_allclose(CYCLE.sum(1) + OUTSIDE, (21, 21, 10))
    np.testing.assert_allclose(result.payments, payments, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result.equity, equity, rtol=0, atol=1e-8)
    assert list(result.defaulted) == [e < 0 for e in equity]


def test_three_cycle_clears_to_the_published_equities():
    # assets and liabilities of (10, 9), (5, 4), (3, 2) outside the circle
    assets, outside = np.array([10.0, 5.0, 3.0]), np.array([9.0, 4.0, 2.0])
    np.testing.assert_allclose(clear(CLAIMS, assets, outside).equity, (1, 1, 1), rtol=0, atol=1e-12)
    result = clear(CLAIMS, assets - np.array([1.2, 0.0, 0.0]), outside)
    np.testing.assert_allclose(result.equity, (-0.2, 1, 0.989473684), rtol=0, atol=1e-9)


def test_three_cycle_linear_debtrank_leaves_the_published_equities():
    result = SPREAD(CLAIMS, np.ones(3), np.array([0.5, 0.0, 0.0]))
    np.testing.assert_allclose(1 - result.loss, (0.428571429, 0.857142857, 0.714285714), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.impact, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(result.induced, (1 - 0.5) / 3, rtol=1e-12)


# what clearing must be


@settings(max_examples=60)
@given(networks())
def test_every_payment_arrives_and_stays_within_what_is_owed(network):
    nominal, external, outside, _, _ = network
    owed, result = owed_in(network), solve(network)
    rate = np.where(owed > 0, result.payments / np.where(owed > 0, owed, 1), 1)
    np.testing.assert_allclose(result.payments.sum(), result.received.sum() + (outside * rate).sum(), rtol=1e-12, atol=1e-12)
    assert np.all(result.payments >= 0) and np.all(result.payments <= owed)
    np.testing.assert_allclose(result.loss, nominal.sum(0) - result.received, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.equity, external + result.received - owed, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(result.payments)[~result.defaulted], owed[~result.defaulted])
    # nobody pays out more than it has
    assert np.all(result.payments <= np.maximum(external + result.received, 0) + 1e-12)


@settings(max_examples=60)
@given(networks())
def test_payments_satisfy_the_clearing_equation(network):
    nominal, external, _, alpha, beta = network
    owed, result = owed_in(network), solve(network)
    received = (nominal / np.where(owed > 0, owed, 1)[:, None]).T @ np.asarray(result.payments)
    estate = alpha * np.maximum(external, 0) + np.minimum(external, 0) + beta * received
    again = np.where(external + received >= owed - 1e-12, owed, np.clip(estate, 0, owed))
    np.testing.assert_allclose(result.payments, again, rtol=0, atol=1e-11)


@settings(max_examples=60)
@given(networks())
def test_payments_are_the_greatest_reached_by_iterating_from_above(network):
    np.testing.assert_allclose(solve(network).payments, picard(*network), rtol=0, atol=1e-9)


@given(networks(), st.integers(0, 4), st.integers(1, 10))
def test_more_assets_never_lower_a_payment(network, pool, more):
    external = network[1].copy()
    external[pool % external.size] += more
    assert np.all(solve(network, external_assets=external).payments >= solve(network).payments - 1e-12)


@given(networks())
def test_bankruptcy_costs_never_raise_a_payment(network):
    ones = np.ones_like(network[1])
    assert np.all(solve(network, alpha=ones, beta=ones).payments >= solve(network).payments - 1e-12)


def test_a_cost_does_not_shrink_a_debt_that_ranks_first():
    # -10 outside, 20 received, 15 owed: ten are left to pay with, however little of its assets a defaulted pool recovers
    nominal, external = np.array([[0.0, 15.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.array([-10.0, 40.0, 0.0])
    np.testing.assert_allclose(clear(nominal, external, alpha=0.0, beta=1.0).payments, (10, 20, 0), atol=1e-12)
    np.testing.assert_allclose(clear(nominal, external, alpha=0.0, beta=0.5).payments, (0, 20, 0), atol=1e-12)


def test_a_negative_estate_does_not_drag_down_sound_pools_on_the_way():
    # solved without limited liability, the first pool would pay -60 and the second seem to fail
    nominal = np.array([[0.0, 10.0, 10.0], [0.0, 0.0, 5.0], [40.0, 0.0, 0.0]])
    result = clear(nominal, np.array([-100.0, 6.0, 45.0]), alpha=0.5, beta=0.5)
    np.testing.assert_allclose(result.payments, (0, 5, 40), atol=1e-12)
    assert list(result.defaulted) == [True, False, False]


def test_nobody_is_judged_before_the_defaulted_have_settled():
    # the second can pay only once the first is seen to; without that payment the third would fail, and with costs its failure would be real
    nominal = np.diag([10.0, 8.0, 6.0, 0.0], 1)
    costly = np.array([1.0, 1.0, 0.5, 1.0, 1.0])
    result = clear(nominal, np.array([5.0, -2.0, 4.0, 0.0, 0.0]), alpha=costly, beta=costly)
    np.testing.assert_allclose(result.payments, (5, 3, 6, 0, 0), atol=1e-12)
    assert list(result.defaulted) == [True, True, False, False, False]


def test_nothing_is_solved_when_nobody_defaults():
    result = clear(CYCLE, ASSETS * 2, OUTSIDE)
    assert result.rounds == 0 and not result.defaulted.any() and not result.loss.any()
    np.testing.assert_array_equal(result.payments, CYCLE.sum(1) + OUTSIDE)
    assert clear(CYCLE, ASSETS * 0.8, OUTSIDE).rounds == 1


def test_a_chain_of_defaults_takes_one_round_each():
    pools = 64
    nominal = np.diag(np.full(pools - 1, 10.0), 1)
    external = np.zeros(pools)
    external[0] = 9.0
    result = clear(nominal, external)
    assert result.rounds == pools - 1
    np.testing.assert_allclose(result.payments[:-1], 9, rtol=1e-13)
    np.testing.assert_allclose(result.equity[-1], 9, rtol=1e-13)
    # with costs each link keeps half of what is left
    costly = clear(nominal, external, beta=0.5)
    np.testing.assert_allclose(costly.payments[:-1], 9 * 0.5 ** np.arange(pools - 1), rtol=1e-12)


def test_a_pool_that_passes_on_what_it_gets_does_not_default_on_rounding():
    tenths = np.array([0.1, 0.2, 0.3, 0.7, 1.1, 0.9, 1.3])
    for seed in range(20):
        into = np.random.default_rng(seed).permutation(tenths)
        nominal = np.zeros((64, 64))
        nominal[:7, 7] = into
        nominal[7, 8:15] = np.sort(into)
        external = np.zeros(64)
        external[:7] = into
        result = clear(nominal, external, alpha=0.0, beta=0.0)
        assert not result.defaulted.any()


def test_debts_in_a_closed_circle_are_paid_out_of_each_other():
    circle = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(clear(circle, np.zeros(3)).payments, (1, 1, 1))
    np.testing.assert_array_equal(clear(circle, np.array([-0.25, 0.0, 0.0])).payments, (0, 0, 0))


def test_external_liabilities_default_to_none_and_costs_may_be_scalars():
    with_none, with_zero = _CLEAR(CYCLE, ASSETS - 18, alpha=0.5, beta=np.float32(0.5)), clear(CYCLE, ASSETS - 18, np.zeros(3), 0.5, 0.5)
    assert with_zero.defaulted.any()
    jax.tree.map(np.testing.assert_array_equal, with_none, with_zero)


# derivatives

#: the first pays out of its assets, the second nothing, the third and the fifth out of what they receive, the fourth is sound
NOMINAL = np.array(
    [
        [0.0, 6.0, 9.0, 4.0, 1.0],
        [5.0, 0.0, 2.0, 0.0, 1.0],
        [7.0, 1.0, 0.0, 3.0, 2.0],
        [2.0, 5.0, 4.0, 0.0, 3.0],
        [1.0, 2.0, 6.0, 1.0, 0.0],
    ]
)
MIXED = {
    "nominal": NOMINAL,
    "external_assets": np.array([6.0, -40.0, 1.0, 30.0, -0.5]),
    "external_liabilities": np.array([3.0, 1.0, 2.0, 5.0, 4.0]),
    "alpha": np.array([0.7, 0.8, 0.9, 0.6, 0.5]),
    "beta": np.array([0.9, 0.6, 0.8, 0.7, 0.95]),
}


def outcome(**changed):
    """Everything continuous that clearing returns, as a function of its inputs."""
    result = clear(**MIXED | changed)
    return jnp.concatenate([result.payments, result.received, result.equity, result.loss])


def central(f, x, width=1e-4):
    columns = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = width
        step = step.reshape(x.shape)
        columns.append((np.asarray(f(x + step)) - np.asarray(f(x - step))) / (2 * width))
    return np.stack(columns, axis=-1)


def test_the_derivatives_are_tested_with_every_kind_of_pool():
    payments, _, equity, _ = outcome().reshape(4, 5)
    assert list(equity < 0) == [True, True, True, False, True]
    assert list(payments > 0) == [True, False, True, True, True]


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_clearing_agree_with_central_differences(mode):
    derivatives = jax.jit(mode(lambda inputs: outcome(**inputs)))(MIXED)
    for name, x in MIXED.items():
        derivative = np.asarray(derivatives[name]).reshape(-1, x.size)
        assert np.abs(derivative).max() > 0.1
        np.testing.assert_allclose(derivative, central(lambda y, name=name: outcome(**{name: y}), x), rtol=0, atol=2e-8)


def test_second_derivatives_of_clearing_agree_with_central_differences():
    gradient = jax.jit(jax.grad(lambda x: outcome(beta=x)[:5].sum()))
    hessian = np.asarray(jax.jit(jax.jacfwd(gradient))(MIXED["beta"]))
    assert np.abs(hessian).max() > 0.1
    np.testing.assert_allclose(hessian, central(gradient, MIXED["beta"]), rtol=0, atol=1e-6)


@settings(max_examples=60)
@given(networks())
def test_derivatives_are_finite_for_any_network(network):
    nominal, external, outside, alpha, beta = network
    gradients = GRADIENTS(nominal, external, outside, alpha, beta)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def _equity_and_payments(nominal, external, outside, alpha, beta):
    result = clearing(nominal, external, outside, alpha=alpha, beta=beta)
    return jnp.sum(result.equity + 2 * result.payments)


GRADIENTS = jax.jit(jax.grad(_equity_and_payments, argnums=(0, 1, 2, 3, 4)))


def test_a_scan_over_time_can_be_differentiated():
    def last(scale):
        def step(external, _):
            result = clearing(jnp.asarray(CYCLE), external, jnp.asarray(OUTSIDE), alpha=0.9, beta=0.9)
            return external - 0.2 * result.loss - 0.5, result.rounds

        return jax.lax.scan(step, scale * jnp.asarray(ASSETS), length=4)[0].sum()

    np.testing.assert_allclose(jax.jit(jax.grad(last))(0.9), central(jax.jit(last), np.array(0.9), 1e-5)[..., 0], rtol=1e-8)


# shapes and precision


def test_vmap_over_shocks_agrees_with_a_loop():
    shocks = np.linspace(0, 0.6, 13)

    @jax.jit
    def shocked(s):
        return clearing(jnp.asarray(CYCLE), jnp.asarray(ASSETS) * (1 - s), jnp.asarray(OUTSIDE), alpha=0.8, beta=0.9)

    together = jax.jit(jax.vmap(shocked))(shocks)
    for i, s in enumerate(shocks):
        alone = shocked(s)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-13, atol=1e-13), together, alone)
    assert len(set(together.rounds.tolist())) > 1


def test_clearing_and_debtrank_work_in_single_precision():
    single = {k: v.astype(np.float32) for k, v in MIXED.items()}
    result, exact = clear(**single), clear(**MIXED)
    for name in ("payments", "received", "equity", "loss"):
        assert getattr(result, name).dtype == np.float32
        np.testing.assert_allclose(getattr(result, name), getattr(exact, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.defaulted, exact.defaulted)
    spread = SPREAD(CLAIMS.astype(np.float32), np.ones(3, np.float32), np.array([0.5, 0, 0], np.float32))
    assert spread.loss.dtype == np.float32 and spread.impact.dtype == np.float32
    np.testing.assert_allclose(1 - spread.loss, (0.428571429, 0.857142857, 0.714285714), rtol=1e-6)


def test_single_precision_clears_a_large_network_of_usd_billions():
    rng = np.random.default_rng(3)
    nominal = rng.lognormal(18, 2, (64, 64)) * (rng.random((64, 64)) < 0.3)
    np.fill_diagonal(nominal, 0)
    external = rng.lognormal(21, 1, 64) * rng.choice([-0.2, 1.0], 64)
    outside = rng.lognormal(20, 1, 64)
    exact = clear(nominal, external, outside, alpha=0.9, beta=0.9)
    result = clear(*(x.astype(np.float32) for x in (nominal, external, outside)), alpha=0.9, beta=0.9)
    assert 5 < exact.defaulted.sum() < 60
    np.testing.assert_array_equal(result.defaulted, exact.defaulted)
    np.testing.assert_allclose(result.payments, exact.payments, rtol=1e-5, atol=1e-6 * nominal.sum())


# DebtRank


@settings(max_examples=60)
@given(networks(), st.integers(1, 20), st.integers(0, 12))
def test_debtrank_is_the_limit_of_its_recursion_with_each_pools_own_equity(network, equity, shock):
    nominal, external, outside, _, _ = network
    # own equities differ: the last one's for all would not pass
    own = np.maximum(equity + np.abs(external) + 3 * outside, 1)
    first = np.zeros_like(own)
    first[0] = shock / 10
    result = SPREAD(nominal, own, first)
    expected = climb(nominal, own, first)
    np.testing.assert_allclose(result.loss, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.impact, (own @ expected) / own.sum(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.induced, own @ (expected - np.minimum(first, 1)) / own.sum(), rtol=0, atol=1e-9)


def test_debtrank_stays_at_zero_where_no_loss_comes_in_however_large_the_exposures():
    nominal = np.array([[0.0, 9.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 9.0, 0.0]])
    result = SPREAD(nominal, np.ones(4), np.array([0.01, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(result.loss, (1, 1, 0, 0), atol=1e-12)


def test_debtrank_of_a_pool_without_equity_is_all_or_nothing():
    equity = np.array([1.0, 0.0, -2.0])
    np.testing.assert_array_equal(SPREAD(CLAIMS, equity, np.zeros(3)).loss, np.zeros(3))
    result = SPREAD(CLAIMS, equity, np.array([0.1, 0.0, 0.0]))
    np.testing.assert_allclose(result.loss, (0.6, 1, 1), rtol=1e-12)
    np.testing.assert_allclose(result.impact, 0.6, rtol=1e-12)
    assert SPREAD(CLAIMS, np.zeros(3), np.ones(3)).impact == 0


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_debtrank_agree_with_central_differences(mode):
    inputs = (NOMINAL, np.array([9.0, 30.0, 40.0, 50.0, 60.0]), np.array([0.7, 0.01, 0.02, 0.03, 0.01]))

    def f(*args):
        result = SPREAD(*args)
        return jnp.concatenate([result.loss, result.impact[None], result.induced[None]])

    assert f(*inputs)[0] == 1 and np.all(f(*inputs)[1:5] < 1)
    derivatives = jax.jit(mode(f, argnums=(0, 1, 2)))(*inputs)
    for i, x in enumerate(inputs):
        numeric = central(lambda y, i=i: f(*inputs[:i], y, *inputs[i + 1 :]), x)
        np.testing.assert_allclose(np.asarray(derivatives[i]).reshape(-1, x.size), numeric, rtol=0, atol=2e-8)


# claims on a pool


def test_a_receipt_is_worth_what_the_pool_holds_per_claim_and_no_more_than_par():
    value = WORTH(np.array([50.0, 100.0, 150.0, -10.0, 0.0, 0.0, -5.0]), np.array([100.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0]))
    np.testing.assert_array_equal(value, (0.5, 1, 1, 0, 0, 1, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_value_of_a_receipt_has_finite_derivatives_everywhere(dtype):
    amounts = np.array([-1e9, -1.0, 0.0, 1e-40, 1e-20, 1.0, 1e9], dtype)
    assets, liabilities = (x.ravel() for x in np.meshgrid(amounts, np.abs(amounts)))
    value, back = jax.vjp(WORTH, assets, liabilities)
    assert value.dtype == dtype and np.all(value >= 0) and np.all(value <= 1)
    for cotangent in (0.0, 1.0):
        gradients = back(np.full_like(value, cotangent))
        assert all(np.all(np.isfinite(g)) for g in gradients)
    slope = jax.jit(jax.grad(redemption, argnums=(0, 1)))(dtype(30), dtype(40))
    np.testing.assert_allclose(slope, (1 / 40, -30 / 1600), rtol=1e-6)


def test_a_run_is_discounted_by_the_haircut_on_what_liquid_funds_cannot_meet():
    discount = jax.jit(run_discount)(np.array([100.0, 100.0, 100.0, 0.0, 100.0]), np.array([100.0, 25.0, 0.0, 0.0, -5.0]), np.full(5, 0.2))
    np.testing.assert_allclose(discount, (0, 0.15, 0.2, 0, 0.2), rtol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.grad(run_discount, argnums=1))(100.0, 25.0, 0.2), -0.2 / 100, rtol=1e-14)


# banks


def interbank(folder):
    """Interbank claims, equity and total assets (CET1 over the leverage ratio) of the banks that report all three, EUR m."""
    rows = [line.split() for line in (folder / "interbank" / "sw_stresstest_EBA_2018.csv").read_text().splitlines()[1:]]
    figures = np.array([(float(r[3]), float(r[6]), 100 * float(r[6]) / float(r[7])) for r in rows])
    return figures[figures[:, 0] > 0].T


def spread_evenly(total):
    """Bilateral claims of largest entropy with the given row and column sums and nothing owed to oneself."""
    nominal = np.outer(total, total)
    np.fill_diagonal(nominal, 0)
    for _ in range(500):
        nominal *= (total / nominal.sum(1))[:, None]
        nominal *= (total / nominal.sum(0))[None, :]
    return nominal


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.9, 0.9)])
def test_european_banks_clear_and_conserve_under_a_common_shock(real_data, alpha, beta):
    if real_data is None:
        return
    claims, equity, assets = interbank(real_data)
    assert claims.size == 47
    nominal = spread_evenly(claims)
    np.testing.assert_allclose(nominal.sum(1), claims, rtol=1e-9)
    external, outside = assets - claims, assets - equity - claims
    assert np.all(outside > 0)
    counts = []
    for shock in (0.0, 0.03, 0.05, 0.06, 0.10):
        result = clear(nominal, external * (1 - shock), outside, alpha=alpha, beta=beta)
        owed = nominal.sum(1) + outside
        rate = np.asarray(result.payments) / owed
        np.testing.assert_allclose(result.payments.sum(), result.received.sum() + outside @ rate, rtol=1e-13)
        # what is lost is lost by somebody: by owners, by outside creditors, or in the costs of bankruptcy
        failed = np.asarray(result.defaulted)
        cost = np.sum((1 - alpha) * external[failed] * (1 - shock) + (1 - beta) * np.asarray(result.received)[failed])
        borne = np.maximum(result.equity, 0).sum() + outside @ rate + cost
        np.testing.assert_allclose(borne, external.sum() * (1 - shock), rtol=1e-12)
        np.testing.assert_allclose(result.payments, picard(nominal, external * (1 - shock), outside, alpha, beta), rtol=1e-9)
        counts.append(int(failed.sum()))
        if not counts[-1]:
            np.testing.assert_allclose(result.equity, equity - shock * external, rtol=1e-6)
    assert counts == sorted(counts) and counts[0] == 0 and 0 < counts[2] < 47
