"""Markets, makers, venues' own books and marks."""

import numpy as np

from stresslev.assemble.units import MINUTES_PER_YEAR, Grid, by_asset, by_pool, table
from stresslev.config.assets import AssetSpec
from stresslev.config.spec import SystemSpec
from stresslev.engine import impact
from stresslev.engine.makers import MakerRules
from stresslev.engine.marks import MarkRules
from stresslev.engine.venues import VenueRules

_FORMS = {
    "power": impact.POWER,
    "exponential": impact.EXPONENTIAL,
    "price_linear": impact.PRICE_LINEAR,
    "constant_product": impact.CONSTANT_PRODUCT,
}
#: Heartbeat of a push oracle that has none: beyond any horizon.
_NEVER = 2**30


def _depth(asset: AssetSpec) -> float:
    if asset.traded_volume is not None:
        v = asset.traded_volume
        daily = asset.volatility / np.sqrt(365)
        return impact.cont_schaanning_depth(adv=v.adv_usd, volatility_daily=daily, horizon_days=v.horizon_days, c=v.c)
    return asset.depth_usd or 1.0


def arrays(system: SystemSpec, grid: Grid) -> dict:
    """The fields of `System` that describe markets."""
    names = list(system.assets)
    # a receipt token has no market: what it trades in is its underlying's, and these figures of its own are not read
    resolved = [system.assets[a.receipt.underlying] if a.receipt else a for a in system.assets.values()]
    market = [names.index(a.receipt.underlying) if a.receipt else i for i, a in enumerate(system.assets.values())]

    def of(get, dtype=float):
        return np.array([get(a) for a in resolved], dtype)

    return {
        "impact": impact.ImpactRules(
            form=of(lambda a: _FORMS[a.impact], np.int32),
            depth=of(_depth),
            exponent=of(lambda a: a.impact_exponent),
            scale=of(lambda a: a.impact_scale),
            quantity=of(lambda a: a.impact_quantity or 1.0),
        ),
        "permanent_share": of(lambda a: a.permanent_share),
        "transient_decay": of(lambda a: grid.decay(a.impact_half_life_minutes)),
        "volatility_decay": of(lambda a: grid.decay(a.volatility_half_life_minutes)),
        "reference_variance": of(lambda a: a.volatility**2 * grid.step_minutes / MINUTES_PER_YEAR),
        "depth_volatility_exponent": of(lambda a: a.kappa),
        "depth_floor": of(lambda a: a.depth_floor),
        "market": np.array(market, np.int32),
        "makers": _makers(system),
        "venues": _venues(system, grid),
    }


def _makers(system: SystemSpec) -> MakerRules | None:
    if not any(a.makers for a in system.assets.values()):
        return None
    return MakerRules(
        inventory_limit=by_asset(system, lambda a: (a.makers and a.makers.inventory_limit_usd) or np.inf),
        capital=by_asset(system, lambda a: (a.makers and a.makers.capital_usd) or np.inf),
        floor=by_asset(system, lambda a: max(a.makers.floor, 1e-6) if a.makers else 1.0),
    )


def _venues(system: SystemSpec, grid: Grid) -> VenueRules | None:
    shares = table(system, lambda p, a: p.local_depth_share.get(a, 0.0))
    if not np.any(shares > 0):
        return None
    arbitrage = system.arbitrage
    rate = 0.0 if arbitrage is None else 1 - grid.decay(arbitrage.half_life_minutes)
    capital = 0.0 if arbitrage is None else np.inf if arbitrage.capital_usd is None else arbitrage.capital_usd
    return VenueRules(local_depth_share=shares, arbitrage_rate=np.full(len(system.assets), rate), capital=np.array(capital))


def marks(system: SystemSpec, grid: Grid, *, needed: bool) -> MarkRules | None:
    """How pools make their marks; None where every mark is the pool's own market price and nothing disturbs it."""
    if not needed and not any(p.mark for p in system.pools.values()):
        return None

    def of(get, dtype=float, absent=0):
        return by_pool(system, lambda p: absent if p.mark is None else get(p.mark), dtype)

    def heartbeat(m):
        if m.heartbeat_minutes > 0:
            return max(1, grid.steps(m.heartbeat_minutes))
        return _NEVER if m.deviation > 0 else 0

    return MarkRules(
        index_share=of(lambda m: m.index_share),
        index_weight=table(system, lambda p, a: p.index_weight.get(a, 0.0)),
        delay=of(lambda m: grid.steps(m.delay_minutes), np.int32),
        averaging=of(lambda m: max(1, grid.steps(m.averaging_minutes)), np.int32, absent=1),
        smoothing=of(lambda m: grid.decay(m.smoothing_half_life_minutes)),
        deviation=of(lambda m: m.deviation if m.deviation > 0 or m.heartbeat_minutes <= 0 else np.inf),
        heartbeat=of(heartbeat, np.int32),
    )
