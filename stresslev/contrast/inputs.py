"""One side of a comparison: what a run's files say, and the runs beside it that drew other books."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stresslev import results
from stresslev.errors import InputError, Problem
from stresslev.identity import configuration_hash
from stresslev.metrics import LOWER, METRICS, Finding
from stresslev.report import inputs
from stresslev.store.runs import find, is_run

#: Variables that tell whether two runs began from one book, as far as both have them. Open interest is what the system says, whatever is drawn.
_BOOK = ("accounts", "customer_long", "customer_short", "open_interest_usd", "supplied_usd", "borrowed_usd", "group_notional_usd", "group_equity_usd")


@dataclass(frozen=True)
class Result:
    """What a run found. Without result.nc, which a summary alone does not have, `configuration`, `starts`, `paths` and `data` are empty."""

    place: Path
    title: str
    metrics: dict[str, dict[str, float]]  # scenario -> name -> value; of a generator the statistic that its limits are held against
    findings: tuple[Finding, ...]
    attributes: dict  # the provenance
    configuration: dict
    starts: dict[str, dict[str, np.ndarray]]  # scenario -> variable -> what the book is at its start
    paths: dict[str, np.ndarray]  # scenario -> exogenous prices
    data: dict  # scenario -> dataset

    @property
    def name(self) -> str:
        """How it is called: the name of its folder."""
        return self.place.name or str(self.place)

    @property
    def samples(self) -> bool:
        """Whether its book was drawn, so that another seed is another book."""
        return bool(self.configuration) and self.configuration["system"]["book"]["file"] is None


def _of_paths(samples: dict[str, dict]) -> dict[str, dict[str, float]]:
    """By generator, the statistic of each metric that limits are held against. Args: `samples` as `summary.json` says them."""
    found = {}
    for name, said in samples.items():
        what, level, values = said["judged"], str(said["levels"][0]), {}
        for metric, row in said["metrics"].items():
            if what == "worst":
                value = row["most" if METRICS[metric].better == LOWER else "least"]
            else:
                value = (row["mean"] if what == "mean" else row[what][level])["value"]
            values[metric] = float("nan") if value is None else float(value)
        found[name] = values
    return found


def of_summary(file: Path) -> Result:
    """From summary.json alone, in which infinities are not numbers. Raises InputError."""
    summary = inputs.read_summary(file)
    try:
        values = {
            s: {n: float("nan") if v is None else float(v) for n, v in e["metrics"].items() if n in METRICS} for s, e in summary["scenarios"].items()
        }
        samples = summary.get("generated", {})
        shown = {s for said in samples.values() for s in said["shown"]}
        values = {s: v for s, v in values.items() if s not in shown} | _of_paths(samples)
        every = [*summary["limits"], *(f for said in samples.values() for f in said["limits"])]
        bound = [{**f, "value": float("nan") if f["value"] is None else float(f["value"])} for f in every]
        findings = tuple(Finding(**f) for f in bound)
        return Result(file.parent.resolve(), str(summary.get("title", "")), values, findings, dict(summary["provenance"]), {}, {}, {}, {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(file, Problem("file", "", f"is not as a run writes it ({error})", "run again with this version")) from None


def read(run: str | Path) -> Result:
    """A run by its folder, the beginning of its name, or its `summary.json` alone.

    Raises:
      InputError: there is no such run, or its files are not as a run writes them.
    """
    path = Path(run)
    if path.is_dir() and not (path / "result.nc").is_file() and (path / "summary.json").is_file():
        path = path / "summary.json"
    if path.name.endswith(".json") and path.is_file() and not (path.parent / "result.nc").is_file():
        return of_summary(path)
    folder = find(path)
    found = inputs.read(folder)
    shown = {s for said in found.samples.values() for s in said["shown"]}  # the worst paths, which differ from run to run
    given = [s for s in found.scenarios if s.name not in shown]
    first = {s.name: s.data.isel(time=0, ends=0) for s in given}
    return Result(
        place=folder.resolve(),
        title=found.title,
        metrics={s.name: s.metrics for s in given} | _of_paths(found.samples),
        findings=found.judged,
        attributes=found.attributes,
        configuration=found.configuration,
        starts={name: {v: np.asarray(ds[v].values, float) for v in _BOOK if v in ds} for name, ds in first.items()},
        paths={s.name: np.asarray(s.data.exogenous_price_usd.values, float) for s in given},
        data={s.name: s.data for s in given},
    )


def family(attributes: dict) -> tuple:
    """What runs have in common that differ in the seed alone."""
    files = json.loads(attributes["input_files_sha256"])
    known = configuration_hash(json.loads(attributes["configuration"]), files.values(), with_seed=False)
    return known, attributes.get("code_hash"), attributes["stresslev_version"], attributes.get("jax"), attributes.get("device")


def drawn(result: Result) -> dict[int, Path]:
    """Seed -> folder of the runs beside a run that differ from it in the seed alone, itself among them; nothing where books are not drawn."""
    if not result.samples:
        return {}
    mine, found = family(result.attributes), {}
    for folder in sorted(result.place.parent.iterdir()):
        if folder.name.startswith(".") or not is_run(folder):
            continue
        try:
            attributes = results.read_attributes(folder / "result.nc")
            if family(attributes) == mine:
                found.setdefault(int(attributes["seed"]), folder)
        except (InputError, KeyError, ValueError):
            continue  # whatever else lies there is not our business
    return found | {int(result.attributes["seed"]): result.place}


def same_books(a: Result, b: Result) -> bool | None:
    """Whether two runs began from one book and went along the same paths, in the scenarios that both have; None where that is not recorded."""
    both = [s for s in a.starts if s in b.starts]
    if not both:
        return None
    if a.configuration["system"]["book"] != b.configuration["system"]["book"]:
        return False
    if a.samples and a.attributes["seed"] != b.attributes["seed"]:
        return False

    def alike(x: np.ndarray, y: np.ndarray) -> bool:
        # single and double precision count as the same book
        return x.shape == y.shape and np.allclose(x, y, rtol=1e-5, atol=1e-6)

    books = all(alike(x, b.starts[s][v]) for s in both for v, x in a.starts[s].items() if v in b.starts[s])
    return books and all(alike(a.paths[s], b.paths[s]) for s in both)
