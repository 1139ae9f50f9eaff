"""What must hold, one sentence each: claims (promises) and non-properties (which must fail); lemmas are beside them.

Claims compare with ghosts (what the boot code, the guest, user space or the host last wrote), never with the kernel's
own copies. Nothing here mentions an engine. How claims are written is in ``vocabulary.py``, why they hold in
``lemmas.py``.

"The document" is the kernel-doc page of debug.c around v4.18; ``DOCUMENT`` lists its sentences.
"""

from __future__ import annotations

from collections.abc import Callable

from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.traps import Access, executes, traps_to_el2
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, Eq, If, Implies, Ne, Not, Or, Term
from formal.operations import controls, may_execute
from formal.preconditions import (
    BOOT_GIVES_ALL_COUNTERS,
    BOOT_VALUE_AS_REBUILT,
    CPUS_BOOT_ALIKE,
    DEBUG_LEFT_ALONE,
    FIRST_BREAKPOINT_ONLY,
    INIT_ONLY_AT_BOOT,
    LOCK_NOT_STEPPED,
    MDSCR_IN_32_BITS,
    MDSCR_LEFT_ALONE,
    NEVER_DEBUGGED,
    NEVER_STEPPED,
    NO_EMULATED_STEP,
    NO_RESET_WITH_SKIP_PENDING,
    NO_RETURN_WITH_SKIP_PENDING,
    ONE_DEBUGGER,
    PERF_KEEPS_OFF,
    STEPPED_WITHOUT_ERET,
    STEPPING_ENDS_WITH_DEBUGGING,
    UP_TO_PMUV3P7,
)
from formal.state import DebugOwner, Exit, Phase, State
from formal.transitions import setup_debug_bug_on
from formal.vocabulary import (
    UP_TO_PMUV3P8,
    Claim,
    Point,
    Predicate,
    always,
    claim,
    event_counters_seen,
    everywhere,
    group_does_not_execute,
    group_traps,
    host_has_cpu,
    hypervisor_wants,
    kept_out,
    low_half,
    mdscr_is_redirected,
    outside_window,
    rightful_owner,
    step_claim,
    taken_by_host,
    taken_from_guest,
    uses_debug,
    variant,
)

# By these fields of MDCR_EL2 a hypervisor traps accesses and routes exceptions of its guest (Arm ARM D24.3). This list
# is the claims' own: the operations take theirs from nested.c, NV_MDCR_GUEST_INCLUDE.
_HYPERVISOR_TRAPS = ("TDE", "TDA", "TDRA", "TTRF", "TPMS", "TPM", "TPMCR", "TDCC", "TDOSA")

# ---- claims: HPMN

_INIT_DEBUG = "the document, kvm_arm_init_debug"


@claim("the document, kvm_arm_init_debug, sentence 1")
def hpmn_preserved_in_guest(s: State, k: Kernel) -> Term:
    """A guest runs with the MDCR_EL2.HPMN that the boot code of this CPU chose."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")


@claim("the document, kvm_arm_init_debug, sentence 1", at=Point.UNLOADED, when=lambda s, k: s.idle)
def hpmn_preserved_on_host(s: State, k: Kernel) -> Term:
    """While no vCPU is loaded, the host has the MDCR_EL2.HPMN that the boot code of this CPU chose."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")


@claim("the document, kvm_arm_init_debug, sentence 1", at=Point.ALWAYS, when=always)
def hpmn_preserved_always(s: State, k: Kernel) -> Term:
    """MDCR_EL2.HPMN is never anything but what the boot code of this CPU chose, not even between load and entry."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")


def _until_owner(why: str) -> Callable[[Kernel], str | None]:
    return lambda k: why if k.tracks_debug_owner else None


def _from_owner(k: Kernel) -> str | None:
    return None if k.tracks_debug_owner else "debug_owner is kept from v6.14 on"


_reads_mdcr = _until_owner("from v6.14 on HPMN comes from PMCR_EL0.N, not from MDCR_EL2 (2417218f2f23)")


@claim(
    "the document, kvm_arm_init_debug, sentences 1 and 2",
    at=Point.ALWAYS,
    when=lambda s, k: Or(s.kvm_ready, s.busy),
    applies=_reads_mdcr,
)
def boot_value_read_before_use(s: State, k: Kernel) -> Term:
    """When a vCPU can be loaded on a CPU, its HPMN has been read there, and re-reading has not changed it."""
    return And(s.kvm_ready, s.percpu_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"))


@claim(
    "debug.c, kvm_arm_init_debug: MDCR_EL2 is kept whole",
    at=Point.ALWAYS,
    when=lambda s, k: s.kvm_ready,
    applies=_reads_mdcr,
)
def boot_value_read_in_full(s: State, k: Kernel) -> Term:
    """Every reading of MDCR_EL2 at hyp initialisation gives all 64 bits of the boot value."""
    return s.percpu_mdcr_el2.same(s.boot_mdcr_el2)


@claim(
    "debug.c (v6.14), kvm_init_host_debug_data",
    at=Point.ALWAYS,
    when=lambda s, k: Or(s.kvm_ready, s.busy),
    applies=_from_owner,
)
def event_counters_read_before_use(s: State, k: Kernel) -> Term:
    """When a vCPU can be loaded on a CPU, the number of this CPU's event counters has been read there."""
    return And(s.kvm_ready, Eq(s.nr_event_counters, t.zero_extend(event_counters_seen(s, k), 32)))


@step_claim(f"{_INIT_DEBUG}, sentence 2", "kvm_arm_init_debug", when=always)
def init_debug_runs_once(before: State, after: State, k: Kernel) -> Term:
    """kvm_arm_init_debug (from v6.14 kvm_init_host_debug_data) runs once after each boot of a CPU."""
    return Not(before.kvm_ready)


_READ_AT_INIT = frozenset(("percpu_mdcr_el2", "nr_event_counters", "kvm_ready"))


@step_claim(f"{_INIT_DEBUG}, sentence 1", "kvm_arm_init_debug", when=always)
def init_debug_has_one_task(before: State, after: State, k: Kernel) -> Term:
    """kvm_arm_init_debug writes nothing but what it has read for HPMN: no register of the CPU, nothing of a vCPU."""
    return And(*(Eq(before.values[name], after.values[name]) for name in before.values if name not in _READ_AT_INIT))


# ---- claims: what always traps


@claim("the document, kvm_arm_setup_debug, list item 1")
def performance_monitors(s: State, k: Kernel) -> Term:
    """While a guest runs, MDCR_EL2.TPM and TPMCR are set."""
    return And(s.hw_mdcr_el2.TPM, s.hw_mdcr_el2.TPMCR)


@claim("the document, kvm_arm_setup_debug, list item 1; Arm ARM D13")
def performance_monitors_do_not_execute(s: State, k: Kernel) -> Term:
    """No guest access of a PMU register reaches the hardware, except PSTATE.PM and the snapshot registers."""
    return group_does_not_execute(s, "pmu")


@claim("the document, kvm_arm_setup_debug, list item 1; switch.h, __activate_traps_common, comment on EL0")
def performance_monitors_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of PMU registers up to PMUv3p8 go to EL2, from EL0 too, except PSTATE.PM and the snapshots."""
    return group_traps(s, "pmu", features=UP_TO_PMUV3P8)


@claim("switch.h, __activate_traps_common, comment on EL0; Arm ARM D24.5, PMUSERENR_EL0.UEN")
def performance_monitors_trapped_with_pmuv3p9(s: State, k: Kernel) -> Term:
    """Guest accesses of PMU registers go to EL2, from EL0 too, on CPUs with FEAT_PMUv3p9 as well."""
    return group_traps(s, "pmu")


@claim("the document, kvm_arm_setup_debug, list item 2")
def debug_rom(s: State, k: Kernel) -> Term:
    """While a guest runs, MDCR_EL2.TDRA is set."""
    return s.hw_mdcr_el2.TDRA


@claim("the document, kvm_arm_setup_debug, list item 2; Arm ARM D24.3, MDRAR_EL1")
def debug_rom_does_not_execute(s: State, k: Kernel) -> Term:
    """No guest access of MDRAR_EL1 reaches the hardware."""
    return group_does_not_execute(s, "rom")


@claim("the document, kvm_arm_setup_debug, list item 2; Arm ARM D24.3, MDRAR_EL1")
def debug_rom_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of MDRAR_EL1 go to EL2."""
    return group_traps(s, "rom")


