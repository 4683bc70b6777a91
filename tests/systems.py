"""Random small systems, in the form of the twin (plain dicts) and of the engine (pytrees).

`random_case` draws a system with the mechanisms asked for; which they are decides the structure (what is present at all) and thereby the compiled
program, the seed decides the numbers, and most mechanisms are also switched off in some pools by their numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.assemble.links import table
from stresslev.config.tiers import TierTable, stack
from stresslev.engine import types
from stresslev.engine.funding import FundingRules
from stresslev.engine.impact import ImpactRules
from stresslev.engine.loans import LendingRules, Loans
from stresslev.engine.makers import MakerRules
from stresslev.engine.marks import MarkRules
from stresslev.engine.portfolio import PortfolioMargin
from stresslev.engine.rates import RateCurve, RateRules
from stresslev.engine.requirement import SizeScale
from stresslev.engine.runs import RunRules
from stresslev.engine.traders import TraderRules
from stresslev.engine.types import Accounts, Path, Policy, System, cast
from stresslev.engine.venues import VenueRules
from tests import leverage_cases

#: Pools and assets of the thin cases (perp accounts, no further mechanism): a few shapes, so that few programs are compiled.
SHAPES = ((1, 1), (2, 3), (3, 4), (4, 2))

#: Groups of mechanisms that are tested together: each is one structure, hence one program. The numbers switch most of them off here and there.
GROUPS = {
    "closing": ("rules", "coins", "entries", "queue", "auctions", "size"),
    "settling": ("rules", "entries", "adl", "socialise", "funds"),
    "trading": ("rules", "impact", "venues", "makers", "marks", "funding", "outage"),
    "portfolio": ("rules", "portfolio", "interest", "funding", "entries", "adl", "queue"),
    "lending": ("lending", "marks", "impact", "socialise", "funds", "makers"),
    "network": ("lending", "coins", "receipts", "credit", "owners", "socialise"),
    "everything": (
        *("rules", "coins", "entries", "queue", "auctions", "size", "interest", "portfolio", "adl", "socialise", "funds", "impact", "venues"),
        *("makers", "marks", "funding", "outage", "lending", "receipts", "credit", "owners"),
    ),
    "leverage": ("rules", "coins", "entries", "portfolio", "funding", "outage", "leverage"),
    "behaviour": ("rules", "entries", "adl", "socialise", "funds", "impact", "venues", "funding", "outage", "lending", "traders", "runs"),
}
GROUPS["adaptive"] = (*(x for x in GROUPS["everything"] if x not in ("queue", "auctions", "funds")), "leverage", "traders", "runs")

LENDER = 2  # the pool that lends, where one does
HISTORY = 4  # steps that marks remember
BLOCK = 8

RULES = ("full", "restore", "stepwise", "close_factor")
QUEUES = ("pro_rata", "worst_first", "first_in")
POLICIES = ("pnl_leverage", "pnl", "hyperliquid", "pro_rata_pnl", "pro_rata_equity")
STAGES = ("nothing", "insurance_fund", "shared_funds", "adl", "socialise")
BASES = ("gains", "equity")
FORMS = ("power", "exponential", "price_linear", "constant_product")
PORTFOLIO_FORMS = ("scan", "single", "net_correlation", "covariance", "expected_shortfall")
LOAN_RULES = ("full", "close_factor", "restore")


def random_case(seed: int, mechanisms: tuple[str, ...] = (), *, accounts: int = 48, steps: int = 12) -> tuple[dict, dict, dict]:
    """A system, accounts and a falling or jumping path as plain NumPy dicts; many accounts are liquidated, some go bankrupt."""
    rng = np.random.default_rng(seed)
    pools, assets = SHAPES[seed % len(SHAPES)] if not mechanisms else (3, 4 if "receipts" in mechanisms else 3)
    reference = np.exp(rng.uniform(0, 10, assets))
    pool = np.repeat(np.arange(pools), accounts // pools)
    n = len(pool)
    notional = rng.pareto(1.5, (n, assets)) * 1e4 * (rng.random((n, assets)) < 0.6)
    notional *= np.where(rng.random((n, assets)) < 0.65, 1, -1)
    leverage = np.exp(rng.normal(1.8, 0.8, n)).clip(0.5, 80)
    equity = np.abs(notional).sum(axis=1) / leverage

    def tier():
        k = 4
        floors = np.concatenate([[0.0], np.sort(rng.uniform(3e3, 2e5, k - 1))])
        rates = np.sort(rng.uniform(0.003, 0.2, k))
        return floors.tolist(), (rates if rng.random() < 0.7 else np.full(k, rates[0])).tolist()

    scale = np.abs(notional).sum(axis=0) + 1e4
    system = {
        "n_pools": pools,
        "n_assets": assets,
        "reference_price": reference,
        "tiers": [[tier() for _ in range(assets)] for _ in range(pools)],
        "maintenance_multiplier": rng.uniform(0.7, 1.5, (pools, assets)),
        "rule": [("full", "restore")[int(flag)] for flag in rng.random(pools) < 0.5],
        "target_health": rng.uniform(1.05, 2.0, pools),
        "liquidation_fee": rng.choice([0.0, 0.002, 0.01], pools),
        "taker_fee": rng.choice([0.0, 0.0005], pools),
        "capacity": np.where(rng.random(pools) < 0.4, rng.uniform(0.01, 0.5, pools) * scale.sum(), np.inf),
        "insurance_fund": rng.choice([0.0, 100.0, 1e4, 1e7], pools),
        "impact": {"depth": scale * rng.uniform(0.02, 1.0, assets), "exponent": rng.choice([0.5, 0.73, 1.0], assets)},
        "permanent_share": rng.uniform(0, 1, assets),
        "transient_decay": rng.uniform(0.5, 0.99, assets),
        "volatility_decay": rng.uniform(0.8, 0.99, assets),
        "reference_variance": rng.uniform(1e-7, 1e-5, assets),
        "depth_volatility_exponent": rng.uniform(0, 1, assets),
        "depth_floor": rng.uniform(0.05, 1.0, assets),
        "close_factor": np.ones(pools),
        "full_below": np.zeros(pools),
        "liquidator_fee": np.zeros(pools),
        "takeover": np.zeros(pools, bool),
        "waterfall": [["insurance_fund"]] * pools,
    }
    system["impact"] |= {"form": ["power"] * assets, "scale": np.zeros(assets), "quantity": np.ones(assets)}
    drift = rng.choice([-0.04, -0.02, 0.0, 0.02])
    log_return = drift + rng.normal(0, 0.03, (steps, assets)) * rng.choice([0.2, 1.0, 3.0], (steps, 1))
    path = {"log_price": np.cumsum(log_return, axis=0), "depth_factor": rng.uniform(0.3, 1.2, (steps, assets))}
    book = {"pool": pool, "equity_at_reference": equity, "quantity": notional / reference}
    if mechanisms:
        add_mechanisms(rng, system, book, path, set(mechanisms))
    return system, book, path


def add_mechanisms(rng, system: dict, book: dict, path: dict, on: set) -> None:
    """Widen a thin case. Pool 2 lends where lending is among the mechanisms; pool 1 is the one with portfolio margin."""
    if "lending" in on:
        _lending(rng, system, book)
    for name, add in _WIDEN.items():
        if name in on:
            add(rng, system, book, path)
    if on & {"adl", "socialise", "funds"}:
        _waterfalls(rng, system, on)
    leverage_cases.widen(rng, system, book, path, on)  # last: these depend on what else there is, and the draws of the others stay what they were


def _money(system: dict) -> np.ndarray:
    """(A,) USD, the size of the books."""
    return system["impact"]["depth"]


def _rules(rng, system, book, path):
    pools = system["n_pools"]
    system["rule"] = rng.choice(RULES, pools).tolist()
    system["close_factor"] = rng.uniform(0.2, 0.7, pools)
    system["full_below"] = rng.choice([0.05, 0.3, 0.7], pools)  # above zero: fees often take an account to zero exactly
    system["liquidator_fee"] = rng.choice([0.0, 0.004], pools)
    system["takeover"] = rng.random(pools) < 0.4


def _coins(rng, system, book, path):
    pools, assets = system["n_pools"], system["n_assets"]
    n = len(book["pool"])
    gross = np.abs(book["quantity"] * system["reference_price"]).sum(axis=1)
    worth = gross[:, None] * rng.uniform(0, 0.15, (n, assets)) * (rng.random((n, assets)) < 0.4)
    cash = book["equity_at_reference"] * rng.choice([-0.5, 0.2, 1.0], n)
    system["haircut"] = rng.choice([0.02, 0.05, 0.3], (pools, assets))
    system["inverse"] = rng.random((pools, assets)) < 0.3
    system["inverse"][1] = False  # portfolio margin and pairs of receipts are for linear contracts
    receipts = (system.get("receipts") or {"pool": np.full(assets, -1)})["pool"]
    system["inverse"][:, receipts >= 0] = False
    coins = worth / system["reference_price"]
    for i in range(n):
        for a in range(assets):
            if system["inverse"][book["pool"][i], a]:
                usd = book["quantity"][i, a] * system["reference_price"][a]
                opened = system["reference_price"][a] * np.exp(rng.normal(0, 0.05))
                book["quantity"][i, a] = usd
                coins[i, a] += usd / opened
                cash[i] -= usd
    book["collateral"] = coins
    book["equity_at_reference"] = cash + coins @ system["reference_price"]


def _entries(rng, system, book, path):
    book["entry"] = system["reference_price"] * np.exp(rng.normal(0, 0.1, book["quantity"].shape))


def _queue(rng, system, book, path):
    pools = system["n_pools"]
    system["queue"] = rng.choice(QUEUES, pools).tolist()
    tight = rng.random(pools) < 0.7
    gross = np.abs(book["quantity"] * system["reference_price"]).sum()
    system["capacity"] = np.where(tight, rng.uniform(0.005, 0.05, pools) * gross, system["capacity"])


def _auctions(rng, system, book, path):
    pools = system["n_pools"]
    system["auctions"] = {
        "active": rng.random(pools) < 0.6,
        "start": rng.choice([0.0, 0.005], pools),
        "growth": rng.uniform(0.002, 0.01, pools),
        "most": rng.uniform(0.01, 0.05, pools),
        "required_profit": rng.choice([0.0, 0.008], pools),
    }


def _size(rng, system, book, path):
    shape = (system["n_pools"], system["n_assets"])
    in_notional = rng.random(shape) < 0.5
    lowest = np.array([[rates[0] for _, rates in row] for row in system["tiers"]])
    typical = np.where(in_notional, 2e4, 2e4 / system["reference_price"])
    system["size_scale"] = {
        "base": lowest,
        "offset": lowest * rng.choice([0.0, 0.8], shape),
        "slope": lowest / np.sqrt(typical) * rng.choice([0.0, 0.3, 1.0], shape),
        "in_notional": in_notional,
    }


def _interest(rng, system, book, path):
    shape = (system["n_pools"], system["n_assets"])
    usd = np.abs(book["quantity"] * system["reference_price"]).sum(axis=0) / system["n_pools"] / 2
    lower = usd * rng.uniform(0.1, 0.8, shape)
    system["interest_scale"] = {
        "base": rng.uniform(0.03, 0.2, shape),
        "lower": lower,
        "upper": np.where(rng.random(shape) < 0.7, lower * rng.uniform(5, 40, shape), np.inf),
    }


def _portfolio(rng, system, book, path):
    pools, assets, scenarios = system["n_pools"], system["n_assets"], 5
    factor = rng.normal(0, 1, (pools, assets, assets + 1))
    covariance = np.einsum("vai,vbi->vab", factor, factor)
    deviation = np.sqrt(np.einsum("vaa->va", covariance))
    system["portfolio"] = {
        "form": rng.choice(PORTFOLIO_FORMS, pools).tolist(),
        "shocks": rng.normal(0, 0.08, (pools, scenarios, assets)),
        "weights": rng.uniform(0.3, 1.0, (pools, scenarios)),
        "correlation": covariance / deviation[:, :, None] / deviation[:, None, :],
        "covariance": covariance * 4e-4,
        "deviations": rng.uniform(1, 3, pools),
        "level": rng.uniform(0.9, 0.995, pools),
        "floor_rate": rng.choice([0.002, 0.01, 0.03], pools),  # a requirement of nothing, and a margin of nothing, would be for rounding
        "multiplier": rng.uniform(0.5, 1.2, pools),
    }
    book["portfolio"] = book["pool"] == 1
    if system["rule"][1] == "stepwise":
        system["rule"][1] = "restore"


def _waterfalls(rng, system, on):
    pools = system["n_pools"]
    stages = ["insurance_fund"]
    if "adl" in on:
        stages.append("adl")
        system["adl"] = rng.choice(POLICIES, pools).tolist()
    if "socialise" in on:
        stages.append("socialise")
        system["socialise_by"] = rng.choice(BASES, pools).tolist()
    if "funds" in on:
        stages.append("shared_funds")
        system["fund_group"] = [0] * pools if rng.random() < 0.6 else [-1, 1, 1]
    used = rng.integers(1, len(stages) + 1)
    order = [stage if n < used else "nothing" for n, stage in enumerate(rng.permutation(stages))]
    system["waterfall"] = [[stage if rng.random() < 0.85 else "nothing" for stage in order] for _ in range(pools)]
    system["insurance_fund"] = rng.choice([0.0, 1e2, 1e4, 1e5], pools)


def _impact(rng, system, book, path):
    assets = system["n_assets"]
    forms = rng.choice(FORMS, assets)
    receipts = (system.get("receipts") or {"pool": np.full(assets, -1)})["pool"]
    forms[0] = "power"
    forms[receipts >= 0] = "power"
    usd = np.abs(book["quantity"] * system["reference_price"]).sum(axis=0) + 1e5
    quantity = usd / system["reference_price"] * rng.uniform(3, 10, assets)
    quantity = np.where(forms == "constant_product", quantity * 3, quantity)
    system["impact"] |= {"form": forms.tolist(), "scale": rng.uniform(0.05, 0.3, assets), "quantity": quantity}


def _venues(rng, system, book, path):
    shape = (system["n_pools"], system["n_assets"])
    share = rng.uniform(0.1, 0.5, shape) * (rng.random(shape) < 0.7)
    share[:, [form == "constant_product" for form in system["impact"]["form"]]] = 0.0
    if system.get("receipts"):
        share[:] *= np.isin(np.arange(shape[1]), system["market"])  # tokens trade in the market of their underlying
        share[:, system["receipts"]["pool"] >= 0] = 0.0
    system["venues"] = {
        "local_depth_share": share,
        "arbitrage_rate": rng.uniform(0.1, 0.9, shape[1]),
        "capital": rng.choice([1e3, 3e4, 1e9]),
    }


def _makers(rng, system, book, path):
    assets = system["n_assets"]
    usd = np.abs(book["quantity"] * system["reference_price"]).sum(axis=0) + 1e4
    system["makers"] = {
        "inventory_limit": usd * rng.choice([0.3, 2.0, np.inf], assets),
        "capital": usd * rng.choice([0.02, 0.3, np.inf], assets),
        "floor": rng.uniform(0.2, 0.8, assets),
    }


def _marks(rng, system, book, path):
    pools, assets = system["n_pools"], system["n_assets"]
    steps = len(path["log_price"])
    plain = rng.random(pools) < 0.4
    delay = np.where(plain, 0, rng.integers(0, 3, pools))
    system["marks"] = {
        "index_share": rng.choice([0.0, 0.5, 1.0], pools),
        "index_weight": rng.uniform(0, 1, (pools, assets)) * (rng.random(assets) < 0.8),
        "delay": delay,
        "averaging": np.where(plain, 1, rng.integers(1, HISTORY - delay + 1)),
        "smoothing": np.where(plain, 0.0, rng.choice([0.0, 0.5], pools)),
        "deviation": np.where(plain, 0.0, rng.choice([0.0, 0.01, 0.04], pools)),
        "heartbeat": np.where(plain, 0, rng.choice([0, 3, 100], pools)),
    }
    path["mark_offset"] = rng.normal(0, 0.02, (steps, pools, assets)) * (rng.random((steps, pools, 1)) < 0.2)
    # drawn apart, so that the rest of a case is what it was without it
    path["stuck"] = np.random.default_rng(steps).random((steps, pools, assets)) < 0.1


def _outage(rng, system, book, path):
    path["outage"] = rng.random((len(path["log_price"]), system["n_pools"])) < 0.12


def _funding(rng, system, book, path):
    shape = (system["n_pools"], system["n_assets"])
    interval = rng.integers(1, 5, shape)
    system["funding"] = {
        "interest": rng.choice([0.0, 1e-4], shape),
        "clamp": rng.choice([0.0, 5e-4, 5e-3], shape),
        "cap": rng.choice([0.01, np.inf], shape),
        "floor": rng.choice([-0.01, -np.inf], shape),
        "skew_slope": rng.choice([0.0, 0.02], shape),
        "interval": interval,
        "period": np.where(rng.random(shape) < 0.7, interval, 2 * interval),
        "rising_weights": rng.random(shape[0]) < 0.5,
        "continuous": rng.random(shape[0]) < 0.4,
    }
    path["premium"] = rng.normal(0, 0.01, (len(path["log_price"]), *shape))


def _lending(rng, system, book):
    """Pool 2 stops being a venue; its accounts become borrowers."""
    pools, assets = system["n_pools"], system["n_assets"]
    stays = book["pool"] != 2
    count = int((~stays).sum())
    for name in ("pool", "equity_at_reference", "quantity"):
        book[name] = book[name][stays]
    price = system["reference_price"]
    worth = rng.pareto(1.5, (count, assets)) * 2e4 * (rng.random((count, assets)) < 0.5)
    worth[:, 0] += 1e3
    threshold = rng.uniform(0.5, 0.9, (pools, assets))
    lending = np.arange(pools) == 2
    system["maintenance_multiplier"][2] = rng.uniform(0.9, 1.1, assets)
    in_force = np.maximum(0.0, 1.0 - system["maintenance_multiplier"] * (1.0 - threshold))[2]
    split = rng.dirichlet(np.full(assets + 1, 0.5), count)
    limit = (worth * in_force).sum(axis=1) / rng.uniform(1.0, 1.5, count)
    debt = split[:, :assets] * limit[:, None]
    cash = np.where(rng.random(count) < 0.6, -split[:, assets], rng.uniform(0, 0.2, count)) * limit
    book["loans"] = {"pool": np.full(count, 2), "supply": worth / price, "debt": debt / price, "cash": cash}
    shape = (pools, assets)
    rules = {
        "liquidation_threshold": threshold,
        "seizable": rng.random(shape) < 0.9,
        "bonus": rng.choice([0.0, 0.05, 0.1], shape),
        "protocol_fee": rng.choice([0.0, 0.1, 0.5], pools),
        "rule": rng.choice(LOAN_RULES, pools).tolist(),
        "close_factor": rng.uniform(0.3, 0.8, pools),
        "full_below": rng.choice([0.0, 0.8, 0.95], pools),
        "target_health": rng.uniform(1.05, 1.4, pools),
        "market_execution": rng.random(pools) < 0.4,
        "auction": rng.random(pools) < 0.4,
        "auction_start": rng.choice([-0.05, 0.0, 0.02], pools),
        "auction_growth": rng.uniform(0.005, 0.03, pools),
        "auction_max": rng.uniform(0.05, 0.15, pools),
        "required_profit": rng.choice([-np.inf, 0.003, 0.02], pools),  # not a bonus: who acts would be for rounding to decide
    }
    rules["seizable"][:, 0] = True
    rates = {
        "optimal": rng.uniform(0.5, 0.9, shape),
        "base": rng.choice([0.0, 0.01], shape),
        "slope1": rng.uniform(0.02, 0.1, shape),
        "slope2": rng.uniform(0.3, 1.0, shape),
        "reserve_factor": rng.uniform(0.05, 0.3, shape),
    }
    deposits = np.zeros(shape)
    deposits[2] = (debt.sum(axis=0) * rng.uniform(0.6, 2.0, assets) + 1e3) / price
    short = debt.sum(axis=0) / price - worth.sum(axis=0) / price - deposits[2]
    deposits[2] += np.maximum(short, 0.0) * 1.2
    system["lending"] = {"pool": lending, "rules": rules, "rates": rates, "years_per_step": rng.choice([0.002, 0.02]), "deposits": deposits}


def _receipts(rng, system, book, path):
    """Asset 2 is a claim on the lending pool's asset 0; asset 3 one on the perp pool 0 in asset 1."""
    assets = system["n_assets"]
    issuer = np.full(assets, -1)
    issuer[2], issuer[3] = 2, 0
    market = np.arange(assets)
    market[2], market[3] = 0, 1
    for token in (2, 3):
        path["log_price"][:, token] = path["log_price"][:, market[token]]
    system["market"] = market
    system["receipts"] = {"pool": issuer, "run_haircut": np.where(issuer == 2, rng.uniform(0.1, 0.5), 0.0)}


