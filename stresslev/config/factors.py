"""The specification of risk factors: how far prices, depth and correlation move over a horizon, and together."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Spec, check_correlation_matrix
from stresslev.config.generator import CalibrationSpec, Freedom, ProxySpec, check_proxies
from stresslev.config.tiers import Number

#: A correlation that leaves some room on either side.
Correlation = Annotated[Number, Field(gt=-1, lt=1)]


class FactorAssetSpec(Spec):
    """The price of one asset as a factor."""

    standard_deviation: Positive = Field(description="of its log return over the horizon")
    start_price_usd: Positive = Field(description="price at minute 0 of a shock, where the system gives none")


class FactorCorrelationSpec(Spec):
    """Correlation of the assets' returns, which moves itself."""

    matrix: tuple[tuple[Annotated[Number, Field(ge=-1, le=1)], ...], ...] | None = Field(None, description="in the order of [assets]")
    common: Correlation = Field(0.0, description="instead of a matrix: the same for every pair")
    spread: NonNegative = Field(
        0.0, description="standard deviation of Fisher's z of the average correlation from one period to the next; 0: correlation is no factor"
    )


class FactorDepthSpec(Spec):
    """Market depth as a factor, one for all assets."""

    standard_deviation: Positive = Field(description="of the log factor on depth")
    correlation: Correlation = Field(
        0.0, description="with the average of the assets' returns, each over its standard deviation; above 0: thin in falls"
    )


class FactorsSpec(Spec):
    """What may go wrong together: a joint distribution of returns, depth and correlation over a horizon."""

    kind: Literal["factors"] = Field(description="says what the file is")
    name: Name = Field(description="letters, digits, dot, dash and underscore")
    title: str = Field("", description="for the report")
    description: str = Field("", description="free text, shown in the report")
    sources: tuple[str, ...] = Field((), description="where the figures come from; shown in the report")
    assumptions: tuple[str, ...] = Field((), description="what is assumed; shown in the report")
    horizon_minutes: Positive = Field(description="time over which returns are measured")
    degrees_of_freedom: Freedom | None = Field(
        None, description="of Student's t, one chi-square for all factors, for the probability of a shock; absent: only the normal distribution's"
    )
    assets: dict[Name, FactorAssetSpec] = Field(min_length=1, description="asset -> its return")
    proxies: dict[Name, ProxySpec] = Field(default_factory=dict, description="asset -> the factor it follows")
    correlation: FactorCorrelationSpec = Field(FactorCorrelationSpec(), description="between the assets")
    depth: FactorDepthSpec | None = Field(None, description="market depth; absent: no factor")
    calibration: CalibrationSpec | None = Field(None, description="where the figures come from, if fitted; nothing is computed from it")

    @model_validator(mode="after")
    def _consistent(self):
        check_proxies(self.proxies, self.assets)
        n, given = len(self.assets), self.correlation
        for taken in ("depth", "correlation"):
            if taken in self.assets:
                raise ValueError(f"assets.{taken}: that is the name of another factor; give the asset another name")
        if given.matrix is not None:
            check_correlation_matrix(given.matrix, n)
        least = float(np.linalg.eigvalsh(self.matrix)[0])
        if least < 1e-8:
            raise ValueError(f"correlation is singular (least eigenvalue {least:.2g}): let one asset follow another in [proxies] instead")
        return self

    @property
    def matrix(self) -> np.ndarray:
        """(F, F) correlation of the assets' returns."""
        n = len(self.assets)
        if self.correlation.matrix is not None:
            return np.array(self.correlation.matrix, float)
        return np.full((n, n), self.correlation.common) + (1 - self.correlation.common) * np.eye(n)
