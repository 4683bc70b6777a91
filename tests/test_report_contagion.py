"""The report of a system whose pools are tied: who depends on whom, lenders, receipt tokens, marks and funding."""

import functools
import json
import math
import re
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from stresslev.report import contagion, network_picture, plots, sections, system_tables
from stresslev.report.inputs import read
from stresslev.report.page import NOT_MODELLED
from tests.conftest import ROOT
from tests.test_report import HOSTILE, Outline, dataset, page, save

POOLS, ASSETS = ("large", "mid", "chain", "lend_a", "lend_b"), ("BTC", "ETH", "aETH")
STEPS, HALF = 40, 20
CHANNELS = ("price", "owners", "receipts", "credit")
#: USD of deficits by pool with one more channel open in each row.
BY_CHANNEL = np.array(
    [[100, 500, 200, 0, 50], [300, 1200, 1100, 50, 60], [250, 1300, 900, 50, 60], [250, 1300, 950, 60, 160], [300, 1500, 1000, 100, 160]]
)
CREDIT = (("mid", "lend_a", 400.0), ("mid", "large", 200.0), ("lend_b", "lend_a", 60.0))


def at_once(values):
    """A flow in one step, halfway."""
    values = np.asarray(values, float)
    flow = np.zeros((STEPS + 1, *values.shape))
    flow[HALF] = values
    return flow


def level(start, end):
    """A level that goes from one value to another halfway."""
    start, end = np.broadcast_arrays(np.asarray(start, float), np.asarray(end, float))
    after = (np.arange(STEPS + 1) >= HALF).reshape(-1, *([1] * start.ndim))
    return np.where(after, end, start)


def linked(**replaced):
    """Three venues and two lenders; every tie carries something. Layers of the deficits add up pool by pool."""
    price = level([100, 100, 100], [60, 70, 50])
    everywhere = np.repeat(price[:, None, :], len(POOLS), axis=1)
    venue = everywhere.copy()
    venue[HALF:, 2, 0] *= 0.9
    mark = venue.copy()
    mark[HALF:, 3, 1] *= 1.05
    nothing = [[0.0] * 3] * 3
    variables = {
        "price_usd": price,
        "exogenous_price_usd": level([100, 100, 100], [75, 80, 75]),
        "open_interest_usd": level([[9000, 5000, 0], [4000, 2000, 0], [2000, 1000, 0], [0] * 3, [0] * 3], 1000.0),
        "insurance_fund_usd": level([1000, 200, 300, 150, 20], [700, 0, 0, 20, 0]),
        "bad_debt_usd": level(0.0, [0, 900, 300, 0, 40]),
        "deficit_usd": at_once(BY_CHANNEL[-1]),
        "fund_draw_usd": at_once([300, 200, 300, 100, 50]),
        "adl_usd": at_once([0, 400, 400, 0, 0]),
        "socialised_usd": at_once([0, 0, 0, 0, 70]),
        "shared_in_usd": at_once([0, 0, 0, -30, 30]),
        "margin_calls_usd": at_once([-50, 20, 40, -20, 10]),
        "net_worth_usd": level([3200, 300, 500, 700, 40], [2500, -600, -100, 700, -90]),
        "credit_loss_usd": level(0.0, [80, 0, 0, 200, 0]),
        "redemption": level([1, 1, 1], [1, 1, 0.82]),
        "paid_share": level(1.0, [1, 0.6, 1, 1, 1 / 3]),
        "venue_price_usd": venue,
        "mark_usd": mark,
        "supplied_usd": level([*nothing, [3000, 4000, 0], [300, 100, 500]], [*nothing, [2000, 3000, 0], [200, 100, 200]]),
        "borrowed_usd": level([*nothing, [1000, 400, 0], [100, 30, 0]], [*nothing, [1900, 200, 0], [10, 30, 0]]),
        "borrow_rate": level([*nothing, [0.03, 0.02, 0], [0.02, 0.01, 0]], [*nothing, [0.9, 0.02, 0], [0.01, 0.01, 0]]),
        "funding_paid_usd": at_once([10, 0, 0, 0, 0]),
        "funding_rate": at_once([[0.001, -0.002, 0], *[[0] * 3] * 4]),
        "waiting": at_once([0, 0, 0, 20, 5]),
        "liquidation_orders": at_once([10, 10, 10, 40, 10]),
        "closed_long": at_once([[5, 1, 0]] * 3 + [[1, 0, 0], [1, 0, 1]]),
        "closed_short": at_once([[1, 0, 0]] * 3 + [[2, 0, 0], [1, 0, 0]]),
        "closed_long_usd": at_once([[400, 80, 0]] * 3 + [[80, 0, 0], [80, 0, 80]]),
        "closed_short_usd": at_once([[80, 0, 0]] * 3 + [[160, 0, 0], [80, 0, 0]]),
        "newly_liquidated": at_once([3, 4, 5, 1, 1]).astype(int),
        "debtrank": np.array([0.6, 0.3, 0.1, 0.2, 0.05]),
        "deficit_by_channels_usd": (("opened", "pool"), BY_CHANNEL * 1.0),
        "bad_debt_by_channels_usd": (("opened", "pool"), BY_CHANNEL * 0.4),
        "deficit_without_channel_usd": (("channel", "pool"), BY_CHANNEL[:4] * 0.8),
        "bad_debt_without_channel_usd": (("channel", "pool"), BY_CHANNEL[:4] * 0.3),
    }
    ds = dataset(pools=POOLS, assets=ASSETS, variables=variables | replaced)
    return ds.assign_coords(opened=["shock", *CHANNELS], channel=list(CHANNELS))


