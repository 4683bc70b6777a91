"""From a scenario's points, files and proxies to log prices and depth factors on the time grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stresslev.config.assets import AssetSpec
from stresslev.config.load import data_file
from stresslev.config.spec import DepthSpec, OutageSpec, PathSpec, ScenarioSpec, StuckSpec
from stresslev.errors import InputError, Problem
from stresslev.shocks.price_file import read_prices, timestamp

#: Most that the grid may miss of a path's highest and lowest price.
_MISSED = 0.01


@dataclass(frozen=True)
class Shock:
    """A scenario on its grid of T steps; minute 0 is the start.

    Attributes:
      assets: A names.
      minutes: (T + 1,) since the start.
      start_price: (A,) USD at minute 0.
      log_price: (T + 1, A) log of price over the starting price, after `shock_scale`.
      depth_factor: (T, A) during each step, after `depth_scale`.
      mark_offset: (T, V, A) log dislocation of the pools' marks, or None.
      premium: (T, V, A) of perps over the index, or None.
      outage: (T, V) bool, or None.
      stuck: (T, V, A) bool, marks that stand still, or None.
    """

    assets: tuple[str, ...]
    minutes: np.ndarray
    start_price: np.ndarray
    log_price: np.ndarray
    depth_factor: np.ndarray
    mark_offset: np.ndarray | None = None
    premium: np.ndarray | None = None
    outage: np.ndarray | None = None
    stuck: np.ndarray | None = None

    @property
    def disturbs_marks(self) -> bool:
        """Whether marks are moved or held, so that pools without rules of their own need some."""
        return any(x is not None for x in (self.mark_offset, self.outage, self.stuck))

    @property
    def log_return(self) -> np.ndarray:
        """(T, A) log return of each step."""
        return np.diff(self.log_price, axis=0)


def _from_file(path: PathSpec, scenario: ScenarioSpec, base: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Minutes since the start and prices of one asset, from a price file."""
    file = data_file(path.file, base, f"{key}.file")
    seconds, prices = read_prices(file, path, key)
    start = seconds[0] if scenario.start is None else timestamp(scenario.start)
    minutes = (seconds - start) / 60
    if minutes[0] > 1e-9 or minutes[-1] < scenario.duration_minutes - scenario.step_minutes - 1e-9:
        first, last = (np.datetime64(int(s), "s") for s in (seconds[0], seconds[-1]))
        fix = "move start, shorten duration_minutes, or give a longer file"
        raise InputError(file, Problem(f"column {path.time_column}", "", f"covers {first} to {last}, not the whole scenario", fix))
    return minutes, prices


def _grid_log_price(path: PathSpec, scenario: ScenarioSpec, base: Path, key: str, grid: np.ndarray) -> tuple[float, np.ndarray]:
    """Starting price and log price over it on the grid; linear in log price between points, constant after the last."""
    minutes, prices = (path.minutes, path.prices) if path.file is None else _from_file(path, scenario, base, key)
    minutes, logs = np.asarray(minutes, float), np.log(np.asarray(prices, float))
    log_price = np.interp(grid, minutes, logs)
    inside = logs[(minutes >= 0) & (minutes <= grid[-1])]
    pairs = (("highest", inside.max(initial=-np.inf), log_price.max()), ("lowest", inside.min(initial=np.inf), log_price.min()))
    for name, extreme, found in pairs:
        if np.isfinite(extreme) and abs(np.expm1(extreme - found)) > _MISSED:
            what = f"{key}: the grid passes over the {name} price, {np.exp(extreme):g}, and sees {np.exp(found):g}"
            problem = Problem("step_minutes", f"{scenario.step_minutes:g}", what, "use shorter steps")
            raise InputError(f"scenario {scenario.name}", problem)
    at_start = np.flatnonzero(np.asarray(minutes) == grid[0])
    start = prices[at_start[0]] if len(at_start) else np.exp(log_price[0])
    return float(start), log_price - log_price[0]


