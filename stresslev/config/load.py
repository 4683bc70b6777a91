"""Read TOML files, apply overrides, validate, and resolve the files they name."""

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from stresslev.config.behaviour import BehaviourSpec
from stresslev.config.factors import FactorsSpec
from stresslev.config.generator import GeneratedScenarioSpec, GeneratorSpec, numbered, template
from stresslev.config.policy import PolicySpec
from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.config.spec import RunSpec, ScenarioSpec, SuiteSpec, SystemSpec, TierFile
from stresslev.config.tiers import TierTable, read_tiers
from stresslev.config.validation import validate
from stresslev.errors import InputError, Problem, did_you_mean, nearest_file, shorten

DEFAULT_SYSTEM = "systems/three_perp_venues.toml"
#: Roots that `--set` and a plan know.
ROOTS = ("system", "policy", "run", "limits", "scenario", "scenarios", "generator")


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
    files: dict[str, str]  # role -> absolute path, for provenance and for relative paths: "system", "suite", "scenario:<name>", "generator:<name>"
    generators: tuple[GeneratorSpec, ...] = ()  # whose paths are among the scenarios

    def base(self, role: str) -> Path:
        """Folder that paths in the file of this role are relative to."""
        return Path(self.files[role]).parent

    def base_of(self, scenario: ScenarioSpec) -> Path:
        """Folder that price files of a scenario are relative to."""
        generated = isinstance(scenario, GeneratedScenarioSpec)
        return self.base(f"generator:{scenario.generator.name}" if generated else f"scenario:{scenario.name}")

    @property
    def given(self) -> tuple[ScenarioSpec, ...]:
        """The scenarios that are not generated."""
        return tuple(s for s in self.scenarios if not isinstance(s, GeneratedScenarioSpec))


def shipped_scenarios() -> Path:
    """The folder of scenarios that comes with the package (in a checkout: beside it)."""
    installed = Path(str(resources.files("stresslev"))) / "scenarios"
    return installed if installed.is_dir() else installed.parent.parent / "scenarios"


def resolve(name: str | Path, base: Path | None = None, key: tuple[str | Path, str] | None = None) -> Path:
    """The TOML file a user means, as an absolute path.

    A name on the command line (`base` None) is relative to the working directory, a name inside a file to that file's folder; what is not there is
    looked up among the shipped scenarios, with or without `scenarios/` and `.toml`. `key` is the file and the key that name it, if any do.

    Raises:
      InputError: nothing of that name, with what there is.
    """
    asked = Path(name)
    shipped = shipped_scenarios()
    inside = Path(*asked.parts[1:]) if asked.parts[:1] == ("scenarios",) and len(asked.parts) > 1 else asked
    candidates = [asked if base is None else base / asked]
    if not asked.is_absolute():
        candidates += [
            shipped / inside,
            shipped / f"{inside}.toml",
            *(shipped / kind / f"{inside}.toml" for kind in ("systems", "policies", "factors")),
        ]
    for path in candidates:
        if os.path.isfile(path):
            return path.resolve()
    what = "is a folder" if os.path.isdir(candidates[0]) else "does not exist, here or among the shipped scenarios"
    beside = [p.name for p in candidates[0].parent.glob("*.toml")]
    fix = nearest_file(str(inside), [*beside, *(str(p.relative_to(shipped)) for p in shipped.rglob("*.toml"))])
    if key is not None:
        raise InputError(key[0], Problem(key[1], shorten(str(name)), what, fix))
    raise InputError(name, Problem("file", "", what, fix))


def data_file(name: str | Path, base: Path, key: str) -> Path:
    """A book, price or tier file named in a TOML file, relative to that file's folder. Raises InputError when it is not there."""
    path = base / name
    if not os.path.isfile(path):
        raise InputError(path, Problem(key, shorten(str(name)), "is no file", f"put it there; the path is relative to {base}"))
    return path.resolve()


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
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and integers of thousands of digits
        raise InputError(path, Problem("file", "", f"is not valid TOML: {error}", "correct that line")) from None


