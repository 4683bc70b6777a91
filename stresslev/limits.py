"""Risk limits: bounds on metrics, and what the results say about them."""

import math

from stresslev.config.spec import LimitSpec
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.metrics import METRICS, Finding


def check_names(limits: dict[str, LimitSpec], file) -> None:
    """Refuse limits on metrics that do not exist. Raises InputError."""
    wrong = [Problem(f"limits.{n}", "", "is no metric", did_you_mean(n, METRICS)) for n in limits if n not in METRICS]
    if wrong:
        raise InputError(file, wrong)


def judge(limits: dict[str, LimitSpec], metrics: dict[str, dict[str, float]]) -> list[Finding]:
    """Hold every limit against every scenario; a value that is not a number, or that the results do not allow, breaches.

    Args: limits by metric; metrics by scenario, then by name.
    """
    findings = []
    for scenario, values in metrics.items():
        for name, limit in limits.items():
            value = values.get(name, math.nan)
            for side, bound in (("max", limit.max), ("min", limit.min)):
                if bound is not None:
                    within = value <= bound if side == "max" else value >= bound
                    findings.append(Finding(name, scenario, value, bound, side, not within, limit.reason))
    return findings
