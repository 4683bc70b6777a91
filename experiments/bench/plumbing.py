"""The step with all mechanisms on against the step of the thin system of First light, in one run: `python experiments/bench/plumbing.py`.

Both books are sampled with the same number of accounts and go through the same scenario; calm is the stretch in which nobody is under margin, crash
the hour that begins with the fall. Compile time apart; medians of interleaved repeats; the state is made anew for every repeat.

`--breakdown` also runs the system of all mechanisms without one of them at a time: what each costs is the difference. Without a mechanism the crash
is another crash, so the accounts liquidated are given beside it.
"""

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from stresslev import load_plan, opening, preparation
from stresslev.engine.simulate import advance, all_channels

SYSTEMS = {"thin": "systems/three_perp_venues.toml", "all mechanisms": "systems/venues_and_lenders.toml"}
#: Steps of the gap scenario; both stretches are of one length, so that one program serves.
STRETCHES = {"calm": (0, 10), "crash": (10, 20)}
ROUNDS = 3
#: Lines of the system's file that make up a mechanism: (pattern, replacement), and whole tables to drop.
MECHANISMS = {
    "auto-deleveraging": ([(r', "adl"\]', "]"), (r"(?m)^adl = .*$", "")], ()),
    "owners": ([(r"(?m)^owners_share = .*$", "")], ("[owners]",)),
    "capacity and queues": ([(r"(?m)^liquidation_capacity_usd_per_minute = .*$", ""), (r', queue = "worst_first"', "")], ()),
    "posted coins": ([(r"(?m)^collateral\..*$", "")], ()),
    "local books and arbitrage": ([(r"(?m)^local_depth_share = .*$", "")], ("[arbitrage]",)),
    "restoring and stepwise liquidation": (
        [(r'rule = "restore", target_health = [\d.]+', 'rule = "full"'), (r'rule = "stepwise"', 'rule = "full"')],
        (),
    ),
    "makers with limits": ([(r"(?m)^makers = .*$", "")], ()),
}


def prepared(system: str, accounts: int):
    """The gap scenario on a system."""
    plan = load_plan("gap_35_half_depth", system=system, accounts=accounts, precision=32)
    scenario = plan.scenarios[0]
    shock = opening.shock_of(plan, scenario)
    return preparation.prepare(plan, scenario, shock, opening.at_start(plan, opening.load_book(plan, shock), shock))


def without(mechanism: str, folder: Path) -> str:
    """Path of the system's file less one mechanism."""
    source = Path(__file__).parents[2] / "scenarios" / SYSTEMS["all mechanisms"]
    text = source.read_text(encoding="utf-8")
    lines, tables = MECHANISMS[mechanism]
    for pattern, replacement in lines:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            raise SystemExit(f"{source.name} has no line {pattern}")
    for table in tables:
        text, count = re.subn(rf"(?ms)^{re.escape(table)}\n.*?(?=^\[)", "", text)
        if count != 1:
            raise SystemExit(f"{source.name} has no table {table}")
    path = folder / f"{re.sub(r'[^a-z]+', '_', mechanism)}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def part(ready, steps: tuple[int, int]):
    return jax.tree.map(lambda x: x[slice(*steps)], ready.path)


def call(ready, state, steps: tuple[int, int]):
    channels = all_channels(ready.dtype)
    return jax.block_until_ready(advance(state, ready.system, ready.policy, channels, part(ready, steps), jnp.int32(ROUNDS), ready.tolerance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "plumbing_cpu.json")
    parser.add_argument("--breakdown", action="store_true", help="also without one mechanism at a time; some 40 s of compilation each")
    options = parser.parse_args()
    systems = dict(SYSTEMS)
    with tempfile.TemporaryDirectory() as folder:
        if options.breakdown:
            systems |= {f"without {name}": without(name, Path(folder)) for name in MECHANISMS}
        cases = {name: prepared(system, options.accounts) for name, system in systems.items()}
    found: dict[str, dict] = {name: {"compile_s": 0.0, **{s: [] for s in STRETCHES}} for name in cases}
    for name, ready in cases.items():
        began = time.perf_counter()
        call(ready, jax.tree.map(jnp.copy, ready.state), STRETCHES["calm"])
        found[name]["compile_s"] = time.perf_counter() - began
    for _ in range(options.repeats):
        for name, ready in cases.items():
            state = jax.block_until_ready(jax.tree.map(jnp.copy, ready.state))
            for stretch, steps in STRETCHES.items():
                began = time.perf_counter()
                state, record = call(ready, state, steps)
                found[name][stretch].append(time.perf_counter() - began)
                found[name][f"{stretch}_liquidated"] = int(record.flows.newly_liquidated.sum())
    columns = ("calm, ms/step", "M account-steps/s", "crash, ms/step", "M account-steps/s", "first call, s", "liquidated")
    print(f"{'':42}" + "".join(f"{c:>19}" for c in columns))
    for name, row in found.items():
        cells = []
        for stretch, (first, last) in STRETCHES.items():
            each = statistics.median(row[stretch]) / (last - first)
            row[f"{stretch}_median_ms_per_step"] = each * 1e3
            cells += [each * 1e3, options.accounts / each / 1e6]
        print(f"{name:42}" + "".join(f"{x:19.1f}" for x in (*cells, row["compile_s"])) + f"{row['crash_liquidated']:19d}")
    thin, whole = (found[n] for n in SYSTEMS)
    ratios = {s: thin[f"{s}_median_ms_per_step"] / whole[f"{s}_median_ms_per_step"] for s in STRETCHES}
    print("speed of all mechanisms over thin:", ", ".join(f"{s} {r:.2f}" for s, r in ratios.items()))
    result = {
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("out", "work")},
        "machine": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "cores": os.cpu_count(),
            "device": str(jax.devices()[0]),
            "load": os.getloadavg(),
        },
        "times_s": found,
        "ratios": ratios,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
