"""Portfolio margin: requirements of a whole portfolio, with offsets between its positions.

The exposure of an account is a tuple of A arrays of any one shape (in the engine (blocks, B)): the signed USD delta `q_a P_a` in each asset.
Parameters carry their own axes last and broadcast before them: shocks (S, A) or, indexed by the blocks' pools, (blocks, 1, S, A).

Every requirement here but the concentration add-on is **positively homogeneous of degree 1**: a portfolio of which the share kappa is kept needs
kappa times the margin. The share to close is therefore a closed form, `restore_fraction_homogeneous`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtri

#: Codes of `PortfolioMargin.form`.
SCAN = 0
SINGLE = 1
NET_CORRELATION = 2
COVARIANCE = 3
EXPECTED_SHORTFALL = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PortfolioMargin:
    """The portfolio margin rules of V pools; S scenarios, A assets. All traced; a form reads only the fields named with it.

    The requirement is `multiplier * max(form, floor_rate * gross)`.
    """

    form: Array  # (V,) int32: SCAN, SINGLE, NET_CORRELATION, COVARIANCE or EXPECTED_SHORTFALL
    shocks: Array  # (V, S, A) relative price moves [scan, single, net correlation]; pad with rows of zeros
    weights: Array  # (V, S) share of a scenario's loss that counts, >= 0 [scan, single, net correlation]
    correlation: Array  # (V, A, A) of signed asset risks, positive semi-definite, unit diagonal [net correlation]
    covariance: Array  # (V, A, A) of relative price moves over the margin period, positive semi-definite [covariance, expected shortfall]
    deviations: Array  # (V,) standard deviations covered [covariance]
    level: Array  # (V,) confidence, in (0, 1) for every pool [expected shortfall]
    floor_rate: Array  # (V,) of gross notional, least requirement before the multiplier
    multiplier: Array  # (V,) of the whole; a half turns Paradex' initial into its maintenance margin


def by_block(rules: PortfolioMargin, block_pool: Array) -> PortfolioMargin:
    """The rules of each block's pool: leaves (V, ...) become (blocks, 1, ...), the unit axis standing for the accounts of a block."""
    return jax.tree.map(lambda x: x[block_pool][:, None], rules)


def dollar_exposure(quantity: tuple[Array, ...], price: tuple[Array, ...]) -> tuple[Array, ...]:
    """Signed USD delta `q_a P_a` per asset."""
    return tuple(q * p for q, p in zip(quantity, price, strict=True))


def grid(moves: Array, weights: Array, assets: int, mode: str) -> tuple[Array, Array]:
    """Scenarios for `scan`: every asset by the same move ("parallel"), or one asset at a time and the others still ("single").

    The per-asset scans are the same on both grids. Without offsets the requirement is their sum (`SINGLE`), with offsets by correlation it is
    `net_correlation` of them; `scan` on the "single" grid is the worst single-asset scenario.

    Args: relative price moves (S,) and the shares of the loss that count (S,); `assets` and `mode` are static.

    Returns: shocks and weights: (S, A) and (S,), or (A S, A) and (A S,).

    Raises: ValueError for another mode.
    """
    if mode == "parallel":
        return jnp.broadcast_to(moves[:, None], (moves.shape[0], assets)), weights
    if mode == "single":
        one_at_a_time = jnp.eye(assets, dtype=moves.dtype)[:, None, :] * moves[None, :, None]
        return one_at_a_time.reshape(-1, assets), jnp.tile(weights, assets)
    raise ValueError(f"a scenario grid is 'parallel' or 'single', not {mode!r}")


