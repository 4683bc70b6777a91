"""Parameters of a policy that may be tuned: where they stand in its file, between which bounds, and how the engine's arrays follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from pydantic import ValidationError

from stresslev import assemble
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import SystemSpec
from stresslev.engine.floats import split
from stresslev.engine.funding import FundingRules
from stresslev.engine.types import Policy
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.toml import tables, toml_text

#: Of the way between the bounds of a parameter: by how much it is moved to see how the engine's arrays follow.
_NUDGE = 1e-6


@dataclass(frozen=True)
class Parameter:
    """A number of a policy file. Tuning moves `free`, any number, and `value` stays between the bounds."""

    path: str  # dotted: "caps.base", "rules.volatility.gamma" (a rule by its kind, or by its number from 0)
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    def value(self, free: float | np.ndarray) -> float | np.ndarray:
        """Between the bounds, by a logistic function of `free`; of the logarithm where the scale is one."""
        share = 1 / (1 + np.exp(-np.asarray(free, float)))
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def free(self, value: float) -> float:
        """Inverse of `value`; a value on a bound is taken to stand a thousandth inside."""
        low, high, at = np.log([self.low, self.high, value]) if self.scale == "log" else (self.low, self.high, value)
        share = float(np.clip((at - low) / (high - low), 1e-3, 1 - 1e-3))
        return float(np.log(share / (1 - share)))

    def slope(self, free: float | np.ndarray) -> float | np.ndarray:
        """Derivative of `value`."""
        share = 1 / (1 + np.exp(-np.asarray(free, float)))
        by_share = self.value(free) * np.log(self.high / self.low) if self.scale == "log" else self.high - self.low
        return by_share * share * (1 - share)


def _step(node, part: str, path: str, file: str):
    """One level down a dumped policy: the key or index that `part` stands for. Raises InputError."""
    if isinstance(node, list):
        kinds = [str(x.get("kind", "")) if isinstance(x, dict) else "" for x in node]
        if part.isdigit() and int(part) < len(node):
            return int(part)
        if kinds.count(part) == 1:
            return kinds.index(part)
        known = [k for k in kinds if k and kinds.count(k) == 1] + [str(i) for i in range(len(node))]
        raise InputError(file, Problem(path, "", f"has no rule {part!r}", did_you_mean(part, known)))
    if isinstance(node, dict) and part in node:
        return part
    raise InputError(file, Problem(path, "", f"the policy has no {part!r} there", did_you_mean(part, list(node) if isinstance(node, dict) else [])))


def _find(dumped: dict, path: str, file: str) -> tuple[dict | list, str | int]:
    """Where a parameter stands in a dumped policy. Raises InputError."""
    *way, last = path.split(".")
    node = dumped
    for part in way:
        node = node[_step(node, part, path, file)]
    return node, _step(node, last, path, file)


def value_at(policy: PolicySpec, path: str, file: str = "policy") -> float:
    """The number that stands at a path.

    Raises:
      InputError: nothing stands there, or no number.
    """
    node, key = _find(policy.model_dump(mode="json"), path, file)
    value = node[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "is not given in the policy" if value is None else "is no number"
        raise InputError(file, Problem(path, repr(value), what, "name a parameter that the policy gives as a number"))
    return float(value)


def with_values(policy: PolicySpec, values: Mapping[str, float], file: str = "policy") -> PolicySpec:
    """The policy with other numbers at some paths.

    Raises:
      InputError: nothing stands there, or the policy does not allow such a number.
    """
    dumped = policy.model_dump(mode="json")
    for path, value in values.items():
        node, key = _find(dumped, path, file)
        node[key] = float(value)
    try:
        return type(policy).model_validate(dumped)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(x) for x in first["loc"]) or ", ".join(values)
        raise InputError(file, Problem(where, repr(first.get("input")), first["msg"], "choose bounds that the policy allows")) from None


def check(parameters: Sequence[Parameter], policy: PolicySpec, file: str) -> None:
    """Refuse parameters that are not there, or whose bounds the policy does not allow. Raises InputError."""
    problems = []
    for p in parameters:
        now = value_at(policy, p.path, file)
        if not p.low < p.high:
            problems.append(Problem(f"parameters.{p.path}", f"[{p.low:g}, {p.high:g}]", "low is not below high", "give low < high"))
        elif p.scale == "log" and p.low <= 0:
            problems.append(Problem(f"parameters.{p.path}.low", f"{p.low:g}", "is not above 0 on a log scale", "raise it, or use scale = 'linear'"))
        elif not p.low <= now <= p.high:
            problems.append(Problem(f"parameters.{p.path}", f"{now:g}", "of the policy is outside the bounds", "widen them, or change the policy"))
    if problems:
        raise InputError(file, problems)
    for p in parameters:
        for bound in (p.low, p.high):
            with_values(policy, {p.path: bound}, file)


@dataclass(frozen=True)
class Assembled:
    """The engine's policy, and how its arrays follow from the parameters."""

    policy: Policy
    slopes: tuple[tuple[np.ndarray, ...], ...]  # by parameter: derivative of each floating leaf with respect to its value

    def gradient(self, of_leaves: Sequence[np.ndarray]) -> np.ndarray:
        """(P,) derivative with respect to the parameters' values, from that with respect to the floating leaves."""
        flat = [np.asarray(x, np.float64) for x in of_leaves]
        return np.array([sum(float(np.sum(s * g)) for s, g in zip(slope, flat, strict=True)) for slope in self.slopes])


def assembled(
    policy: PolicySpec, parameters: Sequence[Parameter], system: SystemSpec, grid, funding: FundingRules | None, file: str = "policy"
) -> Assembled:
    """The engine's arrays of a policy and their derivatives, by central differences of the assembly itself in float64.

    The arrays are smooth functions of the numbers (a half-life becomes a decay per step), so the differences are good to about nine digits.

    Raises:
      InputError: a parameter that changes which mechanisms there are or only whole numbers of steps, so that nothing can be differentiated.
    """

    def leaves(values: Mapping[str, float]) -> tuple[list[np.ndarray], object]:
        made = assemble.policy_arrays(with_values(policy, values, file) if values else policy, system, grid, funding)
        return [np.asarray(x, np.float64) for x in split(made)[0]], jax.tree.structure(made)

    structure = leaves({})[1]
    slopes = []
    for p in parameters:
        at, by = value_at(policy, p.path, file), _NUDGE * (p.high - p.low)
        up, down = min(at + by, p.high), max(at - by, p.low)
        (above, one), (below, other) = leaves({p.path: up}), leaves({p.path: down})
        if one != structure or other != structure:
            raise InputError(file, Problem(p.path, "", "changes which rules there are", "tune a number that only changes how strong they are"))
        with np.errstate(invalid="ignore"):
            slope = tuple(np.where(a == b, 0.0, (a - b) / (up - down)) for a, b in zip(above, below, strict=True))
        if not any(np.any(s) for s in slope):
            raise InputError(file, Problem(p.path, f"{at:g}", "has no effect, or only by whole steps", "tune another parameter"))
        slopes.append(slope)
    return Assembled(assemble.policy_arrays(policy, system, grid, funding), tuple(slopes))


def toml_of(policy: PolicySpec) -> str:
    """A policy as a TOML file that `stresslev run --policy` takes."""
    return toml_text(tables(policy, defaults=True))
