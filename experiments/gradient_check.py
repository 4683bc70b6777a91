"""Whether reverse mode goes through every mechanism: `python experiments/gradient_check.py [--groups NAME ...] [--seeds N] [--out FILE]`.

On the random systems of the tests (`tests/systems.py`), group by group of mechanisms: derivatives of a sum over all records and the final state with
respect to all numbers of system, policy, path and accounts. For every seed: derivatives that are not finite (none may be); the largest difference of
the records from those of the production program, relative to the field; and, where a change of all numbers by 1e-7 up and down changes nobody's
liquidation, how far the derivative along that change is from the difference, relative to it. Across a kink these do not agree; a few may lie so.

Exit code 1 where a derivative is not finite or records differ by more than 1e-9. A group compiles for minutes.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.adjoint import reversible
from stresslev.engine.floats import split
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
from stresslev.engine.step import step
from tests.systems import GROUPS, EngineCase, engine_case, random_case

ROUNDS, BY = 3, 1e-7
EVENTS = ("triggered", "waiting", "newly_liquidated", "rounds", "called")


def _levels(record, state) -> list:
    """Every floating field of the records and the final state but residuals, and what was left out for not being finite set to zero."""
    named = jax.tree_util.tree_leaves_with_path((record, state))
    floats = [x for where, x in named if jnp.issubdtype(x.dtype, jnp.floating) and "residual" not in jax.tree_util.keystr(where)]
    return [jnp.where(jnp.isfinite(x), x, 0) for x in floats]


def _made_of(case: EngineCase) -> tuple:
    return case.system, case.policy, case.populations, case.path


def _reverse(case: EngineCase):
    """Value with events, and gradient, of the sum of all levels over `scales`; compiled once for the structure of `case`."""

    def number(floats, whole, scales):
        system, policy, populations, path = split(whole)[1](floats)
        state = reversible(initial_state(system, populations, policy=policy, mark_history=case.history, notice=case.notice))
        ways, tolerance = all_channels(system.reference_price.dtype), residual_tolerance(state, system)
        state, record = jax.lax.scan(lambda s, now: step(s, system, policy, ways, now, ROUNDS, tolerance), state, path)
        total = sum(jnp.sum(x) / scale for x, scale in zip(_levels(record, reversible(state, False)), scales, strict=True))
        return total, (record, tuple(p.liquidated for p in state.populations if hasattr(p, "liquidated")))

    return jax.jit(jax.value_and_grad(number, has_aux=True))


def _apart(record, other) -> float:
    worst = 0.0
    for (where, x), y in zip(jax.tree_util.tree_leaves_with_path(record), jax.tree.leaves(other), strict=True):
        if "residual" not in jax.tree_util.keystr(where):
            x, y = np.asarray(x, float), np.asarray(y, float)
            finite = np.isfinite(x) & np.isfinite(y)
            worst = max(worst, np.abs(x[finite] - y[finite]).max(initial=0) / max(np.abs(y[finite]).max(initial=0), 1e-9))
    return float(worst)


def _same_events(one, other) -> bool:
    same = all((np.asarray(getattr(one[0].flows, k)) == np.asarray(getattr(other[0].flows, k))).all() for k in EVENTS)
    return same and all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(one[1], other[1], strict=True))


def check(group: str, seeds: range) -> list[dict]:
    """A row per seed."""
    rows, reverse = [], None
    for seed in seeds:
        case = engine_case(*random_case(seed, GROUPS[group]))
        state, record = case.simulate(ROUNDS)
        scales = [1 + float(jnp.max(jnp.abs(x))) if x.size else 1.0 for x in _levels(record, state)]
        reverse = _reverse(case) if reverse is None else reverse
        whole = _made_of(case)
        floats = split(whole)[0]
        began = time.perf_counter()
        (_, at), found = reverse(floats, whole, scales)
        names = [jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(whole) if jnp.issubdtype(x.dtype, jnp.floating)]
        row = {
            "group": group,
            "seed": seed,
            "liquidated": int(np.asarray(record.flows.newly_liquidated).sum()),
            "not_finite": [n for n, g in zip(names, found, strict=True) if not np.isfinite(np.asarray(g)).all()],
            "apart": _apart(at[0], record),
            "first_seconds" if not rows else "seconds": time.perf_counter() - began,
        }
        rng = np.random.default_rng(seed)
        change = [np.nan_to_num(np.asarray(x) * rng.uniform(-1, 1, x.shape), posinf=0, neginf=0) for x in floats]
        (high, more), (low, less) = (reverse(tuple(x + s * BY * c for x, c in zip(floats, change, strict=True)), whole, scales)[0] for s in (1, -1))
        if _same_events(more, less):
            along = sum(float(np.sum(np.asarray(g) * c)) for g, c in zip(found, change, strict=True))
            difference = float(high - low) / (2 * BY)
            row |= {"along": along, "difference": difference, "off": abs(along - difference) / max(abs(difference), 1e-3)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [row for group in options.groups for row in check(group, range(options.seeds))]
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["not_finite"] or row["apart"] > 1e-9 for row in rows))


if __name__ == "__main__":
    main()
