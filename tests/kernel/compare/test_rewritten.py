"""Ways to write the same that kernels use, in any release: they are equal. What only looks alike is told."""

from __future__ import annotations

import pytest

from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of, said

RESET, SWITCH, DEBUG, GUEST, EXIT = (
    f"{KVM}/{n}" for n in ("reset.c", "hyp/include/hyp/switch.h", "debug.c", "guest.c", "handle_exit.c")
)
MMIO, VHE_SWITCH = f"{KVM}/mmio.c", f"{KVM}/hyp/vhe/switch.c"
REGS = f"{KVM}/sys_regs.c"
ANSWERS, HOST = f"{KVM}/hyp/nvhe/hyp-main.c", "arch/arm64/include/asm/kvm_host.h"
_COMMON = "static inline void __activate_traps_common(struct kvm_vcpu *vcpu)\n{\n"
_SAVES = (
    "\t*host_data_ptr(host_debug_state.mdcr_el2) = read_sysreg(mdcr_el2);\n"
    "\twrite_sysreg(vcpu->arch.mdcr_el2, mdcr_el2);\n"
)
_RELOADS = (
    "\tpreempt_disable();\n\tkvm_arch_vcpu_put(vcpu);\n\tkvm_arch_vcpu_load(vcpu, smp_processor_id());\n"
    "\tpreempt_enable();\n"
)
_MDE = (
    "\t\t\tmdscr = vcpu_read_sys_reg(vcpu, MDSCR_EL1);\n\t\t\tmdscr |= DBG_MDSCR_MDE;\n"
    "\t\t\tvcpu_write_sys_reg(vcpu, mdscr, MDSCR_EL1);\n"
)
_ADDS = "#define ADDS(v, bits) vcpu_write_sys_reg(v, vcpu_read_sys_reg(v, MDSCR_EL1) | (bits), MDSCR_EL1)\n\n"
_PER_CPU = "static DEFINE_PER_CPU(u64, mdcr_el2);\n"
_SETS = (
    "\t\tvcpu->guest_debug = dbg->control;\n\n\t\t/* Hardware assisted Break and Watch points */\n"
    "\t\tif (vcpu->guest_debug & KVM_GUESTDBG_USE_HW) {\n\t\t\tvcpu->arch.external_debug_state = dbg->arch;\n\t\t}\n"
)
_IOCTL = "int kvm_arch_vcpu_ioctl_set_guest_debug("
_TAKES = (
    "static void takes(struct kvm_vcpu *vcpu, const struct kvm_guest_debug *dbg)\n{\n"
    "\tvcpu->guest_debug = dbg->control;\n\tif (dbg->control & KVM_GUESTDBG_USE_HW)\n"
    "\t\tvcpu->arch.external_debug_state = dbg->arch;\n}\n\n"
)
_ASKS = "\t\texit_handler = kvm_get_exit_handler(vcpu);\n\t\thandled = exit_handler(vcpu);\n"


_MOPS = "\t[ESR_ELx_EC_MOPS]\t\t= kvm_hyp_handle_mops,\n"
_ABORT = "\t[ESR_ELx_EC_DABT_LOW]\t\t= kvm_hyp_handle_dabt_low,\n"
_IRQS_OFF = (
    "\tunsigned long flags;\n\n\tlocal_irq_save(flags);\n\t__activate_traps_common(vcpu);\n"
    "\tlocal_irq_restore(flags);\n"
)
_LOADS = "\tif (loaded)\n\t\tkvm_arch_vcpu_load(vcpu, smp_processor_id());\n"


_SAVES_PC = "\tctxt->regs.pc\t\t\t= read_sysreg_el2(SYS_ELR);\n"
_RESETS_EACH = (
    "void kvm_reset_sys_regs(struct kvm_vcpu *vcpu)\n{\n\tunsigned long i;\n\n"
    "\tfor (i = 0; i < ARRAY_SIZE(sys_reg_descs); i++)\n\t\tif (sys_reg_descs[i].reset)\n"
    "\t\t\tsys_reg_descs[i].reset(vcpu, &sys_reg_descs[i]);\n}\n"
)
_FIRST = "\tfor (i = 0; i < ARRAY_SIZE(sys_reg_descs); i++)\n"
_JUNK = "\tmemset(&vcpu->arch.ctxt.sys_regs, 0x42, sizeof(vcpu->arch.ctxt.sys_regs));\n"
_ALL = "\treset_sys_reg_descs(vcpu, sys_reg_descs, ARRAY_SIZE(sys_reg_descs));\n"


