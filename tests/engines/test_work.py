"""Verdicts depend on what is asked: not on how long it takes, and not on what was asked before."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count, product

import pytest

from formal.engines.bmc import Search, taking
from formal.engines.verdict import Checker, Verdict
from formal.engines.z3backend import SolverTimeoutError, Z3Solver, Z3Terms
from formal.logic import terms as t
from formal.matrix.configuration_run import Row
from formal.tree.patch import ClaimChange
from formal.tree.rank import better, worse
from tests.engines.mutants import CLAIM, MUTANTS, system

FAULT = next(m for m in MUTANTS if m.says == "TDRA is dropped")
PRIME = t.const((1 << 61) - 1, 64)


def hard(timeout: float) -> Z3Solver:
    """A solver with a question that takes very long: no two numbers below 2**32 have this product."""
    solver, a, b = Z3Solver(Z3Terms(), timeout), t.var("a", 64), t.var("b", 64)
    solver.add(*(t.ult(t.const(1, 64), n) for n in (a, b)), *(t.ult(n, t.const(1 << 32, 64)) for n in (a, b)))
    solver.add(t.Eq(t.bvmul(a, b), PRIME))
    return solver


@pytest.mark.parametrize("timeout", [0.01, 0.05])
def test_a_question_is_given_up_after_so_much_work(timeout: float) -> None:
    """However long that takes: Z3 counts its steps."""
    solver = hard(timeout)
    since = solver.worked()
    with pytest.raises(SolverTimeoutError, match=f"more than {timeout:g} seconds' work"):
        solver.satisfiable()
    assert timeout <= solver.worked() - since < timeout + 0.01


@pytest.mark.parametrize("tick", [0.0, 1e9])
def test_no_verdict_depends_on_the_clock(tick: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still, or is years further each time that it is read."""
    for clock in ("perf_counter", "monotonic", "time", "process_time"):
        monkeypatch.setattr(time, clock, (n * tick for n in count()).__next__)
    checker = Checker(system(FAULT), timeout=20.0, depth=6, budget=5.0)
    found = checker.check(CLAIM["debug_rom"])
    assert (found.verdict, found.engine) == (Verdict.VIOLATED, "BMC")
    assert checker.check(CLAIM["os_registers"]).verdict is Verdict.PROVED


def test_searches_for_a_claim_end_after_so_much_work() -> None:
    spent = Checker(system(FAULT), depth=6, budget=0.0).check(CLAIM["debug_rom"])
    assert spent.verdict is Verdict.UNKNOWN
    assert "no counterexample found with 0 seconds' work" in spent.reason


def test_what_one_claim_takes_no_other_lacks() -> None:
    """Each has its own budget; asked alone or after others, a claim gets the same verdict."""
    names = ("os_registers", "debug_rom", "trace")
    alone = {n: Checker(system(FAULT), depth=6, budget=5.0).check(CLAIM[n]).verdict for n in names}
    assert Verdict.VIOLATED in alone.values()
    for order in (names, names[::-1]):
        together = Checker(system(FAULT), depth=6, budget=5.0)
        assert {n: together.check(CLAIM[n]).verdict for n in order} == alone


def test_a_search_finds_the_shortest_run_whatever_was_asked_before() -> None:
    goal, fresh, used = taking("__kvm_vcpu_run enters"), Search(system(FAULT), cpus=1), Search(system(FAULT), cpus=1)
    assert used.find(taking("no such operation"), 4) is None
    alone, after = fresh.find(goal, 4), used.find(goal, 4)
    assert alone is not None and after is not None
    assert 0 < fresh.depth < used.depth
    assert used.find(goal, fresh.depth - 1) is None
    assert used.find(goal, 4, fresh.depth) is not None


ROW = Row("c", "c", "E8", "vhe", "PROVED", "PROVED", "", 0.0, (), "", None, None)


def test_what_is_not_decided_is_never_better() -> None:
    verdicts = ("PROVED", "VIOLATED", "UNKNOWN", "n/a")
    won = {(b, a) for b, a in product(verdicts, verdicts) if ClaimChange("c", "vhe", b, a).better}
    assert won == {("VIOLATED", "PROVED"), ("UNKNOWN", "PROVED")}
    assert won == {(b, a) for b, a in product(verdicts, verdicts) if better(replace(ROW, expected=b, verdict=a))}
    lost = {(b, a) for b, a in product(verdicts, verdicts) if worse(replace(ROW, expected=b, verdict=a))}
    assert lost >= {("PROVED", "UNKNOWN"), ("PROVED", "VIOLATED"), ("n/a", "UNKNOWN"), ("UNKNOWN", "VIOLATED")}
    assert not lost & won
