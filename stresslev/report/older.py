"""Results of earlier versions: what they do not record gets the values of a system in which it does not exist."""

import numpy as np
import xarray as xr

#: name -> dimensions; zero where it is missing.
_NOTHING = {
    "funding_rate": ("time", "pool", "asset"),
    "funding_paid_usd": ("time", "pool"),
    "supplied_usd": ("time", "pool", "asset"),
    "borrowed_usd": ("time", "pool", "asset"),
    "borrow_rate": ("time", "pool", "asset"),
    "adl_usd": ("time", "pool"),
    "socialised_usd": ("time", "pool"),
    "deleveraged": ("time", "pool", "asset"),
    "margin_calls_usd": ("time", "pool"),
    "shared_in_usd": ("time", "pool"),
    "net_worth_usd": ("time", "pool"),
    "credit_loss_usd": ("time", "pool"),
    "liquidation_orders": ("time", "pool"),
    "waiting": ("time", "pool"),
    "coins_residual": ("time", "pool", "asset"),
    "total_coins_residual_usd": ("pool", "asset"),
    "debtrank": ("pool",),
}


def completed(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with every variable the report reads."""
    new = {name: (dims, np.zeros([ds.sizes[d] for d in dims])) for name, dims in _NOTHING.items() if name not in ds}
    everywhere = ds.price_usd.broadcast_like(ds.open_interest_usd)
    new |= {name: everywhere for name in ("mark_usd", "venue_price_usd") if name not in ds}
    if "paid_share" not in ds:
        new["paid_share"] = xr.ones_like(ds.insurance_fund_usd)
    if "redemption" not in ds:
        new["redemption"] = xr.ones_like(ds.price_usd)
    if "deficit_usd" not in ds:
        # funds paid first, and the rest was bad debt
        new["deficit_usd"] = ds.fund_draw_usd + ds.bad_debt_usd - ds.bad_debt_usd.shift(time=1, fill_value=0)
    return ds.assign(new)
