"""Start-up and compile time: `python experiments/bench/startup.py [--repeats 5] [--accounts 2000] [--skip-runs] [--out results/startup_cpu.json]`.

Import of `stresslev` and of `stresslev.cli`, `stresslev --help`, a small run with an empty and with a filled compilation cache, and the number of
times `advance` is compiled for two scenarios of one shape. Every figure is of a process of its own, Python's own start included; medians.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from step import HERE, ROOT, machine, versions, wait_for_quiet, write_json

#: Seconds in which an import should be over.
TARGET = 2.0
SCENARIO = "gap_35_half_depth"

_COMPILES = """

import jax, jax.numpy as jnp, numpy as np
import workload
from stresslev.engine.simulate import advance, simulate
book = workload.book(5000, 2)
case = workload.case(book)
from stresslev.engine.types import cast
system, policy = cast(case.system, jnp.float32), cast(case.policy, jnp.float32)
for name in workload.WORKLOADS:
    accounts = jax.tree.map(jnp.array, case.accounts(book, np.float32))
    jax.block_until_ready(simulate(system, policy, (accounts,), cast(workload.path(name, 2, 20), jnp.float32)))
print(advance._cache_size())
"""


def seconds(command: list[str], repeats: int, environment: dict | None = None, allowed: tuple[int, ...] = (0,)) -> list[float]:
    """Wall seconds of a process, several times."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", **(environment or {})})
        took.append(time.perf_counter() - start)
        if done.returncode not in allowed:
            raise SystemExit(f"{command}: {done.returncode}\n{done.stderr}")
    return took


def slowest(module: str, count: int = 12) -> list[dict]:
    """The imports that take longest by themselves, and what each takes with what it imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", f"import {module}"], capture_output=True, text=True, cwd=ROOT)
    rows = []
    for line in done.stderr.splitlines():
        cells = line.removeprefix("import time:").split("|")
        if len(cells) == 3 and cells[0].strip().isdigit():
            rows.append({"module": cells[2].strip(), "own_ms": int(cells[0]) / 1e3, "with_its_imports_ms": int(cells[1]) / 1e3})
    return sorted(rows, key=lambda r: -r["with_its_imports_ms"])[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--accounts", type=int, default=2000)
    parser.add_argument("--system", default="three_perp_venues")
    parser.add_argument("--shared", action="store_true", help="do not wait for a quiet machine")
    parser.add_argument("--skip-runs", action="store_true", help="only imports and --help")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "startup_cpu.json")
    options = parser.parse_args()
    if not options.shared:
        wait_for_quiet()
    python = sys.executable
    timed = {
        "python -c pass": [python, "-c", "pass"],
        "import jax": [python, "-c", "import jax"],
        "import stresslev": [python, "-c", "import stresslev"],
        "import stresslev.cli": [python, "-c", "import stresslev.cli"],
        "stresslev --help": [python, "-c", "from stresslev.cli import main; main(['--help'])"],
    }
    found = {name: seconds(command, options.repeats) for name, command in timed.items()}
    if not options.skip_runs:
        with tempfile.TemporaryDirectory() as folder:
            command = [python, "-c", "from stresslev.cli import main; main()", "run", SCENARIO, "--system", options.system]
            command += ["--accounts", str(options.accounts), "--out"]
            kept = {"STRESSLEV_CACHE": str(Path(folder) / "cache")}
            # exit code 1 is a verdict on the limits
            found["first run, empty cache"] = seconds([*command, f"{folder}/first"], 1, kept, allowed=(0, 1))
            found["second run, compiled before"] = seconds([*command, f"{folder}/second"], 1, kept, allowed=(0, 1))
    paths = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
    counted = subprocess.run([python, "-c", _COMPILES], capture_output=True, text=True, cwd=ROOT, env=paths)
    if counted.returncode:
        raise SystemExit(counted.stderr)
    compiles = int(counted.stdout.split()[-1])
    medians = {name: statistics.median(took) for name, took in found.items()}
    print("| what | seconds |\n|---|---|")
    for name, value in medians.items():
        late = "" if not name.startswith("import stresslev") else " (within 2 s)" if value < TARGET else " (LATE: the target is 2 s)"
        print(f"| {name} | {value:.2f}{late} |")
    print(f"| programs compiled for two scenarios of one shape | {compiles} |")
    imports = slowest("stresslev.cli")
    for row in imports:
        print(f"  {row['with_its_imports_ms']:8.0f} ms {row['module']}")
    facts = {"machine": machine(), "versions": versions(), "date": datetime.date.today().isoformat(), "load": os.getloadavg()}
    result = {"seconds": found, "medians": medians, "compiles_of_advance": compiles, "slowest_imports": imports}
    arguments = {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")}
    write_json(options.out, {**facts, "options": arguments, **result})
    if compiles != 1:
        raise SystemExit("more than one program was compiled for one shape")


if __name__ == "__main__":
    main()
