"""The table of docs/scenarios.md: what each scenario of a run shows.

stresslev run committee --accounts 20000 --no-attribution --out results/committee
python experiments/scenario_table.py results/committee/summary.json [more summaries]
"""

import argparse
import json
from pathlib import Path

#: metric -> heading
COLUMNS = {
    "bad_debt_over_open_interest": "bad debt",
    "deficit_over_open_interest": "deficits",
    "adl_over_open_interest": "ADL",
    "liquidated_accounts_share": "accounts liquidated",
    "liquidated_notional_share": "notional liquidated",
    "endogenous_move": "endogenous move",
    "insurance_fund_fall": "worst fund's fall",
    "insolvent_pools": "insolvent pools",
}


def cell(name: str, value: float) -> str:
    """A metric as text: shares in percent."""
    return f"{value:.0f}" if name == "insolvent_pools" else f"{100 * value:.2f}%"


def table(summaries: list[dict]) -> str:
    """One row per scenario, in the order of the runs."""
    rows = ["| scenario | severity | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for summary in summaries:
        for name, found in summary["scenarios"].items():
            cells = [cell(key, found["metrics"][key]) for key in COLUMNS]
            rows.append(" | ".join([f"| {name}", found["severity"], *cells]) + " |")
    return "\n".join(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path, nargs="+", help="summary.json of a run")
    print(table([json.loads(file.read_text(encoding="utf-8")) for file in parser.parse_args().summary]))


if __name__ == "__main__":
    main()