def resets(*does: str) -> str:
    """The reset of registers in the form that it had before v5.9."""
    return (
        "static void reset_sys_reg_descs(struct kvm_vcpu *vcpu, const struct sys_reg_desc *table, size_t num)\n"
        "{\n\tunsigned long i;\n\n\tfor (i = 0; i < num; i++)\n\t\tif (table[i].reset)\n"
        "\t\t\ttable[i].reset(vcpu, &table[i]);\n}\n\n"
        f"void kvm_reset_sys_regs(struct kvm_vcpu *vcpu)\n{{\n{''.join(does)}}}\n"
    )


_CASES = (
    "\tswitch (rd->Op2) {\n\tcase 0b001:\n\tcase 0b100:\n\t\treturn &dbg->dbg_bvr[rd->CRm];\n"
    "\tcase 0b101:\n\t\treturn &dbg->dbg_bcr[rd->CRm];\n\tcase 0b110:\n\t\treturn &dbg->dbg_wvr[rd->CRm];\n"
    "\tcase 0b111:\n\t\treturn &dbg->dbg_wcr[rd->CRm];\n\tdefault:\n\t\tKVM_BUG_ON(1, vcpu->kvm);\n"
    "\t\treturn NULL;\n\t}\n"
)
_ARRAY = (
    "\tu64 *banks[8] = {\n\t\t[1] = dbg->dbg_bvr, [4] = dbg->dbg_bvr, [5] = dbg->dbg_bcr,\n"
    "\t\t[6] = dbg->dbg_wvr, [7] = dbg->dbg_wcr,\n\t};\n\n\tif (rd->Op2 > 7 || !banks[rd->Op2]) {\n"
    "\t\tKVM_BUG_ON(1, vcpu->kvm);\n\t\treturn NULL;\n\t}\n\n\treturn banks[rd->Op2] + rd->CRm;\n"
)
_MOVES = "\tif (p->is_write)\n\t\treg_to_dbg(vcpu, p, rd, dbg_reg);\n\telse\n\t\tdbg_to_reg(vcpu, p, rd, dbg_reg);\n"
_CHOSEN_BY = "\t(p->is_write ? reg_to_dbg : dbg_to_reg)(vcpu, p, rd, dbg_reg);\n"
_ENTRIES = (
    "\tunsigned long i;\n\n\tfor (i = 0; i < ARRAY_SIZE(sys_reg_descs); i++)\n\t\tif (sys_reg_descs[i].reset)\n"
    "\t\t\tsys_reg_descs[i].reset(vcpu, &sys_reg_descs[i]);\n"
)
_BY_POINTER = (
    "\tconst struct sys_reg_desc *r = sys_reg_descs;\n\n\twhile (r != sys_reg_descs + ARRAY_SIZE(sys_reg_descs))\n"
    "\t\treset_one(vcpu, r++);\n"
)
_RESETS_ONE = (
    "static void reset_one(struct kvm_vcpu *vcpu, const struct sys_reg_desc *r)\n{\n"
    "\tif (r->reset)\n\t\tr->reset(vcpu, r);\n}\n\n"
)
_RESETS = "void kvm_reset_sys_regs("
_WIDTH = (
    "\t\tif (vcpu_el1_is_32bit(vcpu)) {\n\t\t\tpstate = VCPU_RESET_PSTATE_SVC;\n\t\t} else {\n"
    "\t\t\tpstate = VCPU_RESET_PSTATE_EL1;\n\t\t}\n"
)
_GIVES = (
    "static u32 first_pstate(struct kvm_vcpu *vcpu)\n{\n"
    "\treturn vcpu_el1_is_32bit(vcpu) ? VCPU_RESET_PSTATE_SVC : VCPU_RESET_PSTATE_EL1;\n}\n\n"
)
_RESET_VCPU = "/**\n * kvm_reset_vcpu - "


