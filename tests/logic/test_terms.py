"""Terms mean what SMT-LIB says: evaluation, folding and translation against Z3, on expressions made at random.

An expression is made as plain data first. It is then built three times: by the constructors of formal.logic.terms on
variables, by the same constructors on constants (so that everything folds), and directly with z3py, where nothing of
ours folds or translates. All three must have the same value.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from formal.engines import z3backend
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes, substitute, support
from formal.logic.terms import ArrayValue, Sort, Term, Value

Tree = tuple[Any, ...]  # (op, sort, data, *trees)
WIDTHS = (1, 2, 8, 32, 64)
ARRAYS = ((2, 8), (6, 64), (1, 1))
VARIABLES: dict[str, Sort] = {
    **{f"b{i}": t.BOOL for i in range(2)},
    **{f"x{n}_{i}": n for n in WIDTHS for i in range(2)},
    **{f"a{i}_{n}_{j}": (i, n) for i, n in ARRAYS for j in range(2)},
}
ARITHMETIC = tuple(t.BINARY)
COMPARISONS = tuple(t.COMPARE)


# ---- expressions as data


class Maker:
    """Makes well-sorted expressions; every choice is a draw, so that failures shrink."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def pick(self, choices: Any) -> Any:
        """One of the choices."""
        return self.draw(st.sampled_from(tuple(choices)))

    def number(self, n: int) -> int:
        """A value of ``n`` bits, edges preferred."""
        return int(self.draw(st.sampled_from((0, 1, (1 << n) - 1, 1 << (n - 1))) | st.integers(0, (1 << n) - 1)))

    def tree(self, sort: Sort, depth: int) -> Tree:
        """An expression of a sort."""
        if depth == 0 or self.draw(st.integers(0, 5)) == 0:
            return self.leaf(sort)
        if isinstance(sort, tuple):
            return self.array(sort, depth - 1)
        return self.boolean(depth - 1) if sort == t.BOOL else self.vector(sort, depth - 1)

    def leaf(self, sort: Sort) -> Tree:
        """A variable, or a constant."""
        if not isinstance(sort, tuple) and self.draw(st.integers(0, 2)) == 0:
            return ("const", sort, self.draw(st.booleans()) if sort == t.BOOL else self.number(sort))
        names = [name for name, s in VARIABLES.items() if s == sort]
        if not names:  # a width that only occurs inside concat and extract
            return ("const", sort, self.number(sort))  # type: ignore[arg-type]
        return ("var", sort, self.pick(names))

    def boolean(self, depth: int) -> Tree:
        """A Boolean."""
        kind = self.pick(("not", "junction", "=", "compare", "ite"))
        if kind == "not":
            return ("not", t.BOOL, None, self.tree(t.BOOL, depth))
        if kind == "junction":
            parts = [self.tree(t.BOOL, depth) for _ in range(self.draw(st.integers(0, 3)))]
            return (self.pick(("and", "or", "implies") if len(parts) == 2 else ("and", "or")), t.BOOL, None, *parts)
        if kind == "=":
            sort = self.pick((t.BOOL, *WIDTHS, *ARRAYS))
            return ("=", t.BOOL, None, self.tree(sort, depth), self.tree(sort, depth))
        if kind == "compare":
            n = self.pick(WIDTHS)
            return (self.pick(COMPARISONS), t.BOOL, None, self.tree(n, depth), self.tree(n, depth))
        return self.ite(t.BOOL, depth)

    def ite(self, sort: Sort, depth: int) -> Tree:
        """A choice."""
        return ("ite", sort, None, self.tree(t.BOOL, depth), self.tree(sort, depth), self.tree(sort, depth))

    def vector(self, n: int, depth: int) -> Tree:
        """A bit-vector."""
        kind = self.pick(("arithmetic", "arithmetic", "bvnot", "bvneg", "ite", "extract", "concat", "extend", "select"))
        if kind == "arithmetic":
            return (self.pick(ARITHMETIC), n, None, self.tree(n, depth), self.tree(n, depth))
        if kind in ("bvnot", "bvneg"):
            return (kind, n, None, self.tree(n, depth))
        if kind == "extract":
            wider = self.pick([w for w in WIDTHS if w >= n])
            lo = self.draw(st.integers(0, wider - n))
            return ("extract", n, (lo + n - 1, lo), self.tree(wider, depth))
        if kind == "concat" and n > 1:
            low = self.draw(st.integers(1, n - 1))
            return ("concat", n, None, self.tree(n - low, depth), self.tree(low, depth))
        if kind == "extend":
            part = self.draw(st.integers(1, n))
            return (self.pick(("zero_extend", "sign_extend")), n, n, self.tree(part, depth))
        arrays = [s for s in ARRAYS if s[1] == n]
        if kind == "select" and arrays:
            sort = self.pick(arrays)
            return ("select", n, None, self.tree(sort, depth), self.tree(sort[0], depth))
        return self.ite(n, depth)

    def array(self, sort: tuple[int, int], depth: int) -> Tree:
        """An array."""
        kind = self.pick(("store", "store", "const-array", "ite"))
        if kind == "store":
            parts = (self.tree(sort, depth), self.tree(sort[0], depth), self.tree(sort[1], depth))
            return ("store", sort, None, *parts)
        if kind == "const-array":
            return ("const-array", sort, sort[0], self.tree(sort[1], depth))
        return self.ite(sort, depth)


