"""Assets and their markets: depth, form of impact, makers, receipt tokens, arbitrage between venues."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Share, Spec
from stresslev.config.tiers import Number


class TradedVolumeSpec(Spec):
    """Depth from traded volume (Cont and Schaanning 2017): D = c ADV sqrt(tau) / sigma."""

    adv_usd: Positive = Field(description="average daily volume")
    c: Positive = Field(0.3, description="dimensionless constant, calibrated")
    horizon_days: Positive = Field(1.0, description="days over which the flow is sold")


class ReceiptSpec(Spec):
    """The asset is a claim on a pool: priced by what the pool's assets cover, traded as its underlying."""

    pool: Name = Field(description="issuing pool")
    underlying: Name = Field(description="asset it is a claim to")
    run_haircut: Share = Field(0.0, description="discount on the part of a sale that the pool's idle funds cannot meet at once")


class MakerSpec(Spec):
    """Market makers who withdraw depth as they fill up and lose."""

    inventory_limit_usd: Positive | None = Field(None, description="net position taken on at which only the floor is left; absent: no limit")
    capital_usd: Positive | None = Field(None, description="loss at which only the floor is left; absent: no limit")
    floor: Share = Field(0.1, description="least share of the depth they leave")


class FollowSpec(Spec):
    """The path of an asset in scenarios that give it none of its own."""

    asset: Name = Field(description="asset whose returns it follows")
    beta: Annotated[Number, Field(ge=-10, le=10)] = Field(1.0, description="log return per log return")
    ratio: Positive = Field(1.0, description="starting price over that asset's")


class AssetSpec(Spec):
    """One asset and its market."""

    depth_usd: Positive | None = Field(None, description="net flow in USD that moves the price by 1% at the reference volatility (impact 'power')")
    volatility: Positive | None = Field(
        None, description="reference volatility per year (0.5 is 50%), at which the depth holds; not for receipt tokens"
    )
    price_usd: Positive | None = Field(None, description="present mark in USD; when absent the scenario's own starting price is used")
    peg_usd: Positive | None = Field(None, description="constant exogenous price in scenarios that give no path: stablecoins")
    follows: FollowSpec | None = Field(None, description="path in scenarios that give none of its own")
    impact: Literal["power", "exponential", "price_linear", "constant_product"] = Field(
        "power", description="form of impact: see docs/model.md section 4, Impact"
    )
    impact_exponent: Annotated[Number, Field(gt=0, le=2)] = Field(1.0, description="'power': 1 linear in flow over depth, 0.5 square root")
    impact_scale: NonNegative = Field(0.0, description="'exponential': beta; 'price_linear': k, the move made by selling impact_quantity coins")
    impact_quantity: Positive | None = Field(
        None, description="coins: total outstanding (exponential, price_linear), pool reserve (constant_product)"
    )
    traded_volume: TradedVolumeSpec | None = Field(None, description="instead of depth_usd")
    permanent_share: Share = Field(0.2, description="share of the impact that never recovers")
    impact_half_life_minutes: Positive = Field(10.0, description="half-life of the transient rest")
    depth_volatility_exponent: NonNegative | None = Field(
        None, description="kappa: depth falls with (reference volatility / volatility)^kappa; 0.5, or 1 with traded_volume"
    )
    depth_floor: Annotated[Number, Field(gt=0, le=1)] = Field(0.01, description="least share of the depth that volatility leaves")
    volatility_half_life_minutes: Positive = Field(60.0, description="half-life of the EWMA volatility")
    makers: MakerSpec | None = Field(None, description="limits of the market makers; absent: none")
    receipt: ReceiptSpec | None = Field(None, description="the asset is a receipt token of a pool")

    @model_validator(mode="after")
    def _has_a_market(self):
        if self.receipt is not None:
            for key in ("depth_usd", "volatility", "peg_usd", "follows", "impact_quantity", "traded_volume", "makers"):
                if getattr(self, key) is not None:
                    raise ValueError(f"a receipt token is priced and traded by its underlying: leave {key} out")
            return self
        if self.volatility is None:
            raise ValueError("volatility is missing: give the reference volatility per year at which the depth holds")
        if self.impact == "power":
            if (self.depth_usd is None) == (self.traded_volume is None):
                raise ValueError("give depth_usd or traded_volume, one of the two")
        elif self.impact_quantity is None:
            raise ValueError(f"impact {self.impact!r} needs impact_quantity, in coins; give impact_quantity")
        if self.peg_usd is not None and self.follows is not None:
            raise ValueError("give peg_usd or follows, not both")
        return self

    @property
    def kappa(self) -> float:
        """Exponent by which depth falls with volatility."""
        if self.depth_volatility_exponent is not None:
            return self.depth_volatility_exponent
        return 0.5 if self.traded_volume is None else 1.0


class ArbitrageSpec(Spec):
    """Arbitrageurs between the venues that have a book of their own and the common market."""

    half_life_minutes: Positive = Field(1.0, description="time in which they close half of a basis, as far as their capital goes")
    capital_usd: NonNegative | None = Field(None, description="most inventory they can carry at the venues; absent: no limit")
