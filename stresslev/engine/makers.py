"""Market makers who withdraw depth as their inventory fills up and their losses grow."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MakerRules:
    """What makers are willing to bear, per asset. All traced; an infinite limit or capital has no effect."""

    inventory_limit: Array  # (A,) USD, > 0: net position at which only the floor of depth is left
    capital: Array  # (A,) USD, > 0: loss at which only the floor of depth is left
    floor: Array  # (A,) in (0, 1], least share of depth that inventory and losses leave; at 0 a market could end without any depth to divide by


def depth_factor(rules: MakerRules, *, inventory_usd: Array, profit_usd: Array) -> Array:
    """Share of their depth that makers still quote, (A,), in [floor, 1].

    `clip(1 - |inventory| / limit, floor, 1) * clip(1 - max(0, -profit) / capital, floor, 1)`, not below the floor. That makers quote less as
    inventory grows is Ho and Stoll (1981) and Avellaneda and Stoikov (2008), that they do as their capital is lost Gromb and Vayanos (2002); linear
    in both is the plainest form of it. It multiplies the thinning by volatility, which is the market's own.

    Args:
      rules: per asset.
      inventory_usd: (A,) USD, signed net position at the current price.
      profit_usd: (A,) USD, profit and loss so far.
    """
    room = jnp.clip(1 - jnp.abs(inventory_usd) / rules.inventory_limit, rules.floor, 1)
    # a gain is clipped away: only losses count
    strength = jnp.clip(1 + profit_usd / rules.capital, rules.floor, 1)
    return jnp.maximum(room * strength, rules.floor)
