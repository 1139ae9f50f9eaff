"""Nested virtualization (v6.18) with one thing wrong each, and the claims that this must break.

Counterexamples are kept in formal/tree/faults/nested_mutants.json, where ``--kernel`` finds them to try on a tree;
``python -m tests.engines.nested_mutants`` searches for them anew.
"""

from __future__ import annotations

from dataclasses import replace

from formal.arch.registers import MDCR_EL2, PSTATE
from formal.epochs import Kernel
from formal.evidence.runs.traces import TraceBook
from formal.logic import terms as t
from formal.logic.terms import And, If, Not, Or, Term
from formal.operations import Guard, Inputs
from formal.scope.configuration import Configuration
from formal.state import Exit, Phase, State
from tests.conftest import ROOT, checker_of
from tests.engines.mutants import BY_HAND, BY_NAME, LOAD, After, Mutant, keeps, mutant, search

BOOK = ROOT / "formal/tree/faults/nested_mutants.json"
ERET, INJECT, HYP_ERET = "kvm_emulate_nested_eret", "kvm_inject_nested", "kvm_hyp_handle_eret"
VIRTUAL, RESET, PMU = "access_mdcr", "KVM_ARM_VCPU_INIT", "KVM_ARM_VCPU_PMU_V3"
HANDLE, ACCESS, LOCK = "kvm_handle_guest_debug", "trap_debug_regs", "trap_oslar_el1"


def faulty(says: str, name: str, after: After, *breaks: str) -> Mutant:
    """A fault in a kernel that nests."""
    return mutant(says, name, after, *breaks, mode="vhe", epoch="E13")


def forgets(says: str, name: str, variables: str, *breaks: str) -> Mutant:
    """An operation that forgets to change some variables."""
    return keeps(says, name, variables, *breaks, mode="vhe", epoch="E13")


def _both(good: State, m: MDCR_EL2) -> State:
    return good.but(mdcr_el2=m, hw_mdcr_el2=m)


def _without(field: str) -> After:
    """Where only the guest hypervisor asks for a trap, it is not set."""

    def after(before: State, good: State, k: Kernel, i: Inputs) -> State:
        own = {"TDE": good.guest_debug.any(), "TDA": Or(Not(good.nested), good.mdcr_el2.TDA)}.get(field, t.FALSE)
        return _both(good, good.mdcr_el2.but(**{field: own}))

    return after


def _copies(field: str) -> After:
    """A field is the guest hypervisor's, whatever KVM needs."""

    def after(before: State, good: State, k: Kernel, i: Inputs) -> State:
        theirs: Term = getattr(good.virtual_mdcr_el2, field)
        m = good.mdcr_el2
        return _both(good, m.but(**{field: If(good.nested, theirs, getattr(m, field))}))

    return after


def _always(before: State, good: State, k: Kernel, i: Inputs) -> State:
    """The guest hypervisor's traps are in effect on itself as well."""
    asked = If(good.has_nv, good.virtual_mdcr_el2.raw & t.const(MDCR_EL2.mask("TDA"), 64), t.const(0, 64))
    return _both(good, MDCR_EL2(good.mdcr_el2.raw | asked))


def _unforced(before: State, good: State, k: Kernel, i: Inputs) -> State:
    guest = t.const(2, 2)
    return _both(good, good.mdcr_el2.but(TDA=Or(good.nested, t.Ne(good.debug_owner, guest))))


def _forwards_all(before: State, good: State, k: Kernel, i: Inputs) -> State:
    """Also what user space has asked for."""
    taken = And(before.nested, before.virtual_mdcr_el2.TDE)
    wrong = And(taken, before.guest_debug.any())
    return good.but(nested=And(good.nested, Not(taken)), wrong_route=Or(good.wrong_route, wrong))


def _any_access(kind: Exit) -> Guard:
    """A guard without the look at what the guest hypervisor traps."""
    return lambda s, k, i: And(s.here, s.at(Phase.LOADED), s.exits_with(kind))


