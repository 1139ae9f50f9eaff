"""Under what each place of a function runs: what must be so on each way to it (``formal.kernel.effects``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from formal.kernel.effects.conditions import NEVER, NOTHING, Conditions, Needs, bare, inner_of, joins, number_of
from formal.kernel.effects.unit import Unit, is_array
from formal.kernel.effects.values import Assignments
from formal.kernel.parse.clang import Cursor, Kind, TypeKind, children, initialiser, preorder, unary_operator

_LOOPS = frozenset((Kind.WHILE_STMT, Kind.DO_STMT, Kind.FOR_STMT))
_BRANCHES = frozenset(kind.value for kind in (Kind.StmtExpr, Kind.CONDITIONAL_OPERATOR))
_OPERANDS = frozenset((Kind.BINARY_OPERATOR, Kind.COMPOUND_ASSIGNMENT_OPERATOR, Kind.CALL_EXPR, Kind.INIT_LIST_EXPR,
                       Kind.RETURN_STMT))  # fmt: skip


class Guards(Conditions):
    """Those of one function.

    Args:
        kept: the kinds of cursors that are asked for.
    """

    def __init__(self, unit: Unit, key: str, kept: Collection[int], assignments: Assignments) -> None:
        super().__init__(unit, key, assignments)
        self._kept = kept
        self._of: dict[int, Needs] = {}
        self._cases: list[Needs] = []
        self.returns: list[Needs] = []  # of each return of something that may be other than 0

    def read(self, definition: Cursor) -> None:
        """Reads a function, or the initialiser of a variable."""
        if definition.kind != Kind.FUNCTION_DECL:
            self._expression(definition, NOTHING)
            return
        self._parameters = {parameter.hash: i for i, parameter in enumerate(definition.get_arguments())}
        for part in children(definition):
            if part.kind == Kind.COMPOUND_STMT:
                self._statement(part, NOTHING)

    def at(self, c: Cursor) -> Needs:
        """What must be so where a cursor is evaluated."""
        return self._of.get(c.hash, NOTHING)

    def _mark(self, cursors: Iterable[Cursor], needs: Needs) -> None:
        for c in cursors:
            if c._kind_id in self._kept:
                known = self._of.get(c.hash)
                self._of[c.hash] = needs if known is None else known & needs

    # ---- statements

    def _statement(self, c: Cursor, needs: Needs) -> Needs:
        """Reads a statement; what must be so behind it, NEVER if nothing gets there."""
        kind = c.kind
        if kind == Kind.COMPOUND_STMT:
            for part in children(c):
                needs = self._statement(part, needs)
            return needs
        if kind == Kind.IF_STMT:
            return self._if(children(c), needs)
        if kind in (Kind.LABEL_STMT, Kind.CASE_STMT, Kind.DEFAULT_STMT):
            needs = NOTHING if kind == Kind.LABEL_STMT else self._cases[-1] if self._cases else NOTHING
            for part in children(c):
                needs = self._statement(part, needs)
            return needs
        if kind == Kind.SWITCH_STMT:
            *asked, body = children(c)
            for part in asked:
                needs = self._statement(part, needs)
            self._cases.append(needs)
            self._statement(body, NEVER)
            self._cases.pop()
            return needs
        if kind in _LOOPS:
            return self._loop(kind, children(c), needs)
        if kind == Kind.DECL_STMT:
            for declared in children(c):
                needs = self._declared(declared, needs)
            return needs
        if kind == Kind.RETURN_STMT:
            self._mark((c,), needs)
            for part in children(c):
                needs = self._expression(part, needs)
                if number_of(part) != 0:
                    self.returns.append(needs | self._true(part))
            return NEVER
        if kind in (Kind.BREAK_STMT, Kind.CONTINUE_STMT, Kind.GOTO_STMT, Kind.INDIRECT_GOTO_STMT):
            return NEVER
        if kind.is_statement() and kind != Kind.ASM_STMT:  # one with an attribute
            for part in children(c):
                self._statement(part, needs)
            return needs
        return self._expression(c, needs)

    def _if(self, parts: list[Cursor], needs: Needs) -> Needs:
        condition, then, *other = parts
        needs = self._expression(condition, needs)
        one = self._statement(then, needs | self._true(condition))
        two = needs | self._false(condition)
        two = self._statement(other[0], two) if other else two
        return two if one == NEVER or "0" in one else one if "0" in two else one & two

    def _loop(self, kind: Kind, parts: list[Cursor], needs: Needs) -> Needs:
        if kind == Kind.WHILE_STMT and len(parts) == 2:
            behind = self._expression(parts[0], needs)
            self._statement(parts[1], behind | self._true(parts[0]))
            return behind
        for part in parts:
            self._statement(part, needs)
        return needs

    def _declared(self, declared: Cursor, needs: Needs) -> Needs:
        if declared.kind != Kind.VAR_DECL:
            return needs
        self._mark((declared,), needs)
        value = initialiser(declared)
        if value is None:
            return needs
        own = self._own(declared.type)
        if own is not None and own[1] == 1:
            self.gives.append((self._node(declared, own[0]), needs | self._true(value)))
        return self._expression(value, needs)

    # ---- expressions

    def _expression(self, c: Cursor, needs: Needs) -> Needs:
        """Reads an expression; what must be so behind it."""
        cursors = preorder(c)
        if not any(part._kind_id in _BRANCHES or joins(part) for part in cursors):
            needs |= self._followed(c, False)
            self._mark(cursors, needs)
            for part in cursors:
                self._given(part, needs)
            return needs
        self._mark((c,), needs)
        self._given(c, needs)
        kind, parts = c.kind, children(c)
        if kind == Kind.StmtExpr:
            outer, self._whole = self._whole, self._whole or c
            behind = needs
            for part in parts:
                behind = self._statement(part, behind)
            self._whole = outer
            return needs if "0" in behind else behind
        if kind == Kind.CONDITIONAL_OPERATOR and len(parts) == 3:
            needs = self._expression(parts[0], needs)
            self._expression(parts[1], needs | self._true(parts[0]))
            self._expression(parts[2], needs | self._false(parts[0]))
            return needs
        if operator := joins(c):
            needs = self._expression(parts[0], needs)
            self._expression(parts[1], needs | (self._true if operator == "&&" else self._false)(parts[0]))
            return needs
        inner = inner_of(c)
        for part in parts if inner is None else (inner,):
            behind = self._expression(part, needs)
            needs = behind if kind in _OPERANDS or inner is not None else needs
        return needs

    def _followed(self, c: Cursor, address: bool) -> Needs:
        """The pointers that an expression without branches follows; ``address`` if only its place is asked for."""
        if self._unit.side == "host":
            return NOTHING
        kind, parts = c.kind, children(c)
        found = NOTHING if address else self._follows(c)
        if kind == Kind.MEMBER_REF_EXPR and parts:
            return found | self._followed(parts[0], parts[0].type.get_canonical().kind == TypeKind.RECORD and
                                          (address or is_array(c.type)))  # fmt: skip
        if kind == Kind.UNARY_OPERATOR:
            operator, inner = unary_operator(c), parts[0]
            inner = bare(inner) if operator == "*" else inner
            if operator == "*" and inner.kind == Kind.UNARY_OPERATOR and unary_operator(inner) == "&":
                return self._followed(children(inner)[0], address)  # *(T *)&x is an access to x
            return found | self._followed(parts[0], operator == "&")
        if kind == Kind.ARRAY_SUBSCRIPT_EXPR:
            return found.union(*(self._followed(part, False) for part in parts))
        if (inner := inner_of(c)) is not None:
            return found | self._followed(inner, False)
        if kind in _OPERANDS:
            return found.union(*(self._followed(part, False) for part in parts))
        return found
