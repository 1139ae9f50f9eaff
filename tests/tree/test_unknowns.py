"""A tree that is not understood as a whole: what is proved holds whatever the rest does, and all else is UNKNOWN."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formal.commands.prove import main
from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.replay import Replay
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.program import Lifted
from formal.kernel.model.counterparts import unmoved
from formal.kernel.source.tree import KVM
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.system import System
from formal.tree.unknowns import Unknown, mattering, narrower, takes_part, unknowns, wider
from formal.tree.verdicts import TreeReport
from formal.tree.writes import EVERYTHING, Effects, places
from tests.conftest import PROOFS
from tests.kernel.edited import Copy, copy_of
from tests.kernel.mutants import linked_copy

GUEST, RESET, DEBUG_SR = f"{KVM}/guest.c", f"{KVM}/reset.c", f"{KVM}/hyp/vhe/debug-sr.c"
ARM = f"{KVM}/arm.c"
IOCTL = "\tif (dbg->control & ~KVM_GUESTDBG_VALID_MASK)"
LOOP = "\twhile (dbg->pad == 0x77)\n\t\tdbg->pad += 2;\n"
SWITCH_DEBUG = "void __debug_switch_to_guest(struct kvm_vcpu *vcpu)\n{\n"
ALL = tuple(claim.name for claim in CLAIMS)


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("6.1")


def verdicts(report: TreeReport, verdict: str) -> set[str]:
    return {row.check for row in report.rows if row.verdict == verdict}


def test_a_tree_that_is_understood_has_no_gaps(copy: Copy) -> None:
    whole = copy.report(GUEST, {IOCTL: IOCTL}, Mode.VHE, ALL)
    expected = Manifest.read(PROOFS / "manifest.toml").expected(Configuration("E8s", "vhe"))
    assert not whole.gaps and not whole.unknowns and not verdicts(whole, "UNKNOWN")
    assert {expected[name] for name in verdicts(whole, "PROVED") if name in expected} == {"PROVED"}


@pytest.mark.parametrize("name", sorted(EPOCHS))
def test_any_operation_may_do_anything_at_any_time(name: str) -> None:
    """Those of other releases too: they may be about state that this one does not have."""
    system = System(Configuration(name, EPOCHS[name].modes[0].value).kernel())
    everything = {op.name: op.writes | EVERYTHING for op in system.operations}
    gap = Gap("f.c", 1, "anything", frozenset(everything), broken=True, untimely=True)
    found = wider(system, [Unknown(gap, everything, {}, None)])
    has = EVERYTHING & set(system.state().values)
    for step in found.applied:
        own = {n for n, value in step.after.values.items() if value is not step.before.values[n]}
        assert own >= has or step.operation.name not in everything


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE])
def test_an_ioctl_that_is_not_understood(copy: Copy, mode: Mode) -> None:
    found = copy.report(GUEST, {IOCTL: LOOP + IOCTL}, mode, ALL)
    (unknown,) = found.unknowns
    assert unknown.gap.file == GUEST and "a loop" in unknown.gap.reason
    assert {"os_registers", "debug_rom", "setup_before_every_entry"} <= verdicts(found, "PROVED")
    assert "external_bank_preserved" in verdicts(found, "UNKNOWN")
    assert {row.reason for row in found.rows if row.verdict == "UNKNOWN"} == {f"hangs on {unknown}"}
    assert str(unknown).startswith("guest.c:")
    assert found.system is not None
    for row in found.rows:  # a run that breaks a claim has nothing in it that is not understood
        if row.trace is not None:
            replay = Replay(narrower(found.system, found.unknowns))
            claim = next(claim for claim in CLAIMS if claim.name == row.claim)
            assert row.verdict == "VIOLATED" and replay.violates(row.trace, claim) == row.broken_at


def test_what_it_may_write_besides_is_not_taken_as_kept(copy: Copy) -> None:
    """The same loop in a function that also writes MDCR_EL2; or that has assembly."""
    edits = {IOCTL: f"\twrite_sysreg(0, mdcr_el2);\n{LOOP}{IOCTL}"}
    assert {"os_registers", "debug_rom"} <= verdicts(copy.report(GUEST, edits, Mode.VHE, ALL), "UNKNOWN")
    edits = {IOCTL: '\tasm volatile("str xzr, [%0]" : : "r" (vcpu) : "memory");\n' + IOCTL}
    ours = {"setup_before_every_entry", "init_debug_has_one_task"}  # which the ioctl has no part in
    assert verdicts(copy.report(GUEST, edits, Mode.VHE, ALL), "PROVED") <= ours


def test_a_part_of_the_world_switch_that_is_not_understood(copy: Copy) -> None:
    edits = {SWITCH_DEBUG: f"{SWITCH_DEBUG}\twhile (vcpu->cpu == 0x77)\n\t\tvcpu->cpu += 2;\n"}
    found = copy.report(DEBUG_SR, edits, Mode.VHE, ALL)
    assert [u.gap.file for u in found.unknowns] == [DEBUG_SR] and {*found.unknowns[0].parts} == {
        "debug switch to guest"
    }
    assert {"untrapped_bank_is_guests_own", "host_debug_bank_restored"} <= verdicts(found, "UNKNOWN")


def test_the_heart_is_not_understood(copy: Copy) -> None:
    """What it decides about the tree is as in its release; what it does may be anything."""
    heart = "static void kvm_arm_setup_mdcr_el2(struct kvm_vcpu *vcpu)\n{\n"
    found = copy.report(DEBUG_C, {heart: f"{heart}\twhile (vcpu->cpu == 0x77)\n\t\tvcpu->cpu += 2;\n"}, Mode.VHE, ALL)
    assert found.resolved.epoch.name == "E8s"
    assert {"os_registers", "performance_monitors", "bug_on_unreachable"} <= verdicts(found, "UNKNOWN")
    assert all("a loop" in gap.reason for gap in found.gaps)


def test_a_function_elsewhere_that_writes(copy: Copy) -> None:
    """It may run at any time, and takes part wherever its callers do."""
    edits = {"\tvcpu->cpu = cpu;": "\tvcpu->cpu = cpu;\n\tvcpu->arch.mdcr_el2 = 0;"}
    found = copy.report(ARM, edits, Mode.VHE, ALL)
    unknown = next(unknown for unknown in found.unknowns if unknown.own)
    assert (
        unknown.own is not None
        and "mdcr_el2" in unknown.own <= places("mdcr_el2")
        and "kvm_arch_vcpu_load" in unknown.joins
    )
    assert {"os_registers", "debug_rom"} <= verdicts(found, "UNKNOWN")


def test_an_operation_without_one_of_its_assignments(copy: Copy) -> None:
    """A reset that does not forget what is pending is decided; no claim hangs on it."""
    text = (copy.tree.path / RESET).read_text()
    lines = [
        line
        for line in text.split("\n")
        if re.search(r"vcpu_clear_flag\(vcpu, (PENDING_EXCEPTION|INCREMENT_PC|EXCEPT_MASK)\)", line)
    ]
    assert lines
    found = copy.report(RESET, {f"{line}\n": "" for line in lines}, Mode.NVHE, ALL)
    assert [text.rpartition(": ")[2] for text in found.lacking] == ["kvm_reset_vcpu() forgets what is pending"]
    assert not found.unknowns and not verdicts(found, "UNKNOWN")


def test_no_claim_that_the_c_breaks_is_proved_without_it(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C that is left aside breaks claims; all of these are UNKNOWN."""
    edits = {"\t\tvcpu->arch.external_debug_state = dbg->arch;": "\t\t;"}
    report = copy.report(GUEST, edits, Mode.VHE, ALL)
    broken = {row.check for row in report.rows if row.verdict == "VIOLATED" and row.expected == "PROVED"}
    assert broken
    lift = type(copy.program).lift

    def refuses(self: object, name: str, *rest: object, **more: object) -> Lifted:
        if name == "kvm_arch_vcpu_ioctl_set_guest_debug":
            raise NotUnderstoodError(GUEST, 1, "not understood")
        return lift(self, name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(copy.program), "lift", refuses)
    assert broken <= verdicts(copy.report(GUEST, edits, Mode.VHE, ALL), "UNKNOWN")


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.3"])
def test_the_search_finds_all_that_lifted_functions_write(version: str) -> None:
    copy = copy_of(version)
    effects = Effects.of(copy.tree)
    report = copy.read(Mode.VHE)
    assert report.binding is not None and report.system is not None
    state, looked_at = report.system.state(), 0
    for c in report.compared:
        assert c.lifted is not None
        variables = {*copy.ask.differing(unmoved(c.lifted, report.binding, state))} & EVERYTHING
        assert variables <= effects.written(c.lifted.name.split(", ")), c.function
        looked_at += bool(variables)
    assert looked_at >= 12
    assert places("mdcr_el2") != EVERYTHING and places("somewhere") == EVERYTHING


