"""What is passed on around a run: a request, an answer, a syndrome or a reason that is lost is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from formal.engines.equality import Questions
from formal.epochs import Kernel
from formal.kernel.around.passed import Passed
from formal.kernel.errors import Gaps
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of

ARM, PSCI, EXIT, HYP = (f"{KVM}/{name}.c" for name in ("arm", "psci", "handle_exit", "hyp/nvhe/hyp-main"))
HOST = "include/linux/kvm_host.h"
_RESETS = "if (kvm_check_request(KVM_REQ_VCPU_RESET, vcpu))\n\t\t\tkvm_reset_vcpu(vcpu);"
_EARLY = "\t\thandle_exit_early(vcpu, ret);"
# name: trees, whether under VHE, file, what is replaced by what, what is said (nothing of what is harmless)
EDITS: dict[str, tuple[str, bool, str, dict[str, str], str]] = {
    "a reset that is not done": ("6.1 7.3", True, ARM, {_RESETS: "kvm_check_request(KVM_REQ_VCPU_RESET, vcpu);"},
                                 "resets the vCPU that was asked to"),
    "another request": ("6.1", True, ARM, {_RESETS: _RESETS.replace("VCPU_RESET", "SUSPEND")}, "CPU_ON requests"),
    "a request that stays": ("6.1", True, ARM, {_RESETS: _RESETS.replace("check", "test")}, "CPU_ON requests"),
    "a request that an early return forgets": ("6.1", True, ARM, {f"\t\t{_RESETS}": f"\t\tif (vcpu->arch.pause)\n\t\t\treturn 1;\n\t\t{_RESETS}"},
                                               "CPU_ON requests"),
    "requests are not looked at": ("6.1", True, ARM, {"ret = check_vcpu_requests(vcpu);": "ret = 1;"}, "before it enters the guest"),
    "CPU_ON requests nothing": ("6.1 7.3", True, PSCI, {"\tkvm_make_request(KVM_REQ_VCPU_RESET, vcpu);\n": ""}, "asks the vCPU"),
    "CPU_ON asks itself": ("6.1", True, PSCI, {"KVM_REQ_VCPU_RESET, vcpu": "KVM_REQ_VCPU_RESET, source_vcpu"}, "asks the vCPU"),
    "CPU_ON asks for something else": ("6.1", True, PSCI, {"KVM_REQ_VCPU_RESET": "KVM_REQ_SUSPEND"}, "resets the vCPU that was"),
    "interrupts only": ("6.1 7.3", True, ARM, {_EARLY: f"{_EARLY}\n\t\tret = 0;"}, "what the run returned"),
    "another register of the host's": ("6.1", False, HYP, {"cpu_reg(host_ctxt, 1) =  __kvm_vcpu_run(": "cpu_reg(host_ctxt, 2) =  __kvm_vcpu_run("},
                                       "what the run returned"),
    "an answer that is lost": ("7.3", False, HYP, {"\t\tsync_hyp_vcpu(hyp_vcpu);\n\t} else": "\t\tsync_hyp_vcpu(hyp_vcpu);\n\t\tret = 0;\n\t} else"},
                               "what the run returned"),
    "no syndrome": ("6.1", True, ARM, {_EARLY: f"{_EARLY}\n\t\tvcpu->arch.fault.esr_el2 = 0;"}, "as EL2 found it"),
    "no address": ("6.1", True, EXIT, {"\tint handled;\n": "\tint handled;\n\tmemset(&vcpu->arch.fault, 0, 8);\n"}, "as EL2 found it"),
    "another reason": ("6.1 7.3", True, ARM, {"ret = handle_exit(vcpu, ret);": "ret = handle_exit(vcpu, ret);\n\t\tif (!ret)\n\t\t\trun->exit_reason = KVM_EXIT_INTR;"},
                       "keeps the handler's reason"),
    "another reason, earlier": ("6.1", True, EXIT, {"\treturn handled;": "\tvcpu->run->exit_reason = KVM_EXIT_INTR;\n\treturn handled;"},
                                "keeps the handler's reason"),
    "a bit that is not set": ("6.1", True, HOST, {"set_bit(req & KVM_REQUEST_MASK, (void *)&vcpu->requests);": ""}, "the request's bit"),
    "a bit that stays": ("6.1", True, HOST, {"\t\tkvm_clear_request(req, vcpu);\n": ""}, "clears it"),
    # harmless
    "another name for the request": ("6.1", True, HOST, {
        "kvm_test_request(int req, struct kvm_vcpu *vcpu)\n{\n\treturn test_bit(req &":
        "kvm_test_request(int request, struct kvm_vcpu *vcpu)\n{\n\treturn test_bit(request &"}, ""),
    "asked for in a local": ("6.1", True, ARM, {_RESETS: "bool reset = kvm_check_request(KVM_REQ_VCPU_RESET, vcpu);\n\n"
                                                         "\t\tif (reset)\n\t\t\tkvm_reset_vcpu(vcpu);"}, ""),
    "the answer in a local": ("6.1", True, ARM, {"ret = handle_exit(vcpu, ret);": "int code = ret;\n\n\t\tret = handle_exit(vcpu, code);"}, ""),
    "the answer in a local at EL2": ("6.1", False, HYP, {"cpu_reg(host_ctxt, 1) =  __kvm_vcpu_run(kern_hyp_va(vcpu));":
                                                         "int ret = __kvm_vcpu_run(kern_hyp_va(vcpu));\n\tcpu_reg(host_ctxt, 1) = ret;"}, ""),
    "a reason before": ("6.1", True, ARM, {"ret = handle_exit(vcpu, ret);": "run->exit_reason = 0;\n\t\tret = handle_exit(vcpu, ret);"}, ""),
}  # fmt: skip
# ruff: noqa: E501


def broken(version: str, vhe: bool) -> list[str]:
    """The rules that do not hold of a tree, and what is not understood."""
    gaps, ask = Gaps(noted=True), Questions(60.0)
    found: list[str] = []
    for of, make in Passed(copy_of(version).program, cast(Kernel, SimpleNamespace(vhe=vhe)), {}).groups():
        with gaps.at(*of):
            rules = list(make())
            assert rules or "syndrome" in make.__name__
            found += [rule.says for rule in rules if ask.differing([(rule.says, rule.holds)])]
    return [*found, *map(str, gaps.found)]


@pytest.mark.parametrize("version", ["5.10", "6.1", "7.3"])
def test_trees(version: str) -> None:
    """The trees pass it all on."""
    assert [what for vhe in (True, False) for what in broken(version, vhe)] == []


@pytest.mark.parametrize(("version", "edit"), [(v, e) for e, (vs, *_) in EDITS.items() for v in vs.split()])
def test_edits(version: str, edit: str) -> None:
    """What is lost is told, another way to pass it on is not."""
    _, vhe, file, edits, said = EDITS[edit]
    with copy_of(version).edited(file, edits):
        found = broken(version, vhe)
    assert any(said in what for what in found) if said else not found, found
