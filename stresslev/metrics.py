"""Metrics as data: what each measures, in which unit, and how it is computed from one scenario's results."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

#: An exogenous fall below this counts as this in the amplification, so that a cascade out of nothing shows and rounding does not.
LEAST_FALL = 0.01


@dataclass(frozen=True)
class Metric:
    """A number about one scenario. Larger is worse for every metric here."""

    name: str
    title: str
    units: str  # "1" is a fraction or a ratio
    description: str
    compute: Callable[[xr.Dataset], float]
    per_pool: Callable[[xr.Dataset], xr.DataArray] | None = None


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


def _initial_interest(ds: xr.Dataset) -> xr.DataArray:
    """Open interest and loans at the start, by pool: what deficits are held against."""
    return (ds.open_interest_usd + ds.borrowed_usd).isel(time=0).sum("asset")


def _last(variable: xr.DataArray) -> xr.DataArray:
    return variable.isel(time=-1)


def _ratio(part, whole):
    """part / whole, 0 where both are 0 and infinite where only the whole is."""
    part, whole = xr.DataArray(part), xr.DataArray(whole)
    return xr.where(whole > 0, part / xr.where(whole > 0, whole, 1), xr.where(part > 0, np.inf, 0.0))


def _over_interest(ds: xr.Dataset, *usd) -> float:
    """The largest of some USD figures over open interest and loans at the start."""
    return float(_ratio(max(float(x) for x in usd), _initial_interest(ds).sum()))


def fall(price: xr.DataArray) -> xr.DataArray:
    """Deepest fall from the start, per asset, as a fraction."""
    return 1 - price.min("time") / price.isel(time=0)


def amplification(ds: xr.Dataset) -> xr.DataArray:
    """Per asset: fall with the cascade over fall without; where the exogenous price falls by less than 1%, one plus the further fall over 1%."""
    outside = fall(ds.exogenous_price_usd)
    return 1 + (fall(ds.price_usd) - outside) / np.maximum(outside, LEAST_FALL)


def _both_sides(ds: xr.Dataset, long: xr.DataArray, short: xr.DataArray) -> xr.DataArray:
    """Positions of both sides; of a lender only the debt repaid, which the collateral that was taken pays for."""
    lends = (ds.supplied_usd + ds.borrowed_usd).isel(time=0).sum("asset") > 0
    return xr.where(lends, 0.0, long) + short


def _closed_usd(ds):
    """Positions closed and debt repaid, in USD at the starting prices, per pool."""
    return (_both_sides(ds, ds.closed_long, ds.closed_short) * ds.price_usd.isel(time=0)).sum(("time", "asset"))


def _closed_each_step(ds):
    return _both_sides(ds, ds.closed_long_usd, ds.closed_short_usd).sum("asset")


def _positions_usd(ds):
    return (ds.customer_long + ds.customer_short).sel(ends="start").dot(ds.price_usd.isel(time=0), dim="asset")


def _held_usd(ds):
    return _positions_usd(ds) + ds.borrowed_usd.isel(time=0).sum("asset")


def _total(variable: xr.DataArray) -> xr.DataArray:
    """Sum of a flow over the run."""
    return variable.astype(float).sum("time")


def _deleveraged_usd(ds):
    return (_total(ds.deleveraged) * ds.price_usd.isel(time=0)).sum("asset")


def _basis(ds):
    return abs(ds.venue_price_usd / ds.price_usd - 1).max(("time", "asset"))


def _insolvent(ds):
    short = (_last(ds.bad_debt_usd) > _last(ds.treasury_usd)) & (_last(ds.net_worth_usd) <= 0)
    return (short | (_last(ds.net_worth_usd) < 0)).astype(int)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "bad_debt_over_open_interest",
            "Bad debt over open interest",
            "1",
            "Losses that nobody bore, over open interest and loans at the start",
            lambda ds: float(_ratio(_last(ds.bad_debt_usd).sum(), _initial_interest(ds).sum())),
            lambda ds: _ratio(_last(ds.bad_debt_usd), _initial_interest(ds)),
        ),
        Metric(
            "bad_debt_usd",
            "Bad debt",
            "USD",
            "Losses that no account, no insurance fund, no winner and no depositor bore",
            lambda ds: float(_last(ds.bad_debt_usd).sum()),
            lambda ds: _last(ds.bad_debt_usd),
        ),
        Metric(
            "deficit_over_open_interest",
            "Losses beyond margin over open interest",
            "1",
            "Negative equity left by accounts that were closed, before anyone bore it, over open interest and loans at the start",
            lambda ds: float(_ratio(_total(ds.deficit_usd).sum(), _initial_interest(ds).sum())),
            lambda ds: _ratio(_total(ds.deficit_usd), _initial_interest(ds)),
        ),
        Metric(
            "adl_over_open_interest",
            "Losses borne by deleveraged winners over open interest",
            "1",
            "What winners forgo in auto-deleveraging, over open interest and loans at the start",
            lambda ds: float(_ratio(_total(ds.adl_usd).sum(), _initial_interest(ds).sum())),
            lambda ds: _ratio(_total(ds.adl_usd), _initial_interest(ds)),
        ),
        Metric(
            "deleveraged_notional_share",
            "Notional deleveraged",
            "1",
            "Positions of winners closed by auto-deleveraging over the positions held at the start on both sides, at starting prices",
            lambda ds: float(_ratio(_deleveraged_usd(ds).sum(), _positions_usd(ds).sum())),
            lambda ds: _ratio(_deleveraged_usd(ds), _positions_usd(ds)),
        ),
        Metric(
            "socialised_over_open_interest",
            "Socialised losses over open interest",
            "1",
            "Losses spread over winners or depositors, over open interest and loans at the start",
            lambda ds: float(_ratio(_total(ds.socialised_usd).sum(), _initial_interest(ds).sum())),
            lambda ds: _ratio(_total(ds.socialised_usd), _initial_interest(ds)),
        ),
        Metric(
            "credit_loss_usd",
            "Credit losses between pools",
            "USD",
            "Claims on other pools that are lost at the end, once credit between pools is cleared",
            lambda ds: float(_last(ds.credit_loss_usd).sum()),
            lambda ds: _last(ds.credit_loss_usd),
        ),
        Metric(
            "insurance_fund_use",
            "Insurance fund use",
            "1",
            "Drawn from insurance funds over what they held at the start; can pass 1, since fees refill them",
            lambda ds: float(_ratio(ds.fund_draw_usd.sum(), ds.insurance_fund_usd.isel(time=0).sum())),
            lambda ds: _ratio(ds.fund_draw_usd.sum("time"), ds.insurance_fund_usd.isel(time=0)),
        ),
        Metric(
            "insurance_fund_fall",
            "Deepest fall of an insurance fund",
            "1",
            "1 - least balance over starting balance, the worst pool; 1 is exhausted",
            lambda ds: float(np.max(_fund_fall(ds).values)),
            lambda ds: _fund_fall(ds),
        ),
        Metric(
            "insolvent_pools",
            "Insolvent pools",
            "pools",
            "Pools whose bad debt exceeds their own treasury and leaves no own funds, and pools with own funds below zero once credit is cleared",
            lambda ds: float(_insolvent(ds).sum()),
            lambda ds: _insolvent(ds),
        ),
        Metric(
            "liquidated_accounts_share",
            "Accounts liquidated",
            "1",
            "Accounts of which the pool closed anything, over all accounts",
            lambda ds: float(_ratio(ds.newly_liquidated.sum(), ds.accounts.sum())),
            lambda ds: _ratio(ds.newly_liquidated.sum("time"), ds.accounts),
        ),
        Metric(
            "liquidated_notional_share",
            "Notional liquidated",
            "1",
            "Positions closed by pools and debt repaid to lenders, over positions of both sides and loans at the start, at starting prices",
            lambda ds: float(_ratio(_closed_usd(ds).sum(), _held_usd(ds).sum())),
            lambda ds: _ratio(_closed_usd(ds), _held_usd(ds)),
        ),
        Metric(
            "amplification",
            "Amplification, worst asset",
            "1",
            "Deepest fall with the cascade over deepest fall without it; an exogenous fall below 1% counts as 1%",
            lambda ds: float(amplification(ds).max()),
        ),
        Metric(
            "endogenous_fall",
            "Further fall made by the cascade",
            "1",
            "Deepest fall with the cascade less deepest fall without it, of the starting price, worst asset",
            lambda ds: float((fall(ds.price_usd) - fall(ds.exogenous_price_usd)).max()),
        ),
        Metric(
            "endogenous_move",
            "Largest push of the cascade on a price",
            "1",
            "Largest distance, up or down, between the price with and without the cascade, as a share of the latter, worst asset",
            lambda ds: float(abs(ds.price_usd / ds.exogenous_price_usd - 1).max()),
        ),
        Metric(
            "latent_deficit_over_open_interest",
            "Unsettled negative equity over open interest",
            "1",
            "Negative equity of accounts that are still open at the end, over open interest and loans at the start",
            lambda ds: float(_ratio(ds.latent_deficit_usd.sum(), _initial_interest(ds).sum())),
            lambda ds: _ratio(ds.latent_deficit_usd, _initial_interest(ds)),
        ),
        Metric(
            "peak_liquidation_rate",
            "Peak liquidations in one step",
            "1",
            "Most closed and repaid within one step, over positions of both sides and loans at the start",
            lambda ds: float(_ratio(_closed_each_step(ds).sum("pool").max(), _held_usd(ds).sum())),
            lambda ds: _ratio(_closed_each_step(ds).max("time"), _held_usd(ds)),
        ),
        Metric(
            "waiting_share",
            "Liquidations nobody took up",
            "1",
            "Demands for closing that found no taker at the price offered, over all demands; an account that waits asks in every step",
            lambda ds: float(_ratio(_total(ds.waiting).sum(), _total(ds.liquidation_orders).sum())),
            lambda ds: _ratio(_total(ds.waiting), _total(ds.liquidation_orders)),
        ),
        Metric(
            "margin_calls_usd",
            "Moved between pools by margin calls",
            "USD",
            "Moved by owners from an account in one pool to one in another; of a pool, what came in and what went out, added up",
            lambda ds: float(_total(abs(ds.margin_calls_usd)).sum() / 2),
            lambda ds: _total(abs(ds.margin_calls_usd)),
        ),
        Metric(
            "largest_basis",
            "Largest gap between a venue and the market",
            "1",
            "Largest distance, up or down, between the price of a venue and the common price, as a share of the latter",
            lambda ds: float(_basis(ds).max()),
            _basis,
        ),
        Metric(
            "redemption_shortfall",
            "Largest shortfall of a receipt token",
            "1",
            "1 - least redemption value of a receipt token per unit of its claim, the worst token",
            lambda ds: float(1 - ds.redemption.min()),
        ),
        Metric(
            "funding_paid_usd",
            "Funding paid",
            "USD",
            "Funding paid over the run by those who paid",
            lambda ds: float(_total(ds.funding_paid_usd).sum()),
            lambda ds: _total(ds.funding_paid_usd),
        ),
        Metric(
            "conservation_residual",
            "Conservation residual",
            "1",
            "Largest imbalance of cash, positions or coins of a pool in one step, over open interest and loans at the start; zero but for rounding",
            lambda ds: _over_interest(
                ds,
                abs(ds.cash_residual_usd).max(),
                (abs(ds.quantity_residual) * ds.price_usd).max(),
                (abs(ds.coins_residual) * ds.price_usd).max(),
            ),
        ),
        Metric(
            "total_residual",
            "Conservation residual of the whole run",
            "1",
            "Imbalance of cash, positions or coins over the whole run, all ledgers summed anew, over open interest and loans at the start",
            lambda ds: _over_interest(
                ds,
                abs(ds.total_cash_residual_usd).max(),
                abs(ds.total_quantity_residual_usd).max(),
                abs(ds.total_coins_residual_usd).max(),
            ),
        ),
    )
}


def _fund_fall(ds: xr.Dataset) -> xr.DataArray:
    start = ds.insurance_fund_usd.isel(time=0)
    return xr.where(start > 0, 1 - ds.insurance_fund_usd.min("time") / xr.where(start > 0, start, 1), 0.0)


def evaluate(ds: xr.Dataset) -> dict[str, float]:
    """Every registered metric of one scenario."""
    return {name: metric.compute(ds) for name, metric in METRICS.items()}


def by_pool(ds: xr.Dataset) -> dict[str, dict[str, float]]:
    """Pool -> metric -> value, for the metrics that have a value per pool."""
    values = {name: m.per_pool(ds) for name, m in METRICS.items() if m.per_pool is not None}
    return {str(p): {name: float(v.sel(pool=p)) for name, v in values.items()} for p in ds.pool.values}
