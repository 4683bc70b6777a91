"""How much of an under-margined account a pool closes: the liquidation rules."""

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.margin import tier_line

# Each pass of the exact solve leaves at least one tier behind; real schedules need two or three.
_MAX_PASSES = 64


def restore_fraction(
    equity: Array,
    notionals: tuple[Array, ...],
    floor: Array,
    step: Array,
    multiplier: tuple[Array, ...],
    fee: Array,
    target_health: Array,
) -> Array:
    """Smallest share of all positions to close so that health is back at the target, in [0, 1].

    Solves `E - fee phi N = H* sum_a mu_a M_a((1 - phi) n_a)` exactly: the requirement is convex and piecewise linear in what is kept, so
    tangents taken from the right find the root in finitely many passes. For one position inside one tier this is
    `shortage / (P (H* mmr - fee))`, the form of Drift's `calculate_base_asset_amount_to_cover_margin_shortage`. An account that cannot pay the
    fees of closing is closed in full.

    Args:
      equity, notionals: (...) USD; the account must be below the target when nothing is closed.
      floor, step: (..., A, K) tier schedules; multiplier: A arrays; fee, target_health: broadcast against `equity`.
    """
    gross = sum(notionals[1:], notionals[0])
    budget = equity - fee * gross

    def line(kept):
        """Slope and intercept, in `kept`, of required margin times target less the fees saved."""
        slope, deduction = -fee * gross, jnp.zeros_like(gross)
        for a, n in enumerate(notionals):
            rate, less = tier_line(kept * n, floor[..., a, :], step[..., a, :])
            slope = slope + target_health * multiplier[a] * rate * n
            deduction = deduction + target_health * multiplier[a] * less
        return slope, deduction

    def solve(slope, deduction):
        kept = (budget + deduction) / jnp.where(slope > 0, slope, jnp.ones_like(slope))
        return jnp.where((budget >= 0) & (slope > 0), jnp.clip(kept, 0, 1), jnp.zeros_like(kept))

    def body(carry):
        kept, deduction, _, passes = carry
        slope, new_deduction = line(kept)
        moved = jnp.any(new_deduction != deduction)
        return solve(slope, new_deduction), new_deduction, moved, passes + 1

    slope, deduction = line(jnp.ones_like(gross))
    start = (solve(slope, deduction), deduction, jnp.array(True), jnp.int32(0))
    kept = jax.lax.while_loop(lambda c: c[2] & (c[3] < _MAX_PASSES), body, start)[0]
    return 1 - kept


def close_fraction(
    equity: Array,
    margin: Array,
    notionals: tuple[Array, ...],
    floor: Array,
    step: Array,
    multiplier: tuple[Array, ...],
    restore: Array,
    fee: Array,
    target_health: Array,
) -> Array:
    """Share of every position the pool's rule asks to close now: 0 above margin, else 1 (full) or the restoring share."""
    triggered = ~(equity >= margin)  # a NaN triggers, and shows in the sums

    def partial():
        return restore_fraction(equity, notionals, floor, step, multiplier, fee, target_health)

    share = jax.lax.cond(jnp.any(restore), partial, lambda: jnp.ones_like(equity))
    return jnp.where(triggered, jnp.where(restore, share, jnp.ones_like(share)), jnp.zeros_like(share))
