"""Whether a run that was made again has the same numbers."""

import math

import numpy as np

from stresslev.contrast.inputs import Result
from stresslev.metrics import METRICS
from stresslev.report import words

#: Provenance that may be why numbers differ.
_WHY = ("stresslev_version", "code_hash", "jax", "numpy", "python", "platform", "device")


def _gap(a: float, b: float) -> float:
    """Relative difference; infinite where only one of them is a number."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return abs(b - a) / max(abs(a), abs(b)) if math.isfinite(a) and math.isfinite(b) else math.inf


def _bits(a, b) -> bool:
    """Whether two variables hold the same bits."""
    return b is not None and a.dtype == b.dtype and np.array_equal(a.values, b.values, equal_nan=a.dtype.kind == "f")


def reproduction(earlier: Result, later: Result) -> tuple[bool, list[str]]:
    """Whether every metric and every variable is the same, bit for bit, and what is to be said about it."""
    gaps = {
        (s, m): _gap(earlier.metrics.get(s, {}).get(m, math.nan), later.metrics.get(s, {}).get(m, math.nan)) for s in earlier.metrics for m in METRICS
    }
    unlike = {key: gap for key, gap in gaps.items() if gap > 0}
    variables = [
        f"{v} of {s}" for s, ds in earlier.data.items() for v in ds.data_vars if s not in later.data or not _bits(ds[v], later.data[s].get(v))
    ]
    if not unlike and not variables:
        return True, [f"reproduced: all metrics and variables of {words.plural(len(earlier.metrics), 'scenario')} are the same, bit for bit"]
    told = [f"not reproduced: {words.plural(len(unlike), 'metric')} and {words.plural(len(variables), 'variable')} differ"]
    if unlike:
        (scenario, name), gap = max(unlike.items(), key=lambda item: item[1])
        told.append(f"furthest: {METRICS[name].title} in {scenario}, by {words.scientific(gap)} of its value")
    else:
        told.append(f"first: {variables[0]}")
    pairs = [(k, earlier.attributes.get(k), later.attributes.get(k)) for k in _WHY]
    told += [f"{k.replace('_', ' ')}: {a} then, {b} now" for k, a, b in pairs if a != b]
    return False, told
