"""How claims and lemmas are written: their classes and decorators, groups of registers, situations.

A claim is a predicate over one vCPU and one CPU. Its docstring is the sentence that every report prints, ``cites`` the
place where the kernel or the Arm ARM says so, ``when`` the situation it speaks of: a claim whose situation cannot be
reached is vacuous, and the gate fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from formal.arch.features import FEATURES, closure, present
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.holes import HOLES
from formal.arch.registers import MDSCR_EL1
from formal.arch.sysregs import GROUPS
from formal.arch.traps import Access, Controls, executes, traps_to_el2
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, And, Eq, Implies, Not, Or, Term
from formal.operations import Applied, Operation, controls
from formal.ownership import in_use
from formal.state import DebugOwner, Phase, State

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
    """A promise. ``actors`` are those whose steps a two-state claim is about, or operations (empty: a state claim)."""

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

    def is_about(self, operation: Operation) -> bool:
        """Whether a two-state claim speaks of the steps of an operation: by who takes it, or by its name."""
        return not self.actors.isdisjoint((operation.actor.value, operation.name))


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


def always(s: State, k: Kernel) -> Term:
    return TRUE


def everywhere(k: Kernel) -> str | None:
    return None


def claim(
    cites: str,
    *,
    at: Point = Point.IN_GUEST,
    when: Predicate = _in_guest,
    applies: Callable[[Kernel], str | None] = everywhere,
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
    of: Claim, name: str, says: str, *given: Precondition, applies: Callable[[Kernel], str | None] = everywhere
) -> Claim:
    """The same claim under named preconditions, none of which can be spared."""
    return replace(of, name=name, says=says, given=given, applies=applies, variant_of=of.name)


def step_claim(
    cites: str,
    actors: str,
    *,
    when: Predicate = _in_guest,
    applies: Callable[[Kernel], str | None] = everywhere,
) -> Callable[[StepPredicate], Claim]:
    """Declares a two-state claim about every step of the named actors or operations (with commas between)."""

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


# ---- situations that claims and lemmas share


def event_counters_seen(s: State, k: Kernel) -> Term:
    """What this CPU's PMCR_EL0.N says to its host: under nVHE, at EL1, it is the HPMN that the boot code chose."""
    return s.event_counters if k.vhe else s.boot_mdcr_el2.HPMN


def taken_from_guest(s: State) -> Term:
    """The debug registers are not the guest's own to use: user space debugs it, or its OS lock is locked."""
    return Or(s.user_debugs, s.guest_os_lock)


def kept_out(s: State, k: Kernel) -> Term:
    """Whether the guest's accesses of debug registers have to trap for the sake of somebody else: user space that
    debugs with them (from v6.14 on: in any way), or the guest's own OS lock."""
    return taken_from_guest(s) if k.tracks_debug_owner else Or(s.user_debug.USE_HW, s.guest_os_lock)


def uses_debug(s: State, k: Kernel) -> Term:
    """The guest actively uses its debug registers, so that its accesses need not trap: as the release promises it."""
    return s.guest_uses_debug if k.tracks_debug_owner else s.guest_wrote_debug


def rightful_owner(s: State, owner: Term) -> Term:
    """Who has the debug registers is who should (debug.c of v6.14, comment on the three states)."""
    taken = taken_from_guest(s)
    right = {DebugOwner.HOST: taken, DebugOwner.GUEST: And(Not(taken), s.guest_uses_debug)}
    right[DebugOwner.FREE] = And(Not(taken), Not(s.guest_uses_debug))
    return And(*(Eq(Eq(owner, t.const(who, 2)), when) for who, when in right.items()))


def outside_window(s: State, k: Kernel) -> Term:
    return s.at(Phase.NEW, Phase.CREATED, Phase.READY, Phase.LOADED)


def low_half(r: MDSCR_EL1) -> Term:
    return t.extract(r.raw, 31, 0)


def switched(s: State, k: Kernel) -> Term:
    """The break- and watchpoint registers are those of somebody else than the host, if a guest runs."""
    return in_use(s) if k.tracks_debug_owner else s.debug_dirty


def switched_to_guests(s: State, k: Kernel) -> Term:
    if k.tracks_debug_owner:
        return s.owned_by(DebugOwner.GUEST)
    return And(s.debug_dirty, Not(s.debug_ptr_external))


def switched_to_users(s: State, k: Kernel) -> Term:
    return s.owned_by(DebugOwner.HOST) if k.tracks_debug_owner else And(s.debug_dirty, s.debug_ptr_external)


def hypervisor_wants(s: State, field: str) -> Term:
    """A guest hypervisor's MDCR_EL2, in effect on its guest, has this trap set."""
    return And(s.in_nested, getattr(s.hypervisor_mdcr_el2, field)) if s.may_nest else FALSE


def mdscr_is_redirected(s: State) -> Term:
    """A guest hypervisor's own accesses of MDSCR_EL1 would go to memory (FEAT_NV2), and only TDA can trap them."""
    return And(s.in_hypervisor, Not(s.has_fgt)) if s.may_nest else FALSE


def host_has_cpu(s: State, k: Kernel) -> Term:
    return Or(s.idle, And(s.here, Not(s.in_guest)))


def taken_by_host(s: State) -> Term:
    return And(s.at(Phase.LOADED, Phase.IN_GUEST), s.owned_by(DebugOwner.HOST))
