"""The store of runs: what is kept of each, and that nothing is lost or half-written whatever happens to a run."""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from stresslev import cli, results
from stresslev.cli import main
from stresslev.config.load import load_plan
from stresslev.contrast.inputs import read
from stresslev.contrast.reproduction import reproduction
from stresslev.editing import template
from stresslev.errors import InputError, NumericalFailure
from stresslev.run import run_plan
from stresslev.store import manifest
from stresslev.store.lock import is_held, locked
from stresslev.store.runs import find, listed

#: On the system and the scenario of the templates, as in the pages that test_docs runs, and in chunks of 60 steps: all go through one program.
SUITE = """
kind = "suite"
name = "mine"
title = "Two falls"
system = "system.toml"
scenarios = ["first.toml", "second.toml"]

[run]
precision = 64

[limits.bad_debt_usd]
max = 1e12
"""
#: Options of a single scenario.
SMALL = ("--accounts", "2000", "--precision", "64")


def _call(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


#: Runs a command, and kills itself the hard way in the middle of the second scenario.
KILLED = """
import os, signal, sys
from stresslev import simulation
from stresslev.cli import main
advance = simulation._advance
def killed(ready, name, rounds, progress, *more, **others):
    def told(stage, done, total):
        if stage == "second" and done > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        progress(stage, done, total)
    return advance(ready, name, rounds, told, *more, **others)
simulation._advance = killed
main(sys.argv[1:])
"""


@dataclass
class Place:
    """A folder with the files of the suite, and a store `runs` in it with a run that was killed in its second scenario and then taken up."""

    folder: Path
    killed: manifest.Manifest  # as it stood when the process was gone
    left: list[str]  # files that could be read then
    begun: list[str]  # stages of the second attempt
    told: str  # by the second attempt
    shown: str  # of the killed run, by `show`

    @property
    def store(self):
        return self.folder / "runs"

    @property
    def run(self):
        return self.store / self.killed.run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    (folder / "suite.toml").write_text(SUITE)
    template.write("system", "small", folder / "system.toml")
    for name, minutes in (("first", 60), ("second", 120)):
        (folder / f"{name}.toml").write_text(template.text("scenario", name).replace("duration_minutes = 240", f"duration_minutes = {minutes}"))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", KILLED, *map(str, _run(folder))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store, left, begun = folder / "runs", [], []
    for file in sorted(p for p in store.rglob("*") if p.is_file() and p.suffix != ".lock"):
        results.read_netcdf(file) if file.suffix == ".nc" else json.loads(file.read_text())
        left.append(file.name)
    [killed] = listed(store)[0]
    shown = _said("show", store / killed.run)
    with pytest.raises(InputError, match="has not finished"):
        find(store / killed.run)

    def watched(plan, progress, *more):
        return run_plan(plan, lambda stage, *counts: begun.append(stage), *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stresslev.cli_run.run_plan", watched)
        told = _said(*_run(folder))
    return Place(folder, killed, left, begun, told, shown)


def _said(*arguments, code=0):
    """Run in this process; what it printed on both streams."""
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        for name in ("out_console", "error_console"):
            patch.setattr(cli, name, Console(file=said, width=160))
        _call(*arguments, code=code)
    return said.getvalue()


def _run(folder, store="runs", *more):
    return ("run", folder / "suite.toml", "--accounts", "2000", "--store", folder / store, *more)


def test_a_manifest_says_what_was_run_on_what_and_how_it_ended(place, capsys):
    [one], _ = listed(place.store)
    folder = place.run
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "report.html", "result.nc", "summary.json"]
    assert one.status == "finished" and one.verdict == "within limits" and set(one.scenarios.values()) == {"finished"}
    known = one.provenance
    assert {"stresslev_version", "jax", "numpy", "python", "device", "created", "configuration_hash", "code_hash"} <= set(known)
    assert known["wall_seconds"] > 0 and known["precision"] == "float64" and one.run.startswith("mine-")
    assert one.resumed == ("first",)
    _call("list", "--runs", place.store)
    assert one.run in capsys.readouterr().out
    _call("list", "--runs", place.store, "--json")
    assert json.loads(capsys.readouterr().out)[0]["provenance"]["seed"] == 2025
    _call("show", place.store / one.run[:8])
    said = capsys.readouterr().out
    assert known["configuration_hash"] in said and "within limits" in said and "Accounts liquidated" in said


def test_what_the_store_has_is_not_computed_again(place, capsys, monkeypatch):
    monkeypatch.setattr("stresslev.cli_run.run_plan", lambda *_: pytest.fail("computed again"))
    _call(*_run(place.folder))
    assert "was in the store already" in capsys.readouterr().err


def test_the_name_depends_on_what_decides_the_numbers_and_on_nothing_else(place, tmp_path):
    from stresslev import provenance

    def hashed(folder, **how):
        return provenance.attributes(load_plan(folder / "suite.toml", **how), 0.0)["configuration_hash"]

    for file in place.folder.glob("*.toml"):
        (tmp_path / file.name).write_text(file.read_text())
    assert hashed(place.folder) == hashed(tmp_path)
    assert len({hashed(tmp_path, **how) for how in ({}, {"seed": 5}, {"precision": 32}, {"overrides": ["scenario.shock_scale=1.01"]})}) == 4


def test_a_killed_suite_is_taken_up_where_it_was_and_gives_the_same_bits(place):
    assert place.killed.status == "unfinished" and place.killed.scenarios == {"first": "finished", "second": "unfinished"}
    assert place.left == ["first.nc", "manifest.json"] and "unfinished, 1 of 2" in place.shown
    assert "second" in place.begun and "first" not in place.begun
    assert "taken up from an earlier attempt: first" in place.told
    assert [p.name for p in place.store.iterdir()] == [place.killed.run]  # nor is anything hidden left
    uninterrupted = run_plan(load_plan(place.folder / "suite.toml", accounts=2000))
    resumed, _ = results.read_netcdf(place.run / "result.nc")
    for name, dataset in uninterrupted.datasets.items():
        for variable in dataset.data_vars:
            assert (dataset[variable].values == resumed[name][variable].values).all(), (name, variable)
    assert read(place.run).metrics == uninterrupted.metrics


@contextlib.contextmanager
def _full_disk(size):
    """The kernel refuses to make any file longer than this many bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_ends_in_words_and_half_writes_nothing(place, tmp_path, capsys):
    one = place.folder / "first.toml"
    small = ("--system", place.folder / "system.toml", *SMALL)
    with _full_disk(20_000):
        _call("run", one, *small, "--out", tmp_path / "r", code=2)
        assert "cannot be written (File too large)" in capsys.readouterr().err
        _call("run", one, *small, "--store", tmp_path / "runs", code=2)
        said = capsys.readouterr().err
    assert "cannot be written (File too large)" in said and "defect" not in said
    assert not list(tmp_path.iterdir())
    # room for the results, and not for the picture
    with _full_disk(1_000_000):
        _call("run", one, *small, "--out", tmp_path / "r", code=2)
    said = capsys.readouterr()
    assert f"stresslev report {tmp_path / 'r'}" in said.err and "report:" not in said.out
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["result.nc", "summary.json"]


def test_a_place_that_cannot_be_written_is_told_before_the_run(place, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("stresslev.cli_run.run_plan", lambda *_: pytest.fail("computed"))
    closed = Path("/proc/runs") if os.geteuid() == 0 else tmp_path / "closed" / "runs"
    if os.geteuid() != 0:
        closed.parent.mkdir(mode=0o555)
    _call(*_run(place.folder)[:-1], closed, code=2)
    assert "cannot be written" in capsys.readouterr().err


def test_bad_input_leaves_no_store_behind(place, tmp_path, capsys):
    _call(*_run(place.folder)[:-1], tmp_path / "deep" / "runs", "--set", "limits.bad_dept.max=1", code=2)
    _call(*_run(place.folder)[:-1], tmp_path / "deep" / "runs", "--out", tmp_path / "r", code=2)
    assert "--out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_failed_run_says_why_in_the_list(place, tmp_path, capsys, monkeypatch):
    def failing(*_):
        raise NumericalFailure("first: a price is infinite or not a number")

    monkeypatch.setattr("stresslev.cli_run.run_plan", failing)
    _call(*_run(place.folder)[:-1], tmp_path / "runs", code=3)
    [one] = listed(tmp_path / "runs")[0]
    assert one.status == "failed" and "infinite or not a number" in one.error
    capsys.readouterr()
    _call("list", "--runs", tmp_path / "runs")
    assert "failed, 0 of 2" in capsys.readouterr().out


def test_two_processes_do_not_compute_one_run(tmp_path):
    file = tmp_path / "run.lock"
    with locked(file, "run"):
        assert is_held(file)
        with pytest.raises(InputError, match="is being computed by another process"), locked(file, "run"):
            pass
    assert not is_held(file) and not file.exists()


def test_numbers_that_cannot_be_had_again_are_told(place):
    """That they can, on the same machine, is what `rerun --exact` of the page on runs shows in test_docs."""
    now = read(place.run)
    assert reproduction(now, now) == (True, ["reproduced: all metrics and variables of 2 scenarios are the same, bit for bit"])
    later = replace(now, data={"first": now.data["first"].assign(price_usd=now.data["first"].price_usd + 1e-9), "second": now.data["second"]})
    same, told = reproduction(now, later)
    assert not same and told[0] == "not reproduced: 0 metrics and 1 variable differ"
    worse = {"first": now.metrics["first"] | {"liquidated_accounts_share": 0.5}, "second": now.metrics["second"]}
    same, told = reproduction(now, replace(now, metrics=worse, attributes=now.attributes | {"jax": "0.0"}))
    assert not same and "Accounts liquidated in first" in told[1] and "0.0 now" in told[2]


def test_a_run_is_found_by_the_beginning_of_its_name(tmp_path):
    for name in ("default-0123456789", "default-0aaaaaaaaa", "other-0000000000"):
        (tmp_path / name).mkdir()
        for file in ("result.nc", "summary.json"):
            (tmp_path / name / file).write_text("{}")
    assert find(tmp_path / "oth").name == "other-0000000000" and find(tmp_path / "default-01").name == "default-0123456789"
    assert find(tmp_path / "other-0000000000" / "result.nc").name == "other-0000000000"
    with pytest.raises(InputError, match="may be any of default-0123456789, default-0aaaaaaaaa"):
        find(tmp_path / "default-0")
    with pytest.raises(InputError, match="is no run"):
        find(tmp_path / "nothing")
    with pytest.raises(InputError, match="is no folder"):
        listed(tmp_path / "nothing")
    (tmp_path / "default-0123456789" / manifest.FILE).write_text("{")
    found, wrong = listed(tmp_path)
    assert not found and len(wrong) == 3  # none of these is as a run writes it
