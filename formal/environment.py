"""What happens around KVM: the guest whenever nothing traps, user space on a vCPU that is not running, the host.

Place names are those of v6.1 under arch/arm64/kvm, unless a release is named.
"""

from __future__ import annotations

from formal import history
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, OSLSR_EL1, PMUSERENR_EL0, PSTATE
from formal.arch.traps import Access, executes
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import And, If, Not, Term
from formal.operations import (
    Actor,
    Guard,
    Inputs,
    controls,
    host_runs,
    may_execute,
    nests,
    operation,
    retire,
    user_space_has_vcpu,
)
from formal.state import Phase, State

OSLM_IMPLEMENTED = 1 << 3  # OSLSR_EL1.OSLM as the guest sees it (sys_regs.c, from v5.18)


def slot(index: Term, k: Kernel) -> Term:
    """Where the value of a break- or watchpoint register is kept; v5.3 to v5.12 lost the number and always used 0."""
    n = t.width(index)
    return index if k.indexes_trapped_banks else index & t.const(3 << (n - 2), n)


def writes_virtual_mdcr(s: State, value: MDCR_EL2) -> State:
    return history.sets_hypervisors_mdcr(s.but(virtual_mdcr_el2=value), value)


def has_os_lock(k: Kernel) -> bool:
    """Whether a guest has an OS lock: before v5.18 it is told of none, and its writes of OSLAR_EL1 are ignored."""
    return k.documents_os_lock or k.emulates_os_lock


def writes_os_lock(s: State, k: Kernel, locks: Term) -> State:
    """The guest, or user space for it, locks or unlocks the guest's OS lock, if it has one."""
    return history.sets_os_lock(s, locks) if has_os_lock(k) else s


# ---- the guest, whenever nothing traps


def _guest_runs(writes: str | None = None) -> Guard:
    def guard(s: State, k: Kernel, i: Inputs) -> Term:
        runs = And(s.in_guest, may_execute(s))
        return And(runs, executes(Access(writes, True, 1), controls(s))) if writes else runs

    return guard


@operation(
    "the guest executes",
    "Arm ARM D2.12, software step",
    writes="hw_pstate guest_pstate_ss steps",
    enabled=_guest_runs(),
    actor=Actor.GUEST,
)
def guest_executes(s: State, k: Kernel, i: Inputs) -> State:
    """Any instruction that touches no modelled register but PSTATE."""
    return retire(s, i)


@operation(
    "the guest writes MDSCR_EL1",
    "Arm ARM D24.3, MDSCR_EL1",
    writes="hw_mdscr_el1 mdscr_el1 guest_mdscr_el1 hw_pstate guest_pstate_ss steps",
    enabled=_guest_runs("MDSCR_EL1"),
    actor=Actor.GUEST,
)
def guest_writes_mdscr(s: State, k: Kernel, i: Inputs) -> State:
    """An access that does not trap. FEAT_NV2 makes it a store to memory if a guest hypervisor does it."""
    value = i.bits("value")
    after = retire(s, i)
    if k.nests:
        after = after.but(mdscr_el1=If(s.in_hypervisor, value, s.mdscr_el1.raw))
    written = If(s.in_hypervisor, s.hw_mdscr_el1.raw, value)
    return history.sets_mdscr(after.but(hw_mdscr_el1=written), value)


@operation(
    "the guest writes a break- or watchpoint register",
    "Arm ARM D24.3, DBGBCR<n>_EL1 and its siblings",
    writes="hw_bank guest_bank hw_pstate guest_pstate_ss steps",
    enabled=_guest_runs("DBGBCR<n>_EL1"),
    actor=Actor.GUEST,
)
def guest_writes_bank(s: State, k: Kernel, i: Inputs) -> State:
    """An access that does not trap."""
    index, value = i.index("index"), i.bits("value")
    return history.sets_bank(retire(s, i).but(hw_bank=t.store(s.hw_bank, index, value)), index, value)


@operation(
    "the guest writes OSLAR_EL1",
    "Arm ARM D24.3, OSLAR_EL1",
    writes="hw_oslk guest_os_lock hw_pstate guest_pstate_ss steps",
    enabled=_guest_runs("OSLAR_EL1"),
    actor=Actor.GUEST,
)
def guest_writes_oslar(s: State, k: Kernel, i: Inputs) -> State:
    """An access that does not trap: the physical OS lock."""
    return writes_os_lock(retire(s, i).but(hw_oslk=i.flag("locks")), k, i.flag("locks"))


# ---- user space, on a vCPU that is not running


@operation(
    "KVM_SET_GUEST_DEBUG",
    "guest.c, kvm_arch_vcpu_ioctl_set_guest_debug",
    writes="guest_debug external_debug_state user_debug user_bank ss_active_pending steps",
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
    c_function="kvm_arch_vcpu_ioctl_set_guest_debug",
)
def set_guest_debug(s: State, k: Kernel, i: Inputs) -> State:
    """User space starts, changes or ends debugging; other flags than the four are refused and change nothing."""
    control, bank = KVM_GUESTDBG(t.zero_extend(i.bits("control", 32), 64)), i.bank("bank")
    valid = control.only("ENABLE", "SINGLESTEP", "USE_SW_BP", "USE_HW")
    on, off = And(valid, control.ENABLE), And(valid, Not(control.ENABLE))
    gives_bank = And(on, control.USE_HW)
    starts_stepping = And(on, control.SINGLESTEP, Not(s.user_steps))
    s = s.but(
        guest_debug=If(on, control.raw, If(off, t.const(0, 64), s.guest_debug.raw)),
        external_debug_state=If(gives_bank, bank, s.external_debug_state),
        ss_active_pending=And(s.ss_active_pending, Not(off)) if k.keeps_step_pending else s.ss_active_pending,
        steps=If(starts_stepping, t.const(0, 2), s.steps),
    )
    return history.user_sets_debug(s, control, bank)


