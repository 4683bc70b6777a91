"""Reports in a browser: they load without complaint, are narrowed down by keyboard, print on the pages they should, and say what pictures show."""

import functools
import re
from itertools import pairwise
from pathlib import Path

import pytest

from stresslev import policies, report
from stresslev.contrast.differences import held
from stresslev.contrast.inputs import Result
from stresslev.contrast.words import as_data
from stresslev.metrics import Finding
from stresslev.report import experiment
from tests.browser import CHROMIUM, Browser
from tests.comparisons import worse_and_better
from tests.experiment_data import tuned
from tests.test_report import save
from tests.test_report_comparison import LIMIT
from tests.test_report_contagion import configure, linked

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: reports are not looked at in a browser")


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


def _result(name: str, debt: float) -> Result:
    """What a run found, as a comparison takes it."""
    found = {s: {"bad_debt_over_open_interest": d, "liquidated_accounts_share": d} for s, d in (("crash", 0.05), ("calm", debt))}
    findings = [Finding("bad_debt_over_open_interest", s, m["bad_debt_over_open_interest"], 0.03, "max", s == "crash", "") for s, m in found.items()]
    return Result(Path(name), name, found, tuple(findings), {"created": "2026-11-01T09:00:00+00:00"}, {}, {}, {}, {})


def _run(folder: Path) -> None:
    """A run with everything that a report draws, against an earlier one."""
    crash, calm = linked().assign_attrs(title="A crash", start="2026-01-01T10:00:00"), linked().assign_attrs(title="A calm day")
    calm["bad_debt_usd"] = 0.1 * calm.bad_debt_usd
    save(folder, {"crash": crash, "calm": calm}, {"bad_debt_over_open_interest": 0.03, "insolvent_pools": 9}, configure=configure)
    before, now = _result("before", 0.02), _result("now", 0.01)
    report.write(folder, as_data(held(before, now, (), [(before, now)], 0.95)))


def _compared(folder: Path) -> None:
    policies.save(worse_and_better(LIMIT), folder)
    report.write(folder)


