"""What a tuning experiment hands to its page, made by hand: two policies, two groups of scenarios, a frontier and a liquidation map."""


def _around(mean: float, reach: float = 0.002) -> dict:
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def tuned(minutes: tuple[float, float] = (0.0, 95.0)) -> dict:
    """The plain data of `tuning.results.as_data`."""
    verdicts = [
        {"policy": p, "group": g, "objective": _around(x), "change": _around(x - 0.03), "better": better, "violations": [_around(-0.1)]}
        for g in ("train", "held_out")
        for p, x, better in (("untuned", 0.03, None), ("tuned", 0.02, True))
    ]
    moves = [m / 100 for m in (-30, -20, -10, -5, -1, 1, 5, 10, 20, 30)]
    usd = {name: [[1e9 * f * abs(m) ** 1.5 for m in moves], [1.4e9 * f * abs(m) for m in moves]] for name, f in (("untuned", 1.0), ("tuned", 0.7))}
    points = [
        {"objective": y, "groups": {g: {"objective": _around(y + d), "efficiency": x} for g, d in (("train", 0.0), ("held_out", 0.004))}}
        for x, y in ((8.0, 0.012), (10.0, 0.02), (14.0, 0.041))
    ]
    steps = [{"step": i, "restart": 0, "objective": 0.03 - 0.002 * i, "violations": [0.05 - 0.02 * i]} for i in range(6)]
    parameters = [{"path": "caps.base", "low": 5.0, "high": 50.0, "untuned": 20.0, "tuned": 12.5, "slope": 0.01, "alone": -0.004, "back": 0.003}]
    return {
        "name": "hand",
        "title": "Made by hand",
        "description": "An experiment <b>made</b> by hand.",
        "version": "1.2.3",
        "created": "2026-11-30T19:50:48+00:00",
        "command": "stresslev tune hand.toml",
        "configuration": {"kind": "experiment"},
        "accounts": 2000,
        "seed": 7,
        "headline": "The tuned policy is better on scenarios it never saw.",
        "sentences": ["Bad debt: 3% untuned, 2% tuned."],
        "better": True,
        "first": "untuned",
        "books": 4,
        "confidence": 0.95,
        "tolerance": 0.001,
        "objective": "Bad debt over open interest",
        "constraints": ["Leverage allowed at least 10"],
        "efficiency": "Leverage allowed",
        "groups": {"train": ["one"], "validation": [], "held_out": ["two"]},
        "verdicts": verdicts,
        "search": "6 steps.",
        "raced": [],
        "steps": 6,
        "suite_runs": 60,
        "history": steps,
        "rivals": {"random": {"title": "random search", "history": [[8, 0.029, 0.0], [16, 0.025, 0.0], [32, 0.024, 0.0]]}},
        "frontier": points,
        "parameters": parameters,
        "pairs": [],
        "map": {"scenario": "two", "moves": moves, "minutes": list(minutes), "usd": usd},
    }
