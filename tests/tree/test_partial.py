"""A tree that is understood in part: what is proved holds whatever the rest does, and all else is UNKNOWN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from formal.commands.prove import main
from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import Binding, flags_of
from formal.kernel.model.counterparts import unmoved
from formal.kernel.recognition import scan
from formal.kernel.recognition.callers import Mentions
from formal.kernel.source.tree import KVM
from formal.kernel.text.signs import read
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.tree import partial
from formal.tree.partial import EVERYTHING, InPart, _places, _understood, _written
from formal.tree.reading import Source
from formal.tree.verdicts import TreeJob
from tests.conftest import PROOFS
from tests.kernel.edited import Copy
from tests.kernel.mutants import linked_copy

GUEST, SWITCH, DEBUG_SR = f"{KVM}/guest.c", f"{KVM}/hyp/include/hyp/switch.h", f"{KVM}/hyp/vhe/debug-sr.c"
IOCTL = "\tif (dbg->control & ~KVM_GUESTDBG_VALID_MASK)"
LOOP = "\twhile (dbg->pad == 0x77)\n\t\tdbg->pad += 2;\n"
SWITCH_DEBUG = "void __debug_switch_to_guest(struct kvm_vcpu *vcpu)\n{\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    yield Copy("6.1", [GUEST, DEBUG_SR, DEBUG_C], tmp_path_factory.mktemp("tree") / "linux")


def in_part(copy: Copy, file: str, edits: dict[str, str], mode: Mode = Mode.VHE) -> InPart:
    job = TreeJob(copy.tree, (mode,), (), PROOFS, Manifest.read(PROOFS / "manifest.toml"), 60.0)
    with copy.edited(file, edits):
        return _understood(job, Source(copy.program, Binding(flags_of(copy.tree)), read(copy.tree)), mode)


def test_a_tree_that_is_understood_has_no_gaps(copy: Copy) -> None:
    """And what is proved of it is what is proved with the usual engine."""
    whole = in_part(copy, GUEST, {IOCTL: IOCTL})
    expected = Manifest.read(PROOFS / "manifest.toml").expected(Configuration("E8s", "vhe"))
    assert whole.gaps == ()
    assert {expected[name] for name in whole.proved} == {"PROVED"}
    assert {expected[name] for name in whole.unknown} == {"VIOLATED"}


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE])
def test_an_ioctl_that_is_not_understood(copy: Copy, mode: Mode) -> None:
    found = in_part(copy, GUEST, {IOCTL: LOOP + IOCTL}, mode)
    assert [gap.file for gap in found.gaps] == [GUEST]
    assert "WHILE_STMT is not understood" in found.gaps[0].reason
    assert "kvm_arch_vcpu_ioctl_set_guest_debug" not in found.lifted and "kvm_arm_setup_debug" in found.lifted
    assert {"os_registers", "debug_rom", "host_debug_is_trapped"} <= {*found.proved}
    assert {"external_bank_preserved"} <= {*found.unknown}
    assert not {*found.proved} & {*found.unknown}


def test_what_it_may_write_besides_is_not_taken_as_kept(copy: Copy) -> None:
    """The same loop in a function that also writes MDCR_EL2; or that has assembly."""
    found = in_part(copy, GUEST, {IOCTL: f"\twrite_sysreg(0, mdcr_el2);\n{LOOP}{IOCTL}"})
    assert {"os_registers", "debug_rom"} <= {*found.unknown}
    found = in_part(copy, GUEST, {IOCTL: '\tasm volatile("" : : "r" (vcpu) : "memory");\n' + IOCTL})
    assert found.proved == ("setup_before_every_entry",)  # which only the order of the calls decides


def test_a_part_of_the_world_switch_that_is_not_understood(copy: Copy) -> None:
    found = in_part(copy, DEBUG_SR, {SWITCH_DEBUG: f"{SWITCH_DEBUG}\twhile (vcpu->cpu == 0x77)\n\t\tvcpu->cpu += 2;\n"})
    assert [gap.file for gap in found.gaps] == [DEBUG_SR]
    print(found.proved)
    print(found.unknown)
    assert {"untrapped_bank_is_guests_own", "host_debug_bank_restored"} <= {*found.unknown}


def test_what_a_tree_is_cannot_be_told_without_its_heart(copy: Copy) -> None:
    heart = "static void kvm_arm_setup_mdcr_el2(struct kvm_vcpu *vcpu)\n{\n"
    found = in_part(copy, DEBUG_C, {heart: f"{heart}\twhile (vcpu->cpu == 0x77)\n\t\tvcpu->cpu += 2;\n"})
    assert found.proved == ()
    assert {claim.name for claim in CLAIMS} & {*found.unknown} == {claim.name for claim in CLAIMS}
    assert "kvm_arm_init_debug" in found.lifted and "kvm_arm_setup_debug" not in found.lifted
    assert all("WHILE_STMT" in gap.reason for gap in found.gaps)


def test_no_claim_that_the_c_breaks_is_proved_without_it(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C that is left aside breaks claims; all of these are UNKNOWN."""
    edits = {"\t\tvcpu->arch.external_debug_state = dbg->arch;": "\t\t;"}
    report = copy.report(GUEST, edits, Mode.VHE, tuple(claim.name for claim in CLAIMS))
    broken = {row.check for row in report.rows if row.verdict == "VIOLATED" and row.expected == "PROVED"}
    assert broken
    lift = type(copy.program).lift

    def refuses(self: object, name: str, *rest: object, **more: object) -> Lifted:
        if name == "kvm_arch_vcpu_ioctl_set_guest_debug":
            raise NotUnderstoodError(GUEST, 1, "not understood")
        return lift(self, name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(copy.program), "lift", refuses)
    assert broken <= {*in_part(copy, GUEST, edits).unknown}


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.3"])
def test_the_search_finds_all_that_lifted_functions_write(version: str, tmp_path: Path) -> None:
    copy = Copy(version, [GUEST], tmp_path / "linux")
    mentions = Mentions((DEBUG_C,))
    stores = scan.scan(copy.tree, mentions)
    report = copy.read(Mode.VHE)
    assert report.binding is not None and report.system is not None
    state, looked_at = report.system.state(), 0
    for c in report.compared:
        assert c.lifted is not None
        variables = {*copy.ask.differing(unmoved(c.lifted, report.binding, state))} & EVERYTHING
        assert variables <= _written(stores, mentions.bodies, c.lifted.name.split(", ")), c.function
        looked_at += bool(variables)
    assert looked_at >= 12
    assert _places("mdcr_el2") != EVERYTHING and _places("somewhere") == EVERYTHING