def scan(exposure: tuple[Array, ...], shocks: Array, weights: Array) -> Array:
    """Largest weighted scenario loss, USD, at least zero: `max_s w_s max(0, -sum_a x_a shock_sa)`.

    The scenario scan of SPAN (CME, 1988) and of the venues' portfolio margin (Paradex documentation, SCAN risk), for positions of delta one.

    Args: `shocks` (..., S, A) relative price moves, `weights` (..., S).
    """
    worst = jnp.zeros_like(exposure[0])
    # unrolled, so that the losses of S scenarios are never held at once
    for s in range(shocks.shape[-2]):
        gain = jnp.zeros_like(exposure[0])
        for a, x in enumerate(exposure):
            gain = gain + x * shocks[..., s, a]
        worst = jnp.maximum(worst, -weights[..., s] * gain)
    return worst


def asset_scans(exposure: tuple[Array, ...], shocks: Array, weights: Array) -> tuple[Array, ...]:
    """The scan of each asset by itself, USD >= 0 per asset; their sum is the requirement without offsets."""
    return tuple(scan((x,), shocks[..., a : a + 1], weights) for a, x in enumerate(exposure))


def _quadratic_root(x: tuple[Array, ...], matrix: Array) -> Array:
    """`sqrt(x' M x)` for positive semi-definite M (..., A, A), zero with derivative zero where rounding or x leaves nothing."""
    total = jnp.zeros_like(x[0])
    for a, left in enumerate(x):
        row = jnp.zeros_like(left)
        for b, right in enumerate(x):
            row = row + matrix[..., a, b] * right
        total = total + left * row
    positive = total > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, jnp.ones_like(total))), jnp.zeros_like(total))


def net_correlation(risks: tuple[Array, ...], correlation: Array) -> Array:
    """Net risk `sqrt(r' C r)` of signed per-asset risks, USD: the aggregation of variance-covariance margin and of ISDA SIMM's delta margin.

    The signed risk is `sign(x_a) scan_a`. Uncorrelated risks add as the root of the sum of squares; with correlation 1 everywhere the result is
    |sum_a r_a|, a full offset; it never exceeds the sum of |r_a|. What is left of risks that cancel is known to about the square root of the
    precision times the gross risk (3e-4 of it in float32).

    Args: risks per asset; `correlation` (..., A, A).
    """
    return _quadratic_root(risks, correlation)


def covariance(exposure: tuple[Array, ...], cov: Array, z: Array) -> Array:
    """`z sqrt(x' S x)`, USD: z standard deviations of the portfolio's value (Markowitz, 1952). Subadditive. Accuracy as in `net_correlation`.

    Args: `cov` (..., A, A) of relative price moves over the margin period; `z` broadcasts against the exposure.
    """
    return z * _quadratic_root(exposure, cov)


def shortfall_multiplier(level: Array) -> Array:
    """Expected shortfall of a standard normal loss, `pdf(z) / (1 - level)` with z its quantile (Acerbi and Tasche, 2002). `level` in (0, 1)."""
    z = ndtri(level)
    return jnp.exp(-z * z / 2) / (jnp.sqrt(jnp.asarray(2 * jnp.pi, z.dtype)) * (1 - level))


def expected_shortfall(exposure: tuple[Array, ...], cov: Array, level: Array) -> Array:
    """Mean loss beyond the quantile `level` for jointly normal moves without drift, USD; arguments as in `covariance`."""
    return covariance(exposure, cov, shortfall_multiplier(level))


def historical_expected_shortfall(exposure: tuple[Array, ...], scenarios: Array, tail: int) -> Array:
    """Mean of the `tail` worst scenario losses, USD, at least zero.

    Keeps the `tail` worst losses so far and goes through the scenarios once: memory is that of `tail` arrays like one exposure. Derivatives in
    reverse mode hold as much for every scenario.

    Args: `scenarios` (..., S, A) relative price moves; `tail` static, from 1 to S.

    Raises: ValueError when there are fewer scenarios than `tail`.
    """
    count = scenarios.shape[-2]
    if not 1 <= tail <= count:
        raise ValueError(f"a tail of {tail} scenarios out of {count}")

    def body(worst, moves):
        loss = jnp.zeros_like(exposure[0])
        for a, x in enumerate(exposure):
            loss = loss - x * moves[..., a]
        sorted_in = []
        for held in worst:
            sorted_in.append(jnp.maximum(held, loss))
            loss = jnp.minimum(held, loss)
        return tuple(sorted_in), None

    none_yet = jnp.full_like(exposure[0], -jnp.inf)
    worst, _ = lax.scan(body, (none_yet,) * tail, jnp.moveaxis(scenarios, -2, 0))
    return jnp.maximum(sum(worst[1:], worst[0]) / tail, 0)


