"""The liquidation profile of loans: those of one collateral against one debt, kept as a distribution instead of one by one.

A loan of s units of collateral against b units of debt is under margin once its ratio `s / b` lies below the level `B P_d / (LT S P_c)`, with the
borrow index B and the mark P_d of what is owed, the supply index S, the mark P_c and the threshold LT of what is held: prices, interest, losses
spread over deposits and policies all enter through the level, which is the same for every loan of a pool and pair. Where all debt is due, the loan
is closed for good: a liquidator takes `k = (1 + bonus) B P_d / (S P_c)` units of collateral for a unit of debt. With more than that there is no debt
left, and the rest stays the borrower's; with less no collateral, and what is still owed is written off. Whether a liquidator acts hangs on prices
only, so he does for all of them or for none.

So a profile keeps, per pool, collateral and debt, the cumulative debt, collateral and number of loans over the **margin distance**
`x = s / (b unit) - 1`, and how far liquidation has come (`reach`). Everything else is differences of two or three look-ups. See `deposit` for how the
distribution is kept, and docs/model.md for the error.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine import grid
from stresslev.engine.health import Prices
from stresslev.engine.lenders import Terms
from stresslev.engine.loans import EVEN, LoanSettlement
from stresslev.engine.types import System

#: Columns of the cumulative tables.
DEBT, COLLATERAL, LOANS = range(3)
#: What stands for infinity where collateral is worth, or counts for, nothing.
_FAR = 1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoanDistribution:
    """The loans of a profile at the start: n pairs of collateral and debt, C points of a grid. It never changes. Asset A is USD."""

    pool: Array  # (n,) int32
    collateral: Array  # (n,) int32 asset, A is USD
    debt: Array  # (n,) int32 asset, A is USD
    unit: Array  # (n,) units of collateral per unit of debt at which the margin distance is zero
    scale: Array  # (n,) margin distance in the middle of the grid
    table: Array  # (n, C + 1, 3) cumulative units of debt, units of collateral, and loans


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoanProfile:
    """How far the liquidation of a distribution (`System.loan_profile`) has come: a population beside `Accounts`, `Loans` and `Profile`."""

    reach: Array  # (n,) margin distance below which all have been liquidated
    taken: Array  # (n, 3) what lies below it
    left: Array  # (n,) units of collateral that those who have been liquidated still hold


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoanProfileDemand:
    """What a profile asks to have liquidated, as `loans.LoanDemand`."""

    reach: Array  # (n,) margin distance up to which loans are to be liquidated
    found: Array  # (n, 3) what lies below it
    seized: Array  # (n,) units of collateral
    repaid: Array  # (n,) units of debt
    lost: Array  # (n,) units of debt with no collateral left
    triggered: Array  # (V,) int32
    waiting: Array  # (V,) int32 of whom nobody finds liquidation profitable
    notional: Array  # (V,) USD of collateral to be seized, at the marks
    sold: Array  # (V, A) coins of collateral that reach the market
    bought: Array  # (V, A) coins of debt repaid


@dataclass(frozen=True)
class _Pairs:
    """What holds for the pairs, (n,)."""

    threshold: Array
    factor: Array  # one plus the bonus
    fee: Array  # share of each seized unit that the protocol keeps
    held: Array  # USD of a unit of collateral, at the marks
    owed: Array  # USD of a unit of debt, at the marks
    supply_index: Array
    borrow_index: Array


def _pick(book: LoanDistribution, asset: Array, values: Array, usd: float) -> Array:
    """(V, A) to the pairs (n,); `usd` is the value for USD."""
    wide = jnp.concatenate([values, jnp.full_like(values[:, :1], usd)], axis=1)
    return wide[book.pool, asset]


def _spread(book: LoanDistribution, asset: Array, values: Array, like: Array) -> tuple[Array, Array]:
    """(n,) of the pairs, summed to (V, A), and (V,) for USD."""
    total = jnp.zeros((like.shape[0], like.shape[1] + 1), values.dtype).at[book.pool, asset].add(values)
    return total[:, :-1], total[:, -1]


def _by_pool(book: LoanDistribution, values: Array, pools: int) -> Array:
    return jnp.zeros((pools,), values.dtype).at[book.pool].add(values)


def _over(x: Array, y: Array) -> Array:
    """x / y for y > 0, else as good as infinite."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, jnp.ones_like(y)), jnp.full_like(x, _FAR))


