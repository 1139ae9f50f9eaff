"""Terms: the fixed-width bit-vector and array logic that the whole specification is written in.

A term is an immutable, shared (hash-consed) node. The specification builds terms, and everything else reads them:
the engines translate them one to one into Z3, replay evaluates them on concrete values *without* any solver, and
the evidence writes them as SMT-LIB. That is why the logic is our own and not z3py's: a counterexample can be replayed,
and a proof re-checked, where Z3 cannot even be imported.

Sorts: ``BOOL`` (0), a bit-vector of ``n`` bits (the int ``n``), an array from ``i``-bit indices to ``n``-bit values
(the pair ``(i, n)``). Bit-vector operations are those of SMT-LIB 2.6, theory FixedSizeBitVectors; arrays are ArraysEx.
Constructors fold constants and a few identities, nothing that needs search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

Sort = int | tuple[int, int]
BOOL: Sort = 0


@dataclass(frozen=True)
class ArrayValue:
    """A concrete array: ``default`` except at ``items``, (index, value) pairs sorted, none equal to the default."""

    default: int
    items: tuple[tuple[int, int], ...] = ()
    index: dict[int, int] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", dict(self.items))

    def __getitem__(self, i: int) -> int:
        return self.index.get(i, self.default)

    def set(self, i: int, value: int) -> ArrayValue:
        """This array with ``value`` at index ``i``."""
        items = {**self.index, i: value}
        return ArrayValue(self.default, tuple(sorted((k, v) for k, v in items.items() if v != self.default)))


Value = bool | int | ArrayValue


class Term:
    """One node. ``op`` is the SMT-LIB name (or ``var``/``const``), ``data`` its name, value or parameters."""

    __slots__ = ("args", "data", "free", "op", "sort")

    op: str
    args: tuple[Term, ...]
    sort: Sort
    data: object
    free: frozenset[str] | None  # the free variables, once formal.logic.evaluation.support has found them

    def __repr__(self) -> str:
        if self.op == "var":
            return str(self.data)
        if self.op == "const":
            return str(self.data) if self.sort == BOOL else f"{self.data:#x}"
        extra = f" {self.data}" if self.data is not None else ""
        return f"({self.op}{extra} {' '.join(map(repr, self.args))})"

    def __bool__(self) -> bool:
        raise TypeError("a Term has no truth value; use is_true(), is_false() or an engine")

    def __and__(self, other: Term) -> Term:
        return bvand(self, other)

    def __or__(self, other: Term) -> Term:
        return bvor(self, other)

    def __xor__(self, other: Term) -> Term:
        return bvxor(self, other)

    def __invert__(self) -> Term:
        return bvnot(self)

    def __add__(self, other: Term) -> Term:
        return bvadd(self, other)

    def __sub__(self, other: Term) -> Term:
        return bvsub(self, other)


_interned: dict[tuple[object, ...], Term] = {}  # a cache of pure values: identity is structural equality


def _term(op: str, args: tuple[Term, ...], sort: Sort, data: object = None) -> Term:
    key = (op, sort, data, type(data), *map(id, args))
    term = _interned.get(key)
    if term is None:
        term = Term()
        term.op, term.args, term.sort, term.data, term.free = op, args, sort, data, None
        _interned[key] = term
    return term


def width(t: Term) -> int:
    """The number of bits of a bit-vector term.

    Raises:
        TypeError: if the term is a Boolean or an array.
    """
    if isinstance(t.sort, int) and t.sort > 0:
        return t.sort
    raise TypeError(f"expected a bit-vector, got a term of sort {t.sort}: {t!r}")


def _same_width(a: Term, b: Term) -> int:
    n = width(a)
    if n != width(b):
        raise TypeError(f"operands of {n} and {width(b)} bits: {a!r}, {b!r}")
    return n


def _boolean(t: Term) -> Term:
    if t.sort != BOOL:
        raise TypeError(f"expected a Boolean, got a term of sort {t.sort}: {t!r}")
    return t


def var(name: str, sort: Sort) -> Term:
    """A free variable."""
    return _term("var", (), sort, name)


def const(value: int, bits: int) -> Term:
    """A bit-vector constant; ``value`` is taken modulo ``2**bits``."""
    if bits < 1:
        raise TypeError(f"a bit-vector has at least 1 bit, got {bits}")
    return _term("const", (), bits, value & ((1 << bits) - 1))


TRUE = _term("const", (), BOOL, True)
FALSE = _term("const", (), BOOL, False)


def boolean(value: bool) -> Term:
    """The Boolean constant of a Python bool."""
    return TRUE if value else FALSE


def literal(value: Value, sort: Sort) -> Term:
    """The constant term of a concrete value."""
    if isinstance(value, ArrayValue):
        assert isinstance(sort, tuple)
        array = const_array(const(value.default, sort[1]), sort[0])
        for i, v in value.items:
            array = store(array, const(i, sort[0]), const(v, sort[1]))
        return array
    if sort == BOOL:
        return boolean(bool(value))
    assert isinstance(sort, int)
    return const(int(value), sort)


def is_const(t: Term) -> bool:
    """Whether the term is a Boolean or bit-vector constant."""
    return t.op == "const"


def value_of(t: Term) -> int:
    """The value of a constant term."""
    if t.op != "const" or not isinstance(t.data, int):
        raise TypeError(f"not a constant: {t!r}")
    return int(t.data)


# ---- Booleans


def Not(a: Term) -> Term:
    """Negation."""
    if a is TRUE:
        return FALSE
    if a is FALSE:
        return TRUE
    return a.args[0] if a.op == "not" else _term("not", (_boolean(a),), BOOL)


def _junction(op: str, unit: Term, zero: Term, parts: tuple[Term, ...]) -> Term:
    kept: dict[Term, None] = {}
    negated: set[Term] = set()  # what the kept parts of the form "not p" negate
    for part in parts:
        for p in part.args if part.op == op else (part,):
            if p is unit:
                continue
            if p is zero or p in negated:
                return zero
            if _boolean(p).op == "not":
                if p.args[0] in kept:
                    return zero
                negated.add(p.args[0])
            kept[p] = None
    if not kept:
        return unit
    return next(iter(kept)) if len(kept) == 1 else _term(op, tuple(kept), BOOL)


def And(*parts: Term) -> Term:
    """Conjunction; of nothing, true."""
    return _junction("and", TRUE, FALSE, parts)


def Or(*parts: Term) -> Term:
    """Disjunction; of nothing, false."""
    return _junction("or", FALSE, TRUE, parts)


def Implies(a: Term, b: Term) -> Term:
    """``a`` implies ``b``."""
    return Or(Not(a), b)


def If(c: Term, a: Term, b: Term) -> Term:
    """``a`` where ``c`` holds, else ``b``; any sort."""
    if a.sort != b.sort:
        raise TypeError(f"branches of sorts {a.sort} and {b.sort}: {a!r}, {b!r}")
    if c is TRUE or a is b:
        return a
    if c is FALSE:
        return b
    if c.op == "not":
        return If(c.args[0], b, a)
    if a.sort == BOOL:
        if a is TRUE or b is FALSE:
            return Or(c, b) if a is TRUE else And(c, a)
        if a is FALSE or b is TRUE:
            return And(Not(c), b) if a is FALSE else Or(Not(c), a)
    if a.op == "ite" and a.args[0] is c:
        a = a.args[1]
    if b.op == "ite" and b.args[0] is c:
        b = b.args[2]
    return a if a is b else _term("ite", (_boolean(c), a, b), a.sort)


def Eq(a: Term, b: Term) -> Term:
    """Equality at any sort."""
    if a.sort != b.sort:
        raise TypeError(f"comparing sorts {a.sort} and {b.sort}: {a!r}, {b!r}")
    if a is b:
        return TRUE
    if a.op == "const" and b.op == "const":
        return FALSE  # constants are interned, so different terms are different values
    if a.sort == BOOL:
        for x, y in ((a, b), (b, a)):
            if x.op == "const":
                return y if x is TRUE else Not(y)
    if a.op == "const":
        a, b = b, a
    if b.op == "const" and a.op == "ite" and "const" in (a.args[1].op, a.args[2].op):
        return If(a.args[0], Eq(a.args[1], b), Eq(a.args[2], b))
    return _term("=", (a, b), BOOL)


def Ne(a: Term, b: Term) -> Term:
    """Disequality at any sort."""
    return Not(Eq(a, b))


# ---- bit-vectors


def signed(value: int, bits: int) -> int:
    """The two's complement reading of an unsigned value."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _udiv(a: int, b: int, n: int) -> int:
    return a // b if b else (1 << n) - 1


