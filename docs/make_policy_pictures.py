"""Draw the pictures of docs/policies with the engine's own functions: `python docs/make_policy_pictures.py [FOLDER]`."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.engine.funding import FundingRules, quoted_rate
from stresslev.engine.leverage.caps import call_level, initial_margin
from stresslev.engine.leverage.reactions import Reaction
from stresslev.engine.leverage.reading import Reading
from stresslev.engine.leverage.size import SizeSchedule, SmoothSize, SteppedSize, add_hinges
from stresslev.engine.leverage.volatility import VolatilityScaling
from stresslev.engine.margin import tier_margin
from stresslev.engine.portfolio import covariance
from stresslev.procyclicality import peak_to_trough
from stresslev.report.markup import Html, tag

jax.config.update("jax_enable_x64", True)

_WIDE, _HIGH, _LEFT, _TOP, _BETWEEN, _RIGHT = 330.0, 240.0, 74.0, 34.0, 96.0, 20.0
_ROW, _BELOW = 18.0, 58.0
_STYLE = "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:13px}"
#: Colour-blind safe (Okabe and Ito), told apart by their dashes too.
_LOOKS = (("#0072B2", None), ("#D55E00", "7 4"), ("#00654a", "2 3"), ("#8a5a83", "9 3 2 3"), ("#777777", "1 5"))


@dataclass(frozen=True)
class Axis:
    """An axis over pixels. `write` puts a tick into words."""

    title: str
    ticks: tuple[float, ...]
    low: float
    high: float
    log: bool = False
    write: Callable[[float], str] = "{:g}".format

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end; a logarithm of nothing lies far below."""
        f = (lambda v: math.log(max(v, 1e-300))) if self.log else float
        return (f(value) - f(self.low)) / (f(self.high) - f(self.low))

    def points(self, n: int = 241) -> np.ndarray:
        """Values evenly spread over the axis."""
        return np.geomspace(self.low, self.high, n) if self.log else np.linspace(self.low, self.high, n)