NESTED_MUTANTS: tuple[Mutant, ...] = (
    *(
        faulty(f"the guest hypervisor's {field} is left out", ERET, _without(field), "hypervisor_traps_are_set")
        for field in ("TDE", "TDCC")
    ),
    *(
        faulty(
            f"{field} is the guest hypervisor's to clear",
            ERET,
            _copies(field),
            "hypervisor_clears_no_trap",
            "entry_is_fresh",
        )
        for field in ("TPM", "TDRA", "TTRF")
    ),
    faulty(
        "TDA is the guest hypervisor's to clear",
        ERET,
        _copies("TDA"),
        "hypervisor_clears_no_trap",
        "debug_registers_trapped_unless_in_use",
    ),
    faulty("TDE is the guest hypervisor's to clear", ERET, _copies("TDE"), "host_takes_debug_exceptions"),
    *(
        faulty(f"{field} is the guest hypervisor's", ERET, _copies(field), "hypervisor_sets_nothing_else")
        for field in ("E2PB", "E2TB", "HPMN", "HPMD")
    ),
    faulty("the traps are in effect on the guest hypervisor itself", LOAD, _always, "entry_is_fresh"),
    forgets(
        "the guest hypervisor's traps come with the next load",
        ERET,
        "mdcr_el2 hw_mdcr_el2",
        "hypervisor_traps_are_set",
        "hypervisor_traps_debug_registers",
    ),
    forgets("the guest hypervisor's traps go with the next load", INJECT, "mdcr_el2 hw_mdcr_el2", "entry_is_fresh"),
    forgets("an exception does not put the traps back", HANDLE, "mdcr_el2 hw_mdcr_el2", "entry_is_fresh"),
    faulty("TDA is not forced on a guest hypervisor", LOAD, _unforced, "redirected_mdscr_write_traps"),
    # the virtual register
    forgets("a guest hypervisor's MDCR_EL2 is not kept", VIRTUAL, "virtual_mdcr_el2", "virtual_mdcr_preserved"),
    forgets("a reset leaves it alone", RESET, "virtual_mdcr_el2", "virtual_mdcr_preserved"),
    forgets("HPMN does not follow the number of counters", PMU, "virtual_mdcr_el2", "virtual_mdcr_preserved"),
    # what goes to whom
    faulty(
        "user space's debug exceptions go to the guest hypervisor",
        HANDLE,
        _forwards_all,
        "debug_exceptions_go_to_who_debugs",
    ),
    *(
        Mutant(
            f"{name} emulates what a guest hypervisor traps",
            replace(BY_NAME[name], guard=_any_access(kind)),
            ("hypervisor_gets_what_it_traps",),
            epoch="E13",
        )
        for name, kind in ((ACCESS, Exit.DEBUG_ACCESS), (LOCK, Exit.OS_ACCESS))
    ),
    # single steps
    faulty(
        "an emulated access of MDCR_EL2 is no step",
        VIRTUAL,
        lambda b, g, k, i: g.but(adjust_pc=b.adjust_pc),
        "one_step_one_instruction_if_no_eret",
    ),
    faulty(
        "an ERET does not change PSTATE.SS",
        ERET,
        lambda b, g, k, i: g.but(pstate=PSTATE(g.pstate.raw).but(SS=b.pstate.SS)),
        "guest_pstate_ss_preserved_if_one_steps",
    ),
)
HARMLESS_OF_NESTED: tuple[Mutant, ...] = (
    faulty("MDCR_EL2 is written once more", ERET, lambda b, g, k, i: g.but(hw_mdcr_el2=g.mdcr_el2)),
)


if __name__ == "__main__":
    known = checker_of(Configuration("E13", "vhe")).book.traces
    search(NESTED_MUTANTS, (*BY_HAND, *known), TraceBook.read(BOOK)).write(BOOK)
