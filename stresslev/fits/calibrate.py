"""From price files to a ready-to-run generator: which model, fitted how, on what."""

import hashlib
import math
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stresslev.errors import InputError, Problem
from stresslev.fits import blocks, garch, jumps, regimes
from stresslev.shocks.draws import MINUTES_PER_DAY, MINUTES_PER_YEAR
from stresslev.shocks.history import History, joint
from stresslev.shocks.price_file import read_prices
from stresslev.toml import Inline, toml_text

#: Model -> how it is fitted, for the file.
METHODS = {
    "jump_diffusion": "maximum likelihood of the Poisson mixture of normals (Merton 1976; Honore 1998), asset by asset",
    "hawkes": "jumps told by Lee and Mykland's test (2008); their times by maximum likelihood (Ozaki 1979); sizes and diffusion by moments",
    "garch": "maximum likelihood of GARCH(1,1) with Student's t (Bollerslev 1987) and the sample's variance (Engle and Mezrich 1996), asset by asset",
    "regime_switching": "expectation-maximisation of Markov regimes (Hamilton 1990), all assets together",
    "filtered_historical": "residuals of the file; GARCH(1,1) by maximum likelihood with Student's t (Bollerslev 1987) and the sample's variance",
    "block_bootstrap": "block length by Politis and White (2004), corrected by Patton, Politis and White (2009), of squared returns",
}
_ASSUMPTIONS = {
    "jump_diffusion": "Jumps come independently of each other, to several assets at the same time, to each with its share.",
    "hawkes": "A return counts as a jump from about five local standard deviations on. Smaller jumps count as diffusion, which makes the branching "
    "ratio look smaller than it is; jumps of one step count as one.",
    "garch": "Correlations between assets do not change; large moves come to all assets together through one chi-square.",
    "regime_switching": "Within a state returns are normal; assets are in one state together.",
    "filtered_historical": "Shocks of the future are among those of the file, scaled by the volatility of their day.",
    "block_bootstrap": "The future is made of pieces of the file.",
}


@dataclass(frozen=True)
class Source:
    """One asset's prices: where they are, and the columns to read."""

    file: Path
    time_column: str = "ts"
    price_column: str = "close"
    symbol_column: str = "symbol"
    symbol: str | None = None


@dataclass
class _Fitted:
    """Tables of the generator, with standard errors by dotted key."""

    model: dict
    assets: dict[str, dict]
    correlation: np.ndarray | None = None
    errors: dict[str, float] = field(default_factory=dict)
    log_likelihood: dict[str, float] = field(default_factory=dict)


def _yearly(variance: float, step: float) -> float:
    """Volatility per year from the variance of a step."""
    return math.sqrt(variance * MINUTES_PER_YEAR / step)


def _correlation(x: np.ndarray) -> np.ndarray:
    """(G, G), of returns cut off at four robust standard deviations, so that single jumps do not decide it."""
    spread = (np.quantile(x, 0.75, axis=0) - np.quantile(x, 0.25, axis=0)) / 1.349
    centred = x - np.median(x, axis=0)
    limit = 4 * np.where(spread > 0, spread, x.std(axis=0))
    return np.corrcoef(np.clip(centred, -limit, limit).T).reshape(x.shape[1], x.shape[1])


def _drift(fitted: _Fitted, name: str, x: np.ndarray, step: float) -> float:
    """Mean log return per year, with its standard error."""
    fitted.errors[f"assets.{name}.drift"] = float(x.std() / math.sqrt(len(x)) * MINUTES_PER_YEAR / step)
    return float(x.mean() * MINUTES_PER_YEAR / step)


def _volatility(fitted: _Fitted, name: str, variance: float, error: float, step: float) -> float:
    """Per year, with the standard error that a variance's makes."""
    yearly = _yearly(variance, step)
    fitted.errors[f"assets.{name}.volatility"] = yearly * error / (2 * variance)
    return yearly


def _jump_diffusion(names: list[str], history: History, step: float, count: int) -> _Fitted:
    fitted, found = _Fitted({}, {}), {n: jumps.merton(history.returns[:, i]) for i, n in enumerate(names)}
    rates = {n: f.values["jumps"] * MINUTES_PER_DAY / step for n, f in found.items()}
    first = max(rates, key=rates.get)
    fitted.model = {"jumps_per_day": rates[first]}
    fitted.errors["model.jumps_per_day"] = found[first].errors["jumps"] * MINUTES_PER_DAY / step
    for i, (name, fit) in enumerate(found.items()):
        v, e = fit.values, fit.errors
        fitted.log_likelihood[name] = fit.log_likelihood
        fitted.assets[name] = {
            "drift": _drift(fitted, name, history.returns[:, i], step),
            "volatility": _volatility(fitted, name, v["variance"], e["variance"], step),
            "jump_mean": v["jump_mean"],
            "jump_volatility": v["jump_volatility"],
            "jump_share": rates[name] / rates[first],
        }
        fitted.errors |= {f"assets.{name}.{k}": e[k] for k in ("jump_mean", "jump_volatility")}
    fitted.correlation = _correlation(history.returns)
    return fitted