@dataclass(frozen=True)
class Panel:
    """Lines (name, x, y) over two axes."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[tuple[str, np.ndarray, np.ndarray], ...]


def _percent(value: float) -> str:
    return f"{100 * value:.6g}%"


def _usd(value: float) -> str:
    unit, name = next(((u, s) for u, s in ((1e9, "bn"), (1e6, "m"), (1e3, "k")) if value >= u), (1, ""))
    return f"{value / unit:g}{name}"


def _frame(left: float, panel: Panel) -> list[Html]:
    """Ticks with their grid, frame and titles."""
    bottom, x, y = _TOP + _HIGH, panel.x, panel.y
    parts = []
    for v in x.ticks:
        at = f"{left + _WIDE * x.share(v):.1f}"
        parts.append(tag("line", x1=at, x2=at, y1=_TOP, y2=bottom + 5, stroke="#ddd"))
        parts.append(tag("text", x.write(v), x=at, y=bottom + 19, text_anchor="middle"))
    for v in y.ticks:
        at = bottom - _HIGH * y.share(v)
        parts.append(tag("line", x1=left - 5, x2=left + _WIDE, y1=f"{at:.1f}", y2=f"{at:.1f}", stroke="#ddd"))
        parts.append(tag("text", y.write(v), x=left - 9, y=f"{at + 4:.1f}", text_anchor="end"))
    parts.append(tag("rect", x=left, y=_TOP, width=_WIDE, height=_HIGH, fill="none", stroke="#222"))
    parts.append(tag("text", panel.title, x=left, y=_TOP - 12, class_="title"))
    parts.append(tag("text", x.title, x=left + _WIDE / 2, y=bottom + 38, text_anchor="middle"))
    middle = _TOP + _HIGH / 2
    parts.append(tag("text", y.title, x=left - 52, y=middle, text_anchor="middle", transform=f"rotate(-90 {left - 52} {middle})"))
    return parts


def _lines(left: float, panel: Panel) -> list[Html]:
    """The lines, cut off at the frame, and below the panel what each of them is."""
    drawn, key = [], []
    for i, (name, x, y) in enumerate(panel.lines):
        colour, dash = _LOOKS[i]
        look = {"stroke": colour, "stroke_width": 2.2, "stroke_dasharray": dash}
        places = ((left + _WIDE * panel.x.share(a), _TOP + _HIGH * (1 - panel.y.share(b))) for a, b in zip(x, y, strict=True))
        drawn.append(tag("polyline", points=" ".join(f"{a:.1f},{max(min(b, 9e3), -9e3):.1f}" for a, b in places), fill="none", **look))
        row = _TOP + _HIGH + _BELOW + _ROW * i
        key.append(tag("line", x1=left, x2=left + 34, y1=row - 4, y2=row - 4, **look))
        key.append(tag("text", name, x=left + 42, y=row))
    inside = {"x": left, "y": _TOP - 1.5, "width": _WIDE, "height": _HIGH + 3, "viewBox": f"{left} {_TOP - 1.5} {_WIDE} {_HIGH + 3}"}
    return [tag("svg", drawn, **inside), *key]


def drawing(label: str, *panels: Panel) -> str:
    """Panels side by side as SVG; `label` says in words what they show."""
    width = _LEFT + len(panels) * _WIDE + (len(panels) - 1) * _BETWEEN + _RIGHT
    height = _TOP + _HIGH + _BELOW + _ROW * max(len(p.lines) for p in panels)
    body = []
    for i, panel in enumerate(panels):
        left = _LEFT + i * (_WIDE + _BETWEEN)
        body.append(tag("g", _frame(left, panel), _lines(left, panel)))
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    ground = tag("rect", width="100%", height="100%", fill="#fff")
    return tag("svg", tag("title", label), tag("style", _STYLE), ground, body, xmlns="http://www.w3.org/2000/svg", role="img", **size) + "\n"


# What rules see: one pool, and as many assets as there are points to draw.


def _reading(points: int, **given: np.ndarray) -> Reading:
    asset, pair, none = np.zeros(points), np.zeros((1, points)), np.zeros(1)
    fields = {"log_return": asset, "log_price": asset, "price": asset + 1, "depth": asset + 1, "open_interest": pair, "insurance_fund": none + 1}
    fields |= dict.fromkeys(("supplied", "borrowed", "funding_rate", "gauge"), pair)
    fields |= {"reference_variance": asset + 1, "steps_per_year": np.array(1.0)}
    return Reading(**{name: jnp.asarray(value) for name, value in (fields | given).items()})


FACTOR = Axis("factor on the cap", (0, 0.2, 0.4, 0.6, 0.8, 1), 0, 1.05)
#: Bounds that the shipped specification gives a rule.
BOUNDS = {"floor": jnp.asarray(0.1), "ceiling": jnp.asarray(1.0)}


def _volatility_response() -> Panel:
    x = Axis("volatility over target", (0.25, 0.5, 1, 2, 4, 8), 0.25, 8, log=True)
    level = x.points()
    # returns as large as expected leave the estimate where it is
    now = _reading(level.size, reference_variance=level**2, log_return=level)
    lines = []
    for gamma in (0.5, 1.0, 2.0):
        rule = VolatilityScaling(target=jnp.asarray(1.0), gamma=jnp.asarray(gamma), **BOUNDS)
        lines.append((f"gamma = {gamma:g}", level, np.asarray(rule.react(rule.start(now), now)[1])[0]))
    return Panel("Response to volatility (floor 0.1, ceiling 1)", x, FACTOR, tuple(lines))


#: Tools at the strength that EMIR asks for; volatilities are those of one step, over the calm one.
TOOLS = {
    "none": {},
    "stressed weight 0.25": {"stress_weight": 0.25, "stress_volatility": 3.0},
    "least volatility 2": {"least": 2.0},
    "buffer 0.25, released at 2.5": {"buffer": 0.25, "release": 2.5},
}


def _volatility_jump() -> Panel:
    calm, after = 20, 100
    x = Axis("steps since volatility trebled", (-20, 0, 20, 40, 60, 80, 100), -calm, after)
    y = Axis("requirement over the calm one without tools", (0, 0.5, 1, 1.5, 2, 2.5, 3), 0, 3.1)
    base = _reading(1)
    returns = jnp.asarray([1.0] * (calm + 1) + [3.0] * after)[:, None]
    lines = []
    for name, tools in TOOLS.items():
        rule = VolatilityScaling(target=jnp.asarray(1.0), gamma=jnp.asarray(1.0), floor=jnp.asarray(1e-3), ceiling=jnp.asarray(1e3), **tools)

        def step(memory, r, rule=rule):
            memory, factor = rule.react(memory, replace(base, log_return=r))
            return memory, 1 / factor[0, 0]

        requirement = np.asarray(jax.lax.scan(step, rule.start(base), returns)[1])
        ratio = peak_to_trough(requirement)
        lines.append((f"{name}: rises {ratio:.2f}-fold", np.arange(-calm, after + 1), requirement))
    return Panel("Tools against procyclicality (EWMA, decay 0.97)", x, y, tuple(lines))


def _size_rate(schedule: SizeSchedule, n: np.ndarray, scale: float) -> np.ndarray:
    """Requirement over notional, of the hinges alone."""
    empty = jnp.zeros((1, 1, 1))
    floor, step = add_hinges(schedule, empty, empty, jnp.full((1, 1), scale))
    return np.asarray(tier_margin(jnp.asarray(n), floor[0], step[0])) / n


def _smooth_size() -> Panel:
    x = Axis("position over depth", (0.001, 0.01, 0.1, 1, 10, 100), 0.001, 100, log=True)
    y = Axis("margin added, of notional", (0, 0.05, 0.1, 0.15, 0.2), 0, 0.21, write=_percent)
    n = x.points()
    lines = []
    for power in (0.25, 0.5, 1.0):
        rule = SmoothSize(amount=jnp.asarray(0.05), power=jnp.asarray(power), most=jnp.asarray(0.2))
        lines.append((f"power = {power:g}", n, _size_rate(rule, n, 1.0)))
    capped = np.minimum(n, (0.2 / 0.05) ** 2)
    exact = (0.05 * capped**1.5 / 1.5 + 0.2 * (n - capped)) / n
    lines.append(("power = 0.5 before it is laid down as 8 hinges", n, exact))
    return Panel("Smooth: amount 5%, most 20%", x, y, tuple(lines))


#: Floors in USD and maintenance rates of BTCUSDT at Binance, 2026-09-29.
BRACKETS = (
    (0, 3e5, 8e5, 3e6, 1.2e7, 7e7, 1e8, 2.3e8, 4.8e8, 6e8, 8e8, 1.2e9),
    (0.004, 0.005, 0.0065, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.15, 0.25, 0.5),
)


def _stepped_size() -> Panel:
    x = Axis("position, USD", (1e5, 1e6, 1e7, 1e8, 1e9), 1e5, 1e9, log=True, write=_usd)
    y = Axis("maintenance margin, of notional", (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), 0, 0.31, write=_percent)
    n, usual = x.points(), 3e8
    at, rise = jnp.asarray(BRACKETS[0]) / usual, jnp.asarray(np.diff(BRACKETS[1], prepend=0.0))
    rule = SteppedSize(at=at, rate_increase=rise)
    shares = (("the venue's brackets: depth as usual", 1.0), ("half the depth", 0.5), ("a tenth of the depth", 0.1))
    return Panel("Stepped: Binance's BTCUSDT, by depth", x, y, tuple((name, n, _size_rate(rule, n, share * usual)) for name, share in shares))


def _reaction(title: str, x: Axis, reads: str, at: float, slopes: tuple[float, ...], see: Callable[[np.ndarray], dict]) -> Panel:
    """Factor over a level, which `see` turns into what the rule reads."""
    level = x.points()
    lines = []
    for slope in slopes:
        rule = Reaction(at=jnp.asarray(at), slope=jnp.asarray(slope), reads=reads, **BOUNDS)
        factor = rule.react((), _reading(level.size, **see(level)))[1]
        lines.append((f"slope = {slope:g}", level, np.asarray(factor)[0]))
    return Panel(title, x, FACTOR, tuple(lines))


def _utilisation() -> tuple[Panel, Panel]:
    loans = Axis("borrowed over supplied", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1), 0.4, 1, write=_percent)
    crowd = Axis("open interest over depth", (1, 3, 10, 30, 100), 1, 100, log=True)
    return (
        _reaction("Utilisation of a lender (at = 80%)", loans, "pool_utilisation", 0.8, (1.0, 4.0, 10.0), lambda u: _loans(u[None])),
        _reaction("Concentration (at = 10)", crowd, "concentration", 10.0, (0.5, 1.0, 2.0), lambda u: {"open_interest": u[None]}),
    )


def _loans(borrowed: np.ndarray) -> dict:
    return {"borrowed": borrowed, "supplied": np.ones_like(borrowed)}


def _gauge() -> Panel:
    x = Axis("gauge: liquidated per percent of fall, over depth", (0, 0.5, 1, 1.5, 2), 0, 2)
    return _reaction("Response to the gauge (at = 0.25)", x, "systemic_gauge", 0.25, (0.5, 1.0, 2.0), lambda g: {"gauge": g[None]})


def _funding() -> tuple[Panel, Panel]:
    x = Axis("premium of the perp over the index", (-0.002, -0.001, 0, 0.001, 0.002), -0.002, 0.002, write=_percent)
    y = Axis("rate per eight hours", (-0.002, -0.001, 0, 0.001, 0.002), -0.0021, 0.0021, write=_percent)
    premium = x.points()
    none = jnp.zeros((1, premium.size))
    usual = FundingRules(
        interest=none + 1e-4,
        clamp=none + 5e-4,
        cap=none + jnp.inf,
        floor=none - jnp.inf,
        skew_slope=none,
        interval=jnp.full(none.shape, 480, jnp.int32),
        period=jnp.full(none.shape, 480, jnp.int32),
        rising_weights=jnp.zeros(1, bool),
        continuous=jnp.zeros(1, bool),
    )
    forms = {
        "interest 0.01%, clamp 0.05% (Binance)": usual,
        "clamp 0: the premium itself": replace(usual, clamp=none),
        "cap 0.1%": replace(usual, cap=none + 1e-3, floor=none - 1e-3),
    }
    rates = tuple((name, premium, np.asarray(quoted_rate(rules, jnp.asarray(premium)[None]))[0]) for name, rules in forms.items())
    size = Axis("size of the rate per eight hours", (0, 0.0005, 0.001, 0.0015, 0.002), 0, 0.002, write=_percent)
    reaction = _reaction("Reaction of caps (at = 0.05%)", size, "funding", 5e-4, (0.5, 1.0, 2.0), lambda r: {"funding_rate": r[None]})
    return Panel("Rate by premium", x, y, rates), reaction


def _leverage() -> Panel:
    base, rate, ratio = 20.0, 0.01, 2.0
    x = Axis("cap in force, times equity (base 20)", (2, 4, 6, 8, 10, 12, 14, 16, 18, 20), 2, 20)
    y = Axis("of notional", (0, 0.1, 0.2, 0.3, 0.4, 0.5), 0, 0.52, write=_percent)
    cap = jnp.asarray(x.points())
    one, maintenance = (jnp.ones_like(cap),), jnp.full_like(cap, rate)
    lines = (
        ("initial margin", x.points(), np.asarray(initial_margin(one, (cap,), maintenance, ratio))),
        ("call level", x.points(), np.asarray(call_level(one, (cap,), (jnp.full_like(cap, base),), None, maintenance))),
        ("maintenance margin, 1%", x.points(), np.asarray(maintenance)),
    )
    return Panel("One position as its cap tightens", x, y, lines)


def _portfolio_margin() -> Panel:
    x = Axis("offset recognised (margin.offset)", (0, 0.25, 0.5, 0.75, 1), 0, 1)
    y = Axis("requirement, of the gross notional", (0, 0.02, 0.04, 0.06, 0.08), 0, 0.085, write=_percent)
    offset, deviation = x.points(), 0.05
    pair = (jnp.full(offset.shape, 0.5), jnp.full(offset.shape, -0.5))
    lines = []
    for correlation in (0.5, 0.8, 0.95):
        kept = jnp.asarray(correlation * offset)
        cov = deviation**2 * jnp.stack([jnp.stack([jnp.ones_like(kept), kept], -1), jnp.stack([kept, jnp.ones_like(kept)], -1)], -2)
        lines.append((f"correlation {correlation:g}", offset, np.asarray(covariance(pair, cov, jnp.asarray(2.33)))))
    return Panel("A hedged pair: 2.33 deviations of 5%", x, y, tuple(lines))


def _transitions() -> Panel:
    x = Axis("utilisation: call level over equity", (0.8, 1, 1.2, 1.4, 1.6, 1.8, 2), 0.8, 2)
    y = Axis("share of every position closed", (0, 0.1, 0.2, 0.3, 0.4, 0.5), 0, 0.55, write=_percent)
    use, aim, met = x.points(601), 0.95, 0.5
    over = use > 1
    answered = np.where(over, 1 - aim * (1 + met * (use - 1)) / use, 0)
    lines = (
        ("pace, in the end; call without any cash", use, np.where(over, 1 - aim / use, 0)),
        ("call, half of the shortage met in cash", use, answered),
        ("pace, after the first pace_minutes", use, np.where(over, 0.5 * (1 - aim / use), 0)),
        ("new_risk", use, np.zeros_like(use)),
    )
    return Panel("Share closed, aim 0.95", x, y, lines)


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {
        "volatility": drawing(
            "Factor on the cap by volatility; requirement after volatility trebles under each tool against procyclicality",
            _volatility_response(),
            _volatility_jump(),
        ),
        "size": drawing("Margin by size of position, smooth and stepped, relative to depth", _smooth_size(), _stepped_size()),
        "utilisation": drawing("Factor on the cap by a lender's utilisation and by open interest over depth", *_utilisation()),
        "gauge": drawing("Factor on the cap by the systemic gauge", _gauge()),
        "funding": drawing("Funding rate by premium, and factor on the cap by funding rate", *_funding()),
        "leverage": drawing("Initial margin, call level and maintenance margin by cap in force", _leverage()),
        "portfolio_margin": drawing("Requirement of a hedged pair by the offset that is recognised", _portfolio_margin()),
        "transitions": drawing("Share of positions closed by utilisation under each transition", _transitions()),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("policies")
    for name, text in pictures().items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")
