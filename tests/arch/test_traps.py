"""The trap rules: against closed formulas written independently of the table, and by their general properties."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formal.arch import features as feat
from formal.arch.registers import MDCR_EL2, PMUSERENR_EL0
from formal.arch.settings import SETTABLE, controls
from formal.arch.sysregs import GROUPS, SYSTEM_REGISTERS, find
from formal.arch.traps import Access, Outcome, decide
from formal.logic import terms as t

QUIET = 0x3003000 | 1 << 15 | 31  # E2PB = E2TB = 0b11, EnSPM = 1, HPMN = 31: MDCR_EL2 traps nothing
OPEN = {  # everything else open too
    **{f"{r}.{f}": 1 for r in SETTABLE if r.startswith("HDFG") for f in SETTABLE[r].fields if f.startswith("n")},
    **{f"SPMACCESSR_EL{el}.P{n}": 3 for el in (1, 2) for n in range(32)},
    "PMUSERENR_EL0.EN": 1,
    "MDSCR_EL1.EnSPM": 1,
}
DECIDED_FEATURES = feat.ALL - {"IMPDEF_OSDLR_EL1_TRAP"}


def every_access():
    for reg in SYSTEM_REGISTERS:
        for write in (False, True):
            for el in (0, 1):
                yield Access(reg.name, write, el)


# ---- closed formulas, from the accessor pseudocode by group


def expected_el1_trap(name, write, m):
    """Whether MDCR_EL2 (m: the set of its one-bit fields that are 1) traps the access from EL1, TGE=0, without FGT."""
    group = find(name).group
    if group in ("breakpoint", "debug"):
        return bool(m & {"TDA", "TDE"})
    if group == "os":
        return bool(m & {"TDOSA", "TDE"})
    if group == "rom":
        return bool(m & {"TDRA", "TDE"})
    if group == "dcc":
        return bool(m & {"TDA", "TDE"})  # TDCC came with FEAT_FGT
    if group == "pmu":
        return bool(m & ({"TPM", "TPMCR"} if name == "PMCR_EL0" else {"TPM"}))
    if group == "spe_control":
        return "TPMS" in m
    if group == "spe_buffer":
        return name != "PMBIDR_EL1" and "E2PB" not in m
    if group == "trace_buffer":
        return name != "TRBIDR_EL1" and "E2TB" not in m
    if group == "trace_filter":
        return "TTRF" in m
    assert group == "trace"
    return False


BITS = ["TDA", "TDE", "TDOSA", "TDRA", "TDCC", "TPM", "TPMCR", "TPMS", "TTRF", "E2PB", "E2TB"]


@pytest.mark.parametrize("group", [g for g in GROUPS if g not in ("system_pmu", "branch_record")])
@given(chosen=st.sets(st.sampled_from(BITS)), high=st.booleans())
@settings(max_examples=40, deadline=None)
def test_el1_traps_of_each_group(group, chosen, high):
    """Every register of the group, with the features that can exist without FEAT_FGT."""
    mdcr = 31 | sum(MDCR_EL2.mask(b) for b in chosen if b not in ("E2PB", "E2TB"))
    for owner in ("E2PB", "E2TB"):
        low = MDCR_EL2.field(owner).lo
        mdcr |= ((owner in chosen) | high << 1) << low  # only the low bit decides, 0b01 and 0b10 included
    c = controls(mdcr, OPEN_WITHOUT_FGT, feat.WITHOUT_FGT)
    for reg in GROUPS[group]:
        for write in (False, True):
            if not feat.present(reg.features, feat.WITHOUT_FGT) or reg.rights(write).lowest_el is None:
                continue
            result, why = decide(Access(reg.name, write, 1), c)
            trapped = expected_el1_trap(reg.name, write, chosen)
            assert (result is Outcome.EL2) == trapped, (reg.name, write, why)
            assert result in (Outcome.EL2, Outcome.EXECUTED)


def test_system_pmu_is_trapped_by_enspm_alone():
    for reg in GROUPS["system_pmu"]:
        if reg.name != "SPMSCR_EL1":
            for mdcr, wanted in ((QUIET, Outcome.EXECUTED), (QUIET ^ 1 << 15, Outcome.EL2)):
                access = Access(reg.name, reg.read.lowest_el is None, 1)
                assert decide(access, controls(mdcr, OPEN, feat.ALL))[0] is wanted, reg.name


def test_pmu_registers_that_need_fgt2_are_trapped_by_tpm_or_not_at_all():
    """The part of the group that the closed formula leaves out."""
    for reg in GROUPS["pmu"]:
        access = Access(reg.name, reg.read.lowest_el is None, 1)
        covered = (
            reg.name != "PM" and not reg.name.endswith("SVR_EL1") and not reg.name.startswith(("PMSS", "PMEVCNTSVR"))
        )
        result = decide(access, controls(QUIET | 1 << 6, OPEN, feat.ALL))[0]
        assert result is (Outcome.EL2 if covered else Outcome.EXECUTED), reg.name


OPEN_WITHOUT_FGT = {k: v for k, v in OPEN.items() if not k.startswith("HDFG")}


def expected_el0_pmu(name, write, e, p9):
    """Whether PMUSERENR_EL0 (e: its fields that are 1) lets EL0 through; one line for each shape of the pseudocode."""
    uen = p9 and "UEN" in e
    if name == "PMCR_EL0":
        return "EN" in e and not uen
    if name.startswith("PMCEID"):
        return ("EN" in e or uen) and not (p9 and "TID" in e)
    if name.startswith("PMIC"):
        return uen
    extra = {
        "PMSELR_EL0": "ER",
        "PMSWINC_EL0": "SW",
        "PMCCNTR_EL0": None if write else "CR",
        "PMXEVCNTR_EL0": None if write else "ER",
        "PMEVCNTR<n>_EL0": None if write else "ER",
    }.get(name)
    return "EN" in e or uen or extra in e


@given(e=st.sets(st.sampled_from(list(PMUSERENR_EL0.fields))), p9=st.booleans(), tpm=st.booleans(), tge=st.booleans())
@settings(max_examples=150, deadline=None)
def test_el0_access_of_the_pmu(e, p9, tpm, tge):
    features = feat.closure(["FEAT_PMUv3_ICNTR", "FEAT_PMUv3p9"]) if p9 else feat.WITHOUT_FGT
    given_fields = {f"PMUSERENR_EL0.{name}": 1 for name in e} | {"HCR_EL2.TGE": int(tge)}
    c = controls(QUIET | tpm << 6, {**OPEN, "PMUSERENR_EL0.EN": 0, **given_fields}, features)
    for reg in GROUPS["pmu"]:
        for write in (False, True):
            if reg.rights(write).lowest_el != 0 or not feat.present(reg.features, features):
                continue
            passed = reg.name == "PMUSERENR_EL0" or expected_el0_pmu(reg.name, write, e, p9)
            denied = Outcome.EL2 if tge else Outcome.EL1
            wanted = denied if not passed else Outcome.EL2 if tpm else Outcome.EXECUTED
            assert decide(Access(reg.name, write, 0), c)[0] is wanted, (reg.name, write)


# ---- order of the checks


def test_order_of_the_checks():
    """Missing feature, missing index, no access from EL0, EL1's trap, EL2's trap: each hides what comes after it."""
    everything = (1 << 64) - 1
    assert decide(Access("TRCVICTLR", False, 1), controls(everything, {}, frozenset()))[1].startswith("not implemented")
    few = {"ID_AA64DFR0_EL1.BRPs": 5}
    result, why = decide(Access("DBGBVR<n>_EL1", False, 1, 6), controls(everything, few, feat.ALL))
    assert (result, why) == (Outcome.UNDEF, "index not implemented, of 6")
    assert decide(Access("DBGBVR<n>_EL1", False, 1, 5), controls(everything, few, feat.ALL))[0] is Outcome.EL2
    assert decide(Access("MDSCR_EL1", False, 0), controls(everything, {}, feat.ALL)) == (
        Outcome.UNDEF,
        "no access from EL0",
    )
    both = {"CPACR_EL1.TTA": 1, "CPTR_EL2.TTA": 1}
    assert decide(Access("TRCVICTLR", False, 1), controls(0, both, feat.WITHOUT_FGT))[1] == "CPACR_EL1.TTA"
    assert decide(Access("TRCVICTLR", False, 0), controls(0, both, feat.WITHOUT_FGT))[1] == "no access from EL0"
    dcc = {"MDSCR_EL1.TDCC": 1}
    assert decide(Access("MDCCSR_EL0", False, 0), controls(1 << 9, dcc, feat.WITHOUT_FGT))[0] is Outcome.EL1
    assert decide(Access("MDCCSR_EL0", False, 1), controls(1 << 9, dcc, feat.WITHOUT_FGT))[0] is Outcome.EL2
    assert decide(Access("OSLAR_EL1", False, 1), controls(everything, {}, feat.ALL))[1] == "write-only register"
    assert decide(Access("OSLSR_EL1", True, 1), controls(everything, {}, feat.ALL))[1] == "read-only register"


@pytest.mark.parametrize("tge", [0, 1])
@pytest.mark.parametrize("field", ["TDRA", "TDOSA", "TDA"])
def test_tde_and_tge_imply(field, tge):
    """Where TDRA, TDOSA or TDA would trap, TDE does too, and so does HCR_EL2.TGE where EL0 can be under it."""
    for reg in SYSTEM_REGISTERS:
        if field not in reg.traps:
            continue
        write = reg.read.lowest_el is None
        own = controls(QUIET | MDCR_EL2.mask(field), OPEN, feat.ALL)
        tde = controls(QUIET | MDCR_EL2.mask("TDE"), OPEN, feat.ALL)
        host = controls(QUIET, {**OPEN, "HCR_EL2.TGE": tge}, feat.ALL)
        for el in (0, 1):
            access = Access(reg.name, write, el)
            assert decide(access, tde)[0] is decide(access, own)[0]
            if tge:
                assert decide(access, host)[0] is decide(access, own)[0]


def test_tde_implies_nothing_else():
    c = controls(QUIET | MDCR_EL2.mask("TDE"), OPEN, DECIDED_FEATURES)
    trapped = {a.register.group for a in every_access() if decide(a, c)[0] is Outcome.EL2}
    assert trapped == {"breakpoint", "debug", "os", "rom", "dcc"}


def test_indirect_access_to_event_counters():
    """SEL=31: PMXEVTYPER_EL0 is PMCCFILTR_EL0, PMXEVCNTR_EL0 names nothing and is UNDEFINED even with TPM."""
    c = controls(
        QUIET | 1 << 6, {**OPEN, "PMSELR_EL0.SEL": 31, "PMCR_EL0.N": 6}, feat.closure(["FEAT_PMUv3", "FEAT_FGT"])
    )
    assert decide(Access("PMXEVCNTR_EL0", True, 1), c)[0] is Outcome.UNDEF
    assert decide(Access("PMXEVTYPER_EL0", True, 1), c) == (Outcome.EL2, "MDCR_EL2.TPM")


@given(n=st.integers(0, 30), count=st.integers(0, 31), hpmn=st.integers(0, 31), fgt=st.booleans())
@settings(max_examples=100, deadline=None)
def test_event_counters_beyond_the_guests(n, count, hpmn, fgt):
    """UNDEFINED from N, trapped from HPMN with FEAT_FGT; CONSTRAINED UNPREDICTABLE without."""
    features = feat.closure(["FEAT_PMUv3"] + ["FEAT_FGT"] * fgt)
    c = controls(QUIET & ~31 | hpmn, {**OPEN, "PMCR_EL0.N": count, "PMSELR_EL0.SEL": n}, features)
    wanted = Outcome.UNDEF if n >= count else Outcome.EL2 if n >= hpmn else Outcome.EXECUTED
    for access in (Access("PMEVCNTR<n>_EL0", True, 1, n), Access("PMXEVCNTR_EL0", False, 1)):
        if fgt or n < min(count, hpmn):
            assert decide(access, c)[0] is wanted
        else:
            assert decide(access, c)[1].endswith("CONSTRAINED UNPREDICTABLE")
            for choice in Outcome:
                free = dataclasses.replace(c, unpredictable=t.const(choice, 2))
                assert decide(access, free)[0] is choice


@given(sel=st.integers(0, 31), p1=st.integers(0, 3), p2=st.integers(0, 3), write=st.booleans(), el=st.integers(0, 1))
@settings(max_examples=100, deadline=None)
def test_system_pmu_permissions(sel, p1, p2, write, el):
    """SPMACCESSR_EL1 guards EL0, SPMACCESSR_EL2 both: 0b00 nothing, 0b11 all, else reads; only the selected field."""
    c = controls(
        QUIET,
        {**OPEN, "SPMSELR_EL0.SYSPMUSEL": sel, f"SPMACCESSR_EL1.P{sel}": p1, f"SPMACCESSR_EL2.P{sel}": p2},
        feat.ALL,
    )

    def allowed(p):
        return p == 3 if write else p != 0

    wanted = Outcome.EL1 if el == 0 and not allowed(p1) else Outcome.EXECUTED if allowed(p2) else Outcome.EL2
    assert decide(Access("SPMEVCNTR<n>_EL0", write, el), c)[0] is wanted
    assert decide(Access("SPMSELR_EL0", write, el), c)[0] is Outcome.EXECUTED
    assert decide(Access("SPMSCR_EL1", write, el), c)[0] is Outcome.UNDEF
