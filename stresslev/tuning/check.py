"""The estimator of derivatives against differences of the hard rules, on common random numbers: is it right here, and by how much is it off?"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stresslev.batches import Progress, silent
from stresslev.config.load import Plan
from stresslev.config.policy import PolicySpec
from stresslev.parameters import Parameter, value_at, with_values
from stresslev.tuning.study import Study

#: Share of a parameter's value by which it is moved up and down for a difference.
STEP = 0.02


@dataclass(frozen=True)
class Checked:
    """Derivatives of one objective in one scenario, by parameter, each times the parameter's value: what a change by all of itself would do."""

    scenario: str
    objective: str
    parameters: tuple[str, ...]
    value: float  # by the hard rules, mean over books
    differences: np.ndarray  # (P,) of the hard rules, mean over books
    errors: np.ndarray  # (P,) their standard errors over books; NaN with one book
    widths: tuple[float, ...]  # half widths of the band
    estimates: np.ndarray  # (W, P) mean over books
    smoothed: np.ndarray  # (W,) value of the smoothed runs

    @property
    def cosines(self) -> np.ndarray:
        """(W,) cosine of the angle between estimate and differences; NaN where either is nothing."""
        norms = np.linalg.norm(self.estimates, axis=1) * np.linalg.norm(self.differences)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.estimates @ self.differences / np.where(norms > 0, norms, np.nan)

    @property
    def relative(self) -> np.ndarray:
        """(W,) length of estimate less differences, over that of the differences; NaN where those are nothing."""
        size = np.linalg.norm(self.differences)
        return np.linalg.norm(self.estimates - self.differences, axis=1) / (size if size > 0 else np.nan)

    @property
    def noise(self) -> float:
        """Length of the differences' standard errors over that of the differences: no estimate can be seen to be better than that."""
        size = np.linalg.norm(self.differences)
        return float(np.linalg.norm(self.errors) / size) if size > 0 else float("nan")


def numbers_of(policy: PolicySpec, paths: Sequence[str], file: str, step: float = STEP) -> tuple[Parameter, ...]:
    """Parameters at some paths with bounds around what the policy says: as far as a difference goes, and as far again. Raises InputError."""
    found = []
    for path in paths:
        value = value_at(policy, path, file)
        by = 2 * step * abs(value) or step
        found.append(Parameter(path, value - by, value + by))
    return tuple(found)


def check_gradients(
    plan: Plan,
    paths: Sequence[str],
    objectives: Sequence[str],
    *,
    step: float = STEP,
    books: int = 3,
    widths: Sequence[float | None] = (None,),
    stepping: str = "auto",
    file: str = "gradcheck",
    progress: Progress = silent,
) -> list[Checked]:
    """Estimate against differences, for every scenario and objective.

    Differences are central, `(f(x + h) - f(x - h)) / 2h` with `h = step x`, of the hard rules on the same book and path; every book is drawn anew
    (a book from a file is one), which gives the differences their standard errors.

    Args:
      paths: parameters of the plan's policy. objectives: names in `objectives.OBJECTIVES`.
      widths: half widths of the band to try; None is the one that the book suggests.

    Raises:
      InputError: unknown parameters or objectives, and what `run_plan` refuses.
    """
    numbers = numbers_of(plan.policy, paths, file, step)
    here = np.array([value_at(plan.policy, p, file) for p in paths])
    by = np.where(here != 0, np.abs(here), 1) * step
    books = 1 if plan.system.book.file is not None else books
    policies = {"as it is": plan.policy}
    for path, x, h in zip(paths, here, by, strict=True):
        policies |= {f"{path} {sign:+d}": with_values(plan.policy, {path: x + sign * h}, file) for sign in (1, -1)}
    scale = np.where(here != 0, here, 1)
    hard, slopes, smooth, used = [], [], [], []
    total = books * len(plan.scenarios) * (len(policies) + len(widths) * len(objectives))
    done = 0
    for number in range(books):
        own = dataclasses.replace(plan, run=plan.run.model_copy(update={"seed": plan.run.seed + number}))
        studies = [Study(own, numbers, objectives, width=w, stepping=stepping, file=file) for w in widths]
        used.append([s.width for s in studies])

        def told(stage, at, of, done=done):
            if stage == "runs":
                progress("hard runs and gradients", done + at, total)

        found = studies[0].hard(policies, progress=told)
        done += len(plan.scenarios) * len(policies)
        hard.append(np.stack([found[name].values for name in objectives], axis=-1))  # (S, policies, K)
        of_book, values = [], []
        for study in studies:
            rows, row_values = [], []
            for scenario in study.scenarios:
                each = []
                for k in range(len(objectives)):
                    each.append(study.gradient(plan.policy, scenario, np.eye(len(objectives))[k]))
                    done += 1
                    progress("hard runs and gradients", done, total)
                rows.append([g.slopes for g in each])
                row_values.append(each[0].values)
            of_book.append(rows)
            values.append(row_values)
        slopes.append(of_book)
        smooth.append(values)
    runs, slopes, smooth = np.stack(hard), np.array(slopes), np.array(smooth)  # (B, S, 1 + 2P, K), (B, W, S, K, P), (B, W, S, K)
    differences = (runs[:, :, 1::2] - runs[:, :, 2::2]) / (2 * by)[:, None] * scale[:, None]  # (B, S, P, K)
    checked = []
    for s, scenario in enumerate(x.name for x in plan.scenarios):
        for k, objective in enumerate(objectives):
            mine = differences[:, s, :, k]
            error = mine.std(axis=0, ddof=1) / np.sqrt(books) if books > 1 else np.full(len(paths), np.nan)
            checked.append(
                Checked(
                    scenario=scenario,
                    objective=objective,
                    parameters=tuple(paths),
                    value=float(runs[:, s, 0, k].mean()),
                    differences=mine.mean(axis=0),
                    errors=error,
                    widths=tuple(float(x) for x in np.mean(used, axis=0)),
                    estimates=slopes[:, :, s, k].mean(axis=0) * scale,
                    smoothed=smooth[:, :, s, k].mean(axis=0),
                )
            )
    return checked


def as_data(checked: Sequence[Checked]) -> list[dict]:
    """For a JSON file."""
    return [
        {
            "scenario": c.scenario,
            "objective": c.objective,
            "value": c.value,
            "parameters": {
                p: {"difference": float(d), "standard_error": None if np.isnan(e) else float(e), "estimates": [float(x) for x in g]}
                for p, d, e, g in zip(c.parameters, c.differences, c.errors, c.estimates.T, strict=True)
            },
            "band": [
                {"half_width": w, "cosine": _number(cos), "relative_error": _number(rel), "smoothed_value": float(v)}
                for w, cos, rel, v in zip(c.widths, c.cosines, c.relative, c.smoothed, strict=True)
            ],
        }
        for c in checked
    ]


def _number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
