"""How much of an under-margined account a pool closes: the liquidation rules."""

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.margin import tier_line
from stresslev.engine.requirement import SizeScale, size_line

# Each pass of the exact solve leaves at least one tier behind; real schedules need two or three, a smooth requirement some more.
_MAX_PASSES = 64


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
    gross = sum(notionals[1:], notionals[0])
    budget = equity - fee * gross
    close_enough = 4 * jnp.finfo(gross.dtype).eps

    def line(kept):
        """Slope and intercept, in `kept`, of required margin times target less the fees saved."""
        slope, deduction = -fee * gross, jnp.zeros_like(gross)
        grown = None if size is None else size_line(kept, *size)
        for a, n in enumerate(notionals):
            rate, less = tier_line(kept * n, floor[..., a, :], step[..., a, :])
            rise, cut = rate * n, less
            if grown is not None:
                rise, cut = rise + grown[0][a], cut + grown[1][a]
            slope = slope + target_health * multiplier[a] * rise
            deduction = deduction + target_health * multiplier[a] * cut
        return slope, deduction

    def solve(slope, deduction):
        kept = (budget + deduction) / jnp.where(slope > 0, slope, jnp.ones_like(slope))
        return jnp.where((budget >= 0) & (slope > 0), jnp.clip(kept, 0, 1), jnp.zeros_like(kept))

    def body(carry):
        kept, deduction, _, passes = carry
        slope, new_deduction = line(kept)
        moved = jnp.any(jnp.abs(new_deduction - deduction) > (0 if size is None else close_enough) * jnp.abs(new_deduction))
        return solve(slope, new_deduction), new_deduction, moved, passes + 1

    slope, deduction = line(jnp.ones_like(gross))
    start = (solve(slope, deduction), deduction, jnp.array(True), jnp.int32(0))
    kept = jax.lax.while_loop(lambda c: c[2] & (c[3] < _MAX_PASSES), body, start)[0]
    return 1 - kept


def step_fraction(notionals: tuple[Array, ...], floor: Array) -> Array:
    """Share of all positions to close so that one of them comes down to the floor of the tier it lies in; 1 when all lie in their first.

    The tier-by-tier reduction of the venues' risk limits (Bybit, "Liquidation process": a position is first brought down to a lower risk limit),
    for an account whose positions shrink together: the smallest share that takes some position down a tier.

    Args: notionals (...) USD; floor (..., A, K) USD.
    """
    least = jnp.ones_like(notionals[0])
    for a, n in enumerate(notionals):
        below = jnp.zeros_like(n)
        for k in range(floor.shape[-1]):
            here = floor[..., a, k]
            below = jnp.where(n > here, jnp.maximum(below, here), below)
        inside = below > 0
        least = jnp.minimum(least, jnp.where(inside, 1 - below / jnp.where(inside, n, jnp.ones_like(n)), jnp.ones_like(n)))
    return least


def auction_discount(start: Array, growth: Array, most: Array, age: Array) -> Array:
    """Discount after `age` steps of waiting, a fraction of notional: `min(most, start + growth age)`; a Dutch auction where `start` is negative."""
    return jnp.minimum(most, start + growth * age.astype(start.dtype))
