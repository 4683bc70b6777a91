"""Small generators, and how estimates are held against closed forms."""

from pathlib import Path

import numpy as np

from stresslev.config.generator import GeneratorSpec
from stresslev.shocks import generate
from stresslev.shocks.draws import MINUTES_PER_YEAR, Drawn

#: Merton's model with jumps that matter: a third of the variance.
JUMPS = {"start_price_usd": 100.0, "volatility": 0.8, "jump_mean": -0.01, "jump_volatility": 0.015}
#: Standard errors that an estimate may be off, with seeds that are fixed; and that a wrong formula must be off.
NEAR, FAR = 3.5, 5.0


def generator(model: dict | str, assets: dict, **more) -> GeneratorSpec:
    """A generator of 300 five-minute steps unless told otherwise; of one asset where the parameters of one are given."""
    model = {"kind": model} if isinstance(model, str) else model
    assets = assets if all(isinstance(v, dict) for v in assets.values()) else {"BTC": assets}
    base = {"kind": "generator", "name": "g", "title": "g", "duration_minutes": 1500, "step_minutes": 5, "model": model, "assets": assets}
    return GeneratorSpec.model_validate(base | more)


def drawn(spec: GeneratorSpec, paths: int, base: Path = Path(".")) -> Drawn:
    """Paths 1 to `paths`."""
    return generate.draw(spec, range(1, paths + 1), base)


def per_step(yearly: float, spec: GeneratorSpec) -> float:
    """Variance of a step from a volatility per year."""
    return yearly**2 * spec.step_minutes / MINUTES_PER_YEAR


def off(values: np.ndarray, truth: float) -> float:
    """Standard errors by which the mean of independent values misses the truth."""
    return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values)))


def check(values: np.ndarray, truth: float, *wrong: float) -> None:
    """The mean of independent values (one for each path) agrees with the truth, and would not with what a wrong formula says."""
    assert off(values, truth) < NEAR, (values.mean(), truth)
    for other in wrong:
        assert off(values, other) > FAR, (values.mean(), other)
