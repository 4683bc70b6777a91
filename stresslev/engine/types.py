"""What flows through the engine: frozen dataclasses registered as pytrees. Every field is traced unless it says static; shapes are static.

A mechanism that a system does not have is `None` (or an empty tuple) here: the structure is static, so it costs nothing.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.funding import FundingRules, FundingState
from stresslev.engine.impact import ImpactRules
from stresslev.engine.leverage.caps import Applied, Caps, CapState
from stresslev.engine.loans import LendingRules, Loans
from stresslev.engine.makers import MakerRules
from stresslev.engine.marks import MarkRules, MarkState
from stresslev.engine.portfolio import PortfolioMargin
from stresslev.engine.rates import RateRules, RateState
from stresslev.engine.requirement import SizeScale
from stresslev.engine.runs import RunRules
from stresslev.engine.smooth import Smoothing
from stresslev.engine.venues import VenueRules, VenueState

if TYPE_CHECKING:  # these modules work on accounts, and import this one
    from stresslev.engine.leverage.gauge import GaugeRules
    from stresslev.engine.leverage.in_force import MarginTerms
    from stresslev.engine.leverage.score import RiskScore
    from stresslev.engine.leverage.size import SizeSchedule
    from stresslev.engine.leverage.transition import Transition
    from stresslev.engine.loan_profile import LoanDistribution, LoanProfile
    from stresslev.engine.profile import Distribution, Profile
    from stresslev.engine.span import Span
    from stresslev.engine.traders import TraderRules, TraderState

# What a pool does with an under-margined perp account (System.rule).
FULL, RESTORE, STEPWISE, CLOSE_FACTOR = 0, 1, 2, 3
# How a pool shares out its liquidation capacity (System.queue).
PRO_RATA, WORST_FIRST, FIRST_IN = 0, 1, 2
# Stages of a waterfall (System.waterfall); what is left after the last is bad debt.
NOTHING, INSURANCE_FUND, SHARED_FUNDS, ADL, SOCIALISE = 0, 1, 2, 3, 4
# What a socialised loss is spread in proportion to (System.socialise_by).
GAINS, EQUITY = 0, 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Auctions:
    """Liquidation by auction: the discount paid to whoever takes the position over grows while the account waits."""

    active: Array  # (V,) bool
    start: Array  # (V,) discount at first, of notional
    growth: Array  # (V,) per step of waiting
    most: Array  # (V,) largest discount
    required_profit: Array  # (V,) what takers want on top of the gap between mark and market, of notional


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InterestScale:
    """Requirement that grows with a pool's open interest (dYdX v4, `requirement.open_interest_scale`)."""

    base: Array  # (V, A) initial margin fraction below the lower cap
    lower: Array  # (V, A) USD open interest at which it begins to grow
    upper: Array  # (V, A) USD at which it is 1; inf when not scaled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lending:
    """Rules and rates of the lending pools; rows of other pools are not used."""

    pool: Array  # (V,) bool: which pools lend
    rules: LendingRules
    rates: RateRules
    years_per_step: Array  # ()
    deposits: Array  # (V, A) coins supplied at the start by depositors who do not borrow


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Receipts:
    """Assets that are claims on a pool: their price is the underlying's times what the pool's assets cover of its liabilities."""

    pool: Array  # (A,) int32 issuing pool; -1 where the asset is no receipt token
    run_haircut: Array  # (A,) discount on the part of the claims that the pool's idle funds cannot meet at once


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Credit:
    """What pools owe each other, and what they have to pay it with."""

    nominal: Array  # (V, V) USD, row owes column
    capital: Array  # (V,) USD own funds besides insurance fund and treasury, credit given and taken counted at face value
    alpha: Array  # (V,) share of its own assets a defaulting pool realises (Rogers, Veraart 2013)
    beta: Array  # (V,) share of its claims
    customers: Array  # (V,) USD owed to customers at the start, for the cover of receipt tokens


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Owners:
    """Owners with accounts in several pools: a margin call in one is met from what the others can spare."""

    slot: tuple[Array, ...]  # per population (L,) int32 flat slot of each linked account; past the end for a link to nobody
    owner: tuple[Array, ...]  # per population (L,) int32 owner
    links: Array  # (O, M) int32 the links of each owner, counted through all populations; past the end where an owner has fewer than M
    top_up: Array  # () health that a called account is brought back to
    keep: Array  # () health below which an account gives nothing away


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """The pools' rules and the markets. V pools, A assets, K tiers (padded with zero steps).

    Rates are fractions of notional, money is USD, decay factors and variances are per step.
    """

    reference_price: Array  # (A,) USD per coin at the start of the scenario
    tier_floor: Array  # (V, A, K) USD notional at which a tier begins; the first is 0
    tier_step: Array  # (V, A, K) increase of the maintenance rate at that floor
    rule: Array  # (V,) int32 FULL, RESTORE, STEPWISE or CLOSE_FACTOR
    target_health: Array  # (V,) health a restored account is brought back to, > 1
    close_factor: Array  # (V,) share closed at a time under CLOSE_FACTOR
    full_below: Array  # (V,) health under which RESTORE, STEPWISE and CLOSE_FACTOR close everything; 0 never
    liquidation_fee: Array  # (V,) of the notional closed, to the insurance fund
    taker_fee: Array  # (V,) of the notional closed, to the pool's treasury
    liquidator_fee: Array  # (V,) of the notional closed, to whoever takes it over
    takeover: Array  # (V,) bool: an account closed in full leaves what remains of it to the insurance fund
    capacity: Array  # (V,) USD of notional a pool can close per step; inf when not limited
    insurance_fund: Array  # (V,) USD at the start
    waterfall: Array  # (V, S) int32 stages in order
    impact: ImpactRules  # (A,)
    permanent_share: Array  # (A,) of the impact; the rest is transient
    transient_decay: Array  # (A,) factor per step
    volatility_decay: Array  # (A,) EWMA lambda per step
    reference_variance: Array  # (A,) per step, at which the depth holds
    depth_volatility_exponent: Array  # (A,) kappa
    depth_floor: Array  # (A,) least share of the depth that volatility leaves
    market: Array  # (A,) int32 asset in whose market an asset is traded: itself, or the underlying of a receipt token
    haircut: Array | None = None  # (V, A) of posted coins
    inverse: Array | None = None  # (V, A) bool: contracts of fixed USD face, margined in the coin
    size_scale: SizeScale | None = None
    interest_scale: InterestScale | None = None
    portfolio: PortfolioMargin | None = None
    queue: Array | None = None  # (V,) int32 PRO_RATA, WORST_FIRST or FIRST_IN
    auctions: Auctions | None = None
    adl: Array | None = None  # (V,) int32 policy, see `adl`
    socialise_by: Array | None = None  # (V,) int32 GAINS or EQUITY
    fund_group: Array | None = None  # (V,) int32 pools of one number stand in for each other's deficits; -1 alone
    venues: VenueRules | None = None
    makers: MakerRules | None = None
    marks: MarkRules | None = None
    funding: FundingRules | None = None
    lending: Lending | None = None
    receipts: Receipts | None = None
    credit: Credit | None = None
    owners: Owners | None = None
    traders: "TraderRules | None" = None
    runs: RunRules | None = None
    profile: "Distribution | None" = None  # of the perp accounts in a liquidation profile
    loan_profile: "LoanDistribution | None" = None  # of the loans in one


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Channels:
    """Which ways losses may travel, each 1 (open) or 0 (shut): for attribution. Closing one changes no shape, so nothing is compiled anew."""

    price: Array  # () forced flow moves prices
    owners: Array  # () owners move margin between pools
    receipts: Array  # () receipt tokens lose value with their issuer
    credit: Array  # () pools lose what other pools cannot pay


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Policy:
    """The leverage rules; the only thing that tuning will move. Rules that a policy does not have are None or absent."""

    maintenance_multiplier: Array  # (V, A) multiplies the requirement
    caps: Caps | None = None  # bounds and pace of what the rules set; None: no caps, and nothing moves
    rules: tuple[Applied, ...] = ()
    transition: "Transition | None" = None  # what a tightened cap does to accounts; with caps only
    size: "SizeSchedule | None" = None  # requirement that grows with the size of a position
    score: "RiskScore | None" = None  # share of the cap by account
    score_every: Array | None = None  # () int32 steps between two scorings of all accounts, >= 1
    margin: "MarginTerms | None" = None  # weights and offsets of portfolio margin
    funding: FundingRules | None = None  # instead of the system's
    gauge: "GaugeRules | None" = None  # how the systemic gauge is measured
    steps_per_year: Array | None = None  # () needed by whatever is not None above

    @property
    def acts(self) -> bool:
        """Whether anything besides the fixed multiplier is at work."""
        return any(x is not None for x in (self.caps, self.size, self.margin, self.funding))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Path:
    """The exogenous scenario on the time grid, T steps; what a scenario does not have is None."""

    log_price: Array  # (T, A) log of the exogenous price over the reference, at the end of each step
    depth_factor: Array  # (T, A)
    mark_offset: Array | None = None  # (T, V, A) scripted dislocation of marks, log
    outage: Array | None = None  # (T, V) bool: marks frozen, nothing can be liquidated
    stuck: Array | None = None  # (T, V, A) bool: the mark stands still, and the pool goes on working
    premium: Array | None = None  # (T, V, A) scripted premium of perps over the index


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Accounts:
    """A population of perp accounts, sorted by pool and padded to blocks: nb blocks of B accounts, each block of one pool.

    An isolated position is an account of its own. Spot coins posted as margin are in `collateral`; for an inverse (coin-margined) contract
    `quantity` is the USD face and `collateral` the coins of the account if the contract were spot: coins posted plus face over entry price.
    """

    equity_at_reference: Array  # (nb, B) USD: equity if every price were at its reference
    quantity: tuple[Array, ...]  # A arrays (nb, B), coins (USD face where inverse), signed
    liquidated: Array  # (nb, B) bool: some part has been closed by the pool
    block_pool: Array  # (nb,) int32
    collateral: tuple[Array, ...] = ()  # A arrays (nb, B) coins, or none
    entry: tuple[Array, ...] = ()  # A arrays (nb, B) USD average entry price, or none: profit then counts from the reference prices
    age: Array | None = None  # (nb, B) int32 steps in a row under margin
    appetite: Array | None = None  # (nb, B) in (0, 1]: share of what the account wants to hold that it holds, given a transition
    call_age: Array | None = None  # (nb, B) int32 steps since a margin call under a tightened cap
    allowed: Array | None = None  # (nb, B) in (0, 1]: share of the pool's cap that the account has, by its risk score
    portfolio_margin: bool = field(default=False, metadata={"static": True})  # requirement by `System.portfolio`, not by tiers
    contracts: tuple[int, ...] | None = field(default=None, metadata={"static": True})  # assets of `quantity`; None: all, in order
    coins: tuple[int, ...] | None = field(default=None, metadata={"static": True})  # assets of `collateral`; None: all, in order
    smoothing: Smoothing | None = None  # of liquidation thresholds, for derivatives; None: the rules as they are
    axis: str | None = field(default=None, metadata={"static": True})  # of the mesh, over which the blocks are dealt out; None: one device
    reverse: bool = field(default=False, metadata={"static": True})  # reverse mode is to go through: see `adjoint`

    @property
    def holdings(self) -> tuple[Array, ...]:
        """Cash, contracts and posted coins, each (nb, B)."""
        return (self.equity_at_reference, *self.quantity, *self.collateral)

    def with_holdings(self, arrays: tuple[Array, ...]) -> "Accounts":
        """The same accounts with other `holdings`."""
        cash, *rest = arrays
        held = len(self.quantity)
        return replace(self, equity_at_reference=cash, quantity=tuple(rest[:held]), collateral=tuple(rest[held:]))

    @property
    def contract_assets(self) -> tuple[int, ...]:
        """Asset of each array in `quantity`."""
        return tuple(range(len(self.quantity))) if self.contracts is None else self.contracts

    @property
    def coin_assets(self) -> tuple[int, ...]:
        """Asset of each array in `collateral`."""
        return tuple(range(len(self.collateral))) if self.coins is None else self.coins


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Market:
    """Log prices relative to the reference, split by origin."""

    fundamental: Array  # (A,)
    permanent: Array  # (A,)
    transient: Array  # (A,)
    opening: Array  # (A,) log price at the opening of the last step
    variance: Array  # (A,) EWMA, per step

    @property
    def log_price(self) -> Array:
        """(A,) log of price over reference price, before any receipt token's cover."""
        return self.fundamental + self.permanent + self.transient


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LendingLedger:
    """Totals of the lending pools, (V, A)."""

    rates: RateState  # indices, and the reserves the protocols have earned
    supply_units: Array  # of borrowers' collateral
    debt_units: Array
    deposit_units: Array  # of depositors who do not borrow
    written_off: Array  # coins of debt that nobody pays: missing from the deposits' cover
    written_off_cash: Array  # (V,) USD


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ledger:
    """What the pools hold."""

    insurance_fund: Array  # (V,) USD
    treasury: Array  # (V,) USD of trading fees since the start
    bad_debt: Array  # (V,) USD, cumulative
    maker_cash: Array  # (V, A) USD: makers' equity at reference prices by the asset it was traded for, zero at the start
    maker_quantity: Array  # (V, A) contracts: coins, USD face where inverse
    maker_coins: Array  # (V, A) spot coins bought from liquidated accounts, less coins sold to repay their debts
    maker_opening: Array  # (V, A) contracts that makers held at the start
    liquidators: Array  # (V,) USD of fees and discounts paid to whoever took positions over
    long_quantity: Array  # (V, A) held long by customers
    short_quantity: Array  # (V, A) held short by customers, >= 0
    lending: LendingLedger | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cover:
    """How far pools can pay: found by clearing at the end of a step, felt in the next."""

    credit_loss: Array  # (V,) USD of claims on other pools that are lost
    net_worth: Array  # (V,) USD own funds after clearing; insolvent below zero
    paid_share: Array  # (V,) of what a pool owes other pools, that it pays
    redemption: Array  # (A,) value of a receipt token per unit of its claim; 1 for other assets


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything a step carries."""

    populations: "tuple[Accounts | Loans | Profile | LoanProfile, ...]"
    market: Market
    ledger: Ledger
    status: Array  # () int32, bits of `status`
    venues: VenueState | None = None
    marks: MarkState | None = None
    funding: FundingState | None = None
    cover: Cover | None = None
    funding_rate: Array | None = None  # (V, A) per funding period, as last paid
    leverage: CapState | None = None
    traders: "TraderState | None" = None
    span: "Span | None" = None  # within which accounts that are not stepped sleep


def cast(tree, dtype):
    """The one dtype barrier: every floating leaf of `tree` to `dtype`, other leaves untouched."""

    def leaf(x):
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)
