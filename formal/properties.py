"""What must hold, one sentence each: claims (promises), lemmas (why they hold), non-properties (which must fail).

A claim is a predicate over one vCPU and one CPU. Its docstring is the sentence that every report prints, ``cites`` the
place where the kernel or the Arm ARM says so, ``when`` the situation it speaks of: a claim whose situation cannot be
reached is vacuous, and the gate fails. Claims compare with ghosts (what the boot code, the guest, user space or the
host last wrote), never with the kernel's own copies. Lemmas are free to change; nothing here mentions an engine.

"The document" is the kernel-doc page of debug.c around v4.18; ``DOCUMENT`` lists its sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from formal import terms as t
from formal.arch.features import FEATURES, closure, present
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.holes import HOLES
from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.sysregs import GROUPS
from formal.arch.traps import Access, Controls, executes, traps_to_el2
from formal.epochs import Kernel
from formal.ownership import in_use, setup_mdcr_el2_by_owner
from formal.state import DebugOwner, Exit, Phase, State
from formal.terms import FALSE, TRUE, And, Eq, If, Implies, Ne, Not, Or, Term
from formal.transitions import Applied, controls, may_execute, setup_debug_bug_on, setup_mdcr_el2, tweaks_guest

Predicate = Callable[[State, Kernel], Term]
StepPredicate = Callable[[State, State, Kernel], Term]


# ---- how claims are written


class Point(Enum):
    """Where a claim is stated."""

    ALWAYS = "at every moment"
    IN_GUEST = "while the guest runs"
    ENTERED = "at guest entry"
    RETURNED = "when __kvm_vcpu_run returns"
    UNLOADED = "while no vCPU is loaded on the CPU"
    HANDLED = "while an exit is handled, or user space has the vCPU"
    STEP = "between two states"


@dataclass(frozen=True)
class Precondition:
    """A restriction of the environment under which a variant of a claim holds.

    ``allows`` is what a step must satisfy, ``initially`` what the initial states must.
    """

    name: str
    says: str
    allows: Callable[[Applied, Kernel], Term] = lambda step, k: TRUE
    initially: Predicate = lambda s, k: TRUE


@dataclass(frozen=True)
class Claim:
    """A promise. ``actors`` are those whose steps a two-state claim is about (empty: a state claim)."""

    name: str
    says: str
    cites: str
    at: Point
    when: Predicate
    then: StepPredicate
    applies: Callable[[Kernel], str | None]
    actors: frozenset[str] = frozenset()
    given: tuple[Precondition, ...] = ()
    variant_of: str | None = None

    def holds(self, s: State, k: Kernel) -> Term:
        """A state claim as one formula."""
        return Implies(self.when(s, k), self.then(s, s, k))

    def holds_between(self, before: State, after: State, k: Kernel) -> Term:
        """A two-state claim as one formula over both states."""
        return Implies(self.when(before, k), self.then(before, after, k))


@dataclass(frozen=True)
class Lemma:
    """An inductive fact about one vCPU and one CPU; ``applies`` says for which kernels it is meant."""

    name: str
    says: str
    holds: Predicate
    applies: Callable[[Kernel], bool]
    given: tuple[Precondition, ...] = ()


def _in_guest(s: State, k: Kernel) -> Term:
    return s.in_guest


def _always(s: State, k: Kernel) -> Term:
    return TRUE


def _everywhere(k: Kernel) -> str | None:
    return None


def claim(
    cites: str,
    *,
    at: Point = Point.IN_GUEST,
    when: Predicate = _in_guest,
    applies: Callable[[Kernel], str | None] = _everywhere,
    given: tuple[Precondition, ...] = (),
    variant_of: str | None = None,
) -> Callable[[Predicate], Claim]:
    """Declares a state claim: whenever ``when`` holds, so does the decorated predicate."""

    def declare(then: Predicate) -> Claim:
        if not then.__doc__:
            raise TypeError(f"{then.__name__} needs a docstring: one sentence that a reviewer can sign")

        def now(before: State, after: State, k: Kernel) -> Term:
            return then(before, k)

        return Claim(then.__name__, then.__doc__, cites, at, when, now, applies, frozenset(), given, variant_of)

    return declare


def variant(
    of: Claim, name: str, says: str, *given: Precondition, applies: Callable[[Kernel], str | None] = _everywhere
) -> Claim:
    """The same claim under named preconditions, none of which can be spared."""
    return replace(of, name=name, says=says, given=given, applies=applies, variant_of=of.name)


def step_claim(
    cites: str,
    actors: str,
    *,
    when: Predicate = _in_guest,
    applies: Callable[[Kernel], str | None] = _everywhere,
) -> Callable[[StepPredicate], Claim]:
    """Declares a two-state claim about every step of the named actors."""

    def declare(then: StepPredicate) -> Claim:
        if not then.__doc__:
            raise TypeError(f"{then.__name__} needs a docstring: one sentence that a reviewer can sign")
        who = frozenset(actors.split(","))
        return Claim(then.__name__, then.__doc__, cites, Point.STEP, when, then, applies, who)

    return declare


def lemma(
    applies: Callable[[Kernel], bool] = lambda k: True, given: tuple[Precondition, ...] = ()
) -> Callable[[Predicate], Lemma]:
    """Declares a lemma."""

    def declare(holds: Predicate) -> Lemma:
        return Lemma(holds.__name__, holds.__doc__ or "", holds, applies, given)

    return declare


# ---- groups of registers


def _open_fgt(register: type) -> int:
    return sum(f.mask for name, f in register.fields.items() if name.startswith("n"))  # type: ignore[attr-defined]


# The worst case for a trap: every extension is there, and fine-grained traps are all off.
ALL_FEATURES = closure(FEATURES) - {"IMPDEF_OSDLR_EL1_TRAP"}
# Without what brings registers that EL0 reaches only if PMUSERENR_EL0.UEN is set, a bit that KVM leaves clear.
UP_TO_PMUV3P8 = frozenset(f for f in ALL_FEATURES if not closure((f,)) & {"FEAT_PMUv3p9", "FEAT_PMUv3_ICNTR"})


def _exposed(s: State, features: frozenset[str]) -> Controls:
    c = controls(s)
    return Controls(
        mdcr_el2=c.mdcr_el2,
        mdscr_el1=c.mdscr_el1,
        pmuserenr_el0=c.pmuserenr_el0,
        hdfgrtr_el2=HDFGRTR_EL2(t.const(_open_fgt(HDFGRTR_EL2), 64)),
        hdfgwtr_el2=HDFGWTR_EL2(t.const(_open_fgt(HDFGWTR_EL2), 64)),
        hdfgrtr2_el2=HDFGRTR2_EL2(t.const(_open_fgt(HDFGRTR2_EL2), 64)),
        hdfgwtr2_el2=HDFGWTR2_EL2(t.const(_open_fgt(HDFGWTR2_EL2), 64)),
        features=features,
    )


def _accesses(group: str) -> list[tuple[str, bool, int]]:
    """Every defined access of a group that is no hole: register, direction, exception level."""
    return [
        (reg.name, write, el)
        for reg in GROUPS[group]
        if reg.name not in HOLES or HOLES[reg.name].closed_by_feature & ALL_FEATURES
        for write in (False, True)
        for el in (0, 1)
        if (lowest := reg.rights(write).lowest_el) is not None and el >= lowest
    ]


@lru_cache(maxsize=256)
def _group_terms(
    groups: tuple[str, ...], mdcr: Term, mdscr: Term, user: Term, features: frozenset[str]
) -> tuple[Term, Term]:
    values = {"hw_mdcr_el2": mdcr, "hw_mdscr_el1": mdscr, "hw_pmuserenr_el0": user}
    c = _exposed(State(values), features)
    every = [a for group in groups for a in _accesses(group)]
    none_executes = And(*(Not(executes(Access(name, write, el), c)) for name, write, el in every))
    all_trap = And(
        *(traps_to_el2(a, c) for a in (Access(*parts) for parts in every) if present(a.register.features, features))
    )
    return none_executes, all_trap


def group_does_not_execute(s: State, *groups: str) -> Term:
    """No access of these groups executes, holes excepted."""
    return _group_terms(groups, s.hw_mdcr_el2.raw, s.hw_mdscr_el1.raw, s.hw_pmuserenr_el0.raw, ALL_FEATURES)[0]


def group_traps(s: State, *groups: str, features: frozenset[str] = ALL_FEATURES) -> Term:
    """Every access of these groups (of the registers that exist with these features) goes to EL2, holes excepted."""
    return _group_terms(groups, s.hw_mdcr_el2.raw, s.hw_mdscr_el1.raw, s.hw_pmuserenr_el0.raw, features)[1]


# ---- preconditions


def rebuilt_mdcr(hpmn: Term, k: Kernel) -> MDCR_EL2:
    """What nVHE before v5.15 takes for the host's MDCR_EL2."""
    return MDCR_EL2.of(HPMN=hpmn, E2PB=3 if k.traps_profiling else 0, E2TB=3 if k.returns_trace_buffer else 0)


