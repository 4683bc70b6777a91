"""The time step against its competitors, on the CPU: a fused Numba loop, plain NumPy, radCAD, and the floor that memory bandwidth sets.

    python experiments/bench/step.py [--accounts 1e5 1e6 1e7] [--assets 1 4] [--repeats 5] [--programs engine active numba numpy radcad] [--shared]

Every (accounts, assets, precision) case and each of the programs gets its own process, so that peak memory belongs to it. Before anything is
timed all are held against the Numba loop, in float64 to 1e-9; nothing is timed if they disagree. `active` is the engine by active-set stepping.
radCAD wants another NumPy and has an environment of its own, named by --radcad-python; without one it is left out, and said so. A repeat during which
other processes took more than a tenth of the machine is thrown away and done again; with --shared it is kept, nothing waits, and only ratios mean
something.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

#: Largest difference between the two programs in float64, as a share of each series' largest value.
AGREEMENT = 1e-9
#: The same in float32, for the series that do not hinge on which side of its margin a single account falls.
LOOSE = {"price": 1e-3, "bad_debt": 2e-2, "newly_liquidated": 5e-3, "triggered": 5e-3}
#: In the order in which they are timed; the rest is held against the Numba loop.
PROGRAMS = ("engine", "active", "numba", "numpy", "radcad")
RADCAD_PYTHON = ROOT / ".venv" / "radcad" / "bin" / "python"
#: Short calls are repeated until they add up to this, but no more than so often.
LEAST_SECONDS, MOST_REPEATS = 3.0, 40
MIB = 2**20


# Measuring


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Resident set of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_seconds() -> float:
    """CPU seconds all processes of the machine have used, time taken by the hypervisor included."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(limit_s: float = 900) -> None:
    """Return once other processes leave the machine alone for half a second, or when the limit is over."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before = machine_seconds()
        time.sleep(0.5)
        if machine_seconds() - before <= 0.05:
            return


def timed(call) -> tuple[float, float, float, object]:
    """Wall seconds, CPU seconds of this process, CPU seconds of others, and the result."""
    others, own, start = machine_seconds(), time.process_time(), time.perf_counter()
    result = call()
    wall, mine = time.perf_counter() - start, time.process_time() - own
    return wall, mine, max(0.0, machine_seconds() - others - mine), result


def measure(fresh, call, finish, repeats: int, shared: bool) -> dict:
    """Time `call(fresh())`: the first call apart, then the median of the repeats that nobody disturbed, or of all on a machine that is `shared`.

    Args: `fresh` makes the input, outside the timed region; `finish` turns the result into plain numbers, outside it too.
    """
    if not shared:
        wait_for_quiet()
    given = fresh()
    before = resident_bytes()
    first, _, _, result = timed(lambda: call(given))
    outcome = finish(result)
    kept, disturbed = [], 0
    while (shared or disturbed < 4 * repeats) and (len(kept) < repeats or (len(kept) < MOST_REPEATS and sum(w for w, _ in kept) < LEAST_SECONDS)):
        del given, result
        given = fresh()
        if not shared:
            wait_for_quiet()
        wall, mine, others, result = timed(lambda x=given: call(x))
        if others > max(0.02, 0.1 * wall * os.cpu_count()):  # the clock of others ticks every 0.01 s
            disturbed += 1
            if not shared:
                continue
        kept.append((wall, mine))
    if not kept:
        raise SystemExit("the machine was never quiet enough to time anything")
    seconds = statistics.median(w for w, _ in kept)
    return {
        "seconds": seconds,
        "all_seconds": [round(w, 6) for w, _ in kept],
        "cores_busy": statistics.median(c / w for w, c in kept),
        "first_call_seconds": first,
        "disturbed_repeats": disturbed,
        "resident_before_mib": before / MIB,
        "outcome": outcome,
    }


def summarise(series: dict) -> dict:
    """The plain numbers of one run that the two programs are compared by."""
    return {
        "price": [float(x) for x in series["price"][-1]],
        "bad_debt": [float(x) for x in series["bad_debt"][-1]],
        "newly_liquidated": [int(x) for x in series["newly_liquidated"].sum(axis=0)],
        "triggered": [int(x) for x in series["triggered"].sum(axis=0)],
        "rounds": int(series["rounds"].sum()),
        "evaluations": int(series["evaluations"].sum()) if "evaluations" in series else None,
    }


# The two programs


def engine_series(record) -> dict:
    """The engine's record as NumPy arrays under the names of the Numba loop."""
    import numpy as np

    flows = record.flows
    return {
        "price": np.asarray(record.price, float),
        "bad_debt": np.asarray(record.bad_debt, float),
        "fund": np.asarray(record.insurance_fund, float),
        "treasury": np.asarray(record.treasury, float),
        "triggered": np.asarray(flows.triggered, float),
        "newly_liquidated": np.asarray(flows.newly_liquidated, float),
        "rounds": np.asarray(flows.rounds),
        "closed": np.asarray(flows.closed_long, float) + np.asarray(flows.closed_short, float),
    }


