"""Broken kernels: a change to the C of v6.1 makes a lifted function differ, or is refused with place and reason."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program, load
from formal.kernel.recognition.scan import check
from formal.kernel.recognition.writers import knows
from formal.kernel.source.tree import KVM, KernelTree
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy, mutant

ROOT = Path(__file__).parents[3]
DEBUG = f"{KVM}/debug.c"
CHANGES: dict[str, list[dict[str, str]]] = tomllib.loads(Path(__file__).with_name("mutations.toml").read_text())


def changes(kind: str) -> pytest.MarkDecorator:
    """One test per change of a kind."""
    return pytest.mark.parametrize("change", [pytest.param(c, id=c["name"]) for c in CHANGES[kind]])


def apply(base: KernelTree, copy: Path, change: dict[str, str]) -> Program:
    """The tree with a change."""
    return mutant(base, copy, change["file"], change["old"], change["new"])


@pytest.fixture(scope="module")
def base() -> KernelTree:
    return KernelTree(tree_path("6.1"))


@pytest.fixture(scope="module")
def unchanged(base: KernelTree) -> Program:
    return load(base)


@changes("different")
def test_a_broken_function_differs(
    change: dict[str, str], base: KernelTree, unchanged: Program, tmp_path: Path
) -> None:
    changed = apply(base, tmp_path, change).lift(change["function"], "vhe")
    assert changed.writes != unchanged.lift(change["function"], "vhe").writes


@changes("refused")
def test_what_is_not_understood_is_refused(change: dict[str, str], base: KernelTree, tmp_path: Path) -> None:
    program = apply(base, tmp_path, change)
    with pytest.raises(NotUnderstoodError, match=change["reason"]) as refused:
        program.lift("kvm_arm_setup_debug", "vhe")
    assert "\n" not in str(refused.value)
    assert str(base.path) not in str(refused.value)


def test_a_truncated_file_is_refused(base: KernelTree, tmp_path: Path) -> None:
    text = (base.path / DEBUG).read_text()
    program = mutant(base, tmp_path, DEBUG, text, text[: len(text) // 2])
    with pytest.raises(NotUnderstoodError, match=r"debug.c:\d+: does not parse"):
        program.lift("kvm_arm_init_debug", "vhe")


def test_a_missing_header_is_refused(base: KernelTree, tmp_path: Path) -> None:
    linked_copy(base.path, tmp_path, "arch/arm64/include/asm/debug-monitors.h").unlink()
    tree = KernelTree(tmp_path)
    tree.__dict__["autoconf"], tree.__dict__["_directory"] = base.autoconf, base._directory
    with pytest.raises(NotUnderstoodError, match=r"asm/debug-monitors.h' file not found"):
        load(tree).lift("kvm_arm_init_debug", "vhe")


@changes("elsewhere")
def test_a_store_elsewhere_is_refused(change: dict[str, str], base: KernelTree, tmp_path: Path) -> None:
    program = apply(base, tmp_path, change)
    with pytest.raises(NotUnderstoodError, match=r"may be (written|called) .*which the specification does not know"):
        check(program.tree, knows, (DEBUG,))


def test_code_that_is_rewritten_is_still_proved(base: KernelTree, tmp_path: Path) -> None:
    """No false alarm: helpers, locals, early returns, another order of what does not depend on each other."""
    for file in dict.fromkeys(change["file"] for change in CHANGES["equivalent"]):
        edited = linked_copy(base.path, tmp_path, file)
        text = edited.read_text()
        for change in (c for c in CHANGES["equivalent"] if c["file"] == file):
            assert change["old"] in text, f"{change['name']}: {file} does not contain {change['old']!r}"
            text = text.replace(change["old"], change["new"], 1)
        edited.write_text(text)
    command = [sys.executable, "-m", "formal.prove", "--kernel", str(tmp_path), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