def _hawkes(names: list[str], history: History, step: float, count: int) -> _Fitted:
    returns = history.returns
    hit = np.stack([jumps.detected(returns[:, i]) for i in range(len(names))], axis=1)
    together = np.flatnonzero(hit.any(axis=1))
    if len(together) < 20:
        what = f"there are {len(together)} jumps in {len(returns):,} returns, too few to tell how they follow each other"
        raise InputError("prices", Problem("model", "'hawkes'", what, "give a longer file or shorter steps, or take jump_diffusion"))
    fit = jumps.hawkes((together + 0.5) * step, len(returns) * step)
    v, e = fit.values, fit.errors
    half_life = math.log(2) / v["decay"]
    fitted = _Fitted({"jumps_per_day": v["mu"] * MINUTES_PER_DAY, "branching_ratio": v["branching_ratio"], "half_life_minutes": half_life}, {})
    fitted.errors = {
        "model.jumps_per_day": e["mu"] * MINUTES_PER_DAY,
        "model.branching_ratio": e["branching_ratio"],
        "model.half_life_minutes": half_life * e["decay"] / v["decay"],
    }
    fitted.log_likelihood = {"jumps": fit.log_likelihood}
    for i, name in enumerate(names):
        mine, calm = returns[hit[:, i], i], returns[~hit[:, i], i]
        if len(mine) < 2:
            raise InputError("prices", Problem("model", "'hawkes'", f"there are {len(mine)} jumps of {name}", "take jump_diffusion or garch"))
        variance = float(calm.var())
        fitted.assets[name] = {
            "drift": _drift(fitted, name, returns[:, i], step),
            "volatility": _volatility(fitted, name, variance, variance * math.sqrt(2 / len(calm)), step),
            "jump_mean": float(mine.mean()),
            "jump_volatility": float(mine.std(ddof=1)),
            "jump_share": len(mine) / len(together),
        }
        spread = fitted.assets[name]["jump_volatility"]
        fitted.errors |= {f"assets.{name}.jump_mean": spread / math.sqrt(len(mine))}
    fitted.correlation = _correlation(returns)
    return fitted


def _garch(names: list[str], history: History, step: float, count: int) -> _Fitted:
    fitted, residuals = _Fitted({}, {}), []
    for i, name in enumerate(names):
        x = history.returns[:, i]
        fit = garch.fit(x)
        v, e, variance = fit.values, fit.errors, float(x.var())
        fitted.log_likelihood[name] = fit.log_likelihood
        fitted.assets[name] = {
            "drift": _drift(fitted, name, x, step),
            "volatility": _yearly(variance, step),
            "alpha": v["alpha"],
            "beta": v["beta"],
            "degrees_of_freedom": v["degrees_of_freedom"],
        }
        fitted.errors |= {f"assets.{name}.{k}": e[k] for k in ("alpha", "degrees_of_freedom")}
        fitted.errors[f"assets.{name}.alpha_plus_beta"] = e["persistence"]
        deviations = x - x.mean()
        residuals.append(deviations / np.sqrt(garch.variances(deviations, variance, v["alpha"], v["beta"])))
    fitted.correlation = _correlation(np.stack(residuals, axis=1))
    return fitted


def _filtered(names: list[str], history: History, step: float, count: int) -> _Fitted:
    fitted = _garch(names, history, step, count)
    for name, asset in fitted.assets.items():
        for key in ("drift", "degrees_of_freedom"):
            del asset[key]
        fitted.errors.pop(f"assets.{name}.drift")
    fitted.correlation = None
    return fitted


def _regimes(names: list[str], history: History, step: float, count: int) -> _Fitted:
    found = regimes.fit(history.returns, count)
    states = ["calm", "stressed"] if count == 2 else [f"state_{k + 1}" for k in range(count)]
    # rows that add up to one as they are written
    rows = [[round(float(p), 8) for p in row] for row in found.transition]
    rows = [[*row[:k], round(1 - sum(row) + row[k], 8), *row[k + 1 :]] for k, row in enumerate(rows)]
    fitted = _Fitted({"transition": rows, "regimes": [Inline(name=s) for s in states]}, {}, log_likelihood={"all": found.log_likelihood})
    for i, name in enumerate(names):
        fitted.assets[name] = {
            "drift": [float(m) * MINUTES_PER_YEAR / step for m in found.mean[:, i]],
            "volatility": [_yearly(float(v), step) for v in found.variance[:, i]],
        }
    fitted.correlation = _correlation(history.returns)
    return fitted