@claim("the document, kvm_arm_setup_debug, list item 3")
def os_registers(s: State, k: Kernel) -> Term:
    """While a guest runs, MDCR_EL2.TDOSA is set."""
    return s.hw_mdcr_el2.TDOSA


@claim("the document, kvm_arm_setup_debug, list item 3; Arm ARM D24.3, OSLAR_EL1 and others")
def os_registers_do_not_execute(s: State, k: Kernel) -> Term:
    """No guest access of OSLAR, OSLSR, DBGPRCR or (with FEAT_DoubleLock) OSDLR reaches the hardware."""
    return group_does_not_execute(s, "os")


@claim("the document, kvm_arm_setup_debug, list item 3; Arm ARM D24.3, OSLAR_EL1 and others")
def os_registers_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of OSLAR, OSLSR, DBGPRCR and (with FEAT_DoubleLock) OSDLR go to EL2."""
    return group_traps(s, "os")


def _has_profiling(k: Kernel) -> str | None:
    return None if k.traps_profiling else "statistical profiling is trapped from v4.10 on (f85279b4bd48)"


@claim("the document, kvm_arm_setup_debug, list item 4", applies=_has_profiling)
def profiling(s: State, k: Kernel) -> Term:
    """While a guest runs, MDCR_EL2.TPMS is set and E2PB is 0: the profiling buffer belongs to EL2."""
    return And(s.hw_mdcr_el2.TPMS, Eq(s.hw_mdcr_el2.E2PB, t.const(0, 2)))


@claim("the document, kvm_arm_setup_debug, list item 4; Arm ARM D24.3, MDCR_EL2.E2PB and TPMS", applies=_has_profiling)
def profiling_does_not_execute(s: State, k: Kernel) -> Term:
    """No guest access of a profiling register reaches the hardware, except PMBIDR_EL1, which only identifies."""
    return group_does_not_execute(s, "spe_buffer", "spe_control")


@claim("the document, kvm_arm_setup_debug, list item 4; Arm ARM D24.3, MDCR_EL2.E2PB and TPMS", applies=_has_profiling)
def profiling_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of profiling registers go to EL2, except PMBIDR_EL1."""
    return group_traps(s, "spe_buffer", "spe_control")


def _traps_trace(k: Kernel) -> str | None:
    return None if k.documents_trace_traps else "the trace filter is trapped from v5.13 on (a354a64d91ee)"


_TRACE = "debug.c (from v5.13), kvm_arm_setup_mdcr_el2, list items 5 and 6"


@claim(_TRACE, applies=_traps_trace)
def trace(s: State, k: Kernel) -> Term:
    """While a guest runs, MDCR_EL2.TTRF is set and E2TB is 0: the trace buffer belongs to EL2."""
    return And(s.hw_mdcr_el2.TTRF, Eq(s.hw_mdcr_el2.E2TB, t.const(0, 2)))


@claim(_TRACE, applies=_traps_trace)
def trace_does_not_execute(s: State, k: Kernel) -> Term:
    """No guest access of the trace filter or buffer reaches the hardware, except TRBIDR_EL1, which only identifies."""
    return group_does_not_execute(s, "trace_filter", "trace_buffer")


@claim(_TRACE, applies=_traps_trace)
def trace_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of the trace filter and buffer go to EL2, except TRBIDR_EL1."""
    return group_traps(s, "trace_filter", "trace_buffer")


# ---- claims: debug registers, and the guest that uses them


def _keeps_out(s: State, k: Kernel) -> Term:
    hypervisors = Or(hypervisor_wants(s, "TDA"), mdscr_is_redirected(s))
    return Or(Not(uses_debug(s, k)), kept_out(s, k), hypervisors)


def _hypervisor_keeps_out(s: State) -> Term:
    """The guest's accesses of debug registers trap for the sake of a guest hypervisor."""
    return Or(hypervisor_wants(s, "TDA"), hypervisor_wants(s, "TDE"), mdscr_is_redirected(s))


_DIRTY = "the document, kvm_arm_setup_debug, sentence 3"


@claim(_DIRTY, when=lambda s, k: And(s.in_guest, _keeps_out(s, k)))
def debug_registers_trapped_unless_in_use(s: State, k: Kernel) -> Term:
    """Debug registers trap unless the guest actively uses them, and whenever somebody else has to be kept from them.

    It uses them if it last left to write one; from v6.14 on if it had debug exceptions enabled when it was loaded, or
    has accessed one since. So trapping comes back with the next exit, from v6.14 on with the next load.
    """
    return And(s.hw_mdcr_el2.TDA, group_traps(s, "breakpoint", "debug"))


@claim(
    _DIRTY,
    when=lambda s, k: And(s.in_guest, Not(_keeps_out(s, k)), Not(s.user_debugs), Not(hypervisor_wants(s, "TDE"))),
)
def debug_registers_free_when_in_use(s: State, k: Kernel) -> Term:
    """Trapping stops for a guest that actively uses its debug registers, if nobody has to be kept from them.

    Except that a guest hypervisor's own writes of MDSCR_EL1 always trap.
    """
    return And(
        executes(Access("DBGBCR<n>_EL1", True, 1), controls(s)),
        executes(Access("DBGBCR<n>_EL1", False, 1), controls(s)),
        Or(s.in_hypervisor, executes(Access("MDSCR_EL1", True, 1), controls(s))),
        executes(Access("MDSCR_EL1", False, 1), controls(s)),
    )


@claim(
    "sys_regs.c, comment above trap_debug_regs, on guest entry, second item",
    when=lambda s, k: And(
        s.in_guest,
        Not(taken_from_guest(s)),
        Or(s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE),
        Not(_hypervisor_keeps_out(s)),
    ),
)
def debug_exceptions_enabled_means_untrapped(s: State, k: Kernel) -> Term:
    """A guest that has enabled debug exceptions (KDE or MDE) reaches its debug registers without a trap.

    Unless a guest hypervisor traps them, or its own writes of MDSCR_EL1 have to trap and only TDA can do that.
    """
    return executes(Access("DBGBCR<n>_EL1", True, 1), controls(s))


@claim(
    "the document, kvm_arm_setup_debug, sentence 4",
    when=lambda s, k: And(s.in_guest, s.user_debug.USE_HW),
)
def host_debug_sets_tda(s: State, k: Kernel) -> Term:
    """While user space debugs the guest with the debug registers, TDA itself is set, without leaning on TDE."""
    return s.hw_mdcr_el2.TDA


def _host_debugs(s: State, k: Kernel) -> Term:
    return And(s.in_guest, s.user_debugs)


@claim("the document, kvm_arm_setup_debug, sentence 4", when=_host_debugs)
def host_debug_is_trapped(s: State, k: Kernel) -> Term:
    """While user space debugs the guest in any way, the guest's accesses of debug registers go to EL2.

    Those of the communications channel from EL0 go to EL1 instead where the guest's MDSCR_EL1.TDCC says so.
    """
    return And(group_traps(s, "breakpoint", "debug", "os", "rom"), group_does_not_execute(s, "dcc"))


@claim("debug.c, kvm_arm_setup_mdcr_el2, comment on TDE; Documentation/virt/kvm/api.rst", when=_host_debugs)
def host_takes_debug_exceptions(s: State, k: Kernel) -> Term:
    """While user space debugs the guest in any way, debug exceptions go to EL2, and no OS lock silences them."""
    return And(s.hw_mdcr_el2.TDE, Not(s.hw_oslk))


@claim(
    "debug.c, kvm_arm_setup_mdcr_el2, comment on TDE",
    when=lambda s, k: And(s.in_guest, Not(s.user_debugs)),
)
def guest_keeps_its_debug_exceptions(s: State, k: Kernel) -> Term:
    """While nobody debugs the guest, debug exceptions are the guest's own, or its guest hypervisor's."""
    return Eq(s.hw_mdcr_el2.TDE, hypervisor_wants(s, "TDE"))


