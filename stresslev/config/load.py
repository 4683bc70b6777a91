"""Read TOML files, apply overrides, validate, and resolve the files they name."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ValidationError

from stresslev.config.spec import PolicySpec, RunSpec, ScenarioSpec, SuiteSpec, SystemSpec, TierFile
from stresslev.config.tiers import read_tier_csv
from stresslev.errors import InputError, Problem, did_you_mean, shorten

DEFAULT_SYSTEM = "systems/three_perp_venues.toml"
#: Roots that `--set` and a plan know.
ROOTS = ("system", "policy", "run", "limits", "scenario", "scenarios")


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, validated: what the files and the overrides add up to."""

    name: str
    title: str
    description: str
    system: SystemSpec
    scenarios: tuple[ScenarioSpec, ...]
    policy: PolicySpec
    run: RunSpec
    limits: dict
    files: dict[str, str]  # role -> path, for provenance and for relative paths: "system", "suite", "scenario:<name>"

    def base(self, role: str) -> Path:
        """Folder that paths in the file of this role are relative to."""
        return Path(self.files[role]).parent


def shipped_scenarios() -> Path:
    """The folder of scenarios that comes with the package (in a checkout: beside it)."""
    installed = Path(str(resources.files("stresslev"))) / "scenarios"
    return installed if installed.is_dir() else installed.parent.parent / "scenarios"


def resolve(name: str | Path, base: Path | None = None) -> Path:
    """The file a user means: as given, relative to `base`, or a shipped one (with or without `scenarios/` and `.toml`).

    Raises:
      InputError: nothing of that name, with what there is.
    """
    asked = Path(name)
    shipped = shipped_scenarios()
    inside = Path(*asked.parts[1:]) if asked.parts[:1] == ("scenarios",) and len(asked.parts) > 1 else asked
    candidates = [] if base is None or asked.is_absolute() else [base / asked]
    candidates.append(asked)
    if not asked.is_absolute():
        candidates += [shipped / inside, shipped / f"{inside}.toml", shipped / "systems" / f"{inside}.toml"]
    for path in candidates:
        if path.is_file():
            return path
    known = [str(p.relative_to(shipped)) for p in shipped.rglob("*.toml")]
    hint = did_you_mean(str(inside), known)
    raise InputError(name, Problem("file", "", "does not exist, here or among the shipped scenarios", hint))


def read_toml(path: Path) -> dict:
    """A TOML file as nested dicts.

    Raises:
      InputError: with the line the parser stopped at.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, Problem("file", "", f"cannot be read ({error.strerror})", "check the path and its permissions")) from None
    except UnicodeDecodeError:
        raise InputError(path, Problem("file", "", "is not UTF-8 text", "give a TOML file; books and prices go in through its keys")) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(path, Problem("file", "", f"is not valid TOML: {error}", "correct that line")) from None


def parse_override(text: str) -> tuple[list[str], object]:
    """`dotted.key=value` as a key path and a TOML value; what is no TOML value is taken as a string.

    Raises:
      InputError: no '=', an empty key, or an unknown root.
    """
    key, sign, value = text.partition("=")
    parts = [p.strip() for p in key.split(".")]
    if not sign or not all(parts):
        raise InputError("--set", Problem(text, "", "is not dotted.key=value", "write for example --set system.assets.BTC.depth_usd=1e8"))
    if parts[0] not in ROOTS:
        raise InputError("--set", Problem(key, "", f"begins with {parts[0]!r}", did_you_mean(parts[0], ROOTS)))
    try:
        parsed = tomllib.loads(f"x = {value.strip()}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return parts, parsed


def _apply(data: dict, parts: list[str], value, whole: str) -> None:
    node = data
    for depth, part in enumerate(parts[:-1], start=1):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError("--set", Problem(whole, shorten(value), f"{'.'.join(parts[:depth])} is a value, not a table", "shorten the key"))
    node[parts[-1]] = value


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """Field names at the place a validation error points to."""
    current = model
    for part in location[:-1]:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())] if annotation is not None else [current]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        current = nested[0] if nested else current
    return list(getattr(current, "model_fields", {}))


def _problem(error: dict, model: type[BaseModel]) -> Problem:
    location = tuple(p for p in error["loc"] if not (isinstance(p, str) and p.endswith(("]", "TierTable", "TierFile"))))
    where = ".".join(str(p) for p in location) or "file"
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return Problem(where, "", "is missing", "add it")
    if kind == "extra_forbidden":
        known = _known_keys(model, location)
        return Problem(where, shorten(error["input"]), "is not a key of this table", did_you_mean(str(location[-1]), known))
    value = "" if isinstance(error["input"], dict) else shorten(error["input"])
    if kind == "value_error":
        return Problem(where, value, message, "correct it")
    return Problem(where, value, message[:1].lower() + message[1:], "give " + message.removeprefix("Input should be ").removeprefix("a valid "))


def validate(model: type[BaseModel], data: dict, file) -> BaseModel:
    """Validate a table against its specification.

    Raises:
      InputError: every problem, each with its dotted key, value and fix.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = []
        for e in error.errors():
            problem = _problem(e, model)
            if problem not in found and not ("TierFile" in e["loc"] and isinstance(e["input"], dict) and "floors_usd" in e["input"]):
                found.append(problem)
        # a table that is neither form of a union is reported for the form it resembles
        raise InputError(file, found or [_problem(e, model) for e in error.errors()]) from None


def _expect_kind(data: dict, path: Path, kinds: tuple[str, ...]) -> str:
    kind = data.get("kind")
    if kind not in kinds:
        listed = " or ".join(f'"{k}"' for k in kinds)
        raise InputError(path, Problem("kind", shorten(kind) if kind is not None else "", f"must be {listed}", f"set kind = {listed}"))
    return kind


