"""Equalities that are put to the solver, each once."""

from __future__ import annotations

from collections.abc import Iterable

from formal.engines.z3backend import Z3Solver, shared_terms
from formal.terms import TRUE, Not, Term


class Questions:
    """Which equalities hold in every state that satisfies a guard; answers are remembered.

    No lemma helps: lemmas are proved of the hand-written operations, and a function that differs may break them.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._valid: dict[tuple[Term, Term], bool] = {}

    def differing(self, same: Iterable[tuple[str, Term]], guard: Term = TRUE) -> list[str]:
        """The names of the equalities that do not hold."""
        solver = Z3Solver(shared_terms(), self.timeout)
        solver.add(guard)
        found = []
        for name, equal in same:
            if equal is TRUE:
                continue
            if (guard, equal) not in self._valid:
                self._valid[guard, equal] = not solver.satisfiable(Not(equal))
            if not self._valid[guard, equal]:
                found.append(name)
        return found
