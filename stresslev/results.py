"""Results on disk: netCDF with one group per scenario, and JSON."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from stresslev.errors import InputError, Problem

#: What a folder of results consists of.
RESULT_FILES = frozenset({"result.nc", "paths.nc", "summary.json", "report.html"})


def write_netcdf(datasets: dict[str, xr.Dataset], attributes: dict, path: Path) -> None:
    """All scenarios as groups of one netCDF file, with the provenance at the root. Raises OSError, as on a full disk."""
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **{f"/{name}": ds for name, ds in datasets.items()}})
    encoding = {f"/{name}": {v: {"zlib": True, "complevel": 1} for v in ds.data_vars if ds[v].ndim} for name, ds in datasets.items()}
    # made in memory: where a disk is full, the HDF5 library fails in a way of its own, and may take the process with it when that ends
    path.write_bytes(tree.to_netcdf(engine="h5netcdf", encoding=encoding))


def read_netcdf(path: str | Path) -> tuple[dict[str, xr.Dataset], dict]:
    """Scenarios and root attributes of a result file, loaded into memory."""
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return {name: node.to_dataset().load() for name, node in tree.children.items()}, dict(tree.attrs)


def read_attributes(path: str | Path) -> dict:
    """The provenance at the root of a result file.

    Raises:
      InputError: no such file, or not one of ours.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as root:
            attributes = dict(root.attrs)
    except (OSError, ValueError) as error:
        raise InputError(path, Problem("file", "", f"is no readable result ({error})", "name a folder with result.nc in it")) from None
    if "configuration" not in attributes:
        raise InputError(path, Problem("file", "", "carries no configuration", "name the result.nc of a run"))
    return attributes


def json_text(value) -> str:
    """Readable JSON; numbers that are not finite become null."""

    def clean(x):
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [clean(v) for v in x]
        if isinstance(x, np.generic):
            x = x.item()
        if isinstance(x, float) and not np.isfinite(x):
            return None
        return x

    return json.dumps(clean(value), indent=2, allow_nan=False) + "\n"


def write_json(value, path: Path) -> None:
    """`json_text` into a file."""
    path.write_text(json_text(value), encoding="utf-8")
