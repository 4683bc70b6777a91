"""The page docs/files.md from the specifications; `python docs/make_reference.py` writes it with the others that are made."""

import types
import typing

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stresslev.book import files
from stresslev.config import assets, behaviour, experiment, factors, gate, generator, policy, pools, spec
from stresslev.config.tiers import TierTable

TABLES = (
    ("System", '`kind = "system"`: assets, tier tables, pools, what ties them together, and the book.', spec.SystemSpec),
    ("`[assets.NAME]`", "One asset and its market.", assets.AssetSpec),
    ("`[assets.NAME.traded_volume]`", "Depth from traded volume.", assets.TradedVolumeSpec),
    ("`[assets.NAME.makers]`", "Market makers with limits.", assets.MakerSpec),
    ("`[assets.NAME.receipt]`", "The asset is a claim on a pool.", assets.ReceiptSpec),
    ("`[assets.NAME.follows]`", "Its path in scenarios that give it none.", assets.FollowSpec),
    ("`[tiers.NAME]`", "A venue's maintenance tiers, typed as cited figures ...", TierTable),
    (
        "`[tiers.NAME]` from a file",
        "... or read from a dump: CSV (symbol, tier, min_notional, max_notional, mmr, max_leverage, cum) or ccxt's fetchLeverageTiers as JSON.",
        spec.TierFile,
    ),
    ("`[pools.NAME]`, a venue", 'Perpetual futures, `kind = "perp"`.', pools.PerpSpec),
    ("`[pools.NAME.liquidation]`, a venue", "What it does with an under-margined account.", pools.LiquidationSpec),
    ("`[pools.NAME.liquidation.auction]`", "Liquidation by auction, venues and lenders.", pools.AuctionSpec),
    ("`[pools.NAME.portfolio_margin]`", "Instead of tiers.", pools.PortfolioSpec),
    ("`[pools.NAME.size_scale.ASSET]`", "Margin that grows with position size.", pools.SizeScaleSpec),
    ("`[pools.NAME.open_interest_scale.ASSET]`", "Margin that grows with open interest.", pools.InterestScaleSpec),
    ("`[pools.NAME.collateral.ASSET]`", "Coins accepted as margin.", pools.HaircutSpec),
    ("`[pools.NAME.funding]`", "Funding of a venue.", pools.FundingSpec),
    ("`[pools.NAME]`, a lender", 'Lending protocol or margin lender, `kind = "lending"`.', pools.LendingSpec),
    ("`[pools.NAME.liquidation]`, a lender", "What it does below a health factor of one.", pools.LoanLiquidationSpec),
    ("`[pools.NAME.reserves.ASSET]`", "One asset of a lender.", pools.ReserveSpec),
    ("`[pools.NAME.reserves.ASSET.rate]`", "Its borrowing rate.", pools.RateSpec),
    ("`[pools.NAME.mark]`", "How a pool makes its mark or oracle price.", pools.MarkSpec),
    ("`[pools.NAME.book]`", "How the sampler fills a pool.", pools.PoolBookSpec),
    ("`[arbitrage]`", "Between venues with a book of their own and the common market.", assets.ArbitrageSpec),
    ("`[[credit]]`", "What pools owe each other.", spec.CreditSpec),
    ("`[clearing]`", "What a pool that defaults on it realises.", spec.ClearingSpec),
    ("`[owners]`", "Margin calls across pools.", spec.OwnersSpec),
    ("`[book]`", "Where the accounts come from.", spec.BookSpec),
    ("Scenario", '`kind = "scenario"`: an exogenous path on a time grid.', spec.ScenarioSpec),
    ("`[paths.ASSET]`", "Points, a price file, or a proxy of another asset: exactly one of the three.", spec.PathSpec),
    ("`[depth.ASSET]`", "Factor on an asset's depth through time; `[depth.default]` for all others.", spec.DepthSpec),
    ("`[dislocations.POOL.ASSET]`, `[premiums.POOL.ASSET]`", "Scripted errors of marks, and premiums of perps over the index.", spec.CurveSpec),
    ("`[[outages]]`", "A pool that is down.", spec.OutageSpec),
    ("`[[stuck_marks]]`", "Marks or oracles that stand still.", spec.StuckSpec),
    ("`[behaviour]`", "Algorithmic traders and depositors, see policies/behaviour.md.", behaviour.BehaviourSpec),
    ("`[[behaviour.traders]]`", "Traders of one kind at one venue.", behaviour.TradersSpec),
    ("`[[behaviour.runs]]`", "Depositors who run.", behaviour.RunsSpec),
    ("Generator", '`kind = "generator"`: scenarios drawn from a model of prices, see generated.md.', generator.GeneratorSpec),
    ("`[model]`", "What moves prices.", generator.ModelSpec),
    ("`[[model.regimes]]`", "States of the market.", generator.RegimeSpec),
    ("`[assets.NAME]` of a generator", "Parameters of one asset.", generator.GeneratedAssetSpec),
    ("`[proxies.NAME]`", "An asset that follows a generated one.", generator.ProxySpec),
    ("`[correlation]`", "Between the assets of a generator.", generator.CorrelationSpec),
    ("`[statistics]`", "What is said about the paths.", generator.StatisticsSpec),
    ("`[[statistics.events]]`", "Something whose probability is wanted.", generator.EventSpec),
    ("`[until]`", "When enough paths have been run.", generator.UntilSpec),
    ("`[importance]`", "Paths drawn where losses are, and weighted back.", generator.ImportanceSpec),
    ("`[calibration]`", "Written by `stresslev calibrate`; nothing is computed from it.", generator.CalibrationSpec),
    ("Factors", '`kind = "factors"`: what `stresslev reverse` measures the plausibility of a shock by, see reverse.md.', factors.FactorsSpec),
    ("`[assets.NAME]` of factors", "The return of one asset.", factors.FactorAssetSpec),
    ("`[correlation]` of factors", "Between their assets; `[proxies.NAME]` as of a generator.", factors.FactorCorrelationSpec),
    ("`[depth]` of factors", "Market depth, one factor for all assets.", factors.FactorDepthSpec),
    ("Suite", '`kind = "suite"`: what a committee runs.', spec.SuiteSpec),
    ("`[run]`", "How to compute.", spec.RunSpec),
    (
        "`[policy]` in a suite, or a policy file",
        '`kind = "policy"`: the leverage rules. The tables below stand in `[policy]` of a suite.',
        policy.PolicySpec,
    ),
    ("`[caps]`", "Caps on leverage, and how fast they may move.", policy.CapsSpec),
    ('`[[rules]]`, `kind = "volatility"`', "Caps that follow volatility, see policies/volatility.md.", policy.VolatilityRule),
    (
        '`[[rules]]`, `kind = "utilisation"`, `"concentration"`, `"funding"` or `"gauge"`',
        "Caps that react to a level, see policies/utilisation.md.",
        policy.ResponseRule,
    ),
    ('`[[rules]]`, `kind = "own"`', "A rule of your own, see policies/own_rule.md.", policy.OwnRule),
    ("`[transition]`, `[transitions.POOL]`", "What a tightened cap does, see policies/transitions.md.", policy.TransitionSpec),
    ("`[size]`", "Margin by size of position, see policies/size.md.", policy.SizeSpec),
    ("`[score]`", "Risk score of accounts, see policies/risk_score.md.", policy.ScoreSpec),
    ("`[score.weights]`, `[score.mean]`, `[score.scale]`", "One number for each feature.", policy.FeaturesSpec),
    ("`[margin]`", "Terms of portfolio margin, see policies/portfolio_margin.md.", policy.MarginSpec),
    ("`[funding]`", "Funding rules, see policies/funding.md.", policy.FundingPolicySpec),
    ("`[limits.METRIC]`", "A bound on a metric, for every scenario.", spec.LimitSpec),
    ("Experiment", '`kind = "experiment"`: what `stresslev tune` does.', experiment.ExperimentSpec),
    ("`[objective]`", "What is to be made small.", experiment.ObjectiveSpec),
    ("`[[constraints]]`", "What must hold meanwhile.", experiment.ConstraintSpec),
    ('`[parameters."PATH"]`', "Bounds of a number of the policy; `[low, high]` does too.", experiment.ParameterSpec),
    ("`[optimizer]`", "How the gradient is followed, see optax.", experiment.OptimizerSpec),
    ("`[penalty]`", "The augmented Lagrangian of the constraints.", experiment.PenaltySpec),
    ("`[judgement]`", "How the tuned policy is held against others.", experiment.JudgementSpec),
    ("Gate", '`kind = "gate"`: what `stresslev gate` lets pass, see gate.md.', gate.GateSpec),
    ("`[tolerances.METRIC]`", "By how much a metric may be worse than the baseline's.", gate.ToleranceSpec),
)

