"""Why the claims hold: inductive facts about one vCPU and one CPU, in the order in which a reader needs them.

Lemmas are free to change; nothing here is promised, and nothing mentions an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.environment import has_os_lock
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, Eq, If, Implies, Ne, Not, Or, Term
from formal.ownership import looks_like_pmuv3, setup_mdcr_el2_by_owner
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
    rebuilt_mdcr,
)
from formal.state import DebugOwner, Exit, Phase, State
from formal.transitions import setup_mdcr_el2, tweaks_guest
from formal.vocabulary import (
    Lemma,
    event_counters_seen,
    host_has_cpu,
    lemma,
    low_half,
    outside_window,
    switched,
    switched_to_guests,
    switched_to_users,
    taken_by_host,
    taken_from_guest,
    uses_debug,
)

# ---- lemmas: why the claims hold


def _by_dirty(k: Kernel) -> bool:
    return not k.tracks_debug_owner


def _in_entry_window(s: State, k: Kernel) -> Term:
    return And(s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED), tweaks_guest(s, k))


def _by_owner(k: Kernel) -> bool:
    return k.tracks_debug_owner


def _nests(k: Kernel) -> bool:
    return k.nests


def _saves_late(k: Kernel) -> bool:
    """v6.14 to v6.17-rc under VHE: what is saved as the host's MDCR_EL2 is the guest's."""
    return k.tracks_debug_owner and k.vhe and not k.vhe_saves_host_mdcr_first


def _counts(k: Kernel) -> bool:
    """The HPMN that is read is the boot code's: the CPU's MDCR_EL2 has it whenever it is read."""
    return _by_dirty(k) and (k.saves_host_mdcr or not k.traps_at_load) and _reads_boot(k) and k.keeps_hpmn


def _reads_boot(k: Kernel) -> bool:
    return k.vhe_reads_boot_mdcr or not k.vhe


@lemma()
def loaded_where_it_says(s: State, k: Kernel) -> Term:
    """A vCPU is loaded on a CPU exactly if that CPU says so."""
    return Eq(s.here, And(s.busy, Eq(s.vcpu, t.const(s.vcpu_id, 2))))


@lemma()
def life_cycle(s: State, k: Kernel) -> Term:
    """Phases, KVM_RUN and the exit to be handled agree."""
    loaded = s.at(Phase.LOADED, Phase.SETUP, Phase.IN_GUEST, Phase.EXITED)
    at_rest = And(s.at(Phase.READY), Not(s.in_run))
    return And(
        Ne(s.phase, t.const(7, 3)),
        Implies(loaded, s.in_run),
        Implies(s.in_run, Or(loaded, s.at(Phase.READY))),
        Implies(s.at(Phase.NEW, Phase.CREATED, Phase.SETUP, Phase.IN_GUEST), s.exits_with(Exit.NONE)),
        Implies(at_rest, s.exits_with(Exit.NONE, Exit.MMIO)),
    )


@lemma()
def ready_before_use(s: State, k: Kernel) -> Term:
    """vCPUs are loaded only on CPUs whose hyp initialisation has run."""
    return Implies(s.busy, s.kvm_ready)


@lemma()
def set_up_in_window(s: State, k: Kernel) -> Term:
    """kvm_arm_setup_debug has run exactly from SETUP to EXITED; kvm_vcpu_load_debug exactly while loaded."""
    first = Phase.LOADED if k.tracks_debug_owner else Phase.SETUP
    return Eq(s.is_set_up, s.at(first, Phase.IN_GUEST, Phase.EXITED))


@lemma()
def boot_hpmn_is_valid(s: State, k: Kernel) -> Term:
    """What the boot code chose is not reserved."""
    hpmn = s.boot_mdcr_el2.HPMN
    return And(Ne(hpmn, t.const(0, 5)), t.ule(hpmn, s.event_counters))


@lemma(lambda k: k.saves_host_mdcr and not _saves_late(k))
def host_mdcr_is_boots(s: State, k: Kernel) -> Term:
    """Outside the traps' reach MDCR_EL2 is the boot value, and so is the saved copy inside."""
    active = s.here if k.traps_at_load else s.in_guest
    return And(
        Implies(Or(s.idle, And(s.here, Not(active))), s.hw_mdcr_el2.same(s.boot_mdcr_el2)),
        Implies(active, s.mdcr_el2_host.same(s.boot_mdcr_el2)),
    )