def _system(data: dict, path: Path) -> SystemSpec:
    tiers = data.get("tiers")
    for name, table in (tiers if isinstance(tiers, dict) else {}).items():
        if isinstance(table, dict) and "file" in table:
            entry = validate(TierFile, table, path)
            read = read_tier_csv(resolve(entry.file, path.parent), [entry.symbol])[entry.symbol]
            data = {**data, "tiers": {**data["tiers"], name: read.model_dump()}}
    return validate(SystemSpec, data, path)


def load_system(path: str | Path, overrides: dict | None = None) -> SystemSpec:
    """A system file, its tier files read in. Raises InputError."""
    found = resolve(path)
    data = read_toml(found)
    _expect_kind(data, found, ("system",))
    for parts, value in (overrides or {}).get("system", ()):
        _apply(data, parts, value, ".".join(parts))
    return _system(data, found)


def load_plan(path: str | Path, *, system: str | Path | None = None, overrides: list[str] = (), **run) -> Plan:
    """What to run: a suite, or one scenario on the default (or the given) system.

    Args:
      path: suite or scenario file, or the name of a shipped one.
      system: system file to use instead of the suite's.
      overrides: `dotted.key=value` strings; roots system, policy, run, limits, scenario (every scenario), scenarios.<name>.
      run: keys of [run] to override (seed, precision, max_rounds) and `accounts`; None leaves the file's.

    Raises:
      InputError: everything that is wrong with the files, by file, key, value and fix.
    """
    by_root: dict[str, list] = {}
    for text in overrides:
        parts, value = parse_override(text)
        by_root.setdefault(parts[0], []).append((parts[1:], value))
        if not parts[1:]:
            raise InputError("--set", Problem(text, "", "names a whole table", "name a key inside it"))
    accounts = run.pop("accounts", None)

    main = resolve(path)
    data = read_toml(main)
    if _expect_kind(data, main, ("suite", "scenario")) == "scenario":
        suite_data = {"kind": "suite", "name": data.get("name", main.stem), "system": DEFAULT_SYSTEM, "scenarios": [str(main.resolve())]}
        suite_data |= {"title": data.get("title", ""), "description": data.get("description", "")}
    else:
        suite_data = data
    for root in ("policy", "run", "limits"):
        for parts, value in by_root.get(root, ()):
            _apply(suite_data, [root, *parts], value, ".".join([root, *parts]))
    for key, value in run.items():
        if value is not None:
            _apply(suite_data, ["run", key], value, f"run.{key}")
    suite: SuiteSpec = validate(SuiteSpec, suite_data, main)

    system_path = resolve(system) if system is not None else resolve(suite.system, main.parent)
    system_data = read_toml(system_path)
    _expect_kind(system_data, system_path, ("system",))
    for parts, value in by_root.get("system", ()):
        _apply(system_data, parts, value, ".".join(["system", *parts]))
    if accounts is not None:
        if (system_data.get("book") or {}).get("file"):
            fix = "leave --accounts out, or remove book.file"
            raise InputError("--accounts", Problem("accounts", str(accounts), "the book comes from a file, it is not sampled", fix))
        _apply(system_data, ["book", "accounts"], accounts, "system.book.accounts")
    system_spec = _system(system_data, system_path)

    scenarios, files = [], {"suite": str(main), "system": str(system_path)}
    known = set()
    for name in suite.scenarios:
        scenario_path = resolve(name, main.parent)
        scenario_data = read_toml(scenario_path)
        _expect_kind(scenario_data, scenario_path, ("scenario",))
        own = scenario_data.get("name")
        known.add(str(own))
        for parts, value in by_root.get("scenario", ()):
            _apply(scenario_data, parts, value, ".".join(["scenario", *parts]))
        for parts, value in by_root.get("scenarios", ()):
            if parts[0] == own and parts[1:]:
                _apply(scenario_data, parts[1:], value, ".".join(["scenarios", *parts]))
        spec = validate(ScenarioSpec, scenario_data, scenario_path)
        for asset in system_spec.assets:
            if asset not in spec.paths:
                fix = f"add [paths.{asset}] (points, a file, or a proxy with a beta)"
                raise InputError(scenario_path, Problem(f"paths.{asset}", "", f"is missing: system {system_spec.name} holds {asset}", fix))
        if f"scenario:{spec.name}" in files:
            raise InputError(main, Problem("scenarios", spec.name, "appears twice", "give every scenario its own name"))
        files[f"scenario:{spec.name}"] = str(scenario_path)
        scenarios.append(spec)
    for parts, _ in by_root.get("scenarios", ()):
        if parts[0] not in known:
            raise InputError("--set", Problem(f"scenarios.{parts[0]}", "", "is no scenario of this run", did_you_mean(parts[0], known)))
    for pool, assets in suite.policy.pools.items():
        if pool not in system_spec.pools:
            raise InputError(main, Problem(f"policy.pools.{pool}", "", "is no pool of the system", did_you_mean(pool, system_spec.pools)))
        for asset in assets:
            if asset not in system_spec.assets:
                raise InputError(
                    main, Problem(f"policy.pools.{pool}.{asset}", "", "is no asset of the system", did_you_mean(asset, system_spec.assets))
                )
    return Plan(
        name=suite.name,
        title=suite.title or suite.name,
        description=suite.description,
        system=system_spec,
        scenarios=tuple(scenarios),
        policy=suite.policy,
        run=suite.run,
        limits=dict(suite.limits),
        files=files,
    )
