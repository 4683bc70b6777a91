"""Calibration of the account-level risk score: who is liquidated in a suite's scenarios, and how well that can be told beforehand."""

import dataclasses
import tomllib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from stresslev import assemble, scoring
from stresslev.batches import Progress, chunk_length, silent
from stresslev.book.book import Book
from stresslev.config.load import Plan
from stresslev.config.spec import ScenarioSpec
from stresslev.engine import requirement, status
from stresslev.engine.leverage.score import FEATURES, SIGNS, features
from stresslev.engine.loans import Loans
from stresslev.engine.prices import Seen, prices
from stresslev.engine.simulate import advance, all_channels
from stresslev.engine.step import open_interest
from stresslev.errors import InputError, NumericalFailure, Problem
from stresslev.opening import at_start, load_book, shock_of
from stresslev.preparation import Prepared, prepare
from stresslev.shocks.paths import Shock

#: Fewest accounts with either outcome, among those fitted on, from which anything is to be learned.
LEAST = 10
#: How accounts and scenarios that are judged relate to those fitted on.
SAMPLES = ("fitted", "held_out", "left_out")


@dataclass(frozen=True)
class Response:
    """What is chosen, not fitted: how features are measured and how the cap answers the score."""

    correlation: float = 0.7  # between the returns of any two assets, in [0, 1]
    steepness: float = 1.0  # k
    midpoint: float = 0.0  # log-odds of liquidation at which the factor is half-way: 0 is even odds
    floor: float = 0.25  # the least factor


@dataclass(frozen=True)
class Observed:
    """One scenario: the accounts with positions at its start, and what became of them. n accounts."""

    name: str
    title: str
    rows: np.ndarray  # (n,) int, of the book
    features: np.ndarray  # (n, 5) at the start, in the order of FEATURES
    liquidated: np.ndarray  # (n,) bool: some part was closed by the pool


def observe(plan: Plan, scenario: ScenarioSpec, shock: Shock, book: Book, response: Response | None = None, progress: Progress = silent) -> Observed:
    """Simulate one scenario. Must be called inside `jax.enable_x64(plan.run.precision == 64)`; `calibrate` does.

    Borrowers of lenders are left out: the score is about perp accounts.

    Raises:
      NumericalFailure: the run must not be used.
    """
    ready = prepare(plan, scenario, shock, book, "accounts")
    found = _measured(ready, scenario.step_minutes, (response or Response()).correlation)
    hit = _liquidated(ready, scenario.name, plan.run.max_rounds, progress)
    rows = np.concatenate([ready.layout.rows[k] for k in found]) if found else np.zeros(0, int)
    table = np.concatenate([found[k][ready.layout.slots[k]] for k in found]) if found else np.zeros((0, len(FEATURES)))
    flags = np.concatenate([hit[k][ready.layout.slots[k]] for k in found]) if found else np.zeros(0, bool)
    holds = book.gross_notional[rows] > 0
    return Observed(name=scenario.name, title=scenario.title, rows=rows[holds], features=table[holds], liquidated=flags[holds])


def _measured(ready: Prepared, step_minutes: float, correlation: float) -> dict[int, np.ndarray]:
    """Features (slots, 5) of every population of perp accounts, before the first step."""
    state, system, dtype = ready.state, ready.system, ready.dtype
    seen = prices(state, system, Seen(mark=None, offset=jnp.zeros((), dtype), still=jnp.zeros((), bool)))
    multiplier = ready.policy.maintenance_multiplier
    if system.interest_scale is not None:
        scale = system.interest_scale
        multiplier = multiplier * requirement.open_interest_factor(scale.base, open_interest(state, system), scale.lower, scale.upper)
    steps = jnp.asarray(assemble.MINUTES_PER_YEAR / step_minutes, dtype)
    together = jnp.asarray(correlation, dtype)
    measure = jax.jit(features)
    return {
        k: np.stack([np.asarray(x, float).reshape(-1) for x in measure(p, system, multiplier, seen, state.market.variance, steps, together)], axis=1)
        for k, p in enumerate(state.populations)
        if not isinstance(p, Loans)
    }


