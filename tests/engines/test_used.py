"""What a proof goes by is a proof by itself, and none of it can be spared."""

from __future__ import annotations

import pytest

from formal.engines.induction import Invariant
from formal.engines.used import used
from formal.engines.verdict import Checker
from formal.epochs import EPOCHS, Mode
from formal.lemmas import LEMMAS
from formal.properties import CLAIMS
from formal.system import System

CLAIM = {claim.name: claim for claim in CLAIMS}
CASES = [
    ("E8", Mode.VHE, "os_registers"),
    ("E8", Mode.VHE, "mdscr_copied_before_modified"),  # about a step
    ("E8", Mode.VHE, "guest_pstate_ss_preserved_if_one_steps_unlocked"),  # under preconditions
    ("E0", Mode.NVHE, "hpmn_never_reserved"),  # its own induction hypothesis
    ("E13", Mode.VHE, "entry_is_fresh"),
]


@pytest.mark.parametrize(("epoch", "mode", "name"), CASES)
def test_it_proves_the_claim_and_cannot_be_spared(epoch: str, mode: Mode, name: str) -> None:
    system, claim = System(EPOCHS[epoch].kernel(mode)), CLAIM[name]
    found = used(Checker(system).invariant(claim.given), claim)
    assert found is not None
    names = {*found.direct, *found.others}
    alone = Invariant(system, [m for m in LEMMAS if m.name in names], claim.given)
    assert not alone.dropped and {m.name for m in alone.all_lemmas()} == names
    assert alone.keeps(claim) if found.kept else alone.implies(claim)
    for lemma in found.direct:
        less = Invariant(system, [m for m in LEMMAS if m.name in names - {lemma}], claim.given, assumed=True)
        assert not (less.keeps(claim) if found.kept else less.implies(claim)), f"{lemma} is not needed"
    assert set(found.operations) <= {op.name for op in system.operations}


def test_the_operations_are_those_that_could_break_it() -> None:
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    found = used(Checker(system).invariant(), CLAIM["os_registers"])
    assert found is not None and "kvm_arm_setup_debug" in found.operations
    assert "the host writes its debug registers" not in found.operations


def test_what_is_not_proved_has_no_proof() -> None:
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    assert used(Checker(system).invariant(), CLAIM["hpmn_preserved_always"]) is None
