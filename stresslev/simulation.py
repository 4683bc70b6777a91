"""One scenario through the engine: from book and shock to a dataset, in chunks of steps so that progress shows and the run can be stopped."""

import dataclasses
import json
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from stresslev import attribution, batches, memory, observe, population, stepping, trajectory
from stresslev.audit import Audit, audit, host, latent_deficit
from stresslev.batches import Look, Progress, chunk_length, silent
from stresslev.book.book import Book
from stresslev.config.load import Plan
from stresslev.config.spec import ScenarioSpec
from stresslev.engine import network, status
from stresslev.engine.simulate import all_channels
from stresslev.engine.step import Record
from stresslev.engine.types import Channels, State
from stresslev.errors import NumericalFailure
from stresslev.preparation import Prepared, initial_levels, prepare
from stresslev.sharding import ONE, Sharding
from stresslev.shocks.paths import Shock


def _check(name: str, bits) -> None:
    """Raise NumericalFailure when the status says that a run must not be used."""
    for one in np.atleast_1d(np.asarray(bits)):
        if status.failed(one):
            raise NumericalFailure(f"{name}: " + " ".join(status.sentences(int(one) & status.FAILURES)))


def _advance(
    ready: Prepared, name: str, rounds: int, progress: Progress, look: Look | None = None, channels: Channels | None = None
) -> tuple[State, list[Record]]:
    """Run all steps. `look` is shown the state after every chunk; `channels` that losses travel, all when None."""
    sharding, channels = ready.sharding, all_channels(ready.dtype) if channels is None else channels
    # the engine takes over the buffers of the state it is given, and two leaves of a fresh state may be the same buffer
    state = jax.tree.map(jnp.copy, ready.state)
    steps = ready.path.log_price.shape[0]
    records, size = [], chunk_length(steps)
    progress(name, 0, steps)
    for start in range(0, steps, size):
        part = jax.tree.map(lambda x, start=start: x[start : start + size], ready.path)
        state, record = sharding.advance(state, *ready.placed, channels, part, jnp.int32(rounds), ready.tolerance)
        records.append(jax.tree.map(sharding.gathered, record))
        if look is not None:
            look(state, min(start + size, steps))
        progress(name, min(start + size, steps), steps)
        _check(name, sharding.gathered(state.status))
    return state, records


def _advance_active(ready: Prepared, name: str, rounds: int, progress: Progress, look: Look | None) -> tuple[State, list[Record], stepping.Active]:
    """`_advance` by epochs in which only accounts step that something could happen to."""
    steps = ready.path.log_price.shape[0]
    active = stepping.Active(ready.system, ready.policy, all_channels(ready.dtype), ready.path, rounds, ready.tolerance)
    state, records, size = jax.tree.map(jnp.copy, ready.state), [], chunk_length(steps)
    progress(name, 0, steps)
    for start in range(0, steps, size):
        end = min(start + size, steps)
        state, found = active.advance(state, start, end)
        records += found
        if look is not None:
            look(state, end)
        progress(name, end, steps)
        _check(name, state.status)
    return state, records, active


@dataclasses.dataclass(frozen=True)
class Case:
    """What one run is about: a scenario of a plan, its path, and the book at its start."""

    plan: Plan
    scenario: ScenarioSpec
    shock: Shock
    book: Book
    label: str = ""  # what progress calls it; the scenario's name when empty

    @property
    def name(self) -> str:
        """What progress calls it."""
        return self.label or self.scenario.name


