"""What every page of ours has: a frame that needs nothing from anywhere, sections, lists and facts."""

from datetime import datetime
from importlib.resources import files

from plotly.offline import get_plotlyjs

from stresslev.report import words
from stresslev.report.markup import Html, join, tag

#: Nothing is fetched from anywhere: the browser is told to refuse it.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def _package_text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def section(identity: str, title: str, *content, **attributes) -> Html:
    """A section with its heading."""
    heading = tag("h2", title, id=f"{identity}-title")
    return tag("section", heading, *content, id=identity, aria_labelledby=f"{identity}-title", **attributes)


def items(texts, **attributes) -> Html | None:
    """A list, or nothing."""
    return tag("ul", [tag("li", t) for t in texts], **attributes) if texts else None


def facts(pairs, **attributes) -> Html:
    """Names with what they stand for."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], **attributes)


def created(text: str) -> str:
    """A time as people read it; as it stands where it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{words.date(time)}, {time:%H:%M} UTC"


def contents(entries) -> Html:
    """Links to the sections of the page, from (identity, title)."""
    links = []
    for identity, title in entries:
        scenario = identity.removeprefix("scenario-") if identity.startswith("scenario-") else None
        links.append(tag("li", tag("a", title, href=f"#{identity}"), data_scenario=scenario))
    return tag("nav", tag("h2", "Contents"), tag("ol", links), aria_label="Contents", class_="contents")


def no_script() -> Html:
    """What a browser without JavaScript is told."""
    return tag("noscript", tag("p", "Charts need JavaScript, which this page carries with it. All figures are in the text and tables."))


def page(title: str, header: Html, main: Html, footer: str, skip: str) -> str:
    """The whole document. `skip` is the identity of the section that the first link leads to."""
    body = [
        tag("a", f"Skip to the {skip}", href=f"#{skip}", class_="skip"),
        header,
        main,
        tag("footer", footer),
        tag("script", Html(get_plotlyjs())),
        tag("script", Html(_package_text("charts.js"))),
        tag("script", Html(_package_text("page.js"))),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_package_text("style.css"))),
    ]
    return "<!DOCTYPE html>\n" + tag("html", join(tag("head", head), "\n", tag("body", body)), lang="en") + "\n"
