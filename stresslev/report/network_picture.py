"""The picture of pools and what ties them, drawn as SVG, with a table that says the same."""

import math
from collections.abc import Callable

from stresslev.report import words
from stresslev.report.contagion import CREDIT, FINE, FUNDS, HUB, HURT, INSOLVENT, OWNERS, RECEIPT, Link, Node
from stresslev.report.markup import Html, join, tag
from stresslev.report.tables import table

_WIDTH, _HEIGHT = 560, 452
_CENTRE, _REACH = (280.0, 240.0), (190.0, 162.0)
_SMALL, _LARGE, _HUB, _DOT = 14.0, 34.0, 30.0, 9.5  # radii in pixels
#: State -> fill, mark inside the node.
_STATES = {INSOLVENT: ("#a33b00", "✕"), HURT: ("#e0a030", "▼"), FINE: ("#a3d3c3", "✓")}
_KINDS = {CREDIT: "#D55E00", RECEIPT: "#0072B2", FUNDS: "#00654a", OWNERS: "#8a5a83"}
_KIND_WORDS = {
    CREDIT: "credit: from debtor to creditor",
    RECEIPT: "receipt token: from issuer to user",
    FUNDS: "shared funds: from payer to receiver",
}
_KIND_WORDS |= {OWNERS: "margin calls: where the money went"}

Point = tuple[float, float]
Curve = Callable[[float], Point]


def _places(nodes: list[Node]) -> dict[str, tuple[Point, float]]:
    """Centre and radius of every node; pools on a ring, the owners in its middle."""
    largest = max((n.size for n in nodes), default=0) or 1.0
    found = {HUB: (_CENTRE, _HUB)}
    for i, n in enumerate(nodes):
        angle = 2 * math.pi * i / len(nodes) - math.pi / 2
        at = (_CENTRE[0] + _REACH[0] * math.cos(angle), _CENTRE[1] + _REACH[1] * math.sin(angle))
        found[n.pool] = (at, _SMALL + (_LARGE - _SMALL) * math.sqrt(n.size / largest))
    return found


def _bends(links: list[Link]) -> list[float]:
    """How far each edge bends to its left, so that edges between the same two nodes lie apart."""
    seen: dict[frozenset, int] = {}
    bends = []
    for e in links:
        pair = frozenset((e.source, e.target))
        n = seen.get(pair, 0)
        seen[pair] = n + 1
        if HUB in pair:
            bends.append(0.0)
            continue
        size = 0.16 * (1 + n // 2) * (-1 if n % 2 else 1)
        # the same side for both directions
        bends.append(size if e.source == min(pair) else -size)
    return bends


def _curve(one: Point, other: Point, bend: float) -> Curve:
    """A quadratic curve on [0, 1] from one point to another."""
    (x0, y0), (x1, y1) = one, other
    control = ((x0 + x1) / 2 - bend * (y1 - y0), (y0 + y1) / 2 + bend * (x1 - x0))

    def at(t: float) -> Point:
        return tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b for a, c, b in zip(one, control, other, strict=True))

    return at


def _clipped(at: Curve, radii: tuple[float, float], ends: tuple[Point, Point]) -> tuple[float, float]:
    """The part of a curve outside the nodes at its ends."""
    steps = [i / 200 for i in range(201)]
    first = next(t for t in steps if math.dist(at(t), ends[0]) > radii[0] + 2)
    last = next(t for t in reversed(steps) if math.dist(at(t), ends[1]) > radii[1] + 4)
    return first, last


def _xy(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _free(at: Curve, first: float, last: float, taken: list[tuple[Point, float]]) -> Point:
    """Where on a curve the number goes: near the middle, away from other numbers and from the owners (points with the room they need)."""
    places = [at(first + (last - first) * s) for s in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)]
    return next((p for p in places if all(math.dist(p, q) > room for q, room in taken)), places[0])


def _edge(number: int, e: Link, places: dict, bend: float, taken: list[tuple[Point, float]]) -> tuple[Html, Html]:
    """The line with its arrowhead, and the number on it, whose place is added to `taken`."""
    (one, r0), (other, r1) = places[e.source], places[e.target]
    at = _curve(one, other, bend)
    first, last = _clipped(at, (r0, r1), (one, other))
    line = " ".join(_xy(at(first + (last - first) * i / 24)) for i in range(25))
    colour, width = _KINDS[e.kind], 3.2 if e.hurt else 1.6
    moved = e.kind != FUNDS or e.hurt
    tip, back = at(last), at(last - 0.03)
    angle = math.atan2(tip[1] - back[1], tip[0] - back[0])
    wings = [(tip[0] - 10 * math.cos(angle + s), tip[1] - 10 * math.sin(angle + s)) for s in (0.42, -0.42)]
    head = tag("polygon", points=" ".join(map(_xy, (tip, *wings))), fill=colour) if moved else None
    dash = "5 4" if not e.hurt and e.kind != OWNERS else None
    path = tag("polyline", points=line, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dash)
    x, y = _free(at, first, last, taken)
    taken.append(((x, y), 2.6 * _DOT))
    dot = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=_DOT, fill="#fff", stroke=colour, stroke_width=1.4)
    text = tag("text", number, x=f"{x:.1f}", y=f"{y + 4:.1f}", class_="number", fill=colour)
    return tag("g", path, head), tag("g", tag("title", e.text), dot, text)


