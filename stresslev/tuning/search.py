"""Following the gradient: optax on the parameters' logits, scenarios in minibatches, restarts side by side; a state that can be kept and taken up."""

import inspect
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stresslev.config.experiment import OptimizerSpec, PenaltySpec
from stresslev.config.policy import PolicySpec
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.parameters import Parameter, value_at, with_values
from stresslev.tuning.goal import Goal, Score
from stresslev.tuning.lagrangian import Lagrangian
from stresslev.tuning.study import Study

#: Steps in a row without a finite gradient that the optimiser lets pass.
_MOST_ERRORS = 5


def optimizer_of(spec: OptimizerSpec, file: str) -> optax.GradientTransformation:
    """An optax optimiser that clips gradients and passes over those that are not finite. Raises InputError for a name that optax does not have."""
    rate = spec.learning_rate
    if spec.schedule is not None:
        make = _named(spec.schedule, "optimizer.schedule", file)
        given: dict[str, float | int] = {"init_value": rate} | dict(spec.schedule_arguments)
        wanted = inspect.signature(make).parameters
        for name in ("decay_steps", "transition_steps"):
            if name in wanted and name not in given:
                given[name] = spec.steps
        rate = _call(make, given, "optimizer.schedule_arguments", file)
    made = _call(_named(spec.name, "optimizer.name", file), {"learning_rate": rate} | dict(spec.arguments), "optimizer.arguments", file)
    return optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(spec.clip), made), _MOST_ERRORS)


def _named(name: str, key: str, file: str) -> Callable:
    found = getattr(optax, name, None)
    if not callable(found) or name.startswith("_"):
        known = [n for n in dir(optax) if not n.startswith("_") and callable(getattr(optax, n))]
        raise InputError(file, Problem(key, name, "is nothing that optax has", did_you_mean(name, known)))
    return found


def _call(make: Callable, given: dict, key: str, file: str):
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        raise InputError(file, Problem(key, json.dumps({k: v for k, v in given.items() if not callable(v)}), str(error), "see optax")) from None


@dataclass(frozen=True)
class Found:
    """A policy met on the way."""

    values: np.ndarray  # (P,) of the parameters
    score: Score  # on all training scenarios


@dataclass
class SearchState:
    """Everything a search carries from step to step."""

    step: int
    free: np.ndarray  # (R, P) logits
    optimizers: list  # by restart: the optimiser's state
    lagrangians: list[Lagrangian]
    best: list[Found] = field(default_factory=list)  # those that improved on what was known, the last the best
    history: list[dict] = field(default_factory=list)
    stale: int = 0  # steps since the last improvement
    seconds: float = 0.0  # of wall time, over all sittings
    hard_runs: int = 0  # runs of one scenario under one policy
    gradients: int = 0  # of one scenario
    hard_seconds: float = 0.0
    gradient_seconds: float = 0.0
    hard_quickest: float = float("inf")  # seconds of a run, at best: without compilation
    gradient_quickest: float = float("inf")  # of a gradient


