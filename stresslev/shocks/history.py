"""Returns of the past from price files, all assets at the same times; and paths made of blocks of them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stresslev.config.generator import GeneratedAssetSpec, GeneratorSpec
from stresslev.config.load import data_file
from stresslev.errors import InputError, Problem
from stresslev.shocks.draws import Drawn, Streams, step_drift
from stresslev.shocks.price_file import read_prices


@dataclass(frozen=True)
class History:
    """Log returns (N, G) over steps of one length; N + 1 or more times (M,) in Unix seconds were used."""

    returns: np.ndarray
    seconds: np.ndarray
    last_price: np.ndarray  # (G,)

    @property
    def mean(self) -> np.ndarray:
        """(G,) of a step."""
        return self.returns.mean(axis=0)


def joint(series: list[tuple[np.ndarray, np.ndarray]], step_minutes: float, file) -> History:
    """Returns over steps of this length of several (seconds, prices), at times that all of them have; a step across a gap is left out.

    Raises:
      InputError: fewer than 20 such returns.
    """
    seconds = series[0][0]
    for other, _ in series[1:]:
        seconds = np.intersect1d(seconds, other)
    if len(seconds):
        seconds = seconds[np.abs((seconds - seconds[0] + 0.5) % (60 * step_minutes) - 0.5) < 1e-3]
    logs = np.stack([np.log(p[np.searchsorted(s, seconds)]) for s, p in series], axis=1)
    whole = np.abs(np.diff(seconds) - 60 * step_minutes) < 1e-3
    returns = np.diff(logs, axis=0)[whole]
    if len(returns) < 20:
        apart = np.median(np.diff(series[0][0])) / 60 if len(series[0][0]) > 1 else np.nan
        what = f"leaves {len(returns)} returns over such steps, at times that all assets have; the rows are {apart:g} minutes apart"
        raise InputError(file, Problem("step_minutes", f"{step_minutes:g}", what, "give a longer file, or the step (or a multiple) of its rows"))
    return History(returns, seconds, np.exp(logs[-1]))


def history_of(spec: GeneratorSpec, base: Path) -> History:
    """The history that a generator draws from; read once. Raises InputError."""
    files = [data_file(a.file, base, f"assets.{n}.file") for n, a in spec.assets.items()]
    stamps = tuple((f, f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    return _read(stamps, tuple(spec.assets.items()), spec.step_minutes)


@lru_cache(maxsize=4)
def _read(stamps: tuple, assets: tuple[tuple[str, GeneratedAssetSpec], ...], step_minutes: float) -> History:
    series = [read_prices(f, asset, f"assets.{name}") for (f, *_), (name, asset) in zip(stamps, assets, strict=True)]
    return joint(series, step_minutes, ", ".join(dict.fromkeys(str(f) for f, *_ in stamps)))


def bootstrap(spec: GeneratorSpec, streams: Streams, history: History) -> Drawn:
    """Stationary bootstrap (Politis and Romano 1994): blocks of returns that begin anywhere, of geometric lengths, in a history bent to a circle."""
    n, steps = len(history.returns), spec.steps
    chance = min(1.0, spec.step_minutes / spec.model.mean_block_minutes)
    chosen = np.stack([_blocks(rng, steps, n, chance) for rng in streams.rngs])
    given = [a.drift for a in spec.assets.values()]
    drift = np.array([m if d is None else step_drift(d, spec) for d, m in zip(given, history.mean, strict=True)])
    return Drawn((history.returns - history.mean)[chosen] + drift, None, streams.log_weight())


def _blocks(rng: np.random.Generator, steps: int, n: int, chance: float) -> np.ndarray:
    """(T,) rows of the history: with `chance` a new place, else the next row."""
    new = rng.random(steps) < chance
    new[0] = True
    places = rng.integers(0, n, steps)
    began = np.maximum.accumulate(np.where(new, np.arange(steps), 0))
    return (places[began] + np.arange(steps) - began) % n
