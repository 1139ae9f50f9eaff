"""Faults in nested virtualization (v6.18) are found, and each claim about it has one that kills it."""

from __future__ import annotations

import pytest

from formal.configuration import Configuration
from formal.engines.verdict import Checker, Verdict
from formal.epochs import EPOCHS, Mode
from formal.evidence.traces import TraceBook
from formal.properties import CLAIMS
from tests.conftest import checker_of
from tests.engines.mutants import CLAIM, Mutant, check_breaks, system
from tests.engines.nested_mutants import BOOK, HARMLESS_OF_NESTED, NESTED_MUTANTS

E10, E11 = (EPOCHS[name].kernel(Mode.VHE) for name in ("E10", "E11"))


@pytest.fixture(scope="module")
def book() -> TraceBook:
    """The counterexamples of the mutants."""
    return TraceBook.read(BOOK)


@pytest.mark.parametrize("one", NESTED_MUTANTS, ids=lambda m: m.says)
def test_a_fault_breaks_its_claims(one: Mutant, book: TraceBook) -> None:
    """They are proved without the fault, not with it, and the stored run breaks them with the fault only."""
    checker, fixed = Checker(system(one), book), checker_of(Configuration(one.epoch, one.mode))
    for name in one.breaks:
        broken = CLAIM[name]
        assert fixed.invariant(broken.given).implies(broken) or fixed.invariant(broken.given).keeps(broken)
        check_breaks(one, name, checker, fixed)


@pytest.mark.parametrize("one", HARMLESS_OF_NESTED, ids=lambda m: m.says)
def test_what_is_harmless_stays_proved(one: Mutant) -> None:
    checker, fixed = Checker(system(one)), checker_of(Configuration(one.epoch, one.mode))
    for each in CLAIMS:
        if not each.applies(E11) and fixed.invariant(each.given).implies(each):
            assert checker.check(each).verdict is Verdict.PROVED, each.name


def test_every_claim_about_guest_hypervisors_is_killed_by_some_fault() -> None:
    brought = {c.name for c in CLAIMS if c.applies(E10) is not None and c.applies(E11) is None}
    killed = {name for one in NESTED_MUTANTS for name in one.breaks}
    assert len(brought) >= 8
    assert brought <= killed, f"no fault breaks {sorted(brought - killed)}"
