"""The nearest point of a set that is known by asking: directions by gradients, distances by the hard rules.

What is sought is the design point of the first-order reliability method. Hasofer and Lind (1974) and Rackwitz and Fiessler (1978) go from a point of
the boundary to the point of its tangent plane that is nearest to the origin, which lies in the direction of the gradient. Here a step only turns the
direction that way; how far it is to the boundary in a direction is found on the hard rules, and a turn that does not come nearer is made smaller
(as in Liu and Der Kiureghian 1991) and then not at all. Every point is on the boundary of the hard rules, so that no error of a gradient reaches the
result: a wrong gradient costs runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Points of the first look along a direction.
LOOKS = 8
#: Relative distance between the nearest point seen to break and the farthest seen not to.
TOLERANCE = 0.002
#: Parts of the way to the gradient's direction that are tried, and most turns of one start.
_TURNS, _MOST = (1.0, 0.5, 0.25, 0.1), 12
#: Share of the distance by which the far end of a bisection is first looked for.
_STRIDE = 0.02
#: Cosine of the angle to the gradient's direction above which a turn is not worth its runs.
_ALIGNED = 0.999
#: Angles, in radians, by which directions are tried around what was found, where there is a gradient and where there is none.
_PROBES, _BLIND = (0.2, 0.1, 0.05), (0.8, 0.4, 0.2, 0.1, 0.05)

#: Starts that are tried further: those within this factor of the nearest, this far apart in radians, and so many at most.
_RIVAL, _APART, _RIVALS = 1.15, 0.15, 3


class Asked(Protocol):
    """What the search asks."""

    def hard(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C) metrics at points (K,)."""

    def excess(self, metrics: np.ndarray) -> np.ndarray:
        """(N, C), above 0 where there is a break."""

    def gradient(self, u: np.ndarray, condition: int) -> np.ndarray | None:
        """(K,) slope of the excess; None where there is none."""


@dataclass(frozen=True)
class Start:
    """A direction to begin with."""

    name: str
    direction: np.ndarray  # (K,)


@dataclass
class Found:
    """Where the search from one start came to: `distance` in `direction` breaks, `within` does not; infinite where nothing was found."""

    name: str
    direction: np.ndarray
    distance: float = np.inf
    within: float = 0.0
    turns: int = 0
    alignment: float = np.nan  # cosine of the angle between direction and gradient, as last measured

    @property
    def point(self) -> np.ndarray:
        """(K,) nearest point that breaks in its direction."""
        return self.distance * self.direction


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


