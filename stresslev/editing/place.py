"""Where in a file a problem is: file, line and, of syntax, column."""

import os
import re

from stresslev.config.positions import locate
from stresslev.errors import Problem, shorten


def _exact(text: str, where: str) -> int | None:
    found = locate(text, where)
    return found[0] if found is not None and found[1] is not None else None


def place(file: str, problem: Problem) -> str:
    """`file`, or `file:line` where the problem is one of a TOML file that can be found in it."""
    if not file.endswith(".toml") or not os.path.isfile(file):
        return file
    stopped = re.search(r"\(at line (\d+), column (\d+)\)", problem.what)
    if problem.where == "file" and stopped is not None:
        return f"{file}:{stopped[1]}:{stopped[2]}"
    try:
        with open(file, encoding="utf-8") as handle:
            text = handle.read()
    except (OSError, ValueError):
        return file
    # a table's error often begins with the key that is wrong in it
    first = problem.what.split(maxsplit=1)[0].rstrip(":,") if problem.what else ""
    inner = first if problem.where == "file" else f"{problem.where}.{first}"
    line = _exact(text, inner) if first else None
    if line is None:
        found = locate(text, problem.where)
        if found is None:
            return file
        line, value = found
        if problem.value and (value is None or (not isinstance(value, dict | list) and problem.value not in (shorten(value), str(value)))):
            return file  # what is wrong came from an option, not from the file
    return f"{file}:{line}"