def _unless(op_name: str, condition: Callable[[State, State], Term]) -> Callable[[Applied, Kernel], Term]:
    def allows(step: Applied, k: Kernel) -> Term:
        return condition(step.before, step.after) if step.operation.name == op_name else TRUE

    return allows


def _high_half_clear(step: Applied, k: Kernel) -> Term:
    if "guest_mdscr_el1" not in step.operation.writes:
        return TRUE
    return Eq(t.extract(step.after.guest_mdscr_el1.raw, 63, 32), t.const(0, 32))


def _first_number(step: Applied, k: Kernel) -> Term:
    index = step.inputs.get("index")
    if index is None:
        return TRUE
    number_bits = t.width(index) - 2
    return Eq(t.extract(index, number_bits - 1, 0), t.const(0, number_bits))


def _never_debugged(step: Applied, k: Kernel) -> Term:
    return Not(step.after.guest_debug.any())


MDSCR_IN_32_BITS = Precondition(
    "mdscr_in_32_bits",
    "neither the guest nor user space sets a bit of MDSCR_EL1 above bit 31",
    _high_half_clear,
)

NO_RETURN_WITH_SKIP_PENDING = Precondition(
    "no_return_with_skip_pending",
    "KVM_RUN does not return to user space between the emulation of a stepped instruction and the next entry",
    _unless("kvm_arch_vcpu_ioctl_run returns", lambda before, after: Not(And(before.stepping, before.adjust_pc))),
)

NO_RESET_WITH_SKIP_PENDING = Precondition(
    "no_reset_with_skip_pending",
    "no other vCPU turns a stepped vCPU on again before the instruction that turned it off is stepped over",
    _unless("kvm_reset_vcpu", lambda before, after: Not(And(before.stepping, before.adjust_pc))),
)

STEPPING_ENDS_WITH_DEBUGGING = Precondition(
    "stepping_ends_with_debugging",
    "user space ends single-stepping only by ending debugging altogether",
    _unless(
        "KVM_SET_GUEST_DEBUG",
        lambda before, after: Implies(And(before.stepping, Not(after.stepping)), Not(after.guest_debug.any())),
    ),
)

CPUS_BOOT_ALIKE = Precondition(
    "cpus_boot_alike",
    "every CPU boots with the same number of event counters for the guest, say 6",
    initially=lambda s, k: Eq(s.boot_mdcr_el2.HPMN, t.const(6, 5)),
)

BOOT_GIVES_ALL_COUNTERS = Precondition(
    "boot_gives_all_counters",
    "the boot code gives the guest every event counter of the CPU (HPMN is PMCR_EL0.N), as the kernel's own does",
    initially=lambda s, k: Eq(s.boot_mdcr_el2.HPMN, s.event_counters),
)

MDSCR_LEFT_ALONE = Precondition(
    "mdscr_left_alone",
    "the guest does not write MDSCR_EL1 while KVM owns its debug registers",
    _unless(
        "trap_debug_regs",
        lambda before, after: Or(
            Not(before.owned_by(DebugOwner.HOST)), before.guest_mdscr_el1.same(after.guest_mdscr_el1)
        ),
    ),
)

PERF_KEEPS_OFF = Precondition(
    "perf_keeps_off",
    "the host's perf driver leaves PMUSERENR_EL0 alone while a vCPU is loaded",
    _unless("the host writes PMUSERENR_EL0", lambda before, after: before.idle),
)

INIT_ONLY_AT_BOOT = Precondition(
    "init_only_at_boot",
    "hyp initialisation runs once after each boot of a CPU, before any vCPU is loaded there, and never again",
    _unless("kvm_arm_init_debug", lambda before, after: Not(before.kvm_ready)),
)

NEVER_DEBUGGED = Precondition("never_debugged", "user space never debugs the guest", _never_debugged)

FIRST_BREAKPOINT_ONLY = Precondition(
    "first_breakpoint_only",
    "the guest, and user space for it, use breakpoint 0 and watchpoint 0 only",
    _first_number,
)

