"""Generated paths have the moments and tails that closed forms give their models, and depend on nothing but the seed and their number."""

import numpy as np
import pytest
import xarray as xr

from stresslev.config.generator import GeneratorSpec, numbered, template
from stresslev.config.load import read_toml
from stresslev.config.spec import ScenarioSpec
from stresslev.config.validation import validate
from stresslev.errors import InputError
from stresslev.shocks import export, generate
from stresslev.shocks.correlation import nearest_correlation
from stresslev.shocks.draws import MINUTES_PER_DAY
from stresslev.shocks.history import joint
from stresslev.shocks.paths import build
from stresslev.shocks.regimes import stationary
from tests.generator_cases import JUMPS, check, drawn, generator, off, per_step


def test_mertons_cumulants():
    """Merton (1976): cumulants of a step are those of the diffusion plus lambda E[J^k]."""
    spec = generator({"kind": "jump_diffusion", "jumps_per_day": 20.0}, JUMPS | {"drift": 40.0})
    x = drawn(spec, 300).returns[..., 0]
    rate, m, s = 20 * spec.step_minutes / MINUTES_PER_DAY, -0.01, 0.015
    mean, sigma2 = 40 * spec.step_minutes / 525600, per_step(0.8, spec)
    variance = sigma2 + rate * (m**2 + s**2)
    check(x.mean(axis=1), mean, mean + rate * m, 0.0)
    y = x - mean
    check((y**2).mean(axis=1), variance, sigma2 + rate * s**2, sigma2)
    check((y**3).mean(axis=1), rate * (m**3 + 3 * m * s**2), rate * m**3, 0.0)
    fourth = rate * (m**4 + 6 * m**2 * s**2 + 3 * s**4)
    check((y**4).mean(axis=1), fourth + 3 * variance**2, 3 * variance**2, fourth + 3 * variance**2 - 3 * rate * s**4)


def test_jumps_of_the_market_move_an_asset_with_its_probability():
    bare = JUMPS | {"volatility": 1e-6, "jump_volatility": 0.0}
    both = {"BTC": bare, "ETH": bare | {"jump_share": 0.4}}
    spec = generator({"kind": "jump_diffusion", "jumps_per_day": 50.0}, both)
    hits = np.round((drawn(spec, 200).returns - np.array([0.01, 0.004]) * 50 * 5 / 1440) / -0.01)
    assert (hits[..., 0] >= hits[..., 1]).all()  # the one with every jump has those of the other
    check(hits[..., 0].sum(axis=1), 50 * 1500 / 1440, 0.4 * 50 * 1500 / 1440)
    check(hits[..., 1].sum(axis=1), 0.4 * 50 * 1500 / 1440, 50 * 1500 / 1440)


def _counts(spec, paths: int, expected: np.ndarray) -> np.ndarray:
    """(P, T) jumps of each step, from paths of jumps of -1% and next to no diffusion."""
    return np.round((drawn(spec, paths).returns[..., 0] - 0.01 * expected) / -0.01)


@pytest.mark.parametrize("start", [None, 60.0])
def test_hawkes_mean_intensity_and_dispersion(start):
    """Hawkes (1971): mean intensity mu / (1 - n), reached from its start at rate b (1 - n); variance of counts over long times mean / (1 - n)^2."""
    model = {"kind": "hawkes", "jumps_per_day": 12.0, "branching_ratio": 0.6, "half_life_minutes": 20.0}
    spec = generator(model | ({"start_jumps_per_day": start} if start else {}), JUMPS | {"volatility": 1e-6, "jump_volatility": 0.0})
    mean, decay = 30 / 1440, np.log(2) / 20 * 0.4
    at = np.arange(spec.steps + 1) * 5
    excess = ((start or 30) / 1440 - mean) * (np.exp(-decay * at[:-1]) - np.exp(-decay * at[1:])) / decay
    counts = _counts(spec, 2000, mean * 5 + excess)
    total, poisson, single = counts.sum(axis=1), 12 * 1500 / 1440, mean * 1500
    check(total, single + excess.sum(), poisson)
    if start:
        check(counts[:, :12].sum(axis=1), mean * 60 + excess[:12].sum(), mean * 60, 60 * 60 / 1440)
    else:
        squares = (total - single) ** 2
        assert abs(squares.mean() / (single / 0.4**2) - 1) < 0.15  # the formula is one of long times
        assert off(squares, single) > 8 and off(squares, single / 0.4) > 8


