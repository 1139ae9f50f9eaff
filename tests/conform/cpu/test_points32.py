"""The AArch32 accesses: instructions, syndromes, and the comparison of a CPU that does what the table says."""

from collections import Counter
from dataclasses import replace

import pytest

from formal.arch import aarch32, traps
from formal.arch.aarch32 import REGISTERS32
from formal.arch.traps import Outcome
from formal.conform.cpu.compare import Table, compare, syndromes
from formal.conform.cpu.points32 import FORMS, instruction, points32, spelled
from formal.conform.cpu.settings import settings
from formal.conform.machine.blob import X0
from tests.conform.conftest import A32, FINE, PLAIN

TEXT, POINTS = points32(A32, 100)
EL0_ONLY = replace(A32, ids={"ID_AA64PFR0_EL1": 0x12})


def plan(cpu, labels):
    """These settings, below an AArch64 and an AArch32 EL1, and what each probes."""
    chosen = [s for s in settings(cpu) if s.label in labels]
    assert len(chosen) == len(labels)
    for s in chosen + [replace(s, rw=False) for s in chosen if not s.tge]:
        yield s, [p for p in POINTS if p.access.el1_is_aarch32 != s.rw and p.selected(s.accesses)]


def faithful(cpu, runs):
    """The results of a CPU that follows the table."""
    table = Table(cpu, POINTS)
    for setting, chosen in runs:
        for p in chosen:
            wanted = min(table.allowed(p, setting))
            yield next(raw for raw, shown in syndromes(p, setting.tge).items() if shown is wanted)


LABELS = ["nothing traps", "all ones", "MDCR_EL2.TDA", "MDCR_EL2.TDE", "MDCR_EL2.TDRA", "MDCR_EL2.TPM", "random 3"]
LABELS += ["HSTR_EL2.T9, TPM, PMUSERENR_EL0=0x0", "HSTR_EL2.T9, TPM, PMUSERENR_EL0=0xf, TGE"]


def named(text):
    """The point."""
    return next(p for p in POINTS if str(p) == text)


def test_instructions_are_what_an_assembler_makes_of_them():
    lines = {(r.name, r.form): r for r in REGISTERS32}
    assert instruction(lines["DBGDIDR", "mcr"], False) == 0xEE100E10  # MRC p14, 0, R0, c0, c0, 0
    assert instruction(lines["PMCR", "mcr"], True) == 0xEE090F1C  # MCR p15, 0, R0, c9, c12, 0
    assert instruction(lines["PMEVTYPER<n>", "mcr"], False, 30) == 0xEE1E0FDF  # MRC p15, 0, R0, c14, c15, 6
    assert instruction(lines["DBGDRAR", "mcrr"], False) == 0xEC510E01  # MRRC p14, 0, R0, R1, c1
    assert instruction(lines["PMCCNTR", "mcrr"], True) == 0xEC410F09  # MCRR p15, 0, R0, R1, c9
    with pytest.raises(ValueError, match="ldc"):
        instruction(lines["DBGDTRTXint", "ldc"], True)


def test_every_access_is_probed_once_in_each_state():
    found = Counter((p.name, p.access.index, p.access.write, p.access.el, p.access.el1_is_aarch32) for p in POINTS)
    assert set(found.values()) == {1}
    assert {p.name for p in POINTS} == {spelled(r) for r in REGISTERS32 if r.form in FORMS}
    assert {(el, el1) for *_, el, el1 in found} == {(1, True), (0, True), (0, False)}
    assert ("A32 DBGDTRRXint", 0, True, 1, True) not in found  # that is DBGDTRTXint
    assert not {p.access.el1_is_aarch32 for p in points32(EL0_ONLY, 0)[1]} - {False}
    assert points32(PLAIN, 0) == ([], [])


def test_the_code_of_a_point_makes_its_access():
    for p in POINTS:
        code = p.run().code - 100
        done = 0xE1400071 if p.access.el else 0xEF000001  # HVC #1, SVC #1
        assert TEXT[code : code + 2] == [instruction(p.access.register, p.access.write, p.access.index), done]
        assert p.run().spsr & 0x3F == (0x13 if p.access.el else 0x10)


def test_writes_do_no_harm():
    how = {p.name: p.run().x0 for p in POINTS if p.access.write}
    assert how["A32 DBGOSLAR"] is X0.OSLAR
    assert how["A32 PMCNTENSET"] is how["A32 DBGDTRTXint"] is how["A32 DBGVCR"] is X0.ZERO
    assert how["A32 PMUSERENR"] is how["A32 DBGDSCRext"] is X0.READ_BACK


