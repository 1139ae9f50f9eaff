"""Which bits a value can set, can clear, and keeps of what it was made from: masks, without running the code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formal.kernel.clang import (
    Cursor,
    Kind,
    binary_operator,
    bits,
    children,
    constant,
    is_signed,
    preorder,
    unary_operator,
)
from formal.kernel.effects.types import ALL

_LEAVES = frozenset((Kind.INTEGER_LITERAL, Kind.CHARACTER_LITERAL, Kind.CXX_UNARY_EXPR))
_TRANSPARENT = frozenset((Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR))
_DEPTH = 12  # of variables made from variables


def number(cursor: Cursor) -> int | None:
    """The value of an expression if it is constant, as 64 bits."""
    for part in preorder(cursor):
        kind = part.kind
        if kind in (Kind.CALL_EXPR, Kind.StmtExpr):
            return None
        if kind == Kind.DECL_REF_EXPR and part.referenced is not None:
            if part.referenced.kind in (Kind.VAR_DECL, Kind.PARM_DECL):
                return None
    value = constant(cursor)
    return None if value is None else value & ALL


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
