"""Which lemmas a proof goes by, and which operations had to be shown to keep them.

The lemmas of a kernel are proved together; a claim needs few of them, and each of those a few others. What is returned
is inductive by itself and proves the claim, so that a reader need look at nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from formal.engines.induction import Invariant
from formal.engines.z3backend import Z3Solver, shared_terms
from formal.evidence.obligations import Induction
from formal.logic.terms import And, Term
from formal.system import OBSERVED
from formal.vocabulary import Claim, Lemma

Question = tuple[tuple[Term, ...], Term]  # assumptions beside the lemmas, and what must follow


@dataclass(frozen=True)
class Used:
    """What proves a claim: ``direct`` imply it, ``others`` are needed to prove those, ``operations`` may touch them.

    A claim that is ``kept`` is part of the induction itself.
    """

    direct: tuple[str, ...]
    others: tuple[str, ...]
    operations: tuple[str, ...]
    kept: bool = False


def used(invariant: Invariant, claim: Claim) -> Used | None:
    """What the proof of a claim goes by; ``None`` if these lemmas do not prove it.

    Raises:
        SolverTimeoutError: if the solver gives up.
    """
    kept = not invariant.implies(claim)
    if kept and not invariant.keeps(claim):
        return None
    return _Search(invariant).of(claim, kept)


class _Search:
    def __init__(self, invariant: Invariant) -> None:
        self.invariant, self.system = invariant, invariant.system
        self.lemmas = {m.name: m for m in invariant.all_lemmas()}
        self.facts = {name: self._facts(m) for name, m in self.lemmas.items()}

    def _facts(self, m: Lemma) -> tuple[Term, ...]:
        return tuple(m.holds(self.system.state(pair), self.system.kernel) for pair in OBSERVED)

    def of(self, claim: Claim, kept: bool) -> Used:
        own: tuple[Term, ...] = ()
        operations: set[str] = set()
        if kept:
            own = self._facts(Lemma(claim.name, claim.says, claim.holds, lambda k: True))
        asked = list(self._about(claim, kept))
        direct = {name for _, question in asked for name in self._needed(question, own, set())}
        operations |= {name for name, _ in asked if name}
        found, new = set(direct), set(direct)
        while new:
            questions = [(op, q) for name in sorted(new) for op, q in self._steps(self.lemmas[name])]
            operations |= {op for op, _ in questions}
            new = set()
            for _, question in questions:
                new |= self._needed(question, (), found | new)
            new -= found
            found |= new
        order = [name for name in self.lemmas if name in found]
        steps = tuple(op.name for op in self.system.operations if op.name in operations)
        others = tuple(name for name in order if name not in direct)
        return Used(tuple(name for name in order if name in direct), others, steps, kept)

    def _about(self, claim: Claim, kept: bool) -> Iterator[tuple[str, Question]]:
        """What must follow for the claim, each with the operation that it is about."""
        k, s = self.system.kernel, self.system.state()
        if not kept and not claim.actors:
            yield "", ((), claim.holds(s, k))
        for step in self.system.applied:
            allowed = self.invariant.allowed(step)
            if claim.is_about(step.operation):
                goal = claim.holds_between(step.before, step.after, k)
                yield step.operation.name, ((allowed,), goal)
            elif kept:
                goals = [claim.holds(self.system.after(step, pair), k) for pair in OBSERVED]
                before = [claim.holds(self.system.state(pair), k) for pair in OBSERVED]
                if goals != before:
                    yield step.operation.name, ((allowed,), And(*goals))

    def _steps(self, m: Lemma) -> Iterator[tuple[str, Question]]:
        """What an induction step has to show of a lemma, where it is not true at sight."""
        one = Induction(self.system, (m,), m.given)
        for step in self.system.applied:
            if goals := [goal for _, goal in one.goals(step, folded=True)]:
                yield step.operation.name, ((self.invariant.allowed(step),), And(*goals))

    def _needed(self, question: Question, own: tuple[Term, ...], have: set[str]) -> set[str]:
        """Lemmas from which it follows, besides those that are there already; none of them can be spared."""
        assumptions, goal = question
        if self._follows((*own, *assumptions), goal, have):
            return set()
        more = [name for name in self.lemmas if name not in have]
        size = max(1, len(more) // 2)
        while size:  # groups of them are left out while it still follows, smaller and smaller ones
            for start in range(0, len(more), size):
                fewer = more[:start] + more[start + size :]
                if len(fewer) < len(more) and self._follows((*own, *assumptions), goal, have | set(fewer)):
                    more = fewer
                    break
            else:
                size //= 2
        return set(more)

    def _follows(self, assumptions: tuple[Term, ...], goal: Term, names: set[str]) -> bool:
        solver = Z3Solver(shared_terms(), self.invariant.timeout, proves=True)
        solver.suppose(*assumptions, *(fact for name in names for fact in self.facts[name]))
        return solver.implies(goal)
