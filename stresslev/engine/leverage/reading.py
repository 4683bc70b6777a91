"""What leverage rules can see at the opening of a step, and the one form in which most of them respond."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """Observations at the opening of a step: prices as they open, everything else as the last step left it. V pools, A assets."""

    log_return: Array  # (A,) opening price over the last opening price, log
    log_price: Array  # (A,) opening price over the reference price, log
    price: Array  # (A,) USD per coin
    depth: Array  # (A,) USD per reference move
    open_interest: Array  # (V, A) USD
    insurance_fund: Array  # (V,) USD
    supplied: Array  # (V, A) USD deposited with lenders; 0 at venues
    borrowed: Array  # (V, A) USD
    funding_rate: Array  # (V, A) per funding period that longs last paid shorts; 0 where there is none
    gauge: Array  # (V, A) notional that a further 1% against it would liquidate, over the depth for 1%; 0 where it is not measured
    reference_variance: Array  # (A,) per step
    steps_per_year: Array  # ()


def respond(level: Array, at: Array, slope: Array, floor: Array, ceiling: Array) -> Array:
    """`clip((level / at)^-slope, floor, ceiling)`: the factor is 1 where the level is `at`, and falls by `slope` percent for each percent above.

    With a ceiling of 1 nothing happens below `at`. Continuous in everything, and its derivatives are finite: a level of 0 counts as a tiny one.
    Shapes broadcast by scalars; `level` >= 0, `at` > 0, `slope` >= 0, 0 < floor <= 1 <= ceiling.
    """
    tiny = jnp.asarray(jnp.finfo(level.dtype).tiny, level.dtype)
    x = jnp.maximum(level, tiny**0.25)
    # bounded before the power is taken: far below `at` it overflows, and so would its derivative
    return jnp.clip(jnp.exp(jnp.minimum(-slope * (jnp.log(x) - jnp.log(at)), jnp.log(ceiling))), floor, ceiling)