def _liquidated(ready: Prepared, name: str, rounds: int, progress: Progress) -> list[np.ndarray]:
    """(slots,) bool per population, after the last step. Raises NumericalFailure."""
    # the engine takes over the buffers of the state it is given, and two leaves of a fresh state may be the same buffer
    state = jax.tree.map(jnp.copy, ready.state)
    steps = ready.path.log_price.shape[0]
    size = chunk_length(steps)
    progress(name, 0, steps)
    for start in range(0, steps, size):
        part = jax.tree.map(lambda x, start=start: x[start : start + size], ready.path)
        state, _ = advance(state, ready.system, ready.policy, all_channels(ready.dtype), part, jnp.int32(rounds), ready.tolerance)
        progress(name, min(start + size, steps), steps)
        if status.failed(state.status):
            raise NumericalFailure(f"{name}: " + " ".join(status.sentences(int(state.status) & status.FAILURES)))
    return [np.asarray(p.liquidated).reshape(-1) for p in state.populations]


@dataclass(frozen=True)
class Judged:
    """Predictions beside what happened, for some accounts in one scenario."""

    scenario: str
    probability: np.ndarray  # (n,)
    features: np.ndarray  # (n, 5)
    liquidated: np.ndarray  # (n,) bool


@dataclass(frozen=True)
class Calibrated:
    """The score and how it does. `judged` is by sample: "fitted" accounts; "held_out" accounts of the same scenarios; and "left_out", held-out
    accounts in each scenario by a fit that has not seen it (empty with a single scenario)."""

    fit: scoring.Fit
    response: Response
    scenarios: dict[str, str]  # name -> title
    fitted_accounts: int
    judged: dict[str, list[Judged]]


def calibrate(plan: Plan, response: Response | None = None, without: tuple[str, ...] = (), progress: Progress = silent) -> Calibrated:
    """Simulate a plan's scenarios on its book, fit the score on half of the accounts, and judge it on the other half.

    Args: `without` names features that are to have no weight.

    Raises:
      InputError: a book or price file that cannot be used; too few accounts, liquidated or not, to learn from.
      NumericalFailure: runs that must not be used.
    """
    response = response or Response()
    shocks = {s.name: shock_of(plan, s) for s in plan.scenarios}
    progress("book", 0, 1)
    book = load_book(plan, shocks[plan.scenarios[0].name])
    progress("book", 1, 1)
    with jax.enable_x64(plan.run.precision == 64):
        seen = [observe(plan, s, shocks[s.name], at_start(plan, book, shocks[s.name]), response, progress) for s in plan.scenarios]
    return judge(seen, _half(len(book), plan.run.seed), response, plan.files["suite"], without)


