"""Bugs of the past as kernels: each takes a fix away from the fixed epoch. And those that the model does not cover.

What a bug is, and what fixed it, is a row of ``CHANGES`` (``epochs.py``); here is what shows it. ``breaks`` are claims
that the fixed kernel keeps and the broken one does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from formal.epochs import EPOCHS, HOSTS, Kernel, Mode, epoch_of, without
from formal.releases import CHANGES

_VHE = (Mode.VHE,)


@dataclass(frozen=True)
class Bug:
    """A bug of the past, brought back by taking its fix away from the fixed epoch."""

    name: str
    title: str
    fix: str
    changes: dict[str, Any]
    breaks: tuple[str, ...]  # claims that the fixed kernel keeps and this one does not
    modes: tuple[Mode, ...] = HOSTS
    epoch: str = "E8"

    def kernel(self, mode: Mode) -> Kernel:
        """The fixed epoch with the bug back in."""
        return EPOCHS[self.epoch].kernel(mode).but(**self.changes)


@dataclass(frozen=True)
class _Shown:
    """In which kernels a bug is shown, and by which claims."""

    breaks: tuple[str, ...]
    modes: tuple[Mode, ...] = HOSTS
    release: str = "v6.1"


_SHOWN = {
    "B0": _Shown(("hpmn_preserved_in_guest", "boot_value_read_before_use", "entry_is_fresh"), _VHE),
    "B1": _Shown(("entry_is_fresh", "host_debug_sets_tda", "host_takes_debug_exceptions"), _VHE),
    "B2": _Shown(("hpmn_preserved_always_on_equal_cpus", "hpmn_never_reserved_on_equal_cpus"), _VHE),
    "B3": _Shown(("trace", "trace_does_not_execute", "trace_trapped")),
    "B4": _Shown(("guest_bank_preserved", "untrapped_bank_is_guests_own")),
    "B5": _Shown(("guest_pstate_ss_preserved_if_one_steps_unlocked",)),
    "B6": _Shown(("one_step_one_instruction_if_undisturbed",)),
    "B7": _Shown(("one_step_one_instruction_if_undisturbed",)),
    "B10": _Shown(("host_mdcr_restored",)),
    "B11": _Shown(("boot_value_read_in_full",)),
    "B12": _Shown(("os_lock_blocks_guest_debug",)),
    "B15": _Shown(("host_mdcr_restored", "host_mdcr_saved_first"), _VHE, "v6.17"),
    "B17": _Shown(
        ("copy_at_el2_has_the_owner", "host_breakpoints_armed", "owner_has_the_registers"), (Mode.PROTECTED,), "v7.3"
    ),
    "B18a": _Shown(("hypervisor_traps_are_set", "hypervisor_traps_debug_registers", "entry_is_fresh"), _VHE, "v7.3"),
    "B18b": _Shown(("virtual_mdcr_preserved",), _VHE, "v7.3"),
    "B18c": _Shown(("debug_exceptions_go_to_who_debugs",), _VHE, "v7.3"),
    "B18d": _Shown(
        ("redirected_mdscr_write_traps", "mdscr_is_guests_unless_taken", "guest_mdscr_preserved"), _VHE, "v7.3"
    ),
    "B21": _Shown(("hypervisor_gets_what_it_traps",), _VHE, "v7.3"),
    "B20": _Shown(
        ("event_counters_read_before_use", "hpmn_never_reserved", "only_named_fields", "entry_is_fresh"),
        tuple(Mode),
        "v7.3",
    ),
    "B22": _Shown(
        ("copy_at_el2_has_external_mdscr", "external_mdscr_debugs_as_asked", "step_armed"), (Mode.PROTECTED,), "v7.3"
    ),
    "B23": _Shown(("performance_monitors_trapped", "user_access_is_set_up"), _VHE, "v6.4"),
    "B24": _Shown(("performance_monitors_trapped", "user_access_is_set_up"), release="v6.4"),
}


def _bugs() -> Iterator[Bug]:
    rows = {c.bug: c for c in CHANGES if c.bug}
    for name, shown in _SHOWN.items():
        row = rows[name]
        changes = {row.behaviour: without(row.behaviour)}
        yield Bug(name, row.lacking, row.source, changes, shown.breaks, shown.modes, epoch_of(shown.release).name)


BUGS: dict[str, Bug] = {b.name: b for b in _bugs()}


@dataclass(frozen=True)
class Told:
    """A bug of the past that no preset has: the rule about the C that a tree with it breaks, which costs the claims."""

    title: str
    fix: str
    rule: str


# tests/scope/test_told.py brings each back into the C of a release.
TOLD: dict[str, Told] = {
    "T1": Told(
        "a trapped access with register 31 goes to SP instead of reading as zero",
        "2ec5be3dbfdc (v4.5)",
        "index 31 into an array of 31",
    ),
    "T2": Told(
        "under VHE debug exceptions of the host are not masked around the guest's run",
        "4f5abad9e826 (v4.16)",
        "masks exceptions with PSTATE.DAIF before the guest runs",
    ),
    "T3": Told(
        "a pending adjustment of the PC outlives the return to user space",
        "26778aaa134a (v5.13)",
        "commits a pending adjustment of the PC",
    ),
    "T4": Told(
        "user space is not told the upper half of the syndrome of a debug exit",
        "18f3976fdb5d (v5.19)",
        "tells user space the upper half of the syndrome",
    ),
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
    (
        "B26",
        "the guest has the host's PMSELR_EL0, so that PMXEVCNTR_EL0 may be UNDEFINED, no trap; 21cbe3cc8a48 (v4.10)",
        "PMSELR_EL0 is not part of the state",
    ),
    (
        "B27",
        "emulation gives PMCR_EL0 another value than hardware has (LC: 6f163714fa8c, v5.4)",
        "the counters of the PMU and their controls are not modelled, only who reaches them",
    ),
    (
        "B28",
        "kprobes may be placed in the world switch of VHE; 7d82602909ed (v5.0)",
        "a BRK of the host's own in that code is taken to be kept out (NOKPROBE_SYMBOL)",
    ),
    (
        "B29",
        "the boot code takes CPUs from PMUv3p8 on for CPUs without a PMU, and leaves HPMN 0 (up to v6.8)",
        "that each CPU boots with an HPMN between 1 and PMCR_EL0.N is assumed",
    ),
    (
        "B30",
        "a guest's guest is given event counters that MDCR_EL2.HPMN keeps from it; 9a1c58cfefb0 (v6.13)",
        "as B27: what the emulation of the PMU does with HPMN and HPMD is not modelled",
    ),
    (
        "B31",
        "preemption while a vCPU's flags are changed loses what vcpu_put changes of them; 35dcb3ac663a (v6.3)",
        "a tree whose accessors keep no preemption off is taken to be safe; one that does so by halves is told",
    ),
    (
        "B32",
        "the guest's writes of OSLSR_EL1 are ignored, not UNDEFINED; e2ffceaae508 (v5.18)",
        "they change nothing that is modelled either way; which exceptions KVM injects is not asked",
    ),
)