class Search:
    """Minimise a goal over a policy's parameters on some scenarios."""

    def __init__(
        self, study: Study, goal: Goal, policy: PolicySpec, scenarios: Sequence[str], spec: OptimizerSpec, penalty: PenaltySpec, seed: int, file: str
    ):
        self.study, self.goal, self.policy, self.scenarios = study, goal, policy, tuple(scenarios)
        self.spec, self.penalty, self.seed, self.file = spec, penalty, seed, file
        self.parameters: tuple[Parameter, ...] = study.parameters
        self.optimizer = optimizer_of(spec, file)
        self._move = jax.jit(self._moved)

    def _moved(self, gradient: jax.Array, state, free: jax.Array):
        """One step of the optimiser: where it leads, and its state."""
        update, state = self.optimizer.update(gradient, state, free)
        return optax.apply_updates(free, update), state

    def start(self, values: np.ndarray | None = None) -> SearchState:
        """At the policy's own values (or others), and around them."""
        own = [value_at(self.policy, p.path, self.file) for p in self.parameters] if values is None else values
        first = np.array([p.free(x) for p, x in zip(self.parameters, own, strict=True)])
        rng = np.random.default_rng(self.seed)
        others = first + self.spec.spread * rng.standard_normal((self.spec.restarts - 1, len(first)))
        free = np.concatenate([first[None], others])
        with jax.enable_x64(True):
            states = [self.optimizer.init(jnp.asarray(x)) for x in free]
        return SearchState(0, free, states, [Lagrangian.start(len(self.goal.bounds), self.penalty.start) for _ in free])

    def policy_at(self, values: np.ndarray) -> PolicySpec:
        """The policy with other values of the parameters."""
        return with_values(self.policy, {p.path: float(x) for p, x in zip(self.parameters, values, strict=True)}, self.file)

    def values_at(self, free: np.ndarray) -> np.ndarray:
        """(P,) values between their bounds."""
        return np.array([float(p.value(x)) for p, x in zip(self.parameters, free, strict=True)])

    def hard(self, several: Sequence[np.ndarray], scenarios: Sequence[str]) -> np.ndarray:
        """(R, S, K) metrics by the hard rules at some values of the parameters; not a number where a run failed."""
        found = self.study.hard({str(i): self.policy_at(v) for i, v in enumerate(several)}, scenarios)
        return np.stack([found[name].values for name in self.goal.metrics], axis=-1).transpose(1, 0, 2)

    def _batch(self, step: int) -> tuple[str, ...]:
        """Training scenarios of a step, the same in every sitting."""
        size = self.spec.minibatch
        if size is None or size >= len(self.scenarios):
            return self.scenarios
        chosen = np.random.default_rng((self.seed, step)).choice(len(self.scenarios), size, replace=False)
        return tuple(self.scenarios[i] for i in sorted(chosen))

    def step(self, state: SearchState, told: Callable[[str], None] = lambda line: None) -> SearchState:
        """One step of every restart; the state given stays as it is."""
        began = time.perf_counter()
        state = replace(state, optimizers=list(state.optimizers), lagrangians=list(state.lagrangians), best=list(state.best), free=state.free.copy())
        state.history = list(state.history)
        batch = self._batch(state.step)
        values = [self.values_at(x) for x in state.free]
        metrics = self.hard(values, batch)
        self._ran(state, metrics, time.perf_counter() - began)
        improved = False
        for r in range(len(state.free)):
            score = self.goal.score(metrics[r])
            if batch == self.scenarios:
                improved |= self._keep(state, Found(values[r], score))
            gradient, lost = self._gradient(state, values[r], metrics[r], batch, state.lagrangians[r], state.free[r])
            with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
                moved, state.optimizers[r] = self._move(jnp.asarray(gradient), state.optimizers[r], jnp.asarray(state.free[r]))
                state.free[r] = np.asarray(moved)
            state.history.append(
                {
                    "step": state.step,
                    "restart": r,
                    "objective": score.objective,
                    "violations": [float(x) for x in score.violations],
                    "merit": self.goal.merit(score, state.lagrangians[r]),
                    "multipliers": [float(x) for x in state.lagrangians[r].multipliers],
                    "penalty": state.lagrangians[r].penalty,
                    "gradient_norm": float(np.linalg.norm(gradient)),
                    "lost": lost,
                    "values": {p.path: float(x) for p, x in zip(self.parameters, values[r], strict=True)},
                }
            )
            if (state.step + 1) % self.penalty.every == 0:
                limits = self.penalty.growth, self.penalty.tolerance, self.penalty.most
                state.lagrangians[r] = state.lagrangians[r].updated(score.violations, *limits)
            worst = max([0.0, *score.violations])
            told(f"step {state.step + 1} objective {score.objective:.4g} violation {worst:.2g} gradient {np.linalg.norm(gradient):.2g}")
        if batch != self.scenarios and self._due(state.step):
            improved = self._look(state)
        state.stale = 0 if improved else state.stale + 1
        state.step += 1
        state.seconds += time.perf_counter() - began
        return state

    @staticmethod
    def _ran(state: SearchState, metrics: np.ndarray, seconds: float) -> None:
        runs = metrics.shape[0] * metrics.shape[1]
        state.hard_runs += runs
        state.hard_seconds += seconds
        state.hard_quickest = min(state.hard_quickest, seconds / runs)

    def _due(self, step: int) -> bool:
        """With minibatches: whether it is time to look at all training scenarios."""
        every = -(-len(self.scenarios) // (self.spec.minibatch or 1))
        return (step + 1) % every == 0 or step + 1 == self.spec.steps

    def _look(self, state: SearchState) -> bool:
        values = [self.values_at(x) for x in state.free]
        began = time.perf_counter()
        metrics = self.hard(values, self.scenarios)
        self._ran(state, metrics, time.perf_counter() - began)
        kept = [self._keep(state, Found(v, self.goal.score(m))) for v, m in zip(values, metrics, strict=True)]
        return any(kept)

    def _keep(self, state: SearchState, found: Found) -> bool:
        """Keep a policy that is better than the best so far: whether it is by more than the tolerance."""
        if not np.isfinite(found.score.objective):
            return False
        last = state.best[-1].score if state.best else None
        if last is not None and not self.better(found.score, last):
            return False
        state.best.append(found)
        if last is None or not last.feasible(self.penalty.tolerance):
            return True
        return found.score.objective < last.objective - self.spec.tolerance * self.goal.scale

    def better(self, one: Score, than: Score) -> bool:
        """Feasible before not, then by objective; of two that are not feasible, the one that violates less."""
        fine, other = one.feasible(self.penalty.tolerance), than.feasible(self.penalty.tolerance)
        if fine != other:
            return fine
        if not fine:
            return float(np.max(one.violations)) < float(np.max(than.violations))
        return one.objective < than.objective

    def _gradient(self, state: SearchState, values, metrics, batch, lagrangian, free) -> tuple[np.ndarray, int]:
        """(P,) of the merit with respect to the logits, and how many scenarios gave none: one that fails does not spoil the others."""
        weights, policy = self.goal.weights(metrics, lagrangian), self.policy_at(values)
        total, lost = np.zeros(len(free)), 0
        for name, mine in zip(batch, weights, strict=True):
            if not np.any(mine):
                continue
            began = time.perf_counter()
            found = self.study.gradient(policy, name, mine).slopes
            seconds = time.perf_counter() - began
            state.gradients += 1
            state.gradient_seconds += seconds
            state.gradient_quickest = min(state.gradient_quickest, seconds)
            if np.all(np.isfinite(found)):
                total += found
            else:
                lost += 1
        lost += int(np.sum(~np.isfinite(metrics[:, 0])))
        return total * np.array([float(p.slope(x)) for p, x in zip(self.parameters, free, strict=True)]), lost

    def finished(self, state: SearchState) -> str:
        """Why the search is over; empty while it is not."""
        if state.step >= self.spec.steps:
            return f"all {self.spec.steps} steps are done"
        if state.stale >= self.spec.patience:
            return f"no better policy in {state.stale} steps"
        if self.spec.minutes is not None and state.seconds > 60 * self.spec.minutes:
            return f"{self.spec.minutes:g} minutes are over"
        if any(int(o.notfinite_count) > _MOST_ERRORS for o in state.optimizers):
            return "no finite gradient"
        return ""

    def to_bytes(self, state: SearchState) -> bytes:
        """The state, to be read by `from_bytes`; numbers bit for bit."""
        arrays = {"free": state.free}
        for r, optimizer in enumerate(state.optimizers):
            arrays |= {f"optimizer {r} {i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(optimizer))}
        for r, lagrangian in enumerate(state.lagrangians):
            arrays[f"lagrangian {r}"] = np.array([lagrangian.penalty, lagrangian.violation, *lagrangian.multipliers])
        for i, found in enumerate(state.best):
            arrays[f"best {i}"] = np.array([found.score.objective, *found.score.violations, *found.values])
        numbers = [f.name for f in fields(state) if f.name not in ("free", "optimizers", "lagrangians", "best")]
        arrays["rest"] = np.frombuffer(json.dumps({n: getattr(state, n) for n in numbers}).encode(), np.uint8)
        with io.BytesIO() as buffer:
            np.savez(buffer, **arrays)
            return buffer.getvalue()

    def from_bytes(self, saved: bytes) -> SearchState:
        """Raises InputError for a checkpoint of another experiment."""
        with np.load(io.BytesIO(saved)) as found:
            arrays = dict(found)
        state = self.start()
        if arrays["free"].shape != state.free.shape:
            raise InputError(self.file, Problem("checkpoint", "", "is of other parameters", "start anew without --resume"))
        state.free = arrays["free"]
        count = len(self.goal.bounds)
        with jax.enable_x64(True):
            for r, optimizer in enumerate(state.optimizers):
                leaves, tree = jax.tree.flatten(optimizer)
                state.optimizers[r] = tree.unflatten([jnp.asarray(arrays[f"optimizer {r} {i}"]) for i in range(len(leaves))])
        for r in range(len(state.lagrangians)):
            penalty, violation, *multipliers = arrays[f"lagrangian {r}"]
            state.lagrangians[r] = Lagrangian(np.array(multipliers), float(penalty), float(violation))
        i = 0
        while f"best {i}" in arrays:
            row = arrays[f"best {i}"]
            state.best.append(Found(row[1 + count :], Score(float(row[0]), row[1 : 1 + count])))
            i += 1
        for name, value in json.loads(arrays["rest"].tobytes()).items():
            setattr(state, name, value)
        return state
