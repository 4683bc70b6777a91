"""How far pools can pay each other and the holders of their receipt tokens: credit is cleared at the end of a step and felt in the next."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from stresslev.engine import network
from stresslev.engine.prices import common_log_price
from stresslev.engine.types import Channels, Cover, State, System

#: What a receipt token of a pool without anything left still fetches, so that its log price stays a number.
LEAST_REDEMPTION = 1e-6


def initial(system: System) -> Cover | None:
    """Everybody can pay; None for a system without credit and receipt tokens."""
    if system.credit is None and system.receipts is None:
        return None
    zero = jnp.zeros_like(system.insurance_fund)
    one = jnp.ones_like(zero)
    return Cover(credit_loss=zero, net_worth=_own_funds_at_start(system), paid_share=one, redemption=jnp.ones_like(system.reference_price))


def _own_funds_at_start(system: System) -> Array:
    return system.insurance_fund if system.credit is None else system.credit.capital + system.insurance_fund


def _claims(state: State, system: System, price: Array) -> tuple[Array, Array]:
    """(V,) USD that customers claim from each pool, and (V, A) coins that a lending pool could pay out at once."""
    customers = jnp.zeros_like(system.insurance_fund) if system.credit is None else system.credit.customers
    book = state.ledger.lending
    if book is None:
        return customers, jnp.zeros(system.tier_floor.shape[:2], price.dtype)
    supplied = (book.supply_units + book.deposit_units) * book.rates.supply_index
    idle = supplied + book.rates.reserves - book.debt_units * book.rates.borrow_index - book.written_off
    return jnp.where(system.lending.pool, jnp.sum(supplied * price[None, :], axis=1), customers), idle


def clear(state: State, system: System, channels: Channels, flow_usd: Array) -> State:
    """Clear the credit between pools and revalue receipt tokens.

    A pool's own funds are its capital, which counts credit given and taken at face value, insurance fund and treasury less its bad debt: what it owes
    is covered as long as they are above zero. Otherwise it pays other pools what it can (`network.clearing`). What is missing once claims are lost is
    missing from its customers' claims, all ranking equally, and so from its receipt tokens.

    Args: `flow_usd` (V, A) net flow of the step, for the run discount of tokens that were sold.
    """
    if state.cover is None:
        return state
    ledger = state.ledger
    own = ledger.insurance_fund + ledger.treasury - ledger.bad_debt
    lost, paid = jnp.zeros_like(own), jnp.ones_like(own)
    if system.credit is not None:
        credit = system.credit
        own = own + credit.capital
        owed = jnp.sum(credit.nominal, axis=1)
        besides = own + owed - jnp.sum(credit.nominal, axis=0)
        cleared = network.clearing(credit.nominal, besides, alpha=credit.alpha, beta=credit.beta)
        lost = channels.credit * cleared.loss
        paid = 1 - channels.credit * (1 - jnp.where(owed > 0, cleared.payments / jnp.where(owed > 0, owed, 1), 1))
    worth = own - lost
    redemption = jnp.ones_like(system.reference_price)
    if system.receipts is not None:
        receipts = system.receipts
        price = system.reference_price * jnp.exp(common_log_price(state, system))
        claims, idle = _claims(state, system, price)
        covered = network.redemption(claims + jnp.minimum(worth, 0), claims)
        issuer = jnp.maximum(receipts.pool, 0)
        sold = jnp.maximum(-jnp.sum(flow_usd, axis=0), 0)
        liquid = idle[issuer, system.market] * price[system.market]
        run = jnp.where(system.lending.pool[issuer], network.run_discount(sold, liquid, receipts.run_haircut), 0) if system.lending is not None else 0
        value = jnp.maximum(covered[issuer] * (1 - run), LEAST_REDEMPTION)
        redemption = jnp.where(receipts.pool >= 0, 1 - channels.receipts * (1 - value), redemption)
    return replace(state, cover=Cover(credit_loss=lost, net_worth=worth, paid_share=paid, redemption=redemption))
