"""The leverage cycle: where a leverage-targeting fund and the market it moves are calm, oscillate or crash, by Jacobian and by simulation.

    python experiments/leverage_cycle.py [--quick]

Writes docs/policies/leverage_cycle.svg and experiments/results/leverage_cycle.json (--quick: coarser grids, and to a temporary folder).

One fund trades one asset with the engine's own traders (`traders.observe`, `orders`, `settle`) and impact; the impact is transient, so that the price
comes back to its fundamental. Owners pay in and take out a share of the difference to the equity they want per step (as in Aymanns and Farmer 2015);
without that, equity has no fixed point. Equity wanted, reference price and fundamental are 1.
"""

import argparse
import itertools
import json
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from stresslev.engine import impact, traders
from stresslev.engine.margin import displacement
from stresslev.engine.traders import KINDS, LEVERAGE_TARGET, TraderRules, TraderState
from stresslev.report.markup import Html, join, tag

ROOT = Path(__file__).resolve().parent.parent
CALM, OSCILLATION, CRASH = "calm", "oscillation", "crash"
REGIMES = (CALM, OSCILLATION, CRASH)

STEPS = 2000
SHOCK = 1e-3  # log price, at the start of a simulation without noise
STILL = 1e-5  # largest log price in the last tenth of a simulation that counts as calm
FALL = 0.2  # fall of the price that counts as a crash, as does the fund's default
#: Distance to the boundary, as a share of leverage there, within which Jacobian and simulation are not compared: nothing has settled after `STEPS`.
MARGIN = 0.03


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cycle:
    """Parameters of the map, each () and traced."""

    leverage: Array | float = 5.0  # target at the reference volatility
    impact: Array | float = 0.05  # log price move when the fund trades once its equity
    exponent: Array | float = 1.0  # gamma
    half_life: Array | float = 14.0  # steps, memory of the volatility estimate
    quiet: Array | float = 1.0  # volatility of the market without the fund, over the reference volatility
    speed: Array | float = 0.5  # share of the gap to the target traded per step
    recovery: Array | float = 0.9  # share of the impact that is left after a step
    payout: Array | float = 0.02  # share of the difference to the equity wanted that owners move per step
    maintenance: Array | float = 0.05  # equity over position at which the fund is closed out
    volatility: Array | float = 0.01  # reference volatility, per step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class World:
    """What a step carries."""

    fund: TraderState
    transient: Array  # () log price: the fundamental is 1
    opening: Array  # () log price at the last opening


def rules(c: Cycle, noisy: bool) -> TraderRules:
    """The fund alone. Without noise in the map, the volatility that the noise would make is added to the fund's estimate."""
    one = jnp.ones((1, 1))
    kinds = jnp.ones((len(KINDS), 1, 1))
    reference = jnp.reshape(jnp.asarray(c.volatility) ** 2, (1,))
    none = jnp.zeros(1)
    return TraderRules(
        capital=(0 * kinds).at[LEVERAGE_TARGET].set(1.0),
        speed=c.speed * kinds,
        scale=kinds,
        trend_decay=none,
        mean_decay=none,
        variance_decay=jnp.reshape(2.0 ** (-1.0 / jnp.asarray(c.half_life)), (1,)),
        reference_variance=reference,
        quiet_variance=none if noisy else c.quiet**2 * reference,
        base_leverage=c.leverage * one,
        exponent=c.exponent * one,
        maintenance=c.maintenance * one,
    )


def step(c: Cycle, noisy: bool, world: World, shock: Array) -> tuple[World, Array]:
    """One step; returns the log price at its opening."""
    r = rules(c, noisy)
    x = jnp.reshape(c.recovery * world.transient + shock, (1,))
    price, displaced, none = jnp.exp(x)[None, :], displacement(x, jnp.ones(1))[None, :], jnp.zeros((1, 1))
    fund = traders.observe(r, world.fund, x - world.opening, x)
    alive = jnp.where(fund.closed, 0.0, 1.0)
    equity = traders.equity(fund, displaced=displaced, common_displaced=displaced[0], funding_index=none)[LEVERAGE_TARGET]
    fund = replace(fund, cash=fund.cash.at[LEVERAGE_TARGET].add(alive * c.payout * (1 - equity)))
    at = {"price": price, "displaced": displaced, "funding_index": none}
    default = traders.defaulting(r, fund, **at)
    coins = traders.orders(r, fund, **at, funding_rate=none, cap=jnp.full((1, 1), jnp.inf))
    usd = jnp.sum(coins) * price[0]
    depth = jnp.reshape(impact.REFERENCE_MOVE / jnp.asarray(c.impact), (1,))
    after = x + impact.power_move(jnp.zeros(1), usd, depth, jnp.ones(1))
    fill = (displaced + displacement(after, jnp.ones(1))[None, :]) / 2
    fund, _ = traders.settle(r, fund, coins, default=default, fill_displaced=fill, common_fill_displaced=fill[0], funding_index=none)
    return World(fund=fund, transient=after[0], opening=x[0]), x[0]