def _experiment(folder: Path) -> None:
    (folder / "report.html").write_text(experiment.document(tuned()), encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run, of a comparison of policies or of an experiment, by name; each is made once."""

    @functools.cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        {"run": _run, "compared": _compared, "experiment": _experiment}[name](folder)
        return folder / "report.html"

    return made


@pytest.fixture(scope="module", params=["run", "experiment", pytest.param("compared", marks=pytest.mark.slow)])
def each(request, browser, pages):
    """The browser with one report after the other, loaded once; tests only look."""
    browser.open(pages(request.param))
    return browser


@pytest.fixture
def shown(browser, pages):
    """The browser with the report of the run, as it is when it has been loaded."""
    if browser.page != pages("run"):
        browser.open(pages("run"))
    browser.resize(1280)
    browser.run("document.activeElement.blur(), document.getElementById('filter').reset()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    return browser


def visible(browser, selector: str) -> list[str]:
    """Texts of the elements that can be seen."""
    return browser.run(f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).map(e => e.textContent)")


def test_pages_load_without_complaint_and_fit_wide_and_narrow_windows(each):
    assert each.complaints == []
    drawn = each.run("[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('svg.main-svg .cartesianlayer').length)")
    assert len(drawn) >= 3 and all(drawn)
    for width in (1280, 420):
        each.resize(width)
        assert each.run("document.documentElement.scrollWidth <= innerWidth"), width
    each.resize(1280)
    assert each.complaints == []


def test_an_error_would_have_been_seen(browser, tmp_path):
    """The last test sees what it looks for."""
    (tmp_path / "bad.html").write_text("<script>nothing.here()</script><img src='missing.png'>")
    browser.open(tmp_path / "bad.html")
    assert len(browser.complaints) == 2


def test_the_page_is_narrowed_down_by_keyboard(shown):
    sections, rows = "main > section > h2", "#verdict .verdicts tbody tr"
    every = visible(shown, sections)
    assert "A calm day" in every and len(visible(shown, rows)) == 2
    assert len(visible(shown, "tr[data-pool] > th")) > 20

    shown.run("document.getElementById('filter-breached').focus()")
    shown.press(" ", 32, " ")
    assert [h for h in every if h not in visible(shown, sections)] == ["A calm day"]
    assert len(visible(shown, rows)) == 1 and "Bad debt" in visible(shown, rows)[0]
    assert visible(shown, "#filter-state") == ["Narrowed to 1 of 2 scenarios; breached limits only."]
    assert not any("A calm day" in text for text in visible(shown, "nav li, thead th, tbody[data-scenario]"))

    shown.run("document.getElementById('filter-pool').focus()")
    shown.press("ArrowDown", 40)
    assert set(visible(shown, "tr[data-pool] > th")) == {"large"}

    shown.run("document.querySelector('#filter button').focus()")
    shown.press("Enter", 13, "\r")
    shown.run("new Promise(done => setTimeout(done, 50))")
    assert visible(shown, sections) == every and len(visible(shown, rows)) == 2
    assert visible(shown, "#filter-state") == ["Everything is shown."]


def test_what_can_be_used_is_reached_by_tab_and_what_is_wide_can_be_scrolled(shown):
    browser = shown
    browser.resize(420)
    browser.run("document.body.tabIndex = -1; document.body.focus()")
    reached = []
    for _ in range(40):
        browser.press("Tab", 9)
        reached.append(browser.run("(e => e.id || e.className || e.getAttribute('href'))(document.activeElement)"))
    assert reached[0] == "skip"
    assert {"#scenario-crash", "filter-scenario", "filter-pool", "filter-breached", "wide"} <= set(reached)
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert browser.run(f"{wide}.length") > 3
    assert browser.run(f"{wide}.every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))")


def test_what_the_browser_tells_a_screen_reader(each):
    """From the accessibility tree: every picture has words, every control a name, and headings descend one by one."""
    nodes = [n for n in each.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    names = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes]
    pictures = [text for role, text in names if role in ("image", "img", "graphics-document")]
    assert len(pictures) >= 3 and all(len(text) > 40 for text in pictures)
    assert all(text for role, text in names if role in ("combobox", "checkbox", "button", "link", "heading", "region"))
    levels = [next(p["value"]["value"] for p in n["properties"] if p["name"] == "level") for n in nodes if n["role"]["value"] == "heading"]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) >= {2, 3}
    assert all(after <= before + 1 for before, after in pairwise(levels))


#: Every text with the colour it is written in and that behind it, as the browser draws them.
_TEXTS = """
(() => {
  const found = {};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || text === "■" || !element.checkVisibility() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), svg = element.namespaceURI.endsWith("svg");
    let behind = "rgb(255, 255, 255)";
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!svg && colour !== "rgba(0, 0, 0, 0)") { behind = colour; break; }
    }
    if (!element.closest(".network g:has(> circle)")) found[(svg ? style.fill : style.color) + "|" + behind] = text;
  }
  return found;
})()
"""


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_text_stands_out_from_what_is_behind_it(each):
    """At least 4.5 to 1, as WCAG 2.2 AA asks of text of any size."""
    found = each.run(_TEXTS)
    assert len(found) > 4
    for pair, text in found.items():
        light, dark = sorted((_luminance(c) for c in pair.split("|")), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (pair, text)


def _outline(pdf: bytes) -> tuple[int, dict[str, int]]:
    """Number of pages, and the page (from 1) of each heading, from a PDF's own outline."""
    objects = {int(n): body for n, body in re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", pdf, re.S)}
    kids = {n: [int(k) for k in re.findall(rb"(\d+) 0 R", m[1])] for n, b in objects.items() if (m := re.search(rb"/Kids \[(.*?)\]", b, re.S))}
    child = {k for several in kids.values() for k in several}

    def leaves(n: int) -> list[int]:
        return [p for k in kids[n] for p in leaves(k)] if n in kids else [n]

    root = next(n for n, b in objects.items() if n in kids and n not in child and b"/Type /Pages" in b)
    numbers = {obj: i for i, obj in enumerate(leaves(root), 1)}
    places = {}
    for body in objects.values():
        title, place = re.search(rb"/Title \((.*?)\)\s", body, re.S), re.search(rb"/Dest \[(\d+) 0 R", body)
        if title and place:
            text = title[1].decode("utf-16") if title[1].startswith(b"\xfe\xff") else title[1].decode("latin-1")
            places.setdefault(text, numbers[int(place[1])])
    return len(numbers), places


def test_a_printed_report_has_the_pages_it_should(shown):
    """The verdict with limits and change on page one; drivers, each scenario and the appendix begin pages of their own."""
    pages, places = _outline(shown.printed())
    assert places["Verdict"] == places["Limits"] == places["Change against the last run"] == places["CONTENTS"] == 1
    starts = [places[title] for title in ("What drives it", "A crash", "A calm day", "Appendix: assumptions and limits of the model")]
    assert starts[0] == 2 and starts == sorted(set(starts)) and starts[-1] < pages <= 30
    assert next(page for title, page in places.items() if title.startswith("Prices with and without the cascade")) > starts[1]

    # what is narrowed down prints so, and says so
    shown.run("document.getElementById('filter-breached').click()")
    fewer, places = _outline(shown.printed())
    assert "A calm day" not in places and fewer < pages
    shown.call("Emulation.setEmulatedMedia", media="print")
    assert visible(shown, "#filter-state") and not visible(shown, "#filter fieldset")
    shown.call("Emulation.setEmulatedMedia", media="")
