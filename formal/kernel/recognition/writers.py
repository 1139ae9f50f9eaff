"""The functions that may write something modelled, each with the reason why that is accounted for.

``formal.kernel.recognition.scan`` finds the places; a place in a function that is not listed here refuses the tree.
The reasons are
of five kinds: the function is (part of) an operation of the specification; it is a primitive that operations go
through; what it writes is another register than those modelled; or it belongs to a part that is not modelled, which
the report says.
"""

from __future__ import annotations

PRIMITIVE = "a primitive: each use of it is a place of its own"
PART = "part of an operation that not every release has lifted: it may write this, and no more"
OTHER = "writes registers or members that are not modelled"
AARCH32 = "AArch32 guests are not modelled"
PROTECTED = "of protected mode only what is handed over at an entry and given back is modelled"
MOVES = "moves the PC of a vCPU outside an instruction, or puts it back"
HOST = "moves the PC of the host"
NESTED = "part of nested virtualization that is not modelled, or was not before v6.18"

# parts of operations of the specification
OPERATIONS = frozenset(
    """
        save_guest_debug_regs restore_guest_debug_regs kvm_arm_setup_mdcr_el2 kvm_arm_reset_debug_ptr
        kvm_arm_init_debug kvm_arm_setup_debug kvm_arm_clear_debug kvm_arch_vcpu_ioctl_set_guest_debug
        kvm_handle_guest_debug
        __debug_save_state __debug_restore_state __debug_switch_to_guest_common __debug_switch_to_host_common
        __activate_traps_common __deactivate_traps_common __deactivate_traps deactivate_traps_vhe_put
        __sysreg_save_common_state __sysreg_restore_common_state __sysreg_save_el2_return_state
        synchronize_vcpu_pstate fixup_guest_exit kvm_skip_instr
        trap_oslar_el1 set_oslsr_el1 trap_debug_regs reg_to_dbg
        trap_bvr set_bvr reset_bvr trap_bcr set_bcr reset_bcr
        trap_wvr set_wvr reset_wvr trap_wcr set_wcr reset_wcr
        kvm_reset_vcpu reset_val
        kvm_init_host_debug_data setup_external_mdscr kvm_vcpu_load_debug kvm_vcpu_put_debug
        kvm_debug_set_guest_ownership kvm_debug_handle_oslar __vcpu_debug_regs ctxt_mdscr_el1 __activate_traps
        demux_wb_reg kvm_emulate_nested_eret kvm_nested_setup_mdcr_el2
        flush_hyp_vcpu sync_hyp_vcpu flush_debug_state sync_debug_state
        access_mdcr
    """.split()
)

# functions that in some releases write PSTATE, or all registers, and are read whole there
_READ = frozenset("inject_abt64 inject_undef64 enter_exception64 set_core_reg get_core_reg kvm_reset_sys_regs".split())

# what of these some releases have without comparing it: there it may write this, and no more
_UNCOMPARED: dict[str, frozenset[str]] = {
    name: frozenset(what.split())
    for what, names in (
        ("pc pstate", "kvm_emulate_nested_eret"),
        ("sys_regs[*]", "reset_val"),
        ("sys_regs[MDCR_EL2]", "access_mdcr"),
        ("mdcr_el2", "kvm_nested_setup_mdcr_el2"),
        ("arch.iflags ctxt mdcr_el2 debug_ptr pc pstate", "flush_hyp_vcpu sync_hyp_vcpu"),
        ("debug_owner external_debug_state external_mdscr_el1 vcpu_debug_state", "flush_debug_state sync_debug_state"),
    )
    for name in names.split()
}

