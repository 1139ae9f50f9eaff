"""Verdicts: what is asked, what came out, and how it is decided from lemmas, stored traces and search."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from formal.engines.bmc import Search, violation
from formal.engines.induction import Dropped, Invariant, VacuousError
from formal.engines.z3backend import SolverTimeoutError
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Trace, TraceBook, TraceError
from formal.explain.shrink import shrink
from formal.lemmas import LEMMAS
from formal.logic.terms import Term
from formal.system import System
from formal.vocabulary import Claim, Lemma, Precondition, always


class Verdict(Enum):
    """What is known about a claim. A time-out or anything not understood is UNKNOWN, never PROVED."""

    PROVED = "PROVED"
    VIOLATED = "VIOLATED"
    UNKNOWN = "UNKNOWN"
    NOT_APPLICABLE = "n/a"


SHALLOW = 6  # fused steps, of the first search for a run that breaks a claim
SEARCHED = 5.0  # and its work, as Z3Solver counts it
FEW = 4  # so many claims are searched deep even if another one is lost already


@dataclass(frozen=True)
class Result:
    """The verdict on one claim for one system."""

    claim: Claim
    verdict: Verdict
    engine: str
    seconds: float
    trace: Trace | None = None
    broken_at: int | None = None
    reason: str = ""


class ContradictionError(Exception):
    """Two parts of the tool disagree, such as an engine and the replay: an internal error, never a verdict."""


class Checker:
    """Decides claims about one system.

    A stored counterexample is replayed first: if it still breaks the claim, that is the verdict, without a solver. Then
    the lemmas are tried, then the claim as its own induction hypothesis, then a search for a counterexample of at most
    ``depth`` fused steps.
    """

    def __init__(
        self,
        system: System,
        book: TraceBook | None = None,
        *,
        lemmas: Iterable[Lemma] = LEMMAS,
        timeout: float | None = None,
        depth: int = 0,
        pool: Iterable[Trace] = (),
        budget: float | None = None,
    ) -> None:
        self.system = system
        self.book = book or TraceBook()
        self.replay = Replay(system)
        self.replayed: dict[str, int | None] = {}  # what ``replays`` says, where it is known already
        self.lemmas = tuple(lemmas)
        self.timeout, self.depth = timeout, depth
        self.pool = list(pool)  # traces of this and other systems, worth a try before a search
        self.budget = budget  # work for all searches for one claim, in the seconds of Z3Solver
        self._searches: dict[tuple[tuple[Precondition, ...], int], Search] = {}
        self._invariants: dict[tuple[Precondition, ...], Invariant] = {}

    def invariant(self, given: tuple[Precondition, ...] = ()) -> Invariant:
        """The lemmas that are inductive under these preconditions."""
        if given not in self._invariants:
            base = self.invariant() if given else None
            self._invariants[given] = Invariant(self.system, self.lemmas, given, base=base, timeout=self.timeout)
        return self._invariants[given]

    def lemmas_hold(self) -> bool:
        """Whether all lemmas without preconditions are proved."""
        try:
            return not self.invariant().dropped
        except (SolverTimeoutError, VacuousError):
            return False

    def facts(self) -> tuple[Term, ...]:
        """The lemmas that are proved, as facts about every state; none if the solver gives up on them."""
        try:
            return self.invariant().facts()
        except (SolverTimeoutError, VacuousError):
            return ()

    def adopt(self, invariant: Invariant) -> None:
        """Takes over lemmas that were proved already, for this very system or for one proved equal to it."""
        self._invariants[invariant.given] = invariant

    def dropped(self) -> list[Dropped]:
        """Lemmas that do not hold for this system."""
        return [d for invariant in self._invariants.values() for d in invariant.dropped]

    def check(self, claim: Claim, *, known_as: str | None = None) -> Result:
        """The verdict on a claim; ``known_as`` is the name of its stored counterexample if that is not its own."""
        started = time.perf_counter()

        def result(verdict: Verdict, engine: str, **more: object) -> Result:
            done = Result(claim, verdict, engine, time.perf_counter() - started)
            return replace(done, **more)  # type: ignore[arg-type]

        if why := claim.applies(self.system.kernel):
            return result(Verdict.NOT_APPLICABLE, "-", reason=why)
        name = known_as or claim.name
        if (step := self.replays(name, claim)) is not None:
            return result(Verdict.VIOLATED, "replay", trace=self._stored(name), broken_at=step)
        found: Trace | None
        try:
            invariant = self.invariant(claim.given)
            lemmas = f"{len(invariant.all_lemmas())} lemmas"
            of_every_state = claim.when is always and not claim.actors  # likely to be inductive, which is soon told
            if of_every_state and invariant.keeps(claim):
                return result(Verdict.PROVED, f"1-induction, {lemmas}")
            if invariant.implies(claim):
                return result(Verdict.PROVED, f"induction, {lemmas}")
            found = self._known(claim)
            if found is None and not of_every_state and invariant.keeps(claim):
                return result(Verdict.PROVED, f"1-induction, {lemmas}")
            found = self.search(claim) if found is None else self._shrunk(found, claim)
        except SolverTimeoutError as error:
            found = self._known(claim)
            if found is None:
                return result(Verdict.UNKNOWN, "z3", reason=f"the solver gave up: {error}")
        except VacuousError as error:
            return result(Verdict.UNKNOWN, "z3", reason=f"anything would follow: {error}")
        if found is None:
            return result(Verdict.UNKNOWN, "BMC", reason=f"no proof, and no run of {self.depth} steps that breaks it")
        step = self._breaks(found, claim)
        if step is None:
            raise ContradictionError(f"{claim.name}: the search found a counterexample that replay does not confirm")
        return result(Verdict.VIOLATED, "BMC", trace=found, broken_at=step)

    def replays(self, name: str, claim: Claim) -> int | None:
        """The step at which the stored counterexample of this name breaks the claim; ``None`` if there is none."""
        if name not in self.replayed:
            stored = self._stored(name)
            return None if stored is None else self._breaks(stored, claim)
        return self.replayed[name]

    def search(self, claim: Claim) -> Trace | None:
        """The smallest counterexample that is found: among known traces, then by search on one CPU, then on two.

        Raises:
            SolverTimeoutError: if the search takes more work than it may.
        """

        found = self._known(claim) or self._search(claim)
        return None if found is None else self._shrunk(found, claim)

    def _known(self, claim: Claim) -> Trace | None:
        """The shortest trace of the pool that breaks a claim."""
        return min(
            (t for t in self.pool if self._breaks(t, claim) is not None), key=lambda t: len(t.steps), default=None
        )

    def _shrunk(self, found: Trace, claim: Claim) -> Trace:
        small = shrink(found, lambda trace: self._breaks(trace, claim) is not None)
        self.pool.append(small)  # it may break other claims as well
        return small

    def _search(self, claim: Claim) -> Trace | None:
        spent, limits = 0.0, [limit for limit in (self.budget, self.timeout) if limit is not None]
        asked = {1: -1, 2: -1}  # by the number of CPUs: the longest runs looked at
        for cpus, depth in dict.fromkeys((c, min(n, self.depth)) for n in (6, 9, self.depth) for c in (1, 2)):
            key = (claim.given, cpus)
            if key not in self._searches:
                self._searches[key] = Search(self.system, claim.given, cpus=cpus, timeout=self.timeout)
            solver = self._searches[key].solver
            if any(spent >= limit for limit in limits):
                raise SolverTimeoutError(f"no counterexample found with {min(limits):g} seconds' work")
            since = solver.worked()
            found = self._searches[key].find(violation(claim, self.system), depth, asked[cpus] + 1)
            asked[cpus] = depth
            spent += solver.worked() - since
            if found is not None:
                return found
        return None

    def _stored(self, name: str) -> Trace | None:
        number = self.book.counterexamples.get(name)
        return None if number is None else self.book.traces[number]

    def _breaks(self, trace: Trace, claim: Claim) -> int | None:
        """The step at which a trace breaks a claim; ``None`` if it is no run of this system, or breaks nothing."""
        try:
            return self.replay.violates(trace, claim)
        except (ReplayError, TraceError):
            return None
