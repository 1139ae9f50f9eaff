"""Every state variable, and the C lvalue or hardware register that it stands for. Read this file first.

A ``State`` is one vCPU together with one physical CPU: every operation acts on one such pair, and every lemma speaks of
one vCPU, of one CPU, or of a vCPU with the CPU it is loaded on. That is why any number of both is covered by looking at
{observed, acting} vCPU x {observed, acting} CPU (``formal/system.py`` states and checks the argument).

Kernel variables keep the width of their C type: reading extends with zeros, writing truncates, as C does. Lvalues are
those of v6.1; where another release keeps the value elsewhere, the comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Generic, Literal, Self, TypeVar, overload

from formal.arch.bits import Register
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, MDSCR_EL1, OSLSR_EL1, PMUSERENR_EL0, PSTATE
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import BOOL, And, Eq, Ne, Not, Or, Sort, Term

Owner = Literal["vcpu", "cpu"]
T = TypeVar("T")

BREAKPOINTS = 16  # break- and watchpoints in a bank, the architecture's maximum
REGISTER_OF_BANK = ("DBGBCR", "DBGBVR", "DBGWCR", "DBGWVR")  # the two top bits of a bank index
ID_BITS = 2  # vCPU and CPU names: 0 and 1 are the two looked at, the others stand for all the rest


class Phase(IntEnum):
    """Where the vCPU is in its life and in the run loop."""

    NEW = 0  # allocated and zeroed
    CREATED = 1  # kvm_arch_vcpu_create has run, KVM_RUN has not
    READY = 2  # not loaded on a CPU
    LOADED = 3  # between vcpu_load and vcpu_put, interrupts enabled
    SETUP = 4  # kvm_arm_setup_debug has run, interrupts off
    IN_GUEST = 5  # between the world switch in and the world switch out
    EXITED = 6  # __kvm_vcpu_run has returned, kvm_arm_clear_debug has not run


class DebugOwner(IntEnum):
    """Who has the debug registers of the vCPU, from v6.14 on (vcpu->arch.debug_owner)."""

    FREE = 0  # nobody: the host's stay in the hardware
    HOST = 1  # KVM, for a debugger in user space or for the guest's OS lock
    GUEST = 2  # the guest


class Exit(IntEnum):
    """What made the guest exit and is still to be handled (vcpu->arch.fault.esr_el2, by class)."""

    NONE = 0  # nothing: an interrupt, or already handled
    STEP = 1  # software step exception, routed to EL2
    DEBUG = 2  # BRK, breakpoint or watchpoint exception, routed to EL2
    DEBUG_ACCESS = 3  # trapped access to a debug register
    OS_ACCESS = 4  # trapped access to OSLAR_EL1
    EMULATE = 5  # another instruction that KVM emulates or answers with an exception for the guest
    FAULT = 6  # a fault that is repaired, so that the instruction runs again
    MMIO = 7  # an access that user space completes


@dataclass(frozen=True)
class Variable(Generic[T]):
    """One state variable: its owner, its sort for a kernel, how it reads, and what it stands for."""

    owner: Owner
    sort: Callable[[Kernel], Sort]
    view: Callable[[Term], T]
    stands_for: str
    ghost: bool = False
    kind: type[Register] | type[IntEnum] | None = None
    exists: Callable[[Kernel], bool] = lambda k: True
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    @overload
    def __get__(self, state: None, owner: type) -> Variable[T]: ...
    @overload
    def __get__(self, state: State, owner: type) -> T: ...
    def __get__(self, state: State | None, owner: type) -> Variable[T] | T:
        if state is None:
            return self
        return self.view(state.values[self.name])


R = TypeVar("R", bound=Register)


Exists = Callable[[Kernel], bool]


def _always(k: Kernel) -> bool:
    return True


def _by_dirty(k: Kernel) -> bool:
    return not k.tracks_debug_owner


def _by_owner(k: Kernel) -> bool:
    return k.tracks_debug_owner


def _nested(k: Kernel) -> bool:
    return k.nests


def _copied(k: Kernel) -> bool:
    return k.copies_vcpu


def _register(
    owner: Owner,
    kind: type[R],
    stands_for: str,
    *,
    bits: Callable[[Kernel], int] | None = None,
    ghost: bool = False,
    exists: Exists = _always,
) -> Variable[R]:
    def view(raw: Term) -> R:
        return kind(t.zero_extend(raw, kind.width))

    return Variable(owner, bits or (lambda _: kind.width), view, stands_for, ghost, kind, exists)


def _same(raw: Term) -> Term:
    return raw


def _flag(owner: Owner, stands_for: str, *, ghost: bool = False, exists: Exists = _always) -> Variable[Term]:
    return Variable(owner, lambda _: BOOL, _same, stands_for, ghost, exists=exists)


def _number(
    owner: Owner, bits: int, stands_for: str, *, ghost: bool = False, exists: Exists = _always
) -> Variable[Term]:
    return Variable(owner, lambda _: bits, _same, stands_for, ghost, exists=exists)


def _enum(owner: Owner, kind: type[IntEnum], stands_for: str) -> Variable[Term]:
    return Variable(owner, lambda _: 3, _same, stands_for, True, kind)


def _bank(owner: Owner, stands_for: str, *, ghost: bool = False) -> Variable[Term]:
    return Variable(owner, lambda k: (2 + (k.breakpoints - 1).bit_length(), 64), _same, stands_for, ghost)


@cache
def _one_of(term: Term, values: tuple[IntEnum, ...]) -> Term:
    return Or(*(Eq(term, t.const(value, t.width(term))) for value in values))


@dataclass(frozen=True)
class State:
    """One vCPU and one physical CPU, between two operations; ``values`` maps a variable's name to its term."""

    values: Mapping[str, Term]
    vcpu_id: int = 0
    cpu_id: int = 0

    # ---- the vCPU: where it is
    phase = _enum("vcpu", Phase, "position in the vCPU's life and in kvm_arch_vcpu_ioctl_run")
    in_run = _flag("vcpu", "KVM_RUN holds vcpu->mutex (also while preempted)")
    exit = _enum("vcpu", Exit, "class of the exit still to be handled")
    cpu = _number("vcpu", ID_BITS, "vcpu->cpu: where it is loaded")
    # ---- the vCPU: kernel variables
    mdcr_el2 = _register("vcpu", MDCR_EL2, "vcpu->arch.mdcr_el2", bits=lambda k: k.mdcr_el2_bits)
    mdcr_el2_host = _register("vcpu", MDCR_EL2, "vcpu->arch.mdcr_el2_host (per CPU by v6.12)")
    guest_debug = _register("vcpu", KVM_GUESTDBG, "vcpu->guest_debug")
    debug_dirty = _flag("vcpu", "DEBUG_DIRTY in vcpu->arch.iflags", exists=_by_dirty)
    debug_owner = Variable(
        "vcpu", lambda _: 2, _same, "vcpu->arch.debug_owner (from v6.14)", kind=DebugOwner, exists=_by_owner
    )
    ss_active_pending = _flag("vcpu", "DBG_SS_ACTIVE_PENDING, from v6.14 HOST_SS_ACTIVE_PENDING, in vcpu->arch.sflags")
    guest_ss_pending = _flag("vcpu", "GUEST_SS_ACTIVE_PENDING in vcpu->arch.sflags (from v6.14)", exists=_by_owner)
    adjust_pc = _flag("vcpu", "INCREMENT_PC or PENDING_EXCEPTION in vcpu->arch.iflags")
    powered_off = _flag("vcpu", "vcpu->arch.mp_state is STOPPED")
    mdscr_el1 = _register("vcpu", MDSCR_EL1, "vcpu->arch.ctxt.sys_regs[MDSCR_EL1]")
    oslsr_el1 = _register("vcpu", OSLSR_EL1, "vcpu->arch.ctxt.sys_regs[OSLSR_EL1]")
    pstate = _register("vcpu", PSTATE, "vcpu->arch.ctxt.regs.pstate")
    preserved_mdscr_el1 = _register(
        "vcpu",
        MDSCR_EL1,
        "vcpu->arch.guest_debug_preserved.mdscr_el1",
        bits=lambda k: k.preserved_mdscr_bits,
        exists=_by_dirty,
    )
    preserved_pstate_ss = _flag("vcpu", "vcpu->arch.guest_debug_preserved.pstate_ss", exists=_by_dirty)
    external_mdscr_el1 = _register("vcpu", MDSCR_EL1, "vcpu->arch.external_mdscr_el1 (from v6.14)", exists=_by_owner)
    debug_ptr_external = _flag(
        "vcpu", "vcpu->arch.debug_ptr points to external_debug_state, not vcpu_debug_state", exists=_by_dirty
    )
    vcpu_debug_state = _bank("vcpu", "vcpu->arch.vcpu_debug_state")
    external_debug_state = _bank("vcpu", "vcpu->arch.external_debug_state")
    host_debug_state = _bank("vcpu", "vcpu->arch.host_debug_state.regs (per CPU by v6.12)")
    # ---- the vCPU: a guest that is a hypervisor (nested virtualization)
    has_nv = _flag("vcpu", "vcpu_has_nv(): the guest has an EL2 of its own; never changes", exists=_nested)
    nested = _flag("vcpu", "is_nested_ctxt(): a guest of the guest hypervisor runs, not itself", exists=_nested)
    has_fgt = _flag("vcpu", "ARM64_HAS_FGT: all CPUs have fine-grained traps; never changes", exists=_nested)
    nr_pmu_counters = _number("vcpu", 5, "vcpu->kvm->arch.nr_pmu_counters", exists=_nested)
    virtual_mdcr_el2 = _register("vcpu", MDCR_EL2, "vcpu->arch.ctxt.sys_regs[MDCR_EL2]", exists=_nested)
    # ---- the vCPU: its copy at EL2 (protected mode)
    protected_vm = _flag("vcpu", "kvm_vm_is_protected(): a guest that EL2 keeps from the host", exists=_copied)
    hyp_mdcr_el2 = _register("vcpu", MDCR_EL2, "hyp_vcpu->vcpu.arch.mdcr_el2", exists=_copied)
    hyp_debug_owner = Variable(
        "vcpu", lambda _: 2, _same, "hyp_vcpu->vcpu.arch.debug_owner", kind=DebugOwner, exists=_copied
    )
    hyp_external_mdscr_el1 = _register("vcpu", MDSCR_EL1, "hyp_vcpu->vcpu.arch.external_mdscr_el1", exists=_copied)
    # ---- the vCPU: ghosts, which no kernel code reads
    guest_mdscr_el1 = _register("vcpu", MDSCR_EL1, "what the guest (or user space for it) last wrote", ghost=True)
    guest_pstate_ss = _flag("vcpu", "PSTATE.SS as the guest (or user space for it) left it", ghost=True)
    guest_os_lock = _flag("vcpu", "the guest (or user space for it) has locked its OS lock", ghost=True)
    guest_bank = _bank("vcpu", "break- and watchpoint registers as the guest last wrote them", ghost=True)
    user_bank = _bank("vcpu", "break- and watchpoint registers as user space last gave them", ghost=True)
    user_debug = _register(
        "vcpu",
        KVM_GUESTDBG,
        "control that user space last gave to KVM_SET_GUEST_DEBUG (0 without ENABLE; other flags are refused)",
        ghost=True,
    )
    guest_wrote_debug = _flag(
        "vcpu", "the guest last left to write one of its debug registers", ghost=True, exists=_by_dirty
    )
    guest_uses_debug = _flag(
        "vcpu",
        "the guest had debug exceptions enabled (KDE or MDE) when it was last loaded, or has accessed a debug register "
        "since, by a trap (from v6.14)",
        ghost=True,
        exists=_by_owner,
    )
    is_set_up = _flag(
        "vcpu",
        "kvm_arm_setup_debug (from v6.14 kvm_vcpu_load_debug) has run since kvm_arm_clear_debug (kvm_vcpu_put_debug)",
        ghost=True,
    )
    steps = _number("vcpu", 2, "guest instructions since the last debug exit, 3 standing for 3 or more", ghost=True)
    wrong_step = _flag("vcpu", "a step was reported for which not exactly one instruction has run", ghost=True)

    hypervisor_mdcr_el2 = _register(
        "vcpu",
        MDCR_EL2,
        "MDCR_EL2 as the guest hypervisor (or user space for it, or a reset) last wrote it",
        ghost=True,
        exists=_nested,
    )
    wrong_route = _flag(
        "vcpu",
        "a debug exception went to user space that does not debug, or passed by one that does",
        ghost=True,
        exists=_nested,
    )
    wrong_access = _flag("vcpu", "an access was emulated that the guest hypervisor traps", ghost=True, exists=_nested)

    # ---- the CPU: the hardware
    hw_mdcr_el2 = _register("cpu", MDCR_EL2, "MDCR_EL2")
    hw_mdscr_el1 = _register("cpu", MDSCR_EL1, "MDSCR_EL1")
    hw_bank = _bank("cpu", "DBGBCR<n>_EL1, DBGBVR<n>_EL1, DBGWCR<n>_EL1, DBGWVR<n>_EL1")
    hw_oslk = _flag("cpu", "OSLSR_EL1.OSLK")
    hw_pstate = _register("cpu", PSTATE, "PSTATE, while a guest runs")
    hw_pmuserenr_el0 = _register("cpu", PMUSERENR_EL0, "PMUSERENR_EL0")
    event_counters = _number("cpu", 5, "PMCR_EL0.N as EL2 reads it: implemented event counters")
    pmuv3p8 = _flag("cpu", "ID_AA64DFR0_EL1.PMUVer is 8 (PMUv3p8) or more; never changes", exists=_by_owner)
    # ---- the CPU: kernel variables
    vcpu = _number("cpu", ID_BITS, "kvm_running_vcpu: which vCPU is loaded here, if busy")
    busy = _flag("cpu", "a vCPU is loaded here")
    kvm_ready = _flag("cpu", "the CPU's hyp initialisation has run since it booted")
    percpu_mdcr_el2 = _register(
        "cpu", MDCR_EL2, "per-CPU mdcr_el2 of debug.c", bits=lambda k: k.mdcr_el2_bits, exists=_by_dirty
    )
    nr_event_counters = _number("cpu", 32, "kvm_host_data.nr_event_counters (from v6.14)", exists=_by_owner)
    host_ctxt_mdscr_el1 = _register("cpu", MDSCR_EL1, "kvm_host_data.host_ctxt.sys_regs[MDSCR_EL1]")
    host_ctxt_pmuserenr_el0 = _register("cpu", PMUSERENR_EL0, "kvm_host_data.host_ctxt.sys_regs[PMUSERENR_EL0]")
    # ---- the CPU: ghosts
    boot_mdcr_el2 = _register("cpu", MDCR_EL2, "MDCR_EL2 as the boot code of this CPU sets it", ghost=True)
    host_mdscr_el1 = _register("cpu", MDSCR_EL1, "what the host last wrote", ghost=True)
    host_bank = _bank("cpu", "break- and watchpoint registers as the host last wrote them", ghost=True)

    # ---- reading

    def at(self, *phases: Phase) -> Term:
        """Whether the vCPU is in one of these phases."""
        return _one_of(self.phase, phases)

    def exits_with(self, *kinds: Exit) -> Term:
        """Whether the exit still to be handled is one of these."""
        return _one_of(self.exit, kinds)

    @property
    def here(self) -> Term:
        """This vCPU is loaded on this CPU."""
        loaded = Not(self.at(Phase.NEW, Phase.CREATED, Phase.READY))
        return And(loaded, Eq(self.cpu, t.const(self.cpu_id, ID_BITS)))

    @property
    def in_guest(self) -> Term:
        """This vCPU's guest runs on this CPU."""
        return And(self.here, self.at(Phase.IN_GUEST))

    @property
    def idle(self) -> Term:
        """No vCPU is loaded on this CPU."""
        return Not(self.busy)

    @property
    def os_lock(self) -> Term:
        """The guest's OS lock is locked."""
        return self.oslsr_el1.OSLK

    @property
    def stepping(self) -> Term:
        """KVM single-steps the guest (guest_debug has SINGLESTEP)."""
        return self.guest_debug.SINGLESTEP

    @property
    def user_debugs(self) -> Term:
        """User space has asked to debug the guest, in any way."""
        return self.user_debug.any()

    @property
    def user_steps(self) -> Term:
        """User space has asked to single-step the guest."""
        return self.user_debug.SINGLESTEP

    @property
    def may_nest(self) -> bool:
        """This kernel may have guests that are hypervisors, so that the state says whether this one is."""
        return "nested" in self.values

    @property
    def in_hypervisor(self) -> Term:
        """The guest is a hypervisor, and it is its own code that runs (is_hyp_ctxt())."""
        return And(self.has_nv, Not(self.nested)) if self.may_nest else t.FALSE

    @property
    def in_nested(self) -> Term:
        """The guest is a hypervisor, and a guest of it runs."""
        return self.nested if self.may_nest else t.FALSE

    def owned_by(self, who: DebugOwner) -> Term:
        """Whether the debug registers are owned so (from v6.14)."""
        return Eq(self.debug_owner, t.const(who, 2))

    @property
    def active_bank(self) -> Term:
        """The bank that debug_ptr points to."""
        return t.If(self.debug_ptr_external, self.external_debug_state, self.vcpu_debug_state)

    # ---- writing

    def but(self, **changes: Any) -> Self:
        """This state except for the named variables (TLA+'s EXCEPT).

        Takes registers, terms, members of the variable's enumeration, or Booleans. Values wider than the variable lose
        their high bits, as an assignment in C does.

        Raises:
            AttributeError: for a name that is no state variable.
        """
        values = dict(self.values)
        for name, value in changes.items():
            if name not in values:
                raise AttributeError(f"{name} is not a state variable")
            values[name] = _stored(value, values[name].sort)
        return type(self)(values, self.vcpu_id, self.cpu_id)


