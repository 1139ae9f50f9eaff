"""Our table against the one in Linux 6.12 for nested virtualization (arch/arm64/kvm/emulate-nested.c), both parsed.

Every difference is listed here with its explanation. Three are omissions of Linux among registers that it otherwise
handles, and are findings: a guest hypervisor that asks for these traps does not get them.
"""

import pytest

from formal.arch import features as feat
from formal.arch.settings import controls
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.arch.traps import Access, Outcome, decide
from tests.arch import kernel_tables as kernel
from tests.arch.test_traps import OPEN, QUIET

LATER = "6.12 knows neither the register nor HDFGRTR2_EL2 and HDFGWTR2_EL2; its guests get an Undefined exception"
SPMU = "6.12 knows no system PMU register, nor MDCR_EL2.EnSPM; its guests get an Undefined exception"
OMITTED = "FINDING: omitted in Linux"

LATER_REGISTERS = [
    *("MDSELR_EL1", "MDSTEPOP_EL1", "PMICNTR_EL0", "PMICFILTR_EL0", "PMZR_EL0", "PMUACR_EL1", "PMECR_EL1"),
    *("PMIAR_EL1", "PMBMAR_EL1", "PMSDSFR_EL1", "TRBMPAM_EL1"),
]
COARSE = {  # why Linux has no coarse trap where the architecture has one
    **dict.fromkeys(LATER_REGISTERS, LATER),
    **{reg.name: SPMU for reg in SYSTEM_REGISTERS if reg.group == "system_pmu"},
    "DBGWCR<n>_EL1": f"{OMITTED}: the list of DBGWCR ends at 14, so TDA and TDE do not cover DBGWCR15_EL1",
}
COARSE_INDICES = {"DBGWCR<n>_EL1": {15}}
FINE = {
    **{r.name: LATER for r in SYSTEM_REGISTERS if "2_" in (r.read.fgt or r.write.fgt or ("",))[0]},
    "PMXEVCNTR_EL0": f"{OMITTED}: HDFGRTR_EL2.PMEVCNTRn_EL0 traps it too",
    "PMXEVTYPER_EL0": f"{OMITTED}: HDFGRTR_EL2.PMEVTYPERn_EL0 traps it too",
    "TRCITEEDCR": "HDFGRTR_EL2.TRC traps it; 6.12 knows no FEAT_ITE; its guests get an Undefined exception",
}
ONLY_LINUX = {(2, 1, 1, 0, 4): "TRCOSLAR exists in ETMv4 only; with FEAT_ETE the encoding is UNDEFINED"}

ONE_CONTROL = {  # what to change in QUIET so that only this control of MDCR_EL2 (or none, for TTA) traps
    "TPMCR": 1 << 5,
    "TPM": 1 << 6,
    "TDE": 1 << 8,
    "TDA": 1 << 9,
    "TDOSA": 1 << 10,
    "TDRA": 1 << 11,
    "E2PB=0": 3 << 12,
    "TPMS": 1 << 14,
    "EnSPM=0": 1 << 15,
    "TTRF": 1 << 19,
    "E2TB=0": 3 << 24,
    "TDCC": 1 << 27,
    "TTA": 0,
}
FEATURES = feat.ALL - {"IMPDEF_OSDLR_EL1_TRAP"}


def our_coarse(reg, index):
    """The controls of MDCR_EL2 and CPTR_EL2 that trap an access from EL1 alone, found by trying each."""
    found = set()
    write = reg.read.lowest_el is None
    for name, flip in ONE_CONTROL.items():
        c = controls(QUIET ^ flip, OPEN | {"CPTR_EL2.TTA": int(name == "TTA")}, FEATURES)
        if decide(Access(reg.name, write, 1, index), c)[0] is Outcome.EL2:
            found.add(name)
    return found


def our_fine(reg):
    """What Linux would list: the read side, or the write side where only that exists."""
    fgt = reg.read.fgt or reg.write.fgt
    return {(fgt[0].removesuffix("_EL2"), fgt[1], 0 if fgt[1].startswith("n") else 1)} if fgt else set()


@pytest.fixture(scope="module")
def linux():
    return kernel.nested_traps(kernel.tree("linux-source-6.12"))


def test_the_parser_reads_the_whole_table(linux):
    coarse, fine = linux
    assert len(coarse) > 1100 and len(fine) > 440
    assert coarse[3, 0, 9, 10, 0] == {"E2PB=0"}
    assert coarse[2, 0, 0, 2, 0] == {"TDCC", "TDE", "TDA"}
    assert fine[2, 1, 9, 0, 0] == {("HDFGRTR", "nBRBCTL", 0)}


def test_coarse_traps(linux):
    coarse, _ = linux
    different = {}
    for reg in SYSTEM_REGISTERS:
        for index in reg.instances():
            theirs = coarse.get(reg.encoding(index), set())
            if reg.name == "SPMSCR_EL1":  # Secure state only, so that we have no trap to compare
                assert not theirs
                continue
            if our_coarse(reg, index) != theirs:
                different.setdefault(reg.name, set()).add(index)
                assert not theirs, (reg.name, index, theirs)  # all differences are of one kind: Linux has no trap
    assert set(different) == set(COARSE) - {"SPMSCR_EL1"}
    assert {name: different[name] for name in COARSE_INDICES} == COARSE_INDICES


def test_linux_traps_nothing_else(linux):
    """Every debug, PMU, profiling or trace encoding that Linux names one by one is in our table."""
    ours = {reg.encoding(i) for reg in SYSTEM_REGISTERS for i in reg.instances()}
    coarse, fine = linux
    assert {e for e in coarse if e not in ours and e[:2] != (2, 1)} == set()  # TTA is a range, mostly unallocated
    assert {e for e in fine if e not in ours} == set(ONLY_LINUX)


def test_fine_grained_traps(linux):
    _, fine = linux
    different = {
        reg.name
        for reg in SYSTEM_REGISTERS
        for i in reg.instances()
        if our_fine(reg) != fine.get(reg.encoding(i), set())
    }
    assert different == set(FINE)


def test_what_linux_does_not_know():
    """The explanations that rest on 6.12 not emulating a register."""
    source = kernel.text(kernel.tree("linux-source-6.12"), "arch/arm64/kvm/sys_regs.c")
    for name in (name for table in (COARSE, FINE) for name, why in table.items() if not why.startswith(OMITTED)):
        assert name.partition("<")[0].removesuffix("_EL1").removesuffix("_EL0") not in source, name


def test_findings():
    """What Linux omits: three registers."""
    findings = {name for table in (COARSE, FINE) for name, why in table.items() if why.startswith(OMITTED)}
    assert findings == {"DBGWCR<n>_EL1", "PMXEVCNTR_EL0", "PMXEVTYPER_EL0"}
