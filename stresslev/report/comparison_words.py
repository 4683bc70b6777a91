"""A comparison of policies in words: what each buys and costs against the first, and where one makes things worse."""

import math
from dataclasses import dataclass

from stresslev.metrics import METRICS
from stresslev.report import words
from stresslev.report.comparison_inputs import Compared, Policy, Worse
from stresslev.report.facts import NEGLIGIBLE
from stresslev.report.sentences import BREACHED, NO_LIMITS, WITHIN

#: Changes below this share of the first policy's value are not told.
_SLIGHT = 5e-3
#: Most measures told in one sentence.
_TOLD = 5


@dataclass(frozen=True)
class Change:
    """A measure's worst value over scenarios, under a policy and under the first."""

    measure: str
    value: float
    first: float

    @property
    def better(self) -> bool:
        """Whether it is better under the policy."""
        return METRICS[self.measure].worse(self.first, self.value)

    @property
    def text(self) -> str:
        """bad debt over open interest (1.2% instead of 2.4%)."""
        title = METRICS[self.measure].title
        return f"{title[0].lower()}{title[1:]} ({against(self.measure, self.value, self.first)})"


def against(measure: str, value: float, first: float) -> str:
    """1.2% instead of 2.4%, with as many digits as it takes to tell them apart."""
    digits = 3
    while digits < 8 and words.metric_value(measure, value, digits) == words.metric_value(measure, first, digits):
        digits += 1
    return f"{words.metric_value(measure, value, digits)} instead of {words.metric_value(measure, first, digits)}"


def changes(compared: Compared, policy: Policy) -> list[Change]:
    """Measures whose worst value over scenarios differs from that under the first policy, in the order of the table."""
    found = []
    for name in (n for names in compared.measures.values() for n in names):
        value, first = policy.worst(name), compared.first.worst(name)
        if math.isfinite(value) and math.isfinite(first) and abs(value - first) > max(_SLIGHT * abs(first), 1e-6):
            found.append(Change(name, value, first))
    return found


def state(compared: Compared) -> str:
    """BREACHED, WITHIN or NO_LIMITS: of all policies together."""
    if not any(p.run.judged for p in compared.policies):
        return NO_LIMITS
    return BREACHED if any(p.breached for p in compared.policies) else WITHIN


def headline(compared: Compared) -> str:
    """Which policies keep the limits."""
    if state(compared) == NO_LIMITS:
        return "No limits set"
    within = [p.title for p in compared.policies if not p.breached]
    if len(within) == len(compared.policies):
        return "Every policy keeps within all limits"
    if not within:
        return "Limits breached under every policy"
    return f"Limits breached under {words.listing([p.title for p in compared.policies if p.breached])}, kept under {words.listing(within)}"


def explanation(compared: Compared) -> str:
    """How the comparison was made, and how many scenarios are worse under some policy."""
    scenarios = words.plural(len(compared.scenarios), "scenario")
    text = f"{words.plural(len(compared.policies), 'policy', 'policies')} under {scenarios}, on the same accounts, seed and paths. "
    text += f"The others are held against {compared.first.title}. "
    if not compared.worse:
        return text + "No policy makes any measure of safety worse in any scenario."
    cases = words.plural(len(compared.worse), "case")
    return text + f"In {cases} a policy makes a scenario less safe: see “Where a policy makes things worse”."


def verdict(policy: Policy) -> str:
    """A policy against the limits."""
    if not policy.run.judged:
        return "none set"
    return f"✕ {policy.breached} of {len(policy.run.judged)} breached" if policy.breached else "✓ within all"


def trade(compared: Compared, policy: Policy) -> str:
    """What a policy buys and costs against the first one."""
    found = changes(compared, policy)
    if not found:
        return f"Against {compared.first.title} it changes no measure noticeably."
    better, worse = ([c.text for c in found if c.better is side] for side in (True, False))
    many = len(compared.scenarios) > 1
    text = f"Against {compared.first.title}{', in the worst scenario of each measure' if many else ''}, it "
    parts = []
    if better:
        parts.append(f"improves {words.listing(better, _TOLD, 'other measure')}")
    if worse:
        parts.append(f"worsens {words.listing(worse, _TOLD, 'other measure')}")
    text += ", and ".join(parts) + "."
    if not worse:
        text += " It worsens none."
    if not better:
        text += " It improves none."
    return " ".join(part for part in (text, _exchange(compared, policy), _limits(compared, policy), _scenarios(compared, policy)) if part)


