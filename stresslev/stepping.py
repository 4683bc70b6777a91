"""Which accounts are stepped when: everybody in every step, or only those that something could happen to."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.epochs import LONGEST, Epoch, advance_some, epoch, merge
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.profile import Profile
from stresslev.engine.step import Record
from stresslev.engine.types import Accounts, Channels, Path, Policy, State, System

#: Rooms for accounts awake, as shares of all, each a program of its own that is compiled when it is first needed. When more are awake everybody is
#: stepped: a third room, of a quarter, takes a minute to compile and saved few steps (experiments/bench/RESULTS.md).
SHARES = (1 / 256, 1 / 32)
# How far more is allowed for after an epoch that was cut short, and how far less after one that was not.
_WIDER, _NARROWER, _WIDEST = 2.0, 0.8, 64.0
#: Steps that everybody is stepped for where an epoch cannot be: at first, and at most when that goes on.
_FALLBACK, _MOST_FALLBACK = 1, 4


@dataclasses.dataclass
class Tally:
    """How a run was stepped."""

    epochs: int = 0
    cut: int = 0  # epochs that ended early
    refused: int = 0  # epochs without room for all who were awake
    active_steps: int = 0
    everybody_steps: int = 0
    awake: int = 0  # account-steps of accounts awake


#: Account-steps from which on the second program that active stepping compiles is worth its while.
PAYS_FROM = 1_000_000_000


def chosen(stepping: str, state: State, policy: Policy, steps: int) -> str:
    """`all` or `active`: what was asked for, or with `auto` what is likely to be faster."""
    if stepping != "auto":
        return stepping
    accounts = sum(p.liquidated.size for p in state.populations if not isinstance(p, Profile | LoanProfile))
    return "active" if accounts * steps >= PAYS_FROM and not never_sleep(state, policy) else "all"


def never_sleep(state: State, policy: Policy) -> list[str]:
    """Accounts that active-set stepping has to step always, in words; empty when there are none."""
    found = []
    if any(isinstance(p, Accounts) and p.portfolio_margin for p in state.populations):
        found.append("accounts under portfolio margin")
    if policy.score is not None and int(policy.score_every) <= 1:
        found.append("all accounts, since the policy scores them in every step")
    if all(isinstance(p, Profile | LoanProfile) for p in state.populations):
        found.append("the liquidation profile, which has no accounts")
    return found


def _padded(path: Path) -> Path:
    """The path on the host, its last step repeated so that every window is of full length."""

    def longer(x):
        x = np.asarray(x)
        return np.concatenate([x, np.repeat(x[-1:], LONGEST, axis=0)])

    return jax.tree.map(longer, path)


def _cut(record: Record, steps: int) -> Record:
    return jax.tree.map(lambda x: np.asarray(x)[:steps], record)


class Active:
    """Runs a state over a path by epochs, everybody where that cannot be. The same path gives the same epochs: nothing depends on timing."""

    def __init__(self, system: System, policy: Policy, channels: Channels, path: Path, rounds: int, tolerance, shares: Sequence[float] = SHARES):
        self.rules = (system, policy, channels)
        self.steps = path.log_price.shape[0]
        self.path, self.limits, self.shares, self.room = _padded(path), (jnp.int32(rounds), tolerance), tuple(shares), 0
        self.dtype = system.reference_price.dtype
        self.length, self.widen, self.fallback = LONGEST, 1.0, _FALLBACK
        self.tally = Tally()

    def describe(self) -> dict[str, int | float]:
        """How the run was stepped, as attributes of a dataset."""
        t = self.tally
        return {
            "stepping_epochs": t.epochs,
            "stepping_cut_epochs": t.cut,
            "stepping_everybody_steps": t.everybody_steps,
            "stepping_mean_awake": t.awake / max(t.active_steps, 1),
        }

    def _window(self, start: int) -> Path:
        return jax.tree.map(lambda x: x[start : start + LONGEST], self.path)

    def _everybody(self, state: State, start: int, steps: int) -> tuple[State, Record]:
        state, record = advance_some(state, *self.rules, self._window(start), jnp.int32(steps), *self.limits)
        self.tally.everybody_steps += steps
        return state, _cut(record, steps)

    def _epoch(self, state: State, start: int, steps: int) -> tuple[Epoch, Record, float]:
        """An epoch of at most `steps`, what it recorded, and how far its room is filled."""
        ahead = self._window(start), jnp.int32(steps), jnp.asarray(self.widen, self.dtype)
        found, record = epoch(state, *self.rules, *ahead, *self.limits, share=self.shares[self.room])
        self.tally.epochs += 1
        return found, record, float(found.awake.filled)

    def _home(self, state: State, found: Epoch, record: Record, kept: int) -> tuple[State, Record, int]:
        """What an epoch found, brought home."""
        self.tally.active_steps += kept
        self.tally.awake += kept * int(found.awake.count)
        return merge(state, found), _cut(record, kept), kept

    def _larger(self, filled: float) -> bool:
        """Take the least room that would hold those awake; whether there is one."""
        wanted = filled * self.shares[self.room]
        for room in range(self.room + 1, len(self.shares)):
            if wanted <= self.shares[room]:
                self.room = room
                return True
        return False

    def _smaller(self, filled: float) -> None:
        """Go back to the next smaller room once it would be half empty."""
        if self.room and 2 * filled * self.shares[self.room] <= self.shares[self.room - 1]:
            self.room -= 1

    def advance(self, state: State, start: int, end: int, each: Callable[[int], None] = lambda step: None) -> tuple[State, list[Record]]:
        """From step `start` to `end`; the state is taken over. `each` is told how far it has come."""
        records = []
        while start < end:
            state, record, done = self._some(state, start, min(end - start, LONGEST))
            records.append(record)
            start += done
            each(start)
        return state, records

    def _some(self, state: State, start: int, left: int) -> tuple[State, Record, int]:
        """The next steps, at most `left`; the state is taken over. Returns state, record and how many they were."""
        steps = min(left, self.length)
        found, record, filled = self._epoch(state, start, steps)
        while filled > 1:
            self.tally.refused += 1
            if not self._larger(filled):
                if steps == 1:
                    break
                self.length = steps = max(steps // 4, 1)
            found, record, filled = self._epoch(state, start, steps)
        kept = int(found.kept)
        if filled <= 1:
            self._smaller(filled)
            if kept == steps:
                self.widen = max(self.widen * _NARROWER, 1.0)
                if steps == self.length:
                    self.length = min(2 * self.length, LONGEST)
            else:
                self.tally.cut += 1
                self.length, self.widen = max(kept, 1), min(self.widen * _WIDER, _WIDEST)
            if kept:
                self.fallback = _FALLBACK
                return self._home(state, found, record, kept)
        steps = min(left, self.fallback)
        self.fallback = min(2 * self.fallback, _MOST_FALLBACK)
        state, record = self._everybody(state, start, steps)
        return state, record, steps
