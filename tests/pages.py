"""What a page of the documentation tells its reader to do, in its order."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_BLOCK = re.compile(r"```(\w*)\n(.*?)```", flags=re.S)


@dataclass(frozen=True)
class Step:
    """Something to do, or something that is shown."""

    kind: str  # "run": a command; "save": a file; "show": what the command before it says
    arguments: tuple[str, ...] = ()  # of the command, without its name
    code: int = 0  # exit code that its comment says
    name: str = ""  # of the file
    text: str = ""  # that the file holds, or that is shown

    @property
    def lines(self) -> list[str]:
        """What is shown, by line, each with single blanks."""
        return [" ".join(line.split()) for line in self.text.splitlines()] if self.kind == "show" else []


def steps(page: str):
    """Steps of a page, by its path below docs.

    Commands are the lines of console blocks and the steps of workflows that begin with stresslev. Files are blocks whose first line is a comment
    with their name, and CSV blocks, which the sentence before them names.
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        language, inside = block.groups()
        named = re.match(r"# ([\w.-]+\.(?:toml|py))\n", inside)
        if language == "csv":
            [*_, name] = re.findall(r"`([\w.-]+\.csv)`", text[: block.start()].strip().split("\n\n")[-1])
            yield Step("save", name=name, text=inside)
        elif named:
            yield Step("save", name=named[1], text=inside)
        elif language == "text":
            yield Step("show", text=inside)
        elif language in ("console", "yaml"):
            pattern = r"^(?:[A-Z_]+=\S+ )?(stresslev .*)$" if language == "console" else r"^ *- run: (stresslev .*)$"
            for line in re.findall(pattern, inside, flags=re.M):
                said = re.search(r"# .*exit code (\d+)", line)
                yield Step("run", tuple(shlex.split(line, comments=True)[1:]), int(said[1]) if said else 0)


def saved(step: Step, folder: Path) -> None:
    """Write the file of a step, if it has one."""
    if step.kind == "save":
        (folder / step.name).write_text(step.text, encoding="utf-8")
