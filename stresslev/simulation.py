"""One scenario through the engine: from book and shock to a dataset, in chunks of steps so that progress shows and the run can be stopped."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from stresslev import assemble, attribution, observe, population, stepping, trajectory
from stresslev.assemble import links
from stresslev.book.book import Book
from stresslev.book.layout import Layout, sorts, to_blocks
from stresslev.config.load import Plan
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import ScenarioSpec
from stresslev.engine import accounts as perps
from stresslev.engine import lenders, network, profile, status
from stresslev.engine.lenders import Terms
from stresslev.engine.loans import Loans
from stresslev.engine.prices import Seen, prices
from stresslev.engine.profile import Profile
from stresslev.engine.round import pool_cash, pool_coins
from stresslev.engine.simulate import all_channels, residual_tolerance
from stresslev.engine.step import Record, open_interest
from stresslev.engine.types import Accounts, Policy, State, System, cast
from stresslev.engine.types import Path as EnginePath
from stresslev.errors import NumericalFailure
from stresslev.sharding import ONE, Sharding
from stresslev.shocks.paths import Shock

#: Called as progress(stage, done, total); stages are "book" and the scenarios' names.
Progress = Callable[[str, int, int], None]


#: Called as look(state, step) between chunks.
Look = Callable[[State, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """No progress shown."""


def chunk_length(steps: int, target: int = 64) -> int:
    """Steps per compiled call: a divisor of `steps` near the target, so that one program serves; else the target."""
    near = [n for n in range(target // 2, target * 3 // 2 + 1) if steps % n == 0]
    return min(near, key=lambda n: abs(n - target)) if near else min(steps, target)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A scenario ready to run: the engine's arguments, and what the dataset needs besides."""

    system: System
    policy: Policy
    path: EnginePath
    state: State  # as placed by `sharding`
    placed: tuple[System, Policy]  # the two above, as placed
    sharding: Sharding
    tolerance: jax.Array
    layout: Layout
    dtype: type
    described: dict  # attributes that say how the accounts are kept


def _book_figures(plan: Plan, book: Book) -> tuple[np.ndarray, np.ndarray]:
    """(V,) USD that customers of venues hold, and (V, A) coins that borrowers have supplied."""
    pools = len(book.pools)
    lends = np.array([isinstance(p, LendingSpec) for p in plan.system.pools.values()])
    customers = np.bincount(book.pool, weights=np.maximum(book.equity, 0), minlength=pools)
    supplied = np.zeros((pools, len(book.assets)))
    for a, q in enumerate(book.quantity):
        supplied[:, a] = np.bincount(book.pool, weights=np.maximum(q, 0), minlength=pools)
    return np.where(lends, 0, customers), np.where(lends[:, None], supplied, 0)


def prepare(plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, kept: str | None = None, sharding: Sharding = ONE) -> Prepared:
    """The engine's view of a scenario. Must be called inside `jax.enable_x64(plan.run.precision == 64)`.

    Args: `kept` instead of the plan's `run.population`; `sharding` over which devices the accounts are dealt out.

    Raises:
      InputError: a liquidation profile was asked for and can hold nobody.
    """
    dtype = np.float64 if plan.run.precision == 64 else np.float32
    kept = kept or plan.run.population
    parted = population.split(plan, book, kept)
    layout = to_blocks(parted.rest, sorts(plan.system), dtype)
    customers, supplied = _book_figures(plan, book)
    ids = tuple(np.full(len(r), -1) if book.owner is None else book.owner[r] for r in layout.rows)
    system = assemble.system_arrays(
        plan.system,
        book.reference_price,
        scenario.step_minutes,
        shock=shock,
        customers=customers,
        collateral=supplied,
        owners=links.owners(plan.system.owners, layout.slots, ids),
    )
    grid = assemble.Grid(np.asarray(book.reference_price, float), float(scenario.step_minutes))
    system = dataclasses.replace(
        assemble.with_policy(system, plan.policy),
        traders=assemble.trader_rules(scenario.behaviour, plan.system, grid),
        runs=assemble.run_rules(scenario.behaviour, plan.system, grid),
    )
    policy = assemble.policy_arrays(plan.policy, plan.system, grid, system.funding)
    populations = layout.populations
    if parted.rows.size:
        system, together = population.with_profile(system, policy.maintenance_multiplier, book, parted.rows, dtype)
        populations += (together,)
    policy, system = cast(policy, dtype), cast(system, dtype)
    placed = sharding.rules(system, populations), sharding.everywhere(policy)
    state = sharding.initial_state(
        placed[0],
        tuple(sharding.deal(p) for p in populations),
        policy=placed[1],
        mark_history=assemble.mark_history(plan.system, scenario.step_minutes),
        notice=assemble.notice_history(plan.policy, scenario.step_minutes),
    )
    return Prepared(
        system=system,
        policy=policy,
        path=cast(assemble.path_arrays(shock), dtype),
        state=state,
        placed=placed,
        sharding=sharding,
        tolerance=residual_tolerance(sharding.bare(state), system),
        # the arrays are on the device now; rows and slots are still needed
        layout=dataclasses.replace(layout, populations=()),
        dtype=dtype,
        described=population.described(parted, book, kept),
    )


