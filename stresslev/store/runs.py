"""The runs of a store: listing them, and finding the one that a user means."""

import dataclasses
from pathlib import Path

from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.results import RESULT_FILES
from stresslev.store import manifest as manifests
from stresslev.store.lock import is_held
from stresslev.store.manifest import FILE, RUNNING, UNFINISHED, Manifest
from stresslev.store.unfinished import PLACE

#: What a run in a store consists of.
RUN_FILES = RESULT_FILES | {FILE}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / "result.nc").is_file() and ((folder / FILE).is_file() or (folder / "summary.json").is_file())


def _names(store: Path) -> list[str]:
    """Finished runs: folders that hold a result, whether a store's run made them or `--out` put them there."""
    return sorted(p.name for p in store.iterdir() if not p.name.startswith(".") and is_run(p)) if store.is_dir() else []


def listed(store: Path) -> tuple[list[Manifest], list[InputError]]:
    """Manifests of all runs of a store, the earliest first, and what is wrong with those that cannot be read.

    Raises:
      InputError: no such folder.
    """
    if not store.is_dir():
        raise InputError(store, Problem("--runs", "", "is no folder", "name a folder that stresslev run --store has written"))
    found, wrong = [], []
    for name in _names(store):
        try:
            found.append(dataclasses.replace(manifests.read(store / name), run=name))
        except InputError as error:
            wrong.append(error)
    unfinished = store / PLACE
    for folder in sorted(unfinished.iterdir()) if unfinished.is_dir() else ():
        if not folder.is_dir():
            continue
        try:
            one = manifests.read(folder)
        except InputError as error:
            wrong.append(error)
            continue
        running = one.status == UNFINISHED and is_held(unfinished / f"{folder.name}.lock")
        found.append(dataclasses.replace(one, status=RUNNING) if running else one)
    return sorted(found, key=lambda m: (str(m.provenance.get("created", "")), m.run)), wrong


def find(run: str | Path) -> Path:
    """The folder of a run: as named, or the only one in that place whose name begins so; `result.nc` stands for its folder.

    Raises:
      InputError: none, or several.
    """
    path = Path(run)
    if path.name in RUN_FILES and path.is_file():
        return path.parent
    if is_run(path):
        return path
    known = _names(path.parent)
    near = [n for n in known if n.startswith(path.name)] if path.name else []
    if len(near) == 1:
        return path.parent / near[0]
    if near:
        raise InputError(path, Problem("run", path.name, f"may be any of {', '.join(near[:6])}", "write more of the name"))
    if (path.parent / PLACE / path.name).is_dir():
        fix = "run it again with the same command: what it has finished is taken up"
        raise InputError(path, Problem("run", path.name, "has not finished", fix))
    fix = did_you_mean(path.name, known) if known else "name a folder that stresslev run has written"
    raise InputError(path, Problem("run", path.name, "is no run", fix))
