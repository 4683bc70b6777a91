"""The specifications behind every TOML file: system, scenario, policy, run and suite."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from stresslev.config.assets import ArbitrageSpec, AssetSpec
from stresslev.config.base import Name, NonNegative, Positive, Share, Spec, Whole, Yes, check_rising
from stresslev.config.behaviour import BehaviourSpec
from stresslev.config.policy import PolicySpec
from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.config.tiers import Number, TierTable
from stresslev.errors import Unfit, did_you_mean

#: Most time steps of a scenario.
MAX_STEPS = 1_000_000


def _kind(pool) -> str:
    """Which sort of pool a table describes: a perp venue unless it says otherwise."""
    return pool.get("kind", "perp") if isinstance(pool, dict) else getattr(pool, "kind", "perp")


AnyPool = Annotated[Annotated[PerpSpec, Tag("perp")] | Annotated[LendingSpec, Tag("lending")], Discriminator(_kind)]


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
    owners_share: Share = Field(0.0, description="share of each pool's accounts whose owner has an account in the next pool too")

    @model_validator(mode="after")
    def _ordered(self):
        if self.leverage_min >= self.leverage_max:
            raise ValueError("leverage_min must be below leverage_max; lower leverage_min or raise leverage_max")
        return self


class TierFile(Spec):
    """A contract of a venue's tier dump."""

    file: str = Field(description="CSV, plain or gzipped, or the JSON of ccxt's fetchLeverageTiers")
    symbol: str = Field(description="contract, as the file spells it")
    price_usd: dict[str, Positive] = Field(default_factory=dict, description="currency -> USD, for contracts whose notionals are not in USD")


class CreditSpec(Spec):
    """What one pool owes another."""

    debtor: Name = Field(description="pool that owes")
    creditor: Name = Field(description="pool that is owed")
    usd: Positive = Field(description="amount")


class ClearingSpec(Spec):
    """What a defaulting pool realises (Rogers and Veraart 2013)."""

    alpha: Share = Field(1.0, description="share of its own assets")
    beta: Share = Field(1.0, description="share of its claims on other pools")


class OwnersSpec(Spec):
    """What owners with accounts in several pools do when one is called for margin."""

    top_up: Annotated[Number, Field(ge=1, le=100)] = Field(1.25, description="health a called account is brought back to")
    keep: Annotated[Number, Field(ge=1, le=1000)] = Field(1.5, description="health below which an account gives nothing away")