def _host(x) -> np.ndarray:
    return np.asarray(x, dtype=float)


def _check(name: str, bits) -> None:
    """Raise NumericalFailure when the status says that a run must not be used."""
    for one in np.atleast_1d(np.asarray(bits)):
        if status.failed(one):
            raise NumericalFailure(f"{name}: " + " ".join(status.sentences(int(one) & status.FAILURES)))


def _advance(
    ready: Prepared, name: str, rounds: int, design: attribution.Design | None, progress: Progress, look: Look | None = None
) -> tuple[State, list[Record]]:
    """Run all steps; with a design, of all its runs at once (leading axis). `look` is shown the state after every chunk."""
    sharding = ready.sharding
    if design is None:
        channels, run = all_channels(ready.dtype), sharding.advance
        # the engine takes over the buffers of the state it is given, and two leaves of a fresh state may be the same buffer
        state = jax.tree.map(jnp.copy, ready.state)
    else:
        # runs that fill up the last group repeat the full run, and nobody reads them
        runs = sharding.filled(len(design.open))
        channels, run = jax.tree.map(lambda x: np.append(x, x[-1:].repeat(runs - len(x))), design.channels(ready.dtype)), sharding.advance_batch
        state = sharding.repeated(ready.state, runs)
    steps = ready.path.log_price.shape[0]
    records, size = [], chunk_length(steps)
    progress(name, 0, steps)
    for start in range(0, steps, size):
        part = jax.tree.map(lambda x, start=start: x[start : start + size], ready.path)
        state, record = run(state, *ready.placed, channels, part, jnp.int32(rounds), ready.tolerance)
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


def simulate_scenario(
    plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, progress: Progress = silent, sharding: Sharding = ONE
) -> xr.Dataset:
    """One scenario through the engine. Must be called inside `jax.enable_x64(plan.run.precision == 64)`; `run_plan` does.

    Raises:
      NumericalFailure: with the sentences of the status bits.
    """
    ready = prepare(plan, scenario, shock, book, sharding=sharding)
    before = _audit(ready.state, ready.system, sharding)
    # who used how much leverage, and who was closed without need, only accounts can tell
    measures = plan.run.measures and ready.system.profile is None
    watch = _Watch(plan, ready, measures) if measures or plan.run.liquidation_map else None
    steps = ready.path.log_price.shape[0]
    how = "all" if sharding.mesh is not None else stepping.chosen(plan.run.stepping, ready.state, ready.policy, steps)
    described = {"stepping": how} | ready.described | sharding.describe()
    if how == "active":
        state, records, active = _advance_active(ready, scenario.name, plan.run.max_rounds, progress, watch)
        described |= active.describe()
    else:
        state, records = _advance(ready, scenario.name, plan.run.max_rounds, None, progress, watch)
    final = _final(plan, ready, state, book, before, records)
    imbalance = max(np.abs(v).max() for k, v in final.items() if k.endswith("_residual_usd"))
    if not imbalance <= float(ready.tolerance):
        raise NumericalFailure(f"{scenario.name}: over the whole run, " + status.sentences(status.RESIDUAL)[0])
    dataset = trajectory.scenario_dataset(
        records=records,
        initial=_initial(plan, ready, shock),
        final=final,
        minutes=shock.minutes,
        pools=book.pools,
        assets=book.assets,
        attributes=_attributes(plan, scenario, state, _notes(ready, sharding.bare(state))) | described,
    )
    return dataset if watch is None else dataset.merge(watch.found(state, records, dataset), combine_attrs="override")


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
        return [_host(x) for x in self.ready.sharding.apply(observe.by_group, state, self.ready.placed[0], blocks=self.groups)]

    def _map(self, state: State, step: int) -> None:
        if not self.plan.run.liquidation_map:
            return
        self.map_steps.append(step)
        self.maps.append(_host(self.ready.sharding.apply(observe.present_map, state, *self.ready.placed)))

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


