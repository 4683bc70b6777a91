"""One round of liquidation: populations ask, pools ration, winners assume, the market moves, fills are settled, deficits go down the waterfall."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import accounts as perps
from stresslev.engine import lenders, loan_profile, profile, waterfall, winners
from stresslev.engine.accounts import Assumed, Bankrupt, Demand, Fills, Settlement
from stresslev.engine.flow import Closing, Conditions, Flow, coins_to_market, faces, fill_displaced, push, traded
from stresslev.engine.health import Prices, contract_gain
from stresslev.engine.lenders import Terms
from stresslev.engine.loan_profile import LoanProfile, LoanProfileDemand
from stresslev.engine.loans import LoanDemand, Loans, LoanSettlement
from stresslev.engine.prices import prices
from stresslev.engine.profile import Profile, ProfileDemand
from stresslev.engine.smooth import followed
from stresslev.engine.span import note, wake
from stresslev.engine.types import ADL, Accounts, Channels, Ledger, State, System
from stresslev.engine.waterfall import Borne, WrittenOff


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Flows:
    """What happened within one step. Levels are read off the state; these are the sums over the rounds of the step."""

    triggered: Array  # (V,) int32 demands for closing (an account may ask in several rounds)
    waiting: Array  # (V,) int32 demands that nobody took up at the price offered
    newly_liquidated: Array  # (V,) int32 accounts touched for the first time
    closed_long: Array  # (V, A) coins: longs closed (faces over the price), collateral sold or seized
    closed_short: Array  # (V, A) coins: shorts closed, debt repaid
    closed_long_usd: Array  # (V, A) USD at the fill price
    closed_short_usd: Array  # (V, A) USD at the fill price
    deleveraged: Array  # (V, A) coins of winners closed against the bankrupt, both sides
    deficit: Array  # (V,) USD, with what auto-deleveraging saved
    fund_draw: Array  # (V,) USD
    adl_usd: Array  # (V,) USD of deficit that auto-deleveraging saved
    socialised: Array  # (V,) USD
    fees: Array  # (V,) USD paid by liquidated accounts
    funding_paid: Array  # (V,) USD paid by those who pay
    margin_calls: Array  # (V,) USD that owners moved into the pool
    shared_in: Array  # (V,) USD that other pools' insurance funds paid, less what the pool's paid for others
    cash_residual: Array  # (V,) USD, zero but for rounding
    quantity_residual: Array  # (V, A) contracts in coins, zero but for rounding
    coins_residual: Array  # (V, A) coins, zero but for rounding
    rounds: Array  # () int32 rounds in which somebody was under margin
    reduced_usd: Array  # (V, A) USD of notional that pools forced accounts to close without liquidating them
    voluntary_usd: Array  # (V, A) USD of notional that accounts near their limit closed by themselves
    releveraged_usd: Array  # (V, A) USD of notional that accounts took back
    margin_posted: Array  # (V,) USD of outside cash that met margin calls
    called: Array  # (V,) int32 accounts with a margin call running
    trader_usd: Array  # (V, A) USD bought by algorithmic traders, less sold
    withdrawn: Array  # (V, A) coins that depositors took out of lenders


def no_flows(system: System) -> Flows:
    """Nothing has happened."""
    pools, assets = system.tier_floor.shape[:2]
    dtype = system.reference_price.dtype
    v, va, count = jnp.zeros((pools,), dtype), jnp.zeros((pools, assets), dtype), jnp.zeros((pools,), jnp.int32)
    counts = ("triggered", "waiting", "newly_liquidated", "called")
    by_asset = ("closed_long", "closed_short", "closed_long_usd", "closed_short_usd", "deleveraged", "quantity_residual", "coins_residual")
    by_asset += ("reduced_usd", "voluntary_usd", "releveraged_usd", "trader_usd", "withdrawn")
    shapes = dict.fromkeys(counts, count) | dict.fromkeys(by_asset, va) | {"rounds": jnp.int32(0)}
    return Flows(**{name: shapes.get(name, v) for name in Flows.__dataclass_fields__})


def add(*trees):
    """Sum of trees of one structure."""
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def lending_terms(state: State, threshold: Array) -> Terms:
    """Indices as they stand, with (V, A) thresholds in force."""
    rates = state.ledger.lending.rates
    return Terms(threshold=threshold, supply_index=1 + rates.supply_growth, borrow_index=1 + rates.borrow_growth)


@dataclass(frozen=True)
class _Asked:
    """Demands by population, and their sums."""

    single: tuple[Demand | LoanDemand | ProfileDemand | LoanProfileDemand, ...]
    grants: tuple[Array | None, ...]  # by population: share of each account's demand, where pools chose single accounts
    share: Array  # (V,) granted of the others' demand
    short: Array  # () bool, somebody had to wait for capacity
    capacity: Array  # (V,) left after it


def _begun(state: State, system: System, conditions: Conditions, seen: Prices, terms: Terms | None) -> State:
    """The populations as they go into the round."""

    def begun(p):
        if isinstance(p, Loans):
            return lenders.begin_round(p, terms, seen)
        return perps.begin_round(p, system, conditions.multiplier, seen) if isinstance(p, Accounts) else p

    return replace(state, populations=tuple(begun(p) for p in state.populations))


def _ask(state: State, system: System, conditions: Conditions, seen: Prices, capacity: Array) -> _Asked:
    """What every population asks for, and how far the pools' capacity goes."""
    found = []
    for p in state.populations:
        if isinstance(p, Loans):
            found.append(lenders.demand(p, system.lending.rules, lending_terms(state, conditions.threshold), seen))
        elif isinstance(p, Profile):
            found.append(profile.demand(p, system, conditions.multiplier, seen))
        elif isinstance(p, LoanProfile):
            found.append(loan_profile.demand(p, system, lending_terms(state, conditions.threshold), seen))
        else:
            found.append(perps.demand(p, system, conditions.multiplier, seen))
    notional = sum(d.notional for d in found)
    rationed, one = notional > capacity, jnp.ones_like(notional)
    # infinite capacity must not reach the quotient, where it would spoil the derivative
    share = jnp.where(rationed, jnp.where(rationed, capacity, one) / jnp.where(rationed, notional, one), one)
    grants = [None for _ in found]
    if system.queue is not None:
        for i, p in enumerate(state.populations):
            if isinstance(p, Accounts):

                def choose(p=p, d=found[i]):
                    granted = perps.ration(p, system, conditions.multiplier, seen, d, share, capacity)
                    return granted, perps.amounts(p, system, conditions.multiplier, seen, d, granted)

                def everybody(p=p, d=found[i]):
                    return jnp.ones_like(p.equity_at_reference), d.amounts

                grants[i], amounts = lax.cond(jnp.any(share < 1), choose, everybody)
                found[i] = replace(found[i], **amounts)
    return _Asked(tuple(found), tuple(grants), share, jnp.any(share < 1), jnp.maximum(capacity - notional, 0))


