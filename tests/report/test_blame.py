"""Which function is blamed for a lost claim, where several differ: the one next to what the claim reads."""

from __future__ import annotations

import pytest

from formal.epochs import EPOCHS, Mode
from formal.properties import CLAIMS
from formal.report.tree import distances
from formal.system import System

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
