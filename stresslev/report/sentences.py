"""The verdict in words: the headline and what the committee should know first."""

from collections import Counter

from stresslev.report import generated, words
from stresslev.report.captions import exhaustion_times
from stresslev.report.facts import (
    NEGLIGIBLE,
    Swing,
    exhausted_funds,
    fundless_pools,
    held_words,
    insolvent_pools,
    loans,
    open_interest,
    swings,
)
from stresslev.report.inputs import Run, Scenario
from stresslev.report.loss_captions import bearers
from stresslev.report.loss_captions import channels as channels_text
from stresslev.report.losses import attribution, deficits, layers

#: State of a run against its limits.
BREACHED, WITHIN, NO_LIMITS = "breached", "within", "none"


def state(run: Run) -> str:
    """BREACHED, WITHIN or NO_LIMITS."""
    if not run.judged:
        return NO_LIMITS
    return BREACHED if any(c.breached for c in run.judged) else WITHIN


def headline(run: Run) -> str:
    """The verdict in one line."""
    if not run.judged:
        return "No limits set"
    breached = [c for c in run.judged if c.breached]
    if not breached:
        return "Within all limits"
    where = len({c.scenario for c in breached})
    checks, scenarios = words.plural(len(run.judged), "check"), words.plural(run.questions, "scenario")
    return f"Limits breached: {len(breached)} of {checks}, in {where} of {scenarios}"


def explanation(run: Run) -> str:
    """What the headline rests on."""
    limits = len({(c.metric, c.side) for c in run.judged})
    if not limits:
        return "This run sets no limits, so the figures below are stated without a judgement."
    held = f"{words.plural(limits, 'limit')} held against {words.plural(len(run.scenarios), 'scenario')}"
    if state(run) == WITHIN:
        return f"{held}. Every value is within its bound."
    titles = {s.name: s.title for s in run.scenarios} | {name: said["title"] for name, said in run.samples.items()}
    breaches = Counter(c.scenario for c in run.judged if c.breached).most_common()
    each = [f"“{titles[name]}” breaches {words.plural(n, 'limit')}" for name, n in breaches]
    return f"{held}. {words.listing(each, 3, 'other scenario breaches some', 'other scenarios breach some')}."


def narrative(run: Run) -> list[str]:
    """What the committee should know first: the worst scenario, insurance funds, what is unsettled."""
    if not _liquidated(run):
        where = "in any scenario" if len(run.scenarios) > 1 else "in this scenario"
        told = [f"No account is liquidated {where}, so no insurance fund is drawn on and no bad debt arises."]
    else:
        told = [_losses(run), _funds(run)]
    return [*generated.sentences(run), *told, *_unsettled(run)]


def drivers(run: Run) -> list[str]:
    """What made it so: the cascade, who bore the losses, and which way they travelled."""
    if not _liquidated(run):
        return ["Prices follow the scenario alone: there is no cascade."]
    return [_cascade(run), *_borne(run), *_channels(run)]


def _liquidated(run: Run) -> bool:
    return any(s.liquidated for s in run.scenarios)


def _quoted(scenario: Scenario) -> str:
    return f"“{scenario.title}”"


def _ranked(run: Run) -> list[Scenario]:
    """Scenarios, the worst first: by bad debt over open interest, then by all losses, by fund fall, and by what was liquidated."""
    keys = ("bad_debt_over_open_interest", "deficit_over_open_interest", "insurance_fund_fall", "liquidated_notional_share")
    return sorted(run.scenarios, key=lambda s: tuple(-s.metrics[k] for k in keys))


