"""The table of System registers: complete, without collisions, and consistent with itself."""

from collections import Counter

import pytest

from formal.arch.sysregs import GROUPS, SYSTEM_REGISTERS, find


def encodings(registers):
    return [(reg.encoding(i), reg, i) for reg in registers for i in reg.instances()]


def test_counts():
    """The counts of the March 2025 description: core registers, system PMU, branch records, and what EL0 can name."""
    count = {g: (len(rs), len(encodings(rs))) for g, rs in GROUPS.items()}
    assert count.pop("system_pmu") == (20, 81)
    assert count.pop("branch_record") == (10, 103)
    assert count["breakpoint"] == (5, 65)
    assert count["dcc"] == (7, 7)
    assert count["pmu"] == (30, 120)
    assert count["trace"] == (61, 175)
    assert tuple(map(sum, zip(*count.values(), strict=True))) == (137, 401)
    assert (len(SYSTEM_REGISTERS), len(encodings(SYSTEM_REGISTERS))) == (167, 585)
    assert sum(0 in (r.read.lowest_el, r.write.lowest_el) for r in SYSTEM_REGISTERS) == 34


def test_an_encoding_has_one_meaning_for_each_direction():
    for write in (False, True):
        used = Counter(e for e, reg, _ in encodings(SYSTEM_REGISTERS) if reg.rights(write).lowest_el is not None)
        assert [e for e, n in used.items() if n > 1] == []


def test_only_the_two_data_transfer_registers_share_an_encoding():
    used = Counter(e for e, _, _ in encodings(SYSTEM_REGISTERS))
    assert [e for e, n in used.items() if n > 1] == [find("DBGDTRTX_EL0").encoding()]


def test_encodings_fit():
    for (op0, op1, crn, crm, op2), reg, _ in encodings(SYSTEM_REGISTERS):
        assert op0 in (2, 3) and op1 < 8 and crn < 16 and crm < 16 and op2 < 8, reg.name


@pytest.mark.parametrize(
    ("name", "index", "encoding"),
    [
        ("DBGWCR<n>_EL1", 15, (2, 0, 0, 15, 7)),
        ("PMEVCNTR<n>_EL0", 30, (3, 3, 14, 11, 6)),
        ("PMEVTYPER<n>_EL0", 9, (3, 3, 14, 13, 1)),
        ("TRCACATR<n>", 11, (2, 1, 2, 6, 3)),
        ("TRCRSCTLR<n>", 31, (2, 1, 1, 15, 1)),
        ("BRBTGT<n>_EL1", 17, (2, 1, 8, 1, 6)),
        ("SPMEVFILT2R<n>_EL0", 15, (2, 3, 14, 7, 7)),
        ("SPMCGCR<n>_EL1", 1, (2, 0, 9, 13, 1)),
    ],
)
def test_indexed_encodings(name, index, encoding):
    assert find(name).encoding(index) == encoding


def test_only_pmu_dcc_and_system_pmu_reach_el0():
    assert {r.group for r in SYSTEM_REGISTERS if 0 in (r.read.lowest_el, r.write.lowest_el)} == {
        "pmu",
        "dcc",
        "system_pmu",
    }


def test_a_register_that_is_not_there():
    with pytest.raises(KeyError, match=r"did you mean DBGBVR<n>_EL1"):
        find("DBGBVRn_EL1")


def test_an_index_that_is_not_there():
    with pytest.raises(ValueError, match="indices 2 to 31, got 1"):
        find("TRCRSCTLR<n>").encoding(1)
    with pytest.raises(ValueError, match="has no index"):
        find("MDSCR_EL1").encoding(0)
