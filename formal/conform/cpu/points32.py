"""The AArch32 accesses that are probed, in A32: MRC, MCR, MRRC and MCRR of every line of ``formal.arch.aarch32``.

They are made at EL1 and EL0 below an AArch32 EL1, and at EL0 below an AArch64 one. Not probed: T32, and LDC and STC.
Source of encodings and syndromes: Arm ARM (DDI 0487) F5.1 (MCR, MCRR, HVC, SVC), D24.2, ESR_ELx, ISS encodings for EC
0x03 to 0x06 and 0x0C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from formal.arch import aarch32
from formal.arch.aarch32 import REGISTERS32, Access32, Register32
from formal.arch.sysregs import SystemRegister
from formal.arch.traps import Controls, Outcome
from formal.conform.cpu.identify import Cpu
from formal.conform.cpu.points import DONE_CALL, EVENT_COUNTERS, write_value
from formal.conform.machine import asm
from formal.conform.machine.blob import X0, Run
from formal.logic import terms as t
from formal.logic.terms import Term

FORMS = ("mcr", "mcrr")  # those that are probed
_SVC_MODE, _USER_MODE = 0x1D3, 0x1D0  # SPSR_EL2: AArch32, A32, with A, I and F set
_PART = {(1, False): 0, (1, True): 2, (0, False): 4, (0, True): 6}  # where in the slot; MRS, RET for EL2 is at 8
_UNDEF_VECTOR, _SVC_VECTOR = 4, 8
_UNKNOWN, _SVC, _HVC = 0x00, 0x11, 0x12  # exception classes, of A32
_IL = 1 << 25
_ALWAYS = 1 << 24 | 0xE << 20  # CV, COND


@dataclass(frozen=True, eq=False)
class Point32:
    """One access, and where its code is."""

    access: Access32
    slot: int  # the first instruction of its encoding's slot

    @property
    def register(self) -> SystemRegister:
        """The register that decides."""
        return self.access.register.acts_as

    @cached_property
    def name(self) -> str:
        """The line of the table."""
        return spelled(self.access.register)

    @cached_property
    def iss(self) -> int:
        """The syndrome of a trapped access with Rt = R0 and Rt2 = R1."""
        r = self.access.register
        opc1, crn, crm, opc2 = (n or 0 for n in r.encoding(self.access.index))
        fields = opc1 << 16 | 1 << 10 if r.form == "mcrr" else opc2 << 17 | opc1 << 14 | crn << 10
        return _ALWAYS | fields | crm << 1 | (not self.access.write)

    def run(self) -> Run:
        """The trip that makes the access."""
        a = self.access
        own = a.register.name == self.register.name
        x0 = X0.ZERO if own or not a.write else write_value(self.register.name)
        return Run(self.slot + _PART[a.el, a.write], _SVC_MODE if a.el else _USER_MODE, x0, self.slot + 8)

    def selected(self, kind: str) -> bool:
        """Whether the access belongs to the kind that a setting asks for."""
        enables = {self.register.read.enable, self.register.write.enable}
        return {
            "all": True,
            "AArch32": True,
            "EL0": self.access.el == 0,
            "PMU at EL0": self.access.el == 0 and self.register.group == "pmu",
            "counters": self.register.name in EVENT_COUNTERS,
            "debug channel": self.register.group == "dcc" or "TDCC" in enables,
            "trace": False,
        }[kind]

    def outcome(self, controls: Controls, t9: Term) -> Term:
        """What the table says."""
        return aarch32.outcome(self.access, controls, t9)

    def decided_by(self, controls: Controls, t9: bool) -> str:
        """What in the table says it."""
        return aarch32.decide(self.access, controls, t.boolean(t9))[1]

    def syndromes(self, host: bool) -> dict[int, Outcome]:
        """As ``formal.conform.cpu.compare.syndromes``; an AArch32 EL1 has no syndrome, but vectors and link
        registers."""

        def result(el: int, ec: int, iss: int, at: int) -> int:
            return el << 48 | at << 32 | ec << 26 | _IL | iss

        def to_aarch32(vector: int, at: int) -> int:
            return 1 << 48 | at << 32 | vector

        ec = self.access.register.exception_class
        found = {result(2, ec, self.iss, 0): Outcome.EL2}
        if self.access.el == 1:
            found[result(2, _HVC, DONE_CALL, 2)] = Outcome.EXECUTED
        elif self.access.el1_is_aarch32:
            found[to_aarch32(_SVC_VECTOR, 2)] = Outcome.EXECUTED
        else:
            found[result(2 if host else 1, _SVC, DONE_CALL, 2)] = Outcome.EXECUTED
        if self.access.el1_is_aarch32:
            found[to_aarch32(_UNDEF_VECTOR, 1)] = Outcome.UNDEF
        else:
            found[result(2 if host else 1, _UNKNOWN, 0, 0)] = Outcome.UNDEF
            found[result(1, ec, self.iss, 0)] = Outcome.EL1
        return found

    def __str__(self) -> str:
        a = self.access
        mnemonic = {"mcr": ("MRC", "MCR"), "mcrr": ("MRRC", "MCRR")}[a.register.form][a.write]
        name = a.register.name.replace("<n>", str(a.index)) if self.register.indices else a.register.name
        return f"{mnemonic} {name} at EL{a.el}" + ("" if a.el1_is_aarch32 else " below AArch64 EL1")


def spelled(register: Register32) -> str:
    """The name of a line of the table, beside those of AArch64."""
    return f"A32 {register.name}" + ("" if register.form == "mcr" else f" ({register.form})")


def instruction(register: Register32, write: bool, index: int | None = None) -> int:
    """MRC or MCR with R0, MRRC or MCRR with R0 and R1.

    Raises:
        ValueError: if the line has another form.
    """
    opc1, crn, crm, opc2 = (n or 0 for n in register.encoding(index))
    if register.form == "mcr":
        return 0xEE000010 | (not write) << 20 | opc1 << 21 | crn << 16 | register.coprocessor << 8 | opc2 << 5 | crm
    if register.form == "mcrr":
        return 0xEC410000 | (not write) << 20 | register.coprocessor << 8 | opc1 << 4 | crm
    raise ValueError(f"{register.form} is not probed")


def _code(register: Register32, index: int | None) -> list[int]:
    read, write = (instruction(register, w, index) for w in (False, True))
    hvc, svc = 0xE1400070 | DONE_CALL, 0xEF000000 | DONE_CALL
    own = register.name == register.acts_as.name
    reader = asm.NOP if own else asm.mrs(register.acts_as.encoding(index))
    return [read, hvc, write, hvc, read, svc, write, svc, reader, asm.RET]


def points32(cpu: Cpu, at: int) -> tuple[list[int], list[Point32]]:
    """The code, to begin at an instruction, and the accesses that the CPU can make; none without AArch32."""
    if not cpu.aarch32_el0:
        return [], []
    text: list[int] = []
    found: list[Point32] = []
    for reg in REGISTERS32:
        if reg.form not in FORMS:
            continue
        for index in reg.acts_as.instances():
            slot = at + len(text)
            text += _code(reg, index)
            found += (Point32(a, slot) for a in _accesses(reg, index, cpu.aarch32_el1))
    return text, found


def _accesses(register: Register32, index: int | None, at_el1: bool) -> Iterator[Access32]:
    """Of two registers in one encoding, each has its direction."""
    twins = [r for r in REGISTERS32 if r is not register and _place(r) == _place(register)]
    for write in (False, True):
        if any(r.acts_as.rights(write).lowest_el is not None for r in twins):
            continue
        if at_el1:
            yield Access32(register, write, 1, index)
            yield Access32(register, write, 0, index)
        yield Access32(register, write, 0, index, el1_is_aarch32=False)


def _place(register: Register32) -> tuple[str, int, tuple[str, ...]]:
    return register.form, register.coprocessor, register.spelling