def configure(system):
    """The configuration that goes with `linked`."""
    terms = {"liquidation_threshold": 0.8, "ltv": 0.77, "bonus": 0.05, "reserve_factor": 0.1}
    terms |= {"rate": {"optimal": 0.45, "base": 0.01, "slope1": 0.04, "slope2": 3.0}}
    system["assets"]["aETH"] = {"receipt": {"pool": "lend_a", "underlying": "ETH", "run_haircut": 0.05}}
    system["credit"] = [{"debtor": d, "creditor": c, "usd": usd} for d, c, usd in CREDIT]
    system["clearing"] = {"alpha": 0.9, "beta": 0.9}
    system["owners"], system["book"]["owners_share"] = {"top_up": 1.25, "keep": 2.0}, 0.1
    for name in ("lend_a", "lend_b"):
        system["pools"][name] = {
            "kind": "lending",
            "description": "a lender",
            "insurance_fund_usd": 150.0,
            "capital_usd": 100.0,
            "fund_group": "lenders",
            "waterfall": ["insurance_fund", "shared_funds", "socialise"],
            "liquidation": {"rule": "close_factor", "close_factor": 0.5, "full_below": 0.95, "required_profit": 0.0},
            "mark": {"deviation": 0.005, "heartbeat_minutes": 60},
            "reserves": {"ETH": terms, "BTC": terms},
        }
    system["pools"]["lend_b"]["reserves"]["aETH"] = terms | {"borrowable": False}
    system["pools"]["chain"] |= {"collateral": {"aETH": {"haircut": 0.05}}, "waterfall": ["insurance_fund", "adl"], "adl": "hyperliquid"}


@functools.cache
def _unchanged():
    with tempfile.TemporaryDirectory() as folder:
        return read(save(Path(folder), {"tied": linked()}, configure=configure))


def tied(tmp_path, **replaced):
    """The run of `linked` as the report reads it; without replacements it is read from files only once."""
    return read(save(tmp_path, {"tied": linked(**replaced)}, configure=configure)) if replaced else _unchanged()


def test_edges_are_those_of_the_configuration(tmp_path):
    run = tied(tmp_path)
    edges = contagion.links(run, run.scenarios[0])
    by_kind = {
        kind: [(e.source, e.target, e.usd) for e in edges if e.kind == kind] for kind in (contagion.CREDIT, contagion.RECEIPT, contagion.FUNDS)
    }
    assert sorted(by_kind[contagion.CREDIT]) == sorted(CREDIT)
    assert sorted(by_kind[contagion.RECEIPT], key=str) == [("lend_a", "chain", None), ("lend_a", "lend_b", 500.0)]
    assert by_kind[contagion.FUNDS] == [("lend_a", "lend_b", 30.0)]
    calls = {(e.source, e.target): e.usd for e in edges if e.kind == contagion.OWNERS}
    hub = contagion.HUB
    assert calls == {("large", hub): 50.0, (hub, "mid"): 20.0, (hub, "chain"): 40.0, ("lend_a", hub): 20.0, (hub, "lend_b"): 10.0}


