"""The system as a function of factors: metrics by the hard rules, and the direction in which a smoothed run says that one of them grows."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from stresslev import assemble, many, opening, preparation, provenance
from stresslev.batches import Progress, silent
from stresslev.config.load import Plan
from stresslev.engine import status
from stresslev.engine.types import cast
from stresslev.errors import InputError, Problem
from stresslev.results import json_text
from stresslev.reverse.conditions import Condition
from stresslev.reverse.paths import Shape
from stresslev.tuning.bandwidth import band
from stresslev.tuning.study import smoothed
from stresslev.write import atomically

#: Runs given to the engine at once, so that progress shows; and seconds between checkpoints.
_AT_ONCE, _KEEP = 32, 20.0


class System:
    """What a plan's system does under a shock. Every run is remembered, and with a checkpoint also kept in a file."""

    def __init__(
        self,
        plan: Plan,
        shape: Shape,
        conditions: Sequence[Condition],
        *,
        width: float | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
        progress: Progress = silent,
    ):
        """Args: `plan`, whose first scenario is the one that is scaled; `width`, half width of the smoothed band, from the book when None.

        Raises:
          InputError: a book that cannot be used, or no checkpoint of the same problem where one is to be taken up.
        """
        self.plan = replace(plan, scenarios=(shape.scenario(np.zeros(len(shape.factors.names))),), generators=())
        self.shape, self.factors, self.conditions = shape, shape.factors, tuple(conditions)
        self.book = opening.load_book(plan, shape.flat)
        self.width = band(self.book.gross_notional) if width is None else width
        self.progress, self.expected = progress, 0
        self.checkpoint, self._kept = checkpoint, time.monotonic()
        self._metrics: dict[str, list[float]] = {}
        self._slopes: dict[str, list[float]] = {}
        self._ready: preparation.Prepared | None = None
        self.failed = 0
        if resume:
            self._take_up()

    @property
    def hard_runs(self) -> int:
        """Runs by the hard rules so far, those of an earlier sitting included."""
        return len(self._metrics)

    @property
    def gradients(self) -> int:
        """Gradients taken so far."""
        return len(self._slopes)

    def hard(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C) the conditions' metrics by the hard rules at coordinates (K,); not a number where a run failed."""
        keys = [_key(u) for u in points]
        new = dict.fromkeys(k for k in keys if k not in self._metrics)
        wanted = {k: u for k, u in zip(keys, points, strict=True) if k in new}
        names = [c.metric for c in self.conditions]
        listed = list(wanted)
        for start in range(0, len(listed), _AT_ONCE):
            part = listed[start : start + _AT_ONCE]
            shocks = {str(i): self.shape.shock(self.factors.shock(wanted[k])) for i, k in enumerate(part)}
            found = many.simulate_many(self.plan, shocks=shocks, measures=names, book=self.book)
            rows = np.stack([found[n].values[:, 0] for n in names], axis=1)
            self.failed += sum(status.failed(int(s)) for s in found.status.values[:, 0])
            self._metrics |= {k: [float(v) for v in row] for k, row in zip(part, rows, strict=True)}
            self.progress("hard runs", self.hard_runs, max(self.expected, self.hard_runs + 1))
            self.keep(now=False)
        return np.array([self._metrics[k] for k in keys])

    def gradient(self, u: np.ndarray, condition: int) -> np.ndarray | None:
        """(K,) slope of a condition's excess at coordinates, by smoothed thresholds; None where its metric has no derivative."""
        chosen = self.conditions[condition]
        if not chosen.differentiable:
            return None
        key = f"{condition} {_key(u)}"
        if key not in self._slopes:
            self._slopes[key] = [float(g) for g in self._slope(u, chosen)]
            self.keep(now=False)
        return np.array(self._slopes[key])

    def _slope(self, u: np.ndarray, condition: Condition) -> np.ndarray:
        x, scenario = self.factors.shock(u), self.plan.scenarios[0]
        shock = self.shape.shock(x)
        with jax.enable_x64(self.plan.run.precision == 64):
            if self._ready is None:
                self._ready = preparation.prepare(self.plan, scenario, shock, opening.at_start(self.plan, self.book, shock))
            path = cast(assemble.path_arrays(shock), self._ready.dtype)
            how = {"width": self.width, "stepping": self.plan.run.stepping, "path": path}
            _, found = smoothed(self.plan, scenario, shock, self._ready, (condition.metric,), np.ones(1), **how)
            of_price, of_depth = (np.asarray(g, np.float64) for g in (found.path.log_price, found.path.depth_factor))
        slope = self.shape.gradient(x, of_price, of_depth) @ self.factors.slopes(u)
        return slope if condition.above else -slope

    def excess(self, metrics: np.ndarray) -> np.ndarray:
        """(N, C) how far each condition is exceeded, in its own size; above 0 it holds. Minus infinity where a run failed."""
        columns = [c.excess(metrics[:, i]) for i, c in enumerate(self.conditions)]
        return np.nan_to_num(np.stack(columns, axis=1), nan=-np.inf)

    def fingerprint(self) -> str:
        """Digest of everything that the runs depend on."""
        about = provenance.configuration(self.plan) | {"files": "", "conditions": [str(c) for c in self.conditions], "width": self.width}
        about |= {"factors": self.factors.spec.model_dump(mode="json"), "inputs": list(provenance.input_files(self.plan).values())}
        return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()

    def keep(self, now: bool = True) -> None:
        """Write the checkpoint, if there is to be one; without `now` only from time to time."""
        if self.checkpoint is None or (not now and time.monotonic() - self._kept < _KEEP):
            return
        text = json_text({"fingerprint": self.fingerprint(), "metrics": self._metrics, "slopes": self._slopes})
        with atomically(self.checkpoint) as temporary:
            temporary.write_text(text, encoding="utf-8")
        self._kept = time.monotonic()

    def _take_up(self) -> None:
        file = self.checkpoint
        if file is None or not file.is_file():
            raise InputError(file, Problem("--resume", "", "there is no checkpoint", "start without --resume"))
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            metrics, slopes, fingerprint = kept["metrics"], kept["slopes"], kept["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(file, Problem("--resume", "", f"is no checkpoint ({error})", "start without --resume")) from None
        if fingerprint != self.fingerprint():
            what = "is of another problem: a file or an option has changed since"
            raise InputError(file, Problem("--resume", "", what, "put them back, or start without --resume"))
        self._metrics = {k: [np.nan if v is None else v for v in row] for k, row in metrics.items()}
        self._slopes = slopes


def _key(u: np.ndarray) -> str:
    """Coordinates as a word that tells them exactly."""
    return np.ascontiguousarray(u, np.float64).tobytes().hex()
