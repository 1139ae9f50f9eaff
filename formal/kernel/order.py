"""The order of calls in a function, read from its syntax tree, for comparing the run loop with the specification's.

    calls(program, "kvm_arch_vcpu_ioctl_run", "vhe")       # every call, with line and nesting
    check_order(program, "kvm_arch_vcpu_ioctl_run", "vhe",
                ["kvm_arm_setup_debug", "kvm_arm_vcpu_enter_exit", "kvm_arm_clear_debug"])

Expected names follow each other on one level, unconditionally; ``loop/name`` and ``if/name`` say that a call lies
deeper. No jump may leave the sequence between its first and its last call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from formal.kernel import clang
from formal.kernel.clang import Cursor, Kind, children
from formal.kernel.front import Mode, Program

_LOOPS = (Kind.WHILE_STMT, Kind.DO_STMT, Kind.FOR_STMT)
_JUMPS = {Kind.RETURN_STMT: "return", Kind.GOTO_STMT: "goto", Kind.BREAK_STMT: "break", Kind.CONTINUE_STMT: "continue",
          Kind.INDIRECT_GOTO_STMT: "goto"}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call (or a jump: ``return``, ``goto``, ``break``, ``continue``) in a function, in source order."""

    name: str
    file: str
    line: int
    nesting: tuple[tuple[str, int], ...]  # kind (if, else, loop, switch, maybe) and line, outermost first
    is_jump: bool = False

    def kinds(self, below: int = 0) -> str:
        """The kinds of nesting from a depth on, as ``if/loop/``."""
        return "".join(f"{kind}/" for kind, _ in self.nesting[below:])


def calls(program: Program, function: str, mode: Mode, file: str | None = None) -> list[Call]:
    """The calls and jumps of a function in source order.

    Raises:
        NotUnderstoodError: if the function is not found.
    """
    _, definition = program.resolver.find(function, mode, file)
    body = next(c for c in children(definition) if c.kind == Kind.COMPOUND_STMT)
    return list(_walk(body, program.tree.relative(clang.file_of(definition)), ()))


def _walk(cursor: Cursor, file: str, nesting: tuple[tuple[str, int], ...]) -> Iterator[Call]:
    kind, parts, line = cursor.kind, children(cursor), cursor.extent.start.line
    if kind in _JUMPS:
        for part in parts:
            yield from _walk(part, file, nesting)
        yield Call(_JUMPS[kind], file, line, nesting, is_jump=True)
    elif kind in _LOOPS:
        once = kind == Kind.DO_STMT and clang.constant(parts[-1]) == 0
        inside = nesting if once else (*nesting, ("loop", line))
        for part in parts:
            yield from _walk(part, file, inside)
    elif kind == Kind.IF_STMT:
        yield from _walk(parts[0], file, nesting)
        for name, part in zip(("if", "else"), parts[1:], strict=False):
            yield from _walk(part, file, (*nesting, (name, line)))
    elif kind == Kind.SWITCH_STMT:
        yield from _walk(parts[0], file, nesting)
        for part in parts[1:]:
            yield from _walk(part, file, (*nesting, ("switch", line)))
    elif kind == Kind.CONDITIONAL_OPERATOR:
        yield from _walk(parts[0], file, nesting)
        for part in parts[1:]:
            yield from _walk(part, file, (*nesting, ("maybe", line)))
    elif kind == Kind.BINARY_OPERATOR and clang.binary_operator(cursor) in ("&&", "||"):
        yield from _walk(parts[0], file, nesting)
        yield from _walk(parts[1], file, (*nesting, ("maybe", line)))
    else:
        for part in parts:
            yield from _walk(part, file, nesting)
        if kind == Kind.CALL_EXPR:
            name = cursor.referenced.spelling if cursor.referenced is not None else "(pointer)"
            if not name.startswith(("__builtin_", "__lift_")):
                yield Call(name, file, line, nesting)


def check_order(
    program: Program, function: str, mode: Mode, expected: Sequence[str], file: str | None = None
) -> list[str]:
    """What differs from the expected order, one sentence each with its line; empty if nothing does."""
    found = calls(program, function, mode, file)
    problems: list[str] = []
    places: list[int] = []
    for entry in expected:
        name = entry.rsplit("/", 1)[-1]
        at = [i for i, call in enumerate(found) if call.name == name and not call.is_jump]
        if not at:
            problems.append(f"{function} does not call {name}")
        elif len(at) > 1:
            lines = ", ".join(str(found[i].line) for i in at)
            problems.append(
                f"{found[at[0]].file}:{found[at[0]].line}: {function} calls {name} {len(at)} times ({lines})"
            )
        else:
            places.append(at[0])
    if problems or not places:
        return problems
    level = min(len(found[i].nesting) for i in places)
    outer = next(found[i].nesting for i in places if len(found[i].nesting) == level)
    for entry, i, previous in zip(expected, places, [-1, *places], strict=False):
        call = found[i]
        where = f"{call.file}:{call.line}: {call.name}"
        if i < previous:
            problems.append(f"{where} is called before {found[previous].name} (line {found[previous].line})")
        if call.nesting[:level] != outer:
            problems.append(f"{where} is not on the level of the other calls")
        elif call.kinds(level) != entry[: len(entry) - len(call.name)]:
            problems.append(f"{where} is called under {call.kinds(level) or 'no condition'}, expected {entry}")
    for call in found[min(places) : max(places)]:
        if call.is_jump and not _stays(call, level):
            problems.append(f"{call.file}:{call.line}: {call.name} leaves between {expected[0]} and {expected[-1]}")
    return problems


def _stays(jump: Call, level: int) -> bool:
    """Whether a break or continue only concerns a loop or switch inside the sequence."""
    inner = {kind for kind, _ in jump.nesting[level:]}
    return (jump.name == "break" and bool(inner & {"loop", "switch"})) or (jump.name == "continue" and "loop" in inner)
