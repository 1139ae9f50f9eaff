"""Verdicts as JUnit XML: one test case for each claim in each configuration.

What is written is valid against both schemas in use, Apache Ant's (required attributes, one result per test case) and
that of Jenkins' xUnit plugin. A verdict worse than or different from the expected one is a failure, UNKNOWN and
whatever else leaves the answer open an error, a claim that does not apply is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from formal.report.servers.results import Checked, Outcome, Suite
from formal.scope.assumptions import ASSUMED

_NO_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot say


def text(suites: Sequence[Suite], when: datetime | None = None) -> str:
    """The whole run as one document; ``when`` it was made (now), in UTC."""
    stamp = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    root = ET.Element("testsuites")
    for number, suite in enumerate(suites):
        _suite(root, suite, number, stamp)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, suite: Suite, number: int, stamp: str) -> None:
    count = {o: sum(c.outcome is o for c in suite.checked) for o in Outcome}
    attributes = {
        "name": suite.name,
        "timestamp": stamp,
        "hostname": "localhost",
        "tests": str(len(suite.checked) + len(suite.problems)),
        "failures": str(count[Outcome.FAILED]),
        "errors": str(count[Outcome.UNDECIDED] + len(suite.problems)),
        "skipped": str(count[Outcome.SKIPPED]),
        "time": _seconds(c.row.seconds for c in suite.checked),
        "package": "formal",
        "id": str(number),
    }
    element = ET.SubElement(root, "testsuite", _clean(attributes))
    properties = ET.SubElement(element, "properties")
    for n, assumed in enumerate(ASSUMED, 1):
        ET.SubElement(properties, "property", _clean({"name": f"assumed.{n}", "value": assumed}))
    for checked in suite.checked:
        _case(element, suite, checked)
    for n, problem in enumerate(suite.problems, 1):
        case = _testcase(element, suite, f"problem {n}", 0.0)
        ET.SubElement(case, "error", _clean({"type": "problem", "message": problem}))
    ET.SubElement(element, "system-out")
    ET.SubElement(element, "system-err")


def _testcase(parent: ET.Element, suite: Suite, name: str, seconds: float) -> ET.Element:
    classname = "formal." + ".".join(suite.name.split())
    return ET.SubElement(
        parent, "testcase", _clean({"name": name, "classname": classname, "time": _seconds((seconds,))})
    )


def _case(parent: ET.Element, suite: Suite, checked: Checked) -> None:
    case = _testcase(parent, suite, checked.row.check, checked.row.seconds)
    if checked.outcome is Outcome.SKIPPED:  # its reason is text: Ant's schema has no attribute for it
        ET.SubElement(case, "skipped").text = _NO_XML.sub("?", checked.row.reason)
    elif checked.outcome is not Outcome.PASSED:
        tag = "failure" if checked.outcome is Outcome.FAILED else "error"
        element = ET.SubElement(case, tag, _clean({"type": checked.row.verdict, "message": checked.message}))
        element.text = _NO_XML.sub("?", "\n".join(suite.run(checked.row)))


def _seconds(parts: Iterable[float]) -> str:
    return f"{sum(parts):.6f}"


def _clean(attributes: dict[str, str]) -> dict[str, str]:
    return {name: _NO_XML.sub("?", value) for name, value in attributes.items()}
