"""What is blamed for a lost claim: the store that is not as described, or the function that lacks one, or a call."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest

from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.traces import Step, Trace
from formal.kernel.compare.behaviours import Resolved
from formal.kernel.source.tree import KVM
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS
from formal.report.blame import blame, distances
from formal.report.servers import junit, ktap, sarif
from formal.report.servers.treeresults import of_tree
from formal.report.tree import errors, explanation, lost
from formal.system import System
from formal.tree.verdicts import TreeReport
from tests.kernel.edited import copy_of

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
    found = blame(report, row)
    assert found is not None and f"{found.place.file}:{found.place.line}" == place


DEBUG, ARM, SYSREG = f"{KVM}/debug.c", f"{KVM}/arm.c", f"{KVM}/hyp/include/hyp/sysreg-sr.h"
# name: release, file, what is replaced and by what, a claim that is lost, the function at fault, and one named besides
EDITS: dict[str, tuple[str, str, str, str, str, str, str]] = {
    "a bit not set": (
        "6.1", DEBUG, "MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA)", "MDCR_EL2_TDRA)",
        "os_registers", "kvm_arm_setup_mdcr_el2", "kvm_arm_setup_debug"),
    "a call left out": (
        "6.1", ARM, "\t\tkvm_arm_setup_debug(vcpu);\n", "",
        "host_takes_debug_exceptions", "kvm_arch_vcpu_ioctl_run", "kvm_arm_setup_debug"),
    "a value not written back": (
        "6.1", DEBUG, "\tvcpu_write_sys_reg(vcpu, val, MDSCR_EL1);\n", "",
        "guest_mdscr_preserved_in_32_bits", "restore_guest_debug_regs", "kvm_arm_clear_debug"),
    "a changed value not stored": (
        "6.1", DEBUG, "mdscr |= DBG_MDSCR_MDE;\n\t\t\tvcpu_write_sys_reg(vcpu, mdscr, MDSCR_EL1);\n", "",
        "host_breakpoints_armed", "kvm_arm_setup_debug", ""),
    "a bit not set, later": (
        "7.3", DEBUG, "MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA)", "MDCR_EL2_TDRA)",
        "os_registers", "kvm_arm_setup_mdcr_el2", "kvm_vcpu_load_debug"),
    "a call left out, later": (
        "7.3", ARM, "\tkvm_vcpu_load_debug(vcpu);\n", "",
        "owner_has_the_registers", "kvm_arch_vcpu_load", ""),
    "a value not stored, later": (
        "7.3", DEBUG, "\tvcpu->arch.external_mdscr_el1 = mdscr;\n", "",
        "step_armed", "setup_external_mdscr", "kvm_vcpu_load_debug"),
    "a store that two functions share": (
        "7.3", SYSREG, "\twrite_sysreg(*ctxt_mdscr_el1(ctxt),  mdscr_el1);\n", "",
        "host_mdscr_restored", "sysreg_restore_host_state_vhe", "sysreg_restore_guest_state_vhe"),
}  # fmt: skip


# where there is a store that would set what is lost, or sets what is not to be: that store
STORES = {
    "a bit not set": "vcpu->arch.mdcr_el2 |= (MDCR_EL2_TPM |",
    "a bit not set, later": "vcpu->arch.mdcr_el2 |= (MDCR_EL2_TPM |",
    "a changed value not stored": "vcpu_write_sys_reg(vcpu, mdscr, MDSCR_EL1);",
}


@pytest.mark.parametrize("name", EDITS)
def test_every_format_names_the_function_at_fault(name: str) -> None:
    version, file, old, new, claim, at_fault, besides = EDITS[name]
    copy = copy_of(version)
    with copy.edited(file, {old: new}):
        report = copy.read(Mode.VHE, (claim,))
        found = lost([report])
        assert [row.check for _, row in found] == [claim]
        place = re.match(r"(.+):(\d+): error: (\w+) \(vhe\): ", errors(found)[0])
        assert place and place[3] == claim and (place[1] == file or file == SYSREG)
        file = place[1]
        lines = (copy.tree.path / file).read_text().splitlines()
    assert STORES.get(name, f"{at_fault}(") in lines[int(place[2]) - 1]
    suites = of_tree([report])
    (result,) = json.loads(sarif.text(suites, 1))["runs"][0]["results"]
    physical = result["locations"][0]["physicalLocation"]
    assert (physical["artifactLocation"]["uri"], physical["region"]["startLine"]) == (file, int(place[2]))
    assert result["locations"][0]["message"]["text"].startswith((f"{at_fault}() ", "not so here: "))
    related = [f"{one['message']['text']}" for one in result.get("relatedLocations", ())]
    assert not besides or any(text.startswith(f"{besides}()") for text in related), related
    text = next(ET.fromstring(junit.text(suites)).iter("failure")).text or ""
    assert text.startswith(f"{file}:{place[2]}: ")
    assert f"#   {file}:{place[2]}: " in ktap.text(suites)
    assert f"{file}:{place[2]}: " in "\n".join(explanation(*found[0]))
