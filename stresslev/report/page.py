"""The page: sections put together into one document that needs nothing else."""

import json
import re
from itertools import count

from stresslev.report import changes, drivers, filters, generated, losses, plots, sections, sentences, system_tables, tables, words
from stresslev.report.frame import contents, created, facts, items, no_script, page, section
from stresslev.report.inputs import Run, Scenario
from stresslev.report.markup import Html, tag

_ASSUMPTIONS = "Appendix: assumptions and limits of the model"
_HEALTH, _REPRODUCE = "Appendix: numerical health", "Appendix: how to reproduce this report"

#: The last section of docs/model.md, sentence by sentence.
NOT_MODELLED = (
    "Options and other positions that are not of delta one.",
    "Accounts that open new positions (they only take back what they gave up); policies act on lenders through thresholds only.",
    "Momentum, mean-reversion and arbitrage traders bear their losses without limit; only leverage funds default.",
    "Auto-deleveraging leaves out makers and inverse contracts.",
    "Liquidators of lending pools take baskets pro rata, not the pair that pays them best.",
    "Nobody draws new loans, so that a price that is too high hurts no lender.",
    "Receipt tokens change hands; they are not redeemed.",
    "LLAMMA-like soft liquidation is not modelled.",
    "Price and depth do not cross from one asset to another but by paths, accounts and receipt tokens.",
    "Market makers withdraw when they lose, and never default (makers whose own positions fail are leverage funds).",
    "Clients of venues do not withdraw their money; depositors of lenders do, by rule.",
)


def _header(run: Run) -> Html:
    a = run.attributes
    sampled = run.configuration["system"]["book"].get("file") is None
    pairs = [
        ("Created", created(run.attributes.get("created", ""))),
        ("stresslev", a["stresslev_version"]),
        ("Accounts", words.count(float(run.scenarios[0].data.accounts.sum()))),
        ("Seed", str(a["seed"]) if sampled else f"{a['seed']} (not used: accounts from a file)"),
        ("Precision", a["precision"]),
    ]
    lead = tag("p", " ".join(run.description.split()), class_="lead") if run.description else None
    title = tag("h1", tag("span", "Stress test report", class_="kicker"), run.title)
    return tag("header", title, lead, tag("p", sentences.system_sentence(run)), facts(pairs, class_="facts"))


def _verdict(run: Run, change: dict | None) -> Html:
    state = sentences.state(run)
    mark = {sentences.BREACHED: "✕", sentences.WITHIN: "✓", sentences.NO_LIMITS: "○"}[state]
    statement = tag("p", tag("span", mark, class_="sign", aria_hidden="true"), sentences.headline(run), class_="statement")
    banner = tag("div", statement, tag("p", sentences.explanation(run)), class_=f"banner {state}")
    judged = [tables.verdict(run) if run.checks else None, generated.limits(run)]
    limits = [tag("h3", "Limits"), judged] if run.judged else None
    changed = changes.summary(run, change) if change is not None else None
    return section("verdict", "Verdict", banner, items(sentences.narrative(run), class_="narrative"), limits, changed)


def _contents(run: Run, change: dict | None) -> Html:
    entries = [("verdict", "Verdict"), ("drivers", drivers.TITLE), *([("generated", generated.TITLE)] if run.samples else [])]
    entries += [(f"scenario-{s.name}", s.title) for s in run.scenarios]
    entries += [("assumptions", _ASSUMPTIONS), *([("changes", changes.TITLE)] if change is not None else [])]
    return contents([*entries, ("health", _HEALTH), ("reproduce", _REPRODUCE)])


def _scenario(run: Run, scenario: Scenario, colours: plots.Colours, numbers) -> Html:
    m = scenario.metrics
    key = [("Losses beyond margin", words.usd(float(losses.deficits(scenario).sum())))]
    key += [
        (words.metric_title(name), words.metric_value(name, m[name]))
        for name in ("bad_debt_usd", "insurance_fund_fall", "liquidated_notional_share", "amplification")
    ]
    length = words.duration(float(scenario.minutes[-1]))
    step = words.duration(float(scenario.minutes[1] - scenario.minutes[0]))
    when = f"from {words.moment(scenario.start, 0).removeprefix('at ')}, " if scenario.start else ""
    kind = tag("p", f"{scenario.severity}, {scenario.origin}; {when}{length} in steps of {step}", class_="kind")
    notices = None
    if scenario.notices:
        texts = [t[0].upper() + t[1:] + ("" if t.endswith(".") else ".") for t in scenario.notices]
        notices = tag("aside", tag("h3", "Notices of this run"), items(texts), class_="notices")
    text = [tag("p", p) for p in words.paragraphs(scenario.description)]
    advice = "Drag across a chart to look closer; double-click to go back. Point at a line or bar for its numbers."
    hint = tag("p", advice, class_="note screen-only")
    drawn = sections.of_scenario(run, scenario, colours, numbers)
    parts = [kind, text, facts(key, class_="numbers"), notices, hint, drawn]
    return section(f"scenario-{scenario.name}", scenario.title, *parts, class_="scenario", data_scenario=scenario.name)


