"""The solver's memory: what was implied is remembered with what it took, and used only where all of that holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.logic.terms import BOOL, And, Not, Or, Term, var

A, B, C, D = (var(name, BOOL) for name in "abcd")


def clause(literals: list[tuple[int, bool]]) -> Term:
    """A disjunction of literals."""
    return Or(*((A, B, C, D)[n] if positive else Not((A, B, C, D)[n]) for n, positive in literals))


CLAUSES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=3).map(clause), min_size=1, max_size=5
)


@given(
    st.lists(st.tuples(CLAUSES, CLAUSES, st.booleans(), CLAUSES), min_size=2, max_size=6),
)
def test_memory_changes_no_answer(questions: list[tuple[list[Term], list[Term], bool, list[Term]]]) -> None:
    shared = Z3Terms()
    for outer, inner, plain, goals in questions:
        solver = Z3Solver(shared)
        (solver.add if plain else solver.suppose)(*outer)
        with solver.scope():
            (solver.suppose if plain else solver.add)(*inner)
            fresh = Z3Solver(Z3Terms())
            fresh.add(*outer, *inner)
            assert solver.implies(*goals) == (not fresh.satisfiable(Not(And(*goals))))
            assert solver.satisfiable() == fresh.satisfiable()
        alone = Z3Solver(Z3Terms())
        alone.add(*outer)
        assert solver.implies(*goals) == (not alone.satisfiable(Not(And(*goals)))), "what was asserted inside is gone"


def test_a_goal_is_remembered_with_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Z3Terms()
    first = Z3Solver(shared)
    first.suppose(A, B, C)
    assert first.implies(Or(A, D))
    assert shared.cores == {Or(A, D): [frozenset({A})]}
    monkeypatch.setattr(Z3Solver, "_check", lambda self: pytest.fail("asked again"))
    second = Z3Solver(shared)
    second.suppose(C, A)
    assert second.implies(Or(A, D))
    with pytest.raises(pytest.fail.Exception):
        other = Z3Solver(shared)
        other.suppose(B, C)
        other.implies(Or(A, D))


def test_what_is_asserted_outright_is_no_hypothesis_later() -> None:
    shared = Z3Terms()
    solver = Z3Solver(shared)
    solver.add(A)
    with solver.scope():
        solver.suppose(A, B)
        assert solver.implies(And(A, Or(B, C)))
    assert shared.cores[And(A, Or(B, C))] == [frozenset({A, B})]
