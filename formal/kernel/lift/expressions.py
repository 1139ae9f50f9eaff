"""C expressions: values, places, conversions and operators (C11 6.3 and 6.5), as far as the lifted code uses them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.machine import Machine
from formal.kernel.lift.values import (
    NULL,
    Address,
    IntType,
    Object,
    Pointer,
    Value,
    choose,
    from_truth,
    guarded,
    moved,
    pointer_to,
    resized,
    truth,
)
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, TypeKind, children
from formal.logic import terms as t
from formal.logic.known import decided, folded
from formal.logic.terms import FALSE, TRUE, And, Eq, Not, Term, is_const, value_of

_EFFECTS = (Kind.CALL_EXPR, Kind.BINARY_OPERATOR, Kind.UNARY_OPERATOR, Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.StmtExpr)
_LIMIT = 64  # elements of an array that is indexed by an unknown value


class Expressions(Machine):
    """Evaluates expressions on the machine."""

    @abstractmethod
    def call(self, cursor: Cursor) -> Value | None:
        """Evaluates a call."""

    @abstractmethod
    def block(self, statements: list[Cursor]) -> Value | None:
        """Executes statements; the value of the last if it is an expression."""

    @abstractmethod
    def unary(self, cursor: Cursor, operand: Cursor) -> Value:
        """Evaluates a unary operator."""

    @abstractmethod
    def binary(self, cursor: Cursor, left: Cursor, right: Cursor) -> Value | None:
        """Evaluates a binary operator or an assignment."""

    @abstractmethod
    def compound(self, cursor: Cursor, left: Cursor, right: Cursor) -> Value:
        """Evaluates an assignment such as ``|=``."""

    @abstractmethod
    def copy(self, target: Pointer, source: Pointer, kind: Type, cursor: Cursor) -> None:
        """Copies an object part by part."""

    @abstractmethod
    def clear(self, target: Pointer, kind: Type, cursor: Cursor) -> None:
        """Makes every part of an object 0 or NULL."""

    @abstractmethod
    def assembly(self, cursor: Cursor) -> None:
        """Executes an assembly statement."""

    # ---- places

    def place(self, cursor: Cursor) -> Pointer:
        """Where an lvalue is."""
        cursor = clang.strip_parentheses(cursor)
        kind, parts = cursor.kind, children(cursor)
        if kind == Kind.DECL_REF_EXPR:
            return pointer_to(self._variable(cursor))
        if kind == Kind.MEMBER_REF_EXPR and cursor.referenced is not None and parts:
            member = cursor.referenced
            if member.is_bitfield():
                raise self.refusal(cursor, f"bit-field {member.spelling}")
            arrow = self._is_arrow(parts[-1])
            base = self.pointer(parts[-1]) if arrow else self.place(parts[-1])
            record = parts[-1].type.get_canonical().get_pointee() if arrow else parts[-1].type
            # Asked of the record on the left: the member may be one of an anonymous union, which clang leaves out.
            offset = record.get_canonical().get_offset(member.spelling) if member.spelling else -1
            if offset < 0 or offset % 8:
                raise self.refusal(cursor, f"member {member.spelling} of {record.spelling} has no offset")
            return moved(base, offset // 8)
        if kind == Kind.ARRAY_SUBSCRIPT_EXPR:
            return self._element(cursor, parts[0], parts[1])
        if kind == Kind.UNARY_OPERATOR and clang.unary_operator(cursor) == "*":
            return self.pointer(parts[0])
        raise self.refusal(cursor, f"{kind.name} is not understood as a place")

    def _is_arrow(self, base: Cursor) -> bool:
        return bool(base.type.get_canonical().kind == TypeKind.POINTER)

    def _variable(self, cursor: Cursor) -> Object:
        declaration = cursor.referenced
        known = self.scopes[-1].variables.get(declaration.hash) if self.scopes else None
        if known is not None:
            return known
        if declaration.kind == Kind.VAR_DECL and declaration.semantic_parent.kind == Kind.TRANSLATION_UNIT:
            return self.lasting(declaration.spelling, declaration)
        raise self.refusal(cursor, f"{declaration.spelling} is not known here")

    def lasting(self, name: str, declaration: Cursor) -> Object:
        """A variable that outlives its function; nothing writes one that is constant."""
        place = Object(name, "global", declaration.type)
        if _is_constant(declaration.type) and clang.initialiser(declaration) is not None:
            self.fixed[place] = declaration
        return place

    def _element(self, cursor: Cursor, array: Cursor, subscript: Cursor) -> Pointer:
        base, index = self.pointer(array), folded(self.integer(subscript))
        step = clang.bits(cursor.type) // 8
        kind = IntType.of(subscript.type)
        length = self._length(array)
        if is_const(index):
            i = t.signed(value_of(index), kind.bits) if kind.signed else value_of(index)
            if length is not None and not 0 <= i < length:
                raise self.refusal(cursor, f"index {i} into an array of {length}")
            return moved(base, i * step)
        if length is None:
            return self.within(cursor, base, index, kind, cursor.type)
        if length > _LIMIT:
            raise self.refusal(cursor, "an unknown index into an array of unknown or great length")
        index = resized(index, kind, 64)
        self.require(Not(t.ult(index, t.const(length, 64))), "index", f"index out of the array's {length}", cursor)
        return guarded(
            (And(g, Eq(index, t.const(i, 64))), a and Address(a.object, a.offset + i * step))
            for g, a in base.choices
            for i in range(length)
        )

    def within(self, cursor: Cursor, base: Pointer, index: Term, kind: IntType, element: Type) -> Pointer:
        """A pointer so many elements further, in the array to which it points: no further (an obligation)."""
        index, step = resized(index, kind, 64), max(1, clang.bits(element) // 8)
        found: list[tuple[Term, Address | None]] = []
        for guard, address in base.choices:
            if address is None or address.object.place == "wild":
                found.append((guard, address))
                continue
            row = self.layout.row(address, step)
            if row is None or row[1] > _LIMIT or (address.offset - row[0]) % step:
                raise self.refusal(cursor, "an unknown index into an array of unknown or great length")
            at = index + t.const((address.offset - row[0]) // step, 64)
            outside = And(guard, Not(t.ult(at, t.const(row[1], 64))))
            self.require(outside, "index", f"index out of the array's {row[1]}", cursor)
            found += [(And(guard, Eq(at, t.const(i, 64))), Address(address.object, row[0] + i * step))
                      for i in range(row[1])]  # fmt: skip
        return guarded(found)

    def _length(self, array: Cursor) -> int | None:
        inner = clang.strip_parentheses(array)
        if inner.kind == Kind.UNEXPOSED_EXPR and len(children(inner)) == 1:
            inner = clang.strip_parentheses(children(inner)[0])
        canonical = inner.type.get_canonical()
        return int(canonical.element_count) if canonical.kind == TypeKind.CONSTANTARRAY else None

    # ---- values

    def integer(self, cursor: Cursor) -> Term:
        """The value of an integer expression."""
        value = self.value(cursor)
        if not isinstance(value, Term):
            raise self.refusal(cursor, "an integer was expected")
        return value

    def pointer(self, cursor: Cursor) -> Pointer:
        """The value of a pointer expression."""
        value = self.value(cursor)
        if not isinstance(value, Pointer):
            raise self.refusal(cursor, "a pointer was expected")
        return value

    def operand(self, cursor: Cursor) -> Value:
        """The value of an expression that must have one."""
        value = self.value(cursor)
        if value is None:
            raise self.refusal(cursor, "an expression without a value is used")
        return value

    def condition(self, cursor: Cursor) -> Term:
        """Whether an expression is not zero."""
        return truth(self.operand(cursor))

    def value(self, cursor: Cursor) -> Value | None:
        """The value of an expression, ``None`` if it has none; unknown if it is not understood and changes nothing."""
        state = self.state
        try:
            return self._value(cursor)
        except NotUnderstoodError as error:
            kind = cursor.type
            if not (clang.is_integer(kind) or clang.is_pointer(kind)) or not self.is_plain(cursor):
                raise
            self.state = state
            return self.unknown(cursor, kind, error.reason.split(" (in ")[0])

    def _value(self, cursor: Cursor) -> Value | None:
        kind, parts = cursor.kind, children(cursor)
        if kind == Kind.PAREN_EXPR:
            return self.value(parts[0])
        if kind in (Kind.INTEGER_LITERAL, Kind.CHARACTER_LITERAL, Kind.CXX_UNARY_EXPR):
            return self.constant(cursor)
        if kind == Kind.STRING_LITERAL:
            return pointer_to(Object(cursor.spelling, "text"))
        if kind == Kind.DECL_REF_EXPR and cursor.referenced.kind == Kind.ENUM_CONSTANT_DECL:
            return t.const(cursor.referenced.enum_value, clang.bits(cursor.type))
        if kind == Kind.DECL_REF_EXPR and cursor.referenced.kind == Kind.FUNCTION_DECL:
            known = self.functions.setdefault(cursor.referenced.spelling, cursor.referenced)
            if known is not None and clang.file_of(known) != clang.file_of(cursor.referenced):
                self.functions[cursor.referenced.spelling] = None  # two of one name
            return pointer_to(Object(cursor.referenced.spelling, "text"))
        if kind == Kind.ARRAY_SUBSCRIPT_EXPR and stands_for_assembly(parts[0]):
            self.assembly(cursor)
            return t.const(0, 8)
        if kind in (Kind.DECL_REF_EXPR, Kind.MEMBER_REF_EXPR, Kind.ARRAY_SUBSCRIPT_EXPR):
            return self.read(cursor)
        if kind == Kind.UNARY_OPERATOR:
            return self.unary(cursor, parts[0])
        if kind == Kind.UNEXPOSED_EXPR:
            if len(parts) == 4 and parts[0] == parts[1]:  # a ?: b
                first = self.operand(parts[0])
                return self.either(truth(first), lambda: self.convert(first, parts[0].type, cursor.type, cursor),
                                   lambda: self.value(parts[3]))  # fmt: skip
            if len(parts) == 1 and parts[0].kind.is_expression():
                return self._cast(cursor, parts[0])
            if clang.is_integer(cursor.type) and not any(c.kind in _EFFECTS for c in clang.preorder(cursor)):
                return self.constant(cursor)  # offsetof and the like
        if kind == Kind.CSTYLE_CAST_EXPR:
            return self._cast(cursor, parts[-1])
        if kind == Kind.StmtExpr:
            return self.block(children(parts[0]))
        if kind == Kind.CONDITIONAL_OPERATOR and len(parts) == 3:
            return self.either(self.condition(parts[0]), lambda: self.value(parts[1]), lambda: self.value(parts[2]))
        if kind == Kind.BINARY_OPERATOR:
            return self.binary(cursor, parts[0], parts[1])
        if kind == Kind.COMPOUND_ASSIGNMENT_OPERATOR:
            return self.compound(cursor, parts[0], parts[1])
        if kind == Kind.CALL_EXPR:
            return self.call(cursor)
        if kind == Kind.COMPOUND_LITERAL_EXPR and clang.is_record(cursor.type):
            return self._literal(cursor, parts[-1])
        raise self.refusal(cursor, f"{kind.name} is not understood as an expression")

    def _literal(self, cursor: Cursor, given: Cursor) -> Pointer:
        """A record that is made in an expression, its members by name: those that are not named are zero."""
        place = pointer_to(Object(f"a literal#{self.serial()}", "local", cursor.type))
        members = {name: (offset, kind) for name, offset, kind in self.layout.members(cursor.type)}
        named: dict[str, Value] = {}
        for item in children(given):
            inner = children(item)
            if len(inner) != 2 or inner[0].kind != Kind.MEMBER_REF or clang.is_record(inner[1].type):
                raise self.refusal(cursor, "a literal whose members are not named")
            named[inner[0].spelling] = self.operand(inner[1])
        if not named.keys() <= members.keys():
            raise self.refusal(cursor, "a literal with bit-fields, or with members of members")
        self.clear(place, cursor.type, cursor)
        for name, value in named.items():
            self.store(moved(place, members[name][0]), members[name][1], value, cursor)
        return place

    def constant(self, cursor: Cursor) -> Term:
        """The value of a constant expression."""
        number = clang.constant(cursor)
        if number is None:
            raise self.refusal(cursor, "a constant was expected")
        return t.const(number, clang.bits(cursor.type))

    def read(self, cursor: Cursor) -> Value:
        """The value at a place; of an array or a whole record, the place."""
        place = self.place(cursor)
        if cursor.type.get_canonical().kind in (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY):
            return place
        if clang.is_record(cursor.type):
            return place  # only copied or passed on; see _assign
        return self.load(place, cursor.type, cursor)

    def either(self, condition: Term, yes: Callable[[], Value | None], no: Callable[[], Value | None]) -> Value | None:
        """Evaluates one of two, whichever the condition selects; both where it is not known."""
        condition = decided(condition)
        if condition is TRUE or condition is FALSE:
            return yes() if condition is TRUE else no()
        start, escapes = self.state, self.escapes
        self.state = start.under(condition)
        a, first = yes(), self.state
        self.state = start.under(Not(condition))
        b, second = no(), self.state
        self.state = self.merge(condition, first, second)
        if self.escapes == escapes:
            self.state.live = start.live
        if a is None or b is None:
            return a if b is None else b
        return choose(condition, a, b)

    def is_plain(self, cursor: Cursor) -> bool:
        """Whether an expression has no effect, and calls nothing."""
        inside = clang.preorder(cursor)
        effects = (Kind.CALL_EXPR, Kind.StmtExpr, Kind.COMPOUND_ASSIGNMENT_OPERATOR)
        return not any(
            c.kind in effects
            or (c.kind == Kind.BINARY_OPERATOR and clang.binary_operator(c) == "=")
            or (c.kind == Kind.UNARY_OPERATOR and clang.unary_operator(c) in ("++", "--", "p++", "p--"))
            for c in inside
        )

    # ---- conversions

    def _cast(self, cursor: Cursor, operand: Cursor) -> Value | None:
        value = self.value(operand)
        if cursor.type.get_canonical().kind == TypeKind.VOID:
            return None
        if value is None:
            raise self.refusal(cursor, "an expression without a value is converted")
        return self.convert(value, operand.type, cursor.type, cursor)

    def convert(self, value: Value, source: Type, target: Type, cursor: Cursor) -> Value:
        """A value in another type."""
        if isinstance(value, Pointer):
            if clang.is_pointer(target):
                return value
            if clang.is_bool(target):
                return from_truth(truth(value), clang.bits(target))
            kinds = [kind.get_canonical().get_declaration() for kind in (source, target)]  # one may be const
            if clang.is_record(target) and kinds[0] == kinds[1]:
                return value
            if clang.is_integer(target) and clang.bits(target) == 64:
                return self._number(value)
            raise self.refusal(cursor, f"a pointer becomes {target.spelling}")
        return self._from_integer(value, source, target, cursor)

    def _number(self, pointer: Pointer) -> Term:
        """An address as a number: one unknown per place."""
        result = t.const(0, 64)
        for guard, address in pointer.choices:
            if address is not None:
                place = f"&{address.object.name}" + (f"+{address.offset}" if address.offset else "")
                self.addresses[place] = address
                result = t.If(guard, t.var(place, 64), result)
        return result

    def _from_integer(self, value: Term, source: Type, target: Type, cursor: Cursor) -> Value:
        if clang.is_pointer(target):
            if is_const(value) and value_of(value) == 0:
                return NULL
            if value.op == "var" and value.data in self.addresses:  # a pointer that was made an integer
                return Pointer(((TRUE, self.addresses[str(value.data)]),))
            raise self.refusal(cursor, f"an integer becomes {target.spelling}")
        if not clang.is_integer(target) or not clang.is_integer(source):
            raise self.refusal(cursor, f"conversion from {source.spelling} to {target.spelling}")
        if clang.is_bool(target):
            return from_truth(truth(value), clang.bits(target))
        return resized(value, IntType.of(source), clang.bits(target))


def _is_constant(kind: Type) -> bool:
    """Whether nothing may write an object of a type (of an array, its elements), which is no pointer."""
    spelling, element = kind.get_canonical().spelling, kind.get_canonical()
    while element.kind == TypeKind.CONSTANTARRAY:
        element = element.element_type.get_canonical()
    return bool(spelling.startswith("const ") and element.kind != TypeKind.POINTER)


def stands_for_assembly(array: Cursor) -> bool:
    """Whether an array is the one that ``overlay_asm.h`` indexes by an assembly statement."""
    return bool(clang.strip_casts(array).spelling == "__lift_asm")
