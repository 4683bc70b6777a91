"""Attribution: which way losses travelled, from runs with channels shut."""

from dataclasses import dataclass

import numpy as np

from stresslev.config.spec import SystemSpec
from stresslev.engine.types import Channels

#: Channels in the order in which they are opened.
CHANNELS = ("price", "owners", "receipts", "credit")
#: What the first run, with all channels shut, shows.
SHOCK = "shock"


@dataclass(frozen=True)
class Design:
    """The runs of an attribution: which channels are open (1) in each, (B, 4) in the order of `CHANNELS`. The last is the full run."""

    open: np.ndarray
    opened: tuple[int, ...]  # run of each step of the cascade: shock alone, then one more channel at a time
    shut: tuple[int, ...]  # run with only that channel shut

    def channels(self, dtype) -> Channels:
        """For the engine, leading axis B."""
        return Channels(**{name: self.open[:, i].astype(dtype) for i, name in enumerate(CHANNELS)})


def present(system: SystemSpec, linked_owners: bool) -> tuple[str, ...]:
    """Channels that the system has at all."""
    found = ["price"]
    if linked_owners:
        found.append("owners")
    if any(a.receipt for a in system.assets.values()):
        found.append("receipts")
    if system.credit:
        found.append("credit")
    return tuple(found)


def design(channels: tuple[str, ...]) -> Design:
    """The runs that tell the given channels apart; a channel that the system does not have needs none of its own."""
    has = [c in channels for c in CHANNELS]
    runs: list[tuple[int, ...]] = []

    def run(state: tuple[int, ...]) -> tuple[int, ...]:
        # a channel that is not there is open in every run: it makes no difference
        return tuple(s if h else 1 for s, h in zip(state, has, strict=True))

    steps = [run(tuple(int(i < n) for i in range(len(CHANNELS)))) for n in range(len(CHANNELS) + 1)]
    without = [run(tuple(int(i != n) for i in range(len(CHANNELS)))) for n in range(len(CHANNELS))]
    full = (1,) * len(CHANNELS)
    for state in (*steps, *without):
        if state not in runs and state != full:
            runs.append(state)
    runs.append(full)
    return Design(np.array(runs, float), tuple(runs.index(s) for s in steps), tuple(runs.index(s) for s in without))