def parse_override(text: str, roots: Iterable[str] = ROOTS, example: str = "system.assets.BTC.depth_usd=1e8") -> tuple[list[str], object]:
    """`dotted.key=value` as a key path and a TOML value; what is no TOML value is taken as a string.

    Args: `roots`, what a key may begin with; `example` for the message.

    Raises:
      InputError: no '=', an empty key, or an unknown root.
    """
    key, sign, value = text.partition("=")
    # parts may be quoted as in TOML, for names with dots: scenarios."fall.1".shock_scale
    parts = [p.strip().strip('"') for p in re.findall(r'"[^"]*"|[^."]+', key)]
    if not sign or not parts or not all(parts):
        raise InputError("--set", Problem(text, "", "is not dotted.key=value", f"write for example --set {example}"))
    if parts[0] not in roots:
        raise InputError("--set", Problem(key, "", f"begins with {parts[0]!r}", did_you_mean(parts[0], roots)))
    try:
        parsed = tomllib.loads(f"x = {value.strip()}")["x"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    return parts, parsed


def apply_override(data: dict, parts: list[str], value, whole: str) -> None:
    """Put a value into nested tables. Raises InputError where a value stands in the way of a table."""
    node = data
    for depth, part in enumerate(parts[:-1], start=1):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError("--set", Problem(whole, shorten(value), f"{'.'.join(parts[:depth])} is a value, not a table", "shorten the key"))
    node[parts[-1]] = value


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
            source = data_file(entry.file, path.parent, f"tiers.{name}.file")
            read = read_tiers(source, [entry.symbol], price_usd=entry.price_usd)[entry.symbol]
            data = {**data, "tiers": {**data["tiers"], name: read.model_dump()}}
        else:
            validate(TierTable, table, path, f"tiers.{name}")
    return validate(SystemSpec, data, path)


def _read_kind(path: str | Path, kind: str) -> tuple[Path, dict]:
    """A file that must be of a kind: where it is, and its table."""
    found = resolve(path)
    data = read_toml(found)
    _expect_kind(data, found, (kind,))
    return found, data


def load_system(path: str | Path) -> SystemSpec:
    """A system file, its tier files read in.

    Args:
      path: the file, or the name of a shipped one.

    Returns: the specification, with the keys of the file.

    Raises:
      InputError: everything that is wrong with it, by file, key, value and fix.
    """
    found, data = _read_kind(path, "system")
    return _system(data, found)


def load_factors(path: str | Path) -> FactorsSpec:
    """A file of risk factors.

    Args:
      path: the file, or the name of a shipped one.

    Returns: the specification, with the keys of the file.

    Raises:
      InputError: everything that is wrong with it, by file, key, value and fix.
    """
    found, data = _read_kind(path, "factors")
    return validate(FactorsSpec, data, found)


def load_generator(path: str | Path, *, overrides: list[str] = ()) -> tuple[GeneratorSpec, Path]:
    """A generator by itself, and its file. Args: `overrides` as of `load_plan`, of root generator. Raises InputError."""
    found, data = _read_kind(path, "generator")
    for text in overrides:
        parts, value = parse_override(text, ("generator",), "generator.seed=7")
        if len(parts) < 2:
            raise InputError("--set", Problem(text, "", "names a whole table", "name a key inside it"))
        apply_override(data, parts[1:], value, ".".join(parts))
    return validate(GeneratorSpec, data, found), found


def _check_scenario(scenario: ScenarioSpec, system: SystemSpec, file: Path) -> None:
    """Refuse a scenario that leaves an asset without a path, or names a pool or asset that the system does not have. Raises InputError."""
    problems = []
    for name, asset in system.assets.items():
        other = asset.follows.asset if asset.follows is not None else None
        given = name in scenario.paths or asset.receipt is not None or asset.peg_usd is not None
        if not given and (other is None or (other not in scenario.paths and system.assets[other].peg_usd is None)):
            drawn = isinstance(scenario, GeneratedScenarioSpec)
            fix = f"add [paths.{name}] (points, a file, or a proxy with a beta)"
            fix = f"add [assets.{name}] (parameters) or [proxies.{name}] (a beta), or choose another --system" if drawn else fix
            key = "assets" if drawn else "paths"
            problems.append(Problem(f"{key}.{name}", "", f"is missing: system {system.name} holds {name}", fix))
    for key in ("dislocations", "premiums"):
        for pool, curves in getattr(scenario, key).items():
            if pool not in system.pools:
                problems.append(Problem(f"{key}.{pool}", "", "is no pool of the system", did_you_mean(pool, system.pools)))
            for asset in curves:
                if asset not in system.assets:
                    problems.append(Problem(f"{key}.{pool}.{asset}", "", "is no asset of the system", did_you_mean(asset, system.assets)))
    for key in ("outages", "stuck_marks"):
        for number, span in enumerate(getattr(scenario, key)):
            if span.pool not in system.pools:
                problems.append(Problem(f"{key}.{number}.pool", span.pool, "is no pool of the system", did_you_mean(span.pool, system.pools)))
    for number, held in enumerate(scenario.stuck_marks):
        for asset in held.assets or ():
            if asset not in system.assets:
                problems.append(Problem(f"stuck_marks.{number}.assets", asset, "is no asset of the system", did_you_mean(asset, system.assets)))
    if scenario.behaviour is not None:
        problems += _behaviour_problems(scenario.behaviour, system)
    if problems:
        raise InputError(file, problems)


def _behaviour_problems(behaviour: BehaviourSpec, system: SystemSpec) -> list[Problem]:
    """Traders belong to venues and trade linear contracts there; runs are on lenders."""
    problems = []
    for key, entries, kind, words in (("traders", behaviour.traders, PerpSpec, "a venue"), ("runs", behaviour.runs, LendingSpec, "a lender")):
        for number, entry in enumerate(entries):
            where = f"behaviour.{key}.{number}"
            pool = system.pools.get(entry.pool)
            if pool is None:
                problems.append(Problem(f"{where}.pool", entry.pool, "is no pool of the system", did_you_mean(entry.pool, system.pools)))
                continue
            if not isinstance(pool, kind):
                problems.append(Problem(f"{where}.pool", entry.pool, f"is not {words}", f"name {words}"))
                continue
            traded = pool.tiers if kind is PerpSpec and pool.portfolio_margin is None else system.assets
            for asset in (entry.capital_usd if key == "traders" else entry.assets) or ():
                if asset not in system.assets:
                    problems.append(Problem(f"{where}.{asset}", "", "is no asset of the system", did_you_mean(asset, system.assets)))
                elif asset not in traded or (kind is PerpSpec and asset in pool.inverse):
                    problems.append(Problem(f"{where}.{asset}", "", f"is no linear contract of {entry.pool}", "leave it out"))
    return problems


def generated(specs: Iterable[GeneratorSpec], system: SystemSpec, files: dict[str, str]) -> list[GeneratedScenarioSpec]:
    """The paths of generators as scenarios, drawn as the model says: without importance, whose weights a scenario has no place for.

    Args: `files` of the plan, by role. Raises InputError for an asset or pool that does not fit the system.
    """
    found = []
    for spec in specs:
        base = template(spec.model_copy(update={"importance": None}))
        _check_scenario(base, system, files[f"generator:{spec.name}"])
        found += [numbered(base, k) for k in range(1, spec.paths + 1)]
    return found


def _policy_data(policy: str | Path | None, suite_data: dict, main: Path) -> tuple[dict, Path]:
    """The policy's table and the file it stands in: its own file, or the suite."""
    if policy is None:
        return dict(suite_data.pop("policy", {})), main
    file = resolve(policy)
    data = read_toml(file)
    _expect_kind(data, file, ("policy",))
    suite_data.pop("policy", None)
    return data, file


def check_policy(policy: PolicySpec, system: SystemSpec, file: Path, prefix: str) -> None:
    """Refuse names that the system does not have."""
    named = {"pools": policy.pools, "transitions": dict.fromkeys(policy.transitions, ())}
    if policy.caps is not None:
        named["caps.pools"] = policy.caps.pools
    for i, rule in enumerate(policy.rules):
        named[f"rules.{i}.in_pools"] = dict.fromkeys(rule.in_pools or (), ())
    for key, pools in named.items():
        for pool, assets in pools.items():
            if pool not in system.pools:
                raise InputError(file, Problem(f"{prefix}{key}.{pool}", "", "is no pool of the system", did_you_mean(pool, system.pools)))
            for asset in assets:
                if asset not in system.assets:
                    fix = did_you_mean(asset, system.assets)
                    raise InputError(file, Problem(f"{prefix}{key}.{pool}.{asset}", "", "is no asset of the system", fix))


def load_policy(path: str | Path, system: SystemSpec) -> PolicySpec:
    """A policy file for a system. Raises InputError."""
    file = resolve(path)
    data = read_toml(file)
    _expect_kind(data, file, ("policy",))
    policy = validate(PolicySpec, data, file)
    check_policy(policy, system, file, "")
    return policy


def load_plan(path: str | Path, *, system: str | Path | None = None, policy: str | Path | None = None, overrides: list[str] = (), **run) -> Plan:
    """What to run: a suite, or one scenario or generator on the default (or the given) system.

    Args:
      path: suite, scenario or generator file, or the name of a shipped one.
      system: system file to use instead of the suite's.
      policy: policy file to use instead of the suite's [policy].
      overrides: `dotted.key=value` strings; roots system, policy, run, limits, scenario (every scenario), scenarios.NAME,
        generator (every generator).
      run: keys of [run] to override (seed, precision, max_rounds, stepping, population, attribution) and `accounts`; None leaves the file's.

    Returns: the plan; nothing has been sampled or computed.

    Raises:
      InputError: everything that is wrong with the files, by file, key, value and fix.
    """
    by_root: dict[str, list] = {}
    for text in overrides:
        parts, value = parse_override(text)
        by_root.setdefault(parts[0], []).append((parts[1:], value))
        if len(parts) < (3 if parts[0] == "scenarios" else 2):
            raise InputError("--set", Problem(text, "", "names a whole table", "name a key inside it"))
    accounts = run.pop("accounts", None)

    main = resolve(path)
    data = read_toml(main)
    if _expect_kind(data, main, ("suite", "scenario", "generator")) != "suite":
        suite_data = {
            "kind": "suite",
            "name": data.get("name", main.stem),
            "system": data.get("system", DEFAULT_SYSTEM),
            "scenarios": [str(main.resolve())],
        }
        suite_data |= {"title": data.get("title", ""), "description": data.get("description", "")}
    else:
        suite_data = data
    policy_data, policy_path = _policy_data(policy, suite_data, main)
    for parts, value in by_root.get("policy", ()):
        apply_override(policy_data, parts, value, ".".join(["policy", *parts]))
    for root in ("run", "limits"):
        for parts, value in by_root.get(root, ()):
            apply_override(suite_data, [root, *parts], value, ".".join([root, *parts]))
    for key, value in run.items():
        if value is not None:
            apply_override(suite_data, ["run", key], value, f"run.{key}")
    if policy is None:
        suite_data["policy"] = policy_data
    suite: SuiteSpec = validate(SuiteSpec, suite_data, main)

    system_path = resolve(system) if system is not None else resolve(suite.system, main.parent, (main, "system"))
    system_data = read_toml(system_path)
    _expect_kind(system_data, system_path, ("system",))
    for parts, value in by_root.get("system", ()):
        apply_override(system_data, parts, value, ".".join(["system", *parts]))
    if accounts is not None:
        book = system_data.get("book")
        if isinstance(book, dict) and book.get("file"):
            fix = "leave --accounts out, or remove book.file"
            raise InputError("--accounts", Problem("accounts", str(accounts), "the book comes from a file, it is not sampled", fix))
        apply_override(system_data, ["book", "accounts"], accounts, "system.book.accounts")
    system_spec = _system(system_data, system_path)

    scenarios, generators, files = [], [], {"suite": str(main), "system": str(system_path)}
    known = set()
    for number, name in enumerate(suite.scenarios):
        scenario_path = resolve(name, main.parent, (main, f"scenarios.{number}"))
        scenario_data = read_toml(scenario_path)
        if _expect_kind(scenario_data, scenario_path, ("scenario", "generator")) == "generator":
            for parts, value in by_root.get("generator", ()):
                apply_override(scenario_data, parts, value, ".".join(["generator", *parts]))
            generators.append(validate(GeneratorSpec, scenario_data, scenario_path))
            if f"generator:{generators[-1].name}" in files:
                raise InputError(main, Problem("scenarios", generators[-1].name, "appears twice", "give every generator its own name"))
            files[f"generator:{generators[-1].name}"] = str(scenario_path)
            continue
        own = scenario_data.get("name")
        known.add(str(own))
        for parts, value in by_root.get("scenario", ()):
            apply_override(scenario_data, parts, value, ".".join(["scenario", *parts]))
        for parts, value in by_root.get("scenarios", ()):
            if parts[0] == own and parts[1:]:
                apply_override(scenario_data, parts[1:], value, ".".join(["scenarios", *parts]))
        spec = validate(ScenarioSpec, scenario_data, scenario_path)
        _check_scenario(spec, system_spec, scenario_path)
        if f"scenario:{spec.name}" in files:
            raise InputError(main, Problem("scenarios", spec.name, "appears twice", "give every scenario its own name"))
        files[f"scenario:{spec.name}"] = str(scenario_path)
        scenarios.append(spec)
    for parts, _ in by_root.get("scenarios", ()):
        if parts[0] not in known:
            raise InputError("--set", Problem(f"scenarios.{parts[0]}", "", "is no scenario of this run", did_you_mean(parts[0], known)))
    for root, there, other in (("generator", generators, "scenario"), ("scenario", scenarios, "generator")):
        if by_root.get(root) and not there:
            raise InputError("--set", Problem(root, "", f"there is no {root} in this run", f"remove it, or override a key of {other}"))
    own_file = policy is not None
    policy_spec = validate(PolicySpec, policy_data, policy_path) if own_file else suite.policy
    check_policy(policy_spec, system_spec, policy_path, "" if own_file else "policy.")
    if own_file:
        files["policy"] = str(policy_path)
    return Plan(
        name=suite.name,
        title=suite.title or suite.name,
        description=suite.description,
        system=system_spec,
        scenarios=(*scenarios, *generated(generators, system_spec, files)),
        policy=policy_spec,
        run=suite.run,
        limits=dict(suite.limits),
        files=files,
        generators=tuple(generators),
    )
