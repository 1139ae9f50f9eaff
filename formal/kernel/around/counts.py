"""CPUs with fewer than 16 break- or watchpoints: what is compared with 16 of each is done there to those that exist.

The specification has 16 (``formal/scope/assumptions.py``), and functions are compared on such a CPU. Here each is held
against itself: with any numbers it does to the registers that there are, and to all else, what it does with 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import COUNTED, COUNTS, ID_REGISTER, element_of
from formal.kernel.recognition.rules import Rule
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import And, Eq, Term


def rules(functions: Iterable[tuple[Lifted, tuple[str, ...]]]) -> Iterator[Rule]:
    """What must hold of functions that ask for the numbers; each comes with the operations and parts that it is of."""
    asked: list[Lifted] = []
    for f, of in functions:
        if not any(f is other for other in asked) and not f.reads.keys().isdisjoint((ID_REGISTER, *COUNTED)):
            asked.append(f)
            yield Rule(f"{f.name}() does the same with fewer breakpoints", f.file, f.line, _same(f), of=of)


def _same(f: Lifted) -> Term:
    numbers = t.var("BRPs", 4), t.var("WRPs", 4)
    fewer, all16 = _with(f, numbers), _with(f, (t.const(0xF, 4), t.const(0xF, 4)))
    done = dict[Term, Term](), dict[Term, Term]()

    def both(value: Term) -> Term:
        return Eq(substitute(value, fewer, done[0]), substitute(value, all16, done[1]))

    equal = [both(value) for value in (f.returns, f.result) if value is not None]
    for lvalue, value in f.writes.items():
        same = both(value)
        if element := element_of(lvalue):
            kind, number = element[1] >> 4, element[1] & 0xF
            same = t.Or(t.ult(numbers[kind // 2], t.const(number, 4)), same)
        if lvalue not in COUNTED:  # what keeps the numbers is compared for any (ownership.py)
            equal.append(same)
    return And(*equal)


def _with(f: Lifted, numbers: tuple[Term, Term]) -> dict[str, Term]:
    """What a function reads on a CPU that has these numbers of break- and watchpoints, less one each."""
    found = {}
    for lvalue, variable in f.reads.items():
        if lvalue in COUNTED:
            found[lvalue] = t.zero_extend(numbers[COUNTED.index(lvalue)], t.width(variable))
        elif lvalue == ID_REGISTER:
            value = variable
            for number, (high, low) in zip(numbers, COUNTS, strict=True):
                mask = t.const(((1 << (high - low + 1)) - 1) << low, 64)
                value = value & ~mask | t.bvshl(t.zero_extend(number, 64), t.const(low, 64))
            found[lvalue] = value
    return found