def run_engine(system, policy, accounts, path, most: int, dtype) -> dict:
    """One run of the engine from NumPy inputs, untimed; for holding the two programs against each other."""
    import jax
    import jax.numpy as jnp

    from stresslev.engine.simulate import simulate
    from stresslev.engine.types import cast

    population = jax.tree.map(jnp.array, accounts)
    _, record = simulate(cast(system, dtype), cast(policy, dtype), (population,), cast(path, dtype), max_rounds=most)
    return engine_series(record)


def run_numba(system, policy, accounts, path, most: int, dtype) -> dict:
    """One run of the Numba loop from the same inputs, untimed."""
    import numba_loop
    import numpy as np

    equity = np.array(accounts.equity_at_reference, dtype)
    ready = numba_loop.prepare(system, policy, path, accounts.block_pool, equity.shape[1], dtype)
    quantity = np.stack([np.array(q, dtype).ravel() for q in accounts.quantity])
    return numba_loop.run(equity.ravel(), quantity, np.array(accounts.liquidated).ravel(), ready, most)


def run_active(system, policy, accounts, path, most: int, dtype) -> dict:
    """One run of the engine by active-set stepping, untimed."""
    import jax
    import jax.numpy as jnp

    from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
    from stresslev.engine.types import cast

    system, policy, path = cast(system, dtype), cast(policy, dtype), cast(path, dtype)
    state = jax.tree.map(jnp.copy, initial_state(system, (jax.tree.map(jnp.array, accounts),), policy=policy))
    ways = all_channels(dtype)
    return engine_series(play_active(state, system, policy, ways, path, most, residual_tolerance(state, system))[1])


def play_active(state, system, policy, channels, path, most: int, tolerance) -> tuple:
    """State and record of a whole path by active-set stepping."""
    import jax
    import numpy as np

    from stresslev.stepping import Active

    driver = Active(system, policy, channels, path, most, tolerance)
    state, records = driver.advance(state, 0, path.log_price.shape[0])
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *records)


def run_numpy(system, policy, accounts, path, most: int, dtype) -> dict:
    """One run of the NumPy loop from the same inputs, untimed."""
    import numpy as np
    import numpy_loop
    import tables

    equity = np.array(accounts.equity_at_reference, dtype)
    ready = tables.tables(system, policy, path, accounts.block_pool, equity.shape[1], dtype)
    quantity = np.stack([np.array(q, dtype).ravel() for q in accounts.quantity])
    return numpy_loop.run(equity.ravel(), quantity, np.array(accounts.liquidated).ravel(), ready, most)


def run_radcad(system, policy, accounts, path, most: int, dtype, python: str) -> dict:
    """One run of the radCAD model from the same inputs, by the interpreter that has radCAD, untimed."""
    import numpy as np
    import tables

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store_accounts(folder, accounts, dtype)
        ready = tables.tables(system, policy, path, accounts.block_pool, accounts.equity_at_reference.shape[1], dtype)
        np.savez(folder / "case.npz", **tables.flat(ready))
        in_radcad(python, "run", folder, json.dumps(most), str(folder / "series.npz"))
        with np.load(folder / "series.npz") as found:
            return dict(found)


