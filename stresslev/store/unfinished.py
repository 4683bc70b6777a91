"""Runs that are being computed: one process at a time for each, and every finished scenario kept until the run is whole."""

import dataclasses
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xarray as xr

from stresslev import results
from stresslev.errors import InputError, NumericalFailure, Problem
from stresslev.store import manifest as manifests
from stresslev.store.lock import locked
from stresslev.store.manifest import FAILED, FINISHED, UNFINISHED, Manifest
from stresslev.write import atomically

#: Folder inside a store of runs that have not finished.
PLACE = ".unfinished"


def place(store: Path, run: str) -> Path:
    """Where an unfinished run keeps what it has: a manifest, and a file for each finished scenario."""
    return store / PLACE / run


class Work:
    """A run under way: `get` and `put` what `run_plan` keeps."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest, self.began = folder, manifest, time.perf_counter()
        self.earlier = 0.0  # seconds of earlier attempts

    def _file(self, scenario: str) -> Path:
        return self.folder / f"{scenario}.nc"

    @property
    def seconds(self) -> float:
        """Wall time of this attempt and of those before that got somewhere."""
        return self.earlier + time.perf_counter() - self.began

    @property
    def any_kept(self) -> bool:
        """Whether a scenario is there that another attempt could take up."""
        return any(self._file(name).is_file() for name in self.manifest.scenarios)

    def _write(self) -> None:
        provenance = self.manifest.provenance | {"wall_seconds": round(self.seconds, 2)}
        self.manifest = dataclasses.replace(self.manifest, provenance=provenance)
        manifests.write(self.manifest, self.folder)

    def start(self) -> None:
        """Say that the run has begun, and count the time that an earlier attempt took."""
        kept = {name: FINISHED for name in self.manifest.scenarios if self._file(name).is_file()}
        with suppress(InputError, KeyError, TypeError):
            if kept:
                self.earlier = float(manifests.read(self.folder).provenance["wall_seconds"])
        self.manifest = dataclasses.replace(self.manifest, scenarios=self.manifest.scenarios | kept)
        self._write()

    def get(self, name: str) -> xr.Dataset | None:
        """A scenario that an earlier attempt has finished; None where there is none that can be read."""
        if not self._file(name).is_file():
            return None
        try:
            found = results.read_netcdf(self._file(name))[0][name].drop_encoding()
        except (OSError, ValueError, KeyError):
            self.manifest = dataclasses.replace(self.manifest, scenarios=self.manifest.scenarios | {name: UNFINISHED})
            return None
        self.manifest = dataclasses.replace(self.manifest, resumed=(*self.manifest.resumed, name))
        return found

    def put(self, name: str, dataset: xr.Dataset) -> None:
        """Keep a finished scenario. Raises InputError when it cannot be written."""
        with atomically(self._file(name)) as path:
            results.write_netcdf({name: dataset}, {}, path)
        self.manifest = dataclasses.replace(self.manifest, scenarios=self.manifest.scenarios | {name: FINISHED})
        self._write()

    def failed(self, error: Exception) -> None:
        """Say why the run cannot go on."""
        self.manifest = dataclasses.replace(self.manifest, status=FAILED, error=str(error))
        with suppress(InputError):  # the failure is what is to be told
            self._write()


def _swept(store: Path, run: str) -> None:
    """Remove what a killed process may have left of this run's folder."""
    for path in store.glob(f".{run}-*"):
        if re.fullmatch(rf"\.{re.escape(run)}-(old-)?[a-z0-9_]{{8}}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _made(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, nearest first, now made. Raises InputError."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "name another folder with --store"
        raise InputError(folder, Problem("--store", "", f"cannot be written ({error.strerror or error})", fix)) from None
    return missing


@contextmanager
def working(store: Path, manifest: Manifest, *, fresh: bool = False) -> Iterator[Work]:
    """Compute a run of a store: alone, and with what earlier attempts have finished unless it is to be `fresh`.

    When the block ends well, nothing is left here of the run. When it does not, finished scenarios stay, and the reason if the numbers failed; where
    there are none, the store is as it was.

    Raises:
      InputError: the store cannot be written, or somebody else is computing the run.
    """
    folder = place(store, manifest.run)
    made = _made(folder)
    done = False
    try:
        with locked(folder.with_name(f"{manifest.run}.lock"), manifest.run):
            _swept(store, manifest.run)
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            work = Work(folder, manifest)
            try:
                work.start()
                yield work
                done = True
            except NumericalFailure as error:
                work.failed(error)
                raise
            finally:
                if done or (work.manifest.status == UNFINISHED and not work.any_kept):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):
            folder.parent.rmdir()
        if not done:
            for empty in made:  # only what this call made, and only while empty
                with suppress(OSError):
                    empty.rmdir()
