"""What an operation is: a guard, a new state, what it may change; and what several of them have in common.

An operation acts on one vCPU and one CPU, changes only what it ``writes`` (checked on every call), and carries the name
of its C function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from formal import history
from formal.arch.exceptions import eret_ss, goes_to_el2, step_state
from formal.arch.features import WITHOUT_FGT
from formal.arch.fgt import HDFGWTR_EL2
from formal.arch.registers import PSTATE
from formal.arch.traps import Controls
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import FALSE, And, Eq, If, Not, Or, Sort, Term
from formal.state import VARIABLES, Exit, Phase, State


class Inputs:
    """What an operation leaves open: each ``bits``, ``flag`` or ``bank`` is a free variable of that step."""

    def __init__(self, tag: str, breakpoints: int) -> None:
        self._tag = tag
        self._index_bits = 2 + (breakpoints - 1).bit_length()
        self.terms: dict[str, Term] = {}

    def _make(self, name: str, sort: Sort) -> Term:
        return self.terms.setdefault(name, t.var(f"{self._tag}.{name}", sort))

    def bits(self, name: str, n: int = 64) -> Term:
        """An open bit-vector of ``n`` bits."""
        return self._make(name, n)

    def flag(self, name: str) -> Term:
        """An open Boolean."""
        return self._make(name, t.BOOL)

    def index(self, name: str) -> Term:
        """An open index into a bank of break- and watchpoint registers."""
        return self._make(name, self._index_bits)

    def free(self, name: str, sort: Sort) -> Term:
        """An open value of any sort, for what a lifted C function reads and the state does not have."""
        return self._make(name, sort)

    def bank(self, name: str) -> Term:
        """Open contents of a whole bank."""
        return self._make(name, (self._index_bits, 64))


class Actor(Enum):
    """Who takes the step."""

    KVM = "KVM"
    GUEST = "the guest"
    USER = "user space"
    HOST = "the host"


Guard = Callable[[State, Kernel, Inputs], Term]
Step = Callable[[State, Kernel, Inputs], State]


@dataclass(frozen=True)
class Operation:
    """One transition of the system.

    ``pair`` says that it acts on a loaded vCPU and its CPU; without it the CPU part or the vCPU part stands alone.
    """

    name: str
    actor: Actor
    place: str
    says: str
    writes: frozenset[str]
    guard: Guard
    step: Step
    preemptible: bool = False
    c_function: str | None = field(default=None)
    exists: Callable[[Kernel], bool] = lambda k: True

    def enabled(self, s: State, k: Kernel, i: Inputs) -> Term:
        """When the operation may happen: never in a kernel that does not have it."""
        return self.guard(s, k, i) if self.exists(k) else FALSE

    def __call__(self, s: State, k: Kernel, i: Inputs) -> State:
        """The state after the operation.

        Raises:
            TypeError: if the operation changes a variable that it does not declare.
        """
        after = self.step(s, k, i)
        changed = {name for name, term in after.values.items() if term is not s.values[name]}
        if not changed <= self.writes:
            raise TypeError(f"{self.name} changes {', '.join(sorted(changed - self.writes))} without declaring it")
        return after


@dataclass(frozen=True)
class Applied:
    """One operation applied to the acting pair of symbolic states."""

    operation: Operation
    guard: Term
    before: State
    after: State
    inputs: Mapping[str, Term]

    @cached_property
    def changed(self) -> frozenset[str]:
        """The state variables that the operation can change, as they are named in terms (``v0.mdcr_el2``)."""
        before = self.before.values
        return frozenset(str(before[n].data) for n, term in self.after.values.items() if term is not before[n])

    @cached_property
    def known(self) -> Mapping[Term, Term]:
        """The variables that the guard says are constants, with these."""
        parts = self.guard.args if self.guard.op == "and" else (self.guard,)
        equal = {p.args[0]: p.args[1] for p in parts if p.op == "=" and [a.op for a in p.args] == ["var", "const"]}
        return equal | {p: t.TRUE for p in parts if p.op == "var"}


def operation(
    name: str,
    place: str,
    *,
    writes: str,
    enabled: Guard,
    actor: Actor = Actor.KVM,
    preemptible: bool = False,
    c_function: str | None = None,
    exists: Callable[[Kernel], bool] = lambda k: True,
) -> Callable[[Step], Operation]:
    """Declares an operation; its docstring says what happens."""
    names = frozenset(writes.split())
    if unknown := names - VARIABLES.keys():
        raise TypeError(f"{name} declares unknown variables: {', '.join(sorted(unknown))}")

    def declare(step: Step) -> Operation:
        return Operation(name, actor, place, step.__doc__ or "", names, enabled, step, preemptible, c_function, exists)

    return declare


# ---- the hardware below the guest


def controls(s: State) -> Controls:
    """What decides the guest's accesses of System registers, as far as it is modelled; the rest is 0."""
    found = Controls(mdcr_el2=s.hw_mdcr_el2, mdscr_el1=s.hw_mdscr_el1, pmuserenr_el0=s.hw_pmuserenr_el0)
    if not s.may_nest:
        return found
    # config.c (v6.18): fine-grained traps, where they exist, catch a guest hypervisor's writes of MDSCR_EL1.
    fine = HDFGWTR_EL2.of(MDSCR_EL1=And(s.in_hypervisor, s.has_fgt))
    return replace(found, hdfgwtr_el2=fine, features=WITHOUT_FGT | {"FEAT_FGT"})


