"""The engines: a fault in any operation is found, and nothing is PROVED that only seems to follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formal.engines import verdict as verdict_module
from formal.engines.induction import Invariant, VacuousError
from formal.engines.verdict import Checker, ContradictionError, Verdict
from formal.engines.z3backend import SolverTimeoutError, Z3Solver, shared_terms
from formal.epochs import EPOCHS, Kernel, Mode
from formal.evidence.runs.coverage import cover
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import TraceBook
from formal.lemmas import LEMMAS
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, Eq, Not, Term
from formal.preconditions import CPUS_BOOT_ALIKE
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.scope.configuration import Configuration
from formal.state import State
from formal.system import System
from formal.vocabulary import Claim, Lemma, Precondition, claim
from tests.conftest import checker_of
from tests.engines.mutants import BOOK, BY_NAME, CLAIM, HARMLESS, MUTANTS, Mutant, check_breaks, system

E8 = EPOCHS["E8"].kernel(Mode.VHE)


@pytest.fixture(scope="module")
def book() -> TraceBook:
    """The counterexamples of the mutants."""
    return TraceBook.read(BOOK)


# ---- faults


@pytest.mark.parametrize("one", MUTANTS, ids=lambda m: m.says)
def test_a_fault_breaks_its_claims(one: Mutant, book: TraceBook) -> None:
    """The induction no longer proves them, and the stored run breaks them: with the fault, not without."""
    faulty = system(one)
    checker = Checker(faulty, book)
    fixed = checker_of(Configuration(one.epoch, one.mode))
    for name in one.breaks:
        check_breaks(one, name, checker, fixed)


def test_there_are_faults_in_most_operations() -> None:
    assert len(MUTANTS) >= 20
    assert len({m.operation.name for m in MUTANTS}) >= 12
    assert len({m.says for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda m: m.says)
def test_the_faulty_claims_are_proved_without_the_fault(one: Mutant) -> None:
    invariant_of = checker_of(Configuration(one.epoch, one.mode)).invariant
    assert all(invariant_of(CLAIM[name].given).implies(CLAIM[name]) for name in one.breaks)


@pytest.mark.parametrize("one", HARMLESS, ids=lambda m: m.says)
def test_what_is_harmless_stays_proved(one: Mutant) -> None:
    checker = Checker(system(one))
    fixed = checker_of(Configuration(one.epoch, one.mode))
    for each in CLAIMS:
        if not each.applies(E8) and fixed.invariant(each.given).implies(each):
            assert checker.check(each).verdict is Verdict.PROVED, each.name


@pytest.mark.parametrize("says", ["TDRA is dropped", "TPMS is dropped", "the traps stay active after put"])
def test_the_search_finds_a_fault_by_itself(says: str) -> None:
    one = next(m for m in MUTANTS if m.says == says)
    checker = Checker(system(one), depth=6)
    result = checker.check(CLAIM[one.breaks[0]])
    assert (result.verdict, result.engine) == (Verdict.VIOLATED, "BMC")
    assert result.trace is not None
    assert result.broken_at == len(result.trace.steps)
    assert checker.replay.violates(result.trace, result.claim) == result.broken_at


def test_a_wrong_lemma_is_dropped_and_proves_nothing() -> None:
    """Were it believed, the naive claim would follow from it."""
    naive = next(c for c in NON_PROPERTIES if c.name == "guest_debug_implies_tda")
    wrong = Lemma("wrong", "", lambda s, k: naive.holds(s, k), lambda k: True)
    invariant = Invariant(checker_of(Configuration("E8", "vhe")).system, (*LEMMAS, wrong))
    assert [d.lemma for d in invariant.dropped] == ["wrong"]
    assert not invariant.implies(naive)
    assert len(invariant.lemmas) == len(checker_of(Configuration("E8", "vhe")).invariant().lemmas)


@pytest.mark.parametrize("name", ["guest_debug_is_valid", "copy_has_boot_hpmn", "os_lock_is_clear", "life_cycle"])
def test_a_lemma_that_is_turned_round_is_dropped(name: str) -> None:
    original = next(m for m in LEMMAS if m.name == name)
    turned = replace(original, holds=lambda s, k: Not(original.holds(s, k)))
    others = [m for m in LEMMAS if m.name != name]
    assert name in {
        d.lemma for d in Invariant(checker_of(Configuration("E8", "vhe")).system, [*others, turned]).dropped
    }


def test_lemmas_that_need_a_dropped_one_are_dropped_too() -> None:
    """What is left is inductive on its own."""
    one = next(m for m in MUTANTS if m.says == "debug_ptr is not restored")
    faulty = system(one)
    invariant = Invariant(faulty, LEMMAS)
    assert invariant.dropped
    again = Invariant(faulty, invariant.lemmas)
    assert not again.dropped


# ---- contradictions


def _claim(then: object, when: object = None) -> Claim:
    """A claim made on the spot."""
    base = CLAIM["os_registers"]
    changes = {"name": "made_up", "then": then, "when": when or base.when}
    return replace(base, **changes)  # type: ignore[arg-type]


FALSEHOOD = _claim(lambda s, after, k: FALSE)


def test_a_falsehood_is_not_proved() -> None:
    result = checker_of(Configuration("E8", "vhe")).check(FALSEHOOD)
    assert result.verdict is Verdict.UNKNOWN


def test_contradictory_lemmas_prove_nothing() -> None:
    """A lemma that is never true, or two that exclude each other, do not survive Init and the operations."""

    def lemma(name: str, holds: Term | None, value: bool = True) -> Lemma:
        def is_dirty(s: State, k: Kernel) -> Term:
            return holds if holds is not None else (s.debug_dirty if value else Not(s.debug_dirty))

        return Lemma(name, "", is_dirty, lambda k: True)

    added = (lemma("false", FALSE), lemma("dirty", None, True), lemma("clean", None, False))
    checker = Checker(checker_of(Configuration("E8", "vhe")).system, lemmas=(*LEMMAS, *added))
    assert checker.check(FALSEHOOD).verdict is Verdict.UNKNOWN
    assert {d.lemma for d in checker.dropped()} == {"false", "dirty", "clean"}


SEVEN = Precondition("seven", "HPMN is 7", initially=lambda s, k: Eq(s.boot_mdcr_el2.HPMN, t.const(7, 5)))
STUCK = Precondition("stuck", "nothing ever happens", allows=lambda step, k: FALSE)


def test_preconditions_that_contradict_each_other_prove_nothing() -> None:
    checker = checker_of(Configuration("E8", "vhe"))
    for each in (FALSEHOOD, CLAIM["os_registers"]):
        result = Checker(checker.system).check(replace(each, given=(CPUS_BOOT_ALIKE, SEVEN)))
        assert result.verdict is Verdict.UNKNOWN
        assert result.reason == "anything would follow: Init and cpus_boot_alike and seven cannot hold together"
    with pytest.raises(VacuousError):
        Invariant(checker.system, LEMMAS, (CPUS_BOOT_ALIKE, SEVEN))


def test_an_init_that_cannot_be_met_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(System, "init", lambda self, pair=(0, 0): FALSE)
    result = Checker(System(E8)).check(CLAIM["os_registers"])
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, "anything would follow: Init cannot hold together")


def test_a_claim_whose_situation_never_occurs_is_reported_as_vacuous() -> None:
    """The engine proves it, as it should; that it says nothing is seen by what the traces cover."""
    checker = checker_of(Configuration("E8", "vhe"))
    never = _claim(lambda s, after, k: FALSE, when=lambda s, k: FALSE)
    stuck = replace(CLAIM["os_registers"], name="in_a_standstill", given=(STUCK,))
    assert checker.invariant().implies(never)
    claims = (never, stuck, CLAIM["os_registers"])
    coverage = cover(checker.replay, checker.book.traces, claims)
    assert coverage.missing(checker.system, claims) == [
        "claim made_up is vacuous: its situation is never reached",
        "claim in_a_standstill is vacuous: its situation is never reached",
    ]


# ---- time-outs


@pytest.mark.usefixtures("nothing_known")
def test_a_solver_that_gives_up_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(self: Z3Solver) -> bool:
        raise SolverTimeoutError("canceled")

    monkeypatch.setattr(Z3Solver, "_check", gives_up)
    result = Checker(System(E8)).check(CLAIM["os_registers"])
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, "the solver gave up: canceled")


@pytest.mark.usefixtures("nothing_known")
@pytest.mark.parametrize("after", [1, 5, 20])
def test_a_solver_that_gives_up_half_way_is_unknown(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Whichever question it is: the first ones are about lemmas."""
    real, asked = Z3Solver._check, [0]

    def gives_up(self: Z3Solver) -> bool:
        asked[0] += 1
        if asked[0] > after:
            raise SolverTimeoutError("timeout")
        return real(self)

    monkeypatch.setattr(Z3Solver, "_check", gives_up)
    assert Checker(System(E8)).check(CLAIM["os_registers"]).verdict is Verdict.UNKNOWN