_SAVES_HOST = "\tvcpu->arch.mdcr_el2_host = read_sysreg(mdcr_el2);\n\twrite_sysreg(vcpu->arch.mdcr_el2, mdcr_el2);\n"
_SWAPS = (
    "#define swap_mdcr(new)\t\\\n({\t\\\n\tu64 __old = read_sysreg(mdcr_el2);\t\\\n"
    "\twrite_sysreg((new), mdcr_el2);\t\\\n\t__old;\t\\\n})\n\n"
)
_SWAPPED = "\tvcpu->arch.mdcr_el2_host = swap_mdcr(vcpu->arch.mdcr_el2);\n"


_FIXES_UP = "\tsynchronize_vcpu_pstate(vcpu, exit_code);\n"
_SHOWS_EL2 = (
    "\tif (vcpu->arch.mp_state.mp_state) {{\n\t\t*vcpu_cpsr(vcpu) &= ~(u64){};\n"
    "\t\t*vcpu_cpsr(vcpu) |= PSR_MODE_EL2h;\n\t}}\n"
)


def _asks_once(op0: str) -> dict[str, str]:
    """kvm_handle_sys_reg with a variable for which accesses are of registers."""
    both = "(params.Op0 == 2 || params.Op0 == 3)"
    asks = f"\tif {both}\n\t\tdesc ="
    return {
        asks: f"\tbool of_register = params.Op0 {op0};\n\n{asks}",
        f"\tif (!params.is_write &&\n\t    {both})\n": "\tif (of_register && !params.is_write)\n",
    }


def helper(does: str) -> str:
    return f"static __always_inline void helps(struct kvm_vcpu *vcpu)\n{{\n{does}}}\n\n"


