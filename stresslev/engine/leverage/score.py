"""Risk score of single accounts: what an account's book looks like, the log-odds of its liquidation, and the share of the cap it is left with."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.blocks import over_devices, pool_sum
from stresslev.engine.health import Prices, Rules, assess, columns, rules_for
from stresslev.engine.types import Accounts, System

#: What `features` returns, in this order.
FEATURES = ("leverage", "concentration", "distance", "volatility", "crowding")
#: The sign a weight may have: risk rises in every feature but the distance to liquidation, in which it falls.
SIGNS = (1, 1, -1, 1, 1)

#: Leverage is counted between these; an account without equity stands at the upper one.
LEVERAGE_BOUNDS = (0.01, 1000.0)
#: Daily standard deviations to liquidation, either way, at most.
DISTANCE_BOUND = 1000.0
#: Per year: an asset that never moves counts as one that moves this much.
LEAST_VOLATILITY = 1e-6
_DAYS_PER_YEAR = 365.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RiskScore:
    """A linear score of standardised features: the log-odds that an account is liquidated, and how its cap answers.

    The score of an account is `s = intercept + sum_j weights_j (x_j - mean_j) / scale_j`, its factor
    `floor + (1 - floor) / (1 + exp(steepness (s - midpoint)))`. With floor 0, steepness 1 and midpoint 0 the factor is one minus the probability
    of liquidation. Weights obey `SIGNS`, so that the factor never falls when an account becomes safer in one feature; the calibration sees to it.
    """

    weights: Array  # (5,) per standard deviation; >= 0, that of the distance <= 0
    mean: Array  # (5,) of the features among the accounts it was fitted on
    scale: Array  # (5,) their standard deviations, > 0
    intercept: Array  # () log-odds of an account with average features
    steepness: Array  # () k >= 0
    midpoint: Array  # () log-odds at which the factor is half-way between floor and 1
    floor: Array  # () in (0, 1]: the least factor
    correlation: Array  # () between any two assets' returns, in [0, 1], or (A, A): what the features are to be measured with


def _delta(accounts: Accounts, rules: Rules) -> dict[int, Array]:
    """Signed dollar exposure (nb, B) per asset held: contracts (linear ones) and posted coins, which for an inverse contract contain its face."""
    inverse = rules.inverse or (None,) * len(accounts.quantity)
    held: dict[int, Array] = {}
    for asset, q, p, face in zip(accounts.contract_assets, accounts.quantity, rules.mark, inverse, strict=True):
        held[asset] = q * p if face is None else jnp.where(face, 0, q * p)
    for asset, k, p in zip(accounts.coin_assets, accounts.collateral, rules.coin_mark, strict=True):
        held[asset] = held[asset] + k * p if asset in held else k * p
    return held


def net_exposure(accounts: Accounts, system: System, multiplier: Array, prices: Prices) -> Array:
    """(V, A) USD: signed exposure of all accounts of a population together, by pool. Negative where they are net short.

    Args: as `features`.
    """
    pools, assets = multiplier.shape
    held = _delta(accounts, rules_for(accounts, system, multiplier, prices))
    zero = jnp.zeros((pools,), prices.mark.dtype)
    sums = {a: pool_sum(jnp.sum(z, axis=1), accounts.block_pool, pools) for a, z in held.items()}
    return over_devices(jnp.stack([sums.get(a, zero) for a in range(assets)], axis=1), accounts.axis)


def _pull(weights: Array, correlation: Array) -> Array:
    """`sum_b C_ab w_b` along the last axis of (n, A) weights; a scalar stands for one correlation between any two assets."""
    if correlation.ndim == 0:
        return (1 - correlation) * weights + correlation * jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.sum(correlation[None, :, :] * weights[:, None, :], axis=-1)


def _own_pull(weights: dict[int, Array], correlation: Array) -> dict[int, Array]:
    """The same per asset held, for weights in blocks."""
    if correlation.ndim == 0:
        total = sum(weights.values())
        return {a: (1 - correlation) * w + correlation * total for a, w in weights.items()}
    return {a: sum(correlation[a, b] * w for b, w in weights.items()) for a in weights}


def _deviation(variance: Array, undiversified: Array) -> tuple[Array, Array]:
    """A standard deviation, and whether there is one: a basket hedged down to rounding bears no risk. No division, no root of 0."""
    risky = variance > 64 * jnp.finfo(variance.dtype).eps * undiversified * undiversified
    return jnp.where(risky, jnp.sqrt(jnp.where(risky, variance, jnp.ones_like(variance))), jnp.zeros_like(variance)), risky


def features(
    accounts: Accounts,
    system: System,
    multiplier: Array,
    prices: Prices,
    variance: Array,
    steps_per_year: Array,
    correlation: Array,
    crowd: Array | None = None,
) -> tuple[Array, ...]:
    """What the score looks at, five arrays (nb, B) in the order of `FEATURES`. Pure numbers, finite for every account.

    - leverage: log of gross notional over equity, that ratio within `LEVERAGE_BOUNDS` (its upper end where there is no equity);
    - concentration: Herfindahl index of the notionals, between 1 / assets and 1;
    - distance: inverse hyperbolic sine of `(margin equity - maintenance margin) / gross notional` in daily standard deviations of the account's own
      basket, within `DISTANCE_BOUND` (where the basket bears no risk, at that bound). This is the distance to default of Merton (1974) as Moody's
      KMV measures it (Crosbie and Bohn 2003), with the maintenance margin as the default point and no drift; the sine, linear near 0 and a logarithm
      far from it, keeps accounts that are safe anyway from ruling the scale;
    - volatility: annual standard deviation of the return of the basket (contracts and posted coins) on the gross notional, `sqrt(z' S z) / N`;
    - crowding: correlation, under the same covariance S, between the returns of the account's basket and of what all customers of its pool hold
      together; 0 where either bears no risk.

    An account without positions stands at the safest value of each: the lower bound of leverage, 0, the upper bound of distance, 0, 0.

    Args:
      accounts: a population; `multiplier` (V, A) of its requirements; `prices` it is judged at.
      variance: (A,) of log returns, per step; `steps_per_year` ().
      correlation: () between any two assets, or (A, A).
      crowd: (V, A) USD exposure of the pools' customers; None: `net_exposure` of these accounts.
    """
    rules = rules_for(accounts, system, multiplier, prices)
    health = assess(accounts, rules)
    gross = sum(health.notionals[1:], health.notionals[0])
    holds = gross > 0
    one, zero = jnp.ones_like(gross), jnp.zeros_like(gross)
    per_usd = one / jnp.where(holds, gross, one)

    lowest, highest = LEVERAGE_BOUNDS
    leverage = jnp.where(holds, gross, one) / jnp.maximum(health.equity, jnp.where(holds, gross, one) / highest)
    concentration = sum((n * per_usd) ** 2 for n in health.notionals)

    if crowd is None:
        crowd = net_exposure(accounts, system, multiplier, prices)
    volatility, risky, crowding = _basket(accounts, rules, per_usd, variance * steps_per_year, correlation, crowd)
    buffer = (health.margin_equity - health.required) * per_usd
    daily = jnp.where(risky, volatility / _DAYS_PER_YEAR**0.5, one)
    unreached = jnp.where(buffer >= 0, DISTANCE_BOUND * one, -DISTANCE_BOUND * one)
    distance = jnp.where(risky, jnp.clip(buffer / daily, -DISTANCE_BOUND, DISTANCE_BOUND), unreached)
    farthest = jnp.arcsinh(DISTANCE_BOUND * one)
    return (
        jnp.where(holds, jnp.log(jnp.clip(leverage, lowest, highest)), jnp.log(lowest * one)),
        jnp.where(holds, concentration, zero),
        jnp.where(holds, jnp.arcsinh(distance), farthest),
        jnp.where(holds, volatility, zero),
        jnp.where(holds, crowding, zero),
    )


def _basket(accounts: Accounts, rules: Rules, per_usd: Array, variance: Array, correlation: Array, crowd: Array) -> tuple[Array, Array, Array]:
    """Volatility (nb, B) of each account's basket, whether it has any, and its correlation with the crowd's; `variance` (A,) per year."""
    # the derivative of a root at 0 is infinite
    moves = jnp.sqrt(jnp.maximum(variance, LEAST_VOLATILITY**2))
    own = {a: z * per_usd * moves[a] for a, z in _delta(accounts, rules).items()}
    own_pull = _own_pull(own, correlation)
    volatility, risky = _deviation(sum(w * own_pull[a] for a, w in own.items()), sum(jnp.abs(w) for w in own.values()))

    size = jnp.sum(jnp.abs(crowd), axis=1, keepdims=True)
    all_of_them = crowd / jnp.where(size > 0, size, jnp.ones_like(size)) * moves[None, :]
    pull = _pull(all_of_them, correlation)
    together, moved = _deviation(jnp.sum(all_of_them * pull, axis=1), jnp.sum(jnp.abs(all_of_them), axis=1))
    direction = pull / jnp.where(moved, together, jnp.ones_like(together))[:, None]
    toward = columns(jnp.where(moved[:, None], direction, jnp.zeros_like(direction)), accounts.block_pool, tuple(own))
    shared = sum(w * d for w, d in zip(own.values(), toward, strict=True))
    crowding = jnp.clip(shared / jnp.where(risky, volatility, jnp.ones_like(volatility)), -1, 1)
    return volatility, risky, jnp.where(risky, crowding, jnp.zeros_like(crowding))


def log_odds(score: RiskScore, found: tuple[Array, ...]) -> Array:
    """The score `s` of accounts: log-odds of liquidation (logistic regression; Cox 1958). Features and result are of one shape."""
    s = jnp.broadcast_to(score.intercept, found[0].shape)
    for j, x in enumerate(found):
        s = s + score.weights[j] * (x - score.mean[j]) / score.scale[j]
    return s


def account_factor(score: RiskScore, found: tuple[Array, ...]) -> Array:
    """The share of its cap that each account keeps: `floor + (1 - floor) / (1 + exp(k (s - s0)))`, in [floor, 1].

    Args: `found` as `features` gives them, five arrays (nb, B); result (nb, B).
    """
    return score.floor + (1 - score.floor) * jax.nn.sigmoid(-score.steepness * (log_odds(score, found) - score.midpoint))
