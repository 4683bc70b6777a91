"""How a net flow moves an asset's log price: power law, exponential, linear in the price level, or a constant-product pool."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

#: Log-price move that a net flow of one depth makes in the POWER form.
REFERENCE_MOVE = 0.01

#: Forms of impact, the codes of `ImpactRules.form`.
POWER, EXPONENTIAL, PRICE_LINEAR, CONSTANT_PRODUCT = range(4)

#: Least share of its opening price that PRICE_LINEAR leaves within a step: about one in a million, a power of two so that float32 holds `1 - it`.
LEAST_SHARE = 2.0**-20

#: Largest share of a pool's coin reserve that can be bought from it within a step; beyond it the price stays at 10,000 times its opening.
MOST_BOUGHT = 0.99


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImpactRules:
    """One form of impact per asset. All traced; an asset may leave what its form does not read at any finite value."""

    form: Array  # (A,) int32: POWER, EXPONENTIAL, PRICE_LINEAR or CONSTANT_PRODUCT
    depth: Array  # (A,) USD of net flow that moves the log price by `REFERENCE_MOVE`, > 0; POWER, and whatever the form the books of venues
    exponent: Array  # (A,) in (0, 2]: 1 linear, 0.5 square root; as depth
    scale: Array  # (A,) move made by a net flow of `quantity` coins: of the log price (EXPONENTIAL), of price over reference (PRICE_LINEAR)
    quantity: Array  # (A,) coins, > 0: initial total (EXPONENTIAL, PRICE_LINEAR), the pool's reserve at the reference price (CONSTANT_PRODUCT)


def _signed_power(z: Array, exponent: Array) -> Array:
    """`sgn(z) |z|^exponent`, with the derivative at zero taken as 1."""
    zero = z == 0
    return jnp.where(zero, z, jnp.sign(z) * jnp.power(jnp.where(zero, jnp.ones_like(z), jnp.abs(z)), exponent))


def power_move(before: Array, after: Array, depth: Array, exponent: Array) -> Array:
    """Log-price move as the cumulative net flow goes from `before` to `after`: `I(after) - I(before)`, `I(V) = 0.01 sgn(V) (|V| / D)^delta`.

    Linear at `exponent` 1 (Kyle 1985), square root at 0.5 (Bouchaud, Farmer and Lillo 2009). Flows and `depth` (USD) broadcast; buys are positive.
    At a flow of exactly zero the derivative is infinite for exponents below 1; there, that of the linear form is given, `0.01 / D`.
    """
    return REFERENCE_MOVE * (_signed_power(after / depth, exponent) - _signed_power(before / depth, exponent))


def move(
    rules: ImpactRules, *, thinning: Array, opening: Array, usd_before: Array, usd_after: Array, coins_before: Array, coins_after: Array
) -> Array:
    """Log-price move of one round, (A,). Every form depends on the step's cumulative flow only, so it does not matter how a step is cut into rounds.

    - POWER: see `power_move`.
    - EXPONENTIAL: `scale * coins / quantity` (Cifuentes, Ferrucci and Shin 2005, inverse demand `p = exp(-alpha sold)`).
    - PRICE_LINEAR: price over reference moves by `scale * coins / quantity`; within a step it keeps at least `LEAST_SHARE` of its opening.
    - CONSTANT_PRODUCT: a pool whose coin reserve at the opening is `R = quantity * exp(-opening / 2)`, as if arbitrage had brought it to the market
      price between steps (`R_x = L / sqrt(P)`); selling y coins to it since then moves the price by `(R / (R + y))^2`. Pool fees are left out.
      A net buy counts up to the share `MOST_BOUGHT` of R.

    Args:
      rules: per asset.
      thinning: (A,) in (0, 1], multiplies depth and quantity, whatever the form: a thinner market moves more.
      opening: (A,) log of price over reference price at the opening of the step.
      usd_before, usd_after: (A,) USD, cumulative net flow of the step before and after the round; buys are positive.
      coins_before, coins_after: (A,) the same in coins.
    """
    by_flow = rules.form == POWER
    one = jnp.ones_like(rules.depth)
    # what a form does not read is replaced, so that no value of it can reach the result or its derivative
    depth = jnp.where(by_flow, thinning * rules.depth, one)
    exponent = jnp.where(by_flow, rules.exponent, one)
    quantity = jnp.where(by_flow, one, thinning * rules.quantity)

    def level(coins: Array) -> Array:
        return jnp.log1p(jnp.maximum(rules.scale * coins / quantity * jnp.exp(-opening), LEAST_SHARE - 1))

    def pool(coins: Array) -> Array:
        return jnp.log1p(jnp.maximum(-coins / quantity * jnp.exp(opening / 2), -MOST_BOUGHT))

    return jnp.select(
        [rules.form == EXPONENTIAL, rules.form == PRICE_LINEAR, rules.form == CONSTANT_PRODUCT],
        [
            rules.scale * (coins_after - coins_before) / quantity,
            level(coins_after) - level(coins_before),
            -2 * (pool(coins_after) - pool(coins_before)),
        ],
        power_move(usd_before, usd_after, depth, exponent),
    )


def average_price(form: Array, before: Array, after: Array) -> Array:
    """Price at which a round is filled, from the prices before and after it (USD; shapes broadcast).

    The geometric mean is exact for CONSTANT_PRODUCT (Angeris and others 2019): `L / sqrt(P1) - L / sqrt(P0)` coins sold fetch
    `L sqrt(P0) - L sqrt(P1)` USD. The other forms fill at the arithmetic mean, as in the fire-sale literature; it is exact for PRICE_LINEAR, and
    for EXPONENTIAL it exceeds the integral over the sale by the share `move^2 / 12`.
    """
    return jnp.where(form == CONSTANT_PRODUCT, jnp.sqrt(before) * jnp.sqrt(after), (before + after) / 2)


def cont_schaanning_depth(*, adv: float, volatility_daily: float, horizon_days: float, c: float) -> float:
    """`ImpactRules.depth` from traded volume, USD per 1% move. Host-side.

    Cont and Schaanning (2017): depth over a horizon is `D = c ADV sqrt(tau) / sigma`, a flow V moving the price by the share `V / D`; a move of 1%
    takes the hundredth part of it.

    Args:
      adv: average daily volume, USD.
      volatility_daily: standard deviation of daily log returns.
      horizon_days: days over which the flow is sold.
      c: dimensionless, calibrated.
    """
    return REFERENCE_MOVE * c * adv * horizon_days**0.5 / volatility_daily
