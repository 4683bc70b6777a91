"""Metrics as data: what each measures, in which unit, and how it is computed from one scenario's results."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from stresslev import procyclicality
from stresslev.quantities import (
    RUN,
    allowed,
    allowed_by_group,
    amplification,
    basis,
    by_run,
    capped,
    closed_each_step,
    closed_usd,
    deleveraged_usd,
    fall,
    forced_usd,
    fund_fall,
    held_usd,
    initial_interest,
    initial_requirement,
    insolvent,
    largest,
    largest_increase_within,
    last,
    lends,
    maintenance_requirement,
    over_interest,
    positions_usd,
    ratio,
    steps,
    total,
    used,
    whole,
)

#: Values differ when they do by more than this share of the one held against, and by more than this many shares or dollars.
_RELATIVE, _ABSOLUTE = 1e-3, {"1": 1e-6, "USD": 1.0}

#: Which values of a metric are better.
LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Metric:
    """A number about one scenario."""

    name: str
    title: str
    units: str  # "1" is a fraction or a ratio
    description: str
    compute: Callable[[xr.Dataset], xr.DataArray]  # without dimensions, or by run where the dataset has many
    per_pool: Callable[[xr.Dataset], xr.DataArray] | None = None
    per_group: Callable[[xr.Dataset], xr.DataArray] | None = None  # by size of account
    better: Literal["lower", "higher"] = LOWER
    needs: tuple[str, ...] = ()  # variables that results of earlier versions lack; without them there is no value
    when: Callable[[xr.Dataset], bool] | None = None  # what the scenario must have for there to be a value

    def known(self, ds: xr.Dataset) -> bool:
        """Whether a scenario's results hold what this is computed from."""
        return all(name in ds for name in self.needs) and (self.when is None or self.when(ds))

    def value(self, ds: xr.Dataset) -> float:
        """Of one scenario's results."""
        return float(self.compute(ds))

    def worse(self, value: float, than: float) -> bool:
        """Whether one value is worse than another."""
        return value > than if self.better == LOWER else value < than

    def matters(self, value: float, than: float) -> bool:
        """Whether two values differ by more than rounding, and by so much that it is worth a line."""
        return value != than and not abs(value - than) <= max(_RELATIVE * abs(than), _ABSOLUTE.get(self.units, 0.0))

    def worst(self, values: Iterable[float]) -> float:
        """The worst of some values."""
        return max(values) if self.better == LOWER else min(values)


@dataclass(frozen=True)
class Finding:
    """A metric held against a bound, in one scenario."""

    metric: str
    scenario: str
    value: float
    bound: float
    side: str  # "max" or "min"
    breached: bool
    reason: str


