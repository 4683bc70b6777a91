"""How much memory runs take, and how many may go together: a model of bytes per account, per run and per step, held against XLA's own count."""

import math
import os
from dataclasses import dataclass

import jax

from stresslev.batches import OWN, Run, chunk_length
from stresslev.config.load import Plan
from stresslev.config.spec import RunSpec
from stresslev.engine.adjoint import tree_bytes
from stresslev.engine.batch import part
from stresslev.engine.loan_profile import LoanProfile
from stresslev.engine.profile import Profile
from stresslev.engine.round import no_flows
from stresslev.engine.types import State, System
from stresslev.errors import InputError, Problem

GIB = 2**30
#: Bytes of the process itself, with JAX loaded and programs compiled.
PROCESS = 640 * 2**20
#: Share of what is free that runs may take when nobody says how much.
SHARE = 0.6
#: Working arrays of a step, as multiples of the population: its copy, what it asks for, what it gets, what comes of it.
WORKING = 6.0
#: Runs that go together in a liquidation profile.
PROFILE_WIDTH = 64
#: Accounts that keep a GPU busy; runs with fewer go together. A guess, to be measured on one (experiments/bench/batch.py).
GPU_ACCOUNTS = 2**20
#: Bytes that are allowed where nobody says how many there are.
UNKNOWN = 2**40
#: Most runs in one call: records of more than this would pile up before any is done.
MOST = 256


@dataclass(frozen=True)
class Need:
    """Bytes of a call of `engine.batch.run_batch`, by what they grow with."""

    shared: int  # rules that all runs share
    per_run: int  # of every run: its state, its rules, and the record of a chunk of steps
    per_lane: int  # of every run of the block at work: what the step works with
    kept: int  # of every run outside of the program: the state it began with, the whole path and the whole record

    def program(self, batch: int, width: int) -> int:
        """Bytes of the compiled program with `batch` runs in blocks of `width`: arguments, results and temporaries."""
        return self.shared + batch * self.per_run + width * self.per_lane

    def total(self, batch: int, width: int) -> int:
        """Bytes of the program and of what is kept beside it."""
        return self.program(batch, width) + batch * self.kept


@dataclass(frozen=True)
class Limits:
    """What a user, or the machine, allows."""

    budget: int  # bytes that batches may take
    most: int  # bytes above which a single run is refused
    batch: int | None = None  # runs together, when asked for
    file: str = "run"  # that the settings stand in, for errors


@dataclass(frozen=True)
class Choice:
    """How runs go through the program."""

    batch: int  # runs in a call, a multiple of the width
    width: int  # runs in a block
    need: Need

    @property
    def bytes(self) -> int:
        """The model's estimate."""
        return self.need.total(self.batch, self.width)


def available() -> int | None:
    """Bytes of memory the machine has available now, or None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def free() -> int | None:
    """Bytes free where runs are computed: on the device if it says so, else in the machine; None where nobody says."""
    told = jax.local_devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    return available()


def limits(settings: RunSpec, file: str = "run") -> Limits:
    """The limits of a plan's `run` table: `memory_gib`, or a share of what is free now."""
    wanted = settings.batch if isinstance(settings.batch, int) else None
    if settings.memory_gib is not None:
        given = int(settings.memory_gib * GIB)
        return Limits(given, given, wanted, file)
    there = free()
    return Limits(UNKNOWN, UNKNOWN, wanted, file) if there is None else Limits(int(SHARE * there), there, wanted, file)


def account_bytes(state: State) -> dict[str, float]:
    """Bytes per account of each population, padding included, by the population's number and kind."""
    return {
        f"{i} {type(p).__name__.lower()}": tree_bytes(p) / p.liquidated.size
        for i, p in enumerate(state.populations)
        if not isinstance(p, Profile | LoanProfile)
    }


def record_bytes(system: System) -> int:
    """Bytes of the record of one step: the flows, and what `engine.step.Record` says besides."""
    pools, assets = system.tier_floor.shape[:2]
    width = system.reference_price.dtype.itemsize
    levels = width * (11 * pools * assets + 6 * pools + 5 * assets) + 4
    return levels + tree_bytes(jax.eval_shape(no_flows, system))


