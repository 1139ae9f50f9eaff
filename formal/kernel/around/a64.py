"""A64 instructions of an assembler function as terms: what it leaves in a system register wherever it ends.

Branches go forward. What an instruction that is not known leaves in its registers is any value; so is what a call
leaves in all of them. System registers hold any value at the start, and keep what is written to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from formal.kernel.effects import assembly
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.text.assembler import Assembler, Line, operands
from formal.logic import terms as t
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, If, Not, Or, Term

_REGISTER = re.compile(r"([xw])(\d+|zr)|lr")
_ALL = re.compile(r"\b(?:[xw](?:\d+|zr)|lr)\b")
_TARGET = re.compile(r"\.L\w+|\b\d+[fb]\b")
_BRANCH = re.compile(r"b(?:\.?(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al))?")
_ENDS = frozenset(("ret", "eret", "br"))
_CALLS = frozenset(("bl", "blr", "hvc", "smc"))
_CHOOSES = re.compile(
    r"\.(if|rept|irp|altmacro|(push|sub)?section|previous|text|org|include|macro|set|equ)"
)  # what is there
_MEMORY = re.compile(r"(ldpsw|ldp|ld(?:u?r)[bhsw]*|stp|stu?r[bh]?)$")
_FLAGS = "NZCV"
_PLAIN: Mapping[str, Callable[[Term, Term], Term]] = {
    "and": lambda a, b: a & b, "orr": lambda a, b: a | b, "bic": lambda a, b: a & ~b,
    "eor": lambda a, b: (a | b) & ~(a & b), "add": lambda a, b: a + b, "sub": lambda a, b: a - b,
}  # fmt: skip
_VHE = "CONFIG_ARM64_VHE"  # of either mode it is asked what it does; up to v5.10 one may leave VHE out


@dataclass
class _State:
    """What registers hold where an instruction is executed, if the guard is true; others are as at the start."""

    guard: Term
    values: dict[str, Term] = field(default_factory=dict)

    def get(self, name: str) -> Term:
        """A register: ``x0``, ``hw.mdcr_el2``, or one of the flags N, Z, C, V."""
        return self.values.get(name, t.var(name if "." in name else f"asm.{name}", BOOL if name in _FLAGS else 64))


@dataclass(frozen=True)
class End:
    """A place where a function ends: under which condition, and what a system register holds then."""

    line: Line
    guard: Term
    system: Callable[[str], Term]


@dataclass(frozen=True)
class Called:
    """An instruction that calls a label, and under which condition."""

    line: Line
    name: str
    guard: Term


@dataclass(frozen=True)
class Write:
    """An instruction that writes a system register, the value, and what it held before."""

    line: Line
    name: str
    value: Term
    before: Term


class Execution:
    """Executes a function once, in the order of its text: where it ends, what it calls, which registers it writes.

    Args:
        numbers: the values of expressions that the instructions name.
    """

    def __init__(self, lines: list[Line], numbers: Mapping[str, int]) -> None:
        self._lines, self._numbers = lines, numbers
        self._waiting: dict[str, list[_State]] = {}
        self._now = _State(TRUE)
        self._fresh, self._either = 0, False
        self.ends: list[End] = []
        self.writes: list[Write] = []
        self.calls: list[Called] = []
        for at, line in enumerate(lines):
            self._at, self._line = at, line
            if line.text.endswith(":"):
                self._arrives(line.text[:-1])
            elif self._now.guard is not FALSE:
                self._step(line)
        if self._now.guard is not FALSE:
            self._end(self._now.guard)

    def _arrives(self, label: str) -> None:
        for other in self._waiting.pop(f"{label}f" if label.isdigit() else label, ()):
            now, guard = self._now, other.guard
            if now.guard is FALSE:
                self._now = other
                continue
            both = {n: If(guard, other.get(n), now.get(n)) for n in now.values.keys() | other.values.keys()}
            self._now = _State(Or(now.guard, guard), both)

    def _end(self, guard: Term) -> None:
        now = _State(guard, dict(self._now.values))
        self.ends.append(End(self._line, guard, lambda name: now.get(f"hw.{name}")))

    def _goes(self, label: str, condition: Term) -> None:
        """A branch, if the condition holds; to a label of another function it is an end."""
        condition = self._any(BOOL) if self._either else condition
        guard = And(self._now.guard, condition)
        key = label.removesuffix("f") if label[:-1].isdigit() else label
        if any(line.text == f"{key}:" for line in self._lines[self._at :]):
            self._waiting.setdefault(label, []).append(_State(guard, dict(self._now.values)))
        elif any(line.text == f"{label.removesuffix('b')}:" for line in self._lines):
            raise NotUnderstoodError(self._line.file, self._line.number, f"a branch backwards, to {label}")
        else:
            self._end(guard)
        self._now = _State(And(self._now.guard, Not(condition)), self._now.values)

    def _any(self, sort: int | t.Sort = 64) -> Term:
        self._fresh += 1
        return t.var(f"asm.any{self._fresh}", sort)

    # ---- operands

    def _number(self, text: str) -> int | None:
        return self._numbers.get(expression(text))

    def _value(self, text: str) -> Term | None:
        found = _REGISTER.fullmatch(text)
        if found is None:
            number = self._number(text)
            return None if number is None else t.const(number & (1 << 64) - 1, 64)
        if found[2] == "zr":
            return t.const(0, 64)
        value = self._now.get("x30" if found[0] == "lr" else f"x{found[2]}")
        return t.zero_extend(t.extract(value, 31, 0), 64) if found[1] == "w" else value

    def _put(self, register: str, value: Term | None) -> None:
        found = _REGISTER.fullmatch(register)
        if found is None or found[2] == "zr":
            return
        value = self._any() if value is None or self._either else value
        value = t.zero_extend(t.extract(value, 31, 0), 64) if found[1] == "w" else value
        self._now.values["x30" if found[0] == "lr" else f"x{found[2]}"] = value

    def _unknown(self, text: str) -> None:
        """The modelled registers that a text writes hold any value then."""
        for name in assembly.registers(text):
            self._system(name, None)

    def _system(self, name: str, value: Term | None) -> None:
        name = "mdcr_el2" if name == assembly.UNKNOWN else name  # it may be any; that is the one that is asked for
        before = self._now.get(f"hw.{name}")
        value = self._any() if value is None or self._either else value
        self.writes.append(Write(self._line, name, value, before))
        self._now.values[f"hw.{name}"] = value

    def _flags(self, values: Mapping[str, Term] | None = None) -> None:
        known = values if values is not None and not self._either else {f: self._any(BOOL) for f in _FLAGS}
        self._now.values.update(known)

    # ---- instructions

    def _step(self, line: Line) -> None:
        mnemonic, _, rest = line.text.partition(" ")
        mnemonic, given = mnemonic.lower(), operands(rest)
        branch = _BRANCH.fullmatch(mnemonic)
        if line.behind:
            self._opaque(line)
        elif mnemonic.startswith("alternative_"):
            self._either = "endif" not in mnemonic
        elif _CHOOSES.match(mnemonic):
            raise NotUnderstoodError(line.file, line.number, f"a directive, {line.text}")
        elif mnemonic.startswith((".", "_asm", "#")):
            self._unknown(line.text)
        elif mnemonic in _ENDS:
            ends = self._any(BOOL) if self._either else TRUE
            self._end(And(self._now.guard, ends))
            self._now = _State(And(self._now.guard, Not(ends)), self._now.values)
        elif mnemonic in _CALLS:
            called = self._any(BOOL) if self._either else TRUE
            self.calls.append(Called(line, given[0] if given else "", And(self._now.guard, called)))
            for n in range(31):
                self._put(f"x{n}", None)
            self._flags()
        elif branch is not None and given:
            self._goes(given[0], self._condition(branch[1] or "al"))
        elif mnemonic in ("cbz", "cbnz") and len(given) == 2:
            zero = self._zero(given[0])
            self._goes(given[1], zero if mnemonic == "cbz" else Not(zero))
        elif mnemonic in ("tbz", "tbnz") and len(given) == 3:
            clear = self._clear(given[0], self._number(given[1]))
            self._goes(given[2], clear if mnemonic == "tbz" else Not(clear))
        elif mnemonic in ("mrs", "mrs_s") and len(given) == 2:
            self._put(given[0], self._now.get(f"hw.{system_register(given[1])}"))
        elif mnemonic in ("msr", "msr_s") and len(given) == 2:
            self._system(system_register(given[0]), self._value(given[1]))
        elif mnemonic in ("cmp", "tst", "ccmp"):
            self._compares(mnemonic, given)
        else:
            self._computes(mnemonic, given)

    def _zero(self, register: str) -> Term:
        value = self._value(register)
        return self._any(BOOL) if value is None else Eq(value, t.const(0, 64))

    def _clear(self, register: str, bit: int | None) -> Term:
        value = self._value(register)
        if value is None or bit is None or bit > 63:
            return self._any(BOOL)
        return Eq(t.extract(value, bit, bit), t.const(0, 1))

    def _opaque(self, line: Line) -> None:
        """What stands for a macro that is not expanded may do to what its text names whatever it likes."""
        text = f"{line.text}\n{line.behind}"
        every = re.search(r"\b(?:blr?|hvc|smc)\b", line.behind) is not None
        for register in {f"x{n}" for n in range(31)} if every else set(_ALL.findall(text)):
            self._put(register, None)
        self._flags()
        self._unknown(text)
        own = {found[1] for found in re.finditer(r"(?m)^\s*([\w.]+):", line.behind)}
        for label in sorted({*_TARGET.findall(text)} - own - {f"{o}{way}" for o in own for way in "bf"}):
            self._goes(label, self._any(BOOL))

    def _condition(self, name: str) -> Term:
        n, z, c, v = (self._now.get(flag) for flag in _FLAGS)
        less = Or(And(n, Not(v)), And(Not(n), v))
        table = {"eq": z, "cs": c, "hs": c, "mi": n, "vs": v, "hi": And(c, Not(z)), "lt": less, "le": Or(z, less)}
        opposite = {"ne": "eq", "cc": "cs", "lo": "cs", "pl": "mi", "vc": "vs", "ls": "hi", "ge": "lt", "gt": "le"}
        return TRUE if name == "al" else table[name] if name in table else Not(table[opposite[name]])

    def _compares(self, mnemonic: str, given: list[str]) -> None:
        a, b = (self._value(one) for one in given[:2]) if len(given) in (2, 4) else (None, None)
        wide = _REGISTER.fullmatch(given[0] if given else "")
        if a is None or b is None or wide is None or wide[1] == "w":  # flags of 32 bits are not needed so far
            self._flags()
            return
        result = a & b if mnemonic == "tst" else a - b
        zero = t.const(0, 64)
        sign = [t.extract(x, 63, 63) for x in (a, b, result)]
        flags = {"N": Eq(sign[2], t.const(1, 1)), "Z": Eq(result, zero), "C": FALSE, "V": FALSE}
        if mnemonic != "tst":
            flags["C"] = Not(t.ult(a, b))
            flags["V"] = And(Not(Eq(sign[0], sign[1])), Not(Eq(sign[0], sign[2])))
        if mnemonic == "ccmp":
            other = self._number(given[2])
            if other is None:
                self._flags()
                return
            when = self._condition(given[3].lower())
            flags = {f: If(when, flags[f], t.boolean(bool(other >> 3 - i & 1))) for i, f in enumerate(_FLAGS)}
        self._flags(flags)

    def _computes(self, mnemonic: str, given: list[str]) -> None:
        """An instruction that leaves a value in its first register; of another, nothing is known that it may write."""
        values = [self._value(one) for one in given[1:]]
        a, b = (*values, None, None)[:2]
        result: Term | None = None
        if mnemonic in ("mov", "mov_q", "movz") and len(values) == 1:
            result = a
        elif mnemonic in _PLAIN and len(values) == 2 and a is not None and b is not None:
            result = _PLAIN[mnemonic](a, b)
        elif mnemonic in ("ubfx", "sbfx") and len(given) == 4 and a is not None:
            low, size = self._number(given[2]), self._number(given[3])
            if low is not None and size is not None and 0 < size <= 64 - low:
                part = t.extract(a, low + size - 1, low)
                result = t.zero_extend(part, 64) if mnemonic == "ubfx" else t.sign_extend(part, 64)
        elif mnemonic == "csel" and len(given) == 4 and a is not None and b is not None:
            result = If(self._condition(given[3].lower()), a, b)
        if result is not None:
            self._put(given[0], result)
            return
        text = " ".join(given)
        targets = _ALL.findall(text)
        if _MEMORY.fullmatch(mnemonic) and text.endswith("]"):  # else it may write its address back
            targets = [] if mnemonic.startswith("st") else given[: 2 if "ldp" in mnemonic else 1]
        elif given:
            self._flags()
        for register in targets:
            self._put(register, None)


def assembler(program: Program) -> Assembler:
    """The assembler text of a tree."""

    def read(file: str) -> str:
        return program.tree.plain(file) if (program.tree.path / file).is_file() else ""

    def holds(conditions: list[str]) -> dict[str, bool]:
        return {c: bool(v) for c, v in program.resolver.evaluated((), conditions, (_VHE,)).items()}

    return Assembler(read, holds)


def system_register(operand: str) -> str:
    """The name under which a system register is kept, in small letters."""
    name = assembly.register(operand)
    return name if name is not None else operand.strip().lower().removeprefix("sys_")


def expression(text: str) -> str:
    return text.strip().lstrip("#").strip()


def expressions(lines: list[Line]) -> set[str]:
    """What of instructions may be a number."""
    found = {expression(one) for line in lines if not line.behind for one in operands(line.text.partition(" ")[2])}
    return {one for one in found if one and not _REGISTER.fullmatch(one) and re.fullmatch(r"[\w\s()<>|&~+*-]+", one)}
