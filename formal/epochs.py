"""Kernel releases as sets of named behaviours. The only file that knows releases.

A ``Kernel`` says which of the behaviours that ever differed a kernel has; an epoch is a preset for a range of releases.
Transitions ask for behaviours, never for a release, because a real tree may be a hybrid (Debian's 5.10 is E4 with two
later fixes): ``formal.kernel`` resolves a tree to behaviours from its source. Taking a fix away again re-introduces the
bug it fixed (``formal/scope/bugs.py``). Commit ids are those of mainline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Self, TypeVar

Step = TypeVar("Step", bound=Callable[..., object])


class Mode(Enum):
    """Where the host kernel runs."""

    VHE = "vhe"  # at EL2
    NVHE = "nvhe"  # at EL1, with a small hypervisor at EL2
    PROTECTED = "protected"  # likewise (pKVM), but the hypervisor runs copies of the vCPUs that it keeps from the host


HOSTS = (Mode.VHE, Mode.NVHE)  # what is booted, and what a tree is read for unless it is said


@dataclass(frozen=True)
class Kernel:
    """What a kernel does where kernels differ."""

    mode: Mode
    # initialisation
    vhe_reads_boot_mdcr: bool = True  # da5a3ce66b8b (v4.20): kvm_arm_init_debug runs under VHE too
    first_run_init: bool = True  # 263d6287da14 (v5.13): mdcr_el2 is computed before the first vcpu_load
    mdcr_el2_bits: int = 64  # d6c850dd6ce9 (v5.15): MDCR_EL2 was kept in 32 bits before
    preserved_mdscr_bits: int = 32  # guest_debug_preserved.mdscr_el1 is u32 up to v6.13
    # what traps
    keeps_hpmn: bool = True  # since v4.3; off only to break it
    traps_profiling: bool = True  # f85279b4bd48 (v4.10): TPMS; and the profiling buffer goes back at every exit
    traps_trace_filter: bool = True  # a354a64d91ee (v5.13): TTRF
    traps_debug_for_use_hw: bool = True  # since v4.3; off only to break it
    emulates_os_lock: bool = True  # 7dabf02f43a1, e2ffceaae508 (v5.18)
    # load and put, entry and exit
    vhe_traps_at_load: bool = True  # v4.17: VHE activates the traps at vcpu_load, not at every entry
    vhe_writes_changed_mdcr: bool = True  # 4942dc6638b0 (v5.6): setup_debug writes MDCR_EL2 under VHE when it changed
    saves_host_mdcr: bool = True  # 1460b4b25fde (v5.15): the host's MDCR_EL2 is saved, not rebuilt from the guest's
    returns_trace_buffer: bool = False  # a1319260bf62 (v5.13 to v5.14): nVHE gives EL1 the trace buffer at every exit
    sets_pmuserenr: bool = True  # d692b8ad6ec4 (v4.6): PMUSERENR_EL0 lets EL0 accesses of the PMU trap to EL2
    saves_host_pmuserenr: bool = True  # 6.1: the host's PMUSERENR_EL0 is saved, not zeroed
    guards_pmuserenr: bool = False  # 8681f7175948 (v6.5): perf leaves PMUSERENR_EL0 alone while a vCPU is loaded
    # who has the debug registers
    tracks_debug_owner: bool = False  # v6.14: debug_owner, decided at vcpu_load, not DEBUG_DIRTY at each entry
    vhe_saves_host_mdcr_first: bool = True  # da2e743419cb (v6.17): before the guest's is written; lost in v6.14
    # the host's single-step
    preserves_pstate_ss: bool = True  # 34fbdee086cf (v6.1)
    keeps_step_pending: bool = True  # 370531d1e95b (v6.1): DBG_SS_ACTIVE_PENDING
    skip_advances_step: bool = True  # bd7d95cafb49 (v4.20): skipping an instruction clears PSTATE.SS
    fakes_step_exit: bool = False  # 696673d192d8 (v4.16) to v4.19: a step is reported after any handled exit
    defers_pc_adjustment: bool = True  # cdb5e02ed133 (v5.11): __kvm_adjust_pc at the next entry
    # emulation of trapped accesses
    indexes_trapped_banks: bool = True  # cb853ded1d25 (v5.13), broken by 03fdfb269009 (v5.4)
    restores_debug_ptr: bool = True  # since v4.3; off only to break it
    # protected mode, whose hypervisor has a copy of the vCPU (before v6.14 the copy leaves nothing of debug state out)
    hands_over_debug_owner: bool = True  # 0f1a6c5c9784 (v6.14-rc2): with the registers of the owner
    hands_over_external_mdscr: bool = True  # by v7.3 (E11): and with MDSCR_EL1 as KVM needs it
    # guests that are hypervisors themselves
    nested_virtualization: bool = False  # 3af1105c4fa3 (v6.18): as from there on; what was before is not modelled
    applies_hypervisor_traps: bool = True  # 3af1105c4fa3 (v6.18): MDCR_EL2 of the guest hypervisor traps its guests
    forwards_debug_exceptions: bool = True  # b0ee51033ae3 (v6.14): to the guest hypervisor that asked for them
    forwards_debug_accesses: bool = True  # v6.6, emulate-nested.c: accesses that the guest hypervisor traps
    resets_virtual_hpmn: bool = True  # c8823e51b534 (v6.16): the guest hypervisor's HPMN is all counters at reset
    traps_redirected_mdscr: bool = True  # e0b5a7967dec (v6.18), and TDA before: FEAT_NV2 sends its writes to memory
    # what the kernel's comments promise
    documents_trace_traps: bool = True  # from v5.13: comment on kvm_arm_setup_mdcr_el2
    documents_os_lock: bool = True  # from v5.18: comments on the OS lock
    # size
    breakpoints: int = 16  # break- and watchpoints in a bank; a power of two up to 16

    @property
    def vhe(self) -> bool:
        """The host kernel runs at EL2."""
        return self.mode is Mode.VHE

    @property
    def nests(self) -> bool:
        """A guest may be a hypervisor: nested virtualization needs a host at EL2."""
        return self.nested_virtualization and self.vhe

    @property
    def copies_vcpu(self) -> bool:
        """The guest runs from a copy of the vCPU at EL2, which is handed debug state at each entry."""
        return self.mode is Mode.PROTECTED and self.tracks_debug_owner

    @property
    def traps_at_load(self) -> bool:
        """The traps are active from vcpu_load to vcpu_put, not just while a guest runs."""
        return self.vhe and self.vhe_traps_at_load

    def doing(self, function: str, by_hand: Step) -> Step:
        """A step of an operation: as the specification has it (a tree may bring its own,
        formal/kernel/compare/ownership.py)."""
        return by_hand

    def but(self, **changes: Any) -> Self:
        """This kernel with some behaviours changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Epoch:
    """A range of releases whose debug-trap code behaves alike."""

    name: str
    releases: str
    says: str
    lacks: dict[str, Any]
    modes: tuple[Mode, ...] = HOSTS

    def kernel(self, mode: Mode) -> Kernel:
        """The behaviours of these releases, in one host mode."""
        return Kernel(mode, **self.lacks)


