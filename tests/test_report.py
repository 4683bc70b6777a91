"""The report: says what the files say, needs nothing but itself, and stays true when nothing happens."""

import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
from plotly.offline import get_plotlyjs

from stresslev import metrics, report, results
from stresslev.errors import InputError
from stresslev.report import facts, plots, sentences, series, words
from stresslev.report.charts import charts
from stresslev.report.inputs import read
from stresslev.report.markup import Html, data_script, tag
from stresslev.report.page import pretty

HOSTILE = '<script>alert("x")</script>&</title>'


def dataset(
    *,
    steps=40,
    pools=("alpha", "beta"),
    assets=("BTC", "ETH"),
    fall=0.3,
    further=0.0,
    closed=0.0,
    debt=0.0,
    fund=100.0,
    draw=0.0,
    start="",
    variables=None,
    **attrs,
):
    """A scenario in which prices fall in one step, halfway; `closed`, `debt` and `draw` are those of the first pool, in that step.

    Whatever else a result holds says that nothing happened; `variables` replaces values by name.
    """
    t, v, a, half = steps + 1, len(pools), len(assets), steps // 2
    after = (np.arange(t) >= half)[:, None]
    outside = np.where(after, 100 * (1 - fall), 100.0) * np.ones(a)
    price = outside - 100 * further * (np.arange(t) == half)[:, None]
    first = np.zeros((t, v))
    first[half:, 0] = 1
    flow = np.zeros((t, v, a))
    flow[half, 0, :] = closed / a
    drawn = np.zeros((t, v))
    drawn[half, 0] = draw
    per_asset, per_pool, both = ("time", "asset"), ("time", "pool"), ("time", "pool", "asset")
    none = np.zeros((t, v, a))
    everywhere = np.repeat(price[:, None, :], v, axis=1)
    idle = np.zeros((t, v))
    arrays = {
        "price_usd": (per_asset, price),
        "exogenous_price_usd": (per_asset, outside),
        "depth_usd": (per_asset, 1e6 * np.where(after, 0.5, 1.0) * np.ones(a)),
        "open_interest_usd": (both, 500 - np.cumsum(flow, axis=0)),
        "insurance_fund_usd": (per_pool, fund - draw * first),
        "treasury_usd": (per_pool, idle),
        "bad_debt_usd": (per_pool, debt * first),
        "fund_draw_usd": (per_pool, drawn),
        "newly_liquidated": (per_pool, (drawn > 0).astype(int)),
        "closed_long": (both, flow / 100),
        "closed_short": (both, none),
        "closed_long_usd": (both, flow),
        "closed_short_usd": (both, none),
        "cash_residual_usd": (per_pool, np.full((t, v), 1e-6)),
        "quantity_residual": (both, none),
        "accounts": (("pool",), np.full(v, 10)),
        "customer_long": (("ends", "pool", "asset"), np.full((2, v, a), 5.0)),
        "customer_short": (("ends", "pool", "asset"), np.full((2, v, a), 4.0)),
        "latent_deficit_usd": (("pool",), np.zeros(v)),
        "total_cash_residual_usd": (("pool",), np.full(v, 1e-5)),
        "total_quantity_residual_usd": (("pool", "asset"), np.zeros((v, a))),
        "mark_usd": (both, everywhere),
        "venue_price_usd": (both, everywhere),
        "funding_rate": (both, none),
        "funding_paid_usd": (per_pool, idle),
        "supplied_usd": (both, none),
        "borrowed_usd": (both, none),
        "borrow_rate": (both, none),
        "deficit_usd": (per_pool, drawn + np.diff(debt * first, axis=0, prepend=0)),
        "adl_usd": (per_pool, idle),
        "socialised_usd": (per_pool, idle),
        "deleveraged": (both, none),
        "margin_calls_usd": (per_pool, idle),
        "shared_in_usd": (per_pool, idle),
        "net_worth_usd": (per_pool, idle),
        "credit_loss_usd": (per_pool, idle),
        "redemption": (per_asset, np.ones((t, a))),
        "paid_share": (per_pool, np.ones((t, v))),
        "liquidation_orders": (per_pool, idle),
        "waiting": (per_pool, idle),
        "coins_residual": (both, none),
        "total_coins_residual_usd": (("pool", "asset"), np.zeros((v, a))),
        "debtrank": (("pool",), np.zeros(v)),
    }
    for name, values in (variables or {}).items():
        arrays[name] = (arrays[name][0], values) if name in arrays else values
    coords = {"time": np.arange(t) * 1.0, "pool": list(pools), "asset": list(assets), "ends": ["start", "end"]}
    plain = {"title": "A fall", "severity": "severe", "origin": "hypothetical", "description": "It falls.", "start": start}
    lists = {"sources": '["a source"]', "assumptions": '["an assumption"]', "status_text": '["something waited"]'}
    return xr.Dataset(arrays, coords=coords, attrs=plain | lists | attrs)