@lemma(lambda k: not k.saves_host_mdcr and not k.traps_at_load and _reads_boot(k))
def host_hpmn_is_boots(s: State, k: Kernel) -> Term:
    """nVHE before v5.15, and VHE before v4.17 if it reads the boot value: HPMN at least survives the way back."""
    return Implies(Or(s.idle, s.here), s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"))


@lemma(_counts)
def copy_has_boot_hpmn(s: State, k: Kernel) -> Term:
    """The per-CPU copy has the boot code's HPMN."""
    return Implies(s.kvm_ready, s.percpu_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"))


@lemma(lambda k: _by_dirty(k) and _reads_boot(k), given=(INIT_ONLY_AT_BOOT,))
def copy_was_read_at_boot(s: State, k: Kernel) -> Term:
    """Until hyp initialisation MDCR_EL2 is the boot value; from then on the copy has its HPMN."""
    return If(
        s.kvm_ready,
        s.percpu_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"),
        s.hw_mdcr_el2.same(s.boot_mdcr_el2),
    )


@lemma(lambda k: not k.vhe and not k.saves_host_mdcr, given=(BOOT_VALUE_AS_REBUILT,))
def rebuilt_is_boots(s: State, k: Kernel) -> Term:
    """If the boot value is just what KVM rebuilds, then the host always has it, and so has the copy."""
    return And(
        s.boot_mdcr_el2.same(rebuilt_mdcr(s.boot_mdcr_el2.HPMN, k)),
        Implies(Or(s.idle, And(s.here, Not(s.in_guest))), s.hw_mdcr_el2.same(s.boot_mdcr_el2)),
        Implies(s.kvm_ready, s.percpu_mdcr_el2.same(s.boot_mdcr_el2)),
    )


@lemma(lambda k: _counts(k) and k.saves_host_mdcr and k.mdcr_el2_bits == 64)
def copy_is_boots(s: State, k: Kernel) -> Term:
    """The per-CPU copy has all of the boot value."""
    return Implies(s.kvm_ready, s.percpu_mdcr_el2.same(s.boot_mdcr_el2))


_COMPUTED_FROM = ("guest_debug", "guest_wrote_debug", "oslsr_el1", "percpu_mdcr_el2", "mdcr_el2")
_COMPUTED_BY_OWNER_FROM = ("guest_debug", "debug_owner", "nr_event_counters", "mdcr_el2", "hw_mdcr_el2")
_COMPUTED_NESTED_FROM = ("has_nv", "nested", "has_fgt", "virtual_mdcr_el2")


def _computed_from(k: Kernel) -> tuple[str, ...]:
    if not k.tracks_debug_owner:
        return _COMPUTED_FROM
    return (*_COMPUTED_BY_OWNER_FROM, *(_COMPUTED_NESTED_FROM if k.nests else ()))


@lru_cache(maxsize=4096)
def _computed_mdcr_el2(k: Kernel, *read: Term) -> Term:
    """What kvm_arm_setup_mdcr_el2 computes from the variables that it reads (64 bits)."""
    values = dict(zip(_computed_from(k), read, strict=True))
    if k.tracks_debug_owner:
        return setup_mdcr_el2_by_owner(State(values), k).mdcr_el2.raw
    return setup_mdcr_el2(State({**values, "debug_dirty": values["guest_wrote_debug"]}), k).mdcr_el2.raw


def _window_lemma(
    name: str,
    says: str,
    same: Callable[[MDCR_EL2, MDCR_EL2, Kernel], Term],
    applies: Callable[[Kernel], bool] = lambda k: True,
) -> Lemma:
    """From setup to exit, part of mdcr_el2 is what kvm_arm_setup_mdcr_el2 computes for this CPU and the guest's writes.

    From v6.14 on: while it is loaded, for this CPU and the owner.
    """

    def holds(s: State, k: Kernel) -> Term:
        window = s.here if k.tracks_debug_owner else And(s.here, s.at(Phase.SETUP, Phase.IN_GUEST))
        computed = MDCR_EL2(_computed_mdcr_el2(k, *(s.values[name] for name in _computed_from(k))))
        return Implies(window, same(s.mdcr_el2, computed, k))

    return Lemma(name, says, holds, applies)


# One lemma for each field: where a tree computes one of them differently, the others still hold.
_COMPUTED = ("TTRF", "TPMS", "E2PB", "E2TB", "TDRA", "TDOSA", "TDA", "TDE", "TPM", "TPMCR", "HPMN")
_COMPUTED_NESTED = ("TDCC",)  # which only a guest hypervisor asks for
FIELD_LEMMAS: tuple[Lemma, ...] = tuple(
    _window_lemma(
        f"{field}_is_computed",
        f"In the entry window mdcr_el2.{field} is what kvm_arm_setup_mdcr_el2 computes.",
        lambda got, want, k, field=field: got.same(want, field),  # type: ignore[misc]
        _nests if field in _COMPUTED_NESTED else lambda k: True,
    )
    for field in (*_COMPUTED, *_COMPUTED_NESTED)
) + (
    _window_lemma(
        "nothing_else_is_set",
        "In the entry window mdcr_el2 has no other field set.",
        lambda got, want, k: got.only(*_COMPUTED, *(_COMPUTED_NESTED if k.nests else ())),
    ),
)


@lemma(lambda k: not k.traps_at_load or k.vhe_writes_changed_mdcr)
def value_is_in_hardware(s: State, k: Kernel) -> Term:
    """While the traps are active, MDCR_EL2 is the vCPU's value."""
    return Implies(s.here if k.traps_at_load else s.in_guest, s.hw_mdcr_el2.same(s.mdcr_el2))


@lemma(lambda k: k.first_run_init and _by_dirty(k))
def hpmn_is_some_boots(s: State, k: Kernel) -> Term:
    """From the first run on, mdcr_el2 has the constant traps."""
    constant = ("TPM", "TPMCR", "TDRA", "TDOSA", *(("TPMS",) if k.traps_profiling else ()))
    return Implies(
        Not(s.at(Phase.NEW, Phase.CREATED)),
        And(
            *(getattr(s.mdcr_el2, name) for name in constant), s.mdcr_el2.only(*constant, "TTRF", "TDE", "TDA", "HPMN")
        ),
    )


@lemma()
def guest_debug_is_valid(s: State, k: Kernel) -> Term:
    """guest_debug is 0, or ENABLE with some of the three other flags."""
    flags = s.guest_debug
    return And(flags.only(), Or(flags.ENABLE, Not(flags.any())))


@lemma(lambda k: k.restores_debug_ptr and _by_dirty(k))
def debug_ptr_in_window(s: State, k: Kernel) -> Term:
    """debug_ptr is user space's bank exactly in the entry window with USE_HW."""
    window = s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED)
    return Implies(Not(s.at(Phase.NEW)), Eq(s.debug_ptr_external, And(window, s.guest_debug.USE_HW)))


@lemma()
def debugging_is_as_asked(s: State, k: Kernel) -> Term:
    """While user space debugs, guest_debug is what it last asked for."""
    return Implies(s.user_debugs, s.guest_debug.same(s.user_debug))


@lemma()
def debugging_ends_as_asked(s: State, k: Kernel) -> Term:
    """While user space does not debug, guest_debug is 0."""
    return Implies(Not(s.user_debugs), Not(s.guest_debug.any()))


@lemma(_by_dirty)
def dirty_after_the_guests_write(s: State, k: Kernel) -> Term:
    """DIRTY is set exactly if the guest last left to write a debug register; in the window it may be set besides."""
    inside = s.at(Phase.SETUP, Phase.IN_GUEST)
    return And(Implies(s.guest_wrote_debug, s.debug_dirty), Or(inside, Eq(s.debug_dirty, s.guest_wrote_debug)))


@lemma(_by_dirty)
def dirty_with_use_hw(s: State, k: Kernel) -> Term:
    """In the window DIRTY is set if user space uses the registers."""
    return Implies(And(s.at(Phase.SETUP, Phase.IN_GUEST), s.guest_debug.USE_HW), s.debug_dirty)


@lemma(_by_dirty)
def dirty_with_debug_enabled(s: State, k: Kernel) -> Term:
    """In the window DIRTY is set if debug exceptions are enabled."""
    return And(
        Implies(And(s.at(Phase.SETUP), Or(s.mdscr_el1.KDE, s.mdscr_el1.MDE)), s.debug_dirty),
        Implies(And(s.in_guest, Or(s.hw_mdscr_el1.KDE, s.hw_mdscr_el1.MDE)), s.debug_dirty),
    )


@lemma(given=(DEBUG_LEFT_ALONE,))
def debug_is_left_alone(s: State, k: Kernel) -> Term:
    """If the guest never uses its debug registers, it does not do so now."""
    return Not(uses_debug(s, k))


def _tweaked(low: Term, s: State, k: Kernel) -> Term:
    """The low half of MDSCR_EL1 as the entry window should have it, from the guest's low half."""
    guest = MDSCR_EL1(t.zero_extend(low, 64))
    locked = s.os_lock if k.emulates_os_lock else FALSE
    changed = guest.but(SS=s.stepping, MDE=Or(s.guest_debug.USE_HW, And(Not(locked), guest.MDE)))
    return If(tweaks_guest(s, k), t.extract(changed.raw, 31, 0), low)


@lemma(_by_dirty)
def mdscr_outside_window(s: State, k: Kernel) -> Term:
    """Outside the window the context has the low half of MDSCR_EL1 as the guest last wrote it; inside the copy has."""
    theirs = low_half(s.guest_mdscr_el1)
    return And(
        Implies(outside_window(s, k), Eq(low_half(s.mdscr_el1), theirs)),
        Implies(_in_entry_window(s, k), Eq(low_half(s.preserved_mdscr_el1), theirs)),
        Implies(
            And(s.at(Phase.SETUP, Phase.EXITED), Not(tweaks_guest(s, k))),
            Eq(low_half(s.mdscr_el1), theirs),
        ),
        Implies(And(s.in_guest, Not(tweaks_guest(s, k))), Eq(low_half(s.hw_mdscr_el1), theirs)),
    )


def _mdscr_window_lemma(part: str, mask: int) -> Lemma:
    def holds(s: State, k: Kernel) -> Term:
        inside = t.const(mask, 32)
        wanted = _tweaked(low_half(s.guest_mdscr_el1), s, k) & inside
        return And(
            Implies(s.at(Phase.SETUP, Phase.EXITED), Eq(low_half(s.mdscr_el1) & inside, wanted)),
            Implies(s.in_guest, Eq(low_half(s.hw_mdscr_el1) & inside, wanted)),
        )

    says = f"In the window {part} of MDSCR_EL1 is as the debugger and the OS lock need it, in context and hardware."
    return Lemma(f"mdscr_{part}_in_window", says, holds, _by_dirty)


_SS, _MDE = MDSCR_EL1.mask("SS"), MDSCR_EL1.mask("MDE")
WINDOW_LEMMAS: tuple[Lemma, ...] = (
    _mdscr_window_lemma("SS", _SS),
    _mdscr_window_lemma("MDE", _MDE),
    _mdscr_window_lemma("rest", 0xFFFFFFFF & ~(_SS | _MDE)),
)


@lemma(_by_dirty, given=(MDSCR_IN_32_BITS,))
def mdscr_high_half_is_clear(s: State, k: Kernel) -> Term:
    """If nobody sets them, the bits of MDSCR_EL1 above 31 stay clear everywhere."""

    def clear(r: MDSCR_EL1) -> Term:
        return Eq(t.extract(r.raw, 63, 32), t.const(0, 32))

    return And(
        clear(s.guest_mdscr_el1),
        clear(s.mdscr_el1),
        clear(s.preserved_mdscr_el1),
        Implies(s.in_guest, clear(s.hw_mdscr_el1)),
    )


# ---- PSTATE.SS, where the guest steps itself


def _ss_is_the_guests(s: State, lent: Term, kept: Term) -> Term:
    """PSTATE.SS is the guest's but where it is ``lent``; ``kept`` is what will be put back there.

    An instruction that has been emulated clears it for the guest at once, in the context when the PC is adjusted.
    """
    outside = Or(s.at(Phase.IN_GUEST), s.adjust_pc, Eq(s.pstate.SS, s.guest_pstate_ss))
    inside = Implies(s.in_guest, Eq(s.hw_pstate.SS, s.guest_pstate_ss))
    return And(Implies(s.adjust_pc, Not(s.guest_pstate_ss)), If(lent, Not(kept), And(inside, outside)))


def _lent_by_dirty(s: State, k: Kernel) -> Term:
    return And(s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED), tweaks_guest(s, k))


