"""What is not understood, as unknowns: a value, what a loop writes, what a function that is not lifted may write.

An unknown is a variable with a place, and stands for any value: more can then happen than does, never less.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.machine import Cell, Scope, State
from formal.kernel.lift.statements import Statements
from formal.kernel.lift.values import Address, Object, Pointer, Value
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.logic.terms import FALSE, TRUE, And, Not, Term

_ROUNDS = 70  # of a loop that is executed round by round
_PASSES = 8  # until no more is found that a loop writes
_LEAVES = 512  # parts of an object that are made unknown one by one
_LOCKS = frozenset(
    "mutex spinlock raw_spinlock rw_semaphore rwlock_t srcu_struct lockdep_map qspinlock qrwlock".split()
)


@dataclass(frozen=True)
class _Kept:
    """The machine before something that may be taken back."""

    state: State
    base: Term
    scopes: list[Scope]
    breaks: list[list[State]]
    continues: list[list[State]]
    escapes: int
    counts: tuple[int, int]


class Unknowns(Statements):
    """Loops and calls that may not be understood."""

    rounds = _ROUNDS
    modelled: Callable[[str], bool]  # whether an lvalue is: then may_write says who writes it

    @abstractmethod
    def may_write(self, cursor: Cursor) -> Collection[str] | None:
        """The modelled lvalues that a function that is called may write; ``None`` if that is not known."""

    # ---- taking back

    def keep(self) -> _Kept:
        """The machine as it is."""
        scopes = [
            replace(s, variables=dict(s.variables), returns=list(s.returns), passed=set(s.passed),
                    pending={label: list(states) for label, states in s.pending.items()})
            for s in self.scopes
        ]  # fmt: skip
        state = State(self.state.live, dict(self.state.memory))
        lists = [list(states) for states in self.breaks], [list(states) for states in self.continues]
        return _Kept(state, self.base, scopes, *lists, self.escapes, (len(self.events), len(self.obligations)))

    def take_back(self, kept: _Kept) -> None:
        """The machine as it was; what was found is forgotten."""
        self.state = State(kept.state.live, dict(kept.state.memory))
        self.base, self.escapes = kept.base, kept.escapes
        self.breaks, self.continues = [list(s) for s in kept.breaks], [list(s) for s in kept.continues]
        del self.scopes[len(kept.scopes) :]
        for scope, s in zip(self.scopes, kept.scopes, strict=True):
            scope.frame, scope.result = s.frame, s.result
            scope.variables, scope.returns, scope.passed = dict(s.variables), list(s.returns), set(s.passed)
            scope.pending = {label: list(states) for label, states in s.pending.items()}
        del self.events[kept.counts[0] :], self.obligations[kept.counts[1] :]

    # ---- loops

    def loop(self, cursor: Cursor) -> None:
        """A loop: round by round while its condition is a constant, else any number of rounds."""
        start, condition, step, body, first = loop_parts(cursor)
        if start is not None:
            self.execute(start)
        if self.state.live is FALSE:
            return
        kept = self.keep()
        if not self._rounds(condition, step, body, first):
            self.take_back(kept)
            self._any_rounds(cursor, condition, step, body, kept)

    def _round(self, condition: Cursor | None, step: Cursor | None, body: Cursor) -> Term:
        """One round; the condition under which it was taken."""
        taken = self.condition(condition) if condition is not None else TRUE
        self.state = self.state.under(taken)
        self.continues.append([])
        self.execute(body)
        again = self.continues.pop()
        self.escapes -= len(again)
        self.state = self.join([*again, self.state])
        if step is not None and self.state.live is not FALSE:
            scope, ends = self.scopes[-1], _ends(body)
            scope.passed -= ends
            self.value(step)
            for label in ends:  # a jump to the body's break, as scoped_guard() makes it
                self.breaks[-1] += scope.pending.pop(label, [])
        return taken

    def _rounds(self, condition: Cursor | None, step: Cursor | None, body: Cursor, first: bool) -> bool:
        live, escapes = self.state.live, self.escapes
        self.breaks.append([])
        for n in range(self.rounds):
            if self.state.live is FALSE:
                break
            asked = condition if n or not first else None
            if asked is not None:
                kept = State(self.state.live, dict(self.state.memory))
                taken = self.condition(asked)
                if taken is FALSE:
                    break
                if taken is not TRUE:
                    return False
                self.state = kept
            elif condition is None and n > 1 and not self.breaks[-1] and self.escapes == escapes:
                return False
            self._round(asked, step, body)
        else:
            return False
        self._rejoin(live, escapes)
        return True

    def _any_rounds(
        self, cursor: Cursor, condition: Cursor | None, step: Cursor | None, body: Cursor, kept: _Kept
    ) -> None:
        written: dict[Cell, None] = {}
        before = self.serial()
        for _ in range(_PASSES):
            self.take_back(kept)
            self._any_value(written, cursor, "a loop")
            middle = dict(self.state.memory)
            live, escapes = self.state.live, self.escapes
            self.breaks.append([])
            asked = self.condition(condition) if condition is not None else TRUE
            after = State(self.state.live, dict(self.state.memory))
            self._round(condition, step, body)
            ends = [self.state, after, *self.breaks[-1], *self.scopes[-1].returns]
            ends += [state for states in self.scopes[-1].pending.values() for state in states]
            changed = {
                key for state in ends for key, value in state.memory.items()
                if value is not middle.get(key, self.initial.get(key)) and not _younger(key[0], before)
            }  # fmt: skip
            if changed <= written.keys():
                self.state = State(And(live, Not(asked)), after.memory)
                self._rejoin(live, escapes)
                return
            written |= dict.fromkeys(sorted(changed - written.keys(), key=lambda key: self.names.get(key, "")))
        raise self.refusal(cursor, "a loop that writes ever more")

    def _any_value(self, cells: Iterable[Cell], cursor: Cursor, reason: str) -> None:
        for key in cells:
            if key in self.types:
                self.state.memory[key] = self.unknown(cursor, self.types[key], reason)

    def _any_bytes(self, target: Pointer, cursor: Cursor, reason: str) -> None:
        """What a pointer to a local variable points to is unknown; other memory is not written like this."""
        for _, address in target.choices:
            if address is None:
                continue
            if address.object.place != "local":
                raise self.refusal(cursor, reason)
            self._any_value(self._whole(address.object, cursor), cursor, reason)

    # ---- calls of which nothing is known

    def opaque_call(self, cursor: Cursor, values: list[Value], refusal: NotUnderstoodError) -> Value | None:
        """A call: what its function may write is unknown afterwards, and what it gives."""
        callee = clang.callee(cursor)
        known = callee is not None and callee.kind == Kind.FUNCTION_DECL
        name = str(callee.spelling) if known and callee is not None else "a function called through a pointer"
        if known and "__lift_error" in _annotations(callee):
            return None  # the compiler refuses code that can get here
        if not (known and (_only_locks(callee) or _prints(callee))):
            targets = self.may_write(cursor)
            if targets is None:
                raise refusal
            reason = f"{name}() may write it" if known else f"{name} may write it"
            for lvalue in sorted(targets):
                self._any_value(self._cells(lvalue, cursor), cursor, reason)
            self._any_value([k for k in self.initial if self._open(k)], cursor, reason)
            self._any_value(self._handed(callee if known else None, values), cursor, reason)
        kind = cursor.type
        if kind.get_canonical().kind == clang.TypeKind.VOID:
            return None
        return self.unknown(cursor, kind, f"what {name}() gives" if known else f"what {name} gives")

    def _open(self, key: Cell) -> bool:
        """Whether memory is not the function's own, and no part of the model: any other function may write it."""
        return key[0].place not in ("local", "text") and not self.modelled(self.names[key])

    def _cells(self, lvalue: str, cursor: Cursor) -> Iterator[Cell]:
        """The cells that an lvalue stands for."""
        if lvalue.startswith("hw."):
            yield self.cell(Address(Object(lvalue, "hardware"), 0), self.word(), cursor)
            return
        address, kind = self.place_of(lvalue)
        parts = list(self.layout.leaves(kind))
        if len(parts) > _LEAVES:
            raise self.refusal(cursor, f"{lvalue} may be written, which has {len(parts)} parts")
        for offset, part in parts:
            yield self.cell(address._replace(offset=address.offset + offset), part, cursor)

    def _handed(self, callee: Cursor | None, values: list[Value]) -> list[Cell]:
        """The cells of local variables that a function gets a way to."""
        constant = [_is_const(p.type) for p in callee.get_arguments()] if callee is not None else []
        open_ = [v for n, v in enumerate(values) if not (n < len(constant) and constant[n])]
        objects: dict[Object, None] = {}
        while open_:
            value = open_.pop()
            for _, address in value.choices if isinstance(value, Pointer) else ():
                if address is not None and address.object.place == "local" and address.object not in objects:
                    objects[address.object] = None
                    open_ += [v for k, v in self.state.memory.items() if k[0] == address.object]
        return [key for target in objects for key in self._whole(target, callee)]

    def _whole(self, target: Object, cursor: Cursor) -> list[Cell]:
        """All cells of a variable."""
        for offset, part in list(self.layout.leaves(target.type))[:_LEAVES] if target.type is not None else ():
            spans = [(start, size) for owner, start, size in self.initial if owner == target]
            size = clang.bits(part) // 8
            if not any(start < offset + size and offset < start + length for start, length in spans):
                self.cell(Address(target, offset), part, cursor)
        return [key for key in self.initial if key[0] == target]

    @abstractmethod
    def word(self) -> Type:
        """A type of 64 bits."""

    @abstractmethod
    def place_of(self, lvalue: str) -> tuple[Address, Type]:
        """Where an lvalue is, and its type."""


