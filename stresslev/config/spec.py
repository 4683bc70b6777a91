"""The specifications behind every TOML file: system, scenario, policy, run and suite."""

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stresslev.config.tiers import Number, TierTable

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Whole = Annotated[int, Field(strict=True)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]


#: Most time steps of a scenario.
MAX_STEPS = 1_000_000


class Spec(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AssetSpec(Spec):
    """One asset and its market."""

    depth_usd: Positive = Field(description="net flow in USD that moves the price by 1% at the reference volatility")
    volatility: Positive = Field(description="reference volatility per year (0.5 is 50%), at which depth_usd holds")
    price_usd: Positive | None = Field(None, description="present mark in USD; when absent the scenario's own starting price is used")
    impact_exponent: Annotated[Number, Field(gt=0, le=2)] = Field(1.0, description="1 linear in flow over depth, 0.5 square root")
    permanent_share: Share = Field(0.2, description="share of the impact that never recovers")
    impact_half_life_minutes: Positive = Field(10.0, description="half-life of the transient rest")
    depth_volatility_exponent: NonNegative = Field(0.5, description="kappa: depth falls with (reference volatility / volatility)^kappa")
    depth_floor: Annotated[Number, Field(gt=0, le=1)] = Field(0.01, description="least share of the depth that volatility leaves")
    volatility_half_life_minutes: Positive = Field(60.0, description="half-life of the EWMA volatility")


class LiquidationSpec(Spec):
    """What a pool does with an under-margined account."""

    rule: Literal["full", "restore"] = Field("full", description="close everything, or just enough to be back at target_health")
    target_health: Annotated[Number, Field(gt=1, le=100)] = Field(1.25, description="equity over maintenance margin after a restoring liquidation")


class PoolBookSpec(Spec):
    """How the sampler fills one pool."""

    account_weight: Positive = Field(1.0, description="the pool's number of accounts, in proportion to the other pools'")
    leverage_median: Positive | None = Field(None, description="overrides book.leverage_median")


class PoolSpec(Spec):
    """One perpetual-futures venue."""

    kind: Literal["perp"] = Field("perp", description="the only kind so far: cross-margin perpetual futures")
    description: str = Field("", description="free text, shown in the report")
    insurance_fund_usd: NonNegative = Field(description="balance at the start; liquidation fees add to it, deficits draw on it")
    taker_fee_bps: Annotated[Number, Field(ge=0, le=1000)] = Field(5.0, description="of the notional closed, to the venue")
    liquidation_fee_bps: Annotated[Number, Field(ge=0, le=1000)] = Field(100.0, description="of the notional closed, to the insurance fund")
    liquidation: LiquidationSpec = Field(LiquidationSpec(), description="what the pool does with an under-margined account")
    liquidation_capacity_usd_per_minute: Positive | None = Field(None, description="most notional the pool can close per minute; absent: no limit")
    tiers: dict[Name, Name] = Field(description="asset -> name of a table in [tiers]")
    open_interest_usd: dict[Name, Positive] = Field(default_factory=dict, description="asset -> USD, for the sampler")
    imbalance: dict[Name, Annotated[Number, Field(ge=-1, le=1)]] = Field(
        default_factory=dict, description="asset -> (customers' longs - shorts) / (longs + shorts), for the sampler"
    )
    book: PoolBookSpec = Field(PoolBookSpec(), description="how the sampler fills this pool")


class BookSpec(Spec):
    """Where the accounts come from: a file, or the calibrated sampler."""

    file: str | None = Field(None, description="CSV or Parquet of positions; the other keys are then not used")
    accounts: Annotated[Whole, Field(ge=1, le=1_000_000_000)] = Field(
        1_000_000, description="accounts to sample over all pools; --accounts overrides"
    )
    pareto_exponent: Annotated[Number, Field(gt=1, le=10)] = Field(1.3, description="tail exponent of sizes; smaller is more concentrated")
    largest_account_share: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.005, description="cap on one account's share of the sizes drawn for its pool, before the sides are scaled to open interest"
    )
    leverage_median: Positive = Field(5.0, description="median leverage of an account of median size")
    leverage_sigma: NonNegative = Field(0.8, description="standard deviation of log leverage")
    leverage_size_elasticity: Annotated[Number, Field(ge=-1, le=1)] = Field(-0.1, description="d log leverage / d log size: large accounts use less")
    leverage_min: Positive = Field(0.5, description="least leverage drawn")
    leverage_max: Positive = Field(100.0, description="most leverage drawn; the tiers' maximum leverage binds as well")
    positions_mean: Annotated[Number, Field(ge=1)] = Field(1.5, description="mean number of assets an account holds")
    hedge_share: Share = Field(0.3, description="chance that a further position has the opposite side of the first")

    @model_validator(mode="after")
    def _ordered(self):
        if self.leverage_min >= self.leverage_max:
            raise ValueError("leverage_min must be below leverage_max")
        return self