def _lent_by_owner(s: State) -> Term:
    return And(s.at(Phase.LOADED, Phase.IN_GUEST), s.stepping)


@lemma(lambda k: _by_dirty(k), given=(NEVER_DEBUGGED,))
def nobody_debugs(s: State, k: Kernel) -> Term:
    """If user space never debugs, guest_debug stays 0, and debug exceptions never go to EL2."""
    active = s.here if k.traps_at_load else s.in_guest
    return And(Not(s.guest_debug.any()), Not(s.mdcr_el2.TDE), Implies(active, Not(s.hw_mdcr_el2.TDE)))


@lemma(
    lambda k: _by_dirty(k) and not k.preserves_pstate_ss and k.skip_advances_step,
    given=(NEVER_DEBUGGED,),
)
def undebugged_ss_is_the_guests(s: State, k: Kernel) -> Term:
    """If user space never debugs, PSTATE.SS is the guest's, its OS lock locked or not."""
    return _ss_is_the_guests(s, FALSE, FALSE)


@lemma(lambda k: _by_dirty(k) and not k.skip_advances_step, given=(NEVER_DEBUGGED, NO_EMULATED_STEP))
def unemulated_ss_is_the_guests(s: State, k: Kernel) -> Term:
    """As above, before v5.0, if the guest steps itself over no emulated instruction."""
    return _ss_is_the_guests(s, FALSE, FALSE)


