"""The manifest of a run: what was run, on what, and how far it came."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from stresslev.errors import InputError, Problem
from stresslev.results import write_json
from stresslev.write import atomically

#: Name of the file; what a run in a store consists of is this and the files of a result.
FILE = "manifest.json"

#: Statuses. RUNNING is never written: a manifest that says UNFINISHED, of a run that somebody is computing.
FINISHED, UNFINISHED, FAILED, RUNNING = "finished", "unfinished", "failed", "running"


@dataclass(frozen=True)
class Manifest:
    """What a store knows about a run."""

    run: str  # name of its folder
    status: str
    scenarios: dict[str, str]  # name -> FINISHED or UNFINISHED
    provenance: dict  # as results record it, without the configuration
    verdict: str = ""  # "within limits", "breached", "no limits set"; empty until it has finished
    error: str = ""  # why it failed
    resumed: tuple[str, ...] = field(default=())  # scenarios that an earlier attempt had finished

    @property
    def finished(self) -> int:
        """How many scenarios have finished."""
        return sum(state == FINISHED for state in self.scenarios.values())

    def as_data(self) -> dict:
        """What the file holds."""
        head = {"run": self.run, "status": self.status, "verdict": self.verdict, "error": self.error}
        return head | {"scenarios": self.scenarios, "resumed": list(self.resumed), "provenance": self.provenance}


def write(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into a folder. Raises InputError when it cannot be written."""
    with atomically(folder / FILE) as path:
        write_json(manifest.as_data(), path)


def read(folder: Path) -> Manifest:
    """The manifest in a folder; of a result outside a store, what its summary says.

    Raises:
      InputError: neither is there, or it is not as a run writes it.
    """
    file = folder / FILE
    stored = file.is_file()
    if not stored:
        file = folder / "summary.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if stored:
            known = {key: data[key] for key in ("run", "status", "verdict", "error", "scenarios", "provenance")}
            return Manifest(**known, resumed=tuple(data["resumed"]))
        return Manifest(
            run=folder.name,
            status=FINISHED,
            scenarios=dict.fromkeys(data["scenarios"], FINISHED),
            provenance=dict(data["provenance"]),
            verdict=data["verdict"],
        )
    except FileNotFoundError:
        raise InputError(folder, Problem("run", "", "holds no run", "name a folder that stresslev run has written")) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(file, Problem("file", "", f"is not as a run writes it ({error})", "run again")) from None