def _closing(asked: _Asked, assets: int) -> Closing:
    column = asked.share[:, None]
    longs = shorts = sold = bought = jnp.zeros((column.shape[0], assets), column.dtype)
    for d, grant in zip(asked.single, asked.grants, strict=True):
        part = column if grant is None else jnp.ones_like(column)
        if isinstance(d, LoanDemand | LoanProfileDemand):
            sold, bought = sold + part * d.sold, bought + part * d.bought
        else:
            longs, shorts, sold = longs + part * d.long_quantity, shorts + part * d.short_quantity, sold + part * d.coins
    return Closing(longs, shorts, sold, bought)


@dataclass(frozen=True)
class _Deleveraging:
    """Winners against the bankrupt in this round."""

    assumed: Assumed
    long_quantity: Array  # (V, A) coins of bankrupt longs assumed by shorts
    short_quantity: Array
    long_gain: Array  # (V, A) USD per coin: mean bankruptcy price less reference and funding
    short_gain: Array
    saved: Array  # (V,) USD of deficit
    sought: Array  # () bool, whether anybody looked for winners


def _deleveraging(state: State, system: System, conditions: Conditions, seen: Prices, asked: _Asked, displaced: Array) -> _Deleveraging:
    """Which part of the bankrupt's positions goes to winners: what the insurance fund could not pay for, as far as winners hold enough."""
    zero = jnp.zeros_like(displaced)
    nobody = Bankrupt(jnp.zeros_like(system.insurance_fund), *(zero,) * 6)

    def look():
        found, longs, shorts = nobody, zero, zero
        for p, d, grant in zip(state.populations, asked.single, asked.grants, strict=True):
            if isinstance(p, Accounts):
                found = add(found, perps.bankrupt(p, system, conditions.multiplier, seen, d, asked.share, grant, displaced))
                more_longs, more_shorts = winners.available(p, system, conditions.multiplier, seen, d.under)
                longs, shorts = longs + more_longs, shorts + more_shorts
        return found, longs, shorts

    uses_adl = jnp.any(system.waterfall == ADL, axis=1)
    triggered = sum(d.triggered for d in asked.single)
    found, longs, shorts = lax.cond(jnp.any(uses_adl & (triggered > 0)), look, lambda: (nobody, zero, zero))
    fund = jnp.where(waterfall.fund_before_adl(system), state.ledger.insurance_fund, 0)
    needed = found.deficit > 0
    uncovered = 1 - jnp.minimum(fund / jnp.where(needed, found.deficit, jnp.ones_like(fund)), 1)
    wanted = jnp.where(uses_adl & needed, uncovered, 0)[:, None]

    def part(quantity, there):
        safe = jnp.where(quantity > 0, quantity, jnp.ones_like(quantity))
        return jnp.where(quantity > 0, jnp.minimum(wanted, there / safe), 0)

    long_share, short_share = part(found.long_quantity, shorts), part(found.short_quantity, longs)

    def mean(value, quantity, sign):
        return sign * value / jnp.where(quantity > 0, quantity, jnp.ones_like(quantity))

    saved = jnp.sum(long_share * found.long_saved + short_share * found.short_saved, axis=1)
    return _Deleveraging(
        assumed=Assumed(displaced=displaced, long_share=long_share, short_share=short_share),
        long_quantity=long_share * found.long_quantity,
        short_quantity=short_share * found.short_quantity,
        long_gain=mean(found.long_value, found.long_quantity, 1),
        short_gain=mean(found.short_value, found.short_quantity, -1),
        saved=jnp.maximum(saved, 0),
        sought=jnp.any(wanted > 0),
    )