class _Started:
    """A case that is ready to run, with what has to be known before it does."""

    def __init__(self, case: Case, sharding: Sharding = ONE):
        self.case, self.ready = case, prepare(case.plan, case.scenario, case.shock, case.book, sharding=sharding)
        self.before = audit(self.ready.state, self.ready.system, sharding)
        run = case.plan.run
        # who used how much leverage, and who was closed without need, only accounts can tell
        measures = run.measures and not self.ready.described.get("approximate")
        self.watch = _Watch(case.plan, self.ready, measures) if measures or run.liquidation_map else None
        self.run = self.ready.run(run.max_rounds)
        one_device = sharding.mesh is None
        self.stepping = stepping.chosen(run.stepping, self.ready.state, self.ready.policy, self.run.steps) if one_device else "all"

    def alone(self, progress: Progress) -> xr.Dataset:
        """Run it by itself."""
        rounds, name, how = self.case.plan.run.max_rounds, self.case.name, {"stepping": self.stepping} | self.ready.sharding.describe()
        if self.stepping == "active":
            state, records, active = _advance_active(self.ready, name, rounds, progress, self.watch)
            return self.found(state, records, how | active.describe())
        return self.found(*_advance(self.ready, name, rounds, progress, self.watch), how)

    def found(self, state: State, records: list[Record], how: dict) -> xr.Dataset:
        """The results as a dataset. Raises NumericalFailure when the whole run does not balance."""
        case, ready = self.case, self.ready
        final = _final(case.plan, ready, state, case.book, self.before, records)
        imbalance = max(np.abs(v).max() for k, v in final.items() if k.endswith("_residual_usd"))
        if not imbalance <= float(ready.tolerance):
            raise NumericalFailure(f"{case.name}: over the whole run, " + status.sentences(status.RESIDUAL)[0])
        dataset = trajectory.scenario_dataset(
            records=records,
            initial=initial_levels(ready, case.shock),
            final=final,
            minutes=case.shock.minutes,
            pools=case.book.pools,
            assets=case.book.assets,
            attributes=_attributes(case.plan, case.scenario, state, _notes(ready, ready.sharding.bare(state))) | how | ready.described,
        )
        watch = self.watch
        return dataset if watch is None else dataset.merge(watch.found(state, records, dataset), combine_attrs="override")


def simulate_scenario(
    plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, progress: Progress = silent, sharding: Sharding = ONE
) -> xr.Dataset:
    """One scenario through the engine. Must be called inside `jax.enable_x64(plan.run.precision == 64)`; `run_plan` does.

    Raises:
      NumericalFailure: with the sentences of the status bits.
    """
    return _Started(Case(plan, scenario, shock, book), sharding).alone(progress)


def simulate_cases(plan: Plan, cases: Iterable[Case], progress: Progress = silent, sharding: Sharding = ONE) -> Iterator[tuple[int, xr.Dataset]]:
    """Several runs, those of one structure together where the plan's `run.batch` says so or it pays; must be called where `simulate_scenario` may be.

    Over several devices they go one after the other.

    Args: `plan`, of which [run] counts.

    Yields the number of a case and its dataset, in the order in which runs are done. What a run finds does not depend on which others it runs with.

    Raises:
      InputError: not one run fits into memory.
      NumericalFailure: with the sentences of the status bits.
    """
    limits = memory.limits(plan.run, plan.files["suite"])

    def most(item: tuple[int, _Started]) -> int:
        if sharding.mesh is not None:
            return 1
        fit, _ = memory.most(item[1].run, limits)
        # epochs depend on what happens in a run, so those go by themselves
        return 1 if plan.run.batch == "off" or item[1].stepping == "active" else fit

    started = ((number, _Started(case, sharding)) for number, case in enumerate(cases))
    for items in batches.gathered(started, run_of=lambda item: item[1].run, most=most, budget=limits.budget):
        if len(items) == 1:
            number, one = items[0]
            yield number, one.alone(progress)
        else:
            yield from _together(items, memory.choose(items[0][1].run, len(items), limits), progress)


def _together(items: list[tuple[int, _Started]], choice: memory.Choice, progress: Progress) -> Iterator[tuple[int, xr.Dataset]]:
    """Runs of one group through one program."""
    members = [one for _, one in items]

    def look(states: State, step: int) -> None:
        for i, one in enumerate(members):
            _check(one.case.name, states.status[i])
            if one.watch is not None:
                one.watch(batches.one_of(states, i), step)

    name = f"{members[0].case.name} and {len(members) - 1} more"
    arguments = batches.stack([one.run for one in members], choice.batch)
    states, records = batches.drive(*arguments, width=choice.width, progress=progress, name=name, look=look)
    for i, (number, one) in enumerate(items):
        how = {"stepping": "all", "batch_runs": len(members), "batch_width": choice.width}
        yield number, one.found(batches.one_of(states, i), batches.one_of(records, i), how)


