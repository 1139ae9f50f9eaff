"""Terms as Python functions: the same values as the evaluation of the terms one by one."""

from __future__ import annotations

import random

import pytest

from formal.logic import terms as t
from formal.logic.compiled import straight
from formal.logic.evaluation import evaluate, rebuild
from formal.logic.terms import BINARY, BOOL, COMPARE, Term

NAMES = ("a", "b", "c", "p")
SORTS = {"a": 4, "b": 4, "c": 7, "p": BOOL}


def every_operator() -> list[Term]:
    a, b, c, p = (t.var(name, SORTS[name]) for name in NAMES)
    plain = t._term("bvand", (a, b), 4)
    made = [rebuild(t._term(op, (a, b), 4 if op in BINARY else BOOL), (a, b)) for op in (*BINARY, *COMPARE, "=")]
    made += [t.extract(c, 5, 2), t.concat(a, c), t.sign_extend(a, 9), ~c, t.If(p, a, b), t.Eq(p, t.Eq(a, b))]
    made += [t.And(p, t.ult(a, b)), t.Or(p, t.ult(a, b)), t.Not(p), t.const(5, 4), t.TRUE, t.FALSE, plain]
    return made


def test_every_operator_on_every_value() -> None:
    terms = every_operator()
    f = straight(terms, NAMES)
    for a in range(16):
        for b in range(16):
            for c, p in ((0, 0), (0x55, 1), (0x7F, 0)):
                env = {"a": a, "b": b, "c": c, "p": bool(p)}
                assert f((a, b, c, p)) == tuple(int(evaluate(x, env)) for x in terms)  # type: ignore[arg-type]


def test_nested_terms() -> None:
    random_, pool = random.Random(1), [t.var(name, 64) for name in "xyz"]
    for _ in range(300):
        op = random_.choice([t.bvadd, t.bvsub, t.bvmul, t.bvxor, t.bvshl, t.bvashr, t.bvlshr, t.bvudiv, t.bvurem])
        a, b = random_.sample(pool[-9:], 2) if len(pool) > 3 else pool[:2]
        pool.append(t.If(t.slt(a, b), op(a, b), op(b, t.const(random_.getrandbits(64), 64))))
    f = straight(pool, "xyz")
    for _ in range(20):
        v = [random_.choice((0, 1, 63, 64, 1 << 63, (1 << 64) - 1, random_.getrandbits(64))) for _ in "xyz"]
        env = dict(zip("xyz", v, strict=True))
        done: dict[Term, t.Value] = {}
        assert f(v) == tuple(evaluate(x, env, done) for x in pool)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(KeyError, match="y"):
        straight([t.var("y", 3)], "x")
    with pytest.raises(ValueError, match="select of an array"):
        straight([t.select(t.var("m", (2, 3)), t.const(1, 2))], "m")
