"""C statements, and functions as their bodies: branches fork and merge, jumps forward are kept until their label."""

from __future__ import annotations

from abc import abstractmethod

from formal.kernel.lift.initial import scalars
from formal.kernel.lift.machine import Frame, Scope, State
from formal.kernel.lift.operators import Operators
from formal.kernel.lift.values import NULL, IntType, Object, Pointer, Value, moved, pointer_to
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.logic import terms as t
from formal.logic.known import decided
from formal.logic.terms import FALSE, TRUE, And, Eq, Not, Term

_HARMLESS = (Kind.UNEXPOSED_ATTR, Kind.ALIGNED_ATTR)  # unused, and others that change no value
_DEPTH = 24  # calls inside calls


class Statements(Operators):
    """Executes statements on the machine."""

    breaks: list[list[State]]  # per switch or loop being executed, innermost last
    continues: list[list[State]]  # per loop

    @abstractmethod
    def loop(self, cursor: Cursor) -> None:
        """Executes a loop."""

    # ---- functions

    def enter(self, function: Cursor, arguments: list[Value]) -> Value | None:
        """Executes a function's body and gives the value it returns."""
        name = function.spelling
        if len(self.scopes) >= _DEPTH or any(scope.frame.function == name for scope in self.scopes):
            raise self.refusal(function, f"{name} calls itself, or calls are too deep")
        parameters = list(function.get_arguments())
        bodies = [c for c in children(function) if c.kind == Kind.COMPOUND_STMT]
        if len(parameters) != len(arguments) or len(bodies) != 1 or function.type.is_function_variadic():
            raise self.refusal(function, f"{name} has another signature than its call, or no body")
        outside, base, escapes, around = self.state.live, self.base, self.escapes, (self.breaks, self.continues)
        self.entered.add((name, clang.file_of(function)))
        scope = Scope(Frame(name, clang.file_of(function), function.location.line))
        self.scopes.append(scope)
        self.base, self.breaks, self.continues = And(base, outside), [], []
        self.state.live = TRUE
        for parameter, value in zip(parameters, arguments, strict=True):
            self._declare(parameter, value)
        self.execute(bodies[0])
        if scope.pending:
            raise self.refusal(function, f"goto {next(iter(scope.pending))} into a nested block")
        if scope.result is not None and self.state.live is not FALSE:  # (C11 6.9.1p12)
            self.state.memory[scope.result] = self.unknown(function, function.result_type, "nothing is returned here")
        ended = self.join([*scope.returns, self.state])
        lost = self.escapes - escapes - len(scope.returns)
        self.scopes.pop()
        self.base, self.escapes = base, escapes + lost
        self.breaks, self.continues = around
        local = set(scope.variables.values())
        result = ended.memory.get(scope.result) if scope.result is not None else None
        if isinstance(result, Pointer) and clang.is_record(function.result_type):  # what is returned outlives the call
            local -= {address.object for _, address in result.choices if address is not None}
        ended.memory = {k: v for k, v in ended.memory.items() if k[0] not in local and k != scope.result}
        ended.live = And(outside, ended.live) if lost else outside
        self.state = ended
        return result

    def _declare(self, declaration: Cursor, value: Value | None) -> None:
        variable = Object(f"{declaration.spelling}#{self.serial()}", "local", declaration.type)
        self.scopes[-1].variables[declaration.hash] = variable
        if value is not None:
            if clang.is_record(declaration.type):
                if not isinstance(value, Pointer):
                    raise self.refusal(declaration, f"a whole {declaration.type.spelling} that is not known")
                self.copy(pointer_to(variable), value, declaration.type, declaration)
            else:
                self.store(pointer_to(variable), declaration.type, value, declaration)

    def copy(self, target: Pointer, source: Pointer, kind: Type, cursor: Cursor) -> None:
        """Copies an object part by part."""
        parts = list(self.layout.leaves(kind))
        if self.layout.has_bitfields(kind):
            raise self.refusal(cursor, f"a copy of a whole {kind.spelling}, which has bit-fields")
        values = [self.load(moved(source, offset), part, cursor) for offset, part in parts]
        for (offset, part), value in zip(parts, values, strict=True):
            self.store(moved(target, offset), part, value, cursor)

    def clear(self, target: Pointer, kind: Type, cursor: Cursor) -> None:
        """Every part of an object is 0 or NULL."""
        if self.layout.has_bitfields(kind):
            raise self.refusal(cursor, f"a whole {kind.spelling}, which has bit-fields, is cleared")
        for offset, part in self.layout.leaves(kind):
            zero = NULL if clang.is_pointer(part) else t.const(0, clang.bits(part))
            self.store(moved(target, offset), part, zero, cursor)

    # ---- statements

    def block(self, statements: list[Cursor]) -> Value | None:
        """Executes statements; the value of the last if it is an expression."""
        for statement in statements[:-1]:
            self.execute(statement)
        if not statements:
            return None
        last = statements[-1]
        if last.kind.is_expression() and self.state.live is not FALSE:
            self._at_line(last)
            return self.value(last)
        self.execute(last)
        return None

    def _at_line(self, cursor: Cursor) -> None:
        frame = self.scopes[-1].frame if self.scopes else None
        if frame is not None and clang.file_of(cursor) == frame.file:
            self.scopes[-1].frame = Frame(frame.function, frame.file, cursor.extent.start.line)

    def execute(self, cursor: Cursor) -> None:
        """Executes one statement on the current paths."""
        kind, parts = cursor.kind, children(cursor)
        if self.state.live is FALSE and kind not in (Kind.COMPOUND_STMT, Kind.LABEL_STMT):
            if kind != Kind.GOTO_STMT and any(c.kind == Kind.LABEL_STMT for c in clang.preorder(cursor)):
                raise self.refusal(cursor, "a label inside a statement that is not reached from above")
            return
        self._at_line(cursor)
        if kind == Kind.COMPOUND_STMT:
            self._compound(parts)
        elif kind == Kind.NULL_STMT or (kind == Kind.UNEXPOSED_STMT and _only_attributes(cursor)):
            pass
        elif kind == Kind.DECL_STMT:
            for declaration in parts:
                self._variable_declaration(declaration)
        elif kind == Kind.IF_STMT and 2 <= len(parts) <= 3:
            self._if(parts)
        elif kind == Kind.RETURN_STMT:
            self._return(parts)
        elif kind == Kind.GOTO_STMT:
            self._goto(cursor, parts)
        elif kind == Kind.LABEL_STMT:
            self._label(cursor, parts)
        elif kind == Kind.SWITCH_STMT and len(parts) == 2:
            self._switch(parts)
        elif kind == Kind.BREAK_STMT and self.breaks:
            innermost = self.breaks[-1]
            innermost.append(self.leave())
        elif kind == Kind.CONTINUE_STMT and self.continues:
            self.continues[-1].append(self.leave())
        elif kind == Kind.DO_STMT and len(parts) == 2 and clang.constant(parts[1]) == 0:
            self._do_once(parts)
        elif kind in (Kind.DO_STMT, Kind.WHILE_STMT, Kind.FOR_STMT):
            self.loop(cursor)
        elif kind == Kind.ASM_STMT:
            self.assembly(cursor)
        elif kind.is_expression():
            self.value(cursor)
        else:
            raise self.refusal(cursor, f"{kind.name} is not understood as a statement")

    def _compound(self, parts: list[Cursor]) -> None:
        """A block; on every way out of it, what its variables clean up is cleaned up, the last one first."""
        for n, part in enumerate(parts):
            self.execute(part)
            if part.kind == Kind.DECL_STMT and any(_cleanup(declaration) for declaration in children(part)):
                outside = self._waiting()
                self._compound(parts[n + 1 :])
                for declaration in reversed(children(part)):
                    self._clean_up(declaration, outside)
                return

    def _waiting(self) -> dict[int, State]:
        """The paths that have left the construct being executed, by identity."""
        scope = self.scopes[-1]
        lists = [scope.returns, *scope.pending.values(), *self.breaks, *self.continues]
        return {id(state): state for states in lists for state in states}

    def _clean_up(self, declaration: Cursor, outside: dict[int, State]) -> None:
        name = _cleanup(declaration)
        if name is None:
            return
        function = self.function_named(name, declaration)
        variable = self.scopes[-1].variables.get(declaration.hash)
        if variable is None:
            raise self.refusal(declaration, f"what cleans up {declaration.spelling}, which is not understood")
        scope, here = self.scopes[-1], self.state
        for states in (scope.returns, *scope.pending.values(), *self.breaks, *self.continues):
            for n, state in enumerate(states):
                if id(state) not in outside:
                    self.state = state
                    self.enter(function, [pointer_to(variable)])
                    states[n] = self.state
        self.state = here
        if here.live is not FALSE:
            self.enter(function, [pointer_to(variable)])

    @abstractmethod
    def function_named(self, name: str, cursor: Cursor) -> Cursor:
        """The definition of a function that is seen at a place."""

    def _variable_declaration(self, declaration: Cursor) -> None:
        if declaration.kind in (Kind.STATIC_ASSERT, Kind.FUNCTION_DECL, Kind.STRUCT_DECL, Kind.TYPEDEF_DECL):
            return
        if declaration.kind != Kind.VAR_DECL:
            raise self.refusal(declaration, f"declaration of {declaration.spelling or declaration.kind.name}")
        if declaration.storage_class.name == "EXTERN":
            self.scopes[-1].variables[declaration.hash] = Object(declaration.spelling, "global", declaration.type)
            return
        if declaration.storage_class.name == "STATIC":
            name = f"{self.scopes[-1].frame.function}.{declaration.spelling}"
            self.scopes[-1].variables[declaration.hash] = self.lasting(name, declaration)
            return
        attributes = [c for c in children(declaration) if c.kind.is_attribute()]
        if any(c.kind not in _HARMLESS or _cleans_up(c) for c in attributes) and _cleanup(declaration) is None:
            raise self.refusal(declaration, f"{declaration.spelling} has an attribute")
        start = clang.initialiser(declaration)
        if start is not None and start.kind == Kind.INIT_LIST_EXPR:
            if not children(start) and clang.is_record(declaration.type):
                self._declare_zeroed(declaration)
                return
            listed = scalars(self.layout, start, declaration.type)
            if listed is not None and not self.layout.has_bitfields(declaration.type):
                self._declare_listed(declaration, listed)
                return
            if not self.is_plain(start):
                raise self.refusal(declaration, f"{declaration.spelling} has an initialiser list")
            self._declare(declaration, None)
            place = pointer_to(self.scopes[-1].variables[declaration.hash])
            for offset, part in self.layout.leaves(declaration.type):
                self.store(moved(place, offset), part, self.unknown(start, part, "an initialiser list"), declaration)
            return
        self._declare(declaration, self.operand(start) if start is not None else None)

    def _declare_zeroed(self, declaration: Cursor) -> None:
        """``struct s v = {}``: every member is 0 or NULL."""
        self._declare(declaration, None)
        self.clear(pointer_to(self.scopes[-1].variables[declaration.hash]), declaration.type, declaration)

    def _declare_listed(self, declaration: Cursor, listed: list[tuple[int, Type, Cursor]]) -> None:
        """``T v[] = {x, [3] = y}`` and the like: what is not named is 0 or NULL."""
        values = [(offset, kind, self.convert(self.operand(c), c.type, kind, c)) for offset, kind, c in listed]
        self._declare_zeroed(declaration)
        place = pointer_to(self.scopes[-1].variables[declaration.hash])
        for offset, kind, value in values:
            self.store(moved(place, offset), kind, value, declaration)

    def _if(self, parts: list[Cursor]) -> None:
        condition = self.condition(parts[0])

        def branch(part: Cursor | None) -> None:
            if part is not None:
                self.execute(part)

        self.either(condition, lambda: branch(parts[1]), lambda: branch(parts[2] if len(parts) == 3 else None))

    def _return(self, parts: list[Cursor]) -> None:
        scope = self.scopes[-1]
        if parts:
            value = self.value(parts[0])
            if value is not None:
                if scope.result is None:
                    scope.result = (Object(f"return#{self.serial()}", "local"), 0, 0)
                self.state.memory[scope.result] = value
        scope.returns.append(self.leave())

    def _goto(self, cursor: Cursor, parts: list[Cursor]) -> None:
        label, scope = parts[0].spelling, self.scopes[-1]
        if label in scope.passed:
            raise self.refusal(cursor, f"goto {label} backwards")
        waiting = scope.pending.setdefault(label, [])
        waiting.append(self.leave())

    def _label(self, cursor: Cursor, parts: list[Cursor]) -> None:
        scope = self.scopes[-1]
        scope.passed.add(cursor.spelling)
        arriving = scope.pending.pop(cursor.spelling, [])
        self.escapes -= len(arriving)
        self.state = self.join([*arriving, self.state])
        self.execute(parts[-1])

    def _do_once(self, parts: list[Cursor]) -> None:
        start, escapes = self.state.live, self.escapes
        self.breaks.append([])
        self.continues.append([])
        self.execute(parts[0])
        again = self.continues.pop()
        self.escapes -= len(again)
        self.state = self.join([*again, self.state])
        self._rejoin(start, escapes)

    def _rejoin(self, start: Term, escapes: int, more: list[State] | None = None) -> None:
        """After a switch or loop: the paths that broke out of it, and those that ran through."""
        left = self.breaks.pop()
        self.state = self.join([*left, *(more or []), self.state])
        self.escapes -= len(left)
        if self.escapes == escapes and self.state.live is not FALSE:
            self.state.live = start

    def _switch(self, parts: list[Cursor]) -> None:
        subject = self.integer(parts[0])
        if parts[1].kind != Kind.COMPOUND_STMT:
            raise self.refusal(parts[1], "a switch without a block")
        steps: list[tuple[str, Cursor, Term]] = []
        for part in children(parts[1]):
            self._flatten(part, subject, IntType.of(parts[0].type), steps)
        none = And(*(Not(matches) for what, _, matches in steps if what == "case"))
        start, escapes = self.state, self.escapes
        self.state = State(FALSE, {})
        self.breaks.append([])
        for what, statement, condition in steps:
            if what == "do":
                self.execute(statement)
                continue
            matches = none if what == "default" else condition
            self.state = self.merge(matches, start.under(matches), self.state)
        skipped = [] if any(what == "default" for what, _, _ in steps) else [start.under(none)]
        self._rejoin(start.live, escapes, skipped)

    def _flatten(self, cursor: Cursor, subject: Term, kind: IntType, steps: list[tuple[str, Cursor, Term]]) -> None:
        """A switch's block as a list of labels, each with the condition that it matches, and statements."""
        if cursor.kind not in (Kind.CASE_STMT, Kind.DEFAULT_STMT):
            below = _below_switches(cursor) if cursor.kind != Kind.SWITCH_STMT else []
            if any(c.kind in (Kind.CASE_STMT, Kind.DEFAULT_STMT) for c in below):
                raise self.refusal(cursor, "a case label inside a nested block")
            steps.append(("do", cursor, FALSE))
            return
        parts = children(cursor)
        if cursor.kind == Kind.CASE_STMT:
            numbers = [clang.constant(part) for part in parts[:-1]]
            bounds = [t.const(number, kind.bits) for number in numbers if number is not None]
            if len(bounds) != len(numbers) or not 1 <= len(bounds) <= 2:
                raise self.refusal(cursor, "a case that is no constant")
            at_most = t.sle if kind.signed else t.ule
            between = And(at_most(bounds[0], subject), at_most(subject, bounds[-1]))  # GNU: case low ... high
            steps.append(("case", cursor, between if len(bounds) == 2 else decided(Eq(subject, bounds[0]))))
        else:
            steps.append(("default", cursor, FALSE))
        self._flatten(parts[-1], subject, kind, steps)


def _cleanup(declaration: Cursor) -> str | None:
    """The function that is called when a variable goes out of scope."""
    found = [c.spelling for c in children(declaration) if c.kind == Kind.ANNOTATE_ATTR]
    return next((str(text).split()[1] for text in found if text.startswith("__lift_cleanup ")), None)


def _cleans_up(attribute: Cursor) -> bool:
    return any("cleanup" in token.spelling for token in attribute.get_tokens())


def _only_attributes(cursor: Cursor) -> bool:
    """Whether a statement is just an attribute, as ``fallthrough;`` is."""
    return all(c.kind in (Kind.NULL_STMT, Kind.UNEXPOSED_ATTR) for c in children(cursor))


def _below_switches(cursor: Cursor) -> list[Cursor]:
    """The statements below a cursor, not those of switches inside it."""
    found: list[Cursor] = []
    for child in children(cursor):
        if child.kind != Kind.SWITCH_STMT:
            found.append(child)
            found.extend(_below_switches(child))
    return found