# the others: why, what they may write, which they are
_OTHERS: tuple[tuple[str, str, str], ...] = (
    (PRIMITIVE, "sys_regs[*]", "vcpu_write_sys_reg __vcpu_write_sys_reg"),
    (PART, "INCREMENT_PC arch.flags", "__kvm_adjust_pc"),
    (PART, "pc pstate", "core_reg_addr"),
    (PART, "sys_regs[*]", "kvm_arm_sys_reg_set_reg kvm_sys_reg_set_user kvm_reset_sys_regs"),
    (PART, "nr_pmu_counters sys_regs[MDCR_EL2]", "kvm_arm_set_nr_counters"),
    (PART, "pstate sys_regs[HCR_EL2]", "fixup_nv_guest_exit"),
    (PART, "pc pstate hw.elr_el2 hw.spsr_el2", "__kvm_skip_instr"),
    *((PART, f"vcpu_debug_state dbg_{kind}", f"get_{kind}") for kind in ("bvr", "bcr", "wvr", "wcr")),
    (OTHER, "sys_regs[*]", """
        inject_abt64 kvm_inject_sync kvm_inject_dabt_excl_atomic kvm_inject_size_fault kvm_inject_serror_esr
        kvm_pmu_set_counter_value_user arch_timer_set_user set_gic_ich_reg access_vm_reg access_rw access_csselr
        access_pmu_evtyper reset_pmu_reg reset_pmevcntr reset_pmevtyper reset_pmselr reset_pmcr set_pmreg
        kvm_pmu_set_counter_value kvm_pmu_set_pmc_value kvm_pmu_stop_counter kvm_pmu_counter_increment
        kvm_pmu_software_increment kvm_pmu_set_counter_event_type reset_clidr set_clidr reset_hcr
        fpsimd_lazy_switch_to_host reset_unknown kvm_arm_sys_reg_get_reg"""),
    (OTHER, "host_debug_state", """
        __debug_save_host_buffers_nvhe __debug_save_spe __debug_save_brbe __trace_drain_and_disable
        __trace_switch_to_guest"""),
    (AARCH32, "pstate pc", "enter_exception32 prepare_fault32 kvm_adjust_itstate kvm_skip_instr32"),
    (AARCH32, "arch.flags", "trap_debug32"),
    (AARCH32, "arch.flags dbg_bvr vcpu_debug_state", "trap_xvr"),
    (PROTECTED, "mdcr_el2", """
        pvm_init_trap_regs pvm_init_traps_aa64dfr0 pvm_init_traps_aa64mmfr0 pvm_init_traps_mdcr
        pkvm_vcpu_init_traps"""),
    (PROTECTED, "regs sys_regs[*]", "__copy_vcpu_state"),
    (PROTECTED, "arch.cflags", "init_pkvm_hyp_vcpu"),
    (PROTECTED, "arch.flags", "vm_copy_id_regs"),
    (PROTECTED, "hw.elr_el2 hw.spsr_el2 pc pstate", "inject_undef64 inject_sync64"),
    (PROTECTED, "hw.elr_el2 hw.spsr_el2", "inject_host_exception"),
    (PROTECTED, "hw.elr_el2", "__pkvm_memshare_page_req"),
    (NESTED, "sys_regs[*]", "kvm_init_nv_sysregs vgic_v3_sync_nested vgic_v3_put_nested"),
    (NESTED, "sys_regs[HCR_EL2]", "___deactivate_traps"),
    (NESTED, "sys_regs[*]", "reset_mdcr"),
    (NESTED, "sys_regs[*] nr_pmu_counters", "set_pmcr"),
    (NESTED, "hw.elr_el2 hw.spsr_el2", "kvm_hyp_handle_eret __sysreg_restore_vel2_state"),
    (MOVES, "pc", "set_core_reg handle_exit kvm_psci_vcpu_on"),
    (MOVES, "pc INCREMENT_PC", "kvm_reset_vcpu_psci"),
    (MOVES, "hw.elr_el2", "__fixup_guest_exit"),
    (MOVES, "hw.elr_el2 hw.spsr_el2", "__sysreg_restore_el1_state __sysreg_restore_el2_return_state"),
    (MOVES, "hw.elr_el2 hw.spsr_el2 pc pstate", "kvm_hyp_handle_mops"),
    (AARCH32, "hw.spsr_el2", "vcpu_write_spsr vcpu_write_spsr32 __vcpu_write_spsr"),
    (HOST, "hw.elr_el2", """
        kvm_skip_host_instr kvm_unexpected_el2_exception __kvm_unexpected_el2_exception __kvm_host_psci_cpu_entry
        kvm_host_psci_cpu_entry"""),
    (HOST, "pc", "psci_cpu_on psci_cpu_suspend psci_system_suspend hyp_prepare_backtrace"),
)  # fmt: skip
_MACROS: dict[str, str] = {  # and what they may write
    "macro write_debug": "hw.r##n##_el1 n##_el1",
    "macro read_debug": "n##_el1",
    "macro __ptrauth_save_key": "sys_regs[*]",
    "macro PMEVTYPER_WRITE_CASE": "hw.pmevtyper##idx##_el0 idx##_el0",
    "macro PMEVTYPER_READ_CASE": "idx##_el0",
    "macro update_fgt_traps_cs": "hw.SYS_##reg sys_regs[*]",
    "macro __deactivate_fgt": "hw.SYS_##reg",
    "macro __activate_fgt": "hw.SYS_##reg sys_regs[*]",
}
# outside arch/arm64/kvm, where a name alone does not tell: file, function, and what it may write
_BOOT = "a local label"  # in files that a CPU runs when it comes up, or hands over
_ASM, _HOST = "arch/arm64/include/asm", "arch/arm64/kernel"
_OUTSIDE: tuple[tuple[str, str, str], ...] = (
    (f"{_ASM}/arch_gicv3.h", "macro write_gicreg", "hw.SYS_##r"),
    (f"{_ASM}/arm_pmuv3.h", "macro RETURN_READ_PMEVCNTRN", "n##_el0"),
    (f"{_ASM}/arm_pmuv3.h", "macro RETURN_READ_PMEVTYPERN", "n##_el0"),
    (f"{_ASM}/arm_pmuv3.h", "macro WRITE_PMEVCNTRN", "hw.pmevcntr##n##_el0 n##_el0"),
    (f"{_ASM}/arm_pmuv3.h", "macro WRITE_PMEVTYPERN", "hw.pmevtyper##n##_el0 n##_el0"),
    (f"{_ASM}/arm_pmuv3.h", "write_pmuserenr", "hw.pmuserenr_el0"),
    (f"{_ASM}/hw_breakpoint.h", "macro AARCH64_DBG_READ", "N##_el1 dbg##REG"),
    (f"{_ASM}/hw_breakpoint.h", "macro AARCH64_DBG_WRITE", "N##_el1 dbg##REG hw.dbg##REG##N##_el1"),
    (f"{_ASM}/kvm_arm.h", "macro HCR_GUEST_FLAGS", "HCR_EL2"),
    (f"{_ASM}/kvm_emulate.h", "kvm_reset_vcpu_core", "pstate"),
    (f"{_ASM}/kvm_emulate.h", "kvm_vcpu_set_be", "pstate sys_regs[*]"),
    (f"{_ASM}/kvm_emulate.h", "macro vcpu_write_sys_reg", "sys_regs[*]"),
    (f"{_ASM}/kvm_emulate.h", "macro kvm_pend_exception", "arch.iflags"),
    (f"{_ASM}/kvm_emulate.h", "vcpu_set_thumb", "pstate"),
    (f"{_ASM}/kvm_host.h", "macro __vcpu_assign_sys_reg", "sys_regs[*]"),
    (f"{_ASM}/kvm_host.h", "macro __vcpu_rmw_sys_reg", "sys_regs[*]"),
    (f"{_ASM}/kvm_host.h", "macro cp14_DBGDSCRext", "MDSCR_EL1"),
    (f"{_ASM}/kvm_host.h", "macro kvm_vcpu_os_lock_enabled", "OSLSR_EL1"),
    *(
        (f"{_ASM}/kvm_host.h", f"macro {under}vcpu_{name}_flag", "flags arch.iflags")
        for name in ("set", "clear", "test_and_clear", "copy")
        for under in ("", "__")
    ),
    (f"{_ASM}/kvm_host.h", "macro kvm_has_mte", "arch.flags"),
    (f"{_ASM}/kvm_host.h", "macro kvm_has_sve", "arch.flags"),
    (f"{_ASM}/kvm_host.h", "macro kvm_vm_has_ran_once", "arch.flags"),
    (f"{_ASM}/kvm_host.h", "macro vcpu_gp_regs", "pstate"),
    (f"{_ASM}/kvm_hyp.h", "macro read_sysreg_el2", "r##_EL1"),
    (f"{_ASM}/kvm_hyp.h", "macro write_sysreg_el0", "hw.r##_EL02"),
    (f"{_ASM}/kvm_hyp.h", "macro write_sysreg_el1", "hw.r##_EL12"),
    (f"{_ASM}/kvm_hyp.h", "macro write_sysreg_el2", "hw.r##_EL1 r##_EL1"),
    (f"{_ASM}/kvm_ptrauth.h", "macro __ptrauth_save_key", "sys_regs[*]"),
    (f"{_ASM}/pointer_auth.h", "macro __ptrauth_key_install_nosync", "hw.SYS_##k##KEYHI_EL1 hw.SYS_##k##KEYLO_EL1"),
    (f"{_ASM}/sysreg.h", "macro gic_insn", "hw.GICV5_OP_GIC_##insn"),
    (f"{_ASM}/kvm_emulate.h", "vcpu_cpsr", "pstate"),
    (f"{_ASM}/assembler.h", "disable_step_tsk", "hw.mdscr_el1"),
    (f"{_ASM}/assembler.h", "enable_step_tsk", "hw.mdscr_el1"),
    (f"{_ASM}/assembler.h", "reset_pmuserenr_el0", "hw.pmuserenr_el0"),
    (f"{_ASM}/el2_setup.h", "__init_el2_debug", "hw.mdcr_el2"),
    ("arch/arm64/mm/proc.S", "__cpu_setup", "hw.mdscr_el1"),
    ("arch/arm64/mm/proc.S", "cpu_do_resume", "hw.mdscr_el1 hw.oslar_el1 hw.osdlr_el1"),
    (f"{_HOST}/debug-monitors.c", "clear_os_lock", "hw.oslar_el1 hw.osdlr_el1"),
    (f"{_HOST}/debug-monitors.c", "mdscr_write", "hw.mdscr_el1"),
    (f"{_HOST}/entry-common.c", "cortex_a76_erratum_1463225_svc_handler", "hw.mdscr_el1"),
    (f"{_HOST}/syscall.c", "cortex_a76_erratum_1463225_svc_handler", "hw.mdscr_el1"),
    (f"{_HOST}/head.S", _BOOT, "hw.mdcr_el2"),
    (f"{_HOST}/hyp-stub.S", _BOOT, "hw.mdcr_el2"),
    (f"{_HOST}/perf_event.c", "armv8pmu_disable_user_access", "hw.pmuserenr_el0"),
    (f"{_HOST}/perf_event.c", "armv8pmu_enable_user_access", "hw.pmuserenr_el0"),
    (f"{_HOST}/perf_event.c", "macro RETURN_READ_PMEVCNTRN", "n##_el0"),
    (f"{_HOST}/perf_event.c", "macro WRITE_PMEVCNTRN", "hw.pmevcntr##n##_el0 n##_el0"),
    (f"{_HOST}/perf_event.c", "macro WRITE_PMEVTYPERN", "hw.pmevtyper##n##_el0 n##_el0"),
    ("virt/kvm/async_pf.c", "kvm_setup_async_pf", "arch"),
    ("virt/kvm/kvm_main.c", "__kvm_set_memory_region", "arch"),
    ("virt/kvm/kvm_main.c", "kvm_copy_memslot", "arch"),
    ("virt/kvm/kvm_main.c", "kvm_invalidate_memslot", "arch"),
    ("virt/kvm/kvm_main.c", "kvm_get_stat_per_vcpu", "vcpu"),  # a counter, at an offset from a table of counters
    ("virt/kvm/kvm_main.c", "kvm_clear_stat_per_vcpu", "vcpu"),
    ("virt/kvm/kvm_main.c", "vcpu_stat_get_per_vm", "vcpu"),
    ("virt/kvm/kvm_main.c", "vcpu_stat_clear_per_vm", "vcpu"),
)
_LIMITED: dict[str, frozenset[str]] = {
    **{name: frozenset(what.split()) for _, what, names in _OTHERS for name in names.split()},
    **{name: frozenset(what.split()) for name, what in _MACROS.items()},
}
_LIMITED_OUTSIDE = {(file, name): frozenset(what.split()) for file, name, what in _OUTSIDE}


