"""Run a plan: book, shocks, engine, metrics, verdict. The one place where all parts meet."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from stresslev import assemble, limits, metrics, provenance, results
from stresslev.book import files, sample
from stresslev.book.book import Book, to_blocks
from stresslev.config.load import Plan, data_file
from stresslev.config.spec import ScenarioSpec
from stresslev.engine import status
from stresslev.engine.accounts import latent_deficit
from stresslev.engine.simulate import advance, initial_state, open_interest, residual_tolerance
from stresslev.engine.types import Path as EnginePath
from stresslev.engine.types import State, System, cast
from stresslev.errors import NumericalFailure
from stresslev.metrics import Finding
from stresslev.shocks.paths import Shock, build
from stresslev.trajectory import scenario_dataset

#: Called as progress(stage, done, total); stages are "book" and the scenarios' names.
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run found. `datasets` and `metrics` are by scenario; `attributes` are the provenance."""

    plan: Plan
    datasets: dict[str, xr.Dataset]
    metrics: dict[str, dict[str, float]]
    findings: tuple[Finding, ...]
    attributes: dict[str, str | int | float]

    @property
    def breached(self) -> bool:
        """Whether any limit is breached."""
        return any(f.breached for f in self.findings)


def chunk_length(steps: int, target: int = 64) -> int:
    """Steps per compiled call: a divisor of `steps` near the target, so that one program serves; else the target."""
    near = [n for n in range(target // 2, target * 3 // 2 + 1) if steps % n == 0]
    return min(near, key=lambda n: abs(n - target)) if near else min(steps, target)


def accounts_of(plan: Plan) -> int:
    """How many accounts the plan's book holds, or will hold once it is sampled."""
    if plan.system.book.file is None:
        return plan.system.book.accounts
    return files.count(data_file(plan.system.book.file, plan.base("system"), "book.file"))


def load_book(plan: Plan, shock: Shock) -> Book:
    """The plan's book: read from its file at the system's marks, or sampled (and restated per scenario)."""
    if plan.system.book.file is None:
        return sample.sample(plan.system, plan.run.seed)
    path = data_file(plan.system.book.file, plan.base("system"), "book.file")
    return files.read(path, plan.system, assemble.reference_prices(plan.system, shock))


def _book_totals(state: State, pools: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over all accounts in float64 on the host: cash (V,) and quantity (V, A)."""
    cash, quantity = np.zeros(pools), np.zeros((pools, len(state.populations[0].quantity)))
    for accounts in state.populations:
        owner = np.asarray(accounts.block_pool)
        np.add.at(cash, owner, np.asarray(accounts.equity_at_reference).sum(axis=1, dtype=float))
        for a, q in enumerate(accounts.quantity):
            np.add.at(quantity[:, a], owner, np.asarray(q).sum(axis=1, dtype=float))
    return cash, quantity


def _host(x) -> np.ndarray:
    return np.asarray(x, dtype=float)


def _final(state: State, system: System, accounts: np.ndarray, ends: list[State], before: tuple) -> dict[str, np.ndarray]:
    """The variables that describe the whole run."""
    pools = len(accounts)
    ledger, x = state.ledger, state.market.log_price
    reference = _host(system.reference_price)
    cash, quantity = _book_totals(state, pools)
    change = _host(ledger.maker_cash) + _host(ledger.insurance_fund) - _host(system.insurance_fund)
    change += _host(ledger.treasury) - _host(ledger.bad_debt)
    displaced = reference * np.expm1(_host(x))
    start_quantity = _host(ends[0].maker_quantity)
    return {
        "accounts": accounts,
        "customer_long": np.stack([_host(e.long_quantity) for e in ends]),
        "customer_short": np.stack([_host(e.short_quantity) for e in ends]),
        "maker_profit_usd": _host(ledger.maker_cash) + _host(ledger.maker_quantity) @ displaced,
        "latent_deficit_usd": sum(_host(latent_deficit(p, system, x, pools)) for p in state.populations),
        "total_cash_residual_usd": cash - before[0] + change,
        "total_quantity_residual_usd": (quantity - before[1] + _host(ledger.maker_quantity) - start_quantity) * reference,
    }


def simulate_scenario(plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, progress: Progress = _silent) -> xr.Dataset:
    """One scenario through the engine, in chunks of steps so that progress can be shown and the run stopped.

    Must be called inside `jax.enable_x64(plan.run.precision == 64)`; `run_plan` does.

    Raises:
      NumericalFailure: with the sentences of the status bits.
    """
    dtype = np.float64 if plan.run.precision == 64 else np.float32
    reference = assemble.reference_prices(plan.system, shock)
    system = cast(assemble.system_arrays(plan.system, reference, scenario.step_minutes), dtype)
    policy = cast(assemble.policy_arrays(plan.policy, plan.system), dtype)
    path = cast(assemble.path_arrays(shock), dtype)
    accounts, _ = to_blocks(book, dtype)
    counts = np.bincount(book.pool, minlength=len(book.pools))
    population = jax.tree.map(jnp.array, accounts)
    del accounts
    state = initial_state(system, (population,))
    before = _book_totals(state, len(book.pools))
    tolerance = residual_tolerance(state, system)
    initial = {
        "price_usd": reference,
        "exogenous_price_usd": reference,
        "depth_usd": _host(system.depth) * shock.depth_factor[0],
        "volatility": np.array([a.volatility for a in plan.system.assets.values()]),
        "open_interest_usd": _host(open_interest(state, system)),
        "insurance_fund_usd": _host(system.insurance_fund),
    }
    ends = [jax.tree.map(np.array, state.ledger)]
    # the engine takes over the buffers of the state it is given, and two leaves of a fresh state may be the same buffer
    state = dataclasses.replace(state, market=jax.tree.map(jnp.copy, state.market), ledger=jax.tree.map(jnp.copy, state.ledger))
    rounds = jnp.int32(plan.run.max_rounds)
    records, steps, size = [], scenario.steps, chunk_length(scenario.steps)
    progress(scenario.name, 0, steps)
    for start in range(0, steps, size):
        part = EnginePath(log_price=path.log_price[start : start + size], depth_factor=path.depth_factor[start : start + size])
        state, record = advance(state, system, policy, part, rounds, tolerance)
        records.append(jax.tree.map(np.asarray, record))
        progress(scenario.name, min(start + size, steps), steps)
        if status.failed(state.status):
            raise NumericalFailure(f"{scenario.name}: " + " ".join(status.sentences(int(state.status) & status.FAILURES)))
    ends.append(jax.tree.map(np.asarray, state.ledger))
    final = _final(state, system, counts, ends, before)
    imbalance = max(np.abs(final["total_cash_residual_usd"]).max(), np.abs(final["total_quantity_residual_usd"]).max())
    if not imbalance <= float(tolerance):
        raise NumericalFailure(f"{scenario.name}: over the whole run, " + status.sentences(status.RESIDUAL)[0])
    attributes = {
        "name": scenario.name,
        "title": scenario.title,
        "origin": scenario.origin,
        "severity": scenario.severity,
        "description": scenario.description,
        "sources": json.dumps(scenario.sources),
        "assumptions": json.dumps(scenario.assumptions),
        "start": scenario.start.isoformat() if scenario.start else "",
        "status": int(state.status),
        "status_text": json.dumps(status.sentences(state.status)),
    }
    return scenario_dataset(
        records=records,
        initial=initial,
        final=final,
        minutes=shock.minutes,
        pools=book.pools,
        assets=book.assets,
        attributes=attributes,
    )


def run_plan(plan: Plan, progress: Progress = _silent) -> Outcome:
    """Run every scenario of a plan and hold the results against its limits.

    Raises:
      InputError: a book, price file or limit that cannot be used.
      NumericalFailure: results that must not be used.
    """
    limits.check_names(plan.limits, plan.files["suite"])
    began = time.perf_counter()
    assets = tuple(plan.system.assets)
    shocks = {s.name: build(s, assets, plan.base(f"scenario:{s.name}")) for s in plan.scenarios}
    progress("book", 0, 1)
    book = load_book(plan, shocks[plan.scenarios[0].name])
    progress("book", 1, 1)
    datasets = {}
    with jax.enable_x64(plan.run.precision == 64):
        for scenario in plan.scenarios:
            shock = shocks[scenario.name]
            own = book if book.account is not None else book.at_prices(assemble.reference_prices(plan.system, shock))
            datasets[scenario.name] = simulate_scenario(plan, scenario, shock, own, progress)
    values = {name: metrics.evaluate(ds) for name, ds in datasets.items()}
    return Outcome(
        plan=plan,
        datasets=datasets,
        metrics=values,
        findings=tuple(limits.judge(plan.limits, values)),
        attributes=provenance.attributes(plan, time.perf_counter() - began),
    )


def summary(outcome: Outcome) -> dict:
    """What `summary.json` holds: the verdict, the limits, the metrics, the provenance."""
    return {
        "name": outcome.plan.name,
        "title": outcome.plan.title,
        "description": outcome.plan.description,
        "verdict": "breached" if outcome.breached else "within limits" if outcome.findings else "no limits set",
        "limits": [dataclasses.asdict(f) for f in outcome.findings],
        "scenarios": {
            name: {
                "title": ds.attrs["title"],
                "severity": ds.attrs["severity"],
                "metrics": outcome.metrics[name],
                "pools": metrics.by_pool(ds),
                "status": json.loads(ds.attrs["status_text"]),
            }
            for name, ds in outcome.datasets.items()
        },
        "provenance": {k: v for k, v in outcome.attributes.items() if k != "configuration"},
    }


def save(outcome: Outcome, folder: Path) -> None:
    """Write `result.nc` and `summary.json` into a folder."""
    results.write_netcdf(outcome.datasets, outcome.attributes, folder / "result.nc")
    results.write_json(summary(outcome), folder / "summary.json")
