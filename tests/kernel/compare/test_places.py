"""Files of KVM may be called otherwise, or lie elsewhere: they are found by the names that they define."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.source.tree import KVM, KernelTree
from formal.tree import reading
from formal.tree.verdicts import TreeReport, compare
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

ELSEWHERE: Mapping[str, str] = {"arm": "main", "mmio": "emulate-mmio", "reset": "vcpu-reset", "handle_exit": "exits"}


def moved(version: str, place: Path) -> KernelTree:
    """A copy of a tree whose files have other names."""
    base = KernelTree(tree_path(version))
    makefile = linked_copy(base.path, place, f"{KVM}/Makefile")
    files = {linked_copy(base.path, place, f"{KVM}/{here}.c"): there for here, there in ELSEWHERE.items()}
    text = makefile.read_text()
    for file, there in files.items():
        file.rename(file.with_name(f"{there}.c"))
        text, times = re.subn(rf"(?<=\s){file.stem}\.o\b", f"{there}.o", text)
        assert times == 1
    makefile.write_text(text)
    tree = KernelTree(place)
    tree.__dict__["autoconf"] = base.autoconf
    return tree


def read(tree: KernelTree, mode: Mode) -> TreeReport:
    found = reading.source(tree, mode)
    return compare(found.program, found.binding, found.signs, mode, Questions(60.0), found.gaps)


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE], ids=str)
def test_files_may_have_other_names(mode: Mode, tmp_path: Path) -> None:
    report = read(moved("6.1", tmp_path / "tree"), mode)
    assert not report.gaps and not report.misdescribed and all(c.equal for c in report.compared)
    assert any(c.place.startswith("exits.c:") for c in report.compared)


def test_what_is_wrong_in_a_file_of_another_name_is_told_there(tmp_path: Path) -> None:
    tree = moved("6.1", tmp_path / "tree")
    file = tree.path / KVM / "main.c"
    text = file.read_text()
    call = "\t\tkvm_arm_setup_debug(vcpu);\n"
    wrong = text.replace(call, f"\t\tif (vcpu->guest_debug)\n\t{call}")
    assert wrong != text
    file.write_text(wrong)
    tree = KernelTree(tree.path)
    report = read(tree, Mode.NVHE)
    told = [*report.problems, *report.omitted.values(), *map(str, report.gaps)]
    assert told and all(text.startswith(f"{KVM}/main.c:") and "condition" in text for text in told)
