"""Accounts over many devices and processes: the same numbers as on one, and a lost process ends the run in words."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev import load_plan, processes, run_plan
from stresslev.assemble import links
from stresslev.cli import main
from stresslev.engine import owners
from stresslev.engine.types import Owners
from stresslev.errors import InputError
from stresslev.sharding import Sharding, _deal_links
from tests.conftest import ROOT

#: Quick to compile; the programs are small.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
SCENARIO, SYSTEM = "gap_35_half_depth", str(ROOT / "experiments/bench/systems/isolated_one_market.toml")
ARGUMENTS = ["run", SCENARIO, "--system", SYSTEM, "--accounts", "400", "--precision", "64", "--no-attribution", "--set", "run.measures=true"]


def _environment(cache: Path) -> dict:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | QUICK | {"STRESSLEV_CACHE": str(cache), "PYTHONPATH": path, "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


def test_eight_devices_give_what_one_gives(cache):
    """Two runs on four devices each: every field of the record and of every account, in float64, with queues, auto-deleveraging, socialised loss,
    owners and loans at work; and what accounts do under tightened caps."""
    child = subprocess.run([sys.executable, "-m", "tests.sharded"], cwd=ROOT, env=_environment(cache), capture_output=True, text=True, timeout=500)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    happened: dict[str, float] = {}
    for case, (apart, what) in found.items():
        assert max(apart.values()) < 1e-9, (case, {name: value for name, value in apart.items() if value >= 1e-9})
        happened = {name: max(value, happened.get(name, 0.0)) for name, value in (happened | what).items()}
    # what is summed over devices took place
    assert min(happened.values()) > 0, happened


@pytest.fixture(scope="module")
def two(cache, tmp_path_factory):
    """A run on two processes that meet over loopback."""
    out = tmp_path_factory.mktemp("two") / "result"
    command = [sys.executable, "-m", "stresslev", *ARGUMENTS, "--processes", "2", "--out", str(out)]
    child = subprocess.run(command, env=_environment(cache), capture_output=True, text=True, timeout=500)
    return child, out


def test_two_processes_give_what_one_gives(two):
    child, out = two
    assert child.returncode == 0, child.stderr
    plan = load_plan(SCENARIO, system=SYSTEM, accounts=400, precision=64, attribution=False)
    expected = run_plan(plan)
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))["scenarios"][SCENARIO]["metrics"]
    for name, value in expected.metrics[SCENARIO].items():
        if value == value and "residual" not in name:
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert max(found["conservation_residual"], found["total_residual"]) < 1e-9
    assert "LIMITS" not in child.stdout and "Gloo" not in child.stdout, "something else wrote to the output stream"
    assert {p.name for p in out.iterdir()} == {"result.nc", "summary.json", "report.html"}


def _children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(p) for p in listed.read_text(encoding="ascii").split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
@pytest.mark.usefixtures("two")  # its programs are in the cache
def test_a_killed_process_ends_the_run_in_words(cache, tmp_path):
    out = tmp_path / "parent" / "result"
    command = [sys.executable, "-m", "stresslev", *ARGUMENTS, "--processes", "2", "--out", str(out)]
    with subprocess.Popen(command, env=_environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        said = []
        for line in run.stderr:
            said.append(line)
            if line.startswith(f"{SCENARIO}: 0/"):
                break
        workers = _children(run.pid)
        assert len(workers) == 2, said
        os.kill(max(workers), signal.SIGKILL)
        began = time.monotonic()
        out_text, rest = run.communicate(timeout=60)
        assert time.monotonic() - began < 30
    said = "".join(said) + rest
    assert run.returncode == processes.LOST
    assert "of 2 was killed by signal 9" in said and "nothing was written" in said, said
    assert "Traceback" not in said and out_text == ""
    assert not any(tmp_path.iterdir()), "something was left behind"
    assert not any(Path(f"/proc/{w}").exists() for w in workers)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"STRESSLEV_COORDINATOR": "somewhere"}, "HOST:PORT"),
        ({"STRESSLEV_COORDINATOR": "host:1"}, "STRESSLEV_PROCESS"),
        ({"STRESSLEV_COORDINATOR": "host:1", "STRESSLEV_PROCESS": "2", "STRESSLEV_PROCESSES": "2"}, "STRESSLEV_PROCESS"),
        ({"STRESSLEV_COORDINATOR": "host:1", "STRESSLEV_PROCESS": "first", "STRESSLEV_PROCESSES": "2"}, "not a number"),
    ],
)
def test_a_launcher_that_says_too_little_is_told(monkeypatch, variables, named):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=named):
        processes.place()


def test_a_launchers_processes_are_not_started_again(monkeypatch, tmp_path, capsys):
    for name, value in {"STRESSLEV_COORDINATOR": "host:1", "STRESSLEV_PROCESS": "1", "STRESSLEV_PROCESSES": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(["run", SCENARIO, "--processes", "2", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "--processes" in capsys.readouterr().err


def test_more_devices_than_there_are_is_bad_input(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    with pytest.raises(InputError, match="--devices"):
        processes.meet(None, 64)


def test_one_device_has_no_mesh():
    assert Sharding.over(jax.devices()[:1]).mesh is None


def _random_links(rng, devices: int):
    """Links of 7 owners with accounts in two populations of (blocks, size)."""
    shapes = ((10, 4), (3, 8))
    slot = tuple(rng.choice(b * n, 12, replace=False).astype(np.int32) for b, n in shapes)
    who = tuple(rng.integers(0, 7, 12).astype(np.int32) for _ in shapes)
    return shapes, Owners(slot=slot, owner=who, links=links.table(who, 7), top_up=np.array(1.0), keep=np.array(1.0))


def test_links_are_summed_by_owner_and_dealt_out_with_the_accounts():
    """Against a loop: by owner, the sum of one number per link; and over devices the sum of their parts, each link where its account is."""
    rng = np.random.default_rng(7)
    for devices in (1, 3, 8):
        shapes, all_of_them = _random_links(rng, devices)
        values = [rng.normal(size=b * n) for b, n in shapes]
        expected = np.zeros(7)
        for v, slot, who in zip(values, all_of_them.slot, all_of_them.owner, strict=True):
            for s, o in zip(slot, who, strict=True):
                expected[o] += v[s]
        per_link = tuple(jnp.array(v[s]) for v, s in zip(values, all_of_them.slot, strict=True))
        np.testing.assert_allclose(owners.by_owner(all_of_them, per_link), expected, rtol=1e-14)
        slots, _, table = _deal_links(all_of_them, shapes, devices)
        total = np.zeros(7)
        for d in range(devices):
            here = []
            for v, (blocks, size), slot in zip(values, shapes, slots, strict=True):
                padded = np.zeros((-(-blocks // devices) * devices, size))
                padded[:blocks] = v.reshape(blocks, size)
                own = padded[d::devices].reshape(-1)
                mine = slot.reshape(devices, -1)[d]
                here.append(jnp.array([own[s] if s < len(own) else np.nan for s in mine]))
            part = Owners(slot=(), owner=(), links=table.reshape(devices, 7, -1)[d], top_up=1.0, keep=1.0)
            total += np.asarray(owners.by_owner(part, tuple(here)))
        np.testing.assert_allclose(total, expected, rtol=1e-14)
