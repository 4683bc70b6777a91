"""Random policies that adjust leverage, random traders and depositors who run: in the form of the twin, and the policy in that of the engine."""

import numpy as np

from stresslev.engine.leverage.caps import Applied, Caps
from stresslev.engine.leverage.gauge import GaugeRules
from stresslev.engine.leverage.reactions import Reaction
from stresslev.engine.leverage.size import SteppedSize
from stresslev.engine.leverage.transition import Transition
from stresslev.engine.leverage.volatility import VolatilityScaling
from stresslev.engine.types import Policy

#: The longest notice of a change, in steps.
NOTICE = 3
STEPS_PER_YEAR = 525_600.0

FORMS = ("new_risk", "call", "pace")
READS = ("pool_utilisation", "concentration", "funding", "systemic_gauge")  # in this order after volatility


def widen(rng, system: dict, book: dict, path: dict, on: set) -> None:
    """Add what is asked for to a case that has everything else already."""
    for name, add in (("leverage", _policy), ("traders", _traders), ("runs", _runs)):
        if name in on:
            add(rng, system, book, path)


def _policy(rng, system, book, path):
    pools, assets = system["n_pools"], system["n_assets"]
    shape = (pools, assets)
    base = rng.uniform(20, 60, shape)
    multiplier = system["maintenance_multiplier"]
    pace = {"tighten": rng.choice([0.1, 0.4, np.inf], shape), "loosen": rng.choice([0.05, 0.3, np.inf], shape)}
    book["allowed"] = rng.choice([0.5, 0.8, 1.0], len(book["pool"]))
    system["policy"] = {
        "caps": {
            "base": base,
            "floor": base * rng.uniform(0.02, 0.2, shape),
            "ceiling": base * rng.choice([1.0, 1.5], shape),
            "least_maintenance": multiplier * rng.uniform(0.8, 1.0, shape),
            "most_maintenance": multiplier * rng.uniform(1.0, 1.8, shape),
            **pace,
            "notice": rng.integers(0, NOTICE + 1, pools),
        },
        "rules": [_volatility(rng, system, pools, assets)] + [_reaction(rng, system, reads) for reads in READS],
        "transition": _transition(rng, pools),
        "size": {"at": np.array([0.1, 0.5]), "rate_increase": np.array([0.01, 0.03]), "relative_to": "depth"},
        "gauge": int(rng.integers(1, 4)),
        "steps_per_year": STEPS_PER_YEAR,
    }


def _strength(rng, pools: int) -> dict:
    return {"on_cap": rng.choice([0.0, 0.5, 1.0], pools, p=[0.2, 0.3, 0.5]), "on_maintenance": rng.choice([0.0, 0.0, 0.3], pools)}


def _volatility(rng, system, pools, assets) -> dict:
    usual = np.sqrt(system["reference_variance"] * STEPS_PER_YEAR)
    return {
        "reads": "volatility",
        "target": usual * rng.uniform(1, 6, (pools, assets)),
        "gamma": rng.choice([0.3, 1.0]),
        "floor": rng.uniform(0.05, 0.5),
        "ceiling": rng.choice([1.0, 1.5]),
        "decay": rng.uniform(0.6, 0.95),
        "stress_weight": rng.choice([0.0, 0.25]),
        "stress_volatility": usual.mean() * 2,
        "least": usual.min() * rng.choice([0.0, 1.0]),
        "buffer": rng.choice([0.0, 0.25]),
        "release": usual.max() * rng.choice([3.0, np.inf]),
        **_strength(rng, pools),
    }


def _reaction(rng, system, reads: str) -> dict:
    at = {
        "pool_utilisation": rng.choice([0.5, 30.0]),
        "concentration": rng.uniform(0.5, 5),
        "funding": 1e-3,
        "systemic_gauge": rng.uniform(0.02, 0.5),
    }
    return {
        "reads": reads,
        "at": at[reads],
        "slope": rng.choice([0.0, 0.3, 1.0]),
        "floor": rng.uniform(0.3, 0.9),
        "ceiling": rng.choice([1.0, 1.2]),
        **_strength(rng, system["n_pools"]),
    }


def _transition(rng, pools: int) -> dict:
    forms = rng.permutation(FORMS)[:pools] if pools == len(FORMS) else rng.choice(FORMS, pools)
    return {
        "form": list(forms),
        "window": rng.integers(0, 4, pools),
        "met": rng.choice([0.0, 0.4, 1.0], pools),
        "pace": rng.uniform(0.2, 1.0, pools),
        "aim": rng.uniform(0.6, 1.0, pools),
        "warn": np.where(rng.random(pools) < 0.7, rng.uniform(0.6, 0.95, pools), np.inf),
        "response": rng.uniform(0.1, 0.8, pools),
        "safe": np.where(rng.random(pools) < 0.8, rng.uniform(0.5, 0.9, pools), 0.0),
        "releverage": rng.uniform(0.1, 0.8, pools),
        "over_maintenance": rng.uniform(1.0, 2.0, pools),
    }


