"""The rules of the system as the policy has them now: tiers by size, portfolio margin, funding."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.leverage.reading import Reading
from stresslev.engine.leverage.size import add_hinges, size_scale
from stresslev.engine.portfolio import PortfolioMargin
from stresslev.engine.types import Policy, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MarginTerms:
    """Parameters of portfolio margin that a policy sets. (V,) each; at one, the pool's own rules stand."""

    weight: Array  # factor on the share of each scenario's loss that counts, >= 0 [scan, single, net correlation]
    offset: Array  # share of the correlation between different assets that is recognised, in [0, 1] [net correlation, covariance, expected shortfall]
    deviations: Array  # factor on the standard deviations covered [covariance]
    floor: Array  # factor on the least requirement


def _portfolio(rules: PortfolioMargin, terms: MarginTerms) -> PortfolioMargin:
    assets = rules.shocks.shape[-1]
    own = jnp.eye(assets, dtype=rules.shocks.dtype)[None]
    kept = own + terms.offset[:, None, None] * (1 - own)
    return replace(
        rules,
        weights=rules.weights * terms.weight[:, None],
        correlation=rules.correlation * kept,
        covariance=rules.covariance * kept,
        deviations=rules.deviations * terms.deviations,
        floor_rate=rules.floor_rate * terms.floor,
    )


def fixed_terms(system: System, policy: Policy) -> System:
    """The system with the funding rules and the terms of portfolio margin that the policy has."""
    if policy.funding is not None and system.funding is not None:
        system = replace(system, funding=policy.funding)
    if policy.margin is not None and system.portfolio is not None:
        system = replace(system, portfolio=_portfolio(system.portfolio, policy.margin))
    return system


def sized(system: System, policy: Policy, reading: Reading) -> System:
    """The system with the policy's tiers by size on top of its own, relative to depth or open interest as they are read."""
    if policy.size is None:
        return system
    floor, step = add_hinges(policy.size, system.tier_floor, system.tier_step, size_scale(policy.size, reading))
    return replace(system, tier_floor=floor, tier_step=step)