HEAD = """# Files

Everything a run reads is TOML, plus CSV or Parquet for books and prices. Unknown keys are refused. This page is made from the specifications by
`python docs/make_reference.py`. [Writing files](editors.md) has templates, checks and schemas for editors.

Paths in a file are relative to that file; a name that is not found there is looked up among the shipped scenarios. `--set` overrides any key:
`system.*`, `policy.*`, `run.*`, `limits.*`, `scenario.*` (every scenario of the run), `scenarios.NAME.*` and
`generator.*` (every generator).
"""

BOOK = """
## Books

{book}

`stresslev book check FILE` reports every problem by row (the first data row is 1) and column; `stresslev book sample --out FILE` writes a book
in this form. A system whose `book.file` is set needs `price_usd` for every asset: the marks at which the accounts stand today. Historical
scenarios then move those marks by the historical returns.

## Price files

`[paths.ASSET] file = "..."` takes CSV (plain or gzipped) or Parquet with one row per time, or the JSON of ccxt's fetchOHLCV: `time_column` (Unix
seconds or milliseconds, ISO 8601 text or timestamps) and `price_column`; with `symbol`, only the rows whose `symbol_column` says so. The scenario's
`start` is the time of minute 0; without it the first row is. Between rows the path is linear in log price, however long the gap.

## Limits and metrics

`[limits.METRIC]` takes any of [these](reference/metrics.md).
"""