def _traders(rng, system, book, path):
    """All four kinds at every linear contract of a venue, each there or not."""
    shape = (4, system["n_pools"], system["n_assets"])
    size = np.stack([rng.uniform(low, high, shape[1:]) for low, high in ((0.02, 0.3), (0.02, 0.3), (0.003, 0.03), (0.02, 0.3))])
    size *= np.where(np.isin(system["impact"]["form"], ("constant_product", "price_linear")), 0.3, 1.0)  # where a flow can empty the market
    linear = ~np.array(system.get("inverse", np.zeros(shape[1:], bool)))
    if "lending" in system:
        linear &= ~system["lending"]["pool"][:, None]
    receipts = (system.get("receipts") or {"pool": np.full(shape[2], -1)})["pool"]
    linear &= (receipts < 0)[None, :]
    _stay(rng, system, book)
    system["traders"] = {
        "capital": system["impact"]["depth"] * size * (rng.random(shape) < 0.7) * linear,
        "speed": rng.uniform(0.05, 0.8, shape),
        "scale": np.stack([rng.uniform(low, high, shape[1:]) for low, high in ((0.005, 0.03), (0.02, 0.2), (1.0, 2.0), (1e-4, 1e-2))]),
        "trend_decay": rng.uniform(0.3, 0.9, shape[2]),
        "mean_decay": rng.uniform(0.8, 0.99, shape[2]),
        "variance_decay": rng.uniform(0.7, 0.98, shape[2]),
        "reference_variance": rng.uniform(1e-5, 1e-3, shape[2]),
        "quiet_variance": rng.choice([0.0, 1e-4], shape[2]),
        "base_leverage": rng.uniform(2, 8, shape[1:]),
        "exponent": rng.choice([-0.3, 0.0, 1.0], shape[1:]),
        "maintenance": rng.uniform(0.02, 0.1, shape[1:]),
    }


def _stay(rng, system, book):
    """Someone holds every contract to the end: skew between traders and nobody is skew of what rounding has left."""
    lends = system["lending"]["pool"] if "lending" in system else np.zeros(system["n_pools"], bool)
    for v in np.flatnonzero(~lends):
        i = np.flatnonzero(book["pool"] == v)[-1]  # the first ones have owners who may take money away
        sign = np.where(rng.random(system["n_assets"]) < 0.5, 1.0, -1.0)
        inverse = np.array(system.get("inverse", np.zeros((system["n_pools"], system["n_assets"]), bool)))[v]
        book["quantity"][i] = np.where(inverse, 0.0, sign * 1e3 / system["reference_price"])
        book["equity_at_reference"][i] = 1e6
        if "collateral" in book:
            book["collateral"][i] = 0.0


def _runs(rng, system, book, path):
    shape = (system["n_pools"], system["n_assets"])
    system["runs"] = {
        "speed": rng.choice([0.0, 0.2, 1.0], shape),
        "utilisation_at": rng.uniform(0.0, 0.9, shape),
        "cover_at": rng.uniform(0.9, 1.0, shape),
        "most": rng.uniform(0.02, 0.3, shape),
    }


# The policy for the engine


def engine_policy(system: dict) -> Policy:
    """The policy of a case, fixed multipliers alone where it has no other."""
    policy = system.get("policy")
    if policy is None:
        return Policy(maintenance_multiplier=system["maintenance_multiplier"])
    return Policy(
        maintenance_multiplier=system["maintenance_multiplier"],
        caps=Caps(**(policy["caps"] | {"notice": np.array(policy["caps"]["notice"], np.int32)})),
        rules=tuple(_applied(rule) for rule in policy["rules"]),
        transition=Transition(
            **(
                policy["transition"]
                | {
                    "form": np.array([FORMS.index(name) for name in policy["transition"]["form"]], np.int32),
                    "window": np.array(policy["transition"]["window"], np.int32),
                }
            )
        ),
        size=SteppedSize(**policy["size"]),
        gauge=GaugeRules(every=np.int32(policy["gauge"])),
        steps_per_year=np.float64(policy["steps_per_year"]),
    )


def _applied(rule: dict) -> Applied:
    own = {name: value for name, value in rule.items() if name not in ("reads", "on_cap", "on_maintenance")}
    made = VolatilityScaling(**own) if rule["reads"] == "volatility" else Reaction(reads=rule["reads"], **own)
    return Applied(rule=made, on_cap=rule["on_cap"], on_maintenance=rule["on_maintenance"])
