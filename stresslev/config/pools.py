"""Pools: perpetual-futures venues, and lenders."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Share, Spec, Yes
from stresslev.config.tiers import Number

Rate = Annotated[Number, Field(ge=-1, le=1)]
Health = Annotated[Number, Field(gt=1, le=100)]
Bps = Annotated[Number, Field(ge=0, le=1000)]


class AuctionSpec(Spec):
    """Liquidation by auction: the discount grows while an account waits."""

    start: Annotated[Number, Field(gt=-1, lt=1)] = Field(0.0, description="discount in the first step; negative starts above the mark")
    growth_per_minute: NonNegative = Field(0.01, description="rise of the discount")
    most: Annotated[Number, Field(gt=0, lt=1)] = Field(0.2, description="largest discount")


class LiquidationSpec(Spec):
    """What a perp venue does with an under-margined account."""

    rule: Literal["full", "restore", "stepwise", "close_factor"] = Field(
        "full", description="close everything; just enough to be back at target_health; down one tier at a time; a fixed share"
    )
    target_health: Health = Field(1.25, description="'restore': equity over maintenance margin after a restoring liquidation")
    close_factor: Annotated[Number, Field(gt=0, le=1)] = Field(0.5, description="'close_factor': share of the positions closed at a time")
    full_below: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="health below which everything is closed whatever the rule")
    queue: Literal["pro_rata", "worst_first", "first_in"] = Field(
        "pro_rata",
        description="who is served when the capacity is too small: all in proportion, the worst health first, the longest under margin first",
    )
    auction: AuctionSpec | None = Field(None, description="close by auction")
    required_profit: Annotated[Number, Field(ge=-1, le=1)] = Field(
        0.0, description="'auction': what takers want on top of the gap between mark and market, of notional"
    )


class LoanLiquidationSpec(Spec):
    """What a lender does with an account whose health factor is below one."""

    rule: Literal["full", "close_factor", "restore"] = Field("close_factor", description="repay all debt, a share of it, or just enough")
    target_health: Health = Field(1.25, description="'restore': health factor afterwards")
    close_factor: Annotated[Number, Field(gt=0, le=1)] = Field(0.5, description="'close_factor': share of the debt repaid at a time")
    full_below: Annotated[Number, Field(ge=0, le=1)] = Field(0.95, description="health factor below which all debt is due whatever the rule")
    execution: Literal["liquidator", "market"] = Field(
        "liquidator",
        description="a liquidator repays and takes collateral at a bonus, or the lender sells in the market and the borrower bears the fill",
    )
    auction: AuctionSpec | None = Field(None, description="the bonus grows while the account waits, instead of the reserves' own")
    required_profit: Annotated[Number, Field(ge=-1, le=1)] | None = Field(
        None, description="liquidators act only when what they get is worth this share more than what they repay, at market prices; absent: always"
    )


class MarkSpec(Spec):
    """How a pool makes its mark or oracle price."""

    index_share: Share = Field(0.0, description="0 the pool's own market, 1 the index of all venues")
    delay_minutes: NonNegative = Field(0.0, description="age of the prices used")
    averaging_minutes: NonNegative = Field(0.0, description="window of a time-weighted average; 0 none")
    smoothing_half_life_minutes: NonNegative = Field(0.0, description="half-life of an exponential average; 0 none")
    deviation: NonNegative = Field(0.0, description="push oracles: relative move that triggers a push; 0 every step")
    heartbeat_minutes: NonNegative = Field(0.0, description="push oracles: longest time between pushes; 0 every step unless deviation is set")


class FundingSpec(Spec):
    """Funding of a perp venue; rates per period, fractions of notional."""

    interest: Rate = Field(0.0001, description="rate towards which small premiums are pulled")
    clamp: NonNegative = Field(0.0005, description="how far the premium may be pulled")
    cap: Rate = Field(0.02, description="highest rate")
    floor: Rate = Field(-0.02, description="lowest rate")
    interval_minutes: Positive = Field(480.0, description="time between payments")
    period_minutes: Positive = Field(480.0, description="time that the rate is quoted for")
    skew_slope: NonNegative = Field(0.0, description="premium per unit of (longs - shorts) / (longs + shorts)")
    rising_weights: Yes = Field(False, description="later premiums of an interval weigh more")
    continuous: Yes = Field(False, description="pay in every step instead of at the end of the interval")


class SizeScaleSpec(Spec):
    """Maintenance that grows with the square root of the position."""

    form: Literal["drift", "dydx"] = Field(
        description="'drift' max(base, 0.8 base + imf_factor sqrt(coins)); 'dydx' base max(1, sqrt(n / base_position))"
    )
    base: Share = Field(description="margin ratio of small positions: the first tier's")
    imf_factor: NonNegative = Field(0.0, description="'drift': per square root of a coin")
    base_position_usd: Positive | None = Field(None, description="'dydx': notional up to which the ratio is the base")

    @model_validator(mode="after")
    def _complete(self):
        if self.form == "dydx" and self.base_position_usd is None:
            raise ValueError("form 'dydx' needs base_position_usd; give base_position_usd")
        return self


class InterestScaleSpec(Spec):
    """Requirement that grows with open interest."""

    base: Annotated[Number, Field(gt=0, le=1)] = Field(description="initial margin fraction below the lower cap")
    lower_usd: NonNegative = Field(description="open interest at which it begins to grow")
    upper_usd: Positive = Field(description="open interest at which it is 1")

    @model_validator(mode="after")
    def _ordered(self):
        if self.upper_usd <= self.lower_usd:
            raise ValueError("upper_usd must be above lower_usd; raise upper_usd")
        return self


class PortfolioSpec(Spec):
    """Portfolio margin instead of tiers."""

    form: Literal["scan", "single", "net_correlation", "covariance", "expected_shortfall"] = Field(
        description="worst scenario; per-asset scans without offsets; offsets by correlation; standard deviations; normal expected shortfall"
    )
    moves: tuple[Annotated[Number, Field(gt=-1)], ...] = Field((), description="scan forms: relative price moves, all assets together")
    weights: tuple[Share, ...] = Field((), description="share of each scenario's loss that counts; absent: all of it")
    scenarios: tuple[dict[Name, Annotated[Number, Field(ge=-1)]], ...] = Field((), description="'scan': further scenarios, move by asset")
    scenario_weights: tuple[Share, ...] = Field((), description="their weights")
    correlation: Annotated[Number, Field(ge=0, le=1)] = Field(0.8, description="between any two assets")
    volatility: dict[Name, Positive] = Field(
        default_factory=dict, description="asset -> volatility per year; absent: the asset's reference volatility"
    )
    margin_period_days: Positive = Field(1.0, description="covariance forms: time to close out")
    deviations: Positive = Field(3.0, description="'covariance': standard deviations covered")
    level: Annotated[Number, Field(gt=0.5, lt=1)] = Field(0.99, description="'expected_shortfall': confidence")
    floor_rate: Share = Field(0.0, description="least requirement, of gross notional")
    maintenance_share: Annotated[Number, Field(gt=0, le=1)] = Field(1.0, description="maintenance as a share of the form's figure")

    @model_validator(mode="after")
    def _complete(self):
        if self.weights and len(self.weights) != len(self.moves):
            raise ValueError(f"weights needs one entry per move, has {len(self.weights)} for {len(self.moves)}; give one weight for each move")
        if self.scenario_weights and len(self.scenario_weights) != len(self.scenarios):
            raise ValueError(
                f"scenario_weights needs one entry per scenario, has {len(self.scenario_weights)} for {len(self.scenarios)}"
                "; give one weight for each scenario"
            )
        if self.form in ("scan", "single", "net_correlation") and not self.moves and not self.scenarios:
            raise ValueError(f"form {self.form!r} needs moves; give moves")
        if self.form in ("single", "net_correlation") and self.scenarios:
            raise ValueError(f"form {self.form!r} scans one asset at a time: give moves, not scenarios")
        return self


class HaircutSpec(Spec):
    """Coins accepted as margin."""

    haircut: Share = Field(description="share of their value that does not count")
    share: Share = Field(0.0, description="for the sampler: share of the accounts' equity that is held in this coin")


class PoolBookSpec(Spec):
    """How the sampler fills one pool."""

    account_weight: Positive = Field(1.0, description="the pool's number of accounts, in proportion to the other pools'")
    leverage_median: Positive | None = Field(None, description="perps: overrides book.leverage_median")
    health_median: Annotated[Number, Field(gt=1)] = Field(1.8, description="lending: median health factor of borrowers")
    health_sigma: NonNegative = Field(0.5, description="lending: standard deviation of the log of health factor less one")


Stage = Literal["insurance_fund", "shared_funds", "adl", "socialise"]


class PoolSpec(Spec):
    """What every pool has."""

    description: str = Field("", description="free text, shown in the report")
    insurance_fund_usd: NonNegative = Field(description="balance at the start; liquidation fees add to it, deficits draw on it")
    capital_usd: NonNegative = Field(
        0.0, description="own funds besides, credit at face value; losses beyond them fall on creditors and receipt tokens"
    )
    liquidation_capacity_usd_per_minute: Positive | None = Field(None, description="most notional the pool can close per minute; absent: no limit")
    waterfall: tuple[Stage, ...] = Field(("insurance_fund",), description="who bears deficits, in order; what is left is bad debt")
    fund_group: Name | None = Field(None, description="'shared_funds': pools of one group stand in for each other")
    mark: MarkSpec | None = Field(None, description="mark or oracle; absent: the price at which the pool trades")
    index_weight: dict[Name, NonNegative] = Field(default_factory=dict, description="asset -> weight of this pool's price in the index")
    local_depth_share: dict[Name, Share] = Field(
        default_factory=dict, description="asset -> share of its depth that is this pool's own book; absent: it trades in the common market"
    )
    book: PoolBookSpec = Field(PoolBookSpec(), description="how the sampler fills this pool")

    @model_validator(mode="after")
    def _stages(self):
        if len(set(self.waterfall)) != len(self.waterfall):
            raise ValueError("waterfall names a stage twice; leave one of them out")
        if "shared_funds" in self.waterfall and self.fund_group is None:
            raise ValueError("waterfall has 'shared_funds': give fund_group")
        return self


class PerpSpec(PoolSpec):
    """One perpetual-futures venue."""

    kind: Literal["perp"] = Field("perp", description="perpetual futures")
    taker_fee_bps: Bps = Field(5.0, description="of the notional closed, to the venue")
    liquidation_fee_bps: Bps = Field(100.0, description="of the notional closed, to the insurance fund")
    liquidator_fee_bps: Bps = Field(0.0, description="of the notional closed, to whoever takes the position over")
    takeover: Yes = Field(False, description="what remains of an account closed in full goes to the insurance fund, instead of the liquidation fee")
    liquidation: LiquidationSpec = Field(LiquidationSpec(), description="what the venue does with an under-margined account")
    adl: Literal["pnl_leverage", "pnl", "hyperliquid", "pro_rata_pnl", "pro_rata_equity"] = Field(
        "pnl_leverage", description="'adl': who is deleveraged, and in which order"
    )
    socialise_by: Literal["gains", "equity"] = Field("gains", description="'socialise': in proportion to what")
    tiers: dict[Name, Name] = Field(default_factory=dict, description="asset -> name of a table in [tiers]")
    portfolio_margin: PortfolioSpec | None = Field(None, description="instead of tiers")
    size_scale: dict[Name, SizeScaleSpec] = Field(default_factory=dict, description="asset -> growth of the requirement with position size")
    open_interest_scale: dict[Name, InterestScaleSpec] = Field(default_factory=dict, description="asset -> growth with open interest")
    inverse: tuple[Name, ...] = Field((), description="assets whose contracts are of fixed USD face and margined in the coin")
    collateral: dict[Name, HaircutSpec] = Field(default_factory=dict, description="asset -> haircut of coins accepted as margin")
    funding: FundingSpec | None = Field(None, description="absent: none")
    open_interest_usd: dict[Name, Positive] = Field(default_factory=dict, description="asset -> USD, for the sampler")
    imbalance: dict[Name, Annotated[Number, Field(ge=-1, le=1)]] = Field(
        default_factory=dict, description="asset -> (customers' longs - shorts) / (longs + shorts), for the sampler"
    )

    @model_validator(mode="after")
    def _consistent(self):
        if "adl" in self.waterfall and self.inverse:
            raise ValueError("auto-deleveraging of inverse contracts is not modelled: leave 'adl' out of the waterfall")
        if self.portfolio_margin is not None and (self.size_scale or self.open_interest_scale):
            raise ValueError("size_scale and open_interest_scale go with tiers, not with portfolio_margin; leave out one or the other")
        return self

    @property
    def assets_named(self) -> dict[str, tuple[str, ...]]:
        """Key -> assets it names, for the check that they exist."""
        keys = ("tiers", "size_scale", "open_interest_scale", "collateral", "open_interest_usd", "imbalance", "index_weight", "local_depth_share")
        named = {key: tuple(getattr(self, key)) for key in keys} | {"inverse": self.inverse}
        if self.portfolio_margin is not None:
            named["portfolio_margin.volatility"] = tuple(self.portfolio_margin.volatility)
            named["portfolio_margin.scenarios"] = tuple(a for s in self.portfolio_margin.scenarios for a in s)
        return named


class RateSpec(Spec):
    """Borrowing rate per year by utilisation."""

    optimal: Share = Field(0.8, description="utilisation at the kink")
    base: NonNegative = Field(0.0, description="rate at no utilisation")
    slope1: NonNegative = Field(0.04, description="rise up to the kink")
    slope2: NonNegative = Field(0.75, description="rise from the kink to full utilisation")


class ReserveSpec(Spec):
    """One asset of a lender."""

    ltv: Share | None = Field(None, description="most debt per collateral when borrowing; absent: the threshold")
    liquidation_threshold: Share = Field(0.0, description="share of the collateral's value that counts in the health factor")
    bonus: Annotated[Number, Field(ge=0, le=1)] = Field(0.05, description="extra collateral per debt repaid")
    collateral: Yes = Field(True, description="can be used as collateral")
    seizable: Yes = Field(True, description="can be sold or seized in a liquidation")
    borrowable: Yes = Field(True, description="can be borrowed")
    reserve_factor: Share = Field(0.1, description="share of the interest that the pool keeps")
    rate: RateSpec = Field(RateSpec(), description="borrowing rate")
    supplied_usd: NonNegative | None = Field(
        None, description="deposits of all suppliers, collateral included; what borrowers do not hold is other depositors'"
    )
    borrowed_usd: NonNegative | None = Field(None, description="all loans, for the sampler")

    @model_validator(mode="after")
    def _ordered(self):
        if self.ltv is not None and self.collateral and self.ltv > self.liquidation_threshold:
            raise ValueError(
                f"ltv {self.ltv:g} is above liquidation_threshold {self.liquidation_threshold:g}: a new loan could be liquidated at once"
            )
        if self.collateral and (1 + self.bonus) * self.liquidation_threshold > 1 + 1e-9:
            raise ValueError(
                f"threshold {self.liquidation_threshold:g} times 1 + bonus {self.bonus:g} is above 1: a liquidation at the threshold leaves bad debt"
            )
        return self


class LendingSpec(PoolSpec):
    """One lending protocol, or a margin lender."""

    kind: Literal["lending"] = Field(description="loans against collateral")
    liquidation: LoanLiquidationSpec = Field(LoanLiquidationSpec(), description="what the lender does below a health factor of one")
    protocol_fee: Share = Field(0.0, description="share of the bonus that goes to the pool's reserves")
    reserves: dict[Name, ReserveSpec] = Field(min_length=1, description="asset -> terms")

    @model_validator(mode="after")
    def _possible(self):
        if "adl" in self.waterfall:
            raise ValueError("a lender has no winners to deleverage: leave 'adl' out of the waterfall")
        return self

    @property
    def assets_named(self) -> dict[str, tuple[str, ...]]:
        """Key -> assets it names, for the check that they exist."""
        return {key: tuple(getattr(self, key)) for key in ("reserves", "index_weight", "local_depth_share")}