@dataclass(frozen=True)
class _Assumption:
    """What winners did, summed."""

    populations: tuple[Accounts | Loans | Profile | LoanProfile, ...]
    longs: Array  # (V, A) coins of winning longs closed
    shorts: Array
    cash_change: Array  # (V,)


def _assume(state: State, settled, system: System, conditions: Conditions, seen: Prices, asked: _Asked, plan: _Deleveraging) -> _Assumption:
    """Winners close; `settled` are the populations after those under margin were settled."""
    zero = jnp.zeros_like(plan.long_quantity)

    def close():
        populations, longs, shorts, cash = [], zero, zero, jnp.zeros_like(system.insurance_fund)
        bankrupt_longs, bankrupt_shorts = (plan.long_quantity, plan.long_gain), (plan.short_quantity, plan.short_gain)
        for p, before, d in zip(settled, state.populations, asked.single, strict=True):
            if isinstance(p, Accounts):
                p, more_longs, more_shorts, change = winners.assume(
                    p, before, system, conditions.multiplier, seen, d.under, bankrupt_shorts, bankrupt_longs
                )
                longs, shorts, cash = longs + more_longs, shorts + more_shorts, cash + change
            populations.append(p)
        return tuple(populations), longs, shorts, cash

    def leave():
        return settled, zero, zero, jnp.zeros_like(system.insurance_fund)

    return _Assumption(*lax.cond(jnp.any(plan.long_quantity + plan.short_quantity > 0), close, leave))


@dataclass(frozen=True)
class _Done:
    """What was settled, over all populations."""

    populations: tuple[Accounts | Loans | Profile | LoanProfile, ...]
    perps: Settlement | None
    loans: LoanSettlement | None


def _settle(populations, system, conditions, seen: Prices, asked: _Asked, fills: Fills, terms: Terms | None) -> _Done:
    after, closed, repaid = [], [], []
    for p, d, grant in zip(populations, asked.single, asked.grants, strict=True):
        if isinstance(p, Loans):
            price = system.reference_price[None, :] + fills.displaced
            p, s = lenders.settle(p, system.lending.rules, terms, seen, d, asked.share, price)
            repaid.append(s)
        elif isinstance(p, Profile):
            p, s = profile.settle(p, system, seen, d, fills)
            closed.append(s)
        elif isinstance(p, LoanProfile):
            p, s = loan_profile.settle(p, system, terms, seen, d, asked.share)
            repaid.append(s)
        else:
            p, s = perps.settle(p, system, conditions.multiplier, seen, d, replace(fills, grant=grant))
            closed.append(s)
        after.append(p)
    return _Done(tuple(after), add(*closed) if closed else None, add(*repaid) if repaid else None)