def _stored(value: Any, sort: Sort) -> Term:
    if isinstance(value, Register):
        value = value.raw
    elif isinstance(value, bool):
        value = t.boolean(value)
    elif isinstance(value, int):
        assert isinstance(sort, int)
        value = t.const(value, sort)
    if isinstance(sort, int) and sort > 0 and t.width(value) > sort:
        value = t.extract(value, sort - 1, 0)
    if value.sort != sort:
        raise TypeError(f"a variable of sort {sort} cannot hold {value!r} of sort {value.sort}")
    assert isinstance(value, Term)
    return value


def variables() -> Iterator[Variable[Any]]:
    """All state variables, in the order of declaration."""
    return (v for v in vars(State).values() if isinstance(v, Variable))


VARIABLES: dict[str, Variable[Any]] = {v.name: v for v in variables()}


def symbolic(owner: Owner, k: Kernel, tag: str) -> dict[str, Term]:
    """Fresh variables for one vCPU or one CPU, named ``tag.variable``: those that this kernel has."""
    return {v.name: t.var(f"{tag}.{v.name}", v.sort(k)) for v in VARIABLES.values() if v.owner == owner and v.exists(k)}


def init(s: State, k: Kernel) -> Term:
    """The initial states of a vCPU and a CPU.

    The vCPU is allocated and zeroed, except debug_ptr, which may point anywhere, and cpu, which names none yet (KVM
    sets it to -1). Whether the guest has an EL2, and how many event counters, is open. The CPU has booted: its
    registers hold anything, except that MDCR_EL2 is what its boot code wrote, that HPMN is not reserved (between 1 and
    PMCR_EL0.N; asm/el2_setup.h writes N, and __init_el2_debug runs on every CPU), and that the host has cleared the OS
    lock (arch/arm64/kernel/debug-monitors.c). Different CPUs may boot with different values.
    """
    zeroed = (
        "mdcr_el2 mdcr_el2_host guest_debug mdscr_el1 oslsr_el1 preserved_mdscr_el1 guest_mdscr_el1 steps "
        "debug_owner external_mdscr_el1 percpu_mdcr_el2 nr_event_counters virtual_mdcr_el2 hypervisor_mdcr_el2 "
        "hyp_mdcr_el2 hyp_debug_owner hyp_external_mdscr_el1 user_debug"
    ).split()
    lowered = (
        "in_run debug_dirty ss_active_pending adjust_pc powered_off preserved_pstate_ss is_set_up "
        "guest_wrote_debug guest_uses_debug wrong_step guest_os_lock guest_ss_pending nested wrong_route wrong_access"
    ).split()
    banks = "vcpu_debug_state external_debug_state host_debug_state guest_bank user_bank".split()
    empty = t.const_array(t.const(0, 64), 2 + (k.breakpoints - 1).bit_length())
    hpmn = s.boot_mdcr_el2.HPMN
    return And(
        s.at(Phase.NEW),
        s.exits_with(Exit.NONE),
        *(Eq(s.values[name], t.const(0, t.width(s.values[name]))) for name in zeroed if name in s.values),
        *(Not(s.values[name]) for name in lowered if name in s.values),
        *(Eq(s.values[name], empty) for name in banks),
        Eq(s.guest_pstate_ss, s.pstate.SS),
        s.idle,
        Not(s.kvm_ready),
        s.hw_mdcr_el2.same(s.boot_mdcr_el2),
        Ne(hpmn, t.const(0, 5)),
        t.ule(hpmn, s.event_counters),
        s.hw_mdscr_el1.same(s.host_mdscr_el1),
        Eq(s.hw_bank, s.host_bank),
        Not(s.hw_oslk),
    )