def _node(n: Node, place: tuple[Point, float]) -> Html:
    (x, y), r = place
    fill, mark = _STATES[n.state]
    title = tag("title", f"{n.pool}: {words.usd(n.size)}, {n.state}")
    circle = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{r:.1f}", fill=fill, stroke="#222", stroke_width=1)
    inside = tag("text", mark, x=f"{x:.1f}", y=f"{y + 5:.1f}", class_="mark", fill="#fff" if n.state == INSOLVENT else "#222")
    above = y < _CENTRE[1] - _REACH[1] / 2
    first = y - r - 22 if above else y + r + 17
    name = n.pool if len(n.pool) <= 22 else n.pool[:21] + "…"
    label = tag("text", name, x=f"{x:.1f}", y=f"{first:.1f}", class_="name")
    size = tag("text", words.usd(n.size).removesuffix(" USD"), x=f"{x:.1f}", y=f"{first + 15:.1f}", class_="size")
    return tag("g", title, circle, inside, label, size)


def _hub(links: list[Link]) -> Html | None:
    if not any(HUB in (e.source, e.target) for e in links):
        return None
    (x, y) = _CENTRE
    circle = tag("circle", cx=x, cy=y, r=_HUB, fill="#f6f6f4", stroke=_KINDS[OWNERS], stroke_width=1.4)
    return tag("g", circle, tag("text", HUB, x=x, y=y + 5, class_="size"))


def _key(nodes: list[Node], links: list[Link]) -> Html:
    """What colours and lines mean."""
    states = [s for s in _STATES if any(n.state == s for n in nodes)]
    entries = [("block", _STATES[s][0], f"{_STATES[s][1]} {s}") for s in states]
    entries += [("solid", colour, _KIND_WORDS[k]) for k, colour in _KINDS.items() if any(e.kind == k for e in links)]
    items = [tag("li", tag("span", "", class_=f"swatch {kind}", style=f"border-color:{colour}"), text) for kind, colour, text in entries]
    return tag("ul", items, class_="key")


def _svg(nodes: list[Node], links: list[Link], label: str) -> Html:
    places, taken = _places(nodes), [(_CENTRE, _HUB + 1.5 * _DOT)]
    drawn = [_edge(i, e, places, b, taken) for i, (e, b) in enumerate(zip(links, _bends(links), strict=True), 1)]
    parts = [[line for line, _ in drawn], _hub(links), [_node(n, places[n.pool]) for n in nodes], [number for _, number in drawn]]
    return tag("svg", tag("title", label), *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", class_="network")


def _own_funds(n: Node) -> tuple[str, str]:
    change = n.after - n.before
    return words.usd(n.before), f"{'+' if change > 0 else ''}{words.usd(change)}"


def _nodes_table(nodes: list[Node]) -> Html:
    rows = [[n.pool, n.state, words.usd(n.size), *_own_funds(n), words.percent(n.debtrank)] for n in nodes]
    head = ["Pool", "State at the end", "Open interest and loans at the start", "Own funds at the start", "Change", "DebtRank"]
    return table(head, rows, text_columns=2)


def _links_table(links: list[Link]) -> Html:
    rows = [[f"{i} {e.kind}", e.text, "not recorded" if e.usd is None else words.usd(e.usd)] for i, e in enumerate(links, 1)]
    return table(["Link", "What it is, and what happened", "Amount"], rows, text_columns=2)


def picture(nodes: list[Node], links: list[Link], caption: str) -> Html:
    """The drawing, its key, and the two tables."""
    title = tag("h4", "Pools and what ties them", tag("span", "numbers on the lines are those of the table below", class_="unit"))
    drawing = tag("div", _svg(nodes, links, f"Pools and what ties them. {caption}"), class_="drawing")
    text = f"{caption} Circles grow with open interest and loans. Arrows point the way losses travel or money went; bold lines carried losses."
    figure = tag("figure", title, _key(nodes, links), drawing, tag("figcaption", text), class_="figure")
    rank = (
        "DebtRank is the share of all pools' own funds, its own included, that would be gone if the pool failed before the scenario began "
        "and distress spread through credit alone (Battiston and others 2012, in the linear form of Bardoscia and others 2015): "
        "a diagnostic, not a result."
    )
    return join(figure, _links_table(links), _nodes_table(nodes), tag("p", rank, class_="note"))
