"""What metrics are made of: figures of one scenario's results."""

import numpy as np
import xarray as xr

from stresslev import procyclicality

#: An exogenous fall below this counts as this in the amplification, so that a cascade out of nothing shows and rounding does not.
LEAST_FALL = 0.01
#: Dimension of a dataset that holds many runs. What follows treats each by itself.
RUN = "run"


def _own(variable: xr.DataArray) -> list[str]:
    return [d for d in variable.dims if d != RUN]


def whole(variable: xr.DataArray) -> xr.DataArray:
    """Sum over everything in a run."""
    return variable.sum(_own(variable))


def largest(variable: xr.DataArray) -> xr.DataArray:
    """The largest of everything in a run."""
    return variable.max(_own(variable))


def by_run(ds: xr.Dataset, values: np.ndarray) -> xr.DataArray:
    """A value, or one for each run of the dataset."""
    return xr.DataArray(values, dims=[RUN] if RUN in ds.dims else [])


def initial_interest(ds: xr.Dataset) -> xr.DataArray:
    """Open interest and loans at the start, by pool: what deficits are held against."""
    return (ds.open_interest_usd + ds.borrowed_usd).isel(time=0).sum("asset")


def last(variable: xr.DataArray) -> xr.DataArray:
    """A level at the end of the run."""
    return variable.isel(time=-1)


def ratio(part, whole):
    """part / whole, 0 where both are 0 and infinite where only the whole is."""
    part, whole = xr.DataArray(part), xr.DataArray(whole)
    return xr.where(whole > 0, part / xr.where(whole > 0, whole, 1), xr.where(part > 0, np.inf, 0.0))


def over_interest(ds: xr.Dataset, *usd: xr.DataArray) -> xr.DataArray:
    """The largest of some USD figures over open interest and loans at the start."""
    worst = largest(usd[0])
    for figures in usd[1:]:
        worst = np.maximum(worst, largest(figures))
    return ratio(worst, whole(initial_interest(ds)))


def fall(price: xr.DataArray) -> xr.DataArray:
    """Deepest fall from the start, per asset, as a fraction."""
    return 1 - price.min("time") / price.isel(time=0)


def amplification(ds: xr.Dataset) -> xr.DataArray:
    """Per asset: fall with the cascade over fall without; where the exogenous price falls by less than 1%, one plus the further fall over 1%."""
    outside = fall(ds.exogenous_price_usd)
    return 1 + (fall(ds.price_usd) - outside) / np.maximum(outside, LEAST_FALL)


def lends(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) whether a pool lends."""
    return (ds.supplied_usd + ds.borrowed_usd).isel(time=0).sum("asset") > 0


def both_sides(ds: xr.Dataset, long: xr.DataArray, short: xr.DataArray) -> xr.DataArray:
    """Positions of both sides; of a lender only the debt repaid, which the collateral that was taken pays for."""
    return xr.where(lends(ds), 0.0, long) + short


def closed_usd(ds: xr.Dataset) -> xr.DataArray:
    """Positions closed and debt repaid, in USD at the starting prices, per pool."""
    return (both_sides(ds, ds.closed_long, ds.closed_short) * ds.price_usd.isel(time=0)).sum(("time", "asset"))


def closed_each_step(ds: xr.Dataset) -> xr.DataArray:
    """(time, pool) USD closed by pools and repaid to lenders."""
    return both_sides(ds, ds.closed_long_usd, ds.closed_short_usd).sum("asset")


def positions_usd(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) USD held at the start on both sides."""
    return (ds.customer_long + ds.customer_short).sel(ends="start").dot(ds.price_usd.isel(time=0), dim="asset")


def held_usd(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) USD held at the start on both sides, and loans."""
    return positions_usd(ds) + ds.borrowed_usd.isel(time=0).sum("asset")


def total(variable: xr.DataArray) -> xr.DataArray:
    """Sum of a flow over the run."""
    return variable.astype(float).sum("time")


def deleveraged_usd(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) USD of winners' positions closed by auto-deleveraging, at starting prices."""
    return (total(ds.deleveraged) * ds.price_usd.isel(time=0)).sum("asset")


def basis(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) largest relative distance of a venue's price from the common one."""
    return abs(ds.venue_price_usd / ds.price_usd - 1).max(("time", "asset"))