class SystemSpec(Spec):
    """The thing under stress."""

    kind: Literal["system"] = Field(description="says what the file is")
    name: Name = Field(description="letters, digits, dot, dash and underscore")
    description: str = Field("", description="free text, shown in the report")
    assumptions: tuple[str, ...] = Field((), description="what is assumed and not measured, one sentence each; shown in the report")
    assets: dict[Name, AssetSpec] = Field(min_length=1, description="the assets and their markets")
    tiers: dict[Name, TierTable | TierFile] = Field(default_factory=dict, description="maintenance tiers, by a name that pools refer to")
    pools: dict[Name, AnyPool] = Field(min_length=1, description="perp venues and lenders")
    arbitrage: ArbitrageSpec | None = Field(None, description="between venues with a book of their own; absent: nobody closes a basis")
    credit: tuple[CreditSpec, ...] = Field((), description="what pools owe each other")
    clearing: ClearingSpec = Field(ClearingSpec(), description="of that credit")
    owners: OwnersSpec | None = Field(None, description="margin calls across pools, for books that name owners; absent: none")
    book: BookSpec = Field(BookSpec(), description="where the accounts come from")

    @model_validator(mode="after")
    def _names_resolve(self):
        for pool_name, pool in self.pools.items():
            for key, assets in pool.assets_named.items():
                for asset in assets:
                    if asset not in self.assets:
                        raise Unfit(f"pools.{pool_name}.{key} names asset {asset!r}, which is not in [assets]", did_you_mean(asset, self.assets))
            for asset in pool.local_depth_share:
                if self.assets[asset].receipt is not None:
                    raise ValueError(
                        f"pools.{pool_name}.local_depth_share.{asset}: a receipt token trades as its underlying; leave {asset} out of it"
                    )
            if isinstance(pool, PerpSpec):
                self._check_perp(pool_name, pool)
        self._check_receipts()
        self._check_follows()
        for link in self.credit:
            for role in ("debtor", "creditor"):
                if (named := getattr(link, role)) not in self.pools:
                    raise Unfit(f"credit names {role} {named!r}, which is not in [pools]", did_you_mean(named, self.pools))
            if link.debtor == link.creditor:
                raise ValueError(f"credit: pool {link.debtor!r} cannot owe itself; name two different pools")
        if self.book.file is not None:
            for name, asset in self.assets.items():
                if asset.price_usd is None and asset.peg_usd is None and asset.receipt is None:
                    raise ValueError(
                        f"assets.{name}.price_usd is missing: a book from a file is valued at present marks"
                        f"; give the mark of {name} when the book was taken"
                    )
        return self

    def _check_perp(self, pool_name: str, pool: PerpSpec) -> None:
        held = dict.fromkeys((*pool.open_interest_usd, *pool.tiers))
        if pool.portfolio_margin is None:
            for asset in pool.open_interest_usd:
                if asset not in pool.tiers:
                    raise ValueError(
                        f"pools.{pool_name}.tiers has no table for asset {asset}; every contract needs one; name one of [tiers] for {asset}"
                    )
            if not held:
                raise ValueError(f"pools.{pool_name}.tiers is empty: name a table for every contract, or give portfolio_margin")
        for asset, table in pool.tiers.items():
            if table not in self.tiers:
                raise Unfit(f"pools.{pool_name}.tiers.{asset} names {table!r}, which is not in [tiers]", did_you_mean(table, self.tiers))
        if self.book.file is None and not pool.open_interest_usd:
            raise ValueError(f"pools.{pool_name}.open_interest_usd is empty: the sampler needs the open interest of at least one asset; give one")

    def _check_receipts(self) -> None:
        for name, asset in self.assets.items():
            receipt, chain = asset.receipt, [name]
            while receipt is not None:
                if receipt.pool not in self.pools:
                    raise Unfit(f"assets.{name}.receipt.pool names {receipt.pool!r}, which is not in [pools]", did_you_mean(receipt.pool, self.pools))
                if receipt.underlying not in self.assets:
                    fix = did_you_mean(receipt.underlying, self.assets)
                    raise Unfit(f"assets.{name}.receipt.underlying names {receipt.underlying!r}, which is not in [assets]", fix)
                if receipt.underlying in chain:
                    ring = " -> ".join([*chain, receipt.underlying])
                    raise ValueError(
                        f"assets.{name}.receipt goes round in a circle ({ring}): one of these assets needs a market and a price of its own"
                    )
                chain.append(receipt.underlying)
                receipt = self.assets[receipt.underlying].receipt
            if len(chain) > 2:
                raise ValueError(f"assets.{name}.receipt: the underlying {chain[1]!r} is a receipt token itself; name {chain[-1]!r}")

    def _check_follows(self) -> None:
        for name, asset in self.assets.items():
            if asset.follows is not None:
                other = self.assets.get(asset.follows.asset)
                if other is None or other.follows is not None or other.receipt is not None:
                    fix = did_you_mean(asset.follows.asset, [n for n, a in self.assets.items() if a.follows is None and a.receipt is None])
                    raise Unfit(f"assets.{name}.follows.asset names {asset.follows.asset!r}, which must be an asset with a path of its own", fix)

    def tier_table(self, pool: str, asset: str) -> TierTable | None:
        """The resolved schedule of one contract (files have been read by the loader); None where the pool has no such contract."""
        found = self.pools[pool]
        name = found.tiers.get(asset) if isinstance(found, PerpSpec) else None
        return None if name is None else self.tiers[name]


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
                raise ValueError("minutes and prices need the same number of entries; give one price for each minute")
            if len(self.minutes) < 2:
                raise ValueError("a path needs at least two points; give another")
            if self.minutes[0] != 0:
                raise ValueError(f"the first point must be at minute 0, it is at {self.minutes[0]:g}; give a point at minute 0")
            check_rising(self.minutes)
        if forms[2] and self.start_price_usd is None:
            raise ValueError("a proxied path needs start_price_usd; give start_price_usd")
        return self


class DepthSpec(Spec):
    """Factor on market depth through time, linear between points and constant after the last."""

    minutes: tuple[NonNegative, ...] = Field((0.0,), description="minutes since the scenario's start")
    factors: tuple[Positive, ...] = Field((1.0,), description="factor on depth at those minutes")
    source: str = Field("", description="where the figures come from")

    @model_validator(mode="after")
    def _matched(self):
        if len(self.minutes) != len(self.factors) or not self.minutes:
            raise ValueError("minutes and factors need the same number of entries, at least one; give one factor for each minute")
        check_rising(self.minutes)
        return self


class CurveSpec(Spec):
    """A figure through time: linear between points, constant after the last."""

    minutes: tuple[NonNegative, ...] = Field((0.0,), description="minutes since the scenario's start")
    values: tuple[Annotated[Number, Field(gt=-1, le=100)], ...] = Field(description="at those minutes")
    stepped: Yes = Field(False, description="hold each value until the next point instead of going there in a line")
    source: str = Field("", description="where the figures come from")

    @model_validator(mode="after")
    def _matched(self):
        if len(self.minutes) != len(self.values) or not self.minutes:
            raise ValueError("minutes and values need the same number of entries, at least one; give one value for each minute")
        check_rising(self.minutes)
        return self


class SpanSpec(Spec):
    """A pool and a span of time."""

    pool: Name = Field(description="which")
    start_minute: NonNegative = Field(description="from")
    end_minute: Positive = Field(description="until")

    @model_validator(mode="after")
    def _ordered(self):
        if self.end_minute <= self.start_minute:
            raise ValueError("end_minute must be after start_minute; raise end_minute")
        return self