def test_garchs_variance_kurtosis_and_memory():
    """Bollerslev (1986, 1987): kurtosis k (1 - (a+b)^2) / (1 - (a+b)^2 - (k-1) a^2), k = 3 (nu-2)/(nu-4); first autocorrelation of squares."""
    a, b, nu = 0.12, 0.7, 12.0
    spec = generator("garch", {"start_price_usd": 1.0, "volatility": 0.9, "alpha": a, "beta": b, "degrees_of_freedom": nu}, duration_minutes=5500)
    y = drawn(spec, 800).returns[:, 100:, 0] / np.sqrt(per_step(0.9, spec))
    check((y**2).mean(axis=1), 1.0, (1 - a) / (1 - b), 0.9)
    k = 3 * (nu - 2) / (nu - 4)
    kurtosis = k * (1 - (a + b) ** 2) / (1 - (a + b) ** 2 - (k - 1) * a**2)
    check((y**4).mean(axis=1), kurtosis, k, 3 * (1 - (a + b) ** 2) / (1 - (a + b) ** 2 - 2 * a**2))
    memory = a * (1 - a * b - b**2) / (1 - 2 * a * b - b**2)
    check(((y[:, 1:] ** 2 - 1) * (y[:, :-1] ** 2 - 1)).mean(axis=1), memory * (kurtosis - 1), a * (kurtosis - 1) / 2)


def test_garch_begins_at_its_starting_volatility_and_forgets_it():
    given = {"start_price_usd": 1.0, "volatility": 0.5, "start_volatility": 2.0, "alpha": 0.1, "beta": 0.8}
    spec = generator("garch", given)
    y2 = drawn(spec, 3000).returns[..., 0] ** 2
    end, first = per_step(0.5, spec), per_step(2.0, spec)
    for t in (0, 1, 10):
        check(y2[:, t], end + 0.9**t * (first - end), end)


def test_tails_of_students_t_come_together():
    """Multivariate t: independent normals under one chi-square are uncorrelated, but their squares are not; different freedoms keep unit variance."""
    asset = {"start_price_usd": 1.0, "volatility": 1.0, "alpha": 0.0, "beta": 0.0, "degrees_of_freedom": 9.0}
    spec = generator("garch", {"BTC": asset, "ETH": asset, "SOL": asset | {"degrees_of_freedom": 30.0}}, duration_minutes=5000)
    y = drawn(spec, 300).returns / np.sqrt(per_step(1.0, spec))
    for g in range(3):
        check((y[..., g] ** 2).mean(axis=1), 1.0, 9 / 7, 7 / 9)
    check((y[..., 0] * y[..., 1]).mean(axis=1), 0.0)
    check((y[..., 0] ** 2 * y[..., 1] ** 2).mean(axis=1), 7 / 5, 1.0)  # (nu - 2) / (nu - 4)


def test_regimes_mix():
    """Hamilton (1989): a mixture of normals whose squares remember the state, with the chain's second eigenvalue."""
    chain, yearly = np.array([[0.97, 0.03], [0.10, 0.90]]), np.array([0.5, 2.0])
    regimes = [{"name": "calm"}, {"name": "storm", "depth_factor": 0.3}]
    model = {"kind": "regime_switching", "regimes": regimes, "transition": chain.tolist()}
    spec = generator(model, {"start_price_usd": 1.0, "volatility": yearly.tolist(), "drift": [50.0, -100.0]})
    found = drawn(spec, 3000)
    share = np.array([10, 3]) / 13
    np.testing.assert_allclose(stationary(chain), share)
    mean, v = np.array([50, -100]) * 5 / 525600, yearly**2 * 5 / 525600
    x = found.returns[..., 0]
    check(x.mean(axis=1), share @ mean, mean.mean())
    second = v + mean**2
    check((x**2).mean(axis=1), share @ second, second.mean())
    check((x**4).mean(axis=1), share @ (3 * v**2 + 6 * v * mean**2 + mean**4), 3 * (share @ second) ** 2)
    lagged = share[0] * share[1] * (second[1] - second[0]) ** 2 * 0.87**3
    check(((x[:, 3:] ** 2 - share @ second) * (x[:, :-3] ** 2 - share @ second)).mean(axis=1), lagged, lagged / 0.87**2, 0.0)
    check(found.depth.mean(axis=1), share @ [1, 0.3], 0.65)
    stormy = drawn(generator(model | {"start_regime": "storm"}, {"start_price_usd": 1.0, "volatility": [0.5, 2.0]}), 50)
    assert (stormy.depth[:, 0] == 0.3).all() and (stormy.depth == 1).any()


