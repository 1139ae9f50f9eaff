"""The list of holes is exact: with every coarse trap on, what executes at EL1 is on it, and what is on it executes."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formal.arch import features as feat
from formal.arch.holes import HOLES, is_hole
from formal.arch.registers import MDCR_EL2
from formal.arch.settings import controls
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.arch.traps import Access, Outcome, decide
from formal.logic import terms as t
from tests.arch.test_traps import OPEN

# Every trap of MDCR_EL2; HPMN is 31, so that all counters are the guest's.
ALL_TRAPS = MDCR_EL2.mask("TPM", "TPMCR", "TPMS", "TDRA", "TDOSA", "TDA", "TDE", "TTRF", "TDCC", "HPMN")


def check(features):
    c = controls(ALL_TRAPS, {**OPEN, "CPTR_EL2.TTA": 1}, features)
    for reg in SYSTEM_REGISTERS:
        for write in (False, True):
            if reg.rights(write).lowest_el is None or not feat.present(reg.features, features):
                continue
            result, why = decide(Access(reg.name, write, 1), c)
            if reg.name == "SPMSCR_EL1":
                assert result is Outcome.UNDEF
                continue
            assert result is (Outcome.EXECUTED if is_hole(reg, features) else Outcome.EL2), (reg.name, write, why)
            if reg.rights(write).lowest_el == 0:
                assert decide(Access(reg.name, write, 0), c)[0] is not Outcome.EXECUTED, reg.name


@pytest.mark.parametrize("name", sorted(feat.FEATURES))
def test_with_each_feature(name):
    check(feat.closure([name]))


@pytest.mark.parametrize("name", sorted(feat.FEATURES))
def test_with_all_but_one(name):
    check(frozenset(f for f in feat.FEATURES if name not in feat.closure([f])))


@given(st.sets(st.sampled_from(sorted(feat.FEATURES))).map(feat.closure))
@settings(max_examples=40, deadline=None)
def test_with_any_features(features):
    check(features)


def test_every_hole_is_a_register_and_says_why():
    assert set(HOLES) <= {r.name for r in SYSTEM_REGISTERS}
    assert all(hole.reason for hole in HOLES.values())
    assert len(HOLES) == 19


def test_fine_grained_traps_close_all_but_pm():
    """With FEAT_FGT2 and the trap bits set as a hypervisor can, only PSTATE.PM is left."""
    closed = {k: 0 for k in OPEN if k.startswith("HDFG")} | {"HDFGRTR_EL2.PMBIDR_EL1": 1, "HDFGRTR_EL2.TRBIDR_EL1": 1}
    c = controls(ALL_TRAPS, {**OPEN, **closed, "CPTR_EL2.TTA": 1}, feat.ALL)
    left = {
        reg.name
        for reg in SYSTEM_REGISTERS
        for write in (False, True)
        if decide(Access(reg.name, write, 1), c)[0] is Outcome.EXECUTED
    }
    assert left == {"PM"}


def test_a_counter_that_does_not_exist_is_ahead_of_tpm():
    """Without FEAT_FGT the PE may execute the access although TPM is 1; with it, it is UNDEFINED."""
    for access in (Access("PMEVCNTR<n>_EL0", True, 1, 6), Access("PMXEVTYPER_EL0", True, 1)):
        for features in (["FEAT_PMUv3"], ["FEAT_PMUv3", "FEAT_FGT"]):
            c = controls(ALL_TRAPS, {"PMCR_EL0.N": 6, "PMSELR_EL0.SEL": 6}, feat.closure(features))
            free = dataclasses.replace(c, unpredictable=t.const(Outcome.EXECUTED, 2))
            assert decide(access, free)[0] is (Outcome.UNDEF if "FEAT_FGT" in features else Outcome.EXECUTED)


def test_osdlr_depends_on_the_double_lock():
    """Without FEAT_DoubleLock its fine-grained trap does nothing either."""
    fine = {"HDFGRTR_EL2.OSDLR_EL1": 1, "HDFGWTR_EL2.OSDLR_EL1": 1}
    for features, trapped in ((["FEAT_FGT"], False), (["FEAT_FGT", "FEAT_DoubleLock"], True)):
        for write in (False, True):
            result, _ = decide(Access("OSDLR_EL1", write, 1), controls(0, fine, feat.closure(features)))
            assert (result is Outcome.EL2) is trapped
    for features, hole in ((frozenset(), True), (frozenset({"FEAT_DoubleLock"}), False)):
        assert decide(Access("OSDLR_EL1", True, 1), controls(ALL_TRAPS, {}, features))[0] is (
            Outcome.EXECUTED if hole else Outcome.EL2
        )
