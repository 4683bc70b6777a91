"""The engine on a GPU, in one command: `python experiments/bench/gpu.py [--accounts 1e7] [--suite default] [--skip suite] [--out results/gpu.json]`.

Three parts, each labelled with the device it ran on (without a GPU everything runs on the processor, and says so):
1. correctness: the shipped gap scenario in float32 here against float64 on the processor of the same machine, metrics within 1e-4 relative;
2. speed: the step that assesses everybody and closes nobody, as a share of the copy bandwidth measured on this device; wanted: 50%;
3. suite: the historical scenarios of a suite with 1e7 accounts, twice in one process; the second time everything is compiled; wanted: under 60 s.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from step import HERE, ROOT, engine_digest, write_json

#: Largest relative difference of a metric between float32 here and float64 on the processor.
AGREEMENT = 1e-4
#: Wanted: share of the measured copy bandwidth, and seconds of the suite.
SHARE, SUITE_SECONDS = 0.5, 60.0
#: What is rounding itself, and so differs between precisions by nature.
ROUNDING = ("total_residual", "conservation_residual")
SCENARIO = "gap_35_half_depth"


def device() -> dict:
    """What JAX runs on here."""
    import jax

    one = jax.devices()[0]
    names = {"platform": one.platform, "kind": one.device_kind, "count": jax.device_count()}
    return {**names, "python": platform.python_version(), "jax": jax.__version__}


def metrics_of(scenario: str, accounts: int, precision: int, system: str) -> dict:
    """Metrics by scenario of a run, as plain numbers; the device is the process's."""
    from stresslev import load_plan
    from stresslev.run import run_plan

    outcome = run_plan(load_plan(scenario, system=system, accounts=accounts, precision=precision))
    return {name: {k: float(v) for k, v in values.items() if v is not None} for name, values in outcome.metrics.items()}


def work_metrics(job: dict) -> dict:
    return {"device": device(), "metrics": metrics_of(job["scenario"], job["accounts"], job["precision"], job["system"])}


