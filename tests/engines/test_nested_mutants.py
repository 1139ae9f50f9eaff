"""Faults in nested virtualization (v6.18) are found, and each claim about it has one that kills it."""

from __future__ import annotations

import pytest

from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.traces import TraceBook
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from tests.conftest import checker_of
from tests.engines.mutants import Mutant, check_fault, check_harmless
from tests.engines.nested_mutants import BOOK, HARMLESS_OF_NESTED, NESTED_MUTANTS

E13 = EPOCHS["E13"].kernel(Mode.VHE)


@pytest.fixture(scope="module")
def book() -> TraceBook:
    """The counterexamples of the mutants."""
    return TraceBook.read(BOOK)


@pytest.mark.parametrize("one", NESTED_MUTANTS, ids=lambda m: m.says)
def test_a_fault_breaks_its_claims(one: Mutant, book: TraceBook) -> None:
    check_fault(one, book, checker_of(Configuration(one.epoch, one.mode)))


@pytest.mark.parametrize("one", HARMLESS_OF_NESTED, ids=lambda m: m.says)
def test_what_is_harmless_stays_proved(one: Mutant) -> None:
    check_harmless(one, checker_of(Configuration(one.epoch, one.mode)))


def test_every_claim_about_guest_hypervisors_is_killed_by_some_fault() -> None:
    alone = E13.but(nested_virtualization=False)
    brought = {c.name for c in CLAIMS if c.applies(alone) is not None and c.applies(E13) is None}
    killed = {name for one in NESTED_MUTANTS for name in one.breaks}
    assert len(brought) >= 8
    assert brought <= killed, f"no fault breaks {sorted(brought - killed)}"
