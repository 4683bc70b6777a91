"""Provenance: what a result records about its run, and the plan recovered from it."""

import hashlib
import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np
import xarray as xr

import stresslev
from stresslev import identity, results
from stresslev.config.generator import GeneratorSpec
from stresslev.config.load import Plan, data_file, generated
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import LimitSpec, RunSpec, ScenarioSpec, SystemSpec
from stresslev.config.validation import validate
from stresslev.engine.simulate import RESIDUAL_TOLERANCE
from stresslev.errors import InputError, Problem


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def configuration(plan: Plan) -> dict:
    """The plan as plain data: with the files named in it, enough to run it again."""
    return {
        "name": plan.name,
        "title": plan.title,
        "description": plan.description,
        "system": plan.system.model_dump(mode="json"),
        "scenarios": [s.model_dump(mode="json") for s in plan.given],
        "generators": [g.model_dump(mode="json", exclude_unset=True) for g in plan.generators],
        "policy": plan.policy.model_dump(mode="json"),
        "run": plan.run.model_dump(mode="json"),
        "limits": {k: v.model_dump(mode="json") for k, v in plan.limits.items()},
        "files": plan.files,
    }


def plan_of_result(result: Path) -> Plan:
    """The plan behind an earlier result, from the provenance in it.

    Raises:
      InputError: no result there, or a data file (book, prices) that is gone or has changed since.
    """
    file = result / "result.nc" if result.is_dir() else result
    saved_attributes = results.read_attributes(file)
    saved = json.loads(saved_attributes["configuration"])
    system = validate(SystemSpec, saved["system"], file)
    generators = tuple(validate(GeneratorSpec, g, file) for g in saved.get("generators", ()))
    plan = Plan(
        name=saved["name"],
        title=saved["title"],
        description=saved["description"],
        system=system,
        scenarios=(*(validate(ScenarioSpec, s, file) for s in saved["scenarios"]), *generated(generators, system, saved["files"])),
        policy=validate(PolicySpec, saved["policy"], file),
        run=validate(RunSpec, saved["run"], file),
        limits={k: validate(LimitSpec, v, file) for k, v in saved["limits"].items()},
        files=saved["files"],
        generators=generators,
    )
    now = input_files(plan)
    for path, digest in json.loads(saved_attributes["input_files_sha256"]).items():
        if now.get(path) != digest:
            raise InputError(path, Problem("file", "", "is not the file of the earlier run", "put the original back, or start a new run"))
    return plan


def input_files(plan: Plan) -> dict[str, str]:
    """Digest of every data file the plan reads besides its TOML files (book, price files), by resolved path."""
    paths = []
    if plan.system.book.file is not None:
        paths.append(data_file(plan.system.book.file, plan.base("system"), "book.file"))
    for scenario in plan.given:
        base = plan.base_of(scenario)
        paths += [data_file(p.file, base, "paths.file") for p in scenario.paths.values() if p.file is not None]
    for spec in plan.generators:
        base = plan.base(f"generator:{spec.name}")
        paths += [data_file(a.file, base, "assets.file") for a in spec.assets.values() if a.file is not None]
    return {str(p): _sha256(p) for p in dict.fromkeys(paths)}


def attributes(plan: Plan, wall: float) -> dict[str, str | int | float]:
    """The root attributes of a result: what ran, on what, and everything needed to run it again."""
    device = jax.devices()[0]
    configured, inputs = configuration(plan), input_files(plan)
    return {
        "title": plan.title,
        "stresslev_version": stresslev.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": json.dumps(configured),
        "configuration_hash": identity.configuration_hash(configured, inputs.values()),
        "code_hash": identity.code_hash(configured),
        "input_files_sha256": json.dumps(inputs),
        "command": shlex.join(["stresslev", *sys.argv[1:]]) if Path(sys.argv[0]).name == "stresslev" else "Python API",
        "seed": plan.run.seed,
        "precision": f"float{plan.run.precision}",
        "residual_tolerance": RESIDUAL_TOLERANCE[f"float{plan.run.precision}"],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "xarray": xr.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform}: {device.device_kind}",
        "wall_seconds": round(wall, 2),
    }
