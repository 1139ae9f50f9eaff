"""The comparison, on a CPU that does exactly what the table says: silent there, and loud when either changes."""

from dataclasses import replace

import pytest

from formal.arch import traps
from formal.arch.sysregs import find
from formal.arch.traps import Outcome
from formal.conform.cpu.compare import Table, compare, syndromes
from formal.conform.cpu.points import points, selected
from formal.conform.cpu.settings import settings
from tests.conform.conftest import FINE, PLAIN

POINTS = points()[1]


def plan(cpu, every=29):
    """Some settings, and what each probes."""
    return [(s, [p for p in POINTS if selected(s.accesses, p)]) for s in list(settings(cpu))[::every]]


def faithful(cpu, runs):
    """The results of a CPU that follows the table, as the probe would write them."""
    table = Table(cpu, POINTS)
    for setting, chosen in runs:
        for p in chosen:
            wanted = min(table.allowed(p, setting))
            host = setting.tge and p.access.el == 0
            yield next(raw for raw, shown in syndromes(p, host).items() if shown is wanted)


def test_a_faithful_cpu_does_not_differ(cpu):
    runs = plan(cpu)
    found = compare(cpu, runs, list(faithful(cpu, runs)))
    assert found.differences == []
    assert found.accesses == sum(len(chosen) for _, chosen in runs)
    assert {"UNDEF", "EL1", "EL2", "EXECUTED"} <= set(found.outcomes)


def test_a_changed_rule_of_the_table_is_reported(monkeypatch):
    """TDE no longer makes TDRA, TDOSA and TDA act as 1."""
    runs = plan(PLAIN, 1)
    runs = [(s, chosen) for s, chosen in runs if s.label in ("MDCR_EL2.TDE", "MDCR_EL2.TDA", "nothing traps")]
    results = list(faithful(PLAIN, runs))
    honest = traps._coarse
    monkeypatch.setattr(traps, "_coarse", lambda a, n, c: (x for x in honest(a, n, c) if x[1] != "MDCR_EL2.TDE"))
    found = compare(PLAIN, runs, results).differences
    assert {d.setting for d in found} == {"MDCR_EL2.TDE"}
    assert {(d.expected, d.observed) for d in found} == {("EXECUTED", "EL2")}
    assert {"MRS MDRAR_EL1 at EL1", "MSR OSLAR_EL1 at EL1", "MSR DBGBCR5_EL1 at EL1"} <= {d.subject for d in found}


def test_a_row_with_the_wrong_trap_is_reported(monkeypatch):
    runs = [(s, chosen) for s, chosen in plan(PLAIN, 1) if s.label in ("MDCR_EL2.TDA", "MDCR_EL2.TDOSA")]
    results = list(faithful(PLAIN, runs))
    row = find("MDSCR_EL1")
    monkeypatch.setattr(traps, "find", lambda name: replace(row, traps=("TDOSA",)) if name == row.name else find(name))
    found = compare(PLAIN, runs, results).differences
    assert {(d.subject, d.setting) for d in found} == {
        (f"{m} MDSCR_EL1 at EL1", f"MDCR_EL2.{f}") for m in ("MRS", "MSR") for f in ("TDA", "TDOSA")
    }


@pytest.mark.parametrize(
    "spoil", [1, 1 << 1, 1 << 10, 1 << 20, 1 << 25, 1 << 26, 1 << 32, 1 << 50], ids=lambda bit: f"bit {bit:#x}"
)
def test_a_wrong_syndrome_is_reported(spoil):
    """The direction, CRm, CRn, op0, IL, EC, the address, SPSR.SS."""
    setting = next(s for s in settings(PLAIN) if s.label == "MDCR_EL2.TDA")
    point = next(p for p in POINTS if str(p) == "MRS MDSCR_EL1 at EL1")
    right = next(raw for raw, shown in syndromes(point, False).items() if shown is Outcome.EL2)
    assert compare(PLAIN, [(setting, [point])], [right]).differences == []
    (found,) = compare(PLAIN, [(setting, [point])], [right ^ spoil]).differences
    assert (found.expected, found.why) == ("EL2", "MDCR_EL2.TDA")
    assert "EC" in found.observed


def allowed(cpu, label, access):
    """What the architecture allows."""
    setting = next(s for s in settings(cpu) if s.label == label)
    return Table(cpu, POINTS).allowed(next(p for p in POINTS if str(p) == access), setting)


def test_the_architecture_leaves_a_choice_only_where_it_says_so():
    missing, there = "MRS PMEVCNTR6_EL0 at EL1", "MRS PMEVCNTR5_EL0 at EL1"
    assert allowed(PLAIN, "nothing traps", missing) == {Outcome.UNDEF, Outcome.EXECUTED, Outcome.EL2}
    assert allowed(FINE, "nothing traps", missing) == {Outcome.UNDEF}
    assert allowed(PLAIN, "nothing traps", there) == {Outcome.EXECUTED}
    assert allowed(FINE, "HPMN=5", there) == {Outcome.EL2}
    assert allowed(FINE, "HPMN=31", there) == {Outcome.EXECUTED, Outcome.EL2}  # reserved
    assert allowed(FINE, "HPMN=0", there) == {Outcome.EL2}  # FEAT_HPMN0
    assert Outcome.EXECUTED in allowed(PLAIN, "HPMN=0", there)
    assert allowed(PLAIN, "MDCR_EL2.TPM", there) == {Outcome.EL2}
    assert allowed(PLAIN, "MDCR_EL2.TDOSA", "MRS OSDLR_EL1 at EL1") == {Outcome.EL2}
    assert allowed(FINE, "MDCR_EL2.TDOSA", "MRS OSDLR_EL1 at EL1") == {Outcome.EXECUTED, Outcome.EL2}