_E7: dict[str, Any] = {"preserves_pstate_ss": False, "keeps_step_pending": False, "saves_host_pmuserenr": False}
_E6: dict[str, Any] = {**_E7, "emulates_os_lock": False, "documents_os_lock": False}
_E5: dict[str, Any] = {**_E6, "saves_host_mdcr": False, "mdcr_el2_bits": 32, "returns_trace_buffer": True}
_E4: dict[str, Any] = {
    **_E5,
    "returns_trace_buffer": False,
    "first_run_init": False,
    "traps_trace_filter": False,
    "documents_trace_traps": False,
    "defers_pc_adjustment": False,
    "indexes_trapped_banks": False,
}
_E4S: dict[str, Any] = {
    **{k: v for k, v in _E4.items() if k not in ("first_run_init", "indexes_trapped_banks")},
    "traps_trace_filter": True,
    "documents_trace_traps": True,
}
_E3B: dict[str, Any] = {**_E4, "vhe_writes_changed_mdcr": False}
_E3A: dict[str, Any] = {
    **_E3B,
    "vhe_reads_boot_mdcr": False,
    "skip_advances_step": False,
    "fakes_step_exit": True,
    "indexes_trapped_banks": True,
}

_E2B: dict[str, Any] = {**_E3A, "vhe_traps_at_load": False}
_E2: dict[str, Any] = {**_E2B, "fakes_step_exit": False}
_E1: dict[str, Any] = {**_E2, "traps_profiling": False}
_E0: dict[str, Any] = {**_E1, "sets_pmuserenr": False}

