"""A helper of a tree's own is read where it is called, and what it stores is compared where its callers are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of, said

ARM, RESET, GUEST = (f"{KVM}/{name}.c" for name in ("arm", "reset", "guest"))
_RUN, _SETUP = "int kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *vcpu)\n{\n", "\t\tkvm_arm_setup_debug(vcpu);\n"
_VCPU, _REGS = "int kvm_reset_vcpu(struct kvm_vcpu *vcpu)\n{\n", "\tkvm_reset_sys_regs(vcpu);\n"
_IOCTL, _STOPS = "int kvm_arch_vcpu_ioctl_set_guest_debug(", "\t\tvcpu->guest_debug = 0;\n"
_OTHER = "int kvm_arch_vcpu_ioctl_get_fpu("


def helper(name: str, does: str) -> str:
    return f"static void {name}(struct kvm_vcpu *vcpu)\n{{\n{does}}}\n\n"


# what is replaced by what, in this order
HARMLESS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "around the setup in the run loop": (ARM, {
        _SETUP: "\t\thelps(vcpu);\n", _RUN: helper("helps", "\tkvm_arm_setup_debug(vcpu);\n") + _RUN}),
    "in a helper of a helper": (ARM, {
        _SETUP: "\t\tmore(vcpu);\n",
        _RUN: helper("helps", "\tkvm_arm_setup_debug(vcpu);\n") + helper("more", "\thelps(vcpu);\n") + _RUN}),
    "around the reset of registers": (RESET, {
        _REGS: "\thelps(vcpu);\n", _VCPU: helper("helps", _REGS) + _VCPU}),
    "a store of an ioctl": (GUEST, {
        _STOPS: "\t\thelps(vcpu);\n", _IOCTL: helper("helps", "\tvcpu->guest_debug = 0;\n") + _IOCTL}),
}  # fmt: skip
WRONG: Mapping[str, tuple[str, Mapping[str, str], str]] = {
    "the setup under a condition": (ARM, {
        _SETUP: "\t\thelps(vcpu);\n",
        _RUN: helper("helps", "\tif (vcpu->guest_debug)\n\t\tkvm_arm_setup_debug(vcpu);\n") + _RUN},
        "under the condition of the specification"),
    "the setup twice": (ARM, {
        _SETUP: "\t\thelps(vcpu);\n",
        _RUN: helper("helps", "\tkvm_arm_setup_debug(vcpu);\n\tkvm_arm_setup_debug(vcpu);\n") + _RUN},
        "kvm_arch_vcpu_ioctl_run() calls"),
    "a store that no call shows": (ARM, {
        _SETUP: "\t\thelps(vcpu);\n",
        _RUN: helper("helps", "\tkvm_arm_setup_debug(vcpu);\n\tmemset(&vcpu->arch, 0, sizeof(vcpu->arch));\n") + _RUN},
        "arch may be written (store) in helps()"),
    "the PC moved": (ARM, {
        _SETUP: "\t\thelps(vcpu);\n",
        _RUN: helper("helps", "\tkvm_arm_setup_debug(vcpu);\n\t*vcpu_pc(vcpu) += 4;\n") + _RUN},
        "pc may be written (store) in helps()"),
    "a helper that others call": (GUEST, {
        _STOPS: "\t\thelps(vcpu);\n", _OTHER: helper("helps", "\tvcpu->guest_debug = 0;\n") + _OTHER,
        "struct kvm_fpu *fpu)\n{\n": "struct kvm_fpu *fpu)\n{\n\thelps(vcpu);\n"},
        "guest_debug may be written (store) in helps()"),
    "another store": (GUEST, {
        _STOPS: "\t\thelps(vcpu);\n", _IOCTL: helper("helps", "\tvcpu->guest_debug &= ~2;\n") + _IOCTL},
        "kvm_arch_vcpu_ioctl_set_guest_debug differs in guest_debug"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_a_helper_changes_nothing(name: str) -> None:
    file, edits = HARMLESS[name]
    assert said(copy_of("6.1").whole(file, dict(edits), Mode.NVHE)) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_helper_hides_nothing(name: str) -> None:
    file, edits, told = WRONG[name]
    found = said(copy_of("6.1").whole(file, dict(edits), Mode.NVHE))
    assert any(told in text for text in found), found
