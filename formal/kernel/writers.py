"""The functions under arch/arm64/kvm that may write something modelled, each with the reason why that is accounted for.

``formal.kernel.scan`` finds the places; a place in a function that is not listed here refuses the tree. The reasons are
of four kinds: the function is (part of) an operation of the specification; it is a primitive that operations go
through; what it writes is another register than those modelled; or it belongs to a part that is not modelled, which
the report says.
"""

from __future__ import annotations

OPERATION = "part of an operation of the specification"
PRIMITIVE = "a primitive: each use of it is a place of its own"
OTHER = "writes registers or members that are not modelled"
AARCH32 = "AArch32 guests are not modelled"
PROTECTED = "of protected mode only what is handed over at an entry and given back is modelled"
NESTED = "part of nested virtualization that is not modelled, or was not before v6.18"

_REASONS: dict[str, str] = {
    OPERATION: """
        save_guest_debug_regs restore_guest_debug_regs kvm_arm_setup_mdcr_el2 kvm_arm_reset_debug_ptr
        kvm_arm_setup_debug kvm_arm_clear_debug kvm_arch_vcpu_ioctl_set_guest_debug kvm_handle_guest_debug
        __debug_save_state __debug_restore_state __debug_switch_to_guest_common __debug_switch_to_host_common
        __activate_traps_common __deactivate_traps_common __deactivate_traps deactivate_traps_vhe_put
        __sysreg_save_common_state __sysreg_restore_common_state __sysreg_save_el2_return_state
        synchronize_vcpu_pstate fixup_guest_exit kvm_skip_instr __kvm_skip_instr enter_exception64 kvm_hyp_handle_mops
        trap_oslar_el1 set_oslsr_el1 trap_debug_regs reg_to_dbg trap_xvr
        trap_bvr set_bvr get_bvr reset_bvr trap_bcr set_bcr get_bcr reset_bcr
        trap_wvr set_wvr get_wvr reset_wvr trap_wcr set_wcr get_wcr reset_wcr
        kvm_reset_vcpu kvm_reset_sys_regs reset_val reset_unknown core_reg_addr
        kvm_init_host_debug_data setup_external_mdscr kvm_vcpu_load_debug kvm_vcpu_put_debug
        kvm_debug_set_guest_ownership kvm_debug_handle_oslar __vcpu_debug_regs ctxt_mdscr_el1 __activate_traps
        demux_wb_reg kvm_emulate_nested_eret fixup_nv_guest_exit kvm_nested_setup_mdcr_el2
        flush_hyp_vcpu sync_hyp_vcpu flush_debug_state sync_debug_state
        access_mdcr reset_mdcr kvm_arm_set_nr_counters set_pmcr
        kvm_sys_reg_set_user kvm_arm_sys_reg_set_reg kvm_arm_sys_reg_get_reg""",
    PRIMITIVE: "vcpu_write_sys_reg __vcpu_write_sys_reg",
    OTHER: """
        __debug_save_host_buffers_nvhe __debug_save_spe __debug_save_brbe __trace_drain_and_disable
        __trace_switch_to_guest inject_abt64 kvm_inject_sync kvm_inject_dabt_excl_atomic kvm_inject_size_fault
        kvm_inject_serror_esr kvm_pmu_set_counter_value_user arch_timer_set_user set_gic_ich_reg
        access_vm_reg access_rw access_csselr
        access_pmu_evtyper reset_pmu_reg reset_pmevcntr reset_pmevtyper reset_pmselr reset_pmcr set_pmreg
        kvm_pmu_set_counter_value kvm_pmu_set_pmc_value kvm_pmu_stop_counter kvm_pmu_counter_increment
        kvm_pmu_software_increment kvm_pmu_set_counter_event_type reset_clidr set_clidr reset_hcr
        fpsimd_lazy_switch_to_host""",
    AARCH32: "enter_exception32 prepare_fault32 kvm_adjust_itstate trap_debug32",
    PROTECTED: """
        pvm_init_trap_regs pvm_init_traps_aa64dfr0 pvm_init_traps_aa64mmfr0 init_pkvm_hyp_vcpu __copy_vcpu_state
        inject_undef64 inject_sync64 pvm_init_traps_mdcr pkvm_vcpu_init_traps vm_copy_id_regs""",
    NESTED: """
        kvm_init_nv_sysregs vgic_v3_sync_nested vgic_v3_put_nested""",
}
_MACROS: dict[str, str] = {
    "macro write_debug": PRIMITIVE,
    "macro __ptrauth_save_key": OTHER,
    "macro PMEVTYPER_WRITE_CASE": OTHER,
    "macro update_fgt_traps_cs": OTHER,
    "macro __deactivate_fgt": OTHER,
    "macro __activate_fgt": OTHER,
}
KNOWN: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()} | _MACROS
