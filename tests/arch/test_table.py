"""The table of System registers: complete, without collisions, and consistent with itself."""

from collections import Counter

import pytest

from formal.arch.sysreg_table import TABLE
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


# Encodings, and the accesses that EL1 has, of the registers that no Linux tree of ours names: written a second time.
YOUNG = """
MDSELR_EL1 2 0 0 4 2 rw    MDSTEPOP_EL1 2 0 0 5 2 rw      PMZR_EL0 3 3 9 13 4 w        PMUACR_EL1 3 0 9 14 4 rw
PMECR_EL1 3 0 9 14 5 rw    PMIAR_EL1 3 0 9 14 7 rw        PMSSCR_EL1 3 0 9 13 3 rw     PMCCNTSVR_EL1 2 0 14 11 7 r
PMEVCNTSVR<n>_EL1 2 0 14 8 0 r  PMICNTSVR_EL1 2 0 14 12 0 r  PM 3 0 4 3 1 rw           PMBMAR_EL1 3 0 9 10 5 rw
PMSDSFR_EL1 3 0 9 10 4 rw  TRBMPAM_EL1 3 0 9 11 5 rw      SPMCR_EL0 2 3 9 12 0 rw      SPMCNTENSET_EL0 2 3 9 12 1 rw
SPMCNTENCLR_EL0 2 3 9 12 2 rw  SPMOVSCLR_EL0 2 3 9 12 3 rw  SPMZR_EL0 2 3 9 12 4 w     SPMSELR_EL0 2 3 9 12 5 rw
SPMOVSSET_EL0 2 3 9 14 3 rw  SPMEVCNTR<n>_EL0 2 3 14 0 0 rw  SPMEVTYPER<n>_EL0 2 3 14 2 0 rw
SPMEVFILTR<n>_EL0 2 3 14 4 0 rw  SPMEVFILT2R<n>_EL0 2 3 14 6 0 rw  SPMINTENSET_EL1 2 0 9 14 1 rw
SPMINTENCLR_EL1 2 0 9 14 2 rw  SPMACCESSR_EL1 2 0 9 13 3 rw  SPMIIDR_EL1 2 0 9 13 4 r  SPMDEVARCH_EL1 2 0 9 13 5 r
SPMDEVAFF_EL1 2 0 9 13 6 r  SPMCFGR_EL1 2 0 9 13 7 r      SPMCGCR<n>_EL1 2 0 9 13 0 r  SPMSCR_EL1 2 7 9 14 7 rw
""".split()


def test_young_registers():
    for name, *encoding, access in zip(*[iter(YOUNG)] * 7, strict=True):
        reg = find(name)
        assert reg.encoding() == tuple(map(int, encoding)), name
        rights = "r" * (reg.read.lowest_el is not None) + "w" * (reg.write.lowest_el is not None)
        assert rights == access, name


def test_el0_has_no_access_that_el1_lacks():
    """In the text of the table; the types cannot even say it."""
    for line in TABLE.splitlines():
        columns = line.split()
        if len(columns) == 13 and not line.startswith("#"):
            assert set(columns[8]) - {"-"} <= set(columns[7]), line


def test_names_and_op1_agree():
    """op1 is 3 for _EL0 and 0 for _EL1 registers, 1 for trace and branch records, 7 for the Secure SPMSCR_EL1."""
    for (_, op1, _, _, _), reg, _ in encodings(SYSTEM_REGISTERS):
        wanted = 1 if reg.name.startswith(("TRC", "BRB")) else 3 if reg.name.endswith("_EL0") else 0
        assert op1 == {"SPMSCR_EL1": 7, "TRCITECR_EL1": 0}.get(reg.name, wanted), reg.name


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