def fixed_point(c: Cycle) -> World:
    """The fund at its target, the price at its fundamental, nothing observed but the quiet market."""
    r = rules(c, noisy=False)
    still = jnp.zeros(1)
    target = traders.target_leverage(r, still, jnp.full((1, 1), jnp.inf))
    start = traders.initial(r, reference_price=jnp.ones(1), cap=jnp.full((1, 1), jnp.inf))
    fund = replace(start, quantity=start.quantity.at[LEVERAGE_TARGET].set(target), variance=still)
    return World(fund=fund, transient=jnp.zeros(()), opening=jnp.zeros(()))


def _pack(world: World) -> Array:
    fund = world.fund
    held, cash = fund.quantity[LEVERAGE_TARGET, 0, 0], fund.cash[LEVERAGE_TARGET, 0, 0]
    return jnp.stack([held, cash, world.transient, world.opening, fund.variance[0]])


def _unpack(c: Cycle, v: Array) -> World:
    there = fixed_point(c)
    fund = replace(
        there.fund,
        quantity=there.fund.quantity.at[LEVERAGE_TARGET, 0, 0].set(v[0]),
        cash=there.fund.cash.at[LEVERAGE_TARGET, 0, 0].set(v[1]),
        variance=v[4][None],
    )
    return World(fund=fund, transient=v[2], opening=v[3])


def jacobian(c: Cycle) -> Array:
    """(5, 5) derivative of the noise-free map at its fixed point: position, cash, transient impact, last opening, variance."""
    return jax.jacfwd(lambda v: _pack(step(c, False, _unpack(c, v), jnp.zeros(()))[0]))(_pack(fixed_point(c)))


def grid(**values) -> Cycle:
    """Parameters broadcast against each other and flattened; those not named keep their defaults."""
    shape = np.broadcast_shapes(*(np.shape(v) for v in values.values()))
    fields = {name: values.get(name, getattr(Cycle, name)) for name in Cycle.__dataclass_fields__}
    return Cycle(**{name: jnp.asarray(np.broadcast_to(np.asarray(v, float), shape).ravel()) for name, v in fields.items()})


_jacobians = jax.jit(jax.vmap(jacobian))


def spectral_radius(many: Cycle) -> np.ndarray:
    """Largest modulus of the Jacobian's eigenvalues, one for each of `many`; infinite where the fund is in default at its target: no fixed point."""
    radius = np.max(np.abs(np.linalg.eigvals(np.asarray(_jacobians(many)))), axis=-1)
    quiet_leverage = np.asarray(many.leverage) / _lean(many)
    return np.where(quiet_leverage * np.asarray(many.maintenance) < 1, radius, np.inf)


def _lean(many: Cycle) -> np.ndarray:
    """Target leverage at the reference volatility over that in the quiet market."""
    return np.asarray(many.quiet) ** np.asarray(many.exponent)


def boundary(many: Cycle) -> np.ndarray:
    """Target leverage at which the spectral radius passes 1, everything else as in `many`: by bisection from a quiet-market leverage of 1."""
    below, above = np.log(_lean(many)), np.log(_lean(many) / np.asarray(many.maintenance))
    for _ in range(45):
        middle = (below + above) / 2
        stable = spectral_radius(replace(many, leverage=jnp.asarray(np.exp(middle)))) < 1
        below, above = np.where(stable, middle, below), np.where(stable, above, middle)
    return np.exp((below + above) / 2)


def closed_form_boundary(c: Cycle) -> float:
    """The boundary without payouts: `k L (L - 1) = (1 / recovery - 1 + speed) / speed`.

    Linearised, c = L (L - 1) coins are wanted per unit of log price: position' = (1 - s) position + s c rho h, h' = rho h + k (position' - position).
    The determinant rho (1 - s + k s c) of these two is 1 there, with complex eigenvalues. L is the leverage in the quiet market.
    """
    product = (1 / c.recovery - 1 + c.speed) / (c.speed * c.impact)
    return (0.5 + math.sqrt(0.25 + product)) * c.quiet**c.exponent