def in_radcad(python: str, *arguments) -> str:
    """What radcad_loop.py prints under the interpreter that has radCAD."""
    done = subprocess.run([python, str(HERE / "radcad_loop.py"), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"radCAD {arguments}:\n{done.stderr}")
    return done.stdout


def time_active(*arguments) -> dict:
    """The engine by active-set stepping on the stored case, per workload."""
    return time_engine(*arguments, active=True)


def time_engine(folder: Path, dtype, names: list[str], repeats: int, shared: bool, most: int, active: bool = False) -> dict:
    """The engine on the stored case, per workload."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
    from stresslev.engine.types import Accounts, cast

    case = load_case(folder)
    system, policy, channels = cast(case["system"], dtype), cast(case["policy"], dtype), all_channels(dtype)
    assets = len(case["system"].reference_price)

    def load(name):
        return jnp.array(np.load(folder / f"{name}.npy"))

    def fresh():
        accounts = Accounts(
            equity_at_reference=load("equity"),
            quantity=tuple(load(f"quantity{a}") for a in range(assets)),
            liquidated=load("liquidated"),
            block_pool=load("block_pool"),
        )
        state = initial_state(system, (accounts,), policy=policy)
        tolerance = residual_tolerance(state, system)
        # two leaves of a fresh state may be the same buffer, and `advance` takes over the buffers it is given; those of accounts are their own
        own = {f.name: jax.tree.map(jnp.copy, getattr(state, f.name)) for f in dataclasses.fields(state) if f.name != "populations"}
        return jax.block_until_ready((dataclasses.replace(state, **own), tolerance))

    out = {}
    for name in names:
        path = cast(case["paths"][name], dtype)

        def call(given, path=path):
            state, tolerance = given
            if active:
                return jax.block_until_ready(play_active(state, system, policy, channels, path, most, tolerance))
            return jax.block_until_ready(advance(state, system, policy, channels, path, jnp.int32(most), tolerance))

        out[name] = measure(fresh, call, lambda r: summarise(engine_series(r[1])) | {"status": int(r[0].status)}, repeats, shared)
        out[name]["peak_mib"] = peak_bytes() / MIB
    return out


def time_numba(folder: Path, dtype, names: list[str], repeats: int, shared: bool, most: int) -> dict:
    """The Numba loop on the stored case, per workload."""
    import numba_loop

    return time_loop(numba_loop.prepare, numba_loop.run, folder, dtype, names, repeats, shared, most)


def time_numpy(folder: Path, dtype, names: list[str], repeats: int, shared: bool, most: int) -> dict:
    """The NumPy loop on the stored case, per workload."""
    import numpy_loop
    import tables

    return time_loop(tables.tables, numpy_loop.run, folder, dtype, names, repeats, shared, most)


def time_loop(prepare, run, folder: Path, dtype, names: list[str], repeats: int, shared: bool, most: int) -> dict:
    """A loop over plain arrays on the stored case, per workload."""
    import numpy as np

    case = load_case(folder)
    assets = len(case["system"].reference_price)
    size = np.load(folder / "equity.npy", mmap_mode="r").shape[1]

    def fresh():
        first = np.load(folder / "equity.npy").ravel()
        quantity = np.empty((assets, len(first)), dtype)
        for a in range(assets):
            quantity[a] = np.load(folder / f"quantity{a}.npy").ravel()
        return first, quantity, np.load(folder / "liquidated.npy").ravel()

    out = {}
    for name in names:
        ready = prepare(case["system"], case["policy"], case["paths"][name], np.load(folder / "block_pool.npy"), size, dtype)
        out[name] = measure(fresh, lambda g, ready=ready: run(*g, ready, most), summarise, repeats, shared)
        out[name]["peak_mib"] = peak_bytes() / MIB
    return out


# Work done in processes of its own


def load_case(folder: Path) -> dict:
    """System, policy and paths that `work_store` has written, float64 NumPy."""
    return pickle.loads((folder / "case.pickle").read_bytes())


def store_accounts(folder: Path, accounts, dtype) -> None:
    """The engine's accounts as files of plain arrays."""
    import numpy as np

    np.save(folder / "equity.npy", np.asarray(accounts.equity_at_reference, dtype))
    for a, q in enumerate(accounts.quantity):
        np.save(folder / f"quantity{a}.npy", np.asarray(q, dtype))
    np.save(folder / "liquidated.npy", np.asarray(accounts.liquidated))
    np.save(folder / "block_pool.npy", np.asarray(accounts.block_pool))


def work_bandwidth(job: dict) -> dict:
    """GB/s by way of moving them."""
    import bandwidth

    return bandwidth.measure(job["mib"])


def work_store(job: dict) -> dict:
    """Make the case and write it to a folder, so that no program's memory holds what making it took."""
    import numpy as np
    import tables
    import workload

    folder = Path(job["folder"])
    book = workload.book(job["accounts"], job["assets"])
    case = workload.case(book)
    accounts = case.accounts(book, job["dtype"])
    store_accounts(folder, accounts, job["dtype"])
    paths = {name: workload.path(name, job["assets"]) for name in workload.WORKLOADS}
    for name, path in paths.items():
        ready = tables.tables(case.system, case.policy, path, accounts.block_pool, accounts.equity_at_reference.shape[1], job["dtype"])
        np.savez(folder / f"{name}.npz", **tables.flat(ready))
    (folder / "case.pickle").write_bytes(pickle.dumps({"system": case.system, "policy": case.policy, "paths": paths}))
    return {"blocks": list(accounts.equity_at_reference.shape), "gross_notional": float(book.gross_notional.sum())}


def work_time(job: dict) -> dict:
    """Time one program on the stored case."""
    import jax
    import numpy as np
    import workload

    dtype = np.dtype(job["dtype"])
    program = {"engine": time_engine, "active": time_active, "numba": time_numba, "numpy": time_numpy}[job["program"]]
    with jax.enable_x64(dtype == np.float64):
        return program(Path(job["folder"]), dtype, list(workload.WORKLOADS), job["repeats"], job["shared"], workload.MAX_ROUNDS)


def differences(a: dict, b: dict) -> dict[str, float]:
    """Largest difference of each series that both have, as a share of its largest value."""
    import numpy as np

    out = {}
    for name in sorted(set(a) & set(b)):
        x, y = np.asarray(a[name], float), np.asarray(b[name], float)
        out[name] = float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), 1e-12))
    return out


