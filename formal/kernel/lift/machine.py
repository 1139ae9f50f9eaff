"""The abstract machine that C runs on: memory as terms, a path condition, and what is observed on the way.

Execution forks at a branch and merges after it, so that one run covers every path: each memory cell ends as one term
over the values that the function found. Whatever the machine cannot give a meaning, it refuses with a place.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.initial import initial_number
from formal.kernel.lift.layout import Layout
from formal.kernel.lift.values import (
    NULL,
    UNKNOWN,
    Address,
    Object,
    Pointer,
    Unknown,
    Value,
    choose,
    from_truth,
    guarded,
    pointer_to,
    truth,
)
from formal.kernel.parse.clang import Cursor, Type, bits, file_of, is_bool, is_integer, is_pointer
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, Not, Or, Term

Cell = tuple[Object, int, int]  # object, byte offset, size in bytes
Risk = Literal["bug", "warn", "pointer", "index", "shift", "division"]


@dataclass(frozen=True)
class Frame:
    """Where execution is, in one function of the call stack."""

    function: str
    file: str
    line: int


@dataclass(frozen=True)
class Obligation:
    """Something that must not happen: ``condition`` must be false wherever the function is used."""

    condition: Term
    risk: Risk
    text: str
    file: str
    line: int


@dataclass(frozen=True)
class Event:
    """A store to memory that outlives the function, in program order."""

    guard: Term
    lvalue: str
    value: Term
    stack: tuple[Frame, ...]  # outermost first

    @property
    def place(self) -> Frame:
        """The innermost place in the file of the outermost function."""
        return [frame for frame in self.stack if frame.file == self.stack[0].file][-1]


@dataclass
class State:
    """One path, or several merged: the condition under which it is taken (within the function), and memory."""

    live: Term
    memory: dict[Cell, Value]

    def under(self, condition: Term) -> State:
        """A copy for the paths on which the condition holds too."""
        return State(And(self.live, condition), dict(self.memory))


@dataclass(frozen=True)
class PointerRule:
    """What a pointer in memory may point to when the function starts."""

    targets: tuple[str, ...]  # lvalues; none: it is NULL
    note: str


@dataclass
class Scope:
    """What one running function has pending."""

    frame: Frame
    variables: dict[int, Object] = field(default_factory=dict)
    returns: list[State] = field(default_factory=list)
    pending: dict[str, list[State]] = field(default_factory=dict)  # goto's to labels further down
    passed: set[str] = field(default_factory=set)
    result: Cell | None = None


class Machine:
    """Memory, path and observations of one lifting."""

    def __init__(
        self, layout: Layout, objects: dict[str, Object], rules: dict[str, PointerRule], presets: Mapping[str, Term]
    ) -> None:
        self.layout = layout
        self.objects = objects
        self.rules = rules
        self.presets = presets
        self.state = State(TRUE, {})
        self.base = TRUE  # the condition under which the running function was called
        self.scopes: list[Scope] = []
        self.escapes = 0  # paths that left the construct being executed: return, goto, break, BUG
        self.entered: set[tuple[str, str]] = set()  # functions whose bodies were executed, and their files
        self.initial: dict[Cell, Value] = {}
        self.types: dict[Cell, Type] = {}
        self.names: dict[Cell, str] = {}
        self.obligations: list[Obligation] = []
        self.events: list[Event] = []
        self.notes: dict[str, None] = {}
        self.unknowns: dict[str, Unknown] = {}
        self.fixed: dict[Object, Cursor] = {}  # constants that the file defines
        self.addresses: dict[str, Address] = {}  # by the variables that stand for them as numbers
        self.functions: dict[str, Cursor | None] = {}  # to which pointers may point
        self._spans: dict[Object, list[Cell]] = {}
        self._serial = 0

    # ---- saying where and why

    def refusal(self, cursor: Cursor, reason: str) -> NotUnderstoodError:
        """What to raise to give up on the function, at a place in the source."""
        via = " < ".join(f"{s.frame.function}:{s.frame.line}" for s in reversed(self.scopes)) or "no function"
        return NotUnderstoodError(file_of(cursor), cursor.location.line, f"{reason} (in {via})")

    def require(self, condition: Term, risk: Risk, text: str, cursor: Cursor) -> None:
        """Records that ``condition`` must not hold here; execution goes on as if it did not."""
        reached = And(self.base, self.state.live, condition)
        if reached is FALSE:
            return
        if condition is TRUE and risk in ("pointer", "index", "shift", "division"):
            raise self.refusal(cursor, text)
        frame = self._own_place(cursor)
        self.obligations.append(Obligation(reached, risk, text, *frame))

    def _own_place(self, cursor: Cursor) -> tuple[str, int]:
        inside = [s.frame for s in self.scopes if s.frame.file == self.scopes[0].frame.file]
        return (inside[-1].file, inside[-1].line) if inside else (file_of(cursor), cursor.location.line)

    def unknown(self, cursor: Cursor, kind: Type, reason: str) -> Value:
        """A fresh variable for what a place of the source gives: a Boolean as 0 or 1 where ``kind`` is ``None``."""
        file, line, text = self.source(cursor)
        via = " < ".join(f"{s.frame.function}:{s.frame.line}" for s in reversed(self.scopes)) or "no function"
        name = f"{UNKNOWN}{file}:{line}#{self.serial()}"
        self.unknowns[name] = Unknown(name, file, line, " ".join(text.split())[:80], f"{reason} (in {via})")
        if kind is not None and is_pointer(kind):
            self.unknowns[f"{name} != NULL"] = self.unknowns[name]
            present = t.var(f"{name} != NULL", BOOL)
            return guarded([(present, Address(Object(name, "wild"), 0)), (Not(present), None)])
        if kind is None or is_bool(kind):
            return from_truth(t.var(name, BOOL), 8)
        if not is_integer(kind):
            raise self.refusal(cursor, f"{reason}: {kind.spelling}")
        return t.var(name, bits(kind))

    @abstractmethod
    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        """File (below the tree), line and text of a piece of source."""

    def serial(self) -> int:
        """A number not used before."""
        self._serial += 1
        return self._serial

    # ---- memory

    def cell(self, address: Address, kind: Type, cursor: Cursor) -> Cell:
        """The cell of a scalar, created with an unknown value when first seen."""
        size = bits(kind) // 8
        key = (address.object, address.offset, size)
        if key not in self.initial:
            span = self._spans.setdefault(address.object, [])
            for _, start, length in span:
                if start < address.offset + size and address.offset < start + length:
                    raise self.refusal(cursor, f"{self.layout.name(address, size)} is accessed with different widths")
            if not is_pointer(kind) and not is_integer(kind):
                raise self.refusal(cursor, f"access to a whole {kind.spelling}")
            self.names[key] = self.layout.name(address, size)
            self.types[key] = kind
            self.initial[key] = self._unknown(key, kind)
            span.append(key)
        elif is_pointer(kind) != is_pointer(self.types[key]):
            raise self.refusal(cursor, f"{self.names[key]} is used as a pointer and as an integer")
        return key

    def _unknown(self, key: Cell, kind: Type) -> Value:
        name = self.names[key]
        if key[0] in self.fixed and is_integer(kind):
            number = initial_number(self.layout, self.fixed[key[0]], key[1], kind)
            if number is not None:
                return t.const(number, bits(kind))
        if name in self.presets and is_integer(kind):
            preset = self.presets[name]
            return from_truth(preset, bits(kind)) if preset.sort == BOOL else t.extract(preset, bits(kind) - 1, 0)
        if key[0].place == "local":
            name = f"undefined {name}"
            if is_pointer(kind):
                return pointer_to(Object(name, "wild"))
        elif is_pointer(kind):
            return self._unknown_pointer(name, kind)
        if is_bool(kind):
            return from_truth(t.var(name, BOOL), bits(kind))
        return t.var(name, key[2] * 8)

    def _unknown_pointer(self, name: str, kind: Type) -> Pointer:
        rule = self.rules.get(name)
        if rule is None:
            self.notes[f"{name} points to an object of its own"] = None
            pointee = Object(name, "pointee", kind.get_canonical().get_pointee())
            present = t.var(f"{name} != NULL", BOOL)
            return guarded([(present, Address(pointee, 0)), (Not(present), None)])
        self.notes[rule.note] = None
        if not rule.targets:
            return NULL
        if len(rule.targets) == 1:
            return Pointer(((TRUE, self.address(rule.targets[0])),))
        selector = t.var(name, 2)
        picked = [(Eq(selector, t.const(i, 2)), self.address(target)) for i, target in enumerate(rule.targets)]
        elsewhere = And(*(Not(guard) for guard, _ in picked))
        return guarded([*picked, (elsewhere, Address(Object(f"elsewhere {name}", "wild"), 0))])

    def address(self, lvalue: str) -> Address:
        """The address that an lvalue names.

        Raises:
            NotUnderstoodError: if the tree has no such object or member.
        """
        for root in sorted(self.objects, key=len, reverse=True):
            rest = lvalue.removeprefix(root)
            if rest != lvalue and (not rest or not rest[0].isidentifier()):
                with suppress(KeyError):
                    return self.layout.locate(self.objects[root], rest)
        raise NotUnderstoodError(KVM, 0, f"this tree has no {lvalue}")

    def load(self, pointer: Pointer, kind: Type, cursor: Cursor) -> Value:
        """The scalar at a pointer."""
        result: Value | None = None
        for guard, address in reversed(pointer.choices):
            if self._unusable(guard, address, cursor):
                continue
            assert address is not None
            key = self.cell(address, kind, cursor)
            value = self.state.memory.get(key, self.initial[key])
            result = value if result is None else choose(guard, value, result)
        if result is None:
            raise self.refusal(cursor, "a pointer to nothing known is read through")
        return result

    def store(self, pointer: Pointer, kind: Type, value: Value, cursor: Cursor) -> None:
        """Writes a scalar at a pointer."""
        for guard, address in pointer.choices:
            if self._unusable(guard, address, cursor):
                continue
            assert address is not None
            if address.object.place == "text":
                raise self.refusal(cursor, "a string literal is written")
            key = self.cell(address, kind, cursor)
            before = self.state.memory.get(key, self.initial[key])
            self.state.memory[key] = choose(guard, value, before)
            if address.object.place != "local":
                self._observe(And(self.base, self.state.live, guard), key, value)

    def _observe(self, guard: Term, key: Cell, value: Value) -> None:
        stack = tuple(scope.frame for scope in self.scopes)
        self.events.append(Event(guard, self.names[key], self.exported(key, value), stack))

    def _unusable(self, guard: Term, address: Address | None, cursor: Cursor) -> bool:
        if address is None:
            self.require(guard, "pointer", "NULL is dereferenced", cursor)
            return True
        if address.object.place == "wild":
            self.require(guard, "pointer", f"{address.object.name} is dereferenced", cursor)
            return True
        return False

    def exported(self, key: Cell, value: Value) -> Term:
        """A cell's value as the result shows it: ``_Bool`` as a Boolean, a pointer as the number of its target."""
        if isinstance(value, Pointer):
            return self._selector(key, value)
        return truth(value) if is_bool(self.types[key]) else value

    def _selector(self, key: Cell, value: Pointer) -> Term:
        rule = self.rules.get(self.names[key])
        if rule is None or len(rule.targets) < 2:
            return from_truth(Or(*(g for g, a in value.choices if a is not None)), 2)
        numbers = {self.address(target): i for i, target in enumerate(rule.targets)}
        result = t.const(3, 2)
        for guard, address in value.choices:
            if address is not None and address.object.name == f"elsewhere {self.names[key]}":
                result = t.If(guard, t.var(self.names[key], 2), result)
            elif address in numbers:
                result = t.If(guard, t.const(numbers[address], 2), result)
        return result

    # ---- paths

    def merge(self, condition: Term, a: State, b: State) -> State:
        """The paths of both: ``a`` where the condition holds, ``b`` elsewhere."""
        if a.live is FALSE:
            return b
        if b.live is FALSE:
            return a
        memory = dict(b.memory)
        for key, value in a.memory.items():
            other = b.memory.get(key, self.initial.get(key))
            if other is None or other is value:
                memory[key] = value
            else:
                memory[key] = choose(condition, value, other)
        for key, value in b.memory.items():
            if key not in a.memory and key in self.initial:
                memory[key] = choose(condition, self.initial[key], value)
        return State(Or(a.live, b.live), memory)

    def join(self, states: Iterable[State]) -> State:
        """The paths of all, whose conditions exclude each other."""
        alive = [s for s in states if s.live is not FALSE]
        if not alive:
            return State(FALSE, {})
        result = alive[-1]
        for state in reversed(alive[:-1]):
            result = self.merge(state.live, state, result)
        return result

    def leave(self) -> State:
        """The current paths, which go elsewhere; none is left here."""
        gone = self.state
        self.escapes += 1
        self.state = State(FALSE, {})
        return gone
