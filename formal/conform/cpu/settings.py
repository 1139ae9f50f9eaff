"""The values of the controls under which the accesses are probed: all that decides a trap, one setting a line.

Every single bit of MDCR_EL2, the values that KVM writes, random ones, and for what is decided elsewhere (PMUSERENR_EL0,
MDSCR_EL1.TDCC, PMSELR_EL0, HCR_EL2.TGE, fine-grained traps, HSTR_EL2.T9) sweeps of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from formal.arch.bits import Register
from formal.arch.features import has_fgt
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.traps import Controls
from formal.conform.cpu.identify import Cpu
from formal.conform.machine.blob import State
from formal.logic import terms as t

SEED = 20240917  # any; fixed, so that two runs probe the same
RANDOM = 24
HCR_RW = 1 << 31  # EL1 is AArch64
FGT: tuple[type[Register], ...] = (HDFGRTR_EL2, HDFGWTR_EL2, HDFGRTR2_EL2, HDFGWTR2_EL2)


def _open(register: type[Register]) -> int:
    """The value that traps nothing: the bits whose name begins with n are 1."""
    return sum(f.mask for name, f in register.fields.items() if name.startswith("n"))


_OPEN = tuple(_open(r) for r in FGT)
_USER = PMUSERENR_EL0.mask("EN", "SW", "CR", "ER")  # what KVM gives a guest


@dataclass(frozen=True)
class Setting:
    """The controls, as numbers."""

    label: str
    mdcr: int = 0
    tge: bool = False
    e2h: bool = False
    tdcc: bool = False
    pmuserenr: int = _USER
    sel: int = 0
    cptr_tta: bool = False
    cpacr_tta: bool = False
    fgt: tuple[int, ...] = _OPEN
    accesses: str = "all"
    t9: bool = False  # HSTR_EL2.T9, of AArch32 only
    rw: bool = True  # EL1 is AArch64

    @property
    def hcr(self) -> int:
        """HCR_EL2 while the guest runs."""
        return self.rw * HCR_RW | self.tge * HCR_EL2.mask("TGE") | self.e2h * HCR_EL2.mask("E2H")

    @property
    def mdscr(self) -> int:
        """MDSCR_EL1."""
        return self.tdcc * MDSCR_EL1.mask("TDCC")

    def state(self) -> State:
        """What the probe sets up. CPTR_EL2 has its layout from HCR_EL2.E2H (Arm ARM D24.2); nothing else traps."""
        cptr = 3 << 20 | 3 << 16 | self.cptr_tta << 28 if self.e2h else 0x33FF & ~(1 << 10) | self.cptr_tta << 20
        return State(
            self.mdcr,
            self.hcr,
            cptr,
            self.cpacr_tta << 28,
            self.t9 << 9,
            self.mdscr,
            self.pmuserenr,
            self.sel,
            *self.fgt,
        )

    def controls(self, cpu: Cpu) -> Controls:
        """What the trap table is asked with."""
        read, write, read2, write2 = (t.const(value, 64) for value in self.fgt)
        return Controls(
            mdcr_el2=MDCR_EL2(t.const(self.mdcr, 64)),
            mdscr_el1=MDSCR_EL1(t.const(self.mdscr, 64)),
            hcr_el2=HCR_EL2(t.const(self.hcr, 64)),
            cptr_el2_tta=t.boolean(self.cptr_tta),
            cpacr_el1_tta=t.boolean(self.cpacr_tta),
            pmuserenr_el0=PMUSERENR_EL0(t.const(self.pmuserenr, 64)),
            pmselr_el0_sel=t.const(self.sel, 5),
            pmcr_el0_n=t.const(cpu.counters, 5),
            hdfgrtr_el2=HDFGRTR_EL2(read),
            hdfgwtr_el2=HDFGWTR_EL2(write),
            hdfgrtr2_el2=HDFGRTR2_EL2(read2),
            hdfgwtr2_el2=HDFGWTR2_EL2(write2),
            features=cpu.features,
            implemented=cpu.implemented,
        )


def settings(cpu: Cpu) -> Iterator[Setting]:
    """All settings for a CPU."""
    n = cpu.counters
    yield Setting("nothing traps", n)
    yield Setting("nothing traps, EL0 has no PMU", n, pmuserenr=0)
    yield Setting("all ones", (1 << 64) - 1)
    for bit in range(64):
        name = next((f for f, d in MDCR_EL2.fields.items() if d.mask >> bit & 1), f"bit {bit}, RES0")
        yield Setting(f"MDCR_EL2.{name}", 1 << bit | (n if bit > 4 else 0))
    yield from _kvm(cpu)
    yield from _random(cpu)
    yield from _elsewhere(cpu)
    yield from _fine_grained(cpu)
    if cpu.aarch32_el0:
        yield from _aarch32(cpu)


def _kvm(cpu: Cpu) -> Iterator[Setting]:
    """What KVM writes while a guest runs: HPMN is N, or 0 where VHE never read it (v4.17 to v4.19)."""
    always = MDCR_EL2.mask("TPM", "TPMCR", "TDRA", "TDOSA", "TPMS")
    hosts = (False, True) if cpu.vhe else (False,)
    for e2h, hpmn, ttrf, tde, tda in product(hosts, (cpu.counters, 0), (0, 1), (0, 1), (0, 1)):
        extra = [name for name, on in (("TTRF", ttrf), ("TDE", tde), ("TDA", tda)) if on]
        label = f"KVM{' VHE' * e2h}, HPMN={hpmn}, " + (" ".join(extra) or "no more")
        yield Setting(label, always | hpmn | (MDCR_EL2.mask(*extra) if extra else 0), e2h=e2h)


def _random(cpu: Cpu) -> Iterator[Setting]:
    rng = random.Random(SEED)
    for i in range(RANDOM):
        value = rng.getrandbits(64)
        if i % 2:  # half of the values with an HPMN that is not reserved, and trapping less
            value = value & rng.getrandbits(64) & ~31 | rng.randint(1, max(1, cpu.counters))
        yield Setting(
            f"random {i}",
            value,
            e2h=cpu.vhe and rng.random() < 0.5,
            tdcc=rng.random() < 0.5,
            pmuserenr=rng.getrandbits(7),
            sel=rng.getrandbits(5),
            cptr_tta=rng.random() < 0.5,
            cpacr_tta=rng.random() < 0.5,
            fgt=tuple(
                rng.getrandbits(64) & rng.getrandbits(64) & r.mask() ^ o for r, o in zip(FGT, _OPEN, strict=True)
            ),
        )


_TRAPS = ("TPMCR", "TPM", "TDE", "TDA", "TDOSA", "TDRA", "TDCC")


def _elsewhere(cpu: Cpu) -> Iterator[Setting]:
    n = cpu.counters
    for e2h, name, (user, tdcc) in product(
        (False, True) if cpu.vhe else (False,), ("", *_TRAPS), ((_USER, False), (0, True))
    ):
        mdcr = n | (MDCR_EL2.mask(name) if name else 0)
        label = f"TGE{' E2H' * e2h}, {name or 'no trap'}, PMUSERENR_EL0={user:#x}, TDCC={tdcc:d}"
        yield Setting(label, mdcr, True, e2h, tdcc, user, accesses="EL0")
    for name, user in product(("", "TPM", "TPMCR"), (*range(16), 0x10, 0x1F, 0x20, 0x21, 0x40, 0x41, 0x7F)):
        mdcr = n | (MDCR_EL2.mask(name) if name else 0)
        yield Setting(f"PMUSERENR_EL0={user:#x}, {name or 'no trap'}", mdcr, pmuserenr=user, accesses="PMU at EL0")
    for tdcc, name in product((False, True), ("", "TDA", "TDCC", "TDE")):
        mdcr = n | (MDCR_EL2.mask(name) if name else 0)
        yield Setting(f"MDSCR_EL1.TDCC={tdcc:d}, {name or 'no trap'}", mdcr, tdcc=tdcc, accesses="debug channel")
    for hpmn, sel in product(sorted({1, n} - {0}), range(32)):
        yield Setting(f"HPMN={hpmn}, PMSELR_EL0.SEL={sel}", hpmn, sel=sel, accesses="counters")
    for hpmn in range(32):
        yield Setting(f"HPMN={hpmn}", hpmn, accesses="counters")
    for cptr, cpacr, e2h in product((False, True), (False, True), (False, True) if cpu.vhe else (False,)):
        label = f"CPTR_EL2.TTA={cptr:d}, CPACR_EL1.TTA={cpacr:d}, E2H={e2h:d}"
        yield Setting(label, n, e2h=e2h, cptr_tta=cptr, cpacr_tta=cpacr, accesses="trace")


def _fine_grained(cpu: Cpu) -> Iterator[Setting]:
    """Every named bit of the fine-grained trap registers alone; and all of a register, for EL0 under E2H and TGE."""
    for i, register in enumerate(FGT):
        if not has_fgt(register.__name__, cpu.features):
            continue
        for name, f in register.fields.items():
            one = tuple(value ^ f.mask if j == i else value for j, value in enumerate(_OPEN))
            yield Setting(f"{register.__name__}.{name}", cpu.counters, fgt=one)
        every = tuple(value ^ register.mask() if j == i else value for j, value in enumerate(_OPEN))
        for tge, e2h in product((False, True), (False, True) if cpu.vhe else (False,)):
            label = f"{register.__name__}, every bit{', TGE' * tge}{', E2H' * e2h}"
            yield Setting(label, cpu.counters, tge, e2h, fgt=every, accesses="EL0" if tge else "all")


def _aarch32(cpu: Cpu) -> Iterator[Setting]:
    """HSTR_EL2.T9, beside what comes before and after it."""
    hosts = (False, True) if cpu.vhe else (False,)
    for name, user, tge, e2h in product(("", "TPM", "TPMCR"), (0, _USER, 0x40), (False, True), hosts):
        mdcr = cpu.counters | (MDCR_EL2.mask(name) if name else 0)
        label = f"HSTR_EL2.T9, {name or 'no trap'}, PMUSERENR_EL0={user:#x}{', TGE' * tge}{', E2H' * e2h}"
        yield Setting(label, mdcr, tge, e2h, pmuserenr=user, accesses="AArch32", t9=True)
