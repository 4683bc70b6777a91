"""Depositors of lending pools who run: the weaker a pool looks, the more they withdraw, as far as there is anything to withdraw."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import rates


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunRules:
    """When depositors leave. V pools, A assets. All traced."""

    speed: Array  # (V, A) >= 0, share of the deposits withdrawn per step at full weakness of one kind; 0: nobody runs
    utilisation_at: Array  # (V, A) in [0, 1), share of the pool lent out above which depositors begin to leave
    cover_at: Array  # (V, A) in (0, 1], cover below which they do
    most: Array  # (V, A) in [0, 1], largest share of the deposits withdrawn per step


def cover(*, supplied: Array, reserves: Array, written_off: Array) -> Array:
    """(V, A) in [0, 1]: coins behind each coin deposited, once the reserves have paid for debt that was written off; 1 without deposits.

    Coins: `supplied` deposits and collateral, `reserves` of the pool, `written_off` debt that nobody pays.
    """
    missing = jnp.maximum(written_off - reserves, 0)
    some = supplied > 0
    return jnp.where(some, jnp.clip(1 - missing / jnp.where(some, supplied, 1), 0, 1), 1)


def weakness(rules: RunRules, *, utilisation: Array, cover: Array) -> Array:
    """(V, A) in [0, 2]: how far utilisation is above its level on the way to 1, plus how far cover is below its level on the way to 0.

    Illiquidity and insolvency both set depositors off (Diamond and Dybvig 1983), the more so the weaker the pool (Goldstein and Pauzner 2005).
    """
    illiquid = jnp.maximum(utilisation - rules.utilisation_at, 0) / (1 - rules.utilisation_at)
    uncovered = jnp.maximum(rules.cover_at - cover, 0) / rules.cover_at
    return jnp.minimum(illiquid, 1) + jnp.minimum(uncovered, 1)


def withdrawals(rules: RunRules, *, deposits: Array, idle: Array, borrowed: Array, cover: Array) -> Array:
    """(V, A) coins withdrawn in a step, at face value: `min(min(speed weakness, most) deposits, idle)`.

    What is not there cannot be withdrawn: whoever finds the pool empty asks again in the next step. Those who leave are paid in full, so a loss
    that has not been socialised yet stays with those who are left.

    Args:
      rules: as above.
      deposits: (V, A) coins of depositors who do not borrow, interest included.
      idle: (V, A) coins not lent out; below zero counts as none.
      borrowed: (V, A) coins.
      cover: (V, A) in [0, 1], see `cover`; the redemption value of a receipt token where that is lower.
    """
    share = jnp.minimum(rules.speed * weakness(rules, utilisation=rates.utilisation(idle, borrowed), cover=cover), rules.most)
    return jnp.minimum(share * deposits, jnp.maximum(idle, 0))
