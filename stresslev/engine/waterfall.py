"""Who bears a deficit, stage by stage in each pool's own order; what is left after the last stage is bad debt."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import winners
from stresslev.engine.health import Prices
from stresslev.engine.types import ADL, INSURANCE_FUND, SHARED_FUNDS, SOCIALISE, Accounts, Ledger, LendingLedger, Loans, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WrittenOff:
    """Debt of lending accounts that nothing is left to repay from, as far as nobody has borne it."""

    coins: Array  # (V, A)
    cash: Array  # (V,) USD
    mark: Array  # (V, A) USD per coin at which it became a deficit
    bought: Array  # (V, A) coins that funds have bought to repay it


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Borne:
    """Who bore a round's deficits; (V,) USD."""

    fund_draw: Array  # paid by insurance funds, its own or others', by the pool that had the deficit
    shared_in: Array  # got from other pools' funds less paid for other pools; adds up to zero
    socialised: Array
    cash_change: Array  # of the accounts that bore losses


def fund_before_adl(system: System) -> Array:
    """(V,) bool: whether a pool's insurance fund pays before winners are deleveraged."""

    def place(stage):
        hit = system.waterfall == stage
        return jnp.where(jnp.any(hit, axis=1), jnp.argmax(hit, axis=1), system.waterfall.shape[1])

    return place(INSURANCE_FUND) < place(ADL)


def reaches_accounts(system: System, deficit: Array) -> Array:
    """() bool: whether deficits (V,) USD may be spread over perp accounts, whichever stage before that would have met them."""
    if system.socialise_by is None:
        return jnp.array(False)
    spread = (deficit > 0) & jnp.any(system.waterfall == SOCIALISE, axis=1)
    return jnp.any(spread if system.lending is None else spread & ~system.lending.pool)


def _shared(fund: Array, left: Array, group: Array) -> tuple[Array, Array]:
    """Deficits `left` (V,) met by the funds of each group: what each pool gets, and what each fund pays, in proportion to what it holds."""
    member = (group[:, None] == group[None, :]) & (group >= 0)[None, :] & (group >= 0)[:, None]
    together = member.astype(fund.dtype)
    funds, needs = together @ fund, together @ left
    paid = jnp.minimum(funds, needs)
    got = left * paid / jnp.where(needs > 0, needs, jnp.ones_like(needs))
    given = fund * paid / jnp.where(funds > 0, funds, jnp.ones_like(funds))
    return got, given


def _cut_deposits(lending: LendingLedger, lost: Array) -> tuple[LendingLedger, Array]:
    """Take `lost` (V, A) coins off all deposits pro rata, at most what there is; returns the coins taken."""
    units = lending.supply_units + lending.deposit_units
    held = units * lending.rates.supply_index
    taken = jnp.minimum(lost, held)
    growth = lending.rates.supply_growth - taken / jnp.where(units > 0, units, jnp.ones_like(units))
    rates = replace(lending.rates, supply_growth=jnp.where(units > 0, growth, lending.rates.supply_growth))
    return replace(lending, rates=rates), jnp.where(units > 0, taken, 0)


def _repaid(debt: WrittenOff, share: Array) -> WrittenOff:
    """Funds repay a share (V,) of what is left, coins and USD alike."""
    part = share[:, None] * debt.coins
    return replace(debt, coins=debt.coins - part, cash=(1 - share) * debt.cash, bought=debt.bought + part)


def settle(
    ledger: Ledger,
    populations: tuple[Accounts | Loans, ...],
    system: System,
    deficit: Array,
    written: WrittenOff | None,
    prices: Prices,
) -> tuple[Ledger, tuple[Accounts | Loans, ...], Borne]:
    """Meet a round's deficits (V,) USD; fees must be in the funds already.

    `fund draw + socialised + d bad_debt = deficit`, each >= 0 (auto-deleveraging prevents a deficit; it has been done before). What funds pay for
    debt that was written off in coins buys those coins at the marks of the write-off.

    Args: `prices` after the round, at which gains count.
    """
    zero = jnp.zeros_like(deficit)
    fund, left, draw, shared_in, socialised, cash_change = ledger.insurance_fund, deficit, zero, zero, zero, zero
    lending, debt = ledger.lending, written
    for stage in range(system.waterfall.shape[1]):
        code = system.waterfall[:, stage]
        paid = jnp.where(code == INSURANCE_FUND, jnp.minimum(fund, left), 0)
        fund = fund - paid
        if system.fund_group is not None:
            got, given = _shared(fund, jnp.where(code == SHARED_FUNDS, left, 0), system.fund_group)
            fund, paid, shared_in = fund - given, paid + got, shared_in + (got - given)
        if debt is not None:
            debt = _repaid(debt, paid / jnp.where(left > 0, left, jnp.ones_like(left)))
        left, draw = jnp.maximum(left - paid, 0), draw + paid
        if system.socialise_by is not None:
            due = jnp.where(code == SOCIALISE, left, 0)
            if debt is not None:
                lending, taken = _cut_deposits(lending, jnp.where((code == SOCIALISE)[:, None], debt.coins, 0))
                debt = replace(debt, coins=debt.coins - taken)
                borne = jnp.minimum(jnp.sum(taken * debt.mark, axis=1), due)
                left, socialised, due = left - borne, socialised + borne, due - borne
                due = jnp.where(system.lending.pool, 0, due)
            after = []
            for p in populations:
                if isinstance(p, Accounts):

                    def spread(p=p, due=due):
                        return winners.socialise(p, system, prices, due)

                    p, charged, change = lax.cond(jnp.any(due > 0), spread, lambda p=p: (p, zero, zero))
                    left, socialised, cash_change = left - charged, socialised + charged, cash_change + change
                after.append(p)
            populations = tuple(after)
            left = jnp.maximum(left, 0)
    maker_cash, maker_coins = ledger.maker_cash, ledger.maker_coins
    if debt is not None:
        maker_coins = maker_coins - debt.bought
        # bought from the makers at the marks, in their convention of equity at reference prices
        maker_cash = maker_cash + debt.bought * (debt.mark - system.reference_price[None, :])
        lending = replace(lending, written_off=lending.written_off + debt.coins, written_off_cash=lending.written_off_cash + debt.cash)
    after = replace(
        ledger,
        insurance_fund=fund,
        bad_debt=ledger.bad_debt + left,
        lending=lending,
        maker_cash=maker_cash,
        maker_coins=maker_coins,
    )
    return after, populations, Borne(fund_draw=draw, shared_in=shared_in, socialised=socialised, cash_change=cash_change)