def configuration(scenarios, pools, assets):
    asset = {"depth_usd": 1e6, "volatility": 0.5, "impact_exponent": 1.0, "permanent_share": 0.2, "impact_half_life_minutes": 10.0}
    pool = {"description": "a venue", "insurance_fund_usd": 100.0, "taker_fee_bps": 5.0, "liquidation_fee_bps": 100.0}
    tier = {"source": "tier source", "floors_usd": [0.0], "maintenance_rates": [0.01], "max_leverage": [50.0]}
    path = {"source": "path source", "minutes": [0.0, 1.0], "prices": [1.0, 2.0], "proxy": None, "file": None, "beta": 1.0}
    system = {
        "name": "tiny",
        "description": "Tiny.",
        "assumptions": ["system assumption"],
        "assets": {a: asset | {"depth_volatility_exponent": 0.5, "depth_floor": 0.01} for a in assets},
        "pools": {p: pool | {"liquidation": {"rule": "full"}, "tiers": dict.fromkeys(assets, "t")} for p in pools},
        "tiers": {"t": tier},
        "book": {"file": None},
    }
    specs = [{"name": s, "paths": dict.fromkeys(assets, path), "shock_scale": 1.0, "depth_scale": 0.5} for s in scenarios]
    policy = {"maintenance_multiplier": 1.0, "pools": {}}
    return {"name": "suite", "system": system, "scenarios": specs, "policy": policy, "run": {"max_rounds": 3}}