@st.composite
def expressions(draw: Any) -> Tree:
    """An expression of any sort that has a plain value."""
    return Maker(draw).tree(draw(st.sampled_from((t.BOOL, *WIDTHS))), draw(st.integers(1, 5)))


@st.composite
def assignments(draw: Any) -> dict[str, Value]:
    """A value for every variable."""
    maker = Maker(draw)
    env: dict[str, Value] = {}
    for name, sort in VARIABLES.items():
        if isinstance(sort, tuple):
            array = ArrayValue(maker.number(sort[1]))
            for _ in range(draw(st.integers(0, 3))):
                array = array.set(maker.number(sort[0]), maker.number(sort[1]))
            env[name] = array
        else:
            env[name] = draw(st.booleans()) if sort == t.BOOL else maker.number(sort)
    return env


# ---- the three ways to build one

OURS: dict[str, Any] = {
    "not": t.Not, "and": t.And, "or": t.Or, "implies": t.Implies, "ite": t.If, "=": t.Eq, "concat": t.concat,
    "select": t.select, "store": t.store, "bvnot": t.bvnot, "bvneg": t.bvneg,
    **{op: getattr(t, op) for op in ARITHMETIC}, **{op: getattr(t, op.removeprefix("bv")) for op in COMPARISONS},
}  # fmt: skip
THEIRS: dict[str, Any] = {
    "not": z3.Not, "and": z3.And, "or": z3.Or, "implies": z3.Implies, "ite": z3.If, "concat": z3.Concat,
    "select": z3.Select, "store": z3.Store, "=": lambda a, b: a == b, "bvnot": lambda a: ~a, "bvneg": lambda a: -a,
    "bvand": lambda a, b: a & b, "bvor": lambda a, b: a | b, "bvxor": lambda a, b: a ^ b, "bvadd": lambda a, b: a + b,
    "bvsub": lambda a, b: a - b, "bvmul": lambda a, b: a * b, "bvudiv": z3.UDiv, "bvurem": z3.URem,
    "bvshl": lambda a, b: a << b, "bvlshr": z3.LShR, "bvashr": lambda a, b: a >> b, "bvult": z3.ULT, "bvule": z3.ULE,
    "bvslt": lambda a, b: a < b, "bvsle": lambda a, b: a <= b,
}  # fmt: skip


def ours(tree: Tree, env: Mapping[str, Value] | None = None) -> Term:
    """The expression through our constructors, on variables or, with ``env``, on constants."""
    op, sort, data, *parts = tree
    if op == "const":
        return t.literal(data, sort)
    if op == "var":
        return t.var(data, sort) if env is None else t.literal(env[data], sort)
    args = [ours(part, env) for part in parts]
    if op == "extract":
        return t.extract(args[0], *data)
    if op in ("zero_extend", "sign_extend"):
        return getattr(t, op)(args[0], data)  # type: ignore[no-any-return]
    if op == "const-array":
        return t.const_array(args[0], data)
    return OURS[op](*args)  # type: ignore[no-any-return]


def theirs(tree: Tree, env: Mapping[str, Value]) -> Any:
    """The expression on constants in z3py."""
    op, sort, data, *parts = tree
    if op in ("const", "var"):
        return z3_value(env[data] if op == "var" else data, sort)
    args = [theirs(part, env) for part in parts]
    if op == "extract":
        return z3.Extract(*data, args[0])
    if op == "zero_extend":
        return z3.ZeroExt(data - args[0].size(), args[0])
    if op == "sign_extend":
        return z3.SignExt(data - args[0].size(), args[0])
    if op == "const-array":
        return z3.K(z3.BitVecSort(data), args[0])
    return THEIRS[op](*args)


