"""Calibration finds the parameters that data were drawn with, and writes them as a generator that runs."""

import csv
import json
import tomllib

import numpy as np
import pytest

from stresslev.cli import main
from stresslev.config.generator import GeneratorSpec
from stresslev.config.load import load_generator
from stresslev.fits import blocks, garch, jumps, regimes
from stresslev.shocks import generate
from stresslev.shocks.draws import MINUTES_PER_DAY
from tests.generator_cases import JUMPS, drawn, generator, per_step


def _near(fit, **truth) -> None:
    """Within 3.5 standard errors of the truth, which are small enough to mean something."""
    for name, value in truth.items():
        assert abs(fit.values[name] - value) < 3.5 * fit.errors[name], (name, fit.values[name], fit.errors[name])
        assert fit.errors[name] < 0.4 * abs(value), name


def test_mertons_parameters_are_found():
    spec = generator({"kind": "jump_diffusion", "jumps_per_day": 8.0}, JUMPS, duration_minutes=5 * 8000)
    fit = jumps.merton(drawn(spec, 1).returns[0, :, 0])
    _near(fit, variance=per_step(0.8, spec), jumps=8 * 5 / MINUTES_PER_DAY, jump_mean=-0.01, jump_volatility=0.015)


def test_garchs_parameters_are_found():
    asset = {"start_price_usd": 1.0, "volatility": 0.9, "alpha": 0.1, "beta": 0.85, "degrees_of_freedom": 5.0}
    fit = garch.fit(drawn(generator("garch", asset, duration_minutes=5 * 12_000), 1).returns[0, :, 0])
    _near(fit, alpha=0.1, persistence=0.95, degrees_of_freedom=5.0)


def test_self_exciting_times_are_told_from_chance():
    """Exact times give the parameters; through returns, jumps well above the diffusion do, less those that share a step."""
    truth = {"kind": "hawkes", "jumps_per_day": 6.0, "branching_ratio": 0.6, "half_life_minutes": 120.0}
    spec = generator(truth, JUMPS | {"volatility": 0.2, "jump_mean": -0.03, "jump_volatility": 0.003}, duration_minutes=5 * 40_000)
    returns = drawn(spec, 1).returns[0, :, 0]
    hit = jumps.detected(returns)
    moved = returns < -0.015
    assert (hit & moved).sum() > 0.95 * moved.sum() and (hit & ~moved).sum() < 10
    fit = jumps.hawkes((np.flatnonzero(hit) + 0.5) * 5, 5 * 40_000)
    assert fit.values["branching_ratio"] == pytest.approx(0.6, abs=0.1) and np.log(2) / fit.values["decay"] == pytest.approx(120, rel=0.4)
    rng = np.random.default_rng(1)
    chance = jumps.hawkes(np.sort(rng.random(1500)) * 1e5, 1e5)
    assert chance.values["branching_ratio"] < 0.1 and chance.values["mu"] == pytest.approx(0.015, rel=0.1)
    assert jumps.detected(rng.normal(size=20_000)).mean() < 1e-4


@pytest.mark.parametrize("count", [2, 3])
def test_regimes_are_found(count):
    chain, yearly = np.full((count, count), 0.03 / (count - 1)), np.array([0.3, 1.0, 4.0])[-count:]
    np.fill_diagonal(chain, 0.97)
    model = {"kind": "regime_switching", "regimes": [{"name": f"s{k}"} for k in range(count)], "transition": chain.tolist()}
    spec = generator(model, {"start_price_usd": 1.0, "volatility": yearly.tolist()}, duration_minutes=5 * 6000)
    fit = regimes.fit(drawn(spec, 1).returns[0], count, tolerance=1e-6)
    np.testing.assert_allclose(fit.variance[:, 0], per_step(1.0, spec) * yearly**2, rtol=0.12)
    np.testing.assert_allclose(fit.transition, chain, atol=0.02)
    np.testing.assert_allclose(fit.share, 1 / count, atol=0.12)


def test_blocks_are_as_long_as_memory():
    """For an AR(1) the best length has a closed form (Patton, Politis and White 2009): (2 G^2 / D)^(1/3) n^(1/3), G and D of its autocovariances."""
    rng, rho, n = np.random.default_rng(3), 0.6, 8000
    noise, x = rng.normal(size=n), np.zeros(n)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + noise[t]
    g, long_run = 2 * rho / (1 - rho) ** 2 / (1 - rho**2), (1 / (1 - rho)) ** 2  # sums of |k| R(k) and of R(k)
    truth = (2 * g**2 / (2 * long_run**2)) ** (1 / 3) * n ** (1 / 3)
    assert blocks.block_length(x) == pytest.approx(truth, rel=0.25)
    assert blocks.block_length(noise) < 8