def save(
    folder: Path, datasets: dict[str, xr.Dataset], bounds: dict[str, float] | None = None, *, title="The suite", reason="because", configure=None
) -> Path:
    """The two files of a run in a folder. `bounds` are upper limits by metric; `configure` changes the configured system in place."""
    some = next(iter(datasets.values()))
    configured = configuration(datasets, some.pool.values.tolist(), some.asset.values.tolist())
    if configure is not None:
        configure(configured["system"])
    attributes = {
        "title": title,
        "stresslev_version": "1.2.3",
        "created": "2026-11-23T15:32:35+00:00",
        "configuration": json.dumps(configured),
        "input_files_sha256": json.dumps({"prices.csv": "ab12"}),
        "command": "stresslev run suite.toml",
        "seed": 7,
        "precision": "float64",
        "residual_tolerance": 1e-9,
        "python": "3.11",
        "device": "cpu: cpu",
        "wall_seconds": 1.5,
    }
    values = {name: metrics.evaluate(ds) for name, ds in datasets.items()}
    checks = [
        {"metric": m, "scenario": s, "value": values[s][m], "bound": b, "side": "max", "breached": values[s][m] > b, "reason": reason}
        for s in datasets
        for m, b in (bounds or {}).items()
    ]
    summary = {
        "name": "suite",
        "title": title,
        "description": "What it is for.",
        "limits": checks,
        "scenarios": {s: {"metrics": values[s], "pools": metrics.by_pool(ds)} for s, ds in datasets.items()},
        "provenance": {k: v for k, v in attributes.items() if k != "configuration"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    results.write_netcdf(datasets, attributes, folder / "result.nc")
    results.write_json(summary, folder / "summary.json")
    return folder


def page(folder: Path) -> str:
    """The report without the chart library."""
    report.write(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def told(run) -> list[str]:
    """What the first page and the section on drivers say."""
    return [*sentences.narrative(run), *sentences.drivers(run)]


def narrative(folder: Path) -> str:
    return " ".join(told(read(folder)))


class Outline(HTMLParser):
    """Elements in order, whether they close, and links within the page."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.targets = [], [], [], []

    def handle_starttag(self, name, attrs):
        attrs = dict(attrs)
        self.tags.append((name, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.targets += [attrs["href"]] if "href" in attrs else []
        if name not in ("meta", "br", "input"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name


BAD = {"closed": 200.0, "debt": 50.0, "draw": 100.0, "further": 0.1}


@pytest.mark.parametrize(
    ("bounds", "headline", "cell"),
    [
        ({"bad_debt_usd": 10, "insolvent_pools": 5}, "Limits breached: 1 of 4 checks, in 1 of 2 scenarios", "✕ breached"),
        ({"bad_debt_usd": 1000}, "Within all limits", "✓ within"),
        ({}, "No limits set", None),
    ],
)
def test_verdict_comes_first(tmp_path, bounds, headline, cell):
    text = page(save(tmp_path, {"calm": dataset(fall=0.0), "bad": dataset(**BAD)}, bounds))
    assert headline in text
    assert (
        text.index(headline)
        < text.index("Contents<")
        < text.index("What drives it</h2>")
        < text.index("Measures</h3>")
        < text.index('id="scenario-bad"')
    )
    if cell is None:
        assert "✕ breached" not in text
        assert "✓ within<" not in text
    else:
        assert cell in text
        assert "because" in text


def test_one_breach_in_one_scenario_is_singular(tmp_path):
    run = read(save(tmp_path, {"bad": dataset(**BAD)}, {"bad_debt_usd": 10}))
    assert sentences.headline(run) == "Limits breached: 1 of 1 check, in 1 of 1 scenario"
    assert sentences.explanation(run).startswith("1 limit held against 1 scenario.")


def test_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    text = page(save(tmp_path, {"bad": dataset(**BAD, start="2026-01-01T00:00:00+00:00"), "calm": dataset(fall=0.0)}, {"bad_debt_usd": 10}))
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert {t for t in outline.targets if t[1:] not in outline.ids or t[0] != "#"} == set()
    assert not [a for _, a in outline.tags if "src" in a or "srcset" in a]
    assert not {name for name, _ in outline.tags} & {"link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in unescape(text)
    for name, attrs in outline.tags:
        if attrs.get("class") == "plot":
            assert attrs["role"] == "img"
            assert len(attrs["aria-label"]) > 20
        if name == "th":
            assert attrs["scope"] in ("col", "row", "rowgroup")


def test_report_says_where_everything_comes_from(tmp_path):
    text = page(save(tmp_path, {"bad": dataset(**BAD)}))
    told = ("an assumption", "a source", "system assumption", "tier source", "path source", "Something waited.", "depth_scale = 0.5")
    for expected in (
        *told,
        "stresslev run suite.toml",
        "stresslev rerun FOLDER --out NEW",
        "ab12",
        "1 × 10⁻⁹",
        "23 November 2026, 15:32 UTC",
    ):
        assert expected in text
    for metric in metrics.METRICS.values():
        assert metric.description in text


def test_hostile_names_are_escaped(tmp_path):
    names = {"pools": (HOSTILE, "b"), "assets": (HOSTILE, "c"), "title": HOSTILE, "severity": HOSTILE, "origin": HOSTILE}
    bad = dataset(**BAD, **names, description=HOSTILE, sources=json.dumps([HOSTILE]), status_text=json.dumps([HOSTILE]))
    text = page(save(tmp_path, {"bad": bad}, {"bad_debt_usd": 1}, title=HOSTILE, reason=HOSTILE))
    assert "<script>alert" not in text
    assert text.count("</title>") == 1
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text):
        figure = json.loads(block)
        assert "<script" not in json.dumps(figure)


def test_text_is_escaped_unless_it_is_markup():
    assert tag("p", "<&>", Html("<b>x</b>"), None, ["a", "b"], title='"') == '<p title="&quot;">&lt;&amp;&gt;<b>x</b>ab</p>'
    assert "</script><" not in data_script("x", {"a": "</script><script>"})[:-9]


def test_every_figure_is_one_plotly_accepts(tmp_path):
    many = dataset(**BAD, pools=[f"p{i}" for i in range(14)], assets=[f"a{i}" for i in range(15)])
    run = read(save(tmp_path, {"many": many, "dated": dataset(**BAD, start="2026-01-01T10:00:00")}))
    for scenario in run.scenarios:
        for chart in charts(scenario, plots.colours(run)):
            figure = go.Figure({key: chart.figure[key] for key in ("data", "layout")})
            assert len(figure.data) > 0
            assert all(len(trace.x) == len(trace.y) <= series.POINTS for trace in figure.data)


def test_nothing_to_draw_is_said(tmp_path):
    run = read(save(tmp_path, {"calm": dataset(fall=0.0, fund=0.0)}))
    drawn = {c.title: c for c in charts(run.scenarios[0], plots.colours(run))}
    for title in ("Liquidations by pool", "Insurance funds", "Bad debt, cumulative"):
        assert drawn[title].figure is None
        assert "nothing to draw" in drawn[title].caption
    assert drawn["Prices with and without the cascade"].caption == "No price falls below its start."


# Sentences.


def test_sentences_name_the_worst_and_why(tmp_path):
    text = narrative(save(tmp_path, {"mild": dataset(closed=20.0), "bad": dataset(**BAD, title="Crash", start="2026-01-01T10:00:00")}))
    assert "The worst scenario is “Crash”: it leaves 50 USD of bad debt, 2.5% of the open interest at its start, and makes alpha insolvent." in text
    assert "No other scenario leaves bad debt." in text
    assert "In “Crash” the insurance fund of alpha runs out at 10:20 UTC on 1 January 2026." in text
    assert "it falls by 40% from its start instead of 30%, 10 percentage points further (1.33× the fall)" in text


def test_sentences_in_the_plural(tmp_path):
    ds = dataset(**BAD)
    for name in ("bad_debt_usd", "insurance_fund_usd"):
        ds[name][:, 1] = ds[name][:, 0]
    ds["insurance_fund_usd"][5:, 1] = 0.0
    text = narrative(save(tmp_path, {"bad": ds}))
    assert "makes 2 pools insolvent (alpha and beta)" in text
    assert "The insurance funds of beta and alpha run out (the first after 5 minutes, the last after 20 minutes)." in text


def test_sentences_when_nothing_is_liquidated(tmp_path):
    said = told(read(save(tmp_path, {"calm": dataset()})))
    assert len(said) == 2
    assert said[0] == "No account is liquidated in this scenario, so no insurance fund is drawn on and no bad debt arises."


def test_sentences_without_bad_debt(tmp_path):
    text = narrative(save(tmp_path, {"a": dataset(closed=20.0), "b": dataset(closed=30.0, draw=40.0, title="Worse")}))
    assert "No scenario leaves bad debt: margin and the insurance funds pay every loss." in text
    assert "No insurance fund runs out; the deepest fall is that of alpha, by 40% of its start in “Worse”." in text
    assert "deepens no asset's fall" in text
    alone = narrative(save(tmp_path / "alone", {"a": dataset(closed=20.0)}))
    assert "The scenario leaves no bad debt: margin alone pays every loss." in alone
    assert "No insurance fund runs out, and none falls noticeably below its start." in alone


def test_sentences_when_funds_are_zero_from_the_start(tmp_path):
    text = narrative(save(tmp_path / "all", {"a": dataset(closed=20.0, debt=5.0, fund=0.0)}))
    assert "No pool has an insurance fund at the start." in text
    assert "runs out" not in text
    mixed = dataset(closed=20.0, debt=5.0)
    mixed["insurance_fund_usd"][:, 0] = 0.0
    text = narrative(save(tmp_path / "one", {"a": mixed}))
    assert "No insurance fund runs out, and none falls noticeably below its start. Without a fund at the start: alpha." in text


def test_sentences_tell_of_what_is_unsettled(tmp_path):
    ds = dataset(closed=20.0)
    ds["latent_deficit_usd"][0] = 10.0
    text = narrative(save(tmp_path, {"a": ds}))
    assert "pays every loss that has been settled." in text
    assert "have 10 USD of negative equity (0.5% of the open interest at the start), not yet settled." in text


def test_sentences_when_prices_rise(tmp_path):
    text = narrative(save(tmp_path, {"squeeze": dataset(fall=-0.5, further=-0.1, closed=20.0)}))
    assert "The cascade deepens no fall but lifts prices, most that of BTC: to 160% of its start instead of 150%." in text


def test_infinite_shares_survive_the_summary(tmp_path):
    folder = save(tmp_path, {"a": dataset(closed=20.0, draw=1.0, fund=0.0)}, {"insurance_fund_use": 0.5})
    assert json.loads((folder / "summary.json").read_text())["limits"][0]["value"] is None
    text = page(folder)
    assert "∞" in text
    assert "∞: a share of something that is zero at the start." in text


def test_close_up_shows_where_most_is_liquidated(tmp_path):
    run = read(save(tmp_path, {"long": dataset(steps=400, **BAD), "short": dataset(steps=20, **BAD), "calm": dataset(fall=0.0)}))
    low, high = facts.cascade_window(run.scenarios[0])
    assert low < 200 < high
    assert high - low < 100
    assert facts.cascade_window(run.scenarios[1]) is None
    assert facts.cascade_window(run.scenarios[2]) is None


# Series.


@pytest.mark.parametrize("columns", [1, 3, 7])
def test_thinning_keeps_ends_and_extremes_of_every_column(columns):
    values = np.random.default_rng(1).normal(size=(9000, columns))
    rows = series.thin(values)
    assert len(rows) <= series.POINTS
    assert np.all(np.diff(rows) > 0)
    assert rows[0] == 0
    assert rows[-1] == 8999
    assert np.array_equal(values[rows].min(axis=0), values.min(axis=0))
    assert np.array_equal(values[rows].max(axis=0), values.max(axis=0))
    buckets = (series.POINTS - 2) // (2 * columns)
    edges = np.linspace(0, 9000, buckets + 1).astype(int)
    for low, high in pairwise(edges[:50]):
        part = rows[(rows >= low) & (rows < high)]
        assert np.array_equal(values[part].min(axis=0), values[low:high].min(axis=0))
    assert np.array_equal(series.thin(values[:100]), np.arange(100))


@pytest.mark.parametrize("steps", [1, 199, 200, 201, 240, 3600, 4320, 100_000, 10_000_000])
def test_buckets_are_few_and_lose_nothing(steps):
    size = series.bucket_steps(steps)
    assert math.ceil(steps / size) <= series.BARS
    if steps <= 100_000:
        flows = np.random.default_rng(2).random((steps, 2))
        assert np.allclose(series.bucket_sums(flows, size).sum(axis=0), flows.sum(axis=0))


def test_folding_keeps_the_total():
    values = np.arange(12.0).reshape(2, 6)
    out, names, other = series.fold(values, list("abcdef"), values[0], 3)
    assert names == ["e", "f", "4 others"]
    assert other == "4 others"
    assert np.allclose(out.sum(axis=1), values.sum(axis=1))
    assert series.fold(values, list("abcdef"), values[0], 6)[2] is None


def test_labels_are_spread_without_crossing():
    places = plots.spread([0.99, 0.5, 0.98, 0.51], 0.1)
    assert sorted(places) == [places[1], places[3], places[2], places[0]]
    assert min(np.diff(sorted(places))) >= 0.1 - 1e-9
    assert max(places) <= 1
    assert plots.spread([], 0.1) == []


def test_rounded_numbers_are_plain():
    assert series.rounded(np.array([1.23456789, 2.0, np.inf, 1e-9])) == [1.23457, 2, None, 1e-9]


# Words.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.usd(0), "0 USD"),
        (words.usd(0.3), "under 1 USD"),
        (words.usd(196.7), "197 USD"),
        (words.usd(304_021), "304,000 USD"),
        (words.usd(348_853_120), "349 M USD"),
        (words.usd(999_700_000), "1.00 bn USD"),
        (words.usd(1e9), "1 bn USD"),
        (words.usd(-2.5e12), "−2.5 tn USD"),
        (words.percent(0), "0%"),
        (words.percent(0.00824711), "0.825%"),
        (words.percent(0.40663), "40.7%"),
        (words.percent(0.9999990463), "100%"),
        (words.percent(12.5), "1,250%"),
        (words.percent(6.9e-10), "6.9 × 10⁻¹⁰"),
        (words.percent(math.inf), "∞"),
        (words.percent(math.nan), "not a number"),
        (words.times(1.8511), "1.85×"),
        (words.times(1.5), "1.5×"),
        (words.scientific(1e-5), "1 × 10⁻⁵"),
        (words.scientific(-3.26e12), "−3.3 × 10¹²"),
        (words.points(0.01), "1 percentage point"),
        (words.points(0.147), "14.7 percentage points"),
        (words.count(300000.0), "300,000"),
        (words.plural(1, "pool"), "1 pool"),
        (words.plural(2, "pool"), "2 pools"),
        (words.listing(["a"]), "a"),
        (words.listing(list("abcd")), "a, b, c and d"),
        (words.listing(list("abcde")), "a, b, c and 2 others"),
        (words.moment(None, 0), "at the start"),
        (words.moment(None, 1), "after 1 minute"),
        (words.span(None, 2, 36.5), "from minute 2 to minute 36.5"),
        (words.duration(1), "1 minute"),
        (words.duration(2.5), "2.5 minutes"),
        (words.duration(240), "4 hours"),
        (words.duration(4320), "3 days"),
        (words.metric_value("unknown_metric", 1.5), "1.5"),
    ],
)
def test_numbers_as_people_read_them(text, expected):
    assert text == expected


def test_a_breach_never_looks_like_its_bound():
    assert words.value_against("insurance_fund_fall", 0.90004, 0.9) == "90.004%"
    assert words.value_against("insurance_fund_fall", 0.9, 0.9) == "90%"
    assert words.value_against("bad_debt_usd", 1_000_400.0, 1e6) == "1.0004 M USD"


def test_configuration_is_compact_and_true():
    value = {"a": [1, 2.5], "b": [["x [\n", "y"], [3]], "c": {"d": []}}
    text = pretty(value)
    assert json.loads(text) == value
    assert '"a": [1, 2.5]' in text


# Files.


def test_missing_and_foreign_files_are_refused(tmp_path):
    good = save(tmp_path / "good", {"a": dataset()})
    with pytest.raises(InputError, match=r"result\.nc.*is missing.*Fix:"):
        report.write(tmp_path / "nowhere")
    (good / "summary.json").rename(good / "kept.json")
    with pytest.raises(InputError, match=r"summary\.json.*is missing"):
        report.write(good)
    (good / "summary.json").write_text("{")
    with pytest.raises(InputError, match="no readable JSON"):
        report.write(good)
    (good / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="no summary of a run"):
        report.write(good)
    summary = json.loads((good / "kept.json").read_text())
    other = summary | {"provenance": summary["provenance"] | {"created": "2020-01-01T00:00:00+00:00"}}
    results.write_json(other, good / "summary.json")
    with pytest.raises(InputError, match="different runs"):
        report.write(good)
    results.write_json(summary | {"scenarios": {"a": {}}}, good / "summary.json")
    with pytest.raises(InputError, match="not as a run writes them"):
        report.write(good)
    (good / "kept.json").rename(good / "summary.json")
    (good / "result.nc").write_text("not netCDF")
    with pytest.raises(InputError, match="no readable result"):
        report.write(good)
    assert not (good / "report.html").exists()


def test_a_result_without_a_variable_is_refused(tmp_path):
    folder = save(tmp_path, {"a": dataset()})
    broken = save(tmp_path / "other", {"a": dataset()})
    _, attributes = results.read_netcdf(folder / "result.nc")
    results.write_netcdf({"a": dataset().drop_vars("depth_usd")}, attributes, broken / "result.nc")
    with pytest.raises(InputError, match="has no depth_usd in scenario a"):
        report.write(broken)
