"""The specification of a policy: the rules that adjust leverage, what they may set, and what a tightened cap does."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Share, Spec
from stresslev.config.tiers import Number

Leverage = Annotated[Number, Field(gt=0, le=1000, allow_inf_nan=False)]
Multiplier = Annotated[Number, Field(gt=0, le=100)]
Exponent = Annotated[Number, Field(ge=0, le=10)]
Floor = Annotated[Number, Field(gt=0, le=1)]
Ceiling = Annotated[Number, Field(ge=1, le=100)]
Minutes = Annotated[Number, Field(ge=0, le=1e7)]
Every = Annotated[Number, Field(gt=0, le=1e6)]


class CapsSpec(Spec):
    """Caps on leverage, and how fast they may move."""

    base: Leverage | None = Field(None, description="leverage allowed when every rule is neutral; absent: the most that the first tier allows")
    pools: dict[Name, dict[Name, Leverage]] = Field(default_factory=dict, description="pool -> asset -> base, instead of the general one")
    floor: Leverage = Field(1.0, description="least leverage that the rules may leave")
    ceiling: Leverage = Field(125.0, description="most leverage that the rules may allow")
    least_maintenance: Multiplier = Field(0.5, description="least multiplier of the maintenance requirement that the rules may set")
    most_maintenance: Multiplier = Field(5.0, description="largest one")
    halving_minutes: Minutes = Field(60.0, description="time in which a cap can halve, or a requirement double, at most; 0: at once")
    doubling_minutes: Minutes = Field(1440.0, description="time in which a cap can double, or a requirement halve, at most; 0: at once")
    notice_minutes: Minutes = Field(0.0, description="time between the announcement of a change and its beginning")

    @model_validator(mode="after")
    def _ordered(self):
        if self.floor > self.ceiling:
            raise ValueError(f"floor {self.floor:g} is above ceiling {self.ceiling:g}; lower floor or raise ceiling")
        if self.least_maintenance > self.most_maintenance:
            raise ValueError(
                f"least_maintenance {self.least_maintenance:g} is above most_maintenance {self.most_maintenance:g}"
                "; lower the first or raise the second"
            )
        return self


class RuleSpec(Spec):
    """What every rule has: where it acts, and on what."""

    on_cap: Exponent = Field(1.0, description="exponent of the rule's factor in the cap; 0: caps are left alone")
    on_maintenance: Exponent = Field(0.0, description="exponent with which the factor raises the maintenance requirement; 0: it is left alone")
    in_pools: tuple[Name, ...] | None = Field(None, description="pools in which it acts; absent: all")


class VolatilityRule(RuleSpec):
    """Factor `clip((target / sigma)^gamma, floor, ceiling)` of annual volatility sigma (per asset).

    sigma is estimated (RiskMetrics 1996; Bollerslev 1986; Parkinson 1980), mixed with the volatility of a stressed window, raised to a least one and
    buffered, in this order (EMIR RTS 153/2013, article 28).
    """

    kind: Literal["volatility"] = Field(description="says which rule it is")
    target: Positive | None = Field(None, description="annual volatility at which the factor is one; absent: each asset's own reference volatility")
    gamma: Exponent = Field(1.0, description="percent by which the cap falls for each percent of volatility")
    floor: Floor = Field(0.1, description="least factor")
    ceiling: Ceiling = Field(1.0, description="largest factor")
    estimator: Literal["ewma", "garch", "range"] = Field("ewma", description="RiskMetrics, GARCH(1,1), or high-low ranges of bars (Parkinson)")
    half_life_minutes: Positive = Field(240.0, description="'ewma' and 'range': time in which an observation loses half its weight")
    alpha: Share = Field(0.05, description="'garch': weight of the last squared return, per step")
    beta: Share = Field(0.94, description="'garch': weight of the last variance, per step")
    bar_minutes: Positive = Field(60.0, description="'range': length of a bar")
    buffer: Annotated[Number, Field(ge=0, le=5)] = Field(
        0.0, description="margin held above volatility in calm, as a share, released when volatility rises (EMIR: 0.25)"
    )
    release: Positive | None = Field(None, description="annual volatility at which the buffer is used up; absent: it is never released")
    stressed_weight: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="weight of the stressed volatility in the variance (EMIR: 0.25)")
    stressed_volatility: Positive | None = Field(None, description="annual; needed with a stressed_weight")
    least_volatility: NonNegative = Field(0.0, description="annual floor, such as a long-run average (EMIR: ten years)")

    @model_validator(mode="after")
    def _complete(self):
        if self.stressed_weight > 0 and self.stressed_volatility is None:
            raise ValueError("a stressed_weight needs stressed_volatility; give stressed_volatility")
        if self.alpha + self.beta >= 1:
            raise ValueError(
                f"alpha + beta = {self.alpha + self.beta:g} must be below 1: the variance would not return to its mean; lower one of the two"
            )
        return self


class ResponseRule(RuleSpec):
    """A factor of one up to a level, that falls as a power of what it reads beyond it."""

    kind: Literal["utilisation", "concentration", "funding", "gauge"] = Field(
        description="'utilisation': open interest over insurance fund, and loans over deposits at lenders; "
        "'concentration': open interest over depth; 'funding': size of the funding rate per period; 'gauge': the systemic gauge"
    )
    at: Positive = Field(description="level at which it begins to act")
    slope: Exponent = Field(1.0, description="percent by which the cap falls for each percent above it")
    floor: Floor = Field(0.1, description="least factor")
    ceiling: Ceiling = Field(1.0, description="largest factor, below the level")
    lenders_at: Positive | None = Field(None, description="'utilisation': the level at lenders; absent: 0.8")


class OwnRule(RuleSpec):
    """A rule of the user's own: a class in Python with `start(reading)` and `react(memory, reading)`; factors are (V, A) and above 0."""

    kind: Literal["own"] = Field(description="says which rule it is")
    rule: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = Field(description="'package.module:Class'")
    parameters: dict[Name, Number] = Field(default_factory=dict, description="the class's fields")


