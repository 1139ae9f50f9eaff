"""C operators on integers and pointers (C11 6.5.3 to 6.5.17)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.expressions import Expressions
from formal.kernel.lift.values import (
    IntType,
    Object,
    Pointer,
    Value,
    from_truth,
    moved,
    pointer_to,
    resized,
    same_address,
    truth,
    with_constant,
)
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, TypeKind
from formal.logic import terms as t
from formal.logic.known import folded
from formal.logic.terms import Eq, Not, Or, Term, is_const, value_of

_ARITHMETIC: dict[str, Callable[[Term, Term], Term]] = {
    "&": t.bvand, "|": t.bvor, "^": t.bvxor, "+": t.bvadd, "-": t.bvsub, "*": t.bvmul,
}  # fmt: skip


class Operators(Expressions):
    """Evaluates operators on the machine."""

    def unary(self, cursor: Cursor, operand: Cursor) -> Value:
        """Evaluates a unary operator."""
        operator = clang.unary_operator(cursor)
        if operator == "&":
            return self.place(operand)
        if operator == "*":
            return self.read(cursor)
        if operator in ("++", "--", "p++", "p--"):
            place, one = self.place(operand), t.const(1, clang.bits(cursor.type))
            before = self.load(place, operand.type, cursor)
            if clang.is_bool(operand.type):
                raise self.refusal(cursor, f"{operator} of this type")
            after: Value
            if isinstance(before, Pointer):
                step = max(1, clang.bits(operand.type.get_canonical().get_pointee()) // 8)
                after = moved(before, step if "+" in operator else -step)
            else:
                after = before + one if "+" in operator else before - one
            self.store(place, operand.type, after, cursor)
            return before if operator.startswith("p") else after
        if operator == "!":
            return from_truth(Not(self.condition(operand)), clang.bits(cursor.type))
        value = self.integer(operand)
        if operator == "~":
            return ~value
        if operator in "+-":
            return value if operator == "+" else t.bvneg(value)
        raise self.refusal(cursor, f"unary {operator} is not understood")

    def binary(self, cursor: Cursor, left: Cursor, right: Cursor) -> Value | None:
        """Evaluates a binary operator or an assignment."""
        operator = clang.binary_operator(cursor)
        size = clang.bits(cursor.type)
        if operator == "=":
            return self._assign(cursor, left, right)
        if operator == ",":
            self.value(left)
            return self.value(right)
        if operator in ("&&", "||"):
            first = self.condition(left)

            def second() -> Value:
                return from_truth(self.condition(right), size)

            def known() -> Value:
                return from_truth(t.boolean(operator == "||"), size)

            result = self.either(first, second, known) if operator == "&&" else self.either(first, known, second)
            assert isinstance(result, Term)
            return from_truth(truth(result), size)
        a, b = self.operand(left), self.operand(right)
        if isinstance(a, Pointer) or isinstance(b, Pointer):
            return self._pointers(cursor, operator, a, b, left, right)
        if operator not in ("<<", ">>") and IntType.of(left.type).bits != IntType.of(right.type).bits:
            raise self.refusal(cursor, "operands of different widths")
        result_type = IntType(size, IntType.of(left.type).signed)
        return self.arithmetic(cursor, operator, a, b, IntType.of(left.type), IntType.of(right.type), result_type)

    def _assign(self, cursor: Cursor, left: Cursor, right: Cursor) -> Value:
        if clang.is_record(left.type):
            source, target = self.pointer(right), self.place(left)
            self.copy(target, source, left.type, cursor)
            return target
        value = self.operand(right)
        self.store(self.place(left), left.type, value, cursor)
        return value

    def _pointers(self, cursor: Cursor, operator: str, a: Value, b: Value, left: Cursor, right: Cursor) -> Value:
        if operator in ("==", "!="):
            a, b = (v if isinstance(v, Pointer) else self.convert(v, c.type, o.type, cursor)
                    for v, c, o in ((a, left, right), (b, right, left)))  # fmt: skip
            assert isinstance(a, Pointer) and isinstance(b, Pointer)
            equal, unknown = same_address(a, b)
            self.require(unknown, "pointer", "pointers of unknown target are compared", cursor)
            return from_truth(equal if operator == "==" else Not(equal), clang.bits(cursor.type))
        if operator == "+" and isinstance(a, Term) and isinstance(b, Pointer):
            a, b, left, right = b, a, right, left
        b = folded(b) if isinstance(b, Term) else b
        if operator == "+" and isinstance(a, Pointer) and isinstance(b, Term) and not is_const(b):
            return self.within(cursor, a, b, IntType.of(right.type), left.type.get_canonical().get_pointee())
        if operator in ("+", "-") and isinstance(a, Pointer) and isinstance(b, Term) and is_const(b):
            pointee = left.type.get_canonical().get_pointee()
            step = max(1, clang.bits(pointee) // 8) if pointee.get_canonical().kind != TypeKind.VOID else 1
            count = t.signed(value_of(b), t.width(b))
            return moved(a, step * (count if operator == "+" else -count))
        raise self.refusal(cursor, f"{operator} on pointers")

    def arithmetic(
        self, cursor: Cursor, operator: str, a: Term, b: Term, left: IntType, right: IntType, result: IntType
    ) -> Term:
        """A binary operator on integers, after their conversion to a common type (shifts: to the left one's)."""
        if operator in ("<<", ">>"):
            amount = resized(b, right, max(right.bits, left.bits))
            limit = t.const(left.bits, t.width(amount))
            self.require(Not(t.ult(amount, limit)), "shift", f"shift by {left.bits} bits or more", cursor)
            amount = t.extract(amount, left.bits - 1, 0)
            if operator == "<<":
                return t.bvshl(a, amount)
            return t.bvashr(a, amount) if left.signed else t.bvlshr(a, amount)
        if operator in _ARITHMETIC:
            return with_constant(_ARITHMETIC[operator], a, b)
        less, less_equal = (t.slt, t.sle) if left.signed else (t.ult, t.ule)
        comparisons: dict[str, Callable[[], Term]] = {
            "==": lambda: Eq(a, b), "!=": lambda: Not(Eq(a, b)),
            "<": lambda: less(a, b), "<=": lambda: less_equal(a, b),
            ">": lambda: less(b, a), ">=": lambda: less_equal(b, a),
        }  # fmt: skip
        if operator in comparisons:
            return from_truth(comparisons[operator](), result.bits)
        if operator in ("/", "%"):
            zero = t.const(0, left.bits)
            self.require(Eq(b, zero), "division", "division by zero", cursor)
            if left.signed:
                self.require(Or(t.slt(a, zero), t.slt(b, zero)), "division", "division of negative numbers", cursor)
            return t.bvudiv(a, b) if operator == "/" else t.bvurem(a, b)
        raise self.refusal(cursor, f"binary {operator} is not understood")

    def compound(self, cursor: Cursor, left: Cursor, right: Cursor) -> Value:
        """Evaluates an assignment such as ``|=``."""
        operator = clang.binary_operator(cursor)[:-1]
        operand = self.integer(right)
        place = self.place(left)
        before = self.load(place, left.type, cursor)
        if isinstance(before, Pointer):
            gone: Value = pointer_to(Object(f"a pointer moved at run time#{self.serial()}", "wild"))
            with suppress(NotUnderstoodError):
                gone = self._pointers(cursor, operator, before, operand, left, right)
            self.store(place, left.type, gone, cursor)
            return gone
        own, other = IntType.of(left.type), IntType.of(right.type)
        if operator in ("<<", ">>"):
            common, amount_type = own.promoted(), other.promoted()
        else:
            common = amount_type = own.common(other)
        a = resized(before, own, common.bits)
        b = resized(operand, other, amount_type.bits)
        value = self.arithmetic(cursor, operator, a, b, common, amount_type, common)
        stored = from_truth(truth(value), own.bits) if clang.is_bool(left.type) else resized(value, common, own.bits)
        self.store(place, left.type, stored, cursor)
        return stored
