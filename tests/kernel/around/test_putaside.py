"""What the world switch puts aside of registers that are not modelled: what is lost, or goes on, is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from formal.engines.equality import Questions
from formal.epochs import Kernel
from formal.kernel.around import putaside
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of

SWITCH, BUFFERS, BANKS = (
    f"{KVM}/hyp/{name}" for name in ("nvhe/switch.c", "nvhe/debug-sr.c", "include/hyp/debug-sr.h")
)
_STOPPED, _FOUND, _OWN = "is not in the register while the guest runs", "the host finds {}", "the guest's {} is loaded"
_READ, _WRITE = "\tctxt_sys_reg(ctxt, MDCCINT_EL1) = read_sysreg(mdccint_el1);\n", (
    "\twrite_sysreg(ctxt_sys_reg(ctxt, MDCCINT_EL1), mdccint_el1);\n")  # fmt: skip
_PMSCR, _SPE = "\twrite_sysreg_el1(0, SYS_PMSCR);\n", "\twrite_sysreg_s(0, SYS_PMSCR_EL1);\n"
# name: trees, whether under VHE, file, what is replaced by what, what is said (nothing of what is harmless)
EDITS: dict[str, tuple[str, bool, str, dict[str, str], str]] = {
    "MDCCINT_EL1 is not kept": ("6.1 7.3", True, BANKS, {_READ: ""}, _OWN.format("MDCCINT_EL1")),
    "MDCCINT_EL1 is not loaded": ("6.1 7.3", False, BANKS, {_WRITE: ""}, _OWN.format("MDCCINT_EL1")),
    "the host's context for the guest's": ("7.3", True, BANKS, {
        "(guest_dbg, guest_ctxt);\n\t__debug_restore_state(host_dbg, host_ctxt);":
        "(guest_dbg, host_ctxt);\n\t__debug_restore_state(host_dbg, guest_ctxt);"}, _FOUND.format("MDCCINT_EL1")),
    "samples go on": ("7.3", False, BUFFERS, {_PMSCR: ""}, f"PMSCR_EL1, which is put aside, {_STOPPED}"),
    "samples go on, before": ("6.1", False, BUFFERS, {_SPE: ""}, f"PMSCR_EL1, which is put aside, {_STOPPED}"),
    "the buffer stays on": ("7.3", False, BUFFERS, {"\twrite_sysreg_s(0, SYS_PMBLIMITR_EL1);\n": ""},
                            f"PMBLIMITR_EL1, which is put aside, {_STOPPED}"),
    "no samples afterwards": ("7.3", False, BUFFERS, {
        "\twrite_sysreg_el1(*host_data_ptr(host_debug_state.pmscr_el1), SYS_PMSCR);\n": ""},
        _FOUND.format("PMSCR_EL1")),
    "the trace filters exchanged": ("7.3", False, BUFFERS, {
        "(host_data_ptr(host_debug_state.trfcr_el1),\n\t\t\t  *host_data_ptr(trfcr_while_in_guest));":
        "(host_data_ptr(trfcr_while_in_guest),\n\t\t\t  *host_data_ptr(host_debug_state.trfcr_el1));"},
        _FOUND.format("TRFCR_EL1")),
    "branch records are only restored": ("7.3", False, BUFFERS, {"\t\t__debug_save_brbe();\n": "\t\t;\n"},
                                         _FOUND.format("BRBCR_EL1")),
    "put aside too late": ("6.1", False, SWITCH, {"\t__debug_save_host_buffers_nvhe(vcpu);\n": ""},
                           "calls __debug_save_host_buffers_nvhe()"),
    "a register that is not known": ("6.1 7.3", False, BUFFERS, {
        "void __debug_switch_to_guest(struct kvm_vcpu *vcpu)\n{\n":
        "void __debug_switch_to_guest(struct kvm_vcpu *vcpu)\n{\n\twrite_sysreg(0, amuserenr_el0);\n"},
        _FOUND.format("AMUSERENR_EL0")),
    "SPE only where another level has it": ("7.3", False, DEBUG_C, {
        "!(read_sysreg_s(SYS_PMBIDR_EL1) & PMBIDR_EL1_P)": "(read_sysreg_s(SYS_PMBIDR_EL1) & PMBIDR_EL1_P)"},
        "SPE is stopped where the CPU has it"),
    "SPE wherever it is": ("7.3", False, DEBUG_C, {
        " &&\n\t       !(read_sysreg_s(SYS_PMBIDR_EL1) & PMBIDR_EL1_P)": ""},
        "SPE is left alone where the CPU does not have it"),
    "branch records by another field": ("7.3", False, DEBUG_C, {
        "dfr0, ID_AA64DFR0_EL1_BRBE_SHIFT": "dfr0, ID_AA64DFR0_EL1_TraceFilt_SHIFT"}, "BRBE is stopped"),
    "the trace is not asked for": ("6.1", False, DEBUG_C, {"\t\tvcpu_set_flag(vcpu, DEBUG_STATE_SAVE_TRBE);": "\t\t;"},
                                   "TRBE is stopped where the CPU has it"),
    "SPE is left as it was at reset": ("7.3", True, DEBUG_C, {
        "\t\twrite_sysreg_el1(0, SYS_PMSCR);": "\t\t;"}, "clears PMSCR_EL1 where the CPU has SPE"),
    "SPE is reset wherever": ("7.3", True, DEBUG_C, {
        "\tif (host_data_test_flag(HAS_SPE))\n\t\twrite_sysreg_el1(0, SYS_PMSCR);":
        "\twrite_sysreg_el1(0, SYS_PMSCR);"},
        "clears PMSCR_EL1 where the CPU has SPE"),
    # harmless
    "SPE asked for the other way round": ("7.3", False, DEBUG_C, {
        "\treturn cpuid_feature_extract_unsigned_field(dfr0, ID_AA64DFR0_EL1_PMSVer_SHIFT) &&\n"
        "\t       !(read_sysreg_s(SYS_PMBIDR_EL1) & PMBIDR_EL1_P);":
        "\tif (!SYS_FIELD_GET(ID_AA64DFR0_EL1, PMSVer, dfr0))\n\t\treturn 0;\n"
        "\treturn !FIELD_GET(PMBIDR_EL1_P, read_sysreg_s(SYS_PMBIDR_EL1));"}, ""),
    "in a local": ("7.3", False, BUFFERS, {
        "\t*saved_trfcr = read_sysreg_el1(SYS_TRFCR);\n":
        "\tu64 before = read_sysreg_el1(SYS_TRFCR);\n\n\t*saved_trfcr = before;\n"}, ""),
    "switched back first": ("7.3", False, BUFFERS, {
        "\tif (host_data_test_flag(HAS_SPE))\n\t\t__debug_restore_spe();\n\tif (host_data_test_flag(HAS_BRBE))\n"
        "\t\t__debug_restore_brbe();\n":
        "\tif (host_data_test_flag(HAS_BRBE))\n\t\t__debug_restore_brbe();\n\tif (host_data_test_flag(HAS_SPE))\n"
        "\t\t__debug_restore_spe();\n"}, ""),
}  # fmt: skip


def broken(version: str, vhe: bool) -> list[str]:
    """The rules that do not hold of a tree, and what is not looked at."""
    program, ask = copy_of(version).program, Questions(60.0)
    found = [*putaside.rules(program, cast(Kernel, SimpleNamespace(vhe=vhe)))]
    assert len(found) >= 2
    assert all(rule.of is None for rule in found)
    unread = putaside.assumed(program, "vhe" if vhe else "nvhe")
    return [*(rule.says for rule in found if ask.differing([(rule.says, rule.holds)])), *unread]


@pytest.mark.parametrize("version", ["5.10", "6.1", "6.12", "7.3"])
def test_trees(version: str) -> None:
    """The trees give both sides their own back."""
    assert [what for vhe in (True, False) for what in broken(version, vhe)] == []


@pytest.mark.parametrize(("version", "edit"), [(v, e) for e, (vs, *_) in EDITS.items() for v in vs.split()])
def test_edits(version: str, edit: str) -> None:
    """What is lost is told, another way to do the same is not."""
    _, vhe, file, edits, said = EDITS[edit]
    with copy_of(version).edited(file, edits):
        found = broken(version, vhe)
    assert any(said in what for what in found) if said else not found, found
