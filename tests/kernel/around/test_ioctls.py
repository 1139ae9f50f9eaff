"""The ways in, and what is made of a guest hypervisor's controls: wrong edits are told, other spellings are not.

That the unchanged trees fit is asked wherever they are compared whole.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from formal.engines.equality import Questions
from formal.epochs import Kernel
from formal.kernel.around import el2, ioctls, triage
from formal.kernel.errors import Gaps
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of

MAIN, ARM, GUEST, REGS = "virt/kvm/kvm_main.c", *(f"{KVM}/{name}.c" for name in ("arm", "guest", "sys_regs"))
NESTED, EXCEPTION, SWITCH = (f"{KVM}/{name}.c" for name in ("emulate-nested", "hyp/exception", "hyp/vhe/switch"))
EMULATE = "arch/arm64/include/asm/kvm_emulate.h"
_GROUP = "cgids[i] != __RESERVED__; i++)\n\t\t\tb |="
# ruff: noqa: E501
# name: trees, rules, file, what is replaced by what, what is said (nothing of what is harmless)
EDITS: dict[str, tuple[str, ModuleType, str, dict[str, str], str]] = {
    "a set that gets": ("5.10 6.1 7.3", ioctls, ARM, {"if (ioctl == KVM_SET_ONE_REG)": "if (ioctl == KVM_GET_ONE_REG)"},
                        "for KVM_SET_ONE_REG"),
    "a get that sets": ("6.1 7.3", ioctls, GUEST, {"return get_core_reg(vcpu, reg);": "return set_core_reg(vcpu, reg);"},
                        "does not call set_core_reg()"),
    "debugging goes unheard": ("6.1", ioctls, MAIN, {"r = kvm_arch_vcpu_ioctl_set_guest_debug(vcpu, &dbg);":
                                                     "r = dbg.control & 2 ? 0 : kvm_arch_vcpu_ioctl_set_guest_debug(vcpu, &dbg);"},
                               "for KVM_SET_GUEST_DEBUG"),
    "the first run is not prepared": ("6.1", ioctls, MAIN, {"if (unlikely(oldpid != task_pid(current)))":
                                                            "if (unlikely(oldpid && oldpid != task_pid(current)))"},
                                      "before the first run"),
    "CPU 0 speaks for all": ("5.10 6.1", ioctls, ARM, {"if (!__this_cpu_read(kvm_arm_hardware_enabled))":
                                                       "if (!per_cpu(kvm_arm_hardware_enabled, 0))"}, "in use on the CPU"),
    "one VM does not count": ("5.10 6.1", ioctls, MAIN, {"\tif (kvm_usage_count)\n": "\tif (kvm_usage_count > 1)\n"},
                              "in use on the CPU"),
    "not after a power-down": ("6.1", ioctls, ARM, {"if (__this_cpu_read(kvm_arm_hardware_enabled))\n\t\t\t/* The":
                                                    "if (!__this_cpu_read(kvm_arm_hardware_enabled))\n\t\t\t/* The"},
                               "in use on the CPU"),
    "never after a power-down": ("6.1", ioctls, ARM, {"if (__this_cpu_read(kvm_arm_hardware_enabled))\n\t\t\t/* The": "if (0)\n\t\t\t/* The"},
                                 "powered up"),
    "nothing after a power-down": ("5.10 6.1 7.3", ioctls, ARM, {"\t\t\tcpu_hyp_reinit();\n\n\t\treturn NOTIFY_OK": "\t\t\tcpu_hyp_reset();\n\n\t\treturn NOTIFY_OK"},
                                   "powered up"),
    "nothing when a CPU comes up": ("5.10 6.1", ioctls, MAIN, {"\tif (kvm_usage_count)\n\t\thardware_enable_nolock(NULL);\n\traw": "\traw"},
                                    "a CPU that comes up"),
    "on one CPU only": ("5.10 6.1", ioctls, MAIN, {"on_each_cpu(hardware_enable_nolock, NULL, 1);": "hardware_enable_nolock(NULL);"},
                        "used first"),
    "with the second VM": ("6.1", ioctls, MAIN, {"if (kvm_usage_count == 1) {": "if (kvm_usage_count == 2) {"}, "used first"),
    "a VM without": ("6.1", ioctls, MAIN, {"r = hardware_enable_all();": "r = 0;"}, "kvm_create_vm() has all CPUs"),
    "a VM without, later": ("7.3", ioctls, MAIN, {"r = kvm_enable_virtualization();": "r = 0;"}, "kvm_create_vm() has all CPUs"),
    "success without a word": ("7.3", ioctls, MAIN, {"return kvm_enable_virtualization_cpu();\n}\n\nstatic void kvm_dis": "return 0;\n}\n\nstatic void kvm_dis"},
                               "a CPU that comes up"),
    "no control of a group": ("7.3", triage, NESTED, {f"for (int i = 0; {_GROUP} __compute_trap_behaviour(vcpu, cgids[i], b);": "(void)cgids;"},
                              "asks each control"),
    "half of a register": ("6.1", ioctls, REGS, {"ret = (r->set_user)(vcpu, r, val);": "ret = (r->set_user)(vcpu, r, (u32)val);"},
                           "takes the whole register"),
    "a quarter of a core register": ("6.1 7.3", ioctls, GUEST, {"copy_from_user(valp, uaddr, KVM_REG_SIZE(reg->id))":
                                                                "copy_from_user(valp, uaddr, KVM_REG_SIZE(reg->id) / 4)"},
                                     "takes the whole register"),
    "the debugger's breakpoints": ("6.1", ioctls, REGS, {"*val = vcpu->arch.vcpu_debug_state.dbg_bvr[rd->CRm];":
                                                         "*val = vcpu->arch.external_debug_state.dbg_bvr[rd->CRm];"},
                                   "the guest's own registers"),
    "a step is not saved": ("6.1 7.3", ioctls, EXCEPTION, {
        "old = *vcpu_cpsr(vcpu);\n\tnew = 0;": "old = *vcpu_cpsr(vcpu) & ~DBG_SPSR_SS;\n\tnew = 0;"}, "saves the guest's PSTATE"),
    "the bits are not those of the control": ("7.3", triage, NESTED, {
        "if ((val & tb->mask) == tb->value)": "if ((val & tb->mask) == tb->value && tb->index != MDCR_EL2)"},
        "the bits that the control names"),
    "any bit will do": ("7.3", triage, NESTED, {"if ((val & tb->mask) == tb->value)": "if ((val & tb->mask))"},
                        "the bits that the control names"),
    "the first of a group is left out": ("7.3", triage, NESTED, {
        f"for (int i = 0; {_GROUP}": f"for (int i = 1; {_GROUP}"}, "asks each control"),
    "every other of a group": ("7.3", triage, NESTED, {
        f"for (int i = 0; {_GROUP}": f"for (int i = 0; {_GROUP.replace('i++', 'i += 2')}"}, "asks each control"),
    "reads are taken for writes": ("7.3", triage, NESTED, {
        "((b & BEHAVE_FORWARD_READ) && is_read) ||": "((b & BEHAVE_FORWARD_READ) && !is_read) ||"},
        "forwards what the control says"),
    "no read is asked about": ("7.3", triage, NESTED, {
        "if (is_hyp_ctxt(vcpu) && !vcpu_is_host_el0(vcpu))": "if (is_hyp_ctxt(vcpu) || is_read)"}, "asks for a control"),
    "no guest of a guest hypervisor is asked about": ("7.3", triage, NESTED, {
        "if (is_hyp_ctxt(vcpu) && !vcpu_is_host_el0(vcpu))": "if (!vcpu_is_host_el0(vcpu))"}, "asks for a control"),
    "the next entry of the table": ("7.3", triage, NESTED, {"*sr_index = tc.sri - 1;": "*sr_index = tc.sri;"}, "less one"),
    "EL2 is EL0": ("7.3", triage, EMULATE, {"return is_hyp_ctxt(vcpu) && !vcpu_is_el2(vcpu);":
                                            "return is_hyp_ctxt(vcpu) && vcpu_is_el2(vcpu);"}, "own EL0"),
    "a return clears the step": ("7.3", triage, SWITCH, {
        "spsr = (spsr & ~(PSR_MODE_MASK | PSR_MODE32_BIT)) | mode;":
        "spsr = (spsr & ~(PSR_MODE_MASK | PSR_MODE32_BIT | DBG_SPSR_SS)) | mode;"}, "returns to what"),
    "a return to its guest is short": ("7.3", triage, SWITCH, {
        "if (!(vcpu_el2_e2h_is_set(vcpu) && vcpu_el2_tge_is_set(vcpu)))\n\t\t\treturn false;":
        "if (!vcpu_el2_e2h_is_set(vcpu))\n\t\t\treturn false;"}, "returns to what"),
    "half of an address": ("6.1", el2, f"{KVM}/hyp/include/hyp/fault.h", {
        "fault->far_el2 = far;": "fault->far_el2 = far & ~0xfULL;"}, "the whole address"),
    "a watchpoint is tried again": ("7.3", el2, f"{KVM}/hyp/include/hyp/switch.h", {
        "#define kvm_hyp_handle_watchpt_low\tkvm_hyp_handle_memory_fault":
        "static inline bool kvm_hyp_handle_watchpt_low(struct kvm_vcpu *vcpu, u64 *exit_code)\n{\n"
        "\treturn __populate_fault_info(vcpu);\n}"}, "leaves watchpoints to KVM"),
    # harmless
    "a name for another function": ("7.3", el2, f"{KVM}/hyp/include/hyp/switch.h", {
        "#define kvm_hyp_handle_watchpt_low\tkvm_hyp_handle_memory_fault":
        "static bool kvm_hyp_handle_watchpt_low(struct kvm_vcpu *vcpu, u64 *exit_code)\n"
        "\t__alias(kvm_hyp_handle_memory_fault);"}, ""),
    "a switch for an if": ("6.1", ioctls, ARM, {"if (ioctl == KVM_SET_ONE_REG)": "if (!(ioctl != KVM_SET_ONE_REG))"}, ""),
    "in use, said otherwise": ("6.1", ioctls, MAIN, {"\tif (kvm_usage_count)\n": "\tif (kvm_usage_count != 0)\n"}, ""),
    "initialised, kept in a local": ("6.1", ioctls, ARM, {
        "if (!__this_cpu_read(kvm_arm_hardware_enabled)) {":
        "bool done = __this_cpu_read(kvm_arm_hardware_enabled);\n\n\tif (!done) {"}, ""),
    "asked before": ("7.3", triage, NESTED, {
        "\tis_read = (esr &": "\tbool user = vcpu_is_host_el0(vcpu);\n\n\tis_read = (esr &",
        "if (!(b & BEHAVE_FORWARD_IN_HOST_EL0) && vcpu_is_host_el0(vcpu))":
        "if (!(b & BEHAVE_FORWARD_IN_HOST_EL0) && user)"}, ""),
    "parameters of other names": ("6.1", ioctls, ARM, {
        "kvm_arch_vcpu_ioctl(struct file *filp,\n\t\t\t unsigned int ioctl,": "kvm_arch_vcpu_ioctl(struct file *filp,\n\t\t\t unsigned int request,",
        "switch (ioctl) {\n\tcase KVM_ARM_VCPU_INIT": "switch (request) {\n\tcase KVM_ARM_VCPU_INIT",
        "if (ioctl == KVM_SET_ONE_REG)": "if (request == KVM_SET_ONE_REG)"}, ""),
    "a control by another name": ("7.3", triage, NESTED, {
        "const struct trap_bits *tb)": "const struct trap_bits *control)", "vcpu, tb->index": "vcpu, control->index",
        "if ((val & tb->mask) == tb->value)\n\t\tb |= tb->behaviour;":
        "if ((val & control->mask) == control->value)\n\t\tb |= control->behaviour;"}, ""),
    "a read, said otherwise": ("7.3", triage, NESTED, {
        "if (((b & BEHAVE_FORWARD_READ) && is_read) ||\n\t    ((b & BEHAVE_FORWARD_WRITE) && !is_read))":
        "if (b & (is_read ? BEHAVE_FORWARD_READ : BEHAVE_FORWARD_WRITE))"}, ""),
    "the answer at once": ("7.3", triage, NESTED, {
        "\tif ((val & tb->mask) == tb->value)\n\t\tb |= tb->behaviour;\n":
        "\tif (!((val ^ tb->value) & tb->mask) && !(tb->value & ~tb->mask))\n\t\tb |= tb->behaviour;\n"}, ""),
    "the mode, said otherwise": ("7.3", triage, SWITCH, {
        "spsr = (spsr & ~(PSR_MODE_MASK | PSR_MODE32_BIT)) | mode;":
        "spsr &= ~(PSR_MODE_MASK | PSR_MODE32_BIT);\n\tspsr |= mode;"}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("version", "edit"), [(v, e) for e, (vs, *_) in EDITS.items() for v in vs.split()])
def test_edits(version: str, edit: str) -> None:
    """Each wrong edit is told by its rule, each harmless one is none."""
    _, module, file, edits, said = EDITS[edit]
    with copy_of(version).edited(file, edits):
        found = [what for vhe in (True, False) for what in broken(version, module, vhe)]
    assert any(said in what for what in found) if said else not found, found


def broken(version: str, module: ModuleType, vhe: bool) -> list[str]:
    """The rules that do not hold of a tree, and what is not understood."""
    k = cast(
        Kernel, SimpleNamespace(vhe=vhe, nests=vhe and version == "7.3", first_run_init=version in ("6.1", "6.12"))
    )
    gaps, ask = Gaps(noted=True), Questions(60.0)
    rules = list(module.rules(copy_of(version).program, k, gaps))
    assert rules or gaps.found or module is triage
    return [*(rule.says for rule in rules if ask.differing([(rule.says, rule.holds)])), *map(str, gaps.found)]


@pytest.mark.parametrize("version", ["5.10", "6.1", "7.3"])
def test_trees(version: str) -> None:
    """The trees do as it is said."""
    assert [what for m in (el2, ioctls, triage) for vhe in (True, False) for what in broken(version, m, vhe)] == []
