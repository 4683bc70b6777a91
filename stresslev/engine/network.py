"""Credit between pools: who pays whom when some cannot pay (clearing), how distress spreads (DebtRank), what a claim on a pool is worth.

Nominal claims are (V, V) USD, row owes column, nothing below zero, zero diagonal.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

#: A shortfall below this many roundings of the sums it is the difference of is no shortfall: with bankruptcy costs it would set off a real loss.
_ROUNDINGS = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clearing:
    """What every pool pays and gets once all debts are settled together. V pools. Traced."""

    payments: Array  # (V,) USD paid to all creditors, other pools and outside, between 0 and the total owed
    received: Array  # (V,) USD received from other pools
    equity: Array  # (V,) USD: external assets + received - total owed; below zero where debts are not met in full
    defaulted: Array  # (V,) bool: equity below zero, by more than rounding
    loss: Array  # (V,) USD of the claims on other pools that are not paid, per creditor
    rounds: Array  # () int32 linear systems solved; 0 when nobody defaults


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DebtRank:
    """Relative losses once distress has spread as far as it goes. V pools. Traced."""

    loss: Array  # (V,) share of the initial equity lost, in [0, 1], the shock included
    impact: Array  # () share of the system's equity lost, the shock included
    induced: Array  # () the same without the shock: what the network added


def clearing(
    nominal: Array,
    external_assets: Array,
    external_liabilities: Array | None = None,
    *,
    alpha: Array | float = 1.0,
    beta: Array | float = 1.0,
) -> Clearing:
    """Payments that settle all debts together: the greatest clearing vector with bankruptcy costs.

    With `pbar` the total a pool owes and `Pi = nominal / pbar`, a pool pays `pbar` if `e + Pi' p >= pbar`, and else
    `max(0, alpha e + beta Pi' p)`, shared among its creditors in proportion to what it owes them (Rogers and Veraart 2013;
    with alpha = beta = 1 Eisenberg and Noe 2001). Negative external assets rank before all creditors: they are paid out of what is received and
    are not scaled by `alpha` (a cost must not shrink a debt); what they leave unpaid is in `equity` and falls on no creditor.

    Solved by fictitious defaults (Eisenberg and Noe 2001): exact but for rounding, no iteration to a tolerance. Differentiable in both
    modes by the implicit function theorem, with the set of defaults held fixed: across a default with costs payments jump, which no derivative
    shows.

    Args:
      nominal: (V, V) USD, row owes column.
      external_assets: (V,) USD, may be negative.
      external_liabilities: (V,) USD owed outside the network, ranking equally with debts to pools; None for none.
      alpha: share of its external assets that a defaulted pool can pay out, in [0, 1]; scalar or (V,).
      beta: the same for what it receives from other pools.

    Returns:
      A `Clearing`.
    """
    nominal = jnp.asarray(nominal)
    dtype, pools = nominal.dtype, nominal.shape[:1]
    outside = jnp.zeros(pools, dtype) if external_liabilities is None else jnp.asarray(external_liabilities, dtype)
    external = jnp.asarray(external_assets, dtype)
    owed = jnp.sum(nominal, axis=1) + outside
    fraction_external, fraction_received = (jnp.broadcast_to(jnp.asarray(x, dtype), pools) for x in (alpha, beta))
    # where, not maximum: at zero the derivative is that of an asset
    estate = jnp.where(external < 0, external, fraction_external * external)

    found, defaulted, paying, rounds = _fictitious_defaults(*jax.lax.stop_gradient((nominal, external, owed, estate, fraction_received)))
    payments = _implicit(_payments, found, (defaulted, paying), (nominal, owed, estate, fraction_received))
    rate = _rate(payments, owed, defaulted)
    received = _received(nominal, rate)
    return Clearing(
        payments=payments,
        received=received,
        equity=external + received - owed,
        defaulted=defaulted,
        loss=_received(nominal, 1 - rate),
        rounds=rounds,
    )


def debtrank(nominal: Array, equity: Array, shock: Array) -> DebtRank:
    """Linear DebtRank: a debtor's relative loss of equity devalues the claims on it in the same proportion, long before it defaults.

    The least solution of `h_i = min(1, shock_i + sum_j nominal_ji / equity_i h_j)`, to which the recursion of Bardoscia, Battiston, Caccioli and
    Caldarelli (2015) climbs; unlike the first DebtRank (Battiston, Puliga, Kaushik, Tasca and Caldarelli 2012) a pool passes on every
    loss, not only its first. Each pool's loss is relative to its own equity. Found exactly, by linear systems on the pools that are not wiped out.

    Args:
      nominal: (V, V) USD, row owes column.
      equity: (V,) USD before the shock. A pool without equity has lost all (1) as soon as any loss reaches it.
      shock: (V,) share of the equity lost at first, >= 0; all of it from 1 on.

    Returns:
      A `DebtRank`. A pool that no loss reaches has a derivative of zero.
    """
    nominal = jnp.asarray(nominal)
    equity, shock = jnp.asarray(equity, nominal.dtype), jnp.asarray(shock, nominal.dtype)
    found, reached, alive = _wiped_out_from_above(*jax.lax.stop_gradient((nominal, equity, shock)))
    loss = _implicit(_relative_losses, found, (reached, alive), (nominal, equity, shock))
    weight = jnp.maximum(equity, 0)
    total = jnp.sum(weight)
    share = weight / _or_one(total)
    return DebtRank(loss=loss, impact=jnp.sum(share * loss), induced=jnp.sum(share * (loss - jnp.minimum(shock, 1))))


def redemption(assets: Array, liabilities: Array) -> Array:
    """Value of a receipt token per unit of claim, `min(1, assets / liabilities)`, in [0, 1]; shapes broadcast, USD.

    The rule of pools whose receipts are claims on what they hold, pro rata (the share price of ERC-4626) and no more than par. It is 1
    where nothing is owed and 0 where assets are negative.
    """
    short = (liabilities > _tiny(liabilities)) & (assets < liabilities)
    # the quotient is formed only where it is the answer, so that it cannot spoil a derivative elsewhere
    quotient = jnp.where(assets < 0, jnp.zeros_like(assets), assets) / jnp.where(short, liabilities, jnp.ones_like(liabilities))
    return jnp.where(short, quotient, jnp.ones_like(quotient))


def run_discount(requested: Array, liquid: Array, haircut: Array) -> Array:
    """What a withdrawal loses to a run, as a share of the claim: `haircut * max(0, 1 - liquid / requested)`, in [0, haircut].

    Liquid funds serve all who withdraw together in proportion, not first come first served; the rest of each claim is raised by selling what is
    not liquid, `haircut` below its worth. A token then fetches `redemption * (1 - run_discount)`. Zero where nothing is requested.

    Args:
      requested: USD asked back in one step; liquid: USD that can be paid at once (below zero counts as none); haircut in [0, 1]. Shapes broadcast.
    """
    return haircut * (1 - redemption(liquid, requested))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(step, found: Array, active, parameters) -> Array:
    """`found`, the solution of `p = step(p, active, parameters)`, differentiated as such: `dp = (I - dstep/dp)^-1 dstep`."""
    return found


@_implicit.defjvp
def _implicit_jvp(step, primals, tangents):
    found, active, parameters = primals
    found = _implicit(step, found, active, parameters)
    _, change = jax.jvp(lambda q: step(found, active, q), (parameters,), (tangents[2],))
    slope = jax.jacfwd(step)(found, active, parameters)
    return found, jnp.linalg.solve(jnp.eye(found.shape[0], dtype=found.dtype) - slope, change)


def _payments(payments: Array, active: tuple[Array, Array], parameters: tuple[Array, Array, Array, Array]) -> Array:
    """Payments out of what others pay, each pool in the state (in default, paying something) it is in."""
    (defaulted, paying), (nominal, owed, estate, fraction_received) = active, parameters
    received = _received(nominal, _rate(payments, owed, defaulted))
    return jnp.where(defaulted, jnp.where(paying, estate + fraction_received * received, jnp.zeros_like(owed)), owed)


def _fictitious_defaults(nominal: Array, external: Array, owed: Array, estate: Array, fraction_received: Array) -> tuple[Array, Array, Array, Array]:
    """Greatest clearing vector, the pools in default, those of them that pay something, and the linear systems solved.

    Assume that only the pools already found in default fail, settle, and see who else then fails: the set only grows. To settle among
    the defaulted, where limited liability clamps payments at zero, start from nobody paying and admit those whose estate suffices: that set only
    grows too, payments rise, and no set that pays out more than it takes in is ever solved for, so the systems are never singular. (From
    the other side, negative estates would be solved for first and drag down pools that are sound.) At most V defaults with V admissions each; one
    system per round of defaults where no external assets are negative.
    """
    eye = jnp.eye(owed.shape[0], dtype=owed.dtype)
    claims = jnp.sum(nominal, axis=0)
    slack = _ROUNDINGS * jnp.finfo(owed.dtype).eps * (jnp.abs(external) + claims + owed)
    passed_on = fraction_received[:, None] * (nominal / _or_one(owed)[:, None]).T

    def failing(rate):
        return external + _received(nominal, rate) < owed - slack

    def able(defaulted, rate):
        return defaulted & (estate + fraction_received * _received(nominal, rate) >= 0)

    def settle(defaulted, paying):
        inflow = _received(nominal, jnp.where(defaulted, jnp.zeros_like(owed), jnp.ones_like(owed)))
        among = jnp.where(paying[:, None] & paying[None, :], passed_on, jnp.zeros_like(passed_on))
        available = jnp.where(paying, estate + fraction_received * inflow, jnp.zeros_like(owed))
        solved = jnp.linalg.solve(eye - among, available)
        return jnp.where(defaulted, jnp.minimum(jnp.maximum(solved, 0), owed), owed)

    def round_(carry):
        _, defaulted, paying, _, rounds = carry
        payments = settle(defaulted, paying)
        rate = _rate(payments, owed, defaulted)
        admitted = paying | able(defaulted, rate)
        settled = jnp.all(admitted == paying)
        failed = jnp.where(settled, defaulted | failing(rate), defaulted)
        more = jnp.any(failed != defaulted)
        first = able(failed, jnp.where(failed, jnp.zeros_like(owed), jnp.ones_like(owed)))
        return payments, failed, jnp.where(more, first, admitted), more | ~settled, rounds + 1

    everything = jnp.ones_like(owed)
    defaulted = failing(everything)
    paying = able(defaulted, jnp.where(defaulted, jnp.zeros_like(owed), everything))
    start = (owed, defaulted, paying, jnp.any(defaulted), jnp.zeros((), jnp.int32))
    payments, defaulted, paying, _, rounds = jax.lax.while_loop(lambda carry: carry[3], round_, start)
    return payments, defaulted, paying, rounds


def _relative_losses(loss: Array, active: tuple[Array, Array], parameters: tuple[Array, Array, Array]) -> Array:
    """Relative losses out of the debtors' relative losses, each pool in the state (reached, not wiped out) it is in."""
    (reached, alive), (nominal, equity, shock) = active, parameters
    passed_on = shock + jnp.sum(_exposure(nominal, equity) * loss[None, :], axis=1)
    return jnp.where(alive, passed_on, jnp.where(reached, jnp.ones_like(loss), jnp.zeros_like(loss)))


