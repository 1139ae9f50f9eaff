"""What KVM does to the state: one function per operation, as a vCPU meets them; and the list of all operations.

What an operation is says ``formal/operations.py``; those of the guest, user space and the host are in
``formal/environment.py``. Components are C functions that only run inside an operation with interrupts off, so that
nothing can come between. Place names are those of v6.1 under arch/arm64/kvm, unless a release is named. What
debug_owner changed in v6.14 is in ``formal/ownership.py``; places of nested virtualization are those of v7.3.

Comments say, in our own words, what the kernel's comments or the Arm ARM ask for at that place.
"""

from __future__ import annotations

from formal import history
from formal.arch.exceptions import goes_to_el2
from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PSTATE
from formal.arch.traps import Access, traps_to_el2
from formal.environment import (
    OSLM_IMPLEMENTED,
    guest_executes,
    guest_writes_bank,
    guest_writes_mdscr,
    guest_writes_oslar,
    host_writes_debug,
    host_writes_pmuserenr,
    set_bank,
    set_el2_registers,
    set_guest_debug,
    set_mdscr,
    set_nr_counters,
    set_oslsr,
    set_pstate,
    slot,
    writes_os_lock,
    writes_virtual_mdcr,
)
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import FALSE, And, Eq, If, Implies, Not, Or, Term
from formal.operations import (
    Actor,
    Guard,
    Inputs,
    Operation,
    controls,
    cpu_idle,
    eret_to_guest,
    handling,
    here,
    may_execute,
    nests,
    one_more,
    operation,
    user_space_has_vcpu,
)
from formal.ownership import (
    flush_hyp_vcpu,
    hosts_view,
    hyps_view,
    init_host_debug_data,
    load_debug,
    put_debug,
    set_guest_ownership,
)
from formal.state import Exit, Phase, State
from formal.worldswitch import part

RESET_PSTATE_EL2 = 0x3C9  # EL2h, likewise, for a guest that has an EL2 (VCPU_RESET_PSTATE_EL2)
RESET_PSTATE = 0x3C5  # EL1h with D, A, I and F masked (VCPU_RESET_PSTATE_EL1, asm/kvm_arm.h and asm/ptrace.h)


# ---- a CPU comes up


@operation(
    "cpu_boot",
    "arch/arm64/include/asm/el2_setup.h, __init_el2_debug; kernel/debug-monitors.c",
    writes="hw_mdcr_el2 hw_mdscr_el1 host_mdscr_el1 hw_bank host_bank hw_oslk hw_pmuserenr_el0 kvm_ready",
    enabled=cpu_idle,
    actor=Actor.HOST,
)
def cpu_boot(s: State, k: Kernel, i: Inputs) -> State:
    """The CPU comes up again: hotplug, or resume from a power-down. The boot code writes MDCR_EL2 as it did before."""
    mdscr, bank = i.bits("mdscr_el1"), i.bank("bank")
    return history.host_sets_debug(s, mdscr, bank).but(
        hw_mdcr_el2=s.boot_mdcr_el2,
        hw_mdscr_el1=mdscr,
        hw_bank=bank,
        hw_oslk=False,
        hw_pmuserenr_el0=i.bits("pmuserenr_el0"),
        kvm_ready=False,
    )


@operation(
    "kvm_arm_init_debug",
    "debug.c, kvm_arm_init_debug (from v6.14 kvm_init_host_debug_data), from cpu_hyp_reinit in arm.c",
    writes="percpu_mdcr_el2 nr_event_counters kvm_ready",
    enabled=cpu_idle,
    c_function="kvm_arm_init_debug",
)
def init_debug(s: State, k: Kernel, i: Inputs) -> State:
    """Hyp initialisation: at boot, at hotplug, when KVM is enabled again, at CPU_PM exit, also after a failed entry."""
    if k.tracks_debug_owner:
        return init_host_debug_data(s, k).but(kvm_ready=True)
    # Reads MDCR_EL2 once for each CPU so that HPMN, presumably set by boot code that knows, can be kept.
    if k.vhe and not k.vhe_reads_boot_mdcr:
        return s.but(kvm_ready=True)
    return s.but(percpu_mdcr_el2=s.hw_mdcr_el2, kvm_ready=True)


# ---- a vCPU is created and runs for the first time


def reset_debug_ptr(s: State) -> State:
    """debug.c, kvm_arm_reset_debug_ptr: debug_ptr points to the vCPU's own registers."""
    return s.but(debug_ptr_external=False)


@operation(
    "kvm_arch_vcpu_create",
    "arm.c, kvm_arch_vcpu_create",
    writes="phase debug_ptr_external",
    enabled=lambda s, k, i: s.at(Phase.NEW),
)
def vcpu_create(s: State, k: Kernel, i: Inputs) -> State:
    """A vCPU is created; until v6.13 kvm_arm_reset_debug_ptr gives debug_ptr its first value."""
    return (s if k.tracks_debug_owner else reset_debug_ptr(s)).but(phase=Phase.CREATED)


