"""One plan under many policies: what the hard rules say of each, and the derivatives of smoothed thresholds with respect to a policy's parameters."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache

import jax
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from stresslev import assemble, preparation
from stresslev.batches import Progress, silent
from stresslev.config.load import Plan
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import ScenarioSpec
from stresslev.engine.floats import split
from stresslev.engine.step import Record
from stresslev.engine.types import Path, Policy, State, cast
from stresslev.gradient import Derivatives, value_and_grad
from stresslev.many import simulate_many
from stresslev.objectives import OBJECTIVES, Start, check_objectives, start_of
from stresslev.opening import at_start, at_start_prices, load_book, shock_of
from stresslev.parameters import Parameter, assembled, check
from stresslev.shocks.paths import Shock
from stresslev.stepping import chosen
from stresslev.tuning.bandwidth import band


@lru_cache
def _figures(names: tuple[str, ...]):
    """A function that makes (K,) the named objectives of a run; the same for the same names, so that it is compiled once."""

    def figures(start: Start, record: Record, state: State) -> jax.Array:
        return jax.numpy.stack([OBJECTIVES[name](record, start) for name in names])

    return figures


def smoothed(
    plan: Plan,
    scenario: ScenarioSpec,
    shock: Shock,
    ready: preparation.Prepared,
    objectives: Sequence[str],
    weights: np.ndarray,
    *,
    width: float,
    stepping: str = "auto",
    policy: Policy | None = None,
    path: Path | None = None,
) -> tuple[jax.Array, Derivatives]:
    """Objectives of a run with smoothed thresholds, and the derivatives of their weighted sum. Must be called where `prepare` may be.

    Args: `weights` (K,); `width`, half width of the band; `policy` and `path` instead of those of `ready`.
    """
    levels, ledger = preparation.initial_levels(ready, shock), ready.state.ledger
    start = start_of(levels, np.asarray(ledger.long_quantity), np.asarray(ledger.short_quantity))
    rules, path = ready.policy if policy is None else policy, ready.path if path is None else path
    return value_and_grad(
        Partial(_figures(tuple(objectives)), cast(start, ready.dtype)),
        ready.system,
        rules,
        ready.state.populations,
        path,
        max_rounds=plan.run.max_rounds,
        mark_history=assemble.mark_history(plan.system, scenario.step_minutes),
        notice=assemble.notice_history(plan.policy, scenario.step_minutes),
        weights=jax.numpy.asarray(weights, ready.dtype),
        band=width,
        stepping=chosen(stepping, ready.state, rules, path.log_price.shape[0]),
    )


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Of one scenario under one policy, by smoothed thresholds."""

    values: np.ndarray  # (K,) objectives of the smoothed run: close to those of the hard rules, not theirs
    slopes: np.ndarray  # (P,) derivative of the weighted sum with respect to the parameters' values
    apart: float  # largest relative difference of prices between the way there and the way back


class Study:
    """A plan's scenarios, made ready once."""

    def __init__(
        self,
        plan: Plan,
        parameters: Sequence[Parameter],
        objectives: Sequence[str],
        *,
        width: float | None = None,
        stepping: str = "auto",
        file: str = "experiment",
    ):
        """Args: `width`, half width of the band; from the book when None. `file` is what errors name.

        Raises:
          InputError: a parameter or an objective that is none, or a book that cannot be used.
        """
        check(parameters, plan.policy, file)
        check_objectives(objectives, file)
        self.plan, self.parameters, self.objectives = plan, tuple(parameters), tuple(objectives)
        self.stepping, self.file = stepping, file
        self.scenarios = {s.name: (s, shock_of(plan, s)) for s in plan.scenarios}
        self.book = load_book(plan, next(iter(self.scenarios.values()))[1])
        self.width = band(self.book.gross_notional) if width is None else width
        self._ready: dict[str, preparation.Prepared] = {}
        self._memos: dict[bytes, dict] = {}

    @property
    def precise(self) -> bool:
        """Whether the plan asks for double precision."""
        return self.plan.run.precision == 64

    def hard(self, policies: Mapping[str, PolicySpec], scenarios: Sequence[str] | None = None, progress: Progress = silent) -> xr.Dataset:
        """Objectives by the hard rules, (scenario, policy)."""
        plan = self.plan
        if scenarios is not None:
            plan = dataclasses.replace(plan, scenarios=tuple(self.scenarios[name][0] for name in scenarios))
        return simulate_many(plan, policies=policies, measures=self.objectives, progress=progress)

    def _prepared(self, name: str) -> preparation.Prepared:
        if name not in self._ready:
            scenario, shock = self.scenarios[name]
            key = assemble.reference_prices(self.plan.system, shock).tobytes()
            book = at_start(self.plan, self.book, shock)
            self._ready[name] = preparation.prepare(self.plan, scenario, shock, book, memo=self._memos.setdefault(key, {}))
        return self._ready[name]

    def gradient(self, policy: PolicySpec, scenario: str, weights: np.ndarray) -> Gradient:
        """Derivative of the objectives' weighted sum in one scenario, estimated with smoothed thresholds. Args: `weights` (K,)."""
        with jax.enable_x64(self.precise):
            ready, (spec, shock) = self._prepared(scenario), self.scenarios[scenario]
            made = self.made(policy, scenario)
            rules = cast(made.policy, ready.dtype)
            own = dataclasses.replace(self.plan, policy=policy)
            value, found = smoothed(own, spec, shock, ready, self.objectives, weights, width=self.width, stepping=self.stepping, policy=rules)
            slopes = made.gradient(split(found.policy)[0])
        return Gradient(np.asarray(value, np.float64), slopes, found.apart)

    def made(self, policy: PolicySpec, scenario: str):
        """The engine's policy in a scenario, and how it follows from the parameters."""
        ready, (spec, shock) = self._prepared(scenario), self.scenarios[scenario]
        grid = assemble.Grid(np.asarray(at_start_prices(self.plan, self.book, shock), float), float(spec.step_minutes))
        return assembled(policy, self.parameters, self.plan.system, grid, ready.system.funding, self.file)
