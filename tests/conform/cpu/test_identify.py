"""Identification registers, with the values of real CPU models."""

from formal.conform.cpu.identify import ID_REGISTERS, identify


def cpu_of(**values):
    """The CPU with these identification registers; the others are UNDEFINED."""
    return identify([values.get(name) for name in ID_REGISTERS])


def test_cortex_a57():
    cpu = cpu_of(ID_AA64DFR0_EL1=0x10305106, PMCR_EL0=0x41013000, ID_AA64MMFR0_EL1=0x1124, ID_AA64MMFR1_EL1=0)
    assert cpu.features == {"FEAT_PMUv3", "FEAT_DoubleLock"}
    assert (cpu.vhe, cpu.counters, cpu.breakpoints, cpu.watchpoints) == (False, 6, 6, 4)


def test_neoverse_v1_has_no_double_lock():
    cpu = cpu_of(ID_AA64DFR0_EL1=0xF010305509, ID_AA64MMFR1_EL1=0x1011010212222)
    assert cpu.features == {"FEAT_PMUv3", "FEAT_PMUv3p1", "FEAT_PMUv3p4"}
    assert cpu.vhe


def test_the_newest_features():
    cpu = cpu_of(
        ID_AA64DFR0_EL1=0x1011_1000_0000_090B | 1 << 32 | 1 << 16,
        ID_AA64DFR1_EL1=1 << 36 | 2 << 32,
        ID_AA64DFR2_EL1=1,
        ID_AA64MMFR0_EL1=2 << 56,
    )
    expected = "PMUv3p9 Debugv8p9 STEP2 FGT2 SPMU2 PMUv3_ICNTR PMUv3_SS SPE TRBE MTPMU HPMN0".split()
    assert {f"FEAT_{name}" for name in expected} <= cpu.features
    assert "FEAT_BRBE" in cpu_of(ID_AA64DFR0_EL1=1 << 52).features


def test_an_implementation_defined_pmu_is_none():
    assert "FEAT_PMUv3" not in cpu_of(ID_AA64DFR0_EL1=0xF00).features