# What the operations do to concrete values; the result is taken modulo 2**n. Third argument: the width n.
BINARY: dict[str, Callable[[int, int, int], int]] = {
    "bvand": lambda a, b, n: a & b,
    "bvor": lambda a, b, n: a | b,
    "bvxor": lambda a, b, n: a ^ b,
    "bvadd": lambda a, b, n: a + b,
    "bvsub": lambda a, b, n: a - b,
    "bvmul": lambda a, b, n: a * b,
    "bvudiv": _udiv,
    "bvurem": lambda a, b, n: a % b if b else a,
    "bvshl": lambda a, b, n: a << b if b < n else 0,
    "bvlshr": lambda a, b, n: a >> b if b < n else 0,
    "bvashr": lambda a, b, n: signed(a, n) >> min(b, n - 1),
}
COMPARE: dict[str, Callable[[int, int, int], bool]] = {
    "bvult": lambda a, b, n: a < b,
    "bvule": lambda a, b, n: a <= b,
    "bvslt": lambda a, b, n: signed(a, n) < signed(b, n),
    "bvsle": lambda a, b, n: signed(a, n) <= signed(b, n),
}


def _binary(op: str, a: Term, b: Term) -> Term:
    n = _same_width(a, b)
    if a.op == "const" and b.op == "const":
        return const(BINARY[op](value_of(a), value_of(b), n), n)
    return _term(op, (a, b), n)


