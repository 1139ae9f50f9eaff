"""The hand-written operations with one thing wrong each, and the claims that this must break.

Counterexamples are kept in formal/tree/faults/mutants.json, where ``--kernel`` finds them to try on a tree;
``python -m tests.engines.mutants`` searches for them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from formal.arch.registers import MDCR_EL2, PSTATE
from formal.engines.verdict import Checker, Verdict
from formal.epochs import EPOCHS, Kernel, Mode
from formal.evidence.runs.traces import Step, Trace, TraceBook
from formal.logic import terms as t
from formal.logic.terms import And, If, Not, Or, Term
from formal.operations import Guard, Inputs, Operation
from formal.properties import CLAIMS
from formal.state import VARIABLES, Phase, State
from formal.system import System
from formal.transitions import OPERATIONS, reset_debug_ptr
from tests.conftest import ROOT

BY_NAME = {op.name: op for op in OPERATIONS}
SETUP, ENTER, RETURN, CLEAR = (
    "kvm_arm_setup_debug",
    "__kvm_vcpu_run enters",
    "__kvm_vcpu_run returns",
    "kvm_arm_clear_debug",
)
LOAD, PUT = "kvm_arch_vcpu_load", "kvm_arch_vcpu_put"
After = Callable[[State, State, Kernel, Inputs], State]  # before, after as it should be


@dataclass(frozen=True)
class Mutant:
    """An operation with a fault, and the claims that it breaks (in one mode at least, under VHE unless it says so)."""

    says: str
    operation: Operation
    breaks: tuple[str, ...]
    mode: str = "vhe"
    epoch: str = "E8"


def mutant(says: str, name: str, after: After, *breaks: str, mode: str = "vhe", epoch: str = "E8") -> Mutant:
    """An operation whose result is spoilt afterwards; it may write anything."""
    good = BY_NAME[name]

    def step(s: State, k: Kernel, i: Inputs) -> State:
        return after(s, good.step(s, k, i), k, i)

    return Mutant(says, replace(good, step=step, writes=frozenset(VARIABLES)), breaks, mode, epoch)


def keeps(says: str, name: str, variables: str, *breaks: str, mode: str = "vhe", epoch: str = "E8") -> Mutant:
    """An operation that forgets to change some variables."""

    def after(before: State, good: State, k: Kernel, i: Inputs) -> State:
        return good.but(**{v: before.values[v] for v in variables.split()})

    return mutant(says, name, after, *breaks, mode=mode, epoch=epoch)


def computes(says: str, value: Callable[[State, MDCR_EL2], MDCR_EL2], *breaks: str, mode: str = "vhe") -> Mutant:
    """kvm_arm_setup_debug with another value of MDCR_EL2, in memory and, under VHE, in the register."""

    def after(before: State, good: State, k: Kernel, i: Inputs) -> State:
        wrong = value(before, good.mdcr_el2)
        return good.but(mdcr_el2=wrong, hw_mdcr_el2=wrong) if k.vhe else good.but(mdcr_el2=wrong)

    return mutant(says, SETUP, after, *breaks, mode=mode)


def enabled(says: str, name: str, guard: Guard, *breaks: str, mode: str = "vhe") -> Mutant:
    """An operation that happens when it must not."""
    return Mutant(says, replace(BY_NAME[name], guard=guard), breaks, mode)


def _tda_for(s: State, *reasons: Term) -> Term:
    return Or(*reasons, Not(s.debug_dirty))


def _save_after_tweak(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(preserved_mdscr_el1=good.mdscr_el1, preserved_pstate_ss=good.pstate.SS)


def _switch_ignores_dirty(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_bank=before.active_bank, host_debug_state=before.hw_bank)


def _exit_ignores_dirty(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(vcpu_debug_state=before.hw_bank)


def _skip_leaves_ss(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_pstate=good.hw_pstate.but(SS=Or(good.hw_pstate.SS, before.pstate.SS)))


def _enter(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_pstate=PSTATE(good.hw_pstate.raw).but(SS=False))


def _skips_setup(s: State, k: Kernel, i: Inputs) -> Term:
    return And(s.here, s.at(Phase.SETUP, Phase.LOADED))


def _without_mutex(s: State, k: Kernel, i: Inputs) -> Term:
    return s.at(Phase.CREATED, Phase.READY, Phase.LOADED, Phase.SETUP)


def _while_running(s: State, k: Kernel, i: Inputs) -> Term:
    return Or(s.idle, And(s.here, s.at(Phase.LOADED, Phase.SETUP, Phase.IN_GUEST)))


def _without_init(s: State, k: Kernel, i: Inputs) -> Term:
    return And(s.at(Phase.READY), s.idle)


HALF = t.const(0xFFFF_FFFF, 64)

MUTANTS: tuple[Mutant, ...] = (
    # the value of MDCR_EL2
    computes("TDOSA is dropped", lambda s, m: m.but(TDOSA=False), "os_registers", "entry_is_fresh"),
    computes("TDRA is dropped", lambda s, m: m.but(TDRA=False), "debug_rom"),
    computes("TPM is dropped", lambda s, m: m.but(TPM=False), "performance_monitors", mode="nvhe"),
    computes("TPMS is dropped", lambda s, m: m.but(TPMS=False), "profiling", "profiling_trapped"),
    computes("TTRF is dropped", lambda s, m: m.but(TTRF=False), "trace", "trace_trapped", mode="nvhe"),
    computes("E2PB gives the buffer to the guest", lambda s, m: m.but(E2PB=3), "profiling", "profiling_trapped"),
    computes("E2TB is reserved", lambda s, m: m.but(E2TB=1), "only_named_fields"),
    computes("HPMN is dropped", lambda s, m: m.but(HPMN=0), "hpmn_preserved_in_guest", "only_named_fields"),
    computes("a bit without a name is set", lambda s, m: MDCR_EL2(m.raw | t.const(1 << 63, 64)), "only_named_fields"),
    computes(
        "TDA ignores USE_HW",
        lambda s, m: m.but(TDA=_tda_for(s, s.os_lock)),
        "host_debug_sets_tda",
        "debug_registers_trapped_unless_in_use",
    ),
    computes("TDA ignores the OS lock", lambda s, m: m.but(TDA=_tda_for(s, s.guest_debug.USE_HW)), "entry_is_fresh"),
    computes("TDA always", lambda s, m: m.but(TDA=True), "debug_registers_free_when_in_use"),
    computes(  # mdscr_trapped_if_left_alone follows from the other
        "TDA never",
        lambda s, m: m.but(TDA=False),
        "debug_registers_trapped_unless_in_use",
        "mdscr_trapped_if_left_alone",
    ),
    computes(
        "TDE for USE_HW only", lambda s, m: m.but(TDE=s.guest_debug.USE_HW), "host_takes_debug_exceptions", "step_armed"
    ),
    computes("TDE always", lambda s, m: m.but(TDE=True), "guest_keeps_its_debug_exceptions"),
    computes(
        "neither TDE nor TDA for a debugger",
        lambda s, m: m.but(TDE=False, TDA=Not(s.debug_dirty)),
        "guest_cannot_interfere",
        "external_bank_not_leaked",
    ),
    # kvm_arm_setup_debug and its undoing
    mutant(
        "the guest's registers are saved after they are tweaked",
        SETUP,
        _save_after_tweak,
        "mdscr_copied_before_modified",
        "pstate_ss_copied_before_modified",
        "saved_before_modified_in_32_bits",
        "guest_pstate_ss_preserved_if_one_steps_unlocked",
    ),
    mutant(
        "TDCC of a guest that user space debugs is cleared for the entry",
        SETUP,
        lambda b, g, k, i: g.but(
            mdscr_el1=If(b.guest_debug.any(), g.mdscr_el1.but(TDCC=False).raw, g.mdscr_el1.raw),
        ),
        "mdscr_is_set_up",
    ),
    mutant(
        "MDE is not set for USE_HW",
        SETUP,
        lambda b, g, k, i: g.but(
            mdscr_el1=If(b.guest_debug.USE_HW, g.mdscr_el1.but(MDE=b.mdscr_el1.MDE).raw, g.mdscr_el1.raw)
        ),
        "host_breakpoints_armed",
    ),
    mutant(
        "MDSCR_EL1.SS is not set for a step",
        SETUP,
        lambda b, g, k, i: g.but(mdscr_el1=g.mdscr_el1.but(SS=b.mdscr_el1.SS)),
        "step_armed",
    ),
    mutant(
        "the OS lock does not keep MDE away",
        SETUP,
        lambda b, g, k, i: g.but(mdscr_el1=g.mdscr_el1.but(MDE=Or(b.guest_debug.USE_HW, b.mdscr_el1.MDE))),
        "os_lock_blocks_guest_debug",
    ),
    mutant(
        "a locked OS lock takes the debugger's breakpoints as well",
        SETUP,
        lambda b, g, k, i: g.but(mdscr_el1=g.mdscr_el1.but(MDE=And(g.mdscr_el1.MDE, Not(b.os_lock)))),
        "os_lock_spares_the_debugger",
    ),
    keeps("debug_ptr is not set for USE_HW", SETUP, "debug_ptr_external", "host_breakpoints_armed"),
    keeps("DIRTY is not raised", SETUP, "debug_dirty", "host_breakpoints_armed", "host_breakpoints_inert_in_guest"),
    keeps("the changed value is not written under VHE", SETUP, "hw_mdcr_el2", "entry_is_fresh", "host_debug_sets_tda"),
    keeps("MDSCR_EL1 is not restored", CLEAR, "mdscr_el1", "mdscr_access_after_restore"),
    keeps("PSTATE.SS is not restored", CLEAR, "pstate", "guest_pstate_ss_preserved_if_one_steps_unlocked"),
    *(
        mutant(
            f"the exit clears PSTATE.SS ({epoch})",
            RETURN,
            lambda b, g, k, i: g.but(pstate=g.pstate.but(SS=False)),
            claim,
            mode="nvhe",
            epoch=epoch,
        )
        for epoch, claim in (
            ("E7", "guest_pstate_ss_preserved_undebugged"),
            ("E2", "guest_pstate_ss_preserved_unemulated"),
        )
    ),
    mutant(
        "while user space debugs, the exit puts PSTATE.SS back as the entry had it",
        RETURN,
        lambda b, g, k, i: g.but(pstate=If(g.guest_debug.any(), g.pstate.but(SS=b.pstate.SS).raw, g.pstate.raw)),
        "guest_step_not_repeated_unstepped",
        epoch="E7",
    ),
    keeps("DIRTY stays when the guest exits", RETURN, "debug_dirty", "debug_registers_trapped_unless_in_use"),
    *(
        keeps(f"DIRTY is not raised by {name}", name, "debug_dirty", "debug_registers_free_when_in_use")
        for name in ("trap_debug_regs", "trap_bvr, trap_bcr, trap_wvr, trap_wcr")
    ),
    keeps("debug_ptr is not restored", CLEAR, "debug_ptr_external", "debug_ptr_reset", "bug_on_unreachable"),
    keeps("a step on its way is forgotten", CLEAR, "ss_active_pending", "one_step_one_instruction_if_undisturbed"),
    mutant(
        "only ENABLE alone is undone",
        CLEAR,
        lambda b, g, k, i: g.but(mdscr_el1=If(b.stepping, b.mdscr_el1.raw, g.mdscr_el1.raw)),
        "mdscr_access_after_restore",
    ),
    # world switch
    mutant("the switch to the guest ignores DIRTY", ENTER, _switch_ignores_dirty, "host_debug_bank_restored"),
    mutant("the switch to the host ignores DIRTY", RETURN, _exit_ignores_dirty, "guest_bank_preserved"),
    keeps("the guest's bank is not loaded", ENTER, "hw_bank", "untrapped_bank_is_guests_own"),
    keeps("the guest's bank is not saved", RETURN, "vcpu_debug_state", "guest_bank_preserved"),
    keeps("the host's bank is not restored", RETURN, "hw_bank", "host_debug_bank_restored"),
    keeps("the host's MDSCR_EL1 is not restored", RETURN, "hw_mdscr_el1", "host_mdscr_restored"),
    keeps("the guest's MDSCR_EL1 is not loaded", ENTER, "hw_mdscr_el1", "untrapped_mdscr_is_guests_own", "step_armed"),
    keeps("the guest's MDSCR_EL1 is not saved", RETURN, "mdscr_el1", "guest_mdscr_preserved_in_32_bits"),
    keeps("the traps stay active", RETURN, "hw_mdcr_el2", "host_mdcr_restored", mode="nvhe"),
    keeps("the traps stay active after put", PUT, "hw_mdcr_el2", "host_mdcr_restored"),
    keeps("the traps are not activated", ENTER, "hw_mdcr_el2", "os_registers", "entry_is_fresh", mode="nvhe"),
    keeps("the host's value is not saved", LOAD, "mdcr_el2_host", "host_mdcr_restored"),
    keeps("PMUSERENR_EL0 is not set", ENTER, "hw_pmuserenr_el0", "performance_monitors_trapped", mode="nvhe"),
    mutant(
        "PMUSERENR_EL0 is set without CR",
        ENTER,
        lambda b, g, k, i: g.but(hw_pmuserenr_el0=g.hw_pmuserenr_el0.but(CR=False)),
        "user_access_is_set_up",
        mode="nvhe",
    ),
    mutant(
        "PMUSERENR_EL0 is set without CR at load",
        LOAD,
        lambda b, g, k, i: g.but(hw_pmuserenr_el0=g.hw_pmuserenr_el0.but(CR=False)),
        "user_access_is_set_up_without_perf",
    ),
    mutant(
        "an instruction is skipped without clearing SS",
        ENTER,
        _skip_leaves_ss,
        "one_step_one_instruction_if_undisturbed",
    ),
    mutant("SS never reaches the guest", ENTER, _enter, "one_step_one_instruction_if_undisturbed"),
    # handlers
    keeps("a trapped write of MDSCR_EL1 is lost", "trap_debug_regs", "mdscr_el1", "guest_mdscr_preserved_in_32_bits"),
    keeps(
        "a trapped write of a bank is lost",
        "trap_bvr, trap_bcr, trap_wvr, trap_wcr",
        "vcpu_debug_state",
        "guest_bank_preserved",
    ),
    keeps(
        "the OS lock is not kept",
        "trap_oslar_el1",
        "oslsr_el1",
        "os_lock_blocks_guest_debug",
        "oslsr_is_guests_own",
    ),
    keeps(
        "a reported step stays on its way",
        "kvm_handle_guest_debug",
        "ss_active_pending",
        "one_step_one_instruction_if_undisturbed",
    ),
    # user space
    keeps(
        "user space's control is not taken over",
        "KVM_SET_GUEST_DEBUG",
        "guest_debug",
        "host_takes_debug_exceptions",
        "host_debug_sets_tda",
        "step_armed",
    ),
    mutant(
        "ending to debug ends single-stepping only",
        "KVM_SET_GUEST_DEBUG",
        lambda b, g, k, i: g.but(
            guest_debug=If(g.user_debugs, g.guest_debug.raw, b.guest_debug.but(SINGLESTEP=False).raw)
        ),
        "guest_keeps_its_debug_exceptions",
        "entry_is_fresh",
    ),
    keeps(
        "user space's bank is not taken over", "KVM_SET_GUEST_DEBUG", "external_debug_state", "external_bank_preserved"
    ),
    mutant(
        "the value is truncated",
        "KVM_SET_ONE_REG MDSCR_EL1",
        lambda b, g, k, i: g.but(mdscr_el1=t.bvlshr(g.mdscr_el1.raw, t.const(1, 64))),
        "guest_mdscr_preserved_in_32_bits",
    ),
    # the order of things
    enabled("a guest is entered without setup", ENTER, _skips_setup, "setup_before_every_entry"),
    enabled("ioctls do not wait for the mutex", "KVM_SET_GUEST_DEBUG", _without_mutex, "host_takes_debug_exceptions"),
    enabled(
        "the host writes its registers while a guest runs",
        "the host writes its debug registers",
        _while_running,
        "untrapped_bank_is_guests_own",
    ),
    enabled("a CPU is used before KVM is ready there", LOAD, _without_init, "boot_value_read_before_use"),
    mutant(
        "hyp initialisation reads half the register",
        "kvm_arm_init_debug",
        lambda b, g, k, i: g.but(percpu_mdcr_el2=g.percpu_mdcr_el2.raw & HALF),
        "boot_value_read_in_full",
    ),
    mutant(
        "hyp initialisation reads nothing",
        "kvm_arm_init_debug",
        lambda b, g, k, i: g.but(percpu_mdcr_el2=t.const(0, 64)),
        "hpmn_preserved_in_guest",
    ),
    mutant(
        "hyp initialisation clears PMUSERENR_EL0 as well",
        "kvm_arm_init_debug",
        lambda b, g, k, i: g.but(hw_pmuserenr_el0=0),
        "init_debug_has_one_task",
    ),
    keeps(
        "debug_ptr is never set", "kvm_arch_vcpu_create", "debug_ptr_external", "debug_ptr_reset", "bug_on_unreachable"
    ),
)


def _debug_ptr_again(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return reset_debug_ptr(good)


def _setup_twice(before: State, good: State, k: Kernel, i: Inputs) -> State:
    return good.but(hw_mdcr_el2=good.mdcr_el2)


HARMLESS: tuple[Mutant, ...] = (  # changes that break nothing
    mutant("debug_ptr is set again at load", LOAD, _debug_ptr_again),
    mutant("MDCR_EL2 is written whether it changed or not", SETUP, _setup_twice),
)

# Traces for what the search cannot find: it takes steps with interrupts off as one (formal/engines/bmc.py, FUSED).
BOOT: dict[str, t.Value] = {"p0.boot_mdcr_el2": 6, "p0.hw_mdcr_el2": 6, "p0.event_counters": 6}
LOADED = (
    Step("kvm_arch_vcpu_create", 0, 0, {}),
    Step("kvm_arm_init_debug", 0, 0, {}),
    Step("kvm_arm_vcpu_init_debug", 0, 0, {}),
    Step(LOAD, 0, 0, {}),
)
BY_HAND = (
    Trace(BOOT, (*LOADED, Step(ENTER, 0, 0, {}))),
    Trace(
        BOOT, (*LOADED, Step(SETUP, 0, 0, {}), Step("KVM_SET_GUEST_DEBUG", 0, 0, {"control": 1}), Step(ENTER, 0, 0, {}))
    ),
)
BOOK = ROOT / "formal/tree/faults/mutants.json"
CLAIM = {c.name: c for c in CLAIMS}


def key(one: Mutant, claim: str) -> str:
    """The name of a counterexample in the book."""
    return f"{one.says}: {claim}"


def system(one: Mutant) -> System:
    """The system with the mutant in it."""
    return System(EPOCHS[one.epoch].kernel(Mode(one.mode))).replacing({one.operation.name: one.operation})


def check_breaks(one: Mutant, name: str, checker: Checker, fixed: Checker) -> None:
    """A claim is no longer proved with the fault, and the stored run breaks it: with the fault, not without."""
    broken = CLAIM[name]
    invariant = checker.invariant(broken.given)
    assert not invariant.implies(broken), f"{name} is still implied by the lemmas"
    assert not invariant.keeps(broken), f"{name} is still inductive"
    result = checker.check(broken, known_as=key(one, name))
    assert result.verdict is Verdict.VIOLATED, f"{name}: no stored run breaks it; the modules of mutants search one"
    assert result.trace is not None
    assert fixed._breaks(result.trace, broken) is None, f"{name}: the trace breaks it without the fault as well"


def check_fault(one: Mutant, book: TraceBook, fixed: Checker) -> None:
    """Its claims are proved without the fault, not with it, and the stored run breaks them with the fault only."""
    checker = Checker(system(one), book)
    for name in one.breaks:
        broken = CLAIM[name]
        assert fixed.invariant(broken.given).implies(broken) or fixed.invariant(broken.given).keeps(broken)
        check_breaks(one, name, checker, fixed)


def check_harmless(one: Mutant, fixed: Checker) -> None:
    """What the lemmas imply without the change stays proved with it."""
    checker, k = Checker(system(one)), fixed.system.kernel
    for each in CLAIMS:
        if not each.applies(k) and fixed.invariant(each.given).implies(each):
            assert checker.check(each).verdict is Verdict.PROVED, each.name


def search(mutants: Iterable[Mutant], known: Iterable[Trace] = BY_HAND, book: TraceBook | None = None) -> TraceBook:
    """A counterexample for every mutant and claim: that of a book while it is one, else the smallest that is found."""
    traces: list[Trace] = []
    found: dict[str, int] = {}
    for one in mutants:
        checker = Checker(system(one), book, depth=9, pool=[*known, *traces])
        for claim in one.breaks:
            result = checker.check(CLAIM[claim], known_as=key(one, claim))
            assert result.trace is not None, f"{key(one, claim)}: {result.verdict.value}, {result.reason}"
            if result.trace not in traces:
                traces.append(result.trace)
            found[key(one, claim)] = traces.index(result.trace)
    return TraceBook(tuple(traces), found)


if __name__ == "__main__":
    search(MUTANTS, book=TraceBook.read(BOOK)).write(BOOK)
