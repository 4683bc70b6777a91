"""How algorithmic traders and depositors behave in a scenario; without it they do nothing."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Share, Spec
from stresslev.config.tiers import Number


class TradersSpec(Spec):
    """Traders of one kind at one venue."""

    kind: Literal["momentum", "mean_reversion", "leverage_target", "funding_arbitrage"] = Field(
        description="buy what rises; buy what is below its mean; hold a leverage that falls with volatility; be paid funding, hedged"
    )
    pool: Name = Field(description="venue they trade at")
    capital_usd: dict[Name, Positive] = Field(min_length=1, description="asset -> largest position; of leverage funds, the equity at the start")
    response_minutes: Positive = Field(30.0, description="time in which half of the gap to the position wanted is traded")
    scale: Positive | None = Field(
        None,
        description="signal at which 76% of the capital is used: 'momentum' log return per day, 'mean_reversion' log distance from the mean, "
        "'funding_arbitrage' rate per funding period; absent: 0.05, 0.02, 0.0005",
    )
    leverage: Annotated[Number, Field(gt=0, le=100)] = Field(3.0, description="'leverage_target': position over equity at the reference volatility")
    exponent: Annotated[Number, Field(ge=-5, le=5)] = Field(1.0, description="'leverage_target': percent by which it falls per percent of volatility")
    maintenance: Annotated[Number, Field(ge=0, lt=1)] = Field(0.05, description="'leverage_target': equity over position at which it is closed out")


class RunsSpec(Spec):
    """Depositors of a lender who leave when it looks weak."""

    pool: Name = Field(description="lender")
    assets: tuple[Name, ...] | None = Field(None, description="deposits that may run; absent: all")
    leave_minutes: Positive = Field(240.0, description="time in which half of the deposits leave at full weakness of one kind")
    utilisation_at: Annotated[Number, Field(ge=0, lt=1)] = Field(0.9, description="share lent out above which depositors begin to leave")
    cover_at: Annotated[Number, Field(gt=0, le=1)] = Field(1.0, description="cover of deposits below which they do")
    most_per_hour: Share = Field(0.5, description="largest share that leaves in an hour")


class BehaviourSpec(Spec):
    """Aggregated flows of those who follow a rule."""

    traders: tuple[TradersSpec, ...] = Field((), description="algorithmic traders")
    runs: tuple[RunsSpec, ...] = Field((), description="depositors who run")
    trend_half_life_minutes: Positive = Field(120.0, description="memory of the trend that momentum follows")
    mean_half_life_minutes: Positive = Field(1440.0, description="memory of the mean that prices revert to")
    volatility_half_life_minutes: Positive = Field(240.0, description="memory of the volatility that leverage funds look at")
    quiet_volatility: NonNegative = Field(0.1, description="annual volatility that leverage funds add to what they see")

    @model_validator(mode="after")
    def _once(self):
        seen = set()
        for t in self.traders:
            if (t.kind, t.pool) in seen:
                raise ValueError(f"traders: {t.kind!r} at {t.pool!r} appears twice; put all assets in one capital_usd")
            seen.add((t.kind, t.pool))
        pools = [r.pool for r in self.runs]
        for pool in pools:
            if pools.count(pool) > 1:
                raise ValueError(f"runs: {pool!r} appears twice; leave one of them out")
        return self
