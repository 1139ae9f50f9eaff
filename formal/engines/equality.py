"""Questions to the solver that come by name and many at a time: one answer may settle several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from formal.engines.verdict import ContradictionError
from formal.engines.z3backend import Z3Solver, shared_terms
from formal.logic.evaluation import evaluate, nodes
from formal.logic.terms import TRUE, Not, Or, Term, Value

Name = TypeVar("Name")


class Questions:
    """Which equalities hold in every state that satisfies a guard (in every state if none does); answers are kept.

    No lemma helps: lemmas are proved of the hand-written operations, and a function that differs may break them.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._valid: dict[tuple[Term, Term], bool] = {}

    def differing(self, same: Iterable[tuple[str, Term]], guard: Term = TRUE) -> list[str]:
        """The names of the equalities that do not hold.

        Raises:
            SolverTimeoutError: if the solver cannot tell.
        """
        asked = list(same)
        new = {equal: Not(equal) for _, equal in asked if equal is not TRUE and (guard, equal) not in self._valid}
        if new:
            solver = Z3Solver(shared_terms(), self.timeout)
            solver.add(guard)
            if not solver.satisfiable():  # everything would be equal
                solver = Z3Solver(shared_terms(), self.timeout)
            broken = holding(new, solver)
            self._valid |= {(guard, equal): equal not in broken for equal in new}
        return [name for name, equal in asked if equal is not TRUE and not self._valid[guard, equal]]


def holding(questions: Mapping[Name, Term], solver: Z3Solver) -> set[Name]:
    """The questions that hold in some state, together or not; each answer of the solver may tell of many.

    Raises:
        SolverTimeoutError: if the solver cannot tell.
    """
    left, found = dict(questions), set[Name]()
    variables = [node for node in nodes(tuple(questions.values())) if node.op == "var"]
    while left and (env := solver.model(variables, Or(*left.values()))) is not None:
        told = true_in(left, env)
        if not told:
            raise ContradictionError("the solver's witness of a difference does not show it")
        found |= told
        left = {name: question for name, question in left.items() if name not in told}
    return found


def true_in(questions: Mapping[Name, Term], env: Mapping[str, Value]) -> set[Name]:
    """The questions that hold in a state."""
    known = dict[Term, Value]()
    return {name for name, question in questions.items() if evaluate(question, env, known)}
