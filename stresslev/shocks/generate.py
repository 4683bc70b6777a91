"""Generated scenarios: from a model's returns to paths on the grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stresslev.config.assets import AssetSpec
from stresslev.config.generator import HISTORICAL, GeneratedScenarioSpec, GeneratorSpec
from stresslev.shocks import garch, history, jumps, regimes
from stresslev.shocks.correlation import asked, nearest_correlation, root
from stresslev.shocks.draws import Drawn, Streams
from stresslev.shocks.paths import Shock, build, path_of

#: Model -> paths from (spec, streams, root of the correlation matrix).
_NORMAL = {"jump_diffusion": jumps.merton, "hawkes": jumps.hawkes, "garch": garch.garch}
#: Model -> paths from (spec, streams, history).
_HISTORICAL = {"filtered_historical": garch.filtered, "block_bootstrap": history.bootstrap}


@dataclass(frozen=True)
class Repair:
    """What became of the correlation matrix that a file asks for."""

    asked: np.ndarray  # (G, G)
    used: np.ndarray  # (G, G)

    @property
    def distance(self) -> float:
        """Largest change of a correlation; 0 where nothing had to be repaired."""
        return float(np.abs(self.used - self.asked).max())


def correlation(spec: GeneratorSpec) -> Repair:
    """The correlation matrix of a generator, repaired if need be."""
    wanted = asked(spec.correlation, tuple(spec.assets))
    return Repair(wanted, nearest_correlation(wanted))


def draw(spec: GeneratorSpec, numbers: Sequence[int], base: Path) -> Drawn:
    """Paths `numbers` of a generator, before `shock_scale`. A path depends on the seed and its number alone, not on which others are drawn.

    Args: `base`, the folder that price files are relative to.

    Raises:
      InputError: a price file that cannot be used.
    """
    streams, kind = Streams(spec, numbers), spec.model.kind
    if kind in HISTORICAL:
        return _HISTORICAL[kind](spec, streams, history.history_of(spec, base))
    matrix = correlation(spec).used
    if kind == "regime_switching":
        return regimes.switching(spec, streams, matrix)
    return _NORMAL[kind](spec, streams, root(matrix))


def shocks(
    scenario: GeneratedScenarioSpec,
    numbers: Sequence[int],
    assets: tuple[str, ...],
    base: Path,
    *,
    defaults: dict[str, AssetSpec] | None = None,
    pools: tuple[str, ...] = (),
) -> tuple[list[Shock], np.ndarray]:
    """Paths of a generator on their grid, and (P,) the logs of their weights.

    Args: as of `paths.build`; `scenario` any path of the generator. Raises InputError.
    """
    spec = scenario.generator
    drawn = draw(spec, numbers, base)
    flat = build(scenario, assets, base, defaults=defaults, pools=pools)
    scale = np.zeros((len(spec.assets), len(assets)))  # log return of an asset per log return of a generated one
    generated = list(spec.assets)
    for j, name in enumerate(assets):
        path = path_of(name, scenario, defaults or {})
        driver = name if path.proxy is None else path.proxy
        if driver in spec.assets:
            scale[generated.index(driver), j] = 1.0 if path.proxy is None else path.beta
    moves = spec.shock_scale * np.cumsum(drawn.returns, axis=1) @ scale
    log_price = np.concatenate([np.zeros((len(moves), 1, len(assets))), moves], axis=1)
    depth = [flat.depth_factor] * len(moves) if drawn.depth is None else flat.depth_factor * drawn.depth[:, :, None]
    return [replace(flat, log_price=x, depth_factor=d) for x, d in zip(log_price, depth, strict=True)], drawn.log_weight


def shock(scenario: GeneratedScenarioSpec, assets: tuple[str, ...], base: Path, **more) -> Shock:
    """The one path that a scenario is. Args: as of `shocks`."""
    return shocks(scenario, [scenario.number], assets, base, **more)[0][0]
