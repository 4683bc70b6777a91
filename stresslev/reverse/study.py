"""A reverse stress test from a plan to what was found: search, confirmation by a full run, what broke first, and the picture."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from stresslev import opening, simulation
from stresslev.batches import Progress, silent
from stresslev.config.factors import FactorsSpec
from stresslev.config.load import Plan
from stresslev.config.spec import LimitSpec, ScenarioSpec
from stresslev.errors import InputError, NumericalFailure, Problem
from stresslev.metrics import METRICS
from stresslev.reverse import events
from stresslev.reverse.conditions import Condition, several
from stresslev.reverse.factors import Factors, Plausibility, plausibility
from stresslev.reverse.paths import shape
from stresslev.reverse.picture import Picture, chosen, draw
from stresslev.reverse.search import TOLERANCE, Found, Search, starts
from stresslev.reverse.state import System

#: A shock that the search has found and that a run by itself, with its own rounding, does not confirm is made larger by this share, so often at most.
_OUTWARDS, _TRIES = 0.0005, 10
#: What the scenario that is found is called.
NAME = "shock"
#: Share by which a shock is made smaller to show that it then does not break.
SLACK = 0.01


@dataclass(frozen=True)
class Reversed:
    """What a reverse stress test found; without `shock` nothing within the radius breaks.

    Attributes:
      system: the problem, with its plan and factors. starts: where each start of the search came to, the nearest first.
      point: (K,) coordinates, shock: (K,) log returns, log factor on depth, correlation stress.
      scenario: the shock as a scenario. dataset: its run by the hard rules. broken, timeline: see `events`.
      plausibility: by distribution. ray: distances on the way to the shock and the conditions' metrics there (N, C).
      nearer: (C,) metrics at a shock 1% nearer, which does not break.
    """

    plan: Plan
    system: System
    radius: float
    starts: tuple[Found, ...]
    seconds: float
    point: np.ndarray | None = None
    shock: np.ndarray | None = None
    scenario: ScenarioSpec | None = None
    dataset: xr.Dataset | None = None
    broken: tuple[dict, ...] = ()
    timeline: tuple[dict, ...] = ()
    plausibility: dict[str, Plausibility] = field(default_factory=dict)
    ray: tuple[np.ndarray, np.ndarray] | None = None
    nearer: np.ndarray | None = None
    picture: Picture | None = None

    @property
    def found(self) -> bool:
        """Whether anything within the radius breaks the system."""
        return self.point is not None

    @property
    def distance(self) -> float:
        """Of the shock from no shock; infinite without one."""
        return float(np.linalg.norm(self.point)) if self.found else float("inf")

    def limits(self) -> dict[str, LimitSpec]:
        """The conditions as limits of a suite."""
        reason = "the bound of the reverse stress test"
        return {c.metric: LimitSpec(**c.limit, reason=reason) for c in self.system.conditions}


def reverse_stress(
    plan: Plan,
    breaks: Sequence[str | Condition],
    factors: FactorsSpec,
    *,
    radius: float = 12.0,
    random_starts: int = 2,
    picture_of: str | None = None,
    picture_points: int = 13,
    width: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
    told: Callable[[str], None] = lambda line: None,
    file: str = "factors",
) -> Reversed:
    """The shock of least distance under a distribution of factors that breaks a system: its design point, confirmed on the hard rules.

    Args:
      plan: the system, policy, book and [run]; its first scenario is the path that is scaled (`reverse.paths`).
      breaks: conditions such as "bad_debt_usd > 1e6"; any of them is a break.
      factors: see `reverse.factors`; lengths there are standard deviations.
      radius: distance beyond which nothing is looked for.
      random_starts: directions drawn at random with the plan's seed, besides those that are always tried.
      picture_of: two factors, "BTC,depth"; those that move most when None.
      picture_points: points of the picture on each side; 0 for none.
      width: half width of the smoothed band of gradients, in health; from the book when None.
      checkpoint: file in which runs are kept.
      resume: take up the runs of an earlier sitting from there.
      progress: shows how far runs have come.
      told: gets a line now and then.
      file: that errors about factors name.

    Returns: the shock, how plausible it is, what broke, other ways to break, and the picture.

    Raises:
      InputError: a condition, factor or book that cannot be used, or a system that is broken without any shock.
      NumericalFailure: the run of the shock that was found fails.
    """
    began = time.perf_counter()
    conditions = several([b for b in breaks if isinstance(b, str)]) if all(isinstance(b, str) for b in breaks) else tuple(breaks)
    spread, base = Factors(factors), plan.scenarios[0]
    folder = plan.base_of(base)
    plan = replace(plan, files=plan.files | {f"scenario:{NAME}": plan.files[f"scenario:{base.name}"]})
    made = shape(base.model_copy(update={"name": NAME}), folder, spread, plan.system, file)
    system = System(plan, made, conditions, width=width, checkpoint=checkpoint, resume=resume, progress=progress)
    if picture_of is not None:
        chosen(spread, np.zeros(len(spread.names)), picture_of)  # before the work begins
    directions = starts(spread.assets, factors.matrix, len(spread.names), random_starts, plan.run.seed)
    system.expected = 40 * len(directions) + picture_points**2
    try:
        found = _searched(system, radius, directions, told)
        best = found[0]
        if not np.isfinite(best.distance):
            return Reversed(system.plan, system, radius, tuple(found), time.perf_counter() - began)
        scenario, dataset, point = _confirmed(system, best, progress)
        x = spread.shock(point)
        levels = np.linspace(0, 1.25, 26) * np.linalg.norm(point)
        ray = system.hard([t * best.direction for t in levels])
        nearer = system.hard([(1 - SLACK) * point])[0]
        drawn = None
        if picture_points and len([n for n in spread.names if n != "correlation"]) > 1:
            drawn = draw(system, x, chosen(spread, x, picture_of), picture_points)
    finally:
        system.keep()
    return Reversed(
        plan=replace(system.plan, scenarios=(scenario,)),
        system=system,
        radius=radius,
        starts=tuple(found),
        seconds=time.perf_counter() - began,
        point=point,
        shock=x,
        scenario=scenario,
        dataset=dataset,
        broken=tuple(events.broken(dataset, conditions)),
        timeline=tuple(events.timeline(dataset)),
        plausibility=plausibility(spread, float(np.linalg.norm(point))),
        ray=(levels, ray),
        nearer=nearer,
        picture=drawn,
    )


def _searched(system: System, radius: float, directions, told) -> list[Found]:
    at_rest = system.hard([np.zeros(len(system.factors.names))])
    excess = system.excess(at_rest)[0]
    if (excess > 0).any():
        worst = int(excess.argmax())
        value, condition = at_rest[0, worst], system.conditions[worst]
        problem = Problem("condition", str(condition), f"holds without any shock, at {value:.6g}", "choose a bound that the system keeps at rest")
        raise InputError("--breaks", problem)
    if not np.isfinite(excess).any():
        raise NumericalFailure("no condition has a value without any shock")
    return Search(system, radius, told).run(directions)


def _confirmed(system: System, best: Found, progress: Progress) -> tuple[ScenarioSpec, xr.Dataset, np.ndarray]:
    """The shock as a scenario that breaks in a run of its own, from the very numbers that are written. Raises NumericalFailure."""
    plan, distance = system.plan, best.distance
    for _ in range(_TRIES):
        point = distance * best.direction
        x = system.factors.shock(point)
        scenario = system.shape.scenario(x, **_about(system, distance))
        shock = opening.shock_of(plan, scenario)
        book = opening.at_start(plan, system.book, shock)
        with jax.enable_x64(plan.run.precision == 64):
            dataset = simulation.simulate_scenario(plan, scenario, shock, book, progress)
        if any(c.holds(METRICS[c.metric].value(dataset)) for c in system.conditions):
            return scenario, dataset, point
        distance *= 1 + _OUTWARDS
    raise NumericalFailure(
        f"a shock at distance {best.distance:.6g} breaks the system when run beside others, and none up to {distance:.6g} does when run by itself; "
        "try --precision 64"
    )


def _about(system: System, distance: float) -> dict:
    """What the scenario says of itself."""
    spec = system.factors.spec
    words = " or ".join(map(str, system.conditions))
    return {
        "title": f"Most plausible shock with {words}",
        "origin": "hypothetical",
        "severity": "very severe",
        "description": f"Found by a reverse stress test: of all shocks that break the system ({words}) the one nearest to the ordinary, at "
        f"{distance:.3f} standard deviations under factors {spec.name}. Within {TOLERANCE:.1%} of the boundary. "
        f"Path that is scaled: {system.plan.scenarios[0].title}.",
        "sources": spec.sources,
        "assumptions": (*system.plan.scenarios[0].assumptions, *spec.assumptions),
    }
