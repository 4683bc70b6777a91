"""The page that compares policies: what it says follows from the numbers, and it needs nothing but itself."""

import dataclasses
import json
import re
import shutil
from html import unescape

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from stresslev import policies, report
from stresslev.errors import InputError
from stresslev.report import comparison_charts, comparison_tables, leverage_charts, liquidation_map, plots
from stresslev.report import comparison_words as told
from stresslev.report.comparison_inputs import read_comparison
from stresslev.report.inputs import read
from tests.comparisons import leveraged, outcome, worse_and_better
from tests.test_report import HOSTILE, Outline, dataset, save

LIMIT = {"bad_debt_over_open_interest": 0.03}


def written(folder, found: policies.Comparison) -> str:
    """A comparison's page without the chart library."""
    folder.mkdir(parents=True, exist_ok=True)
    policies.save(found, folder)
    report.write(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def compared(folder, found: policies.Comparison):
    folder.mkdir(parents=True, exist_ok=True)
    policies.save(found, folder)
    return read_comparison(folder)


def two(first: dict, second: dict) -> policies.Comparison:
    return policies.Comparison({"fixed": outcome("fixed", first), "dynamic": outcome("dynamic", second)})


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Fixed against dynamic as read, and its page; tests only read them."""
    folder = tmp_path_factory.mktemp("example")
    text = written(folder, worse_and_better(LIMIT))
    return read_comparison(folder), text


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    """A policy against itself, in results of an earlier version."""
    folder = tmp_path_factory.mktemp("same")
    alike = {"s": dataset(closed=100.0, debt=20.0)}
    text = written(folder, two(alike, alike))
    return read_comparison(folder), text


def rows(table: str) -> dict[str, list[str]]:
    """First cell -> the others, as text."""
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", table):
        cells = [unescape(re.sub("<[^>]*>", " ", c)).split() for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        found[" ".join(cells[0])] = [" ".join(c) for c in cells[1:]]
    return found


def test_the_page_is_whole_and_refers_to_nothing_but_the_reports_beside_it(example):
    _, text = example
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    outside = {t for t in outline.targets if not t.startswith("#")}
    assert outside == {"fixed/report.html", "dynamic/report.html"}
    assert {t for t in outline.targets if t.startswith("#") and t[1:] not in outline.ids} == set()
    assert not {name for name, _ in outline.tags} & {"link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in unescape(text)
    plots = [attrs for _, attrs in outline.tags if attrs.get("class") == "plot"]
    assert len(plots) == 3
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in plots)
    assert all(attrs["scope"] in ("col", "row", "rowgroup", "colgroup") for name, attrs in outline.tags if name == "th")


def test_the_table_comes_first_and_marks_the_best_without_colour(example):
    found, text = example
    table = rows(comparison_tables.measures(found))
    assert table["Limits"] == ["✕ 1 of 2 breached", "✓ within all"]
    assert table["Bad debt over open interest"] == ["4% mean 2.12%", "★ 2% mean 1.23%"]
    assert table["Leverage allowed"] == ["★ 10× mean 10×", "5.06× mean 5.06×"]
    assert table["Leverage used"] == ["5× mean 5×", "5× mean 5×"]  # no best where all are the same
    assert table["Maintenance margin, peak to trough"] == ["★ 1× mean 1×", "1.5× mean 1.5×"]
    assert text.index("Safety</th>") < text.index("Capital efficiency</th>") < text.index("User harm</th>") < text.index("Procyclicality</th>")
    assert text.index("Bad debt over open interest</th>") < text.index("What each policy buys and costs</h2>") < text.index('class="plot"')


def test_every_scenario_marks_its_own_best(example):
    html = comparison_tables.scenarios(example[0])
    crash, dip = html.split('id="scenario-dip"')
    assert rows(crash)["dynamic"][0] == "★ 2%" and rows(crash)["fixed"][0] == "4%"
    assert rows(dip)["fixed"][0] == "★ 0.25%" and rows(dip)["dynamic"][0] == "0.45%"


def test_groups_of_users_are_told_apart(example, same):
    table = rows(comparison_tables.groups(example[0]))
    assert table["fixed"] == ["10×", "5×", "15%", "10×", "5×", "10%", "10×", "5×", "5%"]
    assert comparison_tables.groups(same[0]) is None


def test_what_a_policy_buys_and_costs_is_said_with_its_numbers(example):
    found, _ = example
    text = told.trade(found, found.policies[1])
    assert text.startswith("Against fixed, in the worst scenario of each measure, it improves bad debt over open interest (2% instead of 4%), ")
    assert "worsens amplification, worst asset (1.5× instead of 1.33×), leverage allowed (5.06× instead of 10×)" in text
    assert "it leaves 42.4% less bad debt (49 USD instead of 85 USD), and allows 49.4% less leverage on average." in text
    assert "It breaches none of 2 checks, fixed 1." in text
    assert text.endswith("Some measure of safety is worse in “Dip”.")


def test_a_policy_that_changes_nothing_is_said_to_change_nothing(same):
    found, page = same
    assert told.trade(found, found.policies[1]) == "Against fixed it changes no measure noticeably."
    assert told.headline(found) == "No limits set"
    assert "No policy makes any measure of safety worse in any scenario." in told.explanation(found)
    assert "Nowhere: no policy makes any measure of safety worse than fixed does, in any scenario." in page
    assert "★ </span>" not in page


def test_a_policy_that_only_costs_says_so(tmp_path):
    calm = {"s": leveraged(dataset(fall=0.0), cap=10.0)}
    tight = {"s": leveraged(dataset(fall=0.0), cap=5.0)}
    found = compared(tmp_path, two(calm, tight))
    assert told.trade(found, found.policies[1]) == "Against fixed, it worsens leverage allowed (5× instead of 10×). It improves none."


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        (0.03, "Limits breached under fixed, kept under dynamic"),
        (0.5, "Every policy keeps within all limits"),
        (0.001, "Limits breached under every policy"),
    ],
)
def test_the_headline_says_who_keeps_the_limits(example, bound, said):
    def held(policy):
        value = policy.worst("bad_debt_over_open_interest")
        check = dataclasses.replace(policy.run.checks[0], value=value, bound=bound, breached=value > bound)
        return dataclasses.replace(policy, run=dataclasses.replace(policy.run, checks=(check,)))

    assert told.headline(dataclasses.replace(example[0], policies=tuple(map(held, example[0].policies)))) == said


def test_where_a_policy_is_worse_the_page_says_by_how_much_and_why(example):
    found, page = example
    [one] = found.worse
    said = told.worse(one)
    assert said[0] == "Bad debt over open interest: 0.45% instead of 0.25%, 0.2 percentage points more."
    assert said[-1] == "Amplification, worst asset: 1.5× instead of 1.2×, 0.3 more."
    assert told.why(found, one) == (
        "The cascade pushes BTC further: at most by 5.56% instead of 2.22% away from the price without it. "
        "BTC falls by 15% instead of 12%, after 20 minutes. "
        "Until the turn of that price, 16% instead of 5% of open interest and loans is closed by force, 62.5% of it to bring accounts down to a "
        "tightened cap."
    )
    section = page[page.index('id="worse"') : page.index('id="charts"')]
    assert "dynamic in “Dip”" in section and "Crash" not in section


def test_a_reason_that_the_results_do_not_hold_is_not_made_up(tmp_path):
    fixed, other = ({"s": leveraged(dataset(closed=100.0, debt=debt))} for debt in (20.0, 30.0))
    found = compared(tmp_path, two(fixed, other))
    assert told.why(found, found.worse[0]).endswith("the results do not tell why.")


@pytest.mark.slow
def test_infinite_measures_survive_the_file(tmp_path):
    fixed, other = ({"s": leveraged(dataset(closed=100.0), survivors=n)} for n in (0, 1))
    assert "∞" in written(tmp_path, two(fixed, other))


def test_results_of_earlier_versions_are_compared_without_what_they_lack(same):
    _, text = same
    assert "Bad debt over open interest" in text
    assert "Leverage allowed" not in text and "Procyclicality" not in text and "User groups" not in text
    assert text.count('class="plot"') == 1  # prices


def test_every_figure_is_one_plotly_accepts_and_each_policy_has_its_line(example):
    found, _ = example
    scatter, (caps, prices) = comparison_charts.frontier(found), comparison_charts.charts(found)
    for chart in (scatter, caps, prices):
        go.Figure({key: chart.figure[key] for key in ("data", "layout")})
    assert comparison_charts.heaviest(found).name == "crash"
    edge, *marks = scatter.figure["data"]
    assert [t["x"] + t["y"] for t in marks] == [[10, 4], [pytest.approx(5.06329), 2]]
    assert len({t["marker"]["symbol"] for t in marks}) == 2
    # neither is beaten in both: the frontier joins them
    assert edge["x"] == [pytest.approx(5.06329), 10] and edge["y"] == [2, 4]
    assert {t["line"]["dash"] for t in caps.figure["data"]} == {"solid", "7px,3px"}
    assert "dynamic lowers that of BTC furthest: from 10× to 4×, at 10:15 UTC on 1 January 2026." in caps.caption
    assert "fixed leaves caps as they are." in caps.caption
    assert prices.caption == "Policies differ most in the fall of BTC: 40% under fixed and 35% under dynamic."


@pytest.mark.slow
def test_a_policy_without_caps_is_compared_without_their_measures(tmp_path):
    loose = {"s": leveraged(dataset(closed=100.0, debt=50.0), cap=np.inf)}
    found = compared(tmp_path, two(loose, {"s": leveraged(dataset(closed=100.0, debt=20.0), cap=5.0)}))
    table = rows(comparison_tables.measures(found))
    assert table["Leverage allowed"] == ["n/a", "★ 5×"] or table["Leverage allowed"] == ["n/a", "5×"]
    assert "leverage allowed" not in told.trade(found, found.policies[1])
    scatter, caps = comparison_charts.frontier(found), comparison_charts.charts(found)[0]
    assert "leverage used" in scatter.unit
    assert caps.caption == "fixed sets no caps. dynamic leaves caps as they are."
    assert len(caps.figure["data"]) == 2 and len(caps.key) == 1


def test_hostile_names_are_escaped(tmp_path):
    found = worse_and_better(LIMIT, title=HOSTILE, description=HOSTILE)
    text = written(tmp_path, found)
    assert "<script>alert" not in text
    assert text.count("</title>") == 1


def test_folders_that_hold_no_comparison_are_refused(tmp_path):
    bare = {"s": dataset()}
    policies.save(two(bare, bare), tmp_path)
    path = tmp_path / "comparison.json"
    good = json.loads(path.read_text())
    for change in (
        {"policies": [good["policies"][0] | {"name": "../fixed"}]},
        {"policies": [good["policies"][0] | {"created": "2020"}]},
        {"policies": []},
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match="no comparison"):
            report.write(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match="no comparison"):
        report.write(tmp_path)
    path.write_text(json.dumps(good))
    shutil.rmtree(tmp_path / "dynamic")
    with pytest.raises(InputError, match="is missing"):
        report.write(tmp_path)


# Dynamic leverage in the report of one run.


def test_a_run_shows_how_caps_moved_and_what_they_made_accounts_do(tmp_path):
    steps = np.arange(41)
    ds = leveraged(dataset(closed=10.0), cap=np.where(steps < 15, 10.0, 4.0), multiplier=np.where(steps < 15, 1.0, 1.5), reduced=60.0, posted=30.0)
    run = read(save(tmp_path, {"s": ds}))
    caps, multipliers, flows = leverage_charts.charts(run.scenarios[0], plots.colours(run))
    for one in (caps, multipliers, flows):
        go.Figure({key: one.figure[key] for key in ("data", "layout")})
    assert caps.caption == "Tightest against its start is the cap of BTC at alpha: from 10× to 4×, after 15 minutes."
    assert multipliers.caption == "Tightest against its start is the multiplier of BTC at alpha: from 1× to 1.5×, after 15 minutes."
    assert flows.caption == "Over the scenario 60 USD closed by force. Calls bring in 30 USD of outside cash."
    still = read(save(tmp_path / "still", {"s": leveraged(dataset(), cap=np.inf), "older": dataset()}))
    assert [leverage_charts.charts(s, plots.colours(still)) for s in still.scenarios] == [[], []]


# The liquidation map.


MOVES, TIMES = np.array([-0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3]), np.array([0.0, 10.0, 30.0])


def mapped(levels, **more):
    """A dataset with a liquidation map of BTC at the first pool, of (price in percent of the start, USD) that is sold below and bought above."""
    ds = dataset(**more)
    price = ds.price_usd.sel(asset="BTC", time=TIMES).values
    full = np.zeros((len(TIMES), 2, 2, len(MOVES)))
    for t, now in enumerate(price):
        for m, move in enumerate(MOVES):
            for level, usd in levels:
                if now * (1 + move) <= level < now:
                    full[t, 0, 0, m] += usd
                if now < level <= now * (1 + move):
                    full[t, 0, 0, m] -= usd
    return ds.assign(liquidation_map_usd=(("map_time", "pool", "asset", "move"), full)).assign_coords(map_time=TIMES, move=MOVES)


def test_a_level_stays_where_it_is_while_the_price_moves(tmp_path):
    """All of it sits at 84% of the start: below the first price, and above the price once that is at 70%."""
    run = read(save(tmp_path, {"s": mapped([(84.0, 5e6)], closed=10.0)}))
    [chart] = liquidation_map.charts(run.scenarios[0])
    go.Figure({key: chart.figure[key] for key in ("data", "layout")})
    heat, path = chart.figure["data"]
    assert heat["x"] == [0, 10, 30]
    z, y = np.array(heat["z"], dtype=float), np.array(heat["y"])
    for t, (low, high) in enumerate(((80, 90), (80, 90), (77, 84))):
        held = y[np.nan_to_num(z[:, t]) > 0]
        # the whole of the step of the map that the level lies in, and nothing else
        assert low <= held.min() <= low + (y[1] - y[0])
        assert high - (y[1] - y[0]) <= held.max() <= high
    assert np.nanmax(z[:, 0]) * 10 == pytest.approx(5000 if " k" in heat["colorbar"]["ticksuffix"] else 5)  # over ten percent
    assert path["y"][0] == 100 and min(path["y"]) == 70
    assert np.isnan(z[-1, 2]) and np.isnan(z[0, 0])  # 130% is out of reach of 70%, and 49% of 100%
    report.write(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Liquidation map of BTC" in text and "Liquidation map of ETH" not in text


def test_the_caption_of_a_map_says_what_a_tenth_would_do(tmp_path):
    run = read(save(tmp_path, {"s": mapped([(95.0, 2e6), (65.0, 5e6), (107.0, 1e6)], closed=10.0)}))
    [chart] = liquidation_map.charts(run.scenarios[0])
    assert chart.caption == (
        "At the start a fall of 10% would make pools sell 2 M USD, and a rise of 10% would make them buy 1 M USD. "
        "A fall of 10% would sell most after 30 minutes: 5 M USD."
    )


def test_without_a_map_the_section_says_how_to_get_one(tmp_path):
    folder = save(tmp_path, {"s": dataset(closed=10.0)})
    assert liquidation_map.charts(read(folder).scenarios[0]) == []
    report.write(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "run.liquidation_map=true" in text and "Liquidation map of" not in text
