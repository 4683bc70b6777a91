"""A tuning experiment from its file to what it found: search, frontier, rivals, judgement, explanation; it can be stopped and taken up again."""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stresslev import provenance
from stresslev.batches import Progress, silent
from stresslev.config.experiment import ExperimentSpec
from stresslev.config.load import Plan, apply_override, load_plan, load_policy, parse_override, read_toml, resolve
from stresslev.config.policy import PolicySpec
from stresslev.config.validation import validate
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.objectives import check_objectives
from stresslev.parameters import Parameter, check, value_at
from stresslev.tuning import explain
from stresslev.tuning.goal import Goal, goal_of, metrics_of
from stresslev.tuning.judgement import Judgement, judge
from stresslev.tuning.maps import Maps, liquidation_maps
from stresslev.tuning.rivals import RIVALS
from stresslev.tuning.search import Found, Search, SearchState, optimizer_of
from stresslev.tuning.study import Study
from stresslev.write import atomically

#: What the policy to begin with is called among others, and what is found.
UNTUNED, TUNED = "untuned", "tuned"
#: Further metrics that a judgement reports where they can be had.
_REPORTED = (
    "bad_debt_over_open_interest",
    "deficit_over_open_interest",
    "mean_allowed_leverage",
    "forced_closing_over_open_interest",
    "amplification",
)


