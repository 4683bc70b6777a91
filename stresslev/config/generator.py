"""The specification of generated scenarios: a model of prices, its parameters, and how many paths to draw from it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stresslev.config.base import Name, NonNegative, Positive, Share, Spec, Whole, check_correlation_matrix
from stresslev.config.behaviour import BehaviourSpec
from stresslev.config.spec import MAX_STEPS, DepthSpec, OutageSpec, PathSpec, ScenarioSpec
from stresslev.config.tiers import Number
from stresslev.errors import Unfit, did_you_mean

#: Models whose paths are drawn from a price file; the others have parameters only.
HISTORICAL = ("filtered_historical", "block_bootstrap")
Below1 = Annotated[Number, Field(ge=0, lt=1)]
Freedom = Annotated[Number, Field(gt=2, le=1e6)]
Rate = Annotated[Number, Field(ge=-100, le=100)]


class RegimeSpec(Spec):
    """One state of the market."""

    name: Name = Field(description="for the reader")
    depth_factor: Positive = Field(1.0, description="on market depth while it lasts")
    correlation_stress: Share = Field(0.0, description="share of the way from each correlation to one while it lasts")


class ModelSpec(Spec):
    """What moves prices, for the market as a whole; parameters of single assets stand in [assets.NAME]."""

    kind: Literal["jump_diffusion", "hawkes", "garch", "regime_switching", "filtered_historical", "block_bootstrap"] = Field(
        description="Merton's jump-diffusion; the same with self-exciting jumps; GARCH(1,1) with Student-t innovations; Markov regimes; "
        "historical innovations through GARCH; blocks of history"
    )
    jumps_per_day: NonNegative | None = Field(None, description="'jump_diffusion': jumps of the market; 'hawkes': those that no other jump sets off")
    branching_ratio: Below1 | None = Field(None, description="'hawkes': jumps that each jump sets off, on average")
    half_life_minutes: Positive | None = Field(None, description="'hawkes': of the excitation that a jump leaves")
    start_jumps_per_day: NonNegative | None = Field(None, description="'hawkes': intensity at the start; absent: its long-run mean")
    regimes: tuple[RegimeSpec, ...] = Field((), description="'regime_switching': the states, two or more")
    transition: tuple[tuple[Share, ...], ...] | None = Field(
        None, description="'regime_switching': probability per step of going from the row's state to the column's; rows add up to 1"
    )
    start_regime: Name | None = Field(None, description="'regime_switching': state at the start; absent: drawn from the stationary distribution")
    mean_block_minutes: Positive | None = Field(None, description="'block_bootstrap': mean length of a block")

    @model_validator(mode="after")
    def _complete(self):
        needs = {
            "jump_diffusion": ("jumps_per_day",),
            "hawkes": ("jumps_per_day", "branching_ratio", "half_life_minutes"),
            "regime_switching": ("regimes", "transition"),
            "block_bootstrap": ("mean_block_minutes",),
        }.get(self.kind, ())
        may = {"hawkes": ("start_jumps_per_day",), "regime_switching": ("start_regime",)}.get(self.kind, ())
        _exactly(self, "model", self.kind, needs, (*needs, *may, "kind"))
        if self.kind == "regime_switching":
            self._check_regimes()
        if self.start_jumps_per_day is not None and self.start_jumps_per_day < self.jumps_per_day:
            raise ValueError(
                f"model.start_jumps_per_day is below jumps_per_day, {self.jumps_per_day:g}, under which the intensity never falls; give that or more"
            )
        return self

    def _check_regimes(self) -> None:
        names = [r.name for r in self.regimes]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("model.regimes needs at least two states, each with a name of its own; give two or more [[model.regimes]]")
        if len(self.transition) != len(names) or any(len(row) != len(names) for row in self.transition):
            raise ValueError(
                f"model.transition needs {len(names)} rows of {len(names)} probabilities, one for each regime"
                "; give a probability from every regime to every regime"
            )
        for name, row in zip(names, self.transition, strict=True):
            if abs(sum(row) - 1) > 1e-6:
                raise ValueError(f"model.transition: the row of {name!r} adds up to {sum(row):g}, not to 1; give probabilities that add up to 1")
        if self.start_regime is not None and self.start_regime not in names:
            raise Unfit(f"model.start_regime names {self.start_regime!r}, which is not in [[model.regimes]]", did_you_mean(self.start_regime, names))


def _exactly(spec: Spec, where: str, model: str, needs: tuple[str, ...], may: tuple[str, ...]) -> None:
    """Refuse keys that a model lacks, and keys that it has no use for. Raises ValueError."""
    for key in needs:
        if getattr(spec, key) in (None, ()):
            raise ValueError(f"{where}.{key} is missing: model {model!r} needs it; give it")
    for key in sorted(spec.model_fields_set - set(may)):
        raise ValueError(f"{where}.{key} means nothing to model {model!r}; remove it")


class GeneratedAssetSpec(Spec):
    """Parameters of one asset. Volatilities are per year, of log returns."""

    start_price_usd: Positive = Field(description="at minute 0")
    drift: Rate | tuple[Rate, ...] | None = Field(
        None,
        description="mean log return per year, jumps included; by regime a list; absent: 0, or that of the history if it draws from one",
    )
    volatility: Positive | tuple[Positive, ...] | None = Field(
        None, description="of the diffusion; unconditional ('garch', 'filtered_historical'); by regime a list ('regime_switching')"
    )
    start_volatility: Positive | None = Field(None, description="GARCH: of the first step; absent: unconditional, or that at the end of the history")
    jump_mean: Annotated[Number, Field(ge=-5, le=5)] | None = Field(None, description="mean log return of a jump")
    jump_volatility: NonNegative | None = Field(None, description="standard deviation of a jump's log return")
    jump_share: Share = Field(1.0, description="probability that a jump of the market moves this asset; one draw for all assets")
    alpha: Share | None = Field(None, description="GARCH, per step: weight of the last squared return")
    beta: Share | None = Field(None, description="GARCH, per step: weight of the last variance")
    degrees_of_freedom: Freedom | None = Field(None, description="'garch': of Student's t; absent: normal innovations")
    file: str | None = Field(None, description="prices, for models that draw from history: CSV, Parquet or the JSON of ccxt's fetchOHLCV")
    time_column: str = Field("ts", description="column of times in the file")
    price_column: str = Field("close", description="column of prices in the file")
    symbol_column: str = Field("symbol", description="column that tells several assets of one file apart")
    symbol: str | None = Field(None, description="rows of the file to use; absent: all rows")


_JUMPS = ("volatility", "jump_mean", "jump_volatility")
_FILE = ("time_column", "price_column", "symbol_column", "symbol")
#: Model -> keys that an asset needs, and keys that it may have besides.
_ASSET_KEYS = {
    "jump_diffusion": (_JUMPS, ("jump_share",)),
    "hawkes": (_JUMPS, ("jump_share",)),
    "garch": (("volatility", "alpha", "beta"), ("degrees_of_freedom", "start_volatility")),
    "regime_switching": (("volatility",), ()),
    "filtered_historical": (("volatility", "alpha", "beta", "file"), ("start_volatility", *_FILE)),
    "block_bootstrap": (("file",), _FILE),
}


class ProxySpec(Spec):
    """An asset that follows a generated one."""

    asset: Name = Field(description="asset of [assets] whose returns it follows")
    beta: Annotated[Number, Field(ge=-10, le=10)] = Field(1.0, description="log return per log return")
    start_price_usd: Positive = Field(description="at minute 0")


def check_proxies(proxies: dict[str, ProxySpec], assets: dict) -> None:
    """Refuse a proxy of no asset, and one that is an asset itself. Raises Unfit."""
    for name, proxy in proxies.items():
        if proxy.asset not in assets or name in assets:
            fix = f"take {name} out of [assets] or of [proxies]" if name in assets else did_you_mean(proxy.asset, assets)
            raise Unfit(f"proxies.{name}.asset names {proxy.asset!r}, which must be another asset, of [assets]", fix)


class CorrelationSpec(Spec):
    """Correlation of the assets' normal innovations, and of their jump sizes."""

    matrix: tuple[tuple[Annotated[Number, Field(ge=-1, le=1)], ...], ...] | None = Field(None, description="in the order of [assets]")
    common: Annotated[Number, Field(ge=-1, le=1)] = Field(0.0, description="instead of a matrix: the same for every pair")
    stress: Share = Field(0.0, description="share of the way from each correlation to stress_to")
    stress_to: Annotated[Number, Field(ge=-1, le=1)] = Field(1.0, description="where stressed correlations go")
    pairs: dict[Name, dict[Name, Annotated[Number, Field(ge=-1, le=1)]]] = Field(
        default_factory=dict, description="asset -> asset -> correlation, set last; what comes out is repaired to the nearest possible matrix"
    )


