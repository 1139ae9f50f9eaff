"""Green for the right reason: what makes a PROVED mean something, checked for each configuration.

Init can be met; every operation can be taken; every claim's situation occurs; assumptions do not contradict one
another. All of it is shown by stored traces, which are replayed. That operations lead somewhere is in ``progress.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Trace, TraceError
from formal.logic.terms import FALSE
from formal.operations import Applied
from formal.system import System
from formal.vocabulary import Claim, Precondition


@dataclass
class Coverage:
    """What a set of traces shows."""

    replayed: int = 0
    operations: set[str] = field(default_factory=set)
    situations: set[str] = field(default_factory=set)  # claims whose situation was reached
    unusable: list[str] = field(default_factory=list)  # traces that are no run of the system, with the reason

    def missing(self, system: System, claims: Iterable[Claim]) -> list[str]:
        """Claims whose situation no trace reaches."""
        k = system.kernel
        return [
            f"claim {c.name} is vacuous: its situation is never reached"
            for c in claims
            if not c.applies(k) and c.name not in self.situations
        ]

    def untaken(self, system: System) -> list[Applied]:
        """Operations that no trace takes, though their guard is not plainly false."""
        return [a for a in system.applied if a.guard is not FALSE and a.operation.name not in self.operations]


def cover(replay: Replay, traces: Sequence[Trace], claims: Iterable[Claim]) -> Coverage:
    """Replays traces and notes which operations they take and which claims' situations they reach."""
    found = Coverage()
    todo = [c for c in claims if not c.applies(replay.system.kernel)]
    for number, trace in enumerate(traces):
        try:
            _cover_one(replay, trace, todo, found)
            found.replayed += 1
        except (ReplayError, TraceError) as error:
            found.unusable.append(f"trace {number}: {error}")
    return found


def _cover_one(replay: Replay, trace: Trace, claims: Sequence[Claim], found: Coverage) -> None:
    pairs = replay.pairs(trace)
    allowed: dict[tuple[Precondition, ...], bool] = {}
    states = list(replay.run(trace))
    found.operations.update(step.operation for step in trace.steps)
    for claim in claims:
        if claim.name in found.situations:
            continue
        if claim.given not in allowed:
            allowed[claim.given] = not claim.given or meets(replay, trace, claim.given)
        if allowed[claim.given] and any(replay.reaches(claim, s, p) for s in states for p in pairs):
            found.situations.add(claim.name)


def meets(replay: Replay, trace: Trace, given: Iterable[Precondition]) -> bool:
    """Whether a trace is a run under some preconditions."""
    try:
        for _ in replay.run(trace, given):
            pass
    except ReplayError:
        return False
    return True
