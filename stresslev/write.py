"""Outputs appear whole or not at all: written to a temporary name beside the target, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stresslev.errors import InputError, Problem


def _cannot(path: Path, error: OSError) -> InputError:
    fix = "make room there, or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another place"
    return InputError(path, Problem("output", "", f"cannot be written ({error.strerror or error})", fix))


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


def _check_replaceable(path: Path, names: frozenset[str]) -> None:
    """Refuse anything but a new place, an empty folder, or a folder that holds nothing but these files. Raises InputError."""
    if path.exists() and not path.is_dir():
        raise InputError(path, Problem("--out", "", "is a file", "name a folder"))
    if path.is_dir():
        if path.samefile(Path.cwd()) or path.is_symlink() or path.is_mount():
            raise InputError(path, Problem("--out", "", "cannot be replaced as a whole", "name a new folder"))
        foreign = sorted({p.name for p in path.iterdir()} - names)
        if foreign:
            raise InputError(path, Problem("--out", "", f"is a folder with other things in it ({foreign[0]})", "name a new or empty folder"))


@contextmanager
def folder_atomically(path: str | Path, names: frozenset[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well; an older result there is replaced.

    Args:
      path: the folder to make.
      names: the files a result consists of; a folder that holds anything else is never replaced.

    Raises:
      InputError: the place cannot be written, or holds something else. Told before the block is entered.
    """
    path = Path(path)
    try:
        _check_replaceable(path, names)
        made = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise _cannot(path, error) from None
    done = False
    try:
        yield temporary
        _check_replaceable(path, names)
        os.chmod(temporary, 0o755)
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
        if path.exists():
            os.replace(path, old / "result")
        os.replace(temporary, path)
        shutil.rmtree(old)
        done = True
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not done:
            for folder in made:  # nearest first; only what this call made, and only while empty
                with suppress(OSError):
                    folder.rmdir()