def test_a_question_that_is_too_hard_is_unknown() -> None:
    """Z3 itself, with a time-out: no two numbers between 2 and 2**32 have this product (it is a prime)."""

    def no_factors(s: State, after: State, k: Kernel) -> Term:
        a, b = s.mdscr_el1.raw, s.hw_mdscr_el1.raw
        small, one, prime = t.const(1 << 32, 64), t.const(1, 64), t.const((1 << 61) - 1, 64)
        factors = t.And(t.ult(one, a), t.ult(a, small), t.ult(one, b), t.ult(b, small))
        return t.Implies(factors, t.Ne(t.bvmul(a, b), prime))

    fast = Checker(System(E8), lemmas=(), timeout=0.05)
    hard = _claim(no_factors, when=lambda s, k: TRUE)
    solver = Z3Solver(shared_terms(), 0.05)
    with pytest.raises(SolverTimeoutError):
        solver.satisfiable(Not(hard.holds(fast.system.state(), E8)))
    assert fast.check(hard).verdict is Verdict.UNKNOWN


# ---- engine against replay


def test_a_counterexample_that_does_not_replay_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(m for m in MUTANTS if m.says == "TDRA is dropped")
    book = checker_of(Configuration("E8", "vhe")).book
    other = book.traces[book.counterexamples["guest_mdscr_preserved"]]
    wrong_trace = replace(other, steps=other.steps[:1])
    checker = Checker(system(one), depth=6)
    monkeypatch.setattr(Checker, "_search", lambda self, c: wrong_trace)
    monkeypatch.setattr(verdict_module, "shrink", lambda trace, shows: trace)
    with pytest.raises(ContradictionError, match="debug_rom: the search found a counterexample that replay does not"):
        checker.check(CLAIM["debug_rom"])