def _younger(target: Object, serial: int) -> bool:
    """Whether a local variable was declared later."""
    number = target.name.rpartition("#")[2]
    return target.place == "local" and number.isdigit() and int(number) > serial


def _annotations(declaration: Cursor) -> set[str]:
    return {str(c.spelling) for c in children(declaration) if c.kind == Kind.ANNOTATE_ATTR}


def _is_const(kind: Type) -> bool:
    canonical = kind.get_canonical()
    return canonical.kind == clang.TypeKind.POINTER and bool(canonical.get_pointee().is_const_qualified())


def _prints(callee: Cursor) -> bool:
    """Whether a function formats a message, and gets no memory to put it."""
    pointers = [p.type for p in callee.get_arguments() if clang.is_pointer(p.type)]
    return "__lift_format" in _annotations(callee) and all(map(_is_const, pointers))


def _only_locks(callee: Cursor) -> bool:
    """Whether all that a function gets is locks."""
    pointers = [p.type.get_canonical().get_pointee() for p in callee.get_arguments()]
    return bool(pointers) and all(kind.get_declaration().spelling in _LOCKS for kind in pointers)


def loop_parts(cursor: Cursor) -> tuple[Cursor | None, Cursor | None, Cursor | None, Cursor, bool]:
    """Start, condition, step and body of a loop, and whether its first round is taken in any case."""
    parts = children(cursor)
    if cursor.kind == Kind.DO_STMT and len(parts) == 2:
        return None, parts[1], None, parts[0], True
    if cursor.kind == Kind.WHILE_STMT and len(parts) == 2:
        return None, parts[0], None, parts[1], False
    if cursor.kind == Kind.FOR_STMT and (there := _head(cursor, len(parts) - 1)) is not None:
        head = iter(parts[:-1])
        start, condition, step = (next(head) if given else None for given in there)
        return start, condition, step, parts[-1], False
    raise NotUnderstoodError(clang.file_of(cursor), cursor.location.line, "a loop of this form")