def test_lost_credit_is_what_the_run_recorded(tmp_path):
    run = tied(tmp_path)
    lost = contagion.unpaid(run, run.scenarios[0])
    assert np.allclose(lost.sum(axis=0), [80, 0, 0, 200, 0])
    assert lost[POOLS.index("mid"), POOLS.index("large")] == pytest.approx(80)


def test_a_debtor_owes_all_creditors_the_same_share(tmp_path):
    run = tied(tmp_path, paid_share=level(1.0, [1, 0, 1, 1, 0.45]), credit_loss_usd=level(0.0, [200, 0, 0, 433, 0]))
    lost = contagion.unpaid(run, run.scenarios[0])
    rows = [POOLS.index(p) for p in ("mid", "mid", "lend_b")]
    columns = [POOLS.index(p) for p in ("large", "lend_a", "lend_a")]
    assert np.allclose(lost[rows, columns], [200, 400, 33])


def test_without_a_loss_nothing_is_drawn_as_lost(tmp_path):
    calm = {"credit_loss_usd": np.zeros((STEPS + 1, 5)), "redemption": np.ones((STEPS + 1, 3)), "shared_in_usd": np.zeros((STEPS + 1, 5))}
    run = tied(tmp_path, paid_share=np.ones((STEPS + 1, 5)), **calm)
    edges = contagion.links(run, run.scenarios[0])
    assert not [e for e in edges if e.hurt]
    assert {(e.source, e.target) for e in edges if e.kind == contagion.FUNDS} == {("lend_a", "lend_b")}
    text = contagion.summary(run, run.scenarios[0])
    assert text.startswith(
        "Of 660 USD that pools owe each other nothing is lost, receipt tokens keep their cover, no pool needs another's insurance fund"
    )


def test_nodes_say_what_became_of_the_pools(tmp_path):
    run = tied(tmp_path)
    found = {n.pool: (n.state, n.size) for n in contagion.nodes(run.scenarios[0])}
    assert found == {
        "large": (contagion.HURT, 14000),
        "mid": (contagion.INSOLVENT, 6000),
        "chain": (contagion.INSOLVENT, 3000),
        "lend_a": (contagion.FINE, 1400),
        "lend_b": (contagion.INSOLVENT, 130),
    }


def test_picture_draws_every_node_and_edge_once_and_the_table_says_the_same(tmp_path):
    run = tied(tmp_path)
    scenario = run.scenarios[0]
    edges, nodes = contagion.links(run, scenario), contagion.nodes(scenario)
    html = network_picture.picture(nodes, edges, "A caption.")
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert svg.count("<polyline") == len(edges)
    assert len(re.findall(r'class="number"', svg)) == len(edges)
    for e in edges:
        assert html.count(e.text) == 2
    for n in nodes:
        assert f">{n.pool}</text>" in svg
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="9.5"', svg)]
    assert min(math.dist(p, q) for i, p in enumerate(dots) for q in dots[:i]) > 19
    points = [tuple(map(float, p.split(","))) for line in re.findall(r'points="([^"]*)"', svg) for p in line.split()]
    assert all(0 <= x <= 560 and 0 <= y <= 452 for x, y in points)


def test_page_of_a_tied_system_tells_of_every_part(tmp_path):
    folder = save(tmp_path, {"tied": linked()}, {"bad_debt_usd": 10}, configure=configure)
    text = page(folder)
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert not re.search(r"url\(|@import|https?://", text)
    for title in (
        "Losses and who bore them",
        "Where the losses came from",
        "Contagion from pool to pool",
        "Venues&#x27; own prices against the market",
        "Marks and oracles against the price that trades",
        "Funding paid",
        "Utilisation of lenders",
        "Interest on loans",
        "Liquidations that wait for a taker",
        "Redemption value of receipt tokens",
        "Lending reserves",
        "What ties pools and markets",
        "DebtRank is",
    ):
        assert title in text, title
    assert "5 pools (large, mid, chain, lend_a and lend_b) trade and lend 3 assets" in text
    assert "23,000 USD of open interest, 1,530 USD of loans and" in text
    assert "aETH, a claim on lend_a, falls furthest: to 82% of its claim" in text
    assert "Furthest away is the price of BTC at chain: 10% below the common price, after 20 minutes; at the end it is 10% below." in text
    assert "Furthest away is the mark of ETH at lend_a: 5% above" in text
    assert "The highest rate is that of BTC at lend_a: 90% a year, after 20 minutes." in text


