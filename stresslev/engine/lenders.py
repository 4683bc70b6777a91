"""The lending population within a system: its functions see only the assets that it lends, their results speak of all."""

from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import loans
from stresslev.engine.health import Prices, spread
from stresslev.engine.loans import LendingRules, LoanDemand, Loans, LoanSettlement


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Terms:
    """What holds at the lenders, (V, A)."""

    threshold: Array  # liquidation thresholds in force
    supply_index: Array
    borrow_index: Array


def _held(population: Loans) -> tuple[int, ...]:
    return tuple(range(len(population.supply))) if population.assets is None else population.assets


def _narrow(population: Loans, tree):
    """The (V, A) leaves of a tree for the population's assets only."""
    held = jnp.array(_held(population), jnp.int32)
    return jax.tree.map(lambda x: x[:, held] if x.ndim == 2 else x, tree)


def _widen(population: Loans, tree, assets: int):
    """The (V, own assets) leaves of a dataclass, back over all assets; what is of accounts (`under`, `found`) stays as it is."""
    own = _held(population)
    wide = {f.name: getattr(tree, f.name) for f in fields(tree) if f.name not in ("under", "found")}
    return replace(tree, **{name: spread(list(x.T), own, assets) for name, x in wide.items() if x.ndim == 2})


def demand(population: Loans, rules: LendingRules, terms: Terms, seen: Prices) -> LoanDemand:
    """`loans.demand` at these prices."""
    t, own = _narrow(population, terms), _narrow(population, rules)
    mark, venue = _narrow(population, (seen.mark, seen.venue))
    asked = loans.demand(population, own, t.threshold, t.supply_index, t.borrow_index, mark, venue)
    return _widen(population, asked, seen.mark.shape[1])


def settle(
    population: Loans, rules: LendingRules, terms: Terms, seen: Prices, asked: LoanDemand, share: Array, fill: Array
) -> tuple[Loans, LoanSettlement]:
    """`loans.settle` at these prices; `fill` (V, A) USD per coin."""
    t, own = _narrow(population, terms), _narrow(population, rules)
    mark, venue, price = _narrow(population, (seen.mark, seen.venue, fill))
    after, done = loans.settle(population, own, t.threshold, t.supply_index, t.borrow_index, mark, venue, asked, share, price)
    return after, _widen(population, done, seen.mark.shape[1])


def begin_round(population: Loans, terms: Terms, seen: Prices) -> Loans:
    """`loans.begin_round` at these marks."""
    t, mark = _narrow(population, terms), _narrow(population, seen.mark)
    return loans.begin_round(population, t.threshold, t.supply_index, t.borrow_index, mark)


def begin_step(population: Loans, terms: Terms, seen: Prices) -> Loans:
    """`loans.begin_step` at these marks."""
    t = _narrow(population, terms)
    return loans.begin_step(population, t.threshold, t.supply_index, t.borrow_index, _narrow(population, seen.mark))


def balance(population: Loans, terms: Terms, mark: Array) -> tuple[Array, Array]:
    """`loans.balance` at (V, A) marks."""
    t = _narrow(population, terms)
    return loans.balance(population, t.threshold, t.supply_index, t.borrow_index, _narrow(population, mark))


def above(population: Loans, terms: Terms, mark: Array) -> Array:
    """`loans.above` at (V, A) marks."""
    t = _narrow(population, terms)
    return loans.above(population, t.threshold, t.supply_index, t.borrow_index, _narrow(population, mark))


def negative_equity(population: Loans, terms: Terms, mark: Array) -> Array:
    """`loans.negative_equity` at (V, A) prices."""
    t = _narrow(population, terms)
    return loans.negative_equity(population, t.supply_index, t.borrow_index, _narrow(population, mark))


def totals(population: Loans, pools: int, assets: int) -> tuple[Array, Array, Array]:
    """`loans.totals`, (V, A) over all assets."""
    supply, debt, cash = loans.totals(population, pools)
    own = _held(population)
    return spread(list(supply.T), own, assets), spread(list(debt.T), own, assets), cash
