"""What arrives at EL2 from a guest: the code that each vector gives to __guest_exit, whatever labels are called.

The vectors are those of hyp-entry.S in their order; from each, all ways through its instructions are followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formal.kernel.recognition.rules import Rule
from formal.kernel.text.assembler import Line
from formal.logic import terms as t

SYNC, IRQ, FIQ, ERROR = range(4)
CODES = ("ARM_EXCEPTION_TRAP", "ARM_EXCEPTION_IRQ", "ARM_EXCEPTION_IRQ", "ARM_EXCEPTION_EL1_SERROR")
VECTOR = re.compile(r"(?:(?:in)?valid_vect|ventry) ([\w.$]+)")
_FROM_EL1, _VECTORS = 8, 16  # the first vector of a lower level in AArch64 state, and how many there are (Arm ARM D1)
_NUMBERED = re.compile(r"(\d+)([bf])")
_MOVE = re.compile(r"mov\s+([xw])0\s*,\s*#\s*(\w+)$")
_BRANCH = re.compile(r"(b|b\.?\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?([\w.$]+)$")
_READS = re.compile(r"(cmp|ccmp|tst|str|stp|cbn?z|tbn?z)\s")  # what leaves the registers that it names as they are
# instructions that write no register but those that they name; all else may write any
_NAMES = re.compile(
    r"(mov|mrs|msr|ldr|ldp|str|stp|c?cmp|tst|and|orr|eor|bic|add|sub|ubfx|isb|dsb|esb|sb|nop|eret|ret)\b"
)
_ENDS, _CALL, _EXITS = re.compile(r"(eret|ret|br)\b"), re.compile(r"blr?\b"), "__guest_exit"


def rules(file: str, lines: list[Line]) -> Iterator[Rule]:
    """Each vector of a guest in AArch64 state gives __guest_exit the code for it, and nothing else."""
    names = [vector[1] for line in lines if (vector := VECTOR.match(line.text))]
    code = _Code(lines)
    found = False
    for kind, name in enumerate(names[_FROM_EL1 : _FROM_EL1 + len(CODES)] if len(names) == _VECTORS else ()):
        given = code.given(name)
        found |= kind == IRQ and bool(given)
        if name in code.labels or kind in (SYNC, IRQ):
            line = next((at for _, at in given), code.line(name))
            right = {what for what, _ in given} == {CODES[kind]}
            yield Rule(f"{name} returns {CODES[kind]}", file, line, t.boolean(right))
    yield Rule("traps and interrupts of a guest have labels", file, 1, t.boolean(found))


class _Code:
    """The instructions of a file."""

    def __init__(self, lines: list[Line]) -> None:
        self.labels: dict[str, int] = {}
        self._numbered: list[tuple[str, int]] = []
        self._lines: list[tuple[str, int]] = []
        for line in lines:
            if line.text.endswith(":"):
                self.labels.setdefault(line.text[:-1], len(self._lines))
                self._numbered.append((line.text[:-1], len(self._lines)))
            else:
                self._lines.append((line.text, line.number))

    def line(self, label: str) -> int:
        """The line of the first instruction after a label; the first if there is none."""
        at = self.labels.get(label, len(self._lines))
        return self._lines[at][1] if at < len(self._lines) else 1

    def given(self, start: str) -> set[tuple[str, int]]:
        """What is in x0 where __guest_exit is reached from a label, and the line that moved it there; "" if nothing."""
        found, seen = set[tuple[str, int]](), set[tuple[int, tuple[str, int]]]()
        left = [(self.labels[start], ("", self.line(start)))] if start in self.labels else []
        while left:
            at, held = left.pop()
            if (at, held) in seen or at >= len(self._lines):
                continue
            seen.add((at, held))
            text, number = self._lines[at]
            branch, move = _BRANCH.match(text), _MOVE.match(text)
            jumps = branch is not None and not _CALL.match(text)
            named = re.search(r"\b[xw]0\b", text) and not _READS.match(text)
            if move is not None or named or not (jumps or _NAMES.match(text)):
                held = (move[2], number) if move is not None else ("", number)
            if branch is not None and jumps:
                if branch[2] == _EXITS:
                    found.add(held)
                left += [(to, held) for to in self._target(branch[2], at)]
            if not _ENDS.match(text) and not (branch is not None and branch[1] == "b"):
                left.append((at + 1, held))
        return found

    def _target(self, name: str, at: int) -> Iterator[int]:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            yield from (self.labels[name],) if name in self.labels else ()
            return
        places = [place for label, place in self._numbered if label == numbered[1]]
        yield from (place for place in places[::-1] if place <= at) if numbered[2] == "b" else ()
        yield from (place for place in places if place > at) if numbered[2] == "f" else ()
