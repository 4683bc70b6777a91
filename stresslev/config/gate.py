"""What a gate lets pass: how much worse than a baseline a metric may be."""

from typing import Literal

from pydantic import Field

from stresslev.config.base import Name, NonNegative, Spec


class ToleranceSpec(Spec):
    """By how much a metric may be worse: by the larger of the two; an absent one is the gate's own."""

    relative: NonNegative | None = Field(None, description="share of the baseline's value")
    absolute: NonNegative | None = Field(None, description="in the metric's unit")


class GateSpec(Spec):
    """Which metrics of a run are held against a baseline, and what they may differ by."""

    kind: Literal["gate"] = Field(description="says what the file is")
    name: Name = Field("gate", description="letters, digits, dot, dash and underscore")
    description: str = Field("", description="free text, shown in the summary")
    relative: NonNegative = Field(0.01, description="share of the baseline's value by which a metric may be worse")
    absolute: NonNegative = Field(0.0, description="what it may be worse by in any case, in its own unit")
    metrics: tuple[str, ...] = Field((), description="metrics to hold against the baseline; absent: all that policies are compared by")
    tolerances: dict[str, ToleranceSpec] = Field(default_factory=dict, description="metric -> its own tolerance")
