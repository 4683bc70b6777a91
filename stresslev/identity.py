"""What makes two runs the same: digests of what was configured, of the data files read, and of the code that computed."""

import copy
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import stresslev


def _digest(value) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def configuration_hash(configuration: Mapping, inputs: Iterable[str], *, with_seed: bool = True) -> str:
    """Digest of a configuration as results record it: 32 hexadecimal digits, the same on every machine.

    Args:
      configuration: `provenance.configuration`; where its files lie does not count.
      inputs: digests of the data files it names (book, prices, in the order in which they are read).
      with_seed: False leaves the seed of the sampled book out, so that runs on other draws of the book have the same digest.
    """
    known = copy.deepcopy({key: value for key, value in configuration.items() if key != "files"})
    if not with_seed:
        known["run"].pop("seed", None)
    return _digest([known, list(inputs)])


@cache
def _package() -> str:
    root, found = Path(stresslev.__file__).parent, hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _own(rule: str) -> str:
    """Digest of the module of a rule of the user's own; empty where it cannot be found, which the run itself will say."""
    try:
        spec = importlib.util.find_spec(rule.partition(":")[0])
        return "" if spec is None or spec.origin is None else hashlib.blake2b(Path(spec.origin).read_bytes(), digest_size=16).hexdigest()
    except (ImportError, OSError, ValueError):
        return ""


def code_hash(configuration: Mapping) -> str:
    """Digest of stresslev's own source, and of the modules of the user's own rules that a policy names (what those import does not count)."""
    rules = [rule["rule"] for rule in configuration["policy"].get("rules", ()) if "rule" in rule]
    return _digest([_package(), [_own(rule) for rule in rules]])


def run_name(name: str, configuration: str, *more) -> str:
    """Name of a run in a store: that of the suite, and ten digits of what decides its numbers.

    Args: `configuration`, its hash; `more` that must be the same: code, versions, devices.
    """
    return f"{name}-{_digest([configuration, *map(str, more)])[:10]}"