def test_gaps_are_errors_unless_they_are_noted() -> None:
    error = NotUnderstoodError("a.c", 3, "no such thing")
    noted = Gaps(noted=True)
    with noted.at("f"):
        raise error
    assert noted.found == {"f": error}
    with pytest.raises(NotUnderstoodError), Gaps().at("f"):
        raise error


def test_the_command_says_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.kernel.conftest import tree_path

    base, place = tree_path("6.1"), tmp_path / "linux"
    linked_copy(base, place, GUEST)
    text = (place / GUEST).read_text()
    (place / GUEST).write_text(text.replace(IOCTL, LOOP + IOCTL, 1))
    assert main(["--kernel", str(place), "--mode", "nvhe", "--claim", "os_registers"]) == 125
    out, err = capsys.readouterr()
    assert err.startswith(f"formal.prove: not understood: {GUEST}:") and err.count("\n") == 1
    assert out.splitlines()[0] == "nvhe: understood in part"
    assert "  PROVED, whatever the C does that is not understood, 1 claims: os_registers" in out
    assert "  UNKNOWN, 0 claims: none" in out


def test_a_tree_without_a_file_says_no_more(tmp_path: Path) -> None:
    def refuses() -> TreeJob:
        raise NotUnderstoodError("arch/arm64/kvm/debug.c", 0, "missing from the tree")

    assert list(partial.understood(refuses)) == []
