"""Which accounts are stepped when: everybody in every step, or only those that something could happen to."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.epochs import LONGEST, Epoch, advance_some, epoch, merge
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.profile import Profile
from stresslev.engine.step import Record
from stresslev.engine.types import Accounts, Channels, Path, Policy, State, System

#: Room for accounts awake, as a share of all.
SHARE = 1 / 32
# How far more is allowed for after an epoch that was cut short, and how far less after one that was not.
_WIDER, _NARROWER, _WIDEST = 2.0, 0.8, 64.0
#: Steps that everybody is stepped for where an epoch cannot be: at first, and at most when that goes on.
_FALLBACK, _MOST_FALLBACK = 1, 16


@dataclasses.dataclass
class Tally:
    """How a run was stepped."""

    epochs: int = 0
    cut: int = 0  # epochs that ended early and were run again as far as they held
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

    def __init__(self, system: System, policy: Policy, channels: Channels, path: Path, rounds: int, tolerance, share: float = SHARE):
        self.rules = (system, policy, channels)
        self.steps = path.log_price.shape[0]
        self.path, self.limits, self.share = _padded(path), (jnp.int32(rounds), tolerance), share
        self.dtype = system.reference_price.dtype
        self.length, self.widen, self.fallback = 16, 1.0, _FALLBACK
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

    def _epoch(self, state: State, start: int, steps: int, stop: int):
        """An epoch that looks `steps` ahead and goes at most to `stop`."""
        ahead = self._window(start), jnp.int32(steps), jnp.int32(stop), jnp.asarray(self.widen, self.dtype)
        found, record = epoch(state, *self.rules, *ahead, *self.limits, share=self.share)
        return found, record, int(found.kept)

    def _home(self, state: State, found: Epoch, record: Record, steps: int) -> tuple[State, Record, int]:
        self.tally.active_steps += steps
        self.tally.awake += steps * int(found.awake.count)
        return merge(state, found), _cut(record, steps), steps

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
        found, record, kept = self._epoch(state, start, steps, steps)
        self.tally.epochs += 1
        while not bool(found.awake.fits) and steps > 1:
            self.tally.refused += 1
            self.length = steps = max(steps // 4, 1)
            found, record, kept = self._epoch(state, start, steps, steps)
        if kept == steps:
            self.widen, self.fallback = max(self.widen * _NARROWER, 1.0), _FALLBACK
            if steps == self.length:
                self.length = min(2 * self.length, LONGEST)
            return self._home(state, found, record, kept)
        if bool(found.awake.fits):
            self.tally.cut += 1
            if kept:
                # once more, as far as it held: the epoch's state has gone past that
                found, record, _ = self._epoch(state, start, steps, kept)
                self.length = kept
                self.widen = min(self.widen * _WIDER, _WIDEST)
                return self._home(state, found, record, kept)
            self.widen = min(self.widen * _WIDER, _WIDEST)
        else:
            self.tally.refused += 1
            self.widen = max(self.widen * _NARROWER, 1.0)
        steps = min(left, self.fallback)
        self.fallback = min(2 * self.fallback, _MOST_FALLBACK)
        state, record = self._everybody(state, start, steps)
        return state, record, steps
