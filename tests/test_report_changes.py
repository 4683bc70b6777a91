"""The change against the last run: which run that is, and what the report says of it; many limits on one page; colours for the colour-blind."""

import dataclasses
import json
import re
from html import unescape
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stresslev import cli, cli_run, run
from stresslev.contrast.differences import held
from stresslev.contrast.inputs import Result
from stresslev.contrast.last import change, last_before
from stresslev.contrast.words import as_data
from stresslev.errors import InputError
from stresslev.report import changes, loss_charts, network_picture, plots, tables
from stresslev.report.inputs import read
from stresslev.store import manifest
from tests.comparisons import outcome
from tests.test_report import HOSTILE, dataset, save

DEBT = "bad_debt_over_open_interest"


def _run(folder, name, *, debt, seed=1, multiplier=1.0, hour=10, stored=True, bound=0.05):
    """A run of one plan in a store: what it found, on which seed, and what was configured."""
    made = outcome("fixed", {"crash": dataset(steps=4, closed=400.0, debt=debt, draw=100.0, title="A crash")}, {DEBT: bound})
    configured = json.loads(made.attributes["configuration"])
    configured["policy"]["maintenance_multiplier"] = multiplier
    configured["run"]["seed"] = seed
    more = {"seed": seed, "configuration": json.dumps(configured), "created": f"2026-11-23T{hour}:00:00+00:00"}
    made = dataclasses.replace(made, attributes=made.attributes | more)
    (folder / name).mkdir(parents=True)
    run.save(made, folder / name)
    if stored:
        (folder / name / manifest.FILE).write_text("{}")
    return folder / name


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three policies one after the other, two of them on two seeds: less and less bad debt."""
    folder = tmp_path_factory.mktemp("store")
    _run(folder, "oldest", debt=200.0, multiplier=1.0, hour=10)
    _run(folder, "old-1", debt=160.0, multiplier=1.5, hour=11)
    _run(folder, "old-2", debt=170.0, multiplier=1.5, hour=12, seed=2)
    _run(folder, "new-1", debt=60.0, multiplier=2.0, hour=13)
    _run(folder, "new-2", debt=71.0, multiplier=2.0, hour=14, seed=2)
    _run(folder, "elsewhere", debt=1.0, multiplier=9.0, hour=12, stored=False)
    (folder / "notes").mkdir()
    return folder


@pytest.mark.parametrize(("name", "before"), [("oldest", None), ("old-1", "oldest"), ("old-2", "oldest"), ("new-1", "old-1"), ("new-2", "old-2")])
def test_the_last_run_is_another_system_on_the_same_book(store, name, before):
    """Never another draw of the same, nor a later run, nor what lies there without being of the store."""
    found = last_before(store / name)
    assert (found and found.name) == before


def _text(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def test_the_first_page_says_what_changed_and_how_sure_it_is(store):
    found = change(store / "new-1")
    assert changes.headline(found).startswith(
        "Against the last run, “old-1” of 23 November 2026, 11:00 UTC: no limit newly breached; 1 limit no longer breached"
    )
    told = _text(changes.summary(read(store / "new-1"), found))
    assert "Limit: Bad debt over open interest A crash ✕ breached at most 5% ✓ kept at most 5% ✓ no longer breached" in told
    # over both seeds: means of 160 and 170, and of 60 and 71, over 2000 of open interest
    row = re.search(r"Bad debt over open interest A crash (\S+) (\S+) (\S+ pp) (\S+) pp to (\S+) pp ✓ better", told)
    assert row.group(1, 2, 3) == ("8.25%", "3.275%", "−4.975 pp")
    # Student's t over two paired differences, -99 and -100 of 2000 in percent
    reach = 12.706 * np.std([-99 / 20, -100 / 20], ddof=1) / np.sqrt(2)
    low, high = (float(x.replace("−", "-")) for x in row.group(4, 5))
    assert (low, high) == pytest.approx((-4.975 - reach, -4.975 + reach), rel=1e-3)
    assert "Configured differently: policy.maintenance_multiplier from 1.5 to 2.0." in told
    assert "means over 2 books (seeds 1, 2)" in told


@pytest.mark.slow
def test_one_book_is_said_to_tell_nothing_of_noise(store):
    told = _text(changes.summary(read(store / "old-1"), change(store / "old-1")))
    assert "With one book there is no estimate of how differences vary from book to book" in told
    assert "✓ better" in told and " pp to " not in told


def _found(debt: float, name: str = "before") -> Result:
    """A run in memory, as a comparison takes it."""
    attributes = {"created": "2026-11-23T10:00:00+00:00", "stresslev_version": "1"}
    return Result(Path(name), name, {"crash": {DEBT: debt}}, (), attributes, {}, {}, {}, {})


def _change(pairs: list[tuple[Result, Result]]) -> dict:
    return as_data(held(*pairs[0], tuple(range(len(pairs))) if len(pairs) > 1 else (), pairs, 0.95))


NAMED = SimpleNamespace(scenarios=(SimpleNamespace(name="crash", title="A crash"),), samples={})


def test_noise_is_not_called_a_change():
    """Two books that disagree about which way it went."""
    found = _change([(_found(0.080), _found(0.085)), (_found(0.085), _found(0.079))])
    assert "of 1 figure 0 are worse and 0 better; 1 differ within noise." in changes.headline(found)
    assert "<table" not in changes.summary(NAMED, found)
    assert "○ within noise" in changes.appendix(NAMED, found)


def test_a_run_that_changes_nothing_says_so():
    found = _change([(_found(0.08), _found(0.08))])
    assert "all of 1 figure are the same, bit for bit." in changes.headline(found)
    assert "Nothing is configured differently." in changes.summary(NAMED, found)


def test_the_command_takes_a_baseline_or_the_last_run_of_the_store(store, tmp_path, capsys):
    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in arguments])
        assert stop.value.code == code
        return capsys.readouterr().err

    target = store / "new-1" / "report.html"
    call("report", store / "new-1")
    assert "Against the last run, “old-1” of" in target.read_text()
    call("report", store / "new-1", "--baseline", store / "oldest")
    text = target.read_text()
    assert "Against the last run, “oldest” of" in text and text.index("Against the last run") < text.index("Contents<") < text.index('id="changes"')
    assert "is no run" in call("report", store / "new-1", "--baseline", tmp_path / "nothing", code=2)
    assert target.read_text() == text
    call("report", store / "oldest")
    assert "Against the last run" not in (store / "oldest" / "report.html").read_text()
    nothing = ("run", "gap_35_half_depth", "--out", tmp_path / "r", "--baseline")
    assert "has none of the scenarios gap_35_half_depth" in call(*nothing, store / "oldest", code=2)
    assert "several policies" in call(*nothing, store / "oldest", "--policy", "fixed", "--policy", "volatility", code=2)
    assert not list(tmp_path.iterdir())


def test_a_comparison_has_no_baseline(store, tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match="not for a comparison"):
        cli_run.write_report(tmp_path, store / "oldest")
    assert not (tmp_path / "report.html").exists()


def test_hostile_names_of_the_last_run_are_escaped():
    found = _change([(_found(0.08, HOSTILE.replace("/", "")), _found(0.09))])
    hostile = SimpleNamespace(scenarios=(SimpleNamespace(name="crash", title=HOSTILE),), samples={})
    for html in (changes.summary(hostile, found), changes.appendix(hostile, found)):
        assert "<script" not in html and html.count("&lt;script&gt;") >= 2


def test_many_scenarios_and_few_limits_have_a_row_for_each_scenario(tmp_path):
    one = read(save(tmp_path, {"s0": dataset(steps=4)}, {"bad_debt_usd": 45}))
    [scenario], [check] = one.scenarios, one.checks
    many = [dataclasses.replace(scenario, name=f"s{i}", title=f"Scenario {i}") for i in range(7)]
    judged = [dataclasses.replace(check, scenario=f"s{i}", value=10.0 * i, breached=10.0 * i > 45) for i in range(7)]
    table = tables.verdict(dataclasses.replace(one, scenarios=tuple(many), checks=tuple(judged)))
    assert re.findall(r'href="#scenario-(s\d)"', table) == ["s5", "s6", "s0", "s1", "s2", "s3", "s4"] and table.count("✕ breached") == 2
    few = tables.verdict(dataclasses.replace(one, scenarios=tuple(many[:5]), checks=tuple(judged[:5])))
    assert few.count("<tr") == 2 and re.findall(r'href="#scenario-(s\d)"', few) == ["s0", "s1", "s2", "s3", "s4"]


#: Linear RGB as people without one kind of cone see it, at full severity (Machado, Oliveira and Fernandes 2009).
_BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _lab(colour: str, sight) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen (D65)."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(sight @ np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("who", [*_BLIND, "all"])
@pytest.mark.parametrize(
    "colours",
    [plots.PALETTE, tuple(loss_charts._LAYER_COLOURS.values()), tuple(fill for fill, _ in network_picture._STATES.values())],
    ids=["palette", "layers", "states"],
)
def test_colours_are_told_apart_by_everybody(colours, who):
    """At least 15 apart (CIE 1976), six times what is just seen; what lies side by side has words or marks besides."""
    sight = np.array(_BLIND.get(who, np.eye(3)))
    gaps = {pair: np.linalg.norm(_lab(pair[0], sight) - _lab(pair[1], sight)) for pair in combinations(colours, 2)}
    assert min(gaps.values()) >= 15, min(gaps, key=gaps.get)