@jax.jit
def _outcomes(many: Cycle) -> tuple[Array, Array, Array]:
    def one(c):
        shocks = jnp.zeros(STEPS).at[0].set(SHOCK)
        world, path = lax.scan(lambda w, e: step(c, False, w, e), fixed_point(c), shocks)
        return world.fund.closed[0, 0], jnp.min(path), jnp.max(jnp.abs(path[-STEPS // 10 :]))

    return jax.vmap(one)(many)


def classify(many: Cycle) -> np.ndarray:
    """Index into `REGIMES` of each simulation without noise, after a shock of `SHOCK` to the price."""
    closed, lowest, late = (np.asarray(x) for x in _outcomes(many))
    crash = closed | (np.expm1(lowest) < -FALL)
    return np.where(crash, 2, np.where(late < STILL, 0, 1))


def agreement(many: Cycle, regime: np.ndarray) -> dict:
    """How often the simulation stays calm exactly where the spectral radius is below 1, at a distance from the boundary."""
    far = np.abs(np.asarray(many.leverage) / boundary(many) - 1) > MARGIN
    same = (regime == 0) == (spectral_radius(many) < 1)
    return {"cells": int(far.size), "compared": int(far.sum()), "agree": int((far & same).sum())}


@jax.jit
def _returns(c: Cycle, noise: Array) -> tuple[Array, Array]:
    """Returns (paths, T), and whether the fund was there when each was made."""

    def one(shocks):
        def body(world, e):
            after, x = step(c, True, world, e)
            return after, (x - world.opening, ~world.fund.closed[0, 0])

        start = fixed_point(c)
        fund = replace(start.fund, variance=jnp.reshape(jnp.asarray(c.volatility) ** 2, (1,)))
        return lax.scan(body, replace(start, fund=fund), shocks)[1]

    return jax.vmap(one)(noise)


def tails(c: Cycle, *, paths: int, steps: int, seed: int = 0) -> tuple[float, float]:
    """Kurtosis of returns with Gaussian noise on the price, up to the fund's default (3 for Gaussian returns), and the share of paths with one."""
    noise = c.quiet * c.volatility * np.random.default_rng(seed).standard_normal((paths, steps))
    returns, there = (np.asarray(x) for x in _returns(jax.tree.map(jnp.asarray, c), jnp.asarray(noise)))
    found = returns[there]
    found = found - found.mean()
    return float(np.mean(found**4) / np.mean(found**2) ** 2), float(np.mean(~there[:, -1]))


# the picture

_COLOURS = {CALM: "#a3d3c3", OSCILLATION: "#e0a030", CRASH: "#a33b00"}
_PANEL_W, _PANEL_H, _LEFT, _TOP, _GAP_X, _GAP_Y = 330.0, 230.0, 74.0, 96.0, 100.0, 104.0


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis over pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    title: str
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end."""
        f = math.log if self.log else float
        return (f(value) - f(self.low)) / (f(self.high) - f(self.low))

    def centres(self, n: int) -> np.ndarray:
        """Middles of n equal cells."""
        shares = (np.arange(n) + 0.5) / n
        return self.low * (self.high / self.low) ** shares if self.log else self.low + (self.high - self.low) * shares


def _frame(left: float, top: float, title: str, x: Axis, y: Axis) -> Html:
    """Frame, ticks and titles of a panel."""
    bottom, parts = top + _PANEL_H, []
    for v in x.ticks:
        at = left + _PANEL_W * x.share(v)
        parts.append(tag("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=bottom, y2=bottom + 5, stroke="#222"))
        parts.append(tag("text", f"{v:g}", x=f"{at:.1f}", y=bottom + 19, text_anchor="middle"))
    for v in y.ticks:
        at = bottom - _PANEL_H * y.share(v)
        parts.append(tag("line", x1=left - 5, x2=left, y1=f"{at:.1f}", y2=f"{at:.1f}", stroke="#222"))
        parts.append(tag("text", f"{v:g}", x=left - 9, y=f"{at + 4:.1f}", text_anchor="end"))
    middle = (left + _PANEL_W / 2, top + _PANEL_H / 2)
    turned = f"rotate(-90 {left - 48} {middle[1]})"
    return join(
        tag("rect", x=left, y=top, width=_PANEL_W, height=_PANEL_H, fill="none", stroke="#222"),
        parts,
        tag("text", title, x=left, y=top - 12, class_="title"),
        tag("text", x.title, x=middle[0], y=bottom + 38, text_anchor="middle"),
        tag("text", y.title, x=left - 48, y=middle[1], text_anchor="middle", transform=turned),
    )


def _line(left: float, top: float, x: Axis, y: Axis, points, colour: str, dash: str | None = None) -> Html:
    """A polyline, as far as it lies inside the panel."""
    text = " ".join(f"{left + _PANEL_W * x.share(a):.1f},{top + _PANEL_H * (1 - y.share(b)):.1f}" for a, b in points)
    drawn = tag("polyline", points=text, fill="none", stroke=colour, stroke_width=2.2, stroke_dasharray=dash)
    # an inner drawing cuts off what lies outside of it
    place = {"x": left, "y": top, "width": _PANEL_W, "height": _PANEL_H, "viewBox": f"{left} {top} {_PANEL_W} {_PANEL_H}"}
    return tag("svg", drawn, **place)


def _cells(left: float, top: float, regime: np.ndarray) -> list[Html]:
    """Rectangles, one for each run of cells of one regime in a row (rows from the bottom)."""
    rows, columns = regime.shape
    high, wide = _PANEL_H / rows, _PANEL_W / columns
    found = []
    for i, row in enumerate(regime):
        starts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), columns]
        for a, b in itertools.pairwise(starts):
            place = {"x": f"{left + a * wide:.2f}", "y": f"{top + _PANEL_H - (i + 1) * high:.2f}"}
            size = {"width": f"{(b - a) * wide + 0.3:.2f}", "height": f"{high + 0.3:.2f}"}
            found.append(tag("rect", **place, **size, fill=_COLOURS[REGIMES[row[a]]], shape_rendering="crispEdges"))
    return found


@dataclass(frozen=True)
class Panel:
    """A plane of target leverage (across) and one other parameter (up)."""

    title: str
    name: str  # field of Cycle
    y: Axis
    fixed: dict


LEVERAGE = Axis(1, 15, (1, 3, 5, 7, 9, 11, 13, 15), "target leverage at the reference volatility")
PANELS = (
    Panel("Fund size over market depth", "impact", Axis(0.005, 0.5, (0.005, 0.02, 0.05, 0.2, 0.5), "impact of trading once the equity", True), {}),
    Panel("Memory of the volatility estimate", "half_life", Axis(1, 300, (1, 3, 10, 30, 100, 300), "half-life, steps", True), {}),
    Panel(
        "Procyclicality, in a market half as volatile",
        "exponent",
        Axis(-1, 2, (-1, -0.5, 0, 0.5, 1, 1.5, 2), "exponent gamma"),
        {"quiet": 0.5},
    ),
)
#: Lines of the fourth panel: name, exponent, colour, dash.
LINES = (("gamma = 0: constant", 0.0, "#0072B2", "6 4"), ("gamma = 1: value at risk", 1.0, "#8a5a83", None))
#: Highest leverage of the fourth panel: beyond it every path ends in default, and there is nothing to compare.
MOST_NOISY = 7.0


def picture(planes: list[dict], lines: list[dict]) -> str:
    """The SVG: three planes with their regimes and boundaries, and the kurtosis by leverage."""
    width, height = _LEFT + 2 * _PANEL_W + _GAP_X + 24, _TOP + 2 * _PANEL_H + _GAP_Y + 56
    body = []
    places = [(_LEFT + (_PANEL_W + _GAP_X) * (i % 2), _TOP + (_PANEL_H + _GAP_Y) * (i // 2)) for i in range(4)]
    for panel, plane, (left, top) in zip(PANELS, planes, places[:3], strict=True):
        line = _line(left, top, LEVERAGE, panel.y, zip(plane["boundary"], plane["rows"], strict=True), "#111")
        body.append(tag("g", _cells(left, top, plane["regime"]), line, _frame(left, top, panel.title, LEVERAGE, panel.y)))
    left, top = places[3]
    y = Axis(2.5, 30, (3, 5, 10, 20, 30), "kurtosis of returns (Gaussian: 3)", log=True)
    x = replace(LEVERAGE, high=MOST_NOISY, ticks=(1, 2, 3, 4, 5, 6, 7))
    drawn = [_line(left, top, x, y, [(1, 3), (MOST_NOISY, 3)], "#999", "2 3")]
    at = lines[0]["boundary"]
    drawn.append(_line(left, top, x, y, [(at, y.low), (at, y.high)], "#111"))
    for i, ((name, _, colour, dash), line) in enumerate(zip(LINES, lines, strict=True)):
        drawn.append(_line(left, top, x, y, zip(line["leverage"], line["kurtosis"], strict=True), colour, dash))
        height_of = top + 18 + 17 * i
        drawn.append(
            tag("line", x1=left + 10, x2=left + 36, y1=height_of - 4, y2=height_of - 4, stroke=colour, stroke_width=2.2, stroke_dasharray=dash)
        )
        drawn.append(tag("text", name, x=left + 42, y=height_of))
    body.append(tag("g", drawn, _frame(left, top, "Fat tails, with noise", x, y)))
    words = {CALM: "calm: the shock dies out", OSCILLATION: "oscillation", CRASH: f"crash: default, or fall over {FALL:.0%}"}
    key, across = [], _LEFT
    for name in REGIMES:
        key.append(tag("rect", x=across, y=44, width=15, height=15, fill=_COLOURS[name], stroke="#222", stroke_width=0.6))
        key.append(tag("text", words[name], x=across + 21, y=56))
        across += 38 + 6.5 * len(words[name])
    key.append(tag("line", x1=across, x2=across + 26, y1=52, y2=52, stroke="#111", stroke_width=2.2))
    key.append(tag("text", "spectral radius = 1", x=across + 32, y=56))
    style = "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:13px}.head{font-weight:600;font-size:16px}"
    head = tag("text", "The leverage cycle: colours are simulations, lines are computed", x=_LEFT, y=28, class_="head")
    label = (
        "Regimes of a leverage-targeting fund in a market it moves, over target leverage and impact, memory and procyclicality; kurtosis by leverage"
    )
    ground = tag("rect", width="100%", height="100%", fill="#fff")
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    parts = (tag("title", label), tag("style", style), ground, head, key, body)
    return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", role="img", **size) + "\n"


def plane(panel: Panel, columns: int, rows: int) -> tuple[dict, dict]:
    """A panel's regimes and boundary, and what is recorded of them."""
    across, up = LEVERAGE.centres(columns), panel.y.centres(rows)
    many = grid(leverage=across[None, :], **{panel.name: up[:, None]}, **panel.fixed)
    regime = classify(many)
    levels = np.asarray([panel.y.low, *up, panel.y.high])
    line = boundary(grid(leverage=np.ones(levels.size), **{panel.name: levels}, **panel.fixed))
    counts = {name: int(np.sum(regime == i)) for i, name in enumerate(REGIMES)}
    record = {
        "across": "leverage",
        "up": panel.name,
        "fixed": panel.fixed,
        "regimes": counts,
        "compared_with_spectral_radius": agreement(many, regime),
    }
    record["boundary"] = [{panel.name: round(float(v), 4), "leverage": round(float(b), 4)} for v, b in zip(levels, line, strict=True)]
    return {"regime": regime.reshape(rows, columns), "rows": levels, "boundary": line}, record


def fat_tails(exponent: float, leverages: np.ndarray, paths: int, steps: int) -> dict:
    """Kurtosis by target leverage."""
    found = [tails(Cycle(leverage=float(v), exponent=exponent), paths=paths, steps=steps) for v in leverages]
    [edge] = boundary(grid(leverage=np.ones(1), exponent=exponent))
    kurtosis, defaults = zip(*found, strict=True)
    return {
        "exponent": exponent,
        "leverage": leverages.tolist(),
        "kurtosis": kurtosis,
        "share_of_paths_with_default": defaults,
        "boundary": float(edge),
    }


def main() -> None:
    """Compute, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="coarse grids, and nothing in the repository is overwritten")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    columns, rows, paths, steps = (28, 12, 32, 1000) if quick else (112, 46, 256, 4000)
    drawn, recorded = zip(*(plane(p, columns, rows) for p in PANELS), strict=True)
    lines = [fat_tails(e, np.arange(1.0, MOST_NOISY + 0.01, 1.0 if quick else 0.25), paths, steps) for _, e, _, _ in LINES]
    results = {
        "command": "python experiments/leverage_cycle.py" + (" --quick" if quick else ""),
        "defaults": {name: getattr(Cycle, name) for name in Cycle.__dataclass_fields__},
        "steps": STEPS,
        "margin_around_boundary": MARGIN,
        "planes": recorded,
        "tails": lines,
    }
    if quick:
        folder = Path(tempfile.mkdtemp())
        drawing, numbers = folder / "leverage_cycle.svg", folder / "leverage_cycle.json"
    else:
        drawing, numbers = ROOT / "docs" / "policies" / "leverage_cycle.svg", ROOT / "experiments" / "results" / "leverage_cycle.json"
    for path, text in ((drawing, picture(list(drawn), lines)), (numbers, json.dumps(results, indent=1) + "\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    for record in recorded:
        print(record["up"], record["regimes"], record["compared_with_spectral_radius"])


if __name__ == "__main__":
    main()