def z3_value(value: Value, sort: Sort) -> Any:
    """A constant in z3py."""
    if isinstance(value, ArrayValue):
        assert isinstance(sort, tuple)
        array = z3.K(z3.BitVecSort(sort[0]), z3.BitVecVal(value.default, sort[1]))
        for i, v in value.items:
            array = z3.Store(array, z3.BitVecVal(i, sort[0]), z3.BitVecVal(v, sort[1]))
        return array
    return z3.BoolVal(value) if sort == t.BOOL else z3.BitVecVal(value, sort)


def z3_result(expression: Any) -> Value:
    """The value that Z3 computes for an expression without variables."""
    solver = z3.SolverFor("QF_AUFBV")
    result = z3.Const("result", expression.sort())
    solver.add(result == expression)
    assert solver.check() == z3.sat
    value = solver.model().eval(result, model_completion=True)
    return bool(z3.is_true(value)) if z3.is_bool(value) else int(value.as_long())


# ---- the properties


@settings(max_examples=300)
@given(expressions(), assignments())
def test_evaluation_is_what_z3_computes(tree: Tree, env: dict[str, Value]) -> None:
    assert evaluate(ours(tree), env) == z3_result(theirs(tree, env))


@settings(max_examples=300)
@given(expressions(), assignments())
def test_folding_never_changes_the_meaning(tree: Tree, env: dict[str, Value]) -> None:
    term = ours(tree)
    value = evaluate(term, env)
    literals = {name: t.literal(v, VARIABLES[name]) for name, v in env.items()}
    assert evaluate(substitute(term, literals), {}) == value, "substituting constants changed the value"
    assert evaluate(ours(tree, env), {}) == value, "building on constants gave another value"


@settings(max_examples=200)
@given(expressions(), assignments(), st.randoms(use_true_random=False))
def test_partial_substitution_never_changes_the_meaning(
    tree: Tree, env: dict[str, Value], choice: random.Random
) -> None:
    term = ours(tree)
    some = {n: t.literal(v, VARIABLES[n]) for n, v in env.items() if choice.random() < 0.5}
    partly = substitute(term, some)
    assert evaluate(partly, env) == evaluate(term, env)
    assert not support(partly) & some.keys(), "a variable that was replaced is still there"


@settings(max_examples=150)
@given(expressions(), assignments())
def test_translation_to_z3_keeps_the_meaning(tree: Tree, env: dict[str, Value]) -> None:
    """The backend's terms, its solver and its models, against our evaluation."""
    term = ours(tree)
    result = t.var("result", term.sort)
    facts = [t.Eq(t.var(n, VARIABLES[n]), t.literal(env[n], VARIABLES[n])) for n in sorted(support(term))]
    solver = z3backend.Z3Solver(z3backend.Z3Terms())
    found = solver.model([result], t.Eq(result, term), *facts)
    assert found is not None, "the assignment itself was found contradictory"
    assert found["result"] == evaluate(term, env)


@settings(max_examples=100)
@given(assignments())
def test_models_give_back_every_value(env: dict[str, Value]) -> None:
    facts = [t.Eq(t.var(n, s), t.literal(env[n], s)) for n, s in VARIABLES.items()]
    found = z3backend.model(facts)
    assert found is not None
    for name, sort in VARIABLES.items():
        same = t.Eq(t.literal(found[name], sort), t.literal(env[name], sort))
        assert evaluate(same, {}), f"{name}: {found[name]} for {env[name]}"


@settings(max_examples=150)
@given(expressions())
def test_support_is_the_variables_that_occur(tree: Tree) -> None:
    term = ours(tree)
    assert support(term) == {str(n.data) for n in nodes((term,)) if n.op == "var"}


@settings(max_examples=100)
@given(expressions())
def test_equal_terms_are_one_term(tree: Tree) -> None:
    assert ours(tree) is ours(tree)


# ---- arrays


