"""The watched calls of a function that does not lift: in program order, each with its condition and its arguments.

    found = skeleton(program, "kvm_arch_vcpu_ioctl_run", "vhe", watched={"kvm_arm_setup_debug", "kvm_arm_clear_debug"})
    found.calls      # Call(name, guard, arguments, line, loops), stores to watched lvalues as "= lvalue"

The function is executed as by the lifter, except that every call is opaque: it returns anything, and leaves anything
in memory that it can reach. A loop is executed once, from any state. What the lifter would refuse has any value, unless
a watched call, a store to a watched member or a jump is inside; that is refused here too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Program, _parameter, _preset
from formal.kernel.lift.values import Pointer
from formal.kernel.model.calls import Skeleton
from formal.kernel.model.walker import ACCESSORS, Walker
from formal.kernel.parse import clang
from formal.logic.terms import Term

NOTHING = re.compile(r"(?!)")


def skeleton(
    program: Program,
    name: str,
    mode: Mode,
    watched: Collection[str],
    file: str | None = None,
    stores: re.Pattern[str] = NOTHING,
    memory: Mapping[str, int | str] | None = None,
    turn: int | None = None,
    inside: Collection[str] = (),
    rounds: int = 0,
) -> Skeleton:
    """The watched calls and stores of a function.

    Args:
        watched: names of functions; a call through a pointer is named ``*`` and the member that holds the pointer, or
            the table that it comes from.
        stores: found in the lvalues to which stores are wanted.
        memory: values that lvalues have whose names end like this.
        turn: the value that the variable of a ``for`` loop has in the round that is executed; any if not given. Where
            it starts, and what it is in the next round, are calls of the names ``= start`` and ``= next``.
        inside: functions that are read as if they stood where they are called.
        rounds: a loop of no more is executed round by round, where it tells how many it has.

    Raises:
        NotUnderstoodError: if a watched call cannot be placed.
    """
    known = tuple((memory or {}).items())
    key = ("skeleton", name, mode, file, frozenset(watched), stores, known, turn, frozenset(inside), rounds)
    make = partial(_skeleton, program, name, mode, watched, file, stores, dict(known), turn, inside, rounds)
    return program.keep(key, make, lambda found: frozenset(f for f, _ in found.bodies) | {name, *ACCESSORS})


def _skeleton(
    program: Program,
    name: str,
    mode: Mode,
    watched: Collection[str],
    file: str | None,
    stores: re.Pattern[str],
    memory: Mapping[str, int | str],
    turn: int | None,
    inside: Collection[str],
    rounds: int,
) -> Skeleton:
    unit, function = program.resolver.find(name, mode, file)
    machine = Walker(program, unit, mode, watched, stores)
    machine.inside = frozenset((*inside, *ACCESSORS, *program.helpers))
    machine.known = {end: _preset(unit, value) for end, value in memory.items()}
    machine.turn, machine.unrolls, machine.home = turn, rounds, clang.file_of(function)
    machine.rounds = rounds or machine.rounds
    values = [_parameter(machine, unit, p, {}) for p in function.get_arguments()]
    try:
        result = machine.enter(function, values)
    except NotUnderstoodError as error:
        raise NotUnderstoodError(program.tree.relative(error.file), error.line, error.reason) from error
    place = program.tree.relative(clang.file_of(function)), function.location.line
    value = result if isinstance(result, Term) else None
    gives = machine.pointed(result) if isinstance(result, Pointer) else "?"
    bodies = frozenset((function, program.tree.relative(file)) for function, file in machine.entered)
    calls, seen = tuple(machine.calls), frozenset(watched)
    return Skeleton(name, *place, calls, value, machine.state.live, machine.shown, gives, bodies, seen)
