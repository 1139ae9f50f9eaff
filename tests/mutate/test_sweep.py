"""Every edit of the modelled C is told, refused or equivalent: a sample here, all with ``python -m formal.mutate``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from formal.epochs import Mode
from formal.mutate.__main__ import main
from formal.mutate.sweep import Sweep, sample
from tests.kernel.conftest import tree_path

# Edits that change nothing that the specification describes, by what they look like.
EQUIVALENT = {
    r"deleted in \w+: (trace_|kvm_err)|(name|operator|constant|swapped) in \w+: .*trace_": "tracing",
    r"in kvm_arm_clear_debug: (dbg_|0 -> 1)|in kvm_arm_setup_debug: (dbg_|0 -> 1)": "arguments of a tracepoint",
    r"swapped in (trap_debug_regs|reg_to_dbg): ": "two stores that do not touch each other",
    r"in (reg_to_dbg|dbg_to_reg): (&= -> =|\|= -> =|<< -> >>|>> -> <<)": "AArch64 accesses take the whole register",
    r"preempt_(enable|disable)": "the copy of any CPU may be taken; kvm_arm_vcpu_init_debug runs on whatever CPU",
    r"in kvm_arm_setup_debug: && -> \|\|": "under VHE what is loaded is written again",
}


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep(tree_path("6.1"), Mode.VHE) as made:
        yield made


def test_no_edit_of_a_sample_goes_unseen(sweep: Sweep) -> None:
    sites = [s for s in sweep.sites() if s.file.endswith(("/debug.c", "/debug-sr.h", "/handle_exit.c", "/guest.c"))]
    found = list(sweep.run(sample(sites, 14)))
    unseen = [str(site) for site, outcome in found if outcome.kind == "equal"]
    assert [text for text in unseen if not any(re.search(pattern, text) for pattern in EQUIVALENT)] == []
    told = [outcome for _, outcome in found if outcome.kind != "equal"]
    assert len(told) >= len(found) // 2
    assert all(outcome.reason for outcome in told)


def test_the_copy_is_as_before_afterwards(sweep: Sweep) -> None:
    (site,) = sample(sweep.sites(), 1, seed=3)
    before = sweep.tree.read(site.file)
    first, second = sweep.outcome(site), sweep.outcome(site)
    assert first == second
    assert sweep.tree.read(site.file) == before
    assert not (sweep.tree.path / site.file).is_symlink()


def test_the_sample_is_always_the_same() -> None:
    numbers = list(range(100))
    assert sample(numbers, 5) == sample(numbers, 5) == sorted(sample(numbers, 5))  # type: ignore[arg-type, type-var]


def test_what_is_no_tree_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"formal.mutate: {tmp_path}/nowhere: no such directory\n"