def _pairs(book: LoanDistribution, system: System, terms: Terms, price: Array) -> _Pairs:
    """Args: `price` (V, A) USD per coin."""
    rules = system.lending.rules
    bonus = _pick(book, book.collateral, rules.bonus, 0)
    supply_index, borrow_index = _pick(book, book.collateral, terms.supply_index, 1), _pick(book, book.debt, terms.borrow_index, 1)
    return _Pairs(
        threshold=_pick(book, book.collateral, terms.threshold, 1),
        factor=1 + bonus,
        fee=rules.protocol_fee[book.pool] * jnp.maximum(bonus, 0) / (1 + bonus),
        held=supply_index * _pick(book, book.collateral, price, 1),
        owed=borrow_index * _pick(book, book.debt, price, 1),
        supply_index=supply_index,
        borrow_index=borrow_index,
    )


def _distance(book: LoanDistribution, ratio: Array) -> Array:
    """Margin distance of loans with this ratio of collateral to debt, in units."""
    return jnp.minimum(ratio / book.unit, _FAR) - 1


def _acts(book: LoanDistribution, system: System, pairs: _Pairs, seen: Prices) -> Array:
    """(n,) bool: whether what a liquidator receives is worth enough more than what he repays, at venue prices (`loans`)."""
    required = system.lending.rules.required_profit[book.pool]
    always = jnp.isneginf(required)
    rises = [_pick(book, a, x, 1) for x in (seen.venue, seen.mark) for a in (book.collateral, book.debt)]
    (venue_held, venue_owed), (mark_held, mark_owed) = rises[:2], rises[2:]
    received = (1 - pairs.fee) * pairs.factor * venue_held * mark_owed
    cost = venue_owed * mark_held
    slack = 1 + EVEN * jnp.finfo(cost.dtype).eps
    return always | (received * slack >= (1 + jnp.where(always, jnp.zeros_like(required), required)) * cost)


def initial(book: LoanDistribution) -> LoanProfile:
    """Nobody has been liquidated."""
    none = jnp.zeros_like(book.unit)
    return LoanProfile(reach=none - 1, taken=jnp.zeros((*none.shape, 3), none.dtype), left=none)


def demand(profile: LoanProfile, system: System, terms: Terms, seen: Prices) -> LoanProfileDemand:
    """What the profile asks to have liquidated at these prices, before capacity."""
    book = system.loan_profile
    pairs, pools = _pairs(book, system, terms, seen.mark), seen.mark.shape[0]
    level = _distance(book, _over(pairs.owed, pairs.threshold * pairs.held))
    per_unit = pairs.factor * _over(pairs.owed, pairs.held)
    under = jnp.maximum(profile.reach, level)
    # rounding must not take anybody back
    below = jnp.maximum(grid.look_up(book.table, book.scale, under), profile.taken)
    acts = _acts(book, system, pairs, seen)
    reach = jnp.where(acts, under, profile.reach)
    found = jnp.where(acts[:, None], below, profile.taken)
    enough = jnp.clip(_distance(book, per_unit), profile.reach, reach)
    parted = jnp.clip(grid.look_up(book.table, book.scale, enough), profile.taken, found)
    short, whole = parted - profile.taken, found - parted

    # within a cell of the grid what is held need not be just what is owed there
    for_short = jnp.where(per_unit > 0, short[:, COLLATERAL] / jnp.where(per_unit > 0, per_unit, jnp.ones_like(per_unit)), short[:, DEBT])
    for_short = jnp.minimum(for_short, short[:, DEBT])
    seized = short[:, COLLATERAL] + jnp.minimum(per_unit * whole[:, DEBT], whole[:, COLLATERAL])
    repaid = for_short + whole[:, DEBT]
    sold, _ = _spread(book, book.collateral, seized * (1 - pairs.fee) * pairs.supply_index, seen.mark)
    bought, _ = _spread(book, book.debt, repaid * pairs.borrow_index, seen.mark)

    triggered = _heads(book, below, pools) - _heads(book, profile.taken, pools)
    return LoanProfileDemand(
        reach=reach,
        found=found,
        seized=seized,
        repaid=repaid,
        lost=short[:, DEBT] - for_short,
        triggered=triggered,
        waiting=triggered - (_heads(book, found, pools) - _heads(book, profile.taken, pools)),
        notional=_by_pool(book, seized * pairs.held, pools),
        sold=sold,
        bought=bought,
    )