def _credit(rng, system, book, path):
    pools = system["n_pools"]
    size = float(_money(system).sum())
    nominal = rng.uniform(0, 0.08, (pools, pools)) * size * (rng.random((pools, pools)) < 0.7)
    np.fill_diagonal(nominal, 0.0)
    system["credit"] = {
        "nominal": nominal,
        "capital": rng.uniform(-0.03, 0.05, pools) * size,
        "alpha": rng.choice([0.5, 0.9, 1.0], pools),
        "beta": rng.choice([0.5, 0.9, 1.0], pools),
        "customers": rng.uniform(3.0, 5.0, pools) * size,
    }


def _owners(rng, system, book, path):
    """Every owner has one account in each pool, as far as they go. Linked perp accounts hold no coins: closed, with some left and no requirement, a
    call would bring them to a margin of exactly nothing, and rounding would decide whether they are under it."""
    links = []
    perps = [np.flatnonzero(book["pool"] == v) for v in range(system["n_pools"])]
    loans = range(len(book["loans"]["pool"])) if "loans" in book else ()
    for owner in range(10):
        links += [(owner, "perps", int(mine[owner])) for mine in perps if owner < len(mine)]
        links += [(owner, "loans", owner)] if owner < len(loans) else []
    book["links"] = links
    if "collateral" in book:
        for _, kind, i in links:
            if kind == "perps":
                faces = system["inverse"][book["pool"][i]]
                book["equity_at_reference"][i] = np.abs(book["quantity"][i] * system["reference_price"])[~faces].sum() * rng.uniform(0.03, 0.4)
                book["quantity"][i][faces] = 0.0
                book["collateral"][i] = 0.0
    top_up = rng.uniform(1.0, 1.3)
    system["owners"] = {"top_up": top_up, "keep": top_up + rng.uniform(0.0, 0.5), "count": 10}


