"""Accesses by the names that people have for them: a register, an instruction, an encoding, a syndrome.

    named("pmcr_el0")                   # every access of PMCR_EL0
    named("mrs x0, s3_3_c9_c12_0")      # the read of it
    syndrome(0x62320019)                # what an ESR_ELx value says that was trapped

Source: Arm ARM (DDI 0487) C5.3 (S<op0>_<op1>_<Cn>_<Cm>_<op2>), D24.2 ESR_EL2 (EC, and the ISS of trapped accesses).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from formal.arch.aarch32 import REGISTERS32, Register32
from formal.arch.registers import CPTR_EL2, HCR_EL2, MDCR_EL2, MDSCR_EL1, OSLSR_EL1, PMUSERENR_EL0
from formal.arch.sysregs import SYSTEM_REGISTERS, Encoding, SystemRegister


class UnknownNameError(ValueError):
    """Something that names no access; the message is one line, and proposes what may have been meant."""


@dataclass(frozen=True)
class Named:
    """Accesses of one register. ``write`` is None where both directions are meant; ``line32`` is its AArch32 name."""

    register: SystemRegister
    index: int | None
    write: bool | None = None
    line32: Register32 | None = None

    @property
    def spelled(self) -> str:
        """The name that the access was given, with its index."""
        name = self.line32.name if self.line32 is not None else self.register.name
        return name if self.index is None else name.replace("<n>", str(self.index))


# Exception classes that are no trapped access, as far as debugging and these registers are concerned (ESR_EL2.EC).
CLASSES = {
    0x00: "unknown reason (an access that is UNDEFINED is reported so)",
    0x01: "trapped WFI or WFE",
    0x07: "trapped access to SVE, Advanced SIMD or floating point",
    0x0E: "illegal execution state",
    0x15: "SVC in AArch64 state",
    0x16: "HVC in AArch64 state",
    0x17: "SMC in AArch64 state",
    0x1A: "trapped ERET",
    0x20: "instruction abort from a lower Exception level",
    0x24: "data abort from a lower Exception level",
    0x30: "breakpoint from a lower Exception level",
    0x31: "breakpoint from this Exception level",
    0x32: "software step from a lower Exception level",
    0x33: "software step from this Exception level",
    0x34: "watchpoint from a lower Exception level",
    0x35: "watchpoint from this Exception level",
    0x38: "BKPT in AArch32 state",
    0x3A: "vector catch in AArch32 state",
    0x3C: "BRK in AArch64 state",
}
DEBUG_CLASSES = frozenset((0x30, 0x32, 0x34, 0x38, 0x3A, 0x3C))  # MDCR_EL2.TDE sends them from EL1 and EL0 to EL2
_SYS64 = 0x18


def by_encoding(code: Encoding) -> list[Named]:
    """The registers with this encoding; two of them where reads and writes differ."""
    return [Named(r, n) for r in SYSTEM_REGISTERS for n in r.instances() if r.encoding(n) == code]


def spelled(code: Encoding) -> str:
    """An encoding as assemblers take it."""
    return "S{}_{}_C{}_C{}_{}".format(*code)


def encoding(text: str) -> Encoding:
    """op0,op1,CRn,CRm,op2 as five numbers with commas between.

    Raises:
        UnknownNameError: if it is something else.
    """
    try:
        numbers = [int(part.strip().lower().removeprefix("c"), 0) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 5 or not all(0 <= n <= most for n, most in zip(numbers, (3, 7, 15, 15, 7), strict=True)):
        raise UnknownNameError(f"{text!r} is no encoding; write op0,op1,CRn,CRm,op2, as in 3,3,9,12,0")
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]


def named(text: str) -> list[Named]:
    """What a register name, or an MRS, MSR, MRC, MCR, MRRC or MCRR instruction, accesses.

    Raises:
        UnknownNameError: if it names nothing in the tables.
    """
    words = [w for w in re.split(r"[\s,]+", text.strip()) if w]
    operation = words[0].lower() if len(words) > 1 else ""
    if operation in ("mrs", "msr"):
        if len(words) != 3:
            raise UnknownNameError(f"{text!r}: write mrs x0, REGISTER or msr REGISTER, x0")
        write = operation == "msr"
        return _directed(_register(words[1] if write else words[2]), write, text)
    if operation in ("mrc", "mcr", "mrrc", "mcrr"):
        return _aarch32(operation, words[1:], text)
    if len(words) != 1:
        raise UnknownNameError(f"{text!r} is neither a register nor an instruction that accesses one")
    return _register(words[0])


def _directed(found: list[Named], write: bool, text: str) -> list[Named]:
    kept = [
        Named(n.register, n.index, write, n.line32) for n in found if n.register.rights(write).lowest_el is not None
    ]
    return kept or [Named(n.register, n.index, write, n.line32) for n in found[:1]]


def _register(text: str) -> list[Named]:
    name = text.upper()
    if code := re.fullmatch(r"S(\d+)_(\d+)_C?(\d+)_C?(\d+)_(\d+)", name):
        numbers = encoding(",".join(code.groups()))
        if found := by_encoding(numbers):
            return found
        raise UnknownNameError(f"{text}: no debug, PMU, profiling or trace register has this encoding")
    for register in SYSTEM_REGISTERS:
        if register.name.upper() == name:
            return [Named(register, register.indices[0] if register.indices else None)]
        if match := re.fullmatch(re.escape(register.name.upper()).replace("<N>", r"(\d+)"), name):
            number = int(match[1])
            if number not in register.indices:
                first, last = register.indices[0], register.indices[-1]
                raise UnknownNameError(f"{text}: {register.name} has indices {first} to {last}")
            return [Named(register, number)]
    lines = [(line, index) for line in REGISTERS32 if (index := _matches32(line, name)) is not None]
    if lines:
        return [Named(line.acts_as, number, None, line) for line, number in lines if line.form in ("mcr", "stc", "ldc")]
    known = [r.name for r in SYSTEM_REGISTERS] + [line.name for line in REGISTERS32]
    raise UnknownNameError(f"no register {text} in the table" + _outside(name, known))


def _matches32(line: Register32, name: str) -> int | None:
    """The index (0 for a register without one) if this is the line's name."""
    match = re.fullmatch(re.escape(line.name.upper()).replace("<N>", r"(\d+)"), name)
    return None if match is None else int(match[1]) if match.groups() else line.acts_as.check_index(None)


