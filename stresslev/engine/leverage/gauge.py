"""The systemic gauge: what a further move of one price would liquidate, over what the market can take. Also the map of it over many moves."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as perps
from stresslev.engine import lenders, loan_profile, profile
from stresslev.engine.flow import Closing, coins_to_market
from stresslev.engine.health import Prices
from stresslev.engine.lenders import Terms
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.profile import Profile
from stresslev.engine.types import State, System

#: The move that the gauge is measured over, log: one percent, as depth is quoted for one percent.
FURTHER = 0.01


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaugeRules:
    """How the gauge is measured."""

    every: Array  # () int32 steps between two measurements, >= 1: each costs three assessments of all accounts per asset


def _moved(prices: Prices, system: System, asset: Array, move: Array) -> Prices:
    """Prices after one asset, and receipt tokens of it, have moved by `move` (log) at marks and venues alike."""
    touched = (system.market == asset)[None, :]
    factor = jnp.where(touched, jnp.exp(move), jnp.ones_like(prices.mark))
    mark, venue = prices.mark * factor, prices.venue * factor
    return replace(
        prices,
        mark=mark,
        mark_displaced=prices.mark_displaced + (mark - prices.mark),
        venue=venue,
        venue_displaced=prices.venue_displaced + (venue - prices.venue),
    )


def _closed(state: State, system: System, multiplier: Array, terms: Terms | None, prices: Prices) -> Array:
    """(V, A) USD of each asset that would have to be sold, less bought, at these prices."""
    sold = jnp.zeros_like(prices.mark)
    for p in state.populations:
        if isinstance(p, Loans | LoanProfile):
            of_loans = isinstance(p, Loans)
            d = lenders.demand(p, system.lending.rules, terms, prices) if of_loans else loan_profile.demand(p, system, terms, prices)
            sold = sold + (d.sold - d.bought) * prices.venue
        else:
            d = profile.demand(p, system, multiplier, prices) if isinstance(p, Profile) else perps.demand(p, system, multiplier, prices)
            closing = Closing(longs=d.long_quantity, shorts=d.short_quantity, coins_sold=d.coins, coins_bought=jnp.zeros_like(d.coins))
            sold = sold + coins_to_market(system, closing) * prices.venue
    return sold


def closed_at(state: State, system: System, multiplier: Array, terms: Terms | None, prices: Prices, moves: Array) -> Array:
    """What every pool would sell of an asset, less buy, were its price to move: (A, G, V) USD at the moved price.

    By the pools' own rules, before capacity and before any impact: the first round of what would follow.

    Args: `moves` (G,) log moves of one price, the others standing still.
    """
    assets = prices.mark.shape[1]
    pairs = jnp.repeat(jnp.arange(assets, dtype=jnp.int32), moves.shape[0]), jnp.tile(moves, assets)

    def one(pair):
        asset, move = pair
        return _closed(state, system, multiplier, terms, _moved(prices, system, asset, move))[:, asset]

    return lax.map(one, pairs).reshape(assets, moves.shape[0], prices.mark.shape[0])


def measure(state: State, system: System, multiplier: Array, terms: Terms | None, prices: Prices, depth: Array) -> Array:
    """(V, A) the gauge: USD sold per further percent of fall, or bought per percent of rise, whichever is more, over the depth for a percent.

    With linear impact this is the gain of the feedback: at one, what a percent liquidates moves the price by another percent.

    Args: `depth` (A,) USD that moves the price by one percent.
    """
    dtype = prices.mark.dtype
    closed = closed_at(state, system, multiplier, terms, prices, jnp.array([-FURTHER, 0, FURTHER], dtype))
    down, up = closed[:, 0] - closed[:, 1], closed[:, 1] - closed[:, 2]
    usd = jnp.maximum(jnp.maximum(down, up), 0).T
    return usd / depth[None, :]
