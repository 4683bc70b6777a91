"""A policy's specification as the engine takes it: half-lives and annual figures turned into figures per step."""

import dataclasses
import importlib
import math

import numpy as np

from stresslev.assemble.units import MINUTES_PER_YEAR, Grid, table
from stresslev.config.policy import AnyRule, CapsSpec, OwnRule, PolicySpec, ResponseRule, SizeSpec, TransitionSpec, VolatilityRule
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import SystemSpec
from stresslev.engine.funding import FundingRules
from stresslev.engine.leverage import transition as transitions
from stresslev.engine.leverage.caps import Applied, Caps
from stresslev.engine.leverage.gauge import GaugeRules
from stresslev.engine.leverage.in_force import MarginTerms
from stresslev.engine.leverage.reactions import Reaction
from stresslev.engine.leverage.score import FEATURES, RiskScore
from stresslev.engine.leverage.size import SizeSchedule, SmoothSize, SteppedSize
from stresslev.engine.leverage.transition import Transition
from stresslev.engine.leverage.volatility import VolatilityScaling
from stresslev.engine.types import Policy, System
from stresslev.errors import InputError, Problem

_FORMS = {"new_risk": transitions.NEW_RISK, "call": transitions.CALL, "pace": transitions.PACE}
#: Kind of a rule that reacts to a level -> the level it reads, in `reactions.READS`.
READS_OF = {"utilisation": "pool_utilisation", "concentration": "concentration", "funding": "funding", "gauge": "systemic_gauge"}
#: Base cap of a contract without tiers.
_UNTIERED = 20.0
#: Utilisation of a lender at which its own reaction begins.
_LENDERS_AT = 0.8


def policy_arrays(policy: PolicySpec, system: SystemSpec, grid: Grid, funding: FundingRules | None = None) -> Policy:
    """The engine's view of a policy; shapes as in `Policy`.

    Args: `funding`, the system's own rules, which the policy may replace.

    Raises:
      InputError: a rule of the user's own that cannot be loaded.
    """
    multiplier = table(system, lambda p, a: policy.maintenance_multiplier)
    for v, name in enumerate(system.pools):
        for a, asset in enumerate(system.assets):
            multiplier[v, a] = policy.pools.get(name, {}).get(asset, policy.maintenance_multiplier)
    fixed = Policy(
        maintenance_multiplier=multiplier,
        size=None if policy.size is None else _size(policy.size),
        margin=None if policy.margin is None else MarginTerms(*(np.full(len(system.pools), x) for x in _margin(policy.margin))),
        funding=None if policy.funding is None or funding is None else _funding(policy, funding, grid),
        steps_per_year=np.float64(MINUTES_PER_YEAR / grid.step_minutes),
    )
    if policy.caps is None:
        return fixed
    every = policy.score.every_minutes if policy.score else 1.0
    return dataclasses.replace(
        fixed,
        caps=_caps(policy.caps, system, grid),
        rules=tuple(_applied(r, system, grid) for r in policy.rules),
        transition=_transition(policy, system, grid) if policy.transition or policy.transitions else None,
        score=None if policy.score is None else _score(policy),
        score_every=None if policy.score is None else np.int32(max(1, grid.steps(every))),
        gauge=GaugeRules(every=np.int32(max(1, grid.steps(policy.gauge_every_minutes)))) if policy.reads_gauge else None,
    )


def with_policy(system: System, policy: PolicySpec) -> System:
    """The system's arrays under the policy's choice of tiers: as they are, or the first tier's rate for every size."""
    if policy.tiers == "system":
        return system
    return dataclasses.replace(system, tier_floor=system.tier_floor[..., :1], tier_step=system.tier_step[..., :1], size_scale=None)


def notice_history(policy: PolicySpec, step_minutes: float) -> int:
    """Steps of announcements that caps look back on."""
    return 1 if policy.caps is None else 1 + round(policy.caps.notice_minutes / step_minutes)


def _pace(grid: Grid, minutes: float) -> float:
    """Log change per step of something that may double or halve in that time."""
    return math.inf if minutes == 0 else math.log(2) * grid.step_minutes / minutes


def _caps(caps: CapsSpec, system: SystemSpec, grid: Grid) -> Caps:
    base = np.empty((len(system.pools), len(system.assets)))
    for v, pool in enumerate(system.pools):
        for a, asset in enumerate(system.assets):
            tiers = system.tier_table(pool, asset)
            general = caps.base or (tiers.max_leverage[0] if tiers else _UNTIERED)
            base[v, a] = caps.pools.get(pool, {}).get(asset, general)

    def everywhere(x):
        return np.full(base.shape, float(x))

    return Caps(
        base=np.clip(base, caps.floor, caps.ceiling),
        floor=everywhere(caps.floor),
        ceiling=everywhere(caps.ceiling),
        least_maintenance=everywhere(caps.least_maintenance),
        most_maintenance=everywhere(caps.most_maintenance),
        tighten=everywhere(_pace(grid, caps.halving_minutes)),
        loosen=everywhere(_pace(grid, caps.doubling_minutes)),
        notice=np.full(len(base), grid.steps(caps.notice_minutes), np.int32),
    )


