"""Many scenarios under many policies at once, for Monte Carlo and tuning: the metrics of every run, without its trajectory."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
import xarray as xr

from stresslev import assemble, batches, memory, metrics, preparation, provenance, trajectory
from stresslev.batches import Progress, Run, silent
from stresslev.book.book import Book
from stresslev.config.load import Plan, check_policy
from stresslev.config.policy import PolicySpec
from stresslev.config.spec import ScenarioSpec
from stresslev.engine import status
from stresslev.engine.step import Record
from stresslev.engine.types import Ledger, cast
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.metrics import METRICS
from stresslev.opening import at_start, load_book, shock_of
from stresslev.shocks.paths import Shock


@dataclass(frozen=True)
class _Member:
    """One run: its place in the results, and what it is made of."""

    place: tuple[int, int]  # scenario, policy
    ready: preparation.Prepared
    start: dict[str, np.ndarray]  # levels at minute 0
    shock: Shock
    run: Run

    @property
    def step_minutes(self) -> float:
        """Length of a step."""
        return float(self.shock.minutes[1] - self.shock.minutes[0])


def simulate_many(
    plan: Plan,
    *,
    shocks: Mapping[str, Shock] | None = None,
    policies: Mapping[str, PolicySpec] | None = None,
    measures: Sequence[str] | None = None,
    book: Book | None = None,
    width: int | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Metrics of every scenario under every policy, on common random numbers: one draw of the book and the same paths for all policies.

    Runs of one structure go through one compiled program, whatever their parameters; `run.batch` and `run.memory_gib` of the plan say how many
    together. Every account is stepped in every step, whatever `run.stepping` says, nothing is attributed, and measures that look at single accounts
    are left out. Balances are checked in every step, and not once more over the whole run as `run_plan` does.

    Args:
      plan: the system, the book, [run], and what the next two do not give.
      shocks: paths by name instead of the plan's scenarios; their behaviour of traders and depositors is that of the plan's first scenario.
      policies: policies by name instead of the plan's.
      measures: names in `stresslev.METRICS`; all that can be had when not given.
      book: as `opening.load_book` gives it, instead of having it read or drawn.
      width: runs in a block, instead of the rule's choice.
      progress: called with a stage, how much of it is done and how much there is; silent without it.

    Returns: dimensions scenario and policy; a variable for each metric, NaN where a run failed or has no value; `status` with the bits of each run.
      A run that fails spoils no other.

    Raises:
      InputError: an unknown measure, what `run_plan` refuses, or a run that does not fit into memory.
    """
    began = time.perf_counter()
    names = _known(measures)
    scenarios = _scenarios(plan, shocks)
    chosen = {plan.policy.name or "policy": plan.policy} if policies is None else dict(policies)
    for name, policy in chosen.items():
        check_policy(policy, plan.system, name, "")
    memory.check(plan)
    progress("book", 0, 1)
    book = load_book(plan, next(iter(scenarios.values()))[1]) if book is None else book
    progress("book", 1, 1)
    shape = len(scenarios), len(chosen)
    values = {name: np.full(shape, np.nan) for name in names}
    bits = np.zeros(shape, np.int32)
    limits, done, populations = memory.limits(plan.run, plan.files["suite"]), 0, set()
    accounts = np.bincount(book.pool, minlength=len(book.pools))
    progress("runs", 0, bits.size)
    with jax.enable_x64(plan.run.precision == 64):

        def most(member: _Member) -> int:
            return 1 if plan.run.batch == "off" else memory.most(member.run, limits, width=width)[0]

        members = _members(plan, scenarios, chosen, book)
        for group in batches.gathered(members, run_of=lambda m: m.run, most=most, budget=limits.budget):
            choice = memory.choose(group[0].run, len(group), limits, width=width)
            states, records = batches.drive(*batches.stack([m.run for m in group], choice.batch), width=choice.width)
            found = np.asarray(states.status)[: len(group)]
            sound = [i for i, one in enumerate(found) if not status.failed(one)]
            for member, one in zip(group, found, strict=True):
                bits[member.place] = one
            # runs of one structure may have steps of different length, and what a metric says of an hour depends on it
            for length in {group[i].step_minutes for i in sound}:
                these = [i for i in sound if group[i].step_minutes == length]
                ledger, kept = jax.tree.map(lambda x, these=these: np.asarray(x)[these], (states.ledger, records))
                ds = _dataset(plan, [group[i] for i in these], ledger, kept, accounts)
                for name, column in metrics.evaluate_runs(ds, names).items():
                    for i, value in zip(these, column, strict=True):
                        values[name][group[i].place] = value
            done += len(group)
            populations |= {member.ready.described["population"] for member in group}
            progress("runs", done, bits.size)
    about = provenance.attributes(plan, time.perf_counter() - began) | {"population": ", ".join(sorted(populations)), "accounts": len(book)}
    return _table(values, bits, {"scenario": list(scenarios), "policy": list(chosen)}, about)