def work_verify(job: dict) -> dict:
    """Hold the programs against the Numba loop: random systems and the benchmark's own workloads, small."""
    import jax
    import numpy as np
    import workload

    from tests.systems import engine_arguments, random_case

    worst: dict[str, float] = {}
    failures = []
    known = {"engine": run_engine, "active": run_active, "numpy": run_numpy, "radcad": partial(run_radcad, python=job["radcad"])}
    programs = {name: known[name] for name in job["programs"] if name in known}

    def compare(label, arguments, limit, skip=()):
        expected = run_numba(*arguments)
        for program in (p for p in programs if p not in skip):
            for name, value in differences(expected, programs[program](*arguments)).items():
                key = f"{program}, {label.split(':')[0]}, {name}"
                worst[key] = max(worst.get(key, 0.0), value)
                most = limit.get(name) if isinstance(limit, dict) else limit
                if most is not None and not value <= most:
                    failures.append(f"{program}, {label}: {name} differs by {value:.3g}, allowed {most:g}")

    with jax.enable_x64(True):
        for seed in range(job["seeds"]):
            system, policy, accounts, path, _ = jax.tree.map(np.asarray, engine_arguments(*random_case(seed)))
            arguments = (system, policy, accounts, path, 1 + seed % 5, np.float64)
            # every run of radCAD is a process: fewer of them
            compare(f"random systems, float64: seed {seed}", arguments, AGREEMENT, skip=("radcad",) if seed >= job["radcad_seeds"] else ())
    for assets in job["assets"]:
        book = workload.book(job["accounts"], assets)
        case = workload.case(book)
        for dtype, limit in ((np.float64, AGREEMENT), (np.float32, LOOSE)):
            with jax.enable_x64(dtype == np.float64):
                for name in workload.WORKLOADS:
                    path = workload.path(name, assets)
                    label = f"{name}, {np.dtype(dtype).name}: {assets} assets"
                    compare(label, (case.system, case.policy, case.accounts(book, dtype), path, workload.MAX_ROUNDS, dtype), limit)
    return {"failures": failures, "largest_differences": worst}