@step_claim("the document, kvm_arm_setup_debug, sentence 4", "the guest", when=_host_debugs)
def guest_cannot_interfere(before: State, after: State, k: Kernel) -> Term:
    """No step of the guest changes the hardware debug state that is set up for user space."""
    return And(
        before.hw_mdcr_el2.same(after.hw_mdcr_el2),
        before.hw_mdscr_el1.same(after.hw_mdscr_el1),
        Eq(before.hw_bank, after.hw_bank),
        Eq(before.hw_oslk, after.hw_oslk),
    )


# ---- claims: freshness and form of the value


@claim("the document, kvm_arm_setup_debug, sentence 1")
def setup_before_every_entry(s: State, k: Kernel) -> Term:
    """No guest runs, after a re-entry either, unless kvm_arm_setup_debug has run since the last kvm_arm_clear_debug.

    From v6.14 on: kvm_vcpu_load_debug, since the last kvm_vcpu_put_debug.
    """
    return s.is_set_up


@claim("the document, kvm_arm_setup_debug, sentences 1 and 2")
def entry_is_fresh(s: State, k: Kernel) -> Term:
    """MDCR_EL2 in the guest is what this CPU's HPMN, user space, the OS lock and the guest's writes ask for, no more.

    From v6.14 on: its PMCR_EL0.N, user space, the OS lock and the guest's use of its debug registers; from v6.18 on
    also a guest hypervisor.
    """
    fresh = MDCR_EL2.of(
        TTRF=k.documents_trace_traps,
        TPMS=k.traps_profiling,
        TDRA=True,
        TDOSA=True,
        TDA=_keeps_out(s, k),
        TDE=s.user_debugs,
        TPM=True,
        TPMCR=True,
        HPMN=event_counters_seen(s, k) if k.tracks_debug_owner else s.boot_mdcr_el2.HPMN,
    )
    if k.nests:
        asked = s.hypervisor_mdcr_el2.raw & t.const(MDCR_EL2.mask(*_HYPERVISOR_TRAPS), 64)
        traps = If(s.in_nested, asked, t.const(0, 64))
        fresh = MDCR_EL2(fresh.raw | traps)
    return s.hw_mdcr_el2.same(fresh)


def _lock_silences(s: State) -> MDSCR_EL1:
    """The guest's MDSCR_EL1 (bits 31 to 0), with MDE clear while its OS lock is locked."""
    guest = MDSCR_EL1(t.zero_extend(low_half(s.guest_mdscr_el1), 64))
    return guest.but(MDE=And(guest.MDE, Not(s.guest_os_lock)))


@claim(
    "the document, kvm_arm_setup_debug, sentence 1; debug.c, comments in kvm_arm_setup_debug",
    applies=_until_owner("see external_mdscr_follows_guest and mdscr_is_guests_unless_taken from v6.14 on"),
)
def mdscr_is_set_up(s: State, k: Kernel) -> Term:
    """In the guest MDSCR_EL1 is the guest's own (bits 31 to 0), but for SS and MDE where somebody else needs them.

    Whenever user space debugs or the OS lock is locked, SS is set just for SINGLESTEP; MDE is set for USE_HW, and else
    clear if the OS lock is locked.
    """
    own = _lock_silences(s)
    tweaked = own.but(SS=s.user_steps, MDE=Or(s.user_debug.USE_HW, own.MDE))
    return Eq(low_half(s.hw_mdscr_el1), If(taken_from_guest(s), low_half(tweaked), low_half(s.guest_mdscr_el1)))


@claim("the document, kvm_arm_setup_debug, list item 1; switch.h, __activate_traps_common, comment on EL0")
def user_access_is_set_up(s: State, k: Kernel) -> Term:
    """In the guest PMUSERENR_EL0 has EN, SW, CR and ER set and no more: EL0's accesses get past it, to the trap."""
    return s.hw_pmuserenr_el0.same(PMUSERENR_EL0.of(ER=True, CR=True, SW=True, EN=True))


@claim("Arm ARM D24.3, MDCR_EL2", at=Point.IN_GUEST)
def only_named_fields(s: State, k: Kernel) -> Term:
    """In the guest, MDCR_EL2 has no bit outside named fields, HPMN is not reserved, E2PB and E2TB are not 0b01."""
    m = s.hw_mdcr_el2
    hpmn = And(Ne(m.HPMN, t.const(0, 5)), t.ule(m.HPMN, s.event_counters))
    return And(m.only(), hpmn, Ne(m.E2PB, t.const(1, 2)), Ne(m.E2TB, t.const(1, 2)))


@claim("Arm ARM D24.3, MDCR_EL2.HPMN", at=Point.ALWAYS, when=always)
def hpmn_never_reserved(s: State, k: Kernel) -> Term:
    """MDCR_EL2.HPMN is never a reserved value, at no moment: not 0, not more than PMCR_EL0.N."""
    return And(Ne(s.hw_mdcr_el2.HPMN, t.const(0, 5)), t.ule(s.hw_mdcr_el2.HPMN, s.event_counters))


# ---- claims: the guest's registers


def _created_outside(s: State, k: Kernel) -> Term:
    return s.at(Phase.CREATED, Phase.READY, Phase.LOADED)


_SAVE = "the document, save_guest_debug_regs, sentences 1 and 2"


def _tweaked_for_entry(s: State, k: Kernel) -> Term:
    return And(s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED), taken_from_guest(s))


@claim(_SAVE, at=Point.ALWAYS, when=_tweaked_for_entry)
def saved_before_modified(s: State, k: Kernel) -> Term:
    """While the guest's MDSCR_EL1 is tweaked for an entry, a copy of all its 64 bits is kept."""
    kept = s.mdscr_el1 if k.tracks_debug_owner else s.preserved_mdscr_el1
    return kept.same(s.guest_mdscr_el1)


def _untweaked(s: State, k: Kernel) -> Term:
    return s.at(Phase.NEW, Phase.CREATED, Phase.READY) if k.tracks_debug_owner else outside_window(s, k)


def _tweaked(s: State, k: Kernel) -> Term:
    return s.at(Phase.LOADED if k.tracks_debug_owner else Phase.SETUP, Phase.IN_GUEST)


def _mdscr_is_still_the_guests(s: State, k: Kernel) -> Term:
    return And(_untweaked(s, k), taken_from_guest(s), Eq(low_half(s.mdscr_el1), low_half(s.guest_mdscr_el1)))


@step_claim(_SAVE, "KVM", when=_mdscr_is_still_the_guests)
def mdscr_copied_before_modified(before: State, after: State, k: Kernel) -> Term:
    """The copy of MDSCR_EL1 is made before it is tweaked: it has what the guest had there (bits 31 to 0).

    Tweaked it is for an entry; from v6.14 on from vcpu_load on, where the context itself is the copy.
    """
    kept = after.mdscr_el1 if k.tracks_debug_owner else after.preserved_mdscr_el1
    return Implies(_tweaked(after, k), Eq(low_half(kept), low_half(before.guest_mdscr_el1)))


def _ss_is_still_the_guests(s: State, k: Kernel) -> Term:
    return And(_untweaked(s, k), s.user_steps, Eq(s.pstate.SS, s.guest_pstate_ss))


@step_claim(f"{_SAVE}; debug.c (v6.1), comment on save/restore_guest_debug_regs", "KVM", when=_ss_is_still_the_guests)
def pstate_ss_copied_before_modified(before: State, after: State, k: Kernel) -> Term:
    """The copy of PSTATE.SS is made before it is tweaked for a step: it has what the guest had there."""
    kept = Not(after.guest_ss_pending) if k.tracks_debug_owner else after.preserved_pstate_ss
    return Implies(_tweaked(after, k), Eq(kept, before.guest_pstate_ss))


@claim(_SAVE, at=Point.HANDLED, when=outside_window)
def guest_mdscr_preserved(s: State, k: Kernel) -> Term:
    """Outside the entry window the context holds all 64 bits of MDSCR_EL1 as the guest last wrote it."""
    return s.mdscr_el1.same(s.guest_mdscr_el1)


def _mdscr_traps(s: State) -> Term:
    return And(*(traps_to_el2(Access("MDSCR_EL1", write, 1), controls(s)) for write in (False, True)))


