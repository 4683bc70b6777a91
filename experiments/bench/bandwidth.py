"""Memory bandwidth of this machine as programs see it: `python experiments/bench/bandwidth.py [--mib 512]`.

Reading and copying an array far larger than any cache, by JAX and by NumPy (one thread, and one thread per core). A copy counts what it reads
and what it writes. The floor of a step that only reads its accounts is computed from the best of them.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor


def _median_seconds(call, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(mib: int = 512, repeats: int = 9) -> dict[str, float]:
    """GB/s by way of moving the bytes, on whatever device JAX has; NumPy's only where that is the processor."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    n = mib * 2**20 // 4
    x = jnp.ones((n,), jnp.float32)
    y = jnp.zeros((n,), jnp.float32)
    # `y` is written anew in place: a fresh array would have the system's page faults in the time
    copy, read = jax.jit(lambda x, y: x + 1, donate_argnums=1, keep_unused=True), jax.jit(jnp.sum)
    size = 4 * n

    def again():
        nonlocal y
        y = copy(x, y).block_until_ready()

    out = {
        "jax copy": 2 * size / _median_seconds(again, repeats),
        "jax read": size / _median_seconds(lambda: read(x).block_until_ready(), repeats),
    }
    if jax.default_backend() == "cpu":
        del x, y
        threads = os.cpu_count() or 1
        a, b = np.ones(n, np.float32), np.zeros(n, np.float32)
        parts = list(zip(np.array_split(b, threads), np.array_split(a, threads), strict=True))
        with ThreadPoolExecutor(threads) as pool:
            out["numpy copy, 1 thread"] = 2 * size / _median_seconds(lambda: np.copyto(b, a), repeats)
            out[f"numpy copy, {threads} threads"] = 2 * size / _median_seconds(lambda: list(pool.map(lambda p: np.copyto(*p), parts)), repeats)
            out[f"numpy read, {threads} threads"] = size / _median_seconds(lambda: list(pool.map(lambda p: np.max(p[1]), parts)), repeats)
    return {name: rate / 1e9 for name, rate in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    print(json.dumps({k: round(v, 2) for k, v in measure(parser.parse_args().mib).items()}, indent=1))


if __name__ == "__main__":
    main()
