"""Strict settings for every test: float64 unless a test says otherwise, no silent promotion of rank or type; and how tests are compiled."""

import gc
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import HealthCheck, settings

from stresslev import cache

#: Modules that hold the engine as users have it compiled against oracles, or against itself bit for bit. They run by themselves, where
#: STRESSLEV_TESTS is "production"; all others run without, with most of XLA's optimisations off, which halves the time that compilation takes.
PRODUCTION_MODULES = {"test_batch", "test_cascade_theory", "test_compiled_step", "test_policy_files", "test_twin_in_production"}
PRODUCTION = os.environ.get("STRESSLEV_TESTS") == "production"


def _compile_quickly() -> None:
    """Loops for the processor are made the older way, which is quicker to compile; not where this XLA does not know the flag, which would end it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
    tried = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    if tried.returncode == 0:
        os.environ["XLA_FLAGS"] = flags


# the flags are read when the first program is compiled; workers of pytest-xdist are given the environment of the process that starts them
if not PRODUCTION and "PYTEST_XDIST_WORKER" not in os.environ:
    _compile_quickly()

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", not PRODUCTION)

# derandomized, so the examples are the same in every run: more of them find nothing new
settings.register_profile("tests", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent

#: Property of a test that had to do without real data; it travels with the test's report, so also from the workers of pytest-xdist.
_UNCHECKED = "not checked against real data"


def pytest_collection_modifyitems(config, items):
    """Leave out what is for the other way of compiling."""
    chosen = [x for x in items if (x.path.stem in PRODUCTION_MODULES) == PRODUCTION]
    left = [x for x in items if (x.path.stem in PRODUCTION_MODULES) != PRODUCTION]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory):
    """Compiled programs of this test run, of all its processes and of the command line, go to one folder, and not to the user's.

    Modules that use the same program then compile it once. An entry that another process is just writing is passed over, with a warning.
    """
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(place))
        yield


#: Resident memory of a process of the tests, in bytes, above which compiled programs are forgotten between modules.
_MOST_MEMORY = 4 * 2**30


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are never freed by themselves, and a thousand of them do not fit beside those of another process."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
    # what is alive now stays so: the collector need not go through it again and again
    gc.freeze()


@pytest.fixture
def real_data(request):
    """Folder of real data, or None; the end of the test run names the tests that had to do without."""
    for candidate in (os.environ.get("STRESSLEV_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    request.node.user_properties.append((_UNCHECKED, True))
    return None


def pytest_terminal_summary(terminalreporter):
    """Say what was not checked for want of real data."""
    reports = [r for several in terminalreporter.stats.values() for r in several if (_UNCHECKED, True) in getattr(r, "user_properties", ())]
    for name in sorted({report.nodeid for report in reports}):
        terminalreporter.write_line(f"{_UNCHECKED} (set STRESSLEV_DATA): {name}")