def _path_rows(run: Run, name: str) -> list[list[str]]:
    spec = next((s for s in run.configuration["scenarios"] if s["name"] == name), {"paths": {}})
    rows = []
    for asset, path in spec["paths"].items():
        proxy = f"follows {path['proxy']} with a beta of {path['beta']:g}" if path.get("proxy") else ""
        file = f"file {path['file']}" if path.get("file") else ""
        form = proxy or file or words.plural(len(path.get("minutes") or ()), "point")
        rows.append([asset, form, path.get("source") or "not stated"])
    return rows


def _scenario_assumptions(run: Run, scenario: Scenario) -> Html:
    spec = next((s for s in run.configuration["scenarios"] if s["name"] == scenario.name), {})
    changed = [f"{key} = {spec[key]:g}" for key in ("shock_scale", "depth_scale") if spec.get(key, 1) != 1]
    scaled = tag("p", f"Scaled: {words.listing(changed)}.") if changed else None
    assumed = items(scenario.assumptions) or tag("p", "No assumptions are stated.")
    sources = items(scenario.sources) or tag("p", "No sources are stated.")
    rows = _path_rows(run, scenario.name)
    paths = tables.table(["Asset", "Exogenous price", "Source"], rows, text_columns=3) if rows else None
    return tag("div", tag("h3", scenario.title), scaled, assumed, tag("h4", "Sources"), sources, paths, data_scenario=scenario.name)


def _assumptions(run: Run) -> Html:
    system, policy = run.configuration["system"], run.configuration["policy"]
    multiplier = policy["maintenance_multiplier"]
    own = ", except where a pool and asset has its own" if policy["pools"] else ""
    rules = "Margin requirements are the pools' own" if multiplier == 1 else f"Margin requirements are {multiplier:g} times the pools' own"
    rounds = words.plural(run.configuration["run"]["max_rounds"], "round")
    parts = [
        tag("h3", f"The system: {system['name']}"),
        [tag("p", p) for p in words.paragraphs(system.get("description", ""))],
        items(system.get("assumptions")) or tag("p", "The system states no assumptions."),
        tag("p", f"{rules}{own}. Within one step liquidations go on for at most {rounds}."),
        tag("h4", "Pools"),
        system_tables.pools(run),
        system_tables.reserves(run),
        tag("h4", "Markets"),
        system_tables.assets(run),
        [tag("h4", "What ties pools and markets"), items(ties)] if (ties := system_tables.ties(run)) else None,
        system_tables.tiers(run),
        [_scenario_assumptions(run, s) for s in run.scenarios],
        tag("h3", "What the model does not do"),
        items(NOT_MODELLED),
        tag("h3", "Definitions"),
        tables.definitions(),
    ]
    return section("assumptions", _ASSUMPTIONS, *parts)


def _health(run: Run) -> Html:
    text = (
        "Cash, positions and coins must balance in every pool and step; what is left over is rounding, stated here as a share of open "
        "interest and loans at the start. The residual of the whole run sums all ledgers anew at the first and the last step. "
        "A run in which either passes the tolerance of its precision fails, and no report is written."
    )
    return section("health", _HEALTH, tag("p", text), tables.health(run))


#: Attribute of a result -> what it is called in the report.
_ENVIRONMENT = {"stresslev_version": "stresslev"} | {
    name: name for name in ("python", "jax", "numpy", "xarray", "platform", "device", "precision", "seed")
}


def pretty(configuration: dict) -> str:
    """Indented JSON with lists of numbers and words on one line."""
    text = json.dumps(configuration, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r"\n\s*", " ", m[1]) + "]", text)


def _reproduce(run: Run) -> Html:
    a = run.attributes
    digests = json.loads(a.get("input_files_sha256", "{}"))
    inputs = tag("p", "No files of accounts or prices were read.")
    if digests:
        inputs = tables.table(["Input file", "SHA-256"], list(digests.items()), text_columns=2)
    versions = [(title, str(a[key])) for key, title in _ENVIRONMENT.items() if key in a]
    versions.append(("wall time", f"{float(a['wall_seconds']):,.1f} s"))
    whole = tag("details", tag("summary", "Effective configuration (JSON)"), tag("pre", pretty(run.configuration)))
    parts = [
        tag("p", "This run was started by:"),
        tag("pre", a["command"], class_="command"),
        tag("p", "The same run again, from the configuration stored in its result (FOLDER holds this report, NEW is a new folder):"),
        tag("pre", "stresslev rerun FOLDER --out NEW", class_="command"),
        tag("h3", "Environment"),
        facts(versions, class_="facts"),
        tag("h3", "Input files"),
        inputs,
        tag("h3", "Configuration"),
        whole,
        tag("p", "The effective configuration is not printed: it is in this page on screen and in result.nc.", class_="print-only"),
    ]
    return section("reproduce", _REPRODUCE, *parts)


def document(run: Run, change: dict | None = None) -> str:
    """The whole page. Args: `change` against the last run, as `contrast.last.change` gives it."""
    look, numbers = plots.colours(run), count(1)
    main = tag(
        "main",
        _verdict(run, change),
        _contents(run, change),
        filters.form(run),
        no_script(),
        drivers.part(run, numbers),
        generated.part(run, numbers),
        [_scenario(run, s, look, numbers) for s in run.scenarios],
        _assumptions(run),
        changes.appendix(run, change) if change is not None else None,
        _health(run),
        _reproduce(run),
    )
    written = f"stresslev {run.attributes['stresslev_version']}, {created(run.attributes.get('created', ''))}"
    return page(f"{run.title}: stress test report", _header(run), main, written, "verdict")
