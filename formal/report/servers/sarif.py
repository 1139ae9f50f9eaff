"""Verdicts as SARIF 2.1.0: each claim is a rule, each verdict a result, a violation's run a code flow.

The kind of a result is the verdict: ``pass``, ``fail``, ``open`` (UNKNOWN) or ``notApplicable``. A violation that is
expected is a ``note`` with an accepted suppression, so that a viewer shows what is new first. Paths are relative to
the kernel tree (``%SRCROOT%``); what has no place there points at the claim itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import Any

from formal.common.places import FORMAL
from formal.report.claimplaces import PROPERTIES, line_of
from formal.report.servers.flow import Flow, Place
from formal.report.servers.results import Checked, Outcome, Suite

_ROOT, _OWN = "%SRCROOT%", "%PROOFS%"
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_SOURCE = (
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/arch/arm64/kvm/debug.c"  # its comments
)
_KIND = {"PROVED": "pass", "VIOLATED": "fail", "UNKNOWN": "open", "n/a": "notApplicable"}


def text(suites: Sequence[Suite], exit_code: int) -> str:
    """The whole run as one document."""
    rules: dict[str, dict[str, Any]] = {}
    for suite in suites:
        for checked in suite.checked:
            rules.setdefault(checked.row.claim, _rule(checked))
    index = {name: n for n, name in enumerate(rules)}
    problems = [_notification(suite, p) for suite in suites for p in suite.problems]
    run = {
        "tool": {
            "driver": {
                "name": "formal.prove",
                "version": _version(),
                "informationUri": _home(),
                "rules": list(rules.values()),
            }
        },
        "columnKind": "utf16CodeUnits",
        "automationDetails": {"id": "formal.prove/"},
        "originalUriBaseIds": {
            _ROOT: {"description": {"text": "The root of the kernel source tree."}},
            _OWN: {"description": {"text": "Where this tool was installed from."}},
        },
        "invocations": [
            {
                "executionSuccessful": not problems and exit_code in (0, 1),
                "exitCode": exit_code,
                "toolExecutionNotifications": problems,
            }
        ],
        "results": [_result(s, c, index) for s in suites for c in s.checked],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _notification(suite: Suite, problem: str) -> dict[str, Any]:
    notification: dict[str, Any] = {"level": "error", "message": {"text": f"{suite.name}: {problem}"}}
    return notification | ({"locations": [_location(suite.stopped_at)]} if suite.stopped_at else {})


def _version() -> str:
    try:
        return version("kvm-debug-trap-proofs")
    except PackageNotFoundError:
        return "unknown"  # run from a checkout


def _home() -> str:
    """Where to read about the tool: the package's home page, the GitHub action's repository, or where it lies."""
    try:
        told = metadata("kvm-debug-trap-proofs").get_all("Project-URL") or []
        pages = {name: page for name, _, page in (str(line).partition(", ") for line in told)}
    except PackageNotFoundError:
        pages = {}
    if page := pages.get("Homepage"):
        return page
    server, action = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_ACTION_REPOSITORY")
    return f"{server}/{action}" if server and action else (FORMAL.parent / "README.md").as_uri()


def _rule(checked: Checked) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "id": checked.row.claim,
        "shortDescription": {"text": " ".join(checked.says.split())},
        "defaultConfiguration": {"level": "error"},
        "helpUri": _SOURCE,
    }
    return rule | ({"help": {"text": f"Source: {checked.cites}"}} if checked.cites else {})


def _result(suite: Suite, checked: Checked, index: dict[str, int]) -> dict[str, Any]:
    row = checked.row
    level = "none" if row.verdict != "VIOLATED" else "note"
    if checked.outcome is Outcome.FAILED:  # a verdict that is better than the manifest says differs as well
        level = "error" if row.verdict == "VIOLATED" else "warning"
    identity = f"{suite.name}/{row.check}"
    result: dict[str, Any] = {
        "ruleId": row.claim,
        "ruleIndex": index[row.claim],
        "kind": "fail" if level != "none" else _KIND[row.verdict],
        "level": level,
        "message": {"text": f"{suite.name}: {checked.message}"},
        "partialFingerprints": {"check/v1": hashlib.sha256(identity.encode()).hexdigest()},
        "properties": {"configuration": suite.name, "verdict": row.verdict, "expected": row.expected or "",
                       "engine": row.engine, "given": list(row.assumptions)},
    }  # fmt: skip
    found = suite.flow_of(row) if row.verdict == "VIOLATED" else None
    at_fault = suite.blame_of(row) if checked.outcome is Outcome.FAILED and row.verdict == "VIOLATED" else None
    if found is not None and found.places:
        stores = [found.places[n] for n in (*found.related, found.blamed)]
        first, *related = [at_fault.place, *at_fault.related, *stores] if at_fault else [stores[-1], *stores[:-1]]
        if not first.file:  # the guest or user space does it, and a viewer shows nothing that has no file
            first = replace(checked.place or Place(PROPERTIES, line_of(row.claim), ""), text=first.text)
        result["locations"] = [_location(first, configuration=suite.name)]
        if related:
            result["relatedLocations"] = [_location(place) for place in related]
        result["codeFlows"] = [{"threadFlows": [{"locations": list(_steps(found))}]}]
    elif checked.place is not None or line_of(row.claim):
        place = checked.place or Place(PROPERTIES, line_of(row.claim), "")
        result["locations"] = [_location(place, configuration=suite.name)]
    if level == "note":
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": "This verdict is the expected one."}
        ]
    return result


def _steps(found: Flow) -> Iterator[dict[str, Any]]:
    for number, place in enumerate(found.places):
        importance = "essential" if number == found.blamed else "important" if place.line else "unimportant"
        yield {"location": _location(place), "executionOrder": number + 1, "importance": importance}


def _location(place: Place, configuration: str = "") -> dict[str, Any]:
    location: dict[str, Any] = {}
    if place.file:
        base = _OWN if place.file == PROPERTIES else _ROOT
        location["physicalLocation"] = {"artifactLocation": {"uri": place.file, "uriBaseId": base}}
        if place.line:
            location["physicalLocation"]["region"] = {"startLine": place.line}
    if configuration:
        location["logicalLocations"] = [{"name": configuration, "kind": "module"}]
    return location | ({"message": {"text": place.text}} if place.text else {})