# name: release, mode, file, what is replaced by what
SAME: dict[str, tuple[str, Mode, str, dict[str, str]]] = {
    "what tells a release apart, in a helper of a header": (
        "6.12", Mode.VHE, SWITCH, {_SAVES: "\thelps(vcpu);\n", _COMMON: helper(_SAVES) + _COMMON}),
    "a macro of the file": (
        "6.12", Mode.NVHE, DEBUG, {_MDE: "\t\t\tADDS(vcpu, DBG_MDSCR_MDE);\n", _PER_CPU: _ADDS + _PER_CPU}),
    "a scoped guard": (
        "7.3", Mode.VHE, DEBUG, {_RELOADS: "\tscoped_guard(preempt) {\n\t\tkvm_arch_vcpu_put(vcpu);\n"
                                 "\t\tkvm_arch_vcpu_load(vcpu, smp_processor_id());\n\t}\n"}),
    "a guard in a function that is read": (
        "7.3", Mode.VHE, RESET, {"\tpreempt_disable();\n\tloaded =": "\tguard(preempt)();\n\tloaded =",
                                 _LOADS + "\tpreempt_enable();\n": _LOADS}),
    "a guard that keeps what it restores": (
        "7.3", Mode.VHE, VHE_SWITCH, {_IRQS_OFF: "\tguard(irqsave)();\n\n\t__activate_traps_common(vcpu);\n"}),
    "a guard of one statement that keeps what it restores": (
        "7.3", Mode.VHE, VHE_SWITCH, {_IRQS_OFF: "\tscoped_guard(irqsave)\n\t\t__activate_traps_common(vcpu);\n"}),
    "the owners of the debug registers in another order": (
        "7.3", Mode.NVHE, HOST, {
            "\t\tVCPU_DEBUG_HOST_OWNED,\n\t\tVCPU_DEBUG_GUEST_OWNED,\n":
            "\t\tVCPU_DEBUG_GUEST_OWNED,\n\t\tVCPU_DEBUG_HOST_OWNED = 7, /* 7, not 2 */\n"}),
    "the debug owner is a byte, and its numbers are defined apart": (
        "7.3", Mode.NVHE, HOST, {
            "\tenum {\n\t\tVCPU_DEBUG_FREE,\n\t\tVCPU_DEBUG_HOST_OWNED,\n\t\tVCPU_DEBUG_GUEST_OWNED,\n"
            "\t} debug_owner;\n": "\tu8 debug_owner;\n", "struct kvm_vcpu_arch {\n":
            "enum owners { VCPU_DEBUG_GUEST_OWNED = 1 << 4, VCPU_DEBUG_FREE = 0, VCPU_DEBUG_HOST_OWNED = 1 };\n"
            "struct kvm_vcpu_arch {\n"}),
    "PSTATE is saved with the other registers, too": (
        "5.10", Mode.VHE, f"{KVM}/hyp/include/hyp/sysreg-sr.h",
        {_SAVES_PC: _SAVES_PC + "\tctxt->regs.pstate = read_sysreg_el2(SYS_SPSR);\n"}),
    "the mode that PSTATE shows is adjusted when it has been saved": (
        "6.1", Mode.VHE, VHE_SWITCH, {_FIXES_UP: _FIXES_UP + _SHOWS_EL2.format("PSR_MODE_MASK")}),
    "whether a register is accessed is asked once": ("7.3", Mode.VHE, REGS, _asks_once("== 2 || params.Op0 == 3")),
    "a reset that fills all registers first": ("5.10", Mode.VHE, REGS, {_RESETS_EACH: resets(_JUNK, _ALL)}),
    "a reset by a function that gets the table": ("5.10", Mode.NVHE, REGS, {_RESETS_EACH: resets(_ALL)}),
    "loaded on any CPU": ("6.1", Mode.VHE, RESET, {"loaded = (vcpu->cpu != -1);": "loaded = vcpu->cpu >= 0;"}),
    "a helper that is given a constant": (
        "6.1", Mode.VHE, GUEST, {_SETS: "\t\ttakes(vcpu, dbg);\n", _IOCTL: _TAKES + _IOCTL}),
    "a macro of a header": ("6.1", Mode.NVHE, SWITCH, {_SAVES_HOST: _SWAPPED, _COMMON: _SWAPS + _COMMON}),
    "the banks in an array of pointers": ("7.3", Mode.NVHE, REGS, {_CASES: _ARRAY}),
    "a function that is chosen": ("6.1", Mode.NVHE, REGS, {_MOVES: _CHOSEN_BY}),
    "a reset by pointer, an entry in a helper": (
        "6.1", Mode.VHE, REGS, {_ENTRIES: _BY_POINTER, _RESETS: _RESETS_ONE + _RESETS}),
    "a reset from the last entry on": (
        "6.1", Mode.NVHE, REGS, {"i = 0; i < ARRAY_SIZE(sys_reg_descs); i++)\n\t\tif (sys_reg_descs[i].reset)":
                                 "i = ARRAY_SIZE(sys_reg_descs); i-- > 0; )\n\t\tif (sys_reg_descs[i].reset)"}),
    "PSTATE that a helper gives": (
        "6.1", Mode.VHE, RESET, {_WIDTH: "\t\tpstate = first_pstate(vcpu);\n", _RESET_VCPU: _GIVES + _RESET_VCPU}),
    "the function that another gives, at once": (
        "6.1", Mode.VHE, EXIT, {_ASKS: "\t\thandled = kvm_get_exit_handler(vcpu)(vcpu);\n",
                                "\t\texit_handle_fn exit_handler;\n\n": ""}),
}  # fmt: skip
# the same, and what is told
WRONG: dict[str, tuple[str, Mode, str, dict[str, str], str]] = {
    "debug registers give no answer": (
        "7.3", Mode.VHE, REGS, _asks_once("== 3"), "gives an answer to reads, and to nothing else"),
    "more than the mode is adjusted when PSTATE has been saved": (
        "6.1", Mode.VHE, VHE_SWITCH, {_FIXES_UP: _FIXES_UP + _SHOWS_EL2.format("(PSR_MODE_MASK | DBG_SPSR_SS)")},
        "leaves PSTATE.SS, D and nRW as saved"),
    "PSTATE is adjusted before it is saved": (
        "6.1", Mode.VHE, VHE_SWITCH, {_FIXES_UP: _SHOWS_EL2.format("PSR_MODE_MASK") + _FIXES_UP},
        "leaves PSTATE.SS, D and nRW as saved"),
    "a helper of a header saves nothing": (
        "6.12", Mode.VHE, SWITCH, {_SAVES: "\thelps(vcpu);\n", _COMMON: helper(_SAVES.split("\n")[1] + "\n") + _COMMON},
        "hw_mdcr_el2"),
    "a helper of a header stores once more": (
        "6.12", Mode.VHE, SWITCH, {_SAVES: "\thelps(vcpu);\n",
                                   _COMMON: helper(_SAVES + "\tvcpu->guest_debug = 0;\n") + _COMMON}, "guest_debug"),
    "a macro of the file adds another bit": (
        "6.12", Mode.NVHE, DEBUG, {_MDE: "\t\t\tADDS(vcpu, DBG_MDSCR_KDE);\n", _PER_CPU: _ADDS + _PER_CPU},
        "mdscr_el1"),
    "a scoped guard that lets go too early": (
        "7.3", Mode.VHE, DEBUG, {_RELOADS: "\tscoped_guard(preempt)\n\t\tkvm_arch_vcpu_put(vcpu);\n"
                                 "\tkvm_arch_vcpu_load(vcpu, smp_processor_id());\n"}, "within one region"),
    "a step of user space is handled at EL2": (
        "7.3", Mode.VHE, VHE_SWITCH, {_MOPS: f"{_MOPS}\t[ESR_ELx_EC_SOFTSTP_LOW] = kvm_hyp_handle_mops,\n"},
        "software step is left to KVM"),
    "a step of user space is handled at EL2, by way of another table": (
        "7.3", Mode.VHE, VHE_SWITCH, {
            "static const exit_handler_fn hyp_exit_handlers[] = {\n":
            "static const exit_handler_fn other[ESR_ELx_EC_MAX + 1] = {\n",
            _MOPS: f"{_MOPS}\t[ESR_ELx_EC_SOFTSTP_LOW] = kvm_hyp_handle_mops,\n",
            "(vcpu, exit_code, hyp_exit_handlers)": "(vcpu, exit_code, other)"}, "software step is left to KVM"),
    "a breakpoint instruction is handled at EL2": (
        "6.12", Mode.NVHE, f"{KVM}/hyp/nvhe/switch.c",
        {_ABORT: f"{_ABORT}\t[ESR_ELx_EC_BRK64] = kvm_hyp_handle_dabt_low,\n"}, "BRK is left to KVM"),
    "an access of a breakpoint register is answered at EL2": (
        "7.3", Mode.VHE, SWITCH, {"\tswitch (sysreg) {\n": "\tswitch (sysreg) {\n\tcase SYS_DBGBCRn_EL1(0):\n"},
        "leaves accesses of debug registers to KVM"),
    "an access of a watchpoint register is answered at EL2, whatever it is called": (
        "7.3", Mode.NVHE, SWITCH, {
            "\tcase SYS_CNTPCT_EL0:\n\tcase SYS_CNTPCTSS_EL0:\n\t\tif (vcpu_has_nv":
            "\tcase (2 << 19) + (3 << 8) + (7 << 5):\n\tcase SYS_CNTPCT_EL0:\n\tcase SYS_CNTPCTSS_EL0:\n"
            "\t\tif (vcpu_has_nv"}, "leaves accesses of debug registers to KVM"),
    "an access of a debug register is answered at EL2 before the emulation of a chip's erratum": (
        "6.1", Mode.VHE, SWITCH, {
            "\tif (cpus_have_final_cap(ARM64_WORKAROUND_CAVIUM_TX2_219_TVM) &&":
            "\tif ((kvm_vcpu_get_esr(vcpu) >> 20 & 3) == 2 && (kvm_vcpu_get_esr(vcpu) & 1))\n\t\treturn true;\n\n"
            "\tif (cpus_have_final_cap(ARM64_WORKAROUND_CAVIUM_TX2_219_TVM) &&"},
        "leaves accesses of debug registers to KVM"),
    "only a CPU with 16 breakpoints has its registers saved": (
        "6.1", Mode.NVHE, f"{KVM}/hyp/include/hyp/debug-sr.h",
        {"\tsave_debug(dbg->dbg_bcr, dbgbcr, brps);\n":
         "\tif (brps < 15)\n\t\treturn;\n\tsave_debug(dbg->dbg_bcr, dbgbcr, brps);\n"},
        "does the same with fewer breakpoints"),
    "the watchpoints are loaded as many as there are breakpoints": (
        "7.3", Mode.VHE, f"{KVM}/hyp/include/hyp/debug-sr.h",
        {"\trestore_debug(dbg->dbg_wcr, dbgwcr, wrps);\n": "\trestore_debug(dbg->dbg_wcr, dbgwcr, brps);\n"},
        "does the same with fewer breakpoints"),
    "a guard over nothing": (
        "7.3", Mode.VHE, VHE_SWITCH,
        {_IRQS_OFF: "\t{\n\t\tguard(irqsave)();\n\t}\n\t__activate_traps_common(vcpu);\n"}, "within one region"),
    "a new vCPU has an owner": (
        "7.3", Mode.NVHE, HOST, {"\t\tVCPU_DEBUG_FREE,\n": "\t\tVCPU_DEBUG_FREE = 3,\n"}, "FREE 0"),
    "PSTATE is saved otherwise with the other registers": (
        "5.10", Mode.NVHE, f"{KVM}/hyp/include/hyp/sysreg-sr.h",
        {_SAVES_PC: _SAVES_PC + "\tctxt->regs.pstate = read_sysreg_el2(SYS_SPSR) | DBG_SPSR_SS;\n"}, "pstate"),
    "a run function that masks exceptions, and that nothing calls": (
        "6.1", Mode.VHE, VHE_SWITCH, {
            "\tlocal_daif_mask();\n": "", "\nint __kvm_vcpu_run(":
            "\nint kvm_vcpu_run_vhe(struct kvm_vcpu *vcpu)\n{\n\tlocal_daif_mask();\n"
            "\treturn __kvm_vcpu_run_vhe(vcpu);\n}\n\nint __kvm_vcpu_run("}, "masks exceptions"),
    "PSTATE is saved again, after what nesting makes of it": (
        "7.3", Mode.VHE, f"{KVM}/hyp/include/hyp/sysreg-sr.h",
        {_SAVES_PC: _SAVES_PC + "\tctxt->regs.pstate = read_sysreg_el2(SYS_SPSR);\n"}, "pstate"),
    "a reset that fills all registers at last": (
        "5.10", Mode.VHE, REGS, {_RESETS_EACH: resets(_ALL, _JUNK)}, "resets all, and fills none later"),
    "a reset that only fills the registers": (
        "5.10", Mode.NVHE, REGS, {_RESETS_EACH: resets(_JUNK)}, "resets all, and fills none later"),
    "a reset that is left out": (
        "5.10", Mode.NVHE, REGS, {_RESETS_EACH: resets("\tif (vcpu->cpu)\n\t" + _ALL)}, "resets all, and"),
    "a reset of later releases that fills the registers": (
        "5.10", Mode.NVHE, REGS, {_FIRST: _JUNK + _FIRST}, "sys_regs may be written"),
    "loaded on any CPU but 0": (
        "6.1", Mode.VHE, RESET, {"loaded = (vcpu->cpu != -1);": "loaded = vcpu->cpu > 0;"},
        "under the condition of the specification"),
    "an access is completed as often as user space says": (
        "6.1", Mode.NVHE, MMIO, {"unlikely(!vcpu->mmio_needed || kvm_pending": "unlikely(kvm_pending",
                                 "\tvcpu->mmio_needed = 0;\n": ""}, "kvm_handle_mmio_return() calls"),
    "a macro of a header that sets another bit": (
        "6.1", Mode.NVHE, SWITCH, {_SAVES_HOST: _SWAPPED, _COMMON: _SWAPS.replace("(new),", "(new) | 1,") + _COMMON},
        "hw_mdcr_el2"),
    "a macro of a header that is used once more": (
        "6.1", Mode.NVHE, SWITCH, {_SAVES_HOST: _SWAPPED, _COMMON: f"{_SWAPS}static inline void more(void)\n{{\n"
                                   f"\tswap_mdcr(0);\n}}\n\n{_COMMON}"}, "in macro swap_mdcr()"),
    "the banks in an array of pointers, one of them twice": (
        "7.3", Mode.NVHE, REGS, {_CASES: _ARRAY.replace("dbg->dbg_wcr", "dbg->dbg_wvr")}, "vcpu_debug_state"),
    "a function that is chosen the other way round": (
        "6.1", Mode.NVHE, REGS, {_MOVES: _CHOSEN_BY.replace("p->is", "!p->is")}, "trap_bvr"),
    "a reset by pointer, without the first entry": (
        "6.1", Mode.VHE, REGS, {_ENTRIES: _BY_POINTER.replace("= sys_reg_descs;", "= sys_reg_descs + 1;"),
                                _RESETS: _RESETS_ONE + _RESETS}, "resets each of"),
    "a reset of an entry in a helper that leaves some out": (
        "6.1", Mode.VHE, REGS, {_ENTRIES: _BY_POINTER, _RESETS:
                                _RESETS_ONE.replace("r->reset)\n", "r->reset && r->CRm != 2)\n") + _RESETS},
        "resets each of"),
    "PSTATE with SS that a helper gives": (
        "6.1", Mode.VHE, RESET, {_WIDTH: "\t\tpstate = first_pstate(vcpu);\n", _RESET_VCPU:
                                 _GIVES.replace("STATE_EL1", "STATE_EL1 | DBG_SPSR_SS") + _RESET_VCPU},
        "resets PSTATE to"),
    "EL2 skips what the host handles": (
        "5.10", Mode.NVHE, SWITCH, {"exit:\n": "exit:\n\t__kvm_skip_instr(vcpu);\n"}, "fixup_guest_exit()"),
    "EL2 answers in another register": (
        "6.1", Mode.NVHE, ANSWERS, {"cpu_reg(host_ctxt, 1) = __kvm_get": "cpu_reg(host_ctxt, 2) = __kvm_get"},
        "gives the host MDCR_EL2"),
    "EL2 answers with half of it": (
        "6.1", Mode.NVHE, ANSWERS, {"(host_ctxt, 1) = __kvm_get": "(host_ctxt, 1) = (u32)__kvm_get"},
        "gives the host MDCR_EL2"),
    "the handler that another gives is not called": (
        "6.1", Mode.VHE, EXIT, {_ASKS: "\t\thandled = !kvm_get_exit_handler(vcpu);\n",
                                "\t\texit_handle_fn exit_handler;\n\n": ""}, "arm_exit_handlers"),
    "a copy of memory begun anew is no step": (
        "6.12", Mode.NVHE, SWITCH, {"(spsr & ~DBG_SPSR_SS, SYS_SPSR)": "(spsr, SYS_SPSR)"}, "clears SPSR_EL2.SS"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_is_written_otherwise_is_equal(name: str) -> None:
    version, mode, file, edits = SAME[name]
    found = copy_of(version).whole(file, edits, mode)
    assert said(found) == [] and not found.resolved.differs


@pytest.mark.parametrize("name", WRONG)
def test_what_only_looks_alike_is_told(name: str) -> None:
    version, mode, file, edits, told = WRONG[name]
    found = said(copy_of(version).whole(file, edits, mode))
    assert any(told in text for text in found), found


_ASM = "arch/arm64/include/asm/kvm_asm.h"
_DECLARED, _CALLED = "extern int __kvm_vcpu_run(", "ret = kvm_call_hyp_ret(__kvm_vcpu_run, vcpu);"
_CHOSEN = "ret = has_vhe() ? kvm_vcpu_run_vhe(vcpu) : kvm_call_hyp_nvhe(__kvm_vcpu_run, vcpu);"


@pytest.mark.parametrize(
    ("mode", "masks", "told"),
    [(Mode.VHE, True, False), (Mode.NVHE, True, False), (Mode.VHE, False, True)],
    ids=["vhe", "nvhe", "vhe without a mask"],
)
def test_the_run_function_of_vhe_has_a_name_of_its_own(mode: Mode, masks: bool, told: bool) -> None:
    """As in v5.8."""
    copy = copy_of("5.10")
    renamed = {"\nint __kvm_vcpu_run(": "\nint kvm_vcpu_run_vhe("} | ({} if masks else {"\tlocal_daif_mask();\n": ""})
    declared = {_DECLARED: f"extern int kvm_vcpu_run_vhe(struct kvm_vcpu *vcpu);\n{_DECLARED}"}
    with copy.edited(VHE_SWITCH, renamed), copy.edited(_ASM, declared):
        found = copy.whole(f"{KVM}/arm.c", {_CALLED: _CHOSEN}, mode)
    assert any("masks exceptions" in str(gap) for gap in found.gaps) == told
    assert bool(found.gaps) == told and all(c.equal for c in found.compared)