class ImportanceSpec(Spec):
    """Paths drawn where losses are, and weighted back (Glasserman, Heidelberger and Shahabuddin 2000)."""

    shift: Annotated[Number, Field(ge=-20, le=20)] = Field(
        0.0, description="standard deviations by which the diffusion of every asset is moved over the whole path; below 0 for falls"
    )
    jump_intensity_factor: Annotated[Number, Field(gt=0, le=1000)] = Field(1.0, description="on the intensity of jumps")
    jump_shift: Annotated[Number, Field(ge=-20, le=20)] = Field(0.0, description="standard deviations by which every jump's size is moved")
    defensive_share: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.1, description="share of the paths drawn without any of this; no weight exceeds its inverse (Hesterberg 1995)"
    )


class EventSpec(Spec):
    """Something whose probability is wanted."""

    metric: str = Field(description="a metric")
    above: Number | None = Field(None, description="it happens above this value")
    below: Number | None = Field(None, description="it happens below this value")

    @model_validator(mode="after")
    def _one_side(self):
        if (self.above is None) == (self.below is None):
            raise ValueError("give either above or below")
        return self


class StatisticsSpec(Spec):
    """What is said about many paths."""

    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = Field(0.95, description="of every interval")
    levels: tuple[Annotated[Number, Field(gt=0.5, lt=1)], ...] = Field((0.95, 0.99), min_length=1, description="of quantiles and expected shortfalls")
    judged: Literal["mean", "quantile", "expected_shortfall", "worst"] = Field(
        "quantile", description="what limits are held against; quantile and expected shortfall at the first level, towards the bad side"
    )
    events: tuple[EventSpec, ...] = Field((), description="besides the breach of each limit, whose probability is always stated")
    shown: Annotated[Whole, Field(ge=1, le=20)] = Field(1, description="worst paths that are run with everything a scenario has")
    shown_by: str = Field("bad_debt_over_open_interest", description="metric that says which are the worst; then by what was liquidated")


