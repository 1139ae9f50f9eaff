"""From an exit, or an ioctl, to an entry of the tables: the trees do it as described, edits of each step are told."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import cast

import pytest

from formal.engines.equality import Questions
from formal.epochs import Kernel
from formal.kernel.around.lookup import Lookup
from formal.kernel.around.masked import Masked
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.recognition.dispatch import Dispatch
from formal.kernel.recognition.nesting import Nesting
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of

REGS, REGS_H, GUEST, EXIT, RUN = (
    f"{KVM}/{name}" for name in ("sys_regs.c", "sys_regs.h", "guest.c", "handle_exit.c", "hyp/vhe/switch.c")
)
EMULATE = "arch/arm64/include/asm/kvm_emulate.h"
INJECT = f"{KVM}/inject_fault.c"
DISPATCHED = ("_other_way", "_virtual_mdcr", "_enters", "_skip")  # groups of Dispatch
# ruff: noqa: E501
# name: trees, group of rules, file, what is replaced (a pattern) by what
WRONG: dict[str, tuple[str, str, str, str, str]] = {
    "the search starts at the second entry": ("6.1 7.3", "_search", REGS_H, r"pval, table, num,", "pval, table + 1, num - 1,"),
    "the order forgets Op2": ("6.1", "_search", REGS_H, r"return pval - (reg_to_encoding\(r\));", r"return (pval & ~0xffUL) - (\1 & ~0xff);"),
    "the order is reversed": ("6.1 7.3", "_search", REGS_H, r"return pval - (reg_to_encoding\(r\));", r"return \1 - pval;"),
    "CRm is taken for CRn": ("6.1", "_search", REGS_H, r"\(u32\)\(x\)->CRn,", "(u32)(x)->CRm,"),
    "Op2 of another place of the syndrome": ("6.1 7.3", "_trapped", REGS_H, r"(\.Op2 = \(\(esr\) >> )17", r"\g<1>18"),
    "reads are taken for writes": ("6.1 7.3", "_trapped", REGS_H, r"\.is_write = !\(\(esr\) & 1\)", ".is_write = ((esr) & 1)"),
    "another register is read": ("6.1 7.3", "_trapped", REGS, r"(params\.regval = vcpu_get_reg\(vcpu, )Rt(\);\n\n)(?=\t(if|/\*))", r"\g<1>0\2"),
    "no access of a debug register is done": ("6.1", "_trapped", REGS, r"(\tif \()(likely\(r\)\) \{\n\t\tperform_access)", r"\1params->Op0 != 2 && \2"),
    "user space's value is shifted": ("6.1", "_by_user", REGS, r"(__vcpu_sys_reg\(vcpu, r->reg\) = val)(;\n\t\tret = 0)", r"\1 << 1\2"),
    "user space's value goes to the next register": ("6.1", "_by_user", REGS, r"(__vcpu_sys_reg\(vcpu, r->reg)(\) = val;\n\t\tret = 0)", r"\1 + 1\2"),
    "set_user is not asked": ("6.1 7.3", "_by_user", REGS, r"(\tif \()r->set_user(\) \{\n\t\tret = )", r"\g<1>0\2"),
    "PSTATE is not stored": ("6.1 7.3", "_core", GUEST, r"\tmemcpy\(addr, valp", "\tif (off != KVM_REG_ARM_CORE_REG(regs.pstate))\n\t\tmemcpy(addr, valp"),
    "PC's place for PSTATE": ("6.1 7.3", "_core", GUEST, r"return &vcpu->arch\.ctxt\.regs\.pstate;", "return &vcpu->arch.ctxt.regs.pc;"),
    "PSTATE's place for SP": ("6.1 7.3", "_core", GUEST, r"return &vcpu->arch\.ctxt\.regs\.sp;", "return &vcpu->arch.ctxt.regs.pstate;"),
    "the first entry is not reset": ("6.1 7.3", "_all_reset", REGS, r"(?s)(void kvm_reset_sys_regs.*?for \(i = )0", r"\g<1>1"),
    "every other entry is reset": ("6.1 7.3", "_all_reset", REGS, r"(?s)(void kvm_reset_sys_regs.*?; i)\+\+", r"\1 += 2"),
    "the last entries are not reset": ("6.1 7.3", "_all_reset", REGS, r"(?s)(void kvm_reset_sys_regs.*?ARRAY_SIZE\(sys_reg_descs\))", r"\1 - 9"),
    "traps are not handled": ("6.1 7.3", "_exit", EXIT, r"return handle_trap_exceptions\(vcpu\);", "return 1;"),
    "interrupts are handled as traps": ("6.1 7.3", "_exit", EXIT, r"(case ARM_EXCEPTION_IRQ:\n\t\treturn )1;", r"\1handle_trap_exceptions(vcpu);"),
    "traps are handled twice": ("6.1 7.3", "_exit", EXIT, r"return (handle_trap_exceptions\(vcpu\);)", r"\1\n\t\treturn \1"),
    "another class's handler": ("6.1 7.3", "_exit", EXIT, r"arm_exit_handlers\[esr_ec\]", "arm_exit_handlers[esr_ec ^ 1]"),
    "debug exceptions are not masked": ("6.1 7.3", "_masked", RUN, r"\tlocal_daif_mask\(\);", "\tlocal_irq_disable();"),
    "masks are lifted before the run": ("6.1 7.3", "_masked", RUN, r"\tpmr_sync\(\);", "\tlocal_daif_restore(DAIF_PROCCTX);"),
    "a read of OSLAR_EL1 changes something": ("6.1 7.3", "_other_way", REGS, r"\tif \(!p->is_write\)\n\t\t(return read_from_write_only\(vcpu, p, r\);)(?=\n\n\t(?:/\* Forward|kvm_debug_handle_oslar))", r"\tif (!p->is_write) {\n\t\tvcpu->arch.mdcr_el2 = 0;\n\t\t\1\n\t}"),
    "a read of OSLAR_EL1 is a write": ("6.1 7.3", "_other_way", REGS, r"\tif \(!p->is_write\)\n\t\treturn read_from_write_only\(vcpu, p, r\);(?=\n\n\t(?:/\* Forward|kvm_debug_handle_oslar))", ""),
    "a write of OSLSR_EL1 changes something": ("6.1 7.3", "_other_way", REGS, r"(static bool trap_oslsr_el1\([^{]*\{\n)", r"\1\tif (p->is_write)\n\t\tvcpu->arch.mdcr_el2 = 0;\n\n"),
    "a read of MDCR_EL2 changes it": ("7.3", "_virtual_mdcr", REGS, r"(?s)(static bool access_mdcr\(.*?\tif \(!p->is_write\) \{\n)", r"\1\t\t__vcpu_assign_sys_reg(vcpu, MDCR_EL2, 0);\n"),
    "a read of MDCR_EL2 changes the traps": ("7.3", "_virtual_mdcr", REGS, r"(?s)(static bool access_mdcr\(.*?\tif \(!p->is_write\) \{\n)", r"\1\t\tvcpu->arch.mdcr_el2 = 0;\n"),
    "a hypervisor has no context": ("7.3", "_context", EMULATE, r"\te2h = \(hcr & HCR_E2H\);", "\treturn false;\n\te2h = (hcr & HCR_E2H);"),
    "TGE is taken the other way": ("7.3", "_context", EMULATE, r"\ttge = (\(hcr & HCR_TGE\));", r"\ttge = !\1;"),
    "its guest is never nested": ("7.3", "_context", EMULATE, r"return vcpu_has_nv\(vcpu\) && !is_hyp_ctxt\(vcpu\);", "return false;"),
}  # fmt: skip
# what changes nothing: trees, group, file, pattern, text
SAME: dict[str, tuple[str, str, str, str, str]] = {
    "a local variable": ("6.1 7.3", "_exit", EXIT, r"return (arm_exit_handlers\[esr_ec\]);", r"exit_handle_fn f = \1;\n\n\treturn f;"),
    "no helper": ("6.1 7.3", "_exit", EXIT, r"exit_handler = kvm_get_exit_handler\(vcpu\);", "exit_handler = arm_exit_handlers[ESR_ELx_EC(kvm_vcpu_get_esr(vcpu))];"),
    "if for switch": ("6.1 7.3", "_exit", EXIT, r"(\tswitch \(exception_index\) \{\n)", r"\tif (exception_index == ARM_EXCEPTION_TRAP)\n\t\treturn handle_trap_exceptions(vcpu);\n\1"),
    "an exclusive or for a difference": ("6.1", "_search", REGS_H, r"return pval - (reg_to_encoding\(r\));", r"return pval == \1 ? 0 : pval < \1 ? -1 : 1;"),
    "members one by one": ("6.1 7.3", "_trapped", REGS_H, r"\.is_write = !\(\(esr\) & 1\)", ".is_write = ((esr) & 1) == 0"),
    "a local for the syndrome's register": ("6.1 7.3", "_trapped", REGS, r"int Rt = kvm_vcpu_sys_get_rt\(vcpu\);(?=\n\n\ttrace_kvm_handle_sys_reg|\n\tint sr_idx)", "int Rt = (kvm_vcpu_get_esr(vcpu) >> 5) & 0x1f;"),
    "one is added": ("6.1 7.3", "_all_reset", REGS, r"(?s)(void kvm_reset_sys_regs.*?; i)\+\+", r"\1 += 1"),
    "another way to set": ("6.1", "_by_user", REGS, r"__vcpu_sys_reg\(vcpu, r->reg\) = val;(?=\n\t\tret = 0)", "vcpu->arch.ctxt.sys_regs[r->reg] = val;"),
}  # fmt: skip


class Edited:
    """A copy of a tree of which the rules are asked."""

    def __init__(self, version: str) -> None:
        self.copy, self.ask, self.defers = copy_of(version), Questions(60.0), version != "5.10"

    def broken(self, group: str, **behaviours: bool) -> list[str]:
        """The rules of a group that do not hold, or why they cannot be asked."""
        known = {
            "vhe": True,
            "nests": self.copy.program.nests,
            "emulates_os_lock": True,
            "defers_pc_adjustment": self.defers,
            "skip_advances_step": True,
            "fakes_step_exit": False,
            **behaviours,
        }
        k = cast(Kernel, SimpleNamespace(**known))
        program: Program = self.copy.program
        reader = {"_context": Nesting, "_masked": Masked, **dict.fromkeys(DISPATCHED, Dispatch)}.get(group, Lookup)
        (rules,) = (make for _, make in reader(program, k, {}).groups() if make.__name__ == group)
        try:
            return [rule.says for rule in rules() if self.ask.differing([(rule.says, rule.holds)])]
        except NotUnderstoodError as error:
            return [str(error)]

    def after(self, group: str, file: str, pattern: str, text: str, **behaviours: bool) -> list[str]:
        """The same with something replaced in a file, once."""
        before = self.copy.tree.read(file)
        found = re.search(pattern, before)
        assert found, f"{file} does not contain {pattern}"
        with self.copy.edited(file, {before: before[: found.start()] + found.expand(text) + before[found.end() :]}):
            return self.broken(group, **behaviours)


@pytest.fixture(scope="module", params=("6.1", "7.3"))
def edited(request: pytest.FixtureRequest) -> tuple[str, Edited]:
    version = str(request.param)
    return version, Edited(version)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_told(edited: tuple[str, Edited], name: str) -> None:
    versions, *edit = WRONG[name]
    if edited[0] not in versions.split():
        pytest.skip("the C of this release is another")
    assert edited[1].after(*edit)


@pytest.mark.parametrize("name", SAME)
def test_a_step_that_is_rewritten_is_the_same(edited: tuple[str, Edited], name: str) -> None:
    versions, *edit = SAME[name]
    if edited[0] not in versions.split():
        pytest.skip("the C of this release is another")
    assert edited[1].after(*edit) == []


@pytest.mark.parametrize("version", ("5.10", "6.12"))
def test_other_releases_do_the_same(version: str) -> None:
    tree = Edited(version)
    for group in (
        *(["_other_way"] if version == "6.12" else []),
        "_exit",
        "_trapped",
        "_search",
        "_by_user",
        "_core",
        "_all_reset",
        "_masked",
    ):
        assert tree.broken(group) == []


ENTERED = {  # how v5.10 enters an exception at once
    "SS is kept": (r"\tnew \|= PSR_D_BIT;", r"\g<0>\n\tnew |= old & DBG_SPSR_SS;"),
    "the traps are lost": (r"(static void inject_undef64\(struct kvm_vcpu \*vcpu\)\n\{\n)(.*\n)", r"\1\2\n\tvcpu->arch.mdcr_el2 = 0;\n"),
    "SS is set afterwards": (r"(?s)(static void inject_abt64\(.*?\n)(\}\n)", r"\1\t*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;\n\2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def old() -> Edited:
    return Edited("5.10")


@pytest.mark.parametrize("name", ENTERED)
def test_an_exception_that_is_entered_at_once_clears_ss_and_nothing_else(old: Edited, name: str) -> None:
    assert old.broken("_enters") == []
    assert old.after("_enters", INJECT, *ENTERED[name])


# KVM_SET_ONE_REG as it was done before core_reg_addr: by an offset into the record (our own spelling of it)
BY_OFFSET = """
static int get_core_reg(struct kvm_vcpu *vcpu, const struct kvm_one_reg *reg)
{{
	u32 *regs = (u32 *)&vcpu->arch.ctxt.regs;
	u64 off = reg->id & 0xffff;

	if (off > 100)
		return -ENOENT;
	{get}
	return copy_to_user((void __user *)reg->addr, regs + off, KVM_REG_SIZE(reg->id)) ? -EFAULT : 0;
}}

