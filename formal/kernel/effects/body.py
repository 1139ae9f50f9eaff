"""What one function does: its writes, its stores through pointers, its calls, and where pointers go."""

from __future__ import annotations

import re

from formal.kernel.effects import assembly
from formal.kernel.effects.assembly import Statement, statements
from formal.kernel.effects.expressions import LOCAL, TRANSPARENT, Expressions, Place
from formal.kernel.effects.guards import Guards
from formal.kernel.effects.places import overlapping
from formal.kernel.effects.types import ALL, Address, Call, Facts, Mention, Needs, Node, Source, Store, Write
from formal.kernel.effects.unit import Unit
from formal.kernel.parse.clang import (
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
    preorder,
    unary_operator,
)

_TELLING = frozenset(
    kind.value
    for kind in (
        Kind.BINARY_OPERATOR, Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.UNARY_OPERATOR, Kind.VAR_DECL, Kind.CALL_EXPR,
        Kind.ASM_STMT, Kind.RETURN_STMT, Kind.DECL_REF_EXPR, Kind.CSTYLE_CAST_EXPR,
    )
)  # fmt: skip

_LEADS_TO = re.compile(r"\b(?:b|bl|b\.\w+|adrp?|ldr|cbn?z|tbn?z|\.(?:quad|long|word|xword))\s+([^\n]*)", re.I)


