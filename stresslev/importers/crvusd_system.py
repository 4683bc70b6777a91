"""A lending pool that stands for Curve's crvUSD controllers, with the real loans as its book or with borrowers sampled like them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from stresslev.errors import InputError, Problem
from stresslev.importers.crvusd import (
    COLLATERAL,
    DEBT,
    ETH_PER,
    LIQUIDATION_DISCOUNT,
    LOAN_DISCOUNT,
    POOL,
    START,
    A,
    States,
    admissible,
    band_value,
    borrowing_rate,
    day_prices,
    pick,
)
from stresslev.importers.system_file import AT_PAR, FIGURES, FOLLOWS, IMMEDIATE, check_names, checked, exogenous, figure
from stresslev.toml import Inline, toml_text


def _reserve(states: States, rows: np.ndarray) -> dict:
    """One collateral: limits are means over its loans, by debt, of what their numbers of bands allow."""
    weights, bands = states.debt[rows], states.n_bands[rows]
    return {
        "ltv": round(float(np.average(band_value(bands, LOAN_DISCOUNT), weights=weights)), 4),
        "liquidation_threshold": round(_threshold(states, rows), 4),
        "bonus": round(LIQUIDATION_DISCOUNT / (1 - LIQUIDATION_DISCOUNT), 4),
        "collateral": True,
        "borrowable": False,
        "reserve_factor": 0.0,
        "rate": Inline(optimal=0.8, base=0.0, slope1=0.0, slope2=0.0),
    }


@dataclass(frozen=True)
class Calibration:
    """The sampler's figures for a set of loans; see `calibrate`."""

    borrowed_usd: float
    supplied_usd: dict[str, float]  # asset -> USD pledged
    health_median: float
    health_sigma: float
    pareto_exponent: float
    largest_account_share: float
    loans: int