def _head(cursor: Cursor, parts: int) -> tuple[bool, bool, bool] | None:
    """Which of start, condition and step a ``for`` has; None if its text does not tell."""
    if parts in (0, 3):
        return (parts == 3,) * 3
    words, depth = [token.spelling for token in cursor.get_tokens()], 0
    there = [False]
    for word in words[1:]:
        depth += (word in ("(", "[", "{")) - (word in (")", "]", "}"))
        if depth == 0:
            break
        if word == ";" and depth == 1:
            there.append(False)
        elif word != "(" or depth > 1:
            there[-1] = True
    told = words[:2] == ["for", "("] and len(there) == 3 and sum(there) == parts
    return (there[0], there[1], there[2]) if told else None


def leaves_after_one(cursor: Cursor) -> bool:
    """Whether the step of a ``for`` jumps out of it, as that of scoped_guard() does."""
    parts = children(cursor) if cursor.kind == Kind.FOR_STMT else []
    jumps = [c for c in clang.preorder(parts[2]) if c.kind == Kind.GOTO_STMT] if len(parts) == 4 else []
    return bool(jumps) and all(clang.children(j)[0].spelling in _ends(parts[3]) for j in jumps)


def _ends(body: Cursor) -> set[str]:
    """The labels of a loop's body that stand before a ``break`` of this loop."""
    found: set[str] = set()
    if body.kind == Kind.LABEL_STMT and [c.kind for c in children(body)] == [Kind.BREAK_STMT]:
        found.add(body.spelling)
    if body.kind in (Kind.LABEL_STMT, Kind.COMPOUND_STMT, Kind.IF_STMT):
        found = found.union(*map(_ends, children(body)))
    return found
