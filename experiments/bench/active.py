"""Active-set stepping against stepping everybody, on shipped historical scenarios, in one run: `python experiments/bench/active.py`.

Both go over the whole path (or its first `--steps`) with all mechanisms on. Compilation is not counted: epochs go twice, and everybody's program is
compiled beforehand. What they found is held against each other: largest difference of any recorded field but the residuals, relative to the field,
and accounts that only one liquidated. `--alone` times epochs by themselves, for more accounts than one wants to step one by one; peak memory is that
of the whole process.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from stresslev import load_plan, opening, preparation
from stresslev.engine.simulate import advance, all_channels
from stresslev.stepping import SHARES, Active

SCENARIOS = ("2020-03-12_black_thursday", "2025-10-10_adl_cascade")


def prepared(scenario: str, system: str, accounts: int, precision: int, steps: int | None = None):
    """A scenario, or its first steps, ready to run, and its rounds."""
    plan = load_plan(scenario, system=system, accounts=accounts, precision=precision)
    first = plan.scenarios[0]
    shock = opening.shock_of(plan, first)
    ready = preparation.prepare(plan, first, shock, opening.at_start(plan, opening.load_book(plan, shock), shock))
    return dataclasses.replace(ready, path=jax.tree.map(lambda x: x[:steps], ready.path)), plan.run.max_rounds


def by_epochs(ready, rounds: int, shares):
    active = Active(ready.system, ready.policy, all_channels(ready.dtype), ready.path, rounds, ready.tolerance, shares)
    state, records = active.advance(fresh(ready), 0, ready.path.log_price.shape[0])
    return jax.block_until_ready(state), jax.tree.map(lambda *x: np.concatenate(x), *records), active.tally


def everybody(ready, rounds: int):
    """The run of everybody, compiled: a function of the state, which it takes over."""
    rest = ready.system, ready.policy, all_channels(ready.dtype), ready.path, jnp.int32(rounds), ready.tolerance
    program = advance.lower(ready.state, *rest).compile()
    return lambda state: jax.block_until_ready(program(state, *rest))


def fresh(ready):
    return jax.block_until_ready(jax.tree.map(jnp.copy, ready.state))


def timed(f, *args):
    began = time.perf_counter()
    found = f(*args)
    return time.perf_counter() - began, found


def apart(record, other) -> float:
    """Largest difference, relative to the largest value of its field."""
    worst = 0.0
    for (where, x), y in zip(jax.tree_util.tree_leaves_with_path(record), jax.tree.leaves(other), strict=True):
        if "residual" not in jax.tree_util.keystr(where):
            x, y = np.asarray(x, float), np.asarray(y, float)
            finite = np.isfinite(x) & np.isfinite(y)
            worst = max(worst, np.abs(x[finite] - y[finite]).max(initial=0) / max(np.abs(y[finite]).max(initial=0), 1e-9))
    return float(worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=float, default=1e6)
    parser.add_argument("--system", default="systems/venues_and_lenders.toml")
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS)
    parser.add_argument("--precision", type=int, default=32, choices=(32, 64))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rooms for accounts awake, as shares of all")
    parser.add_argument("--steps", type=int, help="of the path, from the start; all when not given")
    parser.add_argument("--alone", action="store_true", help="epochs only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.scenarios:
        with jax.enable_x64(options.precision == 64):
            began = time.perf_counter()
            ready, rounds = prepared(name, options.system, int(options.accounts), options.precision, options.steps)
            row = {"scenario": name, "accounts": int(options.accounts), "steps": ready.path.log_price.shape[0], "book_s": time.perf_counter() - began}
            row["first_active_s"] = timed(by_epochs, ready, rounds, options.shares)[0]
            row["active_s"], (state, record, tally) = timed(by_epochs, ready, rounds, options.shares)
            if not options.alone:
                row["compile_all_s"], program = timed(everybody, ready, rounds)
                row["all_s"], (state_all, record_all) = timed(program, fresh(ready))
                row |= {"ratio": row["all_s"] / row["active_s"], "apart": apart(record, record_all)}
                both = zip(state.populations, state_all.populations, strict=True)
                row["liquidated_by_one"] = sum(int((p.liquidated != q.liquidated).sum()) for p, q in both)
        row["liquidated"] = sum(int(p.liquidated.sum()) for p in state.populations)
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        # every shape has programs of its own, and a process may map only so much memory
        jax.clear_caches()
        rows.append(row | dataclasses.asdict(tally))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")},
        "machine": {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count(), "load": os.getloadavg()},
        "rows": rows,
    }
    if options.out:
        part = options.out.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.rename(options.out)


if __name__ == "__main__":
    main()
