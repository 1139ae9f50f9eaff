"""The newest tree (v7.3), where debug_owner decides: compared in both modes, and told from edits of its C."""

from __future__ import annotations

import re

import pytest

from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.compare.ownership import COMPONENTS
from formal.kernel.model.substitution import Assembly
from formal.kernel.source.tree import KVM
from tests.kernel.edited import Copy, copy_of

GUEST, EXIT, REGS, ARM = (f"{KVM}/{name}.c" for name in ("guest", "handle_exit", "sys_regs", "arm"))
BANKS, COMMON = f"{KVM}/hyp/include/hyp/debug-sr.h", f"{KVM}/hyp/include/hyp/sysreg-sr.h"
SWITCH = f"{KVM}/hyp/include/hyp/switch.h"
_SAVE = "\tif (has_vhe())\n\t\t*host_data_ptr(host_debug_state.mdcr_el2) = read_sysreg(mdcr_el2);\n"
_RESTORE = "\tif (has_vhe())\n\t\twrite_sysreg(*host_data_ptr(host_debug_state.mdcr_el2), mdcr_el2);\n"
_SETUP = "\tkvm_arm_setup_mdcr_el2(vcpu);\n}\n\nvoid kvm_vcpu_put"
_RELOAD = """
	preempt_disable();
	kvm_arch_vcpu_put(vcpu);
	kvm_arch_vcpu_load(vcpu, smp_processor_id());
	preempt_enable();
"""
_ARMED = """			if (!vcpu_get_flag(vcpu, HOST_SS_ACTIVE_PENDING))
				*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;
			else
				*vcpu_cpsr(vcpu) &= ~DBG_SPSR_SS;
"""
# name: file, what is replaced by what, the claim that is lost
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "OS registers not trapped": (
        DEBUG_C, {"MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA);": "MDCR_EL2_TDRA);"}, "os_registers"),
    "trace filter not trapped": (DEBUG_C, {"\t\t\t\tMDCR_EL2_TTRF |\n": ""}, "trace"),
    "HPMN cleared": (
        DEBUG_C, {"FIELD_PREP(MDCR_EL2_HPMN,\n\t\t\t\t\t *host_data_ptr(nr_event_counters))": "0"},
        "hpmn_never_reserved"),
    "the OS lock does not decide the owner": (
        DEBUG_C, {"if (vcpu->guest_debug || kvm_vcpu_os_lock_enabled(vcpu)) {": "if (vcpu->guest_debug) {"},
        "host_owns_what_it_needs"),
    "MDE does not make the guest the owner": (
        DEBUG_C, {"mdscr & (MDSCR_EL1_KDE | MDSCR_EL1_MDE)": "mdscr & MDSCR_EL1_KDE"}, "guest_owns_what_it_enabled"),
    "breakpoints of user space without MDE": (
        DEBUG_C, {"mdscr |= MDSCR_EL1_MDE | MDSCR_EL1_KDE;": "mdscr |= MDSCR_EL1_KDE;"},
        "external_mdscr_debugs_as_asked"),
    "OSLAR takes effect at the next load only": (DEBUG_C, {_RELOAD: ""}, "host_owns_what_it_needs"),
    "host's MDCR_EL2 saved too late": (
        DEBUG_C, {f"{_SAVE}\n": "", _SETUP: _SETUP.replace("}\n", f"{_SAVE}}}\n", 1)}, "host_mdcr_saved_first"),
    "host's MDCR_EL2 not restored": (
        DEBUG_C, {_RESTORE: ""}, "host_mdcr_restored"),
    "a trap takes the registers from KVM": (
        DEBUG_C, {"\tif (kvm_host_owns_debug_regs(vcpu))\n\t\treturn;\n": ""}, "host_owns_what_it_needs"),
    "put takes the debugger's step for the guest's": (
        DEBUG_C, {"vcpu_get_flag(vcpu, GUEST_SS_ACTIVE_PENDING)": "vcpu_get_flag(vcpu, HOST_SS_ACTIVE_PENDING)"},
        "guest_pstate_ss_preserved"),
    "load forgets a step that is on its way": (
        DEBUG_C, {_ARMED: "\t\t\t*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;\n"}, "one_step_one_instruction_if_no_eret"),
}  # fmt: skip
_OSLSR = (
    "static bool trap_oslsr_el1(struct kvm_vcpu *vcpu,\n\t\t\t   struct sys_reg_params *p,\n"
    "\t\t\t   const struct sys_reg_desc *r)\n{\n"
)
# name: file, what is replaced by what, the function that differs or the rule that is broken
DIFFERENT: dict[str, tuple[str, dict[str, str], str]] = {
    "user space's registers not taken": (
        GUEST, {"\tif (vcpu->guest_debug & KVM_GUESTDBG_USE_HW)\n\t\tvcpu->arch": "\tif (0)\n\t\tvcpu->arch"},
        "kvm_arch_vcpu_ioctl_set_guest_debug"),
    "a step exit leaves PSTATE.SS": (EXIT, {"\t\t*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;\n": ""}, "kvm_handle_guest_debug"),
    "the owners' registers exchanged": (
        BANKS, {"\tcase VCPU_DEBUG_GUEST_OWNED:\n\t\treturn &vcpu->arch.vcpu": "\tcase VCPU_DEBUG_GUEST_OWNED:\n"
                "\t\treturn &vcpu->arch.external"}, "__debug_switch_to_guest"),
    "MDSCR_EL1 of the other owner": (
        COMMON, {"if (ctxt_is_guest(ctxt) && kvm_host_owns": "if (ctxt_is_guest(ctxt) && kvm_guest_owns"},
        "sysreg_restore_guest_state_vhe"),
    "the owner is decided after VHE has loaded the rest": (
        ARM, {"\tkvm_vcpu_load_debug(vcpu);\n": "", "\tkvm_arch_vcpu_load_fp(vcpu);\n":
              "\tkvm_vcpu_load_debug(vcpu);\n\tkvm_arch_vcpu_load_fp(vcpu);\n"}, "kvm_arch_vcpu_load() calls"),
    "a read leaves the registers trapped": (
        REGS, {"\telse\n\t\tdbg_to_reg(vcpu, p, rd, reg);\n":
               "\telse {\n\t\tdbg_to_reg(vcpu, p, rd, reg);\n\t\treturn true;\n\t}\n"}, "for a read"),
    "a read of OSLSR_EL1 finds the lock unlocked": (
        REGS, {_OSLSR: f"{_OSLSR}\tif (!p->is_write) {{\n\t\tp->regval = 0;\n\t\treturn true;\n\t}}\n"},
        "gives OSLSR_EL1 to a read"),
    "user space sets any bit of OSLSR_EL1": (
        REGS, {"\tif ((val ^ rd->val) & ~OSLSR_EL1_OSLK)\n\t\treturn -EINVAL;\n": ""},
        "refuses a value that changes more than the lock"),
}  # fmt: skip
REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "flags that are none accepted": (
        GUEST, {"\tif (dbg->control & ~KVM_GUESTDBG_VALID_MASK)\n\t\treturn -EINVAL;\n": ""}, "returns 0 exactly when"),
    "watchpoints counted as breakpoints": (
        DEBUG_C, {"SYS_FIELD_GET(ID_AA64DFR0_EL1, BRPs, dfr0)": "SYS_FIELD_GET(ID_AA64DFR0_EL1, WRPs, dfr0)"},
        "keeps debug_brps"),
}  # fmt: skip
REWRITTEN = {
    "\tif (likely(!(vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP)))\n\t\treturn;\n":
        "\tbool steps = vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP;\n\n\tif (!steps)\n\t\treturn;\n",
    "\tif (kvm_host_owns_debug_regs(vcpu))\n\t\treturn;\n\n\tvcpu->arch.debug_owner = VCPU_DEBUG_GUEST_OWNED;\n"
    "\tkvm_arm_setup_mdcr_el2(vcpu);\n":
        "\tif (!kvm_host_owns_debug_regs(vcpu)) {\n\t\tvcpu->arch.debug_owner = VCPU_DEBUG_GUEST_OWNED;\n"
        "\t\tkvm_arm_setup_mdcr_el2(vcpu);\n\t}\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("7.3")


@pytest.mark.parametrize("mode", (Mode.VHE, Mode.NVHE))
def test_the_tree_is_as_described(copy: Copy, mode: Mode) -> None:
    report = copy.read(mode)
    assert (report.resolved.epoch.name, report.resolved.differs) == ("E13", ())
    assert report.resolved.kernel.tracks_debug_owner
    assert not report.misdescribed and not report.problems and not report.replaced
    assert all(c.equal for c in report.compared)
    assert {*COMPONENTS, "kvm_init_host_debug_data", "trap_debug_regs", "trap_oslar_el1", "__debug_switch_to_host"} <= {
        c.function for c in report.compared
    }


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_is_lost_with_c_lines(copy: Copy, name: str) -> None:
    file, edits, claim = BROKEN[name]
    report = copy.report(file, edits, Mode.VHE, (claim,))
    rows = [row for row in report.rows if row.check == claim]
    assert [row.verdict for row in rows] == ["VIOLATED"]
    assert not report.misdescribed
    loads = report.shown["kvm_arch_vcpu_load"]
    assert isinstance(loads, Assembly) and all(part.lifted.file == DEBUG_C for part in loads.parts.values())
    assert all(part.lifted.events for part in loads.parts.values())


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_named(copy: Copy, name: str) -> None:
    file, edits, named = DIFFERENT[name]
    report = copy.report(file, edits, Mode.VHE)
    told = (*report.misdescribed, *report.problems)
    found = [*map(str, told), *(f"{c.function} ({c.place})" for c in report.compared if not c.equal)]
    assert any(named in text for text in found), found


@pytest.mark.parametrize("name", REFUSED)
def test_what_else_must_hold_is_demanded(copy: Copy, name: str) -> None:
    file, edits, reason = REFUSED[name]
    found = [str(gap) for gap in copy.report(file, edits, Mode.VHE).gaps]
    assert any(re.search(reason, text) for text in found), found


def test_code_that_is_rewritten_is_equal(copy: Copy) -> None:
    report = copy.report(DEBUG_C, REWRITTEN, Mode.VHE)
    assert all(c.equal for c in report.compared) and not report.misdescribed


def test_the_release_before_is_recognised(copy: Copy) -> None:
    """v6.14 to v6.17-rc: VHE saves the host's MDCR_EL2 when the traps are activated, after the guest's is written."""
    saves = "\t*host_data_ptr(host_debug_state.mdcr_el2) = read_sysreg(mdcr_el2);\n"
    writes = "\twrite_sysreg(vcpu->arch.mdcr_el2, mdcr_el2);\n"
    restores = "\twrite_sysreg(*host_data_ptr(host_debug_state.mdcr_el2), mdcr_el2);\n"
    entry, leave = "\t__activate_traps_hfgxtr(vcpu);\n", "\t__deactivate_traps_hfgxtr(vcpu);\n"
    late = {entry: saves + writes + entry, leave: restores + leave}
    with copy.edited(SWITCH, late), copy.edited(DEBUG_C, {f"{_SAVE}\n": "", _RESTORE: ""}):
        report = copy.read(Mode.VHE, ("host_mdcr_saved_first",))
    assert (report.resolved.epoch.name, report.resolved.differs) == ("E13", ("vhe_saves_host_mdcr_first=False",))
    assert not report.misdescribed and all(c.equal for c in report.compared)
    assert [row.verdict for row in report.rows if row.check == "host_mdcr_saved_first"] == ["VIOLATED"]


_UNSIGNED = (
    "\tunsigned int pmuver = cpuid_feature_extract_unsigned_field(dfr0,\n"
    "\t\t\t\t\t\t\t\t   ID_AA64DFR0_EL1_PMUVer_SHIFT);\n\n\tif (pmuv3_implemented(pmuver))\n"
)
COUNTERS = {  # how PMUVer is asked: the behaviour, and whether kvm_init_host_debug_data is one of the two modelled
    "signed": ("\tint pmuver = ((s32)(dfr0 << 20)) >> 28;\n\n\tif (pmuver > 0)\n", False, True),
    "not the latest": (_UNSIGNED.replace("(pmuver)", "(pmuver) && pmuver < 9"), True, False),
    "another way": (_UNSIGNED.replace("(pmuver)", "(pmuver) && pmuver != 0"), True, True),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reads", "equal"), COUNTERS.values(), ids=COUNTERS)
def test_which_cpus_are_asked_for_their_counters(copy: Copy, text: str, reads: bool, equal: bool) -> None:
    """What v6.14 to v7.0 did is a known bug, in a tree of another release as well; what else is done is the C's."""
    claim = "event_counters_read_before_use"
    report = copy.report(DEBUG_C, {_UNSIGNED: text}, Mode.VHE, (claim,))
    assert report.resolved.kernel.reads_pmuv3p8_counters is reads
    assert report.resolved.epoch.name == "E13", "what is expected is what the release does"
    assert [c.equal for c in report.compared if c.function == "kvm_init_host_debug_data"] == [equal]
    verdict = "PROVED" if reads and equal else "VIOLATED"
    assert [row.verdict for row in report.rows if row.check == claim] == [verdict]
