"""Lenders: thresholds, liquidation, rates, and what depositors other than borrowers have supplied."""

import numpy as np

from stresslev.assemble.units import MINUTES_PER_YEAR, Grid, by_pool, table
from stresslev.config.pools import LendingSpec, ReserveSpec
from stresslev.config.spec import SystemSpec
from stresslev.engine import loans
from stresslev.engine.rates import RateCurve, RateRules
from stresslev.engine.types import Lending

_RULES = {"full": loans.FULL, "close_factor": loans.CLOSE_FACTOR, "restore": loans.RESTORE}


def arrays(system: SystemSpec, grid: Grid, collateral: np.ndarray) -> Lending | None:
    """The lending part of `System`; None when no pool lends.

    Args: `collateral` (V, A) coins that the book's borrowers have supplied; what a reserve holds beyond them belongs to other depositors.
    """
    if not any(isinstance(p, LendingSpec) for p in system.pools.values()):
        return None

    def of(get, absent=0.0, dtype=float):
        return by_pool(system, lambda p: get(p) if isinstance(p, LendingSpec) else absent, dtype)

    def reserve(get, absent=0.0, dtype=float):
        def one(pool, asset):
            found: ReserveSpec | None = pool.reserves.get(asset) if isinstance(pool, LendingSpec) else None
            return absent if found is None else get(found)

        return table(system, one, dtype)

    def auction(get):
        return of(lambda p: get(p.liquidation.auction) if p.liquidation.auction else 0.0)

    supplied = reserve(lambda r: r.supplied_usd or 0.0) / grid.reference_price[None, :]
    profit = of(lambda p: -np.inf if p.liquidation.required_profit is None else p.liquidation.required_profit, -np.inf)
    return Lending(
        pool=of(lambda p: True, False, bool),
        rules=loans.LendingRules(
            liquidation_threshold=reserve(lambda r: r.liquidation_threshold if r.collateral else 0.0),
            seizable=reserve(lambda r: r.seizable and r.collateral, False, bool),
            # a lender who sells in the market takes no bonus
            bonus=reserve(lambda r: r.bonus) * of(lambda p: p.liquidation.execution == "liquidator")[:, None],
            protocol_fee=of(lambda p: p.protocol_fee),
            rule=of(lambda p: _RULES[p.liquidation.rule], loans.FULL, np.int32),
            close_factor=of(lambda p: p.liquidation.close_factor, 1.0),
            full_below=of(lambda p: p.liquidation.full_below),
            target_health=of(lambda p: p.liquidation.target_health, 1.25),
            market_execution=of(lambda p: p.liquidation.execution == "market", False, bool),
            auction=of(lambda p: p.liquidation.auction is not None, False, bool),
            auction_start=auction(lambda a: a.start),
            auction_growth=auction(lambda a: a.growth_per_minute * grid.step_minutes),
            auction_max=auction(lambda a: a.most),
            required_profit=profit,
        ),
        rates=RateRules(
            curve=RateCurve(
                optimal=reserve(lambda r: r.rate.optimal, 1.0),
                base=reserve(lambda r: r.rate.base),
                slope1=reserve(lambda r: r.rate.slope1),
                slope2=reserve(lambda r: r.rate.slope2),
            ),
            reserve_factor=reserve(lambda r: r.reserve_factor),
        ),
        years_per_step=np.array(grid.step_minutes / MINUTES_PER_YEAR),
        deposits=np.maximum(supplied - collateral, 0.0),
    )
