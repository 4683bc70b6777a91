"""The documentation says what the code does."""

import importlib.util
import re
import shlex

import pytest

from stresslev.cli import app, main
from tests.conftest import ROOT


def test_the_page_on_files_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_files", ROOT / "docs" / "make_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "files.md").read_text(encoding="utf-8") == module.page(), "run: python docs/make_files.py"


def test_every_command_of_the_readme_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {c.name or c.callback.__name__ for c in app.registered_commands} | {"book", "import", "data"}
    used = set(re.findall(r"^stresslev (\w+)", text, flags=re.M))
    assert used and used <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"^make (\w+)", text, flags=re.M)) <= targets


def test_the_python_example_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    seen = {}
    exec(code.replace("50_000", "2_000"), seen)
    assert seen["outcome"].metrics["gap_35_half_depth"]["liquidated_accounts_share"] > 0


#: Pages whose commands are run, in one folder after the other of a row.
PAGES = (("runs.md", "gate.md"), ("editors.md",))


def _commands(page):
    """Commands of a page's console blocks and workflows, each with the exit code that its comment says."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"```(console|yaml)\n(.*?)```", text, flags=re.S):
        pattern = r"^(stresslev .*)$" if language == "console" else r"^ *- run: (stresslev .*)$"
        for line in re.findall(pattern, block, flags=re.M):
            said = re.search(r"# exit code (\d+)", line)
            yield shlex.split(line, comments=True)[1:], int(said[1]) if said else 0


@pytest.mark.parametrize("pages", [pytest.param(PAGES[0], marks=pytest.mark.slow), *PAGES[1:]], ids=lambda p: p[0])
def test_every_command_of_a_page_does_what_it_says(pages, tmp_path, monkeypatch, capsys):
    from stresslev import report

    # runs are quick once their program is compiled; the pictures are not what these pages are about
    monkeypatch.setattr(report, "write", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for page in pages:
        count = 0
        for arguments, code in _commands(page):
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert stop.value.code == code, (arguments, capsys.readouterr())
            count += 1
        assert count > 5
    if "gate.md" in pages:
        said = capsys.readouterr().out
        assert "means over 2 books (seeds 7, 2025)" in " ".join(said.split())
        assert (tmp_path / "gate.xml").is_file() and "against" in (tmp_path / "compare.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/runs.md", "docs/gate.md", "docs/editors.md"])
def test_links_of_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(link).exists(), link