BOOT_VALUE_AS_REBUILT = Precondition(
    "boot_value_as_rebuilt",
    "the boot code leaves nothing in MDCR_EL2 but HPMN and E2PB=3 (v4.9: no E2PB; v5.13, v5.14: E2TB=3 too)",
    initially=lambda s, k: s.boot_mdcr_el2.same(rebuilt_mdcr(s.boot_mdcr_el2.HPMN, k)),
)


# ---- claims: HPMN


@claim("the document, kvm_arm_init_debug, sentence 1")
def hpmn_preserved_in_guest(s: State, k: Kernel) -> Term:
    """A guest runs with the MDCR_EL2.HPMN that the boot code of this CPU chose."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")


@claim("the document, kvm_arm_init_debug, sentence 1", at=Point.UNLOADED, when=lambda s, k: s.idle)
def hpmn_preserved_on_host(s: State, k: Kernel) -> Term:
    """While no vCPU is loaded, the host has the MDCR_EL2.HPMN that the boot code of this CPU chose."""
    return s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN")


@claim("the document, kvm_arm_init_debug, sentence 1", at=Point.ALWAYS, when=_always)
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


def _event_counters(s: State, k: Kernel) -> Term:
    """What this CPU's PMCR_EL0.N says to its host: under nVHE, at EL1, it is the HPMN that the boot code chose."""
    return s.event_counters if k.vhe else s.boot_mdcr_el2.HPMN


@claim(
    "debug.c (v6.14), kvm_init_host_debug_data",
    at=Point.ALWAYS,
    when=lambda s, k: Or(s.kvm_ready, s.busy),
    applies=_from_owner,
)
def event_counters_read_before_use(s: State, k: Kernel) -> Term:
    """When a vCPU can be loaded on a CPU, the number of this CPU's event counters has been read there."""
    return And(s.kvm_ready, Eq(s.nr_event_counters, t.zero_extend(_event_counters(s, k), 32)))


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
    if k.tracks_debug_owner:
        return Not(s.owned_by(DebugOwner.GUEST))
    locked = s.os_lock if k.emulates_os_lock else FALSE
    return Or(Not(s.sampled_dirty), s.guest_debug.USE_HW, locked)


_DIRTY = "the document, kvm_arm_setup_debug, sentence 3"


@claim(_DIRTY, when=lambda s, k: And(s.in_guest, _keeps_out(s, k)))
def debug_registers_trapped_unless_in_use(s: State, k: Kernel) -> Term:
    """Debug registers trap unless the guest was using them (DEBUG_DIRTY when traps were chosen, or its ownership)."""
    return And(s.hw_mdcr_el2.TDA, group_traps(s, "breakpoint", "debug"))


@claim(_DIRTY, when=lambda s, k: And(s.in_guest, Not(_keeps_out(s, k)), Not(s.guest_debug.any())))
def debug_registers_free_when_in_use(s: State, k: Kernel) -> Term:
    """A guest that uses its debug registers, with nobody to be kept out, reaches them without a trap."""
    return And(
        executes(Access("DBGBCR<n>_EL1", True, 1), controls(s)),
        executes(Access("DBGBCR<n>_EL1", False, 1), controls(s)),
        executes(Access("MDSCR_EL1", True, 1), controls(s)),
        executes(Access("MDSCR_EL1", False, 1), controls(s)),
    )


@claim(
    "sys_regs.c, comment above trap_debug_regs, on guest entry, second item",
    when=lambda s, k: And(
        s.in_guest, Not(s.guest_debug.any()), Not(s.os_lock), Or(s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE)
    ),
)
def debug_exceptions_enabled_means_untrapped(s: State, k: Kernel) -> Term:
    """A guest that has enabled debug exceptions (KDE or MDE) reaches its debug registers without a trap."""
    return executes(Access("DBGBCR<n>_EL1", True, 1), controls(s))


@claim(
    "the document, kvm_arm_setup_debug, sentence 4",
    when=lambda s, k: And(s.in_guest, s.guest_debug.USE_HW),
)
def host_debug_sets_tda(s: State, k: Kernel) -> Term:
    """While user space debugs the guest with the debug registers, TDA itself is set, without leaning on TDE."""
    return s.hw_mdcr_el2.TDA


def _host_debugs(s: State, k: Kernel) -> Term:
    return And(s.in_guest, s.guest_debug.any())


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
    when=lambda s, k: And(s.in_guest, Not(s.guest_debug.any())),
)
def guest_keeps_its_debug_exceptions(s: State, k: Kernel) -> Term:
    """While nobody debugs the guest, debug exceptions are the guest's own."""
    return Not(s.hw_mdcr_el2.TDE)


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
    """MDCR_EL2 in the guest is what this CPU's HPMN, guest_debug, the OS lock and DEBUG_DIRTY ask for, no more.

    From v6.14 on: what its PMCR_EL0.N, guest_debug and the owner of the debug registers ask for.
    """
    fresh = MDCR_EL2.of(
        TTRF=k.traps_trace_filter,
        TPMS=k.traps_profiling,
        TDRA=True,
        TDOSA=True,
        TDA=_keeps_out(s, k),
        TDE=s.guest_debug.any(),
        TPM=True,
        TPMCR=True,
        HPMN=_event_counters(s, k) if k.tracks_debug_owner else s.boot_mdcr_el2.HPMN,
    )
    return s.hw_mdcr_el2.same(fresh)


@claim("Arm ARM D24.3, MDCR_EL2", at=Point.IN_GUEST)
def only_named_fields(s: State, k: Kernel) -> Term:
    """In the guest, MDCR_EL2 has no bit outside named fields, HPMN is not reserved, E2PB and E2TB are not 0b01."""
    m = s.hw_mdcr_el2
    hpmn = And(Ne(m.HPMN, t.const(0, 5)), t.ule(m.HPMN, s.event_counters))
    return And(m.only(), hpmn, Ne(m.E2PB, t.const(1, 2)), Ne(m.E2TB, t.const(1, 2)))


@claim("Arm ARM D24.3, MDCR_EL2.HPMN", at=Point.ALWAYS, when=_always)
def hpmn_never_reserved(s: State, k: Kernel) -> Term:
    """MDCR_EL2.HPMN is never a reserved value, at no moment: not 0, not more than PMCR_EL0.N."""
    return And(Ne(s.hw_mdcr_el2.HPMN, t.const(0, 5)), t.ule(s.hw_mdcr_el2.HPMN, s.event_counters))


# ---- claims: the guest's registers


def _outside(s: State, k: Kernel) -> Term:
    return s.at(Phase.NEW, Phase.CREATED, Phase.READY, Phase.LOADED)


def _created_outside(s: State, k: Kernel) -> Term:
    return s.at(Phase.CREATED, Phase.READY, Phase.LOADED)


