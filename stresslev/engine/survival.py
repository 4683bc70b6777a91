"""Who was liquidated and need not have been: accounts as they stood at the start, held untouched through the marks of a run."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.blocks import pool_sum
from stresslev.engine.health import Health, Prices, assess, dot, of_contracts, rules_for, unit_value
from stresslev.engine.types import Accounts, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Survivors:
    """Liquidated accounts that would have come through by themselves."""

    accounts: Array  # (V,) int32
    closed: Array  # (V,) USD of notional at the starting prices: what is gone of their positions


def _untouched(accounts: Accounts, system: System, multiplier: Array, mark: Array, funding: Array) -> Health:
    """How the accounts stand at marks (V, A) and a funding index (V, A)."""
    displaced = mark - system.reference_price[None, :]
    seen = Prices(mark=mark, mark_displaced=displaced, venue=mark, venue_displaced=displaced, funding=funding)
    return assess(accounts, rules_for(accounts, system, multiplier, seen))


def worst_equity(accounts: Accounts, system: System, mark: Array, funding: Array | None = None) -> Array:
    """Least margin equity (after haircuts) that each account would have had with its position left alone, (nb, B) USD.

    Args:
      accounts: as they stood at the start; tiers, portfolio margin, inverse contracts and posted coins alike.
      mark: (T, V, A) USD per coin, T >= 1.
      funding: (T, V, A) USD that a long has paid per coin since the start; None for no funding.
    """
    # the requirement is not asked for, so no multiplier matters
    one = jnp.ones_like(mark[0])

    def step(least: Array, now: tuple[Array, Array | None]) -> tuple[Array, None]:
        at, paid = now
        health = _untouched(accounts, system, one, at, jnp.zeros_like(at) if paid is None else paid)
        return jnp.minimum(least, health.margin_equity), None

    first = jnp.full_like(accounts.equity_at_reference, jnp.inf)
    return lax.scan(step, first, (mark, funding))[0]


def survivors(before: Accounts, after: Accounts, system: System, multiplier: Array, mark: Array, funding: Array | None = None) -> Survivors:
    """Accounts of which the pool closed something, although left alone they would have kept some equity throughout and ended above maintenance.

    The marks are those of the run, cascade included: what one account is spared by the others' liquidation is not counted against it.

    Args:
      before: the accounts at the start.
      after: the same accounts at the end; only `liquidated` and `quantity` are read.
      multiplier: (V, A) of the maintenance requirement they are held against at the end.
      mark, funding: as in `worst_equity`.
    """
    least = worst_equity(before, system, mark, funding)
    last = _untouched(before, system, multiplier, mark[-1], jnp.zeros_like(mark[-1]) if funding is None else funding[-1])
    spared = after.liquidated & (least > 0) & ~last.under
    units = of_contracts(before, unit_value(system, jnp.broadcast_to(system.reference_price[None, :], multiplier.shape)))
    # winners may take positions over, so an account can also end with more than it had
    gone = tuple(jnp.maximum(jnp.abs(q) - jnp.abs(r), 0) for q, r in zip(before.quantity, after.quantity, strict=True))
    closed = jnp.where(spared, dot(gone, units, jnp.zeros_like(least)), jnp.zeros_like(least))
    pools = multiplier.shape[0]
    count = pool_sum(jnp.sum(spared, axis=1, dtype=jnp.int32), before.block_pool, pools)
    return Survivors(accounts=count, closed=pool_sum(jnp.sum(closed, axis=1), before.block_pool, pools))