def insolvent(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) 1 where a pool cannot meet its obligations at the end."""
    short = (last(ds.bad_debt_usd) > last(ds.treasury_usd)) & (last(ds.net_worth_usd) <= 0)
    return (short | (last(ds.net_worth_usd) < 0)).astype(int)


def _caps(ds: xr.Dataset) -> xr.DataArray:
    """(time, pool, asset) caps in force after the start; not a number where there is none."""
    cap = ds.cap_leverage.isel(time=slice(1, None)).astype(float)
    return cap.where(np.isfinite(cap) & (cap > 0) & (ds.open_interest_usd.isel(time=0) > 0))


def capped(ds: xr.Dataset) -> bool:
    """Whether any cap on leverage is in force where positions are held."""
    return bool(_caps(ds).notnull().any())


def margin_time(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Open interest of the start, and the initial margin it needs at the caps in force, (pool, asset), summed over steps.

    The weights do not move, so that policies are compared on one portfolio, whatever they made of it. Markets without a cap count for nothing.
    """
    cap = _caps(ds)
    held = ds.open_interest_usd.isel(time=0).astype(float).where(cap.notnull(), 0.0)
    return held.sum("time"), (held / cap.fillna(1.0)).sum("time")


def allowed(ds: xr.Dataset, *dims: str) -> xr.DataArray:
    """Leverage allowed: notional over initial margin, both summed over the run and dimensions of (pool, asset): a harmonic mean. NaN without caps."""
    held, margin = (x.sum(dims) for x in margin_time(ds))
    return (held / margin.where(margin > 0)).rename(None)


def allowed_by_group(ds: xr.Dataset) -> xr.DataArray:
    """Of what a group holds at the start, pool by pool, over the initial margin that needs."""
    held = ds.group_notional_usd.isel(time=0).astype(float)
    leverage = allowed(ds, "asset")
    held = held.where(leverage.notnull(), 0.0)
    margin = (held / leverage.fillna(1.0)).sum("pool")
    return held.sum("pool") / margin.where(margin > 0)


def used(ds: xr.Dataset, *dims: str) -> xr.DataArray:
    """Leverage used: notional over equity, both summed over the run and over dimensions of (pool, group)."""
    return ratio(total(ds.group_notional_usd).sum(dims), total(ds.group_equity_usd).sum(dims))


def reduced_each_step(ds: xr.Dataset) -> xr.DataArray:
    """(time, pool) USD that a tightened cap forces accounts to close."""
    return ds.reduced_usd.astype(float).sum("asset") if "reduced_usd" in ds else xr.zeros_like(ds.bad_debt_usd, dtype=float)


def forced_usd(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) USD closed by liquidation, and by what a tightened cap forces."""
    return (closed_each_step(ds) + reduced_each_step(ds)).sum("time")


def of_held(ds: xr.Dataset, factor: xr.DataArray) -> np.ndarray:
    """(T + 1,), or (T + 1, runs): a factor (time, pool, asset) >= 0, weighted with open interest at the start, or deposits where there is none.

    Ones where that leaves nothing to speak of at some time.
    """
    held, deposits = (x.isel(time=0).astype(float) for x in (ds.open_interest_usd, ds.supplied_usd))
    held = xr.where(whole(held) > 0, held, deposits)
    size = whole(held)
    weighted = (factor.astype(float).where(held > 0, 0.0) * held).sum(("pool", "asset")).transpose("time", ...)
    fine = (weighted.min("time") > 0) & np.isfinite(weighted).all("time")
    return (weighted / size.where(fine, 1.0)).where(fine, 1.0).values


def maintenance_requirement(ds: xr.Dataset) -> np.ndarray:
    """(T + 1,) maintenance margin of the portfolio held at the start, were neither prices nor positions to move, over that without any rule."""
    return of_held(ds, ds.maintenance_multiplier)


def initial_requirement(ds: xr.Dataset) -> np.ndarray:
    """(T + 1,) initial margin of the portfolio held at the start, as a share of its notional: the inverse of the caps in force."""
    cap = ds.cap_leverage.astype(float)
    return of_held(ds, 1 / cap.where(cap > 0, np.inf))


def steps(ds: xr.Dataset, minutes: float) -> int:
    """Steps that a time takes, at least one and no more than there are."""
    length = float(ds.time[1] - ds.time[0])
    return int(np.clip(round(minutes / length), 1, ds.sizes["time"] - 1))


def fund_fall(ds: xr.Dataset) -> xr.DataArray:
    """(pool,) deepest fall of the insurance fund, as a share of its start."""
    start = ds.insurance_fund_usd.isel(time=0)
    return xr.where(start > 0, 1 - ds.insurance_fund_usd.min("time") / xr.where(start > 0, start, 1), 0.0)


def largest_increase_within(requirement: np.ndarray, most: int) -> np.ndarray:
    """Largest relative increase over any number of steps up to `most`; requirement (T, ...)."""
    return np.max([procyclicality.largest_increase(requirement, k) for k in range(1, most + 1)], axis=0)
