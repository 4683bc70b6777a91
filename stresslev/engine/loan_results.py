"""What lending accounts ask for, and what was carried out of it."""

from dataclasses import dataclass

import jax
from jax import Array

from stresslev.engine.places import Ranks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoanDemand:
    """What a population asks to have liquidated, before capacity."""

    under: Array  # (nb, B) bool accounts below a health factor of one: found once, so that all that follows is about the same accounts
    triggered: Array  # (V,) int32 how many they are
    notional: Array  # (V,) USD of collateral to be seized or set off, positive cash included, at the marks
    sold: Array  # (V, A) coins of collateral that reach the market: seized less the protocol fee
    bought: Array  # (V, A) coins of debt repaid from outside; under market execution estimated at the marks
    waiting: Array  # (V,) int32 triggered accounts that nobody finds profitable
    found: Ranks  # the same accounts, for going over them in batches


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoanSettlement:
    """What was carried out, summed over accounts.

    Coins of supply fall by `seized + set_off`, coins of debt by `repaid + set_off + written_off`. Cash changes by
    `sum_a (seized - protocol_fee - repaid) fill + written_off_cash` under market execution, else by `repaid_cash - seized_cash + written_off_cash`.
    """

    seized: Array  # (V, A) coins of collateral sold or handed over, the protocol's fee included
    repaid: Array  # (V, A) coins of debt
    set_off: Array  # (V, A) coins, of collateral and of debt alike
    protocol_fee: Array  # (V, A) coins, part of `seized`
    written_off: Array  # (V, A) coins of debt of accounts left without any collateral
    written_off_cash: Array  # (V,) USD
    deficit: Array  # (V,) USD, everything written off at the marks
    seized_cash: Array  # (V,) USD that liquidators took; zero under market execution, where an account pays with it
    repaid_cash: Array  # (V,) USD of cash debt that liquidators paid; zero under market execution
    cash_change: Array  # (V,) USD, write-off included
    supply_change: Array  # (V, A) units
    debt_change: Array  # (V, A) units, write-off included
    newly_liquidated: Array  # (V,) int32
