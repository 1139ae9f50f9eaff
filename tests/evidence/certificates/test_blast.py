"""Both encoders: against evaluation for all small values, against three solvers, and against each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from formal.evidence.certificates.blast import Cnf, blast
from formal.evidence.certificates.encoder import Encoding, TextError
from formal.evidence.certificates.smtlib import Script
from formal.evidence.exchange.cross import SOLVERS, installed
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes
from formal.logic.terms import BOOL, Term, Value
from tests.evidence.formulas import formulas

solvers = pytest.importorskip("pysat.solvers", reason="python-sat builds the certificates")

UNARY: dict[str, Callable[[Term, int], Term]] = {
    "bvnot": lambda a, n: t.bvnot(a),
    "extract": lambda a, n: t.extract(t.concat(a, a), n, 1),
    "sign_extend": lambda a, n: t.sign_extend(a, n + 2),
}
BINARY: dict[str, Callable[[Term, Term], Term]] = {
    "bvand": t.bvand, "bvor": t.bvor, "bvxor": t.bvxor, "bvadd": t.bvadd, "bvsub": t.bvsub, "concat": t.concat,
    "=": t.Eq, "bvult": t.ult, "bvule": t.ule, "bvslt": t.slt, "bvsle": t.sle,
}  # fmt: skip
BOOLEAN: dict[str, Callable[[Term, Term, Term], Term]] = {
    "not": lambda a, b, c: t.Not(a), "and": t.And, "or": t.Or, "ite": t.If, "=": lambda a, b, c: t.Eq(a, b),
}  # fmt: skip


def literals(cnf: Cnf, formula: Term, values: dict[str, Value]) -> list[int]:
    """The values of the variables as literals: variables come first in the numbering, in order of first use."""
    found, number = [], 2
    for node in nodes((formula,)):
        if node.op == "var":
            for bit in range(1 if node.sort == BOOL else t.width(node)):
                found.append(number if int(values[str(node.data)]) >> bit & 1 else -number)  # type: ignore[arg-type]
                number += 1
    assert number <= cnf.variables + 1
    return found


def same_clauses(formulas_: tuple[Term, ...]) -> Cnf:
    """The CNF of some formulas, after both encoders have given the same one."""
    cnf, second = blast(formulas_), Encoding(Script(formulas_).file(()))
    assert (second.variables, second.count) == (cnf.variables, len(cnf.clauses))
    assert list(second.clauses()) == cnf.clauses
    return cnf


def holds_exactly_where_it_evaluates_to_true(formula: Term) -> None:
    """Compares the encodings of a formula with its value under every assignment."""
    cnf = same_clauses((formula,))
    variables = {str(n.data): 1 if n.sort == BOOL else t.width(n) for n in nodes((formula,)) if n.op == "var"}
    with solvers.Solver(name="glucose4", bootstrap_with=cnf.clauses) as solver:
        for values in itertools.product(*(range(1 << n) for n in variables.values())):
            env = dict(zip(variables, values, strict=True))
            assert solver.solve(assumptions=literals(cnf, formula, env)) == evaluate(formula, env), (formula, env)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("name", [*UNARY, *BINARY, "ite"])
def test_every_operation_at_small_widths(name: str, width: int) -> None:
    a, b, c = t.var("a", width), t.var("b", width), t.var("c", BOOL)
    binary = {**BINARY, "ite": lambda a, b: t.If(c, a, b)}
    term = UNARY[name](a, width) if name in UNARY else binary[name](a, b)
    result = t.var("r", term.sort)
    holds_exactly_where_it_evaluates_to_true(t.Eq(result, term))


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("name", BINARY)
def test_every_operation_with_a_constant(name: str, width: int) -> None:
    for value in range(1 << width):
        for term in (
            BINARY[name](t.var("a", width), t.const(value, width)),
            BINARY[name](t.const(value, width), t.var("a", width)),
        ):
            holds_exactly_where_it_evaluates_to_true(t.Eq(t.var("r", term.sort), term))


@pytest.mark.parametrize("name", BOOLEAN)
def test_every_connective(name: str) -> None:
    a, b, c, r = (t.var(v, BOOL) for v in "abcr")
    holds_exactly_where_it_evaluates_to_true(t.Eq(r, BOOLEAN[name](a, b, c)))


@pytest.mark.skipif(len(installed()) < 2, reason="needs z3 and another solver")
@settings(max_examples=150)
@given(formulas())
def test_three_solvers_agree_at_full_width(asserted: tuple[Term, ...]) -> None:
    cnf = same_clauses(asserted)
    with solvers.Solver(name="glucose4", bootstrap_with=cnf.clauses) as solver:
        ours = "sat" if solver.solve() else "unsat"
    text = Script(asserted).file(())
    assert {name: SOLVERS[name](text, 60) for name in installed()} == dict.fromkeys(installed(), ours), text


@pytest.mark.parametrize("name", ["bvmul", "bvudiv", "bvshl"])
def test_what_is_not_encoded_is_refused(name: str) -> None:
    a, b = t.var("a", 4), t.var("b", 4)
    formula = t.Eq({"bvmul": t.bvmul, "bvudiv": t.bvudiv, "bvshl": t.bvshl}[name](a, b), a)
    with pytest.raises(ValueError, match=f"{name} is not encoded"):
        blast((formula,))
    with pytest.raises(TextError, match="do not fit"):
        Encoding(Script((formula,)).file(()))


TEXT = Script((t.ult(t.extract(t.var("v0.x", 8), 3, 0), t.const(9, 4)), t.var("b", BOOL))).file(("a comment",))


def test_the_text_itself() -> None:
    assert TEXT == (
        "; a comment\n(set-info :smt-lib-version 2.6)\n(set-logic QF_BV)\n(declare-const v0.x (_ BitVec 8))\n"
        "(declare-const b Bool)\n(define-fun t1 () (_ BitVec 4) ((_ extract 3 0) v0.x))\n"
        "(define-fun t2 () Bool (bvult t1 #x9))\n(assert t2)\n(assert b)\n(check-sat)\n(exit)\n"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(set-logic QF_BV)", "(set-logic QF_AUFBV)"),
        ("(exit)\n", "(exit)"),
        ("(check-sat)\n", ""),
        ("(assert b)", "(assert t3)"),
        ("(assert b)", "(assert t1)"),
        ("(assert b)", "(assert b) (assert b)"),
        ("(assert b)\n", "(assert b)\n\n"),
        ("(assert b)", "(assert b)\n(declare-const c Bool)"),
        ("(assert b)", "(pop 1)"),
        ("bvult t1", "bvugt t1"),
        ("bvult t1 #x9", "bvult t1 #x09"),
        ("bvult t1 #x9", "bvult t1 #x9 #x9"),
        ("bvult t1 #x9", "bvult t1  #x9"),
        ("bvult t1 #x9", "and b t1"),
        ("bvult t1 #x9", "ite t1 b b"),
        ("extract 3 0", "extract 0 3"),
        ("extract 3 0", "extract 9 6"),
        ("extract 3 0", "repeat 3"),
        ("t2 () Bool", "t2 () (_ BitVec 1)"),
        ("fun t2", "fun t1"),
        ("const b", "const v0.x"),
        ("const b", "const true"),
        ("Bool)\n(def", "Boolean)\n(def"),
        ("BitVec 8))", "BitVec 0))"),
    ],
)
def test_texts_that_are_not_of_the_format_are_refused(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(TextError):
        Encoding(TEXT.replace(old, new))


def test_clause_numbers_end_somewhere() -> None:
    encoding = Encoding(TEXT)
    for number in (0, -1, encoding.count + 1):
        with pytest.raises(IndexError):
            encoding.clause(number)
