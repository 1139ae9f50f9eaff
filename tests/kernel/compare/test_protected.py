"""Protected mode of a tree (v7.3): what EL2 is handed over and gives back, told from edits of it."""

from __future__ import annotations

import re

import pytest

from formal.epochs import Mode
from formal.kernel.compare.protected import HYP_MAIN
from tests.kernel.edited import Copy, copy_of

_HOST, _COPY = "host_vcpu->arch.", "hyp_vcpu->vcpu.arch."
_OWNER = f"\t{_COPY}debug_owner = {_HOST}debug_owner;\n"
_MDCR = f"\t{_COPY}mdcr_el2\t= {_HOST}mdcr_el2;\n"
_MDSCR = f"\t\t{_COPY}external_mdscr_el1 = {_HOST}external_mdscr_el1;\n"
_GUESTS = f"\t\t{_COPY}vcpu_debug_state = {_HOST}vcpu_debug_state;\n"
_USERS = f"\t\t{_COPY}external_debug_state = {_HOST}external_debug_state;\n"
_FLAGS = f"\t{_COPY}iflags\t= {_HOST}iflags;\n"
_GUESTS_BACK = f"\t\t{_HOST}vcpu_debug_state = {_COPY}vcpu_debug_state;\n"
_FLUSH, _RUN, _SYNC = (
    "\t\tflush_hyp_vcpu(hyp_vcpu);\n",
    "__kvm_vcpu_run(&hyp_vcpu->vcpu)",
    "\t\tsync_hyp_vcpu(hyp_vcpu);\n",
)
# name: what is replaced by what, the claim that is lost
BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "MDCR_EL2 not handed over": ({_MDCR: ""}, "os_registers"),
    "MDCR_EL2 without a trap": (
        {_MDCR: f"\t{_COPY}mdcr_el2 = {_HOST}mdcr_el2 & ~MDCR_EL2_TDOSA;\n"}, "os_registers"),
    "MDCR_EL2 with the profiling buffer": (
        {_MDCR: f"\t{_COPY}mdcr_el2 = {_HOST}mdcr_el2 | (3UL << MDCR_EL2_E2PB_SHIFT);\n"}, "profiling"),
    "the owner not handed over": ({_OWNER: ""}, "copy_at_el2_has_the_owner"),
    "nobody is the owner": (
        {_OWNER: f"\t{_COPY}debug_owner = VCPU_DEBUG_FREE;\n"}, "copy_at_el2_has_the_owner"),
    "the guest is the owner instead of KVM": (
        {_OWNER: f"{_OWNER}\tif ({_HOST}debug_owner == VCPU_DEBUG_HOST_OWNED)\n"
                 f"\t\t{_COPY}debug_owner = VCPU_DEBUG_GUEST_OWNED;\n"}, "copy_at_el2_has_the_owner"),
    "MDSCR_EL1 not handed over": ({_MDSCR: ""}, "copy_at_el2_has_external_mdscr"),
    "MDSCR_EL1 handed over for the other owner": (
        {_MDSCR: "", _GUESTS: f"{_GUESTS}{_MDSCR}"}, "copy_at_el2_has_external_mdscr"),
    "MDSCR_EL1 without the step": (
        {_MDSCR: f"\t\t{_COPY}external_mdscr_el1 = {_HOST}external_mdscr_el1 & ~MDSCR_EL1_SS;\n"},
        "copy_at_el2_has_external_mdscr"),
}  # fmt: skip
# name: what is replaced by what, the function that differs or the rule that is broken
DIFFERENT: dict[str, tuple[dict[str, str], str]] = {
    "the guest's registers not handed over": (
        {_GUESTS: "\t\t;\n"}, "flush_debug_state() hands over vcpu_debug_state"),
    "user space's registers from the guest's": (
        {_USERS: f"\t\t{_COPY}external_debug_state = {_HOST}vcpu_debug_state;\n"},
        "flush_debug_state() hands over external_debug_state"),
    "the guest's registers not given back": (
        {_GUESTS_BACK: "\t\t;\n"}, "sync_debug_state() hands over vcpu_debug_state"),
    "debug state not flushed": ({"\tflush_debug_state(hyp_vcpu);\n": ""}, "flush_hyp_vcpu() calls flush_debug_state"),
    "debug state synchronised for protected guests only": (
        {"\tsync_debug_state(hyp_vcpu);\n": "\tif (pkvm_hyp_vcpu_is_protected(hyp_vcpu))\n"
         "\t\tsync_debug_state(hyp_vcpu);\n"}, "sync_hyp_vcpu() calls sync_debug_state"),
    "pending flags not handed over": ({_FLAGS: ""}, "flush_hyp_vcpu() always copies arch.iflags"),
    "pending flags kept by the host": (
        {f"\t{_HOST}iflags\t\t= {_COPY}iflags;\n": ""}, "sync_hyp_vcpu() always copies arch.iflags"),
    "PSTATE kept by the host": (
        {f"\t\t{_HOST}ctxt.regs.pstate = {_COPY}ctxt.regs.pstate;\n": ""}, "sync_hyp_vcpu() always gives PSTATE back"),
    "the owner given back": (
        {"\tsync_debug_state(hyp_vcpu);\n":
         f"\tsync_debug_state(hyp_vcpu);\n\t{_HOST}debug_owner = {_COPY}debug_owner;\n"},
        "sync_hyp_vcpu() stores to hyp_vcpu->host_vcpu->arch.debug_owner"),
    "flushed after the run": ({_FLUSH: "", _SYNC: f"{_FLUSH}{_SYNC}"}, "handle___kvm_vcpu_run() calls"),
    "not synchronised": ({_SYNC: ""}, "handle___kvm_vcpu_run() calls"),
    "the host's vCPU run in place of the copy": (
        {_RUN: "__kvm_vcpu_run(host_vcpu)"}, "__kvm_vcpu_run() is called with EL2's copy"),
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "the traps of protected guests kept": (
        {_MDCR: f"\tif (!pkvm_hyp_vcpu_is_protected(hyp_vcpu))\n\t{_MDCR}"}, "which is not modelled"),
    "MDCR_EL2 from elsewhere": ({_MDCR: f"\t{_COPY}mdcr_el2 = {_HOST}hcr_el2;\n"}, "depends on"),
    "MDCR_EL2 changed when EL2 loads the copy": (
        {"\tif (pkvm_hyp_vcpu_is_protected(hyp_vcpu)) {\n\t\t/* Propagate":
         f"\t{_COPY}mdcr_el2 = 0;\n\tif (pkvm_hyp_vcpu_is_protected(hyp_vcpu)) {{\n\t\t/* Propagate"},
        "handle___pkvm_vcpu_load"),
}  # fmt: skip
HARMLESS: dict[str, dict[str, str]] = {
    "MDCR_EL2 by a variable": {_MDCR: f"\thost_mdcr = {_HOST}mdcr_el2;\n\t{_COPY}mdcr_el2 = host_mdcr;\n",
                               "\tu64 host_hcr_mask = PKVM_HCR_EL2_HOST_PVM;\n":
                               "\tu64 host_hcr_mask = PKVM_HCR_EL2_HOST_PVM, host_mdcr;\n"},
    "MDCR_EL2 first": {_MDCR: "", "\tfpsimd_sve_flush();\n": f"{_MDCR}\tfpsimd_sve_flush();\n"},
    "the owner by the host's": {"\tif (kvm_guest_owns_debug_regs(&hyp_vcpu->vcpu)) {\n":
                                "\tif (kvm_guest_owns_debug_regs(host_vcpu)) {\n"},
    "MDSCR_EL1 before the registers": {_MDSCR: "", _USERS: f"{_MDSCR}{_USERS}"},
    "by a local name for the copy": {_OWNER: f"\tstruct kvm_vcpu *copy = &hyp_vcpu->vcpu;\n\n"
                                     f"\tcopy->arch.debug_owner = {_HOST}debug_owner;\n"},
    "flags before the rest": {_FLAGS: "", _MDCR: f"{_FLAGS}{_MDCR}"},
}  # fmt: skip


