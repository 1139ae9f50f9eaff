"""Which bits a value can set, can clear, and keeps of what it was made from: masks, without running the code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

from formal.kernel.effects.types import ALL
from formal.kernel.effects.unit import Unit
from formal.kernel.parse.clang import (
    Cursor,
    Kind,
    binary_operator,
    bits,
    callee,
    children,
    constant,
    initialiser,
    is_signed,
    preorder,
    unary_operator,
)

_ASSIGNS = frozenset(kind.value for kind in (
    Kind.VAR_DECL, Kind.BINARY_OPERATOR, Kind.UNARY_OPERATOR, Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.ASM_STMT,
))  # fmt: skip
_KEPT = _ASSIGNS | {kind.value for kind in (
    Kind.CALL_EXPR, Kind.RETURN_STMT, Kind.DECL_REF_EXPR, Kind.CSTYLE_CAST_EXPR,
)}  # fmt: skip
_SUSPICIOUS = frozenset(kind.value for kind in (
    Kind.DECL_REF_EXPR, Kind.CALL_EXPR, Kind.StmtExpr, Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.ASM_STMT,
))  # fmt: skip
_TRANSPARENT = frozenset((Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR))
_DEPTH = 12  # of variables made from variables


def number(cursor: Cursor) -> int | None:
    """The value of an expression if it is constant, as 64 bits."""
    value = constant(cursor)
    if value is None:
        return None
    for part in preorder(cursor):
        if part._kind_id in _SUSPICIOUS:
            kind = part.kind
            if kind == Kind.DECL_REF_EXPR:
                if part.referenced is not None and part.referenced.kind in (Kind.VAR_DECL, Kind.PARM_DECL):
                    return None
            elif kind != Kind.CALL_EXPR or not part.spelling.startswith("__builtin_"):
                return None
    return value & ALL


class Assignments:
    """What each local variable of a function is ever made from."""

    def __init__(self, unit: Unit, definition: Cursor) -> None:
        self._unit, self._definition = unit, definition
        self._assigned: dict[int, list[Cursor] | None] | None = None

    def of(self, c: Cursor) -> Sequence[Cursor] | None:
        """All values that a local variable is ever given; None if they cannot be told."""
        declared = c.referenced
        assigned = self._collected()
        if declared is None or declared.kind != Kind.VAR_DECL or not self._unit.is_local(declared):
            return None
        return assigned.get(declared.hash)

    def given(self, declared: Cursor) -> Sequence[Cursor] | None:
        """The values that a variable or a parameter is given in the function; None if they cannot be told."""
        return self._collected().get(declared.hash, ())

    def changes(self, declared: Cursor) -> bool:
        """Whether a parameter is given another value anywhere in the function."""
        return declared.hash in self._collected()

    def telling(self, kinds: Collection[int]) -> list[Cursor]:
        """The cursors of some kinds in the function, parents before what is below them."""
        return [c for c in self._whole if c._kind_id in kinds]

    @cached_property
    def _whole(self) -> list[Cursor]:
        return [c for c in preorder(self._definition) if c._kind_id in _KEPT]

    def _collected(self) -> dict[int, list[Cursor] | None]:
        if self._assigned is None:
            self._assigned = {}
            for c in self._whole:
                if c._kind_id in _ASSIGNS:
                    self._collect(c, self._assigned)
        return self._assigned

    def _collect(self, c: Cursor, assigned: dict[int, list[Cursor] | None]) -> None:
        kind = c.kind
        if kind == Kind.VAR_DECL:
            value = initialiser(c)
            known = assigned.setdefault(c.hash, [])
            if value is not None and known is not None:
                known.append(value)
            return
        plain = kind == Kind.BINARY_OPERATOR
        if plain and binary_operator(c) != "=":
            return
        if kind == Kind.UNARY_OPERATOR and unary_operator(c) not in ("&", "p++", "p--", "++", "--"):
            return
        parts = children(c)
        for part in parts if kind == Kind.ASM_STMT else parts[:1]:
            while part.kind in (Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR) and children(part):
                part = children(part)[0]
            if part.kind != Kind.DECL_REF_EXPR or part.referenced is None:
                continue
            known = assigned.setdefault(part.referenced.hash, [])
            if plain and known is not None:
                known.append(parts[1])
            elif not plain:
                assigned[part.referenced.hash] = None


class Bits:
    """Bits of values in one function; ``assigned`` gives what a local variable is ever made from, None if unknown."""

    def __init__(self, assigned: Callable[[Cursor], Sequence[Cursor] | None]) -> None:
        self._assigned = assigned

    def changed(self, operator: str, value: Cursor, same: Callable[[Cursor], bool]) -> int:
        """The bits that ``x operator value`` may change; ``same`` tells whether an expression reads x."""
        if operator in ("|=", "^="):
            return self.ones(value)
        if operator == "&=":
            return self.zeros(value)
        if operator == "=":
            return ALL & ~self.kept(value, same)
        return ALL

    def ones(self, cursor: Cursor, depth: int = 0) -> int:
        """The bits that may be one."""
        return self._may(cursor, True, depth)

    def zeros(self, cursor: Cursor, depth: int = 0) -> int:
        """The bits that may be zero."""
        return self._may(cursor, False, depth)

    def _may(self, c: Cursor, one: bool, depth: int) -> int:
        kind = c.kind
        value = number(c)
        if value is not None:
            return value if one else ALL & ~value
        if kind in _TRANSPARENT:
            inner = [x for x in children(c) if x.kind != Kind.TYPE_REF]
            if len(inner) == 1:
                found, width = self._may(inner[0], one, depth), _mask(inner[0])
                if not one:
                    return found | (ALL & ~width)
                negative = is_signed(inner[0].type) and found > width >> 1
                return (found | (ALL & ~width) if negative else found) & _mask(c)
        if kind == Kind.BINARY_OPERATOR:
            operator, (left, right) = binary_operator(c), children(c)[:2]
            if operator in ("&", "|"):
                a, b = self._may(left, one, depth), self._may(right, one, depth)
                return a & b if (operator == "&") == one else a | b
            if operator == "^" and one:
                return self.ones(left, depth) | self.ones(right, depth)
            if operator in ("<<", ">>") and one and (by := number(right)) is not None and by < 64:
                bits_of = self.ones(left, depth)
                if operator == ">>" and is_signed(left.type):
                    return _mask(c)
                return bits_of << by & ALL if operator == "<<" else bits_of >> by
        elif kind == Kind.UNARY_OPERATOR and unary_operator(c) == "~":
            return self._may(children(c)[0], not one, depth)
        elif kind == Kind.CONDITIONAL_OPERATOR:
            _, left, right = children(c)
            return self._may(left, one, depth) | self._may(right, one, depth)
        elif kind == Kind.DECL_REF_EXPR and depth < _DEPTH:
            made = self._assigned(c)
            if made is not None:
                found = 0
                for part in made:
                    found |= self._may(part, one, depth + 1)
                return found
        return _mask(c) if one else ALL

    def kept(self, c: Cursor, same: Callable[[Cursor], bool]) -> int:
        """The bits of an expression that are those of x, for certain."""
        if same(c):
            return _mask(c)
        kind = c.kind
        if kind in _TRANSPARENT:
            inner = [x for x in children(c) if x.kind != Kind.TYPE_REF]
            return self.kept(inner[0], same) & _mask(c) if len(inner) == 1 else 0
        if kind == Kind.BINARY_OPERATOR and (operator := binary_operator(c)) in ("&", "|", "^"):
            left, right = children(c)[:2]
            for a, b in ((left, right), (right, left)):
                if from_x := self.kept(a, same):
                    return from_x & ALL & ~(self.zeros(b) if operator == "&" else self.ones(b))
        return 0


def _mask(c: Cursor) -> int:
    width = bits(c.type)
    return (1 << width) - 1 if 0 < width < 64 else ALL


class Ranges:
    """The least and the greatest value that an expression can have, where its type or what it is made of says so."""

    def __init__(self, assigned: Callable[[Cursor], Sequence[Cursor] | None], ones: Callable[[Cursor], int]) -> None:
        self._assigned, self._ones = assigned, ones

    def of(self, c: Cursor, depth: int = 0) -> tuple[int, int]:
        """Both bounds, as C has them for the type of the expression."""
        low, high = _bounds(c)
        found = self._of(c, depth) if depth < _DEPTH else None
        return found if found is not None and low <= found[0] <= found[1] <= high else (low, high)

    def _of(self, c: Cursor, depth: int) -> tuple[int, int] | None:
        value = number(c)
        if value is not None:
            value = value - (1 << 64) if is_signed(c.type) and value >> 63 else value
            return value, value
        kind = c.kind
        if kind in _TRANSPARENT:
            inner = [x for x in children(c) if x.kind != Kind.TYPE_REF]
            return self.of(inner[0], depth) if len(inner) == 1 and bits(inner[0].type) <= 64 else None
        if kind == Kind.CONDITIONAL_OPERATOR:
            return _hull([self.of(part, depth + 1) for part in children(c)[1:]])
        if kind == Kind.BINARY_OPERATOR:
            operator, (left, right) = binary_operator(c), children(c)[:2]
            if operator in ("+", "-"):
                (a, b), (x, y) = self.of(left, depth + 1), self.of(right, depth + 1)
                return (a + x, b + y) if operator == "+" else (a - y, b - x)
            if operator in ("&", "|", "<<", ">>", "%") and (most := self._ones(c)) >> 63 == 0:
                return 0, (1 << most.bit_length()) - 1 if operator != "&" else most
        if kind == Kind.DECL_REF_EXPR and (made := self._assigned(c)):
            return _hull([self.of(part, depth + 1) for part in made])
        if kind == Kind.CALL_EXPR and (called := callee(c)) is not None:
            definition = called.get_definition()
            if definition is not None:
                values = [children(r)[0] for r in preorder(definition) if r.kind == Kind.RETURN_STMT and children(r)]
                inner_of = Ranges(lambda _: None, Bits(lambda _: None).ones)
                arguments = [self.of(a, depth + 1) for a in c.get_arguments()]
                given = dict(zip((p.hash for p in definition.get_arguments()), arguments, strict=False))
                return _hull([_Given(inner_of, given).of(v, depth + 1) for v in values]) if values else None
        return None


class _Given(Ranges):
    """The same inside a function that is called, whose parameters have values."""

    def __init__(self, outer: Ranges, given: dict[int, tuple[int, int]]) -> None:
        super().__init__(outer._assigned, outer._ones)
        self._known = given

    def _of(self, c: Cursor, depth: int) -> tuple[int, int] | None:
        if c.kind == Kind.DECL_REF_EXPR and c.referenced is not None and c.referenced.hash in self._known:
            return self._known[c.referenced.hash]
        return super()._of(c, depth)


def _hull(found: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(low for low, _ in found), max(high for _, high in found)


def _bounds(c: Cursor) -> tuple[int, int]:
    width = bits(c.type)
    if not 0 < width <= 64:
        return -(1 << 64), 1 << 64
    return (-(1 << width - 1), (1 << width - 1) - 1) if is_signed(c.type) else (0, (1 << width) - 1)
