"""Owners with accounts in several pools: a margin call in one is met from what the others can spare, before anything is liquidated."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import lenders
from stresslev.engine.blocks import column, over_devices, pool_sum
from stresslev.engine.health import Prices, assess, rules_for, scale
from stresslev.engine.lenders import Terms
from stresslev.engine.loans import Loans
from stresslev.engine.types import Accounts, Owners, System

#: Roundings, of all that an account holds, by which it is to end on the safe side of the health it is brought to or left at: where that is the
#: threshold itself (no position, a debt against coins), rounding must not say whether it is under margin.
_SLACK = 64


def _flat(x: Array, slot: Array) -> Array:
    """(L, 1) the accounts at flat slots, each a block of its own."""
    return column(x.reshape(-1)[slot])


def _linked(population: Accounts | Loans, slot: Array) -> Accounts | Loans:
    """The linked accounts of a population as blocks of one account."""
    block = population.block_pool[slot // population.liquidated.shape[1]]
    rows = replace(population, block_pool=jnp.zeros((), jnp.int32))
    return replace(jax.tree.map(lambda x: x if x.ndim == 0 else _flat(x, slot), rows), block_pool=block)


def _room(some: Accounts | Loans, system: System, multiplier: Array, prices: Prices, terms: Terms | None, owners: Owners) -> tuple[Array, Array]:
    """(L,) USD that a called account needs to be back at `top_up`, and that a healthy one can spare above `keep`."""
    if isinstance(some, Loans):
        weighted, owed = lenders.balance(some, terms, prices.mark)
        under = ~(weighted >= owed)
        need, spare = _loan_room(weighted, owed, some.cash, owners)
        held = weighted + owed
    else:
        rules = rules_for(some, system, multiplier, prices)
        health = assess(some, rules)
        under = health.under
        need, spare = owners.top_up * health.required - health.margin_equity, health.margin_equity - owners.keep * health.required
        held = scale(some, rules)
    slack = _SLACK * jnp.finfo(held.dtype).eps * held
    need, spare = jnp.where(under, jnp.maximum(need, 0) + slack, 0), jnp.where(under, 0, jnp.maximum(spare - slack, 0))
    return need[:, 0], spare[:, 0]


def _loan_room(weighted: Array, owed: Array, cash: Array, owners: Owners) -> tuple[Array, Array]:
    """USD that brings a loan to `top_up`, and USD that leaves it at `keep`: money first repays a debt in USD, and is first taken from USD held."""
    debt, held = jnp.maximum(-cash, 0), jnp.maximum(cash, 0)
    repaying = owed - weighted / owners.top_up
    need = jnp.where(repaying <= debt, repaying, debt + owners.top_up * (owed - debt) - weighted)
    paying = weighted - owners.keep * owed
    spare = jnp.where(paying <= held, paying, held + (weighted - held) / owners.keep - owed)
    return need, spare


def by_owner(owners: Owners, values: tuple[Array, ...]) -> Array:
    """(O,) sums by owner of values per link, by population (L,); of bools, whether any holds."""
    table = jnp.concatenate(values).at[owners.links].get(mode="fill", fill_value=0)
    return jnp.any(table, axis=1) if table.dtype == jnp.bool_ else jnp.sum(table, axis=1)


def call_margin(
    populations: tuple[Accounts | Loans, ...], system: System, multiplier: Array, prices: Prices, terms: Terms | None, open_share: Array
) -> tuple[tuple[Accounts | Loans, ...], Array]:
    """Move margin between accounts of one owner.

    An owner's called accounts get what the other accounts spare, up to what they need; if that is too little, all get the same share of their need.
    Accounts give in proportion to what they can spare. Money moves as USD: a lending account pays with USD it holds or borrows.

    Args: `open_share` () 1 or 0: whether owners may do so.

    Sums are read through `Owners.links`, account by account of each owner: nothing is scattered to a place that two links share, so nothing waits for
    its turn and the order of the sums is always the same. Of blocks dealt out over devices, each device has the links of its own.

    Returns: populations, and USD that came into each pool (V,), adding up to zero.
    """
    owners, axis = system.owners, populations[0].axis
    rooms = [_room(_linked(p, slot), system, multiplier, prices, terms, owners) for p, slot in zip(populations, owners.slot, strict=True)]

    need, spare = over_devices(tuple(by_owner(owners, values) for values in zip(*rooms, strict=True)), axis)
    moved = open_share * jnp.minimum(need, spare)
    per_need = moved / jnp.where(need > 0, need, jnp.ones_like(need))
    per_spare = moved / jnp.where(spare > 0, spare, jnp.ones_like(spare))
    inflow = jnp.zeros_like(system.insurance_fund)
    after = []
    for p, slot, who, (n, s) in zip(populations, owners.slot, owners.owner, rooms, strict=True):
        name = "cash" if isinstance(p, Loans) else "equity_at_reference"
        old = getattr(p, name)
        change = jnp.where(slot < old.size, n * per_need[who] - s * per_spare[who], 0)
        new = old.reshape(-1).at[slot].add(change, unique_indices=True).reshape(old.shape)
        inflow = inflow + pool_sum(change, p.block_pool[slot // old.shape[1]], inflow.shape[0])
        after.append(replace(p, **{name: new}))
    return tuple(after), over_devices(inflow, axis)
