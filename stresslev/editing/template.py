"""Files to begin with: each is valid as it is."""

import re
from importlib import resources
from pathlib import Path

from stresslev.editing.kinds import known
from stresslev.errors import InputError, Problem
from stresslev.write import atomically


def text(kind: str, name: str) -> str:
    """The template of a kind with a name in it. Raises InputError for a name that files may not have, or a kind that there is not."""
    known(kind, "command line", "KIND")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        fix = "use letters, digits, dot, dash and underscore, beginning with a letter or digit"
        raise InputError("command line", Problem("NAME", repr(name), "is no name", fix))
    source = resources.files("stresslev.editing") / "templates" / f"{kind}.toml"
    return source.read_text(encoding="utf-8").replace("NAME", name)


def write(kind: str, name: str, out: Path | None = None) -> Path:
    """Write a template to `out`, or to NAME.toml in the working folder. Raises InputError when there is such a file, or it cannot be written."""
    content = text(kind, name)
    path = out or Path(f"{name}.toml")
    if path.exists():
        raise InputError(path, Problem("file", "", "exists already", "choose another name, or another place with --out"))
    with atomically(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path
