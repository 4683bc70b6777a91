"""The rule as a radCAD model, written as its users write vectorised models; runs in an environment of its own.

radCAD 0.14 wants NumPy below 1.26.4 and Python below 3.13, stresslev NumPy 2: `make bench` gives it .venv/radcad. One substep for the exogenous
moves and one for every round of liquidation; a policy function works out who is liquidated and how, state update functions write it down. Copies of
the state between functions are switched off, as radCAD advises for large states, so that accounts are changed in place; substeps are dropped.

    python radcad_loop.py run FOLDER MAX_ROUNDS OUT.npz     one run of the stored case, for holding it against the others
    python radcad_loop.py time FOLDER '{"names": [...], "repeats": 3, "shared": false, "max_rounds": 3}'
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np
import numpy_loop
from radcad import Backend, Engine, Model, Simulation
from step import MIB, measure, peak_bytes, summarise

_TALLIES = ("triggered", "newly_liquidated", "closed", "rounds", "evaluations")


def policy_round(params, substep, history, state):
    """What a round does; nothing once nobody is under margin or no capacity is left in this step."""
    if not state["more"]:
        return {"done": None, "assessed": 0}
    accounts = state["equity"], state["quantity"], state["liquidated"]
    return {"done": numpy_loop.play_round(*accounts, state["market"], state["left"], params["slices"], params["ready"]), "assessed": 1}


def begin_market(params, substep, history, state, signal):
    return "market", numpy_loop.exogenous(state["market"], state["timestep"], params["ready"])


def begin_left(params, substep, history, state, signal):
    return "left", np.asarray(params["ready"]["pools"][4], np.float64)


def begin_more(params, substep, history, state, signal):
    return "more", True


def begin_tally(params, substep, history, state, signal):
    pools, assets = len(state["left"]), len(state["market"]["f"])
    zero = np.zeros(pools)
    return "tally", {"triggered": zero, "newly_liquidated": zero, "closed": np.zeros((pools, assets)), "rounds": 0, "evaluations": 0}


def update_equity(params, substep, history, state, signal):
    for who, cash, _, _ in signal["done"]["changes"] if signal["done"] else ():
        state["equity"][who] = cash
    return "equity", state["equity"]


def update_quantity(params, substep, history, state, signal):
    for who, _, kept, _ in signal["done"]["changes"] if signal["done"] else ():
        state["quantity"][:, who] = kept
    return "quantity", state["quantity"]


def update_liquidated(params, substep, history, state, signal):
    for who, _, _, new in signal["done"]["changes"] if signal["done"] else ():
        state["liquidated"][who[new]] = True
    return "liquidated", state["liquidated"]


def update_market(params, substep, history, state, signal):
    return "market", signal["done"]["market"] if signal["done"] else state["market"]


def update_left(params, substep, history, state, signal):
    return "left", signal["done"]["left"] if signal["done"] else state["left"]


def update_more(params, substep, history, state, signal):
    return "more", bool(signal["done"] and signal["done"]["more"])


def update_ledger(params, substep, history, state, signal):
    return "ledger", numpy_loop.ledger_after(*state["ledger"], signal["done"]["sums"]) if signal["done"] else state["ledger"]


def update_tally(params, substep, history, state, signal):
    tally, done = state["tally"], signal["done"]
    tally = {**tally, "evaluations": tally["evaluations"] + signal["assessed"]}
    if done:
        more = {"triggered": done["triggered"], "newly_liquidated": done["sums"][:, 3], "closed": done["closed"], "rounds": 1}
        tally |= {name: tally[name] + value for name, value in more.items()}
    return "tally", tally


_BEGIN = {"policies": {}, "variables": {"market": begin_market, "left": begin_left, "more": begin_more, "tally": begin_tally}}
_ROUND = {
    "policies": {"round": policy_round},
    "variables": {
        "equity": update_equity,
        "quantity": update_quantity,
        "liquidated": update_liquidated,
        "market": update_market,
        "left": update_left,
        "more": update_more,
        "ledger": update_ledger,
        "tally": update_tally,
    },
}


def simulation(equity, quantity, liquidated, ready: dict, max_rounds: int) -> Simulation:
    """The model over the whole path."""
    funds = np.asarray(ready["pools"][5], np.float64)
    zero = np.zeros(len(funds))
    state = {
        "equity": equity,
        "quantity": quantity,
        "liquidated": liquidated,
        "market": numpy_loop.opening(ready),
        "left": np.asarray(ready["pools"][4], np.float64),
        "more": True,
        "ledger": (funds, zero, zero),
        "tally": {},
    }
    slices = tuple(numpy_loop.pool_slices(ready["block_pool"], ready["size"]))
    model = Model(initial_state=state, state_update_blocks=[_BEGIN, *[_ROUND] * max_rounds], params={"ready": ready, "slices": slices})
    made = Simulation(model=model, timesteps=len(ready["path"][0]), runs=1)
    made.engine = Engine(deepcopy=False, drop_substeps=True, backend=Backend.SINGLE_PROCESS)
    return made


def series(result: list[dict], ready: dict) -> dict:
    """The record under the names of the Numba loop."""
    steps = [s for s in result if s["substep"] > 0]
    out = {name: np.array([s["tally"][name] for s in steps]) for name in _TALLIES}
    out |= {name: np.array([s["ledger"][k] for s in steps]) for k, name in enumerate(("fund", "treasury", "bad_debt"))}
    return out | {"price": np.array([numpy_loop.prices(s["market"], ready) for s in steps], float)}


def load(folder: Path, name: str):
    """The stored accounts, laid out flat, and the tables of a workload."""
    with np.load(folder / f"{name}.npz") as stored:
        ready = {"block_pool": stored["block_pool"], "size": int(stored["size"])}
        for group in ("tables", "pools", "markets", "path"):
            ready[group] = tuple(stored[f"{group}{k}"] for k in range(sum(n.startswith(group) for n in stored.files)))
    equity = np.load(folder / "equity.npy").ravel()
    quantity = np.stack([np.load(folder / f"quantity{a}.npy").ravel() for a in range(len(ready["markets"][0]))])
    return equity, quantity, np.load(folder / "liquidated.npy").ravel(), ready


def main() -> None:
    kind, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if kind == "run":
        *accounts, ready = load(folder, "case")
        np.savez(sys.argv[4], **series(simulation(*accounts, ready, given).run(), ready))
        return
    out = {}
    for name in given["names"]:
        ready = load(folder, name)[-1]

        def fresh(name=name):
            return simulation(*load(folder, name), given["max_rounds"])

        out[name] = measure(fresh, lambda s: s.run(), lambda r, ready=ready: summarise(series(r, ready)), given["repeats"], given["shared"])
        out[name]["peak_mib"] = peak_bytes() / MIB
    print(json.dumps({"versions": {"python": platform.python_version(), "numpy": np.__version__}, "timings": out}))


if __name__ == "__main__":
    main()