def test_a_system_without_ties_and_lenders_has_no_such_sections(tmp_path):
    text = page(save(tmp_path, {"plain": dataset(closed=20.0, debt=5.0)}))
    for title in (
        "Contagion from pool",
        ">Venues<",
        ">Lenders<",
        ">Receipt tokens<",
        "Lending reserves",
        "Where the losses came from",
        "Funding paid</h4",
    ):
        assert title not in text, title
    assert "2 pools (alpha and beta) trade 2 assets" in text
    assert "of loans" not in text


def test_configured_rules_in_words(tmp_path):
    run = tied(tmp_path)
    pools = run.system["pools"]
    assert system_tables.liquidation(pools["lend_a"]) == (
        "50% of the debt at a time, all of it below a health of 0.95; liquidators act when they lose nothing by it"
    )
    auction = {"rule": "full", "auction": {"start": -0.02, "growth_per_minute": 0.01, "most": 0.15}, "required_profit": 0.01}
    assert system_tables.liquidation({"kind": "lending", "liquidation": auction}) == (
        "all debt is repaid; auction: discount from −2%, 1% more each minute, at most 15%; liquidators act when they gain at least 1%"
    )
    assert system_tables.mark(pools["lend_a"]["mark"]) == "own price, pushed after a move of 0.5% or 1 hour"
    assert system_tables.mark(None) == "the price at which it trades"
    assert system_tables.waterfall(pools["chain"]) == "insurance fund, auto-deleveraging, bad debt (deleveraged by profit and leverage, on chain)"
    assert system_tables.waterfall(pools["lend_a"]) == "insurance fund, funds of the group, socialised loss, bad debt; group lenders"
    assert system_tables.requirement(pools["chain"]) == "maintenance tiers; takes aETH (5% haircut) as margin"
    assert system_tables.requirement({"portfolio_margin": {"form": "covariance"}}) == "portfolio margin: standard deviations"
    text = system_tables.reserves(run)
    assert "1% + 4% up to 45% lent, + 300% beyond" in text
    assert "not lent" in text
    assert "mid owes lend_a 400 USD." in system_tables.ties(run)


def test_hostile_names_stay_text_in_the_picture(tmp_path):
    ds = linked().assign_coords(pool=["large", "mid", "chain", "lend_a", HOSTILE])

    def rename(system):
        del system["pools"][HOSTILE]
        configure(system)
        system["pools"] = {(HOSTILE if n == "lend_b" else n): p for n, p in system["pools"].items()}
        for line in system["credit"]:
            line["debtor"] = HOSTILE if line["debtor"] == "lend_b" else line["debtor"]

    text = page(save(tmp_path, {"tied": ds}, configure=rename))
    assert "<script>alert" not in text
    outline = Outline()
    outline.feed(text)
    assert not outline.open


def test_every_chart_of_a_tied_system_is_one_plotly_accepts(tmp_path):
    run = tied(tmp_path)
    text = sections.of_scenario(run, run.scenarios[0], plots.colours(run), iter(range(100)))
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    assert len(blocks) >= 12
    for block in blocks:
        found = json.loads(block)
        figure = go.Figure({key: found[key] for key in ("data", "layout")})
        assert all(len(trace.x) == len(trace.y) > 0 for trace in figure.data)


def test_what_is_not_modelled_is_what_the_documentation_says():
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    title, section = text.rsplit("\n## ", 1)[1].split("\n", 1)
    assert title.startswith("What this does not model")
    sentences = re.split(r"(?<=\.)\s+", " ".join(section.split()))
    assert tuple(sentences) == NOT_MODELLED