class TierFile(Spec):
    """A contract of a venue's tier dump."""

    file: str = Field(description="CSV, plain or gzipped")
    symbol: str = Field(description="contract, as the file spells it")


class SystemSpec(Spec):
    """The thing under stress."""

    kind: Literal["system"] = Field(description="says what the file is")
    name: Name = Field(description="letters, digits, dot, dash and underscore")
    description: str = Field("", description="free text, shown in the report")
    assumptions: tuple[str, ...] = Field((), description="what is assumed and not measured, one sentence each; shown in the report")
    assets: dict[Name, AssetSpec] = Field(min_length=1, description="the assets and their markets")
    tiers: dict[Name, TierTable | TierFile] = Field(description="maintenance tiers, by a name that pools refer to")
    pools: dict[Name, PoolSpec] = Field(min_length=1, description="the venues")
    book: BookSpec = Field(BookSpec(), description="where the accounts come from")

    @model_validator(mode="after")
    def _names_resolve(self):
        for pool_name, pool in self.pools.items():
            for asset in self.assets:
                if asset not in pool.tiers:
                    raise ValueError(f"pools.{pool_name}.tiers has no table for asset {asset}; every pool needs one per asset")
            for asset, table in pool.tiers.items():
                if table not in self.tiers:
                    raise ValueError(f"pools.{pool_name}.tiers.{asset} names {table!r}, which is not in [tiers]")
            for key in ("tiers", "open_interest_usd", "imbalance"):
                for asset in getattr(pool, key):
                    if asset not in self.assets:
                        raise ValueError(f"pools.{pool_name}.{key} names asset {asset!r}, which is not in [assets]")
            if self.book.file is None and not pool.open_interest_usd:
                raise ValueError(f"pools.{pool_name}.open_interest_usd is empty: the sampler needs the open interest of at least one asset")
        if self.book.file is not None:
            for name, asset in self.assets.items():
                if asset.price_usd is None:
                    raise ValueError(f"assets.{name}.price_usd is missing: a book from a file is valued at present marks")
        return self

    def tier_table(self, pool: str, asset: str) -> TierTable:
        """The resolved schedule of one contract (files have been read by the loader)."""
        return self.tiers[self.pools[pool].tiers[asset]]


class PathSpec(Spec):
    """The exogenous price of one asset: points, a file, or a proxy of another asset."""

    source: str = Field("", description="where the figures come from")
    minutes: tuple[NonNegative, ...] | None = Field(None, description="minutes since the scenario's start")
    prices: tuple[Positive, ...] | None = Field(None, description="USD at those minutes; interpolated linearly in log price")
    file: str | None = Field(None, description="CSV or Parquet with one row per time and asset, or one asset's rows")
    time_column: str = Field("ts", description="column of times in the file")
    price_column: str = Field("close", description="column of prices in the file")
    symbol_column: str = Field("symbol", description="column that tells several assets of one file apart")
    symbol: str | None = Field(None, description="rows of the file to use; absent: all rows")
    proxy: Name | None = Field(None, description="follow another asset of the scenario")
    beta: Annotated[Number, Field(ge=-10, le=10)] = Field(1.0, description="log return per log return of the proxy")
    start_price_usd: Positive | None = Field(None, description="starting price of a proxied asset")

    @model_validator(mode="after")
    def _one_form(self):
        forms = [self.minutes is not None or self.prices is not None, self.file is not None, self.proxy is not None]
        if sum(forms) != 1:
            raise ValueError("give exactly one of: minutes with prices, file, proxy")
        if forms[0]:
            if self.minutes is None or self.prices is None or len(self.minutes) != len(self.prices):
                raise ValueError("minutes and prices need the same number of entries")
            if len(self.minutes) < 2:
                raise ValueError("a path needs at least two points")
            if self.minutes[0] != 0:
                raise ValueError(f"the first point must be at minute 0, it is at {self.minutes[0]:g}")
            for low, high in pairwise(self.minutes):
                if high <= low:
                    raise ValueError(f"minutes must rise: {high:g} follows {low:g}")
        if forms[2] and self.start_price_usd is None:
            raise ValueError("a proxied path needs start_price_usd")
        return self


class DepthSpec(Spec):
    """Factor on market depth through time, linear between points and constant after the last."""

    minutes: tuple[NonNegative, ...] = Field((0.0,), description="minutes since the scenario's start")
    factors: tuple[Positive, ...] = Field((1.0,), description="factor on depth at those minutes")
    source: str = Field("", description="where the figures come from")

    @model_validator(mode="after")
    def _matched(self):
        if len(self.minutes) != len(self.factors) or not self.minutes:
            raise ValueError("minutes and factors need the same number of entries, at least one")
        for low, high in pairwise(self.minutes):
            if high <= low:
                raise ValueError(f"minutes must rise: {high:g} follows {low:g}")
        return self


