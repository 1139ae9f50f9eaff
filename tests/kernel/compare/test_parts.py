"""Parts of operations: where the hypervisor's C differs, or is not called, claims are lost by runs of what it does."""

from __future__ import annotations

import pytest

from formal.engines.verdict import Verdict
from formal.epochs import Mode
from formal.evidence.runs.replay import Replay
from formal.kernel.model.substitution import _stored, parts_of
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import evaluate
from formal.scope.configuration import Configuration
from formal.system import System
from formal.transitions import OPERATIONS
from tests.kernel.edited import Copy, copy_of

BANKS, COMMON = f"{KVM}/hyp/include/hyp/debug-sr.h", f"{KVM}/hyp/include/hyp/sysreg-sr.h"
SWITCH, ARM, VHE, NVHE = (
    f"{KVM}/{name}" for name in ("hyp/include/hyp/switch.h", "arm.c", "hyp/vhe/switch.c", "hyp/nvhe/switch.c")
)
OF = {op.name: op for op in OPERATIONS}
ENTERS, RETURNS = "__kvm_vcpu_run enters", "__kvm_vcpu_run returns"
# name: mode, file, what is replaced by what, the claim that is lost, a part that differs or is left out
BROKEN: dict[str, tuple[Mode, str, dict[str, str], str, str]] = {
    "an entry without TPM": (
        Mode.NVHE, SWITCH, {"(vcpu->arch.mdcr_el2, mdcr": "(vcpu->arch.mdcr_el2 & ~MDCR_EL2_TPM, mdcr"},
        "performance_monitors", "activate traps"),
    "a load without TPM": (
        Mode.VHE, SWITCH, {"(vcpu->arch.mdcr_el2, mdcr": "(vcpu->arch.mdcr_el2 & ~MDCR_EL2_TPM, mdcr"},
        "performance_monitors", "activate traps"),
    "VHE writes MDCR_EL2 at an entry again": (
        Mode.VHE, VHE, {"\twrite_sysreg(val, cpacr_el1);\n": "\twrite_sysreg(val, cpacr_el1);\n"
                        "\twrite_sysreg(read_sysreg(mdcr_el2) & ~MDCR_EL2_TDE, mdcr_el2);\n"},
        "host_takes_debug_exceptions", "traps at entry"),
    "the guest's MDCR_EL2 stays": (
        Mode.NVHE, SWITCH, {"(vcpu->arch.mdcr_el2_host, mdcr_el2)": "(vcpu->arch.mdcr_el2, mdcr_el2)"},
        "host_mdcr_restored", "deactivate traps"),
    "banks are switched when nobody uses them": (
        Mode.VHE, BANKS, {"\tif (!vcpu_get_flag(vcpu, DEBUG_DIRTY))": "\tif (vcpu_get_flag(vcpu, DEBUG_DIRTY))"},
        "guest_bank_preserved", "debug switch to guest"),
    "the last breakpoint is not loaded": (
        Mode.VHE, BANKS, {"case 15:\twrite_debug(ptr[15], reg, 15);": "case 15:;"},
        "guest_bank_preserved", "debug switch to guest"),
    "the guest's registers are kept for the host": (
        Mode.NVHE, BANKS, {"__debug_restore_state(host_dbg": "__debug_restore_state(guest_dbg"},
        "host_debug_bank_restored", "debug switch to host"),
    "MDSCR_EL1 loses MDE on the way in": (
        Mode.VHE, COMMON, {"write_sysreg(ctxt_sys_reg(ctxt, MDSCR_EL1),": "write_sysreg(ctxt_sys_reg(ctxt, MDSCR_EL1) "
                           "& ~DBG_MDSCR_MDE,"}, "host_breakpoints_armed", "restore guest state"),
    "the host's MDSCR_EL1 is not saved": (
        Mode.NVHE, COMMON, {"= read_sysreg(mdscr_el1);": "= 0;"}, "host_mdscr_restored", "save host state"),
    "no switch to the host's breakpoints": (
        Mode.VHE, VHE, {"\t__debug_switch_to_host(vcpu);\n": ""}, "host_debug_bank_restored", "debug switch to host"),
    "traps stay after the return": (
        Mode.NVHE, NVHE, {"\t__deactivate_traps(vcpu);\n": ""}, "host_mdcr_restored", "deactivate traps"),
    "traps are not activated at load": (
        Mode.VHE, ARM, {"\t\tkvm_vcpu_load_sysregs_vhe(vcpu);\n": ""}, "os_registers", "activate traps"),
    "nothing is set up": (
        Mode.VHE, ARM, {"\t\tkvm_arm_setup_debug(vcpu);\n": ""}, "host_takes_debug_exceptions", "kvm_arm_setup_debug"),
    "nothing is cleared": (
        Mode.NVHE, ARM, {"\t\tkvm_arm_clear_debug(vcpu);\n": ""}, "guest_mdscr_preserved", "kvm_arm_clear_debug"),
}  # fmt: skip
STORES_NOTHING = {"banks are switched when nobody uses them"}  # the run is one in which the C should, and does not
# name: mode, file, what is replaced by what; what a tree like this does is not described
UNKNOWN: dict[str, tuple[Mode, str, dict[str, str]]] = {
    "SPSR_EL2 is not loaded either": (Mode.VHE, VHE, {"\tsysreg_restore_guest_state_vhe(guest_ctxt);\n": ""}),
    "PC is not adjusted": (Mode.VHE, VHE, {"\t__kvm_adjust_pc(vcpu);\n": ""}),
    "left and entered in another order": (
        Mode.VHE, VHE, {"\t__debug_switch_to_guest(vcpu);\n": "", "\t__activate_traps(vcpu);\n":
                        "\t__debug_switch_to_guest(vcpu);\n\t__activate_traps(vcpu);\n"}),
    "what is loaded depends on what is not modelled": (
        Mode.NVHE, SWITCH, {"(vcpu->arch.mdcr_el2, mdcr": "(vcpu->arch.mdcr_el2 & vcpu->arch.hcr_el2, mdcr"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("6.1")


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_is_lost_by_a_run_of_the_c(copy: Copy, name: str) -> None:
    mode, file, edits, claim, part = BROKEN[name]
    report = copy.report(file, edits, mode, (claim,))
    assert not report.misdescribed
    assert part in {*report.differing, *report.omitted}
    (row,) = (row for row in report.rows if row.check == claim)
    assert row.verdict == Verdict.VIOLATED.value and row.trace is not None and row.broken_at is not None
    assert report.system is not None
    replay = Replay(report.system)
    lines = [
        made
        for seen in replay.run(row.trace)
        if seen.step is not None and seen.step.operation in report.shown
        for made in report.shown[seen.step.operation].made(replay.system.state((0, 0)), replay.system.kernel, seen)
    ]
    assert report.omitted or name in STORES_NOTHING or any(made.file.startswith(f"{KVM}/hyp/") for made in lines)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_hangs_on_what_is_not_described_is_unknown(copy: Copy, name: str) -> None:
    mode, file, edits = UNKNOWN[name]
    report = copy.report(file, edits, mode, ("performance_monitors", "os_registers"))
    assert report.misdescribed and not report.problems
    assert {row.verdict for row in report.rows} == {"UNKNOWN"}
    assert all(row.reason.startswith(f"hangs on {report.unknowns[0]}") for row in report.rows)


def test_a_call_from_another_place_is_no_missing_call(copy: Copy) -> None:
    """Left out where it belongs, and made elsewhere: the new caller is not one that is known."""
    edits = {"\t\tkvm_arm_setup_debug(vcpu);\n": "", "static int kvm_vcpu_initialized": "static void anew(struct "
             "kvm_vcpu *vcpu) { kvm_arm_setup_debug(vcpu); }\nstatic int kvm_vcpu_initialized"}  # fmt: skip
    gaps = copy.report(ARM, edits, Mode.VHE).gaps
    assert any("kvm_arm_setup_debug() may be called in anew()" in str(gap) for gap in gaps)


@pytest.mark.parametrize("mode", (Mode.VHE, Mode.NVHE))
@pytest.mark.parametrize("epoch", ("E8", "E13"))
def test_what_operations_are_made_of(epoch: str, mode: Mode) -> None:
    system = System(Configuration(epoch, mode).kernel())
    s, k = system.state(), system.kernel
    names = [name for name, _ in parts_of(OF[ENTERS], s, k)]
    traps = ["traps at entry", "restore guest state"] if k.vhe else ["restore guest state", "activate traps"]
    assert names == ["save host state", *traps, "debug switch to guest"]
    found = dict(parts_of(OF[RETURNS], s, k))
    assert found["restore host state"].mdscr_el1 is not s.mdscr_el1, "each part finds what those before it left"


def test_a_bank_that_is_copied_is_stored_as_one() -> None:
    one, other, new = (t.var(name, (2, 8)) for name in ("one", "other", "new"))
    c, n = t.var("c", t.BOOL), [t.const(i, 2) for i in range(4)]
    copied = {i: t.If(c, t.select(other, n[i]), t.select(new, n[i])) for i in range(4)}
    assert _stored(one, copied) is t.If(c, other, new)
    assert _stored(one, {i: copied[i] for i in (0, 1, 3)}).op == "store", "what is not stored to stays"
    for changed in ({**copied, 2: t.const(7, 8)}, {**copied, 1: t.select(other, n[0])}, {0: copied[0]}, {}):
        bank = _stored(one, changed)
        for holds in (True, False):
            env = {"c": holds, **{name: _bank(base) for name, base in (("one", 10), ("other", 20), ("new", 30))}}
            for i in range(4):
                wanted = changed.get(i, t.select(one, n[i]))
                assert evaluate(t.select(bank, n[i]), env) == evaluate(wanted, env)


def _bank(base: int) -> t.ArrayValue:
    return t.ArrayValue(0, tuple((i, base + i) for i in range(4)))