def _entry_window(s: State, k: Kernel) -> Term:
    return And(s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED), tweaks_guest(s, k))


def _low(r: MDSCR_EL1) -> Term:
    return t.extract(r.raw, 31, 0)


_SAVE = "the document, save_guest_debug_regs, sentences 1 and 2"


@claim(_SAVE, at=Point.ALWAYS, when=_entry_window)
def saved_before_modified(s: State, k: Kernel) -> Term:
    """While the guest's MDSCR_EL1 is tweaked for an entry, a copy of all its 64 bits is kept."""
    kept = s.mdscr_el1 if k.tracks_debug_owner else s.preserved_mdscr_el1
    return kept.same(s.guest_mdscr_el1)


@claim(_SAVE, at=Point.HANDLED, when=_outside)
def guest_mdscr_preserved(s: State, k: Kernel) -> Term:
    """Outside the entry window the context holds all 64 bits of MDSCR_EL1 as the guest last wrote it."""
    return s.mdscr_el1.same(s.guest_mdscr_el1)


@claim("the document, save_guest_debug_regs, sentence 3", when=lambda s, k: And(s.in_guest, tweaks_guest(s, k)))
def mdscr_tweak_invisible(s: State, k: Kernel) -> Term:
    """While MDSCR_EL1 is tweaked, the guest can neither read nor write it without a trap."""
    return And(
        traps_to_el2(Access("MDSCR_EL1", False, 1), controls(s)),
        traps_to_el2(Access("MDSCR_EL1", True, 1), controls(s)),
    )


@claim(
    "Arm ARM D24.3, MDSCR_EL1", when=lambda s, k: And(s.in_guest, executes(Access("MDSCR_EL1", False, 1), controls(s)))
)
def untrapped_mdscr_is_guests_own(s: State, k: Kernel) -> Term:
    """Whenever the guest can read MDSCR_EL1 without a trap, it finds there what it last wrote (bits 31 to 0)."""
    return Eq(_low(s.hw_mdscr_el1), _low(s.guest_mdscr_el1))


@claim(
    "the document, save_guest_debug_regs, sentence 3",
    at=Point.HANDLED,
    when=lambda s, k: And(s.at(Phase.LOADED), s.exits_with(Exit.DEBUG_ACCESS)),
)
def mdscr_access_after_restore(s: State, k: Kernel) -> Term:
    """When a trapped access to MDSCR_EL1 is handled, the preserved value is back in the context (bits 31 to 0)."""
    undone = TRUE if k.tracks_debug_owner else Not(s.is_set_up)
    return And(Eq(_low(s.mdscr_el1), _low(s.guest_mdscr_el1)), undone)


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


def _ss_is_not_lent(s: State, k: Kernel) -> Term:
    """From v6.14 on a debugger that steps has PSTATE.SS from vcpu_load to vcpu_put; user space never sees that."""
    if k.tracks_debug_owner:
        return And(_outside(s, k), Not(And(s.at(Phase.LOADED), s.stepping)))
    return _outside(s, k)


@claim("debug.c (v6.1), comment on save/restore_guest_debug_regs, paragraph 3", at=Point.HANDLED, when=_ss_is_not_lent)
def guest_pstate_ss_preserved(s: State, k: Kernel) -> Term:
    """Debugging by user space neither sets nor clears the guest's PSTATE.SS."""
    return Eq(s.pstate.SS, s.guest_pstate_ss)


def _switched(s: State, k: Kernel) -> Term:
    """The break- and watchpoint registers are those of somebody else than the host, if a guest runs."""
    return in_use(s) if k.tracks_debug_owner else s.debug_dirty


def _switched_to_guests(s: State, k: Kernel) -> Term:
    if k.tracks_debug_owner:
        return s.owned_by(DebugOwner.GUEST)
    return And(s.debug_dirty, Not(s.debug_ptr_external))


def _switched_to_users(s: State, k: Kernel) -> Term:
    return s.owned_by(DebugOwner.HOST) if k.tracks_debug_owner else And(s.debug_dirty, s.debug_ptr_external)


@claim("hyp/debug-sr.h, the world switch", at=Point.HANDLED, when=_outside)
def guest_bank_preserved(s: State, k: Kernel) -> Term:
    """Outside the guest, memory holds the break- and watchpoint registers as the guest last wrote them."""
    return Eq(s.vcpu_debug_state, s.guest_bank)


@claim("hyp/debug-sr.h; debug.c, comment on hardware breakpoints", at=Point.HANDLED, when=_outside)
def external_bank_preserved(s: State, k: Kernel) -> Term:
    """Outside the guest, memory holds user space's break- and watchpoint registers as user space gave them."""
    return Eq(s.external_debug_state, s.user_bank)


def _bank_readable(s: State) -> Term:
    return Or(
        *(executes(Access(f"{r}<n>_EL1", False, 1), controls(s)) for r in ("DBGBCR", "DBGBVR", "DBGWCR", "DBGWVR"))
    )


@claim(
    "hyp/debug-sr.h; debug.c, comment on hardware breakpoints",
    when=lambda s, k: And(s.in_guest, _switched_to_users(s, k)),
)
def external_bank_not_leaked(s: State, k: Kernel) -> Term:
    """While user space's registers are in the hardware, the guest cannot read them."""
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


def _host_has_cpu(s: State, k: Kernel) -> Term:
    return Or(s.idle, And(s.here, Not(s.in_guest)))


@claim("sysreg-sr.h, __sysreg_restore_common_state", at=Point.RETURNED, when=_host_has_cpu)
def host_mdscr_restored(s: State, k: Kernel) -> Term:
    """When __kvm_vcpu_run has returned, MDSCR_EL1 is what the host last wrote."""
    return s.hw_mdscr_el1.same(s.host_mdscr_el1)


@claim("debug-sr.h, __debug_switch_to_host_common", at=Point.RETURNED, when=_host_has_cpu)
def host_debug_bank_restored(s: State, k: Kernel) -> Term:
    """When __kvm_vcpu_run has returned, the break- and watchpoint registers are what the host last wrote."""
    return Eq(s.hw_bank, s.host_bank)


@claim(
    "sys_regs.c, comment above trap_debug_regs, on DEBUG_DIRTY",
    when=lambda s, k: And(s.in_guest, s.hw_mdscr_el1.MDE),
)
def host_breakpoints_inert_in_guest(s: State, k: Kernel) -> Term:
    """Whenever breakpoints are enabled in the guest, the hardware holds the guest's or user space's, not the host's."""
    users = s.owned_by(DebugOwner.HOST) if k.tracks_debug_owner else s.debug_ptr_external
    theirs = And(_switched(s, k), Or(users, Eq(s.hw_bank, s.guest_bank)))
    return And(theirs, Implies(users, Eq(s.hw_bank, s.user_bank)))


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
    return Eq(s.owned_by(DebugOwner.HOST), Or(s.guest_debug.any(), s.guest_os_lock))