def _compare(op: str, a: Term, b: Term) -> Term:
    n = _same_width(a, b)
    if a.op == "const" and b.op == "const":
        return boolean(COMPARE[op](value_of(a), value_of(b), n))
    return _term(op, (a, b), BOOL)


Binary = Callable[[Term, Term], Term]
bvxor: Binary = partial(_binary, "bvxor")
bvadd: Binary = partial(_binary, "bvadd")
bvsub: Binary = partial(_binary, "bvsub")
bvmul: Binary = partial(_binary, "bvmul")
bvudiv: Binary = partial(_binary, "bvudiv")  # by zero, all ones
bvurem: Binary = partial(_binary, "bvurem")  # by zero, the dividend
bvshl: Binary = partial(_binary, "bvshl")  # by the width or more, zero
bvlshr: Binary = partial(_binary, "bvlshr")
bvashr: Binary = partial(_binary, "bvashr")
ult: Binary = partial(_compare, "bvult")  # unsigned
ule: Binary = partial(_compare, "bvule")
slt: Binary = partial(_compare, "bvslt")  # signed
sle: Binary = partial(_compare, "bvsle")


def bvand(a: Term, b: Term) -> Term:
    """Bitwise and."""
    n = _same_width(a, b)
    for x, y in ((a, b), (b, a)):
        if x.op == "const":
            if x.data == 0:
                return x
            if x.data == (1 << n) - 1:
                return y
    return a if a is b else _binary("bvand", a, b)


def bvor(a: Term, b: Term) -> Term:
    """Bitwise or."""
    n = _same_width(a, b)
    for x, y in ((a, b), (b, a)):
        if x.op == "const":
            if x.data == 0:
                return y
            if x.data == (1 << n) - 1:
                return x
    return a if a is b else _binary("bvor", a, b)


def bvnot(a: Term) -> Term:
    """Bitwise complement."""
    n = width(a)
    if a.op == "const":
        return const(~value_of(a), n)
    return a.args[0] if a.op == "bvnot" else _term("bvnot", (a,), n)


def bvneg(a: Term) -> Term:
    """Two's complement negation."""
    return _binary("bvsub", const(0, width(a)), a)


