"""The operations that depend on debug_owner (v6.14), with one thing wrong each, and the claims that this must break.

Counterexamples are kept in formal/tree/faults/owner_mutants.json, where ``--kernel`` finds them to try on a tree;
``python -m tests.engines.owner_mutants`` searches for them anew.
"""

from __future__ import annotations

from dataclasses import replace

from formal import ownership
from formal.arch.registers import MDSCR_EL1, PSTATE
from formal.epochs import Kernel
from formal.evidence.runs.traces import Trace, TraceBook
from formal.logic import terms as t
from formal.logic.terms import And, If, Not, Or, Term
from formal.operations import Inputs
from formal.scope.configuration import Configuration
from formal.state import DebugOwner, Exit, Phase, State
from formal.transitions import choose
from tests.conftest import ROOT, checker_of
from tests.engines.mutants import BY_HAND, BY_NAME, ENTER, LOAD, PUT, RETURN, After, Mutant, keeps, mutant, search

BOOK = ROOT / "formal/tree/faults/owner_mutants.json"
INIT, SET_DEBUG, HANDLE = "kvm_arm_init_debug", "KVM_SET_GUEST_DEBUG", "kvm_handle_guest_debug"
ACCESS, BANK, LOCK = "trap_debug_regs", "trap_bvr, trap_bcr, trap_wvr, trap_wcr", "trap_oslar_el1"
FREE, HOST, GUEST = DebugOwner


def faulty(says: str, name: str, after: After, *breaks: str, mode: str = "vhe") -> Mutant:
    """A fault in the newest epoch."""
    return mutant(says, name, after, *breaks, mode=mode, epoch="E10")


def forgets(says: str, name: str, variables: str, *breaks: str, mode: str = "vhe") -> Mutant:
    """An operation of the newest epoch that forgets to change some variables."""
    return keeps(says, name, variables, *breaks, mode=mode, epoch="E10")


def _with_owner(s: State, k: Kernel, owner: Term) -> State:
    return ownership.setup_mdcr_el2_by_owner(s.but(debug_owner=owner), k)


def _if_host(s: State, otherwise: DebugOwner) -> Term:
    return If(s.owned_by(HOST), t.const(HOST, 2), t.const(otherwise, 2))


def _ignores_lock(before: State, good: State, k: Kernel, i: Inputs) -> State:
    own = If(Or(good.mdscr_el1.KDE, good.mdscr_el1.MDE), t.const(GUEST, 2), t.const(FREE, 2))
    return _with_owner(good, k, If(good.guest_debug.any(), t.const(HOST, 2), own))


def _external(good: State, m: MDSCR_EL1) -> State:
    return good.but(external_mdscr_el1=If(good.owned_by(HOST), m.raw, good.external_mdscr_el1.raw))


