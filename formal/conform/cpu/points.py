"""The accesses that are probed: every encoding of the trap table, read and written, at EL1 and EL0, and their code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from formal.arch.sysregs import SYSTEM_REGISTERS, Encoding, SystemRegister
from formal.arch.traps import Access, Controls, decide, outcome
from formal.conform.machine import asm
from formal.conform.machine.blob import X0, Run
from formal.logic.terms import Term

DONE_CALL = 1  # the immediate of the HVC or SVC that follows the access
_EL1H, _EL0T = 0x3C5, 0x3C0  # SPSR_EL2 with D, A, I and F set
_SLOT = 10  # instructions for one encoding
_PART = {(1, False): 0, (1, True): 2, (0, False): 4, (0, True): 6}  # where in the slot; MRS, RET for EL2 is at 8

# Registers whose write acts on the 1s in it, or enters a channel: 0 does nothing, what a read returns might.
_WRITE_ZERO = frozenset(
    "DBGCLAIMSET_EL1 DBGCLAIMCLR_EL1 OSDTRRX_EL1 OSDTRTX_EL1 DBGDTR_EL0 DBGDTRTX_EL0 PMCNTENSET_EL0 PMCNTENCLR_EL0 "
    "PMOVSCLR_EL0 PMOVSSET_EL0 PMSWINC_EL0 PMINTENSET_EL1 PMINTENCLR_EL1 PMZR_EL0 SPMCNTENSET_EL0 SPMCNTENCLR_EL0 "
    "SPMOVSCLR_EL0 SPMOVSSET_EL0 SPMINTENSET_EL1 SPMINTENCLR_EL1 SPMZR_EL0 TRCCLAIMSET TRCCLAIMCLR TRCRSR "
    "BRBINFINJ_EL1 BRBSRCINJ_EL1 BRBTGTINJ_EL1".split()
)


def write_value(name: str) -> X0:
    """What to write to a register so that nothing changes."""
    if name == "OSLAR_EL1":
        return X0.OSLAR
    return X0.ZERO if name in _WRITE_ZERO else X0.READ_BACK


@dataclass(frozen=True)
class Point:
    """One access, and where its code is."""

    access: Access
    encoding: Encoding
    slot: int  # the first instruction of its encoding's slot

    @cached_property
    def register(self) -> SystemRegister:
        """The line of the table."""
        return self.access.register

    @cached_property
    def iss(self) -> int:
        """The syndrome of a trapped access with Rt = X0 (Arm ARM D24.2, ESR_ELx, ISS encoding for EC 0x18)."""
        op0, op1, crn, crm, op2 = self.encoding
        return op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1 | (not self.access.write)

    def run(self) -> Run:
        """The trip that makes the access."""
        a = self.access
        x0 = write_value(a.name) if a.write or a.name == "OSLAR_EL1" else X0.ZERO
        return Run(self.slot + _PART[a.el, a.write], _EL1H if a.el else _EL0T, x0, self.slot + 8)

    @property
    def name(self) -> str:
        """The line's name."""
        return self.access.name

    def outcome(self, controls: Controls, _t9: Term) -> Term:
        """What the table says."""
        return outcome(self.access, controls)

    def decided_by(self, controls: Controls, _t9: bool) -> str:
        """What in the table says it."""
        return decide(self.access, controls)[1]

    def __str__(self) -> str:
        a = self.access
        index = a.index if a.register.indices else None
        return f"{'MSR' if a.write else 'MRS'} {a.register.spelled(index)} at EL{a.el}"


def code(encoding: Encoding) -> tuple[int, ...]:
    """The slot of an encoding."""
    read, write = asm.mrs(encoding), asm.msr(encoding)
    el1, el0 = asm.hvc(DONE_CALL), asm.svc(DONE_CALL)
    return read, el1, write, el1, read, el0, write, el0, read, asm.RET


def points() -> tuple[list[int], list[Point]]:
    """The code of all encodings, and all accesses; of two registers in one encoding, each has its direction."""
    owners: dict[Encoding, list[SystemRegister]] = {}
    for reg in SYSTEM_REGISTERS:
        for index in reg.instances():
            owners.setdefault(reg.encoding(index), []).append(reg)
    text: list[int] = []
    slots: dict[Encoding, int] = {}
    found: list[Point] = []
    for reg in SYSTEM_REGISTERS:
        for index in reg.instances():
            encoding = reg.encoding(index)
            if encoding not in slots:
                slots[encoding] = len(text)
                text += code(encoding)
            for el in (1, 0):
                for write in (False, True):
                    others = (o for o in owners[encoding] if o is not reg)
                    twin = any(o.rights(write).lowest_el is not None for o in others)
                    if not (twin and reg.rights(write).lowest_el is None):
                        found.append(Point(Access(reg.name, write, el, index), encoding, slots[encoding]))
    assert len(text) == _SLOT * len(slots)
    return text, found


EVENT_COUNTERS = frozenset(
    ("PMEVCNTR<n>_EL0", "PMEVTYPER<n>_EL0", "PMEVCNTSVR<n>_EL1", "PMXEVCNTR_EL0", "PMXEVTYPER_EL0")
)


def selected(kind: str, point: Point) -> bool:
    """Whether an access belongs to the kind that a setting asks for."""
    a, group = point.access, point.register.group
    return {
        "all": True,
        "AArch32": False,
        "EL0": a.el == 0,
        "PMU at EL0": a.el == 0 and group == "pmu",
        "counters": a.name in EVENT_COUNTERS,
        "debug channel": group == "dcc",
        "trace": group == "trace",
    }[kind]
