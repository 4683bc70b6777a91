"""What one sees in a chart, in a sentence or two with numbers."""

import numpy as np

from stresslev.report import words
from stresslev.report.facts import NEGLIGIBLE, exhausted_funds, fundless_pools, held_words, open_interest, swings
from stresslev.report.inputs import Scenario


def _when(scenario: Scenario, index: int) -> str:
    return words.moment(scenario.start, scenario.minutes[index])


def exhaustion_times(scenario: Scenario) -> str:
    """When the insurance funds ran out: the time of one, or of the first and the last."""
    found = exhausted_funds(scenario)
    first, last = (words.moment(scenario.start, f.minutes) for f in (found[0], found[-1]))
    return first if first == last else f"(the first {first}, the last {last})"


def _rise(scenario: Scenario) -> str:
    """The highest rise, if it is larger than the deepest fall."""
    every = swings(scenario)
    highest = max(every, key=lambda s: s.rise)
    if highest.rise < max(NEGLIGIBLE, *(s.fall for s in every)):
        return ""
    peak, alone = words.percent(1 + highest.rise), words.percent(1 + highest.rise_without)
    return f" {highest.asset} rises most, to {peak} of its start ({alone} without the cascade)."


def prices(scenario: Scenario) -> str:
    """Deepest falls and what the cascade added; rises where they are larger."""
    return _falls(scenario) + _rise(scenario)


def _falls(scenario: Scenario) -> str:
    every = swings(scenario)
    deepest = max(every, key=lambda d: d.fall)
    if deepest.fall < NEGLIGIBLE:
        return "No price falls below its start."
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


def close_up(scenario: Scenario, window: tuple[float, float]) -> str:
    """What part of the scenario is shown, and how much is liquidated in it."""
    closed = (scenario.data.closed_long_usd + scenario.data.closed_short_usd).sum(("pool", "asset"))
    share = float(closed.sel(time=slice(*window)).sum() / closed.sum())
    length = words.duration(window[1] - window[0])
    when = words.span(scenario.start, *window)
    return f"The same prices over {length}, {when}: {words.percent(share)} of what is liquidated falls into this time."


def liquidations(scenario: Scenario, sums: np.ndarray, size: int) -> str:
    """Totals of both sides and the busiest bucket.

    Args: sums: (buckets,) USD closed per bucket of `size` steps.
    """
    ds = scenario.data
    long, short = float(ds.closed_long_usd.sum()), float(ds.closed_short_usd.sum())
    width = words.duration(size * float(scenario.minutes[1] - scenario.minutes[0]))
    busiest = int(np.argmax(sums))
    accounts = words.percent(scenario.metrics["liquidated_accounts_share"])
    sides = ("Longs and collateral", "shorts and debt") if scenario.lenders else ("Longs", "shorts")
    closed = f"{sides[0]} worth {words.usd(long)} and {sides[1]} worth {words.usd(short)} are closed, from {accounts} of the accounts."
    share = words.percent(sums[busiest] / (long + short))
    peak = f"Most is closed in the bar that begins {_when(scenario, busiest * size)}: {words.usd(sums[busiest])}, {share} of the whole."
    return f"{closed} Each bar adds up {width}. {peak}"


def funds(scenario: Scenario) -> str:
    """Lowest points, funds that ran out, pools without one."""
    fund = scenario.data.insurance_fund_usd
    gone, without = exhausted_funds(scenario), fundless_pools(scenario)
    parts = []
    if gone:
        names = words.listing([f.pool for f in gone])
        subject, verb = ("fund", "runs") if len(gone) == 1 else ("funds", "run")
        parts.append(f"The {subject} of {names} {verb} out {exhaustion_times(scenario)}.")
    worst = max(scenario.pools, key=lambda p: scenario.pools[p]["insurance_fund_fall"])
    fall = scenario.pools[worst]["insurance_fund_fall"]
    if not gone and fall < NEGLIGIBLE and len(without) < len(scenario.pools):
        parts.append("No fund falls noticeably below its start.")
    elif not gone and fall >= NEGLIGIBLE:
        series = fund.sel(pool=worst)
        low = int(series.argmin("time"))
        left = words.usd(float(series.isel(time=low)))
        parts.append(f"The fund of {worst} falls deepest, by {words.percent(fall)} to {left}, {_when(scenario, low)}.")
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
    size = f"{words.usd(total)}, {words.percent(share)} of {held_words(scenario)} at the start"
    text = f"Bad debt begins {_when(scenario, first)} and ends at {size}"
    if len(scenario.pools) == 1:
        return f"{text}."
    if len(owners) == 1:
        return f"{text}, all of it in {owners[0]}."
    largest = int(np.argmax(last))
    return f"{text}, in {words.listing(owners)}; {words.percent(float(last[largest]) / total)} of it in {debt.pool.values[largest]}."


def interest(scenario: Scenario) -> str:
    """Open interest at both ends."""
    start = open_interest(scenario)
    end = float(scenario.data.open_interest_usd.isel(time=-1).sum())
    if start <= 0:
        return "Nobody holds a position at the start."
    change = end / start - 1
    if abs(change) < NEGLIGIBLE:
        return f"Open interest ends where it began, at {words.usd(end)}."
    how, sign = ("falls", "−") if change < 0 else ("rises", "+")
    move = f"from {words.usd(start)} to {words.usd(end)} ({sign}{words.percent(abs(change))})"
    return f"Open interest {how} {move}, valued at the prices of each moment."


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
    left = f"{words.percent(least)} of that at the start is left {_when(scenario, int(index))}"
    return f"Depth falls furthest in {name}: {left}, when a net flow of {usd} moves the price by 1%."
