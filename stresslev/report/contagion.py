"""Who depends on whom, and what went between pools in one scenario."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stresslev.report import words
from stresslev.report.facts import NEGLIGIBLE
from stresslev.report.inputs import Run, Scenario

CREDIT, RECEIPT, FUNDS, OWNERS = "credit", "receipt token", "shared funds", "margin calls"
INSOLVENT, HURT, FINE = "insolvent", "lost own funds", "unharmed"
#: Stands for all owners with accounts in several pools: only what each pool nets is known.
HUB = "owners"


@dataclass(frozen=True)
class Link:
    """One edge, in the direction in which losses travel or money went."""

    kind: str
    source: str
    target: str
    usd: float | None  # owed, pledged or moved; None where it is not recorded
    lost: float  # USD of it that is lost
    text: str  # what it is and what happened

    @property
    def hurt(self) -> bool:
        """Whether losses went along it."""
        return self.lost > 0


@dataclass(frozen=True)
class Node:
    """One pool."""

    pool: str
    size: float  # USD of open interest and loans at the start
    state: str
    before: float  # USD own funds at the start
    after: float  # USD own funds at the end, credit cleared
    debtrank: float


def _total(scenario: Scenario, variable: str) -> dict[str, float]:
    values = scenario.data[variable].astype(float).sum("time")
    return {str(p): float(v) for p, v in zip(values.pool.values, values.values, strict=True)}


def _own_funds(scenario: Scenario) -> np.ndarray:
    """(V, 2) USD at the start and at the end: after clearing where credit or receipts are modelled, else what the pool's accounts say."""
    ds = scenario.data
    cleared = ds.net_worth_usd.transpose("pool", "time").values.astype(float)
    if np.any(cleared):
        return cleared[:, [0, -1]]
    return (ds.insurance_fund_usd + ds.treasury_usd - ds.bad_debt_usd).transpose("pool", "time").values.astype(float)[:, [0, -1]]


def nodes(scenario: Scenario) -> list[Node]:
    """Pools with their size and what became of their own funds."""
    ds = scenario.data
    size = (ds.open_interest_usd + ds.borrowed_usd).isel(time=0).sum("asset")
    found = []
    for v, (pool, (before, after)) in enumerate(zip(scenario.pools, _own_funds(scenario), strict=True)):
        fell = after < before - NEGLIGIBLE * abs(before)
        state = INSOLVENT if scenario.pools[pool]["insolvent_pools"] > 0 else HURT if fell else FINE
        found.append(Node(pool, float(size[v]), state, float(before), float(after), float(ds.debtrank[v])))
    return found


def _owed(run: Run, pools: list[str]) -> np.ndarray:
    nominal = np.zeros((len(pools), len(pools)))
    for line in run.system.get("credit") or ():
        nominal[pools.index(line["debtor"]), pools.index(line["creditor"])] += line["usd"]
    return nominal


def unpaid(run: Run, scenario: Scenario) -> np.ndarray:
    """(V, V) USD, row owes column, that debtors do not pay at the end: all creditors of one debtor get the same share."""
    nominal = _owed(run, [str(p) for p in scenario.data.pool.values])
    return nominal * (1 - scenario.data.paid_share.isel(time=-1).values.astype(float))[:, None]


def _credit(run: Run, scenario: Scenario) -> list[Link]:
    pools = [str(p) for p in scenario.data.pool.values]
    nominal, lost = _owed(run, pools), unpaid(run, scenario)
    links = []
    for d, c in zip(*np.nonzero(nominal), strict=True):
        gone = float(lost[d, c])
        what = f"{words.usd(gone)} of it lost ({words.percent(gone / nominal[d, c])})" if gone > 0 else "paid in full"
        text = f"{pools[d]} owes {pools[c]} {words.usd(nominal[d, c])}: {what}"
        links.append(Link(CREDIT, pools[d], pools[c], float(nominal[d, c]), gone, text))
    return links


def _accepts(pool: dict, asset: str) -> bool:
    """Whether a pool takes an asset as margin, collateral or deposit."""
    return asset in (pool.get("collateral") or {}) or asset in (pool.get("reserves") or {})