# From v6.14 debug_owner takes the place of DEBUG_DIRTY, debug_ptr and the preserved copies; HPMN is PMCR_EL0.N.
_E10: dict[str, Any] = {"tracks_debug_owner": True, "guards_pmuserenr": True, "hands_over_external_mdscr": False}
_E11: dict[str, Any] = {**_E10, "nested_virtualization": True, "hands_over_external_mdscr": True}
_E9: dict[str, Any] = {**_E10, "vhe_saves_host_mdcr_first": False}

_NVHE = (Mode.NVHE,)  # VHE came with v4.6
# Until v6.13 protected mode is as nVHE for debug state: v6.1 runs the host's own vCPU, and later the copy gets all of
# it at each entry, debug_ptr to the host's registers included.
_ALL = tuple(Mode)

EPOCHS: dict[str, Epoch] = {
    e.name: e
    for e in (
        Epoch("E0", "v4.3 to v4.5", "the first that debug guests; nVHE only, PMUSERENR_EL0 is the host's", _E0, _NVHE),
        Epoch("E1", "v4.6 to v4.9", "VHE and nVHE write MDCR_EL2 at every entry; no profiling", _E1),
        Epoch("E2", "v4.10 to v4.15", "statistical profiling trapped", _E2),
        Epoch("E2b", "v4.16", "a step is reported after any exit that KVM has handled", _E2B),
        Epoch("E3a", "v4.17 to v4.19", "VHE writes MDCR_EL2 at vcpu_load, from a copy that stays 0", _E3A),
        Epoch("E3b", "v4.20 to v5.5", "VHE reads the boot value too", _E3B),
        Epoch("E4", "v5.6 to v5.12-rc", "VHE also writes MDCR_EL2 when setup changed it", _E4),
        Epoch("E4s", "v5.10.y", "E4 with the fixes of the trace filter, the first load and the breakpoint index", _E4S),
        Epoch("E5", "v5.13 and v5.14", "trace filter trapped, value computed before the first load", _E5),
        Epoch("E6", "v5.15 to v5.17", "the host's MDCR_EL2 saved, not rebuilt; 64 bits", _E6),
        Epoch("E7", "v5.18 to v6.0", "OS lock emulated", _E7),
        Epoch("E8", "v6.1 to v6.13", "OS lock emulated, host value saved, PSTATE.SS and pending steps kept", {}),
        Epoch(
            "E9",
            "v6.14 to v6.17-rc",
            "debug_owner decides, at load; VHE saves the host's MDCR_EL2 late",
            _E9,
            _ALL,
        ),
        Epoch("E10", "v6.17", "VHE saves the host's MDCR_EL2 before it writes the guest's", _E10, _ALL),
        Epoch("E11", "v6.18 to v7.3", "a guest hypervisor's MDCR_EL2 traps what its own guests do", _E11, _ALL),
    )
}