class Search:
    """Least distance at which an `Asked` breaks, within a radius."""

    def __init__(self, asked: Asked, radius: float, told: Callable[[str], None] = lambda line: None):
        self.asked, self.radius, self.told = asked, radius, told

    def excess(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """(N,) by how much points break by the hard rules, at the condition that is exceeded most; not above 0 where they do not."""
        return self.asked.excess(self.asked.hard(points)).max(axis=1) if len(points) else np.zeros(0)

    def breaks(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """(N,) whether points break by the hard rules."""
        return self.excess(points) > 0

    def look(self, found: Sequence[Found]) -> None:
        """First look along the directions of some starts, all at once: the nearest of a few points that breaks, and the one before it."""
        levels = self.radius * np.arange(1, LOOKS + 1) / LOOKS
        seen = self.breaks([t * f.direction for f in found for t in levels]).reshape(len(found), LOOKS)
        for f, row in zip(found, seen, strict=True):
            if row.any():
                first = int(row.argmax())
                f.distance, f.within = float(levels[first]), float(levels[first - 1]) if first else 0.0
        self.narrow(found)

    def narrow(self, found: Sequence[Found], tolerance: float = TOLERANCE) -> None:
        """Bisect between what breaks and what does not, all directions at once."""
        while True:
            wide = [f for f in found if np.isfinite(f.distance) and f.within < (1 - tolerance) * f.distance and f.distance > 1e-6]
            if not wide:
                return
            middles = [(f.distance + f.within) / 2 for f in wide]
            for f, t, broken in zip(wide, middles, self.breaks([t * f.direction for f, t in zip(wide, middles, strict=True)]), strict=True):
                f.distance, f.within = (t, f.within) if broken else (f.distance, t)

    def _nearer(self, f: Found, directions: Sequence[np.ndarray]) -> bool:
        """Of directions in which it breaks nearer by more than the tolerance take that of most excess, and find how near; whether there is one."""
        at = (1 - 2 * TOLERANCE) * f.distance
        seen = self.excess([at * d for d in directions])
        if not (seen > 0).any():
            return False
        f.direction, f.distance, f.within = directions[int(seen.argmax())], at, 0.0
        step = _STRIDE  # most turns gain little: what does not break is looked for close by first
        while step < 1 and f.within == 0:
            t = (1 - step) * f.distance
            f.distance, f.within = (t, 0.0) if self.breaks([t * f.direction])[0] else (f.distance, t)
            step *= 3
        self.narrow([f])
        return True

    def slope(self, f: Found) -> np.ndarray | None:
        """(K,) unit gradient, at the boundary, of the condition that breaks there; None where it has none, or nothing can be made of it."""
        excess = self.asked.excess(self.asked.hard([f.point]))[0]
        slope = self.asked.gradient(f.point, int(excess.argmax()))
        if slope is None or not np.isfinite(slope).all() or not np.linalg.norm(slope) > 0:
            return None
        f.alignment = float(f.direction @ _unit(slope))
        return _unit(slope)

    def turn(self, f: Found) -> None:
        """Turn a start towards the gradient as long as that comes nearer."""
        for _ in range(_MOST):
            slope = self.slope(f)
            if slope is None or f.alignment > _ALIGNED:
                return
            mixed = [(1 - part) * f.direction + part * slope for part in _TURNS]
            if not self._nearer(f, [_unit(d) for d in mixed if np.linalg.norm(d) > 1e-9]):
                return
            f.turns += 1

    def probe(self, f: Found, angles: Sequence[float] = _PROBES) -> None:
        """Try directions around what was found, by the hard rules alone, at smaller and smaller angles."""
        if len(f.direction) == 1:
            return
        for angle in angles:
            for _ in range(_MOST):
                basis = np.linalg.svd(f.direction[None])[2][1:]  # of the plane that touches the sphere
                tried = [_unit(np.cos(angle) * f.direction + sign * np.sin(angle) * b) for b in basis for sign in (1, -1)]
                if not self._nearer(f, tried):
                    break

    def confirm(self, f: Found, points: int = 16, slack: float = 0.01) -> None:
        """Nothing on the way to what was found may break; where something does, it is what was found. `slack` nearer must not break either."""
        while True:
            levels = np.append(np.arange(1, points) / points, 1 - slack) * f.distance
            seen = self.breaks([t * f.direction for t in levels])
            if not seen.any():
                return
            first = int(seen.argmax())
            f.distance, f.within = float(levels[first]), float(levels[first - 1]) if first else 0.0
            self.narrow([f])

    def _close(self, found: Sequence[Found]) -> list[Found]:
        """The nearest, and others that come about as near in other directions; `found` in order of distance."""
        chosen: list[Found] = []
        for f in found:
            if not f.distance <= _RIVAL * found[0].distance or not np.isfinite(f.distance) or len(chosen) == _RIVALS:
                break
            if all(f.direction @ g.direction < np.cos(_APART) for g in chosen):
                chosen.append(f)
        return chosen

    def run(self, starts: Sequence[Start]) -> list[Found]:
        """Where every start came to, the nearest first; that one confirmed. Nothing found: distances are infinite."""
        found = [Found(s.name, _unit(s.direction)) for s in starts]
        self.look(found)
        for f in found:
            if not np.isfinite(f.distance):
                self.told(f"from {f.name}: nothing breaks within {self.radius:g}")
                continue
            first = f.distance
            self.turn(f)
            if np.isnan(f.alignment):
                self.probe(f, _BLIND)
            self.told(f"from {f.name}: {first:.3f}, then {f.distance:.3f} after {f.turns} turns")
        found.sort(key=lambda f: f.distance)
        for f in self._close(found):
            self.probe(f)
        found.sort(key=lambda f: f.distance)
        best = found[0]
        if np.isfinite(best.distance):
            if not np.isnan(best.alignment):
                self.slope(best)
            self.confirm(best)
            self.told(f"nearest: {best.distance:.3f}, from {best.name}")
        return found


def starts(assets: Sequence[str], matrix: np.ndarray, factors: int, extra: int, seed: int) -> list[Start]:
    """Directions to begin with: all assets down and up as they do together, each asset alone with what the others then do, and some at random.

    Args: `matrix` (F, F), correlation of the assets' returns, whose Cholesky factor makes returns of the first F of `factors` coordinates.
    """
    root, n = np.linalg.cholesky(matrix), len(assets)

    def together(weights: np.ndarray) -> np.ndarray:
        return np.append(root.T @ weights, np.zeros(factors - n))

    found = [Start("all down", -together(np.ones(n))), Start("all up", together(np.ones(n)))]
    if n > 1:
        found += [
            Start(f"{a} {word}", sign * together(e)) for word, sign in (("down", -1), ("up", 1)) for a, e in zip(assets, np.eye(n), strict=True)
        ]
    rng = np.random.default_rng(seed)
    return found + [Start(f"random {i + 1}", rng.standard_normal(factors)) for i in range(extra)]
