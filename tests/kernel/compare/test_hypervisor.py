"""The files of the hypervisor and the handlers, on real trees: what is lifted from them, and facts about it."""

from __future__ import annotations

import pytest

from formal.kernel.lift.program import Mode, Program
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import Value

MODES: tuple[Mode, ...] = ("vhe", "nvhe")
EVERYWHERE = (
    "__debug_switch_to_guest __debug_switch_to_host __activate_traps_common __deactivate_traps_common __activate_traps "
    "__deactivate_traps kvm_handle_guest_debug kvm_arch_vcpu_ioctl_set_guest_debug trap_bvr trap_bcr trap_wvr trap_wcr"
).split()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_lifted_on_every_tree(program: Program, name: str, mode: Mode) -> None:
    assert program.lift(name, mode).writes


@pytest.mark.parametrize("mode", MODES)
def test_the_world_switch_loads_the_bank_that_debug_ptr_names(program: Program, mode: Mode) -> None:
    lifted = program.lift("__debug_switch_to_guest", mode)
    flags = "vcpu->arch.flags" if program.tree.read("Makefile").count("PATCHLEVEL = 10") else "vcpu->arch.iflags"
    dirty = program.constants.get("KVM_ARM64_DEBUG_DIRTY", 1 << 4)
    for index in (0, 7, 15):
        term = lifted.writes[f"hw.dbgbvr{index}_el1"]
        for selected, bank in enumerate(("vcpu_debug_state", "external_debug_state")):
            given: dict[str, Value] = dict.fromkeys(support(term), 0)
            given |= {flags: dirty, "hw.id_aa64dfr0_el1": 0xF << 12, "vcpu->arch.debug_ptr": selected}
            given[f"vcpu->arch.{bank}.dbg_bvr[{index}]"] = 0x1234
            assert evaluate(term, given) == 0x1234
            assert evaluate(term, given | {flags: 0}) == 0


@pytest.mark.parametrize("mode", MODES)
def test_mdscr_el1_is_saved_and_restored_in_the_context_given(program: Program, mode: Mode) -> None:
    guest = {"ctxt": "vcpu->arch.ctxt"}
    saved = program.lift("__sysreg_save_common_state", mode, arguments=guest)
    assert saved.writes["vcpu->arch.ctxt.sys_regs[MDSCR_EL1]"] is t.var("hw.mdscr_el1", 64)
    restored = program.lift("__sysreg_restore_common_state", mode, arguments=guest)
    assert restored.writes["hw.mdscr_el1"] is t.var("vcpu->arch.ctxt.sys_regs[MDSCR_EL1]", 64)


def test_a_trapped_write_of_mdscr_el1(program: Program) -> None:
    given = {"r->reg": "MDSCR_EL1", "p->is_write": t.TRUE}
    lifted = program.lift("trap_debug_regs", "vhe", memory=given)
    assert lifted.writes["vcpu->arch.ctxt.sys_regs[MDSCR_EL1]"] is lifted.reads["p->regval"]
