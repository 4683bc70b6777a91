"""What a reader may narrow the page down to: scenarios, a pool, limits that are breached. It works in the page, offline, and by keyboard."""

from stresslev.report.inputs import Run
from stresslev.report.markup import Html, tag

_HINT = "Narrows tables and sections. Charts, and sentences about the whole run, stay as they are."


def _choice(identity: str, title: str, everything: str, options: list[tuple[str, str, dict]]) -> Html:
    every = tag("option", everything, value="")
    return tag(
        "label", title, tag("select", every, [tag("option", text, value=value, **more) for value, text, more in options], id=identity, name=identity)
    )


def form(run: Run) -> Html | None:
    """The controls, which the page's script shows and answers to; nothing where there is nothing to choose."""
    shown = {path: name for name, said in run.samples.items() for path in said["shown"]}
    breached = {c.scenario for c in run.judged if c.breached}
    entries = [(name, said["title"]) for name, said in run.samples.items()] + [(s.name, s.title) for s in run.scenarios]
    scenarios = [(name, title, {"data_breached": "yes"} if shown.get(name, name) in breached else {}) for name, title in entries]
    if len(scenarios) < 2 and len(run.pools) < 2:
        return None
    choices = [
        _choice("filter-scenario", "Scenario", "all scenarios", scenarios),
        _choice("filter-pool", "Pool", "all pools", [(p, p, {}) for p in run.pools]),
    ]
    only = tag("label", tag("input", id="filter-breached", type="checkbox"), " breached limits only") if breached else None
    reset = tag("button", "Show everything", type="reset")
    state = tag("p", role="status", id="filter-state", class_="note")
    controls = tag("fieldset", tag("legend", "Show"), choices, only, reset)
    return tag("form", controls, state, tag("p", _HINT, class_="note screen-only"), id="filter", class_="filter", hidden="")
