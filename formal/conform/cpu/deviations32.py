"""Where QEMU is known to do otherwise than the architecture in AArch32 state, as ``formal.conform.cpu.deviations``
has it.

Subjects are lines of ``formal.arch.aarch32``. What QEMU leaves UNDEFINED is here too, and is printed as not tested.
"""

from __future__ import annotations

from formal.arch.registers import PMUSERENR_EL0
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.deviations import ALL, DEVIATIONS, Deviation, Series, decided, undefined

_7_2: frozenset[Series] = frozenset({(7, 2)})
_8_2: frozenset[Series] = frozenset({(8, 2)})
_TO_8_2 = _7_2 | _8_2
_FROM_8_2 = ALL - _7_2
_FROM_10_0 = ALL - _TO_8_2

_PMU = frozenset({"FEAT_PMUv3", "AArch32 at EL0"})
_PMU_EL1 = _PMU | {"AArch32 at EL1"}
_EL0, _EL1 = frozenset({"AArch32 at EL0"}), frozenset({"AArch32 at EL0", "AArch32 at EL1"})
_ACCESS = "the accessibility pseudocode of each register, G8.3, lists it without any condition"
_ROM_64 = ("DBGDRAR (mcrr)", "DBGDSAR (mcrr)")


def _a32(names: str) -> frozenset[str]:
    return frozenset(f"A32 {name}" for name in names.split())


def _mrrc(*names: str) -> frozenset[str]:
    return frozenset(f"A32 {name}" for name in names)


def _withheld(d: Difference) -> bool:
    return d.why.startswith("MDSCR_EL1.TDCC") and d.observed in ("EXECUTED", "EL2") and d.expected != d.observed


_GRANTS = {  # register, write: the bit of PMUSERENR_EL0 besides EN that grants the access
    ("A32 PMSELR", False): "ER",
    ("A32 PMSELR", True): "ER",
    ("A32 PMXEVCNTR", False): "ER",
    ("A32 PMEVCNTR<n>", False): "ER",
    ("A32 PMCCNTR", False): "CR",
    ("A32 PMCCNTR (mcrr)", False): "CR",
    ("A32 PMSWINC", True): "SW",
}


def _granted_past_el2(d: Difference) -> bool:
    bit = _GRANTS.get((d.register, d.write))
    granted = d.el == 0 and bit is not None and bool(d.pmuserenr & PMUSERENR_EL0.mask(bit))
    return granted and (d.expected, d.observed) == ("EL2", "EXECUTED") and d.why in ("MDCR_EL2.TPM", "MDCR_EL2.HPMN")


def _hstr_first(d: Difference) -> bool:
    denied = d.why.startswith("PMUSERENR_EL0.") and d.expected in ("EL1", "UNDEF")
    return d.t9 and d.el == 0 and denied and d.observed == "EL2"


def _hstr_undefined(d: Difference) -> bool:
    return d.el == 1 and d.why == "HSTR_EL2.T9" and d.observed == "UNDEF"


def _at_el0(d: Difference) -> bool:
    return d.el == 0 and d.observed == "UNDEF"


def _tdcc(d: Difference) -> bool:
    return d.el == 1 and d.why == "MDCR_EL2.TDCC" and d.observed == "EXECUTED"


_COUNTERS = _a32("PMEVCNTR<n> PMEVTYPER<n> PMXEVCNTR PMXEVTYPER")
_OF_EL0 = _a32("PMCR PMCNTENSET PMCNTENCLR PMOVSR PMOVSSET PMSWINC PMSELR PMCEID0 PMCEID1 PMCCNTR PMXEVTYPER PMXEVCNTR")
_ALWAYS_C9 = _OF_EL0 | _a32("PMUSERENR PMINTENSET PMINTENCLR")
_SOURCE_HSTR = "HSTR_EL2.T<n> traps any access at EL1 (D24.2, HSTR_EL2); QEMU 10.0 traps all of them; source: "

