"""Restrictions of the environment under which variants of claims hold: a name, and what a step must satisfy."""

from __future__ import annotations

from collections.abc import Callable

from formal.arch.registers import MDCR_EL2
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import TRUE, And, Eq, Implies, Not, Or, Term
from formal.operations import Applied
from formal.state import State
from formal.vocabulary import Precondition, taken_from_guest, uses_debug


def rebuilt_mdcr(hpmn: Term, k: Kernel) -> MDCR_EL2:
    """What nVHE before v5.15 takes for the host's MDCR_EL2."""
    return MDCR_EL2.of(HPMN=hpmn, E2PB=3 if k.traps_profiling else 0, E2TB=3 if k.returns_trace_buffer else 0)


def _unless(op_name: str, condition: Callable[[State, State], Term]) -> Callable[[Applied, Kernel], Term]:
    def allows(step: Applied, k: Kernel) -> Term:
        return condition(step.before, step.after) if step.operation.name == op_name else TRUE

    return allows


def _high_half_clear(step: Applied, k: Kernel) -> Term:
    if "guest_mdscr_el1" not in step.operation.writes:
        return TRUE
    return Eq(t.extract(step.after.guest_mdscr_el1.raw, 63, 32), t.const(0, 32))


def _first_number(step: Applied, k: Kernel) -> Term:
    index = step.inputs.get("index")
    if index is None:
        return TRUE
    number_bits = t.width(index) - 2
    return Eq(t.extract(index, number_bits - 1, 0), t.const(0, number_bits))


_EMULATES = (
    "trap_debug_regs",
    "trap_bvr, trap_bcr, trap_wvr, trap_wcr",
    "trap_oslar_el1",
    "handle_exit emulates",
    "kvm_handle_mmio_return",
    "fixup_guest_exit re-enters",
)


def _never_debugged(step: Applied, k: Kernel) -> Term:
    return Not(step.after.user_debugs)


def _one_debugger(step: Applied, k: Kernel) -> Term:
    return Not(And(step.after.guest_pstate_ss, step.after.user_debugs))


def _lock_is_not_stepped(step: Applied, k: Kernel) -> Term:
    before, after = step.before, step.after
    return Not(
        And(after.guest_os_lock, Or(after.guest_pstate_ss, And(before.guest_pstate_ss, Not(before.guest_os_lock))))
    )


def _nothing_emulated_is_stepped(step: Applied, k: Kernel) -> Term:
    done_for = step.operation.name in _EMULATES
    return Implies(step.before.guest_pstate_ss, step.after.guest_pstate_ss) if done_for else TRUE


MDSCR_IN_32_BITS = Precondition(
    "mdscr_in_32_bits", "neither the guest nor user space sets a bit of MDSCR_EL1 above bit 31", _high_half_clear
)

NO_RETURN_WITH_SKIP_PENDING = Precondition(
    "no_return_with_skip_pending",
    "KVM_RUN does not return to user space between the emulation of a stepped instruction and the next entry",
    _unless("kvm_arch_vcpu_ioctl_run returns", lambda before, after: Not(And(before.user_steps, before.adjust_pc))),
)

NO_RESET_WITH_SKIP_PENDING = Precondition(
    "no_reset_with_skip_pending",
    "no other vCPU turns a stepped vCPU on again before the instruction that turned it off is stepped over",
    _unless("kvm_reset_vcpu", lambda before, after: Not(And(before.user_steps, before.adjust_pc))),
)

STEPPING_ENDS_WITH_DEBUGGING = Precondition(
    "stepping_ends_with_debugging",
    "user space ends single-stepping only by ending debugging altogether",
    _unless(
        "KVM_SET_GUEST_DEBUG",
        lambda before, after: Implies(And(before.user_steps, Not(after.user_steps)), Not(after.user_debugs)),
    ),
)

CPUS_BOOT_ALIKE = Precondition(
    "cpus_boot_alike",
    "every CPU boots with the same number of event counters for the guest, say 6",
    initially=lambda s, k: Eq(s.boot_mdcr_el2.HPMN, t.const(6, 5)),
)

BOOT_GIVES_ALL_COUNTERS = Precondition(
    "boot_gives_all_counters",
    "the boot code gives the guest every event counter of the CPU (HPMN is PMCR_EL0.N), as the kernel's own does",
    initially=lambda s, k: Eq(s.boot_mdcr_el2.HPMN, s.event_counters),
)

UP_TO_PMUV3P7 = Precondition(
    "up_to_pmuv3p7", "no CPU has PMUv3p8 or later (PMUVer is below 8)", initially=lambda s, k: Not(s.pmuv3p8)
)

MDSCR_LEFT_ALONE = Precondition(
    "mdscr_left_alone",
    "the guest does not write MDSCR_EL1 while user space debugs it, or while it has locked its OS lock",
    _unless(
        "trap_debug_regs",
        lambda before, after: Or(Not(taken_from_guest(before)), before.guest_mdscr_el1.same(after.guest_mdscr_el1)),
    ),
)

DEBUG_LEFT_ALONE = Precondition(
    "debug_left_alone",
    "the guest writes none of its debug registers (from v6.14 on: accesses none, and enables no debug exceptions)",
    lambda step, k: Not(uses_debug(step.after, k)),
)

PERF_KEEPS_OFF = Precondition(
    "perf_keeps_off",
    "the host's perf driver leaves PMUSERENR_EL0 alone while a vCPU is loaded",
    _unless("the host writes PMUSERENR_EL0", lambda before, after: before.idle),
)

INIT_ONLY_AT_BOOT = Precondition(
    "init_only_at_boot",
    "hyp initialisation runs once after each boot of a CPU, before any vCPU is loaded there, and never again",
    _unless("kvm_arm_init_debug", lambda before, after: Not(before.kvm_ready)),
)

_MOVES = ("kvm_inject_nested", "kvm_emulate_nested_eret", "kvm_hyp_handle_eret")

STEPPED_WITHOUT_ERET = Precondition(
    "stepped_without_eret",
    "user space does not step a guest hypervisor over an ERET, nor its guest into it",
    lambda step, k: Not(step.before.user_steps) if step.operation.name in _MOVES else TRUE,
)

NEVER_DEBUGGED = Precondition("never_debugged", "user space never debugs the guest", _never_debugged)

NEVER_STEPPED = Precondition(
    "never_stepped", "user space never single-steps the guest", lambda step, k: Not(step.after.user_steps)
)

ONE_DEBUGGER = Precondition(
    "one_debugger",
    "while user space debugs the guest, the guest does not step itself: its PSTATE.SS is clear",
    _one_debugger,
)

LOCK_NOT_STEPPED = Precondition(
    "lock_not_stepped",
    "the guest locks its OS lock by no instruction that it steps itself, and does not step itself while it is locked",
    _lock_is_not_stepped,
)

NO_EMULATED_STEP = Precondition(
    "no_emulated_step",
    "the guest does not step itself over an instruction that KVM emulates, or answers with an exception",
    _nothing_emulated_is_stepped,
)

FIRST_BREAKPOINT_ONLY = Precondition(
    "first_breakpoint_only",
    "the guest, and user space for it, use breakpoint 0 and watchpoint 0 only",
    _first_number,
)

BOOT_VALUE_AS_REBUILT = Precondition(
    "boot_value_as_rebuilt",
    "the boot code leaves nothing in MDCR_EL2 but HPMN and E2PB=3 (v4.9: no E2PB; v5.13, v5.14: E2TB=3 too)",
    initially=lambda s, k: s.boot_mdcr_el2.same(rebuilt_mdcr(s.boot_mdcr_el2.HPMN, k)),
)
