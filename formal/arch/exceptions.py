"""Debug exceptions: who takes them, when they are enabled, and the software-step state machine.

The guest runs in AArch64 at EL0 or EL1 (``pstate.EL``), with EL2 present, AArch64 and enabled, in Non-debug state.
``locked`` is OSLSR_EL1.OSLK (or the OS double lock). ``tge`` is HCR_EL2.TGE, which a hypervisor leaves at 0 while a
guest runs. All functions build Boolean terms. Not modelled: AArch32, where software step is inactive if the target
uses it, and step of an instruction that EL2 or a debugger emulates (there is none: emulation is the kernel's matter).

Source: Arm ARM (DDI 0487), chapter D2, sections "Routing debug exceptions", "The debug exception enable controls", "The
effect of powerdown on debug exceptions" and "Software Step exceptions" (their numbers differ between issues).
"""

from __future__ import annotations

from dataclasses import dataclass

from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PSTATE
from formal.logic import terms as t
from formal.logic.terms import FALSE, And, Eq, Implies, Not, Or, Term


def goes_to_el2(mdcr: MDCR_EL2, tge: Term = FALSE) -> Term:
    """Whether debug exceptions from EL0 and EL1 are taken to EL2: TDE is 1, or acts as 1 because of TGE."""
    return Or(mdcr.TDE, tge)


def enabled(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, pstate: PSTATE, tge: Term = FALSE) -> Term:
    """Whether debug exceptions other than BRK are enabled where the guest is.

    Never while the OS lock is locked: a lock taken by the guest would silence the host's exceptions too. Always from an
    Exception level below the target. From the target itself (EL1 to EL1) only with KDE set and PSTATE.D clear.
    """
    at_target = And(Eq(pstate.EL, t.const(1, 2)), Not(goes_to_el2(mdcr, tge)))
    return And(Not(locked), Implies(at_target, And(mdscr.KDE, Not(pstate.D))))


def breakpoint_enabled(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, pstate: PSTATE, tge: Term = FALSE) -> Term:
    """Whether breakpoint and watchpoint exceptions can be taken: enabled here, and MDE is 1."""
    return And(mdscr.MDE, enabled(mdcr, mdscr, locked, pstate, tge))


@dataclass(frozen=True)
class StepState:
    """The states of software step; exactly one holds."""

    inactive: Term  # instructions execute normally
    active_not_pending: Term  # one instruction executes, and clears PSTATE.SS
    active_pending: Term  # a Software Step exception is taken before the next instruction


def step_state(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, pstate: PSTATE, tge: Term = FALSE) -> StepState:
    """The state of the step machine: inactive unless MDSCR_EL1.SS is 1 and debug exceptions are enabled here."""
    active = And(mdscr.SS, enabled(mdcr, mdscr, locked, pstate, tge))
    return StepState(Not(active), And(active, pstate.SS), And(active, Not(pstate.SS)))


def may_execute(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, pstate: PSTATE, tge: Term = FALSE) -> Term:
    """Whether the next instruction executes, rather than a Software Step exception being taken before it."""
    return Not(step_state(mdcr, mdscr, locked, pstate, tge).active_pending)


def retires_ss(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, pstate: PSTATE, tge: Term = FALSE) -> Term:
    """PSTATE.SS after an instruction: cleared if the machine was active-not-pending in ``pstate``, else as it was."""
    return And(pstate.SS, step_state(mdcr, mdscr, locked, pstate, tge).inactive)


def eret_ss(mdcr: MDCR_EL2, mdscr: MDSCR_EL1, locked: Term, spsr: PSTATE, tge: Term = FALSE) -> Term:
    """PSTATE.SS after an exception return from EL2 to the guest with ``spsr`` in SPSR_EL2.

    SPSR.SS if MDSCR_EL1.SS is 1, debug exceptions are disabled where the ERET executes, and enabled where it goes;
    else 0. At EL2 they are disabled: it is above the target, or, with TDE, it is the target and a hypervisor enters a
    guest with PSTATE.D set. ``eret_ss_from`` is the general rule.
    """
    return eret_ss_from(FALSE, enabled(mdcr, mdscr, locked, spsr, tge), mdscr, spsr)


def eret_ss_from(enabled_at_source: Term, enabled_at_destination: Term, mdscr: MDSCR_EL1, spsr: PSTATE) -> Term:
    """PSTATE.SS after an exception return from any Exception level."""
    return And(mdscr.SS, Not(enabled_at_source), enabled_at_destination, spsr.SS)