DEVIATIONS32: tuple[Deviation, ...] = (
    Deviation(
        "no A32 debug identification",
        ALL,
        "DBGAUTHSTATUS, DBGBXVR<n>, DBGDEVID*, DBGPRCR and DBGWFAR are UNDEFINED",
        f"{_ACCESS}, and D24 has the AArch64 counterparts; source: debug_cp_reginfo and define_debug_regs have none",
        _a32("DBGAUTHSTATUS DBGBXVR<n> DBGDEVID DBGDEVID1 DBGDEVID2 DBGPRCR DBGWFAR"),
        undefined,
        _EL1,
    ),
    Deviation(
        "no A32 debug channel",
        _TO_8_2,
        "DBGDTRRXint and DBGDTRTXint are UNDEFINED",
        f"{_ACCESS}; QEMU 10.0 has them, and agrees with the table; source: debug_cp_reginfo",
        _a32("DBGDTRRXint DBGDTRTXint"),
        undefined,
        _EL0,
    ),
    Deviation(
        "no A32 claim tags",
        _7_2,
        "DBGDTRRXext, DBGDTRTXext, DBGOSECCR and DBGCLAIM* are UNDEFINED",
        f"{_ACCESS}; QEMU 8.2 has them, and agrees with the table; source: debug_cp_reginfo",
        _a32("DBGDTRRXext DBGDTRTXext DBGOSECCR DBGCLAIMSET DBGCLAIMCLR"),
        undefined,
        _EL1,
    ),
    Deviation(
        "DBGDSCRint withheld from EL0",
        ALL,
        "DBGDSCRint is UNDEFINED at EL0",
        f"{_ACCESS} but UDCCdis; source: debug_cp_reginfo gives it PL1_R",
        _a32("DBGDSCRint"),
        _at_el0,
        _EL0,
    ),
    Deviation(
        "UDCCdis ignored",
        ALL,
        "MDSCR_EL1.TDCC, which is DBGDSCRext.UDCCdis, does not withhold the debug ROM addresses from EL0",
        "G8.3, DBGDSCRext.UDCCdis, names DBGDIDR, DBGDRAR and DBGDSAR; D24.3, MDSCR_EL1.TDCC; source: access_tda and "
        "access_tdra do not look at MDSCR_EL1",
        _a32("DBGDRAR DBGDSAR") | _mrrc(*_ROM_64),
        _withheld,
        _EL0,
    ),
    Deviation(
        "UDCCdis ignored for DBGDIDR",
        ALL,
        "MDSCR_EL1.TDCC, which is DBGDSCRext.UDCCdis, does not withhold DBGDIDR from EL0",
        "G8.3, DBGDSCRext.UDCCdis; D24.3, MDSCR_EL1.TDCC; source: define_debug_regs gives DBGDIDR access_tda",
        _a32("DBGDIDR"),
        _withheld,
        _EL1,
    ),
    Deviation(
        "MRRC of the debug ROM addresses not trapped",
        ALL,
        "MDCR_EL2.TDRA, TDE and HCR_EL2.TGE do not trap MRRC of DBGDRAR and DBGDSAR",
        "D24.3, MDCR_EL2.TDRA, names MRC and MRRC; source: debug_lpae_cp_reginfo has no access function",
        _mrrc(*_ROM_64),
        decided("MDCR_EL2.TDRA", "MDCR_EL2.TDE", "HCR_EL2.TGE"),
        _EL0,
    ),
    Deviation(
        "MDCR_EL2.TDCC ignored for DBGDSCRint",
        _FROM_8_2,
        "MDCR_EL2.TDCC does not trap DBGDSCRint",
        "D24.3, MDCR_EL2.TDCC, names it beside MDCCSR_EL0, which traps in QEMU; source: DBGDSCRint has access_tda",
        _a32("DBGDSCRint"),
        _tdcc,
        _EL1 | {"FEAT_FGT"},
    ),
    Deviation(
        "no 64-bit PMCCNTR",
        _TO_8_2,
        "MRRC and MCRR of PMCCNTR are UNDEFINED",
        "the accessibility pseudocode of PMCCNTR, G8.4, has them, and D24.5 the AArch64 register; QEMU 10.0 has them; "
        "source: v7_cp_reginfo",
        _mrrc("PMCCNTR (mcrr)"),
        undefined,
        _PMU,
    ),
    Deviation(
        "MDCR_EL2.TPMCR ignored for PMCR",
        _TO_8_2,
        "MDCR_EL2.TPMCR does not trap PMCR",
        "D24.3, MDCR_EL2.TPMCR; QEMU 10.0 traps; source: PMCR has pmreg_access, which looks at TPM only",
        _a32("PMCR"),
        decided("MDCR_EL2.TPMCR"),
        _PMU,
    ),
    Deviation(
        "PMUSERENR overrides MDCR_EL2",
        ALL,
        "an access from EL0 that PMUSERENR.ER, CR or SW grants is not trapped by MDCR_EL2.TPM",
        "D24.3, MDCR_EL2.TPM, names EL0; the same access granted by EN traps in QEMU; source: pmreg_access_selr, "
        "_xevcntr, _ccntr and _swinc return before they ask pmreg_access",
        frozenset(register for register, _ in _GRANTS if "mcrr" not in register),
        _granted_past_el2,
        _PMU,
    ),
    Deviation(
        "PMUSERENR.CR overrides MDCR_EL2 for MRRC",
        _FROM_10_0,
        "MRRC of PMCCNTR from EL0 that PMUSERENR.CR grants is not trapped by MDCR_EL2.TPM",
        "D24.3, MDCR_EL2.TPM, names EL0; source: pmreg_access_ccntr returns before it asks pmreg_access",
        _mrrc("PMCCNTR (mcrr)"),
        _granted_past_el2,
        _PMU,
    ),
    Deviation(
        "MDCR_EL2.HPMN traps nothing in A32",
        ALL,
        "event counters from HPMN on are not trapped, although FEAT_FGT makes that certain",
        "D24.3, MDCR_EL2.HPMN, and G8.4, PMEVCNTR<n>; source: do_pmreg_access does not look at HPMN",
        _COUNTERS,
        decided("MDCR_EL2.HPMN"),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "PMSELR selects any counter",
        ALL,
        "PMXEVCNTR and PMXEVTYPER are not UNDEFINED when PMSELR.SEL selects a counter that does not exist, although "
        "FEAT_FGT makes that certain",
        "G8.4 and D24.5, PMXEVCNTR, PMXEVTYPER; source: pmxevcntr_read and the like treat it as RAZ/WI",
        _a32("PMXEVCNTR PMXEVTYPER"),
        next(d.explains for d in DEVIATIONS if d.name == "PMSELR_EL0 selects any counter"),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "no fine-grained trap of PMUSERENR",
        ALL,
        "HDFGRTR_EL2.PMUSERENR_EL0 does not trap PMUSERENR from EL0 below an AArch64 EL1",
        "D24.2, HDFGRTR_EL2 bit 57, which Linux names too; source: PMUSERENR has no .fgt",
        _a32("PMUSERENR"),
        decided("HDFGRTR_EL2.PMUSERENR_EL0"),
        _PMU | {"FEAT_FGT"},
    ),
    Deviation(
        "HSTR_EL2 before PMUSERENR",
        _7_2,
        "HSTR_EL2.T9 traps accesses from EL0 that PMUSERENR denies",
        "the accessibility pseudocode of each register, G8.4, asks PMUSERENR first, and D24.2, HSTR_EL2, traps from "
        "EL0 what is not UNDEFINED without it; QEMU 8.2 agrees; source: access_check_cp_reg",
        _OF_EL0,
        _hstr_first,
        _PMU,
    ),
    Deviation(
        "HSTR_EL2 before PMUSERENR for PMCEID2 and PMCEID3",
        _7_2,
        "HSTR_EL2.T9 traps accesses from EL0 that PMUSERENR denies",
        "as for the other registers (D24.2, HSTR_EL2); QEMU 8.2 agrees; source: access_check_cp_reg",
        _a32("PMCEID2 PMCEID3"),
        _hstr_first,
        _PMU | {"FEAT_PMUv3p1"},
    ),
    Deviation(
        "HSTR_EL2.T9 after UNDEFINED",
        _TO_8_2,
        "HSTR_EL2.T9 does not trap accesses from EL1 that are UNDEFINED without it",
        f"{_SOURCE_HSTR}do_coproc_insn",
        _a32("PMCEID0 PMCEID1 PMCEID2 PMCEID3 PMMIR PMSWINC"),
        _hstr_undefined,
        _PMU_EL1,
    ),
    Deviation(
        "HSTR_EL2.T9 makes UNDEFINED",
        _8_2,
        "what HSTR_EL2.T9 traps from EL1 is UNDEFINED at EL1 instead",
        f"{_SOURCE_HSTR}do_coproc_insn",
        _ALWAYS_C9 - _a32("PMCEID0 PMCEID1 PMSWINC"),
        _hstr_undefined,
        _PMU_EL1,
    ),
)
