"""The documentation says what the code does."""

import importlib.util
import re

from stresslev.cli import app
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


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