def attribute(plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, progress: Progress = silent, sharding: Sharding = ONE) -> xr.Dataset:
    """Losses by the way they travelled: runs of one scenario with channels shut. Must be called where `simulate_scenario` may be.

    Raises:
      NumericalFailure: with the sentences of the status bits.
    """
    ready = prepare(plan, scenario, shock, book, "accounts", sharding)
    design = attribution.design(attribution.present(plan.system, ready.system.owners is not None))
    _, records = _advance(ready, f"{scenario.name}: attribution", plan.run.max_rounds, design, progress)
    deficit = sum(_host(r.flows.deficit).sum(axis=1) for r in records)
    debt = _host(records[-1].bad_debt)[:, -1]
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
    if ready.system.profile is None:
        return []
    said = population.sentence(ready.described, population.uncertain_share(state, ready.system))
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


def _initial(plan: Plan, ready: Prepared, shock: Shock) -> dict[str, np.ndarray]:
    """Levels at minute 0 by variable."""
    system, state = ready.system, ready.sharding.bare(ready.state)
    reference = _host(system.reference_price)
    everywhere = np.broadcast_to(reference, system.tier_floor.shape[:2])
    variance = _host(system.reference_variance)
    figures = {
        "price_usd": reference,
        "exogenous_price_usd": reference,
        "mark_usd": everywhere,
        "venue_price_usd": everywhere,
        "depth_usd": _host(system.impact.depth) * shock.depth_factor[0],
        "volatility": np.sqrt(variance * assemble.MINUTES_PER_YEAR / (shock.minutes[1] - shock.minutes[0])),
        "open_interest_usd": _host(open_interest(state, system)),
        "insurance_fund_usd": _host(system.insurance_fund),
        "redemption": np.ones_like(reference),
        "paid_share": np.ones(len(everywhere)),
        "cap_leverage": np.full(everywhere.shape, np.inf) if state.leverage is None else _host(state.leverage.cap),
        "maintenance_multiplier": _host(ready.policy.maintenance_multiplier) if state.leverage is None else _host(state.leverage.maintenance),
        "net_worth_usd": np.zeros(len(everywhere)) if state.cover is None else _host(state.cover.net_worth),
    }
    if state.ledger.lending is not None:
        book = state.ledger.lending
        figures["supplied_usd"] = _host(book.supply_units + book.deposit_units) * reference
        figures["borrowed_usd"] = _host(book.debt_units) * reference
    return figures


@dataclasses.dataclass(frozen=True)
class _Audit:
    """All ledgers summed anew on the host in float64: USD (V,), contracts and coins (V, A), which no run may change."""

    cash: np.ndarray
    contracts: np.ndarray
    coins: np.ndarray


def _by_pool(values, block_pool, pools: int) -> np.ndarray:
    return np.bincount(np.asarray(block_pool), weights=np.asarray(values).sum(axis=1, dtype=float), minlength=pools)


def _audit(state: State, system: System, sharding: Sharding) -> _Audit:
    pools, assets = system.tier_floor.shape[:2]
    state = sharding.own(state)
    with jax.enable_x64(True):
        ledger = cast(state.ledger, np.float64)
        index = jnp.ones((pools, assets)), jnp.ones((pools, assets))
        if ledger.lending is not None:
            index = 1 + ledger.lending.rates.supply_growth, 1 + ledger.lending.rates.borrow_growth
        cash = np.array(pool_cash(ledger, cast(dataclasses.replace(system, owners=None), np.float64)))
        contracts, coins = np.array(ledger.maker_quantity), np.array(pool_coins(ledger, index[0]))
        index = tuple(np.array(i) for i in index)
    cash, contracts, coins = (held + rest for held, rest in zip(_of_accounts(state, index, sharding), (cash, contracts, coins), strict=True))
    if state.venues is not None:
        contracts += _host(state.venues.arb_quantity)
        cash += _host(state.venues.arb_cash).sum(axis=1)
    if state.traders is not None:
        held = state.traders
        cash += _host(held.cash).sum(axis=(0, 2)) + _host(held.hedge_cash).sum(axis=1)
        contracts += _host(held.quantity).sum(axis=0)
        coins += _host(held.hedge_quantity)
    for p in state.populations:
        if isinstance(p, Profile):
            with jax.enable_x64(True):
                held, longs, shorts = profile.totals(cast(p, np.float64), cast(system, np.float64))
            cash += _host(held)
            contracts += _host(longs) - _host(shorts)
    return _Audit(cash, contracts, coins)


