"""What flows through the engine: frozen dataclasses registered as pytrees. Every field is traced; only shapes are static."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """The venues' rules and the markets. V pools, A assets, K tiers (padded with zero steps). All traced.

    Rates are fractions of notional, money is USD, decay factors and variances are per step.
    """

    reference_price: Array  # (A,) USD per coin at the start of the scenario
    tier_floor: Array  # (V, A, K) USD notional at which a tier begins; the first is 0
    tier_step: Array  # (V, A, K) increase of the maintenance rate at that floor
    restore: Array  # (V,) bool: restore to target health instead of closing in full
    target_health: Array  # (V,) health a restored account is brought back to, > 1
    liquidation_fee: Array  # (V,) of the notional closed, to the insurance fund
    taker_fee: Array  # (V,) of the notional closed, to the venue's treasury
    capacity: Array  # (V,) USD of notional a pool can close per step; inf when not limited
    insurance_fund: Array  # (V,) USD at the start
    depth: Array  # (A,) USD of net flow that moves the log price by `market.REFERENCE_MOVE`
    impact_exponent: Array  # (A,) 1 linear, 0.5 square root
    permanent_share: Array  # (A,) of the impact; the rest is transient
    transient_decay: Array  # (A,) factor per step
    volatility_decay: Array  # (A,) EWMA lambda per step
    reference_variance: Array  # (A,) per step, at which `depth` holds
    depth_volatility_exponent: Array  # (A,) kappa
    depth_floor: Array  # (A,) least share of the depth that volatility leaves


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Policy:
    """The leverage rules; the only thing that tuning will move. Traced."""

    maintenance_multiplier: Array  # (V, A) multiplies the tier requirement


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Path:
    """The exogenous scenario on the time grid, T steps. Traced."""

    log_price: Array  # (T, A) log of the exogenous price over the reference, at the end of each step
    depth_factor: Array  # (T, A)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Accounts:
    """A population of cross-margin accounts, sorted by pool and padded to blocks: nb blocks of B accounts, each block of one pool."""

    equity_at_reference: Array  # (nb, B) USD: equity if every price were at its reference
    quantity: tuple[Array, ...]  # A arrays (nb, B), coins, signed
    liquidated: Array  # (nb, B) bool: some part has been closed by the pool
    block_pool: Array  # (nb,) int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Market:
    """Log prices relative to the reference, split by origin. Traced."""

    fundamental: Array  # (A,)
    permanent: Array  # (A,)
    transient: Array  # (A,)
    opening: Array  # (A,) log price at the opening of the last step
    variance: Array  # (A,) EWMA, per step

    @property
    def log_price(self) -> Array:
        """(A,) log of price over reference price."""
        return self.fundamental + self.permanent + self.transient


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ledger:
    """What the pools hold. Traced."""

    insurance_fund: Array  # (V,) USD
    treasury: Array  # (V,) USD of trading fees since the start
    bad_debt: Array  # (V,) USD, cumulative
    maker_cash: Array  # (V,) USD: makers' equity at reference prices, zero at the start
    maker_quantity: Array  # (V, A) coins
    long_quantity: Array  # (V, A) coins held long by customers
    short_quantity: Array  # (V, A) coins held short by customers, >= 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything a step carries."""

    populations: tuple[Accounts, ...]
    market: Market
    ledger: Ledger
    status: Array  # () int32, bits of `status`


def cast(tree, dtype):
    """The one dtype barrier: every floating leaf of `tree` to `dtype`, other leaves untouched."""

    def leaf(x):
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)
