"""How far results depend on step length, seed, number of accounts and rounds: bad debt over open interest and amplification of the gap scenario.

    python experiments/sensitivity.py

Prints the Markdown table of docs/model.md.
"""

from stresslev import load_plan, run_plan

SCENARIO = "gap_35_half_depth"
CASES = (
    ("step 0.5 minutes", ["scenario.step_minutes=0.5"], {}),
    ("step 1 minute, 3 rounds, seed 2025 (as shipped)", [], {}),
    ("step 2 minutes", ["scenario.step_minutes=2"], {}),
    ("step 5 minutes", ["scenario.step_minutes=5"], {}),
    ("1 round a step", ["run.max_rounds=1"], {}),
    ("10 rounds a step", ["run.max_rounds=10"], {}),
    ("seed 1", [], {"seed": 1}),
    ("seed 2", [], {"seed": 2}),
    ("seed 3", [], {"seed": 3}),
    ("200,000 accounts, seed 1", [], {"seed": 1, "accounts": 200_000}),
    ("200,000 accounts, seed 2", [], {"seed": 2, "accounts": 200_000}),
    ("200,000 accounts, seed 3", [], {"seed": 3, "accounts": 200_000}),
)


def main() -> None:
    """Run every case and print a row each."""
    print("| case | bad debt / open interest | amplification |\n|---|---|---|")
    for name, overrides, options in CASES:
        plan = load_plan(SCENARIO, overrides=overrides, precision=64, **({"accounts": 20_000} | options))
        metrics = run_plan(plan).metrics[SCENARIO]
        print(f"| {name} | {metrics['bad_debt_over_open_interest']:.3%} | {metrics['amplification']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
