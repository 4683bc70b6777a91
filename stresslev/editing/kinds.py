"""The kinds of files there are."""

from pydantic import BaseModel

from stresslev.config.experiment import ExperimentSpec
from stresslev.config.factors import FactorsSpec
from stresslev.config.gate import GateSpec
from stresslev.config.generator import GeneratorSpec
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import ScenarioSpec, SuiteSpec, SystemSpec
from stresslev.errors import InputError, Problem, did_you_mean

#: `kind` of a file -> its specification.
KINDS: dict[str, type[BaseModel]] = {
    "system": SystemSpec,
    "scenario": ScenarioSpec,
    "generator": GeneratorSpec,
    "policy": PolicySpec,
    "factors": FactorsSpec,
    "suite": SuiteSpec,
    "experiment": ExperimentSpec,
    "gate": GateSpec,
}


def known(kind, file, where: str = "kind") -> str:
    """The kind, if it is one. Raises InputError."""
    if kind not in KINDS:
        value = "" if kind is None else repr(kind)
        fix = did_you_mean(str(kind), KINDS) if kind is not None else f"set kind to one of {', '.join(KINDS)}"
        raise InputError(file, Problem(where, value, "is no kind of file" if kind is not None else "is missing", fix))
    return kind
