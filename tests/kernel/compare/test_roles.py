"""Functions that a tree calls otherwise are found by where they stand, and read under the names that are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

_VHE, _NVHE, _BANKS, _TRAPS = (
    f"{KVM}/hyp/{name}" for name in ("vhe/switch.c", "nvhe/switch.c", "include/hyp/debug-sr.h", "include/hyp/switch.h")
)
_REGS, _EXIT = f"{KVM}/sys_regs.c", f"{KVM}/handle_exit.c"
_COMMON = ("perform_access", "handle_trap_exceptions", "kvm_handle_guest_debug", "__debug_save_state", 
           "trap_debug_regs", "__activate_traps", "__activate_traps_common", "reg_to_dbg")  # fmt: skip
RENAMED: Mapping[str, tuple[str, ...]] = {
    "6.1": (*_COMMON, "trap_bvr", "reset_bcr", "trap_oslar_el1", "set_oslsr_el1"),
    "7.3": ("perform_access", "handle_trap_exceptions", "kvm_handle_guest_debug", "trap_debug_regs", "trap_oslar_el1",
            "trap_dbg_wb_reg", "set_dbg_wb_reg", "set_oslsr_el1"),
}  # fmt: skip


def renamed_copy(version: str, names: tuple[str, ...], place: Path) -> KernelTree:
    """A copy of a tree with other names for some functions."""
    base = KernelTree(tree_path(version))
    words = re.compile(rf"\b({'|'.join(names)})\b")
    for file in (_VHE, _NVHE, _BANKS, _TRAPS, _REGS, _EXIT):
        path = linked_copy(base.path, place, file)
        path.write_text(words.sub(r"own_\1_here", path.read_text()))
    tree = KernelTree(place)
    tree.__dict__["autoconf"] = base.autoconf
    return tree


@pytest.mark.parametrize("version", RENAMED)
def test_functions_are_found_where_they_stand(version: str, tmp_path: Path) -> None:
    tree = renamed_copy(version, RENAMED[version], tmp_path / "tree")
    gaps, found = reading._search(tree)
    assert found == {f"own_{name}_here": name for name in RENAMED[version]}
    assert reading._certain(gaps) == ()
    own = re.compile(r"\bown_\w+_here\b")
    assert own.search(tree.plain(_REGS)) and not own.search(tree.read(_REGS))


def test_a_tree_with_the_known_names_is_read_as_it_is() -> None:
    gaps, found = reading._search(KernelTree(tree_path("6.1")))
    assert reading._certain(gaps) == () and not found


def test_a_name_that_is_taken_is_not_used(tmp_path: Path) -> None:
    """Else two functions would be one."""
    tree = renamed_copy("6.1", ("trap_oslar_el1",), tmp_path / "tree")
    header = linked_copy(tree_path("6.1"), tree.path, "include/linux/compiler.h")
    header.write_text(header.read_text() + "\n#define trap_oslar_el1 undef_access\n")
    gaps, found = reading._search(tree)
    assert not found and reading._certain(gaps)