def _only_one_steps(s: State, k: Kernel) -> Term:
    lent = _lent_by_dirty(s, k)
    return And(
        Not(And(s.guest_pstate_ss, taken_from_guest(s))),
        Implies(And(taken_from_guest(s), outside_window(s, k)), Not(s.pstate.SS)),
        _ss_is_the_guests(s, lent, s.preserved_pstate_ss),
    )


@lemma(lambda k: _by_dirty(k) and k.preserves_pstate_ss, given=(ONE_DEBUGGER, LOCK_NOT_STEPPED))
def lent_ss_was_clear(s: State, k: Kernel) -> Term:
    """If only one steps at a time, PSTATE.SS is the guest's, and clear while a debugger or the OS lock has it."""
    return _only_one_steps(s, k)


@lemma()
def host_mdscr_through_switch(s: State, k: Kernel) -> Term:
    """The host's MDSCR_EL1 is in the hardware, or kept aside while the guest runs."""
    return And(
        Implies(host_has_cpu(s, k), s.hw_mdscr_el1.same(s.host_mdscr_el1)),
        Implies(s.in_guest, s.host_ctxt_mdscr_el1.same(s.host_mdscr_el1)),
    )


@lemma()
def host_bank_through_switch(s: State, k: Kernel) -> Term:
    """The host's break- and watchpoint registers likewise."""
    return And(
        Implies(host_has_cpu(s, k), Eq(s.hw_bank, s.host_bank)),
        Implies(And(s.in_guest, switched(s, k)), Eq(s.host_debug_state, s.host_bank)),
        Implies(And(s.in_guest, Not(switched(s, k))), Eq(s.hw_bank, s.host_bank)),
    )


