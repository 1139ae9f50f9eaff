"""What a tree's report says beside its verdicts."""

from __future__ import annotations

import pytest

from formal.epochs import EPOCHS, Mode
from formal.kernel.compare.behaviours import Resolved
from formal.matrix.configuration_run import Row
from formal.report.tree import known
from formal.tree.verdicts import TreeReport


def report(epoch: str, mode: Mode, *violated: str) -> TreeReport:
    """A tree that is as a preset, with these claims violated as expected and the others proved."""
    verdicts = {"os_registers": "PROVED", **dict.fromkeys(violated, "VIOLATED")}
    rows = [Row(name, name, epoch, mode.value, verdict, verdict, "", 0.0) for name, verdict in verdicts.items()]
    return TreeReport(mode, Resolved(EPOCHS[epoch].kernel(mode), EPOCHS[epoch], ()), rows=rows)


@pytest.mark.parametrize(
    ("epoch", "mode", "claim", "name", "fix"),
    [
        ("E3b", Mode.VHE, "host_takes_debug_exceptions", "B1", "4942dc6638b0 (v5.6)"),
        ("E9", Mode.VHE, "host_mdcr_restored", "B15", "da2e743419cb (v6.17)"),
        ("E11", Mode.VHE, "hypervisor_gets_what_it_traps", "watchpoint15", "v7.0"),
        ("E11", Mode.NVHE, "hpmn_never_reserved", "pmuver", "v7.1"),
    ],
)
def test_a_bug_that_a_release_is_known_to_have_is_named(
    epoch: str, mode: Mode, claim: str, name: str, fix: str
) -> None:
    """Its verdict is as expected, so that nothing else speaks of it."""
    [line] = known([report(epoch, mode, claim)])
    assert line.startswith(f"known bug ({mode.value}) {name}: ") and f"Mended: {fix}" in line
    assert line.endswith(f"VIOLATED: {claim}")


def test_it_is_not_named_where_the_claim_holds_or_the_release_has_the_fix() -> None:
    assert known([report("E11", Mode.VHE)]) == []
    assert known([report("E13", Mode.VHE, "hypervisor_gets_what_it_traps", "hpmn_never_reserved")]) == []


def test_what_no_release_has_mended_is_no_known_bug() -> None:
    assert known([report("E13", Mode.VHE, "guest_pstate_ss_preserved", "mdscr_trapped")]) == []


def test_modes_that_share_a_bug_share_the_line() -> None:
    both = [report("E12", mode, "one_step_one_instruction") for mode in (Mode.VHE, Mode.NVHE)]
    assert known(both) == []
    both = [report("E11", mode, "hpmn_never_reserved") for mode in (Mode.VHE, Mode.NVHE)]
    [line] = known(both)
    assert line.startswith("known bug (vhe, nvhe) pmuver: ")


def test_a_bug_that_a_rule_tells_is_named() -> None:
    both = [report("E8", mode) for mode in (Mode.VHE, Mode.NVHE)]
    both[0].lacking["arm.c:698: not so: kvm_arch_vcpu_ioctl_run() commits a pending adjustment of the PC"] = "skip"
    [line] = known(both)
    assert line.startswith("known bug (vhe) T3: ") and "Mended: 26778aaa134a (v5.13)" in line