AnyRule = Annotated[VolatilityRule | ResponseRule | OwnRule, Field(discriminator="kind")]


class TransitionSpec(Spec):
    """What a tightened cap does to the accounts above it, and how users behave meanwhile."""

    form: Literal["new_risk", "call", "pace"] = Field(
        "new_risk", description="bar new risk only; call for margin with a window; force reduction at a pace"
    )
    window_minutes: Minutes = Field(1440.0, description="'call': time to answer a margin call")
    met: Share = Field(0.5, description="'call': share of the shortage that accounts meet with outside cash; the rest by reducing")
    pace_minutes: Positive = Field(60.0, description="'pace': time in which half of what is too much is closed")
    aim: Annotated[Number, Field(gt=0, le=1)] = Field(0.95, description="utilisation that a reduction aims at")
    warn: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        None, description="utilisation above which users reduce by themselves; absent: they do not"
    )
    response_minutes: Positive = Field(60.0, description="time in which they close half of what is above it")
    safe: Share = Field(0.0, description="utilisation below which users take back what they gave up; 0: they do not")
    releverage_minutes: Positive = Field(1440.0, description="time in which they take back half of it")
    initial_over_maintenance: Annotated[Number, Field(ge=1, le=100)] = Field(
        2.0, description="initial margin over maintenance margin: what taking back must leave room for"
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.warn is not None and self.safe > self.warn:
            raise ValueError(
                f"safe {self.safe:g} is above warn {self.warn:g}: users would take back what they are giving up; lower safe or raise warn"
            )
        if self.safe > self.aim:
            raise ValueError(
                f"safe {self.safe:g} is above aim {self.aim:g}: users would take back what the pool has just closed; lower safe or raise aim"
            )
        return self


class SizeSpec(Spec):
    """Maintenance that grows with the size of a position, on top of the tiers."""

    relative_to: Literal["depth", "open_interest", "usd"] = Field("depth", description="what sizes are measured in")
    at: tuple[Positive, ...] | None = Field(None, description="stepped: sizes at which the rate rises")
    rate_increase: tuple[Share, ...] | None = Field(None, description="stepped: by how much")
    amount: Share | None = Field(None, description="smooth: marginal rate added to a position of size one")
    power: Annotated[Number, Field(ge=0.25, le=4)] = Field(0.5, description="smooth: percent by which that rate grows for each percent of size")
    most: Annotated[Number, Field(gt=0, le=1)] = Field(0.5, description="smooth: largest rate added")

    @model_validator(mode="after")
    def _one_form(self):
        if (self.at is None) == (self.amount is None):
            raise ValueError("give either at with rate_increase (stepped) or amount (smooth)")
        if self.at is not None and (self.rate_increase is None or len(self.at) != len(self.rate_increase)):
            raise ValueError("at and rate_increase need the same number of entries; give one rate_increase for each entry of at")
        if self.at is not None and list(self.at) != sorted(set(self.at)):
            raise ValueError("at must rise; put the entries in order, each once")
        return self


class FeaturesSpec(Spec):
    """One number for each feature of the risk score."""

    leverage: Number = Field(0.0, description="log of notional over equity")
    concentration: Number = Field(0.0, description="Herfindahl index of the notionals")
    distance: Number = Field(0.0, description="distance to liquidation in daily standard deviations of the basket")
    volatility: Number = Field(0.0, description="annual volatility of the basket")
    crowding: Number = Field(0.0, description="correlation with what all customers of the pool hold")


class ScoreSpec(Spec):
    """Risk score of accounts; `stresslev score` calibrates one."""

    weights: FeaturesSpec = Field(description="log-odds of liquidation per standard deviation")
    mean: FeaturesSpec = Field(FeaturesSpec(), description="of the features among the accounts it was fitted on")
    scale: FeaturesSpec = Field(
        FeaturesSpec(leverage=1.0, concentration=1.0, distance=1.0, volatility=1.0, crowding=1.0), description="their standard deviations"
    )
    intercept: Number = Field(0.0, description="log-odds of an average account")
    steepness: Exponent = Field(1.0, description="how sharply the factor falls around the midpoint")
    midpoint: Number = Field(0.0, description="log-odds at which the factor is half-way between floor and one")
    floor: Floor = Field(0.1, description="least factor on an account's cap")
    correlation: Share = Field(0.5, description="between any two assets, that features are measured with")
    every_minutes: Every = Field(60.0, description="time between two scorings")

    @model_validator(mode="after")
    def _signs(self):
        for name in FeaturesSpec.model_fields:
            weight = getattr(self.weights, name)
            if (weight > 0) if name == "distance" else (weight < 0):
                side = "not be above 0: distance lowers risk" if name == "distance" else "not be below 0: it raises risk"
                raise ValueError(f"weights.{name} = {weight:g} must {side}")
            if getattr(self.scale, name) <= 0:
                raise ValueError(f"scale.{name} must be above 0; give a positive number")
        return self


class MarginSpec(Spec):
    """Portfolio margin: factors on the pools' own parameters."""

    weight: Annotated[Number, Field(ge=0, le=10)] = Field(1.0, description="on the share of each scenario's loss that counts")
    offset: Share = Field(1.0, description="share of the correlation between different assets that is recognised")
    deviations: Annotated[Number, Field(gt=0, le=10)] = Field(1.0, description="on the standard deviations covered")
    floor: Annotated[Number, Field(ge=0, le=10)] = Field(1.0, description="on the least requirement")


class FundingPolicySpec(Spec):
    """Funding rules that replace the pools' own; absent keys stay."""

    interest: Annotated[Number, Field(ge=-1, le=1)] | None = Field(None, description="rate towards which small premiums are pulled")
    clamp: NonNegative | None = Field(None, description="how far the premium may be pulled")
    cap: Annotated[Number, Field(ge=0, le=1)] | None = Field(None, description="highest rate; its negative is the lowest")
    skew_slope: NonNegative | None = Field(None, description="premium per unit of skew: the crowded side pays, the other is paid to join")
    interval_minutes: Positive | None = Field(None, description="time between payments")


class PolicySpec(Spec):
    """The leverage rules."""

    kind: Literal["policy"] = Field("policy", description="says what the file is")
    name: Name = Field("policy", description="letters, digits, dot, dash and underscore")
    title: str = Field("", description="for the report")
    description: str = Field("", description="free text, shown in the report")
    maintenance_multiplier: Multiplier = Field(
        1.0, description="factor on every requirement: perp maintenance margin, and a lender's distance from threshold to one"
    )
    pools: dict[Name, dict[Name, Multiplier]] = Field(default_factory=dict, description="pool -> asset -> multiplier, instead of the general one")
    tiers: Literal["system", "first"] = Field("system", description="the venues' tiers, or their first tier's rate for every size: fixed leverage")
    caps: CapsSpec | None = Field(None, description="caps on leverage; without them no rule acts")
    rules: tuple[AnyRule, ...] = Field((), description="what moves the caps, multiplied together")
    transition: TransitionSpec | None = Field(None, description="what a tightened cap does to accounts; absent: nothing")
    transitions: dict[Name, TransitionSpec] = Field(default_factory=dict, description="pool -> its own, instead of the general one")
    size: SizeSpec | None = Field(None, description="maintenance that grows with the size of a position")
    score: ScoreSpec | None = Field(None, description="risk score of accounts")
    margin: MarginSpec | None = Field(None, description="terms of portfolio margin")
    funding: FundingPolicySpec | None = Field(None, description="funding rules")
    gauge_every_minutes: Every = Field(30.0, description="time between two measurements of the systemic gauge, for rules that read it")

    @model_validator(mode="after")
    def _caps_given(self):
        if self.caps is None:
            for key in ("rules", "transition", "transitions", "score"):
                if getattr(self, key):
                    raise ValueError(f"{key} needs [caps]: without caps there is nothing to adjust; give [caps], or leave {key} out")
        if self.score is not None and self.transition is None and not self.transitions:
            raise ValueError(
                "score needs [transition]: an account's share of the cap acts on what the account must do; give [transition], or leave score out"
            )
        return self

    @property
    def reads_gauge(self) -> bool:
        """Whether a rule needs the systemic gauge measured."""
        return any(r.kind in ("gauge", "own") for r in self.rules)