def _receipts(run: Run, scenario: Scenario) -> list[Link]:
    ds, links = scenario.data, []
    for asset, spec in run.system["assets"].items():
        receipt = spec.get("receipt")
        if not receipt:
            continue
        issuer, worth = receipt["pool"], ds.redemption.sel(asset=asset)
        least, end = float(worth.min()), float(worth.isel(time=-1))
        for user, pool in run.system["pools"].items():
            if user == issuer or not _accepts(pool, asset):
                continue
            held = float(ds.supplied_usd.sel(pool=user, asset=asset).isel(time=0))
            size = f" ({words.usd(held)} deposited at the start)" if held > 0 else ""
            cover = (
                f"least redemption value {words.percent(least)}, {words.percent(end)} at the end" if least < 1 else "redeemable in full throughout"
            )
            text = f"{user} takes {asset}, deposits with {issuer}{size}: {cover}"
            links.append(Link(RECEIPT, issuer, user, held if held > 0 else None, (1 - least) * (held or 1) if least < 1 else 0.0, text))
    return links


def _groups(run: Run) -> dict[str, list[str]]:
    """Pools by the group of funds that they share."""
    found: dict[str, list[str]] = {}
    for name, pool in run.system["pools"].items():
        if pool.get("fund_group"):
            found.setdefault(pool["fund_group"], []).append(name)
    return {group: members for group, members in found.items() if len(members) > 1}


def _funds(run: Run, scenario: Scenario) -> list[Link]:
    moved, links = _total(scenario, "shared_in_usd"), []
    for group, members in _groups(run).items():
        payers, getters = [m for m in members if moved[m] < 0], [m for m in members if moved[m] > 0]
        total = sum(moved[m] for m in getters)
        for p in payers:
            for g in getters:
                usd = -moved[p] * moved[g] / total
                text = f"group {group}: the fund of {p} pays {words.usd(usd)} of the losses of {g}"
                links.append(Link(FUNDS, p, g, usd, usd, text))
        if not total:
            for one, other in pairwise(members):
                links.append(
                    Link(FUNDS, one, other, 0.0, 0.0, f"group {group}: the funds of {one} and {other} stand in for each other; nothing was paid")
                )
    return links


def _owners(scenario: Scenario) -> list[Link]:
    links = []
    for pool, usd in _total(scenario, "margin_calls_usd").items():
        if usd > 0:
            links.append(
                Link(OWNERS, HUB, pool, usd, 0.0, f"owners with accounts in several pools bring {words.usd(usd)} more into {pool} than they take out")
            )
        elif usd < 0:
            links.append(
                Link(OWNERS, pool, HUB, -usd, 0.0, f"owners with accounts in several pools take {words.usd(-usd)} more out of {pool} than they bring")
            )
    return links


def links(run: Run, scenario: Scenario) -> list[Link]:
    """All edges between pools: credit lines, receipt tokens, shared funds, margin calls."""
    return [*_credit(run, scenario), *_receipts(run, scenario), *_funds(run, scenario), *_owners(scenario)]


def summary(run: Run, scenario: Scenario) -> str:
    """What went between the pools, in words."""
    found = links(run, scenario)
    lost = sum(e.lost for e in found if e.kind == CREDIT)
    owed = sum(e.usd for e in found if e.kind == CREDIT)
    parts = []
    if owed:
        parts.append(f"Of {words.usd(owed)} that pools owe each other {words.usd(lost) + ' are' if lost else 'nothing is'} lost")
    if any(e.kind == RECEIPT for e in found):
        short = float(1 - scenario.data.redemption.min())
        parts.append(f"receipt tokens lose up to {words.percent(short)} of their value" if short > NEGLIGIBLE else "receipt tokens keep their cover")
    paid = sum(e.lost for e in found if e.kind == FUNDS)
    if any(e.kind == FUNDS for e in found):
        parts.append(f"shared insurance funds pay {words.usd(paid)} for other pools" if paid else "no pool needs another's insurance fund")
    moved = scenario.metrics["margin_calls_usd"]
    if moved > 0:
        parts.append(f"owners move {words.usd(moved)} between pools to meet margin calls")
    text = words.listing(parts, len(parts))
    return text[0].upper() + text[1:] + "."