def _cycle(name: str, of: str, requirement: Callable[[xr.Dataset], np.ndarray], needs: tuple[str, ...]) -> tuple[Metric, ...]:
    """How much a requirement moves by itself (Murphy, Vasios and Vause 2014)."""
    title = of[0].upper() + of[1:]
    fixed = f"{of} of the portfolio held at the start, which neither prices nor trades change"
    return (
        Metric(
            f"{name}_peak_to_trough",
            f"{title}, peak to trough",
            "1",
            f"Largest over least {fixed}",
            lambda ds: by_run(ds, procyclicality.peak_to_trough(requirement(ds))),
            needs=needs,
        ),
        *(
            Metric(
                f"{name}_largest_increase_{short}",
                f"{title}, largest increase in {long}",
                "1",
                f"Largest relative increase within {long} of the {fixed}",
                lambda ds, minutes=minutes: by_run(ds, largest_increase_within(requirement(ds), steps(ds, minutes))),
                needs=needs,
            )
            for short, long, minutes in (("1h", "an hour", 60), ("1d", "a day", 1440))
        ),
    )


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "bad_debt_over_open_interest",
            "Bad debt over open interest",
            "1",
            "Losses that nobody bore, over open interest and loans at the start",
            lambda ds: ratio(whole(last(ds.bad_debt_usd)), whole(initial_interest(ds))),
            lambda ds: ratio(last(ds.bad_debt_usd), initial_interest(ds)),
        ),
        Metric(
            "bad_debt_usd",
            "Bad debt",
            "USD",
            "Losses that no account, no insurance fund, no winner and no depositor bore",
            lambda ds: whole(last(ds.bad_debt_usd)),
            lambda ds: last(ds.bad_debt_usd),
        ),
        Metric(
            "deficit_over_open_interest",
            "Losses beyond margin over open interest",
            "1",
            "Negative equity left by accounts that were closed, before anyone bore it, over open interest and loans at the start",
            lambda ds: ratio(whole(total(ds.deficit_usd)), whole(initial_interest(ds))),
            lambda ds: ratio(total(ds.deficit_usd), initial_interest(ds)),
        ),
        Metric(
            "adl_over_open_interest",
            "Losses borne by deleveraged winners over open interest",
            "1",
            "What winners forgo in auto-deleveraging, over open interest and loans at the start",
            lambda ds: ratio(whole(total(ds.adl_usd)), whole(initial_interest(ds))),
            lambda ds: ratio(total(ds.adl_usd), initial_interest(ds)),
        ),
        Metric(
            "deleveraged_notional_share",
            "Notional deleveraged",
            "1",
            "Positions of winners closed by auto-deleveraging over the positions held at the start on both sides, at starting prices",
            lambda ds: ratio(whole(deleveraged_usd(ds)), whole(positions_usd(ds))),
            lambda ds: ratio(deleveraged_usd(ds), positions_usd(ds)),
        ),
        Metric(
            "socialised_over_open_interest",
            "Socialised losses over open interest",
            "1",
            "Losses spread over winners or depositors, over open interest and loans at the start",
            lambda ds: ratio(whole(total(ds.socialised_usd)), whole(initial_interest(ds))),
            lambda ds: ratio(total(ds.socialised_usd), initial_interest(ds)),
        ),
        Metric(
            "credit_loss_usd",
            "Credit losses between pools",
            "USD",
            "Claims on other pools that are lost at the end, once credit between pools is cleared",
            lambda ds: whole(last(ds.credit_loss_usd)),
            lambda ds: last(ds.credit_loss_usd),
        ),
        Metric(
            "insurance_fund_use",
            "Insurance fund use",
            "1",
            "Drawn from insurance funds over what they held at the start; can pass 1, since fees refill them",
            lambda ds: ratio(whole(ds.fund_draw_usd), whole(ds.insurance_fund_usd.isel(time=0))),
            lambda ds: ratio(ds.fund_draw_usd.sum("time"), ds.insurance_fund_usd.isel(time=0)),
        ),
        Metric(
            "insurance_fund_fall",
            "Deepest fall of an insurance fund",
            "1",
            "1 - least balance over starting balance, the worst pool; 1 is exhausted",
            lambda ds: largest(fund_fall(ds)),
            lambda ds: fund_fall(ds),
        ),
        Metric(
            "insolvent_pools",
            "Insolvent pools",
            "pools",
            "Pools whose bad debt exceeds their own treasury and leaves no own funds, and pools with own funds below zero once credit is cleared",
            lambda ds: whole(insolvent(ds)),
            lambda ds: insolvent(ds),
        ),
        Metric(
            "liquidated_accounts_share",
            "Accounts liquidated",
            "1",
            "Accounts of which the pool closed anything, over all accounts",
            lambda ds: ratio(whole(ds.newly_liquidated), whole(ds.accounts)),
            lambda ds: ratio(ds.newly_liquidated.sum("time"), ds.accounts),
            lambda ds: ratio(ds.group_liquidated.sum("pool"), ds.group_accounts.sum("pool")),
        ),
        Metric(
            "liquidated_notional_share",
            "Notional liquidated",
            "1",
            "Positions closed by pools and debt repaid to lenders, over positions of both sides and loans at the start, at starting prices",
            lambda ds: ratio(whole(closed_usd(ds)), whole(held_usd(ds))),
            lambda ds: ratio(closed_usd(ds), held_usd(ds)),
        ),
        Metric(
            "amplification",
            "Amplification, worst asset",
            "1",
            "Deepest fall with the cascade over deepest fall without it; an exogenous fall below 1% counts as 1%",
            lambda ds: largest(amplification(ds)),
        ),
        Metric(
            "endogenous_fall",
            "Further fall made by the cascade",
            "1",
            "Deepest fall with the cascade less deepest fall without it, of the starting price, worst asset",
            lambda ds: largest(fall(ds.price_usd) - fall(ds.exogenous_price_usd)),
        ),
        Metric(
            "endogenous_move",
            "Largest push of the cascade on a price",
            "1",
            "Largest distance, up or down, between the price with and without the cascade, as a share of the latter, worst asset",
            lambda ds: largest(abs(ds.price_usd / ds.exogenous_price_usd - 1)),
        ),
        Metric(
            "latent_deficit_over_open_interest",
            "Unsettled negative equity over open interest",
            "1",
            "Negative equity of accounts that are still open at the end, over open interest and loans at the start",
            lambda ds: ratio(whole(ds.latent_deficit_usd), whole(initial_interest(ds))),
            lambda ds: ratio(ds.latent_deficit_usd, initial_interest(ds)),
            needs=("latent_deficit_usd",),
        ),
        Metric(
            "peak_liquidation_rate",
            "Peak liquidations in one step",
            "1",
            "Most closed and repaid within one step, over positions of both sides and loans at the start",
            lambda ds: ratio(largest(closed_each_step(ds).sum("pool")), whole(held_usd(ds))),
            lambda ds: ratio(closed_each_step(ds).max("time"), held_usd(ds)),
        ),
        Metric(
            "waiting_share",
            "Liquidations nobody took up",
            "1",
            "Demands for closing that found no taker at the price offered, over all demands; an account that waits asks in every step",
            lambda ds: ratio(whole(total(ds.waiting)), whole(total(ds.liquidation_orders))),
            lambda ds: ratio(total(ds.waiting), total(ds.liquidation_orders)),
        ),
        Metric(
            "margin_calls_usd",
            "Moved between pools by margin calls",
            "USD",
            "Moved by owners from an account in one pool to one in another; of a pool, what came in and what went out, added up",
            lambda ds: whole(total(abs(ds.margin_calls_usd))) / 2,
            lambda ds: total(abs(ds.margin_calls_usd)),
        ),
        Metric(
            "largest_basis",
            "Largest gap between a venue and the market",
            "1",
            "Largest distance, up or down, between the price of a venue and the common price, as a share of the latter",
            lambda ds: largest(basis(ds)),
            basis,
        ),
        Metric(
            "redemption_shortfall",
            "Largest shortfall of a receipt token",
            "1",
            "1 - least redemption value of a receipt token per unit of its claim, the worst token",
            lambda ds: largest(1 - ds.redemption),
        ),
        Metric(
            "funding_paid_usd",
            "Funding paid",
            "USD",
            "Funding paid over the run by those who paid",
            lambda ds: whole(total(ds.funding_paid_usd)),
            lambda ds: total(ds.funding_paid_usd),
        ),
        Metric(
            "mean_allowed_leverage",
            "Leverage allowed",
            "1",
            "Notional over the initial margin it needs at the caps in force, averaged over the run; of the portfolio held at the start",
            lambda ds: allowed(ds, "pool", "asset"),
            lambda ds: allowed(ds, "asset"),
            allowed_by_group,
            better=HIGHER,
            needs=("cap_leverage",),
            when=capped,
        ),
        Metric(
            "mean_used_leverage",
            "Leverage used",
            "1",
            "Notional of both sides over the equity behind it, each averaged over the run",
            lambda ds: used(ds, "pool", "group"),
            lambda ds: used(ds, "group"),
            lambda ds: used(ds, "pool"),
            better=HIGHER,
            needs=("group_notional_usd", "group_equity_usd"),
        ),
        Metric(
            "unnecessary_liquidation_share",
            "Liquidated though they would have survived",
            "1",
            "Accounts that, left alone at the marks of the run, would have kept equity and ended above maintenance, of all that venues liquidated",
            lambda ds: ratio(whole(ds.survivors), whole(ds.newly_liquidated.where(~lends(ds), 0))),
            lambda ds: ratio(ds.survivors, ds.newly_liquidated.where(~lends(ds), 0).sum("time")),
            needs=("survivors",),
        ),
        Metric(
            "forced_closing_over_open_interest",
            "Forced closing over open interest",
            "1",
            "Closed by liquidation and forced reduction to caps, on both sides, over open interest and loans at the start; can pass 1",
            lambda ds: ratio(whole(forced_usd(ds)), whole(initial_interest(ds))),
            lambda ds: ratio(forced_usd(ds), initial_interest(ds)),
        ),
        Metric(
            "margin_called_over_open_interest",
            "Outside margin over open interest",
            "1",
            "Cash that users brought in to meet calls, over open interest and loans at the start",
            lambda ds: ratio(whole(total(ds.margin_posted_usd)), whole(initial_interest(ds))),
            lambda ds: ratio(total(ds.margin_posted_usd), initial_interest(ds)),
            needs=("margin_posted_usd",),
        ),
        *_cycle("margin", "maintenance margin", maintenance_requirement, ("maintenance_multiplier",)),
        *_cycle("initial_margin", "initial margin", initial_requirement, ("cap_leverage",)),
        Metric(
            "conservation_residual",
            "Conservation residual",
            "1",
            "Largest imbalance of cash, positions or coins of a pool in one step, over open interest and loans at the start; zero but for rounding",
            lambda ds: over_interest(
                ds,
                abs(ds.cash_residual_usd),
                abs(ds.quantity_residual) * ds.price_usd,
                abs(ds.coins_residual) * ds.price_usd,
            ),
        ),
        Metric(
            "total_residual",
            "Conservation residual of the whole run",
            "1",
            "Imbalance of cash, positions or coins over the whole run, all ledgers summed anew, over open interest and loans at the start",
            lambda ds: over_interest(
                ds,
                abs(ds.total_cash_residual_usd),
                abs(ds.total_quantity_residual_usd),
                abs(ds.total_coins_residual_usd),
            ),
            needs=("total_cash_residual_usd",),
        ),
    )
}