def _losses(run: Run) -> str:
    worst, many = _ranked(run)[0], len(run.scenarios) > 1 or bool(run.samples)  # a path that is shown is one of many
    debt = worst.metrics["bad_debt_usd"]
    if debt <= 0:
        settled = " that has been settled" if any(s.metrics["latent_deficit_over_open_interest"] > 0 for s in run.scenarios) else ""
        payer = _payers(run)
        text = f"{'No scenario leaves' if many else 'The scenario leaves no'} bad debt: {payer} every loss{settled}."
        heaviest = max(run.scenarios, key=lambda s: s.metrics["liquidated_notional_share"])
        amount = words.percent(heaviest.metrics["liquidated_notional_share"])
        accounts = words.percent(heaviest.metrics["liquidated_accounts_share"])
        what = "positions and loans" if heaviest.lenders else "notional"
        who = f"Most is liquidated in {_quoted(heaviest)}:" if many else "Liquidations close"
        return f"{text} {who} {amount} of the {what}, from {accounts} of the accounts."
    share = words.percent(worst.metrics["bad_debt_over_open_interest"])
    size = f"{words.usd(debt)} of bad debt, {share} of the {held_words(worst)} at its start"
    subject = f"The worst scenario is {_quoted(worst)}: it leaves" if many else "The scenario leaves"
    gone = insolvent_pools(worst)
    if len(gone) == 1:
        end = f", and makes {gone[0]} insolvent."
    elif gone:
        end = f", and makes {words.plural(len(gone), 'pool')} insolvent ({words.listing(gone)})."
    else:
        end = "; no pool becomes insolvent, since the own funds of the pools concerned cover it."
    others = sum(s.metrics["bad_debt_usd"] > 0 for s in run.scenarios) - 1
    rest = ""
    if many:
        rest = f" Bad debt also arises in {words.plural(others, 'other scenario')}." if others else " No other scenario leaves bad debt."
    return f"{subject} {size}{end}{rest}"


def _payers(run: Run) -> str:
    """Who pays when nothing is left as bad debt, with the verb."""
    paid = {layer: sum(float(layers(s)[layer].sum()) for s in run.scenarios) > 0 for layer in ("own_fund", "other_funds", "adl", "socialised")}
    payers = ["margin"]
    payers += ["the insurance funds"] if paid["own_fund"] or paid["other_funds"] else []
    payers += ["deleveraged winners"] if paid["adl"] else []
    payers += ["those over whom losses are spread"] if paid["socialised"] else []
    return "margin alone pays" if len(payers) == 1 else f"{words.listing(payers)} pay"


def _heaviest(run: Run) -> Scenario:
    """The scenario with most losses beyond margin."""
    return max(run.scenarios, key=lambda s: (s.metrics["deficit_over_open_interest"], float(deficits(s).sum())))


def _borne(run: Run) -> list[str]:
    """Losses beyond margin and who bore them, where more than the own funds and bad debt did."""
    scenario = _heaviest(run)
    parts = layers(scenario)
    if not any(parts[layer].sum() > 0 for layer in ("adl", "socialised", "other_funds")):
        return []
    total = float(deficits(scenario).sum())
    share = words.percent(scenario.metrics["deficit_over_open_interest"])
    where = f"Losses beyond margin are largest in {_quoted(scenario)}:" if len(run.scenarios) > 1 else "Losses beyond margin come to"
    return [f"{where} {words.usd(total)}, {share} of the {held_words(scenario)}; {bearers(scenario)}."]


def _channels(run: Run) -> list[str]:
    """Which way the losses of the heaviest scenario travelled, for runs with attribution."""
    scenario = _heaviest(run)
    found = attribution(run, scenario)
    if found is None or not found.added.any():
        return []
    text = channels_text(found)
    if len(run.scenarios) == 1:
        return [text]
    return [f"In {_quoted(scenario)} {text[0].lower()}{text[1:]}"]


def _funds(run: Run) -> str:
    ran_out = [(s, found) for s in _ranked(run) if (found := exhausted_funds(s))]
    without = list(dict.fromkeys(p for s in run.scenarios for p in fundless_pools(s)))
    if len(without) == len(run.pools):
        return "No pool has an insurance fund at the start." if len(without) > 1 else "The pool has no insurance fund at the start."
    note = f" Without a fund at the start: {words.listing(without)}." if without else ""
    if ran_out:
        scenario, found = ran_out[0]
        who = f"insurance {'fund' if len(found) == 1 else 'funds'} of {words.listing([f.pool for f in found])}"
        where = f"In {_quoted(scenario)} the" if len(run.scenarios) > 1 else "The"
        more = len(ran_out) - 1
        also = f" Funds also run out in {words.plural(more, 'other scenario')}." if more else ""
        return f"{where} {who} {'runs' if len(found) == 1 else 'run'} out {exhaustion_times(scenario)}.{also}{note}"
    worst = max(run.scenarios, key=lambda s: s.metrics["insurance_fund_fall"])
    deepest = worst.metrics["insurance_fund_fall"]
    if deepest < NEGLIGIBLE:
        return f"No insurance fund runs out, and none falls noticeably below its start.{note}"
    pool = max(worst.pools, key=lambda p: worst.pools[p]["insurance_fund_fall"])
    where = f" in {_quoted(worst)}" if len(run.scenarios) > 1 else ""
    return f"No insurance fund runs out; the deepest fall is that of {pool}, by {words.percent(deepest)} of its start{where}.{note}"


