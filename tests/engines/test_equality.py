"""Questions asked many at a time: the same answers as one by one."""

from __future__ import annotations

import pytest

from formal.engines.equality import Questions, holding, true_in
from formal.engines.z3backend import SolverTimeoutError, Z3Solver, shared_terms
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, Eq, Not

X, Y = t.var("x", 8), t.var("y", 8)
ONE, TWO = t.const(1, 8), t.const(2, 8)


def test_answers_are_those_of_each_question_alone() -> None:
    questions = {
        "sometimes": Eq(X, ONE),
        "never beside the first": Eq(X, TWO),
        "never": Not(Eq(X + Y, Y + X)),
        "never with the fact": Eq(Y, TWO),
    }
    solver = Z3Solver(shared_terms(), 10.0)
    solver.add(Eq(Y, ONE))
    assert holding(questions, solver) == {n for n, q in questions.items() if solver.satisfiable(q)}
    assert holding(questions, solver) == {"sometimes", "never beside the first"}
    assert holding({}, solver) == set()


def test_true_in_a_state() -> None:
    assert true_in({1: Eq(X, ONE), 2: Eq(X, TWO), 3: TRUE, 4: FALSE}, {"x": 2}) == {2, 3}


def test_equalities_that_do_not_hold_are_named_in_order_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Questions(10.0)
    same = [("b", Eq(X, ONE)), ("valid", Eq(X & ONE, ONE & X)), ("a", Eq(Y, TWO)), ("sure", TRUE)]
    assert ask.differing(same) == ["b", "a"]
    assert ask.differing(same, Eq(X, ONE)) == ["a"]
    monkeypatch.setattr(Z3Solver, "_check", lambda *_: pytest.fail("asked again"))
    assert ask.differing(same) == ["b", "a"]
    assert ask.differing(same, Eq(X, ONE)) == ["a"]


def test_a_guard_that_nothing_satisfies_makes_nothing_equal() -> None:
    never = Eq(X & ONE, TWO)
    assert Questions(10.0).differing([("x", Eq(X, ONE)), ("valid", Eq(X & Y, Y & X))], never) == ["x"]


def test_a_solver_that_gives_up_says_nothing_of_any_question(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(*_: object) -> bool:
        raise SolverTimeoutError("timeout")

    monkeypatch.setattr(Z3Solver, "_check", gives_up)
    with pytest.raises(SolverTimeoutError):
        Questions(1.0).differing([("x", Eq(X, ONE))])
