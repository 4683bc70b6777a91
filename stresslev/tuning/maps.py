"""Where accounts would be liquidated, with and without the tuned policy: what a move of each price would liquidate, at two moments of a run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stresslev.batches import Progress, silent
from stresslev.config.load import Plan
from stresslev.config.policy import PolicySpec
from stresslev.run import run_plan

#: The fall that says when most would be liquidated.
FALL = -0.1


@dataclass(frozen=True)
class Maps:
    """Liquidation maps of one scenario under several policies, pools and assets summed."""

    scenario: str
    moves: np.ndarray  # (M,) of every price alone, rising, 0 not among them
    minutes: np.ndarray  # (2,) the start, and when a fall of a tenth would liquidate most under the first policy
    usd: dict[str, np.ndarray]  # policy -> (2, M) USD that would be liquidated on the way to each move


def liquidation_maps(plan: Plan, scenario: str, policies: Mapping[str, PolicySpec], progress: Progress = silent) -> Maps:
    """Run one scenario of a plan under each policy, by the hard rules on accounts, and look at its liquidation maps."""
    chosen = tuple(s for s in plan.scenarios if s.name == scenario)
    run = plan.run.model_copy(update={"liquidation_map": True, "measures": False, "attribution": False, "population": "accounts"})
    moves, minutes, at, usd = np.zeros(0), np.zeros(0), 0, {}
    for name, policy in policies.items():
        found = run_plan(dataclasses.replace(plan, scenarios=chosen, policy=policy, run=run), progress).datasets[scenario]
        whole = np.abs(found.liquidation_map_usd).sum(["pool", "asset"]).transpose("map_time", "move").values.astype(float)
        if not usd:
            moves = found.move.values.astype(float)
            at = int(whole[:, np.abs(moves - FALL).argmin()].argmax())
            minutes = found.map_time.values.astype(float)[[0, at]]
        usd[name] = whole[[0, at]]
    return Maps(scenario, moves, minutes, usd)
