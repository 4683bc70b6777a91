"""The population of accounts: at these marks, what must be sold, and what is lost when it is.

Every account is looked at in every round (one dense, fused pass that only reads). Blocks in which somebody is under margin are then gathered in
batches of fixed size, so the dearer work of closing and settling is done only where something happens, and with the same arithmetic.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine import margin
from stresslev.engine.liquidation import close_fraction
from stresslev.engine.types import Accounts, Policy, System

#: Accounts that one batch of gathered blocks holds, about.
BATCH_ACCOUNTS = 16384


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Demand:
    """What a population asks its pools to close, before capacity."""

    triggered: Array  # (V,) int32 accounts under margin
    notional: Array  # (V,) USD, gross, at the marks
    long_quantity: Array  # (V, A) coins of longs to be sold, >= 0
    short_quantity: Array  # (V, A) coins of shorts to be bought back, >= 0
    blocks: Array  # (nb,) int32 the blocks with a triggered account first, then out-of-range fill
    count: Array  # () int32 how many they are


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fills:
    """What the pools and the market granted."""

    share: Array  # (V,) of the demand that is filled
    log_price: Array  # (A,) before the round: decides who is under margin
    displaced: Array  # (A,) USD away from reference, before the round
    displaced_fill: Array  # (A,) at the fill
    displaced_after: Array  # (A,) after the round


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Settlement:
    """What the fills did, summed over accounts; (V,) USD unless said."""

    liquidation_fee: Array
    taker_fee: Array
    deficit: Array
    newly_liquidated: Array  # (V,) int32
    cash_change: Array  # sum of the changes of `equity_at_reference`
    quantity_change: tuple[Array, ...]  # A arrays (V,) coins


@dataclass(frozen=True)
class _Rules:
    """The parameters of the pools, expanded to blocks; per-asset values as tuples of (blocks, 1)."""

    price: tuple[Array, ...]
    floor: Array  # (blocks, 1, A, K): the unit axis stands for the accounts of a block
    step: Array
    multiplier: tuple[Array, ...]
    restore: Array  # (blocks, 1)
    liquidation_fee: Array
    taker_fee: Array
    target_health: Array


def _column(x: Array) -> Array:
    return x[:, None]


def _rules(block_pool: Array, system: System, policy: Policy, price: Array) -> _Rules:
    multiplier = policy.maintenance_multiplier[block_pool]
    assets = range(price.shape[0])
    return _Rules(
        price=tuple(price[a] for a in assets),
        floor=system.tier_floor[block_pool][:, None],
        step=system.tier_step[block_pool][:, None],
        multiplier=tuple(_column(multiplier[:, a]) for a in assets),
        restore=_column(system.restore[block_pool]),
        liquidation_fee=_column(system.liquidation_fee[block_pool]),
        taker_fee=_column(system.taker_fee[block_pool]),
        target_health=_column(system.target_health[block_pool]),
    )


def _assess(equity_at_reference: Array, quantity: tuple[Array, ...], rules: _Rules, displaced: Array):
    """Equity, notionals and maintenance margin of accounts in blocks, each (blocks, B)."""
    equity = margin.equity(equity_at_reference, quantity, tuple(displaced))
    notionals = margin.notional(quantity, rules.price)
    required = margin.maintenance_margin(notionals, rules.floor, rules.step, rules.multiplier)
    return equity, notionals, required


def _close(equity_at_reference, quantity, rules: _Rules, displaced):
    equity, notionals, required = _assess(equity_at_reference, quantity, rules, displaced)
    share = close_fraction(
        equity,
        required,
        notionals,
        rules.floor,
        rules.step,
        rules.multiplier,
        rules.restore,
        rules.liquidation_fee + rules.taker_fee,
        rules.target_health,
    )
    return share, notionals


def _pool_sum(block_values: Array, block_pool: Array, pools: int) -> Array:
    """Sum of per-block values by pool: a small product with a one-hot matrix, in a fixed order, free of scatters."""
    member = (block_pool[None, :] == jnp.arange(pools, dtype=block_pool.dtype)[:, None]).astype(block_values.dtype)
    return jnp.sum(member * block_values[None, :], axis=1, dtype=block_values.dtype)


def _batch(accounts: Accounts) -> int:
    blocks, size = accounts.equity_at_reference.shape
    return min(blocks, max(1, BATCH_ACCOUNTS // size))


def _gather(accounts: Accounts, rows: Array):
    """The accounts of some blocks; rows past the end give empty accounts of pool 0."""

    def take(x, fill):
        return x.at[rows].get(mode="fill", fill_value=fill)

    return replace(
        accounts,
        equity_at_reference=take(accounts.equity_at_reference, 0),
        quantity=tuple(take(q, 0) for q in accounts.quantity),
        liquidated=take(accounts.liquidated, False),
        block_pool=take(accounts.block_pool, 0),
    )


def _over_batches(blocks: Array, count: Array, size: int, body, init):
    """Fold `body(rows, carry)` over the first `count` entries of `blocks`, `size` at a time."""
    padded = jnp.concatenate([blocks, jnp.full((size,), blocks.shape[0], blocks.dtype)])

    def step(carry):
        start, inner = carry
        rows = lax.dynamic_slice_in_dim(padded, start, size)
        return start + size, body(rows, inner)

    return lax.while_loop(lambda c: c[0] < count, step, (jnp.int32(0), init))[1]


def demand(accounts: Accounts, system: System, policy: Policy, log_price: Array) -> Demand:
    """What the population asks to have closed at these marks.

    Args: `log_price` (A,) over reference. Returns a `Demand`.
    """
    pools, assets = policy.maintenance_multiplier.shape
    price = system.reference_price * jnp.exp(log_price)
    displaced = margin.displacement(log_price, system.reference_price)
    rules = _rules(accounts.block_pool, system, policy, price)
    equity, _, required = _assess(accounts.equity_at_reference, accounts.quantity, rules, displaced)
    under = jnp.sum(~(equity >= required), axis=1, dtype=jnp.int32)
    total = under.shape[0]
    blocks = jnp.nonzero(under > 0, size=total, fill_value=total)[0].astype(jnp.int32)
    count = jnp.sum(under > 0, dtype=jnp.int32)

    dtype = price.dtype
    zero = jnp.zeros((pools,), dtype)
    init = (zero, tuple(zero for _ in range(assets)), tuple(zero for _ in range(assets)))

    def body(rows, carry):
        notional, longs, shorts = carry
        some = _gather(accounts, rows)
        share, notionals = _close(some.equity_at_reference, some.quantity, _rules(some.block_pool, system, policy, price), displaced)

        def add(total, values):
            return total + _pool_sum(jnp.sum(values, axis=1), some.block_pool, pools)

        return (
            add(notional, share * sum(notionals[1:], notionals[0])),
            tuple(add(s, share * jnp.maximum(q, 0)) for s, q in zip(longs, some.quantity, strict=True)),
            tuple(add(s, share * jnp.maximum(-q, 0)) for s, q in zip(shorts, some.quantity, strict=True)),
        )

    notional, longs, shorts = _over_batches(blocks, count, _batch(accounts), body, init)
    return Demand(
        triggered=_pool_sum(under, accounts.block_pool, pools),
        notional=notional,
        long_quantity=jnp.stack(longs, axis=1),
        short_quantity=jnp.stack(shorts, axis=1),
        blocks=blocks,
        count=count,
    )


def settle(accounts: Accounts, system: System, policy: Policy, asked: Demand, fills: Fills) -> tuple[Accounts, Settlement]:
    """Carry out the fills: positions, cash, fees and deficits of the accounts that were under margin."""
    pools, assets = policy.maintenance_multiplier.shape
    price = system.reference_price * jnp.exp(fills.log_price)
    fill_price = system.reference_price + fills.displaced_fill
    dtype = price.dtype
    zero = jnp.zeros((pools,), dtype)
    nothing = Settlement(
        liquidation_fee=zero,
        taker_fee=zero,
        deficit=zero,
        newly_liquidated=jnp.zeros((pools,), jnp.int32),
        cash_change=zero,
        quantity_change=tuple(zero for _ in range(assets)),
    )

    def body(rows, carry):
        accounts, done = carry
        some = _gather(accounts, rows)
        rules = _rules(some.block_pool, system, policy, price)
        wanted, _ = _close(some.equity_at_reference, some.quantity, rules, fills.displaced)
        share = wanted * _column(fills.share[some.block_pool])
        kept = tuple((1 - share) * q for q in some.quantity)
        proceeds = sum(q * d for q, d in zip(some.quantity, fills.displaced_fill, strict=True))
        traded = share * sum(jnp.abs(q) * p for q, p in zip(some.quantity, fill_price, strict=True))
        left = some.equity_at_reference + proceeds  # if all of it were closed at the fill
        deficit = share * jnp.maximum(-left, 0)
        # old + share * proceeds + deficit; written so that an account closed in full at a loss ends at zero exactly, whatever is fused
        old = some.equity_at_reference
        cash = jnp.where(left < 0, (1 - share) * old, old + share * proceeds)
        equity_after = margin.equity(cash, kept, tuple(fills.displaced_after))
        rate = rules.liquidation_fee + rules.taker_fee
        paid = jnp.minimum(rate * traded, jnp.maximum(equity_after, 0))
        to_fund = jnp.where(rate > 0, rules.liquidation_fee / jnp.where(rate > 0, rate, jnp.ones_like(rate)), 0)
        cash = cash - paid
        hit = some.liquidated | (traded > 0)

        def add(total, values):
            return total + _pool_sum(jnp.sum(values, axis=1, dtype=total.dtype), some.block_pool, pools)

        done = Settlement(
            liquidation_fee=add(done.liquidation_fee, paid * to_fund),
            taker_fee=add(done.taker_fee, paid * (1 - to_fund)),
            deficit=add(done.deficit, deficit),
            newly_liquidated=add(done.newly_liquidated, hit & ~some.liquidated),
            cash_change=add(done.cash_change, cash - some.equity_at_reference),
            quantity_change=tuple(add(t, k - q) for t, k, q in zip(done.quantity_change, kept, some.quantity, strict=True)),
        )

        def put(x, values):
            return x.at[rows].set(values, mode="drop", unique_indices=True, indices_are_sorted=True)

        accounts = replace(
            accounts,
            equity_at_reference=put(accounts.equity_at_reference, cash),
            quantity=tuple(put(x, k) for x, k in zip(accounts.quantity, kept, strict=True)),
            liquidated=put(accounts.liquidated, hit),
        )
        return accounts, done

    return _over_batches(asked.blocks, asked.count, _batch(accounts), body, (accounts, nothing))


def latent_deficit(accounts: Accounts, system: System, log_price: Array, pools: int) -> Array:
    """(V,) USD of negative equity in accounts that still hold positions: losses made and not settled."""
    displaced = margin.displacement(log_price, system.reference_price)
    equity = margin.equity(accounts.equity_at_reference, accounts.quantity, tuple(displaced))
    return _pool_sum(jnp.sum(jnp.maximum(-equity, 0), axis=1), accounts.block_pool, pools)


def totals(accounts: Accounts, pools: int) -> tuple[Array, Array, Array]:
    """Sums by pool: `equity_at_reference` (V,), long and short quantity (V, A)."""

    def by_pool(values):
        return _pool_sum(jnp.sum(values, axis=1), accounts.block_pool, pools)

    longs = jnp.stack([by_pool(jnp.maximum(q, 0)) for q in accounts.quantity], axis=1)
    shorts = jnp.stack([by_pool(jnp.maximum(-q, 0)) for q in accounts.quantity], axis=1)
    return by_pool(accounts.equity_at_reference), longs, shorts