def _write(folder, returns, step=300):
    """Prices as CSV of two symbols and as ccxt's bars of the first."""
    prices = 100 * np.exp(np.concatenate([np.zeros((1, 2)), np.cumsum(returns, axis=0)]))
    times = 1_600_000_000 + step * np.arange(len(prices))
    with open(folder / "prices.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["ts", "symbol", "close"])
        writer.writerows([int(t), s, repr(float(p[i]))] for t, p in zip(times, prices, strict=True) for i, s in enumerate(("XUSDT", "YUSDT")))
    bars = [[int(t) * 1000, float(p[0]), float(p[0]), float(p[0]), float(p[0]), None] for t, p in zip(times, prices, strict=True)]
    (folder / "xusdt_5m.json").write_text(json.dumps(bars))


def _call(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A folder with prices of two assets: GARCH with jumps in its tails, correlation 0.6."""
    asset = {"start_price_usd": 1.0, "volatility": 0.9, "alpha": 0.1, "beta": 0.8, "degrees_of_freedom": 4.0}
    spec = generator("garch", {"X": asset, "Y": asset | {"volatility": 0.5}}, duration_minutes=5 * 3000, correlation={"common": 0.6})
    folder = tmp_path_factory.mktemp("market")
    _write(folder, drawn(spec, 1).returns[0])
    return folder


@pytest.mark.parametrize("model", ["jump_diffusion", "hawkes", "garch", "regime_switching", "filtered_historical", "block_bootstrap"])
def test_a_calibrated_generator_runs_as_it_is_and_looks_like_its_data(market, tmp_path, capsys, model):
    out = tmp_path / "deep" / "fitted.toml"
    _call("calibrate", model, market / "prices.csv", "--out", out, "--paths", "40")
    assert "generator: " in capsys.readouterr().out
    spec, file = load_generator(out)
    assert list(spec.assets) == ["X", "Y"] and spec.step_minutes == 5 and spec.duration_minutes == 1440 and spec.name == "fitted"
    assert spec.calibration.returns == 3000 and spec.calibration.files == ("prices.csv",) and len(spec.calibration.sha256[0]) == 64
    assert out.read_text().startswith("# Written by: stresslev calibrate")
    returns = generate.draw(spec, range(1, 41), file.parent).returns.reshape(-1, 2)
    data = np.diff(np.log(_prices(market)), axis=0)
    np.testing.assert_allclose(returns.std(axis=0), data.std(axis=0), rtol=0.35)
    # of two assets with jumps more jump by themselves than the model has it
    assert np.corrcoef(returns.T)[0, 1] == pytest.approx(0.6, abs=0.25 if model == "hawkes" else 0.15)
    if model == "garch":
        assert spec.calibration.standard_errors["assets.X.alpha"] < 0.05 and spec.correlation.matrix[0][1] == pytest.approx(0.6, abs=0.05)


def _prices(folder) -> np.ndarray:
    with open(folder / "prices.csv", encoding="utf-8") as handle:
        return np.array([float(row["close"]) for row in csv.DictReader(handle)]).reshape(-1, 2)


def test_ccxts_bars_and_names_and_steps(market, tmp_path):
    out = tmp_path / "x.toml"
    _call("calibrate", "block_bootstrap", market / "xusdt_5m.json", "--step-minutes", "15", "--out", out)
    spec = GeneratorSpec.model_validate(tomllib.loads(out.read_text()))
    assert list(spec.assets) == ["X"] and spec.step_minutes == 15 and spec.calibration.returns == 1000
    _call("calibrate", "garch", market / "prices.csv", "--symbol", "ETH=YUSDT", "--out", out)
    assert list(tomllib.loads(out.read_text())["assets"]) == ["ETH"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("garhc", "prices.csv"), "'garch'"),
        (("garch", "nowhere.csv"), "is no file"),
        (("garch", "prices.csv", "--symbol", "X"), "ASSET=SYMBOL"),
        (("garch", "prices.csv", "--symbol", "X=ZUSDT"), "has no row"),
        (("garch", "prices.csv", "xusdt_5m.json", "--asset", "X"), "does not name 2 files"),
        (("garch", "prices.csv", "--price-column", "last"), "column last"),
        (("garch", "prices.csv", "--step-minutes", "7"), "rows are 5 minutes apart"),
        (("garch", "bars.json"), "bar 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_written(market, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(market)
    (market / "bars.json").write_text("[[1, 1, 1, 1, 1, 1], [2, 1, 1]]")
    _call("calibrate", *arguments, "--out", tmp_path / "o.toml", code=2)
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_filtered_history_of_bitcoin_clusters_as_bitcoin_does(real_data, tmp_path):
    """Autocorrelations of squared hourly returns, 2018 to 2023, cut off at ten standard deviations so that single hours do not decide."""
    file = real_data and next(iter(real_data.rglob("btcusdt_1h_2017_2023.csv.gz")), None)
    if not file:
        return
    out = tmp_path / "btc.toml"
    _call("calibrate", "filtered_historical", file, "--time-column", "time", "--out", out, "--duration-minutes", 60 * 2000)
    spec, source = load_generator(out)
    assert 0.03 < spec.assets["BTC"].alpha < 0.12 and 0.97 < spec.assets["BTC"].alpha + spec.assets["BTC"].beta < 1
    history = generate.history.history_of(spec, source.parent).returns[:, 0]
    paths = generate.draw(spec.model_copy(update={"seed": 7}), range(1, 29), source.parent).returns[..., 0]

    def memory(x: np.ndarray) -> np.ndarray:
        y = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
        y = np.minimum(np.abs(y), 10) ** 2
        y = y - y.mean(axis=-1, keepdims=True)
        return np.array([(y[..., k:] * y[..., :-k]).mean(axis=-1) / (y**2).mean(axis=-1) for k in (1, 5, 24)])

    pieces = memory(history[: 27 * 2000].reshape(27, 2000))
    drawn_ = memory(paths)
    for k in range(3):
        error = np.hypot(pieces[k].std() / np.sqrt(27), drawn_[k].std() / np.sqrt(28))
        assert abs(pieces[k].mean() - drawn_[k].mean()) < 3.5 * error, (k, pieces[k].mean(), drawn_[k].mean())
        assert drawn_[k].mean() > 3 * drawn_[k].std() / np.sqrt(28)  # there is memory, which drawing hours by themselves would lose
