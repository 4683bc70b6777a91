"""The documentation says what the code does."""

import importlib.util
import inspect
import json
import re
import shlex
import sys

import pytest

import stresslev
from stresslev.cli import app, main
from tests import pages
from tests.conftest import ROOT

PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def reference():
    """The script that makes pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        sys.modules.pop("make_files", None)


def test_the_pages_that_are_made_are_up_to_date(reference):
    assert reference.stale() == [], "run: python docs/make_reference.py"


def test_every_command_and_option_says_what_it_does(reference):
    commands = reference.commands("stresslev", app)
    assert {"stresslev run", "stresslev book check", "stresslev import aave", "stresslev data fetch"} <= {name for name, _ in commands}
    for name, callback in commands:
        assert callback.__doc__, name
        for parameter, _, info, _ in reference.parameters(callback):
            assert info.help, (name, parameter)


def test_every_public_function_says_what_it_takes_and_returns():
    """Every argument is named in its docstring, and so is what comes back and what is raised."""
    for name in stresslev.__all__:
        thing = getattr(stresslev, name)
        if not inspect.isfunction(thing):
            continue
        words = inspect.getdoc(thing)
        for parameter in inspect.signature(thing).parameters:
            assert re.search(rf"(?m)^  {parameter}: ", words), (name, parameter)
        assert "Returns:" in words and "Raises" in words, name


def test_every_command_that_a_page_shows_exists_with_its_options(reference):
    """Also of pages that are not run, and where commands stand in a sentence."""
    known = dict(reference.commands("stresslev", app))
    shown = 0
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, flags=re.S))
        lines = re.findall(r"(?m)^(?:.*\brun: |srun .*|[A-Z_]+=\S+ )?(stresslev [a-z].*)", blocks)
        for line in lines + re.findall(r"`(stresslev [a-z][^`\n]*)`", text):
            words = shlex.split(line.split(" | ")[0], comments=True)
            found = [n for n in (3, 2) if " ".join(words[:n]) in known]
            if not found:  # a group of commands, or several in one
                assert any(name.startswith(" ".join(words[:2]).split("|")[0]) for name in known), (page, line)
                continue
            named = reference.parameters(known[" ".join(words[: found[0]])])
            options = {n for *_, info, _ in named for given in reference.names(info) for n in given.split("/")}
            assert {w.split("=")[0].split("|")[0] for w in words if w.startswith("--")} <= options | {"--help"}, (page, line)
            shown += 1
    assert shown > 100
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)) <= targets


def test_the_python_example_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    seen = {}
    exec(code.replace("50_000", "2_000"), seen)
    assert seen["outcome"].metrics["gap_35_half_depth"]["liquidated_accounts_share"] > 0


#: Pages whose commands are run, in one folder after the other of a row.
TUTORIAL = ("tutorial.md", "howto/own_scenario.md", "howto/own_book.md", "howto/gpu.md", "policies/own_rule.md")
STORES = ("runs.md", "gate.md")
EDITORS = ("editors.md",)
#: Commands that need results of a run.
OF_RUNS = ("rerun", "show", "report", "compare", "gate")


def _ended(arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


@pytest.mark.parametrize("row", [TUTORIAL, STORES, EDITORS], ids=lambda row: row[0])
def test_what_a_page_says_can_be_typed(row, tmp_path, monkeypatch, capsys):
    """Files are written, checked and loaded as the page says, with all options; runs stop before the first step."""
    from stresslev import cli_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_run, "execute", lambda *a: 0)
    monkeypatch.setattr(cli_run, "stored", lambda *a: 0)
    for page in row:
        done = 0
        for step in pages.steps(page):
            if step.kind == "run" and step.arguments[0] not in OF_RUNS and "--runs" not in step.arguments:
                code = _ended(step.arguments)
                assert code == (0 if step.arguments[0] == "run" else step.code), (step, capsys.readouterr())
                done += 1
            else:
                pages.saved(step, tmp_path)
        assert done > 1


@pytest.mark.slow
@pytest.mark.parametrize("row", [TUTORIAL, STORES], ids=lambda row: row[0])
def test_every_command_of_a_page_does_what_it_says(row, tmp_path, monkeypatch, capsys):
    from stresslev import report

    # runs are quick once their program is compiled; the pictures are not what these pages are about
    monkeypatch.setattr(report, "write", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # rules of one's own lie beside the policy
    monkeypatch.delitem(sys.modules, "brake", raising=False)
    for page in row:
        for step in pages.steps(page):
            if step.kind == "run":
                assert _ended(step.arguments) == step.code, (step, capsys.readouterr())
            else:
                pages.saved(step, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    if row == TUTORIAL:
        measured = json.loads((tmp_path / "results" / "policies" / "comparison.json").read_text())["policies"]
        table = re.findall(r"(?m)^\| `(\w+)` \|((?: [\d.]+ \|){4})$", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
        assert len(table) == 4
        for name, cells in table:
            assert [float(c) for c in cells.split("|")[:4]] == pytest.approx([p["measures"][name]["worst"] for p in measured], rel=1e-3), name
    if row == STORES:
        assert "means over 2 books (seeds 7, 2025)" in said
        assert (tmp_path / "gate.xml").is_file() and "against" in (tmp_path / "compare.md").read_text()


def test_messages_are_those_that_pages_show(tmp_path, monkeypatch, capsys):
    """Text that follows a command is what the command says."""
    monkeypatch.chdir(tmp_path)
    seen, said = 0, ""
    for page in ("tutorial.md", "howto/own_book.md"):
        for step in pages.steps(page):
            pages.saved(step, tmp_path)
            if step.kind == "run" and step.arguments[:2] == ("book", "check"):
                capsys.readouterr()
                _ended(step.arguments)
                said = " ".join("".join(capsys.readouterr()).split())
            for line in step.lines:
                assert line in said, (page, line)
                seen += 1
    assert seen >= 3


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_somewhere(page):
    for link, _, place in re.findall(r"\]\(([^)#:\s]*)(#([^)\s]*))?\)", (ROOT / page).read_text(encoding="utf-8")):
        target = (ROOT / page).parent.joinpath(link) if link else ROOT / page
        assert target.exists(), link
        if place:
            heads = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            assert place in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}, f"{link}#{place}"


def test_the_index_has_every_page():
    """Whatever is written can be found from docs/README.md."""
    seen, ahead = set(), [ROOT / "docs" / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or ROOT / "docs" not in page.parents:
            continue
        seen.add(page)
        ahead += [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#:\s]+)", page.read_text(encoding="utf-8"))]
    assert seen == set((ROOT / "docs").rglob("*.md"))