def extract(a: Term, hi: int, lo: int) -> Term:
    """Bits ``hi`` down to ``lo``."""
    n = width(a)
    if not 0 <= lo <= hi < n:
        raise TypeError(f"bits {hi}:{lo} of a {n}-bit vector")
    if hi - lo + 1 == n:
        return a
    if a.op == "const":
        return const(value_of(a) >> lo, hi - lo + 1)
    if a.op == "extract":
        low = bounds(a)[1]
        return extract(a.args[0], hi + low, lo + low)
    if a.op == "concat":
        high, low_part = a.args
        split = width(low_part)
        if lo >= split:
            return extract(high, hi - split, lo - split)
        if hi < split:
            return extract(low_part, hi, lo)
    if a.op in ("bvand", "bvor", "bvxor") and (a.args[1].op == "const" or a.args[0].op == "const"):
        make = {"bvand": bvand, "bvor": bvor, "bvxor": bvxor}[a.op]
        return make(extract(a.args[0], hi, lo), extract(a.args[1], hi, lo))
    if a.op == "ite" and (a.args[1].op == "const" or a.args[2].op == "const"):
        return If(a.args[0], extract(a.args[1], hi, lo), extract(a.args[2], hi, lo))
    return _term("extract", (a,), hi - lo + 1, (hi, lo))


def bounds(a: Term) -> tuple[int, int]:
    """The ``(hi, lo)`` of an ``extract`` term."""
    assert a.op == "extract" and isinstance(a.data, tuple)
    return a.data


def concat(high: Term, low: Term) -> Term:
    """``high`` above ``low``."""
    n = width(high) + width(low)
    if high.op == "const" and low.op == "const":
        return const(value_of(high) << width(low) | value_of(low), n)
    if high.op == "extract" and low.op == "extract" and high.args == low.args:
        (top, mid), (below, bottom) = bounds(high), bounds(low)
        if mid == below + 1:
            return extract(high.args[0], top, bottom)
    return _term("concat", (high, low), n)


def zero_extend(a: Term, bits: int) -> Term:
    """``a`` in the low bits of a ``bits``-wide vector, zeros above."""
    extra = bits - width(a)
    if extra < 0:
        raise TypeError(f"extending {width(a)} bits to {bits}: {a!r}")
    return a if extra == 0 else concat(const(0, extra), a)


def sign_extend(a: Term, bits: int) -> Term:
    """``a`` in the low bits of a ``bits``-wide vector, its top bit repeated above."""
    n = width(a)
    if bits < n:
        raise TypeError(f"extending {n} bits to {bits}: {a!r}")
    if bits == n:
        return a
    if a.op == "const":
        return const(signed(value_of(a), n), bits)
    return _term("sign_extend", (a,), bits, bits - n)


# ---- arrays


def const_array(value: Term, index_bits: int) -> Term:
    """The array that holds ``value`` everywhere."""
    return _term("const-array", (value,), (index_bits, width(value)))


def select(array: Term, index: Term) -> Term:
    """The value at an index."""
    sort = array.sort
    if not isinstance(sort, tuple) or sort[0] != width(index):
        raise TypeError(f"index of {width(index)} bits into a term of sort {sort}")
    while array.op == "store":
        same = Eq(array.args[1], index)
        if same is TRUE:
            return array.args[2]
        if same is not FALSE:
            break
        array = array.args[0]
    if array.op == "const-array":
        return array.args[0]
    return _term("select", (array, index), sort[1])


def element(array: Term, index: Term) -> Term:
    """``select`` with stores and choices below it resolved: the value as choices between values, without the array.

    A bank that is spelt out element by element is decided much faster so.
    """
    if array.op == "ite":
        return If(array.args[0], element(array.args[1], index), element(array.args[2], index))
    if array.op == "store":
        return If(Eq(array.args[1], index), array.args[2], element(array.args[0], index))
    return select(array, index)


def store(array: Term, index: Term, value: Term) -> Term:
    """The array with one value replaced."""
    if array.sort != (width(index), width(value)):
        raise TypeError(f"storing {width(value)} bits at {width(index)}-bit index of an array of sort {array.sort}")
    return _term("store", (array, index, value), array.sort)
