"""What C expressions evaluate to here: terms for integers, guarded sets of addresses for pointers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.parse.clang import Type, bits, is_bool, is_signed
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, If, Ne, Not, Or, Term, width

Place = Literal["pointee", "percpu", "global", "hardware", "local", "text", "wild"]


@dataclass(frozen=True)
class Object:
    """Something with an address: what a parameter points to, a variable, a hardware register."""

    name: str
    place: Place
    type: Type = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object) and (self.name, self.place) == (other.name, other.place)

    def __hash__(self) -> int:
        return hash((self.name, self.place))


class Address(NamedTuple):
    """A byte in an object."""

    object: Object
    offset: int


@dataclass(frozen=True)
class Pointer:
    """The addresses that a pointer may have, each under a guard; the guards exclude each other. ``None`` is NULL."""

    choices: tuple[tuple[Term, Address | None], ...]


@dataclass(frozen=True)
class Unknown:
    """A variable that stands for what a place of the source gives, which is not understood."""

    name: str  # starts with UNKNOWN
    file: str
    line: int
    text: str  # what the source says there, on one line
    reason: str

    @property
    def where(self) -> str:
        """The place, as messages show it."""
        return f"{self.file}:{self.line}: {self.text} ({self.reason})"


UNKNOWN = "?"


def is_unknown(name: str) -> bool:
    """Whether a variable stands for something that is not understood."""
    return name.startswith(UNKNOWN)


Value = Term | Pointer
NULL = Pointer(((TRUE, None),))


def pointer_to(target: Object, offset: int = 0) -> Pointer:
    """The address of an object."""
    return Pointer(((TRUE, Address(target, offset)),))


def moved(pointer: Pointer, offset: int) -> Pointer:
    """A pointer so many bytes further; NULL stays NULL, as in ``offsetof`` arithmetic on no object."""
    return Pointer(tuple((g, a and Address(a.object, a.offset + offset)) for g, a in pointer.choices))


def guarded(choices: Iterable[tuple[Term, Address | None]]) -> Pointer:
    """A pointer of these choices: impossible ones dropped, equal ones joined."""
    joined: dict[Address | None, Term] = {}
    for guard, address in choices:
        if guard is not FALSE:
            joined[address] = Or(joined[address], guard) if address in joined else guard
    return Pointer(tuple((guard, address) for address, guard in joined.items()))


def choose(condition: Term, a: Value, b: Value) -> Value:
    """``a`` where the condition holds, else ``b``.

    Raises:
        NotUnderstoodError: if one is a pointer and the other a number.
    """
    if a is b or condition is TRUE:
        return a
    if condition is FALSE:
        return b
    if isinstance(a, Pointer) and isinstance(b, Pointer):
        if a == b:
            return a
        first = [(And(condition, g), x) for g, x in a.choices]
        return guarded(first + [(And(Not(condition), g), x) for g, x in b.choices])
    if isinstance(a, Pointer) or isinstance(b, Pointer):
        raise NotUnderstoodError(KVM, 0, "a pointer and a number in one place")
    return If(condition, a, b)


class IntType(NamedTuple):
    """A C integer type: its width, and whether it is signed."""

    bits: int
    signed: bool

    @classmethod
    def of(cls, kind: Type) -> IntType:
        return cls(bits(kind), is_signed(kind) and not is_bool(kind))

    def promoted(self) -> IntType:
        """The type after C's integer promotions (C11 6.3.1.1)."""
        return IntType(32, True) if self.bits < 32 else self

    def common(self, other: IntType) -> IntType:
        """The type of C's usual arithmetic conversions (C11 6.3.1.8)."""
        a, b = self.promoted(), other.promoted()
        if a.bits != b.bits:
            return a if a.bits > b.bits else b
        return IntType(a.bits, a.signed and b.signed)


def _constant_leaves(term: Term, depth: int = 6) -> bool:
    if term.op == "ite" and depth:
        return _constant_leaves(term.args[1], depth - 1) and _constant_leaves(term.args[2], depth - 1)
    return term.op == "const"


def resized(term: Term, source: IntType, size: int) -> Term:
    """An integer in another width, as C converts it."""
    if size <= width(term):
        return t.extract(term, size - 1, 0)
    if term.op == "ite" and _constant_leaves(term):
        return If(term.args[0], resized(term.args[1], source, size), resized(term.args[2], source, size))
    return t.sign_extend(term, size) if source.signed else t.zero_extend(term, size)


def with_constant(make: Callable[[Term, Term], Term], a: Term, b: Term) -> Term:
    """An operation with a constant on a choice between constants, done on each: what no choice gives is then seen."""
    if b.op == "const" and a.op == "ite" and _constant_leaves(a):
        return If(a.args[0], with_constant(make, a.args[1], b), with_constant(make, a.args[2], b))
    return make(a, b)


def truth(value: Value) -> Term:
    """Whether a value is not zero."""
    if isinstance(value, Pointer):
        return Or(*(guard for guard, address in value.choices if address is not None))
    if value.op == "ite" and _constant_leaves(value):
        return If(value.args[0], truth(value.args[1]), truth(value.args[2]))
    while value.op == "concat" and value.args[0].op == "const" and t.value_of(value.args[0]) == 0:
        value = value.args[1]
    return Ne(value, t.const(0, width(value)))


def from_truth(condition: Term, size: int) -> Term:
    """1 or 0."""
    return If(condition, t.const(1, size), t.const(0, size))


def same_address(a: Pointer, b: Pointer) -> tuple[Term, Term]:
    """Whether two pointers are equal, and when that is not known (an address somewhere unknown takes part)."""
    equal: list[Term] = []
    unknown: list[Term] = []
    for g, x in a.choices:
        for h, y in b.choices:
            wild = [p for p in (x, y) if p is not None and p.object.place == "wild"]
            if len(wild) == 2:
                unknown.append(And(g, h))
            elif x == y and not wild:
                equal.append(And(g, h))
    return Or(*equal), Or(*unknown)
