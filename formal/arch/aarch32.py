"""The AArch32 names of the debug and PMU registers, and which access of them is UNDEFINED, trapped or executed.

An AArch32 access has the outcome of the AArch64 register that it is mapped to (``formal.arch.traps``), except that
below an AArch32 EL1 what EL1 withholds from EL0 is UNDEFINED, and no fine-grained trap applies; that HSTR_EL2.T9 traps
cp15 accesses of c9, all of them at EL1, and at EL0 those that EL0 may make; and that what has no counterpart at EL1
(DBGDIDR, DBGDRAR, ...) has a line of its own. DBGDSCRext and MDSCR_EL1 are one register, so that UDCCdis is TDCC;
PMUSERENR is PMUSERENR_EL0.

Modelled as there, EL2 being AArch64. Where EL1 cannot be AArch32, those that are ``OPTIONAL`` are taken to be there.
Not modelled: HCR_EL2.TGE with an AArch32 EL1; the trace registers (cp14, opc1 = 1); HCPTR, as EL2 is AArch64.

Source: Arm ARM (DDI 0487) G8.3, G8.4, the accessibility pseudocode of each register; D24.2, HSTR_EL2, ESR_EL2.EC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from formal.arch import traps
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import HCR_EL2
from formal.arch.sysregs import Rights, SystemRegister, find
from formal.arch.traps import Check, Controls, Outcome
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, If, Not, Term

# name, AArch64 register or "-" with "EL1 EL0 trap" after it; form; coprocessor, opc1, CRn, CRm, opc2.
# EL0 accesses of the lines with "-" are withheld by MDSCR_EL1.TDCC. Indices are those of the AArch64 register.
TABLE = """
DBGDIDR        mcr  14 0 c0 c0           0      -  r  r TDA
DBGDSCRint     mcr  14 0 c0 c1           0      MDCCSR_EL0
DBGDCCINT      mcr  14 0 c0 c2           0      MDCCINT_EL1
DBGDTRRXint    mcr  14 0 c0 c5           0      DBGDTRRX_EL0
DBGDTRTXint    mcr  14 0 c0 c5           0      DBGDTRTX_EL0
DBGDTRRXint    stc  14 - c5 -            -      DBGDTRRX_EL0
DBGDTRTXint    ldc  14 - c5 -            -      DBGDTRTX_EL0
DBGWFAR        mcr  14 0 c0 c6           0      -  rw - TDA
DBGVCR         mcr  14 0 c0 c7           0      -  rw - TDA
DBGDTRRXext    mcr  14 0 c0 c0           2      OSDTRRX_EL1
DBGDSCRext     mcr  14 0 c0 c2           2      MDSCR_EL1
DBGDTRTXext    mcr  14 0 c0 c3           2      OSDTRTX_EL1
DBGOSECCR      mcr  14 0 c0 c6           2      OSECCR_EL1
DBGBVR<n>      mcr  14 0 c0 n[3:0]       4      DBGBVR<n>_EL1
DBGBCR<n>      mcr  14 0 c0 n[3:0]       5      DBGBCR<n>_EL1
DBGWVR<n>      mcr  14 0 c0 n[3:0]       6      DBGWVR<n>_EL1
DBGWCR<n>      mcr  14 0 c0 n[3:0]       7      DBGWCR<n>_EL1
DBGBXVR<n>     mcr  14 0 c1 n[3:0]       1      DBGBVR<n>_EL1
DBGDRAR        mcr  14 0 c1 c0           0      -  r  r TDRA
DBGDRAR        mcrr 14 0 -  c1           -      -  r  r TDRA
DBGDSAR        mcr  14 0 c2 c0           0      -  r  r TDRA
DBGDSAR        mcrr 14 0 -  c2           -      -  r  r TDRA
DBGOSLAR       mcr  14 0 c1 c0           4      OSLAR_EL1
DBGOSLSR       mcr  14 0 c1 c1           4      OSLSR_EL1
DBGOSDLR       mcr  14 0 c1 c3           4      OSDLR_EL1
DBGPRCR        mcr  14 0 c1 c4           4      DBGPRCR_EL1
DBGDEVID2      mcr  14 0 c7 c0           7      -  r  - TDA
DBGDEVID1      mcr  14 0 c7 c1           7      -  r  - TDA
DBGDEVID       mcr  14 0 c7 c2           7      -  r  - TDA
DBGCLAIMSET    mcr  14 0 c7 c8           6      DBGCLAIMSET_EL1
DBGCLAIMCLR    mcr  14 0 c7 c9           6      DBGCLAIMCLR_EL1
DBGAUTHSTATUS  mcr  14 0 c7 c14          6      DBGAUTHSTATUS_EL1
PMCR           mcr  15 0 c9 c12          0      PMCR_EL0
PMCNTENSET     mcr  15 0 c9 c12          1      PMCNTENSET_EL0
PMCNTENCLR     mcr  15 0 c9 c12          2      PMCNTENCLR_EL0
PMOVSR         mcr  15 0 c9 c12          3      PMOVSCLR_EL0
PMSWINC        mcr  15 0 c9 c12          4      PMSWINC_EL0
PMSELR         mcr  15 0 c9 c12          5      PMSELR_EL0
PMCEID0        mcr  15 0 c9 c12          6      PMCEID0_EL0
PMCEID1        mcr  15 0 c9 c12          7      PMCEID1_EL0
PMCCNTR        mcr  15 0 c9 c13          0      PMCCNTR_EL0
PMCCNTR        mcrr 15 0 -  c9           -      PMCCNTR_EL0
PMXEVTYPER     mcr  15 0 c9 c13          1      PMXEVTYPER_EL0
PMXEVCNTR      mcr  15 0 c9 c13          2      PMXEVCNTR_EL0
PMUSERENR      mcr  15 0 c9 c14          0      PMUSERENR_EL0
PMINTENSET     mcr  15 0 c9 c14          1      PMINTENSET_EL1
PMINTENCLR     mcr  15 0 c9 c14          2      PMINTENCLR_EL1
PMOVSSET       mcr  15 0 c9 c14          3      PMOVSSET_EL0
PMCEID2        mcr  15 0 c9 c14          4      PMCEID0_EL0 PMUv3p1
PMCEID3        mcr  15 0 c9 c14          5      PMCEID1_EL0 PMUv3p1
PMMIR          mcr  15 0 c9 c14          6      PMMIR_EL1
PMEVCNTR<n>    mcr  15 0 c14 0b10:n[4:3] n[2:0] PMEVCNTR<n>_EL0
PMEVTYPER<n>   mcr  15 0 c14 0b11:n[4:3] n[2:0] PMEVTYPER<n>_EL0
PMCCFILTR      mcr  15 0 c14 c15         7      PMCCFILTR_EL0
"""

OPTIONAL = frozenset(("DBGDIDR", "DBGDRAR", "DBGDSAR"))  # and deprecated, where EL1 cannot use AArch32 (G8.3)
_CLASSES = {("mcr", 15): 0x03, ("mcrr", 15): 0x04, ("mcr", 14): 0x05, ("ldc", 14): 0x06, ("stc", 14): 0x06}
_CLASSES[("mcrr", 14)] = 0x0C


@dataclass(frozen=True)
class Register32:
    """One line of the table. ``acts_as`` decides; its name is the AArch64 register's, or this one's own."""

    name: str
    form: str  # mcr (and MRC), mcrr (and MRRC), ldc, stc
    coprocessor: int
    spelling: tuple[str, str, str, str]  # opc1, CRn, CRm, opc2; "-" if the form has none
    acts_as: SystemRegister

    @property
    def exception_class(self) -> int:
        """ESR_ELx.EC of a trapped access."""
        return _CLASSES[self.form, self.coprocessor]

    def encoding(self, index: int | None = None) -> tuple[int | None, ...]:
        """opc1, CRn, CRm, opc2; None for a field that the form does not have."""
        plain = tuple("0" if s == "-" else s.removeprefix("c") for s in self.spelling)
        opc1, crn, crm, opc2 = plain
        numbers = replace(self.acts_as, spelling=("0", opc1, crn, crm, opc2)).encoding(index)[1:]
        return tuple(None if s == "-" else n for s, n in zip(self.spelling, numbers, strict=True))


def _line(line: str) -> Register32:
    name, form, coprocessor, opc1, crn, crm, opc2, target, *rest = line.split()
    if target == "-":
        el1, el0, trap = rest

        def rights(kind: str) -> Rights:
            lowest = 0 if kind in el0 else 1 if kind in el1 else None
            return Rights(lowest, "TDCC" if lowest == 0 else None, None)

        unused = ("0", "0", "0", "0", "0")
        reg = SystemRegister(name, range(0), unused, "debug", (trap,), (), rights("r"), rights("w"))
    else:
        reg = find(target)
        reg = replace(reg, features=reg.features + tuple((f"FEAT_{f}",) for f in rest))
    return Register32(name, form, int(coprocessor), (opc1, crn, crm, opc2), reg)


REGISTERS32: tuple[Register32, ...] = tuple(_line(line) for line in TABLE.splitlines() if line)


@dataclass(frozen=True)
class _Access(traps.Access):
    """The AArch64 access that decides, made through the line of this table."""

    line: Register32 | None = None

    @property
    def register(self) -> SystemRegister:
        assert self.line is not None
        return self.line.acts_as


@dataclass(frozen=True)
class Access32:
    """An access in AArch32 state from EL0 or EL1; ``el1_is_aarch32`` is HCR_EL2.RW = 0."""

    register: Register32
    write: bool
    el: int
    index: int | None = None
    el1_is_aarch32: bool = True

    def __post_init__(self) -> None:
        if self.el == 1 and not self.el1_is_aarch32:
            raise ValueError("an AArch64 EL1 makes no AArch32 access")


_OPEN = {
    r.__name__.lower(): r(t.const(sum(f.mask for name, f in r.fields.items() if name.startswith("n")), 64))
    for r in (HDFGRTR_EL2, HDFGWTR_EL2, HDFGRTR2_EL2, HDFGWTR2_EL2)
}


def checks(a: Access32, c: Controls, hstr_el2_t9: Term = FALSE) -> Iterator[Check]:
    """What may stop the access, in the order of the architecture, as ``formal.arch.traps.checks``.

    Raises:
        ValueError: for HCR_EL2.TGE with an AArch32 EL1.
    """
    if a.el1_is_aarch32:
        if c.hcr_el2.TGE is not FALSE:
            raise ValueError("HCR_EL2.TGE with an AArch32 EL1 is not modelled")
        c = replace(c, **_OPEN)  # type: ignore[arg-type]
    reg = a.register
    hstr_el2_t9 = And(hstr_el2_t9, Not(c.el0_is_host))
    undef, el1, el2 = (t.const(o, 2) for o in (Outcome.UNDEF, Outcome.EL1, Outcome.EL2))
    pending = reg.coprocessor == 15 and "c9" in (reg.spelling[1], reg.spelling[2] if reg.form == "mcrr" else "")
    if pending and a.el == 1 and hstr_el2_t9 is not FALSE:
        pending = False
        yield Check(hstr_el2_t9, el2, "HSTR_EL2.T9")
        if hstr_el2_t9 is TRUE:
            return
    count, aware = (c.implemented.get(name) for name in ("DBGBVR<n>_EL1", "DBGBXVR<n>"))
    if reg.name == "DBGBXVR<n>" and count is not None and aware is not None and (a.index or 0) < count - aware:
        yield Check(TRUE, undef, "breakpoint not context-aware")
        return
    for check in traps.checks(_Access(reg.acts_as.name, a.write, a.el, a.index, reg), c):
        if pending and check.outcome is el2 and "HCR_EL2.TGE" not in check.decided_by:
            pending = False
            if hstr_el2_t9 is not FALSE:
                yield Check(hstr_el2_t9, el2, "HSTR_EL2.T9")
        withheld = a.el1_is_aarch32 and check.outcome is el1
        yield replace(check, outcome=undef) if withheld else check
        if check.when is TRUE:
            return
    if pending and hstr_el2_t9 is not FALSE:
        yield Check(hstr_el2_t9, el2, "HSTR_EL2.T9")


def decide(a: Access32, c: Controls, hstr_el2_t9: Term = FALSE) -> tuple[Outcome, str]:
    """The outcome under concrete controls and what decided it.

    Raises:
        TypeError: if a control that matters is not a constant.
    """
    for check in checks(a, c, hstr_el2_t9):
        if check.when is not TRUE:
            raise TypeError(f"{check.decided_by} depends on {check.when!r}; decide() needs constants")
        return Outcome(t.value_of(check.outcome)), check.decided_by
    return Outcome.EXECUTED, "no trap applies"


def outcome(a: Access32, c: Controls, hstr_el2_t9: Term = FALSE) -> Term:
    """The outcome as a term of 2 bits, numbered as ``Outcome``; of an AArch32 EL1, HCR_EL2 is not consulted."""
    if a.el1_is_aarch32:
        c = replace(c, hcr_el2=HCR_EL2(t.const(0, 64)))
    result = t.const(Outcome.EXECUTED, 2)
    for check in reversed(list(checks(a, c, hstr_el2_t9))):
        result = If(check.when, check.outcome, result)
    return result