@claim(
    _OWNER,
    when=lambda s, k: And(
        s.in_guest,
        Not(s.guest_debug.any()),
        Not(s.guest_os_lock),
        Or(s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE),
    ),
    applies=_from_owner,
)
def guest_owns_what_it_enabled(s: State, k: Kernel) -> Term:
    """A guest that has enabled debug exceptions (KDE or MDE), with nobody to be kept out, owns its debug registers."""
    return s.owned_by(DebugOwner.GUEST)


@claim("debug-sr.h (v6.14), __vcpu_debug_regs and __debug_switch_to_guest_common", applies=_from_owner)
def owner_has_the_registers(s: State, k: Kernel) -> Term:
    """In the guest the hardware holds the owner's break- and watchpoint registers; without an owner, the host's."""
    return And(
        Implies(s.owned_by(DebugOwner.GUEST), Eq(s.hw_bank, s.guest_bank)),
        Implies(s.owned_by(DebugOwner.HOST), Eq(s.hw_bank, s.user_bank)),
        Implies(s.owned_by(DebugOwner.FREE), Eq(s.hw_bank, s.host_bank)),
        Or(*(s.owned_by(who) for who in DebugOwner)),
    )


@claim("debug.c (v6.14), kvm_arm_setup_mdcr_el2, comment on TDA", applies=_from_owner)
def only_the_owner_reaches_the_registers(s: State, k: Kernel) -> Term:
    """The guest reaches MDSCR_EL1 and its break- and watchpoint registers without a trap exactly if it owns them."""
    reached = (executes(Access(r, w, 1), controls(s)) for r in ("MDSCR_EL1", "DBGBCR<n>_EL1") for w in (False, True))
    return And(*(Eq(r, s.owned_by(DebugOwner.GUEST)) for r in reached))


_EXTERNAL = "debug.c (v6.14), setup_external_mdscr"


def _host_owns(s: State, k: Kernel) -> Term:
    return And(s.in_guest, s.owned_by(DebugOwner.HOST)) if k.tracks_debug_owner else s.in_guest


@claim(_EXTERNAL, when=_host_owns, applies=_from_owner)
def external_mdscr_debugs_as_asked(s: State, k: Kernel) -> Term:
    """While KVM owns the debug registers, MDSCR_EL1.SS is set just for SINGLESTEP, MDE and KDE just for USE_HW."""
    m = s.hw_mdscr_el1
    return And(Eq(m.SS, s.stepping), Eq(m.MDE, s.guest_debug.USE_HW), Eq(m.KDE, s.guest_debug.USE_HW))


@claim(_EXTERNAL, when=_host_owns, applies=_from_owner)
def external_mdscr_follows_guest(s: State, k: Kernel) -> Term:
    """While KVM owns the debug registers, MDSCR_EL1 is what the guest last wrote, except SS, MDE and KDE."""
    use_hw = s.guest_debug.USE_HW
    return s.hw_mdscr_el1.same(s.guest_mdscr_el1.but(SS=s.stepping, MDE=use_hw, KDE=use_hw))


@claim(
    "sysreg-sr.h (v6.14), ctxt_mdscr_el1",
    when=lambda s, k: And(s.in_guest, Not(s.owned_by(DebugOwner.HOST))) if k.tracks_debug_owner else s.in_guest,
    applies=_from_owner,
)
def mdscr_is_guests_unless_taken(s: State, k: Kernel) -> Term:
    """While KVM does not own the debug registers, MDSCR_EL1 is all 64 bits of what the guest last wrote."""
    return s.hw_mdscr_el1.same(s.guest_mdscr_el1)


# ---- claims: user space's debugger gets what it asked for


@claim("debug.c, comment on hardware breakpoints", when=lambda s, k: And(s.in_guest, s.guest_debug.USE_HW))
def host_breakpoints_armed(s: State, k: Kernel) -> Term:
    """With KVM_GUESTDBG_USE_HW, user space's registers are in hardware and enabled, with exceptions going to EL2."""
    return And(Eq(s.hw_bank, s.user_bank), s.hw_mdscr_el1.MDE, s.hw_mdcr_el2.TDE, Not(s.hw_oslk))


@claim("debug.c, comment on single-step; Arm ARM D2.12", when=lambda s, k: And(s.in_guest, s.stepping))
def step_armed(s: State, k: Kernel) -> Term:
    """With KVM_GUESTDBG_SINGLESTEP, the step machine is active in the guest, with its exception going to EL2."""
    return And(s.hw_mdscr_el1.SS, s.hw_mdcr_el2.TDE, Not(s.hw_oslk), Eq(may_execute(s), s.hw_pstate.SS))


_STEP = "Documentation/virt/kvm/api.rst, KVM_GUESTDBG_SINGLESTEP; debug.c, comments on single-step"


@claim(_STEP, at=Point.ALWAYS, when=lambda s, k: s.stepping)
def one_step_one_instruction(s: State, k: Kernel) -> Term:
    """While single-stepping, every reported step is exactly one guest instruction: none lost, none that did not run."""
    return And(Not(s.wrong_step), t.ule(s.steps, t.const(1, 2)))


# ---- claims: the OS lock


def _has_os_lock(k: Kernel) -> str | None:
    return None if k.documents_os_lock else "the guest's OS lock is emulated from v5.18 on (7dabf02f43a1)"


@claim("debug.c (v6.1), comment on the OS lock", at=Point.ALWAYS, when=_always)
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
    own_bank = And(s.hw_mdscr_el1.MDE, Not(s.guest_debug.USE_HW))
    own_step = And(s.hw_mdscr_el1.SS, Not(s.stepping))
    return And(Not(own_bank), Not(own_step))


@claim(
    "debug.c (v6.1), comment on the OS lock",
    when=lambda s, k: And(s.in_guest, Not(s.guest_os_lock), Not(s.guest_debug.any())),
    applies=_has_os_lock,
)
def os_lock_blocks_nothing_else(s: State, k: Kernel) -> Term:
    """With the OS lock unlocked and no debugger, MDSCR_EL1 in the guest is the guest's own (bits 31 to 0)."""
    return Eq(_low(s.hw_mdscr_el1), _low(s.guest_mdscr_el1))