def _half(accounts: int, seed: int) -> np.ndarray:
    """(N,) bool: the accounts that are fitted on, a half drawn at random."""
    chosen = np.zeros(accounts, bool)
    chosen[np.random.default_rng(np.random.SeedSequence((seed, 1 << 21))).permutation(accounts)[: accounts // 2]] = True
    return chosen


def _fit(seen: list[Observed], inside: np.ndarray, file: str, signs: tuple[int, ...]) -> scoring.Fit:
    """The score fitted on some accounts in some scenarios. Raises InputError when too few of them were, or were not, liquidated."""
    table = np.concatenate([s.features[inside[s.rows]] for s in seen])
    hit = np.concatenate([s.liquidated[inside[s.rows]] for s in seen])
    if min(hit.sum(), (~hit).sum()) < LEAST:
        what = f"of {len(hit)} outcomes fitted on, {int(hit.sum())} are liquidations: at least {LEAST} must be, and {LEAST} must not"
        fix = "sample more accounts (--accounts), or take scenarios that liquidate some accounts and not all"
        names = ", ".join(s.name for s in seen)
        raise InputError(file, Problem("scenarios", names, what, fix))
    return scoring.fit(table, hit, signs)


def judge(seen: list[Observed], inside: np.ndarray, response: Response, file: str, without: tuple[str, ...] = ()) -> Calibrated:
    """Fit on the accounts `inside` (N,) in all scenarios, and hold the result against everybody, and against scenarios it has not seen.

    Raises:
      InputError: too few accounts, liquidated or not, to learn from; `file` is named in it.
    """

    def judged(fit: scoring.Fit, s: Observed, chosen: np.ndarray) -> Judged:
        mine = chosen[s.rows]
        return Judged(s.name, fit.probability(s.features[mine]), s.features[mine], s.liquidated[mine])

    signs = tuple(0 if f in without else sign for f, sign in zip(FEATURES, SIGNS, strict=True))
    whole = _fit(seen, inside, file, signs)
    left_out = []
    if len(seen) > 1:
        left_out = [judged(_fit([o for o in seen if o is not s], inside, file, signs), s, ~inside) for s in seen]
    return Calibrated(
        fit=whole,
        response=response,
        scenarios={s.name: s.title for s in seen},
        fitted_accounts=len(np.unique(np.concatenate([s.rows[inside[s.rows]] for s in seen]))),
        judged={"fitted": [judged(whole, s, inside) for s in seen], "held_out": [judged(whole, s, ~inside) for s in seen], "left_out": left_out},
    )


def _pooled(parts: list[Judged]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([p.probability for p in parts]), np.concatenate([p.liquidated for p in parts])


def _area(score: np.ndarray, outcome: np.ndarray) -> dict:
    return dataclasses.asdict(scoring.auc(score, outcome))


def _scenario_figures(found: Calibrated, k: int) -> dict:
    held = found.judged["held_out"][k]
    areas = {name: _area(parts[k].probability, parts[k].liquidated) for name, parts in found.judged.items() if parts}
    alone = {f: _area(sign * held.features[:, j], held.liquidated) for j, (f, sign) in enumerate(zip(FEATURES, SIGNS, strict=True))}
    # in a fall the side alone tells much: among those on the crowd's side it tells nothing
    beside = held.features[:, FEATURES.index("crowding")] > 0
    shape = {}
    for name, parts in found.judged.items():
        if parts and 0 < parts[k].liquidated.mean() < 1:
            false, true = scoring.roc(parts[k].probability, parts[k].liquidated)
            shape[name] = {"false_positive": false.tolist(), "true_positive": true.tolist()}
    return {
        "title": found.scenarios[held.scenario],
        "accounts": len(held.liquidated),
        "liquidated": int(held.liquidated.sum()),
        "liquidated_share": float(held.liquidated.mean()),
        "auc": areas,
        "auc_of_features_alone": alone,
        "auc_with_the_crowd": _area(held.probability[beside], held.liquidated[beside]),
        "roc": shape,
    }


def figures(found: Calibrated) -> dict:
    """Everything there is to report, as plain data: what `score.json` holds."""
    pooled = {name: _pooled(parts) for name, parts in found.judged.items() if parts}
    return {
        "score": table(found),
        "fit": {
            "accounts": found.fitted_accounts,
            "outcomes": len(pooled["fitted"][1]),
            "liquidated_share": float(pooled["fitted"][1].mean()),
            "iterations": found.fit.iterations,
            "violation": found.fit.slack,
        },
        "scenarios": {name: _scenario_figures(found, k) for k, name in enumerate(found.scenarios)},
        "brier": {name: dataclasses.asdict(scoring.brier(*p)) for name, p in pooled.items()},
        "reliability": {name: [dataclasses.asdict(b) for b in scoring.reliability(*p)] for name, p in pooled.items()},
    }


def table(found: Calibrated) -> dict:
    """The values of the policy's table [score]."""

    def named(values) -> dict[str, float]:
        return {name: float(v) + 0.0 for name, v in zip(FEATURES, values, strict=True)}  # no -0.0

    return {
        "weights": named(found.fit.weights),
        "mean": named(found.fit.mean),
        "scale": named(found.fit.scale),
        "intercept": found.fit.intercept,
        **dataclasses.asdict(found.response),
    }


def _inline(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    return repr(float(value))


def toml(values: dict, title: str) -> str:
    """`score.toml`: the table [score] of a policy, with the figures it was judged by as comments.

    Args: `values` as `figures` gives them; `title` of the suite.
    """

    def area(a: dict) -> str:
        return "n/a" if not np.isfinite(a["low"]) else f"{a['value']:.3f} ({a['low']:.3f} to {a['high']:.3f})"

    one_line = " ".join(title.split())
    fit = values["fit"]
    lines = [
        f"# Risk score, calibrated on: {one_line}",
        f"# fitted on {fit['accounts']} accounts, {fit['outcomes']} outcomes, of which {fit['liquidated_share']:.1%} liquidations",
        "# AUC (95% interval) by scenario, on accounts fitted on; on others; on others, by a fit that has not seen the scenario",
    ]
    for name, s in values["scenarios"].items():
        shown = "; ".join(area(s["auc"][k]) for k in SAMPLES if k in s["auc"])
        lines.append(f"#   {name} ({s['liquidated_share']:.1%} liquidated): {shown}")
    lines.append("# AUC on other accounts that are on the crowd's side, among whom the side tells nothing")
    lines += [f"#   {name}: {area(s['auc_with_the_crowd'])}" for name, s in values["scenarios"].items()]
    for sample, b in values["brier"].items():
        lines.append(f"# Brier score, {sample.replace('_', ' ')}: {b['score']:.4f}, base rate {b['reference']:.4f}")
    text = "\n".join([*lines, "[score]", *(f"{key} = {_inline(v)}" for key, v in values["score"].items())]) + "\n"
    tomllib.loads(text)
    return text