class _Watch:
    """What is measured between chunks of a run, see `observe`."""

    #: Most maps of a run.
    MAPS = 48

    def __init__(self, plan: Plan, ready: Prepared, measures: bool):
        self.plan, self.ready, self.measures = plan, ready, measures
        self.groups = self._groups() if measures else ()
        self.start = ready.state
        self.steps, self.standing = [0], [self._standing(ready.state)]
        self.map_steps, self.maps = [], []
        chunks = -(-ready.path.log_price.shape[0] // chunk_length(ready.path.log_price.shape[0]))
        self.every = -(-chunks // self.MAPS)
        self._map(ready.state, 0)

    def _groups(self) -> tuple[jax.Array, ...]:
        ready, sharding = self.ready, self.ready.sharding
        sizes = sharding.apply(observe.sizes, ready.state, ready.placed[0], by_block=True)
        pools = [p.block_pool for p in ready.state.populations]
        return sharding.blocks(tuple(observe.group(sharding.gathered(s), sharding.gathered(v)) for s, v in zip(sizes, pools, strict=True)))

    def _standing(self, state: State):
        if not self.measures:
            return []
        return [host(x) for x in self.ready.sharding.apply(observe.by_group, state, self.ready.placed[0], blocks=self.groups)]

    def _map(self, state: State, step: int) -> None:
        if not self.plan.run.liquidation_map:
            return
        self.map_steps.append(step)
        self.maps.append(host(self.ready.sharding.apply(observe.present_map, state, *self.ready.placed)))

    def __call__(self, state: State, step: int) -> None:
        self.steps.append(step)
        self.standing.append(self._standing(state))
        if (len(self.steps) - 1) % self.every == 0:
            self._map(state, step)

    def found(self, state: State, records: list[Record], dataset: xr.Dataset) -> xr.Dataset:
        """The variables, over the dataset's time: what was measured holds until it is measured again."""
        values = self._by_account(state, dataset) if self.measures else {}
        if self.maps:
            values["liquidation_map_usd"] = np.stack(self.maps)
        times = dataset.time.values[self.map_steps]
        return trajectory.measures_dataset(values, pools=dataset.pool.values, assets=dataset.asset.values, map_minutes=times)

    def _by_account(self, state: State, dataset: xr.Dataset) -> dict[str, np.ndarray]:
        held = np.searchsorted(self.steps, np.arange(dataset.sizes["time"]), side="right") - 1
        notional, equity, liquidated, accounts = (np.stack(x) for x in zip(*self.standing, strict=True))
        funding = None if state.funding is None else dataset.funding_index_usd.values[1:]
        # the fixed multiplier, so that a policy which raises requirements is not the judge of whom it spared
        fixed = self.ready.policy.maintenance_multiplier
        own = self.ready.sharding.own
        found = observe.unnecessary(own(self.start), own(state), self.ready.system, fixed, dataset.mark_usd.values[1:], funding)
        count, closed = self.ready.sharding.total(*found)
        return {
            "group_notional_usd": notional[held],
            "group_equity_usd": equity[held],
            "group_liquidated": liquidated[-1],
            "group_accounts": accounts[-1],
            "survivors": count,
            "survivors_closed_usd": closed,
        }


def _alone(ready: Prepared, design: attribution.Design, name: str, plan: Plan, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """(B, V) USD of deficits and of bad debt of the runs of a design, one after the other, through the program of the run that is attributed."""
    found, count = [], len(design.open)
    for i in range(count):

        def told(stage: str, done: int, total: int, i=i) -> None:
            progress(stage, i * total + done, count * total)

        channels = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), design.channels(ready.dtype))
        _, records = _advance(ready, name, plan.run.max_rounds, told, channels=channels)
        found.append((sum(host(r.flows.deficit).sum(axis=0) for r in records), host(records[-1].bad_debt)[-1]))
    deficit, debt = zip(*found, strict=True)
    return np.stack(deficit), np.stack(debt)


def _dealt(ready: Prepared, design: attribution.Design, name: str, plan: Plan, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """The same with the runs dealt out over devices."""
    sharding = ready.sharding
    # runs that fill up the last group of devices repeat the full run, and nobody reads them
    runs = sharding.filled(len(design.open))
    channels = jax.tree.map(lambda x: np.append(x, x[-1:].repeat(runs - len(x))), design.channels(ready.dtype))
    arguments = batches.alike(ready.run(plan.run.max_rounds), channels, sharding)

    def look(states: State, step: int) -> None:
        _check(name, sharding.gathered(states.status))

    _, records = batches.drive(*arguments, progress=progress, name=name, look=look, sharding=sharding)
    return sum(host(r.flows.deficit).sum(axis=1) for r in records), host(records[-1].bad_debt)[:, -1]


def attribute(
    plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, progress: Progress = silent, label: str = "", sharding: Sharding = ONE
) -> xr.Dataset:
    """Losses by the way they travelled: runs of one scenario with channels shut. Must be called where `simulate_scenario` may be.

    Args: `label` is what progress calls the scenario; its name when empty.

    Raises:
      NumericalFailure: with the sentences of the status bits.
    """
    ready = prepare(plan, scenario, shock, book, "accounts", sharding=sharding)
    design = attribution.design(attribution.present(plan.system, ready.system.owners is not None))
    name = f"{label or scenario.name}: attribution"
    deficit, debt = _alone(ready, design, name, plan, progress) if sharding.mesh is None else _dealt(ready, design, name, plan, progress)
    opened, shut = list(design.opened), list(design.shut)
    return trajectory.attribution_dataset(
        {
            "deficit_by_channels_usd": deficit[opened],
            "bad_debt_by_channels_usd": debt[opened],
            "deficit_without_channel_usd": deficit[shut],
            "bad_debt_without_channel_usd": debt[shut],
        },
        pools=book.pools,
        accounts=len(book),
    )


def _notes(ready: Prepared, state: State) -> list[str]:
    """What a reader must know besides the status."""
    if not ready.described.get("approximate"):
        return []
    said = population.sentence(ready.described, population.uncertain_share(state, ready.system), bool(state.status & status.ROUNDS_CAP))
    return [] if said is None else [said]


def _attributes(plan: Plan, scenario: ScenarioSpec, state: State, notes: list[str]) -> dict:
    return {
        "name": scenario.name,
        "title": scenario.title,
        "origin": scenario.origin,
        "severity": scenario.severity,
        "description": scenario.description,
        "sources": json.dumps(scenario.sources),
        "assumptions": json.dumps(scenario.assumptions),
        "start": scenario.start.isoformat() if scenario.start else "",
        "status": int(state.status),
        "status_text": json.dumps([*notes, *status.sentences(state.status)]),
    }


def _final(plan: Plan, ready: Prepared, state: State, book: Book, before: Audit, records: list[Record]) -> dict[str, np.ndarray]:
    """The variables that describe the whole run."""
    system, ledger, start = ready.system, state.ledger, ready.state.ledger
    pools = len(book.pools)
    reference, after = host(system.reference_price), audit(state, system, ready.sharding)
    displaced = host(records[-1].venue_price[-1]) - reference
    gain = displaced - (0 if state.funding is None else host(state.funding.index))
    unit = np.broadcast_to(reference, gain.shape)
    if system.inverse is not None:
        face = np.asarray(system.inverse)
        gain, unit = np.where(face, 0, gain), np.where(face, 1, unit)
    profit = host(ledger.maker_cash) + host(ledger.maker_quantity) * gain + host(ledger.maker_coins) * displaced
    # what came in from other pools has left those
    moved = sum((host(r.flows.margin_calls) + host(r.flows.shared_in) + host(r.flows.margin_posted)).sum(axis=0) for r in records)
    withdrawn = sum(host(r.flows.withdrawn).sum(axis=0) for r in records)
    ends = (start, ledger)
    return {
        "accounts": np.bincount(book.pool, minlength=pools),
        "customer_long": np.stack([host(e.long_quantity) for e in ends]),
        "customer_short": np.stack([host(e.short_quantity) for e in ends]),
        "maker_profit_usd": profit.sum(axis=1),
        "latent_deficit_usd": sum(host(x) for x in ready.sharding.apply(latent_deficit, state, ready.placed[0])),
        "debtrank": _debtrank(plan, ready),
        "total_cash_residual_usd": after.cash - before.cash - moved,
        "total_quantity_residual_usd": (after.contracts - before.contracts) * unit,
        "total_coins_residual_usd": (after.coins - before.coins + withdrawn) * reference,
    }


def _debtrank(plan: Plan, ready: Prepared) -> np.ndarray:
    """(V,) share of all pools' own funds that is lost when one pool fails, before anything else happens (linear DebtRank)."""
    credit = ready.system.credit
    if credit is None:
        return np.zeros(len(plan.system.pools))
    equity = credit.capital + ready.system.insurance_fund
    shocks = jnp.eye(equity.shape[0], dtype=equity.dtype)
    return host(jax.vmap(lambda shock: network.debtrank(credit.nominal, equity, shock).impact)(shocks))