@claim(
    "debug.c (v6.1), comment on the OS lock",
    when=lambda s, k: And(s.in_guest, s.guest_os_lock, s.guest_debug.any()),
    applies=_has_os_lock,
)
def os_lock_spares_the_debugger(s: State, k: Kernel) -> Term:
    """The guest's OS lock takes nothing from user space: its breakpoints stay enabled, its steps active."""
    return And(
        Implies(s.guest_debug.USE_HW, s.hw_mdscr_el1.MDE),
        Implies(s.stepping, s.hw_mdscr_el1.SS),
        s.hw_mdcr_el2.TDE,
        Not(s.hw_oslk),
    )


# ---- claims that hold under preconditions, where the plain claim does not


def _needless(
    holds: Callable[[Kernel], bool], why: str = "the claim holds without it"
) -> Callable[[Kernel], str | None]:
    return lambda k: why if holds(k) else None


def _reads_late(k: Kernel) -> str | None:
    """HPMN is read from a register that vCPUs leave changed: VHE before v5.15."""
    if not k.vhe or k.saves_host_mdcr:
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
    return None if k.vhe else "the claim holds without it"


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
    applies=_needless(lambda k: k.preserves_pstate_ss),
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
    applies=_from_owner,
)


CLAIMS: tuple[Claim, ...] = tuple(c for c in list(globals().values()) if isinstance(c, Claim))


# ---- lemmas: why the claims hold


def _by_dirty(k: Kernel) -> bool:
    return not k.tracks_debug_owner


def _by_owner(k: Kernel) -> bool:
    return k.tracks_debug_owner


def _saves_late(k: Kernel) -> bool:
    """v6.14 to v6.17-rc under VHE: what is saved as the host's MDCR_EL2 is the guest's."""
    return k.tracks_debug_owner and k.vhe and not k.vhe_saves_host_mdcr_first


def _counts(k: Kernel) -> bool:
    """The HPMN that is read is the boot code's: the CPU's MDCR_EL2 has it whenever it is read."""
    return _by_dirty(k) and (k.saves_host_mdcr or not k.vhe) and (k.vhe_reads_boot_mdcr or not k.vhe) and k.keeps_hpmn


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


