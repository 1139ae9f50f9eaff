"""Functions that a tree calls otherwise are found by where they stand, and read under the names that are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.compare import roles
from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from formal.tree.verdicts import compare
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

_VHE, _NVHE, _BANKS, _TRAPS = (
    f"{KVM}/hyp/{name}" for name in ("vhe/switch.c", "nvhe/switch.c", "include/hyp/debug-sr.h", "include/hyp/switch.h")
)
_REGS, _EXIT = f"{KVM}/sys_regs.c", f"{KVM}/handle_exit.c"
_ARM, _HYP_MAIN = f"{KVM}/arm.c", f"{KVM}/hyp/nvhe/hyp-main.c"
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
    gaps, found, _ = reading._search(tree)
    assert found == {f"own_{name}_here": name for name in RENAMED[version]}
    assert reading._certain(gaps) == ()
    own = re.compile(r"\bown_\w+_here\b")
    assert own.search(tree.plain(_REGS)) and not own.search(tree.read(_REGS))
    read = reading.source(tree, Mode.VHE)
    report = compare(read.program, read.binding, read.signs, Mode.VHE, Questions(60.0), read.gaps)
    assert not report.gaps and not report.misdescribed and all(c.equal for c in report.compared)


def test_the_name_of_an_event_is_not_taken(tmp_path: Path) -> None:
    """TRACE_EVENT(kvm_arm_setup_debug, …) makes trace_kvm_arm_setup_debug(), and nothing of that name."""
    base, words = KernelTree(tree_path("6.1")), re.compile(r"(?<=\s)kvm_arm_setup_debug(?=\()")
    for file in (f"{KVM}/arm.c", f"{KVM}/debug.c", "arch/arm64/include/asm/kvm_host.h"):
        path = linked_copy(base.path, tmp_path / "tree", file)
        path.write_text(words.sub("kvm_arm_prepare_debug", path.read_text()))
    tree = KernelTree(tmp_path / "tree")
    gaps, found, _ = reading._search(tree)
    assert found == {"kvm_arm_prepare_debug": "kvm_arm_setup_debug"} and reading._certain(gaps) == ()


def test_a_tree_has_no_name_of_another_age(tmp_path: Path) -> None:
    """A function that is called where v6.14 calls kvm_vcpu_put_debug() is not that one in a tree of v6.12."""
    base, file = KernelTree(tree_path("6.12")), f"{KVM}/debug.c"
    header = linked_copy(base.path, tmp_path / "tree", "arch/arm64/include/asm/kvm_emulate.h")
    text = header.read_text()
    store = "static inline void strange(struct kvm_vcpu *vcpu)\n{\n\t*vcpu_cpsr(vcpu) &= ~PSR_MODE_MASK;\n}\n\n"
    start = "static inline bool kvm_vcpu_is_be("
    assert text.count(start) == 1
    header.write_text(text.replace(start, store + start))
    tree = KernelTree(tmp_path / "tree")
    gaps, found, _ = reading._search(tree)
    assert not found and [gap.of for gap in reading._certain(gaps)] == [{"strange"}], file


def test_what_writes_nothing_modelled_stands_for_nothing(tmp_path: Path) -> None:
    """By its text it may write any register; kvm_arch_vcpu_put() calls it, as others do kvm_vcpu_put_sysregs_vhe()."""
    base, start = KernelTree(tree_path("6.12")), "void kvm_arch_vcpu_put(struct kvm_vcpu *vcpu)\n{\n"
    path = linked_copy(base.path, tmp_path / "tree", _ARM)
    text, store = path.read_text(), "\t__vcpu_sys_reg(vcpu, vcpu_sve_zcr_elx(vcpu)) = 0;\n"
    assert text.count(start) == 1
    strange = f"static void strange(struct kvm_vcpu *vcpu)\n{{\n{store}}}\n\n"
    path.write_text(text.replace(start, f"{strange}{start}\tstrange(vcpu);\n"))
    gaps, found, _ = reading._search(KernelTree(tmp_path / "tree"))
    assert not found and {"strange"} in [gap.of for gap in reading._certain(gaps)]


def test_a_tree_with_the_known_names_is_read_as_it_is() -> None:
    gaps, found, _ = reading._search(KernelTree(tree_path("6.1")))
    assert reading._certain(gaps) == () and not found


def test_a_former_name_is_read_where_nothing_else_is_strange(tmp_path: Path) -> None:
    """sysreg_hidden() was sysreg_hidden_from_guest() up to v5.9; neither writes anything."""
    path = linked_copy(tree_path("6.1"), tmp_path / "tree", _REGS)
    path.write_text(re.sub(r"\bsysreg_hidden\b", "sysreg_hidden_from_guest", path.read_text()))
    header = linked_copy(tree_path("6.1"), tmp_path / "tree", f"{KVM}/sys_regs.h")
    header.write_text(re.sub(r"\bsysreg_hidden\b", "sysreg_hidden_from_guest", header.read_text()))
    gaps, found, _ = reading._search(KernelTree(tmp_path / "tree"))
    assert found == {"sysreg_hidden_from_guest": "sysreg_hidden"} and reading._certain(gaps) == ()


def test_a_name_that_is_taken_is_not_used(tmp_path: Path) -> None:
    """Else two functions would be one."""
    tree = renamed_copy("6.1", ("trap_oslar_el1",), tmp_path / "tree")
    header = linked_copy(tree_path("6.1"), tree.path, "include/linux/compiler.h")
    header.write_text(header.read_text() + "\n#define trap_oslar_el1 undef_access\n")
    gaps, found, _ = reading._search(tree)
    assert not found and reading._certain(gaps)


_INIT, _RUN = "static void cpu_hyp_init_context(void)\n{\n", "static void handle___kvm_vcpu_run("
_ENTERS = "\tcpu_reg(host_ctxt, 1) =  __kvm_vcpu_run("
# a function that stands where 6.1 has none and others have one: what is read under that name is not compared
STRANGE: Mapping[str, tuple[str, Mode, Mapping[str, str]]] = {
    "initialises a CPU": (_ARM, Mode.VHE, {
        _INIT: f"static void strange(void)\n{{\n\twrite_sysreg(0, mdcr_el2);\n}}\n\n{_INIT}\tstrange();\n"}),
    "enters a guest": (_HYP_MAIN, Mode.NVHE, {
        _RUN: f"static void strange(struct kvm_vcpu *vcpu)\n{{\n\tvcpu->arch.mdcr_el2 = 0;\n}}\n\n{_RUN}",
        _ENTERS: f"\tstrange(kern_hyp_va(vcpu));\n{_ENTERS}"}),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_accounts_for_no_store(name: str, tmp_path: Path) -> None:
    """A new function may be taken for one that this tree does not have; what it writes is told all the same."""
    file, mode, edits = STRANGE[name]
    base = KernelTree(tree_path("6.1"))
    path = linked_copy(base.path, tmp_path / "tree", file)
    text = path.read_text()
    for old, new in edits.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    tree = KernelTree(tmp_path / "tree")
    tree.__dict__["autoconf"] = base.autoconf
    read = reading.source(tree, mode)
    report = compare(read.program, read.binding, read.signs, mode, Questions(60.0), read.gaps)
    assert any("mdcr_el2 may be written" in gap.reason and " in strange()" in gap.reason for gap in report.gaps)


@pytest.mark.parametrize("outer", ["io_mem_abort", "handle_exit"])
def test_who_handles_traps_is_called_by_the_handler_of_exits(outer: str) -> None:
    """Before v4.16 no function does it, and others that skip an instruction are not taken for it."""
    plain = ("io_mem_abort", "handle_exit", "kvm_skip_instr")
    bodies = {"own": {"kvm_skip_instr"}, **{name: {"kvm_skip_instr"} for name in plain}}
    bodies[outer] |= {"own"}
    taken = roles._KNOWN - {"handle_trap_exceptions"}
    found = roles._by_calls(bodies, taken, {"own"}, frozenset)
    assert found == (("own", "handle_trap_exceptions") if outer == "handle_exit" else None)