def floored(mm: Array, gross: Array, floor_rate: Array) -> Array:
    """Requirement that is never below `floor_rate` of gross notional, USD."""
    return jnp.maximum(mm, floor_rate * gross)


def concentration(notionals: tuple[Array, ...], depth: tuple[Array, ...], threshold: Array, rate: Array) -> Array:
    """Add-on for positions that are large for their market, USD: `sum_a rate max(0, n_a - threshold depth_a)`.

    Not homogeneous: a smaller portfolio needs less than its share. It is a tier of the asset, with floor `threshold depth_a` and step `rate`, and
    can be closed as one by `liquidation.restore_fraction`.

    Args: USD per asset; `threshold` as a multiple of depth and `rate` as a fraction of the notional beyond it, both broadcast.
    """
    total = jnp.zeros_like(notionals[0])
    for n, d in zip(notionals, depth, strict=True):
        total = total + rate * jnp.maximum(n - threshold * d, 0)
    return total


def requirement(exposure: tuple[Array, ...], gross: Array, rules: PortfolioMargin) -> Array:
    """Portfolio margin under each pool's own form, USD: `multiplier * max(form, floor_rate * gross)`.

    A form that no pool uses is not computed (under `vmap` all are).

    Args:
      exposure: signed USD delta per asset; gross: USD notional, of the exposures' shape.
      rules: leaves broadcast against the exposure before their own axes; from `by_block` for a population.

    Returns: USD, of the exposures' shape; not a number for a form that does not exist, so that it shows.
    """
    form = rules.form

    def scanned():
        return scan(exposure, rules.shocks, rules.weights)

    def by_asset():
        scans = asset_scans(exposure, rules.shocks, rules.weights)
        signed = tuple(jnp.sign(x) * r for x, r in zip(exposure, scans, strict=True))
        return jnp.where(form == SINGLE, sum(scans[1:], scans[0]), net_correlation(signed, rules.correlation))

    def elliptical():
        z = jnp.where(form == COVARIANCE, rules.deviations, shortfall_multiplier(rules.level))
        return covariance(exposure, rules.covariance, z)

    total = jnp.full_like(gross, jnp.nan)
    for codes, compute in (((SCAN,), scanned), ((SINGLE, NET_CORRELATION), by_asset), ((COVARIANCE, EXPECTED_SHORTFALL), elliptical)):
        chosen = (form == codes[0]) | (form == codes[-1])
        total = jnp.where(chosen, lax.cond(jnp.any(chosen), compute, lambda: jnp.zeros_like(gross)), total)
    return rules.multiplier * floored(total, gross, rules.floor_rate)


def restore_fraction_homogeneous(equity: Array, margin: Array, gross: Array, fee: Array, target_health: Array) -> Array:
    """Smallest share of all positions to close so that health is back at the target, in [0, 1], for a requirement homogeneous of degree 1.

    Solves `E - fee phi N = H* (1 - phi) MM`: the kept share is `(E - fee N) / (H* MM - fee N)`. As in `liquidation.restore_fraction`, an account that
    cannot pay the fees of closing is closed in full, and so is one whose closing frees less margin than it costs.

    Args: USD, of one shape: equity, present requirement, gross notional; `fee` a fraction of the notional closed; `target_health` > 1.
    """
    budget = equity - fee * gross
    slope = target_health * margin - fee * gross
    freed = slope > 0
    kept = budget / jnp.where(freed, slope, jnp.ones_like(slope))
    return 1 - jnp.where((budget >= 0) & freed, jnp.clip(kept, 0, 1), jnp.zeros_like(kept))
