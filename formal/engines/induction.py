"""Induction, one operation at a time: Init implies the lemmas, every operation keeps them, and they imply the claims.

Lemmas that do not survive (in a kernel that was changed) are dropped and the rest is tried again, so that what remains
is inductive on its own: a claim is PROVED only from lemmas that are proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.properties import Claim, Lemma, Precondition
from formal.system import ACTING, OBSERVED, Pair, System
from formal.terms import TRUE, And, Implies, Not, Term
from formal.transitions import Applied
from formal.walk import support


@dataclass(frozen=True)
class Dropped:
    """A lemma that an operation (or Init) does not keep, and that therefore proves nothing."""

    lemma: str
    by: str


@dataclass(frozen=True)
class Obligation:
    """``assumptions`` must imply ``goal``; what an engine asks and a certificate certifies."""

    name: str
    assumptions: tuple[Term, ...]
    goal: Term


class Invariant:
    """The lemmas of one system that are inductive, under some preconditions, on top of another invariant.

    Raises:
        SolverTimeoutError: if the solver cannot tell within ``timeout`` seconds a question.
    """

    def __init__(
        self,
        system: System,
        lemmas: Iterable[Lemma],
        given: tuple[Precondition, ...] = (),
        *,
        base: Invariant | None = None,
        timeout: float | None = None,
    ) -> None:
        self.system, self.given, self.base, self.timeout = system, given, base, timeout
        self.terms: Z3Terms = base.terms if base else Z3Terms()
        self._instances: dict[tuple[str, Pair], Term] = base._instances if base else {}
        self.dropped: list[Dropped] = []
        self.lemmas = [m for m in lemmas if m.applies(system.kernel) and set(m.given) <= set(given)]
        if base:
            known = {m.name for m in base.lemmas} | {d.lemma for d in base.dropped}
            self.lemmas = [m for m in self.lemmas if m.name not in known]
        self._drop_false_initially()
        while failed := self._first_failures():
            self.dropped += failed
            lost = {d.lemma for d in failed}
            self.lemmas = [m for m in self.lemmas if m.name not in lost]
        self.solver = self._solver()

    def all_lemmas(self) -> list[Lemma]:
        """The lemmas of the base and these."""
        return (self.base.all_lemmas() if self.base else []) + self.lemmas

    def facts(self) -> tuple[Term, ...]:
        """The lemmas for every pair that an obligation about the acting pair may use, before an operation."""
        return tuple(dict.fromkeys(self._before(m, pair) for m in self.all_lemmas() for pair in OBSERVED))

    def allowed(self, step: Applied) -> Term:
        """The guard of an operation together with the preconditions."""
        k = self.system.kernel
        return And(step.guard, *(p.allows(step, k) for p in self.given))

    def initially(self) -> Term:
        """Init together with the preconditions on it."""
        s, k = self.system.state(), self.system.kernel
        return And(self.system.init(), *(p.initially(s, k) for p in self.given))

    def goals(self, step: Applied) -> Iterator[tuple[Lemma, Term]]:
        """What an operation must keep: each lemma for each observed pair that the operation can affect."""
        seen: set[Term] = set()
        for pair in OBSERVED:
            after = self.system.after(step, pair)
            for m in self.lemmas:
                if step.changed.isdisjoint(support(self._before(m, pair))):
                    continue
                goal = m.holds(after, self.system.kernel)
                if goal is not TRUE and goal not in seen:
                    seen.add(goal)
                    yield m, goal

    def _before(self, m: Lemma, pair: Pair) -> Term:
        """A lemma for a pair in the state before an operation."""
        if (m.name, pair) not in self._instances:
            self._instances[m.name, pair] = m.holds(self.system.state(pair), self.system.kernel)
        return self._instances[m.name, pair]

    def obligations(self) -> Iterator[Obligation]:
        """Everything that makes these lemmas an invariant: Init implies them, every operation keeps them."""
        k, s = self.system.kernel, self.system.state()
        for m in self.lemmas:
            yield Obligation(f"init/{m.name}", (self.initially(),), m.holds(s, k))
        facts = self.facts()
        for step in self.system.applied:
            for number, (m, goal) in enumerate(self.goals(step)):
                name = f"step/{step.operation.name}/{m.name}/{number}"
                yield Obligation(name, (*facts, self.allowed(step)), goal)

    # ---- claims

    def implies(self, claim: Claim) -> bool:
        """Whether the lemmas imply the claim: in every state, or for every step of its actors."""
        k = self.system.kernel
        if not claim.actors:
            return not self.solver.satisfiable(Not(claim.holds(self.system.state(), k)))
        return not any(
            self.solver.satisfiable(self.allowed(step), Not(claim.holds_between(step.before, step.after, k)))
            for step in self.system.applied
            if step.operation.actor.value in claim.actors
        )

    def claim_obligations(self, claim: Claim) -> Iterator[Obligation]:
        """What ``implies`` asks."""
        k, facts = self.system.kernel, self.facts()
        if not claim.actors:
            yield Obligation(f"claim/{claim.name}", facts, claim.holds(self.system.state(), k))
            return
        for step in self.system.applied:
            if step.operation.actor.value in claim.actors:
                goal = claim.holds_between(step.before, step.after, k)
                yield Obligation(f"claim/{claim.name}/{step.operation.name}", (*facts, self.allowed(step)), goal)

    def never_enabled(self, step: Applied) -> bool:
        """Whether the lemmas rule out that an operation is ever taken."""
        return not self.solver.satisfiable(self.allowed(step))

    def keeps(self, claim: Claim) -> bool:
        """Whether the claim itself is inductive on top of the lemmas: Init implies it and every operation keeps it."""
        k = self.system.kernel
        if claim.actors:
            return False
        initial = Implies(self.initially(), claim.holds(self.system.state(ACTING), k))
        if self.solver.satisfiable(Not(initial)):
            return False
        with self.solver.scope():
            self.solver.add(*(claim.holds(self.system.state(pair), k) for pair in OBSERVED))
            for step in self.system.applied:
                goals = And(*(claim.holds(self.system.after(step, pair), k) for pair in OBSERVED))
                if self.solver.satisfiable(self.allowed(step), Not(goals)):
                    return False
        return True

    # ---- the lemmas themselves

    def _solver(self) -> Z3Solver:
        solver = Z3Solver(self.terms, self.timeout)
        solver.add(*self.facts())
        return solver

    def _drop_false_initially(self) -> None:
        s, k = self.system.state(), self.system.kernel
        solver = Z3Solver(self.terms, self.timeout)
        solver.add(self.initially())
        if not solver.satisfiable(Not(And(*(m.holds(s, k) for m in self.lemmas)))):
            return
        lost = [m for m in self.lemmas if solver.satisfiable(Not(m.holds(s, k)))]
        self.dropped += [Dropped(m.name, "Init") for m in lost]
        self.lemmas = [m for m in self.lemmas if m not in lost]

    def _first_failures(self) -> list[Dropped]:
        solver = self._solver()
        for step in self.system.applied:
            goals = list(self.goals(step))
            if not goals:
                continue
            with solver.scope():
                solver.add(self.allowed(step))
                if solver.satisfiable(Not(And(*(goal for _, goal in goals)))):
                    lost = {m.name for m, goal in goals if solver.satisfiable(Not(goal))}
                    return [Dropped(name, step.operation.name) for name in sorted(lost)]
        return []
