"""Bits that are known are those that every assignment gives; what is folded is what it was."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given

from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes
from formal.logic.known import decided, folded, known_bits
from formal.logic.terms import Term, Value
from tests.logic.test_terms import Tree, assignments, expressions, ours

X, Y = t.var("x", 4), t.var("y", 4)


def always(term: Term) -> tuple[int, int]:
    """The bits that are the same for all values of x and y, found by trying them all."""
    values = [evaluate(term, {"x": x, "y": y}) for x, y in product(range(16), repeat=2)]
    ones = (1 << t.width(term)) - 1
    some, every = 0, ones
    for value in values:
        assert isinstance(value, int)
        some, every = some | value, every & value
    return every | ones & ~some, every


@given(expressions(), assignments())
def test_known_bits_are_what_every_assignment_gives(tree: Tree, env: dict[str, Value]) -> None:
    for node in nodes((ours(tree),)):
        if isinstance(node.sort, int) and node.sort != t.BOOL:
            value = evaluate(node, env)
            mask, known = known_bits(node)
            assert isinstance(value, int)
            assert value & mask == known
            assert evaluate(folded(node), env) == value


C = t.const


@pytest.mark.parametrize(
    "term",
    [
        t.bvor(X, C(5, 4)), t.bvand(X, C(5, 4)), t.bvxor(t.bvor(X, C(3, 4)), C(2, 4)), t.bvnot(t.bvor(X, C(8, 4))),
        t.bvshl(X, C(2, 4)), t.bvlshr(X, C(2, 4)), t.bvshl(X, C(9, 4)), t.bvlshr(X, C(9, 4)),
        t.concat(t.bvor(X, C(1, 4)), t.bvand(Y, C(1, 4))), t.extract(t.concat(X, C(5, 4)), 5, 1),
        t.If(t.ult(X, Y), t.bvor(X, C(3, 4)), C(1, 4)), t.zero_extend(X, 8),
        t.sign_extend(t.bvand(X, C(5, 4)), 8), t.sign_extend(t.bvor(X, C(8, 4)), 8), t.sign_extend(X, 8),
        t.bvshl(C(1, 4), t.bvlshr(t.bvor(t.bvand(X, C(3, 4)), C(8, 4)), C(2, 4))),
        t.bvadd(t.bvand(t.bvor(X, C(4, 4)), C(4, 4)), C(3, 4)),
    ],
    ids=str,
)  # fmt: skip
def test_all_bits_that_are_the_same_are_known(term: Term) -> None:
    assert known_bits(term) == always(term)


def test_a_size_in_a_register_number_is_a_number() -> None:
    def size(reg: Term) -> Term:
        """As KVM_REG_SIZE() has it: two to the power of four bits of the register's number."""
        return t.bvshl(C(1, 64), t.bvlshr(t.bvand(reg, C(0xF << 52, 64)), C(52, 64)))

    field = t.bvand(t.zero_extend(X, 64), C(7, 64))
    assert folded(size(t.bvor(field, C(0x6030 << 48, 64)))) == C(8, 64)
    assert folded(size(t.bvor(t.bvshl(field, C(52, 64)), C(0x6030 << 48, 64)))).op != "const"


def test_what_no_bit_is_known_of_stays() -> None:
    def env(x: int) -> Mapping[str, Value]:
        return {"x": x, "y": 0}

    assert folded(t.bvadd(X, Y)) is t.bvadd(X, Y)
    assert [evaluate(t.bvadd(X, Y), env(x)) for x in (1, 2)] == [1, 2]


@given(expressions(), assignments())
def test_a_decided_condition_is_what_every_assignment_gives(tree: Tree, env: dict[str, Value]) -> None:
    for node in nodes((ours(tree),)):
        if node.sort == t.BOOL:
            assert evaluate(decided(node), env) == evaluate(node, env)


TOP = t.bvor(X, C(8, 4))


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        (t.Eq(TOP, t.bvand(Y, C(7, 4))), t.FALSE),
        (t.Not(t.Eq(TOP, t.bvand(Y, C(7, 4)))), t.TRUE),
        (t.Eq(t.bvlshr(TOP, C(3, 4)), C(1, 4)), t.TRUE),
        (t.And(t.Eq(X, Y), t.Eq(TOP, C(1, 4))), t.FALSE),
        (t.Or(t.Eq(X, Y), t.Eq(TOP, C(1, 4))), t.Eq(X, Y)),
        (t.Eq(TOP, Y), t.Eq(TOP, Y)),
    ],
    ids=str,
)
def test_comparisons_with_one_answer_are_decided(condition: Term, answer: Term) -> None:
    assert decided(condition) == answer
