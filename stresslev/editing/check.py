"""Checks of files without running them: everything that can be known before the first step."""

from pathlib import Path

from stresslev import limits
from stresslev.config.load import Plan, data_file, load_factors, load_generator, load_plan, load_policy, load_system, read_toml, resolve
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import ScenarioSpec
from stresslev.config.validation import validate
from stresslev.editing.kinds import known
from stresslev.errors import InputError, Problem


def _data_files(plan: Plan) -> None:
    """Refuse a plan whose book or price files are not there. Raises InputError."""
    if plan.system.book.file is not None:
        data_file(plan.system.book.file, plan.base("system"), "book.file")
    for scenario in plan.scenarios:
        _price_files(scenario, plan.base(f"scenario:{scenario.name}"))


def _price_files(scenario: ScenarioSpec, base: Path) -> None:
    for name, path in scenario.paths.items():
        if path.file is not None:
            data_file(path.file, base, f"paths.{name}.file")


def check(file: Path, system: str | None = None) -> str:
    """Check a file with all that it names; what it was held against, in a few words.

    Args: `system` that a scenario or a policy is held against; a scenario that names its own is held against that.

    Raises:
      InputError: everything that is wrong with it.
    """
    path = resolve(file)
    data = read_toml(path)
    kind = known(data.get("kind"), path)
    if kind == "system":
        spec = load_system(path)
        if spec.book.file is not None:
            data_file(spec.book.file, path.parent, "book.file")
    elif kind == "scenario":
        scenario: ScenarioSpec = validate(ScenarioSpec, data, path)
        _price_files(scenario, path.parent)
        if system is None and scenario.system is None:
            return "scenario, by itself (--system holds it against one)"
        load_plan(path, system=system or resolve(scenario.system, path.parent))
    elif kind == "generator":
        spec, _ = load_generator(path)
        if system is None and spec.system is None:
            return "generator, by itself (--system holds it against one)"
        load_plan(path, system=system or resolve(spec.system, path.parent))
    elif kind == "policy":
        if system is None:
            validate(PolicySpec, data, path)
            return "policy, by itself (--system holds it against one)"
        load_policy(path, load_system(system))
    elif kind == "factors":
        load_factors(path)
    elif kind == "suite":
        plan = load_plan(path, system=system)
        limits.check_names(plan.limits, path)
        _data_files(plan)
        return f"suite of {len(plan.scenarios)}, with all files that it names"
    elif kind == "experiment":
        from stresslev.tuning.experiment import load_experiment

        load_experiment(path)
    elif kind == "gate":
        from stresslev.contrast.gate import load_gate

        load_gate(path)
    return kind


def check_all(files: list[Path], system: str | None) -> tuple[list[tuple[Path, str]], list[InputError]]:
    """Every file, whatever is wrong with the others: what is right, and what is not."""
    right, wrong = [], []
    for file in files:
        try:
            right.append((file, check(file, system)))
        except InputError as error:
            wrong.append(error)
        except RecursionError:
            wrong.append(InputError(file, Problem("file", "", "is nested too deeply", "make it flatter")))
    return right, wrong
