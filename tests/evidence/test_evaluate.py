"""The evaluator that replays traces, against z3, cvc5 and bitwuzla: every operation, all small values and wide ones.

A solver is asked for values at which an operation gives something else than the evaluator says; it must find none, and
must find one where what the evaluator says is changed in one place.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

import pytest

from formal.evidence.certificates.smtlib import Script
from formal.evidence.exchange.cross import CANNOT, SOLVERS, UNSAT, installed
from formal.logic import terms as t
from formal.logic.evaluation import evaluate
from formal.logic.terms import BOOL, And, Eq, Ne, Or, Term, Value

OPERATIONS: dict[str, Callable[[Term, Term], Term]] = {
    "bvand": t.bvand, "bvor": t.bvor, "bvxor": t.bvxor, "bvadd": t.bvadd, "bvsub": t.bvsub, "bvmul": t.bvmul,
    "bvudiv": t.bvudiv, "bvurem": t.bvurem, "bvshl": t.bvshl, "bvlshr": t.bvlshr, "bvashr": t.bvashr,
    "bvult": t.ult, "bvule": t.ule, "bvslt": t.slt, "bvsle": t.sle, "=": t.Eq, "concat": t.concat,
    "bvnot": lambda a, b: t.bvnot(a), "not": lambda a, b: t.Not(t.ult(a, b)),
    "and": lambda a, b: t.And(t.ult(a, b), t.slt(b, a)), "or": lambda a, b: t.Or(t.ult(a, b), t.slt(a, b)),
    "ite": lambda a, b: t.If(t.ult(a, b), a, b),
    "extract": lambda a, b: t.extract(t.concat(a, b), t.width(a), 1),
    "sign_extend": lambda a, b: t.sign_extend(a, t.width(a) + 2),
    "zero_extend": lambda a, b: t.zero_extend(a, t.width(a) + 2),
}  # fmt: skip
BANKS: dict[str, Callable[[Term, Term], Term]] = {
    "select, store": lambda a, b: t.select(t.store(t.var("m", (t.width(a), 2)), a, t.const(3, 2)), b),
    "const-array": lambda a, b: t.select(t.store(t.const_array(t.const(1, 2), t.width(a)), a, t.const(2, 2)), b),
}  # fmt: skip
WIDE = (0, 1, 2, 63, 64, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 63) - 1, (1 << 64) - 1)


def differs(term: Term, width: int, values: Iterable[tuple[int, int]], *, damaged: int = -1) -> Term:
    """That the operation gives, at one of these values, something else than the evaluator says."""
    a, b = t.var("a", width), t.var("b", width)
    parts = []
    for number, (x, y) in enumerate(values):
        value = int(evaluate(term, {"a": x, "b": y, "m": t.ArrayValue(0)}))  # type: ignore[arg-type]
        value ^= number == damaged
        said: Value = bool(value) if term.sort == BOOL else value
        right = t.boolean(said) if isinstance(said, bool) else t.const(said, t.width(term))  # type: ignore[arg-type]
        parts.append(And(Eq(a, t.const(x, width)), Eq(b, t.const(y, width)), Ne(term, right)))
    return Or(*parts)


def answers(formula: Term, width: int) -> set[str]:
    """What the solvers say that can read it; where the bank is read and not written, it is 0."""
    zero = [
        Eq(t.select(t.var("m", (width, 2)), t.const(i, width)), t.const(0, 2))
        for i in range(1 << width if width < 4 else 0)
    ]
    text = Script((formula, *zero)).file(())
    return {SOLVERS[n](text, 60) for n in installed() if n not in CANNOT or CANNOT[n] not in text}


needs_solvers = pytest.mark.skipif(len(installed()) < 2, reason="needs z3 and another solver")


@needs_solvers
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("name", [*OPERATIONS, *BANKS])
def test_all_small_values(name: str, width: int) -> None:
    values = list(itertools.product(range(1 << width), repeat=2))
    term = {**OPERATIONS, **BANKS}[name](t.var("a", width), t.var("b", width))
    assert answers(differs(term, width, values), width) == {UNSAT}
    assert answers(differs(term, width, values, damaged=len(values) - 2), width) == {"sat"}


@needs_solvers
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_of_64_bits(name: str) -> None:
    chosen = random.Random(name)
    values = [(x, y) for x, y in itertools.product(WIDE, repeat=2) if chosen.random() < 0.3]
    values += [(chosen.getrandbits(64), chosen.getrandbits(64)) for _ in range(8)]
    term = OPERATIONS[name](t.var("a", 64), t.var("b", 64))
    assert answers(differs(term, 64, values), 64) == {UNSAT}
    assert answers(differs(term, 64, values, damaged=len(values) - 1), 64) == {"sat"}
