"""Functions, macros and labels that rules take by their names: another meaning is told, another spelling is not.

That the unchanged trees fit is asked wherever they are compared whole.
"""

from __future__ import annotations

import pytest

from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of, said

EMULATE, HOST = "arch/arm64/include/asm/kvm_emulate.h", "arch/arm64/include/asm/kvm_host.h"
ENTRY, SWITCH, MAIN = f"{KVM}/hyp/hyp-entry.S", f"{KVM}/hyp/include/hyp/switch.h", "virt/kvm/kvm_main.c"
REGS, EXIT, ARM, MMIO = (f"{KVM}/{name}.c" for name in ("sys_regs", "handle_exit", "arm", "mmio"))
_WFX = "static int kvm_handle_wfx(struct kvm_vcpu *vcpu)\n{\n"
WRONG: dict[str, tuple[str, Mode, str, dict[str, str], str]] = {
    "X30 reads as zero": (
        "6.1", Mode.VHE, EMULATE, {"return (reg_num == 31) ? 0 :": "return (reg_num >= 30) ? 0 :"}, "vcpu_get_reg()"),
    "what is written to X30 is lost": ("5.10", Mode.NVHE, EMULATE, {"if (reg_num != 31)": "if (reg_num < 30)"},
                                       "vcpu_set_reg()"),
    "no instruction of a debugged guest has a condition that holds": (
        "6.12", Mode.VHE, EMULATE, {"kvm_condition_valid32(vcpu);\n\n\treturn true;":
                                    "kvm_condition_valid32(vcpu);\n\n\treturn !vcpu->guest_debug;"},
        "kvm_condition_valid()"),
    "a register that is hidden counts as emulated": (
        "6.1", Mode.NVHE, REGS, {"\tkvm_inject_undefined(vcpu);\n\n\treturn false;": "\tkvm_inject_undefined(vcpu);"
                                 "\n\n\treturn true;"}, "undef_access() refuses"),
    "an injected exception is none": (
        "7.3", Mode.NVHE, f"{KVM}/inject_fault.c", {
            "static void inject_undef64(struct kvm_vcpu *vcpu)\n{\n":
            "static void inject_undef64(struct kvm_vcpu *vcpu)\n{\n\tif (vcpu->guest_debug)\n\t\treturn;\n"},
        "makes an exception pending"),
    "an exception of the instruction is none": (
        "6.1", Mode.VHE, MMIO, {"\t\tcase unpack_vcpu_flag(EXCEPT_AA64_EL1_SYNC):\n": ""},
        "kvm_pending_sync_exception()"),
    "a trap counts as an SError": (
        "7.3", Mode.VHE, ENTRY, {"#ARM_EXCEPTION_TRAP": "#ARM_EXCEPTION_EL1_SERROR"}, "el1_sync returns"),
    "an interrupt counts as a trap": (
        "5.10", Mode.NVHE, ENTRY, {"#ARM_EXCEPTION_IRQ": "#ARM_EXCEPTION_TRAP"}, "el1_irq returns"),
    "a fast interrupt counts as a trap": (
        "7.3", Mode.NVHE, ENTRY, {"#ARM_EXCEPTION_IRQ": "#ARM_EXCEPTION_TRAP"}, "el1_fiq returns"),
    "a trap counts as whatever is in the register": (
        "6.1", Mode.VHE, ENTRY, {"\tmov\tx0, #ARM_EXCEPTION_TRAP\n": ""}, "el1_sync returns"),
    "the syndrome is that of the trap before": (
        "6.1", Mode.VHE, SWITCH, {"(*exit_code) != ARM_EXCEPTION_IRQ)": "(*exit_code) == ARM_EXCEPTION_EL1_SERROR)"},
        "ESR_EL2 of a trap is kept"),
    "half of the syndrome": (
        "6.12", Mode.NVHE, SWITCH, {"vcpu->arch.fault.esr_el2 = read_sysreg_el2(SYS_ESR);":
                                    "vcpu->arch.fault.esr_el2 = (u16)read_sysreg_el2(SYS_ESR);"},
        "ESR_EL2 of a trap is kept"),
    "a vCPU that has run is not reset": (
        "6.1", Mode.VHE, ARM, {"\tret = kvm_reset_vcpu(vcpu);\n":
                               "\tret = vcpu_has_run_once(vcpu) ? 0 : kvm_reset_vcpu(vcpu);\n"}, "resets the vCPU"),
    "a reset that user space asks for is left out": (
        "7.3", Mode.NVHE, ARM, {"\tkvm_reset_vcpu(vcpu);\n\n\tset_bit(": "\tset_bit("}, "resets the vCPU"),
    "the host takes whether EL2 was called for its answer": (
        "6.1", Mode.NVHE, HOST, {"\t\tres.a1;\t\t\t\t\t\t\t\\\n": "\t\tres.a0;\t\t\t\t\t\t\t\\\n"},
        "kvm_call_hyp_nvhe() gives x1"),
    "a new vCPU is what lay there": (
        "7.2", Mode.NVHE, MAIN, {"kmem_cache_zalloc(kvm_vcpu_cache": "kmem_cache_alloc(kvm_vcpu_cache"},
        "a new vCPU is all zero"),
    "user space is told of a step that was none": (
        "6.1", Mode.VHE, EXIT, {_WFX: _WFX + "\tif (vcpu->guest_debug)\n\t\tvcpu->run->exit_reason = KVM_EXIT_DEBUG;"
                                             "\n\n"}, "does not tell user space of a debug exception"),
    "user space's write of a debug register is ignored": (
        "7.3", Mode.VHE, REGS, {"\tif (sysreg_user_write_ignore(vcpu, r))\n\t\treturn 0;\n":
                                "\tif (sysreg_user_write_ignore(vcpu, r) || r->Op0 == 2)\n\t\treturn 0;\n"},
        "kvm_sys_reg_set_user() gives the value"),
    "debug registers are hidden while user space debugs": (
        "6.1", Mode.NVHE, f"{KVM}/sys_regs.h", {
            "\treturn sysreg_visibility(vcpu, r) & REG_HIDDEN;":
            "\treturn vcpu->guest_debug || sysreg_visibility(vcpu, r) & REG_HIDDEN;"},
        "sysreg_hidden() asks the entry"),
    "a debugged guest's MRS leaves its register alone": (
        "6.1", Mode.NVHE, REGS, {"\tif (!params.is_write)\n\t\tvcpu_set_reg(vcpu, Rt,":
                                 "\tif (!params.is_write && !vcpu->guest_debug)\n\t\tvcpu_set_reg(vcpu, Rt,"},
        "gives an answer to reads"),
}  # fmt: skip
SAME: dict[str, tuple[str, Mode, str, dict[str, str]]] = {
    "branches of which one is taken, the other way round": (
        "6.12", Mode.VHE, EXIT, {
            "\tif (!kvm_condition_valid(vcpu)) {\n\t\tkvm_incr_pc(vcpu);\n\t\thandled = 1;\n\t} else {\n":
            "\tif (kvm_condition_valid(vcpu)) {\n",
            "\t\thandled = exit_handler(vcpu);\n\t}\n\n\treturn handled;\n":
            "\t\treturn exit_handler(vcpu);\n\t}\n\n\tkvm_incr_pc(vcpu);\n\treturn 1;\n"}),
    "a lock that is held for a block": (
        "6.12", Mode.NVHE, f"{KVM}/reset.c", {
            "\tspin_lock(&vcpu->arch.mp_state_lock);\n\treset_state = vcpu->arch.reset_state;\n"
            "\tvcpu->arch.reset_state.reset = false;\n\tspin_unlock(&vcpu->arch.mp_state_lock);\n":
            "\tscoped_guard(spinlock, &vcpu->arch.mp_state_lock) {\n\t\treset_state = vcpu->arch.reset_state;\n"
            "\t\tvcpu->arch.reset_state.reset = false;\n\t}\n"}),
    "a helper tells user space": (
        "6.1", Mode.NVHE, EXIT, {
            "\trun->exit_reason = KVM_EXIT_DEBUG;\n": "\ttells(run);\n", "static int kvm_handle_guest_debug(":
            "static void tells(struct kvm_run *run)\n{\n\trun->exit_reason = KVM_EXIT_DEBUG;\n}\n\n"
            "static int kvm_handle_guest_debug("}),
    "a new vCPU's memory is cleared by a flag": (
        "6.1", Mode.VHE, MAIN, {"kmem_cache_zalloc(kvm_vcpu_cache, GFP_KERNEL_ACCOUNT)":
                                "kmem_cache_alloc(kvm_vcpu_cache, GFP_KERNEL_ACCOUNT | __GFP_ZERO)"}),
    "the zero register is asked for first": (
        "7.3", Mode.NVHE, EMULATE, {
            "\treturn (reg_num == 31) ? 0 : vcpu_gp_regs(vcpu)->regs[reg_num];\n":
            "\tif (reg_num < 31)\n\t\treturn vcpu_gp_regs(vcpu)->regs[reg_num];\n\treturn 0;\n"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_means_something_else_is_told(name: str) -> None:
    version, mode, file, edits, told = WRONG[name]
    found = said(copy_of(version).whole(file, edits, mode))
    assert any(told in text for text in found), found


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_not(name: str) -> None:
    version, mode, file, edits = SAME[name]
    assert said(copy_of(version).whole(file, edits, mode)) == []
