"""Charts over scenarios, over paths and over policies: what they draw follows from the results."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from stresslev import intervals
from stresslev.report import distribution, drivers, facts, loss_charts, sentences
from stresslev.report.comparison_charts import _efficient
from stresslev.report.inputs import read
from stresslev.report.losses import attribution, deficits, layers
from tests.test_report import BAD, dataset, save
from tests.test_report_contagion import configure, linked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two scenarios whose titles begin alike."""
    same = "A title so long that it does not fit beside a chart and has to be cut off: "
    mild = linked(deficit_by_channels_usd=(("opened", "pool"), np.full((5, 5), 7.0))).assign_attrs(title=same + "two")
    return read(save(tmp_path_factory.mktemp("drivers"), {"one": linked().assign_attrs(title=same + "one"), "two": mild}, configure=configure))


def _sums(figure: dict) -> dict[str, float]:
    """What the bars of each scenario come to, on the axis."""
    go.Figure({key: figure[key] for key in ("data", "layout")})
    found: dict[str, float] = {}
    for trace in figure["data"]:
        for name, x in zip(trace["y"], trace["x"], strict=True):
            found[name] = found.get(name, 0.0) + x
    return found


def test_bars_by_scenario_stack_to_its_losses_and_alike_titles_stay_apart(run):
    borne, came = loss_charts.by_scenario(run), loss_charts.channels_by_scenario(run)
    assert _sums(borne.figure) == pytest.approx({s.name: deficits(s).sum() / 1e3 for s in run.scenarios})
    assert _sums(came.figure) == pytest.approx({s.name: attribution(run, s).added.sum() / 1e3 for s in run.scenarios})
    by_layer = {trace["name"]: sum(trace["x"]) * 1e3 for trace in borne.figure["data"]}
    assert sum(by_layer.values()) == pytest.approx(sum(p.sum() for s in run.scenarios for p in layers(s).values()))
    axis = borne.figure["layout"]["yaxis"]
    assert axis["tickvals"] == ["one", "two"] and axis["ticktext"][0].startswith("A title so long that it<br>")


def test_falls_are_those_of_the_asset_that_the_cascade_hit_most(run):
    chart = drivers._falls(run)
    go.Figure({key: chart.figure[key] for key in ("data", "layout")})
    without, with_it = (next(t for t in chart.figure["data"] if t.get("name") == n) for n in ("without the cascade", "with it"))
    for i, s in enumerate(run.scenarios):
        most = max(facts.swings(s), key=lambda d: d.further)
        assert (without["x"][i], with_it["x"][i]) == pytest.approx((100 * most.fall_without, 100 * most.fall))


def test_one_scenario_has_nothing_to_compare_and_breaches_are_counted_by_scenario(tmp_path):
    one = read(save(tmp_path, {"s0": dataset(steps=4, **BAD)}, {"bad_debt_usd": 10, "insolvent_pools": 0}))
    assert [f(one) for f in (loss_charts.by_scenario, loss_charts.channels_by_scenario, drivers._falls)] == [None] * 3
    many = [dataclasses.replace(one.scenarios[0], name=f"s{i}", title=f"Title {i}") for i in range(4)]
    judged = [dataclasses.replace(c, scenario=s.name) for s in many for c in one.checks]
    run = dataclasses.replace(one, scenarios=tuple(many), checks=tuple(judged))
    assert sentences.explanation(run).endswith("“Title 0” breaches 2 limits, “Title 1” breaches 2 limits and 2 other scenarios breach some.")


def test_the_band_of_a_distribution_is_the_exact_interval_of_each_share():
    x, confidence = np.random.default_rng(3).gamma(0.5, 2e6, 60), 0.9
    edges = np.linspace(x.min(), x.max(), 31)
    beyond = [intervals.probability(x > e, confidence) for e in edges]
    found = {"metric": "bad_debt_usd", "edges": edges.tolist(), "shares": (np.histogram(x, edges)[0] / 60).tolist()}
    found["beyond"] = [vars(b) for b in beyond]
    said = {"histogram": found, "confidence": confidence, "paths": 60}
    check = SimpleNamespace(scenario="g", metric="bad_debt_usd", bound=3e6)
    line, bars = distribution.charts(SimpleNamespace(sample_checks=(check,)), "g", said)
    for chart in (line, bars):
        go.Figure({key: chart.figure[key] for key in ("data", "layout")})
    low, high, share, limit = line.figure["data"]
    assert limit["x"] == [3.0, 3.0] and share["x"] == pytest.approx((edges / 1e6).tolist(), rel=1e-5)
    for i in (3, 12, 29):
        exact = stats.binomtest(int((x > edges[i]).sum()), 60).proportion_ci(confidence, method="exact")
        assert (low["y"][i], high["y"][i]) == pytest.approx((100 * exact.low, 100 * exact.high), rel=1e-4)
    assert sum(bars.figure["data"][0]["y"]) == pytest.approx(100)


def test_the_frontier_holds_whoever_is_beaten_by_nobody():
    random = np.random.default_rng(1)
    for _ in range(50):
        x, y = random.integers(0, 5, (2, 8)).astype(float)
        best = {i for i in range(8) if not any(x[j] >= x[i] and y[j] <= y[i] and (x[j], y[j]) != (x[i], y[i]) for j in range(8))}
        found = _efficient(x, y)
        assert set(found) == best and all(np.diff(x[found]) >= 0) and all(np.diff(y[found]) >= 0)