def round_of_liquidation(state: State, system: System, channels: Channels, conditions: Conditions, flow: Flow) -> tuple[State, Flows, Flow, Array]:
    """One round.

    Returns: state, what happened, flow and capacity after it, and () bool whether a pool had to ration.
    """
    seen = prices(state, system, conditions.seen)
    terms = None if system.lending is None else lending_terms(state, conditions.threshold)
    state = note(_begun(state, system, conditions, seen, terms), system, seen, conditions.multiplier, terms)
    asked = _ask(state, system, conditions, seen, flow.capacity)
    closing = _closing(asked, system.reference_price.shape[0])
    reached = traded(flow, system, coins_to_market(system, closing), seen.venue)
    moved = push(state, system, channels, conditions, flow, reached)
    plan, winning = None, None
    if system.adl is not None:
        tried = fill_displaced(system, seen, prices(moved, system, conditions.seen))
        plan = _deleveraging(state, system, conditions, seen, asked, tried)
        closing = replace(closing, longs=closing.longs - plan.long_quantity, shorts=closing.shorts - plan.short_quantity)
        reached = traded(flow, system, coins_to_market(system, closing), seen.venue)
        moved = push(state, system, channels, conditions, flow, reached)
    after = prices(moved, system, conditions.seen)
    fill = fill_displaced(system, seen, after)
    fills = Fills(
        share=asked.share, grant=None, displaced=fill, displaced_after=after.venue_displaced, assumed=None if plan is None else plan.assumed
    )
    done = _settle(state.populations, system, conditions, seen, asked, fills, terms)
    ledger, deficit, written = _book(state.ledger, system, closing, done, seen, fill)
    populations = done.populations
    if plan is not None:
        winning = _assume(state, populations, system, conditions, seen, asked, plan)
        populations = winning.populations
        moved = wake(moved, plan.sought)
        # what was actually closed, so that rounding shows in the residual and not in the ledger
        ledger = replace(
            ledger,
            long_quantity=ledger.long_quantity - plan.long_quantity - winning.longs,
            short_quantity=ledger.short_quantity - plan.short_quantity - winning.shorts,
        )
    moved = wake(moved, waterfall.reaches_accounts(system, deficit))
    ledger, populations, borne = waterfall.settle(ledger, populations, system, deficit, written, after)
    flows = _flows(state.ledger, ledger, system, asked, closing, done, deficit, borne, plan, winning, fill, seen.venue, terms)
    new_state = replace(moved, populations=followed(done.populations, populations), ledger=ledger)
    return new_state, flows, replace(reached, capacity=asked.capacity), asked.short


def _book(ledger: Ledger, system: System, closing: Closing, done: _Done, seen: Prices, fill: Array) -> tuple[Ledger, Array, WrittenOff | None]:
    """Makers, fees and lending totals after the fills; deficits (V,) USD and written-off debt still to be borne."""
    net = closing.net_contracts()
    gain = contract_gain(system, fill, seen.funding)
    maker_cash = ledger.maker_cash - net * gain
    deficit = jnp.zeros_like(ledger.bad_debt)
    coins, written, totals = jnp.zeros_like(net), None, ledger.lending
    fund, treasury, liquidators = ledger.insurance_fund, ledger.treasury, ledger.liquidators
    if done.perps is not None:
        fund, treasury = fund + done.perps.liquidation_fee, treasury + done.perps.taker_fee
        liquidators = liquidators + done.perps.liquidator_fee
        deficit = deficit + done.perps.deficit
        coins = coins - done.perps.coins_change
        maker_cash = maker_cash + done.perps.coins_change * fill
    if done.loans is not None:
        s = done.loans
        bought = s.seized - s.protocol_fee - s.repaid
        coins = coins + bought
        maker_cash = maker_cash - bought * fill
        # what makers pay for the coins and accounts do not get stays with the liquidators
        paid = jnp.sum(bought * (system.reference_price[None, :] + fill), axis=1)
        liquidators = liquidators + paid - (s.cash_change - s.written_off_cash)
        deficit = deficit + s.deficit
        written = WrittenOff(coins=s.written_off, cash=s.written_off_cash, mark=seen.mark, bought=jnp.zeros_like(net))
        totals = replace(
            totals,
            supply_units=totals.supply_units + s.supply_change,
            debt_units=totals.debt_units + s.debt_change,
            rates=replace(totals.rates, reserves=totals.rates.reserves + s.protocol_fee),
        )
    booked = replace(
        ledger,
        insurance_fund=fund,
        treasury=treasury,
        liquidators=liquidators,
        maker_cash=maker_cash,
        maker_quantity=ledger.maker_quantity + net,
        maker_coins=ledger.maker_coins + coins,
        long_quantity=ledger.long_quantity - closing.longs,
        short_quantity=ledger.short_quantity - closing.shorts,
        lending=totals,
    )
    return booked, deficit, written


