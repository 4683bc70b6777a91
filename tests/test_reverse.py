"""Reverse stress tests: distances and probabilities against closed forms, the search against known nearest points, and the engine against a grid."""

import json
import tomllib

import numpy as np
import pytest
from scipy.optimize import minimize

from stresslev import cli, many
from stresslev.book import files
from stresslev.book.book import Book
from stresslev.config.factors import FactorsSpec
from stresslev.config.load import Plan, load_factors, load_plan, load_system
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import RunSpec, ScenarioSpec, SystemSpec
from stresslev.errors import InputError
from stresslev.fits import factors as fits
from stresslev.fits.calibrate import Source
from stresslev.metrics import METRICS
from stresslev.reverse import conditions, paths, results
from stresslev.reverse.factors import Factors, plausibility
from stresslev.reverse.search import Search, Start, starts
from stresslev.reverse.study import reverse_stress
from stresslev.run import run_plan
from stresslev.toml import tables, toml_text
from tests import pages


def _factors(assets=("BTC", "ETH"), *, common=0.7, spread=0.0, depth=True, deviation=0.05, **more) -> FactorsSpec:
    data = {
        "kind": "factors",
        "name": "f",
        "horizon_minutes": 1440,
        "assets": {a: {"standard_deviation": deviation * (1 + i / 2), "start_price_usd": 100.0} for i, a in enumerate(assets)},
        "correlation": {"common": common if len(assets) > 1 else 0.0, "spread": spread},
    }
    if depth:
        data["depth"] = {"standard_deviation": 0.6, "correlation": 0.5}
    return FactorsSpec.model_validate(data | more)


def test_without_a_spread_the_distance_is_that_of_mahalanobis():
    """Under the covariance of returns and depth, put together by hand."""
    factors = Factors(_factors())
    sd, q = np.array([0.05, 0.075, 0.6]), 0.5 * 1.7 / np.sqrt(3.4)  # cov(y1, (y1 + y2) / sd) = (1 + 0.7) / sqrt(2 + 1.4)
    matrix = np.array([[1, 0.7, q], [0.7, 1, q], [q, q, 1]])
    covariance = matrix * np.outer(sd, sd)
    for x in np.random.default_rng(1).normal(size=(5, 3)) * sd:
        assert factors.distance(x) ** 2 == pytest.approx(x @ np.linalg.solve(covariance, x), rel=1e-10)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_coordinates_come_back(spread):
    factors = Factors(_factors(spread=spread))
    assert factors.names == ("BTC", "ETH", "depth", "correlation")[: 4 if spread else 3]
    for u in np.random.default_rng(2).normal(size=(5, len(factors.names))):
        np.testing.assert_allclose(factors.coordinates(factors.shock(u)), u, atol=1e-9)
    # every stress leaves a correlation matrix; a higher one makes a common fall cheaper
    for u in (-8.0, 0.0, 8.0):
        assert np.linalg.eigvalsh(factors.stressed(factors.stress(u)))[0] > 0
    if spread:
        fall = np.array([-0.2, -0.3, 0.0])
        near = [np.linalg.norm(factors.coordinates(np.array([*fall, s]))[:2]) for s in (-0.3, 0.0, 0.3)]
        assert near[0] > near[1] > near[2]


def test_probabilities_of_two_factors_are_those_of_the_closed_forms():
    """Outside a circle: exp(-d^2 / 2) of normals, (1 + d^2 / (nu - 2))^(-nu / 2) of Student's t with unit variances."""
    factors = Factors(_factors(depth=False, degrees_of_freedom=3.0))
    for d in (0.5, 2.0, 5.0):
        found = plausibility(factors, d)
        assert found["normal"].outside == pytest.approx(np.exp(-(d**2) / 2), rel=1e-10)
        assert found["student_t"].outside == pytest.approx((1 + d**2) ** -1.5, rel=1e-10)
    rng = np.random.default_rng(3)
    draws = rng.standard_normal(400_000) * np.sqrt(1 / rng.chisquare(3, 400_000))  # variance 1, where t has 3
    assert plausibility(factors, 2.0)["student_t"].beyond == pytest.approx((draws > 2).mean(), rel=0.05)