#: What policies are compared by.
MEASURES: dict[str, tuple[str, ...]] = {
    "Safety": ("bad_debt_over_open_interest", "deficit_over_open_interest", "insurance_fund_fall", "insolvent_pools", "amplification"),
    "Capital efficiency": ("mean_allowed_leverage", "mean_used_leverage"),
    "User harm": (
        "liquidated_accounts_share",
        "unnecessary_liquidation_share",
        "forced_closing_over_open_interest",
        "margin_called_over_open_interest",
    ),
    "Procyclicality": (
        "margin_peak_to_trough",
        "margin_largest_increase_1h",
        "margin_largest_increase_1d",
        "initial_margin_peak_to_trough",
        "initial_margin_largest_increase_1h",
        "initial_margin_largest_increase_1d",
    ),
}


def evaluate(ds: xr.Dataset) -> dict[str, float]:
    """Every registered metric of one scenario that its results allow."""
    return {name: metric.value(ds) for name, metric in METRICS.items() if metric.known(ds)}


def evaluate_runs(ds: xr.Dataset, names: Iterable[str]) -> dict[str, np.ndarray]:
    """(run,) the named metrics of many runs in one dataset, as far as its results allow."""
    found = {name: METRICS[name].compute(ds) for name in names if METRICS[name].known(ds)}
    for name, values in found.items():
        if values.dims != (RUN,):
            raise TypeError(f"metric {name} has no value for each run")
    return {name: values.values.astype(float) for name, values in found.items()}


def _split(ds: xr.Dataset, dim: str, how: Callable[[Metric], Callable | None]) -> dict[str, dict[str, float]]:
    """Name along a dimension -> metric -> value; what a newer metric has no value for there is left out."""
    values = {name: how(m)(ds) for name, m in METRICS.items() if how(m) is not None and m.known(ds)}
    found = {str(x): {name: float(v.sel({dim: x})) for name, v in values.items()} for x in ds[dim].values}
    return {x: {n: v for n, v in row.items() if not (np.isnan(v) and METRICS[n].needs)} for x, row in found.items()}


def by_pool(ds: xr.Dataset) -> dict[str, dict[str, float]]:
    """Pool -> metric -> value, for the metrics that have a value per pool."""
    return _split(ds, "pool", lambda m: m.per_pool)


def by_group(ds: xr.Dataset) -> dict[str, dict[str, float]]:
    """Group of accounts, by their size within their pool -> metric -> value, for the metrics that have one; nothing for results without groups."""
    return _split(ds, "group", lambda m: m.per_group) if "group_accounts" in ds else {}
