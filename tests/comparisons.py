"""Comparisons of policies made by hand: runs whose every figure is known."""

import dataclasses
import functools
import json

import numpy as np
import xarray as xr

from stresslev import limits, metrics, policies
from stresslev.config.load import load_plan
from stresslev.config.spec import LimitSpec
from stresslev.run import Outcome
from tests.test_report import configuration, dataset

GROUPS = ("small", "medium", "large")


def leveraged(ds: xr.Dataset, *, cap=10.0, multiplier=1.0, reduced=0.0, posted=0.0, survivors=0, equity=200.0) -> xr.Dataset:
    """A scenario's dataset with the variables of dynamic leverage.

    `cap` and `multiplier` are numbers or (T,) paths for every pool and asset; `reduced` and `posted` are USD of the first pool in the step
    before the fall, `survivors` accounts of the first pool; every group of every pool has `equity` and five times as much notional.
    """
    t, v, a = ds.sizes["time"], ds.sizes["pool"], ds.sizes["asset"]
    before = t // 2 - 1

    def path(x):
        return np.broadcast_to(np.asarray(x, float).reshape(-1, 1, 1), (t, v, a)).copy()

    flow, cash = np.zeros((t, v, a)), np.zeros((t, v))
    flow[before, 0], cash[before, 0] = reduced / a, posted
    both, grouped = ("time", "pool", "asset"), ("time", "pool", "group")
    first = np.arange(v) == 0
    new = {
        "cap_leverage": (both, path(cap)),
        "maintenance_multiplier": (both, path(multiplier)),
        "reduced_usd": (both, flow),
        "margin_posted_usd": (("time", "pool"), cash),
        "group_notional_usd": (grouped, np.full((t, v, 3), 5.0 * equity)),
        "group_equity_usd": (grouped, np.full((t, v, 3), equity)),
        "group_liquidated": (("pool", "group"), np.outer(first, [3, 2, 1])),
        "group_accounts": (("pool", "group"), np.full((v, 3), 10)),
        "survivors": (("pool",), np.where(first, survivors, 0)),
        "survivors_closed_usd": (("pool",), np.where(first, 10.0 * survivors, 0)),
    }
    return ds.assign(new).assign_coords(group=list(GROUPS))


@functools.cache
def _plan():
    return load_plan("gap_35_half_depth")


def outcome(name: str, datasets: dict[str, xr.Dataset], bounds: dict[str, float] | None = None, *, title: str = "", description: str = "") -> Outcome:
    """An outcome of a plan under a policy of this name, with upper limits by metric."""
    plan = _plan()
    policy = plan.policy.model_copy(update={"name": name, "title": title, "description": description})
    plan = dataclasses.replace(plan, policy=policy, name="suite", title="The suite", limits={k: LimitSpec(max=b) for k, b in (bounds or {}).items()})
    values = {s: metrics.evaluate(ds) for s, ds in datasets.items()}
    some = next(iter(datasets.values()))
    configured = configuration(datasets, some.pool.values.tolist(), some.asset.values.tolist())
    configured["policy"] |= {"name": name}
    attributes = {
        "title": "The suite",
        "stresslev_version": "1.2.3",
        "created": "2026-11-23T15:32:35+00:00",
        "configuration": json.dumps(configured),
        "input_files_sha256": "{}",
        "command": "stresslev run suite.toml --policy fixed.toml --policy dynamic.toml",
        "seed": 7,
        "precision": "float64",
        "residual_tolerance": 1e-9,
        "wall_seconds": 1.5,
    }
    return Outcome(plan, datasets, values, tuple(limits.judge(plan.limits, values)), attributes)


def worse_and_better(bounds: dict[str, float] | None = None, **described) -> policies.Comparison:
    """Fixed against dynamic: in "crash" dynamic halves the bad debt; in "dip" it closes more before the turn, prices fall further, it loses more."""
    dates = {"start": "2026-01-01T10:00:00"}
    fixed = {
        "crash": leveraged(dataset(closed=400.0, debt=80.0, draw=100.0, further=0.1, title="Crash", **dates), survivors=1),
        "dip": leveraged(dataset(fall=0.1, closed=100.0, debt=5.0, draw=40.0, further=0.02, title="Dip")),
    }
    steps = np.arange(41)
    moving = {"cap": np.where(steps < 15, 10.0, 4.0), "multiplier": np.where(steps < 15, 1.0, 1.5)}
    dynamic = {
        "crash": leveraged(dataset(closed=300.0, debt=40.0, draw=80.0, further=0.05, title="Crash", **dates), reduced=60.0, posted=30.0, **moving),
        "dip": leveraged(dataset(fall=0.1, closed=120.0, debt=9.0, draw=60.0, further=0.05, title="Dip"), reduced=200.0, posted=10.0, **moving),
    }
    return policies.Comparison({"fixed": outcome("fixed", fixed, bounds), "dynamic": outcome("dynamic", dynamic, bounds, **described)})
