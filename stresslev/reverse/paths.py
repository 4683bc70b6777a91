"""From factors to a scenario: the path of a base scenario, scaled so that every asset's largest move is the factor's, and depth scaled."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stresslev.config.factors import FactorsSpec
from stresslev.config.spec import PathSpec, ScenarioSpec, SystemSpec
from stresslev.errors import InputError, Problem
from stresslev.reverse.factors import Factors
from stresslev.shocks.paths import Shock, build

#: Fall, in log price, of a ramp that is to be scaled.
_ANY = -0.1


def ramp(spec: FactorsSpec, *, ramp_minutes: int, after_minutes: int, step_minutes: float) -> dict:
    """A scenario to be scaled, as nested tables: every factor moves in a straight line in log price within some minutes, and stays."""
    end = ramp_minutes + after_minutes
    paths = {}
    for name, asset in spec.assets.items():
        prices = [asset.start_price_usd, asset.start_price_usd * float(np.exp(_ANY))]
        paths[name] = {"minutes": [0.0, float(ramp_minutes)], "prices": prices, "source": f"found in factors {spec.name}"}
    paths |= {n: {"proxy": p.asset, "beta": p.beta, "start_price_usd": p.start_price_usd} for n, p in spec.proxies.items()}
    text = f"the whole move comes evenly in log price within the first {ramp_minutes:g} minutes; nothing recovers in the {after_minutes:g} after."
    head = {"kind": "scenario", "name": "shock", "title": "Ramp", "origin": "hypothetical", "severity": "very severe", "assumptions": [text]}
    return head | {"duration_minutes": end, "step_minutes": float(step_minutes), "paths": paths}


@dataclass(frozen=True)
class Shape:
    """How factors become a path.

    Attributes:
      base: the scenario whose paths are scaled. folder: what its price files are relative to.
      factors, system: what moves, and whose assets there are.
      flat: the path in which no factor moves; by_factor: (F, T + 1, A) log price per unit of each asset's factor.
    """

    base: ScenarioSpec
    folder: Path
    factors: Factors
    system: SystemSpec
    points: dict[str, tuple[tuple[float, ...], np.ndarray, float]]  # factor -> minutes, log price over the start per unit, starting price
    flat: Shock
    by_factor: np.ndarray

    def scenario(self, x: np.ndarray, **about) -> ScenarioSpec:
        """A shock (K,) as a scenario; `about` are keys of the specification such as its name."""
        spec, n = self.factors.spec, len(self.factors.assets)
        # files of paths that are left as they are must be found from wherever the scenario is written
        paths = {a: p if p.file is None else p.model_copy(update={"file": str((self.folder / p.file).resolve())}) for a, p in self.base.paths.items()}
        for (name, (minutes, logs, start)), move in zip(self.points.items(), x[:n], strict=True):
            prices = tuple(float(p) for p in start * np.exp(move * logs))
            paths[name] = PathSpec(minutes=minutes, prices=prices, source=f"reverse stress test over factors {spec.name}")
        paths |= {a: PathSpec(proxy=p.asset, beta=p.beta, start_price_usd=p.start_price_usd) for a, p in spec.proxies.items()}
        depth = float(np.exp(x[n])) if self.factors.has_depth else 1.0
        update = {"paths": paths, "shock_scale": 1.0, "depth_scale": self.base.depth_scale * depth} | about
        return ScenarioSpec.model_validate(self.base.model_copy(update=update).model_dump())

    def shock(self, x: np.ndarray) -> Shock:
        """A shock (K,) on the grid; as `scenario` makes it, but for rounding."""
        n = len(self.factors.assets)
        depth = np.exp(x[n]) if self.factors.has_depth else 1.0
        log_price = self.flat.log_price + np.tensordot(x[:n], self.by_factor, axes=1)
        return Shock(**(vars(self.flat) | {"log_price": log_price, "depth_factor": self.flat.depth_factor * depth}))

    def gradient(self, x: np.ndarray, of_log_price: np.ndarray, of_depth: np.ndarray) -> np.ndarray:
        """(K,) derivative with respect to factors. Args: those with respect to log price after minute 0 and depth factors, (T, A)."""
        found = [float(np.sum(d[1:] * of_log_price)) for d in self.by_factor]
        if self.factors.has_depth:
            found.append(float(np.sum(self.shock(x).depth_factor * of_depth)))
        return np.array([*found, 0.0] if self.factors.has_correlation else found)


def shape(base: ScenarioSpec, folder: Path, factors: Factors, system: SystemSpec, file: str) -> Shape:
    """Make a scenario ready to be scaled. Args: `file` that errors name.

    Raises:
      InputError: a factor that the system does not hold, an asset of the system that no factor moves, or a factor that does not move in the scenario.
    """
    spec, assets = factors.spec, tuple(system.assets)
    problems = [Problem(f"assets.{n}", "", f"is no asset of system {system.name}", "leave it out") for n in spec.assets if n not in assets]
    known = {*spec.assets, *spec.proxies, *base.paths}
    for name, asset in system.assets.items():
        driven = name in known or asset.peg_usd is not None or asset.receipt is not None or (asset.follows and asset.follows.asset in known)
        if not driven:
            fix = f"add [assets.{name}] with a standard deviation, or [proxies.{name}] with a beta, to the factors"
            problems.append(Problem(f"assets.{name}", "", f"is missing: system {system.name} holds {name}", fix))
    problems += [
        Problem(f"assets.{n}", "", f"has no path in scenario {base.name}", "name another scenario") for n in spec.assets if n not in base.paths
    ]
    if problems:
        raise InputError(file, problems)
    # only what the factors have a say in is needed to see how they move
    own = build(base.model_copy(update={"shock_scale": 1.0}), tuple(spec.assets), folder, defaults=dict(system.assets), pools=tuple(system.pools))
    points = {}
    for i, name in enumerate(spec.assets):
        logs, path = own.log_price[:, i], base.paths[name]
        largest = logs[np.abs(logs).argmax()]
        if abs(largest) < 1e-6:
            problem = Problem(f"paths.{name}", "", f"does not move in scenario {base.name}, so there is nothing to scale", "name another scenario")
            raise InputError(file, problem)
        if path.prices is not None:
            minutes, own_logs = tuple(path.minutes), np.log(np.array(path.prices) / path.prices[0])
        else:
            minutes, own_logs = tuple(float(m) for m in own.minutes), logs
        points[name] = minutes, own_logs / largest, float(own.start_price[i])
    made = Shape(base, folder, factors, system, points, own, np.zeros((len(points), 0, 0)))

    def on_grid(x: np.ndarray) -> Shock:
        return build(made.scenario(x), assets, folder, defaults=dict(system.assets), pools=tuple(system.pools))

    flat = on_grid(np.zeros(len(factors.names)))
    units = np.eye(len(factors.names))[: len(points)]
    by_factor = np.stack([on_grid(e).log_price - flat.log_price for e in units])
    return Shape(base, folder, factors, system, points, flat, by_factor)