def setup_mdcr_el2(s: State, k: Kernel) -> State:
    """debug.c, kvm_arm_setup_mdcr_el2 (part of kvm_arm_setup_debug before v5.13): what the next entry will load."""
    # The document asks for traps of: performance monitors, debug ROM address, OS registers, statistical profiling
    # (a field that is not named is 0, so E2PB is 0 and the buffer belongs to EL2), later the trace filter as well.
    # Debug registers trap unless the guest uses them and nobody else has to be kept out: user space that debugs the
    # guest with them, or the guest's own OS lock.
    debug_trap = Or(
        And(t.boolean(k.traps_debug_for_use_hw), s.guest_debug.USE_HW),
        Not(s.debug_dirty),
        And(t.boolean(k.emulates_os_lock), s.os_lock),
    )
    return s.but(
        mdcr_el2=MDCR_EL2.of(
            TTRF=k.traps_trace_filter,
            TPMS=k.traps_profiling,
            TDRA=True,
            TDOSA=True,
            TDA=debug_trap,
            TDE=s.guest_debug.any(),
            TPM=True,
            TPMCR=True,
            HPMN=s.percpu_mdcr_el2.HPMN if k.keeps_hpmn else 0,
        )
    )


@operation(
    "kvm_arm_vcpu_init_debug",
    "debug.c, kvm_arm_vcpu_init_debug, from kvm_arch_vcpu_run_pid_change in arm.c",
    writes="phase mdcr_el2",
    enabled=lambda s, k, i: And(s.at(Phase.CREATED), Not(s.in_run), s.idle, s.kvm_ready),
    c_function="kvm_arm_vcpu_init_debug",
)
def vcpu_init_debug(s: State, k: Kernel, i: Inputs) -> State:
    """The first KVM_RUN, not yet loaded: computes mdcr_el2 (until v6.13) on whatever CPU the thread is on."""
    computes = k.first_run_init and not k.tracks_debug_owner
    return (setup_mdcr_el2(s, k) if computes else s).but(phase=Phase.READY)


# ---- load and put


def load(s: State, k: Kernel) -> State:
    """What vcpu_load does to the debug registers and the traps."""
    if k.tracks_debug_owner:
        s = history.is_loaded(k.doing("kvm_vcpu_load_debug", load_debug)(s, k))
    return part("activate traps", s, k) if k.traps_at_load else s


def put(s: State, k: Kernel) -> State:
    """What vcpu_put does to them."""
    if k.tracks_debug_owner:
        s = k.doing("kvm_vcpu_put_debug", put_debug)(s, k)
    return part("deactivate traps", s, k) if k.traps_at_load else s


_LOADS = (
    "host_ctxt_pmuserenr_el0 mdcr_el2_host hw_pmuserenr_el0 hw_mdcr_el2 mdcr_el2 debug_owner external_mdscr_el1 "
    "guest_ss_pending pstate is_set_up guest_uses_debug"
)
_PUTS = "hw_mdcr_el2 hw_pmuserenr_el0 ss_active_pending pstate is_set_up"


@operation(
    "kvm_arch_vcpu_load",
    "arm.c, kvm_arch_vcpu_load; vhe/sysreg-sr.c, kvm_vcpu_load_sysregs_vhe",
    writes="phase in_run cpu vcpu busy " + _LOADS,
    enabled=lambda s, k, i: And(s.at(Phase.READY), s.idle, s.kvm_ready, Or(s.in_run, Not(s.exits_with(Exit.MMIO)))),
)
def vcpu_load(s: State, k: Kernel, i: Inputs) -> State:
    """KVM_RUN loads the vCPU, or the scheduler brings back its thread, on any CPU. VHE activates the traps here."""
    return load(s.but(phase=Phase.LOADED, in_run=True, cpu=s.cpu_id, vcpu=s.vcpu_id, busy=True), k)


def _unload(s: State, k: Kernel) -> State:
    return put(s.but(phase=Phase.READY, busy=False), k)


@operation(
    "kvm_arch_vcpu_put",
    "arm.c, kvm_arch_vcpu_put; vhe/sysreg-sr.c, kvm_vcpu_put_sysregs_vhe",
    writes="phase busy " + _PUTS,
    enabled=here(Phase.LOADED),
)
def vcpu_put(s: State, k: Kernel, i: Inputs) -> State:
    """The thread is preempted or sleeps anywhere in KVM_RUN where interrupts are on, also with an exit to handle."""
    return _unload(s, k)


# ---- KVM_RUN returns to user space


def adjust_pc(s: State, k: Kernel, i: Inputs) -> State:
    """hyp/exception.c, __kvm_adjust_pc: skips the emulated instruction, or enters the guest's exception handler."""
    # Either way the software step state machine of the guest moves on: SS is cleared.
    if not k.defers_pc_adjustment:
        return s
    entered = PSTATE(i.bits("exception_pstate"))
    taken = If(i.flag("takes_exception"), entered.but(SS=False).raw, s.pstate.but(SS=False).raw)
    return s.but(pstate=If(s.adjust_pc, taken, s.pstate.raw), adjust_pc=False)


