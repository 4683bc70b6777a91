"""From specifications and shock to the arrays of the engine: float64 NumPy, half-lives and rates per minute turned into per-step figures."""

import numpy as np

from stresslev.assemble import lending, links, markets, perps
from stresslev.assemble.behaviour import run_rules, trader_rules
from stresslev.assemble.policy import notice_history, policy_arrays, with_policy
from stresslev.assemble.units import MINUTES_PER_YEAR, Grid
from stresslev.config.spec import SystemSpec
from stresslev.engine.types import Path, System
from stresslev.shocks.paths import Shock

__all__ = [
    "MINUTES_PER_YEAR",
    "Grid",
    "mark_history",
    "notice_history",
    "path_arrays",
    "policy_arrays",
    "reference_prices",
    "run_rules",
    "system_arrays",
    "trader_rules",
    "with_policy",
]


def reference_prices(system: SystemSpec, shock: Shock) -> np.ndarray:
    """(A,) USD: the system's own marks, or where it gives none the scenario's starting prices."""
    return np.array([a.price_usd or s for a, s in zip(system.assets.values(), shock.start_price, strict=True)])


def system_arrays(
    system: SystemSpec,
    reference_price: np.ndarray,
    step_minutes: float,
    *,
    shock: Shock | None = None,
    customers: np.ndarray | None = None,
    collateral: np.ndarray | None = None,
    owners=None,
) -> System:
    """The engine's view of a system; shapes as in `System`.

    Args:
      shock: tells whether marks may be frozen or dislocated.
      customers: (V,) USD owed to customers at the start; collateral: (V, A) coins that borrowers have supplied. From the book.
      owners: `links.owners` of the book, or None.
    """
    grid = Grid(np.asarray(reference_price, float), float(step_minutes))
    pools = system.pools.values()
    disturbed = shock is not None and shock.disturbs_marks
    none = np.zeros((len(system.pools), len(system.assets)))
    return System(
        reference_price=grid.reference_price,
        **markets.arrays(system, grid),
        **perps.arrays(system, grid),
        **links.arrays(system, grid, np.zeros(len(none)) if customers is None else customers),
        capacity=np.array([(p.liquidation_capacity_usd_per_minute or np.inf) * step_minutes for p in pools]),
        insurance_fund=np.array([p.insurance_fund_usd for p in pools], float),
        marks=markets.marks(system, grid, needed=disturbed),
        lending=lending.arrays(system, grid, none if collateral is None else collateral),
        owners=owners,
    )


def mark_history(system: SystemSpec, step_minutes: float) -> int:
    """Steps of prices that the slowest mark looks back on."""
    specs = [p.mark for p in system.pools.values() if p.mark is not None]
    return max((round(m.delay_minutes / step_minutes) + max(1, round(m.averaging_minutes / step_minutes)) for m in specs), default=1)


def path_arrays(shock: Shock) -> Path:
    """The engine's view of a shock."""
    return Path(
        log_price=shock.log_price[1:],
        depth_factor=shock.depth_factor,
        mark_offset=shock.mark_offset,
        outage=shock.outage,
        stuck=shock.stuck,
        premium=shock.premium,
    )