def _outside(name: str, known: list[str]) -> str:
    if name.endswith("_EL3"):
        return ": EL3's registers are out of scope; the table takes EL3 to be absent, or to trap nothing"
    if name.endswith("_EL2"):
        return ": it belongs to EL2, and is UNDEFINED at EL1 and EL0 (or, with FEAT_NV, trapped by HCR_EL2.NV)"
    for register in (MDCR_EL2, HCR_EL2, CPTR_EL2, PMUSERENR_EL0, MDSCR_EL1, OSLSR_EL1):
        for field, f in register.fields.items():
            if field.upper() == name:
                place = f"bit {f.lo}" if f.single else f"bits {f.hi} to {f.lo}"
                return f": it is a field, {place} of {register.__name__}" + (f" ({f.says})" if f.says else "")
    near = get_close_matches(name, [k.upper() for k in known], 1)
    spelled_so = {k.upper(): k for k in known}
    return f"; did you mean {spelled_so[near[0]]}?" if near else ""


def _aarch32(operation: str, words: list[str], text: str) -> list[Named]:
    wide = operation in ("mrrc", "mcrr")
    numbers = [int(w) for w in (re.sub(r"^[pc]", "", word.lower()) for word in words) if w.isdigit()]
    if len(numbers) != (3 if wide else 5):
        raise UnknownNameError(
            f"{text!r}: write {operation} " + ("p14, 0, r0, r1, c1" if wide else "p14, 0, r0, c0, c2, 2")
        )
    coprocessor, opc1 = numbers[0], numbers[1]
    code = (opc1, None, numbers[2], None) if wide else (opc1, *numbers[2:])
    form = "mcrr" if wide else "mcr"
    found = list(_lines32(coprocessor, form, code))
    if not found:
        raise UnknownNameError(f"{text}: no debug or PMU register of AArch32 has this encoding")
    return _directed(found, operation in ("mcr", "mcrr"), text)


def _lines32(coprocessor: int, form: str, code: tuple[int | None, ...]) -> Iterator[Named]:
    for line in REGISTERS32:
        if (line.coprocessor, line.form) == (coprocessor, form):
            for number in line.acts_as.instances():
                if line.encoding(number) == code:
                    yield Named(line.acts_as, number, None, line)


# ---- syndromes


@dataclass(frozen=True)
class Syndrome:
    """A decoded ESR_ELx value. ``names`` is empty if the access is of no register in the tables, or none at all."""

    ec: int
    says: str
    code: str = ""  # the encoding that the ISS names, as assemblers take it
    write: bool | None = None
    names: tuple[Named, ...] = ()


def syndrome(esr: int) -> Syndrome:
    """What an ESR_EL2 (or ESR_EL1) value reports.

    Raises:
        UnknownNameError: if it does not fit into 64 bits.
    """
    if not 0 <= esr < 1 << 64:
        raise UnknownNameError(f"{esr:#x} does not fit in ESR_EL2, which has 64 bits")
    ec, write = esr >> 26 & 0x3F, not esr & 1

    def field(low: int, size: int) -> int:
        return esr >> low & ((1 << size) - 1)

    if ec == _SYS64:
        code = (field(20, 2), field(14, 3), field(10, 4), field(1, 4), field(17, 3))
        found = _directed(by_encoding(code), write, "")
        return Syndrome(ec, "trapped MSR or MRS in AArch64 state", spelled(code), write, tuple(found))
    if ec in (0x03, 0x05):
        coprocessor, parts = (15 if ec == 0x03 else 14), (field(14, 3), field(10, 4), field(1, 4), field(17, 3))
        shown = "p{}, {}, c{}, c{}, {}".format(coprocessor, *parts)
        found = _directed(list(_lines32(coprocessor, "mcr", parts)), write, "")
        return Syndrome(ec, f"trapped MCR or MRC of coprocessor {coprocessor}", shown, write, tuple(found))
    if ec in (0x04, 0x0C):
        coprocessor = 15 if ec == 0x04 else 14
        pair = (field(16, 4), None, field(1, 4), None)
        shown = f"p{coprocessor}, {pair[0]}, c{pair[2]}"
        found = _directed(list(_lines32(coprocessor, "mcrr", pair)), write, "")
        return Syndrome(ec, f"trapped MCRR or MRRC of coprocessor {coprocessor}", shown, write, tuple(found))
    if ec == 0x06:
        form = "ldc" if write else "stc"  # LDC writes the register that it loads
        lines = [Named(line.acts_as, None, write, line) for line in REGISTERS32 if line.form == form]
        return Syndrome(ec, "trapped LDC or STC of coprocessor 14", "p14, c5", write, tuple(lines))
    return Syndrome(ec, CLASSES.get(ec, "an exception class that is out of scope here"))
