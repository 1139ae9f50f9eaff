"""The rules on the C around debug.c: what is called, when and in which order, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from formal.epochs import Kernel
from formal.kernel.around import answers, boot, counts, el2, ioctls, lookup, meanings, passed, putaside, triage
from formal.kernel.around.masked import Masked
from formal.kernel.belongs import GUEST_DEBUG
from formal.kernel.compare import hypervisor, protected
from formal.kernel.errors import Gaps
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program, side_of
from formal.kernel.model.binding import UNMODELLED, Binding, flags_of
from formal.kernel.recognition import debugexit, runloop
from formal.kernel.recognition.rules import Rule, belonging


def assumed(program: Program, mode: Mode) -> tuple[str, ...]:
    """What of this is taken for granted of a tree, or not looked at."""
    return lookup.assumed(program), *meanings.assumed(program), *boot.assumed(program), *putaside.assumed(program, mode)


def rules(
    program: Program, binding: Binding, k: Kernel, handlers: Iterable[tuple[str, Lifted]], gaps: Gaps
) -> Iterator[Rule]:
    """What must hold of a tree besides that its functions are equal to their descriptions.

    Args:
        handlers: the C functions that are compared with operations, by the operation.
        gaps: takes what is not understood.
    """
    flags = {**binding.flags, **flags_of(program.tree, UNMODELLED, gaps)}
    yield from runloop.rules(program, k, flags, gaps)
    yield from protected.rules(program, binding, k, gaps)
    yield from lookup.rules(program, k, flags, gaps)
    for of, make in (*Masked(program, k, flags).groups(), *passed.Passed(program, k, flags).groups()):
        with gaps.at(*of, untimely=True):
            yield from belonging(of, make())
    yield from el2.rules(program, k, gaps)
    yield from meanings.rules(program, k, flags, gaps)
    yield from boot.rules(program, k, gaps)
    yield from ioctls.rules(program, k, gaps)
    yield from triage.rules(program, k, gaps)
    parts = [(f, component.of(k)) for component, f in hypervisor.lifted(program, k, Gaps(noted=True))]
    yield from counts.rules([*parts, *((f, (name,)) for name, f in handlers)])
    with gaps.at(GUEST_DEBUG):
        yield from debugexit.rules(program, side_of(k.mode))
    yield from answers.rules(program, k, binding, gaps)
    yield from putaside.rules(program, k)