def test_arrays_are_equal_when_their_contents_are() -> None:
    """Overwriting every place of one array gives another's contents, however either is written down."""
    filled = ArrayValue(0)
    for i in range(4):
        filled = filled.set(i, 7)
    a, b = (t.var(name, (2, 8)) for name in "ab")
    assert evaluate(t.Eq(a, b), {"a": filled, "b": ArrayValue(7)})
    assert evaluate(t.Eq(a, b), {"a": ArrayValue(7), "b": filled})
    assert not evaluate(t.Eq(a, b), {"a": filled.set(2, 8), "b": ArrayValue(7)})
    assert not evaluate(t.Eq(a, b), {"a": ArrayValue(0, ((0, 7),)), "b": ArrayValue(7)})


@st.composite
def arrays(draw: Any) -> Tree:
    """An expression that is an array."""
    return Maker(draw).tree(ARRAYS[0], 4)


@settings(max_examples=150)
@given(arrays(), st.integers(0, 3), assignments())
def test_an_element_is_what_a_select_gives(tree: Tree, place: int, env: dict[str, Value]) -> None:
    array, index = ours(tree), t.const(place, 2)
    found = t.element(array, index)
    assert evaluate(found, env) == evaluate(t.select(array, index), env)


def test_an_element_needs_no_stores() -> None:
    a, i, x, b = t.var("a", (2, 8)), t.var("i", 2), t.var("x", 8), t.var("b", t.BOOL)
    array = t.store(t.If(b, t.store(a, i, x), a), t.const(3, 2), x)
    for place in range(4):
        assert not {"store", "ite"} & {n.op for n in nodes((t.element(array, t.const(place, 2)),)) if n.sort == a.sort}


def test_an_array_value_forgets_what_equals_its_default() -> None:
    assert ArrayValue(0).set(3, 5).set(3, 0) == ArrayValue(0)
    assert ArrayValue(9).set(1, 2)[1] == 2
    assert ArrayValue(9).set(1, 2)[0] == 9


# ---- misuse

B, X8, X9, A = t.var("b", t.BOOL), t.var("x8", 8), t.var("x9", 9), t.var("a", (2, 8))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.bvadd(X8, X9), "operands of 8 and 9 bits"),
        (lambda: X8 & X9, "operands of 8 and 9 bits"),
        (lambda: t.ult(X8, X9), "operands of 8 and 9 bits"),
        (lambda: t.bvnot(B), "expected a bit-vector, got a term of sort 0: b"),
        (lambda: t.width(A), r"expected a bit-vector, got a term of sort \(2, 8\): a"),
        (lambda: t.And(B, X8), "expected a Boolean, got a term of sort 8: x8"),
        (lambda: t.Or(X8), "expected a Boolean, got a term of sort 8: x8"),
        (lambda: t.Not(X8), "expected a Boolean, got a term of sort 8: x8"),
        (lambda: t.Implies(X8, B), "expected a Boolean, got a term of sort 8: x8"),
        (lambda: t.If(X8, X9, t.const(0, 9)), "expected a Boolean, got a term of sort 8: x8"),
        (lambda: t.If(B, X8, X9), "branches of sorts 8 and 9: x8, x9"),
        (lambda: t.Eq(X8, X9), "comparing sorts 8 and 9: x8, x9"),
        (lambda: t.Eq(B, X8), "comparing sorts 0 and 8: b, x8"),
        (lambda: t.extract(X8, 8, 0), "bits 8:0 of a 8-bit vector"),
        (lambda: t.extract(X8, 2, 3), "bits 2:3 of a 8-bit vector"),
        (lambda: t.zero_extend(X8, 4), "extending 8 bits to 4"),
        (lambda: t.sign_extend(X8, 4), "extending 8 bits to 4"),
        (lambda: t.const(1, 0), "a bit-vector has at least 1 bit, got 0"),
        (lambda: t.select(A, X8), r"index of 8 bits into a term of sort \(2, 8\)"),
        (lambda: t.select(X8, X8), "index of 8 bits into a term of sort 8"),
        (lambda: t.store(A, t.const(0, 2), X9), r"storing 9 bits at 2-bit index of an array of sort \(2, 8\)"),
        (lambda: t.store(X8, X8, X8), "storing 8 bits at 8-bit index of an array of sort 8"),
        (lambda: t.value_of(X8), "not a constant: x8"),
        (lambda: bool(B), "a Term has no truth value"),
    ],
)
def test_misuse_says_what_is_wrong(build: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build()


def test_a_missing_value_is_named() -> None:
    with pytest.raises(KeyError, match="x8"):
        evaluate(X8, {})
