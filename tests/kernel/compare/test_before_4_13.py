"""Trees of v4.9 to v4.12: what is read of them that later ones do otherwise, and what an edit breaks.

Any such tree in a folder that KVM_MORE_TREES or KVM_TREES names is taken; Debian serves none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from formal.epochs import Mode
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.source.tree import KVM, KernelTree
from tests.kernel.compare.test_before_4_17 import ASKED, UNMASKED, read, said
from tests.kernel.mutants import linked_copy

FIRST, LAST = (4, 9), (4, 12)  # of the releases whose C these edits are made for
EXIT, REGS, RESET = f"{KVM}/handle_exit.c", f"{KVM}/sys_regs.c", f"{KVM}/reset.c"
_SKIP = "\tkvm_skip_instr(vcpu, kvm_vcpu_trap_il_is32bit(vcpu));\n"
# file (of arch/arm/kvm or virt/kvm/arm if it has no folder), what is replaced by what, and what is said of it
EDITS: Mapping[str, tuple[str, str, str, str]] = {
    "an access is not skipped when it is decoded": (
        "mmio.c", f"{_SKIP}\treturn 0;", f"\tif (*is_write)\n\t{_SKIP}\treturn 0;", "decode_hsr() calls kvm_skip"),
    "an access is decoded twice": ("mmio.c", "\t\tif (ret)\n\t\t\treturn ret;\n\t} else {",
                                   "\t\tif (ret)\n\t\t\tret = decode_hsr(vcpu, &is_write, &len);\n\t} else {",
                                   "io_mem_abort() calls decode_hsr"),
    "a vCPU that is turned off runs": ("arm.c", "\t\t\tvcpu->arch.power_off || vcpu->arch.pause) {\n\t\t\tlocal",
                                       "\t\t\tvcpu->arch.pause) {\n\t\t\tlocal", "only when no request is pending"),
    "the host's contexts change": ("arm.c", "static void cpu_hyp_reset(void)\n{",
                                   "static void cpu_hyp_reset(void)\n{\n\tkvm_host_cpu_state = NULL;",
                                   "alone notes the CPU's context of the host"),
    "a CPU is not initialised anew": ("arm.c", "__hyp_get_vectors() == hyp_default_vectors",
                                      "__hyp_get_vectors() != hyp_default_vectors", "cpu_hyp_reinit() calls"),
    "what no handler has goes on": (EXIT, "\t\tBUG();\n", "\t\treturn arm_exit_handlers[0];\n",
                                    "the handler is that of the exception class"),
    "what is refused is skipped": (REGS, "\t\t/* If access function fails, it should complain. */\n",
                                   f"\t{_SKIP}", "perform_access() calls"),
    "what is accessed is answered, too": (REGS, f"\t\t{_SKIP}\t\t\treturn 1;\n\t\t}}\n", f"\t\t{_SKIP}\t\t}}\n",
                                          "perform_access() calls kvm_inject_undefined"),
    "a reset forgets the registers": (RESET, "\tkvm_reset_sys_regs(vcpu);\n", "", "kvm_reset_vcpu() calls"),
}  # fmt: skip


@cache
def old_tree() -> KernelTree:
    """A tree of these releases, the oldest that there is."""
    found = []
    for folder in filter(None, map(os.environ.get, ("KVM_MORE_TREES", "KVM_TREES"))):
        for path in sorted(Path(folder).iterdir()):
            with suppress(NotUnderstoodError):  # such as one of v4.5 or before
                if (path / KVM / "debug.c").is_file() and FIRST <= (tree := KernelTree(path)).version[:2] <= LAST:
                    found.append(tree)
    if not found:
        pytest.skip("neither KVM_MORE_TREES nor KVM_TREES names a folder with a tree of v4.9 to v4.12")
    return min(found, key=lambda tree: tree.version)


def test_it_is_read() -> None:
    """But for what is so of v4.14, too."""
    report = read(old_tree(), Mode.NVHE)
    assert any(ASKED[0] in gap for gap in map(str, report.gaps))
    known = (*ASKED, UNMASKED, "(address)")
    assert [g for g in map(str, report.gaps) if not any(k in g for k in known)] == []
    assert {name: set(found) for name, found in report.differing.items()} == {
        "save host state": {"debug_dirty", "hw_bank", "host_debug_state"}
    }


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_told(name: str, tmp_path: Path) -> None:
    file, old, new, says = EDITS[name]
    base = old_tree()
    if "/" not in file:
        folders = ("arch/arm/kvm", "virt/kvm/arm")
        file = next(f"{folder}/{file}" for folder in folders if (base.path / folder / file).is_file())
    path = linked_copy(base.path, tmp_path, file)
    text = path.read_text()
    if old not in text:
        pytest.skip(f"{file} of this tree is another one")
    path.write_text(text.replace(old, new, 1))
    assert any(says in line for line in said(read(KernelTree(tmp_path), Mode.NVHE))), name