def _of_accounts(state: State, index: tuple[np.ndarray, np.ndarray], sharding: Sharding) -> tuple[np.ndarray, ...]:
    """Cash, contracts and coins of all accounts, given this process's and the indices of lenders."""
    pools, assets = index[0].shape
    cash, contracts, coins = np.zeros(pools), np.zeros((pools, assets)), np.zeros((pools, assets))
    for p in state.populations:
        if isinstance(p, Loans):
            cash += _by_pool(p.cash, p.block_pool, pools)
            for a, s, d in zip(p.assets or range(assets), p.supply, p.debt, strict=True):
                coins[:, a] += _by_pool(s, p.block_pool, pools) * index[0][:, a] - _by_pool(d, p.block_pool, pools) * index[1][:, a]
        elif isinstance(p, Accounts):
            cash += _by_pool(p.equity_at_reference, p.block_pool, pools)
            for a, q in zip(p.contract_assets, p.quantity, strict=True):
                contracts[:, a] += _by_pool(q, p.block_pool, pools)
            for a, k in zip(p.coin_assets, p.collateral, strict=True):
                coins[:, a] += _by_pool(k, p.block_pool, pools)
    return sharding.total(cash, contracts, coins)


def _latent(state: State, system: System) -> list[jax.Array]:
    """By population, (V,) USD of negative equity in accounts that are still open."""
    seen = prices(state, system, Seen(mark=None, offset=jnp.zeros(()), outage=jnp.zeros((), bool)))
    found = []
    for p in state.populations:
        if isinstance(p, Loans):
            rates = state.ledger.lending.rates
            terms = Terms(threshold=rates.supply_growth, supply_index=1 + rates.supply_growth, borrow_index=1 + rates.borrow_growth)
            found.append(lenders.negative_equity(p, terms, seen.venue))
        elif isinstance(p, Profile):
            found.append(profile.latent_deficit(p, system, seen))
        else:
            found.append(perps.latent_deficit(p, system, seen, system.insurance_fund.shape[0]))
    return found


def _final(plan: Plan, ready: Prepared, state: State, book: Book, before: _Audit, records: list[Record]) -> dict[str, np.ndarray]:
    """The variables that describe the whole run."""
    system, ledger, start = ready.system, state.ledger, ready.state.ledger
    pools = len(book.pools)
    reference, after = _host(system.reference_price), _audit(state, system, ready.sharding)
    displaced = _host(records[-1].venue_price[-1]) - reference
    gain = displaced - (0 if state.funding is None else _host(state.funding.index))
    unit = np.broadcast_to(reference, gain.shape)
    if system.inverse is not None:
        face = np.asarray(system.inverse)
        gain, unit = np.where(face, 0, gain), np.where(face, 1, unit)
    profit = _host(ledger.maker_cash) + _host(ledger.maker_quantity) * gain + _host(ledger.maker_coins) * displaced
    # what came in from other pools has left those
    moved = sum((_host(r.flows.margin_calls) + _host(r.flows.shared_in) + _host(r.flows.margin_posted)).sum(axis=0) for r in records)
    withdrawn = sum(_host(r.flows.withdrawn).sum(axis=0) for r in records)
    ends = (start, ledger)
    return {
        "accounts": np.bincount(book.pool, minlength=pools),
        "customer_long": np.stack([_host(e.long_quantity) for e in ends]),
        "customer_short": np.stack([_host(e.short_quantity) for e in ends]),
        "maker_profit_usd": profit.sum(axis=1),
        "latent_deficit_usd": sum(_host(x) for x in ready.sharding.apply(_latent, state, ready.placed[0])),
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
    return _host(jax.vmap(lambda shock: network.debtrank(credit.nominal, equity, shock).impact)(shocks))
