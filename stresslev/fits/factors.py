"""From price files to risk factors: standard deviations and correlation over a horizon, how much correlation moves, and how heavy the tails are."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from stresslev.errors import InputError, Problem
from stresslev.fits.calibrate import Source
from stresslev.shocks.history import joint
from stresslev.shocks.price_file import read_prices

#: Returns of a block in which correlation is measured, and least blocks for saying how much it moves.
BLOCK, FEWEST = 30, 8
#: Blocks looked at, about, with returns put in another order, to see how much correlation seems to move where it does not; and least orders.
_SHUFFLED, _ORDERS = 10_000, 10
#: Degrees of freedom between which the likelihood is looked at; at the upper end Student's t is as good as normal.
_FREEDOM = (2.05, 200.0)

METHOD = (
    "Second moments of returns that do not overlap; degrees of freedom by maximum likelihood of the multivariate Student t with that covariance; "
    "spread of correlation: variance of Fisher's z over blocks of 30 returns, less what it is with the returns in random order"
)


def degrees_of_freedom(returns: np.ndarray) -> float | None:
    """Of a multivariate Student t with the covariance of returns (N, F), by maximum likelihood; None where normal does as well."""
    n, f = returns.shape
    x = returns - returns.mean(axis=0)
    covariance = x.T @ x / n
    squares = np.einsum("ij,ij->i", x, np.linalg.solve(covariance, x.T).T)

    def surprise(log_nu: float) -> float:
        nu = np.exp(log_nu)
        # the scale matrix is (nu - 2) / nu of the covariance
        constant = gammaln((nu + f) / 2) - gammaln(nu / 2) - f / 2 * np.log(np.pi * (nu - 2))
        return -(n * constant - (nu + f) / 2 * np.log1p(squares / (nu - 2)).sum())

    found = float(np.exp(minimize_scalar(surprise, bounds=tuple(np.log(_FREEDOM)), method="bounded").x))
    return found if found < 0.9 * _FREEDOM[1] else None


def _block_variance(y: np.ndarray) -> float:
    """Variance over blocks of Fisher's z of the average correlation; y (blocks, BLOCK, F)."""
    f = y.shape[2]
    averages = [(np.corrcoef(block.T).sum() - f) / (f * (f - 1)) for block in y]
    return float(np.var(np.arctanh(np.clip(averages, -0.999, 0.999)), ddof=1))


def correlation_spread(returns: np.ndarray) -> float:
    """Standard deviation of Fisher's z of the average correlation of returns (N, F), sampling error taken off; 0 where there are too few returns.

    Sampling error is what is seen with the returns in random order, which has the same tails and no change of correlation.
    """
    blocks = len(returns) // BLOCK
    if blocks < FEWEST or returns.shape[1] < 2:
        return 0.0
    rng, kept = np.random.default_rng(1), returns[: blocks * BLOCK]

    def variance(rows: np.ndarray) -> float:
        return _block_variance(rows.reshape(blocks, BLOCK, -1))

    by_chance = np.mean([variance(kept[rng.permutation(len(kept))]) for _ in range(max(_SHUFFLED // blocks, _ORDERS))])
    return float(np.sqrt(max(variance(kept) - by_chance, 0.0)))


def fit(sources: Mapping[str, Source], *, horizon_minutes: float, name: str) -> dict:
    """A file of factors as nested tables, but for market depth, which prices do not tell.

    Args: `sources`, asset -> its prices; `horizon_minutes`, a multiple of the files' own steps.

    Raises:
      InputError: a price file that cannot be used, or has too little in it.
    """
    series = [read_prices(s.file, s, None) for s in sources.values()]
    files = list(dict.fromkeys(s.file for s in sources.values()))
    listed = ", ".join(map(str, files))
    history = joint(series, horizon_minutes, listed)
    returns = history.returns
    for asset, spread in zip(sources, returns.std(axis=0), strict=True):
        if spread == 0:
            raise InputError(listed, Problem(f"assets.{asset}", "", "has a price that never moves", "leave it out"))
    matrix = np.round(np.corrcoef(returns.T).reshape(len(sources), len(sources)), 6)
    np.fill_diagonal(matrix, 1.0)
    first, last = (datetime.fromtimestamp(s, UTC).isoformat() for s in (history.seconds[0], history.seconds[-1]))
    freedom = degrees_of_freedom(returns)
    data = {
        "kind": "factors",
        "name": name,
        "title": f"Factors fitted to {', '.join(sources)}",
        "description": f"Returns over {horizon_minutes:g} minutes, from {first[:10]} to {last[:10]}.",
        "sources": [f"{len(returns):,} log returns of {horizon_minutes:g} minutes from {f.name}. {METHOD}." for f in files],
        "assumptions": [
            "Real prices contain the effect of the liquidations that really happened, and the impact of the simulated ones comes on top."
        ],
        "horizon_minutes": float(horizon_minutes),
    }
    if freedom is not None:
        data["degrees_of_freedom"] = round(freedom, 3)
    data["assets"] = {
        a: {"standard_deviation": float(f"{returns[:, i].std():.6g}"), "start_price_usd": float(history.last_price[i])} for i, a in enumerate(sources)
    }
    if len(sources) > 1:
        data["correlation"] = {"matrix": matrix.tolist(), "spread": float(f"{correlation_spread(returns):.4g}")}
    data["calibration"] = {
        "method": METHOD,
        "files": [f.name for f in files],
        "sha256": [hashlib.sha256(f.read_bytes()).hexdigest() for f in files],
        "first": first,
        "last": last,
        "returns": len(returns),
        "step_minutes": float(horizon_minutes),
    }
    return data
