"""Sampled borrowers of a lender: what they owe, what they have pledged, and how healthy they are."""

import numpy as np

from stresslev.config.pools import LendingSpec
from stresslev.config.spec import SystemSpec
from stresslev.errors import InputError, Problem

#: Least health factor drawn.
_LEAST = 1.02


def sample(system: SystemSpec, name: str, n: int, stream: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Signed holdings (A, n), supplied less borrowed, and equities (n,), all USD.

    Every borrower owes one asset, drawn by amounts borrowed, against one other asset, drawn by amounts supplied. Sizes are Pareto like those of
    the venues and scaled so that the loans of every asset add up to its `borrowed_usd`; the health factor less one is log-normal, and no loan begins
    above its `ltv`. Deposits beyond the borrowers' own belong to other depositors.

    Raises:
      InputError: nothing to borrow, nothing to borrow against, or more pledged than is supplied.
    """
    spec, pool, assets = system.book, system.pools[name], list(system.assets)
    rng = np.random.default_rng(np.random.SeedSequence(stream))
    debts = {a: r.borrowed_usd for a, r in pool.reserves.items() if r.borrowable and r.borrowed_usd}
    pledges = {a: r.supplied_usd for a, r in pool.reserves.items() if r.collateral and r.liquidation_threshold > 0 and r.supplied_usd}
    if not debts or not pledges or (len(pledges) == 1 and set(pledges) == set(debts)):
        fix = "give supplied_usd for collateral and borrowed_usd for another asset, or a book.file"
        raise InputError(f"system {system.name}", Problem(f"pools.{name}.reserves", "", "leave the sampler nothing to borrow against", fix))
    size = (1 - rng.random(n)) ** (-1 / spec.pareto_exponent)
    for _ in range(8):
        size = np.minimum(size, max(spec.largest_account_share, 1.0 / n) * size.sum())
    owed = _pick(debts, rng, n)
    holdings = np.zeros((len(assets), n))
    debt, threshold, ltv = np.zeros(n), np.zeros(n), np.zeros(n)
    pledged = np.empty(n, object)
    for asset in debts:
        mine = np.flatnonzero(owed == asset)
        if not len(mine):
            raise InputError(
                f"system {system.name}",
                Problem(f"pools.{name}.reserves.{asset}.borrowed_usd", "", "the sample has too few accounts to borrow it", "sample more accounts"),
            )
        debt[mine] = size[mine] * debts[asset] / size[mine].sum()
        pledged[mine] = _pick({a: w for a, w in pledges.items() if a != asset}, rng, len(mine))
    for asset in pledges:
        mine = pledged == asset
        terms = pool.reserves[asset]
        threshold[mine] = terms.liquidation_threshold
        ltv[mine] = terms.liquidation_threshold if terms.ltv is None else terms.ltv or terms.liquidation_threshold
    health = 1 + (pool.book.health_median - 1) * np.exp(pool.book.health_sigma * rng.standard_normal(n))
    health = np.maximum(health, np.maximum(threshold / ltv, _LEAST))
    collateral = debt * health / threshold
    columns = np.arange(n)
    holdings[[assets.index(a) for a in pledged], columns] += collateral
    holdings[[assets.index(a) for a in owed], columns] -= debt
    _check_supply(system, name, pool, holdings, assets)
    return holdings, collateral - debt


def _pick(weights: dict[str, float], rng: np.random.Generator, n: int) -> np.ndarray:
    total = sum(weights.values())
    return rng.choice(np.array(list(weights), object), size=n, p=[w / total for w in weights.values()])


def _check_supply(system: SystemSpec, name: str, pool: LendingSpec, holdings: np.ndarray, assets: list[str]) -> None:
    """Refuse reserves that could not have lent out what is borrowed. Raises InputError."""
    for asset, terms in pool.reserves.items():
        own = holdings[assets.index(asset)]
        supplied = max(terms.supplied_usd or 0.0, np.maximum(own, 0).sum())
        borrowed = np.maximum(-own, 0).sum()
        if borrowed > supplied * (1 + 1e-9):
            what = f"is less than the {borrowed:,.0f} USD borrowed"
            raise InputError(
                f"system {system.name}",
                Problem(f"pools.{name}.reserves.{asset}.supplied_usd", f"{supplied:g}", what, "raise it, or lower borrowed_usd"),
            )
