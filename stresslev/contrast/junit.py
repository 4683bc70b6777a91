"""A gate's verdict as JUnit XML, which CI systems show as tests: a suite for each scenario, a case for each check."""

import re
from xml.etree import ElementTree

from stresslev.contrast.gate import Verdict, notes

#: Characters that XML 1.0 does not have.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text) -> str:
    return _FORBIDDEN.sub("?", str(text))


def xml(verdict: Verdict) -> str:
    """The document as text."""
    checks, broken = verdict.checks, verdict.broken
    root = ElementTree.Element("testsuites", name="stresslev gate", tests=str(len(checks)), failures=str(len(broken)), errors="0", time="0")
    for scenario in dict.fromkeys(c.scenario for c in checks):
        own = [c for c in checks if c.scenario == scenario]
        failures = str(sum(not c.passed for c in own))
        known = {"name": _clean(scenario), "tests": str(len(own)), "failures": failures, "errors": "0", "skipped": "0", "time": "0"}
        suite = ElementTree.SubElement(root, "testsuite", known)
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in (("run", verdict.run.name), ("baseline", verdict.baseline.name), ("notes", " ".join(notes(verdict)))):
            ElementTree.SubElement(properties, "property", name=key, value=_clean(value))
        for check in own:
            case = ElementTree.SubElement(suite, "testcase", classname=_clean(f"stresslev.{scenario}"), name=_clean(check.name), time="0")
            if not check.passed:
                failure = ElementTree.SubElement(case, "failure", message=_clean(check.told), type="breach")
                failure.text = _clean(f"{check.scenario}: {check.name}: {check.told}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
