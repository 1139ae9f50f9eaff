"""Bugs of the past as kernels: each takes a fix away from the fixed epoch. And those that the model does not cover.

``breaks`` are claims that the fixed kernel keeps and the broken one does not; commit ids are those of mainline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from formal.epochs import EPOCHS, Kernel, Mode

_BOTH = (Mode.VHE, Mode.NVHE)
_VHE = (Mode.VHE,)


@dataclass(frozen=True)
class Bug:
    """A bug of the past, brought back by taking its fix away from the fixed epoch."""

    name: str
    title: str
    fix: str
    changes: dict[str, Any]
    breaks: tuple[str, ...]  # claims that the fixed kernel keeps and this one does not
    modes: tuple[Mode, ...] = _BOTH
    epoch: str = "E8"

    def kernel(self, mode: Mode) -> Kernel:
        """The fixed epoch with the bug back in."""
        return EPOCHS[self.epoch].kernel(mode).but(**self.changes)


BUGS: dict[str, Bug] = {
    b.name: b
    for b in (
        Bug(
            "B0",
            "under VHE the boot value of MDCR_EL2 is never read",
            "da5a3ce66b8b (v4.20)",
            {"vhe_reads_boot_mdcr": False},
            ("hpmn_preserved_in_guest", "boot_value_read_before_use", "entry_is_fresh"),
            _VHE,
        ),
        Bug(
            "B1",
            "under VHE MDCR_EL2 is written at vcpu_load only, from the value of the run before",
            "4942dc6638b0 (v5.6)",
            {"vhe_writes_changed_mdcr": False},
            ("entry_is_fresh", "host_debug_sets_tda", "host_takes_debug_exceptions"),
            _VHE,
        ),
        Bug(
            "B2",
            "the first vcpu_load under VHE writes 0 to MDCR_EL2, a reserved HPMN",
            "263d6287da14 (v5.13)",
            {"first_run_init": False},
            ("hpmn_preserved_always_on_equal_cpus", "hpmn_never_reserved_on_equal_cpus"),
            _VHE,
        ),
        Bug(
            "B3",
            "the guest reaches the trace filter controls",
            "a354a64d91ee (v5.13)",
            {"traps_trace_filter": False},
            ("trace", "trace_does_not_execute", "trace_trapped"),
        ),
        Bug(
            "B4",
            "every trapped access of a breakpoint register goes to number 0",
            "cb853ded1d25 (v5.13)",
            {"indexes_trapped_banks": False},
            ("guest_bank_preserved", "untrapped_bank_is_guests_own"),
        ),
        Bug(
            "B5",
            "single-stepping leaves PSTATE.SS set in the guest",
            "34fbdee086cf (v6.1)",
            {"preserves_pstate_ss": False},
            ("guest_pstate_ss_preserved",),
        ),
        Bug(
            "B6",
            "an interrupt between an instruction and its step exception loses the step",
            "370531d1e95b (v6.1)",
            {"keeps_step_pending": False},
            ("one_step_one_instruction_if_undisturbed",),
        ),
        Bug(
            "B7",
            "an emulated instruction does not count as a step",
            "bd7d95cafb49 (v4.20)",
            {"skip_advances_step": False},
            ("one_step_one_instruction_if_undisturbed",),
        ),
        Bug(
            "B10",
            "the host's MDCR_EL2 is rebuilt from the guest's",
            "1460b4b25fde (v5.15)",
            {"saves_host_mdcr": False},
            ("host_mdcr_restored",),
        ),
        Bug(
            "B11",
            "MDCR_EL2 is kept in 32 bits",
            "d6c850dd6ce9 (v5.15)",
            {"mdcr_el2_bits": 32},
            ("boot_value_read_in_full",),
        ),
        Bug(
            "B12",
            "the guest's OS lock does nothing",
            "7dabf02f43a1 (v5.18)",
            {"emulates_os_lock": False},
            ("os_lock_blocks_guest_debug",),
        ),
        Bug(
            "B15",
            "under VHE the host's MDCR_EL2 is saved after the guest's is written",
            "da2e743419cb (v6.17)",
            {"vhe_saves_host_mdcr_first": False},
            ("host_mdcr_restored", "host_mdcr_saved_first"),
            _VHE,
            "E10",
        ),
        Bug(
            "B17",
            "protected mode does not hand debug_owner to the hypervisor",
            "0f1a6c5c9784 (v6.14)",
            {"hands_over_debug_owner": False},
            ("copy_at_el2_has_the_owner", "host_breakpoints_armed", "owner_has_the_registers"),
            (Mode.PROTECTED,),
            "E11",
        ),
        Bug(
            "B18a",
            "the traps in a guest hypervisor's MDCR_EL2 have no effect on its guests",
            "3af1105c4fa3 (v6.18)",
            {"applies_hypervisor_traps": False},
            ("hypervisor_traps_are_set", "hypervisor_traps_debug_registers", "entry_is_fresh"),
            _VHE,
            "E11",
        ),
        Bug(
            "B18b",
            "a guest hypervisor's MDCR_EL2.HPMN is 0 after a reset",
            "c8823e51b534 (v6.16)",
            {"resets_virtual_hpmn": False},
            ("virtual_mdcr_preserved",),
            _VHE,
            "E11",
        ),
        Bug(
            "B18c",
            "debug exceptions that a guest hypervisor has asked for (TDE) go to user space",
            "b0ee51033ae3 (v6.14)",
            {"forwards_debug_exceptions": False},
            ("debug_exceptions_go_to_who_debugs",),
            _VHE,
            "E11",
        ),
        Bug(
            "B18d",
            "a guest hypervisor's writes of MDSCR_EL1 go to memory and have no effect",
            "e0b5a7967dec (v6.18), and TDA before it",
            {"traps_redirected_mdscr": False},
            ("redirected_mdscr_write_traps", "mdscr_is_guests_unless_taken", "guest_mdscr_preserved"),
            _VHE,
            "E11",
        ),
    )
}

# Known bugs that no claim can find, because the model leaves out what they are about: number, title and fix, reason.
OUT_OF_SCOPE: tuple[tuple[str, str, str], ...] = (
    (
        "B8",
        "nVHE drains the profiling buffer after giving it to EL2; cfe1e2b69497 (v5.12)",
        "what the buffer still holds is not modelled, only who owns it",
    ),
    (
        "B9",
        "nVHE leaves the trace buffer running in the guest; a1319260bf62 (v5.13)",
        "as B8; that the guest cannot reach it (TTRF, E2TB) is claimed, and found as B3",
    ),
    (
        "B13",
        "Cortex-A510 2077057: stepping over a PAC trap takes SPSR_EL2 from the guest; 1dd498e5e26a (v5.17)",
        "a fault of one CPU; the model has CPUs that follow the architecture",
    ),
    ("B14", "AArch32 accesses of DBGDCCINT, DBGDSCRext and DBGVCR hit register 0 (v5.10)", "AArch32 is not modelled"),
    (
        "B16",
        "VHE leaves PMSCR_EL1 as it was at reset; efad60e46057 and c35dd838666d (v6.18)",
        "PMSCR_EL1 is not part of the state: the guest cannot reach it, the host's own use is another matter",
    ),
    (
        "B19",
        "nVHE leaves the buffers of profiling and trace enabled in the guest; d133aa75e39d and 07695f7dc1e1 (7.x)",
        "as B8",
    ),
)