# At the entry, where no trace and no monitor of a running kernel watches for it: false of every kernel, as it stands.
@claim("the document, save_guest_debug_regs, sentence 3, as it stands", at=Point.ENTERED)
def mdscr_trapped(s: State, k: Kernel) -> Term:
    """Guest accesses of MDSCR_EL1 go to EL2, reads and writes."""
    return _mdscr_traps(s)


@claim("the document, save_guest_debug_regs, sentence 3", when=lambda s, k: And(s.in_guest, taken_from_guest(s)))
def mdscr_tweak_invisible(s: State, k: Kernel) -> Term:
    """While MDSCR_EL1 is tweaked, the guest can neither read nor write it without a trap."""
    return _mdscr_traps(s)


@claim(
    "Arm ARM D24.3, MDSCR_EL1", when=lambda s, k: And(s.in_guest, executes(Access("MDSCR_EL1", False, 1), controls(s)))
)
def untrapped_mdscr_is_guests_own(s: State, k: Kernel) -> Term:
    """Whenever the guest can read MDSCR_EL1 without a trap, it finds there what it last wrote (bits 31 to 0)."""
    return Eq(low_half(s.hw_mdscr_el1), low_half(s.guest_mdscr_el1))


@claim(
    "the document, save_guest_debug_regs, sentence 3",
    at=Point.HANDLED,
    when=lambda s, k: And(s.at(Phase.LOADED), s.exits_with(Exit.DEBUG_ACCESS)),
)
def mdscr_access_after_restore(s: State, k: Kernel) -> Term:
    """When a trapped access to MDSCR_EL1 is handled, the preserved value is back in the context (bits 31 to 0)."""
    undone = TRUE if k.tracks_debug_owner else Not(s.is_set_up)
    return And(Eq(low_half(s.mdscr_el1), low_half(s.guest_mdscr_el1)), undone)


_has_debug_ptr = _until_owner("there is no debug_ptr from v6.14 on; see owner_has_the_registers")


@claim("the document, kvm_arm_reset_debug_ptr", at=Point.HANDLED, when=_created_outside, applies=_has_debug_ptr)
def debug_ptr_reset(s: State, k: Kernel) -> Term:
    """Outside the entry window debug_ptr points to the vCPU's own registers."""
    return Not(s.debug_ptr_external)


@claim(
    "debug.c, kvm_arm_setup_debug, BUG_ON",
    at=Point.HANDLED,
    when=lambda s, k: And(s.here, s.at(Phase.LOADED), s.exits_with(Exit.NONE)),
    applies=_has_debug_ptr,
)
def bug_on_unreachable(s: State, k: Kernel) -> Term:
    """The BUG_ON of kvm_arm_setup_debug cannot fire."""
    return Not(setup_debug_bug_on(s, k))


def _ss_shows(s: State, k: Kernel) -> Term:
    """User space has the vCPU, or an exit is to be handled: no emulated instruction waits for its PC to be adjusted.

    From v6.14 on a debugger that steps has PSTATE.SS from vcpu_load to vcpu_put; user space never sees that.
    """
    settled = And(outside_window(s, k), Or(Not(s.in_run), Not(s.exits_with(Exit.NONE))))
    return And(settled, Not(And(s.at(Phase.LOADED), s.user_steps))) if k.tracks_debug_owner else settled


_SS = "debug.c (v6.1), comment on save/restore_guest_debug_regs, paragraph 3; Arm ARM D2.12"


@claim(_SS, at=Point.HANDLED, when=_ss_shows)
def guest_pstate_ss_preserved(s: State, k: Kernel) -> Term:
    """PSTATE.SS is what the guest's own instructions make it: debugging by user space neither sets nor clears it."""
    return Eq(s.pstate.SS, s.guest_pstate_ss)


@claim(_SS, at=Point.HANDLED, when=lambda s, k: And(_ss_shows(s, k), s.guest_mdscr_el1.SS))
def guest_step_not_repeated(s: State, k: Kernel) -> Term:
    """A step of the guest's own that has run is not begun again: with its MDSCR_EL1.SS set, PSTATE.SS is set only where
    its own instructions have left it set."""
    return Implies(s.pstate.SS, s.guest_pstate_ss)


@claim("hyp/debug-sr.h, the world switch", at=Point.HANDLED, when=outside_window)
def guest_bank_preserved(s: State, k: Kernel) -> Term:
    """Outside the guest, memory holds the break- and watchpoint registers as the guest last wrote them."""
    return Eq(s.vcpu_debug_state, s.guest_bank)


@claim("hyp/debug-sr.h; debug.c, comment on hardware breakpoints", at=Point.HANDLED, when=outside_window)
def external_bank_preserved(s: State, k: Kernel) -> Term:
    """Outside the guest, memory holds user space's break- and watchpoint registers as user space gave them."""
    return Eq(s.external_debug_state, s.user_bank)


def _bank_readable(s: State) -> Term:
    return Or(
        *(executes(Access(f"{r}<n>_EL1", False, 1), controls(s)) for r in ("DBGBCR", "DBGBVR", "DBGWCR", "DBGWVR"))
    )


@claim(
    "hyp/debug-sr.h; debug.c, comment on hardware breakpoints",
    when=lambda s, k: And(s.in_guest, kept_out(s, k)),
)
def external_bank_not_leaked(s: State, k: Kernel) -> Term:
    """While the hardware holds what is not the guest's (user space's registers, say), the guest cannot read it."""
    return Not(_bank_readable(s))


@claim("hyp/debug-sr.h, the world switch", when=lambda s, k: And(s.in_guest, _bank_readable(s)))
def untrapped_bank_is_guests_own(s: State, k: Kernel) -> Term:
    """Whenever the guest reaches the break- and watchpoint registers without a trap, they hold its own values."""
    return Eq(s.hw_bank, s.guest_bank)


# ---- claims: the host's registers


@claim(
    "switch.h, __deactivate_traps_common",
    at=Point.RETURNED,
    when=lambda s, k: s.idle if k.traps_at_load else Or(s.idle, And(s.here, Not(s.in_guest))),
)
def host_mdcr_restored(s: State, k: Kernel) -> Term:
    """Once the traps are deactivated (VHE: at put, nVHE: at the return), MDCR_EL2 is the host's again."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2)


@claim("sysreg-sr.h, __sysreg_restore_common_state", at=Point.RETURNED, when=host_has_cpu)
def host_mdscr_restored(s: State, k: Kernel) -> Term:
    """When __kvm_vcpu_run has returned, MDSCR_EL1 is what the host last wrote."""
    return s.hw_mdscr_el1.same(s.host_mdscr_el1)


@claim("debug-sr.h, __debug_switch_to_host_common", at=Point.RETURNED, when=host_has_cpu)
def host_debug_bank_restored(s: State, k: Kernel) -> Term:
    """When __kvm_vcpu_run has returned, the break- and watchpoint registers are what the host last wrote."""
    return Eq(s.hw_bank, s.host_bank)


@claim(
    "sys_regs.c, comment above trap_debug_regs, on DEBUG_DIRTY",
    when=lambda s, k: And(s.in_guest, s.hw_mdscr_el1.MDE),
)
def host_breakpoints_inert_in_guest(s: State, k: Kernel) -> Term:
    """Whenever breakpoints are enabled in the guest, the hardware holds the guest's or user space's, not the host's."""
    return Eq(s.hw_bank, If(s.user_debug.USE_HW, s.user_bank, s.guest_bank))


@claim(
    "debug.c (v6.17), kvm_vcpu_load_debug; before, switch.h, __activate_traps_common",
    at=Point.ALWAYS,
    when=lambda s, k: s.here if k.traps_at_load else s.in_guest,
    applies=lambda k: None if k.saves_host_mdcr else "the host's MDCR_EL2 is saved from v5.15 on (1460b4b25fde)",
)
def host_mdcr_saved_first(s: State, k: Kernel) -> Term:
    """While the guest's MDCR_EL2 is active, a copy of the host's is kept, saved before the guest's was written."""
    return s.mdcr_el2_host.same(s.boot_mdcr_el2)


# ---- claims: the owner of the debug registers (v6.14)

_OWNER = "debug.c (v6.14), kvm_vcpu_load_debug, comment on the three states"


