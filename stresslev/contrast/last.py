"""The run before a run: the one of its store that a reader would hold it against."""

import json
from pathlib import Path

from stresslev import results
from stresslev.contrast.differences import compare
from stresslev.contrast.inputs import family
from stresslev.contrast.words import as_data
from stresslev.errors import InputError
from stresslev.store import manifest
from stresslev.store.runs import is_run


def _known(folder: Path) -> tuple[str, str, tuple, str]:
    """When it ran, what, as which of all runs that differ in the seed alone, and on which seed."""
    attributes = results.read_attributes(folder / "result.nc")
    return attributes["created"], json.loads(attributes["configuration"])["name"], family(attributes), str(attributes["seed"])


def last_before(folder: Path) -> Path | None:
    """The latest earlier run of the same plan beside a run that differs from it in more than the seed; None where there is none.

    Another draw of the same book is no news about the system. Where the run that is found has been drawn several times, the one on the seed of this
    run is taken, so that both are on the same book.

    Args: `folder` of the run, in a store or on its way there.
    """
    try:
        created, name, kind, seed = _known(folder)
    except (InputError, KeyError, ValueError):
        return None  # no run, or one of a version that recorded less
    found = []
    for place in sorted(folder.resolve().parent.iterdir()):
        if place.name.startswith(".") or not (place / manifest.FILE).is_file() or not is_run(place):
            continue
        try:
            one = _known(place)
        except (InputError, KeyError, ValueError):
            continue  # whatever else lies there is not our business
        if one[0] < created and one[1] == name and one[2] != kind:
            found.append((place, one))
    if not found:
        return None
    place, latest = max(found, key=lambda pair: pair[1][0])
    return next((p for p, one in found if one[2:] == (latest[2], seed)), place)


def change(folder: Path, baseline: str | Path | None = None) -> dict | None:
    """A run held against a baseline, or else against the run before it in its store, as the report takes it; None where there is neither.

    Raises:
      InputError: as `differences.compare`.
    """
    against = last_before(folder) if baseline is None else baseline
    return None if against is None else as_data(compare(against, folder))