class Body(Expressions):
    """Reads one function definition."""

    def __init__(self, unit: Unit, definition: Cursor, facts: Facts, key: str) -> None:
        super().__init__(unit, definition, key)
        self._facts = facts
        self._asm: list[Statement] = []
        self._called: set[int] = set()  # mentions of functions that are called there
        self._passed: set[int] = set()  # mentions of functions that are arguments
        self._guards = Guards(unit, key, _TELLING, self._assignments)
        self._needs: Needs = ()  # what must be so where the cursor is that is visited

    def read(self) -> None:
        """Fills in the facts."""
        self._guarded(self._definition)
        self._all(self._assignments.telling(_TELLING))
        self._facts.returns += [_plain(needs) for needs in self._guards.returns]

    def _guarded(self, c: Cursor) -> None:
        self._guards.read(c)
        self._facts.gives += [
            Mention(name, needs=_plain(needs)) for name, needs in self._guards.gives if "0" not in needs
        ]

    def _all(self, cursors: list[Cursor]) -> None:
        """Each of the cursors, parents before what is below them."""
        number = sum(c._kind_id == Kind.ASM_STMT.value for c in cursors)
        if number:
            self._asm = statements(self._definition)
            if len(self._asm) != number:  # which is which cannot be told: each may be any
                every = "\n".join(statement.template for statement in self._asm)
                self._asm = [Statement(every, 1 << 10, True)] * number
        for c in cursors:
            self._needs = _plain(self._guards.at(c))
            self._visit(c)

    def table(self, declared: Cursor) -> None:
        """The functions that the initialiser of a variable names, and the enumerators beside each."""
        value = initialiser(declared)
        if value is not None:
            self._guarded(value)
            self._all([c for c in preorder(value) if c._kind_id in _TELLING])
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
                self._flow(self._variable(c), value, c.type)
        elif kind == Kind.CALL_EXPR:
            self._call(c)
        elif kind == Kind.ASM_STMT:
            self._assembly(c)
        elif kind == Kind.RETURN_STMT:
            for value in children(c):
                self._flow(Node("r", self._key, ""), value, value.type)
        elif kind == Kind.DECL_REF_EXPR:
            self._mention(c)
        elif is_pointer(c.type):
            self._cast(c)

    def _mention(self, c: Cursor) -> None:
        """A function whose address is taken; a hypercall, which is named by an enumerator."""
        to = c.referenced
        if to is None:
            return
        if to.kind == Kind.FUNCTION_DECL:
            if c.hash not in self._called:
                kind = to.type.get_canonical().spelling
                self._facts.taken.append(Mention(self._unit.key_of(to), kind, c.hash in self._passed, self._needs))
        elif to.kind == Kind.VAR_DECL:
            if (table := self._unit.table(to)) is not None:
                self._facts.tables.append(Mention(table, needs=self._needs))
        elif to.kind == Kind.ENUM_CONSTANT_DECL and to.spelling.startswith("__KVM_HOST_SMCCC_FUNC_"):
            name = to.spelling.removeprefix("__KVM_HOST_SMCCC_FUNC_")
            self._facts.hypercalls.append(Mention(name, needs=self._needs))

    def _cast(self, c: Cursor) -> None:
        """A function whose address is taken as of another type."""
        inner = _stripped(c)
        to = inner.referenced if inner.kind == Kind.DECL_REF_EXPR else None
        if to is not None and to.kind == Kind.FUNCTION_DECL:
            as_type = c.type.get_canonical().get_pointee().spelling
            taken = Mention(self._unit.key_of(to), str(as_type), inner.hash in self._passed, self._needs)
            self._facts.taken.append(taken)

    def _assign(self, left: Cursor, right: Cursor) -> None:
        target = left
        while target.kind in TRANSPARENT:
            target = children(target)[-1]
        if target.kind == Kind.DECL_REF_EXPR and target.referenced is not None:
            self._flow(self._variable(target.referenced), right, left.type)
        elif target.kind == Kind.MEMBER_REF_EXPR and target.referenced is not None:
            self._flow(self._unit.field_node(target.referenced), right, left.type)

    def _flow(self, node: Node | None, value: Cursor, kind: Type) -> None:
        if node is not None and self._carries(kind) and (sources := self._as(kind, value)):
            self._facts.flows.append((node, sources))

    def _as(self, kind: Type, value: Cursor) -> tuple[Source, ...]:
        """What a value may point to where it is taken as of a type.

        A pointer to anything that becomes one to a record with nothing modelled in it points to such a record (memory
        that was allocated, or given to EL2), unless it was made from a pointer to something modelled in this place.
        """
        sources, inner = self._values(value), value
        while inner.kind in TRANSPARENT and children(inner):
            inner = children(inner)[-1]
        to, of = (x.get_canonical().get_pointee() for x in (kind, inner.type))
        anything = of.get_canonical().kind == TypeKind.VOID and is_record(to) and bits(to) > 0
        if anything and not self._unit.pointee_record(kind):
            return tuple(source for source in sources if isinstance(source, Address))
        return sources

    def _carries(self, kind: Type) -> bool:
        """Whether a type can hold a pointer."""
        return is_pointer(kind) or (not is_record(kind) and bits(kind) == 64)

    # ---- stores

    def _store(self, left: Cursor, operator: str, value: Cursor | None) -> None:
        target = left
        while target.kind == Kind.PAREN_EXPR:
            target = children(target)[0]
        declared = target.referenced if target.kind == Kind.DECL_REF_EXPR else None
        if declared is not None and declared.kind in LOCAL and self._unit.is_local(declared):
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
        self._write(
            place, ALL if found is None else found, left.location.line, "store" if bits(left.type) <= 64 else "whole"
        )

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
                self._facts.writes.append(Write(line, *at, changed, how, file, place.element, self._needs))
        elif place.through:
            size = place.size, changed
            self._facts.stores.append(Store(line, place.through, place.offset, *size, how, file, self._needs))

    # ---- calls

    def _call(self, c: Cursor) -> None:
        parts = children(c)
        callee, pointer = self._callee(c)
        arguments = list(c.get_arguments())
        if not pointer and parts:
            self._called.add(_stripped(parts[0]).hash)
        self._passed.update(_stripped(a).hash for a in arguments)
        kinds = self._unit.parameters(c, pointer)
        sources = tuple(
            self._as(kinds[i] if i < len(kinds) else a.type, a) if self._carries(a.type) else ()
            for i, a in enumerate(arguments)
        )
        blobs = tuple(i for i, s in enumerate(sources) if s and self._unit.may_fill(kinds, i, arguments))
        for given in self._every_given(c, pointer):
            at = c.location.line
            how = pointer, sources, given, blobs, self._unit.handed(kinds)
            self._facts.calls.append(Call(at, callee, *how, self._facts.function.file, self._needs))

    # ---- assembly

    def _assembly(self, c: Cursor) -> None:
        statement = self._asm.pop(0)
        line, file = c.location.line, self._facts.function.file
        for name in assembly.registers(statement.template):
            self._facts.writes.append(Write(line, f"hw.{name}", 0, 64, ALL, "assembly", file, None, self._needs))
        for name in sorted({*re.findall(r"[A-Za-z_]\w{3,}", " ".join(_LEADS_TO.findall(statement.template)))}):
            self._facts.taken.append(Mention(name, "assembly", needs=self._needs))
        operands = children(c)
        outputs, inputs = operands[: statement.outputs], operands[statement.outputs :]
        gathered: dict[Source, None] = {}
        for operand in inputs:
            if self._carries(operand.type):
                self._gather(operand, gathered)
        for operand in outputs:
            self._store(operand, "=", None)
            target = operand
            while target.kind in TRANSPARENT:
                target = children(target)[-1]
            node = self._variable(target.referenced) if target.kind == Kind.DECL_REF_EXPR else None
            if gathered and node is not None and self._carries(target.type):
                self._facts.flows.append((node, tuple(gathered)))
        if gathered and statement.memory and assembly.may_store(statement.template):
            self._facts.stores.append(Store(line, tuple(gathered), 0, 0, ALL, "assembly", file, self._needs))


def _plain(needs: frozenset[str]) -> Needs:
    return tuple(sorted(needs))


def _stripped(c: Cursor) -> Cursor:
    """An expression without casts, parentheses and ``&``."""
    while (c.kind in TRANSPARENT or (c.kind == Kind.UNARY_OPERATOR and unary_operator(c) == "&")) and children(c):
        c = children(c)[-1]
    return c
