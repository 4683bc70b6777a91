"""A state summed anew on the host: what no run may change, and what has been lost and not been settled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine import accounts as perps
from stresslev.engine import lenders, loan_profile, profile
from stresslev.engine.lenders import Terms
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.loans import Loans
from stresslev.engine.prices import Seen, prices
from stresslev.engine.profile import Profile
from stresslev.engine.round import pool_cash, pool_coins
from stresslev.engine.types import Accounts, State, System, cast
from stresslev.sharding import ONE, Sharding


def host(x) -> np.ndarray:
    """On the host, in float64."""
    return np.asarray(x, dtype=float)


@dataclasses.dataclass(frozen=True)
class Audit:
    """All ledgers summed anew on the host in float64: USD (V,), contracts and coins (V, A), which no run may change."""

    cash: np.ndarray
    contracts: np.ndarray
    coins: np.ndarray


def _by_pool(values, block_pool, pools: int) -> np.ndarray:
    return np.bincount(np.asarray(block_pool), weights=np.asarray(values).sum(axis=1, dtype=float), minlength=pools)


def audit(state: State, system: System, sharding: Sharding = ONE) -> Audit:
    """The sums of a state."""
    pools, assets = system.tier_floor.shape[:2]
    state = sharding.own(state)
    with jax.enable_x64(True):
        ledger = cast(state.ledger, np.float64)
        index = jnp.ones((pools, assets)), jnp.ones((pools, assets))
        if ledger.lending is not None:
            index = 1 + ledger.lending.rates.supply_growth, 1 + ledger.lending.rates.borrow_growth
        cash = np.array(pool_cash(ledger, cast(dataclasses.replace(system, owners=None), np.float64)))
        contracts, coins = np.array(ledger.maker_quantity), np.array(pool_coins(ledger, index[0]))
        index = tuple(np.array(i) for i in index)
    cash, contracts, coins = (held + rest for held, rest in zip(_of_accounts(state, index, sharding), (cash, contracts, coins), strict=True))
    if state.venues is not None:
        contracts += host(state.venues.arb_quantity)
        cash += host(state.venues.arb_cash).sum(axis=1)
    if state.traders is not None:
        held = state.traders
        cash += host(held.cash).sum(axis=(0, 2)) + host(held.hedge_cash).sum(axis=1)
        contracts += host(held.quantity).sum(axis=0)
        coins += host(held.hedge_quantity)
    for p in state.populations:
        if isinstance(p, LoanProfile):
            with jax.enable_x64(True):
                supply, debt, held = loan_profile.totals(cast(p, np.float64), cast(system, np.float64))
            cash += host(held)
            coins += host(supply) * index[0] - host(debt) * index[1]
        elif isinstance(p, Profile):
            with jax.enable_x64(True):
                held, longs, shorts = profile.totals(cast(p, np.float64), cast(system, np.float64))
            cash += host(held)
            contracts += host(longs) - host(shorts)
    return Audit(cash, contracts, coins)


def _of_accounts(state: State, index: tuple[np.ndarray, np.ndarray], sharding: Sharding) -> tuple[np.ndarray, ...]:
    """Cash, contracts and coins of all accounts, given this process's and the indices of lenders."""
    pools, assets = index[0].shape
    cash, contracts, coins = np.zeros(pools), np.zeros((pools, assets)), np.zeros((pools, assets))
    for p in state.populations:
        if isinstance(p, Loans):
            cash += _by_pool(p.cash, p.block_pool, pools)
            for a, s, d in zip(p.assets or range(assets), p.supply, p.debt, strict=True):
                coins[:, a] += _by_pool(s, p.block_pool, pools) * index[0][:, a] - _by_pool(d, p.block_pool, pools) * index[1][:, a]
        elif isinstance(p, Accounts):
            cash += _by_pool(p.equity_at_reference, p.block_pool, pools)
            for a, q in zip(p.contract_assets, p.quantity, strict=True):
                contracts[:, a] += _by_pool(q, p.block_pool, pools)
            for a, k in zip(p.coin_assets, p.collateral, strict=True):
                coins[:, a] += _by_pool(k, p.block_pool, pools)
    return sharding.total(cash, contracts, coins)


def latent_deficit(state: State, system: System) -> list[jax.Array]:
    """By population, (V,) USD of negative equity in accounts that are still open."""
    seen = prices(state, system, Seen(mark=None, offset=jnp.zeros(()), still=jnp.zeros((), bool)))
    found = []
    for p in state.populations:
        if isinstance(p, Loans | LoanProfile):
            rates = state.ledger.lending.rates
            terms = Terms(threshold=rates.supply_growth, supply_index=1 + rates.supply_growth, borrow_index=1 + rates.borrow_growth)
            of_loans = isinstance(p, Loans)
            found.append(lenders.negative_equity(p, terms, seen.venue) if of_loans else loan_profile.negative_equity(p, system, terms, seen.venue))
        elif isinstance(p, Profile):
            found.append(profile.latent_deficit(p, system, seen))
        else:
            found.append(perps.latent_deficit(p, system, seen, system.insurance_fund.shape[0]))
    return found
