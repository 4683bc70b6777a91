"""Facts about one scenario that sentences, captions and charts share."""

from dataclasses import dataclass

import numpy as np

from stresslev.quantities import LEAST_FALL
from stresslev.quantities import fall as deepest_fall
from stresslev.report.inputs import Scenario

#: A fund counts as run out with less than this share of its start left.
RUN_OUT = 1e-3
#: Falls and differences of falls below this are not worth a sentence.
NEGLIGIBLE = 5e-4
#: Share of the liquidations that makes the cascade.
_MOST = 0.8
#: A close-up is worth drawing when it shows no more than this share of the scenario.
_CLOSE_UP = 0.4


@dataclass(frozen=True)
class Exhausted:
    """An insurance fund that ran out."""

    pool: str
    minutes: float


@dataclass(frozen=True)
class Swing:
    """Deepest fall and highest rise of one asset with and without the cascade, as fractions of the starting price."""

    asset: str
    fall: float
    fall_without: float
    rise: float
    rise_without: float
    minutes: float  # of the trough with the cascade

    @property
    def further_rise(self) -> float:
        """The part of the rise the cascade made."""
        return self.rise - self.rise_without

    @property
    def further(self) -> float:
        """The part of the fall the cascade made."""
        return self.fall - self.fall_without

    @property
    def ratio(self) -> float | None:
        """Fall with the cascade over fall without, None where there is hardly a fall without."""
        return self.fall / self.fall_without if self.fall_without >= LEAST_FALL else None


def exhausted_funds(scenario: Scenario) -> list[Exhausted]:
    """Funds that ran out, the earliest first: almost nothing left, or a deficit that went past them."""
    ds = scenario.data
    fund, debt = ds.insurance_fund_usd.transpose("time", "pool").values, ds.bad_debt_usd.transpose("time", "pool").values
    empty = (fund <= RUN_OUT * fund[0]) | (debt > 0)
    found = [
        Exhausted(str(pool), float(scenario.minutes[np.argmax(empty[:, v])]))
        for v, pool in enumerate(ds.pool.values)
        if fund[0, v] > 0 and empty[:, v].any()
    ]
    return sorted(found, key=lambda f: f.minutes)


def fundless_pools(scenario: Scenario) -> list[str]:
    """Pools that start without an insurance fund."""
    start = scenario.data.insurance_fund_usd.isel(time=0)
    return [str(p) for p in start.pool.values[start.values <= 0]]


def swings(scenario: Scenario) -> list[Swing]:
    """Falls and rises of every asset with and without the cascade."""
    ds = scenario.data
    fall, without = deepest_fall(ds.price_usd), deepest_fall(ds.exogenous_price_usd)
    rise, rise_without = (p.max("time") / p.isel(time=0) - 1 for p in (ds.price_usd, ds.exogenous_price_usd))
    trough = ds.price_usd.argmin("time")
    columns = [v.transpose("asset").values.tolist() for v in (fall, without, rise, rise_without)]
    times = scenario.minutes[trough.transpose("asset").values].tolist()
    return [Swing(str(a), *values, minutes) for a, *values, minutes in zip(ds.asset.values, *columns, times, strict=True)]


def cascade_window(scenario: Scenario) -> tuple[float, float] | None:
    """Minutes around the shortest time in which most is liquidated; None if nothing is, or if that is much of the scenario."""
    ds, minutes = scenario.data, scenario.minutes
    if not scenario.liquidated:
        return None
    closed = np.concatenate([[0.0], np.cumsum((ds.closed_long_usd + ds.closed_short_usd).sum(("pool", "asset")).values)])
    end = np.searchsorted(closed, closed[:-1] + _MOST * closed[-1]) - 1  # of the shortest stretch of steps that begins at each step
    begin = np.flatnonzero(end < len(minutes))
    best = begin[np.argmin(end[begin] - begin)]
    low, high = float(minutes[best]), float(minutes[end[best]])
    room = max(high - low, 15 * float(minutes[1] - minutes[0]))
    low, high = max(low - room, float(minutes[0])), min(high + room, float(minutes[-1]))
    return (low, high) if high - low <= _CLOSE_UP * float(minutes[-1] - minutes[0]) else None


def insolvent_pools(scenario: Scenario) -> list[str]:
    """Pools that cannot meet their obligations."""
    return [pool for pool, values in scenario.pools.items() if values["insolvent_pools"] > 0]


def open_interest(scenario: Scenario) -> float:
    """USD at the start, all pools."""
    return float(scenario.data.open_interest_usd.isel(time=0).sum())


def loans(scenario: Scenario) -> float:
    """USD lent to borrowers at the start, all pools."""
    return float(scenario.data.borrowed_usd.isel(time=0).sum())


def held_words(scenario: Scenario) -> str:
    """What losses are held against, as far as the scenario has it."""
    kinds = (["open interest"] if open_interest(scenario) > 0 else []) + (["loans"] if loans(scenario) > 0 else [])
    return " and ".join(kinds) or "open interest"
