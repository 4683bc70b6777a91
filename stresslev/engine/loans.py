"""The population of lending accounts: who is below a health factor of one, what is then sold or seized, and what is lost.

A lending account holds collateral in some assets and owes others. Lending protocols are the general case; a spot margin lender and a bank with a
leverage limit are special ones (collateral is sold in the market instead of being handed to a liquidator).

Every account is looked at in every round (one dense pass that only reads). Blocks with a triggered account are gathered in batches for the rest.
What the rule asks of an account is scaled as a whole by the share its pool can carry out, so every amount below is linear in that share.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import smooth
from stresslev.engine.blocks import column, once, over_devices, pool_sum
from stresslev.engine.loan_results import LoanDemand, LoanSettlement
from stresslev.engine.places import over_batches, ranks
from stresslev.engine.smooth import Smoothing

#: Roundings by which what a liquidator receives may fall short of what he requires and still be enough.
EVEN = 64

#: Values of `LendingRules.rule`: how much of the debt of a triggered account is repaid.
FULL, CLOSE_FACTOR, RESTORE = 0, 1, 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loans:
    """Lending accounts in blocks of B, every block in one pool. Coins are units times the index of pool and asset."""

    supply: tuple[Array, ...]  # A arrays (nb, B) units of collateral, >= 0
    debt: tuple[Array, ...]  # A arrays (nb, B) units owed, >= 0
    cash: Array  # (nb, B) USD; positive is collateral with threshold one, negative is debt
    liquidated: Array  # (nb, B) bool, any part of it was ever liquidated
    age: Array  # (nb, B) int32 consecutive steps that began under margin, the present one included
    block_pool: Array  # (nb,) int32
    assets: tuple[int, ...] | None = field(default=None, metadata={"static": True})  # of `supply` and `debt` in the system; None: all, in order
    smoothing: Smoothing | None = None  # of liquidation thresholds, for derivatives; None: the rules as they are
    axis: str | None = field(default=None, metadata={"static": True})  # of the mesh, over which the blocks are dealt out; None: one device
    reverse: bool = field(default=False, metadata={"static": True})  # reverse mode is to go through: see `adjoint`

    @property
    def holdings(self) -> tuple[Array, ...]:
        """Cash, units supplied and units owed, each (nb, B)."""
        return (self.cash, *self.supply, *self.debt)

    def with_holdings(self, arrays: tuple[Array, ...]) -> "Loans":
        """The same accounts with other `holdings`."""
        cash, *rest = arrays
        held = len(self.supply)
        return replace(self, cash=cash, supply=tuple(rest[:held]), debt=tuple(rest[held:]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LendingRules:
    """How V pools lend and liquidate.

    The functions of this module take the threshold in force as an argument of its own: a policy may move it away from `liquidation_threshold`.
    """

    liquidation_threshold: Array  # (V, A) share of collateral value that counts
    seizable: Array  # (V, A) bool, collateral that can be sold or seized; set-off against debt in the same asset is always allowed
    bonus: Array  # (V, A) extra collateral per value repaid, > -1
    protocol_fee: Array  # (V,) share of the bonus that goes to the reserves of the pool, in collateral coins
    rule: Array  # (V,) int32: FULL all debt, CLOSE_FACTOR a share of it, RESTORE just enough to be back at the target
    close_factor: Array  # (V,) share of the debt
    full_below: Array  # (V,) health factor below which all debt is due whatever the rule
    target_health: Array  # (V,) health factor that RESTORE comes back to
    market_execution: Array  # (V,) bool: the pool sells in the market; else a liquidator repays and takes collateral at mark / (1 + bonus)
    auction: Array  # (V,) bool: the bonus grows with the age of the case, instead of `bonus`
    auction_start: Array  # (V,) bonus at age zero, > -1; negative starts above the mark
    auction_growth: Array  # (V,) per step of age
    auction_max: Array  # (V,)
    required_profit: Array  # (V,) nobody acts unless what is received is worth (1 + this) times what is repaid, at venue prices; -inf: always


@dataclass(frozen=True)
class _Terms:
    """Rules and prices of the blocks at hand, (A, blocks, 1)."""

    threshold: Array
    seizable: Array
    bonus: Array
    mark: Array
    venue: Array
    pool: LendingRules  # its (V,) fields as (blocks, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Plan:
    """What the rule asks of each account, before capacity; (A, blocks, B) unless said. Coins are >= 0."""

    triggered: Array  # (blocks, B) bool
    set_off: Array  # coins
    supply: Array  # coins after set-off
    debt: Array  # coins after set-off
    supply_set_off: Array  # share of the supply set off
    debt_set_off: Array  # share of the debt set off
    cash: Array  # (blocks, B) USD of positive cash
    cash_debt: Array  # (blocks, B) USD
    seize: Array  # share of what is left of the supply
    seize_cash: Array  # (blocks, B) share of positive cash
    fee: Array  # share of each seized coin that the protocol keeps
    repay: Array  # (blocks, B) share of what is left of every debt that a liquidator repays


def _ratio(x: Array, y: Array) -> Array:
    """x / y for y > 0, else zero."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, jnp.ones_like(y)), jnp.zeros_like(y))