@operation(
    "kvm_arch_vcpu_ioctl_run returns",
    "arm.c, kvm_arch_vcpu_ioctl_run, label out",
    writes="phase in_run busy adjust_pc " + _PUTS,
    enabled=handling(Exit.NONE, Exit.MMIO),
)
def run_returns(s: State, k: Kernel, i: Inputs) -> State:
    """A signal, an immediate exit or an exit for user space: a pending PC adjustment is committed, the vCPU is put."""
    return _unload(adjust_pc(s, k, i), k).but(in_run=False)


# ---- before the entry


def save_guest_debug_regs(s: State, k: Kernel) -> State:
    """debug.c, save_guest_debug_regs: the guest's values, before they are tweaked."""
    s = s.but(preserved_mdscr_el1=s.mdscr_el1)
    return s.but(preserved_pstate_ss=s.pstate.SS) if k.preserves_pstate_ss else s


def restore_guest_debug_regs(s: State, k: Kernel) -> State:
    """debug.c, restore_guest_debug_regs: and back, before a trapped access to MDSCR_EL1 is handled."""
    s = s.but(mdscr_el1=s.preserved_mdscr_el1)
    return s.but(pstate=s.pstate.but(SS=s.preserved_pstate_ss)) if k.preserves_pstate_ss else s


def tweaks_guest(s: State, k: Kernel) -> Term:
    """Whether kvm_arm_setup_debug changes the guest's registers for the entry (and clear_debug changes them back)."""
    return Or(s.guest_debug.any(), And(t.boolean(k.emulates_os_lock), s.os_lock))


def choose(c: Term, a: State, b: State) -> State:
    """The state ``a`` where ``c`` holds, else ``b``."""
    return a.but(**{name: If(c, a.values[name], b.values[name]) for name in a.values})


def tweak_guest_regs(s: State, k: Kernel) -> State:
    """The middle of kvm_arm_setup_debug: MDSCR_EL1, PSTATE.SS and debug_ptr as the debugger or the OS lock needs."""
    s = save_guest_debug_regs(s, k)
    # Single-step: PSTATE.SS runs one instruction; if the last exit came between the instruction and its step
    # exception, SS stays clear, so that the exception is taken first. The guest's own MDSCR_EL1.SS is masked.
    armed = Not(s.ss_active_pending) if k.keeps_step_pending else t.TRUE
    s = s.but(
        pstate=If(s.stepping, s.pstate.but(SS=armed).raw, s.pstate.raw),
        mdscr_el1=s.mdscr_el1.but(SS=s.stepping),
    )
    # Break- and watchpoints: user space's registers are switched in, and enabled. Else the guest's OS lock keeps
    # its own break- and watchpoint exceptions away.
    use_hw = s.guest_debug.USE_HW
    locked = s.os_lock if k.emulates_os_lock else t.FALSE
    return s.but(
        mdscr_el1=s.mdscr_el1.but(MDE=Or(use_hw, And(Not(locked), s.mdscr_el1.MDE))),
        debug_ptr_external=Or(use_hw, s.debug_ptr_external),
        debug_dirty=Or(use_hw, s.debug_dirty),
    )


def _enters(s: State, k: Kernel, i: Inputs) -> Term:
    """Interrupts go off, and no request is pending."""
    return And(handling(Exit.NONE)(s, k, i), Not(s.powered_off))


@operation(
    "kvm_arm_setup_debug",
    "debug.c, kvm_arm_setup_debug",
    writes="phase mdcr_el2 preserved_mdscr_el1 preserved_pstate_ss pstate mdscr_el1 debug_ptr_external "
    "debug_dirty hw_mdcr_el2 is_set_up",
    enabled=lambda s, k, i: And(t.boolean(not k.tracks_debug_owner), _enters(s, k, i)),
    c_function="kvm_arm_setup_debug",
)
def setup_debug(s: State, k: Kernel, i: Inputs) -> State:
    """Interrupts go off, no request is pending: prepares the debug registers for the entry (until v6.13)."""
    before = s.mdcr_el2
    s = setup_mdcr_el2(s, k)  # decides TDA from DEBUG_DIRTY before the steps below raise it
    s = choose(tweaks_guest(s, k), tweak_guest_regs(s, k), s)
    # The guest uses debug: its registers must be switched in full.
    s = s.but(debug_dirty=Or(s.debug_dirty, s.mdscr_el1.KDE, s.mdscr_el1.MDE))
    # Under VHE load has written the register already; write it again when the value changed since.
    if k.vhe and k.vhe_writes_changed_mdcr:
        s = s.but(hw_mdcr_el2=If(before.same(s.mdcr_el2), s.hw_mdcr_el2.raw, s.mdcr_el2.raw))
    return s.but(phase=Phase.SETUP, is_set_up=True)


def setup_debug_bug_on(s: State, k: Kernel) -> Term:
    """debug.c, kvm_arm_setup_debug, its BUG_ON: nobody debugs the guest, yet debug_ptr is not the vCPU's own."""
    return And(Not(s.guest_debug.any()), s.debug_ptr_external)


# ---- world switch


