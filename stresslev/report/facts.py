"""Facts about one scenario that sentences, captions and charts share."""

from dataclasses import dataclass

import numpy as np

from stresslev import metrics
from stresslev.report.inputs import Scenario

#: A fund counts as run out with less than this share of its start left.
RUN_OUT = 1e-3
#: Falls and differences of falls below this are not worth a sentence.
NEGLIGIBLE = 5e-4


@dataclass(frozen=True)
class Exhausted:
    """An insurance fund that ran out."""

    pool: str
    minutes: float


@dataclass(frozen=True)
class Deepening:
    """What the cascade did to the price of one asset; falls are fractions of the starting price."""

    asset: str
    fall: float
    fall_without: float
    minutes: float  # of the trough with the cascade

    @property
    def further(self) -> float:
        """The part of the fall the cascade made."""
        return self.fall - self.fall_without

    @property
    def ratio(self) -> float | None:
        """Fall with the cascade over fall without, None where there is hardly a fall without."""
        return self.fall / self.fall_without if self.fall_without > 1e-3 else None


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


def deepenings(scenario: Scenario) -> list[Deepening]:
    """Falls of every asset with and without the cascade."""
    ds = scenario.data
    fall, without = metrics.fall(ds.price_usd), metrics.fall(ds.exogenous_price_usd)
    trough = ds.price_usd.argmin("time")
    return [
        Deepening(str(a), float(fall.sel(asset=a)), float(without.sel(asset=a)), float(scenario.minutes[int(trough.sel(asset=a))]))
        for a in ds.asset.values
    ]


def insolvent_pools(scenario: Scenario) -> list[str]:
    """Pools whose bad debt exceeds their treasury."""
    return [pool for pool, values in scenario.pools.items() if values["insolvent_pools"] > 0]


def open_interest(scenario: Scenario) -> float:
    """USD at the start, all pools."""
    return float(scenario.data.open_interest_usd.isel(time=0).sum())
