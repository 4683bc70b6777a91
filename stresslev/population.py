"""Which accounts of a book go into a liquidation profile, and in words why others cannot."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from stresslev.book.book import Book
from stresslev.book.distribution import CELLS, SIZES, distribution, loan_distribution
from stresslev.config.load import Plan
from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.engine import loan_profile, profile
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.profile import Profile
from stresslev.engine.types import System, cast
from stresslev.errors import InputError, Problem

#: What was found against stepping all accounts in float64 (experiments/bench/profile.py), as shares of open interest and loans.
LIQUIDATED_ERROR, BAD_DEBT_ERROR = 1e-3, 2e-4
#: Threshold that the grid is laid out for where the policy leaves none.
_LEAST_THRESHOLD = 1e-2


def why_no_profile(plan: Plan) -> list[str]:
    """What stands against any profile in a run, in words; empty when nothing does."""
    return [] if plan.system.owners is None else ["accounts have owners, who move margin between them"]


def _policy_against(plan: Plan) -> list[str]:
    """What the policy does to single perp accounts, in words; loans it leaves alone."""
    found, policy = [], plan.policy
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
        return _lender_against(pool)
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


def _lender_against(pool: LendingSpec) -> list[str]:
    rule, found = pool.liquidation, []
    if rule.rule == "restore" or (rule.rule == "close_factor" and rule.close_factor < 1):
        found.append("it has a loan repaid in part")
    if rule.execution == "market":
        found.append("it sells collateral in the market, and a loan lives on with what the sale falls short of")
    if rule.auction is not None:
        found.append("it liquidates by auction")
    if pool.liquidation_capacity_usd_per_minute is not None:
        found.append("its capacity to liquidate is limited")
    return found


def _can(plan: Plan, book: Book, v: int) -> tuple[np.ndarray, str]:
    """(N,) bool: accounts of pool v that can go in, and what the others are like."""
    mine, pool = book.pool == v, list(plan.system.pools.values())[v]
    if not isinstance(pool, LendingSpec):
        return mine & ((book.quantity != 0).sum(axis=0) == 1), "hold no position or several, margined together"
    rows = np.flatnonzero(mine)
    reserves = [pool.reserves.get(a) for a in book.assets]
    # USD counts in full, and can always be taken
    good = np.array([*(r is not None and r.collateral and r.seizable and r.liquidation_threshold > 0 for r in reserves), True])
    holds = _holdings(book, rows)
    fit = ((holds > 0).sum(axis=0) == 1) & ((holds < 0).sum(axis=0) == 1) & good[np.argmax(holds > 0, axis=0)]
    mine[rows] = fit
    return mine, "are not of one collateral that can be seized against one debt"


def _holdings(book: Book, rows: np.ndarray) -> np.ndarray:
    """(A + 1, n) coins, and USD, that borrowers hold less what they owe."""
    return np.concatenate([book.quantity[:, rows], book.cash(rows)[None]])


@dataclass(frozen=True)
class Split:
    """A book in two."""

    rows: np.ndarray  # of the book, in a profile
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
        by_policy = _policy_against(plan)
        for v, (name, pool) in enumerate(plan.system.pools.items()):
            against = why_not(pool) + ([] if isinstance(pool, LendingSpec) else by_policy)
            if against:
                reasons.append(f"pool {name}: {', '.join(against)}")
                continue
            mine, others = _can(plan, book, v)
            fit |= mine
            share = 1 - mine.sum() / max((book.pool == v).sum(), 1)
            if share > 0:
                reasons.append(f"pool {name}: {share:.1%} of its accounts {others}")
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
) -> tuple[System, tuple[Profile | LoanProfile, ...]]:
    """The system with the distributions of these rows of the book, and the populations that stand for them. `multiplier` (V, A) of requirements."""
    lends = np.zeros(len(rows), bool) if system.lending is None else np.asarray(system.lending.pool)[book.pool[rows]]
    together = []
    if not lends.all():
        perps = rows[~lends]
        held = book.quantity[:, perps]
        asset = np.argmax(held != 0, axis=0)
        quantity = np.take_along_axis(held, asset[None], axis=0)[0]
        given = {"pool": book.pool[perps], "asset": asset, "quantity": quantity, "equity": book.equity[perps]}
        kept = cast(distribution(system, multiplier, **given, cells=cells, sizes=sizes), dtype)
        system = replace(system, profile=kept)
        together.append(profile.initial(kept, len(book.pools)))
    if lends.any():
        loans = rows[lends]
        holds = _holdings(book, loans)
        threshold = np.maximum(1 - np.asarray(multiplier) * (1 - np.asarray(system.lending.rules.liquidation_threshold)), _LEAST_THRESHOLD)
        given = {"collateral": np.argmax(holds > 0, axis=0), "debt": np.argmax(holds < 0, axis=0)}
        given |= {"supplied": holds.max(axis=0), "owed": -holds.min(axis=0)}
        kept = cast(loan_distribution(system, threshold, pool=book.pool[loans], **given, cells=cells), dtype)
        system = replace(system, loan_profile=kept)
        together.append(loan_profile.initial(kept))
    return system, tuple(together)


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


def sentence(attributes: dict, uncertain: float, used_up: bool) -> str | None:
    """What a reader of the results must know, or None.

    Args: `uncertain`, share of what profiles held in cells where liquidation stopped; `used_up`, whether a step had need of more rounds than allowed.
    """
    if not attributes.get("approximate"):
        return None
    said = (
        f"Approximate: {attributes['profile_share']:.1%} of positions and loans are kept as a liquidation profile, not account by account. Against "
        f"stepping every account such runs were found within {LIQUIDATED_ERROR:.1%} of open interest and loans in what is liquidated and "
        f"{BAD_DEBT_ERROR:.2%} in bad debt; at the prices of this run the grid leaves {uncertain:.3%} of what the profile held undecided."
    )
    if used_up:
        said += " In this run the rounds of some steps were used up: where sales feed on themselves, one account more or less can change far more."
    return said


def uncertain_share(state, system: System) -> float:
    """Share of the open interest and debt that profiles held at the start, at the reference prices, in cells where liquidation has stopped."""
    near, held, price = 0.0, 0.0, system.reference_price[None, :]
    for p in state.populations:
        if isinstance(p, Profile):
            start = profile.totals(profile.initial(system.profile, system.insurance_fund.shape[0]), system)
            near += float(jnp.sum(profile.uncertain(p, system) * price))
            held += float(jnp.sum(jnp.maximum(start[1], start[2]) * price))
        elif isinstance(p, LoanProfile):
            near += float(loan_profile.uncertain(p, system))
            held += float(loan_profile.debt_at_start(system))
    return near / held if held > 0 else 0.0
