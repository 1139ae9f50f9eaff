"""What has to hold for a claim to be proved by induction, as formulas: nothing here decides them, and nothing needs Z3.

``Induction`` is a set of lemmas about one system, under some preconditions, on top of another set. It writes down what
makes the lemmas an invariant, and what they must imply for a claim. The engine (formal/engines/induction.py) asks these
questions; a certificate (formal/evidence) answers the same ones, taken from the same place.

A claim follows in one of two ways. The lemmas imply it; or it is inductive on top of them: Init implies it, and every
operation that starts with it ends with it. A two-state claim is implied by the lemmas for every step of its actors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from formal.logic.evaluation import support
from formal.logic.terms import TRUE, And, Not, Term
from formal.operations import Applied
from formal.state import State
from formal.system import OBSERVED, Pair, System
from formal.vocabulary import Claim, Lemma, Precondition


@dataclass(frozen=True)
class Obligation:
    """``assumptions`` must imply ``goal``; what an engine asks and a certificate certifies."""

    name: str
    assumptions: tuple[Term, ...]
    goal: Term

    def formulas(self) -> tuple[Term, ...]:
        """The assumptions and the negation of the goal; the obligation holds if they contradict each other."""
        return (*self.assumptions, Not(self.goal))


class Induction:
    """Lemmas of one system under some preconditions, on top of a base: the formulas of their proof by induction.

    Those that are not meant for the system, need other preconditions or are in the base already are left out.
    """

    def __init__(
        self,
        system: System,
        lemmas: Iterable[Lemma],
        given: tuple[Precondition, ...] = (),
        *,
        base: Self | None = None,
    ) -> None:
        self.system, self.given, self.base = system, given, base
        self._instances: dict[tuple[str, Pair], Term] = base._instances if base else {}
        self._supports: dict[tuple[str, Pair], frozenset[str]] = base._supports if base else {}
        self.lemmas = [m for m in lemmas if m.applies(system.kernel) and set(m.given) <= set(given)]
        if base:
            known = {m.name for m in base.lemmas}
            self.lemmas = [m for m in self.lemmas if m.name not in known]

    def all_lemmas(self) -> list[Lemma]:
        """The lemmas of the base and these."""
        return (self.base.all_lemmas() if self.base else []) + self.lemmas

    def facts(self) -> tuple[Term, ...]:
        """The lemmas for every pair that an obligation about the acting pair may use, before an operation."""
        return tuple(dict.fromkeys((*(self.base.facts() if self.base else ()), *self.own_facts())))

    def own_facts(self) -> tuple[Term, ...]:
        """Those of ``facts`` that are not the base's."""
        return tuple(dict.fromkeys(self._before(m, pair) for m in self.lemmas for pair in OBSERVED))

    def allowed(self, step: Applied) -> Term:
        """The guard of an operation together with the preconditions."""
        k = self.system.kernel
        return And(step.guard, *(p.allows(step, k) for p in self.given))

    def initially(self) -> Term:
        """Init together with the preconditions on it."""
        s, k = self.system.state(), self.system.kernel
        return And(self.system.init(), *(p.initially(s, k) for p in self.given))

    def goals(self, step: Applied, *, folded: bool = False) -> Iterator[tuple[Lemma, Term]]:
        """What an operation must keep: each lemma for each observed pair that the operation can affect.

        With ``folded``, what the guard says about variables is used already, so that most goals are true at sight.
        """
        seen: set[Term] = set()
        for pair in OBSERVED:
            after = self.system.after(step, pair)
            if folded:
                after = State({n: step.known.get(v, v) for n, v in after.values.items()}, *pair)
            for m in self.lemmas:
                if step.changed.isdisjoint(self._support(m, pair)):
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

    def _support(self, m: Lemma, pair: Pair) -> frozenset[str]:
        """The variables of a lemma for a pair."""
        if (m.name, pair) not in self._supports:
            self._supports[m.name, pair] = support(self._before(m, pair))
        return self._supports[m.name, pair]

    # ---- obligations

    def obligations(self) -> Iterator[Obligation]:
        """Everything that makes these lemmas an invariant: Init implies them, and every operation keeps them."""
        if not self.lemmas:
            return
        k, s = self.system.kernel, self.system.state()
        yield Obligation("init", (self.initially(),), And(*(m.holds(s, k) for m in self.lemmas)))
        facts = self.facts()
        for step in self.system.applied:
            goals = [goal for _, goal in self.goals(step)]
            if goals:
                yield Obligation(f"step/{step.operation.name}", (*facts, self.allowed(step)), And(*goals))

    def claim_obligations(self, claim: Claim) -> Iterator[Obligation]:
        """The claim follows from the lemmas: in every state, or for every step of its actors."""
        k, facts = self.system.kernel, self.facts()
        if not claim.actors:
            yield Obligation(f"claim/{claim.name}", facts, claim.holds(self.system.state(), k))
            return
        for step in self.system.applied:
            if claim.is_about(step.operation):
                goal = claim.holds_between(step.before, step.after, k)
                yield Obligation(f"claim/{claim.name}/{step.operation.name}", (*facts, self.allowed(step)), goal)

    def kept_obligations(self, claim: Claim) -> Iterator[Obligation]:
        """The claim is inductive on top of the lemmas: Init implies it, and every operation keeps it.

        Raises:
            ValueError: for a two-state claim, which is not about one state.
        """
        if claim.actors:
            raise ValueError(f"{claim.name} is a two-state claim; induction keeps state claims only")
        k = self.system.kernel
        held = tuple(claim.holds(self.system.state(pair), k) for pair in OBSERVED)
        yield Obligation(f"kept/{claim.name}/init", (self.initially(),), held[0])
        facts = tuple(dict.fromkeys((*self.facts(), *held)))
        for step in self.system.applied:
            goals = And(*(claim.holds(self.system.after(step, pair), k) for pair in OBSERVED))
            if goals is not TRUE:
                yield Obligation(f"kept/{claim.name}/{step.operation.name}", (*facts, self.allowed(step)), goals)
