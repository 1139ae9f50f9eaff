"""Which function is blamed for a lost claim, where several differ: the one next to what the claim reads."""

from __future__ import annotations

import pytest

from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.traces import Step, Trace
from formal.kernel.compare.behaviours import Resolved
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS
from formal.report.tree import _blamed, distances
from formal.system import System
from formal.tree.verdicts import TreeReport

CLAIM = {claim.name: claim for claim in CLAIMS}


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE], ids=str)
@pytest.mark.parametrize(
    ("claim", "nearer", "farther"),
    [
        ("os_registers", "mdcr_el2", "pstate"),
        ("guest_mdscr_preserved", "mdscr_el1", "mdcr_el2"),
        ("guest_pstate_ss_preserved", "pstate", "mdcr_el2"),
        ("host_mdcr_restored", "hw_mdcr_el2", "mdscr_el1"),
    ],
)
def test_what_a_claim_reads_is_nearest(mode: Mode, claim: str, nearer: str, farther: str) -> None:
    found = distances(System(EPOCHS["E8"].kernel(mode)), CLAIM[claim])
    assert found[nearer] < found.get(farther, len(found)), found


@pytest.mark.parametrize(
    ("taken", "place"),
    [("kvm_arch_vcpu_ioctl_run returns", "arm.c:2"), ("kvm_reset_vcpu", "reset.c:1"), ("x", "reset.c:1")],
)
def test_of_what_is_missing_the_run_goes_by_one(taken: str, place: str) -> None:
    """Not by what would come after it."""
    lacking = {"reset.c:1: not so: a": "kvm_reset_vcpu", "arm.c:2: not so: b": "kvm_arch_vcpu_ioctl_run returns"}
    kernel = EPOCHS["E5"].kernel(Mode.VHE)
    report = TreeReport(mode=Mode.VHE, resolved=Resolved(kernel, EPOCHS["E5"], ()), lacking=lacking)
    steps = (Step(taken, 0, 0, {}), Step("kvm_reset_vcpu", 0, 0, {}))
    row = Row("c", "c", "E5", "vhe", "VIOLATED", "PROVED", "-", 0.0, (), "", Trace({}, steps), 1)
    assert _blamed(report, row) == place