def test_a_claim_that_does_not_apply_has_its_reason() -> None:
    old = EPOCHS["E4"].kernel(Mode.VHE)
    result = Checker(System(old)).check(CLAIM["trace"])
    assert result.verdict is Verdict.NOT_APPLICABLE
    assert "a354a64d91ee" in result.reason


def test_two_state_claims_are_about_their_actors_only() -> None:
    """The host may change what the guest must not."""
    checker = checker_of(Configuration("E8", "vhe"))
    guests = CLAIM["guest_cannot_interfere"]
    assert checker.invariant().implies(guests)
    everyone = replace(guests, actors=frozenset({"the guest", "KVM"}))
    assert not checker.invariant().implies(everyone)
    assert not checker.invariant().keeps(guests), "a two-state claim is no induction hypothesis"


def test_a_claim_about_an_operation_is_about_no_other() -> None:
    """Hyp initialisation may not do what other steps of KVM do."""
    checker = checker_of(Configuration("E8", "vhe"))
    one = CLAIM["init_debug_has_one_task"]
    assert [op.name for op in checker.system.operations if one.is_about(op)] == ["kvm_arm_init_debug"]
    assert checker.invariant().implies(one)
    assert not checker.invariant().implies(replace(one, actors=frozenset({"kvm_arch_vcpu_load"})))


def test_a_claim_needs_a_sentence() -> None:
    with pytest.raises(TypeError, match="silent needs a docstring: one sentence that a reviewer can sign"):

        @claim("nowhere")
        def silent(s: State, k: Kernel) -> Term:
            return TRUE


def test_replay_is_of_the_system_that_is_checked() -> None:
    assert Checker(System(E8)).replay.system.kernel is E8
    assert {n for n, op in BY_NAME.items() if op.exists(E8)} == {op.name for op in Replay(System(E8)).system.operations}


def test_vhe_before_v4_17_keeps_hpmn_where_it_reads_the_boot_value() -> None:
    """As stable series of v4.14 do: no load writes what was computed before, so that nothing else spoils it."""
    kernel = replace(EPOCHS["E2"].kernel(Mode.VHE), vhe_reads_boot_mdcr=True)
    checker = Checker(System(kernel), timeout=60.0)
    names = ("hpmn_preserved_always", "boot_value_read_before_use", "entry_is_fresh", "hpmn_never_reserved")
    assert {name: checker.check(CLAIM[name]).verdict for name in names} == dict.fromkeys(names, Verdict.PROVED)
    late = Checker(System(replace(kernel, vhe_traps_at_load=True)), timeout=60.0)
    assert late.check(CLAIM["hpmn_preserved_always"]).verdict is not Verdict.PROVED
