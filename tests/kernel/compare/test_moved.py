"""State that a tree keeps at another place than the known ones: what differs then is not known to be wrong."""

from __future__ import annotations

import pytest

from formal.epochs import Mode
from formal.kernel.source.tree import KVM
from tests.kernel.edited import copy_of

DEBUG, RESET, HOST = f"{KVM}/debug.c", f"{KVM}/reset.c", "arch/arm64/include/asm/kvm_host.h"
_FILLS = (
    "\tmemset(vcpu_gp_regs(vcpu), 0, sizeof(*vcpu_gp_regs(vcpu)));\n"
    "\tmemset(&vcpu->arch.ctxt.fp_regs, 0, sizeof(vcpu->arch.ctxt.fp_regs));\n"
    "\tvcpu->arch.ctxt.spsr_abt = 0;\n\tvcpu->arch.ctxt.spsr_und = 0;\n\tvcpu->arch.ctxt.spsr_irq = 0;\n"
    "\tvcpu->arch.ctxt.spsr_fiq = 0;\n"
)
_STORES = "\tvcpu_gp_regs(vcpu)->pstate = pstate;\n"
_BEFORE = "\n/**\n * kvm_reset_vcpu - "


@pytest.mark.parametrize("mode", [Mode.VHE, Mode.NVHE], ids=lambda mode: mode.value)
def test_a_per_cpu_variable_that_is_a_member_now_breaks_no_claim(mode: Mode) -> None:
    edits = {
        "static DEFINE_PER_CPU(u64, mdcr_el2);": "struct boot { u64 mdcr_el2; };\n"
        "static DEFINE_PER_CPU(struct boot, boot);",
        "__this_cpu_write(mdcr_el2,": "__this_cpu_write(boot.mdcr_el2,",
        "__this_cpu_read(mdcr_el2)": "__this_cpu_read(boot.mdcr_el2)",
    }
    found = copy_of("6.12").whole(DEBUG, edits, mode)
    assert any("percpu_mdcr_el2 is not kept where it is known to be" in str(gap) for gap in found.gaps)
    assert not found.replaced and not found.differing
    assert {"kvm_arm_init_debug", "kvm_arm_setup_debug"} <= {name for gap in found.gaps for name in gap.of}


@pytest.mark.parametrize(
    ("stores", "told"), [(_STORES, False), (_STORES.replace("= pstate", "= pstate | 1 << 21"), True)],
    ids=["as before", "with SS"],
)  # fmt: skip
def test_what_a_helper_stores_is_read_where_it_is_called(stores: str, told: bool) -> None:
    helper = f"\nstatic void fills(struct kvm_vcpu *vcpu, u32 pstate)\n{{\n{_FILLS}{stores}}}\n"
    found = copy_of("6.12").whole(
        RESET, {_FILLS + _STORES: "\tfills(vcpu, pstate);\n", _BEFORE: helper + _BEFORE}, Mode.VHE
    )
    assert any("resets PSTATE to 0x3c5" in str(gap) for gap in found.gaps) == told
    assert bool(found.gaps) == told
