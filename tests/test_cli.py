"""The command line as a user meets it: outputs, exit codes, and nothing half-written."""

import json
import os
import signal
import subprocess
import sys

import pytest

from stresslev.cli import main

RUN = [sys.executable, "-c", "from stresslev.cli import main; main()"]


def _call(*arguments, code=0):
    """Run in this process; returns nothing, asserts the exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


def _small(out, *more):
    return ("run", "gap_35_half_depth", "--accounts", "2000", "--out", out, *more)


def test_run_writes_three_files_and_says_where(tmp_path, capsys):
    out = tmp_path / "deep" / "result"
    _call(*_small(out))
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.nc", "summary.json"]
    assert [p.name for p in out.parent.iterdir()] == ["result"]
    said = capsys.readouterr()
    assert "report.html" in said.out and "no limits set" in said.out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scenarios"]["gap_35_half_depth"]["metrics"]["liquidated_accounts_share"] > 0
    assert summary["provenance"]["seed"] == 2025


@pytest.mark.parametrize(
    ("limit", "code", "verdict"),
    [
        ("bad_debt_usd.max=1e12", 0, "within limits"),
        ("bad_debt_usd.max=-1", 1, "breached"),
        ("liquidated_accounts_share.min=0.01", 0, "within limits"),
        ("liquidated_accounts_share.min=0.99", 1, "breached"),
    ],
)
def test_limits_decide_the_exit_code(tmp_path, capsys, limit, code, verdict):
    _call(*_small(tmp_path / "r", "--set", f"limits.{limit}"), code=code)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["verdict"] == verdict
    assert verdict in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "limits.bad_dept.max=1"),
        ("--set", "system.assets.BTC.depth_usd=-1"),
        ("--precision", "16"),
        ("--system", "nowhere.toml"),
        ("--seed", "-1"),
        ("--accounts", "1"),
        ("--set", "system.book.file=missing.csv"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(tmp_path, capsys, arguments):
    _call(*_small(tmp_path / "new" / "r", *arguments), code=2)
    assert not list(tmp_path.iterdir())
    assert "error: " in capsys.readouterr().err


def _policies(folder, **bodies):
    """Policy files of these names; returns the options that name them."""
    options = []
    for name, body in bodies.items():
        file = folder / f"{name}.toml"
        file.write_text(f'kind = "policy"\nname = "{name}"\n{body}\n')
        options += ["--policy", file]
    return options


def test_several_policies_are_compared_in_one_report(tmp_path, capsys):
    both = _policies(tmp_path, plain="", strict="maintenance_multiplier = 3")
    out = tmp_path / "r"
    _call(*_small(out, *both, "--set", "limits.liquidated_accounts_share.max=0.99"))
    assert sorted(p.name for p in out.iterdir()) == ["comparison.json", "plain", "report.html", "strict"]
    assert all(sorted(p.name for p in (out / n).iterdir()) == ["report.html", "result.nc", "summary.json"] for n in ("plain", "strict"))
    stored = json.loads((out / "comparison.json").read_text())
    shares = {p["name"]: p["measures"]["liquidated_accounts_share"]["worst"] for p in stored["policies"]}
    assert shares["strict"] > shares["plain"] > 0
    said = capsys.readouterr().out
    assert "strict" in said and "0 of 1" in said
    # a limit that only one of them breaches is a breach; an earlier comparison may be replaced, and its report be written anew
    _call(*_small(out, *both, "--set", f"limits.liquidated_accounts_share.max={(shares['plain'] + shares['strict']) / 2}"), code=1)
    assert "LIMITS BREACHED" in capsys.readouterr().out
    (out / "report.html").unlink()
    _call("report", out)
    assert "Limits breached under strict, kept under plain" in (out / "report.html").read_text()


def test_one_policy_is_run_as_ever(tmp_path):
    out = tmp_path / "r"
    _call(*_small(out, *_policies(tmp_path, strict="maintenance_multiplier = 3")))
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.nc", "summary.json"]


def test_policies_that_cannot_be_compared_exit_2_and_write_nothing(tmp_path, capsys):
    one = _policies(tmp_path, same="")
    _call(*_small(tmp_path / "r", *one, *one), code=2)
    assert "same" in capsys.readouterr().err
    _call(*_small(tmp_path / "r", *one, "--policy", "nowhere.toml"), code=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["same.toml"]


def test_numerical_failure_exits_3_and_writes_nothing(tmp_path, capsys):
    _call(*_small(tmp_path / "r", "--set", "system.assets.BTC.depth_usd=1e-30"), code=3)
    assert not list(tmp_path.iterdir())
    assert "numerical failure" in capsys.readouterr().err


def test_a_result_may_be_replaced_but_nothing_else(tmp_path, capsys):
    out = tmp_path / "r"
    _call(*_small(out))
    _call(*_small(out, "--seed", "9"))
    assert json.loads((out / "summary.json").read_text())["provenance"]["seed"] == 9
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    _call(*_small(other), code=2)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    _call(*_small(other / "thesis.txt"), code=2)
    assert (other / "thesis.txt").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "r"]


def test_a_folder_with_a_foreign_summary_is_left_alone(tmp_path):
    """A file that happens to be called summary.json does not make a folder ours to replace."""
    mine = tmp_path / "mine"
    (mine / "src").mkdir(parents=True)
    (mine / "summary.json").write_text("{}")
    (mine / "src" / "thesis.txt").write_text("precious")
    _call(*_small(mine), code=2)
    assert (mine / "src" / "thesis.txt").read_text() == "precious"


def test_the_working_folder_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _call(*_small("."), code=2)
    assert not list(tmp_path.iterdir())


def test_a_defect_is_no_verdict_and_keeps_the_run(tmp_path, monkeypatch, capsys):
    """An unforeseen error exits 70, never 1, and a failing report does not cost the finished run."""
    from stresslev import report

    monkeypatch.setattr(report, "write", lambda *_: 1 / 0)
    _call(*_small(tmp_path / "r"), code=70)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["result.nc", "summary.json"]
    assert "defect of stresslev" in capsys.readouterr().err


def test_a_book_in_which_nobody_holds_anything(tmp_path):
    (tmp_path / "book.csv").write_text("account,pool,wallet_balance_usd,asset,quantity,entry_price_usd\nidle,mid_venue,100,,,\n")
    _own_system(tmp_path / "system.toml")
    _call("run", "gap_35_half_depth", "--system", tmp_path / "system.toml", "--out", tmp_path / "r")
    _call("doctor", "gap_35_half_depth", "--system", tmp_path / "system.toml")


def test_an_unwritable_place_is_refused_before_the_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    _call(*_small(tmp_path / "file" / "r"), code=2)
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing_behind(tmp_path, how):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    system = ("--system", "systems/three_perp_venues.toml", "--set", "run.attribution=false")
    command = [*RUN, "run", "default", *system, "--accounts", "2000", "--out", str(tmp_path / "r")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith("2020-03-12"):
                break
        process.send_signal(how)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped" in error
    assert not list(tmp_path.iterdir())


def test_rerun_reproduces_the_metrics(tmp_path):
    _call(*_small(tmp_path / "a", "--precision", "64", "--seed", "3", "--set", "scenario.shock_scale=1.1"))
    _call("rerun", tmp_path / "a", "--out", tmp_path / "b")
    a, b = (json.loads((tmp_path / n / "summary.json").read_text())["scenarios"] for n in "ab")
    assert a == b
    _call("rerun", tmp_path / "nothing", "--out", tmp_path / "c", code=2)


def test_rerun_refuses_a_book_that_has_changed(tmp_path, capsys):
    book, system = tmp_path / "book.csv", tmp_path / "system.toml"
    _call("book", "sample", "--prices-of", "gap_35_half_depth", "--accounts", "600", "--out", book)
    _own_system(system)
    _call("run", "gap_35_half_depth", "--system", system, "--out", tmp_path / "a")
    _call("rerun", tmp_path / "a", "--out", tmp_path / "b")
    book.write_text(book.read_text() + "later,mid_venue,5,,,\n")
    _call("rerun", tmp_path / "a", "--out", tmp_path / "c", code=2)
    assert "not the file of the earlier run" in capsys.readouterr().err


def _own_system(path):
    """The shipped system with present marks and a book from a file beside it."""
    from stresslev.config.load import shipped_scenarios

    text = (shipped_scenarios() / "systems" / "three_perp_venues.toml").read_text()
    for asset, price in (("BTC", 100000), ("ETH", 4000), ("SOL", 200), ("SUI", 3.5)):
        text = text.replace(f"[assets.{asset}]\n", f"[assets.{asset}]\nprice_usd = {price}\n")
    path.write_text(text.replace("[book]\n", '[book]\nfile = "book.csv"\n'))


def test_a_sampled_book_and_its_file_give_the_same_run(tmp_path):
    """The same accounts through the sampler and through a CSV file: the same metrics."""
    scenario = "gap_35_half_depth"
    _call("book", "sample", "--prices-of", scenario, "--accounts", "2000", "--out", tmp_path / "book.csv")
    _own_system(tmp_path / "system.toml")
    _call("run", scenario, "--system", tmp_path / "system.toml", "--precision", "64", "--out", tmp_path / "file")
    _call(*_small(tmp_path / "sampled", "--precision", "64"))
    file, sampled = (json.loads((tmp_path / n / "summary.json").read_text())["scenarios"][scenario]["metrics"] for n in ("file", "sampled"))
    for name, value in sampled.items():
        if "residual" not in name:
            assert file[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    _call("run", scenario, "--system", tmp_path / "system.toml", "--accounts", "5", "--out", tmp_path / "x", code=2)


def test_book_check_lists_every_problem(tmp_path, capsys):
    book = tmp_path / "book.csv"
    _call("book", "sample", "--prices-of", "gap_35_half_depth", "--accounts", "600", "--out", book)
    _call("book", "check", book, "--prices-of", "gap_35_half_depth")
    assert "large_venue" in capsys.readouterr().out
    text = book.read_text()
    book.write_text(text.replace("BTC", "BTX", 1) + "z,mid_venue,abc,ETH,1,0\n")
    _call("book", "check", book, "--prices-of", "gap_35_half_depth", code=2)
    said = capsys.readouterr().err
    assert "'BTX'" in said and "wallet_balance_usd" in said and "entry_price_usd" in said
    _call("book", "check", book, code=2)
    assert "price_usd" in capsys.readouterr().err


def test_book_show_prints_liquidation_prices(tmp_path, capsys):
    book = tmp_path / "book.csv"
    book.write_text("account,pool,wallet_balance_usd,asset,quantity,entry_price_usd\nme,mid_venue,900,SUI,1000,3.5\n")
    _call("book", "show", book, "me", "--prices-of", "gap_35_half_depth")
    said = capsys.readouterr().out
    assert "liquidation" in said and "2.6" in said


def test_the_small_commands(tmp_path, capsys):
    _call("list")
    assert "gap_35_half_depth.toml" in capsys.readouterr().out
    _call("--version")
    assert "stresslev 0." in capsys.readouterr().out
    _call("doctor")
    said = capsys.readouterr().out
    assert "jaxlib" in said and "issue 39103" in said and "memory:" in said and "ok float64" in said
    _call("run", "--no-such-option", code=2)
    _call(*_small(tmp_path / "r"))
    (tmp_path / "r" / "report.html").unlink()
    _call("report", tmp_path / "r")
    assert (tmp_path / "r" / "report.html").stat().st_size > 0
    _call("report", tmp_path, code=2)
