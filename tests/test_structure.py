"""Data flows one way, and the parts keep to themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import stresslev

PACKAGE = Path(stresslev.__file__).parent

#: part -> parts of ours it may import; "errors" may be imported by all but the engine
ALLOWED = {
    "engine": {"engine"},
    "config": {"config"},
    "shocks": {"shocks", "config", "tables", "toml", "write"},
    "book": {"book", "assemble", "config", "engine", "tables", "write"},
    "importers": {"importers", "config", "tables", "toml", "write"},
    "report": {"report", "results", "metrics", "quantities", "write"},
    "contrast": {"contrast", "config", "estimate", "identity", "metrics", "report", "results", "store"},
    "editing": {"config", "contrast", "editing", "limits", "metrics", "tuning", "write"},
    "estimate": set(),
    "identity": set(),
    "metrics": {"procyclicality", "quantities"},
    "quantities": {"procyclicality"},
    "procyclicality": set(),
    "results": set(),
    "trajectory": {"assemble", "attribution", "engine", "observe", "quantities"},
    "observe": {"engine"},
    "attribution": {"config", "engine"},
    "preparation": {"assemble", "audit", "batches", "book", "config", "engine", "population", "sharding", "shocks"},
    "simulation": {
        *("attribution", "audit", "batches", "book", "config", "engine", "memory", "observe", "population", "preparation", "sharding", "shocks"),
        *("stepping", "trajectory"),
    },
    "audit": {"engine", "sharding"},
    "batches": {"engine", "sharding"},
    "memory": {"batches", "config", "engine"},
    "sharding": {"assemble", "engine"},
    "stepping": {"engine"},
    "gradient": {"engine", "stepping"},
    "population": {"book", "config", "engine"},
    "limits": {"config", "metrics"},
    "fits": {"fits", "shocks", "toml"},
    "opening": {"assemble", "book", "config", "shocks"},
    "many": {"assemble", "batches", "book", "config", "engine", "memory", "metrics", "opening", "preparation", "provenance", "shocks", "trajectory"},
    "monte_carlo": {"batches", "book", "config", "engine", "intervals", "many", "metrics", "shocks"},
    "intervals": set(),
    "assemble": {"assemble", "config", "engine", "shocks"},
    "tables": set(),
    "write": set(),
    "toml": set(),
    "errors": set(),
    "doctor": set(),
}


def _imports(path: Path) -> set[str]:
    """Our own parts that a module imports, and foreign packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "stresslev":
                found |= {f"stresslev.{a.name}" for a in node.names}
            else:
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def test_imports_follow_the_data_flow():
    seen = set()
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in ALLOWED:
            continue
        seen.add(part)
        for name in _imports(path):
            if name.startswith("stresslev."):
                target = name.split(".")[1]
                if target == "errors" and part != "engine":
                    continue
                assert target in ALLOWED[part], f"{path.relative_to(PACKAGE)} imports {name}"
    assert seen == set(ALLOWED)


def test_the_engine_knows_only_jax():
    for path in (PACKAGE / "engine").rglob("*.py"):
        foreign = {n.split(".")[0] for n in _imports(path)} - {"stresslev", *sys.stdlib_module_names}
        assert foreign <= {"jax"}, f"{path.name}: {foreign}"


def test_no_module_has_outgrown_one_concept():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path.name


def test_the_command_line_starts_without_the_engine():
    """Commands that only read files should not wait for JAX."""
    code = "import sys, stresslev.cli; print(*{'jax', 'xarray', 'pydantic', 'plotly', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
