"""What ``--explain`` says of a claim: each verdict once, why it holds, what would break it."""

from __future__ import annotations

import json
import re

import pytest

from formal.common.places import FORMAL
from formal.epochs import EPOCHS
from formal.matrix.configuration_run import Job, run
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report.claimplaces import line_of
from formal.report.explanation import listed, together
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.scope.manifest import Manifest
from tests.conftest import PROOFS

KERNELS = [Configuration(*c.split()) for c in ("E3a vhe", "E3a2 vhe", "E3b vhe", "E8 vhe", "E8 nvhe", "E8b vhe")]


def explained(name: str) -> list[str]:
    manifest = Manifest.read(PROOFS / "manifest.toml")
    jobs = [Job(c, PROOFS / "traces", dict(manifest.expected(c)), (name,)) for c in KERNELS]
    return [*together([run(job) for job in jobs], [name, f"not {name}"], PROOFS)]


def test_each_verdict_is_said_once_with_its_kernels() -> None:
    text = "\n".join(explained("os_registers"))
    assert text.count("While a guest runs, MDCR_EL2.TDOSA is set.") == 1
    assert re.findall(r"^os_registers \(.*\): \w+$", text, re.M) == [
        "os_registers (E3a to E3b (v4.17 to v5.2) vhe): VIOLATED",
        "os_registers (E8 (v6.1 to v6.3), E8b (v6.4 to v6.13) vhe; E8 (v6.1 to v6.3) nvhe): PROVED",
    ]
    assert text.count("broken after step") == 1


def test_a_proof_is_shown_as_the_book_has_it() -> None:
    lines = explained("os_registers")
    text = " ".join(" ".join(lines).split())
    entry = json.loads((PROOFS / "certificates" / "index.json").read_text())["configurations"]["E8b-vhe"]
    for part in (
        f"here: formal/properties.py:{line_of('os_registers')}",
        "then hw_mdcr_el2.TDOSA",
        "follows from the lemmas value_is_in_hardware, hpmn_is_some_boots; these need",
        "each shown to keep them (",
        "__kvm_vcpu_run enters",
        "Not vacuous: reached in 6 steps: kvm_arm_init_debug; ",
        "Planted faults that break it and others find too: TDOSA is dropped; ",
        "Certificate: proofs/certificates/E8b-vhe.tar.xz",
        f"SHA-256 {entry['archive']}",
    ):
        assert part in text, part
    assert max(map(len, lines)) < 170


def test_faults_that_only_it_finds_and_past_bugs() -> None:
    text = " ".join(" ".join(explained("one_step_one_instruction_if_undisturbed")).split())
    assert "no other claim finds: " in text and "SS never reaches the guest" in text
    assert "Bugs of the past that break it: B6 (" in text
    assert "given no_reset_with_skip_pending: " in text


def test_what_does_not_apply_says_why() -> None:
    lines = explained("guest_hypervisor_never_traps")
    assert "): n/a" in "\n".join(lines[:3]) and len(lines) < 7


@pytest.mark.parametrize("claim", [*CLAIMS, *NON_PROPERTIES], ids=lambda c: c.name)
def test_where_a_claim_stands(claim: object) -> None:
    name = claim.name  # type: ignore[attr-defined]
    lines = (FORMAL / "properties.py").read_text().splitlines()
    assert re.search(rf"\b{name}\b", lines[line_of(name) - 1])


def test_epochs_that_follow_one_another_are_one() -> None:
    assert listed([Configuration("E8", "vhe")]) == "E8 vhe"
    whole = listed(EPOCH_CONFIGURATIONS)
    first, *_, last = EPOCHS.values()
    assert f"{first.name} to {last.name} (v4.3 to v7.3) nvhe" in whole and whole.count(" to E") == 3
    assert listed([Configuration("B3", "vhe"), Configuration("B3", "nvhe")]) == "B3 vhe, B3 nvhe"