class OutageSpec(SpanSpec):
    """A pool that is down: its marks stand still and nothing can be liquidated."""


class StuckSpec(SpanSpec):
    """Marks or oracles of a pool that stand still while it goes on working."""

    assets: tuple[Name, ...] | None = Field(None, min_length=1, description="whose marks; absent: all")


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
    dislocations: dict[Name, dict[Name, CurveSpec]] = Field(
        default_factory=dict, description="pool -> asset -> relative error of the pool's mark: a bad print, a stale or manipulated oracle"
    )
    premiums: dict[Name, dict[Name, CurveSpec]] = Field(
        default_factory=dict, description="pool -> asset -> premium of the perp over the index, for funding"
    )
    outages: tuple[OutageSpec, ...] = Field((), description="pools that are down for a while")
    stuck_marks: tuple[StuckSpec, ...] = Field((), description="marks or oracles that stand still for a while, at pools that go on working")
    system: str | None = Field(None, description="system to run the scenario on by itself; absent: three perp venues. Suites name their own")
    behaviour: BehaviourSpec | None = Field(None, description="what algorithmic traders and depositors do; absent: nothing")

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
            raise ValueError("duration_minutes must be a whole number of steps of step_minutes; give a multiple of step_minutes")
        for name, path in self.paths.items():
            if path.proxy is not None and (path.proxy not in self.paths or self.paths[path.proxy].proxy is not None):
                fix = did_you_mean(path.proxy, [n for n, p in self.paths.items() if p.proxy is None])
                raise Unfit(f"paths.{name}.proxy names {path.proxy!r}, which must be an asset of this scenario with a path of its own", fix)
        if "default" in self.paths:
            raise ValueError("an asset cannot be called 'default': [depth.default] stands for all others; give it another name")
        if self.start is not None and not 1970 <= self.start.year <= 2200:
            raise ValueError(f"start lies in the year {self.start.year}; give one between 1970 and 2200")
        for name in self.depth:
            if name != "default" and name not in self.paths:
                raise Unfit(f"depth.{name} names an asset without a path", did_you_mean(name, [*self.paths, "default"]))
        return self

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return round(self.duration_minutes / self.step_minutes)


class RunSpec(Spec):
    """How to compute."""

    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(2025, description="of the sampled book")
    precision: Literal[32, 64] = Field(32, description="bits of a floating-point number: 32 for speed, 64 for proof")
    max_rounds: Annotated[Whole, Field(ge=1, le=1000)] = Field(3, description="most rounds of liquidation within one step")
    stepping: Literal["auto", "all", "active"] = Field(
        "auto",
        description="which accounts each step looks at: all, or (active) only those that something could happen to, with the same results; "
        "auto takes active where it pays",
    )
    population: Literal["accounts", "profile", "auto"] = Field(
        "accounts",
        description="how accounts are kept: one by one; or, approximately, at a cost that does not grow with their number, as a liquidation profile "
        "those that it can hold (isolated perp positions closed in full, loans of one collateral and one debt repaid in full); auto does without "
        "where it can hold none",
    )
    batch: Literal["auto", "off"] | Annotated[Whole, Field(ge=1, le=100_000)] = Field(
        "auto",
        description="most runs of one structure (scenarios, policies) that go through one program together; off: one after the other; auto: together "
        "where it is faster, which is a liquidation profile, or few accounts on a GPU",
    )
    memory_gib: Positive | None = Field(None, description="most that runs may take; absent: a share of what is free")
    attribution: Yes = Field(False, description="also run with channels of contagion shut, to say how much loss came which way")
    measures: Yes = Field(True, description="also measure leverage used by groups of accounts, and liquidations that were not needed")
    liquidation_map: Yes = Field(False, description="also measure, a few dozen times, what every pool would liquidate at moved prices")
    attribution_accounts: Annotated[Whole, Field(ge=1, le=1_000_000_000)] = Field(
        20_000, description="most accounts of the sampled book that these runs use; a book from a file is used whole"
    )

    @field_validator("batch", mode="before")
    @classmethod
    def _how_many(cls, value):
        if value in ("auto", "off") or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000):
            return value
        raise ValueError("is not a number of runs; give auto, off or a whole number from 1 to 100,000")


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
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; lower min or raise max")
        return self


class SuiteSpec(Spec):
    """What a committee runs: a system, scenarios, a policy and the limits."""

    kind: Literal["suite"] = Field(description="says what the file is")
    name: Name = Field(description="also the default folder of the results")
    title: str = Field("", description="for the report")
    description: str = Field("", description="free text, shown in the report")
    system: str = Field(description="system file")
    scenarios: tuple[str, ...] = Field(min_length=1, description="scenario and generator files")
    run: RunSpec = Field(RunSpec(), description="how to compute")
    policy: PolicySpec = Field(PolicySpec(), description="the leverage rules")
    limits: dict[str, LimitSpec] = Field(default_factory=dict, description="metric -> bound")
