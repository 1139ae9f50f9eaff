"""Verdicts as a CI server counts them: passed, failed, not decided, skipped. Those of a tree are in ``treeresults``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from formal.evidence.runs.replay import Replay
from formal.kernel.errors import NotUnderstoodError
from formal.matrix.configuration_run import Report, Row
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report.servers.flow import Blame, Flow, Place, flow
from formal.scope.configuration import checks
from formal.system import System
from formal.vocabulary import Claim


class Outcome(Enum):
    """What a verdict means to whoever waits for a green light."""

    PASSED = "passed"  # as expected, or better where that counts
    FAILED = "failed"
    UNDECIDED = "undecided"  # UNKNOWN, a time-out, source not understood
    SKIPPED = "skipped"  # the claim does not apply


@dataclass(frozen=True)
class Checked:
    """One verdict on one claim."""

    row: Row
    outcome: Outcome
    says: str
    cites: str
    place: Place | None = None  # where the C is that the claim is about, if that is known without a run

    @property
    def message(self) -> str:
        """The verdict, what was expected, and what the claim says, in one line."""
        expected = "" if self.row.as_expected else f", expected {self.row.expected or 'PROVED'}"
        reason = f" ({self.row.reason})" if self.row.reason else ""
        return f"{self.row.check}: {self.row.verdict}{expected}{reason}: {' '.join(self.says.split())}"


@dataclass(frozen=True)
class Suite:
    """One configuration, or one tree in one mode; ``flow_of`` makes a violation's run into places,
    ``blame_of`` tells what is at fault."""

    name: str
    checked: tuple[Checked, ...]
    problems: tuple[str, ...] = ()
    stopped_at: Place | None = None  # where the source is not understood
    flow_of: Callable[[Row], Flow | None] = field(default=lambda row: None)
    blame_of: Callable[[Row], Blame | None] = field(default=lambda row: None)

    def run(self, row: Row) -> Iterator[str]:
        """A violation as lines: what is at fault, and the places of the run."""
        found, at_fault = self.flow_of(row), self.blame_of(row)
        places = ((at_fault.place, *at_fault.related) if at_fault else ()) + (found.places if found else ())
        for place in places:
            yield f"{f'{place.file}:{place.line}: ' if place.line else ''}{place.text}"


def of_gate(reports: Sequence[Report], problems: Sequence[str], breakpoints: int) -> list[Suite]:
    """The built-in gate: any difference from the manifest fails; ``problems`` are those of the run as a whole."""
    suites = [_configuration(report, breakpoints) for report in reports]
    return [*suites, Suite("manifest", (), tuple(problems))] if problems else suites


def _configuration(report: Report, breakpoints: int) -> Suite:
    made: list[Replay] = []  # built when the first violation is shown

    def flow_of(row: Row) -> Flow | None:
        if row.trace is None or row.broken_at is None:
            return None
        made[:] = made or [Replay(System(report.configuration.kernel(breakpoints)))]
        return flow(made[0], row.trace, row.broken_at, BY_CHECK.get(row.check), {})

    checked = [judged(row, outcome(row, row.as_expected, row.as_expected)) for row in report.rows]
    return Suite(str(report.configuration), tuple(checked), tuple(report.problems), None, flow_of)


def of_refusal(error: NotUnderstoodError) -> list[Suite]:
    """A tree that is not understood: nothing was checked, and that is said at the place that stopped it."""
    return [Suite("source", (), (f"not understood: {error}",), Place(error.file, error.line, ""))]


BY_CHECK: dict[str, Claim] = {
    **dict(checks(CLAIMS)),
    **{f"not {claim.name}": claim for claim in NON_PROPERTIES},
}


def judged(row: Row, outcome: Outcome, place: Place | None = None) -> Checked:
    """A verdict with what its claim says."""
    claim = BY_CHECK.get(row.check)
    says = claim.says if claim else "An obligation of the C: what it names never happens."
    return Checked(row, outcome, says, claim.cites if claim else "", place)


def outcome(row: Row, passed: bool, may_be_spared: bool) -> Outcome:
    """UNKNOWN is undecided whatever was expected; a claim that does not apply is skipped where that is in order."""
    if row.verdict == "UNKNOWN":
        return Outcome.UNDECIDED
    if row.verdict == "n/a" and may_be_spared:
        return Outcome.SKIPPED
    return Outcome.PASSED if passed else Outcome.FAILED
