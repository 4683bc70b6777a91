"""What counts as a break: a metric above or below a bound."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stresslev import many
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.metrics import METRICS
from stresslev.objectives import OBJECTIVES

#: Short names of metrics.
_SHORT = {"bad_debt": "bad_debt_usd"}


@dataclass(frozen=True)
class Condition:
    """It holds, and the system is broken, where a metric is beyond a bound."""

    metric: str
    above: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {'>' if self.above else '<'} {self.bound:g}"

    def holds(self, value: float) -> bool:
        """Whether a value breaks the system; one that is no number does not."""
        return value > self.bound if self.above else value < self.bound

    def excess(self, values: np.ndarray) -> np.ndarray:
        """How far values are beyond the bound, in its own size; above 0 it holds. Not a number where a value is none."""
        beyond = values - self.bound if self.above else self.bound - values
        return beyond / (abs(self.bound) or 1.0)

    @property
    def differentiable(self) -> bool:
        """Whether the metric has a derivative."""
        return self.metric in OBJECTIVES

    @property
    def limit(self) -> dict[str, float]:
        """The limit of a suite that this breaks."""
        return {"max" if self.above else "min": self.bound}


def parse(text: str) -> Condition:
    """A condition from text such as `bad_debt_usd > 1e6`; a bound in percent is a share. Raises InputError."""
    found = re.fullmatch(r"\s*([A-Za-z_0-9]+)\s*([<>])\s*([^\s%]+)\s*(%?)\s*", text)
    if found is None:
        fix = "write METRIC > NUMBER or METRIC < NUMBER, in quotes: --breaks 'bad_debt_usd > 1e6'"
        raise InputError("--breaks", Problem("condition", repr(text), "is not a metric, a sign and a number", fix))
    name, sign, number, percent = found.groups()
    name, can = _SHORT.get(name, name), many.measurable()
    if name not in can:
        what = "needs single accounts, which many runs do not keep" if name in METRICS else "is no metric"
        raise InputError("--breaks", Problem("metric", name, what, did_you_mean(name, can)))
    try:
        bound = float(number.replace("_", ""))
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise InputError("--breaks", Problem("bound", repr(number), "is not a finite number", "write for example 1e6, 0.005 or 0.5%"))
    return Condition(name, sign == ">", bound / 100 if percent else bound)


def several(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions of which any is a break. Raises InputError, also for none and for two of one metric."""
    if not texts:
        raise InputError("--breaks", Problem("condition", "", "is missing", "say what counts as a break: --breaks 'bad_debt_usd > 1e6'"))
    found = tuple(parse(t) for t in texts)
    for i, one in enumerate(found):
        if one.metric in (other.metric for other in found[:i]):
            raise InputError("--breaks", Problem("metric", one.metric, "is named twice", "give each metric one bound"))
    return found
