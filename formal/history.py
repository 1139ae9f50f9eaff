"""What the guest, user space and the host have done: the ghosts that claims compare with, one function for each act.

An act is an instruction of the guest, an ioctl, a write of the host's own, a load of the vCPU or its way into and out
of the guest. What follows from it is the architecture's. No function here is told which kernel runs, and none reads a
variable of the kernel's: what KVM makes of an act cannot change what it was.

Where a release keeps no state for an act (``formal/state.py``), the act leaves no trace.
"""

from __future__ import annotations

from typing import Any

from formal.arch.exceptions import eret_ss
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, MDSCR_EL1
from formal.logic import terms as t
from formal.logic.terms import FALSE, And, If, Not, Or, Term
from formal.state import State


def _noted(s: State, **changes: Any) -> State:
    return s.but(**{name: value for name, value in changes.items() if name in s.values})


# ---- user space


def user_sets_debug(s: State, control: KVM_GUESTDBG, bank: Term) -> State:
    """KVM_SET_GUEST_DEBUG: without ENABLE debugging ends, with USE_HW the registers are taken over.

    Other flags than the four are refused (Documentation/virt/kvm/api.rst; EINVAL).
    """
    valid = control.only("ENABLE", "SINGLESTEP", "USE_SW_BP", "USE_HW")
    on, off = And(valid, control.ENABLE), And(valid, Not(control.ENABLE))
    return s.but(
        user_debug=If(on, control.raw, If(off, t.const(0, 64), s.user_debug.raw)),
        user_bank=If(And(on, control.USE_HW), bank, s.user_bank),
    )


# ---- the host


def host_sets_debug(s: State, mdscr: Term, bank: Term) -> State:
    """The host writes its own MDSCR_EL1, break- and watchpoint registers."""
    return s.but(host_mdscr_el1=mdscr, host_bank=bank)


# ---- the guest's registers: the guest writes them, or user space for it


def sets_mdscr(s: State, value: Term) -> State:
    """MDSCR_EL1 is written."""
    return s.but(guest_mdscr_el1=value)


def sets_bank(s: State, index: Term, value: Term) -> State:
    """A break- or watchpoint register is written."""
    return s.but(guest_bank=t.store(s.guest_bank, index, value))


def sets_os_lock(s: State, locks: Term) -> State:
    """The OS lock is locked or unlocked, by a guest that has one."""
    return s.but(guest_os_lock=locks)


def sets_pstate_ss(s: State, value: Term) -> State:
    """PSTATE.SS is set or cleared by who may: user space, or an ERET of a guest hypervisor that KVM emulates."""
    return s.but(guest_pstate_ss=value)


def sets_hypervisors_mdcr(s: State, value: MDCR_EL2) -> State:
    """A guest hypervisor's MDCR_EL2 is written."""
    return s.but(hypervisor_mdcr_el2=value)


def is_reset(s: State, bank: Term, counters: Term | None) -> State:
    """The vCPU is reset, with ``bank`` all zero; a guest hypervisor has all of its event counters."""
    if counters is not None:
        s = sets_hypervisors_mdcr(s, MDCR_EL2.of(HPMN=counters))
    return s.but(guest_pstate_ss=False, guest_mdscr_el1=MDSCR_EL1.of(), guest_os_lock=False, guest_bank=bank)


# ---- the guest's use of its debug registers


def is_loaded(s: State) -> State:
    """The vCPU is loaded: a guest with debug exceptions enabled uses its debug registers, another not yet."""
    return _noted(s, guest_uses_debug=Or(s.guest_mdscr_el1.KDE, s.guest_mdscr_el1.MDE))


def accesses_debug(s: State, writes: Term) -> State:
    """The guest has left to access a debug register."""
    if "guest_wrote_debug" in s.values:
        return s.but(guest_wrote_debug=Or(writes, s.guest_wrote_debug))
    return s.but(guest_uses_debug=True)


def leaves(s: State) -> State:
    """The guest leaves, for whatever reason (``accesses_debug`` is noted when that is known)."""
    return _noted(s, guest_wrote_debug=False)


# ---- the guest steps itself: PSTATE.SS as it were if nobody else debugged (Arm ARM D2.12)


def _hypervisors_mdcr(s: State) -> MDCR_EL2:
    """MDCR_EL2 as the guest's debug exceptions know it: TDE is a guest hypervisor's, if one traps them."""
    return MDCR_EL2.of(TDE=And(s.nested, s.hypervisor_mdcr_el2.TDE) if s.may_nest else FALSE)


def enters(s: State) -> State:
    """An ERET has led to the guest, with PSTATE as ``hw_pstate`` has it but for SS (D2.12.4)."""
    spsr = s.hw_pstate.but(SS=s.guest_pstate_ss)
    return s.but(guest_pstate_ss=eret_ss(_hypervisors_mdcr(s), s.guest_mdscr_el1, s.guest_os_lock, spsr))


def executes(s: State, asks: Term) -> State:
    """The guest has executed an instruction. SS is clear then; only an ERET that ``asks`` for a step sets it, where
    the guest's own stepping is on (D2.12.3, D2.12.4)."""
    own = And(s.guest_mdscr_el1.SS, Not(_hypervisors_mdcr(s).TDE), Not(s.guest_os_lock))
    return s.but(guest_pstate_ss=And(asks, own))


def was_done_for(s: State) -> State:
    """An instruction of the guest has been emulated, or an exception taken for it: either clears SS."""
    return s.but(guest_pstate_ss=False)