def test_correlations_are_those_asked_for_and_rise_in_a_regime():
    asset = {"start_price_usd": 1.0, "volatility": [0.5, 0.5]}
    model = {"kind": "regime_switching", "transition": [[1.0, 0.0], [0.0, 1.0]]}
    model["regimes"] = [{"name": "calm"}, {"name": "storm", "correlation_stress": 0.5}]
    for start, rho in (("calm", 0.4), ("storm", 0.7)):
        spec = generator(model | {"start_regime": start}, {"A": asset, "B": asset}, correlation={"common": 0.4})
        y = drawn(spec, 100).returns / np.sqrt(per_step(0.5, spec))
        check((y[..., 0] * y[..., 1]).mean(axis=1), rho, 1.1 - rho)
    spec = generator({"kind": "jump_diffusion", "jumps_per_day": 0.0}, {"A": JUMPS, "B": JUMPS}, correlation={"common": 0.2, "stress": 0.5})
    assert generate.correlation(spec).used[0, 1] == pytest.approx(0.6)
    y = drawn(spec, 100).returns / np.sqrt(per_step(0.8, spec))
    check((y[..., 0] * y[..., 1]).mean(axis=1), 0.6, 0.2)


def test_the_nearest_correlation_matrix_is_highams():
    """Higham (2002), section 4 and NAG's g02aa: two matrices that are none."""
    found = nearest_correlation(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]))
    np.testing.assert_allclose(found, [[1, 0.7607, 0.1573], [0.7607, 1, 0.7607], [0.1573, 0.7607, 1]], atol=5e-5)
    second = np.array([[2.0, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 2]])
    expected = [[1, -0.8084, 0.1916, 0.1068], [-0.8084, 1, -0.6562, 0.1916], [0.1916, -0.6562, 1, -0.8084], [0.1068, 0.1916, -0.8084, 1]]
    np.testing.assert_allclose(nearest_correlation(second), expected, atol=5e-5)
    assert np.linalg.eigvalsh(found)[0] > -1e-12
    fine = np.array([[1.0, 0.3], [0.3, 1.0]])
    assert (nearest_correlation(fine) == fine).all()


def test_impossible_stress_is_repaired_and_said():
    spec = generator("garch", {n: {"start_price_usd": 1.0, "volatility": 0.5, "alpha": 0.1, "beta": 0.8} for n in "ABC"})
    pairs = {"A": {"B": 0.95, "C": 0.95}, "B": {"C": -0.9}}
    repaired = generate.correlation(spec.model_copy(update={"correlation": spec.correlation.model_copy(update={"pairs": pairs})}))
    assert 0.2 < repaired.distance < 1 and np.linalg.eigvalsh(repaired.used)[0] > -1e-10
    assert generate.correlation(spec).distance == 0


@pytest.fixture
def history(tmp_path):
    """A price file of two assets with an autoregressive and a scaled series, and the (N, 2) returns in it."""
    rng = np.random.default_rng(5)
    noise, x = rng.normal(0, 0.01, 4000), np.zeros(4000)
    for t in range(1, len(x)):
        x[t] = 0.6 * x[t - 1] + noise[t]
    returns = np.stack([x, 2 * x + rng.normal(0, 0.01, len(x))], axis=1)
    prices = 100 * np.exp(np.concatenate([np.zeros((1, 2)), np.cumsum(returns, axis=0)]))
    rows = [f"{1_600_000_000 + 300 * i},{s},{float(p[g])!r}\n" for i, p in enumerate(prices) for g, s in enumerate(("X", "Y"))]
    (tmp_path / "p.csv").write_text("ts,symbol,close\n" + "".join(rows))
    return returns


