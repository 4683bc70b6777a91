"""Which accounts of a book go into a liquidation profile, and in words why others cannot."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from stresslev.book.book import Book
from stresslev.book.distribution import CELLS, SIZES, distribution
from stresslev.config.load import Plan
from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.engine import profile
from stresslev.engine.profile import Profile
from stresslev.engine.types import System, cast
from stresslev.errors import InputError, Problem

#: What was found against stepping all accounts in float64 on three systems (experiments/bench/profile.py), as shares of open interest.
LIQUIDATED_ERROR, BAD_DEBT_ERROR = 1e-3, 2e-4


def why_no_profile(plan: Plan) -> list[str]:
    """What stands against any profile in a run, in words; empty when nothing does."""
    found, policy = [], plan.policy
    if plan.system.owners is not None:
        found.append("accounts have owners, who move margin between them")
    if policy.transition is not None or policy.transitions:
        found.append("the policy has accounts reduce their positions when caps are tightened")
    if policy.score is not None:
        found.append("the policy scores accounts one by one")
    if policy.size is not None:
        found.append("the policy's requirements grow with the size of a position and move")
    return found


def why_not(pool: PerpSpec | LendingSpec) -> list[str]:
    """What stands against accounts of a pool in a profile, in words; empty when nothing does."""
    if isinstance(pool, LendingSpec):
        return ["it lends: loans are not kept in a profile"]
    rule, found = pool.liquidation, []
    if rule.rule != "full":
        found.append("it does not close accounts in full")
    if pool.liquidation_capacity_usd_per_minute is not None:
        found.append("its capacity to liquidate is limited")
    if rule.auction is not None:
        found.append("it liquidates by auction")
    if "adl" in pool.waterfall:
        found.append("it deleverages winners")
    if "socialise" in pool.waterfall:
        found.append("it spreads losses over accounts")
    if pool.portfolio_margin is not None:
        found.append("it has portfolio margin")
    if pool.size_scale:
        found.append("its requirement grows with the size of a position by a rule besides tiers")
    if pool.inverse:
        found.append("it has contracts of fixed USD face")
    if pool.collateral:
        found.append("it accepts coins as margin")
    return found


@dataclass(frozen=True)
class Split:
    """A book in two."""

    rows: np.ndarray  # of the book, in the profile
    rest: Book
    reasons: tuple[str, ...]  # why others are not


def split(plan: Plan, book: Book, population: str) -> Split:
    """Part a book into what goes into a profile and what stays accounts.

    Args: `population` as `run.population`: accounts (nothing goes in), profile or auto (all goes in that can).

    Raises:
      InputError: a profile was asked for and nothing can go into it.
    """
    nothing = Split(np.zeros(0, int), book, ())
    if population == "accounts":
        return nothing
    reasons = why_no_profile(plan)
    fit = np.zeros(len(book), bool)
    if not reasons:
        single = (book.quantity != 0).sum(axis=0) == 1
        for v, (name, pool) in enumerate(plan.system.pools.items()):
            against, mine = why_not(pool), book.pool == v
            if against:
                reasons.append(f"pool {name}: {', '.join(against)}")
                continue
            fit |= mine & single
            if not single[mine].all():
                share = 1 - single[mine].mean()
                reasons.append(f"pool {name}: {share:.1%} of its accounts hold no position or several, margined together")
    if fit.any():
        return Split(np.flatnonzero(fit), take(book, ~fit), tuple(reasons))
    if population == "profile":
        fix = "use 'accounts', or 'auto' to take a profile where there can be one"
        raise InputError(plan.files["suite"], [Problem("run.population", "'profile'", reason, fix) for reason in reasons])
    return replace(nothing, reasons=tuple(reasons))


def take(book: Book, mask: np.ndarray) -> Book:
    """Some accounts of a book."""

    def some(x):
        return None if x is None else x[..., mask]

    return replace(
        book,
        pool=some(book.pool),
        equity=some(book.equity),
        quantity=some(book.quantity),
        account=some(book.account),
        collateral=some(book.collateral),
        entry=some(book.entry),
        owner=some(book.owner),
    )


def with_profile(
    system: System, multiplier, book: Book, rows: np.ndarray, dtype, *, cells: int = CELLS, sizes: int = SIZES
) -> tuple[System, Profile]:
    """The system with the distribution of these rows of the book, and the population that stands for them. `multiplier` (V, A) of requirements."""
    held = book.quantity[:, rows]
    asset = np.argmax(held != 0, axis=0)
    quantity = np.take_along_axis(held, asset[None], axis=0)[0]
    found = distribution(system, multiplier, pool=book.pool[rows], asset=asset, quantity=quantity, equity=book.equity[rows], cells=cells, sizes=sizes)
    kept = cast(found, dtype)
    return replace(system, profile=kept), profile.initial(kept, len(book.pools))


def described(parted: Split, book: Book, population: str) -> dict[str, str | float]:
    """Attributes of a dataset: what stood for the accounts, and what is approximate about it."""
    if not parted.rows.size:
        return {"population": "accounts", "population_reasons": "; ".join(parted.reasons)} if population != "accounts" else {"population": "accounts"}
    size = np.abs(book.quantity * book.reference_price[:, None]).sum(axis=0)
    share = float(size[parted.rows].sum() / size.sum())
    return {
        "population": "profile" if len(parted.rest) == 0 else "profile and accounts",
        "population_reasons": "; ".join(parted.reasons),
        "approximate": 1,
        "profile_accounts": int(parted.rows.size),
        "profile_share": share,
        "profile_liquidated_error": LIQUIDATED_ERROR,
        "profile_bad_debt_error": BAD_DEBT_ERROR,
    }


def sentence(attributes: dict, uncertain: float) -> str | None:
    """What a reader of the results must know, or None. `uncertain` is the share of open interest in cells where liquidation stopped."""
    if not attributes.get("approximate"):
        return None
    return (
        f"Approximate: {attributes['profile_share']:.1%} of positions are kept as a liquidation profile, not account by account. Against stepping "
        f"every account such runs were found within {LIQUIDATED_ERROR:.1%} of open interest in what is liquidated and {BAD_DEBT_ERROR:.2%} in bad "
        f"debt; at the prices of this run the grid leaves {uncertain:.3%} of open interest undecided."
    )


def uncertain_share(state, system: System) -> float:
    """Share of the open interest at the start, at the reference prices, that lies in the cells of the grid where liquidation has stopped."""
    total = 0.0
    held = profile.totals(profile.initial(system.profile, system.insurance_fund.shape[0]), system)
    interest = float(jnp.sum(jnp.maximum(held[1], held[2]) * system.reference_price[None, :]))
    for p in state.populations:
        if isinstance(p, Profile):
            total += float(jnp.sum(profile.uncertain(p, system) * system.reference_price[None, :]))
    return total / interest if interest > 0 else 0.0