@dataclass(frozen=True)
class Experiment:
    """An experiment's file, and what it names."""

    spec: ExperimentSpec
    file: Path
    plan: Plan  # all scenarios, the untuned policy
    reference: PolicySpec
    others: dict[str, PolicySpec]  # to be compared with

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is moved, in the order of the file."""
        return tuple(Parameter(path, float(p.low), float(p.high), p.scale) for path, p in self.spec.parameters.items())

    def restricted(self, names, policy: PolicySpec | None = None) -> Plan:
        """The plan with some of its scenarios."""
        chosen = tuple(s for s in self.plan.scenarios if s.name in set(names))
        return dataclasses.replace(self.plan, scenarios=chosen, policy=policy or self.plan.policy)

    def fingerprint(self) -> str:
        """Digest of everything that the search depends on."""
        about = {"spec": self.spec.model_dump(mode="json"), "plan": provenance.configuration(self.plan) | {"files": ""}}
        about["reference"] = self.reference.model_dump(mode="json")
        about["inputs"] = provenance.input_files(self.plan)
        return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_experiment(path: str | Path, *, accounts: int | None = None, overrides: list[str] = ()) -> Experiment:
    """An experiment and the files it names. Args: `overrides`, `key=value` with dotted keys of the experiment.

    Raises:
      InputError: everything that is wrong with them, by file, key, value and fix.
    """
    file = resolve(path)
    data = read_toml(file)
    if data.get("kind") != "experiment":
        raise InputError(file, Problem("kind", repr(data.get("kind")), "is not 'experiment'", "give an experiment file"))
    for text in overrides:
        parts, value = parse_override(text, ExperimentSpec.model_fields, "optimizer.steps=5")
        apply_override(data, parts, value, ".".join(parts))
    spec: ExperimentSpec = validate(ExperimentSpec, data, file)
    if accounts is not None:
        spec = spec.model_copy(update={"accounts": accounts})
    base = file.parent
    run = {"accounts": spec.accounts, "seed": spec.seed, "precision": spec.precision, "stepping": spec.stepping, "population": spec.population}
    system = None if spec.system is None else resolve(spec.system, base)
    plan = load_plan(resolve(spec.suite, base), system=system, policy=resolve(spec.policy, base), **run)
    known = [s.name for s in plan.scenarios]
    for key in ("train", "validation", "held_out"):
        for name in getattr(spec, key):
            if name not in known:
                raise InputError(file, Problem(key, name, "is no scenario of the suite", did_you_mean(name, known)))
    reference = plan.policy if spec.reference is None else load_policy(resolve(spec.reference, base), plan.system)
    others = {Path(p).stem: load_policy(resolve(p, base), plan.system) for p in spec.judgement.references}
    experiment = Experiment(spec, file, plan, reference, others)
    optimizer_of(spec.optimizer, str(file))
    check(experiment.parameters, plan.policy, str(file))
    check_objectives(metrics_of(spec), str(file))
    taken = {UNTUNED, TUNED, "reference", *RIVALS} & set(others)
    if taken:
        raise InputError(file, Problem("judgement.references", sorted(taken)[0], "is a name that the experiment uses itself", "rename the file"))
    return experiment


@dataclass
class Outcome:
    """What an experiment found."""

    experiment: Experiment
    goal: Goal
    state: SearchState
    why: str  # the search is over
    tuned: Found
    policy: PolicySpec
    study: Study
    rivals: dict[str, tuple[Found | None, int, list]] = field(default_factory=dict)  # best, runs of the suite, history
    frontier: list[tuple[float, Found, float]] = field(default_factory=list)  # factor, best, bound
    judgement: Judgement | None = None
    frontier_judgement: Judgement | None = None
    explained: "explain.Explained | None" = None
    maps: Maps | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class _Checkpoint:
    """A file beside the results in which a search and what came after it are kept."""

    def __init__(self, file: Path, fingerprint: str):
        self.file, self.fingerprint = file, fingerprint
        self.search: bytes | None = None
        self.done: dict[str, list] = {}

    def read(self) -> None:
        """Take up what is there. Raises InputError when there is nothing, or it is of another experiment."""
        if not self.file.is_file():
            raise InputError(self.file, Problem("--resume", "", "there is no checkpoint", "start without --resume"))
        try:
            with np.load(self.file) as found:
                head = json.loads(found["head"].tobytes())
                self.search = found["search"].tobytes()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(self.file, Problem("--resume", "", f"is no checkpoint ({error})", "start without --resume")) from None
        if head["fingerprint"] != self.fingerprint:
            what = "is of another experiment: its file, or a file it names, has changed since"
            raise InputError(self.file, Problem("--resume", "", what, "put the files back, or start without --resume"))
        self.done = head["done"]

    def write(self) -> None:
        head = json.dumps({"fingerprint": self.fingerprint, "done": self.done}).encode()
        with io.BytesIO() as buffer:
            np.savez(buffer, head=np.frombuffer(head, np.uint8), search=np.frombuffer(self.search or b"", np.uint8))
            with atomically(self.file) as temporary:
                temporary.write_bytes(buffer.getvalue())


def run_experiment(
    experiment: Experiment, *, checkpoint: Path | None = None, resume: bool = False, progress: Progress = silent, told: Callable[[str], None] = print
) -> Outcome:
    """Search, then judge. Args: `checkpoint`, file that the search is kept in; `told` gets a line a step.

    Raises:
      InputError: what `load_experiment` could not see, or a checkpoint of another experiment.
    """
    spec, file = experiment.spec, str(experiment.file)
    kept = None if checkpoint is None else _Checkpoint(checkpoint, experiment.fingerprint())
    if resume:
        kept.read()
    metrics = metrics_of(spec)
    study = Study(experiment.restricted(spec.train), experiment.parameters, metrics, width=spec.width, stepping=spec.stepping, file=file)
    first = study.hard({UNTUNED: experiment.plan.policy, "reference": experiment.reference}, spec.train)
    both = np.stack([first[name].values for name in metrics], axis=-1)  # (S, 2, K)
    goal = goal_of(spec, both[:, 0], both[:, 1])
    search = Search(study, goal, experiment.plan.policy, spec.train, spec.optimizer, spec.penalty, spec.seed, file)
    state = search.start() if kept is None or kept.search is None or not kept.search else search.from_bytes(kept.search)
    clock = {"search": 0.0}
    state, why = _searched(search, state, spec.checkpoint_minutes, kept, progress, told)
    if not state.best:
        raise InputError(file, Problem("train", ", ".join(spec.train), "no run of the policy succeeded", "check it with stresslev run"))
    tuned = chosen(search, state, spec.validation, experiment)
    clock["search"] = state.seconds
    outcome = Outcome(experiment, goal, state, why, tuned, search.policy_at(tuned.values), study)
    began = time.perf_counter()
    outcome.frontier = _frontier(search, outcome, told)
    clock["frontier"], began = time.perf_counter() - began, time.perf_counter()
    for name in spec.judgement.rivals:
        outcome.rivals[name] = _rival(name, search, state, spec.judgement.rival_budget, kept, progress, told)
    clock["rivals"], began = time.perf_counter() - began, time.perf_counter()
    policies = _policies(search, outcome)
    groups = {"train": spec.train, "validation": spec.validation, "held_out": spec.held_out}
    everything = experiment.restricted([*spec.train, *spec.validation, *spec.held_out])
    more = tuple(m for m in _REPORTED if m not in metrics)
    how = {"first": UNTUNED, "books": spec.judgement.books, "confidence": spec.judgement.confidence, "progress": progress}
    outcome.judgement = judge(everything, policies, goal, groups, more=more, **how)
    if outcome.frontier:
        points = {UNTUNED: experiment.plan.policy} | {f"{b:.6g}": search.policy_at(f.values) for _, f, b in outcome.frontier}
        outcome.frontier_judgement = judge(everything, points, goal, groups, more=more, **how)
    clock["judgement"], began = time.perf_counter() - began, time.perf_counter()
    outcome.explained = explain.explain(search, tuned)
    both = {name: policies[name] for name in (UNTUNED, TUNED)}
    outcome.maps = liquidation_maps(everything, _worst(outcome.judgement, goal), both, progress)
    clock["explanation"] = time.perf_counter() - began
    outcome.seconds = clock
    return outcome


def _searched(search: Search, state: SearchState, minutes: float, kept: _Checkpoint | None, progress: Progress, told) -> tuple[SearchState, str]:
    """The search to its end, with checkpoints; also where it is stopped from outside."""
    last = time.monotonic()

    def keep() -> None:
        if kept is not None:
            kept.search = search.to_bytes(state)
            kept.write()

    try:
        while not (why := search.finished(state)):
            progress("search", state.step, search.spec.steps)
            state = search.step(state, told)
            if time.monotonic() - last > 60 * minutes:
                keep()
                last = time.monotonic()
    except KeyboardInterrupt:
        keep()
        raise
    progress("search", state.step, search.spec.steps)
    keep()
    return state, why


#: Policies that validation chooses among: the best few that the search has met.
_CANDIDATES = 5


def chosen(search: Search, state: SearchState, validation: tuple[str, ...], experiment: Experiment) -> Found:
    """Of the policies that improved on what was known, the one that does best on the validation scenarios; the last where there are none."""
    fine = [f for f in state.best if f.score.feasible(search.penalty.tolerance)] or state.best
    candidates = fine[-_CANDIDATES:]
    if not validation or len(candidates) == 1:
        return candidates[-1]
    study = Study(experiment.restricted(validation), experiment.parameters, search.goal.metrics, width=search.study.width, file=search.file)
    found = study.hard({str(i): search.policy_at(f.values) for i, f in enumerate(candidates)}, validation)
    values = np.stack([found[name].values for name in search.goal.metrics], axis=-1)  # (S, C, K)
    objective = [search.goal.objective.of(values[:, i, 0]) for i in range(len(candidates))]
    return candidates[int(np.nanargmin(objective))] if np.isfinite(objective).any() else candidates[-1]


def gradient_cost(state: SearchState) -> float:
    """Hard runs of a scenario that take as long as a gradient of one, each at its quickest, so that compilation does not count."""
    ratio = state.gradient_quickest / state.hard_quickest
    return ratio if np.isfinite(ratio) else 0.0


def suite_runs(state: SearchState, scenarios: int) -> int:
    """Runs of the training suite under one policy that cost as much as a search: a gradient counts as the hard runs that take as long."""
    return max(1, round((state.hard_runs + gradient_cost(state) * state.gradients) / scenarios))


def _rival(
    name: str, search: Search, state: SearchState, budget: float, kept: _Checkpoint | None, progress: Progress, told
) -> tuple[Found | None, int, list]:
    runs, count = max(1, round(budget * suite_runs(state, len(search.scenarios)))), len(search.goal.bounds)
    if kept is not None and name in kept.done:
        saved, history = kept.done[name]
        return (None if saved is None else _found(saved, count)), runs, history
    history: list = []

    def on(done: int, best: Found | None) -> None:
        progress(name, min(done, runs), runs)
        history.append([done, None if best is None else best.score.objective, None if best is None else float(max([0.0, *best.score.violations]))])

    best = RIVALS[name](search, runs, search.seed, on)
    found = best[-1] if best else None
    told(f"{name}: {'nothing' if found is None else f'objective {found.score.objective:.4g}'} with {runs} runs of the training suite")
    if kept is not None:
        saved = None if found is None else [found.score.objective, [float(x) for x in found.score.violations], [float(x) for x in found.values]]
        kept.done[name] = [saved, history]
        kept.write()
    return found, runs, history


def _found(saved: list, count: int) -> Found:
    from stresslev.tuning.goal import Score

    objective, violations, values = saved
    return Found(np.array(values), Score(float(objective), np.array(violations).reshape(count)))


def _frontier(search: Search, outcome: Outcome, told) -> list[tuple[float, Found, float]]:
    """The best policy for every bound on the first constraint, each begun where the one before ended."""
    points, values = [], outcome.tuned.values
    for factor in outcome.experiment.spec.frontier:
        first, *rest = outcome.goal.bounds
        moved = dataclasses.replace(first, bound=first.bound * factor)
        goal = dataclasses.replace(outcome.goal, bounds=(moved, *rest))
        own = Search(search.study, goal, search.policy, search.scenarios, search.spec, search.penalty, search.seed, search.file)
        state = own.start(values)
        while not own.finished(state):
            state = own.step(state)
        fine = [f for f in state.best if f.score.feasible(search.penalty.tolerance)] or state.best
        values = fine[-1].values
        points.append((factor, fine[-1], moved.bound))
        told(f"frontier: {moved.words()}: objective {fine[-1].score.objective:.4g}")
    return points


def _worst(judgement: Judgement, goal: Goal) -> str:
    """The scenario that is worst under the untuned policy, of those that nothing was chosen by if there are such."""
    group = next(g for g in ("held_out", "validation", "train") if any(v.group == g for v in judgement.verdicts))
    first = judgement.values[:, :, judgement.policies.index(UNTUNED), judgement.metrics.index(goal.metrics[0])].mean(axis=0)
    members = [judgement.scenarios.index(s) for s in judgement.groups[group]]
    return judgement.scenarios[max(members, key=lambda i: first[i])]


def _policies(search: Search, outcome: Outcome) -> Mapping[str, PolicySpec]:
    """All that are judged, the untuned one first."""
    experiment = outcome.experiment
    found = {UNTUNED: experiment.plan.policy, TUNED: outcome.policy} | experiment.others
    for name, (best, *_) in outcome.rivals.items():
        if best is not None:
            found[name] = search.policy_at(best.values)
    return found


def moved(outcome: Outcome) -> dict[str, tuple[float, float]]:
    """Parameter -> its value in the untuned and in the tuned policy."""
    parameters, untuned = outcome.experiment.parameters, outcome.experiment.plan.policy
    return {p.path: (value_at(untuned, p.path), float(v)) for p, v in zip(parameters, outcome.tuned.values, strict=True)}
