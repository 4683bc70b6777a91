"""Compiled programs, kept between runs in the user's cache directory."""

import os
import sys
from pathlib import Path

import jax

#: Environment variable that names another folder, or "off".
VARIABLE = "STRESSLEV_CACHE"


def folder() -> Path | None:
    """Where compiled programs are kept; None when the user wants none."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return None if chosen.strip().lower() in ("", "off", "0") else Path(chosen)
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "stresslev" / "jax"


def enable() -> None:
    """Let JAX look there before it compiles. A folder that cannot be used only costs time."""
    place = folder()
    if place is not None and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)