_WIDEN = {
    "rules": _rules,
    "receipts": _receipts,
    "coins": _coins,
    "entries": _entries,
    "queue": _queue,
    "auctions": _auctions,
    "size": _size,
    "interest": _interest,
    "portfolio": _portfolio,
    "impact": _impact,
    "venues": _venues,
    "makers": _makers,
    "marks": _marks,
    "outage": _outage,
    "funding": _funding,
    "credit": _credit,
    "owners": _owners,
}


# The same for the engine


class EngineCase(NamedTuple):
    """What `simulate` takes, and where every account of the twin is found: (population, flat slot)."""

    system: System
    policy: Policy
    populations: tuple
    path: Path
    history: int
    notice: int
    perps: list
    loans: list

    def simulate(self, max_rounds: int):
        from stresslev.engine.simulate import simulate

        return simulate(self.system, self.policy, self.populations, self.path, max_rounds=max_rounds, mark_history=self.history, notice=self.notice)


def layout(pool: np.ndarray, pools: int):
    """Flat slots of accounts in the order given, each pool in whole blocks, and the pool of each block."""
    slots = np.zeros(len(pool), int)
    block_pool = []
    for v in range(pools):
        mine = np.flatnonzero(pool == v)
        slots[mine] = len(block_pool) * BLOCK + np.arange(len(mine))
        block_pool += [v] * -(-len(mine) // BLOCK)
    return slots, np.array(block_pool, np.int32)


def _place(values, slots, blocks: int):
    out = np.zeros(blocks * BLOCK)
    out[slots] = values
    return jnp.array(out.reshape(blocks, BLOCK))


def _perps(book: dict, mine: np.ndarray, pools: int, portfolio: bool):
    slots, block_pool = layout(book["pool"][mine], pools)
    blocks = len(block_pool)

    def columns(name):
        return tuple(_place(column, slots, blocks) for column in book[name][mine].T) if name in book else ()

    entry = tuple(jnp.where(e > 0, e, 1.0) for e in columns("entry"))
    allowed = None
    if "allowed" in book:
        allowed = _place(book["allowed"][mine], slots, blocks)
        allowed = jnp.where(allowed > 0, allowed, 1.0)  # of padding
    return slots, Accounts(
        equity_at_reference=_place(book["equity_at_reference"][mine], slots, blocks),
        quantity=columns("quantity"),
        liquidated=jnp.zeros((blocks, BLOCK), bool),
        block_pool=jnp.array(block_pool),
        collateral=columns("collateral"),
        entry=entry,
        age=jnp.zeros((blocks, BLOCK), jnp.int32),
        allowed=allowed,
        portfolio_margin=portfolio,
    )


def _loans(loans: dict, pools: int):
    slots, block_pool = layout(loans["pool"], pools)
    blocks = len(block_pool)
    return slots, Loans(
        supply=tuple(_place(column, slots, blocks) for column in loans["supply"].T),
        debt=tuple(_place(column, slots, blocks) for column in loans["debt"].T),
        cash=_place(loans["cash"], slots, blocks),
        liquidated=jnp.zeros((blocks, BLOCK), bool),
        age=jnp.zeros((blocks, BLOCK), jnp.int32),
        block_pool=jnp.array(block_pool),
    )


def _codes(names, table) -> np.ndarray:
    return np.array([table.index(name) for name in names], np.int32)


def engine_case(system: dict, book: dict, path: dict, dtype=np.float64) -> EngineCase:
    """A case of the twin as the engine takes it."""
    pools = system["n_pools"]
    populations, perps = [], [None] * len(book["pool"])
    portfolio = book.get("portfolio", np.zeros(len(book["pool"]), bool))
    for flag in (False, True) if "portfolio" in book else (False,):
        mine = np.flatnonzero(portfolio == flag)
        slots, population = _perps(book, mine, pools, flag)
        for number, slot in zip(mine, slots, strict=True):
            perps[number] = (len(populations), int(slot))
        populations.append(population)
    loans = []
    if "loans" in book:
        slots, population = _loans(book["loans"], pools)
        loans = [(len(populations), int(slot)) for slot in slots]
        populations.append(population)

    owners = None
    if system.get("owners"):
        at = {"perps": perps, "loans": loans}
        linked = [(owner, *at[kind][number]) for owner, kind, number in book["links"]]
        ids = tuple(np.array([o for o, p, _ in linked if p == k], np.int32) for k in range(len(populations)))
        owners = types.Owners(
            slot=tuple(np.array([s for _, p, s in linked if p == k], np.int32) for k in range(len(populations))),
            owner=ids,
            links=table(ids, system["owners"]["count"]),
            top_up=system["owners"]["top_up"],
            keep=system["owners"]["keep"],
        )
    return EngineCase(
        system=cast(_system(system, owners), dtype),
        policy=cast(leverage_cases.engine_policy(system), dtype),
        populations=cast(tuple(populations), dtype),
        path=cast(
            Path(**{name: path.get(name) for name in ("log_price", "depth_factor", "mark_offset", "outage", "stuck", "premium")}),
            dtype,
        ),
        history=HISTORY if system.get("marks") else 1,
        notice=leverage_cases.NOTICE + 1,
        perps=perps,
        loans=loans,
    )


def _system(system: dict, owners) -> System:
    assets = system["n_assets"]
    tables = [[TierTable(source="test", floors_usd=f, maintenance_rates=r, max_leverage=[1.0] * len(f)) for f, r in row] for row in system["tiers"]]
    floor, step = stack(tables)
    longest = max(len(order) for order in system["waterfall"])
    same = (
        *("reference_price", "target_health", "close_factor", "full_below", "liquidation_fee", "taker_fee", "liquidator_fee", "takeover", "capacity"),
        *("insurance_fund", "permanent_share", "transient_decay", "volatility_decay", "reference_variance", "depth_volatility_exponent"),
        "depth_floor",
    )
    optional = {
        "size_scale": lambda d: SizeScale(**d),
        "interest_scale": lambda d: types.InterestScale(**d),
        "portfolio": lambda d: PortfolioMargin(**(d | {"form": _codes(d["form"], PORTFOLIO_FORMS)})),
        "queue": lambda names: _codes(names, QUEUES),
        "auctions": lambda d: types.Auctions(**d),
        "adl": lambda names: _codes(names, POLICIES),
        "socialise_by": lambda names: _codes(names, BASES),
        "fund_group": lambda groups: np.array(groups, np.int32),
        "venues": lambda d: VenueRules(**d),
        "makers": lambda d: MakerRules(**d),
        "marks": lambda d: MarkRules(**_int32(d, ("delay", "averaging", "heartbeat"))),
        "funding": lambda d: FundingRules(**_int32(d, ("interval", "period"))),
        "lending": _engine_lending,
        "receipts": lambda d: types.Receipts(**_int32(d, ("pool",))),
        "credit": lambda d: types.Credit(**d),
        "haircut": lambda x: x,
        "inverse": lambda x: x,
        "traders": lambda d: TraderRules(**d),
        "runs": lambda d: RunRules(**d),
    }
    present = {name: make(system[name]) for name, make in optional.items() if system.get(name) is not None}
    return System(
        tier_floor=floor,
        tier_step=step,
        rule=_codes(system["rule"], RULES),
        waterfall=np.array([_codes([*order, *["nothing"] * (longest - len(order))], STAGES) for order in system["waterfall"]]),
        impact=ImpactRules(**(system["impact"] | {"form": _codes(system["impact"]["form"], FORMS)})),
        market=np.array(system.get("market", np.arange(assets)), np.int32),
        owners=owners,
        **{name: system[name] for name in same},
        **present,
    )


def _int32(d: dict, names) -> dict:
    return d | {name: np.array(d[name], np.int32) for name in names}


def _engine_lending(d: dict):
    rates = dict(d["rates"])
    reserve_factor = rates.pop("reserve_factor")
    return types.Lending(
        pool=d["pool"],
        rules=LendingRules(**(d["rules"] | {"rule": _codes(d["rules"]["rule"], LOAN_RULES)})),
        rates=RateRules(curve=RateCurve(**rates), reserve_factor=reserve_factor),
        years_per_step=d["years_per_step"],
        deposits=d["deposits"],
    )


def engine_arguments(system: dict, book: dict, path: dict, dtype=np.float64):
    """A thin case for the engine: system, policy, the one population, path, and the flat slot of every account."""
    case = engine_case(system, book, path, dtype)
    return case.system, case.policy, jax.tree.map(jnp.array, case.populations[0]), case.path, np.array([slot for _, slot in case.perps])