WORK = {"store": work_store, "time": work_time, "verify": work_verify, "bandwidth": work_bandwidth}


def in_process(kind: str, **job) -> dict:
    """Do one piece of work in a fresh process, which prints its answer as the last line."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work", kind, json.dumps(job)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{kind} {job}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# The benchmark


def machine() -> dict:
    """What this ran on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    ids = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.split(":")[0].strip() in ("cpu family", "model")][:2]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return {
        "cpu": f"{names[0]}, family {ids[0]} model {ids[1]}",
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def engine_digest() -> str:
    """SHA-256 over the engine's sources: which engine the numbers belong to."""
    digest = hashlib.sha256()
    engine = ROOT / "stresslev" / "engine"
    for file in sorted(engine.rglob("*.py")):
        digest.update(file.relative_to(engine).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def versions(names: tuple[str, ...] = ("jax", "jaxlib", "numpy", "numba", "llvmlite")) -> dict:
    """Of everything that takes part."""
    return {"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in names}}


def rows_of(case: dict, timings: dict, read_gb_per_s: float) -> list[dict]:
    """One row per workload: speeds, memory, and whether all agree with the Numba loop at this size."""
    rows, work = [], case["accounts"] * case["steps"]
    width = 4 if case["dtype"] == "float32" else 8
    limit = LOOSE if width == 4 else dict.fromkeys(LOOSE, 1e-6)
    for name in timings["numba"]:
        each = {program: found[name] for program, found in timings.items()}
        expected = each["numba"]["outcome"]
        evaluations = expected["evaluations"]  # as the Numba loop counts them; the engine does not
        read = case["accounts"] * (case["assets"] + 1) * width * evaluations / work
        row = {**{k: case[k] for k in ("accounts", "assets", "dtype")}, "workload": name, "evaluations": evaluations}
        row |= {"bytes_per_account_step": read, "floor_account_steps_per_s": read_gb_per_s * 1e9 / read, "agree": True, "programs": {}}
        for program, found in each.items():
            diff = {k: v for k, v in differences(expected, found["outcome"]).items() if k in LOOSE}
            row["agree"] = row["agree"] and all(v <= limit[k] for k, v in diff.items())
            # compiled once for both workloads: what the first call of the first workload took longer
            first = timings[program]["calm"]
            row["programs"][program] = {
                "account_steps_per_s": work / found["seconds"],
                "engine_over_it": found["seconds"] / each["engine"]["seconds"],
                "gb_per_s": read * work / found["seconds"] / 1e9,
                "compile_seconds": first["first_call_seconds"] - first["seconds"],
                "peak_mib": found["peak_mib"],
                "differences": diff,
            }
        rows.append(row)
    return rows


def header(programs: list[str]) -> str:
    """Of the Markdown table."""
    names = [f"{p} M/s" for p in programs] + ["floor M/s"] + [f"engine / {p}" for p in (*programs[1:], "floor")] + ["B / account-step"]
    names += [f"{p} compile s" for p in programs if p not in ("numpy", "radcad")] + [f"{p} peak MiB" for p in programs]
    columns = ["accounts", "assets", "precision", "workload", "assessments", *names]
    return "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"


def shown(row: dict, programs: list[str]) -> str:
    """A row of the Markdown table; a program that was left out has none of its cells filled."""
    found = [row["programs"].get(p) for p in programs]

    def cells(key, scale, digits, of):
        return ["" if f is None else f"{f[key] * scale:.{digits}f}" for f in of]

    out = [f"{row['accounts']:.0e}", str(row["assets"]), row["dtype"], row["workload"], str(row["evaluations"])]
    out += [*cells("account_steps_per_s", 1e-6, 1, found), f"{row['floor_account_steps_per_s'] / 1e6:.0f}"]
    out += cells("engine_over_it", 1, 2, found[1:])
    out += [f"{row['programs']['engine']['account_steps_per_s'] / row['floor_account_steps_per_s']:.2f}", f"{row['bytes_per_account_step']:.0f}"]
    out += cells("compile_seconds", 1, 1, [f for p, f in zip(programs, found, strict=True) if p not in ("numpy", "radcad")])
    out += cells("peak_mib", 1, 0, found)
    return "| " + " | ".join(out) + " |" + ("" if row["agree"] else f" DISAGREE {row['programs']}")


def write_json(path: Path, result: dict) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    half.replace(path)


def benchmark(accounts: list[int], assets: list[int], repeats: int, shared: bool, steps: int, programs: list[str], radcad: str | None) -> dict:
    """Verify, then time every case."""
    check = in_process("verify", seeds=24, radcad_seeds=6, accounts=20_000, assets=assets, programs=programs, radcad=radcad)
    for program in programs:
        own = {k: v for k, v in check["largest_differences"].items() if k.startswith(f"{program}, ") and "float64" in k}
        if own:
            print(f"largest difference from the Numba loop in float64, {max(own, key=own.get)}: {max(own.values()):.2g}", flush=True)
    if check["failures"]:
        raise SystemExit("the programs disagree, nothing is timed:\n" + "\n".join(check["failures"]))
    if not shared:
        wait_for_quiet()
    moved = in_process("bandwidth", mib=512)
    print("bandwidth, GB/s:", json.dumps({k: round(v, 1) for k, v in moved.items()}), flush=True)
    cases = [(n, a, "float32") for n in accounts for a in assets]
    cases += [(n, a, "float64") for n in accounts if n == 10**6 for a in assets]
    rows, raw, others = [], [], {}
    print(header(programs))
    for n, a, dtype in cases:
        case = {"accounts": n, "assets": a, "dtype": dtype, "steps": steps}
        with tempfile.TemporaryDirectory() as folder:
            stored, timings = in_process("store", folder=folder, **case), {}
            for p in programs:
                if p == "radcad":
                    from workload import MAX_ROUNDS, WORKLOADS

                    job = {"names": WORKLOADS, "repeats": repeats, "shared": shared, "max_rounds": MAX_ROUNDS}
                    answer = json.loads(in_radcad(radcad, "time", folder, json.dumps(job)).splitlines()[-1])
                    timings[p], others[p] = answer["timings"], answer["versions"]
                else:
                    timings[p] = in_process("time", folder=folder, program=p, dtype=dtype, repeats=repeats, shared=shared)
        raw.append({**case, **stored, **timings})
        new = rows_of(case, timings, max(moved.values()))
        rows += new
        for row in new:
            print(shown(row, programs), flush=True)
    found = {"machine": machine(), "versions": versions(), "versions_elsewhere": others, "engine_sha256": engine_digest(), "verification": check}
    return {**found, "bandwidth_gb_per_s": moved, "programs": programs, "rows": rows, "raw": raw}


def chosen_programs(given: list[str], python: Path) -> list[str]:
    """In order, the engine and the Numba loop always; radCAD only where it is installed."""
    wanted = [p for p in PROGRAMS if p in given or p in ("engine", "numba")]
    has_it = python.exists() and subprocess.run([python, "-c", "import radcad"], capture_output=True).returncode == 0
    if "radcad" in wanted and not has_it:
        print(f"radCAD is left out: {python} does not have it (radCAD 0.14 runs on Python 3.11 and 3.12)", file=sys.stderr)
        wanted.remove("radcad")
    return wanted


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--assets", type=int, nargs="+", default=[1, 4], choices=range(1, 5))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shared", action="store_true", help="other work goes on beside this: wait for nothing, keep every repeat")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--radcad-python", type=Path, default=RADCAD_PYTHON, help="interpreter that has radCAD")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(WORK[given.work[0]](json.loads(given.work[1]))))
        return
    programs = chosen_programs(given.programs, given.radcad_python)
    result = benchmark([int(n) for n in given.accounts], given.assets, given.repeats, given.shared, 120, programs, str(given.radcad_python))
    sizes = [f"{n:g}" for n in given.accounts]
    arguments = ["--accounts", *sizes, "--assets", *map(str, given.assets), "--repeats", str(given.repeats), "--programs", *programs]
    result["command"] = " ".join(["python", "experiments/bench/step.py", *arguments, *(["--shared"] if given.shared else [])])
    result["date"] = datetime.date.today().isoformat()
    if given.out:
        write_json(given.out, result)
    if not all(row["agree"] for row in result["rows"]):
        raise SystemExit("some rows above do not agree and must not be used")


if __name__ == "__main__":
    main()
