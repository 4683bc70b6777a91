"""The trajectory: the record of a run as an xarray dataset with units and long names."""

import dataclasses

import numpy as np
import xarray as xr

from stresslev import observe
from stresslev.assemble import MINUTES_PER_YEAR
from stresslev.attribution import CHANNELS, SHOCK
from stresslev.engine.step import Record
from stresslev.quantities import RUN

#: name -> (dimensions after time, units, long name). Levels hold at the end of a step, flows within it; minute 0 is the start.
_VARIABLES = {
    "price_usd": (("asset",), "USD", "price with the cascade"),
    "exogenous_price_usd": (("asset",), "USD", "price without the cascade: the exogenous path alone"),
    "mark_usd": (("pool", "asset"), "USD", "mark or oracle price that the pool judges accounts by"),
    "venue_price_usd": (("pool", "asset"), "USD", "price at which the pool's flow trades"),
    "depth_usd": (("asset",), "USD", "net flow that moves the price by 1%"),
    "volatility": (("asset",), "1/sqrt(year)", "EWMA volatility, annualised"),
    "open_interest_usd": (("pool", "asset"), "USD", "open interest: the larger side of the customers, at the present price"),
    "insurance_fund_usd": (("pool",), "USD", "insurance fund"),
    "treasury_usd": (("pool",), "USD", "trading fees of liquidations, earned since the start"),
    "bad_debt_usd": (("pool",), "USD", "bad debt, cumulative"),
    "funding_rate": (("pool", "asset"), "1", "funding paid in the step, of notional; positive: longs pay"),
    "funding_index_usd": (("pool", "asset"), "USD", "funding that a long of one coin has paid since the start"),
    "funding_paid_usd": (("pool",), "USD", "funding paid in the step by those who pay"),
    "supplied_usd": (("pool", "asset"), "USD", "deposits with a lender, collateral included"),
    "borrowed_usd": (("pool", "asset"), "USD", "loans of a lender"),
    "borrow_rate": (("pool", "asset"), "1/year", "interest on loans"),
    "deficit_usd": (("pool",), "USD", "negative equity left by accounts closed in the step, with what auto-deleveraging saved"),
    "fund_draw_usd": (("pool",), "USD", "deficits of the step paid by insurance funds, the pool's own or others'"),
    "adl_usd": (("pool",), "USD", "deficits of the step saved by auto-deleveraging: what winners forgo"),
    "socialised_usd": (("pool",), "USD", "deficits of the step spread over winners or depositors"),
    "deleveraged": (("pool", "asset"), "coin", "positions of winners closed in the step by auto-deleveraging"),
    "margin_calls_usd": (("pool",), "USD", "moved into the pool in the step by owners with accounts elsewhere; negative: out of it"),
    "shared_in_usd": (("pool",), "USD", "got from other pools' insurance funds in the step, less paid for other pools"),
    "net_worth_usd": (("pool",), "USD", "own funds after clearing of credit between pools"),
    "credit_loss_usd": (("pool",), "USD", "claims on other pools that they cannot pay"),
    "paid_share": (("pool",), "1", "share of what the pool owes other pools that it can pay"),
    "redemption": (("asset",), "1", "cover of receipt tokens by their pool's assets; 1 for other assets"),
    "fees_usd": (("pool",), "USD", "fees paid by liquidated accounts in the step"),
    "liquidation_orders": (("pool",), "1", "demands for closing in the step; an account may ask in several rounds"),
    "waiting": (("pool",), "1", "demands that nobody took up at the price offered"),
    "newly_liquidated": (("pool",), "accounts", "accounts of which something was closed for the first time"),
    "closed_long": (("pool", "asset"), "coin", "long quantity closed, and collateral sold or seized, by the pool in the step"),
    "closed_short": (("pool", "asset"), "coin", "short quantity closed, and debt repaid, by the pool in the step"),
    "closed_long_usd": (("pool", "asset"), "USD", "long notional closed by the pool in the step, and collateral sold or seized, at the fill price"),
    "closed_short_usd": (("pool", "asset"), "USD", "short notional closed by the pool in the step, and debt repaid, at the fill price"),
    "cap_leverage": (("pool", "asset"), "1", "leverage that the policy allows; infinite without caps"),
    "maintenance_multiplier": (("pool", "asset"), "1", "multiplier of the maintenance requirement that the policy has set"),
    "gauge": (("pool", "asset"), "1", "systemic gauge: what a further 1% would liquidate over the depth for 1%, as last measured"),
    "reduced_usd": (("pool", "asset"), "USD", "notional that the pool forced accounts to close in the step without liquidating them"),
    "voluntary_usd": (("pool", "asset"), "USD", "notional that accounts near their limit closed by themselves in the step"),
    "releveraged_usd": (("pool", "asset"), "USD", "notional that accounts took back in the step"),
    "margin_posted_usd": (("pool",), "USD", "outside cash with which accounts met margin calls in the step"),
    "called": (("pool",), "accounts", "accounts with a margin call running"),
    "trader_net_usd": (("pool", "asset"), "USD", "bought by algorithmic traders in the step, less sold"),
    "withdrawn": (("pool", "asset"), "coin", "taken out by depositors in the step"),
    "rounds": ((), "1", "rounds of liquidation within the step"),
    "cash_residual_usd": (("pool",), "USD", "imbalance of cash in the step; zero but for rounding"),
    "quantity_residual": (("pool", "asset"), "coin", "imbalance of positions in the step; zero but for rounding"),
    "coins_residual": (("pool", "asset"), "coin", "imbalance of coins held, lent and owed in the step; zero but for rounding"),
    "status": ((), "1", "status bits raised in the step"),
}
_FINAL = {
    "accounts": (("pool",), "accounts", "accounts at the start"),
    "customer_long": (("ends", "pool", "asset"), "coin", "quantity customers hold long, at the start and at the end"),
    "customer_short": (("ends", "pool", "asset"), "coin", "quantity customers hold short, at the start and at the end"),
    "maker_profit_usd": (("pool",), "USD", "profit of the makers who took the other side, at the last price"),
    "latent_deficit_usd": (("pool",), "USD", "negative equity of accounts still open at the end"),
    "total_cash_residual_usd": (("pool",), "USD", "imbalance of cash over the whole run, all ledgers summed anew"),
    "total_quantity_residual_usd": (("pool", "asset"), "USD", "imbalance of positions over the whole run, valued at the starting prices"),
    "total_coins_residual_usd": (("pool", "asset"), "USD", "imbalance of coins over the whole run, valued at the starting prices"),
    "debtrank": (("pool",), "1", "share of all pools' own funds lost when this one fails, before the scenario (linear DebtRank)"),
}
#: Of an attribution.
_ATTRIBUTED = {
    "deficit_by_channels_usd": (("opened", "pool"), "USD", "deficits of the run in which the channels up to this one are open"),
    "bad_debt_by_channels_usd": (("opened", "pool"), "USD", "bad debt of the run in which the channels up to this one are open"),
    "deficit_without_channel_usd": (("channel", "pool"), "USD", "deficits of the run in which only this channel is shut"),
    "bad_debt_without_channel_usd": (("channel", "pool"), "USD", "bad debt of the run in which only this channel is shut"),
}