def _wiped_out_from_above(nominal: Array, equity: Array, shock: Array) -> tuple[Array, Array, Array]:
    """Relative losses, the pools that any loss reaches, and those of them with equity left.

    Wipe out everyone whom any loss reaches, then let live those who would keep something, until nobody is added. Where losses come in at
    all the solution is unique, so this meets the recursion's limit from the other side, and every linear system on the way is a contraction (which
    the systems met from below need not be).
    """
    owes = nominal > 0
    reached = jax.lax.fori_loop(0, shock.shape[0], lambda _, r: r | jnp.any(owes & r[:, None], axis=0), shock > 0)
    exposure = _exposure(nominal, equity)
    candidate = reached & (equity > _tiny(equity))
    wiped_out = jnp.where(reached, jnp.ones_like(shock), jnp.zeros_like(shock))

    def keeping(loss):
        return candidate & (shock + jnp.sum(exposure * loss[None, :], axis=1) < 1)

    def settle(alive):
        among = jnp.where(alive[:, None] & alive[None, :], exposure, jnp.zeros_like(exposure))
        dead = jnp.where(alive, jnp.zeros_like(shock), wiped_out)
        given = jnp.where(alive, shock + jnp.sum(exposure * dead[None, :], axis=1), dead)
        return jnp.minimum(jnp.linalg.solve(jnp.eye(shock.shape[0], dtype=shock.dtype) - among, given), 1)

    def round_(carry):
        _, alive, _ = carry
        loss = settle(alive)
        more = alive | keeping(loss)
        return loss, more, jnp.any(more != alive)

    alive = keeping(wiped_out)
    loss, alive, _ = jax.lax.while_loop(lambda carry: carry[2], round_, (wiped_out, alive, jnp.any(alive)))
    return loss, reached, alive


def _exposure(nominal: Array, equity: Array) -> Array:
    """(V, V) claim of the row on the column over the row's own equity; zero for a row without equity."""
    solvent = equity > _tiny(equity)
    return jnp.where(solvent[:, None], nominal.T, jnp.zeros_like(nominal)) / jnp.where(solvent, equity, jnp.ones_like(equity))[:, None]


def _rate(payments: Array, owed: Array, defaulted: Array) -> Array:
    """(V,) share paid of every debt, exactly 1 without default."""
    return jnp.where(defaulted, payments / _or_one(owed), jnp.ones_like(owed))


def _received(nominal: Array, rate: Array) -> Array:
    """(V,) USD that arrives at each pool. A sum, not a matrix product, whose precision accelerators reduce."""
    return jnp.sum(nominal * rate[:, None], axis=0)


def _tiny(x: Array) -> Array:
    """What counts as nothing in a denominator: the smallest number whose square can still be divided by, as derivatives do."""
    return jnp.sqrt(jnp.finfo(jnp.result_type(x)).tiny)


def _or_one(x: Array) -> Array:
    """A denominator that is never zero."""
    return jnp.where(x > _tiny(x), x, jnp.ones_like(x))
