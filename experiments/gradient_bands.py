"""What the band of smoothed thresholds costs and gives under concave impact, or with `--exponent 1` linear: `python experiments/gradient_bands.py`.

The log of the last price of the first asset on the falling path of the benchmark's widest system (three pools, four assets, impact `|F|^0.7`), by its
derivative with respect to the maintenance multiplier of all pools and assets: differences of the hard rules, and the estimate for several bands, with
the time that each takes as a multiple of the hard run's. Every case goes twice and the second is timed, so that compilation is not counted.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

import jax
import jax.numpy as jnp
import numpy as np
import workload

from stresslev.engine import adjoint
from stresslev.engine.simulate import all_channels, initial_state, residual_tolerance
from stresslev.engine.types import cast
from stresslev.gradient import value_and_grad
from stresslev.stepping import Active
from stresslev.write import atomically

POOLS, ASSETS, ROUNDS = 3, 4, 3


def last_price(record, state):
    """Log of the last price of the first asset, over USD 1."""
    return jnp.log(record.price[-1, 0])


def main() -> None:
    """Time and print every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=float, default=1e5)
    parser.add_argument("--steps", type=int, default=1440)
    parser.add_argument("--exponent", type=float, default=0.7, help="of the markets' impact; 1 is linear")
    parser.add_argument("--bands", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05, 0.15], help="half widths, in health")
    parser.add_argument("--changes", type=float, nargs="+", default=[0.02, 0.05, 0.1], help="of the multiplier, for differences")
    parser.add_argument("--out", type=Path, help="JSON file to write too")
    options = parser.parse_args()
    made = workload.wide(int(options.accounts), ASSETS, POOLS, np.float32)
    system, policy, population = (cast(x, jnp.float32) for x in made)
    impact = dataclasses.replace(system.impact, exponent=jnp.full_like(system.impact.exponent, options.exponent))
    system = dataclasses.replace(system, impact=impact)
    path, ways = cast(workload.path("crash", ASSETS, options.steps), jnp.float32), all_channels(jnp.float32)

    def hard(factor: float = 1.0) -> float:
        rules = dataclasses.replace(policy, maintenance_multiplier=policy.maintenance_multiplier * factor)
        start = initial_state(system, (population,), policy=rules)
        active = Active(system, rules, ways, path, ROUNDS, residual_tolerance(start, system))
        _, records = active.advance(jax.tree.map(jnp.copy, start), 0, options.steps)
        return float(np.log(records[-1].price[-1, 0]))

    back = {"seconds": 0.0}
    backwards = adjoint.back

    def timed_back(*arguments, **more):
        began = time.perf_counter()
        found = jax.block_until_ready(backwards(*arguments, **more))
        back["seconds"] += time.perf_counter() - began
        return found

    adjoint.back = timed_back

    def second(run):
        run()
        back["seconds"], began = 0.0, time.perf_counter()
        return run(), time.perf_counter() - began

    value, seconds = second(hard)
    found = {"hard": {"value": value, "seconds": seconds}, "differences": {}, "bands": {}}
    print(f"hard rules: {value:.6f} in {seconds:.2f} s", flush=True)
    for change in options.changes:
        slope = (hard(1 + change) - hard(1 - change)) / (2 * change)
        found["differences"][change] = slope
        print(f"difference by {change:g}: {slope:.4g}", flush=True)
    for band in options.bands:

        def gradient(band=band):
            value, slopes = value_and_grad(last_price, system, policy, (population,), path, max_rounds=ROUNDS, band=band)
            return float(value), float(np.sum(policy.maintenance_multiplier * slopes.policy.maintenance_multiplier))

        (value, slope), took = second(gradient)
        found["bands"][band] = {"value": value, "slope": slope, "seconds": took, "back_seconds": back["seconds"], "runs": took / seconds}
        print(f"band {band:g}: slope {slope:.4g}, {took:.2f} s, of it back {back['seconds']:.2f} s: {took / seconds:.1f} hard runs", flush=True)
    if options.out is not None:
        with atomically(options.out) as file:
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
