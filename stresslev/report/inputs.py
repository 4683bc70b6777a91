"""What the report is made from: a run's two files, read and checked."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import xarray as xr

from stresslev import metrics, results
from stresslev.errors import InputError, Problem
from stresslev.metrics import Finding
from stresslev.report.older import completed

#: Variables without which there is no report; the others are newer.
_NEEDED = (
    "price_usd",
    "exogenous_price_usd",
    "depth_usd",
    "open_interest_usd",
    "insurance_fund_usd",
    "treasury_usd",
    "bad_debt_usd",
    "fund_draw_usd",
    "newly_liquidated",
    "closed_long",
    "closed_short",
    "closed_long_usd",
    "closed_short_usd",
    "cash_residual_usd",
    "quantity_residual",
    "accounts",
    "customer_long",
    "customer_short",
    "latent_deficit_usd",
    "total_cash_residual_usd",
    "total_quantity_residual_usd",
)


@dataclass(frozen=True)
class Scenario:
    """One scenario's results. `metrics` by name, `pools` by pool and then by name."""

    name: str
    title: str
    severity: str
    origin: str
    description: str
    sources: tuple[str, ...]
    assumptions: tuple[str, ...]
    notices: tuple[str, ...]
    start: datetime | None  # of minute 0, in UTC
    data: xr.Dataset
    metrics: dict[str, float]
    pools: dict[str, dict[str, float]]

    @property
    def minutes(self):
        """(T + 1,) minutes since the start."""
        return self.data.time.values

    @property
    def liquidated(self) -> bool:
        """Whether a pool closed anything."""
        return bool((self.data.closed_long + self.data.closed_short).sum() > 0)

    @property
    def lenders(self) -> tuple[str, ...]:
        """Pools with deposits or loans."""
        lent = (self.data.supplied_usd + self.data.borrowed_usd).sum(("time", "asset"))
        return tuple(str(p) for p in lent.pool.values[lent.values > 0])


@dataclass(frozen=True)
class Run:
    """Everything a report says comes from here."""

    title: str
    description: str
    checks: tuple[Finding, ...]
    scenarios: tuple[Scenario, ...]
    attributes: dict
    configuration: dict
    samples: dict[str, dict] = field(default_factory=dict)  # generator -> what its paths say, as `monte_carlo.describe` gives it
    sample_checks: tuple[Finding, ...] = ()

    @property
    def judged(self) -> tuple[Finding, ...]:
        """Limits held against scenarios and against generated paths."""
        return (*self.checks, *self.sample_checks)

    @property
    def questions(self) -> int:
        """How many scenarios and generators limits are held against: paths that are shown are judged with their generator."""
        shown = {name for said in self.samples.values() for name in said["shown"]}
        return sum(s.name not in shown for s in self.scenarios) + len(self.samples)

    @property
    def system(self) -> dict:
        """The system as configured."""
        return self.configuration["system"]

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools, in the order of the run."""
        return tuple(dict.fromkeys(str(p) for s in self.scenarios for p in s.data.pool.values))

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of the assets, in the order of the run."""
        return tuple(dict.fromkeys(str(a) for s in self.scenarios for a in s.data.asset.values))


def _refuse(path: Path, what: str, fix: str = "run again to get both files of one run") -> InputError:
    return InputError(path, Problem("file", "", what, fix))


def _utc(text: str) -> datetime | None:
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _known(value) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _completed(stored: dict, computed: dict) -> dict:
    """Stored numbers; where JSON has none (it cannot hold infinities) the computed one."""
    return computed | {k: float(v) for k, v in stored.items() if _known(v)}


def _scenario(name: str, ds: xr.Dataset, entry: dict) -> Scenario:
    attributes, ds = ds.attrs, completed(ds)
    by_pool = {pool: _completed(entry["pools"].get(pool, {}), values) for pool, values in metrics.by_pool(ds).items()}
    return Scenario(
        name=name,
        title=attributes["title"],
        severity=attributes["severity"],
        origin=attributes["origin"],
        description=attributes["description"],
        sources=tuple(json.loads(attributes["sources"])),
        assumptions=tuple(json.loads(attributes["assumptions"])),
        notices=tuple(json.loads(attributes["status_text"])),
        start=_utc(attributes["start"]),
        data=ds,
        metrics=_completed(entry["metrics"], metrics.evaluate(ds)),
        pools=by_pool,
    )


def _check(entry: dict, scenarios: dict[str, Scenario]) -> Finding:
    value = entry["value"] if _known(entry["value"]) else scenarios[entry["scenario"]].metrics.get(entry["metric"], math.nan)
    return Finding(**{**entry, "value": float(value), "bound": float(entry["bound"])})


def _sample_check(entry: dict) -> Finding:
    value = entry["value"]
    return Finding(**{**entry, "value": float(value) if _known(value) else math.nan, "bound": float(entry["bound"])})


def read_summary(path: Path) -> dict:
    """`summary.json` as it stands, which must be that of a run. Raises InputError."""
    if not path.is_file():
        raise _refuse(path, "is missing", "name a folder that a run has written")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refuse(path, f"is no readable JSON ({error})") from None
    if not isinstance(summary, dict) or not {"scenarios", "limits", "provenance"} <= set(summary):
        raise _refuse(path, "is no summary of a run", "name a folder that a run has written")
    return summary


def read(folder: Path) -> Run:
    """Read and check `result.nc` and `summary.json`.

    Raises:
      InputError: a file is missing, unreadable, not of a run, or the two are of different runs.
    """
    file = folder / "result.nc"
    if not file.is_file():
        raise _refuse(file, "is missing", "name a folder that a run has written")
    summary = read_summary(folder / "summary.json")
    attributes = results.read_attributes(file)
    try:
        datasets, _ = results.read_netcdf(file)
    except (OSError, ValueError) as error:
        raise _refuse(file, f"is no readable result ({error})") from None
    if set(datasets) != set(summary["scenarios"]) or not datasets or attributes.get("created") != summary["provenance"].get("created"):
        raise _refuse(folder, "holds a result.nc and a summary.json of different runs")
    for name, ds in datasets.items():
        missing = [v for v in _NEEDED if v not in ds]
        if missing:
            raise _refuse(file, f"has no {missing[0]} in scenario {name}", "run again with this version")
    try:
        scenarios = {name: _scenario(name, datasets[name], entry) for name, entry in summary["scenarios"].items()}
        samples = summary.get("generated", {})
        return Run(
            title=str(attributes["title"] or summary.get("name", "")),
            description=str(summary.get("description") or ""),
            checks=tuple(_check(entry, scenarios) for entry in summary["limits"]),
            scenarios=tuple(scenarios.values()),
            attributes=attributes,
            configuration=json.loads(attributes["configuration"]),
            samples=samples,
            sample_checks=tuple(_sample_check(entry) for said in samples.values() for entry in said["limits"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refuse(folder, f"holds files that are not as a run writes them ({error})", "run again with this version") from None
