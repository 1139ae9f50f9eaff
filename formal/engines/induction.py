"""Induction, one operation at a time: Init implies the lemmas, every operation keeps them, and they imply the claims.

Lemmas that do not survive (in a kernel that was changed) are dropped and the rest is tried again, so that what remains
is inductive on its own: a claim is PROVED only from lemmas that are proved.

Longer inductions (k > 1) would prove nothing more for any number of vCPUs: all steps of the path but the last may be
those of another vCPU on another CPU, and then the hypothesis says no more about the observed pair than with k = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from formal.engines.z3backend import SolverTimeoutError, Z3Solver, shared_terms
from formal.evidence.obligations import Induction
from formal.logic.terms import And, Implies, Not, Term
from formal.operations import Applied
from formal.system import ACTING, OBSERVED, System
from formal.vocabulary import Claim, Lemma, Precondition

TOGETHER = 5.0  # seconds' work for the lemmas of an operation in one question, where questions are given up


@dataclass(frozen=True)
class Dropped:
    """A lemma that an operation (or Init) does not keep, and that therefore proves nothing."""

    lemma: str
    by: str


class VacuousError(Exception):
    """Init and the preconditions cannot hold together, so that everything would follow from them."""


class Invariant(Induction):
    """The lemmas of one system that are inductive, under some preconditions, on top of another invariant.

    With ``assumed`` nothing is tried: what is proved from such lemmas holds if another process proves all of them.

    Raises:
        SolverTimeoutError: if the solver cannot tell with ``timeout`` seconds' work a question.
        VacuousError: if there is no initial state.
    """

    base: Invariant | None

    def __init__(
        self,
        system: System,
        lemmas: Iterable[Lemma],
        given: tuple[Precondition, ...] = (),
        *,
        base: Invariant | None = None,
        timeout: float | None = None,
        assumed: bool = False,
    ) -> None:
        super().__init__(system, lemmas, given, base=base)
        self.timeout = timeout
        self.dropped: list[Dropped] = []
        if base:
            lost = {d.lemma for d in base.dropped}
            self.lemmas = [m for m in self.lemmas if m.name not in lost]
        self._solver: Z3Solver | None = None
        if assumed:
            return
        self._drop_false_initially()
        while failed := self._first_failures():
            self.dropped += failed
            lost = {d.lemma for d in failed}
            self.lemmas = [m for m in self.lemmas if m.name not in lost]
            self._solver = None

    # ---- claims

    def implies(self, claim: Claim) -> bool:
        """Whether the lemmas imply the claim: in every state, or for every step of its actors."""
        k = self.system.kernel
        with self.lemmas_hold() as solver:
            if not claim.actors:
                return solver.implies(claim.holds(self.system.state(), k))
            return all(
                solver.implies(Implies(self.allowed(step), claim.holds_between(step.before, step.after, k)))
                for step in self.system.applied
                if claim.is_about(step.operation)
            )

    def never_enabled(self, step: Applied) -> bool:
        """Whether the lemmas rule out that an operation is ever taken."""
        with self.lemmas_hold() as solver:
            return not solver.satisfiable(self.allowed(step))

    def keeps(self, claim: Claim) -> bool:
        """Whether the claim itself is inductive on top of the lemmas: Init implies it and every operation keeps it."""
        k = self.system.kernel
        if claim.actors:
            return False
        with self.lemmas_hold() as solver:
            initial = Implies(self.initially(), claim.holds(self.system.state(ACTING), k))
            if not solver.implies(initial):
                return False
            solver.suppose(*(claim.holds(self.system.state(pair), k) for pair in OBSERVED))
            for step in self.system.applied:
                goals = And(*(claim.holds(self.system.after(step, pair), k) for pair in OBSERVED))
                if not solver.implies(Implies(self.allowed(step), goals)):
                    return False
        return True

    # ---- the lemmas themselves

    @contextmanager
    def lemmas_hold(self) -> Iterator[Z3Solver]:
        """A solver in which the lemmas hold before an operation; the base has it already, but for these lemmas."""
        if self.base:
            with self.base.lemmas_hold() as solver:
                solver.suppose(*self.own_facts())
                yield solver
            return
        if self._solver is None:
            self._solver = Z3Solver(shared_terms(), self.timeout, proves=True)
            self._solver.suppose(*self.facts())
        with self._solver.scope():
            yield self._solver

    def _drop_false_initially(self) -> None:
        s, k = self.system.state(), self.system.kernel
        solver = Z3Solver(shared_terms(), self.timeout)
        initially = self.initially()
        solver.add(initially)
        if initially not in solver.terms.satisfiable and not solver.satisfiable():
            raise VacuousError(" and ".join(["Init", *(p.name for p in self.given)]) + " cannot hold together")
        solver.terms.satisfiable.add(initially)
        if solver.implies(*(m.holds(s, k) for m in self.lemmas)):
            return
        lost = [m for m in self.lemmas if solver.satisfiable(Not(m.holds(s, k)))]
        self.dropped += [Dropped(m.name, "Init") for m in lost]
        self.lemmas = [m for m in self.lemmas if m not in lost]

    def _first_failures(self) -> list[Dropped]:
        with self.lemmas_hold() as solver:
            for step in self.system.applied:
                goals = list(self.goals(step, folded=True))
                if not goals:
                    continue
                with solver.scope():
                    solver.suppose(self.allowed(step))
                    if lost := _not_implied(solver, goals):
                        return [Dropped(name, step.operation.name) for name in lost]
        return []


def _not_implied(solver: Z3Solver, goals: Sequence[tuple[Lemma, Term]]) -> list[str]:
    """The lemmas whose goals are not implied, sorted: asked together, and one by one if that does not succeed soon."""
    try:
        with solver.within(TOGETHER):
            together = solver.implies(*(goal for _, goal in goals))
    except SolverTimeoutError:
        together = False  # a conjunction over whole banks can be hard where each goal is easy
    return [] if together else sorted({m.name for m, goal in goals if not solver.implies(goal)})
