"""Run by test_devices in a process of its own, with eight devices made of one processor: how far apart are results on one device and on eight?

Prints one JSON object: case -> field -> largest difference, relative to the largest value of the field; of whole numbers, the largest difference.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.batches import OWN_CHANNELS
from stresslev.engine.batch import Rules, part
from stresslev.engine.leverage import transition
from stresslev.engine.leverage.resize import resize
from stresslev.engine.leverage.score import net_exposure
from stresslev.engine.prices import Seen, prices
from stresslev.engine.simulate import all_channels, residual_tolerance
from stresslev.engine.types import Accounts
from stresslev.sharding import ONE, Sharding
from tests.systems import engine_case, random_case

#: USD and the like: a field with nothing above it holds roundings of what cancels, and is compared as it stands.
ROUNDING = 1e-9
#: Eight devices in two groups; each group holds all accounts.
DEVICES, GROUPS = 8, 2
#: One program; the numbers have every mechanism at work, and queues by age, by health and pro rata.
RICH = ("rules", "entries", "queue", "adl", "socialise", "lending", "owners")
SEEDS = (1, 8, 10, 13, 26, 28, 39)


def apart(mine, theirs) -> dict[str, float]:
    found = {}
    for (where, x), y in zip(jax.tree_util.tree_leaves_with_path(mine), jax.tree.leaves(theirs), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        scale = np.abs(y[np.isfinite(y)]).max(initial=0)
        if x.dtype.kind in "bi" or scale < ROUNDING:
            scale = 1.0
        finite = np.isfinite(y)
        assert (np.isfinite(x) == finite).all()
        name = jax.tree_util.keystr(where)
        if "residual" not in name:
            found[name] = float(np.abs(x[finite].astype(float) - y[finite].astype(float)).max(initial=0) / scale)
    return found


def in_order(population, blocks: int):
    """A population, with a leading axis of runs, as it was before its blocks were dealt out."""
    of_group = DEVICES // GROUPS

    def undone(x):
        return x.reshape(len(x), of_group, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)[:, :blocks]

    return jax.tree.map(undone, population)


def placed(sharding, case):
    rules, policy = sharding.rules(case.system, case.populations), sharding.everywhere(case.policy)
    populations = tuple(sharding.deal(p) for p in case.populations)
    return sharding.initial_state(rules, populations, policy=policy, mark_history=case.history, notice=case.notice), rules, policy


def run(sharding, case):
    state, rules, policy = placed(sharding, case)
    tolerance = residual_tolerance(sharding.bare(state), case.system)
    # two runs, each on its group of devices: with all channels, and without any effect on prices
    ways = jax.tree.map(lambda x: np.array([x, x]), all_channels(np.float64))
    ways = dataclasses.replace(ways, price=np.array([1.0, 0.0]))
    own, shared = part(Rules(rules, policy, ways, case.path, jnp.int32(3), tolerance), OWN_CHANNELS)
    found = sharding.advance_batch(sharding.repeated(state, 2), own, shared)
    return jax.tree.map(np.asarray, found)


def rich(sharding, seed) -> tuple[dict, dict]:
    case = engine_case(*random_case(seed, RICH, accounts=144, steps=6))
    (one, record), (many, dealt) = run(ONE, case), run(sharding, case)
    accounts = {}
    for k, (p, q) in enumerate(zip(one.populations, many.populations, strict=True)):
        accounts |= {f"{k}{name}": v for name, v in apart(in_order(q, p.block_pool.shape[1]), p).items()}
    flows = record.flows
    happened = {
        "adl": flows.adl_usd.sum(),
        "socialised": flows.socialised.sum(),
        "margin_calls": np.abs(flows.margin_calls).sum(),
        "loans": one.populations[-1].liquidated.sum(),
        "status": record.status.max(),
        "channels": np.abs(record.price[0] - record.price[1]).max(),
    }
    return apart(dealt, record) | accounts, {name: float(v) for name, v in happened.items()}


def leverage(state, system, policy):
    """What a cap of a twentieth has accounts do."""
    none = jnp.zeros(system.tier_floor.shape[:2])
    seen = prices(state, system, Seen(mark=None, offset=none, still=none > 0))
    tight = dataclasses.replace(state.leverage, cap=state.leverage.cap / 20)
    found = []
    for p in state.populations:
        if isinstance(p, Accounts):
            wants, sums = transition.plan(p, system, policy.transition, policy.caps, tight, policy.maintenance_multiplier, seen, none[:, 0] > 0)
            _, done = resize(p, system, wants.share, wants.posted, venue=seen.venue, fill=seen.venue_displaced, funding=seen.funding)
            found.append((sums, done, net_exposure(p, system, policy.maintenance_multiplier, seen)))
    return tuple(found)


def levered(sharding) -> tuple[dict, dict]:
    case = engine_case(*random_case(7, ("rules", "entries", "leverage"), accounts=144, steps=2))
    one = jax.jit(leverage)(*placed(ONE, case))
    state, rules, policy = placed(sharding, case)
    happened = {"reduced": sum(s.reduced_usd.sum() for s, *_ in one), "fees": sum(d.taker_fee.sum() for _, d, _ in one)}
    return apart(sharding.apply(leverage, state, rules, policy), one), {name: float(v) for name, v in happened.items()}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    sharding = Sharding.over(jax.devices(), scenarios=GROUPS)
    json.dump({str(seed): rich(sharding, seed) for seed in SEEDS} | {"leverage": levered(sharding)}, sys.stdout)
