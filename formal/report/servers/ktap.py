"""Verdicts as KTAP version 1, which the kernel's own test runners read: one test for each configuration, one subtest
for each claim in it.

A verdict worse than or different from the expected one is ``not ok``, with its run as diagnostic lines before it; so is
UNKNOWN, with the directive TIMEOUT or ERROR; a claim that does not apply is skipped. A description has no ``#``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from formal.report.servers.results import Checked, Outcome, Suite
from formal.report.text import assumed

_GAVE_UP = "the solver gave up"


def text(suites: Sequence[Suite]) -> str:
    """The whole run as one document."""
    lines = ["KTAP version 1", f"1..{len(suites)}", f"# {assumed()}"]
    for number, suite in enumerate(suites, 1):
        lines += [f"  {line}" for line in _suite(suite)]
        bad = sum(c.outcome in (Outcome.FAILED, Outcome.UNDECIDED) for c in suite.checked) + len(suite.problems)
        skipped = not suite.problems and all(c.outcome is Outcome.SKIPPED for c in suite.checked)
        lines.append(_result(not bad, number, suite.name, "SKIP nothing applies" if skipped else ""))
    return "".join(f"{line}\n" for line in lines)


def _suite(suite: Suite) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"# Subtest: {_name(suite.name)}"  # by which the kernel's reader until v6.2 knows that tests are inside
    yield f"1..{len(suite.checked) + len(suite.problems)}"
    for number, checked in enumerate(suite.checked, 1):
        if checked.outcome in (Outcome.FAILED, Outcome.UNDECIDED):  # readers show the line before, and no remark
            yield f"# {_one_line(checked.message)}"
            yield from (f"#   {_one_line(line)}" for line in suite.run(checked.row))
        fine = checked.outcome in (Outcome.PASSED, Outcome.SKIPPED)
        yield _result(fine, number, checked.row.check, _remark(checked))
    for number, problem in enumerate(suite.problems, len(suite.checked) + 1):
        name = f"problem {number - len(suite.checked)}"
        yield f"# {_one_line(problem)}"
        yield _result(False, number, name, f"ERROR {problem}")


def _remark(checked: Checked) -> str:
    """What follows the description: a directive, or what a reader would not expect of the verdict."""
    row = checked.row
    if checked.outcome is Outcome.SKIPPED:
        return f"SKIP {row.reason}"
    if checked.outcome is Outcome.UNDECIDED:
        return f"{'TIMEOUT' if _GAVE_UP in row.reason else 'ERROR'} UNKNOWN: {row.reason}"
    if checked.outcome is Outcome.FAILED:
        return f"{row.verdict}, expected {row.expected or 'PROVED'}"
    return "" if row.verdict == "PROVED" else f"{row.verdict}, as expected"


def _result(fine: bool, number: int, description: str, remark: str) -> str:
    said = f" # {_one_line(remark)}" if remark else ""
    return f"{'ok' if fine else 'not ok'} {number} {_name(description)}{said}"


def _name(description: str) -> str:
    return _one_line(description.replace("#", ""))


def _one_line(words: str) -> str:
    return " ".join(words.split())
