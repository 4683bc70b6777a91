"""How much of an under-margined account a pool closes: the liquidation rules."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.margin import tier_line
from stresslev.engine.requirement import SizeScale, size_line

# Each pass of the exact solve leaves at least one tier behind; real schedules need two or three, a smooth requirement some more.
_MAX_PASSES = 64
#: Roundings by which a position may stand above a tier's floor and still lie on it.
_ON_FLOOR = 1024


def restore_fraction(
    equity: Array,
    notionals: tuple[Array, ...],
    floor: Array,
    step: Array,
    multiplier: tuple[Array, ...],
    fee: Array,
    target_health: Array,
    size: tuple[tuple[Array, ...], tuple[Array, ...], SizeScale] | None = None,
) -> Array:
    """Smallest share of all positions to close so that health is back at the target, in [0, 1].

    Solves `E - fee phi N = H* sum_a mu_a M_a((1 - phi) n_a)` exactly: the requirement is convex in what is kept, so
    tangents taken from the right find the root, in finitely many passes where it is piecewise linear. For one position inside one tier this is
    `shortage / (P (H* mmr - fee))`, the form of Drift's `calculate_base_asset_amount_to_cover_margin_shortage`. An account that cannot pay the
    fees of closing is closed in full.

    Args:
      equity, notionals: (...) USD; the account must be below the target when nothing is closed.
      floor, step: (..., A, K) tier schedules; multiplier: A arrays; fee, target_health: broadcast against `equity`.
      size: quantities, unit prices and scale of a requirement that grows with size, on top of the tiers; None without.
    """
    solve = _Kept(floor, step, multiplier, fee, target_health, size)
    return 1 - _largest_kept(equity, notionals, solve)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Kept:
    """Solves for the share kept along one tangent of the requirement; arguments of `restore_fraction`."""

    floor: Array
    step: Array
    multiplier: tuple[Array, ...]
    fee: Array
    target_health: Array
    size: tuple[tuple[Array, ...], tuple[Array, ...], SizeScale] | None

    def line(self, kept: Array, notionals: tuple[Array, ...], gross: Array) -> tuple[Array, Array]:
        """Slope and intercept, in `kept`, of required margin times target less the fees saved."""
        slope, deduction = -self.fee * gross, jnp.zeros_like(gross)
        grown = None if self.size is None else size_line(kept, *self.size)
        for a, n in enumerate(notionals):
            rate, less = tier_line(kept * n, self.floor[..., a, :], self.step[..., a, :])
            rise, cut = rate * n, less
            if grown is not None:
                rise, cut = rise + grown[0][a], cut + grown[1][a]
            slope = slope + self.target_health * self.multiplier[a] * rise
            deduction = deduction + self.target_health * self.multiplier[a] * cut
        return slope, deduction

    def along(self, slope: Array, deduction: Array, equity: Array, gross: Array) -> Array:
        """Share kept where the budget meets that line, in [0, 1]."""
        budget = equity - self.fee * gross
        kept = (budget + deduction) / jnp.where(slope > 0, slope, jnp.ones_like(slope))
        return jnp.where((budget >= 0) & (slope > 0), jnp.clip(kept, 0, 1), jnp.zeros_like(kept))


@jax.custom_jvp
def _largest_kept(equity: Array, notionals: tuple[Array, ...], solve: _Kept) -> Array:
    """The largest share of all positions that can be kept."""
    gross = sum(notionals[1:], notionals[0])
    close_enough = 4 * jnp.finfo(gross.dtype).eps

    def body(carry):
        kept, deduction, _, passes = carry
        slope, new_deduction = solve.line(kept, notionals, gross)
        moved = jnp.any(jnp.abs(new_deduction - deduction) > (0 if solve.size is None else close_enough) * jnp.abs(new_deduction))
        return solve.along(slope, new_deduction, equity, gross), new_deduction, moved, passes + 1

    slope, deduction = solve.line(jnp.ones_like(gross), notionals, gross)
    start = (solve.along(slope, deduction, equity, gross), deduction, jnp.array(True), jnp.int32(0))
    return jax.lax.while_loop(lambda c: c[2] & (c[3] < _MAX_PASSES), body, start)[0]


@_largest_kept.defjvp
def _largest_kept_jvp(primals, tangents):
    """One more tangent, at the solution: that it does not move with where it is taken makes its derivative the solution's own (Newton's method
    and the implicit function theorem), and no loop has to be gone through backwards."""
    found = _largest_kept(*primals)

    def once_more(equity, notionals, solve):
        gross = sum(notionals[1:], notionals[0])
        return solve.along(*solve.line(found, notionals, gross), equity, gross)

    return found, jax.jvp(once_more, primals, tangents)[1]


def step_fraction(notionals: tuple[Array, ...], floor: Array) -> Array:
    """Share of all positions to close so that one of them comes down to the floor of the tier it lies in; 1 when all lie in their first.

    The tier-by-tier reduction of the venues' risk limits (Bybit, "Liquidation process": a position is first brought down to a lower risk limit),
    for an account whose positions shrink together: the smallest share that takes some position down a tier. A position that was brought down to a
    floor lies in the tier below, whatever rounding left of it above.

    Args: notionals (...) USD; floor (..., A, K) USD.
    """
    least = jnp.ones_like(notionals[0])
    for a, n in enumerate(notionals):
        below = jnp.zeros_like(n)
        for k in range(floor.shape[-1]):
            here = floor[..., a, k]
            below = jnp.where(n > here * (1 + _ON_FLOOR * jnp.finfo(n.dtype).eps), jnp.maximum(below, here), below)
        inside = below > 0
        least = jnp.minimum(least, jnp.where(inside, 1 - below / jnp.where(inside, n, jnp.ones_like(n)), jnp.ones_like(n)))
    return least


def auction_discount(start: Array, growth: Array, most: Array, age: Array) -> Array:
    """Discount after `age` steps of waiting, a fraction of notional: `min(most, start + growth age)`; a Dutch auction where `start` is negative."""
    return jnp.minimum(most, start + growth * age.astype(start.dtype))
