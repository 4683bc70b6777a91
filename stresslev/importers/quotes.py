"""Depth and impact exponent of an asset from quotes of a DEX aggregator."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stresslev.errors import InputError, Problem, did_you_mean
from stresslev.tables import read_table

_COLUMNS = ("src", "dst", "in_units", "out_units", "price_impact")
#: Below this size routing noise is larger than the impact; above this impact the pools run dry and no power law holds.
SMALLEST_USD, LARGEST_IMPACT = 3e5, 0.1
_BINS_PER_DECADE, _LEAST_IN_BIN = 4, 5


@dataclass(frozen=True)
class ImpactFit:
    """A power law through quotes: average shortfall of a sale of z USD = 0.01 (z / depth_average_usd)^exponent, in log price."""

    exponent: float  # as `impact_exponent` of an asset
    depth_usd: float  # USD that move the price itself by 1%: what `depth_usd` of an asset means
    depth_average_usd: float  # USD at which the average price of the sale is 1% lower
    quotes: int  # used
    r_squared: float  # of the logs of the bin medians


def fit(path: str | Path, asset: str, into: tuple[str, ...] = ("USDC", "USDT")) -> ImpactFit:
    """Fit the impact of selling one asset for dollars.

    A quote's impact is the shortfall of its average price. When the price moves by c z^d, the average of a sale falls short by c z^d / (1 + d): the
    depth for the price is therefore smaller than for the average by (1 + d)^(1 / d). Quotes are put in bins by size (a quarter of a decade), and the
    line goes through the medians: single quotes scatter with the aggregator's routes.

    Args:
      path: CSV with columns src, dst, in_units, out_units, price_impact (fraction).
      asset: sold.
      into: dollars bought, one USD each.

    Raises:
      InputError: missing columns, values that are no numbers, an unknown asset, or too few quotes of a size that moves the price.
    """
    path = Path(path)
    table = read_table(path)
    missing = [c for c in _COLUMNS if c not in table.column_names]
    if missing:
        raise InputError(path, [Problem(f"column {c}", "", "is missing", f"give the columns {', '.join(_COLUMNS)}") for c in missing])
    for column in _COLUMNS[2:]:
        if not (pa.types.is_integer(table[column].type) or pa.types.is_floating(table[column].type)):
            raise InputError(path, Problem(f"column {column}", str(table[column].type), "is not a column of numbers", "give plain numbers"))
    known = set(table["src"].to_pylist())
    if asset not in known:
        raise InputError(path, Problem("asset", repr(asset), "is not sold in the file", did_you_mean(asset, map(str, known))))
    rows = table.filter(pc.and_(pc.equal(table["src"], asset), pc.is_in(table["dst"], pa.array(into, pa.string()))))
    units, out, impact = (np.asarray(rows[c].cast(pa.float64())) for c in _COLUMNS[2:])
    usd = out / np.where(impact < LARGEST_IMPACT, 1 - impact, np.nan)  # before impact
    fine = (usd >= SMALLEST_USD) & (impact >= 0) & (units > 0)
    size = np.log(usd[fine])
    with np.errstate(divide="ignore"):  # a quote without impact lies below every line: -inf, which a median can bear
        loss = np.log(-np.log1p(-impact[fine]))
    cell = np.floor(size / np.log(10) * _BINS_PER_DECADE).astype(int)
    middles = [(np.median(size[cell == k]), np.median(loss[cell == k])) for k in np.unique(cell) if np.sum(cell == k) >= _LEAST_IN_BIN]
    middles = [m for m in middles if np.isfinite(m[1])]
    if len(middles) < 3:
        what = f"has quotes in {len(middles)} ranges of size above {SMALLEST_USD:g} USD with an impact below {LARGEST_IMPACT:g}; a curve needs 3"
        raise InputError(path, Problem("asset", repr(asset), what, "give larger quotes"))
    x, y = np.array(middles).T
    exponent, level = np.polyfit(x, y, 1)
    if exponent <= 0:
        raise InputError(path, Problem("asset", repr(asset), "has impacts that do not rise with size", "give larger quotes"))
    average = float(np.exp((np.log(0.01) - level) / exponent))
    return ImpactFit(
        exponent=float(exponent),
        depth_usd=average * float((1 + exponent) ** (-1 / exponent)),
        depth_average_usd=average,
        quotes=int(fine.sum()),
        r_squared=float(np.corrcoef(x, y)[0, 1] ** 2),
    )