class UntilSpec(Spec):
    """When enough paths have been run: batches until an interval is narrow enough."""

    metric: str = Field(description="a metric")
    statistic: Literal["mean", "quantile", "expected_shortfall"] = Field("mean", description="of it; at the first of the levels")
    half_width: Positive = Field(description="of the interval, in the metric's unit")
    relative: bool = Field(False, description="half_width is a share of the estimate")
    most_paths: Annotated[Whole, Field(ge=2, le=1_000_000)] = Field(10_000, description="never more than this")


class CalibrationSpec(Spec):
    """Where the parameters come from: written by `stresslev calibrate`, for the reader; nothing is computed from it."""

    method: str = Field(description="how they were found")
    files: tuple[str, ...] = Field((), description="price files")
    sha256: tuple[str, ...] = Field((), description="their digests")
    first: str = Field("", description="time of the first price used")
    last: str = Field("", description="time of the last price used")
    returns: Annotated[Whole, Field(ge=0)] = Field(0, description="log returns used")
    step_minutes: Positive | None = Field(None, description="length of each")
    log_likelihood: dict[str, Number] = Field(default_factory=dict, description="asset, or all, -> maximum")
    standard_errors: dict[str, Number] = Field(default_factory=dict, description="parameter -> standard error")


class GeneratorSpec(Spec):
    """Scenarios drawn from a model."""

    kind: Literal["generator"] = Field(description="says what the file is")
    name: Name = Field(description="paths are called NAME-0001 and so on")
    title: str = Field(description="for the report")
    severity: Literal["adverse", "severe", "very severe"] = Field("severe", description="the committee's own grading")
    description: str = Field("", description="free text, shown in the report")
    sources: tuple[str, ...] = Field((), description="where the figures come from; shown in the report")
    assumptions: tuple[str, ...] = Field((), description="what is assumed; shown in the report")
    system: str | None = Field(None, description="system to run on by itself; absent: three perp venues. Suites name their own")
    duration_minutes: Annotated[Whole, Field(ge=1, le=10_000_000)] = Field(description="a whole number of steps")
    step_minutes: Positive = Field(1.0, description="length of one step; GARCH parameters, transitions and history belong to it")
    paths: Annotated[Whole, Field(ge=1, le=1_000_000)] = Field(100, description="how many; with [until], how many at a time")
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(1, description="of the paths; path k is the same whatever else is run")
    shock_scale: Annotated[Number, Field(ge=0, le=10)] = Field(1.0, description="factor on every log return of the paths")
    depth_scale: Positive = Field(1.0, description="factor on all depth factors")
    model: ModelSpec = Field(description="what moves prices")
    assets: dict[Name, GeneratedAssetSpec] = Field(min_length=1, description="asset -> its parameters")
    proxies: dict[Name, ProxySpec] = Field(default_factory=dict, description="asset -> the generated asset it follows")
    correlation: CorrelationSpec = Field(CorrelationSpec(), description="between assets; models that draw from history have that of the history")
    depth: dict[Name, DepthSpec] = Field(default_factory=dict, description="asset -> factor on its depth through time; 'default' for all others")
    outages: tuple[OutageSpec, ...] = Field((), description="pools that are down for a while")
    behaviour: BehaviourSpec | None = Field(None, description="what algorithmic traders and depositors do; absent: nothing")
    statistics: StatisticsSpec = Field(StatisticsSpec(), description="what is said about the paths")
    until: UntilSpec | None = Field(None, description="run batches until an interval is narrow enough; absent: `paths` paths")
    importance: ImportanceSpec | None = Field(None, description="draw where losses are, and weight back; only `stresslev run` does")
    calibration: CalibrationSpec | None = Field(None, description="where the parameters come from")

    @model_validator(mode="after")
    def _consistent(self):
        needs, may = _ASSET_KEYS[self.model.kind]
        for name, asset in self.assets.items():
            _exactly(asset, f"assets.{name}", self.model.kind, needs, (*needs, *may, "start_price_usd", "drift"))
            self._check_asset(name, asset)
        check_proxies(self.proxies, self.assets)
        self._check_correlation()
        if self.importance is not None:
            self._check_importance()
        if self.until is not None and self.until.most_paths < self.paths:
            raise ValueError(f"until.most_paths, {self.until.most_paths:,}, is below paths, {self.paths:,}; give as many paths or more")
        steps = self.duration_minutes / self.step_minutes
        if steps > MAX_STEPS or abs(steps - round(steps)) > 1e-9 or steps < 1:
            raise ValueError(
                f"duration_minutes must be a whole number of steps of step_minutes, at most {MAX_STEPS:,}; give a multiple of step_minutes"
            )
        return self

    def _check_asset(self, name: str, asset: GeneratedAssetSpec) -> None:
        count = len(self.model.regimes)
        for key in ("drift", "volatility"):
            value = getattr(asset, key)
            if isinstance(value, tuple) and len(value) != count:
                what = f"a list of {count}, one for each regime" if count else f"one number: model {self.model.kind!r} has no regimes"
                raise ValueError(f"assets.{name}.{key} must be {what}")
        if count and not isinstance(asset.volatility, tuple):
            raise ValueError(
                f"assets.{name}.volatility must be a list of {count}, one for each regime; give one number for each regime, in square brackets"
            )
        if asset.alpha is not None and asset.alpha + asset.beta >= 1:
            total = f"{asset.alpha + asset.beta:g}"
            raise ValueError(f"assets.{name}: alpha + beta is {total}, and must be below 1 for the variance to have a mean; lower one of the two")

    def _check_correlation(self) -> None:
        n = len(self.assets)
        given = self.correlation
        if given.model_fields_set and self.model.kind in HISTORICAL:
            raise ValueError(f"correlation means nothing to model {self.model.kind!r}, which has that of its history; remove it")
        if given.matrix is not None:
            check_correlation_matrix(given.matrix, n)
        for first, others in given.pairs.items():
            for second in others:
                if first not in self.assets or second not in self.assets or first == second:
                    raise ValueError(f"correlation.pairs.{first}.{second} must name two different assets of [assets]; use names of [assets]")

    def _check_importance(self) -> None:
        kind, given = self.model.kind, self.importance
        if kind in HISTORICAL:
            raise ValueError(f"importance cannot be had of model {kind!r}, which draws from history; remove it")
        if kind not in ("jump_diffusion", "hawkes") and (given.jump_intensity_factor != 1 or given.jump_shift):
            raise ValueError(f"importance.jump_intensity_factor and jump_shift mean nothing to model {kind!r}, which has no jumps; remove them")

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return round(self.duration_minutes / self.step_minutes)