@operation(
    "__kvm_vcpu_run enters",
    "hyp/vhe/switch.c, __kvm_vcpu_run_vhe; hyp/nvhe/switch.c, __kvm_vcpu_run",
    writes="phase pstate adjust_pc host_ctxt_mdscr_el1 hw_mdscr_el1 host_ctxt_pmuserenr_el0 mdcr_el2_host "
    "hw_pmuserenr_el0 hw_mdcr_el2 host_debug_state hw_bank hw_pstate guest_pstate_ss hyp_mdcr_el2 hyp_debug_owner "
    "hyp_external_mdscr_el1",
    enabled=lambda s, k, i: _enters(s, k, i) if k.tracks_debug_owner else here(Phase.SETUP)(s, k, i),
)
def run_enters(s: State, k: Kernel, i: Inputs) -> State:
    """The world switch in, interrupts off. Emulated instructions are skipped here."""
    skipped = adjust_pc(part("save host state", s, k), k, i)
    host = s = k.doing("flush_hyp_vcpu", flush_hyp_vcpu)(skipped, k) if k.copies_vcpu else skipped
    if k.copies_vcpu:
        s = hyps_view(s)
    if k.traps_at_load:
        s = part("traps at entry", s, k)
    s = part("restore guest state", s, k)
    if not k.traps_at_load:
        s = part("activate traps", s, k)
    s = part("debug switch to guest", s, k)
    if k.copies_vcpu:
        s = hosts_view(s, host)
    return eret_to_guest(s, s.pstate).but(phase=Phase.IN_GUEST)


@operation(
    "fixup_guest_exit re-enters",
    "hyp/include/hyp/switch.h, __fixup_guest_exit",
    writes="pstate hw_pstate guest_pstate_ss steps",
    enabled=lambda s, k, i: And(s.in_guest, may_execute(s)),
)
def fixup_guest_exit(s: State, k: Kernel, i: Inputs) -> State:
    """An exit that the hypervisor handles alone, with or without skipping the instruction; no new setup_debug."""
    skips = i.flag("skips")
    spsr = PSTATE(If(And(skips, t.boolean(k.skip_advances_step)), s.hw_pstate.but(SS=False).raw, s.hw_pstate.raw))
    s = choose(skips, history.was_done_for(s), s)
    s = s.but(pstate=spsr, steps=If(skips, one_more(s.steps), s.steps))
    return eret_to_guest(s, spsr)


@operation(
    "__kvm_vcpu_run returns",
    "hyp/vhe/switch.c, __kvm_vcpu_run_vhe; hyp/nvhe/switch.c, __kvm_vcpu_run",
    writes="phase exit pstate mdscr_el1 external_mdscr_el1 hw_mdcr_el2 hw_pmuserenr_el0 hw_mdscr_el1 "
    "vcpu_debug_state external_debug_state hw_bank debug_dirty guest_wrote_debug hyp_external_mdscr_el1",
    enabled=lambda s, k, i: And(s.in_guest, _exit_is_possible(s, k, i)),
)
def run_returns_from_guest(s: State, k: Kernel, i: Inputs) -> State:
    """An exception to EL2 that the host must handle, and the world switch out."""
    s = s.but(
        phase=Phase.LOADED if k.tracks_debug_owner else Phase.EXITED,
        exit=i.bits("exit", 3),
        pstate=s.hw_pstate,
    )
    host = s = history.leaves(s)
    if k.copies_vcpu:
        s = hyps_view(s)
    s = part("save guest state", s, k)
    s = part("traps at exit" if k.traps_at_load else "deactivate traps", s, k)
    s = part("restore host state", s, k)
    s = part("debug switch to host", s, k)
    return hosts_view(s, host) if k.copies_vcpu else s


def _exit_is_possible(s: State, k: Kernel, i: Inputs) -> Term:
    """Which exits the hardware can produce now (Arm ARM D2.12; formal/arch)."""
    kind = i.bits("exit", 3)

    def is_(e: Exit) -> Term:
        return Eq(kind, t.const(e, 3))

    to_el2, runs, c = goes_to_el2(s.hw_mdcr_el2), may_execute(s), controls(s)
    # hyp/nvhe/sys_regs.c, pvm_sys_reg_descs: EL2 answers a protected guest's accesses itself, as RAZ/WI.
    kept = s.protected_vm if k.copies_vcpu else FALSE
    return And(
        Implies(Or(is_(Exit.DEBUG_ACCESS), is_(Exit.OS_ACCESS)), Not(kept)),
        Implies(is_(Exit.STEP), And(to_el2, Not(runs))),
        # Everything below is the doing of an instruction, which an active-pending step does not let run.
        Implies(Not(Or(is_(Exit.NONE), is_(Exit.STEP))), runs),
        Implies(is_(Exit.DEBUG), to_el2),
        Implies(is_(Exit.MMIO), t.boolean(not k.skips_mmio_when_decoded)),  # else handle_emulated tells that
        Implies(is_(Exit.DEBUG_ACCESS), traps_to_el2(Access("MDSCR_EL1", True, 1), c)),
        Implies(is_(Exit.OS_ACCESS), traps_to_el2(Access("OSLAR_EL1", True, 1), c)),
    )