def _from_history(model: dict, **more):
    assets = {s: {"start_price_usd": 1.0, "file": "p.csv", "symbol": s} | more for s in ("X", "Y")}
    return generator(model, assets)


def test_the_bootstrap_has_the_moments_of_its_history_and_as_much_memory_as_its_blocks(tmp_path, history):
    """Politis and Romano (1994), lemma 1: autocovariance of the resample is (1 - p)^k times the circular one of the sample."""
    found = drawn(_from_history({"kind": "block_bootstrap", "mean_block_minutes": 25.0}), 2000, tmp_path).returns
    y, mean = history - history.mean(axis=0), history.mean(axis=0)
    check(found[..., 1].mean(axis=1), mean[1])
    check(((found[..., 0] - mean[0]) ** 2).mean(axis=1), (y[:, 0] ** 2).mean())
    check(((found[..., 0] - mean[0]) * (found[..., 1] - mean[1])).mean(axis=1), (y[:, 0] * y[:, 1]).mean(), 0.0)
    x = found[..., 0] - mean[0]
    circular = (y[:, 0] * np.roll(y[:, 0], -2)).mean()
    check((x[:, 2:] * x[:, :-2]).mean(axis=1), 0.8**2 * circular, circular, 0.0)


def test_filtered_history_keeps_residuals_of_one_time_together(tmp_path, history):
    spec = _from_history({"kind": "filtered_historical"}, alpha=0.1, beta=0.8, volatility=4.0, start_volatility=4.0)
    found = drawn(spec, 300, tmp_path).returns / np.sqrt(per_step(4.0, spec))
    check((found[..., 0] ** 2).mean(axis=1), 1.0, 0.8)
    rho = np.corrcoef(history.T)[0, 1]
    assert np.corrcoef(found[:, :30].reshape(-1, 2).T)[0, 1] == pytest.approx(rho, abs=0.05) and rho > 0.8


def test_history_leaves_out_gaps_and_takes_longer_steps():
    seconds = np.concatenate([np.arange(30), np.arange(40, 80)]) * 60.0
    prices = np.exp(np.arange(len(seconds)) / 100)
    assert len(joint([(seconds, prices)], 1, "f").returns) == len(seconds) - 2
    longer = joint([(seconds, prices)], 2, "f")
    np.testing.assert_allclose(longer.returns, 0.02)
    assert len(longer.returns) == 14 + 19
    with pytest.raises(InputError, match=r"step_minutes = 7.*rows are 1 minutes apart"):
        joint([(seconds, prices)], 7, "f")


