"""Faults in the operations that depend on debug_owner (v6.14) are found, and each new claim has one that kills it."""

from __future__ import annotations

import pytest

from formal.engines.verdict import Checker, Verdict
from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import EPOCHS, Kernel, Mode
from formal.evidence.runs.traces import TraceBook
from formal.logic.terms import Not, Or
from formal.operations import Inputs
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.state import State
from formal.system import System
from tests.conftest import checker_of
from tests.engines.mutants import CLAIM, Mutant, check_fault, check_harmless, mutant, system
from tests.engines.owner_mutants import BOOK, COPY_MUTANTS, ENTER, HARMLESS_OF_OWNER, OWNER_MUTANTS


@pytest.fixture(scope="module")
def book() -> TraceBook:
    """The counterexamples of the mutants."""
    return TraceBook.read(BOOK)


@pytest.mark.parametrize("one", (*OWNER_MUTANTS, *COPY_MUTANTS), ids=lambda m: m.says)
def test_a_fault_breaks_its_claims(one: Mutant, book: TraceBook) -> None:
    check_fault(one, book, checker_of(Configuration(one.epoch, one.mode)))


@pytest.mark.parametrize("one", HARMLESS_OF_OWNER, ids=lambda m: m.says)
def test_what_is_harmless_stays_proved(one: Mutant) -> None:
    check_harmless(one, checker_of(Configuration(one.epoch, one.mode)))


def test_every_claim_that_the_rework_brought_is_killed_by_some_fault() -> None:
    old, new = EPOCHS["E8"].kernel(Mode.VHE), EPOCHS["E10"].kernel(Mode.VHE)
    brought = {c.name for c in CLAIMS if c.applies(old) is not None and c.applies(new) is None}
    false = {"external_mdscr_follows_guest"}  # for every kernel; its variant is killed
    killed = {name for one in OWNER_MUTANTS for name in one.breaks}
    assert len(brought) >= 8
    assert brought - false <= killed, f"no fault breaks {sorted(brought - false - killed)}"


def test_every_claim_about_the_copy_at_el2_is_killed_by_some_fault() -> None:
    own, host = EPOCHS["E13"].kernel(Mode.PROTECTED), EPOCHS["E13"].kernel(Mode.NVHE)
    brought = {c.name for c in CLAIMS if c.applies(host) is not None and c.applies(own) is None}
    killed = {name for one in COPY_MUTANTS for name in one.breaks}
    assert brought - {"protected_guest_keeps_its_traps"} <= killed  # which is false for every kernel


@pytest.mark.parametrize("epoch", ["E12", "E13"])
def test_what_follows_from_fresh_entries_needs_no_fault_of_its_own(epoch: str) -> None:
    """Where the boot code gives all counters, entry_is_fresh says which HPMN a guest has."""
    k, s = EPOCHS[epoch].kernel(Mode.VHE), System(EPOCHS[epoch].kernel(Mode.VHE)).state()
    fresh, follows = CLAIM["entry_is_fresh"], CLAIM["hpmn_preserved_in_guest_with_all_counters"]
    solver = Z3Solver(Z3Terms())
    solver.add(fresh.holds(s, k), *(p.initially(s, k) for p in follows.given))
    assert solver.satisfiable(follows.when(s, k)), "vacuous"
    assert not solver.satisfiable(Not(follows.holds(s, k)))


def test_traps_of_a_protected_guest_would_stay_if_the_entry_added_them() -> None:
    """The claim that is false for every kernel is true where EL2's own choice is loaded with the host's."""

    def adds(before: State, good: State, k: Kernel, i: Inputs) -> State:
        return good.but(hw_mdcr_el2=good.hw_mdcr_el2.but(TDCC=Or(good.protected_vm, good.hw_mdcr_el2.TDCC)))

    claim = CLAIM["protected_guest_keeps_its_traps"]
    mended = Checker(system(mutant("mended", ENTER, adds, mode="protected", epoch="E13")), lemmas=())
    assert not mended.invariant().implies(claim), "nothing is known without lemmas"
    fixed = checker_of(Configuration("E13", "protected"))
    assert fixed.check(claim).verdict is Verdict.VIOLATED
    step = mended.system.apply(next(op for op in mended.system.operations if op.name == ENTER))
    facts, goal = fixed.invariant().facts(), claim.holds(step.after, mended.system.kernel)
    solver = Z3Solver(Z3Terms())
    solver.add(*facts, step.guard)
    assert solver.satisfiable(), "vacuous"
    assert not solver.satisfiable(Not(goal))