def _heads(book: LoanDistribution, taken: Array, pools: int) -> Array:
    """(V,) int32 loans, to the nearest whole one."""
    return jnp.round(_by_pool(book, taken[:, LOANS], pools)).astype(jnp.int32)


def settle(
    profile: LoanProfile, system: System, terms: Terms, seen: Prices, asked: LoanProfileDemand, share: Array
) -> tuple[LoanProfile, LoanSettlement]:
    """Carry out what was asked: all of it, or in an outage nothing. Args: `share` (V,) granted."""
    book = system.loan_profile
    pairs, pools = _pairs(book, system, terms, seen.mark), seen.mark.shape[0]
    carried_out = share[book.pool] > 0
    done = carried_out.astype(seen.mark.dtype)
    seized, repaid, lost = done * asked.seized, done * asked.repaid, done * asked.lost

    def held(values):
        return _spread(book, book.collateral, values, seen.mark)

    def owed(values):
        return _spread(book, book.debt, values, seen.mark)

    coins_seized, cash_seized = held(seized * pairs.supply_index)
    coins_repaid, cash_repaid = owed(repaid * pairs.borrow_index)
    coins_lost, cash_lost = owed(lost * pairs.borrow_index)
    after = LoanProfile(
        reach=jnp.where(carried_out, asked.reach, profile.reach),
        taken=jnp.where(carried_out[:, None], asked.found, profile.taken),
        left=profile.left + done * (asked.found - profile.taken)[:, COLLATERAL] - seized,
    )
    return after, LoanSettlement(
        seized=coins_seized,
        repaid=coins_repaid,
        set_off=jnp.zeros_like(coins_seized),
        protocol_fee=held(seized * pairs.supply_index * pairs.fee)[0],
        written_off=coins_lost,
        written_off_cash=cash_lost,
        deficit=_by_pool(book, lost * pairs.owed, pools),
        seized_cash=cash_seized,
        repaid_cash=cash_repaid,
        cash_change=cash_repaid + cash_lost - cash_seized,
        supply_change=-held(seized)[0],
        debt_change=-owed(repaid + lost)[0],
        newly_liquidated=_heads(book, after.taken, pools) - _heads(book, profile.taken, pools),
    )


def totals(profile: LoanProfile, system: System) -> tuple[Array, Array, Array]:
    """Sums by pool of what is held and owed: supply (V, A) units, debt (V, A) units, cash (V,) USD net."""
    book, like = system.loan_profile, system.lending.rules.bonus
    still = book.table[:, -1, :] - profile.taken
    supply, cash = _spread(book, book.collateral, still[:, COLLATERAL] + profile.left, like)
    debt, owed = _spread(book, book.debt, still[:, DEBT], like)
    return supply, debt, cash - owed


def negative_equity(profile: LoanProfile, system: System, terms: Terms, price: Array) -> Array:
    """(V,) USD by which loans still open owe more than they hold, at (V, A) prices."""
    book = system.loan_profile
    pairs = _pairs(book, system, terms, price)
    level = jnp.maximum(_distance(book, _over(pairs.owed, pairs.held)), profile.reach)
    under = grid.look_up(book.table, book.scale, level) - profile.taken
    return _by_pool(book, jnp.maximum(under[:, DEBT] * pairs.owed - under[:, COLLATERAL] * pairs.held, 0), price.shape[0])


def _debt_usd(book: LoanDistribution, system: System, units: Array) -> Array:
    """() USD at the reference prices of units (n,) of debt."""
    price = jnp.concatenate([system.reference_price, jnp.ones_like(system.reference_price[:1])])
    return jnp.sum(units * price[book.debt])


def debt_at_start(system: System) -> Array:
    """() USD that the loans of the profile owe at the start."""
    return _debt_usd(system.loan_profile, system, system.loan_profile.table[:, -1, DEBT])


def uncertain(profile: LoanProfile, system: System) -> Array:
    """() USD of debt, at the reference prices, in the cells of the grid that liquidation has stopped in (`profile.uncertain`)."""
    book = system.loan_profile
    return _debt_usd(book, system, grid.beside(book.table, book.scale, profile.reach)[:, DEBT])
