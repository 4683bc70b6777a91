"""What a reverse stress test leaves behind: its figures, and files with which anybody can run the shock again."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stresslev import provenance, results
from stresslev.config.load import data_file
from stresslev.metrics import METRICS
from stresslev.reverse.factors import CORRELATION, DEPTH
from stresslev.reverse.picture import deviation
from stresslev.reverse.study import SLACK, Reversed
from stresslev.toml import tables, toml_text

#: What a folder of a reverse stress test consists of.
REVERSE_FILES = frozenset({"reverse.json", "reverse.html", "shock.toml", "suite.toml", "system.toml", "factors.toml"})
_MINUTES_PER_YEAR = 365 * 24 * 60


def files(found: Reversed) -> dict[str, str]:
    """Name -> text of the TOML files. The system as it was used, the factors, and where a shock was found the shock and a suite that runs it."""
    plan = found.plan
    system = tables(plan.system)
    if plan.system.book.file is not None:
        system["book"]["file"] = str(data_file(plan.system.book.file, plan.base("system"), "book.file"))
    written = {"system.toml": toml_text(system), "factors.toml": toml_text(tables(found.system.factors.spec))}
    if not found.found:
        return written
    words = " or ".join(map(str, found.system.conditions))
    suite = {
        "kind": "suite",
        "name": "reverse",
        "title": f"The most plausible shock with {words}",
        "system": "system.toml",
        "scenarios": ["shock.toml"],
        "run": {k: getattr(plan.run, k) for k in ("seed", "precision", "max_rounds", "stepping", "population")},
        "policy": {k: v for k, v in tables(plan.policy).items() if k != "kind"},
        "limits": {name: tables(limit) for name, limit in found.limits().items()},
    }
    return written | {"shock.toml": toml_text(tables(found.scenario)), "suite.toml": toml_text(suite)}


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _factor(found: Reversed, name: str, value: float) -> dict:
    """A factor of the shock, as a reader wants it."""
    factors = found.system.factors
    if name == CORRELATION:
        average = factors.average + value * (1 - factors.average)
        by = (np.arctanh(average) - np.arctanh(factors.average)) / factors.spec.correlation.spread
        return {"factor": name, "stress": value, "average_correlation": average, "usual_correlation": factors.average, "standard_deviations": by}
    by = value / deviation(factors, name)
    if name == DEPTH:
        return {"factor": name, "log_factor": value, "depth_factor": math.exp(value), "standard_deviations": by}
    return {"factor": name, "log_return": value, "move": math.expm1(value), "standard_deviations": by}


def _likely(found: Reversed) -> dict:
    periods = _MINUTES_PER_YEAR / found.system.factors.spec.horizon_minutes
    return {
        name: {
            "degrees_of_freedom": p.degrees_of_freedom,
            "beyond": p.beyond,
            "once_in_years": _number(1 / (p.beyond * periods)) if p.beyond > 0 else None,
            "outside": p.outside,
        }
        for name, p in found.plausibility.items()
    }


def data(found: Reversed) -> dict:
    """What `reverse.json` holds, and the page is made of."""
    system, factors = found.system, found.system.factors
    names = [c.metric for c in system.conditions]
    told = {
        "breaks": [str(c) for c in system.conditions],
        "conditions": [{"metric": c.metric, "above": c.above, "bound": c.bound, "title": METRICS[c.metric].title} for c in system.conditions],
        "system": found.plan.system.name,
        "factors": {
            "name": factors.spec.name,
            "title": factors.spec.title or factors.spec.name,
            "names": list(factors.names),
            "horizon_minutes": factors.spec.horizon_minutes,
            "degrees_of_freedom": factors.spec.degrees_of_freedom,
            "standard_deviations": dict(zip(factors.assets, factors.deviations.tolist(), strict=True)),
            "correlation": factors.spec.matrix.tolist(),
            "correlation_spread": factors.spec.correlation.spread if factors.has_correlation else 0.0,
            "depth": None if factors.spec.depth is None else factors.spec.depth.model_dump(),
            "proxies": {n: {"asset": p.asset, "beta": p.beta} for n, p in factors.spec.proxies.items()},
            "sources": list(factors.spec.sources),
            "assumptions": list(factors.spec.assumptions),
        },
        "path": list(system.plan.scenarios[0].assumptions),
        "found": found.found,
        "radius": found.radius,
        "search": {
            "hard_runs": system.hard_runs,
            "gradients": system.gradients,
            "failed_runs": system.failed,
            "band": system.width,
            "seconds": round(found.seconds, 2),
            "accounts": len(system.book),
            "starts": [
                {"name": f.name, "distance": _number(f.distance), "turns": f.turns, "alignment": _number(f.alignment), "shock": _shock_of(found, f)}
                for f in found.starts
            ],
        },
    }
    if found.found:
        told |= {
            "distance": found.distance,
            "coordinates": found.point.tolist(),
            "shock": [_factor(found, n, float(x)) for n, x in zip(factors.names, found.shock, strict=True)],
            "plausibility": _likely(found),
            "confirmed": {str(c): METRICS[c.metric].value(found.dataset) for c in system.conditions},
            "nearer": {"distance": (1 - SLACK) * found.distance, **dict(zip(names, map(_number, found.nearer), strict=True))},
            "broken": list(found.broken),
            "timeline": list(found.timeline),
            "ray": {"distance": found.ray[0].tolist(), **{n: [_number(v) for v in found.ray[1][:, i]] for i, n in enumerate(names)}},
            "picture": None if found.picture is None else _picture(found, names),
        }
    return told | {"provenance": {k: v for k, v in provenance.attributes(found.plan, found.seconds).items() if k != "configuration"}}


def _shock_of(found: Reversed, f) -> list[float] | None:
    return found.system.factors.shock(f.point).tolist() if math.isfinite(f.distance) else None


def _picture(found: Reversed, names: list[str]) -> dict:
    p = found.picture
    return {
        "factors": list(p.names),
        "across": p.across.tolist(),
        "up": p.up.tolist(),
        "metrics": {n: [[_number(v) for v in row] for row in p.metrics[:, :, i]] for i, n in enumerate(names)},
        "breaks": p.breaks.tolist(),
        "distance": [[_number(v) for v in row] for row in p.distance],
        "found": list(p.found),
        "nearest_of_grid": _number(p.nearest),
    }


def headline(told: Mapping) -> str:
    """The result in a sentence."""
    words = " or ".join(told["breaks"])
    if not told["found"]:
        return f"Nothing within {told['radius']:g} standard deviations was found to break {told['system']} ({words})."
    moves = [f"{s['factor']} {s['move']:+.1%}" for s in told["shock"] if "move" in s]
    moves += [f"depth at {s['depth_factor']:.0%}" for s in told["shock"] if "depth_factor" in s]
    moves += [f"average correlation {s['average_correlation']:.2f}" for s in told["shock"] if "stress" in s]
    return f"{words}: the most plausible shock found is {', '.join(moves)}, {told['distance']:.2f} standard deviations from the ordinary."


def sentences(told: Mapping) -> list[str]:
    """What else the reader must know, a sentence each."""
    search = told["search"]
    effort = f"{search['hard_runs']:,} runs by the hard rules and {search['gradients']} gradients, {search['accounts']:,} accounts."
    if not told["found"]:
        return [effort]
    nearer = told["nearer"]
    lines = []
    for name, p in told["plausibility"].items():
        what = "normal distribution" if name == "normal" else f"Student's t with {p['degrees_of_freedom']:.3g} degrees of freedom"
        often = "" if p["once_in_years"] is None else f", once in {years(p['once_in_years'])}"
        lines.append(
            f"Under the {what}, a shock beyond it in its direction has a probability of {p['beyond']:.2g} per horizon{often}; "
            f"one as far in any direction {p['outside']:.2g}."
        )
    if told["broken"]:
        first = told["broken"][0]
        where = f", most at {first['pool']}" if first["pool"] else ""
        lines.append(f"First to break: {first['condition']} in minute {first['minute']:g} (step {first['step']}){where}.")
    if told["timeline"]:
        event = told["timeline"][0]
        lines.append(f"It began at {event['pool']} in minute {event['minute']:g}: {event['what']}.")
    values = ", ".join(f"{c['metric']} {nearer[c['metric']]:.6g}" for c in told["conditions"] if nearer[c["metric"]] is not None)
    lines.append(f"Confirmed by a run of the scenario as it is written; a shock 1% nearer does not break ({values}).")
    if told["picture"] and told["picture"]["nearest_of_grid"] is not None:
        lines.append(f"Of the points of the picture that break, the nearest is at {told['picture']['nearest_of_grid']:.2f}.")
    return [*lines, effort]


def years(x: float) -> str:
    """A time in years, in words."""
    return f"{x:,.3g} years" if x >= 1 else f"{x * 365:.3g} days"


def write(found: Reversed, folder: Path, command: str) -> dict:
    """Write everything into a folder; returns what `reverse.json` holds."""
    from stresslev.report import reverse as page

    told = data(found)
    told["provenance"]["command"] = command
    told = {"headline": headline(told), "sentences": sentences(told)} | told
    results.write_json(told, folder / "reverse.json")
    (folder / "reverse.html").write_text(page.page(told), encoding="utf-8")
    for name, text in files(found).items():
        (folder / name).write_text(text, encoding="utf-8")
    return told