@lemma(lambda k: k.indexes_trapped_banks)
def guest_bank_through_switch(s: State, k: Kernel) -> Term:
    """The guest's break- and watchpoint registers are in memory, or in the hardware while it runs with them."""
    switched = And(s.at(Phase.IN_GUEST), switched_to_guests(s, k))
    return And(
        Implies(Not(switched), Eq(s.vcpu_debug_state, s.guest_bank)),
        Implies(And(switched, s.here), Eq(s.hw_bank, s.guest_bank)),
    )


@lemma(given=(FIRST_BREAKPOINT_ONLY,))
def first_bank_through_switch(s: State, k: Kernel) -> Term:
    """As guest_bank_through_switch, if only number 0 of each kind is used."""
    empty = t.const_array(t.const(0, 64), 2 + (k.breakpoints - 1).bit_length())
    switched = And(s.at(Phase.IN_GUEST), switched_to_guests(s, k))
    bank = empty
    for kind in range(4):
        at = t.const(kind * k.breakpoints, 2 + (k.breakpoints - 1).bit_length())
        bank = t.store(bank, at, t.select(s.guest_bank, at))
    return And(
        Eq(s.guest_bank, bank),
        Implies(Not(switched), Eq(s.vcpu_debug_state, s.guest_bank)),
        Implies(And(switched, s.here), Eq(s.hw_bank, s.guest_bank)),
    )


@lemma()
def user_bank_through_switch(s: State, k: Kernel) -> Term:
    """User space's break- and watchpoint registers likewise."""
    switched = And(s.at(Phase.IN_GUEST), switched_to_users(s, k))
    return And(
        Implies(Not(switched), Eq(s.external_debug_state, s.user_bank)),
        Implies(And(switched, s.here), Eq(s.hw_bank, s.user_bank)),
    )


@lemma(lambda k: k.emulates_os_lock)
def os_lock_is_guests(s: State, k: Kernel) -> Term:
    """The emulated OS lock is what the guest, or user space for it, last made it."""
    return Eq(s.os_lock, s.guest_os_lock)


@lemma(lambda k: not has_os_lock(k))
def there_is_no_os_lock(s: State, k: Kernel) -> Term:
    """Before v5.18 a guest has no OS lock that it could lock."""
    return Not(s.guest_os_lock)


@lemma()
def os_lock_is_clear(s: State, k: Kernel) -> Term:
    """The CPU's own OS lock is never locked."""
    return Not(s.hw_oslk)


def _user_access(s: State) -> Term:
    return s.hw_pmuserenr_el0.same(PMUSERENR_EL0.of(ER=True, CR=True, SW=True, EN=True))


@lemma(lambda k: k.sets_pmuserenr and (not k.traps_at_load or k.guards_pmuserenr))
def pmuserenr_lets_traps_through(s: State, k: Kernel) -> Term:
    """PMUSERENR_EL0 has the guest's value while the traps are active."""
    return Implies(s.here if k.traps_at_load else s.in_guest, _user_access(s))


@lemma(lambda k: k.traps_at_load, given=(PERF_KEEPS_OFF,))
def pmuserenr_undisturbed(s: State, k: Kernel) -> Term:
    """As above, if perf keeps off."""
    return Implies(s.here, _user_access(s))


@lemma(_by_dirty, given=(CPUS_BOOT_ALIKE,))
def hpmn_is_everywhere_the_same(s: State, k: Kernel) -> Term:
    """If all CPUs boot with the same HPMN, it is the only one ever computed or loaded."""
    ours = t.const(6, 5)
    return And(
        Eq(s.boot_mdcr_el2.HPMN, ours),
        Eq(s.hw_mdcr_el2.HPMN, ours),
        Implies(s.kvm_ready, Eq(s.percpu_mdcr_el2.HPMN, ours)),
        Implies(Not(s.at(Phase.NEW, Phase.CREATED)), Eq(s.mdcr_el2.HPMN, ours)),
        Implies(s.here if k.traps_at_load else s.in_guest, Eq(s.mdcr_el2_host.HPMN, ours))
        if k.saves_host_mdcr
        else TRUE,
    )


@lemma(lambda k: k.keeps_step_pending, given=(STEPPING_ENDS_WITH_DEBUGGING,))
def pending_only_while_stepping(s: State, k: Kernel) -> Term:
    """A step exception is on its way only while user space steps the guest."""
    return Implies(s.ss_active_pending, s.stepping)


@lemma()
def adjustment_between_exit_and_entry(s: State, k: Kernel) -> Term:
    """The PC adjustment of an emulated instruction is pending only from its handling to the next entry."""
    if not k.defers_pc_adjustment:
        return Not(s.adjust_pc)
    return Implies(s.adjust_pc, And(s.in_run, s.at(Phase.READY, Phase.LOADED, Phase.SETUP), s.exits_with(Exit.NONE)))