def pool_cash(ledger: Ledger, system: System) -> Array:
    """(V,) USD that is not the accounts': makers, funds, treasuries, liquidators, less what is lost."""
    maker = jnp.sum(ledger.maker_cash, axis=1)
    lost = ledger.bad_debt
    if system.lending is not None:
        held = jnp.sum(ledger.maker_coins * system.reference_price[None, :], axis=1)
        maker = jnp.where(system.lending.pool, maker - held, maker)
        lost = jnp.where(system.lending.pool, ledger.lending.written_off_cash, lost)
    return maker + ledger.insurance_fund + ledger.treasury + ledger.liquidators - lost


def pool_coins(ledger: Ledger, index_of_supply: Array | None) -> Array:
    """(V, A) coins that are not the accounts', assets of the outside counted positive."""
    if ledger.lending is None:
        return ledger.maker_coins
    lend = ledger.lending
    deposits = lend.deposit_units * index_of_supply
    return ledger.maker_coins + deposits + lend.rates.reserves - lend.written_off


def _flows(
    before: Ledger, after: Ledger, system, asked: _Asked, closing: Closing, done: _Done, deficit, borne: Borne, plan, winning, fill, venue, terms
):
    flows = no_flows(system)
    triggered = sum(d.triggered for d in asked.single)
    price = system.reference_price[None, :] + fill
    longs, shorts = closing.longs, closing.shorts
    cash = borne.cash_change - borne.shared_in + (pool_cash(after, system) - pool_cash(before, system))
    quantity = after.maker_quantity - before.maker_quantity
    coins, adl_usd, fees = jnp.zeros_like(longs), jnp.zeros_like(deficit), jnp.zeros_like(deficit)
    newly, deleveraged = jnp.zeros_like(triggered), jnp.zeros_like(longs)
    if winning is not None:
        cash, adl_usd = cash + winning.cash_change, plan.saved
        quantity = quantity + winning.shorts - winning.longs
        deleveraged = winning.longs + winning.shorts
        longs, shorts = longs + plan.long_quantity, shorts + plan.short_quantity
    if done.perps is not None:
        s = done.perps
        cash, quantity, coins = cash + s.cash_change, quantity + s.quantity_change, coins + s.coins_change
        fees = fees + s.liquidation_fee + s.taker_fee + s.liquidator_fee
        newly = newly + s.newly_liquidated
    if done.loans is not None:
        s = done.loans
        cash = cash + s.cash_change
        coins = coins + s.supply_change * terms.supply_index - s.debt_change * terms.borrow_index
        newly = newly + s.newly_liquidated
    if after.lending is not None:
        # deposits cut by a socialised loss: borrowers' collateral shrinks with all others'
        cut = after.lending.rates.supply_growth - before.lending.rates.supply_growth
        coins = coins + after.lending.supply_units * cut
    of_face = faces(system, longs), faces(system, shorts)
    further = closing.coins_sold - (of_face[0] - of_face[1]) / venue  # coins that are not those of a contract
    sold = longs - of_face[0] + of_face[0] / venue + jnp.maximum(further, 0)
    bought = shorts - of_face[1] + of_face[1] / venue + jnp.maximum(-further, 0) + closing.coins_bought
    old_index = None if before.lending is None else 1 + before.lending.rates.supply_growth
    new_index = None if after.lending is None else 1 + after.lending.rates.supply_growth
    coins = coins + (pool_coins(after, new_index) - pool_coins(before, old_index))
    return replace(
        flows,
        triggered=triggered,
        waiting=sum(d.waiting for d in asked.single),
        newly_liquidated=newly,
        closed_long=sold,
        closed_short=bought,
        closed_long_usd=sold * price,
        closed_short_usd=bought * price,
        deleveraged=deleveraged,
        deficit=deficit + adl_usd,
        fund_draw=borne.fund_draw,
        adl_usd=adl_usd,
        socialised=borne.socialised,
        shared_in=borne.shared_in,
        fees=fees,
        cash_residual=cash,
        quantity_residual=quantity if system.inverse is None else jnp.where(system.inverse, quantity / venue, quantity),
        coins_residual=coins,
        rounds=jnp.any(triggered > 0).astype(jnp.int32),
    )