@operation(
    "kvm_arm_clear_debug",
    "debug.c, kvm_arm_clear_debug",
    writes="phase mdscr_el1 pstate ss_active_pending debug_ptr_external is_set_up",
    enabled=lambda s, k, i: And(t.boolean(not k.tracks_debug_owner), here(Phase.EXITED)(s, k, i)),
    c_function="kvm_arm_clear_debug",
)
def clear_debug(s: State, k: Kernel, i: Inputs) -> State:
    """Right after the exit, interrupts still off: undoes what kvm_arm_setup_debug did (until v6.13)."""
    cleared = s
    if k.keeps_step_pending:  # the instruction has run, but its step exception has not been taken yet
        pending = Or(s.ss_active_pending, And(s.stepping, Not(s.pstate.SS)))
        cleared = cleared.but(ss_active_pending=pending)
    cleared = restore_guest_debug_regs(cleared, k)
    if k.restores_debug_ptr:
        cleared = choose(s.guest_debug.USE_HW, reset_debug_ptr(cleared), cleared)
    return choose(tweaks_guest(s, k), cleared, s).but(phase=Phase.LOADED, is_set_up=False)


# ---- the exit is handled: interrupts on, preemptible


def skip_instruction(s: State, k: Kernel) -> State:
    """asm/kvm_emulate.h, kvm_incr_pc (before v5.11 kvm_skip_instr at once): the instruction has been emulated."""
    s = history.was_done_for(s).but(steps=one_more(s.steps), exit=Exit.NONE)
    if k.defers_pc_adjustment:
        return s.but(adjust_pc=True)
    if k.skip_advances_step:
        return s.but(pstate=s.pstate.but(SS=False))
    return s


def report_step(s: State, when: Term) -> State:
    """KVM_EXIT_DEBUG for a single-step, noting whether exactly one instruction has run for it."""
    wrong = And(when, s.user_steps, Not(Eq(s.steps, t.const(1, 2))))
    return s.but(wrong_step=Or(s.wrong_step, wrong), steps=If(when, t.const(0, 2), s.steps))


def after_handled_exit(s: State, k: Kernel) -> State:
    """v4.16 to v4.19, handle_exit.c, kvm_arm_handle_step_debug: every handled exit is reported as a step."""
    return report_step(s, s.stepping) if k.fakes_step_exit else s


_OWNS = "debug_dirty debug_owner mdcr_el2 hw_mdcr_el2 guest_wrote_debug guest_uses_debug"
_SKIPS = "steps wrong_step exit adjust_pc pstate guest_pstate_ss"


# ---- a guest that is a hypervisor


def _hypervisor_traps_access(s: State, mdcr: MDCR_EL2) -> Term:
    """Whether a guest hypervisor with this MDCR_EL2 traps the debug or OS register access that is to be handled."""
    asked = Or(And(s.exits_with(Exit.DEBUG_ACCESS), mdcr.TDA), And(s.exits_with(Exit.OS_ACCESS), mdcr.TDOSA), mdcr.TDE)
    return And(s.in_nested, s.exits_with(Exit.DEBUG_ACCESS, Exit.OS_ACCESS), asked)


def forwards_access(s: State, k: Kernel) -> Term:
    """emulate-nested.c, triage_sysreg_trap: the trapped access is not KVM's to handle."""
    if not (k.nests and k.forwards_debug_accesses):
        return FALSE
    return _hypervisor_traps_access(s, s.virtual_mdcr_el2)


def forwards_debug_exception(s: State, k: Kernel) -> Term:
    """handle_exit.c, kvm_handle_guest_debug, first condition; emulate-nested.c, forward_debug_exception."""
    if not (k.nests and k.forwards_debug_exceptions):
        return FALSE
    return And(Not(s.guest_debug.any()), s.in_nested, s.virtual_mdcr_el2.TDE)


def inject_nested(s: State, k: Kernel, i: Inputs) -> State:
    """emulate-nested.c, kvm_inject_nested: an exception for a guest hypervisor whose guest has been running."""
    # What is pending for the guest is committed first; it must not happen to the hypervisor. The switch itself comes
    # between a put and a load, which chooses the traps anew.
    s = put(adjust_pc(s, k, i), k)
    s = history.was_done_for(s).but(pstate=PSTATE(i.bits("vector_pstate")).but(SS=False), nested=False)
    return load(s.but(steps=one_more(s.steps), exit=Exit.NONE), k)


def handled_by_kvm(s: State, k: Kernel) -> State:
    """Notes whether KVM emulates an access that a guest hypervisor has asked for."""
    if not k.nests:
        return s
    wrong = _hypervisor_traps_access(s, s.hypervisor_mdcr_el2)
    return s.but(wrong_access=Or(s.wrong_access, wrong))


def _handling_access(kind: Exit) -> Guard:
    return lambda s, k, i: And(handling(kind)(s, k, i), Not(forwards_access(s, k)))


_SWITCHES = (  # what a put and a load on the same CPU change, when the context changes between them
    "nested pstate guest_pstate_ss steps exit mdcr_el2 hw_mdcr_el2 debug_owner external_mdscr_el1 hw_pmuserenr_el0 "
    "is_set_up guest_uses_debug"
)


