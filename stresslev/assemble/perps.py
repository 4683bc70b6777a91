"""Perp venues: requirements, liquidation, fees, waterfall, funding. Rows of lenders hold values that change nothing."""

import numpy as np

from stresslev.assemble.units import Grid, by_pool, table
from stresslev.config import tiers
from stresslev.config.pools import LendingSpec, PerpSpec, PortfolioSpec
from stresslev.config.spec import SystemSpec
from stresslev.config.tiers import TierTable
from stresslev.engine import adl, portfolio, types
from stresslev.engine.funding import FundingRules
from stresslev.engine.portfolio import PortfolioMargin
from stresslev.engine.requirement import SizeScale

_RULES = {"full": types.FULL, "restore": types.RESTORE, "stepwise": types.STEPWISE, "close_factor": types.CLOSE_FACTOR}
_QUEUES = {"pro_rata": types.PRO_RATA, "worst_first": types.WORST_FIRST, "first_in": types.FIRST_IN}
_STAGES = {"insurance_fund": types.INSURANCE_FUND, "shared_funds": types.SHARED_FUNDS, "adl": types.ADL, "socialise": types.SOCIALISE}
_ADL = {
    "pnl_leverage": adl.QUEUE_PNL_LEVERAGE,
    "pnl": adl.QUEUE_PNL,
    "hyperliquid": adl.QUEUE_HYPERLIQUID,
    "pro_rata_pnl": adl.PRO_RATA_PNL,
    "pro_rata_equity": adl.PRO_RATA_EQUITY,
}
_FORMS = {
    "scan": portfolio.SCAN,
    "single": portfolio.SINGLE,
    "net_correlation": portfolio.NET_CORRELATION,
    "covariance": portfolio.COVARIANCE,
    "expected_shortfall": portfolio.EXPECTED_SHORTFALL,
}
#: Schedule of a contract that does not exist.
_NO_TIER = TierTable(source="none", floors_usd=(0.0,), maintenance_rates=(1.0,), max_leverage=(1.0,))


def arrays(system: SystemSpec, grid: Grid) -> dict:
    """The fields of `System` that describe perp venues."""

    def of(get, absent=0.0, dtype=float):
        return by_pool(system, lambda p: get(p) if isinstance(p, PerpSpec) else absent, dtype)

    perps = [p for p in system.pools.values() if isinstance(p, PerpSpec)]
    stages = max(1, *(len(p.waterfall) for p in system.pools.values()))
    waterfall = [[_STAGES[s] for s in p.waterfall] + [types.NOTHING] * (stages - len(p.waterfall)) for p in system.pools.values()]
    floor, step = tiers.stack([[system.tier_table(v, a) or _NO_TIER for a in system.assets] for v in system.pools])
    used = {stage for p in system.pools.values() for stage in p.waterfall}
    return {
        "tier_floor": floor,
        "tier_step": step,
        "rule": of(lambda p: _RULES[p.liquidation.rule], types.FULL, np.int32),
        "target_health": of(lambda p: p.liquidation.target_health, 1.25),
        "close_factor": of(lambda p: p.liquidation.close_factor, 1.0),
        "full_below": of(lambda p: p.liquidation.full_below),
        "liquidation_fee": of(lambda p: p.liquidation_fee_bps * 1e-4),
        "taker_fee": of(lambda p: p.taker_fee_bps * 1e-4),
        "liquidator_fee": of(lambda p: p.liquidator_fee_bps * 1e-4),
        "takeover": of(lambda p: p.takeover, False, bool),
        "waterfall": np.array(waterfall, np.int32),
        **_margin(system, perps),
        "portfolio": _portfolio(system, perps),
        "queue": of(lambda p: _QUEUES[p.liquidation.queue], types.PRO_RATA, np.int32)
        if any(p.liquidation.queue != "pro_rata" for p in perps)
        else None,
        "auctions": _auctions(of, grid) if any(p.liquidation.auction for p in perps) else None,
        "adl": of(lambda p: _ADL[p.adl], adl.QUEUE_PNL_LEVERAGE, np.int32) if "adl" in used else None,
        "socialise_by": of(lambda p: types.GAINS if p.socialise_by == "gains" else types.EQUITY, types.GAINS, np.int32)
        if "socialise" in used
        else None,
        "fund_group": _groups(system) if "shared_funds" in used else None,
        "funding": _funding(system, grid) if any(p.funding for p in perps) else None,
    }


def _groups(system: SystemSpec) -> np.ndarray:
    names = sorted({p.fund_group for p in system.pools.values() if p.fund_group})
    return by_pool(system, lambda p: names.index(p.fund_group) if p.fund_group else -1, np.int32)


def _auctions(of, grid: Grid) -> types.Auctions:
    def auction(p, get):
        return get(p.liquidation.auction) if p.liquidation.auction else 0.0

    return types.Auctions(
        active=of(lambda p: p.liquidation.auction is not None, False, bool),
        start=of(lambda p: auction(p, lambda a: a.start)),
        growth=of(lambda p: auction(p, lambda a: a.growth_per_minute * grid.step_minutes)),
        most=of(lambda p: auction(p, lambda a: a.most)),
        required_profit=of(lambda p: p.liquidation.required_profit),
    )