def _fall_text(d: Swing) -> str:
    if d.fall_without < NEGLIGIBLE:
        return f"falls by {words.percent(d.fall)} from its start, where the scenario alone would not have made it fall"
    return f"falls by {words.percent(d.fall)} from its start instead of {words.percent(d.fall_without)}"


def _cascade(run: Run) -> str:
    every = [(s, d) for s in run.scenarios for d in swings(s)]
    scenario, worst = max(every, key=lambda pair: pair[1].further)
    squeeze, highest = max(every, key=lambda pair: pair[1].further_rise)
    if worst.further < NEGLIGIBLE <= highest.further_rise:
        where = f" in {_quoted(squeeze)}" if len(run.scenarios) > 1 else ""
        peak, alone = words.percent(1 + highest.rise), words.percent(1 + highest.rise_without)
        lift = f"to {peak} of its start instead of {alone}"
        return f"The cascade deepens no fall but lifts prices, most that of {highest.asset}{where}: {lift}."
    if worst.further < NEGLIGIBLE:
        return f"The cascade deepens no asset's fall by more than {words.points(NEGLIGIBLE)}."
    where = f" in {_quoted(scenario)}" if len(run.scenarios) > 1 else ""
    ratio = f" ({words.times(worst.ratio)} the fall)" if worst.ratio else ""
    size = f"{words.points(worst.further)} further{ratio}"
    text = f"The cascade adds most to the fall of {worst.asset}{where}: it {_fall_text(worst)}, {size}."
    steepest, relative = max(every, key=lambda pair: pair[1].ratio or 0)
    if relative.ratio and worst.ratio and relative.ratio > 1.05 * worst.ratio:
        there = f" in {_quoted(steepest)}" if len(run.scenarios) > 1 else ""
        text += f" In proportion it adds most to that of {relative.asset}{there}: {words.times(relative.ratio)}."
    return text


def _unsettled(run: Run) -> list[str]:
    worst = max(run.scenarios, key=lambda s: s.metrics["latent_deficit_over_open_interest"])
    share = worst.metrics["latent_deficit_over_open_interest"]
    if share <= 0:
        return []
    amount = words.usd(float(worst.data.latent_deficit_usd.sum()))
    where = f"of {_quoted(worst)}" if len(run.scenarios) > 1 else "of the scenario"
    size = f"{amount} of negative equity ({words.percent(share)} of the {held_words(worst)} at the start)"
    return [f"At the end {where} accounts that are still open have {size}, not yet settled."]


def system_sentence(run: Run) -> str:
    """What was stressed."""
    interest = [open_interest(s) for s in run.scenarios]
    low, high = words.usd(min(interest)), words.usd(max(interest))
    size = low if low == high else f"between {low} and {high}"
    funds = float(run.scenarios[0].data.insurance_fund_usd.isel(time=0).sum())
    accounts = words.count(float(run.scenarios[0].data.accounts.sum()))
    pools, assets = words.plural(len(run.pools), "pool"), words.plural(len(run.assets), "asset")
    source = "accounts read from a file" if run.system["book"].get("file") else "sampled accounts"
    lenders = run.scenarios[0].lenders
    verbs = "lend" if len(lenders) == len(run.pools) else "trade and lend" if lenders else "trade"
    if len(run.pools) == 1:
        verbs = " and ".join(f"{v}s" for v in verbs.split(" and "))
    shared = f"{assets} ({words.listing(run.assets, 8)})"
    lent = [loans(s) for s in run.scenarios]
    held = [f"{size} of open interest"] if max(interest) > 0 or not lenders else []
    if lenders:
        least, most = words.usd(min(lent)), words.usd(max(lent))
        held.append(f"{least if least == most else f'between {least} and {most}'} of loans")
    held.append(f"{words.usd(funds)} in insurance funds")
    return f"{pools} ({words.listing(run.pools, 6)}) {verbs} {shared}, with {accounts} {source}, {words.listing(held)} at the start."
