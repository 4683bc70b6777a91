"""What a tightened cap does to the accounts above it: nothing but barring new risk, a margin call with a window, or reduction at a pace."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.blocks import anywhere, column, over_devices, pool_sum
from stresslev.engine.health import Prices, assess, of_contracts, rules_for, spread
from stresslev.engine.leverage.caps import Caps, CapState, call_level, initial_margin
from stresslev.engine.types import Accounts, System

#: Codes of `Transition.form`.
NEW_RISK, CALL, PACE = 0, 1, 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transition:
    """How each pool brings accounts down to a tightened cap, and how its users behave meanwhile. (V,) each.

    Utilisation is call level over margin equity (`caps.call_level`); at one an account is called.
    """

    form: Array  # int32 NEW_RISK, CALL or PACE
    window: Array  # int32 steps that a called account has [CALL]
    met: Array  # share of the shortage that is met with outside cash when the window ends; the rest is met by reducing [CALL]
    pace: Array  # share of the excess closed per step [PACE]
    aim: Array  # utilisation that a reduction aims at, in (0, 1]
    warn: Array  # utilisation above which users reduce by themselves; inf never
    response: Array  # share of the excess over `warn` that they close per step
    safe: Array  # utilisation below which users take back what they gave up; 0 never
    releverage: Array  # share of what was given up that is taken back per step, at most
    over_maintenance: Array  # initial over maintenance margin, >= 1: what new risk must have besides the cap


@dataclass(frozen=True)
class Plan:
    """What the accounts of a population do in this step before anything is liquidated, (nb, B)."""

    share: Array  # of every position that is closed; negative where positions are taken back
    forced: Array  # the part of `share` that the pool forces
    posted: Array  # USD of outside cash
    age: Array  # int32 steps since the call


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asked:
    """Sums of a plan at the marks, by pool."""

    longs: Array  # (V, A) contracts of longs closed, less taken back
    shorts: Array  # (V, A)
    reduced_usd: Array  # (V, A) USD of notional closed by force
    voluntary_usd: Array  # (V, A) USD closed by the users themselves
    releveraged_usd: Array  # (V, A) USD taken back
    posted: Array  # (V,) USD
    called: Array  # (V,) int32 accounts with a call running


def plan(
    accounts: Accounts, system: System, transition: Transition, caps: Caps, state: CapState, multiplier: Array, prices: Prices, outage: Array
) -> tuple[Plan, Asked]:
    """Who is above the cap and what becomes of it. Accounts under maintenance margin are left to liquidation, pools with an outage stand still.

    Args: `multiplier` (V, A) of the maintenance requirement in force; `outage` (V,) bool.
    """
    rules = rules_for(accounts, system, multiplier, prices)
    health = assess(accounts, rules)
    t = jax.tree.map(lambda x: column(x[accounts.block_pool]), transition)
    cap, base = of_contracts(accounts, state.cap), of_contracts(accounts, caps.base)
    level = call_level(health.notionals, cap, base, accounts.allowed, health.required)
    equity, zero = health.margin_equity, jnp.zeros_like(health.equity)
    open_now = ~column(outage[accounts.block_pool])
    fine = ~health.under & (level > 0) & open_now
    use = jnp.where(fine, level / jnp.where(equity > 0, equity, jnp.ones_like(equity)), zero)

    def cut_to(aim: Array, held: Array) -> Array:
        """Share to close so that the level is at most `aim` of what is held: it falls at least in proportion, as requirements are convex."""
        return jnp.where(fine, jnp.clip(1 - aim * held / jnp.where(fine, level, jnp.ones_like(level)), 0, 1), zero)

    over = fine & (use > 1)
    counted = accounts.call_age + 1
    due = over & (t.form == CALL) & (counted > t.window)
    age = jnp.where(over & (t.form == CALL) & ~due, counted, jnp.where(open_now, 0, accounts.call_age))
    posted = jnp.where(due, t.met * (level - equity), zero)
    at_due = jnp.where(due & (t.met < 1), cut_to(t.aim, equity + posted), zero)
    forced = jnp.where(over & (t.form == PACE), t.pace * cut_to(t.aim, equity), at_due)
    wary = fine & (use > t.warn)
    chosen = jnp.where(wary, t.response * cut_to(jnp.where(jnp.isfinite(t.warn), t.warn, jnp.ones_like(t.warn)), equity), zero)
    share = jnp.maximum(forced, chosen)
    own = cap if accounts.allowed is None else tuple(c * accounts.allowed for c in cap)
    needed = initial_margin(health.notionals, own, health.required, t.over_maintenance)
    room = jnp.minimum(t.safe / jnp.where(use > 0, use, jnp.ones_like(use)), equity / jnp.where(needed > 0, needed, jnp.ones_like(needed))) - 1
    wanted = t.releverage * (1 / accounts.appetite - 1)
    calm = fine & (use < t.safe) & (share == 0)
    share = jnp.where(calm, -jnp.clip(wanted, 0, jnp.maximum(room, 0)), share)
    result = Plan(share=share, forced=forced, posted=posted, age=age)
    return result, _sums(accounts, result, health.notionals, multiplier.shape)


def _sums(accounts: Accounts, p: Plan, notionals: tuple[Array, ...], shape: tuple[int, int]) -> Asked:
    pools, assets = shape

    def by_pool(values):
        return pool_sum(jnp.sum(values, axis=1), accounts.block_pool, pools)

    def by_asset(values):
        return spread([by_pool(x) for x in values], accounts.contract_assets, assets)

    def look():
        found = Asked(
            longs=by_asset([p.share * jnp.maximum(q, 0) for q in accounts.quantity]),
            shorts=by_asset([p.share * jnp.maximum(-q, 0) for q in accounts.quantity]),
            reduced_usd=by_asset([p.forced * n for n in notionals]),
            voluntary_usd=by_asset([jnp.maximum(p.share - p.forced, 0) * n for n in notionals]),
            releveraged_usd=by_asset([jnp.maximum(-p.share, 0) * n for n in notionals]),
            posted=by_pool(p.posted),
            called=pool_sum(jnp.sum(p.age > 0, axis=1, dtype=jnp.int32), accounts.block_pool, pools),
        )
        return over_devices(found, accounts.axis)

    def nothing():
        va = jnp.zeros(shape, p.share.dtype)
        return Asked(va, va, va, va, va, va[:, 0], jnp.zeros((pools,), jnp.int32))

    return jax.lax.cond(anywhere(jnp.any((p.share != 0) | (p.posted > 0) | (p.age > 0)), accounts.axis), look, nothing)


def after(accounts: Accounts, p: Plan) -> Accounts:
    """What the accounts remember of a plan that was carried out: their calls, and the share of their own wish that they still hold."""
    return replace(accounts, call_age=p.age, appetite=accounts.appetite * (1 - p.share))
