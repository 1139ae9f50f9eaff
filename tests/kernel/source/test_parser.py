"""Every file of KVM parses; what does not costs the function that it lies in, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.parse.resolve import Resolver
from formal.kernel.source.tree import KVM, KernelTree
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

STEMS = ("debug sys_regs handle_exit guest reset arm mmio inject_fault switch debug-sr sysreg-sr exception").split()
MORE = os.environ.get("KVM_MORE_TREES", "")


def _errors(tree: KernelTree) -> list[str]:
    found, resolver = [], Resolver(tree, ())
    for mode in ("vhe", "nvhe"):
        for file in tree.build.files(mode):
            if Path(file).stem in STEMS:
                try:
                    unit = resolver.unit(file, mode)
                except NotUnderstoodError as error:
                    found.append(str(error))
                else:
                    found += map(str, unit.broken.values())
    return found


def test_the_files_around_the_debug_code_parse() -> None:
    assert _errors(KernelTree(tree_path("6.12"))) == []


@pytest.mark.skipif(not MORE, reason="KVM_MORE_TREES names no folder of kernel trees")
@pytest.mark.parametrize("name", sorted(path.name for path in Path(MORE).glob("*") if MORE and (path / KVM).is_dir()))
def test_they_parse_in_other_trees(name: str) -> None:
    assert _errors(KernelTree(Path(MORE, name))) == []


def test_an_error_in_a_function_costs_that_function(tmp_path: Path) -> None:
    file = linked_copy(tree_path("6.1"), tmp_path, f"{KVM}/debug.c")
    text = file.read_text()
    start = "void kvm_arm_clear_debug(struct kvm_vcpu *vcpu)\n{\n"
    assert start in text
    file.write_text(text.replace(start, f"{start}\tundeclared = 1;\n"))
    resolver = Resolver(KernelTree(tmp_path), ())
    assert resolver.find("kvm_arm_setup_debug", "vhe")[1].spelling == "kvm_arm_setup_debug"
    with pytest.raises(NotUnderstoodError, match=r"debug.c:\d+: does not parse: .*undeclared"):
        resolver.find("kvm_arm_clear_debug", "vhe")
    file.write_text(f"{text}\nint at_top = undeclared;\n")
    resolver.forget(f"{KVM}/debug.c")
    with pytest.raises(NotUnderstoodError, match=r"debug.c:\d+: does not parse: .*undeclared"):
        resolver.find("kvm_arm_setup_debug", "vhe")