def test_a_fit_finds_what_made_the_prices(tmp_path):
    """Student's t with 4 degrees of freedom, correlation 0.6 that jumps between 0.3 and 0.8 from block to block; and none where it does not."""
    rng, n = np.random.default_rng(4), 6000
    scale = np.sqrt(2 / rng.chisquare(4, n))  # unit variance
    for spread in (False, True):
        rho = np.where(np.arange(n) // fits.BLOCK % 2 == 0, 0.3, 0.8) if spread else np.full(n, 0.6)
        z = rng.standard_normal((n, 2))
        y = np.stack([z[:, 0], rho * z[:, 0] + np.sqrt(1 - rho**2) * z[:, 1]], axis=1)
        r = (y * scale[:, None]) * [0.01, 0.02]
        sources = {}
        for i, a in enumerate(("A", "B")):
            file = tmp_path / f"{a}.csv"
            price = np.exp(np.concatenate([[0], np.cumsum(r[:, i])]))
            file.write_text("ts,close\n" + "".join(f"{86400 * (k + 10000)},{p!r}\n" for k, p in enumerate(price.tolist())), encoding="utf-8")
            sources[a] = Source(file)
        data = fits.fit(sources, horizon_minutes=1440, name="fitted")
        spec = FactorsSpec.model_validate(data)
        assert [a.standard_deviation for a in spec.assets.values()] == pytest.approx([0.01, 0.02], rel=0.05)
        assert spec.degrees_of_freedom == pytest.approx(4, rel=0.15 if not spread else 0.4)
        moves = (np.arctanh(0.8) - np.arctanh(0.3)) / 2
        assert spec.correlation.spread == pytest.approx(moves, rel=0.15) if spread else spec.correlation.spread < 0.08
        assert spec.matrix[0, 1] == pytest.approx(0.55 if spread else 0.6, abs=0.04)


def test_the_shipped_factors_are_the_fit_to_their_source(real_data):
    if real_data is None:
        return
    shipped, folder = load_factors("crypto_day"), real_data / "binance_btc_eth_hourly"
    sources = {a: Source(folder / f"{a.lower()}usdt_1h_2017_2023.csv.gz", time_column="time") for a in ("BTC", "ETH")}
    fitted = FactorsSpec.model_validate(fits.fit(sources, horizon_minutes=1440, name="fitted"))
    assert fitted.calibration.returns == 2304
    for name, asset in fitted.assets.items():
        assert shipped.assets[name].standard_deviation == pytest.approx(asset.standard_deviation, rel=2e-3)
    assert shipped.correlation.common == pytest.approx(fitted.matrix[0, 1], rel=2e-3)
    assert shipped.correlation.spread == pytest.approx(fitted.correlation.spread, rel=0.02)
    assert shipped.degrees_of_freedom == pytest.approx(fitted.degrees_of_freedom, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bad_debt_usd", ["not a metric, a sign and a number"]),
        ("bad_dept_usd > 1", ["bad_dept_usd", "is no metric", "bad_debt_usd"]),
        ("unnecessary_liquidation_share > 0.1", ["needs single accounts"]),
        ("bad_debt_usd > much", ["bound", "much", "no"]),
    ],
)
def test_a_bad_condition_is_refused_by_name(text, parts, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["reverse", "three_perp_venues", "--breaks", text, "--out", str(tmp_path / "r")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and all(p in said for p in parts), said
    assert not list(tmp_path.iterdir())


def test_conditions_are_read():
    assert str(conditions.parse("bad_debt > 1_000e3")) == "bad_debt_usd > 1e+06"
    assert conditions.parse("bad_debt_over_open_interest>0.5%").bound == pytest.approx(0.005)
    below = conditions.parse("mean_allowed_leverage < 4")
    assert below.holds(3.9) and not below.holds(4.0) and not below.holds(np.nan) and below.excess(np.array([3.0, 5.0])).tolist() == [0.25, -0.25]
    with pytest.raises(InputError, match="named twice"):
        conditions.several(["bad_debt > 1", "bad_debt_usd > 2"])


def test_factors_that_do_not_fit_the_system_are_refused(tmp_path, capsys):
    (tmp_path / "f.toml").write_text(toml_text(tables(_factors(("BTC", "DOGE"), depth=False))), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["reverse", "three_perp_venues", "--breaks", "bad_debt > 1", "--factors", str(tmp_path / "f.toml"), "--out", str(tmp_path / "r")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "ETH" in said and "is missing" in said, said
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]
    with pytest.raises(InputError, match="correlation is singular"):
        from stresslev.config.load import validate

        validate(FactorsSpec, tables(_factors()) | {"correlation": {"matrix": [[1, 1], [1, 1]]}}, "f.toml")


A, B, M = 0.05, 0.35, 0.02


class Cascade:
    """Two markets without impact, each with a book whose inverse leverage is uniform on [A, B]: bad debt is known at any fall (model.md, section 7).

    `(x - A)^2 / (2 (B - A))` each, in units of one market's open interest; returns are normal with correlation 0.5.
    """

    def __init__(self, bound=0.03, wrong=False):
        self.factors = Factors(_factors(("X", "Y"), common=0.5, depth=False, deviation=0.1))
        self.bound, self.wrong, self.asked = bound, wrong, 0

    def debt(self, u):
        fall = np.clip(-np.expm1(self.factors.shock(u)), A, B)
        return np.sum((fall - A) ** 2) / (2 * (B - A))

    def hard(self, points):
        self.asked += len(points)
        return np.array([[self.debt(u)] for u in points])

    def excess(self, metrics):
        return metrics / self.bound - 1

    def gradient(self, u, condition):
        x = self.factors.shock(u)
        slope = np.where((-np.expm1(x) > A), -(-np.expm1(x) - A) / (B - A) * np.exp(x), 0) @ self.factors.slopes(u)
        return np.array([slope[1], -slope[0]]) if self.wrong else slope


@pytest.fixture(scope="module")
def nearest():
    """Least distance in the closed form, by a constrained minimisation that knows nothing of the search."""
    cascade = Cascade()
    rows = [
        minimize(lambda u: u @ u, u0, constraints={"type": "eq", "fun": lambda u: cascade.debt(u) / cascade.bound - 1}, options={"ftol": 1e-12})
        for u0 in np.random.default_rng(5).normal(size=(20, 2)) * 2
    ]
    return min(np.sqrt(r.fun) for r in rows if r.success)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_search_finds_the_nearest_point_of_a_closed_form(nearest, wrong):
    """Also where gradients are at right angles to the truth, which costs runs and no more."""
    cascade = Cascade(wrong=wrong)
    begin = starts(("X", "Y"), cascade.factors.spec.matrix, 2, 2, 1)
    best = Search(cascade, 12).run(begin[:1] if wrong else begin)[0]
    assert best.distance == pytest.approx(nearest, rel=0.005)
    assert cascade.debt(best.point) > cascade.bound > cascade.debt(0.99 * best.point)
    if not wrong:
        assert best.alignment > 0.99 and cascade.asked < 500


def test_where_nothing_is_within_the_radius_nothing_is_found():
    cascade = Cascade(bound=10.0)
    found = Search(cascade, 12).run([Start("down", np.array([-1.0, -1.0]))])
    assert not np.isfinite(found[0].distance)


ACCOUNTS, K, DEVIATION = 1024, 0.15, 0.1


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """The linear cascade as a system with a book: inverse leverage uniform on [A, B], full liquidation, impact that moves the price by K in all."""
    place = tmp_path_factory.mktemp("linear")
    asset = {"volatility": 1.0, "permanent_share": 1.0, "depth_volatility_exponent": 0.0, "price_usd": 1.0}
    asset |= {"impact": "price_linear", "impact_scale": K, "impact_quantity": 1.0}
    venue = {"insurance_fund_usd": 0, "taker_fee_bps": 0, "liquidation_fee_bps": 0, "liquidation": {"rule": "full"}, "tiers": {"X": "flat"}}
    tiers = {"source": "x", "floors_usd": [0], "maintenance_rates": [M], "max_leverage": [20]}
    data = {"kind": "system", "name": "linear", "assets": {"X": asset}, "tiers": {"flat": tiers}, "pools": {"venue": venue}}
    system = SystemSpec.model_validate(data | {"book": {"file": "book.csv"}})
    u = A + (B - A) * (np.arange(ACCOUNTS) + 0.5) / ACCOUNTS
    size = np.full(ACCOUNTS, 1 / ACCOUNTS)
    book = Book(
        pools=("venue",),
        assets=("X",),
        pool=np.zeros(ACCOUNTS, np.int32),
        equity=u * size,
        quantity=size[None],
        reference_price=np.ones(1),
        account=np.arange(ACCOUNTS).astype(str),
    )
    files.write(book, place / "book.csv", (False,))
    ramp = {"minutes": [0, 1], "prices": [1.0, 0.9]}
    about = {"kind": "scenario", "name": "s", "title": "s", "origin": "hypothetical", "severity": "severe", "duration_minutes": 24}
    scenario = ScenarioSpec.model_validate(about | {"paths": {"X": ramp}})
    run = RunSpec(precision=64, max_rounds=3, stepping="all")
    file = str(place / "system.toml")
    return Plan("p", "p", "", system, (scenario,), PolicySpec(), run, {}, {"system": file, "suite": file, "scenario:s": file})


#: Accounts are of one size here. The first has no derivative, so that no program of gradients is compiled.
SHARE, WITH_DERIVATIVE = "liquidated_accounts_share", "liquidated_notional_share"
HOW = {"picture_points": 0, "random_starts": 0}


@pytest.fixture(scope="module")
def reversed_linear(linear):
    return reverse_stress(linear, [f"{SHARE} > 0.4"], _factors(("X",), deviation=DEVIATION), **HOW)


def _nearest_break() -> tuple[float, float]:
    """A share y is liquidated at the total fall x = (A - M + y (B - A)) / (1 - M), of which K y is the cascade's own, here K y / depth (model.md, 7).

    The rest is the shock; but where depth is so thin that the cascade feeds itself, the one that reaches the first account is enough. The distance is
    that of the nearest point of this curve, found by looking along it.
    """
    x, first = ((A - M + y * (B - A)) / (1 - M) for y in (0.4, 0.0))
    depth = np.linspace(-3, 3, 20001) * 0.6
    fall = np.maximum(x - K * 0.4 / np.exp(depth), first)
    factors = Factors(_factors(("X",), deviation=DEVIATION))
    some = fall > 0
    distance = [factors.distance(np.array([np.log1p(-f), d])) for f, d in zip(fall[some], depth[some], strict=True)]
    return min(distance), depth[some][int(np.argmin(distance))]


def test_the_linear_cascade_breaks_where_theory_says(reversed_linear):
    distance, depth = _nearest_break()
    assert reversed_linear.distance == pytest.approx(distance, rel=0.01)
    assert reversed_linear.shock[1] == pytest.approx(depth, abs=0.25) and reversed_linear.system.gradients == 0


@pytest.mark.slow
def test_gradients_lead_to_where_the_linear_cascade_breaks(linear):
    distance, depth = _nearest_break()
    found = reverse_stress(linear, [f"{WITH_DERIVATIVE} > 0.4"], _factors(("X",), deviation=DEVIATION), picture_points=0)
    assert found.distance == pytest.approx(distance, rel=0.01) and found.shock[1] == pytest.approx(depth, abs=0.25)
    assert found.system.gradients > 0 and found.starts[0].alignment > 0.98


def test_the_shock_breaks_and_one_that_is_one_percent_nearer_does_not(reversed_linear):
    found = reversed_linear
    assert METRICS[SHARE].value(found.dataset) > 0.4 > found.nearer[0]
    distances, values = found.ray
    assert not (values[distances < 0.99 * found.distance] > 0.4).any()
    first = found.broken[0]
    assert first["pool"] == "venue" and 1 <= first["step"] <= 24 and first["value_then"] > 0.4
    before = found.dataset.isel(time=slice(0, first["step"]))
    assert METRICS[SHARE].value(before) <= 0.4
    assert found.timeline[0]["what"] == "first liquidation" and found.timeline[0]["step"] == 1


def test_the_files_say_the_same_and_break_when_they_are_run(reversed_linear, tmp_path):
    found, place = reversed_linear, tmp_path / "r"
    place.mkdir()
    told = results.write(found, place, "stresslev reverse")
    assert {p.name for p in place.iterdir()} == results.REVERSE_FILES
    assert json.loads((place / "reverse.json").read_text())["distance"] == pytest.approx(found.distance)
    assert told["headline"] in (place / "reverse.html").read_text().replace("&gt;", ">")
    assert ScenarioSpec.model_validate(tomllib.loads((place / "shock.toml").read_text())) == found.scenario
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", str(place / "suite.toml"), "--out", str(tmp_path / "again")])
    assert stop.value.code == 1
    [limit] = json.loads((tmp_path / "again" / "summary.json").read_text())["limits"]
    assert limit["breached"] and limit["value"] == METRICS[SHARE].value(found.dataset)


def test_runs_are_kept_and_taken_up(reversed_linear, linear, tmp_path, monkeypatch):
    """With the runs of an earlier sitting nothing is run again but the shock by itself; they are of no use to another problem."""
    first, file = reversed_linear.system, tmp_path / "r.checkpoint"
    first.checkpoint = file
    first.keep()
    factors = _factors(("X",), deviation=DEVIATION)
    monkeypatch.setattr(many, "simulate_many", lambda *x, **y: pytest.fail("run again"))
    again = reverse_stress(linear, [f"{SHARE} > 0.4"], factors, **HOW, checkpoint=file, resume=True)
    assert again.point.tobytes() == reversed_linear.point.tobytes() and again.system.hard_runs == first.hard_runs
    with pytest.raises(InputError, match="another problem"):
        reverse_stress(linear, [f"{SHARE} > 0.3"], factors, checkpoint=file, resume=True)


def test_what_is_broken_at_rest_is_refused(linear):
    with pytest.raises(InputError, match="without any shock"):
        reverse_stress(linear, [f"{SHARE} < 0.1"], _factors(("X",), deviation=DEVIATION))


def test_a_shape_scales_the_paths_of_a_scenario():
    """The largest move of each asset is the factor's, proxies follow, and depth is scaled; on the grid as in the scenario written."""
    system = load_system("three_perp_venues")
    factors = load_factors("crypto_day")
    plan = load_plan("gap_35_half_depth", system="three_perp_venues")
    made = paths.shape(plan.scenarios[0], plan.base_of(plan.scenarios[0]), Factors(factors), system, "f")
    x = np.array([-0.2, 0.1, np.log(0.5), 0.0])
    shock = made.shock(x)
    np.testing.assert_allclose(shock.log_price[-1], [-0.2, 0.1, 0.135, 0.135], atol=1e-12)
    np.testing.assert_allclose(shock.depth_factor, 0.25)
    written = paths.build(made.scenario(x), tuple(system.assets), made.folder, defaults=dict(system.assets), pools=tuple(system.pools))
    np.testing.assert_allclose(written.log_price, shock.log_price, atol=1e-12)
    np.testing.assert_allclose(written.depth_factor, shock.depth_factor, rtol=1e-12)
    # the derivative of any sum over the path, against differences
    rng = np.random.default_rng(7)
    weights = rng.normal(size=(2, *shock.depth_factor.shape))

    def of_path(x):
        shock = made.shock(x)
        return np.sum(weights[0] * shock.log_price[1:]) + np.sum(weights[1] * shock.depth_factor)

    differences = [(of_path(x + 1e-6 * e) - of_path(x - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    np.testing.assert_allclose(made.gradient(x, *weights), differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["three_perp_venues", "venues_and_lenders"])
def test_a_system_written_and_read_is_the_same(name, tmp_path):
    system = load_system(name)
    (tmp_path / "s.toml").write_text(toml_text(tables(system)), encoding="utf-8")
    assert load_system(tmp_path / "s.toml") == system


def _small(tmp_path, *more):
    system = tables(load_system("three_perp_venues"))
    for table in (system["assets"],):
        for name in ("SOL", "SUI"):
            del table[name]
    for pool in system["pools"].values():
        for key in ("tiers", "open_interest_usd", "imbalance"):
            for name in ("SOL", "SUI"):
                pool[key].pop(name, None)
    (tmp_path / "small.toml").write_text(toml_text(system), encoding="utf-8")
    (tmp_path / "f.toml").write_text(toml_text(tables(_factors(spread=0.25, common=0.79, deviation=0.04))), encoding="utf-8")
    place = tmp_path / "r"
    arguments = ["reverse", str(tmp_path / "small.toml"), "--factors", str(tmp_path / "f.toml"), "--out", str(place), "--accounts", "1000"]
    arguments += ["--ramp-minutes", "8", "--after-minutes", "16", "--precision", "64", "--random-starts", "1", *more]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, place


@pytest.mark.slow
def test_the_shock_is_that_of_a_fine_grid_and_its_files_break_when_they_are_run(tmp_path, capsys):
    """Two prices, depth and correlation on three venues: a grid over the first three, by the hard rules alone."""
    code, place = _small(tmp_path, "--breaks", "bad_debt_over_open_interest > 0.2%", "--picture-points", "5")
    assert code == 0, capsys.readouterr().err
    told = json.loads((place / "reverse.json").read_text())
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", str(place / "suite.toml"), "--out", str(tmp_path / "again")])
    assert stop.value.code == 1
    [limit] = json.loads((tmp_path / "again" / "summary.json").read_text())["limits"]
    assert limit["breached"] and limit["value"] == told["confirmed"]["bad_debt_over_open_interest > 0.002"]
    spec = load_factors(place / "factors.toml")
    plan = load_plan(place / "suite.toml", precision=64)
    grid = _grid(plan, spec, 0.002)
    assert told["distance"] == pytest.approx(grid, rel=0.02)
    assert run_plan(plan).breached


def _grid(plan, spec, bound):
    """Least distance at which bad debt passes the bound: on rays through a plane of returns at many depths, each bisected where it can be nearer."""
    from stresslev.many import simulate_many

    base = plan.scenarios[0].model_copy(update={"depth_scale": 1.0})  # that of the shock is to be found again
    made = paths.shape(base, plan.base_of(base), Factors(spec), plan.system, "f")
    sd, depth, common = [a.standard_deviation for a in spec.assets.values()], spec.depth, spec.correlation.common
    rho = np.linspace(-0.5, 0.99, 400)  # correlation that comes with the shock: whichever is cheapest

    def least(y, d):
        returns = (y[0] ** 2 + y[1] ** 2 - 2 * rho * y[0] * y[1]) / (1 - rho**2)
        own = (d / depth.standard_deviation - depth.correlation * (y[0] + y[1]) / np.sqrt(2 + 2 * rho)) / np.sqrt(1 - depth.correlation**2)
        return np.sqrt(np.min(returns + own**2 + ((np.arctanh(rho) - np.arctanh(common)) / spec.correlation.spread) ** 2))

    def broken(points):
        shocks = {str(i): made.shock(np.array([y[0] * sd[0], y[1] * sd[1], d, 0.0])) for i, (y, d) in enumerate(points)}
        return simulate_many(plan, shocks=shocks, measures=["bad_debt_over_open_interest"]).bad_debt_over_open_interest.values[:, 0] > bound

    def reach(direction, d, distance):
        """How far a ray may go within a distance; 0 where it cannot even begin."""
        low, high = 0.0, 3 * distance
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if least(middle * direction, d) < distance else (low, middle)
        return low

    best, where = 12.0, None

    def scan(angles, depths):
        """Take up whatever is nearer on rays in these directions of the plane of returns, at these depths."""
        nonlocal best, where
        rays = [(a, np.array([np.cos(a), np.sin(a)]), d) for d in depths for a in angles]
        order = np.random.default_rng(6).permutation(len(rays))
        for start in range(0, len(rays), 128):
            able = [(ray, reach(*ray[1:], 0.997 * best)) for ray in (rays[i] for i in order[start : start + 128])]
            able = [(ray, t) for ray, t in able if t > 0]
            seen = broken([(t * v, d) for (_, v, d), t in able]) if able else []
            for ((a, v, d), _), there in zip(able, seen, strict=True):
                high = reach(v, d, 0.997 * best) if there else 0.0
                if high == 0 or not broken([(high * v, d)])[0]:
                    continue
                low = 0.0
                while high - low > 0.002 * high:
                    middle = (low + high) / 2
                    low, high = (low, middle) if broken([(middle * v, d)])[0] else (middle, high)
                if least(high * v, d) < best:
                    best, where = least(high * v, d), (a, d)

    width, height = np.pi / 36, 0.25 * depth.standard_deviation
    scan(width * np.arange(72), height * np.arange(-14, 9))
    # twice finer around the nearest, as the boundary of a book of single accounts is rough
    for _ in range(2):
        scan(where[0] + width * np.arange(-8, 9) / 4, where[1] + height * np.arange(-8, 9) / 4)
        width, height = width / 4, height / 4
    return best


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for step in pages.steps("reverse.md"):
        if step.kind == "run":
            with pytest.raises(SystemExit) as stop:
                cli.main(list(step.arguments))
            assert stop.value.code == step.code, (step.arguments, capsys.readouterr())
