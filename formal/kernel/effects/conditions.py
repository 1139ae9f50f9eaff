"""Under what an expression is other than 0, or is 0, and where pointers to the hypervisor's own records go.

A need is one of these: ``f:KEY`` (a function returns something other than 0), ``c:NAME`` (the CPU capability is there),
``0`` (never); of pointers to records that only the hypervisor has (declared below hyp/), that one is not NULL:
``p:KEY:n`` (the n-th parameter of a function), ``v:KEY:...`` (a local variable), ``r:RECORD`` (any in memory).
``gives`` tells where one of these is given a value that may be other than NULL; in ``p:*``, the parameters of functions
that are called through pointers. What all of this comes to is told of all functions together
(``formal.kernel.effects.reached``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formal.kernel.effects.unit import Unit, is_array
from formal.kernel.effects.values import Assignments, number
from formal.kernel.parse.clang import (
    Cursor,
    Kind,
    Type,
    TypeKind,
    binary_operator,
    bits,
    callee,
    children,
    is_bool,
    is_record,
    preorder,
    unary_operator,
)
from formal.kernel.source.tree import KVM

Needs = frozenset[str]
NOTHING: Needs = frozenset()
NEVER: Needs = frozenset("0")
_ASKS = re.compile(r"cpus_have_\w*cap|alternative_has_cap_\w+")  # asm/cpufeature.h: whether a CPU capability is there
_DEPTH = 4  # of variables made from variables
CASTS = frozenset((Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR))
_PLAIN = CASTS | {Kind.PAREN_EXPR}


class Conditions:
    """Those of one function."""

    def __init__(self, unit: Unit, key: str, assignments: Assignments) -> None:
        self._unit, self._key, self._assignments = unit, key, assignments
        self._parameters: dict[int, int] = {}
        self._whole: Cursor | None = None  # the outermost statement expression around what is read
        self.gives: list[tuple[str, Needs]] = []

    def _follows(self, c: Cursor) -> Needs:
        """What must be so for an access, if it goes through a pointer to a record of the hypervisor's own."""
        kind = c.kind
        star = kind == Kind.UNARY_OPERATOR and unary_operator(c) == "*"
        if not (kind in (Kind.MEMBER_REF_EXPR, Kind.ARRAY_SUBSCRIPT_EXPR) or star) or is_array(c.type):
            return NOTHING
        parts = children(c)
        own = self._certain(parts[0].type) if parts else None
        return self._true(parts[0]) if own is not None and own[1] == 1 else NOTHING

    # ---- conditions

    def _true(self, c: Cursor, depth: int = 0) -> Needs:
        """What must be so where an expression is other than 0."""
        return self._so(c, True, depth)

    def _false(self, c: Cursor, depth: int = 0) -> Needs:
        """What must be so where it is 0."""
        return self._so(c, False, depth)

    def _so(self, c: Cursor, wanted: bool, depth: int) -> Needs:
        value = number_of(c)
        if value is not None:
            return NOTHING if (value != 0) == wanted else NEVER
        own = self._certain(c.type) if wanted else None
        if own is not None and own[1] == 1 and (held := self._held(c, own[0])) is not None:
            return held
        kind, parts = c.kind, children(c)
        if (inner := inner_of(c)) is not None:
            narrower = not is_bool(c.type) and 0 < bits(c.type) < bits(inner.type)
            return NOTHING if narrower and not wanted else self._so(inner, wanted, depth)
        if kind == Kind.UNARY_OPERATOR and unary_operator(c) == "!":
            return self._so(parts[0], not wanted, depth)
        if kind == Kind.BINARY_OPERATOR and len(parts) == 2:
            return self._joined(binary_operator(c), parts, wanted, depth)
        if kind == Kind.CONDITIONAL_OPERATOR and len(parts) == 3:
            first = self._true(parts[0], depth) | self._so(parts[1], wanted, depth)
            return either(first, self._false(parts[0], depth) | self._so(parts[2], wanted, depth))
        if kind == Kind.StmtExpr:
            last = children(parts[0])[-1:] if parts else []
            return self._so(last[0], wanted, depth) if last else NOTHING
        if kind == Kind.DECL_REF_EXPR and depth < _DEPTH and (made := self._assignments.of(c)):
            common = self._so(made[0], wanted, depth + 1)
            for other in made[1:]:
                common = either(common, self._so(other, wanted, depth + 1))
            return common
        return self._called(c, wanted, depth) if kind == Kind.CALL_EXPR else NOTHING

    def _joined(self, operator: str, parts: list[Cursor], wanted: bool, depth: int) -> Needs:
        left, right = parts
        if operator in ("&&", "||"):
            a, b = self._so(left, wanted, depth), self._so(right, wanted, depth)
            return a | b if (operator == "&&") == wanted else either(a, b)
        if operator in ("==", "!="):
            for one, other in ((left, right), (right, left)):
                value = number_of(other)
                if value == 0:
                    return self._so(one, (operator == "!=") == wanted, depth)
                if value is not None and (operator == "==") == wanted:
                    return self._true(one, depth)
        if operator == "&" and wanted:
            return self._true(left, depth) | self._true(right, depth)
        return self._so(right, wanted, depth) if operator in (",", "=") else NOTHING

    def _called(self, c: Cursor, wanted: bool, depth: int) -> Needs:
        arguments = list(c.get_arguments())
        called = callee(c)
        if called is None or called.kind != Kind.FUNCTION_DECL:
            return NOTHING
        if called.spelling == "__builtin_expect":
            return self._so(arguments[0], wanted, depth)
        if not wanted:
            return NOTHING
        if len(arguments) == 1 and _ASKS.fullmatch(called.spelling):
            name = self._unit.word(arguments[0])
            if name.startswith("ARM64_"):
                return frozenset((f"c:{name}",))
        return frozenset((f"f:{self._unit.key_of(called)}",))

    # ---- pointers to the hypervisor's own records

    def _own(self, kind: Type) -> tuple[str, int] | None:
        return None if self._unit.side == "host" else self._unit.own_record(kind, strict=True)

    def _certain(self, kind: Type) -> tuple[str, int] | None:
        return None if self._unit.side == "host" else self._unit.own_record(kind)

    def _held(self, c: Cursor, record: str) -> Needs | None:
        """What must be so for such a pointer not to be NULL, told by where it is read; None where it is made."""
        kind = c.kind
        if is_array(c.type):
            return self._inside(c)
        if kind == Kind.DECL_REF_EXPR and c.referenced is not None:
            node = self._node(c.referenced, record)
            return frozenset((node,)) if node else NOTHING
        if kind in (Kind.MEMBER_REF_EXPR, Kind.ARRAY_SUBSCRIPT_EXPR):
            return frozenset((f"r:{record}",))
        if kind == Kind.UNARY_OPERATOR:
            operator = unary_operator(c)
            return frozenset((f"r:{record}",)) if operator == "*" else self._inside(children(c)[0])
        inner = inner_of(c)
        leaves = self._leaves(c, record) if inner is not None and self._own(inner.type) is None else []
        return frozenset.intersection(*leaves) if leaves else None

    def _node(self, declared: Cursor, record: str) -> str:
        """What a variable that holds such a pointer is called: in memory, where its address is taken."""
        given = self._assignments.given(declared)
        if declared.hash in self._parameters:
            return "" if given is None else f"p:{self._key}:{self._parameters[declared.hash]}"
        if given is None or not self._unit.is_local(declared):
            return f"r:{record}"
        return f"v:{self._key}:{declared.spelling}:{declared.location.offset}"

    def _given(self, c: Cursor, needs: Needs) -> None:
        """Takes note where such a pointer is stored, handed over, or may be changed as something else."""
        if self._unit.side == "host":
            return
        kind, parts = c.kind, children(c)
        if kind == Kind.BINARY_OPERATOR and len(parts) == 2 and binary_operator(c) == "=":
            if (own := self._own(parts[0].type)) is not None and own[1] == 1:
                target = parts[0]
                while target.kind == Kind.PAREN_EXPR:
                    target = children(target)[0]
                variable = target.referenced if target.kind == Kind.DECL_REF_EXPR else None
                node = self._node(variable, own[0]) if variable is not None else ""
                self.gives.append((node or f"r:{own[0]}", needs | self._true(parts[1])))
        elif kind == Kind.CALL_EXPR:
            to = c.referenced
            direct = to is not None and to.kind == Kind.FUNCTION_DECL
            for i, argument in enumerate(c.get_arguments()):
                if (own := self._own(argument.type)) is not None and own[1] == 1:
                    node = f"p:{self._unit.key_of(to)}:{i}" if direct else "p:*"
                    self.gives.append((node, needs | self._true(argument)))
        elif kind in (Kind.INIT_LIST_EXPR, Kind.ASM_STMT):
            for part in preorder(c):
                if part.kind.is_expression() and (own := self._own(part.type)) is not None and own[1] == 1:
                    self.gives.append(
                        (f"r:{own[0]}", needs | (self._true(part) if kind == Kind.INIT_LIST_EXPR else NOTHING))
                    )
        elif kind in CASTS and (inner := inner_of(c)) is not None:
            self._cast(c, inner, needs)

    def _cast(self, c: Cursor, inner: Cursor, needs: Needs) -> None:
        """A place of such a pointer that is made from something else, or becomes a place of something else.

        Where nothing but such places takes part, such as in what reads a per-CPU variable, what is stored is looked at.
        """
        own, before = self._own(c.type), self._own(inner.type)
        for found, other in ((own, before), (before, own)):
            if found is not None and found[1] > 1 and found != other and number_of(inner) != 0:
                leaves = self._leaves(self._whole, found[0]) if self._whole is not None else []
                for held in leaves or [NOTHING]:
                    if held != {f"r:{found[0]}"}:
                        self.gives.append((f"r:{found[0]}", needs | held))
        if c.kind == Kind.CSTYLE_CAST_EXPR:
            for name in _records_of_functions(c.type, inner.type):
                self.gives += [(f"r:{name}", needs), ("p:*", needs)]

    def _leaves(self, whole: Cursor, record: str) -> list[Needs]:
        """The pointers of which an expression is made, if all are such pointers; none if it is made from others."""
        cursors = preorder(whole)
        found: list[Needs] = []
        declared = {part.hash for part in cursors if part.kind == Kind.VAR_DECL}
        for part in cursors:
            to = part.referenced if part.kind in (Kind.DECL_REF_EXPR, Kind.MEMBER_REF_EXPR) else None
            if to is None or to.hash in declared or to.kind == Kind.ENUM_CONSTANT_DECL:
                continue
            own = self._own(to.type)
            if to.kind == Kind.FUNCTION_DECL:
                if self._unit.relative(str(to.location.file)).startswith(f"{KVM}/"):
                    return []
            elif own is not None and own[0] == record:
                found.append(self._held(part, record) or NOTHING)
            elif _is_pointer(to.type) or is_record(to.type) or bits(to.type) == 64:
                return []
        return found

    def _inside(self, place: Cursor) -> Needs:
        """What must be so for a place to be: that the pointer is not NULL through which it is reached."""
        while parts := children(place):
            inner = inner_of(place) or parts[0]
            followed = place.kind == Kind.UNARY_OPERATOR or (
                place.kind in (Kind.MEMBER_REF_EXPR, Kind.ARRAY_SUBSCRIPT_EXPR) and _is_pointer(inner.type)
            )
            if followed:
                own = self._certain(inner.type)
                return self._true(inner) if own is not None and own[1] == 1 else NOTHING
            place = inner
        return NOTHING


