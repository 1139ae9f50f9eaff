"""Bugs that a tree is told to have by a rule: each is brought back into the C of v6.12."""

from __future__ import annotations

import pytest

from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from formal.scope.bugs import BUGS, OUT_OF_SCOPE, TOLD
from tests.kernel.edited import Copy, copy_of, said

_ASM = "arch/arm64/include/asm"
BACK: dict[str, tuple[str, dict[str, str]]] = {
    "T1": (
        f"{_ASM}/kvm_emulate.h",
        {"return (reg_num == 31) ? 0 : vcpu_gp_regs(vcpu)->regs": "return vcpu_gp_regs(vcpu)->regs"},
    ),
    "T2": (f"{KVM}/hyp/vhe/switch.c", {"\tlocal_daif_mask();\n": ""}),
    "T3": (f"{KVM}/arm.c", {"\t\tkvm_call_hyp(__kvm_adjust_pc, vcpu);\n": "\t\t;\n"}),
    "T4": (f"{KVM}/handle_exit.c", {"\trun->debug.arch.hsr_high = upper_32_bits(esr);\n": ""}),
}


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("6.12")


@pytest.mark.parametrize("name", TOLD)
def test_the_bug_is_told_by_its_rule(copy: Copy, name: str) -> None:
    report = copy.report(*BACK[name], Mode.VHE)
    found = [*said(report), *report.lacking]
    assert any(TOLD[name].rule in text for text in found), found


def test_without_a_bug_nothing_is_told(copy: Copy) -> None:
    report = copy.read(Mode.VHE)
    assert not [*said(report), *report.lacking]


def test_each_known_bug_has_one_name() -> None:
    names = [*BUGS, *TOLD, *(name for name, _, _ in OUT_OF_SCOPE)]
    assert len(names) == len(set(names))
