"""The estimator of derivatives against differences of the hard rules, in tables: `python experiments/gradient_table.py WHAT [--out FILE]`.

`parameters`: one venue, one market, Binance's tiers, volatility-scaled leverage; six parameters of the policy in six random scenarios of 200 minutes.
`mechanisms`: that market with one mechanism after the other, lenders, and the shipped system of venues and lenders with everything; two parameters
in a gap of 35%. `--only NAME` takes one row. Every row runs in a process of its own; rows that are in the file already are kept.

Objectives are bad debt over open interest, the liquidated share, and how far the worst price has fallen at the end. Cosine and relative error are
over parameters, each times its value; the noise is that of the differences themselves, from the spread over books.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from own_loop import SYSTEM  # registers final_fall, which has a derivative

from stresslev.config.load import load_plan, load_policy
from stresslev.config.policy import PolicySpec
from stresslev.toml import toml_text
from stresslev.tuning.check import as_data, check_gradients

OBJECTIVES = ("bad_debt_over_open_interest", "liquidated_notional_share", "final_fall")
SIX = (
    "maintenance_multiplier",
    "rules.volatility.gamma",
    "rules.volatility.on_maintenance",
    "rules.volatility.half_life_minutes",
    "rules.volatility.floor",
    "caps.halving_minutes",
)
TWO = SIX[:2]
VENUE, LENDERS = "system.pools.mid_venue", SYSTEM.with_name("two_lenders.toml")
GAP = "gap_35_half_depth"

#: Accounts of less unequal size than the sampler draws: a few large ones would make the differences rough. And little that stands before bad debt.
EVEN = (
    "system.book.pareto_exponent=3",
    "system.book.largest_account_share=1e-4",
    f"{VENUE}.insurance_fund_usd=1e5",
    f"{VENUE}.liquidation_fee_bps=10",
)
#: Name of a row -> system file, overrides of it, scenario, changes of the policy.
MECHANISMS: dict[str, tuple[Path | str, tuple[str, ...], str, dict]] = {
    "closed in full": (SYSTEM, (), GAP, {}),
    "restored to a target health": (SYSTEM, (f'{VENUE}.liquidation={{rule="restore", target_health=1.25}}',), GAP, {}),
    "brought down tier by tier": (SYSTEM, (f'{VENUE}.liquidation={{rule="stepwise", full_below=0.3}}',), GAP, {}),
    "close factor": (SYSTEM, (f'{VENUE}.liquidation={{rule="close_factor", close_factor=0.5}}',), GAP, {}),
    "auction": (SYSTEM, (f"{VENUE}.liquidation={{auction={{start=0.0, growth_per_minute=0.01, most=0.1}}}}",), GAP, {}),
    "auto-deleveraging": (SYSTEM, (f'{VENUE}.waterfall=["insurance_fund", "adl"]',), GAP, {}),
    "losses socialised": (SYSTEM, (f'{VENUE}.waterfall=["insurance_fund", "socialise"]',), GAP, {}),
    "capacity, pro rata": (SYSTEM, (f"{VENUE}.liquidation_capacity_usd_per_minute=100e6",), GAP, {}),
    "capacity, worst first": (
        SYSTEM,
        (f"{VENUE}.liquidation_capacity_usd_per_minute=100e6", f'{VENUE}.liquidation={{queue="worst_first"}}'),
        GAP,
        {},
    ),
    "funding": (SYSTEM, (f"{VENUE}.funding={{skew_slope=0.01, interval_minutes=60, period_minutes=60}}",), GAP, {}),
    "smoothed mark": (SYSTEM, (f"{VENUE}.mark={{smoothing_half_life_minutes=3}}",), GAP, {}),
    "coins as margin": (SYSTEM, (f"{VENUE}.collateral.BTC={{haircut=0.05, share=0.3}}",), GAP, {}),
    "portfolio margin": ("systems/three_perp_venues.toml", ('system.pools.large_venue.portfolio_margin={form="scan", moves=[-0.1, 0.1]}',), GAP, {}),
    "users reduce near their cap": (SYSTEM, (), GAP, {"transition": {"form": "pace", "pace_minutes": 60, "warn": 0.8, "response_minutes": 60}}),
    "margin calls with a window": (SYSTEM, (), GAP, {"transition": {"form": "call", "window_minutes": 10}}),
    "everything, with traders and depositors": ("systems/venues_and_lenders.toml", (), "fall_15_with_traders", {}),
    "loans, all debt due": (LENDERS, (), GAP, {}),
    "loans, close factor": (LENDERS, ('system.pools.lender_a.liquidation={rule="close_factor", close_factor=0.5, full_below=0.95}',), GAP, {}),
    "loans, restored": (LENDERS, ('system.pools.lender_a.liquidation={rule="restore", target_health=1.1, full_below=0.9}',), GAP, {}),
    "everything": ("systems/venues_and_lenders.toml", (), GAP, {}),
}


def random_scenario(seed: int, folder: Path) -> Path:
    """A fall or a rise of 25 to 50% within ten minutes to forty, on a random walk, partly taken back; 200 minutes."""
    rng = np.random.default_rng(seed)
    minutes = np.arange(201)
    noise = np.cumsum(np.append(0.0, rng.normal(0, 8e-4, 200)))
    size = rng.uniform(0.25, 0.5) * (1 if seed % 3 == 2 else -1)
    begin, length, back = rng.uniform(10, 40), rng.uniform(5, 30), rng.uniform(0, 0.5)
    way = np.clip((minutes - begin) / length, 0, 1) - back * np.clip((minutes - begin - length) / 40, 0, 1)
    prices = 100_000 * np.exp(np.log1p(size) * way + noise)
    scenario = {
        "kind": "scenario",
        "name": f"random_{seed}",
        "title": f"Random move {seed}",
        "origin": "hypothetical",
        "severity": "severe",
        "description": "Drawn at random, to try derivatives on.",
        "sources": ["experiments/gradient_table.py"],
        "assumptions": ["Everything is drawn at random."],
        "duration_minutes": 200,
        "depth_scale": 0.3,
        "paths": {"BTC": {"source": "assumption", "minutes": [float(m) for m in minutes], "prices": [float(round(p, 2)) for p in prices]}},
        "depth": {"default": {"source": "assumption", "minutes": [0], "factors": [1.0]}},
    }
    file = folder / f"{scenario['name']}.toml"
    file.write_text(toml_text(scenario), encoding="utf-8")
    return file


def check(name: str, system, overrides, scenario, changes: dict, options: dict) -> dict:
    """One row of a table."""
    began = time.perf_counter()
    overrides = (*EVEN, *overrides) if system == SYSTEM else overrides
    plan = load_plan(scenario, system=system, accounts=options["accounts"], precision=options["precision"], overrides=list(overrides))
    policy = load_policy("volatility", plan.system)
    if changes:
        policy = PolicySpec.model_validate(policy.model_dump(mode="json") | changes)
    plan = dataclasses.replace(plan, policy=policy)
    paths = SIX if name.startswith("random") else TWO
    how = {"step": options["step"], "books": options["books"], "stepping": options["stepping"], "widths": options["widths"] or (None,)}
    found = as_data(check_gradients(plan, paths, OBJECTIVES, **how))
    return {"name": name, "found": found, "seconds": round(time.perf_counter() - began)} | {k: options[k] for k in ("accounts", "books", "precision")}


def _in_process(queue, *args) -> None:
    from stresslev import cache

    cache.enable()
    queue.put(check(*args))


def said(row: dict) -> str:
    """One line for each objective."""
    lines = []
    for f in row["found"]:
        sizes = np.array([[p["difference"], p["standard_error"] or 0] for p in f["parameters"].values()])
        noise = np.linalg.norm(sizes[:, 1]) / max(np.linalg.norm(sizes[:, 0]), 1e-300)
        for b in f["band"]:
            cosine, error = (float("nan") if b[k] is None else b[k] for k in ("cosine", "relative_error"))
            found = f"band {b['half_width']:.3f} cosine {cosine:.4f} error {error:.3f} noise {noise:.3f}"
            lines.append(f"{row['name']:28} {f['objective']:28} {f['value']:10.4g} {found}")
    return "\n".join(lines)


def main() -> None:
    """Fill the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parameters", "mechanisms"))
    parser.add_argument("--accounts", type=int, default=2**20)
    parser.add_argument("--books", type=int, default=2)
    parser.add_argument("--precision", type=int, default=32)
    parser.add_argument("--step", type=float, default=0.02)
    parser.add_argument("--stepping", default="all")
    parser.add_argument("--widths", type=float, nargs="*", default=())
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = {}
    if options.out and options.out.exists():
        rows = {r["name"]: r for r in json.loads(options.out.read_text(encoding="utf-8"))}
    with tempfile.TemporaryDirectory() as temporary:
        if options.what == "parameters":
            cases = {f"random {i}": (SYSTEM, (), random_scenario(i, Path(temporary)), {}) for i in range(6)}
        else:
            cases = MECHANISMS
        context = multiprocessing.get_context("spawn")
        for name, case in cases.items():
            if (options.only and name not in options.only) or name in rows:
                continue
            queue = context.Queue()
            process = context.Process(target=_in_process, args=(queue, name, *case, vars(options)))
            process.start()
            while process.is_alive() and queue.empty():
                process.join(1)
            if queue.empty():
                print(f"{name}: failed", flush=True)
                continue
            rows[name] = queue.get()
            process.join()
            print(said(rows[name]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
