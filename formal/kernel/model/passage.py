"""The world switch of a tree that has one function for all of it: executed whole, on either side of the guest's run.

Before v4.17 one function serves both modes, and its parts are no functions of their own. What it does up to
``__guest_enter`` and what it does from there on are lifted with all that it calls. What a function does that is not
understood is left out here, as it is where functions are read by their calls: the search for writers says what of that
may write something modelled. A round that goes back to the guest is lifted by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.machine import State
from formal.kernel.lift.pointers import POINTERS, Mode
from formal.kernel.lift.program import Lifted, Program, _collected, _Lifter, _parameter
from formal.kernel.lift.values import Value, pointer_to
from formal.kernel.model.binding import PC, Binding
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind
from formal.logic import terms as t
from formal.logic.terms import TRUE

_FIXED = ("hw.id_", "hw.spsr_el", "hw.elr_el", PC)  # what only they write that are searched for, or nobody
CODE = "why the guest was left"
RUN, GUEST, FIXUP = "__kvm_vcpu_run", "__guest_enter", "fixup_guest_exit"


@dataclass(frozen=True)
class Passage:
    """What the function does: before the guest runs, after it has run, and where it then runs the guest again.

    ``stored`` are the modelled lvalues that the last of these stores to.
    """

    enters: Lifted
    returns: Lifted
    again: Lifted
    stored: tuple[str, ...]


def whole(program: Program, mode: Mode) -> bool:
    """Whether one function is the world switch, and what it does at an exit before it goes back to the guest."""
    return program.defines(RUN, mode) and not program.defines(FIXUP, mode)


def by_name(bodies: Collection[str]) -> bool:
    """The same, of the names of all functions that a tree has."""
    return RUN in bodies and FIXUP not in bodies


def passage(program: Program, mode: Mode) -> Passage:
    """The world switch of a mode.

    Raises:
        NotUnderstoodError: if it does not run the guest in one place, or goes back to another one.
    """
    found: Passage = program.keep(("passage", mode), partial(_passage, program, mode), _bodies)
    return found


def _bodies(found: Passage) -> frozenset[str]:
    return found.enters.functions | found.returns.functions | found.again.functions


def _passage(program: Program, mode: Mode) -> Passage:
    models = Binding.of(program, Gaps(noted=True)).models
    try:
        sides = [_Side(program, mode, models, side) for side in ("enters", "returns", "again")]
        enters, returns, again = (side.lifted() for side in sides)
        return Passage(enters, returns, again, tuple(filter(models, again.writes)))
    except NotUnderstoodError as error:
        raise NotUnderstoodError(program.tree.relative(error.file), error.line, error.reason) from error


class _Side(_Lifter):
    """The lifter's machine, which looks at one side of the guest's run."""

    def __init__(self, program: Program, mode: Mode, modelled: Callable[[str], bool], side: str) -> None:
        unit, self.function = program.resolver.find(RUN, mode)
        super().__init__(program, unit, mode, POINTERS, {})
        self.side, self.rules_of = side, dict(self.rules)
        self.modelled = lambda lvalue: modelled(lvalue) or lvalue in self.rules_of or lvalue.startswith(_FIXED)
        self.found: list[State] = []  # where this side ends, if that is not where the function does
        self.ran = 0  # how often the guest does
        self.since: dict[str, int] = {}  # labels of the function: how much had been stored before
        self.left: set[str] = set()  # functions that are called and not executed
        self.back: set[str] = set()  # those from which nothing is stored until the guest runs

    def lifted(self) -> Lifted:
        """What is done on this side."""
        values = [_parameter(self, self.unit, p, {}) for p in self.function.get_arguments()]
        self.enter(self.function, values)
        if self.ran != 1:
            raise self.refusal(self.function, f"{RUN}() calls {GUEST}() in {self.ran} places")
        all_of_it = self.escapes == len(self.found)  # but for where another side begins
        if self.side != "returns":
            self.state = self.join(self.found)
        live = self.state.live
        if all_of_it:
            self.state.live = TRUE
        found = _collected(self.program.tree, self, self.function, self.mode, None, True)
        return replace(found, left_out=frozenset(self.left), when=live)

    def may_write(self, cursor: Cursor) -> Collection[str] | None:
        return ()

    def enter(self, function: Cursor, arguments: list[Value]) -> Value | None:
        before = set(self.entered)
        try:
            return super().enter(function, arguments)
        except NotUnderstoodError:
            self.entered = before  # not executed, after all
            self.left.add(function.spelling)
            raise

    def opaque_call(self, cursor: Cursor, values: list[Value], refusal: NotUnderstoodError) -> Value | None:
        callee = clang.callee(cursor)
        self.left |= set() if callee is None else {callee.spelling}
        return super().opaque_call(cursor, values, refusal)

    def call(self, cursor: Cursor) -> Value | None:
        callee = clang.callee(cursor)
        if callee is None or callee.kind != Kind.FUNCTION_DECL or callee.spelling != GUEST:
            return super().call(cursor)
        if len(self.scopes) != 1 or self.state.live is not TRUE:
            raise self.refusal(cursor, f"{GUEST}() is not called by {RUN}(), or not always")
        self.ran += 1
        given = [self._argument(argument) for argument in cursor.get_arguments()]
        if given[:1] != [pointer_to(self.objects["vcpu"])]:
            raise self.refusal(cursor, f"{GUEST}() is called with another vCPU")
        self.back = {label for label, stored in self.since.items() if stored == len(self.events)}
        if self.side == "enters":
            self.found.append(self.leave())
        else:
            self.state.memory = {key: v for key, v in self.state.memory.items() if key[0].place == "local"}
            self.events.clear()
            self.obligations.clear()
            self.entered = {(self.function.spelling, clang.file_of(self.function))}
        return t.var(CODE, clang.bits(cursor.type))

    def _label(self, cursor: Cursor, parts: list[Cursor]) -> None:
        if len(self.scopes) == 1 and not self.ran:
            self.since[cursor.spelling] = len(self.events)
        super()._label(cursor, parts)

    def _goto(self, cursor: Cursor, parts: list[Cursor]) -> None:
        label = parts[0].spelling
        if len(self.scopes) != 1 or label not in self.back:
            super()._goto(cursor, parts)
            return
        self.found.append(self.leave())
