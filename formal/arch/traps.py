"""Which access of a System register is UNDEFINED, taken to EL1, trapped to EL2, or executed.

An access is a register, an index, a direction and the exception level that tries. ``checks`` lists, in the order of
the architecture, the conditions that stop it; the first that holds decides, and an access that none stops executes.
Everything else here reads that list: ``executes`` and ``traps_to_el2`` as Boolean terms for the specification,
``outcome`` as a 2-bit term, ``decide`` for concrete values with the name of what decided.

Modelled: AArch64 EL1 and EL0 with EL2 present and enabled, Non-debug state, EL3 absent or trapping nothing
(MDCR_EL3, CPTR_EL3.TTA as 0, SCR_EL3.FGTEn and FGTEn2 as 1), no external debugger halting the access (EDSCR.TDA,
EDSCR2.TTA as 0), HCR_EL2.NV as 0. Not modelled: a reserved HPMN, which makes the number of accessible counters UNKNOWN.

Source: Arm ARM (DDI 0487) D24, accessibility pseudocode of each register; D1.4 and D13 for the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial

from formal import terms as t
from formal.arch import features as feat
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.sysregs import GROUPS, SYSTEM_REGISTERS, SystemRegister, find
from formal.terms import FALSE, TRUE, And, Eq, If, Not, Or, Term

__all__ = [
    "GROUPS",
    "HOLES",
    "SYSTEM_REGISTERS",
    "Access",
    "Check",
    "Controls",
    "Outcome",
    "checks",
    "decide",
    "executes",
    "find",
    "outcome",
    "traps_to_el2",
]


class Outcome(IntEnum):
    """What becomes of an access; the values are those of the term that ``outcome`` builds."""

    UNDEF = 0
    EL1 = 1
    EL2 = 2
    EXECUTED = 3


def _zero(bits: int = 64) -> Term:
    return t.const(0, bits)


@dataclass(frozen=True)
class Controls:
    """What the architecture consults, as terms; whatever is not given is 0, and every index is implemented.

    ``cptr_el2_tta`` is CPTR_EL2.TTA wherever HCR_EL2.E2H puts it (bit 28 if 1, bit 20 if 0). ``pmcr_el0_n`` is the
    number of event counters that the PE implements, not the HPMN that PMCR_EL0.N returns to EL1. ``implemented`` is how
    many indices of a register exist, by its name in the table. ``unpredictable`` is what the PE does where the
    architecture leaves it a choice of outcomes.
    """

    mdcr_el2: MDCR_EL2 = field(default_factory=lambda: MDCR_EL2(_zero()))
    mdscr_el1: MDSCR_EL1 = field(default_factory=lambda: MDSCR_EL1(_zero()))
    hcr_el2: HCR_EL2 = field(default_factory=lambda: HCR_EL2(_zero()))
    cptr_el2_tta: Term = FALSE
    cpacr_el1_tta: Term = FALSE
    pmuserenr_el0: PMUSERENR_EL0 = field(default_factory=lambda: PMUSERENR_EL0(_zero()))
    pmselr_el0_sel: Term = field(default_factory=partial(_zero, 5))
    pmcr_el0_n: Term = field(default_factory=lambda: t.const(31, 5))
    hdfgrtr_el2: HDFGRTR_EL2 = field(default_factory=lambda: HDFGRTR_EL2(_zero()))
    hdfgwtr_el2: HDFGWTR_EL2 = field(default_factory=lambda: HDFGWTR_EL2(_zero()))
    hdfgrtr2_el2: HDFGRTR2_EL2 = field(default_factory=lambda: HDFGRTR2_EL2(_zero()))
    hdfgwtr2_el2: HDFGWTR2_EL2 = field(default_factory=lambda: HDFGWTR2_EL2(_zero()))
    spmselr_el0_syspmusel: Term = field(default_factory=partial(_zero, 5))
    spmaccessr_el1: Term = field(default_factory=_zero)
    spmaccessr_el2: Term = field(default_factory=_zero)
    unpredictable: Term = field(default_factory=lambda: t.const(Outcome.UNDEF, 2))
    features: frozenset[str] = feat.WITHOUT_FGT
    implemented: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Access:
    """An MRS or MSR of a register from EL0 or EL1."""

    name: str  # as in the table, indexed ones with <n>
    write: bool
    el: int
    index: int | None = None  # the lowest, if it is not given and the register has one

    def __post_init__(self) -> None:
        if self.el not in (0, 1):
            raise ValueError(f"an access comes from EL0 or EL1, got EL{self.el}")
        self.register.check_index(self.index)

    @property
    def register(self) -> SystemRegister:
        """The line of the table."""
        return find(self.name)


@dataclass(frozen=True)
class Check:
    """One reason not to execute: if ``when`` holds, and none before it, ``outcome`` (2 bits) is what happens."""

    when: Term
    outcome: Term
    decided_by: str


_UNDEF, _EL1, _EL2, _EXECUTED = (t.const(o, 2) for o in Outcome)


def checks(access: Access, c: Controls) -> Iterator[Check]:
    """What may stop the access, in the order of the architecture; checks that cannot hold are left out."""
    for check in _all_checks(access, c):
        if check.when is not FALSE:
            yield check


def _all_checks(a: Access, c: Controls) -> Iterator[Check]:
    reg = a.register
    rights = reg.rights(a.write)
    if not feat.present(reg.features, c.features):
        yield Check(TRUE, _UNDEF, " & ".join("|".join(names) for names in reg.features) + " not implemented")
    if rights.lowest_el is None:
        yield Check(TRUE, _UNDEF, "read-only register" if a.write else "write-only register")
    yield from _index_checks(a, c)
    if rights.lowest_el is not None and a.el < rights.lowest_el:
        yield Check(TRUE, _UNDEF, "no access from EL0")
    yield from _el1_checks(a, c)
    yield from _el2_checks(a, c)


# ---- indices that do not exist: before every trap


def _index_checks(a: Access, c: Controls) -> Iterator[Check]:
    name = a.register.name
    count = c.implemented.get(name)
    if count is not None and a.register.indices and a.register.check_index(a.index) >= count:
        yield Check(TRUE, _UNDEF, "index not implemented")
    for n in _event_counter(a, c):
        yield Check(t.ule(c.pmcr_el0_n, n), *_no_counter(c, _UNDEF, "event counter not implemented (PMCR_EL0.N)"))


def _event_counter(a: Access, c: Controls) -> Iterator[Term]:
    """The number of the event counter that the access names, directly or through PMSELR_EL0."""
    if a.register.name in ("PMEVCNTR<n>_EL0", "PMEVTYPER<n>_EL0", "PMEVCNTSVR<n>_EL1"):
        yield t.const(a.register.check_index(a.index), 5)
    if a.register.name in ("PMXEVCNTR_EL0", "PMXEVTYPER_EL0"):
        yield c.pmselr_el0_sel


def _no_counter(c: Controls, defined: Term, why: str) -> tuple[Term, str]:
    """What follows from a missing counter: certain with FEAT_FGT, CONSTRAINED UNPREDICTABLE without."""
    if "FEAT_FGT" in c.features:
        return defined, why
    return c.unpredictable, why + ": CONSTRAINED UNPREDICTABLE"


# ---- what EL1 withholds from EL0


def _el1_checks(a: Access, c: Controls) -> Iterator[Check]:
    for when, why in _withheld(a, c):
        yield Check(And(when, Not(c.hcr_el2.TGE)), _EL1, why)
        yield Check(And(when, c.hcr_el2.TGE), _EL2, f"{why} with HCR_EL2.TGE=1")


def _withheld(a: Access, c: Controls) -> Iterator[tuple[Term, str]]:
    enable = a.register.rights(a.write).enable
    if "TTA" in a.register.traps:
        yield c.cpacr_el1_tta, "CPACR_EL1.TTA"
    if a.el == 1 or not enable:
        return
    if enable == ("TDCC",):
        yield c.mdscr_el1.TDCC, "MDSCR_EL1.TDCC"
    elif enable == ("EnSPM",):
        yield Not(c.mdscr_el1.EnSPM), "MDSCR_EL1.EnSPM=0"
    elif a.register.name == "PMCR_EL0":
        yield Not(c.pmuserenr_el0.EN), "PMUSERENR_EL0.EN=0"
    else:
        yield Not(Or(*(getattr(c.pmuserenr_el0, name) for name in enable))), f"PMUSERENR_EL0.{'+'.join(enable)}=0"


# ---- what EL2 traps


def _el2_checks(a: Access, c: Controls) -> Iterator[Check]:
    reg = a.register
    fine = list(_fine_grained(a, c))
    if "TTA" in reg.traps:
        yield Check(c.cptr_el2_tta, _EL2, "CPTR_EL2.TTA")
    yield from fine
    for name in reg.traps:
        if name != "TTA":
            yield from (Check(when, _EL2, why) for when, why in _mdcr(reg, name, c))
    for n in _event_counter(a, c):
        yield Check(t.ule(c.mdcr_el2.HPMN, n), *_no_counter(c, _EL2, "MDCR_EL2.HPMN: counter reserved for EL2"))


def _fine_grained(a: Access, c: Controls) -> Iterator[Check]:
    fgt = a.register.rights(a.write).fgt
    if fgt is None:
        return
    register, name = fgt
    if ("FEAT_FGT2" if "2_" in register else "FEAT_FGT") not in c.features:
        return
    set_ = getattr(getattr(c, register.lower()), name)
    when, value = (Not(set_), "=0") if name.startswith("n") else (set_, "")
    if a.el == 0:
        when = And(when, Not(c.hcr_el2.TGE))
    yield Check(when, _EL2, f"{register}.{name}{value}")


def _mdcr(reg: SystemRegister, name: str, c: Controls) -> Iterator[tuple[Term, str]]:
    """What the MDCR_EL2 field ``name`` of the table contributes; TDE and TGE make TDRA, TDOSA and TDA act as 1."""
    m = c.mdcr_el2
    if name in ("TDRA", "TDOSA", "TDA"):
        if reg.name == "OSDLR_EL1" and not c.features & {"FEAT_DoubleLock", "IMPDEF_OSDLR_EL1_TRAP"}:
            return
        yield getattr(m, name), f"MDCR_EL2.{name}"
        yield m.TDE, "MDCR_EL2.TDE"
        yield c.hcr_el2.TGE, "HCR_EL2.TGE"
    elif name in ("E2PB", "E2TB"):
        yield Eq(t.extract(getattr(m, name), 0, 0), t.const(0, 1)), f"MDCR_EL2.{name}[0]=0"
    elif name == "EnSPM":
        yield Not(m.EnSPM), "MDCR_EL2.EnSPM=0"
    elif name != "TDCC" or "FEAT_FGT" in c.features:
        yield getattr(m, name), f"MDCR_EL2.{name}"


# ---- readings of the list of checks


def _read(a: Access, c: Controls | MDCR_EL2, executed: Term, of: Callable[[Term], Term]) -> Term:
    """``of`` the outcome of the first check that holds, or ``executed``."""
    controls = Controls(mdcr_el2=c) if isinstance(c, MDCR_EL2) else c
    result = executed
    for check in reversed(list(checks(a, controls))):
        result = If(check.when, of(check.outcome), result)
    return result


def outcome(access: Access, controls: Controls | MDCR_EL2) -> Term:
    """The outcome as a term of 2 bits, numbered as ``Outcome``. MDCR_EL2 alone stands for Controls with only that."""
    return _read(access, controls, _EXECUTED, lambda o: o)


def executes(access: Access, controls: Controls | MDCR_EL2) -> Term:
    """Whether the access reads or writes the physical register."""
    return _read(access, controls, TRUE, lambda o: Eq(o, _EXECUTED))


def traps_to_el2(access: Access, controls: Controls | MDCR_EL2) -> Term:
    """Whether the access arrives at EL2 as a trapped System register access (EC 0x18)."""
    return _read(access, controls, FALSE, lambda o: Eq(o, _EL2))


def decide(access: Access, c: Controls) -> tuple[Outcome, str]:
    """The outcome under concrete controls and what decided it.

    Raises:
        TypeError: if a control that matters is not a constant.
    """
    for check in checks(access, c):
        if check.when is TRUE:
            return Outcome(t.value_of(check.outcome)), check.decided_by
        if check.when is not FALSE:
            raise TypeError(f"{check.decided_by} depends on {check.when!r}; decide() needs constants")
    return Outcome.EXECUTED, "nothing traps it"


# What executes with every trap that KVM sets through MDCR_EL2 and CPTR_EL2.TTA, on hardware that has the register.
HOLES: dict[str, str] = {
    "PMBIDR_EL1": "identification register; only FEAT_FGT has a trap for it",
    "TRBIDR_EL1": "identification register; only FEAT_FGT has a trap for it",
    "PM": "PSTATE.PM masks PMU exceptions at EL1; no trap exists",
    "PMSSCR_EL1": "TPM does not cover snapshots; HDFGxTR2_EL2.nPMSSCR_EL1 does",
    "PMCCNTSVR_EL1": "TPM does not cover snapshots; HDFGRTR2_EL2.nPMSSDATA does",
    "PMEVCNTSVR<n>_EL1": "TPM does not cover snapshots; HDFGRTR2_EL2.nPMSSDATA does",
    "PMICNTSVR_EL1": "TPM does not cover snapshots; HDFGRTR2_EL2.nPMSSDATA does",
    "TRCITECR_EL1": "neither TTA nor TTRF; HDFGxTR2_EL2.nTRCITECR_EL1 does",
    "BRBINF<n>_EL1": "only HDFGRTR_EL2.nBRBDATA",
    "BRBSRC<n>_EL1": "only HDFGRTR_EL2.nBRBDATA",
    "BRBTGT<n>_EL1": "only HDFGRTR_EL2.nBRBDATA",
    "BRBTS_EL1": "only HDFGxTR_EL2.nBRBDATA",
    "BRBINFINJ_EL1": "only HDFGxTR_EL2.nBRBDATA",
    "BRBSRCINJ_EL1": "only HDFGxTR_EL2.nBRBDATA",
    "BRBTGTINJ_EL1": "only HDFGxTR_EL2.nBRBDATA",
    "BRBCR_EL1": "only HDFGxTR_EL2.nBRBCTL",
    "BRBFCR_EL1": "only HDFGxTR_EL2.nBRBCTL",
    "BRBIDR0_EL1": "only HDFGRTR_EL2.nBRBIDR",
}
