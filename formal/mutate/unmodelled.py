"""Edits that only a reader can judge: what they touch is modelled by name, but not as they touch it.

Places without a state variable need no entry here: that they have none is looked up where it is decided
(``Binding.models``). Nor do calls that are watched: they are compared.
"""

from __future__ import annotations

_AARCH32 = "of an AArch32 guest only; AArch64's SPSR and PC are compared"
_ANYTIME = "a reset or an exception for the guest, which are steps of their own that may come between any two exits"
_CONTEXT = (
    "when the rest of a context goes to the copy at EL2, and what of a protected guest's comes back, is not modelled"
)
_ORDER = "that it is copied is compared; its place among the other copies does not matter"
REVIEWED: dict[str, str] = {  # "function: what"
    "kvm_arch_vcpu_run_pid_change: pkvm_create_hyp_vcpu":
        "which traps EL2 chooses for a protected guest before its first entry is not modelled",
    "kvm_arch_vcpu_load: kvm_vcpu_load_fgt":
        "it works out fine-grained traps in memory, from features and HCR_EL2; that it comes before what writes them "
        "is a rule",
    "kvm_arch_vcpu_ioctl_run: check_vcpu_requests": _ANYTIME,
    "kvm_arch_vcpu_ioctl_run: handle_exit_early": _ANYTIME,
    "kvm_arch_vcpu_ioctl_run: kvm_nested_flush_hwstate": _ANYTIME,
    "kvm_arch_vcpu_ioctl_run: kvm_nested_sync_hwstate": _ANYTIME,
    "synchronize_vcpu_pstate: vcpu->arch.ctxt.regs.pstate": "Cortex-A510 erratum 2077057 is not modelled",
    "kvm_set_pmuserenr: PMUSERENR_ON_CPU":
        "under VHE there is a rule for it; elsewhere the flag is never found set, and what the host's own PMU driver "
        "is told is not modelled",
    "cpu_hyp_reinit: cpu_hyp_init_context":
        "before v6.14 it makes the host's context, of which nothing is modelled; from then on there is a rule for it",
    "kvm_handle_guest_debug: its result":
        "of an exception class that the table of exits, which is compared, does not send there",
    "set_bcr, set_bvr, set_wcr, set_wvr: its result": "what user space is told; what is stored is compared",
    "trap_dbg_wb_reg: its result": "of an encoding that the table of registers, which is compared, does not have",
    "flush_hyp_vcpu: ctxt": _CONTEXT,
    "flush_hyp_vcpu: mdcr_el2": _ORDER,
    "flush_hyp_vcpu: arch.iflags": _ORDER,
    "sync_hyp_vcpu: ctxt": _CONTEXT,
    "sync_hyp_vcpu: pstate": _CONTEXT,
    "sync_hyp_vcpu: arch.iflags": _ORDER,
    "kvm_skip_instr: vcpu->arch.ctxt.regs.pstate": _AARCH32,
    "kvm_skip_instr: vcpu->arch.ctxt.regs.pc": _AARCH32,
    "__kvm_skip_instr: vcpu->arch.ctxt.regs.pstate": _AARCH32,
    "__kvm_skip_instr: vcpu->arch.ctxt.regs.pc": _AARCH32,
}  # fmt: skip


def why(place: str) -> str | None:
    """Why a place that an edit changes does not matter, if somebody has looked; ``function: place``."""
    return REVIEWED.get(place)