def calibrate(states: States, ltv: np.ndarray, *, day: int | None = None) -> Calibration:
    """What the sampler of borrowers needs to draw loans like these.

    Health is threshold over loan-to-value, with one threshold per collateral as in `system`. The sampler draws sizes and health factors apart, so
    median and width are those by debt: half of the debt has a lower health than the median, and the log of health less one has the standard
    deviation of a normal variable with the same middle 68%. The tail exponent is Hill's (1975) over the largest tenth of the loans.

    Raises:
      InputError: no loan left, or fewer than 20.
    """
    rows = pick(states, ltv, None, day, 0)
    if len(rows) < 20:
        raise InputError(states.file, Problem("day", "" if day is None else str(day), f"leaves {len(rows)} loans", "a calibration needs 20"))
    debt, asset = states.debt[rows], np.array([COLLATERAL[m] for m in states.market[rows]], dtype=object)
    health, supplied = np.zeros(len(rows)), {}
    for name in dict.fromkeys(asset.tolist()):
        mine = asset == name
        health[mine] = _threshold(states, rows[mine]) / ltv[rows[mine]]
        supplied[name] = float(round((debt[mine] / ltv[rows[mine]]).sum()))
    order = np.argsort(health)
    below = (np.cumsum(debt[order]) - debt[order] / 2) / debt.sum()
    low, middle, high = np.interp((0.1587, 0.5, 0.8413), below, np.log(np.maximum(health[order] - 1, 1e-3)))
    largest = np.sort(debt)[::-1][: max(len(debt) // 10, 2)]
    return Calibration(
        borrowed_usd=float(round(debt.sum())),
        supplied_usd=supplied,
        health_median=round(1 + float(np.exp(middle)), 4),
        health_sigma=round(float(high - low) / 2, 4),
        pareto_exponent=round(max(1.01, 1 / float(np.mean(np.log(largest[:-1] / largest[-1])))), 3),
        largest_account_share=round(float(largest[0] / debt.sum()), 4),
        loans=len(rows),
    )


def _threshold(states: States, rows: np.ndarray) -> float:
    """Liquidation threshold of one collateral: the mean over its loans, by debt, of what their numbers of bands allow."""
    return float(np.average(band_value(states.n_bands[rows], LIQUIDATION_DISCOUNT), weights=states.debt[rows]))


def _assumptions(states: States, fine: np.ndarray, sampled: Calibration | None, accounts: int | None) -> list[str]:
    """What the system file supposes, one sentence each."""
    if sampled is None:
        book = ["Loans keep their debt and loan-to-value; their collateral is restated at the prices of this file."]
    else:
        book = [
            f"The book is sampled: {accounts:,} borrowers who owe what {sampled.loans:,} loans owed, with sizes, collateral and health drawn apart "
            "from each other; medians, widths and the tail are fitted to those loans (a tail exponent below 1.01 is raised to it)."
        ]
    last = START + timedelta(days=len(day_prices()["weth"]) - 1)
    return [
        f"The file does not store days. Each state's day is told from loans that come back ({START} to {last} with the shipped prices).",
        f"Collateral is valued at 00:00 UTC of that day, with one crvUSD at one dollar and {ETH_PER['wstETH']:g} and {ETH_PER['sfrxETH']:g} ETH per "
        "wstETH and sfrxETH.",
        f"{int((~fine).sum())} of {len(states)} states are left out: their collateral was being sold by the AMM, and the crvUSD it brought is not in "
        "the file. The book is therefore healthier than the market was.",
        *book,
        "Curve's gradual conversion of collateral in bands is not modelled. What is: the hard liquidation at health zero of a loan whose bands begin "
        f"at the price. The threshold is (1 - {LIQUIDATION_DISCOUNT:g}) of what N bands are worth (A = {A}), as a mean over loans by debt.",
        f"A liquidator repays the whole debt for collateral worth 1 / (1 - {LIQUIDATION_DISCOUNT:g}) of it; on chain all that is left of the loan is "
        "the liquidator's.",
        "The borrowing rate is the median growth of debts from one day to the next, as a mean over markets by debt, and does not change.",
        "Interest goes to the protocol: crvUSD is minted, nobody supplies it"
        + (", and what is written as supplied is the protocol's own." if sampled else "."),
        "As in scenarios, WETH is called ETH and WBTC is called BTC: the wrapped coin is taken for the coin.",
        "In scenarios that give them no path, staked tokens follow ETH at a constant ratio, and crvUSD stays where it is. Each has a market of its "
        "own all the same: selling the one does not move the other.",
        IMMEDIATE,
        AT_PAR,
        "Depth and impact exponent of collateral are those of 1inch quotes of 2023-11-20 into USDC and USDT unless given (for sfrxETH the fit is "
        "poor); those of crvUSD are assumed.",
    ]


def system(
    states: States,
    ltv: np.ndarray,
    price_usd: Mapping[str, float],
    *,
    book_file: str | None,
    day: int | None = None,
    accounts: int | None = None,
    depth_usd: Mapping[str, float] | float | None = None,
    volatility: Mapping[str, float] | float | None = None,
    impact_exponent: Mapping[str, float] | float | None = None,
) -> str:
    """A system file with one lending pool that stands for the four controllers, and the book of `book`, or a sampled one.

    Args:
      states: loans.
      ltv: (n,) of `loan_to_value`.
      price_usd: asset -> USD, as given to `book`.
      book_file: where the book will be, relative to the system file; None: borrowers are sampled like the loans (`calibrate`).
      day: sampled books: of this day's loans only.
      accounts: sampled books: borrowers; None: as many as there were loans.
      depth_usd, volatility, impact_exponent: by asset, or one number for all; they override the defaults.

    Returns:
      TOML text.

    Raises:
      InputError: an asset without a price, a figure that is no number above zero, no loan left.
    """
    fine, rates = admissible(states, ltv), borrowing_rate(states)
    sampled = calibrate(states, ltv, day=day) if book_file is None else None
    if sampled is not None and accounts is None:
        accounts = sampled.loans
    held = {COLLATERAL[m]: np.flatnonzero((states.market == m) & fine) for m in states.markets}
    held = {asset: rows for asset, rows in held.items() if len(rows) and (sampled is None or asset in sampled.supplied_usd)}
    price = {a: figure(price_usd, a, None, "price_usd", states.file) for a in (*held, DEBT)}
    # staked tokens follow ETH, which has to be there for that
    base = {} if "ETH" in price or not FOLLOWS.keys() & price.keys() else {"ETH": next(price[a] / ETH_PER[a] for a in held if a in FOLLOWS)}
    assets = price | base
    for given, key in ((depth_usd, "depth_usd"), (volatility, "volatility"), (impact_exponent, "impact_exponent")):
        check_names(given, assets, key, states.file)
    weight = {m: states.debt[states.market == m].sum() for m in states.markets}
    rate = float(sum(rates[m] * weight[m] for m in weight) / sum(weight.values()))
    totals = {} if sampled is None else {a: {"supplied_usd": usd} for a, usd in sampled.supplied_usd.items()}
    minted = {} if sampled is None else {"supplied_usd": sampled.borrowed_usd, "borrowed_usd": sampled.borrowed_usd}
    pool_book, book_table = {}, {"file": book_file}
    if sampled is not None:
        pool_book = {"book": Inline(health_median=sampled.health_median, health_sigma=sampled.health_sigma)}
        book_table = {"accounts": accounts, "pareto_exponent": sampled.pareto_exponent, "largest_account_share": sampled.largest_account_share}
    figures = {"depth_usd": depth_usd, "volatility": volatility, "impact_exponent": impact_exponent}
    taken = "Loans" if sampled is None else "Borrowers sampled like those"
    return checked(
        toml_text(
            {
                "kind": "system",
                "name": POOL,
                "description": f"{taken} in Curve's crvUSD markets: debts, loan-to-values and borrowing rate of {states.file}, one pool for all.",
                "assumptions": _assumptions(states, fine, sampled, accounts),
                "assets": {
                    a: {
                        "price_usd": usd,
                        **exogenous(a, a, usd, {"ETH": assets.get("ETH"), "BTC": assets.get("BTC")}),
                        **{key: figure(given, a, getattr(FIGURES[a], key), key, states.file) for key, given in figures.items()},
                    }
                    for a, usd in assets.items()
                },
                "pools": {
                    POOL: {
                        "kind": "lending",
                        "description": "Curve's crvUSD controllers, hard liquidation only",
                        "insurance_fund_usd": 0.0,
                        "liquidation": Inline(rule="full"),
                        "protocol_fee": 0.0,
                        **pool_book,
                        "reserves": {a: _reserve(states, rows) | totals.get(a, {}) for a, rows in held.items()} | {DEBT: _minted(rate) | minted},
                    }
                },
                "book": book_table,
            }
        ),
        states.file,
    )


def _minted(rate: float) -> dict:
    """The reserve of crvUSD: a rate that does not change, all of which the protocol keeps."""
    return {
        "ltv": 0.0,
        "liquidation_threshold": 0.0,
        "bonus": 0.0,
        "collateral": False,
        "borrowable": True,
        "reserve_factor": 1.0,
        "rate": Inline(optimal=0.8, base=round(rate, 4), slope1=0.0, slope2=0.0),
    }
