"""The list of deviations, and its bookkeeping."""

from dataclasses import replace

import pytest

from formal.arch.aarch32 import REGISTERS32
from formal.arch.features import FEATURES
from formal.arch.sysregs import BY_NAME
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.debug_points import PROGRAMS
from formal.conform.cpu.deviations import COMPARED, DEVIATIONS, Book, Deviation
from formal.conform.cpu.deviations32 import DEVIATIONS32
from formal.conform.cpu.points32 import spelled
from tests.conform.conftest import A32, FINE, PLAIN

UNDEF = Difference("MRS OSDLR_EL1 at EL1", "nothing traps", "EXECUTED", "no trap applies", "UNDEF", "OSDLR_EL1")
ENTRY = Deviation(
    "no OSDLR", frozenset({(7, 2)}), "is UNDEFINED", "D24.3", frozenset({"OSDLR_EL1"}), lambda d: d.observed == "UNDEF"
)


def book(*entries, version=(7, 2, 22)):
    return Book(version, entries)


def test_the_list_is_well_formed():
    every = DEVIATIONS + DEVIATIONS32
    assert len({d.name for d in every}) == len(every)
    for d in every:
        assert d.series and d.series <= set(COMPARED)
        assert d.subjects <= set(BY_NAME) | set(PROGRAMS) | {spelled(r) for r in REGISTERS32}
        assert d.needs <= set(FEATURES) | A32.states
        assert any(part in d.wrong for part in ("D24", "G8", "chapter D2")), "cites the Arm ARM"
        assert "source: " in d.wrong


def test_a_known_deviation_explains():
    b = book(ENTRY)
    assert b.sort_out("cortex-a57", PLAIN, [UNDEF, UNDEF]) == []
    assert b.counts == {("no OSDLR", "OSDLR_EL1"): 2}
    assert b.vanished == []


@pytest.mark.parametrize(
    "other", [replace(UNDEF, observed="EL2"), replace(UNDEF, register="OSLSR_EL1")], ids=["outcome", "register"]
)
def test_another_difference_is_not_explained(other):
    assert book(ENTRY).sort_out("cortex-a57", PLAIN, [UNDEF, other]) == [other]


def test_a_deviation_that_is_gone_fails():
    b = book(ENTRY)
    assert b.sort_out("cortex-a57", PLAIN, []) == []
    (line,) = b.vanished
    assert line.startswith('the deviation "no OSDLR" no longer shows for OSDLR_EL1 on cortex-a57')


def test_a_deviation_that_is_gone_for_one_register_fails():
    b = book(replace(ENTRY, subjects=frozenset({"OSDLR_EL1", "OSLSR_EL1"})))
    b.sort_out("cortex-a57", PLAIN, [UNDEF])
    assert ["OSLSR_EL1 on cortex-a57" in line for line in b.vanished] == [True]


def test_a_deviation_that_is_gone_on_one_cpu_fails():
    b = book(ENTRY)
    b.sort_out("cortex-a57", PLAIN, [UNDEF])
    b.sort_out("max", PLAIN, [])
    assert ["on max" in line for line in b.vanished] == [True]


def test_entries_of_other_versions_explain_nothing():
    b = book(ENTRY, version=(10, 0, 13))
    assert b.sort_out("cortex-a57", PLAIN, [UNDEF]) == [UNDEF]
    assert b.vanished == []


@pytest.mark.parametrize("version", [(9, 0, 0), (10, 0, 2)])
def test_on_a_version_that_was_never_compared_entries_may_explain_and_need_not(version):
    b = book(ENTRY, version=version)
    assert not b.compared
    assert b.sort_out("cortex-a57", PLAIN, [UNDEF]) == []
    assert b.sort_out("max", PLAIN, []) == []
    assert b.vanished == []


def test_later_releases_of_a_series_are_held_to_the_list():
    assert book(version=(10, 0, 13)).compared
    assert book(version=(10, 0, 20)).compared


def test_entries_that_need_a_feature_wait_for_it():
    b = book(replace(ENTRY, needs=frozenset({"FEAT_FGT"})))
    assert b.sort_out("cortex-a57", PLAIN, [UNDEF]) == [UNDEF]
    assert b.vanished == []
    assert b.sort_out("max", FINE, [UNDEF]) == []


def test_what_pmuserenr_grants_is_told_from_what_it_does_not():
    (entry,) = (d for d in DEVIATIONS if d.name == "PMUSERENR_EL0 overrides MDCR_EL2")
    d = Difference("x", "y", "EL2", "MDCR_EL2.TPM", "EXECUTED", "PMCCNTR_EL0", el=0, write=False, pmuserenr=0b100)
    assert entry.explains(d)
    assert not entry.explains(replace(d, pmuserenr=0b1011))
    assert not entry.explains(replace(d, write=True))
    assert not entry.explains(replace(d, el=1))
    assert not entry.explains(replace(d, observed="EL1"))


def test_a_deviation_of_aarch32_that_is_gone_fails():
    b = book(*DEVIATIONS32)
    b.sort_out("neoverse-n1", replace(A32, ids={"ID_AA64PFR0_EL1": 0x12}), [])
    lines = "\n".join(b.vanished)
    assert "no A32 debug channel" in lines and "A32 DBGDTRTXint" in lines
    assert "A32 DBGBXVR<n>" not in lines  # needs AArch32 at EL1
    b.sort_out("cortex-a57", A32, [])
    assert "A32 DBGBXVR<n> on cortex-a57" in "\n".join(b.vanished)
    other = book(*DEVIATIONS32)
    other.sort_out("neoverse-v1", PLAIN, [])
    assert other.vanished == []


def test_what_hstr_does_too_early_is_told_from_other_traps():
    (entry,) = (d for d in DEVIATIONS32 if d.name == "HSTR_EL2 before PMUSERENR")
    d = Difference("x", "y", "UNDEF", "PMUSERENR_EL0.EN=0", "EL2", "A32 PMCR", el=0, t9=True)
    assert entry.explains(d)
    assert not entry.explains(replace(d, t9=False))
    assert not entry.explains(replace(d, el=1))
    assert not entry.explains(replace(d, why="no access from EL0"))
