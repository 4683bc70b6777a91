"""One process at a time: a lock that ends with whoever holds it, however that one ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stresslev.errors import InputError, Problem

try:
    import fcntl
except ImportError:  # Windows: nobody is kept out
    fcntl = None


def _try(file: Path) -> int | None:
    """Descriptor of the locked file; None when somebody else has it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        os.close(handle)  # whoever had it before has removed the file meanwhile


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which is removed afterwards. Args: `what` is locked, for the message.

    Raises:
      InputError: another process holds it, or the file cannot be made.
    """
    try:
        handle = _try(file)
    except OSError as error:
        raise InputError(file, Problem("lock", "", f"cannot be made ({error.strerror or error})", "choose another place")) from None
    if handle is None:
        raise InputError(file.parent, Problem("run", what, "is being computed by another process", "wait for that one to end"))
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps what is open
            file.unlink(missing_ok=True)
        os.close(handle)


def is_held(file: Path) -> bool:
    """Whether some process holds a lock file."""
    if fcntl is None or not file.is_file():
        return False
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
