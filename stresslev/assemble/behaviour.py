"""Traders and depositors as the engine takes them: half-lives and annual figures turned into figures per step."""

import math

import numpy as np

from stresslev.assemble.units import MINUTES_PER_YEAR, Grid
from stresslev.config.behaviour import BehaviourSpec
from stresslev.config.spec import SystemSpec
from stresslev.engine import traders
from stresslev.engine.runs import RunRules
from stresslev.engine.traders import TraderRules

_KINDS = {
    "momentum": traders.MOMENTUM,
    "mean_reversion": traders.REVERSION,
    "leverage_target": traders.LEVERAGE_TARGET,
    "funding_arbitrage": traders.FUNDING_ARBITRAGE,
}
_SCALES = {"momentum": 0.05, "mean_reversion": 0.02, "leverage_target": 1.0, "funding_arbitrage": 0.0005}


def trader_rules(spec: BehaviourSpec | None, system: SystemSpec, grid: Grid) -> TraderRules | None:
    """The traders of a scenario; None where there are none."""
    if spec is None or not spec.traders:
        return None
    pools, assets = list(system.pools), list(system.assets)
    shape = (len(_KINDS), len(pools), len(assets))
    capital, speed, scale = np.zeros(shape), np.zeros(shape), np.ones(shape)
    leverage, exponent, maintenance = np.ones(shape[1:]), np.zeros(shape[1:]), np.zeros(shape[1:])
    per_step = MINUTES_PER_YEAR / 365 / grid.step_minutes
    for t in spec.traders:
        k, v = _KINDS[t.kind], pools.index(t.pool)
        signal = t.scale or _SCALES[t.kind]
        scale[k, v] = signal / per_step if t.kind == "momentum" else signal
        speed[k, v] = 1 - grid.decay(t.response_minutes)
        for asset, usd in t.capital_usd.items():
            capital[k, v, assets.index(asset)] = usd
        if t.kind == "leverage_target":
            leverage[v], exponent[v], maintenance[v] = t.leverage, t.exponent, t.maintenance

    def every(x):
        return np.full(len(assets), float(x))

    yearly = np.array([system.assets[a.receipt.underlying].volatility if a.receipt else a.volatility for a in system.assets.values()], float)
    variance = yearly**2 * grid.step_minutes / MINUTES_PER_YEAR
    return TraderRules(
        capital=capital,
        speed=speed,
        scale=scale,
        trend_decay=every(grid.decay(spec.trend_half_life_minutes)),
        mean_decay=every(grid.decay(spec.mean_half_life_minutes)),
        variance_decay=every(grid.decay(spec.volatility_half_life_minutes)),
        reference_variance=variance,
        quiet_variance=every(spec.quiet_volatility**2 * grid.step_minutes / MINUTES_PER_YEAR),
        base_leverage=leverage,
        exponent=exponent,
        maintenance=maintenance,
    )


def run_rules(spec: BehaviourSpec | None, system: SystemSpec, grid: Grid) -> RunRules | None:
    """The depositors who may run; None where there are none."""
    if spec is None or not spec.runs:
        return None
    pools, assets = list(system.pools), list(system.assets)
    shape = (len(pools), len(assets))
    speed, most = np.zeros(shape), np.zeros(shape)
    utilisation, cover = np.zeros(shape), np.ones(shape)
    for r in spec.runs:
        v = pools.index(r.pool)
        mine = [assets.index(a) for a in (assets if r.assets is None else r.assets)]
        speed[v, mine] = 1 - grid.decay(r.leave_minutes)
        most[v, mine] = 1 - math.pow(1 - r.most_per_hour, grid.step_minutes / 60) if r.most_per_hour < 1 else 1.0
        utilisation[v], cover[v] = r.utilisation_at, r.cover_at
    return RunRules(speed=speed, utilisation_at=utilisation, cover_at=cover, most=most)
