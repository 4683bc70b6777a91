"""How the engine scales: `python experiments/bench/scaling.py [--quick] [--shared] [--only accounts assets pools scenarios strong gradient]`.

Account-steps/s, compile time and peak memory of `advance` on the systems of `workload.wide`, one process a case, over accounts, assets, pools and
scenarios (one after the other and in blocks, by `engine.batch`). `accounts` is weak scaling, more work on the same cores; `strong` gives the same
work one core and then all. `gradient` is the final price differentiated with respect to the depth of the markets in forward mode (`tangent`); reverse
mode is timed by `adjoint.py`. Writes results/scaling_cpu.json and results/scaling_cpu.md; a case that fails is listed with why.
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

BASE = {"accounts": 10**6, "assets": 4, "pools": 3, "scenarios": 1, "steps": 60, "workload": "crash", "block": 1, "cores": 0}
BLOCK = 8


def cases(quick: bool) -> dict[str, list[dict]]:
    """The cases of every group; `block` is how many scenarios go through `vmap` together."""
    most, base = (5, {**BASE, "accounts": 10**4, "steps": 12}) if quick else (7, BASE)
    small = {**base, "accounts": base["accounts"] // 10}
    modest = {**base, "accounts": 10**4 if quick else 10**5, "steps": 16 if quick else 64}
    both = ("calm", "crash")
    many = (1, 4) if quick else (1, 4, 16, 64, 256)
    return {
        "accounts": [{**base, "accounts": 10**k, "workload": w} for k in range(4, most + 1) for w in both],
        "assets": [{**base, "assets": a, "workload": w} for a in ((1, 4) if quick else (1, 2, 4, 8, 16)) for w in both],
        "pools": [{**base, "pools": v, "workload": w} for v in ((1, 8) if quick else (1, 4, 16, 64)) for w in both],
        "scenarios": [{**small, "scenarios": s, "block": b} for s in many for b in (1, BLOCK) if b <= s or s == b == 1],
        "strong": [{**base, "cores": c, "workload": w} for c in (1, 0) for w in both],
        "gradient": [{**modest, "gradient": how} for how in ("forward", "tangent")],
    }


def _fall(make, scenarios: int):
    """(S, T, A) log prices: the workload's, from half to all of its depth."""
    import numpy as np

    strength = np.linspace(1.0, 0.5, scenarios)[:, None, None]
    return strength * make.log_price[None], np.broadcast_to(make.depth_factor, (scenarios, *make.depth_factor.shape))


def _differentiated(system, policy, population, path, how: str):
    """A function of a factor on the depths: the final price of the first asset, and its derivative unless only `forward`."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from stresslev.engine.prices import common_log_price
    from stresslev.engine.simulate import simulate

    def last(factor, population):
        wider = dataclasses.replace(system, impact=dataclasses.replace(system.impact, depth=system.impact.depth * factor))
        state, _ = simulate(wider, policy, (population,), path)
        return wider.reference_price[0] * jnp.exp(common_log_price(state, wider)[0])

    if how == "tangent":
        return jax.jit(lambda factor, population: jax.jvp(lambda x: last(x, population), (factor,), (jnp.ones_like(factor),)))
    return jax.jit(last)


def work(case: dict, repeats: int) -> dict:
    """One case, in this process."""
    if case["cores"]:
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: case["cores"]]))
    import jax
    import jax.numpy as jnp
    import numpy as np
    import workload

    from stresslev.engine.batch import Rules, advance_batch, part
    from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
    from stresslev.engine.types import Path as Steps
    from stresslev.engine.types import cast

    system, policy, population = workload.wide(case["accounts"], case["assets"], case["pools"], np.float32)
    system, policy, population = cast(system, jnp.float32), cast(policy, jnp.float32), jax.tree.map(jnp.array, population)
    made = workload.path(case["workload"], case["assets"], case["steps"])
    times = []
    if how := case.get("gradient"):
        run = _differentiated(system, policy, population, cast(made, jnp.float32), how)

        def once():
            return jax.block_until_ready(run(jnp.float32(1), population))
    else:
        rules, limits = (system, policy, all_channels(jnp.float32)), jnp.int32(3)
        start = initial_state(system, (population,), policy=policy)
        tolerance = residual_tolerance(start, system)
        if case["scenarios"] == 1:
            path = cast(made, jnp.float32)
            state = jax.tree.map(jnp.copy, start)
            del start, population

            def once():
                return jax.block_until_ready(advance(jax.tree.map(jnp.copy, state), *rules, path, limits, tolerance))[1].flows.newly_liquidated
        else:
            paths = cast(Steps(*_fall(made, case["scenarios"])), jnp.float32)
            own, shared = part(Rules(*rules, paths, limits, tolerance), Rules(False, False, False, True, False, False))

            def once():
                states = jax.tree.map(lambda x: jnp.copy(jnp.broadcast_to(x[None], (case["scenarios"], *x.shape))), start)
                return jax.block_until_ready(advance_batch(states, own, shared, width=case["block"]))[1].flows.newly_liquidated

    for _ in range(repeats + 1):
        begin = time.perf_counter()
        result = once()
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[1:])
    done = case["accounts"] * case["steps"] * case["scenarios"]
    value = [float(x) for x in result] if isinstance(result, tuple) else np.asarray(result, float).sum().item()
    return {
        "seconds": seconds,
        "all_seconds": times[1:],
        "account_steps_per_s": done / seconds,
        "compile_seconds": times[0] - seconds,
        "peak_mib": peak_bytes() / MIB,
        "outcome": value,
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


def table(group: str, rows: list[dict]) -> str:
    """A Markdown table of one group."""
    keys = ["accounts", "assets", "pools", "scenarios", "block", "cores", "steps", "workload"] + (["gradient"] if group == "gradient" else [])
    lines = [
        f"## {group}\n",
        "| " + " | ".join([*keys, "M account-steps/s", "seconds", "compile s", "peak MiB"]) + " |",
        "|---" * (len(keys) + 4) + "|",
    ]
    for row in rows:
        cells = [str(row[k]) if k != "cores" else str(row[k] or "all") for k in keys]
        if "failed" in row:
            cells += [f"failed: {row['failed']}", "", "", ""]
        else:
            cells += [f"{row['account_steps_per_s'] / 1e6:.1f}", f"{row['seconds']:.3f}", f"{row['compile_seconds']:.1f}", f"{row['peak_mib']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version of everything")
    parser.add_argument("--only", nargs="+", choices=list(cases(True)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a case is given up")
    parser.add_argument("--shared", action="store_true", help="do not wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling_cpu.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(*json.loads(options.work))))
        return
    facts = {"machine": machine(), "versions": versions(), "engine_sha256": engine_digest(), "date": datetime.date.today().isoformat()}
    facts |= {"options": {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")}, "shared": options.shared}
    found: dict[str, list[dict]] = {}
    for group, members in cases(options.quick).items():
        if options.only and group not in options.only:
            continue
        found[group] = []
        for case in members:
            if not options.shared:
                wait_for_quiet()
            found[group].append({**case, **in_process(case, options.repeats, options.limit)})
            print(table(group, found[group]).splitlines()[-1], flush=True)
            write_json(options.out, {**facts, "groups": found})  # what is done is kept, whatever comes
    text = "\n".join(table(group, rows) for group, rows in found.items())
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
