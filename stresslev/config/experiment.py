"""The specification of a tuning experiment: which numbers of a policy to move, towards what, within what, and on which scenarios to judge it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Spec, Whole
from stresslev.config.tiers import Number

Level = Annotated[Number, Field(ge=0, lt=1)]
Measure = Literal["mean", "worst", "expected_shortfall"]


class ObjectiveSpec(Spec):
    """What is to be made small."""

    metric: str = Field("bad_debt_over_open_interest", description="a metric that has a derivative")
    measure: Measure = Field("expected_shortfall", description="over scenarios: their mean, the worst, or the mean of the worst part")
    level: Level = Field(0.5, description="'expected_shortfall': share of scenarios that do not count; 0: the mean")


class ConstraintSpec(Spec):
    """What must hold meanwhile."""

    metric: str = Field(description="a metric that has a derivative")
    measure: Measure = Field("mean", description="over scenarios")
    level: Level = Field(0.5, description="'expected_shortfall': share of scenarios that do not count")
    at_least: Number | Literal["reference"] | None = Field(None, description="a number, or what the reference policy has")
    at_most: Number | Literal["reference"] | None = Field(None, description="a number, or what the reference policy has")
    slack: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="share of the bound by which it may be missed")

    @model_validator(mode="after")
    def _one_side(self):
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        return self


class ParameterSpec(Spec):
    """Bounds of a number in the policy file."""

    low: Number
    high: Number
    scale: Literal["linear", "log"] = Field("linear", description="of the steps between the bounds")


class OptimizerSpec(Spec):
    """How the gradient is followed."""

    name: Name = Field("adam", description="an optimiser of optax")
    learning_rate: Positive = Field(0.1, description="of the parameters' logits: 0.1 is about 2.5% of the way between the bounds")
    arguments: dict[str, Number] = Field(default_factory=dict, description="of the optimiser, e.g. b1")
    schedule: Name | None = Field("cosine_decay_schedule", description="a schedule of optax for the learning rate; absent: constant")
    schedule_arguments: dict[str, Number] = Field(default_factory=dict, description="besides the rate and the number of steps")
    steps: Annotated[Whole, Field(ge=1, le=1_000_000)] = Field(30, description="most steps")
    clip: Positive = Field(1.0, description="longest gradient, in units of the objective at the start")
    minibatch: Annotated[Whole, Field(ge=1)] | None = Field(None, description="training scenarios of a step; absent: all")
    restarts: Annotated[Whole, Field(ge=1, le=100)] = Field(1, description="starting points: the policy, and others drawn around it")
    spread: NonNegative = Field(0.5, description="standard deviation of the other starting points, in logits")
    patience: Annotated[Whole, Field(ge=1)] = Field(10, description="steps without a better policy after which it stops")
    tolerance: NonNegative = Field(1e-4, description="what counts as better, as a share of the objective at the start")
    minutes: Positive | None = Field(None, description="most wall time of the search; what it found by then counts")


class PenaltySpec(Spec):
    """The augmented Lagrangian of the constraints."""

    start: Positive = Field(10.0, description="weight of squared violations at first, each measured by its bound")
    growth: Annotated[Number, Field(ge=1, le=100)] = Field(2.0, description="of that weight, when a violation has not become smaller by a quarter")
    most: Positive = Field(100.0, description="largest weight")
    every: Annotated[Whole, Field(ge=1)] = Field(10, description="steps between two updates of the multipliers")
    tolerance: NonNegative = Field(1e-3, description="violation, as a share of the bound, that counts as none")


class JudgementSpec(Spec):
    """How the tuned policy is held against others, by the hard rules."""

    books: Annotated[Whole, Field(ge=2, le=1000)] = Field(8, description="books drawn anew, for the confidence intervals")
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = Field(0.95, description="of the intervals")
    references: tuple[str, ...] = Field(("fixed", "real_tiers"), description="policy files to compare with, besides the untuned one")
    rivals: tuple[Literal["random", "cma"], ...] = Field(("random", "cma"), description="searches without derivatives, for comparison")
    rival_budget: Positive = Field(1.0, description="runs of each of them, in what the search cost: 10 gives them ten times as many")


class ExperimentSpec(Spec):
    """A tuning experiment."""

    kind: Literal["experiment"] = Field(description="says what the file is")
    name: Name = Field(description="also the default folder of the results")
    title: str = Field("", description="for the write-up")
    description: str = Field("", description="free text, shown in the write-up")
    suite: str = Field(description="suite file that holds all scenarios")
    system: str | None = Field(None, description="system file instead of the suite's")
    policy: str = Field(description="policy file to begin with: the untuned one")
    reference: str | None = Field(None, description="policy file that constraints refer to; absent: the untuned one")
    accounts: Annotated[Whole, Field(ge=1)] | None = Field(None, description="accounts to sample")
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(2025, description="of the book that is tuned on; judgement draws others")
    precision: Literal[32, 64] = Field(32, description="bits of a floating-point number")
    stepping: Literal["auto", "all", "active"] = Field("auto", description="which accounts each step of a gradient looks at")
    population: Literal["accounts", "profile", "auto"] = Field(
        "accounts", description="how accounts are kept while tuning; the judgement is on accounts whatever this says"
    )
    width: Positive | None = Field(None, description="half width of the band of thresholds; absent: as the book suggests")
    train: tuple[str, ...] = Field(min_length=1, description="scenarios to tune on")
    validation: tuple[str, ...] = Field((), description="scenarios that choose among the policies found")
    held_out: tuple[str, ...] = Field((), description="scenarios that nothing is chosen by")
    objective: ObjectiveSpec = Field(ObjectiveSpec())
    constraints: tuple[ConstraintSpec, ...] = Field(())
    parameters: dict[str, ParameterSpec] = Field(min_length=1, description="where a number stands in the policy -> its bounds")
    optimizer: OptimizerSpec = Field(OptimizerSpec())
    penalty: PenaltySpec = Field(PenaltySpec())
    judgement: JudgementSpec = Field(JudgementSpec())
    frontier: tuple[Positive, ...] = Field((), description="factors on the first constraint's bound, for a frontier; absent: none")
    checkpoint_minutes: NonNegative = Field(2.0, description="time between two checkpoints")

    @field_validator("parameters", mode="before")
    @classmethod
    def _pairs(cls, value):
        if not isinstance(value, dict):
            return value
        return {k: {"low": v[0], "high": v[1]} if isinstance(v, list) and len(v) == 2 else v for k, v in value.items()}

    @model_validator(mode="after")
    def _apart(self):
        names = [*self.train, *self.validation, *self.held_out]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"scenario {twice[0]} stands twice among train, validation and held_out; leave it in one of them")
        if self.frontier and not self.constraints:
            raise ValueError("frontier needs a constraint whose bound it moves; give one in [[constraints]]")
        return self
