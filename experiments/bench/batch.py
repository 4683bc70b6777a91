"""Runs together against one after the other: `python experiments/bench/batch.py [--quick] [--shared]`.

Runs a second, compile time and memory of `engine.batch.advance_batch` over widths (runs that go through the step side by side), for accounts and
for a liquidation profile, beside `advance` run by run on the same paths. One process a case, so that the largest resident set is the case's own;
beside it what the model of `stresslev.memory` and the compiler say. Writes results/batch_cpu.json (--out); a case that fails is listed with why.
On a GPU, to choose `memory.GPU_ACCOUNTS` by: `JAX_PLATFORMS=cuda python experiments/bench/batch.py --out experiments/bench/results/batch_gpu.json`.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from step import HERE, MIB, ROOT, engine_digest, machine, peak_bytes, versions, wait_for_quiet, write_json

#: Runs in a block; 0 stands for one after the other by `advance`.
WIDTHS = (0, 1, 2, 4, 16, 64)


def cases(quick: bool) -> list[dict]:
    """What is timed."""
    base = {"runs": 8 if quick else 64, "steps": 12 if quick else 60}
    sizes = (("accounts", 10**3), ("profile", 10**3)) if quick else (("accounts", 10**4), ("accounts", 10**5), ("profile", 10**6))
    return [{**base, "population": kind, "accounts": n, "width": w} for kind, n in sizes for w in WIDTHS if w <= base["runs"]]


def prepared(case: dict):
    """The first run of a case, and the factors on its path that make the others."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stresslev.batches import Run
    from stresslev.engine.batch import Rules
    from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
    from stresslev.engine.types import cast

    if case["population"] == "profile":
        import profile as bench  # the sibling

        from stresslev import preparation

        plan, first, shock, book = bench.case("isolated_one_market", "gap_35_half_depth", case["accounts"], 32)
        one = preparation.prepare(plan, first, shock, book, "profile").run(3)
        path = jax.tree.map(lambda x: x[: case["steps"]], one.rules.path)
        one = dataclasses.replace(one, rules=dataclasses.replace(one.rules, path=path))
    else:
        import workload

        system, policy, population = workload.wide(case["accounts"], 4, 3, np.float32)
        system, policy, population = cast(system, jnp.float32), cast(policy, jnp.float32), jax.tree.map(jnp.array, population)
        state = initial_state(system, (population,), policy=policy)
        path = cast(workload.path("crash", 4, case["steps"]), jnp.float32)
        tolerance = residual_tolerance(state, system)
        one = Run(state, Rules(system, policy, all_channels(jnp.float32), path, jnp.int32(3), tolerance))
    return one, np.linspace(1.0, 0.5, case["runs"], dtype=np.float32)


def work(case: dict, repeats: int) -> dict:
    """One case, in this process."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stresslev import batches, memory
    from stresslev.engine.batch import advance_batch, window
    from stresslev.engine.simulate import advance

    one, factors = prepared(case)

    def with_path(factor):
        path = dataclasses.replace(one.rules.path, log_price=one.rules.path.log_price * factor)
        return dataclasses.replace(one, rules=dataclasses.replace(one.rules, path=path))

    runs = [with_path(f) for f in factors]
    found = {}
    if case["width"]:
        need = memory.need(one)
        found["model_mib"] = need.program(len(runs), case["width"]) / MIB
        parted = batches.stack(runs, len(runs))
        first = parted[0], *window(*parted[1:], 0, batches.chunk_length(one.steps))
        began = time.perf_counter()
        said = advance_batch.lower(*first, width=case["width"]).compile().memory_analysis()
        found["compile_seconds"] = time.perf_counter() - began
        used = said.argument_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes + said.temp_size_in_bytes
        found["compiler_mib"] = used / MIB
        del parted, first

    def once() -> float:
        if case["width"]:
            _, records = batches.drive(*batches.stack(runs, len(runs)), width=case["width"])
        else:
            records = []
            for run in runs:
                r = run.rules
                state = jax.tree.map(jnp.copy, run.state)
                records.append(jax.tree.map(np.asarray, advance(state, r.system, r.policy, r.channels, r.path, r.max_rounds, r.tolerance)[1]))
        return float(sum(np.asarray(r.flows.newly_liquidated, float).sum() for r in records))

    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        outcome = once()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[1:])
    # one after the other nothing has been compiled before the first time
    return (
        {"compile_seconds": times[0] - seconds}
        | found
        | {
            "seconds": seconds,
            "all_seconds": times[1:],
            "runs_per_s": len(runs) / seconds,
            "peak_mib": peak_bytes() / MIB,
            "platform": jax.devices()[0].platform,
            "outcome": outcome,  # accounts liquidated: the same for every width
        }
    )


def in_process(case: dict, repeats: int, limit_s: float) -> dict:
    """A case in a process of its own; its failure is a finding."""
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
    command = [sys.executable, str(Path(__file__).resolve()), "--work", json.dumps([case, repeats])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:.0f} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit code {done.returncode}"]
        return {"failed": said[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def shown(row: dict) -> str:
    """A line for the terminal."""
    how = f"width {row['width']:2}" if row["width"] else "one by one"
    what = f"{row['population']:8} {row['accounts']:8,} x {row['runs']} runs x {row['steps']} steps, {how:10}"
    if "failed" in row:
        return f"{what}: failed: {row['failed']}"
    said = f", model {row['model_mib']:.1f} MiB, compiler {row['compiler_mib']:.1f} MiB" if row["width"] else ""
    return f"{what}: {row['runs_per_s']:9.2f} runs/s, compile {row['compile_seconds']:5.1f} s, peak {row['peak_mib']:6.0f} MiB{said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version of everything")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a case is given up")
    parser.add_argument("--shared", action="store_true", help="do not wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "batch_cpu.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(*json.loads(options.work))))
        return
    facts = {
        "machine": machine(),
        "versions": versions(("jax", "jaxlib", "numpy")),
        "engine_sha256": engine_digest(),
        "date": datetime.date.today().isoformat(),
    }
    facts |= {"options": {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")}, "shared": options.shared}
    rows: list[dict] = []
    for case in cases(options.quick):
        if not options.shared:
            wait_for_quiet()
        rows.append({**case, **in_process(case, options.repeats, options.limit)})
        print(shown(rows[-1]), flush=True)
        write_json(options.out, {**facts, "cases": rows})  # what is done is kept, whatever comes


if __name__ == "__main__":
    main()