def inner_of(c: Cursor) -> Cursor | None:
    """What a cast, or parentheses, are around."""
    parts = children(c) if c.kind in _PLAIN else []
    return parts[-1] if parts and (len(parts) == 1 or c.kind == Kind.CSTYLE_CAST_EXPR) else None


def bare(c: Cursor) -> Cursor:
    """An expression without casts and parentheses."""
    while (inner := inner_of(c)) is not None:
        c = inner
    return c


def number_of(c: Cursor) -> int | None:
    """The value of an expression if it is constant; 0 for NULL."""
    inner = bare(c)
    return 0 if inner.kind == Kind.INTEGER_LITERAL and number(inner) == 0 else number(c)


def either(a: Needs, b: Needs) -> Needs:
    """What must be so on two ways, of which one may never be gone."""
    return b if "0" in a else a if "0" in b else a & b


def joins(c: Cursor) -> str:
    """``&&`` or ``||``, if an expression is one of these."""
    operator = binary_operator(c) if c._kind_id == Kind.BINARY_OPERATOR.value else ""
    return operator if operator in ("&&", "||") else ""


def _is_pointer(kind: Type) -> bool:
    return bool(kind.get_canonical().kind == TypeKind.POINTER)


def _records_of_functions(kind: Type, before: Type) -> Iterator[str]:
    """The records that two different types of functions speak of, where a pointer to one becomes one to the other."""
    types = [k.get_canonical().get_pointee().get_canonical() if _is_pointer(k) else k for k in (kind, before)]
    if TypeKind.FUNCTIONPROTO in (types[0].kind, types[1].kind) and types[0].spelling != types[1].spelling:
        yield from re.findall(r"struct (\w+)", f"{types[0].spelling} {types[1].spelling}")