def _bootstrap(names: list[str], history: History, step: float, count: int) -> _Fitted:
    lengths = [blocks.block_length((history.returns[:, i] - history.returns[:, i].mean()) ** 2) for i in range(len(names))]
    return _Fitted({"mean_block_minutes": max(lengths) * step}, {n: {} for n in names})


_FITS = {
    "jump_diffusion": _jump_diffusion,
    "hawkes": _hawkes,
    "garch": _garch,
    "regime_switching": _regimes,
    "filtered_historical": _filtered,
    "block_bootstrap": _bootstrap,
}


def spacing(seconds: np.ndarray) -> float:
    """Minutes between the rows of a file, the commonest."""
    gaps, often = np.unique(np.round(np.diff(seconds), 3), return_counts=True)
    return float(gaps[often.argmax()] / 60)


def calibrate(
    model: str,
    sources: dict[str, Source],
    *,
    out: Path,
    name: str,
    step_minutes: float | None = None,
    duration_minutes: int | None = None,
    paths: int = 200,
    seed: int = 1,
    states: int = 2,
) -> dict:
    """A generator as nested tables.

    Args:
      model: a key of `METHODS`; sources: asset -> its prices; out: where the file will lie, which names of price files are relative to.
      step_minutes: steps to fit on, a multiple of the files' own, which is the default.
      duration_minutes: of a path; a day, or 24 steps where those are longer.
      states: 'regime_switching'.

    Raises:
      InputError: a price file that cannot be used, or has too little in it.
    """
    series = {a: read_prices(s.file, s, None) for a, s in sources.items()}
    step = step_minutes or spacing(next(iter(series.values()))[0])
    listed = ", ".join(dict.fromkeys(str(s.file) for s in sources.values()))
    history = joint(list(series.values()), step, listed)
    for i, asset in enumerate(sources):
        if history.returns[:, i].std() == 0:
            raise InputError(listed, Problem(f"assets.{asset}", "", "has a price that never moves", "give another file"))
    fitted = _FITS[model](list(sources), history, step, states)
    first, last = (datetime.fromtimestamp(s, UTC).isoformat() for s in (history.seconds[0], history.seconds[-1]))
    files = list(dict.fromkeys(s.file for s in sources.values()))
    length = duration_minutes or math.ceil(max(MINUTES_PER_DAY, 24 * step) / step) * step
    data = {
        "kind": "generator",
        "name": name,
        "title": f"{model.replace('_', ' ').capitalize()} fitted to {', '.join(sources)}",
        "severity": "severe",
        "description": f"Paths of {model.replace('_', ' ')}, fitted to prices from {first[:10]} to {last[:10]}.",
        "sources": [f"{METHODS[model]}: {len(history.returns):,} log returns of {step:g} minutes from {f.name}." for f in files],
        "assumptions": [_ASSUMPTIONS[model], "Real prices contain the effect of the liquidations that really happened."],
        "duration_minutes": round(length),
        "step_minutes": float(step),
        "paths": paths,
        "seed": seed,
        "model": {"kind": model} | fitted.model,
        "assets": {a: _asset(a, fitted, history.last_price[i], sources[a], model, out) for i, a in enumerate(sources)},
    }
    if fitted.correlation is not None and len(sources) > 1:
        rounded = np.round(fitted.correlation, 6)
        np.fill_diagonal(rounded, 1.0)
        data["correlation"] = {"matrix": rounded.tolist()}
    data["calibration"] = {
        "method": METHODS[model],
        "files": [f.name for f in files],
        "sha256": [hashlib.sha256(f.read_bytes()).hexdigest() for f in files],
        "first": first,
        "last": last,
        "returns": len(history.returns),
        "step_minutes": float(step),
        "log_likelihood": fitted.log_likelihood,
        "standard_errors": {k: v for k, v in fitted.errors.items() if math.isfinite(v)},
    }
    return data


def _asset(name: str, fitted: _Fitted, last: float, source: Source, model: str, out: Path) -> dict:
    table = {"start_price_usd": float(last)} | fitted.assets[name]
    if model not in ("filtered_historical", "block_bootstrap"):
        return table
    table["file"] = Path(os.path.relpath(source.file.resolve(), out.resolve().parent)).as_posix()
    plain = Source(source.file)
    keys = ("time_column", "price_column", "symbol_column", "symbol")
    return table | {k: getattr(source, k) for k in keys if getattr(source, k) != getattr(plain, k)}


def text(data: dict, command: str) -> str:
    """The file, with the command that made it on top."""
    return f"# Written by: {command}\n\n{toml_text(_rounded(data))}"


def _rounded(value):
    """Numbers to nine significant digits: more than any estimate has."""
    if isinstance(value, Inline):
        return value
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