def test_gaps_are_errors_unless_they_are_noted() -> None:
    noted = Gaps(noted=True)
    with noted.at("f"):
        raise NotUnderstoodError("a.c", 3, "no such thing")
    assert noted.found == [Gap("a.c", 3, "no such thing", frozenset(("f",)))]
    assert str(noted.found[0]) == "a.c:3: no such thing"
    with pytest.raises(NotUnderstoodError), Gaps().at("f"):
        raise NotUnderstoodError("a.c", 3, "no such thing")


def test_several_gaps_at_one_place_are_one_unknown(copy: Copy) -> None:
    report = copy.read(Mode.VHE)
    assert report.system is not None
    gaps = [Gap("a.c", 3, "x", frozenset((name,))) for name in ("kvm_arm_setup_debug", "debug switch to guest")]
    (both,) = unknowns(report.system, gaps, Effects.of(copy.tree))
    in_it = {op.name for op in report.system.operations if takes_part(both, op, report.system)}
    assert in_it == {"kvm_arm_setup_debug", "__kvm_vcpu_run enters"}
    (anything,) = unknowns(report.system, [Gap("a.c", 3, "x")], Effects.of(copy.tree))
    assert {"kvm_arch_vcpu_load", "KVM_SET_GUEST_DEBUG"} <= {*anything.operations}
    assert not {"the guest executes", "cpu_boot"} & {*anything.operations}