@claim(_OWNER, applies=_from_owner)
def host_owns_what_it_needs(s: State, k: Kernel) -> Term:
    """KVM owns the debug registers exactly while user space debugs the guest or the guest's OS lock is locked."""
    return Eq(s.owned_by(DebugOwner.HOST), taken_from_guest(s))


@claim(
    _OWNER,
    when=lambda s, k: And(
        s.in_guest,
        Not(taken_from_guest(s)),
        Or(s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE),
    ),
    applies=_from_owner,
)
def guest_owns_what_it_enabled(s: State, k: Kernel) -> Term:
    """A guest that has enabled debug exceptions (KDE or MDE), with nobody to be kept out, owns its debug registers."""
    return s.owned_by(DebugOwner.GUEST)


@claim("debug-sr.h (v6.14), __vcpu_debug_regs and __debug_switch_to_guest_common", applies=_from_owner)
def owner_has_the_registers(s: State, k: Kernel) -> Term:
    """In the guest the hardware holds the break- and watchpoint registers of whom they belong to.

    User space's if KVM needs them, else the guest's if it actively uses them, else the host's.
    """
    others = If(s.guest_uses_debug, s.guest_bank, s.host_bank)
    return Eq(s.hw_bank, If(taken_from_guest(s), s.user_bank, others))


@claim("debug.c (v6.14), kvm_arm_setup_mdcr_el2, comment on TDA", applies=_from_owner)
def only_the_owner_reaches_the_registers(s: State, k: Kernel) -> Term:
    """The guest reaches MDSCR_EL1 and its break- and watchpoint registers without a trap exactly if they are its own.

    They are if it actively uses them, user space does not debug and the OS lock is unlocked. Unless a guest hypervisor
    traps them, or its own writes of MDSCR_EL1 have to trap.
    """
    free = And(s.guest_uses_debug, Not(taken_from_guest(s)), Not(_hypervisor_keeps_out(s)))

    def reached(register: str, write: bool) -> Term:
        return executes(Access(register, write, 1), controls(s))

    return And(
        Eq(reached("MDSCR_EL1", False), free),
        Eq(reached("MDSCR_EL1", True), And(free, Not(s.in_hypervisor))),
        *(Eq(reached("DBGBCR<n>_EL1", w), free) for w in (False, True)),
    )


_EXTERNAL = "debug.c (v6.14), setup_external_mdscr"


def _host_owns(s: State, k: Kernel) -> Term:
    return And(s.in_guest, taken_from_guest(s))


@claim(_EXTERNAL, when=_host_owns, applies=_from_owner)
def external_mdscr_debugs_as_asked(s: State, k: Kernel) -> Term:
    """While KVM has to own the debug registers, MDSCR_EL1.SS is set just for SINGLESTEP, MDE and KDE for USE_HW."""
    m = s.hw_mdscr_el1
    return And(Eq(m.SS, s.user_steps), Eq(m.MDE, s.user_debug.USE_HW), Eq(m.KDE, s.user_debug.USE_HW))


@claim(_EXTERNAL, when=_host_owns, applies=_from_owner)
def external_mdscr_follows_guest(s: State, k: Kernel) -> Term:
    """While KVM has to own the debug registers, MDSCR_EL1 is what the guest last wrote, except SS, MDE and KDE."""
    use_hw = s.user_debug.USE_HW
    return s.hw_mdscr_el1.same(s.guest_mdscr_el1.but(SS=s.user_steps, MDE=use_hw, KDE=use_hw))


@claim(
    "sysreg-sr.h (v6.14), ctxt_mdscr_el1",
    when=lambda s, k: And(s.in_guest, Not(taken_from_guest(s))),
    applies=_from_owner,
)
def mdscr_is_guests_unless_taken(s: State, k: Kernel) -> Term:
    """While KVM need not own the debug registers, MDSCR_EL1 is all 64 bits of what the guest last wrote."""
    return s.hw_mdscr_el1.same(s.guest_mdscr_el1)


# ---- claims: protected mode (v6.14)


def _from_copies(k: Kernel) -> str | None:
    if not k.tracks_debug_owner:
        return "until v6.13 EL2 is handed all debug state of the vCPU at each entry, or has no copy"
    return None if k.copies_vcpu else "only in protected mode EL2 has a copy of the vCPU"


_COPY = "hyp/nvhe/hyp-main.c (v6.14), flush_debug_state"


@claim(_COPY, applies=_from_copies)
def copy_at_el2_has_the_owner(s: State, k: Kernel) -> Term:
    """In protected mode EL2 runs a guest for the rightful owner of the debug registers, which KVM has decided on."""
    return rightful_owner(s, s.hyp_debug_owner)


@claim(_COPY, when=_host_owns, applies=_from_copies)
def copy_at_el2_has_external_mdscr(s: State, k: Kernel) -> Term:
    """In protected mode, while KVM owns the debug registers, MDSCR_EL1 is what KVM has computed for that."""
    return s.hw_mdscr_el1.same(s.external_mdscr_el1)


@claim(
    "hyp/nvhe/pkvm.c (v6.14), pvm_init_traps_mdcr",
    when=lambda s, k: And(s.in_guest, s.protected_vm) if k.copies_vcpu else s.in_guest,
    applies=_from_copies,
)
def protected_guest_keeps_its_traps(s: State, k: Kernel) -> Term:
    """A protected guest runs with the traps that EL2 has chosen for it, whatever the host's MDCR_EL2 for it is.

    That is TDCC, besides those that KVM sets anyway; TDA is left to the owner of the registers.
    """
    return And(*(getattr(s.hw_mdcr_el2, n) for n in ("TDCC", "TTRF", "TPMS", "TDRA", "TDOSA", "TPM", "TPMCR")))


# ---- claims: a guest that is a hypervisor (v6.18)


def _from_nested(k: Kernel) -> str | None:
    if not k.nested_virtualization:
        return "nested virtualization is modelled from v6.18 on"
    return None if k.nests else "nested virtualization needs a host at EL2 (VHE)"


def _nested(s: State, k: Kernel) -> Term:
    return And(s.in_guest, s.in_nested)


_NESTED = "nested.c (v6.18), kvm_nested_setup_mdcr_el2"


@claim(_NESTED, when=_nested, applies=_from_nested)
def hypervisor_traps_are_set(s: State, k: Kernel) -> Term:
    """While a guest of a guest hypervisor runs, each trap that is set in the hypervisor's MDCR_EL2 is set.

    These are TDE, TDA, TDRA, TTRF, TPMS, TPM, TPMCR, TDCC and TDOSA.
    """
    return And(*(Implies(hypervisor_wants(s, name), getattr(s.hw_mdcr_el2, name)) for name in _HYPERVISOR_TRAPS))


@claim(
    "nested.c (v6.18), kvm_nested_setup_mdcr_el2; Arm ARM D24.3, MDCR_EL2.TDA, TDE and TDCC",
    when=lambda s, k: And(_nested(s, k), Or(hypervisor_wants(s, "TDA"), hypervisor_wants(s, "TDE"))),
    applies=_from_nested,
)
def hypervisor_traps_debug_registers(s: State, k: Kernel) -> Term:
    """Where a guest hypervisor traps debug registers (TDA or TDE), its guest's accesses of them go to EL2."""
    return group_traps(s, "breakpoint", "debug")


@claim("nested.c (v6.18), NV_MDCR_GUEST_INCLUDE", when=_nested, applies=_from_nested)
def hypervisor_clears_no_trap(s: State, k: Kernel) -> Term:
    """Whatever a guest hypervisor asks for, its guest runs with each trap that KVM sets for itself."""
    constant = ("TPM", "TPMCR", "TDRA", "TDOSA", "TPMS", "TTRF")
    return And(
        *(getattr(s.hw_mdcr_el2, name) for name in constant),
        Implies(s.user_debugs, s.hw_mdcr_el2.TDE),
        Or(And(s.guest_uses_debug, Not(taken_from_guest(s))), s.hw_mdcr_el2.TDA),
    )


@claim("nested.c (v6.18), NV_MDCR_GUEST_INCLUDE", when=_nested, applies=_from_nested)
def hypervisor_sets_nothing_else(s: State, k: Kernel) -> Term:
    """A guest hypervisor gives its guest neither buffers nor counters: E2PB and E2TB are 0, HPMN is KVM's."""
    m = s.hw_mdcr_el2
    return And(m.only("HPMN", *_HYPERVISOR_TRAPS), Eq(m.HPMN, event_counters_seen(s, k)))


