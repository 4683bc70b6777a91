"""A tuning loop of one's own: a custom rule, a custom metric and a custom loop. `python experiments/own_loop.py [--accounts N] [--steps N]`.

The rule lowers caps with the distance of a price from its highest; its strength and the maintenance multiplier are moved by gradient descent with
optax, so that prices end as high as they can while bad debt costs. A line a step: values by the hard rules, gradient by smoothed thresholds.
"""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent))  # the rule is named in the policy as own_loop:Retreat

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stresslev import METRICS, load_plan
from stresslev.config.policy import PolicySpec
from stresslev.metrics import Metric
from stresslev.objectives import OBJECTIVES
from stresslev.parameters import Parameter, value_at, with_values
from stresslev.quantities import largest
from stresslev.tuning.study import Study

SYSTEM = Path(__file__).resolve().parent / "bench" / "systems" / "isolated_one_market.toml"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Retreat:
    """Caps fall by `strength` percent for every percent that a price stands below the highest it has been."""

    strength: jax.Array

    def start(self, reading):
        """The highest price so far."""
        return reading.log_price

    def react(self, peak, reading):
        """Highest price, and the factor on caps (V, A)."""
        peak = jnp.maximum(peak, reading.log_price)
        factor = jnp.exp(self.strength * (reading.log_price - peak))
        return peak, jnp.broadcast_to(factor[None, :], reading.open_interest.shape).astype(reading.depth.dtype)


POLICY = {
    "kind": "policy",
    "name": "retreat",
    "caps": {"floor": 2, "halving_minutes": 30},
    "rules": [{"kind": "own", "rule": "own_loop:Retreat", "parameters": {"strength": 1.0}}],
    "transition": {"form": "pace", "pace_minutes": 60},
}

# the same figure twice: of a dataset, for the hard rules, and of the engine's records, for derivatives
METRICS["final_fall"] = Metric(
    "final_fall",
    "Fall at the end",
    "1",
    "How far the worst price has fallen at the end",
    lambda ds: largest(1 - ds.price_usd.isel(time=-1) / ds.price_usd.isel(time=0)),
)
OBJECTIVES["final_fall"] = lambda record, start: jnp.max(1 - record.price[-1] / start.price)

PARAMETERS = (Parameter("rules.own.parameters.strength", 0.1, 5.0, "log"), Parameter("maintenance_multiplier", 0.7, 1.6))
NAMES, WEIGHTS = ("final_fall", "bad_debt_over_open_interest"), np.array([1.0, 5.0])


def search(
    accounts: int, steps: int, scenario: str = "gap_35_half_depth", rate: float = 0.3, precision: int = 32
) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """Values, metrics by the hard rules and gradient, step by step."""
    policy = PolicySpec.model_validate(POLICY)
    plan = replace(load_plan(scenario, system=SYSTEM, accounts=accounts, precision=precision), policy=policy)
    study, optimizer, path = Study(plan, PARAMETERS, NAMES), optax.rmsprop(rate), []
    free = np.array([p.free(value_at(policy, p.path)) for p in PARAMETERS])
    state = optimizer.init(free)
    for _ in range(steps):
        values = {p.path: float(p.value(x)) for p, x in zip(PARAMETERS, free, strict=True)}
        policy = with_values(policy, values)
        hard = study.hard({"now": policy})
        found = np.array([float(hard[name].values[0, 0]) for name in NAMES])
        slopes = study.gradient(policy, scenario, WEIGHTS).slopes * [p.slope(x) for p, x in zip(PARAMETERS, free, strict=True)]
        path.append((values, found, slopes))
        move, state = optimizer.update(slopes, state)
        free = free + np.asarray(move)
    return path


def main() -> None:
    """Search, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    for values, found, slopes in search(options.accounts, options.steps):
        words = ", ".join(f"{name.split('.')[-1]} {x:.3f}" for name, x in values.items())
        print(f"{words}: final fall {found[0]:.4f}, bad debt {found[1]:.5f}, loss {WEIGHTS @ found:.4f}, gradient {np.linalg.norm(slopes):.3g}")


if __name__ == "__main__":
    main()