def need(run: Run) -> Need:
    """The bytes of a batch of runs like this one, in chunks of `chunk_length`."""
    steps = chunk_length(run.steps)
    record, path = record_bytes(run.rules.system), tree_bytes(run.rules.path) / run.steps
    own, shared = part(run.rules, OWN)
    state = tree_bytes(run.state)
    populations = sum(tree_bytes(p) for p in run.state.populations)
    return Need(
        shared=tree_bytes(shared),
        # states are donated: those that come out lie where those that go in did
        per_run=int(state + tree_bytes(own) - (run.steps - steps) * path + steps * record),
        per_lane=int(WORKING * populations + state - populations + steps * record),
        kept=int(state + run.steps * (record + path)),
    )


def width_for(state: State, platform: str) -> int:
    """Runs that go through the step together, by what they are and where they run; see `engine.batch` for why."""
    accounts = sum(p.liquidated.size for p in state.populations if not isinstance(p, Profile | LoanProfile))
    if accounts == 0:
        return PROFILE_WIDTH
    return 1 if platform == "cpu" else max(1, min(MOST, GPU_ACCOUNTS // accounts))


def most(run: Run, given: Limits, *, width: int | None = None) -> tuple[int, int]:
    """Most runs like this one in a call, and side by side in a block, that the limits allow; the first is a multiple of the second.

    Args: `width` instead of that of `width_for`.

    Raises:
      InputError: not one run fits.
    """
    per = need(run)
    if per.total(1, 1) > given.most:
        raise _too_much(per.total(1, 1), given.most, given.file)
    side = width or width_for(run.state, jax.devices()[0].platform)
    together = given.batch or (1 if side == 1 else MOST)
    side = min(side, together)
    while side > 1 and per.total(side, side) > given.budget:
        side = max(1, side * 3 // 4)
    room = (given.budget - per.shared - side * per.per_lane) // max(per.per_run + per.kept, 1)
    return max(side, min(together, room) // side * side), side


def choose(run: Run, runs: int, given: Limits, *, width: int | None = None) -> Choice:
    """How `runs` runs like this one go through the program: as `most` allows, and as even as they can be, so that little is computed for nobody.

    70 runs at a width of 64 are two blocks of 35.
    """
    together, side = most(run, given, width=width)
    runs = min(runs, together)
    blocks = math.ceil(runs / side)
    side = math.ceil(runs / blocks)
    return Choice(batch=side * blocks, width=side, need=need(run))


def _too_much(needed: int, allowed: int, file: str) -> InputError:
    """The error of a run that does not fit."""
    has = f"one run needs about {needed / GIB:.3g} GiB, and {allowed / GIB:.3g} GiB are allowed"
    fix = "lower --accounts, use --population profile where accounts are isolated, --precision 32, or set run.memory_gib higher if there is more"
    return InputError(file, Problem("run.memory_gib", "", has, fix))


def check(plan: Plan) -> None:
    """Refuse a plan of which not one run can fit, before its book is sampled. Raises InputError."""
    if plan.system.book.file is not None:
        return
    accounts = plan.system.book.accounts
    allowed = available() if plan.run.memory_gib is None else int(plan.run.memory_gib * GIB)
    steps = max(s.steps for s in plan.scenarios)
    needed = plan_bytes(accounts, len(plan.system.assets), len(plan.system.pools), steps, plan.run.precision) - PROCESS
    if allowed is not None and needed > allowed:
        raise _too_much(needed, allowed, plan.files["suite"])


def plan_bytes(accounts: int, assets: int, pools: int, steps: int, bits: int) -> int:
    """Bytes a run needs at its peak, before there is a book: book in float64 with the sampler's work space, blocks and state, and the record.

    A model of what is alive at once, checked against measured peaks in experiments/bench/RESULTS.md.
    """
    width = bits // 8
    book = accounts * (8 * (assets + 1) + 4)
    sampler = accounts * 8 * (2 * assets + 4)
    layout = accounts * (8 * 4 + 8 * assets)
    state = 2 * accounts * (width * (assets + 1) + 1)
    record = steps * width * (pools * (6 * assets + 9) + 5 * assets)
    return PROCESS + book + max(sampler, layout + state) + 2 * record
