"""Where the engine's step spends its time in the crash workload, and what the compiled program copies.

    python experiments/bench/phases.py [--accounts 1e6] [--assets 4] [--dtype float32] [--out phases.json]

The state is taken from the crash at one step; the parts of one round at that state are then compiled and timed by themselves. The parts of a
program compiled as a whole need not cost the same, so the whole round and the dense pass are timed too.
"""

import argparse
import json
import re
import statistics
import sys
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import jax
import jax.numpy as jnp
import numpy as np
import step as bench
import workload

from stresslev.book.book import to_blocks
from stresslev.engine import accounts as population
from stresslev.engine import margin, market
from stresslev.engine.accounts import Fills
from stresslev.engine.simulate import advance, initial_state
from stresslev.engine.step import round_of_liquidation
from stresslev.engine.types import Path as EnginePath
from stresslev.engine.types import cast

BIG = {"f32": 4, "f64": 8, "s32": 4, "pred": 1}


def median_seconds(call, repeats: int, fresh=lambda: ()) -> float:
    """Median wall time of `call(*fresh())` after a warm-up, over repeats that other processes left alone."""
    jax.block_until_ready(call(*fresh()))
    kept = []
    for _ in range(4 * repeats):
        given = jax.block_until_ready(fresh())
        bench.wait_for_quiet(120)
        wall, _, others, _ = bench.timed(lambda x=given: jax.block_until_ready(call(*x)))
        if others <= max(0.03, 0.2 * wall):
            kept.append(wall)
        if len(kept) == repeats:
            break
    return statistics.median(kept)


def copy_of(tree):
    """Fresh buffers, one per leaf."""
    return jax.tree.map(jnp.copy, tree)


def dense(accounts, system, policy, log_price, layout):
    """The dense pass of `demand` alone: how many accounts per block are under margin; `layout` leaves the list of blocks out or in."""
    price = system.reference_price * jnp.exp(log_price)
    displaced = margin.displacement(log_price, system.reference_price)
    rules = population._rules(accounts.block_pool, system, policy, price)
    equity, _, required = population._assess(accounts.equity_at_reference, accounts.quantity, rules, displaced)
    under = jnp.sum(~(equity >= required), axis=1, dtype=jnp.int32)
    if not layout:
        return under
    total = under.shape[0]
    return under, jnp.nonzero(under > 0, size=total, fill_value=total)[0].astype(jnp.int32)


def tables_only(accounts, system, policy, log_price):
    """The expansion of the pools' rules to blocks alone."""
    price = system.reference_price * jnp.exp(log_price)
    rules = population._rules(accounts.block_pool, system, policy, price)
    return rules.floor, rules.step


def big_instructions(text: str, least: int) -> dict[str, int]:
    """Instructions of a compiled program whose result has at least `least` elements, counted by opcode, fusions by what they are named after."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (f32|f64|s32|pred)\[([\d,]*)\]\S* ([\w-]+)\(", line)
        if not match:
            continue
        name, kind, shape, opcode = match.groups()
        if int(np.prod([int(x) for x in shape.split(",") if x] or [1])) >= least and opcode not in ("parameter", "get-tuple-element"):
            label = f"{opcode} {kind}" + (f" ({re.sub(r'[.0-9]+$', '', name)})" if opcode == "fusion" else "")
            found[label] = found.get(label, 0) + 1
    return found


def phases(accounts: int, assets: int, dtype, at: int, repeats: int) -> dict:
    """Milliseconds of the parts of one round in the state before step `at`, and the compiled program's memory and big instructions."""
    book = workload.book(accounts, assets)
    case = workload.case(book)
    system, policy = cast(case.system, dtype), cast(case.policy, dtype)
    path = cast(workload.path("crash", assets), dtype)
    blocks, _ = to_blocks(book, dtype)
    del book
    start = copy_of(initial_state(system, (jax.tree.map(jnp.array, blocks),)))
    tolerance, rounds = jnp.asarray(np.inf, dtype), jnp.int32(workload.MAX_ROUNDS)
    part = EnginePath(path.log_price[:at], path.depth_factor[:at])
    state, _ = advance(start, system, policy, part, rounds, tolerance)
    opened = market.open_step(state.market, system, path.log_price[at])
    depth = market.depth(opened, system, path.depth_factor[at])
    held, x = state.populations[0], opened.log_price
    calm = jnp.zeros_like(x)  # at the reference prices of the start nobody was under margin; now a few may be
    fresh_accounts = jax.tree.map(jnp.array, blocks)

    ask = jax.jit(population.demand)
    asked = jax.block_until_ready(ask(held, system, policy, x))
    share = jnp.where(asked.notional > system.capacity, system.capacity / asked.notional, 1)
    moved = margin.displacement(x, system.reference_price)
    fills = Fills(share=share, log_price=x, displaced=moved, displaced_fill=moved, displaced_after=moved)
    settle = jax.jit(population.settle, donate_argnums=0)
    settle_copying = jax.jit(population.settle)
    one_round = jax.jit(round_of_liquidation, donate_argnums=0)

    def opened_state():
        import dataclasses

        return (copy_of(dataclasses.replace(state, market=opened)), system, policy, depth, jnp.zeros_like(x), system.capacity)

    everything = (held, system, policy, x)
    seconds = {
        "expanding the rules to blocks": median_seconds(jax.jit(tables_only), repeats, lambda: everything),
        "dense assessment": median_seconds(jax.jit(partial(dense, layout=False)), repeats, lambda: everything),
        "dense assessment and list of blocks": median_seconds(jax.jit(partial(dense, layout=True)), repeats, lambda: everything),
        "demand with nobody under margin": median_seconds(ask, repeats, lambda: (fresh_accounts, system, policy, calm)),
        "demand": median_seconds(ask, repeats, lambda: everything),
        "settle, donated": median_seconds(settle, repeats, lambda: (copy_of(held), system, policy, asked, fills)),
        "settle, not donated": median_seconds(settle_copying, repeats, lambda: (held, system, policy, asked, fills)),
        "whole round, donated": median_seconds(one_round, repeats, opened_state),
        "copying all accounts": median_seconds(lambda: copy_of(held), repeats),
    }
    compiled = advance.lower(opened_state()[0], system, policy, path, rounds, tolerance).compile()
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    under = np.asarray(asked.triggered)
    return {
        "accounts": accounts,
        "assets": assets,
        "dtype": np.dtype(dtype).name,
        "step": at,
        "under_margin": under.tolist(),
        "blocks_with_somebody": int(asked.count),
        "blocks": int(held.block_pool.shape[0]),
        "milliseconds": {k: round(1e3 * v, 3) for k, v in seconds.items()},
        "advance_memory_mib": {
            k: round(getattr(memory, k) / 2**20, 2)
            for k in ("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes")
        },
        "advance_big_instructions": big_instructions(text, accounts),
    }, text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=float, default=1e6)
    parser.add_argument("--assets", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--at", type=int, nargs="+", default=[40, 62])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hlo", type=Path, help="write the compiled program here")
    given = parser.parse_args()
    dtype = np.dtype(given.dtype)
    found = []
    with jax.enable_x64(dtype == np.float64):
        for at in given.at:
            result, text = phases(int(given.accounts), given.assets, dtype, at, given.repeats)
            found.append(result)
            print(json.dumps(result, indent=1))
    if given.hlo:
        given.hlo.write_text(text)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
