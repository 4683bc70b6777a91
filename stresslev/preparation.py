"""A scenario made ready for the engine: system, policy, path and accounts as arrays, and the levels that they begin from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stresslev import assemble, population
from stresslev.assemble import links
from stresslev.audit import host
from stresslev.batches import Run
from stresslev.book.book import Book
from stresslev.book.layout import Layout, sorts, to_blocks
from stresslev.config.load import Plan
from stresslev.config.pools import LendingSpec
from stresslev.config.spec import ScenarioSpec
from stresslev.engine.batch import Rules
from stresslev.engine.simulate import all_channels, residual_tolerance
from stresslev.engine.step import open_interest
from stresslev.engine.types import Path as EnginePath
from stresslev.engine.types import Policy, State, System, cast
from stresslev.sharding import ONE, Sharding
from stresslev.shocks.paths import Shock


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

    def run(self, rounds: int) -> Run:
        """The engine's arguments, all channels open."""
        return Run(self.state, Rules(*self.placed, all_channels(self.dtype), self.path, jnp.int32(rounds), self.tolerance))


def _book_figures(plan: Plan, book: Book) -> tuple[np.ndarray, np.ndarray]:
    """(V,) USD that customers of venues hold, and (V, A) coins that borrowers have supplied."""
    pools = len(book.pools)
    lends = np.array([isinstance(p, LendingSpec) for p in plan.system.pools.values()])
    customers = np.bincount(book.pool, weights=np.maximum(book.equity, 0), minlength=pools)
    supplied = np.zeros((pools, len(book.assets)))
    for a, q in enumerate(book.quantity):
        supplied[:, a] = np.bincount(book.pool, weights=np.maximum(q, 0), minlength=pools)
    return np.where(lends, 0, customers), np.where(lends[:, None], supplied, 0)


def prepare(
    plan: Plan,
    scenario: ScenarioSpec,
    shock: Shock,
    book: Book,
    kept: str | None = None,
    memo: dict | None = None,
    sharding: Sharding = ONE,
) -> Prepared:
    """The engine's view of a scenario. Must be called inside `jax.enable_x64(plan.run.precision == 64)`.

    Args: `kept` instead of the plan's `run.population`; `memo`, one for each book, in which what does not depend on the policy is kept for the next;
    `sharding` over which devices the accounts are dealt out.

    Raises:
      InputError: a liquidation profile was asked for and can hold nobody.
    """
    dtype = np.float64 if plan.run.precision == 64 else np.float32
    kept = kept or plan.run.population
    memo = {} if memo is None else memo
    parting = (kept, *population.why_no_profile(plan))
    if parting not in memo:
        parted = population.split(plan, book, kept)
        layout = to_blocks(parted.rest, sorts(plan.system), dtype)
        # the arrays are on the device then; rows and slots are still needed
        memo[parting] = parted, dataclasses.replace(layout, populations=()), tuple(sharding.deal(p) for p in layout.populations)
    parted, layout, populations = memo[parting]
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
    if parted.rows.size:
        multiplier = policy.maintenance_multiplier
        key = (parting, plan.policy.tiers, np.asarray(multiplier).tobytes())
        if key not in memo:
            memo[key] = population.with_profile(system, multiplier, book, parted.rows, dtype)
        system = dataclasses.replace(system, profile=memo[key][0].profile, loan_profile=memo[key][0].loan_profile)
        populations += tuple(sharding.deal(p) for p in memo[key][1])
    policy, system = cast(policy, dtype), cast(system, dtype)
    placed = sharding.rules(system, populations), sharding.everywhere(policy)
    state = sharding.initial_state(
        placed[0],
        populations,
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
        layout=layout,
        dtype=dtype,
        described=population.described(parted, book, kept),
    )


def initial_levels(ready: Prepared, shock: Shock) -> dict[str, np.ndarray]:
    """Levels at minute 0 by variable."""
    system, state = ready.system, ready.sharding.bare(ready.state)
    reference = host(system.reference_price)
    everywhere = np.broadcast_to(reference, system.tier_floor.shape[:2])
    variance = host(system.reference_variance)
    figures = {
        "price_usd": reference,
        "exogenous_price_usd": reference,
        "mark_usd": everywhere,
        "venue_price_usd": everywhere,
        "depth_usd": host(system.impact.depth) * shock.depth_factor[0],
        "volatility": np.sqrt(variance * assemble.MINUTES_PER_YEAR / (shock.minutes[1] - shock.minutes[0])),
        "open_interest_usd": host(open_interest(state, system)),
        "insurance_fund_usd": host(system.insurance_fund),
        "redemption": np.ones_like(reference),
        "paid_share": np.ones(len(everywhere)),
        "cap_leverage": np.full(everywhere.shape, np.inf) if state.leverage is None else host(state.leverage.cap),
        "maintenance_multiplier": host(ready.policy.maintenance_multiplier) if state.leverage is None else host(state.leverage.maintenance),
        "net_worth_usd": np.zeros(len(everywhere)) if state.cover is None else host(state.cover.net_worth),
    }
    if state.ledger.lending is not None:
        book = state.ledger.lending
        figures["supplied_usd"] = host(book.supply_units + book.deposit_units) * reference
        figures["borrowed_usd"] = host(book.debt_units) * reference
    return figures
