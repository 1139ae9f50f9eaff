"""Why claims are false for some kernels: what is known, and the upstream fix. Verdicts never come from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from formal.epochs import Kernel


@dataclass(frozen=True)
class Finding:
    """One cause of violated claims."""

    name: str
    claims: tuple[str, ...]
    applies: Callable[[Kernel], bool]
    says: str
    fix: str

    @property
    def mended(self) -> bool:
        """Whether a later release, or the commit that ``fix`` names, has mended it."""
        return not self.fix.startswith("none")


_HPMN = (
    "hpmn_preserved_in_guest",
    "boot_value_read_before_use",
    "entry_is_fresh",
    "only_named_fields",
)
# What a stale MDCR_EL2 lets the guest do, and what follows from that (tests/scope/test_bugs.py: proved once written).
_UNTRAPPED = (
    "performance_monitors",
    "performance_monitors_do_not_execute",
    "performance_monitors_trapped",
    "debug_rom",
    "debug_rom_does_not_execute",
    "debug_rom_trapped",
    "os_registers",
    "os_registers_do_not_execute",
    "os_registers_trapped",
    "profiling",
    "profiling_does_not_execute",
    "profiling_trapped",
    "debug_registers_trapped_unless_in_use",
    "debug_registers_free_when_in_use",
    "host_debug_sets_tda",
    "host_debug_is_trapped",
    "host_takes_debug_exceptions",
    "guest_keeps_its_debug_exceptions",
    "guest_cannot_interfere",
    "saved_before_modified",
    "guest_mdscr_preserved",
    "guest_pstate_ss_preserved_undebugged",
    "guest_pstate_ss_preserved_unemulated",
    "guest_step_not_repeated_unstepped",
    "mdscr_trapped_if_left_alone",
    "mdscr_tweak_invisible",
    "mdscr_is_set_up",
    "untrapped_mdscr_is_guests_own",
    "mdscr_access_after_restore",
    "guest_bank_preserved",
    "external_bank_preserved",
    "external_bank_not_leaked",
    "untrapped_bank_is_guests_own",
    "host_debug_bank_restored",
    "host_breakpoints_inert_in_guest",
    "host_breakpoints_armed",
    "step_armed",
    "physical_os_lock_stays_clear",
)

FINDINGS: tuple[Finding, ...] = (
    Finding(
        "B0",
        (*_HPMN, "hpmn_preserved_on_host", "hpmn_preserved_always", "hpmn_never_reserved"),
        lambda k: k.vhe and not k.vhe_reads_boot_mdcr,
        "Under VHE kvm_arm_init_debug does not run, so the copy of MDCR_EL2 stays 0, and with it HPMN.",
        "da5a3ce66b8b (v4.20)",
    ),
    Finding(
        "B1",
        (*_HPMN, *_UNTRAPPED),
        lambda k: k.traps_at_load and not k.vhe_writes_changed_mdcr,
        "Under VHE MDCR_EL2 is written at vcpu_load only, from what the run before has computed (at first: 0).",
        "4942dc6638b0 (v5.6)",
    ),
    Finding(
        "rebuilt",
        (*_HPMN, "hpmn_preserved_on_host"),
        lambda k: k.vhe and not k.saves_host_mdcr,
        "At vcpu_put the host gets its HPMN from the guest's value, which may have been computed on another CPU, or "
        "be 0; when hyp initialisation runs again, it takes that for the boot value.",
        "1460b4b25fde (v5.15), which saves the host's value",
    ),
    Finding(
        "B10",
        ("host_mdcr_restored", "boot_value_read_in_full"),
        lambda k: not k.saves_host_mdcr,
        "The host's MDCR_EL2 is rebuilt from the guest's: TPMS stays set (VHE), E2PB becomes 3 (nVHE).",
        "1460b4b25fde and 12849badc6d2 (v5.15)",
    ),
    Finding(
        "B11",
        ("boot_value_read_in_full",),
        lambda k: k.mdcr_el2_bits < 64,
        "MDCR_EL2 has 64 bits and is kept in 32.",
        "d6c850dd6ce9 (v5.15)",
    ),
    Finding(
        "window",
        ("hpmn_preserved_always", "hpmn_never_reserved"),
        lambda k: k.traps_at_load and not k.tracks_debug_owner,
        "Under VHE vcpu_load writes the value computed on the CPU where the vCPU ran before; between load and "
        "kvm_arm_setup_debug this CPU has the other's HPMN.",
        "none for this code; the rework of v6.14 computes the value at vcpu_load",
    ),
    Finding(
        "B2",
        (
            "hpmn_preserved_always",
            "hpmn_preserved_always_on_equal_cpus",
            "hpmn_never_reserved_on_equal_cpus",
            "hpmn_never_reserved",
        ),
        lambda k: k.traps_at_load and not k.first_run_init,
        "The first vcpu_load under VHE writes 0 to MDCR_EL2, a reserved HPMN.",
        "263d6287da14 (v5.13)",
    ),
    Finding(
        "perf",
        ("performance_monitors_trapped", "performance_monitors_trapped_with_pmuv3p9", "user_access_is_set_up"),
        lambda k: k.traps_at_load and not k.guards_pmuserenr,
        "Under VHE perf may change PMUSERENR_EL0 between vcpu_load and the entry; EL0 accesses then go to EL1.",
        "0c2f9acf6ae7 (v6.4)",
    ),
    Finding(
        "pmuserenr",
        ("performance_monitors_trapped", "performance_monitors_trapped_with_pmuv3p9", "user_access_is_set_up"),
        lambda k: not k.sets_pmuserenr,
        "The guest runs with the host's PMUSERENR_EL0, so that EL0 accesses go to EL1 rather than to EL2.",
        "d692b8ad6ec4 (v4.6)",
    ),
    Finding(
        "pmuv3p9",
        ("performance_monitors_trapped_with_pmuv3p9",),
        lambda k: True,
        "KVM leaves PMUSERENR_EL0.UEN clear, so EL0 accesses of registers that need it go to the guest's EL1.",
        "none known; the registers are not offered to guests",
    ),
    Finding(
        "again",
        ("init_debug_runs_once",),
        lambda k: True,
        "Hyp initialisation runs again without a boot between: when a CPU comes out of a low-power state, or fails to "
        "enter one (CPU_PM), and when KVM is enabled again.",
        "none needed where each run reads the same (boot_value_read_in_full, event_counters_read_before_use)",
    ),
    Finding(
        "owned",
        ("mdscr_trapped",),
        lambda k: True,
        "A guest that uses its debug registers reaches MDSCR_EL1 without a trap, unless user space debugs with them or "
        "the OS lock is locked: the sentence is about the time in which MDSCR_EL1 is tweaked.",
        "none needed: mdscr_tweak_invisible",
    ),
    Finding(
        "u32",
        ("saved_before_modified", "guest_mdscr_preserved"),
        lambda k: k.preserved_mdscr_bits < 64 and not k.tracks_debug_owner,
        "guest_debug_preserved.mdscr_el1 has 32 bits; what user space puts above them is lost when it debugs.",
        "none for this code; the rework of v6.14 has no such copy",
    ),
    Finding(
        "comment",
        ("debug_exceptions_enabled_means_untrapped",),
        lambda k: not k.tracks_debug_owner,
        "TDA is decided from DEBUG_DIRTY before KDE and MDE raise it, so such an entry still traps; the comment in "
        "sys_regs.c promises more than the code does.",
        "the rework of v6.14 decides by KDE and MDE",
    ),
    Finding(
        "B4",
        ("guest_bank_preserved", "untrapped_bank_is_guests_own", "host_breakpoints_inert_in_guest"),
        lambda k: not k.indexes_trapped_banks,
        "Trapped accesses of break- and watchpoint registers all go to number 0.",
        "cb853ded1d25 (v5.13)",
    ),
    Finding(
        "B5",
        (
            "guest_pstate_ss_preserved",
            "guest_step_not_repeated",
            "guest_pstate_ss_preserved_if_one_steps_unlocked",
            "pstate_ss_copied_before_modified",
        ),
        lambda k: not k.preserves_pstate_ss,
        "Single-stepping sets PSTATE.SS at every entry and never puts it back.",
        "34fbdee086cf (v6.1)",
    ),
    Finding(
        "frozen",
        (
            "guest_pstate_ss_preserved",
            "guest_step_not_repeated",
            "guest_pstate_ss_preserved_undebugged",
            "guest_step_not_repeated_unstepped",
        ),
        lambda k: k.preserves_pstate_ss and not k.tracks_debug_owner,
        "While user space debugs in any way, or the guest's OS lock is locked, PSTATE.SS of before the entry is put "
        "back after the exit, though the guest has executed: a step of its own that has run is begun again.",
        "the rework of v6.14 (2ca3f03bf524) keeps it only while user space single-steps",
    ),
    Finding(
        "lent",
        ("guest_pstate_ss_preserved", "guest_step_not_repeated"),
        lambda k: k.tracks_debug_owner,
        "While user space single-steps, PSTATE.SS of before the load is put back at the put, though the guest has "
        "executed; while it debugs otherwise, MDSCR_EL1.SS is masked, so that the entry clears PSTATE.SS, though "
        "nothing has executed.",
        "none known",
    ),
    Finding(
        "B7",
        ("guest_pstate_ss_preserved_undebugged", "guest_step_not_repeated", "guest_step_not_repeated_unstepped"),
        lambda k: not k.skip_advances_step,
        "Skipping an emulated instruction leaves PSTATE.SS as it was: where the guest steps itself, one more runs.",
        "bd7d95cafb49 (v5.0)",
    ),
    Finding(
        "B6",
        ("one_step_one_instruction",),
        lambda k: not k.keeps_step_pending,
        "An exit between an instruction and its step exception sets PSTATE.SS again: one more instruction runs.",
        "370531d1e95b (v6.1)",
    ),
    Finding(
        "skip",
        ("one_step_one_instruction",),
        lambda k: k.keeps_step_pending and not k.tracks_debug_owner,
        "A step is lost when KVM_RUN returns, or the vCPU is reset, while the skip of an emulated instruction is "
        "pending; and reported without an instruction when stepping is switched off and on again while it is pending.",
        "2ca3f03bf524 (v6.14) keeps the step state at load and put",
    ),
    Finding(
        "restart",
        ("one_step_one_instruction",),
        lambda k: k.tracks_debug_owner,
        "A step is lost when the vCPU is reset while the skip of an emulated instruction is pending; and reported "
        "without an instruction when stepping is switched off and on again while the host's step is pending.",
        "none known",
    ),
    Finding(
        "unshared",
        (
            "copy_at_el2_has_external_mdscr",
            "external_mdscr_debugs_as_asked",
            "external_mdscr_follows_guest",
            "host_breakpoints_armed",
            "step_armed",
            "os_lock_spares_the_debugger",
            "one_step_one_instruction",
        ),
        lambda k: k.copies_vcpu and not k.hands_over_external_mdscr,
        "EL2 runs the guest with its own copy of external_mdscr_el1, which nobody hands to it: it stays 0, so that "
        "user space's breakpoints and steps do not work in protected mode.",
        "flush_debug_state copies external_mdscr_el1 (v7.3)",
    ),
    Finding(
        "flushed",
        ("protected_guest_keeps_its_traps",),
        lambda k: k.copies_vcpu,
        "pvm_init_traps_mdcr chooses traps for a protected guest (TDCC among them) once; flush_hyp_vcpu then "
        "overwrites them with the host's MDCR_EL2 at each entry.",
        "none known",
    ),
    Finding(
        "eret",
        ("one_step_one_instruction",),
        lambda k: k.nests,
        "A guest hypervisor's ERET, and an exception that enters it from its guest, are emulated between a put and a "
        "load that arms the step anew: one more instruction runs before the step is reported. Without leaving EL2, "
        "the guest hypervisor's own SPSR_EL2.SS decides.",
        "none known",
    ),
    Finding(
        "pmuver",
        (
            "event_counters_read_before_use",
            "hpmn_never_reserved",
            "only_named_fields",
            "entry_is_fresh",
            "hpmn_preserved_in_guest",
            "hpmn_preserved_always",
            "hpmn_preserved_on_host",
            "hypervisor_sets_nothing_else",
        ),
        lambda k: k.tracks_debug_owner and not k.reads_pmuv3p8_counters,
        "ID_AA64DFR0_EL1.PMUVer is compared as a signed field. From PMUv3p8 on (PMUVer 8) it looks negative, so that "
        "PMCR_EL0.N is never read and HPMN is 0, which is reserved without FEAT_HPMN0: the guest has no event counter.",
        "v7.1 asks pmuv3_implemented() with the field as it is",
    ),
    Finding(
        "watchpoint15",
        ("hypervisor_gets_what_it_traps",),
        lambda k: k.nests and not k.forwards_last_watchpoint,
        "emulate-nested.c's table of what a guest hypervisor traps has no entry for DBGWCR15_EL1: KVM itself emulates "
        "the access of the hypervisor's guest, whatever MDCR_EL2.TDE and TDA say.",
        "v7.0 has the entry",
    ),
    Finding(
        "B15",
        ("host_mdcr_restored", "host_mdcr_saved_first", "hpmn_preserved_on_host"),
        lambda k: k.vhe and k.tracks_debug_owner and not k.vhe_saves_host_mdcr_first,
        "Under VHE vcpu_load writes the guest's MDCR_EL2 before it saves what it takes for the host's, so that the "
        "host keeps the guest's traps after vcpu_put.",
        "da2e743419cb (v6.17)",
    ),
    Finding(
        "counters",
        ("hpmn_preserved_in_guest", "hpmn_preserved_always"),
        lambda k: k.vhe and k.tracks_debug_owner,
        "Under VHE HPMN is PMCR_EL0.N, whatever the boot code chose; the kernel's own boot code chooses just that.",
        "none needed as long as asm/el2_setup.h gives the guest every counter",
    ),
    Finding(
        "stale",
        ("external_mdscr_follows_guest",),
        lambda k: k.tracks_debug_owner,
        "external_mdscr_el1 is computed at vcpu_load; what the guest writes to MDSCR_EL1 while KVM owns the debug "
        "registers (TDCC, for instance) has no effect until the vCPU is loaded again.",
        "none known",
    ),
)
