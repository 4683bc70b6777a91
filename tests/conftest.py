"""Strict settings for every test: float64 unless a test says otherwise, no silent promotion of rank or type."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent


_UNCHECKED: list[str] = []


@pytest.fixture
def real_data(request):
    """Folder of real data, or None; the end of the test run names the tests that had to do without."""
    for candidate in (os.environ.get("STRESSLEV_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    _UNCHECKED.append(request.node.nodeid)
    return None


def pytest_terminal_summary(terminalreporter):
    """Say what was not checked for want of real data."""
    for name in _UNCHECKED:
        terminalreporter.write_line(f"not checked against real data (set STRESSLEV_DATA): {name}")