@claim(
    "nested.c (v6.18), kvm_nested_setup_mdcr_el2, comment on MDSCR_EL1; Arm ARM D8, FEAT_NV2",
    when=lambda s, k: And(s.in_guest, s.in_hypervisor),
    applies=_from_nested,
)
def redirected_mdscr_write_traps(s: State, k: Kernel) -> Term:
    """A guest hypervisor's own writes of MDSCR_EL1 trap: FEAT_NV2 would send them to memory, without effect."""
    return traps_to_el2(Access("MDSCR_EL1", True, 1), controls(s))


@claim(
    "sys_regs.c, access_mdcr and reset_mdcr; Arm ARM D24.3, MDCR_EL2.HPMN",
    at=Point.ALWAYS,
    when=always,
    applies=_from_nested,
)
def virtual_mdcr_preserved(s: State, k: Kernel) -> Term:
    """A guest hypervisor's MDCR_EL2 is what it last wrote; after a reset, HPMN is all of its event counters."""
    return s.virtual_mdcr_el2.same(s.hypervisor_mdcr_el2)


@claim("handle_exit.c (v6.14), kvm_handle_guest_debug", at=Point.ALWAYS, when=always, applies=_from_nested)
def debug_exceptions_go_to_who_debugs(s: State, k: Kernel) -> Term:
    """A debug exception that came to EL2 went to user space exactly if it debugs; else the guest hypervisor got it."""
    return Not(s.wrong_route)


@claim("emulate-nested.c, triage_sysreg_trap", at=Point.ALWAYS, when=always, applies=_from_nested)
def hypervisor_gets_what_it_traps(s: State, k: Kernel) -> Term:
    """KVM emulates no access of a debug or OS register that a guest hypervisor traps: the hypervisor gets it."""
    return Not(s.wrong_access)


# ---- claims: user space's debugger gets what it asked for


@claim("debug.c, comment on hardware breakpoints", when=lambda s, k: And(s.in_guest, s.user_debug.USE_HW))
def host_breakpoints_armed(s: State, k: Kernel) -> Term:
    """With KVM_GUESTDBG_USE_HW, user space's registers are in hardware and enabled, with exceptions going to EL2."""
    return And(Eq(s.hw_bank, s.user_bank), s.hw_mdscr_el1.MDE, s.hw_mdcr_el2.TDE, Not(s.hw_oslk))


@claim("debug.c, comment on single-step; Arm ARM D2.12", when=lambda s, k: And(s.in_guest, s.user_steps))
def step_armed(s: State, k: Kernel) -> Term:
    """With KVM_GUESTDBG_SINGLESTEP, the step machine is active in the guest, with its exception going to EL2."""
    return And(s.hw_mdscr_el1.SS, s.hw_mdcr_el2.TDE, Not(s.hw_oslk), Eq(may_execute(s), s.hw_pstate.SS))


_STEP = "Documentation/virt/kvm/api.rst, KVM_GUESTDBG_SINGLESTEP; debug.c, comments on single-step"


@claim(_STEP, at=Point.ALWAYS, when=lambda s, k: s.user_steps)
def one_step_one_instruction(s: State, k: Kernel) -> Term:
    """While single-stepping, every reported step is exactly one guest instruction: none lost, none that did not run."""
    return And(Not(s.wrong_step), t.ule(s.steps, t.const(1, 2)))


# ---- claims: the OS lock


def _has_os_lock(k: Kernel) -> str | None:
    return None if k.documents_os_lock else "the guest's OS lock is emulated from v5.18 on (7dabf02f43a1)"


@claim("debug.c (v6.1), comment on the OS lock", at=Point.ALWAYS, when=always)
def physical_os_lock_stays_clear(s: State, k: Kernel) -> Term:
    """The OS lock of the CPU itself is never locked."""
    return Not(s.hw_oslk)


@claim(
    "debug.c (v6.1), comment on the OS lock",
    when=lambda s, k: And(s.in_guest, s.guest_os_lock),
    applies=_has_os_lock,
)
def os_lock_blocks_guest_debug(s: State, k: Kernel) -> Term:
    """With the guest's OS lock locked, no break- or watchpoint of its own fires and no step of its own is taken."""
    own_bank = And(s.hw_mdscr_el1.MDE, Not(s.user_debug.USE_HW))
    own_step = And(s.hw_mdscr_el1.SS, Not(s.user_steps))
    return And(Not(own_bank), Not(own_step))


@claim(
    "debug.c (v6.1), comment on the OS lock",
    when=lambda s, k: And(s.in_guest, Not(taken_from_guest(s))),
    applies=_has_os_lock,
)
def os_lock_blocks_nothing_else(s: State, k: Kernel) -> Term:
    """With the OS lock unlocked and no debugger, MDSCR_EL1 in the guest is the guest's own (bits 31 to 0)."""
    return Eq(low_half(s.hw_mdscr_el1), low_half(s.guest_mdscr_el1))


@claim(
    "debug.c (v6.1), comment on the OS lock",
    when=lambda s, k: And(s.in_guest, s.guest_os_lock, s.user_debugs),
    applies=_has_os_lock,
)
def os_lock_spares_the_debugger(s: State, k: Kernel) -> Term:
    """The guest's OS lock takes nothing from user space: its breakpoints stay enabled, its steps active."""
    return And(
        Implies(s.user_debug.USE_HW, s.hw_mdscr_el1.MDE),
        Implies(s.user_steps, s.hw_mdscr_el1.SS),
        s.hw_mdcr_el2.TDE,
        Not(s.hw_oslk),
    )


@claim(
    "sys_regs.c, trap_oslsr_el1; Arm ARM D24.3, OSLSR_EL1",
    at=Point.HANDLED,
    when=outside_window,
    applies=_has_os_lock,
)
def oslsr_is_guests_own(s: State, k: Kernel) -> Term:
    """Outside the entry window OSLSR_EL1.OSLK in the context, which a trapped read gets, is the guest's own OS lock."""
    return Eq(s.os_lock, s.guest_os_lock)


# ---- claims that hold under preconditions, where the plain claim does not


def _needless(
    holds: Callable[[Kernel], bool], why: str = "the claim holds without it"
) -> Callable[[Kernel], str | None]:
    return lambda k: why if holds(k) else None


def _reads_late(k: Kernel) -> str | None:
    """HPMN is read from a register that vCPUs leave changed: VHE before v5.15, with traps from vcpu_load on."""
    if not k.vhe or k.saves_host_mdcr or (k.vhe_reads_boot_mdcr and not k.traps_at_load):
        return "the claim holds without it"
    return None if k.vhe_reads_boot_mdcr and k.vhe_writes_changed_mdcr else "fails whatever the environment does"


def _rebuilds(k: Kernel) -> str | None:
    if k.saves_host_mdcr:
        return "the claim holds without it" if k.mdcr_el2_bits == 64 else "for kernels that rebuild the host's value"
    return "VHE rebuilds another value" if k.vhe else None


_vhe_window = _needless(
    lambda k: not k.traps_at_load or k.tracks_debug_owner, "no value is loaded that was computed elsewhere"
)
_in_32_bits = _needless(lambda k: k.tracks_debug_owner)


def _from_pmcr(k: Kernel) -> str | None:
    if not k.tracks_debug_owner:
        return "HPMN is read from MDCR_EL2 until v6.13"
    if not k.reads_pmuv3p8_counters:
        return "needs one more precondition" if k.vhe else "nVHE needs another precondition"
    return None if k.vhe else "the claim holds without it"


def _misses_pmuv3p8(k: Kernel) -> str | None:
    """HPMN is 0 on CPUs from PMUv3p8 on: v6.14 to v7.0."""
    if not k.tracks_debug_owner:
        return "HPMN is read from MDCR_EL2 until v6.13"
    return "the claim holds without it" if k.reads_pmuv3p8_counters else None


def _misses_pmuv3p8_at_el1(k: Kernel) -> str | None:
    return _misses_pmuv3p8(k) or ("VHE needs one more precondition" if k.vhe else None)


