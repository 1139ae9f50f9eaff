"""The lifter's machine with opaque calls: what is watched is noted, what is not known may be anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.calls import COPIES
from formal.kernel.lift.machine import Cell, State
from formal.kernel.lift.pointers import POINTERS, Mode
from formal.kernel.lift.program import Program, _Lifter
from formal.kernel.lift.unknowns import leaves_after_one, loop_parts
from formal.kernel.lift.values import Address, Object, Pointer, Value, from_truth, guarded, pointer_to
from formal.kernel.model.calls import Call
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.kernel.parse.units import TranslationUnit
from formal.logic import terms as t
from formal.logic.terms import BOOL, FALSE, TRUE, And, Not, Term

MISSING = ", which this tree does not have"
_LOOPS = (Kind.WHILE_STMT, Kind.DO_STMT, Kind.FOR_STMT)
_JUMPS = (Kind.RETURN_STMT, Kind.GOTO_STMT, Kind.LABEL_STMT, Kind.BREAK_STMT, Kind.CONTINUE_STMT)
_PLAIN = (Kind.COMPOUND_STMT, *_JUMPS)  # their parts are looked at one by one
_EXACT = ("has_vhe", "is_kernel_in_hyp_mode", "vcpu_has_nv", "get_current",  # answered as the lifter answers them
          "kvm_vcpu_get_esr", "kvm_vcpu_get_hsr", "kvm_vcpu_sys_get_rt", "kvm_vcpu_apply_reg_masks")  # fmt: skip
ACCESSORS = ("__ctxt_sys_reg", "___ctxt_sys_reg", "vcpu_cpsr",  # executed: they give the place of something modelled,
              "kvm_reset_vcpu_core", "kvm_reset_vcpu_psci")  # or are parts of a function that is read  # fmt: skip


class Walker(_Lifter):
    """The lifter's machine with opaque calls."""

    def __init__(
        self, program: Program, unit: TranslationUnit, mode: Mode, watched: Collection[str], stores: re.Pattern[str]
    ) -> None:
        super().__init__(program, unit, mode, POINTERS, {})
        self.watched, self.stores = frozenset(watched), stores
        self.calls: list[Call] = []
        self.escaped: set[Object] = set()
        self.loops: list[int] = []
        self.continued: list[State] = []
        self.exact = 0  # inside functions that are executed with all that they call
        self.known: Mapping[str, Term] = {}
        self.turn: int | None = None
        self.unrolls, self.home = 0, ""
        self._own: dict[str, bool] = {}
        self.inside: frozenset[str] = frozenset()  # functions that are executed in their place

    # ---- calls

    def call(self, cursor: Cursor) -> Value | None:
        callee = clang.callee(cursor)
        known = callee is not None and callee.kind == Kind.FUNCTION_DECL
        name = str(callee.spelling) if known and callee is not None else f"*{_pointed(cursor)}"
        gives = cursor.type.get_canonical().get_pointee()  # a function, as kvm_get_exit_handler() does
        exact = name in _EXACT or (known and gives.kind == clang.TypeKind.FUNCTIONPROTO)
        executed = name.startswith(("__lift_", "__builtin_")) or name in self.inside | (COPIES - {*self.watched})
        if self.exact or exact or executed:
            self.exact += exact
            try:
                return super().call(cursor)
            finally:
                self.exact -= exact
        if callee is not None and known and self._is_own(callee):
            kept, calls = self.keep(), len(self.calls)
            try:
                return self._called(callee, [self._argument(a) for a in cursor.get_arguments()], cursor)
            except NotUnderstoodError:
                self.take_back(kept)
                del self.calls[calls:]
        targets = () if known else self._targets(cursor)
        stems = {target.partition("[")[0] for _, target in targets}
        name = f"*{stems.pop()}" if len(stems) == 1 and len(targets) > 1 else name
        values = [self.value(argument) for argument in cursor.get_arguments()]
        held = tuple(map(self._held, values)) if name in self.watched else ()
        numbers = tuple(map(self._as_number, cursor.get_arguments(), values)) if name in self.watched else ()
        self._escape(values)
        self._forget(self._reachable())
        result = self._anything(cursor.type, f"{name}()")
        if name in self.watched:
            self._record(name, tuple(map(self._shown, values)), result, cursor)
            self.calls[-1] = replace(self.calls[-1], values=numbers, memory=held, targets=targets)
        else:
            for guard, target in (*targets, *((TRUE, one) for value in values for one in _functions(value))):
                if target in self.watched:  # called through a pointer, here or there
                    self._record(target, ("?",), None, cursor)
                    self.calls[-1] = replace(self.calls[-1], guard=And(self.calls[-1].guard, guard))
        return result

    def _is_own(self, callee: Cursor) -> bool:
        """Whether a function is a piece of its file, put apart: it gives a value, or is of a loop that is read."""
        name = str(callee.spelling)
        if name not in self._own:
            definition = callee.get_definition()
            self._own[name] = False  # as what calls itself
            own = definition is not None and clang.file_of(definition) == self.home and name not in self.watched
            if own and callee.storage_class.name == "STATIC":
                inner = clang.preorder(definition)
                calls = [c for c in inner if c.kind == Kind.CALL_EXPR and _called(c) in self.watched]
                gives = clang.is_integer(callee.result_type) and not any(c.kind in _LOOPS for c in inner)
                asks = all(clang.is_bool(c.type) for c in calls)
                self._own[name] = bool(calls) if self.unrolls else gives and asks
        return self._own[name]

    def _targets(self, cursor: Cursor) -> tuple[tuple[Term, str], ...]:
        """What a call through a pointer may go to, by the name of what holds the pointer."""
        pointer = self.value(children(cursor)[0])
        choices = pointer.choices if isinstance(pointer, Pointer) else ()
        return tuple((guard, a.object.name) for guard, a in choices if a is not None)

    def _held(self, value: Value | None) -> Mapping[str, Term]:
        """What a local variable holds to which a value points, by the names of its members."""
        choices = value.choices if isinstance(value, Pointer) else ()
        places = [a for _, a in choices if a is not None]
        if len(places) != 1 or places[0].object.place != "local":
            return {}
        of, found = places[0].object, {}
        for key in self.initial:
            held = self.state.memory.get(key, self.initial[key])
            if key[0] == of and isinstance(held, Term):
                found[self.names[key].removeprefix(f"{of.name}.")] = self.exported(key, held)
        return found

    def _as_number(self, argument: Cursor, value: Value | None) -> Term | None:
        """An argument that is a number, or one that is made a pointer."""
        inner = clang.strip_casts(argument)
        while inner.kind == Kind.CSTYLE_CAST_EXPR:
            inner = clang.strip_casts(children(inner)[-1])
        if isinstance(value, Term) or not clang.is_integer(inner.type):
            return value if isinstance(value, Term) else None
        if any(c.kind == Kind.CALL_EXPR for c in clang.preorder(inner)):
            return None
        number = self.value(inner)
        return number if isinstance(number, Term) else None

    def _record(self, name: str, arguments: tuple[str, ...], result: Value | None, cursor: Cursor) -> None:
        frame = self.scopes[-1].frame
        file = self.program.tree.relative(clang.file_of(cursor))
        line = int(cursor.location.line)
        if not file:
            file, line = self.program.tree.relative(frame.file), frame.line
        value = result if isinstance(result, Term) else None
        guard = And(self.base, self.state.live)
        self.calls.append(Call(name, guard, arguments, value, file, line, tuple(self.loops)))

    def _shown(self, value: Value | None) -> str:
        if isinstance(value, Pointer):
            targets = [a for _, a in value.choices if a is not None]
            return _spelled(targets[0]) if len(targets) == 1 else "?"
        return str(t.value_of(value)) if value is not None and t.is_const(value) else "?"

    def pointed(self, pointer: Pointer) -> str:
        """How what a pointer points to is shown, if it is one thing."""
        return self._shown(pointer)

    def shown(self, lvalue: str) -> str:
        """How a pointer to an lvalue is shown; as nothing is, if the tree has no such place."""
        try:
            return _spelled(self.address(lvalue))
        except NotUnderstoodError:
            return f"{lvalue}{MISSING}"

    def _observe(self, guard: Term, key: Cell, value: Value) -> None:
        super()._observe(guard, key, value)
        lvalue, place = self.names[key], self.scopes[-1].frame
        if self.stores.search(lvalue):
            exported, file = self.exported(key, value), self.program.tree.relative(place.file)
            given = (self._shown(value),) if isinstance(value, Pointer) else ()
            self.calls.append(Call(f"= {lvalue}", guard, given, exported, file, place.line, tuple(self.loops)))

    def _escape(self, values: Iterable[Value | None]) -> None:
        for value in values:
            if isinstance(value, Pointer):
                self.escaped |= {a.object for _, a in value.choices if a is not None and a.object.place == "local"}

    # ---- what is not known

    def _anything(self, kind: Type, why: str) -> Value | None:
        """A value of a type, of which nothing is known."""
        name = f"{why}#{self.serial()}"
        if clang.is_pointer(kind):
            pointee = Object(name, "pointee", kind.get_canonical().get_pointee())
            present = t.var(f"{name} != NULL", BOOL)
            return guarded([(present, Address(pointee, 0)), (Not(present), None)])
        if clang.is_bool(kind):
            return from_truth(t.var(name, BOOL), clang.bits(kind))
        if clang.is_record(kind):  # as guard() gets it
            record = Object(name, "local", kind)
            self.escaped.add(record)
            return pointer_to(record)
        return t.var(name, clang.bits(kind)) if clang.is_integer(kind) else None

    def _unknown(self, key: Cell, kind: Type) -> Value:
        """What a local variable holds whose address has been passed on before it is set: anything."""
        known = next((v for end, v in self.known.items() if self.names[key].endswith(end)), None)
        if known is not None and clang.is_integer(kind):
            return t.extract(known, clang.bits(kind) - 1, 0)
        value = self._anything(kind, self.names[key]) if key[0] in self.escaped else None
        return super()._unknown(key, kind) if value is None else value

    def _reachable(self) -> Iterator[Cell]:
        kept = ("local", "text")
        return (k for k in self.initial if k[0] in self.escaped or (k[0].place not in kept and k[0] not in self.fixed))

    def _forget(self, cells: Iterable[Cell]) -> None:
        """These cells may hold anything from now on."""
        for key in list(cells):
            if self.rules.get(self.names[key]) is None and key in self.types and key[0] not in self.fixed:
                value = self._anything(self.types[key], self.names[key])
                if value is not None:
                    self.state.memory[key] = value

    @contextmanager
    def _tolerant(self, cursor: Cursor) -> Iterator[list[NotUnderstoodError]]:
        """Puts the machine back where a piece of source is refused, unless something watched is in it."""
        kept = (self.state.live, dict(self.state.memory), self.base, list(self.scopes), self.breaks, self.escapes,
                len(self.calls), len(self.loops))  # fmt: skip
        failed: list[NotUnderstoodError] = []
        try:
            yield failed
        except NotUnderstoodError as error:
            if self._matters(cursor):
                raise self.refusal(cursor, error.reason) from error
            live, memory, self.base, scopes, self.breaks, self.escapes, calls, loops = kept
            self.state, self.scopes = State(live, memory), scopes
            del self.calls[calls:], self.loops[loops:]
            failed.append(self.refusal(cursor, ""))
            self._forget(self._reachable())
            self._forget(self._assigned(cursor))

    def _matters(self, cursor: Cursor) -> bool:
        for inner in clang.preorder(cursor):
            if inner.kind == Kind.CALL_EXPR and inner.referenced is not None:
                if inner.referenced.spelling in {*self.watched, *self.inside} - {*ACCESSORS}:
                    return True
            elif inner.kind == Kind.MEMBER_REF_EXPR and self.stores.search(f"->{inner.spelling}"):
                return True
        return False

    def _assigned(self, cursor: Cursor) -> Iterator[Cell]:
        """The cells of local variables that are named in a piece of source; of pointers, those that are assigned."""
        named = {c.referenced.hash for c in clang.preorder(cursor) if c.kind == Kind.DECL_REF_EXPR and c.referenced}
        moved = {h for c in clang.preorder(cursor) if (h := _target(c)) is not None}
        objects = {v: h in moved for scope in self.scopes for h, v in scope.variables.items() if h in named}
        pointer = clang.is_pointer
        return (k for k in self.initial if k[0] in objects and (objects[k[0]] or not pointer(self.types[k])))

    def value(self, cursor: Cursor) -> Value | None:
        result: Value | None = None
        with self._tolerant(cursor) as failed:
            result = super().value(cursor)
        return self._anything(cursor.type, "unknown") if failed else result

    def assembly(self, cursor: Cursor) -> None:
        """Executes what is understood; else anything may be different afterwards."""
        try:
            super().assembly(cursor)
        except NotUnderstoodError:
            self._forget(self._reachable())

    # ---- statements

    def execute(self, cursor: Cursor) -> None:
        once = (cursor.kind == Kind.DO_STMT and clang.constant(children(cursor)[1]) == 0) or leaves_after_one(cursor)
        if cursor.kind in _LOOPS and not once and self.state.live is not FALSE:
            if not (self.unrolls and self._unrolled(cursor)):
                self._loop(cursor)
            return
        if cursor.kind == Kind.CONTINUE_STMT and self.loops:
            self.continued.append(self.leave())
            return
        if cursor.kind in _PLAIN or any(inner.kind in _JUMPS for inner in clang.preorder(cursor)):
            super().execute(cursor)
            return
        with self._tolerant(cursor):
            super().execute(cursor)

    def _unrolled(self, cursor: Cursor) -> bool:
        """Executes a loop round by round; False if it does not tell how many it has."""
        start, condition, step, body, first = loop_parts(cursor)
        kept, calls, around = self.keep(), len(self.calls), self.loops
        self.loops = []
        if start is not None:
            self.execute(start)
        done = self._rounds(condition, step, body, first)
        self.loops = around
        if not done:
            self.take_back(kept)
            del self.calls[calls:]
        return done

    def _loop(self, cursor: Cursor) -> None:
        *head, last = children(cursor)
        body, condition = (last, None)
        if cursor.kind == Kind.DO_STMT:
            body = head[0]
        elif cursor.kind == Kind.WHILE_STMT:
            condition = head[0]
        else:
            for part in head[:1]:
                self.execute(part)
        counter = self._counter(cursor)
        condition = head[1] if counter is not None else condition
        self._forget([*self._reachable(), *self._assigned(cursor)])
        if counter is not None:
            self.state.memory[counter] = t.const(self.turn or 0, counter[2] * 8)
        start, escapes = self.state, self.escapes
        pending = {label: len(states) for label, states in self.scopes[-1].pending.items()}
        returned, continued = len(self.scopes[-1].returns), len(self.continued)
        self.loops.append(int(cursor.extent.start.line))
        self.breaks.append([])
        entered = self.condition(condition) if condition is not None else TRUE
        self.state = self.state.under(entered)
        self.execute(body)
        if cursor.kind == Kind.DO_STMT and self.state.live is not FALSE:
            self.value(last)  # whatever it calls is called in the loop
        if cursor.kind == Kind.FOR_STMT and counter is None:
            for part in head[1:] if len(head) == 3 else head:
                if any(c.kind == Kind.CALL_EXPR and _called(c) in self.watched for c in clang.preorder(part)):
                    self.value(part)
        if counter is not None:
            self._next_turn(cursor, counter, [*self.continued[continued:], self.state], head[2])
        self.loops.pop()
        left = self.breaks.pop()
        again = len(self.continued) - continued
        del self.continued[continued:]
        gone = [state.live for state in self.scopes[-1].returns[returned:]]
        for label, states in self.scopes[-1].pending.items():
            gone += [state.live for state in states[pending.get(label, 0) :]]
        self.escapes -= len(left) + again
        live = And(start.live, *(Not(one) for one in gone)) if self.escapes != escapes else start.live
        self.state = State(live, dict(start.memory))
        self._forget([*self._reachable(), *self._assigned(cursor)])

    def _counter(self, cursor: Cursor) -> Cell | None:
        """The variable that a ``for`` loop counts with, if a certain round is wanted; it is noted where it starts."""
        parts = children(cursor)
        step = parts[2] if cursor.kind == Kind.FOR_STMT and len(parts) == 4 else None
        moved = _target(step) if step is not None and self.turn is not None else None
        objects = {v for scope in self.scopes for h, v in scope.variables.items() if h == moved}
        cells = [key for key in self.initial if key[0] in objects]
        if moved is None or len(cells) != 1:
            return None
        start = self.state.memory.get(cells[0])
        self._record("= start", (), start, cursor)
        return cells[0]

    def _next_turn(self, cursor: Cursor, counter: Cell, ends: list[State], step: Cursor) -> None:
        """Notes what a counter is after the step; a round that does not get there is none."""
        self.state = self.join(ends)
        if self.state.live is not FALSE:
            self.value(step)
            self._record("= next", (), self.state.memory.get(counter), cursor)