@operation(
    "kvm_inject_nested",
    "emulate-nested.c, kvm_inject_nested; from triage_sysreg_trap and wherever else a guest hypervisor gets something",
    writes=f"adjust_pc ss_active_pending guest_ss_pending {_SWITCHES}",
    enabled=lambda s, k, i: And(
        handling(Exit.NONE, Exit.EMULATE, Exit.DEBUG_ACCESS, Exit.OS_ACCESS)(s, k, i),
        s.in_nested,
        Or(s.exits_with(Exit.NONE, Exit.EMULATE), forwards_access(s, k)),
    ),
    preemptible=True,
    exists=nests,
)
def nested_exception(s: State, k: Kernel, i: Inputs) -> State:
    """A trap or an interrupt that a guest hypervisor has asked for: its guest stops, itself runs."""
    return inject_nested(s, k, i)


@operation(
    "kvm_emulate_nested_eret",
    "emulate-nested.c, kvm_emulate_nested_eret",
    writes=f"ss_active_pending guest_ss_pending {_SWITCHES}",
    enabled=lambda s, k, i: And(handling(Exit.EMULATE)(s, k, i), s.in_hypervisor),
    preemptible=True,
    exists=nests,
)
def nested_eret(s: State, k: Kernel, i: Inputs) -> State:
    """An ERET of a guest hypervisor that may enter its guest, emulated between a put and a load."""
    spsr = PSTATE(i.bits("spsr"))
    s = history.sets_pstate_ss(put(s, k).but(pstate=spsr, nested=i.flag("enters_guest")), spsr.SS)
    return load(s.but(steps=one_more(s.steps), exit=Exit.NONE), k)


@operation(
    "kvm_hyp_handle_eret",
    "hyp/vhe/switch.c, kvm_hyp_handle_eret",
    writes="pstate hw_pstate guest_pstate_ss steps",
    enabled=lambda s, k, i: And(s.in_guest, may_execute(s), s.in_hypervisor),
    exists=nests,
)
def hyp_eret(s: State, k: Kernel, i: Inputs) -> State:
    """An ERET of a guest hypervisor to itself or its own user space, without leaving EL2."""
    spsr = PSTATE(i.bits("spsr"))
    s = history.sets_pstate_ss(s.but(pstate=spsr, steps=one_more(s.steps)), spsr.SS)
    return eret_to_guest(s, spsr)


@operation(
    "access_mdcr",
    "sys_regs.c, access_mdcr",
    writes="virtual_mdcr_el2 hypervisor_mdcr_el2 steps exit adjust_pc guest_pstate_ss",
    enabled=lambda s, k, i: And(handling(Exit.EMULATE)(s, k, i), s.in_hypervisor),
    preemptible=True,
    c_function="access_mdcr",
    exists=nests,
)
def access_mdcr(s: State, k: Kernel, i: Inputs) -> State:
    """A guest hypervisor writes its MDCR_EL2; more counters than there are count as all (HPMN is UNKNOWN then)."""
    value, most = MDCR_EL2(i.bits("value")), s.nr_pmu_counters
    value = value.but(HPMN=If(t.ule(value.HPMN, most), value.HPMN, most))
    return after_handled_exit(skip_instruction(writes_virtual_mdcr(s, value), k), k)


@operation(
    "kvm_handle_guest_debug",
    "handle_exit.c, kvm_handle_guest_debug",
    writes=f"ss_active_pending wrong_step wrong_route adjust_pc {_SWITCHES}",
    enabled=handling(Exit.STEP, Exit.DEBUG),
    preemptible=True,
    c_function="kvm_handle_guest_debug",
)
def handle_guest_debug(s: State, k: Kernel, i: Inputs) -> State:
    """A debug exception came to EL2: KVM_RUN will return with KVM_EXIT_DEBUG, or a guest hypervisor gets it."""
    return handles_debug_exception(s, k, i, forwards_debug_exception(s, k))


def handles_debug_exception(s: State, k: Kernel, i: Inputs, forwarded: Term) -> State:
    """What becomes of a debug exception; ``forwarded`` says whether the guest hypervisor gets it."""
    stepped, before = s.exits_with(Exit.STEP), s
    if k.tracks_debug_owner:  # so that vcpu_put notes that no step is on its way
        s = s.but(pstate=If(stepped, s.pstate.but(SS=True).raw, s.pstate.raw))
    elif k.keeps_step_pending:
        s = s.but(ss_active_pending=And(s.ss_active_pending, Not(stepped)))
    s = report_step(s, stepped).but(exit=Exit.NONE, steps=0)
    if not k.nests:
        return s
    # With v6.14: unless user space debugs, the exception is the guest hypervisor's, if that has asked for it.
    injected = inject_nested(before, k, i).but(guest_ss_pending=before.guest_ss_pending)  # nobody steps this guest
    s = choose(forwarded, injected, s)
    return s.but(wrong_route=Or(before.wrong_route, Eq(forwarded, before.user_debugs)))


