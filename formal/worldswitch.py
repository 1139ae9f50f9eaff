"""The world switch, part by part: the traps, MDSCR_EL1 and the debug banks, into the guest and out again.

Operations are made of these parts (``formal/transitions.py``). Each is what one C function of the hypervisor does to
the modelled state (``formal/kernel/compare/hypervisor.py`` says which); a tree whose function differs brings its own
in its place. Places are below arch/arm64/kvm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from formal.arch.registers import MDCR_EL2, PMUSERENR_EL0
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import And, If, Not
from formal.ownership import restore_owned_mdscr, save_owned_mdscr, switch_bank_to_guest, switch_bank_to_host
from formal.state import State

# ---- traps


def activate_traps(s: State, k: Kernel) -> State:
    """hyp/include/hyp/switch.h, __activate_traps_common: from load under VHE, at every entry under nVHE."""
    # EL0 accesses to the PMU must get past PMUSERENR_EL0 to reach the trap to EL2.
    if k.saves_host_pmuserenr:
        s = s.but(host_ctxt_pmuserenr_el0=s.hw_pmuserenr_el0)
    if k.sets_pmuserenr:
        s = s.but(hw_pmuserenr_el0=PMUSERENR_EL0.of(ER=True, CR=True, SW=True, EN=True))
    if _mdcr_is_load_debugs(k):
        return s
    if k.saves_host_mdcr:
        s = s.but(mdcr_el2_host=s.hw_mdcr_el2)
    return s.but(hw_mdcr_el2=s.mdcr_el2)


def _mdcr_is_load_debugs(k: Kernel) -> bool:
    """Whether kvm_vcpu_load_debug and kvm_vcpu_put_debug save and restore the host's MDCR_EL2: VHE from v6.17 on."""
    return k.tracks_debug_owner and k.vhe and k.vhe_saves_host_mdcr_first


def deactivate_traps(s: State, k: Kernel) -> State:
    """hyp/include/hyp/switch.h, __deactivate_traps_common; before v5.15 in vhe/ and nvhe/switch.c."""
    if _mdcr_is_load_debugs(k):
        mdcr = s.hw_mdcr_el2
    elif k.saves_host_mdcr:
        mdcr = s.mdcr_el2_host
    elif not k.traps_profiling:  # v4.9 and before: HPMN and nothing else
        mdcr = MDCR_EL2.of(HPMN=s.hw_mdcr_el2.HPMN)
    elif k.vhe:  # deactivate_traps_vhe_put: the guest's value without its traps, except TPMS
        keep = t.const(MDCR_EL2.mask("HPMN", "E2PB", "TPMS"), 64)
        mdcr = MDCR_EL2(s.hw_mdcr_el2.raw & keep)
    else:  # nvhe/switch.c, __deactivate_traps: the guest's HPMN, and the buffers always given to EL1
        mdcr = MDCR_EL2.of(HPMN=s.hw_mdcr_el2.HPMN, E2PB=3, E2TB=3 if k.returns_trace_buffer else 0)
    s = s.but(hw_mdcr_el2=mdcr)
    if not k.sets_pmuserenr:
        return s
    return s.but(hw_pmuserenr_el0=s.host_ctxt_pmuserenr_el0 if k.saves_host_pmuserenr else PMUSERENR_EL0.of())


def keeps_traps(s: State, k: Kernel) -> State:
    """vhe/switch.c, __activate_traps and __deactivate_traps: under VHE they leave what is modelled as load made it."""
    return s


# ---- MDSCR_EL1


def save_host_state(s: State, k: Kernel) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_save_common_state on the host's context."""
    return s.but(host_ctxt_mdscr_el1=s.hw_mdscr_el1)


def restore_guest_state(s: State, k: Kernel) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_restore_common_state on the guest's context."""
    return restore_owned_mdscr(s) if k.tracks_debug_owner else s.but(hw_mdscr_el1=s.mdscr_el1)


def save_guest_state(s: State, k: Kernel) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_save_common_state on the guest's context."""
    return save_owned_mdscr(s) if k.tracks_debug_owner else s.but(mdscr_el1=s.hw_mdscr_el1)


def restore_host_state(s: State, k: Kernel) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_restore_common_state on the host's context."""
    return s.but(hw_mdscr_el1=s.host_ctxt_mdscr_el1)


# ---- break- and watchpoint registers


def debug_switch_to_guest(s: State, k: Kernel) -> State:
    """hyp/include/hyp/debug-sr.h, __debug_switch_to_guest_common: only if DEBUG_DIRTY."""
    if k.tracks_debug_owner:
        return switch_bank_to_guest(s)
    return s.but(
        host_debug_state=If(s.debug_dirty, s.hw_bank, s.host_debug_state),
        hw_bank=If(s.debug_dirty, s.active_bank, s.hw_bank),
    )


def debug_switch_to_host(s: State, k: Kernel) -> State:
    """hyp/include/hyp/debug-sr.h, __debug_switch_to_host_common: stores into the bank that debug_ptr points to."""
    if k.tracks_debug_owner:
        return switch_bank_to_host(s)
    mine = And(s.debug_dirty, Not(s.debug_ptr_external))
    users = And(s.debug_dirty, s.debug_ptr_external)
    return s.but(
        vcpu_debug_state=If(mine, s.hw_bank, s.vcpu_debug_state),
        external_debug_state=If(users, s.hw_bank, s.external_debug_state),
        hw_bank=If(s.debug_dirty, s.host_debug_state, s.hw_bank),
        debug_dirty=False,
    )


PARTS: Mapping[str, Callable[[State, Kernel], State]] = {
    "activate traps": activate_traps,
    "deactivate traps": deactivate_traps,
    "traps at entry": keeps_traps,
    "traps at exit": keeps_traps,
    "save host state": save_host_state,
    "restore guest state": restore_guest_state,
    "debug switch to guest": debug_switch_to_guest,
    "save guest state": save_guest_state,
    "restore host state": restore_host_state,
    "debug switch to host": debug_switch_to_host,
}


def part(name: str, s: State, k: Kernel) -> State:
    """One of ``PARTS``, or what the tree does instead."""
    return k.doing(name, PARTS[name])(s, k)