def measurable() -> tuple[str, ...]:
    """Metrics that need no single account."""
    without = ("group_notional_usd", "survivors", "latent_deficit_usd", "total_cash_residual_usd")
    return tuple(name for name, metric in METRICS.items() if not set(metric.needs) & set(without))


def _known(measures: Sequence[str] | None) -> tuple[str, ...]:
    """The measures asked for, or all that need no single account. Raises InputError."""
    can = measurable()
    if measures is None:
        return can
    wrong = [n for n in measures if n not in can]
    if wrong:
        what = {n: "needs single accounts, which many runs do not keep" if n in METRICS else "is no metric" for n in wrong}
        raise InputError("measures", [Problem(n, "", what[n], did_you_mean(n, can)) for n in wrong])
    return tuple(dict.fromkeys(measures))


def _scenarios(plan: Plan, shocks: Mapping[str, Shock] | None) -> dict[str, tuple[ScenarioSpec, Shock]]:
    """By name, a specification and a path; paths that are given stand on the plan's first scenario. Raises InputError."""
    if shocks is None:
        return {s.name: (s, shock_of(plan, s)) for s in plan.scenarios}
    if not shocks:
        raise InputError("shocks", Problem("shocks", "", "is empty", "give at least one path, or leave it out"))
    found = {}
    for name, shock in shocks.items():
        if shock.assets != tuple(plan.system.assets):
            raise InputError("shocks", Problem(name, str(shock.assets), "are not the system's assets", f"give paths of {tuple(plan.system.assets)}"))
        first = plan.scenarios[0]
        found[name] = first.model_copy(update={"name": name, "step_minutes": float(shock.minutes[1] - shock.minutes[0])}), shock
    return found


def _members(plan: Plan, scenarios: dict, policies: Mapping[str, PolicySpec], book: Book) -> Iterator[_Member]:
    """All runs. What scenarios that begin alike have in common is made once for each policy: there is nothing but the path to change."""
    alike: dict[tuple, list[int]] = {}
    listed = list(scenarios.values())
    for number, (spec, shock) in enumerate(listed):
        prices = assemble.reference_prices(plan.system, shock)
        behaviour = "" if spec.behaviour is None else spec.behaviour.model_dump_json()
        alike.setdefault((prices.tobytes(), spec.step_minutes, shock.disturbs_marks, behaviour), []).append(number)
    memos: dict[bytes, tuple[Book, dict]] = {}
    for (prices, *_), numbers in alike.items():
        spec, shock = listed[numbers[0]]
        if prices not in memos:
            memos.clear()  # one book at a time
            memos[prices] = at_start(plan, book, shock), {}
        mine, memo = memos[prices]
        for column, policy in enumerate(policies.values()):
            own = replace(plan, policy=policy)
            ready = preparation.prepare(own, spec, shock, mine, memo=memo)
            start, depth = preparation.initial_levels(ready, shock), np.asarray(ready.system.impact.depth, float)
            run = ready.run(plan.run.max_rounds)
            run = replace(run, common=run.in_common())
            for number in numbers:
                its = listed[number][1]
                rules = replace(run.rules, path=cast(assemble.path_arrays(its), ready.dtype))
                levels = start | {"depth_usd": depth * its.depth_factor[0]}
                yield _Member((number, column), ready, levels, its, replace(run, rules=rules))


def _dataset(plan: Plan, members: list[_Member], ledger: Ledger, records: list[Record], accounts: np.ndarray) -> xr.Dataset:
    """The results of some runs with a leading dimension of runs, for metrics: without an audit of single accounts."""

    def sides(name: str) -> np.ndarray:
        starts = np.stack([np.asarray(getattr(m.ready.state.ledger, name)) for m in members])
        return np.stack([starts, getattr(ledger, name)], axis=1)

    return trajectory.runs_dataset(
        records=records,
        initial={name: np.stack([m.start[name] for m in members]) for name in members[0].start},
        final={
            "accounts": np.tile(accounts, (len(members), 1)),
            "customer_long": sides("long_quantity"),
            "customer_short": sides("short_quantity"),
        },
        minutes=members[0].shock.minutes,
        pools=tuple(plan.system.pools),
        assets=tuple(plan.system.assets),
    )


def _table(values: dict[str, np.ndarray], bits: np.ndarray, coords: dict[str, list[str]], attributes: dict) -> xr.Dataset:
    """Metrics by scenario and policy."""
    dims = ("scenario", "policy")
    data = {name: (dims, v, {"units": METRICS[name].units, "long_name": METRICS[name].title}) for name, v in values.items()}
    data["status"] = (dims, bits, {"units": "1", "long_name": "status bits raised in the run, see stresslev.engine.status"})
    return xr.Dataset(data, coords=coords, attrs=attributes)
