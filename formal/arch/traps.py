"""Which access of a System register is UNDEFINED, taken to EL1, trapped to EL2, or executed.

An access is a register, an index, a direction and the Exception level that tries. ``checks`` lists, in the order of
the architecture, the conditions that stop it; the first that holds decides, and an access that none stops executes.
Everything else here reads that list: ``executes`` and ``traps_to_el2`` as Boolean terms for the specification,
``outcome`` as a 2-bit term, ``decide`` for concrete values with the name of what decided.

Modelled: AArch64 EL1 and EL0 with EL2 present and enabled, Non-secure and Non-debug state; EL3 absent, or trapping
nothing (MDCR_EL3 and CPTR_EL3.TTA do not trap, SCR_EL3.FGTEn and FGTEn2 are 1); no external debugger that halts the
access (EDSCR.TDA and EDSCR2.TTA are 0); HCR_EL2.NV is 0. Not modelled: a reserved HPMN, which makes the number of
accessible counters UNKNOWN, and MDSELR_EL1.BANK (the break- and watchpoints are those of bank 0).

Source: Arm ARM (DDI 0487) D24, the accessibility pseudocode of each register, as released in March 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial

from formal.arch import features as feat
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.sysregs import SystemRegister, find
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, Eq, If, Ne, Not, Or, Term


class Outcome(IntEnum):
    """What becomes of an access; the values are those of the term that ``outcome`` builds."""

    UNDEF = 0
    EL1 = 1
    EL2 = 2
    EXECUTED = 3


_UNDEF, _EL1, _EL2, _EXECUTED = (t.const(o, 2) for o in Outcome)
_zero = partial(t.const, 0)


@dataclass(frozen=True)
class Controls:
    """What the architecture consults, as terms; whatever is not given is 0, and every index is implemented.

    ``cptr_el2_tta`` is CPTR_EL2.TTA wherever HCR_EL2.E2H puts it (bit 28 if 1, bit 20 if 0). ``pmcr_el0_n`` is the
    number of event counters that the PE implements, not the HPMN that PMCR_EL0.N returns to EL1. ``implemented`` is,
    by the name of a register in the table, how many indices exist. ``unpredictable`` is what the PE does where the
    architecture leaves it the choice of an outcome.
    """

    mdcr_el2: MDCR_EL2 = field(default_factory=lambda: MDCR_EL2(_zero(64)))
    mdscr_el1: MDSCR_EL1 = field(default_factory=lambda: MDSCR_EL1(_zero(64)))
    hcr_el2: HCR_EL2 = field(default_factory=lambda: HCR_EL2(_zero(64)))
    cptr_el2_tta: Term = FALSE
    cpacr_el1_tta: Term = FALSE
    pmuserenr_el0: PMUSERENR_EL0 = field(default_factory=lambda: PMUSERENR_EL0(_zero(64)))
    pmselr_el0_sel: Term = field(default_factory=lambda: _zero(5))
    pmcr_el0_n: Term = field(default_factory=lambda: t.const(31, 5))
    hdfgrtr_el2: HDFGRTR_EL2 = field(default_factory=lambda: HDFGRTR_EL2(_zero(64)))
    hdfgwtr_el2: HDFGWTR_EL2 = field(default_factory=lambda: HDFGWTR_EL2(_zero(64)))
    hdfgrtr2_el2: HDFGRTR2_EL2 = field(default_factory=lambda: HDFGRTR2_EL2(_zero(64)))
    hdfgwtr2_el2: HDFGWTR2_EL2 = field(default_factory=lambda: HDFGWTR2_EL2(_zero(64)))
    spmselr_el0_syspmusel: Term = field(default_factory=lambda: _zero(5))
    spmaccessr_el1: Term = field(default_factory=lambda: _zero(64))
    spmaccessr_el2: Term = field(default_factory=lambda: _zero(64))
    unpredictable: Term = _UNDEF
    features: frozenset[str] = feat.WITHOUT_FGT
    implemented: Mapping[str, int] = field(default_factory=dict)

    @property
    def el0_is_host(self) -> Term:
        """HCR_EL2.{E2H,TGE} are both 1: EL0 runs programs of a host at EL2, and fine-grained traps leave it alone."""
        return And(self.hcr_el2.E2H, self.hcr_el2.TGE)


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

    @property
    def number(self) -> int:
        """The index, or 0."""
        return self.register.check_index(self.index)


@dataclass(frozen=True)
class Check:
    """One reason not to execute: if ``when`` holds, and none before it, ``outcome`` (2 bits) is what happens."""

    when: Term
    outcome: Term
    decided_by: str


def checks(access: Access, c: Controls) -> Iterator[Check]:
    """What may stop the access, in the order of the architecture; what cannot hold, or comes too late, is left out."""
    for check in _all_checks(access, c):
        if check.when is not FALSE:
            yield check
        if check.when is TRUE:
            return


def _all_checks(a: Access, c: Controls) -> Iterator[Check]:
    yield from _exists(a, c)
    yield from _index_exists(a, c)
    lowest = a.register.rights(a.write).lowest_el
    yield Check(t.boolean(lowest is not None and a.el < lowest), _UNDEF, f"no access from EL{a.el}")
    for when, why in _withheld_by_el1(a, c):
        yield Check(And(when, Not(c.hcr_el2.TGE)), _EL1, why)
        yield Check(when, _EL2, f"{why}, HCR_EL2.TGE")
    yield from _trapped_by_el2(a, c)


def _exists(a: Access, c: Controls) -> Iterator[Check]:
    reg = a.register
    missing = not feat.present(reg.features, c.features)
    yield Check(t.boolean(missing), _UNDEF, "not implemented: " + feat.spelled(reg.features))
    absent = reg.rights(a.write).lowest_el is None
    yield Check(t.boolean(absent), _UNDEF, "read-only register" if a.write else "write-only register")
    if reg.name == "SPMSCR_EL1":
        yield Check(TRUE, _UNDEF, "Secure state only")


# ---- indices that do not exist are UNDEFINED ahead of every trap


def _index_exists(a: Access, c: Controls) -> Iterator[Check]:
    count = c.implemented.get(a.name)
    if count is not None and a.register.indices:
        yield Check(t.boolean(a.number >= count), _UNDEF, f"index not implemented, of {count}")
    for n, named in _event_counter(a, c):
        why = "event counter not implemented, PMCR_EL0.N"
        yield Check(And(named, t.ule(c.pmcr_el0_n, n)), *_no_counter(c, _UNDEF, why))


def _event_counter(a: Access, c: Controls) -> Iterator[tuple[Term, Term]]:
    """The number of the event counter that the access is about, and whether it is about one at all."""
    if a.name in ("PMEVCNTR<n>_EL0", "PMEVTYPER<n>_EL0", "PMEVCNTSVR<n>_EL1"):
        yield t.const(a.number, 5), TRUE
    elif a.name == "PMXEVCNTR_EL0":
        yield c.pmselr_el0_sel, TRUE
    elif a.name == "PMXEVTYPER_EL0":  # 31 selects PMCCFILTR_EL0
        yield c.pmselr_el0_sel, Ne(c.pmselr_el0_sel, t.const(31, 5))


def _no_counter(c: Controls, outcome: Term, why: str) -> tuple[Term, str]:
    """What follows when there is no such counter: certain with FEAT_FGT, CONSTRAINED UNPREDICTABLE without."""
    return (outcome, why) if "FEAT_FGT" in c.features else (c.unpredictable, f"{why}: CONSTRAINED UNPREDICTABLE")


# ---- what EL1 withholds from EL0 (and CPACR_EL1 from EL1 itself)

_GRANTS = {
    "EN": ("UEN", "EN"),
    "ER": ("UEN", "ER", "EN"),
    "CR": ("UEN", "CR", "EN"),
    "SW": ("UEN", "SW", "EN"),
    "EN-TID": ("UEN", "EN"),
    "EN-UEN": ("EN",),
    "UEN": ("UEN",),
}


def _withheld_by_el1(a: Access, c: Controls) -> Iterator[tuple[Term, str]]:
    if "TTA" in a.register.traps:
        yield c.cpacr_el1_tta, "CPACR_EL1.TTA"
    enable = a.register.rights(a.write).enable
    if a.el == 1 or enable is None:
        return
    if enable == "TDCC":
        yield c.mdscr_el1.TDCC, "MDSCR_EL1.TDCC"
    elif enable == "EnSPM":
        yield Not(c.mdscr_el1.EnSPM), "MDSCR_EL1.EnSPM=0"
        if _selects_system_pmu(a):
            yield And(Not(c.el0_is_host), _spm_denied(a, c.spmaccessr_el1, c)), "SPMACCESSR_EL1"
    else:
        p9 = "FEAT_PMUv3p9" in c.features  # UEN and TID are RES0 without
        names = [name for name in _GRANTS[enable] if p9 or name != "UEN"]
        spelled = names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
        granted = Or(*(getattr(c.pmuserenr_el0, name) for name in names))
        yield Not(granted), f"PMUSERENR_EL0.{spelled}={'0' * len(names)}"
        if p9 and "-" in enable:
            taken = enable.partition("-")[2]
            yield getattr(c.pmuserenr_el0, taken), f"PMUSERENR_EL0.{taken}"


def _selects_system_pmu(a: Access) -> bool:
    """Whether the register belongs to the system PMU that SPMSELR_EL0 selects, so that SPMACCESSR_ELx guards it."""
    return a.register.group == "system_pmu" and a.name not in ("SPMSELR_EL0", "SPMACCESSR_EL1")


def _spm_denied(a: Access, spmaccessr: Term, c: Controls) -> Term:
    """The 2-bit field of the selected system PMU: 0b00 denies everything, 0b11 allows everything, others only reads."""
    shift = t.zero_extend(t.concat(c.spmselr_el0_syspmusel, _zero(1)), 64)
    permission = t.extract(t.bvlshr(spmaccessr, shift), 1, 0)
    return Ne(permission, t.const(0b11, 2)) if a.write else Eq(permission, t.const(0b00, 2))


# ---- what EL2 traps


def _trapped_by_el2(a: Access, c: Controls) -> Iterator[Check]:
    traps = a.register.traps
    yield Check(And(t.boolean("TTA" in traps), c.cptr_el2_tta), _EL2, "CPTR_EL2.TTA")
    for when, why in (*_fine_grained(a, c), *(reason for name in traps for reason in _coarse(a, name, c))):
        yield Check(when, _EL2, why)
    for n, named in _event_counter(a, c):
        yield Check(And(named, t.ule(c.mdcr_el2.HPMN, n)), *_no_counter(c, _EL2, "MDCR_EL2.HPMN"))


def _fine_grained(a: Access, c: Controls) -> Iterator[tuple[Term, str]]:
    fgt = a.register.rights(a.write).fgt
    if fgt is None or not feat.has_fgt(fgt[0], c.features):
        return
    if a.name == "OSDLR_EL1" and "FEAT_DoubleLock" not in c.features:
        return
    register, name = fgt
    bit = getattr(getattr(c, register.lower()), name)
    when, value = (Not(bit), "=0") if name.startswith("n") else (bit, "")
    yield And(when, Not(c.el0_is_host)) if a.el == 0 else when, f"{register}.{name}{value}"


def _coarse(a: Access, name: str, c: Controls) -> Iterator[tuple[Term, str]]:
    """What the field ``name`` of MDCR_EL2 contributes; TDE, and TGE through it, make TDRA, TDOSA and TDA act as 1."""
    m = c.mdcr_el2
    if name in ("TDRA", "TDOSA", "TDA"):
        if a.name == "OSDLR_EL1" and not c.features & {"FEAT_DoubleLock", "IMPDEF_OSDLR_EL1_TRAP"}:
            return
        yield getattr(m, name), f"MDCR_EL2.{name}"
        yield m.TDE, "MDCR_EL2.TDE"
        yield c.hcr_el2.TGE, "HCR_EL2.TGE"
    elif name in ("E2PB", "E2TB"):
        low = t.extract(getattr(m, name), 0, 0)
        yield Eq(low, _zero(1)), f"MDCR_EL2.{name}<0>=0"
    elif name == "EnSPM":
        yield Not(m.EnSPM), "MDCR_EL2.EnSPM=0"
        if _selects_system_pmu(a):
            yield _spm_denied(a, c.spmaccessr_el2, c), "SPMACCESSR_EL2"
    elif name in ("TPM", "TPMCR", "TPMS", "TTRF") or (name == "TDCC" and "FEAT_FGT" in c.features):
        yield getattr(m, name), f"MDCR_EL2.{name}"


# ---- readings of the list of checks


def _read(a: Access, c: Controls | MDCR_EL2, executed: Term, of: Callable[[Term], Term]) -> Term:
    """``of`` the outcome of the first check that holds, or ``executed``."""
    result = executed
    for check in reversed(list(checks(a, Controls(mdcr_el2=c) if isinstance(c, MDCR_EL2) else c))):
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


def decide(access: Access, controls: Controls) -> tuple[Outcome, str]:
    """The outcome under concrete controls and what decided it.

    Raises:
        TypeError: if a control that matters is not a constant.
    """
    for check in checks(access, controls):
        if check.when is TRUE:
            return Outcome(t.value_of(check.outcome)), check.decided_by
        raise TypeError(f"{check.decided_by} depends on {check.when!r}; decide() needs constants")
    return Outcome.EXECUTED, "no trap applies"
