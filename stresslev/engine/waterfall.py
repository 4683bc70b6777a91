"""Who bears a deficit: insurance fund first, then bad debt."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from stresslev.engine.types import Ledger


def settle(ledger: Ledger, deficit: Array, fund_income: Array, treasury_income: Array) -> tuple[Ledger, Array]:
    """Take in the round's fees, then meet the round's deficits. All (V,) USD.

    Returns the ledger and the fund draw; `draw + d bad_debt = deficit`, both >= 0.
    """
    fund = ledger.insurance_fund + fund_income
    draw = jnp.minimum(fund, deficit)
    settled = replace(
        ledger,
        insurance_fund=fund - draw,
        treasury=ledger.treasury + treasury_income,
        bad_debt=ledger.bad_debt + (deficit - draw),
    )
    return settled, draw