@operation(
    "trap_debug_regs",
    "sys_regs.c, trap_debug_regs",
    writes=f"mdscr_el1 guest_mdscr_el1 {_OWNS} wrong_access {_SKIPS}",
    enabled=_handling_access(Exit.DEBUG_ACCESS),
    preemptible=True,
    c_function="trap_debug_regs",
)
def trap_debug_regs(s: State, k: Kernel, i: Inputs) -> State:
    """A trapped write or read of MDSCR_EL1; a write (from v6.14 a read too) makes the guest a user of the registers."""
    value, writes = i.bits("value"), i.flag("is_write")
    s = choose(writes, history.sets_mdscr(s.but(mdscr_el1=value), value), s)
    s = history.accesses_debug(handled_by_kvm(s, k), writes)
    s = set_guest_ownership(s, k) if k.tracks_debug_owner else s.but(debug_dirty=Or(writes, s.debug_dirty))
    return after_handled_exit(skip_instruction(s, k), k)


def _handling_bank_access(s: State, k: Kernel, i: Inputs) -> Term:
    guard = _handling_access(Exit.DEBUG_ACCESS)(s, k, i)
    if not k.nests or k.forwards_last_watchpoint:
        return guard
    index = i.index("index")  # v6.6 to v6.19: the table of what a guest hypervisor traps ends with DBGWCR14_EL1
    return Or(guard, And(handling(Exit.DEBUG_ACCESS)(s, k, i), Eq(index, t.const(-1, t.width(index)))))


@operation(
    "trap_bvr, trap_bcr, trap_wvr, trap_wcr",
    "sys_regs.c, trap_bvr and its three siblings, reg_to_dbg; from v6.14 trap_dbg_wb_reg",
    writes=f"vcpu_debug_state guest_bank {_OWNS} wrong_access {_SKIPS}",
    enabled=_handling_bank_access,
    preemptible=True,
)
def trap_bank(s: State, k: Kernel, i: Inputs) -> State:
    """A trapped write of a break- or watchpoint register goes to its place in memory."""
    index, value = i.index("index"), i.bits("value")
    s = history.accesses_debug(history.sets_bank(handled_by_kvm(s, k), index, value), t.TRUE)
    s = s.but(vcpu_debug_state=t.store(s.vcpu_debug_state, slot(index, k), value))
    s = set_guest_ownership(s, k) if k.tracks_debug_owner else s.but(debug_dirty=True)
    return after_handled_exit(skip_instruction(s, k), k)


@operation(
    "trap_oslar_el1",
    "sys_regs.c, trap_oslar_el1; before v5.18 the write is ignored; from v6.14 kvm_debug_handle_oslar in debug.c",
    writes=f"oslsr_el1 guest_os_lock wrong_access {_SKIPS} {_LOADS} {_PUTS}",
    enabled=_handling_access(Exit.OS_ACCESS),
    preemptible=True,
    c_function="trap_oslar_el1",
)
def trap_oslar(s: State, k: Kernel, i: Inputs) -> State:
    """A trapped write of OSLAR_EL1 locks or unlocks the guest's OS lock, in memory only."""
    s = writes_os_lock(handled_by_kvm(s, k), k, i.flag("locks"))
    if k.emulates_os_lock:
        s = s.but(oslsr_el1=s.oslsr_el1.but(OSLK=i.flag("locks")))
    if k.tracks_debug_owner:  # preemption off: the owner is decided anew
        s = load(put(s, k), k)
    return after_handled_exit(skip_instruction(s, k), k)


@operation(
    "handle_exit emulates",
    "handle_exit.c, handle_trap_exceptions; kvm_inject_undefined and the like",
    writes="powered_off " + _SKIPS,
    enabled=handling(Exit.EMULATE),
    preemptible=True,
)
def handle_emulated(s: State, k: Kernel, i: Inputs) -> State:
    """Any other trapped instruction is emulated and skipped, or answered with an exception for the guest.

    Before v5.0 (0d640732dbeb) so is an access that user space completes, as soon as it is decoded.
    """
    decoded = skip_instruction(s, k).but(exit=Exit.MMIO)
    s = s.but(powered_off=i.flag("powers_off"))  # PSCI CPU_OFF by SMC, which is skipped like any other
    skipped = skip_instruction(s, k)
    if not k.defers_pc_adjustment:  # an exception is entered at once, and its entry clears SS in every release
        entered = PSTATE(i.bits("exception_pstate")).but(SS=False)
        taken = history.was_done_for(s).but(pstate=entered, steps=skipped.steps, exit=Exit.NONE)
        skipped = choose(i.flag("takes_exception"), taken, skipped)
    handled = after_handled_exit(skipped, k)
    return choose(i.flag("asks_user"), decoded, handled) if k.skips_mmio_when_decoded else handled


@operation(
    "handle_exit repairs",
    "handle_exit.c; mmu.c, kvm_handle_guest_abort",
    writes="exit steps wrong_step",
    enabled=handling(Exit.FAULT),
    preemptible=True,
)
def handle_fault(s: State, k: Kernel, i: Inputs) -> State:
    """A fault is repaired; the instruction has not run and runs again."""
    return after_handled_exit(s.but(exit=Exit.NONE), k)