def _saves_late(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(mdcr_el2_host=good.mdcr_el2)


def _wrong_bank(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_bank=If(good.owned_by(HOST), good.vcpu_debug_state, good.hw_bank))


def _always_switches(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_bank=If(good.owned_by(FREE), good.vcpu_debug_state, good.hw_bank))


def _always_restores(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_bank=good.host_debug_state)


def _saves_over_guests(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(mdscr_el1=before.hw_mdscr_el1, external_mdscr_el1=before.external_mdscr_el1)


def _not_ready(s: State, k: Kernel, i: Inputs) -> Term:
    return And(s.at(Phase.READY), s.idle)


OWNER_MUTANTS: tuple[Mutant, ...] = (
    # kvm_init_host_debug_data
    faulty(
        "the number of event counters is not read",
        INIT,
        lambda b, g, k, i: g.but(nr_event_counters=0),
        "event_counters_read_before_use_up_to_pmuv3p7",
        "hpmn_preserved_in_guest_with_all_counters_up_to_pmuv3p7",
        "hpmn_preserved_always_with_all_counters_up_to_pmuv3p7",
        "only_named_fields_up_to_pmuv3p7",
        "entry_is_fresh_up_to_pmuv3p7",
        "hpmn_never_reserved_up_to_pmuv3p7",
    ),
    faulty(
        "under nVHE the number of event counters is not read",
        INIT,
        lambda b, g, k, i: g.but(nr_event_counters=0),
        "hpmn_preserved_in_guest_up_to_pmuv3p7",
        "hpmn_preserved_always_up_to_pmuv3p7",
        mode="nvhe",
    ),
    mutant(
        "CPUs with PMUv3p8 are taken for CPUs without a PMU",
        INIT,
        lambda b, g, k, i: g.but(nr_event_counters=If(g.pmuv3p8, b.nr_event_counters, g.nr_event_counters)),
        "event_counters_read_before_use",
        "hpmn_never_reserved",
        "only_named_fields",
        "entry_is_fresh",
        "hypervisor_sets_nothing_else",
        "hpmn_preserved_in_guest_with_all_counters",
        "hpmn_preserved_always_with_all_counters",
        epoch="E13",
    ),
    mutant(  # nothing enters the guest before the put that follows
        "an exit that user space completes leaves HPMN 1 until the put",
        RETURN,
        lambda b, g, k, i: g.but(
            hw_mdcr_el2=If(g.exits_with(Exit.MMIO), g.hw_mdcr_el2.but(HPMN=1).raw, g.hw_mdcr_el2.raw)
        ),
        "hpmn_preserved_always_with_all_counters",
        epoch="E13",
    ),
    Mutant(
        "a CPU is used before its counters are read",
        replace(BY_NAME[LOAD], guard=_not_ready),
        ("event_counters_read_before_use", "hpmn_never_reserved"),
        epoch="E13",
    ),
    # kvm_vcpu_load_debug
    faulty("the OS lock takes nothing", LOAD, _ignores_lock, "host_owns_what_it_needs", "os_lock_blocks_guest_debug"),
    faulty(
        "nobody owns the registers unless KVM does",
        LOAD,
        lambda b, g, k, i: _with_owner(g, k, _if_host(g, FREE)),
        "guest_owns_what_it_enabled",
        "debug_exceptions_enabled_means_untrapped",
        "host_breakpoints_inert_in_guest",
    ),
    faulty("the host's MDCR_EL2 is saved too late", LOAD, _saves_late, "host_mdcr_saved_first", "host_mdcr_restored"),
    forgets("the traps are computed at the next access", LOAD, "mdcr_el2 hw_mdcr_el2", "os_registers", "trace"),
    forgets("nothing says that load has run", LOAD, "is_set_up", "setup_before_every_entry"),
    faulty(
        "KVM's MDSCR_EL1 starts from 0",
        LOAD,
        lambda b, g, k, i: _external(
            g, MDSCR_EL1.of(SS=g.stepping, MDE=g.guest_debug.USE_HW, KDE=g.guest_debug.USE_HW)
        ),
        "external_mdscr_follows_guest_if_left_alone",
    ),
    faulty(
        "KVM's MDSCR_EL1 keeps the guest's MDE",
        LOAD,
        lambda b, g, k, i: _external(g, g.external_mdscr_el1.but(MDE=Or(g.guest_debug.USE_HW, g.mdscr_el1.MDE))),
        "external_mdscr_debugs_as_asked",
        "os_lock_blocks_guest_debug",
    ),
    faulty(
        "KVM's MDSCR_EL1 has no KDE for break- and watchpoints",
        LOAD,
        lambda b, g, k, i: _external(g, g.external_mdscr_el1.but(KDE=False)),
        "external_mdscr_debugs_as_asked",
    ),
    faulty(
        "KVM's MDSCR_EL1 has no SS for a step",
        LOAD,
        lambda b, g, k, i: _external(g, g.external_mdscr_el1.but(SS=False)),
        "step_armed",
        "external_mdscr_debugs_as_asked",
    ),
    forgets("KVM's MDSCR_EL1 is left as it was", LOAD, "external_mdscr_el1", "host_breakpoints_armed", "step_armed"),
    forgets(
        "the guest's step state is not kept",
        LOAD,
        "guest_ss_pending",
        "guest_pstate_ss_preserved_if_one_steps",
        "pstate_ss_copied_before_modified",
    ),
    faulty(
        "KVM's MDSCR_EL1 takes the place of the guest's",
        LOAD,
        lambda b, g, k, i: g.but(mdscr_el1=If(g.owned_by(HOST), g.external_mdscr_el1.raw, g.mdscr_el1.raw)),
        "mdscr_copied_before_modified",
        "saved_before_modified",
        "guest_mdscr_preserved",
    ),
    faulty(
        "a guest that owned the registers owns them after the next load",
        LOAD,
        lambda b, g, k, i: choose(And(b.owned_by(GUEST), g.owned_by(FREE)), _with_owner(g, k, t.const(GUEST, 2)), g),
        "debug_registers_trapped_unless_in_use",
        "owner_has_the_registers",
    ),
    faulty(
        "every load starts a new step",
        LOAD,
        lambda b, g, k, i: g.but(pstate=If(g.stepping, g.pstate.but(SS=True).raw, g.pstate.raw)),
        "one_step_one_instruction_if_not_reset",
    ),
    # kvm_vcpu_put_debug
    forgets("the host's MDCR_EL2 is not restored", PUT, "hw_mdcr_el2", "host_mdcr_restored"),
    forgets("the guest's step state is not given back", PUT, "pstate", "guest_pstate_ss_preserved_if_one_steps"),
    faulty(
        "while user space debugs without a step, the exit puts PSTATE.SS back as the entry had it",
        RETURN,
        lambda b, g, k, i: g.but(
            pstate=If(
                And(g.guest_debug.any(), Not(g.stepping)), PSTATE(g.pstate.raw).but(SS=b.pstate.SS).raw, g.pstate.raw
            )
        ),
        "guest_step_not_repeated_unstepped",
    ),
    forgets("the host's step state is lost", PUT, "ss_active_pending", "one_step_one_instruction_if_not_reset"),
    # the handlers
    forgets("a reported step stays on its way", HANDLE, "pstate", "one_step_one_instruction_if_not_reset"),
    faulty(
        "an access takes the registers from KVM",
        ACCESS,
        lambda b, g, k, i: _with_owner(g, k, t.const(GUEST, 2)),
        "host_owns_what_it_needs",
        "os_lock_blocks_guest_debug",
        "host_breakpoints_armed",
    ),
    forgets(
        "an access changes nobody's ownership",
        ACCESS,
        "debug_owner mdcr_el2 hw_mdcr_el2",
        "guest_owns_what_it_enabled",
        "debug_registers_free_when_in_use",
    ),
    forgets(
        "the traps stay when the guest becomes owner",
        BANK,
        "mdcr_el2 hw_mdcr_el2",
        "only_the_owner_reaches_the_registers",
    ),
    forgets("under nVHE the traps stay", BANK, "mdcr_el2", "only_the_owner_reaches_the_registers", mode="nvhe"),
    forgets(
        "OSLAR_EL1 is written without a new load",
        LOCK,
        "debug_owner external_mdscr_el1 mdcr_el2 hw_mdcr_el2",
        "os_lock_blocks_guest_debug",
        "host_owns_what_it_needs",
    ),
    # world switch
    faulty(
        "the guest's bank is loaded for KVM", ENTER, _wrong_bank, "owner_has_the_registers", "host_breakpoints_armed"
    ),
    faulty("a bank is loaded that nobody owns", ENTER, _always_switches, "owner_has_the_registers"),
    faulty("the host's bank is restored that was not saved", RETURN, _always_restores, "host_debug_bank_restored"),
    faulty(
        "the guest runs with its own MDSCR_EL1",
        ENTER,
        lambda b, g, k, i: g.but(hw_mdscr_el1=g.mdscr_el1),
        "os_lock_blocks_guest_debug",
        "step_armed",
    ),
    faulty(
        "the guest runs with KVM's MDSCR_EL1",
        ENTER,
        lambda b, g, k, i: g.but(hw_mdscr_el1=g.external_mdscr_el1),
        "mdscr_is_guests_unless_taken",
        "untrapped_mdscr_is_guests_own",
    ),
    faulty(
        "KVM's MDSCR_EL1 is saved as the guest's",
        RETURN,
        _saves_over_guests,
        "guest_mdscr_preserved",
        "saved_before_modified",
    ),
    forgets(
        "under nVHE the traps are not activated",
        ENTER,
        "hw_mdcr_el2",
        "entry_is_fresh_up_to_pmuv3p7",
        "os_registers",
        mode="nvhe",
    ),
    # user space
    forgets(
        "user space's control is not taken over",
        SET_DEBUG,
        "guest_debug",
        "host_owns_what_it_needs",
        "host_takes_debug_exceptions",
    ),
    forgets(
        "ending to debug keeps the pending step",
        SET_DEBUG,
        "ss_active_pending",
        "one_step_one_instruction_if_not_reset",
    ),
)
# Protected mode: the copy of the vCPU at EL2 (flush_hyp_vcpu, hyp-main.c), and the world switch that works on it.
COPY_MUTANTS: tuple[Mutant, ...] = tuple(
    keeps(says, ENTER, variables, *breaks, mode="protected", epoch="E13")
    for says, variables, breaks in (
        ("EL2 keeps the owner of the entry before", "hyp_debug_owner", ("copy_at_el2_has_the_owner",)),
        (
            "EL2's own MDSCR_EL1 is loaded",
            "hyp_external_mdscr_el1 hw_mdscr_el1",
            ("copy_at_el2_has_external_mdscr", "step_armed"),
        ),
        ("EL2's own traps are loaded", "hyp_mdcr_el2 hw_mdcr_el2", ("entry_is_fresh", "os_registers")),
    )
)
HARMLESS_OF_OWNER: tuple[Mutant, ...] = (
    faulty("MDCR_EL2 is written again at entry", ENTER, lambda b, g, k, i: g.but(hw_mdcr_el2=g.mdcr_el2)),
    faulty(
        "KVM's MDSCR_EL1 is computed for nobody",
        LOAD,
        lambda b, g, k, i: g.but(external_mdscr_el1=ownership.external_mdscr(g.mdscr_el1, g)),
    ),
)


def _ends_debugging(trace: Trace) -> Trace:
    """The run with debugging ended where only stepping is: longer than what the search finds."""
    steps = (replace(s, inputs={**s.inputs, "control": 0}) if s.inputs.get("control") == 1 else s for s in trace.steps)
    return Trace(trace.initial, tuple(steps))


if __name__ == "__main__":
    known = checker_of(Configuration("E10", "vhe")).book.traces
    mutants, traces = (*OWNER_MUTANTS, *COPY_MUTANTS), (*BY_HAND, *known, *map(_ends_debugging, known))
    search(mutants, traces, TraceBook.read(BOOK)).write(BOOK)
