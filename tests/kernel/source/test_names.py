"""Flags, owners and members that a tree has under other names throughout: they are read under the known ones."""

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
from tests.kernel.edited import said
from tests.kernel.mutants import linked_copy

HOST, EMULATE = (f"arch/arm64/include/asm/{name}.h" for name in ("kvm_host", "kvm_emulate"))
FLAGS = {"DEBUG_DIRTY": "REGS_LIVE", "DBG_SS_ACTIVE_PENDING": "STEP_IS_DUE", "INCREMENT_PC": "SKIPS",
         "PENDING_EXCEPTION": "EXCEPTION_WAITS", "SYSREGS_ON_CPU": "EL1_LOADED"}  # fmt: skip
OWNERS = {"VCPU_DEBUG_FREE": "NO_OWNER", "VCPU_DEBUG_HOST_OWNED": "VMM_OWNS", "VCPU_DEBUG_GUEST_OWNED": "GUEST_OWNS",
          "HOST_SS_ACTIVE_PENDING": "VMM_STEP", "GUEST_SS_ACTIVE_PENDING": "OWN_STEP", "INCREMENT_PC": "SKIPS",
          "PENDING_EXCEPTION": "EXCEPTION_WAITS", "PMUSERENR_ON_CPU": "PMU_LOADED"}  # fmt: skip

MEMBERS = {"debug_ptr": "active_regs", "guest_debug_preserved": "saved_debug", "host_debug_state": "hosts_debug",
           "external_debug_state": "vmm_regs", "vcpu_debug_state": "own_regs"}  # fmt: skip
OWNERS_MEMBERS = {"debug_owner": "regs_belong_to", "external_mdscr_el1": "vmm_mdscr", "vcpu_debug_state": "own_regs",
                  "nr_event_counters": "nr_counters"} | OWNERS  # fmt: skip


def renamed(version: str, place: Path, names: dict[str, str]) -> Path:
    """A copy of a tree in which words are others throughout."""
    base, words = tree_path(version), re.compile(rf"\b(?:{'|'.join(names)})\b")
    for folder in (KVM, "arch/arm64/include/asm"):
        for path in sorted((base / folder).rglob("*.[chS]")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if words.search(text):
                copy = linked_copy(base, place, str(path.relative_to(base)))
                copy.write_text(words.sub(lambda word: names[word[0]], text), encoding="utf-8")
    return place


def told(place: Path, mode: Mode) -> list[str]:
    tree = KernelTree(place)
    source = reading.source(tree, mode)
    return said(compare(source.program, source.binding, source.signs, mode, Questions(60.0), list(source.gaps)))


@pytest.mark.parametrize(
    ("version", "mode", "names"),
    [
        ("6.1", Mode.VHE, FLAGS),
        ("7.3", Mode.NVHE, OWNERS),
        ("6.1", Mode.NVHE, MEMBERS),
        ("7.3", Mode.VHE, OWNERS_MEMBERS),
    ],
    ids=["6.1", "7.3", "6.1-members", "7.3-members"],
)
def test_renamed_throughout_is_the_same(version: str, mode: Mode, names: dict[str, str], tmp_path: Path) -> None:
    assert told(renamed(version, tmp_path, names), mode) == []


def test_what_is_renamed_and_differs_is_told(tmp_path: Path) -> None:
    place = renamed("6.1", tmp_path, FLAGS)
    path = place / KVM / "sys_regs.c"
    text = path.read_text()
    assert "\t\tvcpu_set_flag(vcpu, REGS_LIVE);\n" in text
    path.write_text(text.replace("\t\tvcpu_set_flag(vcpu, REGS_LIVE);\n", "", 1))
    assert any("trap_debug_regs differs in debug_dirty" in text for text in told(place, Mode.NVHE))


def test_owners_that_change_places_are_told(tmp_path: Path) -> None:
    """A tree in which a trapped access makes the host the owner, under new names."""
    place = renamed("7.3", tmp_path, OWNERS)
    path = place / KVM / "debug.c"
    text = path.read_text()
    takes = text.index("void kvm_debug_set_guest_ownership(")
    path.write_text(text[:takes] + text[takes:].replace("GUEST_OWNS", "VMM_OWNS", 1))
    assert told(place, Mode.NVHE)


def test_a_name_that_is_taken_is_left(tmp_path: Path) -> None:
    place = renamed("6.1", tmp_path, {"DEBUG_DIRTY": "REGS_LIVE"})
    assert KernelTree(place).names.macros == {"REGS_LIVE": "DEBUG_DIRTY"}
    path = linked_copy(tree_path("6.1"), place, EMULATE)
    path.write_text(path.read_text() + "\nextern int DEBUG_DIRTY;\n")
    assert not KernelTree(place).names.macros


def test_members_that_are_used_wrongly_are_told(tmp_path: Path) -> None:
    """A tree in which the wrong bank is made the guest's, under new names."""
    place = renamed("6.1", tmp_path, MEMBERS)
    path = place / KVM / "debug.c"
    text = path.read_text()
    assert text.count("active_regs = &vcpu->arch.vmm_regs;") == 1
    path.write_text(text.replace("active_regs = &vcpu->arch.vmm_regs;", "active_regs = &vcpu->arch.own_regs;"))
    assert any("kvm_arm_setup_debug" in text for text in told(place, Mode.NVHE))


def test_the_name_of_a_member_that_is_taken_is_left(tmp_path: Path) -> None:
    place = renamed("6.1", tmp_path, {"debug_ptr": "active_regs"})
    assert KernelTree(place).names.members == {"active_regs": "debug_ptr"}
    path = linked_copy(tree_path("6.1"), place, EMULATE)
    path.write_text(path.read_text() + "\nextern int debug_ptr;\n")
    assert not KernelTree(place).names.members


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.3"])
def test_known_names_are_left(version: str) -> None:
    names = KernelTree(tree_path(version)).names
    assert not any(names)