def _margin(system: SystemSpec, perps: list[PerpSpec]) -> dict:
    """Haircuts, inverse contracts, and growth of requirements with size and open interest."""

    def perp(pool, get, absent):
        return get(pool) if isinstance(pool, PerpSpec) else absent

    posted = any(p.collateral or p.inverse for p in perps)
    out: dict = {"haircut": None, "inverse": None, "size_scale": None, "interest_scale": None}
    if posted:
        out["haircut"] = table(system, lambda p, a: perp(p, lambda x: x.collateral[a].haircut if a in x.collateral else 0.0, 0.0))
        out["inverse"] = table(system, lambda p, a: perp(p, lambda x: a in x.inverse, False), bool)
    if any(p.size_scale for p in perps):

        def size(p, a, get, absent=0.0):
            return perp(p, lambda x: get(x.size_scale[a]) if a in x.size_scale else absent, absent)

        out["size_scale"] = SizeScale(
            base=table(system, lambda p, a: size(p, a, lambda s: s.base)),
            offset=table(system, lambda p, a: size(p, a, lambda s: 0.8 * s.base if s.form == "drift" else 0.0)),
            slope=table(system, lambda p, a: size(p, a, lambda s: s.imf_factor if s.form == "drift" else s.base / np.sqrt(s.base_position_usd))),
            in_notional=table(system, lambda p, a: size(p, a, lambda s: s.form == "dydx", False), bool),
        )
    if any(p.open_interest_scale for p in perps):

        def scale(p, a, get, absent):
            return perp(p, lambda x: get(x.open_interest_scale[a]) if a in x.open_interest_scale else absent, absent)

        out["interest_scale"] = types.InterestScale(
            base=table(system, lambda p, a: scale(p, a, lambda s: s.base, 1.0)),
            lower=table(system, lambda p, a: scale(p, a, lambda s: s.lower_usd, 0.0)),
            upper=table(system, lambda p, a: scale(p, a, lambda s: s.upper_usd, np.inf)),
        )
    return out


def _shocks(spec: PortfolioSpec, assets: list[str]) -> tuple[list[list[float]], list[float]]:
    """Scenarios of a pool: parallel moves first, then those by asset."""
    rows = [[m] * len(assets) for m in spec.moves] + [[s.get(a, 0.0) for a in assets] for s in spec.scenarios]
    weights = [*(spec.weights or [1.0] * len(spec.moves)), *(spec.scenario_weights or [1.0] * len(spec.scenarios))]
    return rows, weights


def _portfolio(system: SystemSpec, perps: list[PerpSpec]) -> PortfolioMargin | None:
    if not any(p.portfolio_margin for p in perps):
        return None
    assets = list(system.assets)
    neutral = PortfolioSpec(form="covariance")
    specs = [(p.portfolio_margin if isinstance(p, PerpSpec) else None) or neutral for p in system.pools.values()]
    shocks = [_shocks(s, assets) for s in specs]
    longest = max(1, *(len(w) for _, w in shocks))
    grid, weights = np.zeros((len(specs), longest, len(assets))), np.zeros((len(specs), longest))
    correlation = np.zeros((len(specs), len(assets), len(assets)))
    covariance = np.zeros_like(correlation)
    for v, (spec, (rows, w)) in enumerate(zip(specs, shocks, strict=True)):
        if rows:
            grid[v, : len(rows)], weights[v, : len(w)] = rows, w
        correlation[v] = spec.correlation + (1 - spec.correlation) * np.eye(len(assets))
        own = [system.assets[a] for a in assets]
        markets = [system.assets[a.receipt.underlying] if a.receipt else a for a in own]
        yearly = np.array([spec.volatility.get(n, m.volatility) for n, m in zip(assets, markets, strict=True)])
        deviation = yearly * np.sqrt(spec.margin_period_days / 365)
        covariance[v] = correlation[v] * np.outer(deviation, deviation)

    def of(get):
        return np.array([get(s) for s in specs], float)

    return PortfolioMargin(
        form=np.array([_FORMS[s.form] for s in specs], np.int32),
        shocks=grid,
        weights=weights,
        correlation=correlation,
        covariance=covariance,
        deviations=of(lambda s: s.deviations),
        level=of(lambda s: s.level),
        floor_rate=of(lambda s: s.floor_rate),
        multiplier=of(lambda s: s.maintenance_share),
    )


def _funding(system: SystemSpec, grid: Grid) -> FundingRules:
    def of(get, absent=0.0, dtype=float):
        return table(system, lambda p, a: get(p.funding) if not isinstance(p, LendingSpec) and p.funding else absent, dtype)

    def flag(get):
        return by_pool(system, lambda p: bool(not isinstance(p, LendingSpec) and p.funding and get(p.funding)), bool)

    return FundingRules(
        interest=of(lambda f: f.interest),
        clamp=of(lambda f: f.clamp),
        cap=of(lambda f: f.cap),
        floor=of(lambda f: f.floor),
        skew_slope=of(lambda f: f.skew_slope),
        interval=of(lambda f: max(1, grid.steps(f.interval_minutes)), 1, np.int32),
        period=of(lambda f: max(1, grid.steps(f.period_minutes)), 1, np.int32),
        rising_weights=flag(lambda f: f.rising_weights),
        continuous=flag(lambda f: f.continuous),
    )
