"""A strict reader of KTAP version 1: version, plan, results in order, nested tests; parents fail with a subtest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_RESULT = re.compile(r"(ok|not ok) (\d+) ([^#]*?)(?: # (?:(SKIP|TIMEOUT|ERROR)\b ?)?(.*))?")


@dataclass
class Test:
    """One test, with those inside it and the diagnostic lines before its result."""

    __test__ = False
    name: str
    ok: bool
    directive: str
    data: str
    log: list[str] = field(default_factory=list)
    inside: list[Test] = field(default_factory=list)


def read(text: str) -> list[Test]:
    """The tests of a document.

    Raises:
        AssertionError: if it is not as the kernel's Documentation/dev-tools/ktap.rst says.
    """
    assert text.endswith("\n") and "\t" not in text
    lines = text.splitlines()
    found = _group(lines, "")
    assert not lines, f"behind the last result: {lines[0]}"
    return found


def _group(lines: list[str], indent: str) -> list[Test]:
    assert lines.pop(0) == f"{indent}KTAP version 1"
    assert not indent or lines.pop(0).startswith(f"{indent}# Subtest: "), "the kernel's reader until v6.2 wants it"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    assert plan, "the plan follows the version"
    found: list[Test] = []
    log: list[str] = []
    inside: list[Test] = []
    title = ""
    while len(found) < int(plan[1]):
        line = lines[0]
        if line.startswith(f"{indent}  KTAP"):
            assert not inside
            title = lines[1].removeprefix(f"{indent}  # Subtest: ")
            inside = _group(lines, f"{indent}  ")
            continue
        lines.pop(0)
        if line.startswith(f"{indent}# "):
            log.append(line.strip())
            continue
        result = _RESULT.fullmatch(line.removeprefix(indent))
        assert result and line.startswith(indent), f"no result line: {line!r}"
        assert int(result[2]) == len(found) + 1
        ok = result[1] == "ok"
        assert not inside or title == result[3], "a group has the name of its result"
        assert not inside or ok == all(test.ok for test in inside), "a parent fails where a subtest does"
        assert result[4] not in ("TIMEOUT", "ERROR") or not ok
        found.append(Test(result[3], ok, result[4] or "", result[5] or "", log, inside))
        log, inside = [], []
    return found
