"""What a gradient of a whole run costs, in time and memory: `python experiments/bench/adjoint.py [--quick] [--shared] [--limit SECONDS]`.

The final price of the first asset, differentiated in reverse mode with respect to all that the run is made of (policy, system, path, every account),
on the falling path of `workload.wide`, one process a case, over numbers of steps and accounts:

    forward_all, forward_active     the run alone, everybody stepped or by epochs
    gradient_all, gradient_active   `stresslev.gradient.value_and_grad`, with checkpoints and, unless `--band` is 0, smoothed thresholds
    gradient_plain                  everybody stepped, one scan without checkpoints, as far as that fits

Peak memory is that of the process, so that of `forward_*` holds the program and the accounts alone; the derivatives with respect to every account are
part of `gradient_*`. Writes results/adjoint_cpu.json and results/adjoint_cpu.md; a case that fails is listed with why.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from step import HERE, MIB, ROOT, engine_digest, machine, peak_bytes, versions, wait_for_quiet, write_json

HOW = ("forward_all", "gradient_all", "forward_active", "gradient_active", "gradient_plain")
POOLS, ASSETS, ROUNDS = 3, 4, 3


def cases(quick: bool) -> list[dict]:
    """Steps at the least number of accounts and at the most, accounts at the day's 1,440 steps."""
    if quick:
        return [{"steps": t, "accounts": 2000, "how": how} for t in (16, 64) for how in HOW]
    found = [(t, n) for n in (10**4, 10**6) for t in (64, 256, 1024, 1440, 4096)] + [(1440, 10**5)]
    return [{"steps": t, "accounts": n, "how": how} for t, n in found for how in HOW]


def final_price(record, state):
    """Log of the final price of the first asset, over USD 1."""
    import jax.numpy as jnp

    return jnp.log(record.price[-1, 0])


def work(case: dict, repeats: int) -> dict:
    """One case, in this process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import workload

    from stresslev.engine import adjoint
    from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
    from stresslev.engine.step import step
    from stresslev.engine.types import cast
    from stresslev.gradient import value_and_grad
    from stresslev.stepping import Active

    made = workload.wide(case["accounts"], ASSETS, POOLS, np.float32)
    system, policy, population = (cast(x, jnp.float32) for x in made)
    path, ways = cast(workload.path("crash", ASSETS, case["steps"]), jnp.float32), all_channels(jnp.float32)
    rules, how = (system, policy, ways), case["how"]
    start = initial_state(system, (population,), policy=policy)
    tolerance = residual_tolerance(start, system)

    @jax.jit
    def plain(floats):
        _, put = adjoint.split((system, policy, (population,), path))

        def run(floats):
            system, policy, populations, path = put(floats)
            state = adjoint.reversible(initial_state(system, populations, policy=policy))
            state, record = jax.lax.scan(lambda s, now: step(s, system, policy, ways, now, ROUNDS, tolerance), state, path)
            return final_price(record, state)

        return jax.value_and_grad(run)(floats)

    tally, apart = {}, None

    def once():
        nonlocal tally, apart
        if how == "forward_all":
            return advance(jax.tree.map(jnp.copy, start), *rules, path, jnp.int32(ROUNDS), tolerance)[1].price[-1, 0]
        if how == "forward_active":
            active = Active(*rules, path, ROUNDS, tolerance)
            records = active.advance(jax.tree.map(jnp.copy, start), 0, case["steps"])[1]
            tally = active.describe()
            return records[-1].price[-1, 0]
        if how == "gradient_plain":
            return plain(adjoint.split((system, policy, (population,), path))[0])
        value, found = value_and_grad(
            final_price,
            system,
            policy,
            (population,),
            path,
            max_rounds=ROUNDS,
            band=case["band"] or None,
            stepping="active" if how == "gradient_active" else "all",
        )
        apart = found.apart
        return value, found.system.impact.depth, found.populations[0].equity_at_reference

    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(once())
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[1:])
    return {
        "seconds": seconds,
        "all_seconds": times[1:],
        "first_seconds": times[0],
        "peak_mib": peak_bytes() / MIB,
        "state_mib": sum(x.nbytes for x in jax.tree.leaves(start)) / MIB,
        "apart": apart,
        **tally,
    }


def in_process(case: dict, repeats: int, limit_s: float) -> dict:
    """A case in a process of its own; its failure is a finding."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
    command = [sys.executable, str(Path(__file__).resolve()), "--work", json.dumps([case, repeats])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:.0f} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit code {done.returncode}"]
        return {"failed": said[-1][:300].replace("|", "/")}
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """A Markdown table; a gradient beside the forward run of the same kind of stepping."""
    forward = {(r["steps"], r["accounts"], r["how"].split("_")[1]): r["seconds"] for r in rows if r["how"].startswith("forward") and "seconds" in r}
    lines = ["| accounts | steps | | seconds | of a forward run | peak MiB | a state, MiB |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        cells = [f"{r['accounts']:,}", str(r["steps"]), r["how"]]
        if "failed" in r:
            cells += [f"failed: {r['failed']}", "", "", ""]
        else:
            kind = r["how"].split("_")[1]
            alone = forward.get((r["steps"], r["accounts"], "all" if kind == "plain" else kind))
            cells += [f"{r['seconds']:.3f}", f"{r['seconds'] / alone:.2f}" if alone else "", f"{r['peak_mib']:.0f}", f"{r['state_mib']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version of everything")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a case is given up")
    parser.add_argument("--accounts", type=float, help="only cases with as many")
    parser.add_argument("--steps", type=int, help="only cases with as many")
    parser.add_argument("--band", type=float, default=0.05, help="half width of smoothed thresholds, in health; 0: paths as they are")
    parser.add_argument("--how", nargs="+", choices=HOW, default=HOW)
    parser.add_argument("--shared", action="store_true", help="do not wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "adjoint_cpu.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(*json.loads(options.work))))
        return
    facts = {"machine": machine(), "versions": versions(), "engine_sha256": engine_digest(), "date": datetime.date.today().isoformat()}
    facts |= {"options": {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")}, "shared": options.shared}
    rows: list[dict] = []
    for case in cases(options.quick):
        if case["how"] not in options.how or case["steps"] != (options.steps or case["steps"]):
            continue
        if case["accounts"] != int(options.accounts or case["accounts"]):
            continue
        case["band"] = options.band
        if not options.shared:
            wait_for_quiet()
        rows.append({**case, **in_process(case, options.repeats, options.limit)})
        print(table(rows).splitlines()[-1], flush=True)
        write_json(options.out, {**facts, "rows": rows})  # what is done is kept, whatever comes
    options.out.with_suffix(".md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