def _worth(coins: Array, price: Array) -> Array:
    """Value of baskets, summed over the leading axis of assets."""
    return jnp.sum(coins * price, axis=0)


def _of_blocks(x: Array, block_pool: Array) -> Array:
    """(V, A) by pool to (A, blocks, 1)."""
    return x.T[:, block_pool][:, :, None]


def balance(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> tuple[Array, Array]:
    """Threshold-weighted collateral and debt of every account, (nb, B) USD."""
    weighted, debt = jnp.maximum(loans.cash, 0), jnp.maximum(-loans.cash, 0)
    for units, weight in zip(loans.supply, _of_blocks(threshold * supply_index * mark, loans.block_pool), strict=True):
        weighted = weighted + units * weight
    for units, price in zip(loans.debt, _of_blocks(borrow_index * mark, loans.block_pool), strict=True):
        debt = debt + units * price
    return weighted, debt


def health(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    """Health factor `sum_a LT_a collateral_a / debt`, (nb, B); infinite without debt. (Aave v3 documentation, "Health Factor".)

    Args: all (V, A): threshold, indices in coins per unit, mark in USD per coin.
    """
    weighted, debt = balance(loans, threshold, supply_index, borrow_index, mark)
    return jnp.where(debt == 0, jnp.full_like(debt, jnp.inf), weighted / jnp.where(debt == 0, jnp.ones_like(debt), debt))


def equity(loans: Loans, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    """Collateral less debt, (nb, B) USD. Args: all (V, A)."""
    collateral, debt = balance(loans, jnp.ones_like(mark), supply_index, borrow_index, mark)
    return collateral - debt


def negative_equity(loans: Loans, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    """(V,) USD by which accounts still open owe more than they hold: losses made and not settled."""
    short = jnp.maximum(-equity(loans, supply_index, borrow_index, mark), 0)
    return over_devices(pool_sum(jnp.sum(short, axis=1), loans.block_pool, mark.shape[0]), loans.axis)


def totals(loans: Loans, pools: int) -> tuple[Array, Array, Array]:
    """Sums by pool: supply (V, A) units, debt (V, A) units, cash (V,) USD net."""

    def by_pool(values):
        return pool_sum(jnp.sum(values, axis=1), loans.block_pool, pools)

    units = [jnp.stack([by_pool(x) for x in several], axis=1) for several in (loans.supply, loans.debt)]
    return over_devices((*units, by_pool(loans.cash)), loans.axis)


def above(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    """(nb, B) equity over maintenance margin less one, the margin of a loan being what its threshold leaves of its collateral. Args: all (V, A)."""
    weighted, debt = balance(loans, threshold, supply_index, borrow_index, mark)
    collateral, _ = balance(loans, jnp.ones_like(mark), supply_index, borrow_index, mark)
    return smooth.above(collateral - debt, collateral - weighted)


def _triggered(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    def found():
        if loans.smoothing is not None:
            return smooth.hit(loans.smoothing, above(smooth.whole(loans), threshold, supply_index, borrow_index, mark)) > 0
        weighted, debt = balance(loans, threshold, supply_index, borrow_index, mark)
        return ~(weighted >= debt)  # a NaN triggers, and shows in the sums

    return once(found, loans.block_pool[0])


def _part(some: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Array:
    """(blocks, B) share of gathered accounts that is triggered: one where thresholds are not smoothed, of whoever is triggered at all."""
    if some.smoothing is None:
        return jnp.ones_like(some.cash)
    return smooth.hit(some.smoothing, above(smooth.whole(some), threshold, supply_index, borrow_index, mark))


def begin_step(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Loans:
    """Count one more step under margin for accounts that begin it there; forget the count of all others. Once per step."""
    under = _triggered(loans, threshold, supply_index, borrow_index, mark)
    return replace(loans, age=jnp.where(under, loans.age + 1, jnp.zeros_like(loans.age)))


def _terms(some: Loans, rules: LendingRules, threshold: Array, mark: Array, venue: Array) -> _Terms:
    def of_blocks(x):
        return _of_blocks(x, some.block_pool)

    return _Terms(
        threshold=of_blocks(threshold),
        seizable=of_blocks(rules.seizable),
        bonus=of_blocks(rules.bonus),
        mark=of_blocks(mark),
        venue=of_blocks(venue),
        pool=jax.tree.map(lambda x: column(x[some.block_pool]) if x.ndim == 1 else x, rules),
    )


def _set_off_share(weighted: Array, debt: Array, overlap: Array, weighted_overlap: Array, full: Array, pool: LendingRules) -> Array:
    """Share of the collateral held in an owed asset that is set off: as little as the rule needs, in [0, 1]; one where nothing can be."""
    share_due = jnp.clip(_ratio(pool.close_factor * debt, overlap), 0, 1)
    # set-off takes as much from either side: H (D - theta O) = LTC - theta LTO
    gain = pool.target_health * overlap - weighted_overlap
    restoring = jnp.clip(_ratio(pool.target_health * debt - weighted, gain), 0, 1)
    one = jnp.ones_like(debt)
    share = jnp.where(pool.rule == CLOSE_FACTOR, share_due, jnp.where(gain > 0, restoring, one))
    return jnp.where(full | ~(overlap > 0), one, share)


def _debt_due(debt: Array, debt_left: Array, weighted_left: Array, overlap: Array, lost: Array, full: Array, pool: LendingRules) -> Array:
    """USD of debt to repay once everything that can be set off has been, in [0, debt_left].

    RESTORE solves `H (D - rho) = LTC - rho lost`, where `lost` is the weighted collateral seized per value repaid. Where that is no less than H,
    repaying cannot restore health, and all debt is due.
    """
    share_due = jnp.clip(pool.close_factor * debt - overlap, 0, debt_left)
    gain = pool.target_health - lost
    restoring = jnp.clip(_ratio(pool.target_health * debt_left - weighted_left, gain), 0, debt_left)
    due = jnp.where(pool.rule == CLOSE_FACTOR, share_due, jnp.where(gain > 0, restoring, debt_left))
    return jnp.where(full, debt_left, due)


def _plan(supply: Array, debt: Array, cash: Array, age: Array, triggered: Array, terms: _Terms) -> _Plan:
    """Set-off, seizure and repayment that the rule of the pool asks for at these marks; means nothing for accounts not `triggered`.

    Args: coins of supply and debt (A, blocks, B); cash, age and triggered (blocks, B).
    """
    pool, mark, weight = terms.pool, terms.mark, terms.threshold * terms.mark
    cash, cash_debt = jnp.maximum(cash, 0), jnp.maximum(-cash, 0)
    weighted, owed = _worth(supply, weight) + cash, _worth(debt, mark) + cash_debt
    full = (pool.rule == FULL) | (weighted < pool.full_below * owed)

    # First, collateral in an asset that is owed too is set off, without bonus or market.
    overlaps = jnp.minimum(supply, debt)
    overlap = _worth(overlaps, mark)
    theta = _set_off_share(weighted, owed, overlap, _worth(overlaps, weight), full, pool)
    supply_set_off, debt_set_off = theta[None] * _ratio(overlaps, supply), theta[None] * _ratio(overlaps, debt)
    supply, debt = (1 - supply_set_off) * supply, (1 - debt_set_off) * debt
    debt_left, weighted_left = _worth(debt, mark) + cash_debt, _worth(supply, weight) + cash

    # Then a basket of all seizable collateral, pro rata to value, against a basket of all debts.
    nothing = jnp.zeros_like(owed)
    auction_bonus = jnp.minimum(pool.auction_max, pool.auction_start + pool.auction_growth * age.astype(owed.dtype))
    bonus = jnp.where(pool.auction[None], auction_bonus[None], terms.bonus)
    values = jnp.where(terms.seizable, supply * mark, jnp.zeros_like(supply))
    value = jnp.sum(values, axis=0) + cash
    factor = 1 + _ratio(_worth(values, bonus), value)
    lost = _ratio(_worth(values, terms.threshold) + cash, value) * factor
    # where a part of the set-off is enough, rounding must not leave a crumb to seize
    due = jnp.where(theta < 1, nothing, _debt_due(owed, debt_left, weighted_left, overlap, lost, full, pool))
    # collateral that is worth nothing is taken whole: what is due exceeds it
    seize = jnp.where(value > 0, jnp.minimum(_ratio(due * factor, value), 1), (due > 0).astype(owed.dtype))
    return _Plan(
        triggered=triggered,
        set_off=theta[None] * overlaps,
        supply=supply,
        debt=debt,
        supply_set_off=supply_set_off,
        debt_set_off=debt_set_off,
        cash=cash,
        cash_debt=cash_debt,
        seize=jnp.where(terms.seizable, seize[None], jnp.zeros_like(supply)),
        seize_cash=seize,
        fee=pool.protocol_fee[None] * jnp.maximum(bonus, 0) / (1 + bonus),
        repay=jnp.minimum(_ratio(jnp.minimum(due, value / factor), debt_left), 1),
    )


def _received(plan: _Plan, price: Array) -> Array:
    """USD at `price` of all that is seized, less the protocol's fee."""
    return _worth(plan.seize * plan.supply * (1 - plan.fee), price) + plan.seize_cash * plan.cash


def _repaid(plan: _Plan, pool: LendingRules, price: Array) -> tuple[Array, Array]:
    """Share of what is left of every debt that is repaid, and USD of proceeds beyond the debt, where the market trades at `price`."""
    proceeds, cost = _received(plan, price), _worth(plan.debt, price) + plan.cash_debt
    share = jnp.where(pool.market_execution, jnp.minimum(_ratio(proceeds, cost), 1), plan.repay)
    return share, jnp.where(pool.market_execution, jnp.maximum(proceeds - cost, 0), jnp.zeros_like(cost))


def _acts(plan: _Plan, terms: _Terms) -> Array:
    """Whether somebody finds the case worth his while, at venue prices; a case without anything to seize or repay is nobody's risk."""
    share, _ = _repaid(plan, terms.pool, terms.mark)
    required = terms.pool.required_profit
    # a lender who sells by himself asks for no profit
    always = jnp.isneginf(required) | terms.pool.market_execution
    cost = share * (_worth(plan.debt, terms.venue) + plan.cash_debt)
    # a case that just breaks even is taken up, whatever rounding says
    slack = 1 + EVEN * jnp.finfo(cost.dtype).eps
    enough = _received(plan, terms.venue) * slack >= (1 + jnp.where(always, jnp.zeros_like(required), required)) * cost
    return always | enough


def _assess(
    some: Loans, rules: LendingRules, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array, venue: Array, triggered: Array
) -> tuple[_Plan, _Terms]:
    """Plans of gathered accounts and the terms they are made under: what `demand` and `settle` both start from."""
    terms = _terms(some, rules, threshold, mark, venue)
    supply = jnp.stack(some.supply) * _of_blocks(supply_index, some.block_pool)
    debt = jnp.stack(some.debt) * _of_blocks(borrow_index, some.block_pool)

    return once(lambda: _plan(supply, debt, some.cash, some.age, triggered, terms), some.block_pool[0]), terms


def begin_round(loans: Loans, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array) -> Loans:
    """Where thresholds are smoothed, `smooth.anew` of the accounts that have sunk at these marks; else nothing to do."""
    if loans.smoothing is None:
        return loans
    given = (threshold, supply_index, borrow_index, mark)
    find = once(lambda: smooth.sunk(loans.smoothing, above(smooth.whole(loans), *given)), loans.block_pool[0])

    def local(batch, context):
        (some,) = batch
        return (smooth.anew(some, above(*lax.stop_gradient((smooth.remnant(some), *context)))),), ()

    found = ranks(find, loans.block_pool, mark.shape[0])
    ((after,), _) = over_batches(found, (loans,), local, given, (), writes=True, reverse=loans.reverse)
    return replace(loans, smoothing=after.smoothing)


def demand(loans: Loans, rules: LendingRules, threshold: Array, supply_index: Array, borrow_index: Array, mark: Array, venue: Array) -> LoanDemand:
    """What the population asks to have liquidated at these prices.

    Args:
      threshold: (V, A) liquidation threshold in force.
      supply_index, borrow_index: (V, A) coins per unit.
      mark: (V, A) USD per coin by which the pool judges health (its oracle).
      venue: (V, A) USD per coin at which a liquidator could trade now.
    """
    pools, assets = mark.shape
    below = _triggered(loans, threshold, supply_index, borrow_index, mark)
    found = ranks(below, loans.block_pool, pools)

    zero, zeros, none = jnp.zeros((pools,), mark.dtype), jnp.zeros((pools, assets), mark.dtype), jnp.zeros((pools,), jnp.int32)

    def local(batch, context):
        some, below = batch
        rules, *given = context
        part = _part(some, *given[:-1])
        plan, terms = _assess(smooth.whole(some), rules, *given, below)
        acts = _acts(plan, terms)
        asks = jnp.where(plan.triggered & acts, part, 0)
        share, _ = _repaid(plan, terms.pool, terms.mark)
        seized = plan.seize * plan.supply
        wanted = asks * (_worth(plan.set_off + seized, terms.mark) + plan.seize_cash * plan.cash)
        return None, (
            wanted,
            asks[None] * seized * (1 - plan.fee),
            (asks * share)[None] * plan.debt,
            plan.triggered & ~acts,
        )

    context = (rules, threshold, supply_index, borrow_index, mark, venue)
    _, sums = over_batches(found, (loans, below), local, context, (zero, zeros, zeros, none), reverse=loans.reverse)
    (notional, sold, bought, waiting), triggered = over_devices((sums, found.by_pool), loans.axis)
    return LoanDemand(
        under=below,
        triggered=triggered,
        notional=notional,
        sold=sold,
        bought=bought,
        waiting=waiting,
        found=found,
    )


def _carry_out(some: Loans, plan: _Plan, terms: _Terms, borrow_index: Array, share: Array, fill: Array, part: Array) -> tuple[Loans, LoanSettlement]:
    """The plans of gathered accounts, done: accounts after, and what was done to each of them, to be summed.

    Args: `borrow_index` and `fill` (A, blocks, 1); `share` (blocks, 1) of what is asked is granted; `part` (blocks, B) of each account it is about.
    """
    asks = plan.triggered & _acts(plan, terms)
    granted = jnp.where(asks, share, jnp.zeros_like(plan.cash))
    repay, surplus = _repaid(plan, terms.pool, fill)
    before = jnp.stack(some.supply), jnp.stack(some.debt)

    # one minus a share that is exactly one where all is taken, so that an account left with nothing is seen to be
    supply = (1 - granted[None] * (1 - (1 - plan.supply_set_off) * (1 - plan.seize))) * before[0]
    owed = (1 - granted[None] * (1 - (1 - plan.debt_set_off) * (1 - repay[None]))) * before[1]
    cash = (1 - granted * plan.seize_cash) * plan.cash - (1 - granted * repay) * plan.cash_debt + granted * surplus

    lost = asks & (jnp.sum(supply, axis=0) + jnp.maximum(cash, 0) == 0)
    written = jnp.where(lost[None], owed * borrow_index, jnp.zeros_like(owed))
    written_cash = jnp.where(lost, jnp.maximum(-cash, 0), jnp.zeros_like(cash))
    debt = jnp.where(lost[None], jnp.zeros_like(owed), owed)
    cash = jnp.where(lost, jnp.zeros_like(cash), cash)
    moved = jnp.any(supply != before[0], axis=0) | jnp.any(debt != before[1], axis=0) | (cash != some.cash)

    seized = granted[None] * plan.seize * plan.supply
    by_liquidator = jnp.where(terms.pool.market_execution, jnp.zeros_like(granted), granted)

    parts = part[None]
    done = LoanSettlement(
        seized=parts * seized,
        repaid=parts * (granted * repay)[None] * plan.debt,
        set_off=parts * granted[None] * plan.set_off,
        protocol_fee=parts * seized * plan.fee,
        written_off=parts * written,
        written_off_cash=part * written_cash,
        deficit=part * (_worth(written, terms.mark) + written_cash),
        seized_cash=part * by_liquidator * plan.seize_cash * plan.cash,
        repaid_cash=part * by_liquidator * repay * plan.cash_debt,
        cash_change=part * (cash - some.cash),
        supply_change=parts * (supply - before[0]),
        debt_change=parts * (debt - before[1]),
        newly_liquidated=moved & (part > 0) & ~some.liquidated,
    )
    return replace(some, supply=tuple(supply), debt=tuple(debt), cash=cash, liquidated=some.liquidated | moved), done


def settle(
    loans: Loans,
    rules: LendingRules,
    threshold: Array,
    supply_index: Array,
    borrow_index: Array,
    mark: Array,
    venue: Array,
    asked: LoanDemand,
    share: Array,
    fill: Array,
) -> tuple[Loans, LoanSettlement]:
    """Carry out what was asked, as far as granted.

    Who is liquidated, and how much of which collateral, is decided from the same marks and venue prices as in `demand`. A liquidator repays the
    seized value at mark / (1 + bonus). Under market execution collateral is sold, and debt coins bought pro rata to value, at the fill; proceeds
    beyond the debt become cash. An account left without any collateral is written off, and ends with nothing. (Aave v3.3 burns such debt likewise.)

    Args: those of `demand`; `asked` is its result; `share` (V,) of the demand that is granted; `fill` (V, A) USD per coin.
    """
    pools, assets = mark.shape
    zero, zeros = jnp.zeros((pools,), mark.dtype), jnp.zeros((pools, assets), mark.dtype)
    nothing = LoanSettlement(
        seized=zeros,
        repaid=zeros,
        set_off=zeros,
        protocol_fee=zeros,
        written_off=zeros,
        written_off_cash=zero,
        deficit=zero,
        seized_cash=zero,
        repaid_cash=zero,
        cash_change=zero,
        supply_change=zeros,
        debt_change=zeros,
        newly_liquidated=jnp.zeros((pools,), jnp.int32),
    )

    def local(batch, context):
        some, under = batch
        rules, *given, share, fill = context
        seen, borrow_index = given[:-1], given[2]
        begun, granted, part = smooth.whole(some), column(share[some.block_pool]), jnp.ones_like(some.cash)
        plan, terms = _assess(begun, rules, *given, under)
        index, price = _of_blocks(borrow_index, some.block_pool), _of_blocks(fill, some.block_pool)
        if some.smoothing is not None:
            # of the part that is triggered as much is carried out whole as is granted; where nobody acts, nothing
            part = jnp.where(plan.triggered & _acts(plan, terms), granted * _part(some, *seen), 0)
            granted = jnp.ones_like(granted)
        after, done = _carry_out(begun, plan, terms, index, granted, price, part)
        if some.smoothing is not None:
            after = smooth.parted(some, begun, after, part, lambda p: above(p, *seen))
        return (after, under), done

    context = (rules, threshold, supply_index, borrow_index, mark, venue, share, fill)
    (after, _), done = over_batches(asked.found, (loans, asked.under), local, context, nothing, writes=True, reverse=loans.reverse)
    return after, over_devices(done, loans.axis)