@operation(
    "KVM_SET_ONE_REG MDSCR_EL1",
    "sys_regs.c, kvm_sys_reg_set_user",
    writes="mdscr_el1 guest_mdscr_el1",
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
)
def set_mdscr(s: State, k: Kernel, i: Inputs) -> State:
    """Any 64-bit value, as live migration does."""
    value = i.bits("value")
    return history.sets_mdscr(s.but(mdscr_el1=value), value)


@operation(
    "KVM_SET_ONE_REG PSTATE",
    "guest.c, set_core_reg",
    writes="pstate guest_pstate_ss nested",
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
)
def set_pstate(s: State, k: Kernel, i: Inputs) -> State:
    """Any value with an AArch64 mode of EL0 or EL1, or of EL2 if the guest has one."""
    value = PSTATE(i.bits("value"))
    s = history.sets_pstate_ss(s.but(pstate=value), value.SS)
    return s.but(nested=And(s.has_nv, i.flag("below_el2"))) if k.nests else s


@operation(
    "KVM_SET_ONE_REG HCR_EL2, MDCR_EL2",
    "sys_regs.c, kvm_sys_reg_set_user",
    writes="nested virtual_mdcr_el2 hypervisor_mdcr_el2",
    enabled=lambda s, k, i: And(user_space_has_vcpu(s, k, i), s.has_nv),
    actor=Actor.USER,
    exists=nests,
)
def set_el2_registers(s: State, k: Kernel, i: Inputs) -> State:
    """Any value of MDCR_EL2; HCR_EL2.TGE decides whether code at EL0 belongs to the guest hypervisor."""
    return writes_virtual_mdcr(s, MDCR_EL2(i.bits("value"))).but(nested=i.flag("below_el2"))


@operation(
    "KVM_ARM_VCPU_PMU_V3",
    "pmu-emul.c, kvm_arm_set_nr_counters",
    writes="nr_pmu_counters virtual_mdcr_el2 hypervisor_mdcr_el2",
    enabled=lambda s, k, i: And(s.at(Phase.CREATED), Not(s.in_run), s.has_nv),
    actor=Actor.USER,
    exists=nests,
)
def set_nr_counters(s: State, k: Kernel, i: Inputs) -> State:
    """Before the guest first runs, user space chooses how many event counters it has; HPMN follows."""
    counters = i.bits("counters", 5)
    s = s.but(nr_pmu_counters=counters, virtual_mdcr_el2=s.virtual_mdcr_el2.but(HPMN=counters))
    return history.sets_hypervisors_mdcr(s, s.hypervisor_mdcr_el2.but(HPMN=counters))


@operation(
    "KVM_SET_ONE_REG OSLSR_EL1",
    "sys_regs.c, set_oslsr_el1 (from v5.18)",
    writes="oslsr_el1 guest_os_lock",
    enabled=lambda s, k, i: And(t.boolean(k.emulates_os_lock), user_space_has_vcpu(s, k, i)),
    actor=Actor.USER,
)
def set_oslsr(s: State, k: Kernel, i: Inputs) -> State:
    """Only OSLK may differ from the reset value."""
    locks = i.flag("locks")
    return writes_os_lock(s.but(oslsr_el1=OSLSR_EL1(t.const(OSLM_IMPLEMENTED, 64)).but(OSLK=locks)), k, locks)


@operation(
    "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings",
    "sys_regs.c, set_bcr and its three siblings",
    writes="vcpu_debug_state guest_bank",
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
)
def set_bank(s: State, k: Kernel, i: Inputs) -> State:
    """Any value, in its place."""
    index, value = i.index("index"), i.bits("value")
    return history.sets_bank(s.but(vcpu_debug_state=t.store(s.vcpu_debug_state, slot(index, k), value)), index, value)


# ---- the host, with its own use of the same registers


@operation(
    "the host writes its debug registers",
    "arch/arm64/kernel/hw_breakpoint.c, debug-monitors.c",
    writes="hw_mdscr_el1 host_mdscr_el1 hw_bank host_bank",
    enabled=host_runs,
    actor=Actor.HOST,
)
def host_writes_debug(s: State, k: Kernel, i: Inputs) -> State:
    """perf and ptrace set up break- and watchpoints of the host, also while a vCPU is loaded but not entered."""
    mdscr, bank = i.bits("mdscr_el1"), i.bank("bank")
    return history.host_sets_debug(s.but(hw_mdscr_el1=mdscr, hw_bank=bank), mdscr, bank)


@operation(
    "the host writes PMUSERENR_EL0",
    "the perf driver: arch/arm64/kernel/perf_event.c, drivers/perf/arm_pmuv3.c",
    writes="hw_pmuserenr_el0 host_ctxt_pmuserenr_el0",
    enabled=host_runs,
    actor=Actor.HOST,
)
def host_writes_pmuserenr(s: State, k: Kernel, i: Inputs) -> State:
    """perf changes user access to the counters, also between vcpu_load and the entry under VHE."""
    value = PMUSERENR_EL0(i.bits("value"))
    if k.guards_pmuserenr and k.vhe:  # kvm_set_pmuserenr: goes to the saved copy while the guest's value is on the CPU
        loaded = s.busy
        return s.but(
            hw_pmuserenr_el0=If(loaded, s.hw_pmuserenr_el0.raw, value.raw),
            host_ctxt_pmuserenr_el0=If(loaded, value.raw, s.host_ctxt_pmuserenr_el0.raw),
        )
    return s.but(hw_pmuserenr_el0=value)
