"""From specifications and shock to the arrays of the engine."""

import numpy as np

from stresslev.config import tiers
from stresslev.config.spec import PolicySpec, SystemSpec
from stresslev.engine.types import Path, Policy, System
from stresslev.shocks.paths import Shock

MINUTES_PER_YEAR = 365 * 24 * 60


def reference_prices(system: SystemSpec, shock: Shock) -> np.ndarray:
    """(A,) USD: the system's own marks, or where it gives none the scenario's starting prices."""
    return np.array([a.price_usd or s for a, s in zip(system.assets.values(), shock.start_price, strict=True)])


def system_arrays(system: SystemSpec, reference_price: np.ndarray, step_minutes: float) -> System:
    """The engine's view of a system, float64 NumPy; shapes as in `System`. Half-lives and capacities become per-step figures."""
    assets, pools = list(system.assets.values()), list(system.pools.values())
    floor, step = tiers.stack([[system.tier_table(p, a) for a in system.assets] for p in system.pools])

    def of_assets(get):
        return np.array([get(a) for a in assets], float)

    def of_pools(get):
        return np.array([get(p) for p in pools], float)

    return System(
        reference_price=np.asarray(reference_price, float),
        tier_floor=floor,
        tier_step=step,
        restore=np.array([p.liquidation.rule == "restore" for p in pools]),
        target_health=of_pools(lambda p: p.liquidation.target_health),
        liquidation_fee=of_pools(lambda p: p.liquidation_fee_bps * 1e-4),
        taker_fee=of_pools(lambda p: p.taker_fee_bps * 1e-4),
        capacity=of_pools(lambda p: (p.liquidation_capacity_usd_per_minute or np.inf) * step_minutes),
        insurance_fund=of_pools(lambda p: p.insurance_fund_usd),
        depth=of_assets(lambda a: a.depth_usd),
        impact_exponent=of_assets(lambda a: a.impact_exponent),
        permanent_share=of_assets(lambda a: a.permanent_share),
        transient_decay=of_assets(lambda a: 2 ** (-step_minutes / a.impact_half_life_minutes)),
        volatility_decay=of_assets(lambda a: 2 ** (-step_minutes / a.volatility_half_life_minutes)),
        reference_variance=of_assets(lambda a: a.volatility**2 * step_minutes / MINUTES_PER_YEAR),
        depth_volatility_exponent=of_assets(lambda a: a.depth_volatility_exponent),
        depth_floor=of_assets(lambda a: a.depth_floor),
    )


def policy_arrays(policy: PolicySpec, system: SystemSpec) -> Policy:
    """The engine's view of a policy, float64 NumPy."""
    multiplier = [[policy.pools.get(p, {}).get(a, policy.maintenance_multiplier) for a in system.assets] for p in system.pools]
    return Policy(maintenance_multiplier=np.array(multiplier, float))


def path_arrays(shock: Shock) -> Path:
    """The engine's view of a shock, float64 NumPy."""
    return Path(log_price=shock.log_price[1:], depth_factor=shock.depth_factor)
