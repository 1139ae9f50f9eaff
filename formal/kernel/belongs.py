"""What a piece of C belongs to: the operations, and parts of operations, that are not what is said if it is not so.

A name is that of an operation (``formal/transitions.py``) or of a part (``formal/worldswitch.py``), or ``LOADING``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from formal.epochs import Kernel

INIT, CREATE, FIRST_RUN = "kvm_arm_init_debug", "kvm_arch_vcpu_create", "kvm_arm_vcpu_init_debug"
LOAD, PUT, RUN_RETURNS = "kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "kvm_arch_vcpu_ioctl_run returns"
SETUP, CLEAR = "kvm_arm_setup_debug", "kvm_arm_clear_debug"
ENTERS, EXITS, REENTERS = "__kvm_vcpu_run enters", "__kvm_vcpu_run returns", "fixup_guest_exit re-enters"
TRAP_MDSCR, TRAP_BANK, TRAP_OSLAR = "trap_debug_regs", "trap_bvr, trap_bcr, trap_wvr, trap_wcr", "trap_oslar_el1"
ACCESS_MDCR, EMULATES, REPAIRS = "access_mdcr", "handle_exit emulates", "handle_exit repairs"
GUEST_DEBUG, MMIO, CPU_OFF = "kvm_handle_guest_debug", "kvm_handle_mmio_return", "PSCI CPU_OFF"
INJECTS, ERET, HYP_ERET = "kvm_inject_nested", "kvm_emulate_nested_eret", "kvm_hyp_handle_eret"
RESET_BY_USER, RESET = "KVM_ARM_VCPU_INIT", "kvm_reset_vcpu"
SET_MDSCR, SET_PSTATE, SET_OSLSR = (f"KVM_SET_ONE_REG {name}" for name in ("MDSCR_EL1", "PSTATE", "OSLSR_EL1"))
SET_BANK, SET_EL2 = "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings", "KVM_SET_ONE_REG HCR_EL2, MDCR_EL2"
SET_COUNTERS, SET_DEBUG, PERF = "KVM_ARM_VCPU_PMU_V3", "KVM_SET_GUEST_DEBUG", "the host writes PMUSERENR_EL0"

LOADING = "whatever puts or loads a vCPU"
RESETS = (RESET_BY_USER, RESET)
TRAPS = (TRAP_MDSCR, TRAP_BANK, TRAP_OSLAR, ACCESS_MDCR)
SKIPPING = (*TRAPS, EMULATES, MMIO)
NESTING = (INJECTS, ERET, HYP_ERET, GUEST_DEBUG)
HANDLING = (*TRAPS, *NESTING, EMULATES, REPAIRS, CPU_OFF)
SETTING = (SET_MDSCR, SET_PSTATE, SET_OSLSR, SET_BANK, SET_EL2)
RUN_LOOP = (FIRST_RUN, LOAD, PUT, MMIO, SETUP, ENTERS, EXITS, CLEAR, RUN_RETURNS)
WORLD_SWITCH = (ENTERS, EXITS, REENTERS, HYP_ERET)
SET_UP = (SETUP, FIRST_RUN, LOADING, TRAP_MDSCR, TRAP_BANK)  # by kvm_arm_setup_mdcr_el2

# C functions that are neither operations nor parts of their own
FUNCTIONS: Mapping[str, tuple[str, ...]] = {name: of for names, of in (
    ("save_guest_debug_regs", (SETUP,)),
    ("restore_guest_debug_regs", (CLEAR,)),
    ("kvm_arm_setup_mdcr_el2", SET_UP),
    ("kvm_arm_reset_debug_ptr", (CREATE, CLEAR)),
    ("setup_external_mdscr", (LOADING,)),
    ("kvm_debug_set_guest_ownership", (TRAP_MDSCR, TRAP_BANK)),
    ("kvm_init_host_debug_data", (INIT,)),
    ("kvm_debug_handle_oslar", (TRAP_OSLAR,)),
    ("kvm_skip_instr", (*SKIPPING, ENTERS, RUN_RETURNS)),
    ("__kvm_skip_instr", (REENTERS,)),
    ("kvm_inject_exception", (ENTERS, RUN_RETURNS, INJECTS)),
    ("synchronize_vcpu_pstate", (EXITS, REENTERS)),
    ("__activate_traps_common", ("activate traps", PERF)),
    ("__deactivate_traps_common deactivate_traps_vhe_put", ("deactivate traps", PERF)),
    ("__activate_traps", ("activate traps", "traps at entry")),
    ("__deactivate_traps", ("deactivate traps", "traps at exit")),
    ("kvm_handle_sys_reg emulate_sys_reg find_reg match_sys_reg index_to_params", (*TRAPS, EMULATES)),
    ("trap_oslsr_el1 trap_raz_wi read_zero", (EMULATES,)),
    ("get_reg_by_id id_to_sys_reg_desc kvm_sys_reg_set_user kvm_arm_sys_reg_set_reg kvm_arm_set_reg", SETTING),
    ("get_bvr get_bcr get_wvr get_wcr get_dbg_wb_reg", (SET_BANK,)),
    ("reset_val kvm_reset_sys_regs reset_sys_reg_descs", RESETS),
    ("handle_exit kvm_get_exit_handler", HANDLING),
    ("set_core_reg core_reg_addr", (SET_PSTATE,)),
    ("forward_debug_exception forward_mdcr_traps __forward_traps", (*NESTING, *TRAPS)),
    ("kvm_vcpu_apply_reg_masks", (*SETTING, *TRAPS, *RESETS)),
) for name in names.split()}  # fmt: skip
# where operations are in the C: what is called in there, outside what they are made of, takes part in them
ROOTS: Mapping[str, tuple[str, ...]] = {
    INIT: ("cpu_hyp_reinit", "cpu_hyp_init_context", "cpu_hyp_init_features"),
    CREATE: ("kvm_arch_vcpu_create",),
    FIRST_RUN: ("kvm_arch_vcpu_run_pid_change", "kvm_vcpu_first_run_init"),
    LOADING: ("kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "vcpu_load", "vcpu_put", "kvm_sched_in", "kvm_sched_out"),
    SETUP: ("kvm_arm_setup_debug", "kvm_arch_vcpu_ioctl_run"),
    ENTERS: (
        "__kvm_vcpu_run",
        "__kvm_vcpu_run_vhe",
        "kvm_vcpu_run_vhe",
        "kvm_arm_vcpu_enter_exit",
        "kvm_arch_vcpu_ioctl_run",
    ),
    EXITS: ("__kvm_vcpu_run", "__kvm_vcpu_run_vhe", "kvm_vcpu_run_vhe", "fixup_guest_exit", "kvm_arch_vcpu_ioctl_run"),
    REENTERS: ("fixup_guest_exit",),
    CLEAR: ("kvm_arm_clear_debug", "kvm_arch_vcpu_ioctl_run"),
    RUN_RETURNS: ("kvm_arch_vcpu_ioctl_run",),
    GUEST_DEBUG: ("kvm_handle_guest_debug",),
    TRAP_MDSCR: ("trap_debug_regs", "perform_access"),
    TRAP_BANK: ("trap_bvr", "trap_bcr", "trap_wvr", "trap_wcr", "trap_dbg_wb_reg", "perform_access"),
    TRAP_OSLAR: ("trap_oslar_el1", "perform_access"),
    ACCESS_MDCR: ("access_mdcr", "perform_access"),
    INJECTS: ("kvm_inject_nested",),
    ERET: ("kvm_emulate_nested_eret",),
    HYP_ERET: ("kvm_hyp_handle_eret",),
    MMIO: ("kvm_handle_mmio_return",),
    RESET_BY_USER: ("kvm_reset_vcpu", "kvm_vcpu_set_target", "__kvm_vcpu_set_target"),
    RESET: ("kvm_reset_vcpu",),
    SET_PSTATE: ("set_core_reg",),
    SET_OSLSR: ("set_oslsr_el1",),
    SET_BANK: ("set_bvr", "set_bcr", "set_wvr", "set_wcr", "set_dbg_wb_reg"),
    SET_DEBUG: ("kvm_arch_vcpu_ioctl_set_guest_debug",),
    SET_COUNTERS: ("kvm_arm_set_nr_counters",),
    PERF: ("kvm_set_pmuserenr",),
}
# claims about the inside of an operation, which say nothing where that is not understood
INSIDE: Mapping[str, str] = {"bug_on_unreachable": SETUP}


def loading(k: Kernel) -> tuple[str, ...]:
    """The operations of a kernel that put or load a vCPU."""
    by_owner = (TRAP_OSLAR,) if k.tracks_debug_owner else ()
    return (LOAD, PUT, RUN_RETURNS, RESET, *by_owner, *((INJECTS, ERET, GUEST_DEBUG) if k.nests else ()))


def expanded(names: Iterable[str], k: Kernel) -> frozenset[str]:
    """Operations and parts, for names that may be C functions, or ``LOADING``; others as they are."""
    found = {one for name in names for one in FUNCTIONS.get(name, (name,))}
    return frozenset(found - {LOADING} | {*loading(k)} if LOADING in found else found)
