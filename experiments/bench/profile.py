"""The liquidation profile: how far off it is, and how fast: `python experiments/bench/profile.py`.

Accuracy: on systems of isolated margin, of loans and of both the hard account engine in float64 is the judge of profiles with more and more cells and
sizes, on the same book; differences are shares of open interest and loans at the start. Speed: the step on a profile alone over many scenarios at
once, in float32; equivalent account-steps are accounts x steps x scenarios, over the time of the stepping. Building and compiling are stated apart.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import stresslev
from stresslev import assemble, batches, load_plan, memory, opening, population, preparation
from stresslev.engine import status
from stresslev.engine.batch import Rules, part
from stresslev.engine.simulate import advance, all_channels, initial_state
from stresslev.engine.types import Path as Steps
from stresslev.engine.types import cast

HERE = Path(__file__).parent
#: Shipped systems, with what is changed of them.
SHIPPED = {"aave_v3_ethereum": ("system.pools.aave_v3_ethereum.liquidation.rule='full'",)}
#: system, scenario
CASES = (
    ("isolated_one_market", "gap_35_half_depth"),
    ("isolated_onchain", "squeeze_54_half_depth"),
    ("isolated_three_venues", "gap_35_half_depth"),
    ("two_lenders", "gap_35_half_depth"),
    ("two_lenders", "squeeze_54_half_depth"),
    ("isolated_venue_and_lender", "gap_35_half_depth"),
    ("aave_v3_ethereum", "2022-06-13_staked_ether"),
)
#: Rise of requirements that shows how sensitive a case is: less than a cell of the grid.
HIGHER = 1e-4
BINS = ((64, 12), (256, 12), (1024, 16), (4096, 24), (16384, 48))


def case(system: str, scenario: str, accounts: int, precision: int):
    """A scenario ready to run with accounts, its book, and its rounds."""
    place = f"systems/{system}.toml" if system in SHIPPED else HERE / "systems" / f"{system}.toml"
    plan = load_plan(scenario, system=place, accounts=accounts, precision=precision, overrides=SHIPPED.get(system, ()))
    first = plan.scenarios[0]
    shock = opening.shock_of(plan, first)
    book = opening.at_start(plan, opening.load_book(plan, shock), shock)
    assert not population.why_no_profile(plan) and not any(population.why_not(p) for p in plan.system.pools.values())
    return plan, first, shock, book


def totals(state, record, lends) -> dict[str, float]:
    """Shares of open interest and loans at the start. Of lenders only the debt repaid counts, which the collateral seized pays for."""
    interest = float(record.open_interest[0].sum() + record.borrowed[0].sum())
    longs = record.flows.closed_long_usd if lends is None else jnp.where(lends[None, :, None], 0, record.flows.closed_long_usd)
    closed = float(longs.sum() + record.flows.closed_short_usd.sum())
    worst = max(float(jnp.abs(x).max()) for x in (record.flows.cash_residual, record.flows.coins_residual * record.price[:, None, :]))
    return {
        "liquidated": closed / interest,
        "bad_debt": float(state.ledger.bad_debt.sum()) / interest,
        "deficit": float(record.flows.deficit.sum()) / interest,
        "fees": float(record.flows.fees.sum()) / interest,
        "residual": worst / interest,
    }


def driven(ready, rounds: int, times: int = 2):
    """Final state, record and seconds of stepping, the last time round."""
    for _ in range(times):
        state = jax.block_until_ready(jax.tree.map(jnp.copy, ready.state))
        began = time.perf_counter()
        arguments = ready.system, ready.policy, all_channels(ready.dtype), ready.path, jnp.int32(rounds), ready.tolerance
        found = jax.block_until_ready(advance(state, *arguments))
        wall = time.perf_counter() - began
    return *found, wall


def accuracy(accounts: int, bins, systems):
    """Rows, one by one; with how far the hard engine itself moves when requirements are higher by `HIGHER`: where that is far, no profile is near."""
    with jax.enable_x64(True):
        for system, scenario in CASES:
            if system not in systems:
                continue
            plan, first, shock, book = case(system, scenario, accounts, 64)
            ready = preparation.prepare(plan, first, shock, book, "accounts")
            state, record, wall = driven(ready, plan.run.max_rounds)
            lends = None if ready.system.lending is None else ready.system.lending.pool
            hard = totals(state, record, lends)
            higher = dataclasses.replace(ready.policy, maintenance_multiplier=ready.policy.maintenance_multiplier * (1 + HIGHER))
            moved = totals(*driven(dataclasses.replace(ready, policy=higher), plan.run.max_rounds, 1)[:2], lends)
            moved = {name: moved[name] - hard[name] for name in hard if name != "residual"}
            shown = ", ".join(f"{k} {v:+.2e}" for k, v in moved.items())
            print(f"{system:26} {scenario:22} hard, requirements {HIGHER:.0e} higher: {shown}", flush=True)
            row = {
                "system": system,
                "scenario": scenario,
                "accounts": accounts,
                "hard": hard,
                "hard_moved": moved,
                "hard_seconds": wall,
                "profiles": [],
            }
            for cells, sizes in bins:
                began = time.perf_counter()
                rows = np.arange(len(book))
                with_it, together = population.with_profile(
                    ready.system, ready.policy.maintenance_multiplier, book, rows, np.float64, cells=cells, sizes=sizes
                )
                with_it = cast(with_it, np.float64)
                built = time.perf_counter() - began
                start = initial_state(with_it, together, policy=ready.policy, mark_history=assemble.mark_history(plan.system, first.step_minutes))
                also = dataclasses.replace(ready, system=with_it, state=start)
                state, record, wall = driven(also, plan.run.max_rounds)
                mine = totals(state, record, lends)
                off = {name: mine[name] - hard[name] for name in hard if name != "residual"}
                row["profiles"].append(
                    {"cells": cells, "sizes": sizes, "off": off, "residual": mine["residual"], "seconds": wall, "build_seconds": built}
                )
                print(
                    f"{system:26} {scenario:22} {cells:6} x {sizes:2}: " + ", ".join(f"{k} {v:+.2e} of {hard[k]:.4f}" for k, v in off.items()),
                    flush=True,
                )
            yield row


def speed(system: str, accounts: int, scenarios: int, steps: int, repeats: int, width: int) -> dict:
    """Many random scenarios at once on one profile."""
    began = time.perf_counter()
    plan, first, shock, book = case(system, "gap_35_half_depth", accounts, 32)
    sampled = time.perf_counter() - began
    began = time.perf_counter()
    ready = preparation.prepare(plan, first, shock, book, "profile")
    jax.block_until_ready(ready.state)
    built = time.perf_counter() - began
    rng = np.random.default_rng(7)
    assets = len(plan.system.assets)
    shared = rng.standard_normal((scenarios, steps, 1)) * 0.8 + rng.standard_normal((scenarios, steps, assets)) * 0.6
    walk = np.cumsum(shared * 0.2 / np.sqrt(steps), axis=1)
    paths = cast(Steps(walk, np.full((scenarios, steps, assets), 0.5)), np.float32)
    assert ready.path.mark_offset is None and ready.path.outage is None and ready.path.premium is None
    rules = dataclasses.replace(ready.run(plan.run.max_rounds).rules, path=paths)
    width = math.gcd(width, scenarios)
    own, shared = part(rules, Rules(False, False, False, True, False, False))

    def once():
        states = jax.tree.map(lambda x: jnp.copy(jnp.broadcast_to(x[None], (scenarios, *x.shape))), ready.state)
        states, records = batches.drive(states, own, shared, width=width)
        closed = sum((r.flows.closed_long_usd + r.flows.closed_short_usd).sum(axis=(1, 2, 3)) for r in records)
        return closed, states.ledger.bad_debt.sum(axis=1), max(np.abs(r.flows.cash_residual).max() for r in records), states.status

    walls = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        closed, debt, residual, bits = jax.block_until_ready(once())
        walls.append(time.perf_counter() - began)
    compile_seconds, walls = walls[0] - min(walls[1:]), walls[1:]
    wall = min(walls)
    return {
        "system": system,
        "accounts": accounts,
        "scenarios": scenarios,
        "steps": steps,
        "width": width,
        "table_mib": sum(x.table.nbytes for x in (ready.system.profile, ready.system.loan_profile) if x is not None) / 2**20,
        "classes": [list(x.table.shape[:-2]) for x in (ready.system.profile, ready.system.loan_profile) if x is not None],
        "sample_seconds": sampled,
        "build_seconds": built,
        "compile_seconds": compile_seconds,
        "seconds": walls,
        "equivalent_account_steps_per_second": accounts * steps * scenarios / wall,
        "scenarios_with_liquidations": int((np.asarray(closed) > 0).sum()),
        "scenarios_with_bad_debt": int((np.asarray(debt) > 0).sum()),
        "worst_residual_usd": float(residual),
        "tolerance_usd": float(ready.tolerance),
        "failed": int((np.asarray(bits) & status.FAILURES != 0).sum()),
    }


def picture(rows: list[dict], place: Path) -> None:
    """Error against cells, as a page that needs nothing else."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for row in rows:
        cells = [p["cells"] for p in row["profiles"]]
        for name in ("liquidated", "bad_debt"):
            off = [max(abs(p["off"][name]), 1e-9) for p in row["profiles"]]
            figure.add_scatter(x=cells, y=off, name=f"{row['system']}, {row['scenario']}: {name.replace('_', ' ')}")
    for bound in (population.LIQUIDATED_ERROR, population.BAD_DEBT_ERROR):
        figure.add_hline(y=bound, line_dash="dot")
    figure.update_xaxes(type="log", title="cells of the grid")
    figure.update_yaxes(type="log", title="error, share of open interest and loans", exponentformat="power")
    figure.update_layout(title="The liquidation profile against the hard account engine")
    figure.write_html(place, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=float, default=2e5, help="of the accuracy part")
    parser.add_argument("--many", type=float, default=1e7, help="accounts of the speed part")
    parser.add_argument("--scenarios", type=int, default=256)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=memory.PROFILE_WIDTH, help="scenarios side by side in a block of the speed part")
    parser.add_argument("--parts", nargs="+", choices=("accuracy", "speed"), default=["accuracy", "speed"])
    parser.add_argument("--systems", nargs="+", default=[s for s, _ in CASES], help="of the accuracy part; what was found of others stays")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "profile_cpu.json")
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    found["machine"] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    found["machine"] |= {"jax": jax.__version__, "stresslev": stresslev.__version__}
    if "accuracy" in chosen.parts:
        rows = {(r["system"], r["scenario"]): r for r in found.get("accuracy", [])}
        for row in accuracy(int(chosen.accounts), BINS, chosen.systems):
            rows[row["system"], row["scenario"]] = row
            found["accuracy"] = [rows[c] for c in CASES if c in rows]
            chosen.out.write_text(json.dumps(found, indent=1) + "\n")
        picture(found["accuracy"], chosen.out.with_suffix(".html"))
    if "speed" in chosen.parts:
        found["speed"] = []
        for system in ("isolated_one_market", "isolated_onchain"):
            found["speed"].append(speed(system, int(chosen.many), chosen.scenarios, chosen.steps, chosen.repeats, chosen.width))
            print(json.dumps(found["speed"][-1]), flush=True)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
