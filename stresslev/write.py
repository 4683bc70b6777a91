"""Outputs appear whole or not at all: written to a temporary name beside the target, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stresslev.errors import InputError, Problem


def _cannot(path: Path, error: OSError) -> InputError:
    return InputError(path, Problem("output", "", f"cannot be written ({error.strerror or error})", "choose another place with --out"))


@contextmanager
def atomically(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and is removed when it does not.

    Raises:
      InputError: the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _cannot(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well; an older result there is replaced.

    Only an empty folder or an earlier result (one that holds `summary.json`) is ever replaced.

    Raises:
      InputError: the place cannot be written, or holds something else.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(path, Problem("--out", "", "is a file", "name a folder"))
    if path.is_dir() and any(path.iterdir()) and not (path / "summary.json").is_file():
        raise InputError(path, Problem("--out", "", "is a folder with other things in it", "name a new or empty folder"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            os.replace(path, old / "result")
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
