"""How every account of a book stands against its requirement, by the engine's own rules."""

import jax
import jax.numpy as jnp
import numpy as np

from stresslev import assemble
from stresslev.book.book import Book
from stresslev.book.layout import sorts, to_blocks
from stresslev.config.spec import SystemSpec
from stresslev.engine import health, lenders
from stresslev.engine.lenders import Terms
from stresslev.engine.loans import Loans
from stresslev.engine.types import cast


def standing(book: Book, system: SystemSpec) -> tuple[np.ndarray, np.ndarray]:
    """(N,) USD that counts towards the requirement and (N,) USD required, at the reference prices and before any policy multiplier.

    Perps: equity after haircuts against maintenance margin. Lending: threshold-weighted collateral against debt.
    """
    have, required = np.zeros(len(book)), np.zeros(len(book))
    with jax.enable_x64(True):
        arrays = cast(assemble.system_arrays(system, book.reference_price, 1.0), np.float64)
        layout = to_blocks(book, sorts(system), np.float64)
        price = jnp.broadcast_to(jnp.asarray(book.reference_price)[None, :], (len(book.pools), len(book.assets)))
        zero, one = jnp.zeros_like(price), jnp.ones_like(price)
        seen = health.Prices(mark=price, mark_displaced=zero, venue=price, venue_displaced=zero, funding=zero)
        for population, rows, slots in zip(layout.populations, layout.rows, layout.slots, strict=True):
            population = jax.tree.map(jnp.asarray, population)
            if isinstance(population, Loans):
                terms = Terms(threshold=arrays.lending.rules.liquidation_threshold, supply_index=one, borrow_index=one)
                found = lenders.balance(population, terms, price)
            else:
                found_health = health.assess(population, health.rules_for(population, arrays, one, seen))
                found = found_health.margin_equity, found_health.required
            have[rows], required[rows] = (np.asarray(x).reshape(-1)[slots] for x in found)
    return have, required
