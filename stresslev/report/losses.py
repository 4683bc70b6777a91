"""Losses of one scenario: who bore them, and by which channel of contagion they came."""

from dataclasses import dataclass

import numpy as np

from stresslev.report.inputs import Run, Scenario

#: Who bears deficits -> what it is called.
LAYERS = {
    "own_fund": "own insurance fund",
    "other_funds": "other pools' funds",
    "adl": "auto-deleveraging",
    "socialised": "socialised",
    "bad_debt": "bad debt",
}
#: Channel of contagion -> what it is called; the shock is what is left with all of them shut.
CHANNELS = {
    "shock": "shock alone",
    "price": "prices",
    "owners": "shared owners",
    "receipts": "receipt tokens",
    "credit": "credit",
}


def _flow(scenario: Scenario, variable: str) -> np.ndarray:
    """(V,) USD over the run."""
    return scenario.data[variable].transpose("time", "pool").values.astype(float).sum(axis=0)


def deficits(scenario: Scenario) -> np.ndarray:
    """(V,) USD of negative equity left by accounts that were closed."""
    return _flow(scenario, "deficit_usd")


def layers(scenario: Scenario) -> dict[str, np.ndarray]:
    """(V,) USD borne by each layer; they sum to the deficits."""
    ds = scenario.data
    got = np.maximum(ds.shared_in_usd.transpose("time", "pool").values.astype(float), 0).sum(axis=0)
    draw, debt = _flow(scenario, "fund_draw_usd"), ds.bad_debt_usd.transpose("time", "pool").values.astype(float)
    others = np.minimum(got, draw)
    return {
        "own_fund": draw - others,
        "other_funds": others,
        "adl": _flow(scenario, "adl_usd"),
        "socialised": _flow(scenario, "socialised_usd"),
        "bad_debt": debt[-1] - debt[0],
    }


@dataclass(frozen=True)
class Attribution:
    """Deficits by channel. C channels with the shock first, V pools; USD, signed: a channel can also spare losses."""

    channels: tuple[str, ...]
    added: np.ndarray  # (C, V) by opening one channel after the other; they sum to the deficits
    without: np.ndarray  # (C - 1, V) deficits with only this channel shut
    debt_added: np.ndarray  # (C, V) bad debt, likewise
    debt_without: np.ndarray  # (C - 1, V)
    accounts: int | None = None  # of the smaller book it was found on; None for the run's own


def _exist(run: Run) -> set[str]:
    """Channels that the system has."""
    system = run.system
    book = system.get("book", {})
    found = {"shock", "price"}
    if system.get("owners") and (book.get("file") or book.get("owners_share", 0) > 0):
        found.add("owners")
    if any(a.get("receipt") for a in system["assets"].values()):
        found.add("receipts")
    if system.get("credit"):
        found.add("credit")
    return found


def _smaller(scenario: Scenario) -> int | None:
    """Accounts of the book that the attribution ran on, where it is not the run's own."""
    accounts = scenario.data.deficit_by_channels_usd.attrs.get("accounts")
    return int(accounts) if accounts is not None and int(accounts) != int(scenario.data.accounts.sum()) else None


def attribution(run: Run, scenario: Scenario) -> Attribution | None:
    """How the deficits came about, None for a run without attribution."""
    ds = scenario.data
    if "deficit_by_channels_usd" not in ds:
        return None
    every = [str(c) for c in ds.opened.values]
    levels = {name: ds[f"{name}_by_channels_usd"].transpose("opened", "pool").values.astype(float) for name in ("deficit", "bad_debt")}
    added = {name: np.diff(values, axis=0, prepend=0) for name, values in levels.items()}
    exist = _exist(run)
    # a channel that made a difference exists, whatever the configuration says
    kept = [i for i, c in enumerate(every) if c in exist or np.any(added["deficit"][i] != 0) or np.any(added["bad_debt"][i] != 0)]
    channels = tuple(every[i] for i in kept)
    without = {
        name: ds[f"{name}_without_channel_usd"].transpose("channel", "pool").sel(channel=list(channels[1:])).values.astype(float)
        for name in ("deficit", "bad_debt")
    }
    return Attribution(channels, added["deficit"][kept], without["deficit"], added["bad_debt"][kept], without["bad_debt"], _smaller(scenario))
