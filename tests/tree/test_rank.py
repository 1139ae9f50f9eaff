"""What is expected of a tree that is none of the presets: as in its own, but for what it has of later releases."""

from __future__ import annotations

import pytest

from formal.epochs import EPOCHS, Mode
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.tree.rank import expected
from tests.conftest import PROOFS

MANIFEST = Manifest.read(PROOFS / "manifest.toml")
LATER = {"defers_pc_adjustment": True, "saves_host_mdcr": True, "mdcr_el2_bits": 64}  # of v5.15, in a tree of v5.10.y


def of(epoch: str, mode: str) -> dict[str, str]:
    return dict(MANIFEST.expected(Configuration(epoch, mode)))


@pytest.mark.parametrize("mode", ["vhe", "nvhe"])
def test_a_claim_that_only_a_backport_makes_apply_is_expected_to_be_as_there(mode: str) -> None:
    preset = EPOCHS["E4s"]
    found, own, later = (
        expected(MANIFEST, preset, preset.kernel(Mode(mode)).but(**LATER)),
        of("E4s", mode),
        of("E6", mode),
    )
    name = "one_step_one_instruction_if_undisturbed"
    assert own[name] == "n/a" and later[name] == found[name] == "VIOLATED"
    assert all(found[check] == verdict for check, verdict in own.items() if verdict != "n/a")


@pytest.mark.parametrize("mode", ["vhe", "nvhe"])
@pytest.mark.parametrize(
    "changed", [{}, {"keeps_step_pending": False}, {"emulates_os_lock": False, "keeps_hpmn": False}]
)
def test_what_a_tree_has_lost_excuses_nothing(mode: str, changed: dict[str, bool]) -> None:
    """No preset after its own lacks it; what an earlier one is like is not asked."""
    preset = EPOCHS["E8"]
    assert expected(MANIFEST, preset, preset.kernel(Mode(mode)).but(**changed)) == of("E8", mode)