def _functions(value: Value | None) -> Iterator[str]:
    """The functions to which a value may point."""
    choices = value.choices if isinstance(value, Pointer) else ()
    return (a.object.name for _, a in choices if a is not None and a.object.place == "text")


def _target(cursor: Cursor) -> int | None:
    """The variable that an expression changes, or whose address it takes, by the hash of its declaration."""
    unary = cursor.kind == Kind.UNARY_OPERATOR and clang.unary_operator(cursor) in ("&", "++", "--", "p++", "p--")
    binary = cursor.kind == Kind.BINARY_OPERATOR and clang.binary_operator(cursor) == "="
    if not (unary or binary or cursor.kind == Kind.COMPOUND_ASSIGNMENT_OPERATOR):
        return None
    target = clang.strip_casts(children(cursor)[0])
    return int(target.referenced.hash) if target.kind == Kind.DECL_REF_EXPR and target.referenced else None


def _spelled(address: Address) -> str:
    return address.object.name.split("#")[0] + (f"+{address.offset}" if address.offset else "")


def _called(cursor: Cursor) -> str:
    """What a call is named."""
    callee = clang.callee(cursor)
    known = callee is not None and callee.kind == Kind.FUNCTION_DECL
    return str(callee.spelling) if known and callee is not None else f"*{_pointed(cursor)}"


def _pointed(cursor: Cursor) -> str:
    """What a call through a pointer names: the member or variable that holds the pointer."""
    parts = children(cursor)
    inside = clang.preorder(parts[0]) if parts else ()
    named = [c for c in inside if c.kind in (Kind.MEMBER_REF_EXPR, Kind.DECL_REF_EXPR)]
    return str(named[0].spelling) if named else "?"
