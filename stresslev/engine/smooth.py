"""Smoothed liquidation thresholds: an account stands for many whose thresholds differ a little, so that what happens to it has a derivative.

What is liquidated is an integral over accounts up to a moving threshold; differentiating the hard program misses the boundary of that integral
(docs/model.md, section 18). Here every account is spread over a band of thresholds, `health = 1 + u` with u of a compact, symmetric density of half
width `width`: of the part of an account that nothing has happened to yet, what lies below its health is hit. Because a part once hit stays hit, what
is hit by a time is a function of the lowest health so far, however many steps were spent in the band: the derivative enters once, at the worst
moment, and does not multiply through time. What was hit is kept apart until the account is hit as a whole, and then begins anew.

Nothing here is a result: reported figures come from the hard rules. The derivative of this engine is the estimator of theirs.

Populations here are `Accounts` or `Loans`; their `holdings` are what they own and owe, cash first.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

#: Share of an account below which what is left untouched is hit too.
_CRUMB = 1e-6
#: Roundings, of what an account held, that are no holding.
_ROUNDINGS = 64
#: Least width of an account that begins close to its threshold, as a share of the usual width.
_NARROWEST = 1 / 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Smoothing:
    """What accounts whose thresholds are smoothed remember; (nb, B) unless said."""

    band: Array  # () half width of the band, in health (equity over maintenance margin)
    width: Array  # the account's own: less where it began closer to its threshold
    untouched: Array  # share that nothing has happened to since the account began
    holdings: tuple[Array, ...]  # `holdings` of the account if nothing had happened to it since


def whole(population):
    """The accounts as they would be if nothing had happened to them since they began; as they are where nothing is smoothed."""
    return population if population.smoothing is None else population.with_holdings(population.smoothing.holdings)


def above(equity: Array, required: Array) -> Array:
    """Health less one, `equity / required - 1`; infinite where nothing is required."""
    # whose square is a number too, for the derivative
    some = required > jnp.sqrt(jnp.finfo(required.dtype).tiny)
    return jnp.where(some, equity / jnp.where(some, required, jnp.ones_like(required)) - 1, jnp.where(equity >= 0, jnp.inf, -jnp.inf))


def passed(x: Array, width: Array) -> Array:
    """Share of thresholds below health `1 + x`: the distribution function of u, a cubic with flat ends."""
    far = jnp.abs(x) >= width
    y = jnp.where(far, jnp.zeros_like(x), x) / jnp.where(width > 0, width, jnp.ones_like(width))
    inner = 0.5 + 0.75 * y - 0.25 * y * y * y
    return jnp.where(far, (x > 0).astype(width.dtype), inner)


def hit(smoothing: Smoothing, x: Array) -> Array:
    """Share of each account that is hit at health `1 + x`; not a number is hit as a whole."""
    stays = jnp.minimum(smoothing.untouched, passed(x, smoothing.width))
    stays = jnp.where(jnp.isnan(x) | (stays < _CRUMB), 0, stays)
    return smoothing.untouched - stays


def own_width(x: Array, band: Array) -> Array:
    """Width of accounts that begin at health `1 + x`: no threshold lies where the account is already below it."""
    return jnp.broadcast_to(jnp.clip(jax.lax.stop_gradient(x), _NARROWEST * band, band), x.shape).astype(band.dtype)


def begun(population, x: Array, band: Array):
    """A population whose thresholds are smoothed from now on, at health `1 + x` (nb, B)."""
    held = population.holdings
    return replace(population, smoothing=Smoothing(band=band, width=own_width(x, band), untouched=jnp.ones_like(held[0]), holdings=held))


def sunk(smoothing: Smoothing, x: Array) -> Array:
    """Whether at health `1 + x` an account of which a part was hit earlier is below all its thresholds, so that the rest is hit as a whole."""
    return (smoothing.untouched < 1) & (x <= -smoothing.width)


def remnant(population):
    """What came of the part of each account that was hit since it began, as an account of its own size; the account itself where nothing was."""
    left, part = population.smoothing.untouched, 1 - population.smoothing.untouched
    some = part > 0
    safe = jnp.where(some, part, jnp.ones_like(part))
    both = zip(population.holdings, population.smoothing.holdings, strict=True)
    return population.with_holdings(tuple(jnp.where(some, (held - left * was) / safe, held) for held, was in both))


def anew(population, x: Array):
    """Accounts that have sunk: those whose `remnant` is under margin too, at health `1 + x`, begin anew with all they hold.

    So both are hit in the same round; in a later one the remnant would meet the prices that the rest has made. A remnant that is above margin, or has
    been closed, must not pay for the rest, and is left alone.
    """
    old, again = population.smoothing, jax.lax.stop_gradient(x) < 0
    return replace(
        population,
        smoothing=Smoothing(
            band=old.band,
            width=jnp.where(again, own_width(x, old.band), old.width),
            untouched=jnp.where(again, 1, old.untouched),
            holdings=tuple(jnp.where(again, held, was) for held, was in zip(population.holdings, old.holdings, strict=True)),
        ),
    )


def parted(some, before, after, part: Array, x_of):
    """`some` accounts after `part` of each has become what `whole(some)`, here `before`, is `after` it was hit.

    Args: `x_of(accounts)` gives health less one: accounts hit as a whole begin anew at theirs.
    """
    old = some.smoothing
    left = old.untouched - part
    gone = (part > 0) & ~(left > 0)

    def sum_of_parts(total, was, new):
        held = total + part * (new - was)
        # of what was taken part by part exactly nothing is left, where the sum leaves a rounding
        nothing = jnp.abs(held) <= _ROUNDINGS * jnp.finfo(held.dtype).eps * (jnp.abs(total) + jnp.abs(was))
        return jnp.where(gone & (old.untouched >= 1), new, jnp.where(gone & nothing, 0, held))

    held = tuple(sum_of_parts(*x) for x in zip(some.holdings, before.holdings, after.holdings, strict=True))
    some = some.with_holdings(held)
    x = jax.lax.stop_gradient(x_of(some))
    return replace(
        some,
        smoothing=Smoothing(
            band=old.band,
            width=jnp.where(gone, own_width(x, old.band), old.width),
            untouched=jnp.where(gone, 1, left),
            holdings=tuple(jnp.where(gone, total, was) for total, was in zip(held, old.holdings, strict=True)),
        ),
    )


def followed(before: tuple, after: tuple) -> tuple:
    """Populations `after` something else than liquidation was done to those `before`: it was done to the untouched part alike.

    Positions change in proportion, and cash with them; where only cash changes, by the same amount for each part.
    """
    return tuple(_follow(p, q) for p, q in zip(before, after, strict=True))


def _follow(before, after):
    if getattr(after, "smoothing", None) is None:
        return after
    (old_cash, *old), (new_cash, *new), (cash, *rest) = before.holdings, after.holdings, after.smoothing.holdings
    moved = jnp.zeros(old_cash.shape, bool)
    scaled, size, size_whole = [], jnp.zeros_like(old_cash), jnp.zeros_like(old_cash)
    for x, y, z in zip(old, new, rest, strict=True):
        some = x != 0
        ratio = jnp.where(some, y / jnp.where(some, x, jnp.ones_like(x)), 1)
        changed = some & (y != x)
        moved |= changed
        scaled.append(z * ratio)
        size, size_whole = size + jnp.where(changed, jnp.abs(x), 0), size_whole + jnp.where(changed, jnp.abs(z), 0)
    more = jnp.where(moved, size_whole / jnp.where(moved, size, jnp.ones_like(size)), 1)
    smoothing = replace(after.smoothing, holdings=(cash + more * (new_cash - old_cash), *scaled))
    return replace(after, smoothing=smoothing)
