"""Margin moved between accounts of one owner leaves nobody on a threshold, where rounding would say who is liquidated."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import lenders
from stresslev.engine.health import Prices, assess, rules_for
from stresslev.engine.lenders import Terms
from stresslev.engine.loans import Loans
from stresslev.engine.owners import call_margin
from tests.systems import GROUPS, engine_case, random_case


def _under(populations, system, multiplier, seen, terms):
    def of(p):
        if isinstance(p, Loans):
            weighted, owed = lenders.balance(p, terms, seen.mark)
            return weighted < owed
        return assess(p, rules_for(p, system, multiplier, seen)).under

    return [np.asarray(of(p)) for p in populations]


@jax.jit
def _called(populations, system, multiplier, seen, terms):
    return call_margin(populations, system, multiplier, seen, terms, jnp.asarray(1.0))


@pytest.mark.parametrize("precision", [32, 64])
def test_giving_all_that_can_be_spared_and_getting_all_that_is_needed_is_enough(precision):
    """With `top_up` and `keep` at one, every account that gives or gets in full would end exactly on its threshold."""
    gave = met = 0
    with jax.enable_x64(precision == 64):
        dtype = jnp.float64 if precision == 64 else jnp.float32
        for seed in range(12):
            case = engine_case(*random_case(seed, GROUPS["network"]), dtype)
            system = replace(case.system, owners=replace(case.system.owners, top_up=dtype(1), keep=dtype(1)))
            multiplier = case.policy.maintenance_multiplier
            reference = jnp.broadcast_to(system.reference_price[None, :], multiplier.shape)
            price = reference * dtype(0.85)
            moved = price - reference
            seen = Prices(mark=price, mark_displaced=moved, venue=price, venue_displaced=moved, funding=jnp.zeros_like(reference))
            one = jnp.ones_like(reference)
            terms = Terms(threshold=system.lending.rules.liquidation_threshold, supply_index=one, borrow_index=one)
            given = system, multiplier, seen, terms
            before = _under(case.populations, *given)
            populations, inflow = _called(case.populations, *given)
            after = _under(populations, *given)
            assert abs(float(jnp.sum(inflow))) <= 1e-5 * float(jnp.sum(jnp.abs(inflow)))
            for p, q, was, now in zip(case.populations, populations, before, after, strict=True):
                cash = [np.asarray(x.cash if isinstance(x, Loans) else x.equity_at_reference) for x in (p, q)]
                assert not np.any(now & ~was)
                gave += int(np.sum((cash[1] < cash[0]) & ~was))
                met += int(np.sum(was & ~now))
    assert gave > 10 and met > 3
