"""What one sees in a chart, in a sentence or two with numbers."""

import numpy as np

from stresslev.report import words
from stresslev.report.facts import NEGLIGIBLE, deepenings, exhausted_funds, fundless_pools, open_interest
from stresslev.report.inputs import Scenario


def _when(scenario: Scenario, index: int) -> str:
    return words.moment(scenario.start, scenario.minutes[index])


def prices(scenario: Scenario) -> str:
    """Deepest falls and what the cascade added."""
    ds = scenario.data
    every = deepenings(scenario)
    deepest = max(every, key=lambda d: d.fall)
    if deepest.fall < NEGLIGIBLE:
        top = (ds.price_usd / ds.price_usd.isel(time=0)).max("time")
        text = "No price falls below its start."
        if float(top.max()) > 1 + NEGLIGIBLE:
            name = str(top.asset.values[int(top.argmax())])
            text += f" {name} rises most, to {words.percent(float(top.max()))} of its start."
        return text
    text = f"{deepest.asset} falls deepest: by {words.percent(deepest.fall)}, {words.moment(scenario.start, deepest.minutes)}"
    text += f" ({words.percent(deepest.fall_without)} without the cascade)."
    most = max(every, key=lambda d: d.further)
    if not scenario.liquidated:
        return text + " Nothing is liquidated, so the two lines are one."
    if most.further < NEGLIGIBLE:
        return text + " The cascade deepens no fall noticeably."
    if most.asset == deepest.asset:
        return text + f" The cascade adds {words.points(most.further)} to it{', more than to any other' if len(every) > 1 else ''}."
    return text + f" The cascade adds most to the fall of {most.asset}: {words.points(most.further)}."


def liquidations(scenario: Scenario, sums: np.ndarray, size: int) -> str:
    """Totals of both sides and the busiest bucket.

    Args: sums: (buckets,) USD closed per bucket of `size` steps.
    """
    ds = scenario.data
    long, short = float(ds.closed_long_usd.sum()), float(ds.closed_short_usd.sum())
    width = words.duration(size * float(scenario.minutes[1] - scenario.minutes[0]))
    busiest = int(np.argmax(sums))
    accounts = words.percent(scenario.metrics["liquidated_accounts_share"])
    closed = f"Pools close longs worth {words.usd(long)} and shorts worth {words.usd(short)}, of {accounts} of the accounts."
    share = words.percent(sums[busiest] / (long + short))
    peak = f"The busiest bar begins {_when(scenario, busiest * size)} and holds {share} of it ({words.usd(sums[busiest])})."
    return f"{closed} Each bar adds up {width}. {peak}"


def funds(scenario: Scenario) -> str:
    """Lowest points, funds that ran out, pools without one."""
    fund = scenario.data.insurance_fund_usd
    gone, without = exhausted_funds(scenario), fundless_pools(scenario)
    parts = []
    if gone:
        each = words.listing([f"{f.pool} {words.moment(scenario.start, f.minutes)}" for f in gone])
        parts.append(f"{'A fund runs' if len(gone) == 1 else 'Funds run'} out: {each}.")
    worst = max(scenario.pools, key=lambda p: scenario.pools[p]["insurance_fund_fall"])
    fall = scenario.pools[worst]["insurance_fund_fall"]
    if not gone and fall < NEGLIGIBLE:
        parts.append("No fund falls noticeably below its start.")
    elif not gone:
        series = fund.sel(pool=worst)
        low = int(series.argmin("time"))
        parts.append(f"{worst} falls deepest, by {words.percent(fall)} to {words.usd(float(series.isel(time=low)))}, {_when(scenario, low)}.")
    rising = fund.isel(time=-1) > fund.isel(time=0) * (1 + NEGLIGIBLE)
    if bool(rising.any()):
        names = words.listing([str(p) for p in fund.pool.values[rising.values]])
        parts.append(f"Liquidation fees leave more at the end than at the start in {names}.")
    if without:
        parts.append(f"Without a fund at the start: {words.listing(without)}.")
    return " ".join(parts)


def bad_debt(scenario: Scenario) -> str:
    """Total, share, pools, and when it began."""
    debt = scenario.data.bad_debt_usd.transpose("time", "pool")
    last = debt.isel(time=-1).values
    total, share = float(last.sum()), scenario.metrics["bad_debt_over_open_interest"]
    first = int(np.argmax(debt.values.sum(axis=1) > 0))
    owners = [str(p) for p, d in zip(debt.pool.values, last, strict=True) if d > 0]
    text = f"Bad debt begins {_when(scenario, first)} and ends at {words.usd(total)}, {words.percent(share)} of the open interest at the start"
    if len(owners) == 1:
        return f"{text}, all of it in {owners[0]}."
    largest = int(np.argmax(last))
    return f"{text}, in {words.listing(owners)}; {words.percent(float(last[largest]) / total)} of it in {debt.pool.values[largest]}."


def interest(scenario: Scenario) -> str:
    """Open interest at both ends."""
    start = open_interest(scenario)
    end = float(scenario.data.open_interest_usd.isel(time=-1).sum())
    if start <= 0:
        return f"Open interest is {words.usd(end)} at the end; there is none at the start."
    change = end / start - 1
    how = "falls" if change < 0 else "rises"
    text = f"Open interest {how} from {words.usd(start)} to {words.usd(end)} ({'−' if change < 0 else '+'}{words.percent(abs(change))})"
    if abs(change) < NEGLIGIBLE:
        text = f"Open interest ends where it began, at {words.usd(end)}"
    return f"{text}, at the prices of each moment: by liquidation and by the move of prices."


def depth(scenario: Scenario) -> str:
    """The thinnest market."""
    ds = scenario.data
    share = (ds.depth_usd / ds.depth_usd.isel(time=0)).transpose("time", "asset")
    index, asset = np.unravel_index(int(share.values.argmin()), share.shape)
    least = float(share.values[index, asset])
    if least > 1 - NEGLIGIBLE:
        return "Depth does not fall below its start in any market."
    name = str(ds.asset.values[asset])
    usd = words.usd(float(ds.depth_usd.isel(time=index, asset=asset)))
    return f"The market of {name} becomes thinnest: {words.percent(least)} of its depth at the start is left {_when(scenario, int(index))}, so that {usd} move the price by 1%."