MODELS = {
    "jump_diffusion": ({"kind": "jump_diffusion", "jumps_per_day": 20.0}, JUMPS),
    "hawkes": ({"kind": "hawkes", "jumps_per_day": 20.0, "branching_ratio": 0.5, "half_life_minutes": 30.0}, JUMPS),
    "garch": ({"kind": "garch"}, {"start_price_usd": 1.0, "volatility": 0.5, "alpha": 0.1, "beta": 0.8, "degrees_of_freedom": 5.0}),
    "regime_switching": (
        {"kind": "regime_switching", "regimes": [{"name": "a"}, {"name": "b"}], "transition": [[0.9, 0.1], [0.2, 0.8]]},
        {"start_price_usd": 1.0, "volatility": [0.5, 1.0]},
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_path_is_the_same_whichever_others_are_drawn(kind):
    spec = generator(*MODELS[kind])
    many, few = drawn(spec, 7), generate.draw(spec, [5, 3], None)
    np.testing.assert_array_equal(few.returns, many.returns[[4, 2]])
    assert len({x.tobytes() for x in many.returns}) == 7 and (many.log_weight == 0).all()
    other = drawn(spec.model_copy(update={"seed": 2}), 2)
    assert not (other.returns == many.returns[:2]).any()


def test_proxies_followers_and_scales_become_shocks(tmp_path):
    spec = generator(*MODELS["garch"], shock_scale=0.5, depth_scale=0.4, proxies={"ETH": {"asset": "BTC", "beta": 1.5, "start_price_usd": 7.0}})
    scenario = numbered(template(spec), 3)
    assert scenario.name == "g-0003" and scenario.title == "g: path 3"
    shock = generate.shock(scenario, ("ETH", "BTC"), tmp_path)
    log_price = np.cumsum(drawn(spec, 3).returns[2, :, 0])
    np.testing.assert_allclose(shock.log_price[1:], 0.5 * np.stack([1.5 * log_price, log_price], axis=1))
    np.testing.assert_allclose(shock.start_price, [7, 1])
    assert (shock.depth_factor == 0.4).all() and (shock.log_price[0] == 0).all()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ('kind = "garch"', ["assets.BTC.alpha is missing", "garch"]),
        ('kind = "jump_diffusion"', ["model.jumps_per_day is missing"]),
        ('kind = "jump_diffusion"\njumps_per_day = 1.0\nhalf_life_minutes = 3', ["model.half_life_minutes means nothing"]),
        ('kind = "hawkes"\njumps_per_day = 1.0\nbranching_ratio = 1.0\nhalf_life_minutes = 3', ["model.branching_ratio", "below 1"]),
        ('kind = "mertn"', ["model.kind", "jump_diffusion"]),
        (
            'kind = "regime_switching"\ntransition = [[1.0, 0.1], [0.0, 1.0]]\nregimes = [{ name = "a" }, { name = "b" }]',
            ["row of 'a' adds up to 1.1"],
        ),
    ],
)
def test_what_a_model_cannot_use_is_refused(tmp_path, change, parts):
    head = 'kind = "generator"\nname = "g"\ntitle = "g"\nduration_minutes = 10\n'
    asset = "[assets.BTC]\nstart_price_usd = 1\nvolatility = 0.5\njump_mean = 0\njump_volatility = 0\n"
    (tmp_path / "g.toml").write_text(f"{head}{asset}[model]\n{change}\n")
    with pytest.raises(InputError) as caught:
        validate(GeneratorSpec, read_toml(tmp_path / "g.toml"), tmp_path / "g.toml")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_one_path_can_be_taken_as_an_ordinary_scenario(tmp_path):
    """What is written as TOML is the path as it would have been run, depth and proxies included."""
    model, asset = MODELS["regime_switching"]
    model = model | {"regimes": [{"name": "a"}, {"name": "b", "depth_factor": 0.2}]}
    proxies = {"ETH": {"asset": "BTC", "beta": 1.5, "start_price_usd": 7.0}}
    spec = generator(model, asset, shock_scale=0.5, depth_scale=0.4, proxies=proxies, duration_minutes=300)
    paths = export.paths_of(spec, [3], tmp_path)
    export.write(paths, spec, tmp_path / "one.toml")
    scenario = validate(ScenarioSpec, read_toml(tmp_path / "one.toml"), tmp_path / "one.toml")
    taken, drawn_ = build(scenario, ("BTC", "ETH"), tmp_path), generate.shock(numbered(template(spec), 3), ("BTC", "ETH"), tmp_path)
    np.testing.assert_allclose(taken.log_price, drawn_.log_price, atol=1e-9)
    np.testing.assert_allclose(taken.depth_factor, drawn_.depth_factor, rtol=1e-9)
    assert scenario.name == "g-0003" and drawn_.depth_factor.min() == pytest.approx(0.08)


@pytest.mark.parametrize("form", ["csv", "nc"])
def test_paths_in_a_file_are_those_drawn(tmp_path, form):
    spec = generator(*MODELS["garch"])
    export.write(export.paths_of(spec, range(1, 4), tmp_path), spec, tmp_path / f"p.{form}")
    expected = np.exp(np.cumsum(drawn(spec, 3).returns[..., 0], axis=1))
    if form == "csv":
        rows = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1).reshape(3, -1, 3)
        np.testing.assert_allclose(rows[:, 1:, 2], expected)
        assert (rows[:, :, 0] == [[1], [2], [3]]).all() and rows[0, -1, 1] == 1500
        return
    with xr.open_dataset(tmp_path / "p.nc", engine="h5netcdf") as found:
        np.testing.assert_allclose(found.price_usd.values[:, 1:, 0], expected)
        assert found.attrs["model"] == "garch" and found.price_usd.attrs["units"] == "USD"
