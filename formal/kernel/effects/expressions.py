"""Expressions of a function: what an lvalue denotes, and which pointers a value may be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from formal.kernel.effects.places import array, overlapping
from formal.kernel.effects.types import ALL, Address, Element, Index, Node, Source
from formal.kernel.effects.unit import Unit
from formal.kernel.effects.values import Assignments, Bits, Ranges, number
from formal.kernel.parse.clang import (
    Cursor,
    Kind,
    TypeKind,
    binary_operator,
    bits,
    callee,
    children,
    is_pointer,
    is_record,
    preorder,
    unary_operator,
)

TRANSPARENT = frozenset((Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR))
_CALLS, _FEW = 3, 8  # of functions that return constants, inside one another; of constants
LOCAL = frozenset((Kind.VAR_DECL, Kind.PARM_DECL))
_SAME_AT_EL2 = "__kern_hyp_va"  # an address of the host's, at EL2: of the same object (formal/scope/assumptions.py)


class Place(NamedTuple):
    """What an lvalue denotes: bits of a record, or of what a pointer points to."""

    record: str  # whose ranges apply; empty if it has none
    offset: int  # in bits, from the record, or from where the pointer points
    size: int
    through: tuple[Source, ...] = ()
    own: bool = False  # a variable of the function itself
    element: Element | None = None

    @property
    def span(self) -> int:
        """How many bits it may be any part of, from its offset."""
        return self.size if self.element is None else self.element.stride * self.element.length

    def inside(self, offset: int, size: int) -> Place:
        """A part of it; with a size of 0, any part."""
        return self._replace(offset=self.offset + offset, size=size)


class Expressions:
    """Those of one function."""

    def __init__(self, unit: Unit, definition: Cursor, key: str) -> None:
        self._unit, self._definition, self._key = unit, definition, key
        self._parameters = {parameter.hash: i for i, parameter in enumerate(definition.get_arguments())}
        self._assignments = Assignments(unit, definition)
        self._bits = Bits(self._assignments.of)
        self._ranges = Ranges(self._assignments.of, self._bits.ones)

    # ---- lvalues

    def _place(self, c: Cursor) -> Place | None:
        kind = c.kind
        if kind in TRANSPARENT:
            inner = children(c)
            return self._place(inner[-1]) if inner else None
        if kind == Kind.MEMBER_REF_EXPR:
            return self._member(c)
        if kind == Kind.ARRAY_SUBSCRIPT_EXPR:
            return self._element(c)
        if kind == Kind.UNARY_OPERATOR and unary_operator(c) == "*":
            return self._pointee(children(c)[0])
        if kind == Kind.DECL_REF_EXPR and c.referenced is not None:
            declared = c.referenced
            if declared.kind in LOCAL and self._unit.is_local(declared):
                return Place("", 0, bits(c.type), own=True)
            name = self._unit.record(c.type) or f"var {declared.spelling}"
            return Place(name, 0, bits(c.type)) if name in self._unit.ranges else None
        if kind == Kind.StmtExpr or kind == Kind.CONDITIONAL_OPERATOR:
            return None
        if kind == Kind.COMPOUND_LITERAL_EXPR:
            return Place("", 0, bits(c.type), own=True)
        return None

    def _member(self, c: Cursor) -> Place | None:
        inner = children(c)
        declared = c.referenced
        if not inner or declared is None:
            return None
        offset, size = self._unit.field(declared)
        base = inner[0]
        if not is_pointer(base.type) or array(base.type):
            outer = self._place(base)
            return None if outer is None else outer.inside(offset, size)
        outer = self._pointee(base)
        return None if outer is None else outer.inside(offset, size)

    def _pointee(self, pointer: Cursor) -> Place | None:
        """What a pointer expression points to."""
        direct = self._direct(pointer)
        if direct is not None:
            return direct
        kind = pointer.type.get_canonical()
        to = kind.get_pointee() if kind.kind == TypeKind.POINTER else kind.element_type if array(kind) else None
        if to is None:
            return None
        size = max(bits(to), 0)
        name = self._unit.record(to)
        if name:
            return Place(name, 0, size)
        sources = self._values(pointer)
        return Place("", 0, size, sources) if sources else None

    def _direct(self, pointer: Cursor) -> Place | None:
        """The lvalue itself, where a pointer is ``&lvalue`` or the name of an array."""
        while pointer.kind in TRANSPARENT and children(pointer):
            inner = children(pointer)[-1]
            if array(inner.type) and inner.kind in (
                Kind.MEMBER_REF_EXPR,
                Kind.DECL_REF_EXPR,
                Kind.ARRAY_SUBSCRIPT_EXPR,
            ):
                return self._place(inner)
            pointer = inner
        if pointer.kind == Kind.UNARY_OPERATOR and unary_operator(pointer) == "&":
            return self._place(children(pointer)[0])
        return None

    def _element(self, c: Cursor) -> Place | None:
        base, c_index = children(c)[:2]
        size = max(bits(c.type), 0)
        at = number(c_index)
        direct = self._direct(base)
        if direct is not None:
            if at is None:
                index = self._index(c_index)
                if (
                    index is not None
                    and index.parameter >= 0
                    and size
                    and direct.size >= size
                    and direct.record
                    and direct.element is None
                ):
                    element = Element(Index(index.parameter, 0), size, direct.size // size, self._key)
                    start = direct.offset + index.plus * size
                    return direct._replace(size=size, offset=start, element=element)
                if size and direct.size >= size and direct.element is None and not direct.own:
                    low, high = self._ranges.of(c_index)
                    low, high = max(low, 0), min(high, direct.size // size - 1)
                    if low <= high:
                        return direct.inside(low * size, (high - low + 1) * size)
                return direct._replace(size=max(direct.size, size))
            return direct.inside(at * size, size)
        place = self._pointee(base)
        if place is None or at == 0:
            return place
        if place.record:
            return place  # another object of the same type
        if at is not None:
            return place.inside(at * size, size)
        return place._replace(through=tuple(blurred(s) for s in place.through))

    def _index(self, c: Cursor, depth: int = 0) -> Index | None:
        """A number that is constant, or comes from a parameter or a member of what it points to."""
        value = number(c)
        if value is not None:
            return Index(-1, value if value < 1 << 63 else value - (1 << 64))
        while c.kind in TRANSPARENT and children(c):
            c = children(c)[-1]
        if c.kind == Kind.MEMBER_REF_EXPR and children(c):
            c = children(c)[0]
            while c.kind in TRANSPARENT and children(c):
                c = children(c)[-1]
            position = self._parameters.get(c.referenced.hash) if c.kind == Kind.DECL_REF_EXPR else None
            return None if position is None else Index(position, 0)
        if c.kind == Kind.DECL_REF_EXPR and c.referenced is not None:
            position = self._parameters.get(c.referenced.hash)
            if position is not None:
                return Index(position, 0) if not self._assignments.changes(c.referenced) else None
            made = self._assignments.of(c) if depth < 4 else None
            return self._index(made[0], depth + 1) if made is not None and len(made) == 1 else None
        if c.kind == Kind.BINARY_OPERATOR and (operator := binary_operator(c)) in ("+", "-"):
            left, right = children(c)[:2]
            inner, plus = self._index(left, depth), number(right)
            if inner is not None and plus is not None:
                return Index(inner.parameter, inner.plus + (plus if operator == "+" else -plus))
        return None

    # ---- values

    def _values(self, c: Cursor) -> tuple[Source, ...]:
        found: dict[Source, None] = {}
        self._gather(c, found)
        return tuple(found)

    def _gather(self, c: Cursor, found: dict[Source, None]) -> None:
        kind = c.kind
        if kind in TRANSPARENT:
            parts = children(c)
            if not parts:
                return
            inner = parts[-1]
            if array(inner.type) and not array(c.type):
                self._address(self._place(inner), found)
                if inner.kind == Kind.MEMBER_REF_EXPR or inner.kind == Kind.DECL_REF_EXPR:
                    return
            else:
                name = self._unit.pointee_record(inner.type)
                if name and name != self._unit.pointee_record(c.type) and self._direct(inner) is None:
                    found[Address(name, 0, bits(inner.type.get_canonical().get_pointee()))] = None
            self._gather(inner, found)
        elif kind == Kind.UNARY_OPERATOR:
            operator, inner = unary_operator(c), children(c)[0]
            if operator == "&":
                self._address(self._place(inner), found, is_record(inner.type))
            elif operator == "*" and inner.kind in TRANSPARENT and self._unit.holds_pointer(c.type):
                place = self._direct(inner)
                if place is None:
                    return
            elif operator in ("p++", "p--", "++", "--"):
                self._blurred(inner, found)
        elif kind == Kind.DECL_REF_EXPR:
            node = self._variable(c.referenced) if c.referenced is not None and c.referenced.kind in LOCAL else None
            if node is not None:
                found[node] = None
        elif kind == Kind.MEMBER_REF_EXPR:
            held = c.referenced is not None and self._unit.holds_pointer(c.type)
            if held and (node := self._unit.field_node(c.referenced)):
                found[node] = None
        elif kind == Kind.CALL_EXPR:
            callee, pointer = self._callee(c)
            if c.spelling == _SAME_AT_EL2 and not pointer:
                self._gather(next(iter(c.get_arguments())), found)
            elif callee and self._unit.holds_pointer(c.type):
                given = self._given(c, pointer)
                caller = self._key if any(i is not None and i.parameter >= 0 for i in given) else ""
                found[Node("c" if pointer else "r", callee, caller, False, given)] = None
        elif kind == Kind.BINARY_OPERATOR:
            operator, parts = binary_operator(c), children(c)
            if operator in (",", "="):
                self._gather(parts[1], found)
            elif operator in ("+", "-", "|", "&", "^"):
                for part in parts:
                    if number(part) != 0:
                        self._blurred(part, found)
        elif kind == Kind.CONDITIONAL_OPERATOR:
            for part in children(c)[1:]:
                self._gather(part, found)
        elif kind == Kind.StmtExpr:
            last = children(children(c)[0])[-1:] if children(c) else []
            for part in last:
                self._gather(part, found)
        elif kind == Kind.ARRAY_SUBSCRIPT_EXPR and self._unit.holds_pointer(c.type):
            self._gather(children(c)[0], found)
        elif kind == Kind.GENERIC_SELECTION_EXPR:
            for part in children(c)[1:]:
                self._gather(part, found)

    def _blurred(self, c: Cursor, found: dict[Source, None]) -> None:
        inner: dict[Source, None] = {}
        self._gather(c, inner)
        found.update(dict.fromkeys(map(blurred, inner)))

    def _address(self, place: Place | None, found: dict[Source, None], whole: bool = False) -> None:
        if place is None or place.own:
            return
        if place.record:
            size = place.size
            if any(overlapping(self._unit.ranges[place.record], place.offset, max(place.span, 1), ALL)):
                found[Address(place.record, place.offset, size, False, place.element, whole)] = None
        else:
            moved = place.offset != 0
            found.update(dict.fromkeys(blurred(s) if moved else s for s in place.through))

    def _variable(self, declared: Cursor) -> Node | None:
        position = self._parameters.get(declared.hash)
        if position is not None:
            return Node("p", self._key, str(position))
        if self._unit.is_local(declared):
            return Node("v", self._key, f"{declared.spelling}:{declared.location.offset}")
        return Node("g", "", declared.spelling)

    def _callee(self, c: Cursor) -> tuple[str, bool]:
        """The key of the function that is called, or the type of a pointer."""
        declared = callee(c)
        if declared is not None and declared.kind == Kind.FUNCTION_DECL:
            return self._unit.key_of(declared), False
        parts = children(c)
        if not parts:
            return "", False
        kind = parts[0].type.get_canonical()
        if kind.kind == TypeKind.POINTER:
            kind = kind.get_pointee().get_canonical()
        return str(kind.spelling), True

    def _given(self, c: Cursor, pointer: bool) -> tuple[Index | None, ...]:
        """The arguments of a call that are constants, or parameters of this function."""
        if pointer:
            return ()
        found = tuple(self._index(a) if not is_record(a.type) else None for a in c.get_arguments())
        return found if any(found) else ()

    def _every_given(self, c: Cursor, pointer: bool) -> Iterator[tuple[Index | None, ...]]:
        """The same for each of the constants that an argument may be, if it is one of a few."""
        given = self._given(c, pointer)
        known = () if pointer else tuple(c.get_arguments())
        plain = given or (None,) * len(known)
        each = [
            _choices(a) if index is None and not is_record(a.type) and not is_pointer(a.type) else None
            for a, index in zip(known, plain, strict=False)
        ]
        if not any(each):
            yield given
            return
        several = [[Index(-1, n) for n in numbers] if numbers else [i] for numbers, i in zip(each, plain, strict=False)]
        yield from product(*several)


def _choices(c: Cursor, depth: int = 0) -> list[int] | None:
    """The constants that an expression may be: by ``?:``, or by what a function returns; None if it may be others."""
    value = number(c)
    if value is not None:
        return [value] if value < 1 << 63 else None
    if c.kind in TRANSPARENT and children(c):
        inner, width = _choices(children(c)[-1], depth), bits(c.type)
        return None if inner is None or any(n >> width for n in inner) else inner
    if c.kind == Kind.CONDITIONAL_OPERATOR:
        parts = children(c)[1:]
    elif c.kind == Kind.CALL_EXPR and (called := callee(c)) is not None and depth < _CALLS:
        definition = called.get_definition()
        returns = [r for r in preorder(definition) if r.kind == Kind.RETURN_STMT] if definition is not None else []
        parts = [part for r in returns for part in children(r)]
    else:
        return None
    found = [_choices(part, depth + 1) for part in parts]
    numbers = sorted({n for some in found for n in some or ()})
    return numbers if found and None not in found and len(numbers) <= _FEW else None


def blurred(source: Source) -> Source:
    """A pointer that may have been moved inside its record."""
    return source._replace(blurred=True)
