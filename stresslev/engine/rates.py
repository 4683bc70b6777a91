"""Interest of lending pools: a rate that bends upwards with utilisation, compounded in indices so that accounts which sleep are not touched.

A debt of b coins taken at index I0 is `b I1 / I0` at index I1, a deposit likewise with the supply index. The state keeps what the indices have
grown beyond one: the interest of a minute, some 1e-7, would be lost beside the one in single precision.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RateCurve:
    """Borrowing rate by utilisation, per year. V pools, A assets. All traced."""

    optimal: Array  # (V, A) utilisation at the kink, in [0, 1]
    base: Array  # (V, A) rate at no utilisation
    slope1: Array  # (V, A) rise of the rate from no utilisation to the kink
    slope2: Array  # (V, A) rise of the rate from the kink to full utilisation


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RateRules:
    """What lending pools charge and keep. Traced."""

    curve: RateCurve
    reserve_factor: Array  # (V, A) share of the interest that goes to the pool's reserves, in [0, 1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RateState:
    """Growth of the indices since the start, and what the pools have kept. Traced."""

    borrow_growth: Array  # (V, A) borrow index less one
    supply_growth: Array  # (V, A) supply index less one
    reserves: Array  # (V, A) coins; they belong to the pool and earn nothing

    @property
    def borrow_index(self) -> Array:
        """(V, A) coins owed per coin borrowed at the start."""
        return 1 + self.borrow_growth

    @property
    def supply_index(self) -> Array:
        """(V, A) coins held per coin deposited at the start."""
        return 1 + self.supply_growth


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interest:
    """The interest of one step: `charged = to_suppliers + to_reserves`."""

    utilisation: Array  # (V, A)
    borrow_rate: Array  # (V, A) per year, compounded continuously
    supply_rate: Array  # (V, A) per year, before compounding within the step
    charged: Array  # (V, A) coins by which debts have grown
    to_suppliers: Array  # (V, A) coins by which deposits have grown
    to_reserves: Array  # (V, A) coins


def per_unit_curve(kink: Array, base: Array, slope_low: Array, slope_high: Array) -> RateCurve:
    """The curve of a venue that states its slopes per unit of utilisation, as Compound III does (Comet `getBorrowRate`)."""
    return RateCurve(optimal=kink, base=base, slope1=slope_low * kink, slope2=slope_high * (1 - kink))


def initial(rules: RateRules, reserves: Array | None = None) -> RateState:
    """Indices at one; `reserves` (V, A) coins, none when not given."""
    zero = jnp.zeros_like(rules.reserve_factor)
    return RateState(borrow_growth=zero, supply_growth=zero, reserves=zero if reserves is None else reserves)


def utilisation(cash: Array, borrowed: Array) -> Array:
    """`borrowed / (cash + borrowed)` in [0, 1]; 0 where nothing is borrowed, 1 where the cash has gone. Any shape, coins."""
    lent = borrowed > 0
    whole = jnp.maximum(cash, 0) + borrowed
    return jnp.where(lent, borrowed / jnp.where(lent, whole, 1), 0)


def borrow_rate(utilisation: Array, curve: RateCurve) -> Array:
    """(V, A) rate per year (Aave v3, `DefaultReserveInterestRateStrategy`).

    `base + u / optimal slope1` up to the kink, `base + slope1 + (u - optimal) / (1 - optimal) slope2` above it. A kink at 1 has no upper part, one
    at 0 no lower part: there the rate is `base` at no utilisation and leaves from `base + slope1` at any other.
    """
    optimal = curve.optimal
    lower = utilisation / jnp.where(optimal > 0, optimal, 1)
    upper = (utilisation - optimal) / jnp.where(optimal < 1, 1 - optimal, 1)
    return curve.base + jnp.where(utilisation > optimal, curve.slope1 + upper * curve.slope2, lower * curve.slope1)


def accrue(rules: RateRules, state: RateState, cash: Array, borrowed: Array, supplied: Array, years_per_step: Array) -> tuple[RateState, Interest]:
    """One step of interest, at the utilisation before it.

    `cash`, `borrowed`, `supplied` (V, A) coins, >= 0, the last two with the interest of earlier steps; `years_per_step` () years.
    Debts grow by `exp(rate years) - 1` (Aave compounds by the second, which comes to the same). The reserve factor of that goes to the reserves and
    the rest to the depositors pro rata; all of it to the reserves where there are no depositors.
    """
    used = utilisation(cash, borrowed)
    rate = borrow_rate(used, rules.curve)
    growth = jnp.expm1(rate * years_per_step)
    charged = borrowed * growth
    has_suppliers = supplied > 0
    share = jnp.where(has_suppliers, 1 - rules.reserve_factor, 0)
    per_coin = share / jnp.where(has_suppliers, supplied, 1)
    to_suppliers = share * charged
    to_reserves = charged - to_suppliers
    after = RateState(
        borrow_growth=state.borrow_growth + state.borrow_index * growth,
        supply_growth=state.supply_growth + state.supply_index * (per_coin * charged),
        reserves=state.reserves + to_reserves,
    )
    interest = Interest(
        utilisation=used,
        borrow_rate=rate,
        supply_rate=per_coin * borrowed * rate,
        charged=charged,
        to_suppliers=to_suppliers,
        to_reserves=to_reserves,
    )
    return after, interest
