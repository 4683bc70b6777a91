"""Stress tests of leveraged markets: margin accounts, pools, liquidation cascades, and the rules that adjust leverage.

    from stresslev import load_plan, run_plan, save

    outcome = run_plan(load_plan("gap_35_half_depth", accounts=50_000))
    outcome.metrics["gap_35_half_depth"]["bad_debt_over_open_interest"]
    outcome.datasets["gap_35_half_depth"].price_usd.min("time")

The engine by itself, arrays in and arrays out, is `stresslev.engine.simulate.simulate`.
"""

from importlib import import_module

__version__ = "0.1.0"

# looked up on first use, so that importing the package (and `stresslev --version`) does not import jax
_PUBLIC = {
    "load_plan": "stresslev.config.load",
    "load_system": "stresslev.config.load",
    "run_plan": "stresslev.run",
    "save": "stresslev.run",
    "compare": "stresslev.policies",
    "load_factors": "stresslev.config.load",
    "reverse_stress": "stresslev.reverse.study",
    "simulate_many": "stresslev.many",
    "simulate": "stresslev.engine.simulate",
    "METRICS": "stresslev.metrics",
    "InputError": "stresslev.errors",
    "NumericalFailure": "stresslev.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'stresslev' has no attribute {name!r}")