def _misses_pmuv3p8_at_el2(k: Kernel) -> str | None:
    return _misses_pmuv3p8(k) or (None if k.vhe else "nVHE needs fewer preconditions")


def _up_to_pmuv3p7(of: Claim, applies: Callable[[Kernel], str | None] = _misses_pmuv3p8) -> Claim:
    says = f"As {of.name}, if no CPU has PMUv3p8 or later."
    return variant(of, f"{of.name}_up_to_pmuv3p7", says, UP_TO_PMUV3P7, applies=applies)


def _all_counters_up_to_pmuv3p7(of: Claim, applies: Callable[[Kernel], str | None]) -> Claim:
    says = f"As {of.name}, if the boot code gives the guest every event counter, and no CPU has PMUv3p8 or later."
    name = f"{of.name}_with_all_counters_up_to_pmuv3p7"
    return variant(of, name, says, BOOT_GIVES_ALL_COUNTERS, UP_TO_PMUV3P7, applies=applies)


event_counters_read_before_use_up_to_pmuv3p7 = _up_to_pmuv3p7(event_counters_read_before_use)
entry_is_fresh_up_to_pmuv3p7 = _up_to_pmuv3p7(entry_is_fresh)
only_named_fields_up_to_pmuv3p7 = _up_to_pmuv3p7(only_named_fields)
hpmn_never_reserved_up_to_pmuv3p7 = _up_to_pmuv3p7(hpmn_never_reserved)
hypervisor_sets_nothing_else_up_to_pmuv3p7 = _up_to_pmuv3p7(
    hypervisor_sets_nothing_else, lambda k: _from_nested(k) or _misses_pmuv3p8(k)
)
hpmn_preserved_in_guest_up_to_pmuv3p7 = _up_to_pmuv3p7(hpmn_preserved_in_guest, _misses_pmuv3p8_at_el1)
hpmn_preserved_always_up_to_pmuv3p7 = _up_to_pmuv3p7(hpmn_preserved_always, _misses_pmuv3p8_at_el1)
hpmn_preserved_in_guest_with_all_counters_up_to_pmuv3p7 = _all_counters_up_to_pmuv3p7(
    hpmn_preserved_in_guest, _misses_pmuv3p8_at_el2
)
hpmn_preserved_on_host_with_all_counters_up_to_pmuv3p7 = _all_counters_up_to_pmuv3p7(
    hpmn_preserved_on_host, lambda k: _misses_pmuv3p8_at_el2(k) or _needless(lambda k: k.vhe_saves_host_mdcr_first)(k)
)
hpmn_preserved_always_with_all_counters_up_to_pmuv3p7 = _all_counters_up_to_pmuv3p7(
    hpmn_preserved_always, _misses_pmuv3p8_at_el2
)


hpmn_preserved_in_guest_with_all_counters = variant(
    hpmn_preserved_in_guest,
    "hpmn_preserved_in_guest_with_all_counters",
    "As hpmn_preserved_in_guest, if the boot code gives the guest every event counter.",
    BOOT_GIVES_ALL_COUNTERS,
    applies=_from_pmcr,
)
hpmn_preserved_on_host_with_all_counters = variant(
    hpmn_preserved_on_host,
    "hpmn_preserved_on_host_with_all_counters",
    "As hpmn_preserved_on_host, if the boot code gives the guest every event counter.",
    BOOT_GIVES_ALL_COUNTERS,
    applies=lambda k: _from_pmcr(k) or _needless(lambda k: k.vhe_saves_host_mdcr_first)(k),
)
hpmn_preserved_always_with_all_counters = variant(
    hpmn_preserved_always,
    "hpmn_preserved_always_with_all_counters",
    "As hpmn_preserved_always, if the boot code gives the guest every event counter.",
    BOOT_GIVES_ALL_COUNTERS,
    applies=_from_pmcr,
)
external_mdscr_follows_guest_if_left_alone = variant(
    external_mdscr_follows_guest,
    "external_mdscr_follows_guest_if_left_alone",
    "As external_mdscr_follows_guest, if the guest does not write MDSCR_EL1 meanwhile.",
    MDSCR_LEFT_ALONE,
    applies=_from_owner,
)

hpmn_preserved_always_on_equal_cpus = variant(
    hpmn_preserved_always,
    "hpmn_preserved_always_on_equal_cpus",
    "As hpmn_preserved_always, on machines whose CPUs all boot with the same HPMN.",
    CPUS_BOOT_ALIKE,
    applies=_vhe_window,
)
hpmn_never_reserved_on_equal_cpus = variant(
    hpmn_never_reserved,
    "hpmn_never_reserved_on_equal_cpus",
    "As hpmn_never_reserved, on machines whose CPUs all boot with the same HPMN.",
    CPUS_BOOT_ALIKE,
    applies=_vhe_window,
)
hpmn_preserved_in_guest_if_read_at_boot = variant(
    hpmn_preserved_in_guest,
    "hpmn_preserved_in_guest_if_read_at_boot",
    "As hpmn_preserved_in_guest, if hyp initialisation runs only at boot.",
    INIT_ONLY_AT_BOOT,
    applies=_reads_late,
)
boot_value_read_before_use_if_read_at_boot = variant(
    boot_value_read_before_use,
    "boot_value_read_before_use_if_read_at_boot",
    "As boot_value_read_before_use, if hyp initialisation runs only at boot.",
    INIT_ONLY_AT_BOOT,
    applies=_reads_late,
)
entry_is_fresh_if_read_at_boot = variant(
    entry_is_fresh,
    "entry_is_fresh_if_read_at_boot",
    "As entry_is_fresh, if hyp initialisation runs only at boot.",
    INIT_ONLY_AT_BOOT,
    applies=_reads_late,
)
only_named_fields_if_read_at_boot = variant(
    only_named_fields,
    "only_named_fields_if_read_at_boot",
    "As only_named_fields, if hyp initialisation runs only at boot.",
    INIT_ONLY_AT_BOOT,
    applies=_reads_late,
)
boot_value_read_in_full_if_plain = variant(
    boot_value_read_in_full,
    "boot_value_read_in_full_if_plain",
    "As boot_value_read_in_full, if the boot value is just what KVM rebuilds.",
    BOOT_VALUE_AS_REBUILT,
    applies=_rebuilds,
)
host_mdcr_restored_if_plain = variant(
    host_mdcr_restored,
    "host_mdcr_restored_if_plain",
    "As host_mdcr_restored, if the boot value is just what KVM rebuilds.",
    BOOT_VALUE_AS_REBUILT,
    applies=_rebuilds,
)
performance_monitors_trapped_without_perf = variant(
    performance_monitors_trapped,
    "performance_monitors_trapped_without_perf",
    "As performance_monitors_trapped, if perf leaves PMUSERENR_EL0 alone while a vCPU is loaded.",
    PERF_KEEPS_OFF,
    applies=lambda k: _vhe_window(k) or _needless(lambda k: k.guards_pmuserenr)(k),
)
user_access_is_set_up_without_perf = variant(
    user_access_is_set_up,
    "user_access_is_set_up_without_perf",
    "As user_access_is_set_up, if perf leaves PMUSERENR_EL0 alone while a vCPU is loaded.",
    PERF_KEEPS_OFF,
    applies=lambda k: _vhe_window(k) or _needless(lambda k: k.guards_pmuserenr)(k),
)
mdscr_trapped_if_left_alone = variant(
    mdscr_trapped,
    "mdscr_trapped_if_left_alone",
    "As mdscr_trapped, if the guest never uses its debug registers.",
    DEBUG_LEFT_ALONE,
)
saved_before_modified_in_32_bits = variant(
    saved_before_modified,
    "saved_before_modified_in_32_bits",
    "As saved_before_modified, if no bit above 31 of MDSCR_EL1 is ever set.",
    MDSCR_IN_32_BITS,
    applies=_in_32_bits,
)
guest_mdscr_preserved_in_32_bits = variant(
    guest_mdscr_preserved,
    "guest_mdscr_preserved_in_32_bits",
    "As guest_mdscr_preserved, if no bit above 31 of MDSCR_EL1 is ever set.",
    MDSCR_IN_32_BITS,
    applies=_in_32_bits,
)
guest_pstate_ss_preserved_undebugged = variant(
    guest_pstate_ss_preserved,
    "guest_pstate_ss_preserved_undebugged",
    "As guest_pstate_ss_preserved, if user space never debugs the guest.",
    NEVER_DEBUGGED,
    applies=_needless(lambda k: k.tracks_debug_owner, "holds if user space debugs, too, while the guest does not step"),
)
guest_pstate_ss_preserved_unemulated = variant(
    guest_pstate_ss_preserved,
    "guest_pstate_ss_preserved_unemulated",
    "As guest_pstate_ss_preserved, if user space never debugs, and the guest steps itself over nothing emulated.",
    NEVER_DEBUGGED,
    NO_EMULATED_STEP,
    applies=_needless(lambda k: k.skip_advances_step, "holds, or fails, without it"),
)
guest_pstate_ss_preserved_if_one_steps = variant(
    guest_pstate_ss_preserved,
    "guest_pstate_ss_preserved_if_one_steps",
    "As guest_pstate_ss_preserved, if the guest does not step itself while user space debugs it.",
    ONE_DEBUGGER,
    applies=lambda k: _from_owner(k) and "needs one more precondition, or fails whatever the environment does",
)
guest_pstate_ss_preserved_if_one_steps_unlocked = variant(
    guest_pstate_ss_preserved,
    "guest_pstate_ss_preserved_if_one_steps_unlocked",
    "As guest_pstate_ss_preserved_if_one_steps, if the guest locks its OS lock by no step either.",
    ONE_DEBUGGER,
    LOCK_NOT_STEPPED,
    applies=lambda k: (
        "holds with fewer preconditions"
        if k.tracks_debug_owner
        else None
        if k.documents_os_lock
        else "there is no OS lock, and single-stepping sets PSTATE.SS (before v6.1)"
    ),
)
guest_step_not_repeated_unstepped = variant(
    guest_step_not_repeated,
    "guest_step_not_repeated_unstepped",
    "As guest_step_not_repeated, if user space never single-steps the guest, whatever else it debugs.",
    NEVER_STEPPED,
)
guest_bank_preserved_of_number_0 = variant(
    guest_bank_preserved,
    "guest_bank_preserved_of_number_0",
    "As guest_bank_preserved, if only breakpoint 0 and watchpoint 0 are used.",
    FIRST_BREAKPOINT_ONLY,
    applies=_needless(lambda k: k.indexes_trapped_banks),
)
one_step_one_instruction_if_undisturbed = variant(
    one_step_one_instruction,
    "one_step_one_instruction_if_undisturbed",
    "As one_step_one_instruction, with no return or reset while a skip is pending, and stepping ended by debugging.",
    NO_RETURN_WITH_SKIP_PENDING,
    NO_RESET_WITH_SKIP_PENDING,
    STEPPING_ENDS_WITH_DEBUGGING,
    applies=lambda k: (
        "holds with fewer preconditions"
        if k.tracks_debug_owner
        else None
        if k.defers_pc_adjustment
        else "fails whatever the environment does (before v6.1)"
    ),
)
one_step_one_instruction_if_not_reset = variant(
    one_step_one_instruction,
    "one_step_one_instruction_if_not_reset",
    "As one_step_one_instruction, with no reset while a skip is pending, and stepping ended by debugging.",
    NO_RESET_WITH_SKIP_PENDING,
    STEPPING_ENDS_WITH_DEBUGGING,
    applies=lambda k: _from_owner(k) or ("needs one more precondition" if k.nests else None),
)
one_step_one_instruction_if_no_eret = variant(
    one_step_one_instruction,
    "one_step_one_instruction_if_no_eret",
    "As one_step_one_instruction_if_not_reset, with no guest hypervisor stepped over an ERET, nor its guest into it.",
    NO_RESET_WITH_SKIP_PENDING,
    STEPPING_ENDS_WITH_DEBUGGING,
    STEPPED_WITHOUT_ERET,
    applies=_from_nested,
)


