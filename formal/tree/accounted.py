"""Which of the places that the search for writers finds are accounted for: what they write is compared, or read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from formal.kernel.errors import Gap
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.recognition.callers import CALLERS
from formal.kernel.recognition.rules import stores_read


def unaccounted(
    gaps: Sequence[Gap],
    program: Program,
    mode: Mode,
    compared: Iterable[Lifted],
    parts: Iterable[Lifted],
    whole: Collection[tuple[str, str]],
) -> list[Gap]:
    """Those of some gaps that hang on functions (``Gap.unless``) of which not every store is compared, or read.

    Args:
        compared: the functions that are compared with the specification, or stand in its place.
        parts: those of them in which nothing is preset.
        whole: functions, and their files, of whose stores rules speak.
    """
    compared = list(compared)
    left = {name for function in compared for name in function.left_out}
    executed = {body for function in compared for body in function.bodies if body[0] not in left}
    always = {body for function in parts for body in function.bodies}
    read = executed | set(whole) | stores_read(program, mode)
    named = {name for name, _ in always | set(whole)}

    def idle(gap: Gap) -> bool:
        """Whether a function is not executed, though all that call it are."""
        if gap.unless is not None and gap.unless[0] in left:
            return False
        if gap.callers:
            return gap.callers <= always
        name = gap.unless[0] if gap.unless is not None else ""
        by_name = {n for n in CALLERS.get(name, ()) if program.defines(n, mode)}
        return bool(by_name) and by_name <= named

    there = [gap for gap in gaps if gap.unless is not None and gap.unless not in (executed if gap.lifted else read)]
    return [gap for gap in there if not idle(gap)]
