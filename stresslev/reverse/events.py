"""What broke first: when a condition is first met, by which pool, and what happened to pools before and after."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from stresslev.metrics import METRICS
from stresslev.reverse.conditions import Condition

#: Times at which a condition is looked at before it is looked at step by step.
_LOOKS = 64
#: Share of its start below which an insurance fund is used up.
_EMPTY = 1e-9


def _until(ds: xr.Dataset, step: int) -> xr.Dataset:
    """The run as if it had ended after a step."""
    return ds.isel(time=slice(0, step + 1))


def first_step(ds: xr.Dataset, condition: Condition) -> int | None:
    """Step, from 1, after which the metric of the run so far is first beyond the bound; None when it never is."""
    compute, last = METRICS[condition.metric].value, ds.sizes["time"] - 1

    def beyond(step: int) -> bool:
        return condition.holds(compute(_until(ds, step)))

    coarse = sorted({*np.linspace(1, last, min(_LOOKS, last)).astype(int).tolist(), last})
    first = next((i for i, step in enumerate(coarse) if beyond(step)), None)
    if first is None:
        return None
    start = coarse[first - 1] + 1 if first else 1
    return next(step for step in range(start, coarse[first] + 1) if beyond(step))


def _pools(ds: xr.Dataset, condition: Condition, step: int) -> dict[str, float]:
    """Pool -> its metric so far; nothing where the metric has none by pool."""
    per_pool = METRICS[condition.metric].per_pool
    if per_pool is None:
        return {}
    values = per_pool(_until(ds, step))
    return {str(p): float(v) for p, v in zip(values.pool.values, values.values, strict=True)}


def broken(ds: xr.Dataset, conditions: Sequence[Condition]) -> list[dict]:
    """The conditions that are met, by when: step and minute, value then and at the end, and pools by their share in it, the worst first."""
    found = []
    for condition in conditions:
        step = first_step(ds, condition)
        if step is None:
            continue
        metric = METRICS[condition.metric]
        pools = _pools(ds, condition, step)
        order = sorted((p for p, v in pools.items() if np.isfinite(v)), key=lambda p: pools[p], reverse=condition.above)
        found.append(
            {
                "condition": str(condition),
                "title": metric.title,
                "units": metric.units,
                "bound": condition.bound,
                "step": step,
                "minute": float(ds.time[step]),
                "value_then": metric.value(_until(ds, step)),
                "value_at_end": metric.value(ds),
                "pool": order[0] if order else None,
                "pools": {p: pools[p] for p in order},
            }
        )
    return sorted(found, key=lambda f: f["step"])


def timeline(ds: xr.Dataset) -> list[dict]:
    """What happened to each pool for the first time, in the order of time: step, minute, pool, what."""
    fund = ds.insurance_fund_usd
    signs = {
        "first liquidation": ds.newly_liquidated > 0,
        "first loss beyond margin": ds.deficit_usd > 0,
        "insurance fund used up": (fund <= _EMPTY * fund.isel(time=0)) & (fund.isel(time=0) > 0),
        "first auto-deleveraging": ds.adl_usd > 0,
        "first socialised loss": ds.socialised_usd > 0,
        "first bad debt": ds.bad_debt_usd > 0,
        "own funds below zero": ds.net_worth_usd < 0,
    }
    found = []
    for what, sign in signs.items():
        for pool in ds.pool.values:
            steps = np.flatnonzero(sign.sel(pool=pool).values)
            if len(steps):
                step = int(steps[0])
                found.append({"step": step, "minute": float(ds.time[step]), "pool": str(pool), "what": what})
    return sorted(found, key=lambda f: f["step"])
