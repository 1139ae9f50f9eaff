"""Trees before v4.17, whose world switch is one function: what is read of them, and what an edit breaks.

Any such tree in a folder that KVM_MORE_TREES or KVM_TREES names is taken; Debian serves none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from formal.tree.verdicts import TreeReport, compare
from tests.kernel.mutants import linked_copy

SWITCH, EXIT, MAIN = f"{KVM}/hyp/switch.c", f"{KVM}/handle_exit.c", "virt/kvm/kvm_main.c"
FIRST, LAST = (4, 10), (4, 15)  # of the releases whose C these edits are made for
ASKED = ("kvm_reset_vcpu() may be called in kvm_psci_vcpu_on()",)  # which resets a vCPU that another turns on
UNMASKED = "masks exceptions with PSTATE.DAIF before the guest runs"
_LOOP = "if (exit_code == ARM_EXCEPTION_TRAP && !__populate_fault_info(vcpu))\n\t\tgoto again;"
_ROUND = _LOOP.replace("\n\t\tgoto again;", " {{\n\t\t{0};\n\t\tgoto again;\n\t}}")
# file, what is replaced by what, and what is said of it
EDITS: Mapping[str, tuple[str, str, str, str]] = {
    "the traps stay": (SWITCH, "\t__deactivate_traps(vcpu);\n\t__deactivate_vm(vcpu);\n\n\t__sysreg",
                       "\t__deactivate_vm(vcpu);\n\n\t__sysreg", "part save guest state: hw_mdcr_el2"),
    "the guest's MDSCR_EL1 is not loaded": (SWITCH, "\t__sysreg_restore_guest_state(guest_ctxt);\n", "",
                                            "SPSR_EL2 holds the guest's PSTATE"),
    "a round changes the traps": (SWITCH, _LOOP, _ROUND.format("write_sysreg(0, mdcr_el2)"),
                                  "leaves hw.mdcr_el2 as it was before it runs the guest again"),
    "a round passes instructions": (
        SWITCH, _LOOP, _ROUND.format("write_sysreg_el2(read_sysreg_el2(elr) + 8, elr)"),
        "as it was before it runs the guest again, or skips an instruction"),
    "a part is called elsewhere": (SWITCH, "\twrite_sysreg(0, vttbr_el2);\n}",
                                   "\twrite_sysreg(0, vttbr_el2);\n}\nvoid more(void) { __deactivate_traps_nvhe(); }",
                                   "in __deactivate_traps_nvhe()"),
    "a part is kept in a table": (SWITCH, "static hyp_alternate_select(__deactivate_traps_arch,",
                                  "void (*kept[])(void) = { __deactivate_traps_nvhe };\n"
                                  "static hyp_alternate_select(__deactivate_traps_arch,",
                                  "in __deactivate_traps_nvhe()"),
    "an ioctl is not loaded": (MAIN, "\tr = vcpu_load(vcpu);\n\tif (r)\n\t\treturn r;\n",
                               "\tif (ioctl != KVM_RUN && (r = vcpu_load(vcpu)))\n\t\treturn r;\n",
                               "kvm_vcpu_ioctl() loads the vCPU for every ioctl"),
    "nothing is skipped": (EXIT, "\t\t\tkvm_skip_instr(vcpu, kvm_vcpu_trap_il_is32bit(vcpu));\n\t\t\treturn 1;",
                           "\t\t\treturn 1;", "handle_exit() calls kvm_skip_instr"),
    "more is handled": (EXIT, "\tcase ARM_EXCEPTION_TRAP:\n", "\tcase ARM_EXCEPTION_TRAP:\n\tcase 5:\n",
                        "handle_exit() handles a trap once, and nothing else"),
}  # fmt: skip


@cache
def old_tree() -> KernelTree:
    """A tree of these releases."""
    for folder in filter(None, map(os.environ.get, ("KVM_MORE_TREES", "KVM_TREES"))):
        for path in sorted(Path(folder).iterdir()):
            with suppress(NotUnderstoodError):  # such as one of v4.5 or before
                if (path / KVM / "debug.c").is_file() and FIRST <= (tree := KernelTree(path)).version[:2] <= LAST:
                    return tree
    pytest.skip("neither KVM_MORE_TREES nor KVM_TREES names a folder with a tree of v4.10 to v4.15")


def read(tree: KernelTree, mode: Mode) -> TreeReport:
    source = reading.source(tree, mode)
    return compare(source.program, source.binding, source.signs, mode, Questions(60.0), source.gaps)


def said(report: TreeReport) -> list[str]:
    """What is not understood or not so, and which parts differ in what."""
    differing = (f"part {name}: {', '.join(names)}" for name, names in report.differing.items())
    return [*map(str, report.gaps), *differing]


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE])
def test_it_is_read(mode: Mode) -> None:
    """The flag is raised at the entry there, where later kernels raise it before: that is all that differs."""
    report = read(old_tree(), mode)
    assert {name: set(found) for name, found in report.differing.items()} == {
        "save host state": {"debug_dirty", "hw_bank", "host_debug_state"}
    }
    known = (*ASKED, UNMASKED) if mode is Mode.VHE else ASKED
    assert [
        g for g in map(str, report.gaps) if KVM in g and not any(k in g for k in known) and "(address)" not in g
    ] == []
    for part in report.parts.values():
        assert part.lifted.name == "__kvm_vcpu_run" and part.lifted.left_out


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_told(name: str, tmp_path: Path) -> None:
    file, old, new, says = EDITS[name]
    path = linked_copy(old_tree().path, tmp_path, file)
    text = path.read_text()
    if old not in text:
        pytest.skip(f"{file} of this tree is another one")
    path.write_text(text.replace(old, new, 1))
    assert any(says in line for line in said(read(KernelTree(tmp_path), Mode.NVHE))), name