static int set_core_reg(struct kvm_vcpu *vcpu, const struct kvm_one_reg *reg)
{{
	u32 *regs = (u32 *)&vcpu->arch.ctxt.regs;
	u64 off = reg->id & 0xffff;
	__uint128_t tmp;
	void *valp = &tmp;

	if (off > 100 || KVM_REG_SIZE(reg->id) > sizeof(tmp))
		return -EINVAL;
	if (copy_from_user(valp, (void __user *)reg->addr, KVM_REG_SIZE(reg->id)))
		return -EFAULT;
	{set}
	return 0;
}}
"""
COPIES = "memcpy(regs + off, valp, KVM_REG_SIZE(reg->id));"
CORE: dict[str, tuple[str, str, bool]] = {
    "as it was": ("", COPIES, True),
    "not copied": ("", "", False),
    "another source": ("", COPIES.replace("valp", "&off"), False),
    "copied sometimes": ("", f"if (!vcpu->guest_debug)\n\t\t{COPIES}", False),
    "PSTATE besides": ("", f"{COPIES}\n\tvcpu->arch.ctxt.regs.pstate &= ~DBG_SPSR_SS;", False),
    "the traps besides": ("", f"{COPIES}\n\tvcpu->arch.mdcr_el2 = 0;", False),
    "a read that stores": ("vcpu->arch.ctxt.regs.pstate &= ~DBG_SPSR_SS;", COPIES, False),
}


@pytest.mark.parametrize("name", CORE)
def test_core_registers_by_offset(old: Edited, name: str) -> None:
    get, put, right = CORE[name]
    whole = r"(?s)static void \*core_reg_addr\(.*?(?=\n#define vq_word)"
    text = BY_OFFSET.format(get=get, set=put)
    assert (old.after("_core", GUEST, whole, text.replace("\\", r"\\")) == []) is right


# how EL2 skips an instruction: as v5.10 does, and as was done before v5.0 (our own spelling)
SKIPS: dict[str, tuple[str, bool]] = {
    "as it is": ("", True),
    "the guest stays where it is": ("w:write_sysreg_el2(*vcpu_pc(vcpu) - 4, SYS_ELR);", False),
    "PSTATE is not written back": ("s:;", False),
    "the traps besides": ("s:write_sysreg_el2(vcpu_gp_regs(vcpu)->pstate, SYS_SPSR); vcpu->arch.mdcr_el2 = 0;", False),
}
EMULATE_H = "arch/arm64/include/asm/kvm_emulate.h"
_WRITES = {
    "s": r"write_sysreg_el2\(vcpu_gp_regs\(vcpu\)->pstate, SYS_SPSR\);",
    "w": r"write_sysreg_el2\(\*vcpu_pc\(vcpu\), SYS_ELR\);",
}
STEPLESS = """static bool __kvm_skip_instr(struct kvm_vcpu *vcpu)
{{
	*vcpu_pc(vcpu) = read_sysreg_el2(SYS_ELR){four};
	if (vcpu_mode_is_32bit(vcpu)) {{
		vcpu_gp_regs(vcpu)->pstate = read_sysreg_el2(SYS_SPSR);
		kvm_skip_instr32(vcpu, kvm_vcpu_trap_il_is32bit(vcpu));
		write_sysreg_el2(vcpu_gp_regs(vcpu)->pstate, SYS_SPSR);
	}}
	write_sysreg_el2(*vcpu_pc(vcpu), SYS_ELR);{more}
	return {gives};
}}
"""
_NOT_STEPPED = "!(vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP)"
STEPLESS_SKIPS: dict[str, tuple[str, str, str, bool]] = {
    "as it was": (" + 4", "", _NOT_STEPPED, True),
    "the guest stays where it is": ("", "", _NOT_STEPPED, False),
    "the step is never seen": (" + 4", "", "true", False),
    "SS is set": (
        " + 4",
        "\n\twrite_sysreg_el2(read_sysreg_el2(SYS_SPSR) | DBG_SPSR_SS, SYS_SPSR);",
        _NOT_STEPPED,
        False,
    ),
}


@pytest.mark.parametrize("name", SKIPS)
def test_el2_skips_an_instruction(old: Edited, name: str) -> None:
    text, right = SKIPS[name]
    found = old.after("_skip", EMULATE_H, _WRITES[text[0]], text[2:]) if text else old.broken("_skip")
    assert (found == []) is right


@pytest.mark.parametrize("name", STEPLESS_SKIPS)
def test_el2_skips_an_instruction_without_its_step(old: Edited, name: str) -> None:
    four, more, gives, right = STEPLESS_SKIPS[name]
    whole = r"(?s)static __always_inline void __kvm_skip_instr\(.*?\n\}\n"
    text = STEPLESS.format(four=four, more=more, gives=gives).replace("\\", r"\\")
    found = old.after("_skip", EMULATE_H, whole, text, skip_advances_step=False, fakes_step_exit=True)
    assert (found == []) is right