def _type(annotation) -> str:
    """A short name for a field's type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{a!r}`".replace("'", '"') for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(a) for a in arguments if a is not type(None)))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict and typing.get_origin(arguments[1]) is typing.Annotated and "Discriminator" in str(arguments[1]):
        return "table: name -> table"
    if origin is dict:
        return f"table: {_type(arguments[0])} -> {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return {"str": "text", "float": "number", "int": "integer", "datetime": "date and time"}.get(getattr(annotation, "__name__", ""), "value")


def _default(field) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else None
    if value is None or isinstance(value, BaseModel) or value in ((), ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(model: type[BaseModel], names: list[str] | None = None) -> str:
    """The keys of a table with type, default and meaning: all, or those named."""
    fields = {n: model.model_fields[n] for n in (model.model_fields if names is None else names)}
    rows = [f"| `{name}` | {_type(f.annotation)} | {_default(f)} | {(f.description or '').replace('|', '/')} |" for name, f in fields.items()]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for title, text, model in TABLES:
        parts.append(f"\n## {title}\n\n{text}\n\n{table(model)}\n")
    columns = files.__doc__.split("Columns:\n")[1].strip("\n")
    book = "One row per position, CSV or Parquet:\n\n```\n" + columns + "\n```"
    return "".join(parts) + BOOK.format(book=book)
