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
#: Channel -> what it is, as the subject of a sentence, and whether that is one thing or many.
_SUBJECTS = {
    "price": ("forced selling that moves prices", ""),
    "owners": ("owners who answer margin calls from their accounts in other pools", "many"),
    "receipts": ("receipt tokens that lose cover", "many"),
    "credit": ("unpaid credit between pools", ""),
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


def _effect(channel: str, amount: float, whole: float) -> str:
    subject, many = _SUBJECTS.get(channel, (channel, ""))
    if abs(amount) <= NEGLIGIBLE * max(whole, abs(amount)) or amount == 0:
        return f"{subject} {'make' if many else 'makes'} no noticeable difference"
    verb = "add" if amount > 0 else "spare"
    return f"{subject} {verb}{'' if many else 's'} {words.usd(abs(amount))}"


def channels(found: Attribution) -> str:
    """What came from the shock alone, and what each channel adds or spares."""
    added = found.added.sum(axis=1)
    total = float(added.sum())
    share = f", {words.percent(float(added[0]) / total)} of the losses with everything open," if total > 0 else ""
    alone = f"The shock alone, with every channel of contagion shut, makes {words.usd(float(added[0]))} of losses{share}".removesuffix(",")
    effects = [_effect(c, float(a), max(total, float(np.abs(added).max()))) for c, a in zip(found.channels[1:], added[1:], strict=True)]
    then = f"; then {words.listing(effects, len(effects))}" if effects else ""
    order = " What a channel adds depends on those that are open already." if len(effects) > 1 else ""
    return f"{alone}{then}.{order}"
