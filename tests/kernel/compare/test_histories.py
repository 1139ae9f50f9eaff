"""Edits of the C after which the kernel's own variables no longer say what was done: a claim about that is VIOLATED."""

from __future__ import annotations

import pytest

from formal.engines.verdict import Verdict
from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from tests.kernel.edited import Copy, copy_of

DEBUG_C, GUEST, SYS_REGS, ARM_C, BANKS = (
    f"{KVM}/{name}" for name in ("debug.c", "guest.c", "sys_regs.c", "arm.c", "hyp/include/hyp/debug-sr.h")
)
# what is wrong: the file, what is replaced by what, and the claim that this breaks
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "debugging that has ended goes on": (
        GUEST, {"\t\tvcpu->guest_debug = 0;\n": "\t\tvcpu->guest_debug &= ~KVM_GUESTDBG_SINGLESTEP;\n"},
        "guest_keeps_its_debug_exceptions"),
    "DIRTY stays when the guest exits": (
        BANKS, {"\tvcpu_clear_flag(vcpu, DEBUG_DIRTY);\n": ""}, "debug_registers_trapped_unless_in_use"),
    "a trapped write does not raise DIRTY": (
        SYS_REGS, {"\t\tvcpu_set_flag(vcpu, DEBUG_DIRTY);\n": ""}, "debug_registers_free_when_in_use"),
    "nothing is saved": (DEBUG_C, {"\t\tsave_guest_debug_regs(vcpu);\n": ""}, "saved_before_modified"),
    "a skip is left pending for user space": (
        ARM_C, {"\t\tkvm_call_hyp(__kvm_adjust_pc, vcpu);\n": "\t\t;\n"},
        "guest_pstate_ss_preserved_if_one_steps_unlocked"),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("6.1")


@pytest.mark.parametrize("name", BROKEN)
def test_the_claim_is_violated(copy: Copy, name: str) -> None:
    file, edits, claim = BROKEN[name]
    report = copy.report(file, edits, Mode.NVHE, (claim,))
    assert not report.misdescribed
    (row,) = (row for row in report.rows if row.check == claim)
    assert row.verdict == Verdict.VIOLATED.value
    assert row.trace is not None and row.broken_at is not None
