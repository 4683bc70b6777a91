"""The page that compares policies."""

import json
from collections.abc import Iterator
from itertools import count

from stresslev.report import comparison_charts, comparison_tables, generated, sections, words
from stresslev.report import comparison_words as told
from stresslev.report.comparison_inputs import Compared, Policy
from stresslev.report.frame import contents, created, facts, items, no_script, page, section
from stresslev.report.markup import Html, tag

_SECTIONS = {
    "verdict": "Verdict",
    "policies": "What each policy buys and costs",
    "scenarios": "By scenario",
    "worse": "Where a policy makes things worse",
    "charts": "Charts",
    "definitions": "Measures and settings",
}


def _header(compared: Compared) -> Html:
    run = compared.first.run
    pairs = [
        ("Created", created(compared.created)),
        ("stresslev", run.attributes["stresslev_version"]),
        ("Policies", words.count(float(len(compared.policies)))),
        ("Scenarios", words.count(float(len(compared.scenarios)))),
        ("Accounts", words.count(float(compared.scenarios[0].data.accounts.sum()))),
        ("Seed", str(run.attributes["seed"])),
        ("Precision", run.attributes["precision"]),
    ]
    lead = tag("p", " ".join(compared.description.split()), class_="lead") if compared.description else None
    return tag("header", tag("h1", tag("span", "Policies compared", class_="kicker"), compared.title), lead, facts(pairs, class_="facts"))


def _verdict(compared: Compared) -> Html:
    state = told.state(compared)
    mark = {told.BREACHED: "✕", told.WITHIN: "✓", told.NO_LIMITS: "○"}[state]
    statement = tag("p", tag("span", mark, class_="sign", aria_hidden="true"), told.headline(compared), class_="statement")
    banner = tag("div", statement, tag("p", told.explanation(compared)), class_=f"banner {state}")
    return section("verdict", _SECTIONS["verdict"], banner, comparison_tables.measures(compared))


def _policy(compared: Compared, policy: Policy) -> Html:
    text = [tag("p", p) for p in words.paragraphs(policy.description)]
    trade = "The policy that the others are held against." if policy is compared.first else told.trade(compared, policy)
    report = tag("p", tag("a", f"Full report under {policy.title}", href=f"{policy.name}/report.html"), class_="note screen-only")
    paths = [generated.differences(said) for said in policy.run.samples.values()]
    return tag("div", tag("h3", policy.title, id=f"policy-{policy.name}"), text, tag("p", trade), paths, report)


def _policies(compared: Compared, numbers: Iterator[int]) -> Html:
    frontier = comparison_charts.frontier(compared)
    drawn = sections.figure(frontier, next(numbers), 3) if frontier is not None else None
    return section("policies", _SECTIONS["policies"], drawn, [_policy(compared, p) for p in compared.policies])


def _scenarios(compared: Compared) -> Html:
    groups = comparison_tables.groups(compared)
    parts = [comparison_tables.scenarios(compared)]
    parts.append(tag("p", "“Size” is open interest and loans at the start. ★ marks the best policy in each scenario.", class_="note"))
    if groups is not None:
        text = "Accounts are small, medium or large among those of their pool. Leverage allowed differs between groups only by the pools they are in."
        parts += [tag("h3", "User groups"), groups, tag("p", text, class_="note")]
    return section("scenarios", _SECTIONS["scenarios"], parts)


def _worse(compared: Compared) -> Html:
    if not compared.worse:
        text = f"Nowhere: no policy makes any measure of safety worse than {compared.first.title} does, in any scenario."
        return section("worse", _SECTIONS["worse"], tag("p", text))
    parts = [
        tag("p", f"Measures of safety that are worse than under {compared.first.title}, by how much, and what the results say about the reason.")
    ]
    for one in compared.worse:
        title = next(s.title for s in compared.scenarios if s.name == one.scenario)
        parts += [tag("h3", f"{one.policy.title} in “{title}”"), items(told.worse(one)), tag("p", told.why(compared, one))]
    return section("worse", _SECTIONS["worse"], parts)


def _charts(compared: Compared, numbers: Iterator[int]) -> Html:
    hint = tag(
        "p", "Drag across a chart to look closer; double-click to go back. Point at a line or mark for its numbers.", class_="note screen-only"
    )
    drawn = [sections.figure(c, next(numbers), 3) for c in comparison_charts.charts(compared)]
    return section("charts", _SECTIONS["charts"], hint, drawn)


def _definitions(compared: Compared) -> Html:
    settings = [
        tag("details", tag("summary", f"Settings of {p.title} (JSON)"), tag("pre", json.dumps(p.settings, indent=2, ensure_ascii=False)))
        for p in compared.policies
    ]
    parts = [
        comparison_tables.definitions(compared),
        tag("h3", "Policies as configured"),
        settings,
        tag("p", "The settings are not printed: they are in this page on screen and in each policy's result.nc.", class_="print-only"),
        tag("h3", "How to reproduce this comparison"),
        tag("pre", compared.command, class_="command"),
        tag("p", "Assumptions, limits of the model and numerical health are in the report of each policy."),
    ]
    return section("definitions", _SECTIONS["definitions"], parts)


def document(compared: Compared) -> str:
    """The whole page."""
    numbers = count(1)
    main = tag(
        "main",
        _verdict(compared),
        contents(_SECTIONS.items()),
        no_script(),
        _policies(compared, numbers),
        _scenarios(compared),
        _worse(compared),
        _charts(compared, numbers),
        _definitions(compared),
    )
    written = f"stresslev {compared.first.run.attributes['stresslev_version']}, {created(compared.created)}"
    return page(f"{compared.title}: policies compared", _header(compared), main, written, "verdict")