@pytest.fixture(scope="module")
def protected() -> Copy:
    """A copy of the tree in which hyp-main.c can be edited."""
    return copy_of("7.3")


def test_protected_mode_is_as_described(protected: Copy) -> None:
    report = protected.read(Mode.PROTECTED, ("copy_at_el2_has_the_owner", "copy_at_el2_has_external_mdscr"))
    assert (report.resolved.epoch.name, report.resolved.differs) == ("E13", ())
    assert all(c.equal for c in report.compared) and not report.misdescribed
    assert "flush_debug_state" in {c.function for c in report.compared}
    assert {row.verdict for row in report.rows} == {"PROVED"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_about_the_copy_is_lost(protected: Copy, name: str) -> None:
    edits, claim = BROKEN[name]
    report = protected.report(HYP_MAIN, edits, Mode.PROTECTED, (claim,))
    assert not report.misdescribed
    assert [row.verdict for row in report.rows if row.check == claim] == ["VIOLATED"]


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_of_the_copy_is_named(protected: Copy, name: str) -> None:
    edits, named = DIFFERENT[name]
    found = protected.report(HYP_MAIN, edits, Mode.PROTECTED).misdescribed
    assert any(named in text for text in found), found


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_of_the_copy_is_refused(protected: Copy, name: str) -> None:
    edits, reason = REFUSED[name]
    found = [str(gap) for gap in protected.report(HYP_MAIN, edits, Mode.PROTECTED).gaps]
    assert any(re.search(reason, text) for text in found), found


@pytest.mark.parametrize("name", HARMLESS)
def test_the_copy_handed_over_otherwise_is_equal(protected: Copy, name: str) -> None:
    report = protected.report(HYP_MAIN, HARMLESS[name], Mode.PROTECTED)
    assert all(c.equal for c in report.compared) and not report.misdescribed