class GeneratedScenarioSpec(ScenarioSpec):
    """One path of a generator as a scenario; `paths` hold what does not depend on the draw."""

    generator: GeneratorSpec
    number: int


def path_name(spec: GeneratorSpec, number: int) -> str:
    """What path `number` (from 1) is called."""
    return f"{spec.name}-{number:04d}"


def template(spec: GeneratorSpec) -> GeneratedScenarioSpec:
    """Path 0 of a generator, which does not move: `numbered` gives the others."""
    flat = {n: PathSpec(minutes=(0.0, 1.0), prices=(a.start_price_usd,) * 2, source=f"generated: {spec.model.kind}") for n, a in spec.assets.items()}
    followers = {n: PathSpec(proxy=p.asset, beta=p.beta, start_price_usd=p.start_price_usd) for n, p in spec.proxies.items()}
    same = ("title", "severity", "description", "sources", "assumptions", "duration_minutes", "step_minutes", "shock_scale", "depth_scale", "depth")
    return GeneratedScenarioSpec(
        kind="scenario",
        name=path_name(spec, 0),
        origin="hypothetical",
        paths=flat | followers,
        outages=spec.outages,
        behaviour=spec.behaviour,
        generator=spec,
        number=0,
        **{key: getattr(spec, key) for key in same},
    )


def numbered(base: GeneratedScenarioSpec, number: int) -> GeneratedScenarioSpec:
    """Path `number` (from 1) of the generator behind a path."""
    title = f"{base.generator.title}: path {number:,}"
    return base.model_copy(update={"number": number, "name": path_name(base.generator, number), "title": title})
