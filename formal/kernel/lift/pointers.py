"""What pointers in memory may point to, and functions of which only their parts are lifted."""

from __future__ import annotations

from typing import Literal

from formal.kernel.lift.machine import PointerRule

Mode = Literal["vhe", "nvhe"]
VNCR = "registers that FEAT_NV2 keeps in a page of their own are named as if they were in the context"
POINTERS: dict[str, PointerRule] = {
    "vcpu->arch.debug_ptr": PointerRule(
        ("vcpu->arch.vcpu_debug_state", "vcpu->arch.external_debug_state"),
        "debug_ptr points to the guest's or to the external debug state (an obligation where it is used)",
    ),
    "vcpu->arch.host_cpu_context": PointerRule(
        ("percpu.kvm_host_data.host_ctxt",), "the vCPU names the host's context of the CPU (an obligation of vcpu_load)"
    ),
    "vcpu->arch.ctxt.vncr_array": PointerRule((), VNCR),
    "percpu.kvm_host_data.host_ctxt.vncr_array": PointerRule((), VNCR),
    "vcpu->arch.ctxt.__hyp_running_vcpu": PointerRule((), "only the host's context names the running vCPU"),
    "percpu.kvm_host_data.host_ctxt.__hyp_running_vcpu": PointerRule(
        ("vcpu",), "the host's context names the vCPU that runs"
    ),
}
# Functions that do much besides: of what is modelled, these parts do it all, in this order (read in lifecycle.py).
OUTLINED: dict[str, dict[Mode, tuple[str, ...]]] = {
    "kvm_arch_vcpu_load": {
        "vhe": ("kvm_vcpu_load_debug", "__vcpu_load_switch_sysregs", "__vcpu_load_activate_traps"),
        "nvhe": ("kvm_vcpu_load_debug",),
    },
    "kvm_arch_vcpu_put": {
        "vhe": ("kvm_vcpu_put_debug", "__vcpu_put_deactivate_traps", "__vcpu_put_switch_sysregs"),
        "nvhe": ("kvm_vcpu_put_debug",),
    },
}