class ScenarioSpec(Spec):
    """An exogenous path on a time grid."""

    kind: Literal["scenario"] = Field(description="says what the file is")
    name: Name = Field(description="letters, digits, dot, dash and underscore")
    title: str = Field(description="for the report")
    origin: Literal["historical", "hypothetical"] = Field(description="replayed or invented")
    severity: Literal["adverse", "severe", "very severe"] = Field(description="the committee's own grading")
    description: str = Field("", description="free text, shown in the report")
    sources: tuple[str, ...] = Field((), description="where the figures come from; shown in the report")
    assumptions: tuple[str, ...] = Field((), description="what is assumed; shown in the report")
    start: datetime | None = Field(None, description="time of minute 0, UTC; needed for price files with dates")
    duration_minutes: Annotated[Whole, Field(ge=1, le=10_000_000)] = Field(description="a whole number of steps")
    step_minutes: Positive = Field(1.0, description="length of one step")
    shock_scale: Annotated[Number, Field(ge=0, le=10)] = Field(1.0, description="factor on every log return of the paths")
    depth_scale: Positive = Field(1.0, description="factor on all depth factors")
    paths: dict[Name, PathSpec] = Field(min_length=1, description="the exogenous price of each asset of the system")
    depth: dict[Name, DepthSpec] = Field(default_factory=dict, description="asset -> factor on its depth; 'default' for all others")

    @field_validator("start", mode="before")
    @classmethod
    def _a_date(cls, value):
        if isinstance(value, int | float):
            raise ValueError("a number is not a date and time; write 2025-10-10T00:00:00Z")
        return value

    @model_validator(mode="after")
    def _grid(self):
        steps = self.duration_minutes / self.step_minutes
        if steps > MAX_STEPS:
            raise ValueError(f"{steps:.3g} steps are more than {MAX_STEPS:,}; lengthen step_minutes or shorten duration_minutes")
        if abs(steps - round(steps)) > 1e-9 or steps < 1:
            raise ValueError("duration_minutes must be a whole number of steps of step_minutes")
        for name, path in self.paths.items():
            if path.proxy is not None and (path.proxy not in self.paths or self.paths[path.proxy].proxy is not None):
                raise ValueError(f"paths.{name}.proxy names {path.proxy!r}, which must be an asset of this scenario with a path of its own")
        if "default" in self.paths:
            raise ValueError("an asset cannot be called 'default': [depth.default] stands for all others")
        if self.start is not None and not 1970 <= self.start.year <= 2200:
            raise ValueError(f"start lies in the year {self.start.year}; give one between 1970 and 2200")
        for name in self.depth:
            if name != "default" and name not in self.paths:
                raise ValueError(f"depth.{name} names an asset without a path")
        return self

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return round(self.duration_minutes / self.step_minutes)


class PolicySpec(Spec):
    """The leverage rules."""

    maintenance_multiplier: Annotated[Number, Field(gt=0, le=100)] = Field(1.0, description="factor on every tier requirement")
    pools: dict[Name, dict[Name, Annotated[Number, Field(gt=0, le=100)]]] = Field(
        default_factory=dict, description="pool -> asset -> multiplier, instead of the general one"
    )


class RunSpec(Spec):
    """How to compute."""

    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(2025, description="of the sampled book")
    precision: Literal[32, 64] = Field(32, description="bits of a floating-point number: 32 for speed, 64 for proof")
    max_rounds: Annotated[Whole, Field(ge=1, le=1000)] = Field(3, description="most rounds of liquidation within one step")


class LimitSpec(Spec):
    """A bound on one metric, for every scenario."""

    max: Number | None = Field(None, description="breached above")
    min: Number | None = Field(None, description="breached below")
    reason: str = Field("", description="why the limit is there; shown in the report")

    @model_validator(mode="after")
    def _bounded(self):
        if self.max is None and self.min is None:
            raise ValueError("give max or min")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class SuiteSpec(Spec):
    """What a committee runs: a system, scenarios, a policy and the limits."""

    kind: Literal["suite"] = Field(description="says what the file is")
    name: Name = Field(description="also the default folder of the results")
    title: str = Field("", description="for the report")
    description: str = Field("", description="free text, shown in the report")
    system: str = Field(description="system file")
    scenarios: tuple[str, ...] = Field(min_length=1, description="scenario files")
    run: RunSpec = Field(RunSpec(), description="how to compute")
    policy: PolicySpec = Field(PolicySpec(), description="the leverage rules")
    limits: dict[str, LimitSpec] = Field(default_factory=dict, description="metric -> bound")
