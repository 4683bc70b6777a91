"""What one sees in the charts of losses, in words."""

import numpy as np

from stresslev.report import words
from stresslev.report.facts import NEGLIGIBLE
from stresslev.report.inputs import Scenario
from stresslev.report.losses import Attribution, deficits, layers

#: Layer -> how it bears an amount; {} is the amount.
_BORNE = {
    "own_fund": "the pools' own insurance funds pay {}",
    "other_funds": "other pools' funds pay {}",
    "adl": "winners forgo {} in auto-deleveraging",
    "socialised": "{} are spread over winners or depositors",
    "bad_debt": "{} are left as bad debt",
}
#: Channel -> what it is, with the ending of its verb.
_SUBJECTS = {
    "price": ("forced selling that moves prices", "s"),
    "owners": ("owners who answer margin calls from their accounts in other pools", ""),
    "receipts": ("receipt tokens", ""),
    "credit": ("credit between pools", "s"),
}


def signed(amount: float) -> str:
    """Money with its sign: +12 M USD."""
    return ("+" if amount > 0 else "") + words.usd(amount)


def _share(part: float, whole: float) -> str:
    return f" ({words.percent(part / whole)})" if whole > 0 and part < whole else ""


def bearers(scenario: Scenario) -> str:
    """Who bore the deficits, as a list of half-sentences."""
    total = float(deficits(scenario).sum())
    amounts = {layer: float(usd.sum()) for layer, usd in layers(scenario).items()}
    told = [_BORNE[k].format(words.usd(a) + _share(a, total)) for k, a in amounts.items() if a > 0]
    return words.listing(told, len(_BORNE))


def borne(scenario: Scenario) -> str:
    """The size of the losses, who bore them, and where most arose."""
    total = deficits(scenario)
    text = f"Accounts that are closed leave losses of {words.usd(float(total.sum()))} beyond their margin: {bearers(scenario)}."
    if len(total) == 1 or float(total.max()) >= (1 - NEGLIGIBLE) * float(total.sum()):
        return text if len(total) == 1 else f"{text} All of it arises in {scenario.data.pool.values[int(total.argmax())]}."
    worst = int(total.argmax())
    return f"{text} Most arises in {scenario.data.pool.values[worst]}: {words.usd(float(total[worst]))}."


def channels(found: Attribution) -> str:
    """What came from the shock alone, and what each channel adds or spares."""
    added = found.added.sum(axis=1)
    total = float(added.sum())
    least = NEGLIGIBLE * max(total, float(np.abs(added).max()))
    size = "no losses"
    if added[0] > 0:
        size = f"{words.usd(float(added[0]))} of losses"
        size += f", {words.percent(float(added[0]) / total)} of the losses with everything open" if total > 0 else ""
    alone = f"The shock alone, with every channel of contagion shut, makes {size}"
    effects, without = [], []
    for channel, amount in zip(found.channels[1:], added[1:].tolist(), strict=True):
        subject, ending = _SUBJECTS.get(channel, (channel, "s"))
        if abs(amount) <= least:
            without.append((subject, ending))
        else:
            effects.append(f"{subject} {'add' if amount > 0 else 'spare'}{ending} {words.usd(abs(amount))}")
    if without:
        ending = without[0][1] if len(without) == 1 else ""
        effects.append(f"{words.listing([s for s, _ in without])} make{ending} no noticeable difference")
    then = f"; then {words.listing(effects, len(effects))}" if effects else ""
    book = ""
    if found.accounts is not None:
        book = f" Found on a smaller draw of the book, {found.accounts:,} accounts, whose losses come to {words.usd(total)}."
    return f"{alone}{then}.{book}"
