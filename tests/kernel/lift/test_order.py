"""What is lifted is the same whatever was lifted before: the other mode, the tree with an edit and without it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Mode, Program
from formal.kernel.source.tree import KernelTree
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import mutant

CPUCAPS = "arch/arm64/include/asm/cpucaps.h"
NEVER = ("\tswitch (cap) {\n", "\treturn false;\n\tswitch (cap) {\n")  # of a function that takes a constant
FUNCTIONS = ("kvm_arm_setup_mdcr_el2", "kvm_vcpu_put_debug")
MODES: tuple[Mode, ...] = ("vhe", "nvhe")
Answers = dict[tuple[Mode, ...], dict[tuple[str, str], object]]


def lifted(program: Program, function: str, mode: Mode) -> object:
    """What a function writes, or why it was refused."""
    try:
        return dict(program.lift(function, mode).writes)
    except NotUnderstoodError as error:
        return str(error)


def answers(program: Program, modes: Sequence[Mode]) -> dict[tuple[str, str], object]:
    """The functions in some modes, in this order."""
    return {(name, mode): lifted(program, name, mode) for mode in modes for name in FUNCTIONS}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A tree without CPU capabilities: modes together, in reverse, alone; and after the tree as it is."""
    base = KernelTree(tree_path("7.3"))
    found: Answers = {}
    for number, modes in enumerate((MODES, MODES[::-1], MODES[:1], MODES[1:])):
        place = tmp_path_factory.mktemp("order") / str(number)
        program = mutant(base, place, CPUCAPS, *NEVER)
        found[modes] = answers(program, modes)
        if modes == MODES:
            text = (place / CPUCAPS).read_text()
            (place / CPUCAPS).write_text((base.path / CPUCAPS).read_text())
            program.forget(CPUCAPS)
            found[()] = answers(program, MODES)
            (place / CPUCAPS).write_text(text)
            program.forget(CPUCAPS)
            assert answers(program, MODES) == found[modes]
    return found


def test_modes_together_in_reverse_and_alone_are_the_same(edited: Answers) -> None:
    together = edited[MODES]
    assert edited[MODES[::-1]] == together
    assert edited[MODES[:1]] | edited[MODES[1:]] == together


def test_the_edit_is_told_and_forgotten(edited: Answers) -> None:
    """A capability that KVM relies on traps instead of answering; without the edit, all is lifted."""
    assert all(isinstance(edited[MODES]["kvm_arm_setup_mdcr_el2", mode], str) for mode in MODES)
    assert all(isinstance(answer, dict) and answer for answer in edited[()].values())