CLAIMS: tuple[Claim, ...] = tuple(c for c in list(globals().values()) if isinstance(c, Claim))


# ---- non-properties: these must fail, or the model does not move


@claim(
    "the naive reading of the document, kvm_arm_setup_debug, sentence 4",
    when=_host_debugs,
    applies=_until_owner("true from v6.14 on: KVM owns the registers of a guest that is debugged"),
)
def guest_debug_implies_tda(s: State, k: Kernel) -> Term:
    """Any debugging by user space sets TDA. (It does not: TDE alone traps the accesses.)"""
    return s.hw_mdcr_el2.TDA


@claim("vacuity: some guest runs", at=Point.ALWAYS, when=always)
def no_guest_ever_runs(s: State, k: Kernel) -> Term:
    """No guest ever runs."""
    return Not(s.in_guest)


def _scenario(name: str, says: str, reached: Predicate, applies: Callable[[Kernel], str | None] = everywhere) -> Claim:
    """A situation that the model must be able to reach; its trace is a seed when the C of a tree is searched."""

    def never(before: State, after: State, k: Kernel) -> Term:
        return Not(reached(before, k))

    return Claim(name, f"Never: {says}.", "scenario", Point.IN_GUEST, always, never, applies)


def _uses(s: State, k: Kernel) -> Term:
    """The guest has just used the debug registers."""
    return And(uses_debug(s, k), Not(kept_out(s, k)))


_keeps_dirty = _until_owner("the guest's use of the registers ends where KVM takes them, from v6.14 on")


def _tweakable(s: State) -> Term:
    return And(s.guest_mdscr_el1.SS, s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE)


NON_PROPERTIES: tuple[Claim, ...] = (
    guest_debug_implies_tda,
    no_guest_ever_runs,
    _scenario(
        "use_hw_never_meets_dirty",
        "user space debugs with the registers while the guest has just used them",
        lambda s, k: And(s.in_guest, s.user_debug.USE_HW, uses_debug(s, k)),
        _keeps_dirty,
    ),
    _scenario(
        "step_never_meets_dirty",
        "user space steps a guest that has just used the debug registers",
        lambda s, k: And(s.in_guest, s.user_steps, Not(s.user_debug.USE_HW), uses_debug(s, k)),
        _keeps_dirty,
    ),
    _scenario(
        "guest_never_owns_registers",
        "nobody debugs, and the guest has just used the debug registers",
        lambda s, k: And(s.in_guest, Not(taken_from_guest(s)), _uses(s, k)),
    ),
    _scenario(
        "locked_guest_never_debugs_itself",
        "the guest has locked its OS lock with all of its debug exceptions enabled, and has just used the registers",
        lambda s, k: And(s.in_guest, s.guest_os_lock, _tweakable(s), uses_debug(s, k), Not(s.user_debugs)),
        lambda k: _keeps_dirty(k) or _has_os_lock(k),
    ),
    _scenario(
        "debugged_guest_never_debugs_itself",
        "the guest has all of its debug exceptions enabled and is debugged by user space, without the registers",
        lambda s, k: And(s.in_guest, s.user_debugs, Not(s.user_debug.USE_HW), Not(s.user_steps), _tweakable(s)),
    ),
    _scenario(
        "debugging_never_ends",
        "user space has debugged a guest with all debug exceptions enabled, has stopped, and the guest runs on",
        lambda s, k: And(
            s.in_guest,
            Not(s.user_debugs),
            _tweakable(s),
            (s.external_mdscr_el1 if k.tracks_debug_owner else s.preserved_mdscr_el1).SS,
        ),
    ),
    _scenario(
        "locked_guest_never_owns_nothing",
        "the guest has locked its OS lock with all of its debug exceptions enabled, and KVM has taken the registers",
        lambda s, k: And(s.in_guest, s.guest_os_lock, _tweakable(s), Not(s.user_debugs), taken_by_host(s)),
        _from_owner,
    ),
    _scenario(
        "guest_hypervisor_never_traps",
        "a guest of a guest hypervisor runs, all of whose traps are set, and owns its debug registers",
        lambda s, k: (
            And(
                _nested(s, k),
                *(hypervisor_wants(s, name) for name in _HYPERVISOR_TRAPS),
                s.owned_by(DebugOwner.GUEST),
            )
            if s.may_nest
            else FALSE
        ),
        _from_nested,
    ),
)
