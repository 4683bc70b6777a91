"""A metric and an optimiser loop of one's own, in twenty lines: `python experiments/own_loop.py [--accounts N] [--steps N]`.

The metric is what the worst-hit insurance fund loses; the loop is plain optax on two numbers of the shipped volatility policy. Derivatives come from
smoothed thresholds, every figure printed from the hard rules.
"""

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp
import numpy as np
import optax

from stresslev import load_plan
from stresslev.metrics import METRICS, Metric
from stresslev.objectives import OBJECTIVES
from stresslev.parameters import Parameter, with_values
from stresslev.tuning.study import Study


def main(accounts: int = 20_000, steps: int = 5) -> list[float]:
    """The metric by the hard rules, step by step."""
    # once as a metric of results, once as a function of the engine's records
    fell = lambda ds: ((ds.insurance_fund_usd.isel(time=0) - ds.insurance_fund_usd.min("time")) / 1e6).max("pool")  # noqa: E731
    METRICS["deepest_draw"] = Metric("deepest_draw", "Deepest draw on a fund", "M USD", "of one pool, since the start", fell)
    OBJECTIVES["deepest_draw"] = lambda record, start: jnp.max((start.insurance_fund - jnp.min(record.insurance_fund, axis=0)) / 1e6)

    plan = load_plan("gap_35_half_depth", policy="volatility", accounts=accounts)
    parameters = [Parameter("rules.volatility.gamma", 0.2, 2.0), Parameter("maintenance_multiplier", 0.7, 2.0, "log")]
    study = Study(plan, parameters, ["deepest_draw"])
    free, rule, found = np.zeros(2), optax.sgd(0.5), []
    state = rule.init(free)
    for step in range(steps):
        values = {p.path: float(p.value(x)) for p, x in zip(parameters, free, strict=True)}
        policy = with_values(plan.policy, values)
        found.append(float(study.hard({"now": policy}).deepest_draw.mean()))
        slopes = study.gradient(policy, "gap_35_half_depth", np.ones(1)).slopes * [float(p.slope(x)) for p, x in zip(parameters, free, strict=True)]
        print(f"step {step}: {found[-1]:.6g} M USD at {values}, slopes {slopes}")
        update, state = rule.update(slopes / max(np.linalg.norm(slopes), 1e-12), state)
        free = np.asarray(optax.apply_updates(free, update))
    METRICS.pop("deepest_draw"), OBJECTIVES.pop("deepest_draw")
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--accounts", type=int, default=20_000)
    options.add_argument("--steps", type=int, default=5)
    given = options.parse_args()
    main(given.accounts, given.steps)
