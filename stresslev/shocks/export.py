"""Generated paths to look at: as a dataset with statistics, and in files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from stresslev.config.generator import GeneratorSpec, numbered, template
from stresslev.shocks.draws import MINUTES_PER_YEAR
from stresslev.shocks.generate import shocks
from stresslev.toml import toml_text
from stresslev.write import atomically

#: Endings of files that paths can be written to.
FORMS = (".nc", ".csv", ".toml")


def paths_of(spec: GeneratorSpec, numbers: Sequence[int], base: Path) -> xr.Dataset:
    """Prices (path, time, asset), factors on depth, and weights of paths. Args: as of `generate.draw`. Raises InputError."""
    assets = (*spec.assets, *spec.proxies)
    found, log_weight = shocks(template(spec), numbers, assets, base)
    price = np.stack([s.start_price * np.exp(s.log_price) for s in found])
    dims = ("path", "time", "asset")
    return xr.Dataset(
        {
            "price_usd": (dims, price, {"units": "USD", "long_name": "exogenous price"}),
            "depth_factor": (("path", "step", "asset"), np.stack([s.depth_factor for s in found]), {"units": "1", "long_name": "factor on depth"}),
            "log_weight": ("path", log_weight, {"units": "1", "long_name": "log of the likelihood ratio"}),
        },
        coords={
            "path": ("path", list(numbers), {"long_name": "number of the path"}),
            "time": ("time", found[0].minutes, {"units": "minutes", "long_name": "time since the start"}),
            "asset": ("asset", list(assets), {"long_name": "asset"}),
        },
        attrs={"title": spec.title, "model": spec.model.kind, "seed": spec.seed, "generator": spec.model_dump_json(exclude_unset=True)},
    )


def describe(paths: xr.Dataset) -> dict[str, dict[str, float]]:
    """Asset -> what its drawn paths are like, unweighted: volatility, kurtosis and memory of squared returns over steps, and falls from the start."""
    price, rows = paths.price_usd, {}
    step = float(paths.time[1] - paths.time[0])
    for asset in paths.asset.values:
        prices = price.sel(asset=asset).values
        r = np.diff(np.log(prices), axis=1)
        y = r - r.mean()
        variance = (y**2).mean()
        squares = y**2 - variance
        fall = 1 - prices.min(axis=1) / prices[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            rows[str(asset)] = {
                "volatility per year": float(np.sqrt(variance * MINUTES_PER_YEAR / step)),
                "kurtosis of a step": float((y**4).mean() / variance**2),
                "autocorrelation of squares": float((squares[:, 1:] * squares[:, :-1]).mean() / (squares**2).mean()) if r.shape[1] > 1 else np.nan,
                "worst step": float(np.expm1(r.min())),
                "deepest fall, median": float(np.median(fall)),
                "in 1 of 20": float(np.quantile(fall, 0.95)),
                "worst": float(fall.max()),
            }
    return rows


def write(paths: xr.Dataset, spec: GeneratorSpec, out: Path) -> None:
    """Write paths: netCDF, CSV (path, minute, a price per asset), or one of them as a scenario in TOML. Raises InputError."""
    with atomically(out) as temporary:
        if out.suffix.lower() == ".nc":
            paths.to_netcdf(temporary, engine="h5netcdf")
        elif out.suffix.lower() == ".csv":
            with open(temporary, "w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle)
                writer.writerow(["path", "minute", *paths.asset.values])
                for number, prices in zip(paths.path.values, paths.price_usd.values, strict=True):
                    writer.writerows([int(number), float(t), *map(float, row)] for t, row in zip(paths.time.values, prices, strict=True))
        else:
            temporary.write_text(scenario_text(paths, spec), encoding="utf-8")


def scenario_text(paths: xr.Dataset, spec: GeneratorSpec) -> str:
    """The first of some paths as a scenario file, scaled as the generator says."""
    number = int(paths.path.values[0])
    one, minutes = numbered(template(spec), number), paths.time.values.tolist()
    source = f"path {number} of generator {spec.name} ({spec.model.kind}), seed {spec.seed}"
    data = {"kind": "scenario", "name": one.name, "title": one.title, "origin": "hypothetical", "severity": spec.severity}
    data |= {"description": spec.description, "sources": [source, *spec.sources], "assumptions": list(spec.assumptions)}
    data |= {"duration_minutes": spec.duration_minutes, "step_minutes": float(spec.step_minutes)}
    factors = paths.depth_factor.values[0]
    data["paths"] = {
        str(a): {"source": source, "minutes": minutes, "prices": paths.price_usd.values[0, :, j].tolist()} for j, a in enumerate(paths.asset.values)
    }
    data["depth"] = {str(a): {"source": source, "minutes": minutes[1:], "factors": factors[:, j].tolist()} for j, a in enumerate(paths.asset.values)}
    return toml_text(data)
