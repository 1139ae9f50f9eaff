"""A tree with nested virtualization (v7.3): its C for guests that are hypervisors, told from edits of it."""

from __future__ import annotations

import re

import pytest

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.source.tree import KVM, KernelTree
from formal.logic.evaluation import support
from formal.tree import reading
from formal.tree.verdicts import DEBUG_C, compare
from tests.kernel.compare.test_newest import ARM, EXIT, REGS
from tests.kernel.conftest import tree_path
from tests.kernel.edited import Copy, copy_of

NESTED, EMULATE, CONFIG = (f"{KVM}/{name}.c" for name in ("nested", "emulate-nested", "config"))
VHE_SWITCH, COUNTERS, QUESTIONS = f"{KVM}/hyp/vhe/switch.c", f"{KVM}/pmu-emul.c", "arch/arm64/include/asm/kvm_emulate.h"
_ADDS = "\tif (is_nested_ctxt(vcpu))\n\t\tvcpu->arch.mdcr_el2 |= (guest_mdcr & NV_MDCR_GUEST_INCLUDE);\n"
_FORCES = "\telse if (!cpus_have_final_cap(ARM64_HAS_FGT))\n\t\tvcpu->arch.mdcr_el2 |= MDCR_EL2_TDA;\n"
_CALLS = "\tif (vcpu_has_nv(vcpu))\n\t\tkvm_nested_setup_mdcr_el2(vcpu);\n"
_WRITES = "\tif (has_vhe())\n\t\twrite_sysreg(vcpu->arch.mdcr_el2, mdcr_el2);\n"
_CLAMPS = """		hpmn = vcpu->kvm->arch.nr_pmu_counters;
		u64p_replace_bits(&val, hpmn, MDCR_EL2_HPMN);
"""
_COMMITS = "\t__kvm_adjust_pc(vcpu);\n\n\tkvm_arch_vcpu_put(vcpu);\n"
_FIXES = "\tif (vcpu_has_nv(vcpu))\n\t\tfixup_nv_guest_exit(vcpu);\n"
_MASKS = "\t\t*vcpu_cpsr(vcpu) &= ~(PSR_MODE_MASK | PSR_MODE32_BIT);\n"
_MASKED = "\t\t.mask\t\t= MDCR_EL2_TDA,\n"
_RETURNS = "\t*vcpu_cpsr(vcpu) = spsr;\n"
# name: file, what is replaced by what, the claim that is lost
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "the hypervisor's traps left out": (
        NESTED, {_ADDS: "\tif (is_nested_ctxt(vcpu))\n\t\tguest_mdcr = 0;\n"}, "hypervisor_traps_are_set"),
    "nobody asks for them": (DEBUG_C, {_CALLS: ""}, "hypervisor_traps_are_set"),
    "one bit left out": (NESTED, {"\t\t\t\t MDCR_EL2_TDCC\t|\t\\\n": ""}, "hypervisor_traps_are_set"),
    "its OS registers left out": (
        NESTED, {"\t\t\t\t MDCR_EL2_TDCC\t|\t\\\n\t\t\t\t MDCR_EL2_TDOSA)": "\t\t\t\t MDCR_EL2_TDCC)",
                 "MDCR_EL2_TDE\t|": "MDCR_EL2_TDA\t|"}, "hypervisor_traps_are_set"),
    "its own code traps for it": (NESTED, {"\tif (is_nested_ctxt(vcpu))\n\t\tvcpu->arch.mdcr_el2 |=":
                                           "\tif (is_hyp_ctxt(vcpu))\n\t\tvcpu->arch.mdcr_el2 |="},
                                  "hypervisor_traps_are_set"),
    "its traps in place of KVM's": (
        NESTED, {"mdcr_el2 |= (guest_mdcr": "mdcr_el2 = (guest_mdcr"}, "hypervisor_clears_no_trap"),
    "TDA not forced": (NESTED, {_FORCES: ""}, "redirected_mdscr_write_traps"),
    "TDA forced with fine-grained traps only": (
        NESTED, {"(!cpus_have_final_cap(ARM64_HAS_FGT))": "(cpus_have_final_cap(ARM64_HAS_FGT))"},
        "redirected_mdscr_write_traps"),
    "TDA forced unless the guest owns": (
        NESTED, {"(!cpus_have_final_cap(ARM64_HAS_FGT))":
                 "(!cpus_have_final_cap(ARM64_HAS_FGT) && !kvm_guest_owns_debug_regs(vcpu))"},
        "redirected_mdscr_write_traps"),
    "written before the hypervisor is asked": (
        DEBUG_C, {f"{_CALLS}\n\t/* Write MDCR_EL2 directly if we're already at EL2 */\n{_WRITES}":
                  f"{_WRITES}{_CALLS}"},
        "hypervisor_traps_are_set"),
    "debug exceptions forwarded by TDA": (
        EMULATE, {"forward_mdcr_traps(vcpu, MDCR_EL2_TDE)": "forward_mdcr_traps(vcpu, MDCR_EL2_TDA)"},
        "debug_exceptions_go_to_who_debugs"),
    "debug exceptions never forwarded": (
        EXIT, {"if (!vcpu->guest_debug && forward_debug_exception(vcpu))": "if (0)"},
        "debug_exceptions_go_to_who_debugs"),
    "a debugger passed by": (
        EXIT, {"if (!vcpu->guest_debug && forward_debug_exception(vcpu))": "if (forward_debug_exception(vcpu))"},
        "debug_exceptions_go_to_who_debugs"),
    "a write of MDCR_EL2 lost": (
        REGS, {"\t__vcpu_assign_sys_reg(vcpu, MDCR_EL2, val);\n": ""}, "virtual_mdcr_preserved"),
    "a breakpoint that is not forwarded": (
        EMULATE, {"\tSR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDE_TDA),\n": ""}, "hypervisor_gets_what_it_traps"),
}  # fmt: skip
# name: file, what is replaced by what, the function that differs or the rule that is broken
DIFFERENT: dict[str, tuple[str, dict[str, str], str]] = {
    "everything that it asks for": (
        NESTED, {"(guest_mdcr & NV_MDCR_GUEST_INCLUDE)": "guest_mdcr"}, "kvm_arm_setup_mdcr_el2"),
    "too many counters kept": (REGS, {_CLAMPS: ""}, "access_mdcr"),
    "no counters after a reset": (
        REGS, {"__vcpu_assign_sys_reg(vcpu, r->reg, vcpu->kvm->arch.nr_pmu_counters);":
               "__vcpu_assign_sys_reg(vcpu, r->reg, 0);"}, "reset_mdcr() lets the guest hypervisor have all counters"),
    "the context switched while loaded": (EMULATE, {_COMMITS: "\t__kvm_adjust_pc(vcpu);\n\n"},
                                          "kvm_inject_nested() calls"),
    "what is pending is not committed": (EMULATE, {_COMMITS: "\tkvm_arch_vcpu_put(vcpu);\n"},
                                         "kvm_inject_nested() calls"),
    "an exception of its user space switches": (
        EMULATE, {"\t\t\t  vcpu_el2_e2h_is_set(vcpu) &&\n\t\t\t  vcpu_el2_tge_is_set(vcpu));":
                  "\t\t\t  vcpu_el2_e2h_is_set(vcpu) &&\n\t\t\t  !vcpu_el2_tge_is_set(vcpu));"},
        "kvm_inject_nested() calls"),
    "an ERET while loaded": (
        EMULATE, {_RETURNS: "", "\tvcpu_set_flag(vcpu, IN_NESTED_ERET);\n":
                  f"\tvcpu_set_flag(vcpu, IN_NESTED_ERET);\n{_RETURNS}"}, "kvm_emulate_nested_eret() calls"),
    "an ERET loses the step state": (
        EMULATE, {_RETURNS: "\t*vcpu_cpsr(vcpu) = spsr & ~DBG_SPSR_SS;\n"}, "kvm_emulate_nested_eret() stores"),
    "PSTATE left as the hardware has it": (
        VHE_SWITCH, {_FIXES: ""}, "fixup_guest_exit() shows the guest hypervisor at its EL2"),
    "PSTATE loses its step state": (
        VHE_SWITCH, {_MASKS: "\t\t*vcpu_cpsr(vcpu) &= ~(PSR_MODE_MASK | PSR_MODE32_BIT | DBG_SPSR_SS);\n"},
        "leaves the rest of PSTATE as it was"),
    "PSTATE left as it is while somebody debugs": (
        VHE_SWITCH, {"if (unlikely(host_data_test_flag(VCPU_IN_HYP_CONTEXT))) {":
                     "if (!vcpu->guest_debug && host_data_test_flag(VCPU_IN_HYP_CONTEXT)) {"},
        "shows a guest hypervisor at its EL2"),
    "EL1h shown as EL2t": (
        VHE_SWITCH, {"mode = PSR_MODE_EL2h;": "mode = PSR_MODE_EL2t;"}, "shows a guest hypervisor at its EL2"),
    "the context switched back too late": (
        VHE_SWITCH, {f"\tsynchronize_vcpu_pstate(vcpu);\n\n{_FIXES}": f"{_FIXES}\tsynchronize_vcpu_pstate(vcpu);\n"},
        "adjusts PSTATE when it has been saved"),
    "fine-grained traps not chosen": (ARM, {"\tkvm_vcpu_load_fgt(vcpu);\n": ""}, "kvm_vcpu_load_fgt(), then"),
    "fine-grained traps chosen too late": (
        ARM, {"\tkvm_vcpu_load_fgt(vcpu);\n": "", "\tkvm_arch_vcpu_load_fp(vcpu);\n":
              "\tkvm_arch_vcpu_load_fp(vcpu);\n\tkvm_vcpu_load_fgt(vcpu);\n"}, "kvm_vcpu_load_fgt(), then"),
    "another handler for MDCR_EL2": (
        REGS, {"EL2_REG(MDCR_EL2, access_mdcr, reset_mdcr, 0)": "EL2_REG(MDCR_EL2, access_rw, reset_mdcr, 0)"},
        "S3_4_C1_C1_1 has access"),
}  # fmt: skip
REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "the fine-grained trap for the other context": (
        CONFIG, {"\tif (is_hyp_ctxt(vcpu))\n\t\t*vcpu_fgt(vcpu, HDFGWTR_EL2)":
                 "\tif (is_nested_ctxt(vcpu))\n\t\t*vcpu_fgt(vcpu, HDFGWTR_EL2)"},
        r"not so: kvm_vcpu_load_fgt\(\) traps what a guest hypervisor writes"),
    "the fine-grained trap taken back": (
        CONFIG, {"\t__compute_fgt(vcpu, HAFGRTR_EL2);\n": "\t__compute_fgt(vcpu, HAFGRTR_EL2);\n"
                 "\t*vcpu_fgt(vcpu, HDFGWTR_EL2) = 0;\n"}, "vcpu_fgt"),
    "MDSCR_EL1 trapped by TDOSA": (
        EMULATE, {"SR_TRAP(SYS_MDSCR_EL1,\t\tCGT_MDCR_TDE_TDA)": "SR_TRAP(SYS_MDSCR_EL1,\t\tCGT_MDCR_TDE_TDOSA)"},
        "not so: MDSCR_EL1 is forwarded by MDCR_EL2.TDE or TDA"),
    "a breakpoint forwarded by TDOSA": (
        EMULATE, {"SR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDE_TDA)": "SR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDE_TDOSA)"},
        "not so: DBGBCR7_EL1 is forwarded by MDCR_EL2.TDE or TDA"),
    "a breakpoint in two entries": (
        EMULATE, {"\tSR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDE_TDA),\n":
                  "\tSR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDE_TDA),\n\tSR_TRAP(SYS_DBGBCRn_EL1(7),\tCGT_MDCR_TDA),\n"},
        "not so: DBGBCR7_EL1 is forwarded"),
    "TDA forwards no write": (
        EMULATE, {f"{_MASKED}\t\t.behaviour\t= BEHAVE_FORWARD_RW": f"{_MASKED}\t\t.behaviour\t= BEHAVE_FORWARD_READ"},
        "not so: MDSCR_EL1 is forwarded"),
    "a control of another register": (
        EMULATE, {"\t[CGT_MDCR_TDE] = {\n\t\t.index\t\t= MDCR_EL2,": "\t[CGT_MDCR_TDE] = {\n\t\t.index\t\t= HCR_EL2,"},
        "not so: OSLAR_EL1 is forwarded"),
    "the hypervisor's TDOSA not looked at": (
        EMULATE, {"\t\t.value\t\t= MDCR_EL2_TDOSA,\n": "\t\t.value\t\t= 0,\n"}, "OSLAR_EL1 is forwarded"),
    "TDE alone does not forward": (
        EMULATE, {"MCB(CGT_MDCR_TDE_TDA,\t\tCGT_MDCR_TDE, CGT_MDCR_TDA)": "MCB(CGT_MDCR_TDE_TDA,\t\tCGT_MDCR_TDA)"},
        "DBGWCR15_EL1 is forwarded"),
    "its EL0 is its guest": (
        QUESTIONS, {"return vcpu_is_el2(vcpu) || (e2h && tge) || tge;": "return vcpu_is_el2(vcpu);"},
        r"not so: is_hyp_ctxt\(\) is whether"),
    "its own ERET goes to itself": (
        EXIT, {"\tif (is_hyp_ctxt(vcpu))\n\t\tkvm_emulate_nested_eret(vcpu);":
               "\tif (!is_hyp_ctxt(vcpu))\n\t\tkvm_emulate_nested_eret(vcpu);"}, 
        r"not so: kvm_handle_eret\(\) emulates"),
    "HPMN stays when the counters change": (
        COUNTERS, {"\t\t\tval |= FIELD_PREP(MDCR_EL2_HPMN, kvm->arch.nr_pmu_counters);\n": ""},
        r"not so: kvm_arm_set_nr_counters\(\) gives"),
    "another function changes MDCR_EL2": (
        NESTED, {"\tu64 guest_mdcr = __vcpu_sys_reg(vcpu, MDCR_EL2);\n":
                 "\tu64 guest_mdcr = __vcpu_sys_reg(vcpu, MDCR_EL2);\n"
                 "\t__vcpu_assign_sys_reg(vcpu, MDCR_EL2, 0);\n"}, "virtual_mdcr_el2 stays"),
}  # fmt: skip
# what changes nothing: file, what is replaced by what
HARMLESS: dict[str, tuple[str, dict[str, str]]] = {
    "the other branch first": (
        NESTED, {f"{_ADDS}": "\tbool nested = is_nested_ctxt(vcpu);\n\n\tguest_mdcr &= NV_MDCR_GUEST_INCLUDE;\n"
                 "\tif (nested)\n\t\tvcpu->arch.mdcr_el2 |= guest_mdcr;\n"}),
    "by what the hypervisor context is": (
        NESTED, {"\tif (is_nested_ctxt(vcpu))\n\t\tvcpu->arch.mdcr_el2 |=":
                 "\tif (!is_hyp_ctxt(vcpu))\n\t\tvcpu->arch.mdcr_el2 |="}),
    "bits in another order": (
        NESTED, {"(MDCR_EL2_TDE\t|": "(MDCR_EL2_TDOSA\t|", "\t\t\t\t MDCR_EL2_TDOSA)": "\t\t\t\t MDCR_EL2_TDE)"}),
    "TDE looked up in place": (
        EMULATE, {"\treturn forward_mdcr_traps(vcpu, MDCR_EL2_TDE);":
                  "\tif (!is_nested_ctxt(vcpu) || !(__vcpu_sys_reg(vcpu, MDCR_EL2) & MDCR_EL2_TDE))\n"
                  "\t\treturn false;\n\n"
                  "\tkvm_inject_nested_sync(vcpu, kvm_vcpu_get_esr(vcpu));\n\treturn true;"}),
    "HPMN by its mask": (REGS, {"\t\tu64p_replace_bits(&val, hpmn, MDCR_EL2_HPMN);\n":
                                "\t\tval = (val & ~MDCR_EL2_HPMN_MASK) | hpmn;\n"}),
    "the guest hypervisor itself, in one expression": (
        EMULATE, {"\tdirect_inject |= (mode == PSR_MODE_EL2h || mode == PSR_MODE_EL2t);\n":
                  "\tdirect_inject = direct_inject || mode == PSR_MODE_EL2t || mode == PSR_MODE_EL2h;\n"}),
    "the guest hypervisor at its EL2, in one statement": (
        VHE_SWITCH, {f"{_MASKS}\t\t*vcpu_cpsr(vcpu) |= mode;\n":
                     "\t\t*vcpu_cpsr(vcpu) = (*vcpu_cpsr(vcpu) & ~(u64)(PSR_MODE_MASK | PSR_MODE32_BIT)) | mode;\n"}),
    "a range of registers in one entry": (
        EMULATE, {"SR_TRAP(SYS_DBGBVRn_EL1(0),\tCGT_MDCR_TDE_TDA)":
                  "SR_RANGE_TRAP(SYS_DBGBVRn_EL1(0), SYS_DBGWCRn_EL1(0), CGT_MDCR_TDE_TDA)",
                  **{f"\tSR_TRAP(SYS_DBG{kind}n_EL1(0),\tCGT_MDCR_TDE_TDA),\n": "" for kind in ("BCR", "WVR", "WCR")}}),
    "who debugs is asked first": (
        EXIT, {"\tif (!vcpu->guest_debug && forward_debug_exception(vcpu))\n\t\treturn 1;\n":
               "\tif (!vcpu->guest_debug) {\n\t\tif (forward_debug_exception(vcpu))\n\t\t\treturn 1;\n\t}\n"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def nesting() -> Copy:
    """A copy of the tree in which the files of nested virtualization can be edited."""
    return copy_of("7.3")


def test_the_tree_nests(nesting: Copy) -> None:
    report = nesting.read(Mode.VHE)
    assert (report.resolved.epoch.name, report.resolved.differs) == ("E13", ())
    assert report.resolved.kernel.nests and all(c.equal for c in report.compared) and not report.misdescribed


def test_the_exit_is_read_where_it_is_one_function() -> None:
    """Until v7.2 fixup_guest_exit adjusts PSTATE itself, with a BUG_ON after it."""
    tree = KernelTree(tree_path("7.2"))
    read = reading.source(tree, Mode.VHE)
    report = compare(read.program, read.binding, read.signs, Mode.VHE, Questions(60.0), read.gaps)
    assert report.resolved.epoch.name == "E12" and not report.gaps and all(c.equal for c in report.compared)


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_about_hypervisors_is_lost(nesting: Copy, name: str) -> None:
    file, edits, claim = BROKEN[name]
    report = nesting.report(file, edits, Mode.VHE, (claim,))
    assert not report.misdescribed
    assert [row.verdict for row in report.rows if row.check == claim] == ["VIOLATED"]


def test_a_tree_without_the_function_is_not_one_without_hypervisors(nesting: Copy) -> None:
    text = (nesting.tree.path / NESTED).read_text()
    start = text.index("void kvm_nested_setup_mdcr_el2(")
    whole = text[start : text.index("\n}\n", start) + 3]
    with nesting.edited(NESTED, {whole: ""}):
        report = nesting.report(DEBUG_C, {_CALLS: ""}, Mode.VHE, ("hypervisor_traps_are_set",))
    assert report.resolved.kernel.nests
    assert [row.verdict for row in report.rows if row.check == "hypervisor_traps_are_set"] == ["VIOLATED"]


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_for_hypervisors_is_named(nesting: Copy, name: str) -> None:
    file, edits, named = DIFFERENT[name]
    report = nesting.report(file, edits, Mode.VHE)
    found = [*report.misdescribed, *(f"{c.function} ({c.place})" for c in report.compared if not c.equal)]
    assert any(named in text for text in found), found


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_has_read_is_refused(nesting: Copy, name: str) -> None:
    file, edits, reason = REFUSED[name]
    found = [str(gap) for gap in nesting.report(file, edits, Mode.VHE).gaps]
    assert any(re.search(reason, text) for text in found), found


@pytest.mark.parametrize("name", HARMLESS)
def test_what_means_the_same_is_equal(nesting: Copy, name: str) -> None:
    file, edits = HARMLESS[name]
    report = nesting.report(file, edits, Mode.VHE)
    assert all(c.equal for c in report.compared) and not report.misdescribed and not report.problems


def test_what_decides_a_forwarding_besides_the_state_may_be_anything() -> None:
    """A condition on a bit that is not modelled is an input of the operation: a run can be replayed."""
    asks = "\tif (is_nested_ctxt(vcpu) &&\n\t    (__vcpu_sys_reg(vcpu, reg) & control_bit)) {\n"
    more = asks.replace("is_nested_ctxt(vcpu) &&", "is_nested_ctxt(vcpu) && vcpu_el2_amo_is_set(vcpu) &&")
    found = copy_of("7.3").whole(f"{KVM}/emulate-nested.c", {asks: more}, Mode.VHE)
    assert found.replaced and found.system is not None
    for step in found.system.applied:
        known = {str(v.data) for v in (*step.before.values.values(), *step.inputs.values())}
        terms = (step.guard, *step.after.values.values())
        assert {str(name) for term in terms for name in support(term)} <= known | {
            str(v.data) for v in step.inputs.values()
        }
