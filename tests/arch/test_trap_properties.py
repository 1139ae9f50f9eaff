"""General properties of the trap rules, on random accesses, values, settings and features."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formal.arch import features as feat
from formal.arch.registers import MDCR_EL2
from formal.arch.settings import SETTABLE, controls
from formal.arch.sysregs import GROUPS, SYSTEM_REGISTERS
from formal.arch.traps import Access, Controls, Outcome, checks, decide, executes, outcome, traps_to_el2
from formal.logic import terms as t
from formal.logic.evaluation import evaluate
from tests.arch.test_traps import DECIDED_FEATURES, OPEN, QUIET, every_access

accesses = st.sampled_from(list(every_access()))
feature_sets = st.sets(st.sampled_from(sorted(feat.FEATURES))).map(feat.closure)
settable = [f"{r}.{f}" for r, cls in SETTABLE.items() for f in cls.fields if not r.startswith("ID_")]
random_settings = st.dictionaries(st.sampled_from(settable), st.just(1), max_size=40)
mdcr_values = st.integers(0, 2**64 - 1)


@given(access=accesses, mdcr=mdcr_values, chosen=random_settings, features=feature_sets)
@settings(max_examples=200, deadline=None)
def test_the_readings_agree(access, mdcr, chosen, features):
    """decide, outcome, executes and traps_to_el2 read the same list of checks."""
    c = controls(mdcr, chosen, features)
    result, why = decide(access, c)
    assert why
    assert evaluate(outcome(access, c), {}) == result
    assert evaluate(executes(access, c), {}) is (result is Outcome.EXECUTED)
    assert evaluate(traps_to_el2(access, c), {}) is (result is Outcome.EL2)


@given(access=accesses, mdcr=mdcr_values, features=feature_sets)
@settings(max_examples=200, deadline=None)
def test_symbolic_and_concrete_agree(access, mdcr, features):
    symbolic = Controls(mdcr_el2=MDCR_EL2(t.var("mdcr", 64)), features=features)
    concrete = Controls(mdcr_el2=MDCR_EL2(t.const(mdcr, 64)), features=features)
    assert evaluate(outcome(access, symbolic), {"mdcr": mdcr}) == decide(access, concrete)[0]


TRAP_WHEN_SET = ["TDA", "TDE", "TDOSA", "TDRA", "TDCC", "TPM", "TPMCR", "TPMS", "TTRF"]


@given(
    access=accesses, mdcr=mdcr_values, chosen=random_settings, features=feature_sets, bit=st.sampled_from(TRAP_WHEN_SET)
)
@settings(max_examples=200, deadline=None)
def test_more_traps_never_let_more_through(access, mdcr, chosen, features, bit):
    """Setting a trap bit changes nothing but 'executed' (or a free choice of the PE) into 'trapped to EL2'."""
    before, why = decide(access, controls(mdcr & ~MDCR_EL2.mask(bit), chosen, features))
    after, _ = decide(access, controls(mdcr | MDCR_EL2.mask(bit), chosen, features))
    assert after is before or (after is Outcome.EL2 and (before is Outcome.EXECUTED or "UNPREDICTABLE" in why))


@given(access=accesses, mdcr=mdcr_values, chosen=random_settings, features=feature_sets)
@settings(max_examples=100, deadline=None)
def test_other_bits_of_mdcr_el2_trap_nothing(access, mdcr, chosen, features):
    """Only the trap fields, the low bits of E2PB and E2TB, EnSPM and HPMN take part."""
    deciding = MDCR_EL2.mask(*TRAP_WHEN_SET, "EnSPM", "HPMN") | 1 << 12 | 1 << 24
    assert decide(access, controls(mdcr, chosen, features)) == decide(
        access, controls(mdcr & deciding, chosen, features)
    )


@given(access=accesses, mdcr=mdcr_values, features=feature_sets)
@settings(max_examples=100, deadline=None)
def test_el0_executes_only_where_el1_does(access, mdcr, features):
    """With EL1 granting everything, EL0 gets no further than EL1."""
    c = controls(mdcr, OPEN, features)
    if decide(dataclasses.replace(access, el=0), c)[0] is Outcome.EXECUTED:
        assert decide(dataclasses.replace(access, el=1), c)[0] is Outcome.EXECUTED


def test_every_fine_grained_trap_bit_is_used():
    """Each bit of the four registers traps some access, except those of registers that ETE does not have."""
    used = {f for r in SYSTEM_REGISTERS for f in (r.read.fgt, r.write.fgt) if f}
    all_bits = {(r, f) for r in SETTABLE if r.startswith("HDFG") for f in SETTABLE[r].fields}
    assert all_bits - used == {("HDFGWTR_EL2", "TRCOSLAR")}
    for register, name in used:
        trapping = 0 if name.startswith("n") else 1
        base = {**OPEN, "MDSCR_EL1.EnSPM": 1}
        with_trap = controls(QUIET, {**base, f"{register}.{name}": trapping}, DECIDED_FEATURES)
        stopped = {a.name for a in every_access() if decide(a, with_trap)[1].startswith(f"{register}.{name}")}
        named = {r.name for r in SYSTEM_REGISTERS if (register, name) in (r.read.fgt, r.write.fgt)} - {"SPMSCR_EL1"}
        assert stopped == named, name


def test_fine_grained_traps_leave_the_hosts_el0_alone():
    host = {**OPEN, "HDFGRTR_EL2.PMCCNTR_EL0": 1, "HCR_EL2.TGE": 1, "HCR_EL2.E2H": 1}
    access = Access("PMCCNTR_EL0", False, 0)
    assert decide(access, controls(QUIET, host, feat.ALL))[0] is Outcome.EXECUTED
    assert decide(access, controls(QUIET, {**host, "HCR_EL2.TGE": 0}, feat.ALL))[0] is Outcome.EL2


def test_terms_for_the_specification_are_small():
    """One representative of each group costs a handful of nodes, and MDCR_EL2 alone is enough to ask."""
    m = MDCR_EL2(t.var("mdcr", 64))
    for group, registers in GROUPS.items():
        reg = registers[0]
        access = Access(reg.name, reg.read.lowest_el is None, 1)
        assert len(list(checks(access, Controls(mdcr_el2=m)))) <= 3, group
    assert traps_to_el2(Access("MDSCR_EL1", True, 1), m) is t.Or(m.TDA, m.TDE)
    assert executes(Access("MDSCR_EL1", True, 1), m) is t.And(t.Not(m.TDA), t.Not(m.TDE))


def test_misuse():
    with pytest.raises(ValueError, match="comes from EL0 or EL1, got EL2"):
        Access("MDSCR_EL1", False, 2)
    with pytest.raises(KeyError, match="did you mean MDSCR_EL1"):
        Access("MDSCR_EL", False, 1)
    with pytest.raises(ValueError, match="indices 0 to 15, got 16"):
        Access("DBGBVR<n>_EL1", False, 1, 16)
    with pytest.raises(TypeError, match="needs constants"):
        decide(Access("MDSCR_EL1", False, 1), Controls(mdcr_el2=MDCR_EL2(t.var("mdcr", 64))))
