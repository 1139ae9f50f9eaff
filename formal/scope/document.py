"""The sentences of the kernel-doc page of debug.c (around v4.18) in our own words, with the claims that answer each.

Place: the function whose comment it is, and the number of the sentence in that comment. ``find`` are a few words by
which the sentence is found again in the comments of a kernel tree, where ``--spec --kernel TREE`` shows the original.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """One sentence of the document."""

    place: str
    says: str
    claims: tuple[str, ...]
    find: str


DOCUMENT: tuple[Sentence, ...] = (
    Sentence(
        "save_guest_debug_regs, sentence 1",
        "Some debug operations change registers of the guest for the time of an entry.",
        ("step_armed", "host_breakpoints_armed", "untrapped_mdscr_is_guests_own"),
        "need to tweak some guest registers",
    ),
    Sentence(
        "save_guest_debug_regs, sentence 2",
        "So their values are saved before they are changed.",
        (
            "saved_before_modified",
            "saved_before_modified_in_32_bits",
            "guest_mdscr_preserved",
            "guest_mdscr_preserved_in_32_bits",
            "mdscr_copied_before_modified",
            "pstate_ss_copied_before_modified",
        ),
        "save the state of those registers",
    ),
    Sentence(
        "save_guest_debug_regs, sentence 3",
        "The guest's accesses of MDSCR_EL1 trap, and are handled once the saved value is back in the context.",
        ("mdscr_trapped", "mdscr_trapped_if_left_alone", "mdscr_tweak_invisible", "mdscr_access_after_restore"),
        "access to MDSCR_EL1 is trapped",
    ),
    Sentence(
        "kvm_arm_init_debug, title",
        "Initialisation takes what debug will need.",
        ("boot_value_read_before_use", "boot_value_read_in_full"),
        "grab what we need for debug",
    ),
    Sentence(
        "kvm_arm_init_debug, sentence 1",
        "It reads the first value of MDCR_EL2, so that HPMN, presumably set by boot code that knows, can be kept.",
        (
            "hpmn_preserved_in_guest",
            "hpmn_preserved_in_guest_if_read_at_boot",
            "hpmn_preserved_on_host",
            "hpmn_preserved_always",
            "hpmn_preserved_always_on_equal_cpus",
            "boot_value_read_in_full",
            "init_debug_has_one_task",
        ),
        "preserve MDCR_EL2.HPMN",
    ),
    Sentence(
        "kvm_arm_init_debug, sentence 2",
        "It runs once for each CPU, when the CPU's hyp initialisation does.",
        (
            "init_debug_runs_once",
            "boot_value_read_before_use",
            "boot_value_read_before_use_if_read_at_boot",
            "boot_value_read_in_full",
            "event_counters_read_before_use",
        ),
        "called once per-cpu",
    ),
    Sentence(
        "kvm_arm_reset_debug_ptr, title",
        "debug_ptr is made to point to the vCPU's own registers.",
        ("debug_ptr_reset", "bug_on_unreachable"),
        "reset the debug ptr",
    ),
    Sentence(
        "kvm_arm_setup_debug, title",
        "Sets up what debugging needs.",
        ("entry_is_fresh", "only_named_fields"),
        "set up debug related stuff",
    ),
    Sentence(
        "kvm_arm_setup_debug, sentence 1",
        "It runs before each entry, to set up the registers that debugging concerns.",
        (
            "setup_before_every_entry",
            "entry_is_fresh",
            "entry_is_fresh_if_read_at_boot",
            "mdscr_is_set_up",
            "external_mdscr_follows_guest",
            "external_mdscr_follows_guest_if_left_alone",
            "mdscr_is_guests_unless_taken",
            "host_breakpoints_inert_in_guest",
            "owner_has_the_registers",
            "user_access_is_set_up",
            "user_access_is_set_up_without_perf",
            "step_armed",
        ),
        "called before each entry into the hypervisor",
    ),
    Sentence(
        "kvm_arm_setup_debug, sentence 2",
        "What it makes sure of is that the accesses listed next trap.",
        ("entry_is_fresh", "only_named_fields"),
        "ensures we will trap",
    ),
    Sentence(
        "kvm_arm_setup_debug, list item 1",
        "Performance monitors trap (TPM, TPMCR).",
        ("performance_monitors", "performance_monitors_do_not_execute", "performance_monitors_trapped"),
        "Performance monitors",
    ),
    Sentence(
        "kvm_arm_setup_debug, list item 2",
        "The debug ROM address registers trap (TDRA).",
        ("debug_rom", "debug_rom_does_not_execute", "debug_rom_trapped"),
        "Debug ROM Address",
    ),
    Sentence(
        "kvm_arm_setup_debug, list item 3",
        "The OS registers trap (TDOSA).",
        (
            "os_registers",
            "os_registers_do_not_execute",
            "os_registers_trapped",
            "physical_os_lock_stays_clear",
            "oslsr_is_guests_own",
        ),
        "OS related registers",
    ),
    Sentence(
        "kvm_arm_setup_debug, list item 4",
        "Statistical profiling traps (TPMS, E2PB).",
        ("profiling", "profiling_does_not_execute", "profiling_trapped"),
        "Statistical profiler",
    ),
    Sentence(
        "kvm_arm_setup_debug, sentence 3",
        "Debug registers trap only while the guest does not use them (DEBUG_DIRTY).",
        (
            "debug_registers_trapped_unless_in_use",
            "debug_registers_free_when_in_use",
            "debug_exceptions_enabled_means_untrapped",
        ),
        "only traps guest accesses to the debug registers if",
    ),
    Sentence(
        "kvm_arm_setup_debug, sentence 4, first half",
        "The guest must not interfere with the hardware while it is being debugged.",
        ("guest_cannot_interfere", "external_bank_not_leaked", "external_bank_preserved"),
        "must not interfere",
    ),
    Sentence(
        "kvm_arm_setup_debug, sentence 4, second half",
        "So the accesses trap whenever user space debugs the guest with the debug registers.",
        ("host_debug_sets_tda", "host_debug_is_trapped", "host_takes_debug_exceptions"),
        "trapping is enabled whenever we are debugging",
    ),
)