#: Measured between chunks of a run.
_MEASURED = {
    "group_notional_usd": (("time", "pool", "group"), "USD", "positions of open accounts with equity above zero, by size of account at the start"),
    "group_equity_usd": (("time", "pool", "group"), "USD", "their equity"),
    "group_liquidated": (("pool", "group"), "accounts", "accounts of the group that were liquidated, at least in part"),
    "group_accounts": (("pool", "group"), "accounts", "accounts of the group"),
    "survivors": (("pool",), "accounts", "liquidated accounts that would have kept some equity throughout, and ended above maintenance, left alone"),
    "survivors_closed_usd": (("pool",), "USD", "what was closed of theirs, at the starting prices"),
    "liquidation_map_usd": (
        ("map_time", "pool", "asset", "move"),
        "USD",
        "what the pool would sell of an asset, less buy, if its price moved alone",
    ),
}


def _flat(record: Record, step_minutes: float) -> dict[str, np.ndarray]:
    """A record's arrays under the names of the dataset."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "flows"}
    values |= {f.name: getattr(record.flows, f.name) for f in dataclasses.fields(record.flows)}
    renamed = {
        "price": "price_usd",
        "exogenous_price": "exogenous_price_usd",
        "depth": "depth_usd",
        "open_interest": "open_interest_usd",
        "insurance_fund": "insurance_fund_usd",
        "treasury": "treasury_usd",
        "bad_debt": "bad_debt_usd",
        "mark": "mark_usd",
        "venue_price": "venue_price_usd",
        "supplied": "supplied_usd",
        "borrowed": "borrowed_usd",
        "net_worth": "net_worth_usd",
        "credit_loss": "credit_loss_usd",
        "funding_paid": "funding_paid_usd",
        "socialised": "socialised_usd",
        "margin_calls": "margin_calls_usd",
        "shared_in": "shared_in_usd",
        "deficit": "deficit_usd",
        "fund_draw": "fund_draw_usd",
        "fees": "fees_usd",
        "triggered": "liquidation_orders",
        "cash_residual": "cash_residual_usd",
        "cap": "cap_leverage",
        "maintenance": "maintenance_multiplier",
        "funding_index": "funding_index_usd",
        "margin_posted": "margin_posted_usd",
        "trader_usd": "trader_net_usd",
    }
    out = {renamed.get(k, k): np.asarray(v) for k, v in values.items()}
    out["volatility"] = np.sqrt(out.pop("variance").astype(float) * MINUTES_PER_YEAR / step_minutes)
    return out


def scenario_dataset(
    *,
    records: list[Record],
    initial: dict[str, np.ndarray],
    final: dict[str, np.ndarray],
    minutes: np.ndarray,
    pools: tuple[str, ...],
    assets: tuple[str, ...],
    attributes: dict,
) -> xr.Dataset:
    """One scenario as a dataset with units and long names.

    Args:
      records: of consecutive chunks of steps.
      initial: levels at minute 0 by variable; flows are zero there.
      final: the variables of the whole run.
      minutes: (T + 1,) grid.
    """
    data = _over_time(records, initial, float(minutes[1] - minutes[0]), ())
    for name, (dims, units, title) in _FINAL.items():
        data[name] = (dims, np.asarray(final[name]), {"units": units, "long_name": title})
    return xr.Dataset(data, coords=_coordinates(minutes, pools, assets), attrs=attributes)


def runs_dataset(
    *,
    records: list[Record],
    initial: dict[str, np.ndarray],
    final: dict[str, np.ndarray],
    minutes: np.ndarray,
    pools: tuple[str, ...],
    assets: tuple[str, ...],
) -> xr.Dataset:
    """Many runs on one grid, as `scenario_dataset` with a leading dimension `run` on every variable. Of the final ones those that are given."""
    data = _over_time(records, initial, float(minutes[1] - minutes[0]), (RUN,))
    for name, values in final.items():
        dims, units, title = _FINAL[name]
        data[name] = ((RUN, *dims), np.asarray(values), {"units": units, "long_name": title})
    return xr.Dataset(data, coords=_coordinates(minutes, pools, assets))


def _over_time(records: list[Record], initial: dict[str, np.ndarray], step_minutes: float, lead: tuple[str, ...]) -> dict[str, tuple]:
    """The variables with a time, minute 0 included; `lead` are the dimensions before it."""
    at, data = len(lead), {}
    chunks = [_flat(r, step_minutes) for r in records]
    for name, (dims, units, title) in _VARIABLES.items():
        values = np.concatenate([c[name] for c in chunks], axis=at)
        shape = values.shape[:at] + values.shape[at + 1 :]
        first = np.expand_dims(np.broadcast_to(np.asarray(initial.get(name, 0), values.dtype), shape), at)
        data[name] = ((*lead, "time", *dims), np.concatenate([first, values], axis=at), {"units": units, "long_name": title})
    return data


def _coordinates(minutes: np.ndarray, pools: tuple[str, ...], assets: tuple[str, ...]) -> dict[str, tuple]:
    return {
        "time": ("time", minutes, {"units": "minutes", "long_name": "time since the scenario's start"}),
        "pool": ("pool", list(pools), {"long_name": "pool"}),
        "asset": ("asset", list(assets), {"long_name": "asset"}),
        "ends": ("ends", ["start", "end"], {"long_name": "start or end of the scenario"}),
    }


def measures_dataset(values: dict[str, np.ndarray], *, pools, assets, map_minutes: np.ndarray) -> xr.Dataset:
    """The variables measured between chunks, to be merged into a scenario's dataset."""
    data = {name: (_MEASURED[name][0], v, {"units": _MEASURED[name][1], "long_name": _MEASURED[name][2]}) for name, v in values.items()}
    coords = {"pool": ("pool", list(pools)), "group": ("group", list(observe.GROUPS), {"long_name": "accounts by size within their pool"})}
    if "liquidation_map_usd" in values:
        coords |= {
            "asset": ("asset", list(assets)),
            "map_time": ("map_time", map_minutes, {"units": "minutes", "long_name": "time of a liquidation map"}),
            "move": ("move", list(observe.MOVES), {"units": "1", "long_name": "relative move of the price"}),
        }
    return xr.Dataset(data, coords=coords)


def attribution_dataset(values: dict[str, np.ndarray], *, pools: tuple[str, ...], accounts: int) -> xr.Dataset:
    """The variables of an attribution, to be merged into a scenario's dataset; `accounts` is the size of the book they were found on."""
    data = {
        name: (dims, np.asarray(values[name]), {"units": units, "long_name": title, "accounts": accounts})
        for name, (dims, units, title) in _ATTRIBUTED.items()
    }
    coords = {
        "opened": ("opened", [SHOCK, *CHANNELS], {"long_name": "last channel opened"}),
        "channel": ("channel", list(CHANNELS), {"long_name": "channel"}),
        "pool": ("pool", list(pools)),
    }
    return xr.Dataset(data, coords=coords)
