"""Verdicts on a tree of which not all is understood: what holds whatever that does, and what breaks without it.

PROVED is proved of all runs that the tree may have (``unknowns.wider``), VIOLATED is a run in which no unknown
takes part (``narrower``). Everything else is UNKNOWN, with the places that it hangs on: those that alone keep it from
being proved, or that take part in a run that breaks it if they do what they are described to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from formal.common import progress
from formal.engines.induction import VacuousError
from formal.engines.verdict import SEARCHED, SHALLOW, Checker, Result, Verdict
from formal.engines.z3backend import SolverTimeoutError
from formal.evidence.runs.traces import TraceBook
from formal.kernel.belongs import INSIDE
from formal.kernel.errors import NotUnderstoodError
from formal.matrix.configuration_run import book_path
from formal.scope.configuration import Configuration
from formal.system import System
from formal.tree.unknowns import Unknown, takes_part, wider
from formal.vocabulary import Claim

GIVEN_UP = 20.0  # work for one question about a claim, as Z3Solver counts it, whatever --timeout says
BLAMING_SECONDS = 60.0  # of this process, for all claims of a mode together; what is left then hangs on all places
SHOWN = 3  # places in a reason
WHATEVER = "induction, whatever is not understood does"


class Decider:
    """Decides claims about one tree in one mode.

    Args:
        narrow: of the system without unknowns.
        described: the system in which unknowns do what they are described to do.
        make: a checker of a system.
    """

    def __init__(
        self, narrow: Checker, described: System, unknowns: Sequence[Unknown], make: Callable[[System], Checker]
    ) -> None:
        self.narrow, self.described, self.unknowns, self.make = narrow, described, unknowns, make
        self.wider = make(wider(described, unknowns))
        self._alone: dict[Unknown, Checker] = {}

    def check(self, claim: Claim) -> Result:
        """The verdict on a claim."""
        started = time.perf_counter()
        if why := claim.applies(self.described.kernel):
            return Result(claim, Verdict.NOT_APPLICABLE, "-", 0.0, reason=why)
        if self._holds(self.wider, self.unknowns, claim):
            return Result(claim, Verdict.PROVED, WHATEVER, time.perf_counter() - started)
        found = self.narrow.check(claim)
        if found.verdict is Verdict.VIOLATED:
            return found
        return Result(claim, Verdict.UNKNOWN, "-", time.perf_counter() - started, reason="not all of it is understood")

    def reasons(self, claims: Iterable[Claim]) -> dict[str, str]:
        """What claims hang on that are UNKNOWN, by name."""
        until, found = time.process_time() + BLAMING_SECONDS, dict[str, str]()
        checker = self.make(self.described)
        for claim in claims:
            result = checked(checker.check, claim)
            if result.verdict is Verdict.UNKNOWN:
                found[claim.name] = result.reason
                continue
            if result.trace is not None:
                steps = {step.operation for step in result.trace.steps[: result.broken_at]}
                ops = [op for op in self.described.operations if op.name in steps]
                blamed = [u for u in self.unknowns if any(takes_part(u, op, self.described) for op in ops)]
            else:
                blamed = [u for u in self.unknowns if time.process_time() > until or not self._holds_but(u, claim)]
            found[claim.name] = hangs_on(blamed or self.unknowns)
        return found

    def _holds_but(self, unknown: Unknown, claim: Claim) -> bool:
        """Whether a claim holds if this is the only unknown."""
        if len(self.unknowns) == 1:
            return False
        alike = next((u for u in self._alone if u.same_effects(unknown)), unknown)
        if alike not in self._alone:
            self._alone[alike] = self.make(wider(self.described, (unknown,)))
        return self._holds(self._alone[alike], (unknown,), claim)

    def _holds(self, checker: Checker, unknowns: Iterable[Unknown], claim: Claim) -> bool:
        inside = INSIDE.get(claim.name)
        if inside is not None and any(inside in u.operations for u in unknowns):
            return False
        try:
            invariant = checker.invariant(claim.given)
            return invariant.implies(claim) or invariant.keeps(claim)
        except (SolverTimeoutError, VacuousError):
            return False


def checked(check: Callable[[Claim], Result], claim: Claim) -> Result:
    """The verdict on a claim, which may be about something in the C that the state does not have."""
    progress.doing(claim.name)
    try:
        return check(claim)
    except NotUnderstoodError as error:
        return Result(claim, Verdict.UNKNOWN, "-", 0.0, reason=f"hangs on {error}")


def checker_of(traces: Path, c: Configuration, timeout: float | None, system: System) -> Checker:
    """A checker of one system, which tries the traces of a configuration and of others like it first."""
    faults = Path(__file__).with_name("faults")  # what breaks the claims when the specification is at fault
    paths = (*sorted(traces.glob(f"*-{c.mode}.json")), *sorted(faults.glob("*.json")))
    pool = [trace for path in paths for trace in TraceBook.read(path).traces]
    seconds = GIVEN_UP if timeout is None else min(timeout, GIVEN_UP)
    book = TraceBook.read(book_path(traces, c))
    return Checker(system, book, timeout=seconds, depth=SHALLOW, pool=pool, budget=SEARCHED)


def hangs_on(unknowns: Sequence[Unknown]) -> str:
    """The reason of a verdict that is not known."""
    shown = "; ".join(map(str, unknowns[:SHOWN]))
    more = f"; and {len(unknowns) - SHOWN} more places" if len(unknowns) > SHOWN else ""
    return f"hangs on {shown}{more}"