def _applied(rule: AnyRule, system: SystemSpec, grid: Grid) -> Applied:
    here = np.array([rule.in_pools is None or name in rule.in_pools for name in system.pools], float)
    made = {"volatility": _volatility, "own": _own}.get(rule.kind, _reaction)(rule, system, grid)
    return Applied(rule=made, on_cap=rule.on_cap * here, on_maintenance=rule.on_maintenance * here)


def _own(rule: OwnRule, system: SystemSpec, grid: Grid):
    module, name = rule.rule.split(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fix = f"put the folder of {module.split('.')[0]}.py on PYTHONPATH, and name a class in it"
        raise InputError("policy", Problem("rules.rule", rule.rule, f"cannot be loaded: {error}", fix)) from error
    if not all(hasattr(found, method) for method in ("start", "react")):
        raise InputError("policy", Problem("rules.rule", rule.rule, "is no rule", "give the class the methods start and react"))
    try:
        return found(**{key: np.float64(value) for key, value in rule.parameters.items()})
    except TypeError as error:
        raise InputError("policy", Problem("rules.parameters", str(rule.parameters), str(error), "give the fields of the class")) from error


def _volatility(rule: VolatilityRule, system: SystemSpec, grid: Grid) -> VolatilityScaling:
    own = np.array([system.assets[a.receipt.underlying].volatility if a.receipt else a.volatility for a in system.assets.values()], float)
    return VolatilityScaling(
        target=own[None, :] if rule.target is None else np.float64(rule.target),
        gamma=np.float64(rule.gamma),
        floor=np.float64(rule.floor),
        ceiling=np.float64(rule.ceiling),
        decay=np.float64(grid.decay(rule.half_life_minutes)),
        long_run=own if rule.target is None else np.full_like(own, rule.target),
        alpha=np.float64(rule.alpha),
        beta=np.float64(rule.beta),
        stress_weight=np.float64(rule.stressed_weight),
        stress_volatility=np.float64(rule.stressed_volatility or 0.0),
        least=np.float64(rule.least_volatility),
        buffer=np.float64(rule.buffer),
        release=np.float64(np.inf if rule.release is None else rule.release),
        estimator=rule.estimator,
        bar=max(1, grid.steps(rule.bar_minutes)),
    )


def _reaction(rule: ResponseRule, system: SystemSpec, grid: Grid) -> Reaction:
    at = np.full((len(system.pools), 1), rule.at)
    if rule.kind == "utilisation":
        lends = np.array([isinstance(p, LendingSpec) for p in system.pools.values()])
        at[lends] = rule.lenders_at or _LENDERS_AT
    return Reaction(
        at=np.broadcast_to(at, (len(at), len(system.assets))).copy(),
        slope=np.float64(rule.slope),
        floor=np.float64(rule.floor),
        ceiling=np.float64(rule.ceiling),
        reads=READS_OF[rule.kind],
    )


def _size(size: SizeSpec) -> SizeSchedule:
    if size.at is not None:
        return SteppedSize(at=np.array(size.at, float), rate_increase=np.array(size.rate_increase, float), relative_to=size.relative_to)
    return SmoothSize(amount=np.float64(size.amount), power=np.float64(size.power), most=np.float64(size.most), relative_to=size.relative_to)


def _margin(spec) -> tuple[float, ...]:
    return spec.weight, spec.offset, spec.deviations, spec.floor


def _funding(policy: PolicySpec, rules: FundingRules, grid: Grid) -> FundingRules:
    spec = policy.funding
    new = {key: np.full_like(rules.clamp, value) for key in ("interest", "clamp", "cap", "skew_slope") if (value := getattr(spec, key)) is not None}
    if spec.cap is not None:
        new["floor"] = -new["cap"]
    if spec.interval_minutes is not None:
        new["interval"] = np.full_like(rules.interval, max(1, grid.steps(spec.interval_minutes)))
    return dataclasses.replace(rules, **new)


def _transition(policy: PolicySpec, system: SystemSpec, grid: Grid) -> Transition:
    idle = TransitionSpec(form="new_risk")
    specs = [policy.transitions.get(name, policy.transition or idle) for name in system.pools]

    def of(get, dtype=float):
        return np.array([get(s) for s in specs], dtype)

    def share(minutes):
        return 1 - grid.decay(minutes)

    return Transition(
        form=of(lambda s: _FORMS[s.form], np.int32),
        window=of(lambda s: grid.steps(s.window_minutes), np.int32),
        met=of(lambda s: s.met),
        pace=of(lambda s: share(s.pace_minutes)),
        aim=of(lambda s: s.aim),
        warn=of(lambda s: np.inf if s.warn is None else s.warn),
        response=of(lambda s: share(s.response_minutes)),
        safe=of(lambda s: s.safe),
        releverage=of(lambda s: share(s.releverage_minutes)),
        over_maintenance=of(lambda s: s.initial_over_maintenance),
    )


def _score(policy: PolicySpec) -> RiskScore:
    spec = policy.score

    def features(x):
        return np.array([getattr(x, name) for name in FEATURES])

    return RiskScore(
        weights=features(spec.weights),
        mean=features(spec.mean),
        scale=features(spec.scale),
        intercept=np.float64(spec.intercept),
        steepness=np.float64(spec.steepness),
        midpoint=np.float64(spec.midpoint),
        floor=np.float64(spec.floor),
        correlation=np.float64(spec.correlation),
    )