def test_the_command_says_what_it_hangs_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.kernel.conftest import tree_path

    base, place = tree_path("6.1"), tmp_path / "linux"
    linked_copy(base, place, GUEST)
    text = (place / GUEST).read_text()
    (place / GUEST).write_text(text.replace(IOCTL, LOOP + IOCTL, 1))
    asked = ["--kernel", str(place), "--mode", "nvhe"]
    assert main([*asked, "--claim", "os_registers"]) == 0
    assert "not understood: guest.c:" in capsys.readouterr().out
    assert main([*asked, "--claim", "external_bank_preserved"]) == 3
    assert main([*asked, "--claim", "external_bank_preserved", "--bisect"]) == 125
    out = capsys.readouterr().out
    assert "  hangs on guest.c:" in out and "1 UNKNOWN: not all decided" in out


def test_what_a_kernel_does_not_have_does_not_matter() -> None:
    """OSLSR_EL1 of a guest, before KVM had an OS lock for it; all other state of the same name and place does."""
    without, having = (System(EPOCHS[name].kernel(Mode.NVHE)) for name in ("E6", "E8"))
    assert "oslsr_el1" not in mattering(without, CLAIMS) and "oslsr_el1" in mattering(having, CLAIMS)
    assert {"mdscr_el1", "mdcr_el2", "pstate", "adjust_pc", "hw_mdcr_el2"} <= mattering(without, CLAIMS)
