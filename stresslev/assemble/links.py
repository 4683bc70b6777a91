"""What ties pools together: receipt tokens, credit, owners."""

import numpy as np

from stresslev.assemble.units import Grid, by_asset, by_pool
from stresslev.config.spec import OwnersSpec, SystemSpec
from stresslev.engine.types import Credit, Owners, Receipts


def arrays(system: SystemSpec, grid: Grid, customers: np.ndarray) -> dict:
    """The fields of `System` that describe receipts and credit. `customers` (V,) USD owed to customers at the start."""
    names = list(system.pools)
    receipts = credit = None
    if any(a.receipt for a in system.assets.values()):
        receipts = Receipts(
            pool=by_asset(system, lambda a: names.index(a.receipt.pool) if a.receipt else -1, np.int32),
            run_haircut=by_asset(system, lambda a: a.receipt.run_haircut if a.receipt else 0.0),
        )
    if system.credit or receipts is not None:
        nominal = np.zeros((len(names), len(names)))
        for link in system.credit:
            nominal[names.index(link.debtor), names.index(link.creditor)] += link.usd
        credit = Credit(
            nominal=nominal,
            capital=by_pool(system, lambda p: p.capital_usd),
            alpha=np.full(len(names), float(system.clearing.alpha)),
            beta=np.full(len(names), float(system.clearing.beta)),
            customers=np.asarray(customers, float),
        )
    return {"receipts": receipts, "credit": credit}


#: Stands in `Owners.links` for a link that an owner does not have.
NO_LINK = np.iinfo(np.int32).max


def table(ids, owners: int, at=None) -> np.ndarray:
    """(owners, M) int32 `Owners.links` of links to these owners, by population; M is the most that any of them has.

    Args: `at`, by population, where each link stands among the links of all populations; one after the other when not given.
    """
    who = np.concatenate([np.asarray(i, np.int64) for i in ids])
    place = np.arange(len(who)) if at is None else np.concatenate(at)
    count = np.bincount(who, minlength=owners)
    order = np.argsort(who, kind="stable")
    found = np.full((owners, max(count.max(initial=0), 1)), NO_LINK, np.int32)
    found[who[order], np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)] = place[order]
    return found


def owners(spec: OwnersSpec | None, slots: tuple[np.ndarray, ...], ids: tuple[np.ndarray, ...]) -> Owners | None:
    """Owners with more than one account.

    Args:
      spec: None when owners never move margin.
      slots, ids: per population, flat slot and owner of every account that names an owner (-1 for none).
    """
    if spec is None:
        return None
    everybody = np.concatenate([i[i >= 0] for i in ids]) if ids else np.array([], int)
    known, count = np.unique(everybody, return_counts=True)
    linked = known[count > 1]
    if not len(linked):
        return None
    kept_slots, kept_ids = [], []
    for slot, who in zip(slots, ids, strict=True):
        place = np.searchsorted(linked, who)
        mine = (who >= 0) & (linked[np.minimum(place, len(linked) - 1)] == who)
        kept_slots.append(slot[mine].astype(np.int32))
        kept_ids.append(place[mine].astype(np.int32))
    return Owners(
        slot=tuple(kept_slots),
        owner=tuple(kept_ids),
        links=table(kept_ids, len(linked)),
        top_up=np.array(float(spec.top_up)),
        keep=np.array(float(spec.keep)),
    )
