"""State that a tree keeps at another place than the known ones: what differs then is not known to be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from formal.tree.verdicts import compare
from tests.kernel.conftest import tree_path
from tests.kernel.edited import copy_of, said
from tests.kernel.mutants import linked_copy

DEBUG, RESET, HOST = f"{KVM}/debug.c", f"{KVM}/reset.c", "arch/arm64/include/asm/kvm_host.h"
_FILLS = (
    "\tmemset(vcpu_gp_regs(vcpu), 0, sizeof(*vcpu_gp_regs(vcpu)));\n"
    "\tmemset(&vcpu->arch.ctxt.fp_regs, 0, sizeof(vcpu->arch.ctxt.fp_regs));\n"
    "\tvcpu->arch.ctxt.spsr_abt = 0;\n\tvcpu->arch.ctxt.spsr_und = 0;\n\tvcpu->arch.ctxt.spsr_irq = 0;\n"
    "\tvcpu->arch.ctxt.spsr_fiq = 0;\n"
)
_STORES = "\tvcpu_gp_regs(vcpu)->pstate = pstate;\n"
_BEFORE = "\n/**\n * kvm_reset_vcpu - "


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE], ids=lambda mode: mode.value)
def test_a_per_cpu_variable_that_is_a_member_now_breaks_no_claim(mode: Mode) -> None:
    edits = {
        "static DEFINE_PER_CPU(u64, mdcr_el2);": "struct boot { u64 mdcr_el2; };\n"
        "static DEFINE_PER_CPU(struct boot, boot);",
        "__this_cpu_write(mdcr_el2,": "__this_cpu_write(boot.mdcr_el2,",
        "__this_cpu_read(mdcr_el2)": "__this_cpu_read(boot.mdcr_el2)",
    }
    found = copy_of("6.12").whole(DEBUG, edits, mode)
    assert any("percpu_mdcr_el2 is not kept where it is known to be" in str(gap) for gap in found.gaps)
    assert not found.replaced and not found.differing
    assert {"kvm_arm_init_debug", "kvm_arm_setup_debug"} <= {name for gap in found.gaps for name in gap.of}


@pytest.mark.parametrize(
    ("stores", "told"), [(_STORES, False), (_STORES.replace("= pstate", "= pstate | 1 << 21"), True)],
    ids=["as before", "with SS"],
)  # fmt: skip
def test_what_a_helper_stores_is_read_where_it_is_called(stores: str, told: bool) -> None:
    helper = f"\nstatic void fills(struct kvm_vcpu *vcpu, u32 pstate)\n{{\n{_FILLS}{stores}}}\n"
    found = copy_of("6.12").whole(
        RESET, {_FILLS + _STORES: "\tfills(vcpu, pstate);\n", _BEFORE: helper + _BEFORE}, Mode.VHE
    )
    assert any("resets PSTATE to 0x3c5" in str(gap) for gap in found.gaps) == told
    assert bool(found.gaps) == told


_MOVED_MEMBERS = (
    "\tstruct kvm_guest_debug_arch *debug_ptr;\n\tstruct kvm_guest_debug_arch vcpu_debug_state;\n"
    "\tstruct kvm_guest_debug_arch external_debug_state;\n"
)
_MDCR = "\tu64 hcr_el2;\n\tu64 mdcr_el2;\n"


def _in_a_record(version: str, place: Path, more: str = "") -> Path:
    """A copy of a tree in which a vCPU's debug state is in a record of its own, throughout."""
    base = tree_path(version)
    members = ("mdcr_el2", "debug_ptr", "vcpu_debug_state", "external_debug_state")
    words = re.compile(rf"\barch\.({'|'.join(members)})\b")
    for folder in (KVM, "arch/arm64/include/asm"):
        for path in sorted((base / folder).rglob("*.[ch]")):
            text = path.read_text(encoding="utf-8", errors="replace")
            changed = words.sub(r"arch.traps.\1", text)
            if str(path).endswith(HOST):
                record = f"\tstruct {{\n\tu64 mdcr_el2;\n{_MOVED_MEMBERS}{more}\t}} traps;\n"
                changed = changed.replace(_MDCR, "\tu64 hcr_el2;\n", 1).replace(_MOVED_MEMBERS, record, 1)
            if changed != text:
                linked_copy(base, place, str(path.relative_to(base))).write_text(changed, encoding="utf-8")
    return place


def _told(place: Path, mode: Mode) -> list[str]:
    tree = KernelTree(place)
    source = reading.source(tree, mode)
    return said(compare(source.program, source.binding, source.signs, mode, Questions(60.0), list(source.gaps)))


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE], ids=lambda mode: mode.value)
def test_members_in_a_record_of_their_own_are_the_same(mode: Mode, tmp_path: Path) -> None:
    assert _told(_in_a_record("6.1", tmp_path), mode) == []


def test_members_in_a_record_are_written_as_they_were(tmp_path: Path) -> None:
    place = _in_a_record("6.1", tmp_path)
    debug, other = place / DEBUG, linked_copy(tree_path("6.1"), place, f"{KVM}/handle_exit.c")
    text = debug.read_text()
    assert "MDCR_EL2_TDOSA);" in text
    debug.write_text(text.replace(" |\n\t\t\t\tMDCR_EL2_TDOSA);", ");", 1))
    text = other.read_text()
    assert "\tkvm_inject_undefined(vcpu);\n" in text
    other.write_text(text.replace("\tkvm_inject_undefined(vcpu);\n", "\tvcpu->arch.traps.debug_ptr = NULL;\n", 1))
    found = _told(place, Mode.NVHE)
    assert any("kvm_arm_setup_mdcr_el2 differs in mdcr_el2" in text for text in found)
    assert any("debug_ptr may be written" in text for text in found)


def test_a_member_of_two_records_is_known_in_neither(tmp_path: Path) -> None:
    """A name must say which of them it is."""
    found = _told(_in_a_record("6.1", tmp_path, "\tu64 hcr_el2;\n"), Mode.NVHE)
    assert any("mdcr_el2 is not kept where it is known to be" in text for text in found)