@lemma(lambda k: not k.saves_host_mdcr and not k.vhe)
def host_hpmn_is_boots(s: State, k: Kernel) -> Term:
    """nVHE before v5.15: HPMN at least survives the way back."""
    return Implies(Or(s.idle, s.here), s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"))


@lemma(_counts)
def copy_has_boot_hpmn(s: State, k: Kernel) -> Term:
    """The per-CPU copy has the boot code's HPMN."""
    return Implies(s.kvm_ready, s.percpu_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"))


@lemma(lambda k: _by_dirty(k) and (k.vhe_reads_boot_mdcr or not k.vhe), given=(INIT_ONLY_AT_BOOT,))
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


_COMPUTED_FROM = ("guest_debug", "sampled_dirty", "oslsr_el1", "percpu_mdcr_el2", "mdcr_el2")
_COMPUTED_BY_OWNER_FROM = ("guest_debug", "debug_owner", "nr_event_counters", "mdcr_el2", "hw_mdcr_el2")


@lru_cache(maxsize=4096)
def _computed_mdcr_el2(k: Kernel, *read: Term) -> Term:
    """What kvm_arm_setup_mdcr_el2 computes from the variables that it reads (64 bits)."""
    if k.tracks_debug_owner:
        s = State(dict(zip(_COMPUTED_BY_OWNER_FROM, read, strict=True)))
        return setup_mdcr_el2_by_owner(s, k).mdcr_el2.raw
    values = dict(zip(_COMPUTED_FROM, read, strict=True))
    return setup_mdcr_el2(State({**values, "debug_dirty": values["sampled_dirty"]}), k).mdcr_el2.raw


def _window_lemma(name: str, says: str, same: Callable[[MDCR_EL2, MDCR_EL2], Term]) -> Lemma:
    """From setup to exit, part of mdcr_el2 is what kvm_arm_setup_mdcr_el2 computes for this CPU and DIRTY as it was.

    From v6.14 on: while it is loaded, for this CPU and the owner.
    """

    def holds(s: State, k: Kernel) -> Term:
        used = _COMPUTED_BY_OWNER_FROM if k.tracks_debug_owner else _COMPUTED_FROM
        window = s.here if k.tracks_debug_owner else And(s.here, s.at(Phase.SETUP, Phase.IN_GUEST, Phase.EXITED))
        computed = MDCR_EL2(_computed_mdcr_el2(k, *(s.values[name] for name in used)))
        return Implies(window, same(s.mdcr_el2, computed))

    return Lemma(name, says, holds, lambda k: True)


# One lemma for each field: where a tree computes one of them differently, the others still hold.
_COMPUTED = ("TTRF", "TPMS", "E2PB", "E2TB", "TDRA", "TDOSA", "TDA", "TDE", "TPM", "TPMCR", "HPMN")
FIELD_LEMMAS: tuple[Lemma, ...] = tuple(
    _window_lemma(
        f"{field}_is_computed",
        f"In the entry window mdcr_el2.{field} is what kvm_arm_setup_mdcr_el2 computes.",
        lambda got, want, field=field: got.same(want, field),  # type: ignore[misc]
    )
    for field in _COMPUTED
) + (
    _window_lemma(
        "nothing_else_is_set",
        "In the entry window mdcr_el2 has no other field set.",
        lambda got, want: got.only(*_COMPUTED),
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


@lemma(_by_dirty)
def sampled_dirty_stays(s: State, k: Kernel) -> Term:
    """In the window DIRTY is set if it was sampled so."""
    return Implies(And(s.at(Phase.SETUP, Phase.IN_GUEST), s.sampled_dirty), s.debug_dirty)


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


def _tweaked(low: Term, s: State, k: Kernel) -> Term:
    """The low half of MDSCR_EL1 as the entry window should have it, from the guest's low half."""
    guest = MDSCR_EL1(t.zero_extend(low, 64))
    locked = s.os_lock if k.emulates_os_lock else FALSE
    changed = guest.but(SS=s.stepping, MDE=Or(s.guest_debug.USE_HW, And(Not(locked), guest.MDE)))
    return If(tweaks_guest(s, k), t.extract(changed.raw, 31, 0), low)


@lemma(_by_dirty)
def mdscr_outside_window(s: State, k: Kernel) -> Term:
    """Outside the window the context has the low half of MDSCR_EL1 as the guest last wrote it; inside the copy has."""
    theirs = _low(s.guest_mdscr_el1)
    return And(
        Implies(_outside(s, k), Eq(_low(s.mdscr_el1), theirs)),
        Implies(_entry_window(s, k), Eq(_low(s.preserved_mdscr_el1), theirs)),
        Implies(
            And(s.at(Phase.SETUP, Phase.EXITED), Not(tweaks_guest(s, k))),
            Eq(_low(s.mdscr_el1), theirs),
        ),
        Implies(And(s.in_guest, Not(tweaks_guest(s, k))), Eq(_low(s.hw_mdscr_el1), theirs)),
    )


def _mdscr_window_lemma(part: str, mask: int) -> Lemma:
    def holds(s: State, k: Kernel) -> Term:
        inside = t.const(mask, 32)
        wanted = _tweaked(_low(s.guest_mdscr_el1), s, k) & inside
        return And(
            Implies(s.at(Phase.SETUP, Phase.EXITED), Eq(_low(s.mdscr_el1) & inside, wanted)),
            Implies(s.in_guest, Eq(_low(s.hw_mdscr_el1) & inside, wanted)),
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


@lemma(lambda k: k.preserves_pstate_ss and _by_dirty(k))
def pstate_ss_through_window(s: State, k: Kernel) -> Term:
    """PSTATE.SS: the guest's outside the window, kept aside inside."""
    return And(
        Implies(_outside(s, k), Eq(s.pstate.SS, s.guest_pstate_ss)),
        Implies(And(s.at(Phase.SETUP, Phase.EXITED), Not(tweaks_guest(s, k))), Eq(s.pstate.SS, s.guest_pstate_ss)),
        Implies(_entry_window(s, k), Eq(s.preserved_pstate_ss, s.guest_pstate_ss)),
    )


@lemma(lambda k: _by_dirty(k) and (k.preserves_pstate_ss or not k.emulates_os_lock), given=(NEVER_DEBUGGED,))
def nobody_debugs(s: State, k: Kernel) -> Term:
    """If user space never debugs, guest_debug stays 0 and PSTATE.SS the guest's."""
    window = s.at(Phase.SETUP, Phase.EXITED)
    tweaks = tweaks_guest(s, k)
    return And(
        Not(s.guest_debug.any()),
        Implies(_outside(s, k), Eq(s.pstate.SS, s.guest_pstate_ss)),
        Implies(And(window, Not(tweaks)), Eq(s.pstate.SS, s.guest_pstate_ss)),
    )


@lemma()
def host_mdscr_through_switch(s: State, k: Kernel) -> Term:
    """The host's MDSCR_EL1 is in the hardware, or kept aside while the guest runs."""
    return And(
        Implies(_host_has_cpu(s, k), s.hw_mdscr_el1.same(s.host_mdscr_el1)),
        Implies(s.in_guest, s.host_ctxt_mdscr_el1.same(s.host_mdscr_el1)),
    )


@lemma()
def host_bank_through_switch(s: State, k: Kernel) -> Term:
    """The host's break- and watchpoint registers likewise."""
    return And(
        Implies(_host_has_cpu(s, k), Eq(s.hw_bank, s.host_bank)),
        Implies(And(s.in_guest, _switched(s, k)), Eq(s.host_debug_state, s.host_bank)),
        Implies(And(s.in_guest, Not(_switched(s, k))), Eq(s.hw_bank, s.host_bank)),
    )


@lemma(lambda k: k.indexes_trapped_banks)
def guest_bank_through_switch(s: State, k: Kernel) -> Term:
    """The guest's break- and watchpoint registers are in memory, or in the hardware while it runs with them."""
    switched = And(s.at(Phase.IN_GUEST), _switched_to_guests(s, k))
    return And(
        Implies(Not(switched), Eq(s.vcpu_debug_state, s.guest_bank)),
        Implies(And(switched, s.here), Eq(s.hw_bank, s.guest_bank)),
    )


@lemma(given=(FIRST_BREAKPOINT_ONLY,))
def first_bank_through_switch(s: State, k: Kernel) -> Term:
    """As guest_bank_through_switch, if only number 0 of each kind is used."""
    empty = t.const_array(t.const(0, 64), 2 + (k.breakpoints - 1).bit_length())
    switched = And(s.at(Phase.IN_GUEST), _switched_to_guests(s, k))
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
    switched = And(s.at(Phase.IN_GUEST), _switched_to_users(s, k))
    return And(
        Implies(Not(switched), Eq(s.external_debug_state, s.user_bank)),
        Implies(And(switched, s.here), Eq(s.hw_bank, s.user_bank)),
    )


@lemma(lambda k: k.emulates_os_lock)
def os_lock_is_guests(s: State, k: Kernel) -> Term:
    """The emulated OS lock is what the guest, or user space for it, last made it."""
    return Eq(s.os_lock, s.guest_os_lock)


@lemma()
def os_lock_is_clear(s: State, k: Kernel) -> Term:
    """The CPU's own OS lock is never locked."""
    return Not(s.hw_oslk)


def _user_access(s: State) -> Term:
    return s.hw_pmuserenr_el0.same(PMUSERENR_EL0.of(ER=True, CR=True, SW=True, EN=True))


@lemma(lambda k: not k.traps_at_load or k.guards_pmuserenr)
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
        Implies(_outside(s, k), outside),
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
    """The per-CPU number of event counters is this CPU's."""
    return Implies(s.kvm_ready, Eq(s.nr_event_counters, t.zero_extend(_event_counters(s, k), 32)))


@lemma(lambda k: _by_owner(k) and k.vhe)
def hpmn_is_boots_or_all(s: State, k: Kernel) -> Term:
    """Under VHE HPMN is what the boot code chose, or all counters; so is the copy for the host."""
    boot, counters = s.boot_mdcr_el2.HPMN, s.event_counters
    return And(
        *(
            Implies(when, Or(Eq(m.HPMN, boot), Eq(m.HPMN, counters)))
            for when, m in ((TRUE, s.hw_mdcr_el2), (s.here, s.mdcr_el2_host))
        )
    )


@lemma(_by_owner, given=(BOOT_GIVES_ALL_COUNTERS,))
def boot_gave_all(s: State, k: Kernel) -> Term:
    """If the boot code gives all counters, HPMN is never anything else."""
    return And(
        Eq(s.boot_mdcr_el2.HPMN, s.event_counters),
        s.hw_mdcr_el2.same(s.boot_mdcr_el2, "HPMN"),
        Implies(s.here if k.traps_at_load else s.in_guest, s.mdcr_el2_host.same(s.boot_mdcr_el2, "HPMN")),
    )


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


def _taken(s: State) -> Term:
    return And(s.at(Phase.LOADED, Phase.IN_GUEST), s.owned_by(DebugOwner.HOST))


@lemma(_by_owner)
def external_mdscr_is_in_hardware(s: State, k: Kernel) -> Term:
    """In the guest KVM's MDSCR_EL1 is in the hardware, if KVM has taken the registers."""
    return Implies(And(s.in_guest, s.owned_by(DebugOwner.HOST)), s.hw_mdscr_el1.same(s.external_mdscr_el1))


@lemma(_by_owner)
def external_mdscr_has_asked_bits(s: State, k: Kernel) -> Term:
    """KVM's MDSCR_EL1 has SS just for a step, MDE and KDE just for break- and watchpoints."""
    m = s.external_mdscr_el1
    use_hw = s.guest_debug.USE_HW
    return Implies(_taken(s), And(Eq(m.SS, s.stepping), Eq(m.MDE, use_hw), Eq(m.KDE, use_hw)))


@lemma(_by_owner, given=(MDSCR_LEFT_ALONE,))
def external_mdscr_has_guests_rest(s: State, k: Kernel) -> Term:
    """The rest of KVM's MDSCR_EL1 is the guest's, if the guest leaves it alone meanwhile."""
    m, g = s.external_mdscr_el1, s.guest_mdscr_el1
    return Implies(_taken(s), g.but(SS=m.SS, MDE=m.MDE, KDE=m.KDE).same(m))


@lemma(_by_owner)
def pstate_ss_is_lent(s: State, k: Kernel) -> Term:
    """PSTATE.SS in memory is the guest's, unless a debugger that steps has it; then a flag keeps the guest's."""
    lent = And(s.at(Phase.LOADED, Phase.IN_GUEST), s.stepping)
    return And(
        Implies(And(_outside(s, k), Not(lent)), Eq(s.pstate.SS, s.guest_pstate_ss)),
        Implies(lent, Eq(s.guest_ss_pending, Not(s.guest_pstate_ss))),
    )


@lemma(_by_owner)
def step_exits_are_the_debuggers(s: State, k: Kernel) -> Term:
    """Step exceptions come to EL2 only while user space steps the guest."""
    return Implies(s.exits_with(Exit.STEP), s.stepping)


@lemma(_by_owner, given=(NO_RESET_WITH_SKIP_PENDING, STEPPING_ENDS_WITH_DEBUGGING))
def step_is_accounted_for_by_owner(s: State, k: Kernel) -> Term:
    """While stepping: an instruction has run since the last report exactly if its step exception is on the way."""
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


LEMMAS: tuple[Lemma, ...] = (
    *(found for found in list(globals().values()) if isinstance(found, Lemma)),
    *FIELD_LEMMAS,
    *WINDOW_LEMMAS,
)


# ---- non-properties: these must fail, or the model does not move


@claim(
    "the naive reading of the document, kvm_arm_setup_debug, sentence 4",
    when=_host_debugs,
    applies=_until_owner("true from v6.14 on: KVM owns the registers of a guest that is debugged"),
)
def guest_debug_implies_tda(s: State, k: Kernel) -> Term:
    """Any debugging by user space sets TDA. (It does not: TDE alone traps the accesses.)"""
    return s.hw_mdcr_el2.TDA


@claim("vacuity: some guest runs", at=Point.ALWAYS, when=_always)
def no_guest_ever_runs(s: State, k: Kernel) -> Term:
    """No guest ever runs."""
    return Not(s.in_guest)


def _scenario(name: str, says: str, reached: Predicate, applies: Callable[[Kernel], str | None] = _everywhere) -> Claim:
    """A situation that the model must be able to reach; its trace is a seed when the C of a tree is searched."""

    def never(before: State, after: State, k: Kernel) -> Term:
        return Not(reached(before, k))

    return Claim(name, f"Never: {says}.", "scenario", Point.IN_GUEST, _always, never, applies)


def _uses(s: State, k: Kernel) -> Term:
    """The guest has just used the debug registers."""
    return s.owned_by(DebugOwner.GUEST) if k.tracks_debug_owner else s.sampled_dirty


_keeps_dirty = _until_owner("the guest's use of the registers ends where KVM takes them, from v6.14 on")


def _tweakable(s: State) -> Term:
    return And(s.guest_mdscr_el1.SS, s.guest_mdscr_el1.MDE, s.guest_mdscr_el1.KDE)


NON_PROPERTIES: tuple[Claim, ...] = (
    guest_debug_implies_tda,
    no_guest_ever_runs,
    _scenario(
        "use_hw_never_meets_dirty",
        "user space debugs with the registers while the guest has just used them",
        lambda s, k: And(s.in_guest, s.guest_debug.USE_HW, s.sampled_dirty),
        _keeps_dirty,
    ),
    _scenario(
        "step_never_meets_dirty",
        "user space steps a guest that has just used the debug registers",
        lambda s, k: And(s.in_guest, s.stepping, Not(s.guest_debug.USE_HW), s.sampled_dirty),
        _keeps_dirty,
    ),
    _scenario(
        "guest_never_owns_registers",
        "nobody debugs, and the guest has just used the debug registers",
        lambda s, k: And(s.in_guest, Not(s.guest_debug.any()), _uses(s, k), Not(s.guest_os_lock)),
    ),
    _scenario(
        "locked_guest_never_debugs_itself",
        "the guest has locked its OS lock with all of its debug exceptions enabled, and has just used the registers",
        lambda s, k: And(s.in_guest, s.guest_os_lock, _tweakable(s), s.sampled_dirty, Not(s.guest_debug.any())),
        _keeps_dirty,
    ),
    _scenario(
        "debugged_guest_never_debugs_itself",
        "the guest has all of its debug exceptions enabled and is debugged by user space, without the registers",
        lambda s, k: And(s.in_guest, s.guest_debug.any(), Not(s.guest_debug.USE_HW), Not(s.stepping), _tweakable(s)),
    ),
    _scenario(
        "debugging_never_ends",
        "user space has debugged a guest with all debug exceptions enabled, has stopped, and the guest runs on",
        lambda s, k: And(
            s.in_guest,
            Not(s.guest_debug.any()),
            _tweakable(s),
            (s.external_mdscr_el1 if k.tracks_debug_owner else s.preserved_mdscr_el1).SS,
        ),
    ),
    _scenario(
        "locked_guest_never_owns_nothing",
        "the guest has locked its OS lock with all of its debug exceptions enabled, and KVM has taken the registers",
        lambda s, k: And(s.in_guest, s.guest_os_lock, _tweakable(s), Not(s.guest_debug.any()), _taken(s)),
        _from_owner,
    ),
)