def path_of(name: str, scenario: ScenarioSpec, assets: dict[str, AssetSpec]) -> PathSpec:
    """The scenario's path of an asset, or what the system says it does in scenarios without one."""
    if name in scenario.paths:
        return scenario.paths[name]
    asset = assets[name]
    if asset.follows is not None:
        other = asset.follows.asset
        start = asset.follows.ratio * _start(other, scenario, assets)
        path = path_of(other, scenario, assets)
        if path.proxy is not None:  # the followed asset is a proxy itself: follow what it follows
            return PathSpec(proxy=path.proxy, beta=asset.follows.beta * path.beta, start_price_usd=start)
        return PathSpec(proxy=other, beta=asset.follows.beta, start_price_usd=start)
    level = asset.peg_usd if asset.receipt is None else asset.price_usd or _start(asset.receipt.underlying, scenario, assets)
    return PathSpec(minutes=(0.0, 1.0), prices=(level, level))


def _start(name: str, scenario: ScenarioSpec, assets: dict[str, AssetSpec]) -> float:
    """Starting price of an asset, as far as points or the system give it (a price file is read for its return only)."""
    path = path_of(name, scenario, assets)
    if path.prices is not None:
        return path.prices[0]
    return path.start_price_usd or assets[name].price_usd or 1.0


def _curves(given: dict, pools: tuple[str, ...], assets: tuple[str, ...], grid: np.ndarray) -> np.ndarray | None:
    """(T, V, A) figures by pool and asset on the grid, zero where there are none; None when there are none at all."""
    if not given:
        return None
    out = np.zeros((len(grid) - 1, len(pools), len(assets)))
    for pool, by_asset in given.items():
        for asset, curve in by_asset.items():
            minutes, values = np.asarray(curve.minutes), np.asarray(curve.values)
            if curve.stepped:
                place = np.searchsorted(minutes, grid[1:], side="right") - 1
                on_grid = np.where(place >= 0, values[np.maximum(place, 0)], 0.0)
            else:
                on_grid = np.interp(grid[1:], minutes, values)
            out[:, pools.index(pool), assets.index(asset)] = on_grid
    return out


def _during(span: OutageSpec | StuckSpec, grid: np.ndarray) -> np.ndarray:
    """(T,) bool: the steps that end after its beginning and not after its end."""
    return (grid[1:] > span.start_minute) & (grid[1:] <= span.end_minute)


def build(
    scenario: ScenarioSpec, assets: tuple[str, ...], base: Path, *, defaults: dict[str, AssetSpec] | None = None, pools: tuple[str, ...] = ()
) -> Shock:
    """Put a scenario on its grid.

    Args:
      scenario: validated specification.
      assets: the system's assets, in its order.
      base: folder that price files are relative to.
      defaults: the assets' specifications, for paths that the scenario does not give.
      pools: names of the system's pools, for dislocations, premiums, outages and stuck marks.

    Raises:
      InputError: a price file that is missing, malformed or too short.
    """
    grid = np.arange(scenario.steps + 1) * scenario.step_minutes
    paths = {name: path_of(name, scenario, defaults or {}) for name in dict.fromkeys((*assets, *scenario.paths))}
    own = {name: _grid_log_price(path, scenario, base, f"paths.{name}", grid) for name, path in paths.items() if path.proxy is None}
    start, log_price, depth = [], [], []
    for name in assets:
        path = paths[name]
        if path.proxy is None:
            first, x = own[name]
        else:
            first, x = path.start_price_usd, path.beta * own[path.proxy][1]
        start.append(first)
        log_price.append(scenario.shock_scale * x)
        factor = scenario.depth.get(name, scenario.depth.get("default", DepthSpec()))
        depth.append(scenario.depth_scale * np.interp(grid[1:], factor.minutes, factor.factors))
    offset = _curves(scenario.dislocations, pools, assets, grid)
    outage = np.zeros((scenario.steps, len(pools)), bool) if scenario.outages else None
    for down in scenario.outages:
        outage[_during(down, grid), pools.index(down.pool)] = True
    stuck = np.zeros((scenario.steps, len(pools), len(assets)), bool) if scenario.stuck_marks else None
    for held in scenario.stuck_marks:
        for name in held.assets or assets:
            stuck[_during(held, grid), pools.index(held.pool), assets.index(name)] = True
    return Shock(
        assets=tuple(assets),
        minutes=grid,
        start_price=np.array(start),
        log_price=np.stack(log_price, axis=1),
        depth_factor=np.stack(depth, axis=1),
        mark_offset=None if offset is None else np.log1p(offset),
        premium=_curves(scenario.premiums, pools, assets, grid),
        outage=outage,
        stuck=stuck,
    )