@lemma(
    lambda k: _by_dirty(k) and k.keeps_step_pending and k.defers_pc_adjustment and k.skip_advances_step,
    given=(NO_RETURN_WITH_SKIP_PENDING, NO_RESET_WITH_SKIP_PENDING, STEPPING_ENDS_WITH_DEBUGGING),
)
def step_is_accounted_for(s: State, k: Kernel) -> Term:
    """While stepping: an instruction has run since the last report exactly if its step exception is on the way."""
    one = Eq(s.steps, t.const(1, 2))
    before_it = s.exits_with(Exit.DEBUG, Exit.DEBUG_ACCESS, Exit.OS_ACCESS, Exit.EMULATE, Exit.FAULT, Exit.MMIO)
    outside = And(
        Eq(one, Or(s.ss_active_pending, s.adjust_pc)),
        Implies(before_it, Not(one)),
        Implies(s.exits_with(Exit.STEP), one),
    )
    accounted = And(
        t.ule(s.steps, t.const(1, 2)),
        Implies(outside_window(s, k), outside),
        Implies(s.at(Phase.SETUP), Eq(one, Or(Not(s.pstate.SS), s.adjust_pc))),
        Implies(s.in_guest, Eq(one, Not(s.hw_pstate.SS))),
        Implies(
            s.at(Phase.EXITED),
            And(
                Eq(one, Not(s.pstate.SS)),
                Implies(s.ss_active_pending, one),
                Implies(before_it, Not(one)),
                Implies(s.exits_with(Exit.STEP), one),
            ),
        ),
        Implies(And(s.at(Phase.SETUP), s.ss_active_pending), one),
        Implies(And(s.in_guest, s.ss_active_pending), one),
    )
    return And(Not(s.wrong_step), Implies(s.stepping, accounted))


# ---- lemmas about the owner of the debug registers (v6.14)


@lemma(_by_owner)
def entered_from_load(s: State, k: Kernel) -> Term:
    """There is no kvm_arm_setup_debug and no kvm_arm_clear_debug: the vCPU is entered as it was loaded."""
    return Not(s.at(Phase.SETUP, Phase.EXITED))


@lemma(_by_owner)
def counters_are_read(s: State, k: Kernel) -> Term:
    """The per-CPU number of event counters is this CPU's, if KVM sees that it has any; else it stays 0."""
    seen, number = looks_like_pmuv3(s, k), t.zero_extend(event_counters_seen(s, k), 32)
    kept = Implies(And(s.kvm_ready, seen), Eq(s.nr_event_counters, number))
    return And(kept, Implies(Not(seen), Eq(s.nr_event_counters, t.const(0, 32))))


@lemma(lambda k: _by_owner(k) and k.vhe)
def hpmn_is_boots_or_all(s: State, k: Kernel) -> Term:
    """Under VHE HPMN is what the boot code chose, or all counters; so is the copy for the host."""
    boot, counters, seen = s.boot_mdcr_el2.HPMN, s.event_counters, looks_like_pmuv3(s, k)
    return And(
        *(
            Implies(And(seen, when), Or(Eq(m.HPMN, boot), Eq(m.HPMN, counters)))
            for when, m in ((TRUE, s.hw_mdcr_el2), (s.here, s.mdcr_el2_host))
        )
    )