def work_speed(job: dict) -> dict:
    """The calm step of the bench's one-market and four-market workloads, and the bandwidth."""
    import bandwidth
    import jax
    import jax.numpy as jnp
    import numpy as np
    import workload

    from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
    from stresslev.engine.types import cast

    moved = bandwidth.measure(job["mib"])
    rows = []
    for assets in (1, 4):
        for name in workload.WORKLOADS:
            system, policy, population = workload.wide(job["accounts"], assets, 3, np.float32)
            system, policy, population = cast(system, jnp.float32), cast(policy, jnp.float32), jax.tree.map(jnp.array, population)
            start = initial_state(system, (population,), policy=policy)
            tolerance, path = residual_tolerance(start, system), cast(workload.path(name, assets), jnp.float32)
            times = []
            for _ in range(job["repeats"] + 1):
                state = jax.block_until_ready(jax.tree.map(jnp.copy, start))
                begin = time.perf_counter()
                ended = advance(state, system, policy, all_channels(jnp.float32), path, jnp.int32(workload.MAX_ROUNDS), tolerance)
                jax.block_until_ready(ended)
                times.append(time.perf_counter() - begin)
            seconds, steps = sorted(times[1:])[len(times[1:]) // 2], path.log_price.shape[0]
            held = population.equity_at_reference.size
            read = held * 4 * (assets + 1) * steps / seconds / 1e9
            row = {"assets": assets, "workload": name, "seconds": seconds, "account_steps_per_s": job["accounts"] * steps / seconds}
            row |= {"first_call_s": times[0], "gb_per_s": read, "share_of_copy": read / moved["jax copy"], "share_of_read": read / moved["jax read"]}
            rows.append({**row, "liquidated": int(ended[1].flows.newly_liquidated.sum())})
            del start, population, state, ended
    stats = jax.devices()[0].memory_stats() or {}
    return {"device": device(), "bandwidth_gb_per_s": moved, "rows": rows, "peak_device_bytes": stats.get("peak_bytes_in_use")}


def work_suite(job: dict) -> dict:
    """The suite twice; between the two only the compiled programs are kept."""
    took = []
    for _ in range(2):
        begin = time.perf_counter()
        metrics_of(job["suite"], job["accounts"], 32, job["system"])
        took.append(time.perf_counter() - begin)
    return {"device": device(), "first_s": took[0], "after_compilation_s": took[1]}


WORK = {"metrics": work_metrics, "speed": work_speed, "suite": work_suite}


def in_process(kind: str, platforms: str | None = None, **job) -> dict:
    """A part in a process of its own, on the processor if `platforms` says so."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]), **({"JAX_PLATFORMS": platforms} if platforms else {})}
    command = [sys.executable, str(Path(__file__).resolve()), "--work", kind, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    return json.loads(done.stdout.splitlines()[-1])


def compared(here: dict, there: dict) -> dict[str, float]:
    """Largest relative difference of each metric that is a number on both sides."""
    worst: dict[str, float] = {}
    for scenario, values in there.items():
        for key, exact in values.items():
            if key in here[scenario] and key not in ROUNDING and exact == exact:
                got = here[scenario][key]
                difference = 0.0 if got == exact else abs(got - exact) / max(abs(exact), 1e-9)
                worst[key] = max(worst.get(key, 0.0), difference)
    return dict(sorted(worst.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=float, default=1e7)
    parser.add_argument("--check-accounts", type=float, default=1e5, help="accounts of the comparison with float64 on the processor")
    parser.add_argument("--suite", default="default", help="suite of historical scenarios")
    parser.add_argument("--system", help="default: that of the scenario or suite")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=2048, help="size of the array that bandwidth is measured with")
    parser.add_argument("--skip", nargs="+", default=[], choices=("correctness", "speed", "suite"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(WORK[options.work[0]](json.loads(options.work[1]))))
        return
    given = {k: str(v) for k, v in vars(options).items() if k != "out"}
    result = {"date": datetime.date.today().isoformat(), "engine_sha256": engine_digest(), "options": given}
    failures = []

    def keep(name: str, part: dict) -> bool:
        result[name] = part
        write_json(options.out, result)
        if "failed" in part:
            failures.append(f"{name}: {part['failed'].strip().splitlines()[-1]}")
        else:
            print(f"{name} ran on {part['device']['platform']} ({part['device']['kind']})", flush=True)
        return "failed" not in part

    if "correctness" not in options.skip:
        job = {"scenario": SCENARIO, "accounts": int(options.check_accounts), "system": options.system}
        exact = in_process("metrics", "cpu", precision=64, **job)
        if keep("float64 on the processor", exact) and keep("float32 here", in_process("metrics", precision=32, **job)):
            worst = compared(result["float32 here"]["metrics"], exact["metrics"])
            result["largest_relative_differences"] = worst
            print("largest relative differences:", json.dumps({k: float(f"{v:.2g}") for k, v in list(worst.items())[:8]}))
            failures += [f"{k} differs by {v:.2g} relative, wanted {AGREEMENT:g}" for k, v in worst.items() if v > AGREEMENT]
    if "speed" not in options.skip:
        part = in_process("speed", accounts=int(options.accounts), repeats=options.repeats, mib=options.mib)
        if keep("speed", part):
            print("bandwidth, GB/s:", json.dumps({k: round(v, 1) for k, v in part["bandwidth_gb_per_s"].items()}))
            print("| assets | workload | M account-steps/s | GB/s | share of copy | first call s |\n" + "|---" * 6 + "|")
            for r in part["rows"]:
                speeds = f"{r['account_steps_per_s'] / 1e6:.0f} | {r['gb_per_s']:.1f} | {r['share_of_copy']:.2f} | {r['first_call_s']:.1f}"
                print(f"| {r['assets']} | {r['workload']} | {speeds} |")
            least = min(r["share_of_copy"] for r in part["rows"] if r["workload"] == "calm")
            if least < SHARE:
                failures.append(f"the calm step moves {least:.2f} of the copy bandwidth, wanted {SHARE}")
    if "suite" not in options.skip:
        part = in_process("suite", suite=options.suite, accounts=int(options.accounts), system=options.system)
        if keep("suite", part):
            print(f"suite: {part['first_s']:.1f} s, {part['after_compilation_s']:.1f} s after compilation (book sampled anew each time)")
            if part["after_compilation_s"] > SUITE_SECONDS:
                failures.append(f"the suite took {part['after_compilation_s']:.0f} s, wanted {SUITE_SECONDS:.0f}")
    result["not met"] = failures
    write_json(options.out, result)
    for line in failures:
        print(f"NOT MET: {line}")


if __name__ == "__main__":
    main()