def may_execute(s: State) -> Term:
    """Whether the guest's next instruction runs: no software step exception to EL2 comes before it."""
    state = step_state(s.hw_mdcr_el2, s.hw_mdscr_el1, s.hw_oslk, s.hw_pstate)
    return Not(And(goes_to_el2(s.hw_mdcr_el2), state.active_pending))


def eret_to_guest(s: State, spsr: PSTATE) -> State:
    """ERET from EL2, where debug exceptions are off (PSTATE.D), with this SPSR_EL2 (Arm ARM D2.12.4)."""
    return history.enters(s.but(hw_pstate=spsr.but(SS=eret_ss(s.hw_mdcr_el2, s.hw_mdscr_el1, s.hw_oslk, spsr))))


def retire(s: State, i: Inputs) -> State:
    """One guest instruction is done. PSTATE is whatever the guest makes it, but SS is clear after a step for EL2, and
    only an ERET of the guest that begins its own stepping sets it (Arm ARM D2.12.3, D2.12.4)."""
    after = PSTATE(i.bits("pstate"))
    own_step = And(s.hw_mdscr_el1.SS, Not(goes_to_el2(s.hw_mdcr_el2)), Not(s.hw_oslk))
    s = history.executes(s, after.SS)
    return s.but(hw_pstate=after.but(SS=And(after.SS, own_step)), steps=one_more(s.steps))


def one_more(steps: Term) -> Term:
    return If(Eq(steps, t.const(3, 2)), steps, steps + t.const(1, 2))


# ---- guards


def here(*phases: Phase) -> Guard:
    return lambda s, k, i: And(s.here, s.at(*phases))


def handling(*kinds: Exit) -> Guard:
    return lambda s, k, i: And(s.here, s.at(Phase.LOADED), s.exits_with(*kinds))


def cpu_idle(s: State, k: Kernel, i: Inputs) -> Term:
    return s.idle


def host_runs(s: State, k: Kernel, i: Inputs) -> Term:
    """The CPU runs host code with interrupts enabled: no vCPU is loaded, or this one is, outside the entry path."""
    return Or(s.idle, And(s.here, s.at(Phase.LOADED)))


def user_space_has_vcpu(s: State, k: Kernel, i: Inputs) -> Term:
    """vcpu->mutex is free, so that an ioctl may run; these ioctls work on a vCPU that is not loaded."""
    return And(s.at(Phase.CREATED, Phase.READY), Not(s.in_run))


def nests(k: Kernel) -> bool:
    return k.nests