@lemma(_by_owner, given=(BOOT_GIVES_ALL_COUNTERS,))
def boot_gave_all(s: State, k: Kernel) -> Term:
    """If the boot code gives all counters, HPMN is never anything else on a CPU whose counters KVM sees."""
    saved = And(s.here if k.traps_at_load else s.in_guest, looks_like_pmuv3(s, k))
    return And(
        Eq(s.boot_mdcr_el2.HPMN, s.event_counters),
        Implies(looks_like_pmuv3(s, k), s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")),
        Implies(saved, s.mdcr_el2_host.same(s.boot_mdcr_el2, "HPMN")),
    )


@lemma(lambda k: _by_owner(k) and not k.reads_pmuv3p8_counters, given=(UP_TO_PMUV3P7,))
def no_cpu_has_pmuv3p8(s: State, k: Kernel) -> Term:
    """If no CPU has PMUv3p8, this one has not."""
    return Not(s.pmuv3p8)


@lemma(_by_owner)
def owner_is_decided(s: State, k: Kernel) -> Term:
    """While the vCPU is loaded, KVM owns the registers exactly if it needs them; there are three kinds of owner."""
    needed = Or(s.guest_debug.any(), s.os_lock)
    loaded = s.at(Phase.LOADED, Phase.IN_GUEST)
    return And(
        Or(*(s.owned_by(who) for who in DebugOwner)),
        Implies(loaded, Eq(s.owned_by(DebugOwner.HOST), needed)),
    )


@lemma(_by_owner)
def owner_is_the_rightful(s: State, k: Kernel) -> Term:
    """While the vCPU is loaded, and KVM does not need the registers, the guest owns them exactly if it uses them."""
    unneeded = And(s.at(Phase.LOADED, Phase.IN_GUEST), Not(s.owned_by(DebugOwner.HOST)))
    return Implies(unneeded, Eq(s.owned_by(DebugOwner.GUEST), s.guest_uses_debug))


@lemma(_by_owner)
def guest_owns_if_enabled(s: State, k: Kernel) -> Term:
    """While the vCPU is loaded, a guest with debug exceptions enabled has an owner for its registers: KVM or itself."""
    enabled = Or(s.guest_mdscr_el1.KDE, s.guest_mdscr_el1.MDE)
    return Implies(And(s.at(Phase.LOADED, Phase.IN_GUEST), enabled), Not(s.owned_by(DebugOwner.FREE)))


@lemma(_by_owner)
def mdscr_is_where_it_belongs(s: State, k: Kernel) -> Term:
    """The guest's MDSCR_EL1 is in the context, or in the hardware while it runs and KVM has not taken it."""
    inside = And(s.at(Phase.IN_GUEST), Not(s.owned_by(DebugOwner.HOST)))
    return And(
        Implies(Not(inside), s.mdscr_el1.same(s.guest_mdscr_el1)),
        Implies(And(inside, s.here), s.hw_mdscr_el1.same(s.guest_mdscr_el1)),
    )


@lemma(lambda k: _by_owner(k) and (k.hands_over_external_mdscr or not k.copies_vcpu))
def external_mdscr_is_in_hardware(s: State, k: Kernel) -> Term:
    """In the guest KVM's MDSCR_EL1 is in the hardware, if KVM has taken the registers."""
    return Implies(And(s.in_guest, s.owned_by(DebugOwner.HOST)), s.hw_mdscr_el1.same(s.external_mdscr_el1))


@lemma(_by_owner)
def external_mdscr_has_asked_bits(s: State, k: Kernel) -> Term:
    """KVM's MDSCR_EL1 has SS just for a step, MDE and KDE just for break- and watchpoints."""
    m = s.external_mdscr_el1
    use_hw = s.guest_debug.USE_HW
    return Implies(taken_by_host(s), And(Eq(m.SS, s.stepping), Eq(m.MDE, use_hw), Eq(m.KDE, use_hw)))


@lemma(_by_owner, given=(MDSCR_LEFT_ALONE,))
def external_mdscr_has_guests_rest(s: State, k: Kernel) -> Term:
    """The rest of KVM's MDSCR_EL1 is the guest's, if the guest leaves it alone meanwhile."""
    rest_is_guests = s.external_mdscr_el1.same_but_for(s.guest_mdscr_el1, "SS", "MDE", "KDE")
    return Implies(taken_by_host(s), rest_is_guests)


@lemma(_by_owner, given=(ONE_DEBUGGER,))
def lent_ss_was_clear_by_owner(s: State, k: Kernel) -> Term:
    """If only one steps at a time, PSTATE.SS is the guest's, and clear while user space debugs."""
    unlent = And(s.user_debugs, Not(_lent_by_owner(s)))
    return And(
        Not(And(s.guest_pstate_ss, s.user_debugs)),
        Implies(And(unlent, Not(s.at(Phase.IN_GUEST))), Not(s.pstate.SS)),
        Implies(And(unlent, s.in_guest), Not(s.hw_pstate.SS)),
        _ss_is_the_guests(s, _lent_by_owner(s), Not(s.guest_ss_pending)),
    )


@lemma(_by_owner, given=(NEVER_DEBUGGED,))
def undebugged_ss_is_the_guests_by_owner(s: State, k: Kernel) -> Term:
    """If user space never debugs, PSTATE.SS is the guest's, its OS lock locked or not."""
    return And(Not(s.user_debugs), _ss_is_the_guests(s, FALSE, FALSE))


@lemma(lambda k: _by_owner(k) or (not k.preserves_pstate_ss and k.skip_advances_step), given=(NEVER_STEPPED,))
def ss_is_not_set_by_debugging(s: State, k: Kernel) -> Term:
    """If user space never steps the guest, PSTATE.SS is set only where the guest has left it set."""
    return And(
        Not(s.stepping),
        Implies(s.adjust_pc, Not(s.guest_pstate_ss)),
        Implies(s.in_guest, Implies(s.hw_pstate.SS, s.guest_pstate_ss)),
        Implies(Not(Or(s.at(Phase.IN_GUEST), s.adjust_pc)), Implies(s.pstate.SS, s.guest_pstate_ss)),
    )


@lemma(lambda k: _by_owner(k) and not k.nests)
def step_exits_are_the_debuggers(s: State, k: Kernel) -> Term:
    """Step exceptions come to EL2 only while user space steps the guest."""
    return Implies(s.exits_with(Exit.STEP), s.stepping)


def _step_is_accounted_for(s: State, k: Kernel) -> Term:
    one = Eq(s.steps, t.const(1, 2))
    before_it = s.exits_with(Exit.DEBUG, Exit.DEBUG_ACCESS, Exit.OS_ACCESS, Exit.EMULATE, Exit.FAULT, Exit.MMIO)
    loaded, unloaded = s.at(Phase.LOADED), s.at(Phase.NEW, Phase.CREATED, Phase.READY)
    accounted = And(
        t.ule(s.steps, t.const(1, 2)),
        Implies(unloaded, Eq(one, Or(s.ss_active_pending, s.adjust_pc))),
        Implies(loaded, Eq(one, Or(Not(s.pstate.SS), s.adjust_pc))),
        Implies(s.in_guest, Eq(one, Not(s.hw_pstate.SS))),
        Implies(And(Or(loaded, unloaded), before_it), Not(one)),
        Implies(s.exits_with(Exit.STEP), one),
    )
    return And(Not(s.wrong_step), Implies(s.stepping, accounted))


@lemma(
    lambda k: _by_owner(k) and not k.nests,
    given=(NO_RESET_WITH_SKIP_PENDING, STEPPING_ENDS_WITH_DEBUGGING),
)
def step_is_accounted_for_by_owner(s: State, k: Kernel) -> Term:
    """While stepping: an instruction has run since the last report exactly if its step exception is on the way."""
    return _step_is_accounted_for(s, k)


# ---- lemmas about protected mode (v6.14)


@lemma(lambda k: k.copies_vcpu)
def copy_is_the_hosts(s: State, k: Kernel) -> Term:
    """In the guest EL2's copy has the host's MDCR_EL2 and owner of the registers."""
    same = And(Eq(s.hyp_debug_owner, s.debug_owner), s.hyp_mdcr_el2.same(s.mdcr_el2))
    return Implies(s.in_guest, same)


@lemma(lambda k: k.copies_vcpu and k.hands_over_external_mdscr)
def copy_has_external_mdscr(s: State, k: Kernel) -> Term:
    """In the guest EL2's copy has KVM's MDSCR_EL1, if KVM has taken the registers."""
    same = s.hyp_external_mdscr_el1.same(s.external_mdscr_el1)
    return Implies(And(s.in_guest, s.owned_by(DebugOwner.HOST)), same)


@lemma(lambda k: k.copies_vcpu and not k.hands_over_external_mdscr)
def copy_has_no_external_mdscr(s: State, k: Kernel) -> Term:
    """Until EL2 is handed KVM's MDSCR_EL1, its copy stays 0, and so does the register."""
    nothing = t.const(0, 64)
    taken = And(s.in_guest, s.owned_by(DebugOwner.HOST))
    return And(Eq(s.hyp_external_mdscr_el1.raw, nothing), Implies(taken, Eq(s.hw_mdscr_el1.raw, nothing)))


# ---- lemmas about guests that are hypervisors (v6.18)


@lemma(_nests)
def nested_in_a_hypervisor(s: State, k: Kernel) -> Term:
    """Only a guest that has an EL2 has guests."""
    return Implies(s.nested, s.has_nv)


@lemma(_nests)
def virtual_mdcr_is_the_hypervisors(s: State, k: Kernel) -> Term:
    """The context has MDCR_EL2 as the guest hypervisor, or user space for it, last wrote it."""
    return s.virtual_mdcr_el2.same(s.hypervisor_mdcr_el2)


@lemma(_nests)
def step_exits_were_asked_for(s: State, k: Kernel) -> Term:
    """Step exceptions come to EL2 only while user space steps the guest, or nobody but a guest hypervisor debugs it."""
    hypervisors = And(Not(s.guest_debug.any()), s.nested, s.virtual_mdcr_el2.TDE)
    return Implies(s.exits_with(Exit.STEP), Or(s.stepping, hypervisors))


@lemma(_nests)
def debug_exits_were_asked_for(s: State, k: Kernel) -> Term:
    """Other debug exceptions come to EL2 only while user space debugs the guest, or a guest hypervisor does."""
    asked = Or(s.guest_debug.any(), And(s.nested, s.virtual_mdcr_el2.TDE))
    return Implies(s.exits_with(Exit.DEBUG), asked)


@lemma(_nests)
def debug_exceptions_were_routed(s: State, k: Kernel) -> Term:
    """Every debug exception that came to EL2 went to whoever debugs."""
    return Not(s.wrong_route)


@lemma(_nests)
def accesses_were_forwarded(s: State, k: Kernel) -> Term:
    """KVM has emulated no access that a guest hypervisor traps."""
    return Not(s.wrong_access)


@lemma(_nests, given=(NO_RESET_WITH_SKIP_PENDING, STEPPING_ENDS_WITH_DEBUGGING, STEPPED_WITHOUT_ERET))
def step_is_accounted_for_without_eret(s: State, k: Kernel) -> Term:
    """As step_is_accounted_for_by_owner, if a guest hypervisor is not stepped over an ERET, nor into it."""
    return _step_is_accounted_for(s, k)


LEMMAS: tuple[Lemma, ...] = (
    *(found for found in list(globals().values()) if isinstance(found, Lemma)),
    *FIELD_LEMMAS,
    *WINDOW_LEMMAS,
)
