"""What one function does: its writes, its stores through pointers, its calls, and where pointers go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from formal.kernel.clang import (
    Cursor,
    Kind,
    Type,
    TypeKind,
    binary_operator,
    bits,
    children,
    initialiser,
    is_pointer,
    is_record,
    unary_operator,
)
from formal.kernel.effects import assembly
from formal.kernel.effects.asmtext import Statement, statements
from formal.kernel.effects.places import array, overlapping, record_of
from formal.kernel.effects.types import ALL, Address, Call, Element, Facts, Index, Node, Source, Store, Write
from formal.kernel.effects.unit import Unit
from formal.kernel.effects.values import Bits, number

_TRANSPARENT = frozenset((Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR))
_NOT_EVALUATED = frozenset((Kind.TYPE_REF, Kind.CXX_UNARY_EXPR))
_LOCAL = frozenset((Kind.VAR_DECL, Kind.PARM_DECL))


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
        return self.size if self.element is None else self.element.stride * self.element.count

    def inside(self, offset: int, size: int) -> Place:
        """A part of it; with a size of 0, any part."""
        return self._replace(offset=self.offset + offset, size=size)


class Body:
    """Reads one function definition."""

    def __init__(self, unit: Unit, definition: Cursor, facts: Facts, key: str) -> None:
        self._unit, self._definition, self._facts, self._key = unit, definition, facts, key
        self._parameters: dict[int, int] = {}
        self._assigned: dict[int, list[Cursor] | None] | None = None
        self._asm: list[Statement] | None = None
        self._bits = Bits(self._made_from)

    def read(self) -> None:
        """Fills in the facts."""
        for i, parameter in enumerate(self._definition.get_arguments()):
            self._parameters[parameter.hash] = i
        for child in children(self._definition):
            if child.kind == Kind.COMPOUND_STMT:
                self._visit(child)

    def table(self, declared: Cursor) -> None:
        """The functions that the initialiser of a variable names, and the enumerators beside each."""
        value = initialiser(declared)
        if value is not None:
            self._visit(value)
            self._entry(value)

    def _entry(self, c: Cursor) -> tuple[list[str], list[int]]:
        """Functions and enumerators in an initialiser; those of one record belong together."""
        functions: list[str] = []
        numbers: list[int] = []
        if c.kind == Kind.DECL_REF_EXPR and c.referenced is not None:
            if c.referenced.kind == Kind.FUNCTION_DECL:
                return [self._unit.key_of(c.referenced)], []
            if c.referenced.kind == Kind.ENUM_CONSTANT_DECL:
                return [], [c.referenced.enum_value]
        for part in children(c):
            inner = self._entry(part)
            functions += inner[0]
            numbers += inner[1]
        if c.kind == Kind.INIT_LIST_EXPR and is_record(c.type):
            self._facts.entries += [(function, tuple(numbers)) for function in functions]
            return [], []
        return functions, numbers

    # ---- statements and expressions

    def _visit(self, c: Cursor) -> None:
        kind = c.kind
        if kind == Kind.BINARY_OPERATOR:
            if binary_operator(c) == "=":
                left, right = children(c)[:2]
                self._store(left, "=", right)
                self._assign(left, right)
        elif kind == Kind.COMPOUND_ASSIGNMENT_OPERATOR:
            left, right = children(c)[:2]
            self._store(left, binary_operator(c), right)
        elif kind == Kind.UNARY_OPERATOR:
            if unary_operator(c) in ("p++", "p--", "++", "--"):
                self._store(children(c)[0], "+=", None)
        elif kind == Kind.VAR_DECL:
            value = initialiser(c)
            if value is not None:
                self._visit(value)
                self._flow(self._variable(c), value, c.type)
            return
        elif kind == Kind.CALL_EXPR:
            self._call(c)
            return
        elif kind == Kind.ASM_STMT:
            self._assembly(c)
        elif kind == Kind.RETURN_STMT:
            for value in children(c):
                self._flow(Node("r", self._key, ""), value, value.type)
        elif kind == Kind.DECL_REF_EXPR:
            self._mention(c)
            return
        elif kind == Kind.CSTYLE_CAST_EXPR:
            self._cast(c)
        elif kind in _NOT_EVALUATED:
            return
        for child in children(c):
            self._visit(child)

    def _mention(self, c: Cursor) -> None:
        """A function whose address is taken; a hypercall, which is named by an enumerator."""
        to = c.referenced
        if to is None:
            return
        if to.kind == Kind.FUNCTION_DECL:
            self._facts.taken.append((self._unit.key_of(to), to.type.get_canonical().spelling))
        elif to.kind == Kind.ENUM_CONSTANT_DECL and to.spelling.startswith("__KVM_HOST_SMCCC_FUNC_"):
            self._facts.hypercalls.append(to.spelling.removeprefix("__KVM_HOST_SMCCC_FUNC_"))

    def _cast(self, c: Cursor) -> None:
        """A function whose address is taken as of another type."""
        inner = c
        while inner.kind in _TRANSPARENT and children(inner):
            inner = children(inner)[-1]
        to = inner.referenced if inner.kind == Kind.DECL_REF_EXPR else None
        if to is not None and to.kind == Kind.FUNCTION_DECL and is_pointer(c.type):
            as_type = c.type.get_canonical().get_pointee().spelling
            self._facts.taken.append((self._unit.key_of(to), str(as_type)))

    def _assign(self, left: Cursor, right: Cursor) -> None:
        target = left
        while target.kind in _TRANSPARENT:
            target = children(target)[-1]
        if target.kind == Kind.DECL_REF_EXPR and target.referenced is not None:
            self._flow(self._variable(target.referenced), right, left.type)
        elif target.kind == Kind.MEMBER_REF_EXPR and target.referenced is not None:
            self._flow(self._unit.field_node(target.referenced), right, left.type)

    def _flow(self, node: Node | None, value: Cursor, kind: Type) -> None:
        if node is not None and self._carries(kind):
            if sources := self._values(value):
                self._facts.flows.append((node, sources))

    def _carries(self, kind: Type) -> bool:
        """Whether a type can hold a pointer."""
        return is_pointer(kind) or (not is_record(kind) and bits(kind) == 64)

    # ---- stores

    def _store(self, left: Cursor, operator: str, value: Cursor | None) -> None:
        target = left
        while target.kind == Kind.PAREN_EXPR:
            target = children(target)[0]
        if target.kind == Kind.DECL_REF_EXPR and target.referenced is not None:
            if target.referenced.kind in _LOCAL and self._unit.is_local(target.referenced):
                return
        place = self._place(target)
        if place is None or place.own:
            return
        found: int | None = None
        if place.record:
            ranges = tuple(overlapping(self._unit.ranges[place.record], place.offset, place.span, ALL))
            if not ranges:
                return
        elif not place.through:
            return
        if value is not None:
            text = self._unit.text(target)
            found = self._bits.changed(operator, value, lambda c: self._reads(c, place, text))
        self._write(place, ALL if found is None else found, left.location.line, "store" if bits(left.type) <= 64 else "whole")

    def _reads(self, c: Cursor, place: Place, text: str) -> bool:
        if c.kind not in (Kind.MEMBER_REF_EXPR, Kind.UNARY_OPERATOR, Kind.ARRAY_SUBSCRIPT_EXPR):
            return False
        return bool(text) and self._unit.text(c) == text and self._place(c) == place

    def _write(self, place: Place, changed: int, line: int, how: str) -> None:
        if not changed or place.own:
            return
        file = self._facts.function.file
        if place.record:
            if any(overlapping(self._unit.ranges[place.record], place.offset, place.span, changed)):
                at = place.record, place.offset, place.size
                self._facts.writes.append(Write(line, *at, changed, how, file, place.element))
        elif place.through:
            self._facts.stores.append(Store(line, place.through, place.offset, place.size, changed, how, file))

    # ---- lvalues

    def _place(self, c: Cursor) -> Place | None:
        kind = c.kind
        if kind in _TRANSPARENT:
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
            if declared.kind in _LOCAL and self._unit.is_local(declared):
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
        while pointer.kind in _TRANSPARENT and children(pointer):
            inner = children(pointer)[-1]
            if array(inner.type) and inner.kind in (Kind.MEMBER_REF_EXPR, Kind.DECL_REF_EXPR, Kind.ARRAY_SUBSCRIPT_EXPR):
                return self._place(inner)
            pointer = inner
        if pointer.kind == Kind.UNARY_OPERATOR and unary_operator(pointer) == "&":
            return self._place(children(pointer)[0])
        return None

    def _element(self, c: Cursor) -> Place | None:
        base, index = children(c)[:2]
        size = max(bits(c.type), 0)
        at = number(index)
        direct = self._direct(base)
        if direct is not None:
            if at is None:
                index = self._index(index)
                if index is not None and size and direct.size >= size and direct.record and direct.element is None:
                    element = Element(Index(index.parameter, 0), size, direct.size // size, self._key)
                    start = direct.offset + index.plus * size
                    return direct._replace(size=size, offset=start, element=element)
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
        while c.kind in _TRANSPARENT and children(c):
            c = children(c)[-1]
        if c.kind == Kind.MEMBER_REF_EXPR and children(c):
            c = children(c)[0]
            while c.kind in _TRANSPARENT and children(c):
                c = children(c)[-1]
            position = self._parameters.get(c.referenced.hash) if c.kind == Kind.DECL_REF_EXPR else None
            return None if position is None else Index(position, 0)
        if c.kind == Kind.DECL_REF_EXPR and c.referenced is not None:
            position = self._parameters.get(c.referenced.hash)
            if position is not None:
                return Index(position, 0) if not self._changes(c) else None
            made = self._made_from(c) if depth < 4 else None
            return self._index(made[0], depth + 1) if made is not None and len(made) == 1 else None
        if c.kind == Kind.BINARY_OPERATOR and (operator := binary_operator(c)) in ("+", "-"):
            left, right = children(c)[:2]
            inner, plus = self._index(left, depth), number(right)
            if inner is not None and plus is not None:
                return Index(inner.parameter, inner.plus + (plus if operator == "+" else -plus))
        return None

    def _changes(self, c: Cursor) -> bool:
        """Whether a parameter is given another value anywhere in the function."""
        self._made_from(c)
        return self._assigned is not None and c.referenced.hash in self._assigned

    # ---- values

    def _values(self, c: Cursor) -> tuple[Source, ...]:
        found: dict[Source, None] = {}
        self._gather(c, found)
        return tuple(found)

    def _gather(self, c: Cursor, found: dict[Source, None]) -> None:
        kind = c.kind
        if kind in _TRANSPARENT:
            parts = children(c)
            if not parts:
                return
            inner = parts[-1]
            if array(inner.type) and not array(c.type):
                self._address(self._place(inner), found)
                if inner.kind == Kind.MEMBER_REF_EXPR or inner.kind == Kind.DECL_REF_EXPR:
                    return
            elif is_pointer(inner.type) and (name := self._unit.pointee_record(inner.type)):
                if name != self._unit.pointee_record(c.type):
                    direct = self._direct(inner)
                    if direct is None:
                        found[Address(name, 0, bits(inner.type.get_canonical().get_pointee()))] = None
            self._gather(inner, found)
        elif kind == Kind.UNARY_OPERATOR:
            operator, inner = unary_operator(c), children(c)[0]
            if operator == "&":
                self._address(self._place(inner), found)
            elif operator == "*" and inner.kind in _TRANSPARENT and self._unit.holds_pointer(c.type):
                place = self._direct(inner)
                if place is None:
                    return
            elif operator in ("p++", "p--", "++", "--"):
                self._blurred(inner, found)
        elif kind == Kind.DECL_REF_EXPR:
            if c.referenced is not None and c.referenced.kind in _LOCAL:
                if node := self._variable(c.referenced):
                    found[node] = None
        elif kind == Kind.MEMBER_REF_EXPR:
            if c.referenced is not None and self._unit.holds_pointer(c.type):
                if node := self._unit.field_node(c.referenced):
                    found[node] = None
        elif kind == Kind.CALL_EXPR:
            callee, pointer = self._callee(c)
            if callee and self._unit.holds_pointer(c.type):
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

    def _address(self, place: Place | None, found: dict[Source, None]) -> None:
        if place is None or place.own:
            return
        if place.record:
            size = place.size
            if any(overlapping(self._unit.ranges[place.record], place.offset, max(place.span, 1), ALL)):
                found[Address(place.record, place.offset, size, False, place.element)] = None
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

    def _made_from(self, c: Cursor) -> Sequence[Cursor] | None:
        """All values that a local variable is ever given; None if they cannot be told."""
        declared = c.referenced
        if self._assigned is None:
            self._assigned = {}
            self._collect(self._definition)
        if declared is None or declared.kind != Kind.VAR_DECL or not self._unit.is_local(declared):
            return None
        return self._assigned.get(declared.hash)

    def _collect(self, c: Cursor) -> None:
        assert self._assigned is not None
        kind = c.kind
        parts = children(c)
        if kind == Kind.VAR_DECL:
            value = initialiser(c)
            self._assigned.setdefault(c.hash, [])
            if value is not None and self._assigned[c.hash] is not None:
                self._assigned[c.hash].append(value)  # type: ignore[union-attr]
        elif kind == Kind.BINARY_OPERATOR and binary_operator(c) == "=" and parts[0].kind == Kind.DECL_REF_EXPR:
            known = self._assigned.setdefault(parts[0].referenced.hash, [])
            if known is not None:
                known.append(parts[1])
            parts = parts[1:]
        elif kind in (Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.UNARY_OPERATOR, Kind.ASM_STMT):
            if kind != Kind.UNARY_OPERATOR or unary_operator(c) in ("&", "p++", "p--", "++", "--"):
                for part in parts:
                    if part.kind == Kind.DECL_REF_EXPR and part.referenced is not None:
                        self._assigned[part.referenced.hash] = None
        for part in parts:
            self._collect(part)

    # ---- calls

    def _callee(self, c: Cursor) -> tuple[str, bool]:
        """The key of the function that is called, or the type of a pointer."""
        declared = c.referenced
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

    def _call(self, c: Cursor) -> None:
        parts = children(c)
        callee, pointer = self._callee(c)
        arguments = list(c.get_arguments())
        if pointer:
            for part in parts[: len(parts) - len(arguments)]:
                self._visit(part)
        sources = tuple(self._values(a) if self._carries(a.type) else () for a in arguments)
        kinds = self._unit.parameters(c, pointer)
        blobs = tuple(i for i, s in enumerate(sources) if s and self._unit.may_fill(kinds, i, arguments))
        self._facts.calls.append(Call(c.location.line, callee, pointer, sources, self._given(c, pointer), blobs, self._facts.function.file))
        for argument in arguments:
            self._visit(argument)

    # ---- assembly

    def _assembly(self, c: Cursor) -> None:
        if self._asm is None:
            self._asm = statements(self._definition)
        statement = self._asm.pop(0) if self._asm else Statement("", 0, True)
        line, file = c.location.line, self._facts.function.file
        for name in assembly.registers(statement.template):
            self._facts.writes.append(Write(line, f"hw.{name}", 0, 64, ALL, "assembly", file))
        operands = children(c)
        outputs, inputs = operands[: statement.outputs], operands[statement.outputs :]
        gathered: dict[Source, None] = {}
        for operand in inputs:
            if self._carries(operand.type):
                self._gather(operand, gathered)
        for operand in outputs:
            self._store(operand, "=", None)
            target = operand
            while target.kind in _TRANSPARENT:
                target = children(target)[-1]
            if gathered and target.kind == Kind.DECL_REF_EXPR and self._carries(target.type):
                if node := self._variable(target.referenced):
                    self._facts.flows.append((node, tuple(gathered)))
        if gathered and statement.memory and assembly.may_store(statement.template):
            self._facts.stores.append(Store(line, tuple(gathered), 0, 0, ALL, "assembly", file))


def blurred(source: Source) -> Source:
    """A pointer that may have been moved inside its record."""
    return source._replace(blurred=True)


__all__ = ["Body", "record_of"]
