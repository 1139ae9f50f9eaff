"""Who calls what changes modelled state: any other call would be a step that the specification does not have.

``formal.kernel.recognition.scan`` finds every store, and ``writers`` the functions that may make it. Those, and the
functions in
which operations are read by their calls, are called by the functions listed here in the kernels known (5.10, 6.1, 6.12
and 7.3); a mention elsewhere refuses the tree. So does a function that is read by its calls if it newly calls something
that leads to one of these. Mentions are searched for by tokens, whatever the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.text.tokens import Token, arguments_of

TABLE = (
    "-"  # an initializer, or another mention outside functions: formal.kernel.compare.tables reads those that matter
)
_BANKS = "macro DBG_BCR_BVR_WCR_WVR_EL1"
_COPROCESSOR = f"{_BANKS}, macro DBG_BCR_BVR_WCR_WVR"
_RUN = "__kvm_vcpu_run, __kvm_vcpu_run_vhe"
_SWITCHES = (
    "__debug_switch_to_guest, __debug_switch_to_guest_common, __debug_switch_to_host, __debug_switch_to_host_common"
)
_EMULATED = (
    "handle_exit, handle_smc, handle_trap_exceptions, kvm_handle_guest_abort, kvm_handle_mmio_return, kvm_handle_wfx"
)
_MOVES = "kvm_emulate_nested_eret, kvm_inject_nested, kvm_reset_vcpu"

CALLERS: Mapping[str, frozenset[str]] = {callee: frozenset(callers.split(", ")) for callee, callers in {
    # debug.c
    "kvm_arm_init_debug": "cpu_hyp_init_features, cpu_hyp_reinit, cpu_init_hyp_mode",
    "kvm_arm_vcpu_init_debug": "kvm_arch_vcpu_run_pid_change, kvm_vcpu_first_run_init",
    "kvm_arm_reset_debug_ptr": "kvm_arch_vcpu_create, kvm_arch_vcpu_init, kvm_arm_clear_debug",
    "kvm_arm_setup_debug": "kvm_arch_vcpu_ioctl_run, -",
    "kvm_arm_clear_debug": "kvm_arch_vcpu_ioctl_run, -",
    "kvm_arm_setup_mdcr_el2":
        "kvm_arm_setup_debug, kvm_arm_vcpu_init_debug, kvm_debug_set_guest_ownership, kvm_vcpu_load_debug",
    "save_guest_debug_regs": "kvm_arm_setup_debug",
    "restore_guest_debug_regs": "kvm_arm_clear_debug",
    "kvm_init_host_debug_data": "cpu_hyp_init_context",
    "kvm_vcpu_load_debug": "kvm_arch_vcpu_load",
    "kvm_vcpu_put_debug": "kvm_arch_vcpu_put",
    "kvm_debug_set_guest_ownership": "trap_dbg_wb_reg, trap_debug_regs",
    "kvm_debug_handle_oslar": "trap_oslar_el1",
    "setup_external_mdscr": "kvm_vcpu_load_debug",
    # a CPU's initialisation, a vCPU's life
    "cpu_hyp_init_features": "cpu_hyp_reinit, do_pkvm_init",
    "cpu_init_hyp_mode": "cpu_hyp_init_context, cpu_hyp_reinit, hyp_init_cpu_notify, init_hyp_mode",
    "cpu_hyp_init_context": "cpu_hyp_reinit, do_pkvm_init",
    "cpu_hyp_reinit": "_kvm_arch_hardware_enable, cpu_hyp_init, hyp_init_cpu_pm_notifier",
    "kvm_vcpu_first_run_init": "kvm_arch_vcpu_ioctl_run",
    "kvm_reset_vcpu": "__kvm_vcpu_set_target, check_vcpu_requests, kvm_arch_vcpu_ioctl, kvm_vcpu_set_target",
    "kvm_reset_sys_regs": "kvm_reset_vcpu",
    "vcpu_load": "kvm_arch_vcpu_ioctl_run, kvm_vcpu_pre_fault_memory, kvm_vcpu_ioctl, -",
    "vcpu_put": "kvm_arch_vcpu_ioctl_run, kvm_vcpu_pre_fault_memory, kvm_vcpu_ioctl, -",
    "kvm_arch_vcpu_load": f"{_MOVES}, kvm_debug_handle_oslar, kvm_sched_in, post_fault_synchronize, vcpu_load",
    "kvm_arch_vcpu_put": f"{_MOVES}, kvm_debug_handle_oslar, kvm_sched_out, pre_fault_synchronize, vcpu_put",
    "kvm_vcpu_load_sysregs_vhe": "kvm_arch_vcpu_load",
    "kvm_vcpu_put_sysregs_vhe": "kvm_arch_vcpu_put",
    "kvm_vcpu_load_vhe": "kvm_arch_vcpu_load",
    "kvm_vcpu_put_vhe": "kvm_arch_vcpu_put",
    "__vcpu_load_activate_traps": "kvm_vcpu_load_vhe",
    "__vcpu_put_deactivate_traps": "kvm_vcpu_put_vhe",
    "deactivate_traps_vhe_put": "kvm_vcpu_put_sysregs_vhe",
    # a guest that is a hypervisor
    "kvm_nested_setup_mdcr_el2": "kvm_arm_setup_mdcr_el2",
    "kvm_inject_nested":
        "kvm_inject_nested_irq, kvm_inject_nested_sea, kvm_inject_nested_serror, kvm_inject_nested_sync",
    "kvm_emulate_nested_eret": "kvm_handle_eret",
    "kvm_handle_eret": TABLE,
    "kvm_hyp_handle_eret": TABLE,
    "fixup_nv_guest_exit": "fixup_guest_exit",
    "access_mdcr": TABLE,
    "reset_mdcr": TABLE,
    "set_pmcr": TABLE,
    "kvm_arm_set_nr_counters": "kvm_arm_pmu_v3_set_nr_counters, kvm_arm_set_pmu",
    "kvm_vcpu_load_fgt": "kvm_arch_vcpu_load",
    "vcpu_fgt": "__compute_fgt, __compute_hdfgwtr, __compute_hfgwtr, __compute_ich_hfgrtr, __compute_ich_hfgwtr,"
        " macro __activate_fgt, macro vcpu_fgt",
    # the run loop and the world switch
    "kvm_arm_vcpu_enter_exit": "kvm_arch_vcpu_ioctl_run",
    "handle_exit": "kvm_arch_vcpu_ioctl_run",
    "__kvm_vcpu_run": "handle___kvm_vcpu_run, handle_host_hcall, kvm_arch_vcpu_ioctl_run, kvm_arm_vcpu_enter_exit, -",
    "kvm_vcpu_run_vhe": "kvm_arch_vcpu_ioctl_run",
    "__kvm_vcpu_run_vhe": "__kvm_vcpu_run, kvm_vcpu_run_vhe, kvm_arch_vcpu_ioctl_run, -",
    "__guest_enter": _RUN,
    "fixup_guest_exit": _RUN,
    "__fixup_guest_exit": "fixup_guest_exit",
    "synchronize_vcpu_pstate": "fixup_guest_exit",
    "__activate_traps": f"{_RUN}, -",
    "__deactivate_traps": f"{_RUN}, __hyp_call_panic, hyp_panic, -",
    "__activate_traps_common": "__activate_traps, __vcpu_load_activate_traps, activate_traps_vhe_load",
    "__deactivate_traps_common": "__deactivate_traps, __vcpu_put_deactivate_traps, deactivate_traps_vhe_put",
    "__debug_switch_to_guest": _RUN,
    "__debug_switch_to_host": _RUN,
    "__debug_switch_to_guest_common": "__debug_switch_to_guest",
    "__debug_switch_to_host_common": "__debug_switch_to_host",
    "__debug_save_state": _SWITCHES,
    "__debug_restore_state": _SWITCHES,
    "__vcpu_debug_regs": "__debug_switch_to_guest_common, __debug_switch_to_host_common",
    "ctxt_mdscr_el1": "__sysreg_save_common_state, __sysreg_restore_common_state",
    "__sysreg_save_state_nvhe": "__kvm_vcpu_run",
    "__sysreg_restore_state_nvhe": "__kvm_vcpu_run, hyp_panic",
    "__sysreg_save_el2_return_state": "__sysreg_save_state_nvhe, sysreg_save_guest_state_vhe",
    "__sysreg_save_common_state": "__sysreg_save_state_nvhe, sysreg_save_guest_state_vhe, sysreg_save_host_state_vhe",
    "__sysreg_restore_common_state":
        "__sysreg_restore_state_nvhe, sysreg_restore_guest_state_vhe, sysreg_restore_host_state_vhe",
    "sysreg_save_host_state_vhe": "__kvm_vcpu_run_vhe, -",
    "sysreg_restore_host_state_vhe": "__kvm_vcpu_run_vhe, __hyp_call_panic, -",
    "sysreg_save_guest_state_vhe": "__kvm_vcpu_run_vhe, -",
    "sysreg_restore_guest_state_vhe": "__kvm_vcpu_run_vhe, -",
    # protected mode
    "flush_hyp_vcpu": "handle___kvm_vcpu_run",
    "sync_hyp_vcpu": "handle___kvm_vcpu_run",
    "flush_debug_state": "flush_hyp_vcpu",
    "sync_debug_state": "sync_hyp_vcpu",
    "pvm_init_traps_mdcr": "pkvm_vcpu_init_traps",
    # skipping instructions, exceptions
    "kvm_incr_pc": f"{_EMULATED}, perform_access",
    "kvm_skip_instr": f"{_EMULATED}, decode_hsr, emulate_cp, perform_access, __kvm_adjust_pc, __kvm_skip_instr",
    "__kvm_skip_instr":
        "__vgic_v2_perform_cpuif_access, __vgic_v3_perform_cpuif_access, handle_ampere1_tcr, handle_tx2_tvm,"
        " kvm_handle_cntxct, kvm_handle_pvm_sysreg, kvm_hyp_handle_cntpct, kvm_hyp_handle_cpacr_el1,"
        " kvm_hyp_handle_timer, kvm_hyp_handle_tlbi_el2, fixup_guest_exit",
    "__kvm_adjust_pc":
        f"{_RUN}, commit_pending_events, handle___kvm_adjust_pc, inject_sync64, inject_undef64,"
        " kvm_arch_vcpu_ioctl_run, kvm_inject_nested, -",
    "kvm_inject_exception": "__kvm_adjust_pc",
    "enter_exception64": "inject_abt64, inject_undef64, kvm_inject_exception",
    "kvm_handle_mmio_return": "io_mem_abort, kvm_arch_vcpu_ioctl_run",
    "kvm_hyp_handle_mops": TABLE,
    # handlers and ioctls
    "kvm_handle_guest_debug": TABLE,
    "trap_debug_regs": TABLE,
    "trap_oslar_el1": TABLE,
    "set_oslsr_el1": TABLE,
    "kvm_arch_vcpu_ioctl_set_guest_debug": "kvm_vcpu_ioctl",
    "kvm_sys_reg_set_user": "kvm_arm_sys_reg_set_reg, vgic_v3_cpu_sysregs_uaccess",
    "kvm_arm_sys_reg_get_reg": "kvm_arm_get_reg",
    "kvm_arm_sys_reg_set_reg": "kvm_arm_set_reg",
    "core_reg_addr": "get_core_reg, set_core_reg",
    "reg_to_dbg": "trap_bcr, trap_bvr, trap_dbg_wb_reg, trap_wcr, trap_wvr",
    "demux_wb_reg": "get_dbg_wb_reg, reset_dbg_wb_reg, set_dbg_wb_reg, trap_dbg_wb_reg",
    "trap_dbg_wb_reg": f"{_COPROCESSOR}, macro DBGBXVR",
    **{f"trap_{bank}": _COPROCESSOR for bank in ("bcr", "wcr", "wvr")},
    "trap_bvr": f"{_COPROCESSOR}, macro DBGBXVR",
    "trap_xvr": "macro DBGBXVR",
    **{f"{does}_{bank}": _BANKS for does in ("set", "get", "reset") for bank in ("bvr", "bcr", "wvr", "wcr")},
    "reset_val": "macro EL2_REG_VNCR_FILT, macro TIMER_REG, -",
    "reset_unknown":
        "macro MTE_REG, macro PMU_PMEVCNTR_EL0, macro PMU_PMEVTYPER_EL0, macro __PTRAUTH_KEY, reset_pmevcntr,"
        " reset_pmevtyper, reset_pmselr, reset_pmu_reg, -",
}.items()}  # fmt: skip
# Functions read by their calls, and what each may call that leads to one of the above: rules say when it does.
READ: Mapping[str, frozenset[str]] = {reader: frozenset(callees.split()) for reader, callees in {
    "kvm_arch_vcpu_ioctl_run":
        "check_vcpu_requests handle_exit_early kvm_nested_flush_hwstate kvm_nested_sync_hwstate",
    "kvm_arm_vcpu_enter_exit": "",
    "__kvm_vcpu_run": "",
    "kvm_vcpu_run_vhe": "",
    "__kvm_vcpu_run_vhe": "",
    "fixup_guest_exit": "__vgic_v2_perform_cpuif_access __vgic_v3_perform_cpuif_access handle_tx2_tvm",
    "kvm_arch_vcpu_load": "",
    "kvm_arch_vcpu_put": "",
    "kvm_vcpu_load_vhe": "",
    "kvm_vcpu_put_vhe": "",
    "kvm_reset_vcpu": "kvm_vcpu_set_be kvm_reset_vcpu_psci",
    "kvm_arch_vcpu_create": "kvm_vcpu_init",
    "kvm_arch_vcpu_init": "",
    "cpu_hyp_reinit": "",
    "cpu_init_hyp_mode": "",
    "cpu_hyp_init_features": "",
    "kvm_arch_vcpu_run_pid_change": "pkvm_create_hyp_vcpu pkvm_create_hyp_vm",
    "kvm_vcpu_first_run_init": "",
    "__kvm_adjust_pc": "",
    "handle_trap_exceptions": "",
    "perform_access": "kvm_inject_undefined bad_trap",
}.items()}  # fmt: skip
SELECTS = "hyp_alternate_select"  # before v5.4 defines a function that gives one of two, by what the CPUs have


def selectors(words: Sequence[Token]) -> Iterator[tuple[Token, list[Token]]]:
    """The functions that choose between functions, and those."""
    for i, word in enumerate(words):
        if word.text == SELECTS and not word.function:
            first, *chosen = [argument[0] for argument in arguments_of(list(words), i + 1) if len(argument) == 1]
            yield first, chosen


Bodies = dict[str, dict[str, tuple[str, int]]]  # by function: the names in its body, and where each comes first


@dataclass
class Mentions:
    """Which functions mention which others, by name."""

    whole: Collection[str] = ()  # files whose every function is lifted: what they call is seen
    bodies: Bodies = field(default_factory=dict)  # by function or macro
    kept: set[str] = field(default_factory=set)  # names outside functions that are neither called nor declared there
    gaps: Gaps = field(default_factory=Gaps)

    def add(self, file: str, words: Iterable[Token]) -> None:
        """Takes in a file.

        Raises:
            NotUnderstoodError: at a mention in a function that is not among the callers known.
        """
        self.merge(self.of(file, words))

    def merge(self, bodies: Bodies) -> None:
        """Takes in what ``of`` found in a file; of functions of one name, the names of all count."""
        for function, names in bodies.items():
            known = self.bodies.setdefault(function, {})
            for name, place in names.items():
                known.setdefault(name, place)

    def of(self, file: str, words: Iterable[Token]) -> Bodies:
        """The functions of a file, with the names in their bodies.

        Raises:
            NotUnderstoodError: at a mention in a function that is not among the callers known.
        """
        words, found = list(words), Bodies()
        selecting = list(selectors(words))
        found |= {name.text: {w.text: (file, w.line) for w in of} for name, of in selecting}
        selected = {id(w) for name, of in selecting for w in (name, *of)}
        at_file_level = ((w, after) for w, after in pairwise(words) if not w.function and id(w) not in selected)
        self.kept |= {w.text for w, after in at_file_level if w.text.isidentifier() and after.text != "("}
        before = Token("", 0, "")
        for word in (*words, Token("", 0, "")):
            name, inside = before.text, before.function
            silent = (not inside and word.text == "(") or inside == name or (inside and file in self.whole)
            if name in CALLERS and not silent and (inside or TABLE) not in CALLERS[name]:
                place = f"in {inside}()" if inside else "outside a function"
                reason = f"{name}() may be called {place}, which the specification does not know"
                with self.gaps.at(inside, writes=f"{name}()"):
                    raise NotUnderstoodError(file, before.line, reason)
            if inside and name.isidentifier():
                found.setdefault(inside.removeprefix("macro "), {}).setdefault(name, (file, before.line))
            before = word
        return found

    def leading(self) -> set[str]:
        """The functions that change modelled state, those that call them, and so on."""
        found = set(CALLERS)
        while more := {f for f, body in self.bodies.items() if f not in found and not found.isdisjoint(body)}:
            found |= more
        return found

    def check(self) -> None:
        """Refuses a function that is read by its calls and calls more that leads to modelled state.

        Raises:
            NotUnderstoodError: at the first such call.
        """
        leading = self.leading()
        for reader, allowed in READ.items():
            for name, (file, line) in self.bodies.get(reader, {}).items():
                if name in leading and name in self.bodies and name not in allowed and name not in CALLERS:
                    reason = f"{reader}() calls {name}(), which may change modelled state"
                    with self.gaps.at(reader, writes=f"{name}()"):
                        raise NotUnderstoodError(file, line, reason)
