"""What a certificate cannot show, because it is about runs that exist: replayed from ``proofs/traces``, no solver.

Of each configuration: every stored trace is a run (so Init can be met); each VIOLATED has a run that breaks the claim
under its preconditions; each ``n/a`` does not apply. Of each epoch as well: every claim's situation is reached under
its preconditions, and operations lead on to one another. Operations that no run takes are handed back: it has to be
proved that they are never taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from formal.evidence.runs.coverage import cover
from formal.evidence.runs.progress import dead_ends, may_follow
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import TraceBook, TraceError
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.vocabulary import Claim

CREATES, ENTERS = "kvm_arch_vcpu_create", "__kvm_vcpu_run enters"


@dataclass(frozen=True)
class Witnessed:
    """What the traces of one configuration show, and what is wrong with them."""

    configuration: Configuration
    traces: int = 0
    violated: int = 0
    never: tuple[str, ...] = ()  # operations that no trace takes
    problems: tuple[str, ...] = ()


def witnessed(c: Configuration, expected: Mapping[str, str], traces: Path) -> Witnessed:
    """Replays the traces of a configuration; what is wrong is in the result, one line each."""
    path = traces / f"{c.stem}.json"
    try:
        book = TraceBook.read(path)
    except TraceError as error:
        return Witnessed(c, problems=(str(error),))
    if not book.traces:
        return Witnessed(c, problems=(f"{path.name}: holds no trace, or does not exist",))
    system = System(c.kernel())
    replay = Replay(system)
    problems = [*_verdicts(c, expected, book, replay)]
    coverage = cover(replay, book.traces, () if c.is_bug else CLAIMS)
    problems += [f"{path.name}: {why}" for why in coverage.unusable]
    never: tuple[str, ...] = ()
    if not c.is_bug:
        problems += coverage.missing(system, CLAIMS)
        problems += [
            f"operation {name!r} leads nowhere, or is reached from nowhere"
            for name in dead_ends(may_follow(system), CREATES, ENTERS)
        ]
        never = tuple(step.operation.name for step in coverage.untaken(system))
    violated = sum(v == "VIOLATED" for v in expected.values())
    return Witnessed(c, coverage.replayed, violated, never, tuple(problems))


def known_checks(c: Configuration) -> dict[str, Claim]:
    """Everything that is checked of a configuration, by the name that it has in the manifest."""
    negated = () if c.is_bug else NON_PROPERTIES
    return {**dict(checks(c.claims())), **{f"not {p.name}": p for p in negated}}


def _verdicts(c: Configuration, expected: Mapping[str, str], book: TraceBook, replay: Replay) -> Iterator[str]:
    """What is wrong with the expected verdicts that are not PROVED."""
    known, kernel = known_checks(c), replay.system.kernel
    for name in known.keys() - expected.keys():
        if not known[name].applies(kernel):
            yield f"no verdict is expected of {name}"
    for name, verdict in sorted(expected.items()):
        if name not in known:
            yield f"{name} is expected to be {verdict}, but there is no such check"
            continue
        does_not_apply = known[name].applies(kernel)
        if bool(does_not_apply) != (verdict == "n/a"):
            yield f"{name} is expected to be {verdict}, but " + (
                f"does not apply: {does_not_apply}" if does_not_apply else "applies"
            )
        elif verdict == "UNKNOWN":
            yield f"{name} is expected to be UNKNOWN: nothing shows whether it holds"
        elif verdict == "VIOLATED":
            yield from _violated(name, known[name], book, replay)
    for name in sorted(book.counterexamples):
        if expected.get(name) != "VIOLATED":
            yield f"a trace is said to break {name}, which is expected to be {expected.get(name, 'nothing')}"


def _violated(name: str, claim: Claim, book: TraceBook, replay: Replay) -> Iterator[str]:
    if name not in book.counterexamples:
        yield f"{name} is expected to be VIOLATED, but no trace is stored for it"
        return
    number = book.counterexamples[name]
    try:
        if replay.violates(book.traces[number], claim) is None:
            yield f"{name} is expected to be VIOLATED, but trace {number} does not break it"
    except (ReplayError, TraceError) as error:
        yield f"{name} is expected to be VIOLATED, but trace {number} is no run: {error}"
