"""Metrics that have a derivative: the same figures as their namesakes in `metrics`, of the engine's records instead of a dataset.

What counts accounts, or looks at single ones, has none: a change of a parameter changes it by whole accounts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from stresslev.engine.step import Record
from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.quantities import LEAST_FALL


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Start:
    """Levels at minute 0."""

    price: Array  # (A,) USD
    open_interest: Array  # (V, A) USD
    borrowed: Array  # (V, A) USD
    supplied: Array  # (V, A) USD
    held: Array  # (V, A) USD of positions on both sides
    insurance_fund: Array  # (V,) USD
    maintenance: Array  # (V, A) multiplier
    cap: Array  # (V, A) leverage


#: A number () made of the record of all steps (leading axis T) and the levels before the first.
Objective = Callable[[Record, Start], Array]


def start_of(levels: Mapping[str, np.ndarray], long_quantity: np.ndarray, short_quantity: np.ndarray) -> Start:
    """From the levels at minute 0 by variable (`preparation.initial_levels`) and customers' positions (V, A)."""
    interest = jnp.asarray(levels["open_interest_usd"])
    none = jnp.zeros_like(interest)
    price = jnp.asarray(levels["price_usd"])

    def level(name: str) -> Array:
        return jnp.asarray(levels[name], interest.dtype) if name in levels else none

    return Start(
        price=price,
        open_interest=interest,
        borrowed=level("borrowed_usd"),
        supplied=level("supplied_usd"),
        held=jnp.asarray(long_quantity + short_quantity) * price[None, :],
        insurance_fund=jnp.asarray(levels["insurance_fund_usd"]),
        maintenance=level("maintenance_multiplier"),
        cap=level("cap_leverage"),
    )


def _interest(start: Start) -> Array:
    return jnp.sum(start.open_interest + start.borrowed)


def _over_interest(usd: Array, start: Start) -> Array:
    """A sum over everything, over open interest and loans at the start."""
    whole = _interest(start)
    return jnp.sum(usd) / jnp.where(whole > 0, whole, 1)


def _lends(start: Start) -> Array:
    return jnp.sum(start.supplied + start.borrowed, axis=1) > 0


def _both_sides(start: Start, long: Array, short: Array) -> Array:
    """(T, V, A) positions of both sides; of a lender only the debt repaid."""
    return jnp.where(_lends(start)[None, :, None], 0, long) + short


def _fall(price: Array, start: Array) -> Array:
    return 1 - jnp.minimum(jnp.min(price, axis=0) / start, 1)


def _allowed(record: Record, start: Start) -> Array:
    there = jnp.isfinite(record.cap) & (record.cap > 0) & (start.open_interest > 0)[None]
    held = jnp.where(there, start.open_interest[None], 0)
    margin = jnp.sum(held / jnp.where(there, record.cap, 1))
    return jnp.sum(held) / jnp.where(margin > 0, margin, jnp.nan)


def _of_held(start: Start, first: Array, later: Array) -> Array:
    """(T + 1,) a factor (V, A) and (T, V, A), weighted with open interest at the start, or deposits where there is none."""
    held = jnp.where(jnp.sum(start.open_interest) > 0, start.open_interest, start.supplied)
    size = jnp.sum(held)
    factor = jnp.concatenate([first[None], later])
    return jnp.sum(jnp.where((held > 0)[None], factor, 0) * held[None], axis=(1, 2)) / jnp.where(size > 0, size, 1)


def _margin(record: Record, start: Start) -> Array:
    return _of_held(start, start.maintenance, record.maintenance)


def _initial_margin(record: Record, start: Start) -> Array:
    return _of_held(start, 1 / start.cap, 1 / record.cap)


def _peak_to_trough(requirement: Array) -> Array:
    least = jnp.min(requirement)
    return jnp.where(least > 0, jnp.max(requirement) / jnp.where(least > 0, least, 1), 1)


#: Those that are not registered in `metrics` may be added here: `OBJECTIVES["name"] = function`.
OBJECTIVES: dict[str, Objective] = {
    "bad_debt_over_open_interest": lambda r, s: _over_interest(r.bad_debt[-1], s),
    "bad_debt_usd": lambda r, s: jnp.sum(r.bad_debt[-1]),
    "deficit_over_open_interest": lambda r, s: _over_interest(r.flows.deficit, s),
    "adl_over_open_interest": lambda r, s: _over_interest(r.flows.adl_usd, s),
    "socialised_over_open_interest": lambda r, s: _over_interest(r.flows.socialised, s),
    "insurance_fund_use": lambda r, s: jnp.sum(r.flows.fund_draw) / jnp.maximum(jnp.sum(s.insurance_fund), 1),
    "forced_closing_over_open_interest": lambda r, s: _over_interest(
        _both_sides(s, r.flows.closed_long_usd, r.flows.closed_short_usd) + r.flows.reduced_usd, s
    ),
    "liquidated_notional_share": lambda r, s: (
        jnp.sum(_both_sides(s, r.flows.closed_long, r.flows.closed_short) * s.price[None, None]) / jnp.sum(s.held + s.borrowed)
    ),
    "margin_called_over_open_interest": lambda r, s: _over_interest(r.flows.margin_posted, s),
    "endogenous_fall": lambda r, s: jnp.max(_fall(r.price, s.price) - _fall(r.exogenous_price, s.price)),
    "amplification": lambda r, s: jnp.max(
        1 + (_fall(r.price, s.price) - _fall(r.exogenous_price, s.price)) / jnp.maximum(_fall(r.exogenous_price, s.price), LEAST_FALL)
    ),
    "mean_allowed_leverage": _allowed,
    "margin_peak_to_trough": lambda r, s: _peak_to_trough(_margin(r, s)),
    "initial_margin_peak_to_trough": lambda r, s: _peak_to_trough(_initial_margin(r, s)),
}


def check_objectives(names: Iterable[str], file: str) -> None:
    """Refuse names that are not among `OBJECTIVES`. Raises InputError."""
    for name in names:
        if name not in OBJECTIVES:
            raise InputError(file, Problem("metric", name, "has no derivative, or is no metric", did_you_mean(name, OBJECTIVES)))
