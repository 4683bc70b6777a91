"""The rule's numbers as plain arrays, for the programs that the engine is held against."""

import numpy as np

from stresslev.engine.types import RESTORE


def tables(system, policy, path, block_pool: np.ndarray, size: int, dtype) -> dict:
    """Tiers (floor, rate, deduction; (V, A, K)), pools' and markets' numbers, and the path, in the precision of the accounts."""
    multiplier = np.asarray(policy.maintenance_multiplier)[:, :, None]
    floor = np.asarray(system.tier_floor, float)
    steps = np.asarray(system.tier_step, float) * multiplier
    fee = np.asarray(system.liquidation_fee, float) + np.asarray(system.taker_fee, float)
    to_fund = np.divide(system.liquidation_fee, fee, out=np.zeros_like(fee), where=fee > 0)

    def cast(*arrays):
        return tuple(np.ascontiguousarray(x, dtype) for x in arrays)

    return {
        "block_pool": np.ascontiguousarray(block_pool, np.int32),
        "size": size,
        "tables": cast(floor, np.cumsum(steps, axis=2), np.cumsum(steps * floor, axis=2)),
        "pools": (np.asarray(system.rule) == RESTORE, *cast(system.target_health, fee, to_fund, system.capacity, system.insurance_fund)),
        "markets": cast(
            system.reference_price,
            system.impact.depth,
            system.impact.exponent,
            system.permanent_share,
            system.transient_decay,
            system.volatility_decay,
            system.reference_variance,
            system.depth_volatility_exponent,
            system.depth_floor,
        ),
        "path": cast(path.log_price, path.depth_factor),
    }


def flat(ready: dict) -> dict:
    """The same under names of their own, for a file that any NumPy reads."""
    groups = {f"{g}{k}": x for g in ("tables", "pools", "markets", "path") for k, x in enumerate(ready[g])}
    return {"block_pool": ready["block_pool"], "size": ready["size"], **groups}