def test_syndromes():
    """EC, IL, CV and COND, then the fields; below an AArch32 EL1, the vector and the link register."""
    trapped = {o: raw for raw, o in syndromes(named("MCR PMCR at EL0 below AArch64 EL1"), False).items()}
    assert trapped[Outcome.EL1] == 1 << 48 | 0x0FE02418  # EC 0x03, CRn 9, CRm 12, a write
    assert trapped[Outcome.EL2] == 2 << 48 | 0x0FE02418
    assert trapped[Outcome.EXECUTED] == 1 << 48 | 2 << 32 | 0x46000001  # EC 0x11
    rom = {o: raw for raw, o in syndromes(named("MRRC DBGDRAR at EL1"), False).items()}
    assert rom[Outcome.EL2] == 2 << 48 | 0x33E00403  # EC 0x0C, Rt2 = R1, CRm 1, a read
    assert rom[Outcome.UNDEF] == 1 << 48 | 1 << 32 | 4
    assert rom[Outcome.EXECUTED] == 2 << 48 | 2 << 32 | 0x4A000001  # EC 0x12


def test_a_faithful_cpu_does_not_differ():
    runs = list(plan(A32, LABELS))
    found = compare(A32, runs, list(faithful(A32, runs)))
    assert found.differences == []
    assert set(found.outcomes) == {"UNDEF", "EL1", "EL2", "EXECUTED"}


def test_a_changed_rule_of_the_table_is_reported(monkeypatch):
    runs = list(plan(A32, LABELS))
    results = list(faithful(A32, runs))
    honest = traps._coarse
    monkeypatch.setattr(traps, "_coarse", lambda a, n, c: (x for x in honest(a, n, c) if x[1] != "MDCR_EL2.TDRA"))
    found = compare(A32, runs, results).differences
    assert {"MRC DBGDRAR at EL1", "MRRC DBGDSAR at EL0", "MRC DBGDRAR at EL0 below AArch64 EL1"} <= {
        d.subject for d in found
    }
    assert {d.register for d in found} <= {
        "A32 DBGDRAR",
        "A32 DBGDRAR (mcrr)",
        "A32 DBGDSAR",
        "A32 DBGDSAR (mcrr)",
    }


def test_a_row_with_the_wrong_trap_is_reported():
    setting = next(s for s in settings(A32) if s.label == "MDCR_EL2.TDA")
    point = named("MRC DBGVCR at EL1")
    (right,) = faithful(A32, [(replace(setting, rw=False), [point])])
    wrong = replace(point.access.register, acts_as=replace(point.register, traps=("TDOSA",)))
    planted = replace(point, access=replace(point.access, register=wrong))
    (found,) = compare(A32, [(replace(setting, rw=False), [planted])], [right]).differences
    assert (found.register, found.expected, found.observed) == ("A32 DBGVCR", "EXECUTED", "EL2")


@pytest.mark.parametrize("spoil", [1, 1 << 1, 1 << 5, 1 << 20, 1 << 24, 1 << 25, 1 << 26, 1 << 32, 1 << 50])
def test_a_wrong_syndrome_is_reported(spoil):
    """The direction, CRm, Rt, COND, CV, IL, EC, the address, SPSR.SS."""
    setting = replace(next(s for s in settings(A32) if s.label == "MDCR_EL2.TDA"), rw=False)
    point = named("MRC DBGDSCRext at EL1")
    (right,) = faithful(A32, [(setting, [point])])
    assert compare(A32, [(setting, [point])], [right]).differences == []
    assert len(compare(A32, [(setting, [point])], [right ^ spoil]).differences) == 1


def allowed(cpu, label, text):
    """What the architecture allows."""
    setting = next(s for s in settings(cpu) if s.label == label)
    point = named(text)
    return Table(cpu, [point]).allowed(point, replace(setting, rw=not point.access.el1_is_aarch32))


def test_what_may_be_absent_without_an_aarch32_el1():
    text = "MRC DBGDIDR at EL0 below AArch64 EL1"
    assert allowed(A32, "nothing traps", text) == {Outcome.EXECUTED}
    assert allowed(EL0_ONLY, "nothing traps", text) == {Outcome.EXECUTED, Outcome.UNDEF}
    assert allowed(EL0_ONLY, "nothing traps", "MRC DBGDSCRint at EL0 below AArch64 EL1") == {Outcome.EXECUTED}


def test_context_aware_breakpoints_are_the_last_ones():
    for n, expected in ((3, Outcome.UNDEF), (4, Outcome.EXECUTED), (5, Outcome.EXECUTED), (6, Outcome.UNDEF)):
        assert allowed(A32, "nothing traps", f"MRC DBGBXVR{n} at EL1") == {expected}


def test_hstr_is_probed_only_where_there_is_aarch32():
    assert any(s.t9 for s in settings(A32))
    assert not any(s.t9 for s in settings(PLAIN)) and not any(s.t9 for s in settings(FINE))
    state = next(s for s in settings(A32) if s.t9).state()
    assert state.hstr_el2 == 1 << 9
    assert replace(next(settings(A32)), rw=False).state().hcr_el2 == 0


def test_the_term_and_the_decision_are_one():
    """``outcome`` with symbols, evaluated, is ``decide`` with constants."""
    table = Table(A32, POINTS)
    for setting, chosen in plan(A32, LABELS):
        for p in chosen:
            got = aarch32.decide(p.access, setting.controls(A32), traps.t.boolean(setting.t9))[0]
            assert got in table.allowed(p, setting)