def knows(file: str, function: str, lvalue: str) -> bool:
    """Whether a function may write something, as far as the specification has an account of it.

    Of a part of an operation that is so whatever it writes: there the C is compared, or read.
    """
    function = _BOOT if file.endswith(".S") and function.isdigit() else function
    part = (file, function) not in _LIMITED_OUTSIDE and function in OPERATIONS | _READ
    return part or _increments(function, lvalue) or limited(file, function, lvalue)


def _increments(function: str, lvalue: str) -> bool:
    """Whether a place is the increment of the PC, which each call makes anew: no caller goes without it."""
    return function == "kvm_incr_pc" and lvalue in ("INCREMENT_PC", "arch.flags")


def named(function: str) -> bool:
    """Whether a function is known by its name."""
    return function in OPERATIONS | _READ or function in _LIMITED


def hinges(file: str, function: str, lvalue: str) -> bool:
    """Whether that is known of a place only where its function is compared."""
    return not (_increments(function, lvalue) or limited(file, function, lvalue)) and lvalue not in _UNCOMPARED.get(
        function, ()
    )


def limited(file: str, function: str, lvalue: str) -> bool:
    """The same of a function that is no part of an operation."""
    function = _BOOT if file.endswith(".S") and function.isdigit() else function
    return lvalue in _LIMITED_OUTSIDE.get((file, function), _LIMITED.get(function, ()))