@operation(
    "kvm_handle_mmio_return",
    "mmio.c, kvm_handle_mmio_return, at the start of KVM_RUN",
    writes="in_run " + _SKIPS,
    enabled=lambda s, k, i: And(
        s.at(Phase.READY), Not(s.in_run), Or(t.boolean(not k.completes_mmio_once), s.exits_with(Exit.MMIO))
    ),
)
def handle_mmio_return(s: State, k: Kernel, i: Inputs) -> State:
    """User space has completed the access; KVM_RUN, before it loads the vCPU, skips the instruction.

    Before v5.3 (2113c5f62b74) it does so whenever run->exit_reason says so, which user space may write.
    """
    completed = s.but(exit=Exit.NONE) if k.skips_mmio_when_decoded else skip_instruction(s, k)
    return after_handled_exit(completed, k).but(in_run=True)


def reset_vcpu(s: State, k: Kernel) -> State:
    """reset.c, kvm_reset_vcpu: general and system registers; debugging by user space goes on."""
    index_bits = 2 + (k.breakpoints - 1).bit_length()
    empty = t.const_array(t.const(0, 64), index_bits)
    bank = empty
    if not k.indexes_trapped_banks:  # reset_bvr and its siblings clear slot 0 only
        bank = s.vcpu_debug_state
        for kind in range(4):
            bank = t.store(bank, t.const(kind << (index_bits - 2), index_bits), t.const(0, 64))
    if k.nests:
        everything = MDCR_EL2.of(HPMN=s.nr_pmu_counters)
        s = s.but(
            nested=False,
            virtual_mdcr_el2=everything if k.resets_virtual_hpmn else MDCR_EL2.of(),
        )
    el2 = s.has_nv if k.nests else FALSE
    s = history.is_reset(s, empty, s.nr_pmu_counters if k.nests else None)
    return s.but(
        pstate=If(el2, t.const(RESET_PSTATE_EL2, 64), t.const(RESET_PSTATE, 64)),
        mdscr_el1=MDSCR_EL1.of(),
        oslsr_el1=t.const(OSLM_IMPLEMENTED if k.emulates_os_lock else 0, 64),
        vcpu_debug_state=bank,
    )


_RESETS = (
    "pstate guest_pstate_ss mdscr_el1 guest_mdscr_el1 oslsr_el1 guest_os_lock vcpu_debug_state guest_bank nested "
    "virtual_mdcr_el2 hypervisor_mdcr_el2"
)


@operation(
    "KVM_ARM_VCPU_INIT",
    "reset.c, kvm_reset_vcpu, from kvm_arch_vcpu_ioctl_vcpu_init",
    writes=_RESETS,
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
)
def vcpu_init(s: State, k: Kernel, i: Inputs) -> State:
    """User space resets a vCPU that is not running."""
    return reset_vcpu(s, k)


@operation(
    "PSCI CPU_OFF",
    "psci.c, kvm_arm_vcpu_power_off, from handle_hvc",
    writes="powered_off",
    enabled=handling(Exit.NONE),
    preemptible=True,
)
def psci_cpu_off(s: State, k: Kernel, i: Inputs) -> State:
    """The guest turns this vCPU off by an HVC, which needs no skip; it sleeps until it is turned on again."""
    return s.but(powered_off=True)


@operation(
    "KVM_SET_MP_STATE",
    "arm.c, kvm_arch_vcpu_ioctl_set_mpstate",
    writes="powered_off",
    enabled=user_space_has_vcpu,
    actor=Actor.USER,
)
def set_mp_state(s: State, k: Kernel, i: Inputs) -> State:
    """User space turns a vCPU off or on that is not running."""
    return s.but(powered_off=i.flag("stopped"))


@operation(
    "kvm_reset_vcpu",
    "reset.c, kvm_reset_vcpu, from check_vcpu_requests (PSCI CPU_ON)",
    writes=f"{_RESETS} powered_off adjust_pc {_LOADS} {_PUTS}",
    enabled=lambda s, k, i: And(handling(Exit.NONE)(s, k, i), s.powered_off),
)
def vcpu_reset_request(s: State, k: Kernel, i: Inputs) -> State:
    """Another vCPU of the guest turns this one on: put, reset, load, preemption disabled; starts at a new PC."""
    return load(reset_vcpu(put(s, k), k).but(adjust_pc=False, powered_off=False), k)


OPERATIONS: tuple[Operation, ...] = (
    cpu_boot,
    init_debug,
    vcpu_create,
    vcpu_init_debug,
    vcpu_load,
    vcpu_put,
    run_returns,
    setup_debug,
    run_enters,
    fixup_guest_exit,
    run_returns_from_guest,
    clear_debug,
    handle_guest_debug,
    trap_debug_regs,
    trap_bank,
    trap_oslar,
    nested_exception,
    nested_eret,
    hyp_eret,
    access_mdcr,
    handle_emulated,
    handle_fault,
    handle_mmio_return,
    guest_executes,
    guest_writes_mdscr,
    guest_writes_bank,
    guest_writes_oslar,
    set_guest_debug,
    set_mdscr,
    set_pstate,
    set_el2_registers,
    set_nr_counters,
    set_oslsr,
    set_bank,
    vcpu_init,
    psci_cpu_off,
    set_mp_state,
    vcpu_reset_request,
    host_writes_debug,
    host_writes_pmuserenr,
)
