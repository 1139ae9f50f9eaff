"""Where QEMU is known to do otherwise than the architecture: one entry each, by the versions that were compared.

An entry explains a difference only if it is of exactly this kind. An entry of the emulator's version that no longer
explains anything is a failure too, register by register, so that the list stays true. On a version that was never
compared, or is older than the release of its stable series that was, every entry may explain, and none has to. Sections
are those of the Arm ARM (DDI 0487); "source" names the function in QEMU's target/arm that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from formal.arch.registers import PMUSERENR_EL0
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.identify import Cpu

Series = tuple[int, int]
COMPARED: dict[Series, int] = {(7, 2): 22, (8, 2): 2, (10, 0): 13, (11, 1): 3}  # the release of each stable series
ALL = frozenset(COMPARED)
_7_2: frozenset[Series] = frozenset({(7, 2)})
_TO_8_2: frozenset[Series] = frozenset({(7, 2), (8, 2)})


@dataclass(frozen=True)
class Deviation:
    """One way in which some versions of QEMU are not an Arm CPU."""

    name: str
    series: frozenset[Series]  # that have it, from the release that was compared on
    says: str  # what QEMU does
    wrong: str  # how one sees that QEMU is wrong, not the table
    subjects: frozenset[str]  # registers, or kinds of debug exceptions; each must show it
    explains: Callable[[Difference], bool] = field(compare=False)
    needs: frozenset[str] = frozenset()  # features, and AArch32 at EL1 or EL0, without which a CPU does not show it

    def applies(self, cpu: Cpu) -> bool:
        """Whether this CPU can show it."""
        return self.needs <= cpu.features | cpu.states


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def undefined(d: Difference) -> bool:
    """QEMU does not have it."""
    return d.observed == "UNDEF"


_GRANTS = {  # register, write: the bit of PMUSERENR_EL0 besides EN that grants the access
    ("PMSELR_EL0", False): "ER",
    ("PMSELR_EL0", True): "ER",
    ("PMXEVCNTR_EL0", False): "ER",
    ("PMEVCNTR<n>_EL0", False): "ER",
    ("PMCCNTR_EL0", False): "CR",
    ("PMSWINC_EL0", True): "SW",
}


def _granted_past_el2(d: Difference) -> bool:
    bit = _GRANTS.get((d.register, d.write))
    granted = d.el == 0 and bit is not None and bool(d.pmuserenr & PMUSERENR_EL0.mask(bit))
    return granted and (d.expected, d.observed) == ("EL2", "EXECUTED") and d.why in ("MDCR_EL2.TPM", "MDCR_EL2.HPMN")


def decided(*why: str) -> Callable[[Difference], bool]:
    """QEMU executes what one of these should stop."""
    return lambda d: d.observed == "EXECUTED" and d.why in why


_ACCESS = "the accessibility pseudocode of each register, D24.3, lists it without any condition"
_PMU = _set("FEAT_PMUv3")
_COUNTERS = _set("PMEVCNTR<n>_EL0 PMEVTYPER<n>_EL0 PMXEVCNTR_EL0 PMXEVTYPER_EL0")

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "no external debug registers",
        ALL,
        "DBGAUTHSTATUS_EL1 and DBGPRCR_EL1 are UNDEFINED",
        f"{_ACCESS}; source: debug_cp_reginfo has neither for AArch64",
        _set("DBGAUTHSTATUS_EL1 DBGPRCR_EL1"),
        undefined,
    ),
    Deviation(
        "no DBGDTR_EL0",
        _TO_8_2,
        "DBGDTR_EL0 is UNDEFINED",
        f"{_ACCESS}; QEMU 10.0 has it, and agrees with the table; source: debug_cp_reginfo",
        _set("DBGDTR_EL0"),
        undefined,
    ),
    Deviation(
        "no debug channel",
        _7_2,
        "the debug communications channel (MDCCSR_EL0 and MDCCINT_EL1 apart), DBGCLAIM* and OSECCR_EL1 are UNDEFINED",
        f"{_ACCESS}; QEMU 8.2 has them, and agrees with the table; source: debug_cp_reginfo",
        _set("OSDTRRX_EL1 OSDTRTX_EL1 DBGDTRRX_EL0 DBGDTRTX_EL0 OSECCR_EL1 DBGCLAIMSET_EL1 DBGCLAIMCLR_EL1"),
        undefined,
    ),
    Deviation(
        "MDSCR_EL1.TDCC ignored",
        _7_2,
        "MDSCR_EL1.TDCC does not trap MDCCSR_EL0 from EL0: what EL2 asks for happens instead",
        "D24.3, MDSCR_EL1.TDCC; QEMU 8.2 traps; source: access_tda does not look at MDSCR_EL1",
        _set("MDCCSR_EL0"),
        lambda d: d.why.startswith("MDSCR_EL1.TDCC") and d.observed in ("EXECUTED", "EL2"),
    ),
    Deviation(
        "MDCR_EL2.TPMCR ignored",
        _TO_8_2,
        "MDCR_EL2.TPMCR does not trap PMCR_EL0",
        "D24.3, MDCR_EL2.TPMCR; QEMU 10.0 traps; source: PMCR_EL0 has pmreg_access, which looks at TPM only",
        _set("PMCR_EL0"),
        decided("MDCR_EL2.TPMCR"),
        _PMU,
    ),
    Deviation(
        "PMUSERENR_EL0 overrides MDCR_EL2",
        ALL,
        "an access from EL0 that PMUSERENR_EL0.ER, CR or SW grants is not trapped by MDCR_EL2.TPM",
        "D24.3, MDCR_EL2.TPM, names EL0; the same access granted by EN traps in QEMU; source: pmreg_access_selr, "
        "_xevcntr, _ccntr and _swinc return before they ask pmreg_access",
        frozenset(register for register, _ in _GRANTS),
        _granted_past_el2,
        _PMU,
    ),
    Deviation(
        "MDCR_EL2.HPMN traps nothing",
        ALL,
        "event counters from HPMN on are not trapped, although FEAT_FGT makes that certain",
        "D24.3, MDCR_EL2.HPMN, and D24.5, PMEVCNTR<n>_EL0; source: do_pmreg_access does not look at HPMN",
        _COUNTERS,
        decided("MDCR_EL2.HPMN"),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "PMSELR_EL0 selects any counter",
        ALL,
        "PMXEVCNTR_EL0 and PMXEVTYPER_EL0 are not UNDEFINED when PMSELR_EL0.SEL selects a counter that does not exist, "
        "although FEAT_FGT makes that certain",
        "D24.5, PMXEVCNTR_EL0, PMXEVTYPER_EL0; source: pmxevcntr_read and the like treat it as RAZ/WI",
        _set("PMXEVCNTR_EL0 PMXEVTYPER_EL0"),
        lambda d: (
            d.why == "event counter not implemented, PMCR_EL0.N"
            and d.expected == "UNDEF"
            and d.observed in ("EXECUTED", "EL1", "EL2")
        ),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "no fine-grained trap of PMUSERENR_EL0",
        ALL,
        "HDFGRTR_EL2.PMUSERENR_EL0 and HDFGWTR_EL2.PMUSERENR_EL0 do not trap",
        "D24.2, HDFGRTR_EL2 bit 57, which Linux names too; source: PMUSERENR_EL0 has no .fgt",
        _set("PMUSERENR_EL0"),
        decided("HDFGRTR_EL2.PMUSERENR_EL0", "HDFGWTR_EL2.PMUSERENR_EL0"),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "OS lock ignored",
        ALL,
        "the OS lock does not suppress debug exceptions, nor does it make software step inactive",
        'chapter D2, "The effect of powerdown on debug exceptions"; the OS double lock does suppress them in QEMU; '
        "source: arm_generate_debug_exceptions tests bit 0 of OSLSR_EL1, where OSLK is bit 1 (D24.3)",
        frozenset({"BRK", "step", "step of a call", "step over ERET", "breakpoint", "watchpoint"}),
        lambda d: d.unlocked,
    ),
)


@dataclass
class Book:
    """Which deviation explained how many differences of which subject, on which CPUs."""

    version: tuple[int, int, int]
    deviations: tuple[Deviation, ...] = DEVIATIONS
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    cpus: dict[str, set[str]] = field(default_factory=dict)
    due: dict[tuple[str, str], str] = field(default_factory=dict)  # what must show: on which CPU

    @property
    def compared(self) -> bool:
        """Whether this version of QEMU has been compared, so that the list is exact for it."""
        return self.version[:2] in COMPARED and self.version[2] >= COMPARED[self.version[:2]]

    def current(self, cpu: Cpu) -> Collection[Deviation]:
        """The entries that count on a CPU."""
        return [d for d in self.deviations if d.applies(cpu) and (self.version[:2] in d.series or not self.compared)]

    def sort_out(self, model: str, cpu: Cpu, differences: Collection[Difference]) -> list[Difference]:
        """Notes what deviations explain; the differences that none does."""
        known = self.current(cpu)
        shown: set[tuple[str, str]] = set()
        rest: list[Difference] = []
        for difference in differences:
            subject = difference.register or difference.subject
            for d in known:
                if subject in d.subjects and d.explains(difference):
                    shown.add((d.name, subject))
                    self.counts[d.name, subject] = self.counts.get((d.name, subject), 0) + 1
                    self.cpus.setdefault(d.name, set()).add(model)
                    break
            else:
                rest.append(difference)
        if self.compared:
            for d in known:
                for subject in d.subjects:
                    if (d.name, subject) not in shown:
                        self.due.setdefault((d.name, subject), model)
        return rest

    @property
    def vanished(self) -> list[str]:
        """Entries that should have shown themselves on a CPU and did not."""
        return [
            f'the deviation "{name}" no longer shows for {subject} on {model}: take it out of the list, or find out why'
            for (name, subject), model in sorted(self.due.items())
        ]