def _relative(value: float, first: float) -> str:
    return f"{words.percent(abs(value / first - 1))} {'more' if value > first else 'less'}"


def _exchange(compared: Compared, policy: Policy) -> str:
    """Bad debt of all scenarios against the leverage that is allowed on average."""
    debt, debt_first = (sum(p.values("bad_debt_usd")) for p in (policy, compared.first))
    if not compared.has("mean_allowed_leverage") or debt_first <= 0 or abs(debt / debt_first - 1) < _SLIGHT:
        return ""
    level, level_first = policy.mean("mean_allowed_leverage"), compared.first.mean("mean_allowed_leverage")
    if not (math.isfinite(level) and math.isfinite(level_first) and level_first > 0):
        return ""
    where = "Over all scenarios" if len(compared.scenarios) > 1 else "In all"
    text = f"{where} it leaves {_relative(debt, debt_first)} bad debt ({words.usd(debt)} instead of {words.usd(debt_first)})"
    if abs(level / level_first - 1) < _SLIGHT:
        return f"{text}, and allows as much leverage."
    return f"{text}, and allows {_relative(level, level_first)} leverage on average."


def _limits(compared: Compared, policy: Policy) -> str:
    now, then = policy.breached, compared.first.breached
    if not policy.run.judged or now == then:
        return ""
    checks = words.plural(len(policy.run.judged), "check")
    return f"It breaches {now or 'none'} of {checks}, {compared.first.title} {then or 'none'}."


def _scenarios(compared: Compared, policy: Policy) -> str:
    found = [w.scenario for w in compared.worse if w.policy is policy]
    if not found:
        return ""
    titles = [f"“{s.title}”" for s in compared.scenarios if s.name in found]
    if len(titles) == len(compared.scenarios) > 1:
        return "Some measure of safety is worse in every scenario."
    return f"Some measure of safety is worse in {words.listing(titles)}."


def _difference(measure: str, value: float, first: float) -> str:
    gap = abs(value - first)
    if not math.isfinite(gap):
        return ""
    how = "more" if value > first else "less"
    if measure == "amplification":
        return f", {words.decimal(gap)} {how}"
    if METRICS[measure].units == "1":
        return f", {words.points(gap)} {how}"
    return f", {words.metric_value(measure, gap)} {how}"


def worse(one: Worse) -> list[str]:
    """By how much each measure got worse."""
    texts = []
    for name, (value, first) in one.changes.items():
        texts.append(f"{METRICS[name].title}: {against(name, value, first)}{_difference(name, value, first)}.")
    return texts


def why(compared: Compared, one: Worse) -> str:
    """What the results say about the reason: further moves, more forced closing before the turn, who was liquidated."""
    c, scenario = one.cause, one.policy.scenario(one.scenario)
    parts = []
    if c["endogenous"] - c["endogenous_first"] > NEGLIGIBLE:
        push = f"{words.percent(c['endogenous'])} instead of {words.percent(c['endogenous_first'])}"
        parts.append(f"The cascade pushes {c['asset']} further: at most by {push} away from the price without it.")
    if abs(c["move"]) - abs(c["move_first"]) > NEGLIGIBLE:
        verb = "falls" if c["move"] < 0 else "rises"
        when = words.moment(scenario.start, c["minutes"])
        parts.append(f"{c['asset']} {verb} by {words.percent(abs(c['move']))} instead of {words.percent(abs(c['move_first']))}, {when}.")
    if c["forced"] - c["forced_first"] > NEGLIGIBLE:
        until = "Until the turn of that price" if parts else f"Until {c['asset']} is farthest from its start"
        size = f"{words.percent(c['forced'])} instead of {words.percent(c['forced_first'])} of open interest and loans"
        text = f"{until}, {size} is closed by force"
        parts.append(text + (f", {words.percent(c['reduced'])} of it to bring accounts down to a tightened cap." if c["reduced"] > 0 else "."))
    elif c["reduced"] > NEGLIGIBLE:
        parts.append(f"{words.percent(c['reduced'])} of what is closed by force until then is to bring accounts down to a tightened cap.")
    if c["liquidated"] - c["liquidated_first"] > NEGLIGIBLE:
        parts.append(f"{words.percent(c['liquidated'])} of the accounts are liquidated, instead of {words.percent(c['liquidated_first'])}.")
    if not parts:
        return f"Neither prices nor forced closing differ noticeably from {compared.first.title}; the results do not tell why."
    return " ".join(parts)
